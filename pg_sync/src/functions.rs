//! The functions that SQL sees: each takes its arguments, runs one thing, and raises its error.

use pgrx::prelude::*;
use pgrx::{JsonB, Uuid, pg_sys};

use crate::edge::expression::Kind;
use crate::edge::session::{self, as_owner};
use crate::error::{SyncError, or_raise};
use crate::{
    apply, collect, emit, expressions, plan, restore, settings, sites, snapshot, stage, tracking, upload,
};

#[pg_extern]
fn self_ordinal() -> i32 {
    sites::known_self().unwrap_or_else(|| as_owner(sites::self_ordinal))
}

#[pg_extern]
fn is_restored() -> bool {
    as_owner(sites::is_restored)
}

#[pg_extern]
fn hold_relation(relation: pg_sys::Oid, schema_name: &str, table_name: &str) -> bool {
    session::hold(relation, schema_name, table_name)
}

#[pg_extern]
fn is_behind(table_id: i32) -> bool {
    plan::is_behind(table_id)
}

#[pg_extern]
fn move_parked(payload: &[u8], from: Vec<Option<i16>>, to: Vec<Option<i16>>) -> Vec<u8> {
    or_raise(restore::move_parked(payload, &from, &to))
}

#[pg_extern]
fn emit_definition(table_id: i32) {
    or_raise(as_owner(|| emit::definition(table_id)));
}

#[pg_extern]
fn emit_reload(table_id: i32, reason: &str) {
    or_raise(as_owner(|| emit::reload(table_id, reason)));
}

#[pg_extern]
fn staging(table_id: i32) -> bool {
    stage::has_table(table_id)
}

#[pg_extern]
fn definitions() -> Vec<u8> {
    or_raise(as_owner(emit::definitions))
}

#[pg_extern]
fn snapshot_part(
    table_id: i32,
    dead: bool,
    after: Option<&[u8]>,
    max_rows: i32,
) -> TableIterator<'static, (name!(payload, Vec<u8>), name!(next, Option<Vec<u8>>), name!(row_count, i32))> {
    let part = or_raise(snapshot::part(table_id, dead, after, max_rows));
    TableIterator::once((part.payload, part.next, part.row_count))
}

#[pg_extern]
fn add_chunk(chunk: Option<&[u8]>) {
    or_raise(apply::chunks::add(chunk));
}

#[pg_extern]
fn follow_upload(upload_id: &[u8]) {
    or_raise(upload::follow(upload_id));
}

#[expect(clippy::too_many_arguments, reason = "the hub's call has these arguments")]
#[pg_extern]
fn apply_upload(
    payload: &[u8],
    site: &[u8],
    upload_id: &[u8],
    first: i64,
    last: i64,
    token: Option<&[u8]>,
    role: Option<&str>,
    claims: Option<&str>,
    rejected_seen: Option<i64>,
) -> JsonB {
    let request =
        upload::Request { payload, site, upload_id, first, last, token, role, claims, rejected_seen };
    JsonB(or_raise(upload::apply(&request)))
}

#[pg_extern]
fn replay(payload: &[u8]) -> TableIterator<'static, (name!(changed, i64), name!(refused, i64))> {
    TableIterator::once(or_raise(apply::replay(payload)))
}

#[pg_extern]
fn collect_tombstones(
    max_pages: i32,
) -> TableIterator<'static, (name!(dropped, i64), name!(parked, i64), name!(more, bool))> {
    let done = or_raise(collect::collect(max_pages));
    TableIterator::once((done.dropped, done.parked, done.more))
}

#[pg_extern]
fn init_by_name(table_name: Option<&str>, algorithm: Option<&str>, flags: Option<i32>) -> String {
    let table_name = required(table_name, "table");
    or_raise(tracking::check_flags(flags));
    if table_name == "*" {
        or_raise(tracking::init_all(algorithm));
    } else {
        or_raise(tracking::resolve(table_name).and_then(|relation| tracking::init(relation, algorithm)));
    }
    own_site()
}

#[pg_extern]
fn init(relation: Option<pg_sys::Oid>, algorithm: Option<&str>, flags: Option<i32>) -> String {
    let relation = required(relation, "table");
    or_raise(tracking::check_flags(flags));
    or_raise(tracking::init(relation, algorithm));
    own_site()
}

/// This database's site as people read it.
fn own_site() -> String {
    as_owner(|| sites::site(sites::self_ordinal())).map(|site| site.to_string()).unwrap_or_default()
}

#[pg_extern]
fn cleanup_by_name(table_name: &str) {
    if table_name == "*" {
        or_raise(tracking::cleanup_all());
    } else {
        or_raise(tracking::resolve(table_name).and_then(tracking::cleanup));
    }
}

#[pg_extern]
fn cleanup(relation: pg_sys::Oid) {
    or_raise(tracking::cleanup(relation));
}

