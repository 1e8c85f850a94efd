//! Tables that change under the eyes of the extension, and behind its back.

mod support;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};
use support::{TODOS, apply, encode, open, rows, run};

/// Two files that track the same table and hold the same three rows.
fn pair() -> [Connection; 2] {
    let pair = [open(), open()];
    for connection in &pair {
        run(connection, TODOS);
        rows(connection, "select cloudsync_init('todos')", []);
    }
    run(&pair[0], "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0), ('3', 'oats', 1)");
    exchange(&pair);
    pair
}

/// Gives each file what the other knows, until nothing changes.
fn exchange(pair: &[Connection; 2]) {
    let [a, b] = pair;
    loop {
        let taken = [(a, b), (b, a)].map(|(from, to)| apply(to, encode(from, 0).as_deref()));
        match taken {
            [Ok(0), Ok(0)] => return,
            [Ok(_), Ok(_)] => {}
            failed => panic!("{failed:?}"),
        }
    }
}

/// Runs SQL in each file, exchanges, and expects all of them to answer alike.
fn check(steps: [&str; 2], table: &str, expected: &str) -> [Connection; 2] {
    let pair = pair();
    for (connection, sql) in pair.iter().zip(steps) {
        run(connection, sql);
    }
    exchange(&pair);
    for connection in &pair {
        assert_eq!(rows(connection, &format!("select * from {table} order by 1"), []), expected);
    }
    pair
}

fn gaps(connection: &Connection) -> String {
    rows(connection, "select reason from cloudsync_gaps", [])
}

const ADD: &str = "alter table todos add column note text default 'none'";

#[test]
fn a_column_may_be_added_and_written_at_once() {
    let both = format!("{ADD}; insert into todos (id, note) values ('4', 'new')");
    let one = format!("{both}; update todos set note = 'mine' where id = '2'");
    let pair = check(
        [&one, ADD],
        "todos",
        "1 | milk | 0 | none; 2 | bread | 0 | mine; 3 | oats | 1 | none; 4 | NULL | 0 | new",
    );
    assert_eq!(gaps(&pair[0]), "");
    run(&pair[1], "update todos set note = 'theirs'");
    exchange(&pair);
    assert_eq!(rows(&pair[0], "select distinct note from todos", []), "theirs");
}

#[test]
fn adding_a_column_writes_no_metadata() {
    let [a, _] = pair();
    let before = rows(&a, "select * from todos_cloudsync", []);
    run(&a, ADD);
    encode(&a, 0);
    assert_eq!(rows(&a, "select * from todos_cloudsync", []), before);
    assert_eq!(rows(&a, "select count(*) from cloudsync_log where tbl is not null and cols >= 0", []), "0");
}

#[test]
fn a_column_that_comes_later_here_takes_the_values_that_were_passed_over() {
    let [a, b] = pair();
    run(&a, &format!("{ADD}; update todos set note = 'told' where id <> '3'"));
    run(&a, "insert into todos values ('0', 'early', 0, 'aaa')");
    let payload = encode(&a, 0);
    assert_eq!(apply(&b, payload.as_deref()), Ok(1));
    assert_eq!(rows(&b, "select tbl, col from cloudsync_skipped", []), "todos | note");
    // Greater than any value that comes: a default must not win over a value.
    run(&b, "alter table todos add column note text default 'zzz'");
    assert_eq!(apply(&b, payload.as_deref()), Ok(3));
    assert_eq!(rows(&b, "select id, note from todos order by 1", []), "0 | aaa; 1 | told; 2 | told; 3 | zzz");
    assert_eq!(rows(&b, "select tbl, col from cloudsync_skipped", []), "");
}

#[test]
fn a_column_may_be_renamed() {
    let rename = "alter table todos rename column title to \"what, really\"";
    let pair = check(
        [
            &format!("update todos set title = 'before' where id = '1'; {rename}"),
            &format!("{rename}; update todos set \"what, really\" = 'after' where id = '2'"),
        ],
        "todos",
        "1 | before | 0; 2 | after | 0; 3 | oats | 1",
    );
    for connection in &pair {
        assert_eq!(gaps(connection), "");
        let ids = "select id, name, dropped from cloudsync_columns order by id";
        assert_eq!(rows(connection, ids, []), "1 | id | 0; 2 | what, really | 0; 3 | done | 0");
    }
}

