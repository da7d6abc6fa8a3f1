//! A world of real node stacks on a simulated network.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use peers_crypto::DeviceKey;
use peers_nat::SocketId;
use peers_node::{Account, Config, Event, Stack};
use peers_wire::{Packet, PacketId, PeerId, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::net::{Arrival, HOST_PORT, HostId, Links, Network, SiteId, TTL};

/// Peers on a [`Network`], driven as the real driver drives them: one input, then everything that follows from it.
///
/// A peer keeps its [`HostId`] for life; a replacement is another peer.
#[derive(Debug)]
pub struct World {
    /// What lies between the peers.
    pub network: Network,
    /// Time zero. The only reading of a clock: everything else is relative to it.
    base: Instant,
    rng: ChaCha20Rng,
    /// By [`HostId`]; a peer that left, and a stranger, is `None`.
    peers: Vec<Option<Box<Peer>>>,
    happened: VecDeque<(HostId, Event)>,
}

#[derive(Debug)]
struct Peer {
    stack: Stack,
    config: Config,
    key_seed: [u8; 32],
    account: Account,
    /// How much its wall clock is ahead (negative: behind) in milliseconds.
    skew: i64,
    /// What it keeps on disk of its cache.
    disk: BTreeMap<PacketId, Packet>,
    /// The ports of its auxiliary sockets.
    sockets: BTreeMap<SocketId, u16>,
    /// The last wake and how many there were at that very time.
    last_wake: (Duration, u32),
}

/// What of a peer outlives its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Key, account and cached packets are on disk.
    KeepsState,
    /// Only the key and the account are.
    LosesCache,
}

impl World {
    /// An empty world at time zero.
    pub fn new(links: Links, seed: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time; results do not depend on it")]
        let base = Instant::now();
        // Every peer computes what others computed already; see decision 0025.
        peers_crypto::memo::remember(REMEMBERED);
        Self {
            network: Network::new(links, seed),
            base,
            rng: ChaCha20Rng::seed_from_u64(seed),
            peers: Vec::new(),
            happened: VecDeque::new(),
        }
    }

    /// Virtual time since the start.
    pub const fn now(&self) -> Duration {
        self.network.now()
    }

    /// True wall time: what a peer without skew reads.
    pub fn wall(&self) -> Timestamp {
        EPOCH.plus(self.now().as_secs() * 1000 + u64::from(self.now().subsec_millis()))
    }

    /// Starts a fresh peer at `site` whose wall clock is `skew` milliseconds ahead. It knows nobody yet.
    pub fn add_peer(&mut self, site: SiteId, config: Config, skew: i64) -> HostId {
        let key_seed = self.rng.random();
        self.add_peer_with_key(site, config, skew, key_seed)
    }

    /// As [`World::add_peer`], for the device whose key has that seed.
    pub fn add_peer_with_key(&mut self, site: SiteId, config: Config, skew: i64, key_seed: [u8; 32]) -> HostId {
        let host = self.network.add_host(site);
        let wall = skewed(self.wall(), skew);
        let key = DeviceKey::from_seed(&key_seed);
        let account = Account::create(wall, &key, "simulated", &mut self.rng).expect("the name is short");
        let stack = Stack::new(self.base + self.now(), wall, config.clone(), key, account.clone(), self.rng.random());
        let last_wake = (Duration::ZERO, 0);
        let (disk, sockets) = (BTreeMap::new(), BTreeMap::new());
        self.peers.push(Some(Box::new(Peer { stack, config, key_seed, account, skew, disk, sockets, last_wake })));
        self.announce_address(host);
        host
    }

    /// Adds a host that runs no stack: what it sends with [`Network::send`] is the test's affair, what it receives is ignored.
    pub fn add_stranger(&mut self, site: SiteId) -> HostId {
        self.peers.push(None);
        self.network.add_host(site)
    }

    /// Takes a peer away without a word; returns its stack, to look into.
    pub fn remove_peer(&mut self, host: HostId) -> Option<Stack> {
        let peer = self.peers[host.0].take()?;
        self.network.remove_host(host);
        self.happened.retain(|(other, _)| *other != host);
        Some(peer.stack)
    }

