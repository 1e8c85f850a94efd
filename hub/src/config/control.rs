//! Who administers the hub, and where it keeps what is changed at run time.
//!
//! | key | what it holds |
//! |---|---|
//! | `admin_keys` | a list of keys that open the admin requests; without one nobody is let in |
//! | `control` | the Postgres of the control database; without one, databases and keys are what the file says |
//!
//! A database of the control database is described by the same keys as a `[[database]]` of the file.

use serde_json::{Map, Value};

use super::tree::Node;
use super::{
    BackendLocation, DatabaseConfig, DatabaseName, Environment, Keyless, Sourced, overridden, read_database,
    wrong,
};
use crate::auth::api_key::{ApiKey, ApiKeys};
use crate::error::Result;
use crate::postgres::PostgresUrl;

const CONTROL_VARIABLE: &str = "CLOUDSYNC_CONTROL";
const KEYS_VARIABLE: &str = "CLOUDSYNC_ADMIN_KEYS";

/// Who administers the hub, and where it keeps what is changed at run time.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The keys of operators.
    pub admin_keys: ApiKeys,
    /// Where databases and keys are kept that come at run time.
    pub url: Option<PostgresUrl>,
}

impl ControlConfig {
    /// The keys of the file that are read here.
    pub(super) const KEYS: [&'static str; 2] = ["admin_keys", "control"];

    pub(super) fn read(root: &Node<'_>, environment: &Environment) -> Result<ControlConfig> {
        let keys = match environment.get(KEYS_VARIABLE) {
            Some(text) => of_variable(text),
            None => root.texts("admin_keys")?,
        };
        let made = |key: &Sourced| {
            ApiKey::new(&key.text, None).map_err(|problem| wrong(&key.key, problem.found, problem.wanted))
        };
        let keys = keys.iter().map(made).collect::<Result<Vec<_>>>()?;
        let twice = || wrong("admin_keys", "the same key twice", "different keys");
        let url = match environment.get(CONTROL_VARIABLE) {
            Some(_) => Some(overridden(environment, CONTROL_VARIABLE, || root.text("control"))?),
            None => root.optional_text("control")?,
        };
        let parsed = |url: Sourced| {
            PostgresUrl::parse(&url.text).map_err(|problem| wrong(&url.key, problem.found, problem.wanted))
        };
        Ok(ControlConfig {
            admin_keys: ApiKeys::new(keys).ok_or_else(twice)?,
            url: url.map(parsed).transpose()?,
        })
    }
}

fn of_variable(text: &str) -> Vec<Sourced> {
    let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty());
    let sourced = |(index, key): (usize, &str)| Sourced {
        key: format!("{KEYS_VARIABLE}[{index}]"),
        text: key.to_owned(),
    };
    keys.enumerate().map(sourced).collect()
}

impl DatabaseConfig {
    /// Reads the settings of a database that is kept in the control database; its keys are kept beside them.
    pub(crate) fn of_settings(name: &DatabaseName, settings: &Map<String, Value>) -> Result<DatabaseConfig> {
        let mut settings = settings.clone();
        settings.remove("api_keys");
        settings.insert("name".to_owned(), Value::from(name.as_str()));
        let node = Node::of_json("database", settings)?;
        let config = read_database(&node, &Environment::new(), Keyless::Allowed)?;
        match config.backend {
            BackendLocation::Postgres(_) => Ok(config),
            // Whoever names a library has the hub run it.
            BackendLocation::Sqlite(_) => {
                let wanted =
                    "postgres://; a SQLite file and its library are named in the file of the hub only";
                Err(wrong("database.url", "a SQLite file", wanted))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::api_key::PresentedKey;

    const ADMIN: &str = "admin-0123456789abcdef0123456789abcdef";

    fn read(text: &str, pairs: &[(&str, &str)]) -> Result<ControlConfig> {
        let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        ControlConfig::read(&Node::parse(text)?, &pairs.collect())
    }

    #[test]
    fn admin_keys_come_from_the_file_or_the_environment() {
        let text = format!("admin_keys = [\"{ADMIN}\"]\ncontrol = \"postgres://u@h/control\"");
        let config = read(&text, &[]).unwrap();
        assert!(config.admin_keys.find(&PresentedKey::new(ADMIN)).is_some());
        assert_eq!(config.url.unwrap().config().get_dbname(), Some("control"));
        let other = "other-0123456789abcdef0123456789abcdef";
        let config =
            read(&text, &[(KEYS_VARIABLE, other), (CONTROL_VARIABLE, "postgres://u@h/other")]).unwrap();
        assert!(config.admin_keys.find(&PresentedKey::new(ADMIN)).is_none());
        assert!(config.admin_keys.find(&PresentedKey::new(other)).is_some());
        assert_eq!(config.url.unwrap().config().get_dbname(), Some("other"));
        let config = read("", &[]).unwrap();
        assert!(config.admin_keys.find(&PresentedKey::new("")).is_none() && config.url.is_none());
    }

    #[test]
    fn a_wrong_admin_key_is_described_but_not_shown() {
        for (text, words) in [
            ("admin_keys = [\"tooshort\"]", ["admin_keys[0]", "8 characters"]),
            ("admin_keys = [1]", ["admin_keys[0]", "integer"]),
            ("control = \"hunter2\"", ["control", "postgres://"]),
        ] {
            let error = read(text, &[]).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
            assert!(!error.contains("tooshort") && !error.contains("hunter2"), "{error}");
        }
        let twice = format!("admin_keys = [\"{ADMIN}\", \"{ADMIN}\"]");
        assert!(read(&twice, &[]).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn settings_of_the_control_database_are_read_like_a_table_of_the_file() {
        let name = DatabaseName::new("demo").unwrap();
        let read = |settings: Value| {
            DatabaseConfig::of_settings(&name, settings.as_object().unwrap())
                .map_err(|error| error.to_string())
        };
        let config = read(json!({ "url": "postgres://u:hunter2@h/d" })).unwrap();
        let BackendLocation::Postgres(url) = config.backend else { panic!("{:?}", config.backend) };
        assert_eq!((config.name, url.config().get_user()), (name.clone(), Some("u")));
        for (settings, word) in [
            (json!({}), "database.url"),
            (json!({ "url": 7 }), "database.url"),
            (json!({ "url": "postgres://u@h/d", "later": 1 }), "database.later"),
            (json!({ "url": "hunter2" }), "postgres://"),
            (json!({ "url": "sqlite:///tmp/x.sqlite", "extension": "/tmp/x.so" }), "SQLite"),
        ] {
            let error = read(settings).unwrap_err();
            assert!(error.contains(word) && !error.contains("hunter2"), "{word} in {error}");
        }
    }
}
