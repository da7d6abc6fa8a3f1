//! Established sessions: data and control messages, pings, and noticing that a peer or a path is gone.

use core::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use peers_crypto::{DATA_HEADER, OpenError, receiver_index};
use peers_wire::{PeerId, Timestamp};
use rand::RngExt;

use crate::agent::{Agent, Slot, Timer};
use crate::control::{self, Association, CONTROL, Control, DATA};
use crate::output::{DisconnectReason, Event, SocketId};
use crate::paths::{Link, ROUTE_WARM};
use crate::peer::{MAX_TAG, PATIENCE, Peer, Purpose, Sent, Waiting};
use crate::relay;
use crate::sessions::Heard;

/// Pauses between unanswered pings; from then on the last. Where data waits that is always answered there is one more before, [`PATIENCE`].
const PING_PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// After so many unanswered pings another way to the peer is looked for: where such data waits, and where other data does or the user wants the peer.
const REPAIR_PINGS: (usize, usize) = (2, 3);
/// Pause after which an introduction that a relay did not confirm is asked for again. It doubles each time: so does that between attempts to get back to a direct path, from the third step on.
const PUNCH_PAUSE: Duration = Duration::from_millis(1250);
/// The step at which the first attempt after the death of a direct path is made, and the last.
pub(crate) const PUNCHES: (u32, u32) = (2, 8);
/// After so many the peer no longer counts as one that works.
pub(crate) const SUSPECT_PINGS: usize = 2;
/// How often [`Config::rekey_after`](crate::Config::rekey_after) may pass before keys that could not be replaced are given up with their session.
pub(crate) const KEY_LIFETIME: u32 = 3;
/// Pause between pings that are to prove an address that was heard.
const PROVE_PAUSE: Duration = Duration::from_millis(300);
/// How many times longer a path may be silent that its other end keeps open, if it wants to.
const SURPLUS: u32 = 3;

