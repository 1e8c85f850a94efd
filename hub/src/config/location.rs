//! Where the object store is: a directory or a bucket, as one URL.
//!
//! Parameters of a bucket: `endpoint`, `region`, `path_style`; `sse`, which is `AES256` or `aws:kms`, and `sse_kms_key`
//! with it; `attempts` of one operation, and `timeout_ms` of each; `presigned_s`, for how long an address is good at
//! which clients read parts of snapshots from the service themselves, and `presigned_endpoint`, the service's address as
//! clients reach it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::{Environment, wrong};
use crate::error::Result;
use crate::store::check_key;

/// What every wrong location is told.
const WANTED: &str =
    "file:///an/absolute/path or s3://bucket/prefix?endpoint=http://host:port&region=name&path_style=true";

/// Tries of one operation, unless told otherwise; the callers retry above that, with backoff.
const ATTEMPTS: u32 = 3;

/// Longest wait for one try, unless told otherwise: a segment of 4 MiB at 200 kB/s.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where the object store is.
#[derive(Clone, Debug)]
pub enum StoreLocation {
    /// A local directory, for one machine.
    Directory(PathBuf),
    /// A bucket of an S3 service.
    S3(Box<S3Location>),
}

/// A bucket of an S3 service, and how to reach it.
#[derive(Clone, Debug)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// What every key in the bucket begins with, without a slash at either end; may be empty.
    pub prefix: String,
    /// The service's address, if it is not the one of AWS.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// Whether the bucket stands in the path of the URL rather than in the host name.
    pub path_style: bool,
    /// How the service encrypts what it keeps, if not by its own default.
    pub encryption: Option<S3Encryption>,
    /// Tries of one operation.
    pub attempts: u32,
    /// Longest wait for one try.
    pub timeout: Duration,
    /// Whether clients read parts of snapshots from the service themselves, and how.
    pub presigned: Option<S3Presigned>,
    /// The credentials; none where the machine gives them.
    pub credentials: Option<S3Credentials>,
}

/// How clients read from a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Presigned {
    /// For how long an address is good.
    pub valid: Duration,
    /// The service's address as clients reach it, if that is another.
    pub endpoint: Option<String>,
}

/// How a service encrypts objects at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Encryption {
    /// By a key of the service.
    Aes256,
    /// By a key of its key management.
    Kms {
        /// The key, if not the default of the account.
        key: Option<String>,
    },
}

/// The credentials of an S3 service; printing them shows none.
#[derive(Clone)]
pub struct S3Credentials {
    /// The access key's name.
    pub access_key: String,
    /// The secret.
    pub secret_key: String,
    /// The token of a temporary session.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials(..)")
    }
}

impl StoreLocation {
    /// Reads a location; `key` is the place that it stands at, for errors.
    pub(super) fn parse(key: &str, text: &str, environment: &Environment) -> Result<StoreLocation> {
        if let Some(rest) = text.strip_prefix("file://") {
            return parse_directory(key, rest);
        }
        match text.strip_prefix("s3://") {
            Some(rest) => parse_s3(key, rest, environment).map(|found| StoreLocation::S3(Box::new(found))),
            None => Err(wrong(key, "neither file:// nor s3://", WANTED)),
        }
    }
}

fn decode(key: &str, text: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) if !decoded.contains('\0') => Ok(decoded.into_owned()),
        Ok(_) | Err(_) => Err(wrong(key, "a part that is not UTF-8 without NUL", WANTED)),
    }
}

fn parse_directory(key: &str, rest: &str) -> Result<StoreLocation> {
    let path = PathBuf::from(decode(key, rest)?);
    if path.is_absolute() {
        Ok(StoreLocation::Directory(path))
    } else {
        Err(wrong(key, "a file:// location without an absolute path", WANTED))
    }
}

fn parse_s3(key: &str, rest: &str, environment: &Environment) -> Result<S3Location> {
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let bucket = decode(key, bucket)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(plain) {
        return Err(wrong(key, "an s3:// location without a bucket's name", WANTED));
    }
    let prefix = decode(key, prefix.trim_matches('/'))?;
    if !prefix.is_empty() && check_key(&prefix).is_err() {
        return Err(wrong(
            key,
            format!("the prefix {prefix:?}"),
            "letters, digits and . _ - = between slashes",
        ));
    }
    let mut location = S3Location {
        bucket,
        prefix,
        endpoint: None,
        region: String::new(),
        path_style: false,
        encryption: None,
        attempts: ATTEMPTS,
        timeout: TIMEOUT,
        presigned: None,
        credentials: credentials(environment)?,
    };
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        set_parameter(key, &mut location, name, decode(key, value)?)?;
    }
    if location.region.is_empty() {
        location.region = region(key, &location, environment)?;
    }
    Ok(location)
}

