//! Tombstones that go, and a device that was away for longer than they were kept.

use tests::stage::{Setting, Stage, on_both};
use tests::wait;

/// `t1` is deleted while device a is away, which writes to it and to others; then its tombstone goes.
fn stage(setting: Setting<'_>) -> Stage {
    let mut stage = Stage::new(setting);
    stage.play(&[
        "pg: insert into todo values ('t1', 'before', null, 0), ('t2', 'before', null, 0)",
        "a: sync",
        "b: sync",
        "all: settle",
    ]);
    stage
}

/// Drops the tombstone, as after a long time.
fn collect(stage: &mut Stage) {
    if stage.database.file().is_some() {
        collect_in_file(stage)
    } else {
        collect_in_postgres(stage)
    }
    // What a node remembers of sites for minutes is sound while no tombstone goes sooner.
    stage.play(&["hub: terminate", "hub: start"]);
    if stage.database.file().is_none() {
        // Only a hub that has reached Postgres once can sign what it takes while that is away.
        wait::until("the hub has looked into the queue", || {
            (stage.hub.metric("cloudsync_jobs") > 0.0).then_some(())
        });
    }
}

/// By what the hub calls once a day.
fn collect_in_file(stage: &Stage) {
    stage.postgres.run(
        "insert into cloudsync_table_settings (tbl, col, key, value)
         values (0, '', 'tombstone_retention', '1 second')",
    );
    assert_eq!(stage.postgres.value(TOMBSTONES), "1");
    wait::until("the tombstone goes", || {
        stage.postgres.run("begin immediate; select cloudsync_central_collect(); commit");
        (stage.postgres.value(TOMBSTONES) == "0").then_some(())
    });
}

/// By the job that does it every day.
fn collect_in_postgres(stage: &Stage) {
    // Less than anybody may set, so that nobody has to wait for a minute.
    stage
        .postgres
        .run("insert into cloudsync.settings (key, value) values ('tombstone_retention', '1 second')");
    let meta = stage.postgres.value(
        "select format('cloudsync.meta_%s', table_id) from cloudsync.tables where table_name = 'todo'",
    );
    let left = format!("select count(*) from {meta} where not alive");
    assert_eq!(stage.postgres.value(&left), "1");
    wait::until("the tombstone goes", || {
        stage.postgres.run("update cloudsync.jobs set run_at = now() where kind = 'tombstones'");
        (stage.postgres.value(&left) == "0").then_some(())
    });
}

fn has_expired(stage: &Stage) -> bool {
    stage.hub.get("/metrics").body.lines().any(|line| {
        line.starts_with("cloudsync_uploads_total")
            && line.contains("status=\"cursor_expired\"")
            && !line.ends_with(" 0")
    })
}

const TOMBSTONES: &str = "select count(*) from todo_cloudsync where alive = 0";
const REFUSED: &str = "select tbl, sqlstate from cloudsync_rejected";
const COLLECTED: &str = "select col, lost_value, reason from cloudsync_conflicts";

/// What device a is told once it is back, and what everybody ends with.
fn check_rebased(mut stage: Stage) {
    stage.play(&["a: sync"]);
    assert!(has_expired(&stage), "the upload was refused");
    assert_eq!(stage.client("a").rows(REFUSED), ["todo|02000"]);
    assert_eq!(stage.client("a").rows(COLLECTED), ["note|by a|collected"]);
    stage.settles_at(&["t2|before|by a too|0", "t3|new|NULL|0"]);
    for name in ["a", "b"] {
        assert_eq!(stage.client(name).value(TOMBSTONES), "0", "tombstones at {name}");
    }
}

const WRITTEN_AWAY: [&str; 3] = [
    "a: update todo set note = 'by a' where id = 't1'",
    "a: update todo set note = 'by a too' where id = 't2'",
    "a: insert into todo values ('t3', 'new', null, 0)",
];

#[test]
fn who_was_away_for_too_long_takes_a_snapshot_before_it_sends() {
    on_both(who_was_away);
}

fn who_was_away(setting: Setting<'_>) {
    let mut stage = stage(setting);
    stage.play(&["b: delete from todo where id = 't1'", "b: sync"]);
    stage.play(&WRITTEN_AWAY);
    collect(&mut stage);
    // Who was there drops it where the log says so, and goes on without a snapshot.
    wait::until("b drops the tombstone", || {
        stage.client("b").sync();
        (stage.client("b").value(TOMBSTONES) == "0").then_some(())
    });
    stage.play(&["b: update todo set done = 0 where id = 't2'", "b: sync"]);
    assert!(!has_expired(&stage), "b was refused");
    check_rebased(stage);
}

#[test]
fn what_was_taken_while_postgres_was_away_is_not_applied_behind_the_horizon() {
    let mut stage = stage(Setting { own_cluster: true, ..Setting::PLAIN });
    stage.play(&["b: delete from todo where id = 't1'", "b: sync"]);
    stage.play(&WRITTEN_AWAY);
    collect(&mut stage);
    stage.play(&["postgres: stop"]);
    let status = "select json_extract(cloudsync_network_send_changes(), '$.send.status')";
    assert_eq!(stage.client("a").value(status), "syncing");
    stage.play(&["postgres: start"]);
    let buried =
        "select last_error from cloudsync.job_states where kind = 'buried_upload' and state = 'dead'";
    let told = wait::until("the upload is kept aside", || stage.postgres.rows(buried).pop());
    assert_eq!(told, "deletions after the site's cursor are forgotten, a snapshot has to come first");
    assert_eq!(stage.postgres.rows("select id, note from todo order by id"), ["t2|NULL"]);
    check_rebased(stage);
}
