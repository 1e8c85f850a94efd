//! The dashboard and the alert rules, run by a real Prometheus against a hub under traffic: every expression gives
//! series, and every metric of the hub is looked at by one of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::prometheus::Prometheus;
use tests::stage::{Setting, Stage};
use tests::wait;

/// Stands for what Grafana puts in: long enough for several scrapes.
const RATE_INTERVAL: &str = "15s";

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An expression with what it is for.
struct Expression {
    place: String,
    text: String,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("no text {name} in {value}"))
}

/// What the panels and the variables of the dashboard ask for one database and all nodes.
fn of_the_dashboard() -> Vec<Expression> {
    let dashboard: Value =
        serde_json::from_str(&read("grafana-dashboard.json")).expect("a dashboard in JSON");
    let mut found = Vec::new();
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = text(panel, "title");
        let targets = panel["targets"].as_array().expect(title);
        assert!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            let asked = text(target, "expr")
                .replace("$__rate_interval", RATE_INTERVAL)
                .replace("$database", "demo.*")
                .replace("$node", ".*");
            assert!(!asked.contains('$'), "{title} has a variable that this test does not know: {asked}");
            found.push(Expression { place: format!("panel {title}"), text: asked });
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        let name = text(variable, "name");
        let asked = variable["definition"].as_str().and_then(|asked| asked.strip_prefix("label_values("));
        let Some((metric, label)) = asked.and_then(|asked| asked.strip_suffix(')')?.split_once(", ")) else {
            assert_eq!(name, "datasource");
            continue;
        };
        found.push(Expression {
            place: format!("variable {name}"),
            text: format!("count by ({label}) ({metric})"),
        });
    }
    found
}

/// What the alert rules ask; each is compared with its bound by Grafana.
fn of_the_alerts() -> Vec<Expression> {
    let alerts: Value = serde_saphyr::from_str(&read("grafana-alerts.yml")).expect("alert rules in YAML");
    let mut found = Vec::new();
    for group in alerts["groups"].as_array().expect("groups") {
        for rule in group["rules"].as_array().expect("rules") {
            let title = text(rule, "title");
            let parts = rule["data"].as_array().expect(title);
            let asked = parts.iter().find(|part| text(part, "refId") == "A").expect(title);
            let bound = parts.iter().find(|part| part["refId"] == rule["condition"]).expect(title);
            let evaluator = &bound["model"]["conditions"][0]["evaluator"];
            assert!(evaluator["params"][0].is_number(), "{title} has no bound: {evaluator}");
            found.push(Expression {
                place: format!("alert {title}"),
                text: text(&asked["model"], "expr").to_owned(),
            });
        }
    }
    found
}

/// Makes a device send, wait, be refused and take a snapshot.
fn traffic(stage: &mut Stage) {
    stage.play(&[
        "pg: insert into todo (id, title) values ('p1', 'from Postgres')",
        "a: insert into todo (id, title) values ('a1', 'from a device')",
        "a: sync",
        "b: sync",
        "pg: alter table todo add constraint short check (length(title) < 100)",
        "b: insert into todo (id, title) values ('b1', printf('%200c', 'x'))",
        "b: sync",
    ]);
}

#[test]
fn every_expression_gives_series_and_every_metric_is_looked_at() {
    let mut stage = Stage::new(Setting::PLAIN);
    let prometheus = Prometheus::scraping(&stage.hub.base());
    traffic(&mut stage);
    // A rate takes two scrapes of each series; the last of the traffic may have begun one.
    wait::until("prometheus scraped what the traffic began", || {
        stage.play(&["a: sync"]);
        let twice =
            prometheus.query("count_over_time(cloudsync_rejected_rows_total{sqlstate=\"23514\"}[1m]) > 2");
        twice.ok().filter(|series| !series.is_empty())
    });
    let expressions: Vec<Expression> = of_the_dashboard().into_iter().chain(of_the_alerts()).collect();
    let empty: Vec<String> = expressions
        .iter()
        .filter_map(|Expression { place, text }| match prometheus.query(text) {
            Ok(series) if !series.is_empty() => None,
            Ok(_) => Some(format!("{place} finds nothing: {text}")),
            Err(error) => Some(format!("{place} fails: {text}: {error}")),
        })
        .collect();
    assert!(empty.is_empty(), "{}", empty.join("\n"));

    let names: BTreeSet<String> = stage
        .hub
        .get("/metrics")
        .body
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE cloudsync_")?.split_once(' ')?.0.to_owned()))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    let unseen: Vec<&String> = names
        .iter()
        .filter(|name| !expressions.iter().any(|expression| expression.text.contains(*name)))
        .collect();
    assert!(unseen.is_empty(), "no panel and no alert looks at {unseen:?}");
}
