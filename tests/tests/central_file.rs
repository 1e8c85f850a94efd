//! A SQLite file as the centre: what is not the same as with Postgres, and what scenarios of both do not show.
//!
//! The scenarios of the other files play on both kinds of centre, but for these:
//!
//! - `values`: what Postgres makes of values of its own types (uuid, timestamptz, jsonb, numeric);
//! - `schema_change`, `reloads`: TRUNCATE, and commands that change the type of a column or compute it anew;
//! - `identity`, `refusals`, `scopes`: roles and row-level security, which a file has not;
//! - of `tokens` and `security`, what policies of Postgres say, and how many files a process may have open; of
//!   `bad_lines`, what fetches from S3 look like; of `attacks`, the inbox: a file is never away;
//! - `bad_input`: what a Postgres function answers to a damaged payload and to a table without a key, where a client
//!   is asked the same as a file would be;
//! - `restarts`, `heal`, `standbys`: a server that restarts, its slot, its standbys; `inbox` and the upload of `horizon`
//!   that waits: a server that is away. What a file has of that is below;
//! - `concurrent_edits`: two transactions that write at once, of which a file allows one; its race is another test;
//! - `jobs`, `nodes`: a queue for several nodes, and several nodes, where one hub serves a file; its jobs are below;
//! - `admin`, `dashboard`: databases and keys that come and go, and slots and jobs as operators see them in Postgres;
//! - `broken_messages`, `postgres_side`, `engines_agree`, `memory`: messages, statements and memory of Postgres itself;
//! - `restarts` and `snapshots` on S3, `object_stores`: the store knows nothing of the centre, and `stores` plays on both
//!   on every store; of `fairness`, rows that are brought back after a failover.

use std::fs;
use std::path::{Path, PathBuf};

use tests::client::sqlite3_shell;
use tests::process::Signal;
use tests::sql::Session;
use tests::stage::{Centre, Setting, Stage, TODO};
use tests::wait;

const FILE: Setting<'_> = Setting { centre: Centre::SqliteFile, ..Setting::PLAIN };

fn file(stage: &Stage) -> PathBuf {
    stage.database.file().expect("the centre is a file").to_path_buf()
}

#[test]
fn what_the_plain_shell_writes_reaches_a_client_that_waits() {
    let mut stage = Stage::new(FILE);
    stage.play(&["a: sync", "all: settle"]);
    sqlite3_shell(
        &file(&stage),
        "insert into todo values ('s', 'by the shell', null, 1);
         begin; insert into todo values ('ghost', 'never', null, 0); rollback;",
    );
    let client = stage.client("a");
    wait::until("the client sees the row", || {
        client.sync_waiting(2_000);
        (client.value("select count(*) from todo") == "1").then_some(())
    });
    stage.settles_at(&["s|by the shell|NULL|1"]);
}

#[test]
fn what_is_written_while_no_hub_runs_is_passed_on_when_it_is_back() {
    let mut stage = Stage::new(FILE);
    stage.play(&[
        "a: insert into todo values ('t', 'of a', null, 0)",
        "a: sync",
        "b: sync",
        "all: settle",
        "hub: kill",
        "pg: update todo set note = 'meanwhile'; insert into todo values ('u', 'new', null, 0)",
        "a: update todo set done = 5",
        "a: sync fails",
        "hub: start",
        "a: sync",
    ]);
    stage.settles_at(&["t|of a|meanwhile|5", "u|new|NULL|0"]);
}

#[test]
fn rows_that_were_there_before_and_a_table_tracked_later_reach_clients() {
    let mut stage = Stage::new(Setting { tables: &[], ..FILE });
    stage.postgres.run(TODO.sqlite);
    stage.postgres.run(
        "with recursive n (n) as (values (1) union all select n + 1 from n where n < 3000)
         insert into todo select 'k' || n, 'old', null, n from n",
    );
    stage.track(TODO);
    stage.play(&[
        "a: sync",
        "a: update todo set note = 'edited' where id = 'k1'",
        "pg: delete from todo where id = 'k2'",
    ]);
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("a").value("select count(*), count(note) from todo"), "2999|1");
}

