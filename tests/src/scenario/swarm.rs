//! A swarm that follows one topic: who came, what was published, who received it and when. What most scenarios have in common.

use core::time::Duration;
use std::collections::BTreeMap;

use hashbrown::HashMap;
use peers_crypto::TopicKey;
use peers_node::{Config, Event, Stack};
use peers_wire::PacketId;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Share, random_nat};
use crate::net::{HostId, Links, SiteId};
use crate::world::World;

pub(super) struct Swarm {
    pub(super) world: World,
    pub(super) rng: ChaCha8Rng,
    pub(super) topic: TopicKey,
    /// They know each other, follow nothing, and are known to everyone who comes.
    pub(super) publics: Vec<HostId>,
    /// Everyone who came, the public ones too.
    pub(super) members: BTreeMap<HostId, Member>,
    pub(super) published: Vec<Published>,
    by_id: HashMap<PacketId, usize>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) arrived: Duration,
    /// When it first had sessions with [`READY_SESSIONS`] peers.
    pub(super) ready: Option<Duration>,
    pub(super) follows: bool,
}

#[derive(Debug)]
pub(super) struct Published {
    pub(super) at: Duration,
    pub(super) by: HostId,
    body: Vec<u8>,
    pub(super) received: BTreeMap<HostId, Duration>,
}

impl Published {
    /// How long it took until `host` had it.
    pub(super) fn took(&self, host: HostId) -> Option<Duration> {
        self.received.get(&host).map(|at| *at - self.at)
    }
}

impl Swarm {
    pub(super) fn new(seed: u64, publics: usize, links: Links) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let topic = TopicKey::from_seed(rng.random());
        let world = World::new(links, rng.random());
        let (members, published, by_id) = (BTreeMap::new(), Vec::new(), HashMap::new());
        let mut swarm = Self { world, rng, topic, publics: Vec::new(), members, published, by_id };
        for _ in 0..publics {
            let site = swarm.world.network.add_site(None);
            let host = swarm.add(site, Config::default(), false);
            swarm.publics.push(host);
        }
        swarm
    }

    /// A fresh peer that knows the public ones.
    pub(super) fn add(&mut self, site: SiteId, config: Config, follows: bool) -> HostId {
        let host = self.world.add_peer(site, config, 0);
        self.members.insert(host, Member { arrived: self.world.now(), ready: None, follows });
        for public in self.publics.clone() {
            self.world.introduce(host, public);
        }
        if follows {
            let key = self.topic.read_key();
            self.world.with(host, |stack, now, wall| stack.subscribe(now, wall, key));
        }
        host
    }

    /// A fresh peer behind a translator of its own, of any kind.
    pub(super) fn arrive(&mut self, config: Config, follows: bool) -> HostId {
        let site = self.world.network.add_site(Some(random_nat(&mut self.rng)));
        self.add(site, config, follows)
    }

    /// So many of them, spread over [`ARRIVALS`] from now; returns with the time past that.
    pub(super) fn arrive_all(&mut self, count: usize, config: &Config) -> Vec<HostId> {
        let start = self.world.now();
        let mut times: Vec<Duration> = (0..count).map(|_| start + ARRIVALS.mul_f64(self.rng.random())).collect();
        times.sort();
        let arrive = |at| {
            self.run(at);
            self.arrive(config.clone(), true)
        };
        let hosts = times.into_iter().map(arrive).collect();
        self.run(start + ARRIVALS);
        hosts
    }

    /// Runs until `until`, and notes who became ready and who received what.
    pub(super) fn run(&mut self, until: Duration) {
        self.run_with(until, |_, _| {});
    }

    /// As [`Swarm::run`], and tells of each delivery: to whom, and the number of the publish.
    pub(super) fn run_with(&mut self, until: Duration, mut delivered: impl FnMut(HostId, usize)) {
        while let Some((host, event)) = self.world.next(until) {
            let now = self.world.now();
            match event {
                Event::Connected { .. } if self.world.stack(host).sessions() >= READY_SESSIONS => {
                    if let Some(member) = self.members.get_mut(&host) {
                        member.ready.get_or_insert(now);
                    }
                }
                Event::Message(message) => {
                    let Some(i) = self.by_id.get(&message.id).copied() else { continue };
                    assert_eq!(message.payload, self.published[i].body, "a message arrives as it was published");
                    if self.published[i].received.insert(host, now).is_none() {
                        delivered(host, i);
                    }
                }
                _ => {}
            }
        }
    }

    /// Has `host` publish `bytes` random bytes on the topic; returns the number of the publish.
    pub(super) fn publish(&mut self, host: HostId, bytes: usize) -> usize {
        let (at, mut body) = (self.world.now(), vec![0; bytes]);
        self.rng.fill(&mut body[..]);
        let topic = &self.topic;
        let id = self.world.with(host, |stack, now, wall| stack.publish(now, wall, topic, &body)).expect("it fits a message");
        self.by_id.insert(id, self.published.len());
        self.published.push(Published { at, by: host, body, received: BTreeMap::from([(host, at)]) });
        self.published.len() - 1
    }

    /// Those who follow the topic, are ready and do not sleep.
    pub(super) fn ready(&self) -> Vec<HostId> {
        let ready =
            |(host, member): (&HostId, &Member)| (member.follows && member.ready.is_some() && self.world.is_up(*host)).then_some(*host);
        self.members.iter().filter_map(ready).collect()
    }

    /// One of `hosts`.
    pub(super) fn any(&mut self, hosts: &[HostId]) -> Option<HostId> {
        hosts.choose(&mut self.rng).copied()
    }

    /// Of the pairs of a publish in `publishes` and one of `hosts` other than its author, those that came to a delivery within `within`, and the time of each that did at all.
    pub(super) fn deliveries(&self, publishes: &[usize], hosts: &[HostId], within: Duration) -> (Share, Vec<f64>) {
        let (mut share, mut times) = (Share::default(), Vec::new());
        for publish in publishes.iter().map(|i| &self.published[*i]) {
            for host in hosts.iter().filter(|host| **host != publish.by) {
                let took = publish.took(*host);
                share.count(took.is_some_and(|took| took <= within));
                times.extend(took.map(|took| took.as_secs_f64()));
            }
        }
        (share, times)
    }

    /// Packets that arrived at caches, those of them that were new, and those that were sent, of all who are there.
    pub(super) fn payloads(&self) -> Payloads {
        self.world.stacks().fold(Payloads::default(), |sum, (_, stack)| sum.plus(Payloads::of(stack)))
    }
}

/// Payload counters of one or more stacks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Payloads {
    pub(super) received: u64,
    pub(super) new: u64,
    pub(super) sent: u64,
}

impl Payloads {
    pub(super) fn of(stack: &Stack) -> Self {
        let stats = stack.stats().cache;
        let refused = stats.duplicates + stats.untimely + stats.stale + stats.forged;
        Self { received: stats.packets, new: stats.packets - refused, sent: stats.pushed + stats.served }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self { received: self.received + other.received, new: self.new + other.new, sent: self.sent + other.sent }
    }

    pub(super) const fn since(self, before: Self) -> Self {
        Self { received: self.received - before.received, new: self.new - before.new, sent: self.sent - before.sent }
    }
}

/// Time over which those arrive who are there from the start.
pub(super) const ARRIVALS: Duration = Duration::from_secs(20);
pub(super) const READY_SESSIONS: usize = 3;
