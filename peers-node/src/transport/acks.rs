//! What arrived, and when to say so.

use std::time::{Duration, Instant};

use peers_wire::Writer;

use super::frames::{MAX_ACK_RANGES, write_ack};
use super::ranges::Ranges;

/// The packet numbers received, and the acknowledgement owed for them.
///
/// Source: RFC 9000, section 13.2.
#[derive(Debug)]
pub(super) struct Acks {
    received: Ranges,
    /// Numbers below are no longer remembered: they count as received.
    floor: u64,
    largest: Option<(u64, Instant)>,
    /// Packets that ask for an acknowledgement and have none.
    owed: u32,
    deadline: Option<Instant>,
}

impl Acks {
    pub(super) fn new() -> Self {
        Self { received: Ranges::default(), floor: 0, largest: None, owed: 0, deadline: None }
    }

    /// Whether this number arrived before, or is too old to tell.
    pub(super) fn is_duplicate(&self, number: u64) -> bool {
        number < self.floor || self.received.around(number).is_some()
    }

    /// Notes a new packet: every second one is acknowledged at once, and one out of order, as it tells of a loss.
    pub(super) fn on_packet(&mut self, now: Instant, number: u64, asks_ack: bool) {
        let in_order = self.largest.map_or(number == 0, |(largest, _)| number == largest + 1);
        if self.largest.is_none_or(|(largest, _)| number > largest) {
            self.largest = Some((number, now));
        }
        self.received.insert(number..number + 1);
        if self.received.len() > MAX_ACK_RANGES
            && let Some(oldest) = self.received.first()
        {
            self.forget(oldest.end);
        }
        if asks_ack {
            self.owed += 1;
            let at = if self.owed >= ACK_EVERY || !in_order { now } else { now + MAX_ACK_DELAY };
            self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
        }
    }

    /// The other side knows what arrived below `number`.
    pub(super) fn forget(&mut self, number: u64) {
        if number > self.floor {
            self.floor = number;
            self.received.remove(0..number);
            if self.received.is_empty() {
                self.owed = 0;
                self.deadline = None;
            }
        }
    }

    /// When an acknowledgement must go out, if one is owed.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Appends an acknowledgement if one is owed. Returns the number below which the other side then knows everything, once it acknowledges the packet this
    /// is in; 0 if none was owed.
    pub(super) fn write(&mut self, now: Instant, out: &mut Writer) -> u64 {
        let Some((largest, at)) = self.largest.filter(|_| self.owed > 0) else { return 0 };
        write_ack(out, &self.received, now.saturating_duration_since(at));
        self.owed = 0;
        self.deadline = None;
        largest + 1
    }
}

/// How long a packet may wait for its acknowledgement: long enough for an answer to carry it, short beside the round trips of the internet.
pub(super) const MAX_ACK_DELAY: Duration = Duration::from_millis(20);
/// Packets after which an acknowledgement does not wait. A batch of datagrams read at once gets one acknowledgement.
const ACK_EVERY: u32 = 2;
