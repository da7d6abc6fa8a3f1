//! Packets for tests.

use std::time::Instant;

use peers_wire::{Link, MessageHeader, Packet, Signature, Timestamp, TopicId};

pub(crate) const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// Some instant: no test depends on which.
pub(crate) fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "std has no other way to make an Instant")]
    Instant::now()
}

/// An unsigned message packet on a topic by number, distinct by `number`.
pub(crate) fn packet(topic: u8, number: u64, size: usize) -> Packet {
    let header = MessageHeader {
        postage: 16,
        created: WALL.plus(number),
        lifetime: 60,
        fragments: 0,
        topic: TopicId([topic; 32]),
        previous: Link::NONE,
        signature: Signature([7; 64]),
    };
    header.packet(&vec![1; size]).expect("all fields are in range")
}
