//! A small network on virtual time: agents, NATs, delay, loss, duplication.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::DeviceKey;
use peers_nat::{Agent, BEACON_PORT, Config, Event, Path};
use peers_wire::{PeerId, Timestamp};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// What stands between a host and the others. Mappings expire after 60 s without outbound traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nat {
    /// A public address.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering.
    PortRestricted,
    /// Address-and-port-dependent mapping and filtering.
    Symmetric,
}

const MAPPING: Duration = Duration::from_secs(60);
const PORT: u16 = 4000;

struct Mapping {
    port: u16,
    /// Outbound traffic, by destination.
    to: BTreeMap<SocketAddr, Instant>,
    used: Instant,
}

pub(crate) struct Host {
    pub(crate) agent: Agent,
    pub(crate) events: Vec<Event>,
    /// Addresses that datagrams were sent to: how many, how many bytes.
    pub(crate) sent: BTreeMap<SocketAddr, (u64, u64)>,
    pub(crate) received: BTreeMap<SocketAddr, (u64, u64)>,
    pub(crate) alive: bool,
    nat: Nat,
    public: IpAddr,
    inside: SocketAddr,
    mappings: BTreeMap<Option<SocketAddr>, Mapping>,
    next_port: u16,
    /// A port that the NAT maps to the host for everyone, and who came in by it.
    forwarded: Option<u16>,
    came_in: BTreeSet<SocketAddr>,
}

/// A datagram under way.
struct Flight {
    from: usize,
    source: SocketAddr,
    destination: SocketAddr,
    datagram: Bytes,
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) hosts: Vec<Host>,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    pub(crate) duplicates: f64,
    /// Pairs of hosts that cannot hear each other.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    pub(crate) keys: Vec<DeviceKey>,
    /// What was sent: source, destination, datagram.
    pub(crate) tap: Vec<(SocketAddr, SocketAddr, Bytes)>,
    rng: ChaCha20Rng,
    flying: BTreeMap<(Instant, u64), Flight>,
    number: u64,
}

