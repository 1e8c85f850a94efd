//! Which bytes of an answer a client wants: `Range` and `If-Range` of RFC 9110.
//!
//! One range of bytes is understood. Whatever else is asked for gets the whole answer, as the RFC has it.

use std::ops::Range;

use warp::http::{HeaderMap, HeaderName, header};

use crate::snapshot::name::PartsName;

/// What a request wants of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes, at least one.
    Part(Range<usize>),
    /// Bytes that it does not have.
    Nothing,
}

/// The answer that a client has in part, if it is one of ours.
pub(super) fn broken_off(headers: &HeaderMap) -> Option<PartsName> {
    headers.get(header::RANGE)?;
    let tag = text(headers, &header::IF_RANGE)?;
    PartsName::parse(tag.strip_prefix('"')?.strip_suffix('"')?)
}

/// What is wanted of an answer that has this tag and this many bytes.
pub(super) fn wanted(headers: &HeaderMap, tag: &str, length: usize) -> Wanted {
    let is_same = match headers.get(header::IF_RANGE) {
        Some(_) => text(headers, &header::IF_RANGE) == Some(tag),
        None => true,
    };
    let range = text(headers, &header::RANGE).filter(|_| is_same).and_then(|range| read(range, length));
    range.unwrap_or(Wanted::Whole)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.to_str().ok())?
}

/// None for what is not one range of bytes.
fn read(range: &str, length: usize) -> Option<Wanted> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.split_once('-').filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return None;
    }
    // A number that is too long for us is greater than any length.
    let number = |text: &str| text.parse().unwrap_or(usize::MAX);
    let bytes = match (first, last) {
        ("", "") => return None,
        ("", suffix) => length.saturating_sub(number(suffix))..length,
        (first, "") => number(first)..length,
        (first, last) if number(last) < number(first) => return None,
        (first, last) => number(first)..length.min(number(last).saturating_add(1)),
    };
    Some(if bytes.is_empty() { Wanted::Nothing } else { Wanted::Part(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"1-00000007.0000000000000001.0000000000000002.0.1..k\"";

    fn headers(range: &str, if_range: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        if let Some(tag) = if_range {
            headers.insert(header::IF_RANGE, tag.parse().unwrap());
        }
        headers
    }

    fn check(range: &str, expected: &Wanted) {
        assert_eq!(wanted(&headers(range, None), TAG, 10), *expected, "{range}");
        assert_eq!(wanted(&headers(range, Some(TAG)), TAG, 10), *expected, "{range}");
        assert_eq!(wanted(&headers(range, Some("\"other\"")), TAG, 10), Wanted::Whole, "{range}");
        assert_eq!(wanted(&headers(range, Some(&format!("W/{TAG}"))), TAG, 10), Wanted::Whole, "{range}");
    }

    #[test]
    fn one_range_of_bytes_is_understood() {
        check("bytes=0-", &Wanted::Part(0..10));
        check("bytes=4-", &Wanted::Part(4..10));
        check("Bytes=4-4", &Wanted::Part(4..5));
        check("bytes=9-99999999999999999999999", &Wanted::Part(9..10));
        check("bytes=-3", &Wanted::Part(7..10));
        check("bytes=-30", &Wanted::Part(0..10));
        check("bytes=10-", &Wanted::Nothing);
        check("bytes=99999999999999999999999-", &Wanted::Nothing);
        check("bytes=-0", &Wanted::Nothing);
    }

    #[test]
    fn whatever_else_is_asked_for_gets_the_whole() {
        for range in
            ["bytes=", "bytes=-", "bytes=5-4", "bytes=1-2,4-5", "bytes=+1-", "rows=1-2", "4-", "bytes=a-"]
        {
            check(range, &Wanted::Whole);
        }
        assert_eq!(wanted(&HeaderMap::new(), TAG, 10), Wanted::Whole);
        let mut twice = headers("bytes=1-", None);
        twice.append(header::RANGE, "bytes=2-".parse().unwrap());
        assert_eq!(wanted(&twice, TAG, 10), Wanted::Whole);
    }

    #[test]
    fn a_name_of_ours_is_recognised() {
        let name = broken_off(&headers("bytes=4-", Some(TAG))).unwrap();
        assert_eq!(format!("\"{name}\""), TAG);
        assert_eq!(broken_off(&headers("bytes=4-", Some("\"other\""))), None);
        assert_eq!(broken_off(&headers("bytes=4-", None)), None);
        let mut alone = HeaderMap::new();
        alone.insert(header::IF_RANGE, TAG.parse().unwrap());
        assert_eq!(broken_off(&alone), None);
    }
}
