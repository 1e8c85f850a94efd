//! The registry of tracked tables and the life of the extension's own tables.

use std::collections::BTreeMap;
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension, params};
use shared_format::payload::TableAlgorithm;
use shared_format::{Hlc, Rules, SiteId, Value, decode_key};

use crate::algorithms;
use crate::capture;
use crate::checks::{self, Skipped};
use crate::error::{Doing, Error, Reading, Result, Untrackable};
use crate::fold;
use crate::log;
use crate::schema;
use crate::settings::{self, Setting, Sites};
use crate::sql::{Unit, fill, join, wall_ms};
use crate::table_settings;
use crate::tracked_table::{RowSql, Shape, TrackedTable, find, log_key_name, metadata_name};

const CATALOG: &str = include_str!("../../sql/sqlite/catalog.sql");

/// Counts the changes of `catalog.sql`: a file of an earlier release, or of one that did not count, gets what it lacks.
const CATALOG_VERSION: i64 = 2;

const METADATA: &str = include_str!("../../sql/sqlite/metadata.sql");

/// One SQLite file seen through the registry: what every part of this crate works on.
pub(crate) struct Replica<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) sites: Sites,
    pub(crate) tables: Vec<Rc<TrackedTable>>,
}

impl<'c> Replica<'c> {
    /// Reads the registry; None when the file has none yet.
    pub(crate) fn load(connection: &'c Connection) -> Result<Option<Self>> {
        if !settings::is_set_up(connection)? {
            return Ok(None);
        }
        let Some(sites) = Sites::load(connection)? else { return Ok(None) };
        let mut tables = Vec::new();
        for registered in registered(connection)? {
            tables.extend(registered.read_columns(connection)?.map(Rc::new));
        }
        Ok(Some(Self { connection, sites, tables }))
    }

    /// Reads the registry after bringing it up to the tables that the file has now.
    pub(crate) fn load_current(connection: &'c Connection) -> Result<Option<Self>> {
        if settings::is_set_up(connection)? {
            let has = settings::integer(connection, Setting::CatalogVersion)?;
            if has.is_none_or(|has| has < CATALOG_VERSION) {
                // The file was made by a release that had fewer tables.
                set_up(connection)?;
            }
        }
        schema::refresh(connection)?;
        Self::load(connection)
    }

    /// The same, of a file that has a registry.
    pub(crate) fn current(connection: &'c Connection) -> Result<Self> {
        Self::load_current(connection)?.ok_or(Error::NothingTracked)
    }

    /// Reads the registry of a file that has one.
    pub(crate) fn open(connection: &'c Connection) -> Result<Self> {
        Self::load(connection)?.ok_or(Error::NothingTracked)
    }

    /// This file's own site.
    pub(crate) fn own(&self) -> SiteId {
        self.sites.own()
    }

    /// Finds a tracked table by its number.
    pub(crate) fn table(&self, id: u32) -> Option<&Rc<TrackedTable>> {
        self.tables.iter().find(|table| table.id == id)
    }

    /// Finds a tracked table by its name.
    pub(crate) fn table_named(&self, name: &str) -> Option<&Rc<TrackedTable>> {
        self.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name))
    }

    /// Wall time as the server would tell it.
    pub(crate) fn corrected_ms(&self) -> Result<i64> {
        Ok(crate::sql::wall_ms(self.connection)?.saturating_add(clock_offset_ms(self.connection)?))
    }
}

/// What has to be added to this device's clock.
pub(crate) fn clock_offset_ms(connection: &Connection) -> Result<i64> {
    Ok(settings::integer(connection, Setting::ClockOffset)?.unwrap_or(0))
}

