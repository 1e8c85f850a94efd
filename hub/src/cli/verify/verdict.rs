//! What a comparison found, in words.

use std::fmt::Write;

use shared_format::ColumnId;
use shared_format::payload::{ColumnAlgorithm, TableDefinition};

use super::rows::{self, Compared};
use crate::cli::findings::Told;

/// Differences of one table that are printed.
const SHOWN_MAX: u64 = 20;

/// What was found in one table.
pub(super) struct TableVerdict {
    definition: TableDefinition,
    same: u64,
    passing: u64,
    differences: u64,
    shown: String,
}

impl TableVerdict {
    /// Nothing was compared yet.
    pub(super) const fn new(definition: TableDefinition) -> TableVerdict {
        TableVerdict { definition, same: 0, passing: 0, differences: 0, shown: String::new() }
    }

    /// The table as the database has it.
    pub(super) const fn definition(&self) -> &TableDefinition {
        &self.definition
    }

    /// Whether the log holds shares of a whole in place of the values of a column.
    pub(super) fn is_register(&self, column: ColumnId) -> bool {
        let mut known = self.definition.columns.iter();
        known.any(|known| known.id == column && known.algorithm != ColumnAlgorithm::Lww)
    }

    fn column_name(&self, column: ColumnId) -> String {
        let mut known = self.definition.columns.iter();
        known
            .find(|known| known.id == column)
            .map_or_else(|| format!("{column:?}"), |known| known.name.clone())
    }

    /// Takes what became of one row.
    pub(super) fn note(&mut self, key: &[u8], outcome: Compared) {
        match outcome {
            Compared::Same => self.same = self.same.saturating_add(1),
            Compared::Passing => self.passing = self.passing.saturating_add(1),
            Compared::OnlyInDatabase => self.show("only in the database", key),
            Compared::Differs(columns) => {
                let names: Vec<String> = columns.iter().map(|column| self.column_name(*column)).collect();
                self.show(&format!("differs in {}", names.join(", ")), key);
            }
        }
    }

    /// Takes a row that the database lacks.
    pub(super) fn only_clients(&mut self, key: &[u8]) {
        self.show("only with clients", key);
    }

    fn show(&mut self, what: &str, key: &[u8]) {
        self.differences = self.differences.saturating_add(1);
        if self.differences <= SHOWN_MAX {
            // Writing to a text cannot fail.
            let _written = writeln!(self.shown, "  {what}: {}", rows::tell_key(key));
        }
    }
}

/// What was found in all tables.
#[derive(Default)]
pub(super) struct Verdict {
    text: String,
    differences: u64,
}

impl Verdict {
    /// Adds a line.
    pub(super) fn say(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Tells of a table.
    pub(super) fn table(&mut self, found: &TableVerdict, is_reloaded: bool) {
        let TableDefinition { name, schema, .. } = &found.definition;
        let name = schema.as_ref().map_or_else(|| name.clone(), |schema| format!("{schema}.{name}"));
        let TableVerdict { same, passing, differences, shown, .. } = found;
        if is_reloaded {
            self.say(&format!(
                "table {name}: clients take it anew from the next snapshot, it was not compared"
            ));
            return;
        }
        self.say(&format!("table {name}: {same} rows are the same, {differences} differ"));
        self.text.push_str(shown);
        if *differences > SHOWN_MAX {
            self.say(&format!("  and {} more", differences.saturating_sub(SHOWN_MAX)));
        }
        if *passing > 0 {
            self.say(&format!("  {passing} are being written and were not compared"));
        }
        self.differences = self.differences.saturating_add(*differences);
    }

    /// Sums up.
    pub(super) fn end(mut self) -> Told {
        let is_good = self.differences == 0;
        if is_good {
            self.say("no differences");
        } else {
            let differences = self.differences;
            self.say(&format!("{differences} differences: somebody wrote past the triggers of capture"));
            self.say(
                "  to mend it: write those rows once more by plain SQL, each with another value; one that is only in the \
                 database: delete and insert it; one that is only with clients: insert and delete it",
            );
        }
        Told { text: self.text, is_good }
    }
}
