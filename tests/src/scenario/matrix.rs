//! `matrix`: two fresh peers behind every pair of kinds of NAT who know the same three public peers; the first wants the second.
//!
//! It is `cargo xtask netlab matrix` on the model of NATs: the same pairs, the same steps, the same keys.

use core::time::Duration;

use bytes::Bytes;
use peers_nat::Path;
use peers_node::{Config, Event, Letter};
use serde::{Deserialize, Serialize};

use super::Replay;
use crate::nat::Kind;
use crate::net::{HostId, Links};
use crate::world::World;

/// The kinds whose 25 pairs are gone through, as netlab names them.
pub const KINDS: [&str; 5] = ["open", "full-cone", "addr-restricted", "port-restricted", "symmetric"];

/// Pairs beside the 25: what stands before each peer, as netlab has it; with `loss=` on its uplink each way, and `v6` where both have IPv6, too.
pub const OTHERS: [(&str, &str); 18] = [
    ("symmetric-sequential", "full-cone"),
    ("symmetric-sequential", "port-restricted"),
    ("symmetric-sequential", "symmetric-sequential"),
    ("symmetric-sequential", "symmetric"),
    ("symmetric ports=20000-20511", "port-restricted"),
    ("symmetric ports=20000-20511", "symmetric ports=20000-20511"),
    ("double", "port-restricted"),
    ("double outer=port-restricted", "port-restricted"),
    ("firewall", "firewall"),
    ("firewall", "symmetric"),
    ("blocked-udp", "open"),
    ("port-restricted stray=accept", "port-restricted"),
    ("port-restricted stray=accept", "port-restricted stray=accept"),
    ("symmetric stray=accept", "port-restricted stray=accept"),
    ("port-restricted remap=1", "port-restricted remap=1"),
    ("port-restricted loss=5%", "port-restricted loss=5%"),
    ("symmetric loss=5%", "port-restricted loss=5%"),
    ("symmetric v6", "symmetric v6"),
];

/// Public peers that both know.
pub const PUBLIC: usize = 3;
/// How long a peer may take to meet the public ones.
pub const MEETING: Duration = Duration::from_secs(5);
/// Time for what follows a meeting to come to rest.
pub const REST: Duration = Duration::from_millis(700);
/// How long a pair may take to become direct.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// The pairs of [`KINDS`], in order.
pub fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    KINDS.iter().flat_map(|a| KINDS.iter().map(|b| (*a, *b)))
}

/// All that is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The 25 pairs.
    pub pairs: Vec<Row>,
    /// Pairs of other kinds.
    pub others: Vec<Row>,
}

/// A pair of NATs; times are medians in milliseconds, from the wish to connect, of the runs in which it came to that.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What stands before the one that asks.
    pub a: String,
    /// What stands before the other.
    pub b: String,
    /// Runs.
    pub runs: u32,
    /// Share of the runs in which both ends used a direct path.
    pub direct_share: f64,
    /// Until application data of `a` was at `b`.
    pub first_byte_ms: Option<f64>,
    /// Until both ends used a direct path.
    pub direct_ms: Option<f64>,
    /// Datagrams that both ends sent until then; where they never did, while it was waited for.
    pub packets: Option<f64>,
}

/// What came of one run; times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcome {
    /// Until application data of `a` was at `b`.
    pub first_byte: Option<f64>,
    /// Until both ends used a direct path.
    pub direct: Option<f64>,
    /// Datagrams that both ends sent until then.
    pub packets: Option<f64>,
}

impl Row {
    /// Of a pair's outcomes, one for each run.
    pub fn new(a: &str, b: &str, outcomes: &[Outcome]) -> Self {
        let all = |of: fn(&Outcome) -> Option<f64>| median(outcomes.iter().filter_map(of).collect());
        let direct = outcomes.iter().filter(|outcome| outcome.direct.is_some()).count();
        Self {
            a: a.to_owned(),
            b: b.to_owned(),
            runs: u32::try_from(outcomes.len()).unwrap_or(u32::MAX),
            direct_share: direct as f64 / outcomes.len() as f64,
            first_byte_ms: all(|outcome| outcome.first_byte),
            direct_ms: all(|outcome| outcome.direct),
            packets: all(|outcome| outcome.packets),
        }
    }

    /// Whether two rows of one pair say the same of how it meets: always, never, or, where chance has a part, about as often.
    pub fn agrees(&self, other: &Self) -> bool {
        (self.direct_share - other.direct_share).abs() <= TOLERANCE
    }
}

/// By how much the shares of direct runs of simulation and laboratory may differ.
pub const TOLERANCE: f64 = 0.1;

impl core::fmt::Display for Row {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let ms = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |time| format!("{time:.0} ms"));
        let Self { a, b, direct_share, .. } = self;
        let (first, direct) = (ms(self.first_byte_ms), ms(self.direct_ms));
        let packets = self.packets.map_or_else(|| "no".to_owned(), |packets| format!("{packets:.0}"));
        write!(f, "{a} / {b}: first byte {first}, direct {direct} in {:.0} % of runs, {packets} packets", direct_share * 100.0)
    }
}

