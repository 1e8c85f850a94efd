//! The address of one database at a hub.

use std::fmt;

use crate::error::{Error, Result};

/// Where a database is served: `http://host:port/demo` means `http://host:port/v1/databases/demo/...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    base: String,
}

impl Server {
    /// Reads the address that users give.
    ///
    /// # Errors
    /// An address that is not `http(s)://host[:port]/database`.
    pub fn parse(url: &str) -> Result<Self> {
        let wrong = |wanted| Error::Url { url: without_credentials(url), wanted };
        let (scheme, rest) = url
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
            .ok_or_else(|| wrong("wanted http:// or https://"))?;
        if url.bytes().any(|byte| !byte.is_ascii_graphic()) || url.contains(['?', '#', '\\']) {
            return Err(wrong("wanted visible ASCII without ? and #"));
        }
        let (host, path) =
            rest.split_once('/').ok_or_else(|| wrong("wanted a database name after the host"))?;
        if host.contains('@') {
            return Err(wrong("wanted no user or password, use cloudsync_network_set_apikey"));
        }
        let path = path.trim_end_matches('/');
        let (prefix, database) = path.rsplit_once('/').map_or(("", path), |(prefix, name)| (prefix, name));
        if host.is_empty() || host.starts_with(':') {
            return Err(wrong("wanted a host"));
        }
        if database.is_empty() || matches!(database, "." | "..") {
            return Err(wrong("wanted a database name after the host"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { base: format!("{scheme}://{host}{prefix}/v1/databases/{database}") })
    }

    /// Whether an address that the server refers to is no less safe than its own.
    pub(super) fn may_refer_to(&self, url: &str) -> bool {
        let is_safe = url.starts_with("https://");
        is_safe || (url.starts_with("http://") && !self.base.starts_with("https://"))
    }

    pub(super) fn uploads(&self) -> String {
        format!("{}/uploads", self.base)
    }

    pub(super) fn chunks(&self) -> String {
        format!("{}/chunks", self.base)
    }

    /// Where changes are asked for; of some tables only if `tables` is not empty.
    pub(super) fn changes(&self, cursor: Option<&str>, tables: &str, wait_ms: i64) -> String {
        let cursor = cursor.map(|cursor| format!("cursor={}&", escape(cursor))).unwrap_or_default();
        let tables = if tables.is_empty() { String::new() } else { format!("tables={tables}&") };
        format!("{}/changes?{cursor}{tables}wait_ms={wait_ms}", self.base)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// Percent-encodes everything that is not unreserved: the cursor is the server's and may hold anything.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The address for an error message: a user or password in it is not repeated.
fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => String::from("(no scheme)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Result<&str, &str>) {
        let found = Server::parse(url).map(|server| server.to_string()).map_err(|error| error.line());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn an_address_names_a_database() {
        check("http://127.0.0.1:8787/demo", Ok("http://127.0.0.1:8787/v1/databases/demo"));
        check("https://example.org/sync/demo/", Ok("https://example.org/sync/v1/databases/demo"));
        check("http://h", Err("url \"http://h\": wanted a database name after the host"));
        check("http://h/", Err("url \"http://h/\": wanted a database name after the host"));
        check("ftp://h/d", Err("url \"ftp://h/d\": wanted http:// or https://"));
        check("h/d", Err("url \"(no scheme)\": wanted http:// or https://"));
        check("http:///d", Err("url \"http:///d\": wanted a host"));
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        check(
            "http://user:secret@h/d",
            Err("url \"http://h/d\": wanted no user or password, use cloudsync_network_set_apikey"),
        );
    }

    #[test]
    fn a_safe_server_refers_to_safe_addresses_only() {
        for (server, url, expected) in [
            ("http://h/d", "http://store/x", true),
            ("http://h/d", "https://store/x", true),
            ("https://h/d", "https://store/x", true),
            ("https://h/d", "http://store/x", false),
            ("http://h/d", "file:///x", false),
            ("http://h/d", "/x", false),
        ] {
            assert_eq!(Server::parse(server).unwrap().may_refer_to(url), expected, "{server} {url}");
        }
    }

    #[test]
    fn a_cursor_is_escaped() {
        let server = Server::parse("http://h/d").unwrap();
        assert_eq!(
            server.changes(Some("a/b=c"), "", 5),
            "http://h/v1/databases/d/changes?cursor=a%2Fb%3Dc&wait_ms=5"
        );
        assert_eq!(
            server.changes(Some("a"), "1.12", 0),
            "http://h/v1/databases/d/changes?cursor=a&tables=1.12&wait_ms=0"
        );
        assert_eq!(server.changes(None, "", 0), "http://h/v1/databases/d/changes?wait_ms=0");
    }
}
