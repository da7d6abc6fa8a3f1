//! How many bytes may be in flight, and how fast they leave.

use std::time::{Duration, Instant};

/// CUBIC with a tolerance for loss that no queue explains, and a pacer.
///
/// A radio link loses packets although nothing is congested; a window that halves for each uses a few per cent of such a link. So a loss shrinks the window only if the round trips say that
/// a queue is standing ([`Congestion::queue_stands`]), or if more than [`TOLERATED_LOSS`] of the last two rounds is lost.
///
/// Source: RFC 9438; RFC 9002, section 7; RFC 9406, section 4.2 for what a queue is.
#[derive(Debug)]
pub(super) struct Congestion {
    /// Bytes that may be in flight.
    window: u64,
    /// Slow start below, congestion avoidance from here on.
    threshold: u64,
    /// The window before the last reduction, in packets.
    cubic_max: f64,
    /// The present growth curve; none in slow start and while the application sends too little to grow.
    epoch: Option<Epoch>,
    /// Losses of packets sent before are of a congestion that has been answered.
    recovery_start: Option<Instant>,
    /// Window, threshold and `cubic_max` before the last reduction: back to them if it was for nothing.
    undo: Option<(u64, u64, f64)>,
    /// The sender has nothing to send: the window proves nothing and does not grow.
    app_limited: bool,
    round: Round,
    last_round: Round,
    /// The round ends when this number is acknowledged.
    round_end: u64,
    min_rtt: Option<Duration>,
    tokens: f64,
    refilled: Instant,
}

/// A curve of CUBIC.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    start: Instant,
    /// Seconds until the curve is back at its plateau.
    k: f64,
    /// What Reno would have by now, in packets.
    reno: f64,
}

/// What happened within one round trip.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    samples: u32,
    rtt: Duration,
    acked: u64,
    lost: u64,
}

