//! The description of the requests, the page about them, and what the hub does: all three agree.

use std::collections::BTreeSet;

use crate::support::Hub;
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/rest-api.md");

/// Method and path of every request that the document describes, with the description.
fn described(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("the document has paths");
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().expect("a path has methods").clone();
        let path = path.clone();
        methods.into_iter().map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
    };
    paths.iter().flat_map(of_path).collect()
}

fn document() -> Value {
    serde_json::from_str(&hub::cli::openapi()).expect("the document is JSON")
}

#[test]
fn the_page_names_every_request_and_no_other() {
    let described: BTreeSet<String> =
        described(&document()).into_iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let named: BTreeSet<String> =
        rows.map(|(request, _)| request.to_owned()).filter(|request| request.contains(" /")).collect();
    assert_eq!(named, described);
}

#[test]
fn the_page_names_every_problem_with_its_status() {
    let rows: BTreeSet<(String, String)> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(code, rest)| Some((code.to_owned(), rest.split_once(" | ")?.0.to_owned())))
        .collect();
    let known = hub::http::problem::ProblemKind::ALL;
    let known = known.iter().map(|kind| (kind.slug().to_owned(), kind.status().as_u16().to_string()));
    assert_eq!(rows, known.collect());
}

#[test]
fn the_hub_serves_the_document_and_answers_every_request_in_it() {
    let hub = Hub::start();
    let served = hub.get("/openapi.json", &[]);
    assert_eq!(served.json(), document());
    for (method, path, operation) in described(&document()) {
        let path = path.replace("{database}", "demo").replace("{key}", "0123456789abcdef");
        // A method that no path takes: whoever answers it as such knows the path.
        let other = hub.ask("PATCH", &path, &[], b"");
        assert_eq!(other.status, 405, "{path}: {other:?}");
        let allowed = other.header("allow").unwrap_or_default().to_owned();
        assert!(allowed.split(", ").any(|allowed| allowed == method), "{method} {path}: {allowed}");
        let answer = hub.ask(&method, &path, &[], b"");
        assert_ne!(answer.status, 405, "{method} {path}");
        let ways = operation["security"].as_array().expect("an operation says who is let in");
        // An empty way in lets everybody in.
        let needs_key = !ways.is_empty() && ways.iter().all(|way| way != &serde_json::json!({}));
        assert_eq!(answer.status == 401, needs_key, "{method} {path}: {answer:?}");
        let described = operation["responses"].as_object().expect("an operation has answers");
        assert!(described.contains_key(&answer.status.to_string()), "{method} {path}: {answer:?}");
    }
}
