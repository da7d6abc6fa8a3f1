//! Packets on their way: pushed to a few, announced to the rest, offered again with age.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use hashbrown::HashMap;
use peers_wire::Packet;
use rand::seq::{IteratorRandom, SliceRandom};

use crate::cache::{Cache, Timer};
use crate::message::{Key, MAX_KEYS, Message, Tag, have_messages};

/// Packets whose holders among the neighbours are remembered.
const MAX_FRESH: usize = 8192;
/// How long.
const FRESH: Duration = Duration::from_secs(10);
/// Packets that wait to be announced; the comparison of topics finds those beyond.
const MAX_ANNOUNCEMENTS: usize = 32_768;
/// Of these, what is only heard of: a quarter of what is remembered as heard of, so that an echo of it is known.
const MAX_RELAYED: usize = 1024;
/// Of these, announced at a time, and until the next are: no faster than neighbours pull.
const MAX_ANNOUNCED: usize = 256;
const ANNOUNCE_PACE: Duration = Duration::from_millis(100);
/// Packets offered in one turn, in messages.
const MAX_TURN: usize = 32;
/// Packets looked at for a new neighbour at a time, and until the next are.
const MAX_SCANNED: usize = 1024;
const OFFER_PACE: Duration = Duration::from_secs(1);

/// Packets that came lately.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    known: HashMap<Key, Vec<u32>>,
    order: VecDeque<(Instant, Key)>,
    announce: VecDeque<Announcement>,
    /// How many of these are only heard of.
    relayed: usize,
}

/// What is to be announced.
#[derive(Debug)]
struct Announcement {
    due: Instant,
    tag: Tag,
    key: Key,
    /// Not held here, only heard of.
    heard: bool,
    /// It is no longer new: for those that want its topic or should keep it.
    old: bool,
    /// The neighbour it came from, which is told as well: so a publisher learns who holds its packets.
    giver: Option<u32>,
}

impl Fresh {
    /// Notes that a neighbour knows a packet; true if that is news.
    pub(crate) fn note(&mut self, now: Instant, key: Key, neighbour: u32) -> bool {
        let order = &mut self.order;
        let known = self.known.entry(key).or_insert_with(|| {
            order.push_back((now + FRESH, key));
            Vec::new()
        });
        let new = !known.contains(&neighbour);
        if new {
            known.push(neighbour);
        }
        while self.order.len() > MAX_FRESH {
            self.forget_oldest();
        }
        new
    }

    pub(crate) fn knows(&self, key: Key, neighbour: u32) -> bool {
        self.known.get(&key).is_some_and(|known| known.contains(&neighbour))
    }

    /// There is room to announce what is only heard of.
    pub(crate) const fn may_relay(&self) -> bool {
        self.relayed < MAX_RELAYED
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.known.remove(&key);
        }
    }
}

impl Cache {
    /// Pushes a packet to neighbours that are not known to have it: to those that want its topic first, a quarter to others.
    pub(crate) fn push(&mut self, now: Instant, packet: &Packet, eager: u8, count: usize) {
        let (key, tag) = (Key::from(packet.id()), Tag::from(packet.topic()));
        let message = Message::Packet { eager, packet: packet.clone() };
        for neighbour in self.choose(tag, key, count) {
            self.stats.pushed += 1;
            self.fresh.note(now, key, neighbour);
            self.send(neighbour, &message);
        }
    }

    /// Random neighbours that are not known to have a packet, those that want its topic preferred.
    pub(crate) fn choose(&mut self, tag: Tag, key: Key, count: usize) -> Vec<u32> {
        let lacking = self.neighbours.iter().filter(|(serial, neighbour)| !neighbour.silent && !self.fresh.knows(key, **serial));
        let (mut wanting, mut others): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        lacking.for_each(|(serial, neighbour)| if neighbour.wants.contains(&tag) { &mut wanting } else { &mut others }.push(*serial));
        wanting.shuffle(&mut self.rng);
        others.shuffle(&mut self.rng);
        wanting.truncate(count - (count / 4).min(others.len()));
        others.truncate(count - wanting.len());
        wanting.append(&mut others);
        wanting
    }

