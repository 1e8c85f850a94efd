//! What is set for one tracked table: whether it takes part, which of its rows do, and keys of the user's own.
//!
//! A disabled table is neither sent nor received; capture goes on into a table of its own, whose entries move
//! to the log when the table is enabled, so nothing written meanwhile is lost.

use rusqlite::{Connection, OptionalExtension, Statement, params};
use shared_format::Value;

use crate::algorithms;
use crate::apply::{HORIZON, RESUME};
use crate::capture;
use crate::catalog::Replica;
use crate::error::{Doing, Error, Result};
use crate::fold::fold;
use crate::log::{self, BASELINE, INSERTED, MARK};
use crate::schema;
use crate::settings::{self, Setting};
use crate::sql::{Bind, NOW_MS, Unit, binds, column, quote};
use crate::tracked_table::{Shape, TrackedTable, log_key};
use crate::trigger_text::filter_of;

/// Keys of a table that users do not set like this.
const OWN: [&str; 5] = ["enabled", "filter", HORIZON, RESUME, SCOPE];

/// Key of a table's setting that says who reads its rows.
pub(crate) const SCOPE: &str = "scope";

/// Key of a centre's setting that says which scopes a caller holds.
pub(crate) const SCOPES_QUERY: &str = "scopes_query";

/// What it has to be.
pub(crate) const SCOPES_QUERY_WANTED: &str =
    "a query of one column, with the claims as its one parameter, that calls nothing of cloudsync";

const NO_EXPRESSION: &str = "wanted one expression with balanced parentheses and quotes";

/// Functions of ours that read nothing but their arguments, or what every row says.
const COMPUTING: [&str; 6] = [
    "cloudsync_db_version",
    "cloudsync_siteid",
    "cloudsync_uuid",
    "cloudsync_uuid_blob",
    "cloudsync_uuid_text",
    "cloudsync_version",
];

/// Key of the file's setting that says how long tombstones of a centre wait for sites that were not heard of.
pub(crate) const RETENTION: &str = "tombstone_retention";

/// Least retention that may be set, in seconds: as in Postgres.
const RETENTION_MIN: i64 = 60;

/// Stands for the whole file where a table's number is; tables are numbered from 1.
const FILE: u32 = 0;

/// Stores a setting of a table, or of one of its columns; NULL takes it away.
pub(crate) fn set(
    connection: &Connection,
    function: &'static str,
    table: &str,
    column_name: &str,
    key: &str,
    value: &Value,
) -> Result<()> {
    let unit = Unit::begin(connection)?;
    schema::refresh(connection)?;
    if !column_name.is_empty() && algorithms::is_own_key(key) {
        algorithms::set_column(connection, function, table, column_name, key, value)?;
    } else if column_name.is_empty() && algorithms::is_table_key(key) {
        let Value::Text(name) = value else {
            let found = String::from("another value");
            return Err(Error::Argument { function, index: 3, found, wanted: "cls, gos, dws or aws" });
        };
        algorithms::set_table(connection, table, name)?;
    } else {
        let tracked = tracked(connection, table)?;
        if !column_name.is_empty() {
            let mut columns = tracked.key.iter().chain(&tracked.columns);
            if !columns.any(|known| known.name.eq_ignore_ascii_case(column_name)) {
                return Err(Error::ColumnMissing { table: tracked.name, column: column_name.to_owned() });
            }
        } else if let Some(key) = OWN.into_iter().find(|own| own.eq_ignore_ascii_case(key)) {
            return Err(Error::OwnKey { function, key });
        }
        store(connection, tracked.id, column_name, key, value)?;
    }
    unit.commit()
}

/// Stores a setting of the whole file.
pub(crate) fn set_file(connection: &Connection, key: &str, value: &Value) -> Result<()> {
    if !settings::is_set_up(connection)? {
        return Err(Error::NothingTracked);
    }
    if key.eq_ignore_ascii_case(RETENTION) {
        let seconds = match value {
            Value::Null => Some(RETENTION_MIN),
            Value::Text(retention) => retention_seconds(connection, retention)?,
            _other => None,
        };
        if seconds.is_none_or(|seconds| seconds < RETENTION_MIN) {
            let (function, found) = ("cloudsync_set", "no such time".to_owned());
            let wanted = "a time of at least a minute, like '30 days' or '12 hours'";
            return Err(Error::Argument { function, index: 2, found, wanted });
        }
    }
    if let (true, Value::Text(query)) = (key.eq_ignore_ascii_case(SCOPES_QUERY), value)
        && !is_scopes_query(&connection.prepare(query).doing("prepare scopes_query")?, query)
    {
        let (function, found) = ("cloudsync_set", "another statement".to_owned());
        return Err(Error::Argument { function, index: 2, found, wanted: SCOPES_QUERY_WANTED });
    }
    store(connection, FILE, "", key, value)
}

