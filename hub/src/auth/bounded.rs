//! A map that forgets what was not used for long, so that nobody can fill it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A map of two generations: when the younger one is full it becomes the elder, and what was in that is forgotten.
///
/// Invariant: at most twice `size` entries.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    size: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Bounded<K, V> {
    /// An empty map with generations of this size.
    pub(crate) fn new(size: usize) -> Bounded<K, V> {
        Bounded { size, young: HashMap::new(), old: HashMap::new() }
    }

    /// Looks a value up; one that is asked for is kept longer.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.young.contains_key(key)
            && let Some((key, value)) = self.old.remove_entry(key)
        {
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// Puts a value in, in place of the one before.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.size && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets one.
    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut map = Bounded::new(10);
        for key in 0..1_000 {
            map.insert(key, key);
            assert_eq!(map.get(&0), Some(&mut 0), "after {key}");
            assert!(map.young.len() + map.old.len() <= 20);
        }
        assert_eq!(map.get(&500), None);
        assert_eq!(map.get(&999), Some(&mut 999));
        map.remove(&0);
        assert_eq!(map.get(&0), None);
    }
}
