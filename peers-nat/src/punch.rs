//! Reaching a peer directly where ordinary probes do not: one NAT, or both, give each destination a port of its own, and the other lets in only whom it was sent to.
//!
//! The end whose ports depend on the destination opens several of them to the other and says between which limits they are; the other probes there. How many of each depends on how its NAT
//! gives out ports: next to each other, or out of a small block, or anywhere (the birthday paradox). What opens a port stops short of the other's NAT, where it can: many a NAT remembers
//! whatever knocked on it, and would give the other's probe another port to keep the two apart.
//!
//! Two that both give out one port after another send each other one probe for each of the ports that come next; one of them in steps of two, as in lockstep they could miss each other for ever.
//!
//! Source: Guha and Francis, "Characterization and Measurement of TCP Traversal through NATs and Firewalls" (IMC 2005), for prediction; RFC 5128, section 3.3, for punching.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use peers_wire::PeerId;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::agent::{Agent, Timer};
use crate::control::{self, Control, Token};
use crate::liveness::PUNCHES;
use crate::output::SocketId;
use crate::paths::Link;
use crate::peer::Peer;
use crate::ports::{self, Allocation, Mapping};

/// How long ordinary probes are given: five quarters of a round trip to the relay, within these limits.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(600));
/// How long opened sockets wait for a probe.
const OPEN_TIME: Duration = Duration::from_secs(8);
/// Sockets opened at once, and the pause before the next: a router that creates flows too slowly loses none.
const OPENING: (u16, Duration) = (128, Duration::from_millis(5));
/// Pause between two batches of probes, and the time for each: 1,000 per second.
const TICK: Duration = Duration::from_millis(4);
const PER_PROBE: Duration = Duration::from_millis(1);
/// Most probes that are made up for at once after the machine was busy.
const MAX_BATCH: usize = 32;
/// Most probes of one attempt: with the sockets opened on the other side less than 2,000 datagrams.
const MAX_SPRAY: usize = 1400;
/// Probes of an attempt to step along with a sequential NAT, how often they are repeated, and the pause before.
const STEPS: (u16, u8, Duration) = (24, 3, Duration::from_millis(150));
/// A range of ports between two that came one after the other is not larger.
const MAX_BRACKET: u16 = 64;
/// How long the answer to the last probe, or to a bracket, is waited for.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// An attempt that has come to nothing is repeated with a new introduction after so long, by the initiator; then at doubling pauses, as often as a lost direct path is looked for.
const AGAIN: Duration = Duration::from_secs(10);
/// After a NAT has stopped giving out ports, so much fewer are opened to the next peer, but at least so many.
const QUOTA_STEP: usize = 4;
const QUOTA_FLOOR: u16 = 16;
/// Pauses before the word of opened ports is repeated, the first after it was said once; after the last they are closed.
const SAID_AGAIN: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_millis(500), Duration::from_secs(1), OPEN_TIME.saturating_sub(Duration::from_secs(2))];
/// Pause before looking again whether another attempt is over.
const BUSY: Duration = Duration::from_millis(250);
/// Attempts that spray the addresses of one network, and all, within [`SPRAY_WINDOW`].
const SPRAYS: (usize, usize) = (2, 8);
const SPRAY_WINDOW: Duration = Duration::from_secs(60);

/// An attempt to get to a direct path to one peer.
#[derive(Debug)]
pub(crate) struct Punch {
    theirs: Mapping,
    /// A user asked for the peer, here or there: hundreds of datagrams are worth it.
    wanted: bool,
    stage: Stage,
    /// It is among the attempts that are limited in number.
    counted: bool,
    sockets: Vec<SocketId>,
    /// Shows whether our NAT still gave out ports after all were opened.
    canary: Option<Token>,
    /// The socket that the other end has found, and when.
    found: Option<(SocketId, Instant)>,
    /// What we said of the ports that we have opened, and how often.
    said: Option<(u16, u16, u16)>,
    times: usize,
    /// What the other end said of the ports that it has opened.
    told: Option<(u16, u16, u16)>,
    /// Where the relay saw the other end when this began: a later word does not move what is under way.
    target: SocketAddr,
}