/// Whether a statement may be asked for the scopes of a token.
///
/// Looked at before each use too: whoever writes to a file by other means than ours could have it say anything.
pub(crate) fn is_scopes_query(statement: &Statement<'_>, text: &str) -> bool {
    let reads = ["select", "with", "values"].into_iter().any(|word| {
        let begin = text.trim_start().get(..word.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(word))
    });
    reads
        && statement.readonly()
        && statement.column_count() == 1
        && statement.parameter_count() <= 1
        && unsafe_name(text).is_none()
}

/// Why an expression that a file holds may not be computed; None when it may.
pub(crate) fn why_unusable(expression: &str) -> Option<String> {
    if !is_one_expression(expression) {
        return Some(NO_EXPRESSION.to_owned());
    }
    unsafe_name(expression).map(|name| format!("it names {name}, which does more than to compute a value"))
}

/// A name of ours in a text that is run as SQL, but for the functions that compute a value. What those of a file's
/// triggers may not call, since SQLite keeps it from them, no text of a file may call either.
fn unsafe_name(sql: &str) -> Option<String> {
    let lower = sql.to_ascii_lowercase();
    let names = lower.match_indices("cloudsync_").map(|(at, _)| {
        let rest = lower.get(at..).unwrap_or_default();
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
    });
    names.into_iter().find(|name| !COMPUTING.contains(name)).map(str::to_owned)
}

/// How many seconds a time has, like `30 days`; None when it is none.
pub(crate) fn retention_seconds(connection: &Connection, retention: &str) -> Result<Option<i64>> {
    let sql = "select unixepoch('2001-01-01', '+' || ?1) - unixepoch('2001-01-01')";
    connection.prepare_cached(sql)?.query_row([retention], |row| row.get(0)).doing("read a time")
}

/// Reads a setting of a table.
pub(crate) fn of_table(connection: &Connection, table: u32, key: &str) -> Result<Option<Value>> {
    let sql = "select value from main.cloudsync_table_settings where tbl = ?1 and col = '' and key = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![table, key])?;
    match rows.next().doing("read a setting of a table")? {
        Some(row) => Ok(Some(column(row, 0)?.to_owned_value())),
        None => Ok(None),
    }
}

/// Reads a setting of the whole file.
pub(crate) fn file(connection: &Connection, key: &str) -> Result<Option<Value>> {
    of_table(connection, FILE, key)
}

pub(crate) fn store(
    connection: &Connection,
    table: u32,
    column_name: &str,
    key: &str,
    value: &Value,
) -> Result<()> {
    if matches!(value, Value::Null) {
        let sql = "delete from main.cloudsync_table_settings where tbl = ?1 and col = ?2 and key = ?3";
        connection.execute(sql, params![table, column_name, key]).doing("forget a setting of a table")?;
        return Ok(());
    }
    let sql = "insert into main.cloudsync_table_settings (tbl, col, key, value) values (?1, ?2, ?3, ?4)
        on conflict (tbl, col, key) do update set value = excluded.value";
    let row = params![table, column_name, key, Bind(value.as_ref())];
    connection.execute(sql, row).doing("store a setting of a table")?;
    Ok(())
}

/// Finds a tracked table by name.
pub(crate) fn tracked(connection: &Connection, table: &str) -> Result<TrackedTable> {
    let replica = Replica::load(connection)?;
    let found = replica.as_ref().and_then(|replica| replica.table_named(table));
    found.map(|table| (**table).clone()).ok_or_else(|| Error::NotTracked { table: table.to_owned() })
}

/// Whether a table is tracked and takes part.
pub(crate) fn is_enabled(connection: &Connection, table: &str) -> Result<bool> {
    let replica = Replica::load(connection)?;
    Ok(replica.is_some_and(|replica| replica.table_named(table).is_some_and(|table| table.enabled)))
}

