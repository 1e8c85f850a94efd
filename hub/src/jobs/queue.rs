//! The queue that jobs wait in, as those who make and do them see it. Where it stands is the backend's.
//!
//! Invariant: of the jobs of one lane at most one is done at a time; whoever lost the lease of a lane is told so, and
//! is not believed.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::error::Result;

/// How long a claimed job is this node's, unless it lengthens that.
///
/// What a node that died had begun waits as long: also uploads in the inbox.
pub(crate) const LEASE: Duration = Duration::from_secs(20);

/// Tries of a job that does not recur, before it is dead.
pub(crate) const ATTEMPTS_MAX: i32 = 20;

/// A job that somebody wants done.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    /// What is to be done.
    pub(crate) kind: &'static str,
    /// Of one kind and key there is one job.
    pub(crate) key: String,
    /// Jobs of one lane are done one after another.
    pub(crate) lane: &'static str,
    /// What the kind needs to know.
    pub(crate) arguments: Value,
    /// How long it waits at least.
    pub(crate) after: Duration,
    /// Time between two times, of a job that recurs.
    pub(crate) every: Option<Duration>,
}

/// A job that this node does.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    /// Its number.
    pub(crate) job: i64,
    /// What is to be done.
    pub(crate) kind: String,
    /// Which one.
    pub(crate) key: String,
    /// How often it was begun, with this time.
    pub(crate) attempts: i32,
    /// What shows that the lease is still this node's.
    pub(crate) fence: i64,
}

/// How many jobs are in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobCount {
    /// `waiting`, `running` or `dead`.
    pub(crate) state: String,
    /// How many.
    pub(crate) jobs: i64,
}

/// The queue of one database.
pub(crate) trait JobQueue: Send + Sync {
    /// Wants a job done; one that waits already is done earlier at most.
    fn make(&self, job: NewJob) -> BoxFuture<'_, Result<()>>;

    /// Takes the next job that is due, of these kinds.
    fn claim<'a>(
        &'a self,
        kinds: &'a [&'static str],
        worker: &'a str,
    ) -> BoxFuture<'a, Result<Option<Claimed>>>;

    /// Lengthens the lease; false when it was lost.
    fn extend<'a>(&'a self, claimed: &'a Claimed) -> BoxFuture<'a, Result<bool>>;

    /// Ends a job: done, or with why not; false when the lease was lost.
    fn end<'a>(&'a self, claimed: &'a Claimed, error: Option<String>) -> BoxFuture<'a, Result<bool>>;

    /// Keeps what can never be done, with why, until somebody looks at it.
    fn bury(&self, job: NewJob, error: String) -> BoxFuture<'_, Result<()>>;

    /// Lets a dead job be tried again; false when there is none of this number.
    fn revive(&self, job: i64) -> BoxFuture<'_, Result<bool>>;

    /// Forgets a dead job; false when there is none of this number.
    fn forget(&self, job: i64) -> BoxFuture<'_, Result<bool>>;

    /// How many jobs there are, by state.
    fn count(&self) -> BoxFuture<'_, Result<Vec<JobCount>>>;
}
