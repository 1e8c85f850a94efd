//! How one request of the hub is described: enough to route it and to document it.

use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
use schemars::{Schema, SchemaGenerator};
use warp::reply::Response;

use super::call::Call;
use crate::http::problem::{Problem, ProblemKind};

/// Who answers a request.
pub(super) type Handler = fn(Call) -> BoxFuture<'static, Result<Response, Problem>>;

/// The schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever has one of the hub's `admin_keys`.
    Operator,
    /// Whoever has a key or a token for the database.
    Key,
    /// Whoever has the hub's `monitoring_key`, if it has one.
    Monitoring,
    /// Everybody.
    Anybody,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the query.
    Query,
    /// In a header.
    Header,
}

/// What a parameter may hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    /// A whole number between two bounds.
    Number(u64, u64),
    /// This many hexadecimal digits.
    Hex(usize),
    /// A text that this expression matches.
    Text(&'static str),
    /// Any text of at most this many characters.
    Any(usize),
    /// Any text; what is not understood means nothing.
    Free,
}

/// One parameter beside those in the path.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) is_required: bool,
    pub(super) holds: Holds,
    pub(super) says: &'static str,
}

/// What a body holds.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// Nothing.
    Nothing,
    /// JSON of this schema.
    Json(SchemaOf),
    /// Payload frames.
    Frames,
    /// Plain text.
    Text,
}

/// One answer that is no problem.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) says: &'static str,
    pub(super) content: Content,
    /// Headers beside those that every answer has.
    pub(super) headers: &'static [(&'static str, &'static str)],
}

/// One request.
pub(super) struct Operation {
    pub(super) id: &'static str,
    pub(super) method: &'static str,
    /// The path, with names in braces.
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) title: &'static str,
    pub(super) says: &'static str,
    pub(super) access: Access,
    pub(super) parameters: &'static [Parameter],
    pub(super) body: Option<Content>,
    pub(super) answers: &'static [Answer],
    pub(super) problems: &'static [ProblemKind],
    /// None where a filter in `http` answers.
    pub(super) handler: Option<Handler>,
}

impl Operation {
    /// The names in the path of a request, if it is one of this.
    pub(super) fn matches(&self, path: &str) -> Option<Vec<String>> {
        let (mut wanted, mut found) = (self.path.split('/'), path.split('/'));
        let mut names = Vec::new();
        loop {
            match (wanted.next(), found.next()) {
                (None, None) => return Some(names),
                (Some(part), Some(name)) if part.starts_with('{') => {
                    let name = percent_decode_str(name).decode_utf8().ok()?;
                    if name.is_empty() {
                        return None;
                    }
                    names.push(name.into_owned());
                }
                (Some(part), Some(found)) if part == found => {}
                _ => return None,
            }
        }
    }

    /// The names of the parameters in the path.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}
