//! First syncs over a line that breaks off: a client goes on where it was, and ends with every row.

use serde_json::json;
use tests::client::Client;
use tests::hub::API_KEY;
use tests::object_store::StoreKind;
use tests::process::Signal;
use tests::proxy::Proxy;
use tests::stage::{Setting, Stage, Table, on_both};
use tests::tokens::{SECRET, Signer, seconds_from_now};
use tests::wait;

const PHOTO: Table = Table {
    name: "photo",
    postgres: "create table photo (id integer primary key, content bytea not null)",
    sqlite: "create table photo (id integer primary key, content blob not null)",
    show: "select id, length(content) from photo order by id",
};

/// Rows that compression does nothing about: more than two parts of a snapshot.
const PHOTOS: u64 = 3_000;
const PHOTO_BYTES: u64 = 4_000;

fn stage(setting: Setting<'_>, store: StoreKind) -> Stage {
    let mut stage = Stage::new(Setting { tables: &[PHOTO], store, ..setting });
    fill(&mut stage);
    stage
}

fn fill(stage: &mut Stage) {
    stage.play(&["near: sync"]);
    stage.run_at_centre(
        &format!(
            "insert into photo select n, content from generate_series(1, {PHOTOS}) as n, lateral (
               select string_agg(uuid_send(gen_random_uuid()), ''::bytea) as content
               from generate_series(1, {PHOTO_BYTES} / 16) where n > 0) as made"
        ),
        &format!(
            "with recursive n (n) as (values (1) union all select n + 1 from n where n < {PHOTOS})
             insert into photo select n, randomblob({PHOTO_BYTES}) from n"
        ),
    );
    // From here on the rows are in a snapshot, and not in the log behind it.
    stage.play(&["all: settle"]);
}

/// A stage on an S3 service, and the line over which clients reach that.
fn stage_of_store(setting: Setting<'_>, store: StoreKind, of_database: &str) -> (Stage, Proxy) {
    let mut stage = Stage::new(Setting { tables: &[PHOTO], store, ..setting });
    let url = stage.hub.store_url().to_owned();
    let (_, port) = url.split_once("endpoint=http://127.0.0.1:").expect("it has an endpoint");
    let port = port.split('&').next().and_then(|port| port.parse().ok()).expect("it has a port");
    let line = Proxy::to(port);
    let read = format!("presigned_s=600&presigned_endpoint=http://127.0.0.1:{}", line.port());
    stage.hub.set_environment("CLOUDSYNC_STORE", &format!("{url}&{read}"));
    stage.hub.set_environment("CLOUDSYNC_LOG", "trace");
    stage.hub.configure(&stage.database, "", of_database);
    stage.play(&["hub: terminate", "hub: start"]);
    (stage, line)
}

/// The address of the hub at the end of a line.
fn address(stage: &Stage, line: &Proxy) -> String {
    stage.hub.address().replace(&stage.hub.port().to_string(), &line.port().to_string())
}

fn check_rows(stage: &Stage, client: &Client) {
    let sum = "select count(*), sum(length(content)) from photo";
    assert_eq!(client.rows(sum), [format!("{PHOTOS}|{}", PHOTOS * PHOTO_BYTES)]);
    let some = "select id, hex(content) from photo where id % 500 = 1 order by id";
    let of_postgres = "select id, upper(encode(content, 'hex')) from photo where id % 500 = 1 order by id";
    let wanted = if stage.is_on_file() { some } else { of_postgres };
    assert!(client.rows(some) == stage.postgres.rows(wanted), "the rows are those of the server");
    assert_eq!(client.value("select count(*) from cloudsync_broken_off"), "0");
}

/// Bytes that a whole snapshot has at least, and what the headers around it and its pieces may take.
const CONTENT: u64 = PHOTOS * PHOTO_BYTES;
const AROUND: u64 = CONTENT / 20;

fn check_that_it_ends(setting: Setting<'_>, store: StoreKind) {
    let stage = stage(setting, store);
    let line = Proxy::to(stage.hub.port());
    // Less than a part: who begins anew each time never ends.
    line.break_after(1_500_000);
    let client = stage.stranger("far");
    client.join(&address(&stage, &line), API_KEY);
    // A question that meets the break instead of a part fails, as over any bad line.
    wait::until_ok("a sync goes through", || client.try_sync());
    check_rows(&stage, &client);
    assert!(line.breaks() >= CONTENT / 1_500_000, "{} breaks", line.breaks());
    assert!(line.passed() < CONTENT + AROUND, "{} bytes for {CONTENT}", line.passed());
}

#[test]
fn a_line_that_breaks_within_each_part_takes_no_byte_twice() {
    on_both(|setting| check_that_it_ends(setting, StoreKind::Directory));
}

#[test]
fn parts_in_s3_are_resumed_too() {
    on_both(|setting| check_that_it_ends(setting, StoreKind::Moto));
}

