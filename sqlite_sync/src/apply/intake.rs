//! What a centre notes of an upload beside the merge: what to pass on, what it refused, which cells lost.

use std::collections::BTreeMap;
use std::mem;

use schema_mapping::{SqliteValue, to_sqlite};
use serde_json::Value as Json;
use shared_format::payload::{Changes, ChangesBuilder, PayloadBuilder, encode_frame};
use shared_format::{CellStamp, RowState, SiteId, Stamp, Value, ValueRef, encode_key, names_others, restamp};

use super::incoming::{Change, Unmapped};
use super::row::{Held, aside_of, incoming};
use super::waiting::Refusal;
use super::{Session, Source};
use crate::emit::TableRows;
use crate::error::{Reading, Result};
use crate::rejected::printed_key;
use crate::tracked_table::TrackedTable;

/// Bytes of rows after which a frame of the feed is cut.
const FRAME_BYTES: usize = 1024 * 1024;

/// Cells that lost and are named; further ones are counted.
const LOST_TOLD_MAX: usize = 1_000;

/// What became of one upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intake {
    /// What changed something here, as frames for everybody.
    pub(crate) frames: Vec<Vec<u8>>,
    /// Rows that were refused, by table and row key.
    pub(crate) refusals: BTreeMap<(String, Vec<u8>), RefusedRow>,
    /// Cells of the site above which another one's write stands.
    pub(crate) lost: Vec<LostCell>,
    /// How many more there are.
    pub(crate) lost_more: u64,
}

/// A row that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedRow {
    pub(crate) key: Vec<Json>,
    pub(crate) sqlstate: &'static str,
    pub(crate) message: String,
}

/// A cell that lost, and the stamp that stays in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostCell {
    pub(crate) table: String,
    pub(crate) key: Vec<Json>,
    pub(crate) column: String,
    pub(crate) won: Stamp,
}

/// An intake in the making.
#[derive(Default)]
pub(super) struct Gathering {
    done: Intake,
    /// Rows of the frame that is being filled, by the place of their table.
    rows: BTreeMap<usize, (std::rc::Rc<TrackedTable>, ChangesBuilder)>,
    /// Changes that may still be undone together.
    group: Option<Vec<(Change<'static>, Vec<LostCell>)>>,
}

impl Gathering {
    /// Takes in that a change was merged.
    pub(super) fn merged(&mut self, change: &Change<'_>, is_changed: bool, lost: Vec<LostCell>) {
        if let Some(group) = &mut self.group {
            if is_changed {
                group.push((change.clone().into_owned(), lost));
            }
            return;
        }
        for cell in lost {
            if self.done.lost.len() < LOST_TOLD_MAX {
                self.done.lost.push(cell);
            } else {
                self.done.lost_more = self.done.lost_more.saturating_add(1);
            }
        }
        if is_changed {
            self.pass_on(change);
        }
    }

    fn pass_on(&mut self, change: &Change<'_>) {
        let (_table, rows) = self
            .rows
            .entry(change.table_at)
            .or_insert_with(|| (std::rc::Rc::clone(&change.table), TableRows::builder(&change.table)));
        let key: Vec<ValueRef<'_>> = change.key.iter().map(SqliteValue::as_value).collect();
        let own = |cell: CellStamp| (cell.stamp != change.stamp).then_some(cell.stamp);
        let cells: Vec<_> = change.cells().map(|(at, cell, value)| (at, own(cell), value)).collect();
        rows.row(change.kind, change.stamp, &key, &cells);
        if self.rows.values().map(|(_table, rows)| rows.byte_len()).sum::<usize>() >= FRAME_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let mut payload = PayloadBuilder::new();
        for (table, rows) in mem::take(&mut self.rows).into_values() {
            payload.definition(&table.definition());
            payload.push(rows);
        }
        if !payload.is_empty() {
            self.done.frames.push(encode_frame(&payload.finish()));
        }
    }

    /// Begins changes that may be undone together.
    pub(super) fn begin_group(&mut self) {
        self.group = Some(Vec::new());
    }

    /// Ends them; they stay, or were undone.
    pub(super) fn end_group(&mut self, stays: bool) {
        for (change, lost) in self.group.take().into_iter().flatten().filter(|_| stays) {
            self.merged(&change, true, lost);
        }
    }

    /// Takes in that a change was refused for good.
    pub(super) fn refused(&mut self, change: &Change<'_>, refusal: &Refusal) {
        let row = RefusedRow {
            key: printed_key(&change.key_values()),
            sqlstate: refusal.sqlstate,
            message: refusal.reason.clone(),
        };
        self.done.refusals.insert((change.table.name.clone(), change.pk()), row);
    }

    /// Refuses all rows of a table that this file does not take.
    pub(super) fn refused_table(&mut self, changes: &Changes<'_>, unmapped: &Unmapped) -> Result<()> {
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row().reading("row")? {
            let key: Vec<Value> = row.key.iter().map(|part| to_sqlite(*part).to_value()).collect();
            let pk = encode_key(key.iter().map(Value::as_ref));
            let message = format!("table {:?}: {}", unmapped.table, unmapped.reason);
            let row = RefusedRow { key: printed_key(&key), sqlstate: unmapped.sqlstate(), message };
            self.done.refusals.insert((unmapped.table.clone(), pk), row);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Intake {
        self.cut();
        self.done
    }
}

impl Session<'_, '_> {
    /// Cells of the uploading site that a merge into this state does not take, because another one's write stands
    /// above them and says something else.
    pub(super) fn lost_cells(&mut self, change: &Change<'_>, local: &RowState) -> Result<Vec<LostCell>> {
        let Source::Upload(site) = self.source else { return Ok(Vec::new()) };
        let life = local.life_stamp();
        let won = |cell: &CellStamp| local.stamp_of(cell.column).max(life);
        let is_beaten = |cell: &CellStamp| {
            let is_plain = !change.table.rules.of(cell.column).is_register();
            is_plain && cell.stamp.site == site && won(cell) > cell.stamp && won(cell).site != site
        };
        if !change.stamps.iter().any(is_beaten) {
            return Ok(Vec::new());
        }
        let statements = &mut self.statements[change.table_at];
        let mut held = Held::new(statements, change, local.is_alive(), aside_of(&self.aside, change));
        let mut lost = Vec::new();
        for (place, cell, value) in change.cells().filter(|(_, cell, _)| is_beaten(cell)) {
            let kept = if local.is_alive() { held.value(place)? } else { None };
            if kept.is_some_and(|kept| value.cmp_encoded(&kept.as_ref()).is_eq()) {
                continue;
            }
            lost.push(LostCell {
                table: change.table.name.clone(),
                key: printed_key(&change.key_values()),
                column: change.table.columns[place].name.clone(),
                won: won(&cell),
            });
        }
        Ok(lost)
    }

    /// The change as the uploading site may make it, if not as it is.
    pub(super) fn restamped<'a>(&mut self, change: &Change<'a>) -> Result<Option<Change<'a>>> {
        let Source::Upload(site) = self.source else { return Ok(None) };
        let uncarried = change.uncarried();
        let merged = incoming(change, &uncarried);
        let is_own = |named: SiteId| named == site;
        if !names_others(&merged, is_own) {
            return Ok(None);
        }
        let (held, _is_known) = self.local_state(change)?;
        let (stamp, stamps) = restamp(&merged, &held, self.replica.own(), is_own);
        Ok(Some(Change { stamp, stamps, ..change.clone() }))
    }
}
