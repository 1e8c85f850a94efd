//! The configuration: one TOML file, of which environment variables may override each key.
//!
//! Owns what the keys are called and what they may hold. Every problem names the key, what was found and what
//! was wanted; the value itself is shown only where it cannot hold a secret, so the tree that the TOML parser
//! gives is read by hand here. API keys leave this module as hashes.
//!
//! | key | environment variable |
//! |---|---|
//! | `listen` | `CLOUDSYNC_LISTEN` |
//! | `store` | `CLOUDSYNC_STORE` |
//! | `trusted_proxies`, `connections_max`, `monitoring_key`, `tls` | see `config/edges.rs` |
//! | `log_memory_bytes_max` | `CLOUDSYNC_LOG_MEMORY_BYTES_MAX`; 64 MiB for all databases together |
//! | `read_cache_bytes_max` | `CLOUDSYNC_READ_CACHE_BYTES_MAX`; 64 MiB |
//! | `inbox_key` | `CLOUDSYNC_INBOX_KEY`; see `config/inbox.rs` |
//! | `admin_keys` | `CLOUDSYNC_ADMIN_KEYS`, by commas; see `config/control.rs` |
//! | `control` | `CLOUDSYNC_CONTROL`; see `config/control.rs` |
//! | `url` of database `my-app` | `CLOUDSYNC_DATABASE_MY_APP_URL` |
//! | `extension` of database `my-app` | `CLOUDSYNC_DATABASE_MY_APP_EXTENSION`, beside a `sqlite://` url |
//! | `api_keys` of database `my-app` | `CLOUDSYNC_DATABASE_MY_APP_API_KEYS`, as `key` or `key:role`, by commas |
//! | `limits` of database `my-app`, a table | see `config/limits.rs` |
//! | `jwt` of database `my-app`, a table | its `secret`: `CLOUDSYNC_DATABASE_MY_APP_JWT_SECRET`; see `config/auth.rs` |
//!
//! `CLOUDSYNC_LOG` and `CLOUDSYNC_LOG_FORMAT` say what is logged and how; they have no key.
//! S3 credentials come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; without them, from where
//! every AWS SDK finds them: a profile, the role of a pod or a container, the role of the instance.

mod auth;
mod backend;
mod control;
mod edges;
mod inbox;
mod limits;
mod location;
mod memory;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

pub(crate) use auth::SCOPES_INTERVAL;
pub use auth::{KeySetUrl, TokenConfig, TokenSecret};
pub use backend::{BackendLocation, SqliteLocation};
pub use control::ControlConfig;
pub use edges::{EdgesConfig, TlsFiles, TrustedProxies};
pub use inbox::InboxKey;
pub use limits::LimitsConfig;
pub use location::{S3Credentials, S3Encryption, S3Location, S3Presigned, StoreLocation};
pub use memory::MemoryConfig;

use crate::auth::api_key::{ApiKey, ApiKeys};
use crate::error::{Error, Result};
use tree::Node;

/// Longest database name, in bytes: with everything around it, a store key stays below its limit.
const DATABASE_NAME_BYTES_MAX: usize = 63;

/// What begins the name of every environment variable that speaks for a key of a database.
const DATABASE_VARIABLE: &str = "CLOUDSYNC_DATABASE_";

/// The environment variables as the process was given them.
pub type Environment = BTreeMap<String, String>;

/// The name of a database: in URLs, in store keys and in labels of metrics.
///
/// Invariant: 1 to 63 lower-case letters, digits, `-` and `_`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName(String);

