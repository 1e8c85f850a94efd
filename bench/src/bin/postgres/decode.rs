//! Decoding: the CPU time of the process that sends a slot's changes to `pg_recvlogical`.

use std::process::{Child, Command, Stdio};

use tests::postgres::{Database, SUPERUSER};
use tests::sql::Session;
use tests::wait;

use crate::backend::cpu_s;
use crate::work::Figures;

/// A plugin, its options, and the table that is written for it.
struct Subject {
    figure: &'static str,
    plugin: &'static str,
    options: &'static [&'static str],
    table: &'static str,
    /// The figure of heap rows, and how to know one by the first byte of what is sent.
    sent: &'static str,
    is_row: &'static str,
}

/// `pgoutput` sends the rows of a table without capture, ours the messages that capture wrote of the same rows.
const SUBJECTS: [Subject; 2] = [
    Subject {
        figure: "decode.plain",
        plugin: "pgoutput",
        options: &["proto_version=2", "publication_names=bench", "binary=on"],
        table: "decoded_plain",
        sent: "sent.plain",
        is_row: "in (ascii('I'), ascii('U'), ascii('D'))",
    },
    // Whatever is not a frame of ours, which begins with its format.
    Subject {
        figure: "decode.ours",
        plugin: "pg_sync",
        options: &[],
        table: "decoded_ours",
        sent: "sent.ours",
        is_row: "<> 1",
    },
];

/// Ends a program that was started here.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Decodes as many new rows by both plugins.
pub(crate) fn figures(database: &Database, rows: u32, columns: &str) -> Figures {
    let session = database.session();
    session.run(&format!(
        "drop publication if exists bench; drop table if exists decoded_plain, decoded_ours;
         create table decoded_plain ({columns}); create table decoded_ours ({columns})"
    ));
    session.run("select cloudsync_init('public.decoded_ours')");
    session.run("create publication bench for table decoded_plain");
    let cpu = SUBJECTS.iter().map(|subject| (subject.figure, decoded(database, &session, subject, rows)));
    let cpu: Figures = cpu.collect();
    let sent = SUBJECTS.iter().map(|subject| (subject.sent, rows_sent(&session, subject, rows)));
    cpu.into_iter().chain(sent).collect()
}

/// How many heap rows are sent of an update of some of the rows.
fn rows_sent(session: &Session, subject: &Subject, rows: u32) -> f64 {
    let Subject { plugin, table, is_row, options, .. } = subject;
    let updated = rows.min(10_000);
    session.run(&format!("select pg_create_logical_replication_slot('bench', '{plugin}')"));
    session.run(&format!(
        "update {table} set amount = amount + 1 where id in (select id from source limit {updated})"
    ));
    let options = options.iter().filter_map(|option| option.split_once('='));
    let options: String = options.map(|(name, value)| format!(", '{name}', '{value}'")).collect();
    let sent = session.value(&format!(
        "select concat_ws(' ', count(*) > 0, count(*) filter (where get_byte(data, 0) {is_row}))
         from pg_logical_slot_get_binary_changes('bench', null, null{options})"
    ));
    session.run("select pg_drop_replication_slot('bench')");
    let rows = sent.strip_prefix("t ").expect("something is sent");
    rows.parse().expect("a count is a number")
}

fn decoded(database: &Database, session: &Session, subject: &Subject, rows: u32) -> f64 {
    let Subject { plugin, table, .. } = subject;
    let slot = "bench";
    session.run(&format!("select pg_create_logical_replication_slot('{slot}', '{plugin}')"));
    session.run(&format!("insert into {table} select * from source limit {rows}"));
    let end = session.value("select pg_current_wal_flush_lsn()");
    let receiver = receive(database, slot, subject.options);
    let pid: u32 = wait::until("the slot is read", || {
        let pid = session.value(&format!(
            "select coalesce(active_pid, 0) from pg_replication_slots where slot_name = '{slot}'"
        ));
        pid.parse().ok().filter(|pid| *pid != 0)
    });
    let mut cpu = 0.0;
    wait::until("everything is sent and confirmed", || {
        let done = session.value(&format!(
            "select coalesce(flush_lsn >= '{end}', false) from pg_stat_replication where pid = {pid}"
        ));
        cpu = cpu_s(pid);
        (done == "t").then_some(())
    });
    drop(receiver);
    wait::until("the slot is free", || {
        let free = format!("select active from pg_replication_slots where slot_name = '{slot}'");
        (session.value(&free) == "f").then_some(())
    });
    session.run(&format!("select pg_drop_replication_slot('{slot}')"));
    cpu
}

/// Starts a client that throws away what it receives.
fn receive(database: &Database, slot: &str, options: &[&str]) -> Receiver {
    let mut command = Command::new("pg_recvlogical");
    command.args(["--start", "--no-loop", "--file", "/dev/null", "--status-interval", "1"]);
    command.args(["--fsync-interval", "0", "--slot", slot, "--dbname", &database.url(SUPERUSER)]);
    for option in options {
        command.args(["--option", option]);
    }
    let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
    Receiver(child.expect("pg_recvlogical can be started: it comes with Postgres"))
}
