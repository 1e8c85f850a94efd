//! Clocks and versions: when a write happened and which site made it.
//!
//! Owns the order that decides every conflict: [`Stamp`], greater stays. Reads no clock itself; wall time
//! comes in as an argument.

use core::fmt;
use core::str::FromStr;

use crate::error::FormatError;

/// Greatest wall time that fits the 48 bits of an [`Hlc`], in Unix milliseconds.
const UNIX_MS_MAX: i64 = (1 << 48) - 1;

/// Hybrid logical clock: 48 bits of Unix milliseconds, then a 16-bit counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(u64);

impl Hlc {
    /// Older than every write; the base of a row that was on a client before `cloudsync_init`.
    pub const ZERO: Self = Self(0);

    /// The base of a row that was in the centre before `cloudsync_init` (DESIGN section 4).
    pub const BASELINE_CENTRE: Self = Self(1);

    /// Makes a clock from wall time, clamped to 0 .. 2^48 - 1 milliseconds, and a counter.
    #[must_use]
    pub fn from_parts(unix_ms: i64, counter: u16) -> Self {
        let ms = u64::try_from(unix_ms.clamp(0, UNIX_MS_MAX)).unwrap_or(0);
        Self(ms << 16 | u64::from(counter))
    }

    /// Takes the 64 bits as they are.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the 64 bits.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Returns the wall-time part in Unix milliseconds.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0 >> 16
    }

    /// Returns the least clock above this one; the greatest clock stays where it is.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Stamps a write made at `wall_ms` over a write stamped `floor`: `max(wall << 16, floor + 1)`.
    #[must_use]
    pub fn after(wall_ms: i64, floor: Self) -> Self {
        Self::from_parts(wall_ms, 0).max(floor.next())
    }

    /// Reads the clock from a signed SQL integer that holds the same 64 bits.
    #[must_use]
    pub const fn from_sql(stored: i64) -> Self {
        Self(stored.cast_unsigned())
    }

    /// Returns the same 64 bits as a signed SQL integer.
    #[must_use]
    pub const fn to_sql(self) -> i64 {
        self.0.cast_signed()
    }
}

/// One replica that takes writes: a SQLite file or a Postgres database.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId([u8; 16]);

impl SiteId {
    /// Less than every real site.
    pub const ZERO: Self = Self([0; 16]);

    /// Takes 16 bytes that its owner drew at random.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for SiteId {
    type Error = FormatError;

    fn try_from(bytes: &[u8]) -> Result<Self, FormatError> {
        bytes.try_into().map(Self).map_err(|_| FormatError::SiteIdLength { found: bytes.len() })
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SiteId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let wrong = || FormatError::SiteIdText { found: text.len() };
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = core::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// The stamp of one write. Of two, the greater stays, on every site alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The later write stays.
    pub hlc: Hlc,
    /// Written in the same instant: the greater site stays.
    pub site: SiteId,
}

impl Stamp {
    /// The stamp of a cell that nobody wrote: its column was unknown to the row's author.
    pub const ZERO: Self = Self { hlc: Hlc::ZERO, site: SiteId::ZERO };
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn check(wall_ms: i64, floor: u64, expected: u64) {
        assert_eq!(Hlc::after(wall_ms, Hlc::from_raw(floor)), Hlc::from_raw(expected));
    }

    #[test]
    fn a_later_write_always_beats_the_write_it_replaces() {
        check(5, 0, 5 << 16);
        check(5, 5 << 16, (5 << 16) + 1);
        check(-3, 7 << 16, (7 << 16) + 1);
        check(i64::MAX, 0, ((1 << 48) - 1) << 16);
        check(1, (1 << 16) + 0xffff, 2 << 16);
    }

    #[test]
    fn a_clock_survives_a_signed_column() {
        for raw in [0, 1, u64::MAX, 1 << 63] {
            assert_eq!(Hlc::from_sql(Hlc::from_raw(raw).to_sql()).raw(), raw);
        }
    }

    #[test]
    fn a_site_reads_back_from_its_text() {
        let site = SiteId::from_bytes(*b"0123456789abcdef");
        assert_eq!(site.to_string().parse(), Ok(site));
        assert_eq!("xyz".parse::<SiteId>(), Err(FormatError::SiteIdText { found: 3 }));
        assert_eq!(SiteId::try_from(&[1_u8, 2][..]), Err(FormatError::SiteIdLength { found: 2 }));
    }
}
