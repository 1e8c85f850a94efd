//! The measured work. One process does all of it for one subject and prints one figure a line, so that nothing
//! of one subject is in the memory or caches of another.
//!
//! What plain SQLite does for each figure is said beside the figure in `report.rs`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{fs, time::Duration};

use rusqlite::{Connection, params};
use rustix::time::{ClockId, clock_gettime};

use crate::rows::{Row, row, shuffled};
use crate::subject::{Subject, remove, run};

/// Rows of one transaction where the figure says no other number.
const BATCH: usize = 1_000;

/// A peer whose ALTER is quadratic gets this part of the rows.
const PEER_ALTER_PART: usize = 20;

/// What one process has to measure.
pub(crate) struct Work {
    pub(crate) subject: Subject,
    pub(crate) dir: PathBuf,
    pub(crate) rows: u32,
    pub(crate) large: u32,
    /// Where uploads are taken in.
    pub(crate) server: String,
}

/// User and system time that this process has used.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Runs something and prints the CPU time that it took.
fn measure<T>(figure: &str, work: impl FnOnce() -> T) -> T {
    let start = cpu();
    let result = work();
    say(figure, (cpu() - start).as_secs_f64());
    result
}

fn say(figure: &str, value: f64) {
    writeln!(io::stdout(), "{figure} {value}").expect("the process that measures reads this");
}

impl Work {
    /// Does everything.
    pub(crate) fn run(&self) {
        let rows: Vec<Row> = (0..self.rows).map(row).collect();
        let order: Vec<usize> =
            shuffled(self.rows).into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect();
        let payload = self.writes(&rows, &order);
        self.single(&rows[..rows.len() / 10]);
        self.total(&rows);
        self.apply(&rows, &order, payload.as_deref());
        self.add_column(&rows);
        self.large();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}-{name}.sqlite", self.subject.name()))
    }

    /// Inserts, reads, exports, updates and deletes; returns the whole table as payload.
    fn writes(&self, rows: &[Row], order: &[usize]) -> Option<Vec<u8>> {
        let (subject, path) = (self.subject, self.path("writes"));
        let connection = subject.fresh(&path);
        measure("insert", || insert(&connection, rows, BATCH));
        say("inserted_bytes", used_bytes(&connection));
        measure("points", || points(&connection, rows, order));
        let payload = if subject.syncs() {
            let payload = measure("export", || subject.encode(&connection, 0));
            say("payload_bytes", megabytes(payload.len()));
            Some(payload)
        } else {
            measure("export", || json(&connection));
            None
        };
        measure("update", || update(&connection, rows, order, "title"));
        measure("delete", || delete(&connection, rows, order));
        subject.close(connection);
        remove(&path);
        payload
    }

    fn single(&self, rows: &[Row]) {
        let path = self.path("single");
        let connection = self.subject.fresh(&path);
        measure("single", || insert(&connection, rows, 1));
        self.subject.close(connection);
        remove(&path);
    }

    /// Everything that an app pays until its rows are at the server and the server's answer is taken in.
    fn total(&self, rows: &[Row]) {
        let (subject, path) = (self.subject, self.path("total"));
        let connection = subject.fresh(&path);
        if subject == Subject::Ours {
            run(&connection, &format!("select cloudsync_network_init('{}')", self.server));
        }
        measure("total", || {
            insert(&connection, rows, BATCH);
            self.send(&connection);
        });
        say("synced_bytes", used_bytes(&connection));
        subject.close(connection);
        remove(&path);
    }

    /// Exports and acknowledges. What a peer does at an acknowledgement is to store one number.
    fn send(&self, connection: &Connection) {
        match self.subject {
            Subject::Plain => json(connection),
            Subject::Ours => run(connection, "select cloudsync_network_send_changes()"),
            Subject::Peer => drop(self.subject.encode(connection, 0)),
        }
    }

    /// The whole table into an empty file, the same again, then a merge where half of the rows were written on
    /// both sides, which the other side did in no order of its keys.
    fn apply(&self, rows: &[Row], order: &[usize], payload: Option<&[u8]>) {
        let (subject, path, other) = (self.subject, self.path("apply"), self.path("other"));
        let connection = subject.fresh(&path);
        let Some(payload) = payload else {
            measure("apply", || insert(&connection, rows, rows.len()));
            measure("again", || upsert(&connection, rows.iter()));
            let half = &order[..order.len() / 2];
            update(&connection, rows, half, "title");
            measure("merge", || upsert(&connection, order.iter().map(|at| &rows[*at])));
            update(&connection, rows, half, "title");
            measure("merge_by_key", || upsert(&connection, rows.iter()));
            return subject.close(connection);
        };
        measure("apply", || Subject::apply(&connection, payload));
        measure("again", || Subject::apply(&connection, payload));
        let author = subject.fresh(&other);
        Subject::apply(&author, payload);
        let since = Subject::db_version(&author);
        update(&connection, rows, &order[..order.len() / 2], "title");
        update(&author, rows, order, "title");
        let edits = subject.encode(&author, since);
        let start = cpu();
        measure("merge", || Subject::apply(&connection, &edits));
        say("merge_by_key", (cpu() - start).as_secs_f64());
        subject.close(author);
        subject.close(connection);
        remove(&path);
        remove(&other);
    }

    fn add_column(&self, rows: &[Row]) {
        let (subject, path) = (self.subject, self.path("alter"));
        let connection = subject.fresh(&path);
        let part = if subject == Subject::Peer { PEER_ALTER_PART } else { 1 };
        insert(&connection, &rows[..rows.len() / part], BATCH);
        if subject.syncs() {
            drop(subject.encode(&connection, 0));
        }
        measure("add_column", || subject.add_column(&connection));
        subject.close(connection);
        remove(&path);
    }

    /// A filled table is tracked, then received by another file.
    fn large(&self) {
        let (subject, path) = (self.subject, self.path("large"));
        let filled = |count: u32| {
            let connection = Subject::Plain.fresh(&path);
            insert(&connection, &(0..count).map(row).collect::<Vec<_>>(), BATCH);
            Subject::Plain.close(connection);
            subject.open(&path)
        };
        let received = self.path("received");
        if !subject.syncs() {
            let rows: Vec<Row> = (0..self.large).map(row).collect();
            let connection = subject.fresh(&received);
            measure("received", || insert(&connection, &rows, BATCH));
            subject.close(connection);
            return remove(&received);
        }
        let connection = filled(self.rows);
        measure("init", || subject.init(&connection));
        subject.close(connection);
        let connection = filled(self.large);
        measure("init_large", || subject.init(&connection));
        let payload = subject.encode(&connection, 0);
        subject.close(connection);
        remove(&path);
        let connection = subject.fresh(&received);
        measure("received", || Subject::apply(&connection, &payload));
        drop(payload);
        subject.close(connection);
        remove(&received);
        if subject == Subject::Ours {
            self.send_large(&path);
        }
    }

    /// Greatest memory while a long log is sent, above what the process had before.
    fn send_large(&self, path: &Path) {
        let connection = self.subject.fresh(path);
        run(&connection, &format!("select cloudsync_network_init('{}')", self.server));
        for from in (0..self.large).step_by(BATCH) {
            let batch: Vec<Row> = (from..from.saturating_add(1_000).min(self.large)).map(row).collect();
            insert(&connection, &batch, BATCH);
        }
        fs::write("/proc/self/clear_refs", "5").expect("the kernel forgets the greatest size");
        let before = memory("VmRSS");
        run(&connection, "select cloudsync_network_send_changes()");
        say("send_memory", (memory("VmHWM") - before).max(0.0));
        self.subject.close(connection);
        remove(path);
    }
}

