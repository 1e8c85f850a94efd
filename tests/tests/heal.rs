//! What ends an epoch: a slot that is lost in any way, a server that another one takes the place of, a database
//! that is set back. In each case two clients hold changes that they have not sent; no client is wiped, and
//! nothing that was acknowledged is lost.

use std::fs;
use std::path::Path;

use tests::client::Client;
use tests::hub::API_KEY;
use tests::postgres::Recovery;
use tests::process::Signal;
use tests::stage::{Setting, Stage, TODO};
use tests::wait;

const OWN_CLUSTER: Setting<'_> = Setting { own_cluster: true, ..Setting::PLAIN };

/// Two clients that have synced, on a server of their own.
fn stage() -> Stage {
    let mut stage = Stage::new(OWN_CLUSTER);
    stage.play(&[
        "pg: insert into todo values ('p', 'from postgres', null, 0), ('gone', 'to be deleted', null, 0)",
        "a: insert into todo values ('a', 'from a', null, 0)",
        "a: sync",
        "b: insert into todo values ('b', 'from b', null, 0)",
        "b: sync",
        "all: settle",
    ]);
    stage
}

/// The rows that [`stage`] begins with, once [`UNSENT`] has come through.
const ROWS: [&str; 5] = [
    "a|from a|NULL|1",
    "a2|unsent of a|NULL|0",
    "b|from b|NULL|0",
    "b2|unsent of b|NULL|0",
    "p|from postgres|by b|0",
];

/// What both clients write while nobody hears them.
const UNSENT: [&str; 4] = [
    "a: insert into todo values ('a2', 'unsent of a', null, 0)",
    "a: update todo set done = 1 where id = 'a'",
    "b: insert into todo values ('b2', 'unsent of b', null, 0)",
    "b: update todo set note = 'by b' where id = 'p'",
];

fn sites(stage: &mut Stage) -> [String; 2] {
    ["a", "b"].map(|name| stage.client(name).value("select hex(cloudsync_siteid())"))
}

fn slot(stage: &Stage) -> String {
    let oid = stage.postgres.value("select oid from pg_database where datname = current_database()");
    format!("cloudsync_{oid}")
}

fn drop_slot(stage: &Stage) {
    let sql = format!("select pg_drop_replication_slot('{}')", slot(stage));
    wait::until_ok("the slot is dropped", || stage.postgres.try_rows(&sql));
}

const EPOCHS: &str = "cloudsync_epochs_opened_total";

/// The value of a metric for one label.
fn count(stage: &Stage, metric: &str, label: &str) -> String {
    let text = stage.hub.get("/metrics").body;
    let mut lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(label));
    lines.next().and_then(|line| line.rsplit(' ').next()).unwrap_or("none").to_owned()
}

/// Checks that one epoch was opened for this cause, that it was said, and that the clients are who they were.
fn healed(stage: &mut Stage, cause: &str, before: &[String; 2]) {
    assert_eq!(count(stage, EPOCHS, &format!("cause=\"{cause}\"")), "1");
    assert!(stage.hub.whole_log().contains("epoch ends"), "the log tells of it");
    assert_eq!(&sites(stage), before, "no client took another site id");
    assert_eq!(stage.postgres.value("select count(*) from cloudsync.rejected"), "0");
}

fn a_lost_slot_is_made_again(cause: &str, lose: fn(&Stage)) {
    let mut stage = stage();
    let before = sites(&mut stage);
    stage.play(&UNSENT);
    stage.play(&["hub: kill", "pg: insert into todo values ('q', 'before the loss', null, 0)"]);
    lose(&stage);
    stage.play(&[
        "pg: insert into todo values ('r', 'after the loss', null, 0)",
        "pg: delete from todo where id = 'gone'",
        "hub: start",
    ]);
    let mut rows = ROWS.to_vec();
    rows.extend(["q|before the loss|NULL|0", "r|after the loss|NULL|0"]);
    stage.settles_at(&rows);
    healed(&mut stage, cause, &before);
    assert_eq!(count(&stage, "cloudsync_replayed_rows_total", "outcome=\"changed\""), "0");
    stage.play(&["pg: insert into todo values ('s', 'goes on', null, 0)", "new: sync"]);
    rows.push("s|goes on|NULL|0");
    stage.settles_at(&rows);
}

#[test]
fn a_slot_that_was_dropped_is_made_again() {
    a_lost_slot_is_made_again("slot_missing", drop_slot);
}

#[test]
fn a_slot_that_somebody_made_under_our_name_is_not_trusted() {
    a_lost_slot_is_made_again("slot_foreign", |stage| {
        drop_slot(stage);
        stage
            .postgres
            .run("insert into todo values ('x', 'never decoded', null, 0); delete from todo where id = 'x'");
        stage
            .postgres
            .run(&format!("select pg_create_logical_replication_slot('{}', 'pg_sync')", slot(stage)));
    });
}

