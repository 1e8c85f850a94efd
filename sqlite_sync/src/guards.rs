//! Triggers that hold users to the algorithm of a table: no UPDATE or DELETE of a grow-only table (`gos`), no row
//! under a key that was deleted for good (`dws`). Pure SQL like capture, so they hold without the extension too.

use rusqlite::{Connection, params};
use shared_format::payload::TableAlgorithm;

use crate::capture::{changed, key_columns_written, trigger};
use crate::error::{Doing, Result};
use crate::looks::Unshared;
use crate::sql::{fill, join, quote};
use crate::tracked_table::{TrackedTable, log_key_name};

const GOS_WRITE: &str = include_str!("../../sql/sqlite/guard_gos_write.sql");
const GOS_BEFORE: &str = include_str!("../../sql/sqlite/guard_gos_before.sql");
const GOS_AFTER: &str = include_str!("../../sql/sqlite/guard_gos_after.sql");
const DWS_DELETE: &str = include_str!("../../sql/sqlite/guard_dws_delete.sql");
const DWS_INSERT: &str = include_str!("../../sql/sqlite/guard_dws_insert.sql");
const DWS_REKEY: &str = include_str!("../../sql/sqlite/guard_dws_rekey.sql");

/// Setting that stands while apply writes to a grow-only table; nobody else ever sees it.
const OPEN: &str = "guards_open";

/// Makes what the triggers of a table read.
pub(crate) fn prepare(connection: &Connection, table: &TrackedTable) -> Result<()> {
    if table.rules.table == TableAlgorithm::Gos {
        let sql = "insert or ignore into main.cloudsync_guards (tbl, present) values (?1, 0)";
        connection.execute(sql, [table.id]).doing("make the guard of a table")?;
    }
    Ok(())
}

/// The triggers of a table.
pub(crate) fn statements(table: &TrackedTable, uniques: &[Unshared]) -> Vec<String> {
    match table.rules.table {
        TableAlgorithm::Cls | TableAlgorithm::Aws => Vec::new(),
        TableAlgorithm::Gos => grow_only(table, uniques),
        TableAlgorithm::Dws => deleted_for_good(table),
    }
}

fn message(table: &TrackedTable, rest: &str) -> String {
    let text = format!("cloudsync: table \"{}\" {rest}", table.name);
    format!("'{}'", text.replace('\'', "''"))
}

fn grow_only(table: &TrackedTable, uniques: &[Unshared]) -> Vec<String> {
    let (name, id) = (quote(&table.name), table.id.to_string());
    let key = join(&table.key, " and ", |_, column| {
        format!("held.{0} = NEW.{0} collate {1}", column.quoted(), quote(&column.collation))
    });
    let mut held = vec![format!("({key})")];
    held.extend(uniques.iter().map(|unshared| format!("({})", unshared.held_equal(table))));
    let held_equal = held.join(" or ");
    let write = |event: &str| {
        let message = message(table, &format!("only grows (gos): {event} is not allowed"));
        let what = trigger(table, &format!("guard_{}", event.to_ascii_lowercase()));
        let parts = [("trigger", what.as_str()), ("event", event), ("table", &name), ("open", OPEN)];
        fill(GOS_WRITE, &[&parts[..], &[("message", message.as_str())]].concat())
    };
    let (before, after) = (trigger(table, "guard_before"), trigger(table, "guard_after"));
    let replaced = message(table, "only grows (gos): a row cannot be replaced");
    vec![
        write("UPDATE"),
        write("DELETE"),
        fill(GOS_BEFORE, &[("trigger", &before), ("table", &name), ("id", &id), ("held_equal", &held_equal)]),
        fill(
            GOS_AFTER,
            &[("trigger", &after), ("table", &name), ("id", &id), ("open", OPEN), ("message", &replaced)],
        ),
    ]
}

fn deleted_for_good(table: &TrackedTable) -> Vec<String> {
    let (name, id) = (quote(&table.name), table.id.to_string());
    let quoted =
        |row: &str| join(&table.key, " || ',' || ", |_, column| format!("quote({row}.{})", column.quoted()));
    let whole =
        |row: &str| join(&table.key, " and ", |_, column| format!("{row}.{} is not null", column.quoted()));
    let known =
        join(&table.key, " and ", |at, column| format!("m.{} = NEW.{}", log_key_name(at), column.quoted()));
    let is_dead = format!(
        "(exists (select 1 from cloudsync_dead as d where d.tbl = {id} and d.key = {}) \
         or exists (select 1 from {} as m where {known} and m.alive = 0 and m.hlc <> 0))",
        quoted("NEW"),
        quote(&crate::tracked_table::metadata_name(&table.name)),
    );
    let message = message(table, "has this key among its deletions, which stand for good (dws)");
    let names = ["guard_delete", "guard_insert", "guard_rekey"].map(|what| trigger(table, what));
    let (old_quoted, old_whole) = (quoted("OLD"), whole("OLD"));
    let key_changed = join(&table.key, " or ", |_, column| changed(column));
    let shared = [
        ("table", name.as_str()),
        ("id", &id),
        ("is_dead", &is_dead),
        ("message", &message),
        ("old_quoted", &old_quoted),
        ("old_key_whole", &old_whole),
    ];
    let with = |template: &str, own: &[(&str, &str)]| fill(template, &[&shared, own].concat());
    vec![
        with(DWS_DELETE, &[("trigger", &names[0]), ("when_key", &format!("\nwhen {old_whole}"))]),
        with(DWS_INSERT, &[("trigger", &names[1])]),
        with(
            DWS_REKEY,
            &[
                ("trigger", &names[2]),
                ("key_columns", &key_columns_written(table)),
                ("key_changed", &key_changed),
            ],
        ),
    ]
}

/// Forgets deleted keys of a table: the metadata has them.
pub(crate) fn forget_dead(connection: &Connection, table: &TrackedTable) -> Result<()> {
    let sql = "delete from main.cloudsync_dead where tbl = ?1";
    connection.prepare_cached(sql)?.execute([table.id]).doing("forget deleted keys")?;
    Ok(())
}

/// Lets apply write to a grow-only table while `write` runs.
pub(crate) fn opened<T>(connection: &Connection, write: impl FnOnce() -> Result<T>) -> Result<T> {
    let sql = "insert or replace into main.cloudsync_settings (key, value) values (?1, 1)";
    connection.prepare_cached(sql)?.execute([OPEN]).doing("open a guard")?;
    let written = write();
    let sql = "delete from main.cloudsync_settings where key = ?1";
    let closed = connection.prepare_cached(sql)?.execute(params![OPEN]).doing("close a guard");
    let written = written?;
    closed?;
    Ok(written)
}
