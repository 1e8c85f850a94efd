//! Which place in the log a snapshot of the database stands for.
//!
//! Postgres writes a commit to the WAL before other transactions see it, and the hub decodes it in between. So
//! the order of the log and what a query sees are compared by transaction, never by LSN: a snapshot stands for
//! the greatest decoded place up to which it shows *every* decoded transaction. What committed later comes from
//! the log, and is merged even if the snapshot showed it already.

use std::collections::VecDeque;

use crate::position::Lsn;
use crate::segment::Transaction;

/// What one MVCC snapshot of Postgres shows, as `pg_current_snapshot()` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PgSnapshot {
    /// Every transaction below has ended.
    xmin: u64,
    /// No transaction from here on had begun.
    xmax: u64,
    /// Those between that were still running, in order.
    running: Vec<u64>,
}

impl PgSnapshot {
    /// Reads `xmin:xmax:xid,xid`.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<PgSnapshot> {
        let mut parts = text.split(':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let mut running = Vec::new();
        for xid in list.split(',').filter(|xid| !xid.is_empty()) {
            running.push(xid.parse().ok()?);
        }
        running.sort_unstable();
        parts.next().is_none().then_some(PgSnapshot { xmin, xmax, running })
    }

    /// Whether it shows what this transaction, which is known to have committed, did.
    #[must_use]
    pub(crate) fn shows(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether it shows everything that another one shows.
    #[must_use]
    pub(crate) fn shows_all_of(&self, other: &PgSnapshot) -> bool {
        let mut hidden = self.running.iter().take_while(|xid| **xid < other.xmax);
        self.xmax >= other.xmax && hidden.all(|xid| !other.shows(*xid))
    }

    /// Whether it shows everything that transactions below `xid` did.
    #[must_use]
    pub(crate) const fn shows_all_below(&self, xid: u64) -> bool {
        self.xmin >= xid
    }
}

/// The transactions that this leader decoded and that no snapshot was seen to show yet, in commit order.
#[derive(Clone, Debug)]
pub(crate) struct DecodedTransactions {
    /// All that committed up to this LSN is shown by every snapshot that shows all of this one.
    shown: Option<(PgSnapshot, Lsn)>,
    /// What an earlier leader decoded: its ids are unknown, but all are below this one, and all committed up to
    /// this LSN.
    inherited: Option<(u64, Lsn)>,
    unseen: VecDeque<Transaction>,
}

impl DecodedTransactions {
    /// Begins where the store ends: what committed before has an id below `xmax` of a snapshot taken after that
    /// end was read.
    #[must_use]
    pub(crate) const fn begin(stored: Lsn, taken_after: &PgSnapshot) -> DecodedTransactions {
        DecodedTransactions {
            shown: None,
            inherited: Some((taken_after.xmax, stored)),
            unseen: VecDeque::new(),
        }
    }

    /// Notes a decoded transaction; they come in commit order.
    pub(crate) fn push(&mut self, transaction: Transaction) {
        self.unseen.push_back(transaction);
    }

    /// The greatest decoded LSN up to which this snapshot shows every decoded transaction.
    ///
    /// None while it does not even show all that was decoded before this leader began, and for a snapshot that
    /// was taken before the one by which transactions were forgotten: what is between them is not known.
    #[must_use]
    pub(crate) fn place_of(&self, snapshot: &PgSnapshot) -> Option<Lsn> {
        let floor = match self.inherited {
            None => {
                let shown = self.shown.as_ref().filter(|(by, _place)| snapshot.shows_all_of(by));
                shown.map(|(_by, place)| *place)
            }
            Some((xid, stored)) => snapshot.shows_all_below(xid).then_some(stored),
        };
        let shown = self.unseen.iter().take_while(|transaction| snapshot.shows(transaction.xid));
        floor.map(|floor| shown.last().map_or(floor, |transaction| transaction.commit_end))
    }

