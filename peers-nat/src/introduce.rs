//! Introductions: asking a common peer for one, making one between two others, and passing on what they then send each other.

use core::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{DatagramKind, receiver_index};
use peers_wire::PeerId;
use rand::RngExt;

use crate::address;
use crate::agent::{Agent, Slot, Timer};
use crate::control::{Control, Route};
use crate::output::SocketId;
use crate::paths::Link;
use crate::peer::{Purpose, Sent};
use crate::relay::ROUTE_IDLE;

/// A peer that was silent for so long is pinged when someone is introduced to it.
const DOUBT: Duration = Duration::from_secs(2);
/// Most relays that are asked for one handshake.
pub(crate) const MAX_INTRODUCERS: usize = 8;

impl Agent {
    /// Has up to `count` relays pass on the handshake with `target`: those that named it first, then any.
    pub(crate) fn ask_relays(&mut self, now: Instant, target: PeerId, count: usize) {
        while let Some((relay, datagram)) = self.next_relay(target, count) {
            // The first time goes with the rest of the handshake.
            if let Some(datagram) = datagram {
                self.ask_introduction(now, relay, target, &datagram);
            }
        }
    }

    fn next_relay(&mut self, target: PeerId, count: usize) -> Option<(PeerId, Option<Bytes>)> {
        let peer = self.peers.get(&target).filter(|_| !self.config.lan_only)?;
        let dial = peer.dial.as_ref()?;
        if dial.open.len() >= count || peer.introducers.len() >= MAX_INTRODUCERS {
            return None;
        }
        let in_use = peer.paths.selected();
        let may = |id: &PeerId| {
            let lost = dial.purpose == Purpose::Repair && matches!(in_use, Some(Link::Relayed { via, .. }) if via == *id);
            !lost && *id != target && !peer.introducers.contains(id) && self.can_introduce(*id)
        };
        let mut relays: Vec<PeerId> = match (dial.purpose, in_use) {
            (Purpose::Rekey | Purpose::Punch, Some(Link::Relayed { via, .. })) => vec![via],
            (Purpose::Rekey | Purpose::Punch, _) => Vec::new(),
            _ => self.book.tellers(target).filter(|id| may(id)).collect(),
        };
        relays.retain(|id| may(id));
        if matches!(dial.purpose, Purpose::Wanted | Purpose::Repair) && peer.introducers.len() % 2 == 1 {
            // Any number of liars may say that they are connected to it: in turn with those who say so, one is asked that the user chose.
            let chosen: Vec<PeerId> = self.wanted.iter().filter(|(id, wanted)| wanted.chosen && may(id)).map(|(id, _)| *id).collect();
            if !chosen.is_empty() {
                relays = chosen;
            }
        }
        if relays.is_empty() && matches!(dial.purpose, Purpose::Wanted | Purpose::Repair) {
            relays = self.connected.iter().copied().filter(|id| may(id)).collect();
        }
        if relays.is_empty() {
            return None;
        }
        let relay = relays[self.rng.random_range(0..relays.len())];
        let peer = self.peers.get_mut(&target)?;
        let dial = peer.dial.as_mut()?;
        dial.open.push(relay);
        peer.introducers.push(relay);
        Some((relay, (dial.sends > 0).then(|| Bytes::copy_from_slice(dial.initiator.datagram()))))
    }

