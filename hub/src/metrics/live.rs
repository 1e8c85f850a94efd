//! What a scrape asks about the present: who is here, and how long the log has been behind.
//!
//! Everything here depends on the moment of the scrape, so it is worked out then and not kept up to date.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use shared_format::SiteId;

/// A site that was heard of within this time is active.
const ACTIVE: Duration = Duration::from_secs(300);

/// The sites that use one database through this node.
#[derive(Debug)]
pub struct Devices {
    seen: DashMap<SiteId, Device>,
    swept: Mutex<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Device {
    /// Requests under way.
    open: u32,
    last: Instant,
}

/// A site for as long as its request lasts.
#[derive(Debug)]
pub struct Present<'a> {
    devices: &'a Devices,
    site: SiteId,
}

/// How many sites there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// With a request under way.
    pub connected: u32,
    /// With a request under way or ended within the last five minutes.
    pub active: u32,
}

impl Default for Devices {
    fn default() -> Devices {
        Devices { seen: DashMap::new(), swept: Mutex::new(Instant::now()) }
    }
}

impl Devices {
    /// Notes that a site's request begins; it ends when what is returned is dropped.
    pub fn enter(&self, site: SiteId) -> Present<'_> {
        let now = Instant::now();
        // Without anybody who scrapes, the sites that are gone have to be forgotten all the same.
        let mut swept = self.swept();
        let due = now.duration_since(*swept) > ACTIVE;
        if due {
            *swept = now;
        }
        drop(swept);
        if due {
            self.sweep(now);
        }
        let mut device = self.seen.entry(site).or_insert(Device { open: 0, last: now });
        device.open = device.open.saturating_add(1);
        device.last = now;
        Present { devices: self, site }
    }

    /// Counts the sites, and forgets those that are not active any more.
    pub fn count(&self) -> DeviceCounts {
        self.count_at(Instant::now())
    }

    fn count_at(&self, now: Instant) -> DeviceCounts {
        self.sweep(now);
        let mut counts = DeviceCounts::default();
        for device in &self.seen {
            counts.active = counts.active.saturating_add(1);
            counts.connected = counts.connected.saturating_add(u32::from(device.open > 0));
        }
        counts
    }

    fn sweep(&self, now: Instant) {
        self.seen.retain(|_, device| device.open > 0 || now.saturating_duration_since(device.last) <= ACTIVE);
    }

    fn swept(&self) -> MutexGuard<'_, Instant> {
        self.swept.lock().expect("no step on this panics")
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        if let Some(mut device) = self.devices.seen.get_mut(&self.site) {
            device.open = device.open.saturating_sub(1);
            device.last = Instant::now();
        }
    }
}

/// Since when the store lacks something that Postgres has committed.
#[derive(Debug, Default)]
pub struct Behind(Mutex<Option<SystemTime>>);

impl Behind {
    /// Notes when the oldest transaction that the store lacks was committed; `None` when it has all.
    pub fn set(&self, committed: Option<SystemTime>) {
        *self.state() = committed;
    }

    /// Notes that from now on nothing is heard of Postgres; what was behind before stays the measure.
    pub fn cut_off(&self) {
        self.state().get_or_insert_with(SystemTime::now);
    }

    /// Seconds from the oldest commit that is not stored to now; 0 when the store has everything.
    pub fn seconds(&self) -> f64 {
        self.state().and_then(|since| since.elapsed().ok()).map_or(0.0, |behind| behind.as_secs_f64())
    }

    fn state(&self) -> MutexGuard<'_, Option<SystemTime>> {
        self.0.lock().expect("no step on this panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(number: u8) -> SiteId {
        SiteId::from_bytes([number; 16])
    }

    #[test]
    fn a_site_counts_once_whatever_it_has_open() {
        let devices = Devices::default();
        let (first, again, other) = (devices.enter(site(1)), devices.enter(site(1)), devices.enter(site(2)));
        assert_eq!(devices.count(), DeviceCounts { connected: 2, active: 2 });
        drop((first, other));
        assert_eq!(devices.count(), DeviceCounts { connected: 1, active: 2 });
        drop(again);
        assert_eq!(devices.count(), DeviceCounts { connected: 0, active: 2 });
    }

    #[test]
    fn a_site_that_is_gone_is_forgotten_and_one_that_waits_is_not() {
        let devices = Devices::default();
        let _waiting = devices.enter(site(1));
        drop(devices.enter(site(2)));
        let later = Instant::now() + ACTIVE + Duration::from_secs(1);
        assert_eq!(devices.count_at(later), DeviceCounts { connected: 1, active: 1 });
    }

    #[test]
    fn who_was_behind_already_when_postgres_went_stays_so() {
        let behind = Behind::default();
        assert!(behind.seconds() < f64::EPSILON);
        behind.set(Some(SystemTime::now() - Duration::from_secs(60)));
        behind.cut_off();
        assert!(behind.seconds() >= 60.0);
        behind.set(None);
        behind.cut_off();
        assert!(behind.seconds() < 60.0);
    }
}
