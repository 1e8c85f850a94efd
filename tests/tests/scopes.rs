//! Who reads what: rows with scopes, tokens that hold some of them, rows and tokens that move.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::client::Client;
use tests::hub::API_KEY;
use tests::stage::{Centre, NOTE, Setting, Stage, on_both};
use tests::tokens::{SECRET, Signer, seconds_from_now};
use tests::wait;

/// The longest wait that a hub allows, in milliseconds.
const WAIT_MS: u32 = 60_000;

/// A stage where a note is for the team that it names, and `member` says who is in which.
fn stage(setting: Setting<'_>) -> Stage {
    let mut stage = Stage::new(Setting { tables: &[NOTE], ..setting });
    stage.postgres.run(match stage.database.file() {
        Some(_file) => {
            "create table member (team text, person text);
             select cloudsync_set('scopes_query', 'select team from member where person = ?1 ->> ''$.sub''')"
        }
        None => {
            "create table member (team text, person text); create schema team;
             create function team.scopes(claims jsonb) returns setof text language sql stable as
               'select team from public.member where person = claims ->> ''sub''';
             select cloudsync_set('scopes_function', 'team.scopes')"
        }
    });
    stage.postgres.run(
        "insert into member values ('red', 'ann'), ('blue', 'bob'), ('red', 'eve'), ('blue', 'eve');
         insert into note values ('r1', 'red', 'first'), ('b1', 'blue', 'first'), ('all', '', 'first'),
           ('none', null, 'first');
         select cloudsync_set_scope('note', 'team')",
    );
    let jwt = format!("[database.jwt]\nsecret = \"{SECRET}\"\nroles = [\"app\"]\nscopes_interval_ms = 1000");
    stage.hub.configure(&stage.database, "", &jwt);
    stage.play(&["hub: terminate", "hub: start"]);
    stage
}

/// A client of a person, who shows a token.
fn person(stage: &Stage, name: &str) -> Client {
    let client = stage.stranger(name);
    let claims = json!({ "sub": name, "role": "app", "exp": seconds_from_now(3_600) });
    client.run(&format!("select cloudsync_network_init('{}')", stage.hub.address()));
    let token = Signer::secret().token("HS256", &claims);
    client.run(&format!("select cloudsync_network_set_token('{token}')"));
    client
}

/// Checks which notes a client holds once it has seen all that was committed before.
#[track_caller]
fn sees(stage: &Stage, client: &Client, wanted: &[&str]) {
    let mark = stage.mark();
    wait::until("the client sees the mark", || {
        client.sync_waiting(500);
        (client.rows("select n from mark").concat() == mark).then_some(())
    });
    assert_eq!(client.rows(NOTE.show), wanted);
}

/// Waits until a client that goes on syncing holds these notes: what it may read is asked every few seconds.
#[track_caller]
fn comes_to_see(client: &Client, wanted: &[&str]) {
    wait::until("the client holds what it may read", || {
        client.sync_waiting(200);
        (client.rows(NOTE.show) == wanted).then_some(())
    });
}

#[test]
fn everybody_gets_the_rows_of_their_scopes_from_the_snapshot_and_from_the_log() {
    on_both(|setting| {
        let stage = stage(setting);
        let (ann, bob, eve) = (person(&stage, "ann"), person(&stage, "bob"), person(&stage, "eve"));
        sees(&stage, &ann, &["all||first", "r1|red|first"]);
        sees(&stage, &bob, &["all||first", "b1|blue|first"]);
        sees(&stage, &eve, &["all||first", "b1|blue|first", "r1|red|first"]);
        let key = stage.stranger("key");
        key.join(&stage.hub.address(), API_KEY);
        sees(&stage, &key, &["all||first"]);
        stage.postgres.run(
            "insert into note values ('r2', 'red', 'second'), ('b2', 'blue', 'second');
             update note set body = 'changed' where id in ('r1', 'b1'); delete from note where id = 'all'",
        );
        sees(&stage, &ann, &["r1|red|changed", "r2|red|second"]);
        sees(&stage, &bob, &["b1|blue|changed", "b2|blue|second"]);
        sees(&stage, &eve, &["b1|blue|changed", "b2|blue|second", "r1|red|changed", "r2|red|second"]);
        sees(&stage, &key, &[]);
    });
}

