//! Gathers messages into payload frames: small transactions share one, large ones take several.
//!
//! Invariant: a frame covers the positions from the one before it up to its last, none is left out. It holds the
//! definitions that its rows need, so that it can be read alone.

use std::collections::BTreeSet;

use bytes::Bytes;
use shared_format::payload::{Payload, PayloadBuilder, Reload, encode_frame};

use super::split::Splitter;
use crate::audience::Audience;
use crate::definitions::{DefinitionKey, Definitions};
use crate::error::Result;
use crate::position::{Lsn, Position};
use crate::segment::{LogFrame, Transaction};

/// Bytes of changesets after which a frame is cut.
///
/// Bounds one slice of CPU work: see DESIGN section 10.
const FRAME_CHANGESET_BYTES_MAX: usize = 256 * 1024;

/// A frame with what a segment and the slot need to know of it.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// The frame.
    pub(crate) frame: LogFrame,
    /// The slot may move here once this frame is stored: the end of its last whole transaction.
    pub(crate) confirm: Option<Lsn>,
    /// Transactions that end in it.
    pub(crate) transactions: Vec<Transaction>,
    /// Definitions that its rows refer to.
    pub(crate) used: BTreeSet<DefinitionKey>,
}

/// The frame that is being gathered.
#[derive(Default)]
pub(crate) struct Gatherer {
    builder: PayloadBuilder,
    /// Rows in it.
    rows: u32,
    splitter: Splitter,
    used: BTreeSet<DefinitionKey>,
    changeset_bytes: usize,
    last: Option<Position>,
    begun_within: bool,
    within: bool,
    confirm: Option<Lsn>,
    transactions: Vec<Transaction>,
}

impl Gatherer {
    /// Adds a message that was verified. On an unknown definition nothing is added.
    pub(crate) fn add(
        &mut self,
        position: Position,
        payload: &Payload<'_>,
        changeset_bytes: usize,
        definitions: &mut Definitions,
    ) -> Result<()> {
        for definition in payload.definitions()? {
            self.builder.definition(&definition);
            definitions.add(definition);
        }
        let changes = payload.changes();
        for rows in &changes {
            let key = DefinitionKey::of(rows);
            definitions.get(key).ok_or_else(|| key.unknown())?;
        }
        for rows in &changes {
            let key = DefinitionKey::of(rows);
            let Some(definition) = definitions.get(key) else { continue };
            let audience = Audience::of_table(definition);
            let is_new = self.used.insert(key);
            if audience.is_some() || rows.scopes().is_some() {
                self.splitter.add(rows, &audience.unwrap_or_else(Audience::everybody), definitions)?;
                continue;
            }
            if is_new {
                self.builder.definition(definition);
            }
            self.builder.append(rows);
            self.rows = self.rows.saturating_add(u32::try_from(rows.row_count()).unwrap_or(u32::MAX));
        }
        for collection in payload.collections() {
            self.builder.collection(collection);
        }
        for Reload { table, incarnation, reason } in payload.reloads() {
            self.builder.reload(table, incarnation, &reason);
        }
        self.changeset_bytes = self.changeset_bytes.saturating_add(changeset_bytes);
        self.skip(position);
        Ok(())
    }

    /// Moves over a message that is for nobody.
    pub(crate) fn skip(&mut self, position: Position) {
        if self.last.is_none() {
            self.begun_within = self.within;
        }
        self.last = Some(position);
        self.within = true;
    }

    /// Goes on within a transaction whose messages up to here are in the store, but not its end: readers wait
    /// for that, also when no message is left.
    pub(crate) const fn go_on_within(&mut self) {
        self.within = true;
    }

    /// Ends the transaction. `confirm` is false if the slot must not move over it yet.
    pub(crate) fn end_transaction(&mut self, commit_end: Lsn, xid: Option<u64>, confirm: bool) {
        if !self.within {
            return;
        }
        self.within = false;
        if self.last.is_none() {
            // Its last message went with the frame before, which could not know that it was the last.
            self.last = Some(Position::after(commit_end));
            self.begun_within = true;
        }
        if confirm {
            self.confirm = Some(commit_end);
        }
        self.transactions.extend(xid.map(|xid| Transaction { xid, commit_end }));
    }

