//! The accept loop: connections with limits on everything that a caller could leave open.
//!
//! Every answer, also that of a problem, gets the time of this clock and a number by which the log can be
//! searched.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tracing::Instrument;
use warp::filters::BoxedFilter;
use warp::http::{HeaderName, HeaderValue, Request, header};
use warp::reply::Response;

use super::asker::Asker;
use super::connection::Speaking;
use crate::config::EdgesConfig;
use crate::error::{Error, Result};
use crate::metrics::EdgeMetrics;
use crate::shutdown;

/// Longest wait for the handshake of TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What a connection that there is no room for is told, before anything is known of it.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n\
    Content-Type: application/problem+json\r\nContent-Length: 157\r\n\r\n\
    {\"type\":\"about:blank#unavailable\",\"title\":\"The hub cannot answer now\",\"status\":503,\
    \"detail\":\"the hub has as many connections as it may\",\"code\":\"unavailable\"}";

/// Longest time that sent bytes may stay unanswered: a client that went away without a word holds nothing.
const UNANSWERED_MAX: Duration = Duration::from_secs(60);

/// Bytes that the system takes before they can be sent: with more, an answer would seem to be read that is not. What is
/// sent and not yet confirmed does not count, so a fast line stays fast.
const UNSENT_BYTES_MAX: u32 = 64 * 1024;

/// How long to wait when the system has no file for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TIME: HeaderName = HeaderName::from_static("cloudsync-time");
const REQUEST: HeaderName = HeaderName::from_static("cloudsync-request");

type Routes = BoxedFilter<(Response,)>;

/// Where connections come from, and how they are secured.
pub(crate) struct Listening {
    /// The socket.
    pub(crate) listener: TcpListener,
    /// TLS; without it connections are in the open.
    pub(crate) tls: Option<TlsAcceptor>,
}

/// Serves until the end is asked for and every request is answered, or the patience for them is over.
pub(crate) async fn serve(
    listening: Listening,
    routes: Routes,
    edges: &EdgesConfig,
    metrics: &EdgeMetrics,
    mut ending: watch::Receiver<bool>,
    drain_max: Duration,
) -> Result<()> {
    let Listening { listener, tls } = listening;
    let serving = Arc::new(Serving {
        answering: Answering { routes, numbers: RequestNumbers::new()? },
        speaking: Speaking::new(edges),
        tls,
        ending: ending.clone(),
    });
    let room = Arc::new(Semaphore::new(edges.connections_max));
    prepare(&listener);
    // Each connection holds one end; when the last is gone, so is the wait at the other.
    let (held, mut all_ended) = mpsc::channel::<Infallible>(1);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = shutdown::asked(&mut ending) => break,
        };
        let (stream, peer) = accepted;
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            metrics.refused.inc();
            if serving.tls.is_none() {
                // Whether it is heard is all the same: the connection ends here.
                let _heard = stream.try_write(NO_ROOM).is_ok();
            }
            continue;
        };
        let (serving, held, open) = (Arc::clone(&serving), held.clone(), metrics.open.clone());
        tokio::spawn(async move {
            open.inc();
            serving.connection(stream, peer).await;
            open.dec();
            drop((permit, held));
        });
    }
    drop((listener, held));
    if tokio::time::timeout(drain_max, all_ended.recv()).await.is_err() {
        tracing::warn!("requests were cut off at the end");
    }
    Ok(())
}

/// What every connection needs.
struct Serving {
    answering: Answering,
    speaking: Speaking,
    tls: Option<TlsAcceptor>,
    ending: watch::Receiver<bool>,
}

impl Serving {
    /// Serves one connection to its end.
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let ending = self.ending.clone();
        let serving = Arc::clone(&self);
        let answer = move |request| {
            let serving = Arc::clone(&serving);
            async move { serving.answering.answer(request, peer).await }
        };
        let ended = match &self.tls {
            None => self.speaking.serve(stream, ending, answer).await,
            // Boxed, since a connection in the open would hold room for it too.
            Some(tls) => {
                let secured = async {
                    let stream = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream))
                        .await
                        .map_err(|_elapsed| "no handshake in time")??;
                    self.speaking.serve(stream, ending, answer).await
                };
                Box::pin(secured).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = &*error as &dyn std::error::Error, "connection broke");
        }
    }
}

/// Waits for a connection.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Sets what the socket of each connection needs: answers at once, and an end when the other side is gone. A connection
/// has what its listener had when it came, so that it costs no call of its own.
fn prepare(listener: &TcpListener) {
    let socket = socket2::SockRef::from(listener);
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_keepalive(true))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNANSWERED_MAX)))
        .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX));
    if let Err(error) = set {
        tracing::warn!(error = &error as &dyn std::error::Error, "sockets keep their defaults");
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
        Asker::take_out_of(&mut request, peer);
        let number = self.numbers.next();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("request", number);
        let start = Instant::now();
        let routes = TowerToHyperService::new(warp::service(self.routes.clone()));
        let answered = |Ok(response): std::result::Result<Response, Infallible>| {
            let status = response.status().as_u16();
            let elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::debug!(%peer, %method, path, status, elapsed_us, "answered");
            response
        };
        let mut response = routes.call(request).map(answered).instrument(span).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_has_what_its_listener_was_given() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare(&listener);
        let address = listener.local_addr().unwrap();
        let (_client, (stream, _peer)) = tokio::join!(TcpStream::connect(address), accept(&listener));
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNANSWERED_MAX));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
    }
}
