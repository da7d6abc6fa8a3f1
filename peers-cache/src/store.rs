//! The packets that a peer holds, within a budget of bytes.

mod evict;

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashTable};
use peers_wire::{Header, Packet, PacketId, PeerId, Timestamp};

use crate::list::{self, Kind, Links, List, NONE};
use crate::message::{Bound, Key, Summary, Tag};
use crate::order::{Entry, Order};

/// Bytes that a packet is charged beyond its own: slot, index entries, place in its topic's order, allocation. A test compares it with what is allocated.
pub(crate) const PACKET_COST: usize = size_of::<Slot>() * 9 / 8 + 3 * 12 + 2 * size_of::<Entry>() + 64;
/// Bytes that a topic is charged beyond its packets.
pub(crate) const TOPIC_COST: usize = 2 * (size_of::<Tag>() + size_of::<Topic>()) + 4 * size_of::<Entry>() + 64;
/// Neighbours that are told apart as givers; the packets of all beyond are in one account.
const MAX_GIVERS: usize = 1024;

#[derive(Debug)]
pub(crate) struct Slot {
    packet: Option<Packet>,
    links: Links,
    /// Second at which its present age began.
    pub(crate) born: u32,
    /// Second at which it was last offered.
    pub(crate) touched: u32,
    expiry: u32,
    giver: u16,
    class: Class,
    /// Other peers that said to hold it since it was born.
    pub(crate) holders: u8,
}

impl list::Linked for Slot {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Of a topic subscribed to, or our own.
    Preferred,
    /// Among the newest of the others.
    Recent,
    /// Of the others, at this distance.
    Settled(u8),
    /// The slot is free.
    Free,
}

#[derive(Debug, Default)]
pub(crate) struct Topic {
    pub(crate) order: Order,
    bytes: usize,
}

#[derive(Debug)]
struct Giver {
    peer: Option<PeerId>,
    list: List,
    bytes: usize,
}

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    New,
    Held,
    /// It alone is more than the budget.
    TooLarge,
}

