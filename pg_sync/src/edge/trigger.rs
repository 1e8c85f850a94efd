//! One firing of a trigger: what the server says of it, and the rows of its statement.

use std::ffi::{CStr, CString};

use pgrx::PgTupleDesc;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};

use super::server;
use super::tuple::{self, Tuple};

/// What a statement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// INSERT, also by COPY and MERGE.
    Insert,
    /// UPDATE, also by an upsert and MERGE.
    Update,
    /// DELETE, also by a cascade and MERGE.
    Delete,
}

impl Operation {
    /// The word for it in the names of capture functions.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// A running trigger function's trigger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Firing(*mut pg_sys::TriggerData);

impl Firing {
    /// The firing that a call is for; None when it is an ordinary call.
    pub(crate) fn of(call: FunctionCallInfo) -> Option<Self> {
        // SAFETY: the server passes a valid call.
        let context = unsafe { (*call).context };
        if context.is_null() {
            return None;
        }
        // SAFETY: a context is a node, which begins with its tag.
        let tag = unsafe { (*context).type_ };
        (tag == pg_sys::NodeTag::T_TriggerData).then_some(Self(context.cast()))
    }

    fn data(&self) -> &pg_sys::TriggerData {
        // SAFETY: the server keeps it for as long as the trigger function runs, as which we are called.
        unsafe { &*self.0 }
    }

    /// The operation of a trigger that fires once after a statement; None for any other.
    pub(crate) fn operation(&self) -> Option<Operation> {
        let event = self.data().tg_event;
        let timing = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
        if event & timing != pg_sys::TRIGGER_EVENT_AFTER {
            return None;
        }
        match event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Some(Operation::Insert),
            pg_sys::TRIGGER_EVENT_UPDATE => Some(Operation::Update),
            pg_sys::TRIGGER_EVENT_DELETE => Some(Operation::Delete),
            _ => None,
        }
    }

    /// The table that was written.
    pub(crate) fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open while the trigger fires.
        unsafe { (*self.data().tg_relation).rd_id }
    }

    /// The first argument that CREATE TRIGGER gave.
    pub(crate) fn argument(&self) -> Option<&str> {
        // SAFETY: the trigger is valid while it fires.
        let trigger = unsafe { &*self.data().tg_trigger };
        if trigger.tgnargs < 1 {
            return None;
        }
        // SAFETY: there is at least one argument.
        let text = unsafe { *trigger.tgargs };
        // SAFETY: arguments are C strings, which live as long as the trigger.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_str().ok()
    }

    fn shape(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is open while the trigger fires.
        unsafe { (*self.data().tg_relation).rd_att }
    }

    /// Names and types of the table's columns by attribute number from 1; None for dropped ones.
    pub(crate) fn attributes(&self) -> Vec<Option<(String, pg_sys::Oid)>> {
        // SAFETY: the shape lives as long as the relation is open.
        let shape = unsafe { PgTupleDesc::from_pg_unchecked(self.shape()) };
        let named = |attribute: &pg_sys::FormData_pg_attribute| {
            (!attribute.attisdropped).then(|| (attribute.name().to_owned(), attribute.atttypid))
        };
        shape.iter().map(named).collect()
    }

    /// The rows as they were; None where the trigger does not ask for them.
    pub(crate) fn old_rows(&self) -> Option<Rows> {
        Rows::of(self.data().tg_oldtable, self.shape())
    }

    /// The rows as they are now; None where the trigger does not ask for them.
    pub(crate) fn new_rows(&self) -> Option<Rows> {
        Rows::of(self.data().tg_newtable, self.shape())
    }

    /// Runs another trigger function of schema cloudsync in place of the called one.
    pub(crate) fn hand_over(&self, function: &str) -> Datum {
        let mut names: *mut pg_sys::List = std::ptr::null_mut();
        for name in ["cloudsync", function] {
            let name = CString::new(name).expect("names of functions have no NUL");
            // SAFETY: the string is copied.
            let copy = unsafe { pg_sys::pstrdup(name.as_ptr()) };
            // SAFETY: makes a node of the copy.
            let node = unsafe { pg_sys::makeString(copy) };
            // SAFETY: appends to a list of nodes.
            names = unsafe { pg_sys::lappend(names, node.cast()) };
        }
        // SAFETY: raises an error that names the function, if there is none.
        let oid = unsafe { pg_sys::LookupFuncName(names, 0, std::ptr::null(), false) };
        let mut function = pg_sys::FmgrInfo::default();
        // SAFETY: the function exists; the answer is written.
        unsafe { pg_sys::fmgr_info(oid, &raw mut function) };
        let mut frame = pg_sys::FunctionCallInfoBaseData {
            flinfo: &raw mut function,
            context: self.0.cast(),
            ..Default::default()
        };
        let body = function.fn_addr.expect("a function that was looked up has an address");
        let call = &raw mut frame;
        // SAFETY: the function takes no arguments; its context is that of the running trigger.
        let run = || unsafe { body(call) };
        // SAFETY: the closure holds nothing that needs a drop.
        unsafe { pg_guard_ffi_boundary(run) }
    }
}

