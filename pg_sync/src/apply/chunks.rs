//! The chunks of one upload, merged one after the other in one transaction, as if they were one payload.
//!
//! What the database refuses of a chunk may wait for a row of a later one: a parent, or a value that another row still
//! has. So such rows are set aside and tried together once the last chunk is in; only what is refused then is told.
//! Beside those rows one chunk at a time is in memory; the others are in a temporary file.

use std::cell::RefCell;

use shared_format::payload::Payload;

use super::incoming::{self, Incoming};
use super::{Applied, Author, apply_alone, bodies, check_clock, halve, here, hold, refusal, settle};
use crate::catalog::{self, Tracked};
use crate::edge::memory::Context;
use crate::edge::session::{self, as_owner};
use crate::edge::spool::Spool;
use crate::error::SyncError;
use crate::{stage, version};

/// Chunks that the upload of this transaction has beside the one that it ends with: frames, or bare payloads, as they
/// came, in a temporary file.
#[derive(Default)]
pub(crate) struct Chunks {
    spool: Option<Spool>,
    /// One of them is missing, which says nothing of the others.
    pub(crate) is_missing: bool,
}

impl Chunks {
    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.spool.is_none()
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // After an error the abort closes the file.
        if let Some(spool) = self.spool.take().filter(|_| !std::thread::panicking()) {
            spool.close();
        }
    }
}

/// What is kept until the upload comes: nothing is dropped here, since a transaction may have ended meanwhile.
struct Kept {
    /// The transaction that they are of.
    xid: u64,
    spool: Option<Spool>,
    is_missing: bool,
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// Keeps a chunk for the upload that follows in this transaction; none stands for one that is missing.
pub(crate) fn add(frame: Option<&[u8]>) -> Result<(), SyncError> {
    let xid = session::top_xid();
    let known = KEPT.take().filter(|kept| kept.xid == xid);
    let mut kept = known.unwrap_or(Kept { xid, spool: None, is_missing: false });
    match frame {
        Some(frame) => {
            let mut spool = kept.spool.take().map_or_else(Spool::new, Ok)?;
            spool.push(frame);
            kept.spool = Some(spool);
        }
        None => kept.is_missing = true,
    }
    KEPT.set(Some(kept));
    Ok(())
}

/// Takes the chunks that were kept for the upload of this transaction.
pub(crate) fn take() -> Chunks {
    let Some(kept) = KEPT.take() else { return Chunks::default() };
    if kept.xid != session::top_xid() {
        return Chunks::default();
    }
    Chunks { spool: kept.spool, is_missing: kept.is_missing }
}

/// Merges chunks and the payload that ends them. `seen` is shown each payload.
pub(crate) fn run(
    chunks: &Chunks,
    last: &Payload<'_>,
    author: Author,
    mut seen: impl FnMut(&Payload<'_>) -> Result<(), SyncError>,
) -> Result<Applied, SyncError> {
    if stage::is_standing() {
        return Err(SyncError::Nested);
    }
    version::check()?;
    let tables = as_owner(catalog::tables);
    let mut applied = Applied::default();
    // The rows that are set aside point into the memory beside them.
    let mut late: Vec<(Context, Incoming)> = Vec::new();
    let mut one = |payload: &Payload<'_>| {
        seen(payload)?;
        let memory = Context::new(c"cloudsync chunk");
        let set_aside = memory.run(|| first_try(payload, tables.clone(), author, &mut applied))?;
        late.extend(set_aside.map(|incoming| (memory, incoming)));
        Ok::<_, SyncError>(())
    };
    if let Some(spool) = &chunks.spool {
        spool.for_each(|frame| bodies(frame)?.iter().try_for_each(|body| one(&Payload::parse(body)?)))?;
    }
    one(last)?;
    let (_memories, late): (Vec<Context>, Vec<Incoming>) = late.into_iter().unzip();
    if let Some(incoming) = incoming::joined(late) {
        let all: Vec<usize> = (0..incoming.rows.len()).collect();
        let mut refused = Vec::new();
        halve(&incoming, &incoming.by_dependence(&all), &mut applied, &mut refused)?;
        applied.refusals.extend(refused.into_iter().map(|(at, refused)| refusal(&incoming, at, refused)));
    }
    Ok(applied)
}

/// Merges what can be merged of one chunk; gives the rows that the database refused.
fn first_try(
    payload: &Payload<'_>,
    tables: Vec<Tracked>,
    author: Author,
    applied: &mut Applied,
) -> Result<Option<Incoming>, SyncError> {
    let mut incoming = incoming::read(payload, tables, author, here())?;
    hold(&incoming)?;
    check_clock(&incoming)?;
    applied.refusals.append(&mut incoming.refusals);
    applied.skipped.append(&mut incoming.skipped);
    let all: Vec<usize> = (0..incoming.rows.len()).collect();
    if all.is_empty() {
        return Ok(None);
    }
    match settle(&incoming, &all)? {
        Ok(settled) => {
            applied.count(&incoming, settled);
            Ok(None)
        }
        Err(_) => {
            let failed = apply_alone(&incoming, &all, applied)?;
            incoming.keep(&failed);
            Ok((!incoming.rows.is_empty()).then_some(incoming))
        }
    }
}
