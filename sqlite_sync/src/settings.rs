//! What a file remembers beside rows: its own site, the site dictionary, marks, the place at the server.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use shared_format::{SiteId, Stamp, Value};

use crate::error::{Doing, Error, Reading, Result};
use crate::sql::{Bind, column};

/// Keys of `cloudsync_settings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Which tables of the extension the file has: see [`crate::catalog`].
    CatalogVersion,
    /// Ordinal of this file's own site.
    Site,
    /// Up to where the capture log is in the metadata.
    Folded,
    /// Up to where the server has answered for.
    Acknowledged,
    /// Up to where the server keeps what was sent, without an answer yet: its database is away.
    Stored,
    /// Server time minus device time, in milliseconds.
    ClockOffset,
    /// The newest token that the server gave this site.
    Token,
    /// The place in the server's stream, opaque.
    Cursor,
    /// The greatest number of a rejection that was stored.
    RejectedSeen,
    /// SQLite's number of the file's schema when tables and triggers were last looked at.
    SchemaSeen,
    /// Whether the server's rows have to be fetched anew, because some of them were passed over.
    Refetch,
    /// The tables that have to be fetched anew, by the server's numbers with dots between them.
    Reload,
    /// The place in the snapshot of those tables.
    ReloadCursor,
    /// How many conflicts were dropped because they were too old or too many.
    ConflictsExpired,
    /// Whether a snapshot is being taken that may make rows go.
    Rebase,
    /// What a sync that is on its way does; NULL when there is none.
    ProgressStage,
    /// Rows that it applied.
    ProgressRows,
    /// Answers that it received.
    ProgressChunks,
    /// Their bytes.
    ProgressBytes,
    /// Whether the server forgot deletions that this file has not received: what a snapshot lacks was deleted.
    Expired,
    /// How many parked cells of other sites were dropped at a horizon.
    ParkedCollected,
    /// Of a file that is the centre of others, its name.
    CentralFile,
    /// How often a hub began to serve it.
    CentralFence,
    /// How often it was found to lack what sites were told that it has.
    CentralGeneration,
    /// Names the newest time that such a file was set back on purpose.
    CentralRestored,
    /// Its generation.
    CentralRestoredAs,
    /// The row of its feed from which on some tables have other readers.
    CentralReload,
    /// Of such a file, the number of the schema whose definitions were passed on last.
    CentralSchema,
}

impl Setting {
    const fn key(self) -> &'static str {
        match self {
            Self::CatalogVersion => "catalog_version",
            Self::Site => "site",
            Self::Folded => "folded",
            Self::Acknowledged => "acknowledged",
            Self::Stored => "stored",
            Self::ClockOffset => "clock_offset_ms",
            Self::Token => "token",
            Self::Cursor => "cursor",
            Self::RejectedSeen => "rejected_seen",
            Self::SchemaSeen => "schema_seen",
            Self::Refetch => "refetch",
            Self::Reload => "reload",
            Self::ReloadCursor => "reload_cursor",
            Self::ConflictsExpired => "conflicts_expired",
            Self::Rebase => "rebase",
            Self::ProgressStage => "progress_stage",
            Self::ProgressRows => "progress_rows",
            Self::ProgressChunks => "progress_chunks",
            Self::ProgressBytes => "progress_bytes",
            Self::Expired => "expired",
            Self::ParkedCollected => "parked_collected",
            Self::CentralFile => "central_file",
            Self::CentralFence => "central_fence",
            Self::CentralGeneration => "central_generation",
            Self::CentralRestored => "central_restored",
            Self::CentralRestoredAs => "central_restored_as",
            Self::CentralReload => "central_reload",
            Self::CentralSchema => "central_schema",
        }
    }
}

fn read(connection: &Connection, setting: Setting) -> Result<Option<Value>> {
    let sql = "select value from main.cloudsync_settings where key = ?1";
    let mut statement = connection.prepare_cached(sql).doing("read a setting")?;
    let mut rows = statement.query([setting.key()])?;
    match rows.next()? {
        Some(row) => Ok(Some(column(row, 0)?.to_owned_value())),
        None => Ok(None),
    }
}

/// Reads a number; None when it was never set.
pub(crate) fn integer(connection: &Connection, setting: Setting) -> Result<Option<i64>> {
    match read(connection, setting)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Integer(number)) => Ok(Some(number)),
        Some(_other) => Err(wrong(setting, "a number")),
    }
}

