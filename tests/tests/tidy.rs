//! The rules of the house that a tool can check: where arrows point, how long files are, what stands in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tests::places;

/// Longest file: one idea a file.
const LINES_MAX: usize = 800;

/// Returns the files under version control or about to be, relative to the workspace.
fn files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(places::workspace())
        .output()
        .expect("git can be started");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).expect("names are UTF-8");
    let files: Vec<PathBuf> =
        listing.lines().map(PathBuf::from).filter(|path| places::workspace().join(path).exists()).collect();
    assert!(files.len() > 10, "git lists the files of the workspace");
    files
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

fn is_generated(path: &Path) -> bool {
    path.ends_with("payload/generated.rs") || path.ends_with("Cargo.lock")
}

/// Seeds of the fuzzers are bytes of any kind.
fn is_seed(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "corpus")
}

/// Returns the files that people write, with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let files = files().into_iter().filter(|path| !is_generated(path) && !is_seed(path));
    let read = |path: &PathBuf| fs::read_to_string(places::workspace().join(path)).expect("files are UTF-8");
    files.map(|path| (path.clone(), read(&path))).collect()
}

/// Fails with every complaint that `complain` has about the files.
fn check(complain: impl Fn(&Path, &str) -> Vec<String>) {
    let complaints: Vec<String> = sources()
        .iter()
        .flat_map(|(path, text)| {
            complain(path, text).into_iter().map(|complaint| format!("{}: {complaint}", path.display()))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Complains about each line that contains one of the words.
fn lines_with(text: &str, words: &[&str]) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(number, line)| {
            let word = words.iter().find(|word| line.contains(**word))?;
            Some(format!("line {}: {word}", number + 1))
        })
        .collect()
}

#[test]
fn every_file_is_short_enough() {
    check(|path, text| {
        let lines = text.lines().count();
        // A released install script is one file, kept as it was.
        let free =
            path.ends_with("LICENSE") || path.parent().is_some_and(|folder| folder.ends_with("released"));
        (lines > LINES_MAX && !free)
            .then(|| format!("{lines} lines, limit is {LINES_MAX}"))
            .into_iter()
            .collect()
    });
}

#[test]
fn every_source_file_says_what_it_owns() {
    check(|path, text| {
        let opens_well = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => text.starts_with("//! "),
            Some("sql") => text.starts_with("-- "),
            _ => true,
        };
        (!opens_well).then(|| "does not open with what it owns".to_owned()).into_iter().collect()
    });
}

#[test]
fn nothing_is_left_to_do_in_the_code() {
    // Put together here, so that this file does not contain them.
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    let attributes = ["ignore", "should_panic"].map(|word| format!("#[{word}"));
    let words: Vec<&str> = words.iter().chain(&attributes).map(String::as_str).collect();
    check(|path, text| if has_extension(path, "rs") { lines_with(text, &words) } else { Vec::new() });
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    let homes = ["home", "root", "Users"].map(|dir| format!("/{dir}/"));
    let work = format!("/{}/", "work");
    let registry = format!("index.{}", "crates.io");
    let words: Vec<&str> = homes.iter().chain([&work, &registry]).map(String::as_str).collect();
    check(|_path, text| {
        lines_with(text, &words).into_iter().filter(|complaint| !complaint.contains("/v1/")).collect()
    });
}

#[test]
fn functions_of_postgres_pin_their_search_path() {
    // Functions in C qualify the names in their own statements; the caller's triggers may run inside them.
    let pins = |function: &str| {
        let in_c = function.contains("language c ") && !function.contains("security definer");
        in_c || function.contains("set search_path = pg_catalog, pg_temp")
    };
    check(|path, text| {
        if !path.starts_with("sql/postgres") {
            return Vec::new();
        }
        let statements = text.split("\ncreate ").skip(1);
        let functions = statements.filter_map(|statement| {
            let statement = statement.strip_prefix("or replace ").unwrap_or(statement);
            statement.strip_prefix("function ").or_else(|| statement.strip_prefix("procedure "))
        });
        let loose = functions.filter(|function| !pins(function));
        loose
            .map(|function| format!("no search_path: {}", function.lines().next().unwrap_or_default()))
            .collect()
    });
}

