//! A metadata table by its own access methods: a row found, inserted or updated by its key, without a plan.
//!
//! Whoever writes the metadata of a data row holds the lock of that data row. So there is nobody to wait for,
//! except for those who write metadata without a data row; where they come in between, the answer says so.

use std::ffi::CString;

use pgrx::pg_sys::{self, Datum};

use super::codec;
use super::server;
use super::session;
use super::tuple;

/// Attributes of a metadata table after its key: alive, hlc, site, cols.
const AFTER_KEY: usize = 4;

/// Bytes that a page keeps free for the next versions of its rows: a tenth, which is what the server wants at least.
const ROOM: usize = 8192 / 10;

/// Columns of a key: the server's `INDEX_MAX_KEYS` as everybody builds it; a longer one has no layout.
const KEY_COLUMNS: usize = 32;

/// What is known of a metadata table: looked up once for many statements.
#[derive(Debug)]
pub(crate) struct Layout {
    relation: pg_sys::Oid,
    index: pg_sys::Oid,
    /// Whether rows that are gone keep who read them last, after the other stamps.
    has_scopes: bool,
    /// Function that compares, and collation, of each key column.
    comparisons: Vec<(pg_sys::Oid, pg_sys::Oid)>,
}

impl Layout {
    /// Looks a metadata table up; None when it is not of the usual kind.
    pub(crate) fn of(name: &str, key: &[pg_sys::Oid]) -> Option<Self> {
        let is_usual = |after: &[pg_sys::Oid]| after.is_empty() || after == [pg_sys::TEXTARRAYOID];
        Self::look_up(name, key, is_usual)
    }

    /// The same of any kind: good for `MetadataTable::settle`, which writes what it has read.
    pub(crate) fn of_any(name: &str, key: &[pg_sys::Oid]) -> Option<Self> {
        Self::look_up(name, key, |_| true)
    }

    fn look_up(name: &str, key: &[pg_sys::Oid], is_usual: impl Fn(&[pg_sys::Oid]) -> bool) -> Option<Self> {
        let oid = session::cloudsync_relation(&CString::new(name).ok()?);
        if oid == pg_sys::InvalidOid || key.len() > KEY_COLUMNS {
            return None;
        }
        let open = Opened::table(oid, pg_sys::AccessShareLock);
        let access = open.data().rd_tableam;
        // SAFETY: returns a static of the server.
        let heap = unsafe { pg_sys::GetHeapamTableAmRoutine() };
        // SAFETY: the shape lives as long as the relation is open.
        let shape = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(open.data().rd_att) };
        let types: Vec<pg_sys::Oid> = shape.iter().take(key.len()).map(|a| a.atttypid).collect();
        let after: Vec<pg_sys::Oid> = shape.iter().skip(key.len() + AFTER_KEY).map(|a| a.atttypid).collect();
        let has_scopes = after == [pg_sys::TEXTARRAYOID];
        if access != heap || !is_usual(&after) || types != key {
            return None;
        }
        let index = open.primary_key();
        if index == pg_sys::InvalidOid {
            return None;
        }
        let opened = Opened::index(index, pg_sys::AccessShareLock);
        let comparisons = (0..key.len()).map(|at| opened.comparison(at)).collect();
        Some(Self { relation: oid, index, has_scopes, comparisons })
    }
}

/// An open relation; its lock stays until the transaction ends.
struct Opened(pg_sys::Relation);

fn lock_mode(mode: u32) -> i32 {
    i32::try_from(mode).expect("lock modes are small")
}

impl Opened {
    fn table(oid: pg_sys::Oid, mode: u32) -> Self {
        // SAFETY: raises an error when there is no such table; closed by the drop, or by the abort.
        Self(unsafe { pg_sys::table_open(oid, lock_mode(mode)) })
    }

    fn index(oid: pg_sys::Oid, mode: u32) -> Self {
        // SAFETY: as above, of an index.
        Self(unsafe { pg_sys::index_open(oid, lock_mode(mode)) })
    }

    /// The index of the primary key; the invalid oid when there is none.
    fn primary_key(&self) -> pg_sys::Oid {
        #[cfg(not(feature = "pg18"))]
        // SAFETY: the relation is open.
        let index = unsafe { pg_sys::RelationGetPrimaryKeyIndex(self.0) };
        #[cfg(feature = "pg18")]
        // SAFETY: the relation is open.
        let index = unsafe { pg_sys::RelationGetPrimaryKeyIndex(self.0, false) };
        index
    }

    fn data(&self) -> &pg_sys::RelationData {
        // SAFETY: the relation is open until the drop.
        unsafe { &*self.0 }
    }

