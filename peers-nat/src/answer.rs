//! Answering handshakes that others begin.

use std::time::Instant;

use bytes::Bytes;
use peers_crypto::{Admission, Response, hash, respond};
use peers_wire::PeerId;
use rand::{Rng, RngExt};

use core::net::SocketAddr;

use crate::agent::{Agent, Slot};
use crate::control::{Answer, Offer};
use crate::output::Event;
use crate::paths::Link;
use crate::peer::{Answered, Peer};
use crate::sessions::Keyed;

impl Agent {
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
        let answer = Answer { token, observed: self.observed_at(link), mapping: self.mapping() }.encode();
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
        // Any number of strangers may have come since: who is known here is not forgotten for them.
        let stale = self.peers.get(&remote).is_some_and(|peer| peer.latest >= Some(timestamp));
        if stale || !self.freshness.accept(remote, timestamp) {
            self.stats.dropped_replayed += 1;
            return;
        }
        let association = self.rng.random();
        let peer = self.peers.entry(remote).or_insert_with(|| Box::new(Peer::new(now, association)));
        peer.latest = Some(timestamp);
        let gone = peer.sessions.add(Keyed::new(now, session, false, Some(offer.association)));
        let earlier = peer.answered.replace(Answered { digest, response: reply.clone(), token, at: now, to: Some(link) });
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
        self.agree_on_tag(remote, offer.tag);
        self.stats.answered += 1;
        self.send_raw(link, reply);
        self.arm(remote);
        if let (Some(seen), Link::Relayed { via, .. }) = (seen, link) {
            self.introduced_by(now, remote, via, seen, &offer.candidates);
            self.begin_punch(now, remote, offer.mapping, offer.wanted);
        }
        if !offer.early.is_empty() {
            self.stats.early += 1;
            self.emit(Event::Early { peer: remote, data: offer.early });
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
            Admission::Limit => {
                self.stats.dropped_limited += 1;
                false
            }
            Admission::Refuse => {
                self.stats.dropped_forged += 1;
                false
            }
        }
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
}
