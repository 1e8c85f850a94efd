//! Table definitions that messages refer to, as far as this hub has seen them.
//!
//! Invariant: a definition once known stays known, because messages in old WAL refer to old versions. They come
//! from the catalog, from schema messages in the stream and from the footers of segments.

use std::collections::{BTreeMap, BTreeSet};

use shared_format::payload::{Changes, Payload, PayloadBuilder, TableDefinition};

use crate::audience::Audience;
use crate::error::{Error, Result};

/// What messages call a definition by: table, incarnation of the registry entry, version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionKey {
    /// Registry id of the table.
    pub table: u32,
    /// Incarnation of the registry entry.
    pub incarnation: u64,
    /// Version of the definition.
    pub version: u32,
}

impl DefinitionKey {
    /// The definition that these rows refer to.
    #[must_use]
    pub fn of(changes: &Changes<'_>) -> DefinitionKey {
        DefinitionKey {
            table: changes.table(),
            incarnation: changes.incarnation(),
            version: changes.version(),
        }
    }

    /// The error of not knowing it.
    #[must_use]
    pub fn unknown(self) -> Error {
        let DefinitionKey { table, incarnation, version } = self;
        Error::UnknownDefinition { table, incarnation, version }
    }
}

/// The version of a table's first definition.
const VERSION_FIRST: u32 = 1;

/// All known definitions.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    known: BTreeMap<DefinitionKey, TableDefinition>,
}

impl Definitions {
    /// Adds the definitions of a payload.
    pub fn add_payload(&mut self, payload: &[u8]) -> Result<()> {
        for definition in Payload::parse(payload)?.definitions()? {
            self.add(definition);
        }
        Ok(())
    }

    /// Adds one definition.
    pub fn add(&mut self, definition: TableDefinition) {
        let TableDefinition { table, incarnation, version, .. } = definition;
        self.known.insert(DefinitionKey { table, incarnation, version }, definition);
    }

    /// Whether the rows of a table name their readers.
    #[must_use]
    pub fn are_scoped(&self) -> bool {
        self.known.values().any(|definition| definition.scoped)
    }

    /// Finds a definition.
    #[must_use]
    pub fn get(&self, key: DefinitionKey) -> Option<&TableDefinition> {
        self.known.get(&key)
    }

    /// Whether a definition gives the rows of its table other readers than the version before it. Where there was
    /// one that is not known, whoever did not read all of the table counts as new: nobody gets rows by guess.
    #[must_use]
    pub fn changes_readers(&self, definition: &TableDefinition) -> bool {
        let TableDefinition { table, incarnation, version, .. } = *definition;
        let at = |version| DefinitionKey { table, incarnation, version };
        let before = self.known.range(at(0)..at(version)).next_back();
        let audience = Audience::of_table(definition);
        match before {
            Some((_, before)) => Audience::of_table(before) != audience,
            None => version > VERSION_FIRST && audience.is_some(),
        }
    }

    /// A payload of the newest version of each table, and of those that are `used`.
    #[must_use]
    pub fn in_force(&self, used: &BTreeSet<DefinitionKey>) -> Vec<u8> {
        let mut builder = PayloadBuilder::new();
        let mut entries = self.known.iter().peekable();
        while let Some((key, definition)) = entries.next() {
            let newest = entries
                .peek()
                .is_none_or(|(next, _)| (next.table, next.incarnation) != (key.table, key.incarnation));
            if newest || used.contains(key) {
                builder.definition(definition);
            }
        }
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use shared_format::ColumnId;
    use shared_format::payload::{ColumnAlgorithm, ColumnDefinition, TableAlgorithm};

    use super::*;

    fn definition(table: u32, version: u32) -> TableDefinition {
        let column = ColumnDefinition {
            id: ColumnId::new(1),
            name: "id".to_owned(),
            type_name: "text".to_owned(),
            algorithm: ColumnAlgorithm::Lww,
            group: None,
        };
        TableDefinition {
            table,
            incarnation: 9,
            version,
            name: "t".to_owned(),
            schema: Some("public".to_owned()),
            algorithm: TableAlgorithm::Cls,
            key: vec![column],
            columns: Vec::new(),
            scoped: false,
            row_security: false,
        }
    }

    #[test]
    fn the_newest_of_each_table_and_what_is_used_are_in_force() {
        let mut definitions = Definitions::default();
        for (table, version) in [(1, 3), (1, 1), (1, 2), (2, 1)] {
            definitions.add(definition(table, version));
        }
        let used = BTreeSet::from([DefinitionKey { table: 1, incarnation: 9, version: 1 }]);
        let mut read = Definitions::default();
        read.add_payload(&definitions.in_force(&used)).unwrap();
        let keys: Vec<(u32, u32)> = read.known.keys().map(|key| (key.table, key.version)).collect();
        assert_eq!(keys, [(1, 1), (1, 3), (2, 1)]);
    }

    #[test]
    fn a_table_that_is_read_by_others_from_now_on_is_noticed() {
        let mut definitions = Definitions::default();
        definitions.add(definition(1, 2));
        let guarded = |version| TableDefinition { row_security: true, ..definition(1, version) };
        assert!(!definitions.changes_readers(&definition(1, 3)));
        assert!(!definitions.changes_readers(&guarded(1)), "nothing is known from before");
        assert!(definitions.changes_readers(&guarded(3)));
        assert!(!definitions.changes_readers(&TableDefinition { table: 2, ..guarded(1) }));
        definitions.add(guarded(3));
        assert!(!definitions.changes_readers(&guarded(4)));
        assert!(definitions.changes_readers(&definition(1, 4)));
    }

    #[test]
    fn what_is_read_by_some_only_counts_as_new_where_its_earlier_version_is_not_known() {
        let guarded = TableDefinition { row_security: true, ..definition(1, 3) };
        let mut definitions = Definitions::default();
        assert!(definitions.changes_readers(&guarded));
        // A leader that begins later has it from the catalog, and not what was before.
        definitions.add(guarded.clone());
        assert!(definitions.changes_readers(&guarded));
        assert!(!definitions.changes_readers(&definition(1, 3)), "everybody reads it");
        assert!(!definitions.changes_readers(&TableDefinition { version: 1, ..guarded }), "it is new");
    }

    #[test]
    fn an_unknown_definition_is_named() {
        let key = DefinitionKey { table: 1, incarnation: 9, version: 4 };
        assert!(Definitions::default().get(key).is_none());
        assert!(matches!(key.unknown(), Error::UnknownDefinition { table: 1, incarnation: 9, version: 4 }));
    }
}
