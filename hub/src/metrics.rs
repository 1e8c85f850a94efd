//! What the hub counts and measures, in the text format of Prometheus.
//!
//! Owns every metric's name and labels, so that a label set stays small: databases come from the
//! configuration, everything else from the code. No metric holds a key, a row value or a secret.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::error::{Error, Result};
use crate::ground::Cause;
use crate::ingest::Skip;

/// Bounds of the latency histograms, in seconds: from a fast local write to the slowest answer still given.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

const SEGMENTS_WRITTEN: &str = "Segments written to the store.";
const LONG_POLLS: &str = "Downloads that wait for something new.";
const EPOCHS_OPENED: &str = "Epochs opened because the one before could not go on, by cause.";
const REPLAYED_ROWS: &str = "Rows of the store merged into Postgres again, by outcome.";
const FENCED: &str = "1 while this node is attached to a server that is not the centre.";

/// All metrics of one hub; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    uploads: IntCounterVec,
    rejected_rows: IntCounterVec,
    downloads: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_bytes: IntCounterVec,
    long_polls_open: IntGaugeVec,
    apply_seconds: HistogramVec,
    ingest_position_bytes: IntGaugeVec,
    ingest_lag_bytes: IntGaugeVec,
    segments_written: IntCounterVec,
    messages_skipped: IntCounterVec,
    epochs_opened: IntCounterVec,
    replayed_rows: IntCounterVec,
    fenced: IntGaugeVec,
    store: StoreMetrics,
}

/// The metrics of the object store.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    errors: IntCounterVec,
    seconds: HistogramVec,
}

/// The metrics of one database.
#[derive(Clone, Debug)]
pub struct DatabaseMetrics {
    name: String,
    uploads: IntCounterVec,
    downloads: IntCounterVec,
    messages_skipped: IntCounterVec,
    epochs_opened: IntCounterVec,
    replayed_rows: IntCounterVec,
    /// 1 while this node is attached to a server that is not the centre any more.
    pub fenced: IntGauge,
    /// Rows that Postgres refused, counted when first refused.
    pub rejected_rows: IntCounter,
    /// Bytes of upload bodies as received, compressed.
    pub received_bytes: IntCounter,
    /// Bytes of download bodies as sent, compressed.
    pub sent_bytes: IntCounter,
    /// Downloads that wait for something new.
    pub long_polls_open: IntGauge,
    /// Time that Postgres takes to apply an upload, in seconds.
    pub apply_seconds: Histogram,
    /// The commit end LSN up to which the store holds everything.
    pub ingest_position_bytes: IntGauge,
    /// WAL between that and the server's newest known LSN.
    pub ingest_lag_bytes: IntGauge,
    /// Segments that this node wrote.
    pub segments_written: IntCounter,
}

impl DatabaseMetrics {
    /// Counts one answered upload by its status, the word in the answer.
    pub fn count_upload(&self, status: &str) {
        self.uploads.with_label_values(&[self.name.as_str(), status]).inc();
    }

    /// Counts one answered download by its source: `log`, `snapshot`, `nothing` or an error's slug.
    pub fn count_download(&self, source: &str) {
        self.downloads.with_label_values(&[self.name.as_str(), source]).inc();
    }

    /// Counts one message in the WAL that was not taken, by the reason.
    pub fn count_message_skipped(&self, reason: &'static str) {
        self.messages_skipped.with_label_values(&[self.name.as_str(), reason]).inc();
    }

    /// Counts an epoch that was opened because the one before could not go on.
    pub fn count_epoch(&self, cause: &'static str) {
        self.epochs_opened.with_label_values(&[self.name.as_str(), cause]).inc();
    }

    /// Counts rows that were merged into Postgres again, and those that it refused.
    pub fn count_replayed(&self, changed: i64, refused: i64) {
        for (outcome, rows) in [("changed", changed), ("refused", refused)] {
            let counter = self.replayed_rows.with_label_values(&[self.name.as_str(), outcome]);
            counter.inc_by(u64::try_from(rows).unwrap_or(0));
        }
    }
}

impl StoreMetrics {
    fn make(make: &Maker<'_>) -> Result<StoreMetrics> {
        let labels: &[&str] = &["operation"];
        let made = StoreMetrics {
            errors: make.counter("cloudsync_store_errors_total", "Store operations that failed.", labels)?,
            seconds: make.histogram("cloudsync_store_seconds", "Time that store operations take.", labels)?,
        };
        for operation in ["get", "put", "list", "delete"] {
            made.errors.with_label_values(&[operation]);
            made.seconds.with_label_values(&[operation]);
        }
        Ok(made)
    }

    /// Notes one operation of the store: how long it took, and whether it failed.
    pub fn observe(&self, operation: &'static str, elapsed: Duration, failed: bool) {
        self.seconds.with_label_values(&[operation]).observe(elapsed.as_secs_f64());
        if failed {
            self.errors.with_label_values(&[operation]).inc();
        }
    }
}

