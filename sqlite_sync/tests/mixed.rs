//! Generated histories that mix features: replicas whose tables change, are filtered, disabled, forgotten and
//! tracked again, with clocks years apart, exchange payloads that are lost, repeated and late. At the end all
//! hold equal rows and equal stamps. `SEED=<n>` runs one history again, `FEATURES=<bits>` with other features.

#![allow(clippy::print_stdout, reason = "a failed history is told line by line")]

mod support;

use std::collections::BTreeMap;

use rusqlite::Connection;
use support::random::Random;
use support::{apply, encode, open, rows, run};

const SCHEMA: &str = "create table t (id integer primary key, a text, b integer default 7);
    create table w (k text, n integer, v, primary key (k, n)) without rowid;
    create table u (id text primary key, tag integer, note text);
    create table p (id text primary key, n integer);
    create table c (id text primary key, p text, v);
    create table m (id text primary key, cnt integer default 0, hi integer, lo integer, body text, x integer, y integer);
    create table aw (id text primary key, x, y);
    create table dw (id text primary key, x, y);
    create table go (id text primary key, x, y)";

/// Tables with their algorithm, key and flags.
const TABLES: [(&str, &str, &str); 9] = [
    ("t", "cls", "id"),
    ("w", "cls", "k, n"),
    ("u", "cls", "id"),
    ("p", "cls", "id"),
    ("c", "cls", "id"),
    ("m", "cls", "id"),
    ("aw", "aws", "id"),
    ("dw", "dws", "id"),
    ("go", "gos", "id"),
];

/// Features that a history has or not, one bit each.
const TRIGGERS: u64 = 1;
const CLOCKS: u64 = 2;
const ALGORITHMS: u64 = 4;
const UNIQUE: u64 = 8;
const FOREIGN: u64 = 16;
const COLUMNS: u64 = 32;
const FILTERS: u64 = 64;
const DISABLE: u64 = 128;
const CLEANUP: u64 = 256;
const TRANSACTIONS: u64 = 512;
const REBUILD: u64 = 1024;
const SINCE: u64 = 2048;
const CHUNKS: u64 = 4096;
const LINES: u64 = 8192;
const VACUUM: u64 = 16384;
const ALL: u64 = 32767;

/// One file, with what was done to it that the end has to undo or do everywhere.
struct File {
    connection: Connection,
    in_transaction: bool,
    has_column: bool,
    is_renamed: bool,
    is_dropped: bool,
    /// Whether a table was altered, which is seen by what writes, not by what reads.
    is_altered: bool,
    /// Numbers up to which each other file was sent everything.
    sent: BTreeMap<usize, i64>,
}

struct History {
    seed: u64,
    features: u64,
    random: Random,
    files: Vec<File>,
    /// Payloads on their way: receiver and bytes.
    on_way: Vec<(usize, Vec<u8>)>,
    is_told: bool,
}

