//! Handshakes: beginning them, repeating them, answering them.
//!
//! Every session is begun by IK. Where only an address is known, the first two datagrams of XX tell who is there (its responder keeps nothing), and IK follows.

use core::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{Admission, DatagramKind, HandshakeError, Initiator, Response, hash, receiver_index, respond};
use peers_wire::{PeerId, Timestamp};
use rand::{Rng, RngExt};

use crate::address;
use crate::agent::{Agent, ConnectError, MAX_ADDRESSES, MAX_WANTED, Slot, Timer};
use crate::beacon::Heard;
use crate::control::{Answer, Control, MAX_CANDIDATES, Offer};
use crate::paths::Link;
use crate::peer::{Answered, Dial, Peer, Purpose};
use crate::sessions::Keyed;

/// Pause before a handshake is repeated the first time: to an address, and through a relay, which takes longer. It doubles each time.
const REPEAT_DIRECT: Duration = Duration::from_millis(250);
const REPEAT_RELAYED: Duration = Duration::from_millis(700);
/// A handshake is given up after so long; one for the sake of having enough sessions, or to repair one, after half of it.
const DIAL_TIME: Duration = Duration::from_secs(8);
/// First and longest pause between attempts at a wanted peer.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Relays asked at once for a wanted peer; one less for another.
const FAN_OUT: usize = 3;

/// A peer that the user asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) failures: u32,
}

/// An address whose owner's key is being asked for.
#[derive(Debug)]
pub(crate) struct Discovery {
    /// The XX handshake under way; none between attempts.
    initiator: Option<Initiator>,
    /// The user asked for it: it is repeated until answered.
    wanted: bool,
    sends: u32,
}

