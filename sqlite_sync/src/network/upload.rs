//! Sends what is unsent, one stored upload after the other, and takes in the answers.
//!
//! While the server keeps what it cannot apply yet, the next upload goes behind it and names the one before. They are
//! answered for together, by the last that the server has.
//!
//! The chunks of an upload go one by one; the server keeps them, and answers the last as it answers an upload.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value as Json, json};
use shared_format::{Hlc, Stamp, Value};

use super::Network;
use super::answer::{Answer, Ask, Concessions};
use super::progress::Progress;
use super::transport::Method;
use crate::apply::rebase;
use crate::catalog::Replica;
use crate::changes::{Cut, next_upload};
use crate::conflicts::{self, LostAtServer};
use crate::connection::Applying;
use crate::error::{Error, Result};
use crate::log::{self, DbVersion};
use crate::outbox::{self, Chunk, Upload, Which};
use crate::rejected::{self, Rejection};
use crate::settings::{self, Setting};
use crate::sql::Unit;

/// An answer to an upload is two lists at most: 1,000 refusals, each by its row's key and a message, and 1,000 cells
/// that lost. One that cannot be read would hold up the file for good.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How much longer a server may take for each chunk that it applies with the last one.
const CHUNK_WAIT: Duration = Duration::from_secs(20);

/// Times that one call turns to another upload, since the one asked about does not follow what the server has.
const BACKS_MAX: usize = 8;

/// The status of a file whose changes the server keeps, but has not applied yet.
const STORED: &str = "syncing";

impl Network {
    /// Sends everything unsent; the result says where file and server are.
    pub(crate) fn send(&self, connection: &Connection, applying: &Applying) -> Result<Json> {
        let mut concessions = Concessions::default();
        self.ask_time(connection)?;
        let progress = Progress::new(connection);
        let (mut chunks, mut bytes) = (0, 0);
        let mut cut = Cut::Chunks;
        let mut turn = Turn::default();
        loop {
            if rebase::is_expired(connection)? {
                self.rebase(connection, applying)?;
            }
            let Some(upload) = take_upload(connection, cut, turn.which)? else { break };
            progress.tell("send", 0, chunks, bytes)?;
            if upload.before > 0
                && let Some(chunk) = outbox::next_chunk(connection, &upload)?
            {
                let ask = self.chunk_ask(connection, &upload, &chunk)?;
                let answer = self.ask(connection, &ask)?;
                if answer.response.status == 202 {
                    stage(connection, &upload, &chunk, &answer)?;
                    chunks += 1;
                    bytes += chunk.frame.len();
                } else if answer.is_of_no_path() {
                    // The server is older than chunks.
                    cut = Cut::Bodies;
                    outbox::discard(connection)?;
                } else if !turn.back(connection, &upload, &answer)? {
                    answer.give_way(connection, &ask, &mut concessions)?;
                }
                continue;
            }
            let ask = self.upload_ask(connection, &upload)?;
            let answer = self.ask(connection, &ask)?;
            if answer.response.status == 200 {
                turn.which = Which::EndingWith(upload.last);
                if accept(connection, &upload, &ask, &answer)? {
                    turn.which = Which::Oldest;
                    chunks += 1;
                    bytes += upload.frame.len();
                }
            } else if answer.response.status == 202 {
                // The server keeps it until its database is back. It is asked again by the same upload, so that what
                // became of it is heard, and nothing is given up before.
                keep(connection, &upload, &answer)?;
                turn.which = Which::Unkept;
                if !answer.takes_next() {
                    break;
                }
            } else if !turn.back(connection, &upload, &answer)? {
                answer.give_way(connection, &ask, &mut concessions)?;
            }
        }
        let mut told = status(connection)?;
        if outbox::newest(connection)? > DbVersion::default() {
            told["status"] = json!(STORED);
        }
        Ok(told)
    }

    /// Sends everything unsent to a server whose database is there; otherwise it is an error.
    pub(crate) fn send_through(&self, connection: &Connection, applying: &Applying) -> Result<()> {
        let told = self.send(connection, applying)?;
        if told["status"] != json!(STORED) {
            return Ok(());
        }
        Err(Error::Unreachable {
            method: Method::Post.name(),
            url: self.server()?.uploads(),
            reason: String::from("the server keeps what was sent until its database is back"),
            wanted: "200",
        })
    }

    /// Asks what time it is before anything is stamped by a clock that was never compared.
    fn ask_time(&self, connection: &Connection) -> Result<()> {
        let replica = Replica::current(connection)?;
        if settings::integer(connection, Setting::ClockOffset)?.is_some()
            || log::folded(connection)? >= log::newest(connection)?
        {
            return Ok(());
        }
        // Every answer has the time, also the one that this address takes no GET.
        let ask = Ask {
            method: Method::Get,
            url: self.server()?.uploads(),
            headers: self.headers(&replica)?,
            body: &[],
            upload: None,
            wait: Duration::ZERO,
            answer_bytes_max: ANSWER_BYTES_MAX,
            wanted: "the time",
        };
        let answer = self.ask(connection, &ask)?;
        let unit = Unit::begin(connection)?;
        answer.keep_clock(connection)?;
        unit.commit()
    }

