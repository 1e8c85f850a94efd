//! Everything that can go wrong here, and the SQLSTATE it is raised with. Holds no row values.

use pgrx::PgSqlErrorCode;
use schema_mapping::MappingError;
use shared_format::FormatError;
use thiserror::Error;

/// Why a call of ours fails.
#[derive(Debug, Error)]
pub(crate) enum SyncError {
    /// Bytes from outside that are no payload.
    #[error("payload cannot be read: {0}")]
    Payload(#[source] FormatError),
    /// Changes that refer to a table which their payload does not define.
    #[error("payload has changes of table {table}, version {version}, and does not define it")]
    MissingDefinition { table: u32, version: u32 },
    /// A key of another shape than the table's.
    #[error("payload has {found} key columns for table {table}, wanted {wanted}")]
    KeyShape { table: String, found: usize, wanted: usize },
    /// A definition that names a column number twice or not at all.
    #[error("payload has a column number {column} that table {table} does not define")]
    UnknownColumn { table: String, column: u16 },
    /// A stamp too far ahead of this server's clock.
    #[error("payload has a stamp of {stamp_ms} ms, the clock is at {server_ms} ms")]
    ClockAhead { stamp_ms: u64, server_ms: i64 },
    /// Rows changed each time between reading and writing.
    #[error("rows changed {attempts} times while they were being merged")]
    Contention { attempts: u32 },
    /// Metadata that another transaction wrote after the merge had read it.
    #[error("metadata of table {0} changed while apply was writing")]
    Overtaken(String),
    /// A library that was replaced before the SQL of the extension.
    #[error(
        "extension pg_sync has version {installed}, its library {library}: call alter extension pg_sync update"
    )]
    Outdated { installed: String, library: &'static str },
    /// A payload whose author may not have seen deletions that are forgotten here.
    #[error(
        "payload creates a row of table {table} before tombstones were dropped here: its author had dropped those up to \
         {author_ms} ms, here they are gone up to {horizon_ms} ms"
    )]
    BehindHorizon { table: String, author_ms: u64, horizon_ms: u64 },
    /// A temporary file that does not give back what was written.
    #[error("temporary file with the chunks of an upload cannot be read back")]
    Spool,
    /// An apply inside an apply.
    #[error("a payload is already being applied in this transaction")]
    Nested,
    /// A parameter out of its range.
    #[error("{parameter} is {found}, wanted {wanted}")]
    Parameter { parameter: &'static str, found: String, wanted: &'static str },
    /// No tracked table of that number.
    #[error("table number {0} is not tracked")]
    NotTracked(i32),
    /// The caller may not change the table.
    #[error("must be owner of table {0}")]
    NotOwner(String),
    /// A relation that was dropped meanwhile.
    #[error("relation {0} does not exist")]
    NoRelation(u32),
    /// A tracked table that another transaction renamed, dropped or changed after its registration was read.
    #[error("table {0} was changed meanwhile")]
    Moved(String),
    /// Metadata that this release cannot have written.
    #[error("metadata of table {table} is damaged: {detail}")]
    Damaged { table: String, detail: &'static str },
    /// Text that no Postgres column holds.
    #[error("text cannot be stored: {0}")]
    Text(#[source] MappingError),
    /// Text with a zero byte.
    #[error("text has a zero byte at {0}, Postgres stores none")]
    ZeroByte(usize),
    /// An option that the output plugin does not have.
    #[error("output plugin pg_sync has no option {0:?}, wanted format")]
    PluginOption(String),
    /// A key whose deletion stands for good.
    #[error("cloudsync: table \"{0}\" has this key among its deletions, which stand for good (dws)")]
    DeadKey(String),
    /// The extension was not installed completely.
    #[error("role cloudsync_owner does not exist")]
    NoOwner,
    /// A table that is not tracked.
    #[error("table {0} is not tracked")]
    Untracked(String),
    /// The caller may not set what holds for the whole database.
    #[error("must be owner of the database")]
    NotDatabaseOwner,
    /// No schema to look for tables in.
    #[error("no schema has been selected to track tables in")]
    NoSchema,
    /// An option of the output plugin with a value that it does not know.
    #[error("option {option} of output plugin pg_sync is {found}, wanted {wanted}")]
    PluginOptionValue { option: &'static str, found: String, wanted: u8 },
    /// No memory for the buffer of the output plugin.
    #[error("output plugin pg_sync found no {0} bytes of memory for its frame")]
    FrameMemory(usize),
    /// A column that the table does not have.
    #[error("table {table} has no column {column}")]
    NoColumn { table: String, column: String },
    /// A key of another shape than the table's, from a caller.
    #[error("key of table {table} has {found} parts, NULL or not, wanted {wanted} without NULL")]
    KeyParts { table: String, found: usize, wanted: usize },
    /// The caller may not read the table.
    #[error("permission denied for table {0}")]
    Denied(String),
    /// A scope or filter that cannot be used.
    #[error("{kind} of table {table} cannot be used: {detail}")]
    Expression { kind: &'static str, table: String, detail: String },
    /// The caller may not touch files of the server.
    #[error("must be a member of {0}, or superuser")]
    ServerFile(&'static str),
    /// A file of the server that cannot be read or written.
    #[error("cannot {action} file {path:?}: {source}")]
    File {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl SyncError {
    /// The SQLSTATE that callers see.
    pub(crate) fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Payload(_)
            | Self::MissingDefinition { .. }
            | Self::KeyShape { .. }
            | Self::UnknownColumn { .. }
            | Self::ClockAhead { .. } => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            Self::Contention { .. } | Self::Moved(_) | Self::Overtaken(_) => {
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            }
            Self::Text(_) | Self::ZeroByte(_) => PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            Self::PluginOption(_) | Self::PluginOptionValue { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::FrameMemory(_) => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            Self::Outdated { .. } | Self::BehindHorizon { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::Spool => PgSqlErrorCode::ERRCODE_IO_ERROR,
            Self::Nested => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            Self::Parameter { .. } | Self::Expression { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::NotTracked(_) | Self::Untracked(_) | Self::NoRelation(_) => {
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE
            }
            Self::NoColumn { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            Self::KeyParts { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::File { .. } => PgSqlErrorCode::ERRCODE_IO_ERROR,
            Self::NoSchema => PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
            Self::NotOwner(_) | Self::NotDatabaseOwner | Self::Denied(_) | Self::ServerFile(_) => {
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Self::Damaged { .. } => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Self::DeadKey(_) => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            Self::NoOwner => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        }
    }

    /// Raises it as an error of the running statement.
    pub(crate) fn raise(&self) -> ! {
        pgrx::ereport!(ERROR, self.sqlstate(), self.to_string());
    }
}

impl From<FormatError> for SyncError {
    fn from(error: FormatError) -> Self {
        Self::Payload(error)
    }
}

/// Returns the value, or raises the error.
pub(crate) fn or_raise<T>(result: Result<T, SyncError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => error.raise(),
    }
}
