//! What can go wrong in the hub, with the values that tell what it was.
//!
//! No variant holds a key, a password, a row value or a connection string. What an error means to the world
//! is decided here too: `http_status` and `retry`.

use std::net::SocketAddr;
use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::http::problem::ProblemKind;
use crate::position::Position;

/// The result of anything in the hub that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong in the hub.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is not one that the hub understands.
    #[error("argument {found:?}, wanted {wanted}")]
    Argument {
        /// The argument, or an empty text when one is missing.
        found: String,
        /// What would have been understood.
        wanted: &'static str,
    },
    /// The configuration file cannot be read.
    #[error("configuration file {path} cannot be read")]
    ConfigFile {
        /// The path as it was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("configuration line {line}: {reason}")]
    ConfigSyntax {
        /// The line, counted from one.
        line: usize,
        /// The parser's words, without the text of the line, which may hold a secret.
        reason: String,
    },
    /// One key of the configuration is missing or has a value that is not understood.
    #[error("configuration key {key}: found {found}, wanted {wanted}")]
    ConfigValue {
        /// The key with the path to it, or the name of the environment variable.
        key: String,
        /// What was found, in words where the value may be a secret.
        found: String,
        /// What would have been understood.
        wanted: String,
    },
    /// A key that could name something outside the store.
    #[error("store key {key:?} is not made of plain parts separated by slashes")]
    StoreKey {
        /// The key.
        key: String,
    },
    /// The store's directory failed.
    #[error("store cannot {operation} {path}")]
    StoreDirectory {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The S3 service failed or refused.
    #[error("store cannot {operation} {key:?}: {reason}")]
    StoreS3 {
        /// What was tried.
        operation: &'static str,
        /// The key or prefix.
        key: String,
        /// The service's answer, or what happened instead of one.
        reason: String,
    },
    /// A text that is no LSN as Postgres prints it.
    #[error("LSN {found:?}, wanted two hexadecimal numbers with a slash between")]
    Lsn {
        /// The text, cut.
        found: String,
    },
    /// A cursor that this hub did not write.
    #[error("cursor is not one that this service gave")]
    Cursor,
    /// An epoch object that cannot be read.
    #[error("epoch object has an unreadable {part}")]
    EpochObject {
        /// Which part.
        part: &'static str,
    },
    /// The database is not the one that the newest epoch came from.
    #[error("{what} is {found}, epoch {epoch} came from {wanted}: ingest stops until an operator decides")]
    EpochMismatch {
        /// What differs.
        what: &'static str,
        /// What the server says.
        found: String,
        /// What the epoch says.
        wanted: String,
        /// The epoch's number.
        epoch: u32,
    },
    /// The central SQLite file failed or refused.
    #[error("cannot {action}")]
    Sqlite {
        /// What was being done.
        action: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The system failed at the central SQLite file.
    #[error("cannot {operation} central file {path}")]
    CentralFile {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another hub has the central SQLite file.
    #[error("central file {path} is served by another hub, wanted one hub for a file")]
    CentralFileServed {
        /// The file.
        path: PathBuf,
    },
    /// The central SQLite file is another one than was opened, or gone.
    #[error("central file {path} is not the one that was opened")]
    CentralFileReplaced {
        /// The file.
        path: PathBuf,
    },
    /// The central SQLite file does not take the journal mode that is needed.
    #[error("central file {path} has journal mode {found}, wanted wal")]
    CentralFileMode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        found: String,
    },
    /// What was written to the central SQLite file cannot be passed on.
    #[error("feed of the central file: {problem}")]
    CentralFeed {
        /// What is wrong with it.
        problem: String,
    },
    /// Another hub opened the epoch that this one was about to open.
    #[error("epoch {epoch} was opened by another hub")]
    EpochTaken {
        /// The epoch's number.
        epoch: u32,
    },
    /// Another hub reads the slot.
    #[error("slot {slot} is in use")]
    SlotActive {
        /// The slot's name.
        slot: String,
    },
    /// No address of the server took a replication connection.
    #[error("postgres at {host} cannot be reached")]
    ReplicationConnect {
        /// The last address that was tried.
        host: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A replication connection broke, or went silent for too long.
    #[error("replication connection ended")]
    ReplicationClosed(#[source] std::io::Error),
    /// The server refused a replication command.
    #[error("postgres refused {command}: {message} ({sqlstate})")]
    ReplicationRefused {
        /// What was asked.
        command: &'static str,
        /// SQLSTATE.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// The server said something that the replication protocol has no place for.
    #[error("replication protocol: {what}")]
    ReplicationProtocol {
        /// What it was.
        what: &'static str,
    },
    /// The server asks for a way of authentication that is not spoken here, or for a password that is not set.
    #[error("postgres asks for {wanted}")]
    ReplicationAuthentication {
        /// What it asks for.
        wanted: &'static str,
    },
    /// A frame of the output plugin that does not fit its own numbers.
    #[error("plugin frame has a wrong {part}")]
    PluginFrame {
        /// Which part.
        part: &'static str,
    },
    /// A payload, frame or message that shared-format refuses.
    #[error("bytes are not what they should be")]
    Format(#[from] shared_format::FormatError),
    /// A message refers to a table definition that neither the stream nor the catalog knows.
    #[error("definition of table {table}, incarnation {incarnation:016x}, version {version} is unknown")]
    UnknownDefinition {
        /// Registry id of the table.
        table: u32,
        /// Incarnation of the registry entry.
        incarnation: u64,
        /// Version of the definition.
        version: u32,
    },
    /// A segment object that does not fit its own numbers.
    #[error("segment has a wrong {part}")]
    Segment {
        /// Which part.
        part: &'static str,
    },
    /// The store has later segments only: one between is missing.
    #[error("log has a gap after {after}")]
    LogGap {
        /// The last position that is there.
        after: Position,
    },
    /// A snapshot's manifest cannot be read.
    #[error("snapshot manifest has an unreadable {part}")]
    SnapshotManifest {
        /// Which part.
        part: &'static str,
    },
    /// A site may lack deletions that Postgres has forgotten.
    #[error("deletions after the site's cursor are forgotten, a snapshot has to come first")]
    CursorExpired,
    /// A site does not know that its database was set back.
    #[error("the database was set back after the site's cursor, a snapshot has to come first")]
    Restored,
    /// What was asked for cannot be had now, but may be later.
    #[error("not available now: {reason}")]
    Unavailable {
        /// Why, in words for the operator.
        reason: String,
    },
    /// Postgres refused a statement, or the connection to it broke.
    #[error("postgres failed")]
    Postgres(#[source] tokio_postgres::Error),
    /// A database answered an upload with something that is no answer.
    #[error("answer of the database to an upload has no {part}")]
    UploadAnswer {
        /// What is missing.
        part: &'static str,
    },
    /// A database answered an upload with a status that this release does not know.
    #[error("the database answered an upload with status {found:?}")]
    UploadStatus {
        /// The status.
        found: String,
    },
    /// The control database holds something that this release does not understand.
    #[error("control database holds what is not understood")]
    ControlAnswer,
    /// The database answered a question of an operator with something that is no answer.
    #[error("answer of the database to a report is not understood")]
    ReportAnswer,
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The operating system does not report signals.
    #[error("signals cannot be received")]
    Signal(#[source] std::io::Error),
    /// The threads of the runtime cannot be started.
    #[error("threads cannot be started")]
    Runtime(#[source] std::io::Error),
    /// Standard output cannot be written to.
    #[error("standard output cannot be written to")]
    Output(#[source] std::io::Error),
    /// A metric could not be made or rendered.
    #[error("metrics are not usable")]
    Metrics(#[source] prometheus::Error),
    /// TLS cannot be set up.
    #[error("tls cannot be set up")]
    TlsSetup(#[source] rustls::Error),
    /// The certificates to trust cannot be read.
    #[error("certificates in {path} cannot be used")]
    RootCertificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate or key of the server cannot be used.
    #[error("TLS file {path} cannot be used")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The keys that a service publishes for its tokens cannot be had.
    #[error("keys at {url} cannot be had: {reason}")]
    KeySet {
        /// Where they are published.
        url: String,
        /// What happened instead.
        reason: String,
    },
    /// The operating system gives no random bytes.
    #[error("operating system gives no random bytes")]
    RandomBytes,
    /// Another node has opened a later epoch than the one that this one leads.
    #[error("epoch {epoch} is superseded by epoch {newest}: another node leads, on another server")]
    EpochSuperseded {
        /// The epoch that this node led.
        epoch: u32,
        /// The newest one.
        newest: u32,
    },
    /// The server is a standby: nothing can be written there, and its log is another's.
    #[error("postgres is a standby, wanted the server that takes writes")]
    Standby,
    /// Another node does a job that this one had begun.
    #[error("job {job} was given to another node")]
    JobLost {
        /// Its number.
        job: i64,
    },
    /// The queue gave a job of a kind that it was not asked for.
    #[error("job is of kind {found:?}, which this release does not know")]
    JobKind {
        /// The kind.
        found: String,
    },
    /// A task ended without an answer.
    #[error("task {task} ended without an answer")]
    TaskEnded {
        /// Which one.
        task: &'static str,
    },
}

impl Error {
    /// What a caller is told when this keeps a request from being answered.
    #[must_use]
    pub fn http_status(&self) -> ProblemKind {
        match self {
            Error::Cursor => ProblemKind::BadRequest,
            Error::CursorExpired => ProblemKind::CursorExpired,
            Error::Restored => ProblemKind::Restored,
            Error::Postgres(error) => match error.as_db_error() {
                Some(refused) if !mends_by_itself(refused.code().code()) => ProblemKind::Internal,
                Some(_) | None => ProblemKind::Unavailable,
            },
            Error::Sqlite { source, .. } if is_passing(source) => ProblemKind::Unavailable,
            Error::CentralFile { .. }
            | Error::CentralFileServed { .. }
            | Error::CentralFileReplaced { .. }
            | Error::CentralFeed { .. }
            | Error::StoreDirectory { .. }
            | Error::StoreS3 { .. }
            | Error::EpochMismatch { .. }
            | Error::EpochTaken { .. }
            | Error::EpochSuperseded { .. }
            | Error::Standby
            | Error::SlotActive { .. }
            | Error::ReplicationConnect { .. }
            | Error::ReplicationClosed(_)
            | Error::ReplicationRefused { .. }
            | Error::ReplicationAuthentication { .. }
            | Error::UnknownDefinition { .. }
            | Error::LogGap { .. }
            | Error::KeySet { .. }
            | Error::Unavailable { .. } => ProblemKind::Unavailable,
            Error::Sqlite { .. }
            | Error::CentralFileMode { .. }
            | Error::Argument { .. }
            | Error::ConfigFile { .. }
            | Error::ConfigSyntax { .. }
            | Error::ConfigValue { .. }
            | Error::StoreKey { .. }
            | Error::Lsn { .. }
            | Error::EpochObject { .. }
            | Error::ReplicationProtocol { .. }
            | Error::PluginFrame { .. }
            | Error::Format(_)
            | Error::Segment { .. }
            | Error::SnapshotManifest { .. }
            | Error::UploadAnswer { .. }
            | Error::UploadStatus { .. }
            | Error::ControlAnswer
            | Error::ReportAnswer
            | Error::Listen { .. }
            | Error::Signal(_)
            | Error::Runtime(_)
            | Error::Output(_)
            | Error::Metrics(_)
            | Error::TlsSetup(_)
            | Error::RootCertificates { .. }
            | Error::TlsFile { .. }
            | Error::RandomBytes
            | Error::JobLost { .. }
            | Error::JobKind { .. }
            | Error::TaskEnded { .. } => ProblemKind::Internal,
        }
    }

    /// Whether the same statement may succeed later.
    #[must_use]
    pub fn mends_by_itself(&self) -> bool {
        match self {
            Error::Postgres(error) => {
                error.as_db_error().is_none_or(|refused| mends_by_itself(refused.code().code()))
            }
            other => other.http_status() == ProblemKind::Unavailable,
        }
    }

    /// Whether the server went away, or another may answer in its place.
    #[must_use]
    pub fn is_lost_connection(&self) -> bool {
        if let Error::Postgres(error) = self {
            return error.as_db_error().is_none_or(|refused| refused.code().code().starts_with("57P"));
        }
        matches!(self, Error::ReplicationClosed(_) | Error::ReplicationConnect { .. } | Error::Standby)
    }

    /// Whether what Postgres decoded is what cannot be used, so that the same place fails again.
    #[must_use]
    pub fn is_of_the_log(&self) -> bool {
        if let Error::ReplicationRefused { command, sqlstate, .. } = self {
            return *command == "stream" && !mends_by_itself(sqlstate);
        }
        matches!(self, Error::PluginFrame { .. } | Error::Format(_) | Error::UnknownDefinition { .. })
    }

    /// The error with all its causes on one line, for the log.
    #[must_use]
    pub fn logged(&self) -> String {
        if let Error::Postgres(error) = self
            && let Some(refused) = error.as_db_error()
        {
            let code = refused.code().code();
            let words = if says_no_values(code) { refused.message() } else { "message withheld" };
            return format!("{self}: {words} ({code})");
        }
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Whether SQLite may do the same later, if need be after an operator's act.
fn is_passing(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
        )
    )
}

/// Whether a SQLSTATE means that the same statement may succeed later, if need be after an operator's act.
fn mends_by_itself(sqlstate: &str) -> bool {
    // Connection, log-in, no such database, schema or function yet, rollback, resources, operator, system.
    const CLASSES: [&str; 8] = ["08", "28", "3D", "3F", "40", "53", "57", "58"];
    // Locked, in use, read only (a standby), a function that the extension brings.
    const CODES: [&str; 4] = ["55P03", "55006", "25006", "42883"];
    CLASSES.iter().any(|class| sqlstate.starts_with(class)) || CODES.contains(&sqlstate)
}

/// Whether the messages of a SQLSTATE name objects only. Others may quote what a row holds.
fn says_no_values(sqlstate: &str) -> bool {
    const CLASSES: [&str; 12] = ["08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58"];
    CLASSES.iter().any(|class| sqlstate.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_or_time_can_mend_is_worth_waiting_for() {
        for sqlstate in ["08006", "40001", "40P01", "53100", "57P01", "57014", "55P03", "3D000", "42883"] {
            assert!(mends_by_itself(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["22P02", "23505", "42501", "42P01", "P0001", "XX000"] {
            assert!(!mends_by_itself(sqlstate), "{sqlstate}");
        }
    }

    #[test]
    fn a_message_that_may_quote_a_row_is_withheld() {
        for sqlstate in ["22P02", "23505", "P0001", "XX000"] {
            assert!(!says_no_values(sqlstate), "{sqlstate}");
        }
        assert!(says_no_values("42883"));
    }

    #[test]
    fn the_causes_of_an_error_are_logged_with_it() {
        let source = std::io::Error::other("disk is on fire");
        let error = Error::StoreDirectory { operation: "read", path: PathBuf::from("/s/a"), source };
        assert_eq!(error.logged(), "store cannot read /s/a: disk is on fire");
        assert_eq!(error.http_status(), ProblemKind::Unavailable);
    }
}
