//! The accept loop: connections with limits on everything that a caller could leave open.
//!
//! Every answer, also that of a problem, gets the time of this clock and a number by which the log can be
//! searched.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;
use warp::filters::BoxedFilter;
use warp::http::{HeaderName, HeaderValue, Request, header};
use warp::reply::Response;

use crate::error::{Error, Result};
use crate::shutdown;

/// Most connections at once: 10,000 waiting clients took 244 MB when measured.
const CONNECTIONS_MAX: usize = 20_000;

/// Longest wait for the head of a request, also of the next one on a connection that is kept: above the 15 s
/// that our client keeps an idle connection, so that it never sends into one that is being closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;

/// How often an idle HTTP/2 connection is asked whether it still lives, and how long it may take to say so.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// Longest time that sent bytes may stay unanswered: a client that went away without a word holds nothing.
const UNANSWERED_MAX: Duration = Duration::from_secs(60);

/// How long to wait when the system has no file for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TIME: HeaderName = HeaderName::from_static("cloudsync-time");
const REQUEST: HeaderName = HeaderName::from_static("cloudsync-request");

type Routes = BoxedFilter<(Response,)>;

/// Serves until the end is asked for and every request is answered, or the patience for them is over.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Routes,
    mut ending: watch::Receiver<bool>,
    drain_max: Duration,
) -> Result<()> {
    let service = Arc::new(Answering { routes, numbers: RequestNumbers::new()? });
    let builder = builder();
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = shutdown::asked(&mut ending) => break,
        };
        let (permit, stream, peer) = accepted;
        let service = Arc::clone(&service);
        let answer = service_fn(move |request| {
            let service = Arc::clone(&service);
            async move { Ok::<_, Infallible>(service.answer(request, peer).await) }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, error = &*error, "connection broke");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain_max, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off at the end");
    }
    Ok(())
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    builder
}

/// Waits for a connection, and for room for it.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (Option<tokio::sync::OwnedSemaphorePermit>, TcpStream, SocketAddr) {
    // The semaphore is never closed, so a permit always comes.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                prepare(&stream, peer);
                return (permit, stream, peer);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Sets what a socket needs: answers at once, and an end when the other side is gone.
fn prepare(stream: &TcpStream, peer: SocketAddr) {
    let socket = socket2::SockRef::from(stream);
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_keepalive(true))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNANSWERED_MAX)));
    if let Err(error) = set {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "socket keeps its defaults");
    }
}

/// Numbers requests from a random start, so that two nodes or two lives of one do not share numbers.
struct RequestNumbers(AtomicU64);

impl RequestNumbers {
    fn new() -> Result<RequestNumbers> {
        let mut start = [0_u8; 8];
        getrandom::fill(&mut start).map_err(|_| Error::RandomBytes)?;
        Ok(RequestNumbers(AtomicU64::new(u64::from_be_bytes(start))))
    }

    fn next(&self) -> String {
        format!("{:016x}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// The routes, with what every answer gets.
struct Answering {
    routes: Routes,
    numbers: RequestNumbers,
}

impl Answering {
    async fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response {
        request.extensions_mut().insert(peer);
        let number = self.numbers.next();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("request", number);
        let start = Instant::now();
        let routes = TowerToHyperService::new(warp::service(self.routes.clone()));
        let answered = async {
            let Ok(response) = routes.call(request).await;
            let status = response.status().as_u16();
            let elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::debug!(%peer, %method, path, status, elapsed_us, "answered");
            response
        };
        let mut response = answered.instrument(span).await;
        let headers = response.headers_mut();
        headers.insert(TIME, HeaderValue::from(unix_ms()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(number) = HeaderValue::from_str(&number) {
            headers.insert(REQUEST, number);
        }
        response
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