impl DatabaseName {
    /// Takes a name that keeps the rule.
    #[must_use]
    pub fn new(name: &str) -> Option<DatabaseName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let sound = name.len() <= DATABASE_NAME_BYTES_MAX
            && name.bytes().next().is_some_and(plain)
            && name.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'_'));
        sound.then(|| DatabaseName(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as environment variables spell it.
    fn variable(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One database that the hub serves.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// Its name.
    pub name: DatabaseName,
    /// Where it is.
    pub backend: BackendLocation,
    /// Who may use it by a key.
    pub api_keys: ApiKeys,
    /// Whose tokens count, if any do.
    pub tokens: Option<TokenConfig>,
    /// What it may take of a node.
    pub limits: LimitsConfig,
}

/// Everything that `hub serve` is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where segments and snapshots are kept.
    pub store: StoreLocation,
    /// The edges of the server.
    pub edges: EdgesConfig,
    /// What may be held in memory.
    pub memory: MemoryConfig,
    /// What uploads that wait in the store are signed with; without it, what each Postgres says.
    pub inbox_key: Option<InboxKey>,
    /// Who administers the hub, and where it keeps what is changed at run time.
    pub control: ControlConfig,
    /// The databases, in the order of the file; at least one unless there is a control database.
    pub databases: Vec<DatabaseConfig>,
}

impl Config {
    /// Reads a configuration file, under the variables of the environment.
    pub fn read(path: &Path, environment: &Environment) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::ConfigFile { path: path.to_owned(), source })?;
        Config::parse(&text, environment)
    }

    /// Reads a configuration from the text of a file, under the variables of the environment.
    pub fn parse(text: &str, environment: &Environment) -> Result<Config> {
        let root = Node::parse(text)?;
        let own = ["listen", "store", "database", InboxKey::KEY];
        root.only(&[&own[..], &EdgesConfig::KEYS, &MemoryConfig::KEYS, &ControlConfig::KEYS].concat())?;
        let listen = overridden(environment, "CLOUDSYNC_LISTEN", || root.text("listen"))?;
        let store = overridden(environment, "CLOUDSYNC_STORE", || root.text("store"))?;
        let databases = root
            .list("database")?
            .iter()
            .map(|node| read_database(node, environment, Keyless::Refused))
            .collect::<Result<Vec<_>>>()?;
        let control = ControlConfig::read(&root, environment)?;
        if databases.is_empty() && control.url.is_none() {
            return Err(wrong(
                "database",
                "no [[database]]",
                "at least one [[database]], or a control database",
            ));
        }
        check_databases(&databases, environment)?;
        Ok(Config {
            listen: read_listen(&listen)?,
            store: StoreLocation::parse(&store.key, &store.text, environment)?,
            edges: EdgesConfig::read(&root, environment)?,
            memory: MemoryConfig::read(&root, environment)?,
            inbox_key: InboxKey::read(&root, environment)?,
            control,
            databases,
        })
    }
}

/// A text with the name of the place that it comes from.
pub(crate) struct Sourced {
    /// The key of the file with its path, or the environment variable.
    pub(crate) key: String,
    /// The text itself.
    pub(crate) text: String,
}

/// Says what is wrong with the value of one key.
pub(crate) fn wrong(key: &str, found: impl Into<String>, wanted: impl Into<String>) -> Error {
    Error::ConfigValue { key: key.to_owned(), found: found.into(), wanted: wanted.into() }
}

/// The environment variable if it is set, else what the file says.
fn overridden(
    environment: &Environment,
    variable: &str,
    file: impl FnOnce() -> Result<Sourced>,
) -> Result<Sourced> {
    match environment.get(variable) {
        Some(text) => Ok(Sourced { key: variable.to_owned(), text: text.clone() }),
        None => file(),
    }
}

fn read_listen(listen: &Sourced) -> Result<SocketAddr> {
    listen.text.parse().map_err(|_| {
        wrong(&listen.key, format!("{:?}", listen.text), "an address and port such as 127.0.0.1:8787")
    })
}

/// Whether a database may be without keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyless {
    /// Its keys are kept in the control database.
    Allowed,
    /// Nobody could use it.
    Refused,
}

