//! The contract of the hub's object stores, kept by each kind: a directory, and two servers of the S3 API.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hub::config::Config;
use hub::metrics::Metrics;
use hub::store::{self, PutOutcome, Store};
use tests::object_store::{ObjectStore, StoreKind};
use tests::wait;

/// Runs a check on a fresh, empty store of each kind.
fn check<F: Future<Output = ()>>(kinds: &[StoreKind], body: impl Fn(Arc<dyn Store>) -> F) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be built");
    for kind in kinds {
        let place = ObjectStore::new(*kind);
        runtime.block_on(async { body(open(&place).await).await });
    }
}

const EVERY: &[StoreKind] = &[StoreKind::Directory, StoreKind::Moto, StoreKind::S3sFs];

async fn open(place: &ObjectStore) -> Arc<dyn Store> {
    let text = |value: &std::ffi::OsString| value.to_str().expect("it is text").to_owned();
    let environment: BTreeMap<String, String> =
        place.environment.iter().map(|(name, value)| (text(name), text(value))).collect();
    let configuration = format!(
        "listen = \"127.0.0.1:0\"\nstore = \"{}\"\n[[database]]\nname = \"demo\"\n\
         url = \"postgres://nobody@127.0.0.1/demo\"\napi_keys = [{{ key = \"{}\" }}]\n",
        place.url,
        tests::hub::API_KEY
    );
    let config = Config::parse(&configuration, &environment).expect("the configuration is sound");
    store::open(&config.store, &Metrics::new().expect("metrics can be made")).await.expect("the store opens")
}

async fn read(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    store.get(key).await.expect("it can be read").map(|object| object.to_vec())
}

#[test]
fn an_object_comes_back_as_it_was_written() {
    check(EVERY, |store| async move {
        let large: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        for (key, object) in [("v1/demo/empty", Vec::new()), ("v1/demo/large", large)] {
            assert_eq!(read(&*store, key).await, None);
            store.put(key, object.clone().into()).await.expect("it can be written");
            assert!(read(&*store, key).await == Some(object), "{key} comes back");
        }
    });
}

#[test]
fn a_new_object_never_replaces_another() {
    check(EVERY, |store| async move {
        let key = "v1/demo/epoch/1";
        assert_eq!(store.put_new(key, "first".into()).await.expect("it answers"), PutOutcome::Created);
        assert_eq!(store.put_new(key, "second".into()).await.expect("it answers"), PutOutcome::Exists);
        assert_eq!(read(&*store, key).await, Some(b"first".to_vec()));
        store.put(key, "third".into()).await.expect("a plain write replaces");
        assert_eq!(read(&*store, key).await, Some(b"third".to_vec()));
    });
}

#[test]
fn of_many_new_objects_with_one_key_one_is_created() {
    // s3s-fs is left out: its conditional write is known not to be atomic.
    check(&[StoreKind::Directory, StoreKind::Moto], |store| async move {
        for round in 0..10 {
            let key = format!("v1/demo/race/{round}");
            let tries = (0..8).map(|n| {
                let (store, key) = (Arc::clone(&store), key.clone());
                tokio::spawn(async move { (n, store.put_new(&key, format!("{n}").into()).await) })
            });
            let mut created = Vec::new();
            for attempt in tries.collect::<Vec<_>>() {
                let (n, outcome) = attempt.await.expect("a try does not panic");
                if outcome.expect("it answers") == PutOutcome::Created {
                    created.push(n);
                }
            }
            assert_eq!(created.len(), 1, "round {round}: created by {created:?}");
            assert_eq!(read(&*store, &key).await, Some(created[0].to_string().into_bytes()));
        }
    });
}

