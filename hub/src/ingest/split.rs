//! Splits rows by their audiences, for frames of the log and parts of snapshots alike.
//!
//! Invariant: a reader that takes its pieces in order ends with the rows that it may read. So a row that moves to
//! other readers opens a new round before anything else is said of it: within a round, rows come before evictions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use shared_format::payload::{
    Changes, ChangesBuilder, EvictionBuilder, PayloadBuilder, Row, Scopes, encode_frame,
};
use shared_format::{Stamp, ValueRef, encode_key};

use crate::audience::Audience;
use crate::definitions::{DefinitionKey, Definitions};
use crate::error::Result;
use crate::segment::Piece;

/// What one audience gets in one round.
#[derive(Default)]
struct Group {
    rows: PayloadBuilder,
    row_count: u32,
    evictions: PayloadBuilder,
    eviction_count: u32,
    /// Definitions that it holds already.
    used: BTreeSet<DefinitionKey>,
}

/// Rows by audience on their way into pieces.
#[derive(Default)]
pub(crate) struct Splitter {
    round: u32,
    groups: HashMap<(u32, Audience), Group>,
    /// Rows that moved to other readers in this round.
    moved: HashSet<u64>,
}

/// Rows of one batch for one audience.
struct Share {
    rows: ChangesBuilder,
    row_count: u32,
    evictions: EvictionBuilder,
}

impl Group {
    fn append(&mut self, changes: &Changes<'_>) {
        self.rows.append(changes);
        let rows = u32::try_from(changes.row_count()).unwrap_or(u32::MAX);
        self.row_count = self.row_count.saturating_add(rows);
    }
}

impl Splitter {
    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Adds a batch of rows; `default` is the audience of rows that do not name theirs.
    pub(crate) fn add(
        &mut self,
        changes: &Changes<'_>,
        default: &Audience,
        definitions: &Definitions,
    ) -> Result<()> {
        if changes.row_count() == 0 {
            return Ok(());
        }
        let Some(scopes) = changes.scopes() else {
            self.group(DefinitionKey::of(changes), default, definitions).append(changes);
            return Ok(());
        };
        if self.moved.is_empty()
            && scopes.agree()
            && let Some(audience) = common_audience(changes, &scopes)?
        {
            self.group(DefinitionKey::of(changes), &audience, definitions).append(changes);
            return Ok(());
        }
        self.add_rows(changes, &scopes, definitions)
    }

    fn add_rows(
        &mut self,
        changes: &Changes<'_>,
        scopes: &Scopes<'_>,
        definitions: &Definitions,
    ) -> Result<()> {
        let key = DefinitionKey::of(changes);
        let columns = changes.columns();
        let mut shares: BTreeMap<Audience, Share> = BTreeMap::new();
        let mut rows = changes.rows();
        let mut at = 0;
        while let Some(row) = rows.next_row()? {
            let audience = Audience::of_row(scopes, at, row.kind)?;
            at += 1;
            if audience.has_departed() || !self.moved.is_empty() {
                let name = name_of(key, &row.key);
                if self.moved.contains(&name) {
                    self.take_shares(key, &mut shares, definitions);
                    self.round = self.round.saturating_add(1);
                    self.moved.clear();
                }
                if audience.has_departed() {
                    self.moved.insert(name);
                }
            }
            let departs = audience.has_departed();
            let share = shares.entry(audience).or_insert_with(|| {
                let DefinitionKey { table, incarnation, version } = key;
                Share {
                    rows: ChangesBuilder::new(table, incarnation, version, row.key.len(), &columns),
                    row_count: 0,
                    evictions: EvictionBuilder::new(table, incarnation, version, row.key.len()),
                }
            });
            push_row(&mut share.rows, row);
            share.row_count = share.row_count.saturating_add(1);
            if departs {
                share.evictions.key(&row.key);
            }
        }
        self.take_shares(key, &mut shares, definitions);
        Ok(())
    }

    fn take_shares(
        &mut self,
        key: DefinitionKey,
        shares: &mut BTreeMap<Audience, Share>,
        definitions: &Definitions,
    ) {
        for (audience, share) in std::mem::take(shares) {
            let departs = audience.has_departed();
            let group = self.group(key, &audience, definitions);
            group.rows.push(share.rows);
            group.row_count = group.row_count.saturating_add(share.row_count);
            if departs {
                group.evictions.push_eviction(share.evictions);
                group.eviction_count = group.eviction_count.saturating_add(share.row_count);
            }
        }
    }

