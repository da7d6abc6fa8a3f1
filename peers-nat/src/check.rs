//! Looking at our own NAT: which sockets are opened, what they send to whom, and what comes of it.
//!
//! A look takes [`ROUNDS`] rounds. Fresh sockets ask up to three peers in turn how they are seen; others, each of which knows one peer only, are probed from elsewhere; two try to reach each other
//! by their public addresses. What was seen and what came is judged by [`classify`](crate::classify).

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use peers_wire::PeerId;
use rand::RngExt;

use crate::address::{self, Scope};
use crate::agent::{Agent, Timer};
use crate::classify::{Behaviour, Evidence, MAX_REPORTERS, Mapping, Report, Trial};
use crate::control::{Control, Test, Token};
use crate::output::SocketId;
use crate::probe::Probe;

/// Sockets that each reporter is asked about; the second ports of reporters are asked about the first of them.
const SOCKETS: usize = 4;
const SECOND: usize = 2;
/// How often what was not answered is sent, at most; the answers to the last have two rounds more.
const SENDS: u32 = 3;
const ROUNDS: u32 = 5;
/// Length of a round, or two round trips to the slowest reporter.
const ROUND: Duration = Duration::from_millis(400);
/// Peers that may want to be reporters are gathered for so long.
const GATHER: Duration = Duration::from_millis(500);
/// First and longest pause between two looks at the same network: it doubles each time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// Most peers that are asked whether they can be.
const MAX_SCOUTED: usize = 12;
/// So many addresses out there have to leave us without an answer before UDP counts as blocked, and so many are remembered.
const UNANSWERED: (usize, usize) = (2, 8);

/// What is known of our NAT, and the look at it that is under way.
#[derive(Debug, Default)]
pub(crate) struct Check {
    pub(crate) behaviour: Behaviour,
    scouting: Option<Scouting>,
    run: Option<Run>,
    /// Looks since the network changed, and when the next may begin.
    runs: u32,
    next: Option<Instant>,
    /// A look was asked for, or a peer sees us elsewhere than before.
    asked: bool,
    moved: bool,
    /// A peer out there was heard directly; addresses out there that did not answer.
    heard: bool,
    unanswered: BTreeSet<IpAddr>,
}

/// Who can be asked is found out first: a peer behind a NAT does not hear a socket that it has not sent to.
#[derive(Debug)]
struct Scouting {
    socket: SocketId,
    asked: Vec<(Token, PeerId)>,
    answered: BTreeSet<PeerId>,
    /// Those who did not answer were asked a second time.
    again: bool,
}

impl Scouting {
    fn missing(&self) -> impl Iterator<Item = PeerId> {
        self.asked.iter().map(|(_, id)| *id).filter(|id| !self.answered.contains(id))
    }
}

impl Check {
    /// A peer out there was heard by UDP.
    pub(crate) const fn is_heard(&self) -> bool {
        self.heard
    }
}

/// A look at our NAT.
#[derive(Debug)]
struct Run {
    round: u32,
    length: Duration,
    sockets: Vec<SocketId>,
    flows: Vec<Flow>,
    trials: Vec<Probed>,
    hairpin: Option<(Token, bool)>,
}

/// What one fresh socket sends to one address.
#[derive(Debug)]
struct Flow {
    by: PeerId,
    socket: usize,
    second: Option<SocketAddr>,
    tokens: Vec<Token>,
    seen: Option<SocketAddr>,
}

/// A socket that sends to one address alone, and is probed from others.
#[derive(Debug)]
struct Probed {
    by: PeerId,
    at: SocketAddr,
    socket: SocketId,
    token: Token,
    answer: Option<(bool, bool)>,
    came: (bool, bool),
}

impl Run {
    fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.sockets.iter().copied().chain(self.trials.iter().map(|trial| trial.socket))
    }

    fn evidence(&self, local: &[SocketAddr], main: Vec<(PeerId, SocketAddr)>) -> Evidence {
        let reports = self.flows.iter().enumerate().filter_map(|(order, flow)| {
            Some(Report { by: flow.by, socket: flow.socket, order, second: flow.second.is_some(), seen: flow.seen? })
        });
        let trials = self.trials.iter().filter_map(|trial| Some(Trial { by: trial.by, asked: trial.answer?, came: trial.came }));
        Evidence {
            local: local.to_vec(),
            main,
            reports: reports.collect(),
            trials: trials.collect(),
            hairpin: self.hairpin.map(|(_, came)| came),
        }
    }

    /// Where most see the socket `n`.
    fn seen(&self, n: usize) -> Option<SocketAddr> {
        let seen: Vec<SocketAddr> = self.flows.iter().filter(|flow| flow.socket == n).filter_map(|flow| flow.seen).collect();
        seen.iter().copied().find(|address| 2 * seen.iter().filter(|seen| *seen == address).count() > seen.len().max(2))
    }
}

