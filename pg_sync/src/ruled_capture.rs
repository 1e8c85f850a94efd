//! Capture of ruled tables, row by row: stamps under the lock of the metadata row, writes metadata, emits, and puts
//! back what an algorithm has no place for. Called by the capture triggers, as the owner.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use pgrx::pg_sys::{self, Datum};
use shared_format::payload::{ChangesBuilder, PayloadBuilder, TableAlgorithm};
use shared_format::{
    ColumnId, Hlc, LocalWrite, RowKind, RowRegisters, RowState, SiteId, Stamp, Value, ValueRef,
};

use crate::apply::key_json;
use crate::audience::{Audience, Travel};
use crate::catalog::{self, Tracked};
use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session;
use crate::edge::subtransaction::{RolledBack, subtransaction};
use crate::edge::tuple::{self, Tuple};
use crate::emit;
use crate::error::SyncError;
use crate::metadata::Metadata;
use crate::ruled::{self, Misplaced};
use crate::sites;
use crate::stage::{self, Travelling};
use crate::too_large::{self, Cell as SentCell, LeftOut, Reported};

/// Bytes of rows in one message: see DESIGN section 6.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Tries while the metadata of a row comes and goes: its data row is locked, so one more is the most there is.
const ATTEMPTS_MAX: u32 = 10;

/// A row that a statement wrote.
pub(crate) struct Seen<'a> {
    /// Whether the statement found it there, and left it there.
    pub(crate) was: bool,
    pub(crate) now: bool,
    /// Columns that changed, by place.
    pub(crate) changed: Vec<bool>,
    pub(crate) key: &'a Tuple,
    /// The row as it stands; None when there is none.
    pub(crate) image: Option<&'a Tuple>,
    /// Who reads it, where that is not everybody.
    pub(crate) audience: Option<&'a Audience>,
}

/// A value to be put back in its row.
struct PutBack {
    key: Vec<Value>,
    misplaced: Misplaced,
}

/// One statement's rows of a ruled table.
pub(crate) struct Capture {
    table: Tracked,
    site: SiteId,
    changes: Option<ChangesBuilder>,
    /// Values that were too large, as they are known when the statement begins.
    reported: Option<Reported>,
    put_back: Vec<PutBack>,
    /// Staged rows whose metadata is not what merge saw.
    moved: i64,
}

thread_local! {
    /// Whether a value is being put back: what its statement sets off is captured, and nothing more is put back.
    static PUTTING_BACK: Cell<bool> = const { Cell::new(false) };
}

/// Ends the putting back when dropped, also when an error passes.
struct PuttingBack;

impl Drop for PuttingBack {
    fn drop(&mut self) {
        PUTTING_BACK.set(false);
    }
}

impl Capture {
    /// Starts with a statement's first row.
    pub(crate) fn new(table_id: i32) -> Result<Self, SyncError> {
        let table = catalog::table_now(table_id)?;
        let site = sites::site(sites::self_ordinal()).unwrap_or(SiteId::ZERO);
        Ok(Self { table, site, changes: None, reported: None, put_back: Vec::new(), moved: 0 })
    }

    /// Takes in a row.
    pub(crate) fn row(&mut self, row: &Seen<'_>) -> Result<(), SyncError> {
        if stage::is_staged(self.table.table_id, row.key) { self.staged(row) } else { self.local(row) }
    }

    /// A row that apply wrote: the stage knows what it becomes.
    fn staged(&mut self, row: &Seen<'_>) -> Result<(), SyncError> {
        let Some(outcome) = stage::outcome(self.table.table_id, row.key, row.image) else { return Ok(()) };
        let Some(ruled) = outcome.ruled else { return Ok(()) };
        let found = self.stored(row.key);
        if found != ruled.seen || !self.write(row, found.is_some(), &outcome.metadata) {
            self.moved += 1;
            return Ok(());
        }
        let carried = |place: usize| outcome.carried.get(place).copied().unwrap_or(false);
        self.emit(row, outcome.kind, &ruled.full, &carried, &ruled.travels);
        self.keep(row.key, ruled.misplaced);
        Ok(())
    }

    /// A row that somebody wrote here.
    fn local(&mut self, row: &Seen<'_>) -> Result<(), SyncError> {
        let updated = row.was && row.now;
        let is_news = match row.image {
            None => true,
            Some(_) => row.now && (!updated || row.changed.contains(&true)),
        };
        if !is_news {
            return Ok(());
        }
        for _ in 0..ATTEMPTS_MAX {
            let found = self.stored(row.key);
            if self.stamp(row, updated, found.as_ref())? {
                return Ok(());
            }
        }
        Err(SyncError::Contention { attempts: ATTEMPTS_MAX })
    }

