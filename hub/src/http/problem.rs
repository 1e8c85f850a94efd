//! What a caller is told when a request is not answered: `application/problem+json`, for every error alike.
//!
//! The slug is for programs, the detail for people. Neither holds a secret or a row value.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use crate::error::Error;

/// How long a caller is asked to wait when the hub cannot answer now and nobody knows better.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The kinds of problems, one for each slug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A header or parameter is missing or not understood.
    BadRequest,
    /// No key, or one that is not for this database.
    Unauthorized,
    /// A token whose time is over.
    TokenExpired,
    /// Known, but not allowed.
    Forbidden,
    /// Too many wrong keys or tokens from one address.
    TooManyFailures,
    /// A database has as much under way as it may.
    TooManyRequests,
    /// A path that is none of the hub's.
    NotFound,
    /// A database that is none of the hub's.
    UnknownDatabase,
    /// A path of the hub's, by a method that it does not take.
    MethodNotAllowed,
    /// A body that came too slowly.
    TooSlow,
    /// Another replica goes by this site's id.
    SiteConflict,
    /// Uploads before this one are missing.
    OutOfOrder,
    /// Chunks of an upload are missing.
    Incomplete,
    /// Stamps are too far in the future.
    ClockAhead,
    /// Tombstones are gone that the site may not have received.
    CursorExpired,
    /// The database was set back on purpose, and the site has not been told.
    Restored,
    /// A body beyond its limits.
    TooLarge,
    /// Bytes of an answer that it does not have.
    RangeNotSatisfiable,
    /// A body that is not a payload.
    InvalidPayload,
    /// There is nothing of this name, below a path of the hub's.
    UnknownName,
    /// Something of this name is there already.
    NameTaken,
    /// What is asked for is set in the file of the hub, or nowhere: there is no control database.
    ReadOnly,
    /// The store holds as much of the database as it may.
    StorageFull,
    /// The hub failed in a way that waiting does not mend.
    Internal,
    /// The hub cannot answer now.
    Unavailable,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [ProblemKind; 25] = [
        ProblemKind::BadRequest,
        ProblemKind::Unauthorized,
        ProblemKind::TokenExpired,
        ProblemKind::Forbidden,
        ProblemKind::TooManyFailures,
        ProblemKind::TooManyRequests,
        ProblemKind::NotFound,
        ProblemKind::UnknownDatabase,
        ProblemKind::MethodNotAllowed,
        ProblemKind::TooSlow,
        ProblemKind::SiteConflict,
        ProblemKind::OutOfOrder,
        ProblemKind::Incomplete,
        ProblemKind::ClockAhead,
        ProblemKind::CursorExpired,
        ProblemKind::Restored,
        ProblemKind::TooLarge,
        ProblemKind::RangeNotSatisfiable,
        ProblemKind::InvalidPayload,
        ProblemKind::UnknownName,
        ProblemKind::NameTaken,
        ProblemKind::ReadOnly,
        ProblemKind::StorageFull,
        ProblemKind::Internal,
        ProblemKind::Unavailable,
    ];

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            ProblemKind::BadRequest => StatusCode::BAD_REQUEST,
            ProblemKind::Unauthorized | ProblemKind::TokenExpired => StatusCode::UNAUTHORIZED,
            ProblemKind::Forbidden => StatusCode::FORBIDDEN,
            ProblemKind::TooManyFailures | ProblemKind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            ProblemKind::NotFound | ProblemKind::UnknownDatabase | ProblemKind::UnknownName => {
                StatusCode::NOT_FOUND
            }
            ProblemKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ProblemKind::TooSlow => StatusCode::REQUEST_TIMEOUT,
            ProblemKind::SiteConflict
            | ProblemKind::OutOfOrder
            | ProblemKind::Incomplete
            | ProblemKind::ClockAhead
            | ProblemKind::NameTaken
            | ProblemKind::ReadOnly => StatusCode::CONFLICT,
            ProblemKind::CursorExpired | ProblemKind::Restored => StatusCode::GONE,
            ProblemKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ProblemKind::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            ProblemKind::InvalidPayload => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            ProblemKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ProblemKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The word for programs.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            ProblemKind::BadRequest => "bad_request",
            ProblemKind::Unauthorized => "unauthorized",
            ProblemKind::TokenExpired => "token_expired",
            ProblemKind::Forbidden => "forbidden",
            ProblemKind::TooManyFailures => "too_many_failures",
            ProblemKind::TooManyRequests => "too_many_requests",
            ProblemKind::NotFound => "not_found",
            ProblemKind::UnknownDatabase => "unknown_database",
            ProblemKind::MethodNotAllowed => "method_not_allowed",
            ProblemKind::TooSlow => "too_slow",
            ProblemKind::SiteConflict => "site_conflict",
            ProblemKind::OutOfOrder => "out_of_order",
            ProblemKind::Incomplete => "incomplete_upload",
            ProblemKind::ClockAhead => "clock_ahead",
            ProblemKind::CursorExpired => "cursor_expired",
            ProblemKind::Restored => "restored",
            ProblemKind::TooLarge => "too_large",
            ProblemKind::RangeNotSatisfiable => "range_not_satisfiable",
            ProblemKind::InvalidPayload => "invalid_payload",
            ProblemKind::UnknownName => "unknown_name",
            ProblemKind::NameTaken => "name_taken",
            ProblemKind::ReadOnly => "read_only",
            ProblemKind::StorageFull => "storage_full",
            ProblemKind::Internal => "internal",
            ProblemKind::Unavailable => "unavailable",
        }
    }

    /// Whether the same request is answered otherwise later, so that the answer says when.
    fn passes(self) -> bool {
        matches!(
            self,
            ProblemKind::TooManyFailures
                | ProblemKind::TooManyRequests
                | ProblemKind::StorageFull
                | ProblemKind::Unavailable
        )
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            ProblemKind::BadRequest => "The request is not understood",
            ProblemKind::Unauthorized => "The API key or token is missing or wrong",
            ProblemKind::TokenExpired => "The token has expired",
            ProblemKind::Forbidden => "This is not allowed",
            ProblemKind::TooManyFailures => "Too many wrong keys or tokens",
            ProblemKind::TooManyRequests => "The database has as much under way as it may",
            ProblemKind::NotFound => "There is nothing at this path",
            ProblemKind::UnknownDatabase => "The database is unknown",
            ProblemKind::MethodNotAllowed => "The path does not take this method",
            ProblemKind::TooSlow => "The body came too slowly",
            ProblemKind::SiteConflict => "Another replica goes by this site id",
            ProblemKind::OutOfOrder => "Earlier uploads are missing",
            ProblemKind::Incomplete => "A chunk of the upload is missing",
            ProblemKind::ClockAhead => "The clock of the device is ahead",
            ProblemKind::CursorExpired => "The site was away for too long and needs a snapshot first",
            ProblemKind::Restored => "The database was set back, and the site needs a snapshot first",
            ProblemKind::TooLarge => "The body is too large",
            ProblemKind::RangeNotSatisfiable => "The answer does not have these bytes",
            ProblemKind::InvalidPayload => "The body is not a valid payload",
            ProblemKind::UnknownName => "There is nothing of this name",
            ProblemKind::NameTaken => "The name is taken",
            ProblemKind::ReadOnly => "This cannot be changed at run time",
            ProblemKind::StorageFull => "The store holds as much of the database as it may",
            ProblemKind::Internal => "The hub failed",
            ProblemKind::Unavailable => "The hub cannot answer now",
        }
    }
}

