//! Holds back what the synchronous standbys do not have yet: one of them may take the place of the server, and what
//! it lacks no client shall have seen.
//!
//! Invariant: what is held back is in neither the tail nor the store, so a reign that ends lets it go, and the next
//! leader decodes it again. Where Postgres waits for no standby, nothing is held and nothing is asked but the one
//! setting, once a second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::control::Control;
use super::gather::Gathered;
use crate::error::{Error, Result};
use crate::position::Lsn;

/// How often a leader that holds nothing back asks whether standbys are to be waited for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// First pause before standbys are asked again. It doubles, up to the second while they get on, and up to the third
/// while they do not.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_BUSY_MAX: Duration = Duration::from_millis(16);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Standbys that are behind for longer are worth a word in the log.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was decoded and is not for clients yet.
pub(super) struct HeldBack {
    frames: VecDeque<Gathered>,
    bytes: usize,
    /// When the transactions were committed that nobody can have yet.
    commits: VecDeque<(Lsn, SystemTime)>,
    since: Option<Instant>,
    is_told: bool,
    wanted: watch::Sender<Lsn>,
    flushed: watch::Receiver<Option<Lsn>>,
}

impl HeldBack {
    /// Begins to follow the standbys; the task ends with an error when the connection is lost.
    pub(super) async fn follow(control: &Arc<Control>, tasks: &mut JoinSet<Error>) -> Result<HeldBack> {
        let (known, flushed) = watch::channel(control.standbys_flushed().await?);
        let (wanted, asked) = watch::channel(Lsn::ZERO);
        tasks.spawn(look(Arc::clone(control), asked, known));
        Ok(HeldBack::new(wanted, flushed))
    }

    const fn new(wanted: watch::Sender<Lsn>, flushed: watch::Receiver<Option<Lsn>>) -> HeldBack {
        HeldBack {
            frames: VecDeque::new(),
            bytes: 0,
            commits: VecDeque::new(),
            since: None,
            is_told: false,
            wanted,
            flushed,
        }
    }

    /// Waits until the standbys got on. The task that follows them tells itself why it ended.
    pub(super) async fn changed(&mut self) {
        if self.flushed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, gathered: Gathered) {
        let end = gathered.frame.last.commit_end;
        self.bytes = self.bytes.saturating_add(gathered.frame.byte_len());
        self.frames.push_back(gathered);
        if !self.is_for_clients(end) {
            self.since.get_or_insert_with(Instant::now);
            self.wanted.send_replace(end);
        }
    }

    /// Takes the next frame that clients may have.
    pub(super) fn next(&mut self) -> Option<Gathered> {
        let end = self.frames.front()?.frame.last.commit_end;
        if !self.is_for_clients(end) {
            return None;
        }
        let gathered = self.frames.pop_front()?;
        self.bytes = self.bytes.saturating_sub(gathered.frame.byte_len());
        if self.frames.is_empty() {
            self.since = None;
            if std::mem::take(&mut self.is_told) {
                tracing::info!("synchronous standbys have caught up");
            }
        }
        Some(gathered)
    }

    /// Adds the time of a commit that was decoded.
    pub(super) fn push_commit(&mut self, end: Lsn, time: SystemTime) {
        self.commits.push_back((end, time));
    }

    /// Takes the time of the next commit that clients can have.
    pub(super) fn next_commit(&mut self) -> Option<SystemTime> {
        let (end, _time) = self.commits.front()?;
        if !self.is_for_clients(*end) {
            return None;
        }
        self.commits.pop_front().map(|(_end, time)| time)
    }

    fn is_for_clients(&self, end: Lsn) -> bool {
        self.flushed.borrow().is_none_or(|flushed| end <= flushed)
    }

