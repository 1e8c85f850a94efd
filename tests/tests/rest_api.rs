//! Every request of the description, tried by schemathesis with what it makes up and with what is real: no answer is a
//! failure of the hub, and none is one that the description does not have.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::client::Client;
use tests::hub::{ADMIN_KEY, API_KEY, Hub};
use tests::object_store::{ObjectStore, StoreKind};
use tests::places;
use tests::postgres::{APP_ROLE, Cluster, Database, HUB_ROLE, SUPERUSER};
use tests::stage::TODO;

/// Dead jobs that are there to be revived and forgotten: more than requests that do so.
const DEAD_JOBS: u32 = 500;

/// The hooks of schemathesis call as a proxy does.
const PROXY: &str = "trusted_proxies = [\"127.0.0.1\"]\n";

/// Each operation is tried as it should be used and as it should not.
const EXAMPLES: &str = "30";

fn tracked(name: &str) -> Database {
    let database = Cluster::shared().database(name);
    database.session().run(TODO.postgres);
    database.session().run("select cloudsync_init('todo')");
    database
}

/// What a device would send as its first upload.
fn upload(home: &tempfile::TempDir) -> Value {
    let device = Client::open(&home.path().join("device"));
    device.run(TODO.sqlite);
    device.run("select cloudsync_init('todo')");
    device.run("insert into todo values ('a', 'by a device', null, 0)");
    let body = STANDARD.encode(device.bytes("select cloudsync_payload_encode(0)"));
    let last = device.value("select cloudsync_db_version()");
    let site = device.value("select lower(hex(cloudsync_siteid()))");
    json!({
        "headers": {
            "Cloudsync-Site": site,
            "Cloudsync-Upload": site,
            "Cloudsync-Range": format!("1-{last}"),
            "Cloudsync-Db-Version": last,
        },
        "body": body,
    })
}

/// Writes the configuration of schemathesis; returns where it is.
fn configure(home: &tempfile::TempDir, database: &str) -> PathBuf {
    let hooks = places::workspace().join("tests/scripts/rest_api_hooks.py");
    let hooks = hooks.display();
    let mut text = format!(
        "hooks = \"{hooks}\"\n[auth.openapi]\noperator = {{ bearer = \"{ADMIN_KEY}\" }}\n\
         key = {{ bearer = \"{API_KEY}\" }}\nmonitoring = {{ bearer = \"{ADMIN_KEY}\" }}\n\
         [parameters]\n\"path.database\" = \"{database}\"\n"
    );
    for (operation, name) in [("replaceDatabase", "replaced"), ("deleteDatabase", "deleted")] {
        text.push_str(&format!(
            "[[operations]]\ninclude-operation-id = \"{operation}\"\nparameters = {{ \"path.database\" = \"{name}\" }}\n"
        ));
    }
    // A database whose settings were made up cannot be reached, and that is told.
    text.push_str(
        "[[operations]]\ninclude-operation-id = \"ready\"\n\
         checks = { not_a_server_error = { expected-statuses = [\"200\", \"4xx\", \"503\"] } }\n",
    );
    let path = home.path().join("schemathesis.toml");
    fs::write(&path, text).expect("a file can be written");
    path
}

/// Lets schemathesis try requests of a hub; returns which answers it saw, by request.
fn tried(hub: &Hub, database: &Database, further: &Database, only: &[&str]) -> BTreeMap<String, Vec<u16>> {
    let home = places::scratch("rest-api");
    let real = json!({
        "base": hub.base(),
        "admin_key": ADMIN_KEY,
        "database": database.name,
        "role": APP_ROLE,
        "settings": { "url": further.url(HUB_ROLE) },
        "upload": upload(&home),
    });
    let (real_path, seen) = (home.path().join("real.json"), home.path().join("seen.json"));
    fs::write(&real_path, real.to_string()).expect("a file can be written");
    let output = std::process::Command::new(places::tool("schemathesis/bin/schemathesis"))
        .arg("--config-file")
        .arg(configure(&home, &database.name))
        .args(["run", &format!("{}/openapi.json", hub.base())])
        .args(only)
        // A description cannot say which names there are.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--phases", "coverage,fuzzing", "--max-examples", EXAMPLES, "--seed", "1", "--no-color"])
        .env("CLOUDSYNC_REAL", &real_path)
        .env("CLOUDSYNC_SEEN", &seen)
        .current_dir(home.path())
        .output()
        .expect("schemathesis can be started");
    let (told, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complaint}\n{}", hub.log_tail(20));
    let seen = fs::read_to_string(seen).expect("the hooks tell what they saw");
    serde_json::from_str(&seen).expect("it is JSON")
}

/// The requests of the description, each with the answers that are no problem.
fn described(hub: &Hub) -> BTreeMap<String, Vec<u16>> {
    let document: Value = serde_json::from_str(&hub.get("/openapi.json").body).expect("the document is JSON");
    let mut described = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let answers = operation["responses"].as_object().expect("answers").keys();
            let answers = answers.filter_map(|status| status.parse().ok()).filter(|status| *status < 400);
            described.insert(format!("{} {path}", method.to_uppercase()), answers.collect());
        }
    }
    described
}

#[test]
fn every_request_keeps_to_its_description_whatever_is_sent() {
    let (database, further) = (tracked("tried"), tracked("further"));
    let control = Cluster::shared().database("control");
    let mut hub = Hub::new(&database, ObjectStore::new(StoreKind::Directory));
    hub.configure(&database, &format!("{PROXY}control = \"{}\"", control.url(SUPERUSER)), "");
    hub.start_again();
    database.session().run(&format!(
        "select cloudsync.bury_job('of a test', n::text, 'test', '{{}}', 'it cannot be done')
         from generate_series(1, {DEAD_JOBS}) as n"
    ));
    let seen = tried(&hub, &database, &further, &[]);
    for (request, answers) in &seen {
        assert!(!answers.contains(&429), "{request} was not looked at: {seen:?}");
    }
    // With its database there an upload is not kept for later, and with its store in a directory nobody is sent there.
    // The document itself is where all the others come from.
    let not_here = [
        ("POST /v1/databases/{database}/uploads", 202),
        ("GET /v1/databases/{database}/changes", 307),
        ("GET /openapi.json", 200),
    ];
    for (request, answers) in described(&hub) {
        for answer in answers.into_iter().filter(|answer| !not_here.contains(&(request.as_str(), *answer))) {
            let found = seen.get(&request).is_some_and(|found| found.contains(&answer));
            assert!(found, "{request} was never answered by {answer}: {seen:?}");
        }
    }
}

#[test]
fn requests_about_a_central_file_keep_to_their_description_too() {
    let home = places::scratch("rest-api-file");
    let file = Database::in_file(&home.path().join("central.sqlite"));
    file.session().run(TODO.sqlite);
    file.session().run("select cloudsync_init('todo', 'cls', 1)");
    let mut hub = Hub::new(&file, ObjectStore::new(StoreKind::Directory));
    hub.configure(&file, PROXY, "");
    hub.start_again();
    let seen = tried(&hub, &file, &file, &["--include-tag", "sync", "--include-tag", "reports"]);
    for request in ["POST /v1/databases/{database}/uploads", "POST /v1/databases/{database}/chunks"] {
        assert!(seen[request].contains(&200), "{request}: {seen:?}");
    }
}
