//! Caches on a simulated network with virtual time: latency per pair, jitter and loss per message.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_cache::{Cache, Config, Event};
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{Link, MAX_POSTAGE, Packet, PacketId, PeerId, Timestamp, TopicId};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

pub(crate) const EPOCH: u64 = 1_700_000_000_000;

/// A message under way, ordered by arrival.
struct Flight {
    at: Duration,
    number: u64,
    from: usize,
    to: usize,
    message: Bytes,
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Flight {}

pub(crate) struct Network {
    start: Instant,
    pub(crate) now: Duration,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) loss: f64,
    /// How many messages come twice.
    pub(crate) doubled: f64,
    /// What each message may take longer than the latency of its pair.
    pub(crate) jitter: Duration,
    pub(crate) peers: Vec<Cache>,
    links: BTreeSet<(usize, usize)>,
    latency: BTreeMap<(usize, usize), Duration>,
    flights: BinaryHeap<Flight>,
    number: u64,
    author: DeviceKey,
    /// When each peer raised a packet as an event.
    pub(crate) received: BTreeMap<(usize, PacketId), Duration>,
    pub(crate) stored: BTreeMap<PacketId, u32>,
    /// Messages sent, and those of them that are packets.
    pub(crate) datagrams: u64,
    pub(crate) packets: u64,
    ids: BTreeMap<PeerId, usize>,
    /// What a peer that lies does not send.
    pub(crate) muted: Option<Muted>,
    wakes: BTreeSet<(Instant, usize)>,
    wake_of: Vec<Option<Instant>>,
}

