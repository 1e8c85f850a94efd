//! Keys of databases: made, listed, revoked, rotated. The text of a key is told once.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use warp::http::StatusCode;
use warp::reply::Response;

use super::call::{Call, answer, done};
use super::types::{KeyAnswer, KeysAnswer, NewKeyAnswer, NewKeyBody, RotateBody};
use crate::auth::api_key::ApiKey;
use crate::control::KeyWanted;
use crate::http::problem::{Problem, ProblemKind};

type Answered = BoxFuture<'static, Result<Response, Problem>>;

/// Any key that keeps the rules: what is asked with it is whether the role does.
const ANY_KEY: &str = "00000000000000000000000000000000";

pub(super) fn list(call: Call) -> Answered {
    async move {
        let database = call.database()?;
        let keys = match &call.app.control {
            Some(control) => {
                control.look().await?;
                control.state().keys
            }
            None => Vec::new(),
        };
        let of_it = keys.into_iter().filter(|key| key.database == database.name.as_str());
        let keys = of_it.map(|key| KeyAnswer {
            id: key.id,
            label: key.label,
            role: key.role,
            created_at: key.created_at,
            expires_at: key.expires_at,
        });
        let file_keys = database.config().api_keys.count();
        answer(StatusCode::OK, &KeysAnswer { keys: keys.collect(), file_keys })
    }
    .boxed()
}

pub(super) fn create(call: Call) -> Answered {
    async move {
        let wanted: NewKeyBody = call.read()?;
        let wanted = KeyWanted {
            role: wanted.role,
            label: wanted.label,
            lives: wanted.expires_in_s.map(Duration::from_secs),
        };
        check(&wanted)?;
        let database = call.database()?;
        let control = call.control()?;
        let key = control.control.create_key(database.name.as_str(), &wanted).await?;
        control.look().await?;
        answer(StatusCode::CREATED, &NewKeyAnswer { id: key.id, key: key.text })
    }
    .boxed()
}

pub(super) fn revoke(call: Call) -> Answered {
    async move {
        let database = call.database()?;
        let control = call.control()?;
        if !control.control.revoke_key(database.name.as_str(), call.name(1), Duration::ZERO).await? {
            return Err(unknown_key(call.name(1)));
        }
        control.look().await?;
        done()
    }
    .boxed()
}

pub(super) fn rotate(call: Call) -> Answered {
    async move {
        let RotateBody { grace_s } = call.read()?;
        if grace_s > 31_536_000 {
            let detail = "body.grace_s: found more, wanted at most 31536000 seconds";
            return Err(Problem::new(ProblemKind::BadRequest, detail));
        }
        let database = call.database()?;
        let control = call.control()?;
        let name = database.name.as_str();
        control.look().await?;
        let keys = control.state().keys;
        let old = keys.into_iter().find(|key| key.database == name && key.id == call.name(1));
        let old = old.ok_or_else(|| unknown_key(call.name(1)))?;
        let wanted = KeyWanted { role: old.role, label: old.label, lives: None };
        let key = control.control.create_key(name, &wanted).await?;
        control.control.revoke_key(name, &old.id, Duration::from_secs(grace_s)).await?;
        control.look().await?;
        answer(StatusCode::CREATED, &NewKeyAnswer { id: key.id, key: key.text })
    }
    .boxed()
}

fn check(wanted: &KeyWanted) -> Result<(), Problem> {
    let wrong = |detail: String| Err(Problem::new(ProblemKind::BadRequest, detail));
    if wanted.label.chars().count() > 200 || wanted.label.contains('\0') {
        return wrong("body.label: wanted at most 200 characters without NUL".to_owned());
    }
    if wanted.lives.is_some_and(|lives| lives.is_zero() || lives.as_secs() > 3_153_600_000) {
        return wrong("body.expires_in_s: wanted 1 to 3153600000 seconds".to_owned());
    }
    match ApiKey::new(ANY_KEY, wanted.role.as_deref()) {
        Ok(_) => Ok(()),
        Err(problem) => wrong(format!("body.role: found {}, wanted {}", problem.found, problem.wanted)),
    }
}

fn unknown_key(id: &str) -> Problem {
    Problem::new(ProblemKind::UnknownName, format!("the database has no key {id:?} in the control database"))
}