#[test]
fn two_columns_may_swap_their_names_and_the_key_may_have_another() {
    let swap = "alter table todos rename column title to t; alter table todos rename column done to title;
        alter table todos rename column t to done; alter table todos rename column id to uid";
    let pair = check(
        [&format!("update todos set title = 'before' where id = '1'; {swap}"), swap],
        "todos",
        "1 | before | 0; 2 | bread | 0; 3 | oats | 1",
    );
    run(&pair[0], "update todos set title = 7 where uid = '1'");
    exchange(&pair);
    assert_eq!(rows(&pair[1], "select uid, title from todos where title > 1", []), "1 | 7");
}

#[test]
fn a_column_is_dropped_between_begin_and_commit() {
    let drop = "select cloudsync_begin_alter('todos'); alter table todos drop column title;
        update todos set done = 5 where id = '1'; select cloudsync_commit_alter('todos')";
    let pair = check([drop, drop], "todos", "1 | 5; 2 | 0; 3 | 1");
    let again = "alter table todos add column title text";
    for connection in &pair {
        run(connection, again);
    }
    run(&pair[0], "update todos set title = 'again' where id = '3'");
    exchange(&pair);
    assert_eq!(
        rows(&pair[1], "select * from todos order by id", []),
        "1 | 5 | NULL; 2 | 0 | NULL; 3 | 1 | again"
    );
    let ids = "select id, name, dropped from cloudsync_columns order by id";
    assert_eq!(rows(&pair[1], ids, []), "1 | id | 0; 2 | title | 1; 3 | done | 0; 4 | title | 0");
    assert_eq!(gaps(&pair[0]), "");
}

#[test]
fn one_side_may_drop_a_column_that_the_other_keeps() {
    let [a, b] = pair();
    run(&a, "select cloudsync_begin_alter('todos'); alter table todos drop column title");
    run(&a, "alter table todos rename column done to finished; update todos set finished = 9 where id = '2'");
    run(&a, "alter table todos rename column finished to done; select cloudsync_commit_alter('todos')");
    run(&b, "update todos set title = 'kept', done = 2 where id = '1'");
    exchange(&[a, b]);
}

#[test]
fn dropping_a_column_without_begin_names_the_way_out() {
    let [a, _] = pair();
    let error = a.execute_batch("alter table todos drop column title").expect_err("triggers name it");
    assert!(error.to_string().contains("cloudsync_capture_1_update after drop column"), "{error}");
    assert_eq!(rows(&a, "select title from todos where id = '1'", []), "milk");
}

#[test]
fn a_table_may_be_renamed() {
    let rename = "alter table todos rename to \"to do\"";
    let pair = check(
        [
            &format!("update todos set title = 'before' where id = '1'; {rename}"),
            &format!("{rename}; update \"to do\" set title = 'after' where id = '2'"),
        ],
        "\"to do\"",
        "1 | before | 0; 2 | after | 0; 3 | oats | 1",
    );
    run(&pair[0], "delete from \"to do\" where id = '3'");
    exchange(&pair);
    assert_eq!(rows(&pair[1], "select id from \"to do\"", []), "1; 2");
    assert_eq!(gaps(&pair[0]), "");
}

#[test]
fn a_table_that_is_made_anew_deletes_nothing_elsewhere() {
    let [a, b] = pair();
    run(&a, "delete from todos where id = '3'; drop table todos");
    encode(&a, 0);
    run(&a, &format!("{TODOS}; insert into todos values ('9', 'first', 0)"));
    encode(&a, 0);
    assert_eq!(gaps(&a), "the table was made anew");
    let pair = [a, b];
    exchange(&pair);
    for connection in &pair {
        let all = "select * from todos order by id";
        assert_eq!(rows(connection, all, []), "1 | milk | 0; 2 | bread | 0; 9 | first | 0");
    }
}

/// The pattern that SQLite's own page on ALTER TABLE teaches.
const REBUILD: &str = "begin;
    create table new_todos (id text primary key, title text, done integer default 0, loud text);
    insert into new_todos select id, title, done, upper(title) from todos;
    drop table todos;
    alter table new_todos rename to todos;
    commit";

#[test]
fn a_rebuilt_table_is_captured_again_and_the_gap_is_reported() {
    let pair = check(
        [REBUILD, "alter table todos add column loud text"],
        "todos",
        "1 | milk | 0 | MILK; 2 | bread | 0 | BREAD; 3 | oats | 1 | OATS",
    );
    assert_eq!(gaps(&pair[0]), "the table was made anew");
    assert_eq!(gaps(&pair[1]), "");
    run(
        &pair[0],
        "update todos set title = 'beans', loud = 'BEANS' where id = '2'; delete from todos where id = '1'",
    );
    exchange(&pair);
    assert_eq!(
        rows(&pair[1], "select * from todos order by id", []),
        "2 | beans | 0 | BEANS; 3 | oats | 1 | OATS"
    );
}

