//! Port mapping: asking the router to let others in, by PCP or NAT-PMP.
//!
//! A [`Mapper`] keeps one mapping of a UDP port alive at one router. It asks by PCP; where the router answers that it speaks NAT-PMP, or nothing, by NAT-PMP. It renews what it got,
//! asks again when the router has lost its mappings, says what became of it, and gives the port back when asked to. It uses nothing else of this crate and can be used alone.
//!
//! It leaves to others: sockets and clocks, where the router is (the system's routing table), and UPnP, which is no matter of datagrams (`peers-node` does it).
//!
//! ```
//! use std::net::UdpSocket;
//! use std::time::{Duration, Instant};
//! use peers_nat::portmap::{Event, Failure, Mapper, Network};
//!
//! // A router that refuses: nobody listens at this port of this host, which the system says at the second use of the socket.
//! let socket = UdpSocket::bind("127.0.0.1:0")?;
//! let gateway = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
//! socket.connect(gateway)?;
//! socket.set_nonblocking(true)?;
//! let network = Network { gateway, client: socket.local_addr()?.ip(), port: 47474 };
//! # #[expect(clippy::disallowed_methods)]
//! # fn clock() -> Instant { Instant::now() }
//! let mut mapper = Mapper::new(clock(), network, [1; 32], [2; 32]);
//! let mut buffer = [0; 1500];
//! let event = loop {
//!     let now = clock();
//!     match socket.recv(&mut buffer) {
//!         Ok(length) => mapper.handle_datagram(now, gateway, &buffer[..length]),
//!         Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => mapper.handle_unreachable(now),
//!         Err(_) => mapper.handle_timeout(now),
//!     }
//!     while let Some(datagram) = mapper.poll_transmit() {
//!         socket.send(&datagram)?;
//!     }
//!     if let Some(event) = mapper.poll_event() {
//!         break event;
//!     }
//!     std::thread::yield_now();
//! };
//! assert_eq!(event, Event::Unavailable(Failure::Silent));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Sources: RFC 6887 (PCP), RFC 6886 (NAT-PMP). Why things are as they are: docs/decisions/0017-port-mapping-and-lan.md.

mod epoch;
mod natpmp;
mod output;
mod pcp;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::keyed_hash;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::address::{self, Scope};
use epoch::Epoch;
pub use output::{Event, Failure, Network, Protocol, Stats};

/// UDP port of a router that takes requests. Source: RFC 6887, section 19.1.
pub const GATEWAY_PORT: u16 = 5351;
/// UDP port of a host at which routers announce to 224.0.0.1 and ff02::1 that they have begun anew. Source: RFC 6887, section 14.1.
pub const ANNOUNCE_PORT: u16 = 5350;

/// Seconds asked for: what a node that vanished leaves behind is gone after them, and half of them is the longest that a router's restart goes unnoticed if its announcement is lost.
const LIFETIME: u32 = 3600;
/// A shorter lifetime is of no use; of a longer one, no more than this is believed. Source: RFC 6887, section 15 (a day).
const LIFETIMES: (u32, u32) = (30, 86_400);
/// Pause after a request of PCP, which doubles; it varies by a tenth. Source: RFC 6887, section 8.1.1.
const PCP_PAUSE: Duration = Duration::from_secs(3);
/// Requests of PCP without an answer after which it is given up: NAT-PMP is asked next, if it is of IPv4.
const PCP_SENDS: (u32, u32) = (1, 3);
/// Pause after a request of NAT-PMP, which doubles. Source: RFC 6886, section 3.1.
const NATPMP_PAUSE: Duration = Duration::from_millis(250);
/// Requests of NAT-PMP without an answer after which it is given up; the RFC's nine would take two minutes.
const NATPMP_SENDS: u32 = 4;
/// Requests to delete that are sent while no answer comes.
const RELEASE_SENDS: u32 = 3;
/// Changes of the protocol that a router may ask for in one attempt.
const MAX_SWITCHES: u8 = 2;
/// Renewals are never closer. Source: RFC 6887, section 11.2.1.
const RENEWAL_GAP: Duration = Duration::from_secs(4);
/// After an announcement the hosts of a network do not ask all at once, but within this time.
const ANNOUNCE_JITTER: Duration = Duration::from_millis(500);
/// First and longest pause before a router that was silent is asked again.
const SILENCE: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(3840));
/// Shortest and longest pause before a router that refused is asked again, whatever it says. Source: RFC 6887, section 7.4 (30 seconds and 30 minutes are its short and long errors).
const REFUSED: (u32, u32) = (30, 3600);
/// Most events that wait for `poll_event`; older ones give way.
const MAX_EVENTS: usize = 16;

