//! Finds what an apply left behind that foreign keys do not allow, so that only those rows are refused and rows
//! that refer to each other in a circle go in together.

use std::collections::HashSet;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};
use shared_format::encode_key;

use crate::catalog::Replica;
use crate::error::{Doing, Result};
use crate::log::DbVersion;
use crate::sql::{columns, join, quote, refs};
use crate::tracked_table::{TrackedTable, log_key_name};

/// Rows by table and key.
pub(super) type Rows = HashSet<(u32, Vec<u8>)>;

/// One foreign key of the file.
#[derive(Debug)]
struct ForeignKey {
    child: String,
    parent: String,
    /// Whether SQLite itself changes or deletes the child when its parent goes.
    has_action: bool,
    /// Column of the child, column of the parent; None is the parent's key.
    columns: Vec<(String, Option<String>)>,
}

/// Whether a write can leave a foreign key open at all.
pub(crate) fn can_open(connection: &Connection) -> Result<bool> {
    if !connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)? {
        return Ok(false);
    }
    let sql = "select exists (
        select 1 from main.sqlite_schema as s, pragma_foreign_key_list(s.name, 'main')
        where s.type = 'table')";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).doing("look for foreign keys")
}

/// Rows that the apply with this mark wrote or deleted, and that leave a reference to nothing. Empty where the
/// reason is another one.
pub(super) fn offenders(replica: &Replica<'_>, mark: DbVersion) -> Result<Rows> {
    let mut rows = Rows::new();
    for key in foreign_keys(replica)? {
        let found = |name: &String| replica.table_named(name).map(|table| &**table);
        let (child, parent) = (found(&key.child), found(&key.parent));
        if let Some(child) = child {
            rows.extend(read(replica, child, &orphans_sql(&key, child, parent), mark)?);
        }
        if let Some(parent) = parent
            && let Some(sql) = bereaving_sql(&key, child, parent)
        {
            rows.extend(read(replica, parent, &sql, mark)?);
        }
    }
    Ok(rows)
}

/// Queries that ask, each for one foreign key, whether a row refers to the row of a table that has a key. Children
/// that nobody captures are left to the file's own rules.
pub(super) fn referring_sql(replica: &Replica<'_>, parent: &TrackedTable) -> Result<Vec<String>> {
    if !can_open(replica.connection)? {
        return Ok(Vec::new());
    }
    let mut keys = foreign_keys(replica)?;
    keys.retain(|key| {
        let is_captured = replica.table_named(&key.child).is_some();
        key.parent.eq_ignore_ascii_case(&parent.name) && (is_captured || !key.has_action)
    });
    let query = |key: &ForeignKey| {
        let is_own = key.child.eq_ignore_ascii_case(&parent.name);
        let itself = join(&parent.key, " and ", |_, column| format!("c.{0} is p.{0}", column.quoted()));
        format!(
            "select 1 from (select * from {} where {}) as p join main.{} as c on {}{}",
            parent.quoted(),
            parent.key_is(1),
            quote(&key.child),
            refers(key, Some(parent)),
            if is_own { format!(" and not ({itself})") } else { String::new() },
        )
    };
    Ok(keys.iter().map(query).collect())
}

fn foreign_keys(replica: &Replica<'_>) -> Result<Vec<ForeignKey>> {
    let sql = "select s.name, f.id, f.\"table\", f.\"from\", f.\"to\",
          f.on_delete not in ('NO ACTION', 'RESTRICT')
        from main.sqlite_schema as s, pragma_foreign_key_list(s.name, 'main') as f
        where s.type = 'table' order by s.name, f.id, f.seq";
    let mut statement = replica.connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut keys: Vec<ForeignKey> = Vec::new();
    let mut last = None;
    while let Some(row) = rows.next().doing("read the foreign keys")? {
        let name: (String, i64) = (row.get(0)?, row.get(1)?);
        let columns = (row.get(3)?, row.get(4)?);
        if last.as_ref() == Some(&name) {
            keys.last_mut().into_iter().for_each(|key| key.columns.push(columns.clone()));
        } else {
            let parent = row.get(2)?;
            let has_action = row.get(5)?;
            keys.push(ForeignKey { child: name.0.clone(), parent, has_action, columns: vec![columns] });
            last = Some(name);
        }
    }
    Ok(keys)
}

/// Children that were written and whose parent is not there.
fn orphans_sql(key: &ForeignKey, child: &TrackedTable, parent: Option<&TrackedTable>) -> String {
    format!(
        "select {} from {} as m join {} as c on {} where m.seq = ?1 and m.alive and {} and not exists
           (select 1 from main.{} as p where {})",
        child.log_key("m."),
        child.metadata(),
        child.quoted(),
        child.key_equals_log("c", "m"),
        all(key, |(from, _)| format!("c.{} is not null", quote(from))),
        quote(&key.parent),
        refers(key, parent),
    )
}

/// Parents that were deleted although a child that was not written refers to them; None where the reference is
/// not to the parent's row key.
fn bereaving_sql(key: &ForeignKey, child: Option<&TrackedTable>, parent: &TrackedTable) -> Option<String> {
    let mut joined = Vec::new();
    for (at, (from, to)) in key.columns.iter().enumerate() {
        let place = match to {
            Some(to) => parent.key.iter().position(|column| column.name.eq_ignore_ascii_case(to))?,
            None => at,
        };
        joined.push(format!("m.{} = c.{}", log_key_name(place), quote(from)));
    }
    let untouched = child.map_or(String::from("true"), |child| {
        format!(
            "not exists (select 1 from {} as w where {} and w.seq = ?1)",
            child.metadata(),
            child.key_equals_log("c", "w"),
        )
    });
    Some(format!(
        "select {} from {} as m where m.seq = ?1 and not m.alive and exists
           (select 1 from main.{} as c where {} and {untouched})",
        parent.log_key("m."),
        parent.metadata(),
        quote(&key.child),
        joined.join(" and "),
    ))
}

/// The parent stands on the left, so that its type and collation rule.
fn refers(key: &ForeignKey, parent: Option<&TrackedTable>) -> String {
    let mut at = 0;
    all(key, |(from, to)| {
        let own = parent.and_then(|parent| parent.key.get(at)).map(|column| column.name.clone());
        at += 1;
        let to = to.clone().or(own).unwrap_or_else(|| String::from("rowid"));
        format!("p.{} = c.{}", quote(&to), quote(from))
    })
}

fn all(key: &ForeignKey, each: impl FnMut(&(String, Option<String>)) -> String) -> String {
    key.columns.iter().map(each).collect::<Vec<_>>().join(" and ")
}

fn read(replica: &Replica<'_>, table: &TrackedTable, sql: &str, mark: DbVersion) -> Result<Rows> {
    let mut statement = replica.connection.prepare(sql).doing("look for open foreign keys")?;
    let mut found = statement.query(params![mark.get()])?;
    let mut rows = Rows::new();
    while let Some(row) = found.next().doing("look for open foreign keys")? {
        rows.insert((table.id, encode_key(refs(&columns(row, 0, table.key.len())?))));
    }
    Ok(rows)
}
