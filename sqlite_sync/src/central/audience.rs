//! Who reads the rows of a central file: the scope of a table, an expression over the row, says it.
//!
//! What was last told of a row's readers is kept, so that those who read it no more are told to forget it. The hub
//! compares the scopes with those that a caller holds; they never leave it. A table whose expression cannot be computed
//! is read by nobody, and `cloudsync_gaps` says why.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value as Json;
use shared_format::payload::{
    Changes, ChangesBuilder, Limits, Payload, PayloadBuilder, Row, SCOPE_EVERYBODY, decode_frame,
    encode_frame,
};
use shared_format::{RowKind, Stamp, Value, encode_key};

use super::{append, end_transaction, is_centre, newest, pass_on, wanted_centre};
use crate::catalog::Replica;
use crate::changes::read_row;
use crate::emit::TableRows;
use crate::error::{Doing, Error, Reading, Result};
use crate::gap;
use crate::metadata;
use crate::register_cells;
use crate::schema;
use crate::settings::{self, Setting};
use crate::sql::{Unit, binds, columns, refs};
use crate::table_settings::{self, SCOPE, SCOPES_QUERY};
use crate::tracked_table::TrackedTable;

/// Sets who reads the rows of a table; None for everybody.
pub(crate) fn set_scope(connection: &Connection, table: &str, scope: Option<&str>) -> Result<()> {
    let unit = Unit::begin(connection)?;
    schema::refresh(connection)?;
    let table = table_settings::tracked(connection, table)?;
    if let Some(scope) = scope {
        table_settings::check_expression(connection, &table, &format!("({scope}\n) is not null"))
            .map_err(|reason| Error::Scope { table: table.name.clone(), reason })?;
    }
    let is_centre = is_centre(connection)?;
    if is_centre {
        // What was written before goes to those who read it then.
        pass_on(connection)?;
    }
    let value = scope.map_or(Value::Null, |scope| Value::Text(scope.to_owned()));
    table_settings::store(connection, table.id, "", SCOPE, &value)?;
    schema::count_up(connection, table.id)?;
    // Whether the new one can be computed is found out anew.
    let sql = "delete from main.cloudsync_gaps where tbl = ?1 and reason like '%scope%cannot be computed%'";
    connection.execute(sql, [table.id]).doing("forget what was wrong with a scope")?;
    if is_centre {
        let table = table_settings::tracked(connection, &table.name)?;
        begin(connection, &table)?;
        let mut payload = PayloadBuilder::new();
        payload.definition(&table.definition());
        payload.reload(table.id, table.incarnation, "other readers");
        append(connection, &encode_frame(&payload.finish()))?;
        end_transaction(connection)?;
        settings::store(connection, Setting::CentralReload, &Value::Integer(newest(connection)?))?;
    }
    unit.commit()
}

/// Notes who reads each row of a table now.
pub(super) fn begin(connection: &Connection, table: &TrackedTable) -> Result<()> {
    let sql = "delete from main.cloudsync_row_scopes where tbl = ?1";
    connection.execute(sql, [table.id]).doing("forget who reads rows")?;
    if table.scope.is_none() {
        return Ok(());
    }
    let mut readers = Readers::of(connection, table)?;
    // Deletions from before were for everybody.
    let dead = format!("select {} from {} where not alive", table.log_key(""), table.metadata());
    let live = format!("select {} from {}", table.key_columns(""), table.quoted());
    for (sql, is_live) in [(dead, false), (live, true)] {
        let mut statement = connection.prepare(&sql).doing("read keys")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next().doing("read keys")? {
            let key = columns(row, 0, table.key.len())?;
            let now = if is_live { readers.now(&key)? } else { None };
            let now = now.unwrap_or_else(|| vec![SCOPE_EVERYBODY.to_owned()]);
            readers.note(&encode_key(refs(&key)), &now)?;
        }
    }
    Ok(())
}

