//! Uploads while Postgres is away: taken, durable, and applied once when it is back, whoever is left.

use std::fs;

use tests::client::Client;
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
fn a_device_hears_which_of_its_queued_values_lost() {
    let mut stage = stage();
    stage.play(&["postgres: stop"]);
    queues(&mut stage, "a", "update todo set title = 'title of a' where id = 't'");
    assert_eq!(queues(&mut stage, "a", "update todo set note = 'note of a', done = 7 where id = 't'"), 2);
    // What is written now is later than both, and there before them.
    stage.play(&[
        "hub: kill",
        "postgres: start",
        "pg: update todo set title = 'title of pg', note = 'note of pg' where id = 't'",
        "hub: start",
    ]);
    is_applied(&stage);
    wait::until_ok("a syncs", || stage.client("a").try_sync());
    stage.settles_at(&["t|title of pg|note of pg|7"]);
    let kept = "select col, lost_value, won_value, reason from cloudsync_conflicts order by col";
    assert_eq!(
        stage.client("a").rows(kept),
        ["note|note of a|note of pg|server", "title|title of a|title of pg|server"]
    );
    // What was heard once is not kept again.
    stage.play(&["postgres: stop"]);
    queues(&mut stage, "a", "insert into todo values ('u', 'of a', null, 0)");
    stage.play(&["postgres: start"]);
    wait::until_ok("a syncs", || stage.client("a").try_sync());
    stage.settles_at(&["t|title of pg|note of pg|7", "u|of a|NULL|0"]);
    assert_eq!(stage.client("a").value("select count(*) from cloudsync_conflicts"), "2");
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

/// Lets the hub keep one more upload of a client; gives how many wait then.
fn queues(stage: &mut Stage, client: &str, write: &str) -> usize {
    stage.play(&[&format!("{client}: {write}")]);
    stores(stage, client);
    stage.objects("inbox").len()
}

#[test]
fn what_follows_waits_behind_it_and_is_applied_in_order() {
    let mut stage = stage();
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    // With an upload a node learns the key that entries are signed with.
    stage.client("a").join(&second.address(), tests::hub::API_KEY);
    stage.play(&["a: insert into todo values ('s', 'by the second', null, 0)", "a: sync", "postgres: stop"]);
    let writes = [
        "insert into todo values ('u', 'refused', null, 0)",
        "insert into todo values ('v', 'first', null, 0)",
        "update todo set note = 'later' where id in ('u', 'v')",
        "delete from todo where id = 't'",
    ];
    for (at, write) in writes.into_iter().enumerate() {
        // Each node in turn: the other one knows of it by the store.
        let node = if at % 2 == 0 { stage.hub.address() } else { second.address() };
        stage.client("a").join(&node, tests::hub::API_KEY);
        assert_eq!(queues(&mut stage, "a", write), at + 1, "{write}");
    }
    // Asked again, by the other node, it is the same.
    stores(&mut stage, "a");
    assert_eq!(stage.objects("inbox").len(), 4);
    second.stop(Signal::Kill);
    stage.play(&["hub: kill", "postgres: start", "hub: start"]);
    is_applied(&stage);
    // No device had to come back, and one that was refused keeps none behind it.
    assert_eq!(
        stage.postgres.rows("select id, title, note from todo order by id"),
        ["s|by the second|NULL", "v|first|later"]
    );
    assert_eq!(stage.postgres.rows(WRITES), ["s|INSERT|1", "t|INSERT|1", "v|INSERT|1", "v|UPDATE|1"]);
    let address = stage.hub.address();
    stage.client("a").join(&address, tests::hub::API_KEY);
    stage.play(&["a: sync"]);
    let rejected = "select tbl, key, sqlstate from cloudsync_rejected";
    assert_eq!(stage.client("a").rows(rejected), ["todo|[\"u\"]|23514"]);
    // What was sent of the row before the refusal was heard is not what is left of it.
    stage.play(&["a: update todo set title = 'mended' where id = 'u'", "a: sync"]);
    assert_eq!(stage.client("a").rows(rejected), Vec::<String>::new());
    stage.settles_at(&["s|by the second|NULL|0", "u|mended|later|0", "v|first|later|0"]);
    assert_eq!(stage.client("a").value("select count(*) from cloudsync_outbox"), "0");
}

#[test]
fn a_row_that_is_mended_behind_its_refusal_arrives() {
    let mut stage = stage();
    stage.play(&["postgres: stop"]);
    queues(&mut stage, "a", "insert into todo values ('u', 'refused', 'kept', 7)");
    assert_eq!(queues(&mut stage, "a", "update todo set title = 'mended' where id = 'u'"), 2);
    stage.play(&["postgres: start"]);
    is_applied(&stage);
    wait::until_ok("a syncs", || stage.client("a").try_sync());
    stage.settles_at(&["t|before|NULL|0", "u|mended|kept|7"]);
    assert_eq!(stage.client("a").value("select count(*) from cloudsync_rejected"), "0");
}

#[test]
fn a_queue_outlives_an_epoch() {
    let mut stage = stage();
    stage.play(&["postgres: stop"]);
    queues(&mut stage, "a", "insert into todo values ('u', 'first', null, 0)");
    assert_eq!(queues(&mut stage, "a", "update todo set note = 'second' where id = 'u'"), 2);
    stage.play(&["hub: kill", "postgres: start"]);
    stage.postgres.run("select pg_drop_replication_slot(slot_name) from pg_replication_slots");
    stage.play(&["hub: start"]);
    is_applied(&stage);
    stage.settles_at(&["t|before|NULL|0", "u|first|second|0"]);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "u|INSERT|1", "u|UPDATE|1"]);
}

