//! Algorithms of tables and columns, through real files that exchange payloads.

#[path = "support/hub.rs"]
mod hub;
mod support;

use hub::Hub;
use rusqlite::Connection;
use support::random::Random;
use support::{World, apply, encode, open, rows, run};

const POSTS: &str =
    "create table posts (id text primary key, title text, likes integer default 0, best integer,
    cheapest real, body text, low integer, high integer)";

const COLUMNS: &str = "select cloudsync_set_column('posts', 'likes', 'algo', 'counter');
    select cloudsync_set_column('posts', 'best', 'algo', 'max');
    select cloudsync_set_column('posts', 'cheapest', 'algo', 'min');
    select cloudsync_set_column('posts', 'body', 'algo', 'block');
    select cloudsync_set_column('posts', 'low', 'algo', 'group:range');
    select cloudsync_set_column('posts', 'high', 'algo', 'group:range')";

const TABLE: &str = "create table t (id text primary key, v integer)";

/// Takes steps; then every replica has to answer a query alike.
fn check(schema: &str, setup: &str, steps: &[&str], query: &str, expected: &str) -> World {
    let mut world = World::with_setup(schema, setup);
    world.steps(steps);
    for name in world.names() {
        assert_eq!(rows(world.replica(&name), query, []), expected, "{name} after {steps:?}");
    }
    world
}

fn table_of(algorithm: &str) -> String {
    format!("select cloudsync_set_table('t', 'algo', '{algorithm}')")
}

fn error_of(connection: &Connection, sql: &str) -> String {
    connection.execute_batch(sql).expect_err(sql).to_string()
}

#[test]
fn a_counter_adds_up_what_everyone_added() {
    let steps = [
        "a: insert into posts (id, likes) values ('p', 10)",
        "a -> b",
        "a -> c",
        "a: update posts set likes = likes + 5",
        "b: update posts set likes = likes - 3",
        "c: update posts set likes = likes + 1",
        "c: update posts set likes = likes + 1",
        "a -> b",
        "a -> b",
        "b: update posts set likes = likes + 100",
        "b -> c",
        "c -> a",
        "a <-> b",
    ];
    check(POSTS, COLUMNS, &steps, "select likes from posts", "114");
}

#[test]
fn what_a_counter_cannot_add_is_put_back_and_kept() {
    let steps = [
        "a: insert into posts (id, likes) values ('p', 10)",
        "a -> b",
        "a: update posts set likes = 'many'",
        "b: update posts set likes = likes + 1",
        "a <-> b",
    ];
    let mut world = check(POSTS, COLUMNS, &steps, "select likes from posts", "11");
    let sql = "select col, lost_value, won_value, reason from cloudsync_conflicts";
    assert_eq!(rows(world.replica("a"), sql, []), "likes | many | 10 | counter");
}

#[test]
fn the_furthest_value_stays_and_others_are_put_back() {
    let steps = [
        "a: insert into posts (id, best, cheapest) values ('p', 5, 5.5)",
        "a -> b",
        "a: update posts set best = 9, cheapest = 9.5",
        "b: update posts set best = 7, cheapest = 3.5",
        "a <-> b",
        "b -> c",
        "c: update posts set best = 1",
        "c -> a",
    ];
    let mut world = check(POSTS, COLUMNS, &steps, "select best, cheapest from posts", "9 | 3.5");
    let sql = "select col, lost_value, won_value, reason from cloudsync_conflicts";
    assert_eq!(rows(world.replica("c"), sql, []), "best | 1 | 9 | max");
    assert_eq!(rows(world.replica("a"), sql, []), "cheapest | 9.5 | 5.5 | min");
}

#[test]
fn lines_written_at_one_place_are_kept_by_both() {
    let steps = [
        "a: insert into posts (id, body) values ('p', 'milk' || char(10) || 'bread')",
        "a -> b",
        "a: update posts set body = 'milk' || char(10) || 'eggs' || char(10) || 'bread'",
        "b: update posts set body = 'oat milk' || char(10) || 'tea' || char(10) || 'bread'",
        "a <-> b",
    ];
    let query = "select length(body), replace(body, char(10), ',') like 'oat milk,%eggs%,bread' from posts";
    check(POSTS, COLUMNS, &steps, query, "23 | 1");
}

