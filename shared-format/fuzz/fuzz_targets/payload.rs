//! Feeds bytes to the payload decoder, once as a frame and once as the body of a good frame; what it reads
//! has to read back equal after it was copied into another payload.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_format::payload::{Limits, Payload, PayloadBuilder, decode_frame, encode_frame};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok((body, used)) = decode_frame(rest, &Limits::UPLOAD) {
        assert!(used > 0, "a frame takes up bytes");
        read(&body);
        rest = rest.get(used..).unwrap_or_default();
    }
    let frame = encode_frame(bytes);
    let (body, used) = decode_frame(&frame, &Limits::UPLOAD).expect("a frame of ours is within the limits");
    assert_eq!((body.as_slice(), used), (bytes, frame.len()));
    read(bytes);
});

fn read(body: &[u8]) {
    let Ok(payload) = Payload::parse(body) else { return };
    let mut copy = PayloadBuilder::new();
    if let Ok(definitions) = payload.definitions() {
        definitions.iter().for_each(|definition| copy.definition(definition));
    }
    for notice in payload.reloads() {
        copy.reload(notice.table, notice.incarnation, &notice.reason);
    }
    payload.collections().into_iter().for_each(|notice| copy.collection(notice));
    for changes in payload.changes() {
        copy.append(&changes);
    }
    let copy = copy.finish();
    let copy = Payload::parse(&copy).expect("a payload of ours is one");
    assert_eq!(payload.collections(), copy.collections());
    for (changes, copied) in payload.changes().into_iter().zip(copy.changes()) {
        let (mut rows, mut copied_rows) = (changes.rows(), copied.rows());
        loop {
            match (rows.next_row(), copied_rows.next_row()) {
                (Ok(Some(row)), Ok(Some(copied))) => {
                    // NaN is unequal to itself; its text is not.
                    assert_eq!(format!("{row:?}"), format!("{copied:?}"));
                }
                (Ok(None), Ok(None)) => break,
                (Err(_), Err(_)) => break,
                (one, other) => panic!("{one:?} was copied as {other:?}"),
            }
        }
    }
}
