//! Tables that change while the whole stack runs: in a client, at the centre, first here and first there.

use tests::client::Client;
use tests::stage::{Setting, Stage, TODO, on_both};
use tests::wait;

/// A stage on which the centre and the client `a` hold three rows.
fn stage(setting: Setting<'_>) -> Stage {
    let mut stage = Stage::new(setting);
    stage.play(&[
        "pg: insert into todo values ('t', 'first', 'n1', 1), ('u', 'second', 'n2', 2), ('v', 'third', 'n3', 3)",
        "a: sync",
        "all: settle",
    ]);
    stage
}

/// Syncs a client until a query says the same there as at the centre.
fn agree(stage: &Stage, client: &Client, query: &str, expected: &[&str]) {
    wait::until_ok("the client and the centre agree", || {
        client.try_rows("select cloudsync_network_sync(300, 1)")?;
        let (here, there) = (client.rows(query), stage.postgres.rows(query));
        (here == there && here == expected).then_some(()).ok_or_else(|| format!("{here:?}, {there:?}"))
    });
}

#[test]
fn a_column_that_comes_first_at_the_centre_is_fetched_when_it_comes_here() {
    on_both(|setting| {
        let mut stage = stage(setting);
        stage.play(&[
            "pg: alter table todo add column tag text; update todo set tag = 'x' || id where id <> 'v'",
            "pg: insert into todo values ('w', 'fourth', null, 0, 'aaa')",
            "all: settle",
            "a: alter table todo add column tag text default 'zzz'",
        ]);
        stage.play(&["a: sync"]);
        let tags = "select id, tag from todo order by id";
        let client = Client::open(stage.client("a").path());
        client.join(&stage.hub.address(), tests::hub::API_KEY);
        wait::until_ok("the tags are there", || {
            client.try_rows("select cloudsync_network_sync(300, 1)")?;
            let found = client.rows("select id, tag from todo where id <> 'v' order by id");
            (found == ["t|xt", "u|xu", "w|aaa"]).then_some(()).ok_or_else(|| found.join("; "))
        });
        stage.postgres.run("update todo set tag = 'at last' where id = 'v'");
        agree(&stage, &client, tags, &["t|xt", "u|xu", "v|at last", "w|aaa"]);
    });
}

#[test]
fn a_column_with_a_default_that_nobody_writes_is_fetched_when_it_comes_here() {
    on_both(|setting| {
        let mut stage = stage(setting);
        stage.play(&[
            "pg: alter table todo add column tag text default 'x'",
            "all: settle",
            "a: alter table todo add column tag text",
            "a: sync",
        ]);
        let client = Client::open(stage.client("a").path());
        client.join(&stage.hub.address(), tests::hub::API_KEY);
        agree(&stage, &client, "select id, tag from todo order by id", &["t|x", "u|x", "v|x"]);
    });
}

#[test]
fn a_client_hears_of_a_column_that_nobody_writes() {
    on_both(|setting| {
        let mut stage = stage(setting);
        stage.play(&["pg: alter table todo add column tag text", "all: settle"]);
        let passed_over = "select tbl, col from cloudsync_skipped";
        assert_eq!(stage.client("a").rows(passed_over), ["todo|tag"]);
    });
}

#[test]
fn a_column_that_comes_first_here_reaches_the_centre_when_it_comes_there() {
    on_both(|setting| {
        let mut stage = stage(setting);
        stage.play(&["a: alter table todo rename column note to remark", "a: sync"]);
        stage.postgres.run("alter table todo rename column note to remark");
        stage.play(&["a: update todo set remark = 'by the client' where id = 't'"]);
        stage.postgres.run("update todo set remark = 'by the centre' where id = 'u'");
        let client = stage.client("a").path().to_owned();
        let client = Client::open(&client);
        client.join(&stage.hub.address(), tests::hub::API_KEY);
        agree(
            &stage,
            &client,
            "select id, remark from todo order by id",
            &["t|by the client", "u|by the centre", "v|n3"],
        );
    });
}

#[test]
fn a_table_that_is_rebuilt_or_dropped_and_made_again_comes_back_to_what_everybody_has() {
    on_both(|setting| {
        let mut stage = stage(setting);
        stage.play(&[
            "a: begin; create table new_todo (id text primary key not null, title text not null, note text,
                    done integer not null default 0);
                insert into new_todo select * from todo where id <> 'v'; drop table todo;
                alter table new_todo rename to todo; update todo set note = 'aaa' where id = 't'; commit",
            "pg: update todo set done = 9 where id = 'u'",
            "a: sync",
        ]);
        stage.settles_at(&["t|first|aaa|1", "u|second|n2|9", "v|third|n3|3"]);
        assert_eq!(stage.client("a").value("select count(*) from cloudsync_gaps"), "0");
        stage.play(&["a: drop table todo", "a: sync"]);
        stage.play(&[
            &format!("a: {}", TODO.sqlite),
            "a: insert into todo values ('w', 'new', null, 0)",
            "a: sync",
        ]);
        stage.settles_at(&["t|first|aaa|1", "u|second|n2|9", "v|third|n3|3", "w|new|NULL|0"]);
    });
}

