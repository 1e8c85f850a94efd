//! What the hub counts and measures, in the text format of Prometheus.
//!
//! Owns every metric's name and labels, so that a label set stays small: databases come from the
//! configuration, everything else from the code. No metric holds a key, a row value or a secret.

mod families;
mod live;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use prometheus::proto::{Bucket, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{
    Encoder, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::limits::Limit;
use crate::weigh::Weights;
use families::{AuthFamilies, ClientFamilies, JobFamilies, LogFamilies, Maker};
use live::{Behind, Devices};

pub use families::{EdgeMetrics, StoreMetrics};
pub use live::{DeviceCounts, Present};

/// All metrics of one hub; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    auth: AuthFamilies,
    edges: EdgeMetrics,
    clients: ClientFamilies,
    log: LogFamilies,
    jobs: JobFamilies,
    live: Arc<DashMap<String, Live>>,
    /// Databases that were served and are no more: their series stay behind, but nobody is shown them.
    hidden: Arc<Mutex<BTreeSet<String>>>,
    store: StoreMetrics,
}

/// What is worked out at each scrape for one database.
#[derive(Clone, Debug, Default)]
struct Live {
    devices: Arc<Devices>,
    behind: Arc<Behind>,
}

/// The metrics of one database.
#[derive(Clone, Debug)]
pub struct DatabaseMetrics {
    name: String,
    key_set_fetches: IntCounterVec,
    uploads: IntCounterVec,
    downloads: IntCounterVec,
    messages_skipped: IntCounterVec,
    epochs_opened: IntCounterVec,
    replayed_rows: IntCounterVec,
    stored_objects: IntGaugeVec,
    stored_bytes: IntGaugeVec,
    limited: IntCounterVec,
    /// 1 while this node is attached to a server that is not the centre any more.
    pub fenced: IntGauge,
    rejected_rows: IntCounterVec,
    jobs: JobFamilies,
    /// Uploads that wait in the store for the database.
    pub inbox_entries: IntGauge,
    /// The sites that are here.
    pub devices: Arc<Devices>,
    /// How long the store has been behind the database.
    pub behind: Arc<Behind>,
    /// Rows in the uploads that were read.
    pub received_rows: IntCounter,
    /// Rows of the log that were decoded.
    pub ingested_rows: IntCounter,
    /// Time from a commit until clients can have it, in seconds.
    pub ingest_seconds: Histogram,
    /// WAL that Postgres keeps for the slot.
    pub slot_retained_bytes: IntGauge,
    /// Bytes of the log that synchronous standbys lack, and clients therefore too.
    pub standby_held_bytes: IntGauge,
    /// Bytes of upload bodies as received, compressed.
    pub received_bytes: IntCounter,
    /// Bytes of download bodies as sent, compressed.
    pub sent_bytes: IntCounter,
    /// Rows in those bodies, also deletions and rows to forget.
    pub sent_rows: IntCounter,
    /// Bytes of uploads and downloads that are on their way.
    pub in_flight_bytes: IntGauge,
    /// Downloads that wait for something new.
    pub long_polls_open: IntGauge,
    /// Time that the database takes to apply an upload, in seconds.
    pub apply_seconds: Histogram,
    /// The commit end LSN up to which the store holds everything.
    pub ingest_position_bytes: IntGauge,
    /// WAL between that and the server's newest known LSN.
    pub ingest_lag_bytes: IntGauge,
    /// Bytes of the log that are in memory.
    pub log_memory_bytes: IntGauge,
    /// Segments that this node wrote.
    pub segments_written: IntCounter,
}

impl DatabaseMetrics {
    /// Counts one answered upload by its status, the word in the answer.
    pub fn count_upload(&self, status: &str) {
        self.uploads.with_label_values(&[self.name.as_str(), status]).inc();
    }

    /// Counts rows that the database refused for the first time, by SQLSTATE as in the answer to an upload.
    pub fn count_rejected(&self, states: &Map<String, Value>) {
        for (state, rows) in states {
            let counter = self.rejected_rows.with_label_values(&[self.name.as_str(), state]);
            counter.inc_by(rows.as_u64().unwrap_or(0));
        }
    }

