//! Bodies of the fuzz targets, and the rig that they and the tests of docs/THREATS.md share: one agent among hostile peers.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{DatagramKind, DeviceKey, Initiator, Response, Session, XX_FIRST, respond};
use peers_wire::{PeerId, Timestamp};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::agent::{Agent, MAX_WANTED};
use crate::control::{self, Answer, Control, Offer, Route, Test, Token};
use crate::limits::{MAX_PROBES, PROBE_WINDOW};
use crate::output::{Event, SocketId};
use crate::ports::Mapping;
use crate::{Config, PUBLIC_SWARM, beacon, relay};

/// Hostile peers of a rig, each with two addresses.
pub(crate) const HOSTILE: usize = 4;
/// Datagrams that may go to the ports of one host in a minute: two sprays.
const SPRAYED: u64 = 2 * 1400;
/// Datagrams that a rig keeps, to deliver them again.
const MAX_KEPT: usize = 48;
/// The longest handshake that an agent sends as a probe.
const MAX_PROBE: u64 = control::MAX_INITIATION as u64;

/// An agent, hostile peers that have keys and sessions of their own, and bystanders who have nothing to do with any of it.
pub(crate) struct Rig {
    pub(crate) agent: Agent,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) hostile: Vec<Hostile>,
    pub(crate) rng: ChaCha20Rng,
    /// Datagrams that hostile peers sent or got.
    pub(crate) kept: Vec<Bytes>,
    /// Addresses at which nobody ever answers: what came from there in the eyes of the agent, and what it sent there.
    pub(crate) bystanders: BTreeMap<SocketAddr, Account>,
    /// Routes that the agent, as a relay, has named.
    pub(crate) routes: Vec<Route>,
    /// What hostile peers say of their NATs in handshakes.
    pub(crate) mapping: Mapping,
    /// Datagrams to other ports of bystanders, by their address.
    pub(crate) sprayed: BTreeMap<IpAddr, u64>,
    own: Vec<SocketAddr>,
}

/// What passed between the agent and an address that has proven nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Account {
    /// Bytes that seemed to come from there.
    pub(crate) received: u64,
    /// Bytes that went there.
    pub(crate) sent: u64,
    /// Bytes that may still go there for those that came.
    credit: u64,
    /// Datagrams beyond that: probes.
    pub(crate) probes: u64,
    /// When the first of those went.
    since: Option<Instant>,
}

/// A peer that does not keep to any rule but those that make others listen.
pub(crate) struct Hostile {
    pub(crate) key: DeviceKey,
    pub(crate) addresses: [SocketAddr; 2],
    pub(crate) session: Option<Session>,
    dial: Option<Initiator>,
    /// Whether it answers handshakes and pings that reach it.
    pub(crate) answers: bool,
    /// Tokens of pings that reached it.
    pub(crate) tokens: Vec<Token>,
    stamp: u64,
}