/// The scopes that a caller with these claims holds, as JSON: everybody's and that of its subject, or what the query
/// in `scopes_query` says.
pub(crate) fn scopes(connection: &Connection, claims: &str) -> Result<Json> {
    wanted_centre(connection)?;
    let Some(Value::Text(query)) = table_settings::file(connection, SCOPES_QUERY)? else {
        let claims: Json = serde_json::from_str(claims).unwrap_or_default();
        let subject = claims.get("sub").and_then(Json::as_str);
        return Ok([Some(SCOPE_EVERYBODY), subject].into_iter().flatten().collect());
    };
    let mut statement = connection.prepare_cached(&query).doing("ask scopes_query")?;
    if !table_settings::is_scopes_query(&statement, &query) {
        let (what, found) = (SCOPES_QUERY, "another statement".to_owned());
        return Err(Error::Stored { what, found, wanted: table_settings::SCOPES_QUERY_WANTED });
    }
    let given = [claims];
    let given = given.get(..statement.parameter_count().min(1)).unwrap_or_default();
    let mut rows = statement.query(rusqlite::params_from_iter(given)).doing("ask scopes_query")?;
    let mut scopes = Vec::new();
    while let Some(row) = rows.next().doing("ask scopes_query")? {
        scopes.extend(row.get::<_, Option<String>>(0).doing("read a scope")?);
    }
    Ok(scopes.into())
}

/// A frame of the feed with who reads its rows; None where everybody does. What is told is noted.
pub(super) fn told(connection: &Connection, frame: &[u8]) -> Result<Option<Vec<u8>>> {
    rewritten(connection, frame, |replica, table, changes, payload| {
        let mut telling = Telling {
            replica,
            table,
            readers: Readers::of(connection, table)?,
            as_is: builder(table, changes),
            whole: TableRows::new(table),
        };
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row().reading("row")? {
            telling.tell(row)?;
        }
        if telling.as_is.rows() > 0 {
            payload.push(telling.as_is);
        }
        telling.whole.finish(payload);
        Ok(())
    })
}

/// A frame of a snapshot with who reads its rows, or read them last. Nothing is written: a snapshot only reads.
pub(crate) fn shown(connection: &Connection, frame: &[u8]) -> Result<Option<Vec<u8>>> {
    wanted_centre(connection)?;
    rewritten(connection, frame, |_replica, table, changes, payload| {
        let mut shown = builder(table, changes);
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row().reading("row")? {
            let last = last(connection, table, &encode_key(row.key.iter().copied()))?;
            push(&mut shown, row);
            let nobody: [String; 0] = [];
            match row.kind {
                RowKind::Deleted => note(&mut shown, &last, &nobody),
                RowKind::Created | RowKind::Cells => note(&mut shown, &nobody, &last),
            }
        }
        payload.push(shown);
        Ok(())
    })
}

/// Puts the rows of tables with a scope into another form; None when the frame has none.
fn rewritten(
    connection: &Connection,
    frame: &[u8],
    mut rewrite: impl FnMut(&Replica<'_>, &TrackedTable, &Changes<'_>, &mut PayloadBuilder) -> Result<()>,
) -> Result<Option<Vec<u8>>> {
    let sql = "select exists (select 1 from main.cloudsync_table_settings where col = '' and key = ?1)";
    if !connection.prepare_cached(sql)?.query_row([SCOPE], |row| row.get(0))? {
        return Ok(None);
    }
    let Some(replica) = Replica::load(connection)? else { return Ok(None) };
    let (body, _used) = decode_frame(frame, &Limits::default()).reading("frame")?;
    let payload = Payload::parse(&body).reading("payload")?;
    let changes = payload.changes();
    let scoped = |changes: &Changes<'_>| replica.table(changes.table()).filter(|table| table.scope.is_some());
    if !changes.iter().any(|changes| scoped(changes).is_some()) {
        return Ok(None);
    }
    let mut out = PayloadBuilder::new();
    for definition in payload.definitions().reading("definition")? {
        out.definition(&definition);
    }
    for changes in &changes {
        match scoped(changes) {
            Some(table) => rewrite(&replica, table, changes, &mut out)?,
            None => out.append(changes),
        }
    }
    for collection in payload.collections() {
        out.collection(collection);
    }
    Ok(Some(encode_frame(&out.finish())))
}

