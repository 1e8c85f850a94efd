//! Functions for the hub that serves a file as the centre of others.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::{Value as SqlValue, ValueRef as Argument};
use shared_format::SiteId;

use super::arguments::{number, reach, text, wrong};
use super::{DIRECT, Shared};
use crate::central::{self, Request, audience};
use crate::connection::Applying;
use crate::error::Result;

const UPLOAD: &str = "cloudsync_central_upload";
const ACKED: &str = "cloudsync_central_acked";
const SCOPES: &str = "cloudsync_central_scopes";
const ROWS: &str = "cloudsync_central_rows";
const NOTE_SITE: &str = "cloudsync_central_note_site";

pub(super) fn register(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    connection.create_scalar_function("cloudsync_central_begin", 0, DIRECT, |context| {
        Ok(central::begin(&*reach(context)?)?.to_string())
    })?;
    connection.create_scalar_function("cloudsync_central_feed", 0, DIRECT, |context| {
        Ok(central::feed(&*reach(context)?)?)
    })?;
    connection.create_scalar_function("cloudsync_central_definitions", 0, DIRECT, |context| {
        Ok(central::definitions(&*reach(context)?)?)
    })?;
    connection.create_scalar_function("cloudsync_central_lost", 0, DIRECT, |context| {
        central::note_lost(&*reach(context)?)?;
        Ok(SqlValue::Null)
    })?;
    connection.create_scalar_function("cloudsync_restored", 0, DIRECT, |context| {
        central::note_restored(&*reach(context)?)?;
        Ok(SqlValue::Null)
    })?;
    connection.create_scalar_function("cloudsync_central_collect", 0, DIRECT, |context| {
        Ok(central::collect(&*reach(context)?)?)
    })?;
    connection.create_scalar_function("cloudsync_set_scope", 2, DIRECT, |context| Ok(set_scope(context)?))?;
    connection.create_scalar_function(SCOPES, 1, DIRECT, |context| {
        let claims = text(context, SCOPES, 0)?;
        Ok(audience::scopes(&*reach(context)?, &claims)?.to_string())
    })?;
    connection.create_scalar_function(ROWS, 1, DIRECT, |context| Ok(rows(context)?))?;
    connection.create_scalar_function(NOTE_SITE, 2, DIRECT, |context| Ok(note_site(context)?))?;
    connection.create_scalar_function(ACKED, 1, DIRECT, |context| Ok(acked(context)?))?;
    let applying = shared.applying.clone();
    connection.create_scalar_function(UPLOAD, 8, DIRECT, move |context| Ok(upload(context, &applying)?))
}

fn acked(context: &Context<'_>) -> Result<Option<i64>> {
    let site = site(context, ACKED)?;
    central::acked(&*reach(context)?, site)
}

fn set_scope(context: &Context<'_>) -> Result<SqlValue> {
    let function = "cloudsync_set_scope";
    let table = text(context, function, 0)?;
    let scope = match context.get_raw(1) {
        Argument::Null => None,
        _other => Some(text(context, function, 1)?),
    };
    audience::set_scope(&*reach(context)?, &table, scope.as_deref())?;
    Ok(SqlValue::Null)
}

/// A frame of a snapshot with who reads its rows.
fn rows(context: &Context<'_>) -> Result<SqlValue> {
    let Argument::Blob(frame) = context.get_raw(0) else {
        return Err(wrong(context, ROWS, 0, "a payload (BLOB)"));
    };
    let shown = audience::shown(&*reach(context)?, frame)?;
    Ok(SqlValue::Blob(shown.unwrap_or_else(|| frame.to_vec())))
}

fn note_site(context: &Context<'_>) -> Result<bool> {
    let site = site(context, NOTE_SITE)?;
    let place = number(context, NOTE_SITE, 1)?;
    let place = place.ok_or_else(|| wrong(context, NOTE_SITE, 1, "a number of the feed"))?;
    central::note_site(&*reach(context)?, site, place)
}

/// The site that is the first argument.
fn site(context: &Context<'_>, function: &'static str) -> Result<SiteId> {
    let site = match context.get_raw(0) {
        Argument::Blob(bytes) => SiteId::try_from(bytes).ok(),
        _other => None,
    };
    site.ok_or_else(|| wrong(context, function, 0, "a blob of 16 bytes"))
}

fn upload(context: &Context<'_>, applying: &Applying) -> Result<String> {
    let bytes = |at: usize, wanted: &'static str| match context.get_raw(at) {
        Argument::Blob(bytes) => Ok(bytes),
        _other => Err(wrong(context, UPLOAD, at, wanted)),
    };
    let sixteen = "a blob of 16 bytes";
    let of_sixteen = |at: usize| {
        let found = bytes(at, sixteen)?;
        if found.len() == 16 { Ok(found) } else { Err(wrong(context, UPLOAD, at, sixteen)) }
    };
    let range = |at: usize| {
        let found = number(context, UPLOAD, at)?.filter(|number| *number > 0);
        found.ok_or_else(|| wrong(context, UPLOAD, at, "a number from 1 on"))
    };
    let (first, last) = (range(3)?, range(4)?);
    if last < first {
        return Err(wrong(context, UPLOAD, 4, "a number not below the one before"));
    }
    let request = Request {
        frames: match context.get_raw(0) {
            Argument::Null => None,
            _given => Some(bytes(0, "a payload (BLOB), or NULL for one of which a part is missing")?),
        },
        site: SiteId::try_from(of_sixteen(1)?).map_err(|_other| wrong(context, UPLOAD, 1, sixteen))?,
        upload: of_sixteen(2)?,
        first,
        last,
        token: if context.get_raw(5) == Argument::Null { None } else { Some(of_sixteen(5)?) },
        followed: if context.get_raw(7) == Argument::Null { None } else { Some(of_sixteen(7)?) },
        rejected_seen: number(context, UPLOAD, 6)?,
    };
    Ok(central::take(&*reach(context)?, applying, &request)?.to_string())
}
