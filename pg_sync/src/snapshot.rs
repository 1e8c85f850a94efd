//! One page of a table's merged state, in key order: live rows as whole creations, or tombstones and what is
//! parked beside them.
//!
//! Reads in the snapshot of the caller's transaction and with the caller's rights: the hub asks as
//! cloudsync_owner with row security off, so that a filtered scan is an error.

use shared_format::payload::{ChangesBuilder, Collection, PayloadBuilder};
use shared_format::{Hlc, RowKind, RowState, Stamp, Value, ValueRef, decode_key, encode_key};

use crate::apply::parked;
use crate::catalog::{self, Tracked};
use crate::edge::query::{self, Argument};
use crate::edge::session::{as_owner, by_index};
use crate::edge::tuple::{self, Tuple};
use crate::error::SyncError;
use crate::metadata::Metadata;
use crate::{audience, collect, expressions, ruled, sites, too_large, version};

/// Rows read from the server at once, so that wide rows do not gather in memory.
const ROWS_AT_ONCE: i32 = 200;

/// Bytes after which a page ends early.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A page.
pub(crate) struct Part {
    pub(crate) payload: Vec<u8>,
    /// Where the next page begins; None after the last.
    pub(crate) next: Option<Vec<u8>>,
    pub(crate) row_count: i32,
}

/// Reads the page after a key.
pub(crate) fn part(
    table_id: i32,
    dead: bool,
    after: Option<&[u8]>,
    max_rows: i32,
) -> Result<Part, SyncError> {
    if max_rows < 1 {
        return Err(SyncError::Parameter {
            parameter: "max_rows",
            found: max_rows.to_string(),
            wanted: "1 or more",
        });
    }
    version::check()?;
    // The site comes first: it makes a restored registry this database's own.
    let (self_ordinal, table) = as_owner(|| (sites::self_ordinal(), catalog::table(table_id)));
    let table = table?;
    let readers = Readers::of(&table)?;
    table.hold()?;
    let baseline = Metadata {
        alive: true,
        hlc: Hlc::BASELINE_CENTRE.to_sql(),
        site: self_ordinal,
        cols: Vec::new(),
        registers: Vec::new(),
    };
    let mut changes = ChangesBuilder::new(
        table.number(),
        table.incarnation,
        table.version,
        table.key.len(),
        &table.column_ids(),
    );
    let mut place = after.map(<[u8]>::to_vec);
    let mut row_count = 0;
    let mut ended = false;
    while !ended && row_count < max_rows && changes.byte_len() < PAGE_BYTES {
        let wanted = ROWS_AT_ONCE.min(max_rows - row_count);
        let rows = rows(&table, dead, place.as_deref(), wanted, &readers)?;
        ended = rows.len() < usize::try_from(wanted).unwrap_or(0);
        for row in &rows {
            place = Some(add(&mut changes, &table, row, &baseline)?);
            row_count += 1;
        }
    }
    let mut payload = PayloadBuilder::new();
    payload.definition(&table.definition());
    let horizon = as_owner(|| collect::horizon(&table));
    if dead && after.is_none() && horizon > Hlc::ZERO {
        let (table, incarnation) = (table.number(), table.incarnation);
        payload.collection(Collection { table, incarnation, horizon });
    }
    if changes.rows() > 0 {
        payload.push(changes);
    }
    Ok(Part { payload: payload.finish(), next: if ended { None } else { place }, row_count })
}

/// How a statement asks who reads a row.
struct Readers {
    /// Who reads a live row, and who read a dead one last; empty where everybody does.
    live: String,
    dead: String,
    /// Which live and which dead rows take part.
    live_in: String,
    dead_in: &'static str,
}

impl Readers {
    fn of(table: &Tracked) -> Result<Self, SyncError> {
        let spell = |kind, text: &Option<String>| {
            text.as_ref()
                .map(|text| as_owner(|| expressions::spell(table.relation, kind, text, "d")))
                .transpose()
        };
        let scope = spell("scope", &table.scope)?;
        Ok(Self {
            live: scope.as_ref().map_or_else(String::new, |scope| format!(", {scope}")),
            dead: scope.map_or_else(String::new, |_| ", m.scopes".into()),
            live_in: spell("filter", &table.filter)?.unwrap_or_else(|| "true".into()),
            dead_in: if table.filter.is_some() { "m.scopes is distinct from '{}'" } else { "true" },
        })
    }
}