/// Makes a table take part, or no more.
pub(crate) fn set_enabled(connection: &Connection, table: &str, enabled: bool) -> Result<()> {
    let unit = Unit::begin(connection)?;
    schema::refresh(connection)?;
    let table = tracked(connection, table)?;
    if table.enabled != enabled {
        if enabled {
            store(connection, table.id, "", "enabled", &Value::Null)?;
            release(connection, &table)?;
        } else {
            store(connection, table.id, "", "enabled", &Value::Integer(0))?;
            hold_back(connection, &table)?;
        }
        make_triggers(connection, &table.name)?;
    }
    unit.commit()
}

/// Moves what was not sent yet out of the log.
fn hold_back(connection: &Connection, table: &TrackedTable) -> Result<()> {
    let acknowledged = log::acknowledged(connection)?;
    let columns = format!("tbl, cols, ms, {}", log_key(table.key.len(), ""));
    let sql = format!(
        "insert into main.cloudsync_held ({columns})
         select {columns} from main.cloudsync_log where tbl = ?1 and seq > ?2 order by seq"
    );
    connection.execute(&sql, params![table.id, acknowledged.get()]).doing("hold entries back")?;
    let newest = log::newest(connection)?;
    let sql = "update main.cloudsync_log set tbl = null, cols = ?3, pk = null where tbl = ?1 and seq = ?2";
    connection.execute(sql, params![table.id, newest.get(), MARK])?;
    let sql = "delete from main.cloudsync_log where tbl = ?1 and seq > ?2";
    connection.execute(sql, params![table.id, acknowledged.get()]).doing("hold entries back")?;
    Ok(())
}

/// Moves what was held back to the end of the log, and has the server asked for what was passed over.
fn release(connection: &Connection, table: &TrackedTable) -> Result<()> {
    let sql = "select 1 from main.cloudsync_held where tbl = ?1 and cols = ?2 limit 1";
    let has_baseline = connection.query_row(sql, params![table.id, BASELINE], |_row| Ok(())).optional()?;
    if has_baseline.is_some() {
        let baseline = log::append_baseline(connection, table.id)?;
        let sql = "update main.cloudsync_tables set baseline = ?2 where id = ?1";
        connection.execute(sql, params![table.id, baseline.get()])?;
    }
    let columns = format!("tbl, cols, ms, {}", log_key(table.key.len(), ""));
    let sql = format!(
        "insert into main.cloudsync_log ({columns})
         select {columns} from main.cloudsync_held where tbl = ?1 and cols <> ?2 order by seq"
    );
    connection.execute(&sql, params![table.id, BASELINE]).doing("release held entries")?;
    connection.execute("delete from main.cloudsync_held where tbl = ?1", [table.id])?;
    let sql = "delete from main.cloudsync_skipped where tbl = ?1 and col = ''";
    if connection.execute(sql, [&table.name])? > 0 {
        settings::store(connection, Setting::Cursor, &Value::Null)?;
    }
    Ok(())
}

fn make_triggers(connection: &Connection, table: &str) -> Result<()> {
    let shape = Shape::read(connection, table)?;
    capture::install(connection, &tracked(connection, table)?, &shape.uniques)
}

/// Sets which rows of a table take part; None makes all of them. Rows that did not and now do travel whole.
pub(crate) fn set_filter(connection: &Connection, table: &str, filter: Option<&str>) -> Result<()> {
    let unit = Unit::begin(connection)?;
    schema::refresh(connection)?;
    let before = tracked(connection, table)?;
    if let Some(filter) = filter {
        check_filter(connection, &before, filter)?;
    }
    // What was written under the former filter is stamped as it was then.
    fold(&mut Replica::open(connection)?)?;
    let value = filter.map_or(Value::Null, |filter| Value::Text(filter.to_owned()));
    store(connection, before.id, "", "filter", &value)?;
    let after = tracked(connection, table)?;
    if let Some(former) = before.shares_in_main("t") {
        let sql = format!(
            "insert into main.{log} (tbl, cols, ms, {log_key})
             select ?1, {INSERTED}, {NOW_MS}, {key} from {rows} as t
             where not {former} and {whole}{shared}",
            log = after.log_name(),
            log_key = after.log_key(""),
            key = after.key_columns("t."),
            rows = after.quoted(),
            whole = after.key_is_whole("t."),
            shared = after.shares_in_main("t").map(|shared| format!(" and {shared}")).unwrap_or_default(),
        );
        connection.execute(&sql, [after.id]).doing("log rows that take part now")?;
    }
    make_triggers(connection, &after.name)?;
    unit.commit()
}

