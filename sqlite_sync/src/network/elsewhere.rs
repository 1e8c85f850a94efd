//! Parts of a snapshot that the server has in an object store: they are fetched from there, where it says.
//!
//! The address is a secret for a while, so that it appears in no error; and nothing that is for the server goes there, no
//! key, no token, no site. Where the store is not to be had, the server gives the part itself.

use rusqlite::Connection;

use super::Network;
use super::answer::{ANSWER_WITHIN, Ask};
use super::transport::{Cancelled, Method, Request, Response, TransportError};
use crate::error::Result;
use crate::sql::check_interrupt;

/// The header by which a client says that it fetches from the store.
pub(super) const FOLLOW: (&str, &str) = ("Cloudsync-Redirects", "follow");

/// The status of an answer that says where the part is.
pub(super) const ELSEWHERE: u16 = 307;

impl Network {
    /// Fetches a part from where an answer says, from a byte on; None where that is not possible.
    pub(super) fn follow(
        &self,
        connection: &Connection,
        ask: &Ask<'_>,
        referred: &Response,
        from: usize,
    ) -> Result<Option<Response>> {
        let server = self.server()?;
        let Some(url) = referred.header("location").filter(|url| server.may_refer_to(url)) else {
            return Ok(None);
        };
        let headers = if from > 0 { vec![("Range", format!("bytes={from}-"))] } else { Vec::new() };
        let fetched = self.transport.send(&Request {
            method: Method::Get,
            url,
            headers: &headers,
            body: &[],
            answer_within: ANSWER_WITHIN,
            answer_bytes_max: ask.answer_bytes_max,
            cancelled: Cancelled(&|| check_interrupt(connection).is_err()),
        });
        check_interrupt(connection)?;
        let Ok(fetched) = fetched else { return Ok(None) };
        if fetched.status != 200 && (fetched.status != 206 || from == 0) {
            return Ok(None);
        }
        // The server says what it is, the store which bytes of it.
        let mut headers = referred.headers.clone();
        let range = fetched.header("content-range").map(str::to_owned);
        headers.extend(range.map(|range| (String::from("content-range"), range)));
        let reason = || String::from("the answer of the object store broke off");
        let broken = fetched.broken.map(|_error| TransportError { reason: reason() });
        Ok(Some(Response { status: fetched.status, headers, body: fetched.body, broken }))
    }
}
