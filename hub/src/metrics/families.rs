//! The families of metrics: every name, what it means and its labels.

use std::time::Duration;

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::error::{Error, Result};
use crate::ground::Cause;
use crate::ingest::Skip;
use crate::limits::Limit;

/// Bounds of the latency histograms, in seconds: from a fast local write to the slowest answer still given.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The label of everything that is of one database.
const DATABASE: &[&str] = &["database"];

/// Makes metrics and puts them into one registry.
pub(super) struct Maker<'a>(pub(super) &'a Registry);

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

    fn float_gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        let made = GaugeVec::new(Opts::new(name, help), labels).map_err(Error::Metrics)?;
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

/// What clients ask and get.
#[derive(Clone, Debug)]
pub(super) struct ClientFamilies {
    pub(super) uploads: IntCounterVec,
    pub(super) downloads: IntCounterVec,
    pub(super) rejected_rows: IntCounterVec,
    pub(super) received_rows: IntCounterVec,
    pub(super) received_bytes: IntCounterVec,
    pub(super) sent_bytes: IntCounterVec,
    pub(super) sent_rows: IntCounterVec,
    pub(super) limited: IntCounterVec,
    pub(super) in_flight_bytes: IntGaugeVec,
    pub(super) long_polls_open: IntGaugeVec,
    pub(super) apply_seconds: HistogramVec,
    pub(super) devices_connected: IntGaugeVec,
    pub(super) devices_active: IntGaugeVec,
}

impl ClientFamilies {
    pub(super) fn make(make: &Maker<'_>) -> Result<ClientFamilies> {
        let counter = |name, help| make.counter(name, help, DATABASE);
        let counter_by = |name, help, label| make.counter(name, help, &["database", label]);
        let gauge = |name, help| make.gauge(name, help, DATABASE);
        let histogram = |name, help| make.histogram(name, help, DATABASE);
        Ok(ClientFamilies {
            uploads: counter_by("cloudsync_uploads_total", "Uploads answered, by status.", "status")?,
            downloads: counter_by("cloudsync_downloads_total", "Downloads answered, by source.", "source")?,
            rejected_rows: counter_by(
                "cloudsync_rejected_rows_total",
                "Rows of uploads that the database refused, by SQLSTATE, counted when first refused.",
                "sqlstate",
            )?,
            received_rows: counter("cloudsync_received_rows_total", "Rows in uploads.")?,
            received_bytes: counter("cloudsync_received_bytes_total", "Bytes of upload bodies received.")?,
            sent_bytes: counter("cloudsync_sent_bytes_total", "Bytes of download bodies sent.")?,
            sent_rows: counter(
                "cloudsync_sent_rows_total",
                "Rows in downloads, also deletions, rows to forget, and parts that clients are sent to the store for.",
            )?,
            limited: counter_by(
                "cloudsync_limited_total",
                "Requests refused by a limit of the database.",
                "limit",
            )?,
            in_flight_bytes: gauge(
                "cloudsync_in_flight_bytes",
                "Bytes of uploads and downloads that are on their way.",
            )?,
            long_polls_open: gauge("cloudsync_long_polls_open", "Downloads that wait for something new.")?,
            apply_seconds: histogram(
                "cloudsync_apply_seconds",
                "Time that the database takes to apply an upload.",
            )?,
            devices_connected: gauge(
                "cloudsync_devices_connected",
                "Sites with a request under way on this node.",
            )?,
            devices_active: gauge(
                "cloudsync_devices_active",
                "Sites that this node heard of within the last five minutes.",
            )?,
        })
    }

    /// Begins what is sure to come up for a database: a rate over a series that is missing is no rate.
    pub(super) fn begin(&self, name: &str) {
        for status in ["applied", "duplicate"] {
            self.uploads.with_label_values(&[name, status]);
        }
        for source in ["log", "snapshot", "nothing"] {
            self.downloads.with_label_values(&[name, source]);
        }
        for limit in Limit::ALL {
            self.limited.with_label_values(&[name, limit.word()]);
        }
        // The SQLSTATEs that a policy, a constraint and a wrong text raise.
        for state in ["42501", "23505", "23503", "23514", "23502", "22P02"] {
            self.rejected_rows.with_label_values(&[name, state]);
        }
    }
}

/// The connections of clients with this node.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    /// Those that are open.
    pub open: IntGauge,
    /// Those that there was no room for.
    pub refused: IntCounter,
}