impl Agent {
    /// A sealed datagram for one of our sessions.
    pub(crate) fn on_data(&mut self, now: Instant, link: Link, datagram: Bytes) {
        let Some(index) = receiver_index(&datagram) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let id = match self.indices.get(&index).copied() {
            Some(Slot::Session(id)) => id,
            // It has overtaken the response that it needs.
            Some(Slot::Dial(id)) => {
                if let Some(dial) = self.peers.get_mut(&id).and_then(|peer| peer.dial.as_mut()) {
                    dial.held = Some((self.arrival, link, datagram));
                }
                return;
            }
            _ => {
                self.stats.dropped_unknown += 1;
                return;
            }
        };
        if let Link::Relayed { route, .. } = link
            && self.routes.get(&route).is_none_or(|(_, far)| *far != id)
        {
            self.stats.dropped_relayed += 1;
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(keyed) = peer.sessions.get(index) else { return };
        let size = datagram.len();
        let plaintext = match keyed.session.open(datagram) {
            Ok(plaintext) => plaintext,
            Err(OpenError::Replayed(_) | OpenError::TooOld(_)) => {
                self.stats.dropped_replayed += 1;
                return;
            }
            Err(OpenError::Malformed(_)) => {
                self.stats.dropped_malformed += 1;
                return;
            }
            Err(OpenError::Forged) => {
                self.stats.dropped_forged += 1;
                return;
            }
        };
        peer.heard = now;
        let messages = match plaintext.split_first() {
            Some((&CONTROL, messages)) => Some(control::decode(messages)),
            _ => None,
        };
        if let (Link::Direct(remote), Some(Ok(messages))) = (link, &messages)
            && self.on_aside(now, id, remote, messages)
        {
            return;
        }
        self.bind_socket(now, link, id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let unproven = peer.paths.heard(now, link, size);
        if peer.told.is_some() && peer.told != peer.paths.selected() {
            self.tell_path(id);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match plaintext.first() {
            Some(&DATA) => {
                // Each end may have come to another relay: one path is one to watch.
                if self.key.id() > id && peer.paths.follow(link) {
                    self.tell_path(id);
                }
                let Some(peer) = self.peers.get_mut(&id) else { return };
                // The usual case first: nothing changes.
                if (!unproven && peer.works(now, index, link)) || self.settle(now, id, index, link, true) {
                    let mut data = plaintext;
                    data.advance(1);
                    self.emit(Event::Data { peer: id, data });
                    // Control messages come by every path; data by a second one only where the first is in doubt.
                    if link.address().is_none() && self.peers.get(&id).is_some_and(|peer| peer.paths.is_left(now, link)) {
                        self.doubt(now, id);
                    }
                } else {
                    self.stats.dropped_early += 1;
                }
            }
            _ => match messages {
                Some(Ok(messages)) => self.on_control(now, id, index, link, messages),
                _ => self.stats.dropped_malformed += 1,
            },
        }
        if unproven {
            self.prove_path(now, id, link);
        }
    }

    fn on_control(&mut self, now: Instant, id: PeerId, index: u32, link: Link, messages: Vec<Control<'_>>) {
        let told = messages.iter().find_map(|message| match message {
            Control::Ping { association, .. } | Control::Pong { association, .. } => Some(*association),
            _ => None,
        });
        if let Some(told) = told {
            self.learn_association(id, index, told);
        }
        let chosen = messages.iter().any(|message| !matches!(message, Control::Pong { .. }));
        if !self.settle(now, id, index, link, chosen) {
            self.stats.dropped_early += 1;
            return;
        }
        for message in messages {
            match message {
                Control::Ping { token, observed, .. } => self.on_ping(now, id, index, link, token, observed),
                Control::Pong { token, observed, .. } => self.on_pong(now, id, index, link, token, observed),
                Control::Close => {
                    self.drop_peer(now, id, DisconnectReason::Closed);
                    return;
                }
                Control::PeersRequest => self.on_peers_request(now, id, index, link),
                Control::Peers { ids } => self.on_peers(now, id, &ids),
                Control::Introduce { target, initiation } => self.on_introduce(now, id, target, initiation),
                Control::Introduction { route, address, initiation } => self.on_introduction(now, id, route, address, initiation),
                Control::Introduced { target, route, address } => self.on_introduced(now, id, target, route, address),
                Control::Refused { target } => self.on_refused(now, id, target),
                Control::RouteClosed { route } => self.on_route_closed(now, id, route),
                Control::Candidates { addresses } => self.on_candidates(now, id, &addresses),
                // They come alone, and directly.
                Control::Reflect { .. } | Control::Reflected { .. } | Control::Test { .. } | Control::Tested { .. } => {
                    self.stats.dropped_unknown += 1;
                }
                Control::Vouch { token, address } => self.on_vouch(now, id, token, address),
                Control::SecondPort { token, port } => self.on_second_port(now, id, token, port),
                Control::Again { token } => self.on_again(now, id, token),
                Control::Load { route, load } => self.on_load(now, id, route, load),
                Control::Opened { low, high, opened } => self.on_opened(now, id, link, low, high, opened),
            }
        }
    }

    fn learn_association(&mut self, id: PeerId, index: u32, told: Association) {
        if let Some(keyed) = self.peers.get_mut(&id).and_then(|peer| peer.sessions.get(index)) {
            keyed.association.get_or_insert(told);
        }
    }

    /// The session `index` was heard: decides which one is in use, and tells the layer above what follows. Returns whether its content may be taken.
    fn settle(&mut self, now: Instant, id: PeerId, index: u32, link: Link, chosen: bool) -> bool {
        let decides = self.key.id() < id;
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        match peer.sessions.heard(now, index, chosen, decides) {
            Heard::Same => {}
            Heard::Switched => {
                peer.paths.adopt(now, link, false);
                self.on_established(now, id);
            }
            Heard::Unknown => {
                if peer.sessions.should_ask(now, index) {
                    self.ping_with(now, id, Some(index), link, None);
                }
                return false;
            }
            Heard::Replaced(gone) => {
                for gone in gone {
                    self.indices.remove(&gone);
                }
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.paths.adopt(now, link, true);
                    peer.waiting = None;
                    if peer.told.take().is_some() {
                        self.connected.remove(&id);
                        self.emit(Event::Disconnected { peer: id, reason: DisconnectReason::Restarted });
                    }
                }
                self.on_established(now, id);
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.works(now, index, link);
        }
        self.connected.contains(&id)
    }

    /// A session is in use from now on; tells the layer above if it is the first.
    pub(crate) fn on_established(&mut self, now: Instant, id: PeerId) {
        self.stats.sessions += 1;
        self.answer_early_probe(now, id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(link) = peer.paths.selected() else { return };
        if peer.connected() {
            self.tell_path(id);
            self.arm(id);
            return;
        }
        let initiated = peer.sessions.current.as_ref().is_some_and(|keyed| keyed.initiated);
        if self.connected.len() >= self.config.max_sessions && !initiated && !self.wanted.contains_key(&id) {
            self.stats.dropped_limited += 1;
            self.forget(id);
            return;
        }
        peer.told = Some(link);
        let relayed_responder = link.address().is_none() && !initiated;
        self.connected.insert(id);
        self.end_dial(id);
        self.timers.clear(Timer::Redial(id));
        if let Some(wanted) = self.wanted.get_mut(&id) {
            wanted.failures = 0;
        }
        self.emit(Event::Connected { peer: id, path: link.into() });
        if initiated && link.address().is_none() {
            self.timers.set(Timer::Repair(id), now + PUNCH_PAUSE);
        }
        if relayed_responder {
            let addresses = self.candidates();
            self.send_control(now, id, None, link, &[Control::Candidates { addresses }]);
        }
        self.arm(id);
        self.ask_gained(now, id);
        self.on_gained(now, id);
    }

    fn on_ping(&mut self, now: Instant, id: PeerId, index: u32, link: Link, token: u64, observed: Option<SocketAddr>) {
        self.observed(now, id, observed);
        let Some(peer) = self.peers.get(&id) else { return };
        let pong = Control::Pong { token, association: peer.association, observed: self.observed_at(link) };
        // A ping says that its session is the chosen one.
        if peer.sessions.is_current(index) && peer.paths.should_prove(now, link, PROVE_PAUSE) {
            self.ping_with(now, id, Some(index), link, Some(pong));
        } else {
            self.send_control(now, id, Some(index), link, &[pong]);
        }
    }

    fn on_pong(&mut self, now: Instant, id: PeerId, index: u32, link: Link, token: u64, observed: Option<SocketAddr>) {
        self.observed(now, id, observed);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let suspect = peer.in_doubt();
        let before = peer.paths.selected();
        let of_response = peer.answered.as_mut().filter(|answered| answered.token == token).and_then(|answered| answered.to.take());
        if of_response == Some(link) {
            let rtt = peer.answered.as_ref().map(|answered| now.duration_since(answered.at));
            peer.paths.prove(now, link, suspect);
            peer.paths.measured(link, rtt.unwrap_or_default());
        } else if !peer.paths.answered(now, link, token, suspect) {
            let Link::Direct(address) = link else { return };
            if !self.is_token(id, address, token) {
                return;
            }
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.paths.probe_answered(now, address, suspect);
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.works(now, index, link);
        if let Some(address) = peer.paths.proven_address() {
            self.book.connected_at(id, address);
            self.release(now, id);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if matches!((before, link), (Some(Link::Direct(_)), Link::Relayed { .. })) && peer.paths.selected() == Some(link) {
            peer.paths.distrust();
            peer.punches = PUNCHES.0;
            self.timers.set(Timer::Repair(id), now);
        }
        self.tell_path(id);
    }

    /// The other end seems to have left the direct path in use: it is asked on all.
    fn doubt(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.connected() && !peer.in_doubt() {
            peer.waiting = Some(Waiting { since: now, pings: 0, next: now, data: true, asked: true });
            self.ping_on_all(now, id);
            self.arm(id);
        }
    }

    /// Tells the layer above if another path is in use.
    pub(crate) fn tell_path(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (Some(told), Some(link)) = (peer.told, peer.paths.selected()) else { return };
        if told != link {
            peer.told = Some(link);
            if let (Link::Relayed { .. }, Link::Direct(_)) = (told, link) {
                self.timers.clear(Timer::Repair(id));
                self.end_punch(id);
            }
            self.stats.moves += 1;
            self.emit(Event::PathChanged { peer: id, path: link.into() });
        }
    }

    /// A peer was heard at an address that is not proven: pings it there.
    fn prove_path(&mut self, now: Instant, id: PeerId, link: Link) {
        let Some(peer) = self.peers.get(&id) else { return };
        if peer.sessions.current.is_some() && peer.paths.should_prove(now, link, PROVE_PAUSE) {
            self.ping_with(now, id, None, link, None);
        }
    }

    /// A peer sees us at `seen`.
    pub(crate) fn observed(&mut self, now: Instant, by: PeerId, seen: Option<SocketAddr>) {
        // What an auxiliary socket is seen as says nothing of the main one.
        let Some(seen) = seen.filter(|_| self.arrival == SocketId::MAIN) else { return };
        self.on_reporter(now, by, seen);
        if self.reflexive.report(by, seen) {
            self.emit(Event::Reflexive(seen));
            self.survey_if_needed(now);
        }
    }

    /// Pings a connected peer on the path in use.
    pub(crate) fn ping_selected(&mut self, now: Instant, id: PeerId) {
        match self.peers.get(&id).and_then(|peer| peer.paths.selected()) {
            Some(link) => self.ping_with(now, id, None, link, None),
            None => self.expect_answer(now, id, Sent::Ping),
        }
    }

    /// A peer that we reach by a stream may be reached by UDP by now.
    fn try_udp(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let initiated = peer.sessions.current.as_ref().is_some_and(|keyed| keyed.initiated);
        let address = peer.paths.proven_address().filter(|address| initiated && self.sockets.of(*address) == SocketId::STREAM);
        if let Some(address) = address
            && let Some(ping) = self.new_ping(now, id, Link::Direct(address))
            && let Some((datagram, address)) = self.seal_aside(id, &[ping])
        {
            self.push_by(SocketId::MAIN, None, address, datagram);
        }
    }

    /// Pings by `link`, with `before` in the same datagram; on the session `index`, or the one in use.
    pub(crate) fn ping_with(&mut self, now: Instant, id: PeerId, index: Option<u32>, link: Link, before: Option<Control<'_>>) {
        let Some(ping) = self.new_ping(now, id, link) else { return };
        match before {
            Some(before) => self.send_control(now, id, index, link, &[before, ping]),
            None => self.send_control(now, id, index, link, &[ping]),
        };
        self.expect_answer(now, id, Sent::Ping);
    }

    fn new_ping(&mut self, now: Instant, id: PeerId, link: Link) -> Option<Control<'static>> {
        let (token, observed) = (self.rng.random(), self.observed_at(link));
        let peer = self.peers.get_mut(&id)?;
        peer.paths.pinged(now, link, token);
        Some(Control::Ping { token, association: peer.association, observed })
    }

    /// Pings an introduced address, whatever it has proven.
    pub(crate) fn probe_with_ping(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        let link = Link::Direct(address);
        if let Some(ping) = self.new_ping(now, id, link) {
            self.seal_and_send(now, id, None, link, &control::plaintext(&[ping]), true);
        }
    }

    /// Sends control messages in one datagram; returns whether it went.
    pub(crate) fn send_control(&mut self, now: Instant, id: PeerId, index: Option<u32>, link: Link, messages: &[Control<'_>]) -> bool {
        self.seal_and_send(now, id, index, link, &control::plaintext(messages), false)
    }

    /// Seals on the session `index`, or the one in use, and sends by `link`. `probe`: to an address whatever it has proven; the caller has counted it.
    pub(crate) fn seal_and_send(
        &mut self,
        now: Instant,
        id: PeerId,
        index: Option<u32>,
        link: Link,
        plaintext: &[u8],
        probe: bool,
    ) -> bool {
        let size = DATA_HEADER + plaintext.len() + MAX_TAG;
        let (destination, mut datagram) = match link {
            Link::Direct(address) => (address, Vec::with_capacity(size)),
            Link::Relayed { via, route } => match self.peers.get(&via).and_then(|relay| relay.paths.proven_address()) {
                Some(address) => (address, relay::header(route, size)),
                None => {
                    self.stats.unsent += 1;
                    return false;
                }
            },
        };
        let sealed = self.peers.get_mut(&id).is_some_and(|peer| peer.seal(now, index, link, plaintext, probe, &mut datagram));
        if !sealed {
            self.stats.unsent += 1;
            return false;
        }
        self.push(destination, datagram);
        true
    }

    /// Something was sent that the peer should answer.
    pub(crate) fn expect_answer(&mut self, now: Instant, id: PeerId, what: Sent) {
        if let Some(at) = self.peers.get_mut(&id).and_then(|peer| peer.expect(now, what)) {
            self.timers.set_earlier(Timer::Peer(id), at);
        }
    }

    /// Sets when to look at a peer next.
    pub(crate) fn arm(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        // Without a session in use nothing can be asked, however long ago it was due.
        let active =
            peer.sessions.current.as_ref().map(|_| peer.waiting.map_or_else(|| self.keep_alive_due(id, peer), |waiting| waiting.next));
        let next = [active, peer.sessions.expires()].into_iter().flatten().min();
        if let Some(next) = next {
            self.timers.set(Timer::Peer(id), next);
        }
    }

    /// When a silent path is to be pinged: the initiator of the session a little before the other end, so that one ping serves both.
    fn keep_alive_due(&self, id: PeerId, peer: &Peer) -> Instant {
        let initiated = peer.sessions.current.as_ref().is_some_and(|keyed| keyed.initiated);
        let pause = self.keep_alive().mul_f64(if initiated { 1.0 } else { 1.1 });
        let pause = if initiated || self.keeps(id) { pause } else { pause * SURPLUS };
        // Mappings are kept open by the session with the relay; the route itself lives longer.
        let relayed = matches!(peer.paths.selected(), Some(Link::Relayed { .. }));
        peer.sent + if relayed { (pause * 2).min(ROUTE_WARM) } else { pause }
    }

    pub(crate) fn on_peer_timer(&mut self, now: Instant, wall: Timestamp, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for gone in peer.sessions.expire(now) {
            self.indices.remove(&gone);
        }
        let Some(current) = &peer.sessions.current else {
            if peer.sessions.is_empty() && peer.dial.is_none() {
                self.forget(id);
            } else {
                self.arm(id);
            }
            return;
        };
        let age = now.duration_since(current.since);
        let rekey_after = if current.initiated { self.config.rekey_after } else { self.config.rekey_after.mul_f64(1.5) };
        if age >= self.config.rekey_after * KEY_LIFETIME {
            // Data passes and handshakes do not, whoever sees to that: these keys have been used for long enough.
            self.drop_peer(now, id, DisconnectReason::Timeout);
            return;
        }
        let rekey = age >= rekey_after || current.session.should_rekey(Duration::ZERO);
        let heard = peer.heard;
        let waiting = peer.waiting;
        let keep_alive = self.peers.get(&id).is_some_and(|peer| self.keep_alive_due(id, peer) <= now);
        match waiting {
            Some(waiting) if waiting.next <= now => {
                let dead_after = if waiting.data { self.config.dead_after * 2 / 3 } else { self.config.dead_after };
                if now.duration_since(waiting.since) >= dead_after && now.duration_since(heard) >= dead_after {
                    self.drop_peer(now, id, DisconnectReason::Timeout);
                    return;
                }
                self.ping_again(now, wall, id);
            }
            None if keep_alive => {
                self.ping_selected(now, id);
                self.try_udp(now, id);
            }
            _ => {}
        }
        if self.wanted.contains_key(&id)
            && let Some(spare) = self.peers.get(&id).and_then(|peer| peer.paths.cooling(now))
        {
            self.ping_with(now, id, None, spare, None);
        }
        // Who may have forgotten us needs more than other keys.
        if rekey && !self.timers.is_due(now, Timer::Repair(id)) {
            self.rekey(now, wall, id);
        }
        self.arm(id);
    }

    /// The path in use does not answer: pings again, on all paths when it is in doubt, and then looks for others.
    fn ping_again(&mut self, now: Instant, wall: Timestamp, id: PeerId) {
        self.ping_on_all(now, id);
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(waiting) = peer.waiting else { return };
        let alone = peer.paths.spare(now).is_none();
        if peer.suspect() && waiting.pings <= SUSPECT_PINGS + 1 {
            self.emit(Event::Suspect { peer: id });
            self.kick_exchange(now);
        }
        // One of many that has nothing to say is replaced by another instead, when it is gone.
        let repair = match waiting.asked {
            true => waiting.pings == if alone { 1 } else { REPAIR_PINGS.0 },
            false => waiting.pings == REPAIR_PINGS.1 && (waiting.data || self.wanted.contains_key(&id)),
        };
        if repair {
            self.repair(now, wall, id);
        }
    }

    /// Pings the path in use once more; if it is in doubt by now, the others as well.
    pub(crate) fn ping_on_all(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(waiting) = &mut peer.waiting else { return };
        let pause = match waiting.pings.checked_sub(usize::from(waiting.asked)) {
            None => PATIENCE.max(peer.paths.rtt().unwrap_or_default() * 2),
            Some(pings) => PING_PAUSES[pings.min(PING_PAUSES.len() - 1)],
        };
        waiting.pings += 1;
        waiting.next = now + pause;
        let begins = waiting.asked && waiting.pings == 1;
        if begins && peer.told.is_some() && peer.paths.spare(now).is_some() {
            self.emit(Event::Doubt { peer: id });
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let selected = peer.paths.selected();
        let others: Vec<Link> = peer.paths.usable(now).filter(|link| peer.in_doubt() && Some(*link) != selected).collect();
        let links: Vec<Link> = selected.into_iter().chain(others).collect();
        // If it is our own address that has changed, a relay has to learn it before it can pass anything on: it is asked first.
        let vias = links.iter().filter_map(|link| if let Link::Relayed { via, .. } = link { Some(*via) } else { None });
        for via in vias.filter(|_| peer.in_doubt()).collect::<Vec<_>>() {
            self.ping_selected(now, via);
        }
        for link in links {
            self.ping_with(now, id, None, link, None);
        }
    }

    /// Looks for another way to a peer that is still connected: for a direct one if a relayed one works, else by a new handshake at its addresses and through common peers.
    pub(crate) fn repair(&mut self, now: Instant, wall: Timestamp, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let relayed = matches!(peer.paths.selected(), Some(Link::Relayed { .. }));
        let introduced = peer.punches < PUNCHES.0 && peer.paths.introduced_at().is_some();
        let (works, again) = (relayed && !peer.in_doubt(), relayed && !introduced && peer.punches < PUNCHES.1);
        if again {
            self.timers.set(Timer::Repair(id), now + PUNCH_PAUSE * (1 << peer.punches));
            peer.punches += 1;
        }
        if works {
            if again {
                let _ = self.dial(now, wall, id, Vec::new(), Purpose::Punch);
            }
            return;
        }
        let mut addresses: Vec<SocketAddr> = peer.paths.usable(now).filter_map(Link::address).collect();
        if let Some(wanted) = self.wanted.get(&id) {
            addresses.extend(wanted.addresses.iter().filter(|address| !peer.paths.is_at(**address)));
        }
        // Its key was valid when the session was made.
        let _ = self.dial(now, wall, id, addresses, Purpose::Repair);
    }

    fn rekey(&mut self, now: Instant, wall: Timestamp, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let address = peer.paths.proven_address();
        // Whoever has proven no address could have the handshakes sent to anybody: its keys grow old.
        if address.is_some() || matches!(peer.paths.selected(), Some(Link::Relayed { .. })) {
            let _ = self.dial(now, wall, id, address.into_iter().collect(), Purpose::Rekey);
        }
    }

    /// Forgets a peer, and tells those whom it concerns.
    pub(crate) fn drop_peer(&mut self, now: Instant, id: PeerId, reason: DisconnectReason) {
        let connected = self.peers.get(&id).is_some_and(|peer| peer.connected());
        self.forget(id);
        if !connected {
            return;
        }
        self.connected.remove(&id);
        self.emit(Event::Disconnected { peer: id, reason });
        self.on_relay_lost(now, id);
        if self.wanted.contains_key(&id) {
            self.redial_later(now, id);
        }
        self.on_lost(now, id);
    }

    /// Removes all that is kept of a peer.
    pub(crate) fn forget(&mut self, id: PeerId) {
        self.end_dial(id);
        for timer in [Timer::Peer(id), Timer::Probe(id), Timer::Repair(id), Timer::Punch(id)] {
            self.timers.clear(timer);
        }
        self.end_punch(id);
        self.held.forget(id);
        let Some(peer) = self.peers.remove(&id) else { return };
        for tag in peer.tags.into_iter().flatten() {
            self.forget_tag(id, tag);
        }
        for index in peer.sessions.indices() {
            self.indices.remove(&index);
        }
        if let Some(answered) = peer.answered {
            self.digests.remove(&answered.digest);
        }
        self.routes.retain(|_, (_, far)| *far != id);
    }
}
