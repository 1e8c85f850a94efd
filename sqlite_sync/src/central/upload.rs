//! One upload of a site: token, number, merge, answer. The same answers as Postgres gives.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value as Json, json};
use shared_format::payload::{Limits, Payload, decode_frame};
use shared_format::succession::{self, Link, Place};
use shared_format::{Hlc, SiteId};

use super::restored::{generation, restored_as};
use super::{append, end_transaction, pass_on, wanted_centre};
use crate::apply::{Intake, Source, apply};
use crate::catalog::Replica;
use crate::connection::Applying;
use crate::error::{Doing, Error, Reading, Result};
use crate::sql::{Unit, wall_ms};

/// Rejections that one answer repeats; the site confirms them, and the next answer goes on behind them.
const REJECTIONS_TOLD_MAX: i64 = 1_000;

/// What a site sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The payload as frames; none if a chunk of it is missing.
    pub(crate) frames: Option<&'a [u8]>,
    pub(crate) site: SiteId,
    pub(crate) upload: &'a [u8],
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) token: Option<&'a [u8]>,
    /// The upload before it, whose token the site does not have yet.
    pub(crate) followed: Option<&'a [u8]>,
    /// The greatest rejection that the site has stored.
    pub(crate) rejected_seen: Option<i64>,
}

/// What is known of a site.
#[derive(Debug, Default)]
struct Known {
    acked: i64,
    token: Vec<u8>,
    upload: Vec<u8>,
    accepted_hlc: i64,
    generation: i64,
    is_new: bool,
}

/// Applies an upload, or says why not.
pub(crate) fn take(connection: &Connection, applying: &Applying, request: &Request<'_>) -> Result<Json> {
    let unit = Unit::begin(connection)?;
    wanted_centre(connection)?;
    let mut known = known(connection, request.site)?;
    adopt(connection, request, &mut known)?;
    if let Some(status) = refusal(request, &known) {
        let is_taken = status == "duplicate";
        if is_taken {
            confirm_rejections(connection, request)?;
        }
        let mut answer = answer(connection, request, &known, status, None)?;
        if is_taken {
            answer["lost"] = lost_before(connection, request.site)?;
        }
        unit.commit()?;
        return Ok(answer);
    }
    let Some(frames) = request.frames else {
        let answer = answer(connection, request, &known, "incomplete", None)?;
        unit.commit()?;
        return Ok(answer);
    };
    pass_on(connection)?;
    let merged = merge(connection, applying, request, frames);
    let intake = match merged {
        Ok(intake) => intake,
        Err(error @ (Error::ClockAhead { .. } | Error::Format { .. })) => {
            let status = if matches!(error, Error::ClockAhead { .. }) { "clock_ahead" } else { "invalid" };
            return answer(connection, request, &known, status, Some(error.line()));
        }
        Err(error) => return Err(error),
    };
    for frame in &intake.frames {
        append(connection, frame)?;
    }
    pass_on(connection)?;
    end_transaction(connection)?;
    confirm_rejections(connection, request)?;
    keep_refusals(connection, request, &intake)?;
    let known = accept(connection, request, &known, greatest_own(request, frames)?)?;
    let lost = lost(&intake);
    keep_lost(connection, request.site, &lost)?;
    let mut answer = answer(connection, request, &known, "applied", None)?;
    if let Some(object) = answer.as_object_mut() {
        object.insert("refused".into(), json!(intake.refusals.len()));
        object.insert("refused_states".into(), refused_states(&intake));
        object.insert("lost".into(), Json::Array(lost));
        object.insert("lost_more".into(), json!(intake.lost_more));
    }
    unit.commit()?;
    Ok(answer)
}

fn merge(
    connection: &Connection,
    applying: &Applying,
    request: &Request<'_>,
    frames: &[u8],
) -> Result<Intake> {
    let mut replica = Replica::current(connection)?;
    let mut applied = apply(&mut replica, applying, frames, Source::Upload(request.site))?;
    Ok(applied.intake.take().unwrap_or_default())
}