impl Agent {
    /// How our own NAT behaves, as far as two or three peers have shown: see docs/decisions/0016-classification.md. Known about two seconds after the second peer out there is connected; what is known of
    /// lifetimes grows over minutes. All is forgotten when the network changes.
    pub fn behaviour(&self) -> Behaviour {
        // An address that answers by a stream alone is one more.
        let streams = self.sockets.streams().filter(|ip| !self.check.unanswered.contains(ip)).count();
        let blocked = !self.check.heard && !self.check.unanswered.is_empty() && self.check.unanswered.len() + streams >= UNANSWERED.0;
        Behaviour { blocked, ..self.check.behaviour.clone() }
    }

    /// Looks at our NAT again, as soon as there are two peers to ask, whenever that was done last.
    pub fn check_nat(&mut self, now: Instant) {
        self.check.next = None;
        self.check.asked = true;
        self.timers.set(Timer::Check, now);
    }

    /// The network has changed: nothing is known.
    pub(crate) fn forget_check(&mut self, now: Instant) {
        if let Some(run) = self.check.run.take() {
            run.sockets().for_each(|socket| self.sockets.close(socket));
        }
        if let Some(scouting) = self.check.scouting.take() {
            self.sockets.close(scouting.socket);
        }
        self.stop_lifetimes();
        self.check = Check::default();
        self.timers.set(Timer::Check, now + GATHER);
    }

    /// A peer with a direct path sees our main socket at `seen`: it may be a reporter. If it saw us elsewhere before, most likely the NAT has forgotten us, or is another one.
    pub(crate) fn on_reporter(&mut self, now: Instant, by: PeerId, seen: SocketAddr) {
        if self.arrival != SocketId::MAIN || address::scope(seen) != Some(Scope::Global) {
            return;
        }
        self.check.heard = true;
        if !self.config.classify {
            return;
        }
        let known = &self.check.behaviour;
        let moved = known.mapping <= Some(Mapping::EndpointIndependent) && self.reflexive.is_moved(by, seen);
        if self.check.run.is_none() && self.check.scouting.is_none() && (moved || known.reporters.len() < MAX_REPORTERS) {
            self.check.moved |= moved;
            self.timers.set_earlier(Timer::Check, self.check.next.unwrap_or(now).max(now + GATHER));
        }
    }

    /// Nobody answers at `address`.
    pub(crate) fn on_unanswered(&mut self, address: SocketAddr) {
        if address::scope(address) == Some(Scope::Global) && self.check.unanswered.len() < UNANSWERED.1 {
            self.check.unanswered.insert(address.ip());
        }
    }

    pub(crate) fn on_check_timer(&mut self, now: Instant) {
        match &mut self.check.run {
            None => match self.check.scouting.take() {
                None => self.begin_scouting(now),
                Some(scouting) if !scouting.again && scouting.missing().next().is_some() => self.scout_again(now, scouting),
                Some(scouting) => self.begin_check(now, &scouting),
            },
            Some(run) if run.round < ROUNDS => {
                run.round += 1;
                let next = now + run.length;
                self.timers.set(Timer::Check, next);
                self.next_round(now);
            }
            Some(_) => self.end_check(now),
        }
    }

    /// Peers at different addresses out there, of one family, in an order of chance.
    fn candidates_to_report(&mut self) -> Vec<(PeerId, SocketAddr)> {
        let at = |id: &PeerId| self.peers.get(id).and_then(|peer| peer.paths.proven_address());
        let global = |id: &PeerId| Some((*id, at(id).filter(|at| address::scope(*at) == Some(Scope::Global) && self.can_introduce(*id))?));
        let all: Vec<(PeerId, SocketAddr)> = self.connected.iter().filter_map(global).collect();
        let v4: BTreeSet<IpAddr> = all.iter().map(|(_, at)| at.ip()).filter(IpAddr::is_ipv4).collect();
        let mut usable: Vec<_> = all.into_iter().filter(|(_, at)| at.is_ipv4() == (v4.len() >= 2)).collect();
        let mut ordered: Vec<(PeerId, SocketAddr)> = Vec::new();
        while !usable.is_empty() && ordered.len() < MAX_SCOUTED {
            let one = usable.swap_remove(self.rng.random_range(0..usable.len()));
            if ordered.iter().all(|(_, at)| at.ip() != one.1.ip()) {
                ordered.push(one);
            }
        }
        ordered
    }

    /// A peer that has reported before, and can still be asked; another than `not`.
    pub(crate) fn reporter(&mut self, not: Option<PeerId>) -> Option<PeerId> {
        let known = self.check.behaviour.reporters.iter().map(|reporter| reporter.peer);
        let usable: Vec<PeerId> = known.filter(|id| Some(*id) != not && self.can_introduce(*id)).collect();
        (!usable.is_empty()).then(|| usable[self.rng.random_range(0..usable.len())])
    }

