//! Handshakes that we begin: where they go, how often, and what their answers lead to.
//!
//! Every session is begun by IK. Where only an address is known, the first two datagrams of XX tell who is there (its responder keeps nothing), and IK follows.

use core::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{DatagramKind, HandshakeError, Initiator, receiver_index};
use peers_wire::{PeerId, Timestamp};
use rand::RngExt;

use crate::address::{self, Scope};
use crate::agent::{Agent, MAX_ADDRESSES, MAX_WANTED, Slot, Timer};
use crate::control::{Answer, Control, MAX_CANDIDATES, Offer};
use crate::early::MAX_EARLY;
use crate::output::{ConnectError, Event, SocketId};
use crate::paths::Link;
use crate::peer::{Dial, Peer, Purpose};
use crate::sessions::Keyed;

/// Pause before a handshake is repeated the first time: to an address, and through a relay, which takes longer. It doubles each time.
pub(crate) const REPEAT_DIRECT: Duration = Duration::from_millis(250);
const REPEAT_RELAYED: Duration = Duration::from_millis(700);
/// An address that the user gave and that has left so many unanswered is tried by a stream as well, once in each attempt: the network may let no UDP pass.
pub(crate) const UDP_SENDS: u32 = 2;
/// A handshake is given up after so long; one for the sake of having enough sessions, or to repair one, after half of it.
pub(crate) const DIAL_TIME: Duration = Duration::from_secs(8);
/// First and longest pause between attempts at a wanted peer.
pub(crate) const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A handshake that was sent so often is not repeated for the sake of a challenge.
pub(crate) const MAX_CHALLENGED: u32 = 8;
/// A peer that was only met before is not sought any more after so many attempts in a row.
const MAX_REMEMBERED_FAILURES: u32 = 4;
/// Relays asked for a wanted peer if none answers, one less for another, and one less at once. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing".
const FAN_OUT: usize = 3;

/// A peer that the user asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) failures: u32,
    /// The user named it; else it was only met before.
    pub(crate) chosen: bool,
}

impl Agent {
    pub(crate) fn want(
        &mut self,
        now: Instant,
        wall: Timestamp,
        id: PeerId,
        addresses: &[SocketAddr],
        chosen: bool,
    ) -> Result<(), ConnectError> {
        if id == self.key.id() {
            return Err(ConnectError::Myself);
        }
        if self.wanted.len() >= MAX_WANTED && !self.wanted.contains_key(&id) {
            return Err(ConnectError::TooMany);
        }
        let mut usable: Vec<SocketAddr> = addresses.iter().copied().filter(|address| address::scope(*address).is_some()).collect();
        // Whoever named these, in a link for instance, need not be right: those named earlier come after them, and have half of the room.
        let mut earlier = self.wanted.get(&id).map(|wanted| wanted.addresses.clone()).unwrap_or_default();
        earlier.retain(|address| !usable.contains(address));
        earlier.truncate(MAX_ADDRESSES / 2);
        usable.truncate(MAX_ADDRESSES - earlier.len());
        usable.extend(earlier);
        let idle = self.peers.get(&id).is_none_or(|peer| !peer.connected() && peer.dial.is_none());
        let chosen = chosen || self.wanted.get(&id).is_some_and(|wanted| wanted.chosen);
        self.wanted.insert(id, Wanted { addresses: usable, failures: 0, chosen });
        if idle && let Err(error) = self.dial_wanted(now, wall, id) {
            self.wanted.remove(&id);
            return Err(error);
        }
        Ok(())
    }

    fn dial_wanted(&mut self, now: Instant, wall: Timestamp, id: PeerId) -> Result<(), ConnectError> {
        let addresses = self.wanted.get(&id).map(|wanted| wanted.addresses.clone()).unwrap_or_default();
        self.dial(now, wall, id, addresses, Purpose::Wanted).map_err(|_| ConnectError::Identity(id))
    }

    /// Tries again to reach a peer that the user asked for.
    pub(crate) fn redial(&mut self, now: Instant, wall: Timestamp, id: PeerId) {
        if self.wanted.contains_key(&id) && !self.connected.contains(&id) && self.dial_wanted(now, wall, id).is_err() {
            self.wanted.remove(&id);
        }
    }

