//! Databases and keys that come, change and go while hubs run, through the requests of operators.

use serde_json::{Value, json};
use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::{ObjectStore, StoreKind};
use tests::places;
use tests::postgres::{APP_ROLE, Cluster, Database, HUB_ROLE, SUPERUSER};
use tests::process::Signal;
use tests::sql::Session;
use tests::stage::TODO;
use tests::wait;

/// A hub whose control database is its own, and a database that it does not know yet.
struct Setting {
    hub: Hub,
    first: Database,
    second: Database,
    control_database: Database,
    /// The line of the configuration that names the control database.
    control: String,
    home: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let cluster = Cluster::shared();
        let (first, second, control) =
            (cluster.database("first"), cluster.database("second"), cluster.database("control"));
        for database in [&first, &second] {
            database.session().run(TODO.postgres);
            database.session().run("select cloudsync_init('todo')");
        }
        let mut hub = Hub::new(&first, ObjectStore::new(StoreKind::Directory));
        let control_database = control;
        let control = format!("control = \"{}\"", control_database.url(SUPERUSER));
        hub.configure(&first, &control, "");
        hub.start_again();
        Self { hub, first, second, control_database, control, home: places::scratch("admin") }
    }

    fn ask(&self, method: &str, path: &str, body: Option<Value>, status: u16) -> Value {
        ask(&self.hub, method, path, body, status)
    }

    fn settings(&self) -> Value {
        json!({ "url": self.second.url(HUB_ROLE) })
    }

    /// Serves the second database.
    fn create(&self) {
        let body = json!({ "name": "second", "settings": self.settings() });
        self.ask("POST", "/v1/databases", Some(body), 201);
    }

    fn key(&self) -> (String, String) {
        let body = json!({ "label": "of a test", "role": APP_ROLE });
        let made = self.ask("POST", "/v1/databases/second/keys", Some(body), 201);
        (text(&made["id"]), text(&made["key"]))
    }

    fn client(&self, hub: &Hub, name: &str, key: &str) -> Client {
        let client = Client::open(&self.home.path().join(name));
        client.run(TODO.sqlite);
        client.run("select cloudsync_init('todo')");
        client.join(&format!("{}/second", hub.base()), key);
        client
    }
}

