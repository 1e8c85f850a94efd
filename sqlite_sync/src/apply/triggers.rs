//! Users' triggers while apply writes: whether any can act, keeping them off, and keeping those that would roll
//! the whole transaction back from doing more than refusing their row.

use std::collections::HashSet;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::capture::TRIGGER_PREFIX;
use crate::error::{Doing, Result};
use crate::sql::quote;

/// Whether a write to a tracked table can do more than was asked: users' triggers, foreign keys that act, and
/// constraints that are declared to replace rows.
pub(super) fn has_foreign_effects(connection: &Connection) -> Result<bool> {
    let sql = "select exists (
        select 1 from main.sqlite_schema where type = 'trigger' and name not glob ?1
        union all
        select 1 from temp.sqlite_schema where type = 'trigger'
        union all
        select 1 from main.sqlite_schema where type = 'table' and sql like '%on conflict%')";
    if connection.prepare_cached(sql)?.query_row([format!("{TRIGGER_PREFIX}*")], |row| row.get(0))? {
        return Ok(true);
    }
    if !connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)? {
        return Ok(false);
    }
    let sql = "select exists (
        select 1 from main.sqlite_schema as s, pragma_foreign_key_list(s.name, 'main') as f
        where s.type = 'table'
          and (f.on_update not in ('NO ACTION', 'RESTRICT') or f.on_delete not in ('NO ACTION', 'RESTRICT')))";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).doing("look for cascades")
}

/// Tables whose writes have to say that they abort, because a constraint or a trigger's statement would roll
/// everything back otherwise.
pub(super) fn rollback_tables(connection: &Connection) -> Result<HashSet<String>> {
    let sql = "select name from main.sqlite_schema where type = 'table'
        and (sql like '%on conflict%rollback%'
          or exists (select 1 from main.sqlite_schema where type = 'trigger' and sql like '%or%rollback%')
          or exists (select 1 from temp.sqlite_schema where type = 'trigger' and sql like '%or%rollback%'))";
    let mut statement = connection.prepare_cached(sql)?;
    let names = statement.query_map([], |row| row.get(0)).and_then(Iterator::collect);
    names.doing("look for constraints")
}

/// Keeps triggers from running until it is dropped.
pub(crate) struct TriggersOff<'c> {
    connection: &'c Connection,
    were_on: bool,
}

impl<'c> TriggersOff<'c> {
    /// Switches them off if that is wanted.
    pub(crate) fn when(connection: &'c Connection, wanted: bool) -> Result<Self> {
        let flag = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
        let were_on = wanted && connection.db_config(flag)?;
        if were_on {
            connection.set_db_config(flag, false).doing("switch triggers off")?;
        }
        Ok(Self { connection, were_on })
    }
}

impl Drop for TriggersOff<'_> {
    fn drop(&mut self) {
        if self.were_on {
            let flag = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
            let switched = self.connection.set_db_config(flag, true);
            debug_assert!(switched.is_ok(), "a flag that was switched off can be switched on");
        }
    }
}

/// Triggers that ask for a ROLLBACK, made to refuse the row alone while apply writes.
///
/// Their text changes and changes back within the transaction, so nobody else ever sees it.
pub(super) struct Softened<'c> {
    connection: &'c Connection,
    triggers: Vec<Trigger>,
}

/// One trigger as the file keeps it.
struct Trigger {
    is_temp: bool,
    name: String,
    sql: String,
}

