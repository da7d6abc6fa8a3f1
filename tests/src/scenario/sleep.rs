//! `sleep`: laptops that are closed and opened.
//!
//! Every peer follows one topic, on which peers that are awake publish, one message every `every` seconds. A share of the peers are laptops: awake for Exp(`awake`) minutes, then suspended for Exp(`asleep`) minutes, again and again, without a word; their
//! addresses stay, their translators forget them. Measured: of what was published while a laptop slept, how much it has 2.5 s, 10 s and 60 s after it was opened; how long until it has all of that;
//! of what is published while a peer is awake (and stays so for 10 s more), the share that is delivered.
//!
//! Asked of it: 0.99 of what was missed within 10 s of waking, and 0.999 of what is published to those awake.

use core::time::Duration;
use std::collections::BTreeMap;

use peers_node::Config;
use rand::RngExt;
use serde::Serialize;

use super::swarm::Swarm;
use super::{REACHED_WITHIN, Replay, Share, Spread, exponential, is_share, part};
use crate::net::{HostId, Links};
use crate::queue::Queue;

/// The parameters of the scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Sleep {
    /// Peers behind translators. Default 64.
    pub peers: usize,
    /// Public peers beyond those. Default 4.
    pub publics: usize,
    /// Share of the peers that are laptops. Default 0.5.
    pub laptops: f64,
    /// Mean minutes that a laptop is awake at a time. Default 5.
    pub awake: f64,
    /// Mean minutes that it sleeps. Default 10.
    pub asleep: f64,
    /// Seconds between two messages. Default 10.
    pub every: u32,
    /// Minutes of publishing. Default 60.
    pub minutes: u32,
    /// Bytes of a message. Default 512.
    pub bytes: usize,
    /// Probability that a datagram is lost, per hop. Default 0.
    pub loss: f64,
}

impl Default for Sleep {
    fn default() -> Self {
        Self { peers: 64, publics: 4, laptops: 0.5, awake: 5.0, asleep: 10.0, every: 10, minutes: 60, bytes: 512, loss: 0.0 }
    }
}

/// What one run showed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Pairs of a waking and a message that was published during the sleep before it: there within 2.5 s, 10 s, 60 s.
    pub missed: [Share; 3],
    /// Seconds from waking until all of those were there, of wakings that lasted so long.
    pub caught_up: Vec<f64>,
    /// Wakings after which something was missing a minute later.
    pub behind: Share,
    /// Pairs of a message and a peer that was awake then and for 10 s more, delivered within those.
    pub delivered: Share,
    /// Seconds that those took.
    pub delivery: Vec<f64>,
}

/// The figures of one or more runs; see [`Sleep`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Share of what was missed in sleep that is there in time.
    pub missed: Missed,
    /// Seconds from waking until all of it is there.
    pub caught_up_s: Spread,
    /// Share of wakings after which something is missing after a minute.
    pub behind: Option<f64>,
    /// Share of deliveries to those awake.
    pub delivered: Option<f64>,
    /// Seconds that they took.
    pub delivery_s: Spread,
    /// Seconds that the simulation took, of real time.
    pub wall_s: f64,
}

/// Shares that are there so long after waking.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Missed {
    /// 2.5 s.
    pub s2_5: Option<f64>,
    /// 10 s.
    pub s10: Option<f64>,
    /// 60 s.
    pub s60: Option<f64>,
}

parameters!(Sleep {
    peers: |n| *n > 1,
    publics: |n| *n > 0,
    laptops: is_share,
    awake: |n| n.is_finite() && *n > 0.0,
    asleep: |n| n.is_finite() && *n > 0.0,
    every: |n| (1..=3600).contains(n),
    minutes: |n| (1..=1440).contains(n),
    bytes: |n| (1..=super::MAX_ONE_PACKET).contains(n),
    loss: is_share,
});

#[derive(Debug)]
enum Action {
    Close(HostId),
    Open(HostId),
    Publish,
}

/// A sleep, and the time awake after it.
#[derive(Debug)]
struct Nap {
    host: HostId,
    closed: Duration,
    opened: Duration,
    /// When it was closed again.
    until: Duration,
}

