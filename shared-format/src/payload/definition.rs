//! Tables and columns as an author of changes knows them; they travel with the changes.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::FormatError;
use crate::row_state::ColumnId;

/// How the rows of a table merge. Numbers are those on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TableAlgorithm {
    /// Last writer wins, for the life and for each cell.
    #[default]
    Cls = 0,
    /// Grow-only set.
    Gos = 1,
    /// A deletion stands for good.
    Dws = 2,
    /// The row is one last-writer-wins register.
    Aws = 3,
}

/// How the cells of a column merge. Numbers are those on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ColumnAlgorithm {
    /// Last writer wins.
    #[default]
    Lww = 0,
    /// Sum of deltas.
    Counter = 1,
    /// The greatest value wins.
    Max = 2,
    /// The least value wins.
    Min = 3,
    /// Text merged by blocks.
    Block = 4,
    /// Columns that win or lose together.
    Group = 5,
}

impl TableAlgorithm {
    const ALL: [Self; 4] = [Self::Cls, Self::Gos, Self::Dws, Self::Aws];

    /// The name that users write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Gos => "gos",
            Self::Dws => "dws",
            Self::Aws => "aws",
        }
    }

    /// Finds the algorithm that users call `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Finds the algorithm of a number on the wire.
    ///
    /// # Errors
    /// A number of no algorithm.
    pub fn from_code(code: u8) -> Result<Self, FormatError> {
        let unknown = FormatError::UnknownCode { what: "table algorithm", code: u64::from(code) };
        Self::ALL.get(usize::from(code)).copied().ok_or(unknown)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl ColumnAlgorithm {
    const ALL: [Self; 6] = [Self::Lww, Self::Counter, Self::Max, Self::Min, Self::Block, Self::Group];

    /// The name that users write; that of a group follows it after a colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lww => "lww",
            Self::Counter => "counter",
            Self::Max => "max",
            Self::Min => "min",
            Self::Block => "block",
            Self::Group => "group",
        }
    }

    /// Finds the algorithm that users call `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Finds the algorithm of a number on the wire.
    ///
    /// # Errors
    /// A number of no algorithm.
    pub fn from_code(code: u8) -> Result<Self, FormatError> {
        let unknown = FormatError::UnknownCode { what: "column algorithm", code: u64::from(code) };
        Self::ALL.get(usize::from(code)).copied().ok_or(unknown)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// A column as its author knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// Its number in the author's registry.
    pub id: ColumnId,
    /// Its name; replicas match columns by it.
    pub name: String,
    /// Its declared type, in the author's words.
    pub type_name: String,
    /// How its cells merge.
    pub algorithm: ColumnAlgorithm,
    /// Of `Group`, its name: columns of one group win or lose together. Of `Block`, what stands between two
    /// blocks; None for a line feed.
    pub group: Option<String>,
}

/// A table as its author knows it. Changes refer to it by `(table, incarnation, version)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDefinition {
    /// Its number in the author's registry.
    pub table: u32,
    /// Which life of that registry: 8 random bytes.
    pub incarnation: u64,
    /// Counts the changes of this definition.
    pub version: u32,
    /// The name that clients use.
    pub name: String,
    /// The Postgres schema, where there is one.
    pub schema: Option<String>,
    /// How its rows merge.
    pub algorithm: TableAlgorithm,
    /// Columns of the primary key, in key order.
    pub key: Vec<ColumnDefinition>,
    /// All other columns that travel.
    pub columns: Vec<ColumnDefinition>,
    /// Its rows have readers of their own.
    pub scoped: bool,
    /// Postgres decides row by row who reads it. Without scopes it is then read with API keys only.
    pub row_security: bool,
}
