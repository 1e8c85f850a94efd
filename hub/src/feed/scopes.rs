//! Which scopes a caller holds, asked of the database and remembered for a few seconds.
//!
//! Callers of one set of claims wait for one answer. While the database is away an older answer stands for a while;
//! without any, nobody is served by guess.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::audience::Readership;
use crate::auth::Caller;
use crate::backend::Backend;
use crate::error::Result;

/// How long an answer stands: so long a scope that was taken away may still be read.
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// How long it stands while the database does not answer.
const STALE_MAX: Duration = Duration::from_secs(600);

/// Callers that are remembered before those whose answers are old are forgotten.
const CALLERS_MAX: usize = 10_000;

/// What one set of claims holds, and since when it is known.
type Held = Arc<Mutex<Option<(Instant, Arc<Readership>)>>>;

/// Asks for scopes.
pub(super) struct ScopesOf {
    backend: Arc<dyn Backend>,
    known: Mutex<HashMap<(bool, String), Held>>,
    /// Those who wait are looked up one after another: what is asked beside requests is never many questions at once.
    turns: Semaphore,
}

impl ScopesOf {
    pub(super) fn new(backend: Arc<dyn Backend>) -> ScopesOf {
        ScopesOf { backend, known: Mutex::default(), turns: Semaphore::new(1) }
    }

    /// What a caller reads.
    pub(super) async fn reader(&self, caller: &Caller) -> Result<Arc<Readership>> {
        let held = self.place(caller).await;
        let mut held = held.lock().await;
        if let Some((_since, reader)) = held.as_ref().filter(|(since, _)| since.elapsed() < FRESH) {
            return Ok(Arc::clone(reader));
        }
        match self.backend.scopes_of(&caller.claims).await {
            Ok(scopes) => {
                let reader = Arc::new(Readership::new(caller.kind, scopes));
                *held = Some((Instant::now(), Arc::clone(&reader)));
                Ok(reader)
            }
            Err(error) => match held.as_ref().filter(|(since, _)| since.elapsed() < STALE_MAX) {
                Some((_since, reader)) if error.mends_by_itself() => Ok(Arc::clone(reader)),
                Some(_) | None => Err(error),
            },
        }
    }

    /// Lasts until a caller may read something else than this.
    pub(super) async fn changed(&self, caller: &Caller, reader: &Readership, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let Ok(_turn) = self.turns.acquire().await else { continue };
            // What the database does not answer now it is asked the next time.
            let now = Box::pin(self.reader(caller)).await;
            if now.is_ok_and(|now| now.mark() != reader.mark()) {
                return;
            }
        }
    }

    async fn place(&self, caller: &Caller) -> Held {
        let mut known = self.known.lock().await;
        if known.len() >= CALLERS_MAX {
            known.retain(|_, held| {
                let is_fresh = |known: &Option<(Instant, Arc<Readership>)>| {
                    known.as_ref().is_some_and(|(since, _)| since.elapsed() < FRESH)
                };
                held.try_lock().map_or(true, |held| is_fresh(&held))
            });
        }
        let name = (caller.kind == crate::auth::CallerKind::Key, caller.claims.clone());
        Arc::clone(known.entry(name).or_default())
    }
}
