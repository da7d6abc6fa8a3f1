//! `slowlinks`: some peers have slow uplinks and downlinks.
//!
//! Every peer follows one topic, on which random fast peers publish `rate` messages a second of several packets each. A share of the peers sends and receives no more than `speed` bytes a second, with half a second of queue before each direction.
//! Measured: the share of deliveries to slow and to fast peers, how soon, and the same of a run of the same seed without slow links.
//!
//! Asked of it: everyone gets everything, and fast peers wait no more than a tenth longer (median), or a half (99 of 100), than without slow ones.

use core::time::Duration;

use peers_node::Config;
use serde::Serialize;

use super::swarm::Swarm;
use super::{Replay, Share, Spread, is_share, part};
use crate::net::Links;

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Slowlinks {
    /// Peers behind translators. Default 96.
    pub peers: usize,
    /// Public peers beyond those. Default 4.
    pub publics: usize,
    /// Share of the peers that are slow. Default 0.3.
    pub slow: f64,
    /// Bytes a second that a slow peer sends, and receives, at most. Default 64000.
    pub speed: u64,
    /// Messages a second. Default 2.
    pub rate: f64,
    /// Messages published. Default 60.
    pub publishes: u32,
    /// Bytes of a message. Default 4096.
    pub bytes: usize,
    /// Probability that a datagram is lost, per hop. Default 0.
    pub loss: f64,
}

impl Default for Slowlinks {
    fn default() -> Self {
        Self { peers: 96, publics: 4, slow: 0.3, speed: 64_000, rate: 2.0, publishes: 60, bytes: 4096, loss: 0.0 }
    }
}

/// What one run showed: deliveries to all without slow links, to the fast with them, and to the slow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Deliveries in the end.
    pub delivered: [Share; 3],
    /// Seconds that each took.
    pub delivery: [Vec<f64>; 3],
    /// Datagrams that a full queue of a slow link dropped, and all that were sent.
    pub dropped: Share,
}

/// The figures of one or more runs; see [`Slowlinks`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// To all, in a run without slow links.
    pub without: Group,
    /// To fast peers.
    pub fast: Group,
    /// To slow ones.
    pub slow: Group,
    /// How many times as long fast peers wait: the median, and 99 of 100.
    pub slowdown_p50: Option<f64>,
    /// The same of the 99th percentile.
    pub slowdown_p99: Option<f64>,
    /// Share of all datagrams that full queues dropped.
    pub dropped: Option<f64>,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

/// Deliveries to a group of peers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Share that happened.
    pub delivered: Option<f64>,
    /// Seconds that they took.
    pub delivery_s: Spread,
}

parameters!(Slowlinks {
    peers: |n| *n > 1,
    publics: |n| *n > 0,
    slow: is_share,
    speed: |n| *n > 0,
    rate: |n| n.is_finite() && *n > 0.0,
    publishes: |n| (1..=86_400).contains(n),
    bytes: |n| (1..=1 << 20).contains(n),
    loss: is_share,
});

impl Slowlinks {
    /// Runs the scenario twice, without slow links and with them; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("slowlinks", seed, &self.parameters());
        let mut outcome = Outcome::default();
        self.once(seed, 0.0, &mut outcome);
        self.once(seed, self.slow, &mut outcome);
        outcome
    }

    fn once(&self, seed: u64, share: f64, outcome: &mut Outcome) {
        let mut swarm = Swarm::new(seed, self.publics, Links { loss: self.loss, ..Links::default() });
        let hosts = swarm.arrive_all(self.peers, &Config::default());
        let (slow, fast) = hosts.split_at(part(share, hosts.len()));
        slow.iter().for_each(|host| swarm.world.network.set_rate(*host, Some(self.speed)));
        let every = Duration::from_secs(1).div_f64(self.rate);
        let mut publishes = Vec::new();
        for i in 0..self.publishes {
            swarm.run(START + every * i);
            // The same ones publish in both runs.
            let after = &hosts[part(self.slow, hosts.len())..];
            if let Some(host) = swarm.any(after) {
                publishes.push(swarm.publish(host, self.bytes));
            }
        }
        swarm.run(START + every * self.publishes + WATCH);
        let groups: &[(usize, &[_])] = if share == 0.0 { &[(0, fast)] } else { &[(1, fast), (2, slow)] };
        for (group, hosts) in groups {
            (outcome.delivered[*group], outcome.delivery[*group]) = swarm.deliveries(&publishes, hosts, Duration::MAX);
        }
        if share > 0.0 {
            let network = &swarm.world.network;
            outcome.dropped = Share { part: network.drops().queue_full, whole: network.total().sent };
        }
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let group = |i: usize| Group {
            delivered: Share::pool(outcomes.iter().map(|outcome| outcome.delivered[i])).ratio(),
            delivery_s: Spread::of(&outcomes.iter().flat_map(|outcome| &outcome.delivery[i]).copied().collect::<Vec<_>>()),
        };
        let (without, fast, slow) = (group(0), group(1), group(2));
        let slowdown = |of: fn(&Spread) -> Option<f64>| Some(of(&fast.delivery_s)? / of(&without.delivery_s)?);
        Report {
            slowdown_p50: slowdown(|spread| spread.p50),
            slowdown_p99: slowdown(|spread| spread.p99),
            dropped: Share::pool(outcomes.iter().map(|outcome| outcome.dropped)).ratio(),
            without,
            fast,
            slow,
            wall_s: wall.as_secs_f64(),
        }
    }
}

const START: Duration = Duration::from_secs(60);
/// Time for what is still on its way.
const WATCH: Duration = Duration::from_secs(60);