    /// Stamps a local write on top of what metadata says; false when another transaction wrote metadata meanwhile.
    fn stamp(&mut self, row: &Seen<'_>, updated: bool, found: Option<&Metadata>) -> Result<bool, SyncError> {
        let mut full = match found {
            Some(found) => found.full(&self.table)?,
            None if row.was => self.baseline(),
            None => RowRegisters { state: RowState::unseen(), ..RowRegisters::default() },
        };
        let before = full.clone();
        let written: Vec<ColumnId> = self
            .places()
            .filter(|(place, _)| row.changed.get(*place) == Some(&true))
            .map(|(_, id)| id)
            .collect();
        let write = match row.image {
            None if !full.state.is_alive() => return Ok(self.tell_more(row, &full)),
            None => LocalWrite::Delete,
            Some(_) if updated && !self.lacks_registers(&full) => LocalWrite::Update(&written),
            Some(_) => LocalWrite::Create,
        };
        self.check_dead(row, &full.state)?;
        let table = &self.table;
        let columns = table.columns.iter().map(|column| (column.id, column.column_id(), &column.codec));
        let values = row.image.map(|image| ruled::values(&table.ruled, columns, image)).unwrap_or_default();
        let misplaced =
            ruled::write_local(&mut full, &table.ruled, &values, write, session::wall_ms(), self.site);
        if full != before {
            let ordinals = self.ordinals(&full.state);
            if !self.write(row, found.is_some(), &Metadata::of_full(&full, &ordinals)) {
                return Ok(false);
            }
            self.emit_local(row, &before.state, &full);
        }
        self.keep(row.key, misplaced);
        Ok(true)
    }

    /// Another statement has deleted the row for those who read it later: those who read it before are told as well.
    fn tell_more(&mut self, row: &Seen<'_>, full: &RowRegisters) -> bool {
        if let Some(scopes) = row.audience.map(Audience::last) {
            let mut arguments = self.key_arguments(row.key);
            arguments.push(Argument::of(pg_sys::TEXTARRAYOID, Some(tuple::texts(&scopes))));
            let sql = format!(
                "update {} as m set scopes = m.scopes || ${place} \
                 where {} and not coalesce(m.scopes, '{{}}') @> ${place}",
                self.table.metadata(),
                self.key_is(),
                place = arguments.len(),
            );
            if query::run(&sql, &arguments).count > 0 {
                self.emit(row, RowKind::Deleted, full, &|_place| false, &[]);
            }
        }
        true
    }

    fn places(&self) -> impl Iterator<Item = (usize, ColumnId)> {
        self.table.columns.iter().map(catalog::Column::column_id).enumerate()
    }

    /// Whether nobody knows what a register of the row started from: it came in by a way that fires no trigger. Then
    /// the row begins anew.
    fn lacks_registers(&self, full: &RowRegisters) -> bool {
        let is_missing =
            |id: ColumnId| !full.registers.contains_key(&id) && full.state.cell(id) != Some(Stamp::ZERO);
        full.state.is_alive() && self.table.ruled.rules.registers().any(|(id, _)| is_missing(id))
    }

    fn baseline(&self) -> RowRegisters {
        let stamp = Stamp { hlc: Hlc::BASELINE_CENTRE, site: self.site };
        RowRegisters { state: RowState::baseline(stamp), ..RowRegisters::default() }
    }

    /// A key whose deletion stands for good is not used again.
    fn check_dead(&self, row: &Seen<'_>, state: &RowState) -> Result<(), SyncError> {
        let is_dead = state.life.is_some_and(|life| !life.alive);
        if self.table.algorithm == TableAlgorithm::Dws && is_dead && row.image.is_some() {
            return Err(SyncError::DeadKey(self.table.name.clone()));
        }
        Ok(())
    }

    fn ordinals(&self, state: &RowState) -> HashMap<SiteId, i32> {
        let cells = state.cells.iter().map(|cell| cell.stamp.site);
        sites::ordinals(cells.chain([self.site, state.life_stamp().site]))
    }

    fn key_arguments(&self, key: &Tuple) -> Vec<Argument> {
        key.types.iter().zip(&key.values).map(|(type_oid, value)| Argument::of(*type_oid, *value)).collect()
    }

