//! Cells that lost at the server: its answer names them, the file keeps what it had, and apply adds what won.

mod support;

use rusqlite::Connection;
use support::script::{Script, client};
use support::{TODOS, apply, encode, open, rows, run};

const SEND: &str = "select cloudsync_network_send_changes()";
const KEPT: &str = "select key, col, lost_value, won_value, reason, lost_hlc < won_hlc,
    lost_site = cloudsync_siteid(), won_site <> cloudsync_siteid() from cloudsync_conflicts order by id";

/// A client whose two rows the server has, and what another site wrote into both titles later.
fn overtaken() -> (Connection, Script, Vec<u8>, [String; 2]) {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    script.accept(2, 1, "");
    rows(&a, SEND, []);
    let b = open();
    run(&b, TODOS);
    rows(&b, "select cloudsync_init('todos')", []);
    apply(&b, encode(&a, 0).as_deref()).expect("apply works");
    run(&b, "update todos set title = 'theirs ' || id; update cloudsync_log set ms = ms + 20000");
    let theirs = encode(&b, 0).expect("a payload");
    let site = rows(&b, "select cloudsync_siteid()", []);
    let stamps = "select col_version from cloudsync_changes where col_name = 'title' order by pk";
    let stamps = rows(&b, stamps, []);
    let (first, second) = stamps.split_once("; ").expect("two rows");
    let named = |id: &str, hlc: &str| {
        format!(r#"{{"table":"todos","key":["{id}"],"column":"title","hlc":{hlc},"site":"{site}"}}"#)
    };
    let lost = [named("1", first), named("2", second)];
    (a, script, theirs, lost)
}

/// Says yes to the next upload and names lost cells.
fn answer(script: &Script, acked: i64, lost: &str, more: i64) {
    let body = format!(
        r#"{{"status":"applied","acked":{acked},"token":"{acked:032x}","accepted_hlc":1,"server_time_ms":1,"rejected":[],"lost":[{lost}],"lost_more":{more}}}"#
    );
    script.answer(200, &[], body);
}

fn check(a: &Connection, expected: &str) {
    assert_eq!(rows(a, KEPT, []), expected);
}

#[test]
fn a_value_that_lost_at_the_server_is_kept_and_what_won_is_added_when_it_comes() {
    let (a, script, theirs, lost) = overtaken();
    run(&a, "update todos set title = 'mine ' || id");
    answer(&script, 4, &lost[0], 7);
    rows(&a, SEND, []);
    check(&a, r#"["1"] | title | mine 1 | NULL | server | 1 | 1 | 1"#);
    assert_eq!(rows(&a, "select cloudsync_status() ->> '$.conflictsExpired'", []), "7", "counted, not named");
    apply(&a, Some(&theirs)).expect("apply works");
    // What the server had acknowledged without naming it did not lose there.
    check(&a, r#"["1"] | title | mine 1 | theirs 1 | server | 1 | 1 | 1"#);
    assert_eq!(rows(&a, "select title from todos order by id", []), "theirs 1; theirs 2");
}

#[test]
fn what_apply_kept_before_the_answer_came_is_kept_once() {
    let (a, script, theirs, lost) = overtaken();
    run(&a, "update todos set title = 'mine ' || id");
    script.fail("connection lost");
    a.query_row(SEND, [], |_row| Ok(())).expect_err("no answer");
    apply(&a, Some(&theirs)).expect("apply works");
    let kept = r#"["1"] | title | mine 1 | theirs 1 | newer | 1 | 1 | 1; ["2"] | title | mine 2 | theirs 2 | newer | 1 | 1 | 1"#;
    check(&a, kept);
    answer(&script, 4, &lost.join(","), 0);
    rows(&a, SEND, []);
    check(&a, kept);
}

#[test]
fn a_cell_that_is_named_again_is_kept_again_only_with_another_value() {
    let (a, script, theirs, lost) = overtaken();
    run(&a, "update todos set title = 'mine' where id = '1'");
    answer(&script, 3, &lost[0], 0);
    rows(&a, SEND, []);
    run(&a, "update todos set done = 1 where id = '1'");
    answer(&script, 4, &lost[0], 0);
    rows(&a, SEND, []);
    check(&a, r#"["1"] | title | mine | NULL | server | 1 | 1 | 1"#);
    run(&a, "update todos set title = 'mine too' where id = '1'");
    answer(&script, 5, &lost[0], 0);
    rows(&a, SEND, []);
    apply(&a, Some(&theirs)).expect("apply works");
    check(
        &a,
        r#"["1"] | title | mine | theirs 1 | server | 1 | 1 | 1; ["1"] | title | mine too | theirs 1 | server | 1 | 1 | 1"#,
    );
}

#[test]
fn what_was_written_since_or_is_gone_did_not_lose() {
    let (a, script, _theirs, lost) = overtaken();
    run(&a, "update todos set title = 'mine ' || id");
    script.fail("connection lost");
    a.query_row(SEND, [], |_row| Ok(())).expect_err("no answer");
    run(
        &a,
        "update todos set title = 'newer' where id = '1'; delete from todos where id = '2'; update cloudsync_log set ms = ms + 40000 where seq > 4",
    );
    let other = lost[0].replace("todos", "elsewhere") + "," + &lost[0].replace("title", "nowhere");
    let keys = lost[0].replace(r#"["1"]"#, r#"["1",2]"#) + "," + &lost[0].replace(r#"["1"]"#, r#"["9"]"#);
    answer(&script, 4, &format!("{},{other},{keys}", lost.join(",")), 0);
    answer(&script, 6, "", 0);
    rows(&a, SEND, []);
    check(&a, "");
}

#[test]
fn an_answer_whose_lost_cells_cannot_be_read_is_an_error() {
    let (a, script, _theirs, lost) = overtaken();
    run(&a, "update todos set title = 'mine ' || id");
    for broken in [lost[0].replace("hlc", "clock"), lost[0].replace(r#""site":""#, r#""site":"x"#)] {
        answer(&script, 4, &broken, 0);
        let error = a.query_row(SEND, [], |_row| Ok(())).expect_err("no answer");
        let expected = "cloudsync: http://hub/v1/databases/demo/uploads: answer has no usable lost";
        assert_eq!(error.to_string(), expected);
    }
    check(&a, "");
}
