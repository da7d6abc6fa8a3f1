//! The packets that a peer holds, within a budget of bytes.

mod accounts;
mod evict;
mod slab;

use core::num::NonZeroU64;
use std::collections::{BTreeMap, BTreeSet};

use hashbrown::{HashMap, HashTable};
use peers_wire::{Header, Packet, PacketId, PeerId, Timestamp};

pub(crate) use self::accounts::ORIGIN_COST;
use self::accounts::{Accounts, OURS};

use crate::list::{self, Kind, Links, List, NONE};
use crate::message::{Bound, Key, Place, Summary, Tag};
use crate::order::{Entry, Order};
use crate::sketch::{KEPT, Sketch, epoch};
use crate::sketch_message::Set;

/// Bytes that a packet is charged beyond its own, where all tables are as empty as they get: slot, entries of three tables, place in its topic's order, of its own in the order of
/// expiry, headers of what is allocated. A test compares it with what is allocated.
pub(crate) const PACKET_COST: usize = size_of::<Slot>() * 9 / 7 + 3 * 18 + 2 * size_of::<Entry>() + 24 + 64;
/// Bytes that a topic is charged beyond its packets.
pub(crate) const TOPIC_COST: usize = 4 * (size_of::<Tag>() + size_of::<Topic>()) + 4 * size_of::<Entry>() + 4 * 64 + 96;
/// Bytes that the sketch of a topic is charged.
pub(crate) const SKETCH_COST: usize = Sketch::cost(KEPT);

#[derive(Debug)]
pub(crate) struct Slot {
    packet: Option<Packet>,
    links: Links,
    /// Second at which its present age began.
    pub(crate) born: u32,
    /// Second at which it was last offered.
    pub(crate) touched: u32,
    expiry: u32,
    /// The account it is in, if it is a stranger's.
    account: u16,
    class: Class,
    /// Other peers that said to hold it since it was born.
    pub(crate) holders: u8,
    /// Who brought it; `None` if we did.
    origin: Option<NonZeroU64>,
}

impl list::Linked for Slot {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Of a topic subscribed to, or our own.
    Wanted,
    /// A stranger's, among the newest of these.
    Recent,
    /// A stranger's, of this rank.
    Settled(u16),
    /// The slot is free.
    Free,
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) order: Order,
    /// Bytes of its packets, and of those that are wanted, which are in a list by arrival.
    bytes: usize,
    wanted_bytes: usize,
    wanted: List,
}

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    New,
    Held,
    /// It alone is more than the part of the budget that strangers have for certain.
    TooLarge,
}

#[derive(Debug)]
pub(crate) struct Store {
    budget: usize,
    wanted_budget: usize,
    /// Bytes of packets, and of those that are wanted.
    bytes: usize,
    wanted_bytes: usize,
    recent_bytes: usize,
    place: Place,
    secret: [u64; 2],
    slots: Vec<Slot>,
    /// Slots that are free; those beyond the end of `slots` no longer exist.
    free: Vec<u32>,
    free_slots: usize,
    by_key: HashTable<u32>,
    by_previous: HashTable<u32>,
    by_root: HashTable<u32>,
    topics: HashMap<Tag, Topic>,
    /// Topics of which something is wanted, by the bytes of that.
    wanted: BTreeSet<(usize, Tag)>,
    /// Topics that have a sketch.
    sketches: usize,
    accounts: Accounts,
    turn: List,
    recent: List,
    settled: Vec<List>,
    /// No settled packet is of a higher rank.
    farthest: usize,
    expiry: BTreeMap<u32, List>,
    gone: Vec<PacketId>,
}

impl Store {
    /// An empty store; allocates nothing.
    ///
    /// - `budget`: bytes, all that it allocates for packets included
    /// - `wanted_budget`: bytes up to which packets of subscribed topics and our own may exceed it
    /// - `id`: whose hash distance ranks packets
    /// - `secret`: random, keys the hash tables
    pub(crate) fn new(budget: usize, wanted_budget: usize, id: &PeerId, secret: [u64; 2]) -> Self {
        Self {
            budget,
            wanted_budget,
            bytes: 0,
            wanted_bytes: 0,
            recent_bytes: 0,
            place: Place::of(id),
            secret,
            slots: Vec::new(),
            free: Vec::new(),
            free_slots: 0,
            by_key: HashTable::new(),
            by_previous: HashTable::new(),
            by_root: HashTable::new(),
            topics: HashMap::new(),
            wanted: BTreeSet::new(),
            sketches: 0,
            accounts: Accounts::default(),
            turn: List::EMPTY,
            recent: List::EMPTY,
            settled: Vec::new(),
            farthest: 0,
            expiry: BTreeMap::new(),
            gone: Vec::new(),
        }
    }