    fn chunk_ask<'u>(&self, connection: &Connection, upload: &Upload, chunk: &'u Chunk) -> Result<Ask<'u>> {
        self.post_ask(connection, upload, Some(chunk.number), &chunk.frame)
    }

    fn upload_ask<'u>(&self, connection: &Connection, upload: &'u Upload) -> Result<Ask<'u>> {
        let last = (upload.before > 0).then_some(upload.before + 1);
        self.post_ask(connection, upload, last, &upload.frame)
    }

    /// One body of an upload; `chunk` is its number, if it is not all of it.
    fn post_ask<'u>(
        &self,
        connection: &Connection,
        upload: &Upload,
        chunk: Option<i64>,
        frame: &'u [u8],
    ) -> Result<Ask<'u>> {
        let replica = Replica::open(connection)?;
        let mut headers = self.headers(&replica)?;
        let hex = |id: [u8; 16]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        headers.push(("Cloudsync-Upload", hex(upload.id)));
        headers.extend(upload.follows.map(|before| ("Cloudsync-After", hex(before))));
        headers.push(("Cloudsync-Range", format!("{}-{}", upload.first.get(), upload.last.get())));
        headers.push(("Content-Type", String::from("application/octet-stream")));
        if let Some(seen) = settings::integer(connection, Setting::RejectedSeen)?.filter(|seen| *seen > 0) {
            headers.push(("Cloudsync-Rejected-Seen", seen.to_string()));
        }
        let mut wait = Duration::ZERO;
        if let Some(number) = chunk {
            let count = upload.before + 1;
            headers.push(("Cloudsync-Chunk", format!("{number}/{count}")));
            if number == count {
                wait = CHUNK_WAIT.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
            }
        }
        let server = self.server()?;
        Ok(Ask {
            method: Method::Post,
            url: if chunk.is_some() { server.chunks() } else { server.uploads() },
            headers,
            body: frame,
            upload: Some(upload.id),
            wait,
            answer_bytes_max: ANSWER_BYTES_MAX,
            wanted: "200 or 202",
        })
    }
}

/// Which upload is asked about next. The newest that the server keeps says at once what became of all before it.
#[derive(Debug)]
struct Turn {
    which: Which,
    /// How often another one was to be asked about first.
    backs: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self { which: Which::Kept, backs: 0 }
    }
}

impl Turn {
    /// After a refusal, turns to the upload that the server says it took last, or to the oldest. False if the refusal
    /// is about the one that was asked about: then nothing is known to be taken that was not answered for.
    fn back(&mut self, connection: &Connection, upload: &Upload, answer: &Answer) -> Result<bool> {
        let Some(acked) = answer.refuses_for_place() else { return Ok(false) };
        let taken = acked.filter(|acked| *acked != upload.last).map(Which::EndingWith);
        let taken = match taken {
            Some(which) => outbox::pending(connection, which)?.map(|_| which),
            None => None,
        };
        let which = match (taken, upload.follows) {
            (Some(which), _) => which,
            (None, Some(_)) => Which::Oldest,
            (None, None) => return Ok(false),
        };
        self.backs += 1;
        self.which = which;
        Ok(self.backs <= BACKS_MAX)
    }
}

/// An upload that is on its way, or the next one, stored before it is sent.
fn take_upload(connection: &Connection, cut: Cut, which: Which) -> Result<Option<Upload>> {
    let unit = Unit::begin(connection)?;
    let mut replica = Replica::current(connection)?;
    let found = match outbox::pending(connection, which)? {
        // What was asked about was given up meanwhile.
        None if which != Which::Unkept => outbox::pending(connection, Which::Oldest)?,
        found => found,
    };
    let upload = match found {
        Some(upload) => Some(upload),
        None => next_upload(&mut replica, cut)?,
    };
    unit.commit()?;
    Ok(upload)
}

/// Takes in that the server keeps an upload until its database is back.
fn keep(connection: &Connection, upload: &Upload, answer: &Answer) -> Result<()> {
    let unit = Unit::begin(connection)?;
    outbox::note_kept(connection, upload)?;
    answer.keep_clock(connection)?;
    unit.commit()
}

/// Takes in that the server keeps a chunk.
fn stage(connection: &Connection, upload: &Upload, chunk: &Chunk, answer: &Answer) -> Result<()> {
    let unit = Unit::begin(connection)?;
    outbox::note_sent(connection, upload, chunk.number)?;
    answer.keep_clock(connection)?;
    unit.commit()
}

