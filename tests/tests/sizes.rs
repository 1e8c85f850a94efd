//! Large rows and many rows, in both directions: cut into several uploads, frames and segments, and whole again.

use tests::stage::{Setting, Stage};

#[test]
fn more_rows_than_one_upload_holds_arrive() {
    let mut stage = Stage::new(Setting::PLAIN);
    // Hex of random bytes: about 14 MiB after compression, where one upload holds 8.
    stage.play(&[
        "b: sync",
        "a: with recursive n (n) as (values (1) union all select n + 1 from n where n < 30000)
            insert into todo select 'k' || n, hex(randomblob(500)), null, n from n",
        "a: sync",
    ]);
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("b").value("select count(*), sum(done) from todo"), "30000|450015000");
    assert!(stage.hub.metric("cloudsync_uploads_total") >= 2.0, "it took several uploads");
}

#[test]
fn a_row_of_megabytes_arrives_from_either_side() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&[
        "b: sync",
        "a: insert into todo values ('a', hex(randomblob(1500000)), null, 1)",
        "a: sync",
        "pg: insert into todo select 'p', string_agg(md5(n::text), ''), null, 2 from generate_series(1, 150000) n",
        "pg: update todo set note = 'small change beside it' where id = 'p'",
    ]);
    stage.settle();
    stage.all_equal();
    let lengths = stage.client("b").rows("select id, length(title), note from todo order by id");
    assert_eq!(lengths, ["a|3000000|NULL", "p|4800000|small change beside it"]);
}

#[test]
fn a_transaction_of_many_tables_and_statements_arrives_whole() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: sync"]);
    let statements: String = (0..2_000)
        .map(|n| {
            format!(
                "insert into todo values ('k{n}', repeat('x', 300), null, {n});
                 update todo set note = 'n{n}' where id = 'k{}';",
                n / 3
            )
        })
        .collect();
    stage.postgres.run(&format!("begin; {statements} delete from todo where done % 7 = 0; commit"));
    stage.settle();
    stage.all_equal();
    let count = stage.postgres.value("select count(*), count(note) from todo");
    assert_eq!(stage.client("a").value("select count(*), count(note) from todo"), count);
}
