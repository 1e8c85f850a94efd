//! The whole stack on one stage: a Postgres database, a hub, clients by name, and scripts that they play.
//!
//! A scenario is a list of lines `who: what`. `pg` is Postgres, or the SQLite file that stands in its place, `hub` and `postgres` are the processes, any
//! other name is a client, made when it is first named. What they say is SQL or one of the words of
//! [`Stage::play`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::client::Client;
use crate::hub::{API_KEY, Hub};
use crate::object_store::StoreKind;
use crate::places;
use crate::postgres::{Backup, Cluster, Database, Durability, Recovery};
use crate::process::Signal;
use crate::sql::Session;
use crate::wait;

/// A tracked table on both engines, and the query that shows its rows alike on both.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The name, the same on both.
    pub name: &'static str,
    /// What makes it in Postgres.
    pub postgres: &'static str,
    /// What makes it in SQLite.
    pub sqlite: &'static str,
    /// What shows its rows in the order of their keys.
    pub show: &'static str,
}

const TODO_DDL: &str = "create table todo (
    id text primary key not null, title text not null, note text, done integer not null default 0)";

/// The table that most scenarios use. `title` has no default, so a half-empty row could not be stored.
pub const TODO: Table = Table {
    name: "todo",
    postgres: TODO_DDL,
    sqlite: TODO_DDL,
    show: "select id, title, note, done from todo order by id",
};

const NOTE_DDL: &str = "create table note (id text primary key not null, team text, body text)";

/// A table whose rows are for the team that they name.
pub const NOTE: Table = Table {
    name: "note",
    postgres: NOTE_DDL,
    sqlite: NOTE_DDL,
    show: "select id, team, body from note order by id",
};

const MARK_DDL: &str = "create table mark (id integer primary key, n integer not null)";

/// Where the stage counts up in Postgres: a client that sees the number has seen everything before it.
const MARK: Table =
    Table { name: "mark", postgres: MARK_DDL, sqlite: MARK_DDL, show: "select id from mark order by id" };

/// What the centre of a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Centre {
    /// A Postgres database.
    Postgres,
    /// A SQLite file.
    SqliteFile,
}

/// What a stage is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Where the hub keeps its objects.
    pub store: StoreKind,
    /// The tracked tables, parents first.
    pub tables: &'a [Table],
    /// Whether the stage has a Postgres server to itself, which it may then stop and start.
    pub own_cluster: bool,
    /// What the centre is.
    pub centre: Centre,
}

impl Setting<'_> {
    /// The table `todo` on a directory store, on the Postgres server that the tests share.
    pub const PLAIN: Self =
        Self { store: StoreKind::Directory, tables: &[TODO], own_cluster: false, centre: Centre::Postgres };
}

/// A running stack.
pub struct Stage {
    /// The hub.
    pub hub: Hub,
    /// A session with the centre, as the superuser of Postgres: it writes as people and services do.
    pub postgres: Session,
    /// The database.
    pub database: Database,
    clients: BTreeMap<String, Client>,
    tables: Vec<Table>,
    own_cluster: Option<Cluster>,
    home: TempDir,
}

impl Stage {
    /// Makes the database with its tracked tables and starts the hub.
    pub fn new(setting: Setting<'_>) -> Self {
        let home = places::scratch("clients");
        let own_cluster = setting.own_cluster.then(|| Cluster::start(Durability::ProcessOnly));
        let database = match setting.centre {
            Centre::Postgres => own_cluster.as_ref().unwrap_or_else(|| Cluster::shared()).database("demo"),
            Centre::SqliteFile => Database::in_file(&home.path().join("central.sqlite")),
        };
        let postgres = database.session();
        let tables: Vec<Table> = setting.tables.iter().copied().chain([MARK]).collect();
        for table in &tables {
            postgres.run(match setting.centre {
                Centre::Postgres => table.postgres,
                Centre::SqliteFile => table.sqlite,
            });
            init(&database, &postgres, table.name);
        }
        let hub = Hub::start(&database, setting.store);
        Self { hub, postgres, database, clients: BTreeMap::new(), tables, own_cluster, home }
    }

