//! The frame around a payload: magic, flags, lengths, checksum, body. Frames can follow each other.

use alloc::vec::Vec;

use crc::{CRC_32_ISCSI, Crc, Table};

use crate::error::FormatError;
use crate::reader::Reader;

const MAGIC: [u8; 4] = *b"CSY1";
const FLAG_ZSTD: u8 = 1;
const FLAGS_KNOWN: u8 = FLAG_ZSTD;

/// Bodies up to this size are not worth compressing: DESIGN section 7.
#[cfg(feature = "zstd")]
const PLAIN_BYTES_MAX: usize = 512;

/// Compression level of DESIGN section 7.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;

/// CRC-32C, sixteen bytes at a step.
static CRC_32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// What a reader accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body as it travels, in bytes.
    pub compressed_max: u32,
    /// Largest body when expanded, in bytes.
    pub expanded_max: u32,
    /// Greatest expanded : compressed.
    pub ratio_max: u32,
}

impl Limits {
    /// The limits of one upload: see DESIGN section 15.
    pub const UPLOAD: Self =
        Self { compressed_max: 8 * 1024 * 1024, expanded_max: 64 * 1024 * 1024, ratio_max: 256 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::UPLOAD
    }
}

/// Frames a body; with the feature `zstd`, one above 512 bytes is compressed where that makes it smaller.
///
/// # Panics
/// On a body of 4 GiB or more, which DESIGN section 15 rules out long before.
#[must_use]
pub fn encode_frame(body: &[u8]) -> Vec<u8> {
    match compress(body) {
        Some(compressed) => join(FLAG_ZSTD, body.len(), &compressed),
        None => join(0, body.len(), body),
    }
}

fn join(flags: u8, expanded: usize, stored: &[u8]) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).expect("a body is below 4 GiB").to_le_bytes();
    let mut out = Vec::with_capacity(stored.len().saturating_add(17));
    out.extend_from_slice(&MAGIC);
    out.push(flags);
    out.extend_from_slice(&length(stored.len()));
    out.extend_from_slice(&length(expanded));
    out.extend_from_slice(&checksum(flags, length(expanded), stored).to_le_bytes());
    out.extend_from_slice(stored);
    out
}

fn checksum(flags: u8, expanded: [u8; 4], stored: &[u8]) -> u32 {
    let mut digest = CRC_32C.digest();
    digest.update(&[flags]);
    digest.update(&expanded);
    digest.update(stored);
    digest.finalize()
}

/// Reads the first frame: its body, and how many bytes it took up.
///
/// # Errors
/// Bytes that end early, are no frame, were changed on the way, or are beyond the limits.
pub fn decode_frame(bytes: &[u8], limits: &Limits) -> Result<(Vec<u8>, usize), FormatError> {
    let mut reader = Reader::new("frame", bytes);
    let magic = reader.array()?;
    if magic != MAGIC {
        return Err(FormatError::Magic { found: magic });
    }
    let flags = reader.byte()?;
    if flags & !FLAGS_KNOWN != 0 {
        return Err(FormatError::Flags { found: flags, known: FLAGS_KNOWN });
    }
    let stored_len = u32::from_le_bytes(reader.array()?);
    let expanded = reader.array()?;
    let expanded_len = u32::from_le_bytes(expanded);
    let wanted = u32::from_le_bytes(reader.array()?);
    check_limit("compressed body", stored_len, limits.compressed_max)?;
    check_limit("expanded body", expanded_len, limits.expanded_max)?;
    check_limit("expansion", expanded_len.div_ceil(stored_len.max(1)), limits.ratio_max)?;
    let stored = reader.take(usize::try_from(stored_len).unwrap_or(usize::MAX))?;
    let found = checksum(flags, expanded, stored);
    if found != wanted {
        return Err(FormatError::Checksum { found, wanted });
    }
    let expanded_len = usize::try_from(expanded_len).unwrap_or(usize::MAX);
    let body = if flags & FLAG_ZSTD == 0 { stored.to_vec() } else { expand(stored, expanded_len)? };
    if body.len() != expanded_len {
        return Err(FormatError::Truncated { part: "body", found: body.len(), wanted: expanded_len });
    }
    Ok((body, bytes.len().saturating_sub(reader.rest().len())))
}

fn check_limit(part: &'static str, size: u32, size_max: u32) -> Result<(), FormatError> {
    if size <= size_max {
        return Ok(());
    }
    Err(FormatError::TooLarge { part, size: u64::from(size), size_max: u64::from(size_max) })
}