fn insert(connection: &Connection, rows: &[Row], batch: usize) {
    let mut statement =
        connection.prepare("insert into item values (?1, ?2, ?3, ?4, ?5)").expect("the table is there");
    for rows in rows.chunks(batch) {
        run(connection, "begin immediate");
        for row in rows {
            let values = params![row.id, row.title, row.note, row.amount, row.price];
            statement.execute(values).expect("a row goes in");
        }
        run(connection, "commit");
    }
}

/// Writes all columns of rows in one transaction, in the order in which they come.
fn upsert<'r>(connection: &Connection, rows: impl Iterator<Item = &'r Row>) {
    let sql = "insert into item values (?1, ?2, ?3, ?4, ?5) on conflict (id) do update set
        title = excluded.title, note = excluded.note, amount = excluded.amount, price = excluded.price";
    let mut statement = connection.prepare(sql).expect("the table is there");
    run(connection, "begin immediate");
    for row in rows {
        let values = params![row.id, row.title, row.note, row.amount, row.price];
        statement.execute(values).expect("a row goes in");
    }
    run(connection, "commit");
}

/// Writes one column of the rows that are named, in their order.
fn update(connection: &Connection, rows: &[Row], order: &[usize], column: &str) {
    let sql = format!("update item set {column} = {column} || ' edited' where id = ?1");
    let mut statement = connection.prepare(&sql).expect("the table is there");
    each_key(connection, rows, order, |id| statement.execute([id]).expect("a row is written"));
}

fn delete(connection: &Connection, rows: &[Row], order: &[usize]) {
    let mut statement = connection.prepare("delete from item where id = ?1").expect("the table is there");
    each_key(connection, rows, order, |id| statement.execute([id]).expect("a row goes"));
}

fn each_key(connection: &Connection, rows: &[Row], order: &[usize], mut each: impl FnMut(&str) -> usize) {
    for batch in order.chunks(BATCH) {
        run(connection, "begin immediate");
        for at in batch {
            assert_eq!(each(&rows[*at].id), 1, "every key is there");
        }
        run(connection, "commit");
    }
}

fn points(connection: &Connection, rows: &[Row], order: &[usize]) {
    let mut statement = connection.prepare("select * from item where id = ?1").expect("the table is there");
    for at in order {
        let amount: i64 = statement.query_row([&rows[*at].id], |row| row.get(3)).expect("the row is there");
        assert_eq!(amount, rows[*at].amount, "the row is the right one");
    }
}

/// The whole table as one value, which is what an export makes.
fn json(connection: &Connection) {
    let sql = "select json_group_array(json_array(id, title, note, amount, price)) from item";
    let length: usize = connection
        .query_row(sql, [], |row| Ok(row.get_ref(0)?.as_str()?.len()))
        .expect("the table can be made into JSON");
    assert!(length > 0, "there are rows");
}

/// Size of the file without its free pages.
fn used_bytes(connection: &Connection) -> f64 {
    let number =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).expect("a size is there");
    let pages = number("pragma page_count") - number("pragma freelist_count");
    f64::from(pages) * f64::from(number("pragma page_size")) / 1e6
}

fn megabytes(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1e6
}

/// A size of this process in MB, by its name in the kernel's status file.
fn memory(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("the kernel tells sizes");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u32>().ok());
    f64::from(kib.expect("the size has a line")) / 1e3
}
