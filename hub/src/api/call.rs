//! One request of an operator, read: the names in its path, its query, its body.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt};
use percent_encoding::percent_decode_str;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tokio::time::timeout;
use warp::http::{HeaderMap, StatusCode, header};
use warp::reply::Response;

use super::operation::{Holds, Operation, Place};
use crate::config::DatabaseName;
use crate::control::follow::Follower;
use crate::http::app::{App, Database};
use crate::http::json_response;
use crate::http::problem::{Problem, ProblemKind};

/// Longest body of a request of an operator, in bytes: a set of settings is far below.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Longest wait for such a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// One request.
pub(super) struct Call {
    pub(super) app: Arc<App>,
    pub(super) names: Vec<String>,
    pub(super) query: Query,
    pub(super) body: Value,
}

/// The parameters of the query, each as its description wants it.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<&'static str, String>);

impl Query {
    /// Reads a query; a parameter that the request does not take is refused, as it is likely a misspelt one.
    pub(super) fn read(operation: &'static Operation, text: &str) -> Result<Query, Problem> {
        let mut query = Query::default();
        for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let decoded = |text: &str| {
                percent_decode_str(&text.replace('+', " ")).decode_utf8().map(std::borrow::Cow::into_owned)
            };
            let (Ok(name), Ok(value)) = (decoded(name), decoded(value)) else {
                return Err(wrong("query", "bytes that are not UTF-8", "text"));
            };
            let known = operation.parameters.iter().filter(|known| known.place == Place::Query);
            let Some(known) = known.into_iter().find(|known| known.name == name) else {
                return Err(wrong("query", &format!("a parameter {name:?}"), "one that the request takes"));
            };
            known.holds.check(known.name, &value)?;
            if query.0.insert(known.name, value).is_some() {
                return Err(wrong(known.name, "two values", "one"));
            }
        }
        Ok(query)
    }

    /// The text of a parameter.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The number of a parameter.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

impl Holds {
    fn check(self, name: &str, value: &str) -> Result<(), Problem> {
        match self {
            Holds::Number(min, max) => {
                let plain = value.bytes().all(|byte| byte.is_ascii_digit());
                match value.parse::<u64>() {
                    Ok(number) if plain && (min..=max).contains(&number) => Ok(()),
                    Ok(_) | Err(_) => {
                        Err(wrong(name, "something else", &format!("a whole number from {min} to {max}")))
                    }
                }
            }
            Holds::Hex(digits) => {
                let plain = value.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                if plain && value.len() == digits {
                    return Ok(());
                }
                Err(wrong(name, "something else", &format!("{digits} hexadecimal digits")))
            }
            Holds::Any(max) if value.chars().count() > max => {
                Err(wrong(name, "a longer text", &format!("at most {max} characters")))
            }
            // What a text has to look like is its reader's to know; the expression is for the document.
            Holds::Any(_) | Holds::Text(_) | Holds::Free => Ok(()),
        }
    }
}

/// Says what is wrong with a parameter.
pub(super) fn wrong(name: &str, found: &str, wanted: &str) -> Problem {
    Problem::new(ProblemKind::BadRequest, format!("parameter {name}: found {found}, wanted {wanted}"))
}

/// Reads a body of JSON.
pub(super) async fn read_body<S, B, E>(headers: &HeaderMap, body: S) -> Result<Value, Problem>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
    E: std::fmt::Display,
{
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    if !kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with(b"application/json")) {
        return Err(Problem::header("Content-Type", "something else", "application/json"));
    }
    let collect = async {
        let mut body = pin!(body);
        let mut collected = BytesMut::new();
        while let Some(part) = body.next().await {
            let mut part = part.map_err(|error| {
                Problem::new(ProblemKind::BadRequest, format!("the body broke off: {error}"))
            })?;
            if collected.len().saturating_add(part.remaining()) > BODY_BYTES_MAX {
                let detail = format!("body is too large, limit is {BODY_BYTES_MAX} bytes");
                return Err(Problem::new(ProblemKind::TooLarge, detail));
            }
            while part.has_remaining() {
                let taken = part.chunk().len();
                collected.extend_from_slice(part.chunk());
                part.advance(taken);
            }
        }
        Ok(collected)
    };
    let late = |_elapsed| Problem::new(ProblemKind::TooSlow, "the body did not come in time");
    let collected = timeout(BODY_TIMEOUT, collect).await.map_err(late)??;
    // The parser's words may quote the body, which may hold a password.
    serde_json::from_slice(&collected).map_err(|error| {
        Problem::new(ProblemKind::BadRequest, format!("body is no JSON at line {}", error.line()))
    })
}

impl Call {
    /// A name of the path by its place.
    pub(super) fn name(&self, place: usize) -> &str {
        self.names.get(place).map_or("", String::as_str)
    }

    /// The body as what it should be.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        from_object(&self.body).map_err(|error| {
            // Up to the first quote: behind it may stand what was found.
            let told = error.to_string();
            let told = if told.starts_with("invalid") { "a value of another type" } else { &told };
            Problem::new(ProblemKind::BadRequest, format!("body: {told}"))
        })
    }

    /// The database that the path names.
    pub(super) fn database(&self) -> Result<Arc<Database>, Problem> {
        let name = self.database_name()?;
        self.app.databases.all().get(&name).cloned().ok_or_else(|| unknown_database(name.as_str()))
    }

    /// The name of a database in the path, whether it is served or not.
    pub(super) fn database_name(&self) -> Result<DatabaseName, Problem> {
        DatabaseName::new(self.name(0)).ok_or_else(|| unknown_database(self.name(0)))
    }

    /// The control database.
    pub(super) fn control(&self) -> Result<&Follower, Problem> {
        let missing = "the hub has no control database: databases and keys are what its file says";
        self.app.control.as_deref().ok_or_else(|| Problem::new(ProblemKind::ReadOnly, missing))
    }
}

/// Reads a JSON object as what it should be. What is derived would take the values of its members as a list too.
pub(super) fn from_object<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<T, D::Error> {
    let members = Map::<String, Value>::deserialize(from)?;
    T::deserialize(Value::Object(members)).map_err(D::Error::custom)
}

/// Says that a database is not served.
pub(super) fn unknown_database(name: &str) -> Problem {
    Problem::new(ProblemKind::UnknownDatabase, format!("database {name:?} is not one of this hub"))
}

/// An answer with a body.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let value = serde_json::to_value(body).expect("answers are plain texts, numbers and lists");
    let mut response = json_response(&value);
    *response.status_mut() = status;
    Ok(response)
}

/// An answer without a body.
pub(super) fn done() -> Result<Response, Problem> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