fn ask(hub: &Hub, method: &str, path: &str, body: Option<Value>, status: u16) -> Value {
    let answer = hub.ask_as_operator(method, path, body.map(|body| body.to_string()).as_deref());
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap_or(Value::Null)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

#[test]
fn a_database_that_comes_at_run_time_is_served_by_every_node_until_it_goes() {
    let setting = Setting::new();
    let mut other = setting.hub.beside(&setting.first);
    other.configure(&setting.first, &setting.control, "");
    other.start_again();
    setting.create();
    setting.ask(
        "POST",
        "/v1/databases",
        Some(json!({ "name": "second", "settings": setting.settings() })),
        409,
    );
    let listed = setting.ask("GET", "/v1/databases", None, 200);
    assert_eq!(listed["control"], "followed");
    assert!(!listed.to_string().contains("private-cluster"), "no password is told: {listed}");

    let (id, key) = setting.key();
    let device = setting.client(&setting.hub, "device", &key);
    device.run("insert into todo values ('a', 'by a device', null, 0)");
    wait::until_ok("the database takes uploads", || device.try_sync());
    wait::until("the other node serves it", || {
        let database = other.ask_as_operator("GET", "/v1/databases/second", None);
        (database.status == 200 && database.body.contains("\"ready\":true")).then_some(())
    });
    let second_device = setting.client(&other, "second", &key);
    wait::until("the other node gives what was uploaded", || {
        second_device.sync();
        (second_device.rows("select title from todo") == ["by a device"]).then_some(())
    });

    let (_, new) = rotate(&setting, &id, 0);
    assert!(device.try_sync().is_err(), "the old key is revoked");
    let third = setting.client(&setting.hub, "third", &new);
    wait::until_ok("the new key opens", || third.try_sync());

    setting.ask("DELETE", "/v1/databases/second", None, 204);
    setting.ask("GET", "/v1/databases/second", None, 404);
    wait::until("the other node serves it no more", || {
        (other.ask_as_operator("GET", "/v1/databases/second", None).status == 404).then_some(())
    });
    assert!(third.try_sync().is_err(), "nobody serves it");
    assert!(!setting.hub.get("/metrics").body.contains("database=\"second\""));
    for secret in [key.as_str(), new.as_str(), "private-cluster"] {
        assert!(!setting.hub.whole_log().contains(secret) && !other.whole_log().contains(secret));
    }
}

fn rotate(setting: &Setting, id: &str, grace_s: u64) -> (String, String) {
    let path = format!("/v1/databases/second/keys/{id}/rotate");
    let made = setting.ask("POST", &path, Some(json!({ "grace_s": grace_s })), 201);
    (text(&made["id"]), text(&made["key"]))
}

#[test]
fn databases_and_keys_outlive_every_node_and_a_control_database_that_is_away() {
    let mut setting = Setting::new();
    setting.create();
    let (id, key) = setting.key();
    let (_, rotated) = rotate(&setting, &id, 3_600);
    setting.hub.stop(tests::process::Signal::Kill);
    setting.hub.start_again();
    wait::until("the database is served again", || {
        let database = setting.hub.ask_as_operator("GET", "/v1/databases/second", None);
        (database.status == 200).then_some(())
    });
    for (name, key) in [("old", &key), ("new", &rotated)] {
        let device = setting.client(&setting.hub, name, key);
        wait::until_ok("both keys open until the grace is over", || device.try_sync());
    }
    let keys = setting.ask("GET", "/v1/databases/second/keys", None, 200);
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2), "{keys}");
    assert_eq!(keys["file_keys"], 0);
    assert!(keys["keys"][0]["expires_at"].is_string() && keys["keys"][1]["expires_at"].is_null(), "{keys}");
    assert!(!keys.to_string().contains(&key), "{keys}");
    let first = setting.first.name.as_str();
    // One for the database of the file, which keeps its own beside it.
    let made =
        setting.ask("POST", &format!("/v1/databases/{first}/keys"), Some(json!({ "role": APP_ROLE })), 201);
    for key in [API_KEY, &text(&made["key"])] {
        let status = download_status(&setting.hub, first, key);
        assert!(status < 300, "{status}");
        assert_eq!(download_status(&setting.hub, "second", key), 401);
    }
}

#[test]
fn a_node_that_never_read_its_control_database_is_not_ready() {
    let database = Cluster::shared().database("demo");
    let mut hub = Hub::new(&database, ObjectStore::new(StoreKind::Directory));
    hub.configure(&database, "control = \"postgres://nobody@127.0.0.1:1/control\"", "");
    hub.launch();
    let told = wait::until("the database of the file can be served", || {
        let answer = hub.try_get("/readyz")?;
        let told: Value = serde_json::from_str(&answer.body).expect("JSON");
        (told["databases"][0]["ready"] == true).then_some((answer.status, told))
    });
    assert_eq!((told.0, &told.1["control"]["known"]), (503, &Value::Bool(false)), "{}", told.1);
    assert!(told.1["control"]["problem"].is_string(), "{}", told.1);
}

fn download_status(hub: &Hub, database: &str, key: &str) -> u16 {
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let asked = config
        .new_agent()
        .get(format!("{}/v1/databases/{database}/changes", hub.base()))
        .header("Authorization", format!("Bearer {key}"))
        .header("Cloudsync-Site", "00112233445566778899aabbccddeeff")
        .call();
    asked.expect("the hub answers").status().as_u16()
}

#[test]
fn nodes_know_of_each_other_and_share_limits() {
    let setting = Setting::new();
    let nodes = |hub: &Hub| ask(hub, "GET", "/v1/databases", None, 200)["nodes"].clone();
    wait::until("a node knows of itself", || (nodes(&setting.hub) == 1).then_some(()));
    let mut other = setting.hub.beside(&setting.first);
    other.configure(&setting.first, &setting.control, "");
    other.start_again();
    for hub in [&setting.hub, &other] {
        wait::until("they know of each other", || (nodes(hub) == 2).then_some(()));
    }
    other.stop(Signal::Terminate);
    wait::until("one that ends says so", || (nodes(&setting.hub) == 1).then_some(()));
    // One that could not say so is forgotten at the next look.
    let session = setting.control_database.session();
    session.run(
        "insert into cloudsync_control.nodes values ('gone', now() - interval '1 hour'), ('new', now())",
    );
    wait::until("one that is silent is forgotten", || {
        let left = session.rows("select node from cloudsync_control.nodes where length(node) < 32");
        (left == ["new"] && nodes(&setting.hub) == 2).then_some(())
    });
    // Tables that an earlier release made get what they lack.
    session.run("drop table cloudsync_control.nodes");
    other.start_again();
    wait::until("it is made anew", || nodes(&other).as_u64().filter(|count| *count > 0));
}

