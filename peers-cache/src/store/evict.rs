//! Which packet makes room for another.
//!
//! What goes first when the budget is full: what has expired; then the oldest of a topic or of a neighbour that has more than its
//! share; then, of topics not subscribed to, what is farthest from the peer's own id by hash distance, though never while it is among
//! the newest eighth; at last the oldest of the subscribed topics. So the newest is never the victim.

use super::{Class, Store, cost};
use crate::list::{Kind, List, NONE};
use crate::message::{Bound, Key};

/// Shares of the budget: of one topic not subscribed to, of one neighbour, of what is newest, of one subscribed topic, of all of them.
pub(super) const FOREIGN_TOPIC_SHARE: usize = 4;
pub(super) const GIVER_SHARE: usize = 4;
const RECENT_SHARE: usize = 8;
const OWN_TOPIC_SHARE: usize = 2;
/// Ranks of hash distance: 64 powers of two in four steps each.
const RANKS: usize = 256;

impl Store {
    /// Evicts until the budget holds; the slot `new` stays.
    pub(super) fn make_room(&mut self, new: u32) {
        while self.used > self.budget {
            let Some(victim) = self.victim(new) else { break };
            self.remove_slot(victim);
        }
    }

    fn victim(&mut self, new: u32) -> Option<u32> {
        let slot = &self.slots[new as usize];
        let (tag, class, giver) = (slot.tag(), slot.class, usize::from(slot.giver));
        let preferred = class == Class::Preferred;
        if let Some(topic) = self.topics.get(&tag)
            && topic.bytes > self.budget / if preferred { OWN_TOPIC_SHARE } else { FOREIGN_TOPIC_SHARE }
            && let Some(victim) = topic.order.range(Bound::MIN, Bound::MAX).map(|entry| entry.slot).find(|slot| *slot != new)
        {
            return Some(victim);
        }
        if !preferred
            && self.givers[giver].peer.is_some()
            && self.givers[giver].bytes > self.budget / GIVER_SHARE
            && self.givers[giver].list.head != new
        {
            return Some(self.givers[giver].list.head);
        }
        while self.recent_bytes > self.budget / RECENT_SHARE && self.recent.head != new {
            let oldest = self.recent.head;
            self.leave(oldest);
            self.enter(oldest, Class::Settled(self.rank(self.slots[oldest as usize].key())));
        }
        let foreign = self.farthest_settled().or_else(|| Some(self.recent.head).filter(|slot| *slot != NONE && *slot != new));
        let own = Some(self.preferred.head).filter(|slot| *slot != NONE && *slot != new);
        if self.preferred_bytes > self.budget / 4 * 3 { own.or(foreign) } else { foreign.or(own) }
    }

    /// The oldest of the settled packets of the highest rank.
    fn farthest_settled(&mut self) -> Option<u32> {
        while self.settled.get(self.farthest)?.head == NONE {
            self.farthest = self.farthest.checked_sub(1)?;
        }
        Some(self.settled[self.farthest].head)
    }

    /// Hash distance from the peer's own id; less is nearer.
    pub(crate) const fn distance(&self, key: Key) -> u64 {
        key.0[1] ^ self.place
    }

    /// The distance as a rank: its exponent and two bits of its mantissa.
    pub(super) fn rank(&self, key: Key) -> u8 {
        let distance = self.distance(key).max(4);
        let exponent = 63 - distance.leading_zeros();
        let rank = exponent * 4 + u32::try_from(distance >> (exponent - 2) & 3).unwrap_or(0);
        u8::try_from(rank).unwrap_or(u8::MAX)
    }

    /// Puts a slot in the lists of its class.
    pub(super) fn enter(&mut self, at: u32, class: Class) {
        self.slots[at as usize].class = class;
        let (bytes, giver) = (cost(self.slots[at as usize].packet()), usize::from(self.slots[at as usize].giver));
        let list = match class {
            Class::Preferred => {
                self.preferred_bytes += bytes;
                self.preferred.push(&mut self.slots, Kind::Rank, at);
                return;
            }
            Class::Recent => {
                self.recent_bytes += bytes;
                &mut self.recent
            }
            Class::Settled(rank) => {
                let rank = usize::from(rank);
                if self.settled.is_empty() {
                    self.settled.resize(RANKS, List::EMPTY);
                }
                self.farthest = self.farthest.max(rank);
                &mut self.settled[rank]
            }
            Class::Free => return,
        };
        list.push(&mut self.slots, Kind::Rank, at);
        self.givers[giver].bytes += bytes;
        self.givers[giver].list.push(&mut self.slots, Kind::Giver, at);
    }

    /// Takes a slot out of the lists of its class.
    pub(super) fn leave(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        let (bytes, class, giver) = (cost(slot.packet()), slot.class, usize::from(slot.giver));
        let list = match class {
            Class::Preferred => {
                self.preferred_bytes -= bytes;
                self.preferred.unlink(&mut self.slots, Kind::Rank, at);
                return;
            }
            Class::Recent => {
                self.recent_bytes -= bytes;
                &mut self.recent
            }
            Class::Settled(rank) => &mut self.settled[usize::from(rank)],
            Class::Free => return,
        };
        list.unlink(&mut self.slots, Kind::Rank, at);
        self.givers[giver].bytes -= bytes;
        self.givers[giver].list.unlink(&mut self.slots, Kind::Giver, at);
    }
}
