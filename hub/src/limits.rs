//! What one database takes of this node, and what it is refused beyond its limits, of which each node has a part.
//!
//! A refusal loses nothing: it comes before anything was done, says when to ask again, and whoever is refused still
//! has what it wanted to send. One request alone is never too much, so that a small limit slows and does not stop.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::LimitsConfig;
use crate::http::problem::{Problem, ProblemKind};
use crate::metrics::DatabaseMetrics;

/// How long a database may be above its rate of requests, after it was quiet for so long.
const BURST: Duration = Duration::from_secs(10);

/// How soon to ask again where nobody knows when there is room.
const AGAIN: Duration = Duration::from_secs(1);

/// How soon to ask again when the store is full: what it holds is looked at once a minute.
const AGAIN_STORED: Duration = Duration::from_secs(60);

/// What there can be too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Requests in a time.
    Requests,
    /// Bytes on their way.
    Bytes,
    /// Downloads that wait.
    Waits,
    /// Bytes in the store.
    Storage,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Limit; 4] = [Limit::Requests, Limit::Bytes, Limit::Waits, Limit::Storage];

    /// The word for programs and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Limit::Requests => "requests",
            Limit::Bytes => "bytes",
            Limit::Waits => "waits",
            Limit::Storage => "storage",
        }
    }
}

/// What a database takes.
#[derive(Debug, Default)]
struct Taken {
    /// When the requests so far would have been through at the rate that is allowed.
    through: Option<Instant>,
    in_flight_bytes: u64,
    waits: usize,
    /// Bytes in the store when that was last looked at.
    stored_bytes: u64,
    /// Bytes of uploads that were taken since.
    uploaded_bytes: u64,
}

/// What all databases of this node share: room for downloads that wait, each of which holds a connection, and how many
/// nodes there are.
///
/// While the room is full, a database that holds its even share finds none, so that the others still do, and
/// connections are left for what does not wait.
#[derive(Debug)]
pub(crate) struct Node {
    places: usize,
    state: Mutex<NodeState>,
    nodes: AtomicU32,
}

#[derive(Debug, Default)]
struct NodeState {
    waits: usize,
    databases: usize,
}

impl Node {
    /// Makes room in a node that holds so many connections: a tenth of them is never waited on.
    pub(crate) fn new(connections_max: usize) -> Arc<Node> {
        let places = connections_max.saturating_sub(connections_max / 10).max(1);
        Arc::new(Node { places, state: Mutex::default(), nodes: AtomicU32::new(1) })
    }

    /// Says how many nodes there are: what a database may take is for all of them together.
    pub(crate) fn set_nodes(&self, nodes: u32) {
        self.nodes.store(nodes.max(1), Ordering::Relaxed);
    }

    fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// Takes a place for a database that holds so many already; says whether there was one.
    fn enter(&self, held: usize) -> bool {
        let mut state = self.state();
        let share = (self.places / state.databases.max(1)).max(1);
        if state.waits >= self.places && held >= share {
            return false;
        }
        state.waits = state.waits.saturating_add(1);
        true
    }

    fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limits of one database, and what it takes.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: RwLock<LimitsConfig>,
    taken: Mutex<Taken>,
    node: Arc<Node>,
    metrics: DatabaseMetrics,
}

/// Bytes that are on their way until this is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    limits: Limits,
    bytes: u64,
}

/// A download that waits until this is dropped.
#[derive(Debug)]
pub(crate) struct Wait(Limits);

/// What a database takes now, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Bytes of uploads and downloads that are on their way.
    pub(crate) in_flight_bytes: u64,
    /// Downloads that wait.
    pub(crate) waits: usize,
    /// Bytes in the store, as far as this node knows.
    pub(crate) stored_bytes: u64,
}

impl Limits {
    pub(crate) fn new(config: LimitsConfig, node: &Arc<Node>, metrics: DatabaseMetrics) -> Limits {
        let mut state = node.state();
        state.databases = state.databases.saturating_add(1);
        drop(state);
        let (config, node) = (RwLock::new(config), Arc::clone(node));
        Limits(Arc::new(Shared { config, taken: Mutex::default(), node, metrics }))
    }

