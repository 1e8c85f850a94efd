//! The functions that only triggers call. They take rows and commands, which have no Rust type, so they speak the
//! server's calling convention themselves.

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Pg_finfo_record};
use pgrx::{PgMemoryContexts, pg_guard};
use shared_format::RowKind;

use crate::audience::Audience;
use crate::direct::{self, Outcome};
use crate::edge::codec;
use crate::edge::command::{self, Dropped};
use crate::edge::heap::{self, Layout, MetadataTable};
use crate::edge::query::{self, Argument};
use crate::edge::session;
use crate::edge::trigger::{Firing, Operation};
use crate::edge::tuple::{self, Tuple};
use crate::emit::{Emitted, Emitter};
use crate::error::{SyncError, or_raise};
use crate::functions::required;
use crate::metadata::{self, Metadata};
use crate::ruled_capture::{self, Capture, Seen};
use crate::{plan, sites, stage};

/// Declares functions of the version 1 calling convention.
macro_rules! server_functions {
    ($($name:ident, $finfo:ident, $body:ident;)*) => {$(
        /// Tells the server the calling convention.
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $finfo() -> *const Pg_finfo_record {
            static VERSION_1: Pg_finfo_record = Pg_finfo_record { api_version: 1 };
            &raw const VERSION_1
        }

        /// Called by the server; see `sql/postgres`.
        ///
        /// # Safety
        /// Only the server calls it, with a call of the declared signature.
        #[unsafe(no_mangle)]
        #[pg_guard]
        pub(crate) unsafe extern "C-unwind" fn $name(call: FunctionCallInfo) -> Datum {
            $body(&Call(call))
        }
    )*};
}

server_functions! {
    capture_statement, pg_finfo_capture_statement, statement;
    registry_changed, pg_finfo_registry_changed, registry;
    registered, pg_finfo_registered, registered_table;
    settle, pg_finfo_settle, settled;
    is_standing, pg_finfo_is_standing, standing;
    emit_step, pg_finfo_emit_step, step;
    emit_scoped_step, pg_finfo_emit_scoped_step, scoped_step;
    emit_finish, pg_finfo_emit_finish, finish;
    capture_ruled_step, pg_finfo_capture_ruled_step, ruled_step;
    capture_ruled_scoped_step, pg_finfo_capture_ruled_scoped_step, ruled_scoped_step;
    capture_ruled_finish, pg_finfo_capture_ruled_finish, ruled_finish;
    first_registers, pg_finfo_first_registers, registers;
    hold_back_step, pg_finfo_hold_back_step, nothing;
    hold_back_finish, pg_finfo_hold_back_finish, nothing;
    is_staged, pg_finfo_is_staged, staged;
    stage_outcome, pg_finfo_stage_outcome, outcome;
    stage_unchanged, pg_finfo_stage_unchanged, unchanged;
    retyped_columns, pg_finfo_retyped_columns, retyped;
    leave, pg_finfo_leave, left;
    stage_insert, pg_finfo_stage_insert, insert;
    stage_insert_scoped, pg_finfo_stage_insert_scoped, scoped_insert;
    stage_inserted, pg_finfo_stage_inserted, inserted;
}

/// One call by the server.
struct Call(FunctionCallInfo);

impl Call {
    fn argument(&self, number: usize) -> Option<Datum> {
        // SAFETY: the server passes as many arguments as the function was declared with.
        unsafe { pgrx::fcinfo::pg_getarg_datum(self.0, number) }
    }

    fn null(&self) -> Datum {
        // SAFETY: marks the result of this call.
        unsafe { pgrx::fcinfo::pg_return_null(self.0) }
    }

    fn integer(&self, number: usize, name: &'static str) -> i32 {
        codec::to_i32(required(self.argument(number), name))
    }

    fn record(&self, number: usize, name: &'static str) -> Tuple {
        tuple::from_record(required(self.argument(number), name))
    }

    /// Five arguments that say who read a row and who reads it now.
    fn audience(&self, first: usize) -> Audience {
        let is = |number| self.argument(number).is_some_and(codec::to_bool);
        let list = |number| self.argument(number).map(tuple::to_texts).unwrap_or_default();
        Audience {
            was_in: is(first),
            was_out: is(first + 1),
            from: list(first + 2),
            now_in: is(first + 3),
            to: list(first + 4),
        }
    }

    /// The memory context of the aggregate that this call is a step of.
    fn aggregate_context(&self) -> PgMemoryContexts {
        let mut context = std::ptr::null_mut();
        // SAFETY: the pointer is valid for writing.
        let kind = unsafe { pg_sys::AggCheckCallContext(self.0, &raw mut context) };
        assert!(kind != 0, "emit is called as an aggregate");
        PgMemoryContexts::For(context)
    }

    /// The state that earlier steps made; null at first.
    fn state<T>(&self) -> *mut T {
        self.argument(0).map_or(std::ptr::null_mut(), |datum| datum.cast_mut_ptr())
    }
}

