//! Writes the capture triggers of a tracked table: pure SQL, so that every SQLite tool can go on writing to
//! the file.

use rusqlite::{Connection, Row};

use crate::error::{Doing, Result};
use crate::guards;
use crate::log::{ColumnSet, DELETED, INSERTED, LOOK, WORD_COLUMNS};
use crate::looks::Unshared;
use crate::schema;
use crate::sql::{NOW_MS, balanced, fill, join, quote};
use crate::tracked_table::{Affinity, Column, TrackedTable, log_key_name};

const INSERT: &str = include_str!("../../sql/sqlite/capture_insert.sql");
const UPDATE: &str = include_str!("../../sql/sqlite/capture_update.sql");
const REKEY: &str = include_str!("../../sql/sqlite/capture_rekey.sql");
const DELETE: &str = include_str!("../../sql/sqlite/capture_delete.sql");
const ENTER: &str = include_str!("../../sql/sqlite/capture_enter.sql");
const ALTER: &str = include_str!("../../sql/sqlite/capture_alter.sql");

/// Beginning of a trigger's text where this crate makes it.
const MADE: &str = "create trigger main.";

/// Beginning of a trigger's text where SQLite holds it.
const HELD: &str = "CREATE TRIGGER ";

/// Beginning of the name of every trigger that this crate makes.
pub(crate) const TRIGGER_PREFIX: &str = "cloudsync_capture_";

/// A capture trigger as the file holds it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) name: String,
    /// The table it is on.
    pub(crate) table: String,
    /// Its text from its name on.
    pub(crate) text: String,
}

/// Makes the triggers of a table anew.
pub(crate) fn install(connection: &Connection, table: &TrackedTable, uniques: &[Unshared]) -> Result<()> {
    remove(connection, &table.name)?;
    guards::prepare(connection, table)?;
    for sql in statements(table, uniques) {
        connection.execute_batch(&sql).doing("make a capture trigger")?;
    }
    schema::note(connection, table, false)
}

/// Puts triggers in place that let every column be dropped; assigned columns count as changed.
pub(crate) fn install_altering(connection: &Connection, table: &TrackedTable) -> Result<()> {
    remove(connection, &table.name)?;
    for sql in statements(table, &[]).into_iter().filter(|sql| !sql.contains(&trigger(table, "update"))) {
        connection.execute_batch(&sql).doing("make a capture trigger")?;
    }
    for column in &table.columns {
        let set: ColumnSet = [column.id].into_iter().collect();
        let parts = [
            ("trigger", trigger(table, &format!("alter_{}", column.id.get()))),
            ("column", column.quoted()),
            ("log", table.log_name().to_owned()),
            ("table", quote(&table.name)),
            ("when_key", when(&both(key_whole(table, "NEW"), table.shares("NEW")))),
            ("log_key", table.log_key("")),
            ("id", table.id.to_string()),
            ("column_set", set.to_log_sql()),
            ("now", NOW_MS.to_owned()),
            ("new_key", table.key_columns("NEW.")),
        ];
        let parts: Vec<(&str, &str)> = parts.iter().map(|(name, part)| (*name, part.as_str())).collect();
        connection.execute_batch(&fill(ALTER, &parts)).doing("make a capture trigger")?;
    }
    schema::note(connection, table, true)
}

/// The triggers of a table, wherever they are, by name.
pub(crate) fn held(connection: &Connection, table: u32) -> Result<Vec<Held>> {
    let sql = "select name, tbl_name, sql from main.sqlite_schema
        where type = 'trigger' and name glob ?1 order by name";
    let read = |row: &Row<'_>| {
        let sql: String = row.get(2)?;
        let text = sql.strip_prefix(HELD).unwrap_or(&sql).to_owned();
        Ok(Held { name: row.get(0)?, table: row.get(1)?, text })
    };
    connection
        .prepare_cached(sql)?
        .query_map([format!("{TRIGGER_PREFIX}{table}_*")], read)
        .and_then(Iterator::collect)
        .doing("look for capture triggers")
}

/// Whether triggers of the user fire before those of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overtaken {
    No,
    /// They fire before, and let it pass.
    Harmlessly,
    /// RAISE may have kept a row and skipped the capture of it.
    Skipping,
}