#[expect(clippy::disallowed_methods, reason = "an Instant has to begin somewhere; only differences matter")]
fn epoch() -> Instant {
    Instant::now()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Rig {
    /// An agent with `config` at a public address, and [`HOSTILE`] peers that it has no session with.
    pub(crate) fn new(config: Config) -> Self {
        let (now, mut rng) = (epoch(), ChaCha20Rng::seed_from_u64(7));
        let mut agent = Agent::new(now, config, DeviceKey::generate(&mut rng), rng.random());
        let own = vec![address("203.0.113.1:4000"), address("[2001:db8::1]:4000")];
        agent.set_local_addresses(now, &own);
        let hostile = (0..HOSTILE).map(|n| Hostile {
            key: DeviceKey::generate(&mut rng),
            addresses: [address(&format!("198.51.{n}.2:4000")), address(&format!("198.51.{n}.3:5000"))],
            session: None,
            dial: None,
            answers: true,
            tokens: Vec::new(),
            stamp: 0,
        });
        let hostile = hostile.collect();
        let bystanders =
            ["192.0.2.1:53", "192.0.2.1:123", "192.0.2.2:443", "203.0.113.9:7", "192.168.1.1:80", "[2001:db8::99]:9", "[2001:db8:5::1]:53"]
                .map(|text| (address(text), Account::default()));
        let (kept, routes) = (Vec::new(), Vec::new());
        let mut rig = Self {
            agent,
            now,
            start: now,
            hostile,
            rng,
            kept,
            bystanders: bystanders.into(),
            routes,
            mapping: Mapping::Unknown,
            sprayed: BTreeMap::new(),
            own,
        };
        rig.drain();
        rig
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(1_800_000_000_000 + u64::try_from((self.now - self.start).as_millis()).unwrap_or_default())
    }

    /// The `n`-th bystander, whatever `n`.
    pub(crate) fn bystander(&self, n: usize) -> SocketAddr {
        self.bystanders.keys().nth(n % self.bystanders.len()).copied().expect("there are some")
    }

    /// The `n`-th address of all, those of hostile peers first.
    fn any_address(&self, n: usize) -> SocketAddr {
        let n = n % (2 * HOSTILE + self.bystanders.len());
        if n < 2 * HOSTILE { self.hostile[n / 2].addresses[n % 2] } else { self.bystander(n - 2 * HOSTILE) }
    }

    /// A datagram that seems to come from `source` reaches the agent.
    ///
    /// It is in `Rig::bystanders`, or an address of a hostile peer.
    pub(crate) fn inject(&mut self, source: SocketAddr, datagram: Bytes) {
        if let Some(account) = self.bystanders.get_mut(&source) {
            account.received += datagram.len() as u64;
            account.credit += 3 * datagram.len() as u64;
        }
        self.keep(&datagram);
        let wall = self.wall();
        self.agent.handle_datagram(self.now, wall, source, datagram);
        self.drain();
    }

    fn keep(&mut self, datagram: &Bytes) {
        if self.kept.len() == MAX_KEPT {
            self.kept.remove(0);
        }
        self.kept.push(datagram.clone());
    }

    /// Lets time pass, and the agent do what is due.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let wall = self.wall();
            self.agent.handle_timeout(self.now, wall);
            assert!(self.agent.poll_timeout().is_none_or(|next| next > self.now), "what was due is done");
            wakes += 1;
            assert!(wakes < 100_000, "the agent never comes to rest");
            self.drain();
        }
        self.now = end;
    }

    /// Takes what the agent has to send: counts it, and has hostile peers react to what reaches them.
    pub(crate) fn drain(&mut self) {
        let mut rounds = 0;
        loop {
            while let Some(event) = self.agent.poll_event() {
                assert!(!matches!(event, Event::Data { peer, .. } if self.hostile.iter().all(|hostile| hostile.key.id() != peer)));
            }
            let mut replies = Vec::new();
            while let Some(transmit) = self.agent.poll_transmit() {
                assert!(!transmit.payload.is_empty() && transmit.payload.len() <= 1200);
                // Ports that are opened to it are half of a spray.
                if self.bystanders.contains_key(&transmit.destination) && self.agent.opens_by(transmit.socket) {
                    *self.sprayed.entry(transmit.destination.ip()).or_default() += 1;
                    continue;
                }
                if let Some(account) = self.bystanders.get_mut(&transmit.destination) {
                    account.count(self.now, transmit.payload.len() as u64);
                    continue;
                }
                if self.bystanders.keys().any(|bystander| bystander.ip() == transmit.destination.ip()) {
                    *self.sprayed.entry(transmit.destination.ip()).or_default() += 1;
                    continue;
                }
                let receiver = self.hostile.iter().position(|hostile| hostile.addresses.contains(&transmit.destination));
                if let Some(receiver) = receiver {
                    self.keep(&transmit.payload);
                    replies.extend(self.receive(receiver, &transmit.payload).map(|reply| (transmit.destination, reply)));
                }
            }
            while self.agent.poll_closed().is_some() {}
            self.check_bounds();
            rounds += 1;
            if replies.is_empty() || rounds > 16 {
                return;
            }
            for (source, reply) in replies {
                let wall = self.wall();
                self.keep(&reply);
                self.agent.handle_datagram(self.now, wall, source, reply);
            }
        }
    }

    /// What a hostile peer does about a datagram that reached it; the answer, if it gives one.
    fn receive(&mut self, n: usize, datagram: &Bytes) -> Option<Bytes> {
        let (hostile, rng) = (&mut self.hostile[n], &mut self.rng);
        match DatagramKind::of(datagram)? {
            DatagramKind::IkInitiation if hostile.answers => {
                let answer = Answer { token: 1, observed: None, mapping: Mapping::Independent }.encode();
                let index = rng.next_u32();
                let Ok(Response::Ik { session, reply, .. }) = respond(&hostile.key, datagram, index, &answer, rng) else { return None };
                hostile.session = Some(session);
                Some(reply.into())
            }
            DatagramKind::XxFirst if hostile.answers => match respond(&hostile.key, datagram, 7, &[], rng) {
                Ok(Response::Xx { reply, .. }) => Some(reply.into()),
                _ => None,
            },
            DatagramKind::IkResponse => {
                let finished = hostile.dial.as_mut()?.finish(&hostile.key, datagram).ok()?;
                (hostile.session, hostile.dial) = (Some(finished.session), None);
                let token = Answer::decode(&finished.payload).ok()?.token;
                hostile.answers.then(|| self.sealed(n, &[Control::Pong { token, association: 9, observed: None }])).flatten()
            }
            DatagramKind::Data => self.receive_sealed(n, datagram.clone()),
            DatagramKind::Relayed => {
                let route = relay::route_of(datagram)?;
                self.routes.push(route);
                let inner = datagram.slice(relay::HEADER..);
                // They are all in league: whose it is takes it.
                let reply = (0..HOSTILE).find_map(|n| self.receive(n, &inner))?;
                Some(relay::wrap(route, &reply).into())
            }
            _ => None,
        }
    }

    fn receive_sealed(&mut self, n: usize, datagram: Bytes) -> Option<Bytes> {
        let hostile = &mut self.hostile[n];
        let plaintext = hostile.session.as_mut()?.open(datagram).ok()?;
        let messages = if *plaintext.first()? == control::CONTROL { control::decode(&plaintext[1..]).ok()? } else { return None };
        let mut pongs = Vec::new();
        for message in messages {
            match message {
                Control::Ping { token, .. } => {
                    hostile.tokens.push(token);
                    pongs.push(Control::Pong { token, association: 9, observed: None });
                }
                Control::Introduction { route, .. } | Control::Introduced { route, .. } => self.routes.push(route),
                _ => {}
            }
        }
        (hostile.answers && !pongs.is_empty()).then(|| self.sealed(n, &pongs)).flatten()
    }

    /// Control messages sealed by a hostile peer for the agent, if they have a session.
    pub(crate) fn sealed(&mut self, n: usize, messages: &[Control<'_>]) -> Option<Bytes> {
        self.sealed_bytes(n, &control::plaintext(messages))
    }

    pub(crate) fn sealed_bytes(&mut self, n: usize, plaintext: &[u8]) -> Option<Bytes> {
        let mut datagram = Vec::new();
        self.hostile[n].session.as_mut()?.seal(plaintext, &mut datagram);
        Some(datagram.into())
    }

    /// A fresh handshake of a hostile peer with the agent, which names `candidates` as its addresses.
    pub(crate) fn initiation(&mut self, n: usize, candidates: Vec<SocketAddr>) -> Bytes {
        let wall = self.wall();
        let hostile = &mut self.hostile[n];
        hostile.stamp = (hostile.stamp + 1).max(wall.0);
        let early = Offer { association: 9, tag: 11, mapping: self.mapping, wanted: true, candidates, early: Bytes::new() }.encode();
        let (stamp, index) = (Timestamp(hostile.stamp), self.rng.next_u32());
        let (initiator, datagram) =
            Initiator::ik(&hostile.key, self.agent.id(), index, stamp, &early, &mut self.rng).expect("the key of the agent is one");
        hostile.dial = Some(initiator);
        datagram.into()
    }

    /// A hostile peer and the agent get to a session, at the peer's first address.
    pub(crate) fn establish(&mut self, n: usize) {
        let (datagram, source) = (self.initiation(n, Vec::new()), self.hostile[n].addresses[0]);
        self.inject(source, datagram);
        if let Some(ping) = self.sealed(n, &[Control::Ping { token: 3, association: 9, observed: None }]) {
            self.inject(source, ping);
        }
    }

    fn check_bounds(&self) {
        let agent = &self.agent;
        let peers = agent.config.max_sessions + 256;
        let kept = [
            ("peers", agent.peers.len(), peers),
            ("indices", agent.indices.len(), 8 * peers + MAX_WANTED),
            ("digests", agent.digests.len(), peers),
            ("routes", agent.routes.len(), 4 * peers),
            ("discoveries", agent.discoveries.len(), MAX_WANTED),
            ("wanted", agent.wanted.len(), MAX_WANTED),
            ("connected", agent.connected.len(), peers),
            ("routes of others", agent.relayed_routes(), relay::MAX_ROUTES),
        ];
        for (what, count, most) in kept {
            assert!(count <= most, "{count} {what}");
        }
    }

    /// Panics if a bystander was sent more than it may be.
    pub(crate) fn check_bystanders(&self) {
        for (address, account) in &self.bystanders {
            assert!(self.is_sound(*address), "{address} was sent too much: {account:?}");
        }
        let windows = 1 + self.now.duration_since(self.start).as_secs() / PROBE_WINDOW.as_secs();
        for (address, sprayed) in &self.sprayed {
            assert!(*sprayed <= SPRAYED * windows, "{address} was sprayed {sprayed} times");
        }
    }

    /// At most three bytes for each that seemed to come from `address`, and eight probes in each minute since the first; where its host was sprayed, two sprays more.
    pub(crate) fn is_sound(&self, address: SocketAddr) -> bool {
        let Some(account) = self.bystanders.get(&address) else { return true };
        let windows = account.since.map_or(0, |since| 1 + self.now.duration_since(since).as_secs() / PROBE_WINDOW.as_secs());
        let sprays = if self.sprayed.contains_key(&address.ip()) { 6 } else { 0 };
        account.probes <= (u64::from(MAX_PROBES) + sprays) * windows
    }
}

