//! What operators type: each command asks Postgres, the store and the control database itself, so that it works
//! whether or not a hub runs.

mod check;
mod findings;
mod keys;
mod served;
mod status;
mod verify;

pub use findings::Told;

use crate::arguments::KeyAction;
use crate::config::Config;
use crate::error::Result;

/// The description of every request.
#[must_use]
pub fn openapi() -> String {
    crate::api::document_text()
}

/// Makes, lists or revokes keys; gives what to print.
pub async fn key(config: &Config, database: &str, action: KeyAction) -> Result<String> {
    keys::run(config, database, action).await
}

/// Tries everything that a hub needs; says what is wrong and how to mend it.
pub async fn check(config: &Config) -> Result<Told> {
    check::run(config).await
}

/// Says how the databases are.
pub async fn status(config: &Config) -> Result<Told> {
    status::run(config).await
}

/// Compares what clients get of a database with the database itself.
pub async fn verify(config: &Config, database: &str) -> Result<Told> {
    verify::run(config, database).await
}
