//! The library in every kind of program that loads it: each creates two files, tracks a table, writes, moves a
//! payload from one to the other, syncs both at a hub and closes.

#[path = "../../sqlite_sync/tests/support/hub.rs"]
mod hub;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Output};

use hub::Hub;
use tests::places;

/// What a host prints after the version of its SQLite.
const PLAYED: [&str; 3] = ["2", "1:changed,2:two", "closed"];

fn library() -> OsString {
    places::artefact("sqlite/cloudsync.so").into_os_string()
}

fn host(name: &str) -> PathBuf {
    places::workspace().join("tests/hosts").join(name)
}

fn play(program: PathBuf, first: &[OsString]) -> Output {
    let dir = places::scratch("host");
    Command::new(&program)
        .args(first)
        .arg(dir.path().join("a.db"))
        .arg(dir.path().join("b.db"))
        .arg(Hub::default().serve())
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()))
}

/// Plays the scenario; checks what the host prints, and that its SQLite is the one meant.
fn check(program: PathBuf, first: &[OsString], version: &str) {
    let output = play(program, first);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {printed}{complaint}", output.status);
    let lines: Vec<&str> = printed.lines().collect();
    let (found, played) = lines.split_first().expect("a host prints its version");
    assert!(found.starts_with(version), "SQLite {found}, wanted {version}");
    assert_eq!(played, PLAYED, "{complaint}");
}

/// Compiles the program in C with a SQLite of its own.
fn compile(version: &str, more: &[OsString]) -> (PathBuf, tempfile::TempDir) {
    let dir = places::scratch("compile");
    let program = dir.path().join("host");
    let sqlite = places::tool("hosts").join(format!("sqlite-{version}"));
    let output = Command::new("cc")
        .arg("-I")
        .arg(&sqlite)
        .arg("-o")
        .arg(&program)
        .arg(host("host.c"))
        .args(more)
        .arg(sqlite.join("sqlite3.o"))
        .args(["-lm", "-ldl", "-lpthread"])
        .output()
        .expect("the C compiler can be started");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    (program, dir)
}

#[test]
fn the_oldest_sqlite_that_we_take_loads_it() {
    let (program, _dir) = compile("3.35.4", &[]);
    check(program, &[library()], "3.35.4");
}

#[test]
fn an_older_sqlite_gets_an_error_that_says_what_is_wanted() {
    for (version, number) in [("3.33.0", "3033000"), ("3.17.0", "3017000")] {
        let (program, _dir) = compile(version, &[]);
        let output = play(program, &[library()]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        let wanted = format!("cloudsync: SQLite of the host is {number}, wanted 3035000 (3.35.0) or newer");
        assert!(complaint.contains(&wanted) && !complaint.contains("busy"), "{complaint}");
    }
}

#[test]
fn a_program_in_c_links_it_statically() {
    let archive = places::tool("hosts/libcloudsync.a");
    let (program, _dir) = compile("3.35.4", &["-DSTATIC".into(), archive.into()]);
    check(program, &["linked".into()], "3.35.4");
}

#[test]
fn the_sqlite3_shell_loads_it() {
    let dir = places::scratch("shell");
    let library = library().into_string().expect("the path is text");
    let url = Hub::default().serve();
    let payload = dir.path().join("payload").display().to_string();
    let shell = |file: &str, sql: &str| {
        let setting = format!("select cloudsync_network_init('{url}') is null;");
        let output = Command::new("sqlite3")
            .args(["-batch", "-bail"])
            .arg(dir.path().join(file))
            .args([format!(".load {library}"), setting, sql.to_owned()])
            .output()
            .expect("the sqlite3 shell can be started");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaint.is_empty(), "sqlite3: {complaint}\nin: {sql}");
        String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
    };
    let table = "create table notes (id text primary key not null, text text);
        select cloudsync_init('notes');";
    let write = format!(
        "{table} insert into notes values ('1', 'one'), ('2', 'two');
         select writefile('{payload}', cloudsync_payload_encode()) > 0;"
    );
    assert_eq!(shell("a.db", &write), "1");
    let apply = format!("{table} select cloudsync_payload_apply(readfile('{payload}'));");
    assert_eq!(shell("b.db", &apply), PLAYED[0]);
    shell("a.db", "select cloudsync_network_sync();");
    shell("b.db", "update notes set text = 'changed' where id = '1'; select cloudsync_network_sync();");
    let all = "select cloudsync_network_sync();
        select group_concat(id || ':' || text) from (select * from notes order by id);";
    assert_eq!(shell("a.db", all), PLAYED[1]);
}

#[test]
fn python_loads_it() {
    let python = PathBuf::from("/usr/bin/python3");
    check(python, &[host("host.py").into(), "sqlite3".into(), library()], "3.");
}

#[test]
fn apsw_loads_it() {
    let python = places::tool("hosts").join("apsw/bin/python");
    check(python, &[host("host.py").into(), "apsw".into(), library()], "3.54");
}

#[test]
fn better_sqlite3_loads_it() {
    let module = places::tool("hosts").join("node/node_modules/better-sqlite3");
    check(PathBuf::from("node"), &[host("host.js").into(), module.into(), library()], "3.");
}
