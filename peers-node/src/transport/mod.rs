//! Reliable messages to one peer, over the unreliable datagrams of a session with it.
//!
//! A message of up to [`MAX_MESSAGE_LEN`] bytes is delivered whole, exactly once, and in the order of sending within its [`Lane`]; lanes do not wait for each other. Losses are recovered and
//! congestion is avoided as RFC 9002 and RFC 9438 say. What a peer can make this side hold is bounded: a lane gives credit for bytes, and who does not [`consume`](Transport::consume)
//! messages gives none.
//!
//! Secrecy, authenticity and protection against replay are the session's; a new session means a new [`Transport`] on both sides. There is no handshake, no way to take a message back
//! and no detection of a dead peer: silence is for the session to judge.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use peers_node::transport::{Config, Event, Lane, Transport};
//! use peers_wire::Writer;
//!
//! # #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
//! let now = Instant::now();
//! let mut alice = Transport::new(now, Config::default(), [1; 32]);
//! let mut bob = Transport::new(now, Config::default(), [2; 32]);
//! alice.send(Lane::Interactive, "hello".into())?;
//! let mut packet = Writer::default();
//! assert!(alice.poll_transmit(now, &mut packet));
//! bob.handle_frames(now, packet.as_ref());
//! let Some(Event::Message { lane, message }) = bob.poll_event() else { panic!() };
//! assert_eq!(message, "hello");
//! bob.consume(lane, message.len());
//! # Ok::<(), peers_node::transport::SendError>(())
//! ```
//!
//! Sources: RFC 9000, sections 2, 4 and 13; RFC 9002; RFC 9438.

mod acks;
mod congestion;
mod frames;
mod incoming;
mod outgoing;
mod ranges;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_wire::{Reader, Writer};
use thiserror::Error;

use acks::Acks;
use frames::Frame;
pub use frames::MAX_FRAMES;
use incoming::{Incoming, Refused};
use outgoing::Outgoing;
use recovery::{Fate, Recovery, Sent};

/// An ordered queue of messages: first come first served within a lane, and a lane that is more urgent goes first. Every eighth packet begins with the least urgent instead, so that none starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small messages that steer others: at most 64 KiB each, 256 KiB held.
    Control = 0,
    /// What somebody waits for: at most 1 MiB each, 1 MiB held.
    Interactive = 1,
    /// Files and databases: at most [`MAX_MESSAGE_LEN`] each, 4 MiB held.
    Bulk = 2,
}

impl Lane {
    /// Every lane, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Control, Self::Interactive, Self::Bulk];

    /// Bytes of a message on this lane, at most.
    pub const fn max_message(self) -> usize {
        match self {
            Self::Control => 64 << 10,
            Self::Interactive => 1 << 20,
            Self::Bulk => MAX_MESSAGE_LEN,
        }
    }

    /// Bytes that a receiver takes beyond what it consumed; also the credit both sides begin with.
    const fn window(self) -> u64 {
        match self {
            Self::Control => 256 << 10,
            Self::Interactive => 1 << 20,
            Self::Bulk => 4 << 20,
        }
    }
}

/// A message given to [`Transport::send`]; counts up from 0 over all lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// What a transport may use.
#[derive(Debug, Clone)]
pub struct Config {
    /// Round trip assumed until one is measured; better: the one that the session's handshake took. Default 333 ms (RFC 9002, section 6.2.2).
    pub initial_rtt: Duration,
    /// Bytes of messages accepted and not acknowledged, over all lanes; one message is accepted whatever its length. Default 32 MiB: a message of the greatest length, and the next while it is on its way.
    pub send_buffer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { initial_rtt: Duration::from_millis(333), send_buffer: 32 << 20 }
    }
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The lane does not carry messages of this length.
    #[error("the message has {length} bytes, the lane carries at most {max}")]
    TooLong {
        /// Bytes of the message.
        length: usize,
        /// Bytes of the longest message.
        max: usize,
    },
    /// [`Config::send_buffer`] is used up: wait for [`Event::Acked`].
    #[error("{queued} bytes wait to be delivered: there is no room for more")]
    Full {
        /// Bytes that wait.
        queued: usize,
    },
}