#[cfg(feature = "zstd")]
fn compress(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() <= PLAIN_BYTES_MAX {
        return None;
    }
    let mut compressed = zstd::bulk::compress(body, ZSTD_LEVEL).ok()?;
    pad_to_ratio(&mut compressed, body.len());
    (compressed.len() < body.len()).then_some(compressed)
}

/// Lengthens a body that compressed too well for [`Limits::UPLOAD`] by a zstd frame that readers skip.
#[cfg(feature = "zstd")]
fn pad_to_ratio(compressed: &mut Vec<u8>, expanded: usize) {
    const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
    const HEADER_BYTES: usize = 8;
    let ratio_max = usize::try_from(Limits::UPLOAD.ratio_max).unwrap_or(1);
    let wanted = expanded.div_ceil(ratio_max);
    if compressed.len() >= wanted {
        return;
    }
    let padding = wanted.saturating_sub(compressed.len()).saturating_sub(HEADER_BYTES);
    compressed.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    compressed.extend_from_slice(&u32::try_from(padding).unwrap_or(u32::MAX).to_le_bytes());
    compressed.resize(compressed.len().saturating_add(padding), 0);
}

#[cfg(not(feature = "zstd"))]
fn compress(_body: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(feature = "zstd")]
fn expand(stored: &[u8], expanded_len: usize) -> Result<Vec<u8>, FormatError> {
    zstd::bulk::decompress(stored, expanded_len).map_err(|_| FormatError::Compressed)
}

#[cfg(not(feature = "zstd"))]
fn expand(_stored: &[u8], _expanded_len: usize) -> Result<Vec<u8>, FormatError> {
    Err(FormatError::CompressionMissing)
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "zstd")]
    use alloc::vec;

    use super::*;

    fn check_round_trip(body: &[u8]) {
        let mut bytes = encode_frame(body);
        let length = bytes.len();
        bytes.extend_from_slice(b"next frame");
        assert_eq!(decode_frame(&bytes, &Limits::UPLOAD), Ok((body.to_vec(), length)));
    }

    #[test]
    fn a_frame_reads_back() {
        check_round_trip(b"");
        check_round_trip(b"short");
        check_round_trip(&(0..4_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    }

    #[test]
    #[cfg(feature = "zstd")]
    fn a_body_that_compresses_too_well_stays_within_the_limits() {
        check_round_trip(&vec![0; 20 * 1024 * 1024]);
    }

    #[test]
    fn every_changed_or_missing_byte_is_an_error() {
        let good = encode_frame(&(0..700_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode_frame(&bad, &Limits::UPLOAD).is_err(), "byte {at} changed");
            assert!(decode_frame(&good[..at], &Limits::UPLOAD).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn limits_come_before_any_work() {
        let bytes = encode_frame(&[7; 400]);
        let limits = Limits { compressed_max: 399, ..Limits::UPLOAD };
        let too_large = FormatError::TooLarge { part: "compressed body", size: 400, size_max: 399 };
        assert_eq!(decode_frame(&bytes, &limits), Err(too_large));
        let limits = Limits { expanded_max: 399, ..Limits::UPLOAD };
        let too_large = FormatError::TooLarge { part: "expanded body", size: 400, size_max: 399 };
        assert_eq!(decode_frame(&bytes, &limits), Err(too_large));
        let bomb = join(FLAG_ZSTD, 10_000_000, &[0; 10]);
        let too_large = FormatError::TooLarge { part: "expansion", size: 1_000_000, size_max: 256 };
        assert_eq!(decode_frame(&bomb, &Limits::UPLOAD), Err(too_large));
    }

    #[test]
    fn foreign_bytes_are_named() {
        assert_eq!(
            decode_frame(b"PK\x03\x04", &Limits::UPLOAD),
            Err(FormatError::Magic { found: *b"PK\x03\x04" })
        );
        assert_eq!(
            decode_frame(b"CSY1\x80", &Limits::UPLOAD),
            Err(FormatError::Flags { found: 0x80, known: FLAGS_KNOWN })
        );
    }

    #[test]
    #[cfg(feature = "zstd")]
    fn a_body_that_does_not_expand_is_refused() {
        let bytes = join(FLAG_ZSTD, 600, &[7; 500]);
        assert_eq!(decode_frame(&bytes, &Limits::UPLOAD), Err(FormatError::Compressed));
    }

    #[test]
    #[cfg(not(feature = "zstd"))]
    fn a_build_without_zstd_says_so() {
        let bytes = join(FLAG_ZSTD, 600, &[7; 500]);
        assert_eq!(decode_frame(&bytes, &Limits::UPLOAD), Err(FormatError::CompressionMissing));
    }
}
