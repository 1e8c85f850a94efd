//! Generated histories: replicas that write at random with clocks that disagree, and exchange payloads in any
//! order, end with equal rows and equal metadata. `SEED=<n>` runs one history again.

mod support;

use rusqlite::Connection;
use support::random::Random;
use support::{World, apply, encode, rows, run};

/// A table with a rowid key and one with a wider key and a value of any type.
const PLAIN: &str = "create table t (id integer primary key, a text, b integer default 7);
    create table w (k text, n integer, v, primary key (k, n)) without rowid";

/// The same with triggers of the user: one stamps its own row, one writes elsewhere.
const TRIGGERED: &str = "create table t (id integer primary key, a text, b integer default 7);
    create table w (k text, n integer, v, primary key (k, n)) without rowid;
    create trigger count_up after update of a on t begin update t set b = b + 1 where id = new.id; end;
    create trigger note after insert on t begin insert or ignore into w values ('seen', new.id, 1); end;
    create trigger forget after delete on t begin delete from w where k = 'seen' and n = old.id; end";

fn write(random: &mut Random) -> String {
    let (id, value) = (random.below(5), random.below(100));
    let key = random.pick(&["x", "y"]);
    match random.below(12) {
        0..=2 => format!("insert or ignore into t values ({id}, 'a{value}', {value})"),
        3 => format!("replace into t (id, a) values ({id}, 'r{value}')"),
        4 => format!("update t set a = 'u{value}' where id = {id}"),
        5 => format!("update t set b = {value} where id >= {id}"),
        6 => format!("delete from t where id = {id}"),
        7 => format!("update or replace t set id = {} where id = {id}", random.below(5)),
        8 => format!(
            "insert into w values ('{key}', {id}, {value}) on conflict do update set v = x'{value:02}'"
        ),
        9 => format!("delete from w where k = '{key}' and n > {id}"),
        10 => format!("update w set v = {value}.5 where n = {id}"),
        _ => String::from("begin; delete from t; update w set v = null; rollback"),
    }
}

/// Metadata with sites by name and overrides by column, and parked values by their number.
fn metadata(connection: &Connection) -> String {
    let mut all = String::new();
    for (table, key) in [("t", "pk"), ("w", "pk, pk2")] {
        let sql = format!(
            "select {key}, alive, hlc, hex(s.site), cols from {table}_cloudsync m left join cloudsync_sites s on s.ordinal = m.site order by {key}"
        );
        let mut statement = connection.prepare(&sql).expect("metadata");
        let width = statement.column_count();
        let mut found = statement.query([]).expect("metadata");
        while let Some(row) = found.next().expect("a row") {
            let parts: Vec<String> =
                (0..width - 1).map(|at| format!("{:?}", row.get_ref(at).expect("a column"))).collect();
            let packed: Option<Vec<u8>> = row.get(width - 1).expect("cols");
            let cells = packed
                .map_or(Vec::new(), |packed| shared_format::unpack_cells(&packed).expect("packed cells"));
            let cells: Vec<String> = cells
                .iter()
                .map(|(id, hlc, ordinal)| {
                    let sql = "select hex(site) from cloudsync_sites where ordinal = ?1";
                    format!("{}={}@{}", id.get(), hlc.raw(), rows(connection, sql, [ordinal]))
                })
                .collect();
            all.push_str(&format!("{table}: {} {}\n", parts.join(" "), cells.join(" ")));
        }
    }
    all
}

fn check(schema: &str, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut world = World::new(schema);
    let names = ["a", "b", "c"];
    for _ in 0..30 + random.below(30) {
        let name = random.pick(&names);
        if random.below(3) == 0 {
            world.step(&format!("{name} -> {}", random.pick(&names)));
            continue;
        }
        let sql = write(&mut random);
        let skew = i64::try_from(random.below(2_000)).expect("small") - 1_000;
        let connection = world.replica(name);
        let before = rows(connection, "select coalesce(max(seq), 0) from cloudsync_log", []);
        run(connection, &sql);
        run(connection, &format!("update cloudsync_log set ms = ms + {skew} where seq > {before}"));
    }
    for _ in 0..6 {
        for pair in ["a -> b", "b -> c", "c -> a", "a -> c", "c -> b", "b -> a"] {
            world.step(pair);
        }
    }
    let state = |world: &mut World, name| {
        let all = "select 't', id, a, b, null from t union all select 'w', k, n, v, typeof(v) from w order by 1, 2, 3";
        let connection = world.replica(name);
        (rows(connection, all, []), metadata(connection))
    };
    let expected = state(&mut world, "a");
    for name in ["b", "c"] {
        assert_eq!(state(&mut world, name), expected, "SEED={seed}: replica {name} against a");
    }
    let payload = encode(world.replica("a"), 0);
    for name in names {
        assert_eq!(
            apply(world.replica(name), payload.as_deref()),
            Ok(0),
            "SEED={seed}: {name} knows everything"
        );
        let unresolved = "select count(*) from cloudsync_parked where kind = 'refused'";
        assert_eq!(rows(world.replica(name), unresolved, []), "0", "SEED={seed}: {name}");
    }
}

fn for_each_seed(schema: &str) {
    match std::env::var("SEED") {
        Ok(seed) => check(schema, seed.parse().expect("SEED is a number")),
        Err(_) => (1..=20).for_each(|seed| check(schema, seed)),
    }
}

#[test]
fn any_history_ends_equal_everywhere() {
    for_each_seed(PLAIN);
}

#[test]
fn any_history_under_users_triggers_ends_equal_everywhere() {
    for_each_seed(TRIGGERED);
}