fn registered(connection: &Connection) -> Result<Vec<TrackedTable>> {
    let sql =
        "select t.id, t.name, t.algorithm, t.incarnation, t.version, t.baseline, e.value, f.value, h.value,
          s.value
        from main.cloudsync_tables as t
        left join main.cloudsync_table_settings as e on e.tbl = t.id and e.col = '' and e.key = 'enabled'
        left join main.cloudsync_table_settings as f on f.tbl = t.id and f.col = '' and f.key = 'filter'
        left join main.cloudsync_table_settings as h on h.tbl = t.id and h.col = '' and h.key = 'horizon'
        left join main.cloudsync_table_settings as s on s.tbl = t.id and s.col = '' and s.key = 'scope'
        order by t.id";
    let is_centre = settings::text(connection, Setting::CentralFile)?.is_some();
    let baseline_hlc = if is_centre { Hlc::BASELINE_CENTRE } else { Hlc::ZERO };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut tables = Vec::new();
    while let Some(row) = rows.next()? {
        let (table, filter, scope): (String, Option<String>, Option<String>) =
            (row.get(1)?, row.get(7)?, row.get(9)?);
        if let Some(reason) = filter.as_deref().and_then(table_settings::why_unusable) {
            return Err(Error::Filter { table, reason });
        }
        if let Some(reason) = scope.as_deref().and_then(table_settings::why_unusable) {
            return Err(Error::Scope { table, reason });
        }
        tables.push(TrackedTable {
            id: row.get(0)?,
            name: table,
            rules: Rules {
                table: TableAlgorithm::from_code(row.get(2)?).reading("registry of tables")?,
                columns: BTreeMap::new(),
            },
            defaults: BTreeMap::new(),
            incarnation: row.get::<_, i64>(3)?.cast_unsigned(),
            version: row.get(4)?,
            baseline: row.get(5)?,
            baseline_hlc,
            enabled: row.get::<_, Option<bool>>(6)?.unwrap_or(true),
            filter,
            scope,
            horizon: Hlc::from_sql(row.get::<_, Option<i64>>(8)?.unwrap_or(0)),
            key: Vec::new(),
            columns: Vec::new(),
            later: Vec::new(),
            sql: RowSql::default(),
        });
    }
    Ok(tables)
}

/// Tracks every table of the user that is not tracked yet, all or none, and returns the file's site.
pub(crate) fn init_all(
    connection: &Connection,
    algorithm: Option<TableAlgorithm>,
    skipped: Skipped,
) -> Result<SiteId> {
    let unit = Unit::begin(connection)?;
    set_up(connection)?;
    // Tables named after a virtual table hold what it keeps, and are not the user's to write.
    let sql = "select s.name from main.sqlite_schema as s
        where s.type = 'table' and s.rootpage > 0 and s.name not glob 'sqlite_*'
          and lower(s.name) not glob 'cloudsync_*' and lower(s.name) not glob '*_cloudsync'
          and not exists (select 1 from main.cloudsync_tables as t where t.name = s.name)
          and not exists (select 1 from main.sqlite_schema as v
            where v.sql like 'create virtual table%'
              and substr(s.name, 1, length(v.name) + 1) = v.name || '_' collate nocase)
        order by s.rowid";
    let names = connection
        .prepare_cached(sql)?
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .doing("list the tables")?;
    for name in names {
        init(connection, &name, algorithm, skipped)?;
    }
    let site = Sites::load(connection)?.ok_or(Error::NothingTracked)?.own();
    unit.commit()?;
    Ok(site)
}

/// Makes the extension's own tables and the file's site, where they are not there yet.
pub(crate) fn set_up(connection: &Connection) -> Result<()> {
    connection.execute_batch(CATALOG).doing("make the extension's tables")?;
    if settings::integer(connection, Setting::Site)?.is_none() {
        Sites::renew(connection)?;
    }
    // A later release may have opened the file before.
    let has = settings::integer(connection, Setting::CatalogVersion)?.unwrap_or(0);
    if has < CATALOG_VERSION {
        settings::store(connection, Setting::CatalogVersion, &Value::Integer(CATALOG_VERSION))?;
    }
    Ok(())
}