/// Asks for the user's triggers that were made after ours: SQLite fires the newest first.
pub(crate) fn overtaken(connection: &Connection, table: &TrackedTable) -> Result<Overtaken> {
    let sql = "select max(sql like '%after%on%raise%(%ignore%' or sql like '%after%on%raise%(%fail%')
        from main.sqlite_schema
        where type = 'trigger' and tbl_name = ?1 collate nocase and name not glob ?2 and rowid > (
          select min(rowid) from main.sqlite_schema where type = 'trigger' and name glob ?2)";
    let skips: Option<bool> = connection
        .prepare_cached(sql)?
        .query_row([&table.name, &format!("{TRIGGER_PREFIX}{}_*", table.id)], |row| row.get(0))
        .doing("look for newer triggers")?;
    Ok(match skips {
        None => Overtaken::No,
        Some(false) => Overtaken::Harmlessly,
        Some(true) => Overtaken::Skipping,
    })
}

/// The texts that [`install`] would make now, as SQLite would hold them.
pub(crate) fn texts(table: &TrackedTable, uniques: &[Unshared]) -> Vec<String> {
    let mut texts: Vec<String> = statements(table, uniques)
        .iter()
        .filter_map(|sql| Some(sql.split_once(MADE)?.1.trim_end().to_owned()))
        .collect();
    texts.sort_unstable();
    texts
}