    /// Bytes in use: of packets, topics, sketches and accounts.
    pub(crate) fn used(&self) -> usize {
        self.bytes + self.topics.len() * TOPIC_COST + self.sketches * SKETCH_COST + self.accounts.live() * ORIGIN_COST
    }

    /// Of these, what is wanted; the rest is lent to strangers.
    fn wanted_used(&self) -> usize {
        self.wanted_bytes + self.wanted.len() * TOPIC_COST + self.sketches * SKETCH_COST
    }

    pub(crate) const fn len(&self) -> usize {
        self.slots.len() - self.free_slots
    }

    /// Takes in a checked packet and makes room for it; O(log n). What had to go is in [`Store::take_gone`].
    ///
    /// - `packet`: in memory of its own
    /// - `origin`: of the neighbour that brought it; `None` for our own and what our disk kept
    /// - `wanted`: of a subscribed topic, or our own
    /// - `second`: now
    pub(crate) fn insert(&mut self, packet: Packet, origin: Option<u64>, wanted: bool, wall: Timestamp, second: u32) -> Inserted {
        let key = Key::from(packet.id());
        let hash = self.hash(key);
        if self.by_key.find(hash, |slot| self.slots[*slot as usize].key() == key).is_some() {
            return Inserted::Held;
        }
        let bytes = cost(&packet);
        if bytes + TOPIC_COST + ORIGIN_COST > self.budget / evict::STRANGERS_SHARE {
            return Inserted::TooLarge;
        }
        let (previous, node) = (previous_of(&packet), node_of(self.secret, &packet));
        let class = if wanted { Class::Wanted } else { Class::Recent };
        let slot = Slot {
            links: [list::Link::UNLINKED; 4],
            born: second,
            touched: second,
            expiry: u32::try_from(packet.expires().0.div_ceil(60_000)).unwrap_or(u32::MAX),
            account: OURS,
            class,
            holders: 0,
            origin: origin.map(|origin| NonZeroU64::new(origin).unwrap_or(NonZeroU64::MIN)),
            packet: Some(packet),
        };
        let (tag, bound, expiry) = (slot.tag(), slot.bound(), slot.expiry);
        let at = self.allocate(slot);
        let (slots, secret) = (&self.slots, self.secret);
        self.by_key.insert_unique(hash, at, |slot| hash_key(secret, slots[*slot as usize].key()));
        if let Some(previous) = previous {
            let rehash = |slot: &u32| previous_of(slots[*slot as usize].packet()).map_or(0, |key| hash_key(secret, key));
            self.by_previous.insert_unique(hash_key(secret, previous), at, rehash);
        }
        if let Some(node) = node {
            let rehash = |slot: &u32| node_of(secret, slots[*slot as usize].packet()).map_or(0, |key| hash_key(secret, key));
            self.by_root.insert_unique(hash_key(secret, node), at, rehash);
        }
        let topic = self.topics.entry(tag).or_insert_with(Topic::empty);
        topic.order.insert(bound, at);
        if wanted {
            self.sketches += usize::from(topic.order.keep_sketch(Set::Topic(tag).naming(epoch(wall))));
        }
        topic.bytes += bytes;
        self.bytes += bytes;
        self.turn.push(&mut self.slots, Kind::Turn, at);
        self.expiry.entry(expiry).or_insert(List::EMPTY).push(&mut self.slots, Kind::Expiry, at);
        self.enter(at, class);
        if self.is_over() {
            self.expire(wall);
            self.make_room(Some(key));
        }
        Inserted::New
    }

    fn remove_slot(&mut self, at: u32) {
        self.leave(at);
        let slot = &self.slots[at as usize];
        let (key, tag, bound, expiry, bytes) = (slot.key(), slot.tag(), slot.bound(), slot.expiry, cost(slot.packet()));
        self.gone.push(slot.packet().id());
        let (previous, node) = (previous_of(slot.packet()), node_of(self.secret, slot.packet()));
        unindex(&mut self.by_key, self.secret, Some(key), at);
        unindex(&mut self.by_previous, self.secret, previous, at);
        unindex(&mut self.by_root, self.secret, node, at);
        if let Some(topic) = self.topics.get_mut(&tag) {
            let sketched = topic.order.is_sketched();
            topic.order.remove(&bound);
            self.sketches -= usize::from(sketched && !topic.order.is_sketched());
            topic.bytes -= bytes;
            if topic.bytes == 0 {
                self.topics.remove(&tag);
            }
        }
        if let Some(list) = self.expiry.get_mut(&expiry) {
            list.unlink(&mut self.slots, Kind::Expiry, at);
            if list.head == NONE {
                self.expiry.remove(&expiry);
            }
        }
        self.turn.unlink(&mut self.slots, Kind::Turn, at);
        self.bytes -= bytes;
        self.release(at);
    }