    /// The group of an audience in this round, which knows the definition.
    fn group(&mut self, key: DefinitionKey, audience: &Audience, definitions: &Definitions) -> &mut Group {
        let group = self.groups.entry((self.round, audience.clone())).or_default();
        if group.used.insert(key)
            && let Some(definition) = definitions.get(key)
        {
            group.rows.definition(definition);
            if audience.has_departed() {
                group.evictions.definition(definition);
            }
        }
        group
    }

    /// Ends the pieces, in the order in which a reader takes them.
    pub(crate) fn finish(self) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.groups.len());
        for ((round, audience), group) in self.groups {
            let Group { rows, row_count, evictions, eviction_count, used: _ } = group;
            let evictions = if evictions.is_empty() {
                Bytes::new()
            } else {
                Bytes::from(encode_frame(&evictions.finish()))
            };
            let rows = Bytes::from(encode_frame(&rows.finish()));
            let audience = Arc::new(audience);
            pieces.push(Piece { round, audience, rows, row_count, evictions, eviction_count });
        }
        pieces.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
        pieces
    }
}

/// The audience of all rows of a batch that agree on it; None where rows move, or are deleted by some.
fn common_audience(changes: &Changes<'_>, scopes: &Scopes<'_>) -> Result<Option<Audience>> {
    let Some(kind) = changes.kind()? else { return Ok(None) };
    let audience = Audience::of_row(scopes, 0, kind)?;
    Ok((!audience.has_departed()).then_some(audience))
}

