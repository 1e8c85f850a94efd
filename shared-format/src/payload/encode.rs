//! Writes payloads.

use alloc::vec::Vec;

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};

use super::decode::{Changes, Collection};
use super::definition::{ColumnDefinition, TableDefinition};
use super::eviction::{self, EvictionBuilder};
use super::generated::cloudsync as fb;
use super::scopes::ScopesBuilder;
use super::values::{self, ValuesBuilder, copy_vector, filled, one_if_alike};
use crate::clock::{SiteId, Stamp};
use crate::merge::RowKind;
use crate::row_state::ColumnId;
use crate::value::ValueRef;

/// Sites of one payload, each named once.
#[derive(Debug, Default)]
struct Sites(Vec<SiteId>);

impl Sites {
    /// Returns the ordinal of a site, adding it when it is new. The newest is looked at first.
    fn ordinal(&mut self, site: SiteId) -> u32 {
        let at = self.0.iter().rposition(|known| *known == site).unwrap_or_else(|| {
            self.0.push(site);
            self.0.len().saturating_sub(1)
        });
        u32::try_from(at).expect("a payload has fewer sites than bytes")
    }
}

/// Collects rows of one table.
#[derive(Debug)]
pub struct ChangesBuilder {
    table: u32,
    incarnation: u64,
    version: u32,
    columns: Vec<ColumnId>,
    sites: Sites,
    kinds: Vec<u8>,
    hlcs: Vec<u64>,
    row_sites: Vec<u32>,
    keys: Vec<ValuesBuilder>,
    present: Bits,
    stamped: Bits,
    cell_hlcs: Vec<u64>,
    cell_sites: Vec<u32>,
    values: Vec<ValuesBuilder>,
    scopes: ScopesBuilder,
}

impl ChangesBuilder {
    /// Starts without rows; `key_len` is the number of key columns, `columns` the others that may occur.
    #[must_use]
    pub fn new(table: u32, incarnation: u64, version: u32, key_len: usize, columns: &[ColumnId]) -> Self {
        Self {
            table,
            incarnation,
            version,
            columns: columns.to_vec(),
            sites: Sites::default(),
            kinds: Vec::new(),
            hlcs: Vec::new(),
            row_sites: Vec::new(),
            keys: core::iter::repeat_with(ValuesBuilder::default).take(key_len).collect(),
            present: Bits::default(),
            stamped: Bits::default(),
            cell_hlcs: Vec::new(),
            cell_sites: Vec::new(),
            values: core::iter::repeat_with(ValuesBuilder::default).take(columns.len()).collect(),
            scopes: ScopesBuilder::default(),
        }
    }

