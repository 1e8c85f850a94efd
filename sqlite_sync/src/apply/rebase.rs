//! Takes a snapshot as the truth: rows that this file holds, that are not in it and have no unsent change, are
//! evicted.
//!
//! A snapshot comes in parts, over several transactions and maybe several runs of the program. What it holds
//! is kept as 8 bytes a row in `cloudsync_rebase` until its end. Two keys of one hash make a row stay, never
//! go. Tables that the snapshot does not name, or that are not to be taken anew, are left alone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use rusqlite::{Connection, params};
use shared_format::payload::{Payload, decode_frame};
use shared_format::{RowKind, Stamp, Value, encode_key};

use super::buried::{self, Edited, Edits, Loss};
use super::evicted;
use super::incoming::{Change, Mappings};
use super::{FRAME, Source, TriggersOff, foreign_keys, reload};
use crate::catalog::Replica;
use crate::changes::read_row;
use crate::error::{Doing, Reading, Result};
use crate::fold::fold;
use crate::gap;
use crate::log::{self, ColumnSet};
use crate::metadata;
use crate::outbox;
use crate::parked;
use crate::rejected;
use crate::settings::{self, Setting};
use crate::sql::{Bind, binds, columns, refs};
use crate::table_settings;
use crate::tracked_table::TrackedTable;

/// Begins to take a snapshot of everything. What was passed over before is in it.
pub(crate) fn begin(replica: &Replica<'_>) -> Result<()> {
    let connection = replica.connection;
    reload::end(connection)?;
    connection.execute("delete from main.cloudsync_skipped", []).doing("begin to take a snapshot")?;
    settings::store(connection, Setting::Refetch, &Value::Null)?;
    begin_tables(replica)?;
    if !is_on(connection)? {
        settings::store(connection, Setting::Expired, &Value::Null)?;
    }
    Ok(())
}

/// Begins to take a snapshot of some tables.
pub(crate) fn begin_tables(replica: &Replica<'_>) -> Result<()> {
    let connection = replica.connection;
    connection.execute("delete from main.cloudsync_rebase", []).doing("begin to take a snapshot")?;
    let is_wanted = holds_rows(replica)?;
    settings::store(connection, Setting::Rebase, &Value::Integer(i64::from(is_wanted)))
}

/// Lets a snapshot win over everything here that is not unsent: the server was set back on purpose, so what it has
/// is older than what was received from it. Rows of clock zero lose against any, and deletions are forgotten. Nothing
/// is sent before the snapshot has come: what was written to rows that it lacks goes with them.
pub(crate) fn yield_to_snapshot(replica: &mut Replica<'_>) -> Result<()> {
    let connection = replica.connection;
    fold(replica)?;
    outbox::discard(connection)?;
    await_snapshot(connection, Loss::Restored)?;
    let nobody = replica.sites.ordinal(connection, Stamp::ZERO.site)?;
    for table in replica.tables.clone() {
        let unsent = unsent(replica, &table)?;
        let sql = format!("select {} from {}", table.log_key(""), table.metadata());
        let mut keys = Vec::new();
        collect(connection, &sql, &table, &|pk| unsent.contains(pk), &mut keys)?;
        let place = table.key.len() + 1;
        let is_key = table.log_key_is(1);
        let alive = format!(
            "update {} set hlc = 0, site = ?{place}, cols = null where {is_key} and alive = 1",
            table.metadata()
        );
        for key in keys {
            let mut values = binds(&key);
            let nobody = Value::Integer(i64::from(nobody));
            values.push(Bind(nobody.as_ref()));
            let mut statement = connection.prepare_cached(&alive)?;
            let found = statement.execute(rusqlite::params_from_iter(values)).doing("yield to a snapshot")?;
            if found == 0 {
                metadata::forget(connection, &table, &key)?;
                parked::forget_cells(connection, &table, &encode_key(refs(&key)))?;
            }
        }
    }
    Ok(())
}

/// Whether anything is here that a snapshot could lack.
fn holds_rows(replica: &Replica<'_>) -> Result<bool> {
    for table in &replica.tables {
        let sql = format!("select exists (select 1 from {})", table.metadata());
        let has_metadata: bool = replica.connection.query_row(&sql, [], |row| row.get(0))?;
        if has_metadata || table.baseline.is_some() {
            return Ok(true);
        }
    }
    Ok(!gap::tables(replica.connection)?.is_empty())
}

