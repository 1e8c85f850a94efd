//! Values of uploads that lost to what is here, kept beside the tables for the people at the centre.

use serde_json::Value as Json;
use shared_format::Stamp;

use super::Lost;
use crate::catalog::Tracked;
use crate::edge::codec;
use crate::edge::query::{self, Argument};

/// How many are kept between two looks for old ones, each of which reads all.
const BETWEEN_LOOKS: i64 = 100;

/// A parked cell that goes with its tombstone.
pub(crate) struct Collected<'a> {
    /// The table.
    pub(crate) table: &'a Tracked,
    /// The key of its row.
    pub(crate) key: Json,
    /// The name of its column.
    pub(crate) column: &'a str,
    /// What it held, in the text form of its type.
    pub(crate) value: Option<String>,
    /// Its stamp.
    pub(crate) stamp: Stamp,
    /// The stamp of the deletion.
    pub(crate) won: Stamp,
}

/// Keeps a value that lost. Runs as the owner.
pub(super) fn keep(lost: &Lost) {
    let reason = if lost.is_alive { "newer" } else { "deleted" };
    let row = (lost.table_id, lost.table.as_str(), &lost.key);
    store(row, (&lost.column, lost.value.as_deref()), (lost.stamp, lost.won), (reason, lost.is_tellable));
}

/// Keeps the value of a parked cell. Runs as the owner.
pub(crate) fn keep_collected(lost: &Collected<'_>) {
    let row = (lost.table.table_id, lost.table.client_name.as_str(), &lost.key);
    store(row, (lost.column, lost.value.as_deref()), (lost.stamp, lost.won), ("collected", false));
}

fn store(
    (table_id, table, key): (i32, &str, &Json),
    (column, value): (&str, Option<&str>),
    (stamp, won): (Stamp, Stamp),
    (reason, is_told): (&str, bool),
) {
    let arguments = [
        Argument::integer(table_id),
        Argument::text(table),
        Argument::text(&key.to_string()),
        Argument::text(column),
        Argument::optional_text(value),
        Argument::bigint(stamp.hlc.to_sql()),
        Argument::bytea(stamp.site.as_bytes()),
        Argument::bigint(won.hlc.to_sql()),
        Argument::bytea(won.site.as_bytes()),
        Argument::text(reason),
        Argument::boolean(is_told),
    ];
    let kept = query::run(include_str!("../../../sql/postgres/library/keep_conflict.sql"), &arguments);
    if kept.first().map_or(0, codec::to_i64) % BETWEEN_LOOKS == 0 {
        query::run(include_str!("../../../sql/postgres/library/expire_conflicts.sql"), &[]);
    }
}
