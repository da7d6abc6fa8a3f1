//! Rates, and what an address that has proven nothing may be sent.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A rate limit: so many units at once, and one more every `interval`.
///
/// Source: the generic cell rate algorithm, ITU-T I.371.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    interval: Duration,
    burst: Duration,
    /// When the bucket is full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// `burst` units at once, `per_second` in the long run.
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, burst: interval * burst, full_at: None }
    }

    /// How much of what may be taken at once was taken: 0 to 255.
    pub(crate) fn level(&self, now: Instant) -> u8 {
        let taken = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        u8::try_from(taken.as_nanos() * 255 / self.burst.as_nanos().max(1)).unwrap_or(u8::MAX)
    }

    /// Takes `units` if they are there.
    pub(crate) fn take(&mut self, now: Instant, units: u32) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.interval * units;
        let granted = full_at.duration_since(now) <= self.burst;
        if granted {
            self.full_at = Some(full_at);
        }
        granted
    }
}

/// Counts the probes to addresses that we know only because another peer named them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    probes: BTreeMap<SocketAddr, (u8, Instant)>,
}

/// Most probes to one introduced address in [`PROBE_WINDOW`].
pub(crate) const MAX_PROBES: u8 = 8;
/// How long probes to an address count.
pub(crate) const PROBE_WINDOW: Duration = Duration::from_secs(60);
/// Most addresses that are probed in [`PROBE_WINDOW`].
const MAX_PROBED: usize = 512;

impl Ledger {
    /// Whether one more probe may go to `address` now; if so, it is counted.
    ///
    /// `wanted`: the user asked for who may be there; for the sake of all others, half as many addresses are probed, so that they cannot keep us from probing.
    pub(crate) fn take(&mut self, now: Instant, address: SocketAddr, wanted: bool) -> bool {
        let most = if wanted { MAX_PROBED } else { MAX_PROBED / 2 };
        if self.probes.len() >= most && !self.probes.contains_key(&address) {
            self.probes.retain(|_, (_, since)| now.duration_since(*since) < PROBE_WINDOW);
            if self.probes.len() >= most {
                return false;
            }
        }
        let (count, since) = self.probes.entry(address).or_insert((0, now));
        if now.duration_since(*since) >= PROBE_WINDOW {
            (*count, *since) = (0, now);
        }
        let granted = *count < MAX_PROBES;
        *count += u8::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (start, mut bucket) = (epoch(), Bucket::new(4, 10));
        assert_eq!((0..100).filter(|_| bucket.take(start, 1)).count(), 4);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(later, 1)).count(), 4);
        assert_eq!((0..100u32).filter(|i| bucket.take(later + Duration::from_millis(10) * *i, 1)).count(), 9);
        assert!(!bucket.take(later + Duration::from_secs(100), 5));
    }

    #[test]
    fn an_introduced_address_gets_at_most_eight_probes_a_minute() {
        let (start, mut ledger) = (epoch(), Ledger::default());
        let address = "192.0.2.1:1".parse().unwrap();
        assert_eq!((0..100u32).filter(|i| ledger.take(start + Duration::from_millis(500) * *i, address, true)).count(), 8);
        assert!(ledger.take(start + PROBE_WINDOW, address, true));
    }

    #[test]
    fn the_ledger_is_bounded_and_refuses_when_full() {
        let (start, mut ledger) = (epoch(), Ledger::default());
        let address = |port: usize| SocketAddr::from(([192, 0, 2, 1], u16::try_from(port).unwrap()));
        assert_eq!((1..2000).filter(|port| ledger.take(start, address(*port), true)).count(), MAX_PROBED);
        assert!(ledger.take(start + PROBE_WINDOW, address(1999), true));
    }
}
