//! The command line, read by hand: a few commands, each with a few options.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// What the hub tells about itself when asked.
pub const USAGE: &str = "\
usage: hub serve --config <hub.toml>
       hub check --config <hub.toml>                    says what is wrong, and how to mend it
       hub status --config <hub.toml>                   databases, slots, jobs, what the store holds
       hub verify --config <hub.toml> --database <name> compares what clients get with the database
       hub key create --config <hub.toml> --database <name> [--role <role>] [--label <text>] [--expires-in-s <seconds>]
       hub key list --config <hub.toml> --database <name>
       hub key revoke --config <hub.toml> --database <name> --key <id>
       hub openapi                                      prints the description of every request
       hub --version
       hub --help

environment:
  CLOUDSYNC_LISTEN, CLOUDSYNC_STORE                    override `listen` and `store` of the file
  CLOUDSYNC_CONTROL, CLOUDSYNC_ADMIN_KEYS              override `control` and `admin_keys`, by commas
  CLOUDSYNC_DATABASE_<NAME>_URL                        overrides `url` of a database; - in its name is _ here
  CLOUDSYNC_DATABASE_<NAME>_API_KEYS                   overrides its `api_keys`: key or key:role, by commas
  CLOUDSYNC_DATABASE_<NAME>_JWT_SECRET                 overrides `secret` of its `jwt`
  CLOUDSYNC_MONITORING_KEY                             overrides `monitoring_key`
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY             credentials of a store in S3
  AWS_SESSION_TOKEN, AWS_REGION
  CLOUDSYNC_LOG                                        which events are logged; default info
  CLOUDSYNC_LOG_FORMAT                                 text or json; default text
";

/// What the hub is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve, with this configuration file.
    Serve {
        /// The file.
        config: PathBuf,
    },
    /// Say what is wrong with a configuration and what it names.
    Check {
        /// The file.
        config: PathBuf,
    },
    /// Say how the databases are.
    Status {
        /// The file.
        config: PathBuf,
    },
    /// Compare what clients get with the database.
    Verify {
        /// The file.
        config: PathBuf,
        /// The database.
        database: String,
    },
    /// Make, list or revoke keys.
    Key {
        /// The file.
        config: PathBuf,
        /// The database.
        database: String,
        /// What to do.
        action: KeyAction,
    },
    /// Print the description of every request.
    OpenApi,
    /// Say which release this is.
    Version,
    /// Say how to call it.
    Help,
}

/// What to do with keys.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyAction {
    /// Make one.
    Create {
        /// The database role that it stands for.
        role: Option<String>,
        /// What people call it.
        label: String,
        /// How long it opens.
        lives: Option<Duration>,
    },
    /// List them.
    List,
    /// Revoke one.
    Revoke {
        /// Its id.
        key: String,
    },
}

/// Reads the arguments after the program's name.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut arguments = arguments.into_iter();
    let wanted = "serve, check, status, verify, key, openapi, --version or --help";
    let first = arguments.next();
    let command = match first.as_ref().and_then(|first| first.to_str()) {
        Some("--version" | "-V") => no_options(arguments, Command::Version),
        Some("--help" | "-h") => no_options(arguments, Command::Help),
        Some("openapi") => no_options(arguments, Command::OpenApi),
        Some("serve") => Options::read(arguments, &["config"])
            .and_then(|mut found| Ok(Command::Serve { config: found.config()? })),
        Some("check") => Options::read(arguments, &["config"])
            .and_then(|mut found| Ok(Command::Check { config: found.config()? })),
        Some("status") => Options::read(arguments, &["config"])
            .and_then(|mut found| Ok(Command::Status { config: found.config()? })),
        Some("verify") => Options::read(arguments, &["config", "database"]).and_then(|mut found| {
            Ok(Command::Verify { config: found.config()?, database: found.text("database")? })
        }),
        Some("key") => read_key(arguments),
        Some(_) | None => return Err(wrong(first, wanted)),
    }?;
    Ok(command)
}

fn no_options(mut arguments: impl Iterator<Item = OsString>, command: Command) -> Result<Command> {
    match arguments.next() {
        Some(rest) => Err(wrong(Some(rest), "nothing more")),
        None => Ok(command),
    }
}

fn read_key(mut arguments: impl Iterator<Item = OsString>) -> Result<Command> {
    let first = arguments.next();
    let (action, mut found) = match first.as_ref().and_then(|first| first.to_str()) {
        Some("create") => {
            let known = ["config", "database", "role", "label", "expires-in-s"];
            let mut found = Options::read(arguments, &known)?;
            let role = found.optional_text("role")?;
            let label = found.optional_text("label")?.unwrap_or_default();
            (KeyAction::Create { role, label, lives: found.seconds("expires-in-s")? }, found)
        }
        Some("list") => (KeyAction::List, Options::read(arguments, &["config", "database"])?),
        Some("revoke") => {
            let mut found = Options::read(arguments, &["config", "database", "key"])?;
            (KeyAction::Revoke { key: found.text("key")? }, found)
        }
        Some(_) | None => return Err(wrong(first, "create, list or revoke")),
    };
    Ok(Command::Key { config: found.config()?, database: found.text("database")?, action })
}