    /// Function and collation by which an index compares its column at this place.
    fn comparison(&self, at: usize) -> (pg_sys::Oid, pg_sys::Oid) {
        let entry = |entries: *mut pg_sys::Oid| {
            // SAFETY: the index has at least as many columns as the key, and an entry for each in all its arrays.
            let entry = unsafe { entries.add(at) };
            // SAFETY: as above.
            unsafe { *entry }
        };
        let (family, kind) = (entry(self.data().rd_opfamily), entry(self.data().rd_opcintype));
        let equal = i16::try_from(pg_sys::BTEqualStrategyNumber).expect("strategies are small");
        // SAFETY: reads the catalog.
        let operator = unsafe { pg_sys::get_opfamily_member(family, kind, kind, equal) };
        // SAFETY: as above.
        (unsafe { pg_sys::get_opcode(operator) }, entry(self.data().rd_indcollation))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `table` or `index`; both are closed alike.
            unsafe { pg_sys::relation_close(self.0, lock_mode(pg_sys::NoLock)) };
        }
    }
}

/// Where a tuple that was formed or found keeps its place in the table.
fn place(tuple: pg_sys::HeapTuple) -> pg_sys::ItemPointer {
    // SAFETY: callers pass tuples that they hold.
    unsafe { &raw mut (*tuple).t_self }
}

/// The header of a tuple that was formed or found.
fn header(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTupleHeader {
    // SAFETY: callers pass tuples that they hold.
    unsafe { (*tuple).t_data }
}

/// Whether the version of a row at a place, a tid, is there for everybody who looks now, or is this transaction's own.
/// Of tables that are stored in another way it is taken for granted.
pub(crate) fn is_standing(relation: pg_sys::Oid, place: Datum) -> bool {
    let relation = Opened::table(relation, pg_sys::AccessShareLock);
    // SAFETY: returns a static of the server.
    let heap = unsafe { pg_sys::GetHeapamTableAmRoutine() };
    if relation.data().rd_tableam != heap {
        return true;
    }
    let place: *mut pg_sys::ItemPointerData = place.cast_mut_ptr();
    // SAFETY: callers pass a tid, which is never null.
    let place = unsafe { *place };
    let mut tuple = pg_sys::HeapTupleData { t_self: place, ..Default::default() };
    let mut buffer = pg_sys::Buffer::default();
    let newest = &raw mut pg_sys::SnapshotSelfData;
    #[cfg(feature = "pg14")]
    // SAFETY: the relation is open; the tuple and the buffer are valid for writing.
    let found = unsafe { pg_sys::heap_fetch(relation.0, newest, &raw mut tuple, &raw mut buffer) };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: as above.
    let found = unsafe { pg_sys::heap_fetch(relation.0, newest, &raw mut tuple, &raw mut buffer, false) };
    if found {
        // SAFETY: the buffer of a tuple that was found is pinned for us.
        unsafe { pg_sys::ReleaseBuffer(buffer) };
    }
    found
}

/// Stamps of one row, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) alive: bool,
    pub(crate) hlc: i64,
    pub(crate) site: i32,
    /// Overrides by column id, as in metadata; empty for none.
    pub(crate) cols: Vec<Option<i64>>,
    /// Of a row that is gone, who read it last. It is written, and not read here.
    pub(crate) scopes: Option<Vec<String>>,
}

/// A row that was found.
pub(crate) struct Found {
    place: pg_sys::ItemPointerData,
    /// Whether this transaction wrote it.
    pub(crate) own: bool,
    pub(crate) stored: Stored,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is done.
    Done,
    /// Somebody else wrote that row in between.
    Raced,
}

/// A metadata table that is open for one statement.
pub(crate) struct MetadataTable {
    relation: Opened,
    index: Opened,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    /// Where the row in the slot lies.
    fetched: Box<pg_sys::HeapTupleData>,
    keys: Vec<pg_sys::ScanKeyData>,
    index_info: *mut pg_sys::IndexInfo,
    has_scopes: bool,
    /// Keeps the page at hand that the last row went to.
    bulk: pg_sys::BulkInsertState,
}