#[test]
fn a_truncated_table_is_emptied_everywhere_and_what_is_unsent_stays() {
    let mut stage = stage(Setting::PLAIN);
    stage.play(&[
        "a: insert into todo values ('z', 'unsent', null, 0)",
        "pg: truncate todo",
        "b: sync",
        "a: sync",
    ]);
    stage.settles_at(&["z|unsent|NULL|0"]);
}

#[test]
fn rows_that_the_server_forgot_go_from_a_client_that_takes_a_snapshot() {
    on_both(|setting| {
        let mut stage = stage(setting);
        // As after the tombstone was collected.
        stage.play(&["pg: delete from todo where id = 'u'"]);
        let client = stage.client("a");
        client.run("insert into todo values ('y', 'unsent', null, 0)");
        client.run(
            "insert into cloudsync_settings values ('refetch', 1) on conflict (key) do update set value = 1",
        );
        client.run(
            "insert into todo_cloudsync select 'x', alive, hlc, site, cols, seq from todo_cloudsync where pk = 't'",
        );
        client.run("delete from cloudsync_log where 0");
        stage.settles_at(&["t|first|n1|1", "v|third|n3|3", "y|unsent|NULL|0"]);
        assert_eq!(stage.client("a").value("select count(*) from todo_cloudsync where pk = 'x'"), "0");
    });
}

#[test]
fn a_hub_that_was_away_reads_what_was_written_under_every_definition() {
    let mut stage = stage(Setting::PLAIN);
    stage.play(&[
        "hub: terminate",
        "pg: update todo set title = 'one' where id = 't'",
        "pg: alter table todo add column tag text default 'x'",
        "pg: update todo set note = 'two' where id = 'u'; insert into todo values ('w', 'fourth', null, 4, 'y')",
        "pg: begin; update todo set done = 6 where id = 'w'; alter table todo rename column tag to label;
            update todo set label = 'z', done = 7 where id = 'v'; commit",
        "pg: alter table todo alter column done type bigint",
        "pg: update todo set done = 8 where id = 'u'",
        "pg: alter table todo alter column title type text using upper(title)",
        "pg: alter table todo drop column label",
        "pg: alter table todo drop constraint todo_pkey, add primary key (id)",
        "pg: delete from todo where id = 't'; insert into todo values ('x', 'last', null, 9)",
        "a: update todo set note = 'meanwhile' where id = 'v'",
        "hub: start",
    ]);
    stage.settles_at(&["u|SECOND|two|8", "v|THIRD|meanwhile|7", "w|FOURTH|NULL|6", "x|last|NULL|9"]);
    stage.play(&["late: sync"]);
    stage.settle();
    stage.all_equal();
}

#[test]
fn rows_that_a_command_computes_anew_are_fetched_by_every_client() {
    let mut stage = stage(Setting::PLAIN);
    stage.play(&[
        "b: sync",
        "a: update todo set title = 'mine' where id = 'u'",
        "pg: alter table todo alter column title type text using 'a ' || title",
        "all: tick",
        "b: update todo set note = 'b' where id = 't'",
    ]);
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("b").value("select title from todo where id = 't'"), "a first");
}

#[test]
fn what_is_unsent_for_a_table_that_postgres_drops_is_refused_and_kept() {
    let mut stage = stage(Setting::PLAIN);
    stage.play(&["a: update todo set note = 'unsent' where id = 't'"]);
    stage.postgres.run("drop table todo");
    let client = Client::open(stage.client("a").path());
    client.join(&stage.hub.address(), tests::hub::API_KEY);
    let tried = "select cloudsync_network_sync(300, 1)";
    wait::until_ok("the refusal is there", || {
        client.try_rows(tried)?;
        let found = client.rows("select tbl, key, sqlstate from cloudsync_rejected");
        (found == ["todo|[\"t\"]|42P01"]).then_some(()).ok_or_else(|| found.join("; "))
    });
    assert_eq!(client.rows("select id, note from todo order by id"), ["t|unsent", "u|n2", "v|n3"]);
}

#[test]
fn writes_to_a_table_that_changed_while_event_triggers_were_off_reach_clients() {
    let mut stage = stage(Setting::PLAIN);
    stage.postgres.run("alter event trigger cloudsync_definitions disable");
    stage.postgres.run("alter table todo add column tag text");
    stage.postgres.run("alter event trigger cloudsync_definitions enable always");
    stage.play(&[
        "pg: update todo set note = 'unnoticed', tag = 'x' where id = 't'; delete from todo where id = 'u';
            insert into todo values ('w', 'fourth', null, 4, 'y')",
        "a: update todo set note = 'mine' where id = 'v'",
    ]);
    let due = "with due as (update cloudsync.jobs set run_at = now() where kind = 'catch_up' returning 1)
        select count(*) from due";
    wait::until("the job is there", || (stage.postgres.value(due) == "1").then_some(()));
    let noticed = "select count(*) from cloudsync.columns where name = 'tag'";
    wait::until("the hub has asked", || (stage.postgres.value(noticed) == "1").then_some(()));
    stage.settles_at(&["t|first|unnoticed|1", "v|third|mine|3", "w|fourth|NULL|4"]);
}
