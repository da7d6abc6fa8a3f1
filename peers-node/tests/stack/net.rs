//! Stacks on public addresses, 20 ms apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::DeviceKey;
use peers_nat::Transmit;
use peers_node::{Account, Config, Event, Stack, TopicMessage};
use peers_wire::{PeerId, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

pub(crate) struct Net {
    start: Instant,
    now: Duration,
    keys: Vec<DeviceKey>,
    stacks: Vec<Stack>,
    events: Vec<Vec<Event>>,
    paused: HashSet<usize>,
    flying: BinaryHeap<Reverse<(Duration, u64)>>,
    datagrams: BTreeMap<u64, (usize, SocketAddr, Bytes)>,
    sent: u64,
    pub(crate) loss: f64,
    /// Share of datagrams that arrive twice, the second time up to a second later.
    pub(crate) duplication: f64,
    /// Pairs between which nothing passes.
    pub(crate) cut: HashSet<(usize, usize)>,
    rng: ChaCha20Rng,
}

impl Net {
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        Self::with_config(seed, nodes, &Config::default())
    }

    pub(crate) fn with_config(seed: u64, nodes: usize, config: &Config) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let start = Instant::now();
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let keys: Vec<_> = (0..nodes).map(|_| DeviceKey::from_seed(&rng.random())).collect();
        let stacks = (keys.iter().enumerate())
            .map(|(node, key)| {
                let account = Account::create(WALL, key, "device", &mut rng).unwrap();
                let mut stack = Stack::new(start, WALL, config.clone(), key.clone(), account, rng.random());
                stack.set_local_addresses(start, WALL, &[address(node)]);
                stack
            })
            .collect();
        let events = vec![Vec::new(); nodes];
        Self {
            start,
            now: Duration::ZERO,
            keys,
            stacks,
            events,
            paused: HashSet::new(),
            flying: BinaryHeap::new(),
            datagrams: BTreeMap::new(),
            sent: 0,
            loss: 0.0,
            duplication: 0.0,
            cut: HashSet::new(),
            rng,
        }
    }

    pub(crate) fn id(&self, node: usize) -> PeerId {
        self.stacks[node].id()
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        let peer = self.id(b);
        self.with(a, |stack, now, wall| stack.connect(now, wall, peer, &[address(b)])).unwrap();
    }

    pub(crate) fn connect_all(&mut self) {
        for a in 0..self.stacks.len() {
            for b in a + 1..self.stacks.len() {
                self.connect(a, b);
            }
        }
        self.run_secs(2);
        assert!(self.stacks.iter().all(|stack| stack.sessions() == self.stacks.len() - 1));
    }

    /// The node is killed and starts again with nothing but its key and `account`.
    pub(crate) fn restart(&mut self, node: usize, account: Account) {
        let (now, wall) = self.time();
        let key = self.keys[node].clone();
        self.stacks[node] = Stack::new(now, wall, Config::default(), key, account, self.rng.random());
        self.with(node, |stack, now, wall| stack.set_local_addresses(now, wall, &[address(node)]));
    }

    /// From now on the node neither hears nor does anything.
    pub(crate) fn pause(&mut self, node: usize) {
        self.paused.insert(node);
    }

    pub(crate) fn resume(&mut self, node: usize) {
        self.paused.remove(&node);
    }

    pub(crate) fn with<T>(&mut self, node: usize, work: impl FnOnce(&mut Stack, Instant, Timestamp) -> T) -> T {
        let (now, wall) = self.time();
        let value = work(&mut self.stacks[node], now, wall);
        self.drain(node);
        value
    }

    pub(crate) fn events(&self, node: usize) -> impl Iterator<Item = &Event> {
        self.events[node].iter()
    }

    pub(crate) fn messages(&self, node: usize) -> impl Iterator<Item = &TopicMessage> {
        self.events(node).filter_map(|event| match event {
            Event::Message(message) => Some(message),
            _ => None,
        })
    }

    pub(crate) fn run_secs(&mut self, seconds: u64) {
        self.run_millis(seconds * 1000);
    }

    pub(crate) fn run_millis(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            let timers = (0..self.stacks.len())
                .filter(|node| !self.paused.contains(node))
                .filter_map(|node| Some((self.stacks[node].poll_timeout()?, node)));
            let timer = timers.min().map(|(at, node)| (at.saturating_duration_since(self.start).max(self.now), node));
            let arrival = self.flying.peek().map(|Reverse((at, _))| *at);
            match (timer, arrival) {
                (_, Some(at)) if at <= end && timer.is_none_or(|(timer, _)| at <= timer) => {
                    self.now = at;
                    let Some(Reverse((_, number))) = self.flying.pop() else { return };
                    let (from, to, datagram) = self.datagrams.remove(&number).unwrap();
                    let node = usize::from(to.port()) - 1;
                    if !self.paused.contains(&node) {
                        self.with(node, |stack, now, wall| stack.handle_datagram(now, wall, address(from), datagram));
                    }
                }
                (Some((at, node)), _) if at <= end => {
                    self.now = at;
                    self.with(node, |stack, now, wall| stack.handle_timeout(now, wall));
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn time(&self) -> (Instant, Timestamp) {
        (self.start + self.now, WALL.plus(u64::try_from(self.now.as_millis()).unwrap()))
    }

    fn drain(&mut self, node: usize) {
        while let Some(transmit) = self.stacks[node].poll_transmit() {
            let known = transmit.destination.ip() == address(0).ip() && usize::from(transmit.destination.port()) <= self.stacks.len();
            let to = usize::from(transmit.destination.port()).saturating_sub(1);
            let passes = known && !self.cut.contains(&(node, to)) && !self.cut.contains(&(to, node));
            if !passes || self.rng.random::<f64>() < self.loss {
                continue;
            }
            let mut at = self.now + Duration::from_millis(20);
            self.fly(at, node, &transmit);
            if self.rng.random::<f64>() < self.duplication {
                at += Duration::from_millis(self.rng.random_range(0..1000));
                self.fly(at, node, &transmit);
            }
        }
        while let Some(event) = self.stacks[node].poll_event() {
            self.events[node].push(event);
        }
    }

    fn fly(&mut self, at: Duration, from: usize, transmit: &Transmit) {
        self.sent += 1;
        self.datagrams.insert(self.sent, (from, transmit.destination, transmit.payload.clone()));
        self.flying.push(Reverse((at, self.sent)));
    }
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([11, 0, 0, 1], u16::try_from(node + 1).unwrap()))
}

const WALL: Timestamp = Timestamp(1_800_000_000_000);