fn set_parameter(key: &str, location: &mut S3Location, name: &str, value: String) -> Result<()> {
    match name {
        "endpoint" if value.starts_with("http://") || value.starts_with("https://") => {
            location.endpoint = Some(value);
        }
        "endpoint" => return Err(wrong(key, "an endpoint that is no http or https URL", WANTED)),
        "presigned_s" | "presigned_endpoint" => {
            location.presigned = Some(presigned(key, location.presigned.take(), name, value)?);
        }
        "region" => location.region = value,
        "path_style" => {
            location.path_style = value.parse().map_err(|_| {
                wrong(key, format!("path_style={value:?}"), "path_style=true or path_style=false")
            })?;
        }
        "sse" | "sse_kms_key" => {
            location.encryption = Some(encryption(key, location.encryption.take(), name, value)?);
        }
        "attempts" => {
            let attempts = value.parse().ok().filter(|attempts| (1..=10).contains(attempts));
            location.attempts =
                attempts.ok_or_else(|| wrong(key, format!("attempts={value:?}"), "attempts from 1 to 10"))?;
        }
        "timeout_ms" => {
            let timeout_ms = value.parse().ok().filter(|timeout_ms| (100..=120_000).contains(timeout_ms));
            location.timeout = timeout_ms.map(Duration::from_millis).ok_or_else(|| {
                wrong(key, format!("timeout_ms={value:?}"), "timeout_ms from 100 to 120000")
            })?;
        }
        unknown => return Err(wrong(key, format!("the parameter {unknown:?}"), WANTED)),
    }
    Ok(())
}

/// Adds a parameter to what is known of how clients read.
fn presigned(key: &str, known: Option<S3Presigned>, name: &str, value: String) -> Result<S3Presigned> {
    match (name, known) {
        ("presigned_s", None) => {
            // A week is the most that the signature allows.
            let valid_s = value.parse().ok().filter(|valid_s| (1..=604_800).contains(valid_s));
            let found = format!("presigned_s={value:?}");
            let valid_s = valid_s.ok_or_else(|| wrong(key, found, "presigned_s from 1 to 604800"))?;
            Ok(S3Presigned { valid: Duration::from_secs(valid_s), endpoint: None })
        }
        ("presigned_endpoint", Some(known))
            if value.starts_with("http://") || value.starts_with("https://") =>
        {
            Ok(S3Presigned { endpoint: Some(value), ..known })
        }
        (name, _known) => {
            let wanted = "presigned_s=600, and after it presigned_endpoint=https://host";
            Err(wrong(key, format!("{name}={value:?}"), wanted))
        }
    }
}

/// Adds a parameter to what is known of the encryption.
fn encryption(key: &str, known: Option<S3Encryption>, name: &str, value: String) -> Result<S3Encryption> {
    match (name, value.as_str(), known) {
        ("sse", "AES256", None) => Ok(S3Encryption::Aes256),
        ("sse", "aws:kms", None) => Ok(S3Encryption::Kms { key: None }),
        ("sse_kms_key", key, Some(S3Encryption::Kms { key: None })) if !key.is_empty() => {
            Ok(S3Encryption::Kms { key: Some(value) })
        }
        (name, _value, _known) => {
            let wanted = "sse=AES256, or sse=aws:kms and after it sse_kms_key=name";
            Err(wrong(key, format!("{name}={value:?}"), wanted))
        }
    }
}

/// The region of the environment; a service that is not AWS's own needs none, but a signature does.
fn region(key: &str, location: &S3Location, environment: &Environment) -> Result<String> {
    let named = environment.get("AWS_REGION").or_else(|| environment.get("AWS_DEFAULT_REGION"));
    match (named, &location.endpoint) {
        (Some(region), _) => Ok(region.clone()),
        (None, Some(_)) => Ok("us-east-1".to_owned()),
        (None, None) => Err(wrong(key, "no region", "region=name in the location, or AWS_REGION")),
    }
}