/// One problem, ready to be told.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    members: Map<String, Value>,
    allowed: Option<Cow<'static, str>>,
    after: Option<Duration>,
    closes: bool,
}

impl Problem {
    /// A problem of a kind, with what is particular about it.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Problem {
        let after = kind.passes().then_some(RETRY_AFTER);
        Problem { kind, detail: detail.into(), members: Map::new(), allowed: None, after, closes: false }
    }

    /// A header or parameter that is missing or not understood.
    pub(crate) fn header(name: &str, found: &str, wanted: &str) -> Problem {
        Problem::new(ProblemKind::BadRequest, format!("header {name}: found {found}, wanted {wanted}"))
    }

    /// A method that a path does not take.
    pub(crate) fn method(allowed: impl Into<Cow<'static, str>>) -> Problem {
        let allowed = allowed.into();
        let mut problem = Problem::new(ProblemKind::MethodNotAllowed, format!("this path takes {allowed}"));
        problem.allowed = Some(allowed);
        problem
    }

    /// Adds a member for programs.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Problem {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// Says when to ask again.
    #[must_use]
    pub(crate) fn after(mut self, wait: Duration) -> Problem {
        self.after = Some(wait);
        self
    }

    /// Ends the connection too.
    #[must_use]
    pub(crate) fn closing(mut self) -> Problem {
        self.closes = true;
        self
    }

    /// A member for programs.
    #[cfg(test)]
    pub(crate) fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The answer to send.
    pub(crate) fn response(&self) -> Response {
        let status = self.kind.status();
        let mut body = self.members.clone();
        body.insert("type".to_owned(), Value::from(format!("about:blank#{}", self.kind.slug())));
        body.insert("title".to_owned(), Value::from(self.kind.title()));
        body.insert("status".to_owned(), Value::from(status.as_u16()));
        body.insert("detail".to_owned(), Value::from(self.detail.clone()));
        body.insert("code".to_owned(), Value::from(self.kind.slug()));
        let mut response = Response::new(Value::Object(body).to_string().into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.after {
            // Whole seconds, and never too soon.
            let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allowed) = self.allowed.as_deref().and_then(|allowed| HeaderValue::from_str(allowed).ok())
        {
            headers.insert(header::ALLOW, allowed);
        }
        response
    }
}

