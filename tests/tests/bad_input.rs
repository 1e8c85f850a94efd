//! Bad input: a clear error, and nothing that was there before is changed by it.

use tests::client::Client;
use tests::hub::API_KEY;
use tests::places;
use tests::stage::{Setting, Stage, TODO, on_both};

/// Syncs at a wrong place and checks the error and that the row waits; then at the right place.
fn check_refused_sync(address: impl Fn(&Stage) -> String, api_key: &str, words: &[&str]) {
    on_both(|setting| check_refused_sync_of(setting, &address, api_key, words));
}

fn check_refused_sync_of(
    setting: Setting<'_>,
    address: impl Fn(&Stage) -> String,
    api_key: &str,
    words: &[&str],
) {
    let mut stage = Stage::new(setting);
    let device = stage.stranger("device");
    device.run("insert into todo values ('t', 'unsent', null, 0)");
    device.join(&address(&stage), api_key);
    let before = everything(&device);
    let error = device.try_sync().expect_err("the sync is refused");
    for word in words {
        assert!(error.contains(word), "the error says {word:?}: {error}");
    }
    assert!(!error.contains(api_key), "the error does not tell the key: {error}");
    assert_eq!(user_rows(&device), ["t|unsent|NULL|0"]);
    assert_eq!(stage.postgres.rows(TODO.show), Vec::<String>::new());
    assert_eq!(device.value("select cloudsync_db_version()"), before.0, "nothing new was noted");
    device.join(&stage.hub.address(), API_KEY);
    device.sync();
    stage.settles_at(&["t|unsent|NULL|0"]);
}

fn user_rows(client: &Client) -> Vec<String> {
    client.rows(TODO.show)
}

/// What a file holds: its number, its rows and their metadata.
fn everything(client: &Client) -> (String, Vec<String>, Vec<String>) {
    (
        client.value("select cloudsync_db_version()"),
        user_rows(client),
        client.rows("select * from todo_cloudsync order by pk"),
    )
}

#[test]
fn a_wrong_api_key_is_an_error_and_the_row_waits() {
    check_refused_sync(|stage| stage.hub.address(), "wrong-0123456789abcdef0123456789abcdef", &["401"]);
}

#[test]
fn an_unknown_database_is_an_error_and_the_row_waits() {
    check_refused_sync(|stage| format!("{}/nowhere", stage.hub.base()), API_KEY, &["404"]);
}

#[test]
fn an_unreachable_hub_is_an_error_and_the_row_waits() {
    let nobody = format!("http://127.0.0.1:{}/demo", places::free_port());
    check_refused_sync(|_| nobody.clone(), API_KEY, &["127.0.0.1"]);
}

/// A payload with one row, made by a client.
fn payload(stage: &Stage) -> Vec<u8> {
    let author = stage.stranger("author");
    author.run("insert into todo values ('t', 'a title that is long enough to be found', 'note', 1)");
    author.run("insert into todo values ('u', 'second', null, 2)");
    author.bytes("select cloudsync_payload_encode(0)")
}

/// Damages a payload in many ways: cut short, one byte changed, bytes appended, empty, something else.
fn damaged(payload: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("text".to_owned(), b"select 1".to_vec()),
        ("one byte appended".to_owned(), [payload, &[0]].concat()),
    ];
    for length in (0..payload.len()).step_by(payload.len().div_ceil(40)) {
        all.push((format!("cut to {length} bytes"), payload[..length].to_vec()));
    }
    for place in (0..payload.len()).step_by(payload.len().div_ceil(80)) {
        let mut bytes = payload.to_vec();
        bytes[place] ^= 0x10;
        all.push((format!("byte {place} changed"), bytes));
    }
    all
}

#[test]
fn a_client_refuses_a_damaged_payload_and_stays_as_it_was() {
    let stage = Stage::new(Setting::PLAIN);
    let payload = payload(&stage);
    let client = stage.stranger("client");
    client.run("insert into todo values ('t', 'own', null, 0)");
    client.run("select cloudsync_payload_encode(0)");
    let before = everything(&client);
    for (damage, bytes) in damaged(&payload) {
        let answer = client.value_of_bytes("select cloudsync_payload_apply(?1)", &bytes);
        assert!(answer.is_err(), "payload {damage}: {answer:?}");
        assert_eq!(everything(&client), before, "payload {damage}");
    }
    let applied = client.value_of_bytes("select cloudsync_payload_apply(?1)", &payload);
    assert!(applied.is_ok(), "the undamaged payload is taken: {applied:?}");
    assert_eq!(client.value("select count(*) from todo"), "2");
}

#[test]
fn postgres_refuses_a_damaged_payload_and_stays_as_it_was() {
    let stage = Stage::new(Setting::PLAIN);
    let payload = payload(&stage);
    let apply = "select cloudsync_payload_apply($1)::text";
    for (damage, bytes) in damaged(&payload) {
        let answer = stage.postgres.value_of_bytes(apply, &bytes);
        assert!(answer.is_err(), "payload {damage}: {answer:?}");
        assert_eq!(stage.postgres.value("select count(*) from todo"), "0", "payload {damage}");
    }
    let applied = stage.postgres.value_of_bytes(apply, &payload);
    assert!(applied.is_ok(), "the undamaged payload is taken: {applied:?}");
    assert_eq!(stage.postgres.value("select count(*) from todo"), "2");
}