    /// Counts one answered download by its source: `log`, `snapshot`, `nothing` or an error's slug.
    pub fn count_download(&self, source: &str) {
        self.downloads.with_label_values(&[self.name.as_str(), source]).inc();
    }

    /// Counts one question for the published keys of tokens, by its outcome.
    pub fn count_key_set(&self, outcome: &'static str) {
        self.key_set_fetches.with_label_values(&[self.name.as_str(), outcome]).inc();
    }

    /// Counts one message in the WAL that was not taken, by the reason.
    pub fn count_message_skipped(&self, reason: &'static str) {
        self.messages_skipped.with_label_values(&[self.name.as_str(), reason]).inc();
    }

    /// Counts an epoch that was opened because the one before could not go on.
    pub fn count_epoch(&self, cause: &'static str) {
        self.epochs_opened.with_label_values(&[self.name.as_str(), cause]).inc();
    }

    /// Counts a request that was refused because of a limit of the database.
    pub(crate) fn count_limited(&self, limit: Limit) {
        self.limited.with_label_values(&[self.name.as_str(), limit.word()]).inc();
    }

    /// Tells how many jobs are in a state.
    pub fn set_jobs(&self, state: &str, jobs: i64) {
        self.jobs.jobs.with_label_values(&[self.name.as_str(), state]).set(jobs);
    }

    /// Tells what the store holds of the database.
    pub fn set_stored(&self, weights: &Weights) {
        for (kind, weight) in [("segment", weights.segments), ("snapshot", weights.snapshots)] {
            let label = [self.name.as_str(), kind];
            let shown = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            self.stored_objects.with_label_values(&label).set(shown(weight.count));
            self.stored_bytes.with_label_values(&label).set(shown(weight.bytes));
        }
    }

    /// Counts a job that this node did, by how it ended.
    pub fn count_job(&self, kind: &str, outcome: &'static str) {
        self.jobs.jobs_ended.with_label_values(&[self.name.as_str(), kind, outcome]).inc();
    }

    /// Counts rows that were merged into the database again, and those that it refused.
    pub fn count_replayed(&self, changed: i64, refused: i64) {
        for (outcome, rows) in [("changed", changed), ("refused", refused)] {
            let counter = self.replayed_rows.with_label_values(&[self.name.as_str(), outcome]);
            counter.inc_by(u64::try_from(rows).unwrap_or(0));
        }
    }
}

impl Metrics {
    /// Makes a registry with every metric of the hub and those of its process.
    pub fn new() -> Result<Metrics> {
        let registry = Registry::new();
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .map_err(Error::Metrics)?;
        let make = Maker(&registry);
        Ok(Metrics {
            auth: AuthFamilies::make(&make)?,
            edges: EdgeMetrics::make(&make)?,
            clients: ClientFamilies::make(&make)?,
            log: LogFamilies::make(&make)?,
            jobs: JobFamilies::make(&make)?,
            store: StoreMetrics::make(&make)?,
            live: Arc::default(),
            registry,
            hidden: Arc::default(),
        })
    }

    /// The metrics of one database, named as in the configuration.
    #[must_use]
    pub fn database(&self, name: &str) -> DatabaseMetrics {
        let label = [name];
        let (clients, log) = (&self.clients, &self.log);
        clients.begin(name);
        log.begin(name);
        self.auth.begin(name);
        self.jobs.begin(name);
        let live = self.live.entry(name.to_owned()).or_default().clone();
        DatabaseMetrics {
            name: name.to_owned(),
            devices: live.devices,
            behind: live.behind,
            received_rows: clients.received_rows.with_label_values(&label),
            ingested_rows: log.ingested_rows.with_label_values(&label),
            ingest_seconds: log.ingest_seconds.with_label_values(&label),
            slot_retained_bytes: log.slot_retained_bytes.with_label_values(&label),
            standby_held_bytes: log.standby_held_bytes.with_label_values(&label),
            key_set_fetches: self.auth.key_set_fetches.clone(),
            uploads: clients.uploads.clone(),
            downloads: clients.downloads.clone(),
            messages_skipped: log.messages_skipped.clone(),
            epochs_opened: log.epochs_opened.clone(),
            replayed_rows: log.replayed_rows.clone(),
            stored_objects: log.stored_objects.clone(),
            stored_bytes: log.stored_bytes.clone(),
            fenced: log.fenced.with_label_values(&label),
            rejected_rows: clients.rejected_rows.clone(),
            jobs: self.jobs.clone(),
            inbox_entries: self.jobs.inbox_entries.with_label_values(&label),
            received_bytes: clients.received_bytes.with_label_values(&label),
            sent_bytes: clients.sent_bytes.with_label_values(&label),
            sent_rows: clients.sent_rows.with_label_values(&label),
            limited: clients.limited.clone(),
            in_flight_bytes: clients.in_flight_bytes.with_label_values(&label),
            long_polls_open: clients.long_polls_open.with_label_values(&label),
            apply_seconds: clients.apply_seconds.with_label_values(&label),
            ingest_position_bytes: log.ingest_position_bytes.with_label_values(&label),
            ingest_lag_bytes: log.ingest_lag_bytes.with_label_values(&label),
            log_memory_bytes: log.log_memory_bytes.with_label_values(&label),
            segments_written: log.segments_written.with_label_values(&label),
        }
    }