#[test]
fn of_one_line_the_later_text_stays_and_the_other_is_kept_as_a_conflict() {
    let steps = [
        "a: insert into posts (id, body) values ('p', 'one' || char(10) || 'two')",
        "a -> b",
        "b: update posts set body = 'one' || char(10) || 'zwei'",
        "a: update posts set body = 'one' || char(10) || 'deux'",
        "a: update cloudsync_log set ms = ms + 1000 where seq = (select max(seq) from cloudsync_log)",
        "a <-> b",
    ];
    let query = "select replace(body, char(10), ',') from posts";
    let mut world = check(POSTS, COLUMNS, &steps, query, "one,deux");
    let sql = "select col, lost_value, won_value, reason from cloudsync_conflicts";
    assert_eq!(rows(world.replica("b"), sql, []), "body | zwei | deux | block");
}

#[test]
fn a_delimiter_cuts_text_into_other_blocks() {
    let setup = "select cloudsync_set_column('posts', 'body', 'algo', 'block');
        select cloudsync_set_column('posts', 'body', 'delimiter', ', ')";
    let steps = [
        "a: insert into posts (id, body) values ('p', 'red, blue')",
        "a -> b",
        "a: update posts set body = 'red, green, blue'",
        "b: update posts set body = 'red, blue, black'",
        "a <-> b",
    ];
    check(POSTS, setup, &steps, "select body from posts", "red, green, blue, black");
}

#[test]
fn columns_of_a_group_win_or_lose_together() {
    let steps = [
        "a: insert into posts (id, low, high) values ('p', 1, 5)",
        "a -> b",
        "b: update posts set low = 4",
        "a: update posts set high = 3",
        "a: update cloudsync_log set ms = ms + 1000 where seq = (select max(seq) from cloudsync_log)",
        "a <-> b",
    ];
    check(POSTS, COLUMNS, &steps, "select low, high from posts", "1 | 3");
}

#[test]
fn a_row_created_again_begins_its_registers_anew() {
    let steps = [
        "a: insert into posts (id, likes, body) values ('p', 10, 'x')",
        "a <-> b",
        "a: update posts set likes = 12",
        "a <-> b",
        "b: delete from posts",
        "b: insert into posts (id, likes, body) values ('p', 1, 'y')",
        "b -> a",
        "a: update posts set likes = likes + 1",
        "a <-> b",
    ];
    check(POSTS, COLUMNS, &steps, "select likes, body from posts", "2 | y");
}

#[test]
fn entries_for_a_row_not_seen_yet_wait_for_it() {
    let mut world = World::with_setup(POSTS, COLUMNS);
    world.step("a: insert into posts (id, likes) values ('p', 10)");
    world.step("a -> b");
    let created = encode(world.replica("a"), 0);
    let seen: i64 = rows(world.replica("b"), "select cloudsync_db_version()", []).parse().expect("a number");
    world.step("b: update posts set likes = likes + 5");
    let sql = "select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq)
        from cloudsync_changes where db_version > ?1 and col_name = 'likes'";
    let update: Option<Vec<u8>> =
        world.replica("b").query_row(sql, [seen], |row| row.get(0)).expect("encode works");
    let late = world.replica("c");
    apply(late, update.as_deref()).expect("apply works");
    assert_eq!(rows(late, "select count(*) from posts", []), "0");
    apply(late, created.as_deref()).expect("apply works");
    assert_eq!(rows(late, "select likes from posts", []), "15");
}

#[test]
fn rows_from_before_the_table_was_tracked_have_registers_too() {
    let make = |likes: i64| {
        let connection = open();
        run(&connection, POSTS);
        run(&connection, &format!("insert into posts (id, likes, body) values ('p', {likes}, 'a')"));
        run(&connection, "select cloudsync_init('posts')");
        run(&connection, COLUMNS);
        connection
    };
    let (a, b) = (make(10), make(10));
    run(&a, "update posts set likes = likes + 1, body = 'a' || char(10) || 'b'");
    run(&b, "update posts set likes = likes + 2");
    for _ in 0..2 {
        apply(&b, encode(&a, 0).as_deref()).expect("apply works");
        apply(&a, encode(&b, 0).as_deref()).expect("apply works");
    }
    for connection in [&a, &b] {
        assert_eq!(rows(connection, "select likes, length(body) from posts", []), "13 | 3");
    }
}

