//! `replicate`: does every publish reach every subscriber, how soon, and at what cost?
//!
//! Peers behind translators arrive over 20 s, know four public peers, and half of them subscribe to one topic. From 100 s on, random ready subscribers
//! publish, one message a second. With churn, sessions end from 60 s on, silently, and each leaver is replaced at once by a fresh peer.
//! A peer is *ready* from when it first has sessions with 3 peers.

use core::time::Duration;

use hashbrown::HashMap;
use peers_crypto::TopicKey;
use peers_node::Event;
use peers_wire::PacketId;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::swarm::{ARRIVALS, Payloads, READY_SESSIONS};
use super::{REACHED_WITHIN, Replay, Share, Spread, exponential, is_share, random_nat};
use crate::net::{HostId, Links};
use crate::queue::Queue;
use crate::world::World;

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Replicate {
    /// Peers behind translators. Default 128.
    pub peers: usize,
    /// Public peers beyond those; they never leave and do not subscribe. Default 4.
    pub publics: usize,
    /// Mean departures of each peer per minute, from 60 s on. Default 0.
    pub churn: f64,
    /// Probability that a datagram is lost, per hop. Default 0.
    pub loss: f64,
    /// Probability that a peer subscribes. Default 0.5.
    pub subscribers: f64,
    /// Messages published. Default 30.
    pub publishes: u32,
    /// Bytes of a message. Default 512.
    pub bytes: usize,
    /// Greatest difference of a wall clock to the true time, in milliseconds; uniform. Default 0.
    pub skew: i64,
    /// Public peers that each peer knows from the start, where there are more of them. Default 4.
    pub known: usize,
    /// Neighbours that a publisher pushes its packets to. Default as in [`peers_cache::Config`].
    pub publish_to: usize,
    /// Neighbours that a first receiver pushes a packet on to. Default as in [`peers_cache::Config`].
    pub relay_to: usize,
}

impl Default for Replicate {
    fn default() -> Self {
        let peers_cache::Config { publish_to, relay_to, .. } = peers_cache::Config::default();
        Self {
            peers: 128,
            publics: 4,
            churn: 0.0,
            loss: 0.0,
            subscribers: 0.5,
            publishes: 30,
            bytes: 512,
            skew: 0,
            known: 4,
            publish_to,
            relay_to,
        }
    }
}

/// What one run showed, as samples that can be pooled with those of other runs. Times in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Publishes that reached all of those they had to reach.
    pub reached_all: Share,
    /// For each of those, the time until the last was reached.
    pub time_to_all: Vec<f64>,
    /// The time of each delivery to one of those who had to be reached.
    pub delivery: Vec<f64>,
    /// Pairs of a publish and one who had to be reached, reached within 2.5 s, within 10 s, ever.
    pub reached: [Share; 3],
    /// Subscribers online 60 s after a publish that hold it; of these, the ready ones.
    pub held: [Share; 2],
    /// Receptions of payloads (part) and first receptions (whole).
    pub copies: Share,
    /// Datagrams (part) while publishing, publishes (whole).
    pub publish_datagrams: Share,
    /// Datagrams (part) between 60 and 100 s, times peers and seconds (whole); nothing with churn.
    pub idle_datagrams: Share,
    /// The time from arrival to being ready, of each peer that became so.
    pub ready: Vec<f64>,
    /// Packets that the public peers sent (part), that all sent (whole); all are of one size.
    pub public_sent: Share,
}

/// The figures of one or more runs; see [`Replicate`]. `None` where there is nothing to judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Messages published.
    pub publishes: u64,
    /// Share of them that reached all: every subscriber but the publisher, ready at the publish and online for at least 10 s more.
    pub reached_all: Option<f64>,
    /// Seconds until the last was reached, of publishes that reached all.
    pub time_to_all_s: Spread,
    /// Seconds until each was reached.
    pub delivery_s: Percentiles,
    /// Share of those to be reached that were, in time.
    pub reached: Reached,
    /// Share of subscribers online 60 s after a publish that hold it.
    pub held_60s: Held,
    /// Payload receptions by peers that received it.
    pub payload_copies_per_peer: Option<f64>,
    /// Datagrams of all peers, for whatever purpose, from the first publish to one second after the last, per publish.
    pub datagrams_per_publish: Option<f64>,
    /// Datagrams of all peers before the first publish, without churn.
    pub idle_datagrams_per_peer_per_s: Option<f64>,
    /// Seconds from arrival until there are sessions with 3 peers.
    pub ready_s: MeanP99,
    /// Share of payload bytes that the caches of the public peers sent.
    pub public_share: Option<f64>,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

/// Median and 99th percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

