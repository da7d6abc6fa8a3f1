//! `flood`: a tenth of the peers publish a hundred times as much as the others.
//!
//! Every peer follows one topic. Honest peers publish `rate` messages a minute each; flooders `factor` times as many, a `shared` part of them on the topic of all (they are writers, so that everyone has
//! to take them), the rest on topics of their own, which burden caches alone. Caches are small, so that the flood overflows them within the run, and some honest peers are away during the second half and come back
//! in the end with what they had. Measured: deliveries of honest messages to honest peers that are there, within 10 s, and to those who come back, within a minute; both beside a run of the same seed in which
//! flooders publish as everyone does.
//!
//! Asked of it: the flood costs less than 5 points of either.

use core::time::Duration;

use peers_crypto::TopicKey;
use peers_node::Config;
use rand::RngExt;
use serde::Serialize;

use super::swarm::Swarm;
use super::{Replay, Share, Spread, exponential, is_share, part};
use crate::net::{HostId, Links};
use crate::queue::Queue;

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Flood {
    /// Peers behind translators. Default 64.
    pub peers: usize,
    /// Public peers beyond those. Default 4.
    pub publics: usize,
    /// Share of the peers that flood. Default 0.1.
    pub flooders: f64,
    /// How many times as much they publish. Default 100.
    pub factor: f64,
    /// Share of the flood that is on the topic of all. Default 0.5.
    pub shared: f64,
    /// Messages that an honest peer publishes a minute. Default 1.
    pub rate: f64,
    /// Minutes of publishing. Default 6.
    pub minutes: u32,
    /// Share of the honest peers that are away in the second half. Default 0.2.
    pub away: f64,
    /// Bytes of every cache. Default 1 MiB.
    pub cache: usize,
    /// Bytes of a message. Default 512.
    pub bytes: usize,
}

impl Default for Flood {
    fn default() -> Self {
        Self {
            peers: 64,
            publics: 4,
            flooders: 0.1,
            factor: 100.0,
            shared: 0.5,
            rate: 1.0,
            minutes: 6,
            away: 0.2,
            cache: 1 << 20,
            bytes: 512,
        }
    }
}

/// What one run showed: without the flood, and with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Pairs of an honest message and an honest peer that is there, delivered within 10 s.
    pub delivered: [Share; 2],
    /// Pairs of an honest message and an honest peer that comes back, delivered within a minute of that.
    pub returned: [Share; 2],
    /// Seconds that the deliveries took, to those who are there.
    pub delivery: [Vec<f64>; 2],
    /// Messages of flooders.
    pub flooded: [u64; 2],
    /// Bytes that all peers sent over peers and seconds.
    pub bytes: [Share; 2],
}

/// The figures of one or more runs; see [`Flood`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Without the flood.
    pub without: Half,
    /// With it.
    pub with: Half,
    /// What it costs, in points of the share of deliveries to those who are there.
    pub cost_points: Option<f64>,
    /// What it costs those who come back.
    pub cost_points_returned: Option<f64>,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

/// The figures without the flood, or with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Half {
    /// Share of deliveries to those who are there, within 10 s.
    pub delivered: Option<f64>,
    /// Share of deliveries to those who come back, within a minute.
    pub returned: Option<f64>,
    /// Seconds that a delivery took.
    pub delivery_s: Spread,
    /// Messages of flooders in a run.
    pub flooders_messages: u64,
    /// Bytes that a peer sent.
    pub bytes_per_peer_per_s: Option<f64>,
}

parameters!(Flood {
    peers: |n| *n > 1,
    publics: |n| *n > 0,
    flooders: is_share,
    factor: |n| n.is_finite() && *n > 0.0,
    shared: is_share,
    rate: |n| n.is_finite() && *n > 0.0,
    minutes: |n| (1..=1440).contains(n),
    away: is_share,
    cache: |n| *n <= MAX_CACHE,
    bytes: |n| (1..=super::MAX_ONE_PACKET).contains(n),
});

