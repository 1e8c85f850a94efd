//! Messages in the WAL that cannot be taken: they are counted and passed over, and never stop the log.

use tests::stage::{Setting, Stage};
use tests::wait;

/// Emits a message with these bytes behind a signature of the database, as only its owner can.
const SIGN_CHANGESET: &str = "
    create function sign_changeset(changeset bytea) returns void language plpgsql as $$
    declare
      v_key bytea := cloudsync.message_key() || decode(repeat('00', 32), 'hex');
      v_xid bytea := int8send(pg_current_xact_id()::text::bigint);
      v_inner bytea := '';
      v_outer bytea := '';
    begin
      for i in 0 .. 63 loop
        v_inner := v_inner || set_byte('\\x00'::bytea, 0, get_byte(v_key, i) # 54);
        v_outer := v_outer || set_byte('\\x00'::bytea, 0, get_byte(v_key, i) # 92);
      end loop;
      perform pg_logical_emit_message(true, 'cloudsync', '\\x01'::bytea || v_xid
        || sha256(v_outer || sha256(v_inner || 'cloudsync'::bytea || '\\x01'::bytea || v_xid || changeset))
        || changeset);
    end $$";

/// Returns how many messages the hub counted as skipped for a reason.
fn skipped(stage: &Stage, reason: &str) -> f64 {
    let database = &stage.database.name;
    let line = format!("cloudsync_messages_skipped_total{{database=\"{database}\",reason=\"{reason}\"}} ");
    let metrics = stage.hub.get("/metrics").body;
    let count = metrics.lines().find_map(|found| found.strip_prefix(&line));
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no {line}in\n{metrics}"))
}

#[test]
fn messages_that_are_not_ours_are_counted_by_reason_and_what_lies_beside_them_arrives() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: sync"]);
    assert_eq!(["format", "mac", "xid", "changeset"].map(|reason| skipped(&stage, reason)), [0.0; 4]);
    stage.play(&[
        "pg: select pg_logical_emit_message(true, 'cloudsync', 'not one of ours')",
        "pg: select pg_logical_emit_message(true, 'cloudsync', '')",
        "pg: begin; insert into todo values ('t', 'beside a forged message', null, 0);
             select pg_logical_emit_message(true, 'cloudsync',
                 '\\x01'::bytea || int8send(pg_current_xact_id()::text::bigint) || sha256('guessed') || 'x'::bytea); commit",
        "pg: insert into todo values ('u', 'behind them', null, 0)",
    ]);
    stage.settles_at(&["t|beside a forged message|NULL|0", "u|behind them|NULL|0"]);
    assert_eq!(
        ["format", "mac", "xid", "changeset"].map(|reason| skipped(&stage, reason)),
        [2.0, 1.0, 0.0, 0.0]
    );
    let log = stage.hub.whole_log();
    assert_eq!(log.matches("message in the WAL skipped").count(), 3, "once in each transaction:\n{log}");
}

#[test]
fn a_signed_message_of_another_transaction_is_counted() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: sync", "pg: insert into todo values ('t', 'once', null, 0)"]);
    stage.settle();
    stage.postgres.run(
        "select pg_create_logical_replication_slot('copied', 'pg_sync');
         update todo set title = 'twice' where id = 't'",
    );
    // The first message of the frame: 26 bytes of head, LSN and length before it.
    stage.postgres.run(
        "do $$
         declare
           v_frame bytea := (select data from pg_logical_slot_get_binary_changes('copied', null, null) limit 1);
         begin
           perform pg_logical_emit_message(true, 'cloudsync', substr(v_frame, 39));
         end $$;
         select pg_drop_replication_slot('copied')",
    );
    stage.settles_at(&["t|twice|NULL|0"]);
    assert_eq!(skipped(&stage, "xid"), 1.0);
}

#[test]
fn a_signed_message_that_cannot_be_read_is_counted_once_and_costs_an_epoch_but_no_row() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.postgres.run(SIGN_CHANGESET);
    stage.play(&[
        "pg: insert into todo values ('before', 'stays', null, 0)",
        "a: sync",
        "a: insert into todo values ('unsent', 'by a', null, 0)",
        "pg: begin; insert into todo values ('beside', 'arrives', null, 0); select sign_changeset('no changeset'); commit",
    ]);
    let broken = stage.postgres.value("select pg_current_wal_lsn()");
    stage.play(&["pg: insert into todo values ('behind', 'arrives', null, 0)"]);
    stage.settles_at(&[
        "before|stays|NULL|0",
        "behind|arrives|NULL|0",
        "beside|arrives|NULL|0",
        "unsent|by a|NULL|0",
    ]);
    assert_eq!(skipped(&stage, "changeset"), 1.0);
    // The slot moved over it: a hub that starts again does not meet it any more.
    wait::until("the slot moves on", || {
        let behind = format!(
            "select confirmed_flush_lsn >= '{broken}' from pg_replication_slots where slot_name =
                 'cloudsync_' || (select oid from pg_database where datname = current_database())"
        );
        (stage.postgres.value(&behind) == "t").then_some(())
    });
    stage.play(&["hub: kill", "hub: start", "pg: update todo set note = 'after' where id = 'before'"]);
    stage.settle();
    stage.all_equal();
    assert_eq!(skipped(&stage, "changeset"), 0.0, "it was met again");
}
