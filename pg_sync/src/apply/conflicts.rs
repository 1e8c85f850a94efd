//! Values of uploads that lost to what is here, kept beside the tables for the people at the centre.

use super::Lost;
use crate::edge::codec;
use crate::edge::query::{self, Argument};

/// How many are kept between two looks for old ones, each of which reads all.
const BETWEEN_LOOKS: i64 = 100;

/// Keeps a value that lost. Runs as the owner.
pub(super) fn keep(lost: &Lost) {
    let arguments = [
        Argument::integer(lost.table_id),
        Argument::text(&lost.table),
        Argument::text(&lost.key.to_string()),
        Argument::text(&lost.column),
        Argument::optional_text(lost.value.as_deref()),
        Argument::bigint(lost.stamp.hlc.to_sql()),
        Argument::bytea(lost.stamp.site.as_bytes()),
        Argument::bigint(lost.won.hlc.to_sql()),
        Argument::bytea(lost.won.site.as_bytes()),
        Argument::text(if lost.is_alive { "newer" } else { "deleted" }),
    ];
    let kept = query::run(include_str!("../../../sql/postgres/library/keep_conflict.sql"), &arguments);
    if kept.first().map_or(0, codec::to_i64) % BETWEEN_LOOKS == 0 {
        query::run(include_str!("../../../sql/postgres/library/expire_conflicts.sql"), &[]);
    }
}