impl Sleep {
    /// Runs the scenario; the same seed gives the same outcome.
    pub fn run(&self, seed: u64) -> Outcome {
        let _replay = Replay::new("sleep", seed, &self.parameters());
        let mut swarm = Swarm::new(seed, self.publics, Links { loss: self.loss, ..Links::default() });
        let hosts = swarm.arrive_all(self.peers, &Config::default());
        let count = part(self.laptops, hosts.len());
        let (awake, asleep) = (MINUTE.mul_f64(self.awake), MINUTE.mul_f64(self.asleep));
        let end = START + MINUTE * self.minutes;
        let mut agenda = Queue::default();
        for host in &hosts[..count] {
            // As if it had been so for long.
            let at = START + exponential(awake, &mut swarm.rng).mul_f64(swarm.rng.random());
            agenda.push(at, Action::Close(*host));
        }
        agenda.push(START, Action::Publish);
        let (mut naps, mut closed): (Vec<Nap>, BTreeMap<HostId, Duration>) = (Vec::new(), BTreeMap::new());
        let mut publishes = Vec::new();
        while let Some((at, action)) = agenda.pop(end) {
            swarm.run(at);
            match action {
                Action::Close(host) => {
                    swarm.world.sleep(host);
                    closed.insert(host, at);
                    if let Some(nap) = naps.iter_mut().rev().find(|nap| nap.host == host) {
                        nap.until = at;
                    }
                    let opens = at + exponential(asleep, &mut swarm.rng);
                    agenda.push(opens, Action::Open(host));
                }
                Action::Open(host) => {
                    swarm.world.awake(host);
                    if let Some(closed) = closed.remove(&host) {
                        naps.push(Nap { host, closed, opened: at, until: Duration::MAX });
                    }
                    let closes = at + exponential(awake, &mut swarm.rng);
                    agenda.push(closes, Action::Close(host));
                }
                Action::Publish => {
                    let up: Vec<_> = hosts.iter().copied().filter(|host| swarm.world.is_up(*host)).collect();
                    if let Some(host) = swarm.any(&up) {
                        publishes.push((swarm.publish(host, self.bytes), up));
                    }
                    agenda.push(at + Duration::from_secs(self.every.into()), Action::Publish);
                }
            }
        }
        swarm.run(end + MINUTE);
        let mut outcome = Outcome::default();
        for nap in naps.iter().filter(|nap| nap.opened + MINUTE <= end) {
            judge(&swarm, nap, &mut outcome);
        }
        for (i, up) in &publishes {
            let publish = &swarm.published[*i];
            let closes = |host: &HostId| {
                let soon = naps.iter().map(|nap| (nap.host, nap.closed)).chain(closed.iter().map(|(host, at)| (*host, *at)));
                soon.into_iter().any(|(other, at)| other == *host && at >= publish.at && at < publish.at + STAYS)
            };
            for host in up.iter().filter(|host| **host != publish.by && !closes(host)) {
                let took = publish.took(*host).filter(|took| *took <= STAYS);
                outcome.delivered.count(took.is_some());
                outcome.delivery.extend(took.map(|took| took.as_secs_f64()));
            }
        }
        outcome
    }

    /// The figures of the pooled `outcomes`.
    pub fn report(outcomes: &[Outcome], wall: Duration) -> Report {
        let pool = |of: fn(&Outcome) -> Share| Share::pool(outcomes.iter().map(of)).ratio();
        let all = |of: fn(&Outcome) -> &Vec<f64>| Spread::of(&outcomes.iter().flat_map(of).copied().collect::<Vec<_>>());
        Report {
            missed: Missed { s2_5: pool(|o| o.missed[0]), s10: pool(|o| o.missed[1]), s60: pool(|o| o.missed[2]) },
            caught_up_s: all(|outcome| &outcome.caught_up),
            behind: pool(|outcome| outcome.behind),
            delivered: pool(|outcome| outcome.delivered),
            delivery_s: all(|outcome| &outcome.delivery),
            wall_s: wall.as_secs_f64(),
        }
    }
}

/// What became, after a nap, of what was published during it. Who is closed again at once has no chance to catch up, and does not count.
fn judge(swarm: &Swarm, nap: &Nap, outcome: &mut Outcome) {
    let missed: Vec<_> = swarm.published.iter().filter(|publish| publish.at >= nap.closed && publish.at < nap.opened).collect();
    let waits = |publish: &super::swarm::Published| publish.received.get(&nap.host).map(|at| at.saturating_sub(nap.opened));
    for (within, share) in [REACHED_WITHIN[0], REACHED_WITHIN[1], MINUTE].into_iter().zip(&mut outcome.missed) {
        if nap.until >= nap.opened + within {
            missed.iter().for_each(|publish| share.count(waits(publish).is_some_and(|waits| waits <= within)));
        }
    }
    let waits: Option<Vec<_>> = missed.iter().map(|publish| waits(publish)).collect();
    let last = waits.and_then(|waits| waits.into_iter().max());
    if nap.until >= nap.opened + MINUTE && !missed.is_empty() {
        outcome.behind.count(last.is_none_or(|last| last > MINUTE));
        outcome.caught_up.extend(last.map(|last| last.as_secs_f64()));
    }
}

const START: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);
/// A peer that is closed so soon after a publish need not have it.
const STAYS: Duration = Duration::from_secs(10);
