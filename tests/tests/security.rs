//! Attempts to cross every boundary of a hub: other tenants, other scopes, other roles, paths, sizes, slowness, logs.
//!
//! Forged and expired tokens are in `tokens.rs`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use shared_format::payload::encode_frame;
use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::places;
use tests::postgres::{APP_ROLE, Cluster, Database, HUB_ROLE};
use tests::stage::{Centre, Setting, Stage, TODO, on_both};
use tests::tokens::{SECRET, Signer, seconds_from_now};
use tests::wait;

const OTHER_SECRET: &str = "other-tenant-0123456789abcdef0123";
const OTHER_KEY: &str = "other-tenant-key-0123456789abcdef";
const SITE: &str = "00112233445566778899aabbccddeeff";

/// The table of a configuration that takes tokens by a secret.
fn jwt(secret: &str) -> String {
    format!("[database.jwt]\nsecret = \"{secret}\"\nroles = [\"{APP_ROLE}\"]\n")
}

/// Starts a stage whose hub takes tokens by the secret of the tests, with more lines after that.
fn stage_with(setting: Setting<'_>, more: &str) -> Stage {
    let mut stage = Stage::new(setting);
    let lines = format!("{}{more}", jwt(SECRET));
    stage.hub.configure(&stage.database, "trusted_proxies = [\"127.0.0.1\"]", &lines);
    stage.play(&["hub: terminate", "hub: start"]);
    stage
}

fn token(user: &str) -> String {
    let claims = json!({ "sub": user, "role": APP_ROLE, "exp": seconds_from_now(600) });
    Signer::secret().token("", &claims)
}

/// Makes a client that shows a token.
fn client_of(stage: &Stage, user: &str) -> Client {
    let client = stage.stranger(user);
    client.run(&format!("select cloudsync_network_init('{}')", stage.hub.address()));
    client.run(&format!("select cloudsync_network_set_token('{}')", token(user)));
    client
}

