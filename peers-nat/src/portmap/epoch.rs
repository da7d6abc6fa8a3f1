//! Whether a gateway has lost its mappings, as its clock tells.

use std::time::{Duration, Instant};

/// The clock of a gateway, when it was last read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch {
    at: Instant,
    seconds: u32,
}

impl Epoch {
    pub(super) const fn new(at: Instant, seconds: u32) -> Self {
        Self { at, seconds }
    }

    /// Whether a gateway of PCP that says `seconds` at `now` still has what it had: its clock has not gone back, and runs at the pace of ours up to 1/16.
    ///
    /// Source: RFC 6887, section 8.5.
    pub(super) fn holds_pcp(&self, now: Instant, seconds: u32) -> bool {
        let (before, after) = (i64::from(self.seconds), i64::from(seconds));
        let client = seconds_between(self.at, now);
        let server = after - before;
        after >= before - 1 && client + 2 >= server - server / 16 && server + 2 >= client - client / 16
    }

    /// As [`Epoch::holds_pcp`] for NAT-PMP: its clock has advanced by 7/8 of the time that has passed, up to 2 seconds.
    ///
    /// Source: RFC 6886, section 3.6.
    pub(super) fn holds_natpmp(&self, now: Instant, seconds: u32) -> bool {
        let passed = seconds_between(self.at, now);
        i64::from(seconds) >= i64::from(self.seconds) + passed * 7 / 8 - 2
    }
}

fn seconds_between(earlier: Instant, later: Instant) -> i64 {
    // Half a second is rounded up: the gateway counts whole seconds as well.
    i64::try_from((later.saturating_duration_since(earlier) + Duration::from_millis(500)).as_secs()).unwrap_or(i64::MAX / 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn a_clock_that_keeps_pace_holds_and_one_that_went_back_does_not() {
        let start = epoch();
        let known = Epoch::new(start, 10_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        for (after, seconds) in [(0, 10_000), (0, 9_999), (1, 10_003), (1600, 11_600), (1600, 11_500), (1600, 11_700)] {
            assert!(known.holds_pcp(at(after), seconds), "{seconds} after {after} s");
        }
        for (after, seconds) in [(0, 9_998), (0, 10_004), (1600, 11_400), (1600, 11_800), (60, 3), (0, 0), (0, u32::MAX)] {
            assert!(!known.holds_pcp(at(after), seconds), "{seconds} after {after} s");
        }
    }

    #[test]
    fn natpmp_allows_a_slow_clock_of_one_eighth() {
        let start = epoch();
        let known = Epoch::new(start, 10_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        for (after, seconds) in [(0, 9_998), (800, 10_698), (800, 99_999)] {
            assert!(known.holds_natpmp(at(after), seconds), "{seconds} after {after} s");
        }
        for (after, seconds) in [(0, 9_997), (800, 10_697), (60, 3)] {
            assert!(!known.holds_natpmp(at(after), seconds), "{seconds} after {after} s");
        }
    }
}
