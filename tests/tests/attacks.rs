//! Attacks by those who may write where the hub keeps things, or who share something with whom they attack.
//!
//! Attempts from outside are in `security.rs`, forged tokens in `tokens.rs`, hostile files in `hostile_file.rs` of
//! `sqlite_sync`, rows of the control database in `admin.rs`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::postgres::{APP_ROLE, HUB_ROLE};
use tests::process::Signal;
use tests::stage::{Setting, Stage, TODO, on_both};
use tests::tokens::{SECRET, Signer, seconds_from_now};
use tests::wait;

/// Counts in Postgres how often each row was really written.
const RULES: &str = "create table writes (id text, what text);
    create function count_writes() returns trigger language plpgsql security definer as
    $$ begin insert into public.writes values (new.id, tg_op); return null; end $$;
    create trigger count_writes after insert or update on todo for each row execute function count_writes()";

const WRITES: &str = "select id, what, count(*) from writes group by id, what order by id, what";
const STATUS: &str = "select json_extract(cloudsync_network_send_changes(), '$.send.status')";
const INBOX_KEY: &str = "the key of every inbox of these tests, 0123456789";

/// Puts an object where an attacker wants it.
fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder can be made");
    fs::write(path, bytes).expect("an object can be written");
}

/// The places at which an entry of the inbox was not taken, each with what is put there.
fn wrong_places(entry: &Path, bytes: &[u8], other_database: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let name = entry.file_name().and_then(|name| name.to_str()).expect("it has a name");
    let folder = entry.parent().expect("it has a folder");
    let inbox = folder.parent().expect("it has an inbox");
    let site = folder.file_name().expect("it has a site");
    let parts: Vec<&str> = name.split('-').collect();
    let later = format!("{:020}-{:020}-{}", 7_000, 7_001, parts[2]);
    let (flipped, id) = (parts[2].chars().rev().collect::<String>(), format!("{}-{}", parts[0], parts[1]));
    let mut changed = bytes.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    vec![
        (inbox.join("00112233445566778899aabbccddeeff").join(name), bytes.to_vec()),
        (folder.join(&later), bytes.to_vec()),
        (folder.join(format!("{id}-{flipped}")), bytes.to_vec()),
        (folder.join(format!("{id}-{:032x}", 1)), bytes[..middle].to_vec()),
        (folder.join(format!("{id}-{:032x}", 2)), Vec::new()),
        (folder.join(format!("{id}-{:032x}", 3)), changed),
        (other_database.join("inbox").join(site).join(name), bytes.to_vec()),
    ]
}

#[test]
fn an_entry_of_the_inbox_counts_where_it_was_put_and_once() {
    let mut stage = Stage::new(Setting { own_cluster: true, ..Setting::PLAIN });
    stage.postgres.run(RULES);
    let tenant = stage.cluster().database("tenant");
    let theirs = tenant.session();
    theirs.run(TODO.postgres);
    theirs.run("select cloudsync_init('todo')");
    let other = format!(
        "[[database]]\nname = \"tenant\"\nurl = \"{}\"\napi_keys = [{{ key = \"{API_KEY}\", role = \"{APP_ROLE}\" }}]",
        tenant.url(HUB_ROLE)
    );
    // One key for both: only the place tells their entries apart.
    stage.hub.configure(&stage.database, &format!("inbox_key = \"{INBOX_KEY}\""), &other);
    stage.play(&[
        "hub: terminate",
        "hub: start",
        "a: insert into todo values ('t', 'before', null, 0)",
        "a: sync",
        "all: settle",
        "postgres: stop",
        "a: insert into todo values ('u', 'while away', null, 0)",
    ]);
    assert_eq!(stage.client("a").value(STATUS), "syncing", "the hub keeps what a sends");
    stage.hub.stop(Signal::Kill);
    let entry = stage.objects("inbox").remove(0);
    let bytes = fs::read(&entry).expect("the entry can be read");
    let inbox_of_tenant = stage.hub.store_directory().join("v1").join("tenant");
    for (path, bytes) in wrong_places(&entry, &bytes, &inbox_of_tenant) {
        put(&path, &bytes);
    }
    stage.play(&["postgres: start", "hub: start"]);
    let is_empty = |stage: &Stage| {
        wait::until("every inbox is empty", || {
            let theirs = tests::stage::objects_below(&inbox_of_tenant.join("inbox"));
            (stage.objects("inbox").is_empty() && theirs.is_empty()).then_some(())
        });
    };
    is_empty(&stage);
    let written = ["t|INSERT|1", "u|INSERT|1"];
    assert_eq!(stage.postgres.rows(WRITES), written);
    assert_eq!(tenant.session().rows("select id from todo"), Vec::<String>::new());
    let dead = "select count(*) from cloudsync.job_states where state = 'dead' and kind = 'buried_upload'";
    assert_eq!(stage.postgres.value(dead), "6");
    assert_eq!(tenant.session().value(dead), "1");

    // The same entry once more, after the row went on.
    stage.play(&["a: update todo set title = 'newer' where id = 'u'", "a: sync", "all: settle", "hub: kill"]);
    put(&entry, &bytes);
    stage.play(&["hub: start"]);
    is_empty(&stage);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "u|INSERT|1", "u|UPDATE|1"]);
    assert_eq!(stage.postgres.value("select title from todo where id = 'u'"), "newer");

    // And where its key counts no more.
    stage.play(&["hub: kill"]);
    put(&entry, &bytes);
    stage.hub.set_environment("CLOUDSYNC_INBOX_KEY", "another key than the one before, 0123456789");
    stage.play(&["hub: start"]);
    is_empty(&stage);
    assert_eq!(stage.postgres.value(dead), "7");
    stage.settles_at(&["t|before|NULL|0", "u|newer|NULL|0"]);
}