    /// Counts a request that was not let in, by the reason; the name is empty for a database that is none.
    pub(crate) fn count_auth_failure(&self, database: &str, reason: &str) {
        self.auth.failures.with_label_values(&[database, reason]).inc();
    }

    /// The metrics of the connections of clients.
    #[must_use]
    pub fn edges(&self) -> EdgeMetrics {
        self.edges.clone()
    }

    /// The metrics of the object store.
    #[must_use]
    pub fn store(&self) -> StoreMetrics {
        self.store.clone()
    }

    /// Leaves the series of a database out from now on.
    pub(crate) fn hide(&self, database: &str) {
        self.hidden().insert(database.to_owned());
    }

    /// Shows the series of a database again.
    pub(crate) fn show(&self, database: &str) {
        self.hidden().remove(database);
    }

    fn hidden(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every metric in the text format of Prometheus.
    pub fn render(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.gather(), &mut text).map_err(Error::Metrics)?;
        Ok(text)
    }

    /// The metrics of one database as JSON: by name a list of what the labels distinguish, each with the labels
    /// but that of the database, and `value`, or `count`, `sum` and cumulative `buckets` (`le` to count).
    #[must_use]
    pub fn database_json(&self, name: &str) -> Value {
        let mut metrics = Map::new();
        for family in self.gather() {
            let kind = family.get_field_type();
            let series = family.get_metric().iter().filter_map(|metric| of_database(metric, kind, name));
            let series: Vec<Value> = series.collect();
            if !series.is_empty() {
                metrics.insert(family.name().to_owned(), Value::Array(series));
            }
        }
        json!({ "database": name, "metrics": metrics })
    }

    fn gather(&self) -> Vec<MetricFamily> {
        for live in self.live.iter() {
            let label = [live.key().as_str()];
            let counts = live.devices.count();
            self.clients.devices_connected.with_label_values(&label).set(i64::from(counts.connected));
            self.clients.devices_active.with_label_values(&label).set(i64::from(counts.active));
            self.log.ingest_lag_seconds.with_label_values(&label).set(live.behind.seconds());
        }
        let mut families = self.registry.gather();
        let hidden = self.hidden().clone();
        if !hidden.is_empty() {
            let is_hidden = |label: &LabelPair| label.name() == "database" && hidden.contains(label.value());
            for family in &mut families {
                family.mut_metric().retain(|metric| !metric.get_label().iter().any(is_hidden));
            }
            families.retain(|family| !family.get_metric().is_empty());
        }
        families
    }
}

/// One series of a database as JSON; none if it is of another one.
fn of_database(metric: &Metric, kind: MetricType, name: &str) -> Option<Value> {
    let mut series = Map::new();
    let mut is_of_it = false;
    for label in metric.get_label() {
        if label.name() == "database" {
            is_of_it = label.value() == name;
        } else {
            series.insert(label.name().to_owned(), json!(label.value()));
        }
    }
    if !is_of_it {
        return None;
    }
    let value = match kind {
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let bucket =
                |bucket: &Bucket| (bucket.upper_bound().to_string(), json!(bucket.cumulative_count()));
            series.insert("count".to_owned(), json!(histogram.get_sample_count()));
            series.insert("sum".to_owned(), json!(histogram.get_sample_sum()));
            series.insert("buckets".to_owned(), histogram.get_bucket().iter().map(bucket).collect());
            return Some(Value::Object(series));
        }
        MetricType::COUNTER => metric.get_counter().get_value(),
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => metric.get_gauge().get_value(),
    };
    series.insert("value".to_owned(), json!(value));
    Some(Value::Object(series))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared_format::SiteId;