#[test]
fn a_row_that_moves_leaves_one_team_and_comes_whole_to_the_other() {
    on_both(|setting| {
        let mut stage = stage(setting);
        let (ann, bob, eve) = (person(&stage, "ann"), person(&stage, "bob"), person(&stage, "eve"));
        for client in [&ann, &bob, &eve] {
            client.sync();
        }
        stage.postgres.run("update note set team = 'blue' where id = 'r1'");
        sees(&stage, &ann, &["all||first"]);
        assert_eq!(
            ann.value("select count(*) from note_cloudsync where pk = 'r1'"),
            "0",
            "no tombstone stays"
        );
        sees(&stage, &bob, &["all||first", "b1|blue|first", "r1|blue|first"]);
        sees(&stage, &eve, &["all||first", "b1|blue|first", "r1|blue|first"]);
        stage.postgres.run(
            "update note set team = 'red' where id = 'r1'; update note set team = 'blue' where id = 'r1';
             update note set team = 'red' where id = 'r1'; update note set team = null where id = 'all'",
        );
        // What lies in the store is read like what is in memory.
        stage.play(&["hub: terminate", "hub: start"]);
        sees(&stage, &ann, &["r1|red|first"]);
        sees(&stage, &bob, &["b1|blue|first"]);
        sees(&stage, &eve, &["b1|blue|first", "r1|red|first"]);
    });
}

#[test]
fn a_row_with_an_unsent_change_stays_until_it_is_answered() {
    on_both(|setting| {
        let stage = stage(setting);
        let ann = person(&stage, "ann");
        ann.sync();
        ann.run("update note set body = 'from ann' where id = 'r1'");
        stage.postgres.run("update note set team = 'blue' where id = 'r1'");
        let mark = stage.mark();
        wait::until("ann receives without sending", || {
            ann.run("select cloudsync_network_receive_changes()");
            (ann.rows("select n from mark").concat() == mark).then_some(())
        });
        assert_eq!(ann.value("select body from note where id = 'r1'"), "from ann");
        sees(&stage, &ann, &["all||first"]);
        assert_eq!(
            stage.postgres.value("select body from note where id = 'r1'"),
            "from ann",
            "nothing is lost"
        );
    });
}

#[test]
fn who_joins_or_leaves_a_team_gets_its_rows_or_forgets_them() {
    on_both(|setting| {
        let stage = stage(setting);
        let ann = person(&stage, "ann");
        sees(&stage, &ann, &["all||first", "r1|red|first"]);
        stage.postgres.run("insert into member values ('blue', 'ann')");
        comes_to_see(&ann, &["all||first", "b1|blue|first", "r1|red|first"]);
        stage.postgres.run("delete from member where team = 'red' and person = 'ann'");
        comes_to_see(&ann, &["all||first", "b1|blue|first"]);
        stage.postgres.run("update note set body = 'changed' where id in ('r1', 'b1')");
        sees(&stage, &ann, &["all||first", "b1|blue|changed"]);
    });
}

#[test]
fn who_joins_a_team_while_it_waits_is_told_before_the_wait_is_over() {
    on_both(|setting| {
        let mut stage = stage(setting);
        // One is in a team already, the other in none.
        for (name, had) in [("ann", &["all||first", "r1|red|first"][..]), ("cat", &["all||first"])] {
            let client = person(&stage, name);
            sees(&stage, &client, had);
            // A hub that has met nothing of any team since it began.
            stage.play(&["hub: terminate", "hub: start"]);
            let waiting = thread::spawn(move || {
                let begun = Instant::now();
                client.sync_waiting(WAIT_MS);
                (client, begun.elapsed())
            });
            wait::until("it waits", || (stage.hub.metric("cloudsync_long_polls_open") >= 1.0).then_some(()));
            stage.postgres.run(&format!("insert into member values ('blue', '{name}')"));
            let (client, took) = waiting.join().expect("a wait ends well");
            assert!(took < Duration::from_millis(WAIT_MS.into()), "{name} was told after {took:?}");
            let wanted = [&had[..1], &["b1|blue|first"], &had[1..]].concat();
            comes_to_see(&client, &wanted);
        }
    });
}

#[test]
fn what_a_device_moves_goes_whole_to_its_new_readers_and_from_the_former() {
    on_both(|setting| {
        let stage = stage(setting);
        let (ann, bob) = (person(&stage, "ann"), person(&stage, "bob"));
        sees(&stage, &ann, &["all||first", "r1|red|first"]);
        sees(&stage, &bob, &["all||first", "b1|blue|first"]);
        ann.run(
            "update note set team = 'blue' where id = 'r1'; insert into note values ('r3', 'red', 'of ann')",
        );
        ann.sync();
        sees(&stage, &bob, &["all||first", "b1|blue|first", "r1|blue|first"]);
        sees(&stage, &ann, &["all||first", "r3|red|of ann"]);
        bob.run("delete from note where id = 'r1'");
        bob.sync();
        sees(&stage, &person(&stage, "eve"), &["all||first", "b1|blue|first", "r3|red|of ann"]);
        sees(&stage, &bob, &["all||first", "b1|blue|first"]);
    });
}