/// Mean and 99th percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanP99 {
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

/// Shares reached in time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reached {
    /// Within 2.5 s.
    pub s2_5: Option<f64>,
    /// Within 10 s.
    pub s10: Option<f64>,
    /// Before leaving or the end.
    pub end: Option<f64>,
}

/// Shares that hold a message.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Held {
    /// Of all subscribers online.
    pub online: Option<f64>,
    /// Of the ready ones among them.
    pub ready: Option<f64>,
}

parameters!(Replicate {
    peers: |n| *n > 0,
    publics: |n| *n > 0,
    churn: |c| c.is_finite() && *c >= 0.0,
    loss: is_share,
    subscribers: is_share,
    publishes: |n| (1..=MAX_PUBLISHES).contains(n),
    bytes: |n| (1..=MAX_BYTES).contains(n),
    skew: |n| (0..=MAX_SKEW).contains(n),
    known: |n| *n > 0,
    publish_to: |n| *n <= MAX_PUSHES,
    relay_to: |n| *n <= MAX_PUSHES,
});

impl Replicate {
    /// Runs the scenario; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("replicate", seed, &self.parameters());
        Run::new(self, seed).run()
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let pooled = pool(outcomes);
        let (delivery, ready) = (Spread::of(&pooled.delivery), Spread::of(&pooled.ready));
        let [s2_5, s10, end] = pooled.reached.map(Share::ratio);
        let [online, held_ready] = pooled.held.map(Share::ratio);
        Report {
            publishes: pooled.reached_all.whole,
            reached_all: pooled.reached_all.ratio(),
            time_to_all_s: Spread::of(&pooled.time_to_all),
            delivery_s: Percentiles { p50: delivery.p50, p99: delivery.p99 },
            reached: Reached { s2_5, s10, end },
            held_60s: Held { online, ready: held_ready },
            payload_copies_per_peer: pooled.copies.ratio(),
            datagrams_per_publish: pooled.publish_datagrams.ratio(),
            idle_datagrams_per_peer_per_s: pooled.idle_datagrams.ratio(),
            ready_s: MeanP99 { mean: ready.mean, p99: ready.p99 },
            public_share: pooled.public_sent.ratio(),
            wall_s: wall.as_secs_f64(),
        }
    }
}

fn pool(outcomes: &[Outcome]) -> Outcome {
    let mut pooled = Outcome::default();
    for outcome in outcomes {
        pooled.time_to_all.extend(&outcome.time_to_all);
        pooled.delivery.extend(&outcome.delivery);
        pooled.ready.extend(&outcome.ready);
        for (all, one) in pooled.reached.iter_mut().chain(&mut pooled.held).zip(outcome.reached.iter().chain(&outcome.held)) {
            all.add(*one);
        }
        pooled.reached_all.add(outcome.reached_all);
        pooled.copies.add(outcome.copies);
        pooled.publish_datagrams.add(outcome.publish_datagrams);
        pooled.idle_datagrams.add(outcome.idle_datagrams);
        pooled.public_sent.add(outcome.public_sent);
    }
    pooled
}

/// What the harness does at a given time.
#[derive(Debug)]
enum Action {
    Arrive,
    Leave(HostId),
    StartChurn,
    StartIdle,
    EndIdle,
    Publish,
    CountHolders(usize),
    EndPublishing,
}

/// What the harness knows of a peer.
#[derive(Debug)]
struct Member {
    subscribed: bool,
    arrived: Duration,
    ready: Option<Duration>,
    leaves: Duration,
    /// When it received each publish; the publisher, when it published.
    received: Vec<Option<Duration>>,
}

#[derive(Debug)]
struct Publish {
    at: Duration,
    /// Everyone it has to reach.
    all: Vec<HostId>,
    body: Vec<u8>,
}

