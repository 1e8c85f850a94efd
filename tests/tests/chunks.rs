//! Uploads that are larger than one body: sent in chunks, and applied in one transaction, whatever happens on the way.

use std::fs;
use std::path::PathBuf;

use tests::process::Signal;
use tests::stage::{Setting, Stage, on_both};
use tests::wait;

/// Hex of random bytes: about 16 MiB after compression, where one body holds 8.
const WRITE: &str = "a: with recursive n (n) as (values (1) union all select n + 1 from n where n < 2000)
    insert into todo select 'k' || n, hex(randomblob(8000)), null, n from n";

/// Lets a sync fail behind its second chunk.
const BREAK_OFF: &str = "a: create trigger broken before insert on cloudsync_settings
    when new.key = 'progress_chunks' and new.value = 2 begin select raise(abort, 'the app was ended'); end";

/// Notes in Postgres by which transaction each row came.
const TRANSACTIONS: &str = "create table came (id text, xid xid8);
    create function note_xid() returns trigger language plpgsql security definer as
    $$ begin insert into public.came values (new.id, pg_current_xact_id()); return null; end $$;
    create trigger note_xid after insert on todo for each row execute function note_xid()";

const CAME: &str = "select count(*), count(distinct id), count(distinct xid::text) from came";
const STATUS: &str = "select json_extract(cloudsync_network_send_changes(), '$.send.status')";
const LEFT: &str = "select count(*) from cloudsync_outbox_chunks";

fn own_postgres() -> Stage {
    let mut stage = Stage::new(Setting { own_cluster: true, ..Setting::PLAIN });
    stage.postgres.run(TRANSACTIONS);
    stage.play(&["a: sync", "b: sync", "all: settle"]);
    wait::until("jobs are made, which is after the hub has learned the key of its inbox", || {
        let metrics = stage.hub.get("/metrics").body;
        let mut jobs =
            metrics.lines().filter(|line| line.starts_with("cloudsync_jobs{") && !line.ends_with(" 0"));
        jobs.next().map(drop)
    });
    stage
}

fn came_at_once(stage: &mut Stage) {
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.postgres.rows(CAME), ["2000|2000|1"]);
    assert_eq!(stage.objects("chunks"), Vec::<PathBuf>::new(), "what is applied is not kept");
    assert_eq!(stage.client("a").value(LEFT), "0");
}

#[test]
fn what_is_larger_than_a_body_is_applied_as_one() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["b: sync", WRITE, "a: sync"]);
        let metrics = stage.hub.get("/metrics").body;
        let applied =
            metrics.lines().find(|line| line.contains("uploads_total") && line.contains("\"applied\""));
        assert_eq!(
            applied.and_then(|line| line.rsplit(' ').next()),
            Some("1"),
            "one upload brought all rows"
        );
        stage.settle();
        stage.all_equal();
        assert_eq!(stage.client("b").value("select count(*), sum(done) from todo"), "2000|2001000");
    });
}

#[test]
fn a_sync_that_breaks_off_goes_on_at_another_node() {
    let mut stage = own_postgres();
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    stage.play(&[WRITE, BREAK_OFF, "a: sync fails"]);
    assert_eq!(stage.objects("chunks").len(), 2, "two chunks are kept");
    assert_eq!(stage.postgres.value("select count(*) from todo"), "0", "and nothing of them is visible");
    stage.play(&["a: drop trigger broken"]);
    stage.hub.stop(Signal::Kill);
    stage.client("a").join(&second.address(), tests::hub::API_KEY);
    wait::until_ok("the other node takes the rest", || stage.client("a").try_sync());
    assert_eq!(stage.postgres.rows(CAME), ["2000|2000|1"]);
    stage.play(&["hub: start"]);
    came_at_once(&mut stage);
}

#[test]
fn chunks_that_went_lost_or_were_tampered_with_are_sent_again() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["a: sync", WRITE, BREAK_OFF, "a: sync fails", "a: drop trigger broken", "hub: kill"]);
        let kept = stage.objects("chunks");
        fs::remove_file(&kept[0]).expect("a chunk can be removed");
        let mut bytes = fs::read(&kept[1]).expect("a chunk can be read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&kept[1], bytes).expect("a chunk can be written");
        stage.play(&["hub: start"]);
        wait::until_ok("a syncs", || stage.client("a").try_sync());
        assert_eq!(stage.postgres.value("select count(*) from todo"), "2000");
        assert_eq!(stage.objects("chunks"), Vec::<PathBuf>::new());
        stage.settle();
        stage.all_equal();
    });
}

#[test]
fn what_was_taken_in_chunks_while_postgres_was_away_is_applied_as_one() {
    let mut stage = own_postgres();
    stage.play(&["postgres: stop", WRITE]);
    assert_eq!(stage.client("a").value(STATUS), "syncing", "the hub keeps what a sends");
    assert_eq!(stage.objects("inbox").len(), 1);
    assert!(stage.objects("chunks").len() >= 2);
    stage.play(&["hub: kill", "postgres: start", "hub: start"]);
    wait::until("the inbox is empty", || stage.objects("inbox").is_empty().then_some(()));
    assert_eq!(stage.postgres.rows(CAME), ["2000|2000|1"], "without the device");
    came_at_once(&mut stage);
}

#[test]
fn uploads_in_chunks_wait_behind_each_other() {
    let mut stage = own_postgres();
    stage.play(&["postgres: stop", WRITE]);
    assert_eq!(stage.client("a").value(STATUS), "syncing");
    stage.play(&["a: update todo set note = hex(randomblob(6000)) where done <= 1500"]);
    assert_eq!(stage.client("a").value(STATUS), "syncing");
    stage.play(&["a: update todo set done = done + 1 where id = 'k1'"]);
    assert_eq!(stage.client("a").value(STATUS), "syncing");
    assert_eq!(stage.objects("inbox").len(), 3);
    assert!(stage.objects("chunks").len() >= 3, "of two of them");
    stage.play(&["hub: kill", "postgres: start", "hub: start"]);
    wait::until("the inbox is empty", || stage.objects("inbox").is_empty().then_some(()));
    let at_server = "select count(*), count(note), sum(done) from todo";
    assert_eq!(stage.postgres.rows(at_server), ["2000|1500|2001001"], "without the device");
    came_at_once(&mut stage);
}
