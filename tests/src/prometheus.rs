//! A real Prometheus that scrapes a hub.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::places;
use crate::process::{Launch, Process, Signal, new_log};
use crate::wait;

/// A Prometheus server of its own; it ends when dropped.
#[derive(Debug)]
pub struct Prometheus {
    base: String,
    _process: Process,
    _home: TempDir,
}

impl Prometheus {
    /// Starts a server that scrapes the metrics of a hub every second, as the job `cloudsync`.
    pub fn scraping(hub: &str) -> Self {
        let home = places::scratch("prometheus");
        let configuration = home.path().join("prometheus.yml");
        let target = hub.trim_start_matches("http://");
        let text = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: cloudsync\n    static_configs:\n      \
             - targets: ['{target}']\n"
        );
        fs::write(&configuration, text).expect("a configuration can be written");
        let port = places::free_port();
        let log = home.path().join("log");
        new_log(&log);
        let command = vec![
            "prometheus".into(),
            format!("--config.file={}", configuration.display()).into(),
            format!("--storage.tsdb.path={}", home.path().join("data").display()).into(),
            format!("--web.listen-address=127.0.0.1:{port}").into(),
        ];
        let process = Process::start(Launch {
            command,
            environment: Vec::new(),
            log: &log,
            stop: Signal::Kill,
            directory: Some(home.path()),
        });
        let base = format!("http://127.0.0.1:{port}");
        wait::until("prometheus is ready", || {
            assert!(process.is_running(), "prometheus ended at once:\n{}", process.log_tail(20));
            ureq::get(format!("{base}/-/ready")).call().ok()
        });
        Self { base, _process: process, _home: home }
    }

    /// Evaluates an expression now; gives its series, or what is wrong with it.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let answer = agent.get(format!("{}/api/v1/query", self.base)).query("query", expression).call();
        let text = answer.and_then(|mut answer| answer.body_mut().read_to_string());
        let text = text.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match answer.pointer("/data/result") {
            Some(Value::Array(series)) => Ok(series.clone()),
            Some(_) | None => Err(text),
        }
    }
}
