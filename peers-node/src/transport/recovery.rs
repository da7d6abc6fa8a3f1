//! Which packets arrived, which are lost, and when to ask.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::acks::MAX_ACK_DELAY;
use super::congestion::{Congestion, PACKET};
use super::frames::Ack;
use super::outgoing::Chunk;

/// What is remembered of a packet that asks for an acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The first piece of a lane's stream in it, and the others.
    pub(super) first: Option<Chunk>,
    pub(super) others: Vec<Chunk>,
    /// Bit per lane whose credit it carries.
    pub(super) credits: u8,
    /// It acknowledges what arrived below this number.
    pub(super) acknowledges: u64,
}

impl Sent {
    pub(super) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.first.into_iter().chain(self.others.iter().copied())
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        match self.first {
            None => self.first = Some(chunk),
            Some(_) => self.others.push(chunk),
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Acked,
    Lost,
    /// Still in flight, but silence makes it worth sending what it carries again.
    Repeat,
}

/// An acknowledgement of packets that were never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsent;

/// Packet numbers, round-trip estimate, loss detection and the probe timeout.
///
/// Source: RFC 9002, sections 5, 6 and 7.
#[derive(Debug)]
pub(super) struct Recovery {
    /// In order of number; what is acknowledged or lost leaves as soon as all before it has.
    packets: VecDeque<InFlight>,
    /// Bytes in flight, overhead included.
    in_flight: u64,
    next: u64,
    /// The last number left out on purpose, and the next to be: who acknowledges it acknowledges what it did not receive (RFC 9000, section 21.4).
    skipped: Option<u64>,
    skip_at: u64,
    seed: [u8; 32],
    largest_acked: Option<u64>,
    rtt: Rtt,
    /// Round trips of packets sent before are of another path.
    path_since: Instant,
    loss_time: Option<Instant>,
    /// The last packets found lost, in order: number and time of sending.
    lost: VecDeque<(u64, Instant)>,
    /// How much later than a round trip packets come that others have overtaken; none while no such packet was seen.
    reordering: Option<Duration>,
    last_sent: Instant,
    probe_timeouts: u32,
    /// Packets that may go out whatever the window says.
    probes: u8,
    congestion: Congestion,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    time: Instant,
    size: u64,
    sent: Option<Sent>,
}

#[derive(Debug)]
struct Rtt {
    initial: Duration,
    /// Smoothed, variation, latest, smallest: none before the first sample.
    sampled: Option<(Duration, Duration, Duration, Duration)>,
    first_sample: Option<Instant>,
}

impl Recovery {
    pub(super) fn new(now: Instant, initial_rtt: Duration, seed: [u8; 32]) -> Self {
        let mut recovery = Self {
            packets: VecDeque::new(),
            in_flight: 0,
            next: 0,
            skipped: None,
            skip_at: 0,
            seed,
            largest_acked: None,
            rtt: Rtt { initial: initial_rtt, sampled: None, first_sample: None },
            path_since: now,
            loss_time: None,
            lost: VecDeque::new(),
            reordering: None,
            last_sent: now,
            probe_timeouts: 0,
            probes: 0,
            congestion: Congestion::new(now),
        };
        recovery.skip_at = recovery.draw_skip();
        recovery
    }

    pub(super) fn rtt(&self) -> Duration {
        self.rtt.smoothed()
    }

    pub(super) const fn window(&self) -> u64 {
        self.congestion.window()
    }

    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) const fn probes(&self) -> u8 {
        self.probes
    }

    /// The number of the next packet.
    pub(super) fn take_number(&mut self) -> u64 {
        if self.next == self.skip_at {
            self.skipped = Some(self.next);
            self.next += 1;
            self.skip_at = self.draw_skip();
        }
        self.next += 1;
        self.next - 1
    }

    /// When a packet with data may go out, perhaps in the past; none while the window is full.
    pub(super) fn next_send(&self) -> Option<Instant> {
        if self.probes > 0 {
            Some(self.last_sent)
        } else if self.in_flight + PACKET > self.congestion.window() {
            None
        } else {
            Some(self.congestion.next_send(self.rtt.smoothed()))
        }
    }

    /// Says whether the application leaves the window unused.
    pub(super) const fn set_app_limited(&mut self, app_limited: bool) {
        self.congestion.set_app_limited(app_limited);
    }

    /// A packet of `length` bytes that asks for an acknowledgement went out.
    pub(super) fn on_sent(&mut self, now: Instant, number: u64, length: usize, sent: Sent) {
        let size = length as u64 + PACKET_OVERHEAD;
        self.in_flight += size;
        self.last_sent = now;
        self.probes = self.probes.saturating_sub(1);
        self.congestion.on_sent(now, self.rtt.smoothed(), size);
        self.packets.push_back(InFlight { number, time: now, size, sent: Some(sent) });
    }