    /// Whether `id` is connected directly, and answers: only then can it relay for us, or we for it.
    pub(crate) fn can_introduce(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.connected() && peer.paths.proven_address().is_some() && !peer.suspect())
    }

    pub(crate) fn ask_introduction(&mut self, now: Instant, relay: PeerId, target: PeerId, initiation: &[u8]) {
        if let Some(link) = self.peers.get(&relay).and_then(|peer| peer.paths.selected()) {
            self.send_control(now, relay, None, link, &[Control::Introduce { target, initiation }]);
            self.expect_answer(now, relay, Sent::Ping);
        }
    }

    /// As a relay: `from` wants to be introduced to `target`.
    pub(crate) fn on_introduce(&mut self, now: Instant, from: PeerId, target: PeerId, initiation: &[u8]) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(link) = peer.paths.selected() else { return };
        if !peer.introductions.take(now, 1) {
            self.stats.dropped_limited += 1;
            return;
        }
        let from_address = peer.paths.proven_address();
        let may = target != from && self.can_introduce(target);
        let to = self.peers.get(&target).filter(|_| may).and_then(|peer| peer.paths.proven_address());
        let route = match (from_address, to) {
            (Some(a), Some(b)) if self.config.relay && !self.config.lan_only => {
                self.table.open(now, from, target, &mut self.rng).map(|route| (route, a, b))
            }
            _ => None,
        };
        let Some((route, from_address, to_address)) = route else {
            self.stats.refused += 1;
            self.send_control(now, from, None, link, &[Control::Refused { target }]);
            return;
        };
        self.stats.introduced += 1;
        self.timers.set_earlier(Timer::Relay, now + ROUTE_IDLE / 4);
        let introduction = Control::Introduction { route, address: from_address, initiation };
        let load = Control::Load { route, load: self.table.load(now) };
        // If it is not sure that the target is there, now is the time to know: it is asked for.
        if self.peers.get(&target).is_some_and(|peer| now.duration_since(peer.heard) > DOUBT) {
            self.ping_with(now, target, None, Link::Direct(to_address), Some(introduction));
            self.send_control(now, target, None, Link::Direct(to_address), core::slice::from_ref(&load));
        } else {
            self.send_control(now, target, None, Link::Direct(to_address), &[introduction, load.clone()]);
        }
        self.send_control(now, from, None, link, &[Control::Introduced { target, route, address: to_address }, load]);
    }

    /// As a relay: passes a datagram on if it comes from one end of its route.
    pub(crate) fn pass_on(&mut self, now: Instant, remote: SocketAddr, route: Route, ends: (PeerId, PeerId), datagram: Bytes) {
        // An end that has just moved need not wait for its new address to be proven.
        let is_from = |id: &PeerId| self.peers.get(id).is_some_and(|peer| peer.paths.is_heard_from(remote));
        let far = match ends {
            (a, b) if is_from(&a) => Some(b),
            (a, b) if is_from(&b) => Some(a),
            _ => None,
        };
        let to = far.and_then(|far| self.peers.get(&far)).and_then(|peer| peer.paths.proven_address());
        match to {
            Some(to) if self.table.pass(now, route, datagram.len()) => {
                self.stats.relayed += 1;
                self.stats.relayed_bytes += datagram.len() as u64;
                self.push(to, datagram);
            }
            _ => self.stats.dropped_relayed += 1,
        }
    }

    /// `relay` introduces someone to us whom it sees at `seen`.
    pub(crate) fn on_introduction(&mut self, now: Instant, relay: PeerId, route: Route, seen: SocketAddr, initiation: &[u8]) {
        if self.config.lan_only {
            self.stats.dropped_relayed += 1;
        } else if DatagramKind::of(initiation) == Some(DatagramKind::IkInitiation) {
            self.on_initiation(now, Link::Relayed { via: relay, route }, initiation, Some(seen));
        } else {
            self.stats.dropped_malformed += 1;
        }
    }

    /// `relay` has passed our handshake on to `target`, which it sees at `seen`.
    pub(crate) fn on_introduced(&mut self, now: Instant, relay: PeerId, target: PeerId, route: Route, seen: SocketAddr) {
        if !self.peers.get(&target).is_some_and(|peer| peer.introducers.contains(&relay)) {
            self.stats.dropped_unknown += 1;
            return;
        }
        self.learn_relay(now, target, relay, route);
        self.introduced_by(now, target, relay, seen, &[]);
    }

    /// `relay` tells how busy it is: of several between us and a peer both ends choose the one that is least so.
    pub(crate) fn on_load(&mut self, now: Instant, relay: PeerId, route: Route, load: u8) {
        let Some(far) = self.routes.get(&route).filter(|(via, _)| *via == relay).map(|(_, far)| *far) else { return };
        if self.peers.get_mut(&far).is_some_and(|peer| peer.paths.loaded(now, route, load)) {
            self.tell_path(far);
        }
    }

    /// `relay` cannot introduce us to `target`: another may.
    pub(crate) fn on_refused(&mut self, now: Instant, relay: PeerId, target: PeerId) {
        self.book.denied(target, relay);
        let Some(dial) = self.peers.get_mut(&target).and_then(|peer| peer.dial.as_mut()) else { return };
        let asked = dial.open.len();
        dial.open.retain(|open| *open != relay);
        if dial.open.len() == asked {
            return;
        }
        self.ask_relays(now, target, asked);
        if self.is_hopeless(target) {
            self.dial_failed(now, target);
        }
    }

    /// A relay no longer passes on for us.
    pub(crate) fn on_route_closed(&mut self, now: Instant, relay: PeerId, route: Route) {
        let Some((via, far)) = self.routes.get(&route).copied() else { return };
        if via == relay {
            self.routes.remove(&route);
            self.lost_route(now, far, relay, Some(route));
        }
    }

    /// A peer is gone: those it relayed for, and those that we relayed to it, have to know.
    pub(crate) fn on_relay_lost(&mut self, now: Instant, id: PeerId) {
        for (route, other) in self.table.remove_peer(id) {
            if let Some(link) = self.peers.get(&other).and_then(|peer| peer.paths.selected()) {
                self.send_control(now, other, None, link, &[Control::RouteClosed { route }]);
            }
        }
        let lost: Vec<(Route, PeerId)> =
            self.routes.iter().filter(|(_, (via, _))| *via == id).map(|(route, (_, far))| (*route, *far)).collect();
        for (route, far) in lost {
            self.routes.remove(&route);
            self.lost_route(now, far, id, None);
        }
    }

    /// If the route was in use, another path is taken, and looked for at once.
    fn lost_route(&mut self, now: Instant, far: PeerId, relay: PeerId, route: Option<Route>) {
        let Some(peer) = self.peers.get_mut(&far) else { return };
        if peer.paths.remove_relay(now, relay, route) && peer.connected() {
            self.tell_path(far);
            self.timers.set(Timer::Repair(far), now);
        }
    }

    /// Learns that `relay` passes on to `far` on `route`.
    pub(crate) fn learn_relay(&mut self, now: Instant, far: PeerId, relay: PeerId, route: Route) {
        // Routes are chosen at random: who names that of another relay has seen it pass, and means harm.
        if self.routes.get(&route).is_some_and(|(via, _)| *via != relay) {
            self.stats.dropped_relayed += 1;
            return;
        }
        if let Some(peer) = self.peers.get_mut(&far) {
            if let Some(replaced) = peer.paths.add_relay(now, relay, route) {
                self.routes.remove(&replaced);
            }
            self.routes.insert(route, (relay, far));
        }
    }

    /// An answer to our handshake may come before the relay's word about the route it comes by.
    pub(crate) fn learn_route(&mut self, now: Instant, remote: SocketAddr, route: Route, inner: &[u8]) -> Option<(PeerId, PeerId)> {
        if DatagramKind::of(inner) != Some(DatagramKind::IkResponse) {
            return None;
        }
        let Some(Slot::Dial(target)) = receiver_index(inner).and_then(|index| self.indices.get(&index).copied()) else { return None };
        let dial = self.peers.get(&target)?.dial.as_ref()?;
        let via = *dial.open.iter().find(|relay| self.peers.get(*relay).is_some_and(|relay| relay.paths.is_at(remote)))?;
        self.learn_relay(now, target, via, route);
        Some((via, target))
    }

    /// A peer that we reach through a relay may be reached at these addresses as well.
    pub(crate) fn on_candidates(&mut self, now: Instant, id: PeerId, addresses: &[SocketAddr]) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(Link::Relayed { .. }) = peer.paths.selected() else { return };
        if let Some(seen) = peer.paths.introduced_at() {
            self.probe_candidates(now, id, seen, addresses);
        }
    }

    /// `relay` sees `id` at `seen`, which is believed as far as the relay's own address reaches; `id` itself names `candidates`.
    pub(crate) fn introduced_by(&mut self, now: Instant, id: PeerId, relay: PeerId, seen: SocketAddr, candidates: &[SocketAddr]) {
        let relay_address = self.peers.get(&relay).and_then(|relay| relay.paths.proven_address());
        // That it shares our own address outside is the relay's word alone: from out there it names nobody near.
        let believed = relay_address.is_some_and(|relay| address::may_probe(seen, relay, core::iter::empty()));
        if let (true, Some(peer)) = (believed, self.peers.get_mut(&id)) {
            peer.paths.set_introduced_at(seen);
            self.probe_candidates(now, id, seen, &[seen]);
            self.probe_candidates(now, id, seen, candidates);
        }
    }

    /// Probes the addresses of a peer that is seen at `seen`, as far as they may be probed.
    fn probe_candidates(&mut self, now: Instant, id: PeerId, seen: SocketAddr, candidates: &[SocketAddr]) {
        let own = self.candidates();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for candidate in candidates {
            if !own.contains(candidate) && address::may_probe(*candidate, seen, self.reflexive.mostly().into_iter()) {
                let doubt = peer.in_doubt();
                peer.paths.probe(now, *candidate, doubt);
            }
        }
        self.on_probe_timer(now, id);
    }

    /// Probes what is due: with a ping inside the session, or with the handshake while there is none.
    pub(crate) fn on_probe_timer(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for (address, before) in peer.paths.due_probes(now) {
            self.probe(now, id, address, before);
        }
        if let Some(next) = self.peers.get(&id).and_then(|peer| peer.paths.next_probe()) {
            self.timers.set(Timer::Probe(id), next);
        }
    }

    /// Probes an address that someone named, after `before` times. Without a session it is sent the handshake in turns with probes: it may get through sooner than by the relay.
    fn probe(&mut self, now: Instant, id: PeerId, address: SocketAddr, before: usize) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.sessions.current.is_some() {
            if self.may_probe(now, id, address) {
                self.stats.probes += 1;
                self.probe_with_ping(now, id, address);
            }
            return;
        }
        let (introduced, turn) = (peer.paths.introduced_at().is_some(), before % 2 == 1);
        let handshake = match (&mut peer.answered, &mut peer.dial) {
            // What was answered may be sent at once; what is asked is known to the other end if it was introduced.
            (Some(answered), _) if turn || before == 0 => {
                answered.to = None;
                Some(answered.response.clone())
            }
            (None, Some(dial)) if turn || !introduced => {
                dial.probed = true;
                Some(Bytes::copy_from_slice(dial.initiator.datagram()))
            }
            _ => None,
        };
        if let Some(handshake) = handshake.filter(|_| self.may_probe(now, id, address)) {
            self.stats.probes += 1;
            self.push(address, handshake);
        }
        if introduced && !turn && self.may_probe(now, id, address) {
            let by_stream = before == 0 && self.needs_streams();
            self.send_probe(id, if by_stream { SocketId::STREAM } else { self.sockets.of(address) }, None, address);
        }
    }

    /// Whether one more probe may go to `address`; it is counted.
    fn may_probe(&mut self, now: Instant, id: PeerId, address: SocketAddr) -> bool {
        let may = self.ledger.take(now, address, self.wanted.contains_key(&id));
        self.stats.unsent += u64::from(!may);
        may
    }
}
