//! Databases: which there are, and their coming and going.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio_postgres::config::Host;
use warp::http::StatusCode;
use warp::reply::Response;

use super::call::{Call, answer, done, unknown_database};
use super::types::{
    BrokenDatabase, ControlState, DatabaseAnswer, DatabasesAnswer, FeedAnswer, LimitsBody, NewDatabase,
    PostgresAnswer, Settings, Source, UsedAnswer,
};
use crate::config::{BackendLocation, DatabaseConfig, DatabaseName, LimitsConfig};
use crate::control::follow::Follower;
use crate::http::app::Database;
use crate::http::databases::Origin;
use crate::http::problem::{Problem, ProblemKind};
use crate::limits::Use;
use crate::postgres::PostgresUrl;

type Answered = BoxFuture<'static, Result<Response, Problem>>;

pub(super) fn list(call: Call) -> Answered {
    async move {
        let state = call.app.control.as_ref().map(|control| control.state());
        let control = match &state {
            None => ControlState::None,
            Some(state) if state.known && state.problem.is_none() => ControlState::Followed,
            Some(_) => ControlState::Away,
        };
        let nodes = state.as_ref().map_or(1, |state| state.nodes.max(1));
        let broken = state.map(|state| state.broken).unwrap_or_default();
        let body = DatabasesAnswer {
            databases: call.app.databases.all().values().map(|database| tell(database)).collect(),
            broken: broken.into_iter().map(|(name, problem)| BrokenDatabase { name, problem }).collect(),
            nodes,
            control,
        };
        answer(StatusCode::OK, &body)
    }
    .boxed()
}

pub(super) fn get(call: Call) -> Answered {
    async move { answer(StatusCode::OK, &tell(&*call.database()?)) }.boxed()
}

pub(super) fn create(call: Call) -> Answered {
    async move {
        let wanted: NewDatabase = call.read()?;
        let name = DatabaseName::new(&wanted.name).ok_or_else(|| {
            let wanted = "1 to 63 lower-case letters, digits, - and _, beginning with a letter or digit";
            Problem::new(ProblemKind::BadRequest, format!("body.name: wanted {wanted}"))
        })?;
        let control = call.control()?;
        let settings = check(&name, &wanted.settings)?;
        let taken =
            || Problem::new(ProblemKind::NameTaken, format!("there is a database {:?}", name.as_str()));
        if call.app.databases.all().contains_key(&name)
            || !control.control.create_database(&name, &settings).await?
        {
            return Err(taken());
        }
        served(&call, control, &name, StatusCode::CREATED).await
    }
    .boxed()
}

pub(super) fn replace(call: Call) -> Answered {
    async move {
        let wanted: Settings = call.read()?;
        let (name, control) = changeable(&call)?;
        let settings = check(&name, &wanted)?;
        if !control.control.replace_database(&name, &settings).await? {
            return Err(unknown_database(name.as_str()));
        }
        served(&call, control, &name, StatusCode::OK).await
    }
    .boxed()
}

pub(super) fn delete(call: Call) -> Answered {
    async move {
        let (name, control) = changeable(&call)?;
        if !control.control.delete_database(&name).await? {
            return Err(unknown_database(name.as_str()));
        }
        control.look().await?;
        done()
    }
    .boxed()
}

/// The name of a database that is not the file's.
fn changeable(call: &Call) -> Result<(DatabaseName, &Follower), Problem> {
    let name = call.database_name()?;
    let of_file = call.app.databases.all().get(&name).is_some_and(|found| found.origin == Origin::File);
    if of_file {
        let detail = format!("database {:?} is set in the file of the hub", name.as_str());
        return Err(Problem::new(ProblemKind::ReadOnly, detail));
    }
    Ok((name, call.control()?))
}

/// The settings as they are kept, if a hub can use them.
fn check(name: &DatabaseName, settings: &Settings) -> Result<Value, Problem> {
    let wrong = |detail: String| Problem::new(ProblemKind::BadRequest, detail);
    let settings = serde_json::to_value(settings).expect("settings were JSON before");
    let map = settings.as_object().expect("settings are an object");
    if map.contains_key("api_keys") {
        return Err(wrong(
            "body: keys are made by a request of their own, not given as `api_keys`".to_owned(),
        ));
    }
    DatabaseConfig::of_settings(name, map).map_err(|error| wrong(error.to_string()))?;
    Ok(settings)
}

/// Answers with the database as this node serves it now.
async fn served(
    call: &Call,
    control: &Follower,
    name: &DatabaseName,
    status: StatusCode,
) -> Result<Response, Problem> {
    control.look().await?;
    let database = call.app.databases.all().get(name).cloned();
    let unserved = || {
        let problem = control.state().broken.remove(name.as_str());
        Problem::new(ProblemKind::Unavailable, format!("database is kept but not served: {problem:?}"))
    };
    answer(status, &tell(&*database.ok_or_else(unserved)?))
}

fn tell(database: &Database) -> DatabaseAnswer {
    let feed = database.feed.status();
    let postgres = match &database.config().backend {
        BackendLocation::Postgres(url) => Some(tell_postgres(url)),
        BackendLocation::Sqlite(_) => None,
    };
    DatabaseAnswer {
        name: database.name.to_string(),
        source: match database.origin {
            Origin::File => Source::File,
            Origin::Control { .. } => Source::Control,
        },
        postgres,
        feed: FeedAnswer {
            ready: feed.ready(),
            connected: feed.connected,
            leader: feed.leader,
            epoch: feed.epoch,
            position: feed.position,
            problem: feed.problem,
        },
        limits: tell_limits(&database.limits.config()),
        used: tell_used(database.limits.used()),
    }
}

fn tell_limits(limits: &LimitsConfig) -> LimitsBody {
    LimitsBody {
        requests_per_s_max: limits.requests_per_s_max,
        in_flight_bytes_max: limits.in_flight_bytes_max,
        waits_max: limits.waits_max.map(count),
        stored_bytes_max: limits.stored_bytes_max,
    }
}

fn tell_used(used: Use) -> UsedAnswer {
    let Use { in_flight_bytes, waits, stored_bytes } = used;
    UsedAnswer { in_flight_bytes, waits: count(waits), stored_bytes }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn tell_postgres(url: &PostgresUrl) -> PostgresAnswer {
    let config = url.config();
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    });
    PostgresAnswer {
        hosts: hosts.collect(),
        database: config.get_dbname().unwrap_or_default().to_owned(),
        user: config.get_user().unwrap_or_default().to_owned(),
    }
}
