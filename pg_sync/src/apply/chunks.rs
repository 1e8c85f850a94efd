//! The chunks of one upload, merged one after the other in one transaction, as if they were one payload.
//!
//! What the database refuses of a chunk may wait for a row of a later one: a parent, or a value that another row still
//! has. So such rows are set aside and tried together once the last chunk is in; only what is refused then is told.
//! Beside those rows one chunk at a time is in memory.

use std::cell::RefCell;

use shared_format::payload::Payload;

use super::incoming::{self, Incoming};
use super::{Applied, Author, apply_alone, bodies, check_clock, halve, here, hold, refusal, settle};
use crate::catalog::{self, Tracked};
use crate::edge::memory::Context;
use crate::edge::session::{self, as_owner};
use crate::error::SyncError;
use crate::{stage, version};

/// Chunks that the upload of this transaction has beside the one that it ends with.
#[derive(Default)]
struct Chunks {
    /// The transaction that they are of.
    xid: u64,
    /// The frames, or bare payloads, as they came; none where one is missing.
    frames: Vec<Option<Vec<u8>>>,
}

thread_local! {
    static CHUNKS: RefCell<Chunks> = RefCell::default();
}

/// Keeps a chunk for the upload that follows in this transaction; none stands for one that is missing.
pub(crate) fn add(frame: Option<&[u8]>) {
    let xid = session::top_xid();
    CHUNKS.with_borrow_mut(|chunks| {
        if chunks.xid != xid {
            *chunks = Chunks { xid, frames: Vec::new() };
        }
        chunks.frames.push(frame.map(<[u8]>::to_vec));
    });
}

/// Takes the chunks that were kept for the upload of this transaction.
pub(crate) fn take() -> Vec<Option<Vec<u8>>> {
    let chunks = CHUNKS.take();
    if chunks.frames.is_empty() || chunks.xid != session::top_xid() { Vec::new() } else { chunks.frames }
}

/// Merges chunks and the payload that ends them. `seen` is shown each payload.
pub(crate) fn run(
    chunks: &[Vec<u8>],
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
    for frame in chunks {
        for body in bodies(frame)? {
            one(&Payload::parse(&body)?)?;
        }
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