    /// Takes an acknowledgement and says what became of the packets it settles. Cost: that of the packets settled, plus O(log n) for each range.
    ///
    /// # Errors
    /// [`Unsent`] if it names a number that no packet had; then nothing is taken from it.
    pub(super) fn on_ack(&mut self, now: Instant, ack: &Ack<'_>, mut fate: impl FnMut(Fate, &Sent)) -> Result<(), Unsent> {
        if ack.largest >= self.next || self.skipped.is_some_and(|skipped| ack.ranges().any(|range| range.contains(&skipped))) {
            return Err(Unsent);
        }
        let (mut bytes, mut count, mut newest) = (0, 0, None);
        for range in ack.ranges() {
            self.find_spurious(now, &range);
            let from = self.packets.partition_point(|packet| packet.number < *range.start());
            for packet in self.packets.range_mut(from..).take_while(|packet| packet.number <= *range.end()) {
                let Some(sent) = packet.sent.take() else { continue };
                fate(Fate::Acked, &sent);
                bytes += packet.size;
                count += 1;
                newest = newest.max(Some((packet.number, packet.time)));
            }
        }
        let Some((number, time)) = newest else { return Ok(()) };
        self.in_flight -= bytes;
        self.largest_acked = self.largest_acked.max(Some(ack.largest));
        if number == ack.largest && time >= self.path_since {
            let latest = self.rtt.sample(now, now.saturating_duration_since(time), ack.delay.min(MAX_ACK_DELAY));
            self.congestion.on_rtt(latest, number, self.next);
        }
        self.congestion.on_acked(now, time, bytes, count, self.rtt.smoothed());
        self.detect_losses(now, &mut fate);
        self.probe_timeouts = 0;
        self.probes = 0;
        Ok(())
    }

    /// Finds losses whose time has come, or makes the next packets probes. Early calls do nothing.
    pub(super) fn handle_timeout(&mut self, now: Instant, mut fate: impl FnMut(Fate, &Sent)) {
        if self.loss_time.is_some_and(|time| time <= now) {
            self.detect_losses(now, &mut fate);
        }
        if self.poll_timeout().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.probe_timeouts += 1;
        self.probes = PROBES;
        for sent in self.packets.iter().filter_map(|packet| packet.sent.as_ref()).take(usize::from(PROBES)) {
            fate(Fate::Repeat, sent);
        }
        // Until the probes are out, the timer counts from here.
        self.last_sent = now;
    }

    /// What is in flight may be lost, and goes by a better way if it is sent now: the oldest packets are repeated, the first of them whatever the window says.
    pub(super) fn repeat(&mut self, mut fate: impl FnMut(Fate, &Sent)) {
        for sent in self.packets.iter().filter_map(|packet| packet.sent.as_ref()).take(MAX_REPEATED) {
            fate(Fate::Repeat, sent);
            self.probes = PROBES;
        }
    }

