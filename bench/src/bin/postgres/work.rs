//! The measured works. Each gives its figures by name: `<figure>.plain` is what Postgres needs without us,
//! `<figure>.ours` the same with us.

use std::time::Instant;

use tests::client::Client;
use tests::places;
use tests::postgres::Database;
use tests::sql::Session;

use crate::backend::Backend;
use crate::decode;

/// Columns of every measured table: a key as devices make them, two texts, two numbers.
const COLUMNS: &str =
    "id uuid primary key, title text not null, note text, amount integer, price double precision";

/// Statements of one measurement of single statements, and commits that wait for the disk.
const STATEMENTS: u32 = 10_000;
const COMMITS: u32 = 4_000;

/// Figures of one work.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// What is measured, and how large.
pub(crate) struct Bench {
    pub(crate) database: Database,
    /// Rows of a bulk statement.
    pub(crate) rows: u32,
    /// Rows that are decoded.
    pub(crate) decoded: u32,
    /// Rows of the table that `cloudsync_init` finds.
    pub(crate) filled: u32,
}

/// Both subjects: the name of the table, and whether it is captured.
const SUBJECTS: [(&str, bool); 2] = [("plain", false), ("ours", true)];

impl Bench {
    /// Makes the rows that all works write: keys in the order of their time, as UUIDv7 are.
    pub(crate) fn prepare(&self) {
        let rows = self.rows.max(self.decoded);
        self.database.session().run(&format!(
            "create unlogged table source as
             select
               (lpad(to_hex(1780000000000 + n * 3), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
                 || substr(md5('a' || n), 1, 15))::uuid as id,
               'a title of some words ' || n as title,
               'a note that says a little more than the title ' || md5(n::text) as note,
               n % 1000 as amount,
               n / 100.0::double precision as price
             from generate_series(1, {rows}) as n order by n;
             alter table source add primary key (id); analyze source; select count(*) from source"
        ));
    }

    /// Does one work once.
    pub(crate) fn run(&self, work: &str, run: u32) -> Figures {
        match work {
            "insert" => self.bulk(run, ["insert.plain", "insert.ours"], ""),
            "update" => self.bulk(run, ["update.plain", "update.ours"], "update {} set amount = amount + 1"),
            "delete" => self.bulk(run, ["delete.plain", "delete.ours"], "delete from {}"),
            "single" => self.single(),
            "wal" => self.wal(),
            "fsync" => self.fsync(),
            "apply" => self.apply(run),
            "decode" => decode::figures(&self.database, self.decoded, COLUMNS),
            _ => self.init(),
        }
    }

    /// Makes a table, tracked or not.
    fn table(&self, name: &str, captured: bool) {
        let session = self.database.session();
        session.run(&format!("drop table if exists {name}; create table {name} ({COLUMNS})"));
        if captured {
            session.run(&format!("select cloudsync_init('public.{name}')"));
        }
    }

    /// A statement over all rows of fresh tables; the INSERT itself where it is empty.
    fn bulk(&self, run: u32, figures: [&'static str; 2], statement: &str) -> Figures {
        let mut found = Figures::new();
        for ((name, captured), figure) in SUBJECTS.into_iter().zip(figures) {
            self.table(name, captured);
            let backend = Backend::connect(&self.database);
            warm_up(&backend.session, name);
            let insert = format!("insert into {name} select * from source limit {}", self.rows);
            let cpu = if statement.is_empty() {
                backend.cpu_of(|session| session.run(&insert))
            } else {
                backend.session.run(&insert);
                backend.cpu_of(|session| session.run(&statement.replace("{}", name)))
            };
            found.push((figure, cpu));
        }
        // The table of the next run is another file: what this one left in the buffers is written here.
        if run == 0 {
            self.database.session().run("checkpoint");
        }
        found
    }

    /// Both tables with rows, and every page touched since the WAL checkpoint. The pages have room, so that an update
    /// stays on its page and writes no index: the cheapest that Postgres has to be compared with.
    fn filled_pair(&self, rows: u32) {
        for (name, captured) in SUBJECTS {
            self.table(name, captured);
            let session = self.database.session();
            session.run(&format!("alter table {name} set (fillfactor = 40)"));
            session.run("checkpoint");
            session.run(&format!("insert into {name} select * from source limit {rows}"));
            session.run(&format!("update {name} set amount = amount + 1"));
            session.run(&format!("vacuum analyze {name}"));
        }
    }

    /// Single-row updates by key in one transaction, each a statement of plpgsql with a cached plan: what is
    /// left is the server's work for the statement.
    fn single(&self) -> Figures {
        self.filled_pair(STATEMENTS);
        let figures = ["single.plain", "single.ours"];
        let measured = SUBJECTS.into_iter().zip(figures).map(|((name, _), figure)| {
            let backend = Backend::connect(&self.database);
            warm_up(&backend.session, name);
            let cpu = backend.cpu_of(|session| {
                session.run(&format!(
                    "do $do$
                     declare
                       v_id uuid;
                     begin
                       for v_id in select s.id from source as s limit {STATEMENTS} loop
                         update {name} set amount = amount + 1 where id = v_id;
                       end loop;
                     end
                     $do$"
                ));
            });
            (figure, cpu / f64::from(STATEMENTS))
        });
        let figures = measured.collect();
        self.check_updated(STATEMENTS);
        figures
    }

    /// WAL of updates of one column, each a transaction.
    fn wal(&self) -> Figures {
        const UPDATES: u32 = 500;
        self.filled_pair(UPDATES);
        let figures = ["wal.plain", "wal.ours"];
        let measured = SUBJECTS.into_iter().zip(figures).map(|((name, _), figure)| {
            let backend = Backend::connect(&self.database);
            let bytes = backend.wal_of(|session| self.update_each(session, name, 0, UPDATES));
            (figure, bytes / f64::from(UPDATES))
        });
        let figures = measured.collect();
        self.check_updated(UPDATES);
        figures
    }

    /// Transactions of one update in a second, each waiting for the disk, and the server's work for one.
    fn fsync(&self) -> Figures {
        self.filled_pair(COMMITS);
        let backends = SUBJECTS.map(|_| Backend::connect(&self.database));
        let (mut seconds, mut cpu) = ([0.0; 2], [0.0; 2]);
        // In turns of a few, so that both see the same disk; the first one warms up.
        let turns = 40;
        for turn in 0..turns {
            for (at, (name, _)) in SUBJECTS.into_iter().enumerate() {
                let start = Instant::now();
                let used = backends[at].cpu_of(|session| {
                    self.update_each(session, name, turn * COMMITS / turns, COMMITS / turns);
                });
                if turn > 0 {
                    seconds[at] += start.elapsed().as_secs_f64();
                    cpu[at] += used;
                }
            }
        }
        self.check_updated(COMMITS);
        let commits = f64::from(COMMITS - COMMITS / turns);
        vec![
            ("fsync.plain", commits / seconds[0]),
            ("fsync.ours", commits / seconds[1]),
            ("commit.plain", cpu[0] / commits),
            ("commit.ours", cpu[1] / commits),
        ]
    }

    fn update_each(&self, session: &Session, name: &str, first: u32, count: u32) {
        for id in session.rows(&format!("select id from source order by id offset {first} limit {count}")) {
            session.run(&format!("update {name} set amount = amount + 1 where id = '{id}'"));
        }
    }

    /// A statement that finds no row is fast: makes sure that each of so many rows was updated once.
    fn check_updated(&self, rows: u32) {
        for (name, _) in SUBJECTS {
            let updated = self.database.session().value(&format!(
                "select count(*) from {name} as t join source as s using (id) where t.amount = s.amount + 2"
            ));
            assert_eq!(updated, rows.to_string(), "rows of {name} that were updated");
        }
    }

    /// A payload of new rows from a device, beside COPY of the same rows into a table without capture and into a
    /// tracked one, whose changes travel on as those of the payload do.
    fn apply(&self, run: u32) -> Figures {
        let home = places::scratch("bench");
        let client = Client::open(&home.path().join("bench.sqlite"));
        let ddl = "create table ours (
            id text not null primary key, title text not null, note text, amount integer, price real)";
        client.run(&format!("{ddl}; select cloudsync_init('ours')"));
        let session = self.database.session();
        let rows = session.rows(&format!(
            "select format('(%L,%L,%L,%s,%s)', id, title, note, amount, price) from source limit {}",
            self.rows
        ));
        for rows in rows.chunks(1_000) {
            client.run(&format!("insert into ours values {}", rows.join(",")));
        }
        let payload = client.bytes("select cloudsync_payload_encode()");
        let copied = session.rows(&format!("select * from source limit {}", self.rows));
        let copied: String = copied.iter().map(|row| row.replace('|', "\t") + "\n").collect();
        for (name, captured) in SUBJECTS {
            self.table(name, captured);
        }
        if run == 0 {
            session.run("checkpoint");
        }
        self.table("tracked", true);
        let copy = |name: &str| {
            let backend = Backend::connect(&self.database);
            warm_up(&backend.session, name);
            backend.cpu_of(|session| session.copy_in(&format!("copy {name} from stdin"), &copied))
        };
        let (plain, tracked) = (copy("plain"), copy("tracked"));
        let backend = Backend::connect(&self.database);
        let ours = backend.cpu_of(|session| {
            let applied = session.value_of_bytes("select cloudsync_payload_apply($1)::text", &payload);
            assert_eq!(applied, Ok(self.rows.to_string()), "every row is applied");
        });
        vec![("apply.plain", plain), ("apply.ours", ours), ("applied.plain", tracked), ("applied.ours", ours)]
    }

    /// `cloudsync_init` of a filled table: how long, whether the table was written again, and what it locks.
    fn init(&self) -> Figures {
        let session = self.database.session();
        session.run("drop table if exists filled; create table filled (id bigint primary key, title text)");
        session.run(&format!(
            "insert into filled select n, 'title ' || n from generate_series(1, {}) as n",
            self.filled
        ));
        session.run("checkpoint");
        let file = || session.value("select relfilenode from pg_class where oid = 'public.filled'::regclass");
        let before = file();
        session.run("begin");
        let start = Instant::now();
        session.run("select cloudsync_init('public.filled')");
        let ours = start.elapsed().as_secs_f64();
        // Readers go on: what would stop them is ACCESS EXCLUSIVE.
        let exclusive = session.value(
            "select count(*) from pg_locks
             where relation = 'public.filled'::regclass and pid = pg_backend_pid() and mode = 'AccessExclusiveLock'",
        );
        session.run("commit");
        let rewritten = f64::from(u8::from(before != file()));
        session.run("drop table filled");
        vec![
            ("init.ours", ours),
            ("rewritten.ours", rewritten),
            ("exclusive.ours", exclusive.parse().expect("a count is a number")),
        ]
    }
}

/// Loads the library and the caches of a session.
fn warm_up(session: &Session, name: &str) {
    session.run(&format!(
        "begin;
         insert into {name} values (gen_random_uuid(), 'warm', 'up', 1, 1);
         update {name} set amount = 2 where title = 'warm';
         delete from {name} where title = 'warm';
         rollback"
    ));
}
