//! Tables that every client takes anew, because a command changed their rows in a way that no message tells: only
//! those tables travel, and the log goes on.

use tests::client::Client;
use tests::hub::API_KEY;
use tests::stage::{Setting, Stage, TODO, Table};
use tests::wait;

const BULK_DDL: &str = "create table bulk (id integer primary key, data text not null)";

/// A table whose rows fill more than one part of a snapshot.
const BULK: Table = Table {
    name: "bulk",
    postgres: BULK_DDL,
    sqlite: BULK_DDL,
    show: "select id, length(data) from bulk order by id",
};

/// Rows that do not get much smaller when they are compressed.
const FILL: &str = "pg: insert into bulk select n, (select string_agg(md5(n::text || i), '')
    from generate_series(1, 128) as i) from generate_series(1, 2500) as n";

/// A stage with both tables, filled, and a client that has all of it.
fn stage() -> Stage {
    let mut stage = Stage::new(Setting { tables: &[TODO, BULK], ..Setting::PLAIN });
    stage.play(&[
        FILL,
        "pg: insert into todo values ('t', 'first', 'n1', 1), ('u', 'second', 'n2', 2), ('v', 'third', 'n3', 3)",
        "a: sync",
        "all: settle",
    ]);
    stage
}

/// The epoch of a client's place.
fn epoch(client: &Client) -> String {
    let cursor = client.value("select value from cloudsync_settings where key = 'cursor'");
    cursor.split('.').nth(1).expect("a cursor names its epoch").to_owned()
}

/// Syncs until a query gives this; tells how many bytes came meanwhile.
fn bytes_until(client: &Client, query: &str, wanted: &str) -> u64 {
    let mut bytes = 0;
    wait::until_ok("the client has what is wanted", || {
        let received = client.try_rows("select cloudsync_network_receive_changes() ->> '$.receive.bytes'")?;
        bytes += received.concat().parse::<u64>().map_err(|_| format!("no count of bytes: {received:?}"))?;
        let found = client.rows(query).concat();
        (found == wanted).then_some(()).ok_or(found)
    });
    bytes
}

#[test]
fn only_the_table_whose_rows_a_command_computed_anew_is_fetched() {
    let mut stage = stage();
    stage.play(&["a: update todo set note = 'unsent' where id = 'v'"]);
    let before = epoch(stage.client("a"));
    stage.postgres.run("alter table todo alter column title type text using upper(title)");
    stage.postgres.run("update bulk set data = 'new' where id = 7");
    let titles =
        "select group_concat(title, ' ' order by id) || (select data from bulk where id = 7) from todo";
    let bytes = bytes_until(stage.client("a"), titles, "FIRST SECOND THIRDnew");
    assert!(bytes < 1024 * 1024, "{bytes} bytes came for a table of three rows");
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("a").value("select note from todo where id = 'v'"), "unsent");
    assert_eq!(epoch(stage.client("a")), before, "the log went on");
}

#[test]
fn rows_of_a_table_that_is_truncated_go_and_those_of_others_stay() {
    let mut stage = stage();
    stage.play(&[
        "pg: insert into todo select 'x' || n, 'many', null, n from generate_series(1, 100001) as n",
        "all: settle",
        "a: insert into todo values ('z', 'unsent', null, 0)",
    ]);
    let before = epoch(stage.client("a"));
    stage.play(&["pg: truncate todo"]);
    bytes_until(stage.client("a"), "select group_concat(id) from todo", "z");
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("a").value("select count(*) from bulk"), "2500");
    assert_eq!(epoch(stage.client("a")), before, "the log went on");
}

#[test]
fn a_table_is_taken_in_steps_while_everything_goes_on() {
    let mut stage = stage();
    stage.play(&["pg: delete from bulk where id = 1"]);
    // As if its deletion had been forgotten: only the snapshot tells that it is gone.
    stage.client("a").run("insert into bulk_cloudsync select 9999, alive, hlc, site, cols, seq from bulk_cloudsync where pk = 2");
    stage.play(&["pg: alter table bulk alter column data type text using 'again ' || data"]);
    let path = stage.client("a").path().to_owned();
    let begun = "select count(*) from cloudsync_settings where key = 'reload_cursor' and value is not null";
    let client = Client::open(&path);
    client.join(&stage.hub.address(), API_KEY);
    wait::until_ok("a part of the table is there", || {
        client.try_rows("select cloudsync_network_receive_changes(1)")?;
        let found = client.rows(begun).concat();
        (found == "1").then_some(()).ok_or(found)
    });
    drop(client);
    stage.play(&[
        "hub: kill",
        "pg: update todo set title = 'meanwhile' where id = 't'; update bulk set data = 'later' where id = 2",
        "hub: start",
    ]);
    let client = Client::open(&path);
    client.join(&stage.hub.address(), API_KEY);
    bytes_until(
        &client,
        "select title || (select data from bulk where id = 2) from todo where id = 't'",
        "meanwhilelater",
    );
    assert_eq!(client.value(begun), "0", "the table is there");
    assert_eq!(client.value("select count(*) from bulk_cloudsync where pk = 9999"), "0");
    stage.settle();
    stage.all_equal();
}

#[test]
fn a_table_that_is_dropped_or_not_tracked_any_more_is_told_to_clients() {
    let mut stage = stage();
    let client = stage.client("a");
    client.run(
        "create table told (tables text);
         create trigger told after update on cloudsync_settings when new.key = 'reload' and new.value is not null
         begin insert into told values (new.value); end",
    );
    let before = epoch(client);
    stage.postgres.run("select cloudsync_cleanup('todo')");
    bytes_until(stage.client("a"), "select count(*) from told", "1");
    stage.postgres.run("drop table bulk");
    bytes_until(stage.client("a"), "select count(distinct tables) from told", "2");
    let client = stage.client("a");
    assert_eq!(client.value("select count(*) from todo"), "3", "what a client has of it stays");
    assert_eq!(client.value("select count(*) from bulk"), "2500");
    assert_eq!(epoch(client), before, "the log went on");
    client.run("update todo set note = 'unsent' where id = 't'");
    wait::until_ok("the refusal is there", || {
        client.try_rows("select cloudsync_network_sync(300, 1)")?;
        let found = client.rows("select tbl, key, sqlstate from cloudsync_rejected");
        (found == ["todo|[\"t\"]|42P01"]).then_some(()).ok_or_else(|| found.join("; "))
    });
}