    /// Forgets what this snapshot shows, since every one that is taken later will show it too.
    pub(crate) fn forget_shown(&mut self, snapshot: &PgSnapshot) {
        let Some(place) = self.place_of(snapshot) else { return };
        self.inherited = None;
        self.shown = Some((snapshot.clone(), place));
        while self.unseen.front().is_some_and(|transaction| transaction.commit_end <= place) {
            self.unseen.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> PgSnapshot {
        PgSnapshot::parse(text).unwrap()
    }

    /// A leader that began at LSN 100 when 50 was the next id, and decoded these since.
    fn decoded(transactions: &[(u64, u64)]) -> DecodedTransactions {
        let mut decoded = DecodedTransactions::begin(Lsn::new(100), &snapshot("50:50:"));
        for (xid, commit_end) in transactions {
            decoded.push(Transaction { xid: *xid, commit_end: Lsn::new(*commit_end) });
        }
        decoded
    }

    fn check(transactions: &[(u64, u64)], text: &str, wanted: Option<u64>) {
        let found = decoded(transactions).place_of(&snapshot(text));
        assert_eq!(found, wanted.map(Lsn::new), "{transactions:?} {text}");
    }

    #[test]
    fn a_snapshot_is_read_as_postgres_prints_it() {
        assert_eq!(snapshot("10:20:17,12"), PgSnapshot { xmin: 10, xmax: 20, running: vec![12, 17] });
        assert_eq!(snapshot("10:10:"), PgSnapshot { xmin: 10, xmax: 10, running: vec![] });
        for text in ["", "10", "10:20", "10:20:x", "10:20::", "a:20:"] {
            assert_eq!(PgSnapshot::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_snapshot_shows_what_had_ended_when_it_was_taken() {
        let snapshot = snapshot("10:20:12,17");
        for (xid, shown) in
            [(9, true), (10, true), (12, false), (13, true), (17, false), (19, true), (20, false)]
        {
            assert_eq!(snapshot.shows(xid), shown, "{xid}");
        }
    }

    #[test]
    fn all_decoded_and_visible_is_the_end_of_what_was_decoded() {
        check(&[(51, 200), (53, 300), (52, 400)], "54:54:", Some(400));
    }

    #[test]
    fn a_transaction_decoded_but_not_yet_visible_holds_the_place_before_it() {
        check(&[(51, 200), (53, 300), (52, 400)], "53:54:53", Some(200));
        check(&[(51, 200), (53, 300), (52, 400)], "51:54:51", Some(100));
    }

    #[test]
    fn a_transaction_that_began_after_the_snapshot_is_left_to_the_log() {
        check(&[(51, 200), (60, 300)], "55:55:", Some(200));
    }

    #[test]
    fn a_running_transaction_that_was_not_decoded_does_not_matter() {
        check(&[(52, 200)], "51:53:51", Some(200));
    }

    #[test]
    fn there_is_no_place_until_all_that_was_inherited_is_visible() {
        check(&[], "49:55:49", None);
        check(&[(51, 200)], "49:55:49", None);
        check(&[], "50:55:", Some(100));
        check(&[], "50:55:50,52", Some(100));
    }

    #[test]
    fn a_snapshot_that_was_taken_before_the_forgetting_has_no_place() {
        let mut decoded = decoded(&[(51, 200), (52, 300)]);
        // Taken when 52 was still running, and looked at after a later one was.
        let earlier = snapshot("52:53:52");
        decoded.forget_shown(&snapshot("53:53:"));
        assert_eq!(decoded.place_of(&earlier), None);
        assert_eq!(decoded.place_of(&snapshot("52:52:")), None);
        assert_eq!(decoded.place_of(&snapshot("53:53:")), Some(Lsn::new(300)));
        assert_eq!(decoded.place_of(&snapshot("53:60:55")), Some(Lsn::new(300)));
    }

    #[test]
    fn what_one_snapshot_showed_is_forgotten_and_stays_shown() {
        let mut decoded = decoded(&[(51, 200), (53, 300), (52, 400)]);
        decoded.forget_shown(&snapshot("49:60:49"));
        assert_eq!(decoded.place_of(&snapshot("53:54:53")), Some(Lsn::new(200)));
        decoded.forget_shown(&snapshot("53:54:53"));
        assert_eq!(decoded.unseen.len(), 2);
        assert_eq!(decoded.place_of(&snapshot("53:55:53")), Some(Lsn::new(200)));
        decoded.forget_shown(&snapshot("54:54:"));
        assert!(decoded.inherited.is_none() && decoded.unseen.is_empty());
        assert_eq!(decoded.place_of(&snapshot("54:54:")), Some(Lsn::new(400)));
    }
}