/// The credentials of the environment, both or none.
fn credentials(environment: &Environment) -> Result<Option<S3Credentials>> {
    let found = |name: &str| environment.get(name).filter(|text| !text.is_empty()).cloned();
    let lacking = |name: &str, other: &str| {
        Err(wrong(name, "nothing", format!("the environment variable beside {other}, or neither")))
    };
    match (found("AWS_ACCESS_KEY_ID"), found("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key), Some(secret_key)) => {
            let session_token = found("AWS_SESSION_TOKEN");
            Ok(Some(S3Credentials { access_key, secret_key, session_token }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => lacking("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        (None, Some(_)) => lacking("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        [("AWS_ACCESS_KEY_ID", "name"), ("AWS_SECRET_ACCESS_KEY", "hidden")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into()
    }

    fn s3(text: &str) -> S3Location {
        match StoreLocation::parse("store", text, &environment()).unwrap() {
            StoreLocation::S3(location) => *location,
            StoreLocation::Directory(path) => panic!("{path:?} is no bucket"),
        }
    }

    fn check_refused(text: &str, environment: &Environment, word: &str) {
        let error = StoreLocation::parse("store", text, environment).expect_err(text).to_string();
        assert!(error.contains(word) && !error.contains("hidden"), "{word:?} in {error:?} for {text}");
    }

    #[test]
    fn a_bucket_is_read_with_its_parameters() {
        let found = s3("s3://bucket/a/prefix/?endpoint=http://127.0.0.1:9000&region=eu&path_style=true");
        assert_eq!((found.bucket.as_str(), found.prefix.as_str()), ("bucket", "a/prefix"));
        assert_eq!(found.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!((found.region.as_str(), found.path_style), ("eu", true));
        assert!(!format!("{found:?}").contains("hidden"));
    }

    #[test]
    fn encryption_tries_and_their_time_are_read() {
        let plain = s3("s3://bucket?region=eu");
        assert_eq!((plain.encryption, plain.attempts, plain.timeout), (None, ATTEMPTS, TIMEOUT));
        let found = s3("s3://bucket?region=eu&sse=AES256&attempts=1&timeout_ms=500");
        assert_eq!(found.encryption, Some(S3Encryption::Aes256));
        assert_eq!((found.attempts, found.timeout), (1, Duration::from_millis(500)));
        let kms = |key: Option<&str>| Some(S3Encryption::Kms { key: key.map(str::to_owned) });
        assert_eq!(s3("s3://bucket?region=eu&sse=aws:kms").encryption, kms(None));
        assert_eq!(s3("s3://bucket?region=eu&sse=aws%3Akms&sse_kms_key=k").encryption, kms(Some("k")));
    }

    #[test]
    fn how_clients_read_is_read() {
        assert_eq!(s3("s3://bucket?region=eu").presigned, None);
        let found = |text| s3(text).presigned.map(|found| (found.valid.as_secs(), found.endpoint));
        assert_eq!(found("s3://bucket?region=eu&presigned_s=600"), Some((600, None)));
        assert_eq!(
            found("s3://bucket?region=eu&presigned_s=1&presigned_endpoint=https://files.example"),
            Some((1, Some("https://files.example".to_owned())))
        );
    }

    #[test]
    fn a_service_of_its_own_needs_no_region() {
        assert_eq!(s3("s3://bucket?endpoint=https%3A%2F%2Fs3.example").region, "us-east-1");
    }

    #[test]
    fn a_wrong_location_is_refused() {
        let environment = environment();
        check_refused("/var/lib", &environment, "neither");
        check_refused("file://var/lib", &environment, "absolute");
        check_refused("s3://", &environment, "bucket");
        check_refused("s3://bucket/../x?region=eu", &environment, "prefix");
        check_refused("s3://bucket", &environment, "region");
        check_refused("s3://bucket?region=eu&pathstyle=true", &environment, "pathstyle");
        check_refused("s3://bucket?region=eu&path_style=yes", &environment, "path_style");
        check_refused("s3://bucket?region=eu&sse=none", &environment, "sse");
        check_refused("s3://bucket?region=eu&sse_kms_key=k", &environment, "sse_kms_key");
        check_refused("s3://bucket?region=eu&sse=AES256&sse_kms_key=k", &environment, "sse_kms_key");
        check_refused("s3://bucket?region=eu&attempts=0", &environment, "attempts");
        check_refused("s3://bucket?region=eu&timeout_ms=99", &environment, "timeout_ms");
        check_refused("s3://bucket?region=eu&endpoint=there", &environment, "endpoint");
        check_refused("s3://bucket?region=eu&presigned_s=0", &environment, "presigned_s");
        check_refused("s3://bucket?region=eu&presigned_s=604801", &environment, "presigned_s");
        check_refused("s3://bucket?region=eu&presigned_endpoint=https://x", &environment, "presigned_s");
        check_refused(
            "s3://bucket?region=eu&presigned_s=1&presigned_endpoint=x",
            &environment,
            "presigned_endpoint",
        );
        for (there, lacking) in
            [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")]
        {
            let half = Environment::from([(there.to_owned(), "hidden".to_owned())]);
            check_refused("s3://bucket?region=eu", &half, lacking);
        }
    }

    #[test]
    fn without_credentials_in_the_environment_the_machine_is_asked() {
        let location = StoreLocation::parse("store", "s3://bucket?region=eu", &Environment::new()).unwrap();
        assert!(matches!(location, StoreLocation::S3(found) if found.credentials.is_none()));
        assert!(s3("s3://bucket?region=eu").credentials.is_some());
    }
}