impl Account {
    fn count(&mut self, now: Instant, bytes: u64) {
        self.sent += bytes;
        match self.credit.checked_sub(bytes) {
            Some(left) => self.credit = left,
            None => {
                assert!(bytes <= MAX_PROBE, "a probe of {bytes} bytes");
                self.since.get_or_insert(now);
                self.probes += 1;
            }
        }
    }
}

/// Bytes that steer a run; when they are used up it ends.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(usize::from(*first))
    }

    fn bytes(&mut self, most: usize) -> Option<Vec<u8>> {
        let length = self.byte()?.min(most).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(bytes.to_vec())
    }
}

/// Any datagrams, handshakes and sealed messages of hostile peers, from anywhere, again and altered, between any commands, timeouts and network changes: nobody who takes no part is sent
/// more than three bytes for each that seemed to come from there, and eight probes a minute; what is kept stays bounded; nothing panics.
pub fn nat_agent(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else { return };
    let config = Config {
        lan: settings & 1 == 1,
        relay: settings & 2 == 0,
        target_sessions: (settings >> 2) & 3,
        max_sessions: if settings & 16 == 0 { 3 } else { 64 },
        rekey_after: Duration::from_secs(if settings & 32 == 0 { 20 } else { 600 }),
        ..Config::default()
    };
    let mut rig = Rig::new(config);
    for n in 0..usize::from(settings >= 128) * HOSTILE {
        rig.establish(n);
    }
    let mut done = 0;
    while done < MAX_STEPS && step(&mut rig, &mut input).is_some() {
        rig.check_bystanders();
        done += 1;
    }
    rig.run(Duration::from_secs(70));
    rig.check_bystanders();
}

