//! Neighbours compare what they have of a topic that one of them wants: sums first, then sums of ranges, then keys.
//!
//! Source: Meyer, "Range-Based Set Reconciliation", arXiv:2212.13567.

use std::collections::BTreeMap;
use std::time::Instant;

use peers_wire::Timestamp;
use rand::RngExt;

use crate::cache::{Cache, Timer};
use crate::message::{Bound, Key, MAX_LIST, MAX_RANGES, MAX_TOPICS_PER_MESSAGE, Message, Summary, Tag};
use crate::neighbour::MAX_TOPICS;
use crate::sketch_message::Set;

/// Keys that are offered at once to a neighbour that has none; it compares again when it has these.
const MAX_OFFERED: usize = 1024;
/// Packets that a newcomer is sent unasked, and what each costs of its budget for work.
const MAX_UNASKED: usize = 32;
const UNASKED_COST: usize = 4;
/// Neighbours that a changed topic is compared with, each time.
const COMPARED: usize = 2;
/// Topics that are compared at a time.
const MAX_COMPARED: usize = 64;
/// Times that a change is compared.
const ROUNDS: u8 = 2;
/// Milliseconds of a topic that are compared apart from what is older.
const RECENT: u64 = 30_000;
/// Times that topics are sent to a neighbour that does not heed them.
const MAX_TOPICS_TRIES: u32 = 6;

/// Topics that changed and are still to be compared.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    topics: BTreeMap<Tag, Change>,
    next: Tag,
}

#[derive(Debug)]
struct Change {
    rounds: u8,
    /// The neighbour that the last packet came from: it may have more.
    from: Option<u32>,
}

impl Cache {
    /// Tells all neighbours the topics wanted here, when the last of several changes is made.
    pub(crate) fn interests_changed(&mut self, now: Instant) {
        self.version = self.version.wrapping_add(1);
        let due = now + self.config.announce_delay;
        let neighbours: Vec<u32> = self.neighbours.keys().copied().collect();
        for neighbour in neighbours {
            if let Some(neighbour) = self.neighbours.get_mut(&neighbour) {
                neighbour.topics_tries = 0;
                neighbour.unheeded.clear();
            }
            self.timers.insert((due, Timer::Topics(neighbour)));
        }
    }

    /// Sends a neighbour the topics wanted here: all parts at first, those not heeded after a while.
    pub(crate) fn send_topics(&mut self, now: Instant, serial: u32) {
        if self.subscriptions.is_empty() && self.version == 0 {
            return;
        }
        let tags: Vec<Tag> = self.subscriptions.keys().copied().take(MAX_TOPICS).collect();
        let parts: Vec<&[Tag]> = if tags.is_empty() { vec![&[]] } else { tags.chunks(MAX_TOPICS_PER_MESSAGE).collect() };
        let Some(neighbour) = self.neighbours.get_mut(&serial) else { return };
        if neighbour.topics_tries == 0 {
            neighbour.unheeded = (0..=u8::MAX).take(parts.len()).collect();
        }
        if neighbour.unheeded.is_empty() || neighbour.topics_tries >= MAX_TOPICS_TRIES {
            return;
        }
        let due = now + neighbour.patience() * (2 << neighbour.topics_tries);
        neighbour.topics_tries += 1;
        for part in neighbour.unheeded.clone() {
            let Some(tags) = parts.get(usize::from(part)) else { continue };
            let topics: Vec<_> = tags.iter().map(|tag| (*tag, self.summary(*tag))).collect();
            let empty = self.neighbours.len() == 1 && topics.iter().all(|(_, summary)| summary.count == 0);
            self.send(serial, &Message::Topics { version: self.version, part, empty, topics });
        }
        self.timers.insert((due, Timer::Topics(serial)));
        // Where two meet and both want a large topic, the one of the greater id probes.
        if self.neighbours.get(&serial).is_some_and(|neighbour| neighbour.version.is_none() && neighbour.peer < self.id) {
            self.probe_all(now, serial);
        }
    }

