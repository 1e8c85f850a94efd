//! Jobs: what has to be done beside requests, by one node at a time, whichever is alive.
//!
//! Every node asks the queue of each database for what is due. A job that its node does not finish, because that
//! died or lost its lease, is given to another: so each kind is written to be begun again at any place.

mod agenda;
pub(crate) mod queue;
mod work;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep};

use crate::error::{Error, Result};
use crate::http::databases::Database;
use crate::shutdown::asked;
use agenda::{Agenda, Next};
use queue::{Claimed, JobQueue, LEASE, NewJob};
use work::Kind;

/// Time between two looks at the queue of one database.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two looks whether Postgres is there, which cost it nothing.
const AWAY_INTERVAL: Duration = Duration::from_millis(200);

/// How often it is made sure that the recurring jobs are there: a database may have been restored.
const ENSURE_INTERVAL: Duration = Duration::from_secs(600);

/// Wakes the worker of one database, when a job of its is due at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell(Arc<Notify>);

impl Bell {
    /// Lets the worker look at once; it remembers one ring that it is too busy to hear.
    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }

    async fn rung(&self) {
        self.0.notified().await;
    }
}

/// Does the jobs of one database until that is not served any more.
pub(crate) async fn run(database: Arc<Database>) {
    let Some(queue) = database.backend.queue() else { return alone(&database).await };
    let worker = Worker { name: node_name(), database: &database, queue: &queue };
    let mut ending = database.ending();
    let mut doing = JoinSet::new();
    let mut state = State::default();
    loop {
        if let Err(error) = worker.turn(&mut state, &mut doing).await {
            worker.note(&mut state, &error);
        }
        tokio::select! {
            () = asked(&mut ending) => return,
            // What is wanted at once is made due.
            () = database.bell.rung() => state.ensured = None,
            // The lane may have more.
            Some(_done) = doing.join_next() => {}
            () = sleep(state.wait()) => {}
        }
    }
}

/// Does the recurring jobs of a database that has no queue: no other node does them.
async fn alone(database: &Database) {
    let mut ending = database.ending();
    let mut agenda = None;
    let mut told = None;
    loop {
        let outcome = tokio::select! {
            outcome = alone_turn(database, &mut agenda) => outcome,
            () = asked(&mut ending) => return,
        };
        let problem = outcome.as_ref().err().map(Error::logged);
        if let Some(problem) = problem.as_ref().filter(|_| problem != told) {
            let name = database.name.as_str();
            tracing::warn!(database = name, problem, "jobs are not done, trying again");
        }
        let wait = outcome.unwrap_or(POLL_INTERVAL);
        told = problem;
        tokio::select! {
            () = sleep(wait) => {}
            () = asked(&mut ending) => return,
        }
    }
}

/// Does the job that is due first, if it is; tells how long to wait for the next look.
async fn alone_turn(database: &Database, agenda: &mut Option<Agenda>) -> Result<Duration> {
    let agenda = match agenda {
        Some(agenda) => agenda,
        None => {
            let begun = Agenda::new(&database.backend.jobs_due().await?, SystemTime::now());
            for (at, kind) in begun.kept() {
                database.backend.keep_job_due(kind.name(), at).await?;
            }
            agenda.insert(begun)
        }
    };
    let kind = match agenda.next(SystemTime::now()) {
        Next::Due(kind) => kind,
        Next::After(wait) => return Ok(wait.min(POLL_INTERVAL)),
    };
    let outcome = work::recur(database, kind).await;
    database.metrics.count_job(kind.name(), if outcome.is_ok() { "done" } else { "failed" });
    if let Err(error) = &outcome {
        let (name, kind) = (database.name.as_str(), kind.name());
        tracing::warn!(database = name, kind, problem = error.logged(), "job failed, to be tried again");
    }
    let at = agenda.end(kind, outcome.is_ok(), SystemTime::now());
    if kind.is_kept() {
        database.backend.keep_job_due(kind.name(), at).await?;
    }
    Ok(Duration::ZERO)
}

/// What a worker remembers.
#[derive(Debug, Default)]
struct State {
    ensured: Option<Instant>,
    /// What it complained of last.
    told: Option<String>,
}