/// Options of the form `--name value` or `--name=value`.
struct Options(BTreeMap<&'static str, OsString>);

impl Options {
    fn read(arguments: impl Iterator<Item = OsString>, known: &[&'static str]) -> Result<Options> {
        let mut arguments = arguments;
        let mut found = BTreeMap::new();
        while let Some(argument) = arguments.next() {
            let option = argument.to_str().and_then(|text| text.strip_prefix("--"));
            let (name, value) = match option.map(|option| option.split_once('=').unwrap_or((option, ""))) {
                Some((name, value)) => {
                    (name, option.is_some_and(|option| option.contains('=')).then(|| value.into()))
                }
                None => return Err(wrong(Some(argument), "an option such as --config")),
            };
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(wrong(Some(argument), "an option that the command takes"));
            };
            let value = value.or_else(|| arguments.next()).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| wrong(Some(argument.clone()), "a value behind it"))?;
            if found.insert(*name, value).is_some() {
                return Err(wrong(Some(argument), "it once"));
            }
        }
        Ok(Options(found))
    }

    fn config(&mut self) -> Result<PathBuf> {
        self.0.remove("config").map(PathBuf::from).ok_or_else(|| wrong(None, "--config <file>"))
    }

    fn optional_text(&mut self, name: &'static str) -> Result<Option<String>> {
        let read = |value: OsString| value.into_string().map_err(|value| wrong(Some(value), "UTF-8"));
        self.0.remove(name).map(read).transpose()
    }

    fn text(&mut self, name: &'static str) -> Result<String> {
        let wanted = if name == "key" { "--key <id>" } else { "--database <name>" };
        self.optional_text(name)?.ok_or_else(|| wrong(None, wanted))
    }

    fn seconds(&mut self, name: &'static str) -> Result<Option<Duration>> {
        let read = |text: String| match text.parse::<u64>() {
            Ok(seconds) if (1..=3_153_600_000).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            Ok(_) | Err(_) => Err(wrong(Some(text.into()), "1 to 3153600000 seconds")),
        };
        self.optional_text(name)?.map(read).transpose()
    }
}

fn wrong(found: Option<OsString>, wanted: &'static str) -> Error {
    let found = found.map(|found| found.to_string_lossy().into_owned()).unwrap_or_default();
    Error::Argument { found, wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, wanted: Option<Command>) {
        let arguments = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from);
        assert_eq!(read(arguments).ok(), wanted, "{line}");
    }

    fn key(action: KeyAction) -> Option<Command> {
        Some(Command::Key { config: PathBuf::from("hub.toml"), database: "demo".to_owned(), action })
    }

    #[test]
    fn a_sound_line_is_read() {
        let config = || PathBuf::from("hub.toml");
        check("serve --config hub.toml", Some(Command::Serve { config: config() }));
        check("serve --config=hub.toml", Some(Command::Serve { config: config() }));
        check("check --config hub.toml", Some(Command::Check { config: config() }));
        check("status --config hub.toml", Some(Command::Status { config: config() }));
        let database = "demo".to_owned();
        let verify = Command::Verify { config: config(), database };
        check("verify --database demo --config hub.toml", Some(verify));
        check("key list --config hub.toml --database demo", key(KeyAction::List));
        let revoke = KeyAction::Revoke { key: "ab".to_owned() };
        check("key revoke --config hub.toml --database demo --key ab", key(revoke));
        check(
            "key create --config hub.toml --database demo --role app --label a=b --expires-in-s=60",
            key(KeyAction::Create {
                role: Some("app".to_owned()),
                label: "a=b".to_owned(),
                lives: Some(Duration::from_secs(60)),
            }),
        );
        check("openapi", Some(Command::OpenApi));
        check("--version", Some(Command::Version));
        check("--help", Some(Command::Help));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "",
            "run",
            "serve",
            "serve hub.toml",
            "serve --config",
            "serve --config=",
            "serve --config a b",
            "serve --config a --config b",
            "serve --config a --database b",
            "--version x",
            "openapi x",
            "key",
            "key make --config a --database b",
            "key create --config a",
            "key revoke --config a --database b",
            "key create --config a --database b --expires-in-s 0",
            "verify --config a",
            "check --config a --database b",
        ] {
            check(line, None);
        }
    }
}
