//! The one upload that is on its way: stored before it is sent, so that a resend has the same id and bytes.

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Doing, Error, Result};
use crate::log::DbVersion;

/// An upload: a range of the capture log as one frame.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) id: [u8; 16],
    pub(crate) first: DbVersion,
    pub(crate) last: DbVersion,
    /// Exactly one frame.
    pub(crate) frame: Vec<u8>,
}

/// The upload that was stored and not answered yet.
pub(crate) fn pending(connection: &Connection) -> Result<Option<Upload>> {
    let sql = "select upload, first, last, payload from main.cloudsync_outbox order by first limit 1";
    connection
        .prepare_cached(sql)?
        .query_row([], |row| {
            Ok(Upload {
                id: row.get(0)?,
                first: DbVersion::new(row.get(1)?),
                last: DbVersion::new(row.get(2)?),
                frame: row.get(3)?,
            })
        })
        .optional()
        .doing("read the outbox")
}

/// Stores an upload under a new random id.
pub(crate) fn store(
    connection: &Connection,
    first: DbVersion,
    last: DbVersion,
    frame: Vec<u8>,
) -> Result<Upload> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_no_source| Error::Random)?;
    let upload = Upload { id, first, last, frame };
    let sql = "insert into main.cloudsync_outbox (upload, first, last, payload) values (?1, ?2, ?3, ?4)";
    let row = params![upload.id.as_slice(), first.get(), last.get(), upload.frame];
    connection.prepare_cached(sql)?.execute(row).doing("store an upload")?;
    Ok(upload)
}

/// Whether an upload is still on its way.
pub(crate) fn holds(connection: &Connection, upload: &Upload) -> Result<bool> {
    let sql = "select exists (select 1 from main.cloudsync_outbox where upload = ?1)";
    connection
        .prepare_cached(sql)?
        .query_row([upload.id.as_slice()], |row| row.get(0))
        .doing("read the outbox")
}

/// Removes an upload that was answered; says whether it was there. Another process that syncs the same file
/// may have had its answer first.
pub(crate) fn remove(connection: &Connection, upload: &Upload) -> Result<bool> {
    let sql = "delete from main.cloudsync_outbox where upload = ?1";
    let removed = connection.prepare_cached(sql)?.execute([upload.id.as_slice()]);
    Ok(removed.doing("remove an upload")? > 0)
}

/// Drops what the server refused as a whole: its rows are put into a new upload, baseline rows from the
/// beginning.
pub(crate) fn discard(connection: &Connection) -> Result<()> {
    connection.execute("delete from main.cloudsync_outbox", []).doing("discard an upload")?;
    connection.execute("update main.cloudsync_tables set baseline_after = null", [])?;
    Ok(())
}