    /// Whether nothing waits to be cut, or for the rest of its transaction.
    pub(crate) const fn is_empty(&self) -> bool {
        self.last.is_none() && !self.within
    }

    /// Whether to cut now: the frame is large enough, or nothing more is there to share it with.
    pub(crate) fn is_due(&self, more_is_here: bool) -> bool {
        let alone = self.begun_within || !more_is_here;
        self.last.is_some() && (self.changeset_bytes >= FRAME_CHANGESET_BYTES_MAX || (alone && !self.within))
    }

    /// Cuts the frame.
    pub(crate) fn cut(&mut self) -> Option<Gathered> {
        let last = self.last?;
        let within = self.within;
        let gathered = std::mem::replace(self, Gatherer { within, ..Gatherer::default() });
        let bytes = if gathered.builder.is_empty() {
            Bytes::new()
        } else {
            Bytes::from(encode_frame(&gathered.builder.finish()))
        };
        Some(Gathered {
            frame: LogFrame {
                last,
                transaction_end: !within,
                bytes,
                rows: gathered.rows,
                pieces: gathered.splitter.finish(),
            },
            confirm: gathered.confirm,
            transactions: gathered.transactions,
            used: gathered.used,
        })
    }
}

#[cfg(test)]
mod tests {
    use shared_format::payload::{
        ChangesBuilder, Collection, ColumnAlgorithm, ColumnDefinition, Limits, TableAlgorithm,
        TableDefinition, decode_frame,
    };
    use shared_format::{ColumnId, Hlc, RowKind, SiteId, Stamp, ValueRef};

    use super::*;
    use crate::error::Error;

    fn column(id: u16) -> ColumnDefinition {
        ColumnDefinition {
            id: ColumnId::new(id),
            name: format!("c{id}"),
            type_name: "text".to_owned(),
            algorithm: ColumnAlgorithm::Lww,
            group: None,
        }
    }

