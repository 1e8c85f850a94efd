//! HTTP and HTTPS by ureq, TLS by rustls with the trust store of the system.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::transport::{Method, Request, Response, Transport, TransportError};

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
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let agent = self.agent();
        let within = Some(request.answer_within);
        let answer = match request.method {
            Method::Get => {
                let mut get = agent.get(request.url);
                for (name, value) in request.headers {
                    get = get.header(*name, value);
                }
                get.config().timeout_recv_response(within).build().call()
            }
            Method::Post => {
                let mut post = agent.post(request.url);
                for (name, value) in request.headers {
                    post = post.header(*name, value);
                }
                post.config().timeout_recv_response(within).build().send(request.body)
            }
        };
        read(answer.map_err(|error| failed(&error))?, request.answer_bytes_max)
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
    let body =
        answer.body_mut().with_config().limit(bytes_max).read_to_vec().map_err(|error| failed(&error))?;
    Ok(Response { status, headers, body })
}

fn failed(error: &ureq::Error) -> TransportError {
    TransportError { reason: error.to_string() }
}