impl<'c> Softened<'c> {
    pub(super) fn soften(connection: &'c Connection) -> Result<Self> {
        let sql =
            "select 0, name, sql from main.sqlite_schema where type = 'trigger' and sql like '%rollback%'
            union all
            select 1, name, sql from temp.sqlite_schema where type = 'trigger' and sql like '%rollback%'";
        let mut statement = connection.prepare(sql).doing("read the triggers")?;
        let triggers = statement
            .query_map([], |row| Ok(Trigger { is_temp: row.get(0)?, name: row.get(1)?, sql: row.get(2)? }))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<Trigger>>>)
            .doing("read the triggers")?;
        let triggers = triggers.into_iter().filter(|trigger| soft(&trigger.sql) != trigger.sql).collect();
        let softened = Self { connection, triggers };
        softened.put(soft)?;
        Ok(softened)
    }

    /// Gives the triggers their own text again.
    pub(super) fn restore(self) -> Result<()> {
        self.put(str::to_owned)
    }

    fn put(&self, text: impl Fn(&str) -> String) -> Result<()> {
        for trigger in &self.triggers {
            let (place, create) = if trigger.is_temp {
                ("temp", "create temp trigger ")
            } else {
                ("main", "create trigger main.")
            };
            let text = text(&trigger.sql);
            // The file keeps it as "CREATE TRIGGER name ...", wherever it is.
            let rest = text.get("CREATE TRIGGER ".len()..).unwrap_or_default();
            let sql = format!("drop trigger {place}.{}; {create}{rest}", quote(&trigger.name));
            self.connection.execute_batch(&sql).doing("make a trigger anew")?;
        }
        Ok(())
    }
}

/// The text of a trigger with ABORT in place of each ROLLBACK that raises or resolves a conflict.
fn soft(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    // The two words before, in lower case; what stands between words is part of neither.
    let mut before = [String::new(), String::new()];
    let mut rest = sql;
    while !rest.is_empty() {
        let (token, after) = rest.split_at(token_len(rest));
        rest = after;
        let lower = token.to_ascii_lowercase();
        if lower.trim().is_empty() || lower.starts_with("--") || lower.starts_with("/*") {
            out.push_str(token);
            continue;
        }
        let [first, second] = &before;
        let raises = second == "(" && first == "raise";
        let resolves = second == "or" && matches!(first.as_str(), "insert" | "update");
        out.push_str(if lower == "rollback" && (raises || resolves) { "abort" } else { token });
        before.swap(0, 1);
        before[1] = lower;
    }
    out
}

/// Length of the first token of SQL text; comments and blanks are tokens too.
fn token_len(sql: &str) -> usize {
    let end = |close: &str, from: usize| {
        let found = sql.get(from..).and_then(|rest| rest.find(close));
        found.map_or(sql.len(), |at| from + at + close.len())
    };
    let first = sql.chars().next().map_or(1, char::len_utf8);
    match sql.as_bytes() {
        [b'-', b'-', ..] => end("\n", 2),
        [b'/', b'*', ..] => end("*/", 2),
        [b'\'', ..] => end("'", 1),
        [b'"', ..] => end("\"", 1),
        [b'`', ..] => end("`", 1),
        [b'[', ..] => end("]", 1),
        _word if is_word(sql.chars().next()) => sql.find(|c| !is_word(Some(c))).unwrap_or(sql.len()),
        _other => first,
    }
}

fn is_word(character: Option<char>) -> bool {
    character.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::soft;

    fn check(sql: &str, expected: &str) {
        assert_eq!(soft(sql), expected);
    }

    #[test]
    fn only_a_rollback_that_raises_or_resolves_is_made_soft() {
        check(
            "select RAISE ( /* now */ ROLLBACK, 'rollback')",
            "select RAISE ( /* now */ abort, 'rollback')",
        );
        check("insert or rollback into t values (1)", "insert or abort into t values (1)");
        check("UPDATE OR\nROLLBACK t set a = 1", "UPDATE OR\nabort t set a = 1");
        check("select rollback from t where a or rollback", "select rollback from t where a or rollback");
        check("select '(raise(rollback', \"or rollback\"", "select '(raise(rollback', \"or rollback\"");
        check(
            "select raise(abort, 'it''s a rollback') -- raise(rollback",
            "select raise(abort, 'it''s a rollback') -- raise(rollback",
        );
        check("select x'00' /* raise(rollback,", "select x'00' /* raise(rollback,");
    }
}
