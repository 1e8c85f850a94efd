//! Histories made by chance on three clients and in Postgres: whatever happened in whatever order, every side
//! ends with the same rows and the same lives. A failure prints its seed; `SEED=…` plays it again.

use std::time::{SystemTime, UNIX_EPOCH};

use tests::stage::{Setting, Stage};

const HISTORIES: u64 = 6;
const STEPS: usize = 150;
const KEYS: u64 = 8;
const SIDES: [&str; 4] = ["a", "b", "c", "pg"];

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
    let who = dice.of(&SIDES);
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

/// Every row's life as Postgres and as a client know it: whether it lives, since which stamp.
fn lives(stage: &mut Stage) -> (Vec<String>, Vec<Vec<String>>) {
    let table = stage.postgres.value("select table_id from cloudsync.tracked_tables where name = 'todo'");
    let in_postgres = stage.postgres.rows(&format!(
        "select m.key_1, m.alive::int, m.hlc, encode(s.site, 'hex') from cloudsync.meta_{table} m
         join cloudsync.site_dictionary s on s.ordinal = m.site where m.alive order by m.key_1"
    ));
    let in_client = "select m.pk, m.alive, m.hlc, lower(hex(s.site)) from todo_cloudsync m
         join cloudsync_sites s on s.ordinal = m.site where m.alive order by m.pk";
    (in_postgres, ["a", "b", "c"].map(|name| stage.client(name).rows(in_client)).to_vec())
}

fn play(seed: u64) {
    let mut dice = Dice(seed | 1);
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: sync", "b: sync", "c: sync"]);
    for number in 0..STEPS {
        let line = step(&mut dice, number);
        stage.play(&[&line]);
    }
    stage.settle();
    // A row that is refused would differ until its author writes it again.
    for name in ["a", "b", "c"] {
        let refused = stage.client(name).rows("select key, sqlstate, message from cloudsync_rejected");
        assert_eq!(refused, Vec::<String>::new(), "rows of {name} that Postgres refused");
    }
    stage.all_equal();
    let (in_postgres, in_clients) = lives(&mut stage);
    for (name, lives) in ["a", "b", "c"].iter().zip(in_clients) {
        assert_eq!(lives, in_postgres, "lives in {name} (left) and Postgres");
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
        play(seed);
    }
}
