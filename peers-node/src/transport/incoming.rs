//! The receiving half of a lane: puts the stream together again and cuts it into messages.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Lane;
use super::outgoing::LENGTH;

/// Why bytes of a stream are not taken. The packet they came in is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// They are beyond the credit given.
    BeyondCredit,
    /// [`MAX_SEGMENTS`] pieces wait for others already.
    TooManySegments,
}

/// Holds at most, in bytes: `window` of pieces out of order, one message in the making, and `window` plus one message delivered and not consumed.
#[derive(Debug)]
pub(super) struct Incoming {
    lane: Lane,
    /// All of the stream before is in messages.
    read: u64,
    /// Pieces that wait for what is before them, or for room; by offset, disjoint, none before `read`.
    segments: BTreeMap<u64, Bytes>,
    partial: Partial,
    ready: VecDeque<Bytes>,
    /// Cost of the messages cut and not consumed.
    held: u64,
    /// The credit given.
    limit: u64,
    /// The packet that carried the credit is lost.
    credit_lost: bool,
}

/// The message in the making.
#[derive(Debug)]
enum Partial {
    Length {
        bytes: [u8; LENGTH],
        have: usize,
    },
    Body {
        length: usize,
        body: Vec<u8>,
    },
    /// The stream holds a length that no message has: nothing after it means anything.
    Broken {
        reported: bool,
    },
}

impl Incoming {
    pub(super) const fn new(lane: Lane) -> Self {
        Self {
            lane,
            read: 0,
            segments: BTreeMap::new(),
            partial: Partial::Length { bytes: [0; LENGTH], have: 0 },
            ready: VecDeque::new(),
            held: 0,
            limit: lane.window(),
            credit_lost: false,
        }
    }

    /// Takes a piece of the stream. Bytes that are there already are not replaced.
    pub(super) fn insert(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.limit {
            return Err(Refused::BeyondCredit);
        }
        if end <= self.read || self.is_broken() {
            return Ok(());
        }
        let mut offset = offset.max(self.read);
        let mut bytes = tail(bytes, end - offset);
        if offset == self.read && self.segments.is_empty() {
            let taken = self.cut(bytes);
            offset += taken as u64;
            bytes = &bytes[taken..];
        }
        self.store(offset, bytes)?;
        self.drain();
        Ok(())
    }