/// Sends a request by hand and returns the whole answer; an answer may come before everything is sent.
fn send(hub: &Hub, request: &[u8]) -> String {
    let address = hub.base().replace("http://", "");
    let mut stream = TcpStream::connect(address).expect("the hub listens");
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a socket has a timeout");
    // The hub may have answered and closed already.
    let _closed = stream.write_all(request);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The head of an upload that is in order, but for its body.
fn upload_head(hub: &Hub, length: usize) -> String {
    let path = hub.address().replace(&hub.base(), "");
    format!(
        "POST /v1/databases{path}/uploads HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {API_KEY}\r\nCloudsync-Site: {SITE}\r\nCloudsync-Upload: {SITE}\r\n\
         Cloudsync-Range: 1-1\r\nCloudsync-Db-Version: 1\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// The same of the first of two chunks.
fn chunk_head(hub: &Hub, length: usize) -> String {
    upload_head(hub, length)
        .replace("/uploads HTTP", "/chunks HTTP")
        .replace("Connection: close", "Connection: close\r\nCloudsync-Chunk: 1/2")
}

#[track_caller]
fn check_upload(hub: &Hub, body: &[u8], status: u16) {
    let answer = send(hub, &[upload_head(hub, body.len()).as_bytes(), body].concat());
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "wanted {status}, found {answer:.300}");
}

#[test]
fn nothing_of_one_tenant_opens_another() {
    on_both(|setting| {
        let home = places::scratch("tenant");
        let (other, extension) = match setting.centre {
            Centre::Postgres => (Cluster::shared().database("tenant"), String::new()),
            Centre::SqliteFile => {
                let library = places::artefact("sqlite/cloudsync.so");
                let other = Database::in_file(&home.path().join("tenant.sqlite"));
                (other, format!("extension = \"{}\"\n", library.display()))
            }
        };
        let session = other.session();
        session.run(TODO.postgres);
        session.run("select cloudsync_init('todo'); insert into todo values ('t', 'of the tenant', null, 0)");
        let url = other.url(HUB_ROLE);
        let stage = stage_with(
            setting,
            &format!(
                "[[database]]\nname = \"tenant\"\nurl = \"{url}\"\n{extension}\
             api_keys = [{{ key = \"{OTHER_KEY}\", role = \"{APP_ROLE}\" }}]\n{}",
                jwt(OTHER_SECRET)
            ),
        );
        stage.postgres.run("insert into todo values ('d', 'of demo', null, 0)");
        let claims = json!({ "sub": "u", "role": APP_ROLE, "exp": seconds_from_now(600) });
        let other_token = Signer::Hs256(OTHER_SECRET.as_bytes().to_vec()).token("", &claims);
        let tenant = format!("{}/v1/databases/tenant/changes", stage.hub.base());
        let get = |url: &str, credential: &str, from: &str| {
            let config = ureq::Agent::config_builder().http_status_as_error(false).build();
            let request = config.new_agent().get(url).header("Authorization", format!("Bearer {credential}"));
            let answer = request.header("X-Forwarded-For", from).call().expect("the hub answers");
            answer.status().as_u16()
        };
        // Whoever is let in is told that the site is missing.
        let demo =
            tenant.replace("/tenant/", &format!("{}/", stage.hub.address().replace(&stage.hub.base(), "")));
        for (url, credential, status) in [
            (&demo, API_KEY, 400),
            (&demo, &token("u"), 400),
            (&tenant, OTHER_KEY, 400),
            (&tenant, &other_token, 400),
            (&demo, OTHER_KEY, 401),
            (&demo, &other_token, 401),
            (&tenant, API_KEY, 401),
            (&tenant, &token("u"), 401),
        ] {
            assert_eq!(get(url, credential, "203.0.113.1"), status, "{url} with {credential}");
        }

        // A cursor of one tenant says nothing to another: whoever shows it begins anew, with a snapshot.
        let ours = stage.stranger("ours");
        ours.join(&stage.hub.address(), API_KEY);
        let theirs = stage.stranger("theirs");
        theirs.join(&format!("{}/tenant", stage.hub.base()), OTHER_KEY);
        wait::until("both have their rows", || {
            ours.sync();
            theirs.sync();
            let rows = |client: &Client| client.rows("select title from todo").concat();
            (rows(&ours) == "of demo" && rows(&theirs) == "of the tenant").then_some(())
        });
        // The same file, with its place in one log, is pointed at the other database.
        theirs.join(&stage.hub.address(), API_KEY);
        wait::until("it has exactly what is there", || {
            let synced = theirs.try_sync();
            let rows = theirs.rows("select title from todo order by title");
            (synced.is_ok() && rows == ["of demo"]).then_some(())
        });
        // Nothing of the one place was carried to the other.
        assert_eq!(stage.postgres.rows("select title from todo"), ["of demo"]);
        assert_eq!(session.rows("select title from todo"), ["of the tenant"]);
    });
}

#[test]
fn a_token_reads_its_own_scopes() {
    on_both(|setting| {
        let stage = stage_with(setting, "");
        stage.postgres.run("select cloudsync_set_scope('todo', 'note')");
        let (one, two) = (client_of(&stage, "u1"), client_of(&stage, "u2"));
        stage.postgres.run(
            "insert into todo values ('a', 'of u1', 'u1', 0), ('b', 'of u2', 'u2', 0), ('c', 'of all', '', 0)",
        );
        let titles = |client: &Client| client.rows("select title from todo order by title").join(", ");
        wait::until("both have their rows", || {
            let synced = [one.try_sync(), two.try_sync()];
            (synced.iter().all(Result::is_ok)
                && titles(&one) == "of all, of u1"
                && titles(&two) == "of all, of u2")
                .then_some(())
        });
        // A new client takes a snapshot, the others take the log; neither gives what the scope does not hold.
        let late = client_of(&stage, "u3");
        wait::until("the late one has its row", || {
            (late.try_sync().is_ok() && titles(&late) == "of all").then_some(())
        });
        // A place in the log or in a snapshot that another reader was given opens nothing of that one.
        let cursor = "select value from cloudsync_settings where key = 'cursor'";
        let of_one = one.value(cursor);
        stage
            .postgres
            .run("insert into todo values ('d', 'later of u1', 'u1', 0), ('e', 'later of u2', 'u2', 0)");
        wait::until("it has the later row", || {
            (one.try_sync().is_ok() && titles(&one).contains("later of u1")).then_some(())
        });
        let answer = stage.hub.ask_of_site(&token("u2"), SITE, &format!("/changes?cursor={of_one}"));
        let found = |text: &str| answer.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!answer.is_empty() && !found("of u1"), "the cursor of another one");
        two.run(&format!("update cloudsync_settings set value = '{of_one}' where key = 'cursor'"));
        wait::until("the other one has its later row", || {
            (two.try_sync().is_ok() && titles(&two).contains("later of u2")).then_some(())
        });
        assert_eq!(titles(&two), "later of u2, of all, of u2");
    });
}

#[test]
fn a_guarded_table_is_served_to_no_token() {
    let stage = stage_with(Setting::PLAIN, "");
    let titles = |client: &Client| client.rows("select title from todo order by title").join(", ");
    stage.postgres.run(
        "insert into todo values ('c', 'of all', '', 0); alter table todo enable row level security;
         update todo set title = 'guarded' where id = 'c'",
    );
    let (trusted, guarded) = (stage.stranger("trusted"), client_of(&stage, "u4"));
    trusted.join(&stage.hub.address(), API_KEY);
    wait::until("an API key reads the guarded table", || {
        trusted.sync();
        titles(&trusted).contains("guarded").then_some(())
    });
    for _ in 0..3 {
        guarded.sync_waiting(300);
        assert_eq!(titles(&guarded), "", "a table with policies and without scopes is served to no token");
    }
}

#[test]
fn a_role_is_never_more_than_the_token_was_given() {
    on_both(|setting| {
        let stage = stage_with(setting, "");
        for role in
            ["postgres", HUB_ROLE, "cloudsync_owner", "app; set role postgres", "\"app\"", "none", "app\u{0}"]
        {
            let claims = json!({ "sub": "u", "role": role, "exp": seconds_from_now(600) });
            let answer = stage.hub.ask_as(&Signer::secret().token("", &claims), "203.0.113.1", "/changes");
            let problem: Value = serde_json::from_str(&answer.body).expect("a problem is told");
            assert_eq!((answer.status, problem["code"].as_str()), (403, Some("forbidden")), "{role:?}");
        }
    });
}

#[test]
fn claims_that_look_like_sql_are_only_text() {
    let stage = stage_with(Setting::PLAIN, "");
    let claims = json!({ "sub": "'; drop table todo; --", "role": APP_ROLE, "exp": seconds_from_now(600) });
    let client = stage.stranger("sql");
    client.run(&format!("select cloudsync_network_init('{}')", stage.hub.address()));
    client.run(&format!("select cloudsync_network_set_token('{}')", Signer::secret().token("", &claims)));
    stage.postgres.run(
        "create function note_claims() returns trigger language plpgsql as $$ begin
             new.note := current_user || ' ' || (current_setting('request.jwt.claims')::jsonb ->> 'sub');
             return new; end $$;
         create trigger note_claims before insert on todo for each row execute function note_claims()",
    );
    client.run("insert into todo values ('k', 'title', null, 0)");
    client.sync();
    assert_eq!(stage.postgres.rows("select note from todo"), ["app '; drop table todo; --"]);
}

/// Returns every file below a directory, relative to it.
fn files_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root).expect("it is below").to_string_lossy().into_owned());
            }
        }
    }
    found
}