/// Whether a snapshot is being taken that may make rows go.
pub(crate) fn is_on(connection: &Connection) -> Result<bool> {
    Ok(settings::integer(connection, Setting::Rebase)? == Some(1))
}

/// Whether this file has to take a snapshot before it sends.
pub(crate) fn is_expired(connection: &Connection) -> Result<bool> {
    Ok(awaited_for(connection)?.is_some())
}

/// What the server lost that the awaited snapshot shows; none if no snapshot is awaited.
fn awaited_for(connection: &Connection) -> Result<Option<Loss>> {
    Ok(match settings::integer(connection, Setting::Expired)? {
        Some(1) => Some(Loss::Collected),
        Some(2) => Some(Loss::Restored),
        _other => None,
    })
}

fn await_snapshot(connection: &Connection, loss: Loss) -> Result<()> {
    let number = match loss {
        Loss::Collected => 1,
        Loss::Restored => 2,
    };
    settings::store(connection, Setting::Expired, &Value::Integer(number))
}

/// Remembers that the server was set back on purpose, and that nothing may be sent before that was taken in: the
/// place in the log stays, by which the server knows that this file is to be told.
pub(crate) fn expect_restored(connection: &Connection) -> Result<()> {
    await_snapshot(connection, Loss::Restored)
}

/// Remembers that the server forgot deletions that this file did not receive. An upload on its way is built anew
/// after the snapshot, without the rows that are gone.
pub(crate) fn expire(connection: &Connection) -> Result<()> {
    outbox::discard(connection)?;
    await_snapshot(connection, Loss::Collected)?;
    settings::store(connection, Setting::Refetch, &Value::Integer(1))
}

/// Remembers what a part of the snapshot holds. In a table with a gap, values that differ under the stamp
/// that the server has for them were written here, so they become local writes. `only` has the tables that are
/// taken anew, by the server's numbers; all if there are none.
pub(crate) fn note(replica: &Replica<'_>, frames: &[u8], only: &[u32]) -> Result<()> {
    let is_wanted = |table: u32| only.is_empty() || only.contains(&table);
    let gaps = gap::tables(replica.connection)?;
    let mut mappings = Mappings::default();
    let mut tables: HashSet<u32> = HashSet::new();
    let mut hashes = Vec::new();
    let mut rest = frames;
    while !rest.is_empty() {
        let (body, used) = decode_frame(rest, &FRAME).reading("frame")?;
        rest = rest.get(used..).unwrap_or_default();
        let payload = Payload::parse(&body).reading("payload")?;
        mappings.learn(replica, &payload, Source::Snapshot)?;
        tables.extend(mappings.tables(is_wanted));
        for changes in payload.changes().into_iter().filter(|changes| is_wanted(changes.table())) {
            let Some(batch) = mappings.batch(changes)? else { continue };
            let mut rows = batch.changes.rows();
            let mut change = batch.blank();
            while let Some(row) = rows.next_row().reading("row")? {
                if batch.fill(&mut change, row)? {
                    hashes.extend(hash(change.table.id, &change.pk()).to_le_bytes());
                    if gaps.contains(&change.table.id) && change.kind == RowKind::Created {
                        log_differences(replica, &change)?;
                    }
                }
            }
        }
    }
    let sql = "insert into main.cloudsync_rebase (tbl, hashes) values (?1, ?2)";
    let mut statement = replica.connection.prepare_cached(sql)?;
    for table in tables {
        statement.execute(params![table, Vec::new()]).doing("note a part of a snapshot")?;
    }
    statement.execute(params![None::<u32>, hashes]).doing("note a part of a snapshot")?;
    Ok(())
}