#[test]
fn a_slot_of_another_plugin_is_made_again() {
    a_lost_slot_is_made_again("slot_foreign", |stage| {
        drop_slot(stage);
        let sql = format!("select pg_create_logical_replication_slot('{}', 'test_decoding')", slot(stage));
        stage.postgres.run(&sql);
    });
}

#[test]
fn a_slot_that_postgres_invalidated_is_made_again() {
    a_lost_slot_is_made_again("slot_lost", |stage| {
        stage.postgres.run("alter system set max_slot_wal_keep_size = '1MB'");
        stage.postgres.run("select pg_reload_conf()");
        let status =
            format!("select wal_status from pg_replication_slots where slot_name = '{}'", slot(stage));
        wait::until("the slot is invalidated", || {
            stage.postgres.run("select pg_switch_wal()");
            stage.postgres.run("create table noise (n int); drop table noise");
            stage.postgres.run("checkpoint");
            (stage.postgres.value(&status) == "lost").then_some(())
        });
    });
}

#[test]
fn a_slot_that_is_dropped_under_a_running_hub_is_made_again() {
    let mut stage = stage();
    let before = sites(&mut stage);
    stage.play(&UNSENT);
    let slot = slot(&stage);
    stage.postgres.run(&format!(
        "do $$ begin
           for i in 1..1000 loop
             perform pg_terminate_backend(s.active_pid) from pg_replication_slots s where s.slot_name = '{slot}';
             begin
               perform pg_drop_replication_slot('{slot}');
               return;
             exception when object_in_use then null;
             end;
           end loop;
         end $$"
    ));
    stage.play(&["pg: delete from todo where id = 'gone'"]);
    stage.settles_at(&ROWS);
    healed(&mut stage, "slot_missing", &before);
}

/// Cuts a standby off, lets everybody write once more, kills the primary and promotes the standby.
fn fail_over(stage: &mut Stage, meanwhile: impl FnOnce(&mut Stage)) {
    let standby = stage.cluster().standby();
    stage.cluster().wait_for(&standby);
    standby.cut_off();
    stage.play(&[
        "pg: insert into todo values ('x', 'only on the old primary', null, 0)",
        "pg: delete from todo where id = 'gone'",
        "a: insert into todo values ('late', 'acknowledged by the old primary', null, 0)",
        "a: update todo set title = 'from a, later' where id = 'a'",
        "a: sync",
        "all: settle",
    ]);
    stage.play(&UNSENT);
    meanwhile(stage);
    stage.play(&["postgres: kill"]);
    standby.promote();
    stage.replace_cluster(standby);
}

const ROWS_AFTER_FAILOVER: [&str; 7] = [
    "a|from a, later|NULL|1",
    "a2|unsent of a|NULL|0",
    "b|from b|NULL|0",
    "b2|unsent of b|NULL|0",
    "late|acknowledged by the old primary|NULL|0",
    "p|from postgres|by b|0",
    "x|only on the old primary|NULL|0",
];

#[test]
fn a_promoted_standby_gets_back_what_it_had_not_received() {
    let mut stage = stage();
    let before = sites(&mut stage);
    fail_over(&mut stage, |_stage| {});
    stage.settles_at(&ROWS_AFTER_FAILOVER);
    healed(&mut stage, "failover", &before);
    assert_ne!(count(&stage, "cloudsync_replayed_rows_total", "outcome=\"changed\""), "0");
    stage.play(&["new: sync", "pg: insert into todo values ('z', 'goes on', null, 0)"]);
    let mut rows = ROWS_AFTER_FAILOVER.to_vec();
    rows.push("z|goes on|NULL|0");
    stage.settles_at(&rows);
}

/// Removes every segment of the store.
fn lose_segments(folder: &Path) {
    for entry in fs::read_dir(folder).expect("the store can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            lose_segments(&path);
        } else if path.extension().is_some_and(|extension| extension == "seg") {
            fs::remove_file(path).expect("a segment can be removed");
        }
    }
}

/// How many files of the store end like this.
fn stored(folder: &Path, end: &str) -> usize {
    let entries = fs::read_dir(folder).expect("the store can be read").flatten();
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => stored(&path, end),
        false => usize::from(path.to_string_lossy().ends_with(end)),
    };
    entries.map(|entry| count(entry.path())).sum()
}

