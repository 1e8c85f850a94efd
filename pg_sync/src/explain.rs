//! Why a row is as it is: who wrote which column, and when. Reads only, and tells the caller of no row that
//! policies hide from him.

use pgrx::pg_sys::{self, Datum};
use schema_mapping::to_sqlite;
use serde_json::{Map, Value as Json, json};
use shared_format::{RowState, SiteId, Stamp, ValueRef, encode_key};

use crate::apply::key_json;
use crate::catalog::{self, Tracked};
use crate::changes::{as_caller, baseline, metadata_of};
use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, as_owner};
use crate::error::SyncError;
use crate::sites;

/// Milliseconds from 1970 to 2000, where Postgres begins to count.
const EPOCH_MS: i64 = 946_684_800_000;

/// Tells everything about one row; the key in the text form of its types.
pub(crate) fn explain(relation: pg_sys::Oid, key: &[Option<String>]) -> Result<Json, SyncError> {
    let table = as_owner(|| catalog::of_relation(relation))?;
    table.hold()?;
    if !session::has_right(relation, session::current_user(), pg_sys::ACL_SELECT) {
        return Err(SyncError::Denied(table.name));
    }
    if key.len() != table.key.len() || key.contains(&None) {
        return Err(SyncError::KeyParts { table: table.name, found: key.len(), wanted: table.key.len() });
    }
    let datum = |(column, text): (&catalog::Column, &Option<String>)| {
        column.codec.datum(text.as_deref().map_or(ValueRef::Null, ValueRef::Text))
    };
    let key: Vec<Option<Datum>> = table.key.iter().zip(key).map(datum).collect();
    let values: Vec<ValueRef<'_>> =
        table.key.iter().zip(&key).map(|(column, datum)| column.codec.value(*datum)).collect();
    let is_present = !as_caller(&table, std::slice::from_ref(&key), "true").is_empty();
    let has_policies = query::read("select pg_catalog.row_security_active($1)", &[Argument::oid(relation)]);
    let is_hidden = !is_present && has_policies.first().is_some_and(codec::to_bool);
    let own = as_owner(sites::self_ordinal);
    let known = if is_hidden { None } else { as_owner(|| metadata_of(&table, &key)) };
    let state = match known.or_else(|| is_present.then(|| baseline(own))) {
        Some(metadata) => as_owner(|| metadata.state(&table))?,
        None => RowState::unseen(),
    };
    let own = as_owner(|| sites::site(own)).unwrap_or(SiteId::ZERO);
    let life = state.life.map_or(Json::Null, |life| stamp_json(life.stamp, own));
    Ok(json!({
        "table": table.client_name,
        "key": key_json(&values),
        "present": is_present,
        "alive": state.is_alive(),
        "life": life,
        "columns": columns(&table, &state, own),
        "rejected": rejected(&table, &encode_key(values.iter().copied())),
    }))
}

/// The stamp of every column, null where nobody wrote it.
fn columns(table: &Tracked, state: &RowState, own: SiteId) -> Map<String, Json> {
    let cell = |column: &catalog::Column| {
        let found = state.cell(column.column_id());
        let stamp = if state.is_alive() { Some(found.unwrap_or(state.life_stamp())) } else { found };
        stamp.filter(|stamp| *stamp != Stamp::ZERO).map_or(Json::Null, |stamp| stamp_json(stamp, own))
    };
    table.columns.iter().map(|column| (column.name.clone(), cell(column))).collect()
}

fn stamp_json(stamp: Stamp, own: SiteId) -> Json {
    let ms = i64::try_from(stamp.hlc.unix_ms()).unwrap_or(i64::MAX);
    // Milliseconds 0 are those of rows that were there before.
    let time = (ms > 0).then(|| {
        let micros = ms.saturating_sub(EPOCH_MS).saturating_mul(1_000);
        match to_sqlite(ValueRef::TimestampTz(micros)).as_value() {
            ValueRef::Text(text) => json!(text),
            _other => Json::Null,
        }
    });
    json!({
        "version": stamp.hlc.to_sql(),
        "time": time.unwrap_or(Json::Null),
        "site": stamp.site.to_string(),
        "own": stamp.site == own,
    })
}

/// Why uploads of the row were refused, for who may know of uploads to this table.
fn rejected(table: &Tracked, row_key: &[u8]) -> Json {
    let user = session::current_user();
    let sql = include_str!("../../sql/postgres/library/rejections_of_row.sql");
    let arguments = [
        Argument::text(&table.client_name),
        Argument::bytea(row_key),
        Argument::oid(user),
        Argument::oid(table.relation),
    ];
    let found = as_owner(|| query::read(sql, &arguments).first().map(codec::to_text));
    found.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Json::Array(Vec::new()))
}