/// The middle one, or the mean of the middle two, to a tenth; none of none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    let lower = if values.len().is_multiple_of(2) { values[middle - 1] } else { *upper };
    Some(((upper + lower) * 5.0).round() / 10.0)
}

/// One run of a pair.
///
/// - `delay`: one way between each site and the middle of the internet; a round trip between any two is four times that
/// - returns: nothing happened where a peer could not meet the public ones
///
/// # Panics
/// If `a` or `b` names no kind of NAT.
pub fn once(a: &str, b: &str, delay: Duration, seed: u64) -> Outcome {
    let _replay = Replay::new("matrix", seed, &[("pair", format!("{a}/{b}"))]);
    let links = Links { latency: (2 * delay, 2 * delay), jitter: Duration::ZERO, ..Links::default() };
    let mut world = World::new(links, seed);
    let v6 = a.contains("v6");
    let config = Config { nat: peers_nat::Config { target_sessions: 0, lan: false, ..peers_nat::Config::default() }, ..Config::default() };
    let publics: Vec<HostId> = (0..PUBLIC)
        .map(|_| {
            let site = world.network.add_site_behind(&[], v6);
            world.add_peer(site, config.clone(), 0)
        })
        .collect();
    let mut hosts = Vec::new();
    for label in [a, b] {
        let words: Vec<&str> = label.split(' ').collect();
        let options = words.iter().filter(|word| **word != "v6" && !word.starts_with("loss="));
        let kinds = Kind::parse(&options.copied().collect::<Vec<_>>().join(" ")).expect("a kind of NAT");
        let site = world.network.add_site_behind(&kinds, v6);
        world.network.rebind(site);
        let loss = words.iter().find_map(|word| word.strip_prefix("loss=")?.strip_suffix('%')?.parse::<f64>().ok());
        world.network.set_loss(site, loss.unwrap_or_default() / 100.0);
        let host = world.add_peer(site, config.clone(), 0);
        for public in &publics {
            let address = world.network.address(*public);
            world.with(host, |stack, now, wall| stack.connect_address(now, wall, address));
        }
        if !met(&mut world, host, &publics) {
            return Outcome::default();
        }
        hosts.push(host);
    }
    world.run(world.now() + REST);
    ask(&mut world, hosts[0], hosts[1])
}

/// Runs until `host` has a session with each of `publics`; returns whether it does in time.
fn met(world: &mut World, host: HostId, publics: &[HostId]) -> bool {
    let until = world.now() + MEETING;
    let ids: Vec<_> = publics.iter().map(|public| world.id(*public)).collect();
    loop {
        if ids.iter().all(|id| world.stack(host).is_connected(*id)) {
            return true;
        }
        if world.next(until).is_none() {
            return false;
        }
    }
}

/// The first wants the second, and writes it a letter.
fn ask(world: &mut World, a: HostId, b: HostId) -> Outcome {
    let (start, ids) = (world.now(), [world.id(a), world.id(b)]);
    let sent = |world: &World| world.stack(a).stats().nat.sent + world.stack(b).stats().nat.sent;
    let (before, until) = (sent(world), start + PATIENCE);
    // Whoever is written to is looked for, and first of all.
    let letter = Letter { id: [7; 16], created: world.wall(), name: None, body: Bytes::from_static(b"0") };
    world.with(a, |stack, now, wall| stack.send(now, wall, ids[1], letter));
    world.with(a, |stack, now, wall| stack.connect(now, wall, ids[1], &[])).expect("one is wanted");
    let (mut first_byte, mut direct) = (None, [None; 2]);
    while first_byte.is_none() || direct.iter().any(Option::is_none) {
        let Some((host, event)) = world.next(until) else { break };
        let took = (world.now() - start).as_secs_f64() * 1000.0;
        let end = usize::from(host == b);
        match event {
            Event::Connected { peer, path } | Event::PathChanged { peer, path } if ids.contains(&peer) && (host == a || host == b) => {
                direct[end] = matches!(path, Path::Direct(_)).then_some(took);
            }
            Event::Disconnected { peer } if ids.contains(&peer) && (host == a || host == b) => direct[end] = None,
            Event::Mail { .. } if host == b => first_byte = first_byte.or(Some(took)),
            _ => {}
        }
    }
    let [a_direct, b_direct] = direct;
    Outcome { first_byte, direct: a_direct.zip(b_direct).map(|(a, b)| a.max(b)), packets: Some((sent(world) - before) as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one_or_between_the_middle_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_row_tells_the_share_of_direct_runs_and_the_medians_of_those() {
        let run = |direct| Outcome { first_byte: Some(100.0), direct, packets: Some(20.0) };
        let row = Row::new("a", "b", &[run(Some(300.0)), run(None), run(Some(100.0)), run(Some(200.0))]);
        assert_eq!((row.direct_share, row.direct_ms), (0.75, Some(200.0)));
        let none = Row::new("a", "b", &[run(None)]);
        assert!(!none.agrees(&row) && none.agrees(&none));
        assert_eq!(serde_json::to_value(none).expect("it is JSON")["direct_ms"], serde_json::Value::Null);
    }
}
