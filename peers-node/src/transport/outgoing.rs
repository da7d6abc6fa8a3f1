//! The sending half of a lane: messages as one stream of bytes, each behind its length.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use peers_wire::Writer;

use super::frames::{MAX_DATA_HEADER, MAX_FRAMES, write_data_header};
use super::ranges::Ranges;
use super::{Lane, MessageId};

/// A piece of a lane's stream, as a packet carried it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) lane: Lane,
    offset: u64,
    length: u16,
}

impl Chunk {
    const fn range(self) -> Range<u64> {
        self.offset..self.offset + self.length as u64
    }
}

#[derive(Debug)]
pub(super) struct Outgoing {
    lane: Lane,
    /// Messages not acknowledged as a whole, in order; the first starts at or before `base`.
    messages: VecDeque<Queued>,
    /// All before is acknowledged.
    base: u64,
    /// What is acknowledged behind `base`.
    acked: Ranges,
    /// What was sent and must be sent again; none of it acknowledged.
    lost: Ranges,
    /// All before was sent at least once.
    next: u64,
    /// End of the last message.
    end: u64,
    /// The other side's credit.
    limit: u64,
}

#[derive(Debug)]
struct Queued {
    id: MessageId,
    start: u64,
    message: Bytes,
}

impl Queued {
    const fn end(&self) -> u64 {
        self.start + LENGTH as u64 + self.message.len() as u64
    }
}

impl Outgoing {
    pub(super) fn new(lane: Lane) -> Self {
        let (acked, lost) = Default::default();
        Self { lane, messages: VecDeque::new(), base: 0, acked, lost, next: 0, end: 0, limit: lane.window() }
    }

    pub(super) fn push(&mut self, id: MessageId, message: Bytes) {
        let queued = Queued { id, start: self.end, message };
        self.end = queued.end();
        self.messages.push_back(queued);
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// Whether anything may be sent, now or again.
    pub(super) fn has_data(&self) -> bool {
        !self.lost.is_empty() || self.next < self.end.min(self.limit)
    }

    /// Appends one data frame of what is lost, or else new; nothing if less than a useful piece fits in `room` bytes.
    pub(super) fn write(&mut self, room: usize, out: &mut Writer) -> Option<Chunk> {
        let room = room.checked_sub(MAX_DATA_HEADER).filter(|room| *room >= MIN_CHUNK)?;
        let range = self.take_range(room.min(MAX_FRAMES) as u64)?;
        let length = u16::try_from(range.end - range.start).expect("a chunk is at most MAX_FRAMES");
        write_data_header(out, self.lane, range.start, usize::from(length));
        self.copy(range.clone(), out);
        Some(Chunk { lane: self.lane, offset: range.start, length })
    }

    /// A packet with `chunk` is lost, or unanswered for so long that it is sent again.
    pub(super) fn on_lost(&mut self, chunk: Chunk) {
        let Range { start, end } = chunk.range();
        let mut start = start.max(self.base);
        while start < end {
            let known = self.acked.around(start);
            let stop = self.acked.next_start(start).unwrap_or(end).min(end);
            if known.is_none() {
                self.lost.insert(start..stop);
            }
            start = known.map_or(stop, |known| known.end);
        }
    }

    /// A packet with `chunk` arrived; `done` gets each message that arrived whole with all before it, and its length.
    pub(super) fn on_acked(&mut self, chunk: Chunk, mut done: impl FnMut(MessageId, usize)) {
        let range = chunk.range();
        if !self.lost.is_empty() {
            self.lost.remove(range.clone());
        }
        if range.start <= self.base && self.acked.is_empty() {
            self.base = self.base.max(range.end);
        } else {
            self.acked.insert(range.start.max(self.base)..range.end.max(self.base));
            if let Some(first) = self.acked.first().filter(|first| first.start <= self.base) {
                self.acked.remove(first.clone());
                self.base = first.end;
            }
        }
        while let Some(queued) = self.messages.front().filter(|queued| queued.end() <= self.base) {
            done(queued.id, queued.message.len());
            self.messages.pop_front();
        }
        if self.messages.is_empty() && self.messages.capacity() > IDLE_CAPACITY {
            self.messages = VecDeque::new();
        }
    }

    fn take_range(&mut self, room: u64) -> Option<Range<u64>> {
        if let Some(lost) = self.lost.first() {
            let range = lost.start..lost.end.min(lost.start + room);
            self.lost.remove(range.clone());
            return Some(range);
        }
        let end = self.end.min(self.limit).min(self.next + room);
        let range = self.next..end;
        self.next = end.max(self.next);
        (!range.is_empty()).then_some(range)
    }

    /// Copies a part of the stream that is not acknowledged.
    fn copy(&self, range: Range<u64>, out: &mut Writer) {
        let first = self.messages.partition_point(|message| message.end() <= range.start);
        let mut at = range.start;
        for queued in self.messages.range(first..) {
            if at >= range.end {
                break;
            }
            let length = u32::try_from(queued.message.len()).expect("MAX_MESSAGE_LEN fits").to_be_bytes();
            at += copy_part(&length, at - queued.start, range.end - at, out);
            at += copy_part(&queued.message, (at - queued.start).saturating_sub(LENGTH as u64), range.end - at, out);
        }
    }
}

/// Copies at most `most` bytes of `bytes` from `skip` on; returns how many.
fn copy_part(bytes: &[u8], skip: u64, most: u64, out: &mut Writer) -> u64 {
    let rest = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)).unwrap_or_default();
    let part = &rest[..rest.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
    out.bytes(part);
    part.len() as u64
}

/// Bytes of a message's length in the stream.
pub(super) const LENGTH: usize = 4;
/// A smaller piece is not worth a frame of its own at the end of a packet.
const MIN_CHUNK: usize = 16;
/// Records kept allocated while nothing is queued.
const IDLE_CAPACITY: usize = 64;
