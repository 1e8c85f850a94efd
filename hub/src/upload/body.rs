//! Collects the body of an upload: bounded in size, and in time so that a half-sent body holds nothing.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use shared_format::payload::Limits;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::EdgesConfig;
use crate::http::problem::{Problem, ProblemKind};

/// Longest body: the compressed payload of DESIGN section 15 and the frame around it, with room to spare.
pub(super) const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024 + 64;

const _: () = assert!(Limits::UPLOAD.compressed_max == 8 * 1024 * 1024);

/// How long a body may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Longest wait for more.
    pub(super) idle: Duration,
    /// Longest time for all of it.
    pub(super) whole: Duration,
}

impl Patience {
    /// What the edges of the server allow.
    pub(super) fn of(edges: &EdgesConfig) -> Patience {
        Patience { idle: edges.body_idle_timeout, whole: edges.body_timeout }
    }
}

/// Reads on to the end without keeping anything, as far as a body may be long, and gives up in silence.
pub(super) async fn pass_over<S, B, E>(body: S, patience: Patience)
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let mut body = pin!(body);
    let end = Instant::now() + patience.whole;
    let mut passed = 0_u64;
    while let Ok(Ok(Some(Ok(part)))) = timeout_at(end, timeout(patience.idle, body.next())).await {
        passed = passed.saturating_add(u64::try_from(part.remaining()).unwrap_or(u64::MAX));
        if passed > BODY_BYTES_MAX {
            return;
        }
    }
}

/// Reads the whole body.
pub(super) async fn collect<S, B, E>(
    body: S,
    announced: Option<u64>,
    patience: Patience,
) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
    E: std::fmt::Display,
{
    if announced.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let mut body = pin!(body);
    let mut collected = BytesMut::new();
    let end = Instant::now() + patience.whole;
    loop {
        let more = timeout_at(end, timeout(patience.idle, body.next())).await;
        match more.and_then(|more| more) {
            Err(_elapsed) => return Err(Problem::new(ProblemKind::TooSlow, "the body did not come in time")),
            Ok(None) => return Ok(collected.freeze()),
            Ok(Some(Err(error))) => {
                return Err(Problem::new(ProblemKind::BadRequest, format!("the body broke off: {error}")));
            }
            Ok(Some(Ok(mut part))) => {
                let length = collected.len().saturating_add(part.remaining());
                if u64::try_from(length).map_or(true, |length| length > BODY_BYTES_MAX) {
                    return Err(too_large());
                }
                while part.has_remaining() {
                    let chunk = part.chunk();
                    collected.extend_from_slice(chunk);
                    let taken = chunk.len();
                    part.advance(taken);
                }
            }
        }
    }
}

fn too_large() -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("body is too large, limit is {BODY_BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    type Part = Result<Bytes, &'static str>;

    fn patience(idle_ms: u64, whole_ms: u64) -> Patience {
        Patience { idle: Duration::from_millis(idle_ms), whole: Duration::from_millis(whole_ms) }
    }

    async fn check(parts: Vec<Part>, announced: Option<u64>, wanted: Result<usize, ProblemKind>) {
        let collected = collect(stream::iter(parts), announced, patience(60_000, 60_000)).await;
        assert_eq!(collected.map(|body| body.len()).map_err(|problem| problem.kind()), wanted);
    }

    #[tokio::test]
    async fn a_body_is_collected_up_to_its_limit() {
        let mebibyte = || Ok(Bytes::from(vec![0; 1024 * 1024]));
        check(vec![], None, Ok(0)).await;
        check(vec![Ok(Bytes::from("ab")), Ok(Bytes::from("c"))], Some(3), Ok(3)).await;
        check(vec![mebibyte(); 8], None, Ok(8 * 1024 * 1024)).await;
        check(vec![mebibyte(); 9], None, Err(ProblemKind::TooLarge)).await;
        check(vec![], Some(9 * 1024 * 1024), Err(ProblemKind::TooLarge)).await;
        check(vec![Ok(Bytes::from("ab")), Err("reset")], None, Err(ProblemKind::BadRequest)).await;
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_dribbles_is_given_up() {
        let stalled = || stream::pending::<Part>();
        let dribble = || {
            stream::repeat(()).then(|()| async {
                tokio::task::yield_now().await;
                Part::Ok(Bytes::new())
            })
        };
        let kind = |collected: Result<Bytes, Problem>| collected.map_err(|problem| problem.kind());
        let given_up = Err(ProblemKind::TooSlow);
        assert_eq!(kind(collect(stalled(), None, patience(1, 60_000)).await), given_up);
        assert_eq!(kind(collect(stalled(), None, patience(60_000, 1)).await), given_up);
        assert_eq!(kind(collect(dribble(), None, patience(60_000, 1)).await), given_up);
    }
}
