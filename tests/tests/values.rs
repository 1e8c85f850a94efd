//! Values of every type that the two engines map: what one side wrote, the other holds in its own form.

use tests::stage::{Centre, Setting, Stage, Table, on_both};

const TYPED: Table = Table {
    name: "typed",
    postgres: "create table typed (
        id uuid primary key, t text, i integer, b bigint, d double precision, yes boolean, bytes bytea,
        other uuid, at timestamptz, j jsonb, n numeric(12, 4))",
    sqlite: "create table typed (
        id text primary key not null, t text, i integer, b integer, d real, yes integer, bytes blob,
        other text, at text, j text, n text)",
    show: "select count(*) from typed",
};

/// What Postgres shows for the rows, in forms that the cluster's own settings do not change.
const IN_POSTGRES: &str = "select id, t, i, b, d, yes, encode(bytes, 'hex'), other,
    to_char(at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), j, n from typed order by id";

const IN_SQLITE: &str = "select id, t, i, b, d, yes,
    case when bytes is not null then lower(hex(bytes)) end, other, at, j, n from typed order by id";

fn stage() -> Stage {
    Stage::new(Setting { tables: &[TYPED], ..Setting::PLAIN })
}

/// What a client writes of every type, and what SQLite shows of it.
const WRITTEN: &str = "insert into typed values
    ('00000000-0000-4000-8000-00000000000a', 'käse', -7, 9223372036854775807, 0.1, 1, x'00ff10',
     'abcdef01-2345-6789-abcd-ef0123456789', '2026-11-22T07:04:56.789012Z',
     '{\"a\": [true, null, \"x\"], \"b\": 1}', '12345678.9000'),
    ('00000000-0000-4000-8000-00000000000b', '', 0, -9223372036854775808, -1e300, 0, x'', null, '', '0', '')";

const SHOWN: [&str; 2] = [
    "00000000-0000-4000-8000-00000000000a|käse|-7|9223372036854775807|0.1|1|00ff10|\
     abcdef01-2345-6789-abcd-ef0123456789|2026-11-22T07:04:56.789012Z|{\"a\": [true, null, \"x\"], \"b\": 1}|\
     12345678.9000",
    "00000000-0000-4000-8000-00000000000b||0|-9223372036854775808|-1e300|0||NULL||0|",
];

#[test]
fn values_pass_through_a_central_file_as_they_were_written() {
    for author in ["a", "pg"] {
        let centre = Centre::SqliteFile;
        let mut stage = Stage::new(Setting { tables: &[TYPED], centre, ..Setting::PLAIN });
        stage.play(&["b: sync", &format!("{author}: {WRITTEN}")]);
        stage.settle();
        assert_eq!(stage.postgres.rows(IN_SQLITE), SHOWN, "the centre, written by {author}");
        assert_eq!(stage.client("b").rows(IN_SQLITE), SHOWN, "a client, written by {author}");
    }
}

#[test]
fn a_client_holds_what_postgres_wrote() {
    let mut stage = stage();
    stage.play(&[
        "a: sync",
        "pg: insert into typed values
            ('00000000-0000-4000-8000-00000000000A', 'käse | \u{1F9C0}', -7, 9223372036854775807, 0.1, true, '\\x00ff10',
             'ABCDEF01-2345-6789-abcd-ef0123456789', '2026-11-22 12:34:56.789012+05:30',
             '{\"b\": 1, \"a\": [true, null, \"x\"]}', 12345678.9),
            ('00000000-0000-4000-8000-00000000000b', '', 0, -9223372036854775808, -1e300, false, '',
             null, '1969-12-31 23:59:59.999999Z', '0', -0.5)",
        "pg: insert into typed (id) values ('00000000-0000-4000-8000-00000000000c')",
    ]);
    stage.settle();
    assert_eq!(
        stage.client("a").rows(IN_SQLITE),
        [
            "00000000-0000-4000-8000-00000000000a|käse | \u{1F9C0}|-7|9223372036854775807|0.1|1|00ff10|\
             abcdef01-2345-6789-abcd-ef0123456789|2026-11-22T07:04:56.789012Z|\
             {\"a\": [true, null, \"x\"], \"b\": 1}|12345678.9000",
            "00000000-0000-4000-8000-00000000000b||0|-9223372036854775808|-1e300|0||NULL|\
             1969-12-31T23:59:59.999999Z|0|-0.5000",
            "00000000-0000-4000-8000-00000000000c|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL",
        ]
    );
}

