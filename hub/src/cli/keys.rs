//! `hub key`: keys in the control database, which every hub that runs hears of.

use std::fmt::Write;
use std::time::Duration;

use crate::arguments::KeyAction;
use crate::auth::api_key::role_problem;
use crate::config::Config;
use crate::control::{Control, KeyWanted};
use crate::error::{Error, Result};

pub(super) async fn run(config: &Config, database: &str, action: KeyAction) -> Result<String> {
    let Some(url) = &config.control.url else {
        let missing = |found: &str| Error::ConfigValue {
            key: "control".to_owned(),
            found: found.to_owned(),
            wanted:
                "the connection string of a control database; without one, keys are `api_keys` of the file"
                    .to_owned(),
        };
        return Err(missing("nothing"));
    };
    let control = Control::new(url)?;
    let contents = control.read().await?;
    let is_known = config.databases.iter().any(|known| known.name.as_str() == database)
        || contents.databases.iter().any(|known| known.name == database);
    if !is_known {
        return Err(Error::Argument {
            found: database.to_owned(),
            wanted: "a database of the file or of the control database",
        });
    }
    let mut told = String::new();
    match action {
        KeyAction::Create { role, label, lives } => {
            if role.as_deref().and_then(role_problem).is_some() {
                let found = role.unwrap_or_default();
                return Err(Error::Argument { found, wanted: "a role's name of 1 to 63 bytes without NUL" });
            }
            let key = control.create_key(database, &KeyWanted { role, label, lives }).await?;
            // The text alone on the first line, so that a script can take it.
            told.push_str(&key.text);
            told.push_str("\nkept as ");
            told.push_str(&key.id);
            told.push_str("; the key itself is not shown again\n");
        }
        KeyAction::List => {
            told.push_str("id\trole\tcreated\texpires\tlabel\n");
            for key in contents.keys.iter().filter(|key| key.database == database) {
                let (role, expires) = (key.role.as_deref(), key.expires_at.as_deref());
                let (role, expires) = (role.unwrap_or("-"), expires.unwrap_or("never"));
                // Writing to a text cannot fail.
                let _written =
                    writeln!(told, "{}\t{role}\t{}\t{expires}\t{}", key.id, key.created_at, key.label);
            }
        }
        KeyAction::Revoke { key } => {
            if !control.revoke_key(database, &key, Duration::ZERO).await? {
                return Err(Error::Argument {
                    found: key,
                    wanted: "the id of a key, as `hub key list` shows it",
                });
            }
            told.push_str("revoked\n");
        }
    }
    Ok(told)
}
