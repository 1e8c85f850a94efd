//! Notices what became of tracked tables: columns that came, went or have another name, a table renamed,
//! dropped and made again, or rebuilt.
//!
//! The registry follows the file, never the reverse. SQLite rewrites the text of triggers when something is
//! renamed, so the text as it was made tells what a name was before. A table whose triggers are gone was
//! written to without capture: that is a gap.

use rusqlite::{Connection, params};
use shared_format::Value;

use crate::capture::{self, Held, Overtaken};
use crate::catalog::{Replica, reset_table};
use crate::central::{self, audience};
use crate::error::{Doing, Error, Result};
use crate::fold::fold;
use crate::gap;
use crate::log::{self, ColumnSet};
use crate::settings::{self, Setting};
use crate::sql::{NOW_MS, Unit, column, join, quote};
use crate::table_settings;
use crate::tracked_table::{Affinity, Shape, TrackedTable, find, metadata_name};
use crate::trigger_text::{is_renamed, renamed_columns};

/// A tracked table as it was when its triggers were made.
#[derive(Debug)]
struct Known {
    id: u32,
    name: String,
    triggers: String,
    key_ids: String,
    is_altering: bool,
}

/// What the triggers of a table say of the time since they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Captured {
    /// Every write is in the log.
    All,
    /// Some triggers are missing or changed: rows may have come, changed and gone unnoticed.
    InPart,
    /// All triggers are gone, and so is the table that they were on: this is another one of its name.
    Remade,
}

/// A table that was looked at and has to be taken in again.
#[derive(Debug)]
struct Found {
    known: Known,
    captured: Captured,
    /// Texts of the triggers that it has now.
    triggers: Vec<String>,
}

/// Brings the registry up to the tables of the file, if its schema changed since the last look.
pub(crate) fn refresh(connection: &Connection) -> Result<()> {
    if !settings::is_set_up(connection)? {
        return Ok(());
    }
    if settings::integer(connection, Setting::SchemaSeen)? == Some(schema_number(connection)?) {
        return Ok(());
    }
    let unit = Unit::begin(connection)?;
    let mut found = Vec::new();
    for known in known(connection)? {
        found.extend(look_at(connection, known)?);
    }
    take_in(connection, &found)?;
    seen(connection)?;
    unit.commit()
}

/// Remembers that the file was looked at, or changed by this crate itself.
pub(crate) fn seen(connection: &Connection) -> Result<()> {
    settings::store(connection, Setting::SchemaSeen, &Value::Integer(schema_number(connection)?))
}

/// SQLite's count of changes to the schema.
fn schema_number(connection: &Connection) -> Result<i64> {
    connection.query_row("pragma main.schema_version", [], |row| row.get(0)).doing("read the schema's number")
}

/// Remembers the triggers of a table as they were just made.
pub(crate) fn note(connection: &Connection, table: &TrackedTable, is_altering: bool) -> Result<()> {
    let sql = "insert into main.cloudsync_shapes (tbl, triggers, key_ids, altering) values (?1, ?2, ?3, ?4)
        on conflict (tbl) do update set triggers = excluded.triggers, key_ids = excluded.key_ids,
          altering = excluded.altering";
    let triggers = joined(&capture::held(connection, table.id)?);
    let row = params![table.id, triggers, key_ids(table), is_altering];
    connection.execute(sql, row).doing("remember the capture triggers")?;
    Ok(())
}

/// Forgets the triggers of a table that are to go.
pub(crate) fn forget(connection: &Connection, table: &str) -> Result<()> {
    let sql = "delete from main.cloudsync_shapes
        where tbl = (select id from main.cloudsync_tables where name = ?1)";
    connection.execute(sql, [table]).doing("forget the capture triggers")?;
    Ok(())
}

fn joined(triggers: &[Held]) -> String {
    join(triggers, "\n", |_, trigger| trigger.text.clone())
}

fn key_ids(table: &TrackedTable) -> String {
    join(&table.key, ",", |_, column| column.id.get().to_string())
}