    /// Tries all that failed again soon: the network has changed.
    pub(crate) fn reset_back_off(&mut self, now: Instant) {
        for (id, wanted) in &mut self.wanted {
            wanted.failures = 0;
            if !self.connected.contains(id) {
                self.timers.set(Timer::Redial(*id), now);
            }
        }
        for (address, discovery) in &mut self.discoveries {
            discovery.sends = 0;
            self.timers.set(Timer::Discovery(*address), now);
        }
        self.book.reset();
        self.kick_exchange(now);
    }

    /// Begins a handshake with `id` unless one is under way: directly at `addresses`, through relays, and at an address it was connected at before.
    pub(crate) fn dial(
        &mut self,
        now: Instant,
        wall: Timestamp,
        id: PeerId,
        addresses: Vec<SocketAddr>,
        purpose: Purpose,
    ) -> Result<(), HandshakeError> {
        self.dial_with(now, wall, id, addresses, purpose, &[])
    }

    /// As [`Agent::dial`], with data for the layer above at the other end, as far as it fits.
    pub(crate) fn dial_with(
        &mut self,
        now: Instant,
        wall: Timestamp,
        id: PeerId,
        addresses: Vec<SocketAddr>,
        purpose: Purpose,
        early: &[u8],
    ) -> Result<(), HandshakeError> {
        if self.peers.get(&id).is_some_and(|peer| peer.dial.is_some()) {
            return Ok(());
        }
        self.stamp = Timestamp(wall.0.max(self.stamp.0 + 1)).min(Timestamp::MAX);
        let index = self.random_index();
        let association = self.peers.get(&id).map_or_else(|| self.rng.random(), |peer| peer.association);
        let (tag, mapping, wanted) = (self.rng.random(), self.mapping(), purpose == Purpose::Wanted || self.wanted.contains_key(&id));
        let mut offer = Offer { association, tag, mapping, wanted, candidates: self.candidates(), early: Bytes::new() }.encode();
        let carries = !early.is_empty() && early.len() <= MAX_EARLY && offer.len() + early.len() <= peers_crypto::MAX_EARLY;
        if carries {
            offer.extend_from_slice(early);
        }
        let (initiator, _) = Initiator::ik(&self.key, id, index, self.stamp, &offer, &mut self.rng)?;
        let remembered = self.book.address(id).filter(|address| !addresses.contains(address));
        let peer = self.peers.entry(id).or_insert_with(|| Box::new(Peer::new(now, association)));
        peer.introducers.clear();
        peer.paths.forget_introduction();
        if let Some(address) = remembered {
            peer.paths.probe(now, address, false);
        }
        let relays = match purpose {
            // The known address is tried alone first.
            Purpose::Wanted if !addresses.is_empty() => 0,
            // The less loaded of two is nearly as good as the least loaded of all.
            Purpose::Wanted => FAN_OUT - 1,
            Purpose::Exchange | Purpose::Repair | Purpose::Punch | Purpose::Rekey => 1,
        };
        peer.dial =
            Some(Dial { initiator, purpose, addresses, open: Vec::new(), began: now, sends: 0, probed: false, held: None, early: carries });
        self.indices.insert(index, Slot::Dial(id));
        self.agree_on_tag(id, tag);
        if purpose == Purpose::Exchange {
            self.exchange_dials.insert(id);
        }
        self.stats.dials += 1;
        self.ask_relays(now, id, relays);
        if self.is_hopeless(id) {
            self.dial_failed(now, id);
            return Ok(());
        }
        self.send_dial(now, id);
        self.on_probe_timer(now, id);
        Ok(())
    }

    /// Sends the initiation everywhere it goes, and sets when to do so again.
    fn send_dial(&mut self, now: Instant, id: PeerId) {
        let Some(dial) = self.peers.get_mut(&id).and_then(|peer| peer.dial.as_mut()) else { return };
        let direct = !dial.addresses.is_empty() && dial.purpose != Purpose::Repair;
        let first = if direct { REPEAT_DIRECT } else { REPEAT_RELAYED };
        let pause = first * (1 << dial.sends.min(10));
        dial.sends += 1;
        let by_stream = self.config.streams && dial.purpose == Purpose::Wanted && dial.sends == UDP_SENDS + 1;
        let (datagram, addresses, open) = (Bytes::copy_from_slice(dial.initiator.datagram()), dial.addresses.clone(), dial.open.clone());
        self.timers.set(Timer::Dial(id), now + pause);
        for address in addresses {
            self.push(address, datagram.clone());
            if by_stream && self.sockets.of(address) == SocketId::MAIN {
                self.push_by(SocketId::STREAM, None, address, datagram.clone());
            }
        }
        for relay in open {
            self.ask_introduction(now, relay, id, &datagram);
        }
    }

