//! A map that is a sorted array: for keys that come in their order, and are asked for in it.
//!
//! One allocation for all entries. A hundred thousand rows of an upload in a hash table, each with a tree of its
//! columns, cost more than merging them.

use std::borrow::Borrow;

/// Entries by key, each key once, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Sorted<K, V> {
    entries: Vec<(K, V)>,
    /// Where the entry is expected that is asked for next.
    next: usize,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), next: 0 }
    }
}

impl<K: Ord, V> Sorted<K, V> {
    /// Without entries, with room for some.
    pub(crate) fn with_capacity(entries: usize) -> Self {
        Self { entries: Vec::with_capacity(entries), next: 0 }
    }

    /// Adds or replaces an entry. Cheap behind the last one, else all that follow are moved.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.entries.last().is_none_or(|(last, _)| *last < key) {
            self.entries.push((key, value));
            return;
        }
        match self.entries.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(at) => {
                if let Some((_, held)) = self.entries.get_mut(at) {
                    *held = value;
                }
            }
            Err(at) => self.entries.insert(at, (key, value)),
        }
    }

    /// The value of a key.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.entries.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    /// The value of a key, looked for behind the one that was asked for before.
    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let is_next = self.entries.get(self.next).is_some_and(|(known, _)| known.borrow() == key);
        let at = if is_next {
            self.next
        } else {
            self.entries.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?
        };
        self.next = at.saturating_add(1);
        self.entries.get_mut(at).map(|(_, value)| value)
    }

    /// Whether there is an entry of a key.
    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// The entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.entries.iter()
    }

    /// The values, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// Whether there are no entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes all entries away.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Sorted<K, V> {
    /// Of two entries with one key the later one stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries = entries.into_iter();
        let mut map = Self::with_capacity(entries.size_hint().0);
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}