fn known(connection: &Connection) -> Result<Vec<Known>> {
    let sql = "select t.id, t.name, s.triggers, s.key_ids, s.altering
        from main.cloudsync_tables as t join main.cloudsync_shapes as s on s.tbl = t.id order by t.id";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Known {
            id: row.get(0)?,
            name: row.get(1)?,
            triggers: row.get(2)?,
            key_ids: row.get(3)?,
            is_altering: row.get(4)?,
        })
    };
    connection
        .prepare_cached(sql)?
        .query_map([], read)
        .and_then(Iterator::collect)
        .doing("read the capture triggers as made")
}

/// Follows names, so that the log can still be folded; None when there is no such table now.
fn look_at(connection: &Connection, mut known: Known) -> Result<Option<Found>> {
    let held = capture::held(connection, known.id)?;
    let name = match (find(connection, &known.name)?, held.first()) {
        (Some(name), _) => name,
        (None, Some(trigger)) => {
            let name = trigger.table.clone();
            if has_other(connection, &name, known.id)? {
                // It took the place of a tracked table that is gone, so it is that one, made anew.
                drop_triggers(connection, &held)?;
                return Ok(None);
            }
            match rename_table(connection, &known, &name) {
                Ok(()) => name,
                // Other tables go on; this one is reported.
                Err(error @ Error::Untrackable { .. }) => {
                    gap::open(connection, known.id, &error.line())?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        // It may be made again; what the registry knows of it stays until then.
        (None, None) => return Ok(None),
    };
    known.name = name;
    let (on_it, astray): (Vec<Held>, Vec<Held>) =
        held.into_iter().partition(|trigger| trigger.table.eq_ignore_ascii_case(&known.name));
    drop_triggers(connection, &astray)?;
    let triggers = joined(&on_it);
    let captured = if on_it.is_empty() {
        Captured::Remade
    } else if triggers == known.triggers {
        Captured::All
    } else if is_renamed(&known.triggers, &triggers) {
        rename_columns(connection, &known, &renamed_columns(&known.triggers, &triggers))?;
        table_settings::follow_filter(connection, known.id, &triggers)?;
        Captured::All
    } else {
        Captured::InPart
    };
    let mut captured = captured;
    if captured != Captured::All
        && let Some(table) = Replica::open(connection)?.table(known.id)
    {
        if begin_anew(connection, &known, table)? {
            known.key_ids = key_ids(table);
            captured = Captured::All;
        } else if captured == Captured::Remade {
            gap::forget_missing(connection, table)?;
        }
    }
    let triggers = on_it.into_iter().map(|trigger| trigger.text).collect();
    Ok(Some(Found { known, captured, triggers }))
}

/// Whether another tracked table has a name.
fn has_other(connection: &Connection, name: &str, table: u32) -> Result<bool> {
    let sql = "select exists (select 1 from main.cloudsync_tables where name = ?1 and id <> ?2)";
    connection.query_row(sql, params![name, table], |row| row.get(0)).doing("look for a table of that name")
}

fn drop_triggers(connection: &Connection, triggers: &[Held]) -> Result<()> {
    for trigger in triggers {
        connection.execute_batch(&format!("drop trigger main.{}", quote(&trigger.name)))?;
    }
    Ok(())
}

/// Follows ALTER TABLE RENAME TO: the metadata goes along.
fn rename_table(connection: &Connection, known: &Known, name: &str) -> Result<()> {
    let former = metadata_name(&known.name);
    let metadata = metadata_name(name);
    if find(connection, &metadata)?.is_some() {
        let reason = crate::error::Untrackable::NameTaken { name: metadata };
        return Err(Error::Untrackable { table: name.to_owned(), reason });
    }
    let sql = format!("alter table main.{} rename to {}", quote(&former), quote(&metadata));
    connection.execute_batch(&sql).doing("rename the metadata table")?;
    let sql = "update main.cloudsync_tables set name = ?2, version = version + 1 where id = ?1";
    connection.execute(sql, params![known.id, name])?;
    for kept in ["cloudsync_rejected", "cloudsync_conflicts"] {
        let sql = format!("update main.{kept} set tbl = ?2 where tbl = ?1");
        connection.execute(&sql, params![known.name, name]).doing("follow a table's name")?;
    }
    Ok(())
}

/// Follows ALTER TABLE RENAME COLUMN: columns keep their ids.
fn rename_columns(connection: &Connection, known: &Known, pairs: &[(String, String)]) -> Result<()> {
    let table = known.id;
    follow_names(connection, table, pairs)?;
    let mut renamed = Vec::new();
    for (former, name) in pairs {
        let sql = "select id from main.cloudsync_columns where tbl = ?1 and name = ?2 and not dropped";
        let mut statement = connection.prepare_cached(sql)?;
        let ids = statement.query_map(params![table, former], |row| row.get::<_, i64>(0))?;
        for id in ids {
            renamed.push((id?, name));
        }
    }
    for (id, name) in renamed {
        let sql = "update main.cloudsync_columns set name = ?3 where tbl = ?1 and id = ?2";
        connection.execute(sql, params![table, id, name])?;
    }
    rename_settings(connection, table, pairs)?;
    rename_in_conflicts(connection, &known.name, pairs)?;
    if !pairs.is_empty() {
        count_up(connection, table)?;
    }
    Ok(())
}

/// Takes the names over into the table's scope, which has the former ones.
fn follow_names(connection: &Connection, table: u32, pairs: &[(String, String)]) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    let sql = "select name from main.cloudsync_columns where tbl = ?1 and not dropped";
    let former = connection
        .prepare_cached(sql)?
        .query_map([table], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .doing("read the names of columns")?;
    audience::follow_names(connection, table, &former, pairs)
}

/// Looks for all former names before any is changed, since two columns may have swapped theirs.
fn rename_in_conflicts(connection: &Connection, table: &str, pairs: &[(String, String)]) -> Result<()> {
    let mut statement =
        connection.prepare_cached("select id from main.cloudsync_conflicts where tbl = ?1 and col = ?2")?;
    let mut renamed: Vec<(i64, &str)> = Vec::new();
    for (former, name) in pairs {
        let ids = statement.query_map([table, former], |row| row.get(0))?;
        for id in ids {
            renamed.push((id.doing("rename columns of conflicts")?, name));
        }
    }
    for (id, name) in renamed {
        connection
            .execute("update main.cloudsync_conflicts set col = ?2 where id = ?1", params![id, name])?;
    }
    Ok(())
}

/// Takes all settings out before any is put back, since two columns may have swapped their names.
fn rename_settings(connection: &Connection, table: u32, pairs: &[(String, String)]) -> Result<()> {
    let sql = "delete from main.cloudsync_table_settings where tbl = ?1 and col = ?2 returning key, value";
    let mut statement = connection.prepare_cached(sql)?;
    let mut kept: Vec<(&str, String, Value)> = Vec::new();
    for (former, name) in pairs {
        let mut rows = statement.query(params![table, former])?;
        while let Some(row) = rows.next().doing("rename a column's settings")? {
            kept.push((name, row.get(0)?, column(row, 1)?.to_owned_value()));
        }
    }
    for (name, key, value) in kept {
        table_settings::store(connection, table, name, &key, &value)?;
    }
    Ok(())
}

/// Counts up the version of a table's definition.
pub(crate) fn count_up(connection: &Connection, table: u32) -> Result<()> {
    connection.execute("update main.cloudsync_tables set version = version + 1 where id = ?1", [table])?;
    Ok(())
}

/// Folds what was captured under the former columns, then takes the new ones in.
fn take_in(connection: &Connection, found: &[Found]) -> Result<()> {
    if let Some(mut replica) = Replica::load(connection)? {
        fold(&mut replica)?;
    }
    for found in found.iter().filter(|found| !found.known.is_altering || found.captured != Captured::All) {
        take_in_table(connection, found)?;
    }
    fetch_what_was_skipped(connection)
}

fn take_in_table(connection: &Connection, found: &Found) -> Result<()> {
    let known = &found.known;
    let shape = match Shape::read(connection, &known.name) {
        Ok(shape) => shape,
        // Other tables go on; this one is reported until it can be tracked again.
        Err(error @ Error::Untrackable { .. }) => return gap::open(connection, known.id, &error.line()),
        Err(error) => return Err(error),
    };
    let added = number_columns(connection, known.id, &shape, true)?;
    let table = table_settings::tracked(connection, &shape.name)?;
    let is_anew = begin_anew(connection, known, &table)?;
    let table = table_settings::tracked(connection, &shape.name)?;
    let overtaken = capture::overtaken(connection, &table)?;
    if found.triggers != capture::texts(&table, &shape.uniques) || overtaken != Overtaken::No {
        capture::install(connection, &table, &shape.uniques)?;
    }
    if is_anew {
        return Ok(());
    }
    pass_on_defaults(connection, &table, &added)?;
    for column in &added {
        log_values(connection, &table, column)?;
    }
    match found.captured {
        Captured::All if overtaken != Overtaken::Skipping => return Ok(()),
        Captured::All => {
            gap::open(connection, table.id, "a trigger ended statements before they were captured")?;
        }
        Captured::InPart => gap::open(connection, table.id, "capture triggers were missing or changed")?,
        Captured::Remade => gap::open(connection, table.id, "the table was made anew")?,
    }
    gap::log_existence(connection, &table, found.captured != Captured::Remade)?;
    fetch(connection)
}

/// Gives a table with another primary key new metadata, since its rows have other names now; says whether it
/// has one.
fn begin_anew(connection: &Connection, known: &Known, table: &TrackedTable) -> Result<bool> {
    if key_ids(table) == known.key_ids && has_key_types(connection, table)? {
        return Ok(false);
    }
    reset_table(connection, table)?;
    gap::open(connection, table.id, "the table has another primary key")?;
    fetch(connection)?;
    Ok(true)
}

/// Whether the metadata stores keys as the table does.
fn has_key_types(connection: &Connection, table: &TrackedTable) -> Result<bool> {
    let sql = "select type from pragma_table_info(?1, 'main') where pk > 0 order by pk";
    let types = connection
        .prepare_cached(sql)?
        .query_map([metadata_name(&table.name)], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .doing("read the key of the metadata")?;
    let wanted = table.key.iter().map(|column| column.affinity());
    Ok(types.iter().map(|found| Affinity::of(found)).eq(wanted))
}

/// Gives ids to columns that have none and marks those that went; returns the names of the new ones. A table
/// with other columns has a new version. Of a table that was tracked before, rows do not speak for them yet, but at a
/// centre.
pub(crate) fn number_columns(
    connection: &Connection,
    table: u32,
    shape: &Shape,
    is_later: bool,
) -> Result<Vec<String>> {
    let sql = "select id, name from main.cloudsync_columns where tbl = ?1 and not dropped";
    let live = connection
        .prepare_cached(sql)?
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<(i64, String)>>>)
        .doing("read the registry of columns")?;
    let has = |name: &str| {
        let mut all = shape.key.iter().chain(&shape.columns);
        all.any(|column| column.name.eq_ignore_ascii_case(name))
    };
    let gone: Vec<i64> = live.iter().filter(|(_, name)| !has(name)).map(|(id, _)| *id).collect();
    for id in &gone {
        let sql = "delete from main.cloudsync_table_settings where tbl = ?1 and col <> ''
            and col = (select name from main.cloudsync_columns where tbl = ?1 and id = ?2)";
        connection.execute(sql, params![table, id]).doing("forget a column's settings")?;
        let sql = "update main.cloudsync_columns set dropped = 1 where tbl = ?1 and id = ?2";
        connection.execute(sql, params![table, id])?;
    }
    let is_new = |name: &str| !live.iter().any(|(_, known)| known.eq_ignore_ascii_case(name));
    let columns = shape.key.iter().chain(&shape.columns);
    let added: Vec<String> = columns.filter(|column| is_new(&column.name)).map(|c| c.name.clone()).collect();
    if added.is_empty() && gone.is_empty() {
        return Ok(added);
    }
    // A number above those of all metadata. What a centre has is true: there a row speaks for all its columns.
    let is_marked = is_later && !added.is_empty() && !central::is_centre(connection)?;
    let mark = if is_marked { log::append_mark(connection)?.get() } else { 0 };
    let sql = "insert into main.cloudsync_columns (tbl, id, name, added)
        select ?1, coalesce(max(id), 0) + 1, ?2, ?3 from main.cloudsync_columns where tbl = ?1";
    for name in &added {
        connection.prepare_cached(sql)?.execute(params![table, name, mark]).doing("number a column")?;
    }
    count_up(connection, table)?;
    Ok(added)
}

/// Passes the rows of a centre on when a new column gave them a value: the column of others may have another default,
/// or none. The rows keep their stamps, so what was written to that column elsewhere, before it came here, stays there.
fn pass_on_defaults(connection: &Connection, table: &TrackedTable, added: &[String]) -> Result<()> {
    let is_new = |name: &String| added.iter().any(|added| added == name);
    let has_values = table.columns.iter().any(|column| column.default.is_some() && is_new(&column.name));
    if table.enabled && has_values && table.is_of_centre() {
        central::pass_on_rows(&Replica::open(connection)?, table)?;
    }
    Ok(())
}

/// Logs the rows in which a new column was written before anybody captured it: they differ from its default.
fn log_values(connection: &Connection, table: &TrackedTable, name: &str) -> Result<()> {
    let Some(column) = table.columns.iter().find(|column| column.name == name) else { return Ok(()) };
    let set: ColumnSet = [column.id].into_iter().collect();
    let sql = format!(
        "insert into main.{log} (tbl, cols, ms, {log_key})
         select {id}, {set}, {NOW_MS}, {key} from {rows}
         where {column} is not ({default}) collate binary and {whole}",
        log = table.log_name(),
        log_key = table.log_key(""),
        id = table.id,
        set = set.to_log_sql(),
        key = table.key_columns(""),
        rows = table.quoted(),
        column = column.quoted(),
        default = column.default.as_deref().unwrap_or("null"),
        whole = join(&table.key, " and ", |_, column| format!("{} is not null", column.quoted())),
    );
    connection.execute_batch(&sql).doing("log the values of a new column")
}

/// Asks for the server's rows at the next sync.
pub(crate) fn fetch(connection: &Connection) -> Result<()> {
    settings::store(connection, Setting::Refetch, &Value::Integer(1))
}

/// Asks for the server's rows when this file has now what it passed over before.
pub(crate) fn fetch_what_was_skipped(connection: &Connection) -> Result<()> {
    let sql = "delete from main.cloudsync_skipped as s where exists (
        select 1 from main.cloudsync_tables as t join main.cloudsync_shapes as h on h.tbl = t.id
        where t.name = s.tbl and (s.col = '' or exists (
          select 1 from main.cloudsync_columns as c
          where c.tbl = t.id and not c.dropped and c.name = s.col)))";
    if connection.execute(sql, []).doing("look for what was skipped")? > 0 {
        fetch(connection)?;
    }
    Ok(())
}

/// Makes room for ALTER TABLE: columns can be dropped from now on.
pub(crate) fn begin_alter(connection: &Connection, table: &str) -> Result<()> {
    let unit = Unit::begin(connection)?;
    refresh(connection)?;
    let table = table_settings::tracked(connection, table)?;
    capture::install_altering(connection, &table)?;
    seen(connection)?;
    unit.commit()
}

/// Takes in what was altered.
pub(crate) fn commit_alter(connection: &Connection, table: &str) -> Result<()> {
    let unit = Unit::begin(connection)?;
    refresh(connection)?;
    let id = table_settings::tracked(connection, table)?.id;
    let found: Vec<Found> = known(connection)?
        .into_iter()
        .filter(|known| known.id == id && known.is_altering)
        .map(|known| Found { known, captured: Captured::All, triggers: Vec::new() })
        .collect();
    for found in &found {
        take_in_table(connection, found)?;
        // REPLACE deletes through a UNIQUE index without a trace while nobody looks.
        let table = table_settings::tracked(connection, table)?;
        gap::log_existence(connection, &table, true)?;
    }
    fetch_what_was_skipped(connection)?;
    seen(connection)?;
    unit.commit()
}