/// Takes in that the server has an upload, and those before it: their range goes, their refusals stay. False while the server has more
/// refusals to tell: then the upload is sent again, which confirms those that came and asks for the next.
fn accept(connection: &Connection, upload: &Upload, ask: &Ask<'_>, answer: &Answer) -> Result<bool> {
    let wrong = |part| Error::Answer { url: ask.url.clone(), part };
    let json: Json = serde_json::from_slice(&answer.response.body).map_err(|_| wrong("JSON body"))?;
    let status = json.get("status").and_then(Json::as_str);
    if !matches!(status, Some("applied" | "duplicate")) {
        return Err(wrong("status"));
    }
    let token = json.get("token").and_then(Json::as_str).ok_or_else(|| wrong("token"))?;
    let rejections = list(&json, "rejected")
        .iter()
        .map(|one| rejection(one).ok_or_else(|| wrong("rejected")))
        .collect::<Result<Vec<_>>>()?;
    let lost = list(&json, "lost")
        .iter()
        .map(|one| lost_cell(one).ok_or_else(|| wrong("lost")))
        .collect::<Result<Vec<_>>>()?;
    let lost_more = json.get("lost_more").and_then(Json::as_i64).unwrap_or(0);
    let unit = Unit::begin(connection)?;
    let mut replica =
        if lost.is_empty() { Replica::open(connection)? } else { Replica::current(connection)? };
    let is_told = !tells_more(connection, &json, &rejections)?;
    let holds = outbox::holds(connection, upload)?;
    let Some(oldest) = outbox::pending(connection, Which::Oldest)?.filter(|_| holds) else {
        return unit.commit().map(|()| is_told);
    };
    conflicts::record_lost(&mut replica, &lost, lost_more)?;
    rejected::store(&replica, &rejections)?;
    settings::store(connection, Setting::Token, &Value::Text(token.to_owned()))?;
    answer.keep_clock(connection)?;
    if !is_told {
        outbox::note_kept(connection, upload)?;
        return unit.commit().map(|()| false);
    }
    let first = oldest.first;
    // The server took none before those that it follows.
    let mut next = Some(oldest);
    while let Some(taken) = next.filter(|taken| taken.last <= upload.last) {
        outbox::for_each_frame(connection, &taken, |frame| {
            rejected::forget_accepted(&replica, frame, taken.last)
        })?;
        outbox::remove(connection, &taken)?;
        next = outbox::pending(connection, Which::Oldest)?;
    }
    settings::store(connection, Setting::Acknowledged, &Value::Integer(upload.last.get()))?;
    log::delete_range(connection, first, upload.last)?;
    unit.commit().map(|()| true)
}

/// Whether the server has refusals that this answer does not name. Only as long as each answer names new ones.
fn tells_more(connection: &Connection, answer: &Json, named: &[Rejection]) -> Result<bool> {
    let more = answer.get("rejected_more").and_then(Json::as_i64).unwrap_or(0);
    let seen = settings::integer(connection, Setting::RejectedSeen)?.unwrap_or(0);
    Ok(more > 0 && named.iter().any(|rejection| rejection.id.is_some_and(|id| id > seen)))
}

fn list<'j>(json: &'j Json, name: &str) -> &'j [Json] {
    json.get(name).and_then(Json::as_array).map_or(&[][..], Vec::as_slice)
}

fn lost_cell(json: &Json) -> Option<LostAtServer> {
    let text = |name: &str| json.get(name).and_then(Json::as_str);
    let hlc = Hlc::from_sql(json.get("hlc")?.as_i64()?);
    Some(LostAtServer {
        table: text("table")?.to_owned(),
        key: json.get("key")?.as_array()?.clone(),
        column: text("column")?.to_owned(),
        won: Stamp { hlc, site: text("site")?.parse().ok()? },
    })
}

fn rejection(json: &Json) -> Option<Rejection> {
    let text = |name: &str| json.get(name).and_then(Json::as_str).map(String::from);
    let number = |name: &str| json.get(name).and_then(Json::as_i64);
    Some(Rejection {
        id: Some(number("id")?),
        table: text("table")?,
        key: json.get("key")?.as_array()?.clone(),
        sqlstate: text("sqlstate")?,
        message: text("message")?,
        first: DbVersion::new(number("first")?),
        last: DbVersion::new(number("last")?),
    })
}

/// Where file and server are, and how many rows the server refused and has not accepted since.
pub(crate) fn status(connection: &Connection) -> Result<Json> {
    let sql = "select count(*) from main.cloudsync_rejected";
    let rejected: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let is_synced = !log::has_unsent(connection)?;
    Ok(json!({
        "status": if is_synced { "synced" } else { "out-of-sync" },
        "localVersion": log::newest(connection)?.get(),
        "serverVersion": log::acknowledged(connection)?.get(),
        "rejected": rejected,
    }))
}
