//! `survive`: does a message wait in the caches of strangers until its recipient comes online, a day later?
//!
//! Peers behind translators live for an hour on average and leave silently; each leaver is replaced at once by a fresh, empty peer. In the first hour Bob
//! writes to Alice, who is offline, from a fresh process each time, and leaves 5 s later. Others write elsewhere all the time. After a day Alice returns as
//! a fresh process that knows her keys and the public peers. The public peers store nothing.

use core::time::Duration;

use peers_crypto::{DeviceKey, TopicKey};
use peers_node::{Config, Event};
use peers_wire::PacketId;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Replay, Share, Spread, exponential, is_share, random_nat};
use crate::net::{HostId, Links};
use crate::queue::Queue;
use crate::world::World;

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Survive {
    /// Peers behind translators, Alice and Bob not counted. Default 1024.
    pub peers: usize,
    /// Public peers beyond those; they never leave and store nothing. Default 4.
    pub publics: usize,
    /// Messages from Bob to Alice, spread over the first hour. Default 30.
    pub messages: u32,
    /// Bytes of every message. Default 512.
    pub bytes: usize,
    /// Messages per hour of all others together. Default 1000.
    pub load: f64,
    /// Mean minutes that a peer stays. Default 60.
    pub session: f64,
    /// Hours until Alice returns, at least 1. Default 24.
    pub hours: u32,
    /// Probability that a datagram is lost, per hop. Default 0.
    pub loss: f64,
    /// Bytes of a cache. Default as in [`peers_cache::Config`].
    pub cache: usize,
}

impl Default for Survive {
    fn default() -> Self {
        let cache = peers_cache::Config::default().budget;
        Self { peers: 1024, publics: 4, messages: 30, bytes: 512, load: 1000.0, session: 60.0, hours: 24, loss: 0.0, cache }
    }
}

/// What one run showed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Messages held by a peer online when Alice returns.
    pub survived: Share,
    /// Messages that reached Alice within a minute of her return.
    pub delivered: Share,
    /// Of each message, how many peers online held it when she returned.
    pub copies: Vec<f64>,
    /// The greatest cache of any peer, in bytes.
    pub cache_bytes_max: u64,
    /// Bytes sent (part), times peers and seconds (whole).
    pub bytes: Share,
    /// Seconds from Alice's return to each delivery.
    pub delivery: Vec<f64>,
}

/// The figures of one or more runs; see [`Survive`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Messages from Bob to Alice.
    pub messages: u64,
    /// Share held by some online peer when Alice returned.
    pub survived: Option<f64>,
    /// Share that reached her within 60 s.
    pub delivered_on_return: Option<f64>,
    /// Online holders of each message when she returned.
    pub copies: Copies,
    /// Bytes of the fullest cache, looked at every hour.
    pub cache_bytes_max: u64,
    /// Bytes on the wire that a peer sent, public ones included.
    pub bytes_per_peer_per_s: Option<f64>,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

/// Copies of a message.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Copies {
    /// Of the rarest message.
    pub min: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
}

parameters!(Survive {
    peers: |n| *n > 0,
    publics: |n| *n > 0,
    messages: |n| (1..=MAX_MESSAGES).contains(n),
    bytes: |n| (1..=MAX_BYTES).contains(n),
    load: |n| n.is_finite() && *n >= 0.0,
    session: |n| n.is_finite() && *n > 0.0,
    hours: |n| (1..=MAX_HOURS).contains(n),
    loss: is_share,
    cache: |n| *n <= MAX_CACHE,
});

