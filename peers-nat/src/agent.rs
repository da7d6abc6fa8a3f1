//! The agent: its inputs, its outputs, and where each datagram goes.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use peers_crypto::{DATA_HEADER, DatagramKind, DeviceKey, Freshness, Gate, MAX_DATAGRAM, MAX_PLAINTEXT, hash};
use peers_wire::{PeerId, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::address;
use crate::beacon::Beacons;
use crate::check::Check;
use crate::config::{Config, Stats};
use crate::control::{self, Control, Route};
use crate::dial::Wanted;
use crate::discovery::Discovery;
use crate::early;
use crate::exchange::Book;
use crate::hold::Held;
use crate::lifetime::Lifetimes;
use crate::limits::{Bucket, Ledger};
use crate::output::{ConnectError, DisconnectReason, Event, PeerInfo, SendError, SocketId, Transmit};
use crate::paths::Link;
use crate::peer::{MAX_TAG, Peer, Sent};
use crate::probe::Tag;
use crate::punch::Sprays;
use crate::reflect::Reflections;
use crate::reflexive::Reflexive;
use crate::relay::{self, Table};
use crate::sockets::Sockets;
use crate::survey::Survey;
use crate::timers::Timers;
use crate::vouch::Vouching;

/// Most bytes of data in one datagram.
pub const MAX_DATA: usize = MAX_PLAINTEXT - 1;
/// Most datagrams that wait for `poll_transmit` before [`Agent::send`] refuses.
pub const MAX_TRANSMITS: usize = 4096;
/// Most events that wait for `poll_event` before data is dropped.
pub const MAX_EVENTS: usize = 4096;
/// Most peers asked for by [`Agent::connect`], and addresses by [`Agent::connect_address`].
pub const MAX_WANTED: usize = 1024;
/// Most addresses that [`Agent::connect`] keeps for one peer.
pub const MAX_ADDRESSES: usize = 8;
/// Peers that may be in the middle of a handshake with us beside the established ones.
const MAX_HALF_OPEN: usize = 256;
/// Most local addresses.
const MAX_LOCAL: usize = 16;
/// Most mapped addresses: one for each family, and one spare.
const MAX_MAPPED: usize = 3;

/// What a local index stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    Dial(PeerId),
    Discovery(SocketAddr),
    Session(PeerId),
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Peer(PeerId),
    Dial(PeerId),
    Probe(PeerId),
    Redial(PeerId),
    Repair(PeerId),
    Discovery(SocketAddr),
    Exchange,
    Network,
    Beacon,
    Relay,
    Sockets,
    Check,
    Lifetime,
    Survey,
    Punch(PeerId),
}

/// Authenticated, encrypted datagrams to a [`PeerId`], by any path.
///
/// A state machine without input or output of its own: see the crate's documentation for its loop. Cost of a datagram is constant; of an idle session, two datagrams per
/// [`Config::keep_alive`].
#[derive(Debug)]
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) key: DeviceKey,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) gate: Gate,
    pub(crate) freshness: Freshness,
    /// The latest time that an initiation of ours carried.
    pub(crate) stamp: Timestamp,
    pub(crate) peers: HashMap<PeerId, Box<Peer>>,
    pub(crate) connected: BTreeSet<PeerId>,
    pub(crate) indices: HashMap<u32, Slot>,
    /// Initiations that were answered, by their digest.
    pub(crate) digests: HashMap<[u8; 32], PeerId>,
    /// Routes on which others relay for us: the relay, and who is at the other end.
    pub(crate) routes: BTreeMap<Route, (PeerId, PeerId)>,
    pub(crate) table: Table,
    pub(crate) ledger: Ledger,
    pub(crate) reaches: Bucket,
    pub(crate) beacons: Beacons,
    pub(crate) book: Book,
    /// Peers that a handshake is under way with for the sake of having enough sessions, and how often we looked for more in vain.
    pub(crate) exchange_dials: BTreeSet<PeerId>,
    pub(crate) looks: u32,
    pub(crate) wanted: BTreeMap<PeerId, Wanted>,
    pub(crate) discoveries: BTreeMap<SocketAddr, Discovery>,
    pub(crate) local: Vec<SocketAddr>,
    /// It had an address before.
    placed: bool,
    /// When the network changed last, and how often those who did not answer since were asked again.
    pub(crate) changed: Option<(Instant, usize)>,
    /// Addresses outside that a router maps to our socket.
    pub(crate) mapped: Vec<SocketAddr>,
    pub(crate) reflexive: Reflexive,
    pub(crate) reflections: Reflections,
    pub(crate) check: Check,
    pub(crate) vouching: Vouching,
    pub(crate) held: Held,
    pub(crate) lifetimes: Option<Lifetimes>,
    pub(crate) sockets: Sockets,
    pub(crate) survey: Survey,
    pub(crate) sprays: Sprays,
    pub(crate) tags: HashMap<Tag, PeerId>,
    /// What the tokens of probes are made from.
    pub(crate) secret: [u8; 32],
    /// The socket that the datagram in hand came by.
    pub(crate) arrival: SocketId,
    /// The other end of the stream that it came by, if it came by one.
    pub(crate) stream: Option<SocketAddr>,
    pub(crate) timers: Timers<Timer>,
    pub(crate) stats: Stats,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    scratch: Vec<u8>,
}

