//! What operators and load balancers ask: whether the process answers, whether it can serve, what it counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::app::{App, Database};
use super::json_response;
use super::problem::Problem;

/// How long one look at a database serves everybody who asks.
const FRESH: Duration = Duration::from_secs(1);

/// Longest wait for a database.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The last look at one database, so that asking often costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Probe(Mutex<Option<(Instant, bool)>>);

impl Probe {
    async fn reachable(&self, database: &Database) -> bool {
        let mut last = self.0.lock().await;
        match *last {
            Some((at, reachable)) if at.elapsed() < FRESH => reachable,
            Some(_) | None => {
                let asked = tokio::time::timeout(PING_TIMEOUT, database.backend.ping()).await;
                let reachable = matches!(asked, Ok(Ok(())));
                *last = Some((Instant::now(), reachable));
                reachable
            }
        }
    }
}

/// Says that the process answers.
pub(super) fn healthz() -> Response {
    json_response(&json!({ "status": "ok" }))
}

/// Says whether every database can be served, and whether it is known which there are.
pub(super) async fn readyz(app: &App) -> Response {
    let states: Vec<(bool, Value)> = join_all(app.databases.all().values().map(look_at)).await;
    let ending = *app.shutdown.borrow();
    let control = app.control.as_ref().map(|follower| follower.state());
    // A node that has never read which databases there are would turn devices away that others serve.
    let known = control.as_ref().is_none_or(|control| control.known);
    let ready = !ending && known && states.iter().all(|(ready, _)| *ready);
    let databases: Vec<Value> = states.into_iter().map(|(_, state)| state).collect();
    let control = control.map(|control| json!({ "known": control.known, "problem": control.problem }));
    let mut response = json_response(
        &json!({ "ready": ready, "ending": ending, "control": control, "databases": databases }),
    );
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn look_at(database: &Arc<Database>) -> (bool, Value) {
    let reachable = database.probe.reachable(database).await;
    let feed = database.feed.status();
    let ready = reachable && feed.ready();
    (
        ready,
        json!({ "name": database.name.as_str(), "ready": ready, "reachable": reachable, "feed": feed.to_json() }),
    )
}

/// Every metric of the hub.
pub(super) fn metrics(app: &App) -> Result<Response, Problem> {
    let mut response = Response::new(app.metrics.render()?.into());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    Ok(response)
}