    /// Returns a client, made and joined to the hub when it is first named.
    pub fn client(&mut self, name: &str) -> &Client {
        if !self.clients.contains_key(name) {
            let client = self.stranger(name);
            client.join(&self.hub.address(), API_KEY);
            self.clients.insert(name.to_owned(), client);
        }
        &self.clients[name]
    }

    /// Makes a client with the tracked tables that has not joined the hub and takes no part in [`Self::settle`].
    pub fn stranger(&self, name: &str) -> Client {
        let client = Client::open(&self.home.path().join(format!("{name}.sqlite")));
        for table in &self.tables {
            client.run(table.sqlite);
            client.run(&format!("select cloudsync_init('{}', 'cls', 1)", table.name));
        }
        client
    }

    /// Tracks a table that is in Postgres already; clients that are made from now on have it.
    pub fn track(&mut self, table: Table) {
        init(&self.database, &self.postgres, table.name);
        self.tables.insert(0, table);
    }

    /// Plays lines one after another.
    ///
    /// A client says SQL, `sync`, or `sync fails`; `pg` says SQL; `hub` says `kill`, `terminate` or `start`;
    /// `postgres` says `stop`, `kill`, `start` or `restart`; `all` says `settle`, or `tick` to let the clock
    /// move on, so that what follows is later.
    pub fn play(&mut self, lines: &[&str]) {
        for line in lines {
            let (who, what) = line.split_once(": ").unwrap_or_else(|| panic!("no `who: what`: {line}"));
            self.play_line(who, what);
        }
    }

    fn play_line(&mut self, who: &str, what: &str) {
        match (who, what) {
            ("pg", sql) => self.postgres.run(sql),
            ("hub", "kill") => self.hub.stop(Signal::Kill),
            ("hub", "terminate") => self.hub.stop(Signal::Terminate),
            ("hub", "start") => self.hub.start_again(),
            ("postgres", "stop") => self.cluster().stop(Signal::Interrupt),
            ("postgres", "kill") => self.cluster().stop(Signal::Kill),
            ("postgres", "start") => {
                self.cluster().start_again();
                self.postgres = self.database.session();
            }
            ("postgres", "restart") => {
                self.play_line("postgres", "stop");
                self.play_line("postgres", "start");
            }
            ("all", "settle") => self.settle(),
            ("all", "tick") => tick(),
            (client, "sync") => drop(self.client(client).sync()),
            (client, "sync fails") => {
                let answer = self.client(client).try_sync();
                assert!(answer.is_err(), "{client} synced, which was to fail: {answer:?}");
            }
            (client, sql) => self.client(client).run(sql),
        }
    }

    /// Returns the server of a stage that has one to itself.
    pub fn cluster(&self) -> &Cluster {
        self.own_cluster.as_ref().expect("only a stage with a cluster of its own touches the server")
    }

    /// Lets a copy take the place of the server, which has ended.
    pub fn replace_cluster(&mut self, copy: Cluster) {
        let gone =
            self.own_cluster.take().expect("only a stage with a cluster of its own touches the server");
        self.own_cluster = Some(copy.in_place_of(&gone));
        self.postgres = self.database.session();
    }

    /// Sets the server, which was stopped, back to a base backup.
    pub fn restore(&mut self, backup: &Backup, recovery: Recovery) {
        self.cluster().restore(backup, recovery);
        self.postgres = self.database.session();
    }

    /// Goes on with another database in place of the present one; the hub, which was stopped, is pointed at it.
    pub fn replace_database(&mut self, database: Database) {
        self.hub.point_at(&database);
        self.postgres = database.session();
        self.database = database;
    }

    /// Syncs every client until it has sent all it has and seen all that Postgres had then.
    ///
    /// Twice, because applying may set off local writes (cascades, users' triggers) that are sent next time.
    pub fn settle(&mut self) {
        for _round in 0..2 {
            for (name, client) in &self.clients {
                // The hub or Postgres may be on its way back.
                wait::until_ok(&format!("{name} syncs"), || client.try_sync());
            }
            let mark = self.mark();
            for (name, client) in &self.clients {
                wait::until(&format!("{name} sees mark {mark}"), || {
                    client.sync_waiting(500);
                    (client.rows("select n from mark").concat() == mark).then_some(())
                });
            }
        }
    }