impl Agent {
    /// An agent without sessions. All its randomness comes from `seed`.
    pub fn new(now: Instant, config: Config, key: DeviceKey, seed: [u8; 32]) -> Self {
        let mut timers = Timers::new();
        if config.lan {
            timers.set(Timer::Beacon, now);
        }
        Self {
            gate: Gate::new(&key),
            table: Table::new(config.relay_routes, config.relay_bytes_per_second),
            beacons: Beacons::new(config.swarm),
            config,
            key,
            rng: ChaCha20Rng::from_seed(seed),
            freshness: Freshness::default(),
            stamp: Timestamp::default(),
            peers: HashMap::new(),
            connected: BTreeSet::new(),
            indices: HashMap::new(),
            digests: HashMap::new(),
            routes: BTreeMap::new(),
            ledger: Ledger::default(),
            reaches: early::limit(),
            book: Book::default(),
            exchange_dials: BTreeSet::new(),
            looks: 0,
            wanted: BTreeMap::new(),
            discoveries: BTreeMap::new(),
            local: Vec::new(),
            placed: false,
            changed: None,
            mapped: Vec::new(),
            reflexive: Reflexive::default(),
            reflections: Reflections::default(),
            check: Check::default(),
            vouching: Vouching::default(),
            held: Held::default(),
            lifetimes: None,
            sockets: Sockets::default(),
            survey: Survey::default(),
            sprays: Sprays::default(),
            tags: HashMap::new(),
            secret: hash(&[b"peers probe secret", &seed]),
            arrival: SocketId::MAIN,
            stream: None,
            timers,
            stats: Stats::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    /// Tells the agent the addresses of its socket on each interface: host candidates. To be called again whenever they change.
    ///
    /// A change makes it announce itself to its peers at once, forget what others saw before, and try again what failed. The first 16 are kept.
    pub fn set_local_addresses(&mut self, now: Instant, addresses: &[SocketAddr]) {
        let addresses = &addresses[..addresses.len().min(MAX_LOCAL)];
        if self.local == addresses {
            return;
        }
        self.local = addresses.to_vec();
        // Without an address there is nobody to tell.
        if addresses.is_empty() {
            return;
        }
        match core::mem::replace(&mut self.placed, true) {
            false => self.restart_beacons(now),
            true => {
                self.sockets.close_all();
                self.network_changed(now);
            }
        }
    }

    /// Tells the agent the addresses outside that routers map to its socket, in place of those before: candidates like its own. A private one, of a router behind another router, is offered
    /// after all others. Sessions that are there stay as they are; the first 3 are kept.
    pub fn set_mapped_addresses(&mut self, now: Instant, addresses: &[SocketAddr]) {
        let addresses = &addresses[..addresses.len().min(MAX_MAPPED)];
        let before = core::mem::replace(&mut self.mapped, addresses.to_vec());
        // A new way in may lead to those who were out of reach.
        if addresses.iter().any(|mapped| !before.contains(mapped)) {
            self.reset_back_off(now);
        }
    }

    /// Sends beacons again as at the start, as there is a link that they were not sent on. Needed where [`Agent::set_local_addresses`] has nothing to tell: a second cable.
    pub fn announce(&mut self, now: Instant) {
        self.restart_beacons(now);
    }

    /// Sets keys beside the swarm's by which beacons are recognised: one for each group of devices or pair of acquaintances that shares it, at most 15.
    pub fn set_beacon_keys(&mut self, keys: &[[u8; 32]]) {
        self.beacons.set_keys(keys);
    }

    /// Asks for a session with `peer` and keeps trying, with back-off, until [`Agent::disconnect`]: at `addresses` (the first [`MAX_ADDRESSES`], as far as they can be anybody's),
    /// at those known from earlier, and through common peers. Asking again puts these addresses before those named earlier, of which half of as many are kept.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing has changed then.
    pub fn connect(&mut self, now: Instant, wall: Timestamp, peer: PeerId, addresses: &[SocketAddr]) -> Result<(), ConnectError> {
        self.want(now, wall, peer, addresses, true)
    }

    /// As [`Agent::connect`], for a peer that was at `addresses` when it was last met: a few attempts in a row that fail end the wish, and it counts as nobody that the user chose.
    pub fn remember(&mut self, now: Instant, wall: Timestamp, peer: PeerId, addresses: &[SocketAddr]) {
        // Whoever cannot be sought, or is one too many, is not needed.
        let _ = self.want(now, wall, peer, addresses, false);
    }

    /// Asks who is at `address` and connects to them; keeps trying, with back-off, until someone answers. At most [`MAX_WANTED`] addresses, others are ignored.
    pub fn connect_address(&mut self, now: Instant, wall: Timestamp, address: SocketAddr) {
        self.discover(now, wall, address, true);
    }

    /// Ends the session with `peer` and the wish for one.
    pub fn disconnect(&mut self, now: Instant, peer: PeerId) {
        self.wanted.remove(&peer);
        self.timers.clear(Timer::Redial(peer));
        if let Some(link) = self.peers.get(&peer).and_then(|peer| peer.paths.selected()) {
            self.send_control(now, peer, None, link, &[Control::Close]);
        }
        self.book.failed(now, peer);
        self.drop_peer(now, peer, DisconnectReason::Requested);
    }

    /// Sends `data` to a connected peer, once, unreliably.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    pub fn send(&mut self, now: Instant, peer: PeerId, data: &[u8]) -> Result<(), SendError> {
        self.send_data(now, peer, data, Sent::Data)
    }

    /// As [`Agent::send`], for data that the other end answers within a round trip and a few milliseconds, at least with an acknowledgement.
    ///
    /// If nothing is heard for three round trips, and at least 300 ms, the path is in doubt: other paths are tried, and what is sent meanwhile goes by two of them.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    pub fn send_asking(&mut self, now: Instant, peer: PeerId, data: &[u8]) -> Result<(), SendError> {
        self.send_data(now, peer, data, Sent::Asking)
    }

