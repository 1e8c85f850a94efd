//! Uploads of one row each, as clients send them one after another.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use shared_format::payload::{
    ChangesBuilder, ColumnAlgorithm, ColumnDefinition, PayloadBuilder, TableAlgorithm, TableDefinition,
    encode_frame,
};
use shared_format::{ColumnId, Hlc, RowKind, SiteId, Stamp, ValueRef};

use crate::http::Connection;

/// What came of the uploads of all clients.
pub(crate) struct Uploads {
    /// Uploads answered as applied.
    pub(crate) applied: u64,
    /// Uploads answered otherwise.
    pub(crate) failed: u64,
    /// From the first to the last.
    pub(crate) took: Duration,
}

/// Lets clients send rows for a while, each as fast as it is answered.
pub(crate) async fn send(address: &str, clients: u32, lasting: Duration) -> Uploads {
    let begin = Instant::now();
    let tasks: Vec<_> = (1..=clients)
        .map(|client| tokio::spawn(run(address.to_owned(), u128::from(client) << 64, begin + lasting)))
        .collect();
    let (mut applied, mut failed) = (0, 0);
    for task in tasks {
        let (of_it, not_of_it) = task.await.expect("a client ends well");
        applied += of_it;
        failed += not_of_it;
    }
    Uploads { applied, failed, took: begin.elapsed() }
}

async fn run(address: String, site: u128, end: Instant) -> (u64, u64) {
    let mut connection = Connection::open(&address, site).await;
    let (mut applied, mut failed, mut number) = (0, 0, 0_u64);
    let mut token = None;
    while Instant::now() < end {
        number += 1;
        let mut headers = vec![
            ("cloudsync-upload", format!("{:032x}", site | u128::from(number))),
            ("cloudsync-range", format!("{number}-{number}")),
            ("cloudsync-db-version", number.to_string()),
        ];
        headers.extend(token.clone().map(|token| ("cloudsync-token", token)));
        let answer = connection.upload(&headers, payload(site, number)).await;
        let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status.is_success() && told["status"] == "applied" && told["refused"] == 0 {
            applied += 1;
            token = told["token"].as_str().map(str::to_owned);
        } else {
            failed += 1;
        }
    }
    (applied, failed)
}

/// One created row of the table, stamped by the site.
fn payload(site: u128, number: u64) -> Bytes {
    let column = |id, name: &str, type_name: &str| ColumnDefinition {
        id: ColumnId::new(id),
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        algorithm: ColumnAlgorithm::Lww,
        group: None,
    };
    let mut payload = PayloadBuilder::new();
    payload.definition(&TableDefinition {
        table: 1,
        incarnation: 1,
        version: 1,
        name: "todo".to_owned(),
        schema: None,
        algorithm: TableAlgorithm::Cls,
        key: vec![column(0, "id", "text")],
        columns: vec![column(1, "title", "text"), column(2, "note", "text"), column(3, "done", "integer")],
        scoped: false,
        row_security: false,
    });
    let mut changes = ChangesBuilder::new(1, 1, 1, 1, &[1, 2, 3].map(ColumnId::new));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
    let hlc = Hlc::from_raw(u64::try_from(now).expect("a clock before the year 10000") << 16);
    let stamp = Stamp { hlc, site: SiteId::from_bytes(site.to_be_bytes()) };
    let key = format!("{:032x}", site | u128::from(number));
    let cells = [ValueRef::Text("a title of usual length"), ValueRef::Null, ValueRef::Integer(0)];
    let cells: Vec<_> = cells.into_iter().enumerate().map(|(at, value)| (at, None, value)).collect();
    changes.row(RowKind::Created, stamp, &[ValueRef::Text(&key)], &cells);
    payload.push(changes);
    Bytes::from(encode_frame(&payload.finish()))
}
