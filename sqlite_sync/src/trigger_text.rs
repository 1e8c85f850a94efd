//! Reads the text of capture triggers as SQLite keeps it. SQLite rewrites it when a column or a table is
//! renamed, which is how a renaming is seen by whoever comes later.

use crate::tracked_table::{FILTER_BEGIN, FILTER_END, FILTER_MIDDLE};

/// Whether two texts differ in quoted identifiers only, filters aside: those are in the user's own words.
pub(crate) fn is_renamed(before: &str, after: &str) -> bool {
    skeleton(&without_filters(before)) == skeleton(&without_filters(after))
}

/// The filter that a text asks.
pub(crate) fn filter_of(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(FILTER_BEGIN)?;
    let (condition, _) = rest.split_once(FILTER_END)?;
    condition.split_once(FILTER_MIDDLE).map(|(_key, filter)| filter)
}

fn without_filters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(FILTER_BEGIN) {
        out.push_str(before);
        rest = after.split_once(FILTER_END).map_or("", |(_filter, after)| after);
    }
    out.push_str(rest);
    out
}

/// Columns that have another name in the second text, with that name. The texts differ in names only.
pub(crate) fn renamed_columns(before: &str, after: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let (before, after) = (without_filters(before), without_filters(after));
    for (old, new) in column_names(&before).into_iter().zip(column_names(&after)) {
        if old != new && !pairs.iter().any(|(known, _)| *known == old) {
            pairs.push((old, new));
        }
    }
    pairs
}

fn skeleton(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (around, _name) in Identifiers(text) {
        out.push_str(around);
        out.push('"');
    }
    out
}

/// Names after `NEW.` and `OLD.`, and those in the list after `update of`.
fn column_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_listed = false;
    for (around, name) in Identifiers(text) {
        let before = around.trim_end();
        is_listed = before.ends_with("update of") || (is_listed && before == ",");
        let is_column = is_listed || before.ends_with("NEW.") || before.ends_with("OLD.");
        names.extend(name.filter(|_| is_column));
    }
    names
}

/// Pairs of the text before a quoted identifier and that identifier; the last has none.
struct Identifiers<'t>(&'t str);

impl<'t> Iterator for Identifiers<'t> {
    type Item = (&'t str, Option<String>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((around, mut rest)) = self.0.split_once('"') else {
            return Some((std::mem::take(&mut self.0), None));
        };
        let mut name = String::new();
        while let Some((part, after)) = rest.split_once('"') {
            name.push_str(part);
            rest = after;
            match after.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => break,
            }
        }
        self.0 = rest;
        Some((around, Some(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "t after update of \"a\", \"b\" on \"a\" when OLD.\"a\" is not NEW.\"a\" begin end";

    fn check(after: &str, expected: &[(&str, &str)]) {
        assert!(is_renamed(BEFORE, after), "{after}");
        let found = renamed_columns(BEFORE, after);
        let found: Vec<(&str, &str)> = found.iter().map(|(old, new)| (old.as_str(), new.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_renamed_column_is_told_from_a_renamed_table() {
        check(BEFORE, &[]);
        check(&BEFORE.replace("on \"a\"", "on \"c\""), &[]);
        check(&BEFORE.replace("\"b\"", "\"x\"\"y, z\""), &[("b", "x\"y, z")]);
        check(
            "t after update of \"b\", \"a\" on \"a\" when OLD.\"b\" is not NEW.\"b\" begin end",
            &[("a", "b"), ("b", "a")],
        );
    }

    #[test]
    fn another_text_is_no_renaming() {
        assert!(!is_renamed(BEFORE, &BEFORE.replace("update of \"a\",", "update of")));
        assert!(!is_renamed(BEFORE, &BEFORE.replace("is not", "is")));
    }
}