    /// What is allowed.
    pub(crate) fn config(&self) -> LimitsConfig {
        *self.0.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows something else from now on; what was taken before stays taken.
    pub(crate) fn set(&self, config: LimitsConfig) {
        *self.0.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// What is taken.
    pub(crate) fn used(&self) -> Use {
        let taken = self.taken();
        Use {
            in_flight_bytes: taken.in_flight_bytes,
            waits: taken.waits,
            stored_bytes: taken.stored_bytes.saturating_add(taken.uploaded_bytes),
        }
    }

    /// Takes one more request, now.
    pub(crate) fn request(&self, now: Instant) -> Result<(), Problem> {
        let Some(max) = self.config().requests_per_s_max else { return Ok(()) };
        let mut taken = self.taken();
        let through = taken.through.map_or(now, |through| through.max(now));
        let ahead = through.saturating_duration_since(now);
        if ahead > BURST {
            drop(taken);
            let detail = format!("this database takes {max} requests a second");
            return Err(self.refuse(Limit::Requests, &detail, ahead.saturating_sub(BURST)));
        }
        taken.through = Some(through + Duration::from_secs(u64::from(self.0.node.nodes())) / max);
        Ok(())
    }

    /// Takes bytes that will be on their way.
    pub(crate) fn carry(&self, bytes: u64) -> Result<Load, Problem> {
        let mut taken = self.taken();
        let after = taken.in_flight_bytes.saturating_add(bytes);
        if let Some(max) = self.config().in_flight_bytes_max
            && taken.in_flight_bytes > 0
            && after > max / u64::from(self.0.node.nodes())
        {
            drop(taken);
            let detail = format!("this database may have {max} bytes on their way at once");
            return Err(self.refuse(Limit::Bytes, &detail, AGAIN));
        }
        self.set_in_flight(&mut taken, after);
        Ok(Load { limits: self.clone(), bytes })
    }

    /// Takes one more download that waits, if there is room for one.
    pub(crate) fn wait(&self) -> Option<Wait> {
        let mut taken = self.taken();
        // Of few waits for many nodes, each has one.
        let nodes = usize::try_from(self.0.node.nodes()).unwrap_or(usize::MAX);
        let is_full = self.config().waits_max.is_some_and(|max| taken.waits >= (max / nodes).max(1));
        if is_full || !self.0.node.enter(taken.waits) {
            return None;
        }
        taken.waits = taken.waits.saturating_add(1);
        self.0.metrics.long_polls_open.inc();
        Some(Wait(self.clone()))
    }

    /// Says that there was no room to wait.
    pub(crate) fn no_wait(&self) -> Problem {
        let detail = "nothing is new, and as many downloads of this database wait as may";
        // Its connection is what there is no room for.
        self.refuse(Limit::Waits, detail, AGAIN).closing()
    }

    /// Refuses an upload while the store holds too much.
    pub(crate) fn check_storage(&self) -> Result<(), Problem> {
        let Some(max) = self.config().stored_bytes_max else { return Ok(()) };
        let stored = self.used().stored_bytes;
        if stored < max {
            return Ok(());
        }
        let detail = format!("the store holds {stored} bytes of this database, which may have {max}");
        Err(self.refuse(Limit::Storage, &detail, AGAIN_STORED))
    }

    /// Whether uploads are refused because of what the store holds.
    pub(crate) fn is_full(&self) -> bool {
        self.config().stored_bytes_max.is_some_and(|max| self.used().stored_bytes >= max)
    }

    /// Notes that an upload was taken: the store will hold about as much more.
    pub(crate) fn note_upload(&self, bytes: u64) {
        let mut taken = self.taken();
        taken.uploaded_bytes = taken.uploaded_bytes.saturating_add(bytes);
    }

    /// Bytes of uploads that were taken since the store was last looked at.
    pub(crate) fn uploaded_bytes(&self) -> u64 {
        self.taken().uploaded_bytes
    }

    /// Notes what the store holds. Uploads that were taken before the look are in it, or will be.
    pub(crate) fn note_stored(&self, bytes: u64, uploaded_before: u64) {
        let mut taken = self.taken();
        taken.stored_bytes = bytes;
        taken.uploaded_bytes = taken.uploaded_bytes.saturating_sub(uploaded_before);
    }

    fn refuse(&self, limit: Limit, detail: &str, wait: Duration) -> Problem {
        self.0.metrics.count_limited(limit);
        let kind = match limit {
            Limit::Requests | Limit::Bytes | Limit::Waits => ProblemKind::TooManyRequests,
            Limit::Storage => ProblemKind::StorageFull,
        };
        Problem::new(kind, detail).with("limit", Value::from(limit.word())).after(wait)
    }

    fn set_in_flight(&self, taken: &mut Taken, bytes: u64) {
        taken.in_flight_bytes = bytes;
        self.0.metrics.in_flight_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut state = self.node.state();
        state.databases = state.databases.saturating_sub(1);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut taken = self.limits.taken();
        let left = taken.in_flight_bytes.saturating_sub(self.bytes);
        self.limits.set_in_flight(&mut taken, left);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut taken = self.0.taken();
        taken.waits = taken.waits.saturating_sub(1);
        let mut room = self.0.0.node.state();
        room.waits = room.waits.saturating_sub(1);
        self.0.0.metrics.long_polls_open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn limits(config: LimitsConfig) -> Limits {
        Limits::new(config, &Node::new(1_000_000), Metrics::new().unwrap().database("demo"))
    }

    /// The word of the limit and the seconds to wait, of a refusal.
    fn told(problem: &Problem) -> (String, u64) {
        let response = problem.response();
        let after = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        (problem.member("limit").unwrap().as_str().unwrap().to_owned(), after)
    }

    #[test]
    fn without_limits_nothing_is_refused() {
        let (limits, now) = (limits(LimitsConfig::default()), Instant::now());
        let mut held = Vec::new();
        for _ in 0..10_000 {
            limits.request(now).unwrap();
            held.push((limits.carry(u64::MAX / 20_000).unwrap(), limits.wait().unwrap()));
        }
        limits.note_stored(u64::MAX, 0);
        limits.check_storage().unwrap();
        drop(held);
        assert_eq!(limits.used(), Use { in_flight_bytes: 0, waits: 0, stored_bytes: u64::MAX });
    }

    #[test]
    fn requests_above_the_rate_are_told_when_to_come_again() {
        let limits = limits(LimitsConfig { requests_per_s_max: Some(2), ..LimitsConfig::default() });
        let start = Instant::now();
        let at_once = (0..).take_while(|_| limits.request(start).is_ok()).count();
        assert_eq!(at_once, 21, "ten seconds' worth, and one");
        assert_eq!(told(&limits.request(start).unwrap_err()), ("requests".to_owned(), 1));
        limits.request(start + Duration::from_millis(500)).unwrap();
        limits.request(start + Duration::from_millis(600)).unwrap_err();
        let later = start + Duration::from_secs(100);
        let again = (0..).take_while(|_| limits.request(later).is_ok()).count();
        assert_eq!(again, 21, "however long it was quiet");
    }

    #[test]
    fn bytes_on_their_way_are_limited_but_one_request_alone_is_not() {
        let limits = limits(LimitsConfig { in_flight_bytes_max: Some(100), ..LimitsConfig::default() });
        let large = limits.carry(500).unwrap();
        assert_eq!(told(&limits.carry(1).unwrap_err()), ("bytes".to_owned(), 1));
        drop(large);
        let half = limits.carry(60).unwrap();
        limits.carry(41).unwrap_err();
        let rest = limits.carry(40).unwrap();
        drop((half, rest));
        assert_eq!(limits.used().in_flight_bytes, 0);
    }

    #[test]
    fn several_nodes_share_what_a_database_may_take() {
        let node = Node::new(1_000_000);
        let config = LimitsConfig {
            requests_per_s_max: Some(2),
            in_flight_bytes_max: Some(100),
            waits_max: Some(4),
            stored_bytes_max: Some(100),
        };
        let limits = Limits::new(config, &node, Metrics::new().unwrap().database("demo"));
        node.set_nodes(2);
        let now = Instant::now();
        assert_eq!((0..).take_while(|_| limits.request(now).is_ok()).count(), 11);
        let load = limits.carry(50).unwrap();
        limits.carry(1).unwrap_err();
        let waits = (limits.wait().unwrap(), limits.wait().unwrap());
        assert!(limits.wait().is_none());
        // The store is one.
        limits.note_stored(99, 0);
        limits.check_storage().unwrap();
        node.set_nodes(0);
        drop((load, waits, limits.carry(50).unwrap(), limits.wait().unwrap()));
        node.set_nodes(1_000);
        assert!(limits.wait().is_some());
    }

    #[test]
    fn as_many_wait_as_may() {
        let limits = limits(LimitsConfig { waits_max: Some(1), ..LimitsConfig::default() });
        let first = limits.wait().unwrap();
        assert!(limits.wait().is_none());
        assert_eq!(told(&limits.no_wait()), ("waits".to_owned(), 1));
        limits.set(LimitsConfig::default());
        let second = limits.wait().unwrap();
        limits.set(LimitsConfig { waits_max: Some(2), ..LimitsConfig::default() });
        assert!(limits.wait().is_none());
        drop((first, second));
        assert!(limits.wait().is_some());
    }

    #[test]
    fn a_database_that_waits_a_lot_leaves_room_for_others_and_for_what_does_not_wait() {
        let (room, metrics) = (Node::new(100), Metrics::new().unwrap());
        let of = |name: &str| Limits::new(LimitsConfig::default(), &room, metrics.database(name));
        let take_all = |limits: &Limits| std::iter::from_fn(|| limits.wait()).collect::<Vec<Wait>>();
        let first = of("first");
        let mut held = take_all(&first);
        assert_eq!(held.len(), 90, "alone it has all but a tenth of the connections");
        let second = of("second");
        let others = take_all(&second);
        assert_eq!(others.len(), 45, "an even share is there in any case");
        drop(held.split_off(40));
        assert_eq!(take_all(&first).len(), 5);
        drop((held, others));
        drop(second);
        assert_eq!(take_all(&first).len(), 90);
    }

    #[test]
    fn a_full_store_takes_no_upload_until_it_holds_less() {
        let limits = limits(LimitsConfig { stored_bytes_max: Some(100), ..LimitsConfig::default() });
        limits.note_stored(90, 0);
        limits.check_storage().unwrap();
        limits.note_upload(10);
        assert_eq!(told(&limits.check_storage().unwrap_err()), ("storage".to_owned(), 60));
        assert!(limits.is_full());
        // One more came while the store was looked at.
        let before = limits.uploaded_bytes();
        limits.note_upload(3);
        limits.note_stored(50, before);
        assert_eq!(limits.used().stored_bytes, 53);
        limits.check_storage().unwrap();
    }
}