    fn begin_scouting(&mut self, now: Instant) {
        if !self.config.classify || self.check.next.is_some_and(|next| now < next) {
            return;
        }
        let candidates = self.candidates_to_report();
        if candidates.len() < 2 || (!self.check.asked && !self.check.moved && candidates.len() <= self.check.behaviour.reporters.len()) {
            return;
        }
        self.check.next = Some(now + (PAUSES.0 * (1 << self.check.runs.min(10))).min(PAUSES.1));
        self.check.runs += 1;
        let Some(socket) = self.open_socket(now, ROUND * 3) else { return };
        let asked = candidates.into_iter().filter_map(|(id, _)| Some((self.ask_reflection(now, id, socket, None)?, id))).collect();
        self.check.scouting = Some(Scouting { socket, asked, answered: BTreeSet::new(), again: false });
        self.timers.set(Timer::Check, now + ROUND);
    }

    fn scout_again(&mut self, now: Instant, mut scouting: Scouting) {
        let missing: BTreeSet<PeerId> = scouting.missing().collect();
        let asked = missing.into_iter().filter_map(|id| Some((self.ask_reflection(now, id, scouting.socket, None)?, id)));
        scouting.asked.extend(asked);
        scouting.again = true;
        self.check.scouting = Some(scouting);
        self.timers.set(Timer::Check, now + ROUND);
    }

    fn begin_check(&mut self, now: Instant, scouting: &Scouting) {
        self.sockets.close(scouting.socket);
        let mut reporters = self.candidates_to_report();
        reporters.retain(|(id, _)| scouting.answered.contains(id));
        reporters.truncate(MAX_REPORTERS);
        let known = self.check.behaviour.reporters.len();
        let asked = core::mem::take(&mut self.check.asked) || self.check.moved;
        if reporters.len() < 2 || (!asked && reporters.len() <= known) {
            return;
        }
        let rtt = reporters.iter().filter_map(|(id, _)| self.peers.get(id)?.paths.rtt()).max().unwrap_or_default();
        let length = ROUND.max(rtt * 2);
        let time = length * (ROUNDS + 2);
        let mut trials = Vec::new();
        for (by, at) in &reporters {
            let Some(socket) = self.open_socket(now, time) else { break };
            trials.push(Probed { by: *by, at: *at, socket, token: self.rng.random(), answer: None, came: (false, false) });
        }
        let sockets: Vec<SocketId> = (0..SOCKETS).map_while(|_| self.open_socket(now, time)).collect();
        let mut flows = Vec::new();
        for socket in 0..sockets.len() {
            // In an order that no reporter knows.
            let mut order = reporters.clone();
            while !order.is_empty() {
                let (by, _) = order.swap_remove(self.rng.random_range(0..order.len()));
                flows.push(Flow { by, socket, second: None, tokens: Vec::new(), seen: None });
            }
        }
        self.check.run = Some(Run { round: 0, length, sockets, flows, trials, hairpin: None });
        self.timers.set(Timer::Check, now + length);
        self.next_round(now);
    }

    /// Sends what was not answered, and tries the way back by our own public address.
    fn next_round(&mut self, now: Instant) {
        let Some(mut run) = self.check.run.take() else { return };
        if run.round < SENDS {
            for trial in run.trials.iter().filter(|trial| trial.came == (false, false) && (trial.answer.is_none() || run.round < 2)) {
                self.send_test(trial.by, trial.socket, trial.token, Test::Probe);
            }
        }
        for flow in run.flows.iter_mut().filter(|flow| flow.seen.is_none() && flow.tokens.len() < SENDS as usize) {
            if flow.second.is_none_or(|at| self.ledger.take(now, at, true)) {
                flow.tokens.extend(self.ask_reflection_at(now, flow.by, run.sockets[flow.socket], None, flow.second));
            }
        }
        if run.round >= 2
            && let (Some(a), Some(b)) = (run.seen(0), run.seen(1))
            && run.round < ROUNDS
            && self.local.iter().all(|local| local.ip() != a.ip())
            && a.ip() == b.ip()
        {
            let tag = run.hairpin.map_or_else(|| self.rng.random(), |(tag, _)| tag);
            run.hairpin.get_or_insert((tag, false));
            for (socket, address) in [(run.sockets[0], b), (run.sockets[1], a)] {
                if self.ledger.take(now, address, true) {
                    let probe = Probe { tag, token: self.rng.random() }.encode(address, &mut self.rng);
                    self.push_by(socket, None, address, probe);
                }
            }
        }
        self.check.run = Some(run);
    }

