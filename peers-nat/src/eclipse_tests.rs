//! An honest peer among fifty lying neighbours is not cut off: it keeps and reaches its contacts, is reached, and learns of honest peers.
//!
//! Source of the attack and of the defences: Heilman, Kendler, Zohar, Goldberg, "Eclipse Attacks on Bitcoin's Peer-to-Peer Network", USENIX Security 2015.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{DatagramKind, DeviceKey, Initiator, Response, Session, respond};
use peers_wire::{PeerId, Timestamp};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::Config;
use crate::agent::{Agent, MAX_ADDRESSES};
use crate::control::{self, Answer, Control, MAX_SAMPLE, Offer};
use crate::ports::Mapping;
use crate::tests::epoch;

const LIARS: usize = 50;
/// Honest peers: the one that is attacked, its three contacts, one contact more that it knows by key alone, and others.
const VICTIM: usize = 0;
const CONTACTS: core::ops::Range<usize> = 1..4;
const DISTANT: usize = 4;
const HONEST: usize = 12;
const DELAY: Duration = Duration::from_millis(20);

/// A neighbour that answers pings, says that it knows everybody, and is of no use.
struct Liar {
    key: DeviceKey,
    session: Option<Session>,
    dial: Option<Initiator>,
}

struct Sim {
    now: Instant,
    start: Instant,
    keys: Vec<DeviceKey>,
    honest: Vec<Agent>,
    liars: Vec<Liar>,
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Bytes)>,
    number: u64,
    rng: ChaCha20Rng,
    /// Whether liars make known that they are connected to the contact that is sought.
    claim: bool,
}

fn address(honest: bool, n: usize) -> SocketAddr {
    SocketAddr::from(([if honest { 50 } else { 60 }, 0, u8::try_from(n).unwrap_or(u8::MAX), 1], 4000))
}

impl Sim {
    fn new(seed: u64) -> Self {
        let (now, mut rng) = (epoch(), ChaCha20Rng::seed_from_u64(seed));
        let keys: Vec<DeviceKey> = (0..HONEST).map(|_| DeviceKey::generate(&mut rng)).collect();
        let mut sim = Self {
            now,
            start: now,
            keys,
            honest: Vec::new(),
            liars: (0..LIARS).map(|_| Liar { key: DeviceKey::generate(&mut rng), session: None, dial: None }).collect(),
            flying: BTreeMap::new(),
            number: 0,
            rng,
            claim: true,
        };
        for n in 0..HONEST {
            let agent = sim.fresh(n);
            sim.honest.push(agent);
        }
        // The honest ones know each other, but none of them the one that is attacked.
        for (a, b) in (1..HONEST).flat_map(|a| (1..a).map(move |b| (a, b))) {
            sim.connect(a, b, &[address(true, b)]);
        }
        sim.run(2);
        sim
    }

    fn fresh(&mut self, n: usize) -> Agent {
        // Only the one that is attacked looks for peers: all the others have enough.
        let target_sessions = if n == VICTIM { 10 } else { 0 };
        let config = Config { lan: false, target_sessions, ..Config::default() };
        let mut agent = Agent::new(self.now, config, self.keys[n].clone(), self.rng.random());
        agent.set_local_addresses(self.now, &[address(true, n)]);
        agent
    }

    fn id(&self, n: usize) -> PeerId {
        self.keys[n].id()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(1_800_000_000_000 + u64::try_from((self.now - self.start).as_millis()).unwrap_or_default())
    }

    fn connect(&mut self, from: usize, to: usize, addresses: &[SocketAddr]) {
        let (now, wall, id) = (self.now, self.wall(), self.id(to));
        self.honest[from].connect(now, wall, id, addresses).expect("few are wanted");
        self.drain(from);
    }

    fn is_connected(&self, from: usize, to: usize) -> bool {
        self.honest[from].peer(self.id(to)).is_some() && self.honest[to].peer(self.id(from)).is_some()
    }

    fn drain(&mut self, n: usize) {
        while self.honest[n].poll_event().is_some() {}
        while let Some(transmit) = self.honest[n].poll_transmit() {
            self.fly(address(true, n), transmit.destination, transmit.payload);
        }
    }

