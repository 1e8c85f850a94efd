//! The command line, read by hand: there is one command with one option.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// What the hub tells about itself when asked.
pub const USAGE: &str = "\
usage: hub serve --config <hub.toml>
       hub --version
       hub --help

environment:
  CLOUDSYNC_LISTEN, CLOUDSYNC_STORE                    override `listen` and `store` of the file
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
    /// Say which release this is.
    Version,
    /// Say how to call it.
    Help,
}

/// Reads the arguments after the program's name.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut arguments = arguments.into_iter();
    let wanted = "serve --config <file>, --version or --help";
    let command = match arguments.next() {
        Some(first) => match first.to_str() {
            Some("--version" | "-V") => Command::Version,
            Some("--help" | "-h") => Command::Help,
            Some("serve") => Command::Serve { config: read_config(&mut arguments)? },
            Some(_) | None => return Err(wrong(Some(first), wanted)),
        },
        None => return Err(wrong(None, wanted)),
    };
    match arguments.next() {
        Some(rest) => Err(wrong(Some(rest), "nothing more")),
        None => Ok(command),
    }
}

fn read_config(arguments: &mut impl Iterator<Item = OsString>) -> Result<PathBuf> {
    let option = arguments.next();
    if let Some(path) = option.as_ref().and_then(|option| option.to_str()?.strip_prefix("--config=")) {
        return if path.is_empty() { Err(wrong(option, "a path")) } else { Ok(PathBuf::from(path)) };
    }
    if option.as_ref().is_none_or(|option| option != "--config") {
        return Err(wrong(option, "--config <file>"));
    }
    match arguments.next() {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        other => Err(wrong(other, "a path after --config")),
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

    #[test]
    fn a_sound_line_is_read() {
        let serve = || Some(Command::Serve { config: PathBuf::from("hub.toml") });
        check("serve --config hub.toml", serve());
        check("serve --config=hub.toml", serve());
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
            "--version x",
        ] {
            check(line, None);
        }
    }
}