#[derive(Debug)]
enum Stage {
    /// Ordinary probes may still do.
    Waiting,
    /// What our NAT does is being looked at.
    Surveying,
    /// Sockets are opened to the other end.
    Opening { left: u16 },
    /// What our NAT gave out before and after the sockets that were opened is being asked for. With one token alone: what it gave out last.
    Bracketing { asked: Vec<(Token, Option<u16>)>, opened: u16 },
    /// The ports of the other end are probed.
    Spraying { ports: Vec<u16>, since: Instant, sent: usize },
    /// Both ends step through their ports.
    Stepping { passes: u8 },
    /// The other end's probes are waited for, or its word on which ports it has opened.
    Listening,
    /// Nothing more is done.
    Over,
}

/// Which end does what.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// Opens ports to the other, which probes them.
    Opens,
    /// Probes ports that the other opens.
    Probes,
    /// Both step through their ports.
    Steps,
    /// It cannot work, or is not needed.
    None,
}

/// `first`: of two that know as little of themselves, this end opens.
fn role(ours: Mapping, theirs: Mapping, first: bool) -> Role {
    use Mapping::{Dependent, Independent, Sequential, Unknown};
    match (ours, theirs) {
        (Sequential, Sequential) => Role::Steps,
        (Independent, Independent) | (Dependent | Sequential, Dependent | Sequential) => Role::None,
        (Dependent | Sequential, Independent | Unknown) | (Unknown, Independent) => Role::Opens,
        (Independent | Unknown, Dependent | Sequential) | (Independent, Unknown) => Role::Probes,
        (Unknown, Unknown) => {
            if first {
                Role::Opens
            } else {
                Role::Probes
            }
        }
    }
}

/// The attempts to probe many ports of one address.
#[derive(Debug, Default)]
pub(crate) struct Sprays {
    recent: VecDeque<(IpAddr, Instant)>,
}

impl Sprays {
    /// Whether one more may go to `address` now; it is counted.
    ///
    /// `wanted`: the user asked for the peer; all others share half of what there is, so that they cannot use it up.
    fn take(&mut self, now: Instant, address: IpAddr, wanted: bool) -> bool {
        self.recent.retain(|(_, at)| now.duration_since(*at) < SPRAY_WINDOW);
        let network = network(address);
        let same = self.recent.iter().filter(|(recent, _)| *recent == network).count();
        let most = if wanted { SPRAYS.1 } else { SPRAYS.1 / 2 };
        let may = same < SPRAYS.0 && self.recent.len() < most;
        if may {
            self.recent.push_back((network, now));
        }
        may
    }
}

/// The /24 or /48 that an address is in.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) & 0xffff_ff00).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) >> 80 << 80).to_be_bytes()),
    }
}

impl Peer {
    /// The attempt to reach it waits for what is learnt of our own NAT.
    pub(crate) fn waits_for_survey(&self) -> bool {
        self.punch.as_ref().is_some_and(|punch| matches!(punch.stage, Stage::Surveying))
    }

    /// Whether a probe that came by `socket` is to be answered: of several that the other end has found one is enough, unless that comes to nothing.
    pub(crate) fn is_found(&mut self, now: Instant, socket: SocketId) -> bool {
        let Some(punch) = self.punch.as_mut() else { return true };
        let (found, at) = *punch.found.get_or_insert((socket, now));
        if found != socket && now.duration_since(at) > ANSWER_TIME {
            punch.found = Some((socket, now));
        }
        punch.found.is_some_and(|(found, _)| found == socket)
    }

    /// Who relays between us.
    fn relay(&self, now: Instant) -> Option<PeerId> {
        self.paths.usable(now).find_map(|link| if let Link::Relayed { via, .. } = link { Some(via) } else { None })
    }

