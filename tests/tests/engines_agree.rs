//! SQLite and Postgres merge alike: histories made by chance on files and in a database travel as payloads to
//! fresh replicas of both engines, in other orders and some of them twice, and all end with equal values and equal
//! metadata, once ordinals are site ids and columns have names. A failure prints its seed; `SEED=…` plays it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use shared_format::payload::encode_frame;
use shared_format::{ColumnRule, KeptRegister, unpack_cells, unpack_registers};
use tempfile::TempDir;
use tests::client::Client;
use tests::places;
use tests::postgres::{Cluster, Database};
use tests::sql::Session;

const STEPS: usize = 200;
const KEYS: usize = 6;

/// A small generator of numbers that follow from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(bits).expect("31 bits fit") % limit
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// A column with its values as both engines write them.
struct Column {
    name: &'static str,
    values: &'static [&'static str],
}

/// A table of both engines.
struct Table {
    name: &'static str,
    postgres: &'static str,
    sqlite: &'static str,
    /// Its key, as SQL that makes it from a number below [`KEYS`].
    key: &'static [&'static str],
    columns: &'static [Column],
    /// How its rows merge, and columns that do not merge as plain values.
    algorithm: &'static str,
    rules: &'static [(&'static str, ColumnRule, &'static str)],
    /// Its rows in a form that both engines print alike.
    show_postgres: &'static str,
    show_sqlite: &'static str,
}

const TYPED: Table = Table {
    name: "typed",
    postgres: "create table typed (id text primary key, t text, n bigint, r double precision, yes boolean,
        u uuid, at timestamptz, j json, x numeric, b bytea)",
    sqlite: "create table typed (id text primary key not null, t text, n integer, r real, yes integer,
        u text, at text, j text, x text, b blob)",
    key: &["id"],
    columns: &[
        Column { name: "t", values: &["''", "'a'", "'käse'", "'it''s | one'", "null"] },
        Column {
            name: "n",
            values: &["0", "-1", "9223372036854775807", "-9223372036854775807", "5", "null"],
        },
        Column { name: "r", values: &["0.1", "-1e300", "5.0", "1e15", "4.9e-324", "null"] },
        Column { name: "yes", values: &["TRUE", "FALSE", "null"] },
        Column {
            name: "u",
            values: &[
                "'00000000-0000-4000-8000-00000000000a'",
                "'abcdef01-2345-6789-abcd-ef0123456789'",
                "null",
            ],
        },
        Column {
            name: "at",
            values: &["'2026-11-22T07:04:56.789012Z'", "'1969-12-31T23:59:59.999999Z'", "null"],
        },
        Column { name: "j", values: &["'{\"a\":  [1, null]}'", "'\"x\"'", "'[]'", "null"] },
        Column { name: "x", values: &["'12.50'", "'9'", "'-0.5000'", "'10'", "null"] },
        Column { name: "b", values: &["x''", "x'00ff10'", "x'61'", "null"] },
    ],
    algorithm: "cls",
    rules: &[],
    show_postgres: "select id, t, n, 'real ' || r, yes, u,
        to_char(at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), j, x, encode(b, 'hex')
        from typed order by id",
    show_sqlite: "select id, t, n, 'real ' || r, case yes when 1 then 't' when 0 then 'f' end, u, at, j, x,
        case when b is not null then lower(hex(b)) end from typed order by id",
};

const PAIR: Table = Table {
    name: "pair",
    postgres: "create table pair (a bigint, b text, v text, primary key (b, a))",
    sqlite: "create table pair (a integer not null, b text not null, v text, primary key (b, a))",
    key: &["b", "a"],
    columns: &[Column { name: "v", values: &["'one'", "'two'", "null"] }],
    algorithm: "cls",
    rules: &[],
    show_postgres: "select b, a, v from pair order by b, a",
    show_sqlite: "select b, a, v from pair order by b, a",
};

/// The rule of a column, and as users write it.
const NOTE_RULES: &[(&str, ColumnRule, &str)] = &[
    ("likes", ColumnRule::Counter, "counter"),
    ("best", ColumnRule::Max, "max"),
    ("least", ColumnRule::Min, "min"),
    ("at", ColumnRule::Max, "max"),
    ("low", ColumnRule::Lww, "group:range"),
    ("high", ColumnRule::Lww, "group:range"),
];

/// A text by lines: `ColumnRule` has its delimiter in a string that a constant cannot hold.
const BLOCKS: [(&str, ColumnRule, &str); 1] = [("body", ColumnRule::Lww, "block")];