/// Why an upload is not merged; None when it is to be.
fn refusal(request: &Request<'_>, known: &Known) -> Option<&'static str> {
    let link = match (request.followed, request.token) {
        (Some(upload), _) => Link::Upload(upload),
        (None, Some(token)) => Link::Token(token),
        (None, None) => Link::First,
    };
    let Known { acked, token, upload, .. } = known;
    let known = (!known.is_new).then_some(succession::Known { acked: *acked, upload, token });
    match succession::place(known, request.upload, request.first, link) {
        Place::Next => None,
        Place::Taken => Some("duplicate"),
        Place::Early => Some("out_of_order"),
        Place::Conflict => Some("site_conflict"),
    }
}

fn known(connection: &Connection, site: SiteId) -> Result<Known> {
    let sql =
        "select acked, token, upload, accepted_hlc, generation from main.cloudsync_uploaders where site = ?1";
    let found = connection.prepare_cached(sql)?.query_row([site.as_bytes().as_slice()], |row| {
        Ok(Known {
            acked: row.get(0)?,
            token: row.get(1)?,
            upload: row.get(2)?,
            accepted_hlc: row.get(3)?,
            generation: row.get(4)?,
            is_new: false,
        })
    });
    let found = found.optional().doing("read a site")?;
    Ok(found.unwrap_or_else(|| Known { is_new: true, ..Known::default() }))
}

/// Takes a site's word for its token, once in each generation: what is known of it may be older than what it was told.
/// Its number stays, and tells it where to begin; after a restore on purpose its numbers are taken too, so that it does
/// not send again what was undone.
fn adopt(connection: &Connection, request: &Request<'_>, known: &mut Known) -> Result<()> {
    let token = request.token.filter(|token| known.is_new || *token != known.token);
    let Some(token) = token.filter(|_| request.followed.is_none()) else { return Ok(()) };
    let now = generation(connection)?;
    let is_behind = now > 0 && (known.is_new || known.generation < now);
    if !is_behind || (!known.is_new && known.upload == request.upload) {
        return Ok(());
    }
    let upload = if known.is_new { Vec::new() } else { std::mem::take(&mut known.upload) };
    let restored = restored_as(connection)?;
    let is_undone = restored == now || (!known.is_new && restored > known.generation);
    let acked = if is_undone { known.acked.max(request.first.saturating_sub(1)) } else { known.acked };
    let accepted_hlc = known.accepted_hlc;
    *known = Known { acked, token: token.to_vec(), upload, accepted_hlc, generation: now, is_new: false };
    store(connection, request.site, known)
}

fn store(connection: &Connection, site: SiteId, known: &Known) -> Result<()> {
    let sql = "insert into main.cloudsync_uploaders (site, acked, token, upload, accepted_hlc, generation)
        values (?1, ?2, ?3, ?4, ?5, ?6)
        on conflict (site) do update set acked = excluded.acked, token = excluded.token, upload = excluded.upload,
          accepted_hlc = excluded.accepted_hlc, generation = excluded.generation";
    let site = site.as_bytes().as_slice();
    let row = params![site, known.acked, known.token, known.upload, known.accepted_hlc, known.generation];
    connection.prepare_cached(sql)?.execute(row).doing("note a site")?;
    Ok(())
}

/// Notes the upload as taken, under a new token.
fn accept(connection: &Connection, request: &Request<'_>, known: &Known, greatest: Hlc) -> Result<Known> {
    let mut token = [0; 16];
    getrandom::fill(&mut token).map_err(|_no_source| Error::Random)?;
    let known = Known {
        acked: known.acked.max(request.last),
        token: token.to_vec(),
        upload: request.upload.to_vec(),
        accepted_hlc: known.accepted_hlc.max(greatest.to_sql()),
        generation: generation(connection)?,
        is_new: false,
    };
    store(connection, request.site, &known)?;
    Ok(known)
}

/// The greatest clock of the site's own stamps.
fn greatest_own(request: &Request<'_>, frames: &[u8]) -> Result<Hlc> {
    let mut greatest = Hlc::ZERO;
    let mut rest = frames;
    while !rest.is_empty() {
        let (body, used) = decode_frame(rest, &Limits::UPLOAD).reading("frame")?;
        rest = rest.get(used..).unwrap_or_default();
        for changes in Payload::parse(&body).reading("payload")?.changes() {
            let mut rows = changes.rows();
            while let Some(row) = rows.next_row().reading("row")? {
                let stamps = std::iter::once(row.stamp).chain(row.cells.iter().map(|cell| cell.stamp));
                let own = stamps.filter(|stamp| stamp.site == request.site).map(|stamp| stamp.hlc);
                greatest = own.fold(greatest, Hlc::max);
            }
        }
    }
    Ok(greatest)
}

/// Forgets the rejections that the site has stored.
fn confirm_rejections(connection: &Connection, request: &Request<'_>) -> Result<()> {
    let Some(seen) = request.rejected_seen else { return Ok(()) };
    let sql = "delete from main.cloudsync_refusals where site = ?1 and id <= ?2";
    let row = params![request.site.as_bytes().as_slice(), seen];
    connection.prepare_cached(sql)?.execute(row).doing("forget rejections")?;
    Ok(())
}

/// Keeps what was refused now, under new numbers.
fn keep_refusals(connection: &Connection, request: &Request<'_>, intake: &Intake) -> Result<()> {
    let sql = "insert or replace into main.cloudsync_refusals
        (site, tbl, pk, key, sqlstate, message, first, last) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let site = request.site.as_bytes().as_slice();
    for ((table, pk), refused) in &intake.refusals {
        let key = Json::Array(refused.key.clone()).to_string();
        let (first, last) = (request.first, request.last);
        let row = params![site, table, pk, key, refused.sqlstate, refused.message, first, last];
        connection.prepare_cached(sql)?.execute(row).doing("keep a rejection")?;
    }
    Ok(())
}

/// How many rows were refused, by SQLSTATE.
fn refused_states(intake: &Intake) -> Json {
    let mut states = BTreeMap::<&str, u32>::new();
    for refused in intake.refusals.values() {
        let rows = states.entry(refused.sqlstate).or_default();
        *rows = rows.saturating_add(1);
    }
    json!(states)
}

/// Keeps which cells a site lost by its newest upload: it may never hear the answer that names them.
fn keep_lost(connection: &Connection, site: SiteId, lost: &[Json]) -> Result<()> {
    let site = site.as_bytes().as_slice();
    if lost.is_empty() {
        let sql = "delete from main.cloudsync_lost_cells where site = ?1";
        connection.prepare_cached(sql)?.execute([site]).doing("forget lost cells")?;
    } else {
        let sql = "insert or replace into main.cloudsync_lost_cells (site, lost) values (?1, ?2)";
        let told = Json::from(lost).to_string();
        connection.prepare_cached(sql)?.execute(params![site, told]).doing("keep lost cells")?;
    }
    Ok(())
}

/// The cells that a site lost by its newest upload, which it asks about again.
fn lost_before(connection: &Connection, site: SiteId) -> Result<Json> {
    let sql = "select lost from main.cloudsync_lost_cells where site = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let told = statement.query_row([site.as_bytes().as_slice()], |row| row.get::<_, String>(0));
    let told = told.optional().doing("read lost cells")?;
    Ok(told.and_then(|told| serde_json::from_str(&told).ok()).unwrap_or_else(|| json!([])))
}

fn lost(intake: &Intake) -> Vec<Json> {
    let cell = |lost: &crate::apply::LostCell| {
        json!({
            "table": lost.table,
            "key": lost.key,
            "column": lost.column,
            "hlc": lost.won.hlc.to_sql(),
            "site": lost.won.site.to_string(),
        })
    };
    intake.lost.iter().map(cell).collect()
}

fn answer(
    connection: &Connection,
    request: &Request<'_>,
    known: &Known,
    status: &str,
    detail: Option<String>,
) -> Result<Json> {
    let (rejected, more) = rejections(connection, request.site)?;
    let mut answer = json!({
        "status": status,
        "acked": known.acked,
        "accepted_hlc": known.accepted_hlc,
        "server_time_ms": wall_ms(connection)?,
        "rejected": rejected,
        "rejected_more": more,
    });
    if let Some(object) = answer.as_object_mut() {
        // Whoever cannot show the token is not told it.
        if matches!(status, "applied" | "duplicate") {
            let hex: String = known.token.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert("token".into(), json!(hex));
        }
        if let Some(detail) = detail {
            object.insert("detail".into(), json!(detail));
        }
    }
    Ok(answer)
}

/// The oldest rejections of a site that it has not confirmed, and how many more there are.
fn rejections(connection: &Connection, site: SiteId) -> Result<(Vec<Json>, i64)> {
    let site = site.as_bytes().as_slice();
    let sql = "select id, tbl, key, sqlstate, message, first, last from main.cloudsync_refusals
        where site = ?1 order by id limit ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![site, REJECTIONS_TOLD_MAX])?;
    let mut told = Vec::new();
    while let Some(row) = rows.next().doing("read rejections")? {
        let key: String = row.get(2)?;
        told.push(json!({
            "id": row.get::<_, i64>(0)?,
            "table": row.get::<_, String>(1)?,
            "key": serde_json::from_str::<Json>(&key).unwrap_or(Json::Null),
            "sqlstate": row.get::<_, String>(3)?,
            "message": row.get::<_, String>(4)?,
            "first": row.get::<_, i64>(5)?,
            "last": row.get::<_, i64>(6)?,
        }));
    }
    let sql = "select count(*) from main.cloudsync_refusals where site = ?1";
    let all: i64 = connection.prepare_cached(sql)?.query_row([site], |row| row.get(0))?;
    Ok((told, (all - REJECTIONS_TOLD_MAX).max(0)))
}
