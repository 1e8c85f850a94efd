//! Two hubs for one database: any of them takes uploads and serves downloads, and one that is gone is not missed.

use tests::hub::API_KEY;
use tests::stage::{Setting, Stage, TODO};
use tests::wait;

#[test]
fn a_second_node_serves_the_same_rows_and_leads_when_the_first_is_gone() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["pg: insert into todo values ('p', 'from postgres', null, 0)", "a: sync"]);
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    let device = stage.stranger("device");
    device.join(&second.address(), API_KEY);
    device.run("insert into todo values ('d', 'by the second node', null, 0)");
    device.sync();
    stage.settles_at(&["d|by the second node|NULL|0", "p|from postgres|NULL|0"]);
    stage.play(&["a: update todo set note = 'by the first node' where id = 'd'", "a: sync"]);
    wait::until("the second node serves what the first one stored", || {
        device.sync_waiting(1_000);
        let note = device.rows("select note from todo where id = 'd'");
        (note == ["by the first node"]).then_some(())
    });

    stage.play(&["hub: kill", "pg: insert into todo values ('q', 'while the second leads', null, 0)"]);
    wait::until_ok("the second node leads", || {
        device.try_rows("select cloudsync_network_sync(1000, 1)")?;
        let rows = device.rows(TODO.show);
        (rows.len() == 3).then_some(()).ok_or(rows.join(", "))
    });
    assert_eq!(device.rows(TODO.show), stage.postgres.rows(TODO.show));
    // The first comes back as the follower that it now is, and its client goes on where it was.
    stage.play(&["hub: start"]);
    wait::until_ok("the first node serves what the second one stored", || {
        let client = stage.client("a");
        client.try_rows("select cloudsync_network_sync(1000, 1)")?;
        let rows = client.rows(TODO.show);
        (rows.len() == 3).then_some(()).ok_or(rows.join(", "))
    });
}
