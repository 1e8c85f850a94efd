//! What the server refused: kept with the reason until a later change of the same row is accepted. The
//! user's value stays in the table.

use std::collections::HashSet;

use rusqlite::{Connection, params};
use serde_json::{Value as Json, json};
use shared_format::payload::{Limits, Payload, decode_frame};
use shared_format::{RowKind, Value, ValueRef, encode_key};

use crate::catalog::Replica;
use crate::error::{Doing, Reading, Result};
use crate::log::{self, DbVersion};
use crate::settings::{self, Setting};
use crate::sql::{refs, wall_ms};
use crate::tracked_table::{Affinity, TrackedTable};

/// One refusal, as the server reports it.
#[derive(Debug)]
pub(crate) struct Rejection {
    /// Number at the server; None when this device refused to send the row.
    pub(crate) id: Option<i64>,
    pub(crate) table: String,
    pub(crate) key: Vec<Json>,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
    pub(crate) first: DbVersion,
    pub(crate) last: DbVersion,
}

/// Row keys of a table that were refused and not accepted since.
pub(crate) fn keys(connection: &Connection, table: &TrackedTable) -> Result<HashSet<Vec<u8>>> {
    connection
        .prepare_cached("select pk from main.cloudsync_rejected where tbl = ?1")?
        .query_map([&table.name], |row| row.get(0))
        .and_then(Iterator::collect)
        .doing("read refused rows")
}

/// Stores refusals, and remembers the greatest number of them.
pub(crate) fn store(replica: &Replica<'_>, rejections: &[Rejection]) -> Result<()> {
    let connection = replica.connection;
    let sql = "insert into main.cloudsync_rejected
        (tbl, pk, key, sqlstate, message, first, last, at_ms) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
        on conflict (tbl, pk) do update set sqlstate = excluded.sqlstate, message = excluded.message,
          first = excluded.first, last = excluded.last, at_ms = excluded.at_ms";
    let seen = settings::integer(connection, Setting::RejectedSeen)?.unwrap_or(0);
    for rejection in rejections.iter().filter(|rejection| rejection.id.is_none_or(|id| id > seen)) {
        let table = replica.table_named(&rejection.table).map(|table| &**table);
        let key = stored_key(table, &rejection.key);
        connection
            .prepare_cached(sql)?
            .execute(params![
                table.map_or(&rejection.table, |table| &table.name),
                encode_key(refs(&key)),
                Json::Array(rejection.key.clone()).to_string(),
                rejection.sqlstate,
                rejection.message,
                rejection.first.get(),
                rejection.last.get(),
                wall_ms(connection)?,
            ])
            .doing("store a refusal")?;
    }
    let greatest = rejections.iter().filter_map(|rejection| rejection.id).max().unwrap_or(0).max(seen);
    settings::store(connection, Setting::RejectedSeen, &Value::Integer(greatest))
}

/// A row key as this file stores it, from the form in which the server prints it.
pub(crate) fn stored_key(table: Option<&TrackedTable>, key: &[Json]) -> Vec<Value> {
    key.iter()
        .enumerate()
        .map(|(at, part)| {
            let affinity = table.and_then(|table| table.key.get(at)).map(|column| column.affinity());
            match part {
                Json::Null => Value::Null,
                Json::Bool(truth) => Value::Integer(i64::from(*truth)),
                Json::Number(number) => match number.as_i64() {
                    Some(integer) => Value::Integer(integer),
                    None => Value::Real(number.as_f64().unwrap_or(0.0)),
                },
                Json::String(text) => match (affinity, hex_bytes(text)) {
                    (Some(Affinity::Blob), Some(bytes)) => Value::Blob(bytes),
                    _text => Value::Text(text.clone()),
                },
                Json::Array(_) | Json::Object(_) => match part.get("blob").and_then(Json::as_str) {
                    Some(digits) => {
                        hex_digits(digits).map_or_else(|| Value::Text(part.to_string()), Value::Blob)
                    }
                    None => Value::Text(part.to_string()),
                },
            }
        })
        .collect()
}

/// Reads bytea in the form `\x0102`.
fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    text.strip_prefix("\\x").and_then(hex_digits)
}

fn hex_digits(digits: &str) -> Option<Vec<u8>> {
    let digits = Some(digits).filter(|digits| digits.is_ascii() && digits.len() % 2 == 0)?;
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Prints a key of this file for people.
pub(crate) fn printed_key(key: &[Value]) -> Vec<Json> {
    key.iter().map(|part| printed(part.as_ref())).collect()
}

/// Prints a value of this file for people.
pub(crate) fn printed(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Integer(v) => json!(v),
        ValueRef::Real(v) => json!(v),
        ValueRef::Text(v) => json!(v),
        ValueRef::Blob(v) | ValueRef::RawText(v) => {
            let digits: String = v.iter().map(|byte| format!("{byte:02x}")).collect();
            json!(format!("\\x{digits}"))
        }
        _null => Json::Null,
    }
}

/// Forgets refusals of rows that an accepted upload carried, except those refused again. A row of which it carried
/// no more than some cells, since it was sent before the refusal was heard, is put into the log once more, to travel
/// whole.
pub(crate) fn forget_accepted(replica: &Replica<'_>, frame: &[u8], last: DbVersion) -> Result<()> {
    let connection = replica.connection;
    let any: bool = connection
        .prepare_cached("select exists (select 1 from main.cloudsync_rejected)")?
        .query_row([], |row| row.get(0))?;
    if !any {
        return Ok(());
    }
    let which = "from main.cloudsync_rejected where tbl = ?1 and pk = ?2 and last < ?3";
    let mut forget = connection.prepare_cached(&format!("delete {which}"))?;
    let mut find = connection.prepare_cached(&format!("select 1 {which}"))?;
    let (body, _used) = decode_frame(frame, &Limits::UPLOAD).reading("upload in the outbox")?;
    let payload = Payload::parse(&body).reading("upload in the outbox")?;
    for changes in payload.changes() {
        let Some(table) = replica.table(changes.table()) else { continue };
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row().reading("upload in the outbox")? {
            let pk = encode_key(row.key.iter().copied());
            let refusal = params![table.name, pk, last.get()];
            match row.kind {
                RowKind::Created | RowKind::Deleted => {
                    forget.execute(refusal).doing("forget a refusal")?;
                }
                RowKind::Cells => {
                    if find.exists(refusal).doing("look for a refusal")? {
                        let key: Vec<Value> = row.key.iter().map(|part| part.to_owned_value()).collect();
                        log_again(connection, table, &key)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Puts a row into the log once more, as it is now. Under no column: what is rejected travels whole, under the stamps
/// that it has.
pub(crate) fn log_again(connection: &Connection, table: &TrackedTable, key: &[Value]) -> Result<()> {
    log::append_row(connection, "cloudsync_log", table, "0", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_the_form_that_postgres_prints() {
        assert_eq!(hex_bytes("\\x00ff"), Some(vec![0, 255]));
        assert_eq!(hex_bytes("\\x0"), None);
        assert_eq!(hex_bytes("00"), None);
    }

    #[test]
    fn a_key_of_bytes_is_read_from_the_form_that_the_server_prints() {
        let key = [json!({ "blob": "00ff" }), json!(1)];
        assert_eq!(stored_key(None, &key), [Value::Blob(vec![0, 255]), Value::Integer(1)]);
        let text = [json!({ "blob": "0" })];
        assert_eq!(stored_key(None, &text), [Value::Text(r#"{"blob":"0"}"#.to_owned())]);
    }
}
