//! Large rows and many rows, in both directions: cut into several uploads, frames and segments, and whole again.

use tests::stage::{Stage, on_both};

#[test]
fn more_rows_than_one_upload_holds_arrive() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
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
        assert!(stage.hub.metric("cloudsync_uploads_total") >= 2.0, "it took several chunks");
    });
}

/// Millions of characters that do not shrink much, made without a function that only one engine has.
fn long_text() -> String {
    const LENGTH: usize = 4_800_000;
    let mut text = String::with_capacity(LENGTH + 16);
    let mut number = 1_u64;
    while text.len() < LENGTH {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{number:016x}"));
    }
    text.truncate(LENGTH);
    text
}

#[test]
fn a_row_of_megabytes_arrives_from_either_side() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&[
            "b: sync",
            "a: insert into todo values ('a', hex(randomblob(1500000)), null, 1)",
            "a: sync",
            &format!("pg: insert into todo values ('p', '{}', null, 2)", long_text()),
            "pg: update todo set note = 'small change beside it' where id = 'p'",
        ]);
        stage.settle();
        stage.all_equal();
        let lengths = stage.client("b").rows("select id, length(title), note from todo order by id");
        assert_eq!(lengths, ["a|3000000|NULL", "p|4800000|small change beside it"]);
    });
}

#[test]
fn a_transaction_of_many_tables_and_statements_arrives_whole() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["a: sync"]);
        let title = "x".repeat(300);
        let statements: String = (0..2_000)
            .map(|n| {
                format!(
                    "insert into todo values ('k{n}', '{title}', null, {n});
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
    });
}
