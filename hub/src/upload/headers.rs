//! The headers of a request from a site, each with an error that names it.

use std::str::FromStr;

use shared_format::SiteId;
use warp::http::{HeaderMap, header};

use crate::cursor::Cursor;
use crate::http::problem::{Problem, ProblemKind};
use crate::inbox::Chunk;

/// What the headers of an upload say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UploadHeaders {
    /// The site that uploads.
    pub(super) site: SiteId,
    /// The random id of this upload; the same when it is sent again.
    pub(super) upload: [u8; 16],
    /// The first number of the range that this payload speaks for.
    pub(super) first: i64,
    /// The last number of it.
    pub(super) last: i64,
    /// The token of the last acknowledgement; none before the first.
    pub(super) token: Option<[u8; 16]>,
    /// The upload before it, if its answer was not heard yet.
    pub(super) follows: Option<[u8; 16]>,
    /// The greatest rejection that the site has stored.
    pub(super) rejected_seen: Option<i64>,
    /// The place up to which the site has received the log.
    pub(super) cursor: Option<Cursor>,
    /// Which chunk of the upload the body is; none if it is all of it.
    pub(super) chunk: Option<Chunk>,
    /// How long the body says that it is.
    pub(super) content_length: Option<u64>,
}

impl UploadHeaders {
    /// Reads and checks every header of an upload.
    pub(super) fn read(headers: &HeaderMap) -> Result<UploadHeaders, Problem> {
        let (first, last) = read_range(headers)?;
        let db_version = read_db_version(headers)?.ok_or_else(|| missing("Cloudsync-Db-Version", NUMBER))?;
        if db_version < last {
            let found = format!("{db_version}, below the range's end {last}");
            return Err(Problem::header("Cloudsync-Db-Version", &found, "the newest number of the site"));
        }
        if let Some(encoding) = text(headers, header::CONTENT_ENCODING.as_str())? {
            return Err(Problem::header("Content-Encoding", &format!("{encoding:?}"), "none"));
        }
        Ok(UploadHeaders {
            site: read_site(headers)?,
            upload: hex(headers, "Cloudsync-Upload")?.ok_or_else(|| missing("Cloudsync-Upload", HEX))?,
            first,
            last,
            token: read_token(headers)?,
            follows: hex(headers, "Cloudsync-After")?,
            rejected_seen: number(headers, "Cloudsync-Rejected-Seen")?,
            cursor: read_cursor(headers)?,
            chunk: read_chunk(headers)?,
            content_length: number(headers, header::CONTENT_LENGTH.as_str())?
                .and_then(|length| u64::try_from(length).ok()),
        })
    }
}

const HEX: &str = "32 hexadecimal digits";
const NUMBER: &str = "a whole number from 0";
const RANGE: &str = "<first>-<last>, both from 1, the first not above the last";

/// The site that asks.
pub(crate) fn read_site(headers: &HeaderMap) -> Result<SiteId, Problem> {
    let name = "Cloudsync-Site";
    let found = text(headers, name)?.ok_or_else(|| missing(name, HEX))?;
    SiteId::from_str(found).map_err(|_| Problem::header(name, &shown(found), HEX))
}

/// The token of the site's last acknowledgement, if it has one.
pub(crate) fn read_token(headers: &HeaderMap) -> Result<Option<[u8; 16]>, Problem> {
    hex(headers, "Cloudsync-Token")
}

/// The newest number of the site, if it says so.
pub(crate) fn read_db_version(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    number(headers, "Cloudsync-Db-Version")
}

fn read_cursor(headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
    let name = "Cloudsync-Acknowledged";
    let Some(found) = text(headers, name)? else { return Ok(None) };
    found.parse().map(Some).map_err(|_| Problem::header(name, &shown(found), "a cursor as it was given"))
}

fn read_chunk(headers: &HeaderMap) -> Result<Option<Chunk>, Problem> {
    let name = "Cloudsync-Chunk";
    let Some(found) = text(headers, name)? else { return Ok(None) };
    let number = |text| parse_number(text).and_then(|number| u32::try_from(number).ok());
    let chunk = found.split_once('/').and_then(|(n, count)| Some((number(n)?, number(count)?)));
    match chunk {
        Some((number, count)) if number >= 1 && number <= count && count <= Chunk::COUNT_MAX => {
            Ok(Some(Chunk { number, count }))
        }
        Some(_) | None => {
            let wanted = format!(
                "<number>/<count>, from 1, the number not above the count, at most {}",
                Chunk::COUNT_MAX
            );
            Err(Problem::header(name, &shown(found), &wanted))
        }
    }
}

fn missing(name: &str, wanted: &str) -> Problem {
    Problem::header(name, "none", wanted)
}