    fn send_data(&mut self, now: Instant, peer: PeerId, data: &[u8], what: Sent) -> Result<(), SendError> {
        if data.len() > MAX_DATA {
            return Err(SendError::TooLarge(data.len()));
        }
        if self.transmits.len() >= MAX_TRANSMITS {
            return Err(SendError::Full);
        }
        let Some(known) = self.peers.get_mut(&peer).filter(|peer| peer.connected()) else { return Err(SendError::NotConnected(peer)) };
        let link = known.paths.selected().ok_or(SendError::NoPath(peer))?;
        let mut plaintext = core::mem::take(&mut self.scratch);
        plaintext.clear();
        plaintext.push(control::DATA);
        plaintext.extend_from_slice(data);
        // While the path in use is in doubt, another carries a copy: the one that comes second is dropped as a replay.
        let spare = if known.in_doubt() { known.paths.spare(now) } else { None };
        let sent = match (link, spare) {
            (Link::Relayed { .. }, None) => {
                let sent = self.seal_and_send(now, peer, None, link, &plaintext, false);
                self.expect_answer(now, peer, what);
                sent
            }
            // The usual case, with a single look at the peer.
            _ => {
                let mut datagram = Vec::with_capacity(DATA_HEADER + plaintext.len() + MAX_TAG);
                let sealed = known.seal(now, None, link, &plaintext, false, &mut datagram);
                if sealed {
                    if let Some(at) = known.expect(now, what) {
                        self.timers.set_earlier(Timer::Peer(peer), at);
                    }
                    let datagram = Bytes::from(datagram);
                    if let Some(spare) = spare {
                        known.paths.touch(now, spare);
                        self.stats.copies += 1;
                        self.send_raw(spare, datagram.clone());
                    }
                    self.send_raw(link, datagram);
                }
                sealed
            }
        };
        self.scratch = plaintext;
        if sent || self.hold(now, peer, data) {
            return Ok(());
        }
        self.stats.unsent += 1;
        Err(SendError::NoPath(peer))
    }