#[test]
fn limits_change_at_run_time_without_a_new_feed() {
    let setting = Setting::new();
    setting.create();
    let (_, key) = setting.key();
    let begins = || {
        let log = setting.hub.whole_log();
        log.lines().filter(|line| line.contains("database is served") && line.contains("second")).count()
    };
    assert_eq!(
        (setting.ask("GET", "/v1/databases/second", None, 200)["limits"].clone(), begins()),
        (json!({}), 1)
    );
    let put = |limits: &Value, status: u16| {
        let mut settings = setting.settings();
        settings["limits"] = limits.clone();
        setting.ask("PUT", "/v1/databases/second", Some(settings), status)
    };
    let limits = json!({ "requests_per_s_max": 1, "waits_max": 7, "stored_bytes_max": 5_000_000_000_u64 });
    let told = put(&limits, 200);
    assert_eq!((&told["limits"], &told["used"]["waits"], begins()), (&limits, &json!(0), 1));
    wait::until("the limit counts", || (download_status(&setting.hub, "second", &key) == 429).then_some(()));
    for wrong in [json!({ "waits_max": 0 }), json!({ "waits": 1 }), json!({ "waits_max": u64::MAX })] {
        assert_eq!(put(&wrong, 400)["code"], "bad_request");
    }
    assert_eq!(setting.ask("GET", "/v1/databases/second", None, 200)["limits"], limits);
    setting.ask("PUT", "/v1/databases/second", Some(setting.settings()), 200);
    for _ in 0..50 {
        assert_ne!(download_status(&setting.hub, "second", &key), 429);
    }
    assert_eq!(begins(), 1);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let setting = Setting::new();
    let url = setting.second.url(HUB_ROLE);
    let first = setting.first.name.as_str();
    for (method, path, body, status, word) in [
        ("PUT", "/v1/databases/first", Some(json!({ "url": url })), 409, "file"),
        ("DELETE", "/v1/databases/first", None, 409, "file"),
        ("POST", "/v1/databases", Some(json!({ "name": first, "settings": { "url": url } })), 409, first),
        ("POST", "/v1/databases", Some(json!({ "name": "../x", "settings": { "url": url } })), 400, "name"),
        ("POST", "/v1/databases", Some(json!({ "name": "x", "settings": { "url": "x" } })), 400, "url"),
        ("POST", "/v1/databases", Some(json!({ "name": "x", "settings": { "url": url, "y": 1 } })), 400, "y"),
        ("POST", "/v1/databases", Some(json!({ "name": "x" })), 400, "settings"),
        (
            "POST",
            "/v1/databases",
            Some(json!({ "name": "x", "settings": { "url": url, "limits": [1] } })),
            400,
            "another type",
        ),
        ("POST", "/v1/databases/first/keys", Some(json!(["a list", "app"])), 400, "another type"),
        ("POST", "/v1/databases/first/keys", Some(json!({ "role": "" })), 400, "role"),
        ("POST", "/v1/databases/first/keys", Some(json!({ "rolle": "app" })), 400, "rolle"),
        ("DELETE", "/v1/databases/first/keys/nothing", None, 404, "nothing"),
        ("GET", "/v1/databases/nowhere/devices", None, 404, "nowhere"),
        ("GET", "/v1/databases/first/devices?limit=0", None, 400, "limit"),
        ("GET", "/v1/databases/first/devices?limitt=1", None, 400, "limitt"),
        ("GET", "/v1/databases/first/segments?after=..%2F..", None, 400, "after"),
    ] {
        let path = path.replace("first", first);
        let problem = setting.ask(method, &path, body, status);
        assert!(text(&problem["detail"]).contains(word), "{word} in {problem}");
        assert!(!problem.to_string().contains("private-cluster"), "{problem}");
    }
}

