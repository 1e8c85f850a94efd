//! Places in the WAL: `Lsn`, and the `Position` of one message of one transaction.
//!
//! Invariant: positions order messages as Postgres committed them, and their hexadecimal text orders alike, so
//! that a LIST of the store comes in the order of the log.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A place in the write-ahead log of Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// Before everything; to Postgres it means "no place".
    pub const ZERO: Lsn = Lsn(0);
    /// After everything.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The LSN with this number.
    #[must_use]
    pub const fn new(raw: u64) -> Lsn {
        Lsn(raw)
    }

    /// Its number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The last place before it.
    #[must_use]
    pub const fn before(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// Reads exactly 16 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Lsn> {
        if text.len() != 16
            || !text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Lsn)
    }

    /// 16 hexadecimal digits, so that text orders as numbers do.
    #[must_use]
    pub fn to_hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// As Postgres prints it.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// Reads what Postgres prints.
impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lsn> {
        let parts = text.split_once('/').and_then(|(high, low)| {
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some((u64::from(high) << 32) | u64::from(low))
        });
        parts.map(Lsn).ok_or_else(|| Error::Lsn { found: text.chars().take(32).collect() })
    }
}

/// The place of one message: where its transaction ends, then where the message lies.
///
/// The order of the fields is the order of the log: transactions by commit, messages within one by their own
/// LSN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// End of the commit of the message's transaction.
    pub commit_end: Lsn,
    /// The message itself.
    pub message: Lsn,
}

impl Position {
    /// The place of a message.
    #[must_use]
    pub const fn new(commit_end: Lsn, message: Lsn) -> Position {
        Position { commit_end, message }
    }

    /// After every message of all transactions that committed up to `lsn`.
    #[must_use]
    pub const fn after(lsn: Lsn) -> Position {
        Position { commit_end: lsn, message: Lsn::MAX }
    }

    /// Reads exactly 32 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Position> {
        let (commit_end, message) = text.split_at_checked(16)?;
        Some(Position { commit_end: Lsn::from_hex(commit_end)?, message: Lsn::from_hex(message)? })
    }

    /// 32 hexadecimal digits, so that text orders as positions do.
    #[must_use]
    pub fn to_hex(self) -> String {
        format!("{:016x}{:016x}", self.commit_end.raw(), self.message.raw())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.commit_end, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_back_as_postgres_prints_it() {
        for text in ["0/0", "0/16B3748", "1A/FFFFFFFF", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "16B3748", "0/", "/1", "0/1FFFFFFFF", "x/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_text_of_positions_orders_as_they_do() {
        let mut positions = vec![
            Position::new(Lsn::new(9), Lsn::new(8)),
            Position::new(Lsn::new(0x10), Lsn::new(1)),
            Position::new(Lsn::new(0x10), Lsn::new(0xf0)),
            Position::after(Lsn::new(0x10)),
            Position::new(Lsn::new(u64::MAX), Lsn::ZERO),
        ];
        positions.reverse();
        let mut texts: Vec<String> = positions.iter().map(|position| position.to_hex()).collect();
        positions.sort();
        texts.sort();
        let read: Vec<Position> = texts.iter().map(|text| Position::from_hex(text).unwrap()).collect();
        assert_eq!(read, positions);
    }

    #[test]
    fn only_lower_case_digits_of_the_full_length_are_a_position() {
        for text in
            ["", "00", &"0".repeat(31), &"0".repeat(33), &"A".repeat(32), &"+".repeat(32), &"ä".repeat(16)]
        {
            assert_eq!(Position::from_hex(text), None, "{text:?}");
        }
    }
}
