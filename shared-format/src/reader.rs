//! Reads numbers and slices from bytes that nobody checked yet; every step can fail, none can panic.

use alloc::vec::Vec;

use crate::error::FormatError;

/// A place in bytes from outside.
pub(crate) struct Reader<'a> {
    part: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte; `part` names the bytes in errors.
    pub(crate) const fn new(part: &'static str, bytes: &'a [u8]) -> Self {
        Self { part, rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(FormatError::Truncated {
            part: self.part,
            found: self.rest.len(),
            wanted: length,
        })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(FormatError::Truncated {
            part: self.part,
            found: self.rest.len(),
            wanted: N,
        })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Reads an unsigned LEB128 number of at most 32 bits.
    pub(crate) fn varint(&mut self) -> Result<u32, FormatError> {
        let mut number = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(number).map_err(|_| self.too_long(number));
            }
        }
        Err(self.too_long(number))
    }

    fn too_long(&self, number: u64) -> FormatError {
        FormatError::TooLarge { part: self.part, size: number, size_max: u64::from(u32::MAX) }
    }
}

/// Appends an unsigned LEB128 number.
pub(crate) fn push_varint(out: &mut Vec<u8>, mut number: u32) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0x7f);
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_reads_back() {
        for number in [0, 1, 127, 128, 300, 1 << 21, u32::MAX] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, number);
            let mut reader = Reader::new("test", &bytes);
            assert_eq!(reader.varint(), Ok(number));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_varint_beyond_32_bits_is_refused() {
        let result = Reader::new("test", &[0xff, 0xff, 0xff, 0xff, 0x7f]).varint();
        assert!(matches!(result, Err(FormatError::TooLarge { part: "test", .. })));
        let result = Reader::new("test", &[0x80]).varint();
        assert!(matches!(result, Err(FormatError::Truncated { part: "test", .. })));
    }
}
