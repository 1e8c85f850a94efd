//! One upload of a site, applied in one transaction: token, number, role, merge, answer.
//!
//! An upload that is too large for one body comes as chunks: those before the last are handed over by
//! `cloudsync.add_chunk`, in the transaction of the upload.
//!
//! A site shows the token of what it sent before. What it sends while nobody can tell it one names the upload before it
//! instead, by `cloudsync.follow_upload`: the id is as random as a token, and is followed once.

use std::cell::Cell;
use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use shared_format::SiteId;
use shared_format::payload::Payload;
use shared_format::succession::{self, Link, Place};

use crate::apply::chunks::{self, Chunks};
use crate::apply::{self, Applied, Author, Lost};
use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, RolePart, as_owner};
use crate::edge::subtransaction::{RolledBack, subtransaction};
use crate::edge::tuple::Tuple;
use crate::error::SyncError;
use crate::sites;

/// Rejections that one answer repeats; the site confirms them, and the next answer goes on behind them.
const REJECTIONS_TOLD_MAX: i64 = 1_000;

/// Cells that lost and that an answer names again, at most: what waits in the hub is many uploads, of which each may have
/// lost a thousand.
const LOST_TOLD_AGAIN_MAX: i64 = 10_000;

thread_local! {
    /// The upload that the one of this transaction follows, with that transaction.
    static FOLLOWED: Cell<Option<(u64, [u8; 16])>> = const { Cell::new(None) };
}

/// Notes which upload the one of this transaction follows.
pub(crate) fn follow(upload_id: &[u8]) -> Result<(), SyncError> {
    let id = upload_id.try_into().map_err(|_other_length| wrong_length("upload_id", upload_id))?;
    FOLLOWED.set(Some((session::top_xid(), id)));
    Ok(())
}

/// The upload that the one of this transaction follows; none if its site shows a token.
fn followed() -> Option<[u8; 16]> {
    let xid = FOLLOWED.get().map(|(xid, _)| xid)?;
    FOLLOWED.get().filter(|_| xid == session::top_xid()).map(|(_, id)| id)
}

/// The arguments of `cloudsync.apply_upload`.
pub(crate) struct Request<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) site: &'a [u8],
    pub(crate) upload_id: &'a [u8],
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) token: Option<&'a [u8]>,
    pub(crate) role: Option<&'a str>,
    pub(crate) claims: Option<&'a str>,
    /// The greatest rejection that the site has stored.
    pub(crate) rejected_seen: Option<i64>,
}

/// What is known of the site, its row locked.
struct Known {
    acked: i64,
    token: Vec<u8>,
    upload_id: Vec<u8>,
    accepted_hlc: i64,
    /// Whether this upload made the row.
    is_new: bool,
}

impl Known {
    /// Whether the site shows a token that is not the one known here.
    fn may_be_adopted(&self, request: &Request<'_>) -> bool {
        request.token.is_some_and(|token| token.len() == 16 && (self.is_new || token != self.token))
            && (self.is_new || self.upload_id != request.upload_id)
    }
}

/// Applies an upload, or says why not. Errors that may pass are raised.
pub(crate) fn apply(request: &Request<'_>) -> Result<Json, SyncError> {
    let before = chunks::take();
    let site = check(request)?;
    let mut known = as_owner(|| {
        // Notices first when this database has become another: its sites may be ahead of it then.
        sites::self_ordinal();
        lock_site(request)
    });
    let followed = followed();
    if followed.is_none()
        && known.may_be_adopted(request)
        && let Some(acked) = as_owner(|| adopt_site(request, known.is_new))
    {
        let token = request.token.unwrap_or_default().to_vec();
        // A row made just now has the upload that is only to be judged.
        let upload_id = if known.is_new { Vec::new() } else { known.upload_id };
        known = Known { acked, token, upload_id, is_new: false, ..known };
    }
    let refuse = |status: &str, detail: Option<String>| {
        if known.is_new {
            as_owner(|| forget_site(request));
        }
        Ok(answer(request, &known, status, detail))
    };
    match place(request, &known, followed) {
        Place::Next => {}
        Place::Taken => {
            confirm_rejections(request);
            let mut answer = answer(request, &known, "duplicate", None);
            if let Some(object) = answer.as_object_mut() {
                object.insert("lost".into(), lost_before(request));
            }
            return Ok(answer);
        }
        Place::Early => return refuse("out_of_order", None),
        Place::Conflict => return refuse("site_conflict", None),
    }
    if before.is_missing {
        return refuse("incomplete", None);
    }
    let payload = match Payload::parse(request.payload) {
        Ok(payload) => payload,
        Err(error) => return refuse("invalid", Some(error.to_string())),
    };
    let (applied, greatest) = match merge(request, site, &before, &payload)? {
        Ok(merged) => merged,
        Err(error @ SyncError::ClockAhead { .. }) => return refuse("clock_ahead", Some(error.to_string())),
        Err(
            error @ (SyncError::Payload(_)
            | SyncError::MissingDefinition { .. }
            | SyncError::KeyShape { .. }
            | SyncError::UnknownColumn { .. }),
        ) => return refuse("invalid", Some(error.to_string())),
        Err(error) => return Err(error),
    };
    confirm_rejections(request);
    apply::keep(site, &applied, request.first, request.last);
    let known = accept(request, known, greatest);
    let mut answer = answer(request, &known, "applied", None);
    if let Some(object) = answer.as_object_mut() {
        object.insert("refused".into(), json!(applied.refusals.len()));
        object.insert("refused_states".into(), refused_states(&applied));
        object.insert("lost".into(), applied.lost.iter().filter(|lost| lost.is_tellable).map(lost).collect());
        object.insert("lost_more".into(), json!(applied.lost_more));
    }
    Ok(answer)
}