/// A stage whose hub takes tokens.
fn stage_with_tokens(setting: Setting<'_>) -> Stage {
    let mut stage = Stage::new(setting);
    let lines = format!("[database.jwt]\nsecret = \"{SECRET}\"\nroles = [\"{APP_ROLE}\"]\n");
    stage.hub.configure(&stage.database, "", &lines);
    stage.play(&["hub: terminate", "hub: start"]);
    stage
}

fn token(user: &str, role: &str) -> String {
    Signer::secret().token("", &json!({ "sub": user, "role": role, "exp": seconds_from_now(600) }))
}

/// Sends a chunk of an upload of two; the status and the body of the answer.
fn send_chunk(hub: &Hub, credential: &str, site: &str, number: u32, frame: &[u8]) -> (u16, String) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let url = format!(
        "{}/v1/databases/{}/chunks",
        hub.base(),
        hub.address().replace(&format!("{}/", hub.base()), "")
    );
    let request = config.new_agent().post(url).header("Authorization", format!("Bearer {credential}"));
    let request = request.header("Cloudsync-Site", site).header("Cloudsync-Upload", "5".repeat(32));
    let request = request.header("Cloudsync-Range", "1-2").header("Cloudsync-Db-Version", "2");
    let request = request.header("Cloudsync-Chunk", format!("{number}/2"));
    let mut answer = request.send(frame).expect("the hub answers");
    let body = answer.body_mut().read_to_string().expect("an answer is text");
    (answer.status().as_u16(), body)
}

#[test]
fn a_chunk_is_applied_with_those_of_its_own_sender_only() {
    on_both(|setting| {
        let stage = stage_with_tokens(setting);
        let client: Client = stage.stranger("phone");
        client.run("insert into todo values ('one', 'of u1', null, 0)");
        let first = client.bytes("select cloudsync_payload_encode()");
        client.run("insert into todo values ('two', 'of u2', null, 0)");
        let second = client.bytes("select cloudsync_payload_encode(1)");
        let site = client.value("select lower(hex(cloudsync_siteid()))");
        let send =
            |credential: &str, number, frame: &[u8]| send_chunk(&stage.hub, credential, &site, number, frame);
        for role in ["postgres", HUB_ROLE, "cloudsync_owner"] {
            assert_eq!(send(&token("u1", role), 1, &first).0, 403, "{role}");
        }
        assert_eq!(send(&token("u1", APP_ROLE), 1, &first).0, 202);
        // Whoever knows the name of an upload neither adds to it nor takes what is there as his own.
        let (status, body) = send(&token("u2", APP_ROLE), 2, &second);
        assert!(status == 409 && body.contains("incomplete_upload"), "{status}: {body}");
        let (status, body) = send(API_KEY, 2, &second);
        assert!(status == 409 && body.contains("incomplete_upload"), "{status}: {body}");
        assert_eq!(stage.postgres.value("select count(*) from todo"), "0");
        let (status, body) = send(&token("u1", APP_ROLE), 2, &second);
        assert_eq!(status, 200, "{body}");
        assert_eq!(stage.postgres.rows("select id from todo order by id"), ["one", "two"]);
    });
}

#[test]
fn a_slow_head_is_given_up_and_holds_up_nobody() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.hub.configure(&stage.database, "head_timeout_ms = 3000", "");
    stage.play(&["hub: terminate", "hub: start"]);
    let address = stage.hub.base().replace("http://", "");
    let slow: Vec<TcpStream> = (0..40)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).expect("the hub listens");
            stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket has a timeout");
            let begun = ["GET /v1/databases/", "POST /v1/databases/x/uploads HTTP/1.1\r\nHost: x\r\nX-", ""];
            stream.write_all(begun[number % 3].as_bytes()).expect("a part of the head is sent");
            stream
        })
        .collect();
    let client = stage.stranger("quick");
    client.join(&stage.hub.address(), API_KEY);
    client.run("insert into todo values ('k', 'title', null, 0)");
    client.sync();
    assert_eq!(stage.postgres.rows("select id from todo"), ["k"]);
    for mut stream in slow {
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let is_timeout = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_timeout, "it is still open after two minutes");
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
}