#[test]
fn keys_are_listed_in_the_order_of_their_bytes() {
    check(EVERY, |store| async move {
        let keys =
            ["v1/demo/1/log/0A", "v1/demo/1/log/0B", "v1/demo/1/log/0a", "v1/demo/1/snap/0", "v1/demo2/x"];
        for key in keys.iter().rev() {
            store.put(key, "x".into()).await.expect("it can be written");
        }
        let list = async |prefix: &str, start_after: Option<&str>, limit: usize| {
            store.list(prefix, start_after, limit).await.expect("it can be listed")
        };
        assert_eq!(list("", None, 100).await, keys);
        assert_eq!(list("v1/demo/", None, 100).await, &keys[..4]);
        assert_eq!(list("v1/demo/1/log/", None, 100).await, &keys[..3]);
        assert_eq!(list("v1/demo/1/log/", None, 2).await, &keys[..2]);
        assert_eq!(list("v1/demo/1/log/", Some(keys[0]), 100).await, &keys[1..3]);
        assert_eq!(list("v1/demo/1/log/", Some("v1/demo/1/log/0AA"), 100).await, &keys[1..3]);
        assert_eq!(list("v1/demo/1/log/0", None, 100).await, &keys[..3]);
        assert_eq!(list("v1/none/", None, 100).await, Vec::<String>::new());
    });
}

#[test]
fn more_keys_than_one_page_of_s3_are_listed() {
    check(&[StoreKind::Directory, StoreKind::Moto], |store| async move {
        let keys: Vec<String> = (0..1_205).map(|n| format!("v1/demo/page/{n:05}")).collect();
        for key in &keys {
            store.put(key, "x".into()).await.expect("it can be written");
        }
        assert_eq!(store.list("v1/demo/page/", None, 10_000).await.expect("it can be listed"), keys);
        let after = store.list("v1/demo/page/", Some(&keys[99]), 1_050).await.expect("it can be listed");
        assert_eq!(after, keys[100..1_150]);
    });
}

#[test]
fn a_deleted_object_is_gone_and_deleting_it_again_is_no_error() {
    check(EVERY, |store| async move {
        store.put("v1/demo/a", "x".into()).await.expect("it can be written");
        store.delete("v1/demo/a").await.expect("it can be deleted");
        store.delete("v1/demo/a").await.expect("it can be deleted again");
        assert_eq!(read(&*store, "v1/demo/a").await, None);
        assert_eq!(store.list("v1/", None, 10).await.expect("it can be listed"), Vec::<String>::new());
    });
}

#[test]
fn a_key_that_leaves_the_store_is_refused() {
    check(EVERY, |store| async move {
        for key in ["../outside", "/etc/passwd", "a//b", ""] {
            assert!(store.put(key, "x".into()).await.is_err(), "{key:?}");
            assert!(store.get(key).await.is_err(), "{key:?}");
        }
    });
}

#[test]
fn a_wrong_secret_is_refused_by_a_service_that_checks_signatures() {
    let mut place = ObjectStore::new(StoreKind::S3sFs);
    for (name, value) in &mut place.environment {
        if name == "AWS_SECRET_ACCESS_KEY" {
            *value = "another-secret".into();
        }
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let error = open(&place).await.put("v1/demo/a", "x".into()).await.expect_err("it is refused");
        assert!(
            !format!("{error} {error:?}").contains("another-secret"),
            "the error does not tell the secret"
        );
    });
}

#[test]
fn a_listing_tells_sizes_and_ages() {
    check(EVERY, |store| async move {
        let begun = SystemTime::now();
        for (key, length) in [("v1/demo/a", 0), ("v1/demo/b", 70_000)] {
            store.put(key, vec![7; length].into()).await.expect("it can be written");
        }
        let entries = store.entries("v1/demo/", None, 10).await.expect("it can be listed");
        let sizes: Vec<(&str, u64)> = entries.iter().map(|entry| (entry.key.as_str(), entry.bytes)).collect();
        assert_eq!(sizes, [("v1/demo/a", 0), ("v1/demo/b", 70_000)]);
        for entry in &entries {
            // Services tell whole seconds.
            let age = entry.modified.duration_since(begun - Duration::from_secs(2));
            assert!(age.is_ok_and(|age| age < wait::PATIENCE), "{entry:?} was written now");
        }
        let after = store.entries("v1/demo/", Some("v1/demo/a"), 10).await.expect("it can be listed");
        assert_eq!(after, &entries[1..]);
    });
}