impl MetadataTable {
    /// Opens it for writing.
    pub(crate) fn open(layout: &Layout) -> Self {
        let relation = Opened::table(layout.relation, pg_sys::RowExclusiveLock);
        let index = Opened::index(layout.index, pg_sys::RowExclusiveLock);
        let count = i32::try_from(layout.comparisons.len()).expect("a key has few columns");
        // What is committed, and what this transaction has written until now.
        let newest = &raw mut pg_sys::SnapshotSelfData;
        #[cfg(not(feature = "pg18"))]
        // SAFETY: both relations are open; ended by the drop, or by the abort.
        let scan = unsafe { pg_sys::index_beginscan(relation.0, index.0, newest, count, 0) };
        #[cfg(feature = "pg18")]
        // SAFETY: as above.
        let scan =
            unsafe { pg_sys::index_beginscan(relation.0, index.0, newest, std::ptr::null_mut(), count, 0) };
        let shape = relation.data().rd_att;
        // SAFETY: the shape lives as long as the relation is open.
        let slot =
            unsafe { pg_sys::MakeSingleTupleTableSlot(shape, &raw const pg_sys::TTSOpsBufferHeapTuple) };
        let equal = u16::try_from(pg_sys::BTEqualStrategyNumber).expect("strategies are small");
        let key = |(number, (function, collation)): (i16, &(pg_sys::Oid, pg_sys::Oid))| {
            let mut key = pg_sys::ScanKeyData::default();
            // SAFETY: the key is valid for writing; the function compares two values of the column's type.
            unsafe {
                pg_sys::ScanKeyEntryInitialize(
                    &raw mut key,
                    0,
                    number,
                    equal,
                    pg_sys::InvalidOid,
                    *collation,
                    *function,
                    Datum::null(),
                )
            };
            key
        };
        let keys = (1..).zip(&layout.comparisons).map(key).collect();
        let (index_info, bulk) = (std::ptr::null_mut(), std::ptr::null_mut());
        let has_scopes = layout.has_scopes;
        let fetched = Box::default();
        Self { relation, index, scan, slot, fetched, keys, index_info, has_scopes, bulk }
    }

    /// Prepares for many inserts, in memory that lasts as long as this.
    pub(crate) fn expect_many(&mut self) {
        self.prepare_index();
        if self.bulk.is_null() {
            // SAFETY: given back by the drop, or by the abort.
            self.bulk = unsafe { pg_sys::GetBulkInsertState() };
        }
    }

    fn prepare_index(&mut self) {
        if self.index_info.is_null() {
            // SAFETY: the index is open.
            self.index_info = unsafe { pg_sys::BuildIndexInfo(self.index.0) };
        }
    }

    /// Reads the newest version of the row with this key.
    pub(crate) fn find(&mut self, key: &[Datum]) -> Option<Found> {
        for (scan_key, part) in self.keys.iter_mut().zip(key) {
            scan_key.sk_argument = *part;
        }
        let first = self.keys.len();
        let count = i32::try_from(first).expect("a key has few columns");
        let attributes = i32::try_from(first + AFTER_KEY).expect("a key has few columns");
        let locks = [pg_sys::BUFFER_LOCK_SHARE, pg_sys::BUFFER_LOCK_UNLOCK].map(lock_mode);
        let look = || {
            // SAFETY: the scan was begun with so many keys; they are copied.
            unsafe {
                server::index_rescan(self.scan, self.keys.as_mut_ptr(), count, std::ptr::null_mut(), 0)
            };
            let found = self.fetch_next(locks);
            if found {
                // SAFETY: the slot holds a row; the table has so many attributes.
                unsafe { server::slot_getsomeattrs_int(self.slot, attributes) };
            }
            found
        };
        // SAFETY: what is called holds pointers and numbers only, and cannot panic.
        if !unsafe { server::guarded(look) } {
            // Made here, because the memory that is current at an insert does not last.
            self.prepare_index();
            return None;
        }
        let stored = Stored {
            alive: tuple::in_slot(self.slot, first).is_some_and(codec::to_bool),
            hlc: tuple::in_slot(self.slot, first + 1).map_or(0, codec::to_i64),
            site: tuple::in_slot(self.slot, first + 2).map_or(0, codec::to_i32),
            cols: tuple::in_slot(self.slot, first + 3).map(tuple::to_i64s).unwrap_or_default(),
            scopes: None,
        };
        // SAFETY: the slot holds a row.
        let choice = unsafe { &*header(self.row()) }.t_choice;
        // SAFETY: a stored row has its transactions in the header; a frozen one is no current transaction's.
        let transactions = unsafe { choice.t_heap };
        // SAFETY: reads session state, and raises no error.
        let own = unsafe { server::TransactionIdIsCurrentTransactionId(transactions.t_xmin) };
        // SAFETY: the slot holds a row.
        let place = unsafe { (*self.slot).tts_tid };
        Some(Found { place, own, stored })
    }

