//! What kind of database the centre is, by its `url`, and the key that only a SQLite file has.

use std::path::PathBuf;

use super::tree::Node;
use super::{Environment, Sourced, overridden, wrong};
use crate::error::Result;
use crate::postgres::PostgresUrl;

/// What the URL of a SQLite file begins with; the path is absolute.
const SQLITE: &str = "sqlite://";

/// Where the central database is.
#[derive(Clone, Debug)]
pub enum BackendLocation {
    /// A Postgres database.
    Postgres(Box<PostgresUrl>),
    /// A SQLite file.
    Sqlite(SqliteLocation),
}

/// A SQLite file that is the centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteLocation {
    /// The file.
    pub file: PathBuf,
    /// The cloudsync library that is loaded into it.
    pub extension: PathBuf,
}

/// Reads where a database is; `variable` names its environment variables by the key.
pub(super) fn read(
    node: &Node<'_>,
    environment: &Environment,
    variable: impl Fn(&str) -> String,
) -> Result<BackendLocation> {
    let url = overridden(environment, &variable("URL"), || node.text("url"))?;
    let extension = match environment.get(&variable("EXTENSION")) {
        Some(text) => Some(Sourced { key: variable("EXTENSION"), text: text.clone() }),
        None => node.optional_text("extension")?,
    };
    let Some(path) = url.text.strip_prefix(SQLITE) else {
        if let Some(extension) = extension {
            return Err(wrong(&extension.key, "a path", "nothing beside a url that is not sqlite://"));
        }
        let postgres = PostgresUrl::parse(&url.text);
        return postgres
            .map(|url| BackendLocation::Postgres(Box::new(url)))
            .map_err(|problem| wrong(&url.key, problem.found, problem.wanted));
    };
    let file = absolute(&url, path, "sqlite:///path/to/file.sqlite")?;
    let wanted = "the absolute path of the cloudsync library, since the url is sqlite://";
    let extension = extension.ok_or_else(|| wrong(&node.place("extension"), "nothing", wanted))?;
    let extension = absolute(&extension, &extension.text, wanted)?;
    Ok(BackendLocation::Sqlite(SqliteLocation { file, extension }))
}

fn absolute(source: &Sourced, path: &str, wanted: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    let is_file = path.is_absolute() && path.file_name().is_some();
    if is_file { Ok(path) } else { Err(wrong(&source.key, format!("{:?}", source.text), wanted)) }
}
