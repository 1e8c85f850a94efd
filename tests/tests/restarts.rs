//! Hubs that are killed and Postgres servers that are restarted: nothing is lost, nothing comes twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::object_store::StoreKind;
use tests::process::Signal;
use tests::stage::{Centre, Setting, Stage, on_both};
use tests::wait;

/// Counts in the centre how often each row was really written, by whomever.
const COUNT_WRITES_IN_A_FILE: &str = "create table writes (id text, what text);
    create trigger count_inserts after insert on todo begin insert into writes values (new.id, 'INSERT'); end;
    create trigger count_updates after update on todo begin insert into writes values (new.id, 'UPDATE'); end;
    create trigger count_deletes after delete on todo begin insert into writes values (old.id, 'DELETE'); end";

/// The same in Postgres.
const COUNT_WRITES: &str = "create table writes (id text, what text);
    create function count_writes() returns trigger language plpgsql security definer as
    $$ begin insert into public.writes values (coalesce(new.id, old.id), tg_op); return null; end $$;
    create trigger count_writes after insert or update or delete on todo
        for each row execute function count_writes()";

fn counting_stage(setting: Setting<'_>) -> Stage {
    let stage = Stage::new(setting);
    stage.postgres.run(match setting.centre {
        Centre::Postgres => COUNT_WRITES,
        Centre::SqliteFile => COUNT_WRITES_IN_A_FILE,
    });
    stage
}

fn a_hub_killed_between_upload_and_download_loses_nothing(setting: Setting<'_>) {
    let mut stage = counting_stage(setting);
    stage.play(&[
        "a: sync",
        "b: sync",
        "a: insert into todo values ('t', 'from a', null, 0)",
        "a: select cloudsync_network_send_changes()",
        "hub: kill",
        "b: sync fails",
        "b: insert into todo values ('u', 'from b', null, 0)",
        "hub: start",
        "a: sync",
        "b: sync",
    ]);
    stage.settles_at(&["t|from a|NULL|0", "u|from b|NULL|0"]);
    assert_eq!(stage.postgres.rows("select id, what from writes order by id"), ["t|INSERT", "u|INSERT"]);
}

#[test]
fn a_hub_killed_between_upload_and_download_loses_nothing_on_a_directory() {
    on_both(a_hub_killed_between_upload_and_download_loses_nothing);
}

#[test]
fn a_hub_killed_between_upload_and_download_loses_nothing_on_s3() {
    a_hub_killed_between_upload_and_download_loses_nothing(Setting {
        store: StoreKind::Moto,
        ..Setting::PLAIN
    });
}

fn a_hub_killed_while_it_ingests_loses_nothing(setting: Setting<'_>) {
    const TRANSACTIONS: usize = 400;
    const KILLS: usize = 6;
    let mut stage = counting_stage(setting);
    stage.play(&["a: sync"]);
    let writer = stage.database.session();
    let title = "x".repeat(500);
    let committed = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..TRANSACTIONS {
                writer.run(&format!(
                    "with recursive m (m) as (values (1) union all select m + 1 from m where m < 20)
                         insert into todo select 'k' || {n} || '-' || m, '{title}', null, m from m;
                     update todo set note = 'seen' where id = 'k' || {n} / 2 || '-1'"
                ));
                committed.store(n + 1, Ordering::Release);
            }
        });
        for kill in 1..=KILLS {
            wait::until("the writer commits", || {
                (committed.load(Ordering::Acquire) >= kill * TRANSACTIONS / (KILLS + 1)).then_some(())
            });
            stage.play(&["hub: kill", "hub: start", "a: sync"]);
        }
    });
    stage.play(&["b: sync"]);
    stage.settle();
    stage.all_equal();
    let rows = (TRANSACTIONS * 20).to_string();
    assert_eq!(stage.client("a").value("select count(*) from todo"), rows);
    assert_eq!(stage.postgres.value("select count(*) from writes where what = 'INSERT'"), rows);
}

#[test]
fn a_hub_killed_while_it_ingests_loses_nothing_on_a_directory() {
    on_both(a_hub_killed_while_it_ingests_loses_nothing);
}

#[test]
fn a_hub_killed_while_it_ingests_loses_nothing_on_s3() {
    a_hub_killed_while_it_ingests_loses_nothing(Setting { store: StoreKind::Moto, ..Setting::PLAIN });
}

