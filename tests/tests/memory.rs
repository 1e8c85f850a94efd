//! What the hub holds in memory stays within its budget, whatever is written and however slow the store is.

use tests::hub::Hub;
use tests::object_store::{Blocked, Slow, StoreKind};
use tests::stage::{Setting, Stage};
use tests::wait;

const MIB: u32 = 1024 * 1024;

/// The budget for logs, the least that a hub takes.
const BUDGET: u32 = 4 * MIB;

/// The largest frame of the plugin: what may come on top.
const FRAME: u32 = MIB;

/// What the whole process may have: the budget, what it reads from the store, and the program itself.
const RESIDENT_MIB_MAX: u64 = 160;

const ROWS: u32 = 1_000_000;

/// Bytes of the log in memory; it panics when that is more than the hub may have.
fn log_bytes(hub: &Hub) -> f64 {
    let bytes = hub.metric("cloudsync_log_memory_bytes");
    assert!(
        bytes <= f64::from(BUDGET + FRAME),
        "{bytes} bytes of the log are in memory, the budget is {BUDGET}"
    );
    let resident = hub.resident_bytes() / u64::from(MIB);
    assert!(resident <= RESIDENT_MIB_MAX, "the hub has {resident} MiB");
    bytes
}

/// A stage whose hub has the small budget, and a client that is up to date.
fn stage(store: StoreKind) -> Stage {
    let mut stage = Stage::new(Setting { store, ..Setting::PLAIN });
    stage.play(&["hub: terminate"]);
    stage.hub.set("CLOUDSYNC_LOG_MEMORY_BYTES_MAX", &BUDGET.to_string());
    stage.hub.set("CLOUDSYNC_READ_CACHE_BYTES_MAX", &(8 * MIB).to_string());
    stage.play(&["hub: start", "pg: insert into todo values ('first', 'before', null, 0)", "a: sync"]);
    stage.settle();
    stage
}

/// Writes rows in one transaction.
fn write(stage: &Stage, rows: u32) {
    stage.postgres.run(&format!(
        "insert into todo select 'k' || n, md5(n::text), md5((-n)::text), n from generate_series(1, {rows}) n"
    ));
}

/// Waits until the hub has as much of the log in memory as it may, while more waits in Postgres.
fn stops_reading(hub: &Hub, rows: u32) {
    wait::until_deadline("the hub stops reading", 5 * wait::PATIENCE, || {
        let bytes = log_bytes(hub);
        if bytes >= f64::from(BUDGET / 2) { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
    assert!(hub.metric("cloudsync_ingested_rows_total") < f64::from(rows), "the rest waits in Postgres");
}

/// Waits until every row was read, and a client has it.
fn arrives(stage: &mut Stage, rows: u32) {
    wait::until_deadline("the hub has read all rows", 5 * wait::PATIENCE, || {
        log_bytes(&stage.hub);
        let found = stage.hub.metric("cloudsync_ingested_rows_total");
        if found > f64::from(rows) { Ok(()) } else { Err(format!("{found} rows")) }
    });
    stage.settle();
    log_bytes(&stage.hub);
    assert_eq!(stage.client("a").value("select count(*) from todo"), (rows + 1).to_string());
}

#[test]
fn a_store_that_is_slow_slows_the_slot_and_not_more_is_in_memory() {
    let mut stage = stage(StoreKind::Moto);
    let slow = Slow::begin();
    write(&stage, ROWS / 4);
    stops_reading(&stage.hub, ROWS / 4);
    arrives(&mut stage, ROWS / 4);
    drop(slow);
}

#[test]
fn a_million_rows_in_one_transaction_wait_in_postgres_for_a_store_that_does_not_answer() {
    let mut stage = stage(StoreKind::Directory);
    let confirmed = format!(
        "select confirmed_flush_lsn from pg_replication_slots where database = '{}' and not temporary",
        stage.database.name
    );
    let blocked = Blocked::new(stage.hub.store_directory());
    let before = stage.postgres.value(&confirmed);
    write(&stage, ROWS);
    stops_reading(&stage.hub, ROWS);
    assert_eq!(stage.postgres.value(&confirmed), before, "the slot stays where the store is");
    drop(blocked);
    arrives(&mut stage, ROWS);
}
