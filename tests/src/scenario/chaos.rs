//! `chaos`: a handful of peers through two minutes of faults, and then peace.
//!
//! While faults last, safety must hold: a message arrives as its author wrote it, and at most once in the life of a process. After they end, everyone must
//! have sessions again, and every message that some cache still holds must reach every peer, within [`PEACE`] of virtual time.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use peers_crypto::TopicKey;
use peers_node::{Config, Event, TopicMessage};
use peers_wire::{PacketId, PeerId};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Replay, Spread, random_nat};
use crate::net::{HostId, Links, SiteId};
use crate::queue::Queue;
use crate::world::{Restart, World};

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chaos {
    /// Peers behind translators; two of them share a LAN. Default 6.
    pub peers: usize,
    /// Public peers beyond those. Default 2.
    pub publics: usize,
    /// Faults in all. Default 30.
    pub faults: usize,
    /// Messages published while they last. Default 20.
    pub messages: usize,
}

impl Default for Chaos {
    fn default() -> Self {
        Self { peers: 6, publics: 2, faults: 30, messages: 20 }
    }
}

/// What one run showed, or several; a run that breaks a promise panics instead.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Messages published.
    pub messages: u64,
    /// Messages that were in no cache any more when the faults ended.
    pub lost: u64,
    /// Messages received while the faults lasted.
    pub received_during: u64,
    /// Seconds from the end of the faults until everyone had everything and sessions.
    pub converged_s: Spread,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

/// What one run showed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcome {
    /// Messages published.
    pub messages: u64,
    /// Messages that were in no cache any more when the faults ended.
    pub lost: u64,
    /// Messages received while the faults lasted.
    pub received_during: u64,
    /// Seconds from the end of the faults until everyone had everything and sessions.
    pub converged: f64,
}

parameters!(Chaos {
    peers: |n| (2..=MAX_PEERS).contains(n),
    publics: |n| (1..=MAX_PEERS).contains(n),
    faults: |n| *n <= MAX_EVENTS,
    messages: |n| *n <= MAX_EVENTS,
});

impl Chaos {
    /// Runs the scenario; the same seed gives the same outcome.
    ///
    /// # Panics
    /// If a promise is broken; it then prints the command that repeats the run.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("chaos", seed, &self.parameters());
        Run::new(self, seed).run()
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let converged: Vec<_> = outcomes.iter().map(|outcome| outcome.converged).collect();
        Report {
            messages: outcomes.iter().map(|outcome| outcome.messages).sum(),
            lost: outcomes.iter().map(|outcome| outcome.lost).sum(),
            received_during: outcomes.iter().map(|outcome| outcome.received_during).sum(),
            converged_s: Spread::of(&converged),
            wall_s: wall.as_secs_f64(),
        }
    }
}

#[derive(Debug)]
enum Action {
    Fault,
    Awake(HostId),
    Publish,
}

struct Run {
    rng: ChaCha8Rng,
    topic: TopicKey,
    world: World,
    agenda: Queue<Action>,
    publics: Vec<HostId>,
    members: Vec<HostId>,
    sites: Vec<SiteId>,
    /// What was published, by whom.
    published: BTreeMap<PacketId, (PeerId, Vec<u8>)>,
    /// What each received or published in its present life.
    received: BTreeMap<HostId, BTreeSet<PacketId>>,
    deliveries: u64,
}

impl Run {
    fn new(scenario: &Chaos, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let topic = TopicKey::from_seed(rng.random());
        let world = World::new(Links::default(), rng.random());
        let mut run = Self {
            rng,
            topic,
            world,
            agenda: Queue::default(),
            publics: Vec::new(),
            members: Vec::new(),
            sites: Vec::new(),
            published: BTreeMap::new(),
            received: BTreeMap::new(),
            deliveries: 0,
        };
        run.start(scenario);
        run
    }

    fn start(&mut self, scenario: &Chaos) {
        for _ in 0..scenario.publics {
            let site = self.world.network.add_site(None);
            let host = self.add(site);
            self.publics.push(host);
        }
        for i in 0..scenario.peers {
            // The second shares the LAN of the first.
            let site = match self.members.get(self.publics.len()) {
                Some(first) if i == 1 => self.world.network.site(*first),
                _ => self.world.network.add_site(Some(random_nat(&mut self.rng))),
            };
            self.add(site);
        }
        let mut at = |from: Duration| from + (FAULTS_UNTIL - from).mul_f64(self.rng.random());
        for _ in 0..scenario.faults {
            self.agenda.push(at(FAULTS_FROM), Action::Fault);
        }
        for _ in 0..scenario.messages {
            self.agenda.push(at(FAULTS_FROM), Action::Publish);
        }
    }

    fn add(&mut self, site: SiteId) -> HostId {
        let skew = self.rng.random_range(-MAX_SKEW..=MAX_SKEW);
        let host = self.world.add_peer(site, Config::default(), skew);
        self.members.push(host);
        if !self.sites.contains(&site) {
            self.sites.push(site);
        }
        self.begin(host);
        host
    }

    /// What the application does when its process starts.
    fn begin(&mut self, host: HostId) {
        self.received.insert(host, BTreeSet::new());
        let key = self.topic.read_key();
        self.world.with(host, |stack, now, wall| stack.subscribe(now, wall, key));
        for public in self.publics.clone() {
            if public != host {
                self.world.introduce(host, public);
            }
        }
    }

