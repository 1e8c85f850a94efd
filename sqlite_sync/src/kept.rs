//! What is kept beside the user's tables, tried again or given up: rows that the server did not accept, changes
//! that this file did not take, values that lost.

use rusqlite::{Connection, OptionalExtension, params};
use shared_format::{Hlc, Value, decode_key, encode_key};

use crate::apply::{Source, apply};
use crate::catalog::Replica;
use crate::connection::Applying;
use crate::error::{Doing, Error, Reading, Result};
use crate::explain::stored_key;
use crate::fold::fold;
use crate::metadata;
use crate::parked;
use crate::rejected::log_again;
use crate::settings::{self, Setting};
use crate::sql::{Bind, Unit, binds, refs};

/// Puts every row that the server did not accept into the log once more, as it is now; says how many.
pub(crate) fn retry_rejected(connection: &Connection) -> Result<usize> {
    let unit = Unit::begin(connection)?;
    let replica = Replica::current(connection)?;
    let rejected = connection
        .prepare("select tbl, pk from main.cloudsync_rejected order by at_ms")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<(String, Vec<u8>)>>>)
        .doing("read the rejections")?;
    let mut count = 0;
    for (name, pk) in rejected {
        let Some(table) = replica.table_named(&name) else { continue };
        let key = decode_key(&pk).reading("rejected row key")?;
        if key.len() == table.key.len() {
            log_again(connection, table, &key)?;
            count += 1;
        }
    }
    unit.commit()?;
    Ok(count)
}

/// A rejected row whose values here were given up.
pub(crate) struct GivenUp {
    table: u32,
    key: Vec<Value>,
}

/// Gives up what is here of a rejected row: whatever the server has of it is newer from now on, and everything
/// is asked for again.
pub(crate) fn give_up(connection: &Connection, table: &str, key: &[Value]) -> Result<GivenUp> {
    let unit = Unit::begin(connection)?;
    let mut replica = Replica::current(connection)?;
    fold(&mut replica)?;
    let table =
        replica.table_named(table).cloned().ok_or_else(|| Error::NotTracked { table: table.to_owned() })?;
    table.check_key(key)?;
    let key = stored_key(connection, &table, key)?;
    let pk = encode_key(refs(&key));
    let sql = "delete from main.cloudsync_rejected where tbl = ?1 and pk = ?2";
    if connection.execute(sql, params![table.name, pk])? == 0 {
        return Err(Error::NotRejected { table: table.name.clone() });
    }
    metadata::forget(connection, &table, &key)?;
    parked::forget_cells(connection, &table, &pk)?;
    if crate::changes::read_row(connection, &table, &key)?.is_some() {
        // Older than every write of anybody.
        let sql = format!(
            "insert into {} ({}, alive, hlc, site, seq) values ({}, 1, {}, 0, 0)",
            table.metadata(),
            table.log_key(""),
            table.key_places(1),
            Hlc::ZERO.to_sql()
        );
        connection.execute(&sql, rusqlite::params_from_iter(binds(&key))).doing("give up a row")?;
    }
    settings::store(connection, Setting::Cursor, &Value::Null)?;
    unit.commit()?;
    Ok(GivenUp { table: table.id, key })
}

impl GivenUp {
    /// After everything came: what the server does not have is deleted here, and so are the rows that refer to
    /// it as the file's foreign keys say.
    pub(crate) fn settle(&self, connection: &Connection) -> Result<()> {
        let unit = Unit::begin(connection)?;
        let replica = Replica::current(connection)?;
        if let Some(table) = replica.table(self.table).filter(|table| table.key.len() == self.key.len()) {
            let sql = format!(
                "select 1 from {} where {} and alive and hlc = {} and site = 0 and cols is null",
                table.metadata(),
                table.log_key_is(1),
                Hlc::ZERO.to_sql()
            );
            let key: Vec<Bind<'_>> = binds(&self.key);
            let is_alone = connection
                .query_row(&sql, rusqlite::params_from_iter(&key), |_row| Ok(()))
                .optional()
                .doing("look whether the server has a row")?;
            if is_alone.is_some() {
                let sql = format!("delete from {} where {}", table.quoted(), table.key_is(1));
                connection.execute(&sql, rusqlite::params_from_iter(&key)).doing("delete a row")?;
            }
        }
        unit.commit()
    }
}

/// Tries again what this file did not take; says how many changes went in.
pub(crate) fn retry_parked(connection: &Connection, applying: &Applying) -> Result<usize> {
    let unit = Unit::begin(connection)?;
    let mut replica = Replica::current(connection)?;
    let applied = apply(&mut replica, applying, &[], Source::Log)?;
    unit.commit()?;
    Ok(applied.rows)
}

/// Forgets the conflicts of a row, of a table, or all; says how many.
pub(crate) fn clear_conflicts(connection: &Connection, table: Option<&str>, key: &[Value]) -> Result<usize> {
    if !settings::is_set_up(connection)? {
        return Err(Error::NothingTracked);
    }
    let cleared = match (table, key) {
        (None, _) => connection.execute("delete from main.cloudsync_conflicts", []),
        (Some(table), []) => {
            connection.execute("delete from main.cloudsync_conflicts where tbl = ?1", [table])
        }
        (Some(table), key) => {
            crate::schema::refresh(connection)?;
            let tracked = crate::table_settings::tracked(connection, table)?;
            tracked.check_key(key)?;
            let pk = encode_key(refs(&stored_key(connection, &tracked, key)?));
            let sql = "delete from main.cloudsync_conflicts where tbl = ?1 and pk = ?2";
            connection.execute(sql, params![tracked.name, pk])
        }
    };
    cleared.doing("forget conflicts")
}
