//! The rows of a snapshot: read by a connection of their own, in one transaction, on a thread of their own.

use std::thread;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use shared_format::payload::{Limits, decode_frame};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::connection;
use super::file::{File, identity, in_transaction, name_of, pass_on};
use super::ground::server_of;
use crate::backend::{Page, PageWanted, SnapshotRows};
use crate::config::SqliteLocation;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::position::Lsn;

/// Bytes of one page: one slice of CPU work.
const PAGE_BYTES: i64 = 512 * 1024;

/// Pages that are read ahead.
const PAGES_AHEAD: usize = 2;

/// How often what others wrote is passed on before the moment that nobody wrote.
const TRIES: usize = 100;

/// The number under which all tables are asked for: their rows come one table after the other.
const ALL_TABLES: i32 = 0;

/// A view of the file that stands still.
struct View {
    lsn: Lsn,
    pages: Receiver<Result<Page>>,
}

/// Opens a view that shows all that is in the feed, and nothing else.
pub(super) async fn open(file: &File) -> Result<Box<dyn SnapshotRows>> {
    let location = file.location.clone();
    let opened = file.call(move |writer| {
        let mut reader = connection::open(&location)?;
        let lsn = view(writer, &mut reader)?;
        Ok((reader, lsn))
    });
    let (reader, lsn) = opened.await?;
    begin_reading(reader, lsn, &file.location)
}

/// Opens such a view of a file that a hub may be serving; the file is made by nobody, and has to be the one of the epoch.
pub(in crate::backend) async fn open_beside(
    location: &SqliteLocation,
    epoch: &Epoch,
) -> Result<Box<dyn SnapshotRows>> {
    let place = location.clone();
    let opened = tokio::task::spawn_blocking(move || {
        identity(&place.file).map_err(|source| Error::CentralFile {
            operation: "look at",
            path: place.file.clone(),
            source,
        })?;
        let mut writer = connection::open(&place)?;
        let name = name_of(&writer)?;
        let mut reader = connection::open(&place)?;
        let lsn = view(&mut writer, &mut reader)?;
        Ok::<_, Error>((reader, lsn, name))
    });
    let opened = opened.await.map_err(|_ended| Error::TaskEnded { task: "open the central file" })?;
    let (reader, lsn, name) = opened?;
    epoch.check_server(&server_of(&name))?;
    begin_reading(reader, lsn, location)
}

/// Reads on a thread of its own.
fn begin_reading(reader: Connection, lsn: Lsn, location: &SqliteLocation) -> Result<Box<dyn SnapshotRows>> {
    let (sender, pages) = mpsc::channel(PAGES_AHEAD);
    let reading = thread::Builder::new().name("central-snapshot".to_owned()).spawn(move || {
        if let Err(error) = read(&reader, &sender) {
            // Whoever asked may have given up.
            drop(sender.blocking_send(Err(error)));
        }
    });
    let path = location.file.clone();
    reading.map_err(|source| Error::CentralFile { operation: "read a snapshot of", path, source })?;
    Ok(Box::new(View { lsn, pages }))
}

/// Begins a transaction of the reader while nobody can write and all that was written is in the feed.
fn view(writer: &mut Connection, reader: &mut Connection) -> Result<Lsn> {
    let action = "begin a snapshot of the central file";
    let mut end = pass_on(writer)?;
    for _ in 0..TRIES {
        let found = in_transaction(writer, action, |writer| {
            let found: i64 = writer.query_row("select cloudsync_central_feed()", [], |row| row.get(0))?;
            let found = Lsn::new(found.unsigned_abs());
            if found == end {
                reader.execute_batch("begin")?;
                reader.query_row("select count(*) from sqlite_schema", [], |_row| Ok(()))?;
            }
            Ok(found)
        })?;
        if found == end {
            return Ok(end);
        }
        end = found;
    }
    Err(Error::Unavailable { reason: "the central file is written to all the time".to_owned() })
}

/// Sends the definitions of all tables, then their rows.
fn read(reader: &Connection, pages: &Sender<Result<Page>>) -> Result<()> {
    let failed = |source| Error::Sqlite { action: "read a snapshot of the central file", source };
    let sql = "select cloudsync_central_definitions()";
    let definitions: Vec<u8> = reader.query_row(sql, [], |row| row.get(0)).map_err(failed)?;
    let mut held = Page { payload: Some(definitions), rows: 0, next: None };
    let sql = "select cloudsync_central_rows(payload), rows from cloudsync_payload_chunks(0, null, ?1)";
    let mut statement = reader.prepare(sql).map_err(failed)?;
    let mut chunks = statement.query([PAGE_BYTES]).map_err(failed)?;
    while let Some(chunk) = chunks.next().map_err(failed)? {
        let frame = chunk.get_ref(0).and_then(|frame| Ok(frame.as_blob()?)).map_err(failed)?;
        let (payload, _length) = decode_frame(frame, &Limits::default())?;
        let page = Page { payload: Some(payload), rows: chunk.get(1).map_err(failed)?, next: None };
        // That there is a next one is known now.
        let before = std::mem::replace(&mut held, page);
        if pages.blocking_send(Ok(Page { next: Some(Vec::new()), ..before })).is_err() {
            return Ok(());
        }
    }
    drop(pages.blocking_send(Ok(held)));
    Ok(())
}

impl View {
    async fn next(&mut self, wanted: PageWanted) -> Result<Option<Page>> {
        if wanted.dead {
            // Tombstones come among the rows.
            return Ok(None);
        }
        match self.pages.recv().await {
            Some(page) => page.map(Some),
            None => Err(Error::TaskEnded { task: "read a snapshot" }),
        }
    }
}

impl SnapshotRows for View {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn tables(&mut self) -> BoxFuture<'_, Result<Vec<i32>>> {
        async { Ok(vec![ALL_TABLES]) }.boxed()
    }

    fn page(&mut self, page: PageWanted) -> BoxFuture<'_, Result<Option<Page>>> {
        self.next(page).boxed()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        async { Ok(()) }.boxed()
    }
}
