//! Probes: small datagrams to addresses that a peer may be at, which only that peer understands.
//!
//! A probe needs no session yet: its tag was agreed in the handshake, its token is answered inside the session. It is long enough for the answer to be less than three times as long.

use core::net::SocketAddr;

use std::time::Instant;

use peers_crypto::{DatagramKind, hash};
use peers_wire::PeerId;
use rand::{Rng, RngExt};

use crate::address;
use crate::agent::Agent;
use crate::control::{self, Control, Token};
use crate::output::SocketId;
use crate::paths::Link;

/// Length of a probe to an IPv4 address, and to an IPv6 address, whose answer is longer as it names addresses.
const LENGTHS: (usize, usize) = (32, 48);

/// Names what probes are about, in clear; known to those who agreed on it in a session, and to who can see them pass.
pub(crate) type Tag = u64;

/// A probe, as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) tag: Tag,
    /// To be returned in a pong, by the way the probe came.
    pub(crate) token: Token,
}

impl Probe {
    /// The datagram for `address`.
    pub(crate) fn encode(&self, address: SocketAddr, rng: &mut impl Rng) -> Vec<u8> {
        let mut datagram = vec![0; if address.is_ipv4() { LENGTHS.0 } else { LENGTHS.1 }];
        rng.fill_bytes(&mut datagram);
        datagram[0] = DatagramKind::Probe as u8;
        datagram[1..9].copy_from_slice(&self.tag.to_be_bytes());
        datagram[9..17].copy_from_slice(&self.token.to_be_bytes());
        datagram
    }

    /// Reads one; `None` if it has no length of a probe.
    pub(crate) fn decode(datagram: &[u8]) -> Option<Self> {
        if datagram.len() != LENGTHS.0 && datagram.len() != LENGTHS.1 {
            return None;
        }
        Some(Self {
            tag: u64::from_be_bytes(*datagram.get(1..)?.first_chunk()?),
            token: u64::from_be_bytes(*datagram.get(9..)?.first_chunk()?),
        })
    }
}

impl Agent {
    /// Agrees on a tag with a peer, beside the one agreed on before: either end may have begun a handshake.
    pub(crate) fn agree_on_tag(&mut self, id: PeerId, tag: Tag) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let [_, earlier] = &mut peer.tags;
        if let Some(old) = earlier.take() {
            self.forget_tag(id, old);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let [latest, earlier] = &mut peer.tags;
        *earlier = latest.replace(tag);
        // Whoever has seen another's tag pass does not get its probes by naming it, too.
        self.tags.entry(tag).or_insert(id);
    }

    /// Forgets a tag of `id`.
    pub(crate) fn forget_tag(&mut self, id: PeerId, tag: Tag) {
        if self.tags.get(&tag) == Some(&id) {
            self.tags.remove(&tag);
        }
    }

    /// What a probe with `tag` to `address` is to be answered with: known to us and whoever receives there.
    fn token(&self, id: PeerId, tag: Tag, address: SocketAddr) -> Token {
        let address = address.to_string();
        let digest = hash(&[b"peers token of a probe", &self.secret, &id.0, &tag.to_be_bytes(), address.as_bytes()]);
        u64::from_be_bytes(*digest.first_chunk().unwrap_or(&[0; 8]))
    }

    /// Whether `token` is that of a probe that we sent to `address`: whoever has it receives there.
    pub(crate) fn is_token(&self, id: PeerId, address: SocketAddr, token: Token) -> bool {
        let tags = self.peers.get(&id).map_or([None; 2], |peer| peer.tags);
        tags.into_iter().flatten().any(|tag| self.token(id, tag, address) == token)
    }

    /// Sends a probe for `id` to `address`. The caller has counted it.
    pub(crate) fn send_probe(&mut self, id: PeerId, socket: SocketId, ttl: Option<u8>, address: SocketAddr) {
        let Some(tag) = self.peers.get(&id).and_then(|peer| peer.tags[0]) else { return };
        let probe = Probe { tag, token: self.token(id, tag, address) }.encode(address, &mut self.rng);
        self.stats.probes += 1;
        self.push_by(socket, ttl, address, probe);
    }

    /// A probe came: it is answered inside the session with the peer that its tag names, if there is one yet, or as soon as there is.
    pub(crate) fn on_probe(&mut self, now: Instant, remote: SocketAddr, datagram: &[u8]) {
        // What is answered to an IPv6 address is longer: so has the probe to be.
        let long_enough = datagram.len() >= if remote.is_ipv4() { LENGTHS.0 } else { LENGTHS.1 };
        let Some(probe) = Probe::decode(datagram).filter(|_| long_enough) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        let Some(id) = self.tags.get(&probe.tag).copied() else {
            self.stats.dropped_unknown += 1;
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.probes.take(now, 1) || address::scope(remote).is_none() {
            self.stats.dropped_limited += 1;
            return;
        }
        if peer.sessions.newest().is_none() {
            peer.early_probe = Some((self.arrival, remote, probe.token));
            return;
        }
        let in_use = self.sockets.of(remote) == self.arrival || !peer.paths.is_at(remote);
        if in_use && peer.is_found(now, self.arrival) {
            self.answer_probe(now, id, self.arrival, remote, probe.token);
        }
    }

    /// The session with `id` is there: answers the probe that came before it.
    pub(crate) fn answer_early_probe(&mut self, now: Instant, id: PeerId) {
        if let Some((socket, remote, token)) = self.peers.get_mut(&id).and_then(|peer| peer.early_probe.take()) {
            self.answer_probe(now, id, socket, remote, token);
        }
    }

    /// Answers by the way a probe came, and asks whether the way back is open too.
    fn answer_probe(&mut self, now: Instant, id: PeerId, socket: SocketId, remote: SocketAddr, token: Token) {
        let (ping, link) = (self.rng.random(), Link::Direct(remote));
        let observed = self.observed_at(link);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut messages = vec![Control::Pong { token, association: peer.association, observed }];
        if !peer.paths.is_at(remote) {
            peer.paths.pinged(now, link, ping);
            messages.push(Control::Ping { token: ping, association: peer.association, observed });
        }
        let Some(keyed) = peer.sessions.newest() else { return };
        let mut datagram = Vec::with_capacity(128);
        keyed.session.seal(&control::plaintext(&messages), &mut datagram);
        debug_assert!(
            datagram.len() <= 3 * if remote.is_ipv4() { LENGTHS.0 } else { LENGTHS.1 },
            "an answer is at most three times as long"
        );
        self.push_by(socket, None, remote, datagram);
    }
}