/// Makes metrics and puts them into one registry.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        let made = IntCounterVec::new(Opts::new(name, help), labels).map_err(Error::Metrics)?;
        self.0.register(Box::new(made.clone())).map_err(Error::Metrics)?;
        Ok(made)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        let made = IntGaugeVec::new(Opts::new(name, help), labels).map_err(Error::Metrics)?;
        self.0.register(Box::new(made.clone())).map_err(Error::Metrics)?;
        Ok(made)
    }

    fn histogram(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec> {
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)
            .map_err(Error::Metrics)?;
        self.0.register(Box::new(made.clone())).map_err(Error::Metrics)?;
        Ok(made)
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
        let database: &[&str] = &["database"];
        Ok(Metrics {
            uploads: make.counter(
                "cloudsync_uploads_total",
                "Uploads answered, by status.",
                &["database", "status"],
            )?,
            rejected_rows: make.counter(
                "cloudsync_rejected_rows_total",
                "Rows of uploads that Postgres refused.",
                database,
            )?,
            downloads: make.counter(
                "cloudsync_downloads_total",
                "Downloads answered, by source.",
                &["database", "source"],
            )?,
            received_bytes: make.counter(
                "cloudsync_received_bytes_total",
                "Bytes of upload bodies received.",
                database,
            )?,
            sent_bytes: make.counter(
                "cloudsync_sent_bytes_total",
                "Bytes of download bodies sent.",
                database,
            )?,
            long_polls_open: make.gauge("cloudsync_long_polls_open", LONG_POLLS, database)?,
            apply_seconds: make.histogram(
                "cloudsync_apply_seconds",
                "Time that Postgres takes to apply an upload.",
                database,
            )?,
            ingest_position_bytes: make.gauge(
                "cloudsync_ingest_position_bytes",
                "Commit end LSN up to which the store holds everything.",
                database,
            )?,
            ingest_lag_bytes: make.gauge(
                "cloudsync_ingest_lag_bytes",
                "WAL between the stored position and the newest LSN known.",
                database,
            )?,
            segments_written: make.counter("cloudsync_segments_written_total", SEGMENTS_WRITTEN, database)?,
            messages_skipped: make.counter(
                "cloudsync_messages_skipped_total",
                "Messages in the WAL that were not taken, by reason.",
                &["database", "reason"],
            )?,
            epochs_opened: make.counter(
                "cloudsync_epochs_opened_total",
                EPOCHS_OPENED,
                &["database", "cause"],
            )?,
            replayed_rows: make.counter(
                "cloudsync_replayed_rows_total",
                REPLAYED_ROWS,
                &["database", "outcome"],
            )?,
            fenced: make.gauge("cloudsync_fenced", FENCED, database)?,
            store: StoreMetrics::make(&make)?,
            registry,
        })
    }

    /// The metrics of one database, named as in the configuration.
    #[must_use]
    pub fn database(&self, name: &str) -> DatabaseMetrics {
        let label = [name];
        // What is sure to come up is there from the start: a rate over a series that is missing is no rate.
        for status in ["applied", "duplicate"] {
            self.uploads.with_label_values(&[name, status]);
        }
        for source in ["log", "snapshot", "nothing"] {
            self.downloads.with_label_values(&[name, source]);
        }
        for skip in Skip::ALL {
            self.messages_skipped.with_label_values(&[name, skip.reason()]);
        }
        for cause in Cause::LABELS {
            self.epochs_opened.with_label_values(&[name, cause]);
        }
        for outcome in ["changed", "refused"] {
            self.replayed_rows.with_label_values(&[name, outcome]);
        }
        DatabaseMetrics {
            name: name.to_owned(),
            uploads: self.uploads.clone(),
            downloads: self.downloads.clone(),
            messages_skipped: self.messages_skipped.clone(),
            epochs_opened: self.epochs_opened.clone(),
            replayed_rows: self.replayed_rows.clone(),
            fenced: self.fenced.with_label_values(&label),
            rejected_rows: self.rejected_rows.with_label_values(&label),
            received_bytes: self.received_bytes.with_label_values(&label),
            sent_bytes: self.sent_bytes.with_label_values(&label),
            long_polls_open: self.long_polls_open.with_label_values(&label),
            apply_seconds: self.apply_seconds.with_label_values(&label),
            ingest_position_bytes: self.ingest_position_bytes.with_label_values(&label),
            ingest_lag_bytes: self.ingest_lag_bytes.with_label_values(&label),
            segments_written: self.segments_written.with_label_values(&label),
        }
    }

    /// The metrics of the object store.
    #[must_use]
    pub fn store(&self) -> StoreMetrics {
        self.store.clone()
    }

    /// Every metric in the text format of Prometheus.
    pub fn render(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(Error::Metrics)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_a_database_is_there_before_it_counts() {
        let metrics = Metrics::new().unwrap();
        let demo = metrics.database("demo");
        demo.count_upload("applied");
        demo.count_download("log");
        demo.count_message_skipped("mac");
        metrics.store().observe("put", Duration::from_millis(3), true);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "cloudsync_uploads_total{database=\"demo\",status=\"applied\"} 1",
            "cloudsync_rejected_rows_total{database=\"demo\"} 0",
            "cloudsync_downloads_total{database=\"demo\",source=\"log\"} 1",
            "cloudsync_received_bytes_total{database=\"demo\"} 0",
            "cloudsync_sent_bytes_total{database=\"demo\"} 0",
            "cloudsync_long_polls_open{database=\"demo\"} 0",
            "cloudsync_apply_seconds_count{database=\"demo\"} 0",
            "cloudsync_ingest_position_bytes{database=\"demo\"} 0",
            "cloudsync_ingest_lag_bytes{database=\"demo\"} 0",
            "cloudsync_segments_written_total{database=\"demo\"} 0",
            "cloudsync_messages_skipped_total{database=\"demo\",reason=\"mac\"} 1",
            "cloudsync_epochs_opened_total{cause=\"slot_missing\",database=\"demo\"} 0",
            "cloudsync_replayed_rows_total{database=\"demo\",outcome=\"changed\"} 0",
            "cloudsync_fenced{database=\"demo\"} 0",
            "cloudsync_store_errors_total{operation=\"put\"} 1",
            "cloudsync_store_seconds_count{operation=\"put\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