    /// When to look for losses or to probe; none if nothing is in flight.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let probe = || self.last_sent + (self.rtt.timeout() * (1 << self.probe_timeouts.min(16))).min(MAX_PROBE_TIMEOUT);
        self.loss_time.or_else(|| (!self.packets.is_empty()).then(probe))
    }

    /// The path is another: its window and round trip are unknown, and what is in flight may be lost without congestion.
    pub(super) fn path_changed(&mut self, now: Instant) {
        self.rtt = Rtt { initial: self.rtt.initial, sampled: None, first_sample: None };
        self.path_since = now;
        self.probe_timeouts = 0;
        self.lost.clear();
        self.reordering = None;
        self.congestion.path_changed(now);
    }

    fn detect_losses(&mut self, now: Instant, fate: &mut impl FnMut(Fate, &Sent)) {
        self.loss_time = None;
        let Some(largest) = self.largest_acked else { return };
        let delay = self.rtt.loss_delay(self.reordering);
        let (mut lost, mut last_lost, mut first_of_run, mut persistent) = (0, None, None, false);
        for packet in &mut self.packets {
            let Some(sent) = &packet.sent else {
                first_of_run = None;
                continue;
            };
            if packet.number > largest {
                break;
            }
            if (packet.number + PACKET_THRESHOLD > largest || self.reordering.is_some()) && packet.time + delay > now {
                self.loss_time = Some(packet.time + delay);
                break;
            }
            fate(Fate::Lost, sent);
            packet.sent = None;
            self.in_flight -= packet.size;
            if self.lost.len() >= MAX_LOST {
                self.lost.pop_front();
            }
            self.lost.push_back((packet.number, packet.time));
            lost += 1;
            last_lost = Some(packet.time);
            if self.rtt.first_sample.is_some_and(|first| packet.time > first) {
                let first = *first_of_run.get_or_insert(packet.time);
                persistent |= packet.time - first >= self.rtt.timeout() * PERSISTENT_TIMEOUTS;
            }
        }
        while self.packets.front().is_some_and(|packet| packet.sent.is_none()) {
            self.packets.pop_front();
        }
        if self.packets.is_empty() && self.packets.capacity() > IDLE_CAPACITY {
            self.packets = VecDeque::new();
            self.lost = VecDeque::new();
        }
        if let Some(time) = last_lost {
            self.congestion.on_lost(now, time, lost);
            if persistent {
                self.congestion.on_persistent_congestion();
                self.rtt.forget_smallest();
            }
        }
    }

    /// Learns from packets that were found lost and are acknowledged all the same: from the first on, time alone tells of a loss.
    ///
    /// Source: RFC 8985, sections 4 and 6.2.
    fn find_spurious(&mut self, now: Instant, range: &RangeInclusive<u64>) {
        let from = self.lost.partition_point(|(number, _)| number < range.start());
        let to = self.lost.partition_point(|(number, _)| number <= range.end());
        for (_, time) in self.lost.drain(from..to) {
            let smoothed = self.rtt.smoothed();
            let late = now.saturating_duration_since(time).saturating_sub(smoothed).min(smoothed);
            self.reordering = self.reordering.max(Some(late * 5 / 4));
            self.congestion.on_spurious(time);
        }
    }

    /// A number not far ahead that nobody can guess.
    fn draw_skip(&mut self) -> u64 {
        let mut rng = ChaCha20Rng::from_seed(self.seed);
        rng.fill_bytes(&mut self.seed);
        self.next + 32 + rng.next_u64() % 256
    }
}

impl Rtt {
    fn smoothed(&self) -> Duration {
        self.sampled.map_or(self.initial, |(smoothed, ..)| smoothed)
    }

    /// One probe timeout.
    fn timeout(&self) -> Duration {
        let (smoothed, variation) =
            self.sampled.map_or((self.initial, self.initial / 2), |(smoothed, variation, ..)| (smoothed, variation));
        smoothed + (4 * variation).max(GRANULARITY) + MAX_ACK_DELAY
    }

    /// How long a packet may be late after a later one arrived.
    fn loss_delay(&self, reordering: Option<Duration>) -> Duration {
        let (smoothed, latest) = self.sampled.map_or((self.initial, self.initial), |(smoothed, _, latest, _)| (smoothed, latest));
        let rtt = smoothed.max(latest);
        (rtt + (rtt / 8).max(reordering.unwrap_or_default())).max(GRANULARITY)
    }

    /// Takes a sample and returns it without the time the other side took.
    fn sample(&mut self, now: Instant, latest: Duration, delay: Duration) -> Duration {
        let Some((smoothed, variation, _, smallest)) = self.sampled else {
            self.sampled = Some((latest, latest / 2, latest, latest));
            self.first_sample = Some(now);
            return latest;
        };
        let smallest = smallest.min(latest);
        let adjusted = if latest >= smallest + delay { latest - delay } else { latest };
        self.sampled = Some(((smoothed * 7 + adjusted) / 8, (variation * 3 + smoothed.abs_diff(adjusted)) / 4, latest, smallest));
        adjusted
    }

    const fn forget_smallest(&mut self) {
        if let Some((_, _, latest, smallest)) = &mut self.sampled {
            *smallest = *latest;
        }
    }
}

/// Bytes that session (13 + 16), node (2), UDP (8) and IP (about 20) add to a packet. Small packets weigh at least this much, which bounds how many are in flight.
pub(super) const PACKET_OVERHEAD: u64 = 60;
/// RFC 9002, section 6.1.1.
const PACKET_THRESHOLD: u64 = 3;
/// Packets found lost that are remembered.
const MAX_LOST: usize = 1024;
/// RFC 9002, section 6.1.2.
const GRANULARITY: Duration = Duration::from_millis(1);
/// RFC 9002, section 7.6.1.
const PERSISTENT_TIMEOUTS: u32 = 3;
/// Packets sent when the probe timeout fires; RFC 9002, section 6.2.4.
const PROBES: u8 = 2;
/// Packets repeated when a path is in doubt: about what is in flight of messages, little of what is of a file.
const MAX_REPEATED: usize = 32;
/// Back-off ends here: whether the peer lives is for its session to find out, and a peer that wakes should not wait for minutes.
const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Records kept allocated while nothing is in flight.
const IDLE_CAPACITY: usize = 64;