#[pg_extern]
fn enable(relation: pg_sys::Oid) {
    or_raise(settings::enable(relation, true));
}

#[pg_extern]
fn disable(relation: pg_sys::Oid) {
    or_raise(settings::enable(relation, false));
}

#[pg_extern]
fn is_enabled(relation: pg_sys::Oid) -> bool {
    settings::is_enabled(relation)
}

#[pg_extern]
fn set(key: Option<&str>, value: Option<&str>) {
    or_raise(settings::set(required(key, "key"), value));
}

#[pg_extern]
fn set_table(relation: Option<pg_sys::Oid>, key: Option<&str>, value: Option<&str>) {
    or_raise(settings::set_table(required(relation, "table"), "", required(key, "key"), value));
}

#[pg_extern]
fn set_column(
    relation: Option<pg_sys::Oid>,
    column_name: Option<&str>,
    key: Option<&str>,
    value: Option<&str>,
) {
    let (relation, column_name) = (required(relation, "table"), required(column_name, "column"));
    if column_name.is_empty() {
        let (found, wanted) = ("empty".into(), "the name of a column");
        SyncError::Parameter { parameter: "column", found, wanted }.raise();
    }
    or_raise(settings::set_table(relation, column_name, required(key, "key"), value));
}

#[pg_extern]
fn set_schema(schema: Option<&str>) {
    or_raise(settings::set_schema(schema));
}

#[pg_extern]
fn set_table_schema(table: Option<&str>, schema: Option<&str>) {
    or_raise(settings::set_table_schema(required(table, "table"), schema));
}

#[pg_extern]
fn set_filter(relation: Option<pg_sys::Oid>, expression: Option<&str>) -> bool {
    let expression = required(expression, "expression");
    or_raise(expressions::set(required(relation, "table"), Kind::Filter, Some(expression)));
    true
}

#[pg_extern]
fn clear_filter(relation: Option<pg_sys::Oid>) -> bool {
    or_raise(expressions::set(required(relation, "table"), Kind::Filter, None));
    true
}

#[pg_extern]
fn set_scope(relation: Option<pg_sys::Oid>, expression: Option<&str>) {
    or_raise(expressions::set(required(relation, "table"), Kind::Scope, expression));
}

#[pg_extern]
fn spell_expression(relation: pg_sys::Oid, kind: &str, expression: &str, row_alias: &str) -> String {
    or_raise(expressions::spell(relation, kind, expression, row_alias))
}

#[pg_extern]
fn check_expression(
    relation: pg_sys::Oid,
    kind: &str,
    written: &str,
) -> TableIterator<'static, (name!(expression, String), name!(tree, String))> {
    TableIterator::once(or_raise(expressions::check(relation, kind, written)))
}

#[pg_extern]
fn renamed_expression(relation: pg_sys::Oid, tree: &str) -> Option<String> {
    expressions::renamed(relation, tree)
}

#[pg_extern]
fn scopes_of(claims: JsonB) -> Vec<String> {
    or_raise(expressions::scopes_of(&claims.0.to_string()))
}

#[pg_extern]
fn begin_alter(relation: pg_sys::Oid) {
    or_raise(settings::alter(relation));
}

#[pg_extern]
fn commit_alter(relation: pg_sys::Oid) {
    or_raise(settings::alter(relation));
}

#[pg_extern]
fn siteid() -> Vec<u8> {
    as_owner(|| sites::site(sites::self_ordinal())).map(|site| site.as_bytes().to_vec()).unwrap_or_default()
}

#[pg_extern]
fn version() -> &'static str {
    crate::version::LIBRARY
}

#[pg_extern]
fn uuid() -> Uuid {
    Uuid::from_bytes(uuid_v7(session::wall_ms(), session::random_bytes()))
}

#[pg_extern]
fn payload_apply(payload: Option<&[u8]>) -> i64 {
    payload.map_or(0, |payload| or_raise(apply::payload(payload)))
}

#[pg_extern]
fn is_sync(relation: pg_sys::Oid) -> bool {
    tracking::is_being_written(relation)
}

/// Time first, then version and variant, then random bits.
fn uuid_v7(unix_ms: i64, random: [u8; 10]) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (time, rest) = bytes.split_at_mut(6);
    time.copy_from_slice(&unix_ms.to_be_bytes()[2..]);
    rest.copy_from_slice(&random);
    rest[0] = rest[0] & 0x0f | 0x70;
    rest[2] = rest[2] & 0x3f | 0x80;
    bytes
}

/// Raises an error for an argument that must not be null.
pub(crate) fn required<T>(argument: Option<T>, parameter: &'static str) -> T {
    let missing = || SyncError::Parameter { parameter, found: "null".into(), wanted: "a value" };
    or_raise(argument.ok_or_else(missing))
}
