//! Everything that can go wrong here, and the one place where it becomes a SQLite error.

use std::error::Error as _;
use std::fmt::Write as _;

use rusqlite::{ErrorCode, ffi};
use shared_format::FormatError;
use thiserror::Error;

/// Why a `cloudsync_*` function failed. Holds names and numbers, never row values or keys.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite itself refused.
    #[error("{action}")]
    Sqlite {
        /// What was being done.
        action: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Bytes that are no payload of ours.
    #[error("wrong {part}")]
    Format {
        /// What was being read.
        part: &'static str,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// A stored number outside the range that this crate wrote.
    #[error("stored {what} is {found}, wanted {wanted}")]
    Stored {
        /// The setting or column.
        what: &'static str,
        /// What was there.
        found: String,
        /// What should be there.
        wanted: &'static str,
    },
    /// An argument of the wrong type or outside its range.
    #[error("{function}: argument {index} is {found}, wanted {wanted}")]
    Argument {
        /// The SQL function.
        function: &'static str,
        /// Counted from 1.
        index: usize,
        /// What was given: its type, or a number.
        found: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// A table that is not in the file.
    #[error("no table {table:?} in this file")]
    TableMissing {
        /// The name as given.
        table: String,
    },
    /// A table that cannot be tracked.
    #[error("table {table:?} cannot be tracked: {reason}")]
    Untrackable {
        /// The table.
        table: String,
        /// What stands in the way.
        reason: Untrackable,
    },
    /// A table algorithm that does not exist.
    #[error("table algorithm {found:?} does not exist, wanted \"cls\", \"gos\", \"dws\" or \"aws\"")]
    Algorithm {
        /// The name as given.
        found: String,
    },
    /// No table of this file is tracked.
    #[error("no table of this file is tracked, call cloudsync_init(table) first")]
    NothingTracked,
    /// A network function inside an open transaction.
    #[error("{function} was called inside an open transaction, wanted none")]
    OpenTransaction {
        /// The SQL function.
        function: &'static str,
    },
    /// A network function before `cloudsync_network_init`.
    #[error("no server is set, call cloudsync_network_init(url) first")]
    NoServer,
    /// A server address that cannot be used.
    #[error("url {url:?}: {wanted}")]
    Url {
        /// The address without credentials.
        url: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The server did not answer.
    #[error("{method} {url}: no answer ({reason}), wanted {wanted}")]
    Unreachable {
        /// HTTP method.
        method: &'static str,
        /// Address asked.
        url: String,
        /// What the transport said.
        reason: String,
        /// The status wanted.
        wanted: &'static str,
    },
    /// The server answered something else than was wanted.
    #[error("{method} {url}: server answered {status}{detail}, wanted {wanted}")]
    Refused {
        /// HTTP method.
        method: &'static str,
        /// Address asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// The problem's code and detail, if the answer had them.
        detail: String,
        /// The status wanted.
        wanted: &'static str,
    },
    /// An answer that lacks a part or has a wrong one.
    #[error("{url}: answer has no usable {part}")]
    Answer {
        /// Address asked.
        url: String,
        /// The header or field.
        part: &'static str,
    },
    /// A stamp that is too far ahead of this device's corrected clock.
    #[error("payload has a stamp {ahead_ms} ms ahead of the clock, limit is {ahead_ms_max} ms")]
    ClockAhead {
        /// How far ahead.
        ahead_ms: u64,
        /// How far is allowed.
        ahead_ms_max: u64,
    },
    /// Rows that refer to rows which are not there, also after everything was tried.
    #[error("foreign keys stay open after apply")]
    ForeignKeysOpen,
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    Random,
    /// A table that is not tracked.
    #[error("table {table:?} is not tracked, call cloudsync_init({table:?}) first")]
    NotTracked {
        /// The name as given.
        table: String,
    },
    /// A column that the table does not have.
    #[error("table {table:?} has no column {column:?}")]
    ColumnMissing {
        /// The table.
        table: String,
        /// The name as given.
        column: String,
    },
    /// A key that the extension keeps for itself.
    #[error("{function}: key {key:?} is the extension's own, wanted another key")]
    OwnKey {
        /// The SQL function.
        function: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A row key with too many or too few parts.
    #[error("key of table {table:?} has {found} parts, wanted {wanted}")]
    KeyParts {
        /// The table.
        table: String,
        /// Parts given.
        found: usize,
        /// Parts of its primary key.
        wanted: usize,
    },
    /// A row that the server did not reject.
    #[error("no such row of table {table:?} in cloudsync_rejected")]
    NotRejected {
        /// The table.
        table: String,
    },
    /// Changes that would be lost.
    #[error(
        "{unsent} unsent changes and {rejected} rejected rows would be lost, wanted none: sync first, or call \
         cloudsync_network_logout(1)"
    )]
    Unsent {
        /// Entries that no upload was acknowledged for.
        unsent: i64,
        /// Rows that the server did not accept.
        rejected: i64,
    },
    /// A payload file that cannot be read or written.
    #[error("cannot {action} payload file {path:?}")]
    File {
        /// What was to be done.
        action: &'static str,
        /// The path as given.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A broken invariant of ours; the file is as it was.
    #[error("a rule of the extension itself was broken")]
    Panicked,
    /// A filter that is no expression over one row.
    #[error("filter of table {table:?} cannot be used: {reason}")]
    Filter {
        /// The table.
        table: String,
        /// What SQLite said, or what was wanted.
        reason: String,
    },
    /// A scope that is no expression over one row.
    #[error("scope of table {table:?} cannot be used: {reason}")]
    Scope {
        /// The table.
        table: String,
        /// What SQLite said, or what was wanted.
        reason: String,
    },
    /// A file that is not the centre of others.
    #[error("this file is no centre, call cloudsync_central_begin() first")]
    NoCentre,
    /// A row that a user's trigger ignored with RAISE(IGNORE).
    #[error("a trigger of this file ignored the row")]
    RowIgnored,
    /// A column algorithm that does not exist.
    #[error(
        "column algorithm {found:?} does not exist, wanted \"lww\", \"counter\", \"max\", \"min\", \"block\" or \
         \"group:<name>\""
    )]
    ColumnAlgorithm {
        /// The name as given.
        found: String,
    },
    /// Another algorithm for what was written under a former one.
    #[error(
        "algorithm of {what} cannot change from {found} to {wanted}: rows were already written or received; call \
         cloudsync_cleanup({table:?}), then cloudsync_init and this again, before the next sync and on every replica"
    )]
    AlgorithmChange {
        /// The table or column.
        what: String,
        /// The table.
        table: String,
        /// The algorithm so far.
        found: String,
        /// The algorithm asked for.
        wanted: String,
    },
    /// Algorithms of a table and a column that cannot be had together.
    #[error(
        "table {table:?} has algorithm {algorithm}, under which no column can have algorithm {column}; wanted cls or dws"
    )]
    AlgorithmsTogether {
        /// The table.
        table: String,
        /// Its algorithm.
        algorithm: &'static str,
        /// The column's algorithm.
        column: &'static str,
    },
    /// A payload file from before tombstones that are gone here.
    #[error(
        "payload is older than the horizon of table {table:?}: it creates a row of {created} that this file does not \
         know, tombstones before {horizon} are gone here and the author's horizon is {author}; wanted a payload that \
         was made after its author received that horizon"
    )]
    BehindHorizon {
        /// The table.
        table: String,
        /// When the row was created.
        created: String,
        /// Up to where the author had dropped tombstones.
        author: String,
        /// Up to where this file has.
        horizon: String,
    },
}