    /// Where its NAT is, if a relay that we reach it through has said so.
    fn attested(&self) -> Option<SocketAddr> {
        let relayed = matches!(self.paths.selected(), None | Some(Link::Relayed { .. }));
        let begun = self.punch.as_ref().map(|punch| punch.target);
        self.paths.introduced_at().map(|seen| begun.unwrap_or(seen)).filter(|address| relayed && address.is_ipv4())
    }
}

impl Agent {
    /// A relay has introduced us to `id`, whose NAT does `theirs`: if ordinary probes do not reach it soon, more is tried.
    pub(crate) fn begin_punch(&mut self, now: Instant, id: PeerId, theirs: Mapping, wanted: bool) {
        let wanted = wanted || self.wanted.contains_key(&id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // One that is under way is not begun anew: who introduces again and again gets no more for it.
        if let Some(punch) = peer.punch.as_mut().filter(|punch| !matches!(punch.stage, Stage::Over)) {
            punch.wanted |= wanted;
            return;
        }
        let via = peer.relay(now);
        if peer.attested().is_none() {
            return;
        }
        self.end_punch(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(target) = peer.attested() else { return };
        peer.punch = Some(Box::new(Punch {
            theirs,
            wanted,
            stage: Stage::Waiting,
            counted: false,
            sockets: Vec::new(),
            canary: None,
            found: None,
            said: None,
            times: 0,
            told: None,
            target,
        }));
        let probed = peer.paths.probed_since().unwrap_or(now);
        let rtt = via.and_then(|via| self.peers.get(&via)).and_then(|relay| relay.paths.rtt()).unwrap_or_default();
        self.timers.set(Timer::Punch(id), (probed + (rtt * 5 / 4).clamp(WAIT.0, WAIT.1)).max(now));
    }

    /// Nothing more is tried: there is a direct path, or the peer is gone. Sockets that carry no session are closed.
    pub(crate) fn end_punch(&mut self, id: PeerId) {
        self.timers.clear(Timer::Punch(id));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let in_use = peer.paths.proven_address().map(|address| self.sockets.of(address));
        if let Some(punch) = peer.punch.take() {
            // The one that was found may be in use at the other end.
            let found = punch.found.map(|(socket, _)| socket);
            for socket in punch.sockets.into_iter().filter(|socket| Some(*socket) != in_use && Some(*socket) != found) {
                self.sockets.close(socket);
            }
        }
    }

    /// Carries on an attempt.
    pub(crate) fn on_punch_timer(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(target) = peer.attested() else {
            self.end_punch(id);
            return;
        };
        let Some(punch) = peer.punch.as_mut() else { return };
        match core::mem::replace(&mut punch.stage, Stage::Over) {
            Stage::Waiting | Stage::Surveying => self.choose(now, id, target),
            Stage::Opening { left } => self.open_ports(now, id, target, left),
            Stage::Spraying { ports, since, sent } => self.spray(now, id, target, ports, since, sent),
            Stage::Stepping { passes } => self.step(now, id, target, passes),
            Stage::Listening if self.say_again(now, id) => {}
            Stage::Bracketing { .. } | Stage::Listening | Stage::Over => self.attempt_failed(now, id),
        }
    }

    fn stage(&mut self, id: PeerId, at: Instant, stage: Stage) {
        if let Some(punch) = self.peers.get_mut(&id).and_then(|peer| peer.punch.as_mut()) {
            punch.stage = stage;
            self.timers.set(Timer::Punch(id), at);
        }
    }

    /// Ordinary probes have not done.
    fn choose(&mut self, now: Instant, id: PeerId, target: SocketAddr) {
        let Some(punch) = self.peers.get(&id).and_then(|peer| peer.punch.as_ref()) else { return };
        let (theirs, told, wanted, counted) = (punch.theirs, punch.told, punch.wanted, punch.counted);
        let part = role(self.mapping(), theirs, self.key.id() < id);
        if part == Role::Opens && !wanted && self.mapping() != Mapping::Sequential {
            self.end_punch(id);
            return;
        }
        if matches!(part, Role::Opens | Role::Steps) && !counted {
            // What is sent to open ports is sent to an address that others have named, as probes are.
            if !self.sprays.take(now, target.ip(), self.wanted.contains_key(&id)) {
                self.stats.dropped_limited += 1;
                self.attempt_failed(now, id);
                return;
            }
            if let Some(punch) = self.peers.get_mut(&id).and_then(|peer| peer.punch.as_mut()) {
                punch.counted = true;
            }
        }
        match part {
            Role::None => self.end_punch(id),
            Role::Probes => {
                self.stage(id, now + OPEN_TIME, Stage::Listening);
                if let Some((low, high, opened)) = told {
                    self.begin_spray(now, id, low, high, opened);
                }
            }
            Role::Opens | Role::Steps if !self.survey.is_done() => {
                // Without a peer out there to ask, all that is left is to wait for what the other end does.
                if !self.survey.is_under_way() {
                    self.begin_survey(now);
                }
                if self.survey.is_under_way() {
                    self.stage(id, now + ANSWER_TIME * 2, Stage::Surveying);
                } else {
                    self.stage(id, now + OPEN_TIME, Stage::Listening);
                }
            }
            Role::Opens | Role::Steps if self.is_punching(id) => self.stage(id, now + BUSY, Stage::Waiting),
            Role::Opens => match self.allocation() {
                Some(Allocation::Sequential) => self.bracket(now, id, Some(target)),
                range => {
                    let range = range.unwrap_or(ports::ANY);
                    let (left, (low, high)) = (range.sockets().min(self.survey.most.unwrap_or(u16::MAX)), range.limits());
                    // The ports are open long before the word of it has come through the relay.
                    self.say_opened(now, id, low, high, left);
                    self.open_ports(now, id, target, left);
                }
            },
            Role::Steps => self.bracket(now, id, None),
        }
    }

    /// Whether ports are being opened to another peer: one at a time is enough for a router.
    fn is_punching(&self, but: PeerId) -> bool {
        let opens = |peer: &Peer| peer.punch.as_ref().is_some_and(|punch| punch.sockets.iter().any(|socket| self.sockets.is_open(*socket)));
        self.peers.iter().any(|(id, peer)| *id != but && opens(peer))
    }

    /// Whether `socket` was opened to some peer.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn opens_by(&self, socket: SocketId) -> bool {
        self.peers.values().any(|peer| peer.punch.as_ref().is_some_and(|punch| punch.sockets.contains(&socket)))
    }

    /// Opens a socket to the other end's NAT, and the port that our own gives it.
    fn open_port(&mut self, now: Instant, id: PeerId, target: SocketAddr) -> Option<SocketId> {
        let socket = self.auxiliary(now, id)?;
        self.send_probe(id, socket, self.survey.short_of_them(), target);
        Some(socket)
    }

    /// A socket for an attempt.
    fn auxiliary(&mut self, now: Instant, id: PeerId) -> Option<SocketId> {
        let socket = self.open_socket(now, OPEN_TIME)?;
        self.peers.get_mut(&id)?.punch.as_mut()?.sockets.push(socket);
        Some(socket)
    }

    /// Opens the next of `left` ports.
    fn open_ports(&mut self, now: Instant, id: PeerId, target: SocketAddr, left: u16) {
        let batch = left.min(OPENING.0);
        for _ in 0..batch {
            self.open_port(now, id, target);
        }
        if left > batch {
            self.stage(id, now + OPENING.1, Stage::Opening { left: left - batch });
        } else {
            self.stage(id, now + SAID_AGAIN[0], Stage::Listening);
            self.look_for_quota(now, id);
        }
    }

    /// One more socket, which a peer is to see: if it does not, the NAT gives us no more ports.
    fn look_for_quota(&mut self, now: Instant, id: PeerId) {
        let via = self.ipv4_relay(now, id);
        let socket = self.auxiliary(now, id);
        let canary = via.zip(socket).and_then(|(via, socket)| self.ask_reflection(now, via, socket, None));
        if let Some(punch) = self.peers.get_mut(&id).and_then(|peer| peer.punch.as_mut()) {
            punch.canary = canary;
        }
    }

    /// Says again which ports are open, as the word may have been lost; returns whether it was not said often enough yet.
    fn say_again(&mut self, now: Instant, id: PeerId) -> bool {
        let Some(punch) = self.peers.get(&id).and_then(|peer| peer.punch.as_ref()) else { return false };
        let (Some((low, high, opened)), Some(pause)) = (punch.said, SAID_AGAIN.get(punch.times).copied()) else { return false };
        let (found, target) = (punch.found, punch.target);
        if let Some(punch) = self.peers.get_mut(&id).and_then(|peer| peer.punch.as_mut()).filter(|punch| punch.found.is_some()) {
            punch.times += 1;
        }
        match found {
            // It was found, and what followed was lost.
            Some((socket, _)) => self.ping_by(now, id, socket, target),
            None => self.say_opened(now, id, low, high, opened),
        }
        self.stage(id, now + pause, Stage::Listening);
        true
    }

    /// Asks the other end, by the socket that it has found, whether it hears us.
    fn ping_by(&mut self, now: Instant, id: PeerId, socket: SocketId, target: SocketAddr) {
        let token = self.rng.random();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.paths.pinged(now, Link::Direct(target), token);
        let ping = Control::Ping { token, association: peer.association, observed: Some(target) };
        let Some(keyed) = peer.sessions.newest() else { return };
        let mut datagram = Vec::with_capacity(64);
        keyed.session.seal(&control::plaintext(&[ping]), &mut datagram);
        self.push_by(socket, None, target, datagram);
    }

    /// Tells the other end, through the relay, which ports are open to it.
    fn say_opened(&mut self, now: Instant, id: PeerId, low: u16, high: u16, opened: u16) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(punch) = peer.punch.as_mut() {
            punch.said = Some((low, high, opened));
            punch.times += 1;
        }
        let relayed = peer.paths.usable(now).find(|link| link.address().is_none());
        let index = peer.sessions.newest().map(|keyed| keyed.session.local_index());
        if let Some(link) = relayed {
            self.send_control(now, id, index, link, &[Control::Opened { low, high, opened }]);
        }
    }