    /// Kills the process of a peer and starts it anew. It knows nobody: what an application holds (topics, addresses), it must give again.
    pub fn restart(&mut self, host: HostId, restart: Restart) {
        let (now, wall, seed) = (self.base + self.now(), self.peer_wall(host), self.rng.random());
        self.happened.retain(|(other, _)| *other != host);
        let peer = self.peers[host.0].as_mut().expect(GONE);
        let key = DeviceKey::from_seed(&peer.key_seed);
        peer.stack = Stack::new(now, wall, peer.config.clone(), key, peer.account.clone(), seed);
        peer.sockets.clear();
        match restart {
            Restart::KeepsState => peer.disk.values().for_each(|packet| peer.stack.load(now, wall, packet.clone())),
            Restart::LosesCache => peer.disk.clear(),
        }
        self.announce_address(host);
    }

    /// Suspends a peer: it receives nothing and its timers rest. Its clocks go on.
    pub fn sleep(&mut self, host: HostId) {
        self.network.set_asleep(host, true);
    }

    /// Awakes a suspended peer: as the real driver, it notices a timeout that is long past.
    pub fn awake(&mut self, host: HostId) {
        self.network.set_asleep(host, false);
        let due = self.stack(host).poll_timeout();
        self.with(host, |stack, now, wall| {
            if due.is_some_and(|due| now.saturating_duration_since(due) >= SUSPENDED) {
                stack.network_changed(now, wall);
            }
            stack.handle_timeout(now, wall);
        });
    }

    /// Whether the peer is there and awake.
    pub fn is_up(&self, host: HostId) -> bool {
        self.peers[host.0].is_some() && !self.network.is_asleep(host)
    }

    /// The stack of a peer.
    ///
    /// # Panics
    /// If it left.
    pub fn stack(&self, host: HostId) -> &Stack {
        &self.peers[host.0].as_ref().expect(GONE).stack
    }

    /// The stack of every peer that has not left, in the order they came.
    pub fn stacks(&self) -> impl Iterator<Item = (HostId, &Stack)> {
        self.peers.iter().enumerate().filter_map(|(i, peer)| Some((HostId(i), &peer.as_ref()?.stack)))
    }

    /// The key of a peer.
    pub fn id(&self, host: HostId) -> PeerId {
        self.stack(host).id()
    }

    /// Gives a peer a command, with its own clocks.
    ///
    /// # Panics
    /// If it left, or sleeps.
    pub fn with<T>(&mut self, host: HostId, command: impl FnOnce(&mut Stack, Instant, Timestamp) -> T) -> T {
        assert!(self.is_up(host), "only a running peer takes commands");
        let (now, wall) = (self.base + self.now(), self.peer_wall(host));
        let result = command(&mut self.peers[host.0].as_mut().expect(GONE).stack, now, wall);
        self.drain(host);
        result
    }

    /// Tells `host` how to reach `other`, by its public address.
    pub fn introduce(&mut self, host: HostId, other: HostId) {
        let (id, address) = (self.id(other), self.network.address(other));
        self.with(host, |stack, now, wall| stack.connect(now, wall, id, &[address])).expect("the harness connects to few");
    }

    /// Runs until something happens at a peer, at most until `until`; `None` when nothing more happens by then.
    pub fn next(&mut self, until: Duration) -> Option<(HostId, Event)> {
        loop {
            if let Some((host, event)) = self.happened.pop_front() {
                return Some((host, event));
            }
            match self.network.next(until)? {
                Arrival::Datagram { host, .. } if self.peers[host.0].is_none() => {}
                Arrival::Datagram { host, port: HOST_PORT, remote, payload } => {
                    self.with(host, |stack, now, wall| stack.handle_datagram(now, wall, remote, payload));
                }
                Arrival::Datagram { host, port, remote, payload } => {
                    let sockets = &self.peers[host.0].as_ref().expect(GONE).sockets;
                    if let Some(socket) = sockets.iter().find(|(_, known)| **known == port).map(|(socket, _)| *socket) {
                        self.with(host, |stack, now, wall| stack.handle_auxiliary(now, wall, socket, remote, payload));
                    }
                }
                Arrival::Wake { host } => self.on_wake(host),
            }
        }
    }

