//! The control database: databases and keys that come and go while hubs run.
//!
//! Nodes know of each other here too, as what a database may take is for all of them.
//!
//! Owns the tables there and every statement on them. Keys are kept as hashes; a key's text leaves here once, to
//! whoever asked for it to be made. What nodes do about changes is `follow`'s.

pub(crate) mod follow;

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::auth::api_key::ApiKey;
use crate::config::DatabaseName;
use crate::error::{Error, Result};
use crate::postgres::{Pool, PostgresUrl};

/// Longest wait for an answer of the control database.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Key of the lock under which the tables are made: "control" cut to eight bytes, read as a number.
const SETUP_LOCK: i64 = 0x636f_6e74_726f_6c00;

/// One control database.
pub(crate) struct Control {
    url: PostgresUrl,
    pool: Pool,
    ready: OnceCell<()>,
}

/// Everything that the control database holds.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Contents {
    pub(crate) databases: Vec<StoredDatabase>,
    pub(crate) keys: Vec<StoredKey>,
    /// How many nodes there are.
    pub(crate) nodes: u32,
}

/// A database as it is kept.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoredDatabase {
    pub(crate) name: String,
    pub(crate) settings: Map<String, Value>,
}

/// A key as it is kept.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoredKey {
    pub(crate) id: String,
    pub(crate) database: String,
    hash: String,
    pub(crate) role: Option<String>,
    pub(crate) label: String,
    pub(crate) created_at: String,
    pub(crate) expires_at: Option<String>,
    expires_ms: Option<u64>,
}

/// A key that was just made, with the only copy of its text.
pub(crate) struct NewKey {
    pub(crate) id: String,
    pub(crate) text: String,
}

/// What a key is made with.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyWanted {
    pub(crate) role: Option<String>,
    pub(crate) label: String,
    pub(crate) lives: Option<Duration>,
}

impl StoredKey {
    /// The key as it is compared with; none if what is kept is no hash.
    pub(crate) fn api_key(&self) -> Option<ApiKey> {
        let mut hash = [0; 32];
        if self.hash.len() != 64 {
            return None;
        }
        for (byte, place) in hash.iter_mut().zip((0_usize..64).step_by(2)) {
            *byte = u8::from_str_radix(self.hash.get(place..place.checked_add(2)?)?, 16).ok()?;
        }
        let expires = self.expires_ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        Some(ApiKey::stored(hash, self.role.clone(), expires))
    }
}

impl NewKey {
    /// Makes a key of 256 random bits, with its id in front so that people can tell keys apart.
    fn random() -> Result<NewKey> {
        let mut random = [0_u8; 40];
        getrandom::fill(&mut random).map_err(|_| Error::RandomBytes)?;
        let hex = crate::hex::encode(&random);
        let (id, secret) = hex.split_at(16);
        Ok(NewKey { id: id.to_owned(), text: format!("cs_{id}_{secret}") })
    }

