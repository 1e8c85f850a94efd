//! Which databases a hub with this configuration serves: those of its file, and those of the control database.

use crate::config::{Config, DatabaseConfig, DatabaseName};
use crate::control::{Contents, Control};
use crate::error::Result;

/// What a control database holds; none where none is configured.
pub(super) async fn contents(config: &Config) -> Result<Option<Contents>> {
    match &config.control.url {
        Some(url) => Control::new(url)?.read().await.map(Some),
        None => Ok(None),
    }
}

/// The databases of a control database, and of those that cannot be served why, with their names.
pub(super) fn databases(contents: &Contents) -> (Vec<DatabaseConfig>, Vec<(String, String)>) {
    let (mut databases, mut problems) = (Vec::new(), Vec::new());
    for stored in &contents.databases {
        let read = match DatabaseName::new(&stored.name) {
            Some(name) => {
                DatabaseConfig::of_settings(&name, &stored.settings).map_err(|error| error.logged())
            }
            None => Err("the name is one that no database may have".to_owned()),
        };
        match read {
            Ok(database) => databases.push(database),
            Err(problem) => problems.push((stored.name.clone(), problem)),
        }
    }
    (databases, problems)
}

/// The databases of the control database, if there is one, and what is wrong with it.
pub(super) async fn of_control(config: &Config) -> (Vec<DatabaseConfig>, Vec<String>) {
    match contents(config).await {
        Ok(None) => (Vec::new(), Vec::new()),
        Ok(Some(contents)) => {
            let (databases, problems) = databases(&contents);
            let told = problems.into_iter().map(|(name, problem)| format!("database {name}: {problem}"));
            (databases, told.collect())
        }
        Err(error) => (Vec::new(), vec![error.logged()]),
    }
}