const MAX_STEPS: usize = 200;

fn step(rig: &mut Rig, input: &mut Input<'_>) -> Option<()> {
    let (what, who, place) = (input.byte()?, input.byte()? % HOSTILE, input.byte()?);
    let (source, wall, now) = (rig.any_address(place), rig.wall(), rig.now);
    let peer = rig.hostile[who].key.id();
    match what % 20 {
        0 => {
            let datagram = input.bytes(200)?;
            rig.inject(source, datagram.into());
        }
        1 => {
            let candidates = candidates(rig, input)?;
            rig.mapping = [Mapping::Unknown, Mapping::Independent, Mapping::Dependent, Mapping::Sequential][place / 64];
            let datagram = rig.initiation(who, candidates);
            rig.inject(source, datagram);
        }
        2..=6 => {
            let mut messages = Vec::new();
            let initiation = rig.kept.get(input.byte()?).cloned().unwrap_or_default();
            for _ in 0..=(what % 20) / 5 {
                messages.push(message(rig, input, who, &initiation)?);
            }
            if let Some(datagram) = rig.sealed(who, &messages) {
                rig.inject(source, datagram);
            }
        }
        7 | 8 => {
            let kept = rig.kept.get(input.byte()? % MAX_KEPT).cloned();
            if let Some(kept) = kept {
                rig.inject(source, kept);
            }
        }
        9 => {
            let kept = rig.kept.get(input.byte()? % MAX_KEPT).map(|kept| kept.to_vec());
            if let Some(mut altered) = kept {
                let at = input.byte()? % altered.len().max(1);
                altered.resize(altered.len().max(1), 0);
                altered[at] ^= 1 << (input.byte()? % 8);
                rig.inject(source, altered.into());
            }
        }
        10 | 11 => {
            let times = [1, 50, 300, 1000, 3000, 10_000, 30_000, 70_000];
            rig.run(Duration::from_millis(times[place % times.len()]));
        }
        12 => {
            let addresses = [rig.hostile[who].addresses[0]];
            let _ = rig.agent.connect(now, wall, peer, &addresses[..place % 2]);
        }
        13 => rig.agent.disconnect(now, peer),
        14 => drop(rig.agent.send(now, peer, &[7; 1100][..4 * place])),
        15 => {
            let own = if place % 2 == 0 { rig.own.clone() } else { vec![address("203.0.113.77:4000")] };
            rig.agent.set_local_addresses(now, &own);
        }
        16 => rig.agent.connect_address(now, wall, rig.hostile[who].addresses[place % 2]),
        17 => {
            let route = rig.routes.get(input.byte()?).copied().unwrap_or(FALSE_ROUTE);
            let inner = match input.byte()? % 3 {
                0 => rig.initiation(who, Vec::new()),
                1 => rig.kept.get(input.byte()?).cloned().unwrap_or_default(),
                _ => rig.sealed_bytes(who, &[control::DATA, 1, 2]).unwrap_or_default(),
            };
            rig.inject(source, relay::wrap(route, &inner).into());
        }
        18 => {
            let datagram = match input.byte()? % 2 {
                0 => Initiator::xx(7, wall, &mut rig.rng).1,
                _ => beacon::encode(&rig.rng.random(), source.port(), &[PUBLIC_SWARM]),
            };
            rig.inject(source, datagram.into());
        }
        _ => {
            rig.hostile[who].answers = place % 2 == 0;
            let socket = SocketId(u16::try_from(place).ok()?);
            let kept = rig.kept.first().cloned().unwrap_or_default();
            rig.agent.handle_auxiliary(now, wall, socket, rig.hostile[who].addresses[1], kept);
        }
    }
    rig.drain();
    Some(())
}

