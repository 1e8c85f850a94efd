//! Writes the seeds of the corpora: payloads that real files export, cut to what reaches far.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use shared_format::payload::{Limits, decode_frame};
use shared_format::{ColumnId, Hlc, Value, encode_key, encode_message, pack_cells};

/// What is written before an export, each in a file of its own.
const SEEDS: &[(&str, &str)] = &[
    ("insert", "insert into lists values ('n', 'new', 4.5)"),
    ("update", "update todos set done = 2, body = zeroblob(9) where list = 'a'"),
    ("delete", "delete from lists where id = 'b'"),
    ("rekey", "update lists set id = 'z' where id = 'a'; update numbers set n = 70000 where n = 1"),
    ("text", "update lists set title = cast(x'ff00fe' as text) where id = 'b'; update numbers set v = 'x'"),
    (
        "again",
        "delete from numbers; insert into numbers values (1, null), (3, 1e300), (4, 9223372036854775807)",
    ),
];

fn main() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let apply = fuzz.join("corpus/apply");
    let payload = fuzz.join("../../shared-format/fuzz/corpus/payload");
    let stored = fuzz.join("../../shared-format/fuzz/corpus/stored");
    for dir in [&apply, &payload, &stored] {
        fs::create_dir_all(dir).expect("a directory can be made");
    }
    for (name, sql) in SEEDS {
        let connection = replica::open();
        connection.execute_batch(sql).expect("the statements are right");
        let frame = export(&connection);
        let (body, _used) = decode_frame(&frame, &Limits::UPLOAD).expect("an export is a frame");
        write(&apply.join(format!("{name}.body")), &body);
        write(&payload.join(format!("{name}.body")), &body);
        write(&payload.join(format!("{name}.frame")), &frame);
    }
    let twice = export(&replica::open()).repeat(2);
    write(&apply.join("twice.frame"), &twice);
    let key = [Value::Text("a".into()), Value::Integer(-1), Value::Real(0.5), Value::Blob(vec![0, 1])];
    write(&stored.join("key"), &encode_key(key.iter().map(Value::as_ref)));
    let cells: Vec<_> =
        (1..4).map(|id| (ColumnId::new(id * 40), Hlc::from_parts(i64::from(id), id), 1)).collect();
    write(&stored.join("cells"), &pack_cells(&cells));
    write(&stored.join("message"), &encode_message(7, &[3; 32], b"rows"));
}

fn export(connection: &Connection) -> Vec<u8> {
    connection
        .query_row("select cloudsync_payload_encode(0)", [], |row| row.get(0))
        .expect("the file is exported")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a seed can be written");
}