    /// A neighbour tells a part of the topics that it wants, and what it has of them.
    pub(crate) fn on_topics(&mut self, now: Instant, from: u32, version: u16, part: u8, empty: bool, topics: &[(Tag, Summary)]) {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        let newer = neighbour.version.is_none_or(|known| version.wrapping_sub(known).cast_signed() > 0);
        if newer {
            neighbour.version = Some(version);
            neighbour.wants.clear();
        }
        if neighbour.version == Some(version) {
            for (tag, _) in topics {
                if neighbour.wants.len() < MAX_TOPICS {
                    neighbour.wants.insert(*tag);
                } else {
                    self.stats.overflowed += 1;
                }
            }
        }
        // Where both want a topic and both just said so, one of them compares: the other, if the topic is large.
        let (meeting, other) = (!neighbour.unheeded.is_empty(), neighbour.peer < self.id);
        self.send(from, &Message::Heed { version, part });
        if empty {
            self.send_newest(now, from, topics);
        }
        for (tag, theirs) in topics.iter().copied() {
            if !(meeting && self.wants(tag)) || (!other && !self.may_probe(now, from, tag, theirs.count)) {
                self.compare_range(now, from, tag, Bound::MIN, Bound::MAX, theirs);
            }
        }
    }

    /// Sends a newcomer the newest packets of its topics: so it has them a round trip sooner than by asking for them.
    fn send_newest(&mut self, now: Instant, from: u32, topics: &[(Tag, Summary)]) {
        let newest = topics.iter().filter(|(_, theirs)| theirs.count == 0).flat_map(|(tag, _)| self.store.newest(*tag).take(MAX_UNASKED));
        let newest: Vec<Key> = newest.take(MAX_UNASKED).collect();
        if self.charge(now, from, newest.len() * UNASKED_COST) {
            for key in newest {
                let Some(packet) = self.store.get(key) else { continue };
                let message = Message::Packet { eager: 0, packet: packet.clone() };
                self.stats.pushed += 1;
                self.fresh.note(now, key, from);
                self.send(from, &message);
            }
        }
    }

    pub(crate) fn on_heed(&mut self, from: u32, version: u16, part: u8) {
        if version == self.version
            && let Some(neighbour) = self.neighbours.get_mut(&from)
        {
            neighbour.unheeded.remove(&part);
        }
    }

    /// A topic changed: it is compared with neighbours soon, for what gossip lost.
    pub(crate) fn changed(&mut self, now: Instant, tag: Tag, from: Option<u32>) {
        if !self.wants(tag) {
            return;
        }
        if self.changes.topics.is_empty() {
            self.compare_later(now);
        }
        self.changes.topics.insert(tag, Change { rounds: ROUNDS, from });
    }

    fn compare_later(&mut self, now: Instant) {
        let delay = self.config.compare_delay.mul_f64(self.rng.random_range(0.75..1.25));
        self.timers.insert((now + delay, Timer::Compare));
    }

    /// Compares what changed with neighbours that want it too, and with the one it came from.
    pub(crate) fn compare(&mut self, now: Instant, wall: Timestamp) {
        let cut = Bound::at(Timestamp(wall.0.saturating_sub(RECENT)));
        // From where the last call ended, so that many busy topics take turns.
        let mut tags: Vec<Tag> = self.changes.topics.range(self.changes.next..).map(|(tag, _)| *tag).collect();
        tags.extend(self.changes.topics.range(..self.changes.next).map(|(tag, _)| *tag));
        self.changes.next = tags.get(MAX_COMPARED).copied().unwrap_or(Tag(0));
        for tag in tags.into_iter().take(MAX_COMPARED) {
            let Some(mut change) = self.changes.topics.remove(&tag) else { continue };
            let mut neighbours = self.sample(COMPARED, |neighbour| neighbour.wants.contains(&tag));
            neighbours.extend(change.from.take());
            neighbours.dedup();
            let count = self.summary(tag).count;
            for neighbour in neighbours {
                if self.may_probe(now, neighbour, tag, count) {
                    self.probe(now, neighbour, Set::Topic(tag));
                } else {
                    self.send_ranges(neighbour, tag, cut);
                }
            }
            if change.rounds > 1 && self.wants(tag) {
                change.rounds -= 1;
                self.changes.topics.insert(tag, change);
            }
        }
        if !self.changes.topics.is_empty() {
            self.compare_later(now);
        }
    }

    /// Compares one part of the topics with one random neighbour.
    pub(crate) fn compare_quietly(&mut self, now: Instant) {
        let Some(neighbour) = self.sample(1, |_| true).pop() else { return };
        if let Some(neighbour) = self.neighbours.get_mut(&neighbour) {
            neighbour.topics_tries = 0;
        }
        self.send_topics(now, neighbour);
    }