    /// Drops a packet.
    pub(crate) fn remove(&mut self, key: Key) {
        if let Some(at) = self.find(key) {
            self.remove_slot(at);
        }
    }

    /// Drops what expired, to the minute.
    pub(crate) fn expire(&mut self, wall: Timestamp) {
        while let Some((minute, list)) = self.expiry.first_key_value()
            && u64::from(*minute) * 60_000 <= wall.0
        {
            let oldest = list.head;
            self.remove_slot(oldest);
        }
    }

    /// The ids of what was dropped since the last call.
    pub(crate) fn take_gone(&mut self) -> Vec<PacketId> {
        core::mem::take(&mut self.gone)
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.find(key).is_some()
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Packet> {
        self.find(key).map(|at| self.slots[at as usize].packet())
    }

    pub(crate) fn slot_mut(&mut self, key: Key) -> Option<&mut Slot> {
        self.find(key).map(|at| &mut self.slots[at as usize])
    }

    /// The packets whose predecessor is `previous`.
    pub(crate) fn after(&self, previous: Key) -> impl Iterator<Item = &Packet> {
        let found = self.by_previous.iter_hash(self.hash(previous)).map(|at| self.slots[*at as usize].packet());
        found.filter(move |packet| previous_of(packet) == Some(previous))
    }

    /// The heads over a root (`index` is `None`), or the packets in one place of its tree, with topic and times as in `like`.
    pub(crate) fn nodes<'a>(&'a self, root: &'a [u8; 32], index: Option<u32>, like: &'a Packet) -> impl Iterator<Item = &'a Packet> {
        let hash = self.hash(node_key(self.secret, root, index, like));
        let found = self.by_root.iter_hash(hash).map(|at| self.slots[*at as usize].packet());
        found.filter(move |packet| {
            let node = match packet.header() {
                Header::Message(_) => index.is_none() && packet.payload_digest() == root,
                Header::Fragment(header) => index == Some(header.index) && header.root == *root,
            };
            node && (packet.topic(), packet.created(), packet.lifetime()) == (like.topic(), like.created(), like.lifetime())
        })
    }

    pub(crate) fn order(&self, tag: Tag) -> Option<&Order> {
        self.topics.get(&tag).map(|topic| &topic.order)
    }

    /// Keeps a sketch of a topic from now on if it is large.
    pub(crate) fn keep_sketch(&mut self, tag: Tag, wall: Timestamp) {
        if let Some(topic) = self.topics.get_mut(&tag) {
            self.sketches += usize::from(topic.order.keep_sketch(Set::Topic(tag).naming(epoch(wall))));
            self.make_room(None);
        }
    }

    /// The order of a topic whose sketch, if it has one, is of this epoch.
    pub(crate) fn order_at(&mut self, tag: Tag, wall: Timestamp) -> Option<&Order> {
        let order = &mut self.topics.get_mut(&tag)?.order;
        order.renew_sketch(Set::Topic(tag).naming(epoch(wall)));
        Some(order)
    }

    pub(crate) fn summary(&self, tag: Tag) -> Summary {
        self.order(tag).map_or_else(Summary::default, Order::total)
    }

    /// All packets, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Packet> {
        self.slots.iter().filter_map(|slot| slot.packet.as_ref())
    }

    /// The packets of a topic in order of creation.
    pub(crate) fn packets(&self, tag: Tag) -> impl Iterator<Item = &Packet> {
        let entries = self.order(tag).into_iter().flat_map(|order| order.range(Bound::MIN, Bound::MAX));
        entries.map(|entry| self.slots[entry.slot as usize].packet())
    }

    /// The keys of a topic's packets, the newest first.
    pub(crate) fn newest(&self, tag: Tag) -> impl Iterator<Item = Key> {
        self.order(tag).into_iter().flat_map(Order::newest).map(|entry| entry.bound.key)
    }

    /// Makes the packets of a topic wanted or a stranger's; O(packets of the topic).
    pub(crate) fn prefer(&mut self, tag: Tag, wanted: bool) {
        let entries = self.order(tag).into_iter().flat_map(|order| order.range(Bound::MIN, Bound::MAX));
        let slots: Vec<u32> = entries.map(|entry| entry.slot).collect();
        for at in slots {
            if self.slots[at as usize].is_preferred() != wanted {
                self.leave(at);
                self.enter(at, if wanted { Class::Wanted } else { Class::Recent });
            }
        }
        if let Some(topic) = self.topics.get_mut(&tag).filter(|_| !wanted) {
            self.sketches -= usize::from(topic.order.drop_sketch());
        }
        self.make_room(None);
    }

    /// Places for packets, those that are free included.
    pub(crate) const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The packets in `count` places from `start` on.
    pub(crate) fn scan(&self, start: usize, count: usize) -> impl Iterator<Item = (Tag, Key)> {
        let slots = self.slots.iter().skip(start).take(count);
        slots.filter(|slot| slot.class != Class::Free).map(|slot| (slot.tag(), slot.key()))
    }

    /// Takes the next packet in turn that was last offered at or before `second`, and puts it at the end of the turn.
    pub(crate) fn next_in_turn(&mut self, second: u32, before: u32) -> Option<Key> {
        let at = Some(self.turn.head).filter(|slot| *slot != NONE)?;
        if self.slots[at as usize].touched > before {
            return None;
        }
        self.turn.unlink(&mut self.slots, Kind::Turn, at);
        self.slots[at as usize].touched = second;
        self.turn.push(&mut self.slots, Kind::Turn, at);
        self.settle_again(at);
        Some(self.slots[at as usize].key())
    }

    fn find(&self, key: Key) -> Option<u32> {
        self.by_key.find(self.hash(key), |slot| self.slots[*slot as usize].key() == key).copied()
    }

    fn hash(&self, key: Key) -> u64 {
        hash_key(self.secret, key)
    }
}

