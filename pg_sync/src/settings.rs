//! What users set: whether a table takes part, and values under keys. Whose table it is is checked here, the rest
//! is done in SQL by the owner.

use pgrx::pg_sys;

use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, as_owner};
use crate::error::SyncError;
use crate::expressions;
use crate::tracking::{self, lock, owned_table};

/// Makes a table take part, or no more. Waits for those who write to it.
pub(crate) fn enable(relation: pg_sys::Oid, enabled: bool) -> Result<(), SyncError> {
    let name = owned_table(relation)?;
    lock(relation, &name)?;
    let arguments = [Argument::oid(relation), Argument::boolean(enabled)];
    as_owner(|| query::run("select cloudsync.enable_table($1::pg_catalog.regclass, $2)", &arguments));
    Ok(())
}

/// Whether a table is tracked and takes part.
pub(crate) fn is_enabled(relation: pg_sys::Oid) -> bool {
    let sql = "select t.enabled from cloudsync.tables as t where t.relation operator(pg_catalog.=) $1";
    as_owner(|| query::run(sql, &[Argument::oid(relation)]).first()).is_some_and(codec::to_bool)
}

/// Keeps a value for the database.
pub(crate) fn set(key: &str, value: Option<&str>) -> Result<(), SyncError> {
    if let ("scopes_function", Some(name)) = (key, value) {
        return expressions::set_function(name);
    }
    check_database_owner()?;
    as_owner(|| {
        query::run(
            "select cloudsync.set_value($1, $2)",
            &[Argument::text(key), Argument::optional_text(value)],
        )
    });
    Ok(())
}

/// Says in which schema the tables are that clients name.
pub(crate) fn set_schema(schema: Option<&str>) -> Result<(), SyncError> {
    check_database_owner()?;
    as_owner(|| query::run("select cloudsync.set_schema($1)", &[Argument::optional_text(schema)]));
    Ok(())
}

/// The same for tables of one name.
pub(crate) fn set_table_schema(table: &str, schema: Option<&str>) -> Result<(), SyncError> {
    check_database_owner()?;
    let arguments = [Argument::text(table), Argument::optional_text(schema)];
    as_owner(|| query::run("select cloudsync.set_table_schema($1, $2)", &arguments));
    Ok(())
}

/// Keeps a value for a table, or for a column of it.
pub(crate) fn set_table(
    relation: pg_sys::Oid,
    column_name: &str,
    key: &str,
    value: Option<&str>,
) -> Result<(), SyncError> {
    owned_table(relation)?;
    let arguments = [
        Argument::oid(relation),
        Argument::text(column_name),
        Argument::text(key),
        Argument::optional_text(value),
    ];
    let sql = "select cloudsync.set_table_value($1::pg_catalog.regclass, $2, $3, $4)";
    as_owner(|| query::run(sql, &arguments));
    Ok(())
}

/// Before and after a change of a table's definition: it is followed by itself.
pub(crate) fn alter(relation: pg_sys::Oid) -> Result<(), SyncError> {
    let name = owned_table(relation)?;
    if tracking::is_tracked(relation) { Ok(()) } else { Err(SyncError::Untracked(name)) }
}

/// Checks that the caller has the rights of this database's owner.
pub(crate) fn check_database_owner() -> Result<(), SyncError> {
    let sql = "select pg_catalog.pg_has_role($1, d.datdba, 'usage') from pg_catalog.pg_database as d \
               where d.datname operator(pg_catalog.=) pg_catalog.current_database()";
    let user = session::current_user();
    let owns = as_owner(|| query::run(sql, &[Argument::oid(user)]).first()).is_some_and(codec::to_bool);
    if owns { Ok(()) } else { Err(SyncError::NotDatabaseOwner) }
}