/// What was found, cut to a length that can be shown.
fn shown(text: &str) -> String {
    const SHOWN_CHARACTERS: usize = 40;
    format!("{:?}", text.chars().take(SHOWN_CHARACTERS).collect::<String>())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::header(name, "two", "one"));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(Problem::header(name, "bytes that are not ASCII", "ASCII")),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<i64>, Problem> {
    let Some(found) = text(headers, name)? else { return Ok(None) };
    match parse_number(found) {
        Some(number) => Ok(Some(number)),
        None => Err(Problem::header(name, &shown(found), NUMBER)),
    }
}

fn parse_number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn hex(headers: &HeaderMap, name: &str) -> Result<Option<[u8; 16]>, Problem> {
    let Some(found) = text(headers, name)? else { return Ok(None) };
    let digits = found.len() == 32 && found.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u128::from_str_radix(found, 16) {
        Ok(number) if digits => Ok(Some(number.to_be_bytes())),
        Ok(_) | Err(_) => {
            // A token is a secret of the site: it is described, not shown.
            let found = format!("{} characters", found.chars().count());
            Err(Problem::header(name, &found, HEX))
        }
    }
}

fn read_range(headers: &HeaderMap) -> Result<(i64, i64), Problem> {
    let name = "Cloudsync-Range";
    let found = text(headers, name)?.ok_or_else(|| missing(name, RANGE))?;
    let range =
        found.split_once('-').and_then(|(first, last)| Some((parse_number(first)?, parse_number(last)?)));
    match range {
        Some((first, last)) if first >= 1 && first <= last => Ok((first, last)),
        Some(_) | None => Err(Problem::new(
            ProblemKind::BadRequest,
            format!("header {name}: found {}, wanted {RANGE}", shown(found)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::http::{HeaderName, HeaderValue};

    const SITE: &str = "00112233445566778899aabbccddeeff";

    const SOUND: [(&str, &str); 4] = [
        ("cloudsync-site", SITE),
        ("cloudsync-upload", "ffeeddccbbaa99887766554433221100"),
        ("cloudsync-range", "1-7"),
        ("cloudsync-db-version", "9"),
    ];

    fn headers(changed: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, text) in SOUND.iter().chain(changed) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            if text.is_empty() {
                headers.remove(name);
            } else {
                headers.insert(name, HeaderValue::from_str(text).unwrap());
            }
        }
        headers
    }

    fn check_refused(name: &str, text: &str) {
        let problem = UploadHeaders::read(&headers(&[(name, text)])).expect_err(text);
        assert_eq!(problem.kind(), ProblemKind::BadRequest);
        let shown = format!("{problem:?}").to_lowercase();
        assert!(shown.contains(name), "{name} in {shown}");
    }

    #[test]
    fn sound_headers_are_read() {
        let read = UploadHeaders::read(&headers(&[])).unwrap();
        assert_eq!(read.site.to_string(), SITE);
        assert_eq!((read.first, read.last, read.token, read.rejected_seen), (1, 7, None, None));
        assert_eq!(read.cursor, None);
        assert_eq!(read.upload[0], 0xff);
        let chunk = UploadHeaders::read(&headers(&[("cloudsync-chunk", "2/256")])).unwrap().chunk;
        assert_eq!((read.chunk, chunk), (None, Some(Chunk { number: 2, count: 256 })));
        assert_eq!(read.follows, None);
        let more = [
            ("cloudsync-token", SITE),
            ("cloudsync-after", SITE),
            ("cloudsync-rejected-seen", "3"),
            ("content-length", "12"),
        ];
        let read = UploadHeaders::read(&headers(&more)).unwrap();
        assert_eq!((read.token.unwrap()[1], read.follows.unwrap()[2]), (0x11, 0x22));
        assert_eq!((read.rejected_seen, read.content_length), (Some(3), Some(12)));
    }

    #[test]
    fn a_missing_or_wrong_header_is_named() {
        for (name, _) in SOUND {
            check_refused(name, "");
            check_refused(name, "x");
        }
        for range in ["0-1", "2-1", "1", "1-", "-1", "1-x", "+1-2", "1-99999999999999999999"] {
            check_refused("cloudsync-range", range);
        }
        for number in ["-1", "+1", "1.0", "99999999999999999999"] {
            check_refused("cloudsync-db-version", number);
            check_refused("cloudsync-rejected-seen", number);
        }
        for chunk in ["1", "0/2", "3/2", "1/257", "/2", "1/", "-1/2", "1/2/3"] {
            check_refused("cloudsync-chunk", chunk);
        }
        check_refused("cloudsync-db-version", "6");
        check_refused("cloudsync-after", "00");
        check_refused("cloudsync-token", "+0112233445566778899aabbccddeeff");
        check_refused("content-encoding", "gzip");
        check_refused("cloudsync-acknowledged", "elsewhere");
    }

    #[test]
    fn a_header_given_twice_is_refused() {
        let mut twice = headers(&[]);
        twice.append("cloudsync-site", HeaderValue::from_static(SITE));
        assert!(UploadHeaders::read(&twice).is_err());
    }
}