#[test]
fn bringing_back_goes_on_where_it_was_left() {
    let mut stage = stage();
    let before = sites(&mut stage);
    fail_over(&mut stage, |stage| {
        let segments = stored(stage.hub.store_directory(), ".seg");
        stage.play(&["pg: insert into todo values ('last', 'in the last segment', null, 0)"]);
        wait::until("there is one segment more", || {
            (stored(stage.hub.store_directory(), ".seg") > segments).then_some(())
        });
        stage.hub.stop(Signal::Kill);
    });
    // The first write on a new timeline notes what others would wait for.
    stage.mark();
    // That row has to wait, after others were brought back.
    let in_the_way = stage.database.session();
    in_the_way.run("begin; insert into todo values ('last', 'in the way', null, 0)");
    stage.hub.launch();
    wait::until("something is brought back", || {
        (stored(stage.hub.store_directory(), "replayed") == 1).then_some(())
    });
    stage.hub.stop(Signal::Kill);
    in_the_way.run("rollback");
    stage.play(&["hub: start"]);
    let mut rows = ROWS_AFTER_FAILOVER.to_vec();
    rows.insert(4, "last|in the last segment|NULL|0");
    stage.settles_at(&rows);
    healed(&mut stage, "failover", &before);
    assert!(stage.hub.whole_log().contains("merged on from where that was left"));
}

#[test]
fn a_client_sends_again_what_neither_the_standby_nor_the_store_has() {
    let mut stage = stage();
    let before = sites(&mut stage);
    fail_over(&mut stage, |stage| {
        stage.hub.stop(Signal::Kill);
        lose_segments(stage.hub.store_directory());
    });
    stage.play(&["hub: start"]);
    // What was written in Postgres alone is gone with it; `gone` is there again on the server.
    let rows: Vec<&str> = ROWS_AFTER_FAILOVER.iter().copied().filter(|row| !row.starts_with('x')).collect();
    stage.settle();
    let found = stage.postgres.rows(TODO.show);
    let found: Vec<&str> = found.iter().map(String::as_str).filter(|row| !row.starts_with("gone")).collect();
    assert_eq!(found, rows);
    healed(&mut stage, "failover", &before);
}

#[test]
fn a_restore_that_nobody_announced_brings_everything_back() {
    for recovery in [Recovery::NewTimeline, Recovery::SameTimeline] {
        let mut stage = stage();
        let before = sites(&mut stage);
        let backup = stage.cluster().backup();
        stage.play(&[
            "pg: insert into todo values ('x', 'after the backup', null, 0)",
            "pg: delete from todo where id = 'gone'",
            "a: insert into todo values ('late', 'after the backup', null, 0)",
            "a: sync",
            "all: settle",
        ]);
        stage.play(&UNSENT);
        stage.play(&["postgres: stop"]);
        stage.restore(&backup, recovery);
        let mut rows = ROWS.to_vec();
        rows.insert(4, "late|after the backup|NULL|0");
        rows.push("x|after the backup|NULL|0");
        stage.settles_at(&rows);
        let cause = match recovery {
            Recovery::NewTimeline => "failover",
            // Where WAL was written before the hub came back, its end says nothing any more.
            Recovery::SameTimeline if count(&stage, EPOCHS, "cause=\"ran_back\"") == "1" => "ran_back",
            Recovery::SameTimeline => "slot_missing",
        };
        healed(&mut stage, cause, &before);
    }
}

#[test]
fn after_a_restore_on_purpose_postgres_wins() {
    let mut stage = stage();
    let before = sites(&mut stage);
    let backup = stage.cluster().backup();
    stage.play(&[
        "pg: insert into todo values ('x', 'to be undone', null, 0)",
        "pg: update todo set title = 'to be undone' where id = 'b'",
        "pg: delete from todo where id = 'gone'",
        "a: insert into todo values ('late', 'to be undone', null, 0)",
        "a: sync",
        "all: settle",
    ]);
    stage.play(&UNSENT);
    stage.play(&["hub: kill", "postgres: stop"]);
    stage.restore(&backup, Recovery::NewTimeline);
    stage.play(&["pg: select cloudsync_restored()", "hub: start"]);
    let mut rows = ROWS.to_vec();
    rows.insert(4, "gone|to be deleted|NULL|0");
    stage.settles_at(&rows);
    healed(&mut stage, "restored", &before);
}