#[test]
fn a_refused_row_is_kept_on_its_device_and_passes_when_it_is_mended() {
    let mut stage = Stage::new(FILE);
    stage.play(&[
        "pg: create trigger few before insert on todo when new.done > 9
             begin select raise(abort, 'too many'); end",
        "a: insert into todo values ('k1', 'fine', null, 1), ('k2', 'refused', 'note', 99)",
    ]);
    let answer = stage.client("a").sync();
    assert!(answer.contains("\"rejected\":1"), "the answer counts it: {answer}");
    assert_eq!(
        stage.client("a").rows("select tbl, key, sqlstate from cloudsync_rejected"),
        ["todo|[\"k2\"]|P0001"]
    );
    assert_eq!(stage.postgres.rows("select id from todo"), ["k1"]);
    stage.play(&["b: sync", "a: update todo set done = 9 where id = 'k2'", "a: sync"]);
    stage.settles_at(&["k1|fine|NULL|1", "k2|refused|note|9"]);
}

#[test]
fn a_second_hub_is_kept_out_and_takes_over_when_the_first_is_gone() {
    let mut stage = Stage::new(FILE);
    stage.play(&["a: insert into todo values ('t', 'first', null, 0)", "a: sync"]);
    let mut second = stage.hub.beside(&stage.database);
    second.launch();
    wait::until("the second hub says who has the file", || {
        let answer = second.try_get("/readyz")?;
        answer.body.contains("is served by another hub").then_some(())
    });
    stage.hub.stop(Signal::Kill);
    second.wait_until_ready();
    let client = stage.stranger("c");
    client.join(&second.address(), tests::hub::API_KEY);
    client.sync();
    assert_eq!(client.rows("select title from todo"), ["first"]);
}

/// Copies the central file as it is.
fn copy_of(stage: &Stage) -> PathBuf {
    let copy = file(stage).with_extension("copy");
    sqlite3_shell(&file(stage), &format!("vacuum into '{}'", copy.display()));
    copy
}

/// Puts another file in the place of the central one.
fn replace_by(stage: &mut Stage, other: &Path) {
    for end in ["-wal", "-shm"] {
        // The last connection may have removed them.
        drop(fs::remove_file(format!("{}{end}", file(stage).display())));
    }
    fs::rename(other, file(stage)).expect("a file can be replaced");
    stage.postgres = stage.database.session();
}

/// Plays until a copy of the file is older than what everybody has, and the client `a` has something unsent.
fn stage_with_copy() -> (Stage, PathBuf) {
    let mut stage = Stage::new(FILE);
    stage.play(&[
        "a: insert into todo values ('t', 'old', null, 0), ('v', 'stays', null, 0)",
        "a: sync",
        "b: sync",
        "all: settle",
    ]);
    let copy = copy_of(&stage);
    stage.play(&[
        "a: insert into todo values ('u', 'later', null, 1)",
        "a: update todo set title = 'newer' where id = 't'",
        "a: sync",
        "pg: delete from todo where id = 'v'",
        "all: settle",
    ]);
    (stage, copy)
}

#[test]
fn a_file_that_is_replaced_under_a_running_hub_is_noticed_and_served() {
    let (mut stage, copy) = stage_with_copy();
    replace_by(&mut stage, &copy);
    wait::until("the hub notices", || {
        stage.hub.whole_log().contains("is not the one that was opened").then_some(())
    });
    stage.play(&["pg: update todo set note = 'in the new file' where id = 't'"]);
    stage.settles_at(&["t|newer|in the new file|0", "u|later|NULL|1"]);
}

#[test]
fn an_older_copy_that_was_written_to_is_not_taken_for_what_it_came_from() {
    let (mut stage, copy) = stage_with_copy();
    stage.play(&["hub: terminate"]);
    replace_by(&mut stage, &copy);
    // More rows of the feed than the store has behind the copy.
    stage.postgres.run(
        "with recursive n (n) as (values (1) union all select n + 1 from n where n < 2000)
         insert into todo select 'n' || n, hex(zeroblob(5000)), null, n from n",
    );
    stage.play(&["hub: start"]);
    stage.settle();
    stage.all_equal();
    let found = stage.client("b").rows("select count(*) from todo where id in ('t', 'u') or id like 'n%'");
    assert_eq!(found, ["2002"]);
    assert_eq!(stage.postgres.rows("select id from todo where id = 'v'").len(), 0, "the deletion came back");
}

#[test]
fn after_a_restore_on_purpose_the_file_wins() {
    let (mut stage, copy) = stage_with_copy();
    stage.play(&["hub: terminate", "b: insert into todo values ('w', 'unsent', null, 3)"]);
    replace_by(&mut stage, &copy);
    stage.play(&["pg: select cloudsync_restored()", "hub: start"]);
    stage.settles_at(&["t|old|NULL|0", "v|stays|NULL|0", "w|unsent|NULL|3"]);
    stage.play(&["pg: update todo set done = 9 where id = 't'", "new: sync"]);
    stage.settles_at(&["t|old|NULL|9", "v|stays|NULL|0", "w|unsent|NULL|3"]);
}