/// Tracks a table, or takes its columns and indexes in anew, and returns the file's site.
pub(crate) fn init(
    connection: &Connection,
    table: &str,
    algorithm: Option<TableAlgorithm>,
    skipped: Skipped,
) -> Result<SiteId> {
    let unit = Unit::begin(connection)?;
    set_up(connection)?;
    schema::refresh(connection)?;
    let shape = Shape::read(connection, table)?;
    let is_new = register(connection, &shape, algorithm.unwrap_or_default())?;
    let id = connection.query_row(
        "select id from main.cloudsync_tables where name = ?1",
        [&shape.name],
        |row| row.get(0),
    )?;
    schema::number_columns(connection, id, &shape, !is_new)?;
    if is_new {
        checks::check_new(connection, &shape, skipped)?;
    } else {
        checks::check_changed(connection, &shape, skipped)?;
    }
    capture::widen_log(connection, shape.key.len())?;
    if let Some(algorithm) = algorithm.filter(|_| !is_new) {
        algorithms::set_table(connection, &shape.name, algorithm.name())?;
    }
    let tracked = Replica::open(connection)?;
    let table = tracked.table_named(&shape.name).ok_or(Error::NothingTracked)?;
    if is_new {
        make_metadata(connection, table)?;
        begin_baseline(connection, table)?;
    }
    capture::install(connection, table, &shape.uniques)?;
    schema::fetch_what_was_skipped(connection)?;
    schema::seen(connection)?;
    let site = tracked.own();
    unit.commit()?;
    Ok(site)
}

/// Puts a table into the registry; says whether it was not there.
fn register(connection: &Connection, shape: &Shape, algorithm: TableAlgorithm) -> Result<bool> {
    let sql = "select 1 from main.cloudsync_tables where name = ?1";
    let known = connection.query_row(sql, [&shape.name], |_row| Ok(())).optional()?;
    if known.is_some() {
        return Ok(false);
    }
    let metadata = metadata_name(&shape.name);
    if find(connection, &metadata)?.is_some() {
        let reason = Untrackable::NameTaken { name: metadata };
        return Err(Error::Untrackable { table: shape.name.clone(), reason });
    }
    let mut incarnation = [0; 8];
    getrandom::fill(&mut incarnation).map_err(|_no_source| Error::Random)?;
    let sql = "insert into main.cloudsync_tables (name, algorithm, incarnation, version)
        values (?1, ?2, ?3, 0)";
    let row = params![shape.name, algorithm.code(), i64::from_le_bytes(incarnation)];
    connection.execute(sql, row).doing("register the table")?;
    Ok(true)
}

fn make_metadata(connection: &Connection, table: &TrackedTable) -> Result<()> {
    let definitions = join(&table.key, ",\n  ", |at, column| {
        format!("{} {} not null", log_key_name(at), column.affinity().type_name())
    });
    let parts = [
        ("metadata", crate::sql::quote(&metadata_name(&table.name))),
        ("key_definitions", definitions),
        ("log_key", table.log_key("")),
    ];
    let parts: Vec<(&str, &str)> = parts.iter().map(|(name, part)| (*name, part.as_str())).collect();
    connection.execute_batch(&fill(METADATA, &parts)).doing("make the metadata table")
}

/// Begins the metadata of a table anew: it has another primary key, so its rows have other names.
pub(crate) fn reset_table(connection: &Connection, table: &TrackedTable) -> Result<()> {
    connection
        .execute_batch(&format!("drop table main.{}", crate::sql::quote(&metadata_name(&table.name))))?;
    forget_rows(connection, table.id, &table.name)?;
    capture::widen_log(connection, table.key.len())?;
    make_metadata(connection, table)?;
    let sql = "update main.cloudsync_tables set baseline = null, baseline_after = null where id = ?1";
    connection.execute(sql, [table.id])?;
    begin_baseline(connection, table)
}

/// Takes the rows of a table out of everything that names them by key.
fn forget_rows(connection: &Connection, id: u32, name: &str) -> Result<()> {
    let newest = log::newest(connection)?.get();
    let sql = "update main.cloudsync_log set tbl = null, cols = ?2 where tbl = ?1 and seq = ?3";
    connection.execute(sql, params![id, log::MARK, newest])?;
    connection.execute("delete from main.cloudsync_log where tbl = ?1", [id])?;
    connection.execute("delete from main.cloudsync_parked where tbl = ?1", [id])?;
    connection.execute("delete from main.cloudsync_rejected where tbl = ?1", [name])?;
    Ok(())
}

