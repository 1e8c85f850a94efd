//! Deferred constraints: checked row by row while rows can still be refused alone, not at COMMIT.
//!
//! The server tells nobody which constraints are deferred at the moment, so it cannot be put back once they were made
//! immediate. A caller's own transaction is therefore left as it was by rolling back: rows whose constraints were
//! found to hold are written once more without the check.

use crate::edge::query;
use crate::edge::session::as_owner;
use crate::edge::subtransaction::{RolledBack, subtransaction};

use super::{Author, permanent};

/// Checks what was deferred, and defers nothing from now on.
pub(super) const CHECK: &str = "set constraints all immediate";

/// How deferred constraints are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Constraints {
    /// Not here: none can be deferred, or some are open already, which only the caller can close.
    Unchecked,
    /// At the end of each try: the transaction is ours.
    Checked,
    /// In a try that is rolled back: the transaction is the caller's.
    Rehearsed,
}

impl Constraints {
    /// How those of this database are to be checked.
    pub(super) fn find(author: Author) -> Self {
        let sql = "select from pg_catalog.pg_constraint as c where c.condeferrable \
                   and c.connamespace operator(pg_catalog.<>) 'cloudsync'::pg_catalog.regnamespace limit 1";
        if as_owner(|| query::run(sql, &[])).count == 0 {
            return Self::Unchecked;
        }
        match author {
            Author::Site(_) => Self::Checked,
            Author::Person | Author::Trusted => {
                let look = || {
                    query::run(CHECK, &[]);
                    Err::<(), ()>(())
                };
                match subtransaction(look) {
                    Ok(()) | Err(RolledBack::GaveUp(())) => Self::Rehearsed,
                    Err(RolledBack::Raised(caught)) => {
                        permanent(caught);
                        Self::Unchecked
                    }
                }
            }
        }
    }
}