#[derive(Debug)]
pub(crate) struct Store {
    budget: usize,
    used: usize,
    /// Bytes of each class.
    preferred_bytes: usize,
    recent_bytes: usize,
    place: u64,
    secret: [u64; 2],
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    by_previous: HashTable<u32>,
    by_root: HashTable<u32>,
    topics: HashMap<Tag, Topic>,
    givers: Vec<Giver>,
    by_giver: HashMap<PeerId, u16>,
    turn: List,
    preferred: List,
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
    /// - `id`: whose hash distance ranks packets
    /// - `secret`: random, keys the hash tables
    pub(crate) fn new(budget: usize, id: &PeerId, secret: [u64; 2]) -> Self {
        Self {
            budget,
            used: 0,
            preferred_bytes: 0,
            recent_bytes: 0,
            place: id.0.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte)),
            secret,
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            by_previous: HashTable::new(),
            by_root: HashTable::new(),
            topics: HashMap::new(),
            givers: Vec::new(),
            by_giver: HashMap::new(),
            turn: List::EMPTY,
            preferred: List::EMPTY,
            recent: List::EMPTY,
            settled: Vec::new(),
            farthest: 0,
            expiry: BTreeMap::new(),
            gone: Vec::new(),
        }
    }

    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes in a checked packet and makes room for it; O(log n). What had to go is in [`Store::take_gone`].
    ///
    /// - `packet`: in memory of its own
    /// - `giver`: the neighbour that brought it; `None` for our own
    /// - `preferred`: of a subscribed topic, or our own
    /// - `second`: now
    pub(crate) fn insert(&mut self, packet: Packet, giver: Option<PeerId>, preferred: bool, wall: Timestamp, second: u32) -> Inserted {
        let key = Key::from(packet.id());
        let hash = self.hash(key);
        if self.by_key.find(hash, |slot| self.slots[*slot as usize].key() == key).is_some() {
            return Inserted::Held;
        }
        let bytes = cost(&packet);
        if bytes + TOPIC_COST > self.budget {
            return Inserted::TooLarge;
        }
        let (previous, node) = (previous_of(&packet), node_of(&packet));
        let class = if preferred { Class::Preferred } else { Class::Recent };
        let slot = Slot {
            links: [list::Link::UNLINKED; 4],
            born: second,
            touched: second,
            expiry: u32::try_from(packet.expires().0.div_ceil(60_000)).unwrap_or(u32::MAX),
            giver: self.giver(giver),
            class,
            holders: 0,
            packet: Some(packet),
        };
        let (tag, bound, expiry) = (slot.tag(), slot.bound(), slot.expiry);
        let at = if let Some(free) = self.free.pop() {
            self.slots[free as usize] = slot;
            free
        } else {
            if self.slots.len() == self.slots.capacity() {
                self.slots.reserve_exact(self.slots.len() / 8 + 4);
            }
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        };
        let (slots, secret) = (&self.slots, self.secret);
        self.by_key.insert_unique(hash, at, |slot| hash_key(secret, slots[*slot as usize].key()));
        if let Some(previous) = previous {
            let rehash = |slot: &u32| previous_of(slots[*slot as usize].packet()).map_or(0, |key| hash_key(secret, key));
            self.by_previous.insert_unique(hash_key(secret, previous), at, rehash);
        }
        if let Some(node) = node {
            let rehash = |slot: &u32| node_of(slots[*slot as usize].packet()).map_or(0, |key| hash_key(secret, key));
            self.by_root.insert_unique(hash_key(secret, node), at, rehash);
        }
        let topic = self.topics.entry(tag).or_insert_with(|| {
            self.used += TOPIC_COST;
            Topic::default()
        });
        topic.order.insert(bound, at);
        topic.bytes += bytes;
        self.used += bytes;
        self.turn.push(&mut self.slots, Kind::Turn, at);
        self.expiry.entry(expiry).or_insert(List::EMPTY).push(&mut self.slots, Kind::Expiry, at);
        self.enter(at, class);
        if self.used > self.budget {
            self.expire(wall);
            self.make_room(at);
        }
        Inserted::New
    }

    /// The account of a giver; accounts are reused when they are empty.
    fn giver(&mut self, peer: Option<PeerId>) -> u16 {
        if self.givers.is_empty() {
            // The account of our own and of all for whom there is none.
            self.givers.push(Giver { peer: None, list: List::EMPTY, bytes: 0 });
        }
        let Some(peer) = peer else { return 0 };
        if let Some(giver) = self.by_giver.get(&peer) {
            return *giver;
        }
        if self.givers.len() >= MAX_GIVERS {
            let Some(unused) = (1..self.givers.len()).find(|giver| self.givers[*giver].bytes == 0) else { return 0 };
            if let Some(before) = self.givers[unused].peer.replace(peer) {
                self.by_giver.remove(&before);
            }
            let unused = u16::try_from(unused).unwrap_or(0);
            self.by_giver.insert(peer, unused);
            return unused;
        }
        let giver = u16::try_from(self.givers.len()).unwrap_or(0);
        self.givers.push(Giver { peer: Some(peer), list: List::EMPTY, bytes: 0 });
        self.by_giver.insert(peer, giver);
        giver
    }

    fn remove_slot(&mut self, at: u32) {
        self.leave(at);
        let slot = &self.slots[at as usize];
        let (key, tag, bound, expiry, bytes) = (slot.key(), slot.tag(), slot.bound(), slot.expiry, cost(slot.packet()));
        self.gone.push(slot.packet().id());
        let (previous, node) = (previous_of(slot.packet()), node_of(slot.packet()));
        unindex(&mut self.by_key, self.secret, Some(key), at);
        unindex(&mut self.by_previous, self.secret, previous, at);
        unindex(&mut self.by_root, self.secret, node, at);
        if let Some(topic) = self.topics.get_mut(&tag) {
            topic.order.remove(&bound);
            topic.bytes -= bytes;
            if topic.bytes == 0 {
                self.topics.remove(&tag);
                self.used -= TOPIC_COST;
            }
        }
        if let Some(list) = self.expiry.get_mut(&expiry) {
            list.unlink(&mut self.slots, Kind::Expiry, at);
            if list.head == NONE {
                self.expiry.remove(&expiry);
            }
        }
        self.turn.unlink(&mut self.slots, Kind::Turn, at);
        self.used -= bytes;
        self.slots[at as usize].class = Class::Free;
        self.slots[at as usize].packet = None;
        self.free.push(at);
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

    /// The head of a message in fragments (`index` is `None`), or one of its fragments, with topic and times as in `like`.
    pub(crate) fn node(&self, root: &[u8; 32], index: Option<u32>, like: &Packet) -> Option<&Packet> {
        let hash = self.hash(node_key(root, index));
        let mut found = self.by_root.iter_hash(hash).map(|at| self.slots[*at as usize].packet());
        found.find(|packet| {
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

    pub(crate) fn summary(&self, tag: Tag) -> Summary {
        self.order(tag).map_or_else(Summary::default, Order::total)
    }

    /// The packets of a topic in order of creation.
    pub(crate) fn packets(&self, tag: Tag) -> impl Iterator<Item = &Packet> {
        let entries = self.order(tag).into_iter().flat_map(|order| order.range(Bound::MIN, Bound::MAX));
        entries.map(|entry| self.slots[entry.slot as usize].packet())
    }

    /// Moves the packets of a topic in or out of the preferred class; O(packets of the topic).
    pub(crate) fn prefer(&mut self, tag: Tag, preferred: bool) {
        let entries = self.order(tag).into_iter().flat_map(|order| order.range(Bound::MIN, Bound::MAX));
        let slots: Vec<u32> = entries.map(|entry| entry.slot).collect();
        for at in slots {
            if (self.slots[at as usize].class == Class::Preferred) != preferred {
                self.leave(at);
                self.enter(at, if preferred { Class::Preferred } else { Class::Recent });
            }
        }
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
        Some(self.slots[at as usize].key())
    }

    fn find(&self, key: Key) -> Option<u32> {
        self.by_key.find(self.hash(key), |slot| self.slots[*slot as usize].key() == key).copied()
    }

    fn hash(&self, key: Key) -> u64 {
        hash_key(self.secret, key)
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
        self.class == Class::Preferred
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
fn node_of(packet: &Packet) -> Option<Key> {
    match packet.header() {
        Header::Message(header) if header.fragments > 0 => Some(node_key(packet.payload_digest(), None)),
        Header::Message(_) => None,
        Header::Fragment(header) => Some(node_key(&header.root, Some(header.index))),
    }
}

fn node_key(root: &[u8; 32], index: Option<u32>) -> Key {
    let mut key = Key::from(PacketId(*root));
    key.0[0] ^= index.map_or(0, |index| u64::from(index) + 1);
    key
}

#[cfg(test)]
mod tests {
    use super::evict::{FOREIGN_TOPIC_SHARE, GIVER_SHARE};
    use super::*;
    use crate::testing::{WALL, packet};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ID: PeerId = PeerId([9; 32]);

    fn store(packets: usize) -> Store {
        Store::new(packets * (300 + PACKET_COST) + TOPIC_COST, &ID, [1, 2])
    }

    fn key(packet: &Packet) -> Key {
        Key::from(packet.id())
    }

    fn insert(store: &mut Store, packet: &Packet, giver: Option<u8>, preferred: bool) -> Inserted {
        store.insert(packet.to_owned_copy(), giver.map(|giver| PeerId([giver; 32])), preferred, WALL, 0)
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert { topic: u8, number: u64, size: usize, giver: Option<u8>, preferred: bool },
        Remove { topic: u8, number: u64 },
        Prefer { topic: u8, preferred: bool },
        Expire { minutes: u64 },
        Turn,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0..6u8, 0..200u64, 0..600usize, proptest::option::of(0..4u8), any::<bool>())
                .prop_map(|(topic, number, size, giver, preferred)| Op::Insert { topic, number, size, giver, preferred }),
            1 => (0..6u8, 0..200u64).prop_map(|(topic, number)| Op::Remove { topic, number }),
            1 => (0..6u8, any::<bool>()).prop_map(|(topic, preferred)| Op::Prefer { topic, preferred }),
            1 => (0..70u64).prop_map(|minutes| Op::Expire { minutes }),
            1 => Just(Op::Turn),
        ]
    }

    proptest! {
        #[test]
        fn the_store_is_the_set_of_what_came_in_and_did_not_go_out(ops in proptest::collection::vec(op(), 0..600)) {
            let mut store = store(40);
            let mut model: BTreeMap<PacketId, Packet> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert { topic, number, size, giver, preferred } => {
                        let packet = packet(topic, number, size);
                        let inserted = insert(&mut store, &packet, giver, preferred);
                        let known = model.insert(packet.id(), packet.clone()).is_some();
                        prop_assert_eq!(inserted, if known { Inserted::Held } else { Inserted::New });
                        prop_assert!(store.contains(key(&packet)), "the newest is never the victim");
                    }
                    Op::Remove { topic, number } => store.remove(key(&packet(topic, number, 10))),
                    Op::Prefer { topic, preferred } => store.prefer(Tag::from(packet(topic, 0, 0).topic()), preferred),
                    Op::Expire { minutes } => {
                        let wall = WALL.plus(minutes * 60_000);
                        store.expire(wall);
                        prop_assert!(store.slots.iter().filter_map(|slot| slot.packet.as_ref()).all(|packet| packet.expires().plus(60_000) > wall));
                    }
                    Op::Turn => drop(store.next_in_turn(7, 100)),
                }
                for id in store.take_gone() {
                    prop_assert!(model.remove(&id).is_some(), "what goes was there");
                }
                // The books are the sum over what is held.
                let held: BTreeSet<PacketId> = (0..6u8).flat_map(|topic| store.packets(Tag::from(packet(topic, 0, 0).topic())).map(Packet::id).collect::<Vec<_>>()).collect();
                prop_assert_eq!(&held, &model.keys().copied().collect());
                let topics: BTreeSet<_> = model.values().map(Packet::topic).collect();
                prop_assert_eq!(store.used, model.values().map(cost).sum::<usize>() + topics.len() * TOPIC_COST);
                prop_assert!(store.used <= store.budget);
                prop_assert_eq!(store.len(), model.len());
                for (id, packet) in &model {
                    prop_assert_eq!(store.get(Key::from(*id)), Some(packet));
                }
                let of_class = |class: fn(&Class) -> bool| store.slots.iter().filter(|slot| class(&slot.class)).map(|slot| cost(slot.packet())).sum::<usize>();
                prop_assert_eq!(store.preferred_bytes, of_class(|class| *class == Class::Preferred));
                prop_assert_eq!(store.recent_bytes, of_class(|class| *class == Class::Recent));
                let given: usize = store.givers.iter().map(|giver| giver.bytes).sum();
                prop_assert_eq!(given, of_class(|class| matches!(class, Class::Recent | Class::Settled(_))));
            }
        }
    }

    #[test]
    fn the_budget_covers_what_is_allocated() {
        for (topics, size) in [(1u8, 0), (1, 1024), (100, 0), (250, 300)] {
            let mut store = Store::new(4 << 20, &ID, [1, 2]);
            for number in 0..60_000 {
                let packet = packet(u8::try_from(number % u64::from(topics)).unwrap(), number * 7919 % 60_000, size);
                insert(&mut store, &packet, Some(1), number % 3 == 0);
                store.gone.clear();
            }
            let slots = store.slots.capacity() * size_of::<Slot>() + store.free.capacity() * 4;
            // A byte of control and a slot number for each bucket; allocation of a packet: its bytes, and a header of 16.
            let indices = 5 * (store.by_key.capacity() + store.by_previous.capacity() + store.by_root.capacity()) * 8 / 7;
            let bytes: usize = store.slots.iter().filter_map(|slot| slot.packet.as_ref()).map(|packet| packet.as_bytes().len() + 16).sum();
            let orders: usize = store.topics.values().map(|topic| topic.order.footprint()).sum();
            let topics = store.topics.capacity() * 8 / 7 * (1 + size_of::<(Tag, Topic)>());
            let allocated = slots + indices + bytes + orders + topics;
            assert!(allocated <= store.budget, "{allocated} of {} with {} packets", store.budget, store.len());
            assert!(allocated > store.budget / 10 * 6, "{allocated} of {} with {} packets", store.budget, store.len());
        }
    }

    #[test]
    fn expired_packets_go_before_any_other() {
        let mut store = store(10);
        let old: Vec<_> = (0..10).map(|number| packet(1, number, 100)).collect();
        old.iter().for_each(|packet| assert_eq!(insert(&mut store, packet, None, true), Inserted::New));
        let new = packet(2, 3_600_000, 600);
        store.insert(new.clone(), None, false, WALL.plus(3_660_000), 0);
        assert!(store.contains(key(&new)));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_topic_over_its_share_gives_up_its_own_oldest() {
        let mut store = store(80);
        for number in 0..400 {
            insert(
                &mut store,
                &packet(u8::try_from(number % 40).unwrap() + 10, number, 160),
                Some(u8::try_from(number % 7).unwrap()),
                false,
            );
        }
        for number in 0..400 {
            insert(&mut store, &packet(1, number, 160), Some(u8::try_from(number % 7).unwrap()), false);
        }
        let flood = store.packets(Tag::from(packet(1, 0, 0).topic())).count();
        assert!((flood - 1) * cost(&packet(1, 0, 160)) <= store.budget / FOREIGN_TOPIC_SHARE, "{flood} packets");
        assert!(store.contains(key(&packet(1, 399, 160))) && !store.contains(key(&packet(1, 300, 160))));
    }

    #[test]
    fn a_neighbour_over_its_share_gives_up_what_it_brought() {
        let mut store = store(80);
        for number in 0..400 {
            insert(
                &mut store,
                &packet(u8::try_from(number % 40).unwrap(), number, 160),
                Some(u8::try_from(number % 7).unwrap() + 1),
                false,
            );
        }
        for number in 0..2000 {
            insert(&mut store, &packet(u8::try_from(number % 150).unwrap() + 50, number, 160), Some(99), false);
        }
        let flood = store
            .slots
            .iter()
            .filter(|slot| slot.class != Class::Free && store.givers[usize::from(slot.giver)].peer == Some(PeerId([99; 32])))
            .count();
        assert!((flood - 1) * cost(&packet(1, 0, 160)) <= store.budget / GIVER_SHARE, "{flood} packets");
    }

    #[test]
    fn strangers_packets_give_way_to_subscribed_ones_and_of_them_the_farthest() {
        let mut store = store(80);
        let foreign: Vec<_> = (0..80).map(|number| packet(u8::try_from(number % 40).unwrap() + 10, number, 160)).collect();
        foreign
            .iter()
            .enumerate()
            .for_each(|(i, packet)| assert_eq!(insert(&mut store, packet, Some(u8::try_from(i % 9).unwrap()), false), Inserted::New));
        let own: Vec<_> = (0..20).map(|number| packet(u8::try_from(number % 5).unwrap(), number, 160)).collect();
        own.iter().for_each(|packet| assert_eq!(insert(&mut store, packet, None, true), Inserted::New));
        assert!(own.iter().all(|packet| store.contains(key(packet))));
        // Of those that settled, before the newest eighth, the nearer half fares better than the farther.
        let mut ranked: Vec<_> = foreign[..60].iter().map(|packet| (store.rank(key(packet)), store.contains(key(packet)))).collect();
        ranked.sort_unstable();
        let held = |half: &[(u8, bool)]| half.iter().filter(|(_, held)| *held).count();
        assert!(held(&ranked[..30]) > held(&ranked[30..]), "{ranked:?}");
    }
}
