//! Fragments that came before their parents wait here, bounded in bytes and seconds.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use peers_wire::{Header, Packet};

/// Bytes that wait at most, of everyone and of one neighbour.
const MAX_BYTES: usize = 256 << 10;
const MAX_BYTES_PER_NEIGHBOUR: usize = MAX_BYTES / 4;
/// How long a fragment waits.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Waiting fragments by the root of their tree.
#[derive(Debug, Default)]
pub(crate) struct Pen {
    waiting: BTreeMap<[u8; 32], Vec<Waiting>>,
    /// When the fragments of a root came, oldest first; may name roots that are empty by now.
    order: VecDeque<(Instant, [u8; 32])>,
    bytes: usize,
    by_neighbour: BTreeMap<u32, usize>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    from: u32,
    packet: Packet,
}

impl Pen {
    /// Lets a fragment wait.
    ///
    /// - returns: how many fragments were dropped for it, itself included
    pub(crate) fn insert(&mut self, now: Instant, from: u32, packet: Packet) -> u64 {
        let Some(root) = root_of(&packet) else { return 1 };
        let bytes = size_of::<Waiting>() + packet.as_bytes().len();
        let own = self.by_neighbour.get(&from).copied().unwrap_or(0) + bytes;
        if own > MAX_BYTES_PER_NEIGHBOUR {
            return 1;
        }
        self.by_neighbour.insert(from, own);
        self.bytes += bytes;
        self.order.push_back((now, root));
        self.waiting.entry(root).or_default().push(Waiting { since: now, from, packet });
        let mut dropped = 0;
        while self.bytes > MAX_BYTES {
            dropped += self.drop_oldest();
        }
        dropped
    }

    /// The waiting fragments of a packet's tree that can be `decided` now that it is held.
    pub(crate) fn take(&mut self, packet: &Packet, decided: impl Fn(&Packet) -> bool) -> Vec<(u32, Packet)> {
        let root = root_of(packet).unwrap_or_else(|| *packet.payload_digest());
        let Some(waiting) = self.waiting.get_mut(&root) else { return Vec::new() };
        let taken: Vec<Waiting> = waiting.extract_if(.., |waiting| decided(&waiting.packet)).collect();
        if waiting.is_empty() {
            self.waiting.remove(&root);
        }
        taken.into_iter().map(|waiting| self.release(waiting)).collect()
    }

    /// Drops what waited too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(since, _)| now.duration_since(*since) >= MAX_WAIT) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> u64 {
        let Some((since, root)) = self.order.pop_front() else { return 0 };
        let Some(waiting) = self.waiting.get_mut(&root) else { return 0 };
        let old = waiting.iter().take_while(|waiting| waiting.since <= since).count();
        let old: Vec<Waiting> = waiting.drain(..old).collect();
        if waiting.is_empty() {
            self.waiting.remove(&root);
        }
        let count = old.len() as u64;
        old.into_iter().for_each(|waiting| drop(self.release(waiting)));
        count
    }

    fn release(&mut self, waiting: Waiting) -> (u32, Packet) {
        let bytes = size_of::<Waiting>() + waiting.packet.as_bytes().len();
        self.bytes -= bytes;
        if let Some(own) = self.by_neighbour.get_mut(&waiting.from) {
            *own -= bytes;
            if *own == 0 {
                self.by_neighbour.remove(&waiting.from);
            }
        }
        (waiting.from, waiting.packet)
    }
}

fn root_of(packet: &Packet) -> Option<[u8; 32]> {
    match packet.header() {
        Header::Fragment(header) => Some(header.root),
        Header::Message(_) => None,
    }
}
