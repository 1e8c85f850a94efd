//! How often an address may be wrong: guessing is slow, and checking what strangers send costs little.
//!
//! An address that was wrong too often is refused without a look at what it shows, except for what was right before:
//! whoever shares the address with a guesser goes on. What was signed by the right key but is expired is no guess.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bounded::Bounded;

/// How often an address may be wrong before it has to wait.
const FAILURES_MAX: u32 = 20;

/// How long until one failure is forgiven: 20 guesses a minute, of at least 2^128 keys.
const FORGIVEN_AFTER: Duration = Duration::from_secs(3);

/// Addresses that are remembered, in each of two generations.
const ADDRESSES: usize = 8_192;

/// Hashes of right keys and tokens that are remembered, in each of two generations.
const RIGHT: usize = 32_768;

/// What an address did wrong: failures that are not forgiven yet, and up to when the oldest is not.
#[derive(Debug)]
struct Debt {
    failures: u32,
    since: Instant,
}

impl Debt {
    fn forgive(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.since).as_secs() / FORGIVEN_AFTER.as_secs();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(periods);
        self.since = if self.failures == 0 { now } else { self.since + FORGIVEN_AFTER * periods };
    }
}

/// The failures of all addresses.
#[derive(Debug)]
pub(crate) struct Failures {
    debts: Mutex<Bounded<IpAddr, Debt>>,
    right: Mutex<Bounded<[u8; 32], ()>>,
}

impl Failures {
    /// Nobody was wrong yet.
    pub(crate) fn new() -> Failures {
        Failures { debts: Mutex::new(Bounded::new(ADDRESSES)), right: Mutex::new(Bounded::new(RIGHT)) }
    }

    /// Says how long an address has to wait, if it has to, before it may show what was not right before.
    pub(crate) fn wait(&self, address: IpAddr, shown: &[u8; 32], now: Instant) -> Option<Duration> {
        {
            let mut debts = lock(&self.debts);
            let debt = debts.get(&network(address))?;
            debt.forgive(now);
            if debt.failures < FAILURES_MAX {
                return None;
            }
        }
        if lock(&self.right).get(shown).is_some() {
            return None;
        }
        Some(FORGIVEN_AFTER)
    }

    /// Notes that something shown was wrong; says whether that was the one too many.
    pub(crate) fn failed(&self, address: IpAddr, now: Instant) -> bool {
        let mut debts = lock(&self.debts);
        let network = network(address);
        match debts.get(&network) {
            Some(debt) => {
                debt.forgive(now);
                debt.failures = debt.failures.saturating_add(1);
                debt.failures == FAILURES_MAX
            }
            None => {
                debts.insert(network, Debt { failures: 1, since: now });
                false
            }
        }
    }

    /// Notes that something shown was right.
    pub(crate) fn succeeded(&self, shown: [u8; 32]) {
        let mut right = lock(&self.right);
        if right.get(&shown).is_none() {
            right.insert(shown, ());
        }
    }

    /// Notes that something is not right any more.
    pub(crate) fn forget(&self, shown: &[u8; 32]) {
        lock(&self.right).remove(shown);
    }
}

/// What counts as one address: whoever has an IPv6 network has 2^64 addresses in it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].fill(0);
            IpAddr::V6(segments.into())
        }
        address @ IpAddr::V4(_) => address,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT_KEY: [u8; 32] = [1; 32];
    const GUESS: [u8; 32] = [2; 32];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_was_wrong_too_often_waits() {
        let (failures, start, guesser) = (Failures::new(), Instant::now(), address("192.0.2.1"));
        failures.succeeded(RIGHT_KEY);
        for failure in 1..=FAILURES_MAX {
            assert_eq!(failures.wait(guesser, &GUESS, start), None, "before failure {failure}");
            assert_eq!(failures.failed(guesser, start), failure == FAILURES_MAX);
        }
        assert_eq!(failures.wait(guesser, &GUESS, start), Some(FORGIVEN_AFTER));
        assert_eq!(failures.wait(guesser, &RIGHT_KEY, start), None, "what was right before goes on");
        assert_eq!(failures.wait(address("192.0.2.2"), &GUESS, start), None, "so does everybody else");
        failures.forget(&RIGHT_KEY);
        assert_eq!(failures.wait(guesser, &RIGHT_KEY, start), Some(FORGIVEN_AFTER));
        let later = start + FORGIVEN_AFTER;
        assert_eq!(failures.wait(guesser, &GUESS, later), None, "one is forgiven");
        failures.failed(guesser, later);
        assert_eq!(failures.wait(guesser, &GUESS, later), Some(FORGIVEN_AFTER), "and no more");
        assert_eq!(failures.wait(guesser, &GUESS, later + FORGIVEN_AFTER * FAILURES_MAX), None);
    }

    #[test]
    fn a_network_is_one_address() {
        for (one, other, same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(network(address(one)) == network(address(other)), same, "{one} and {other}");
        }
    }
}