const NOTE: Table = Table {
    name: "note",
    postgres: "create table note (id text primary key, title text, likes bigint default 0, best bigint,
        least text, at timestamptz, body text default 'one', low integer, high integer)",
    sqlite: "create table note (id text primary key not null, title text, likes integer default 0, best integer,
        least text, at text, body text default 'one', low integer, high integer)",
    key: &["id"],
    columns: &[
        Column { name: "title", values: &["'a'", "'b'", "null"] },
        Column { name: "likes", values: &["1", "-7", "9223372036854775807", "null"] },
        Column { name: "best", values: &["5", "7", "-3", "1000", "null"] },
        Column { name: "least", values: &["'b'", "'a'", "'ä'", "''", "null"] },
        Column {
            name: "at",
            values: &["'2026-11-22T07:04:56.789012Z'", "'1969-12-31T23:59:59.999999Z'", "null"],
        },
        Column {
            name: "body",
            values: &["'one'", "'one\ntwo'", "'zero\none\nthree'", "'two\none'", "''", "null"],
        },
        Column { name: "low", values: &["1", "2"] },
        Column { name: "high", values: &["3", "4"] },
    ],
    algorithm: "cls",
    rules: NOTE_RULES,
    show_postgres: "select id, title, likes, best, least,
        to_char(at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), replace(body, chr(10), '/'), low, high
        from note order by id",
    show_sqlite: "select id, title, likes, best, least, at, replace(body, char(10), '/'), low, high
        from note order by id",
};

/// The same of a table whose deletions stand for good.
const KEPT: Table = Table {
    name: "kept",
    postgres: "create table kept (id text primary key, title text, likes bigint)",
    sqlite: "create table kept (id text primary key not null, title text, likes integer)",
    key: &["id"],
    columns: &[
        Column { name: "title", values: &["'a'", "'b'", "null"] },
        Column { name: "likes", values: &["1", "2", "3"] },
    ],
    algorithm: "dws",
    rules: &[("likes", ColumnRule::Counter, "counter")],
    show_postgres: "select id, title, likes from kept order by id",
    show_sqlite: "select id, title, likes from kept order by id",
};

const WHOLE: Table = Table {
    name: "whole",
    postgres: "create table whole (id text primary key, x integer, y text)",
    sqlite: "create table whole (id text primary key not null, x integer, y text)",
    key: &["id"],
    columns: &[
        Column { name: "x", values: &["1", "2", "null"] },
        Column { name: "y", values: &["'a'", "'b'", "null"] },
    ],
    algorithm: "aws",
    rules: &[],
    show_postgres: "select id, x, y from whole order by id",
    show_sqlite: "select id, x, y from whole order by id",
};

const EVENT: Table = Table {
    name: "event",
    postgres: "create table event (id text primary key, x integer, y text)",
    sqlite: "create table event (id text primary key not null, x integer, y text)",
    algorithm: "gos",
    show_postgres: "select id, x, y from event order by id",
    show_sqlite: "select id, x, y from event order by id",
    ..WHOLE
};

const PLAIN: [&Table; 2] = [&TYPED, &PAIR];
const RULED: [&Table; 4] = [&NOTE, &KEPT, &WHOLE, &EVENT];

impl Table {
    /// The key of a number, one literal for each of its columns.
    fn key_of(&self, number: usize) -> Vec<String> {
        self.key
            .iter()
            .map(|name| if *name == "a" { format!("{}", number % 2) } else { format!("'k{number}'") })
            .collect()
    }

    fn is_key(&self, number: usize) -> String {
        let parts = self.key.iter().zip(self.key_of(number)).map(|(name, part)| format!("{name} = {part}"));
        parts.collect::<Vec<_>>().join(" and ")
    }