impl Flood {
    /// Runs the scenario twice, without the flood and with it; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("flood", seed, &self.parameters());
        let mut outcome = Outcome::default();
        for (i, factor) in [1.0, self.factor].into_iter().enumerate() {
            self.half(seed, factor, i, &mut outcome);
        }
        outcome
    }

    fn half(&self, seed: u64, factor: f64, i: usize, outcome: &mut Outcome) {
        let mut swarm = Swarm::new(seed, self.publics, Links::default());
        let mut config = Config::default();
        config.cache.budget = self.cache;
        let hosts = swarm.arrive_all(self.peers, &config);
        let (flooders, honest) = hosts.split_at(part(self.flooders, hosts.len()));
        let (away, present) = honest.split_at(part(self.away, honest.len()));
        let (end, half) = (START + MINUTE * self.minutes, START + MINUTE * self.minutes / 2);
        let mut agenda = Queue::default();
        let pause = |host: &HostId, swarm: &mut Swarm| {
            let rate = if flooders.contains(host) { self.rate * factor } else { self.rate };
            exponential(MINUTE.div_f64(rate), &mut swarm.rng)
        };
        for host in flooders.iter().chain(honest) {
            agenda.push(START + pause(host, &mut swarm), *host);
        }
        let (mut publishes, mut left) = (Vec::new(), false);
        while let Some((at, host)) = agenda.pop(end) {
            if at >= half && !left {
                swarm.run(half);
                away.iter().for_each(|host| swarm.world.sleep(*host));
                left = true;
            }
            swarm.run(at);
            agenda.push(at + pause(&host, &mut swarm), host);
            if !swarm.world.is_up(host) {
                continue;
            }
            let floods = flooders.contains(&host);
            outcome.flooded[i] += u64::from(floods);
            if floods && !swarm.rng.random_bool(self.shared) {
                let topic = TopicKey::derive(&seed_of(host), "flood");
                let mut body = vec![0; self.bytes];
                swarm.rng.fill(&mut body[..]);
                swarm.world.with(host, |stack, now, wall| stack.publish(now, wall, &topic, &body)).expect("it fits a message");
            } else {
                let publish = swarm.publish(host, self.bytes);
                publishes.extend((!floods).then_some(publish));
            }
        }
        swarm.run(end + WITHIN);
        let (delivered, times) = swarm.deliveries(&publishes, present, WITHIN);
        (outcome.delivered[i], outcome.delivery[i]) = (delivered, times);
        away.iter().filter(|_| left).for_each(|host| swarm.world.awake(*host));
        swarm.run(end + WITHIN + MINUTE);
        // While they were there, they count among those who are not any more.
        let missed: Vec<usize> = publishes.into_iter().filter(|i| swarm.published[*i].at >= half).collect();
        outcome.returned[i] = swarm.deliveries(&missed, away, Duration::MAX).0;
        let peers = (self.peers + self.publics) as u64;
        outcome.bytes[i] = Share { part: swarm.world.network.total().sent_bytes, whole: peers * swarm.world.now().as_secs() };
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let half = |i: usize| Half {
            delivered: Share::pool(outcomes.iter().map(|outcome| outcome.delivered[i])).ratio(),
            returned: Share::pool(outcomes.iter().map(|outcome| outcome.returned[i])).ratio(),
            delivery_s: Spread::of(&outcomes.iter().flat_map(|outcome| &outcome.delivery[i]).copied().collect::<Vec<_>>()),
            flooders_messages: outcomes.iter().map(|outcome| outcome.flooded[i]).max().unwrap_or(0),
            bytes_per_peer_per_s: Share::pool(outcomes.iter().map(|outcome| outcome.bytes[i])).ratio(),
        };
        let (without, with) = (half(0), half(1));
        let cost = |of: fn(&Half) -> Option<f64>| Some((of(&without)? - of(&with)?) * 100.0);
        Report {
            cost_points: cost(|half| half.delivered),
            cost_points_returned: cost(|half| half.returned),
            without,
            with,
            wall_s: wall.as_secs_f64(),
        }
    }
}

/// The secret of a flooder's own topic.
fn seed_of(host: HostId) -> [u8; 32] {
    let mut seed = [0xf1; 32];
    seed[..8].copy_from_slice(&(host.0 as u64).to_be_bytes());
    seed
}

const START: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(10);
/// Largest cache of the scenario.
const MAX_CACHE: usize = 1 << 30;
