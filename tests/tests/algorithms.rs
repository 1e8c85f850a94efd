//! Tables and columns of other algorithms than the default one: clients and people at the centre write at the same
//! time, and every side ends alike; so does a client that joins later, from a snapshot.

use tests::stage::{Centre, Setting, Stage, Table, on_both};

const SCORE_DDL: &str = "create table score (
    id text primary key not null, likes integer default 0, best integer, body text)";

const SCORE: Table = Table {
    name: "score",
    postgres: SCORE_DDL,
    sqlite: SCORE_DDL,
    show: "select id, likes, best, body from score order by id",
};

const EVENT_DDL: &str = "create table event (id text primary key not null, what text)";

const EVENT: Table = Table {
    name: "event",
    postgres: EVENT_DDL,
    sqlite: EVENT_DDL,
    show: "select id, what from event order by id",
};

const REVOKED_DDL: &str = "create table revoked (id text primary key not null, who text)";

const REVOKED: Table = Table {
    name: "revoked",
    postgres: REVOKED_DDL,
    sqlite: REVOKED_DDL,
    show: "select id, who from revoked order by id",
};

const PAIR_DDL: &str = "create table pair (id text primary key not null, x integer, y integer)";

const PAIR: Table = Table {
    name: "pair",
    postgres: PAIR_DDL,
    sqlite: PAIR_DDL,
    show: "select id, x, y from pair order by id",
};

/// Sets the algorithms on one side.
fn agree(stage: &mut Stage, who: &str) {
    let settings = [
        "select cloudsync_set_column('score', 'likes', 'algo', 'counter')",
        "select cloudsync_set_column('score', 'best', 'algo', 'max')",
        "select cloudsync_set_column('score', 'body', 'algo', 'block')",
        "select cloudsync_set_column('score', 'body', 'delimiter', ', ')",
        "select cloudsync_set_table('event', 'algo', 'gos')",
        "select cloudsync_set_table('revoked', 'algo', 'dws')",
        "select cloudsync_set_table('pair', 'algo', 'aws')",
    ];
    for setting in settings {
        stage.play(&[&format!("{who}: {setting}")]);
    }
}

fn stage(setting: Setting<'_>) -> Stage {
    let mut stage = Stage::new(Setting { tables: &[SCORE, EVENT, REVOKED, PAIR], ..setting });
    for who in ["pg", "a", "b"] {
        agree(&mut stage, who);
    }
    stage
}

#[test]
fn counters_extremes_and_blocks_keep_what_everyone_wrote() {
    on_both(|setting| {
        let mut stage = stage(setting);
        stage.play(&[
            "a: insert into score values ('p', 10, 5, 'one, two')",
            "a: sync",
            "b: sync",
            "a: update score set likes = likes + 3, best = 9, body = 'zero, one, two'",
            "b: update score set likes = likes + 10, best = 7, body = 'one, two, three'",
            "pg: update score set likes = likes + 100, best = 8, body = 'one, middle, two'",
            "a: sync",
            "b: sync",
        ]);
        stage.settles_at(&["p|123|9|zero, one, middle, two, three"]);
        stage.play(&[
            "pg: update score set likes = likes - 1, best = 6",
            "a: update score set likes = likes + 2",
            "a: sync",
            "pg: update score set body = 'zero, one, middle, two, three, four'",
        ]);
        stage.settles_at(&["p|124|9|zero, one, middle, two, three, four"]);
        let lost = match setting.centre {
            Centre::Postgres => "select column_name, lost_value, reason from cloudsync.conflicts",
            Centre::SqliteFile => "select col, lost_value, reason from cloudsync_conflicts",
        };
        assert_eq!(stage.postgres.rows(lost), ["best|6|max"]);
        agree(&mut stage, "late");
        stage.play(&["late: sync", "late: update score set likes = likes + 1000, body = body || ', five'"]);
        stage.settles_at(&["p|1124|9|zero, one, middle, two, three, four, five"]);
    });
}

#[test]
fn rows_that_grow_only_die_for_good_or_win_whole() {
    on_both(|setting| {
        let mut stage = stage(setting);
        stage.play(&[
            "a: insert into event values ('e1', 'opened')",
            "pg: insert into event values ('e2', 'sold')",
            "a: insert into revoked values ('k', 'me'), ('l', 'me')",
            "b: insert into pair values ('r', 1, 1)",
            "b: sync",
            "a: sync",
            "b: sync",
        ]);
        let mut refused = vec!["update event set what = 'x'", "delete from event"];
        if setting.centre == Centre::Postgres {
            refused.push("truncate event");
        }
        for refused in refused {
            let answer = stage.postgres.try_rows(refused);
            assert!(answer.is_err_and(|error| error.contains("only grows (gos)")), "{refused} is refused");
        }
        stage.play(&[
            "pg: delete from revoked where id = 'k'",
            "all: tick",
            "a: update revoked set who = 'late'",
            "a: update pair set x = 2",
            "all: tick",
            "pg: update pair set y = 5",
            "all: tick",
            "b: update pair set y = 7",
            "a: sync",
            "b: sync",
        ]);
        stage.settles_at(&["e1|opened", "e2|sold", "l|late", "r|1|7"]);
        let answer = stage.postgres.try_rows("insert into revoked values ('k', 'again')");
        assert!(answer.is_err_and(|error| error.contains("stand for good (dws)")), "a dead key is refused");
        agree(&mut stage, "late");
        stage.settles_at(&["e1|opened", "e2|sold", "l|late", "r|1|7"]);
        let answer = stage.client("late").try_rows("insert into revoked values ('k', 'again')");
        assert!(answer.is_err(), "the late client knows the dead key");
    });
}