fn read_database(node: &Node<'_>, environment: &Environment, keyless: Keyless) -> Result<DatabaseConfig> {
    node.only(&["name", "url", "extension", "api_keys", "jwt", "limits"])?;
    let name = node.text("name")?;
    let name = DatabaseName::new(&name.text).ok_or_else(|| {
        let wanted = "1 to 63 lower-case letters, digits, - and _, beginning with a letter or digit";
        wrong(&name.key, format!("{:?}", name.text), wanted)
    })?;
    let variable = |suffix: &str| format!("{DATABASE_VARIABLE}{}_{suffix}", name.variable());
    let backend = backend::read(node, environment, variable)?;
    let keys_variable = variable("API_KEYS");
    let api_keys = match environment.get(&keys_variable) {
        Some(text) => read_keys_of_variable(&keys_variable, text)?,
        None => node.list("api_keys")?.iter().map(read_key).collect::<Result<Vec<_>>>()?,
    };
    let tokens = TokenConfig::read(node, &variable("JWT_SECRET"), environment)?;
    let place = node.place("api_keys");
    if api_keys.is_empty() && tokens.is_none() && keyless == Keyless::Refused {
        return Err(wrong(&place, "an empty list", "at least one key, or a table jwt"));
    }
    let api_keys =
        ApiKeys::new(api_keys).ok_or_else(|| wrong(&place, "the same key twice", "different keys"))?;
    let limits = LimitsConfig::read(node)?;
    Ok(DatabaseConfig { name, backend, api_keys, tokens, limits })
}

fn read_key(node: &Node<'_>) -> Result<ApiKey> {
    node.only(&["key", "role"])?;
    let key = node.text("key")?;
    let role = node.optional_text("role")?;
    make_key(&key, role.as_ref())
}

fn read_keys_of_variable(variable: &str, text: &str) -> Result<Vec<ApiKey>> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .enumerate()
        .map(|(index, entry)| {
            let place = |text: &str| Sourced { key: format!("{variable}[{index}]"), text: text.to_owned() };
            match entry.split_once(':') {
                Some((key, role)) => make_key(&place(key), Some(&place(role))),
                None => make_key(&place(entry), None),
            }
        })
        .collect()
}

fn make_key(key: &Sourced, role: Option<&Sourced>) -> Result<ApiKey> {
    let role_name = role.map(|role| role.text.as_str());
    ApiKey::new(&key.text, role_name).map_err(|problem| {
        let place = if problem.in_role { role.map_or(&key.key, |role| &role.key) } else { &key.key };
        wrong(place, problem.found, problem.wanted)
    })
}

