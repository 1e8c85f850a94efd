//! The hub of `make dist` as a process of its own, with a configuration that a person could have written.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::object_store::{ObjectStore, StoreKind};
use crate::places;
use crate::postgres::{APP_ROLE, Database, HUB_ROLE};
use crate::process::{Launch, Process, Signal, new_log};
use crate::wait;

/// The API key that the hubs of the tests take, with the role `app`.
pub const API_KEY: &str = "key-for-tests-0123456789abcdef0123456789";

/// The key of the operator of the hubs of the tests.
pub const ADMIN_KEY: &str = "operator-of-tests-0123456789abcdef0123456789";

/// A hub for one database, its configuration and its store.
#[derive(Debug)]
pub struct Hub {
    process: Option<Process>,
    home: TempDir,
    port: u16,
    database: String,
    store: ObjectStore,
    /// What the configuration holds besides: keys of the whole, and keys and tables of the database.
    more: (String, String),
    environment: Vec<(OsString, OsString)>,
}

/// The answer to a plain HTTP request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Hub {
    /// Starts a hub for a database on an empty store, and waits until it is ready.
    pub fn start(database: &Database, store: StoreKind) -> Self {
        let mut hub = Self::new(database, ObjectStore::new(store));
        hub.start_again();
        hub
    }

    /// Writes the configuration of a hub without starting it.
    pub fn new(database: &Database, store: ObjectStore) -> Self {
        let home = places::scratch("hub");
        new_log(&home.path().join("hub.log"));
        let port = places::free_port();
        let more = (String::new(), String::new());
        let hub = Self {
            process: None,
            home,
            port,
            database: database.name.clone(),
            store,
            more,
            environment: Vec::new(),
        };
        hub.point_at(database);
        hub
    }

    /// Adds lines to the configuration: to the whole, and to the database. They count from the next start on.
    pub fn configure(&mut self, database: &Database, whole: &str, of_database: &str) {
        self.more = (whole.to_owned(), of_database.to_owned());
        self.point_at(database);
    }

    /// Sets an environment variable from the next start on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// Writes the configuration for a database, which clients go on calling by the name of the first.
    pub fn point_at(&self, database: &Database) {
        let extension = database.file().map_or_else(String::new, |_file| {
            format!("extension = \"{}\"\n", places::artefact("sqlite/cloudsync.so").display())
        });
        let configuration = format!(
            "listen = \"127.0.0.1:{}\"\nstore = \"{}\"\nadmin_keys = [\"{ADMIN_KEY}\"]\n{}\n\n[[database]]\nname = \"{}\"\nurl = \"{}\"\n{extension}\
             api_keys = [{{ key = \"{API_KEY}\", role = \"{APP_ROLE}\" }}]\n{}\n",
            self.port,
            self.store.url,
            self.more.0,
            self.database,
            database.url(HUB_ROLE),
            self.more.1
        );
        fs::write(self.home.path().join("hub.toml"), configuration).expect("a configuration can be written");
    }

    /// Makes another hub on the same store, not started yet.
    #[must_use]
    pub fn beside(&self, database: &Database) -> Self {
        Self::new(database, self.store.shared())
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("hub.log")
    }

    /// Returns the directory that the hub keeps its objects in.
    pub fn store_directory(&self) -> &Path {
        self.store.directory.as_ref().expect("the store is a directory").path()
    }

    /// Sets an environment variable for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.store.environment.push((name.into(), value.into()));
    }

    /// Returns the memory that the process has now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let pid = self.process.as_ref().expect("the hub runs").pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status can be read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the size is told");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("the size is a number");
        kib * 1_024
    }

    /// Starts the process without waiting for anything.
    pub fn launch(&mut self) {
        let command: Vec<OsString> = vec![
            places::artefact("bin/hub").into(),
            "serve".into(),
            "--config".into(),
            self.home.path().join("hub.toml").into(),
        ];
        let log = self.log();
        self.process = Some(Process::start(Launch {
            command,
            environment: [self.store.environment.clone(), self.environment.clone()].concat(),
            log: &log,
            stop: Signal::Kill,
            directory: None,
        }));
    }

    /// Starts the process, again with the same configuration and store, and waits until it is ready.
    pub fn start_again(&mut self) {
        self.launch();
        self.wait_until_ready();
    }

    /// Waits until the hub says that it is ready.
    pub fn wait_until_ready(&self) {
        wait::until("the hub is ready", || {
            let process = self.process.as_ref().expect("the hub was started");
            assert!(process.is_running(), "the hub ended:\n{}", process.log_tail(30));
            self.try_get("/readyz").filter(|answer| answer.status == 200)
        });
    }

    /// Ends the process by a signal and waits until it is gone.
    pub fn stop(&mut self, signal: Signal) {
        let process = self.process.take().expect("the hub runs");
        process.signal(signal);
        process.wait_until_ended();
    }

    /// Sends a signal to the process, which may go on afterwards.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("the hub runs").signal(signal);
    }

    /// Tells whether the hub leads its database.
    pub fn is_leading(&self) -> bool {
        let Some(answer) = self.try_get("/readyz") else { return false };
        let status: serde_json::Value = serde_json::from_str(&answer.body).expect("the status is JSON");
        status["databases"][0]["feed"]["leader"] == true
    }

    /// Tells whether the process runs.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Returns the process's id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the hub runs").pid()
    }

    /// Returns the address that clients are given.
    pub fn address(&self) -> String {
        format!("{}/{}", self.base(), self.database)
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns where it keeps its objects, as its configuration has it.
    pub fn store_url(&self) -> &str {
        &self.store.url
    }

    /// Returns the hub's address without a database.
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks the hub something by plain HTTP; `None` when it does not answer.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let mut answer = config.new_agent().get(format!("{}{path}", self.base())).call().ok()?;
        let body = answer.body_mut().read_to_string().ok()?;
        Some(Answer { status: answer.status().as_u16(), body })
    }

    /// Asks the hub something about the database by plain HTTP, showing a key or token, as if from an address.
    pub fn ask_as(&self, credential: &str, address: &str, path: &str) -> Answer {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let url = format!("{}/v1/databases/{}{path}", self.base(), self.database);
        let request = config.new_agent().get(url).header("Authorization", format!("Bearer {credential}"));
        let request = request.header("X-Forwarded-For", address);
        let mut answer = request.call().expect("the hub answers");
        let body = answer.body_mut().read_to_string().expect("it is text");
        Answer { status: answer.status().as_u16(), body }
    }

    /// Asks as a site that shows a key or token; returns the body, whatever the answer is.
    pub fn ask_of_site(&self, credential: &str, site: &str, path: &str) -> Vec<u8> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let url = format!("{}/v1/databases/{}{path}", self.base(), self.database);
        let request = config.new_agent().get(url).header("Authorization", format!("Bearer {credential}"));
        let mut answer = request.header("Cloudsync-Site", site).call().expect("the hub answers");
        answer.body_mut().read_to_vec().expect("it has a body")
    }

    /// Asks as the operator; `body` is sent as JSON if there is one.
    pub fn ask_as_operator(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base()))
            .header("Authorization", format!("Bearer {ADMIN_KEY}"))
            .header("Content-Type", "application/json")
            .body(body.unwrap_or_default().to_owned())
            .expect("a request is in order");
        let agent = config.new_agent();
        let mut answer = agent.run(request).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let body = answer.body_mut().read_to_string().expect("an answer is text");
        Answer { status: answer.status().as_u16(), body }
    }

    /// Runs another command of the program on the configuration; returns whether it succeeded, and what it printed.
    pub fn command(&self, words: &[&str]) -> (bool, String) {
        let output = std::process::Command::new(places::artefact("bin/hub"))
            .args(words)
            .arg("--config")
            .arg(self.home.path().join("hub.toml"))
            .envs(self.store.environment.iter().map(|(name, text)| (name, text)))
            .output()
            .expect("the hub can be started");
        let printed = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(printed).expect("the hub prints text"))
    }

    /// Asks the hub something by plain HTTP.
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|| panic!("the hub does not answer on {path}"))
    }

    /// Returns a metric, summed over its labels; a metric that the hub does not have is an error.
    pub fn metric(&self, name: &str) -> f64 {
        self.try_metric(name).unwrap_or_else(|text| panic!("the hub has no metric {name}:\n{text}"))
    }

    /// The same; what the hub says in its place is given back.
    pub fn try_metric(&self, name: &str) -> Result<f64, String> {
        let text = self.get("/metrics").body;
        let values: Vec<f64> = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(['{', ' '])?.rsplit(['}', ' ']).next())
            .filter_map(|value| value.parse().ok())
            .collect();
        if values.is_empty() { Err(text) } else { Ok(values.iter().sum()) }
    }

    /// Returns the end of the hub's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Returns the whole log of the hub, over all its starts.
    pub fn whole_log(&self) -> String {
        fs::read_to_string(self.log()).expect("the log can be read")
    }

    /// Leaves the process running when this program ends; returns its pid and its directories.
    pub fn leave_running(mut self) -> (u32, Vec<PathBuf>) {
        let pid = self.process.take().expect("the hub runs").leave_running();
        let directories = self.store.directory.into_iter().chain([self.home]);
        (pid, directories.map(TempDir::keep).collect())
    }
}
