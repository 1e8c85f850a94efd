//! Setting a table up for tracking: the registry as the owner, the triggers as the table's own owner.

use pgrx::pg_sys;

use crate::catalog;
use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, as_owner};
use crate::error::SyncError;
use crate::stage;

/// Finds a table by the caller's search path.
pub(crate) fn resolve(name: &str) -> Result<pg_sys::Oid, SyncError> {
    let found = query::run("select ($1::pg_catalog.regclass)::pg_catalog.oid", &[Argument::text(name)]);
    let oid = found.first().map(|datum| pg_sys::Oid::from(codec::to_i32(datum).cast_unsigned()));
    oid.ok_or(SyncError::NoRelation(0))
}

/// Tracks a table, or brings its registration to the present definition.
pub(crate) fn init(relation: pg_sys::Oid, algorithm: Option<&str>) -> Result<(), SyncError> {
    let name = owned_table(relation)?;
    let refusal = as_owner(|| {
        query::run("select cloudsync.refusal($1::pg_catalog.regclass)", &[Argument::oid(relation)]).first()
    });
    if refusal.is_none() {
        // Nobody writes between the look at the rows and the first trigger.
        lock(relation, &name)?;
        grant_to_owner(relation, &name);
    }
    let commands = as_owner(|| {
        let arguments = [Argument::oid(relation), Argument::optional_text(algorithm)];
        let id = query::run("select cloudsync.register_table($1::pg_catalog.regclass, $2)", &arguments);
        let id = id.first().map_or(0, codec::to_i32);
        let commands =
            query::run("select a.c from cloudsync.attach_commands($1) as a (c)", &[Argument::integer(id)]);
        texts(&commands)
    });
    for command in commands {
        query::run(&command, &[]);
    }
    Ok(())
}

/// Tracks every table of a schema that is not tracked yet: of the one that clients mean when they name none, else
/// of the first in the caller's search path.
pub(crate) fn init_all(algorithm: Option<&str>) -> Result<(), SyncError> {
    let current = query::run("select pg_catalog.current_schema()::pg_catalog.text", &[]).first();
    let current = current.map(codec::to_text);
    let found = as_owner(|| {
        let set =
            query::run("select s.value from cloudsync.settings as s where s.key = 'schema'", &[]).first();
        let schema = set.map(codec::to_text).or(current)?;
        let sql = include_str!("../../sql/postgres/library/tables_of_schema.sql");
        Some(query::run(sql, &[Argument::text(&schema)]))
    });
    for relation in oids(&found.ok_or(SyncError::NoSchema)?) {
        init(relation, algorithm)?;
    }
    Ok(())
}

/// Checks the flags that SQLite knows. None of what they allow there is refused here.
pub(crate) fn check_flags(flags: Option<i32>) -> Result<(), SyncError> {
    match flags {
        None | Some(0..=7) => Ok(()),
        Some(other) => Err(SyncError::Parameter {
            parameter: "flags",
            found: other.to_string(),
            wanted: "flags from 0 to 7",
        }),
    }
}

/// Stops tracking all tables.
pub(crate) fn cleanup_all() -> Result<(), SyncError> {
    let sql = "select t.relation::pg_catalog.oid from cloudsync.tables as t \
               join pg_catalog.pg_class as c on c.oid operator(pg_catalog.=) t.relation::pg_catalog.oid \
               order by t.table_id";
    for relation in oids(&as_owner(|| query::run(sql, &[]))) {
        cleanup(relation)?;
    }
    Ok(())
}

/// Stops tracking a table; of one that is not tracked there is nothing to do.
pub(crate) fn cleanup(relation: pg_sys::Oid) -> Result<(), SyncError> {
    let name = owned_table(relation)?;
    if !is_tracked(relation) {
        return Ok(());
    }
    lock(relation, &name)?;
    let commands = as_owner(|| {
        let sql = "select d.c from cloudsync.detach_commands($1::pg_catalog.regclass) as d (c)";
        texts(&query::run(sql, &[Argument::oid(relation)]))
    });
    for command in commands {
        query::run(&command, &[]);
    }
    as_owner(|| {
        query::run("select cloudsync.unregister_table($1::pg_catalog.regclass)", &[Argument::oid(relation)]);
    });
    leave_schemas(relation);
    Ok(())
}

