//! The functions by which people read what changed: lines, payloads, chunks, one row's stamps, the status.

use pgrx::prelude::*;
use pgrx::{Internal, JsonB, PgMemoryContexts, pg_sys};

use crate::changes::gather::{Gathered, Line as Gatherable};
use crate::changes::lines::Lines;
use crate::changes::payloads::{self, Chunks};
use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, as_owner};
use crate::error::or_raise;
use crate::functions::required;
use crate::{apply, explain};

#[expect(clippy::type_complexity, reason = "the columns of the SQL function")]
#[pg_extern]
fn changes() -> TableIterator<
    'static,
    (
        name!(tbl, String),
        name!(pk, Vec<u8>),
        name!(col_name, String),
        name!(col_value, Option<String>),
        name!(col_version, i64),
        name!(db_version, i64),
        name!(site_id, Vec<u8>),
        name!(cl, i64),
        name!(seq, i64),
    ),
> {
    let mut lines = or_raise(Lines::begin());
    TableIterator::new(std::iter::from_fn(move || or_raise(lines.next_line())))
}

#[expect(clippy::type_complexity, reason = "the columns of the SQL function")]
#[pg_extern]
fn payload_chunks(
    since: Option<i64>,
    until: Option<i64>,
    max_bytes: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(payload, Vec<u8>),
        name!(chunk_index, i64),
        name!(payload_size, i64),
        name!(rows, i64),
        name!(db_version_min, i64),
        name!(db_version_max, i64),
        name!(watermark_db_version, i64),
        name!(is_final, bool),
    ),
> {
    let mut chunks =
        or_raise(payloads::range(since, until).and_then(|range| Chunks::begin(range, max_bytes)));
    TableIterator::new(std::iter::from_fn(move || or_raise(chunks.next_chunk())))
}

#[pg_extern]
fn payload_encode(since: Option<i64>, until: Option<i64>) -> Option<Vec<u8>> {
    or_raise(payloads::range(since, until).and_then(payloads::encode))
}

#[pg_extern]
fn payload_save(path: Option<&str>, since: Option<i64>, until: Option<i64>) -> i64 {
    let path = required(path, "path");
    or_raise(payloads::range(since, until).and_then(|range| payloads::save(path, range)))
}

#[pg_extern]
fn payload_load(path: &str) -> i64 {
    or_raise(payloads::load(path).and_then(|bytes| apply::payload(&bytes)))
}

#[expect(clippy::too_many_arguments, reason = "the columns of a line")]
#[pg_extern]
fn gather_step(
    state: Internal,
    tbl: Option<&str>,
    pk: Option<&[u8]>,
    col_name: Option<&str>,
    col_value: Option<&str>,
    col_version: Option<i64>,
    _db_version: Option<i64>,
    site_id: Option<&[u8]>,
    cl: Option<i64>,
    _seq: Option<i64>,
    call: pg_sys::FunctionCallInfo,
) -> Internal {
    let mut context = std::ptr::null_mut();
    // SAFETY: the server passes the running call; the pointer is valid for writing.
    let kind = unsafe { pg_sys::AggCheckCallContext(call, &raw mut context) };
    assert!(kind != 0, "the step is called by its aggregate");
    let line = Gatherable {
        table: required(tbl, "tbl"),
        row_key: required(pk, "pk"),
        column: required(col_name, "col_name"),
        value: col_value,
        version: required(col_version, "col_version"),
        site: required(site_id, "site_id"),
        life: required(cl, "cl"),
    };
    let take = |_: &mut PgMemoryContexts| {
        let mut state = state;
        // SAFETY: no other function makes a state of this aggregate.
        let gathered = unsafe { state.get_or_insert_default::<Gathered>() };
        or_raise(gathered.take(&line));
        state
    };
    // SAFETY: the context is that of the running aggregate.
    unsafe { PgMemoryContexts::For(context).switch_to(take) }
}

#[pg_extern]
fn gather_finish(state: Internal) -> Option<Vec<u8>> {
    // SAFETY: null, or made by a step of this aggregate.
    let gathered = unsafe { state.get::<Gathered>() }?;
    or_raise(gathered.encode())
}

#[pg_extern]
fn explain_row(call: pg_sys::FunctionCallInfo) -> JsonB {
    // SAFETY: the server passes the running call.
    let count = usize::try_from(unsafe { (*call).nargs }).unwrap_or(0);
    // SAFETY: the function is declared with one argument and those that follow it.
    let argument = |at| unsafe { pgrx::fcinfo::pg_getarg_datum(call, at) };
    let relation = required(argument(0), "table");
    let relation = pg_sys::Oid::from(codec::to_i32(relation).cast_unsigned());
    let part = |at| {
        // SAFETY: as above.
        let type_oid = unsafe { pgrx::fcinfo::pg_getarg_type(call, at) };
        argument(at).map(|datum| codec::printed(type_oid, datum))
    };
    let key: Vec<Option<String>> = (1..count).map(part).collect();
    JsonB(or_raise(explain::explain(relation, &key)))
}

#[pg_extern]
fn status() -> JsonB {
    let user = session::current_user();
    let arguments = [Argument::oid(user), Argument::text(env!("CARGO_PKG_VERSION"))];
    let found = as_owner(|| {
        let sql = "select cloudsync.status_for($1, $2)::pg_catalog.text";
        query::read(sql, &arguments).first().map(codec::to_text)
    });
    let json = found.and_then(|text| serde_json::from_str(&text).ok());
    JsonB(json.unwrap_or(serde_json::Value::Null))
}
