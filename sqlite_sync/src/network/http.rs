//! HTTP and HTTPS by ureq, TLS by rustls with the trust store of the system.

use std::cell::OnceCell;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::transport::{ASKED_EVERY, Request, Response, Transport, TransportError};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long a body may take on its way: 8 MiB over a slow line.
const BODY_WITHIN: Duration = Duration::from_secs(300);

/// Keeps one agent, so that connections are used again.
#[derive(Default)]
pub(super) struct HttpTransport {
    agent: OnceCell<Agent>,
}

impl HttpTransport {
    fn agent(&self) -> &Agent {
        self.agent.get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::PlatformVerifier)
                .unversioned_rustls_crypto_provider(provider)
                .build();
            let config = Agent::config_builder()
                .tls_config(tls)
                .http_status_as_error(false)
                .max_redirects(0)
                .user_agent(concat!("cloudsync/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(CONNECT_WITHIN))
                .timeout_send_body(Some(BODY_WITHIN))
                .timeout_recv_body(Some(BODY_WITHIN))
                .build();
            Agent::new_with_config(config)
        })
    }
}

impl Transport for HttpTransport {
    /// Waits on a thread of its own, so that an interrupt is noticed. One that is given up ends with its answer or
    /// its time limit; until then it holds nothing of the caller.
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let agent = self.agent().clone();
        let mut parts = ureq::http::Request::builder().method(request.method.name()).uri(request.url);
        for (name, value) in request.headers {
            parts = parts.header(*name, value);
        }
        let body = request.body.to_vec();
        let (within, bytes_max) = (request.answer_within, request.answer_bytes_max);
        let (sender, answer) = mpsc::sync_channel(1);
        let exchange = move || {
            let sent = parts.body(body).map_err(|error| TransportError { reason: error.to_string() });
            let answer = sent.and_then(|sent| {
                let sent = agent.configure_request(sent).timeout_recv_response(Some(within)).build();
                read(agent.run(sent).map_err(|error| failed(&error))?, bytes_max)
            });
            // Nobody waits any more when this fails.
            drop(sender.send(answer));
        };
        let reason = |error: std::io::Error| TransportError { reason: error.to_string() };
        thread::Builder::new().name("cloudsync".into()).spawn(exchange).map_err(reason)?;
        loop {
            match answer.recv_timeout(ASKED_EVERY) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if !request.cancelled.get() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(TransportError { reason: "the request was given up".into() });
                }
            }
        }
    }

    fn close(&mut self) {
        self.agent = OnceCell::new();
    }
}

fn read(mut answer: ureq::http::Response<Body>, bytes_max: u64) -> Result<Response, TransportError> {
    let headers = answer
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    let read = answer.body_mut().with_config().limit(bytes_max).reader().read_to_end(&mut body);
    let broken = match read.map_err(ureq::Error::from) {
        Ok(_length) => None,
        Err(error @ ureq::Error::BodyExceedsLimit(_)) => return Err(failed(&error)),
        Err(error) => Some(failed(&error)),
    };
    Ok(Response { status, headers, body, broken })
}

fn failed(error: &ureq::Error) -> TransportError {
    TransportError { reason: error.to_string() }
}