#[test]
fn operators_see_devices_slots_segments_snapshots_and_refused_rows() {
    let setting = Setting::new();
    setting.create();
    setting.second.session().run("alter table todo add check (title <> 'refused')");
    let (_, key) = setting.key();
    let device = setting.client(&setting.hub, "device", &key);
    device.run("insert into todo values ('a', 'taken', null, 0), ('b', 'refused', null, 0)");
    wait::until_ok("the upload is taken", || device.try_sync());
    let list = |what: &str| {
        let page = setting.ask("GET", &format!("/v1/databases/second/{what}"), None, 200);
        page["items"].as_array().cloned().unwrap_or_else(|| panic!("a list in {page}"))
    };
    let devices = list("devices");
    assert_eq!(
        (devices.len(), &devices[0]["site"]),
        (1, &json!(device.value("select hex(cloudsync_siteid())").to_lowercase()))
    );
    let slots = wait::until("the slot is read", || {
        let slots = list("slots");
        slots.first().is_some_and(|slot| slot["active"] == true).then_some(slots)
    });
    assert_eq!(slots.len(), 1);
    let rejected =
        wait::until("the refusal is listed", || Some(list("rejected")).filter(|rows| !rows.is_empty()));
    assert_eq!((&rejected[0]["table"], &rejected[0]["sqlstate"]), (&json!("todo"), &json!("23514")));
    let segments =
        wait::until("a segment is stored", || Some(list("segments")).filter(|all| !all.is_empty()));
    assert!(segments[0]["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let next = segments[0]["name"].as_str().unwrap();
    assert_eq!(list("segments?limit=1")[0]["name"], next);
    assert!(list(&format!("segments?after={next}")).iter().all(|segment| segment["name"] != next));
    let snapshots = list("snapshots");
    assert!(snapshots.iter().any(|snapshot| snapshot["finished"] == true), "{snapshots:?}");
}

#[test]
fn operators_see_devices_and_refused_rows_of_a_central_file() {
    let home = places::scratch("admin-file");
    let file = Database::in_file(&home.path().join("central.sqlite"));
    file.session().run(
        "create table todo (id text primary key not null, title text not null, note text,
        done integer not null default 0, check (title <> 'refused'))",
    );
    file.session().run("select cloudsync_init('todo', 'cls', 1)");
    let hub = Hub::start(&file, StoreKind::Directory);
    let list = |what: &str| {
        let page = ask(&hub, "GET", &format!("/v1/databases/{}/{what}", file.name), None, 200);
        page["items"].as_array().cloned().unwrap_or_else(|| panic!("a list in {page}"))
    };
    assert_eq!((list("devices").len(), list("rejected").len()), (0, 0));
    let sites: Vec<String> = ["a", "b"]
        .map(|name| {
            let device = Client::open(&home.path().join(name));
            device.run(TODO.sqlite);
            device.run("select cloudsync_init('todo')");
            device.join(&hub.address(), API_KEY);
            device.run(&format!(
                "insert into todo values ('{name}', 'taken', null, 0), ('bad {name}', 'refused', null, 0)"
            ));
            wait::until_ok("the upload is taken", || device.try_sync());
            device.value("select lower(hex(cloudsync_siteid()))")
        })
        .into();
    let mut found: Vec<String> = list("devices").iter().map(|device| text(&device["site"])).collect();
    let first = list("devices?limit=1");
    assert_eq!(list(&format!("devices?after={}", text(&first[0]["site"])))[0]["site"], found[1].as_str());
    assert!(first[0]["seen_at"].is_null() && first[0]["acknowledged"].as_u64() >= Some(2), "{first:?}");
    found.sort();
    let mut sites = sites;
    sites.sort();
    assert_eq!(found, sites);
    let rejected = list("rejected");
    assert_eq!(
        (&rejected[0]["table"], &rejected[0]["key"], &rejected[0]["sqlstate"]),
        (&json!("todo"), &json!(["bad a"]), &json!("23514"))
    );
    assert_eq!(list(&format!("rejected?after={}", rejected[0]["rejection"]))[0]["key"], json!(["bad b"]));
    let (is_good, told) = hub.command(&["status"]);
    assert!(is_good && told.contains("1 tracked tables, 2 devices, 2 refused rows"), "{told}");
    // A file keeps no jobs, and has no slots.
    for what in ["jobs", "slots"] {
        ask(&hub, "GET", &format!("/v1/databases/{}/{what}", file.name), None, 404);
    }
}

#[test]
fn operators_see_jobs_and_revive_or_forget_dead_ones() {
    let setting = Setting::new();
    setting.create();
    let session = setting.second.session();
    for key in ["to revive", "to forget"] {
        session.run(&format!(
            "select cloudsync.bury_job('of a test', '{key}', 'test', '{{}}', 'it cannot be done')"
        ));
    }
    let list = |query: &str| {
        let page = setting.ask("GET", &format!("/v1/databases/second/jobs{query}"), None, 200);
        page["items"].as_array().cloned().unwrap_or_else(|| panic!("a list in {page}"))
    };
    let find = |key: &str| list("").into_iter().find(|job| job["key"] == key);
    let (revived, forgotten) =
        (find("to revive").expect("it is listed"), find("to forget").expect("it is listed"));
    assert_eq!(
        (&revived["state"], &revived["kind"], &revived["last_error"], &revived["recurs"]),
        (&json!("dead"), &json!("of a test"), &json!("it cannot be done"), &json!(false))
    );
    let after = &list("?limit=1")[0]["job"];
    assert!(list(&format!("?after={after}")).iter().all(|job| job["job"] != *after));
    let path = |job: &Value, act: &str| format!("/v1/databases/second/jobs/{}{act}", job["job"]);
    setting.ask("POST", &path(&revived, "/revive"), None, 204);
    setting.ask("DELETE", &path(&forgotten, ""), None, 204);
    assert_eq!(find("to revive").expect("it waits again")["state"], "waiting");
    assert_eq!(find("to forget"), None);
    // Neither one that waits nor one that is not there can be forgotten.
    setting.ask("DELETE", &path(&revived, ""), None, 404);
    setting.ask("POST", "/v1/databases/second/jobs/0/revive", None, 404);
    assert_eq!(setting.ask("DELETE", "/v1/databases/second/jobs/x", None, 404)["code"], "unknown_name");
}

/// Writes a database into the control database, as a person can.
fn insert_by_hand(control: &Session, name: &str, settings: &Value) {
    let (name, settings) = (name.replace('\'', "''"), settings.to_string().replace('\'', "''"));
    control.run(&format!(
        "insert into cloudsync_control.databases (name, settings) values ('{name}', '{settings}')"
    ));
}

#[test]
fn rows_that_somebody_wrote_into_the_control_database_open_nothing_else() {
    let setting = Setting::new();
    setting.create();
    let (_, key) = setting.key();
    let device = setting.client(&setting.hub, "device", &key);
    wait::until_ok("the database is served", || device.try_sync());
    let file = setting.home.path().join("made.sqlite");
    let control = setting.control_database.session();
    let insert = |name: &str, settings: Value| insert_by_hand(&control, name, &settings);
    // Names that lead out of the folder of a database, are another one's, or are SQL.
    let long = "a".repeat(300);
    let names =
        ["..", ".", "a/b", "../second", "SECOND", "", "x y", "x%2e", "x\ny", "'; drop table todo; --", &long];
    for name in names {
        insert(name, setting.settings());
    }
    insert(setting.first.name.as_str(), setting.settings());
    // Libraries and files are named in the file of the hub only; a key's text counts from nowhere else.
    let sqlite = format!("sqlite://{}", file.display());
    let library = places::artefact("sqlite/cloudsync.so");
    insert("library", json!({ "url": sqlite, "extension": library }));
    insert("library-of-postgres", json!({ "url": setting.second.url(HUB_ROLE), "extension": library }));
    insert("keys-of-a-file", json!({ "url": "file:///etc/passwd" }));
    insert("store", json!({ "url": setting.second.url(HUB_ROLE), "store": "/tmp" }));
    let known = "a-key-that-is-known-0123456789abcdef01234";
    insert(
        "known",
        json!({ "url": setting.second.url(HUB_ROLE), "api_keys": [{ "key": known, "role": APP_ROLE }] }),
    );
    // Who may make keys may make one for any role, which Postgres then does not let the hub take.
    control.run(&format!(
        "insert into cloudsync_control.keys (key_id, database, hash, role, label)
         values ('by-hand', 'second', sha256('{known}'), '{SUPERUSER}', 'by hand')"
    ));
    let listed = wait::until("all of it was read", || {
        let listed = setting.ask("GET", "/v1/databases", None, 200);
        let broken = listed["broken"].as_array().expect("a list of what is not served");
        (broken.len() >= names.len() + 4).then_some(listed)
    });
    let served: Vec<&str> = listed["databases"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|database| database["name"].as_str())
        .collect();
    assert!(
        served.iter().all(|name| [setting.first.name.as_str(), "second", "known"].contains(name)),
        "{served:?}"
    );
    assert!(!listed.to_string().contains("private-cluster"), "no password is told: {listed}");
    assert_eq!(download_status(&setting.hub, "known", known), 401, "settings hold no keys");
    wait::until("the key by hand is known", || {
        (download_status(&setting.hub, "second", known) != 401).then_some(())
    });
    let intruder = setting.client(&setting.hub, "intruder", known);
    intruder.run("insert into todo values ('root', 'by a superuser', null, 0)");
    let refused = intruder.try_sync();
    assert_eq!(setting.second.session().value("select count(*) from todo"), "0", "{refused:?}");
    // The rest goes on: what the file says is served as it was.
    device.run("insert into todo values ('a', 'by a device', null, 0)");
    wait::until_ok("the device goes on", || device.try_sync());
    assert_eq!(setting.second.session().value("select title from todo"), "by a device");
    let first = Client::open(&setting.home.path().join("first"));
    first.run(TODO.sqlite);
    first.run("select cloudsync_init('todo')");
    first.join(&setting.hub.address(), API_KEY);
    wait::until_ok("the first is served", || first.try_sync());
    assert_eq!(first.rows("select id from todo"), Vec::<String>::new(), "it is the database of the file");
    assert!(!file.exists(), "no file was made");
    let roots: Vec<String> = std::fs::read_dir(setting.hub.store_directory().join("v1"))
        .expect("the store")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    assert!(roots.iter().all(|name| served.contains(&name.as_str())), "{roots:?}");
}

#[test]
fn keys_are_made_listed_and_revoked_from_the_command_line() {
    let setting = Setting::new();
    let first = setting.first.name.as_str();
    let (made, told) =
        setting.hub.command(&["key", "create", "--database", first, "--role", APP_ROLE, "--label", "shell"]);
    assert!(made, "{told}");
    let key = told.lines().next().expect("the key stands on the first line");
    wait::until("the key opens", || (download_status(&setting.hub, first, key) < 300).then_some(()));
    let (listed, list) = setting.hub.command(&["key", "list", "--database", first]);
    assert!(listed && list.contains("shell") && !list.contains(key), "{list}");
    let id = list.lines().nth(1).and_then(|line| line.split('\t').next()).expect("a line for the key");
    let (revoked, told) = setting.hub.command(&["key", "revoke", "--database", first, "--key", id]);
    assert!(revoked, "{told}");
    wait::until("the key opens no more", || (download_status(&setting.hub, first, key) == 401).then_some(()));
    for words in [
        ["key", "revoke", "--database", first, "--key", id].as_slice(),
        &["key", "create", "--database", "nowhere"],
        &["key", "create", "--database", first, "--label"],
    ] {
        let (done, told) = setting.hub.command(words);
        assert!(!done && told.contains("wanted"), "{words:?}: {told}");
    }
}

#[test]
fn without_a_control_database_operators_can_look_but_not_change() {
    let first = Cluster::shared().database("first");
    let hub = Hub::start(&first, StoreKind::Directory);
    let name = first.name.as_str();
    let listed = ask(&hub, "GET", "/v1/databases", None, 200);
    assert_eq!((&listed["control"], &listed["databases"][0]["source"]), (&json!("none"), &json!("file")));
    let keys = format!("/v1/databases/{name}/keys");
    assert_eq!(ask(&hub, "GET", &keys, None, 200)["file_keys"], 1);
    let body = json!({ "name": "x", "settings": { "url": first.url(HUB_ROLE) } });
    for (path, body) in [(keys.as_str(), json!({})), ("/v1/databases", body)] {
        assert_eq!(ask(&hub, "POST", path, Some(body), 409)["code"], "read_only");
    }
    // Neither a key of the database nor none opens what is the operators'.
    assert_eq!(hub.get("/v1/databases").status, 401);
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let asked = config.new_agent().get(format!("{}/v1/databases", hub.base()));
    let answer = asked.header("Authorization", format!("Bearer {API_KEY}")).call().expect("the hub answers");
    assert_eq!(answer.status().as_u16(), 401);
}