#[test]
fn what_was_written_to_rows_that_a_restore_undid_is_kept_beside() {
    let mut stage = stage();
    let before = sites(&mut stage);
    let backup = stage.cluster().backup();
    stage.play(&[
        "pg: insert into todo values ('x', 'to be undone', null, 0)",
        "a: insert into todo values ('late', 'to be undone', null, 0)",
        "a: sync",
        "all: settle",
        "a: update todo set note = 'a of x' where id = 'x'",
        "a: update todo set note = 'a of late' where id = 'late'",
        "a: insert into todo values ('a2', 'unsent of a', null, 0)",
        "b: update todo set note = 'b of late', done = 1 where id = 'late'",
        "b: update todo set note = 'b of a' where id = 'a'",
        "hub: kill",
        "postgres: stop",
    ]);
    stage.restore(&backup, Recovery::NewTimeline);
    stage.play(&["pg: select cloudsync_restored()", "hub: start"]);
    // One receives before it sends, the other one sends first.
    wait::until_ok("b receives", || stage.client("b").try_rows("select cloudsync_network_check_changes()"));
    stage.settles_at(&[
        "a|from a|b of a|0",
        "a2|unsent of a|NULL|0",
        "b|from b|NULL|0",
        "gone|to be deleted|NULL|0",
        "p|from postgres|NULL|0",
    ]);
    healed(&mut stage, "restored", &before);
    for (name, conflicts, rejected) in [
        (
            "a",
            vec![r#"["late"]|note|a of late|restored"#, r#"["x"]|note|a of x|restored"#],
            vec![r#"["late"]|02000"#, r#"["x"]|02000"#],
        ),
        (
            "b",
            vec![r#"["late"]|done|1|restored"#, r#"["late"]|note|b of late|restored"#],
            vec![r#"["late"]|02000"#],
        ),
    ] {
        let kept = "select key, col, lost_value, reason from cloudsync_conflicts order by key, col";
        assert_eq!(stage.client(name).rows(kept), conflicts, "{name}");
        let told = "select key, sqlstate from cloudsync_rejected order by key";
        assert_eq!(stage.client(name).rows(told), rejected, "{name}");
    }
    assert_eq!(stage.postgres.value("select count(*) from cloudsync.parked"), "0");
}

#[test]
fn a_dump_that_was_restored_under_another_name_takes_the_place_of_its_database() {
    let mut stage = stage();
    let before = sites(&mut stage);
    stage.play(&[
        "a: insert into todo values ('late', 'before the dump', null, 0)",
        "a: sync",
        "all: settle",
    ]);
    stage.play(&UNSENT);
    stage.play(&["hub: kill", "pg: insert into todo values ('q', 'not streamed yet', null, 0)"]);
    let server = stage.postgres.value("select cloudsync_siteid()");
    let restored = stage.cluster().restored_dump(&stage.database, "restored");
    stage.replace_database(restored);
    assert_ne!(stage.postgres.value("select cloudsync_siteid()"), server, "the copy is a site of its own");
    stage.play(&[
        "pg: select cloudsync_restored()",
        "pg: update todo set note = 'in the copy' where id = 'b'",
        "pg: delete from todo where id = 'gone'",
        "hub: start",
    ]);
    let mut rows = ROWS.to_vec();
    rows[2] = "b|from b|in the copy|0";
    rows.insert(4, "late|before the dump|NULL|0");
    rows.push("q|not streamed yet|NULL|0");
    stage.settles_at(&rows);
    healed(&mut stage, "restored", &before);
    stage.play(&["pg: insert into todo values ('r', 'goes on', null, 0)", "new: sync"]);
    rows.push("r|goes on|NULL|0");
    stage.settles_at(&rows);
}

fn try_send(client: &Client) -> Result<Vec<String>, String> {
    client.try_rows("select cloudsync_network_send_changes()")
}

#[test]
fn a_node_on_the_old_primary_is_fenced() {
    let mut stage = stage();
    let before = sites(&mut stage);
    let standby = stage.cluster().standby();
    stage.cluster().wait_for(&standby);
    standby.promote();
    let mut second = stage.hub.beside(&standby.copy_of(&stage.database));
    second.start_again();
    wait::until("the node on the old primary is fenced", || {
        (stage.hub.metric("cloudsync_fenced") > 0.0).then_some(())
    });
    stage.client("a").run("insert into todo values ('a2', 'written on a fenced node', null, 0)");
    // It writes nothing to the old primary, and keeps what it is sent for the node that may.
    let told = try_send(stage.client("a")).expect("a fenced node keeps an upload in the store").concat();
    assert!(told.contains("syncing"), "{told}");
    assert_eq!(stage.postgres.value("select count(*) from todo where id = 'a2'"), "0");
    stage.postgres.run("insert into todo values ('lost', 'on the old primary', null, 0)");

    let promoted = standby.copy_of(&stage.database).session();
    promoted.run("insert into todo values ('n', 'on the new primary', null, 0)");
    for name in ["a", "b"] {
        stage.client(name).join(&second.address(), API_KEY);
    }
    for _round in 0..2 {
        for name in ["a", "b"] {
            wait::until_ok("the client syncs", || stage.client(name).try_sync());
        }
    }
    for name in ["a", "b"] {
        assert_eq!(stage.client(name).rows(TODO.show), promoted.rows(TODO.show), "{name}");
    }
    assert_eq!(promoted.value("select count(*) from todo where id in ('a2', 'n', 'lost')"), "2");
    assert_eq!(sites(&mut stage), before);
}