/// Captures a statement: directly, or by the general function of the table and the operation.
fn statement(call: &Call) -> Datum {
    let wrong = |found: &str| SyncError::Parameter {
        parameter: "capture trigger",
        found: found.into(),
        wanted: "one made by cloudsync_init",
    };
    let firing = or_raise(Firing::of(call.0).ok_or_else(|| wrong("an ordinary call")));
    let number = firing.argument().and_then(|text| text.parse::<i32>().ok());
    let table_id = or_raise(number.ok_or_else(|| wrong("one without the number of a table")));
    let operation =
        or_raise(firing.operation().ok_or_else(|| wrong("one that does not fire after statements")));
    if capture_directly(&firing, operation, table_id) == Outcome::Captured {
        return Datum::null();
    }
    firing.hand_over(&general_function(operation, table_id))
}

fn capture_directly(firing: &Firing, operation: Operation, table_id: i32) -> Outcome {
    let is_staged = stage::has_table(table_id);
    if is_staged && operation != Operation::Insert {
        return Outcome::Unusual;
    }
    let Some(plan) = plan::of(firing, table_id) else { return Outcome::Unusual };
    if is_staged && plan.evaluator.is_some() {
        return Outcome::Unusual;
    }
    if is_staged {
        or_raise(direct::capture_staged(firing, &plan))
    } else {
        direct::capture(firing, operation, &plan)
    }
}

fn general_function(operation: Operation, table_id: i32) -> String {
    format!("capture_{}_{table_id}", operation.word())
}

fn registry(_call: &Call) -> Datum {
    session::announce_registry();
    Datum::null()
}

/// The registry's row of a table as it is now: a transaction that began before it sees an older one, or none.
fn registered_table(call: &Call) -> Datum {
    let table = Argument::integer(call.integer(0, "table_id"));
    let sql = "select t from cloudsync.tables as t where t.table_id operator(pg_catalog.=) $1";
    let find = || query::look(sql, &[table]).first();
    let mut found = find();
    if found.is_some() && sites::known_self().is_none() {
        // The first call in a copy of a database changes the registry.
        session::as_owner(sites::self_ordinal);
        found = find();
    }
    found.unwrap_or_else(|| call.null())
}

/// Takes over the metadata of a row from whoever wrote it last, in a transaction that would not see it.
fn settled(call: &Call) -> Datum {
    let table = call.integer(0, "table_id");
    let key = call.record(1, "row_key");
    let parts: Vec<Datum> = key.values.iter().copied().flatten().collect();
    if let Some(layout) = Layout::of_any(&format!("meta_{table}"), &key.types)
        && parts.len() == key.values.len()
    {
        MetadataTable::open(&layout).settle(&parts);
    }
    call.null()
}

/// Whether nobody has deleted or replaced a version of a row.
fn standing(call: &Call) -> Datum {
    let relation = pg_sys::Oid::from(call.integer(0, "relation").cast_unsigned());
    Datum::from(heap::is_standing(relation, required(call.argument(1), "place")))
}

fn step(call: &Call) -> Datum {
    emitted(call, None)
}

fn scoped_step(call: &Call) -> Datum {
    emitted(call, Some(&call.audience(12)))
}

fn emitted(call: &Call, audience: Option<&Audience>) -> Datum {
    let mut state: *mut Emitter = call.state();
    if state.is_null() {
        state = call.aggregate_context().leak_and_drop_on_delete(start(call));
    }
    // SAFETY: made above or by an earlier step; the aggregate's context drops it when it ends, also after an
    // error, and one step runs at a time.
    let emitter = unsafe { &mut *state };
    let kind = match call.integer(5, "kind") {
        0 => RowKind::Cells,
        1 => RowKind::Created,
        _ => RowKind::Deleted,
    };
    let cols = call.argument(8).map(tuple::to_i64s).unwrap_or_default();
    let carried = call.argument(9).map(tuple::to_bools);
    let image = if kind == RowKind::Deleted { Tuple::default() } else { call.record(11, "image") };
    let row = Emitted {
        kind,
        hlc: codec::to_i64(required(call.argument(6), "hlc")),
        site: call.integer(7, "site"),
        cols: &cols,
        carried: carried.as_deref(),
        key: &call.record(10, "row_key"),
        image: &image,
        audience,
    };
    or_raise(emitter.row(&row));
    Datum::from(state)
}

fn start(call: &Call) -> Emitter {
    Emitter::new(
        call.integer(1, "table_id").cast_unsigned(),
        codec::to_i64(required(call.argument(2), "incarnation")).cast_unsigned(),
        call.integer(3, "version").cast_unsigned(),
        tuple::to_i16s(required(call.argument(4), "columns")),
    )
}

fn finish(call: &Call) -> Datum {
    // SAFETY: null, or made by a step of this aggregate.
    let emitter = unsafe { call.state::<Emitter>().as_mut() };
    Datum::from(emitter.map_or(0, Emitter::finish))
}