    /// Random neighbours of which `fits` holds.
    pub(crate) fn sample(&mut self, count: usize, fits: impl Fn(&crate::neighbour::Neighbour) -> bool) -> Vec<u32> {
        let mut sample: Vec<u32> =
            self.neighbours.iter().filter(|(_, neighbour)| !neighbour.silent && fits(neighbour)).map(|(serial, _)| *serial).collect();
        sample.shuffle(&mut self.rng);
        sample.truncate(count);
        sample
    }

    /// Announces a packet that is held to its giver and to the neighbours that do not know it, together with what else comes within the delay: to all if it is
    /// new, else to those that want its topic and those near it.
    pub(crate) fn announce_held(&mut self, now: Instant, (tag, key): (Tag, Key), old: bool, giver: Option<u32>) {
        self.announce_later(now, tag, key, false, old, giver);
    }

    /// Announces that a packet can be had through us to all neighbours that have not heard of it.
    pub(crate) fn announce_heard(&mut self, now: Instant, tag: Tag, key: Key) {
        self.announce_later(now, tag, key, true, false, None);
    }

    fn announce_later(&mut self, now: Instant, tag: Tag, key: Key, heard: bool, old: bool, giver: Option<u32>) {
        if self.neighbours.is_empty() || self.fresh.announce.len() >= MAX_ANNOUNCEMENTS {
            return;
        }
        let due = now + self.config.announce_delay;
        if self.fresh.announce.is_empty() {
            self.timers.insert((due, Timer::Announce));
        }
        self.fresh.relayed += usize::from(heard);
        self.fresh.announce.push_back(Announcement { due, tag, key, heard, old, giver });
    }

    pub(crate) fn announce(&mut self, now: Instant) {
        let mut outgoing: BTreeMap<(u32, bool), Vec<(Tag, Key)>> = BTreeMap::new();
        let (near, mut announced) = (self.near(), 0);
        while let Some(next) = self.fresh.announce.front() {
            if next.due > now || announced == MAX_ANNOUNCED {
                let due = if next.due > now { next.due } else { now + ANNOUNCE_PACE };
                self.timers.insert((due, Timer::Announce));
                break;
            }
            announced += 1;
            let Some(Announcement { tag, key, heard, old, giver, .. }) = self.fresh.announce.pop_front() else { break };
            self.fresh.relayed -= usize::from(heard);
            let hearers = if heard { self.pulls.hearers(key) } else { &[] };
            for (serial, neighbour) in &self.neighbours {
                let concerned = !old || neighbour.wants.contains(&tag) || neighbour.place.distance(key) <= near;
                if giver == Some(*serial) || concerned && !(neighbour.silent || self.fresh.knows(key, *serial) || hearers.contains(serial))
                {
                    outgoing.entry((*serial, heard)).or_default().push((tag, key));
                }
            }
        }
        for ((neighbour, heard), keys) in outgoing {
            self.send_have(neighbour, false, heard, &keys);
        }
    }

    pub(crate) fn send_have(&mut self, neighbour: u32, answer: bool, heard: bool, keys: &[(Tag, Key)]) {
        for message in have_messages(answer, heard, keys) {
            self.send(neighbour, &message);
        }
    }

    /// A neighbour says what it holds or, if `heard`, what it can get.
    pub(crate) fn on_have(&mut self, now: Instant, from: u32, answer: bool, heard: bool, keys: &[(Tag, Key)]) {
        let mut held = Vec::new();
        let mut sought: BTreeMap<u32, Vec<(Tag, Key)>> = BTreeMap::new();
        for &(tag, key) in keys {
            if self.store.contains(key) {
                held.push((tag, key));
                if !heard {
                    self.fresh_holds(now, from, key);
                }
            } else if self.is_wanted(tag, key, !answer) {
                self.announced(now, from, key, !heard);
            } else if !answer && !self.is_gone(key) {
                self.on_heard(now, from, tag, key);
            } else {
                // What a neighbour's neighbour holds of a topic that another seeks through us.
                for seeker in self.seeks.seekers(now, tag).iter().filter(|seeker| **seeker != from) {
                    self.pulls.heard(key, from);
                    sought.entry(*seeker).or_default().push((tag, key));
                }
            }
        }
        for (seeker, keys) in sought {
            self.send_have(seeker, false, true, &keys);
        }
        if answer && !held.is_empty() {
            self.send_have(from, false, false, &held);
        }
    }