#[test]
fn the_hub_refuses_a_damaged_upload_and_the_centre_stays_as_it_was() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        let payload = payload(&stage);
        let url = format!("{}/v1/databases/{}/uploads", stage.hub.base(), stage.database.name);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        for (damage, bytes) in damaged(&payload) {
            let mut answer = agent
                .post(&url)
                .header("Authorization", format!("Bearer {API_KEY}"))
                .header("Cloudsync-Site", "0123456789abcdef0123456789abcdef")
                .header("Cloudsync-Upload", "fedcba9876543210fedcba9876543210")
                .header("Cloudsync-Range", "1-2")
                .header("Cloudsync-Db-Version", "2")
                .send(&bytes[..])
                .unwrap_or_else(|error| panic!("payload {damage}: the hub does not answer: {error}"));
            let status = answer.status().as_u16();
            let body = answer.body_mut().read_to_string().expect("the answer is text");
            assert!((400..500).contains(&status), "payload {damage}: {status} {body}");
            assert!(body.contains("\"code\""), "payload {damage}: the answer names the problem: {body}");
            assert_eq!(stage.postgres.value("select count(*) from todo"), "0", "payload {damage}");
        }
        // The site that sent rubbish is not known, and everybody else goes on.
        stage.play(&["a: insert into todo values ('a', 'fine', null, 0)", "a: sync"]);
        stage.settles_at(&["a|fine|NULL|0"]);
    });
}

#[test]
fn the_same_payload_applied_twice_changes_nothing() {
    let stage = Stage::new(Setting::PLAIN);
    let payload = payload(&stage);
    let client = stage.stranger("client");
    let apply =
        || client.value_of_bytes("select cloudsync_payload_apply(?1)", &payload).expect("it is taken");
    let first = apply();
    let (_, rows, metadata) = everything(&client);
    assert_ne!(first, apply(), "the answer says that nothing was changed");
    let after = everything(&client);
    assert_eq!((after.1, after.2), (rows, metadata));

    let table = stage.postgres.value("select table_id from cloudsync.tracked_tables where name = 'todo'");
    let state = || {
        let metadata = stage.postgres.rows(&format!("select * from cloudsync.meta_{table} order by key_1"));
        (stage.postgres.rows("select xmin, * from todo order by id"), metadata)
    };
    let apply = || {
        let answer = stage.postgres.value_of_bytes("select cloudsync_payload_apply($1)::text", &payload);
        answer.expect("it is taken")
    };
    let first = apply();
    let before = state();
    assert_ne!(first, apply(), "the answer says that nothing was changed");
    assert_eq!(state(), before, "not a row was written");
}

#[test]
fn a_client_refuses_a_table_without_a_primary_key() {
    let stage = Stage::new(Setting::PLAIN);
    let client = stage.stranger("client");
    client.run("create table keyless (a text, b text)");
    let before = client.rows("select type, name from sqlite_master order by 1, 2");
    let error = client.try_rows("select cloudsync_init('keyless')").expect_err("init is refused");
    assert!(error.contains("primary key") && error.contains("keyless"), "{error}");
    assert_eq!(client.rows("select type, name from sqlite_master order by 1, 2"), before);
    client.run("insert into keyless values ('still', 'writable')");
}

#[test]
fn postgres_refuses_a_table_without_a_primary_key() {
    let stage = Stage::new(Setting::PLAIN);
    stage.postgres.run("create table keyless (a text, b text)");
    let error =
        stage.postgres.try_rows("select cloudsync_init('public.keyless')").expect_err("init is refused");
    assert!(error.contains("primary key") && error.contains("keyless"), "{error}");
    let left = "select count(*) from pg_trigger where tgrelid = 'keyless'::regclass";
    assert_eq!(stage.postgres.value(left), "0");
    assert_eq!(
        stage.postgres.rows("select name from cloudsync.tracked_tables where name = 'keyless'"),
        [""; 0]
    );
    stage.postgres.run("insert into keyless values ('still', 'writable')");
}

#[test]
fn a_column_that_only_the_client_has_does_not_stop_the_sync() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        for name in ["a", "b"] {
            stage.client(name).run("alter table todo add column colour text");
        }
        stage.play(&[
            "a: insert into todo values ('t', 'title', null, 1, 'red')",
            "a: sync",
            "b: sync",
            "b: update todo set note = 'of b', colour = 'blue' where id = 't'",
            "b: sync",
            "pg: update todo set done = 2 where id = 't'",
        ]);
        stage.settles_at(&["t|title|of b|2"]);
        assert_eq!(stage.client("a").value("select colour from todo"), "red", "what nobody else has stays");
    });
}

#[test]
fn a_column_that_only_the_centre_has_does_not_stop_the_sync() {
    on_both(|setting| {
        let mut stage = Stage::new(Setting { tables: &[], ..setting });
        stage.postgres.run(
            "create table todo (id text primary key not null, title text not null, note text,
                done integer not null default 0, priority integer not null default 5)",
        );
        stage.track(TODO);
        stage.play(&[
            "a: insert into todo values ('t', 'title', null, 1)",
            "a: sync",
            "pg: insert into todo values ('u', 'title', null, 2, 9)",
            "pg: update todo set priority = 7 where id = 't'",
            "b: sync",
            "b: update todo set note = 'of b' where id = 'u'",
            "b: sync",
        ]);
        stage.settles_at(&["t|title|NULL|1", "u|title|of b|2"]);
        assert_eq!(stage.postgres.rows("select priority from todo order by id"), ["7", "9"]);
    });
}