impl History {
    fn new(seed: u64, features: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut history = Self {
            seed,
            features,
            random,
            files: Vec::new(),
            on_way: Vec::new(),
            is_told: std::env::var("TELL").is_ok(),
        };
        let count = 3 + history.random.below(3);
        for _ in 0..count {
            let connection = open();
            run(&connection, "pragma foreign_keys = on");
            history.make_schema(&connection);
            let baseline = history.random.below(3) == 0;
            if baseline {
                run(
                    &connection,
                    "insert into t values (1, 'seed', 1); insert into w values ('x', 1, 'seed')",
                );
            }
            for (table, algorithm, _) in TABLES {
                history.init(&connection, table, algorithm);
            }
            history.files.push(File {
                connection,
                in_transaction: false,
                has_column: false,
                is_renamed: false,
                is_dropped: false,
                is_altered: false,
                sent: BTreeMap::new(),
            });
        }
        history
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn make_schema(&self, connection: &Connection) {
        let mut schema = String::from(SCHEMA);
        if self.has(UNIQUE) {
            schema = schema.replace("tag integer", "tag integer unique");
        }
        if self.has(FOREIGN) {
            schema =
                schema.replace("p text, v", "p text references p(id) on delete cascade on update cascade, v");
        }
        run(connection, &schema);
        if self.has(TRIGGERS) {
            run(
                connection,
                "create trigger count_up after update of a on t begin update t set b = b + 1 where id = new.id; end;
                 create trigger note after insert on t begin insert or ignore into w values ('seen', new.id, 1); end;
                 create trigger forget after delete on t begin delete from w where k = 'seen' and n = old.id; end;
                 create trigger audit after update on u begin insert or ignore into w values (new.id, new.tag, new.note); end",
            );
        }
    }

    fn init(&self, connection: &Connection, table: &str, algorithm: &str) {
        run(connection, &format!("select cloudsync_init('{table}', '{algorithm}', 7)"));
        if table == "m" && self.has(ALGORITHMS) {
            for (column, algorithm) in [
                ("cnt", "counter"),
                ("hi", "max"),
                ("lo", "min"),
                ("body", "block"),
                ("x", "group:g"),
                ("y", "group:g"),
            ] {
                run(
                    connection,
                    &format!("select cloudsync_set_column('m', '{column}', 'algo', '{algorithm}')"),
                );
            }
        }
    }

    /// A write; statements that a constraint refuses are no matter.
    fn write(&mut self, at: usize) -> String {
        let (id, value) = (self.random.below(5), self.random.below(60));
        let random = &mut self.random;
        let a = if self.files[at].is_renamed { "aa" } else { "a" };
        let key = random.pick(&["x", "y", "z"]);
        let word = random.pick(&["one", "two", "three", "four"]);
        let other = random.below(5);
        let mut kinds: Vec<String> = vec![
            format!("insert or ignore into t (id, {a}) values ({id}, 'a{value}')"),
            format!("replace into t (id, {a}) values ({id}, 'r{value}')"),
            format!(
                "insert into t (id, {a}) values ({id}, 'c{value}') on conflict do update set {a} = excluded.{a}"
            ),
            format!("update t set {a} = 'u{value}' where id = {id}"),
            format!("delete from t where id = {id}"),
            format!("update or replace t set id = {other} where id = {id}"),
            format!("update t set {a} = upper({a}) where id > {id}"),
            format!(
                "insert into w values ('{key}', {id}, {value}) on conflict do update set v = x'{value:02}'"
            ),
            format!("delete from w where k = '{key}' and n > {id}"),
            format!("update w set v = {value}.5 where n = {id}"),
            format!("update or replace w set n = {other}, v = null where n = {id} and k = '{key}'"),
            format!("insert or ignore into u values ('{key}', {id}, '{word}')"),
            format!("replace into u values ('{key}', {id}, '{word}')"),
            format!("update or ignore u set tag = {other}, note = '{word}' where id = '{key}'"),
            format!("update or replace u set tag = {other} where id = '{key}'"),
            format!("delete from u where id = '{key}'"),
        ];
        kinds.extend(self.write_elsewhere());
        if !self.files[at].is_dropped {
            kinds.push(format!("update t set b = {value} where id >= {id}"));
            kinds.push(format!("insert or ignore into t (id, b) values ({id}, {value})"));
        }
        if self.files[at].has_column {
            kinds.push(format!("update t set later = {value} where id = {id}"));
            kinds.push(format!("replace into t (id, {a}, later) values ({id}, 'l{value}', {value})"));
        }
        kinds.swap_remove(self.random.index(kinds.len()))
    }

    /// Writes to the tables with parents or algorithms.
    fn write_elsewhere(&mut self) -> Vec<String> {
        let random = &mut self.random;
        let (id, value, other) = (random.below(5), random.below(60), random.below(5));
        let (key, to) = (random.pick(&["x", "y", "z"]), random.pick(&["x", "y", "z"]));
        let word = random.pick(&["one", "two", "three", "four"]);
        let (column, table) = (random.pick(&["cnt", "hi", "lo", "x", "y"]), random.pick(&["aw", "dw", "go"]));
        vec![
            format!("insert or ignore into p values ('{key}', {id})"),
            format!("replace into p values ('{key}', {value})"),
            format!("update p set n = {value} where id = '{key}'"),
            format!("delete from p where id = '{key}'"),
            format!("update or ignore p set id = '{to}' where id = '{key}'"),
            format!("insert or ignore into c values ('{id}', '{key}', {value})"),
            format!("replace into c values ('{id}', '{key}', {value})"),
            format!("update c set p = '{to}', v = {value} where id = '{id}'"),
            format!("delete from c where id = '{id}'"),
            format!("insert or ignore into m values ('{key}', {id}, {id}, {value}, '{word}', {id}, {value})"),
            format!("insert or ignore into m (id, body) values ('{key}', '{word}' || char(10) || 'b')"),
            format!("update m set {column} = {column} + {other} - 2 where id = '{key}'"),
            format!(
                "update m set hi = max(coalesce(hi, 0), {value}), lo = min(coalesce(lo, 0), {value}) where id = '{key}'"
            ),
            format!("update m set body = body || char(10) || '{word}' where id = '{key}'"),
            format!("update m set body = replace(body, '{word}', '{value}'), x = {value} where id = '{key}'"),
            format!("delete from m where id = '{key}'"),
            format!("replace into m (id, cnt, body) values ('{key}', {value}, '{word}')"),
            format!("insert or ignore into {table} values ('{key}', {value}, '{word}')"),
            format!("insert or ignore into aw values ('{key}', {value}, '{word}')"),
            format!("update {table} set x = {value} where id = '{key}'"),
            format!("update aw set y = {value} where id = '{key}'"),
            format!("delete from {table} where id = '{key}'"),
            format!("replace into {table} values ('{key}', {value}, '{word}')"),
            format!("update or ignore {table} set id = '{to}' where id = '{key}'"),
        ]
    }

    fn tell(&self, at: usize, what: &str) {
        if self.is_told {
            println!("{at}: {what}");
        }
    }

    /// Runs a user's statement, which a constraint may refuse.
    fn user(&mut self, at: usize, sql: &str) {
        self.tell(at, sql);
        let skew: i64 = match self.random.below(8) {
            _ if !self.has(CLOCKS) => 0,
            0 => -86_400_000 * 900,
            1 => -86_400_000,
            2..=4 => -500,
            _ => 0,
        };
        let connection = &self.files[at].connection;
        let newest = "select coalesce(max(seq), 0) from cloudsync_log";
        let before = rows(connection, newest, []);
        if let Err(error) = connection.execute_batch(sql) {
            let text = error.to_string();
            let is_expected = ["constraint failed", "only grows", "stand for good"]
                .iter()
                .any(|known| text.contains(known));
            assert!(is_expected, "SEED={} {at}: {sql}: {text}", self.seed);
            self.tell(at, &format!("  -- {text}"));
        }
        if skew != 0 {
            run(
                connection,
                &format!("update cloudsync_log set ms = ms + {skew} where seq > {before} and ms is not null"),
            );
        }
    }

    fn own(&self, at: usize, sql: &str) {
        self.tell(at, sql);
        let connection = &self.files[at].connection;
        connection
            .execute_batch(sql)
            .unwrap_or_else(|error| panic!("SEED={} {at}: {sql}: {error}", self.seed));
    }

    fn step(&mut self) {
        let at = self.random.index(self.files.len());
        match self.random.below(20) {
            0..=9 => {
                let sql = self.write(at);
                self.user(at, &sql);
            }
            10..=13 => self.send(at),
            14..=16 => self.deliver(),
            17 => self.feature(at),
            18 => self.transaction(at),
            _ => self.check_overlay(at),
        }
    }

    fn transaction(&mut self, at: usize) {
        if !self.has(TRANSACTIONS) {
            return;
        }
        let inside = self.files[at].in_transaction;
        let sql = match (inside, self.random.below(3)) {
            (false, _) => "begin",
            (true, 0) => "rollback",
            (true, 1) => "savepoint s",
            (true, _) => "commit",
        };
        if sql == "savepoint s" {
            self.own(at, sql);
            for _ in 0..3 {
                let write = self.write(at);
                self.user(at, &write);
            }
            let end = self.random.pick(&["rollback to s; release s", "release s"]);
            self.own(at, end);
        } else {
            if sql == "rollback" {
                // What was told of the transaction is not known any more.
                self.files[at].sent.clear();
            }
            self.own(at, sql);
            self.files[at].in_transaction = !inside;
        }
    }

    fn feature(&mut self, at: usize) {
        let inside = self.files[at].in_transaction;
        let table = TABLES[self.random.index(TABLES.len())].0;
        let value = self.random.below(5);
        match self.random.below(10) {
            0 if self.has(COLUMNS) && !inside => self.alter(at),
            1 if self.has(FILTERS) => {
                self.own(at, &format!("select cloudsync_set_filter('u', 'tag > {value}')"));
            }
            2 if self.has(FILTERS) => self.own(at, "select cloudsync_clear_filter('u')"),
            3 if self.has(DISABLE) => self.own(at, &format!("select cloudsync_disable('{table}')")),
            4 | 5 if self.has(DISABLE) => self.own(at, &format!("select cloudsync_enable('{table}')")),
            6 if self.has(CLEANUP) => {
                let algorithm = TABLES.iter().find(|known| known.0 == table).expect("it is one").1;
                self.own(at, &format!("select cloudsync_cleanup('{table}')"));
                self.files[at].sent.clear();
                if self.random.below(2) == 0 && (table == "t" || table == "w") {
                    let sql = self.write(at);
                    self.user(at, &sql);
                }
                self.init(&self.files[at].connection, table, algorithm);
                self.tell(at, "init");
            }
            7 if self.has(VACUUM) && !inside => self.own(at, "vacuum"),
            8 if self.has(REBUILD) && !self.has(TRIGGERS) && !inside => {
                self.files[at].is_altered = true;
                let sql = "create table new_w (k text, n integer, v, primary key (k, n)) without rowid;
                 insert into new_w select * from w; drop table w; alter table new_w rename to w";
                self.own(at, sql);
            }
            _ => {}
        }
    }

    fn alter(&mut self, at: usize) {
        let kind = self.random.below(3);
        self.alter_to(at, kind);
    }

    fn alter_to(&mut self, at: usize, kind: u64) {
        let file = &mut self.files[at];
        let done = match kind {
            0 => &mut file.has_column,
            1 => &mut file.is_renamed,
            _ if self.features & TRIGGERS != 0 => return,
            _ => &mut file.is_dropped,
        };
        if std::mem::replace(done, true) {
            return;
        }
        file.is_altered = true;
        let sql = match kind {
            0 => "alter table t add column later integer default 3",
            1 => "alter table t rename column a to aa",
            _ => {
                "select cloudsync_begin_alter('t'); alter table t drop column b; select cloudsync_commit_alter('t')"
            }
        };
        self.own(at, sql);
    }

    /// Puts payloads for another file on their way; one in four is lost.
    fn send(&mut self, at: usize) {
        let to = self.random.index(self.files.len());
        if to == at {
            return;
        }
        let kind = self.random.below(4);
        let is_lost = self.random.below(4) == 0;
        let is_inside = self.files[at].in_transaction;
        let connection = &self.files[at].connection;
        let newest: i64 = rows(connection, "select cloudsync_db_version()", []).parse().expect("a number");
        let payloads: Vec<Vec<u8>> = match kind {
            1 if self.has(SINCE) => {
                let since = self.files[at].sent.get(&to).copied().unwrap_or(0);
                encode(connection, since).into_iter().collect()
            }
            2 if self.has(CHUNKS) => chunks(connection),
            3 if self.has(LINES) => lines(connection).into_iter().collect(),
            _ => encode(connection, 0).into_iter().collect(),
        };
        self.tell(at, &format!("-> {to} kind {kind} lost {is_lost} {} payloads", payloads.len()));
        if is_lost {
            return;
        }
        if !is_inside {
            self.files[at].sent.insert(to, newest);
        }
        self.on_way.extend(payloads.into_iter().map(|payload| (to, payload)));
    }

    /// Lets one payload come, perhaps not for the last time.
    fn deliver(&mut self) {
        if self.on_way.is_empty() {
            return;
        }
        let which = self.random.index(self.on_way.len());
        let (to, payload) = self.on_way[which].clone();
        if self.random.below(4) > 0 {
            self.on_way.swap_remove(which);
        }
        self.take(to, &payload);
    }

    fn take(&mut self, to: usize, payload: &[u8]) -> i64 {
        let taken = apply(&self.files[to].connection, Some(payload));
        self.tell(to, &format!("<- {taken:?}"));
        taken.unwrap_or_else(|error| {
            panic!("SEED={} FEATURES={}: apply at {to}: {error}", self.seed, self.features)
        })
    }

    /// What is read before a fold is what the fold then writes.
    fn check_overlay(&mut self, at: usize) {
        if std::mem::take(&mut self.files[at].is_altered) {
            encode(&self.files[at].connection, 0);
        }
        let connection = &self.files[at].connection;
        let all = "select tbl, hex(pk), col_name, iif(col_name in ('hi', 'lo'), '', quote(col_value)), col_version, db_version, hex(site_id), cl, seq
            from cloudsync_changes order by 1, 2, 3";
        let before = (rows(connection, all, []), explained(connection, &TABLES));
        encode(connection, 0);
        let after = (rows(connection, all, []), explained(connection, &TABLES));
        if before != after {
            show(&before.0.replace("; ", "\n"), &after.0.replace("; ", "\n"));
            show(&before.1, &after.1);
        }
        assert!(before == after, "SEED={} FEATURES={}: overlay at {at}", self.seed, self.features);
    }

    fn end(&mut self) {
        for at in 0..self.files.len() {
            if std::mem::take(&mut self.files[at].in_transaction) {
                self.own(at, "commit");
            }
            if self.has(COLUMNS) {
                (0..3).for_each(|kind| self.alter_to(at, kind));
            }
            self.own(at, "select cloudsync_clear_filter('u')");
            for (table, _, _) in TABLES {
                self.own(at, &format!("select cloudsync_enable('{table}')"));
            }
        }
        while !self.on_way.is_empty() {
            self.deliver();
        }
        let mut is_quiet = false;
        for round in 0..12 {
            is_quiet = true;
            for from in 0..self.files.len() {
                for to in 0..self.files.len() {
                    if from == to {
                        continue;
                    }
                    if let Some(payload) = encode(&self.files[from].connection, 0) {
                        let taken = self.take(to, &payload);
                        self.tell(to, &format!("round {round} from {from}: {taken}"));
                        is_quiet &= taken == 0;
                    }
                }
            }
            if is_quiet {
                break;
            }
        }
        let at_end = format!("SEED={} FEATURES={}", self.seed, self.features);
        self.compare(&at_end);
        assert!(is_quiet, "{at_end}: no end");
    }

    fn compare(&self, at_end: &str) {
        let is_refused = |file: &File| {
            rows(&file.connection, "select count(*) from cloudsync_parked where kind = 'refused'", []) != "0"
        };
        // Two rows that cannot both be there: each file keeps its own, and the other beside it.
        let is_any_refused = self.files.iter().any(is_refused);
        let compared: Vec<_> = TABLES
            .into_iter()
            .filter(|(table, _, _)| !is_any_refused || !["u", "p", "c", "w"].contains(table))
            .collect();
        let state = |at: usize| {
            let connection = &self.files[at].connection;
            let mut values = String::new();
            for (table, _, key) in compared.clone() {
                let columns = rows(
                    connection,
                    "select group_concat(name) from (select name from pragma_table_info(?1) order by name)",
                    [table],
                );
                for row in
                    rows(connection, &format!("select {columns} from {table} order by {key}"), []).split("; ")
                {
                    values.push_str(&format!("{table}: {row}\n"));
                }
            }
            (values, explained(connection, &compared))
        };
        for at in 0..self.files.len() {
            let connection = &self.files[at].connection;
            assert_eq!(rows(connection, "pragma integrity_check", []), "ok", "{at_end}: {at}");
            assert_eq!(rows(connection, "pragma foreign_key_check", []), "", "{at_end}: {at}");
            let left = "select kind, tbl, reason from cloudsync_parked where kind = 'refused'";
            let left = rows(connection, left, []);
            let held = rows(connection, "select count(*) from cloudsync_held", []);
            if self.is_told {
                println!(
                    "{at}: refused {left:?} gaps {}",
                    rows(connection, "select * from cloudsync_gaps", [])
                );
            }
            assert!(left.is_empty() || self.has(UNIQUE | FOREIGN), "{at_end}: {at} keeps {left}");
            assert_eq!(held, "0", "{at_end}: {at}");
        }
        let expected = state(0);
        for at in 1..self.files.len() {
            let found = state(at);
            if found != expected {
                show(&expected.0, &found.0);
                show(&expected.1, &found.1);
                panic!("{at_end}: {at} against 0");
            }
        }
    }
}

/// Prints lines that are in one of two texts only.
fn show(one: &str, other: &str) {
    for line in one.lines().filter(|line| !other.lines().any(|known| known == *line)) {
        println!("- {line}");
    }
    for line in other.lines().filter(|line| !one.lines().any(|known| known == *line)) {
        println!("+ {line}");
    }
}

/// Stamps of every row that a file knows, dead ones too.
fn explained(connection: &Connection, tables: &[(&str, &str, &str)]) -> String {
    let mut all = String::new();
    for (table, _, key) in tables {
        let columns =
            rows(connection, "select name from pragma_table_info(?1) where pk > 0 order by pk", [table]);
        let places = if columns.contains(';') { "pk, pk2" } else { "pk" };
        let keys = format!("select {key} from {table} union select {places} from {table}_cloudsync
            union select {places} from cloudsync_log where pk is not null and tbl = (select id from cloudsync_tables where name = '{table}')");
        let sql = format!(
            "select '{table}', {key}, e ->> '$.alive', e ->> '$.life.version', e ->> '$.life.site',
               (select group_concat(key || '=' || coalesce(value ->> '$.version', '') || '@' || coalesce(value ->> '$.site', ''), ' ')
                from (select * from json_each(e, '$.columns') order by key))
             from (select *, cloudsync_explain('{table}', {key}) as e from ({keys}) order by {key})
             where e ->> '$.life.version' is not null"
        );
        all.push_str(&rows(connection, &sql, []).replace("; ", "\n"));
        all.push('\n');
    }
    all
}

fn chunks(connection: &Connection) -> Vec<Vec<u8>> {
    let sql = "select payload from cloudsync_payload_chunks(0, null, 16384) where payload is not null";
    let mut statement = connection.prepare(sql).expect("chunks");
    let found = statement.query_map([], |row| row.get(0)).expect("chunks");
    found.collect::<Result<_, _>>().expect("chunks")
}

fn lines(connection: &Connection) -> Option<Vec<u8>> {
    let sql = "select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq)
        from cloudsync_changes";
    connection.query_row(sql, [], |row| row.get(0)).expect("lines")
}

fn check(seed: u64) {
    let features = std::env::var("FEATURES").map_or_else(
        |_| {
            let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95) | 1);
            random.below(ALL + 1) & (random.below(ALL + 1) | random.below(ALL + 1))
        },
        |text| text.parse().expect("FEATURES is a number"),
    );
    let mut history = History::new(seed, features);
    for _ in 0..40 + seed % 100 {
        history.step();
    }
    history.end();
}

#[test]
fn any_mix_of_features_ends_equal_everywhere() {
    match std::env::var("SEED") {
        Ok(seed) => check(seed.parse().expect("SEED is a number")),
        Err(_) => (1..=8).for_each(check),
    }
}