    fn key_is(&self) -> String {
        let part = |(place, column): (usize, &catalog::Column)| {
            format!("m.key_{place} {} ${place}", column.equality)
        };
        (1..).zip(&self.table.key).map(part).collect::<Vec<_>>().join(" and ")
    }

    /// The metadata of a row, locked; the data row is locked already.
    fn stored(&self, key: &Tuple) -> Option<Metadata> {
        let sql = format!(
            "select m.alive, m.hlc, m.site, m.cols, m.registers from {} as m where {} for update",
            self.table.metadata(),
            self.key_is(),
        );
        let found = query::run(&sql, &self.key_arguments(key));
        found.rows.first().and_then(|row| Some(Metadata::from_tuple(row, 1)?.with_registers(row, 5)))
    }

    /// Writes metadata; false when a row of metadata came meanwhile.
    fn write(&self, row: &Seen<'_>, is_there: bool, metadata: &Metadata) -> bool {
        let count = self.table.key.len();
        let key = row.key;
        let scopes = row.audience.filter(|_| !metadata.alive).map(Audience::last);
        let packed = Some(&metadata.registers).filter(|packed| !packed.is_empty());
        let mut arguments = self.key_arguments(key);
        arguments.extend([
            Argument::of(pg_sys::BOOLOID, Some(Datum::from(metadata.alive))),
            Argument::bigint(metadata.hlc),
            Argument::integer(metadata.site),
            Argument::of(pg_sys::INT8ARRAYOID, metadata.cols_datum()),
            Argument::of(pg_sys::BYTEAOID, packed.map(|packed| codec::bytea(packed))),
        ]);
        arguments.extend(
            scopes.iter().map(|scopes| Argument::of(pg_sys::TEXTARRAYOID, Some(tuple::texts(scopes)))),
        );
        let (column, last) = if scopes.is_some() { (", scopes", count + 6) } else { ("", count + 5) };
        let places = |from: usize, to: usize| {
            (from..=to).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
        };
        let keys = (1..=count).map(|place| format!("key_{place}")).collect::<Vec<_>>().join(", ");
        let name = self.table.metadata();
        let sql = if is_there {
            let set = places(count + 1, last);
            format!(
                "update {name} as m set (alive, hlc, site, cols, registers{column}) = row({set}) where {}",
                self.key_is()
            )
        } else {
            let all = places(1, last);
            format!(
                "insert into {name} ({keys}, alive, hlc, site, cols, registers{column}) values ({all}) \
                 on conflict do nothing"
            )
        };
        query::run(&sql, &arguments).count == 1
    }

    fn emit_local(&mut self, row: &Seen<'_>, before: &RowState, full: &RowRegisters) {
        let kind = match (full.state.is_alive(), full.state.life == before.life) {
            (false, _) => RowKind::Deleted,
            (true, false) => RowKind::Created,
            (true, true) => RowKind::Cells,
        };
        let stamped: Vec<bool> =
            self.places().map(|(_, id)| full.state.stamp_of(id) != before.stamp_of(id)).collect();
        let part = |(place, id): (usize, ColumnId)| {
            let kept = full.registers.get(&id).filter(|_| stamped.get(place) == Some(&true))?;
            let stamp = full.state.stamp_of(id);
            Some((place, stamp, ruled::written(&kept.register, stamp)?))
        };
        let travels: Vec<Travelling> = self.places().filter_map(part).collect();
        let carried = |place: usize| kind == RowKind::Created || stamped.get(place).copied().unwrap_or(false);
        self.emit(row, kind, full, &carried, &travels);
    }