/// Takes the use of the schemas of a table and its partitions from cloudsync_owner, if nothing else in them is tracked.
fn leave_schemas(relation: pg_sys::Oid) {
    let sql = include_str!("../../sql/postgres/library/unused_schemas.sql");
    let user = session::current_user();
    let unused = as_owner(|| query::run(sql, &[Argument::oid(relation), Argument::oid(user)]));
    for schema in texts(&unused) {
        query::run(&format!("revoke usage on schema {} from cloudsync_owner", catalog::quote(&schema)), &[]);
    }
}

/// Whether apply is writing to a table.
pub(crate) fn is_being_written(relation: pg_sys::Oid) -> bool {
    if !stage::is_standing() {
        return false;
    }
    let id = as_owner(|| {
        let sql = "select t.table_id from cloudsync.tables as t where t.relation operator(pg_catalog.=) $1";
        query::run(sql, &[Argument::oid(relation)]).first().map(codec::to_i32)
    });
    id.is_some_and(stage::has_table)
}

/// Whether a table is tracked.
pub(crate) fn is_tracked(relation: pg_sys::Oid) -> bool {
    let sql = "select true from cloudsync.tables as t where t.relation operator(pg_catalog.=) $1";
    as_owner(|| query::run(sql, &[Argument::oid(relation)]).first()).is_some()
}

/// Checks that the caller owns the table, and returns its quoted name.
pub(crate) fn owned_table(relation: pg_sys::Oid) -> Result<String, SyncError> {
    let user = session::current_user();
    let found = as_owner(|| {
        let sql = include_str!("../../sql/postgres/library/owned_table.sql");
        query::run(sql, &[Argument::oid(relation), Argument::oid(user)])
    });
    let row = found.rows.first().ok_or(SyncError::NoRelation(relation.to_u32()))?;
    let text = |number| row.attribute(number).map(codec::to_text).unwrap_or_default();
    let name = format!("{}.{}", catalog::quote(&text(1)), catalog::quote(&text(2)));
    let owns = row.attribute(3).is_some_and(codec::to_bool);
    if owns { Ok(name) } else { Err(SyncError::NotOwner(name)) }
}

/// Locks the table by its name, and makes sure that it was the table which was locked.
pub(crate) fn lock(relation: pg_sys::Oid, name: &str) -> Result<(), SyncError> {
    query::run(&format!("lock table {name} in share row exclusive mode"), &[]);
    if owned_table(relation)? == name { Ok(()) } else { Err(SyncError::Moved(name.to_owned())) }
}

/// Lets cloudsync_owner read the table: the slow path, snapshots and apply need it.
fn grant_to_owner(relation: pg_sys::Oid, name: &str) {
    query::run(&format!("grant select on table {name} to cloudsync_owner"), &[]);
    let missing = as_owner(|| {
        let sql = include_str!("../../sql/postgres/library/unreadable_schema.sql");
        query::run(sql, &[Argument::oid(relation)])
    });
    for schema in texts(&missing) {
        query::run(&format!("grant usage on schema {} to cloudsync_owner", catalog::quote(&schema)), &[]);
    }
}

fn oids(output: &query::Output) -> Vec<pg_sys::Oid> {
    let oid = |datum| pg_sys::Oid::from(codec::to_i32(datum).cast_unsigned());
    output.rows.iter().filter_map(|row| row.attribute(1)).map(oid).collect()
}

fn texts(output: &query::Output) -> Vec<String> {
    output.rows.iter().filter_map(|row| row.attribute(1)).map(codec::to_text).collect()
}