    /// Asks `by` for a test from `socket`.
    pub(crate) fn send_test(&mut self, by: PeerId, socket: SocketId, token: Token, test: Test) -> bool {
        let sealed = self.seal_aside(by, &[Control::Test { token, test }]);
        if let Some((datagram, address)) = sealed {
            self.push_by(socket, None, address, datagram);
            return true;
        }
        false
    }

    fn end_check(&mut self, now: Instant) {
        let Some(run) = self.check.run.take() else { return };
        run.sockets().for_each(|socket| self.sockets.close(socket));
        self.stats.checks += 1;
        let found = run.evidence(&self.local, self.reflexive.reports().collect()).verdict();
        let old = core::mem::take(&mut self.check.behaviour);
        let same = !core::mem::take(&mut self.check.moved) && old.mapping == found.mapping && old.external == found.external;
        if same {
            self.check.behaviour = Behaviour { replied: old.replied, unreplied: old.unreplied, ..found };
        } else {
            self.check.behaviour = found;
            self.restart_lifetimes(now);
        }
    }

    /// A reporter has taken our request; returns whether it is known what for.
    pub(crate) fn on_tested(&mut self, id: PeerId, token: Token, second: bool, other: bool) -> bool {
        let arrival = self.arrival;
        let trials = self.check.run.iter_mut().flat_map(|run| &mut run.trials);
        let trial = trials.into_iter().find(|trial| trial.by == id && trial.token == token && trial.socket == arrival);
        let found = trial.is_some();
        if let Some(trial) = trial {
            let (had_second, had_other) = trial.answer.unwrap_or_default();
            trial.answer = Some((had_second || second, had_other || other));
        }
        found
    }

    /// A reporter can be spoken to at another port.
    pub(crate) fn on_second_port(&mut self, now: Instant, id: PeerId, token: Token, port: u16) {
        let Some(run) = &mut self.check.run else { return };
        let trial = run.trials.iter().find(|trial| trial.by == id && trial.token == token && trial.at.port() != port);
        let known = run.flows.iter().any(|flow| flow.by == id && flow.second.is_some());
        let Some(at) = trial.map(|trial| SocketAddr::new(trial.at.ip(), port)).filter(|_| !known && port != 0) else { return };
        for socket in 0..SECOND.min(run.sockets.len()) {
            run.flows.push(Flow { by: id, socket, second: Some(at), tokens: Vec::new(), seen: None });
        }
        self.next_second(now, id);
    }

    fn next_second(&mut self, now: Instant, id: PeerId) {
        let Some(mut run) = self.check.run.take() else { return };
        for flow in run.flows.iter_mut().filter(|flow| flow.by == id && flow.second.is_some()) {
            if flow.second.is_some_and(|at| self.ledger.take(now, at, true)) {
                flow.tokens.extend(self.ask_reflection_at(now, id, run.sockets[flow.socket], None, flow.second));
            }
        }
        self.check.run = Some(run);
    }

    /// A reflection came; returns whether it was asked for here.
    pub(crate) fn on_check_reflection(&mut self, now: Instant, token: Token, observed: SocketAddr) -> bool {
        if address::scope(observed).is_none() {
            return false;
        }
        if let Some(scouting) = &mut self.check.scouting
            && let Some((_, id)) = scouting.asked.iter().find(|(asked, _)| *asked == token)
        {
            scouting.answered.insert(*id);
            if scouting.missing().next().is_none() {
                self.timers.set(Timer::Check, now);
            }
            return true;
        }
        let flow = self.check.run.iter_mut().flat_map(|run| &mut run.flows).find(|flow| flow.tokens.contains(&token));
        let found = flow.is_some();
        if let Some(flow) = flow {
            flow.seen.get_or_insert(observed);
        }
        found
    }

    /// A probe came by the socket in hand; returns whether it is of a test of ours.
    pub(crate) fn on_test_probe(&mut self, now: Instant, remote: SocketAddr, datagram: &[u8]) -> bool {
        let Some(probe) = Probe::decode(datagram) else { return false };
        if self.on_lifetime_probe(now, probe.tag) {
            return true;
        }
        let arrival = self.arrival;
        let Some(run) = &mut self.check.run else { return false };
        if let Some((_, came)) = run.hairpin.as_mut().filter(|(tag, _)| *tag == probe.tag) {
            *came |= run.sockets.contains(&arrival);
            return true;
        }
        let own = run.flows.iter().filter_map(|flow| flow.seen).map(|seen| seen.ip()).collect::<BTreeSet<_>>();
        let Some(trial) = run.trials.iter_mut().find(|trial| trial.token == probe.tag && trial.socket == arrival) else { return false };
        // Wherever it comes from, our NAT has let it in; but neighbours need not pass it.
        if remote.ip() == trial.at.ip() {
            trial.came.0 |= remote.port() != trial.at.port();
        } else if address::scope(remote) == Some(Scope::Global) && !own.contains(&remote.ip()) {
            trial.came.1 = true;
        }
        true
    }
}