fn candidates(rig: &Rig, input: &mut Input<'_>) -> Option<Vec<SocketAddr>> {
    let count = input.byte()? % 4;
    (0..count).map(|_| Some(rig.any_address(input.byte()?))).collect()
}

/// Any control message, of things that mean something to the agent.
fn message<'a>(rig: &Rig, input: &mut Input<'_>, who: usize, initiation: &'a [u8]) -> Option<Control<'a>> {
    let (what, which) = (input.byte()?, input.byte()?);
    let known = rig.hostile[who].tokens.len().saturating_sub(1 + which % 8);
    let token = rig.hostile[who].tokens.get(known).copied().unwrap_or(5);
    let association = 9 + u32::from(which > 250);
    let address = rig.any_address(which);
    let route = rig.routes.get(which).copied().unwrap_or(FALSE_ROUTE);
    let target = if which == 255 { PeerId([7; 32]) } else { rig.hostile[which % HOSTILE].key.id() };
    let initiation = if initiation.len() > control::MAX_INITIATION { &[] } else { initiation };
    Some(match what % 20 {
        0 => Control::Ping { token, association, observed: Some(address) },
        1 => Control::Pong { token, association, observed: Some(address) },
        2 => Control::Close,
        3 => Control::PeersRequest,
        4 => Control::Peers { ids: (0..which % 17).map(|n| rig.hostile[n % HOSTILE].key.id()).collect() },
        5 => Control::Introduce { target, initiation },
        6 => Control::Introduction { route, address, initiation },
        7 => Control::Introduced { target, route, address },
        8 => Control::Refused { target },
        9 => Control::RouteClosed { route },
        10 => Control::Candidates { addresses: candidates(rig, input)? },
        11 => Control::Reflect { token },
        12 => Control::Reflected { token, observed: address },
        13 => Control::Test { token: TEST, test: [Test::Answer, Test::Probe, Test::Aside][which % 3] },
        14 => Control::Tested { token, observed: address, second: which % 2 == 0, other: which % 3 == 0 },
        15 => Control::Vouch { token, address },
        16 => Control::SecondPort { token, port: address.port() },
        17 => Control::Again { token: TEST },
        18 => Control::Load { route, load: [0, 100, 255][input.byte()? % 3] },
        _ => Control::Opened { low: 1, high: [9, 511, 60_000][which % 3], opened: [0, 256, 512][input.byte()? % 3] },
    })
}