    /// Puts the row that the scan comes to next into the slot; runs under a guard. The server's own fetch would prune
    /// a page that is a bit full at every look; here it is pruned when the next version would not find room.
    fn fetch_next(&mut self, [share, unlock]: [i32; 2]) -> bool {
        // SAFETY: a static of the server.
        if let Some(clear) = unsafe { pg_sys::TTSOpsBufferHeapTuple.clear } {
            // A page is pruned only while nobody holds it.
            // SAFETY: the function is that of the slot, which lives as long as `self`.
            unsafe { clear(self.slot) };
        }
        loop {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            // SAFETY: the scan has its keys.
            let next = unsafe { server::index_getnext_tid(self.scan, forward) };
            if next.is_null() {
                return false;
            }
            // SAFETY: the scan holds it until it is asked for the next one.
            let mut place = unsafe { *next };
            let block = (u32::from(place.ip_blkid.bi_hi) << 16) | u32::from(place.ip_blkid.bi_lo);
            // SAFETY: the index names blocks of its table; given back below, or by the abort.
            let buffer = unsafe { server::ReadBuffer(self.relation.0, block) };
            // SAFETY: the buffer is pinned.
            let page = unsafe { pg_sys::BufferGetPage(buffer) };
            // SAFETY: a page of a table; what is read without a lock is a hint, as the server takes it too.
            if unsafe { server::PageGetHeapFreeSpace(page) } < ROOM {
                // SAFETY: the buffer is pinned, once, and not locked.
                unsafe { server::heap_page_prune_opt(self.relation.0, buffer) };
            }
            let newest = &raw mut pg_sys::SnapshotSelfData;
            let fetched = &raw mut *self.fetched;
            let mut is_dead = false;
            // SAFETY: the buffer is pinned.
            unsafe { server::LockBuffer(buffer, share) };
            // SAFETY: the buffer is locked; place, row and mark are valid for writing.
            let found = unsafe {
                server::heap_hot_search_buffer(
                    &raw mut place,
                    self.relation.0,
                    buffer,
                    newest,
                    fetched,
                    &raw mut is_dead,
                    true,
                )
            };
            // SAFETY: locked above.
            unsafe { server::LockBuffer(buffer, unlock) };
            if found {
                // SAFETY: the slot is one for rows in buffers, and keeps the pin; the row lives as long as `self`.
                unsafe { server::ExecStorePinnedBufferHeapTuple(fetched, self.slot, buffer) };
                return true;
            }
            // SAFETY: pinned above.
            unsafe { server::ReleaseBuffer(buffer) };
            // SAFETY: an entry for versions that nobody sees any more is marked by the scan when it goes on.
            unsafe { (*self.scan).kill_prior_tuple = is_dead };
        }
    }