    pub(crate) fn on_dial_timer(&mut self, now: Instant, id: PeerId) {
        let Some(dial) = self.peers.get(&id).and_then(|peer| peer.dial.as_ref()) else { return };
        // Who is wanted gets more time than who is one of many, or most likely gone.
        let (time, relays) = match dial.purpose {
            Purpose::Wanted | Purpose::Rekey => (DIAL_TIME, FAN_OUT),
            Purpose::Exchange | Purpose::Repair | Purpose::Punch => (DIAL_TIME / 2, FAN_OUT - 1),
        };
        if now.duration_since(dial.began) >= time {
            self.dial_failed(now, id);
            return;
        }
        if !matches!(dial.purpose, Purpose::Rekey | Purpose::Punch) {
            let relays = relays.min(dial.open.len() + 1);
            self.ask_relays(now, id, relays);
        }
        self.send_dial(now, id);
    }

    /// The handshake with `id` goes nowhere.
    pub(crate) fn is_hopeless(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| {
            peer.paths.next_probe().is_none() && peer.dial.as_ref().is_some_and(|dial| dial.open.is_empty() && dial.addresses.is_empty())
        })
    }

    /// No answer came, or nobody is left to ask.
    pub(crate) fn dial_failed(&mut self, now: Instant, id: PeerId) {
        let dial = self.end_dial(id);
        for address in dial.iter().flat_map(|dial| &dial.addresses) {
            self.on_unanswered(*address);
        }
        self.book.failed(now, id);
        if dial.is_some_and(|dial| dial.early && dial.sends > 0) {
            self.emit(Event::EarlyLost { peer: id });
        }
        if self.connected.contains(&id) {
            return;
        }
        if self.peers.get(&id).is_some_and(|peer| peer.sessions.is_empty()) {
            self.forget(id);
        }
        self.redial_later(now, id);
        self.kick_exchange(now);
    }

    /// Sets when to try again, if the user wants the peer.
    pub(crate) fn redial_later(&mut self, now: Instant, id: PeerId) {
        let Some(wanted) = self.wanted.get_mut(&id) else { return };
        if !wanted.chosen && wanted.failures >= MAX_REMEMBERED_FAILURES {
            self.wanted.remove(&id);
            return;
        }
        let pause = (BACK_OFF.0 * (1 << wanted.failures.min(10))).min(BACK_OFF.1);
        wanted.failures += 1;
        let pause = pause.mul_f64(self.rng.random_range(0.75..1.25));
        self.timers.set(Timer::Redial(id), now + pause);
    }

    /// Forgets the handshake that we have begun, if there is one.
    pub(crate) fn end_dial(&mut self, id: PeerId) -> Option<Dial> {
        let dial = self.peers.get_mut(&id)?.dial.take()?;
        if matches!(self.indices.get(&dial.initiator.index()), Some(Slot::Dial(_))) {
            self.indices.remove(&dial.initiator.index());
        }
        self.exchange_dials.remove(&id);
        self.timers.clear(Timer::Dial(id));
        Some(dial)
    }

    /// Where we may be reached: host candidates, then what routers map, then where others see us, then what a router behind another router maps.
    pub(crate) fn candidates(&self) -> Vec<SocketAddr> {
        let link_local = |address: &SocketAddr| matches!(address.ip(), core::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
        let host =
            self.local.iter().copied().filter(|local| address::scope(*local).is_some() && !link_local(local)).take(MAX_CANDIDATES - 2);
        let mut candidates: Vec<SocketAddr> = host.collect();
        let mapped = |reach| self.mapped.iter().copied().filter(move |mapped| address::scope(*mapped) == Some(reach));
        for found in mapped(Scope::Global).chain(self.reflexive.agreed()).chain(mapped(Scope::Private)) {
            if !candidates.contains(&found) && candidates.len() < MAX_CANDIDATES {
                candidates.push(found);
            }
        }
        candidates
    }

    pub(crate) fn count_handshake_error(&mut self, error: HandshakeError) {
        match error {
            HandshakeError::Malformed(_) | HandshakeError::TooLong(_) => self.stats.dropped_malformed += 1,
            HandshakeError::Unexpected => self.stats.dropped_unknown += 1,
            _ => self.stats.dropped_forged += 1,
        }
    }

    /// An answer to a handshake that we have begun.
    pub(crate) fn on_response(&mut self, now: Instant, link: Link, datagram: &[u8]) {
        let id = match receiver_index(datagram).map(|index| self.indices.get(&index).copied()) {
            Some(Some(Slot::Dial(id))) => id,
            // A copy of the one that was taken, by another path.
            Some(Some(Slot::Session(_))) => {
                self.stats.duplicates += 1;
                return;
            }
            Some(_) => {
                self.stats.dropped_unknown += 1;
                return;
            }
            None => {
                self.stats.dropped_malformed += 1;
                return;
            }
        };
        let Some(dial) = self.peers.get_mut(&id).and_then(|peer| peer.dial.as_mut()) else { return };
        let finished = match dial.initiator.finish(&self.key, datagram) {
            Ok(finished) => finished,
            Err(error) => {
                self.count_handshake_error(error);
                return;
            }
        };
        let Ok(answer) = Answer::decode(&finished.payload) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let Some(dial) = self.end_dial(id) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // Only who receives at the single address that it was sent to can have answered.
        let proven = dial.addresses == link.address().as_slice() && peer.introducers.is_empty() && !dial.probed;
        let index = finished.session.local_index();
        self.bind_socket(now, link, id);
        if let (Link::Direct(address), SocketId::STREAM) = (link, self.arrival) {
            self.on_unanswered(address);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.paths.heard(now, link, datagram.len());
        if proven {
            let suspect = peer.suspect();
            peer.paths.prove(now, link, suspect);
        }
        let association = peer.association;
        let gone = peer.sessions.add(Keyed::new(now, finished.session, true, None));
        if let Some(gone) = gone {
            self.indices.remove(&gone);
        }
        self.indices.insert(index, Slot::Session(id));
        self.observed(now, id, answer.observed);
        // First of all what proves our address to the other end: until then it may send us little.
        let pong = Control::Pong { token: answer.token, association, observed: self.observed_at(link) };
        self.ping_with(now, id, Some(index), link, Some(pong));
        if dial.early {
            self.emit(Event::EarlyTaken { peer: id });
        }
        self.on_established(now, id);
        self.answer_early_probe(now, id);
        self.begin_punch(now, id, answer.mapping, dial.purpose == Purpose::Wanted);
        self.on_probe_timer(now, id);
        if let Some((socket, link, datagram)) = dial.held {
            let arrival = core::mem::replace(&mut self.arrival, socket);
            self.on_data(now, link, datagram);
            self.arrival = arrival;
        }
    }

    /// Under load, the other end wants to see that we receive at our address.
    pub(crate) fn on_cookie(&mut self, now: Instant, datagram: &[u8]) {
        match receiver_index(datagram).and_then(|index| self.indices.get(&index).copied()) {
            Some(Slot::Dial(id)) => {
                let Some(dial) = self.peers.get_mut(&id).and_then(|peer| peer.dial.as_mut()) else { return };
                match dial.initiator.cookie(datagram) {
                    // A copy of a challenge must not make us repeat ourselves without end.
                    Ok(()) if dial.sends < MAX_CHALLENGED => self.send_dial(now, id),
                    Ok(()) => self.stats.dropped_limited += 1,
                    Err(error) => self.count_handshake_error(error),
                }
            }
            Some(Slot::Discovery(address)) => self.on_discovery_cookie(now, address, datagram),
            _ => self.stats.dropped_unknown += 1,
        }
    }

    /// Sends a handshake datagram by `link`.
    pub(crate) fn send_raw(&mut self, link: Link, datagram: Bytes) {
        debug_assert!(DatagramKind::of(&datagram).is_some(), "a datagram has a kind");
        match link {
            Link::Direct(address) => self.push(address, datagram),
            Link::Relayed { via, route } => match self.peers.get(&via).and_then(|relay| relay.paths.proven_address()) {
                Some(address) => self.push(address, crate::relay::wrap(route, &datagram)),
                None => self.stats.unsent += 1,
            },
        }
    }
}