/// Takes over the filter of a table from its triggers, where SQLite wrote it with the new names of columns.
pub(crate) fn follow_filter(connection: &Connection, table: u32, triggers: &str) -> Result<()> {
    let Some(filter) = filter_of(triggers) else { return Ok(()) };
    let sql = "update main.cloudsync_table_settings set value = ?2
        where tbl = ?1 and col = '' and key = 'filter'";
    connection.execute(sql, params![table, filter]).doing("follow a filter")?;
    Ok(())
}

/// Refuses an expression that is not over one row alone. SQLite itself says so of the condition of a partial
/// index, which has the same rules; an empty copy of the table lets it say so at no cost.
fn check_filter(connection: &Connection, table: &TrackedTable, filter: &str) -> Result<()> {
    check_expression(connection, table, filter)
        .map_err(|reason| Error::Filter { table: table.name.clone(), reason })
}

/// The same for any expression; the error says what is wrong.
pub(crate) fn check_expression(
    connection: &Connection,
    table: &TrackedTable,
    filter: &str,
) -> std::result::Result<(), String> {
    if !is_one_expression(filter) {
        return Err(String::from(NO_EXPRESSION));
    }
    let columns = format!("{}, {}", table.key_columns(""), table.other_columns(""));
    let sql = format!(
        "savepoint cloudsync_filter;
         create temp table cloudsync_filter as select {} from {} where false;
         create index temp.cloudsync_filter_index on cloudsync_filter ({}) where ({filter}\n)",
        columns.trim_end_matches(", "),
        table.quoted(),
        quote(&table.key[0].name),
    );
    let checked = connection.execute_batch(&sql);
    connection
        .execute_batch("rollback to cloudsync_filter; release cloudsync_filter")
        .map_err(|error| error.to_string())?;
    // Newer SQLite adds the statement to what is wrong; the type that holds it is not in every build.
    checked.map_err(|error| {
        let text = error.to_string();
        text.split(" in savepoint ").next().unwrap_or_default().to_owned()
    })
}

/// Whether text closes what it opens: parentheses and quotes, without a statement's end or a comment.
fn is_one_expression(text: &str) -> bool {
    let mut depth = 0_u32;
    let mut quote: Option<char> = None;
    let mut before = ' ';
    for letter in text.chars() {
        match (quote, letter) {
            (Some(end), _) => {
                if letter == end {
                    quote = None;
                }
            }
            (None, '\'' | '"' | '`') => quote = Some(letter),
            (None, '[') => quote = Some(']'),
            (None, '(') => depth += 1,
            (None, ')') => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            (None, ';' | '\0') => return false,
            (None, '-') if before == '-' => return false,
            (None, '*') if before == '/' => return false,
            (None, _) => {}
        }
        before = letter;
    }
    depth == 0 && quote.is_none() && !text.trim().is_empty()
}

/// Whether a row may leave this file.
pub(crate) fn is_shared(connection: &Connection, table: &TrackedTable, key: &[Value]) -> Result<bool> {
    let Some(filter) = &table.filter else { return Ok(true) };
    let sql = format!("select 1 from {} where {} and ({filter}\n)", table.quoted(), table.key_is(1));
    let mut statement = connection.prepare_cached(&sql).doing("ask the filter")?;
    let found = statement.query_row(rusqlite::params_from_iter(binds(key)), |_row| Ok(())).optional();
    Ok(found.doing("ask the filter")?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_expression_closes_what_it_opens() {
        for (text, expected) in [
            ("n > 1", true),
            ("(a = ')') and \"x(\" > 2", true),
            ("1) or (1", false),
            ("(1", false),
            ("'a", false),
            ("a; b", false),
            ("a -- b", false),
            ("a /* b", false),
            (" ", false),
        ] {
            assert_eq!(is_one_expression(text), expected, "{text}");
        }
    }
}