/// A row of a disabled table: nobody is told.
fn nothing(call: &Call) -> Datum {
    call.null()
}

fn ruled_step(call: &Call) -> Datum {
    ruled(call, None)
}

fn ruled_scoped_step(call: &Call) -> Datum {
    ruled(call, Some(&call.audience(7)))
}

fn ruled(call: &Call, audience: Option<&Audience>) -> Datum {
    let mut state: *mut Capture = call.state();
    if state.is_null() {
        let capture = or_raise(Capture::new(call.integer(1, "table_id")));
        state = call.aggregate_context().leak_and_drop_on_delete(capture);
    }
    // SAFETY: as in `step`.
    let capture = unsafe { &mut *state };
    let image = call.argument(6).map(tuple::from_record);
    let seen = Seen {
        was: codec::to_bool(required(call.argument(2), "was")),
        now: codec::to_bool(required(call.argument(3), "now")),
        changed: call.argument(4).map(tuple::to_bools).unwrap_or_default(),
        key: &call.record(5, "row_key"),
        image: image.as_ref(),
        audience,
    };
    or_raise(capture.row(&seen));
    Datum::from(state)
}

fn ruled_finish(call: &Call) -> Datum {
    // SAFETY: null, or made by a step of this aggregate.
    let capture = unsafe { call.state::<Capture>().as_mut() };
    Datum::from(capture.map_or(0, Capture::finish))
}

fn registers(call: &Call) -> Datum {
    let table = call.integer(0, "table_id");
    codec::bytea(&or_raise(ruled_capture::first_registers(table, &call.record(1, "image"))))
}

fn staged(call: &Call) -> Datum {
    let table = call.integer(0, "table_id");
    Datum::from(stage::has_table(table) && stage::is_staged(table, &call.record(1, "row_key")))
}

fn outcome(call: &Call) -> Datum {
    let image = call.argument(2).map(tuple::from_record);
    let key = call.record(1, "row_key");
    let Some(outcome) = stage::outcome(call.integer(0, "table_id"), &key, image.as_ref()) else {
        return call.null();
    };
    let kind = match outcome.kind {
        RowKind::Cells => 0,
        RowKind::Created => 1,
        RowKind::Deleted => 2,
    };
    let values = [
        Some(Datum::from(kind)),
        Some(Datum::from(outcome.metadata.alive)),
        Some(Datum::from(outcome.metadata.hlc)),
        Some(Datum::from(outcome.metadata.site)),
        outcome.metadata.cols_datum(),
        Some(tuple::booleans(&outcome.carried)),
    ];
    tuple::to_result(call.0, &values)
}

fn insert(call: &Call) -> Datum {
    begin_insert(call, None)
}

fn scoped_insert(call: &Call) -> Datum {
    let audience = Audience {
        was_out: true,
        now_in: codec::to_bool(required(call.argument(2), "now_in")),
        to: tuple::to_texts(required(call.argument(3), "to_scopes")),
        ..Audience::default()
    };
    begin_insert(call, Some(&audience))
}

fn begin_insert(call: &Call, audience: Option<&Audience>) -> Datum {
    let image = call.record(1, "image");
    let Some(metadata) = or_raise(stage::insert_outcome(call.integer(0, "table_id"), &image, audience))
    else {
        return call.null();
    };
    let values = [
        Some(Datum::from(1)),
        Some(Datum::from(metadata.alive)),
        Some(Datum::from(metadata.hlc)),
        Some(Datum::from(metadata.site)),
        metadata.cols_datum(),
        None,
    ];
    tuple::to_result(call.0, &values)
}

fn inserted(call: &Call) -> Datum {
    let written = codec::to_i64(required(call.argument(1), "written"));
    match stage::insert_ended(call.integer(0, "table_id"), written) {
        Some(left) => Datum::from(left),
        None => call.null(),
    }
}

fn unchanged(call: &Call) -> Datum {
    let mut cols = call.argument(5).map(tuple::to_i64s).unwrap_or_default();
    metadata::trim(&mut cols);
    let found = Metadata {
        alive: codec::to_bool(required(call.argument(2), "alive")),
        hlc: codec::to_i64(required(call.argument(3), "hlc")),
        site: call.integer(4, "site"),
        cols,
        registers: Vec::new(),
    };
    Datum::from(stage::is_unchanged(call.integer(0, "table_id"), &call.record(1, "row_key"), &found))
}

fn retyped(call: &Call) -> Datum {
    let command = required(call.argument(0), "command");
    let computed = codec::to_bool(required(call.argument(1), "computed"));
    tuple::smallints(&command::retyped_columns(command, computed))
}

/// Before a DROP EXTENSION: if it is ours, gives back what does not go with it.
fn left(call: &Call) -> Datum {
    let dropped = command::drops_extension(call.0, "pg_sync");
    if dropped != Dropped::Other {
        let is_cascade = Argument::boolean(dropped == Dropped::Cascade);
        query::run("select cloudsync.give_back($1)", &[is_cascade]);
    }
    call.null()
}
