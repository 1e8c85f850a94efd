//! Fetches what others wrote, from the stored cursor on, and applies it together with the new cursor.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value as Json, json};
use shared_format::Value;

use super::Network;
use super::answer::{Answer, Ask, Concessions};
use super::broken_off::{self, BrokenOff, Next};
use super::elsewhere::{ELSEWHERE, FOLLOW};
use super::progress::Progress;
use super::transport::Method;
use crate::apply::reload::{self, Reload};
use crate::apply::{Source, apply, evicted, foreign_keys, rebase};
use crate::catalog::Replica;
use crate::connection::Applying;
use crate::error::{Error, Result};
use crate::log::{self, DbVersion};
use crate::parked;
use crate::resend::resend_after;
use crate::schema;
use crate::settings::{self, Setting};
use crate::sql::{Unit, check_interrupt};

/// Bytes gathered before they are applied in parts: bounds what a sync can make a device hold.
const GATHERED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of a snapshot that are applied in one step.
const STEP_BYTES: usize = 8 * 1024 * 1024;

/// Times that the rest of one answer is asked for at once; what came is kept for the next sync.
const RESUMED_MAX: usize = 8;

/// Longest wait that the hub grants: see DESIGN section 15.
const WAIT_MS_MAX: i64 = 60_000;

/// What one call received so far.
#[derive(Debug, Default)]
pub(crate) struct Received {
    rows: usize,
    tables: BTreeSet<String>,
    chunks: i64,
    bytes: usize,
    complete: bool,
}

/// Answers that are applied together.
#[derive(Debug, Default)]
struct Gathered {
    parts: Vec<Part>,
    cursor: Option<String>,
    /// The tables that they are of; of everything if there are none.
    reload: Reload,
}

/// What became of what the server had, when another came in its place.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    /// The number up to which the server has what this file sent.
    acked: Option<DbVersion>,
    /// What the snapshot lacks or has older was undone on purpose.
    is_restored: bool,
}

impl Loss {
    fn read(answer: &Answer) -> Self {
        let acked = answer.response.header("cloudsync-acked").and_then(|number| number.parse().ok());
        let is_restored = answer.response.header("cloudsync-restored") == Some("true");
        Self { acked: acked.map(DbVersion::new), is_restored }
    }

    /// Makes unsent what the server has to be given again, and forgets what it undid.
    fn take_in(self, replica: &mut Replica<'_>) -> Result<()> {
        if self.is_restored {
            return rebase::yield_to_snapshot(replica);
        }
        self.acked.map_or(Ok(()), |acked| resend_after(replica, acked))
    }
}

/// Frames of one source that lie together.
#[derive(Debug)]
struct Part {
    source: Source,
    /// Whether it is the first of a snapshot.
    begins: bool,
    /// What the server lost or undid, told at the begin of the snapshot that shows it.
    loss: Loss,
    frames: Vec<u8>,
}

impl Gathered {
    /// Begins at the stored place: in a snapshot of some tables, else in the log.
    fn begin(connection: &Connection) -> Result<Gathered> {
        let cursor = settings_cursor(connection)?;
        if is_refetch_wanted(connection)? {
            return Ok(Gathered::default());
        }
        let reload = Reload::read(connection)?;
        Ok(Gathered { cursor: reload.cursor.clone().or(cursor), reload, parts: Vec::new() })
    }

    /// Takes what the server gave in the place of some tables: a snapshot of everything.
    fn give_up_tables(&mut self, answer: &Answer, ask: &Ask<'_>) -> Result<()> {
        let is_refused = !self.reload.is_empty()
            && answer.response.header("cloudsync-tables") != Some(self.reload.names().as_str());
        if is_refused && !begins_snapshot(answer) {
            return Err(Error::Answer { url: ask.url.clone(), part: "Cloudsync-Tables" });
        }
        if is_refused {
            *self = Gathered { cursor: self.cursor.take(), ..Gathered::default() };
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.frames.len()).sum()
    }