/// FNV-1a over the table and its encoded row key.
pub(super) fn hash(table: u32, pk: &[u8]) -> u64 {
    let bytes = table.to_le_bytes();
    let bytes = bytes.iter().chain(pk);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn log_differences(replica: &Replica<'_>, change: &Change<'_>) -> Result<()> {
    let connection = replica.connection;
    let table = &change.table;
    let key = change.key_values();
    let local = metadata::read(connection, &replica.sites, table, &key)?
        .unwrap_or_else(|| metadata::baseline(table, replica.own()));
    let mut written = ColumnSet::default();
    for (at, stamp, value) in change.cells() {
        if !local.is_alive() || local.stamp_of(stamp.column) != stamp.stamp {
            continue;
        }
        let column = table.columns[at].quoted();
        let place = table.key.len() + 1;
        let sql = format!(
            "select 1 from {} where {} and {column} is not ?{place} collate binary",
            table.quoted(),
            table.key_is(1)
        );
        let mut values = binds(&key);
        values.push(Bind(value));
        let mut statement = connection.prepare_cached(&sql)?;
        if statement.exists(rusqlite::params_from_iter(values)).doing("compare a row with the server's")? {
            written.insert(stamp.column);
        }
    }
    if written.is_empty() {
        return Ok(());
    }
    log::append_row(connection, table.log_name(), table, &written.to_log_sql(), &key)
}

/// Ends a snapshot: evicts what it does not hold and closes the gaps. Says how many rows went.
pub(crate) fn finish(replica: &mut Replica<'_>) -> Result<usize> {
    let connection = replica.connection;
    let mut evicted = 0;
    if is_on(connection)? {
        let (tables, held) = noted(connection)?;
        let mut named = replica.tables.clone();
        named.retain(|table| table.enabled && tables.contains(&table.id));
        let mut edits = Edits::new();
        let loss = awaited_for(connection)?;
        for table in &named {
            edits.extend(buried::edited(replica, table, &held, loss.unwrap_or(Loss::Collected))?);
        }
        if loss.is_some() {
            outbox::discard(connection)?;
            settings::store(connection, Setting::Expired, &Value::Null)?;
        } else {
            // The server has an answer to what is unsent of them, and none of them for us after that.
            for (table, pk) in std::mem::take(&mut edits).keys() {
                evicted::note(connection, *table, pk)?;
            }
        }
        let mut gone = Vec::new();
        for table in &named {
            gone.extend(lacking(replica, table, &held)?.into_iter().map(|key| (table, key)));
            let is_it = |((id, _), _): &(&(u32, Vec<u8>), &Edited)| *id == table.id;
            gone.extend(edits.iter().filter(is_it).map(|(_, edited)| (table, edited.key.clone())));
        }
        evicted = evict(replica, gone, &edits)?;
        for table in &tables {
            let sql = "delete from main.cloudsync_gaps where tbl = ?1";
            connection.execute(sql, [table]).doing("close a gap")?;
        }
    }
    connection.execute("delete from main.cloudsync_rebase", []).doing("end a snapshot")?;
    settings::store(connection, Setting::Rebase, &Value::Null)?;
    Ok(evicted)
}

/// Tables that the snapshot names, and hashes of the rows that it holds.
fn noted(connection: &Connection) -> Result<(HashSet<u32>, HashSet<u64>)> {
    let mut tables = HashSet::new();
    let mut held = HashSet::new();
    let mut statement = connection.prepare_cached("select tbl, hashes from main.cloudsync_rebase")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next().doing("read what a snapshot held")? {
        tables.extend(row.get::<_, Option<u32>>(0)?);
        let hashes: Vec<u8> = row.get(1)?;
        held.extend(hashes.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash)));
    }
    Ok((tables, held))
}

/// Keys of the rows of one table that are neither held by the snapshot nor written here since.
fn lacking(replica: &Replica<'_>, table: &TrackedTable, held: &HashSet<u64>) -> Result<Vec<Vec<Value>>> {
    let connection = replica.connection;
    let unsent = unsent(replica, table)?;
    let is_kept = |pk: &[u8]| held.contains(&hash(table.id, pk)) || unsent.contains(pk);
    let mut gone = Vec::new();
    let log_key = table.log_key("");
    collect(connection, &format!("select {log_key} from {}", table.metadata()), table, &is_kept, &mut gone)?;
    let acknowledged = log::acknowledged(connection)?.get();
    if table.baseline.is_some_and(|baseline| baseline <= acknowledged) {
        let sql = format!(
            "select {} from {} as t where not exists (select 1 from {} as m where {})",
            table.key_columns("t."),
            table.quoted(),
            table.metadata(),
            table.metadata_equals_key("m", "t"),
        );
        let mut unknown = Vec::new();
        collect(connection, &sql, table, &is_kept, &mut unknown)?;
        if gap::tables(connection)?.contains(&table.id) {
            gap::log_created(connection, table, &unknown)?;
        } else {
            gone.extend(unknown);
        }
    }
    if table.filter.is_some() {
        // What the filter keeps here was never the server's to hold.
        let mut shared = Vec::with_capacity(gone.len());
        for key in gone {
            let is_absent = read_row(connection, table, &key)?.is_none();
            if is_absent || table_settings::is_shared(connection, table, &key)? {
                shared.push(key);
            }
        }
        gone = shared;
    }
    Ok(gone)
}