    /// The row in the slot.
    fn row(&self) -> pg_sys::HeapTuple {
        // SAFETY: a row in a slot of this kind is a heap tuple.
        unsafe { (*self.slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple }
    }

    /// Makes the newest version of a row one of this transaction, if others committed it after the moment that all of
    /// this transaction sees: statements of SQL would fail on it. Nothing of the row changes.
    pub(crate) fn settle(&mut self, key: &[Datum]) {
        while let Some(found) = self.find(key) {
            if found.own || self.is_seen_by_transaction() {
                return;
            }
            // SAFETY: the slot holds a row.
            let copy = unsafe { pg_sys::heap_copytuple(self.row()) };
            if self.replace(key, &found, copy) == Written::Done {
                // SAFETY: what comes next sees the version.
                unsafe { pg_sys::CommandCounterIncrement() };
                return;
            }
        }
    }

    /// Whether the row in the slot, which is committed, was so for this transaction's own snapshot.
    fn is_seen_by_transaction(&self) -> bool {
        // SAFETY: the slot holds a row.
        let header = unsafe { &*header(self.row()) };
        let frozen = u16::try_from(pg_sys::HEAP_XMIN_FROZEN).expect("flags have 16 bits");
        if header.t_infomask & frozen == frozen {
            return true;
        }
        // SAFETY: a stored row has its transactions in the header.
        let transactions = unsafe { header.t_choice.t_heap };
        // SAFETY: we run inside a transaction, which has a snapshot.
        let snapshot = unsafe { pg_sys::GetTransactionSnapshot() };
        // SAFETY: the snapshot is valid until the transaction ends.
        !unsafe { pg_sys::XidInMVCCSnapshot(transactions.t_xmin, snapshot) }
    }

    fn form(&self, key: &[Datum], stored: &Stored) -> pg_sys::HeapTuple {
        let cols = (!stored.cols.is_empty()).then(|| tuple::bigints(&stored.cols));
        let scopes = stored.scopes.as_deref().filter(|_| self.has_scopes).map(tuple::texts);
        let stamps = [
            Datum::from(stored.alive),
            Datum::from(stored.hlc),
            Datum::from(stored.site),
            cols.unwrap_or(Datum::null()),
            scopes.unwrap_or(Datum::null()),
        ];
        let mut values = [Datum::null(); KEY_COLUMNS + AFTER_KEY + 1];
        values.iter_mut().zip(key.iter().chain(&stamps)).for_each(|(to, from)| *to = *from);
        let mut nulls = [false; KEY_COLUMNS + AFTER_KEY + 1];
        nulls[key.len() + AFTER_KEY - 1] = cols.is_none();
        nulls[key.len() + AFTER_KEY] = scopes.is_none();
        let shape = self.relation.data().rd_att;
        // SAFETY: there is a value of the right type for each attribute: `Layout::of` has checked them.
        unsafe { pg_sys::heap_form_tuple(shape, values.as_mut_ptr(), nulls.as_mut_ptr()) }
    }

    fn insert_into_index(&self, key: &[Datum], tuple: pg_sys::HeapTuple, updated: bool) -> bool {
        let index_info = if updated {
            // SAFETY: the index is open.
            unsafe { pg_sys::BuildIndexInfo(self.index.0) }
        } else {
            self.index_info
        };
        let mut values = [Datum::null(); KEY_COLUMNS];
        values.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        let mut nulls = [false; KEY_COLUMNS];
        let unique = if updated {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
        } else {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_PARTIAL
        };
        // SAFETY: there is a value for each column of the index, and the tuple was just stored.
        unsafe {
            pg_sys::index_insert(
                self.index.0,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                place(tuple),
                self.relation.0,
                unique,
                updated,
                index_info,
            )
        }
    }

    /// Stores a row. It is asked for a row that `find` did not find, and after one of those for others that are
    /// expected to be new as well.
    pub(crate) fn insert(&self, key: &[Datum], stored: &Stored) -> Written {
        let tuple = self.form(key, stored);
        // Nobody decodes metadata: without its copy for logical decoding it costs decoders nothing.
        let options = i32::try_from(pg_sys::HEAP_INSERT_NO_LOGICAL).expect("options are small");
        // SAFETY: reads and marks session state.
        let command = unsafe { pg_sys::GetCurrentCommandId(true) };
        // SAFETY: the tuple was formed for this relation.
        unsafe { pg_sys::heap_insert(self.relation.0, tuple, command, options, self.bulk) };
        if self.insert_into_index(key, tuple, false) {
            return Written::Done;
        }
        // Another row has this key: ours goes again, before anybody can see it.
        // SAFETY: a command does not delete what it inserted itself, so this is a new one.
        unsafe { pg_sys::CommandCounterIncrement() };
        // SAFETY: the tuple was just stored by this transaction.
        unsafe { pg_sys::simple_heap_delete(self.relation.0, place(tuple)) };
        Written::Raced
    }

    /// Puts a new version in the place of the one that was found.
    pub(crate) fn update(&self, key: &[Datum], found: &Found, stored: &Stored) -> Written {
        self.replace(key, found, self.form(key, stored))
    }

    fn replace(&self, key: &[Datum], found: &Found, tuple: pg_sys::HeapTuple) -> Written {
        let mut place = found.place;
        let mut failure = pg_sys::TM_FailureData::default();
        let mut lock = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
        #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
        let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
        // SAFETY: reads and marks session state.
        let command = unsafe { pg_sys::GetCurrentCommandId(true) };
        let no_snapshot: pg_sys::Snapshot = std::ptr::null_mut();
        // SAFETY: the place is that of a version that was visible; the tuple was formed for this relation.
        let result = unsafe {
            pg_sys::heap_update(
                self.relation.0,
                &raw mut place,
                tuple,
                command,
                no_snapshot,
                true,
                &raw mut failure,
                &raw mut lock,
                #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
                &raw mut indexes,
            )
        };
        if result != pg_sys::TM_Result::TM_Ok {
            return Written::Raced;
        }
        // SAFETY: the update has filled the header in.
        let flags = unsafe { (*header(tuple)).t_infomask2 };
        if u32::from(flags) & pg_sys::HEAP_ONLY_TUPLE == 0 {
            self.insert_into_index(key, tuple, true);
        }
        Written::Done
    }
}

impl Drop for MetadataTable {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            if !self.bulk.is_null() {
                // SAFETY: made by `expect_many`.
                unsafe { pg_sys::FreeBulkInsertState(self.bulk) };
            }
            // SAFETY: made by `open`, ended once; the relations close after it.
            unsafe { pg_sys::index_endscan(self.scan) };
            // SAFETY: as above.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
        }
    }
}
