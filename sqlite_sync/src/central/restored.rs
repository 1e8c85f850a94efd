//! A central file that may lack what it once had: it was set back by accident, or on purpose.
//!
//! Invariant: each time has a number, the generation. What the file knows of a site that it has not heard of since may
//! be older than what the site was told.

use rusqlite::{Connection, OptionalExtension};
use shared_format::{SiteId, Value};

use super::{is_centre, pass_on, random_name, wanted_centre};
use crate::catalog;
use crate::error::{Doing, Result};
use crate::settings::{self, Setting, Sites};
use crate::sql::Unit;

/// Takes in that the file may lack what sites were told that it has: it is another site from now on, and takes
/// their word for their tokens once.
pub(crate) fn note_lost(connection: &Connection) -> Result<()> {
    let unit = Unit::begin(connection)?;
    wanted_centre(connection)?;
    begin_generation(connection)?;
    unit.commit()
}

/// Takes in that the file was set back on purpose, or stands in for another one: what it lacks is undone for everybody.
pub(crate) fn note_restored(connection: &Connection) -> Result<()> {
    let unit = Unit::begin(connection)?;
    catalog::set_up(connection)?;
    let generation = begin_generation(connection)?;
    settings::store(connection, Setting::CentralRestored, &Value::Text(random_name()?))?;
    settings::store(connection, Setting::CentralRestoredAs, &Value::Integer(generation))?;
    unit.commit()
}

fn begin_generation(connection: &Connection) -> Result<i64> {
    if is_centre(connection)? {
        pass_on(connection)?;
        Sites::renew(connection)?;
    }
    let generation = generation(connection)? + 1;
    settings::store(connection, Setting::CentralGeneration, &Value::Integer(generation))?;
    Ok(generation)
}

pub(super) fn generation(connection: &Connection) -> Result<i64> {
    Ok(settings::integer(connection, Setting::CentralGeneration)?.unwrap_or(0))
}

/// The generation that began with the newest restore on purpose; zero when there was none.
pub(super) fn restored_as(connection: &Connection) -> Result<i64> {
    Ok(settings::integer(connection, Setting::CentralRestoredAs)?.unwrap_or(0))
}

/// The number up to which the file has what a site sent, for a site that may have been told another; none where it is
/// not known, or where the site shall not send anything again.
pub(crate) fn acked(connection: &Connection, site: SiteId) -> Result<Option<i64>> {
    wanted_centre(connection)?;
    let sql = "select acked, generation from main.cloudsync_uploaders where site = ?1";
    let known = connection
        .prepare_cached(sql)?
        .query_row([site.as_bytes().as_slice()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()
        .doing("read the number of a site")?;
    let newest = generation(connection)?;
    if newest == 0 {
        return Ok(known.map(|(acked, _)| acked));
    }
    let restored = restored_as(connection)?;
    Ok(match known {
        Some((_, heard)) if heard < restored => None,
        None if restored == newest => None,
        Some((acked, _)) => Some(acked),
        None => Some(0),
    })
}
