//! The requests of operators, and the table that describes every request of the hub.
//!
//! One table is routed by, documented from and tested against: `operations`. What clients ask for has filters of
//! its own in `http`; the table describes those too.

mod call;
mod databases;
mod document;
mod keys;
mod operation;
mod operations;
mod reports;
mod types;

pub(crate) use document::document;
pub(crate) use document::text as document_text;

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use warp::filters::path::FullPath;
use warp::http::Method;
use warp::reply::Response;

use crate::http::app::App;
use crate::http::asker::Asker;
use crate::http::problem::{Problem, ProblemKind};
use call::{Call, Query};
use operation::{Access, Handler, Operation};
use operations::OPERATIONS;

/// Answers a request that no other filter took.
pub(crate) async fn answer<S, B, E>(
    app: Arc<App>,
    (method, path): (Method, FullPath),
    asker: &Asker,
    query: String,
    body: S,
) -> Result<Response, Problem>
where
    S: Stream<Item = Result<B, E>> + Send,
    B: Buf,
    E: std::fmt::Display,
{
    let (operation, handler, names) = find(method.as_str(), path.as_str())?;
    match operation.access {
        Access::Operator => app.admit_operator(asker)?,
        Access::Key | Access::Monitoring | Access::Anybody => {}
    }
    let query = Query::read(operation, &query)?;
    let body = match operation.body {
        Some(_) => call::read_body(&asker.headers, body).await?,
        None => serde_json::Value::Null,
    };
    handler(Call { app, names, query, body }).await
}

/// Finds who answers, with the names in the path.
fn find(method: &str, path: &str) -> Result<(&'static Operation, Handler, Vec<String>), Problem> {
    let mut allowed = Vec::new();
    for operation in OPERATIONS {
        let (Some(handler), Some(names)) = (operation.handler, operation.matches(path)) else { continue };
        if operation.method == method {
            return Ok((operation, handler, names));
        }
        allowed.push(operation.method);
    }
    if allowed.is_empty() {
        return Err(Problem::new(ProblemKind::NotFound, "this path is not one of the hub's"));
    }
    Err(Problem::method(allowed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, wanted: Result<(&str, &[&str]), &str>) {
        let found = find(method, path);
        let found = match &found {
            Ok((operation, _handler, names)) => {
                Ok((operation.id, names.iter().map(String::as_str).collect()))
            }
            Err(problem) => Err(problem.kind().slug()),
        };
        assert_eq!(found, wanted.map(|(id, names)| (id, names.to_vec())), "{method} {path}");
    }

    #[test]
    fn a_request_finds_who_answers_it() {
        check("GET", "/v1/databases", Ok(("listDatabases", &[])));
        check("DELETE", "/v1/databases/demo", Ok(("deleteDatabase", &["demo"])));
        check("DELETE", "/v1/databases/a%20b/keys/c", Ok(("revokeKey", &["a b", "c"])));
        check("PATCH", "/v1/databases/demo", Err("method_not_allowed"));
        for path in
            ["/", "/v1", "/v1/databases/", "/v1/databases/a/b/c/d", "/v1/databases//keys", "/v2/databases"]
        {
            check("GET", path, Err("not_found"));
        }
        check("GET", "/v1/databases/%ff", Err("not_found"));
    }
}