    /// Takes a datagram that came from `remote`. Anything may be in it: what is not for us is dropped and counted.
    pub fn handle_datagram(&mut self, now: Instant, wall: Timestamp, remote: SocketAddr, datagram: Bytes) {
        self.stats.received += 1;
        self.stats.received_bytes += datagram.len() as u64;
        if datagram.len() > MAX_DATAGRAM {
            self.stats.dropped_oversized += 1;
            return;
        }
        match DatagramKind::of(&datagram) {
            Some(DatagramKind::Relayed) => self.on_relayed(now, remote, datagram),
            Some(DatagramKind::Beacon) => self.on_beacon(now, wall, remote, &datagram),
            Some(DatagramKind::Probe) if self.on_test_probe(now, remote, &datagram) => {}
            Some(DatagramKind::Probe) => self.on_probe(now, remote, &datagram),
            Some(DatagramKind::XxFirst) => self.on_xx_first(now, remote, &datagram),
            Some(DatagramKind::XxSecond) => self.on_xx_second(now, wall, &datagram),
            Some(kind) => self.on_inner(now, Link::Direct(remote), kind, datagram),
            None => self.stats.dropped_malformed += 1,
        }
    }

    /// A datagram that may come directly or through a relay.
    pub(crate) fn on_inner(&mut self, now: Instant, link: Link, kind: DatagramKind, datagram: Bytes) {
        match kind {
            DatagramKind::Data => self.on_data(now, link, datagram),
            DatagramKind::IkInitiation => self.on_initiation(now, link, &datagram, None),
            DatagramKind::IkResponse => self.on_response(now, link, &datagram),
            DatagramKind::CookieReply => self.on_cookie(now, &datagram),
            _ => self.stats.dropped_malformed += 1,
        }
    }

    /// As [`Agent::handle_datagram`], for one that came by an auxiliary socket, or by a stream ([`SocketId::STREAM`]).
    pub fn handle_auxiliary(&mut self, now: Instant, wall: Timestamp, socket: SocketId, remote: SocketAddr, datagram: Bytes) {
        // One that is about to be closed may still be heard.
        let known = match socket {
            SocketId::MAIN => true,
            SocketId::STREAM => {
                self.stream = Some(remote);
                true
            }
            auxiliary => self.sockets.is_open(auxiliary),
        };
        if !known {
            self.stats.received += 1;
            self.stats.dropped_unknown += 1;
            return;
        }
        self.disturb_lifetime(now, socket);
        self.arrival = socket;
        self.handle_datagram(now, wall, remote, datagram);
        (self.arrival, self.stream) = (SocketId::MAIN, None);
    }

