//! Uploads that the server keeps while its database is away: each names the one before it, and all are answered for by
//! the last one that the server has.

mod support;

use rusqlite::Connection;
use support::script::{Script, Seen, client};
use support::{rows, run};

const KEPT: &str = r#"{"status":"stored","server_time_ms":1,"rejected":[],"lost":[],"takes_next":true}"#;
const FULL: &str = r#"{"status":"stored","server_time_ms":1,"rejected":[],"lost":[],"takes_next":false}"#;

/// Sends, and gives what the server saw. `expected` is the status and the number that is acknowledged then.
fn send(connection: &Connection, script: &Script, expected: &str) -> Vec<Seen> {
    let told = "select told ->> '$.send.status', told ->> '$.send.serverVersion'
        from (select cloudsync_network_send_changes() as told)";
    assert_eq!(rows(connection, told, []), expected);
    script.seen()
}

fn ranges(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|one| one.header("Cloudsync-Range")).collect()
}

/// Three uploads that the server keeps.
fn three_kept() -> (Connection, Script, Vec<Seen>) {
    let (a, script) = client();
    let mut sent = Vec::new();
    for (write, before) in [
        ("insert into todos values ('1', 'milk', 0)", None),
        ("update todos set done = 1 where id = '1'", Some("1-1")),
        ("insert into todos values ('3', 'bread', 0)", Some("2-2")),
    ] {
        run(&a, write);
        (0..=usize::from(before.is_some())).for_each(|_| script.answer(202, &[], KEPT));
        let seen = send(&a, &script, "syncing | 0");
        let ranges = ranges(&seen);
        assert_eq!(ranges.first().filter(|_| ranges.len() > 1).copied(), before, "the newest is asked about");
        sent.extend(seen.last().cloned());
    }
    (a, script, sent)
}

