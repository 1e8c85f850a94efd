//! Uploads that are on their way: stored before they are sent, so that a resend has the same id and bytes.
//!
//! There is one, but while the server keeps what it cannot apply yet: then the next goes behind it, and names it. What
//! is larger than one body lies there as chunks, each a frame: the server applies all of them together. The last one is
//! the payload of the upload, those before it have a table of their own.

use rusqlite::{Connection, OptionalExtension, params};
use shared_format::Value;

use crate::error::{Doing, Error, Result};
use crate::log::DbVersion;
use crate::settings::{self, Setting};

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
    /// The upload before it, if that one is on its way too.
    pub(crate) follows: Option<[u8; 16]>,
}

/// A chunk that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// Its number, from 1.
    pub(crate) number: i64,
    /// Exactly one frame.
    pub(crate) frame: Vec<u8>,
}

/// Which upload is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// The oldest.
    Oldest,
    /// The newest that the server keeps; the oldest if it keeps none.
    Kept,
    /// The oldest that the server does not keep.
    Unkept,
    /// The one that ends with a number.
    EndingWith(DbVersion),
}

/// Finds an upload that was stored and not answered yet.
pub(crate) fn pending(connection: &Connection, which: Which) -> Result<Option<Upload>> {
    let kept = settings::integer(connection, Setting::Stored)?.unwrap_or(0);
    let (range, number, order) = match which {
        Which::Oldest => ("last >= ?1", 0, "first"),
        Which::Kept => ("last <= ?1", kept, "first desc"),
        Which::Unkept => ("last > ?1", kept, "first"),
        Which::EndingWith(last) => ("last = ?1", last.get(), "first"),
    };
    let sql = format!(
        "select upload, first, last, payload,
          (select count(*) from main.cloudsync_outbox_chunks as c where c.upload = o.upload),
          (select b.upload from main.cloudsync_outbox as b where b.first < o.first order by b.first desc limit 1)
        from main.cloudsync_outbox as o where {range} order by {order} limit 1"
    );
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Upload {
            id: row.get(0)?,
            first: DbVersion::new(row.get(1)?),
            last: DbVersion::new(row.get(2)?),
            frame: row.get(3)?,
            before: row.get(4)?,
            follows: row.get(5)?,
        })
    };
    let found = connection.prepare_cached(&sql)?.query_row([number], read).optional();
    match found.doing("read the outbox")? {
        None if which == Which::Kept => pending(connection, Which::Oldest),
        found => Ok(found),
    }
}

/// The last number of everything that is on its way; zero if nothing is.
pub(crate) fn newest(connection: &Connection) -> Result<DbVersion> {
    let sql = "select coalesce(max(last), 0) from main.cloudsync_outbox";
    let last = connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).doing("read the outbox")?;
    Ok(DbVersion::new(last))
}

/// Notes that the server keeps an upload, until its database is back.
pub(crate) fn note_kept(connection: &Connection, upload: &Upload) -> Result<()> {
    let kept = settings::integer(connection, Setting::Stored)?.unwrap_or(0);
    if !holds(connection, upload)? || kept >= upload.last.get() {
        return Ok(());
    }
    settings::store(connection, Setting::Stored, &Value::Integer(upload.last.get()))
}

/// A random id for the next upload.
pub(crate) fn new_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_no_source| Error::Random)?;
    Ok(id)
}

/// Stores a frame that comes before the others of an upload that is stored next; gives its number.
pub(crate) fn store_chunk(connection: &Connection, upload: &[u8; 16], frame: &[u8]) -> Result<i64> {
    let sql = "insert into main.cloudsync_outbox_chunks (upload, number, payload)
        select ?1, count(*) + 1, ?2 from main.cloudsync_outbox_chunks where upload = ?1 returning number";
    let row = params![upload.as_slice(), frame];
    connection.prepare_cached(sql)?.query_row(row, |row| row.get(0)).doing("store a chunk")
}

/// The next chunk of an upload that the server does not have.
pub(crate) fn next_chunk(connection: &Connection, upload: &Upload) -> Result<Option<Chunk>> {
    let sql = "select number, payload from main.cloudsync_outbox_chunks
        where upload = ?1 and not sent order by number limit 1";
    connection
        .prepare_cached(sql)?
        .query_row([upload.id.as_slice()], |row| Ok(Chunk { number: row.get(0)?, frame: row.get(1)? }))
        .optional()
        .doing("read a chunk")
}

/// Notes that the server has a chunk of an upload.
pub(crate) fn note_sent(connection: &Connection, upload: &Upload, number: i64) -> Result<()> {
    let sql = "update main.cloudsync_outbox_chunks set sent = 1 where upload = ?1 and number = ?2";
    let noted = connection.prepare_cached(sql)?.execute(params![upload.id.as_slice(), number]);
    noted.doing("note a chunk as sent").map(drop)
}

/// Notes that the server lacks chunks of an upload from a number on.
pub(crate) fn note_missing(connection: &Connection, upload: &[u8; 16], number: i64) -> Result<()> {
    let sql = "update main.cloudsync_outbox_chunks set sent = 0 where upload = ?1 and number >= ?2";
    let noted = connection.prepare_cached(sql)?.execute(params![upload.as_slice(), number]);
    noted.doing("note missing chunks").map(drop)
}

/// Hands over the frames of an upload, one after the other.
pub(crate) fn for_each_frame(
    connection: &Connection,
    upload: &Upload,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let sql = "select payload from main.cloudsync_outbox_chunks where upload = ?1 order by number";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([upload.id.as_slice()])?;
    while let Some(row) = rows.next().doing("read chunks")? {
        each(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
    }
    each(&upload.frame)
}

/// Stores an upload behind those that are there, with the chunks that were stored under its id.
pub(crate) fn store(
    connection: &Connection,
    id: [u8; 16],
    first: DbVersion,
    last: DbVersion,
    frame: Vec<u8>,
) -> Result<Upload> {
    let sql = "insert into main.cloudsync_outbox (upload, first, last, payload) values (?1, ?2, ?3, ?4)";
    let row = params![id.as_slice(), first.get(), last.get(), frame];
    connection.prepare_cached(sql)?.execute(row).doing("store an upload")?;
    let stored = pending(connection, Which::EndingWith(last))?;
    stored.ok_or(Error::Stored { what: "upload", found: String::from("none"), wanted: "the one just stored" })
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
    let id = [upload.id.as_slice()];
    let sql = "delete from main.cloudsync_outbox where upload = ?1";
    connection.prepare_cached(sql)?.execute(id).doing("remove an upload")?;
    if upload.before > 0 {
        let sql = "delete from main.cloudsync_outbox_chunks where upload = ?1";
        connection.prepare_cached(sql)?.execute(id).doing("remove chunks")?;
    }
    Ok(())
}

/// Drops what the server refused as a whole, and what came behind it: their rows are put into a new upload, baseline
/// rows from the beginning.
pub(crate) fn discard(connection: &Connection) -> Result<()> {
    for table in ["cloudsync_outbox", "cloudsync_outbox_chunks"] {
        connection.execute(&format!("delete from main.{table}"), []).doing("discard uploads")?;
    }
    settings::store(connection, Setting::Stored, &Value::Null)?;
    connection.execute("update main.cloudsync_tables set baseline_after = null", [])?;
    Ok(())
}