#[test]
fn rows_that_came_and_went_past_a_missing_trigger_are_seen() {
    let [a, b] = pair();
    run(&a, "drop trigger cloudsync_capture_1_delete; drop trigger cloudsync_capture_1_insert");
    run(&a, "delete from todos where id = '1'; insert into todos values ('4', 'unseen', 0)");
    let pair = [a, b];
    exchange(&pair);
    for connection in &pair {
        assert_eq!(rows(connection, "select id from todos order by id", []), "2; 3; 4");
    }
    assert_eq!(gaps(&pair[0]), "capture triggers were missing or changed");
    run(&pair[0], "delete from todos where id = '2'");
    exchange(&pair);
    assert_eq!(rows(&pair[1], "select id from todos order by id", []), "3; 4");
}

#[test]
fn a_table_with_another_key_begins_anew() {
    let rebuild =
        "create table new_todos (id text, done integer default 0, title text, primary key (id, done));
        insert into new_todos (id, title, done) select id, title, done from todos;
        drop table todos; alter table new_todos rename to todos";
    let pair = check([rebuild, rebuild], "todos", "1 | 0 | milk; 2 | 0 | bread; 3 | 1 | oats");
    run(&pair[0], "insert into todos values ('1', 1, 'second'); delete from todos where id = '2'");
    exchange(&pair);
    assert_eq!(
        rows(&pair[1], "select * from todos order by 1, 2", []),
        "1 | 0 | milk; 1 | 1 | second; 3 | 1 | oats"
    );
    assert_eq!(gaps(&pair[0]), "the table has another primary key");
}

#[test]
fn a_change_is_noticed_when_the_file_is_opened() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let ours = || {
        let connection = Connection::open(file.path()).expect("it opens");
        cloudsync::register(&connection).expect("functions register");
        connection
    };
    let connection = ours();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    drop(connection);
    run(&Connection::open(file.path()).expect("it opens"), REBUILD);
    let connection = ours();
    assert_eq!(
        rows(&connection, "select count(*) from sqlite_schema where name glob 'cloudsync_capture_1_*'", []),
        "6"
    );
    assert_eq!(gaps(&connection), "the table was made anew");
}

#[test]
fn a_new_unique_index_is_watched_and_a_table_without_key_is_left_alone() {
    let [a, b] = pair();
    for connection in [&a, &b] {
        run(connection, "create unique index by_title on todos (title)");
        encode(connection, 0);
    }
    run(&a, "replace into todos values ('4', 'milk', 0)");
    let pair = [a, b];
    exchange(&pair);
    assert_eq!(rows(&pair[1], "select id from todos", []), "2; 3; 4");
    run(&pair[0], "drop table todos; create table todos (id text, title text)");
    encode(&pair[0], 0);
    assert_eq!(gaps(&pair[0]), "table \"todos\" cannot be tracked: it has no primary key");
}

#[test]
fn a_filter_follows_a_renamed_column() {
    let [a, b] = pair();
    let rename =
        "alter table todos rename column title to name; alter table todos rename column done to state";
    run(&a, "select cloudsync_set_filter('todos', 'done < 5 and title <> ''secret''')");
    run(&a, rename);
    run(&a, "insert into todos values ('4', 'secret', 0), ('5', 'told', 0)");
    run(&a, "update todos set name = 'x' where id = '1'");
    run(&b, rename);
    let pair = [a, b];
    exchange(&pair);
    assert_eq!(gaps(&pair[0]), "");
    let all = "select id, name from todos order by id";
    assert_eq!(rows(&pair[1], all, []), "1 | x; 2 | bread; 3 | oats; 5 | told");
}

/// What `cloudsync_columns` says after a table was altered and something was set before anybody looked at it.
fn check_setting(alter: &str, call: &str, expected: &str) {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    run(&connection, alter);
    rows(&connection, &format!("select {call}"), []);
    encode(&connection, 0);
    let columns = "select id, name, dropped from cloudsync_columns where id > 1";
    assert_eq!(rows(&connection, columns, []), expected, "{alter}; {call}");
}