#[test]
fn a_program_that_is_started_again_goes_on_at_a_hub_that_was_started_again() {
    on_both(|setting| {
        let mut stage = stage(setting, StoreKind::Directory);
        let line = Proxy::to(stage.hub.port());
        let client = stage.stranger("far");
        client.join(&address(&stage, &line), API_KEY);
        let mut held = 0;
        for bytes in [3_000_000, 4_000_000] {
            line.wear_out_after(bytes);
            client.try_sync().expect_err("the line is cut");
            let kept = "select (select max(length(body)) from cloudsync_broken_off)
                + (select coalesce(sum(length(content)), 0) from photo)";
            let kept: u64 = client.value(kept).parse().expect("it is kept");
            assert!(
                kept > held + bytes * 9 / 10,
                "{kept} bytes are here after {held}, and {bytes} that came"
            );
            held = kept;
            line.mend();
            // One that is still being made ends with its hub.
            wait::until("the snapshot is whole", || {
                let log = stage.hub.whole_log();
                let count = |what: &str| log.matches(what).count();
                (count("snapshot made") == count("snapshot begun")).then_some(())
            });
            stage.hub.stop(Signal::Kill);
            stage.hub.start_again();
        }
        let path = client.path().to_owned();
        drop(client);
        let client = Client::open(&path);
        client.join(&address(&stage, &line), API_KEY);
        client.sync();
        check_rows(&stage, &client);
        assert!(line.passed() < CONTENT + AROUND, "{} bytes for {CONTENT}", line.passed());
    });
}

fn check_store(store: StoreKind) {
    let (mut stage, line) = stage_of_store(Setting::PLAIN, store, "");
    fill(&mut stage);
    line.break_after(1_500_000);
    let client = stage.stranger("far");
    client.join(&stage.hub.address(), API_KEY);
    let counted = stage.hub.metric("cloudsync_sent_rows_total");
    client.sync();
    check_rows(&stage, &client);
    let counted = stage.hub.metric("cloudsync_sent_rows_total") - counted;
    // Wherever they come from, with the mark by which the stage settles.
    assert_eq!(counted.to_string(), (PHOTOS + 1).to_string());
    // The last part comes from the hub.
    assert!(line.passed() > CONTENT / 2 && line.passed() < CONTENT + AROUND, "{} bytes", line.passed());
    assert!(line.breaks() >= CONTENT / 2 / 1_500_000, "{} breaks", line.breaks());
    let asked = line.asked();
    assert!(asked.contains("/snap/") && asked.contains("X-Amz-Signature="), "{asked}");
    assert!(!asked.contains(API_KEY) && !asked.to_lowercase().contains("cloudsync-"), "{asked}");
    let log = stage.hub.whole_log();
    let signature =
        asked.split("X-Amz-Signature=").nth(1).and_then(|rest| rest.get(..64)).expect("a signature");
    assert!(log.contains("snapshot made") && !log.contains(signature), "the log shows no address");
}

#[test]
fn parts_are_fetched_from_s3_without_what_is_for_the_hub() {
    check_store(StoreKind::Moto);
}

#[test]
fn a_service_that_checks_signatures_gives_the_parts() {
    check_store(StoreKind::S3sFs);
}

#[test]
fn where_the_store_cannot_be_reached_the_hub_gives_the_parts() {
    on_both(|setting| {
        let (mut stage, line) = stage_of_store(setting, StoreKind::Moto, "");
        fill(&mut stage);
        line.cut();
        let client = stage.stranger("far");
        client.join(&stage.hub.address(), API_KEY);
        client.sync();
        check_rows(&stage, &client);
    });
}

#[test]
fn rows_that_are_not_for_everybody_never_come_from_the_store() {
    on_both(|setting| {
        let jwt = format!("[database.jwt]\nsecret = \"{SECRET}\"\nroles = [\"app\"]");
        let (mut stage, line) = stage_of_store(setting, StoreKind::Moto, &jwt);
        stage.postgres.run("select cloudsync_set_scope('photo', 'cast(id % 2 as text)')");
        fill(&mut stage);
        let client = stage.stranger("odd");
        // By default a token holds the scope that its subject names.
        let claims = json!({ "sub": "1", "role": "app", "exp": seconds_from_now(3_600) });
        client.run(&format!("select cloudsync_network_init('{}')", stage.hub.address()));
        let token = Signer::secret().token("HS256", &claims);
        client.run(&format!("select cloudsync_network_set_token('{token}')"));
        client.sync();
        assert_eq!(client.rows("select count(*), min(id % 2) from photo"), [format!("{}|1", PHOTOS / 2)]);
        assert_eq!(line.passed(), 0, "{}", line.asked());
        let manifests = stage.hub.whole_log().matches("snapshot made").count();
        assert!(
            manifests > 0 && stage.hub.whole_log().contains("parts=2"),
            "not all of it is in the last part"
        );
    });
}
