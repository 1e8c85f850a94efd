//! One connection: served until it ends, is idle for too long, or the hub ends.
//!
//! A connection without a request under way holds nothing for long, whatever protocol it speaks or whether it speaks at
//! all. A request is under way until the last byte of its answer is handed over; one that is, ends only if its answer
//! is not read.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use warp::http::{Request, Response};

use super::head;
use super::pace::Pace;
use crate::config::EdgesConfig;
use crate::shutdown;

/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;

/// How often an idle HTTP/2 connection is asked whether it still lives, and how long it may take to say so.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// Longest head of a request, over either protocol: `Authorization` may take 8 KiB, and a cursor 1.
const HEAD_BYTES_MAX: u32 = 32 * 1024;

/// Most memory of one connection for what it has read and not used.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an answer that are handed over at once: small, so that how fast they are taken says how fast they are read.
const SLICE_BYTES: usize = 16 * 1024;

/// How long an idle connection gets to say goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// How connections are spoken with.
#[derive(Clone)]
pub(super) struct Speaking {
    builder: Builder<TokioExecutor>,
    idle_max: Duration,
    answer_idle_max: Duration,
}

impl Speaking {
    /// Takes the limits of the configuration.
    pub(super) fn new(edges: &EdgesConfig) -> Speaking {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(edges.head_timeout)
            .max_buf_size(BUFFER_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING);
        Speaking { builder, idle_max: edges.idle_timeout, answer_idle_max: edges.answer_idle_timeout }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve<I, A, F, B>(
        &self,
        io: I,
        mut ending: watch::Receiver<bool>,
        answer: A,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn(Request<Incoming>) -> F + Clone,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
    {
        let activity = Activity::new();
        let (counted, patience) = (Arc::clone(&activity), self.answer_idle_max);
        let service = service_fn(move |request| {
            let underway = Underway::begin(&counted);
            answer(head::own(request)).map(move |answer| {
                let (head, body) = answer.into_parts();
                Ok::<_, Infallible>(Response::from_parts(head, underway.answer(body, patience)))
            })
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = shutdown::asked(&mut ending) => {
                connection.as_mut().graceful_shutdown();
                return connection.await;
            }
            () = activity.stalled(patience) => return Err("an answer was not read".into()),
            () = activity.idle_for(self.idle_max) => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = activity.stalled(patience) => Err("an answer was not read".into()),
            () = activity.idle_for(self.idle_max + GOODBYE_MAX) => Ok(()),
        }
    }
}

/// What goes on on a connection.
struct Activity(Mutex<State>);

struct State {
    /// Requests under way.
    underway: usize,
    /// Since when there are so many.
    since: Instant,
    /// Answers on their way, a few at most, by numbers that say nothing, each with the pace of its reader.
    answers: Vec<(u64, Pace)>,
    /// The number of the next.
    next: u64,
}

impl Activity {
    fn new() -> Arc<Activity> {
        let (underway, since, answers, next) = (0, Instant::now(), Vec::new(), 0);
        Arc::new(Activity(Mutex::new(State { underway, since, answers, next })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.state();
        state.underway = change(state.underway);
        state.since = Instant::now();
    }

    /// Waits until no request has been under way for so long.
    async fn idle_for(&self, idle_max: Duration) {
        loop {
            let (underway, since) = {
                let state = self.state();
                (state.underway, state.since)
            };
            let now = Instant::now();
            if underway == 0 && since + idle_max <= now {
                return;
            }
            sleep_until(if underway == 0 { since } else { now } + idle_max).await;
        }
    }

    /// Waits until an answer is read too slowly, by somebody whose patience at the start is this.
    async fn stalled(&self, patience: Duration) {
        loop {
            let first = self.state().answers.iter().map(|(_, pace)| pace.deadline()).min();
            let now = Instant::now();
            match first {
                Some(deadline) if deadline <= now => return,
                Some(deadline) => sleep_until(deadline).await,
                // No answer that begins from now on can be late before.
                None => sleep_until(now + patience).await,
            }
        }
    }
}

/// A request that is under way for as long as this lives.
struct Underway(Arc<Activity>);

impl Underway {
    fn begin(activity: &Arc<Activity>) -> Underway {
        activity.count(|underway| underway.saturating_add(1));
        Underway(Arc::clone(activity))
    }

    /// Its answer is on its way from now on.
    fn answer<B>(self, body: B, patience: Duration) -> Counted<B> {
        let mut state = self.0.state();
        let number = state.next;
        state.next = number.wrapping_add(1);
        state.answers.push((number, Pace::begin(patience, Instant::now())));
        drop(state);
        Counted { body, rest: Bytes::new(), number, underway: self }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.count(|underway| underway.saturating_sub(1));
    }
}

/// The body of an answer, which keeps its request under way and notes how fast it is read.
struct Counted<B> {
    body: B,
    /// What was not handed over yet of the last piece.
    rest: Bytes,
    number: u64,
    underway: Underway,
}

impl<B> Counted<B> {
    fn took(&self, bytes: usize) {
        let mut state = self.underway.0.state();
        if let Some((_, pace)) = state.answers.iter_mut().find(|(number, _)| *number == self.number) {
            pace.took(bytes, Instant::now());
        }
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        self.underway.0.state().answers.retain(|(number, _)| *number != self.number);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => self.rest = piece,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        let length = self.rest.len().min(SLICE_BYTES);
        let slice = self.rest.split_to(length);
        self.took(length);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}
