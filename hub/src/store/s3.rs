//! The object store in a bucket of any S3 service.
//!
//! Keys stand below the configured prefix; callers never see it. Checksums beyond what S3 asks for are sent to
//! AWS only, because several other services refuse them.

use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Object, ServerSideEncryption};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;

use super::{Entry, ObjectUrl, PutOutcome, Store, StoreFuture, check_key, check_prefix};
use crate::config::{S3Credentials, S3Encryption, S3Location};
use crate::error::{Error, Result};

/// Longest wait for a connection to the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most keys that a service gives in one page.
const PAGE_KEYS_MAX: usize = 1_000;

/// Tries of a conditional write that the service answers with a conflict, which is to be sent again.
const CONFLICT_ATTEMPTS: u32 = 5;

/// An object store in a bucket.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    /// Signs addresses for clients, and for how long they are good.
    signing: Option<(Client, Duration)>,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    encryption: Option<S3Encryption>,
}

impl S3Store {
    /// Sets up a client; the service is first asked when it is needed.
    pub async fn open(location: &S3Location) -> S3Store {
        let credentials = credentials(location).await;
        let prefix = match location.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let endpoint = location.endpoint.as_deref();
        let signing = location.presigned.as_ref().map(|presigned| {
            let endpoint = presigned.endpoint.as_deref().or(endpoint);
            // Clients check what they get themselves; a checksum would be one more header to sign.
            let config = config(location, endpoint, credentials.clone())
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
            (Client::from_conf(config.build()), presigned.valid)
        });
        S3Store {
            client: Client::from_conf(config(location, endpoint, credentials).build()),
            signing,
            bucket: location.bucket.clone(),
            prefix,
            encryption: location.encryption.clone(),
        }
    }

    fn name(&self, key: &str) -> Result<String> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let asked = self.client.get_object().bucket(&self.bucket).key(self.name(key)?).send().await;
        match asked {
            Ok(object) => match object.body.collect().await {
                Ok(body) => Ok(Some(body.into_bytes())),
                Err(error) => Err(failed("get", key, with_causes(&error))),
            },
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => Ok(None),
            Err(error) => Err(refused("get", key, &error)),
        }
    }

    /// A write, with the encryption that is wanted.
    fn put_object(&self, name: String, object: Bytes) -> PutObjectFluentBuilder {
        let request = self.client.put_object().bucket(&self.bucket).key(name).body(ByteStream::from(object));
        match &self.encryption {
            None => request,
            Some(S3Encryption::Aes256) => request.server_side_encryption(ServerSideEncryption::Aes256),
            Some(S3Encryption::Kms { key }) => {
                request.server_side_encryption(ServerSideEncryption::AwsKms).set_ssekms_key_id(key.clone())
            }
        }
    }

    async fn create(&self, key: &str, object: Bytes) -> Result<PutOutcome> {
        let name = self.name(key)?;
        let mut attempt = 1;
        loop {
            let asked = self.put_object(name.clone(), object.clone()).if_none_match("*").send().await;
            match asked {
                Ok(_) => return Ok(PutOutcome::Created),
                Err(error) => match status(&error) {
                    Some(412) => return Ok(PutOutcome::Exists),
                    Some(409) if attempt < CONFLICT_ATTEMPTS => attempt += 1,
                    Some(_) | None => return Err(refused("put", key, &error)),
                },
            }
        }
    }

    async fn replace(&self, key: &str, object: Bytes) -> Result<()> {
        match self.put_object(self.name(key)?, object).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(refused("put", key, &error)),
        }
    }

    async fn remove(&self, key: &str) -> Result<()> {
        match self.client.delete_object().bucket(&self.bucket).key(self.name(key)?).send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(refused("delete", key, &error)),
        }
    }

    async fn sign(&self, key: &str) -> Result<Option<ObjectUrl>> {
        let name = self.name(key)?;
        let Some((client, valid)) = &self.signing else { return Ok(None) };
        let config =
            PresigningConfig::expires_in(*valid).map_err(|error| failed("sign", key, with_causes(&error)))?;
        let signed = client.get_object().bucket(&self.bucket).key(name).presigned(config).await;
        let signed = signed.map_err(|error| refused("sign", key, &error))?;
        Ok(Some(ObjectUrl(signed.uri().to_owned())))
    }

    async fn find(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        check_prefix(prefix)?;
        let mut found: Vec<Entry> = Vec::new();
        let mut after = start_after.map(|key| format!("{}{key}", self.prefix));
        while found.len() < limit {
            let page = limit.saturating_sub(found.len()).min(PAGE_KEYS_MAX);
            let answer = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_start_after(after.clone())
                .max_keys(i32::try_from(page).unwrap_or(i32::MAX))
                .send()
                .await
                .map_err(|error| refused("list", prefix, &error))?;
            let objects = answer.contents();
            let Some(last) = objects.last().and_then(|object| object.key()) else { break };
            after = Some(last.to_owned());
            found.extend(objects.iter().filter_map(|object| self.entry(object)));
            if answer.is_truncated() != Some(true) {
                break;
            }
        }
        Ok(found)
    }

    /// An object of a listing; None if it lies outside of the prefix.
    fn entry(&self, object: &Object) -> Option<Entry> {
        let key = object.key()?.strip_prefix(&self.prefix)?.to_owned();
        let bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let modified = object.last_modified().and_then(|time| SystemTime::try_from(*time).ok());
        // An object whose age the service does not tell counts as new: it is kept.
        Some(Entry { key, bytes, modified: modified.unwrap_or_else(SystemTime::now) })
    }
}

