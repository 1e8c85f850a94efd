//! When the jobs of a central file are due: kept in its settings, so that a copy of the file knows it too.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params};

use crate::error::{Error, Result};

/// What the names of such settings begin with; milliseconds since 1970 stand in them.
const PREFIX: &str = "job_due.";

/// Reads what is kept, by the kinds of the jobs. What is no time there is taken for long ago.
pub(super) fn read(connection: &Connection) -> Result<BTreeMap<String, SystemTime>> {
    let sql = "select substr(key, length(?1) + 1), cast(value as integer) from main.cloudsync_settings
        where key glob ?1 || '*'";
    let read = || {
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map([PREFIX], |row| Ok((row.get(0)?, time(row.get(1)?))))?;
        rows.collect::<rusqlite::Result<_>>()
    };
    read().map_err(|source| Error::Sqlite { action: "read when jobs are due", source })
}

/// Keeps when a job is due.
pub(super) fn keep(connection: &Connection, kind: &str, at: SystemTime) -> Result<()> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let sql = "insert into main.cloudsync_settings (key, value) values (?1 || ?2, ?3)
        on conflict (key) do update set value = excluded.value";
    let kept = connection.prepare_cached(sql).and_then(|mut sql| sql.execute(params![PREFIX, kind, at_ms]));
    kept.map(drop).map_err(|source| Error::Sqlite { action: "keep when a job is due", source })
}

fn time(ms: Option<i64>) -> SystemTime {
    let since = Duration::from_millis(ms.unwrap_or(0).max(0).unsigned_abs());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_were_kept() {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "create table cloudsync_settings (key text primary key, value any);
            insert into cloudsync_settings values ('site', 1), ('job_due.odd', 'what'), ('job_due.none', null)";
        connection.execute_batch(sql).unwrap();
        let at = UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
        for kept in [UNIX_EPOCH, at] {
            keep(&connection, "tombstones", kept).unwrap();
        }
        let wanted = [("none", UNIX_EPOCH), ("odd", UNIX_EPOCH), ("tombstones", at)];
        let wanted: BTreeMap<_, _> = wanted.map(|(kind, at)| (kind.to_owned(), at)).into();
        assert_eq!(read(&connection).unwrap(), wanted);
    }
}