impl EdgeMetrics {
    pub(super) fn make(make: &Maker<'_>) -> Result<EdgeMetrics> {
        let open = make.gauge("cloudsync_connections_open", "Connections of clients.", &[])?;
        let refused = make.counter(
            "cloudsync_connections_refused_total",
            "Connections of clients that there was no room for.",
            &[],
        )?;
        Ok(EdgeMetrics {
            open: open.with_label_values::<&str>(&[]),
            refused: refused.with_label_values::<&str>(&[]),
        })
    }
}

/// Who was not let in, and the keys of tokens.
#[derive(Clone, Debug)]
pub(super) struct AuthFamilies {
    pub(super) failures: IntCounterVec,
    pub(super) key_set_fetches: IntCounterVec,
}

impl AuthFamilies {
    pub(super) fn make(make: &Maker<'_>) -> Result<AuthFamilies> {
        Ok(AuthFamilies {
            failures: make.counter(
                "cloudsync_auth_failures_total",
                "Requests that were not let in, by reason; the database is empty where it is unknown.",
                &["database", "reason"],
            )?,
            key_set_fetches: make.counter(
                "cloudsync_key_set_fetches_total",
                "Questions for the published keys of tokens, by outcome.",
                &["database", "outcome"],
            )?,
        })
    }

    /// Begins what is sure to come up for a database.
    pub(super) fn begin(&self, name: &str) {
        for reason in ["header", "credential", "expired", "claim", "role", "limit"] {
            self.failures.with_label_values(&[name, reason]);
        }
        for outcome in ["answered", "failed"] {
            self.key_set_fetches.with_label_values(&[name, outcome]);
        }
    }
}

/// What is done beside requests.
#[derive(Clone, Debug)]
pub(super) struct JobFamilies {
    pub(super) jobs: IntGaugeVec,
    pub(super) jobs_ended: IntCounterVec,
    pub(super) inbox_entries: IntGaugeVec,
}

impl JobFamilies {
    pub(super) fn make(make: &Maker<'_>) -> Result<JobFamilies> {
        Ok(JobFamilies {
            jobs: make.gauge("cloudsync_jobs", "Jobs in the queue, by state.", &["database", "state"])?,
            jobs_ended: make.counter(
                "cloudsync_jobs_ended_total",
                "Jobs that this node did, by kind and outcome.",
                &["database", "kind", "outcome"],
            )?,
            inbox_entries: make.gauge(
                "cloudsync_inbox_entries",
                "Uploads that wait in the store for the database.",
                DATABASE,
            )?,
        })
    }

    /// Begins what is sure to come up for a database.
    pub(super) fn begin(&self, name: &str) {
        for state in ["waiting", "running", "dead"] {
            self.jobs.with_label_values(&[name, state]);
        }
    }
}

/// What becomes of the log of a database.
#[derive(Clone, Debug)]
pub(super) struct LogFamilies {
    pub(super) ingested_rows: IntCounterVec,
    pub(super) ingest_seconds: HistogramVec,
    pub(super) ingest_position_bytes: IntGaugeVec,
    pub(super) ingest_lag_bytes: IntGaugeVec,
    pub(super) ingest_lag_seconds: GaugeVec,
    pub(super) slot_retained_bytes: IntGaugeVec,
    pub(super) standby_held_bytes: IntGaugeVec,
    pub(super) segments_written: IntCounterVec,
    pub(super) messages_skipped: IntCounterVec,
    pub(super) epochs_opened: IntCounterVec,
    pub(super) replayed_rows: IntCounterVec,
    pub(super) fenced: IntGaugeVec,
    pub(super) stored_objects: IntGaugeVec,
    pub(super) stored_bytes: IntGaugeVec,
    pub(super) log_memory_bytes: IntGaugeVec,
}

