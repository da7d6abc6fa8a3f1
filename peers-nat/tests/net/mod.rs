//! A small network on virtual time: agents, NATs, delay, loss, duplication.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../../tests/src/internet.rs"]
#[allow(unreachable_pub, reason = "it is part of a library elsewhere")]
pub(crate) mod internet;
#[path = "../../../tests/src/nat.rs"]
#[allow(unreachable_pub, reason = "it is part of a library elsewhere")]
pub(crate) mod nat;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use internet::{Departure, HostId, Internet};
use nat::Kind;
use peers_crypto::DeviceKey;
use peers_nat::{Agent, Attempt, BEACON_PORT, Config, Event, Path, SocketId};
use peers_wire::{PeerId, Timestamp};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// What stands between a host and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nat {
    /// A public address.
    Open,
    /// Endpoint-independent mapping and filtering. This one and the next three choose ports at random; their mappings expire after 60 s without outbound traffic.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering.
    PortRestricted,
    /// Address-and-port-dependent mapping and filtering.
    Symmetric,
    /// Routers that netlab can build, in its language: `symmetric-sequential`, `double outer=port-restricted`; with `v6`, the host has IPv6, too.
    Linux(&'static str),
}

impl Nat {
    /// The routers, the innermost first.
    fn kinds(self) -> Vec<Kind> {
        match self {
            Self::Open => Vec::new(),
            Self::FullCone => vec![Kind::FULL_CONE],
            Self::AddressRestricted => vec![Kind::ADDRESS_RESTRICTED],
            Self::PortRestricted => vec![Kind::PORT_RESTRICTED],
            Self::Symmetric => vec![Kind::SYMMETRIC],
            Self::Linux(label) => Kind::parse(label.trim_end_matches(" v6")).unwrap(),
        }
    }
}

/// Port of a host's main socket.
const PORT: u16 = 4000;
/// Hops of a datagram that asks for no other number.
const TTL: u8 = 64;

pub(crate) struct Host {
    pub(crate) agent: Agent,
    pub(crate) events: Vec<Event>,
    /// Addresses that datagrams were sent to: how many, how many bytes.
    pub(crate) sent: BTreeMap<SocketAddr, (u64, u64)>,
    pub(crate) received: BTreeMap<SocketAddr, (u64, u64)>,
    pub(crate) alive: bool,
    /// Its open sockets and their ports; the main one is always open.
    pub(crate) sockets: BTreeMap<SocketId, u16>,
    /// Most sockets that were open at once, the main one included.
    pub(crate) most_sockets: usize,
    nat: Nat,
    inside: Vec<SocketAddr>,
}

/// A datagram under way.
struct Flight {
    from: usize,
    source: SocketAddr,
    destination: SocketAddr,
    stage: Stage,
    datagram: Bytes,
}