    fn emit(
        &mut self,
        row: &Seen<'_>,
        kind: RowKind,
        full: &RowRegisters,
        carried: &dyn Fn(usize) -> bool,
        travels: &[Travelling],
    ) {
        let travel = row.audience.map_or(Travel::AsIs, |audience| audience.travel(kind));
        if !self.table.enabled || travel == Travel::Nothing {
            return;
        }
        let sent = match travel {
            Travel::Nothing | Travel::AsIs => kind,
            Travel::Whole => RowKind::Created,
            Travel::Departure => RowKind::Cells,
        };
        let table = &self.table;
        let note = |changes: &mut ChangesBuilder| {
            if let Some(audience) = row.audience {
                audience.note(changes, sent, travel);
            }
        };
        let key = key_values(table, row.key);
        let ids = table.column_ids();
        let changes = self.changes.get_or_insert_with(|| {
            ChangesBuilder::new(table.number(), table.incarnation, table.version, table.key.len(), &ids)
        });
        if travel == Travel::Departure {
            changes.row(sent, full.state.life_stamp(), &key, &[]);
            note(changes);
        } else {
            let carried = |place| travel == Travel::Whole || carried(place);
            let whole = ruled::sent(&full.registers);
            let image = row.image.filter(|_| sent != RowKind::Deleted);
            let (cells, mut left) = cells_of(table, image, sent, (full, &whole), &carried);
            let travels = travels.iter().filter(|_| sent != RowKind::Deleted);
            let parts: Vec<_> = travels.map(|(place, stamp, part)| (*place, *stamp, part.encode())).collect();
            let (parts, large) = parts_of(&parts);
            left.extend(large);
            let reported = self.reported.get_or_insert_with(|| Reported::of(table.number()));
            reported.clear((table.number(), &ids), sent, &key, &[cells.as_slice(), &parts].concat());
            too_large::report(table.number(), &ids, &key, &left);
            if sent == RowKind::Cells {
                if push_cells(changes, &key, &cells) {
                    note(changes);
                }
            } else {
                let life = full.state.life_stamp();
                let own = |stamp: Option<Stamp>| stamp.filter(|stamp| *stamp != life);
                let cells: Vec<_> =
                    cells.into_iter().map(|(place, stamp, value)| (place, own(stamp), value)).collect();
                changes.row(sent, life, &key, &cells);
                note(changes);
            }
            for part in &parts {
                push_cells(changes, &key, &[*part]);
                note(changes);
            }
        }
        if changes.byte_len() >= MESSAGE_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(full) = self.changes.take().filter(|changes| changes.rows() > 0) else { return };
        let mut payload = PayloadBuilder::new();
        payload.push(full);
        emit::changeset(&payload.finish());
    }

    fn keep(&mut self, key: &Tuple, misplaced: Vec<Misplaced>) {
        if PUTTING_BACK.get() || misplaced.is_empty() {
            return;
        }
        let values = key_values(&self.table, key);
        let key: Vec<Value> = values.iter().map(ValueRef::to_owned_value).collect();
        let put_back = misplaced.into_iter().map(|one| PutBack { key: key.clone(), misplaced: one });
        self.put_back.extend(put_back);
    }

    /// Emits what is left, puts back what has to be, and returns how many staged rows were not as merge saw them.
    pub(crate) fn finish(&mut self) -> i64 {
        self.flush();
        if self.moved == 0 {
            for one in std::mem::take(&mut self.put_back) {
                self.carry_out(&one);
            }
        }
        self.moved
    }

    /// Writes the register's value over the user's, as the table's owner, as a cascade does. A constraint or a
    /// trigger of the user may refuse that; then the user's value stays here alone. It is kept either way.
    fn carry_out(&self, one: &PutBack) {
        let sql = "select c.relowner from pg_catalog.pg_class as c where c.oid operator(pg_catalog.=) $1";
        let owner = query::run(sql, &[Argument::oid(self.table.relation)]).first().map(codec::to_i32);
        let place = self.table.columns.iter().position(|column| column.column_id() == one.misplaced.column);
        let Some((owner, column)) = owner.zip(place.and_then(|place| self.table.columns.get(place))) else {
            return;
        };
        let key = |(place, column): (usize, &catalog::Column)| {
            format!("d.{} {} ${place}", column.quoted(), column.equality)
        };
        let count = self.table.key.len() + 1;
        let sql = format!(
            "update {} as d set {} = ${count} where {}",
            self.table.scan(),
            column.quoted(),
            (1..).zip(&self.table.key).map(key).collect::<Vec<_>>().join(" and "),
        );
        let key = self.table.key.iter().zip(&one.key);
        let mut arguments: Vec<Argument> = key
            .map(|(column, value)| {
                Argument::of(column.codec.type_oid(), column.codec.stored_datum(value.as_ref()))
            })
            .collect();
        PUTTING_BACK.set(true);
        let guard = PuttingBack;
        let written = subtransaction(|| {
            session::as_user(pg_sys::Oid::from(owner.cast_unsigned()), || {
                arguments.push(Argument::of(
                    column.codec.type_oid(),
                    column.codec.datum(one.misplaced.stays.as_ref()),
                ));
                query::run(&sql, &arguments);
            });
            Ok::<_, SyncError>(())
        });
        drop(guard);
        if let Err(RolledBack::Raised(caught)) = written
            && caught.is_transient()
        {
            caught.rethrow();
        }
        self.note(one, column);
    }

