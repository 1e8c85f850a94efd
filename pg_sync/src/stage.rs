//! The stage of a running apply: what was asked of each row and what merge decided, for the capture triggers.
//!
//! It is memory of this session, set while apply's own data statements run and dropped with them. A row that
//! is stored as asked takes the merged stamps; where a trigger, a default or a type made something else of
//! it, those cells are writes of this database. No borrow of it is held while SQL runs.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use pgrx::pg_sys::Datum;
use shared_format::{
    ColumnId, LocalWrite, Register, RowKind, RowRegisters, SiteId, Stamp, ValueRef, encode_key,
};

use crate::audience::Audience;
use crate::catalog::Tracked;
use crate::edge::codec::Codec;
use crate::edge::memory::Context;
use crate::edge::session;
use crate::edge::tuple::Tuple;
use crate::emit::{Emitted, Emitter};
use crate::error::SyncError;
use crate::metadata::Metadata;
use crate::ruled::{self, Misplaced, TableRules};
use crate::sorted::Sorted;

/// What the stored value of a column is expected to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) value: Option<Datum>,
    /// The text that was sent, where the stored text may be another though the bytes are as asked.
    pub(crate) sent: Option<String>,
}

/// What apply asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The row is made, or becomes another.
    Whole,
    /// These columns are written, by place.
    Cells,
    /// The row goes.
    Gone,
    /// No data statement: metadata alone.
    Nothing,
}

/// One row of the stage.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    asked: Asked,
    /// Per column: whether it travels on.
    carried: Vec<bool>,
    /// What came for columns that hold registers.
    travels: Vec<Travelling>,
    progress: Progress,
    /// What to go back to when the subtransaction of that number is rolled back.
    undo: Vec<(u32, Progress)>,
}

/// How far the triggers are with a row.
#[derive(Clone, Debug)]
struct Progress {
    /// Per column: what will be stored if nothing interferes.
    expected: Vec<Expected>,
    /// Metadata that the merge saw, or that a trigger wrote before; None where there was none.
    seen: Option<Metadata>,
    /// What the row becomes; after a trigger has seen it, what it became.
    full: RowRegisters,
    /// Metadata that the trigger of the newest statement writes.
    written: Option<Metadata>,
    /// Whether a trigger saw the row.
    consumed: bool,
}

impl Staged {
    /// A row that no trigger has seen yet.
    pub(crate) fn new(
        asked: Asked,
        carried: Vec<bool>,
        travels: Vec<Travelling>,
        expected: Vec<Expected>,
        seen: Option<Metadata>,
        full: RowRegisters,
    ) -> Self {
        let progress = Progress { expected, seen, full, written: None, consumed: false };
        Self { asked, carried, travels, progress, undo: Vec::new() }
    }
}

/// What a staged row becomes, for the capture trigger.
pub(crate) struct Outcome {
    pub(crate) kind: RowKind,
    pub(crate) metadata: Metadata,
    pub(crate) carried: Vec<bool>,
    pub(crate) ruled: Option<RuledOutcome>,
}

/// What more there is to say of a row of a ruled table.
pub(crate) struct RuledOutcome {
    /// The metadata that has to be there still.
    pub(crate) seen: Option<Metadata>,
    pub(crate) full: RowRegisters,
    /// What travels of registers.
    pub(crate) travels: Vec<Travelling>,
    pub(crate) misplaced: Vec<Misplaced>,
}

/// Entries of a register that one site wrote: place of the column, stamp of the cell, entries.
pub(crate) type Travelling = (usize, Stamp, Register);

/// How a row travels on, and which columns of it.
type Stored = (RowKind, Vec<bool>);

struct StagedTable {
    columns: Vec<(i16, ColumnId, Codec)>,
    key: Vec<(i16, Codec)>,
    rules: TableRules,
    /// By key, which is the order in which a statement writes them.
    rows: Sorted<Vec<u8>, Staged>,
    inserted: Inserted,
}

/// What one statement inserted, of which the trigger asks row by row.
struct Inserted {
    /// An empty one, for the next statement.
    start: Box<dyn Fn() -> Emitter>,
    emitter: Option<Emitter>,
    offered: i64,
    taken: i64,
}

impl Inserted {
    fn forget(&mut self) {
        (self.emitter, self.offered, self.taken) = (None, 0, 0);
    }
}

/// The rows of one try.
pub(crate) struct Stage {
    tables: HashMap<i32, StagedTable>,
    ordinals: HashMap<SiteId, i32>,
    site: SiteId,
    /// The subtransaction that it lives in: with that one it is gone.
    made_in: u32,
    /// Holds copies of stored values.
    memory: Context,
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
    /// Whether a try ended because metadata was not what the merge saw.
    static OVERTAKEN: Cell<bool> = const { Cell::new(false) };
    /// Whether staged rows are being moved aside: they will be written once more, as they were asked for.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs what moves staged rows aside; the triggers leave them alone meanwhile.
pub(crate) fn aside<T>(body: impl FnOnce() -> T) -> T {
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            ASIDE.set(false);
        }
    }
    ASIDE.set(true);
    let _ended = Ended;
    body()
}