const FALSE_ROUTE: Route = 0xbad;
/// The name of every test that hostile peers ask for.
const TEST: Token = 5;

/// Datagrams of every kind that a stranger can make.
#[cfg(test)]
pub(crate) fn strange_datagrams(rig: &mut Rig) -> Vec<(&'static str, Bytes)> {
    let wall = rig.wall();
    let mut of_kind = |kind: u8, length: usize| {
        let mut bytes = vec![0; length];
        rig.rng.fill_bytes(&mut bytes);
        bytes[0] = kind;
        Bytes::from(bytes)
    };
    vec![
        ("bytes of no kind", of_kind(0, 200)),
        ("a made-up response", of_kind(2, 120)),
        ("a made-up cookie", of_kind(3, 61)),
        ("made-up data", of_kind(4, 60)),
        ("a made-up relayed one", of_kind(5, 80)),
        ("a made-up XX second", of_kind(7, 130)),
        ("a made-up XX third", of_kind(8, 130)),
        ("a made-up probe", of_kind(10, 32)),
        ("an XX first", Initiator::xx(7, wall, &mut rig.rng).1.into()),
        ("a beacon", beacon::encode(&rig.rng.random(), 53, &[PUBLIC_SWARM]).into()),
    ]
}

const _: () = assert!(XX_FIRST <= 3 * 27, "who hears a beacon, the shortest datagram that is answered, may answer it");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_nat_agent_breaks_no_law() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz").join("corpus/nat_agent");
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
            nat_agent(&std::fs::read(entry.expect("a file").path()).expect("it can be read"));
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }

    proptest::proptest! {
        #[test]
        fn any_interleaving_aims_nothing_at_a_bystander(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..900)) {
            nat_agent(&data);
        }
    }
}