/// A number for a row; two rows of one number cost a round, no more.
fn name_of(key: DefinitionKey, parts: &[ValueRef<'_>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key.table, key.incarnation).hash(&mut hasher);
    encode_key(parts.iter().copied()).hash(&mut hasher);
    hasher.finish()
}

fn push_row(rows: &mut ChangesBuilder, row: &Row<'_>) {
    let own = |stamp: Stamp| (stamp != row.stamp).then_some(stamp);
    let cells: Vec<(usize, Option<Stamp>, ValueRef<'_>)> =
        row.cells.iter().map(|cell| (cell.column, own(cell.stamp), cell.value)).collect();
    rows.row(row.kind, row.stamp, &row.key, &cells);
}

#[cfg(test)]
mod tests {
    use shared_format::payload::{
        ColumnAlgorithm, ColumnDefinition, Limits, Payload, TableAlgorithm, TableDefinition, decode_frame,
    };
    use shared_format::{ColumnId, Hlc, RowKind, SiteId};

    use super::*;
    use crate::audience::{Readership, Share as Gets};
    use crate::auth::CallerKind;

    /// A change: the row, what happens, who read it before, who reads it now.
    type Line<'a> = (i64, RowKind, &'a [&'a str], &'a [&'a str]);

    fn definitions() -> Definitions {
        let column = |id| ColumnDefinition {
            id: ColumnId::new(id),
            name: format!("c{id}"),
            type_name: "text".to_owned(),
            algorithm: ColumnAlgorithm::Lww,
            group: None,
        };
        let mut definitions = Definitions::default();
        definitions.add(TableDefinition {
            table: 1,
            incarnation: 9,
            version: 2,
            name: "t".to_owned(),
            schema: None,
            algorithm: TableAlgorithm::Cls,
            key: vec![column(1)],
            columns: vec![column(2)],
            scoped: true,
            row_security: false,
        });
        definitions
    }

    fn split(batches: &[&[Line<'_>]]) -> Vec<Piece> {
        let mut splitter = Splitter::default();
        let mut hlc = 0;
        for batch in batches {
            let mut changes = ChangesBuilder::new(1, 9, 2, 1, &[ColumnId::new(2)]);
            for (key, kind, before, now) in *batch {
                hlc += 1;
                let stamp = Stamp { hlc: Hlc::from_raw(hlc), site: SiteId::from_bytes([7; 16]) };
                let text = hlc.to_string();
                changes.row(*kind, stamp, &[ValueRef::Integer(*key)], &[(0, None, ValueRef::Text(&text))]);
                changes.old_scopes(before);
                changes.new_scopes(now);
            }
            let mut builder = PayloadBuilder::new();
            builder.push(changes);
            let bytes = builder.finish();
            let payload = Payload::parse(&bytes).unwrap();
            let nobody =
                Audience::of_table(definitions().get(DefinitionKey::of(&payload.changes()[0])).unwrap());
            splitter.add(&payload.changes()[0], &nobody.unwrap(), &definitions()).unwrap();
        }
        splitter.finish()
    }

    /// The rows that a reader of one scope holds after it took the pieces in order, with the newest clock of each.
    fn held(pieces: &[Piece], scope: &str, held: &[(i64, u64)]) -> Vec<(i64, u64)> {
        let reader = Readership::new(CallerKind::Token, [scope.to_owned()]);
        let mut rows: BTreeMap<i64, u64> = held.iter().copied().collect();
        for piece in pieces {
            let bytes = match reader.share(&piece.audience) {
                Gets::Rows => &piece.rows,
                Gets::Evictions => &piece.evictions,
                Gets::Nothing => continue,
            };
            let (body, _) = decode_frame(bytes, &Limits::default()).unwrap();
            let payload = Payload::parse(&body).unwrap();
            assert_eq!(payload.definitions().unwrap().len(), 1, "a piece can be read alone");
            for changes in payload.changes() {
                assert!(changes.scopes().is_none(), "scopes stay at the hub");
                let mut cursor = changes.rows();
                while let Some(row) = cursor.next_row().unwrap() {
                    let ValueRef::Integer(key) = row.key[0] else { panic!("a number") };
                    let known = rows.get(&key).copied().unwrap_or(0);
                    match row.kind {
                        RowKind::Deleted => rows.remove(&key),
                        RowKind::Created | RowKind::Cells => rows.insert(key, known.max(row.stamp.hlc.raw())),
                    };
                }
            }
            for eviction in payload.evictions() {
                let mut keys = eviction.keys();
                while let Some(key) = keys.next_key().unwrap() {
                    let ValueRef::Integer(key) = key[0] else { panic!("a number") };
                    rows.remove(&key);
                }
            }
        }
        rows.into_iter().collect()
    }

    const WRITTEN: RowKind = RowKind::Cells;
    const MADE: RowKind = RowKind::Created;
    const GONE: RowKind = RowKind::Deleted;

    #[test]
    fn rows_go_to_their_readers() {
        let pieces = split(&[&[(1, MADE, &[], &["a"]), (2, MADE, &[], &["b"]), (3, MADE, &[], &["a", "b"])]]);
        assert_eq!(held(&pieces, "a", &[]), [(1, 1), (3, 3)]);
        assert_eq!(held(&pieces, "b", &[]), [(2, 2), (3, 3)]);
        assert_eq!(held(&pieces, "c", &[]), []);
        let alike = split(&[&[(1, MADE, &[], &["a"]), (2, MADE, &[], &["a"])]]);
        assert_eq!((alike.len(), held(&alike, "a", &[])), (1, vec![(1, 1), (2, 2)]));
    }

    #[test]
    fn a_row_that_moves_leaves_some_and_comes_to_others() {
        let pieces = split(&[&[(1, WRITTEN, &["a"], &["b"]), (2, WRITTEN, &["a"], &[])]]);
        assert_eq!(held(&pieces, "a", &[(1, 0), (2, 0)]), []);
        assert_eq!(held(&pieces, "b", &[]), [(1, 1)]);
    }

    #[test]
    fn a_row_that_moves_to_and_fro_ends_where_it_is() {
        let there = (1, WRITTEN, &["a"][..], &["b"][..]);
        let back = (1, WRITTEN, &["b"][..], &["a"][..]);
        for (batches, a, b) in [
            (&[&[there, back][..]][..], vec![(1, 2)], vec![]),
            (&[&[there], &[back], &[there]], vec![], vec![(1, 3)]),
            (&[&[(1, WRITTEN, &["a"], &["a"]), there]], vec![], vec![(1, 2)]),
            (&[&[there], &[(1, GONE, &["b"], &[]), (1, MADE, &[], &["a"])]], vec![(1, 3)], vec![]),
            (&[&[(1, WRITTEN, &[""], &["a"]), (1, WRITTEN, &["a"], &[""])]], vec![(1, 2)], vec![(1, 2)]),
        ] {
            let pieces = split(batches);
            assert_eq!(held(&pieces, "a", &[(1, 0)]), a, "{batches:?}");
            assert_eq!(held(&pieces, "b", &[]), b, "{batches:?}");
        }
    }

    #[test]
    fn what_nobody_may_read_is_kept_for_nobody() {
        let pieces = split(&[&[(1, WRITTEN, &[], &[])]]);
        assert_eq!((pieces.len(), held(&pieces, "a", &[])), (1, vec![]));
        assert!(!pieces[0].rows.is_empty());
    }
}