#[test]
fn a_hub_killed_amid_uploads_applies_each_of_them_once() {
    on_both(|setting| {
        const ROWS: usize = 30;
        const COUNT: &str = "select count(*) from writes";
        let mut stage = counting_stage(setting);
        stage.play(&["b: sync"]);
        let device = stage.stranger("device");
        device.join(&stage.hub.address(), tests::hub::API_KEY);
        let done = AtomicBool::new(false);
        let Stage { hub, postgres, .. } = &mut stage;
        thread::scope(|scope| {
            let done = &done;
            scope.spawn(move || {
                for n in 0..ROWS {
                    device.run(&format!("insert into todo values ('k{n}', 'title', null, {n})"));
                    // Where the hub died under it, the client cannot know: it keeps the upload and sends it again.
                    wait::until_ok("the upload is answered", || {
                        device.try_rows("select cloudsync_network_send_changes()")
                    });
                }
                done.store(true, Ordering::Release);
            });
            // It dies as soon as it takes uploads, and the next time as soon as one of them is written.
            let mut is_patient = false;
            while !done.load(Ordering::Acquire) {
                let before = postgres.value(COUNT);
                if is_patient {
                    wait::until("an upload is written", || {
                        (done.load(Ordering::Acquire) || postgres.value(COUNT) != before).then_some(())
                    });
                }
                is_patient = !is_patient;
                hub.stop(Signal::Kill);
                hub.start_again();
            }
        });
        stage.settle();
        stage.all_equal();
        let counts = "select count(*), count(distinct id) from writes where what = 'INSERT'";
        assert_eq!(stage.postgres.value(counts), format!("{ROWS}|{ROWS}"));
        assert_eq!(stage.postgres.value("select count(*) from writes where what <> 'INSERT'"), "0");
        assert_eq!(stage.client("b").value("select count(*) from todo"), ROWS.to_string());
    });
}

#[test]
fn a_hub_that_is_asked_to_end_ends_while_clients_wait() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["a: sync"]);
        stage.settle();
        let waiting = stage.stranger("waiting");
        waiting.join(&stage.hub.address(), tests::hub::API_KEY);
        waiting.sync();
        let poll = thread::spawn(move || waiting.try_rows("select cloudsync_network_sync(60000, 1)"));
        wait::until("the client waits at the hub", || {
            (stage.hub.metric("cloudsync_long_polls_open") > 0.0).then_some(())
        });
        let asked = Instant::now();
        stage.hub.stop(Signal::Terminate);
        assert!(
            asked.elapsed() < Duration::from_secs(30),
            "the hub does not wait out the minute of the client"
        );
        assert!(poll.join().is_ok(), "the waiting client does not panic");
        stage.play(&["hub: start", "pg: insert into todo values ('t', 'after', null, 0)"]);
        stage.settles_at(&["t|after|NULL|0"]);
    });
}

fn postgres_restarts_under_a_running_hub(store: StoreKind, how: &str) {
    let mut stage = Stage::new(Setting { store, own_cluster: true, ..Setting::PLAIN });
    stage.postgres.run(COUNT_WRITES);
    stage.play(&[
        "a: insert into todo values ('t', 'before', null, 0)",
        "a: sync",
        "b: sync",
        "all: settle",
        "a: insert into todo values ('u', 'while away', null, 0)",
        "a: update todo set note = 'while away' where id = 't'",
        how,
        "a: sync",
        "b: insert into todo values ('v', 'also', null, 0)",
        "b: sync",
        "postgres: start",
        "pg: insert into todo values ('w', 'in postgres', null, 0)",
    ]);
    assert!(stage.hub.is_running(), "the hub outlives Postgres");
    stage.settles_at(&[
        "t|before|while away|0",
        "u|while away|NULL|0",
        "v|also|NULL|0",
        "w|in postgres|NULL|0",
    ]);
    let counts = "select id, count(*) from writes where what = 'INSERT' group by id order by id";
    assert_eq!(stage.postgres.rows(counts), ["t|1", "u|1", "v|1", "w|1"]);
}

#[test]
fn postgres_restarts_under_a_hub_on_a_directory() {
    postgres_restarts_under_a_running_hub(StoreKind::Directory, "postgres: stop");
}

#[test]
fn postgres_restarts_under_a_hub_on_s3() {
    postgres_restarts_under_a_running_hub(StoreKind::Moto, "postgres: stop");
}

#[test]
fn postgres_is_killed_under_a_hub() {
    postgres_restarts_under_a_running_hub(StoreKind::Directory, "postgres: kill");
}

#[test]
fn the_slot_of_an_idle_database_still_advances() {
    let mut stage = Stage::new(Setting { own_cluster: true, ..Setting::PLAIN });
    stage.play(&["a: insert into todo values ('t', 'only row', null, 0)", "a: sync", "all: settle"]);
    // Somebody else's database on the same server, which the hub has nothing to do with.
    stage.postgres.run("create database noise");
    let name = &stage.database.name;
    let noise = tests::sql::Session::connect(
        &stage.database.url(tests::postgres::SUPERUSER).replace(&format!("/{name}"), "/noise"),
    );
    noise.run("create table noise as select n, repeat('x', 200) from generate_series(1, 100000) n");
    let target = noise.value("select pg_current_wal_lsn()");
    let slot = format!(
        "select confirmed_flush_lsn >= '{target}' from pg_replication_slots
         where slot_name = 'cloudsync_' || (select oid from pg_database where datname = '{name}')"
    );
    // An idle marker is due once a minute.
    wait::until_deadline("the slot has passed the noise", 2 * wait::PATIENCE, || {
        match stage.postgres.value(&slot).as_str() {
            "t" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    stage.settles_at(&["t|only row|NULL|0"]);
}