    /// Bytes after which a part is applied. A snapshot is no transaction of the server, so it comes in small
    /// steps, each with its cursor, unless a step could end between a row and its parent.
    fn bytes_max(&self, connection: &Connection) -> Result<usize> {
        Ok(if self.is_in_steps(connection)? { STEP_BYTES } else { GATHERED_BYTES_MAX })
    }

    /// Whether what is here may be applied without what comes after it.
    fn is_in_steps(&self, connection: &Connection) -> Result<bool> {
        let is_snapshot = self.parts.iter().all(|part| part.source == Source::Snapshot);
        Ok(is_snapshot && !foreign_keys::can_open(connection)?)
    }

    /// What is asked for next: the tables, and from where.
    fn place(&self) -> String {
        format!("{}/{}", self.reload.names(), self.cursor.as_deref().unwrap_or_default())
    }

    /// Adds frames; of one source they lie together.
    fn add(&mut self, source: Source, frames: &[u8]) {
        match self.parts.last_mut() {
            Some(last) if last.source == source => last.frames.extend_from_slice(frames),
            _other => {
                let (begins, loss) = (false, Loss::default());
                self.parts.push(Part { source, begins, loss, frames: frames.to_vec() });
            }
        }
    }

    /// Begins a snapshot.
    fn begin_snapshot(&mut self, loss: Loss) {
        self.parts.push(Part { source: Source::Snapshot, begins: true, loss, frames: Vec::new() });
    }
}

impl Network {
    /// Receives changes until nothing is left, `retries` times more while none came.
    pub(crate) fn receive(
        &self,
        connection: &Connection,
        applying: &Applying,
        wait_ms: i64,
        retries: i64,
        chunks_max: Option<i64>,
    ) -> Result<Json> {
        self.receive_more(connection, applying, (wait_ms, retries), chunks_max, Received::default())
    }

