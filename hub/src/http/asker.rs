//! What a request says of who sends it, as every handler gets it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use warp::Filter;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Request, header};

/// The sender of a request, before anybody has decided who that is.
pub(crate) struct Asker {
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The address that the connection comes from.
    pub(crate) address: IpAddr,
}

impl Default for Asker {
    fn default() -> Asker {
        Asker { headers: HeaderMap::new(), address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
    }
}

impl Asker {
    /// Takes the headers out of a request and puts the sender in: while it waits, there is one copy of them.
    pub(super) fn take_out_of<B>(request: &mut Request<B>, peer: SocketAddr) {
        let headers = std::mem::take(request.headers_mut());
        request.extensions_mut().insert(Arc::new(Asker { headers, address: peer.ip() }));
    }

    /// The header that shows who it is.
    pub(crate) fn authorization(&self) -> Option<&[u8]> {
        self.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes)
    }

    /// What proxies say of where the request comes from.
    pub(crate) fn forwarded(&self) -> Option<&str> {
        self.headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Gives who sends a request, as the accept loop found it.
pub(crate) fn asker() -> impl Filter<Extract = (Arc<Asker>,), Error = Infallible> + Clone {
    // The accept loop puts it in; a request without one is of nobody.
    warp::ext::optional::<Arc<Asker>>().map(Option::unwrap_or_default)
}