impl Congestion {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            window: INITIAL_WINDOW,
            threshold: u64::MAX,
            cubic_max: 0.0,
            epoch: None,
            recovery_start: None,
            undo: None,
            app_limited: true,
            round: Round { samples: 0, rtt: Duration::ZERO, acked: 0, lost: 0 },
            last_round: Round { samples: 0, rtt: Duration::ZERO, acked: 0, lost: 0 },
            round_end: 0,
            min_rtt: None,
            tokens: INITIAL_WINDOW as f64,
            refilled: now,
        }
    }

    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// Says whether the application leaves the window unused.
    pub(super) const fn set_app_limited(&mut self, app_limited: bool) {
        self.app_limited = app_limited;
    }

    /// Forgets what it learned, for a path of which nothing is known. What is in flight counts as sent on the old one.
    pub(super) fn path_changed(&mut self, now: Instant) {
        *self = Self { recovery_start: Some(now), round_end: self.round_end, ..Self::new(now) };
    }

    /// A round trip was measured. `next` is the number of the next packet, `largest` the highest acknowledged.
    pub(super) fn on_rtt(&mut self, rtt: Duration, largest: u64, next: u64) {
        if largest >= self.round_end {
            self.last_round = std::mem::take(&mut self.round);
            self.round_end = next;
        }
        self.min_rtt = Some(self.min_rtt.map_or(rtt, |min| min.min(rtt)));
        self.round.rtt = if self.round.samples == 0 { rtt } else { self.round.rtt.min(rtt) };
        self.round.samples += 1;
        if self.window < self.threshold && self.round.samples >= MIN_SAMPLES && self.queue_stands() {
            self.threshold = self.window;
        }
    }

    /// `bytes` in packets sent at `sent` or before were acknowledged.
    pub(super) fn on_acked(&mut self, now: Instant, sent: Instant, bytes: u64, packets: u64, rtt: Duration) {
        self.round.acked += packets;
        if self.app_limited {
            self.epoch = None;
        } else if self.recovery_start.is_none_or(|start| sent > start) {
            let grown = if self.window < self.threshold { self.window + bytes } else { self.cubic(now, bytes, rtt) };
            self.window = grown.min(MAX_WINDOW);
        }
    }

    /// `packets` were lost, the last of them sent at `sent`.
    pub(super) fn on_lost(&mut self, now: Instant, sent: Instant, packets: u64) {
        self.round.lost += packets;
        if self.recovery_start.is_some_and(|start| sent <= start) || self.is_noise() {
            return;
        }
        self.recovery_start = Some(now);
        self.undo = Some((self.window, self.threshold, self.cubic_max));
        let window = packets_of(self.window);
        // Fast convergence: a flow that lost before it was back makes room for the newcomer.
        self.cubic_max = if window < self.cubic_max { window * (1.0 + BETA) / 2.0 } else { window };
        self.epoch = None;
        self.window = bytes_of(window * BETA).max(MIN_WINDOW);
        self.threshold = self.window;
    }

    /// A packet sent at `sent` and counted as lost was only late: takes back the reduction that answered it.
    ///
    /// Source: RFC 9438, section 4.9.
    pub(super) fn on_spurious(&mut self, sent: Instant) {
        self.round.lost = self.round.lost.saturating_sub(1);
        if self.recovery_start.is_some_and(|start| sent <= start)
            && let Some((window, threshold, cubic_max)) = self.undo.take()
        {
            self.window = self.window.max(window);
            self.threshold = threshold;
            self.cubic_max = cubic_max;
            self.epoch = None;
        }
    }

    /// Nothing came through for several probe timeouts.
    pub(super) fn on_persistent_congestion(&mut self) {
        self.window = MIN_WINDOW;
        self.epoch = None;
        self.undo = None;
        self.recovery_start = None;
        self.min_rtt = None;
        self.round = Round::default();
        self.last_round = Round::default();
    }

    /// Takes `bytes` from the pacer's bucket.
    pub(super) fn on_sent(&mut self, now: Instant, rtt: Duration, bytes: u64) {
        let rate = self.rate(rtt);
        let burst = (rate * BURST.as_secs_f64()).max(INITIAL_WINDOW as f64);
        let earned = rate * now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + earned).min(burst) - bytes as f64;
        self.refilled = now;
    }

    /// When the pacer lets the next packet go; in the past if it may go now.
    pub(super) fn next_send(&self, rtt: Duration) -> Instant {
        let missing = PACKET as f64 - self.tokens;
        if missing <= 0.0 { self.refilled } else { self.refilled + Duration::from_secs_f64(missing / self.rate(rtt)) }
    }

    /// Bytes per second: somewhat more than a window in each round trip, so that the window and not the pacer is the limit.
    fn rate(&self, rtt: Duration) -> f64 {
        let gain = if self.window < self.threshold { 2.0 } else { 1.25 };
        gain * self.window as f64 / rtt.as_secs_f64().max(1e-6)
    }

    fn is_noise(&self) -> bool {
        let lost = self.round.lost + self.last_round.lost;
        let all = lost + self.round.acked + self.last_round.acked;
        !self.queue_stands() && lost as f64 <= TOLERATED_LOSS * all as f64 + TOLERATED_STRAYS
    }

    /// Whether even the fastest round trip of the last round waited in a queue.
    fn queue_stands(&self) -> bool {
        let round = if self.round.samples >= MIN_SAMPLES || self.last_round.samples == 0 { self.round } else { self.last_round };
        self.min_rtt.is_none_or(|min| round.rtt > min + (min / 16).clamp(MIN_QUEUE, MAX_QUEUE))
    }

    fn cubic(&mut self, now: Instant, bytes: u64, rtt: Duration) -> u64 {
        let window = packets_of(self.window);
        let acked = packets_of(bytes);
        self.cubic_max = self.cubic_max.max(window);
        let epoch = self.epoch.get_or_insert_with(|| Epoch { start: now, k: ((self.cubic_max - window) / C).cbrt(), reno: window });
        let alpha = if epoch.reno < self.cubic_max { 3.0 * (1.0 - BETA) / (1.0 + BETA) } else { 1.0 };
        epoch.reno += alpha * acked / window;
        let elapsed = (now.saturating_duration_since(epoch.start) + rtt).as_secs_f64();
        let target = (C * (elapsed - epoch.k).powi(3) + self.cubic_max).clamp(window, 1.5 * window);
        bytes_of((window + (target - window) * acked / window).max(epoch.reno))
    }
}

fn packets_of(bytes: u64) -> f64 {
    bytes as f64 / PACKET as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a window is positive and far below 2^53")]
fn bytes_of(packets: f64) -> u64 {
    (packets * PACKET as f64) as u64
}

/// Bytes that a full packet occupies on the path, with what session, UDP and IP add.
pub(super) const PACKET: u64 = super::MAX_FRAMES as u64 + super::recovery::PACKET_OVERHEAD;
/// RFC 9002, section 7.2.
const INITIAL_WINDOW: u64 = 10 * PACKET;
/// RFC 9002, section 7.2.
const MIN_WINDOW: u64 = 2 * PACKET;
/// 1 Gbit/s over 130 ms. Bounds what is remembered of packets in flight as well.
const MAX_WINDOW: u64 = 16 << 20;
/// Multiplicative decrease; RFC 9438, section 4.6.
const BETA: f64 = 0.7;
/// Aggressiveness of growth; RFC 9438, section 4.1.
const C: f64 = 0.4;
/// What may leave at once after a pause, as time at the present rate: timers are about this coarse.
const BURST: Duration = Duration::from_millis(4);
/// Share of packets lost without a queue that does not count as congestion.
const TOLERATED_LOSS: f64 = 0.05;
/// Packets on top of that: in a small window, the share alone would be decided by one of them.
const TOLERATED_STRAYS: f64 = 2.0;
/// A round trip this much longer than the shortest, or a sixteenth of it within these bounds, waited in a queue.
const MIN_QUEUE: Duration = Duration::from_millis(1);
const MAX_QUEUE: Duration = Duration::from_millis(16);
/// Round trips measured before their shortest says something of a queue; RFC 9406, section 4.3.
const MIN_SAMPLES: u32 = 8;