/// The modules that ARCHITECTURE.md allows `unsafe` in.
fn unsafe_allowed() -> Vec<String> {
    let text =
        fs::read_to_string(places::workspace().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let section = text.split("## Unsafe code").nth(1).expect("it has a section `Unsafe code`");
    let section = section.split("\n## ").next().unwrap_or_default();
    let listed: Vec<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert!(!listed.is_empty(), "ARCHITECTURE.md lists modules as `- `path`: why`");
    listed
}

#[test]
fn unsafe_code_stands_only_where_the_architecture_lists_it() {
    let allowed = unsafe_allowed();
    let word = format!("{}_code", "unsafe");
    let allow = [format!("allow({word}"), format!("expect({word}")];
    for (path, text) in sources() {
        let is_allowed = allowed.iter().any(|listed| path.starts_with(listed) || path == Path::new(listed));
        let permits = has_extension(&path, "rs") && allow.iter().any(|attribute| text.contains(attribute));
        assert!(!permits || is_allowed, "{}: allows unsafe code but is not listed", path.display());
    }
    for listed in &allowed {
        assert!(
            places::workspace().join(listed).exists(),
            "ARCHITECTURE.md lists {listed}, which is not there"
        );
    }
}

/// Returns, for each of our crates, the names of those of our crates that its code or its build needs.
fn arrows() -> Vec<(String, Vec<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(places::workspace())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let name = |value: &Value| value["name"].as_str().expect("a package has a name").to_owned();
    let ours: Vec<String> = packages.iter().map(name).collect();
    let needs = |package: &Value| {
        let all = package["dependencies"].as_array().expect("a package has a list of dependencies");
        all.iter().map(name).filter(|needed| ours.contains(needed)).collect()
    };
    packages.iter().map(|package| (name(package), needs(package))).collect()
}

#[test]
fn arrows_between_crates_point_down_only() {
    let allowed: &[(&str, &[&str])] = &[
        ("shared-format", &[]),
        ("generate", &[]),
        ("schema-mapping", &["shared-format"]),
        ("pg_sync", &["schema-mapping", "shared-format"]),
        ("sqlite_sync", &["schema-mapping", "shared-format"]),
        ("hub", &["schema-mapping", "shared-format"]),
        ("tests", &["shared-format", "schema-mapping", "pg_sync", "sqlite_sync", "hub"]),
        ("bench", &["tests", "shared-format", "schema-mapping", "pg_sync", "sqlite_sync", "hub"]),
    ];
    let arrows = arrows();
    assert_eq!(arrows.len(), allowed.len(), "a crate was added or removed: say here what it may use");
    for (package, needs) in arrows {
        let may = allowed.iter().find(|(name, _)| *name == package).map(|(_, may)| *may);
        let may = may.unwrap_or_else(|| panic!("{package}: say here what it may use"));
        for needed in needs {
            assert!(may.contains(&needed.as_str()), "{package} uses {needed}, an arrow that must not be");
        }
    }
}

#[test]
fn the_pure_crates_need_no_standard_library() {
    for package in ["shared-format", "schema-mapping"] {
        let root = places::workspace().join(package).join("src/lib.rs");
        let text = fs::read_to_string(root).expect("the crate has a root");
        assert!(text.contains("#![no_std]"), "{package} is pure");
    }
}

#[test]
fn the_generated_payload_code_is_of_the_schema_that_is_there() {
    let crate_dir = places::workspace().join("shared-format");
    let schema = fs::read(crate_dir.join("schema/payload.fbs")).expect("the schema can be read");
    let hash: String = Sha256::digest(schema).iter().map(|byte| format!("{byte:02x}")).collect();
    let code = fs::read_to_string(crate_dir.join("src/payload/generated.rs")).expect("the code can be read");
    let stamped = code.lines().find_map(|line| line.strip_prefix("// payload.fbs sha256: "));
    assert_eq!(stamped, Some(hash.as_str()), "payload.fbs was changed: run `make generate`");
}