/// Adds one row: alive, hlc, site, cols, then the key, then the other columns, registers, scopes. Returns its key.
fn add(
    changes: &mut ChangesBuilder,
    table: &Tracked,
    row: &Tuple,
    baseline: &Metadata,
) -> Result<Vec<u8>, SyncError> {
    let after = i16::try_from(table.key.len() + table.columns.len()).unwrap_or(i16::MAX).saturating_add(5);
    let has_registers = !table.ruled.rules.are_plain();
    let found = Metadata::from_tuple(row, 1)
        .map(|found| if has_registers { found.with_registers(row, after) } else { found });
    let metadata = found.as_ref().unwrap_or(baseline);
    let state = as_owner(|| metadata.state(table))?;
    let scopes = table.scope.as_ref().map(|_| {
        let at = i16::try_from(row.values.len()).unwrap_or(i16::MAX);
        row.attribute(at).map(tuple::to_texts).unwrap_or_default()
    });
    let life = state.life_stamp();
    let key: Vec<ValueRef<'_>> =
        (5..).zip(&table.key).map(|(at, column)| column.codec.value(row.attribute(at))).collect();
    let registers = ruled::sent(&ruled::unpack(table, &metadata.registers)?);
    let mut stored = Vec::new();
    if metadata.alive {
        let first = 5 + i16::try_from(table.key.len()).unwrap_or(i16::MAX);
        for (index, (at, column)) in (first..).zip(&table.columns).enumerate() {
            let own = state.cell(column.column_id());
            if own != Some(Stamp::ZERO) {
                stored.push((index, own, &column.codec, row.attribute(at)));
            }
        }
    }
    let mut read = too_large::read(stored.into_iter());
    too_large::put_registers(&mut read, |place| {
        registers.get(&table.columns.get(place)?.column_id()).map(Value::as_ref)
    });
    let (cells, _) = read;
    let kind = if metadata.alive { RowKind::Created } else { RowKind::Deleted };
    // A row of which only cells are known has no life to tell of.
    if metadata.alive || life.hlc > Hlc::ZERO {
        changes.row(kind, life, &key, &cells);
        if let Some(scopes) = &scopes {
            let nobody = Vec::new();
            let (from, to) = if metadata.alive { (&nobody, scopes) } else { (scopes, &nobody) };
            audience::note(changes, from, to);
        }
    }
    let row_key = encode_key(key.iter().copied());
    if !metadata.alive && !state.cells.is_empty() {
        add_parked(changes, table, &state, (&key, &row_key), scopes.as_ref())?;
    }
    Ok(row_key)
}

/// Adds the parked cells of a row, so that whoever joins now shows the same if an older creation arrives.
fn add_parked(
    changes: &mut ChangesBuilder,
    table: &Tracked,
    state: &RowState,
    (key, row_key): (&[ValueRef<'_>], &[u8]),
    scopes: Option<&Vec<String>>,
) -> Result<(), SyncError> {
    let Some(bytes) = as_owner(|| parked::stored(table, row_key)) else { return Ok(()) };
    let known = parked::known_cells(table, state, &bytes)?;
    let cells: Vec<(usize, Option<Stamp>, ValueRef<'_>)> =
        known.into_iter().map(|(place, stamp, value)| (place, Some(stamp), value)).collect();
    if let Some((_, Some(first), _)) = cells.first() {
        changes.row(RowKind::Cells, *first, key, &cells);
        if let Some(scopes) = scopes {
            audience::note(changes, scopes, scopes);
        }
    }
    Ok(())
}

fn rows(
    table: &Tracked,
    dead: bool,
    after: Option<&[u8]>,
    wanted: i32,
    readers: &Readers,
) -> Result<Vec<Tuple>, SyncError> {
    let mut arguments = vec![Argument::integer(wanted)];
    let mut bound = String::from("true");
    let source = if dead { "m.key_" } else { "d." };
    let key_name = |place: usize, name: &str| {
        if dead { format!("{source}{place}") } else { format!("{source}{name}") }
    };
    let names: Vec<String> =
        (1..).zip(&table.key).map(|(place, column)| key_name(place, &column.quoted())).collect();
    if let Some(after) = after {
        let parts = decode_key(after)?;
        if parts.len() != table.key.len() {
            return Err(SyncError::KeyShape {
                table: table.name.clone(),
                found: parts.len(),
                wanted: table.key.len(),
            });
        }
        for (part, column) in parts.iter().zip(&table.key) {
            let datum = column.codec.stored_datum(part.as_ref());
            arguments.push(Argument::of(column.codec.type_oid(), datum));
        }
        let marks: Vec<String> = (2..).take(parts.len()).map(|number: usize| format!("${number}")).collect();
        bound = format!("({}) > ({})", names.join(", "), marks.join(", "));
    }
    let sql = if dead {
        dead_sql(table, &names, &bound, readers)
    } else {
        live_sql(table, &names, &bound, readers)
    };
    Ok(by_index(|| query::read(&sql, &arguments)).rows)
}

fn live_sql(table: &Tracked, names: &[String], bound: &str, readers: &Readers) -> String {
    let columns: String = table.columns.iter().map(|column| format!(", d.{}", column.quoted())).collect();
    let matching: Vec<String> = (1..)
        .zip(&table.key)
        .map(|(place, column)| format!("m.key_{place} {} d.{}", column.equality, column.quoted()))
        .collect();
    format!(
        "select m.alive, m.hlc, m.site, m.cols, {keys}{columns}{registers}{scopes} from {name} as d \
         left join {metadata} as m \
         on {matching} where {bound} and {taken} order by {keys} limit $1",
        keys = names.join(", "),
        name = table.scan(),
        metadata = table.metadata(),
        matching = matching.join(" and "),
        registers = if table.ruled.rules.are_plain() { "" } else { ", m.registers" },
        scopes = readers.live,
        taken = readers.live_in,
    )
}

fn dead_sql(table: &Tracked, names: &[String], bound: &str, readers: &Readers) -> String {
    format!(
        "select m.alive, m.hlc, m.site, m.cols, {keys}{scopes} from {metadata} as m \
         where not m.alive and (m.hlc > 0 or m.cols is not null) and {bound} and {taken} \
         order by {keys} limit $1",
        keys = names.join(", "),
        metadata = table.metadata(),
        scopes = readers.dead,
        taken = readers.dead_in,
    )
}
