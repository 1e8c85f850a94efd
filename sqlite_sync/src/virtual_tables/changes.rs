//! `cloudsync_changes`: one line for every cell with its stamp, and one for the life of every row.
//!
//! The line of a life comes after those of its row's cells.

use std::collections::VecDeque;
use std::ffi::{CStr, c_int};

use rusqlite::Connection;
use rusqlite::vtab::{IndexConstraintOp, IndexInfo};
use shared_format::{Stamp, Value, encode_key};

use super::module::Listing;
use super::walk::{Changed, Walk, Wanted};
use crate::error::Result;
use crate::log::DbVersion;
use crate::sql::refs;

/// Name of the column in a line that tells of a row's life.
pub(crate) const LIFE: &str = "__[RIP]__";

/// `cl` of a row that exists.
const ALIVE: i64 = 1;

/// `cl` of a row that does not.
const DELETED: i64 = 2;

/// Places of columns.
const TBL: c_int = 0;
const DB_VERSION: c_int = 5;
const SITE_ID: c_int = 6;

/// Constraints that a plan may have, in the order in which their values come.
const CONSTRAINTS: [(c_int, IndexConstraintOp); 7] = [
    (DB_VERSION, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT),
    (DB_VERSION, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE),
    (DB_VERSION, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT),
    (DB_VERSION, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE),
    (DB_VERSION, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ),
    (SITE_ID, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ),
    (TBL, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ),
];

/// A walk through the lines.
pub(super) struct Changes {
    walk: Walk,
    site: Option<Vec<u8>>,
    lines: VecDeque<Vec<Value>>,
}

impl Listing for Changes {
    const NAME: &'static CStr = c"cloudsync_changes";
    const DECLARATION: &'static CStr = c"create table x (tbl text not null, pk blob not null,
        col_name text not null, col_value any, col_version integer not null, db_version integer not null,
        site_id blob not null, cl integer not null, seq integer not null)";

    fn plan(info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let mut plan = 0;
        let mut chosen = [None; CONSTRAINTS.len()];
        for (at, constraint) in info.constraints().enumerate() {
            let same = |(column, operator): &(c_int, IndexConstraintOp)| {
                constraint.is_usable() && *column == constraint.column() && *operator == constraint.operator()
            };
            if let Some(kind) = CONSTRAINTS.iter().position(same).filter(|kind| chosen[*kind].is_none()) {
                chosen[kind] = Some(at);
                plan |= 1 << kind;
            }
        }
        let mut argument = 0;
        for at in chosen.into_iter().flatten() {
            argument += 1;
            // SQLite asks again itself, so a value of another type may be passed over here.
            info.constraint_usage(at).set_argv_index(argument);
        }
        let is_ranged = chosen[..5].iter().any(Option::is_some);
        info.set_estimated_cost(if is_ranged { 10_000.0 } else { 1_000_000.0 });
        info.set_idx_num(plan);
        Ok(true)
    }

    fn begin(connection: &Connection, plan: c_int, constraints: &[Value]) -> Result<Self> {
        let (mut after, mut until) = (i64::MIN, i64::MAX);
        let (mut site, mut table) = (None, None);
        let kinds = (0..CONSTRAINTS.len()).filter(|kind| plan & (1 << kind) != 0);
        for (kind, value) in kinds.zip(constraints) {
            match (kind, value) {
                (0, Value::Integer(n)) => after = after.max(*n),
                (1, Value::Integer(n)) => after = after.max(n.saturating_sub(1)),
                (2, Value::Integer(n)) => until = until.min(n.saturating_sub(1)),
                (3, Value::Integer(n)) => until = until.min(*n),
                (4, Value::Integer(n)) => {
                    after = after.max(n.saturating_sub(1));
                    until = until.min(*n);
                }
                (5, Value::Blob(bytes)) => site = Some(bytes.clone()),
                (6, Value::Text(name)) => table = Some(name.clone()),
                _other_type => {}
            }
        }
        let wanted = Wanted { after: DbVersion::new(after), until: DbVersion::new(until), table };
        Ok(Self { walk: Walk::begin(connection, wanted)?, site, lines: VecDeque::new() })
    }

    fn next_row(&mut self, connection: &Connection) -> Result<Option<Vec<Value>>> {
        while self.lines.is_empty() {
            let Some(changed) = self.walk.next_row(connection)? else { return Ok(None) };
            self.push_lines(&changed);
        }
        Ok(self.lines.pop_front())
    }
}

impl Changes {
    fn push_lines(&mut self, changed: &Changed) {
        let state = &changed.state;
        let pk = encode_key(refs(&changed.key));
        let is_alive = state.is_alive();
        let mut line = |name: &str, value: Value, stamp: Stamp, seq: usize| {
            if self.site.as_ref().is_some_and(|site| site.as_slice() != stamp.site.as_bytes()) {
                return;
            }
            self.lines.push_back(vec![
                Value::Text(changed.table.name.clone()),
                Value::Blob(pk.clone()),
                Value::Text(name.to_owned()),
                value,
                Value::Integer(stamp.hlc.to_sql()),
                Value::Integer(changed.seq.get()),
                Value::Blob(stamp.site.as_bytes().to_vec()),
                Value::Integer(if is_alive { ALIVE } else { DELETED }),
                Value::Integer(i64::try_from(seq).unwrap_or(i64::MAX)),
            ]);
        };
        for (id, value) in &changed.values {
            let Some(at) = changed.table.position(*id) else { continue };
            let stamp = if is_alive { state.stamp_of(*id) } else { state.cell(*id).unwrap_or(Stamp::ZERO) };
            // A column that the creation did not carry has its default, which nobody wrote.
            if stamp != Stamp::ZERO || state.cell(*id).is_none() {
                line(&changed.table.columns[at].name, value.clone(), stamp, at);
            }
        }
        if let Some(life) = state.life {
            line(LIFE, Value::Null, life.stamp, changed.table.columns.len());
        }
    }
}
