//! Testing others' NATs: a peer asks to be probed where we see one of its sockets, from where that socket never sent to.
//!
//! What is probed is an address that the peer's own datagram came from, by our word or by that of a peer of ours, and never one that anybody merely names.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use peers_crypto::DATA_HEADER;
use peers_wire::PeerId;
use rand::RngExt;

use crate::address::{self, Scope};
use crate::agent::Agent;
use crate::control::{self, Control, Test, Token};
use crate::limits::Bucket;
use crate::output::SocketId;
use crate::peer::MAX_TAG;
use crate::probe::Probe;

/// Tests and probes for others that we do at once, and per second in the long run, for one peer and for all.
pub(crate) const TESTS: (u32, u32) = (12, 1);
const TESTS_IN_ALL: (u32, u32) = (48, 2);
/// How long it is remembered where a socket was seen: more than twice the longest silence that is tried.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Most sockets of others that are remembered, and those of one peer.
const MAX_SEEN: usize = 256;
const MAX_SEEN_EACH: usize = 8;
/// Most second ports of our own that are open for others at once, and for how long.
const MAX_OFFERED: usize = 16;
const OFFER: Duration = Duration::from_secs(5);

/// A socket of a peer that asked for a test.
#[derive(Debug)]
struct Seen {
    address: SocketAddr,
    at: Instant,
    /// Our second port, where one was opened for it.
    socket: Option<SocketId>,
}

/// What we remember of the tests that others asked for.
#[derive(Debug)]
pub(crate) struct Vouching {
    seen: BTreeMap<(PeerId, Token), Seen>,
    /// Reflections of second ports, by their token: whose test it is.
    offers: BTreeMap<Token, (PeerId, Token)>,
    rate: Bucket,
}

impl Default for Vouching {
    fn default() -> Self {
        Self { seen: BTreeMap::new(), offers: BTreeMap::new(), rate: Bucket::new(TESTS_IN_ALL.0, TESTS_IN_ALL.1) }
    }
}

impl Vouching {
    /// A socket of `id`, which calls it `token`, is at `address`.
    fn note(&mut self, now: Instant, id: PeerId, token: Token, address: SocketAddr) {
        if let Some(seen) = self.seen.get_mut(&(id, token)) {
            (seen.address, seen.at) = (address, now);
            return;
        }
        self.seen.retain(|_, seen| now.duration_since(seen.at) < MEMORY);
        let of_peer = (id, Token::MIN)..=(id, Token::MAX);
        let oldest = if self.seen.range(of_peer.clone()).count() >= MAX_SEEN_EACH {
            self.seen.range(of_peer).min_by_key(|(_, seen)| seen.at).map(|(key, _)| *key)
        } else if self.seen.len() >= MAX_SEEN {
            self.seen.iter().min_by_key(|(_, seen)| seen.at).map(|(key, _)| *key)
        } else {
            None
        };
        if let Some(oldest) = oldest {
            self.seen.remove(&oldest);
        }
        self.seen.insert((id, token), Seen { address, at: now, socket: None });
    }
}

impl Agent {
    /// `id` asks from a socket of its, which we see at `remote`, to be answered there, and maybe probed from elsewhere.
    pub(crate) fn on_test(&mut self, now: Instant, id: PeerId, remote: SocketAddr, token: Token, test: Test) {
        if self.arrival != SocketId::MAIN || address::scope(remote).is_none() || !self.may_test(now, id) {
            self.stats.dropped_limited += 1;
            return;
        }
        self.vouching.note(now, id, token, remote);
        let helper = if test == Test::Probe { self.helper(id, remote) } else { None };
        let tested = |second| Control::Tested { token, observed: remote, second, other: helper.is_some() };
        if test == Test::Aside {
            if let Some(link) = self.peers.get(&id).and_then(|peer| peer.paths.selected()) {
                self.send_control(now, id, None, link, &[tested(false)]);
            }
            return;
        }
        let second = if test == Test::Probe { self.second_port(now, id, token, remote) } else { None };
        let Some(keyed) = self.peers.get_mut(&id).and_then(|peer| peer.sessions.current.as_mut()) else { return };
        let plaintext = control::plaintext(&[tested(second.is_some())]);
        let mut datagram = Vec::with_capacity(DATA_HEADER + plaintext.len() + MAX_TAG);
        keyed.session.seal(&plaintext, &mut datagram);
        self.push_by(SocketId::MAIN, None, remote, datagram);
        if let Some(second) = second {
            self.probe_for(now, second, remote, token);
        }
        let Some(helper) = helper else { return };
        if let Some(link) = self.peers.get(&helper).and_then(|peer| peer.paths.selected()) {
            self.send_control(now, helper, None, link, &[Control::Vouch { token, address: remote }]);
        }
        // Who has no NAT can be reached at a second port; which one it is, the helper tells.
        if let Some(second) = second
            && self.reflexive.agreed().next().is_some_and(|seen| self.local.contains(&seen))
            && self.vouching.offers.len() < MAX_OFFERED
            && let Some(asked) = self.ask_reflection(now, helper, second, None)
        {
            self.vouching.offers.insert(asked, (id, token));
        }
    }

