//! One exchange with the hub: the headers that every request has, the clock that every answer tells, and
//! what a refusal says.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value as Json;
use shared_format::{Hlc, Value};

use super::transport::{Cancelled, Method, Request, Response, TransportError};
use super::{Network, Server};
use crate::apply::rebase;
use crate::catalog::Replica;
use crate::error::{Error, Result};
use crate::log::{self, DbVersion};
use crate::outbox;
use crate::resend::resend_after;
use crate::restamp::{Reason, restamp_unsent};
use crate::settings::{self, Setting};
use crate::sql::{Unit, check_interrupt, wall_ms};

/// How long the hub may take to begin an answer, beside what it was asked to wait.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// How long one request waits in all when the server takes no more for now.
const THROTTLED_MAX: Duration = Duration::from_secs(60);

/// Times that one call gives way to a refusal which it can do something about.
const CONCESSIONS_MAX: usize = 3;

/// Header that names this site.
const SITE: &str = "Cloudsync-Site";

/// Header with the newest token that the server gave this site.
const TOKEN: &str = "Cloudsync-Token";

/// Header with the place up to which everything is in this file: tombstones before it may be collected.
const CURSOR: &str = "Cloudsync-Acknowledged";

/// An answer with what its headers say of the clock.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Server time minus device time, in milliseconds; None when the answer had no time.
    pub(super) offset_ms: Option<i64>,
}

/// Counts how often a call gave way.
#[derive(Debug, Default)]
pub(super) struct Concessions(usize);

/// What a refusal calls for.
enum Way {
    /// Other stamps for what is unsent.
    Restamp(Reason),
    /// A snapshot before anything else.
    Rebase,
    /// The same, by which the server tells what it undid.
    Restored,
    /// What was acknowledged after a number, once more.
    Resend(DbVersion),
    /// The chunks of the upload from a number on, once more.
    SendChunks(i64),
}

/// What is asked for.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: &'a [u8],
    /// The upload that the body is of.
    pub(super) upload: Option<[u8; 16]>,
    pub(super) wait: Duration,
    pub(super) answer_bytes_max: u64,
    pub(super) wanted: &'static str,
}

