//! Scopes and filters of tables: expressions of their owners, and the functions through which SQL asks for them.

use pgrx::pg_sys;

use crate::catalog::Tracked;
use crate::edge::expression::{self, Evaluator, Kind, Parsed, Wrong};
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, as_owner, as_printer};
use crate::edge::subtransaction::{RolledBack, subtransaction};
use crate::edge::{codec, tuple};
use crate::error::SyncError;
use crate::settings;
use crate::tracking::{lock, owned_table};

/// Reads a word for the kind of an expression.
fn kind(word: &str) -> Result<Kind, SyncError> {
    [Kind::Scope, Kind::Filter].into_iter().find(|kind| kind.word() == word).ok_or_else(|| {
        SyncError::Parameter { parameter: "kind", found: word.to_owned(), wanted: "scope or filter" }
    })
}

/// Parses an expression, and says which table it is for when that fails. Constants are read and printed alike whatever
/// the session has set.
fn parsed<T>(
    relation: pg_sys::Oid,
    kind: Kind,
    text: &str,
    then: impl Fn(Parsed) -> T,
) -> Result<T, SyncError> {
    let read = || expression::parse(relation, text, kind).map(&then);
    let detail = match as_printer(|| subtransaction(read)) {
        Ok(result) => return Ok(result),
        Err(RolledBack::GaveUp(Wrong { detail })) => detail,
        Err(RolledBack::Raised(caught)) if caught.is_transient() => caught.rethrow(),
        Err(RolledBack::Raised(caught)) => caught.message,
    };
    Err(SyncError::Expression { kind: kind.word(), table: session::relation_name(relation), detail })
}

/// An expression as SQL and as the server writes it down.
pub(crate) fn check(relation: pg_sys::Oid, word: &str, text: &str) -> Result<(String, String), SyncError> {
    parsed(relation, kind(word)?, text, |parsed| (parsed.spelled(None), parsed.tree()))
}

/// What was written down, with the names that columns have now; None when one is gone.
pub(crate) fn renamed(relation: pg_sys::Oid, tree: &str) -> Option<String> {
    as_printer(|| expression::renamed(relation, tree))
}

/// An expression over the columns of a row, for a statement: never null.
pub(crate) fn spell(relation: pg_sys::Oid, word: &str, text: &str, alias: &str) -> Result<String, SyncError> {
    let kind = kind(word)?;
    parsed(relation, kind, text, |parsed| match kind {
        Kind::Scope => parsed.spelled_list(alias),
        Kind::Filter => format!("coalesce({}, false)", parsed.spelled(Some(alias))),
    })
}

/// Prepares the expressions of a table for rows of it or of a partition, whose columns have these names; None when
/// they stand in other places there.
pub(crate) fn evaluator(table: &Tracked, names: &[Option<String>]) -> Option<Evaluator> {
    let is_in_place = |parsed: &Parsed| {
        parsed.columns().into_iter().all(|number| {
            let found = usize::try_from(number).ok().and_then(|number| names.get(number.checked_sub(1)?));
            found.is_some_and(|name| *name == session::column_name(table.relation, number))
        })
    };
    let read = |kind, text: &Option<String>| match text {
        None => Some(None),
        Some(text) => {
            let parsed = as_printer(|| expression::parse(table.relation, text, kind)).ok()?;
            is_in_place(&parsed).then_some(Some(parsed))
        }
    };
    let scope = read(Kind::Scope, &table.scope)?;
    Some(Evaluator::new(scope, read(Kind::Filter, &table.filter)?))
}

/// Sets or takes away an expression of a table. Waits for those who write to it.
pub(crate) fn set(relation: pg_sys::Oid, kind: Kind, text: Option<&str>) -> Result<(), SyncError> {
    let name = owned_table(relation)?;
    lock(relation, &name)?;
    let arguments = [Argument::oid(relation), Argument::text(kind.word()), Argument::optional_text(text)];
    let sql = "select cloudsync.set_expression($1::pg_catalog.regclass, $2, $3)";
    as_owner(|| query::run(sql, &arguments));
    Ok(())
}

/// Names the function that tells the scopes of a token.
pub(crate) fn set_function(name: &str) -> Result<(), SyncError> {
    settings::check_database_owner()?;
    let user = session::current_user();
    let found = query::run(
        "select (($1 operator(pg_catalog.||) '(jsonb)')::pg_catalog.regprocedure)::pg_catalog.oid",
        &[Argument::text(name)],
    );
    let function = found
        .first()
        .map_or(pg_sys::InvalidOid, |datum| pg_sys::Oid::from(codec::to_i32(datum).cast_unsigned()));
    let arguments = [Argument::oid(function), Argument::oid(user)];
    as_owner(|| query::run("select cloudsync.set_scopes_function($1, $2)", &arguments));
    Ok(())
}

/// The scopes that a token with these claims may read.
pub(crate) fn scopes_of(claims: &str) -> Result<Vec<String>, SyncError> {
    let found =
        as_owner(|| query::run("select f.function, f.owner from cloudsync.scopes_function() as f", &[]));
    let Some(row) = found.rows.first() else { return Ok(Vec::new()) };
    let name = row.attribute(1).map(codec::to_text).unwrap_or_default();
    let owner = row.attribute(2).map_or(0, codec::to_i32).cast_unsigned();
    let sql = format!(
        "select pg_catalog.array_agg(distinct s.scope) from {name}($1::pg_catalog.jsonb) as s (scope) \
         where s.scope is not null"
    );
    // Its settings end with it.
    let part = session::RolePart::begin();
    session::set_local(c"request.jwt.claims", claims)?;
    let scopes =
        session::as_user(pg_sys::Oid::from(owner), || query::run(&sql, &[Argument::text(claims)])).first();
    drop(part);
    Ok(scopes.map(tuple::to_texts).unwrap_or_default())
}