#[expect(clippy::disallowed_methods, reason = "an Instant has to begin somewhere; the tests only add to it")]
fn epoch() -> Instant {
    Instant::now()
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        let now = epoch();
        Self {
            now,
            start: now,
            hosts: Vec::new(),
            delay: Duration::from_millis(40),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicates: 0.0,
            cut: BTreeSet::new(),
            keys: Vec::new(),
            tap: Vec::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            flying: BTreeMap::new(),
            number: 0,
        }
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(1_800_000_000_000 + u64::try_from((self.now - self.start).as_millis()).unwrap())
    }

    pub(crate) fn config() -> Config {
        Config { lan: false, target_sessions: 0, ..Config::default() }
    }

    pub(crate) fn add(&mut self, nat: Nat) -> usize {
        self.add_with(nat, Self::config())
    }

    pub(crate) fn add_with(&mut self, nat: Nat, config: Config) -> usize {
        let n = self.hosts.len();
        let low = u8::try_from(n % 250).unwrap() + 1;
        let high = u8::try_from(n / 250).unwrap();
        let public = IpAddr::from(Ipv4Addr::new(50, 0, high, low));
        let inside = match nat {
            Nat::Open => SocketAddr::new(public, PORT),
            _ => SocketAddr::new(Ipv4Addr::new(10, 0, high, low).into(), PORT),
        };
        let key = DeviceKey::generate(&mut self.rng);
        self.keys.push(key.clone());
        let mut agent = Agent::new(self.now, config, key, self.rng.random());
        agent.set_local_addresses(self.now, &[inside]);
        self.hosts.push(Host {
            agent,
            events: Vec::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            alive: true,
            nat,
            public,
            inside,
            mappings: BTreeMap::new(),
            next_port: 20_000,
            forwarded: None,
            came_in: BTreeSet::new(),
        });
        self.drain(n);
        n
    }

    /// A new process with the old key on the same host.
    pub(crate) fn restart(&mut self, n: usize) {
        let mut agent = Agent::new(self.now, Self::config(), self.keys[n].clone(), self.rng.random());
        agent.set_local_addresses(self.now, &[self.hosts[n].inside]);
        self.hosts[n].agent = agent;
        self.hosts[n].events.clear();
        self.hosts[n].alive = true;
    }

    /// The NAT of a host forgets all mappings, and uses other ports from now on.
    pub(crate) fn reboot_nat(&mut self, n: usize) {
        self.hosts[n].mappings.clear();
        self.hosts[n].next_port += 1000;
    }

    /// The NAT of a host maps a port for everyone, as PCP or a person asked it to; returns where.
    pub(crate) fn forward(&mut self, n: usize, port: u16) -> SocketAddr {
        self.hosts[n].forwarded = Some(port);
        SocketAddr::new(self.hosts[n].public, port)
    }

    pub(crate) fn id(&self, n: usize) -> PeerId {
        self.keys[n].id()
    }

    /// The address of a host without NAT.
    pub(crate) fn address(&self, n: usize) -> SocketAddr {
        assert_eq!(self.hosts[n].nat, Nat::Open);
        self.hosts[n].inside
    }

    pub(crate) fn connect(&mut self, from: usize, to: usize, addresses: &[SocketAddr]) {
        let (now, wall, id) = (self.now, self.wall(), self.id(to));
        self.hosts[from].agent.connect(now, wall, id, addresses).unwrap();
        self.drain(from);
    }

    /// Connects to a host without NAT.
    pub(crate) fn connect_open(&mut self, from: usize, to: usize) {
        let address = self.address(to);
        self.connect(from, to, &[address]);
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, data: &[u8]) {
        let (now, id) = (self.now, self.id(to));
        let _ = self.hosts[from].agent.send(now, id, data);
        self.drain(from);
    }

    pub(crate) fn send_asking(&mut self, from: usize, to: usize, data: &[u8]) {
        let (now, id) = (self.now, self.id(to));
        let _ = self.hosts[from].agent.send_asking(now, id, data);
        self.drain(from);
    }

    /// A datagram from nowhere.
    pub(crate) fn inject(&mut self, to: usize, remote: SocketAddr, datagram: &[u8]) {
        let (now, wall) = (self.now, self.wall());
        self.hosts[to].agent.handle_datagram(now, wall, remote, Bytes::copy_from_slice(datagram));
        self.drain(to);
    }

    /// Takes what host `n` has to send and to say.
    pub(crate) fn drain(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        while let Some(event) = host.agent.poll_event() {
            host.events.push(event);
        }
        while let Some(transmit) = self.hosts[n].agent.poll_transmit() {
            assert!(transmit.payload.len() <= 1200);
            if !self.hosts[n].alive {
                continue;
            }
            let entry = self.hosts[n].sent.entry(transmit.destination).or_default();
            *entry = (entry.0 + 1, entry.1 + transmit.payload.len() as u64);
            let source = if transmit.destination.ip().is_multicast() {
                let mut source = self.hosts[n].inside;
                source.set_port(BEACON_PORT);
                source
            } else {
                self.outbound(n, transmit.destination)
            };
            self.tap.push((source, transmit.destination, transmit.payload.clone()));
            let copies = 1 + usize::from(self.rng.random_bool(self.duplicates));
            for _ in 0..copies {
                if self.rng.random_bool(self.loss) {
                    continue;
                }
                let jitter = self.jitter.mul_f64(self.rng.random());
                self.number += 1;
                let flight = Flight { from: n, source, destination: transmit.destination, datagram: transmit.payload.clone() };
                self.flying.insert((self.now + self.delay + jitter, self.number), flight);
            }
        }
    }

    fn outbound(&mut self, n: usize, destination: SocketAddr) -> SocketAddr {
        let (now, host) = (self.now, &mut self.hosts[n]);
        if host.nat == Nat::Open {
            return host.inside;
        }
        if let Some(port) = host.forwarded.filter(|_| host.came_in.contains(&destination)) {
            return SocketAddr::new(host.public, port);
        }
        let key = (host.nat == Nat::Symmetric).then_some(destination);
        host.mappings.retain(|_, mapping| now - mapping.used < MAPPING);
        let next_port = &mut host.next_port;
        let mapping = host.mappings.entry(key).or_insert_with(|| {
            *next_port += 1;
            Mapping { port: *next_port, to: BTreeMap::new(), used: now }
        });
        mapping.used = now;
        mapping.to.insert(destination, now);
        SocketAddr::new(host.public, mapping.port)
    }

    /// The host that a datagram for `destination` reaches.
    fn inbound(&self, source: SocketAddr, destination: SocketAddr) -> Option<usize> {
        self.hosts.iter().position(|host| match host.nat {
            Nat::Open => host.inside == destination,
            nat => {
                let forwarded = host.forwarded == Some(destination.port());
                host.public == destination.ip()
                    && (forwarded
                        || host.mappings.values().any(|mapping| {
                            let fresh = |at: &Instant| self.now - *at < MAPPING;
                            mapping.port == destination.port()
                                && fresh(&mapping.used)
                                && match nat {
                                    Nat::Open | Nat::FullCone => true,
                                    Nat::AddressRestricted => mapping.to.iter().any(|(to, at)| to.ip() == source.ip() && fresh(at)),
                                    Nat::PortRestricted | Nat::Symmetric => mapping.to.iter().any(|(to, at)| *to == source && fresh(at)),
                                }
                        }))
            }
        })
    }

    fn deliver(&mut self, flight: Flight) {
        let Flight { from, source, destination, datagram } = flight;
        if destination.ip().is_multicast() {
            for to in 0..self.hosts.len() {
                if to != from && self.hosts[to].alive {
                    self.inject(to, source, &datagram);
                }
            }
            return;
        }
        let Some(to) = self.inbound(source, destination) else { return };
        let cut = self.cut.contains(&(from.min(to), from.max(to)));
        if self.hosts[to].alive && !cut {
            if self.hosts[to].forwarded == Some(destination.port()) {
                self.hosts[to].came_in.insert(source);
            }
            let entry = self.hosts[to].received.entry(source).or_default();
            *entry = (entry.0 + 1, entry.1 + datagram.len() as u64);
            self.inject(to, source, &datagram);
        }
    }

    /// Lets virtual time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeout = |host: &Host| if host.alive { host.agent.poll_timeout() } else { None };
            let timer = self.hosts.iter().enumerate().filter_map(|(n, host)| timeout(host).map(|at| (at, n))).min();
            let flight = self.flying.first_key_value().map(|(key, _)| *key);
            match (timer, flight) {
                (Some((at, n)), flight) if at <= end && flight.is_none_or(|(arrival, _)| at <= arrival) => {
                    self.now = self.now.max(at);
                    let (now, wall) = (self.now, self.wall());
                    self.hosts[n].agent.handle_timeout(now, wall);
                    assert!(self.hosts[n].agent.poll_timeout().is_none_or(|next| next > now), "what was due is done");
                    self.drain(n);
                }
                (_, Some(key)) if key.0 <= end => {
                    self.now = self.now.max(key.0);
                    let flight = self.flying.remove(&key).unwrap();
                    self.deliver(flight);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Lets time pass until `done`, at most `time`; returns how long it took.
    pub(crate) fn run_until(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let (begin, step) = (self.now, Duration::from_millis(5));
        while !done(self) {
            if self.now - begin >= time {
                return None;
            }
            self.run(step);
        }
        Some(self.now - begin)
    }

    pub(crate) fn path(&self, from: usize, to: usize) -> Option<Path> {
        self.hosts[from].agent.peer(self.id(to)).map(|peer| peer.path)
    }

    pub(crate) fn is_direct(&self, a: usize, b: usize) -> bool {
        matches!((self.path(a, b), self.path(b, a)), (Some(Path::Direct(_)), Some(Path::Direct(_))))
    }

    pub(crate) fn is_connected(&self, a: usize, b: usize) -> bool {
        self.path(a, b).is_some() && self.path(b, a).is_some()
    }

    /// The data that `to` received from `from`.
    pub(crate) fn data(&self, from: usize, to: usize) -> Vec<Bytes> {
        let id = self.id(from);
        let data = |event: &Event| match event {
            Event::Data { peer, data } if *peer == id => Some(data.clone()),
            _ => None,
        };
        self.hosts[to].events.iter().filter_map(data).collect()
    }

    pub(crate) fn count(&self, n: usize, matches: impl Fn(&Event) -> bool) -> usize {
        self.hosts[n].events.iter().filter(|event| matches(event)).count()
    }

    pub(crate) fn random_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// Datagrams sent by all hosts so far.
    pub(crate) fn total_sent(&self) -> u64 {
        self.hosts.iter().map(|host| host.agent.stats().sent).sum()
    }
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
