//! Waiting for a condition, with a deadline. Nothing in the tests waits for time to pass.

use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for something that takes well under a second on an idle machine.
///
/// The machines that run the tests have two cores and run several servers at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `probe` until it returns something, and panics with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    until_deadline(what, PATIENCE, || probe().ok_or_else(String::new))
}

/// Calls `probe` until it succeeds, and panics with `what` and the last error after [`PATIENCE`].
pub fn until_ok<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    until_deadline(what, PATIENCE, probe)
}

/// Calls `probe` until it succeeds, and panics with `what` and the last error after `patience`.
pub fn until_deadline<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        match probe() {
            Ok(found) => return found,
            Err(error) if start.elapsed() >= patience => {
                panic!("waited {} s in vain: {what} {error}", patience.as_secs())
            }
            Err(_not_yet) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