/// Writes the entry that stands for all rows of a filled table. They get no metadata: see DESIGN section 4.
fn begin_baseline(connection: &Connection, table: &TrackedTable) -> Result<()> {
    let sql = format!("select exists (select 1 from {})", table.quoted());
    if !connection.query_row(&sql, [], |row| row.get(0))? {
        return Ok(());
    }
    let baseline = log::append_baseline(connection, table.id)?;
    let sql = "update main.cloudsync_tables set baseline = ?2 where id = ?1";
    connection.execute(sql, params![table.id, baseline.get()])?;
    Ok(())
}

/// Makes the rows that were there before a table was tracked unsent again, unless the server has them: their entry
/// lies behind its number.
pub(crate) fn send_baseline_after(
    connection: &Connection,
    table: &TrackedTable,
    acked: log::DbVersion,
) -> Result<()> {
    if table.baseline.is_none_or(|baseline| baseline <= acked.get()) {
        return Ok(());
    }
    let sql = "select exists (select 1 from main.cloudsync_log where tbl = ?1 and cols = ?2)";
    let is_unsent: bool = connection.query_row(sql, params![table.id, log::BASELINE], |row| row.get(0))?;
    if is_unsent { Ok(()) } else { begin_baseline(connection, table) }
}

/// The row key up to which baseline rows were put into uploads.
pub(crate) fn baseline_after(connection: &Connection, table: u32) -> Result<Option<Vec<Value>>> {
    let sql = "select baseline_after from main.cloudsync_tables where id = ?1";
    let key: Option<Vec<u8>> = connection.prepare_cached(sql)?.query_row([table], |row| row.get(0))?;
    key.map(|key| decode_key(&key).reading("place in the baseline")).transpose()
}

/// Stops tracking every table.
pub(crate) fn cleanup_all(connection: &Connection) -> Result<()> {
    if !settings::is_set_up(connection)? {
        return Ok(());
    }
    let unit = Unit::begin(connection)?;
    for table in registered(connection)? {
        cleanup(connection, &table.name)?;
    }
    unit.commit()
}

/// Stops tracking a table: its triggers, metadata and log entries go, the user's rows stay.
pub(crate) fn cleanup(connection: &Connection, table: &str) -> Result<()> {
    if !settings::is_set_up(connection)? {
        return Ok(());
    }
    let unit = Unit::begin(connection)?;
    schema::refresh(connection)?;
    if let Some(mut replica) = Replica::load(connection)? {
        fold::fold(&mut replica)?;
    }
    let sql = "select id, name from main.cloudsync_tables where name = ?1";
    let found = connection
        .query_row(sql, [table], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    if let Some((id, name)) = found {
        capture::remove(connection, &name)?;
        let metadata = crate::sql::quote(&metadata_name(&name));
        connection.execute_batch(&format!("drop table if exists main.{metadata}"))?;
        forget_rows(connection, id, &name)?;
        connection.execute("delete from main.cloudsync_gaps where tbl = ?1", [id])?;
        connection.execute("delete from main.cloudsync_evictions where tbl = ?1", [id])?;
        connection.execute("delete from main.cloudsync_dead where tbl = ?1", [id])?;
        connection.execute("delete from main.cloudsync_guards where tbl = ?1", [id])?;
        connection.execute("delete from main.cloudsync_columns where tbl = ?1", [id])?;
        connection.execute("delete from main.cloudsync_held where tbl = ?1", [id])?;
        connection.execute("delete from main.cloudsync_table_settings where tbl = ?1", [id])?;
        if settings::text(connection, Setting::CentralFile)?.is_some() {
            connection.execute("delete from main.cloudsync_row_scopes where tbl = ?1", [id])?;
        }
        connection.execute("delete from main.cloudsync_tables where id = ?1", [id])?;
        note_passed_over(connection, &name)?;
        schema::seen(connection)?;
    }
    unit.commit()
}

/// What the server has of a table that is tracked no more is behind this file's place. Noted as passed over, it is
/// fetched when the table is tracked again.
fn note_passed_over(connection: &Connection, name: &str) -> Result<()> {
    if settings::text(connection, Setting::Cursor)?.is_none() {
        return Ok(());
    }
    let sql = "insert into main.cloudsync_skipped (tbl, col, reason, at_ms)
        values (?1, '', 'no such tracked table here', ?2) on conflict (tbl, col) do nothing";
    connection.execute(sql, params![name, wall_ms(connection)?]).doing("note what is passed over")?;
    Ok(())
}