    fn fly(&mut self, source: SocketAddr, destination: SocketAddr, datagram: Bytes) {
        self.number += 1;
        self.flying.insert((self.now + DELAY, self.number), (source, destination, datagram));
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            let timer = self.honest.iter().enumerate().filter_map(|(n, agent)| Some((agent.poll_timeout()?, n))).min();
            let flight = self.flying.first_key_value().map(|(key, _)| *key);
            match (timer, flight) {
                (Some((at, n)), flight) if at <= end && flight.is_none_or(|(arrival, _)| at <= arrival) => {
                    self.now = self.now.max(at);
                    let wall = self.wall();
                    self.honest[n].handle_timeout(self.now, wall);
                    self.drain(n);
                }
                (_, Some(key)) if key.0 <= end => {
                    self.now = self.now.max(key.0);
                    let Some((source, destination, datagram)) = self.flying.remove(&key) else { continue };
                    self.arrive(source, destination, datagram);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Whether it comes to `done` within so many seconds.
    fn until(&mut self, seconds: u64, done: impl Fn(&Self) -> bool) -> bool {
        (0..seconds).any(|_| {
            self.run(1);
            done(self)
        })
    }

    fn arrive(&mut self, source: SocketAddr, destination: SocketAddr, datagram: Bytes) {
        let wall = self.wall();
        if let Some(n) = (0..HONEST).find(|n| address(true, *n) == destination) {
            self.honest[n].handle_datagram(self.now, wall, source, datagram);
            self.drain(n);
        } else if let Some(n) = (0..LIARS).find(|n| address(false, *n) == destination)
            && let Some(reply) = self.lie(n, &datagram)
        {
            self.fly(destination, source, reply);
        }
    }

    /// All liars come to the one that is attacked.
    fn swarm(&mut self) {
        for n in 0..LIARS {
            let (wall, index) = (self.wall(), self.rng.next_u32());
            let offer =
                Offer { association: 9, tag: 1, mapping: Mapping::Independent, wanted: true, candidates: vec![], early: Bytes::new() };
            let victim = self.id(VICTIM);
            let liar = &mut self.liars[n];
            let (initiator, datagram) = Initiator::ik(&liar.key, victim, index, wall, &offer.encode(), &mut self.rng).expect("a key");
            liar.dial = Some(initiator);
            self.fly(address(false, n), address(true, VICTIM), datagram.into());
        }
        self.run(2);
    }

    /// What a liar says to a datagram.
    fn lie(&mut self, n: usize, datagram: &Bytes) -> Option<Bytes> {
        let false_address = address(true, 200);
        let (rng, distant, claim) = (&mut self.rng, self.keys[DISTANT].id(), self.claim);
        let liar = &mut self.liars[n];
        let said: Vec<Control<'_>> = match DatagramKind::of(datagram)? {
            DatagramKind::IkInitiation => {
                let answer = Answer { token: 1, observed: Some(false_address), mapping: Mapping::Dependent }.encode();
                let index = rng.next_u32();
                let Ok(Response::Ik { session, reply, .. }) = respond(&liar.key, datagram, index, &answer, rng) else { return None };
                liar.session = Some(session);
                return Some(reply.into());
            }
            DatagramKind::IkResponse => {
                let finished = liar.dial.as_mut()?.finish(&liar.key, datagram).ok()?;
                liar.session = Some(finished.session);
                let token = Answer::decode(&finished.payload).ok()?.token;
                let ping = Control::Ping { token: 3, association: 9, observed: Some(false_address) };
                vec![Control::Pong { token, association: 9, observed: Some(false_address) }, ping]
            }
            DatagramKind::Data => {
                let plaintext = liar.session.as_mut()?.open(datagram.clone()).ok()?;
                let messages = control::decode(plaintext.strip_prefix(&[control::CONTROL])?).ok()?;
                let mut said = Vec::new();
                for message in messages {
                    match message {
                        Control::Ping { token, .. } => said.push(Control::Pong { token, association: 9, observed: Some(false_address) }),
                        Control::PeersRequest => {
                            let mut ids: Vec<PeerId> = (0..MAX_SAMPLE).map(|_| PeerId(rng.random())).collect();
                            if claim {
                                ids[0] = distant;
                            }
                            said.push(Control::Peers { ids });
                        }
                        // Some refuse, some say nothing, some say that it is done.
                        Control::Introduce { target, .. } if n.is_multiple_of(3) => said.push(Control::Refused { target }),
                        Control::Introduce { target, .. } if n % 3 == 1 => {
                            said.push(Control::Introduced { target, route: rng.random(), address: false_address });
                        }
                        _ => {}
                    }
                }
                said
            }
            // What is to be passed on is dropped.
            _ => return None,
        };
        if said.is_empty() {
            return None;
        }
        let mut sealed = Vec::new();
        liar.session.as_mut()?.seal(&control::plaintext(&said), &mut sealed);
        Some(sealed.into())
    }
}

#[test]
fn who_has_three_honest_contacts_keeps_them_among_fifty_liars() {
    let mut sim = Sim::new(1);
    for contact in CONTACTS {
        sim.connect(VICTIM, contact, &[address(true, contact)]);
    }
    sim.run(2);
    sim.swarm();
    assert!(sim.honest[VICTIM].sessions() >= LIARS, "all liars are connected");
    for _ in 0..30 {
        sim.run(10);
        for contact in CONTACTS {
            assert!(sim.is_connected(VICTIM, contact), "contact {contact}");
        }
    }
}

#[test]
fn who_starts_anew_among_fifty_liars_reaches_its_contacts_and_is_reached() {
    let mut sim = Sim::new(2);
    sim.swarm();
    for contact in CONTACTS {
        sim.connect(VICTIM, contact, &[address(true, contact)]);
    }
    assert!(sim.until(5, |sim| CONTACTS.into_iter().all(|contact| sim.is_connected(VICTIM, contact))));
    // One that knows its key alone asks the contacts for it.
    let stranger = HONEST - 1;
    sim.connect(stranger, VICTIM, &[]);
    assert!(sim.until(10, |sim| sim.is_connected(stranger, VICTIM)));
}

#[test]
fn a_contact_known_by_its_key_alone_is_reached_through_the_honest_few_whatever_liars_claim() {
    for (seed, claim) in [(3, true), (4, true), (5, false)] {
        let mut sim = Sim::new(seed);
        sim.claim = claim;
        sim.swarm();
        for contact in CONTACTS {
            sim.connect(VICTIM, contact, &[address(true, contact)]);
        }
        sim.run(120);
        sim.connect(VICTIM, DISTANT, &[]);
        assert!(sim.until(10, |sim| sim.is_connected(VICTIM, DISTANT)), "seed {seed}");
    }
}

#[test]
fn false_addresses_of_a_contact_do_not_displace_the_true_one() {
    let mut sim = Sim::new(7);
    let id = sim.id(1);
    sim.connect(VICTIM, 1, &[address(true, 1)]);
    let lies: Vec<SocketAddr> = (100..120).map(|n| address(false, n)).collect();
    sim.connect(VICTIM, 1, &lies);
    let kept = &sim.honest[VICTIM].wanted[&id].addresses;
    assert_eq!((kept.len(), kept.last()), (MAX_ADDRESSES, Some(&address(true, 1))), "{kept:?}");
}

#[test]
fn honest_names_find_room_in_a_book_that_fifty_liars_have_filled() {
    let mut sim = Sim::new(6);
    sim.swarm();
    sim.run(600);
    sim.connect(VICTIM, 1, &[address(true, 1)]);
    let named = |sim: &Sim| {
        let named = |n: &usize| sim.honest[VICTIM].book.tellers(sim.id(*n)).any(|teller| teller == sim.id(1));
        (2..HONEST).filter(named).count()
    };
    let agent = &mut sim.honest[VICTIM];
    assert_eq!(agent.sessions(), LIARS);
    sim.run(5);
    let (now, id) = (sim.now, sim.id(1));
    sim.honest[VICTIM].ask_for_peers(now, id);
    sim.drain(VICTIM);
    sim.run(2);
    assert!(named(&sim) > 5, "{} honest names", named(&sim));
}
