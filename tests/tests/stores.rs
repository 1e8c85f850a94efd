//! Upload and download on every object store.

use tests::object_store::StoreKind;
use tests::stage::{Setting, Stage, on_both};

fn rows_travel_both_ways_on(store: StoreKind) {
    on_both(|setting| rows_travel_both_ways(Setting { store, ..setting }));
}

fn rows_travel_both_ways(setting: Setting<'_>) {
    let mut stage = Stage::new(setting);
    stage.play(&[
        "pg: insert into todo values ('p', 'from the centre', null, 0)",
        "a: insert into todo values ('a', 'from a', 'note', 1)",
        "a: sync",
        "b: insert into todo values ('b', 'from b', null, 2)",
        "b: sync",
        "pg: update todo set done = 9 where id = 'a'",
        "b: delete from todo where id = 'b'",
        "a: update todo set note = 'edited' where id = 'p'",
    ]);
    stage.settles_at(&["a|from a|note|9", "p|from the centre|edited|0"]);
    // What the store holds serves a node that has nothing in memory, and a client that has nothing at all.
    stage.play(&[
        "hub: kill",
        "hub: start",
        "pg: insert into todo values ('q', 'later', null, 0)",
        "c: sync",
    ]);
    stage.settles_at(&["a|from a|note|9", "p|from the centre|edited|0", "q|later|NULL|0"]);
    let written = stage.hub.metric("cloudsync_segments_written_total");
    assert!(written > 0.0, "what clients received was also stored");
}

#[test]
fn rows_travel_both_ways_on_a_directory() {
    rows_travel_both_ways_on(StoreKind::Directory);
}

#[test]
fn rows_travel_both_ways_on_s3() {
    rows_travel_both_ways_on(StoreKind::Moto);
}

#[test]
fn rows_travel_both_ways_on_s3_with_the_credentials_of_a_container() {
    rows_travel_both_ways(Setting { store: StoreKind::MotoOfContainer, ..Setting::PLAIN });
}

#[test]
fn rows_travel_both_ways_on_s3_with_signatures() {
    rows_travel_both_ways_on(StoreKind::S3sFs);
}
