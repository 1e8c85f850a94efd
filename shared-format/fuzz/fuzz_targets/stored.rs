//! Feeds bytes to the readers of what is stored or signed: row keys, packed overrides, message bodies. What
//! they read has to read back equal after it was written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared_format::{Message, decode_key, encode_key, encode_message, pack_cells, unpack_cells};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = decode_key(bytes) {
        let written = encode_key(key.iter().map(|part| part.as_ref()));
        let again = decode_key(&written).expect("a key of ours is one");
        assert_eq!(format!("{key:?}"), format!("{again:?}"));
    }
    if let Ok(cells) = unpack_cells(bytes) {
        let written = pack_cells(&cells);
        assert_eq!(unpack_cells(&written).expect("packed cells of ours are some"), cells);
    }
    if let Ok(message) = Message::parse(bytes) {
        assert_eq!(encode_message(message.xid, &message.mac, message.changeset), bytes);
    }
});