/// How the service is spoken with at an address, or at the one of AWS.
fn config(
    location: &S3Location,
    endpoint: Option<&str>,
    credentials: SharedCredentialsProvider,
) -> aws_sdk_s3::config::Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(location.timeout)
        .operation_timeout(location.timeout.saturating_mul(location.attempts))
        .build();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .region(Region::new(location.region.clone()))
        .credentials_provider(credentials)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(location.attempts))
        .force_path_style(location.path_style);
    match endpoint {
        Some(endpoint) => config
            .endpoint_url(endpoint)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired),
        None => config,
    }
}

/// The credentials of the environment, or those that the machine gives: a profile, a role of a pod, of a container, or
/// of the instance. Those are asked for when they are needed, and again before they expire.
async fn credentials(location: &S3Location) -> SharedCredentialsProvider {
    if let Some(S3Credentials { access_key, secret_key, session_token }) = location.credentials.clone() {
        let found = Credentials::new(access_key, secret_key, session_token, None, "environment");
        return SharedCredentialsProvider::new(found);
    }
    let provider = ProviderConfig::without_region().with_http_client(http_client());
    let region = Region::new(location.region.clone());
    let machine = DefaultCredentialsChain::builder().configure(provider).region(region).build().await;
    SharedCredentialsProvider::new(machine)
}

fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

fn failed(operation: &'static str, key: &str, reason: String) -> Error {
    Error::StoreS3 { operation, key: key.to_owned(), reason }
}

/// The HTTP status of an error, if the service answered.
fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Says what the service answered, or that it did not.
fn refused<E>(operation: &'static str, key: &str, error: &SdkError<E>) -> Error
where
    E: std::error::Error + aws_sdk_s3::error::ProvideErrorMetadata + 'static,
{
    let reason = match (error.as_service_error(), status(error)) {
        (Some(service), Some(status)) => {
            format!("status {status}, code {}", service.meta().code().unwrap_or("none"))
        }
        (Some(_) | None, _) => with_causes(error),
    };
    failed(operation, key, reason)
}

/// An error with its causes on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Store for S3Store {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(self.read(key))
    }

    fn put_new<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, PutOutcome> {
        Box::pin(self.create(key, object))
    }

    fn put<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, ()> {
        Box::pin(self.replace(key, object))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<String>> {
        Box::pin(async move {
            let entries = self.find(prefix, start_after, limit).await?;
            Ok(entries.into_iter().map(|entry| entry.key).collect())
        })
    }

    fn entries<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Entry>> {
        Box::pin(self.find(prefix, start_after, limit))
    }

    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(self.remove(key))
    }

    fn url_of<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<ObjectUrl>> {
        Box::pin(self.sign(key))
    }
}