    /// Receives what the server has before anything is sent from a file that has no place in its log yet. A snapshot
    /// may be older than what was just sent: rows that it lacks go, and unsent ones stay.
    pub(crate) fn receive_first(&self, connection: &Connection, applying: &Applying) -> Result<Received> {
        let mut received = Received::default();
        if settings_cursor(connection)?.is_none() && log::has_unsent(connection)? {
            match self.receive_once(connection, applying, 0, None, &mut received) {
                // While it can give nothing, it may still take what it is sent.
                Ok(()) | Err(Error::Refused { status: 503, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(received)
    }

    /// Receives what came behind what was received already, and waits `wait_ms` for it if that was nothing, `retries`
    /// times more.
    pub(crate) fn receive_more(
        &self,
        connection: &Connection,
        applying: &Applying,
        (wait_ms, retries): (i64, i64),
        chunks_max: Option<i64>,
        mut received: Received,
    ) -> Result<Json> {
        let (wait_ms, retries) = if received.rows > 0 { (0, 0) } else { (wait_ms, retries) };
        for _ in 0..=retries {
            self.receive_once(connection, applying, wait_ms.min(WAIT_MS_MAX), chunks_max, &mut received)?;
            if received.rows > 0 {
                break;
            }
        }
        // What came may say that more has to be fetched.
        let is_more_wanted = is_refetch_wanted(connection)? || !Reload::read(connection)?.is_empty();
        if received.complete && is_more_wanted {
            self.receive_once(connection, applying, 0, chunks_max, &mut received)?;
        }
        Ok(json!({
            "rows": received.rows,
            "tables": received.tables,
            "chunks": received.chunks,
            "bytes": received.bytes,
            "complete": received.complete,
        }))
    }

    /// Takes a snapshot, which has to come before anything is sent; nothing else will do.
    pub(super) fn rebase(&self, connection: &Connection, applying: &Applying) -> Result<()> {
        self.receive(connection, applying, 0, 0, None)?;
        if rebase::is_expired(connection)? {
            return Err(Error::Answer { url: self.server()?.changes(None, "", 0), part: "snapshot" });
        }
        Ok(())
    }

    fn receive_once(
        &self,
        connection: &Connection,
        applying: &Applying,
        wait_ms: i64,
        chunks_max: Option<i64>,
        received: &mut Received,
    ) -> Result<()> {
        let mut concessions = Concessions::default();
        schema::refresh(connection)?;
        let mut gathered = Gathered::begin(connection)?;
        let mut wait_ms = wait_ms;
        let progress = Progress::new(connection);
        let mut broken_off = BrokenOff::load(connection)?;
        loop {
            let fetched = self.fetch(connection, &gathered, wait_ms, &mut broken_off);
            if let Err(Error::Unreachable { .. }) = fetched
                && !gathered.parts.is_empty()
                && gathered.is_in_steps(connection)?
            {
                // What came before goes in, so that the next sync goes on where this one ended.
                take_in(connection, applying, &mut gathered, None, received)?;
            }
            let (ask, answer) = fetched?;
            if matches!(answer.response.status, 200 | 204) {
                gathered.give_up_tables(&answer, &ask)?;
            }
            match answer.response.status {
                200 => {
                    received.complete = gather(&answer, &ask, &mut gathered)?;
                    received.chunks += 1;
                    received.bytes += answer.response.body.len();
                    progress.tell("receive", received.rows, received.chunks, received.bytes)?;
                }
                204 => {
                    if begins_snapshot(&answer) {
                        gathered.begin_snapshot(Loss::read(&answer));
                    }
                    let cursor = answer.response.header("cloudsync-cursor").map(String::from);
                    gathered.cursor = cursor.or(gathered.cursor);
                    received.complete = true;
                }
                _refused => {
                    answer.give_way(connection, &ask, &mut concessions)?;
                    if is_refetch_wanted(connection)? {
                        let parts = if gathered.reload.is_empty() { gathered.parts } else { Vec::new() };
                        gathered = Gathered { parts, ..Gathered::default() };
                    }
                    continue;
                }
            }
            wait_ms = 0;
            let bytes_max = gathered.bytes_max(connection)?;
            let is_enough = chunks_max.is_some_and(|max| received.chunks >= max);
            if received.complete || is_enough || gathered.bytes() > bytes_max {
                take_in(connection, applying, &mut gathered, Some(&answer), received)?;
                progress.tell("receive", received.rows, received.chunks, received.bytes)?;
            }
            if received.complete && !gathered.reload.is_empty() && !is_enough {
                // The tables are here; the log goes on from where it was left.
                gathered = Gathered::begin(connection)?;
            } else if received.complete || is_enough {
                return Ok(());
            }
        }
    }

    /// Asks for what comes next. Of a part of a snapshot that breaks off only the rest is asked for again.
    fn fetch(
        &self,
        connection: &Connection,
        gathered: &Gathered,
        wait_ms: i64,
        broken_off: &mut BrokenOff<'_>,
    ) -> Result<(Ask<'static>, Answer)> {
        let place = gathered.place();
        let mut resumed = 0;
        loop {
            check_interrupt(connection)?;
            let mut ask = self.download_ask(connection, gathered, wait_ms)?;
            ask.headers.extend(broken_off.headers(&place));
            let is_direct = self.is_direct.get();
            ask.headers.extend((!is_direct).then(|| (FOLLOW.0, FOLLOW.1.to_owned())));
            let mut answer = self.ask_in_part(connection, &ask)?;
            if answer.response.status == ELSEWHERE && !is_direct {
                let from = broken_off.length(&place, &answer.response);
                match self.follow(connection, &ask, &answer.response, from)? {
                    Some(response) => answer.response = response,
                    None => {
                        self.is_direct.set(true);
                        continue;
                    }
                }
            }
            let broken = answer.response.broken.take();
            let next = broken_off.take(&place, &mut answer.response, broken.is_some())?;
            match (next, broken) {
                (Next::AskAgain, _) => {}
                (Next::AskForRest, Some(_)) if resumed < RESUMED_MAX => resumed += 1,
                (_, Some(error)) => return Err(ask.unreachable(error)),
                (_, None) => return Ok((ask, answer)),
            }
        }
    }

    fn download_ask(
        &self,
        connection: &Connection,
        gathered: &Gathered,
        wait_ms: i64,
    ) -> Result<Ask<'static>> {
        let replica = Replica::open(connection)?;
        Ok(Ask {
            method: Method::Get,
            url: self.server()?.changes(gathered.cursor.as_deref(), &gathered.reload.names(), wait_ms),
            headers: self.headers(&replica)?,
            body: &[],
            upload: None,
            wait: Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)),
            answer_bytes_max: u64::try_from(GATHERED_BYTES_MAX).unwrap_or(u64::MAX),
            wanted: "200 or 204",
        })
    }
}

fn is_refetch_wanted(connection: &Connection) -> Result<bool> {
    Ok(settings::integer(connection, Setting::Refetch)? == Some(1))
}

fn settings_cursor(connection: &Connection) -> Result<Option<String>> {
    Replica::open(connection)?;
    settings::text(connection, Setting::Cursor)
}

/// Whether an answer is the first part of a snapshot. It may come in the middle of another one, which is gone.
fn begins_snapshot(answer: &Answer) -> bool {
    answer.response.header("cloudsync-part") == Some("0")
}

/// Adds an answer's frames; says whether they end a transaction of the server.
fn gather(answer: &Answer, ask: &Ask<'_>, gathered: &mut Gathered) -> Result<bool> {
    let response = &answer.response;
    let wrong = |part| Error::Answer { url: ask.url.clone(), part };
    let source = match response.header("cloudsync-source") {
        Some("log") => Source::Log,
        Some("snapshot") => Source::Snapshot,
        _other => return Err(wrong("Cloudsync-Source")),
    };
    let is_complete = match response.header("cloudsync-complete") {
        Some("true") => true,
        Some("false") => false,
        _other => return Err(wrong("Cloudsync-Complete")),
    };
    let cursor = response.header("cloudsync-cursor").ok_or_else(|| wrong("Cloudsync-Cursor"))?;
    if begins_snapshot(answer) {
        gathered.begin_snapshot(Loss::read(answer));
    }
    gathered.add(source, &response.body);
    gathered.cursor = Some(cursor.to_owned());
    Ok(is_complete)
}

/// Applies what was gathered and stores the cursor behind it in the same commit.
fn take_in(
    connection: &Connection,
    applying: &Applying,
    gathered: &mut Gathered,
    answer: Option<&Answer>,
    received: &mut Received,
) -> Result<()> {
    let known = settings_cursor(connection)?;
    let has_refused = !parked::refused(connection)?.is_empty() || evicted::are_waiting(connection)?;
    if gathered.parts.is_empty() && gathered.cursor == known && !has_refused {
        return Ok(());
    }
    if gathered.parts.is_empty() && has_refused {
        gathered.add(Source::Log, &[]);
    }
    let unit = Unit::begin(connection)?;
    let mut replica = Replica::current(connection)?;
    answer.map_or(Ok(()), |answer| answer.keep_clock(connection))?;
    for part in gathered.parts.drain(..) {
        if part.begins {
            part.loss.take_in(&mut replica)?;
            if gathered.reload.is_empty() {
                rebase::begin(&replica)?;
            } else {
                rebase::begin_tables(&replica)?;
            }
        } else if part.source == Source::Log && rebase::is_on(connection)? {
            received.rows += rebase::finish(&mut replica)?;
        }
        if part.source == Source::Snapshot && rebase::is_on(connection)? {
            rebase::note(&replica, &part.frames, &gathered.reload.tables)?;
        }
        let applied = apply(&mut replica, applying, &part.frames, part.source)?;
        received.rows += applied.rows;
        received.tables.extend(applied.tables);
    }
    if received.complete && rebase::is_on(connection)? {
        received.rows += rebase::finish(&mut replica)?;
    }
    match &gathered.cursor {
        _ if !gathered.reload.is_empty() && received.complete => reload::end(connection)?,
        Some(cursor) if !gathered.reload.is_empty() => reload::go_on(connection, cursor)?,
        Some(cursor) => settings::store(connection, Setting::Cursor, &Value::Text(cursor.clone()))?,
        None => {}
    }
    if answer.is_some() {
        broken_off::forget(connection)?;
    }
    unit.commit()
}