    use super::*;

    #[test]
    fn every_metric_of_a_database_is_there_before_it_counts() {
        let metrics = Metrics::new().unwrap();
        let demo = metrics.database("demo");
        demo.count_upload("applied");
        demo.count_download("log");
        demo.count_message_skipped("mac");
        demo.set_jobs("dead", 1);
        demo.count_job("expiry", "done");
        demo.count_rejected(json!({ "23505": 2 }).as_object().unwrap());
        drop(demo.devices.enter(SiteId::from_bytes([1; 16])));
        metrics.store().observe("put", Duration::from_millis(3), true);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "cloudsync_uploads_total{database=\"demo\",status=\"applied\"} 1",
            "cloudsync_rejected_rows_total{database=\"demo\",sqlstate=\"23505\"} 2",
            "cloudsync_devices_active{database=\"demo\"} 1",
            "cloudsync_ingest_lag_seconds{database=\"demo\"} 0",
            "cloudsync_downloads_total{database=\"demo\",source=\"log\"} 1",
            "cloudsync_received_bytes_total{database=\"demo\"} 0",
            "cloudsync_sent_bytes_total{database=\"demo\"} 0",
            "cloudsync_sent_rows_total{database=\"demo\"} 0",
            "cloudsync_long_polls_open{database=\"demo\"} 0",
            "cloudsync_in_flight_bytes{database=\"demo\"} 0",
            "cloudsync_limited_total{database=\"demo\",limit=\"storage\"} 0",
            "cloudsync_apply_seconds_count{database=\"demo\"} 0",
            "cloudsync_ingest_position_bytes{database=\"demo\"} 0",
            "cloudsync_ingest_lag_bytes{database=\"demo\"} 0",
            "cloudsync_segments_written_total{database=\"demo\"} 0",
            "cloudsync_messages_skipped_total{database=\"demo\",reason=\"mac\"} 1",
            "cloudsync_epochs_opened_total{cause=\"slot_missing\",database=\"demo\"} 0",
            "cloudsync_replayed_rows_total{database=\"demo\",outcome=\"changed\"} 0",
            "cloudsync_fenced{database=\"demo\"} 0",
            "cloudsync_auth_failures_total{database=\"demo\",reason=\"credential\"} 0",
            "cloudsync_key_set_fetches_total{database=\"demo\",outcome=\"failed\"} 0",
            "cloudsync_jobs{database=\"demo\",state=\"dead\"} 1",
            "cloudsync_jobs_ended_total{database=\"demo\",kind=\"expiry\",outcome=\"done\"} 1",
            "cloudsync_inbox_entries{database=\"demo\"} 0",
            "cloudsync_store_errors_total{operation=\"put\"} 1",
            "cloudsync_store_seconds_count{operation=\"put\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn one_database_is_told_as_json_without_the_others() {
        let metrics = Metrics::new().unwrap();
        let demo = metrics.database("demo");
        demo.count_upload("applied");
        demo.apply_seconds.observe(0.02);
        metrics.database("other").count_upload("duplicate");
        let told = metrics.database_json("demo");
        let series = |name: &str| told["metrics"][name].as_array().unwrap().clone();
        assert!(series("cloudsync_uploads_total").contains(&json!({ "status": "applied", "value": 1.0 })));
        assert!(series("cloudsync_uploads_total").contains(&json!({ "status": "duplicate", "value": 0.0 })));
        let apply = &series("cloudsync_apply_seconds")[0];
        assert_eq!((&apply["count"], &apply["buckets"]["0.025"]), (&json!(1), &json!(1)));
        assert!(!told.to_string().contains("other"), "{told}");
        assert!(told["metrics"].get("cloudsync_store_seconds").is_none());
    }
}
