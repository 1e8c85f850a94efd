//! The rows that every subject gets: the same ones in the same order, made from their number alone.

/// The measured table. Peers refuse a NOT NULL column without a default.
pub(crate) const DDL: &str = "create table item (
    id text not null primary key, title text not null default '', note text, amount integer, price real)";

/// One row of the table.
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) amount: i64,
    pub(crate) price: f64,
}

const WORDS: [&str; 32] = [
    "order", "check", "paint", "kitchen", "garden", "invoice", "north", "summer", "repair", "window",
    "meeting", "draft", "client", "budget", "travel", "ticket", "report", "school", "coffee", "letter",
    "market", "bridge", "yellow", "printer", "station", "winter", "doctor", "holiday", "battery", "project",
    "village", "museum",
];

/// Makes row `n`: a UUIDv7 key as a device makes them three milliseconds apart, a title of three words and a
/// number, a note of six words, a small number and a price.
pub(crate) fn row(n: u32) -> Row {
    let ms = 1_780_000_000_000 + u64::from(n) * 3;
    let (a, b) = (mixed(u64::from(n)), mixed(u64::from(n) ^ 0xabcd_ef01_2345_6789));
    let (time, random) = (format!("{ms:012x}"), format!("{:015x}", b >> 4));
    let id = format!(
        "{}-{}-7{:03x}-{:x}{}-{}",
        &time[..8],
        &time[8..],
        a & 0xfff,
        8 + (a >> 12 & 3),
        &random[..3],
        &random[3..]
    );
    let price = f64::from(u32::try_from(a >> 40 & 0xf_ffff).unwrap_or(0)) / 100.0;
    Row {
        id,
        title: format!("{} {n}", words(b, 3)),
        note: words(a, 6),
        amount: i64::try_from(b >> 20 & 0x3ff).unwrap_or(0),
        price,
    }
}

/// Numbers below `count` in an order that has nothing to do with that of the rows, the same in every run.
pub(crate) fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by_cached_key(|n| mixed(u64::from(*n) + 1));
    order
}

fn words(bits: u64, count: u32) -> String {
    let word = |at: u32| WORDS[usize::try_from(bits >> (5 * at) & 31).unwrap_or(0)];
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

/// Spreads a number over all 64 bits: the step of SplitMix64.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}