#[test]
fn a_grow_only_table_refuses_everything_but_new_rows() {
    let mut world = World::with_setup(TABLE, &table_of("gos"));
    world
        .steps(&["a: insert into t values ('x', 1)", "a: insert or ignore into t values ('x', 2), ('y', 2)"]);
    let a = world.replica("a");
    let grows = "cloudsync: table \"t\" only grows (gos)";
    for (sql, what) in [
        ("update t set v = 3", "UPDATE is not allowed"),
        ("delete from t", "DELETE is not allowed"),
        ("replace into t values ('x', 3)", "a row cannot be replaced"),
        ("insert into t values ('x', 3) on conflict do update set v = 3", "UPDATE is not allowed"),
    ] {
        assert_eq!(error_of(a, sql), format!("{grows}: {what}"), "{sql}");
    }
    world.steps(&["b: insert into t values ('z', 1)", "a <-> b"]);
    for name in ["a", "b"] {
        assert_eq!(rows(world.replica(name), "select * from t order by 1", []), "x | 1; y | 2; z | 1");
    }
}

#[test]
fn of_two_creations_in_a_grow_only_table_the_later_stays_also_where_triggers_watch() {
    let schema = "create table t (id text primary key, v integer);
        create table seen (n integer primary key);
        create trigger watch after insert on t begin insert into seen values (null); end";
    let steps = [
        "a: insert into t values ('x', 1)",
        "b: insert into t values ('x', 2)",
        "b: update cloudsync_log set ms = ms + 1000 where tbl = 1",
        "a <-> b",
        "a <-> b",
    ];
    check(schema, &table_of("gos"), &steps, "select * from t", "x | 2");
}

#[test]
fn a_deletion_stands_for_good_where_the_table_says_so() {
    let mut world = World::with_setup(TABLE, &table_of("dws"));
    world.steps(&[
        "a: insert into t values ('x', 1), ('y', 1)",
        "a <-> b",
        "a: delete from t where id = 'x'",
    ]);
    let stands = "cloudsync: table \"t\" has this key among its deletions, which stand for good (dws)";
    assert_eq!(error_of(world.replica("a"), "insert into t values ('x', 2)"), stands);
    world.step("a -> b");
    for sql in [
        "insert into t values ('x', 2)",
        "update t set id = 'x' where id = 'y'",
        "replace into t values ('x', 2)",
    ] {
        for name in ["a", "b"] {
            assert_eq!(error_of(world.replica(name), sql), stands, "{sql}");
        }
    }
    let steps = ["c: insert into t values ('x', 9)", "c <-> a", "c -> b", "b -> c"];
    world.steps(&steps);
    for name in ["a", "b", "c"] {
        assert_eq!(rows(world.replica(name), "select * from t", []), "y | 1", "{name}");
    }
    let sql = "select tbl, col, lost_value, reason from cloudsync_conflicts";
    assert_eq!(rows(world.replica("c"), sql, []), "t | v | 9 | deleted");
}

#[test]
fn a_later_update_brings_a_row_back_where_it_is_one_register() {
    let schema = "create table t (id text primary key, v integer, w integer)";
    let steps = [
        "a: insert into t values ('x', 1, 1)",
        "a <-> b",
        "a: delete from t",
        "b: update t set v = 2",
        "b: update cloudsync_log set ms = ms + 1000 where seq = (select max(seq) from cloudsync_log)",
        "a <-> b",
    ];
    check(schema, &table_of("aws"), &steps, "select * from t", "x | 2 | 1");
    let steps = [
        "a: insert into t values ('x', 1, 1)",
        "a <-> b",
        "a: update t set v = 5",
        "b: update t set w = 2",
        "b: update cloudsync_log set ms = ms + 1000 where seq = (select max(seq) from cloudsync_log)",
        "a <-> b",
    ];
    check(schema, &table_of("aws"), &steps, "select * from t", "x | 1 | 2");
}