    /// Counts the mark up in Postgres: a client that holds the number has seen all that was committed before.
    pub fn mark(&self) -> String {
        self.postgres
            .value("insert into mark values (1, 1) on conflict (id) do update set n = mark.n + 1 returning n")
    }

    /// Returns the objects below a folder of the database's part of the store, which is a directory.
    pub fn objects(&self, folder: &str) -> Vec<PathBuf> {
        objects_below(&self.hub.store_directory().join("v1").join(&self.database.name).join(folder))
    }

    /// Returns the rows of all tables, as Postgres holds them.
    pub fn postgres_rows(&self) -> Vec<String> {
        self.tables.iter().flat_map(|table| self.postgres.rows(table.show)).collect()
    }

    /// Settles, then checks that every side holds exactly these rows.
    pub fn settles_at(&mut self, rows: &[&str]) {
        self.settle();
        let mut wanted: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
        wanted.push("1".to_owned());
        assert_eq!(self.postgres_rows(), wanted, "rows in Postgres (left)");
        self.all_equal();
    }

    /// Checks that every client holds what Postgres holds.
    pub fn all_equal(&self) {
        let truth = self.postgres_rows();
        for (name, client) in &self.clients {
            let rows: Vec<String> = self.tables.iter().flat_map(|table| client.rows(table.show)).collect();
            assert_eq!(rows.len(), truth.len(), "number of rows in {name} (left) and Postgres");
            let first_other = rows.iter().zip(&truth).find(|(ours, theirs)| ours != theirs);
            assert_eq!(first_other, None, "first row that differs between {name} and Postgres");
        }
    }
}

/// Returns the files below a folder of a store.
pub fn objects_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(folder, &mut found);
    found.sort();
    found
}

/// Adds the files below a folder, which need not be there.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn init(database: &Database, centre: &Session, table: &str) {
    centre.run(&match database.file() {
        Some(_file) => format!("select cloudsync_init('{table}', 'cls', 1)"),
        None => format!("select cloudsync_init('public.{table}')"),
    });
}

/// Waits until every site's clock says something later than any of them says now.
///
/// All sites of a stage share one clock, which counts in milliseconds: a client corrects its own by no more than an
/// answer of the hub proves, and here that is nothing.
fn tick() {
    const LATER: Duration = Duration::from_millis(3);
    let start = SystemTime::now();
    wait::until("the clock moves on", || start.elapsed().is_ok_and(|elapsed| elapsed > LATER).then_some(()));
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- end of the hub's log\n{}", self.hub.log_tail(30));
            if self.database.file().is_none() {
                let cluster = self.own_cluster.as_ref().unwrap_or_else(|| Cluster::shared());
                eprintln!("--- end of Postgres's log\n{}", cluster.log_tail(30));
            }
        }
    }
}

impl Stage {
    /// Whether the centre is a SQLite file; a text for each kind of centre is chosen by it.
    pub fn is_on_file(&self) -> bool {
        self.database.file().is_some()
    }

    /// Runs statements at the centre, in the words of the kind that it is.
    #[track_caller]
    pub fn run_at_centre(&self, postgres: &str, sqlite: &str) {
        self.postgres.run(if self.is_on_file() { sqlite } else { postgres });
    }
}

/// Plays with each kind of centre, the table `todo` tracked.
pub fn on_both(play: impl Fn(Setting<'static>)) {
    for centre in [Centre::Postgres, Centre::SqliteFile] {
        play(Setting { centre, ..Setting::PLAIN });
    }
}

/// A scenario as data: where it plays, what happens, and the rows that every side ends with.
#[derive(Clone, Copy, Debug)]
pub struct Scenario<'a> {
    /// Where it plays.
    pub setting: Setting<'a>,
    /// What happens.
    pub lines: &'a [&'a str],
    /// The rows of all tables that every side ends with.
    pub rows: &'a [&'a str],
}

impl Scenario<'_> {
    /// Plays the scenario with each kind of centre and checks its end.
    pub fn check_on_both(self) {
        self.check();
        Scenario { setting: Setting { centre: Centre::SqliteFile, ..self.setting }, ..self }.check();
    }

    /// Plays the scenario and checks its end.
    pub fn check(self) {
        let mut stage = Stage::new(self.setting);
        stage.play(self.lines);
        stage.settles_at(self.rows);
    }
}
