//! `partition`: two halves of a swarm that cannot reach each other, and then can again.
//!
//! Peers behind translators follow one topic. At 60 s the network falls into two halves, the public peers with it; in each half the same number of messages is published, one a second in
//! turns. After `apart` seconds the network heals. Measured from then on: how soon the first message crosses, how soon each peer, and the last of all, holds everything; and what that costs: packets that
//! arrived over those that were missing, and bytes of all peers, for whatever purpose, over the least that has to cross the network: each missing packet once to each peer that lacks it.
//!
//! Asked of it: everyone holds everything, within 30 s; at most 1.5 packets for each that was missing.

use core::time::Duration;

use peers_node::Config;
use rand::seq::SliceRandom;
use serde::Serialize;

use super::swarm::{ARRIVALS, Swarm};
use super::{Replay, Share, Spread, is_share};
use crate::net::{HEADERS, Links};

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Peers behind translators. Default 128.
    pub peers: usize,
    /// Public peers beyond those, two or more. Default 4.
    pub publics: usize,
    /// Seconds that the halves are apart. Default 300.
    pub apart: u32,
    /// Messages published meanwhile, in both halves together. Default 200.
    pub messages: u32,
    /// Bytes of a message. Default 512.
    pub bytes: usize,
    /// Probability that a datagram is lost, per hop. Default 0.
    pub loss: f64,
}

impl Default for Partition {
    fn default() -> Self {
        Self { peers: 128, publics: 4, apart: 300, messages: 200, bytes: 512, loss: 0.0 }
    }
}

/// What one run showed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Pairs of a message and a peer of the same half, delivered before the network healed.
    pub within_half: Share,
    /// Pairs of a message and a peer that lacked it when the network healed, delivered in the end.
    pub crossed: Share,
    /// Seconds until the first of those.
    pub first: Vec<f64>,
    /// Seconds until each peer held everything.
    pub caught_up: Vec<f64>,
    /// Packets that arrived at caches (part) over those that were missing (whole).
    pub packets: Share,
    /// Bytes that all peers sent (part) over the least that crosses the network (whole), until everyone held everything.
    pub bytes: Share,
}

/// The figures of one or more runs; see [`Partition`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Share of deliveries within each half while they were apart.
    pub within_half: Option<f64>,
    /// Share of what was missing that arrived.
    pub crossed: Option<f64>,
    /// Seconds until the first message had crossed.
    pub first_s: Spread,
    /// Seconds until a peer held everything.
    pub caught_up_s: Spread,
    /// Packets received for each that was missing.
    pub packets_per_missing: Option<f64>,
    /// Bytes sent for each that had to cross.
    pub bytes_over_least: Option<f64>,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

parameters!(Partition {
    peers: |n| *n > 1,
    publics: |n| *n > 1,
    apart: |n| (1..=MAX_SECONDS).contains(n),
    messages: |n| (1..=MAX_SECONDS).contains(n),
    bytes: |n| (1..=super::MAX_ONE_PACKET).contains(n),
    loss: is_share,
});

impl Partition {
    /// Runs the scenario; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("partition", seed, &self.parameters());
        let mut swarm = Swarm::new(seed, self.publics, Links { loss: self.loss, ..Links::default() });
        let mut hosts = swarm.arrive_all(self.peers, &Config::default());
        swarm.run(PARTED);
        hosts.shuffle(&mut swarm.rng);
        let halves = [hosts[..hosts.len() / 2].to_vec(), hosts[hosts.len() / 2..].to_vec()];
        let publics = swarm.publics.clone();
        for host in halves[1].iter().chain(&publics[publics.len() / 2..]) {
            let site = swarm.world.network.site(*host);
            swarm.world.network.set_partition(site, 1);
        }
        let healed = PARTED + Duration::from_secs(self.apart.into());
        let every = (healed - PARTED - ARRIVALS.min((healed - PARTED) / 2)) / self.messages;
        let mut published = [Vec::new(), Vec::new()];
        for i in 0..self.messages {
            swarm.run(PARTED + every * i);
            let half = i as usize % 2;
            if let Some(host) = swarm.any(&halves[half]) {
                published[half].push(swarm.publish(host, self.bytes));
            }
        }
        swarm.run(healed);
        let mut outcome = Outcome::default();
        let mut missing: Vec<usize> = vec![0; swarm.published.len()];
        for (half, published) in halves.iter().zip(&published) {
            outcome.within_half.add(swarm.deliveries(published, half, Duration::MAX).0);
        }
        for (i, publish) in swarm.published.iter().enumerate() {
            missing[i] = hosts.iter().filter(|host| !publish.received.contains_key(*host)).count();
        }
        for host in &hosts {
            let site = swarm.world.network.site(*host);
            swarm.world.network.set_partition(site, 0);
        }
        for host in &publics {
            let site = swarm.world.network.site(*host);
            swarm.world.network.set_partition(site, 0);
        }
        self.reunite(&mut swarm, &hosts, &missing, &mut outcome);
        outcome
    }

    /// Runs until everyone holds everything, or for [`PATIENCE`].
    fn reunite(&self, swarm: &mut Swarm, hosts: &[crate::net::HostId], missing: &[usize], outcome: &mut Outcome) {
        let (healed, before, packets_before) = (swarm.world.now(), swarm.world.network.total(), swarm.payloads());
        let whole = missing.iter().sum::<usize>() as u64;
        let mut left = whole;
        let mut now = healed;
        while left > 0 && now < healed + PATIENCE {
            now += STEP;
            swarm.run_with(now, |_, _| left -= 1);
        }
        let packets = swarm.payloads().since(packets_before);
        let sent = swarm.world.network.total().sent_bytes - before.sent_bytes;
        // The public peers follow nothing, but carry.
        outcome.packets = Share { part: packets.received, whole };
        outcome.bytes = Share { part: sent, whole: whole * (self.bytes as u64 + peers_crypto::SEAL_OVERHEAD as u64 + FRAMING + HEADERS) };
        outcome.crossed = Share { part: whole - left, whole };
        let since = |at: &Duration| (*at > healed).then(|| (*at - healed).as_secs_f64());
        let crossings = swarm.published.iter().flat_map(|publish| publish.received.values().filter_map(since));
        outcome.first.extend(crossings.reduce(f64::min));
        for host in hosts {
            let all = swarm.published.iter().map(|publish| publish.received.get(host)).collect::<Option<Vec<_>>>();
            if let Some(last) = all.and_then(|all| all.into_iter().max().copied()) {
                outcome.caught_up.push(last.saturating_sub(healed).as_secs_f64());
            }
        }
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let pool = |of: fn(&Outcome) -> Share| Share::pool(outcomes.iter().map(of));
        let all = |of: fn(&Outcome) -> &Vec<f64>| Spread::of(&outcomes.iter().flat_map(of).copied().collect::<Vec<_>>());
        Report {
            within_half: pool(|outcome| outcome.within_half).ratio(),
            crossed: pool(|outcome| outcome.crossed).ratio(),
            first_s: all(|outcome| &outcome.first),
            caught_up_s: all(|outcome| &outcome.caught_up),
            packets_per_missing: pool(|outcome| outcome.packets).ratio(),
            bytes_over_least: pool(|outcome| outcome.bytes).ratio(),
            wall_s: wall.as_secs_f64(),
        }
    }
}

/// When the halves are separated.
const PARTED: Duration = Duration::from_secs(60);
/// How long everyone has to get everything.
const PATIENCE: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(100);
/// A packet's header, and what a session adds.
const FRAMING: u64 = 133 + 32;
const MAX_SECONDS: u32 = 86_400;