type Muted = Box<dyn Fn(usize, &Bytes) -> bool>;

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(seed);
        #[expect(clippy::disallowed_methods, reason = "std has no other way to make an Instant; no test depends on which")]
        let start = Instant::now();
        Self {
            start,
            now: Duration::ZERO,
            rng,
            loss: 0.0,
            doubled: 0.0,
            jitter: Duration::from_millis(10),
            peers: Vec::new(),
            links: BTreeSet::new(),
            latency: BTreeMap::new(),
            flights: BinaryHeap::new(),
            number: 0,
            author: DeviceKey::from_seed(&[1; 32]),
            received: BTreeMap::new(),
            stored: BTreeMap::new(),
            datagrams: 0,
            packets: 0,
            ids: BTreeMap::new(),
            muted: None,
            wakes: BTreeSet::new(),
            wake_of: Vec::new(),
        }
    }

    pub(crate) fn id(peer: usize) -> PeerId {
        let mut rng = ChaCha20Rng::seed_from_u64(peer as u64 + 1000);
        PeerId(rng.random())
    }

    pub(crate) fn add(&mut self, config: Config) -> usize {
        let cache = Cache::new(self.instant(), config, Self::id(self.peers.len()), self.rng.random());
        self.ids.insert(Self::id(self.peers.len()), self.peers.len());
        self.peers.push(cache);
        self.wake_of.push(None);
        self.peers.len() - 1
    }

    /// A network in which each peer connects to `degree / 2` random others.
    pub(crate) fn mesh(seed: u64, count: usize, degree: usize) -> Self {
        let mut network = Self::new(seed);
        for _ in 0..count {
            network.add(Config::default());
        }
        for peer in 0..count {
            let mut others: Vec<usize> = (0..count).filter(|other| *other != peer).collect();
            others.shuffle(&mut network.rng);
            for other in others.into_iter().take(degree.div_ceil(2)) {
                network.connect(peer, other);
            }
        }
        network
    }

    pub(crate) fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(EPOCH).plus(self.now.as_millis().try_into().expect("a test is short"))
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        let pair = (a.min(b), a.max(b));
        if a == b || !self.links.insert(pair) {
            return;
        }
        let latency = Duration::from_millis(self.rng.random_range(20..=120));
        self.latency.entry(pair).or_insert(latency);
        let now = self.instant();
        self.peers[a].peer_connected(now, Self::id(b));
        self.peers[b].peer_connected(now, Self::id(a));
        self.drain(a);
        self.drain(b);
    }

    pub(crate) fn disconnect(&mut self, peer: usize) {
        let links: Vec<(usize, usize)> = self.links.iter().copied().filter(|(a, b)| *a == peer || *b == peer).collect();
        for (a, b) in links {
            self.links.remove(&(a, b));
            let now = self.instant();
            self.peers[a].peer_disconnected(now, Self::id(b));
            self.peers[b].peer_disconnected(now, Self::id(a));
        }
    }

    /// Takes a peer away for good.
    pub(crate) fn leave(&mut self, peer: usize) {
        self.disconnect(peer);
        self.peers[peer] = Cache::new(self.instant(), Config::default(), Self::id(peer), [0; 32]);
        self.drain(peer);
    }

    pub(crate) fn subscribe(&mut self, peer: usize, topic: TopicId) {
        self.with(peer, |cache, now, _| cache.subscribe(now, topic));
    }

    pub(crate) fn seal(&mut self, topic: &TopicKey, previous: Link, size: usize) -> Vec<Packet> {
        let draft = Draft { created: self.wall(), lifetime: 72 * 60, previous, postage: MAX_POSTAGE };
        let mut body = vec![0; size];
        self.rng.fill(&mut body[..]);
        topic.seal(&self.author, draft, &body, &mut self.rng).expect("it is not too large")
    }

    pub(crate) fn publish(&mut self, peer: usize, topic: &TopicKey, size: usize) -> Vec<PacketId> {
        let packets = self.seal(topic, Link::NONE, size);
        let ids = packets.iter().map(Packet::id).collect();
        self.publish_packets(peer, packets);
        ids
    }

    pub(crate) fn publish_packets(&mut self, peer: usize, packets: Vec<Packet>) {
        self.with(peer, |cache, now, wall| cache.publish(now, wall, packets));
    }

    /// Sends what a peer has to say.
    pub(crate) fn drain(&mut self, peer: usize) {
        while let Some((to, message)) = self.peers[peer].poll_message() {
            assert!(message.len() <= peers_cache::MAX_MESSAGE);
            let Some(to) = self.ids.get(&to).copied() else { continue };
            if self.muted.as_ref().is_some_and(|muted| muted(peer, &message)) {
                continue;
            }
            self.datagrams += 1;
            self.packets += u64::from(message[0] == 0);
            let pair = (peer.min(to), peer.max(to));
            if !self.links.contains(&pair) || (self.loss > 0.0 && self.rng.random_bool(self.loss)) {
                continue;
            }
            let copies = if self.doubled > 0.0 && self.rng.random_bool(self.doubled) { 2 } else { 1 };
            for _ in 0..copies {
                let at = self.now + self.latency[&pair] + self.rng.random_range(Duration::ZERO..self.jitter);
                self.number += 1;
                self.flights.push(Flight { at, number: self.number, from: peer, to, message: message.clone() });
            }
        }
        while let Some(event) = self.peers[peer].poll_event() {
            match event {
                Event::Packet(packet) => {
                    let news = self.received.insert((peer, packet.id()), self.now).is_none();
                    assert!(news, "a packet is raised once");
                }
                Event::Stored { id, holders } => drop(self.stored.insert(id, holders)),
                _ => {}
            }
        }
        let wake = self.peers[peer].poll_timeout();
        if let Some(before) = core::mem::replace(&mut self.wake_of[peer], wake) {
            self.wakes.remove(&(before, peer));
        }
        self.wakes.extend(wake.map(|at| (at, peer)));
    }

    /// Lets a peer do something now.
    pub(crate) fn with(&mut self, peer: usize, act: impl FnOnce(&mut Cache, Instant, Timestamp)) {
        let (now, wall) = (self.instant(), self.wall());
        act(&mut self.peers[peer], now, wall);
        self.drain(peer);
    }

    /// The packets of a topic that a peer holds.
    pub(crate) fn held(&self, peer: usize, topic: &TopicKey) -> BTreeSet<PacketId> {
        self.peers[peer].packets(topic.id()).map(Packet::id).collect()
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let flight = self.flights.peek().map(|flight| flight.at);
            let wake = self.wakes.first().map(|(at, peer)| (*at - self.start, *peer));
            let next = flight.into_iter().chain(wake.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            let (now, wall) = (self.instant(), self.wall());
            if flight == Some(next) {
                let Flight { from, to, message, .. } = self.flights.pop().expect("it was peeked at");
                if self.links.contains(&(from.min(to), from.max(to))) {
                    self.peers[to].handle_message(now, wall, Self::id(from), message);
                    self.drain(to);
                }
            } else if let Some((_, peer)) = wake {
                self.peers[peer].handle_timeout(now, wall);
                self.drain(peer);
            }
        }
        self.now = end;
    }
}