    fn note(&self, one: &PutBack, column: &catalog::Column) {
        let Misplaced { lost, lost_stamp, stays_stamp, .. } = &one.misplaced;
        let value = schema_mapping::to_postgres_text(lost.as_ref()).ok().flatten();
        let key: Vec<ValueRef<'_>> = one.key.iter().map(Value::as_ref).collect();
        query::run(
            include_str!("../../sql/postgres/library/keep_conflict.sql"),
            &[
                Argument::integer(self.table.table_id),
                Argument::text(&self.table.name),
                Argument::text(&key_json(&key).to_string()),
                Argument::text(&column.name),
                Argument::of(pg_sys::TEXTOID, value.map(|value| codec::text(&value))),
                Argument::bigint(lost_stamp.hlc.to_sql()),
                Argument::bytea(lost_stamp.site.as_bytes()),
                Argument::bigint(stays_stamp.hlc.to_sql()),
                Argument::bytea(stays_stamp.site.as_bytes()),
                Argument::text(self.table.ruled.rules.of(one.misplaced.column).algorithm().name()),
                Argument::boolean(false),
            ],
        );
    }
}

/// Cells of a row as it stands, each with its stamp, and what is too large to be among them. Registers travel as a whole
/// with a creation, else by their parts.
fn cells_of<'a>(
    table: &'a Tracked,
    image: Option<&'a Tuple>,
    kind: RowKind,
    (full, whole): (&RowRegisters, &'a BTreeMap<ColumnId, Value>),
    carried: &dyn Fn(usize) -> bool,
) -> (Vec<SentCell<'a>>, Vec<LeftOut>) {
    let Some(image) = image else { return (Vec::new(), Vec::new()) };
    let cell = |(place, column): (usize, &'a catalog::Column)| {
        let id = column.column_id();
        let is_part = kind == RowKind::Cells && table.ruled.is_register(id);
        if !carried(place) || is_part || full.state.cell(id) == Some(Stamp::ZERO) {
            return None;
        }
        Some((place, Some(full.state.stamp_of(id)), &column.codec, image.attribute(column.id)))
    };
    let mut read = too_large::read((0..).zip(&table.columns).filter_map(cell));
    too_large::put_registers(&mut read, |place| {
        whole.get(&table.columns.get(place)?.column_id()).map(Value::as_ref)
    });
    read
}

/// Parts of registers as cells, and those that are too large.
fn parts_of(parts: &[(usize, Stamp, Vec<u8>)]) -> (Vec<SentCell<'_>>, Vec<LeftOut>) {
    let (mut cells, mut left) = (Vec::new(), Vec::new());
    for (place, stamp, part) in parts {
        let value = ValueRef::Blob(part);
        match too_large::left_out(*place, value) {
            Some(one) => left.push(one),
            None => cells.push((*place, Some(*stamp), value)),
        }
    }
    (cells, left)
}

/// Adds cells of a row, if there are any; the first one's stamp stands for the row and is said once.
fn push_cells(changes: &mut ChangesBuilder, key: &[ValueRef<'_>], cells: &[SentCell<'_>]) -> bool {
    let Some((_, Some(first), _)) = cells.first().copied() else { return false };
    let own = |stamp: Option<Stamp>| stamp.filter(|stamp| *stamp != first);
    let cells: Vec<SentCell<'_>> =
        cells.iter().map(|(place, stamp, value)| (*place, own(*stamp), *value)).collect();
    changes.row(RowKind::Cells, first, key, &cells);
    true
}

fn key_values<'t>(table: &'t Tracked, key: &'t Tuple) -> Vec<ValueRef<'t>> {
    table.key.iter().zip(&key.values).map(|(column, value)| column.codec.value(*value)).collect()
}

/// The registers of a row that nobody wrote since the table is tracked, packed.
pub(crate) fn first_registers(table_id: i32, image: &Tuple) -> Result<Vec<u8>, SyncError> {
    let table = catalog::table_now(table_id)?;
    let site = sites::site(sites::self_ordinal()).unwrap_or(SiteId::ZERO);
    let columns = table.columns.iter().map(|column| (column.id, column.column_id(), &column.codec));
    let values = ruled::values(&table.ruled, columns, image);
    let base = Stamp { hlc: Hlc::BASELINE_CENTRE, site };
    Ok(ruled::pack(&ruled::first_registers(&table.ruled, values, base)))
}
