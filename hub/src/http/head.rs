//! The head of a request, in memory of its own.
//!
//! Over HTTP/1 a head lies in the buffer that its connection reads into, and all of that is held for as long as the
//! request is under way, beside another one for what may come next. A client that waits for changes is under way for
//! a minute, and thousands wait: with a head of its own such a connection keeps one buffer, which it uses again.

use bytes::Bytes;
use warp::http::{HeaderValue, Request, Uri, Version};

/// Copies the head of a request out of the buffer that it was read into.
pub(super) fn own<B>(mut request: Request<B>) -> Request<B> {
    if request.version() > Version::HTTP_11 {
        // What comes in frames is copied out of them when it is decoded.
        return request;
    }
    let uri = request.uri().to_string();
    let length = request.headers().values().map(HeaderValue::len).fold(uri.len(), usize::saturating_add);
    let mut all = Vec::with_capacity(length);
    all.extend_from_slice(uri.as_bytes());
    request.headers().values().for_each(|value| all.extend_from_slice(value.as_bytes()));
    let mut rest = Bytes::from(all);
    // What was valid is valid again.
    if let Ok(own) = Uri::from_maybe_shared(rest.split_to(uri.len())) {
        *request.uri_mut() = own;
    }
    for value in request.headers_mut().values_mut() {
        if let Ok(mut own) = HeaderValue::from_maybe_shared(rest.split_to(value.len())) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request whose URI and header lie in a buffer, which is given too.
    fn in_buffer(version: Version) -> (Bytes, Request<()>) {
        let buffer = Bytes::from(b"GET /v1/databases/demo/changes?cursor=a%2Fb abc".to_vec());
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.uri_mut() = Uri::from_maybe_shared(buffer.slice(4..43)).unwrap();
        let value = HeaderValue::from_maybe_shared(buffer.slice(44..)).unwrap();
        request.headers_mut().append("cloudsync-site", value.clone());
        request.headers_mut().append("cloudsync-site", HeaderValue::from_static("second"));
        request.headers_mut().append("x-empty", HeaderValue::from_static(""));
        (buffer, request)
    }

    #[test]
    fn a_head_says_the_same_and_leaves_its_buffer() {
        let (buffer, request) = in_buffer(Version::HTTP_11);
        let said = (request.uri().clone().to_string(), request.headers().clone());
        assert!(!buffer.is_unique());
        let request = own(request);
        assert_eq!((request.uri().to_string(), request.headers()), (said.0, &said.1));
        drop(said.1);
        assert!(buffer.is_unique(), "nothing but the reader holds the buffer");
    }

    #[test]
    fn a_head_that_came_in_frames_is_left_alone() {
        let (buffer, request) = in_buffer(Version::HTTP_2);
        let request = own(request);
        assert_eq!(request.uri().path(), "/v1/databases/demo/changes");
        assert!(!buffer.is_unique());
    }
}