    /// Adds a row. `cells` are `(index into columns, own stamp or None for the row's, value)`, ascending.
    ///
    /// # Panics
    /// When the key has another number of parts, or a cell names no column: both are broken invariants of
    /// the caller.
    pub fn row(
        &mut self,
        kind: RowKind,
        stamp: Stamp,
        key: &[ValueRef<'_>],
        cells: &[(usize, Option<Stamp>, ValueRef<'_>)],
    ) {
        assert_eq!(key.len(), self.keys.len(), "a row key has one part per key column");
        assert!(cells.is_sorted_by(|a, b| a.0 < b.0), "cells are in the order of their columns");
        self.kinds.push(kind as u8);
        self.hlcs.push(stamp.hlc.raw());
        let site = self.sites.ordinal(stamp.site);
        self.row_sites.push(site);
        for (part, values) in key.iter().zip(&mut self.keys) {
            values.push(*part);
        }
        let mut cells = cells.iter().peekable();
        for (column, values) in self.values.iter_mut().enumerate() {
            let cell = cells.next_if(|(at, _, _)| *at == column);
            self.present.push(cell.is_some());
            let own = cell.and_then(|(_, own, _)| *own);
            self.stamped.push(own.is_some());
            if let Some(own) = own {
                self.cell_hlcs.push(own.hlc.raw());
                self.cell_sites.push(self.sites.ordinal(own.site));
            }
            if let Some((_, _, value)) = cell {
                values.push(*value);
            }
        }
        assert!(cells.next().is_none(), "a cell names one of the columns");
    }

    /// Says of the last row which scopes' readers read it before. All rows of a batch say so, or none.
    pub fn old_scopes(&mut self, names: &[impl AsRef<str>]) {
        let list = self.scopes.list(names);
        self.scopes.old.push(list);
    }

    /// Says of the last row which scopes' readers read it now. All rows of a batch say so, or none.
    pub fn new_scopes(&mut self, names: &[impl AsRef<str>]) {
        let list = self.scopes.list(names);
        self.scopes.new.push(list);
    }

    /// Number of rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.kinds.len()
    }

    /// Bytes that the rows take up, nearly: for cutting batches.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let rows = self.kinds.len().saturating_mul(13);
        let cells = self.cell_hlcs.len().saturating_mul(12);
        let values = self.keys.iter().chain(&self.values).map(ValuesBuilder::byte_len);
        let rest = rows.saturating_add(cells).saturating_add(self.scopes.byte_len());
        values.fold(rest, usize::saturating_add)
    }

    /// Whether so little was collected, of so few columns, that the memory for it is worth keeping.
    #[must_use]
    pub fn is_small(&self) -> bool {
        const BYTES: usize = 4 * 1024;
        const COLUMNS: usize = 128;
        self.byte_len() <= BYTES && self.values.len() <= COLUMNS
    }

    /// Writes the rows and forgets them. Columns of which no row has a cell are left out: an update of one column of
    /// many says nothing of the others.
    fn drain(&mut self, fbb: &mut FlatBufferBuilder<'static>, sites: &mut Sites) -> ChangesOffset {
        self.renumber_sites(sites);
        let count = self.kinds.len();
        let rows = u32::try_from(count).expect("a batch is cut long before 4 billion rows");
        let scopes = core::mem::take(&mut self.scopes).finish(fbb, count);
        one_if_alike(&mut self.kinds);
        one_if_alike(&mut self.hlcs);
        one_if_alike(&mut self.row_sites);
        let column =
            |(column, values): (&ColumnId, &ValuesBuilder)| (!values.is_empty()).then(|| column.get());
        let columns: Vec<u16> = self.columns.iter().zip(&self.values).filter_map(column).collect();
        let is_full = self.present.set == count.saturating_mul(columns.len());
        let present = if is_full { None } else { self.of_used_columns(fbb, &self.present) };
        let stamped = if self.stamped.set == 0 { None } else { self.of_used_columns(fbb, &self.stamped) };
        let mut offsets = Vec::with_capacity(self.keys.len().max(columns.len()));
        offsets.extend(self.keys.iter_mut().map(|values| values.drain(fbb)));
        let keys = fbb.create_vector(&offsets);
        offsets.clear();
        let values = self.values.iter_mut().filter(|values| !values.is_empty());
        offsets.extend(values.map(|values| values.drain(fbb)));
        let args = fb::ChangesArgs {
            table: self.table,
            incarnation: self.incarnation,
            version: self.version,
            rows,
            kinds: Some(fbb.create_vector(&self.kinds)),
            hlcs: Some(fbb.create_vector(&self.hlcs)),
            sites: Some(fbb.create_vector(&self.row_sites)),
            keys: Some(keys),
            columns: Some(fbb.create_vector(&columns)),
            present,
            stamped,
            cell_hlcs: filled(fbb, &self.cell_hlcs),
            cell_sites: filled(fbb, &self.cell_sites),
            values: Some(fbb.create_vector(&offsets)),
            scope_names: scopes.names,
            old_scopes: scopes.old,
            new_scopes: scopes.new,
        };
        self.clear();
        fb::Changes::create(fbb, &args)
    }

    /// Gives the sites of the rows the numbers that they have in the payload.
    fn renumber_sites(&mut self, sites: &mut Sites) {
        let ordinals: Vec<u32> = self.sites.0.iter().map(|site| sites.ordinal(*site)).collect();
        let renumber = |own: &mut u32| {
            *own = usize::try_from(*own).ok().and_then(|at| ordinals.get(at)).copied().unwrap_or(*own);
        };
        self.row_sites.iter_mut().chain(&mut self.cell_sites).for_each(renumber);
    }

    /// Writes one bit a row and column, of the columns of which some row has a cell.
    fn of_used_columns<'f>(
        &self,
        fbb: &mut FlatBufferBuilder<'f>,
        bits: &Bits,
    ) -> Option<WIPOffset<Vector<'f, u8>>> {
        let used: Vec<bool> = self.values.iter().map(|values| !values.is_empty()).collect();
        if used.iter().all(|used| *used) {
            return filled(fbb, &bits.bytes);
        }
        filled(fbb, &bits.only(&used).bytes)
    }

    /// Forgets the rows; the values have been forgotten one column after the other.
    fn clear(&mut self) {
        self.sites.0.clear();
        self.kinds.clear();
        self.hlcs.clear();
        self.row_sites.clear();
        self.present.clear();
        self.stamped.clear();
        self.cell_hlcs.clear();
        self.cell_sites.clear();
    }
}

