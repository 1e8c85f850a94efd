//! Postgres clusters of their own: the server's programs in a private tree with our extension in it.
//!
//! Postgres finds its libraries and extensions relative to its own binary, so copies of the binaries beside
//! links to everything else make a server that takes the extension from `dist/` without touching the system.

mod copies;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use tempfile::TempDir;

use crate::places;
use crate::process::{Launch, Process, Signal, new_log};
use crate::sql::Session;
use crate::wait;

pub use copies::{Backup, Recovery};

/// Password of every role of a private cluster: connections are checked with SCRAM, as in production.
pub const PASSWORD: &str = "private-cluster";

/// The superuser of a private cluster.
pub const SUPERUSER: &str = "postgres";

/// The login role of the hub: it may replicate and may become `app`, and is no superuser.
pub const HUB_ROLE: &str = "cloudsync";

/// The role that uploads are applied as.
pub const APP_ROLE: &str = "app";

/// Whether commits wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// They do, as in production: for figures.
    Real,
    /// They do not: the machine does not crash under a test, only processes do.
    ProcessOnly,
}

/// One Postgres server with its data, in a directory of its own.
#[derive(Debug)]
pub struct Cluster {
    // Before the directory, so that the server is gone before its directory is.
    process: Mutex<Option<Process>>,
    home: TempDir,
    port: u16,
    databases: AtomicU32,
}

/// The centre: one database of a cluster, or a SQLite file.
#[derive(Clone, Debug)]
pub struct Database {
    /// The name in Postgres, also the name in the hub's URLs.
    pub name: String,
    place: Place,
}

/// Where a centre is.
#[derive(Clone, Debug)]
enum Place {
    /// At a server that listens on this port.
    Server(u16),
    /// In a file.
    File(PathBuf),
}

impl Cluster {
    /// Returns the cluster that the tests of one binary share; the end of the process ends it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Durability::ProcessOnly))
    }

    /// Makes and starts a new cluster.
    pub fn start(durability: Durability) -> Self {
        let home = places::scratch("postgres");
        let tree = Tree::lay(&home.path().join("tree"));
        let port = places::free_port();
        let data = home.path().join("data");
        fs::create_dir(&data).expect("a data directory can be made");
        if let Some((uid, gid)) = other_user() {
            chown(&data, Some(uid), Some(gid)).expect("root can give a directory away");
        }
        let password_file = home.path().join("password");
        fs::write(&password_file, PASSWORD).expect("a password file can be written");
        let mut initdb = as_server_user(&tree.program("initdb"));
        initdb.extend(
            ["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
                .map(OsString::from),
        );
        initdb.extend(["--no-sync".into(), "--pwfile".into(), password_file.into(), data.clone().into()]);
        run(&initdb);
        configure(&tree, &data, port, durability);
        let cluster = Self { home, port, process: Mutex::new(None), databases: AtomicU32::new(0) };
        new_log(&cluster.log());
        cluster.start_server();
        cluster.session(SUPERUSER, "postgres").run(&format!(
            "create role {HUB_ROLE} login noinherit replication password '{PASSWORD}';
             create role {APP_ROLE} login password '{PASSWORD}';
             grant {APP_ROLE} to {HUB_ROLE};"
        ));
        cluster
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("postgres.log")
    }

    fn start_server(&self) {
        let tree = Tree::at(&self.home.path().join("tree"));
        let mut command = as_server_user(&tree.program("postgres"));
        command.extend(["-D".into(), self.home.path().join("data").into()]);
        let log = self.log();
        let process = Process::start(Launch {
            command,
            environment: Vec::new(),
            log: &log,
            stop: Signal::Quit,
            directory: Some(self.home.path()),
        });
        wait::until("Postgres accepts connections", || {
            assert!(process.is_running(), "Postgres ended at once:\n{}", process.log_tail(20));
            Session::try_connect(&self.url(SUPERUSER, "postgres")).ok()
        });
        *self.process.lock().expect("no test panics while it holds this") = Some(process);
    }

    /// Ends the server with a signal, and returns when it is gone.
    pub fn stop(&self, signal: Signal) {
        let mut process = self.process.lock().expect("no test panics while it holds this");
        let process = process.take().expect("the server runs");
        process.signal(signal);
        process.wait_until_ended();
    }

    /// Starts the server again on its data.
    pub fn start_again(&self) {
        // Backends that outlive a killed postmaster hold the shared memory until they notice.
        let pid_file = self.home.path().join("data/postmaster.pid");
        let socket_gone = || std::net::TcpListener::bind(("127.0.0.1", self.port)).is_ok();
        wait::until("the old server's port is free", || socket_gone().then_some(()));
        if pid_file.exists() {
            self.wait_for_orphans();
        }
        self.start_server();
    }

    fn wait_for_orphans(&self) {
        let data = self.home.path().join("data");
        wait::until("the backends of the killed server have ended", || {
            let mut processes = fs::read_dir("/proc").expect("/proc can be read").flatten();
            let alive =
                processes.any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data));
            (!alive).then_some(())
        });
    }

    /// Makes a database with the extension in it, ready for a hub.
    pub fn database(&self, name: &str) -> Database {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = if number == 0 { name.to_owned() } else { format!("{name}_{number}") };
        let database = Database { name, place: Place::Server(self.port) };
        let create = format!("create database {} template template0", database.name);
        self.session(SUPERUSER, "postgres").run(&create);
        database.session().run(&format!(
            "create extension pg_sync;
             select cloudsync_grant_hub('{HUB_ROLE}');
             grant usage, create on schema public to {APP_ROLE};
             alter default privileges in schema public
                grant select, insert, update, delete on tables to {APP_ROLE};"
        ));
        database
    }

    /// Returns the end of the server's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn session(&self, role: &str, database: &str) -> Session {
        Session::connect(&self.url(role, database))
    }

    fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Leaves the server running when this program ends; returns its pid and its directory.
    pub fn leave_running(self) -> (u32, PathBuf) {
        let process = self.process.lock().expect("no test panics while it holds this").take();
        let pid = process.expect("the server runs").leave_running();
        (pid, self.home.keep())
    }
}