#[test]
fn of_two_copies_of_a_file_that_queue_one_goes_on_and_nothing_is_lost() {
    let mut stage = stage();
    stage.play(&["postgres: stop"]);
    queues(&mut stage, "a", "insert into todo values ('u', 'before the copy', null, 0)");
    let file = stage.client("a").path().with_extension("copy");
    stage.client("a").run(&format!("vacuum into '{}'", file.display()));
    let copy = Client::open(&file);
    assert_eq!(queues(&mut stage, "a", "insert into todo values ('v', 'of the file', null, 0)"), 2);
    let address = stage.hub.address();
    copy.join(&address, tests::hub::API_KEY);
    copy.run("insert into todo values ('w', 'of the copy', null, 0)");
    // Its place is taken: it waits on the device.
    let error = copy.try_rows(STATUS).expect_err("two uploads of one place");
    assert!(error.contains("server answered 503"), "{error}");
    stage.play(&["postgres: start"]);
    is_applied(&stage);
    wait::until_ok("the copy syncs", || copy.try_sync());
    wait::until_ok("a syncs", || stage.client("a").try_sync());
    let sites = |rows: Vec<String>| rows.into_iter().collect::<std::collections::BTreeSet<_>>().len();
    let site = "select hex(cloudsync_siteid())";
    assert_eq!(
        sites([copy.rows(site), stage.client("a").rows(site)].concat()),
        2,
        "the copy is another site"
    );
    stage.settles_at(&[
        "t|before|NULL|0",
        "u|before the copy|NULL|0",
        "v|of the file|NULL|0",
        "w|of the copy|NULL|0",
    ]);
}

#[test]
fn what_follows_a_buried_upload_is_kept_and_comes_back_with_it() {
    let mut stage = stage();
    stage.play(&["postgres: stop"]);
    queues(&mut stage, "a", "insert into todo values ('u', 'first', null, 0)");
    queues(&mut stage, "a", "insert into todo values ('v', 'second', null, 0)");
    stage.hub.stop(Signal::Kill);
    let entry = stage.objects("inbox").remove(0);
    let sound = fs::read(&entry).expect("the entry can be read");
    let mut bytes = sound.clone();
    *bytes.last_mut().expect("an entry has bytes") ^= 1;
    fs::write(&entry, bytes).expect("the entry can be written");
    stage.play(&["postgres: start", "hub: start"]);
    is_applied(&stage);
    let dead =
        "select left(last_error, 11) from cloudsync.job_states where state = 'dead' order by last_error";
    assert_eq!(stage.postgres.rows(dead), ["begins with", "signature i"]);
    let buried = stage.objects("buried");
    assert_eq!(buried.len(), 2);
    // Somebody finds the sound one, and revives its job: the other one follows.
    fs::write(&buried[0], sound).expect("the entry can be written");
    stage.postgres.run(
        "select cloudsync.revive_job(job_id) from cloudsync.job_states where last_error = 'signature is wrong'",
    );
    wait::until("both are applied", || {
        (stage.postgres.value("select count(*) from todo where id in ('u', 'v')") == "2").then_some(())
    });
    stage.settles_at(&["t|before|NULL|0", "u|first|NULL|0", "v|second|NULL|0"]);
    assert_eq!(stage.postgres.rows(WRITES), ["t|INSERT|1", "u|INSERT|1", "v|INSERT|1"]);
}

#[test]
fn a_device_needs_no_buried_upload_to_go_on() {
    let mut stage = stage();
    stage.play(&["postgres: stop"]);
    for (id, title) in [("u", "first"), ("v", "second"), ("w", "third")] {
        queues(&mut stage, "a", &format!("insert into todo values ('{id}', '{title}', null, 0)"));
    }
    stage.hub.stop(Signal::Kill);
    fs::write(&stage.objects("inbox")[1], "nothing").expect("the entry can be written");
    stage.play(&["postgres: start", "hub: start"]);
    is_applied(&stage);
    assert_eq!(stage.objects("buried").len(), 2);
    stage.settles_at(&["t|before|NULL|0", "u|first|NULL|0", "v|second|NULL|0", "w|third|NULL|0"]);
    assert_eq!(stage.postgres.value("select count(*) from cloudsync.sites"), "1", "under the same site");
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
