//! What a request says of who sends it, as every handler gets it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use warp::Filter;
use warp::http::{HeaderMap, HeaderName, HeaderValue, header};

/// The sender of a request, before anybody has decided who that is.
pub(crate) struct Asker {
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The address that the connection comes from.
    pub(crate) address: IpAddr,
}

impl Asker {
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

/// Takes the sender out of a request.
pub(crate) fn asker() -> impl Filter<Extract = (Asker,), Error = Infallible> + Clone {
    let peer = warp::ext::optional::<SocketAddr>();
    warp::header::headers_cloned().and(peer).map(|headers, peer: Option<SocketAddr>| {
        // The accept loop puts the address in; a request without one shares the one of nobody.
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        Asker { headers, address }
    })
}
