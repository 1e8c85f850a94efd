//! The HTTP surface: every path, and who handles it.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `/v1/databases/<name>/uploads` | POST | what became of one upload |
//! | `/v1/databases/<name>/chunks` | POST | that a chunk is kept, or what became of the upload that it ends |
//! | `/v1/databases/<name>/changes` | GET | what is new since a cursor; waits for it |
//! | `/v1/databases/<name>/metrics` | GET | the metrics of one database as JSON |
//! | `/healthz` | GET, HEAD | that the process answers |
//! | `/readyz` | GET, HEAD | whether every database can be served |
//! | `/openapi.json` | GET | the description of every request |
//! | `/metrics` | GET | the metrics in the text format of Prometheus |
//!
//! What operators ask for is in `api`, whose table describes all of it.
//!
//! Whatever is wrong is answered as `application/problem+json`.

pub(crate) mod app;
pub(crate) mod asker;
mod connection;
pub(crate) mod databases;
mod download;
mod guest;
mod head;
mod health;
mod pace;
pub mod problem;
mod range;
mod room;
mod server;
mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::Value;
use warp::filters::BoxedFilter;
use warp::http::{HeaderValue, header};
use warp::reply::Response;
use warp::{Filter, Reply};

use crate::api;
use crate::upload::Form;
use app::App;
use asker::{Asker, asker};
use problem::{Problem, ProblemKind};

pub(crate) use server::{Listening, serve};
pub(crate) use tls::acceptor as tls_acceptor;

