//! The frames that two transports exchange; `docs/PROTOCOL.md`, chapter 9, has them byte by byte.

use std::ops::RangeInclusive;
use std::time::Duration;

use peers_wire::{DecodeError, Reader, Writer};

use super::Lane;
use super::ranges::Ranges;

/// One part of a packet, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// Asks for an acknowledgement and says nothing else.
    Ping,
    /// Which packets arrived.
    Ack(Ack<'a>),
    /// The offset in a lane's stream up to which the other side may send.
    Credit { lane: Lane, limit: u64 },
    /// Bytes of a lane's stream.
    Data { lane: Lane, offset: u64, bytes: &'a [u8] },
}

impl<'a> Frame<'a> {
    /// Reads one frame; an acknowledgement is checked as a whole.
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            PING => Ok(Self::Ping),
            ACK => Ack::decode(reader).map(Self::Ack),
            kind @ CREDIT..DATA => Ok(Self::Credit { lane: lane(kind, CREDIT)?, limit: reader.varint()? }),
            kind @ DATA.. => {
                let lane = lane(kind, DATA)?;
                Ok(Self::Data { lane, offset: reader.varint()?, bytes: reader.string(MAX_FRAMES, "data")? })
            }
            kind => Err(DecodeError::Kind(kind)),
        }
    }

    /// Whether a packet with this frame is acknowledged: all but acknowledgements are.
    pub(super) const fn asks_ack(&self) -> bool {
        !matches!(self, Self::Ack(_))
    }
}

/// An acknowledgement: the highest packet number received and the ranges below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack<'a> {
    pub(super) largest: u64,
    /// How long the highest packet waited for this acknowledgement.
    pub(super) delay: Duration,
    first: u64,
    /// `count` pairs of gap and length, already checked.
    rest: &'a [u8],
}

impl<'a> Ack<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let largest = reader.varint()?;
        let delay = Duration::from_micros(reader.varint()?);
        let count = reader.count(MAX_ACK_RANGES - 1, "count of ranges")?;
        let first = reader.varint()?;
        let mut smallest = largest.checked_sub(first).ok_or(DecodeError::Range("range"))?;
        let mut ahead = *reader;
        for _ in 0..count {
            smallest = *next_range(&mut ahead, smallest)?.start();
        }
        let rest = reader.bytes(reader.remaining() - ahead.remaining())?;
        Ok(Self { largest, delay, first, rest })
    }

    /// The ranges acknowledged, highest first; at most [`MAX_ACK_RANGES`].
    pub(super) fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        let (mut reader, mut smallest) = (Reader::new(self.rest), self.largest - self.first);
        let others = std::iter::from_fn(move || {
            let range = next_range(&mut reader, smallest).ok()?;
            smallest = *range.start();
            Some(range)
        });
        std::iter::once(self.largest - self.first..=self.largest).chain(others)
    }
}

/// Appends the packet numbers in `received`, of which there is at least one.
pub(super) fn write_ack(out: &mut Writer, received: &Ranges, delay: Duration) {
    let mut smallest = None;
    for range in received.descending().take(MAX_ACK_RANGES) {
        let (start, largest) = (range.start, range.end - 1);
        match smallest {
            None => {
                let others = received.len().min(MAX_ACK_RANGES) - 1;
                let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
                out.u8(ACK).varint(largest).varint(micros).varint(others as u64).varint(largest - start);
            }
            Some(above) => {
                let above: u64 = above;
                out.varint(above - largest - 2).varint(largest - start);
            }
        }
        smallest = Some(start);
    }
}

pub(super) fn write_ping(out: &mut Writer) {
    out.u8(PING);
}

pub(super) fn write_credit(out: &mut Writer, lane: Lane, limit: u64) {
    out.u8(CREDIT + lane as u8).varint(limit);
}

/// Appends all of a data frame but its bytes, which the caller appends.
pub(super) fn write_data_header(out: &mut Writer, lane: Lane, offset: u64, length: usize) {
    out.u8(DATA + lane as u8).varint(offset).varint(length as u64);
}