impl Database {
    /// A SQLite file in place of a Postgres database.
    pub fn in_file(path: &Path) -> Self {
        Self { name: "demo".to_owned(), place: Place::File(path.to_path_buf()) }
    }

    /// Returns the file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::Server(_) => None,
        }
    }

    /// Returns the URL of this database for a role.
    pub fn url(&self, role: &str) -> String {
        match &self.place {
            Place::Server(port) => format!("postgres://{role}:{PASSWORD}@127.0.0.1:{port}/{}", self.name),
            Place::File(path) => format!("sqlite://{}", path.display()),
        }
    }

    /// Opens a session as the superuser, or with the file.
    pub fn session(&self) -> Session {
        match &self.place {
            Place::Server(_) => Session::connect(&self.url(SUPERUSER)),
            Place::File(path) => Session::open(path),
        }
    }

    /// Opens a session as a role.
    pub fn session_as(&self, role: &str) -> Session {
        Session::connect(&self.url(role))
    }

    /// Runs a script by psql, as a person would, and returns what it prints, unaligned.
    pub fn psql(&self, script: &str) -> String {
        let output = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", script, &self.url(SUPERUSER)])
            .output()
            .expect("psql can be started");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "psql: {complaint}\nin: {script}");
        String::from_utf8(output.stdout).expect("psql prints UTF-8")
    }
}

/// A server's programs and files in a private place.
struct Tree {
    root: PathBuf,
    bin: PathBuf,
}

impl Tree {
    fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf(), bin: below(root, &pg_config("--bindir")) }
    }

    fn lay(root: &Path) -> Self {
        let tree = Self::at(root);
        let library_dir = pg_config("--pkglibdir");
        let share_dir = pg_config("--sharedir");
        fs::create_dir_all(&tree.bin).expect("a directory can be made");
        for program in ["postgres", "initdb"] {
            let source = pg_config("--bindir").join(program);
            fs::copy(&source, tree.program(program))
                .unwrap_or_else(|error| panic!("cannot copy {}: {error}", source.display()));
        }
        link_entries(&library_dir, &below(root, &library_dir));
        link_entries(&share_dir, &below(root, &share_dir));
        let extension_dir = below(root, &share_dir).join("extension");
        fs::remove_file(&extension_dir).expect("the link was just made");
        link_entries(&share_dir.join("extension"), &extension_dir);
        let built = places::artefact(&format!("postgres/{}", major()));
        copy_over(&built.join("lib"), &below(root, &library_dir));
        copy_over(&built.join("extension"), &extension_dir);
        tree
    }

    fn program(&self, name: &str) -> PathBuf {
        debug_assert!(self.bin.starts_with(&self.root), "the programs lie in the tree");
        self.bin.join(name)
    }
}