/// Where an upload stands among those of its site.
fn place(request: &Request<'_>, known: &Known, followed: Option<[u8; 16]>) -> Place {
    let link = match (&followed, request.token) {
        (Some(upload), _) => Link::Upload(upload),
        (None, Some(token)) => Link::Token(token),
        (None, None) => Link::First,
    };
    let Known { acked, token, upload_id, .. } = known;
    let known = (!known.is_new).then_some(succession::Known { acked: *acked, upload: upload_id, token });
    succession::place(known, request.upload_id, request.first, link)
}

/// Merges the payload, behind the chunks before it, with the rights of the caller; gives also the greatest clock of
/// the site. The inner error left no trace.
fn merge(
    request: &Request<'_>,
    site: SiteId,
    before: &Chunks,
    payload: &Payload<'_>,
) -> Result<Result<(Applied, i64), SyncError>, SyncError> {
    let author = Author::Site(site);
    if before.is_empty() {
        let run = || Ok((apply::run(payload, author)?, greatest_own(payload, site)?));
        return as_role(request, run);
    }
    let merged = as_role(request, || {
        subtransaction(|| {
            let mut greatest = 0;
            let applied = chunks::run(before, payload, author, |payload| {
                greatest = greatest.max(greatest_own(payload, site)?);
                Ok(())
            })?;
            Ok((applied, greatest))
        })
    })?;
    match merged {
        Ok(merged) => Ok(Ok(merged)),
        Err(RolledBack::GaveUp(error)) => Ok(Err(error)),
        Err(RolledBack::Raised(caught)) => caught.rethrow(),
    }
}

/// How many rows were refused, by SQLSTATE.
fn refused_states(applied: &Applied) -> Json {
    let mut states = BTreeMap::<&str, u32>::new();
    for refusal in &applied.refusals {
        let rows = states.entry(&refusal.sqlstate).or_default();
        *rows = rows.saturating_add(1);
    }
    json!(states)
}

/// A cell that lost, and the stamp that stays in its place.
fn lost(lost: &Lost) -> Json {
    json!({
        "table": lost.table,
        "key": lost.key,
        "column": lost.column,
        "hlc": lost.won.hlc.to_sql(),
        "site": lost.won.site.to_string(),
    })
}

/// What the site lost, for a site that may not have heard the answers that named it: an upload that waited in the hub
/// was answered by nobody. What it has heard it knows again by the stamps.
fn lost_before(request: &Request<'_>) -> Json {
    let arguments = [Argument::bytea(request.site), Argument::bigint(LOST_TOLD_AGAIN_MAX)];
    let told = as_owner(|| query::run(include_str!("../../sql/postgres/library/lost_cells.sql"), &arguments));
    let told = told.first().map(codec::to_text).unwrap_or_default();
    serde_json::from_str(&told).unwrap_or(Json::Array(Vec::new()))
}

fn check(request: &Request<'_>) -> Result<SiteId, SyncError> {
    if request.upload_id.len() != 16 {
        return Err(wrong_length("upload_id", request.upload_id));
    }
    if request.first < 1 || request.last < request.first {
        let found = format!("{} to {}", request.first, request.last);
        return Err(SyncError::Parameter { parameter: "range", found, wanted: "1 or more, in order" });
    }
    sites::from_bytes(request.site).ok_or_else(|| wrong_length("site", request.site))
}

fn wrong_length(parameter: &'static str, found: &[u8]) -> SyncError {
    SyncError::Parameter { parameter, found: format!("{} bytes", found.len()), wanted: "16 bytes" }
}