/// An answer with a JSON body.
pub(crate) fn json_response(value: &Value) -> Response {
    let mut response = Response::new(value.to_string().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// All paths of the hub; every request gets an answer.
pub(crate) fn routes(app: &Arc<App>) -> BoxedFilter<(Response,)> {
    uploads(app)
        .or(chunks(app))
        .unify()
        .or(changes(app))
        .unify()
        .or(database_metrics(app))
        .unify()
        .or(health(app))
        .unify()
        .or(operators(app))
        .unify()
        .boxed()
}

fn with<T: Clone + Send>(value: T) -> impl Filter<Extract = (T,), Error = Infallible> + Clone {
    warp::any().map(move || value.clone())
}

/// Answers every other method on a path.
fn only(allowed: &'static str) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    warp::any().map(move || Problem::method(allowed).response())
}

/// Makes an answer of every end of a handler. It adds nothing to what a request holds while it waits, as an `async`
/// function would that keeps its argument beside what it awaits.
fn answered(
    handler: impl Future<Output = Result<Response, Problem>>,
) -> impl Future<Output = Result<Response, Infallible>> {
    handler.map(|answer| Ok(answer.unwrap_or_else(|problem| problem.response())))
}

fn uploads(app: &Arc<App>) -> BoxedFilter<(Response,)> {
    let path = || warp::path!("v1" / "databases" / String / "uploads");
    let post =
        path().and(warp::post()).and(with(Arc::clone(app))).and(asker()).and(warp::body::stream()).and_then(
            |name: String, app: Arc<App>, asker: Arc<Asker>, body| {
                answered(async move { upload(&app, &name, &asker, Form::Whole, body).await })
            },
        );
    let other = path().and(only("POST")).map(|_name, response| response);
    post.or(other).unify().boxed()
}

fn chunks(app: &Arc<App>) -> BoxedFilter<(Response,)> {
    let path = || warp::path!("v1" / "databases" / String / "chunks");
    let post =
        path().and(warp::post()).and(with(Arc::clone(app))).and(asker()).and(warp::body::stream()).and_then(
            |name: String, app: Arc<App>, asker: Arc<Asker>, body| {
                answered(async move { upload(&app, &name, &asker, Form::Chunk, body).await })
            },
        );
    let other = path().and(only("POST")).map(|_name, response| response);
    post.or(other).unify().boxed()
}

async fn upload<S, B, E>(
    app: &App,
    name: &str,
    asker: &Asker,
    form: Form,
    body: S,
) -> Result<Response, Problem>
where
    S: futures_util::Stream<Item = Result<B, E>> + Send,
    B: bytes::Buf,
    E: std::fmt::Display,
{
    let mut body = pin!(body);
    let answer = async {
        let (database, caller) = app.admit(name, asker).await?;
        let answer = crate::upload::take(app, &database, &caller, &asker.headers, form, body.as_mut()).await;
        if let Err(problem) = &answer {
            database.metrics.count_upload(problem.kind().slug());
        }
        answer
    }
    .await;
    let is_to_wait = |problem: &Problem| {
        use ProblemKind::{StorageFull, TooManyRequests, Unavailable};
        matches!(problem.kind(), StorageFull | TooManyRequests | Unavailable)
    };
    if answer.as_ref().is_err_and(is_to_wait) {
        crate::upload::pass_over(app, body).await;
    }
    answer
}

fn changes(app: &Arc<App>) -> BoxedFilter<(Response,)> {
    let path = || warp::path!("v1" / "databases" / String / "changes");
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let get = path().and(warp::get()).and(with(Arc::clone(app))).and(asker()).and(query).and_then(
        |name: String, app: Arc<App>, asker: Arc<Asker>, query: String| {
            answered(async move {
                let (database, caller) = app.admit(&name, &asker).await?;
                let answer = download::answer(&database, &caller, &asker.headers, &query).await;
                if let Err(problem) = &answer {
                    database.metrics.count_download(problem.kind().slug());
                }
                answer
            })
        },
    );
    let other = path().and(only("GET")).map(|_name, response| response);
    get.or(other).unify().boxed()
}

fn database_metrics(app: &Arc<App>) -> BoxedFilter<(Response,)> {
    let path = || warp::path!("v1" / "databases" / String / "metrics");
    let get = path().and(warp::get()).and(with(Arc::clone(app))).and(asker()).and_then(
        |name: String, app: Arc<App>, asker: Arc<Asker>| {
            answered(async move {
                let (database, _caller) = app.admit(&name, &asker).await?;
                Ok(json_response(&app.metrics.database_json(database.name.as_str())))
            })
        },
    );
    let other = path().and(only("GET")).map(|_name, response| response);
    get.or(other).unify().boxed()
}

/// Everything else: what operators ask for, and what nobody answers.
fn operators(app: &Arc<App>) -> BoxedFilter<(Response,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(with(Arc::clone(app)))
        .and(asker())
        .and(query)
        .and(warp::body::stream())
        .and_then(|method, path, app: Arc<App>, asker: Arc<Asker>, query: String, body| {
            answered(async move { api::answer(app, (method, path), &asker, query, body).await })
        })
        .boxed()
}

fn health(app: &Arc<App>) -> BoxedFilter<(Response,)> {
    let read = || warp::get().or(warp::head()).unify();
    let healthz = warp::path!("healthz").and(read()).map(health::healthz);
    let readyz = warp::path!("readyz").and(read()).and(with(Arc::clone(app))).and(asker()).and_then(
        |app: Arc<App>, asker: Arc<Asker>| {
            answered(async move {
                app.admit_monitoring(&asker)?;
                Ok(health::readyz(&app).await)
            })
        },
    );
    let metrics = warp::path!("metrics").and(warp::get()).and(with(Arc::clone(app))).and(asker()).and_then(
        |app: Arc<App>, asker: Arc<Asker>| {
            answered(async move {
                app.admit_monitoring(&asker)?;
                health::metrics(&app)
            })
        },
    );
    let document = warp::path!("openapi.json").and(warp::get()).map(|| json_response(&api::document()));
    let other = warp::path!("healthz").or(warp::path!("readyz")).unify().and(only("GET, HEAD"));
    let other_metrics = warp::path!("metrics").or(warp::path!("openapi.json")).unify().and(only("GET"));
    healthz
        .or(readyz)
        .unify()
        .or(metrics)
        .unify()
        .or(document)
        .unify()
        .or(other)
        .unify()
        .or(other_metrics)
        .unify()
        .map(Reply::into_response)
        .boxed()
}
