//! Writes the triggers that look for rows which REPLACE is about to delete: those that hold what no two rows
//! may share. SQLite deletes them without firing a trigger, so fold looks afterwards whether they are there.

use std::iter::Peekable;
use std::str::Chars;

use rusqlite::{Connection, params};

use crate::capture::{Filler, changed_value, trigger};
use crate::error::{Doing, Error, Result};
use crate::sql::{join, quote};
use crate::tracked_table::TrackedTable;

const LOOK: &str = include_str!("../../sql/sqlite/capture_look.sql");

/// What no two rows of a table may share.
#[derive(Clone, Debug)]
pub(crate) enum Unshared {
    /// The columns of a UNIQUE index.
    Index(Vec<Part>),
    /// The rowid of a table whose key is another, under a name that no column has. VACUUM gives out new ones,
    /// but a statement may name one.
    Rowid(&'static str),
}

/// A column or an expression of a UNIQUE index.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    term: Term,
    collation: String,
}

#[derive(Clone, Debug)]
enum Term {
    Column {
        name: String,
        /// What REPLACE puts in the place of NULL.
        not_null_default: Option<String>,
        /// Changes with other columns, and no statement names it.
        is_generated: bool,
    },
    Expression(String),
}

impl Unshared {
    /// Reads a UNIQUE index. One with a WHERE counts as if it had none: looking once more does no harm.
    pub(crate) fn index(connection: &Connection, table: &str, index: &str) -> Result<Self> {
        let sql = "select x.coll, c.name, iif(c.\"notnull\", c.dflt_value, null), c.hidden <> 0,
              (select sql from main.sqlite_schema where type = 'index' and name = ?1)
            from pragma_index_xinfo(?1, 'main') as x
            left join pragma_table_xinfo(?2, 'main') as c on c.cid = x.cid
            where x.key order by x.seqno";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![index, table])?;
        let mut parts = Vec::new();
        while let Some(row) = rows.next().doing("read an index")? {
            let term = if let Some(name) = row.get(1)? {
                Term::Column { name, not_null_default: row.get(2)?, is_generated: row.get(3)? }
            } else {
                let sql: String = row.get(4)?;
                let missing =
                    || Error::Stored { what: "index", found: sql.clone(), wanted: "a list of terms" };
                Term::Expression(index_terms(&sql).get(parts.len()).ok_or_else(missing)?.clone())
            };
            parts.push(Part { term, collation: row.get(0)? });
        }
        Ok(Self::Index(parts))
    }

    /// The triggers for an INSERT and for an UPDATE that may take what another row holds.
    pub(crate) fn statements(&self, table: &TrackedTable, at: usize, with: Filler<'_>) -> [String; 2] {
        let held_shared = table.shares("held").map(|shared| format!("\n  and {shared}")).unwrap_or_default();
        let held_key = table.key_columns("held.");
        let held_equal = self.held_equal(table);
        let look = |what: &str, event: &str, when_written: &str| {
            let name = trigger(table, &format!("{what}_{at}"));
            let own = [
                ("trigger", name.as_str()),
                ("event", event),
                ("when_written", when_written),
                ("held_key", &held_key),
                ("held_equal", &held_equal),
                ("held_shared", &held_shared),
            ];
            with(LOOK, &own)
        };
        // A rowid that SQLite is to choose is -1 before it has done so.
        let inserted = match self {
            Self::Index(_) => String::new(),
            Self::Rowid(name) => format!("\nwhen NEW.{name} <> -1"),
        };
        [
            look("look_insert", "insert", &inserted),
            look("look_update", &self.update_event(), &format!("\nwhen {}", self.changed(table))),
        ]
    }

    /// Says that the row `held` has what the row NEW is about to take.
    pub(crate) fn held_equal(&self, table: &TrackedTable) -> String {
        match self {
            Self::Index(parts) => join(parts, " and ", |_, part| part.held_equal(table)),
            Self::Rowid(name) => format!("held.{name} = NEW.{name}"),
        }
    }

    /// SQLite matches `update of` by the names that a statement assigns.
    fn update_event(&self) -> String {
        let name = |part: &Part| match &part.term {
            Term::Column { name, is_generated: false, .. } => Some(quote(name)),
            Term::Column { .. } | Term::Expression(_) => None,
        };
        match self {
            Self::Index(parts) => match parts.iter().map(name).collect::<Option<Vec<String>>>() {
                Some(names) => format!("update of {}", names.join(", ")),
                None => String::from("update"),
            },
            Self::Rowid(_) => String::from("update of rowid, oid, _rowid_"),
        }
    }