    /// One write to the table, for SQLite and Postgres.
    fn write(&self, dice: &mut Dice) -> String {
        let number = dice.below(KEYS);
        let (name, is_key) = (self.name, self.is_key(number));
        let mut set = Vec::new();
        for _ in 0..=dice.below(3) {
            let column = &self.columns[dice.below(self.columns.len())];
            if set.iter().all(|(known, _)| *known != column.name) {
                set.push((column.name, dice.of(column.values)));
            }
        }
        let (columns, values): (Vec<&str>, Vec<&str>) = set.iter().copied().unzip();
        let sets: Vec<String> = set.iter().map(|(column, value)| format!("{column} = {value}")).collect();
        let sets = sets.join(", ");
        let insert = format!(
            "insert into {name} ({}, {}) values ({}, {})",
            self.key.join(", "),
            columns.join(", "),
            self.key_of(number).join(", "),
            values.join(", "),
        );
        match dice.below(10) {
            0 | 1 => format!("{insert} on conflict ({}) do update set {sets}", self.key.join(", ")),
            2..=5 => format!("update {name} set {sets} where {is_key}"),
            6 => format!("update {name} set {sets}"),
            7 => format!("delete from {name} where {is_key}"),
            8 => format!("delete from {name} where {is_key}; {insert}"),
            _ => {
                let other = self.key_of(dice.below(KEYS));
                let moved: Vec<String> =
                    self.key.iter().zip(&other).map(|(name, part)| format!("{name} = {part}")).collect();
                let taken = moved.join(" and ");
                format!(
                    "update {name} set {} where {is_key} and not exists (select 1 from {name} where {taken})",
                    moved.join(", ")
                )
            }
        }
    }
}

/// A replica of either engine.
enum Replica {
    File(Client),
    Database(Session),
}

impl Replica {
    fn file(home: &Path, name: &str) -> Self {
        Self::File(Client::open(&home.join(format!("{name}.sqlite"))))
    }

    fn database(name: &str) -> Self {
        let database: Database = Cluster::shared().database(name);
        Self::Database(database.session())
    }

    fn create(&self, tables: &[&Table]) {
        for table in tables {
            match self {
                Self::File(client) => client.run(table.sqlite),
                Self::Database(session) => session.run(table.postgres),
            }
        }
    }

    fn track(&self, tables: &[&Table]) {
        for table in tables {
            let (name, algorithm) = (table.name, table.algorithm);
            match self {
                Self::File(client) => {
                    client.run(&format!("select cloudsync_init('{name}', '{algorithm}', 1)"))
                }
                Self::Database(session) => {
                    session.run(&format!("select cloudsync_init('public.{name}', '{algorithm}')"));
                }
            }
            for (column, _, rule) in table.rules.iter().chain(BLOCKS.iter().filter(|_| name == "note")) {
                let sql = format!("select cloudsync_set_column('{name}', '{column}', 'algo', '{rule}')");
                match self {
                    Self::File(client) => client.run(&sql),
                    Self::Database(session) => session.run(&sql),
                }
            }
        }
    }

    /// Writes, or is refused: a table may only grow, or know that the key is dead for good.
    fn write(&self, sql: &str) {
        match self {
            Self::File(client) => {
                drop(client.try_rows(sql));
                // A coarse clock: writes of several sites, and of two files with one site id, get equal clocks.
                client.run("update cloudsync_log set ms = ms - ms % 20000 where ms is not null");
            }
            Self::Database(session) => drop(session.try_rows(&sql.replace("x'", "'\\x"))),
        }
    }

    /// What this replica knows that is newer than what it told last, as payloads.
    fn tell(&self, told: &mut String) -> Vec<Vec<u8>> {
        match self {
            Self::File(client) => {
                let sql = format!("select cloudsync_payload_encode({told}), cloudsync_db_version()");
                let row = client.value(&sql);
                let (bytes, number) = row.rsplit_once('|').expect("two columns");
                number.clone_into(told);
                if bytes == "NULL" { Vec::new() } else { vec![from_hex(bytes)] }
            }
            Self::Database(session) => session
                .rows(
                    "select encode(p.payload, 'hex') from cloudsync.tracked_tables as t
                     cross join (values (false), (true)) as w (dead)
                     cross join lateral cloudsync.snapshot_part(t.table_id, w.dead, null, 10000) as p",
                )
                .iter()
                .map(|hex| encode_frame(&from_hex(hex)))
                .collect(),
        }
    }

    fn apply(&self, payload: &[u8]) {
        let applied = match self {
            Self::File(client) => client.value_of_bytes("select cloudsync_payload_apply(?1)", payload),
            Self::Database(session) => {
                session.value_of_bytes("select cloudsync_payload_apply($1)::text", payload)
            }
        };
        applied.unwrap_or_else(|error| panic!("a payload is not applied: {error}"));
    }

    fn values(&self, table: &Table) -> Vec<String> {
        let rows = match self {
            Self::File(client) => client.rows(table.show_sqlite),
            Self::Database(session) => session.rows(table.show_postgres),
        };
        rows.iter().map(|row| row.split('|').map(number_form).collect::<Vec<_>>().join("|")).collect()
    }

    fn stamps(&self, table: &Table) -> Vec<String> {
        let mut stamps = match self {
            Self::File(client) => stamps_in_file(client, table),
            Self::Database(session) => stamps_in_database(session, table),
        };
        stamps.sort();
        stamps
    }