fn builder(table: &TrackedTable, changes: &Changes<'_>) -> ChangesBuilder {
    let columns = changes.columns();
    ChangesBuilder::new(changes.table(), changes.incarnation(), changes.version(), table.key.len(), &columns)
}

fn push(rows: &mut ChangesBuilder, row: &Row<'_>) {
    let own = |stamp: Stamp| (stamp != row.stamp).then_some(stamp);
    let cells: Vec<_> = row.cells.iter().map(|cell| (cell.column, own(cell.stamp), cell.value)).collect();
    rows.row(row.kind, row.stamp, &row.key, &cells);
}

/// Says of the row that was added last who read it, and who reads it.
fn note(rows: &mut ChangesBuilder, before: &[String], now: &[String]) {
    rows.old_scopes(before);
    rows.new_scopes(now);
}

/// Changes of one table on their way to their readers.
struct Telling<'a, 'c> {
    replica: &'a Replica<'c>,
    table: &'a TrackedTable,
    readers: Readers<'a>,
    as_is: ChangesBuilder,
    /// Rows that some read now and did not before.
    whole: TableRows<'a>,
}

impl Telling<'_, '_> {
    fn tell(&mut self, row: &Row<'_>) -> Result<()> {
        let key: Vec<Value> = row.key.iter().map(|part| part.to_owned_value()).collect();
        let pk = encode_key(row.key.iter().copied());
        let before = last(self.replica.connection, self.table, &pk)?;
        let now = if row.kind == RowKind::Deleted { None } else { self.readers.now(&key)? };
        let Some(now) = now else {
            push(&mut self.as_is, row);
            // Of a row that is gone, who read it last; what waits beside a deletion goes to the same.
            match row.kind {
                RowKind::Deleted => note(&mut self.as_is, &before, &[]),
                RowKind::Created | RowKind::Cells => note(&mut self.as_is, &[], &before),
            }
            return Ok(());
        };
        self.readers.note(&pk, &now)?;
        let has_new = now.iter().any(|scope| !before.contains(scope));
        if row.kind == RowKind::Cells && has_new && self.add_whole(&key)? {
            self.whole.readers(&before, &now);
        } else {
            push(&mut self.as_is, row);
            note(&mut self.as_is, &before, &now);
        }
        Ok(())
    }

    /// Adds a row as it is here; false when it is not.
    fn add_whole(&mut self, key: &[Value]) -> Result<bool> {
        let (connection, table) = (self.replica.connection, self.table);
        let Some(values) = read_row(connection, table, key)? else { return Ok(false) };
        let state = metadata::read(connection, &self.replica.sites, table, key)?;
        let state = state.unwrap_or_else(|| metadata::baseline(table, self.replica.own()));
        let sent = register_cells::sent(table, &metadata::registers_of(connection, table, key)?);
        self.whole.whole(&state, &refs(key), &register_cells::laid_over(&refs(&values), &sent));
        Ok(true)
    }
}

/// Who reads the rows of one table.
struct Readers<'a> {
    connection: &'a Connection,
    table: &'a TrackedTable,
    /// The query for the scope of a row by its key; None where it cannot be computed.
    query: Option<String>,
}

impl<'a> Readers<'a> {
    fn of(connection: &'a Connection, table: &'a TrackedTable) -> Result<Self> {
        let scope = table.scope.as_deref().unwrap_or("null");
        let sql =
            format!("select cast(({scope}\n) as text) from {} where {}", table.quoted(), table.key_is(1));
        let query = match connection.prepare_cached(&sql) {
            Ok(_statement) => Some(sql),
            Err(error) => {
                gap::open(connection, table.id, &format!("its scope cannot be computed: {error}"))?;
                None
            }
        };
        Ok(Self { connection, table, query })
    }

    /// Who reads a row now; None when there is no such row.
    fn now(&mut self, key: &[Value]) -> Result<Option<Vec<String>>> {
        let Some(query) = &self.query else { return Ok(Some(Vec::new())) };
        let mut statement = self.connection.prepare_cached(query)?;
        let found = statement.query_row(rusqlite::params_from_iter(binds(key)), |row| row.get(0)).optional();
        match found {
            Ok(found) => Ok(found.map(|scope: Option<String>| scope.map_or_else(Vec::new, list))),
            Err(error) => {
                let reason = format!("the scope of a row cannot be computed: {error}");
                gap::open(self.connection, self.table.id, &reason)?;
                Ok(Some(Vec::new()))
            }
        }
    }