#[test]
fn a_table_with_other_algorithms_is_held_back_until_they_agree() {
    let mut world = World::new(POSTS);
    run(world.replica("a"), "select cloudsync_set_column('posts', 'likes', 'algo', 'counter')");
    world.steps(&["a: insert into posts (id, likes) values ('p', 1)", "a -> b"]);
    let b = world.replica("b");
    assert_eq!(rows(b, "select count(*) from posts", []), "0");
    let reason = "posts | algorithm of column \"likes\" is counter there and lww here";
    assert_eq!(rows(b, "select tbl, reason from cloudsync_skipped", []), reason);
    run(b, "select cloudsync_set_column('posts', 'likes', 'algo', 'counter')");
    assert_eq!(rows(b, "select count(*) from cloudsync_skipped", []), "0");
    world.step("a -> b");
    assert_eq!(rows(world.replica("b"), "select id, likes from posts", []), "p | 1");
}

#[test]
fn an_algorithm_changes_only_before_rows_are_written() {
    let connection = open();
    run(&connection, POSTS);
    run(&connection, "select cloudsync_init('posts')");
    for (sql, expected) in [
        (
            "select cloudsync_set_column('posts', 'likes', 'algo', 'sum')",
            "cloudsync: column algorithm \"sum\" does not exist, wanted \"lww\", \"counter\", \"max\", \"min\", \"block\" or \"group:<name>\"",
        ),
        (
            "select cloudsync_set_column('posts', 'id', 'algo', 'counter')",
            "cloudsync: cloudsync_set_column: argument 2 is a key column, wanted a column that is not part of the key",
        ),
        (
            "select cloudsync_set_column('posts', 'body', 'delimiter', '')",
            "cloudsync: cloudsync_set_column: argument 4 is another value, wanted text that is not empty, or NULL",
        ),
        (
            "select cloudsync_set_table('posts', 'algo', 'lww')",
            "cloudsync: table algorithm \"lww\" does not exist, wanted \"cls\", \"gos\", \"dws\" or \"aws\"",
        ),
    ] {
        assert_eq!(error_of(&connection, sql), expected);
    }
    run(&connection, "select cloudsync_set_column('posts', 'likes', 'algo', 'counter')");
    assert_eq!(
        error_of(&connection, "select cloudsync_set_table('posts', 'algo', 'aws')"),
        "cloudsync: table \"posts\" has algorithm aws, under which no column can have algorithm counter; wanted cls or dws"
    );
    run(&connection, "insert into posts (id, likes) values ('p', 1)");
    assert_eq!(
        error_of(&connection, "select cloudsync_set_column('posts', 'best', 'algo', 'max')"),
        "cloudsync: algorithm of column \"best\" of table \"posts\" cannot change from lww to max: rows were already written or \
         received; call cloudsync_cleanup(\"posts\"), then cloudsync_init and this again, before the next sync and on every replica"
    );
    assert!(
        error_of(&connection, "select cloudsync_init('posts', 'dws')")
            .contains("cannot change from cls to dws")
    );
    run(&connection, "select cloudsync_set_column('posts', 'likes', 'algo', 'counter')");
    run(&connection, "select cloudsync_set_column('posts', 'low', 'algo', 'group:range')");
    run(&connection, "alter table posts add column shares integer default 3");
    run(&connection, "select cloudsync_init('posts')");
    run(&connection, "select cloudsync_set_column('posts', 'shares', 'algo', 'counter')");
    run(&connection, "update posts set shares = shares + 2");
    let other = open();
    run(&other, &POSTS.replace("high integer)", "high integer, shares integer default 3)"));
    run(&other, "select cloudsync_init('posts')");
    run(
        &other,
        "select cloudsync_set_column('posts', 'likes', 'algo', 'counter'); select cloudsync_set_column('posts', 'shares', 'algo', 'counter'); select cloudsync_set_column('posts', 'low', 'algo', 'group:range')",
    );
    apply(&other, encode(&connection, 0).as_deref()).expect("apply works");
    assert_eq!(rows(&other, "select likes, shares from posts", []), "1 | 5");
}

#[test]
fn the_examples_of_the_guide_run() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/algorithms.md");
    let guide = std::fs::read_to_string(path).expect("the guide is there");
    let connection = open();
    let mut checked = 0;
    for block in guide.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or("")) {
        let mut sql = String::new();
        for line in block.lines() {
            if let Some(shown) = line.strip_prefix("-- => ") {
                assert_eq!(rows(&connection, &sql, []), shown, "{sql}");
            } else if let Some(refused) = line.strip_prefix("-- !! ") {
                let error = error_of(&connection, &sql);
                assert!(error.starts_with(refused), "{sql}: {error}");
            } else {
                if sql.ends_with(";\n") {
                    run(&connection, &sql);
                    sql.clear();
                }
                sql.push_str(line);
                sql.push('\n');
                continue;
            }
            sql.clear();
            checked += 1;
        }
    }
    assert!(checked > 10);
}

