//! Where slots are: free ones are used again, and when there are many of them the last ones move in, so that memory follows what is held.

use super::{Class, Slot, Store, hash_key, node_of, previous_of};
use crate::list::{Kind, NONE};
use crate::message::Key;
use hashbrown::HashTable;

/// The part of the slots that may be free.
const FREE_SHARE: usize = 8;
/// The least number of slots for which it is worth to move any.
const MIN_SLOTS: usize = 64;
/// A table is made smaller when it has room for so many times what is in it; it is then still more than half empty.
const SPARSE: usize = 3;

impl Store {
    pub(super) fn allocate(&mut self, slot: Slot) -> u32 {
        while let Some(free) = self.free.pop() {
            if (free as usize) < self.slots.len() {
                self.slots[free as usize] = slot;
                self.free_slots -= 1;
                return free;
            }
        }
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len() / 8 + 4);
        }
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    /// Frees a slot that is in no list and no table. O(1), but for what is made smaller once in a number of calls in proportion.
    pub(super) fn release(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        (slot.class, slot.packet) = (Class::Free, None);
        self.free.push(at);
        self.free_slots += 1;
        for _ in 0..2 {
            if self.slots.len() < MIN_SLOTS || self.free_slots * FREE_SHARE <= self.slots.len() {
                return;
            }
            self.give_up_last();
        }
        if self.slots.len() + self.slots.len() / FREE_SHARE + MIN_SLOTS < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() + self.slots.len() / (2 * FREE_SHARE));
        }
        if self.free.len() > 2 * self.free_slots + MIN_SLOTS {
            let end = self.slots.len();
            self.free.retain(|slot| (*slot as usize) < end);
            self.free.shrink_to(self.free.len() * 2);
        }
        self.shrink_tables();
    }

    /// Ends the slab one slot earlier; what is there moves to a free one.
    fn give_up_last(&mut self) {
        let last = self.slots.len() - 1;
        if self.slots[last].class != Class::Free {
            let to = loop {
                match self.free.pop() {
                    Some(free) if (free as usize) < last => break free,
                    Some(_) => {}
                    None => return,
                }
            };
            self.relocate(u32::try_from(last).unwrap_or(NONE), to);
        }
        self.slots.pop();
        self.free_slots -= 1;
    }

    /// Moves a slot to a free one.
    fn relocate(&mut self, from: u32, to: u32) {
        self.slots.swap(from as usize, to as usize);
        let slot = &self.slots[to as usize];
        let (tag, bound, class, account, expiry) = (slot.tag(), slot.bound(), slot.class, slot.account, slot.expiry);
        let (key, previous, node) = (slot.key(), previous_of(slot.packet()), node_of(self.secret, slot.packet()));
        self.turn.replace(&mut self.slots, Kind::Turn, from, to);
        if let Some(list) = self.expiry.get_mut(&expiry) {
            list.replace(&mut self.slots, Kind::Expiry, from, to);
        }
        if let Some(topic) = self.topics.get_mut(&tag) {
            topic.order.relocate(&bound, to);
            if class == Class::Wanted {
                topic.wanted.replace(&mut self.slots, Kind::Giver, from, to);
            }
        }
        match class {
            Class::Recent => self.recent.replace(&mut self.slots, Kind::Rank, from, to),
            Class::Settled(rank) => self.settled[usize::from(rank)].replace(&mut self.slots, Kind::Rank, from, to),
            Class::Wanted | Class::Free => {}
        }
        if class != Class::Wanted {
            self.accounts.list_mut(account).replace(&mut self.slots, Kind::Giver, from, to);
        }
        let point = |table: &mut HashTable<u32>, key: Option<Key>| {
            let found = key.and_then(|key| table.find_mut(hash_key(self.secret, key), |slot| *slot == from));
            found.into_iter().for_each(|slot| *slot = to);
        };
        point(&mut self.by_key, Some(key));
        point(&mut self.by_previous, previous);
        point(&mut self.by_root, node);
    }

    fn shrink_tables(&mut self) {
        let (slots, secret) = (&self.slots, self.secret);
        let shrink = |table: &mut HashTable<u32>, key: &dyn Fn(&Slot) -> Option<Key>| {
            if table.capacity() > SPARSE * table.len() + MIN_SLOTS {
                table.shrink_to(table.len(), |slot| key(&slots[*slot as usize]).map_or(0, |key| hash_key(secret, key)));
            }
        };
        shrink(&mut self.by_key, &|slot| Some(slot.key()));
        shrink(&mut self.by_previous, &|slot| previous_of(slot.packet()));
        shrink(&mut self.by_root, &|slot| node_of(secret, slot.packet()));
        if self.topics.capacity() > SPARSE * self.topics.len() + MIN_SLOTS {
            self.topics.shrink_to(self.topics.len());
        }
    }
}
