//! The one upload that is on its way: stored before it is sent, so that a resend has the same id and bytes.
//!
//! What is larger than one body lies there as chunks, each a frame: the server applies all of them together. The last
//! one is the payload of the upload, those before it have a table of their own.

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Doing, Error, Result};
use crate::log::DbVersion;

/// An upload: a range of the capture log as one frame, or as some.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) id: [u8; 16],
    pub(crate) first: DbVersion,
    pub(crate) last: DbVersion,
    /// Exactly one frame, the last.
    pub(crate) frame: Vec<u8>,
    /// How many frames there are before it.
    pub(crate) before: i64,
}

/// A chunk that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// Its number, from 1.
    pub(crate) number: i64,
    /// Exactly one frame.
    pub(crate) frame: Vec<u8>,
}

/// The upload that was stored and not answered yet.
pub(crate) fn pending(connection: &Connection) -> Result<Option<Upload>> {
    let sql = "select upload, first, last, payload, (select count(*) from main.cloudsync_outbox_chunks)
        from main.cloudsync_outbox order by first limit 1";
    connection
        .prepare_cached(sql)?
        .query_row([], |row| {
            Ok(Upload {
                id: row.get(0)?,
                first: DbVersion::new(row.get(1)?),
                last: DbVersion::new(row.get(2)?),
                frame: row.get(3)?,
                before: row.get(4)?,
            })
        })
        .optional()
        .doing("read the outbox")
}

/// Stores a frame that comes before the upload which is stored next; gives its number.
pub(crate) fn store_chunk(connection: &Connection, frame: &[u8]) -> Result<i64> {
    let sql = "insert into main.cloudsync_outbox_chunks (number, payload)
        select count(*) + 1, ?1 from main.cloudsync_outbox_chunks returning number";
    connection.prepare_cached(sql)?.query_row([frame], |row| row.get(0)).doing("store a chunk")
}

/// The next chunk that the server does not have.
pub(crate) fn next_chunk(connection: &Connection) -> Result<Option<Chunk>> {
    let sql =
        "select number, payload from main.cloudsync_outbox_chunks where not sent order by number limit 1";
    connection
        .prepare_cached(sql)?
        .query_row([], |row| Ok(Chunk { number: row.get(0)?, frame: row.get(1)? }))
        .optional()
        .doing("read a chunk")
}

/// Notes that the server has a chunk of an upload.
pub(crate) fn note_sent(connection: &Connection, upload: &Upload, number: i64) -> Result<()> {
    let sql = "update main.cloudsync_outbox_chunks set sent = 1
        where number = ?2 and exists (select 1 from main.cloudsync_outbox where upload = ?1)";
    let noted = connection.prepare_cached(sql)?.execute(params![upload.id.as_slice(), number]);
    noted.doing("note a chunk as sent").map(drop)
}

/// Notes that the server lacks chunks from a number on.
pub(crate) fn note_missing(connection: &Connection, number: i64) -> Result<()> {
    let sql = "update main.cloudsync_outbox_chunks set sent = 0 where number >= ?1";
    connection.prepare_cached(sql)?.execute([number]).doing("note missing chunks").map(drop)
}

/// Hands over the frames of an upload before its last, one after the other.
pub(crate) fn for_each_chunk(
    connection: &Connection,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut statement =
        connection.prepare_cached("select payload from main.cloudsync_outbox_chunks order by number")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next().doing("read chunks")? {
        each(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
    }
    Ok(())
}

/// Stores an upload under a new random id, with the chunks that were stored before it.
pub(crate) fn store(
    connection: &Connection,
    first: DbVersion,
    last: DbVersion,
    frame: Vec<u8>,
) -> Result<Upload> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_no_source| Error::Random)?;
    let sql = "select count(*) from main.cloudsync_outbox_chunks";
    let before = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let upload = Upload { id, first, last, frame, before };
    let sql = "insert into main.cloudsync_outbox (upload, first, last, payload) values (?1, ?2, ?3, ?4)";
    let row = params![upload.id.as_slice(), first.get(), last.get(), upload.frame];
    connection.prepare_cached(sql)?.execute(row).doing("store an upload")?;
    Ok(upload)
}

/// Whether an upload is still on its way. Another process that syncs the same file may have had its answer first.
pub(crate) fn holds(connection: &Connection, upload: &Upload) -> Result<bool> {
    let sql = "select exists (select 1 from main.cloudsync_outbox where upload = ?1)";
    connection
        .prepare_cached(sql)?
        .query_row([upload.id.as_slice()], |row| row.get(0))
        .doing("read the outbox")
}

/// Removes an upload that was answered.
pub(crate) fn remove(connection: &Connection, upload: &Upload) -> Result<()> {
    let sql = "delete from main.cloudsync_outbox where upload = ?1";
    let removed = connection.prepare_cached(sql)?.execute([upload.id.as_slice()]);
    if removed.doing("remove an upload")? > 0 && upload.before > 0 {
        forget_chunks(connection)?;
    }
    Ok(())
}

/// Drops what the server refused as a whole: its rows are put into a new upload, baseline rows from the
/// beginning.
pub(crate) fn discard(connection: &Connection) -> Result<()> {
    connection.execute("delete from main.cloudsync_outbox", []).doing("discard an upload")?;
    forget_chunks(connection)?;
    connection.execute("update main.cloudsync_tables set baseline_after = null", [])?;
    Ok(())
}

fn forget_chunks(connection: &Connection) -> Result<()> {
    let sql = "delete from main.cloudsync_outbox_chunks";
    connection.prepare_cached(sql)?.execute([]).doing("remove chunks").map(drop)
}