fn write(random: &mut Random) -> String {
    let (id, n) = (random.below(2), random.below(9));
    match random.below(9) {
        0 | 1 => {
            format!("insert or ignore into posts values ({id}, 't{n}', {n}, {n}, {n}, 'l{n}', {n}, {n})")
        }
        2 => format!("update posts set likes = likes + {n} where id = {id}"),
        3 => format!("update posts set best = {n}, cheapest = {n} where id = {id}"),
        4 => format!("update posts set body = body || char(10) || 'l{n}' where id = {id}"),
        5 => format!("update posts set body = 'top{n}' || char(10) || body, low = {n} where id = {id}"),
        6 => format!("update posts set title = 'u{n}', high = {n} where id = {id}"),
        7 => format!("delete from posts where id = {id}"),
        _ => format!("replace into posts (id, likes, body) values ({id}, {n}, 'r{n}')"),
    }
}

/// Five files write at random and hear of each other in any order; in the end all of them say the same.
fn check_history(schema: &str, setup: &str, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut world = World::with_setup(schema, setup);
    let names = ["a", "b", "c", "d", "e"];
    let name = |random: &mut Random| names[usize::try_from(random.below(5)).expect("few")];
    for _ in 0..40 {
        let at = name(&mut random);
        if random.below(3) == 0 {
            world.step(&format!("{at} -> {}", name(&mut random)));
            continue;
        }
        let skew = i64::try_from(random.below(2_000)).expect("small") - 1_000;
        let sql = write(&mut random);
        let connection = world.replica(at);
        let before = rows(connection, "select coalesce(max(seq), 0) from cloudsync_log", []);
        // A row of a table may refuse a write for good; that is a result like any other.
        let _refused = connection.execute_batch(&sql).is_err();
        run(connection, &format!("update cloudsync_log set ms = ms + {skew} where seq > {before}"));
    }
    for _ in 0..2 {
        for at in 1..5 {
            world.step(&format!("{} <-> {}", names[0], names[at]));
        }
    }
    let query = "select * from posts order by id";
    let expected = rows(world.replica("a"), query, []);
    for at in names {
        assert_eq!(rows(world.replica(at), query, []), expected, "SEED={seed} {at}");
    }
}

#[test]
fn histories_of_files_with_all_algorithms_converge() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (1..16).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        check_history(POSTS, COLUMNS, seed);
        check_history(POSTS, &format!("{COLUMNS}; select cloudsync_set_table('posts', 'algo', 'dws')"), seed);
        check_history(POSTS, "select cloudsync_set_table('posts', 'algo', 'aws')", seed);
        check_history(POSTS, "select cloudsync_set_table('posts', 'algo', 'gos')", seed);
    }
}

/// A device at a server that hands on what others sent: uploads carry only what was written here.
fn device(hub: &Hub, setup: &str) -> Connection {
    let connection = Connection::open_in_memory().expect("memory is there");
    cloudsync::register_with(&connection, Box::new(hub.clone())).expect("functions register");
    run(&connection, POSTS);
    run(&connection, "select cloudsync_init('posts'); select cloudsync_network_init('http://hub/db');");
    run(&connection, "select cloudsync_network_set_apikey('key')");
    run(&connection, setup);
    connection
}

#[test]
fn uploads_of_what_each_device_wrote_converge() {
    for seed in 1..8_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let hub = Hub::default();
        let devices: Vec<Connection> = (0..5).map(|_| device(&hub, COLUMNS)).collect();
        for _ in 0..40 {
            let at = &devices[usize::try_from(random.below(5)).expect("few")];
            if random.below(3) == 0 {
                run(at, "select cloudsync_network_sync()");
            } else {
                let _refused = at.execute_batch(&write(&mut random)).is_err();
            }
        }
        for _ in 0..2 {
            devices.iter().for_each(|device| run(device, "select cloudsync_network_sync()"));
        }
        let query = "select * from posts order by id";
        let expected = rows(&devices[0], query, []);
        for device in &devices {
            assert_eq!(rows(device, query, []), expected, "seed {seed}");
        }
    }
}