/// Moves an absolute path below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").expect("pg_config prints absolute paths"))
}

fn link_entries(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())).flatten() {
        symlink(entry.path(), to.join(entry.file_name())).expect("a link can be made");
    }
}

/// Copies files into a directory, in place of links that stand there.
fn copy_over(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())).flatten() {
        let target = to.join(entry.file_name());
        if target.symlink_metadata().is_ok() {
            fs::remove_file(&target).expect("own link can be removed");
        }
        fs::copy(entry.path(), &target).expect("an artefact can be copied");
    }
}

/// Returns the major version under test: `PG_MAJOR`, else the newest that `make dist` built for.
fn major() -> u32 {
    if let Some(major) = std::env::var("PG_MAJOR").ok().filter(|major| !major.is_empty()) {
        return major.parse().expect("PG_MAJOR is a number");
    }
    fs::read_dir(places::artefact("postgres"))
        .expect("dist/postgres can be read")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .max()
        .expect("dist/postgres holds a major version: run `make dist`")
}

fn pg_config(what: &str) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{}/bin/pg_config", major()));
    let program = if debian.exists() { debian } else { PathBuf::from("pg_config") };
    let output = Command::new(&program)
        .arg(what)
        .output()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
    PathBuf::from(String::from_utf8(output.stdout).expect("pg_config prints UTF-8").trim())
}

/// Returns the user and group that run the server, when that is not the user who runs the tests.
///
/// Postgres refuses to run as root.
fn other_user() -> Option<(u32, u32)> {
    let own_uid = fs::metadata("/proc/self").expect("/proc is mounted").uid();
    (own_uid == 0).then(|| {
        let users = fs::read_to_string("/etc/passwd").expect("the users can be read");
        let entry = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|entry| entry.first() == Some(&SUPERUSER))
            .expect("the package of Postgres makes a user `postgres`");
        (entry[2].parse().expect("a uid"), entry[3].parse().expect("a gid"))
    })
}

/// Starts a command line that runs a program as the user who may run Postgres.
fn as_server_user(program: &Path) -> Vec<OsString> {
    let mut command: Vec<OsString> = Vec::new();
    if other_user().is_some() {
        let switch = ["setpriv", "--reuid", SUPERUSER, "--regid", SUPERUSER, "--init-groups", "--"];
        command.extend(switch.map(OsString::from));
    }
    command.push(program.into());
    command
}

fn run(command: &[OsString]) {
    let output = Command::new(&command[0])
        .args(&command[1..])
        .current_dir("/")
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
}

fn configure(tree: &Tree, data: &Path, port: u16, durability: Durability) {
    let path = data.join("postgresql.conf");
    let mut settings = fs::read_to_string(&path).expect("initdb writes the settings");
    // A time zone of its own and a foreign style of dates show text that was not meant for machines.
    settings.push_str(&format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
         wal_level = logical\nmax_wal_senders = 60\nmax_replication_slots = 200\nmax_connections = 200\n\
         timezone = 'America/St_Johns'\ndatestyle = 'German, DMY'\nintervalstyle = 'sql_standard'\n"
    ));
    if durability == Durability::ProcessOnly {
        settings.push_str("fsync = off\n");
    }
    // Servers since 15.19 load only listed plugins; older ones do not know the setting and would not start.
    let mut probe = as_server_user(&tree.program("postgres"));
    probe.extend(["-D".into(), data.into(), "-C".into(), "output_plugin_libraries".into()]);
    let known = Command::new(&probe[0]).args(&probe[1..]).current_dir("/").output();
    if known.expect("Postgres can be started").status.success() {
        settings.push_str("output_plugin_libraries = 'pgoutput, test_decoding, pg_sync'\n");
    }
    fs::write(&path, settings).expect("the settings can be written");
}
