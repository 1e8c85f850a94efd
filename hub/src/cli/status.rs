//! `hub status`: how each database is, asked of Postgres and the store, whether or not a hub runs.

use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;

use super::findings::Told;
use super::served;
use crate::backend::{self, Report};
use crate::config::{BackendLocation, Config, DatabaseConfig};
use crate::error::{Error, Result};
use crate::ingest::archive::Archive;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::store::{self, Store};
use crate::weigh::Weights;

/// Uploads that wait in the store, as far as they are counted.
const WAITING_MAX: usize = 100_000;

/// What `report_summary.sql` tells.
#[derive(Debug, Deserialize)]
struct Summary {
    tables: u64,
    devices: u64,
    rejected: u64,
    waiting: u64,
    running: u64,
    dead: u64,
}

/// What `report_slots.sql` tells of a slot, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Slot {
    name: String,
    active: bool,
    lag_bytes: Option<i64>,
    retained_bytes: Option<i64>,
}

pub(super) async fn run(config: &Config) -> Result<Told> {
    let store = store::open(&config.store, &Metrics::new()?).await;
    let (stored, control) = served::of_control(config).await;
    let mut told = Told { text: String::new(), is_good: true };
    for problem in control {
        tell(&mut told, "control", Err(problem));
    }
    for database in config.databases.iter().chain(&stored) {
        // Writing to a text cannot fail.
        let _written = writeln!(told.text, "database {}", database.name);
        let asked = ask(database).await;
        tell(&mut told, "  database", asked);
        let held = match &store {
            Ok(store) => held(store, database).await,
            Err(error) => Err(error.logged()),
        };
        tell(&mut told, "  store", held);
    }
    Ok(told)
}

fn tell(told: &mut Told, place: &str, says: std::result::Result<String, String>) {
    told.is_good &= says.is_ok();
    let lines = says.unwrap_or_else(|problem| format!("PROBLEM {problem}"));
    for line in lines.lines() {
        let _written = writeln!(told.text, "{place:<10}  {line}");
    }
}

/// What the database says.
async fn ask(database: &DatabaseConfig) -> std::result::Result<String, String> {
    let asked = async {
        if let BackendLocation::Sqlite(location) = &database.backend {
            let stands = backend::check_file(location)?;
            let Some([tables, devices, rejected]) = backend::count_file(location)? else {
                return Ok(stands.to_owned());
            };
            return Ok(format!(
                "{stands}\n{tables} tracked tables, {devices} devices, {rejected} refused rows not confirmed yet"
            ));
        }
        let backend = backend::open(database)?;
        let slots: Vec<Slot> = read(backend.report(Report::Slots).await?)?;
        let summary: Summary = read(backend.report(Report::Summary).await?)?;
        let Summary { tables, devices, rejected, waiting, running, dead } = summary;
        let mut text = format!(
            "{tables} tracked tables, {devices} devices, {rejected} refused rows not confirmed yet\n\
             jobs: {waiting} wait, {running} run, {dead} are dead\n"
        );
        if slots.is_empty() {
            text.push_str("no slot: no hub has served it yet\n");
        }
        for slot in slots {
            let state = if slot.active { "is read" } else { "is read by nobody" };
            let (name, lag, kept) = (&slot.name, bytes(slot.lag_bytes), bytes(slot.retained_bytes));
            let _written = writeln!(text, "slot {name} {state}, {lag} behind, {kept} of WAL are kept for it");
        }
        Ok::<_, Error>(text)
    };
    asked.await.map_err(|error| error.logged())
}

fn bytes(bytes: Option<i64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{bytes} bytes"))
}

fn read<T: for<'a> Deserialize<'a>>(answer: Option<serde_json::Value>) -> Result<T> {
    serde_json::from_value(answer.ok_or(Error::ReportAnswer)?).map_err(|_| Error::ReportAnswer)
}

/// What the store holds of a database.
async fn held(store: &Arc<dyn Store>, database: &DatabaseConfig) -> std::result::Result<String, String> {
    let looked = async {
        let keys = Keys::new(database.name.as_str());
        let archive = Archive::new(Arc::clone(store), keys.clone());
        let waiting = store.list(&keys.inbox(), None, WAITING_MAX).await?.len();
        let buried = store.list(&keys.buried(), None, WAITING_MAX).await?.len();
        let inbox = format!("uploads: {waiting} wait for the database, {buried} can never be applied");
        let Some(epoch) = archive.newest_epoch().await? else {
            return Ok(format!("nothing yet: no hub has served it\n{inbox}\n"));
        };
        let number = epoch.id.number();
        let segments = archive.stored_segments(number).await?;
        let snapshots = archive.snapshot_objects(number).await?;
        let sizes = segments.iter().map(|segment| segment.bytes);
        let weights = Weights::of(sizes, &snapshots, &keys.snapshots(number));
        let end = segments.last().map_or(epoch.start, |segment| segment.name.last.commit_end);
        let end = end.max(archive.idle_up_to(number).await?);
        let (segments, snapshots) = (weights.segments, weights.snapshots);
        Ok::<_, Error>(format!(
            "epoch {}, log up to {end}: {} segments of {} bytes, {} snapshots of {} bytes\n{inbox}\n",
            epoch.id, segments.count, segments.bytes, snapshots.count, snapshots.bytes
        ))
    };
    looked.await.map_err(|error| error.logged())
}
