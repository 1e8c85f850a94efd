//! Uploads while Postgres is away: taken, durable, and applied once when it is back, whoever is left.

use std::fs;

use tests::process::Signal;
use tests::stage::{Setting, Stage};
use tests::wait;

/// Counts in Postgres how often each row was really written, and refuses one.
const RULES: &str = "create table writes (id text, what text);
    create function count_writes() returns trigger language plpgsql security definer as
    $$ begin insert into public.writes values (new.id, tg_op); return null; end $$;
    create trigger count_writes after insert or update on todo for each row execute function count_writes();
    alter table todo add constraint refused check (title <> 'refused')";

const STATUS: &str = "select json_extract(cloudsync_network_send_changes(), '$.send.status')";
const WRITES: &str = "select id, what, count(*) from writes group by id, what order by id, what";

fn stage() -> Stage {
    let mut stage = Stage::new(Setting { own_cluster: true, ..Setting::PLAIN });
    stage.postgres.run(RULES);
    stage.play(&["a: insert into todo values ('t', 'before', null, 0)", "a: sync", "b: sync", "all: settle"]);
    stage
}

fn stores(stage: &mut Stage, client: &str) {
    assert_eq!(stage.client(client).value(STATUS), "syncing", "the hub keeps what {client} sends");
}

fn is_applied(stage: &Stage) {
    wait::until("the inbox is empty", || stage.objects("inbox").is_empty().then_some(()));
}

#[test]
fn what_was_taken_while_postgres_was_away_outlives_every_node_and_its_device() {
    let mut stage = stage();
    stage.play(&[
        "postgres: stop",
        "a: insert into todo values ('u', 'while away', null, 0)",
        "a: insert into todo values ('x', 'refused', null, 0)",
        "b: update todo set note = 'by b' where id = 't'",
    ]);
    stores(&mut stage, "a");
    stores(&mut stage, "b");
    // Sent again it is the same entry.
    stores(&mut stage, "a");
    assert_eq!(stage.objects("inbox").len(), 2);
    stage.play(&["hub: kill", "postgres: start", "hub: start"]);
    is_applied(&stage);
    // No device had to come back for that.
    assert_eq!(stage.postgres.rows("select id, note from todo order by id"), ["t|by b", "u|NULL"]);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "t|UPDATE|1", "u|INSERT|1"]);
    // The device is told what was refused, keeps its value, and goes on.
    stage.play(&["a: sync"]);
    assert_eq!(stage.client("a").rows("select tbl, sqlstate from cloudsync_rejected"), ["todo|23514"]);
    stage.play(&["a: update todo set title = 'mended' where id = 'x'", "a: sync"]);
    assert_eq!(stage.client("a").rows("select tbl, sqlstate from cloudsync_rejected"), Vec::<String>::new());
    stage.settles_at(&["t|before|by b|0", "u|while away|NULL|0", "x|mended|NULL|0"]);
    assert_eq!(stage.postgres.value("select count(*) from writes where id = 'u'"), "1");
}

#[test]
fn any_node_applies_what_another_one_took() {
    let mut stage = stage();
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    stage.play(&["postgres: stop", "a: insert into todo values ('u', 'by the first node', null, 0)"]);
    stores(&mut stage, "a");
    stage.hub.stop(Signal::Kill);
    stage.play(&["postgres: start"]);
    is_applied(&stage);
    assert!(second.is_running());
    // The device, which knows nothing of it, sends it again, here to the node that did it.
    stage.client("a").join(&second.address(), tests::hub::API_KEY);
    wait::until("the device hears of it", || (stage.client("a").value(STATUS) == "synced").then_some(()));
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "u|INSERT|1"]);
    stage.play(&["hub: start"]);
    stage.settles_at(&["t|before|NULL|0", "u|by the first node|NULL|0"]);
}

#[test]
fn what_waits_outlives_an_epoch() {
    let mut stage = stage();
    stage.play(&["postgres: stop", "a: insert into todo values ('u', 'while away', null, 0)"]);
    stores(&mut stage, "a");
    stage.play(&["hub: kill", "postgres: start"]);
    stage.postgres.run("select pg_drop_replication_slot(slot_name) from pg_replication_slots");
    stage.play(&["hub: start"]);
    is_applied(&stage);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "u|INSERT|1"]);
    stage.settles_at(&["t|before|NULL|0", "u|while away|NULL|0"]);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "u|INSERT|1"]);
}

#[test]
fn a_node_that_starts_while_postgres_is_away_takes_uploads_by_the_key_that_it_was_given() {
    let mut stage = stage();
    stage.hub.stop(Signal::Terminate);
    stage.play(&["postgres: stop", "a: insert into todo values ('u', 'while away', null, 0)"]);
    stage.hub.set_environment("CLOUDSYNC_INBOX_KEY", "a key that every node of these tests is given");
    stage.hub.launch();
    wait::until("the hub keeps what a sends", || {
        let told = stage.client("a").try_rows(STATUS);
        (told == Ok(vec!["syncing".to_owned()])).then_some(())
    });
    assert_eq!(stage.objects("inbox").len(), 1);
    stage.play(&["hub: kill", "postgres: start", "hub: start"]);
    is_applied(&stage);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "u|INSERT|1"]);
    stage.settles_at(&["t|before|NULL|0", "u|while away|NULL|0"]);
}

#[test]
fn an_entry_that_was_tampered_with_is_buried_and_seen() {
    let mut stage = stage();
    stage.play(&["postgres: stop", "a: insert into todo values ('u', 'while away', null, 0)"]);
    stores(&mut stage, "a");
    stage.hub.stop(Signal::Kill);
    let entry = stage.objects("inbox").remove(0);
    let mut bytes = fs::read(&entry).expect("the entry can be read");
    let role = bytes.windows(3).position(|window| window == b"app").expect("the entry names its role");
    bytes[role..role + 3].copy_from_slice(b"dba");
    fs::write(&entry, bytes).expect("the entry can be written");
    stage.play(&["postgres: start", "hub: start"]);
    is_applied(&stage);
    let dead = "select kind, state, last_error from cloudsync.job_states where state = 'dead'";
    assert_eq!(stage.postgres.rows(dead), ["buried_upload|dead|signature is wrong"]);
    assert_eq!(stage.objects("buried").len(), 1);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1"]);
    // The device still has what it sent.
    stage.settles_at(&["t|before|NULL|0", "u|while away|NULL|0"]);
}