    /// Who relays between us and sees us by IPv4, where NATs are.
    fn ipv4_relay(&self, now: Instant, id: PeerId) -> Option<PeerId> {
        let via = self.peers.get(&id)?.relay(now)?;
        self.peers.get(&via)?.paths.proven_address().filter(SocketAddr::is_ipv4).map(|_| via)
    }

    /// Has our sequential NAT give out ports to the other end between two that a peer tells us; or, to step along with another sequential one, learns the one given out last.
    fn bracket(&mut self, now: Instant, id: PeerId, target: Option<SocketAddr>) {
        let Some(by) = self.ipv4_relay(now, id) else {
            self.attempt_failed(now, id);
            return;
        };
        let ask = |agent: &mut Self| {
            let socket = agent.auxiliary(now, id)?;
            agent.ask_reflection(now, by, socket, None)
        };
        let mut asked: Vec<(Token, Option<u16>)> = ask(self).map(|token| (token, None)).into_iter().collect();
        let mut opened = 0;
        if let Some(target) = target {
            for _ in 0..Allocation::Sequential.sockets() {
                opened += u16::from(self.open_port(now, id, target).is_some());
            }
            asked.extend(ask(self).map(|token| (token, None)));
        }
        self.stage(id, now + ANSWER_TIME, Stage::Bracketing { asked, opened });
    }

