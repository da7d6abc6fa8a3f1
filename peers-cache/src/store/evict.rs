//! Which packet makes room for another: docs/decisions/0023-what-a-cache-keeps.md, "Policy".
//!
//! What has expired goes first. Wanted packets (of subscribed topics, and our own) and those of strangers do not compete but for what the other leaves. Of the wanted, the topic that
//! has most gives up its oldest. Of the strangers', first a topic and then an origin that has more than its share gives up its oldest; else what is farthest from the peer's own
//! id by hash distance goes, where what many hold counts as farther, though never what is among the newest eighth. So the newest is never the victim.

use super::accounts::OURS;
use super::{Class, Store, cost};
use crate::list::{Kind, List, NONE};
use crate::message::{Bound, Key, Tag};

/// Shares of the budget: of one topic of strangers, of one origin.
pub(super) const TOPIC_SHARE: usize = 8;
pub(super) const ORIGIN_SHARE: usize = 4;
/// The newest packets of strangers, which are not ranked yet.
pub(super) const RECENT_SHARE: usize = 8;
/// What is wanted may take all but this part of the budget, which is left to strangers.
pub(super) const STRANGERS_SHARE: usize = 4;
/// Ranks: 64 powers of two in four steps each for the distance, and what may be added.
const RANKS: u16 = 256 + PLENTY_STEPS;
/// Neighbours that hold a packet, from which on the network has plenty of it, and by how many steps it then counts as farther: twice as far. No more than that: whoever
/// floods holds back what it holds, and says to hold what it does not.
const PLENTY: u8 = 3;
const PLENTY_STEPS: u16 = 4;
impl Store {
    /// More is held than may be.
    pub(super) fn is_over(&self) -> bool {
        self.is_over_wanted() || self.is_over_strangers()
    }

    fn is_over_wanted(&self) -> bool {
        self.wanted_used() > self.wanted_budget.max(self.budget - self.budget / STRANGERS_SHARE)
    }

    fn is_over_strangers(&self) -> bool {
        self.used() - self.wanted_used() > self.budget.saturating_sub(self.wanted_used()).max(self.budget / STRANGERS_SHARE)
    }

    /// Evicts until the budget holds; the packet `new` stays.
    pub(super) fn make_room(&mut self, new: Option<Key>) {
        loop {
            // Slots may move when one is freed.
            let new = new.and_then(|new| self.find(new)).unwrap_or(NONE);
            let victim = if self.is_over_wanted() {
                self.heaviest_topic(new)
            } else if self.is_over_strangers() {
                self.over_its_share(new).or_else(|| self.farthest(new))
            } else {
                return;
            };
            let Some(victim) = victim else { return };
            self.remove_slot(victim);
        }
    }

    /// The oldest wanted packet of the topic that has most of these.
    fn heaviest_topic(&self, new: u32) -> Option<u32> {
        let oldest = |(_, tag): &(usize, Tag)| self.topics.get(tag).map(|topic| topic.wanted.head);
        self.wanted.iter().rev().filter_map(oldest).find(|slot| *slot != new)
    }

    /// The oldest packet of strangers on this topic, or of any origin, if it has more than its share.
    fn over_its_share(&self, new: u32) -> Option<u32> {
        if let Some(topic) = self.slots.get(new as usize).and_then(|new| self.topics.get(&new.tag()))
            && topic.bytes - topic.wanted_bytes > self.budget / TOPIC_SHARE
        {
            let slots = topic.order.range(Bound::MIN, Bound::MAX).map(|entry| entry.slot);
            return slots.into_iter().find(|slot| *slot != new && !self.slots[*slot as usize].is_preferred());
        }
        let (bytes, oldest) = self.accounts.heaviest()?;
        (bytes > self.budget / ORIGIN_SHARE && oldest != new).then_some(oldest)
    }

    /// The oldest of the settled packets of the highest rank; if none is settled, the oldest of the newest.
    fn farthest(&mut self, new: u32) -> Option<u32> {
        while self.recent_bytes > self.budget / RECENT_SHARE && self.recent.head != new {
            let oldest = self.recent.head;
            self.unrank(oldest);
            self.rank(oldest, Class::Settled(self.rank_of(oldest)));
        }
        while self.settled.get(self.farthest).is_some_and(|list| list.head == NONE) && self.farthest > 0 {
            self.farthest -= 1;
        }
        let settled = self.settled.get(self.farthest).map(|list| list.head);
        settled.into_iter().chain([self.recent.head]).find(|slot| *slot != NONE && *slot != new)
    }