/// Removes the triggers of a table; from then on nobody misses them.
pub(crate) fn remove(connection: &Connection, table: &str) -> Result<()> {
    let sql = "select name from main.sqlite_schema
        where type = 'trigger' and tbl_name = ?1 collate nocase and name glob ?2";
    let names = connection
        .prepare_cached(sql)?
        .query_map([table, &format!("{TRIGGER_PREFIX}*")], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .doing("look for capture triggers")?;
    for name in names {
        connection.execute_batch(&format!("drop trigger main.{}", quote(&name)))?;
    }
    schema::forget(connection, table)
}

fn statements(table: &TrackedTable, uniques: &[Unshared]) -> Vec<String> {
    let numbers = [INSERTED, DELETED, LOOK].map(|code| code.to_string());
    let id = table.id.to_string();
    let quoted = quote(&table.name);
    let log_key = table.log_key("");
    let new_key = table.key_columns("NEW.");
    let old_key = table.key_columns("OLD.");
    let key_columns = key_columns_written(table);
    let when_new = when(&both(key_whole(table, "NEW"), table.shares("NEW")));
    let when_old = when(&both(key_whole(table, "OLD"), table.shares("OLD")));
    let key_changed = join(&table.key, " or ", |_, column| changed(column));
    let new_key_whole =
        both(key_whole(table, "NEW"), table.shares("NEW")).unwrap_or_else(|| String::from("true"));
    let old_key_whole = key_whole(table, "OLD").unwrap_or_else(|| String::from("true"));
    let names = ["insert", "rekey", "delete"].map(|what| trigger(table, what));
    let shared = [
        ("table", quoted.as_str()),
        ("log", table.log_name()),
        ("id", &id),
        ("inserted", &numbers[0]),
        ("deleted", &numbers[1]),
        ("look", &numbers[2]),
        ("now", NOW_MS),
        ("log_key", &log_key),
        ("new_key", &new_key),
        ("old_key", &old_key),
    ];
    let with = |template: &str, own: &[(&str, &str)]| fill(template, &[&shared, own].concat());
    let mut all = vec![
        with(INSERT, &[("trigger", &names[0]), ("when_key", &when_new)]),
        with(
            REKEY,
            &[
                ("trigger", &names[1]),
                ("key_columns", &key_columns),
                ("key_changed", &key_changed),
                ("new_key_whole", &new_key_whole),
                ("old_key_whole", &old_key_whole),
            ],
        ),
        // Whether a row matches the filter is asked of the table, where a deleted row is no more.
        with(
            DELETE,
            &[
                ("trigger", &names[2]),
                ("when", if table.filter.is_some() { "before" } else { "after" }),
                ("when_key", &when_old),
            ],
        ),
    ];
    if let Some(shared) = table.shares("OLD") {
        let not_shared = both(key_whole(table, "OLD"), Some(format!("not {shared}"))).unwrap_or_default();
        all.push(with(ENTER, &[("trigger", &trigger(table, "enter")), ("not_shared", &not_shared)]));
    }
    all.extend(update_statement(table, &with));
    for (at, unshared) in uniques.iter().enumerate() {
        all.extend(unshared.statements(table, at, &with));
    }
    all.extend(guards::statements(table, uniques));
    all
}

/// Fills a template with the parts that all triggers of a table share, and with its own.
pub(crate) type Filler<'a> = &'a dyn Fn(&str, &[(&str, &str)]) -> String;

/// The trigger that logs which columns changed; None for a table of nothing but its key.
fn update_statement(table: &TrackedTable, with: Filler<'_>) -> Option<String> {
    if table.columns.is_empty() {
        return None;
    }
    let name = trigger(table, "update");
    let key_kept = join(&table.key, " and ", |_, column| format!("not {}", changed(column)));
    let key_kept = match both(key_whole(table, "NEW"), table.shares("NEW")) {
        Some(whole) => format!("{whole} and {key_kept}"),
        None => key_kept,
    };
    let own = [
        ("trigger", name.as_str()),
        ("columns", &table.other_columns("")),
        ("key_kept", &key_kept),
        ("changed", &balanced(&table.columns.iter().map(changed).collect::<Vec<_>>(), "or")),
        ("column_set", &column_set(table)),
    ];
    Some(with(UPDATE, &own))
}

pub(crate) fn trigger(table: &TrackedTable, what: &str) -> String {
    quote(&format!("{TRIGGER_PREFIX}{}_{what}", table.id))
}

/// Columns whose assignment may change the row key. A rowid that is the key can be assigned under any of its
/// names, and SQLite matches `update of` by name alone.
pub(crate) fn key_columns_written(table: &TrackedTable) -> String {
    let mut names: Vec<String> = table.key.iter().map(Column::quoted).collect();
    names.extend(["rowid", "oid", "_rowid_"].map(String::from));
    names.join(", ")
}

/// "Changed" of DESIGN section 6: another value or another storage class.
///
/// Equal values of different classes are an integer and a real, and only a column without a type rule stores
/// both; elsewhere the second question is not asked, since it costs as much as the first.
pub(crate) fn changed(column: &Column) -> String {
    let value = changed_value(&column.name);
    match column.affinity() {
        Affinity::Blob => {
            let name = column.quoted();
            format!("({value} or typeof(OLD.{name}) <> typeof(NEW.{name}))")
        }
        Affinity::Integer | Affinity::Text | Affinity::Real | Affinity::Numeric => value,
    }
}

pub(crate) fn changed_value(name: &str) -> String {
    let name = quote(name);
    format!("(OLD.{name} is not NEW.{name} collate binary)")
}

/// The set of changed columns as the log holds it.
fn column_set(table: &TrackedTable) -> String {
    let mut words: Vec<Vec<String>> = Vec::new();
    for column in &table.columns {
        let word = usize::from(column.id.get() / WORD_COLUMNS);
        if words.len() <= word {
            words.resize(word + 1, Vec::new());
        }
        words[word].push(format!("({} << {})", changed(column), column.id.get() % WORD_COLUMNS));
    }
    join(&words, " || ',' || ", |_, terms| balanced(terms, "|"))
}

/// Says that no part of the key is NULL; such rows have no name and stay on this device.
fn key_whole(table: &TrackedTable, row: &str) -> Option<String> {
    let parts: Vec<String> = table
        .key
        .iter()
        .filter(|column| column.may_be_null)
        .map(|column| format!("{row}.{} is not null", column.quoted()))
        .collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn both(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one} and {other}")),
        (one, other) => one.or(other),
    }
}

fn when(condition: &Option<String>) -> String {
    condition.as_ref().map(|condition| format!("\nwhen {condition}")).unwrap_or_default()
}

/// Adds columns to the log when a wider key than any before is tracked.
pub(crate) fn widen_log(connection: &Connection, parts: usize) -> Result<()> {
    for log in ["cloudsync_log", "cloudsync_held"] {
        let sql = "select count(*) from pragma_table_info(?1, 'main') where name glob 'pk*'";
        let found: u32 = connection.query_row(sql, [log], |row| row.get(0))?;
        for at in usize::try_from(found).unwrap_or(0)..parts {
            let sql = format!("alter table main.{log} add column {}", log_key_name(at));
            connection.execute_batch(&sql).doing("widen the capture log")?;
        }
    }
    Ok(())
}