#[test]
fn no_path_leads_out_of_a_database() {
    on_both(|setting| {
        let stage = stage_with(setting, "");
        let bearer =
            format!("Authorization: Bearer {API_KEY}\r\nCloudsync-Site: {SITE}\r\nConnection: close\r\n");
        let name = stage.hub.address().replace(&format!("{}/", stage.hub.base()), "");
        let long = "a".repeat(5_000);
        for path in [
            "/v1/databases/../changes",
            "/v1/databases/%2e%2e/changes",
            &format!("/v1/databases/{name}%2f..%2f{name}/changes"),
            &format!("/v1/databases/{name}%00/changes"),
            &format!("/v1/databases/{}/changes", name.to_uppercase()),
            &format!("/v1/databases/{name}./changes"),
            &format!("/v1/databases//{name}/changes"),
            &format!("/v1/databases/{long}/changes"),
            &format!("/v1/databases/{name}/changes/../../../readyz"),
            &format!("/v1/databases/{name}/../../../etc/passwd"),
            &format!("/v1/databases/{name}%0d%0aX-Injected:%20yes/changes"),
        ] {
            let answer =
                send(&stage.hub, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n").as_bytes());
            let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
            assert!(["404", "401", "400"].contains(&status.as_str()), "{path:.80}: {answer:.300}");
            assert!(!answer.to_lowercase().contains("\nx-injected"), "{path}: {answer}");
        }
        for cursor in ["../../../etc/passwd", "..%2F..%2Fepoch", "%00", "1.2.3", "%F0%9F%92%A9", &long] {
            let path = format!("/v1/databases/{name}/changes?cursor={cursor}");
            let answer =
                send(&stage.hub, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{cursor:.80}: {answer:.300}");
        }
        for site in ["../../../../tmp/x", "00112233445566778899aabbccddee/f", "%2e%2e", ""] {
            let head = upload_head(&stage.hub, 0).replace(&format!("Site: {SITE}"), &format!("Site: {site}"));
            let answer = send(&stage.hub, head.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{site}: {answer:.300}");
        }
        let strange: Vec<String> = files_below(stage.hub.store_directory())
            .into_iter()
            .filter(|file| !KEY_SHAPES.contains(&shape(file, &name).as_str()))
            .collect();
        assert!(strange.is_empty(), "{strange:?}");
        assert_eq!(shape(&format!("v1/{name}/../passwd"), &name), "v1/NAME/../passwd");
    });
}

/// Every name that a hub gives a file of its store by itself; `#` stands for six or more hexadecimal digits.
const KEY_SHAPES: [&str; 8] = [
    ".unfinished/#",
    "probe/#",
    "v1/NAME/epoch/#",
    "v1/NAME/#/server-start",
    "v1/NAME/#/idle/#",
    "v1/NAME/#/log/#-#-#.seg",
    "v1/NAME/#/snap/#/#/#-#",
    "v1/NAME/#/snap/#/#/#-manifest",
];

/// A file's name without what differs from one to the next.
fn shape(file: &str, database: &str) -> String {
    let is_number = |text: &str| text.len() >= 6 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let part = |part: &str| match part.split_once('.') {
        Some((number, "seg")) => format!("{}.seg", numbers(number, is_number)),
        _ if part == database => "NAME".to_owned(),
        _ => numbers(part, is_number),
    };
    file.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn numbers(part: &str, is_number: impl Fn(&str) -> bool) -> String {
    part.split('-').map(|piece| if is_number(piece) { "#" } else { piece }).collect::<Vec<_>>().join("-")
}

/// Returns the most memory that the hub ever held, in KiB.
fn peak_memory(hub: &Hub) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", hub.pid())).expect("the hub runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux tells the peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("it is a number")
}

/// Frames a compressed body that is said to expand to a size, with the checksum that fits.
fn frame_saying(expanded: usize, stored: &[u8]) -> Vec<u8> {
    let length = |length: usize| u32::try_from(length).expect("it is short").to_le_bytes();
    let checked = [&[1], length(expanded).as_slice(), stored].concat();
    // CRC-32C, bit by bit.
    let checksum = !checked.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    let sum = checksum.to_le_bytes();
    [b"CSY1", &[1][..], &length(stored.len()), &length(expanded), &sum, stored].concat()
}

#[test]
fn what_is_too_large_or_expands_too_far_is_refused_before_it_costs_memory() {
    on_both(|setting| {
        let stage = stage_with(setting, "");
        let size = 60 * 1024 * 1024;
        let stored = encode_frame(&vec![0; size])[17..].to_vec();
        // Our own encoder pads what would expand too far; whoever means harm does not.
        let padding =
            stored.windows(3).rposition(|part| part == [0x2a, 0x4d, 0x18]).expect("there is padding") - 1;
        let bomb = frame_saying(size, &stored[..padding]);
        assert!(bomb.len() * 1_000 < size, "it expands {} times", size / bomb.len());
        let larger = frame_saying(size * 2, &stored);
        let lying = frame_saying(1_000, &stored);
        let before = peak_memory(&stage.hub);
        for _ in 0..5 {
            for body in [&bomb, &larger, &lying] {
                for head in [upload_head(&stage.hub, body.len()), chunk_head(&stage.hub, body.len())] {
                    let answer = send(&stage.hub, &[head.as_bytes(), body].concat());
                    let refused =
                        ["413", "422"].iter().any(|status| answer.starts_with(&format!("HTTP/1.1 {status}")));
                    assert!(refused, "{answer:.300}");
                }
            }
        }
        check_upload(&stage.hub, &vec![0; 9 * 1024 * 1024], 413);
        let head = upload_head(&stage.hub, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
        let part = [b"100000\r\n".as_slice(), &vec![0; 0x10_0000], b"\r\n"].concat();
        let answer = send(&stage.hub, &[head.as_bytes(), &part.repeat(10)].concat());
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:.300}");
        let squeezed =
            upload_head(&stage.hub, 3).replace("Content-Length", "Content-Encoding: gzip\r\nContent-Length");
        let answer = send(&stage.hub, &[squeezed.as_bytes(), b"abc"].concat());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:.300}");
        let grown = peak_memory(&stage.hub).saturating_sub(before);
        assert!(grown < 64 * 1024, "refusing took {grown} KiB");
    });
}

#[test]
fn a_slow_body_is_given_up_and_holds_up_nobody() {
    on_both(|setting| {
        let stage = stage_with(setting, "");
        let address = stage.hub.base().replace("http://", "");
        let slow: Vec<TcpStream> = (0..40)
            .map(|number| {
                let mut stream = TcpStream::connect(&address).expect("the hub listens");
                stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket has a timeout");
                let head = if number % 2 == 0 { upload_head } else { chunk_head };
                stream.write_all(head(&stage.hub, 1_000).as_bytes()).expect("the head is sent");
                stream.write_all(b"half").expect("a part of the body is sent");
                stream
            })
            .collect();
        // Downloads pass meanwhile; uploads wait for a place at most until the first is given up.
        let client = stage.stranger("quick");
        client.join(&stage.hub.address(), API_KEY);
        client.run("insert into todo values ('k', 'title', null, 0)");
        wait::until_ok("the quick one is served", || client.try_sync());
        for mut stream in slow {
            let mut answer = String::new();
            let _reset = stream.read_to_string(&mut answer);
            let given_up = ["HTTP/1.1 408 ", "HTTP/1.1 503 "].iter().any(|start| answer.starts_with(start));
            assert!(given_up, "{answer:.300}");
        }
    });
}

/// Returns the soft and the hard limit on open files of a hub.
fn files_max(hub: &Hub) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", hub.pid())).expect("the hub runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("Linux tells it");
    let mut words = line.split_whitespace().skip(3).map(str::to_owned);
    (words.next().expect("the soft limit"), words.next().expect("the hard limit"))
}

#[test]
fn as_many_files_may_be_open_as_the_system_allows_and_too_few_are_told() {
    let mut stage = Stage::new(Setting::PLAIN);
    let pid = std::process::id().to_string();
    let lowered = std::process::Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=1024:"])
        .status()
        .expect("prlimit can be started");
    assert!(lowered.success());
    let warnings =
        |hub: &Hub| hub.whole_log().matches("fewer files may be open than connections_max needs").count();
    let before = warnings(&stage.hub);
    stage.hub.configure(&stage.database, "connections_max = 100", "");
    stage.play(&["hub: terminate", "hub: start"]);
    let (soft, hard) = files_max(&stage.hub);
    assert_eq!(soft, hard, "the soft limit is raised");
    assert!(hard != "1024", "the limit can be raised here at all");
    assert_eq!(warnings(&stage.hub), before, "they fit");
    stage.hub.configure(&stage.database, "connections_max = 4000000000", "");
    stage.play(&["hub: terminate", "hub: start"]);
    assert_eq!(warnings(&stage.hub), before + 1, "{}", stage.hub.log_tail(20));
}

#[test]
fn no_log_holds_a_secret_even_if_everything_is_logged() {
    on_both(|setting| {
        let mut stage = stage_with(setting, "");
        stage.play(&["hub: terminate"]);
        stage.hub.set_environment("CLOUDSYNC_LOG", "trace");
        stage.hub.set_environment("CLOUDSYNC_LOG_FORMAT", "json");
        stage.play(&["hub: start"]);
        let (good, bad) =
            (token("u-in-claims"), Signer::Hs256(b"wrong".to_vec()).token("", &json!({ "sub": "x" })));
        stage.postgres.run("insert into todo values ('down', 'row-value-down', null, 0)");
        let client = client_of(&stage, "u-in-claims");
        client
            .run("insert into todo values ('up', 'row-value-up', null, 0), ('bad', 'row-value-bad', 'x', 0)");
        stage.run_at_centre(
            "alter table todo add constraint short check (note is null)",
            "create trigger short before insert on todo when new.note is not null
             begin select raise(abort, 'too long'); end",
        );
        client.sync();
        wait::until("the row came down", || {
            client.sync();
            (client.rows("select id from todo where id = 'down'").len() == 1).then_some(())
        });
        let guess = "a-guessed-key-0123456789abcdef0123";
        for credential in [bad.as_str(), guess, API_KEY, &good] {
            stage.hub.ask_as(credential, "203.0.113.1", "/changes");
        }
        stage.play(&["hub: terminate"]);
        let log = stage.hub.whole_log();
        assert!(log.contains("\"answered\""), "the log tells of requests");
        for line in log.lines().filter(|line| line.starts_with('{')) {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
        let signature = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
        let secrets = [
            API_KEY,
            SECRET,
            guess,
            tests::postgres::PASSWORD,
            &signature(&good),
            &signature(&bad),
            "u-in-claims",
            "row-value-up",
            "row-value-down",
            "row-value-bad",
        ];
        let found: Vec<_> = log
            .lines()
            .filter_map(|line| {
                secrets.iter().find(|secret| line.contains(**secret)).map(|secret| (secret, line))
            })
            .collect();
        assert!(found.is_empty(), "{} lines, as {:?}", found.len(), &found[..found.len().min(5)]);
    });
}
