//! A quick look at our own NAT for the sake of reaching a peer: how it gives out ports, and how many routers there are on the way out. [`check`](crate::check) takes longer, and is harder to deceive.

use core::net::SocketAddr;
use std::time::{Duration, Instant};

use peers_wire::PeerId;
use rand::RngExt;

use crate::address::{self, Scope};
use crate::agent::{Agent, Timer};
use crate::classify;
use crate::control::Token;
use crate::output::SocketId;
use crate::ports::{self, Allocation, Mapping};
use crate::reflect::Reflection;

/// Sockets whose public ports are compared.
const SOCKETS: usize = 8;
/// Routers that a datagram is let pass, to count them.
const HOPS: core::ops::RangeInclusive<u8> = 1..=12;
/// How long answers are waited for, and for how long the sockets are kept.
const TIME: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// What is known of our own NAT.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// How it gives out ports, once that was looked at.
    allocation: Option<Allocation>,
    /// Most ports that are opened at once: fewer than it gives out, if it has stopped before.
    pub(crate) most: Option<u16>,
    /// How many routers are passed on the way to a peer out there.
    routers: Option<u8>,
    done: bool,
    asked: Vec<(Token, Option<u16>)>,
    hops: Vec<(Token, u8)>,
    sockets: Vec<SocketId>,
}

impl Survey {
    /// It was begun, and is not over.
    pub(crate) const fn is_under_way(&self) -> bool {
        !self.asked.is_empty()
    }

    /// It is over, whatever it has brought.
    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    /// How many routers a datagram may pass to leave our NATs and stop short of those of whoever it is for: half of the way, and one more.
    pub(crate) fn short_of_them(&self) -> Option<u8> {
        self.routers.map(|routers| routers.div_ceil(2) + 1)
    }
}

/// Seen from the internet by IPv4, where NATs are.
fn is_global(seen: &SocketAddr) -> bool {
    seen.ip().to_canonical().is_ipv4() && address::scope(*seen) == Some(Scope::Global)
}

impl Agent {
    /// What our NAT does: the verdict on it, or until there is one what peers report of the main socket.
    pub(crate) fn mapping(&self) -> Mapping {
        // A verdict by IPv6 says nothing of NATs.
        let known = self.check.behaviour.external.is_some_and(|address| address.is_ipv4());
        match self.check.behaviour.mapping.filter(|_| known) {
            Some(classify::Mapping::None | classify::Mapping::EndpointIndependent) => Mapping::Independent,
            Some(_) if self.allocation() == Some(Allocation::Sequential) => Mapping::Sequential,
            Some(_) => Mapping::Dependent,
            None => {
                let reports: Vec<SocketAddr> = self.reflexive.reports().map(|(_, seen)| seen).filter(is_global).collect();
                ports::mapping(&self.local, &reports, self.survey.allocation)
            }
        }
    }

    /// How our NAT gives out ports: the verdict on it, or until there is one what the survey has shown.
    pub(crate) fn allocation(&self) -> Option<Allocation> {
        self.check.behaviour.allocation.map(Allocation::from).or(self.survey.allocation)
    }

    /// Looks at our NAT, if peers do not agree on where they see us and it was not looked at since the network changed.
    pub(crate) fn survey_if_needed(&mut self, now: Instant) {
        let reports: Vec<SocketAddr> = self.reflexive.reports().map(|(_, seen)| seen).filter(is_global).collect();
        let disputed = reports.iter().any(|seen| *seen != reports[0]);
        if disputed && !self.survey.done && !self.survey.is_under_way() {
            self.begin_survey(now);
        }
    }

    /// Asks a peer how it sees several new sockets, and which of some short-lived datagrams reach it.
    pub(crate) fn begin_survey(&mut self, now: Instant) {
        let usable = |id: &PeerId| {
            let address = self.peers.get(id).and_then(|peer| peer.paths.proven_address());
            address.is_some_and(|address| address.is_ipv4() && address::scope(address) == Some(Scope::Global))
        };
        // Ids can be chosen: it is not always the first. Those that the user chose come before others.
        let mut usable: Vec<PeerId> = self.connected.iter().copied().filter(usable).collect();
        if usable.iter().any(|id| self.wanted.contains_key(id)) {
            usable.retain(|id| self.wanted.contains_key(id));
        }
        if usable.is_empty() {
            return;
        }
        let by = usable[self.rng.random_range(0..usable.len())];
        let sockets: Vec<SocketId> = (0..=SOCKETS).map_while(|_| self.open_socket(now, TIME.1)).collect();
        let Some((first, others)) = sockets.split_first() else { return };
        // These answers come first, if no datagram overtakes another.
        let hops = HOPS.filter_map(|ttl| Some((self.ask_reflection(now, by, *first, Some(ttl))?, ttl)));
        self.survey.hops = hops.collect();
        self.survey.asked = others.iter().filter_map(|socket| Some((self.ask_reflection(now, by, *socket, None)?, None))).collect();
        self.survey.sockets = sockets;
        self.timers.set(Timer::Survey, now + TIME.0);
    }

    /// Takes a reflection that the survey has asked for; returns whether it was one.
    pub(crate) fn on_survey(&mut self, now: Instant, reflection: &Reflection, token: Token, observed: SocketAddr) -> bool {
        let survey = &mut self.survey;
        if let Some((_, ttl)) = survey.hops.iter().find(|(asked, _)| *asked == token) {
            survey.routers = Some(survey.routers.map_or(ttl - 1, |routers| routers.min(ttl - 1)));
            return true;
        }
        let Some((_, port)) = survey.asked.iter_mut().find(|(asked, _)| *asked == token) else { return false };
        *port = Some(observed.port()).filter(|port| *port != 0);
        debug_assert_eq!(reflection.ttl, None, "it may pass any number of routers");
        if survey.asked.iter().all(|(_, port)| port.is_some()) {
            self.end_survey(now);
        }
        true
    }

    /// All answers are there, or no more are waited for.
    pub(crate) fn end_survey(&mut self, now: Instant) {
        let ports: Vec<u16> = core::mem::take(&mut self.survey.asked).into_iter().filter_map(|(_, port)| port).collect();
        self.survey.allocation = ports::judge(&ports);
        self.survey.done = true;
        self.survey.hops.clear();
        for socket in core::mem::take(&mut self.survey.sockets) {
            self.sockets.close(socket);
        }
        self.timers.clear(Timer::Survey);
        let waiting: Vec<PeerId> = self.peers.iter().filter(|(_, peer)| peer.waits_for_survey()).map(|(id, _)| *id).collect();
        for id in waiting {
            self.timers.set(Timer::Punch(id), now);
        }
    }
}