/// What a transport tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message arrived. Call [`Transport::consume`] when it is dealt with: only then its bytes are free for the peer to use again.
    Message {
        /// The lane it was sent on.
        lane: Lane,
        /// Its bytes, in an allocation of its own.
        message: Bytes,
    },
    /// The message and all before it on its lane are in the other transport: whole, though perhaps not consumed.
    Acked(MessageId),
    /// The peer sent a stream that holds no messages; nothing more will come on this lane. End the session.
    Broken(Lane),
}

/// Counters since the start, and the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages accepted by [`Transport::send`].
    pub messages_sent: u64,
    /// Messages given out as [`Event::Message`].
    pub messages_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets received, those dropped included.
    pub packets_received: u64,
    /// Packets found lost.
    pub packets_lost: u64,
    /// Packets whose content was sent again because nothing was heard.
    pub packets_repeated: u64,
    /// Dropped: packets received before.
    pub dropped_duplicate: u64,
    /// Dropped: packets that do not decode.
    pub dropped_malformed: u64,
    /// Dropped: acknowledgements of packets that were never sent.
    pub dropped_unsent_acks: u64,
    /// Dropped: packets with data beyond the credit given.
    pub dropped_beyond_credit: u64,
    /// Dropped: packets with data in too many pieces.
    pub dropped_segments: u64,
    /// Now: bytes held for the peer.
    pub held: u64,
    /// Now: bytes of messages accepted and not acknowledged.
    pub queued: u64,
    /// Now: bytes in flight, with what session, UDP and IP add.
    pub in_flight: u64,
    /// Now: bytes that may be in flight.
    pub window: u64,
    /// Now: smoothed round trip, in microseconds.
    pub rtt_us: u64,
}

/// Reliable messages to one peer; see the [module](self). An idle one is below 2 KiB and has no timer.
#[derive(Debug)]
pub struct Transport {
    recovery: Recovery,
    acks: Acks,
    outgoing: [Outgoing; 3],
    incoming: [Incoming; 3],
    events: VecDeque<Event>,
    next_id: u64,
    /// Cost of the messages accepted and not acknowledged.
    queued: usize,
    send_buffer: usize,
    stats: Stats,
}

impl Transport {
    /// A transport for a new session. `seed` is drawn at random: it chooses the packet numbers left out.
    pub fn new(now: Instant, config: Config, seed: [u8; 32]) -> Self {
        Self {
            recovery: Recovery::new(now, config.initial_rtt, seed),
            acks: Acks::new(),
            outgoing: Lane::ALL.map(Outgoing::new),
            incoming: Lane::ALL.map(Incoming::new),
            events: VecDeque::new(),
            next_id: 0,
            queued: 0,
            send_buffer: config.send_buffer,
            stats: Stats::default(),
        }
    }

    /// Accepts a message of 0 to [`Lane::max_message`] bytes. The bytes are shared, not copied, until they are acknowledged.
    ///
    /// # Errors
    /// [`SendError`]; then nothing is accepted.
    pub fn send(&mut self, lane: Lane, message: Bytes) -> Result<MessageId, SendError> {
        let (length, max) = (message.len(), lane.max_message());
        if length > max {
            return Err(SendError::TooLong { length, max });
        }
        if self.queued > 0 && self.queued + length + QUEUED_COST > self.send_buffer {
            return Err(SendError::Full { queued: self.queued });
        }
        let id = MessageId(self.next_id);
        self.next_id += 1;
        self.queued += length + QUEUED_COST;
        self.stats.messages_sent += 1;
        self.outgoing[lane as usize].push(id, message);
        Ok(id)
    }