fn next_range(reader: &mut Reader<'_>, above: u64) -> Result<RangeInclusive<u64>, DecodeError> {
    let (gap, length) = (reader.varint()?, reader.varint()?);
    let largest = above.checked_sub(gap + 2).ok_or(DecodeError::Range("gap"))?;
    let smallest = largest.checked_sub(length).ok_or(DecodeError::Range("range"))?;
    Ok(smallest..=largest)
}

fn lane(kind: u8, base: u8) -> Result<Lane, DecodeError> {
    Lane::ALL.get(usize::from(kind - base)).copied().ok_or(DecodeError::Kind(kind))
}

/// Bytes of one packet: what a node's data message leaves for frames in the longest plaintext that a session seals with AEGIS. Sixteen more would fit a datagram, under the
/// other cipher, at nine times its price.
pub const MAX_FRAMES: usize = peers_crypto::MAX_AEGIS_PLAINTEXT - 2;
/// Ranges that an acknowledgement reports and a receiver remembers; an acknowledgement of all of them still fits beside data.
pub(super) const MAX_ACK_RANGES: usize = 32;
/// Bytes of a data frame before its bytes, at most.
pub(super) const MAX_DATA_HEADER: usize = 1 + 8 + 2;

const PING: u8 = 1;
const ACK: u8 = 2;
const CREDIT: u8 = 4;
const DATA: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_acknowledgement_reads_back(starts in proptest::collection::btree_map(0u64..5000, 1u64..9, 1..20), micros in 0u64..1 << 40) {
            let mut received = Ranges::default();
            for (start, length) in starts {
                received.insert(start..start + length);
            }
            let mut out = Writer::default();
            write_ack(&mut out, &received, Duration::from_micros(micros));
            let mut reader = Reader::new(out.as_ref());
            let Ok(Frame::Ack(ack)) = Frame::decode(&mut reader) else { panic!("what was written reads") };
            prop_assert_eq!(reader.finish(), Ok(()));
            prop_assert_eq!(ack.delay, Duration::from_micros(micros));
            let ranges: Vec<_> = ack.ranges().map(|range| *range.start()..range.end() + 1).collect();
            prop_assert_eq!(ranges, received.descending().collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut reader = Reader::new(&bytes);
            while reader.remaining() > 0 {
                match Frame::decode(&mut reader) {
                    Ok(Frame::Ack(ack)) => prop_assert!(ack.ranges().all(|range| range.start() <= range.end() && *range.end() <= ack.largest)),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
    }

    /// The vectors of `docs/PROTOCOL.md`, chapter 9, without the packet numbers.
    #[test]
    fn the_vectors_of_the_specification() {
        let mut out = Writer::default();
        write_data_header(&mut out, Lane::Interactive, 0, 9);
        out.u32(5).bytes(b"hello");
        assert_eq!(out.as_ref(), b"\x09\x00\x09\0\0\0\x05hello");

        let (mut out, mut received) = (Writer::default(), Ranges::default());
        received.insert(0..5);
        received.insert(7..8);
        write_ack(&mut out, &received, Duration::from_millis(1));
        assert_eq!(out.as_ref(), b"\x02\x07\x43\xe8\x01\x00\x01\x04");

        let mut out = Writer::default();
        write_credit(&mut out, Lane::Bulk, 8 << 20);
        assert_eq!(out.as_ref(), b"\x06\x80\x80\x00\x00");
    }

    #[test]
    fn an_acknowledgement_below_zero_is_refused() {
        for bytes in [&[ACK, 5, 0, 0, 6][..], &[ACK, 5, 0, 1, 2, 2, 0], &[ACK, 5, 0, 1, 2, 0, 2]] {
            assert!(matches!(Frame::decode(&mut Reader::new(bytes)), Err(DecodeError::Range(_))));
        }
    }

    #[test]
    fn a_lane_that_does_not_exist_is_refused() {
        for kind in [0, 3, 7, 11, 255] {
            assert_eq!(Frame::decode(&mut Reader::new(&[kind, 0, 0])), Err(DecodeError::Kind(kind)));
        }
    }
}