struct Run<'a> {
    scenario: &'a Replicate,
    rng: ChaCha8Rng,
    topic: TopicKey,
    world: World,
    agenda: Queue<Action>,
    publics: Vec<HostId>,
    /// By host; the public peers subscribe to nothing.
    members: Vec<Member>,
    publishes: Vec<Publish>,
    by_id: HashMap<PacketId, usize>,
    /// Counters of those who left.
    gone: Payloads,
    outcome: Outcome,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Replicate, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let topic = TopicKey::from_seed(rng.random());
        let world = World::new(Links { loss: scenario.loss, ..Links::default() }, rng.random());
        let mut run = Self {
            scenario,
            rng,
            topic,
            world,
            agenda: Queue::default(),
            publics: Vec::new(),
            members: Vec::new(),
            publishes: Vec::new(),
            by_id: HashMap::new(),
            gone: Payloads::default(),
            outcome: Outcome::default(),
        };
        run.plan();
        run
    }

    fn plan(&mut self) {
        for _ in 0..self.scenario.publics {
            let site = self.world.network.add_site(None);
            let host = self.add_member(site, false);
            self.publics.push(host);
        }
        for _ in 0..self.scenario.peers {
            let at = ARRIVALS.mul_f64(self.rng.random());
            self.agenda.push(at, Action::Arrive);
        }
        if self.scenario.churn > 0.0 {
            self.agenda.push(CHURN_FROM, Action::StartChurn);
        }
        self.agenda.push(IDLE_FROM, Action::StartIdle);
        self.agenda.push(PUBLISH_FROM, Action::EndIdle);
        for i in 0..self.scenario.publishes {
            let at = PUBLISH_FROM + EVERY * i;
            self.agenda.push(at, Action::Publish);
            self.agenda.push(at + HELD_AFTER, Action::CountHolders(i as usize));
        }
        self.agenda.push(PUBLISH_FROM + EVERY * self.scenario.publishes, Action::EndPublishing);
    }

    fn run(mut self) -> Outcome {
        let end = PUBLISH_FROM + EVERY * (self.scenario.publishes - 1) + WATCH;
        let mut before = Payloads::default();
        let mut public_before = 0;
        let mut datagrams = 0;
        while let Some((at, action)) = self.agenda.pop(end) {
            self.run_world(at);
            match action {
                Action::Arrive => self.arrive(),
                Action::Leave(host) => self.leave(host),
                Action::StartChurn => self.start_churn(),
                Action::StartIdle => datagrams = self.world.network.total().sent,
                Action::EndIdle => {
                    let sent = self.world.network.total().sent;
                    if self.scenario.churn == 0.0 {
                        let whole = (self.scenario.peers + self.scenario.publics) as u64 * (PUBLISH_FROM - IDLE_FROM).as_secs();
                        self.outcome.idle_datagrams = Share { part: sent - datagrams, whole };
                    }
                    (datagrams, before, public_before) = (sent, self.payloads(), self.public_sent());
                }
                Action::Publish => self.publish(),
                Action::CountHolders(i) => self.count_holders(i),
                Action::EndPublishing => {
                    let sent = self.world.network.total().sent - datagrams;
                    self.outcome.publish_datagrams = Share { part: sent, whole: self.publishes.len() as u64 };
                }
            }
        }
        self.run_world(end);
        let after = self.payloads();
        let since = after.since(before);
        self.outcome.copies = Share { part: since.received, whole: since.new };
        self.outcome.public_sent = Share { part: self.public_sent() - public_before, whole: since.sent };
        self.judge()
    }

    fn run_world(&mut self, until: Duration) {
        while let Some((host, event)) = self.world.next(until) {
            let now = self.world.now();
            let member = &mut self.members[host.0];
            match event {
                Event::Connected { .. } if member.ready.is_none() && self.world.stack(host).sessions() >= READY_SESSIONS => {
                    member.ready = Some(now);
                    if !self.publics.contains(&host) {
                        self.outcome.ready.push((now - member.arrived).as_secs_f64());
                    }
                }
                Event::Message(message) => {
                    let i = self.by_id.get(&message.id).copied().expect("only what was published is received");
                    assert_eq!(message.payload, self.publishes[i].body, "a message arrives as it was published");
                    member.received[i].get_or_insert(now);
                }
                _ => {}
            }
        }
    }

    fn add_member(&mut self, site: crate::net::SiteId, subscribed: bool) -> HostId {
        let skew = self.rng.random_range(-self.scenario.skew..=self.scenario.skew);
        let mut config = peers_node::Config::default();
        (config.cache.publish_to, config.cache.relay_to) = (self.scenario.publish_to, self.scenario.relay_to);
        if self.publics.len() < self.scenario.publics {
            // Whoever runs a public peer for so many gives it room for them: leavers keep their place until they are missed.
            config.nat.max_sessions = config.nat.max_sessions.max(2 * self.scenario.peers);
        }
        let host = self.world.add_peer(site, config, skew);
        let received = vec![None; self.scenario.publishes as usize];
        self.members.push(Member { subscribed, arrived: self.world.now(), ready: None, leaves: Duration::MAX, received });
        let mut known = self.publics.clone();
        if known.len() > self.scenario.known {
            known.shuffle(&mut self.rng);
            known.truncate(self.scenario.known);
        }
        for public in known {
            self.world.introduce(host, public);
        }
        if subscribed {
            let key = self.topic.read_key();
            self.world.with(host, |stack, now, wall| stack.subscribe(now, wall, key));
        }
        host
    }

    fn arrive(&mut self) {
        let site = self.world.network.add_site(Some(random_nat(&mut self.rng)));
        let subscribed = self.rng.random_bool(self.scenario.subscribers);
        let host = self.add_member(site, subscribed);
        if self.world.now() >= CHURN_FROM {
            self.plan_departure(host);
        }
    }

    fn start_churn(&mut self) {
        for host in self.publics.len()..self.members.len() {
            self.plan_departure(HostId(host));
        }
    }

    fn plan_departure(&mut self, host: HostId) {
        let leaves = self.world.now() + exponential(Duration::from_secs(60).div_f64(self.scenario.churn), &mut self.rng);
        self.members[host.0].leaves = leaves;
        self.agenda.push(leaves, Action::Leave(host));
    }

    fn leave(&mut self, host: HostId) {
        if let Some(stack) = self.world.remove_peer(host) {
            self.gone = self.gone.plus(Payloads::of(&stack));
        }
        self.arrive();
    }

    fn publish(&mut self) {
        let (i, now) = (self.publishes.len(), self.world.now());
        let ready: Vec<_> = (0..self.members.len()).map(HostId).filter(|host| self.members[host.0].is_ready_subscriber(now)).collect();
        let stays = |host: &&HostId, least| self.members[host.0].leaves >= now + least;
        let publishers: Vec<_> = ready.iter().filter(|host| stays(host, PUBLISHER_STAYS)).collect();
        if publishers.is_empty() {
            return;
        }
        let publisher = *publishers[self.rng.random_range(0..publishers.len())];
        let all = ready.iter().filter(|host| **host != publisher && stays(host, RECEIVER_STAYS)).copied().collect();
        let mut body = vec![0; self.scenario.bytes];
        self.rng.fill(&mut body[..]);
        let id = self.world.with(publisher, |stack, now, wall| stack.publish(now, wall, &self.topic, &body)).expect("it fits a message");
        self.by_id.insert(id, i);
        self.members[publisher.0].received[i] = Some(now);
        self.publishes.push(Publish { at: now, all, body });
    }

    fn count_holders(&mut self, i: usize) {
        if i >= self.publishes.len() {
            return;
        }
        let now = self.world.now();
        let [online, ready] = &mut self.outcome.held;
        for member in self.members.iter().filter(|member| member.subscribed && member.leaves > now) {
            let holds = member.received[i].is_some();
            online.count(holds);
            if member.ready.is_some() {
                ready.count(holds);
            }
        }
    }

    fn payloads(&self) -> Payloads {
        self.world.stacks().fold(self.gone, |sum, (_, stack)| sum.plus(Payloads::of(stack)))
    }

    fn public_sent(&self) -> u64 {
        self.publics.iter().map(|host| Payloads::of(self.world.stack(*host)).sent).sum()
    }

    fn judge(mut self) -> Outcome {
        for (i, publish) in self.publishes.iter().enumerate() {
            let mut last = Some(Duration::ZERO);
            for host in &publish.all {
                let took = self.members[host.0].received[i].map(|at| at - publish.at);
                self.outcome.delivery.extend(took.map(|took| took.as_secs_f64()));
                for (within, share) in REACHED_WITHIN.iter().zip(&mut self.outcome.reached) {
                    share.count(took.is_some_and(|took| took <= *within));
                }
                last = last.zip(took).map(|(last, took)| last.max(took));
            }
            self.outcome.reached_all.count(last.is_some());
            self.outcome.time_to_all.extend(last.map(|last| last.as_secs_f64()));
        }
        self.outcome
    }
}

impl Member {
    fn is_ready_subscriber(&self, now: Duration) -> bool {
        self.subscribed && self.ready.is_some() && self.leaves > now
    }
}

const CHURN_FROM: Duration = Duration::from_secs(60);
const IDLE_FROM: Duration = Duration::from_secs(60);
const PUBLISH_FROM: Duration = Duration::from_secs(100);
const EVERY: Duration = Duration::from_secs(1);
const HELD_AFTER: Duration = Duration::from_secs(60);
const WATCH: Duration = Duration::from_secs(62);
const PUBLISHER_STAYS: Duration = Duration::from_secs(1);
const RECEIVER_STAYS: Duration = Duration::from_secs(10);
/// Most publishes: a day of them.
const MAX_PUBLISHES: u32 = 86_400;
/// Largest message of the scenario: one packet or a few.
const MAX_BYTES: usize = 1 << 16;
/// Most neighbours that a packet is pushed to: all that a cache has.
const MAX_PUSHES: usize = peers_cache::MAX_NEIGHBOURS;
/// Largest clock difference of the scenario: a day.
const MAX_SKEW: i64 = 86_400_000;