    fn hash(&self) -> Vec<u8> {
        ApiKey::new(&self.text, None).expect("a new key keeps the rules of keys").hash().to_vec()
    }
}

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Control {
    /// Makes what speaks to the control database; it is reached when it is needed.
    pub(crate) fn new(url: &PostgresUrl) -> Result<Control> {
        Ok(Control { url: url.clone(), pool: Pool::new(url)?, ready: OnceCell::new() })
    }

    async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        let lease = self.pool.lease().await?;
        self.ready.get_or_try_init(|| set_up(lease.client())).await?;
        let answer = tokio::time::timeout(ANSWER_MAX, lease.client().query_typed(sql, parameters)).await;
        let rows = match answer {
            Ok(rows) => rows.map_err(Error::Postgres),
            Err(_elapsed) => {
                Err(Error::Unavailable { reason: "control database did not answer in time".to_owned() })
            }
        };
        match &rows {
            Ok(_) => lease.give_back(),
            Err(_) => self.pool.forget_idle(),
        }
        rows
    }

    /// Everything that is there.
    pub(crate) async fn read(&self) -> Result<Contents> {
        let rows = self.ask(include_str!("../../../sql/hub/control_read.sql"), &[]).await?;
        let text: &str = rows.first().map(|row| row.get(0)).ok_or(Error::ControlAnswer)?;
        serde_json::from_str(text).map_err(|_| Error::ControlAnswer)
    }

    /// Says that a node is there; those that have been silent for so long are forgotten.
    pub(crate) async fn see(&self, node: &str, silence_max: Duration) -> Result<()> {
        let sql = include_str!("../../../sql/hub/control_seen.sql");
        self.ask(sql, &[(&node, Type::TEXT), (&silence_max.as_secs_f64(), Type::FLOAT8)]).await?;
        Ok(())
    }

    /// Says that a node is there no more.
    pub(crate) async fn leave(&self, node: &str) -> Result<()> {
        let sql = "delete from cloudsync_control.nodes where node = $1";
        self.ask(sql, &[(&node, Type::TEXT)]).await?;
        Ok(())
    }

    /// Keeps a new database; false if there is one of its name.
    pub(crate) async fn create_database(&self, name: &DatabaseName, settings: &Value) -> Result<bool> {
        let sql = "insert into cloudsync_control.databases (name, settings) values ($1, $2::jsonb) \
                   on conflict do nothing returning 1";
        self.write_database(sql, name, settings).await
    }

    /// Keeps other settings of a database; false if there is none of its name.
    pub(crate) async fn replace_database(&self, name: &DatabaseName, settings: &Value) -> Result<bool> {
        let sql = "update cloudsync_control.databases set settings = $2::jsonb, changed_at = clock_timestamp() \
                   where name = $1 returning 1";
        self.write_database(sql, name, settings).await
    }

    async fn write_database(&self, sql: &str, name: &DatabaseName, settings: &Value) -> Result<bool> {
        let (name, settings) = (name.as_str(), settings.to_string());
        Ok(!self.ask(sql, &[(&name, Type::TEXT), (&settings, Type::TEXT)]).await?.is_empty())
    }

    /// Removes a database with its keys; false if there is none of this name.
    pub(crate) async fn delete_database(&self, name: &DatabaseName) -> Result<bool> {
        let sql = "with gone as (delete from cloudsync_control.databases where name = $1 returning name), \
                   keys as (delete from cloudsync_control.keys where database in (select name from gone)) \
                   select 1 from gone";
        Ok(!self.ask(sql, &[(&name.as_str(), Type::TEXT)]).await?.is_empty())
    }

    /// Makes a key for a database.
    pub(crate) async fn create_key(&self, database: &str, wanted: &KeyWanted) -> Result<NewKey> {
        let key = NewKey::random()?;
        let sql = "insert into cloudsync_control.keys (key_id, database, hash, role, label, expires_at) \
                   values ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))";
        let lives = wanted.lives.map(|lives| lives.as_secs_f64());
        let parameters: [Parameter<'_>; 6] = [
            (&key.id, Type::TEXT),
            (&database, Type::TEXT),
            (&key.hash(), Type::BYTEA),
            (&wanted.role, Type::TEXT),
            (&wanted.label, Type::TEXT),
            (&lives, Type::FLOAT8),
        ];
        self.ask(sql, &parameters).await?;
        Ok(key)
    }

    /// Takes a key away, at once or after a while; false if the database has no such key.
    pub(crate) async fn revoke_key(&self, database: &str, id: &str, grace: Duration) -> Result<bool> {
        let at_once = "delete from cloudsync_control.keys where database = $1 and key_id = $2 returning 1";
        let later = "update cloudsync_control.keys set expires_at = least(expires_at, \
                     clock_timestamp() + make_interval(secs => $3)) \
                     where database = $1 and key_id = $2 returning 1";
        let seconds = grace.as_secs_f64();
        let parameters: [Parameter<'_>; 3] =
            [(&database, Type::TEXT), (&id, Type::TEXT), (&seconds, Type::FLOAT8)];
        let rows = if grace.is_zero() {
            self.ask(at_once, &parameters[..2]).await?
        } else {
            self.ask(later, &parameters).await?
        };
        Ok(!rows.is_empty())
    }
}

/// Makes the tables where they are missing; of several nodes that start at once, one does.
async fn set_up(client: &Client) -> Result<()> {
    client
        .batch_execute(&format!("begin; select pg_catalog.pg_advisory_xact_lock({SETUP_LOCK})"))
        .await
        .map_err(Error::Postgres)?;
    for (table, sql) in [
        ("keys", include_str!("../../../sql/hub/control.sql")),
        ("nodes", include_str!("../../../sql/hub/control_nodes.sql")),
    ] {
        let asked = format!("select pg_catalog.to_regclass('cloudsync_control.{table}') is null");
        let asked = client.simple_query(&asked).await.map_err(Error::Postgres)?;
        let missing = asked.iter().any(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
            _ => false,
        });
        if missing {
            client.batch_execute(sql).await.map_err(Error::Postgres)?;
        }
    }
    client.batch_execute("commit").await.map_err(Error::Postgres)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::api_key::{ApiKeys, PresentedKey};

    #[test]
    fn a_new_key_is_found_by_its_stored_hash() {
        let (new, other) = (NewKey::random().unwrap(), NewKey::random().unwrap());
        let hash = crate::hex::encode(&new.hash());
        let stored = |hash: &str| StoredKey {
            id: new.id.clone(),
            database: "demo".to_owned(),
            hash: hash.to_owned(),
            role: Some("app".to_owned()),
            label: String::new(),
            created_at: String::new(),
            expires_at: None,
            expires_ms: None,
        };
        let keys = ApiKeys::new(vec![stored(&hash).api_key().unwrap()]).unwrap();
        assert_eq!(keys.find(&PresentedKey::new(&new.text)).unwrap().role(), Some("app"));
        assert!(keys.find(&PresentedKey::new(&other.text)).is_none());
        assert!(new.text.starts_with(&format!("cs_{}_", new.id)) && new.text.len() == 84);
        for wrong in ["", "00", &hash[1..], &hash.replace(|_| true, "x")] {
            assert!(stored(wrong).api_key().is_none(), "{wrong}");
        }
    }
}