    /// The application is done with a message of `length` bytes that came on `lane`.
    pub fn consume(&mut self, lane: Lane, length: usize) {
        self.incoming[lane as usize].consume(length);
    }

    /// The session's datagrams take another path: what was learned of the old one is forgotten.
    pub fn path_changed(&mut self, now: Instant) {
        self.recovery.path_changed(now);
    }

    /// The path may be dead, and what is sent now goes by another as well: what is in flight is sent again, as far as that is little.
    pub fn path_in_doubt(&mut self) {
        let Self { recovery, outgoing, incoming, stats, .. } = self;
        recovery.repeat(|fate, sent| on_lost(fate, sent, outgoing, incoming, stats));
    }

    /// Takes one packet as the session opened it. What is wrong in it is dropped and counted, and the packet is not acknowledged.
    pub fn handle_frames(&mut self, now: Instant, packet: &[u8]) {
        self.stats.packets_received += 1;
        let mut reader = Reader::new(packet);
        let Ok(number) = reader.varint() else {
            self.stats.dropped_malformed += 1;
            return;
        };
        if self.acks.is_duplicate(number) {
            self.stats.dropped_duplicate += 1;
            return;
        }
        match self.on_packet(now, &mut reader) {
            Ok(asks_ack) => self.acks.on_packet(now, number, asks_ack),
            Err(Dropped::Malformed) => self.stats.dropped_malformed += 1,
            Err(Dropped::UnsentAck) => self.stats.dropped_unsent_acks += 1,
            Err(Dropped::Data(Refused::BeyondCredit)) => self.stats.dropped_beyond_credit += 1,
            Err(Dropped::Data(Refused::TooManySegments)) => self.stats.dropped_segments += 1,
        }
    }

