//! Packets for tests, and how much memory they take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
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

/// The system's allocator, which counts.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated and not freed, the allocator's own header of each block included.
pub(crate) fn allocated() -> usize {
    ALLOCATED.get()
}

fn size(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16)
}

#[expect(unsafe_code, reason = "there is no safe way to see what is allocated")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get().wrapping_add(size(layout))));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get().wrapping_sub(size(layout))));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