/// Refuses what is sound for each database but not for all together.
fn check_databases(databases: &[DatabaseConfig], environment: &Environment) -> Result<()> {
    let mut variables = BTreeMap::new();
    for database in databases {
        if let Some(other) = variables.insert(database.name.variable(), &database.name) {
            let found = format!("{:?} beside {:?}", database.name.as_str(), other.as_str());
            return Err(wrong("database.name", found, "names that differ, also with - read as _"));
        }
    }
    for variable in environment.keys() {
        let Some(rest) = variable.strip_prefix(DATABASE_VARIABLE) else { continue };
        const KEYS: [&str; 4] = ["_URL", "_EXTENSION", "_API_KEYS", "_JWT_SECRET"];
        let mut names = KEYS.iter().filter_map(|key| rest.strip_suffix(key));
        if !names.any(|name| variables.contains_key(name)) {
            let wanted = "CLOUDSYNC_DATABASE_<NAME>_URL, _EXTENSION, _API_KEYS or _JWT_SECRET, with a name of the file";
            return Err(wrong(variable, "a variable for no configured key", wanted));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::api_key::PresentedKey;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn file(listen: &str, store: &str, database: &str) -> String {
        format!("listen = {listen}\nstore = {store}\n{database}")
    }

    fn database(name: &str, keys: &str) -> String {
        format!(
            "[[database]]\nname = \"{name}\"\nurl = \"postgres://u:hunter2@127.0.0.1:5432/d\"\napi_keys = {keys}\n"
        )
    }

    fn sound() -> String {
        let keys = format!("[{{ key = \"{KEY}\", role = \"app\" }}]");
        file("\"127.0.0.1:8787\"", "\"file:///var/lib/cloudsync\"", &database("demo", &keys))
    }

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    /// Checks that a configuration is refused, with all these words and without any secret.
    fn check_refused(text: &str, pairs: &[(&str, &str)], words: &[&str]) {
        let error = Config::parse(text, &environment(pairs)).expect_err(text).to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} in {error:?} for\n{text}");
        }
        for secret in ["hunter2", "0123456789", "tooshort"] {
            assert!(!error.contains(secret), "{secret:?} in {error:?}");
        }
    }

    #[test]
    fn a_sound_file_is_read() {
        let config = Config::parse(&sound(), &Environment::new()).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8787");
        assert_eq!(config.databases[0].name.as_str(), "demo");
        let key = config.databases[0].api_keys.find(&PresentedKey::new(KEY)).unwrap();
        assert_eq!(key.role(), Some("app"));
    }

    #[test]
    fn nothing_that_is_printed_holds_a_secret() {
        let config = Config::parse(&sound(), &Environment::new()).unwrap();
        let printed = format!("{config:?}");
        assert!(!printed.contains("hunter2") && !printed.contains(KEY), "{printed}");
    }

    #[test]
    fn the_environment_overrides_each_key() {
        let other = "fedcba9876543210fedcba9876543210";
        let pairs = [
            ("CLOUDSYNC_LISTEN", "127.0.0.1:0"),
            ("CLOUDSYNC_STORE", "file:///elsewhere"),
            ("CLOUDSYNC_DATABASE_DEMO_URL", "postgres://other@db.example/x"),
            ("CLOUDSYNC_DATABASE_DEMO_API_KEYS", &format!("{other}:reader, {other}x")),
        ];
        let config = Config::parse(&sound(), &environment(&pairs)).unwrap();
        assert_eq!(config.listen.port(), 0);
        assert!(matches!(&config.store, StoreLocation::Directory(path) if path == Path::new("/elsewhere")));
        let demo = &config.databases[0];
        let BackendLocation::Postgres(url) = &demo.backend else { panic!("{:?}", demo.backend) };
        assert_eq!(url.config().get_user(), Some("other"));
        assert!(demo.api_keys.find(&PresentedKey::new(KEY)).is_none());
        assert_eq!(demo.api_keys.find(&PresentedKey::new(other)).unwrap().role(), Some("reader"));
        assert_eq!(demo.api_keys.find(&PresentedKey::new(&format!("{other}x"))).unwrap().role(), None);
    }

    #[test]
    fn the_environment_can_give_what_the_file_leaves_out() {
        let pairs = [
            ("CLOUDSYNC_LISTEN", "127.0.0.1:0"),
            ("CLOUDSYNC_STORE", "file:///s"),
            ("CLOUDSYNC_DATABASE_MY_APP_URL", "postgres://u@h/d"),
            ("CLOUDSYNC_DATABASE_MY_APP_API_KEYS", KEY),
        ];
        let config = Config::parse("[[database]]\nname = \"my-app\"\n", &environment(&pairs)).unwrap();
        assert_eq!(config.databases.len(), 1);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key() {
        let keys = format!("[{{ key = \"{KEY}\" }}]");
        let demo = database("demo", &keys);
        let (listen, store) = ("\"127.0.0.1:1\"", "\"file:///s\"");
        check_refused(&file("1", store, &demo), &[], &["listen", "integer", "text"]);
        check_refused(&file("\"there\"", store, &demo), &[], &["listen", "\"there\"", "127.0.0.1:8787"]);
        check_refused(&file(listen, "\"/var\"", &demo), &[], &["store", "file:///"]);
        check_refused(&file(listen, store, ""), &[], &["database", "at least one"]);
        check_refused(&file(listen, store, "database = 1"), &[], &["database", "integer", "list"]);
        check_refused(&file(listen, store, &format!("lissten = 1\n{demo}")), &[], &["lissten", "listen"]);
        check_refused(&file(listen, store, &database("De mo", &keys)), &[], &["database[0].name", "De mo"]);
        check_refused(&file(listen, store, &format!("{demo}{demo}")), &[], &["name", "\"demo\""]);
        check_refused(&sound().replace("127.0.0.1:5432/d", ""), &[], &["database[0].url"]);
        check_refused(&sound().replace("role", "rolle"), &[], &["database[0].api_keys[0].rolle", "role"]);
        check_refused(&sound(), &[("CLOUDSYNC_LISTEN", "x")], &["CLOUDSYNC_LISTEN", "\"x\""]);
        check_refused(&sound(), &[("CLOUDSYNC_DATABASE_DEMMO_URL", "x")], &["CLOUDSYNC_DATABASE_DEMMO_URL"]);
    }

    #[test]
    fn a_sqlite_file_comes_with_its_extension() {
        let file = |url: &str, extension: &str| {
            let url = format!("url = \"{url}\"{extension}");
            sound().replace("url = \"postgres://u:hunter2@127.0.0.1:5432/d\"", &url)
        };
        let extension = "\nextension = \"/lib/cloudsync.so\"";
        let config = Config::parse(&file("sqlite:///var/c.sqlite", extension), &Environment::new()).unwrap();
        let BackendLocation::Sqlite(found) = &config.databases[0].backend else { panic!("{config:?}") };
        assert_eq!(
            (found.file.to_str(), found.extension.to_str()),
            (Some("/var/c.sqlite"), Some("/lib/cloudsync.so"))
        );
        check_refused(
            &file("sqlite:///var/c.sqlite", ""),
            &[],
            &["database[0].extension", "cloudsync library"],
        );
        check_refused(&file("sqlite://c.sqlite", extension), &[], &["database[0].url", "sqlite:///"]);
        check_refused(
            &file("sqlite:///var/c.sqlite", "\nextension = \"c.so\""),
            &[],
            &["[0].extension", "c.so"],
        );
        check_refused(&file("postgres://u@h/d", extension), &[], &["database[0].extension", "sqlite://"]);
    }

    #[test]
    fn a_wrong_key_is_described_but_not_shown() {
        let whole = |keys: &str| file("\"127.0.0.1:1\"", "\"file:///s\"", &database("demo", keys));
        let place = "database[0].api_keys";
        check_refused(&whole("[]"), &[], &[place, "at least one"]);
        check_refused(&whole("[\"tooshort\"]"), &[], &[place, "text", "table"]);
        check_refused(&whole("[{ role = \"app\" }]"), &[], &["database[0].api_keys[0].key", "nothing"]);
        check_refused(&whole("[{ key = \"tooshort\" }]"), &[], &[place, "8 characters", "32"]);
        check_refused(&whole(&format!("[{{ key = \"{KEY} \" }}]")), &[], &[place, "visible"]);
        check_refused(&whole(&format!("[{{ key = \"{KEY}\", role = \"\" }}]")), &[], &["api_keys[0].role"]);
        check_refused(&whole(&format!("[{{ key = \"{KEY}\" }}, {{ key = \"{KEY}\" }}]")), &[], &["twice"]);
        let variable = "CLOUDSYNC_DATABASE_DEMO_API_KEYS";
        check_refused(&sound(), &[(variable, "tooshort")], &[variable, "8 characters"]);
        check_refused(&sound(), &[(variable, "")], &[place, "at least one"]);
    }

    #[test]
    fn broken_toml_is_located_but_not_shown() {
        check_refused("listen = 0123456789 hunter2", &[], &["line 1"]);
        check_refused("listen = \"a\"\nlisten = \"hunter2\"", &[], &["line 2"]);
        check_refused("a = 1\nb = hunter2", &[], &["line 2"]);
        check_refused("a = 1\nb = \"hunter2", &[], &["line 2"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Path::new("/nonexistent/hub.toml"), &Environment::new()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/hub.toml"), "{error}");
    }
}