#[derive(Clone, Copy)]
enum Stage {
    /// On the internet, with hops left.
    Core(u8),
    /// In the LAN of a host, at its door.
    Local(usize),
    /// To everyone, whatever LAN they are in.
    Multicast,
    /// To the host at the other end of a stream.
    Stream(usize),
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
    /// By host and the address it sends to: the host at the other end, and where that one sees it.
    streams: BTreeMap<(usize, SocketAddr), (usize, SocketAddr)>,
    /// Datagrams that went by streams, but the first of each.
    pub(crate) streamed: usize,
    internet: Internet,
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
            streams: BTreeMap::new(),
            streamed: 0,
            internet: Internet::default(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            flying: BTreeMap::new(),
            number: 0,
        }
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(1_800_000_000_000 + u64::try_from((self.now - self.start).as_millis()).unwrap())
    }

    pub(crate) fn config() -> Config {
        Config { lan: false, target_sessions: 0, classify: false, ..Config::default() }
    }

    pub(crate) fn add(&mut self, nat: Nat) -> usize {
        self.add_with(nat, Self::config())
    }

    pub(crate) fn add_with(&mut self, nat: Nat, config: Config) -> usize {
        let [_, _, high, low] = self.numbers();
        let mut uplink = None;
        for (depth, kind) in nat.kinds().iter().rev().enumerate() {
            let address = if depth == 0 { [50, 0, high, low] } else { [100, 64, high, low] };
            uplink = Some(self.internet.add_router(*kind, uplink, Ipv4Addr::from(address).into()));
        }
        let public = [10 + 40 * u8::from(uplink.is_none()), 0, high, low];
        let public = match nat.kinds()[..] {
            [kind] if !kind.translates => [51, 0, high, low],
            _ => public,
        };
        self.add_at(nat, uplink, public, config)
    }

    /// A host in the LAN of another.
    pub(crate) fn add_beside(&mut self, other: usize, config: Config) -> usize {
        let (nat, uplink, [_, _, high, low]) = (self.hosts[other].nat, self.internet.uplink(HostId(other)), self.numbers());
        assert!(uplink.is_some(), "a public host has no LAN");
        self.add_at(nat, uplink, [10, 0, high, low], config)
    }

    /// A host behind a NAT of its own, with the address that another has in its LAN.
    pub(crate) fn add_like(&mut self, other: usize, nat: Nat, config: Config) -> usize {
        let IpAddr::V4(same) = self.hosts[other].inside[0].ip() else { panic!("IPv4") };
        let [_, _, high, low] = self.numbers();
        let uplink = self.internet.add_router(nat.kinds()[0], None, Ipv4Addr::new(50, 0, high, low).into());
        self.add_at(nat, Some(uplink), same.octets(), config)
    }

    /// Four bytes that tell the next host from the others.
    fn numbers(&self) -> [u8; 4] {
        let n = self.hosts.len();
        [0, 0, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250).unwrap() + 1]
    }

    fn add_at(&mut self, nat: Nat, uplink: Option<internet::RouterId>, address: [u8; 4], config: Config) -> usize {
        let n = self.hosts.len();
        let v6 = matches!(nat, Nat::Linux(label) if label.ends_with(" v6"));
        let v6 = v6.then(|| IpAddr::V6(Ipv6Addr::new(0x2a00, 0x11, u16::try_from(n).unwrap(), 0, 0, 0, 0, 2)));
        let addresses: Vec<IpAddr> = core::iter::once(IpAddr::from(address)).chain(v6).collect();
        assert_eq!(self.internet.add_host(uplink, &addresses), HostId(n));
        let inside: Vec<SocketAddr> = addresses.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect();
        let key = DeviceKey::generate(&mut self.rng);
        self.keys.push(key.clone());
        let mut agent = Agent::new(self.now, config, key, self.rng.random());
        agent.set_local_addresses(self.now, &inside);
        self.hosts.push(Host {
            agent,
            events: Vec::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            alive: true,
            sockets: BTreeMap::from([(SocketId::MAIN, PORT)]),
            most_sockets: 1,
            nat,
            inside,
        });
        self.drain(n);
        n
    }

    /// A new process with the old key on the same host.
    pub(crate) fn restart(&mut self, n: usize) {
        let mut agent = Agent::new(self.now, Self::config(), self.keys[n].clone(), self.rng.random());
        agent.set_local_addresses(self.now, &self.hosts[n].inside);
        self.hosts[n].sockets = BTreeMap::from([(SocketId::MAIN, PORT)]);
        self.hosts[n].agent = agent;
        self.hosts[n].events.clear();
        self.hosts[n].alive = true;
    }

    /// The router next to a host forgets all mappings, and uses other ports from now on.
    pub(crate) fn reboot_nat(&mut self, n: usize) {
        if let Some(router) = self.internet.uplink(HostId(n)) {
            self.internet.nat_mut(router).rebind(&mut self.rng);
        }
    }

    /// A host leaves its network for one behind `nat`, where it has another address.
    pub(crate) fn move_host(&mut self, n: usize, nat: Nat) {
        self.number += 1;
        let low = u8::try_from(self.number % 250).unwrap() + 1;
        let mut uplink = None;
        for kind in nat.kinds().iter().rev() {
            uplink = Some(self.internet.add_router(*kind, uplink, Ipv4Addr::new(52, 0, u8::try_from(n % 250).unwrap(), low).into()));
        }
        let inside = IpAddr::from([10, 9, 9, low]);
        self.internet.move_host(HostId(n), uplink, &[inside]);
        self.hosts[n].nat = nat;
        self.hosts[n].inside = vec![SocketAddr::new(inside, PORT)];
        let (now, inside) = (self.now, self.hosts[n].inside.clone());
        self.hosts[n].agent.set_local_addresses(now, &inside);
        self.drain(n);
    }

    /// The router next to a host maps a port to it for everyone, as PCP or a person asked it to; returns where.
    pub(crate) fn forward(&mut self, n: usize, port: u16) -> SocketAddr {
        let router = self.internet.uplink(HostId(n)).unwrap();
        let nat = self.internet.nat_mut(router);
        nat.forward(port, self.hosts[n].inside[0]);
        SocketAddr::new(nat.address(), port)
    }

    pub(crate) fn id(&self, n: usize) -> PeerId {
        self.keys[n].id()
    }

    /// The address of a host without NAT.
    pub(crate) fn address(&self, n: usize) -> SocketAddr {
        assert_eq!(self.hosts[n].nat, Nat::Open);
        self.hosts[n].inside[0]
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

    /// Tries to reach a host, with data in the handshake.
    pub(crate) fn reach(&mut self, from: usize, to: usize, data: &[u8]) -> Attempt {
        let (now, wall, id) = (self.now, self.wall(), self.id(to));
        let attempt = self.hosts[from].agent.reach(now, wall, id, data).unwrap();
        self.drain(from);
        attempt
    }

    /// The early data that `to` received from `from`.
    pub(crate) fn early(&self, from: usize, to: usize) -> Vec<Bytes> {
        let id = self.id(from);
        let data = |event: &Event| match event {
            Event::Early { peer, data } if *peer == id => Some(data.clone()),
            _ => None,
        };
        self.hosts[to].events.iter().filter_map(data).collect()
    }

    /// A datagram from nowhere.
    pub(crate) fn inject(&mut self, to: usize, remote: SocketAddr, datagram: &[u8]) {
        self.inject_by(to, SocketId::MAIN, remote, datagram);
    }

    fn inject_by(&mut self, to: usize, socket: SocketId, remote: SocketAddr, datagram: &[u8]) {
        let (now, wall, datagram) = (self.now, self.wall(), Bytes::copy_from_slice(datagram));
        match socket {
            SocketId::MAIN => self.hosts[to].agent.handle_datagram(now, wall, remote, datagram),
            auxiliary => self.hosts[to].agent.handle_auxiliary(now, wall, auxiliary, remote, datagram),
        }
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
            let departure =
                if transmit.socket == SocketId::STREAM { self.by_stream(n, transmit.destination) } else { self.depart(n, &transmit) };
            let Some((source, stage, destination)) = departure else { continue };
            self.tap.push((source, transmit.destination, transmit.payload.clone()));
            let copies = 1 + usize::from(self.rng.random_bool(self.duplicates));
            for _ in 0..copies {
                if self.rng.random_bool(self.loss) && !matches!(stage, Stage::Stream(_)) {
                    continue;
                }
                let jitter = self.jitter.mul_f64(self.rng.random());
                self.number += 1;
                let flight = Flight { from: n, source, destination, stage, datagram: transmit.payload.clone() };
                let delay = if matches!(stage, Stage::Local(_)) { Duration::from_millis(1) } else { self.delay };
                self.flying.insert((self.now + delay + jitter, self.number), flight);
            }
        }
        while let Some(socket) = self.hosts[n].agent.poll_closed() {
            assert!(socket != SocketId::MAIN, "the main socket stays open");
            self.hosts[n].sockets.remove(&socket);
        }
    }

    /// Where a datagram seems to come from, and where it is, once it has left its host and the routers before it.
    fn depart(&mut self, n: usize, transmit: &peers_nat::Transmit) -> Option<(SocketAddr, Stage, SocketAddr)> {
        let (host, destination) = (&mut self.hosts[n], transmit.destination);
        let family = |address: &&SocketAddr| address.is_ipv4() == destination.is_ipv4();
        let mut source = host.inside.iter().find(family).copied()?;
        if destination.ip().is_multicast() {
            source.set_port(BEACON_PORT);
            return Some((source, Stage::Multicast, destination));
        }
        let rng = &mut self.rng;
        let taken: BTreeSet<u16> =
            if transmit.socket == SocketId::MAIN { BTreeSet::new() } else { host.sockets.values().copied().collect() };
        let port = *host.sockets.entry(transmit.socket).or_insert_with(|| {
            loop {
                let port = rng.random_range(32_768..61_000);
                if !taken.contains(&port) {
                    break port;
                }
            }
        });
        host.most_sockets = host.most_sockets.max(host.sockets.len());
        source.set_port(port);
        let (now, ttl) = (self.now - self.start, transmit.ttl.unwrap_or(TTL));
        match self.internet.depart(now, HostId(n), source, destination, ttl, &mut self.rng) {
            Departure::Core { from, to, ttl } => Some((from, Stage::Core(ttl), to)),
            Departure::Local(delivery) => Some((delivery.remote, Stage::Local(delivery.host.0), delivery.local)),
            Departure::Dropped(_) => None,
        }
    }

    /// A stream goes to a host without NAT, or back to who made one; whatever the router before that one does to UDP.
    fn by_stream(&mut self, n: usize, destination: SocketAddr) -> Option<(SocketAddr, Stage, SocketAddr)> {
        if let Some((to, source)) = self.streams.get(&(n, destination)) {
            self.streamed += 1;
            return Some((*source, Stage::Stream(*to), destination));
        }
        let to = self.hosts.iter().position(|host| host.nat == Nat::Open && host.inside[0] == destination)?;
        let [_, _, high, low] =
            self.hosts[n].inside[0].ip().to_string().split('.').map(|part| part.parse().unwrap()).collect::<Vec<u8>>()[..]
        else {
            return None;
        };
        let source = SocketAddr::new(Ipv4Addr::new(52, 0, high, low).into(), 40_000 + u16::try_from(self.streams.len()).unwrap());
        self.streams.insert((n, destination), (to, source));
        self.streams.insert((to, source), (n, destination));
        Some((source, Stage::Stream(to), destination))
    }

    /// All streams end.
    pub(crate) fn end_streams(&mut self) {
        for (n, address) in core::mem::take(&mut self.streams).into_keys() {
            self.hosts[n].agent.stream_closed(address);
        }
    }

    fn deliver(&mut self, flight: Flight) {
        let Flight { from, source, destination, stage, datagram } = flight;
        let (to, local) = match stage {
            Stage::Multicast => {
                for to in 0..self.hosts.len() {
                    if to != from && self.hosts[to].alive {
                        self.inject(to, source, &datagram);
                    }
                }
                return;
            }
            Stage::Local(to) => (to, destination),
            Stage::Stream(to) => {
                if self.hosts[to].alive {
                    self.inject_by(to, SocketId::STREAM, source, &datagram);
                }
                return;
            }
            Stage::Core(ttl) => match self.internet.arrive(self.now - self.start, source, destination, ttl) {
                Ok(delivery) => (delivery.host.0, delivery.local),
                Err(_) => return,
            },
        };
        let cut = self.cut.contains(&(from.min(to), from.max(to)));
        let socket = self.hosts[to].sockets.iter().find(|(_, port)| **port == local.port()).map(|(socket, _)| *socket);
        if let (true, false, Some(socket)) = (self.hosts[to].alive, cut, socket) {
            let entry = self.hosts[to].received.entry(source).or_default();
            *entry = (entry.0 + 1, entry.1 + datagram.len() as u64);
            self.inject_by(to, socket, source, &datagram);
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

    /// The translator of the router next to a host.
    pub(crate) fn nat(&self, n: usize) -> Option<&nat::Nat> {
        self.internet.uplink(HostId(n)).map(|router| self.internet.nat(router))
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
