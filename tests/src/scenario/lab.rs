//! A small swarm that both the simulator and the laboratory of network namespaces can run: `cargo xtask netlab swarm` does both and compares.
//!
//! Three public nodes, and one node behind each of [`KINDS`], which knows the addresses of the public ones. All follow one topic. After [`SETTLE`] datagrams are counted for [`IDLE`]; then the nodes behind NATs publish in turns, one message a
//! second, and datagrams are counted until [`LAST`] after the last.

use core::time::Duration;

use peers_crypto::TopicKey;
use peers_node::{Config, Event};
use serde::{Deserialize, Serialize};

use super::matrix::median;
use super::{Replay, Share};
use crate::nat::Kind;
use crate::net::{HostId, Links};
use crate::world::World;

/// What stands before each node that is not public, as netlab names it.
pub const KINDS: [&str; 9] = [
    "open",
    "firewall",
    "full-cone",
    "addr-restricted",
    "port-restricted",
    "port-restricted",
    "port-restricted",
    "symmetric",
    "symmetric-sequential",
];
/// Public nodes.
pub const PUBLICS: usize = 3;
/// Pause between the starts of two nodes.
pub const START_PAUSE: Duration = Duration::from_millis(500);
/// From the last start until datagrams are counted.
pub const SETTLE: Duration = Duration::from_secs(20);
/// How long idle datagrams are counted.
pub const IDLE: Duration = Duration::from_secs(30);
/// Between two publishes.
pub const EVERY: Duration = Duration::from_secs(1);
/// Time for the last publish.
pub const LAST: Duration = Duration::from_secs(5);
/// Bytes of a message.
pub const BYTES: usize = 512;

/// What is given.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// One way between each node and the middle of the internet.
    pub delay: Duration,
    /// Probability that a datagram is lost on the uplink of a node behind a NAT, each way.
    pub loss: f64,
    /// Messages published.
    pub publishes: u32,
}

/// What was seen in one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Of each publish, after how many milliseconds each of the other nodes had it.
    pub deliveries: Vec<Vec<f64>>,
    /// Datagrams of all nodes while idle.
    pub idle: u64,
    /// Datagrams of all nodes while publishing.
    pub publishing: u64,
}

/// The figures of several runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Runs.
    pub runs: u32,
    /// Share of deliveries that happened.
    pub delivered: f64,
    /// Milliseconds until a node had a message, median.
    pub delivery_ms: Option<f64>,
    /// Milliseconds until the last had it, median of the publishes that reached all.
    pub time_to_all_ms: Option<f64>,
    /// Datagrams of a node in a second, while nothing is published.
    pub idle_datagrams_per_node_per_s: f64,
    /// Datagrams of all nodes from one publish to the next.
    pub datagrams_per_publish: f64,
}

/// A figure of both, and whether the two agree.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Its name.
    pub figure: &'static str,
    /// In the laboratory.
    pub lab: Option<f64>,
    /// Simulated.
    pub simulated: Option<f64>,
    /// Whether they are within the tolerance.
    pub agree: bool,
}

impl Figures {
    /// Of these runs.
    pub fn of(setting: &Setting, outcomes: &[Outcome]) -> Self {
        let others = PUBLICS + KINDS.len() - 1;
        let (mut delivered, mut all, mut times) = (Share::default(), Vec::new(), Vec::new());
        for publish in outcomes.iter().flat_map(|outcome| &outcome.deliveries) {
            delivered.add(Share { part: publish.len() as u64, whole: others as u64 });
            times.extend(publish);
            all.extend(publish.iter().copied().reduce(f64::max).filter(|_| publish.len() == others));
        }
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>() as f64 / outcomes.len() as f64;
        Self {
            runs: u32::try_from(outcomes.len()).unwrap_or(u32::MAX),
            delivered: delivered.ratio().unwrap_or(0.0),
            delivery_ms: median(times),
            time_to_all_ms: median(all),
            idle_datagrams_per_node_per_s: sum(|outcome| outcome.idle) / IDLE.as_secs_f64() / (others + 1) as f64,
            datagrams_per_publish: sum(|outcome| outcome.publishing) / f64::from(setting.publishes),
        }
    }

    /// These, measured in the laboratory, beside simulated ones.
    pub fn compare(&self, simulated: &Self) -> Vec<Compared> {
        let row = |figure, lab: Option<f64>, simulated: Option<f64>, ratio: f64, slack: f64| {
            let agree = match (lab, simulated) {
                (Some(lab), Some(simulated)) => (lab - simulated).abs() <= slack + (ratio - 1.0) * lab.min(simulated),
                (lab, simulated) => lab.is_none() == simulated.is_none(),
            };
            Compared { figure, lab, simulated, agree }
        };
        let Self { delivered, delivery_ms, time_to_all_ms, idle_datagrams_per_node_per_s: idle, datagrams_per_publish, .. } = self;
        vec![
            row("delivered", Some(*delivered), Some(simulated.delivered), 1.0, DELIVERED),
            row("delivery_ms", *delivery_ms, simulated.delivery_ms, TIMES, SLACK_MS),
            row("time_to_all_ms", *time_to_all_ms, simulated.time_to_all_ms, TIMES, SLACK_MS),
            row("idle_datagrams_per_node_per_s", Some(*idle), Some(simulated.idle_datagrams_per_node_per_s), DATAGRAMS, 0.0),
            row("datagrams_per_publish", Some(*datagrams_per_publish), Some(simulated.datagrams_per_publish), DATAGRAMS, 0.0),
        ]
    }
}