/// A mapping.
#[derive(Debug, Clone, Copy)]
struct Lease {
    external: SocketAddr,
    since: Instant,
    lifetime: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// There is nothing to do.
    Idle,
    /// A mapping is asked for, `sends` times so far; `held` is the one that the router is to make again.
    Asking { sends: u32, held: Option<Lease> },
    /// There is a mapping; renewing it was asked for `renewals` times, without an answer so far.
    Holding { lease: Lease, renewals: u32 },
    /// It did not work.
    Resting,
    /// The mapping is being deleted.
    Releasing { sends: u32 },
}

/// Keeps one mapping of a UDP port alive at one router.
///
/// A state machine without input or output of its own; see [the module](self) for its loop. Nobody but the router's address is listened to, and no answer leads to more than one request.
#[derive(Debug)]
pub struct Mapper {
    network: Network,
    nonce: pcp::Nonce,
    rng: ChaCha20Rng,
    protocol: Protocol,
    switches: u8,
    state: State,
    /// The external address that NAT-PMP tells first.
    address: Option<Ipv4Addr>,
    epoch: Option<Epoch>,
    failures: u32,
    timer: Option<Instant>,
    transmits: VecDeque<Bytes>,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Mapper {
    /// Begins to ask for a mapping in `network`. `key` is secret and the same each time this host runs: a mapping that was left behind is found again by it. All other randomness comes
    /// from `seed`.
    pub fn new(now: Instant, network: Network, key: [u8; 32], seed: [u8; 32]) -> Self {
        let mut mapper = Self {
            nonce: nonce(&key, &network),
            network,
            rng: ChaCha20Rng::from_seed(seed),
            protocol: Protocol::Pcp,
            switches: 0,
            state: State::Idle,
            address: None,
            epoch: None,
            failures: 0,
            timer: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        };
        mapper.begin(now, Protocol::Pcp, None);
        mapper
    }

    /// Gives the port back. `Released` follows, after the router's answer or a second without one.
    pub fn release(&mut self, now: Instant) {
        match self.state {
            State::Releasing { .. } => {}
            State::Asking { .. } | State::Holding { .. } => {
                self.state = State::Releasing { sends: 0 };
                self.send_release(now);
            }
            State::Idle | State::Resting => self.released(),
        }
    }

    /// Takes a datagram that came from `remote`. Anything may be in it: what is not the router's answer is dropped and counted.
    pub fn handle_datagram(&mut self, now: Instant, remote: SocketAddr, datagram: &[u8]) {
        if (remote.ip().to_canonical(), remote.port()) != (self.network.gateway.ip().to_canonical(), self.network.gateway.port()) {
            self.stats.dropped_foreign += 1;
            return;
        }
        let taken = if datagram.first() == Some(&natpmp::VERSION) {
            natpmp::Response::decode(datagram).map(|response| self.on_natpmp(now, response))
        } else {
            pcp::Response::decode(datagram).map(|response| self.on_pcp(now, response))
        };
        match taken {
            Ok(true) => self.stats.received += 1,
            Ok(false) => self.stats.dropped_unexpected += 1,
            Err(_) => self.stats.dropped_malformed += 1,
        }
    }

    /// The system says that nobody listens at the router's port.
    pub fn handle_unreachable(&mut self, now: Instant) {
        match self.state {
            State::Asking { .. } => self.give_up(now, Failure::Silent, None),
            State::Releasing { .. } => self.released(),
            State::Idle | State::Holding { .. } | State::Resting => {}
        }
    }

    /// Does what is due at `now`. Early or repeated calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timer.is_none_or(|timer| now < timer) {
            return;
        }
        self.timer = None;
        match self.state {
            State::Idle => {}
            State::Asking { sends, held } => self.on_silence(now, sends, held),
            State::Holding { lease, .. } if now >= lease.since + lease.lifetime => {
                self.emit(Event::Lost);
                self.begin(now, Protocol::Pcp, None);
            }
            State::Holding { lease, renewals } => {
                self.state = State::Holding { lease, renewals: renewals + 1 };
                self.address = None;
                self.timer = Some(self.renewal(now, lease, renewals + 1));
                self.send(LIFETIME, lease.external);
            }
            State::Resting => self.begin(now, Protocol::Pcp, None),
            State::Releasing { sends: RELEASE_SENDS.. } => self.released(),
            State::Releasing { .. } => self.send_release(now),
        }
    }

    /// The next datagram to send to [`Network::gateway`], at most 60 bytes.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Mapper::handle_timeout`] next.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.timer
    }

    /// The mapping, if there is one.
    pub const fn external(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Holding { lease, .. } | State::Asking { held: Some(lease), .. } => Some(lease.external),
            _ => None,
        }
    }

    /// What was done so far.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Asks anew.
    fn begin(&mut self, now: Instant, protocol: Protocol, held: Option<Lease>) {
        self.protocol = protocol;
        self.switches = 0;
        self.address = None;
        self.state = State::Asking { sends: 0, held };
        self.ask(now);
    }

    /// Sends a request for a mapping that is not there yet.
    fn ask(&mut self, now: Instant) {
        let State::Asking { sends, held } = &mut self.state else { return };
        let pause = match self.protocol {
            Protocol::Pcp => PCP_PAUSE.mul_f64(self.rng.random_range(0.9..1.1)),
            Protocol::NatPmp => NATPMP_PAUSE,
        };
        self.timer = Some(now + pause * (1 << *sends));
        *sends += 1;
        let suggested = held.map_or_else(|| pcp::any_of(self.network.client, self.network.port), |lease| lease.external);
        self.send(LIFETIME, suggested);
    }

    /// Sends what the protocol wants next: NAT-PMP tells the address and the port one after the other.
    fn send(&mut self, lifetime: u32, suggested: SocketAddr) {
        let Network { client, port, .. } = self.network;
        let datagram = match (self.protocol, self.address) {
            (Protocol::Pcp, _) => pcp::MapRequest { lifetime, client, nonce: self.nonce, port, suggested }.encode(),
            (Protocol::NatPmp, None) if lifetime > 0 => natpmp::address_request(),
            (Protocol::NatPmp, _) => natpmp::map_request(port, suggested.port(), lifetime),
        };
        self.stats.sent += 1;
        self.transmits.push_back(datagram.into());
    }

    fn send_release(&mut self, now: Instant) {
        let State::Releasing { sends } = &mut self.state else { return };
        self.timer = Some(now + NATPMP_PAUSE * (1 << *sends));
        *sends += 1;
        self.send(0, pcp::any_of(self.network.client, 0));
    }

    fn released(&mut self) {
        self.state = State::Idle;
        self.timer = None;
        self.emit(Event::Released);
    }

    fn on_silence(&mut self, now: Instant, sends: u32, held: Option<Lease>) {
        let v4 = self.network.client.is_ipv4();
        let most = match self.protocol {
            Protocol::Pcp if v4 => PCP_SENDS.0,
            Protocol::Pcp => PCP_SENDS.1,
            Protocol::NatPmp => NATPMP_SENDS,
        };
        if sends < most {
            self.ask(now);
        } else if self.protocol == Protocol::Pcp && v4 && self.switches == 0 {
            self.switch(now, Protocol::NatPmp, held);
        } else {
            self.give_up(now, Failure::Silent, None);
        }
    }

    fn switch(&mut self, now: Instant, protocol: Protocol, held: Option<Lease>) {
        self.switches += 1;
        self.protocol = protocol;
        self.epoch = None;
        self.address = None;
        self.state = State::Asking { sends: 0, held };
        self.ask(now);
    }

    /// Rests for `pause`, or for longer each time.
    fn give_up(&mut self, now: Instant, failure: Failure, pause: Option<Duration>) {
        if self.external().is_some() {
            self.emit(Event::Lost);
        }
        let pause = pause.unwrap_or_else(|| (SILENCE.0 * (1 << self.failures.min(10))).min(SILENCE.1));
        self.failures = self.failures.saturating_add(1);
        self.state = State::Resting;
        self.timer = Some(now + pause);
        self.emit(Event::Unavailable(failure));
    }

    /// Returns whether the answer was expected.
    fn on_pcp(&mut self, now: Instant, response: pcp::Response) -> bool {
        use pcp::Body;
        if let (State::Asking { held, .. }, pcp::UNSUPPORTED_VERSION) = (self.state, response.result) {
            // One that does not know NAT-PMP says so in its own protocol.
            return match self.protocol {
                Protocol::NatPmp if response.version == pcp::VERSION && self.switches < MAX_SWITCHES => {
                    self.switch(now, Protocol::Pcp, held);
                    true
                }
                Protocol::Pcp if response.version != pcp::VERSION => self.refuse(now, pcp::failure(response.result), response.lifetime),
                _ => false,
            };
        }
        let ours = match response.body {
            Body::Map { nonce, port, .. } => nonce == self.nonce && port == self.network.port,
            Body::Announce => true,
            Body::Error => matches!(self.state, State::Asking { .. }),
        };
        if !ours || self.protocol != Protocol::Pcp {
            return false;
        }
        let holds = self.epoch.is_none_or(|epoch| epoch.holds_pcp(now, response.epoch));
        self.stats.resets += u64::from(!holds);
        self.epoch = Some(Epoch::new(now, response.epoch));
        match response.body {
            Body::Announce => self.on_epoch(now, holds),
            Body::Map { .. } | Body::Error if response.result != pcp::SUCCESS => {
                self.refuse(now, pcp::failure(response.result), response.lifetime)
            }
            Body::Map { external, .. } => self.grant(now, external, response.lifetime),
            Body::Error => false,
        }
    }

    /// Returns whether the answer was expected.
    fn on_natpmp(&mut self, now: Instant, response: natpmp::Response) -> bool {
        use natpmp::Body;
        if self.protocol == Protocol::Pcp {
            // The answer of one that does not know PCP. Any other is of no request of ours.
            let State::Asking { held, .. } = self.state else { return false };
            let unsupported = response.body == Body::Error && self.network.client.is_ipv4() && self.switches < MAX_SWITCHES;
            if unsupported {
                self.switch(now, Protocol::NatPmp, held);
            }
            return unsupported;
        }
        let holds = self.epoch.is_none_or(|epoch| epoch.holds_natpmp(now, response.epoch));
        self.stats.resets += u64::from(!holds);
        self.epoch = Some(Epoch::new(now, response.epoch));
        match response.body {
            Body::Error => {
                let short = matches!(response.result, natpmp::NETWORK_FAILURE | natpmp::OUT_OF_RESOURCES);
                self.refuse(now, natpmp::failure(response.result), if short { REFUSED.0 } else { REFUSED.1 })
            }
            Body::Address(address) => self.on_address(now, address, holds),
            Body::Map { internal, external, lifetime } => match self.address {
                _ if internal != self.network.port => false,
                Some(address) => self.grant(now, SocketAddr::new(address.into(), external), lifetime),
                None if lifetime == 0 => self.grant(now, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), 0),
                None => false,
            },
        }
    }

    /// The external address: asked for, or announced by a router that has begun anew or has got another one.
    fn on_address(&mut self, now: Instant, address: Ipv4Addr, holds: bool) -> bool {
        let asked = match self.state {
            State::Asking { .. } => self.address.is_none(),
            State::Holding { renewals, .. } => renewals > 0 && self.address.is_none(),
            _ => false,
        };
        if !asked {
            let other = self.external().is_some_and(|external| external.ip() != IpAddr::V4(address));
            return self.on_epoch(now, holds && !other);
        }
        self.address = Some(address);
        if let State::Asking { sends, .. } = &mut self.state {
            *sends = 0;
        }
        match self.state {
            State::Holding { lease, .. } => self.send(LIFETIME, lease.external),
            _ => self.ask(now),
        }
        true
    }

    /// What a router said of itself, unasked: `holds` if it still has what it had. Else the mapping is asked for again; who forges this has us ask every 4 seconds at most.
    fn on_epoch(&mut self, now: Instant, holds: bool) -> bool {
        let State::Holding { lease, .. } = self.state else { return false };
        if !holds {
            self.address = None;
            self.switches = 0;
            self.state = State::Asking { sends: 0, held: Some(lease) };
            self.timer = Some((now + ANNOUNCE_JITTER.mul_f64(self.rng.random())).max(lease.since + RENEWAL_GAP));
        }
        true
    }

    fn refuse(&mut self, now: Instant, failure: Failure, lifetime: u32) -> bool {
        match self.state {
            State::Asking { .. } => {
                self.stats.refused += 1;
                let pause = Duration::from_secs(lifetime.clamp(REFUSED.0, REFUSED.1).into());
                self.give_up(now, failure, Some(pause));
                true
            }
            // What was granted lasts; renewing it is tried again, until it ends.
            State::Holding { renewals, .. } if renewals > 0 => {
                self.stats.refused += 1;
                true
            }
            State::Releasing { .. } => {
                self.released();
                true
            }
            State::Idle | State::Holding { .. } | State::Resting => false,
        }
    }

    fn grant(&mut self, now: Instant, external: SocketAddr, lifetime: u32) -> bool {
        let before = match self.state {
            State::Asking { held, .. } => held,
            State::Holding { lease, renewals } if renewals > 0 => Some(lease),
            State::Releasing { .. } if lifetime == 0 => {
                self.released();
                return true;
            }
            State::Idle | State::Holding { .. } | State::Resting | State::Releasing { .. } => return false,
        };
        if lifetime < LIFETIMES.0 || address::scope(external).is_none_or(|scope| scope == Scope::Loopback) {
            self.give_up(now, Failure::Unusable { external, lifetime }, None);
            return true;
        }
        let lease = Lease { external, since: now, lifetime: Duration::from_secs(lifetime.min(LIFETIMES.1).into()) };
        self.state = State::Holding { lease, renewals: 0 };
        self.timer = Some(self.renewal(now, lease, 0));
        self.failures = 0;
        if before.is_some_and(|before| before.external == external) {
            self.stats.renewed += 1;
        } else {
            self.stats.mapped += 1;
            self.emit(Event::Mapped { external, protocol: self.protocol });
        }
        true
    }

    /// When to renew after `done` renewals without an answer: between 1/2 and 5/8 of the lifetime, then between 3/4 and 13/16, and so on; at last when it ends.
    ///
    /// Source: RFC 6887, section 11.2.1.
    fn renewal(&mut self, now: Instant, lease: Lease, done: u32) -> Instant {
        let left = 0.5_f64.powi(done.min(30).cast_signed() + 1);
        let part = 1.0 - left + self.rng.random_range(0.0..left / 4.0);
        let at = (lease.since + lease.lifetime.mul_f64(part)).max(now + RENEWAL_GAP);
        at.min(lease.since + lease.lifetime)
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// The nonce of a mapping: the same whenever this host asks for it again, which a router demands of who changes a mapping; nobody else can tell it, and it is another in each network.
fn nonce(key: &[u8; 32], network: &Network) -> pcp::Nonce {
    let text = format!("{} {} {}", network.gateway, network.client, network.port);
    let hash = keyed_hash(key, &[b"peers port mapping 1", text.as_bytes()]);
    let mut nonce = pcp::Nonce::default();
    nonce.copy_from_slice(&hash[..12]);
    nonce
}
