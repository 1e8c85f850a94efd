//! Drops tombstones that every site has received, and says so in the log: everybody drops the same ones there.
//!
//! A table's metadata is looked through by pages, some in each call. The notice goes before the first row that goes,
//! so that no reader can meet a database that forgot more than it has told. Capture and apply wait for no row: one
//! that is being written is left for the next round.

use schema_mapping::to_postgres_text;
use shared_format::{Hlc, Register, Stamp, ValueRef, encode_key};

use crate::apply::{Collected, keep_collected, key_json, parked};
use crate::catalog::{self, Tracked};
use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session::as_owner;
use crate::edge::tuple::Tuple;
use crate::emit;
use crate::error::SyncError;
use crate::metadata::Metadata;

/// What one call did.
#[derive(Default)]
pub(crate) struct Done {
    /// Tombstones that went.
    pub(crate) dropped: i64,
    /// Cells that had waited beside them.
    pub(crate) parked: i64,
    /// Whether the round has not come to its end.
    pub(crate) more: bool,
}

/// A table whose metadata is looked through.
struct Round {
    table_id: i32,
    horizon: i64,
    rising_to: i64,
    next_page: i64,
    pages: i64,
}

/// Goes on dropping tombstones, in at most so many pages of metadata.
pub(crate) fn collect(max_pages: i32) -> Result<Done, SyncError> {
    if max_pages < 1 {
        let found = max_pages.to_string();
        return Err(SyncError::Parameter { parameter: "max_pages", found, wanted: "1 or more" });
    }
    as_owner(|| {
        query::run("select cloudsync.begin_collection()", &[]);
        let mut done = Done::default();
        let mut left = i64::from(max_pages);
        for round in rounds() {
            let end = round.pages.min(round.next_page.saturating_add(left));
            left = left.saturating_sub(end.saturating_sub(round.next_page));
            round.go_on(end, &mut done)?;
        }
        Ok(done)
    })
}

/// Up to where the tombstones of a table are gone. Runs as the owner.
pub(crate) fn horizon(table: &Tracked) -> Hlc {
    let sql = "select h.horizon from cloudsync.horizons as h where h.table_id operator(pg_catalog.=) $1";
    let found = query::read(sql, &[Argument::integer(table.table_id)]);
    found.first().map(codec::to_i64).map_or(Hlc::ZERO, Hlc::from_sql)
}

fn rounds() -> Vec<Round> {
    let found = query::run(include_str!("../../sql/postgres/library/open_collections.sql"), &[]);
    let number = |row: &Tuple, at| row.attribute(at).map_or(0, codec::to_i64);
    let round = |row: &Tuple| Round {
        table_id: row.attribute(1).map_or(0, codec::to_i32),
        horizon: number(row, 2),
        rising_to: number(row, 3),
        next_page: number(row, 4),
        pages: number(row, 5),
    };
    found.rows.iter().map(round).collect()
}

impl Round {
    /// Looks at the pages up to `end`.
    fn go_on(mut self, end: i64, done: &mut Done) -> Result<(), SyncError> {
        if self.next_page < end {
            let table = catalog::table(self.table_id)?;
            let pages = format!("'({},0)'::pg_catalog.tid", self.next_page);
            let beyond = format!("'({end},0)'::pg_catalog.tid");
            let within = format!(
                "d.ctid operator(pg_catalog.>=) {pages} and d.ctid operator(pg_catalog.<) {beyond} \
                 and not d.alive and d.hlc operator(pg_catalog.<) {}",
                self.rising_to
            );
            let horizon = [Argument::bigint(self.rising_to)];
            let bare = query::run(&bare_sql(&table, &within), &[]).count;
            let laden = query::run(&laden_sql(&table, &within), &horizon).rows;
            if self.horizon < self.rising_to && (bare > 0 || !laden.is_empty()) {
                self.horizon = self.rising_to;
                emit::collection(&table, Hlc::from_sql(self.horizon));
            }
            for row in &laden {
                done.parked = done.parked.saturating_add(drop_parked(&table, row)?);
            }
            let rows = bare.saturating_add(u64::try_from(laden.len()).unwrap_or(u64::MAX));
            done.dropped = done.dropped.saturating_add(i64::try_from(rows).unwrap_or(i64::MAX));
        }
        let is_more = end < self.pages;
        done.more |= is_more;
        let arguments = [
            Argument::integer(self.table_id),
            Argument::bigint(self.horizon),
            Argument::of(pgrx::pg_sys::INT8OID, is_more.then(|| end.into())),
        ];
        query::run(include_str!("../../sql/postgres/library/keep_collection.sql"), &arguments);
        Ok(())
    }
}

/// Drops the tombstones beside which nothing is parked.
fn bare_sql(table: &Tracked, within: &str) -> String {
    format!(
        "delete from {metadata} as m where m.ctid operator(pg_catalog.=) any (array( \
         select d.ctid from {metadata} as d where {within} and d.cols is null for update skip locked))",
        metadata = table.metadata(),
    )
}

/// Drops those whose parked cells are older than the horizon too; returns their stamps and keys.
fn laden_sql(table: &Tracked, within: &str) -> String {
    let keys: Vec<String> = (1..=table.key.len()).map(|place| format!("m.key_{place}")).collect();
    format!(
        "delete from {metadata} as m where m.ctid operator(pg_catalog.=) any (array( \
         select d.ctid from {metadata} as d where {within} and d.cols is not null and not exists ( \
         select from pg_catalog.unnest(d.cols) with ordinality as u (clock, place) \
         where u.place operator(pg_catalog.%) 2 operator(pg_catalog.=) 1 \
         and u.clock operator(pg_catalog.>=) $1) for update skip locked)) \
         returning m.alive, m.hlc, m.site, m.cols, {keys}",
        metadata = table.metadata(),
        keys = keys.join(", "),
    )
}

/// Drops the cells that waited beside a tombstone and keeps their values among the conflicts. Returns how many.
fn drop_parked(table: &Tracked, row: &Tuple) -> Result<i64, SyncError> {
    let Some(metadata) = Metadata::from_tuple(row, 1) else { return Ok(0) };
    let key: Vec<ValueRef<'_>> =
        (5..).zip(&table.key).map(|(at, column)| column.codec.value(row.attribute(at))).collect();
    let row_key = encode_key(key.iter().copied());
    let Some(bytes) = parked::stored(table, &row_key) else { return Ok(0) };
    let state = metadata.state(table)?;
    let cells = parked::known_cells(table, &state, &bytes)?;
    for (place, stamp, value) in &cells {
        let Some(column) = table.columns.get(*place) else { continue };
        keep_collected(&Collected {
            table,
            key: key_json(&key),
            column: &column.name,
            value: text(table, *place, *stamp, *value)?,
            stamp: *stamp,
            won: state.life_stamp(),
        });
    }
    parked::forget(table, &row_key);
    Ok(i64::try_from(cells.len()).unwrap_or(i64::MAX))
}

/// A parked value as people read it.
fn text(
    table: &Tracked,
    place: usize,
    stamp: Stamp,
    value: ValueRef<'_>,
) -> Result<Option<String>, SyncError> {
    let Some(column) = table.columns.get(place).map(catalog::Column::column_id) else { return Ok(None) };
    let print = |value| to_postgres_text(value).ok().flatten().map(std::borrow::Cow::into_owned);
    if !table.ruled.is_register(column) {
        return Ok(print(value));
    }
    let register = Register::from_cell(table.ruled.rules.of(column), None, stamp, value)?;
    Ok(print(table.ruled.visible(column, &register).as_ref()))
}