impl Ask<'_> {
    /// The error that says why no answer came.
    pub(super) fn unreachable(&self, error: TransportError) -> Error {
        Error::Unreachable {
            method: self.method.name(),
            url: self.url.clone(),
            reason: error.reason,
            wanted: self.wanted,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

impl Network {
    /// The server that was set.
    pub(crate) fn server(&self) -> Result<&Server> {
        self.server.as_ref().ok_or(Error::NoServer)
    }

    /// Headers that name this site and its place.
    pub(super) fn headers(&self, replica: &Replica<'_>) -> Result<Vec<(&'static str, String)>> {
        let connection = replica.connection;
        let mut headers = vec![
            (SITE, replica.own().to_string()),
            ("Cloudsync-Db-Version", log::newest(connection)?.get().to_string()),
        ];
        headers.extend(self.api_key.as_ref().map(|key| ("Authorization", format!("Bearer {key}"))));
        headers.extend(settings::text(connection, Setting::Token)?.map(|token| (TOKEN, token)));
        headers.extend(settings::text(connection, Setting::Cursor)?.map(|cursor| (CURSOR, cursor)));
        Ok(headers)
    }

    /// Sends a request, again as long as the server takes no more for now and says when it will.
    pub(super) fn ask(&self, connection: &Connection, ask: &Ask<'_>) -> Result<Answer> {
        let mut answer = self.ask_in_part(connection, ask)?;
        match answer.response.broken.take() {
            Some(error) => Err(ask.unreachable(error)),
            None => Ok(answer),
        }
    }

    /// The same, where the body of the answer may have broken off.
    pub(super) fn ask_in_part(&self, connection: &Connection, ask: &Ask<'_>) -> Result<Answer> {
        let mut patience = THROTTLED_MAX;
        loop {
            let answer = self.ask_once(connection, ask)?;
            let Some(wait) = answer.asks_to_wait() else { return Ok(answer) };
            let wait = jittered(connection, wait)?;
            let Some(left) = patience.checked_sub(wait) else { return Ok(answer) };
            patience = left;
            self.transport.pause(wait, &Cancelled(&|| check_interrupt(connection).is_err()));
            check_interrupt(connection)?;
        }
    }

    /// Sends a request and measures the server's clock against this device's.
    fn ask_once(&self, connection: &Connection, ask: &Ask<'_>) -> Result<Answer> {
        let request = Request {
            method: ask.method,
            url: &ask.url,
            headers: &ask.headers,
            body: ask.body,
            answer_within: ANSWER_WITHIN + ask.wait,
            answer_bytes_max: ask.answer_bytes_max,
            cancelled: Cancelled(&|| check_interrupt(connection).is_err()),
        };
        let sent_ms = wall_ms(connection)?;
        let response = self.transport.send(&request);
        check_interrupt(connection)?;
        let response = response.map_err(|error| ask.unreachable(error))?;
        let received_ms = wall_ms(connection)?;
        let server_ms = response.header("cloudsync-time").and_then(|time| time.parse().ok());
        let offset_ms = server_ms.map(|server_ms| offset_ms(sent_ms, received_ms, server_ms));
        Ok(Answer { response, offset_ms })
    }
}

/// Up to a quarter more, so that devices that were told the same do not come at once.
fn jittered(connection: &Connection, wait: Duration) -> Result<Duration> {
    let more: u32 =
        connection.prepare_cached("select abs(random() % 250)")?.query_row([], |row| row.get(0))?;
    Ok(wait.saturating_add(wait.saturating_mul(more) / 1_000))
}

/// The least correction under which the server's time lies between sending and receiving.
fn offset_ms(sent_ms: i64, received_ms: i64, server_ms: i64) -> i64 {
    if server_ms < sent_ms {
        server_ms.saturating_sub(sent_ms)
    } else {
        server_ms.saturating_sub(received_ms).max(0)
    }
}

impl Answer {
    /// Remembers the server's clock, in the caller's transaction.
    pub(super) fn keep_clock(&self, connection: &Connection) -> Result<()> {
        match self.offset_ms {
            Some(offset) => settings::store(connection, Setting::ClockOffset, &Value::Integer(offset)),
            None => Ok(()),
        }
    }

    /// How long to wait before the same is asked again, if the server takes no more for now.
    fn asks_to_wait(&self) -> Option<Duration> {
        // Whoever showed wrong keys is not helped by showing them again.
        let is_throttled = self.response.status == 429
            && self.problem().get("code").and_then(Json::as_str) != Some("too_many_failures");
        let seconds = self.response.header("retry-after").filter(|_| is_throttled)?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// Whether the server does not know the path, though it may know the database.
    pub(super) fn is_of_no_path(&self) -> bool {
        let is_unknown = self.response.status == 404;
        is_unknown && self.problem().get("code").and_then(Json::as_str) == Some("not_found")
    }

    /// The number up to which the server has everything of this site, if a refusal says it that comes of not knowing
    /// what became of an upload before; the inner None if it does not say.
    pub(super) fn refuses_for_place(&self) -> Option<Option<DbVersion>> {
        let problem = self.problem();
        let code = problem.get("code").and_then(Json::as_str)?;
        let is_it = matches!(
            code,
            "out_of_order" | "site_conflict" | "clock_ahead" | "cursor_expired" | "invalid_payload"
        );
        is_it.then(|| problem.get("acked").and_then(Json::as_i64).map(DbVersion::new))
    }

    /// Whether the server, which keeps an upload until its database is back, takes the next one too.
    pub(super) fn takes_next(&self) -> bool {
        self.problem().get("takes_next").and_then(Json::as_bool) == Some(true)
    }

    fn problem(&self) -> Json {
        serde_json::from_slice(&self.response.body).unwrap_or(Json::Null)
    }

    /// The error that says what was refused; never repeats what was sent.
    pub(super) fn refused(&self, ask: &Ask<'_>) -> Error {
        let problem = self.problem();
        let part = |name: &str| problem.get(name).and_then(Json::as_str).map(|text| format!(" {text}"));
        let parts = [part("code"), part("title"), part("detail")].into_iter().flatten();
        let detail = parts.collect::<Vec<_>>().join(":").chars().take(500).collect();
        Error::Refused {
            method: ask.method.name(),
            url: ask.url.clone(),
            status: self.response.status,
            detail,
            wanted: ask.wanted,
        }
    }

    /// Does what a refusal calls for, so that the call can go on; otherwise the refusal is the error.
    pub(super) fn give_way(
        &self,
        connection: &Connection,
        ask: &Ask<'_>,
        concessions: &mut Concessions,
    ) -> Result<()> {
        let problem = self.problem();
        let code = problem.get("code").and_then(Json::as_str);
        let number = |name: &str| problem.get(name).and_then(Json::as_i64);
        let way = match code {
            Some("site_conflict") => Way::Restamp(Reason::SiteConflict),
            Some("clock_ahead") => Way::Restamp(Reason::ClockAhead {
                accepted: Hlc::from_sql(number("accepted_hlc").unwrap_or(0)),
                server_ms: number("server_time_ms")
                    .ok_or_else(|| Error::Answer { url: ask.url.clone(), part: "server_time_ms" })?,
            }),
            // With status 410, to an upload or a download: the cursor is behind the horizon of DESIGN section 4.
            Some("cursor_expired") => Way::Rebase,
            Some("restored") => Way::Restored,
            Some("out_of_order") => match number("acked").map(DbVersion::new) {
                Some(acked) if acked < log::acknowledged(connection)? => Way::Resend(acked),
                Some(_) | None => return Err(self.refused(ask)),
            },
            Some("incomplete_upload") => Way::SendChunks(number("missing").unwrap_or(1)),
            _other => return Err(self.refused(ask)),
        };
        concessions.0 += 1;
        if concessions.0 > CONCESSIONS_MAX {
            return Err(self.refused(ask));
        }
        let unit = Unit::begin(connection)?;
        let mut replica = Replica::current(connection)?;
        let is_current = settings::text(connection, Setting::Token)?.as_deref() == ask.header(TOKEN)
            && ask.header(SITE) == Some(replica.own().to_string().as_str());
        // Otherwise another process synced this file meanwhile, and the request was merely late.
        if is_current {
            match way {
                Way::Rebase => rebase::expire(connection)?,
                Way::Restored => rebase::expect_restored(connection)?,
                Way::Resend(acked) => resend_after(&mut replica, acked)?,
                Way::SendChunks(number) => {
                    outbox::note_missing(connection, &ask.upload.unwrap_or_default(), number)?;
                }
                Way::Restamp(reason) => {
                    restamp_unsent(&mut replica, reason)?;
                    if matches!(reason, Reason::SiteConflict) {
                        forget_place(connection)?;
                    }
                }
            }
        }
        self.keep_clock(connection)?;
        unit.commit()
    }
}

/// The server knows nothing of a new site. What the former one had acknowledged is no longer in the log, so
/// the first upload stands for all numbers from 1 on.
fn forget_place(connection: &Connection) -> Result<()> {
    settings::store(connection, Setting::Acknowledged, &Value::Integer(0))?;
    for setting in [Setting::Token, Setting::RejectedSeen] {
        settings::store(connection, setting, &Value::Null)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_corrected_by_no_more_than_the_answer_proves() {
        for (sent, received, server, expected) in
            [(10, 20, 15, 0), (10, 20, 10, 0), (10, 20, 25, 5), (10, 20, 4, -6)]
        {
            assert_eq!(offset_ms(sent, received, server), expected);
        }
    }
}