impl From<Error> for Problem {
    /// Tells what the caller may know, and logs the rest, which nobody else does.
    fn from(error: Error) -> Problem {
        let kind = error.http_status();
        match kind {
            ProblemKind::Internal => {
                tracing::error!(error = error.logged(), "request failed");
                Problem::new(kind, "the hub failed; its log says why under this request's number")
            }
            ProblemKind::Unavailable => {
                tracing::warn!(error = error.logged(), "request has to wait");
                Problem::new(kind, "the hub cannot do this now, try again later")
            }
            ProblemKind::BadRequest
            | ProblemKind::Unauthorized
            | ProblemKind::TokenExpired
            | ProblemKind::Forbidden
            | ProblemKind::TooManyFailures
            | ProblemKind::TooManyRequests
            | ProblemKind::StorageFull
            | ProblemKind::NotFound
            | ProblemKind::UnknownDatabase
            | ProblemKind::MethodNotAllowed
            | ProblemKind::TooSlow
            | ProblemKind::SiteConflict
            | ProblemKind::OutOfOrder
            | ProblemKind::Incomplete
            | ProblemKind::ClockAhead
            | ProblemKind::CursorExpired
            | ProblemKind::Restored
            | ProblemKind::TooLarge
            | ProblemKind::RangeNotSatisfiable
            | ProblemKind::InvalidPayload
            | ProblemKind::UnknownName
            | ProblemKind::NameTaken
            | ProblemKind::ReadOnly => Problem::new(kind, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_alike() {
        for kind in ProblemKind::ALL {
            let response = Problem::new(kind, "why").response();
            assert_eq!(response.status(), kind.status(), "{kind:?}");
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{kind:?}");
            assert_eq!(response.headers().contains_key("retry-after"), kind.passes(), "{kind:?}");
            assert_eq!(response.headers().contains_key("www-authenticate"), kind.status() == 401, "{kind:?}");
        }
    }

    #[test]
    fn no_two_problems_share_a_slug() {
        let slugs: std::collections::BTreeSet<_> = ProblemKind::ALL.map(ProblemKind::slug).into();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
    }
}
