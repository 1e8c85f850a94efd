//! Synchronous standbys: what one of them lacks that could take the place of the server, no client has seen.

use std::thread;

use tests::hub::API_KEY;
use tests::postgres::Cluster;
use tests::stage::{Setting, Stage, TODO};
use tests::wait;

const OWN_CLUSTER: Setting<'_> = Setting { own_cluster: true, ..Setting::PLAIN };

/// A row that is committed without waiting for the standby, which does not get it.
const AHEAD: &str =
    "pg: set synchronous_commit = local; insert into todo values ('x', 'only on the old primary', null, 0)";

/// A stage whose server waits for a standby, with that standby.
fn stage() -> (Stage, Cluster) {
    let mut stage = Stage::new(OWN_CLUSTER);
    let standby = stage.cluster().standby();
    stage.cluster().wait_for(&standby);
    stage.cluster().wait_for_standbys();
    // A leader that runs hears of the setting within a second; one that begins knows it at once.
    stage.play(&["hub: terminate", "hub: start"]);
    (stage, standby)
}

/// Kills the server, lets the standby take its place without what it had not received, and checks that all agree.
fn fail_over(stage: &mut Stage, standby: Cluster, receiver: &str, rows: &[&str]) {
    stage.play(&["postgres: kill"]);
    standby.promote_without(receiver);
    stage.replace_cluster(standby);
    stage.settles_at(rows);
}

#[test]
fn what_a_promoted_standby_lacks_no_client_saw() {
    let (mut stage, standby) = stage();
    stage.play(&[
        "a: insert into todo values ('a', 'from a', null, 0)",
        "a: sync",
        "b: sync",
        "pg: insert into todo values ('p', 'the standby has it', null, 0)",
        "all: settle",
    ]);
    let rows = ["a|from a|NULL|0", "p|the standby has it|NULL|0"];
    assert_eq!(stage.client("b").rows(TODO.show), rows, "what the standby has goes on to clients");

    let receiver = standby.pause();
    stage.play(&[AHEAD]);
    wait::until("the hub holds the row back", || {
        (stage.hub.metric("cloudsync_standby_held_bytes") > 0.0).then_some(())
    });
    for name in ["a", "b"] {
        stage.client(name).sync_waiting(500);
        assert_eq!(stage.client(name).rows(TODO.show), rows, "{name} sees nothing that may be lost");
    }
    fail_over(&mut stage, standby, &receiver, &rows);
}

#[test]
fn what_a_promoted_standby_lacks_is_in_no_snapshot() {
    let (mut stage, standby) = stage();
    stage.play(&["pg: insert into todo values ('p', 'the standby has it', null, 0)"]);
    stage.cluster().wait_for(&standby);
    let receiver = standby.pause();
    stage.play(&[AHEAD]);
    let newcomer = stage.stranger("newcomer");
    newcomer.join(&stage.hub.address(), API_KEY);
    let joining = thread::spawn(move || {
        // It fails when the server goes.
        drop(newcomer.try_sync());
        newcomer
    });
    wait::until("a snapshot waits for the standby", || {
        let sql = "select count(*) from pg_stat_activity
            where application_name = 'cloudsync hub' and state = 'idle in transaction'";
        (stage.postgres.value(sql) != "0").then_some(())
    });
    stage.play(&["postgres: kill"]);
    let newcomer = joining.join().expect("the newcomer does not panic");
    let nothing: [&str; 0] = [];
    assert_eq!(newcomer.rows(TODO.show), nothing);
    standby.promote_without(&receiver);
    stage.replace_cluster(standby);
    wait::until_ok("the newcomer syncs", || newcomer.try_sync());
    assert_eq!(newcomer.rows(TODO.show), ["p|the standby has it|NULL|0"]);
    stage.play(&["a: sync"]);
    stage.settles_at(&["p|the standby has it|NULL|0"]);
}

#[test]
fn clients_see_again_what_they_waited_for_when_nothing_is_waited_for_any_more() {
    let (mut stage, standby) = stage();
    stage.play(&["a: sync"]);
    standby.cut_off();
    stage.play(&[AHEAD]);
    wait::until("the hub holds the row back", || {
        (stage.hub.metric("cloudsync_standby_held_bytes") > 0.0).then_some(())
    });
    stage.play(&["pg: alter system reset synchronous_standby_names", "pg: select pg_reload_conf()"]);
    stage.settles_at(&["x|only on the old primary|NULL|0"]);
    assert!(stage.hub.metric("cloudsync_standby_held_bytes") < 1.0);
}
