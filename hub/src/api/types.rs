//! What requests and answers of operators hold; their schemas are made from here.

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::call::from_object;

/// Whether the file or the control database brought a database.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    File,
    Control,
}

/// A database of the hub.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DatabaseAnswer {
    /// Its name.
    pub(super) name: String,
    /// Where it comes from.
    pub(super) source: Source,
    /// Where its Postgres is; null for a SQLite file.
    pub(super) postgres: Option<PostgresAnswer>,
    /// What this node does with it.
    pub(super) feed: FeedAnswer,
    /// What it may take of each node.
    pub(super) limits: LimitsBody,
    /// What it takes of this node.
    pub(super) used: UsedAnswer,
}

/// What one database may take of a node; what is missing is not limited.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsBody {
    /// Most requests a second, on average; those of ten seconds may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) requests_per_s_max: Option<u32>,
    /// Most bytes of uploads and downloads that are on their way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_223_372_036_854_775_807_u64))]
    pub(super) in_flight_bytes_max: Option<u64>,
    /// Most downloads that wait for something new at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_223_372_036_854_775_807_u64))]
    pub(super) waits_max: Option<u64>,
    /// Most bytes that the store may hold of it; above, uploads are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_223_372_036_854_775_807_u64))]
    pub(super) stored_bytes_max: Option<u64>,
}

/// What a database takes of this node now.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct UsedAnswer {
    /// Bytes of uploads and downloads that are on their way.
    pub(super) in_flight_bytes: u64,
    /// Downloads that wait for something new.
    pub(super) waits: u64,
    /// Bytes in the store, as far as this node knows; the leader and nodes that limit them look once a minute.
    pub(super) stored_bytes: u64,
}

/// Where a Postgres database is.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PostgresAnswer {
    pub(super) hosts: Vec<String>,
    pub(super) database: String,
    pub(super) user: String,
}

/// What this node does with a database.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FeedAnswer {
    /// Downloads can be answered and new changes will come.
    pub(super) ready: bool,
    /// Postgres answers.
    pub(super) connected: bool,
    /// This node leads.
    pub(super) leader: bool,
    /// The newest epoch.
    pub(super) epoch: Option<String>,
    /// The LSN up to which this node knows the log.
    pub(super) position: Option<String>,
    /// What went wrong last and was not mended since.
    pub(super) problem: Option<String>,
}

/// The databases of the hub.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DatabasesAnswer {
    pub(super) databases: Vec<DatabaseAnswer>,
    /// Databases of the control database that cannot be served, and why.
    pub(super) broken: Vec<BrokenDatabase>,
    /// How many nodes follow the control database, this one too: they share what databases may take. 1 without one.
    pub(super) nodes: u32,
    /// Whether the control database is known; `none` without one.
    pub(super) control: ControlState,
}

/// How the control database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ControlState {
    None,
    Followed,
    Away,
}

/// A database that cannot be served.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct BrokenDatabase {
    pub(super) name: String,
    pub(super) problem: String,
}

/// A new database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDatabase {
    /// The name in URLs.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,62}$"))]
    pub(super) name: String,
    /// Its settings.
    pub(super) settings: Settings,
}

/// The settings of a database, by the keys of a `[[database]]` in the file of the hub, but for name and keys.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Settings {
    /// The connection string of its Postgres.
    #[schemars(regex(pattern = r"^postgres(ql)?://.{1,1000}$"))]
    pub(super) url: String,
    /// What it may take of each node.
    #[serde(default, deserialize_with = "limits", skip_serializing_if = "Option::is_none")]
    pub(super) limits: Option<LimitsBody>,
    /// Further keys.
    #[serde(flatten)]
    pub(super) further: Map<String, Value>,
}

fn limits<'de, D: Deserializer<'de>>(from: D) -> Result<Option<LimitsBody>, D::Error> {
    match Option::<Value>::deserialize(from)? {
        Some(limits) => from_object(limits).map(Some).map_err(D::Error::custom),
        None => Ok(None),
    }
}

/// A key of a database.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct KeyAnswer {
    /// By which it is revoked; a part of its text.
    pub(super) id: String,
    /// What people call it.
    pub(super) label: String,
    /// The database role that it stands for; null is the role that the hub logs in with.
    pub(super) role: Option<String>,
    pub(super) created_at: String,
    /// When it stops opening anything.
    pub(super) expires_at: Option<String>,
}