impl Survive {
    /// Runs the scenario; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("survive", seed, &self.parameters());
        Run::new(self, seed).run()
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let (mut survived, mut delivered, mut bytes) = (Share::default(), Share::default(), Share::default());
        let mut copies = Vec::new();
        for outcome in outcomes {
            survived.add(outcome.survived);
            delivered.add(outcome.delivered);
            bytes.add(outcome.bytes);
            copies.extend(&outcome.copies);
        }
        Report {
            messages: survived.whole,
            survived: survived.ratio(),
            delivered_on_return: delivered.ratio(),
            copies: Copies { min: copies.iter().copied().reduce(f64::min), p50: Spread::of(&copies).p50 },
            cache_bytes_max: outcomes.iter().map(|outcome| outcome.cache_bytes_max).max().unwrap_or(0),
            bytes_per_peer_per_s: bytes.ratio(),
            wall_s: wall.as_secs_f64(),
        }
    }
}

#[derive(Debug)]
enum Action {
    Arrive,
    Leave(HostId),
    BobArrives,
    BobWrites(HostId),
    BobLeaves(HostId),
    Load,
    Measure,
}

struct Run<'a> {
    scenario: &'a Survive,
    rng: ChaCha8Rng,
    world: World,
    agenda: Queue<Action>,
    publics: Vec<HostId>,
    alice: [u8; 32],
    bob: [u8; 32],
    /// What only Alice and Bob can name.
    topic: TopicKey,
    messages: Vec<PacketId>,
    outcome: Outcome,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Survive, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let world = World::new(Links { loss: scenario.loss, ..Links::default() }, rng.random());
        let (alice, bob): ([u8; 32], [u8; 32]) = (rng.random(), rng.random());
        let id = DeviceKey::from_seed(&alice).id();
        let topic = TopicKey::between(&DeviceKey::from_seed(&bob), id).expect("a key that was made from a seed");
        let (agenda, publics, messages) = (Queue::default(), Vec::new(), Vec::new());
        let mut run = Self { scenario, rng, world, agenda, publics, alice, bob, topic, messages, outcome: Outcome::default() };
        run.plan();
        run
    }

    fn plan(&mut self) {
        for _ in 0..self.scenario.publics {
            let site = self.world.network.add_site(None);
            let mut config = Config::default();
            config.cache.budget = 0;
            let host = self.world.add_peer(site, config, 0);
            self.know_publics(host);
            self.publics.push(host);
        }
        for _ in 0..self.scenario.peers {
            let at = ARRIVALS.mul_f64(self.rng.random());
            self.agenda.push(at, Action::Arrive);
        }
        for i in 0..self.scenario.messages {
            let at = START + (HOUR / self.scenario.messages) * i;
            self.agenda.push(at, Action::BobArrives);
        }
        for hour in 0..=self.scenario.hours {
            self.agenda.push(START + HOUR * hour, Action::Measure);
        }
        self.plan_load(START);
    }

    fn plan_load(&mut self, now: Duration) {
        if self.scenario.load > 0.0 {
            let at = now + exponential(HOUR.div_f64(self.scenario.load), &mut self.rng);
            self.agenda.push(at, Action::Load);
        }
    }

    fn run(mut self) -> Outcome {
        let end = START + HOUR * self.scenario.hours;
        while let Some((at, action)) = self.agenda.pop(end) {
            self.world.run(at);
            match action {
                Action::Arrive => self.arrive(),
                Action::Leave(host) => {
                    self.world.remove_peer(host);
                    self.arrive();
                }
                Action::BobArrives => {
                    let host = self.join(Some(self.bob));
                    self.agenda.push(at + BOB_WRITES_AFTER, Action::BobWrites(host));
                }
                Action::BobWrites(host) => self.bob_writes(host),
                Action::BobLeaves(host) => drop(self.world.remove_peer(host)),
                Action::Load => {
                    self.write_elsewhere();
                    self.plan_load(at);
                }
                Action::Measure => {
                    let fullest = self.world.stacks().map(|(_, stack)| stack.stats().cache.used).max().unwrap_or(0);
                    self.outcome.cache_bytes_max = self.outcome.cache_bytes_max.max(fullest);
                }
            }
        }
        self.world.run(end);
        let seconds = end.as_secs();
        let peers = (self.scenario.peers + self.scenario.publics) as u64;
        self.outcome.bytes = Share { part: self.world.network.total().sent_bytes, whole: peers * seconds };
        self.count_copies();
        self.alice_returns(end);
        self.outcome
    }

    /// A fresh process somewhere, which joins by itself.
    fn join(&mut self, key_seed: Option<[u8; 32]>) -> HostId {
        let site = self.world.network.add_site(Some(random_nat(&mut self.rng)));
        let mut config = Config::default();
        config.cache.budget = self.scenario.cache;
        let host = match key_seed {
            Some(seed) => self.world.add_peer_with_key(site, config, 0, seed),
            None => self.world.add_peer(site, config, 0),
        };
        self.know_publics(host);
        host
    }

    fn know_publics(&mut self, host: HostId) {
        for public in &self.publics {
            self.world.introduce(host, *public);
        }
    }

    fn arrive(&mut self) {
        let host = self.join(None);
        let leaves = self.world.now() + exponential(Duration::from_secs(60).mul_f64(self.scenario.session), &mut self.rng);
        self.agenda.push(leaves, Action::Leave(host));
    }

    fn bob_writes(&mut self, host: HostId) {
        let body = self.body();
        let topic = &self.topic;
        let id = self.world.with(host, |stack, now, wall| stack.publish(now, wall, topic, &body)).expect("it fits a message");
        self.messages.push(id);
        self.agenda.push(self.world.now() + BOB_LEAVES_AFTER, Action::BobLeaves(host));
    }

    fn write_elsewhere(&mut self) {
        let peers: Vec<_> = self.world.stacks().map(|(host, _)| host).filter(|host| !self.publics.contains(host)).collect();
        if peers.is_empty() {
            return;
        }
        let host = peers[self.rng.random_range(0..peers.len())];
        let (topic, body) = (TopicKey::from_seed(self.rng.random()), self.body());
        self.world.with(host, |stack, now, wall| stack.publish(now, wall, &topic, &body)).expect("it fits a message");
    }

    fn body(&mut self) -> Vec<u8> {
        let mut body = vec![0; self.scenario.bytes];
        self.rng.fill(&mut body[..]);
        body
    }

    fn count_copies(&mut self) {
        for id in &self.messages {
            let copies = self.world.stacks().filter(|(_, stack)| stack.cache().get(id).is_some()).count();
            self.outcome.copies.push(copies as f64);
            self.outcome.survived.count(copies > 0);
        }
    }

    fn alice_returns(&mut self, now: Duration) {
        let host = self.join(Some(self.alice));
        let key = self.topic.read_key();
        self.world.with(host, |stack, now, wall| stack.subscribe(now, wall, key));
        let mut missing = self.messages.clone();
        while let Some((at, event)) = self.world.next(now + DELIVERED_WITHIN) {
            if let Event::Message(message) = event
                && at == host
                && let Some(i) = missing.iter().position(|id| *id == message.id)
            {
                missing.swap_remove(i);
                self.outcome.delivery.push((self.world.now() - now).as_secs_f64());
            }
        }
        let whole = self.messages.len() as u64;
        self.outcome.delivered = Share { part: whole - missing.len() as u64, whole };
    }
}

const ARRIVALS: Duration = Duration::from_secs(20);
/// When the first hour begins.
const START: Duration = Duration::from_secs(100);
const HOUR: Duration = Duration::from_secs(3600);
/// From Bob's arrival to his message.
const BOB_WRITES_AFTER: Duration = Duration::from_secs(10);
const BOB_LEAVES_AFTER: Duration = Duration::from_secs(5);
/// Largest message of the scenario.
const MAX_BYTES: usize = 1 << 16;
/// Most messages: one a second.
const MAX_MESSAGES: u32 = 3600;
/// Longest absence of Alice: a month.
const MAX_HOURS: u32 = 24 * 30;
/// Largest cache of the scenario.
const MAX_CACHE: usize = 1 << 30;
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);