impl State {
    /// How long nothing is looked for, unless somebody rings.
    fn wait(&self) -> Duration {
        if self.ensured.is_none() && self.told.is_none() { AWAY_INTERVAL } else { POLL_INTERVAL }
    }
}

/// Does the jobs of one database.
struct Worker<'a> {
    name: String,
    database: &'a Arc<Database>,
    queue: &'a Arc<dyn JobQueue>,
}

impl Worker<'_> {
    /// Begins everything that is due.
    async fn turn(&self, state: &mut State, doing: &mut JoinSet<()>) -> Result<()> {
        // What is done must not be done to a server that is no longer the centre.
        if self.database.feed.check_writable().is_err() {
            state.ensured = None;
            return Ok(());
        }
        self.database.inbox.learn_key(self.database).await?;
        if state.ensured.is_none_or(|at| at.elapsed() > ENSURE_INTERVAL) {
            for kind in Kind::ALL {
                self.queue.make(recurring(kind)).await?;
            }
            state.ensured = Some(Instant::now());
        }
        if state.told.take().is_some() {
            tracing::info!(database = self.database.name.as_str(), "jobs are done again");
        }
        while let Some(claimed) = self.queue.claim(&Kind::NAMES, &self.name).await? {
            doing.spawn(carry_out(Arc::clone(self.database), Arc::clone(self.queue), claimed));
        }
        let counts = self.queue.count().await?;
        for state in ["waiting", "running", "dead"] {
            let jobs = counts.iter().find(|count| count.state == state).map_or(0, |count| count.jobs);
            self.database.metrics.set_jobs(state, jobs);
        }
        Ok(())
    }

    /// Says once what keeps jobs from being done.
    fn note(&self, state: &mut State, error: &Error) {
        state.ensured = None;
        let problem = error.logged();
        if state.told.as_ref() != Some(&problem) {
            tracing::warn!(
                database = self.database.name.as_str(),
                problem,
                "jobs are not done, trying again"
            );
            state.told = Some(problem);
        }
    }
}

fn recurring(kind: Kind) -> NewJob {
    NewJob {
        kind: kind.name(),
        key: String::new(),
        lane: kind.lane(),
        arguments: serde_json::json!({}),
        after: kind.first_after(),
        every: Some(kind.every()),
    }
}

/// Does one job, and tells the queue how it ended.
async fn carry_out(database: Arc<Database>, queue: Arc<dyn JobQueue>, claimed: Claimed) {
    let begun = Instant::now();
    let name = database.name.as_str();
    let outcome = tokio::select! {
        outcome = work::run(&database, &claimed) => outcome,
        lost = keep_lease(&*queue, &claimed) => Err(lost),
    };
    let error = outcome.as_ref().err().map(Error::logged);
    let label = if error.is_some() { "failed" } else { "done" };
    database.metrics.count_job(&claimed.kind, label);
    if let Some(problem) = &error {
        tracing::warn!(
            database = name,
            kind = claimed.kind,
            key = claimed.key,
            attempt = claimed.attempts,
            problem,
            "job failed, to be tried again"
        );
    } else {
        let seconds = begun.elapsed().as_secs_f64();
        tracing::debug!(database = name, kind = claimed.kind, key = claimed.key, seconds, "job done");
    }
    if let Err(error) = queue.end(&claimed, error).await {
        // The lease ends, and the job is begun again.
        tracing::warn!(
            database = name,
            kind = claimed.kind,
            problem = error.logged(),
            "end of a job was not noted"
        );
    }
}

/// Lengthens the lease while a job is done; ends when it is lost, or may be.
async fn keep_lease(queue: &dyn JobQueue, claimed: &Claimed) -> Error {
    let every = LEASE / 3;
    let mut ticks = interval_at(Instant::now() + every, every);
    let mut good_until = Instant::now() + LEASE;
    loop {
        ticks.tick().await;
        match queue.extend(claimed).await {
            Ok(true) => good_until = Instant::now() + LEASE,
            Ok(false) => return Error::JobLost { job: claimed.job },
            Err(_silent) if Instant::now() + every < good_until => {}
            Err(error) => return error,
        }
    }
}

/// A name for this process that people can tell from others.
fn node_name() -> String {
    let random = getrandom::u32().unwrap_or_default();
    format!("{}-{random:08x}", std::process::id())
}