    /// Does what is due at `now`. Early or repeated calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant, wall: Timestamp) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Peer(peer) => self.on_peer_timer(now, wall, peer),
                Timer::Dial(peer) => self.on_dial_timer(now, peer),
                Timer::Probe(peer) => self.on_probe_timer(now, peer),
                Timer::Redial(peer) => self.redial(now, wall, peer),
                Timer::Repair(peer) => self.repair(now, wall, peer),
                Timer::Discovery(address) => self.on_discovery_timer(now, wall, address),
                Timer::Exchange => self.on_exchange_timer(now, wall),
                Timer::Network => self.ask_silent(now),
                Timer::Beacon => self.on_beacon_timer(now),
                Timer::Sockets => self.on_sockets_timer(now),
                Timer::Check => self.on_check_timer(now),
                Timer::Lifetime => self.on_lifetime_timer(now),
                Timer::Survey => self.end_survey(now),
                Timer::Punch(peer) => self.on_punch_timer(now, peer),
                Timer::Relay => {
                    if let Some(next) = self.table.expire(now) {
                        self.timers.set(Timer::Relay, next);
                    }
                }
            }
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Agent::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What was done so far.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Our own id.
    pub const fn id(&self) -> PeerId {
        self.key.id()
    }

    /// The connected peers, by id.
    pub fn peers(&self) -> impl Iterator<Item = PeerInfo> {
        self.connected.iter().filter_map(|id| self.peer(*id))
    }

    /// A connected peer.
    pub fn peer(&self, id: PeerId) -> Option<PeerInfo> {
        let peer = self.peers.get(&id)?;
        Some(PeerInfo { id, path: peer.told?.into(), rtt: peer.paths.rtt(), heard: peer.heard })
    }

    /// How many peers are connected.
    pub fn sessions(&self) -> usize {
        self.connected.len()
    }

    /// How many routes we relay on for others.
    pub fn relayed_routes(&self) -> usize {
        self.table.len()
    }

    /// The addresses at which others see us, those that most agree on first.
    pub fn reflexive_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.reflexive.addresses()
    }

    /// The addresses of [`Agent::set_mapped_addresses`].
    pub fn mapped_addresses(&self) -> &[SocketAddr] {
        &self.mapped
    }

    /// The number of peers that may be known, with or without an established session.
    pub(crate) fn has_room(&self) -> bool {
        self.peers.len() < self.config.max_sessions + MAX_HALF_OPEN
    }

    pub(crate) fn push(&mut self, destination: SocketAddr, payload: impl Into<Bytes>) {
        // Who speaks by a stream is answered by it, before it is known who that is.
        let socket = if self.stream == Some(destination) { SocketId::STREAM } else { self.sockets.of(destination) };
        self.push_by(socket, None, destination, payload);
    }

    pub(crate) fn push_by(&mut self, socket: SocketId, ttl: Option<u8>, destination: SocketAddr, payload: impl Into<Bytes>) {
        // Everything leaves by here.
        let leaves = self.config.lan_only && !address::stays_on_lan(destination, &self.local);
        if leaves || !self.sockets.is_usable(socket) {
            self.stats.unsent += 1;
            return;
        }
        let payload = payload.into();
        self.stats.sent += 1;
        self.stats.sent_bytes += payload.len() as u64;
        self.transmits.push_back(Transmit { destination, payload, socket, ttl });
    }

    pub(crate) fn emit(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS && matches!(event, Event::Data { .. } | Event::Early { .. }) {
            self.stats.dropped_limited += 1;
            return;
        }
        self.events.push_back(event);
    }

    /// A relayed datagram: one for others is passed on, one for us is taken.
    fn on_relayed(&mut self, now: Instant, remote: SocketAddr, mut datagram: Bytes) {
        let Some(route) = relay::route_of(&datagram) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        if self.config.lan_only {
            self.stats.dropped_relayed += 1;
            return;
        }
        if let Some(ends) = self.table.ends(route) {
            self.pass_on(now, remote, route, ends, datagram);
            return;
        }
        let inner = datagram.split_off(relay::HEADER);
        drop(datagram);
        let Some(kind) = DatagramKind::of(&inner) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let known = self.routes.get(&route).copied().or_else(|| self.learn_route(now, remote, route, &inner));
        match known {
            Some((via, _)) => self.on_inner(now, Link::Relayed { via, route }, kind, inner),
            None => self.stats.dropped_relayed += 1,
        }
    }

    pub(crate) fn random_index(&mut self) -> u32 {
        loop {
            let index = self.rng.random();
            if !self.indices.contains_key(&index) {
                return index;
            }
        }
    }
}