#[test]
fn another_file_is_refused_until_it_is_said_to_stand_in() {
    let mut stage = Stage::new(FILE);
    stage.play(&["a: insert into todo values ('t', 'old', null, 0)", "a: sync", "all: settle"]);
    let other = file(&stage).with_extension("other");
    let new = Session::open(&other);
    for sql in [TODO.sqlite, "create table mark (id integer primary key, n integer not null)"] {
        new.run(sql);
    }
    new.run("insert into todo values ('o', 'of another file', null, 0)");
    new.run("select cloudsync_init('todo', 'cls', 1), cloudsync_init('mark', 'cls', 1)");
    drop(new);
    stage.play(&["hub: terminate"]);
    replace_by(&mut stage, &other);
    stage.hub.launch();
    wait::until("the hub says that it is another file", || {
        stage.hub.whole_log().contains("system identifier").then_some(())
    });
    stage.play(&[
        "a: insert into todo values ('p', 'unsent', null, 0)",
        "a: sync fails",
        "pg: select cloudsync_restored()",
    ]);
    stage.settles_at(&["o|of another file|NULL|0", "p|unsent|NULL|0"]);
}

#[test]
fn a_file_set_back_to_an_older_copy_gets_back_what_clients_hold() {
    let mut stage = Stage::new(FILE);
    stage.play(&[
        "a: insert into todo values ('t', 'old', null, 0)",
        "a: sync",
        "b: sync",
        "all: settle",
        "hub: terminate",
    ]);
    let copy = file(&stage).with_extension("copy");
    sqlite3_shell(&file(&stage), &format!("vacuum into '{}'", copy.display()));
    stage.play(&[
        "hub: start",
        "a: update todo set title = 'new'",
        "a: insert into todo values ('u', 'later', null, 1)",
        "a: sync",
        "pg: update todo set note = 'direct' where id = 't'",
        "all: settle",
        "hub: terminate",
    ]);
    for end in ["-wal", "-shm"] {
        // The last connection may have removed them.
        drop(fs::remove_file(format!("{}{end}", file(&stage).display())));
    }
    fs::rename(&copy, file(&stage)).expect("a file can be replaced");
    stage.postgres = stage.database.session();
    stage.play(&["b: update todo set done = 3 where id = 't'", "hub: start"]);
    stage.settle();
    assert_eq!(stage.postgres.rows(TODO.show), ["t|new|direct|3", "u|later|NULL|1"]);
    for name in ["a", "b"] {
        assert_eq!(stage.client(name).rows(TODO.show), ["t|new|direct|3", "u|later|NULL|1"], "{name}");
    }
}

#[test]
fn daily_jobs_are_due_by_the_clock_whenever_the_hub_was_started() {
    let mut stage = Stage::new(FILE);
    stage.play(&["a: insert into todo values ('t', 'title', null, 0)", "a: sync"]);
    let due = "select key, value from cloudsync_settings where key glob 'job_due.*' order by key";
    let kept = wait::until("the hub keeps when they are due", || {
        let rows = stage.postgres.rows(due);
        (rows.len() == 2).then_some(rows)
    });
    stage.play(&["hub: terminate", "hub: start"]);
    let done = |stage: &Stage, kind: &str| {
        let series =
            format!("cloudsync_jobs_ended_total{{database=\"demo\",kind=\"{kind}\",outcome=\"done\"}}");
        stage.hub.get("/metrics").body.contains(&series)
    };
    // What is done at once shows that the hub has looked.
    wait::until("the hub does its jobs", || done(&stage, "inbox").then_some(()));
    assert_eq!(stage.postgres.rows(due), kept, "a start puts nothing off");
    stage.play(&[
        "hub: terminate",
        "pg: update cloudsync_settings set value = 1000 where key = 'job_due.tombstones'",
        "hub: start",
    ]);
    wait::until("what was missed is done", || done(&stage, "tombstones").then_some(()));
    assert!(!done(&stage, "snapshot"), "the other one is not due");
    let now_ms = "select value > unixepoch() * 1000 + 80000000 from cloudsync_settings where key = 'job_due.tombstones'";
    wait::until("it is due tomorrow", || (stage.postgres.value(now_ms) == "1").then_some(()));
}