/// Locks the row of the site, made if it is not known. As the owner.
fn lock_site(request: &Request<'_>) -> Known {
    let token: [u8; 16] = session::random_bytes();
    let made = query::run(
        include_str!("../../sql/postgres/library/add_uploader.sql"),
        &[Argument::bytea(request.site), Argument::bytea(&token), Argument::bytea(request.upload_id)],
    );
    let found = query::run(
        include_str!("../../sql/postgres/library/lock_uploader.sql"),
        &[Argument::bytea(request.site)],
    );
    let number = |row: &Tuple, at| row.attribute(at).map_or(0, codec::to_i64);
    let bytes = |row: &Tuple, at| row.attribute(at).map(codec::to_bytes).unwrap_or_default();
    let row = found.rows.first().cloned().unwrap_or_default();
    Known {
        acked: number(&row, 1),
        token: bytes(&row, 2),
        upload_id: bytes(&row, 3),
        accepted_hlc: number(&row, 4),
        is_new: made.count > 0,
    }
}

/// Forgets the rejections that the site has stored. Only once it is known to be that site.
fn confirm_rejections(request: &Request<'_>) {
    let Some(seen) = request.rejected_seen else { return };
    let arguments = [Argument::bytea(request.site), Argument::bigint(seen)];
    as_owner(|| query::run(include_str!("../../sql/postgres/library/confirm_rejections.sql"), &arguments));
}

/// Takes the site's word for its token, if what is known of it may be too old; gives its number.
fn adopt_site(request: &Request<'_>, is_new: bool) -> Option<i64> {
    let found = query::run(
        include_str!("../../sql/postgres/library/adopt_uploader.sql"),
        &[
            Argument::bytea(request.site),
            Argument::bytea(request.token?),
            Argument::bigint(request.first),
            Argument::boolean(is_new),
        ],
    );
    found.first().map(codec::to_i64)
}

fn forget_site(request: &Request<'_>) {
    let sql = "delete from cloudsync.sites as s where s.site operator(pg_catalog.=) $1";
    query::run(sql, &[Argument::bytea(request.site)]);
}

/// Notes the upload as taken, under a new token.
fn accept(request: &Request<'_>, known: Known, greatest: i64) -> Known {
    let token: [u8; 16] = session::random_bytes();
    let acked = known.acked.max(request.last);
    let accepted_hlc = known.accepted_hlc.max(greatest);
    as_owner(|| {
        query::run(
            include_str!("../../sql/postgres/library/accept_upload.sql"),
            &[
                Argument::bytea(request.site),
                Argument::bigint(acked),
                Argument::bytea(&token),
                Argument::bytea(request.upload_id),
                Argument::bigint(accepted_hlc),
            ],
        )
    });
    Known { acked, token: token.to_vec(), upload_id: request.upload_id.to_vec(), accepted_hlc, is_new: false }
}

/// The greatest clock of the site's own stamps in a payload.
fn greatest_own(payload: &Payload<'_>, site: SiteId) -> Result<i64, SyncError> {
    let mut greatest = 0;
    for changes in payload.changes() {
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row()? {
            let stamps = std::iter::once(row.stamp).chain(row.cells.iter().map(|cell| cell.stamp));
            let own = stamps.filter(|stamp| stamp.site == site).map(|stamp| stamp.hlc.to_sql());
            greatest = own.fold(greatest, i64::max);
        }
    }
    Ok(greatest)
}

/// Runs `body` as the role of the request, its claims readable by policies. Triggers of users run in it, in a
/// session that may take other roles: they can neither take one nor leave a setting behind.
fn as_role<T>(request: &Request<'_>, body: impl FnOnce() -> T) -> Result<T, SyncError> {
    let part = RolePart::begin();
    if let Some(claims) = request.claims {
        session::set_local(c"request.jwt.claims", claims)?;
    }
    if let Some(role) = request.role {
        session::set_local(c"role", role)?;
    }
    part.confine();
    Ok(body())
}

fn answer(request: &Request<'_>, known: &Known, status: &str, detail: Option<String>) -> Json {
    let rejected = as_owner(|| {
        query::run(
            include_str!("../../sql/postgres/library/rejections.sql"),
            &[Argument::bytea(request.site), Argument::bigint(REJECTIONS_TOLD_MAX)],
        )
    });
    let more = rejected.rows.first().and_then(|row| row.attribute(2)).map_or(0, codec::to_i64);
    let rejected = rejected.first().map(codec::to_text).unwrap_or_default();
    let mut answer = json!({
        "status": status,
        "acked": known.acked,
        "accepted_hlc": known.accepted_hlc,
        "server_time_ms": session::wall_ms(),
        "rejected": serde_json::from_str::<Json>(&rejected).unwrap_or(Json::Array(Vec::new())),
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
    answer
}
