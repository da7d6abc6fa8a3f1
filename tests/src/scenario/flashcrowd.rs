//! `flashcrowd`: a small swarm that follows a topic, and a crowd that comes all at once.
//!
//! `peers` are there from the start. At 60 s `crowd` more come within `within` seconds, behind translators, knowing nothing but the public peers; they follow the topic. One of those from the start publishes each second, from 10 s
//! before the crowd comes until 60 s after. Measured: how soon a newcomer is ready (has sessions with three peers) and how soon it has its first message; whether each publish reaches everyone who was
//! ready at the time, how soon, and how much later than before the crowd came; what the public peers bear, in the worst second.
//!
//! Asked of it: newcomers are ready within 0.5 s (99 of 100 of them), 0.999 of deliveries happen, and no public peer sends more than 10 Mbit/s.

use core::time::Duration;

use peers_node::Config;
use rand::RngExt;
use serde::Serialize;

use super::swarm::Swarm;
use super::{Replay, Share, Spread, is_share};
use crate::net::{HostId, Links};

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Flashcrowd {
    /// Peers behind translators that are there from the start. Default 64.
    pub peers: usize,
    /// Public peers beyond those. Default 4.
    pub publics: usize,
    /// Peers that come. Default 1000.
    pub crowd: usize,
    /// Seconds within which they come. Default 10.
    pub within: u32,
    /// Bytes of a message. Default 512.
    pub bytes: usize,
    /// Probability that a datagram is lost, per hop. Default 0.
    pub loss: f64,
}

impl Default for Flashcrowd {
    fn default() -> Self {
        Self { peers: 64, publics: 4, crowd: 1000, within: 10, bytes: 512, loss: 0.0 }
    }
}

/// What one run showed. Times in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Newcomers that were ready in the end.
    pub ready: Share,
    /// Until each was.
    pub ready_in: Vec<f64>,
    /// Until each had its first message.
    pub first_message: Vec<f64>,
    /// Deliveries to those who were ready at a publish: before the crowd, and from its arrival on.
    pub delivered: [Share; 2],
    /// How long each took.
    pub delivery: [Vec<f64>; 2],
    /// Bytes that a public peer sent in each second, of the busiest one.
    pub public_bytes: u64,
    /// Datagrams that it sent in its busiest second.
    pub public_datagrams: u64,
    /// Most sessions of a public peer.
    pub public_sessions: u64,
}

/// The figures of one or more runs; see [`Flashcrowd`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Share of the newcomers that became ready.
    pub ready: Option<f64>,
    /// Seconds until they were.
    pub ready_s: Spread,
    /// Seconds until they had a message.
    pub first_message_s: Spread,
    /// Share of deliveries that happened, before the crowd came.
    pub delivered_before: Option<f64>,
    /// The same from its arrival on.
    pub delivered: Option<f64>,
    /// Seconds that a delivery took, before the crowd came.
    pub delivery_before_s: Spread,
    /// The same from its arrival on.
    pub delivery_s: Spread,
    /// Most bytes that a public peer sent in a second.
    pub public_bytes_per_s_max: u64,
    /// Most datagrams.
    pub public_datagrams_per_s_max: u64,
    /// Most sessions that one had.
    pub public_sessions_max: u64,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

parameters!(Flashcrowd {
    peers: |n| *n > 0,
    publics: |n| *n > 0,
    crowd: |n| *n > 0,
    within: |n| (1..=3600).contains(n),
    bytes: |n| (1..=super::MAX_ONE_PACKET).contains(n),
    loss: is_share,
});

impl Flashcrowd {
    /// Runs the scenario; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("flashcrowd", seed, &self.parameters());
        let mut swarm = Swarm::new(seed, self.publics, Links { loss: self.loss, ..Links::default() });
        let first = swarm.arrive_all(self.peers, &Config::default());
        let within = Duration::from_secs(self.within.into());
        let mut arrivals: Vec<Duration> = (0..self.crowd).map(|_| CROWD + within.mul_f64(swarm.rng.random())).collect();
        arrivals.sort_by(|a, b| b.cmp(a));
        let (mut crowd, mut outcome) = (Vec::new(), Outcome::default());
        let mut had: Vec<Vec<HostId>> = Vec::new();
        let (start, end) = ((CROWD - BEFORE).as_secs(), (CROWD + within + AFTER).as_secs());
        swarm.run(CROWD - BEFORE);
        let mut before = swarm.publics.iter().map(|host| swarm.world.network.traffic(*host)).collect::<Vec<_>>();
        for second in start..end {
            had.push(swarm.ready());
            if let Some(host) = swarm.any(&first) {
                swarm.publish(host, self.bytes);
            }
            let next = Duration::from_secs(second + 1);
            while let Some(at) = arrivals.pop_if(|at| *at < next) {
                swarm.run(at);
                crowd.push(swarm.arrive(Config::default(), true));
            }
            swarm.run(next);
            for (host, before) in swarm.publics.iter().zip(&mut before) {
                let now = swarm.world.network.traffic(*host);
                outcome.public_bytes = outcome.public_bytes.max(now.sent_bytes - before.sent_bytes);
                outcome.public_datagrams = outcome.public_datagrams.max(now.sent - before.sent);
                outcome.public_sessions = outcome.public_sessions.max(swarm.world.stack(*host).sessions() as u64);
                *before = now;
            }
        }
        swarm.run(Duration::from_secs(end) + LAST);
        for (i, had) in had.iter().enumerate() {
            let phase = usize::from(swarm.published[i].at >= CROWD);
            let (share, times) = swarm.deliveries(&[i], had, Duration::MAX);
            outcome.delivered[phase].add(share);
            outcome.delivery[phase].extend(times);
        }
        for host in &crowd {
            let member = &swarm.members[host];
            outcome.ready.count(member.ready.is_some());
            outcome.ready_in.extend(member.ready.map(|ready| (ready - member.arrived).as_secs_f64()));
            let first = swarm.published.iter().filter_map(|publish| publish.received.get(host)).min();
            outcome.first_message.extend(first.map(|first| (*first - member.arrived).as_secs_f64()));
        }
        outcome
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let pool = |of: fn(&Outcome) -> Share| Share::pool(outcomes.iter().map(of)).ratio();
        let all = |of: fn(&Outcome) -> &Vec<f64>| Spread::of(&outcomes.iter().flat_map(of).copied().collect::<Vec<_>>());
        let most = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).max().unwrap_or(0);
        Report {
            ready: pool(|outcome| outcome.ready),
            ready_s: all(|outcome| &outcome.ready_in),
            first_message_s: all(|outcome| &outcome.first_message),
            delivered_before: pool(|outcome| outcome.delivered[0]),
            delivered: pool(|outcome| outcome.delivered[1]),
            delivery_before_s: all(|outcome| &outcome.delivery[0]),
            delivery_s: all(|outcome| &outcome.delivery[1]),
            public_bytes_per_s_max: most(|outcome| outcome.public_bytes),
            public_datagrams_per_s_max: most(|outcome| outcome.public_datagrams),
            public_sessions_max: most(|outcome| outcome.public_sessions),
            wall_s: wall.as_secs_f64(),
        }
    }
}

/// When the crowd comes.
const CROWD: Duration = Duration::from_secs(60);
/// How long is published before it comes, and after it has come.
const BEFORE: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(60);
/// Time for the last publish.
const LAST: Duration = Duration::from_secs(10);