    /// The next message.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let message = self.ready.pop_front()?;
        if self.ready.is_empty() && self.ready.capacity() > IDLE_CAPACITY {
            self.ready = VecDeque::new();
        }
        Some(message)
    }

    /// The application is done with a message of `length` bytes.
    pub(super) fn consume(&mut self, length: usize) {
        self.held = self.held.saturating_sub(length as u64 + MESSAGE_COST);
        self.drain();
    }

    /// Says once that the stream is broken.
    pub(super) const fn take_broken(&mut self) -> bool {
        if let Partial::Broken { reported } = &mut self.partial { !std::mem::replace(reported, true) } else { false }
    }

    const fn is_broken(&self) -> bool {
        matches!(self.partial, Partial::Broken { .. })
    }

    /// Bytes kept for the other side.
    pub(super) fn held(&self) -> u64 {
        let partial = if let Partial::Body { body, .. } = &self.partial { body.capacity() as u64 } else { 0 };
        self.held + partial + self.segments.values().map(|segment| segment.len() as u64 + SEGMENT_COST).sum::<u64>()
    }

    /// Whether the other side should hear of more credit: a quarter of the window, or what it was told is lost.
    pub(super) const fn owes_credit(&self) -> bool {
        self.credit_lost || self.credit() >= self.limit + self.lane.window() / 4
    }

    /// Gives credit: the offset up to which the other side may send.
    pub(super) fn give_credit(&mut self) -> u64 {
        self.credit_lost = false;
        self.limit = self.limit.max(self.credit());
        self.limit
    }

    /// The packet that carried the credit is lost.
    pub(super) const fn on_credit_lost(&mut self) {
        self.credit_lost = true;
    }

    const fn credit(&self) -> u64 {
        self.read + self.lane.window().saturating_sub(self.held)
    }

    /// Keeps what of a piece is not there already.
    fn store(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<(), Refused> {
        while !bytes.is_empty() {
            let end = offset + bytes.len() as u64;
            let before = self.segments.range(..=offset).next_back().map_or(offset, |(start, segment)| start + segment.len() as u64);
            if before > offset {
                bytes = tail(bytes, end.saturating_sub(before));
                offset = before;
                continue;
            }
            let gap_end = self.segments.range(offset..end).next().map_or(end, |(start, _)| *start);
            if self.segments.len() >= MAX_SEGMENTS {
                return Err(Refused::TooManySegments);
            }
            let rest = tail(bytes, end - gap_end);
            self.segments.insert(offset, Bytes::copy_from_slice(&bytes[..bytes.len() - rest.len()]));
            (offset, bytes) = (gap_end, rest);
        }
        Ok(())
    }

    /// Cuts what is contiguous into messages, as far as there is room.
    fn drain(&mut self) {
        while self.has_room()
            && let Some(entry) = self.segments.first_entry()
            && *entry.key() == self.read
        {
            let segment = entry.remove();
            let taken = self.cut(&segment);
            if taken < segment.len() {
                self.segments.insert(self.read, segment.slice(taken..));
            }
        }
        if self.is_broken() {
            self.segments.clear();
        }
    }

    const fn has_room(&self) -> bool {
        self.held < self.lane.window() && !self.is_broken()
    }

    /// Cuts `bytes`, which are at `read`, into messages; returns how many it took.
    fn cut(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while self.has_room() && !rest.is_empty() {
            rest = self.cut_one(rest);
        }
        let taken = bytes.len() - rest.len();
        self.read += taken as u64;
        taken
    }

    /// Adds to the message in the making; returns the rest.
    fn cut_one<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match &mut self.partial {
            Partial::Length { bytes: length, have } => {
                let (head, rest) = bytes.split_at(bytes.len().min(LENGTH - *have));
                length[*have..*have + head.len()].copy_from_slice(head);
                *have += head.len();
                if *have < LENGTH {
                    return rest;
                }
                let length = u32::from_be_bytes(*length) as usize;
                if length > self.lane.max_message() {
                    self.partial = Partial::Broken { reported: false };
                } else if let Some((message, rest)) = rest.split_at_checked(length) {
                    self.deliver(Bytes::copy_from_slice(message));
                    return rest;
                } else {
                    // What is announced is not allocated before it comes.
                    self.partial = Partial::Body { length, body: Vec::with_capacity(length.min(MAX_ADVANCE)) };
                }
                rest
            }
            Partial::Body { length, body } => {
                let (head, rest) = bytes.split_at(bytes.len().min(*length - body.len()));
                body.extend_from_slice(head);
                if body.len() == *length {
                    let message = std::mem::take(body).into();
                    self.deliver(message);
                }
                rest
            }
            Partial::Broken { .. } => bytes,
        }
    }

    fn deliver(&mut self, message: Bytes) {
        self.held += message.len() as u64 + MESSAGE_COST;
        self.ready.push_back(message);
        self.partial = Partial::Length { bytes: [0; LENGTH], have: 0 };
    }
}

/// The last `length` bytes.
fn tail(bytes: &[u8], length: u64) -> &[u8] {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[bytes.len() - length..]
}

/// What a message weighs beyond its bytes: so that empty ones are not free.
const MESSAGE_COST: u64 = 64;
/// What a piece out of order weighs beyond its bytes.
const SEGMENT_COST: u64 = 64;
/// Pieces out of order that a lane keeps; past it packets are dropped, to be sent again. A window of full packets is fewer.
const MAX_SEGMENTS: usize = 4096;
/// Bytes allocated for a message of which nothing has come.
const MAX_ADVANCE: usize = 64 << 10;
/// Records kept allocated while nothing is ready.
const IDLE_CAPACITY: usize = 64;