    /// Takes a reflection that an attempt has asked for; returns whether it was one.
    pub(crate) fn on_bracket(&mut self, now: Instant, token: Token, observed: SocketAddr) -> bool {
        let (mut asked_for, mut done) = (false, None);
        for (id, peer) in &mut self.peers {
            if let Some(punch) = peer.punch.as_mut().filter(|punch| punch.canary == Some(token)) {
                punch.canary = None;
                return true;
            }
            let Some(Stage::Bracketing { asked, opened }) = peer.punch.as_mut().map(|punch| &mut punch.stage) else { continue };
            let Some((_, port)) = asked.iter_mut().find(|(asked, _)| *asked == token) else { continue };
            asked_for = true;
            *port = Some(observed.port());
            let ports: Vec<u16> = asked.iter().filter_map(|(_, port)| *port).collect();
            if ports.len() == asked.len() {
                done = Some((*id, ports, *opened));
            }
            break;
        }
        match done {
            // The last one given out: both ends go on from there.
            Some((id, ports, 0)) => {
                self.say_opened(now, id, ports[0], ports[0], 0);
                self.stage(id, now + SAID_AGAIN[0], Stage::Listening);
                self.begin_to_step(now, id);
            }
            Some((id, ports, opened)) => {
                let (low, high) = (ports[0].min(ports[ports.len() - 1]), ports[0].max(ports[ports.len() - 1]));
                if high - low <= MAX_BRACKET {
                    self.say_opened(now, id, low, high, opened);
                    self.stage(id, now + SAID_AGAIN[0], Stage::Listening);
                } else {
                    self.attempt_failed(now, id);
                }
            }
            None => {}
        }
        asked_for
    }

