//! What is known of a connected peer: its topics, how fast it answers, how much it may cost us.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use peers_wire::PeerId;

use crate::message::{Key, Place, Tag};

/// Topics that a neighbour may want.
pub(crate) const MAX_TOPICS: usize = 1024;
/// Pulls that wait for room in a neighbour's window.
const MAX_BACKLOG: usize = 4096;
/// Packets asked for and not yet answered, per neighbour.
const FIRST_WINDOW: u32 = 16;
const MIN_WINDOW: u32 = 2;
const MAX_WINDOW: u32 = 128;
/// Round trip until one is measured.
const FIRST_RTT: Duration = Duration::from_millis(200);
/// Least time beyond the round trip before an answer counts as lost.
const GRACE: Duration = Duration::from_millis(25);

#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) peer: PeerId,
    /// Whose account in the store it shares.
    pub(crate) origin: u64,
    pub(crate) place: Place,
    /// Slots of the store that were looked through for what it should keep.
    pub(crate) offered: usize,
    /// It does not answer.
    pub(crate) silent: bool,
    /// The topics it wants, by the version of its list.
    pub(crate) wants: BTreeSet<Tag>,
    pub(crate) version: Option<u16>,
    /// The parts of our topics that it did not yet heed.
    pub(crate) unheeded: BTreeSet<u8>,
    pub(crate) topics_tries: u32,
    /// Pulls that exist because of its announcements.
    pub(crate) pulls: usize,
    pub(crate) backlog: VecDeque<Key>,
    in_flight: u32,
    window: u32,
    /// Answers since the window last grew.
    answers: u32,
    /// The window doubles per round trip until the first loss.
    slow_start: bool,
    shrunk: Option<Instant>,
    srtt: Option<Duration>,
    rttvar: Duration,
    /// Serving: requests, ranges, offers.
    pub(crate) work: Bucket,
    /// Packets that it pushes unasked.
    pub(crate) push: Bucket,
    /// Questions that it brings.
    pub(crate) queries: Bucket,
    /// Packets of it that failed their check.
    pub(crate) forgeries: Bucket,
}

impl Neighbour {
    pub(crate) fn new(now: Instant, peer: PeerId) -> Self {
        Self {
            peer,
            origin: peer.0.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte)),
            place: Place::of(&peer),
            offered: 0,
            silent: false,
            wants: BTreeSet::new(),
            version: None,
            unheeded: BTreeSet::new(),
            topics_tries: 0,
            pulls: 0,
            backlog: VecDeque::new(),
            in_flight: 0,
            window: FIRST_WINDOW,
            answers: 0,
            slow_start: true,
            shrunk: None,
            srtt: None,
            rttvar: Duration::ZERO,
            work: Bucket::new(now, 16_384, 4_096),
            push: Bucket::new(now, 64, 32),
            queries: Bucket::new(now, 64, 8),
            forgeries: Bucket::new(now, 8, 1),
        }
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.srtt.unwrap_or(FIRST_RTT)
    }

    /// How long to wait for an answer before another is asked.
    pub(crate) fn patience(&self) -> Duration {
        self.rtt() + GRACE.max(self.rttvar * 4)
    }

    /// RFC 6298, section 2.
    pub(crate) fn measured(&mut self, sample: Duration) {
        match self.srtt {
            None => (self.srtt, self.rttvar) = (Some(sample), sample / 8),
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(sample)) / 4;
                self.srtt = Some((srtt * 7 + sample) / 8);
            }
        }
    }

    pub(crate) const fn has_room(&self) -> bool {
        self.in_flight < self.window
    }

    pub(crate) const fn asked(&mut self) {
        self.in_flight += 1;
    }

    /// What was asked needs no answer any more.
    pub(crate) const fn relieved(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(crate) fn answered(&mut self) {
        self.relieved();
        self.answers += 1;
        if self.slow_start || self.answers >= self.window {
            self.answers = 0;
            self.window = (self.window + 1).min(MAX_WINDOW);
        }
    }

    /// An answer did not come: the window is halved, at most once per round trip.
    pub(crate) fn timed_out(&mut self, now: Instant) {
        self.relieved();
        if self.shrunk.is_none_or(|at| now.duration_since(at) > self.rtt()) {
            self.shrunk = Some(now);
            self.slow_start = false;
            self.window = (self.window / 2).max(MIN_WINDOW);
        }
    }

    pub(crate) fn wait_for_room(&mut self, key: Key) {
        if self.backlog.len() < MAX_BACKLOG {
            self.backlog.push_back(key);
        }
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    burst: u32,
    per_second: u32,
    at: Instant,
}

impl Bucket {
    pub(crate) const fn new(now: Instant, burst: u32, per_second: u32) -> Self {
        Self { tokens: burst, burst, per_second, at: now }
    }

    /// Takes `tokens`, or none if there are not as many.
    pub(crate) fn take(&mut self, now: Instant, tokens: usize) -> bool {
        self.refill(now);
        match u32::try_from(tokens).ok().and_then(|tokens| self.tokens.checked_sub(tokens)) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_empty(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens == 0
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.duration_since(self.at).as_millis() * u128::from(self.per_second) / 1000;
        if earned > 0 {
            self.tokens = u32::try_from(earned).unwrap_or(u32::MAX).saturating_add(self.tokens).min(self.burst);
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let now = start();
        let mut bucket = Bucket::new(now, 8, 2);
        assert!(bucket.take(now, 8) && !bucket.take(now, 1) && bucket.is_empty(now));
        let later = now + Duration::from_millis(500);
        assert!(bucket.take(later, 1) && !bucket.take(later, 1));
        assert!(!bucket.take(later + Duration::from_secs(100), 9));
    }

    #[test]
    fn a_neighbour_that_does_not_answer_gets_fewer_requests_at_a_time() {
        let now = start();
        let mut neighbour = Neighbour::new(now, PeerId([1; 32]));
        for second in 0..8 {
            neighbour.asked();
            neighbour.timed_out(now + Duration::from_secs(second));
        }
        neighbour.asked();
        neighbour.asked();
        assert!(!neighbour.has_room());
        neighbour.answered();
        assert!(neighbour.has_room());
    }

    #[test]
    fn patience_follows_the_measured_round_trip() {
        let mut neighbour = Neighbour::new(start(), PeerId([1; 32]));
        assert_eq!(neighbour.patience(), Duration::from_millis(225));
        (0..50).for_each(|_| neighbour.measured(Duration::from_millis(80)));
        assert_eq!(neighbour.patience(), Duration::from_millis(105));
    }
}
