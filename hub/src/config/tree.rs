//! The tree of a TOML file, read with the path to every value.
//!
//! Errors tell the kind of what was found, never its text: any value may be a secret in the wrong place.

use toml::{Table, Value};

use super::{Sourced, wrong};
use crate::error::{Error, Result};

/// One value of the file with the path to it; an owned root or a part of one.
pub(super) struct Node<'a> {
    path: String,
    value: std::borrow::Cow<'a, Value>,
}

/// The kind of a value in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

impl Node<'static> {
    /// Reads the text of a whole file.
    pub(super) fn parse(text: &str) -> Result<Node<'static>> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count().saturating_add(1);
            Error::ConfigSyntax { line, reason: error.message().to_owned() }
        })?;
        Ok(Node { path: String::new(), value: std::borrow::Cow::Owned(Value::Table(table)) })
    }

    /// Reads settings that are kept as JSON.
    pub(super) fn of_json(path: &str, settings: serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let table = Value::try_from(settings).map_err(|_null| {
            wrong(path, "a value that TOML does not have", "texts, numbers, lists, tables")
        })?;
        Ok(Node { path: path.to_owned(), value: std::borrow::Cow::Owned(table) })
    }
}

impl Node<'_> {
    /// The path of a key in this table.
    pub(super) fn place(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn table(&self) -> Result<&Table> {
        self.value.as_table().ok_or_else(|| wrong(&self.path, kind(&self.value), "a table"))
    }

    /// Refuses keys that nobody reads.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        match self.table()?.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(wrong(&self.place(key), "an unknown key", known.join(", "))),
            None => Ok(()),
        }
    }

    /// The text under a key, if the key is there.
    pub(super) fn optional_text(&self, key: &str) -> Result<Option<Sourced>> {
        match self.table()?.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(Sourced { key: self.place(key), text: text.clone() })),
            Some(other) => Err(wrong(&self.place(key), kind(other), "a text")),
        }
    }

    /// The whole number under a key as text, if the key is there.
    pub(super) fn optional_number(&self, key: &str) -> Result<Option<Sourced>> {
        match self.table()?.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => {
                Ok(Some(Sourced { key: self.place(key), text: number.to_string() }))
            }
            Some(other) => Err(wrong(&self.place(key), kind(other), "a number")),
        }
    }

    /// The text under a key that must be there.
    pub(super) fn text(&self, key: &str) -> Result<Sourced> {
        self.optional_text(key)?.ok_or_else(|| wrong(&self.place(key), "nothing", "a text"))
    }

    /// The number of things under a key, if the key is there; none at all is no number here.
    pub(super) fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        let wanted = "a whole number from 1";
        match self.table()?.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => match usize::try_from(*number) {
                Ok(count) if count > 0 => Ok(Some(count)),
                Ok(_) | Err(_) => Err(wrong(&self.place(key), number.to_string(), wanted)),
            },
            Some(other) => Err(wrong(&self.place(key), kind(other), wanted)),
        }
    }

    /// The table under a key, if the key is there.
    pub(super) fn optional_table(&self, key: &str) -> Result<Option<Node<'_>>> {
        let path = self.place(key);
        match self.table()?.get(key) {
            None => Ok(None),
            Some(value @ Value::Table(_)) => {
                Ok(Some(Node { path, value: std::borrow::Cow::Borrowed(value) }))
            }
            Some(other) => Err(wrong(&path, kind(other), "a table")),
        }
    }

    /// The texts of the list under a key; none when the key is not there.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<Sourced>> {
        let read = |node: &Node<'_>| match &*node.value {
            Value::String(text) => Ok(Sourced { key: node.path.clone(), text: text.clone() }),
            other => Err(wrong(&node.path, kind(other), "a text")),
        };
        self.list(key)?.iter().map(read).collect()
    }

    /// The members of the list under a key; none when the key is not there.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Node<'_>>> {
        let place = self.place(key);
        match self.table()?.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(members)) => Ok(members
                .iter()
                .enumerate()
                .map(|(index, member)| Node {
                    path: format!("{place}[{index}]"),
                    value: std::borrow::Cow::Borrowed(member),
                })
                .collect()),
            Some(other) => Err(wrong(&place, kind(other), "a list")),
        }
    }
}
