//! The one place that reads clocks.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peers_wire::Timestamp;

/// Reads both clocks of the system, and adds to the monotonic one what it missed while the machine was suspended.
///
/// A woken laptop has lost its NAT mappings although [`Instant`] stood still; layers must see that time has passed.
#[derive(Debug)]
pub(crate) struct Clock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    read: (Instant, Timestamp),
    missed: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { read: system(), missed: Duration::ZERO }) }
    }

    /// Time since an arbitrary start, never decreasing, suspensions included; and wall time.
    pub(crate) fn now(&self) -> (Instant, Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Read under the lock: an older reading than the last would count a suspension twice.
        let read = system();
        let awake = read.0.saturating_duration_since(state.read.0);
        let passed = Duration::from_millis(read.1.since(state.read.1));
        if passed > awake + MIN_SUSPENSION && passed < MAX_SUSPENSION {
            state.missed += passed - awake;
        }
        state.read = read;
        (read.0 + state.missed, read.1)
    }

    /// The system's own reading of a time that [`Clock::now`] is to reach, for timers.
    pub(crate) fn system_time(&self, at: Instant) -> Instant {
        let missed = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).missed;
        at.checked_sub(missed).unwrap_or(at)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the file that reads the clocks")]
fn system() -> (Instant, Timestamp) {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (Instant::now(), Timestamp(u64::try_from(wall.as_millis()).unwrap_or(0).min(Timestamp::MAX.0)))
}

/// A wall clock that is ahead by less than this was adjusted, not suspended.
const MIN_SUSPENSION: Duration = Duration::from_secs(2);
/// A leap of more than this is a clock that was set, not a sleep.
const MAX_SUSPENSION: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_suspended_is_added() {
        let clock = Clock::new();
        let (before, _) = clock.now();
        {
            let mut state = clock.state.lock().unwrap();
            state.read.1 = Timestamp(state.read.1.0 - 600_000);
        }
        let (after, _) = clock.now();
        assert!(after - before >= Duration::from_secs(599));
        assert!(clock.system_time(after) <= after - Duration::from_secs(599));
        assert!(clock.now().0 >= after);
    }
}
