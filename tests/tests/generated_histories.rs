//! Histories made by chance on clients and in the centre, with hubs that are killed: whatever happened, every side
//! ends with the same rows and the same stamps. A failure prints its seed; `SEED=…` plays it again.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use shared_format::unpack_cells;
use tests::client::Client;
use tests::stage::{Centre, Setting, Stage, on_both};

const HISTORIES: u64 = 4;
const STEPS: usize = 150;
const KEYS: u64 = 8;
/// The last one is new in the middle of the history.
const SIDES: [&str; 5] = ["a", "b", "c", "pg", "late"];
const CLIENTS: [&str; 4] = ["a", "b", "c", "late"];

/// A small generator of numbers that follow from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        let index = self.below(choices.len().try_into().expect("a few choices"));
        choices[usize::try_from(index).expect("a few choices")]
    }
}

/// One step of a history, as a line for the stage.
fn step(dice: &mut Dice, number: usize) -> String {
    let sides = if number < STEPS / 2 { &SIDES[..4] } else { &SIDES[..] };
    let who = dice.of(sides);
    let key = format!("k{}", dice.below(KEYS));
    let value = format!("'{who} {number}'");
    let what = match dice.below(10) {
        0 | 1 if who != "pg" => "sync".to_owned(),
        0..=2 => format!(
            "insert into todo values ('{key}', {value}, null, {number})
                 on conflict (id) do update set title = excluded.title, done = excluded.done"
        ),
        3 => format!("update todo set title = {value} where id = '{key}'"),
        4 => format!("update todo set note = {value} where id = '{key}'"),
        5 => format!("update todo set done = {number}, note = null where id = '{key}'"),
        6 => format!("update todo set done = done + 1 where id >= '{key}'"),
        7 => format!("delete from todo where id = '{key}'"),
        8 => format!(
            "update todo set id = 'moved {number}' where id = '{key}'
                 and not exists (select 1 from todo where id = 'moved {number}')"
        ),
        _ => format!(
            "delete from todo where id = '{key}'; insert into todo values ('{key}', {value}, {value}, 0)"
        ),
    };
    format!("{who}: {what}")
}

/// Every stamp that Postgres keeps about rows, in a form that knows no ordinals and no ids: the life of each row,
/// dead ones too, and the columns that were written after it.
fn stamps_in_postgres(stage: &Stage) -> Vec<String> {
    let table = stage.postgres.value("select table_id from cloudsync.tracked_tables where name = 'todo'");
    let mut lives = stage.postgres.rows(&format!(
        "select m.key_1, case when m.alive then 'alive' else 'dead' end, m.hlc, encode(s.site, 'hex')
         from cloudsync.meta_{table} m join cloudsync.site_dictionary s on s.ordinal = m.site"
    ));
    lives.extend(stage.postgres.rows(&format!(
        "select m.key_1, c.name, m.cols[2 * c.column_id - 1], encode(s.site, 'hex')
         from cloudsync.meta_{table} m
         join cloudsync.columns c on c.table_id = {table} and m.cols[2 * c.column_id - 1] is not null
         join cloudsync.site_dictionary s on s.ordinal = m.cols[2 * c.column_id]
         where m.alive"
    )));
    lives.sort();
    lives
}

/// The same as a SQLite file keeps it.
fn stamps_in_file(client: &Client) -> Vec<String> {
    let sites: BTreeMap<String, String> =
        pairs(client, "select ordinal, lower(hex(site)) from cloudsync_sites");
    let columns: BTreeMap<String, String> = pairs(
        client,
        "select id, name from cloudsync_columns where tbl = (select id from cloudsync_tables where name = 'todo')",
    );
    let mut stamps = client.rows(
        "select m.pk, case when m.alive then 'alive' else 'dead' end, m.hlc, lower(hex(s.site))
         from todo_cloudsync m join cloudsync_sites s on s.ordinal = m.site",
    );
    for key in client.rows("select pk from todo_cloudsync where alive and cols is not null") {
        let packed = client.bytes(&format!("select cols from todo_cloudsync where pk = '{key}'"));
        for (column, hlc, ordinal) in unpack_cells(&packed).expect("the client packed them") {
            let name = &columns[&column.get().to_string()];
            stamps.push(format!("{key}|{name}|{}|{}", hlc.raw(), sites[&ordinal.to_string()]));
        }
    }
    stamps.sort();
    stamps
}

fn pairs(client: &Client, sql: &str) -> BTreeMap<String, String> {
    let rows = client.rows(sql);
    rows.iter().filter_map(|row| row.split_once('|')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn play(setting: Setting<'_>, seed: u64) {
    let mut dice = Dice(seed | 1);
    let mut stage = Stage::new(setting);
    stage.play(&["a: sync", "b: sync", "c: sync"]);
    for number in 0..STEPS {
        if dice.below(50) == 0 {
            stage.play(&["hub: kill", "hub: start"]);
        }
        let line = step(&mut dice, number);
        stage.play(&[&line]);
    }
    stage.settle();
    // A row that is refused would differ until its author writes it again.
    for name in ["a", "b", "c"] {
        let refused = stage.client(name).rows("select key, sqlstate, message from cloudsync_rejected");
        assert_eq!(refused, Vec::<String>::new(), "rows of {name} that the centre refused");
    }
    stage.all_equal();
    let wanted = match setting.centre {
        Centre::Postgres => stamps_in_postgres(&stage),
        Centre::SqliteFile => stamps_in_file(&Client::open(stage.database.file().expect("a file"))),
    };
    for name in CLIENTS {
        let found = stamps_in_file(stage.client(name));
        let more: Vec<&String> = found.iter().filter(|stamp| !wanted.contains(stamp)).collect();
        let less: Vec<&String> = wanted.iter().filter(|stamp| !found.contains(stamp)).collect();
        assert!(
            more.is_empty() && less.is_empty(),
            "only {name} has {more:#?}, only the centre has {less:#?}"
        );
    }
}

#[test]
fn every_side_ends_alike_after_any_history() {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    let seeds: Vec<u64> =
        given.map_or_else(|| (0..HISTORIES).map(|n| now * 1_000 + n).collect(), |seed| vec![seed]);
    for seed in seeds {
        // Shown only when the test fails.
        eprintln!("SEED={seed}");
        on_both(|setting| play(setting, seed));
    }
}