    /// The other end has opened ports to us, or tells which its NAT gave out last.
    pub(crate) fn on_opened(&mut self, now: Instant, id: PeerId, link: Link, low: u16, high: u16, opened: u16) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (None, Some(_), Some(punch)) = (link.address(), peer.attested(), peer.punch.as_mut()) else {
            self.stats.dropped_unknown += 1;
            return;
        };
        // The first word counts.
        punch.told.get_or_insert((low, high, opened));
        match punch.stage {
            Stage::Listening if opened > 0 => self.begin_spray(now, id, low, high, opened),
            Stage::Listening => self.begin_to_step(now, id),
            // It has waited for long enough: so have we.
            Stage::Waiting => self.timers.set(Timer::Punch(id), now),
            _ => {}
        }
    }

    /// Probes the ports that the other end has opened, in no order, as many as make it likely to find one.
    fn begin_spray(&mut self, now: Instant, id: PeerId, low: u16, high: u16, opened: u16) {
        let Some(target) = self.peers.get(&id).and_then(|peer| peer.attested()) else { return };
        if opened == 0 {
            return;
        }
        if !self.sprays.take(now, target.ip(), self.wanted.contains_key(&id)) {
            self.stats.dropped_limited += 1;
            return;
        }
        let mut ports: Vec<u16> = (low..=high).collect();
        let (chosen, _) = ports.partial_shuffle(&mut self.rng, MAX_SPRAY);
        let ports = chosen.to_vec();
        self.spray(now, id, target, ports, now, 0);
    }

    fn spray(&mut self, now: Instant, id: PeerId, target: SocketAddr, mut ports: Vec<u16>, since: Instant, sent: usize) {
        let due = 1 + usize::try_from(now.duration_since(since).as_micros() / PER_PROBE.as_micros()).unwrap_or(usize::MAX - 1);
        let batch = due.saturating_sub(sent).min(MAX_BATCH).min(ports.len());
        for port in ports.split_off(ports.len() - batch) {
            self.send_probe(id, SocketId::MAIN, None, SocketAddr::new(target.ip(), port));
        }
        if ports.is_empty() {
            self.stage(id, now + ANSWER_TIME, Stage::Over);
        } else {
            self.stage(id, now + TICK, Stage::Spraying { ports, since, sent: due });
        }
    }

    /// Both ends know which port the other's NAT gave out last.
    fn begin_to_step(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (Some(target), Some(punch)) = (peer.attested(), peer.punch.as_ref()) else { return };
        if !matches!(punch.told, Some((_, _, 0))) || punch.sockets.is_empty() {
            return;
        }
        self.step(now, id, target, 0);
    }

    /// Sends a probe to each of the ports that the other end's NAT gives out next, from ports that ours gives out one after the other.
    fn step(&mut self, now: Instant, id: PeerId, target: SocketAddr, passes: u8) {
        let Some(punch) = self.peers.get(&id).and_then(|peer| peer.punch.as_ref()) else { return };
        let said = punch.said.filter(|_| passes > 0);
        let (Some((last, _, 0)), Some(socket)) = (punch.told, punch.sockets.first().copied()) else {
            self.attempt_failed(now, id);
            return;
        };
        if passes == STEPS.1 {
            self.stage(id, now + ANSWER_TIME, Stage::Over);
            return;
        }
        if let Some((low, high, opened)) = said {
            // The other end may not have heard it.
            self.say_opened(now, id, low, high, opened);
        }
        let stride = if self.key.id() < id { 1 } else { 2 };
        // Our NAT gives the first of them the port after the one that the other end knows: that is what lets the two sequences cross.
        for i in 0..STEPS.0 {
            self.send_probe(id, socket, None, SocketAddr::new(target.ip(), last.wrapping_add(i * stride).max(1)));
        }
        self.stage(id, now + STEPS.2, Stage::Stepping { passes: passes + 1 });
    }

    /// The peer stays behind its relay; the initiator tries again, less and less often.
    fn attempt_failed(&mut self, now: Instant, id: PeerId) {
        // Strangers, and the relays that introduce them, teach us nothing that others have to bear.
        let punch = self.peers.get(&id).and_then(|peer| peer.punch.as_ref()).filter(|_| self.wanted.contains_key(&id));
        if let Some(punch) = punch.filter(|punch| punch.canary.is_some()) {
            self.survey.most = Some(u16::try_from(punch.sockets.len() / QUOTA_STEP).unwrap_or(u16::MAX).max(QUOTA_FLOOR));
        }
        self.end_punch(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let initiated = peer.sessions.current.as_ref().is_some_and(|keyed| keyed.initiated);
        if initiated && peer.connected() && peer.punches <= PUNCHES.0 {
            peer.punches = PUNCHES.0 + 1;
            self.timers.set(Timer::Repair(id), now + AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn the_two_ends_never_take_the_same_part_unless_both_step() {
        use Mapping::{Dependent, Independent, Sequential, Unknown};
        let kinds = [Unknown, Independent, Dependent, Sequential];
        for (a, b) in kinds.iter().flat_map(|a| kinds.iter().map(move |b| (*a, *b))) {
            let parts = (role(a, b, true), role(b, a, false));
            let fits = matches!(
                parts,
                (Role::Opens, Role::Probes) | (Role::Probes, Role::Opens) | (Role::Steps, Role::Steps) | (Role::None, Role::None)
            );
            assert!(fits, "{a:?} and {b:?}: {parts:?}");
        }
    }

    #[test]
    fn sprays_of_one_network_are_rare_and_so_are_all_together() {
        let (now, mut sprays) = (epoch(), Sprays::default());
        let address = |n: u8, host: u8| IpAddr::from([50, 0, n, host]);
        assert_eq!((0..10).filter(|host| sprays.take(now, address(1, *host), true)).count(), SPRAYS.0);
        assert_eq!((2..200).filter(|n| sprays.take(now, address(*n, 1), false)).count(), SPRAYS.1 / 2 - SPRAYS.0);
        assert_eq!((2..200).filter(|n| sprays.take(now, address(*n, 1), true)).count(), SPRAYS.1 / 2);
        assert!(sprays.take(now + SPRAY_WINDOW, address(1, 1), false));
    }
}