/// `SQLITE_CONSTRAINT_DATATYPE`, which the bindings lack: a value of another type in a STRICT table.
const CONSTRAINT_DATATYPE: i32 = ffi::SQLITE_CONSTRAINT | (12 << 8);

/// What is being done while one row of a user's table is written.
pub(crate) const WRITE_ROW: &str = "write a row";

/// What stands in the way of tracking a table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Untrackable {
    /// Rows have no name of their own.
    #[error("it has no primary key")]
    NoPrimaryKey,
    /// Views, virtual tables and tables of the extension itself.
    #[error("it is no ordinary table of the user")]
    NotOrdinary,
    /// See DESIGN section 15.
    #[error("it has {found} columns, limit is {max}")]
    Columns {
        /// Columns found.
        found: usize,
        /// Columns allowed.
        max: usize,
    },
    /// Its metadata would overwrite another table.
    #[error("there is another table {name:?}")]
    NameTaken {
        /// The name needed.
        name: String,
    },
    /// Two replicas would give the same number to different rows.
    #[error(
        "its key is the integer {column:?}, which two replicas may give to different rows; wanted a key that is \
         unique everywhere (cloudsync_uuid()), or flag 1 to allow it"
    )]
    IntegerKey {
        /// The key column.
        column: String,
    },
    /// Rows that replicas without the column create could not be stored here.
    #[error(
        "new column {column:?} is NOT NULL and has no DEFAULT, so rows of replicas that do not know it yet would be \
         refused here; wanted a DEFAULT, or flag 2 to allow it"
    )]
    NoDefault {
        /// The column.
        column: String,
    },
    /// Rows without a name cannot travel.
    #[error(
        "key column {column:?} is NULL in a row, which then has no name elsewhere; wanted a value, or flag 4 to \
         leave such rows on this device"
    )]
    NullKey {
        /// The key column.
        column: String,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the server has no room for what was sent, but answers otherwise.
    pub(crate) fn is_full_store(&self) -> bool {
        matches!(self, Self::Refused { status: 507, .. })
    }

    /// The SQLite result code of the error.
    #[must_use]
    pub fn result_code(&self) -> i32 {
        match self {
            Self::Sqlite { source, .. } => {
                source.sqlite_error().map_or(ffi::SQLITE_ERROR, |failure| failure.extended_code)
            }
            Self::Argument { .. } | Self::OpenTransaction { .. } | Self::NoServer => ffi::SQLITE_MISUSE,
            Self::Format { .. } | Self::Stored { .. } => ffi::SQLITE_CORRUPT,
            Self::ForeignKeysOpen => ffi::SQLITE_CONSTRAINT_FOREIGNKEY,
            Self::RowIgnored => ffi::SQLITE_CONSTRAINT_TRIGGER,
            Self::TableMissing { .. }
            | Self::Untrackable { .. }
            | Self::Algorithm { .. }
            | Self::NothingTracked
            | Self::Url { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Answer { .. }
            | Self::ClockAhead { .. }
            | Self::NotTracked { .. }
            | Self::ColumnMissing { .. }
            | Self::OwnKey { .. }
            | Self::Filter { .. }
            | Self::Scope { .. }
            | Self::File { .. }
            | Self::NotRejected { .. }
            | Self::Unsent { .. }
            | Self::KeyParts { .. }
            | Self::Panicked
            | Self::ColumnAlgorithm { .. }
            | Self::AlgorithmChange { .. }
            | Self::AlgorithmsTogether { .. }
            | Self::BehindHorizon { .. }
            | Self::NoCentre
            | Self::Random => ffi::SQLITE_ERROR,
        }
    }

    /// Whether the file refused a single row, and would again: a constraint, a raising or broken trigger, a type,
    /// a length. Anything else (busy, full, interrupted, damaged) says nothing of the row.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::ForeignKeysOpen | Self::RowIgnored => true,
            Self::Sqlite { action, source } => match source.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => true,
                Some(ErrorCode::TypeMismatch | ErrorCode::TooBig | ErrorCode::Unknown) => {
                    *action == WRITE_ROW
                }
                _other => false,
            },
            _other => false,
        }
    }

    /// The SQLSTATE under which a site is told that its row was refused.
    pub(crate) fn sqlstate(&self) -> &'static str {
        match self.result_code() {
            ffi::SQLITE_CONSTRAINT_NOTNULL => "23502",
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "23503",
            ffi::SQLITE_CONSTRAINT_UNIQUE
            | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            | ffi::SQLITE_CONSTRAINT_ROWID => "23505",
            ffi::SQLITE_CONSTRAINT_CHECK => "23514",
            ffi::SQLITE_CONSTRAINT_TRIGGER => "P0001",
            CONSTRAINT_DATATYPE | ffi::SQLITE_MISMATCH => "42804",
            ffi::SQLITE_TOOBIG => "54000",
            _other => "XX000",
        }
    }

    /// Whether another row has a value that has to be unique.
    pub(crate) fn is_unique_conflict(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => {
                source.sqlite_extended_error_code() == Some(ffi::SQLITE_CONSTRAINT_UNIQUE)
            }
            _other => false,
        }
    }

    /// The error with its causes as one line. What SQLite says is one text already.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(line, ": {error}").expect("writing to a string does not fail");
            cause = error.source().filter(|_| !error.is::<rusqlite::Error>());
        }
        line
    }
}