    fn fresh_holds(&mut self, now: Instant, from: u32, key: Key) {
        if self.fresh.note(now, key, from) {
            self.holds(from, key);
        } else {
            self.published_holds(from, key);
        }
    }

    /// A neighbour holds a packet that we hold.
    pub(crate) fn holds(&mut self, from: u32, key: Key) {
        if let Some(slot) = self.store.slot_mut(key) {
            slot.holders = slot.holders.saturating_add(1);
        }
        self.published_holds(from, key);
    }

    /// Offers what was longest not offered to a neighbour that should keep it, so that copies lost with their holders are replaced, and ages copies:
    /// at its max age, a copy of which too few holders are known loses one postage and goes to random neighbours; one without postage ends.
    pub(crate) fn take_turns(&mut self, now: Instant) {
        if self.neighbours.is_empty() {
            return;
        }
        let second = self.second(now);
        let Some(before) = second.checked_sub(seconds(self.config.offer_interval)) else { return };
        let anyone = self.sample(self.config.copies, |_| true);
        let mut offers: BTreeMap<u32, Vec<(Tag, Key)>> = BTreeMap::new();
        for _ in 0..MAX_TURN * MAX_KEYS {
            let Some(key) = self.store.next_in_turn(second, before) else { break };
            match self.age(second, key) {
                Age::Young(tag) => {
                    if let Some(keeper) = self.keeper(key) {
                        offers.entry(keeper).or_default().push((tag, key));
                    }
                }
                Age::Old(tag) => anyone.iter().for_each(|neighbour| offers.entry(*neighbour).or_default().push((tag, key))),
                Age::Last => {}
                Age::Ended => self.store.remove(key),
            }
        }
        for (neighbour, keys) in offers {
            self.send_have(neighbour, true, false, &keys);
        }
    }

    /// One of the neighbours near to a packet, at random.
    fn keeper(&mut self, key: Key) -> Option<u32> {
        let radius = self.near();
        let near = self.neighbours.iter().filter(|(_, neighbour)| !neighbour.silent && neighbour.place.distance(key) <= radius);
        near.map(|(serial, _)| *serial).choose(&mut self.rng)
    }

    /// Offers a new neighbour the packets that it is near to, some at a time.
    pub(crate) fn offer_held(&mut self, now: Instant, serial: u32) {
        let radius = self.near();
        let Some(neighbour) = self.neighbours.get_mut(&serial) else { return };
        let place = neighbour.place;
        let scan = self.store.scan(neighbour.offered, MAX_SCANNED);
        neighbour.offered += MAX_SCANNED;
        let more = neighbour.offered < self.store.slots();
        let offers: Vec<(Tag, Key)> = scan.filter(|(_, key)| place.distance(*key) <= radius).collect();
        self.send_have(serial, true, false, &offers);
        if more {
            self.timers.insert((now + OFFER_PACE, Timer::Offer(serial)));
        }
    }

    fn age(&mut self, second: u32, key: Key) -> Age {
        let (max_age, copies) = (seconds(self.config.max_age), self.config.copies);
        let Some(slot) = self.store.slot_mut(key) else { return Age::Ended };
        let (tag, postage) = (Tag::from(slot.packet().topic()), slot.packet().postage());
        let old = second - slot.born >= max_age;
        let alone = old && usize::from(slot.holders) < copies;
        if old {
            (slot.born, slot.holders) = (second, 0);
        }
        match postage {
            // What is subscribed to, and what is our own, lives until it expires.
            0 if old && !slot.is_preferred() => Age::Ended,
            0 => Age::Last,
            postage if alone => {
                slot.set_postage(postage - 1);
                Age::Old(tag)
            }
            _ => Age::Young(tag),
        }
    }
}

/// What becomes of a copy whose turn it is.
enum Age {
    /// It is offered.
    Young(Tag),
    /// It is offered to more neighbours, with less postage.
    Old(Tag),
    /// It has no postage and is not offered.
    Last,
    /// It is dropped.
    Ended,
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