/// The rows of a transition table, one after another. Its datums live until the next one.
pub(crate) struct Rows {
    store: *mut pg_sys::Tuplestorestate,
    slot: *mut pg_sys::TupleTableSlot,
    pointer: i32,
    attributes: i32,
}

impl Rows {
    fn of(store: *mut pg_sys::Tuplestorestate, shape: pg_sys::TupleDesc) -> Option<Self> {
        if store.is_null() {
            return None;
        }
        let rewind = i32::try_from(pg_sys::EXEC_FLAG_REWIND).expect("flags are small");
        let begin = || {
            // SAFETY: the store lives until the statement ends; a place of our own disturbs no other reader.
            let pointer = unsafe { server::tuplestore_alloc_read_pointer(store, rewind) };
            // SAFETY: the place was just made.
            unsafe { server::tuplestore_select_read_pointer(store, pointer) };
            // SAFETY: as above.
            unsafe { server::tuplestore_rescan(store) };
            let kind = &raw const pg_sys::TTSOpsMinimalTuple;
            // SAFETY: the store holds minimal tuples of this shape.
            (pointer, unsafe { server::MakeSingleTupleTableSlot(shape, kind) })
        };
        // SAFETY: the closure holds pointers and numbers only, and cannot panic.
        let (pointer, slot) = unsafe { server::guarded(begin) };
        // SAFETY: the shape lives as long as the relation is open.
        let attributes = unsafe { (*shape).natts };
        Some(Self { store, slot, pointer, attributes })
    }

    /// The present row, as the server's own parts take it.
    pub(super) fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        self.slot
    }

    /// The present row taken apart.
    pub(crate) fn tuple(&self) -> Tuple {
        // SAFETY: the slot lives as long as `self`.
        let shape = unsafe { (*self.slot).tts_tupleDescriptor };
        // SAFETY: the shape lives as long as the relation is open.
        let shape = unsafe { PgTupleDesc::from_pg_unchecked(shape) };
        let values = (0..shape.len()).map(|at| tuple::in_slot(self.slot, at)).collect();
        Tuple { values, types: shape.iter().map(|attribute| attribute.atttypid).collect() }
    }

    /// Goes to the next row; false at the end.
    pub(crate) fn advance(&mut self) -> bool {
        let (store, pointer, slot, attributes) = (self.store, self.pointer, self.slot, self.attributes);
        let advance = || {
            // SAFETY: the place was made by `of`.
            unsafe { server::tuplestore_select_read_pointer(store, pointer) };
            // SAFETY: the slot was made for minimal tuples.
            let found = unsafe { server::tuplestore_gettupleslot(store, true, false, slot) };
            if found {
                // SAFETY: the slot holds a row, which has so many attributes.
                unsafe { server::slot_getsomeattrs_int(slot, attributes) };
            }
            found
        };
        // SAFETY: the closure holds pointers and numbers only, and cannot panic.
        unsafe { server::guarded(advance) }
    }

    /// Value of the attribute with this number, counted from 1, in the present row.
    pub(crate) fn attribute(&self, number: i16) -> Option<Datum> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        if i32::from(number) > self.attributes {
            return None;
        }
        tuple::in_slot(self.slot, at)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `of`, dropped once.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
        }
    }
}