    /// `from` has seen the address of a peer of its, and asks for one probe to it.
    pub(crate) fn on_vouch(&mut self, now: Instant, from: PeerId, token: Token, address: SocketAddr) {
        let seen = self.peers.get(&from).and_then(|peer| peer.paths.proven_address());
        let believed = seen.is_some_and(|seen| address::may_probe(address, seen, core::iter::empty()));
        if !believed || self.candidates().contains(&address) || !self.may_test(now, from) {
            self.stats.dropped_limited += 1;
            return;
        }
        self.probe_for(now, SocketId::MAIN, address, token);
    }

    /// `id` asks whether its socket `token` can still be reached where we saw it.
    pub(crate) fn on_again(&mut self, now: Instant, id: PeerId, token: Token) {
        let seen = self.vouching.seen.get(&(id, token)).filter(|seen| now.duration_since(seen.at) < MEMORY);
        match seen.map(|seen| seen.address) {
            Some(address) if self.may_test(now, id) => self.probe_for(now, SocketId::MAIN, address, token),
            _ => self.stats.dropped_limited += 1,
        }
    }

    /// A second port of ours was seen by a helper; returns whether that is what was reflected.
    pub(crate) fn on_offer(&mut self, now: Instant, asked: Token, seen: SocketAddr) -> bool {
        let Some((id, token)) = self.vouching.offers.remove(&asked) else { return false };
        if let Some(link) = self.peers.get(&id).and_then(|peer| peer.paths.selected()) {
            self.send_control(now, id, None, link, &[Control::SecondPort { token, port: seen.port() }]);
        }
        true
    }

    fn may_test(&mut self, now: Instant, id: PeerId) -> bool {
        let peer = self.peers.get_mut(&id).filter(|peer| peer.connected());
        peer.is_some_and(|peer| peer.tests.take(now, 1)) && self.vouching.rate.take(now, 1)
    }

    fn probe_for(&mut self, now: Instant, socket: SocketId, address: SocketAddr, token: Token) {
        if !self.ledger.take(now, address, false) {
            self.stats.unsent += 1;
            return;
        }
        self.stats.probes += 1;
        let probe = Probe { tag: token, token: self.rng.random() }.encode(address, &mut self.rng);
        self.push_by(socket, None, address, probe);
    }

    /// A peer elsewhere that can probe `remote`.
    fn helper(&mut self, id: PeerId, remote: SocketAddr) -> Option<PeerId> {
        // Ids are as good as random: the next one after a random place is a random one.
        let place = PeerId(self.rng.random());
        let own = self.reflexive.addresses().next();
        let may = |other: &PeerId| {
            let address = self.peers.get(other).and_then(|peer| peer.paths.proven_address());
            let elsewhere = |at: SocketAddr| {
                at.ip() != remote.ip()
                    && at.is_ipv4() == remote.is_ipv4()
                    && own.is_none_or(|own| own.ip() != at.ip())
                    && address::scope(at) == Some(Scope::Global)
            };
            *other != id && self.can_introduce(*other) && address.is_some_and(elsewhere)
        };
        let mut others = self.connected.range(place..).chain(self.connected.range(..place)).take(MAX_SEEN).copied();
        others.find(may)
    }

    /// A socket beside the main one, opened for the test `token` of `id`, to probe `remote` from.
    fn second_port(&mut self, now: Instant, id: PeerId, token: Token, remote: SocketAddr) -> Option<SocketId> {
        let open = |seen: &Seen| seen.socket.filter(|socket| self.sockets.is_open(*socket));
        if let Some(socket) = self.vouching.seen.get(&(id, token)).and_then(open) {
            return Some(socket);
        }
        self.vouching.offers.retain(|asked, _| self.reflections.is_waiting(*asked));
        let offered = self.vouching.seen.values().filter_map(open).count();
        if offered >= MAX_OFFERED || !self.local.iter().any(|local| local.is_ipv4() == remote.is_ipv4()) {
            return None;
        }
        let socket = self.open_socket(now, OFFER)?;
        self.vouching.seen.get_mut(&(id, token))?.socket = Some(socket);
        Some(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn the_sockets_of_others_that_are_remembered_are_bounded_for_each_and_for_all() {
        let (now, mut vouching) = (epoch(), Vouching::default());
        for peer in 0..100u8 {
            for token in 0..20u16 {
                let address = SocketAddr::from(([1, 2, 3, peer], 1000 + token));
                vouching.note(now + Duration::from_millis(u64::from(token)), PeerId([peer; 32]), token.into(), address);
            }
            assert!(vouching.seen.keys().filter(|(id, _)| id.0[0] == peer).count() <= MAX_SEEN_EACH);
        }
        assert_eq!(vouching.seen.len(), MAX_SEEN);
        assert!(vouching.seen.contains_key(&(PeerId([99; 32]), 19)));
    }
}
