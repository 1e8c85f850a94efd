//! Who reads the rows of a batch: scope names once, and per row a list of them.
//!
//! Leaves to the hub what follows from it; scope lists never reach a client.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};

use super::decode::structure;
use super::generated::cloudsync as fb;
use super::values::{entry, filled, one_if_alike};
use crate::error::FormatError;

/// Everybody with access to the database.
pub const SCOPE_EVERYBODY: &str = "";

/// Scope lists on their way into a batch.
#[derive(Debug, Default)]
pub(super) struct ScopesBuilder {
    names: BTreeMap<String, u32>,
    bytes: usize,
    pub(super) old: Vec<Vec<u32>>,
    pub(super) new: Vec<Vec<u32>>,
}

type ListsOffset<'f> = WIPOffset<Vector<'f, ForwardsUOffset<fb::ScopeList<'f>>>>;

/// What a batch carries of its readers.
pub(super) struct ScopesOffsets<'f> {
    pub(super) names: Option<WIPOffset<Vector<'f, ForwardsUOffset<&'f str>>>>,
    pub(super) old: Option<ListsOffset<'f>>,
    pub(super) new: Option<ListsOffset<'f>>,
}

impl ScopesBuilder {
    /// Numbers the names of one list, each once, in an order of its own: equal lists become equal.
    pub(super) fn list(&mut self, names: &[impl AsRef<str>]) -> Vec<u32> {
        let mut list: Vec<u32> = names.iter().map(|name| self.ordinal(name.as_ref())).collect();
        list.sort_unstable();
        list.dedup();
        // A list like the newest one is most often said once for all rows.
        if self.new.last() != Some(&list) && self.old.last() != Some(&list) {
            self.bytes = self.bytes.saturating_add(list.len().saturating_mul(4)).saturating_add(12);
        }
        list
    }

    /// Bytes that the lists take up, nearly.
    pub(super) fn byte_len(&self) -> usize {
        self.bytes
    }

    fn ordinal(&mut self, name: &str) -> u32 {
        if let Some(ordinal) = self.names.get(name) {
            return *ordinal;
        }
        let ordinal = u32::try_from(self.names.len()).expect("a payload has fewer scopes than bytes");
        self.names.insert(name.into(), ordinal);
        // Beside the name its length, its end and its place.
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(12);
        ordinal
    }

    pub(super) fn finish<'f>(mut self, fbb: &mut FlatBufferBuilder<'f>, rows: usize) -> ScopesOffsets<'f> {
        for lists in [&self.old, &self.new] {
            assert!(
                lists.is_empty() || lists.len() == rows,
                "all rows of a batch name their readers, or none"
            );
        }
        let mut names: Vec<(&String, &u32)> = self.names.iter().collect();
        names.sort_unstable_by_key(|(_, ordinal)| **ordinal);
        let names: Vec<_> = names.into_iter().map(|(name, _)| fbb.create_string(name)).collect();
        one_if_alike(&mut self.old);
        one_if_alike(&mut self.new);
        let mut lists = |lists: &[Vec<u32>]| {
            let lists: Vec<_> = lists.iter().map(|list| list_offset(fbb, list)).collect();
            (!lists.is_empty()).then(|| fbb.create_vector(&lists))
        };
        let (old, new) = (lists(&self.old), lists(&self.new));
        ScopesOffsets { names: (!names.is_empty()).then(|| fbb.create_vector(&names)), old, new }
    }
}

fn list_offset<'f>(fbb: &mut FlatBufferBuilder<'f>, list: &[u32]) -> WIPOffset<fb::ScopeList<'f>> {
    let scopes = filled(fbb, list);
    fb::ScopeList::create(fbb, &fb::ScopeListArgs { scopes })
}

type Lists<'a> = Option<Vector<'a, ForwardsUOffset<fb::ScopeList<'a>>>>;

/// Who reads the rows of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Scopes<'a> {
    names: Option<Vector<'a, ForwardsUOffset<&'a str>>>,
    old: Lists<'a>,
    new: Lists<'a>,
}

impl<'a> Scopes<'a> {
    /// Reads those of a batch; None where everybody reads all of it.
    pub(super) fn of(rows: fb::Changes<'a>) -> Option<Scopes<'a>> {
        let (old, new) = (rows.old_scopes(), rows.new_scopes());
        (old.is_some() || new.is_some()).then(|| Scopes { names: rows.scope_names(), old, new })
    }

    /// Whether all rows have the same readers before and after.
    #[must_use]
    pub fn agree(&self) -> bool {
        let one = |lists: Lists<'_>| lists.is_none_or(|lists| lists.len() == 1);
        one(self.old) && one(self.new)
    }

    /// Whether the rows say who read them before.
    #[must_use]
    pub const fn has_before(&self) -> bool {
        self.old.is_some()
    }

    /// Whether the rows say who reads them now.
    #[must_use]
    pub const fn has_now(&self) -> bool {
        self.new.is_some()
    }

    /// The scopes whose readers read row `row` before.
    ///
    /// # Errors
    /// A list or a name that is not there.
    pub fn before(&self, row: usize) -> Result<Vec<&'a str>, FormatError> {
        self.list(self.old, row)
    }

    /// The scopes whose readers read row `row` now.
    ///
    /// # Errors
    /// A list or a name that is not there.
    pub fn now(&self, row: usize) -> Result<Vec<&'a str>, FormatError> {
        self.list(self.new, row)
    }

    fn list(&self, lists: Lists<'a>, row: usize) -> Result<Vec<&'a str>, FormatError> {
        if lists.is_none() {
            return Ok(alloc::vec![SCOPE_EVERYBODY]);
        }
        let list = entry(lists, row, "scope lists")?;
        list.scopes().into_iter().flatten().map(|ordinal| self.name(ordinal)).collect()
    }

    fn name(&self, ordinal: u32) -> Result<&'a str, FormatError> {
        let found = self.names.map_or(0, |names| names.len());
        let at = usize::try_from(ordinal).unwrap_or(usize::MAX);
        let names = self.names.filter(|_| at < found);
        names.map(|names| names.get(at)).ok_or(structure("scope names", found, at.saturating_add(1)))
    }
}