    /// Sends the sums of a topic before and from `cut` on.
    pub(crate) fn send_ranges(&mut self, neighbour: u32, tag: Tag, cut: Bound) {
        let ends = if cut > Bound::MIN { &[cut, Bound::MAX][..] } else { &[Bound::MAX][..] };
        let mut start = Bound::MIN;
        let mut ranges = Vec::with_capacity(2);
        for end in ends {
            let summary = self.store.order(tag).map_or_else(Summary::default, |order| order.sum(&start, end));
            ranges.push((*end, summary));
            start = *end;
        }
        self.send(neighbour, &Message::Ranges { tag, start: Bound::MIN, ranges });
    }

    /// A neighbour sends sums of ranges.
    pub(crate) fn on_ranges(&mut self, now: Instant, from: u32, tag: Tag, mut start: Bound, ranges: &[(Bound, Summary)]) {
        for (end, theirs) in ranges {
            self.compare_range(now, from, tag, start, *end, *theirs);
            start = *end;
        }
    }

    /// Compares a range of a topic with the sum that a neighbour has of it: by sketches if it is all of a large topic.
    fn compare_range(&mut self, now: Instant, from: u32, tag: Tag, start: Bound, end: Bound, theirs: Summary) {
        let whole = start == Bound::MIN && end == Bound::MAX && self.summary(tag) != theirs;
        if whole && self.may_probe(now, from, tag, theirs.count) {
            if self.charge(now, from, 1) {
                self.probe(now, from, Set::Topic(tag));
            }
        } else {
            self.narrow(now, from, tag, start, end, theirs);
        }
    }

    /// Compares a range of a topic with the sum that a neighbour has of it: silent if equal, else narrower.
    pub(crate) fn narrow(&mut self, now: Instant, from: u32, tag: Tag, start: Bound, end: Bound, theirs: Summary) {
        let Some(order) = self.store.order(tag) else {
            if self.wants(tag) && theirs.count > 0 {
                self.send(from, &Message::List { tag, start, end, keys: Vec::new() });
            }
            return;
        };
        let ours = order.sum(&start, &end);
        if ours == theirs {
            return;
        }
        let message = if theirs.count == 0 {
            let keys = order.range(start, end).filter(|entry| !self.fresh.knows(entry.bound.key, from)).take(MAX_OFFERED);
            let keys: Vec<(Tag, Key)> = keys.map(|entry| (tag, entry.bound.key)).collect();
            self.offer_missing(now, from, &keys);
            return;
        } else if ours.count as usize <= MAX_LIST {
            Message::List { tag, start, end, keys: order.range(start, end).map(|entry| entry.bound.key).collect() }
        } else {
            Message::Ranges { tag, start, ranges: order.split(start, end, MAX_RANGES) }
        };
        if self.charge(now, from, MAX_LIST) {
            self.send(from, &message);
        }
    }

    /// A neighbour lists all that it has in a range: what is missing here is pulled, what is missing there is offered if it wants the topic.
    pub(crate) fn on_list(&mut self, now: Instant, from: u32, tag: Tag, start: Bound, end: Bound, keys: &[Key]) {
        for key in keys {
            if !self.store.contains(*key) && self.is_wanted(tag, *key, true) {
                self.announced(now, from, *key, true);
            }
        }
        if !self.neighbours.get(&from).is_some_and(|neighbour| neighbour.wants.contains(&tag)) {
            return;
        }
        let Some(order) = self.store.order(tag) else { return };
        let listed: std::collections::BTreeSet<Key> = keys.iter().copied().collect();
        let entries = order.range(start, end).filter(|entry| !listed.contains(&entry.bound.key));
        let offers: Vec<(Tag, Key)> = entries.take(MAX_OFFERED).map(|entry| (tag, entry.bound.key)).collect();
        self.offer_missing(now, from, &offers);
    }

    /// Offers a neighbour what it does not have, as far as its budget for work allows.
    fn offer_missing(&mut self, now: Instant, from: u32, keys: &[(Tag, Key)]) {
        if self.charge(now, from, keys.len()) {
            self.send_have(from, false, false, keys);
        }
    }

    /// Charges what it costs to answer a neighbour.
    pub(crate) fn charge(&mut self, now: Instant, from: u32, cost: usize) -> bool {
        let paid = self.neighbours.get_mut(&from).is_some_and(|neighbour| neighbour.work.take(now, cost));
        self.stats.throttled += u64::from(!paid);
        paid
    }
}