type ChangesOffset = WIPOffset<fb::Changes<'static>>;

/// A growing bitmap that counts its bits.
#[derive(Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    set: usize,
    clear: usize,
}

impl Bits {
    /// The bits of some columns, where each row has one bit a column.
    fn only(&self, used: &[bool]) -> Self {
        let bits = self.bytes.iter().flat_map(|byte| (0..8).map(move |at| byte & (1 << at) != 0));
        let bits = bits.take(self.set.saturating_add(self.clear));
        let mut kept = Self::default();
        for (bit, _) in bits.zip(used.iter().cycle()).filter(|(_, used)| **used) {
            kept.push(bit);
        }
        kept
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.set, self.clear) = (0, 0);
    }

    fn push(&mut self, bit: bool) {
        let at = self.set.saturating_add(self.clear) % 8;
        if at == 0 {
            self.bytes.push(0);
        }
        if bit {
            self.set = self.set.saturating_add(1);
            self.bytes.last_mut().into_iter().for_each(|byte| *byte |= 1 << at);
        } else {
            self.clear = self.clear.saturating_add(1);
        }
    }
}

/// Collects a payload.
pub struct PayloadBuilder {
    fbb: FlatBufferBuilder<'static>,
    sites: Sites,
    definitions: Vec<WIPOffset<fb::Definition<'static>>>,
    changes: Vec<ChangesOffset>,
    reloads: Vec<WIPOffset<fb::Reload<'static>>>,
    collections: Vec<WIPOffset<fb::Collection<'static>>>,
    evictions: Vec<WIPOffset<fb::Eviction<'static>>>,
}

impl Default for PayloadBuilder {
    fn default() -> Self {
        // What one row takes up: a buffer that begins empty grows ten times until then.
        const FIRST_BYTES: usize = 512;
        Self {
            fbb: FlatBufferBuilder::with_capacity(FIRST_BYTES),
            sites: Sites::default(),
            definitions: Vec::new(),
            changes: Vec::new(),
            reloads: Vec::new(),
            collections: Vec::new(),
            evictions: Vec::new(),
        }
    }
}

impl PayloadBuilder {
    /// Starts empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a definition.
    pub fn definition(&mut self, definition: &TableDefinition) {
        let fbb = &mut self.fbb;
        let key: Vec<_> = definition.key.iter().map(|column| column_offset(fbb, column)).collect();
        let columns: Vec<_> = definition.columns.iter().map(|column| column_offset(fbb, column)).collect();
        let args = fb::DefinitionArgs {
            table: definition.table,
            incarnation: definition.incarnation,
            version: definition.version,
            name: Some(fbb.create_string(&definition.name)),
            schema: definition.schema.as_ref().map(|schema| fbb.create_string(schema)),
            algorithm: definition.algorithm.code(),
            key: Some(fbb.create_vector(&key)),
            columns: Some(fbb.create_vector(&columns)),
            scoped: definition.scoped,
            row_security: definition.row_security,
        };
        let offset = fb::Definition::create(&mut self.fbb, &args);
        self.definitions.push(offset);
    }

    /// Adds a notice that a table's snapshot has to be fetched again.
    pub fn reload(&mut self, table: u32, incarnation: u64, reason: &str) {
        let reason = Some(self.fbb.create_string(reason));
        let offset = fb::Reload::create(&mut self.fbb, &fb::ReloadArgs { table, incarnation, reason });
        self.reloads.push(offset);
    }

    /// Adds a notice that tombstones are gone.
    pub fn collection(&mut self, collection: Collection) {
        let Collection { table, incarnation, horizon } = collection;
        let args = fb::CollectionArgs { table, incarnation, horizon: horizon.raw() };
        let offset = fb::Collection::create(&mut self.fbb, &args);
        self.collections.push(offset);
    }

    /// Adds collected rows.
    pub fn push(&mut self, mut changes: ChangesBuilder) {
        self.drain(&mut changes);
    }

    /// Adds collected rows, and leaves a collection without rows that keeps its memory.
    pub fn drain(&mut self, changes: &mut ChangesBuilder) {
        let offset = changes.drain(&mut self.fbb, &mut self.sites);
        self.changes.push(offset);
    }