/// The keys of a database.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct KeysAnswer {
    /// Those of the control database.
    pub(super) keys: Vec<KeyAnswer>,
    /// How many keys the file of the hub has for the database.
    pub(super) file_keys: usize,
}

/// A new key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NewKeyBody {
    /// What people call it.
    #[schemars(length(max = 200))]
    pub(super) label: String,
    /// The database role that it stands for; without one, that which the hub logs in with.
    #[schemars(length(min = 1, max = 63))]
    pub(super) role: Option<String>,
    /// Seconds until it stops opening anything; for ever without.
    #[schemars(range(min = 1, max = 3_153_600_000_u64))]
    pub(super) expires_in_s: Option<u64>,
}

/// A key that was just made.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct NewKeyAnswer {
    pub(super) id: String,
    /// The key itself: told once, kept nowhere.
    pub(super) key: String,
}

/// How a key is replaced.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RotateBody {
    /// Seconds for which the old key still opens.
    #[schemars(range(max = 31_536_000_u64))]
    pub(super) grace_s: u64,
}

/// A site that has uploaded.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Device {
    /// Its site id.
    pub(super) site: String,
    /// The number up to which the database has what it sent.
    pub(super) acknowledged: i64,
    /// When it last uploaded; a central file does not keep that.
    pub(super) seen_at: Option<String>,
    /// Rows of it that the database refused and that it has not confirmed to know.
    pub(super) rejected: i64,
}

/// A replication slot of the hub.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Slot {
    pub(super) name: String,
    /// A leader reads it.
    pub(super) active: bool,
    /// As Postgres says: `reserved`, `extended`, `unreserved` or `lost`.
    pub(super) wal_status: Option<String>,
    pub(super) confirmed_lsn: Option<String>,
    /// WAL that was not confirmed yet.
    pub(super) lag_bytes: Option<i64>,
    /// WAL that Postgres keeps for it.
    pub(super) retained_bytes: Option<i64>,
}

/// Work that the hub does beside requests.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Job {
    pub(super) job: i64,
    /// What is done.
    pub(super) kind: String,
    /// Which one of this kind.
    pub(super) key: String,
    /// `waiting`, `running` or `dead`.
    pub(super) state: String,
    /// How often it was begun since it was done last, or revived.
    pub(super) attempts: i64,
    /// It is done again and again.
    pub(super) recurs: bool,
    /// When it is due, in UTC.
    pub(super) run_at: String,
    /// When its state changed last, in UTC.
    pub(super) changed_at: String,
    /// Why it failed last.
    pub(super) last_error: Option<String>,
}

/// A row that the database refused.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct RejectedRow {
    pub(super) rejection: i64,
    pub(super) site: String,
    pub(super) table: String,
    /// The key of the row, by column; of a central file its values alone, in order.
    pub(super) key: Value,
    pub(super) sqlstate: String,
    pub(super) message: String,
    /// A central file does not keep that.
    pub(super) rejected_at: Option<String>,
}

/// A segment of the log.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SegmentAnswer {
    /// Its name in the store.
    pub(super) name: String,
    /// The LSN that it begins behind.
    pub(super) previous: String,
    /// The LSN that it ends with.
    pub(super) last: String,
    pub(super) bytes: u64,
    /// When it was written, in milliseconds since 1970.
    pub(super) modified_ms: u64,
}

/// A snapshot.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SnapshotAnswer {
    /// Everything that committed up to here is in it.
    pub(super) lsn: String,
    /// Tells snapshots of one LSN apart.
    pub(super) build: String,
    /// All of it is there.
    pub(super) finished: bool,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// When it was written last, in milliseconds since 1970.
    pub(super) modified_ms: u64,
}

/// One page of a list.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// What to give as `after` for the next page; null at the end.
    pub(super) next: Option<String>,
}

/// A problem.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used: problems are written by http/problem.rs")]
pub(super) struct ProblemBody {
    /// `about:blank#` and the code.
    r#type: String,
    title: String,
    status: u16,
    /// For people.
    detail: String,
    /// For programs.
    code: String,
}