#[test]
fn the_scope_of_a_file_follows_its_columns_and_may_name_several_readers() {
    let stage = stage(Setting { centre: Centre::SqliteFile, ..Setting::PLAIN });
    let (ann, bob) = (person(&stage, "ann"), person(&stage, "bob"));
    let ids = |client: &Client| client.rows("select id from note order by id");
    let sees = |client: &Client, wanted: &[&str]| {
        wait::until("the client holds what it may read", || {
            client.sync_waiting(200);
            (ids(client) == wanted).then_some(())
        });
    };
    sees(&bob, &["all", "b1"]);
    stage.postgres.run(
        "alter table note rename column team to crew;
         alter table note rename column body to team;
         update note set crew = 'blue' where id = 'r1'",
    );
    sees(&bob, &["all", "b1", "r1"]);
    sees(&ann, &["all"]);
    stage.postgres.run("select cloudsync_set_scope('note', 'json_array(crew, ''red'')')");
    sees(&ann, &["all", "b1", "none", "r1"]);
    // What cannot be computed is for nobody: the column is gone.
    stage.postgres.run(
        "select cloudsync_begin_alter('note'); alter table note drop column crew;
         select cloudsync_commit_alter('note'); update note set team = 'changed'",
    );
    sees(&ann, &[]);
    // Nor is it in a snapshot.
    let new = person(&stage, "eve");
    stage.postgres.run("insert into note (id, team) values ('late', 'written after the snapshot began')");
    sees(&new, &[]);
    let told = stage.postgres.value("select reason from cloudsync_gaps");
    assert!(told.contains("scope cannot be computed"), "{told}");
    stage.postgres.run("select cloudsync_set_scope('note', null)");
    sees(&ann, &["all", "b1", "late", "none", "r1"]);
    sees(&bob, &["all", "b1", "late", "none", "r1"]);
}

#[test]
fn a_guarded_table_without_scopes_is_read_with_keys_only() {
    let stage = stage(Setting::PLAIN);
    stage.postgres.run(
        "select cloudsync_set_scope('note', null); alter table note enable row level security;
         create policy everything on note using (true)",
    );
    let key = stage.stranger("key");
    key.join(&stage.hub.address(), API_KEY);
    let all = ["all||first", "b1|blue|first", "none|NULL|first", "r1|red|first"];
    sees(&stage, &key, &all);
    let ann = person(&stage, "ann");
    sees(&stage, &ann, &[]);
    stage.postgres.run("update note set body = 'changed' where id = 'r1'");
    sees(&stage, &ann, &[]);
    wait::until("the key reads the change", || {
        key.sync_waiting(200);
        (key.value("select body from note where id = 'r1'") == "changed").then_some(())
    });
}

#[test]
fn rows_that_readers_get_are_counted_as_each_gets_them() {
    on_both(|setting| {
        let stage = stage(setting);
        let readers = [person(&stage, "ann"), person(&stage, "bob")];
        // Both get the mark, and what was written before.
        let sent_by = |write: &str| {
            let before = stage.hub.metric("cloudsync_sent_rows_total");
            stage.postgres.run(write);
            let mark = stage.mark();
            for reader in &readers {
                wait::until("the reader sees the mark", || {
                    reader.sync_waiting(500);
                    (reader.rows("select n from mark").concat() == mark).then_some(())
                });
            }
            stage.hub.metric("cloudsync_sent_rows_total") - before
        };
        sent_by("select 1");
        assert_eq!(sent_by("update note set body = 'second' where id = 'r1'"), 3.0, "one reads the row");
        assert_eq!(
            sent_by("update note set team = 'blue' where id = 'r1'"),
            4.0,
            "one loses it, one gets it"
        );
        assert_eq!(sent_by("delete from note where id = 'all'"), 4.0, "both lose it");
        let before = stage.hub.metric("cloudsync_sent_rows_total");
        sees(&stage, &person(&stage, "eve"), &["b1|blue|first", "r1|blue|second"]);
        let sent = stage.hub.metric("cloudsync_sent_rows_total") - before;
        assert!(sent >= 3.0, "a snapshot holds the notes and the mark: {sent}");
        let told = stage.hub.ask_as(API_KEY, "127.0.0.1", "/metrics").body;
        assert!(told.contains("\"cloudsync_sent_rows_total\":[{\"value\":"), "{told}");
    });
}
