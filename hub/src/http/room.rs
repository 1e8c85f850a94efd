//! Room for uploads in memory, shared by all databases so that none can take it from the others.
//!
//! A database may hold as many places as stay free. So one that is slow or broken holds half of them at most, two
//! hold two thirds, and a place is always left for one that holds none.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::DatabaseName;
use crate::error::{Error, Result};

/// Places for uploads.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: usize,
    taken: Mutex<HashMap<DatabaseName, usize>>,
    left: Notify,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Room,
    database: DatabaseName,
}

impl Room {
    /// Makes a room of so many places.
    pub(crate) fn new(places: usize) -> Room {
        Room(Arc::new(Shared { places, taken: Mutex::default(), left: Notify::new() }))
    }

    /// Waits for a place, for at most `patience`.
    pub(crate) async fn enter(&self, database: &DatabaseName, patience: Duration) -> Result<Place> {
        let entered = async {
            loop {
                let mut left = pin!(self.0.left.notified());
                // Heard from here on, so that nobody leaves unheard between the look and the wait.
                left.as_mut().enable();
                if let Some(place) = self.try_enter(database) {
                    return place;
                }
                left.await;
            }
        };
        let full = |_elapsed| Error::Unavailable { reason: "too many uploads at once".to_owned() };
        tokio::time::timeout(patience, entered).await.map_err(full)
    }

    fn try_enter(&self, database: &DatabaseName) -> Option<Place> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let free = self.0.places.saturating_sub(all);
        let held = taken.get(database).copied().unwrap_or(0);
        if held >= free {
            return None;
        }
        taken.insert(database.clone(), held.saturating_add(1));
        Some(Place { room: self.clone(), database: database.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<DatabaseName, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        match taken.get_mut(&self.database) {
            Some(held) if *held > 1 => *held -= 1,
            Some(_) | None => drop(taken.remove(&self.database)),
        }
        drop(taken);
        self.room.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 32;

    fn name(text: &str) -> DatabaseName {
        DatabaseName::new(text).unwrap()
    }

    fn take_all(room: &Room, database: &str) -> Vec<Place> {
        std::iter::from_fn(|| room.try_enter(&name(database))).collect()
    }

    #[test]
    fn however_much_others_take_a_place_is_left() {
        let room = Room::new(PLACES);
        let held: Vec<Vec<Place>> = ["a", "b", "c", "d"].map(|database| take_all(&room, database)).into();
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [16, 8, 4, 2]);
        assert!(room.try_enter(&name("e")).is_some());
        drop(held);
        assert!(room.taken().is_empty());
        assert_eq!(take_all(&room, "e").len(), PLACES / 2);
    }

    #[tokio::test]
    async fn who_waits_enters_when_another_leaves_and_not_for_ever() {
        let room = Room::new(2);
        let first = room.enter(&name("a"), Duration::ZERO).await.unwrap();
        let refused = room.enter(&name("a"), Duration::ZERO).await;
        assert!(matches!(refused, Err(Error::Unavailable { .. })));
        let entered = {
            let room = room.clone();
            tokio::spawn(async move { room.enter(&name("a"), Duration::from_secs(60)).await.is_ok() })
        };
        tokio::task::yield_now().await;
        drop(first);
        assert!(entered.await.unwrap());
    }
}
