//! `eclipse`: attackers that came first, know each other, and let every message fall.
//!
//! The attackers are real nodes whose caches keep and pass on nothing; they follow the topic, so that messages are given to them before others. They arrive before anyone else, seek sessions with each other and with far more peers than an honest
//! one, so that what they name to whoever asks for peers is mostly each other. Then the honest peers arrive, knowing honest public peers. Measured: of 30 messages of honest peers,
//! one a second, the share of deliveries to honest peers, how soon; the share of attackers among the sessions of honest peers.
//!
//! Asked of it: with as many attackers as honest peers (a share of 0.5), 0.99 of deliveries within 10 s.

use core::time::Duration;

use peers_node::Config;
use serde::Serialize;

use super::swarm::Swarm;
use super::{Replay, Share, Spread, is_share, part};
use crate::net::Links;

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Eclipse {
    /// Honest peers behind translators. Default 96.
    pub peers: usize,
    /// Honest public peers beyond those. Default 4.
    pub publics: usize,
    /// Attackers as a share of all, honest public ones not counted; less than 1. Default 0.5.
    pub attackers: f64,
    /// Messages published. Default 30.
    pub publishes: u32,
    /// Bytes of a message. Default 512.
    pub bytes: usize,
    /// Probability that a datagram is lost, per hop. Default 0.
    pub loss: f64,
}

impl Default for Eclipse {
    fn default() -> Self {
        Self { peers: 96, publics: 4, attackers: 0.5, publishes: 30, bytes: 512, loss: 0.0 }
    }
}

/// What one run showed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Pairs of a message and an honest peer, reached within 2.5 s, within 10 s, ever.
    pub reached: [Share; 3],
    /// Seconds that each delivery took.
    pub delivery: Vec<f64>,
    /// Messages that reached all honest peers.
    pub reached_all: Share,
    /// Sessions of honest peers, those of them with attackers (part).
    pub hostile_sessions: Share,
    /// Honest peers all of whose sessions are with attackers.
    pub surrounded: Share,
    /// Attackers that there were.
    pub attackers: u64,
}

/// The figures of one or more runs; see [`Eclipse`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Attackers in a run.
    pub attackers: u64,
    /// Share of deliveries to honest peers, in time.
    pub reached: super::replicate::Reached,
    /// Share of messages that reached all of them.
    pub reached_all: Option<f64>,
    /// Seconds that a delivery took.
    pub delivery_s: Spread,
    /// Share of the sessions of honest peers that are with attackers, when publishing begins.
    pub hostile_sessions: Option<f64>,
    /// Share of the honest peers that have no other.
    pub surrounded: Option<f64>,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

parameters!(Eclipse {
    peers: |n| *n > 1,
    publics: |n| *n > 0,
    attackers: |share| (0.0..=0.95).contains(share),
    publishes: |n| (1..=3600).contains(n),
    bytes: |n| (1..=super::MAX_ONE_PACKET).contains(n),
    loss: is_share,
});

impl Eclipse {
    /// Runs the scenario; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("eclipse", seed, &self.parameters());
        let mut swarm = Swarm::new(seed, self.publics, Links { loss: self.loss, ..Links::default() });
        let count = part(self.attackers / (1.0 - self.attackers), self.peers);
        let mut hostile = Config::default();
        hostile.cache.budget = 0;
        (hostile.cache.publish_to, hostile.cache.relay_to) = (0, 0);
        hostile.nat.target_sessions = count + self.peers;
        let attackers = swarm.arrive_all(count, &hostile);
        for (i, host) in attackers.iter().enumerate() {
            for other in &attackers[..i] {
                let id = swarm.world.id(*other);
                // One that is too many is found through the others.
                let _ = swarm.world.with(*host, |stack, now, wall| stack.connect(now, wall, id, &[]));
            }
        }
        swarm.run(swarm.world.now() + ACQUAINTANCE);
        let honest = swarm.arrive_all(self.peers, &Config::default());
        let start = swarm.world.now() + REST;
        swarm.run(start);
        let ids: std::collections::BTreeSet<_> = attackers.iter().map(|host| swarm.world.id(*host)).collect();
        let mut outcome = Outcome { attackers: count as u64, ..Outcome::default() };
        for host in &honest {
            let stack = swarm.world.stack(*host);
            let with = stack.peers().filter(|peer| ids.contains(&peer.id)).count();
            outcome.hostile_sessions.add(Share { part: with as u64, whole: stack.sessions() as u64 });
            outcome.surrounded.count(with == stack.sessions());
        }
        let mut publishes = Vec::new();
        for i in 0..self.publishes {
            swarm.run(start + EVERY * i);
            if let Some(host) = swarm.any(&honest) {
                publishes.push(swarm.publish(host, self.bytes));
            }
        }
        swarm.run(start + EVERY * self.publishes + WATCH);
        for (within, share) in super::REACHED_WITHIN.iter().zip(&mut outcome.reached) {
            share.add(swarm.deliveries(&publishes, &honest, *within).0);
        }
        outcome.delivery = swarm.deliveries(&publishes, &honest, Duration::MAX).1;
        for publish in &publishes {
            let (share, _) = swarm.deliveries(&[*publish], &honest, Duration::MAX);
            outcome.reached_all.count(share.part == share.whole);
        }
        outcome
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let pool = |of: fn(&Outcome) -> Share| Share::pool(outcomes.iter().map(of)).ratio();
        let (s2_5, s10, end) = (pool(|o| o.reached[0]), pool(|o| o.reached[1]), pool(|o| o.reached[2]));
        Report {
            attackers: outcomes.first().map_or(0, |outcome| outcome.attackers),
            reached: super::replicate::Reached { s2_5, s10, end },
            reached_all: pool(|outcome| outcome.reached_all),
            delivery_s: Spread::of(&outcomes.iter().flat_map(|outcome| &outcome.delivery).copied().collect::<Vec<_>>()),
            hostile_sessions: pool(|outcome| outcome.hostile_sessions),
            surrounded: pool(|outcome| outcome.surrounded),
            wall_s: wall.as_secs_f64(),
        }
    }
}

/// Time for the attackers to get to know each other.
const ACQUAINTANCE: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(40);
const EVERY: Duration = Duration::from_secs(1);
const WATCH: Duration = Duration::from_secs(60);