    fn note(&mut self, pk: &[u8], scopes: &[String]) -> Result<()> {
        let sql = "insert into main.cloudsync_row_scopes (tbl, pk, scopes) values (?1, ?2, ?3)
            on conflict (tbl, pk) do update set scopes = excluded.scopes where scopes <> excluded.scopes";
        let row = params![self.table.id, pk, Json::from(scopes).to_string()];
        self.connection.prepare_cached(sql)?.execute(row).doing("note who reads a row")?;
        Ok(())
    }
}

/// Who read a row when it was last told of.
fn last(connection: &Connection, table: &TrackedTable, pk: &[u8]) -> Result<Vec<String>> {
    let sql = "select scopes from main.cloudsync_row_scopes where tbl = ?1 and pk = ?2";
    let found = connection.prepare_cached(sql)?.query_row(params![table.id, pk], |row| row.get(0));
    let found: Option<String> = found.optional().doing("read who reads a row")?;
    Ok(found.and_then(|scopes| serde_json::from_str(&scopes).ok()).unwrap_or_default())
}

/// Forgets who read a row whose tombstone goes.
pub(crate) fn forget(connection: &Connection, table: &TrackedTable, pk: &[u8]) -> Result<()> {
    if table.scope.is_none() || !table.is_of_centre() {
        return Ok(());
    }
    let sql = "delete from main.cloudsync_row_scopes where tbl = ?1 and pk = ?2";
    connection.prepare_cached(sql)?.execute(params![table.id, pk]).doing("forget who read a row")?;
    Ok(())
}

/// The scopes that an expression gives: one, or a JSON array of them, where null is none.
fn list(scope: String) -> Vec<String> {
    let array = scope.starts_with('[').then(|| serde_json::from_str::<Vec<Option<String>>>(&scope).ok());
    array.flatten().map_or_else(|| vec![scope], |names| names.into_iter().flatten().collect())
}

/// Takes over new names of columns into the scope of a table: SQLite itself renames them in a view.
pub(crate) fn follow_names(
    connection: &Connection,
    table: u32,
    former: &[String],
    pairs: &[(String, String)],
) -> Result<()> {
    let Some(Value::Text(scope)) = table_settings::of_table(connection, table, SCOPE)? else { return Ok(()) };
    let quote = crate::sql::quote;
    let columns = former.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let mut sql = format!(
        "savepoint cloudsync_scope; create temp table cloudsync_scope_of ({columns});
         create temp view cloudsync_scope as select ({scope}\n) from cloudsync_scope_of;"
    );
    let rename = |from: &str, to: &str| {
        format!("alter table temp.cloudsync_scope_of rename column {} to {};", quote(from), quote(to))
    };
    // Two columns may have swapped their names.
    for (at, (from, _)) in pairs.iter().enumerate() {
        sql.push_str(&rename(from, &format!("cloudsync_renamed_{at}")));
    }
    for (at, (_, to)) in pairs.iter().enumerate() {
        sql.push_str(&rename(&format!("cloudsync_renamed_{at}"), to));
    }
    let renamed = connection.execute_batch(&sql).and_then(|()| {
        let sql = "select sql from temp.sqlite_schema where name = 'cloudsync_scope'";
        connection.query_row(sql, [], |row| row.get::<_, String>(0))
    });
    connection
        .execute_batch("rollback to cloudsync_scope; release cloudsync_scope")
        .doing("undo the renaming of a scope")?;
    // One that cannot be renamed cannot be computed either: then nobody reads the table.
    let text = renamed.unwrap_or_default();
    let inner = text.split_once("select (").and_then(|(_, rest)| rest.rsplit_once("\n)"));
    let Some((scope, _)) = inner else { return Ok(()) };
    table_settings::store(connection, table, "", SCOPE, &Value::Text(scope.to_owned()))
}