/// By how much the shares of deliveries may differ.
pub const DELIVERED: f64 = 0.01;
/// By what factor, and beside that by how many milliseconds, times may differ.
pub const TIMES: f64 = 1.25;
/// The milliseconds.
pub const SLACK_MS: f64 = 15.0;
/// By what factor counts of datagrams may differ.
pub const DATAGRAMS: f64 = 1.3;

/// The secret of the topic.
pub const TOPIC: [u8; 32] = [0x5c; 32];

/// Runs the swarm on the simulator; the same seed gives the same outcome.
pub fn simulate(setting: &Setting, seed: u64) -> Outcome {
    let _replay = Replay::new("netlab swarm", seed, &[]);
    let links = Links { latency: (2 * setting.delay, 2 * setting.delay), jitter: Duration::ZERO, ..Links::default() };
    let mut world = World::new(links, seed);
    let topic = TopicKey::from_seed(TOPIC);
    let mut hosts: Vec<HostId> = Vec::new();
    for i in 0..PUBLICS + KINDS.len() {
        let site = match i.checked_sub(PUBLICS) {
            None => world.network.add_site(None),
            Some(i) => {
                let site = world.network.add_site_behind(&Kind::parse(KINDS[i]).expect("a kind of NAT"), false);
                world.network.set_loss(site, setting.loss);
                site
            }
        };
        let host = world.add_peer(site, Config::default(), 0);
        for public in &hosts[..hosts.len().min(PUBLICS)] {
            let address = world.network.address(*public);
            world.with(host, |stack, now, wall| stack.connect_address(now, wall, address));
        }
        world.with(host, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
        hosts.push(host);
        world.run(world.now() + START_PAUSE);
    }
    let sent = |world: &World| world.stacks().map(|(_, stack)| stack.stats().nat.sent).sum::<u64>();
    world.run(world.now() + SETTLE);
    let before = sent(&world);
    world.run(world.now() + IDLE);
    let idle = sent(&world);
    let start = world.now();
    let mut published = Vec::new();
    let mut deliveries = Vec::new();
    for i in 0..=setting.publishes {
        let until = start + EVERY * i + if i == setting.publishes { LAST } else { Duration::ZERO };
        while let Some((_, event)) = world.next(until) {
            if let Event::Message(message) = event
                && let Some(i) = published.iter().position(|(id, _)| *id == message.id)
            {
                let (_, at): (_, Duration) = published[i];
                let times: &mut Vec<f64> = &mut deliveries[i];
                times.push((world.now() - at).as_secs_f64() * 1000.0);
            }
        }
        if i < setting.publishes {
            let host = hosts[PUBLICS + i as usize % KINDS.len()];
            let body = body(i.into());
            let id = world.with(host, |stack, now, wall| stack.publish(now, wall, &topic, &body)).expect("it fits a message");
            published.push((id, world.now()));
            deliveries.push(Vec::new());
        }
    }
    Outcome { deliveries, idle: idle - before, publishing: sent(&world) - idle }
}

/// The message of a number: its digits, behind zeros.
pub fn body(number: u64) -> Vec<u8> {
    format!("{number:0BYTES$}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_agree_within_their_tolerance_alone() {
        let setting = Setting { delay: Duration::from_millis(20), loss: 0.0, publishes: 1 };
        let outcome = |last: f64, idle| {
            let others = PUBLICS + KINDS.len() - 1;
            let mut times = vec![100.0; others - 1];
            times.push(last);
            Figures::of(&setting, &[Outcome { deliveries: vec![times], idle, publishing: 100 }])
        };
        let agrees = |a: &Figures, b: &Figures| a.compare(b).iter().all(|row| row.agree);
        let usual = outcome(200.0, 360);
        assert_eq!((usual.delivered, usual.time_to_all_ms, usual.idle_datagrams_per_node_per_s), (1.0, Some(200.0), 1.0));
        assert!(agrees(&usual, &usual) && agrees(&usual, &outcome(240.0, 400)));
        assert!(!agrees(&usual, &outcome(300.0, 360)) && !agrees(&usual, &outcome(200.0, 500)));
        let lossy = Figures::of(&setting, &[Outcome { deliveries: vec![vec![100.0]], idle: 360, publishing: 100 }]);
        assert!(!agrees(&usual, &lossy));
    }

    #[test]
    fn a_body_is_its_number_in_as_many_bytes_as_said() {
        let text = String::from_utf8(body(17)).expect("digits");
        assert_eq!((text.len(), text.parse::<u64>()), (BYTES, Ok(17)));
    }
}