#[test]
fn what_is_set_right_after_a_change_sees_the_change() {
    let rename = "alter table todos rename column title to name";
    let renamed = "2 | name | 0; 3 | done | 0";
    check_setting(rename, "cloudsync_set_filter('todos', 'name > 5')", renamed);
    check_setting(rename, "cloudsync_disable('todos')", renamed);
    check_setting(rename, "cloudsync_set_column('todos', 'name', 'color', 'red')", renamed);
    let added = "2 | title | 0; 3 | done | 0; 4 | n | 0";
    let add = "alter table todos add column n integer";
    check_setting(add, "cloudsync_set_column('todos', 'n', 'algo', 'counter')", added);
    check_setting(
        "alter table todos rename to tasks",
        "cloudsync_disable('tasks')",
        "2 | title | 0; 3 | done | 0",
    );
}

#[test]
fn settings_follow_columns_that_swap_their_names() {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    run(
        &connection,
        "select cloudsync_set_column('todos', 'title', 'color', 'red');
         select cloudsync_set_column('todos', 'done', 'color', 'blue');
         alter table todos rename column title to x; alter table todos rename column done to title;
         alter table todos rename column x to done",
    );
    encode(&connection, 0);
    let settings = "select col, value from cloudsync_table_settings order by col";
    assert_eq!(rows(&connection, settings, []), "done | red; title | blue");
}

#[test]
fn conflicts_follow_a_renamed_table_and_column() {
    let [a, b] = pair();
    run(&b, "update todos set title = 'mine' where id = '1'");
    run(&a, "update todos set title = 'theirs' where id = '1'; update cloudsync_log set ms = ms + 1000");
    apply(&b, encode(&a, 0).as_deref()).expect("apply works");
    let conflicts = "select tbl, col from cloudsync_conflicts";
    assert_eq!(rows(&b, conflicts, []), "todos | title");
    run(&b, "alter table todos rename to tasks; alter table tasks rename column title to name");
    encode(&b, 0);
    assert_eq!(rows(&b, conflicts, []), "tasks | name");
    run(&b, "alter table tasks rename to jobs");
    assert_eq!(rows(&b, "select cloudsync_clear_conflicts('jobs', '1')", []), "1");
}

#[test]
fn a_column_that_another_connection_adds_while_a_table_is_initialised_is_captured() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let connection = Connection::open(&path).expect("it opens");
    cloudsync::register(&connection).expect("functions register");
    run(&connection, TODOS);
    let mut is_altered = false;
    let alter = move |context: AuthContext<'_>| {
        let begins = AuthAction::Transaction { operation: TransactionOperation::Begin };
        if context.action == begins && !std::mem::replace(&mut is_altered, true) {
            run(&Connection::open(&path).expect("it opens"), "alter table todos add column note text");
        }
        Authorization::Allow
    };
    connection.authorizer(Some(alter)).expect("hooks are there");
    rows(&connection, "select cloudsync_init('todos')", []);
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).expect("hooks are there");
    run(&connection, "insert into todos values ('1', 'milk', 0, 'told')");
    let note = "select col_value from cloudsync_changes where col_name = 'note'";
    assert_eq!(rows(&connection, note, []), "told");
}

/// One of two tracked tables goes and the other takes its name; the rest of the file syncs on.
fn check_place(taking: &str) {
    let pair = [open(), open()];
    for connection in &pair {
        run(connection, &format!("create table {taking} (id text primary key, x)"));
        run(connection, "create table m (id text primary key, x)");
        rows(connection, "select cloudsync_init('m'), cloudsync_init(?1)", [taking]);
    }
    let [a, b] = &pair;
    run(a, &format!("insert into {taking} values ('1', 'one'); insert into m values ('2', 'two')"));
    exchange(&pair);
    run(a, &format!("drop table m; alter table {taking} rename to m; insert into m values ('3', 'three')"));
    encode(a, 0);
    run(a, "update m set x = 'first' where id = '1'");
    exchange(&pair);
    let m = "select id, x from m where id <> '2' order by id";
    assert_eq!(rows(a, m, []), "1 | first; 3 | three", "{taking}");
    assert_eq!(rows(b, m, []), "1 | first; 3 | three", "{taking}");
    assert_eq!(gaps(a), "the table was made anew");
}

#[test]
fn a_tracked_table_may_take_the_place_of_another() {
    check_place("a");
    check_place("z");
}

#[test]
fn a_renamed_table_whose_metadata_has_no_name_is_reported_and_others_sync_on() {
    let pair = check(
        [
            "create table tasks_cloudsync (x); alter table todos rename to tasks;
             create table other (id text primary key); select cloudsync_init('other');
             insert into other values ('1')",
            "create table other (id text primary key); select cloudsync_init('other')",
        ],
        "other",
        "1",
    );
    assert_eq!(
        gaps(&pair[0]),
        "table \"tasks\" cannot be tracked: there is another table \"tasks_cloudsync\""
    );
}