    fn refused(&self) -> Vec<String> {
        match self {
            Self::File(client) => client.rows("select reason from cloudsync_parked where kind = 'refused'"),
            Self::Database(session) => {
                session.rows("select table_name, key, sqlstate, message from cloudsync.rejected")
            }
        }
    }
}

/// A real number prints in another way on each engine.
fn number_form(cell: &str) -> String {
    let number = cell.strip_prefix("real ").and_then(|number| number.parse::<f64>().ok());
    number.map_or_else(|| cell.to_owned(), |number| format!("{number:e}"))
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// Every life, dead rows too, and every stamp of a column, parked ones too.
fn stamps_in_database(session: &Session, table: &Table) -> Vec<String> {
    let name = table.name;
    let id = session.value(&format!("select table_id from cloudsync.tracked_tables where name = '{name}'"));
    let key = (1..=table.key.len()).map(|at| format!("m.key_{at}")).collect::<Vec<_>>().join(", ");
    let mut stamps = session.rows(&format!(
        "select {key}, case when m.alive then 'alive' else 'dead' end, m.hlc, encode(s.site, 'hex')
         from cloudsync.meta_{id} m join cloudsync.site_dictionary s on s.ordinal = m.site"
    ));
    stamps.extend(session.rows(&format!(
        "select {key}, c.name, m.cols[2 * c.column_id - 1], encode(s.site, 'hex')
         from cloudsync.meta_{id} m
         join cloudsync.columns c on c.table_id = {id} and m.cols[2 * c.column_id - 1] is not null
         join cloudsync.site_dictionary s on s.ordinal = m.cols[2 * c.column_id]"
    )));
    if !table.rules.is_empty() {
        let names = format!("select column_id, name from cloudsync.columns where table_id = {id}");
        let names = split(&session.rows(&names));
        let sql = format!(
            "select {key}, encode(m.registers, 'hex') from cloudsync.meta_{id} m
             where m.alive and m.registers is not null"
        );
        stamps.extend(session.rows(&sql).iter().flat_map(|row| registers(table, &names, row)));
    }
    stamps
}

/// The registers of a row, each as the rule of its column reads and writes it again.
fn registers(table: &Table, names: &BTreeMap<String, String>, row: &str) -> Vec<String> {
    let (key, packed) = row.rsplit_once('|').expect("a key and bytes");
    let packed = from_hex(packed);
    let packed = unpack_registers(&packed).expect("the replica packed them");
    let shown = packed.into_iter().map(|(column, bytes)| {
        let name = &names[&column.get().to_string()];
        let rule = table.rules.iter().find(|(known, _, _)| known == name);
        let rule = rule.map_or(ColumnRule::Block { delimiter: "\n".into() }, |(_, rule, _)| rule.clone());
        let kept = KeptRegister::decode(&rule, bytes).expect("the replica encoded it");
        format!("{key}|{name}|{:?}", kept.register)
    });
    shown.collect()
}

fn stamps_in_file(client: &Client, table: &Table) -> Vec<String> {
    let name = table.name;
    let sites: BTreeMap<String, String> =
        pairs(client, "select ordinal, lower(hex(site)) from cloudsync_sites");
    let columns: BTreeMap<String, String> = pairs(
        client,
        &format!(
            "select id, name from cloudsync_columns
             where tbl = (select id from cloudsync_tables where name = '{name}')"
        ),
    );
    let names: Vec<String> = (1..=table.key.len())
        .map(|at| if at == 1 { "m.pk".to_owned() } else { format!("m.pk{at}") })
        .collect();
    let key = names.join(", ");
    let mut stamps = client.rows(&format!(
        "select {key}, case when m.alive then 'alive' else 'dead' end, m.hlc, lower(hex(s.site))
         from {name}_cloudsync m join cloudsync_sites s on s.ordinal = m.site"
    ));
    for row in
        client.rows(&format!("select {key}, hex(m.cols) from {name}_cloudsync m where cols is not null"))
    {
        stamps.extend(registers(table, &columns, &row));
        let (key, packed) = row.rsplit_once('|').expect("a key and bytes");
        for (column, hlc, ordinal) in unpack_cells(&from_hex(packed)).expect("the file packed them") {
            let name = &columns[&column.get().to_string()];
            stamps.push(format!("{key}|{name}|{}|{}", hlc.raw(), sites[&ordinal.to_string()]));
        }
    }
    stamps
}

fn pairs(client: &Client, sql: &str) -> BTreeMap<String, String> {
    split(&client.rows(sql))
}

fn split(rows: &[String]) -> BTreeMap<String, String> {
    rows.iter().filter_map(|row| row.split_once('|')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// Three sites with files and a database; of plain tables also a copy of a file that kept its site id.
fn authors(home: &Path, dice: &mut Dice, tables: &[&Table], has_twin: bool) -> Vec<Replica> {
    let mut authors = Vec::new();
    for name in ["a", "b", "c"] {
        let author = Replica::file(home, name);
        author.create(tables);
        let Replica::File(client) = &author else { unreachable!("a file was made") };
        if name == "a" {
            // Rows that were there before the table was tracked.
            for number in 0..2 {
                let (table, column) = (tables[0], &tables[0].columns[0]);
                client.run(&format!(
                    "insert into {} (id, {}) values ('k{number}', 'seed')",
                    table.name, column.name
                ));
            }
        }
        author.track(tables);
        let offset = i64::try_from(dice.below(40)).expect("a few seconds") * 1_000 - 20_000;
        client
            .run(&format!("insert or replace into cloudsync_settings values ('clock_offset_ms', {offset})"));
        if name == "a" && has_twin {
            client.run(&format!("vacuum into '{}'", home.join("twin.sqlite").display()));
            authors.push(Replica::file(home, "twin"));
        }
        authors.push(author);
    }
    let database = Replica::database("author");
    database.create(tables);
    database.track(tables);
    authors.push(database);
    authors
}

fn play(seed: u64, tables: &[&Table], has_twin: bool) {
    let mut dice = Dice(seed | 1);
    let home: TempDir = places::scratch("engines");
    let authors = authors(home.path(), &mut dice, tables, has_twin);
    let mut told = vec!["0".to_owned(); authors.len()];
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    for _ in 0..STEPS {
        let at = dice.below(authors.len());
        match dice.below(8) {
            0 if !payloads.is_empty() => authors[at].apply(&payloads[dice.below(payloads.len())]),
            1 => payloads.extend(authors[at].tell(&mut told[at])),
            _ => {
                // Most writes go to the first table.
                let table = tables[dice.below(tables.len()).min(dice.below(tables.len()))];
                let sql = table.write(&mut dice);
                authors[at].write(&sql);
            }
        }
    }
    for (author, told) in authors.iter().zip(&mut told) {
        payloads.extend(author.tell(told));
    }
    let readers = [
        ("a file", Replica::file(home.path(), "reader")),
        ("another file", Replica::file(home.path(), "other")),
        ("a database", Replica::database("reader")),
        ("another database", Replica::database("other")),
    ];
    for (name, reader) in &readers {
        reader.create(tables);
        reader.track(tables);
        let mut order: Vec<usize> = (0..payloads.len()).collect();
        order.extend((0..payloads.len() / 4).map(|_| dice.below(payloads.len())));
        dice.shuffle(&mut order);
        for at in order {
            reader.apply(&payloads[at]);
        }
        assert_eq!(reader.refused(), Vec::<String>::new(), "rows that {name} refused");
    }
    let [(_, first), others @ ..] = &readers;
    for table in tables {
        let (values, stamps) = (first.values(table), first.stamps(table));
        for (name, reader) in others {
            check(&values, &reader.values(table), &format!("values of {} in {name}", table.name));
            check(&stamps, &reader.stamps(table), &format!("stamps of {} in {name}", table.name));
        }
    }
}

fn check(wanted: &[String], found: &[String], what: &str) {
    let more: Vec<&String> = found.iter().filter(|one| !wanted.contains(one)).collect();
    let less: Vec<&String> = wanted.iter().filter(|one| !found.contains(one)).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "{what}: only there {more:#?}, only in the first file {less:#?}"
    );
    assert_eq!(wanted.len(), found.len(), "{what}: number of lines");
}

/// One seed from the environment, or several by the clock.
fn seeds(count: u64) -> Vec<u64> {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    given.map_or_else(|| (0..count).map(|n| now * 1_000 + n).collect(), |seed| vec![seed])
}

fn play_all(tables: &[&Table], has_twin: bool) {
    for seed in seeds(2) {
        // Shown only when the test fails.
        eprintln!("SEED={seed}");
        play(seed, tables, has_twin);
    }
}

#[test]
fn equal_sets_of_changes_give_equal_values_and_metadata() {
    play_all(&PLAIN, true);
}

#[test]
fn so_they_do_under_every_algorithm() {
    play_all(&RULED, false);
}
