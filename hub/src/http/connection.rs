//! One connection: served until it ends, is idle for too long, or the hub ends.
//!
//! A connection without a request under way holds nothing for long, whatever protocol it speaks or whether it speaks at
//! all; one with a request is never cut off here. A request is under way until the last byte of its answer is handed
//! over.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use warp::http::{Request, Response};

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

/// How long an idle connection gets to say goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// How connections are spoken with.
#[derive(Clone)]
pub(super) struct Speaking {
    builder: Builder<TokioExecutor>,
    idle_max: Duration,
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
        Speaking { builder, idle_max: edges.idle_timeout }
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
        B: Body<Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
        B::Data: Buf + Send,
    {
        let activity = Activity::new();
        let counted = Arc::clone(&activity);
        let service = service_fn(move |request| {
            let underway = Underway::begin(&counted);
            let answered = answer(request);
            async move {
                let (head, body) = answered.await.into_parts();
                Ok::<_, Infallible>(Response::from_parts(head, Counted { body, _underway: underway }))
            }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = shutdown::asked(&mut ending) => {
                connection.as_mut().graceful_shutdown();
                return connection.await;
            }
            () = activity.idle_for(self.idle_max) => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = activity.idle_for(self.idle_max + GOODBYE_MAX) => Ok(()),
        }
    }
}

/// How many requests of a connection are under way, and since when none is.
struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    fn new() -> Arc<Activity> {
        Arc::new(Activity(Mutex::new((0, Instant::now()))))
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (change(state.0), Instant::now());
    }

    /// Waits until no request has been under way for so long.
    async fn idle_for(&self, idle_max: Duration) {
        loop {
            let (underway, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if underway == 0 && since + idle_max <= now {
                return;
            }
            sleep_until(if underway == 0 { since } else { now } + idle_max).await;
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
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.count(|underway| underway.saturating_sub(1));
    }
}

/// The body of an answer, which keeps its request under way.
struct Counted<B> {
    body: B,
    _underway: Underway,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