fn problem(script: &Script, status: u16, code: &str, acked: i64) {
    script.answer(status, &[], format!(r#"{{"code":"{code}","title":"no","acked":{acked}}}"#));
}

#[test]
fn each_names_the_one_before_and_the_last_answers_for_all() {
    let (a, script, sent) = three_kept();
    assert_eq!(ranges(&sent), ["1-1", "2-2", "3-3"]);
    let ids: Vec<&str> = sent.iter().map(|one| one.header("Cloudsync-Upload")).collect();
    let after: Vec<&str> = sent.iter().map(|one| one.header("Cloudsync-After")).collect();
    assert_eq!(after, ["", ids[0], ids[1]]);
    // Without anything new the last one is asked about, by the same bytes.
    script.answer(202, &[], KEPT);
    let again = send(&a, &script, "syncing | 0");
    assert_eq!((again.len(), &again[0].headers, &again[0].body), (1, &sent[2].headers, &sent[2].body));
    script.accept(3, 7, "");
    assert_eq!(ranges(&send(&a, &script, "synced | 3")), ["3-3"]);
    assert_eq!(rows(&a, "select count(*) from cloudsync_outbox", []), "0");
    run(&a, "delete from todos where id = '3'");
    script.accept(4, 8, "");
    let next = send(&a, &script, "synced | 4").remove(0);
    assert_eq!(next.header("Cloudsync-Token"), "00000000000000000000000000000007");
    assert_eq!((next.header("Cloudsync-Range"), next.header("Cloudsync-After")), ("4-4", ""));
}

#[test]
fn a_server_that_is_full_gets_no_more_until_it_has_room() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    script.answer(202, &[], FULL);
    send(&a, &script, "syncing | 0");
    run(&a, "insert into todos values ('2', 'bread', 0)");
    script.answer(202, &[], FULL);
    assert_eq!(ranges(&send(&a, &script, "syncing | 0")), ["1-1"]);
    run(&a, "insert into todos values ('3', 'salt', 0)");
    for _ in 0..2 {
        script.answer(202, &[], KEPT);
    }
    assert_eq!(ranges(&send(&a, &script, "syncing | 0")), ["1-1", "2-3"], "what gathered goes as one");
}

#[test]
fn a_row_that_was_refused_meanwhile_travels_whole_behind_its_cells() {
    let (a, script, _sent) = three_kept();
    let refusal =
        r#"{"id":4,"table":"todos","key":["1"],"sqlstate":"23514","message":"no","first":1,"last":1}"#;
    script.accept(3, 7, refusal);
    // The cells that came after it say nothing of the row: it is sent whole, in the same call.
    script.accept(4, 8, "");
    let seen = send(&a, &script, "synced | 4");
    assert_eq!(ranges(&seen), ["3-3", "4-4"]);
    assert_eq!(rows(&a, "select count(*) from cloudsync_rejected", []), "0", "the whole row was taken");
    let (b, _) = client();
    let whole = seen[1].body.clone();
    b.query_row("select cloudsync_payload_apply(?1)", [whole], |_row| Ok(())).expect("it applies");
    assert_eq!(rows(&b, "select * from todos", []), "1 | milk | 1");
}

#[test]
fn a_chain_that_is_broken_goes_on_behind_what_the_server_has() {
    let (a, script, sent) = three_kept();
    // The second one was put aside: the server has the first.
    problem(&script, 409, "out_of_order", 1);
    script.accept(1, 7, "");
    script.accept(2, 8, "");
    script.accept(3, 9, "");
    let seen = send(&a, &script, "synced | 3");
    assert_eq!(ranges(&seen), ["3-3", "1-1", "2-2", "3-3"]);
    let links: Vec<(&str, &str)> =
        seen.iter().map(|one| (one.header("Cloudsync-After"), one.header("Cloudsync-Token"))).collect();
    let before = sent[1].header("Cloudsync-Upload");
    let [first, second] = ["00000000000000000000000000000007", "00000000000000000000000000000008"];
    assert_eq!(links, [(before, ""), ("", ""), ("", first), ("", second)]);
    assert!(seen.iter().zip([2, 0, 1, 2]).all(|(seen, at)| seen.body == sent[at].body), "the same bytes");
}

#[test]
fn nothing_that_the_server_has_moves_to_another_site() {
    let (a, script, sent) = three_kept();
    let former = rows(&a, "select hex(cloudsync_siteid())", []);
    // A copy of the file sent something else behind the first.
    problem(&script, 409, "site_conflict", 1);
    script.accept(1, 7, "");
    problem(&script, 409, "site_conflict", 5);
    script.accept(3, 8, "");
    let seen = send(&a, &script, "synced | 3");
    assert_eq!(ranges(&seen), ["3-3", "1-1", "2-2", "1-3"], "numbers begin anew for another site");
    assert_ne!(rows(&a, "select hex(cloudsync_siteid())", []), former);
    let (b, _) = client();
    for body in [&sent[0].body, &seen[3].body] {
        b.query_row("select cloudsync_payload_apply(?1)", [body], |_row| Ok(())).expect("it applies");
    }
    assert_eq!(rows(&b, "select * from todos order by id", []), "1 | milk | 1; 3 | bread | 0");
}

#[test]
fn a_refusal_of_the_oldest_is_about_all_behind_it() {
    let (a, script, _sent) = three_kept();
    // Nothing of it was taken: its stamps are too far ahead.
    problem(&script, 409, "out_of_order", 0);
    let ahead = r#"{"code":"clock_ahead","acked":0,"accepted_hlc":0,"server_time_ms":1000}"#;
    script.answer(409, &[], ahead);
    script.accept(3, 7, "");
    assert_eq!(ranges(&send(&a, &script, "synced | 3")), ["3-3", "1-1", "1-3"]);
    assert_eq!(rows(&a, "select count(*) from cloudsync_outbox", []), "0");
}

#[test]
fn a_server_that_contradicts_itself_is_not_asked_for_ever() {
    let (a, script, _sent) = three_kept();
    for acked in [1, 2].repeat(20) {
        problem(&script, 409, "out_of_order", acked);
    }
    let told = a.query_row("select cloudsync_network_send_changes()", [], |_row| Ok(()));
    let error = told.expect_err("it is refused").to_string();
    assert!(error.contains("out_of_order"), "{error}");
    assert!(script.seen().len() < 12);
}