    /// Bytes that are held back.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Says once when the standbys are behind for long.
    pub(super) fn complain(&mut self, database: &str) {
        if self.since.is_some_and(|since| since.elapsed() > PATIENCE) && !self.is_told {
            self.is_told = true;
            let (bytes, wanted) = (self.bytes, *self.wanted.borrow());
            tracing::warn!(database, bytes, %wanted, "clients wait for synchronous standbys");
        }
    }
}

/// Asks how far the standbys are: often while something waits for them, else rarely.
async fn look(
    control: Arc<Control>,
    mut wanted: watch::Receiver<Lsn>,
    known: watch::Sender<Option<Lsn>>,
) -> Error {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pause = PAUSE_MIN;
    loop {
        if is_behind(*known.borrow(), *wanted.borrow_and_update()) {
            sleep(pause).await;
        } else {
            pause = PAUSE_MIN;
            tokio::select! {
                _ = ticks.tick() => {}
                changed = wanted.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
        let flushed = match control.standbys_flushed().await {
            Ok(flushed) => flushed,
            Err(error) => return error,
        };
        let got_on = known.send_if_modified(|known| std::mem::replace(known, flushed) != flushed);
        let pause_max = if got_on { PAUSE_BUSY_MAX } else { PAUSE_MAX };
        pause = pause.saturating_mul(2).min(pause_max);
    }
}

/// Whether standbys are waited for that are not yet where they are wanted.
fn is_behind(flushed: Option<Lsn>, wanted: Lsn) -> bool {
    flushed.is_some_and(|flushed| flushed < wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;
    use crate::position::Position;
    use crate::segment::LogFrame;

    fn gathered(commit_end: u64) -> Gathered {
        let last = Position::new(Lsn::new(commit_end), Lsn::new(1));
        let bytes = Bytes::from_static(b"four");
        Gathered {
            frame: LogFrame { last, transaction_end: true, bytes, rows: 1, pieces: Vec::new() },
            confirm: None,
            transactions: Vec::new(),
            used: BTreeSet::new(),
        }
    }

    /// Pushes frames that end at 10, 20 and 30, and takes those that clients may have once the standbys are there.
    fn check(before: Option<u64>, after: Option<u64>, wanted: u64, taken: &[u64], bytes_left: usize) {
        let (asks, asked) = watch::channel(Lsn::ZERO);
        let (known, flushed) = watch::channel(before.map(Lsn::new));
        let mut held = HeldBack::new(asks, flushed);
        for end in [10, 20, 30] {
            held.push(gathered(end));
            held.push_commit(Lsn::new(end), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(*asked.borrow(), Lsn::new(wanted), "{before:?}");
        known.send_replace(after.map(Lsn::new));
        let found: Vec<u64> =
            std::iter::from_fn(|| held.next()).map(|frame| frame.frame.last.commit_end.raw()).collect();
        assert_eq!(found, taken, "{before:?} {after:?}");
        assert_eq!(std::iter::from_fn(|| held.next_commit()).count(), taken.len());
        assert_eq!((held.bytes(), held.is_empty()), (bytes_left, bytes_left == 0));
    }

    #[test]
    fn what_standbys_lack_is_held_back_in_order() {
        check(None, None, 0, &[10, 20, 30], 0);
        check(Some(10), Some(10), 30, &[10], 8);
        check(Some(0), Some(20), 30, &[10, 20], 4);
        check(Some(0), Some(29), 30, &[10, 20], 4);
        check(Some(30), Some(30), 0, &[10, 20, 30], 0);
    }

    #[test]
    fn nothing_is_held_once_postgres_waits_for_no_standby_any_more() {
        check(Some(0), None, 30, &[10, 20, 30], 0);
        check(None, Some(20), 0, &[10, 20], 4);
    }

    #[test]
    fn standbys_are_asked_only_while_something_waits_for_them() {
        assert!(!is_behind(None, Lsn::new(9)));
        assert!(!is_behind(Some(Lsn::new(9)), Lsn::new(9)));
        assert!(is_behind(Some(Lsn::new(8)), Lsn::new(9)));
    }
}