/// Whether a host does something by this code alone: tries again, makes room, gives up. SQLite has the words for it.
fn is_acted_upon(code: i32) -> bool {
    let primary = code & 0xff;
    [
        ffi::SQLITE_BUSY,
        ffi::SQLITE_LOCKED,
        ffi::SQLITE_NOMEM,
        ffi::SQLITE_INTERRUPT,
        ffi::SQLITE_IOERR,
        ffi::SQLITE_FULL,
    ]
    .contains(&primary)
}

impl From<Error> for rusqlite::Error {
    fn from(error: Error) -> Self {
        let code = error.result_code();
        // A message of our own makes the code SQLITE_ERROR.
        let message = (!is_acted_upon(code)).then(|| format!("cloudsync: {}", error.line()));
        Self::SqliteFailure(ffi::Error::new(code), message)
    }
}

impl From<FormatError> for Error {
    fn from(source: FormatError) -> Self {
        Self::Format { part: "register", source }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite { action: "statement failed", source }
    }
}

/// Says what was being done when SQLite refused.
pub(crate) trait Doing<T> {
    /// Keeps the cause and adds the action.
    fn doing(self, action: &'static str) -> Result<T>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, action: &'static str) -> Result<T> {
        self.map_err(|source| Error::Sqlite { action, source })
    }
}

/// Says which bytes were being read.
pub(crate) trait Reading<T> {
    /// Keeps the cause and adds the part.
    fn reading(self, part: &'static str) -> Result<T>;
}

impl<T> Reading<T> for std::result::Result<T, FormatError> {
    fn reading(self, part: &'static str) -> Result<T> {
        self.map_err(|source| Error::Format { part, source })
    }
}