    /// Adds collected keys of rows to forget.
    pub fn push_eviction(&mut self, eviction: EvictionBuilder) {
        let offset = eviction.finish(&mut self.fbb);
        self.evictions.push(offset);
    }

    /// Adds all rows of a parsed batch as rows to forget.
    pub fn evict_all(&mut self, changes: &Changes<'_>) {
        let offset = eviction::of_all(&mut self.fbb, changes);
        self.evictions.push(offset);
    }

    /// Adds rows of a parsed payload by copying their vectors; only the sites are numbered anew. Scopes are left
    /// out: they are for the hub alone.
    pub fn append(&mut self, changes: &Changes<'_>) {
        let ordinals: Vec<u32> = changes.sites().iter().map(|site| self.sites.ordinal(*site)).collect();
        let rows = changes.raw;
        let fbb = &mut self.fbb;
        let renumber = |own: u32| -> u32 {
            // An ordinal of no site stays wrong on purpose: the reader refuses it as it would have here.
            usize::try_from(own).ok().and_then(|at| ordinals.get(at)).copied().unwrap_or(u32::MAX)
        };
        let keys: Vec<_> =
            rows.keys().into_iter().flatten().map(|column| values::copy(fbb, column)).collect();
        let columns: Vec<_> =
            rows.values().into_iter().flatten().map(|column| values::copy(fbb, column)).collect();
        let args = fb::ChangesArgs {
            table: rows.table(),
            incarnation: rows.incarnation(),
            version: rows.version(),
            rows: rows.rows(),
            kinds: rows.kinds().map(|v| fbb.create_vector(v.bytes())),
            hlcs: copy_vector(fbb, rows.hlcs()),
            sites: rows.sites().map(|v| fbb.create_vector_from_iter(v.iter().map(renumber))),
            keys: Some(fbb.create_vector(&keys)),
            columns: copy_vector(fbb, rows.columns()),
            present: rows.present().map(|v| fbb.create_vector(v.bytes())),
            stamped: rows.stamped().map(|v| fbb.create_vector(v.bytes())),
            cell_hlcs: copy_vector(fbb, rows.cell_hlcs()),
            cell_sites: rows.cell_sites().map(|v| fbb.create_vector_from_iter(v.iter().map(renumber))),
            values: Some(fbb.create_vector(&columns)),
            scope_names: None,
            old_scopes: None,
            new_scopes: None,
        };
        let offset = fb::Changes::create(&mut self.fbb, &args);
        self.changes.push(offset);
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
            && self.changes.is_empty()
            && self.reloads.is_empty()
            && self.collections.is_empty()
            && self.evictions.is_empty()
    }

    /// Returns the bare FlatBuffers bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.write().to_vec()
    }

    /// Hands over the bare FlatBuffers bytes, and is empty afterwards, with its memory.
    pub fn hand_over(&mut self, take: impl FnOnce(&[u8])) {
        take(self.write());
        self.fbb.reset();
        self.sites.0.clear();
        self.definitions.clear();
        self.changes.clear();
        self.reloads.clear();
        self.collections.clear();
        self.evictions.clear();
    }

    fn write(&mut self) -> &[u8] {
        let fbb = &mut self.fbb;
        let site_ids: Vec<u8> = self.sites.0.iter().flat_map(|site| *site.as_bytes()).collect();
        let args = fb::PayloadArgs {
            site_ids: filled(fbb, &site_ids),
            definitions: (!self.definitions.is_empty()).then(|| fbb.create_vector(&self.definitions)),
            changes: (!self.changes.is_empty()).then(|| fbb.create_vector(&self.changes)),
            reloads: (!self.reloads.is_empty()).then(|| fbb.create_vector(&self.reloads)),
            collections: (!self.collections.is_empty()).then(|| fbb.create_vector(&self.collections)),
            evictions: (!self.evictions.is_empty()).then(|| fbb.create_vector(&self.evictions)),
        };
        let root = fb::Payload::create(fbb, &args);
        fb::finish_payload_buffer(fbb, root);
        fbb.finished_data()
    }
}

fn column_offset(
    fbb: &mut FlatBufferBuilder<'static>,
    column: &ColumnDefinition,
) -> WIPOffset<fb::Column<'static>> {
    let args = fb::ColumnArgs {
        id: column.id.get(),
        name: Some(fbb.create_string(&column.name)),
        type_name: Some(fbb.create_string(&column.type_name)),
        algorithm: column.algorithm.code(),
        group: column.group.as_ref().map(|group| fbb.create_string(group)),
    };
    fb::Column::create(fbb, &args)
}