impl Agent {
    pub(crate) fn want(&mut self, now: Instant, wall: Timestamp, id: PeerId, addresses: &[SocketAddr]) -> Result<(), ConnectError> {
        if id == self.key.id() {
            return Err(ConnectError::Myself);
        }
        if self.wanted.len() >= MAX_WANTED && !self.wanted.contains_key(&id) {
            return Err(ConnectError::TooMany);
        }
        let usable = addresses.iter().copied().filter(|address| address::scope(*address).is_some()).take(MAX_ADDRESSES).collect();
        let idle = self.peers.get(&id).is_none_or(|peer| !peer.connected() && peer.dial.is_none());
        self.wanted.insert(id, Wanted { addresses: usable, failures: 0 });
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
        if self.peers.get(&id).is_some_and(|peer| peer.dial.is_some()) {
            return Ok(());
        }
        self.stamp = Timestamp(wall.0.max(self.stamp.0 + 1)).min(Timestamp::MAX);
        let index = self.random_index();
        let association = self.peers.get(&id).map_or_else(|| self.rng.random(), |peer| peer.association);
        let early = Offer { association, candidates: self.candidates() }.encode();
        let (initiator, _) = Initiator::ik(&self.key, id, index, self.stamp, &early, &mut self.rng)?;
        let remembered = self.book.address(id).filter(|address| !addresses.contains(address));
        let peer = self.peers.entry(id).or_insert_with(|| Box::new(Peer::new(now, association)));
        peer.introducers.clear();
        if let Some(address) = remembered {
            peer.paths.probe(now, address);
        }
        let relays = match purpose {
            // The known address is tried alone first.
            Purpose::Wanted if !addresses.is_empty() => 0,
            Purpose::Wanted => FAN_OUT,
            Purpose::Exchange | Purpose::Repair | Purpose::Rekey => 1,
        };
        peer.dial = Some(Dial { initiator, purpose, addresses, open: Vec::new(), began: now, sends: 0, probed: false });
        self.indices.insert(index, Slot::Dial(id));
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
        let (datagram, addresses, open) = (Bytes::copy_from_slice(dial.initiator.datagram()), dial.addresses.clone(), dial.open.clone());
        self.timers.set(Timer::Dial(id), now + pause);
        for address in addresses {
            self.push(address, datagram.clone());
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
            Purpose::Exchange | Purpose::Repair => (DIAL_TIME / 2, FAN_OUT - 1),
        };
        if now.duration_since(dial.began) >= time {
            self.dial_failed(now, id);
            return;
        }
        if dial.purpose != Purpose::Rekey {
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
        self.end_dial(id);
        self.book.failed(now, id);
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

    /// Where we may be reached: host candidates, then where others see us.
    pub(crate) fn candidates(&self) -> Vec<SocketAddr> {
        let link_local = |address: &SocketAddr| matches!(address.ip(), core::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
        let host =
            self.local.iter().copied().filter(|local| address::scope(*local).is_some() && !link_local(local)).take(MAX_CANDIDATES - 2);
        let mut candidates: Vec<SocketAddr> = host.collect();
        for seen in self.reflexive.agreed() {
            if !candidates.contains(&seen) && candidates.len() < MAX_CANDIDATES {
                candidates.push(seen);
            }
        }
        candidates
    }

    /// Someone wants a session. `seen`: a relay introduced them, and sees them at this address.
    pub(crate) fn on_initiation(&mut self, now: Instant, link: Link, datagram: &[u8], seen: Option<SocketAddr>) {
        let Some((body, _)) = datagram.split_last_chunk::<16>() else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let digest = hash(&[b"peers initiation", body]);
        if let Some(id) = self.digests.get(&digest) {
            self.answer_again(now, *id, link);
            return;
        }
        if !self.admit(now, link, datagram) {
            return;
        }
        let (index, token) = (self.random_index(), self.rng.random());
        let answer = Answer { token, observed: link.address() }.encode();
        let (remote, timestamp, early, session, reply) = match respond(&self.key, datagram, index, &answer, &mut self.rng) {
            Ok(Response::Ik { remote, timestamp, early, session, reply }) => (remote, timestamp, early, session, Bytes::from(reply)),
            Ok(Response::Xx { .. }) => return,
            Err(error) => {
                self.count_handshake_error(error);
                return;
            }
        };
        let Ok(offer) = Offer::decode(&early) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let full = self.connected.len() >= self.config.max_sessions && !self.wanted.contains_key(&remote);
        if !self.peers.contains_key(&remote) && (full || !self.has_room()) {
            self.stats.dropped_limited += 1;
            return;
        }
        if !self.freshness.accept(remote, timestamp) {
            self.stats.dropped_replayed += 1;
            return;
        }
        let association = self.rng.random();
        let peer = self.peers.entry(remote).or_insert_with(|| Box::new(Peer::new(now, association)));
        let gone = peer.sessions.add(Keyed::new(now, session, false, Some(offer.association)));
        let earlier = peer.answered.replace(Answered { digest, response: reply.clone(), token, to: Some(link) });
        if let Link::Relayed { via, route } = link {
            self.learn_relay(now, remote, via, route);
        }
        if let Some(earlier) = earlier {
            self.digests.remove(&earlier.digest);
        }
        if let Some(gone) = gone {
            self.indices.remove(&gone);
        }
        self.digests.insert(digest, remote);
        self.indices.insert(index, Slot::Session(remote));
        self.stats.answered += 1;
        self.send_raw(link, reply);
        self.arm(remote);
        if let (Some(seen), Link::Relayed { via, .. }) = (seen, link) {
            self.introduced_by(now, remote, via, seen, &offer.candidates);
        }
    }

    /// The same initiation came again, maybe by another path: so does the answer.
    fn answer_again(&mut self, now: Instant, id: PeerId, link: Link) {
        let Some(answered) = self.peers.get_mut(&id).and_then(|peer| peer.answered.as_mut()) else { return };
        if answered.to != Some(link) {
            answered.to = None;
        }
        let response = answered.response.clone();
        if let Link::Relayed { via, route } = link {
            self.learn_relay(now, id, via, route);
        }
        self.send_raw(link, response);
    }

    /// Whether a first handshake datagram is worth a key agreement now; if not, it is counted, and maybe challenged.
    fn admit(&mut self, now: Instant, link: Link, datagram: &[u8]) -> bool {
        let source = match link {
            Link::Direct(address) => Some(address),
            Link::Relayed { via, .. } => self.peers.get(&via).and_then(|relay| relay.paths.proven_address()),
        };
        let Some(source) = source else { return false };
        match self.gate.admit(now, source, datagram, &mut self.rng) {
            Admission::Admit => true,
            Admission::Challenge(cookie) => {
                self.stats.challenged += 1;
                self.send_raw(link, cookie.into());
                false
            }
            Admission::Refuse => {
                self.stats.dropped_forged += 1;
                false
            }
        }
    }

    fn count_handshake_error(&mut self, error: HandshakeError) {
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
        self.observed(id, answer.observed);
        // First of all what proves our address to the other end: until then it may send us little.
        let pong = Control::Pong { token: answer.token, association, observed: link.address() };
        self.ping_with(now, id, Some(index), link, Some(pong));
        self.on_established(now, id);
        self.on_probe_timer(now, id);
    }

    /// Under load, the other end wants to see that we receive at our address.
    pub(crate) fn on_cookie(&mut self, now: Instant, wall: Timestamp, datagram: &[u8]) {
        match receiver_index(datagram).and_then(|index| self.indices.get(&index).copied()) {
            Some(Slot::Dial(id)) => {
                let Some(dial) = self.peers.get_mut(&id).and_then(|peer| peer.dial.as_mut()) else { return };
                match dial.initiator.cookie(datagram) {
                    // A copy of a challenge must not make us repeat ourselves without end.
                    Ok(()) if dial.sends < 8 => self.send_dial(now, id),
                    Ok(()) => self.stats.dropped_limited += 1,
                    Err(error) => self.count_handshake_error(error),
                }
            }
            Some(Slot::Discovery(address)) => {
                let Some(initiator) = self.discoveries.get_mut(&address).and_then(|discovery| discovery.initiator.as_mut()) else { return };
                match initiator.cookie(datagram) {
                    Ok(()) => self.on_discovery_timer(now, wall, address),
                    Err(error) => self.count_handshake_error(error),
                }
            }
            _ => self.stats.dropped_unknown += 1,
        }
    }

    pub(crate) fn on_beacon(&mut self, now: Instant, wall: Timestamp, remote: SocketAddr, datagram: &[u8]) {
        let heard = if self.config.lan { self.beacons.handle(now, remote, datagram, &self.local) } else { Heard::Ignore };
        match heard {
            Heard::Answer(address) if self.connected.iter().any(|id| self.peers.get(id).is_some_and(|peer| peer.paths.is_at(address))) => {}
            Heard::Answer(address) => {
                self.stats.beacons_answered += 1;
                self.discover(now, wall, address, false);
            }
            Heard::Ignore => self.stats.dropped_beacons += 1,
            Heard::Malformed => self.stats.dropped_malformed += 1,
        }
    }

    /// Asks who is at `address`: until it is answered if it is `wanted`, else once.
    pub(crate) fn discover(&mut self, now: Instant, wall: Timestamp, address: SocketAddr, wanted: bool) {
        if address::scope(address).is_none() {
            return;
        }
        if let Some(known) = self.discoveries.get_mut(&address) {
            known.wanted |= wanted;
            if known.wanted {
                return;
            }
        } else if self.discoveries.len() >= MAX_WANTED {
            return;
        }
        self.end_discovery(address);
        self.discoveries.insert(address, Discovery { initiator: None, wanted, sends: 0 });
        self.on_discovery_timer(now, wall, address);
    }

    pub(crate) fn on_discovery_timer(&mut self, now: Instant, wall: Timestamp, address: SocketAddr) {
        let Some(discovery) = self.discoveries.get_mut(&address) else { return };
        if !discovery.wanted && discovery.sends > 0 {
            self.end_discovery(address);
            return;
        }
        let pause = (REPEAT_DIRECT * (1 << discovery.sends.min(10))).min(BACK_OFF.1);
        discovery.sends += 1;
        // A beacon's sender has DIAL_TIME to answer the one datagram it is owed.
        let pause = if discovery.wanted { pause } else { DIAL_TIME };
        if discovery.initiator.is_none() {
            let index = self.random_index();
            let (initiator, _) = Initiator::xx(&self.key, index, wall, &mut self.rng);
            self.indices.insert(index, Slot::Discovery(address));
            if let Some(discovery) = self.discoveries.get_mut(&address) {
                discovery.initiator = Some(initiator);
            }
        }
        let datagram = self
            .discoveries
            .get(&address)
            .and_then(|discovery| discovery.initiator.as_ref())
            .map(|xx| Bytes::copy_from_slice(xx.datagram()));
        self.timers.set(Timer::Discovery(address), now + pause);
        if let Some(datagram) = datagram {
            self.push(address, datagram);
        }
    }

    fn end_discovery(&mut self, address: SocketAddr) -> Option<Discovery> {
        let discovery = self.discoveries.remove(&address)?;
        if let Some(initiator) = &discovery.initiator {
            self.indices.remove(&initiator.index());
        }
        self.timers.clear(Timer::Discovery(address));
        Some(discovery)
    }

    /// Someone asks who we are. We say so, to anyone at a bounded rate, and keep nothing.
    pub(crate) fn on_xx_first(&mut self, now: Instant, remote: SocketAddr, datagram: &[u8]) {
        if !self.admit(now, Link::Direct(remote), datagram) {
            return;
        }
        let index = self.rng.next_u32();
        match respond(&self.key, datagram, index, &[], &mut self.rng) {
            Ok(Response::Xx { reply, .. }) => {
                self.stats.answered += 1;
                self.push(remote, reply);
            }
            Ok(Response::Ik { .. }) => {}
            Err(error) => self.count_handshake_error(error),
        }
    }

    /// Someone says who they are: they receive at the address that was asked, so a session can be begun there.
    pub(crate) fn on_xx_second(&mut self, now: Instant, wall: Timestamp, datagram: &[u8]) {
        let Some(Slot::Discovery(address)) = receiver_index(datagram).and_then(|index| self.indices.get(&index).copied()) else {
            self.stats.dropped_unknown += 1;
            return;
        };
        let Some(initiator) = self.discoveries.get_mut(&address).and_then(|discovery| discovery.initiator.as_mut()) else { return };
        match initiator.finish(&self.key, datagram) {
            Ok(finished) => {
                let wanted = self.end_discovery(address).is_some_and(|discovery| discovery.wanted);
                if wanted {
                    let mut addresses = self.wanted.get(&finished.remote).map(|wanted| wanted.addresses.clone()).unwrap_or_default();
                    addresses.retain(|known| *known != address);
                    addresses.insert(0, address);
                    // An id that is no valid key cannot have come out of a handshake.
                    let _ = self.want(now, wall, finished.remote, &addresses);
                } else if !self.connected.contains(&finished.remote) && self.has_room() {
                    let _ = self.dial(now, wall, finished.remote, vec![address], Purpose::Exchange);
                }
            }
            Err(HandshakeError::Myself) => {
                self.end_discovery(address);
            }
            Err(error) => self.count_handshake_error(error),
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