impl LogFamilies {
    pub(super) fn make(make: &Maker<'_>) -> Result<LogFamilies> {
        let counter = |name, help| make.counter(name, help, DATABASE);
        let counter_by = |name, help, label| make.counter(name, help, &["database", label]);
        let gauge = |name, help| make.gauge(name, help, DATABASE);
        Ok(LogFamilies {
            ingested_rows: counter("cloudsync_ingested_rows_total", "Rows of the log that were decoded.")?,
            ingest_seconds: make.histogram(
                "cloudsync_ingest_seconds",
                "Time from a commit until clients can have it.",
                DATABASE,
            )?,
            ingest_position_bytes: gauge(
                "cloudsync_ingest_position_bytes",
                "Commit end LSN up to which the store holds everything.",
            )?,
            ingest_lag_bytes: gauge(
                "cloudsync_ingest_lag_bytes",
                "WAL between the stored position and the newest LSN known.",
            )?,
            ingest_lag_seconds: make.float_gauge(
                "cloudsync_ingest_lag_seconds",
                "Age of the oldest commit that the store lacks, or of the loss of the database.",
                DATABASE,
            )?,
            slot_retained_bytes: gauge(
                "cloudsync_slot_retained_bytes",
                "WAL that Postgres keeps for the slot of the leader.",
            )?,
            standby_held_bytes: gauge(
                "cloudsync_standby_held_bytes",
                "Changes that clients do not get yet, because synchronous standbys lack them.",
            )?,
            segments_written: counter("cloudsync_segments_written_total", "Segments written to the store.")?,
            messages_skipped: counter_by(
                "cloudsync_messages_skipped_total",
                "Messages in the WAL that were not taken, by reason.",
                "reason",
            )?,
            epochs_opened: counter_by(
                "cloudsync_epochs_opened_total",
                "Epochs opened because the one before could not go on, by cause.",
                "cause",
            )?,
            replayed_rows: counter_by(
                "cloudsync_replayed_rows_total",
                "Rows of the store merged into the database again, by outcome.",
                "outcome",
            )?,
            stored_objects: make.gauge(
                "cloudsync_stored_objects",
                "Segments and snapshots in the store, as the leader counts them, by kind.",
                &["database", "kind"],
            )?,
            stored_bytes: make.gauge(
                "cloudsync_stored_bytes",
                "Bytes of segments and snapshots in the store, as the leader counts them, by kind.",
                &["database", "kind"],
            )?,
            fenced: gauge(
                "cloudsync_fenced",
                "1 while this node is attached to a server that is not the centre.",
            )?,
            log_memory_bytes: gauge("cloudsync_log_memory_bytes", "Bytes of the log that are in memory.")?,
        })
    }

    /// Begins what is sure to come up for a database.
    pub(super) fn begin(&self, name: &str) {
        for skip in Skip::ALL {
            self.messages_skipped.with_label_values(&[name, skip.reason()]);
        }
        for cause in Cause::LABELS {
            self.epochs_opened.with_label_values(&[name, cause]);
        }
        for outcome in ["changed", "refused"] {
            self.replayed_rows.with_label_values(&[name, outcome]);
        }
    }
}

/// The metrics of the object store.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    errors: IntCounterVec,
    seconds: HistogramVec,
    cache_reads: IntCounterVec,
    cache_bytes: IntGauge,
}

impl StoreMetrics {
    pub(super) fn make(make: &Maker<'_>) -> Result<StoreMetrics> {
        let labels: &[&str] = &["operation"];
        let made = StoreMetrics {
            errors: make.counter("cloudsync_store_errors_total", "Store operations that failed.", labels)?,
            seconds: make.histogram("cloudsync_store_seconds", "Time that store operations take.", labels)?,
            cache_reads: make.counter(
                "cloudsync_read_cache_total",
                "Objects asked for, by whether they were kept from an earlier read.",
                &["outcome"],
            )?,
            cache_bytes: make
                .gauge("cloudsync_read_cache_bytes", "Bytes kept of objects that were read.", &[])?
                .with_label_values::<&str>(&[]),
        };
        for outcome in ["hit", "miss"] {
            made.cache_reads.with_label_values(&[outcome]);
        }
        for operation in ["get", "put", "list", "delete"] {
            made.errors.with_label_values(&[operation]);
            made.seconds.with_label_values(&[operation]);
        }
        Ok(made)
    }

    /// Notes that an object was asked for: whether it had to be read, and how many bytes are kept now.
    pub fn note_read(&self, is_read: bool, kept_bytes: usize) {
        self.cache_reads.with_label_values(&[if is_read { "miss" } else { "hit" }]).inc();
        self.cache_bytes.set(i64::try_from(kept_bytes).unwrap_or(i64::MAX));
    }

    /// Notes one operation of the store: how long it took, and whether it failed.
    pub fn observe(&self, operation: &'static str, elapsed: Duration, failed: bool) {
        self.seconds.with_label_values(&[operation]).observe(elapsed.as_secs_f64());
        if failed {
            self.errors.with_label_values(&[operation]).inc();
        }
    }
}