/// Takes rows away. One that a row of this file refers to stays until that one goes, so a parent goes after its
/// children, whatever their order: as long as one goes, others are tried again.
pub(super) fn evict(
    replica: &Replica<'_>,
    mut gone: Vec<(&Rc<TrackedTable>, Vec<Value>)>,
    edits: &Edits,
) -> Result<usize> {
    let connection = replica.connection;
    let mut referring = HashMap::new();
    for (table, _) in &gone {
        if let Entry::Vacant(unknown) = referring.entry(table.id) {
            unknown.insert(foreign_keys::referring_sql(replica, table)?);
        }
    }
    let _off = TriggersOff::when(connection, true)?;
    let mut evicted = 0;
    let mut before = usize::MAX;
    while !gone.is_empty() && gone.len() < before {
        before = gone.len();
        for (table, key) in std::mem::take(&mut gone) {
            let is_gone = !is_referred_to(connection, &referring[&table.id], &key)?
                && match edits.get(&(table.id, encode_key(refs(&key)))) {
                    Some(edited) => buried::bury(replica, table, edited)?,
                    None => evict_row(connection, table, &key)?,
                };
            if is_gone {
                evicted += 1;
            } else {
                gone.push((table, key));
            }
        }
    }
    Ok(evicted)
}

/// Whether one of the queries finds a row that refers to this one.
fn is_referred_to(connection: &Connection, referring: &[String], key: &[Value]) -> Result<bool> {
    for sql in referring {
        let mut statement = connection.prepare_cached(sql).doing("look for rows that refer to another")?;
        if statement
            .exists(rusqlite::params_from_iter(binds(key)))
            .doing("look for rows that refer to another")?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn collect(
    connection: &Connection,
    sql: &str,
    table: &TrackedTable,
    is_kept: &dyn Fn(&[u8]) -> bool,
    gone: &mut Vec<Vec<Value>>,
) -> Result<()> {
    let mut statement = connection.prepare(sql).doing("look for rows to evict")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next().doing("look for rows to evict")? {
        let key = columns(row, 0, table.key.len())?;
        if !key.contains(&Value::Null) && !is_kept(&encode_key(refs(&key))) {
            gone.push(key);
        }
    }
    Ok(())
}

/// Keys of rows whose changes the server does not have, or refused.
pub(super) fn unsent(replica: &Replica<'_>, table: &TrackedTable) -> Result<HashSet<Vec<u8>>> {
    let connection = replica.connection;
    let mut keys = rejected::keys(connection, table)?;
    let sql = format!(
        "select {} from main.cloudsync_log where tbl = ?1 and seq > ?2 and pk is not null",
        table.log_key("")
    );
    let mut statement = connection.prepare(&sql).doing("look for unsent rows")?;
    let mut rows = statement.query(params![table.id, log::acknowledged(connection)?.get()])?;
    while let Some(row) = rows.next().doing("look for unsent rows")? {
        keys.insert(encode_key(refs(&columns(row, 0, table.key.len())?)));
    }
    Ok(keys)
}

/// Takes one row and all that is known of it away; false when a foreign key holds it.
pub(super) fn evict_row(connection: &Connection, table: &TrackedTable, key: &[Value]) -> Result<bool> {
    let mut statement = connection.prepare_cached(&table.sql.row_delete)?;
    match statement.execute(rusqlite::params_from_iter(binds(key))).doing("evict a row") {
        Ok(_count) => {}
        Err(error) if error.is_refusal() && !connection.is_autocommit() => return Ok(false),
        Err(error) => return Err(error),
    }
    metadata::forget(connection, table, key)?;
    parked::forget_cells(connection, table, &encode_key(refs(key)))?;
    Ok(true)
}
