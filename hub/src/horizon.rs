//! How far sites are: Postgres drops tombstones that every site has received, and a site that may not have has to
//! take a snapshot before anything of it is applied.
//!
//! Invariant: of a site that was told to be far enough, at a place behind which it is not, that stays true for a
//! while: what Postgres was told of it holds the horizon.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared_format::SiteId;

use crate::auth::bounded::Bounded;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::feed::Reached;
use crate::http::databases::Database;
use crate::position::Lsn;

/// Time between two notes of one site: a tombstone waits for days, so that minutes do not count.
const NOTE_INTERVAL: Duration = Duration::from_secs(300);

/// Sites that are remembered, at most twice as many. Of others Postgres is told more often.
const SITES_MAX: usize = 50_000;

/// What Postgres was told of a site.
#[derive(Clone, Copy, Debug)]
struct Noted {
    at: Instant,
    place: Lsn,
    /// Postgres said that nothing is gone that the site may lack.
    is_far_enough: bool,
}

/// How far the sites of one database are.
pub(crate) struct Horizon {
    noted: Mutex<Bounded<SiteId, Noted>>,
}

impl Default for Horizon {
    fn default() -> Horizon {
        Horizon { noted: Mutex::new(Bounded::new(SITES_MAX)) }
    }
}

impl Horizon {
    /// Refuses an upload up to a number of a site that has to take a snapshot first, unless it was applied before.
    pub(crate) async fn check_upload(
        &self,
        database: &Database,
        site: SiteId,
        cursor: &Cursor,
        last: i64,
    ) -> Result<()> {
        let Err(error) = self.check(database, site, cursor).await else { return Ok(()) };
        let is_known = matches!(error, Error::CursorExpired)
            && database.backend.site_acked(site).await?.is_some_and(|acked| acked >= last);
        if is_known { Ok(()) } else { Err(error) }
    }

    /// Refuses a site whose place is from before tombstones went.
    pub(crate) async fn check(&self, database: &Database, site: SiteId, cursor: &Cursor) -> Result<()> {
        let Some(reached) = database.feed.reached(cursor) else { return Ok(()) };
        let known = self.known(site, reached.place, Instant::now());
        if known.is_some_and(|noted| noted.is_far_enough) {
            return Ok(());
        }
        let is_behind = self.note(database, site, reached).await?;
        if is_behind { Err(Error::CursorExpired) } else { Ok(()) }
    }

    /// Tells Postgres now and then how far a site is that downloads. It is not waited for: the log is in the store.
    pub(crate) fn hear(database: &Arc<Database>, site: SiteId, cursor: &Cursor) {
        let Some(reached) = database.feed.reached(cursor) else { return };
        if database.feed.check_writable().is_err()
            || database.horizon.known(site, reached.place, Instant::now()).is_some()
        {
            return;
        }
        let database = Arc::clone(database);
        // Whoever asks next before it is done does not tell it again.
        database.horizon.remember(site, reached.place, false);
        tokio::spawn(async move {
            if let Err(error) = database.horizon.note(&database, site, reached).await {
                let name = database.name.as_str();
                tracing::debug!(database = name, %site, problem = error.logged(), "place of a site was not noted");
            }
        });
    }

    /// Tells Postgres how far a site is, and whether it has to begin anew. One that has the whole log has every
    /// deletion that is older than a collection can be.
    async fn note(&self, database: &Database, site: SiteId, reached: Reached) -> Result<bool> {
        let is_behind = database.backend.note_site(site, reached.place).await? && !reached.is_end;
        self.remember(site, reached.place, !is_behind);
        Ok(is_behind)
    }

    /// What was noted of a site a short while ago, if it has not gone back since, as a file does that is restored.
    fn known(&self, site: SiteId, place: Lsn, now: Instant) -> Option<Noted> {
        let noted = self.noted().get(&site).copied()?;
        let is_fresh = now.saturating_duration_since(noted.at) < NOTE_INTERVAL;
        (is_fresh && place >= noted.place).then_some(noted)
    }

    fn remember(&self, site: SiteId, place: Lsn, is_far_enough: bool) {
        self.noted().insert(site, Noted { at: Instant::now(), place, is_far_enough });
    }

    fn noted(&self) -> MutexGuard<'_, Bounded<SiteId, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_site_holds_for_a_while_and_not_behind_its_place() {
        let horizon = Horizon::default();
        let (site, other) = (SiteId::from_bytes([1; 16]), SiteId::from_bytes([2; 16]));
        horizon.remember(site, Lsn::new(100), true);
        let now = Instant::now();
        for (who, place, at, is_known) in [
            (site, 100, now, true),
            (site, 200, now, true),
            (site, 99, now, false),
            (site, 100, now + NOTE_INTERVAL, false),
            (other, 100, now, false),
        ] {
            assert_eq!(horizon.known(who, Lsn::new(place), at).is_some(), is_known, "{who} {place}");
        }
    }
}