impl Stage {
    /// An empty stage; `ordinals` knows every site that may be written, `site` is our own.
    pub(crate) fn new(ordinals: HashMap<SiteId, i32>, site: SiteId) -> Self {
        let made_in = session::subtransaction_id();
        Self { tables: HashMap::new(), ordinals, site, made_in, memory: Context::new(c"cloudsync stage") }
    }

    /// Adds a row: best in the order of keys. `rows` is how many are expected.
    pub(crate) fn add(&mut self, table: &Tracked, row_key: Vec<u8>, row: Staged, rows: usize) {
        let staged = self.tables.entry(table.table_id).or_insert_with(|| StagedTable {
            columns: table.columns.iter().map(|c| (c.id, c.column_id(), c.codec.clone())).collect(),
            key: table.key.iter().map(|column| (column.id, column.codec.clone())).collect(),
            rules: table.ruled.clone(),
            rows: Sorted::with_capacity(rows),
            inserted: Inserted { start: emitter(table), emitter: None, offered: 0, taken: 0 },
        });
        staged.rows.insert(row_key, row);
    }
}

/// Keeps the stage up; takes it down when dropped, also when an error passes.
pub(crate) struct Standing;

impl Standing {
    /// Puts a stage up.
    pub(crate) fn begin(stage: Stage) -> Self {
        STAGE.set(Some(stage));
        Self
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        STAGE.set(None);
    }
}

/// Notes that metadata is not what the merge saw.
pub(crate) fn note_overtaken() {
    OVERTAKEN.set(true);
}

/// Whether that was noted since it was asked.
pub(crate) fn take_overtaken() -> bool {
    OVERTAKEN.take()
}

/// Whether an apply is running.
pub(crate) fn is_standing() -> bool {
    STAGE.with_borrow(Option::is_some)
}

/// Whether rows of a table are staged.
pub(crate) fn has_table(table: i32) -> bool {
    STAGE.with_borrow(|stage| stage.as_ref().is_some_and(|stage| stage.tables.contains_key(&table)))
}

/// Keys, of all tables, that wait for a trigger and were not seen by one.
pub(crate) fn unseen() -> HashSet<(i32, Vec<u8>)> {
    STAGE.with_borrow(|stage| {
        let tables = stage.iter().flat_map(|stage| &stage.tables);
        tables
            .flat_map(|(table, staged)| staged.rows.iter().map(move |(key, row)| (*table, key, row)))
            .filter(|(_, _, row)| row.asked != Asked::Nothing && !row.progress.consumed)
            .map(|(table, key, _)| (table, key.clone()))
            .collect()
    })
}

