//! Feeds bytes to `cloudsync_payload_apply`: as they are, and as the body of a good frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_format::payload::encode_frame;

thread_local! {
    static REPLICA: rusqlite::Connection = replica::open();
}

fuzz_target!(|bytes: &[u8]| {
    REPLICA.with(|connection| {
        if bytes.starts_with(b"CSY1") {
            replica::apply_and_undo(connection, bytes, false);
        }
        let is_thorough = bytes.len() % 4 == 0;
        replica::apply_and_undo(connection, &encode_frame(bytes), is_thorough);
    });
});