#[test]
fn postgres_and_other_clients_hold_what_a_client_wrote() {
    let mut stage = stage();
    stage.play(&[
        "b: sync",
        "a: insert into typed values
            ('00000000-0000-4000-8000-00000000000a', 'käse', -7, 9223372036854775807, 0.1, 1, x'00ff10',
             'abcdef01-2345-6789-abcd-ef0123456789', '2026-11-22T07:04:56.789012Z',
             '{\"a\": [true, null, \"x\"], \"b\": 1}', '12345678.9000')",
        "a: insert into typed (id, yes) values ('00000000-0000-4000-8000-00000000000b', 0)",
        "a: sync",
    ]);
    stage.settle();
    let first = |yes: &str| {
        format!(
            "00000000-0000-4000-8000-00000000000a|käse|-7|9223372036854775807|0.1|{yes}|00ff10|\
             abcdef01-2345-6789-abcd-ef0123456789|2026-11-22T07:04:56.789012Z|\
             {{\"a\": [true, null, \"x\"], \"b\": 1}}|12345678.9000"
        )
    };
    let empty = "NULL|NULL|NULL|NULL";
    assert_eq!(
        stage.postgres.rows(IN_POSTGRES),
        [first("t"), format!("00000000-0000-4000-8000-00000000000b|{empty}|f|{empty}|NULL")]
    );
    assert_eq!(
        stage.client("b").rows(IN_SQLITE),
        [first("1"), format!("00000000-0000-4000-8000-00000000000b|{empty}|0|{empty}|NULL")]
    );
}

#[test]
fn a_value_that_postgres_stores_in_its_own_form_comes_back_to_the_client() {
    let mut stage = stage();
    stage.play(&[
        "a: insert into typed (id, j, n) values ('00000000-0000-4000-8000-00000000000a', '{\"b\":1,\"a\":2}', '1.5')",
        "a: sync",
    ]);
    stage.settle();
    assert_eq!(stage.client("a").rows("select j, n from typed"), ["{\"a\": 2, \"b\": 1}|1.5000"]);
}

const PAIR_DDL: &str = "create table pair (left_part text not null, right_part integer not null,
    body text, primary key (left_part, right_part))";

/// A key of two columns, and names that need quotes.
const QUOTED_DDL: &str = "create table \"Mixed Case\" (
    \"Group\" integer not null, \"key\" text not null, \"select\" text, primary key (\"Group\", \"key\"))";

#[test]
fn rows_with_composite_keys_and_quoted_names_converge() {
    on_both(|setting| {
        let pair = Table {
            name: "pair",
            postgres: PAIR_DDL,
            sqlite: PAIR_DDL,
            show: "select left_part, right_part, body from pair order by 1, 2",
        };
        let mut stage = Stage::new(Setting { tables: &[pair], ..setting });
        let init = match setting.centre {
            Centre::Postgres => "select cloudsync_init('public.\"Mixed Case\"')",
            Centre::SqliteFile => "select cloudsync_init('Mixed Case')",
        };
        stage.postgres.run(&format!("{QUOTED_DDL}; {init}"));
        stage.play(&["a: sync"]);
        let a = stage.client("a");
        a.run(&format!("{QUOTED_DDL}; select cloudsync_init('Mixed Case')"));
        stage.play(&[
            "a: insert into pair values ('x', 1, 'a'), ('x', 2, 'b'), ('', -9223372036854775808 + 9223372036854775000, 'c')",
            "a: insert into \"Mixed Case\" values (1, 'k', 'from a')",
            "a: sync",
            "pg: update pair set body = 'edited' where left_part = 'x' and right_part = 2",
            "pg: update \"Mixed Case\" set \"select\" = 'edited'",
            "pg: delete from pair where left_part = 'x' and right_part = 1",
            "b: sync",
        ]);
        stage.settles_at(&["|-808|c", "x|2|edited"]);
        assert_eq!(stage.client("a").rows("select * from \"Mixed Case\""), ["1|k|edited"]);
    });
}