/// Reads a text; None when it was never set.
pub(crate) fn text(connection: &Connection, setting: Setting) -> Result<Option<String>> {
    match read(connection, setting)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_other) => Err(wrong(setting, "text")),
    }
}

fn wrong(setting: Setting, wanted: &'static str) -> Error {
    Error::Stored { what: setting.key(), found: String::from("another type"), wanted }
}

/// Writes a setting.
pub(crate) fn store(connection: &Connection, setting: Setting, value: &Value) -> Result<()> {
    let sql = "insert into main.cloudsync_settings (key, value) values (?1, ?2)
        on conflict (key) do update set value = excluded.value";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![setting.key(), Bind(value.as_ref())]).doing("write a setting")?;
    Ok(())
}

/// The site dictionary: metadata names a site by its ordinal. Ordinal 0 is the site that does not exist.
#[derive(Debug)]
pub(crate) struct Sites {
    by_ordinal: HashMap<u32, SiteId>,
    by_site: HashMap<SiteId, u32>,
    own: u32,
}

impl Sites {
    /// Reads the dictionary; None when the file has no site yet.
    pub(crate) fn load(connection: &Connection) -> Result<Option<Self>> {
        let Some(own) = integer(connection, Setting::Site)? else { return Ok(None) };
        let own = u32::try_from(own).map_err(|_| wrong(Setting::Site, "an ordinal"))?;
        let mut sites = Self { by_ordinal: HashMap::new(), by_site: HashMap::new(), own };
        sites.note(0, SiteId::ZERO);
        let mut statement = connection.prepare_cached("select ordinal, site from main.cloudsync_sites")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let site: Vec<u8> = row.get(1)?;
            sites.note(row.get(0)?, SiteId::try_from(site.as_slice()).reading("site dictionary")?);
        }
        Ok(Some(sites))
    }

    fn note(&mut self, ordinal: u32, site: SiteId) {
        self.by_ordinal.insert(ordinal, site);
        self.by_site.insert(site, ordinal);
    }

    /// This file's own site.
    pub(crate) fn own(&self) -> SiteId {
        self.by_ordinal.get(&self.own).copied().unwrap_or(SiteId::ZERO)
    }

    /// The ordinal of this file's own site.
    pub(crate) const fn own_ordinal(&self) -> u32 {
        self.own
    }

    pub(crate) fn site(&self, ordinal: u32) -> Result<SiteId> {
        self.by_ordinal.get(&ordinal).copied().ok_or_else(|| Error::Stored {
            what: "site ordinal",
            found: ordinal.to_string(),
            wanted: "one of the dictionary",
        })
    }

    /// Finds the ordinal of a site, adding it when it is new.
    pub(crate) fn ordinal(&mut self, connection: &Connection, site: SiteId) -> Result<u32> {
        if let Some(ordinal) = self.by_site.get(&site) {
            return Ok(*ordinal);
        }
        let sql = "insert into main.cloudsync_sites (site) values (?1) returning ordinal";
        let bytes = site.as_bytes().as_slice();
        let ordinal = connection.prepare_cached(sql)?.query_row([bytes], |row| row.get(0))?;
        self.note(ordinal, site);
        Ok(ordinal)
    }

    /// Gives the file a new site of its own; the former one stays in the dictionary.
    pub(crate) fn renew(connection: &Connection) -> Result<()> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_no_source| Error::Random)?;
        let sql = "insert into main.cloudsync_sites (site) values (?1) returning ordinal";
        let ordinal: i64 = connection.prepare_cached(sql)?.query_row([bytes.as_slice()], |row| row.get(0))?;
        store(connection, Setting::Site, &Value::Integer(ordinal))
    }

    pub(crate) fn stamp(&self, hlc: shared_format::Hlc, ordinal: u32) -> Result<Stamp> {
        Ok(Stamp { hlc, site: self.site(ordinal)? })
    }
}

/// Whether the file has the extension's tables.
pub(crate) fn is_set_up(connection: &Connection) -> Result<bool> {
    let sql = "select 1 from main.sqlite_schema where type = 'table' and name = 'cloudsync_settings'";
    let found = connection.prepare_cached(sql)?.query_row([], |_row| Ok(())).optional();
    Ok(found.doing("look for the extension's tables")?.is_some())
}
