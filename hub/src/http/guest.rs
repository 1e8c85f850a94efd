//! Somebody who asks to be let in, and what becomes of the address that was wrong.
//!
//! Whoever decides tells the guest how it ended: what is right is remembered, a guess counts against the address.

use std::net::IpAddr;
use std::time::Instant;

use super::app::App;
use super::asker::Asker;
use super::problem::{Problem, ProblemKind};
use crate::auth::{Credential, read_bearer};

/// Who asks, before it is decided whether to let them in.
pub(super) struct Guest<'a> {
    app: &'a App,
    address: IpAddr,
    /// The database that failures are counted for; empty if it is none.
    database: &'a str,
    /// What is shown.
    pub(super) shown: Credential,
}

impl<'a> Guest<'a> {
    /// Reads what is shown, unless the address was wrong too often.
    pub(super) fn read(app: &'a App, asker: &Asker, database: &'a str) -> Result<Guest<'a>, Problem> {
        let address = app.edges().trusted_proxies.client(asker.address, asker.forwarded());
        let shown = read_bearer(asker.authorization())
            .inspect_err(|_missing| count(app, address, database, "header"))?;
        if let Some(wait) = app.failures.wait(address, shown.hash(), Instant::now()) {
            count(app, address, database, "limit");
            let detail =
                format!("too many wrong keys or tokens from this address, wait {} s", wait.as_secs());
            return Err(Problem::new(ProblemKind::TooManyFailures, detail).after(wait));
        }
        Ok(Guest { app, address, database, shown })
    }

    /// What was shown is right.
    pub(super) fn is_right(&self) {
        self.app.failures.succeeded(*self.shown.hash());
    }

    /// What was shown opens nothing here, for this reason.
    pub(super) fn is_denied(&self, reason: &str, is_guess: bool) {
        count(self.app, self.address, self.database, reason);
        if is_guess {
            self.app.failures.forget(self.shown.hash());
            if self.app.failures.failed(self.address, Instant::now()) {
                tracing::warn!(address = %self.address, "too many wrong keys or tokens");
            }
        }
    }
}

fn count(app: &App, address: IpAddr, database: &str, reason: &str) {
    tracing::debug!(%address, reason, "not admitted");
    app.metrics.count_auth_failure(database, reason);
}