#[test]
fn objects_are_encrypted_as_it_is_asked_for() {
    let place = ObjectStore::new(StoreKind::Moto);
    let (bucket, rest) = place.url["s3://".len()..].split_once("/sync?endpoint=").expect("it is a bucket");
    let endpoint = rest.split('&').next().expect("it has an address");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    for (parameters, wanted) in [
        ("&sse=AES256", [Some("AES256"), None]),
        ("&sse=aws:kms&sse_kms_key=ours", [Some("aws:kms"), Some("ours")]),
    ] {
        let mut place = place.shared();
        place.url.push_str(parameters);
        let key = format!("v1/demo/{}", wanted[0].expect("it is named").len());
        runtime.block_on(async {
            let store = open(&place).await;
            store.put_new(&key, "x".into()).await.expect("it can be written");
            store.put(&key, "y".into()).await.expect("it can be written again");
            assert_eq!(read(&*store, &key).await, Some(b"y".to_vec()));
        });
        // Moto wants to see that somebody signed, whatever the signature is.
        let signed = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let asked = ureq::get(format!("{endpoint}/{bucket}/sync/{key}")).header("authorization", signed);
        let answer = asked.call().expect("moto answers");
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let found =
            ["x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"].map(header);
        assert_eq!(found, wanted);
    }
}

#[test]
fn a_service_that_takes_requests_and_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = silent.local_addr().expect("it has an address");
    let mut place = ObjectStore::new(StoreKind::Moto);
    place.url = format!("s3://bucket?endpoint=http://{address}&path_style=true&attempts=2&timeout_ms=200");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let store = open(&place).await;
        let begun = Instant::now();
        let error = store.get("v1/demo/a").await.expect_err("nobody answers");
        assert!(begun.elapsed() < Duration::from_secs(15), "{error} after {:?}", begun.elapsed());
    });
}

#[test]
fn an_address_lets_anybody_read_one_object() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be built");
    for kind in [StoreKind::Moto, StoreKind::S3sFs] {
        let mut place = ObjectStore::new(kind);
        let plain = runtime.block_on(open(&place));
        place.url.push_str("&presigned_s=600");
        let store = runtime.block_on(open(&place));
        let url_of = |store: &Arc<dyn Store>, key: &str| {
            runtime.block_on(store.url_of(key)).expect("an address can be made")
        };
        runtime.block_on(store.put("v1/demo/a", "0123456789".into())).expect("it can be written");
        assert_eq!(url_of(&plain, "v1/demo/a"), None, "{kind:?}: nobody asked for addresses");
        let url = url_of(&store, "v1/demo/a").expect("an address");
        assert!(!format!("{url:?}").contains("http"), "{kind:?}: it is not shown");
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let read = |url: &str, range: &str| {
            let mut answer = agent.get(url).header("Range", range).call().expect("the service answers");
            (answer.status().as_u16(), answer.body_mut().read_to_string().expect("it is text"))
        };
        assert_eq!(read(url.reveal(), "bytes=0-"), (206, "0123456789".to_owned()), "{kind:?}");
        assert_eq!(read(url.reveal(), "bytes=7-"), (206, "789".to_owned()), "{kind:?}");
        if kind == StoreKind::S3sFs {
            runtime.block_on(store.put("v1/demo/b", "another".into())).expect("it can be written");
            let (status, body) = read(&url.reveal().replace("v1/demo/a", "v1/demo/b"), "bytes=0-");
            assert!(status == 403 && !body.contains("another"), "{status} {body}");
        }
    }
    let directory = runtime.block_on(open(&ObjectStore::new(StoreKind::Directory)));
    assert_eq!(runtime.block_on(directory.url_of("v1/demo/a")).expect("it answers"), None);
}