fn with_row<T>(table: i32, key: &Tuple, body: impl FnOnce(&mut StageView<'_>) -> T) -> Option<T> {
    STAGE.with_borrow_mut(|stage| {
        let Stage { tables, ordinals, site, made_in, memory } = stage.as_mut()?;
        let StagedTable { columns, key: codecs, rules, rows, .. } = tables.get_mut(&table)?;
        let parts = codecs.iter().zip(&key.values).map(|((_, codec), value)| codec.value(*value));
        let row = rows.get_mut(encode_key(parts.collect::<Vec<ValueRef<'_>>>()).as_slice())?;
        Some(body(&mut StageView { row, columns, rules, ordinals, site: *site, made_in: *made_in, memory }))
    })
}

/// Whether a row is staged.
pub(crate) fn is_staged(table: i32, key: &Tuple) -> bool {
    with_row(table, key, |_| ()).is_some()
}

/// Whether the metadata of a staged row is what the merge saw, or what our own trigger wrote since.
pub(crate) fn is_unchanged(table: i32, key: &Tuple, found: &Metadata) -> bool {
    with_row(table, key, |view| view.row.progress.seen.as_ref().is_some_and(|seen| seen.has_stamps_of(found)))
        .unwrap_or(false)
}

/// Decides what a staged row becomes, given what is stored now; None when it is not staged, or nothing is
/// left to write.
pub(crate) fn outcome(table: i32, key: &Tuple, image: Option<&Tuple>) -> Option<Outcome> {
    with_row(table, key, |view| view.outcome(image))?
}

fn emitter(table: &Tracked) -> Box<dyn Fn() -> Emitter> {
    let (number, incarnation, version) = (table.number(), table.incarnation, table.version);
    let columns: Vec<i16> = table.columns.iter().map(|column| column.id).collect();
    Box::new(move || Emitter::new(number, incarnation, version, columns.clone()))
}

/// The short way for a row that apply inserted and that no other statement has touched: what its metadata becomes,
/// the message begun. None for any other row. `image` is the row as it was inserted; whatever wrote it since would
/// have passed a capture trigger, and the stage would know.
pub(crate) fn insert_outcome(
    table: i32,
    image: &Tuple,
    audience: Option<&Audience>,
) -> Result<Option<Metadata>, SyncError> {
    let key = STAGE.with_borrow_mut(|stage| {
        let staged = stage.as_mut()?.tables.get_mut(&table)?;
        staged.inserted.offered += 1;
        let key = staged.key.iter();
        let (values, types) =
            key.map(|(id, _)| (image.attribute(*id), image.attribute_type(*id).unwrap_or_default())).unzip();
        Some(Tuple { values, types })
    });
    let Some(key) = key else { return Ok(None) };
    let Some((outcome, _)) = first_insert(table, &key, image) else { return Ok(None) };
    let emitter = STAGE.with_borrow_mut(|stage| {
        let inserted = &mut stage.as_mut()?.tables.get_mut(&table)?.inserted;
        inserted.taken += 1;
        Some(inserted.emitter.take().unwrap_or_else(|| (inserted.start)()))
    });
    let Some(mut emitter) = emitter else { return Ok(None) };
    let Outcome { kind, metadata, carried, ruled: None } = outcome else { return Ok(None) };
    emitter.row(&Emitted {
        kind,
        hlc: metadata.hlc,
        site: metadata.site,
        cols: &metadata.cols,
        carried: Some(&carried),
        key: &key,
        image,
        audience,
    })?;
    STAGE.with_borrow_mut(|stage| {
        if let Some(staged) = stage.as_mut().and_then(|stage| stage.tables.get_mut(&table)) {
            staged.inserted.emitter = Some(emitter);
        }
    });
    Ok(Some(metadata))
}

/// What a row becomes that apply inserted and that no other statement has touched, and whether it had metadata before.
/// None for any other row.
pub(crate) fn first_insert(table: i32, key: &Tuple, image: &Tuple) -> Option<(Outcome, bool)> {
    let untouched = |view: &mut StageView<'_>| {
        let is_first = view.row.asked == Asked::Whole && !view.row.progress.consumed;
        let had_metadata = view.row.progress.seen.is_some();
        if is_first { view.outcome(Some(image)).map(|outcome| (outcome, had_metadata)) } else { None }
    };
    with_row(table, key, untouched)?
}

/// Ends the short way of one statement, which wrote the metadata of so many rows: sends what was begun and returns
/// how many rows are left to the long way. None when other metadata was found than the merge saw.
pub(crate) fn insert_ended(table: i32, written: i64) -> Option<i64> {
    let (emitter, offered, taken) = STAGE.with_borrow_mut(|stage| {
        let inserted = &mut stage.as_mut()?.tables.get_mut(&table)?.inserted;
        let ended = (inserted.emitter.take(), inserted.offered, inserted.taken);
        inserted.forget();
        Some(ended)
    })?;
    if let Some(mut emitter) = emitter {
        emitter.finish();
    }
    (written == taken).then(|| offered.saturating_sub(taken))
}

/// Goes back to what was before a subtransaction that is being rolled back.
pub(crate) fn subtransaction_aborted(id: u32) {
    STAGE.with_borrow_mut(|stage| {
        let Some(stage) = stage else { return };
        for table in stage.tables.values_mut() {
            table.inserted.forget();
        }
        if id <= stage.made_in {
            return;
        }
        for row in stage.tables.values_mut().flat_map(|table| table.rows.values_mut()) {
            while let Some((_, before)) = row.undo.pop_if(|(made_in, _)| *made_in >= id) {
                row.progress = before;
            }
        }
    });
}

struct StageView<'a> {
    row: &'a mut Staged,
    columns: &'a [(i16, ColumnId, Codec)],
    rules: &'a TableRules,
    ordinals: &'a HashMap<SiteId, i32>,
    site: SiteId,
    made_in: u32,
    memory: &'a Context,
}

impl StageView<'_> {
    fn outcome(&mut self, image: Option<&Tuple>) -> Option<Outcome> {
        if ASIDE.get() && image.is_some() {
            return None;
        }
        let first = !self.row.progress.consumed;
        let running = session::subtransaction_id();
        if running != self.made_in {
            self.row.undo.push((running, self.row.progress.clone()));
        }
        self.row.progress.consumed = true;
        if let Some(written) = self.row.progress.written.take() {
            self.row.progress.seen = Some(written);
        }
        let seen = if self.is_ruled() { self.row.progress.seen.clone() } else { None };
        let wall = session::wall_ms();
        let (mut travels, mut misplaced) = (Vec::new(), Vec::new());
        let (kind, carried) = match image {
            None => self.gone(first, wall)?,
            Some(image) => self.stored(first, wall, image, &mut travels, &mut misplaced)?,
        };
        let full = &self.row.progress.full;
        let metadata = Metadata::of_full(full, self.ordinals);
        let ruled = self.is_ruled().then(|| RuledOutcome { seen, full: full.clone(), travels, misplaced });
        self.row.progress.written = Some(metadata.clone());
        Some(Outcome { kind, metadata, carried, ruled })
    }

    fn is_ruled(&self) -> bool {
        !self.rules.rules.are_plain()
    }

    fn write_local(&mut self, write: LocalWrite<'_>, wall: i64, image: Option<&Tuple>) -> Vec<Misplaced> {
        let columns = self.columns.iter().map(|(number, id, codec)| (*number, *id, codec));
        let values = image.map(|image| ruled::values(self.rules, columns, image)).unwrap_or_default();
        ruled::write_local(&mut self.row.progress.full, self.rules, &values, write, wall, self.site)
    }

    fn gone(&mut self, first: bool, wall: i64) -> Option<Stored> {
        if self.row.progress.full.state.is_alive() {
            self.write_local(LocalWrite::Delete, wall, None);
        } else if !first {
            return None;
        }
        Some((RowKind::Deleted, Vec::new()))
    }

    fn stored(
        &mut self,
        first: bool,
        wall: i64,
        image: &Tuple,
        travels: &mut Vec<Travelling>,
        misplaced: &mut Vec<Misplaced>,
    ) -> Option<Stored> {
        let differs: Vec<bool> = self
            .columns
            .iter()
            .zip(&self.row.progress.expected)
            .map(|(column, expected)| differs(&column.2, image.attribute(column.0), expected))
            .collect();
        self.remember(image, &differs);
        if !self.row.progress.full.state.is_alive() {
            // Deleted as asked, and made again by a trigger of the table.
            self.write_local(LocalWrite::Create, wall, Some(image));
            return Some((RowKind::Created, vec![true; self.columns.len()]));
        }
        let written: Vec<ColumnId> = self
            .columns
            .iter()
            .zip(&differs)
            .filter(|(_, differs)| **differs)
            .map(|(column, _)| column.1)
            .collect();
        let mut stamped = differs;
        let mut whole = first && self.row.asked == Asked::Whole;
        if first {
            travels.extend(self.row.travels.iter().cloned());
        }
        if !written.is_empty() {
            let before = self.row.progress.full.state.clone();
            misplaced.extend(self.write_local(LocalWrite::Update(&written), wall, Some(image)));
            let after = &self.row.progress.full;
            whole |= after.state.life != before.life;
            for (place, (column, stamped)) in self.columns.iter().zip(&mut stamped).enumerate() {
                *stamped = after.state.stamp_of(column.1) != before.stamp_of(column.1);
                let register = after.registers.get(&column.1).filter(|_| *stamped);
                let stamp = after.state.stamp_of(column.1);
                let part = register.and_then(|kept| ruled::written(&kept.register, stamp));
                travels.extend(part.map(|part| (place, stamp, part)));
            }
        }
        let carried: Vec<bool> = self
            .columns
            .iter()
            .zip(&stamped)
            .enumerate()
            .map(|(place, (column, stamped))| {
                let asked = first && self.row.carried.get(place).copied().unwrap_or(false);
                let known = self.row.progress.full.state.cell(column.1) != Some(Stamp::ZERO);
                *stamped || (if whole { known } else { asked })
            })
            .collect();
        if !first && !stamped.contains(&true) && misplaced.is_empty() {
            return None;
        }
        Some((if whole { RowKind::Created } else { RowKind::Cells }, carried))
    }

    /// From now on the row as it is stored is what is expected.
    fn remember(&mut self, image: &Tuple, differs: &[bool]) {
        let (columns, memory) = (self.columns, self.memory);
        let expected = columns.iter().zip(differs).zip(&mut self.row.progress.expected);
        for ((column, _), expected) in expected.filter(|((_, differs), _)| **differs) {
            let value = memory.run(|| column.2.copy(image.attribute(column.0)));
            *expected = Expected { value, sent: None };
        }
    }
}

fn differs(codec: &Codec, stored: Option<Datum>, expected: &Expected) -> bool {
    if !codec.same_image(stored, expected.value) {
        return true;
    }
    let Some(sent) = &expected.sent else { return false };
    match codec.value(stored) {
        ValueRef::Jsonb(text) => text != sent,
        _ => false,
    }
}