    /// Hash distance from the peer's own id; less is nearer.
    pub(crate) const fn distance(&self, key: Key) -> u64 {
        self.place.distance(key)
    }

    /// The distance of a packet in steps, and some more if many hold it.
    pub(super) fn rank_of(&self, at: u32) -> u16 {
        let slot = &self.slots[at as usize];
        let plenty = if slot.holders >= PLENTY { PLENTY_STEPS } else { 0 };
        steps(self.distance(slot.key())) + plenty
    }

    /// Gives a settled packet the rank that it has by now.
    pub(super) fn settle_again(&mut self, at: u32) {
        if let Class::Settled(rank) = self.slots[at as usize].class
            && rank != self.rank_of(at)
        {
            self.unrank(at);
            self.rank(at, Class::Settled(self.rank_of(at)));
        }
    }

    /// Puts a slot in the lists of its class.
    pub(super) fn enter(&mut self, at: u32, class: Class) {
        let slot = &self.slots[at as usize];
        let (bytes, tag) = (cost(slot.packet()), slot.tag());
        if class == Class::Wanted {
            self.slots[at as usize].class = class;
            self.wanted_bytes += bytes;
            self.weigh(tag, bytes.cast_signed());
            if let Some(topic) = self.topics.get_mut(&tag) {
                topic.wanted.push(&mut self.slots, Kind::Giver, at);
            }
            return;
        }
        let account = self.accounts.of(slot.origin.map(Into::into));
        self.slots[at as usize].account = account;
        self.accounts.add(&mut self.slots, account, at, bytes);
        self.rank(at, class);
    }

    /// Takes a slot out of the lists of its class.
    pub(super) fn leave(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        let (bytes, tag, account) = (cost(slot.packet()), slot.tag(), slot.account);
        if slot.class == Class::Wanted {
            self.wanted_bytes -= bytes;
            self.weigh(tag, -bytes.cast_signed());
            if let Some(topic) = self.topics.get_mut(&tag) {
                topic.wanted.unlink(&mut self.slots, Kind::Giver, at);
            }
            return;
        }
        self.slots[at as usize].account = OURS;
        self.accounts.take(&mut self.slots, account, at, bytes);
        self.unrank(at);
    }

    fn weigh(&mut self, tag: Tag, change: isize) {
        let Some(topic) = self.topics.get_mut(&tag) else { return };
        self.wanted.remove(&(topic.wanted_bytes, tag));
        topic.wanted_bytes = topic.wanted_bytes.wrapping_add_signed(change);
        if topic.wanted_bytes > 0 {
            self.wanted.insert((topic.wanted_bytes, tag));
        }
    }

    fn rank(&mut self, at: u32, class: Class) {
        self.slots[at as usize].class = class;
        if let Class::Settled(rank) = class {
            if self.settled.is_empty() {
                self.settled.resize(usize::from(RANKS), List::EMPTY);
            }
            self.farthest = self.farthest.max(usize::from(rank));
        } else {
            self.recent_bytes += cost(self.slots[at as usize].packet());
        }
        match class {
            Class::Recent => self.recent.push(&mut self.slots, Kind::Rank, at),
            Class::Settled(rank) => self.settled[usize::from(rank)].push(&mut self.slots, Kind::Rank, at),
            Class::Wanted | Class::Free => {}
        }
    }

    fn unrank(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        match slot.class {
            Class::Recent => {
                self.recent_bytes -= cost(slot.packet());
                self.recent.unlink(&mut self.slots, Kind::Rank, at);
            }
            Class::Settled(rank) => self.settled[usize::from(rank)].unlink(&mut self.slots, Kind::Rank, at),
            Class::Wanted | Class::Free => {}
        }
    }
}

/// A number in quarters of a power of two, rounded down: its exponent and two bits of its mantissa; below 256.
fn steps(number: u64) -> u16 {
    let number = number.max(4);
    let exponent = u64::from(63 - number.leading_zeros());
    u16::try_from(exponent * 4 + (number >> (exponent - 2) & 3)).unwrap_or(u16::MAX)
}