    /// Finds losses and probes a silent peer. Early or repeated calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Self { recovery, outgoing, incoming, stats, .. } = self;
        recovery.handle_timeout(now, |fate, sent| on_lost(fate, sent, outgoing, incoming, stats));
    }

    /// Appends the next packet, of 1 to [`MAX_FRAMES`] bytes; returns false if there is nothing to send now.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Writer) -> bool {
        let wants = self.wants_to_send();
        let may_send = self.recovery.next_send();
        self.recovery.set_app_limited(!wants && may_send.is_some());
        let data = wants && may_send.is_some_and(|at| at <= now);
        if !data && self.acks.deadline().is_none_or(|deadline| deadline > now) {
            return false;
        }
        let start = out.len();
        let number = self.recovery.take_number();
        out.varint(number);
        let mut sent = Sent { acknowledges: self.acks.write(now, out), ..Sent::default() };
        if data {
            self.write_data(number, start, &mut sent, out);
            self.recovery.on_sent(now, number, out.len() - start, sent);
        }
        self.stats.packets_sent += 1;
        true
    }

    /// The next thing to know of, messages of the most urgent lane first.
    pub fn poll_event(&mut self) -> Option<Event> {
        for lane in Lane::ALL {
            if let Some(message) = self.incoming[lane as usize].pop() {
                self.stats.messages_received += 1;
                return Some(Event::Message { lane, message });
            }
            if self.incoming[lane as usize].take_broken() {
                return Some(Event::Broken(lane));
            }
        }
        self.events.pop_front()
    }

    /// When to call [`Transport::handle_timeout`] and [`Transport::poll_transmit`] again; none if nothing is in flight, owed or waiting for its turn.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pacer = self.recovery.next_send().filter(|_| self.wants_to_send());
        [pacer, self.acks.deadline(), self.recovery.poll_timeout()].into_iter().flatten().min()
    }

    /// Counters and the present state; O(pieces out of order).
    pub fn stats(&self) -> Stats {
        Stats {
            held: self.incoming.iter().map(Incoming::held).sum(),
            queued: self.queued as u64,
            in_flight: self.recovery.in_flight(),
            window: self.recovery.window(),
            rtt_us: u64::try_from(self.recovery.rtt().as_micros()).unwrap_or(u64::MAX),
            ..self.stats
        }
    }

    fn on_packet(&mut self, now: Instant, reader: &mut Reader<'_>) -> Result<bool, Dropped> {
        let mut asks_ack = false;
        if reader.remaining() == 0 {
            return Err(Dropped::Malformed);
        }
        while reader.remaining() > 0 {
            let frame = Frame::decode(reader).map_err(|_| Dropped::Malformed)?;
            asks_ack |= frame.asks_ack();
            match frame {
                Frame::Ping => {}
                Frame::Ack(ack) => self.on_ack(now, &ack)?,
                Frame::Credit { lane, limit } => self.outgoing[lane as usize].set_limit(limit),
                Frame::Data { lane, offset, bytes } => {
                    self.incoming[lane as usize].insert(offset, bytes).map_err(Dropped::Data)?;
                }
            }
        }
        Ok(asks_ack)
    }

    fn on_ack(&mut self, now: Instant, ack: &frames::Ack<'_>) -> Result<(), Dropped> {
        let Self { recovery, acks, outgoing, incoming, events, queued, stats, .. } = self;
        let settle = |fate, sent: &Sent| {
            if fate != Fate::Acked {
                return on_lost(fate, sent, outgoing, incoming, stats);
            }
            acks.forget(sent.acknowledges);
            for chunk in sent.chunks() {
                outgoing[chunk.lane as usize].on_acked(chunk, |id, length| {
                    *queued -= length + QUEUED_COST;
                    events.push_back(Event::Acked(id));
                });
            }
        };
        recovery.on_ack(now, ack, settle).map_err(|_| Dropped::UnsentAck)
    }

    fn wants_to_send(&self) -> bool {
        self.recovery.probes() > 0 || self.outgoing.iter().any(Outgoing::has_data) || self.incoming.iter().any(Incoming::owes_credit)
    }

    /// Fills a packet with credit and data, or a ping if there is neither.
    fn write_data(&mut self, number: u64, start: usize, sent: &mut Sent, out: &mut Writer) {
        for lane in Lane::ALL {
            let incoming = &mut self.incoming[lane as usize];
            if incoming.owes_credit() {
                frames::write_credit(out, lane, incoming.give_credit());
                sent.credits |= 1 << lane as u8;
            }
        }
        let mut order = Lane::ALL;
        if number % FAIR_EVERY == FAIR_EVERY - 1 {
            order.reverse();
        }
        for lane in order {
            while let Some(chunk) = self.outgoing[lane as usize].write(MAX_FRAMES - (out.len() - start), out) {
                sent.push(chunk);
            }
        }
        if sent.first.is_none() && sent.credits == 0 {
            frames::write_ping(out);
        }
    }
}

/// Why a packet is not acknowledged.
enum Dropped {
    Malformed,
    UnsentAck,
    Data(Refused),
}

/// Queues again what a packet carried.
fn on_lost(fate: Fate, sent: &Sent, outgoing: &mut [Outgoing; 3], incoming: &mut [Incoming; 3], stats: &mut Stats) {
    match fate {
        Fate::Acked => {}
        Fate::Lost => stats.packets_lost += 1,
        Fate::Repeat => stats.packets_repeated += 1,
    }
    for chunk in sent.chunks() {
        outgoing[chunk.lane as usize].on_lost(chunk);
    }
    for lane in Lane::ALL {
        if sent.credits & 1 << lane as u8 != 0 {
            incoming[lane as usize].on_credit_lost();
        }
    }
}

/// Bytes of the longest message: the longest that the cache carries (16 MiB) with what a layer above puts around it.
pub const MAX_MESSAGE_LEN: usize = (16 << 20) + (64 << 10);
/// What a message weighs in [`Config::send_buffer`] beyond its bytes.
const QUEUED_COST: usize = 64;
/// Of so many packets one begins with the least urgent lane.
const FAIR_EVERY: u64 = 8;
