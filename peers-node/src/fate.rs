//! What became of what was sent: who proved to hold it, and what nobody came for in time.

use std::time::Instant;

use peers_wire::{PacketId, Timestamp};

use crate::message::LetterId;
use crate::stack::Stack;

impl Stack {
    /// Wants to know when `copies` peers hold a message published here, beyond the three or so that are asked anyway: at most 32 are counted.
    ///
    /// - `id`: its packet, the head where it has fragments
    pub fn watch(&mut self, now: Instant, wall: Timestamp, id: PacketId, copies: u32) {
        self.cache.watch(now, id, copies);
        self.settle(now, wall);
    }

    /// As [`Stack::watch`], for a letter: in vain while it is on its way to its recipient directly.
    pub fn watch_letter(&mut self, now: Instant, wall: Timestamp, id: LetterId, copies: u32) {
        if let Some(packet) = self.mail.packet_of(&id) {
            self.watch(now, wall, packet, copies);
        }
    }
}