    fn changed(&self, table: &TrackedTable) -> String {
        match self {
            Self::Index(parts) => join(parts, " or ", |_, part| match &part.term {
                Term::Column { name, .. } => changed_value(name),
                Term::Expression(sql) => {
                    format!("{} is not {}", of_row(table, "OLD", sql), of_row(table, "NEW", sql))
                }
            }),
            Self::Rowid(name) => format!("OLD.{name} is not NEW.{name}"),
        }
    }
}

impl Part {
    fn held_equal(&self, table: &TrackedTable) -> String {
        let collation = quote(&self.collation);
        match &self.term {
            Term::Column { name, not_null_default, .. } => {
                let name = quote(name);
                let taken = match not_null_default {
                    Some(default) => format!("coalesce(NEW.{name}, ({default}))"),
                    None => format!("NEW.{name}"),
                };
                format!("held.{name} = {taken} collate {collation}")
            }
            Term::Expression(sql) => {
                format!("({sql}) = {} collate {collation}", of_row(table, "NEW", sql))
            }
        }
    }
}

/// The value of an expression over bare column names for the row NEW or OLD.
fn of_row(table: &TrackedTable, row: &str, sql: &str) -> String {
    let all = table.key.iter().chain(&table.columns);
    let columns: Vec<String> = all.map(|column| format!("{row}.{0} as {0}", column.quoted())).collect();
    format!("(select ({sql}) from (select {}))", columns.join(", "))
}

/// The terms in the parentheses of a CREATE INDEX statement, each without ASC or DESC.
fn index_terms(sql: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut depth = 0_u32;
    let mut characters = sql.chars().peekable();
    while let Some(character) = characters.next() {
        let end = match character {
            '"' | '\'' | '`' => Some(character),
            '[' => Some(']'),
            '-' if characters.peek() == Some(&'-') => Some('\n'),
            '/' if characters.peek() == Some(&'*') => Some('/'),
            '(' => {
                depth += 1;
                if depth == 1 {
                    continue;
                }
                None
            }
            ')' if depth == 1 => break,
            ')' => {
                depth = depth.saturating_sub(1);
                None
            }
            ',' if depth == 1 => {
                terms.push(String::new());
                continue;
            }
            _other => None,
        };
        let Some(term) = terms.last_mut().filter(|_| depth > 0) else {
            skip_to(&mut characters, end, &mut String::new());
            continue;
        };
        term.push(character);
        skip_to(&mut characters, end, term);
    }
    terms.iter().map(|term| without_order(term).to_owned()).collect()
}

/// Copies up to the end of a quoted name, a text or a comment. A doubled quote ends one and begins the next.
fn skip_to(characters: &mut Peekable<Chars<'_>>, end: Option<char>, out: &mut String) {
    let Some(end) = end else { return };
    let mut before = ' ';
    for character in characters.by_ref() {
        out.push(character);
        if character == end && (end != '/' || before == '*') {
            return;
        }
        before = character;
    }
}

fn without_order(term: &str) -> &str {
    let term = term.trim();
    match term.rsplit_once(char::is_whitespace) {
        Some((rest, order)) if order.eq_ignore_ascii_case("asc") || order.eq_ignore_ascii_case("desc") => {
            rest.trim_end()
        }
        _no_order => term,
    }
}

/// A name for the rowid of a table, if it has one that a statement can reach.
pub(crate) fn hidden_rowid(connection: &Connection, table: &str) -> Result<Option<&'static str>> {
    let sql = "select 1 from pragma_table_xinfo(?1, 'main') where name = ?2 collate nocase";
    let mut is_column = connection.prepare_cached(sql)?;
    for name in ["rowid", "oid", "_rowid_"] {
        if is_column.exists(params![table, name])? {
            continue;
        }
        // A table WITHOUT ROWID knows none of the names.
        let sql = format!("select {name} from main.{}", quote(table));
        return Ok(connection.prepare(&sql).is_ok().then_some(name));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expected: &[&str]) {
        assert_eq!(index_terms(sql), expected, "{sql}");
    }

    #[test]
    fn the_terms_of_an_index_are_found() {
        check("create unique index i on t (a, b desc)", &["a", "b"]);
        check(
            "CREATE UNIQUE INDEX \"i(,\" ON [t(] (lower(a) COLLATE nocase ASC, coalesce(b, ',)')) WHERE (a > 1)",
            &["lower(a) COLLATE nocase", "coalesce(b, ',)')"],
        );
        check(
            "create unique index i on t -- (x\n (a /* , ) */ || \"b,\"\"(\", `c)`)",
            &["a /* , ) */ || \"b,\"\"(\"", "`c)`"],
        );
        check("create index i on t (a/b, a - -b)", &["a/b", "a - -b"]);
    }
}