impl Topic {
    fn empty() -> Self {
        Self { order: Order::default(), bytes: 0, wanted_bytes: 0, wanted: List::EMPTY }
    }
}

impl Slot {
    pub(crate) fn packet(&self) -> &Packet {
        match &self.packet {
            Some(packet) => packet,
            None => unreachable!("a free slot is in no index and no list"),
        }
    }

    pub(crate) fn set_postage(&mut self, postage: u8) {
        self.packet = Some(self.packet().with_postage(postage));
    }

    pub(crate) fn is_preferred(&self) -> bool {
        self.class == Class::Wanted
    }

    fn key(&self) -> Key {
        Key::from(self.packet().id())
    }

    fn tag(&self) -> Tag {
        Tag::from(self.packet().topic())
    }

    fn bound(&self) -> Bound {
        Bound { created: self.packet().created(), key: self.key() }
    }
}

/// Bytes that a packet is charged.
pub(crate) fn cost(packet: &Packet) -> usize {
    packet.as_bytes().len() + PACKET_COST
}

/// A keyed hash, so that nobody can choose ids that collide: the folded product of the masked halves.
fn hash_key(secret: [u64; 2], key: Key) -> u64 {
    let product = u128::from(key.0[0] ^ secret[0]) * u128::from(key.0[1] ^ secret[1]);
    let bytes = product.to_be_bytes();
    let word = |at: usize| bytes[at..at + 8].iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    word(0) ^ word(8)
}

fn unindex(index: &mut HashTable<u32>, secret: [u64; 2], key: Option<Key>, at: u32) {
    let Some(key) = key else { return };
    if let Ok(entry) = index.find_entry(hash_key(secret, key), |slot| *slot == at) {
        entry.remove();
    }
}

/// The predecessor of a message that has one.
fn previous_of(packet: &Packet) -> Option<Key> {
    packet.previous().map(Key::from)
}

/// The place in its tree of a packet that may be a parent of fragments.
fn node_of(secret: [u64; 2], packet: &Packet) -> Option<Key> {
    match packet.header() {
        Header::Message(header) if header.fragments > 0 => Some(node_key(secret, packet.payload_digest(), None, packet)),
        Header::Message(_) => None,
        Header::Fragment(header) => Some(node_key(secret, &header.root, Some(header.index), packet)),
    }
}

/// Trees of one root on other topics or of other times have other keys, and nobody can choose them to be the same.
fn node_key(secret: [u64; 2], root: &[u8; 32], index: Option<u32>, like: &Packet) -> Key {
    let mut key = Key::from(PacketId(*root));
    key.0[0] ^= index.map_or(0, |index| u64::from(index) + 1);
    key.0[1] ^= hash_key(secret, Key([Tag::from(like.topic()).0, like.created().0 << 16 | u64::from(like.lifetime())]));
    key
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
