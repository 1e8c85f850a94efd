//! A file as the centre of others: uploads with numbers and tokens, what is passed on, what is refused.

mod support;

use rusqlite::{Connection, params};
use serde_json::Value as Json;
use support::{TODOS, apply, encode, open, rows, run};

/// A client with the site's memory of its hub.
struct Client {
    connection: Connection,
    sent: i64,
    token: Option<Vec<u8>>,
    uploads: u8,
    received: i64,
}

fn tracked(schema: &str) -> Connection {
    let connection = open();
    run(&connection, schema);
    rows(&connection, "select cloudsync_init('todos')", []);
    connection
}

fn centre(schema: &str) -> Connection {
    let connection = tracked(schema);
    rows(&connection, "select cloudsync_central_begin()", []);
    connection
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

impl Client {
    fn new() -> Client {
        Client { connection: tracked(TODOS), sent: 0, token: None, uploads: 0, received: 0 }
    }

    fn site(&self) -> Vec<u8> {
        self.connection.query_row("select cloudsync_siteid()", [], |row| row.get(0)).expect("a site")
    }

    /// Uploads what changed since the last time under these numbers.
    fn upload_as(&mut self, centre: &Connection, first: i64, last: i64) -> Json {
        self.upload_behind(centre, first, last, None)
    }

    /// The same, behind an upload whose token is not known yet.
    fn upload_behind(&mut self, centre: &Connection, first: i64, last: i64, behind: Option<u8>) -> Json {
        let payload = encode(&self.connection, self.sent).expect("something is unsent");
        self.uploads += 1;
        let sql = "select cloudsync_central_upload(?1, ?2, ?3, ?4, ?5, ?6, null, ?7)";
        let behind = behind.map(|number| vec![number; 16]);
        let row = params![payload, self.site(), vec![self.uploads; 16], first, last, self.token, behind];
        let answer: String = centre.query_row(sql, row, |row| row.get(0)).expect("an answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    fn upload(&mut self, centre: &Connection) -> Json {
        let newest = self.connection.query_row("select cloudsync_db_version()", [], |row| row.get(0));
        let newest: i64 = newest.expect("a number");
        let answer = self.upload_as(centre, self.sent + 1, newest);
        assert_eq!(answer["status"], "applied", "{answer}");
        self.token = Some(hex(answer["token"].as_str().expect("a token")));
        self.sent = newest;
        answer
    }

    /// Sends its newest upload again, and says that it has the first rejection.
    fn ask_again(&self, centre: &Connection) -> Json {
        let sql = "select cloudsync_central_upload(?1, ?2, ?3, 1, 1, ?4, 1, null)";
        let all = encode(&self.connection, 0);
        let row = params![all, self.site(), vec![self.uploads; 16], self.token];
        let answer: String = centre.query_row(sql, row, |row| row.get(0)).expect("an answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// Applies what the centre passed on since the last time.
    fn receive(&mut self, centre: &Connection) {
        rows(centre, "select cloudsync_central_feed()", []);
        let mut statement =
            centre.prepare("select seq, frame from cloudsync_feed where seq > ?1").expect("a feed");
        let frames = statement.query_map([self.received], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)));
        for frame in frames.expect("frames") {
            let (seq, frame) = frame.expect("a frame");
            apply(&self.connection, Some(&frame)).expect("it is taken");
            self.received = seq;
        }
    }
}

const SHOW: &str = "select id, title, done from todos order by id";

/// Lets two clients write and sync with a centre, and checks what all three hold.
fn check(schema: &str, first: &str, second: &str, at_centre: &str, wanted: &str) {
    let centre = centre(schema);
    let mut clients = [Client::new(), Client::new()];
    for (client, sql) in clients.iter_mut().zip([first, second]) {
        run(&client.connection, sql);
        client.upload(&centre);
    }
    run(&centre, at_centre);
    for client in &mut clients {
        client.receive(&centre);
        assert_eq!(rows(&client.connection, SHOW, []), wanted, "at a client");
    }
    assert_eq!(rows(&centre, SHOW, []), wanted, "at the centre");
}

#[test]
fn what_sites_upload_and_what_is_written_here_reaches_everybody() {
    check(
        TODOS,
        "insert into todos values ('a', 'of the first', 0)",
        "insert into todos values ('b', 'of the second', 0), ('c', 'gone soon', 0)",
        "update todos set done = 7 where id = 'a'; delete from todos where id = 'c';
         insert into todos values ('d', 'of the centre', 1)",
        "a | of the first | 7; b | of the second | 0; d | of the centre | 1",
    );
}

#[test]
fn what_a_trigger_here_makes_of_an_upload_stands_everywhere() {
    let schema = format!(
        "{TODOS}; create trigger shout after insert on todos
         begin update todos set title = upper(new.title) where id = new.id; end"
    );
    check(
        &schema,
        "insert into todos values ('a', 'quiet', 0)",
        "insert into todos values ('b', 'also', 0)",
        "",
        "a | QUIET | 0; b | ALSO | 0",
    );
}

#[test]
fn a_refused_row_is_told_to_its_site_alone_until_it_confirms() {
    let centre = centre(&TODOS.replace("done integer", "done integer check (done < 10)"));
    let (mut first, mut second) = (Client::new(), Client::new());
    run(
        &first.connection,
        "insert into todos values ('a', 'fine', 1), ('b', 'refused', 99), ('c', 'fine', 2)",
    );
    let answer = first.upload(&centre);
    assert_eq!(answer["refused_states"], serde_json::json!({ "23514": 1 }), "{answer}");
    assert_eq!(answer["rejected"][0]["key"], serde_json::json!(["b"]), "{answer}");
    second.receive(&centre);
    assert_eq!(rows(&second.connection, "select id from todos order by id", []), "a; c");
    run(&second.connection, "update todos set done = 3 where id = 'a'");
    assert_eq!(second.upload(&centre)["rejected"], serde_json::json!([]));
    run(&first.connection, "update todos set title = 'again' where id = 'c'");
    assert_eq!(first.upload(&centre)["rejected"][0]["id"], 1, "it is told again");
    let answer = first.ask_again(&centre);
    assert_eq!((&answer["status"], &answer["rejected"]), (&"duplicate".into(), &serde_json::json!([])));
}

#[test]
fn a_table_that_is_not_here_is_refused_row_by_row() {
    let centre = open();
    rows(&centre, "select cloudsync_central_begin()", []);
    let mut client = Client::new();
    run(&client.connection, "insert into todos values ('a', 'nowhere', 1)");
    let answer = client.upload(&centre);
    assert_eq!(answer["rejected"][0]["sqlstate"], "42P01", "{answer}");
    rows(&centre, "select cloudsync_central_feed()", []);
    assert_eq!(rows(&centre, "select count(*) from cloudsync_feed", []), "0");
}

#[test]
fn numbers_and_tokens_tell_a_copy_and_a_gap() {
    let centre = centre(TODOS);
    let mut client = Client::new();
    run(&client.connection, "insert into todos values ('a', 'one', 1)");
    client.upload(&centre);
    run(&client.connection, "update todos set done = 2");
    assert_eq!(client.upload_as(&centre, client.sent + 2, client.sent + 3)["status"], "out_of_order");
    let token = client.token.replace(vec![0; 16]);
    let refused = client.upload_as(&centre, client.sent + 1, client.sent + 1);
    assert_eq!((&refused["status"], refused.get("token")), (&"site_conflict".into(), None));
    // After a restore the site is believed once, and told where to begin.
    rows(&centre, "select cloudsync_central_lost()", []);
    assert_eq!(client.upload_as(&centre, client.sent + 1, client.sent + 1)["status"], "applied");
    client.token = token;
    assert_eq!(client.upload_as(&centre, client.sent + 2, client.sent + 2)["status"], "site_conflict");
}

#[test]
fn an_upload_follows_the_one_that_it_names() {
    let centre = centre(TODOS);
    let mut client = Client::new();
    run(&client.connection, "insert into todos values ('a', 'one', 1)");
    // Each call is an upload with the next number as its id.
    assert_eq!(client.upload_behind(&centre, 2, 2, Some(9))["status"], "out_of_order");
    assert_eq!(client.upload_behind(&centre, 1, 1, None)["status"], "applied");
    assert_eq!(
        client.upload_behind(&centre, 3, 3, Some(3))["status"],
        "out_of_order",
        "the one between is missing"
    );
    assert_eq!(client.upload_behind(&centre, 2, 2, Some(1))["status"], "site_conflict");
    assert_eq!(client.upload_behind(&centre, 2, 2, Some(2))["status"], "applied");
    assert_eq!(client.upload_behind(&centre, 2, 2, Some(2))["status"], "site_conflict", "of a copy");
    assert_eq!(client.upload_behind(&centre, 3, 3, Some(5))["status"], "applied");
}

#[test]
fn a_cell_that_lost_is_told_with_the_stamp_that_stays() {
    let centre = centre(TODOS);
    let (mut first, mut second) = (Client::new(), Client::new());
    run(&first.connection, "insert into todos values ('a', 'one', 1)");
    first.upload(&centre);
    second.receive(&centre);
    run(&first.connection, "update todos set title = 'earlier'");
    run(&second.connection, "update todos set title = 'later'");
    run(&second.connection, "update cloudsync_log set ms = ms + 5000 where cols > 0");
    second.upload(&centre);
    let answer = first.upload(&centre);
    let lost = &answer["lost"][0];
    assert_eq!((&lost["column"], &lost["key"]), (&"title".into(), &serde_json::json!(["a"])), "{answer}");
    assert_eq!(hex(lost["site"].as_str().expect("a site")), second.site());
    assert_eq!(rows(&centre, SHOW, []), "a | later | 1");
    // The answer may not have come through.
    let again = first.ask_again(&centre);
    assert_eq!((&again["status"], &again["lost"]), (&"duplicate".into(), &answer["lost"]));
    // What the newest upload did not lose is not told with it.
    run(&first.connection, "insert into todos values ('b', 'another row', 0)");
    assert_eq!(first.upload(&centre)["lost"], serde_json::json!([]));
    assert_eq!(first.ask_again(&centre)["lost"], serde_json::json!([]));
}

#[test]
fn a_stamp_far_ahead_is_refused_and_leaves_no_trace() {
    let centre = centre(TODOS);
    let mut client = Client::new();
    run(&client.connection, "insert into todos values ('a', 'from far ahead', 1)");
    run(&client.connection, "update cloudsync_log set ms = ms + 600000");
    let answer = client.upload_as(&centre, 1, 1);
    assert_eq!(answer["status"], "clock_ahead", "{answer}");
    assert_eq!(rows(&centre, "select count(*) from todos", []), "0");
    assert_eq!(rows(&centre, "select count(*) from cloudsync_uploaders", []), "0");
}

#[test]
fn a_write_under_the_name_of_another_site_becomes_one_of_the_centre() {
    let centre = centre(TODOS);
    let (mut first, second) = (Client::new(), Client::new());
    run(&second.connection, "insert into todos values ('a', 'borrowed', 1)");
    apply(&first.connection, encode(&second.connection, 0).as_deref()).expect("it is taken");
    first.upload(&centre);
    let site = "select hex(s.site) = hex(cloudsync_siteid()) from todos_cloudsync as m
        join cloudsync_sites as s on s.ordinal = m.site";
    assert_eq!(rows(&centre, site, []), "1");
}

#[test]
fn a_tombstone_goes_once_every_known_site_has_it() {
    let centre = centre(TODOS);
    let mut client = Client::new();
    run(&client.connection, "insert into todos values ('a', 'one', 1), ('b', 'two', 2)");
    client.upload(&centre);
    run(&centre, "delete from todos where id = 'a'");
    let collect = "select cloudsync_central_collect()";
    let left = "select count(*) from todos_cloudsync where not alive";
    assert_eq!(rows(&centre, collect, []), "0", "nothing is known of the site");
    let place = rows(&centre, "select cloudsync_central_feed()", []);
    let noted = |site: &[u8], place: &str| {
        let hex: String = site.iter().map(|byte| format!("{byte:02x}")).collect();
        rows(&centre, &format!("select cloudsync_central_note_site(x'{hex}', {place})"), [])
    };
    assert_eq!(noted(&client.site(), &place), "0");
    // The site has what was written before it was heard of: of the same millisecond that is not known.
    let went = (0..1_000_000).any(|_| {
        noted(&client.site(), &place);
        rows(&centre, collect, []);
        rows(&centre, left, []) == "0"
    });
    assert!(went, "the tombstone stays");
    assert_eq!(rows(&centre, collect, []), "0", "there is nothing more");
    assert_eq!(noted(&[1; 16], "0"), "1", "who has nothing lacks the deletion");
    client.receive(&centre);
    assert_eq!(rows(&client.connection, SHOW, []), "b | two | 2");
}

#[test]
fn what_waited_beside_a_deletion_is_kept_when_that_goes() {
    let centre = centre(TODOS);
    let mut client = Client::new();
    run(&client.connection, "insert into todos values ('a', 'one', 1)");
    client.upload(&centre);
    run(&centre, "delete from todos");
    rows(&centre, "select cloudsync_central_feed()", []);
    run(&client.connection, "update todos set title = 'later'; update cloudsync_log set ms = ms + 20");
    let written = rows(&client.connection, "select max(ms) from cloudsync_log", []);
    client.upload(&centre);
    assert_eq!(rows(&centre, "select kind from cloudsync_parked", []), "cells");
    run(&centre, "update cloudsync_uploaders set site = zeroblob(16)");
    run(&centre, "insert into cloudsync_site_places values (zeroblob(16), 9000000000000000)");
    // Only what is in the past is collected.
    let is_past = format!("select unixepoch('subsec') * 1000 > {written} + 1");
    assert!((0..1_000_000).any(|_| rows(&centre, &is_past, []) == "1"), "the clock stands still");
    while rows(&centre, "select cloudsync_central_collect()", []) == "1" {}
    let kept = "select tbl, key, col, lost_value, reason from cloudsync_conflicts";
    assert_eq!(rows(&centre, kept, []), "todos | [\"a\"] | title | later | collected");
    let site = "select hex(lost_site) from cloudsync_conflicts";
    let wanted: String = client.site().iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(rows(&centre, site, []), wanted);
    assert_eq!(rows(&centre, "select count(*) from cloudsync_parked", []), "0");
}

#[test]
fn the_default_of_a_new_column_takes_nothing_that_was_written_elsewhere() {
    let centre = centre(TODOS);
    let (mut first, mut second) = (Client::new(), Client::new());
    run(&first.connection, "insert into todos values ('a', 'one', 1), ('b', 'two', 2), ('c', 'three', 3)");
    first.upload(&centre);
    second.receive(&centre);
    // The column comes to a device first, as with an app that is ahead of its centre.
    run(
        &first.connection,
        "alter table todos add column tag text; update todos set tag = 'mine' where id = 'a'",
    );
    encode(&first.connection, 0).expect("the column is known from here on");
    run(&first.connection, "insert into todos values ('d', 'four', 4, 'greater'), ('e', 'five', 5, 'aaa')");
    first.upload(&centre);
    run(&centre, "alter table todos add column tag text default 'default'");
    run(&centre, "update todos set tag = 'of the centre' where id = 'c'");
    rows(&centre, "select cloudsync_central_feed()", []);
    run(&second.connection, "alter table todos add column tag text");
    first.receive(&centre);
    second.receive(&centre);
    let tags = "select id, tag from todos order by id";
    let default = "a | default; b | default; c | of the centre; d | default; e | default";
    assert_eq!(rows(&centre, tags, []), default);
    assert_eq!(rows(&second.connection, tags, []), default);
    let here = "a | mine; b | default; c | of the centre; d | greater; e | default";
    assert_eq!(rows(&first.connection, tags, []), here);
    let lost = "select key, col, lost_value, won_value, reason from cloudsync_conflicts";
    assert_eq!(rows(&first.connection, lost, []), "[\"e\"] | tag | aaa | default | equal");
    // What is written from now on reaches everybody.
    run(&first.connection, "update todos set tag = 'again' where id in ('a', 'e')");
    first.upload(&centre);
    rows(&centre, "select cloudsync_central_feed()", []);
    second.receive(&centre);
    let again = "a | again; b | default; c | of the centre; d | default; e | again";
    assert_eq!(rows(&centre, tags, []), again);
    assert_eq!(rows(&second.connection, tags, []), again);
}

#[test]
fn a_file_that_is_no_centre_says_so() {
    let connection = tracked(TODOS);
    for sql in [
        "feed()",
        "definitions()",
        "lost()",
        "collect()",
        "acked(zeroblob(16))",
        "note_site(zeroblob(16), 1)",
    ] {
        let error = connection
            .prepare(&format!("select cloudsync_central_{sql}"))
            .and_then(|mut statement| statement.query_row([], |_row| Ok(())));
        assert!(error.expect_err(sql).to_string().contains("no centre"), "{sql}");
    }
}