    /// Runs until `until`, whatever happens.
    pub fn run(&mut self, until: Duration) {
        while self.next(until).is_some() {}
    }

    fn on_wake(&mut self, host: HostId) {
        let now = self.now();
        let peer = self.peers[host.0].as_mut().expect(GONE);
        // What it waited for may have been settled since, or moved to later.
        if peer.stack.poll_timeout().is_some_and(|at| at <= self.base + now) {
            peer.last_wake = if peer.last_wake.0 == now { (now, peer.last_wake.1 + 1) } else { (now, 0) };
            assert!(peer.last_wake.1 < MAX_WAKES, "peer {host:?} asks again and again for a timeout that has passed, at {now:?}");
            self.with(host, |stack, now, wall| stack.handle_timeout(now, wall));
        } else {
            self.drain(host);
        }
    }

    fn announce_address(&mut self, host: HostId) {
        let addresses = self.network.addresses(host).to_vec();
        self.with(host, |stack, now, wall| stack.set_local_addresses(now, wall, &addresses));
    }

    /// Passes on what a stack has to say, and sees to its next timeout.
    fn drain(&mut self, host: HostId) {
        let peer = self.peers[host.0].as_mut().expect(GONE);
        while let Some(transmit) = peer.stack.poll_transmit() {
            assert!(transmit.payload.len() <= MAX_DATAGRAM, "peer {host:?} sends {} bytes in one datagram", transmit.payload.len());
            let port = match transmit.socket {
                SocketId::MAIN => HOST_PORT,
                socket => match peer.sockets.get(&socket) {
                    Some(port) => *port,
                    None => {
                        let port = free_port(&peer.sockets, &mut self.rng);
                        peer.sockets.insert(socket, port);
                        port
                    }
                },
            };
            self.network.send_from(host, port, transmit.destination, transmit.ttl.unwrap_or(TTL), transmit.payload);
        }
        while let Some(socket) = peer.stack.poll_closed() {
            peer.sockets.remove(&socket);
        }
        while let Some(event) = peer.stack.poll_event() {
            match event {
                Event::Keep(packet) => {
                    peer.disk.insert(packet.id(), packet);
                }
                Event::Forget(id) => {
                    peer.disk.remove(&id);
                }
                event => self.happened.push_back((host, event)),
            }
        }
        if let Some(at) = peer.stack.poll_timeout() {
            self.network.wake_at(host, whole_millis(at.saturating_duration_since(self.base)));
        }
    }

    fn peer_wall(&self, host: HostId) -> Timestamp {
        skewed(self.wall(), self.peers[host.0].as_ref().expect(GONE).skew)
    }
}

/// A port that none of `sockets` has.
fn free_port(sockets: &BTreeMap<SocketId, u16>, rng: &mut ChaCha20Rng) -> u16 {
    loop {
        let port = rng.random_range(AUXILIARY_PORTS);
        if !sockets.values().any(|taken| *taken == port) {
            return port;
        }
    }
}

/// Rounded up to a millisecond, as the timer of the real driver does.
fn whole_millis(at: Duration) -> Duration {
    Duration::from_millis(u64::try_from(at.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

fn skewed(wall: Timestamp, skew: i64) -> Timestamp {
    Timestamp(wall.0.saturating_add_signed(skew))
}

/// From when on a late timeout means to the driver that the machine was suspended.
const SUSPENDED: Duration = Duration::from_secs(3);
/// Results of each function of cryptography that are remembered.
const REMEMBERED: usize = 1 << 17;
/// Wall time at the start of every simulation: 2026-01-01.
const EPOCH: Timestamp = Timestamp(1_767_225_600_000);
/// Where the system opens sockets that ask for no port, as Linux does.
const AUXILIARY_PORTS: core::ops::Range<u16> = 32_768..61_000;
/// Largest datagram any peer may send.
const MAX_DATAGRAM: usize = 1200;
/// Timeouts of one peer at one instant: more is a peer that would spin for ever.
const MAX_WAKES: u32 = 1000;
const GONE: &str = "the peer has left";