    fn run(mut self) -> Outcome {
        while let Some((at, action)) = self.agenda.pop(FAULTS_UNTIL) {
            self.run_world(at);
            match action {
                Action::Fault => self.fault(),
                Action::Awake(host) => self.awake(host),
                Action::Publish => self.publish(),
            }
        }
        self.run_world(FAULTS_UNTIL);
        self.end_faults();
        let received_during = self.deliveries;
        let expected: BTreeSet<_> = self.published.keys().filter(|id| self.holders(id) > 0).copied().collect();
        let converged = self.converge(&expected);
        Outcome {
            messages: self.published.len() as u64,
            lost: (self.published.len() - expected.len()) as u64,
            received_during,
            converged: converged.as_secs_f64(),
        }
    }

    fn run_world(&mut self, until: Duration) {
        while let Some((host, event)) = self.world.next(until) {
            if let Event::Message(message) = event {
                self.on_message(host, &message);
            }
        }
    }

    fn on_message(&mut self, host: HostId, message: &TopicMessage) {
        let (author, body) = self.published.get(&message.id).expect("nothing arrives that was not published");
        assert_eq!((message.author, &message.payload[..]), (*author, &body[..]), "a message arrives as its author wrote it");
        let first = self.received.entry(host).or_default().insert(message.id);
        assert!(first, "{host:?} received {:?} twice", message.id);
        self.deliveries += 1;
    }

    /// One fault, or the end of one.
    fn fault(&mut self) {
        let links = &mut self.world.network.links;
        match self.rng.random_range(0..11) {
            0 => links.loss = self.rng.random_range(0.0..0.3),
            1 => links.duplication = self.rng.random_range(0.0..0.2),
            2 => links.reordering = self.rng.random_range(0.0..0.3),
            10 => links.corruption = self.rng.random_range(0.0..0.1),
            3 => self.sites.iter().for_each(|site| self.world.network.set_partition(*site, self.rng.random_range(0..2))),
            4 => self.sites.iter().for_each(|site| self.world.network.set_partition(*site, 0)),
            5 => {
                let site = self.sites[self.rng.random_range(0..self.sites.len())];
                self.world.network.rebind(site);
            }
            6 | 7 => {
                if let Some(host) = self.running() {
                    self.world.sleep(host);
                    let nap = LONGEST_NAP.mul_f64(self.rng.random());
                    self.agenda.push(self.world.now() + nap, Action::Awake(host));
                }
            }
            8 => self.restart(Restart::KeepsState),
            _ => self.restart(Restart::LosesCache),
        }
    }

    fn restart(&mut self, restart: Restart) {
        if let Some(host) = self.running() {
            self.world.restart(host, restart);
            self.begin(host);
        }
    }

    fn awake(&mut self, host: HostId) {
        if !self.world.is_up(host) {
            self.world.awake(host);
        }
    }

    fn publish(&mut self) {
        let Some(host) = self.running() else { return };
        let mut body = vec![0; self.rng.random_range(0..MAX_BODY)];
        self.rng.fill(&mut body[..]);
        let topic = &self.topic;
        let id = self.world.with(host, |stack, now, wall| stack.publish(now, wall, topic, &body)).expect("it fits a message");
        self.received.entry(host).or_default().insert(id);
        self.published.insert(id, (self.world.id(host), body));
    }

    /// Some peer that does not sleep.
    fn running(&mut self) -> Option<HostId> {
        let mut running: Vec<_> = self.members.iter().copied().filter(|host| self.world.is_up(*host)).collect();
        running.shuffle(&mut self.rng);
        running.pop()
    }

    fn end_faults(&mut self) {
        self.world.network.links = Links::default();
        self.sites.iter().for_each(|site| self.world.network.set_partition(*site, 0));
        for host in self.members.clone() {
            self.awake(host);
        }
    }

    /// How many peers hold all of a message.
    fn holders(&self, id: &PacketId) -> usize {
        self.members.iter().filter(|host| self.received[*host].contains(id) && self.world.stack(**host).cache().get(id).is_some()).count()
    }

    /// Runs until everyone has everything and sessions; returns how long that took.
    fn converge(&mut self, expected: &BTreeSet<PacketId>) -> Duration {
        let least = (self.members.len() - 1).min(LEAST_SESSIONS);
        loop {
            let lonely: Vec<_> = self.members.iter().filter(|host| self.world.stack(**host).sessions() < least).collect();
            let missing: Vec<_> =
                self.members.iter().map(|host| (host, expected.difference(&self.received[host]).count())).filter(|(_, n)| *n > 0).collect();
            let took = self.world.now() - FAULTS_UNTIL;
            if lonely.is_empty() && missing.is_empty() {
                return took;
            }
            assert!(took < PEACE, "{took:?} after the last fault: too few sessions at {lonely:?}; messages missing at {missing:?}");
            self.run_world(self.world.now() + CHECK_EVERY);
        }
    }
}

/// How long peers have, after the last fault, until everyone must have everything.
pub const PEACE: Duration = Duration::from_secs(120);
const FAULTS_FROM: Duration = Duration::from_secs(20);
const FAULTS_UNTIL: Duration = Duration::from_secs(140);
const LONGEST_NAP: Duration = Duration::from_secs(60);
const CHECK_EVERY: Duration = Duration::from_millis(100);
const LEAST_SESSIONS: usize = 3;
/// Bytes of a message: one packet, or a head and a few fragments.
const MAX_BODY: usize = 3000;
/// Greatest difference of a wall clock to the true time, in milliseconds.
const MAX_SKEW: i64 = 60_000;
const MAX_PEERS: usize = 100;
const MAX_EVENTS: usize = 10_000;