    fn definitions() -> Definitions {
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
            scoped: false,
            row_security: false,
        });
        definitions
    }

    fn rows(version: u32, key: &str) -> Vec<u8> {
        let mut builder = PayloadBuilder::new();
        let mut changes = ChangesBuilder::new(1, 9, version, 1, &[ColumnId::new(2)]);
        let stamp = Stamp { hlc: Hlc::from_raw(5), site: SiteId::from_bytes([7; 16]) };
        changes.row(RowKind::Created, stamp, &[ValueRef::Text(key)], &[(0, None, ValueRef::Text("v"))]);
        builder.push(changes);
        builder.finish()
    }

    fn at(commit_end: u64, message: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(message))
    }

    fn add(gatherer: &mut Gatherer, position: Position, key: &str, size: usize) {
        let rows = rows(2, key);
        gatherer.add(position, &Payload::parse(&rows).unwrap(), size, &mut definitions()).unwrap();
    }

    fn keys(gathered: &Gathered) -> Vec<String> {
        let (body, length) = decode_frame(&gathered.frame.bytes, &Limits::default()).unwrap();
        assert_eq!(length, gathered.frame.bytes.len());
        let payload = Payload::parse(&body).unwrap();
        assert_eq!(payload.definitions().unwrap().len(), 1);
        let mut keys = Vec::new();
        for changes in payload.changes() {
            let mut rows = changes.rows();
            while let Some(row) = rows.next_row().unwrap() {
                keys.push(format!("{:?}", row.key));
            }
        }
        keys
    }

    #[test]
    fn small_transactions_share_a_frame_while_more_is_here() {
        let mut gatherer = Gatherer::default();
        assert!(!gatherer.is_due(false));
        add(&mut gatherer, at(10, 1), "a", 100);
        assert!(!gatherer.is_due(false), "a transaction is not cut because the rest is late");
        gatherer.end_transaction(Lsn::new(10), Some(6), true);
        assert!(!gatherer.is_due(true));
        add(&mut gatherer, at(20, 11), "b", 100);
        gatherer.end_transaction(Lsn::new(20), Some(5), true);
        assert!(gatherer.is_due(false));
        let gathered = gatherer.cut().unwrap();
        assert_eq!((keys(&gathered).len(), gathered.frame.rows), (2, 2));
        assert_eq!((gathered.frame.last, gathered.frame.transaction_end), (at(20, 11), true));
        assert_eq!(gathered.confirm, Some(Lsn::new(20)));
        let xids: Vec<u64> = gathered.transactions.iter().map(|transaction| transaction.xid).collect();
        assert_eq!(xids, [6, 5]);
        assert!(gatherer.cut().is_none());
    }

    #[test]
    fn a_large_transaction_takes_several_frames_and_shares_the_last_with_nobody() {
        let mut gatherer = Gatherer::default();
        add(&mut gatherer, at(10, 1), "a", 100);
        gatherer.end_transaction(Lsn::new(10), Some(6), true);
        add(&mut gatherer, at(20, 11), "b", FRAME_CHANGESET_BYTES_MAX);
        assert!(gatherer.is_due(true));
        let first = gatherer.cut().unwrap();
        assert_eq!((first.frame.transaction_end, first.confirm), (false, Some(Lsn::new(10))));
        add(&mut gatherer, at(20, 12), "c", 1);
        assert!(!gatherer.is_due(true));
        gatherer.end_transaction(Lsn::new(20), Some(7), true);
        assert!(gatherer.is_due(true));
        let second = gatherer.cut().unwrap();
        assert_eq!((second.frame.transaction_end, second.confirm), (true, Some(Lsn::new(20))));
        assert_eq!(keys(&second).len(), 1);
    }

    #[test]
    fn an_end_that_comes_after_the_last_message_was_cut_is_a_frame_of_its_own() {
        let mut gatherer = Gatherer::default();
        add(&mut gatherer, at(20, 11), "b", FRAME_CHANGESET_BYTES_MAX);
        assert!(!gatherer.cut().unwrap().frame.transaction_end);
        gatherer.end_transaction(Lsn::new(20), Some(7), true);
        assert!(gatherer.is_due(true));
        let end = gatherer.cut().unwrap();
        assert!(end.frame.bytes.is_empty());
        assert_eq!((end.frame.last, end.frame.transaction_end), (Position::after(Lsn::new(20)), true));
    }

    #[test]
    fn the_end_of_a_transaction_whose_messages_are_stored_is_told() {
        let mut gatherer = Gatherer::default();
        gatherer.go_on_within();
        gatherer.end_transaction(Lsn::new(20), Some(7), true);
        assert!(gatherer.is_due(false));
        let end = gatherer.cut().unwrap();
        assert!(end.frame.bytes.is_empty());
        assert_eq!((end.frame.last, end.frame.transaction_end), (Position::after(Lsn::new(20)), true));
        assert_eq!(end.confirm, Some(Lsn::new(20)));
    }

    #[test]
    fn skipped_messages_move_the_place_and_make_no_bytes() {
        let mut gatherer = Gatherer::default();
        gatherer.skip(at(10, 1));
        gatherer.end_transaction(Lsn::new(10), None, false);
        let gathered = gatherer.cut().unwrap();
        assert!(gathered.frame.bytes.is_empty());
        assert_eq!((gathered.frame.last, gathered.confirm), (at(10, 1), None));
    }

    #[test]
    fn notices_that_tombstones_go_are_passed_on() {
        let notice = Collection { table: 1, incarnation: 9, horizon: Hlc::from_raw(77) };
        let mut builder = PayloadBuilder::new();
        builder.collection(notice);
        let message = builder.finish();
        let mut gatherer = Gatherer::default();
        gatherer.add(at(10, 1), &Payload::parse(&message).unwrap(), 1, &mut definitions()).unwrap();
        gatherer.end_transaction(Lsn::new(10), Some(7), true);
        let gathered = gatherer.cut().unwrap();
        let (body, _) = decode_frame(&gathered.frame.bytes, &Limits::default()).unwrap();
        assert_eq!(Payload::parse(&body).unwrap().collections(), [notice]);
    }

    #[test]
    fn rows_of_an_unknown_definition_are_not_taken() {
        let mut gatherer = Gatherer::default();
        let rows = rows(3, "a");
        let payload = Payload::parse(&rows).unwrap();
        let refused = gatherer.add(at(10, 1), &payload, 1, &mut definitions());
        assert!(matches!(refused, Err(Error::UnknownDefinition { version: 3, .. })));
        assert!(gatherer.cut().is_none());
    }
}
