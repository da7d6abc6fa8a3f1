//! Auxiliary sockets: which are open and for how long, and which addresses are spoken to by which.
//!
//! A NAT gives each socket a public port of its own. A socket beside the main one shows how the NAT chooses ports, and hundreds of them make one that a peer's probes find. The one that was
//! found carries on the session, as only its mapping lets the peer in.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use peers_wire::PeerId;

use crate::agent::{Agent, Timer};
use crate::output::SocketId;
use crate::paths::Link;

/// Most streams at once.
const MAX_STREAMS: usize = 256;
/// Most auxiliary sockets at once.
pub(crate) const MAX_AUXILIARY: usize = 640;
/// Most addresses of one peer that are spoken to by auxiliary sockets.
const MAX_BOUND_EACH: usize = 8;
/// A socket that carries a session is kept for so long after each look at it.
const IN_USE: Duration = Duration::from_secs(60);

/// The auxiliary sockets of an agent.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: BTreeMap<SocketId, Instant>,
    bound: BTreeMap<SocketAddr, (SocketId, PeerId)>,
    closed: VecDeque<SocketId>,
    /// Addresses at the other end of a stream.
    streams: BTreeSet<SocketAddr>,
    last: u16,
}

impl Sockets {
    /// Opens one, to be closed at `until` unless it then carries a session; none if [`MAX_AUXILIARY`] are open.
    pub(crate) fn open(&mut self, until: Instant) -> Option<SocketId> {
        if self.open.len() >= MAX_AUXILIARY {
            return None;
        }
        let id = loop {
            self.last = self.last.wrapping_add(1).max(1);
            let id = SocketId(self.last);
            if id != SocketId::STREAM && !self.open.contains_key(&id) && !self.closed.contains(&id) {
                break id;
            }
        };
        self.open.insert(id, until);
        Some(id)
    }

    /// Whether `socket` is open.
    pub(crate) fn is_open(&self, socket: SocketId) -> bool {
        self.open.contains_key(&socket)
    }

    /// Keeps `socket` open until `until` at least; returns whether it is open.
    fn keep(&mut self, socket: SocketId, until: Instant) -> bool {
        let open = self.open.get_mut(&socket).map(|end| *end = until.max(*end));
        open.is_some()
    }

    /// By which socket `address` is spoken to.
    pub(crate) fn of(&self, address: SocketAddr) -> SocketId {
        let auxiliary = self.bound.get(&address).map(|(socket, _)| *socket);
        auxiliary.unwrap_or_else(|| if self.streams.contains(&address) { SocketId::STREAM } else { SocketId::MAIN })
    }

    /// `address` is spoken to by a stream from now on, if there is room for one more.
    pub(crate) fn add_stream(&mut self, address: SocketAddr) {
        if self.streams.len() < MAX_STREAMS {
            self.streams.insert(address);
        }
    }

    /// Whether something may be sent by `socket`: one that was closed is not opened again.
    pub(crate) fn is_usable(&self, socket: SocketId) -> bool {
        matches!(socket, SocketId::MAIN | SocketId::STREAM) || self.is_open(socket)
    }

    /// Who is at the other end of streams.
    pub(crate) fn streams(&self) -> impl Iterator<Item = IpAddr> {
        self.streams.iter().map(SocketAddr::ip)
    }

    /// `peer` was heard by `socket`, and is spoken to by it from now on.
    fn bind(&mut self, address: SocketAddr, socket: SocketId, peer: PeerId) {
        // Whoever sends from ever new addresses has no more of them bound than are kept as paths.
        let of_peer = self.bound.iter().filter(|(bound, (_, by))| *by == peer && **bound != address).count();
        if self.open.contains_key(&socket) && of_peer < MAX_BOUND_EACH {
            self.bound.insert(address, (socket, peer));
        }
    }

    /// Closes `socket`, if it is open.
    pub(crate) fn close(&mut self, socket: SocketId) {
        if self.open.remove(&socket).is_some() {
            self.bound.retain(|_, (bound, _)| *bound != socket);
            self.closed.push_back(socket);
            // A caller that does not ask has none to close.
            if self.closed.len() > 2 * MAX_AUXILIARY {
                self.closed.pop_front();
            }
        }
    }

    /// Closes all: the network has changed.
    pub(crate) fn close_all(&mut self) {
        self.bound.clear();
        self.streams.clear();
        self.closed.extend(core::mem::take(&mut self.open).into_keys());
    }

    /// Closes what has served its time and is not `in_use`; returns when to look again.
    fn expire(&mut self, now: Instant, in_use: impl Fn(SocketAddr, PeerId) -> bool) -> Option<Instant> {
        self.bound.retain(|address, (_, peer)| in_use(*address, *peer));
        for (socket, _) in self.bound.values() {
            if let Some(until) = self.open.get_mut(socket) {
                *until = (*until).max(now + IN_USE);
            }
        }
        let over: Vec<SocketId> = self.open.iter().filter(|(_, until)| **until <= now).map(|(socket, _)| *socket).collect();
        for socket in over {
            self.close(socket);
        }
        self.open.values().min().copied()
    }
}

impl Agent {
    /// The next auxiliary socket to close.
    pub fn poll_closed(&mut self) -> Option<SocketId> {
        self.sockets.closed.pop_front()
    }

    /// The stream to `address` has ended, or could not be connected: what is sent there goes by UDP from now on.
    pub fn stream_closed(&mut self, address: SocketAddr) {
        self.sockets.streams.remove(&address);
    }

    /// Whether `address` is a proven one of a peer other than `but`.
    fn is_anybodys(&self, address: SocketAddr, but: Option<PeerId>) -> bool {
        self.connected.iter().any(|id| Some(*id) != but && self.peers.get(id).is_some_and(|peer| peer.paths.is_at(address)))
    }

    /// Where `link` ends for the NATs between, as long as it is not a stream: what is true of a stream's port is not of a socket's.
    pub(crate) fn observed_at(&self, link: Link) -> Option<SocketAddr> {
        link.address().filter(|address| self.stream != Some(*address) && self.sockets.of(*address) != SocketId::STREAM)
    }

    /// Nothing but streams seems to leave this network.
    pub(crate) fn needs_streams(&self) -> bool {
        // A stream alone is anybody's: a peer has to be at its other end.
        self.config.streams && !self.check.is_heard() && self.sockets.streams.iter().any(|address| self.is_anybodys(*address, None))
    }

    /// Opens an auxiliary socket for `time`.
    pub(crate) fn open_socket(&mut self, now: Instant, time: Duration) -> Option<SocketId> {
        let socket = if self.config.auxiliary { self.sockets.open(now + time) } else { None }?;
        self.timers.set_earlier(Timer::Sockets, now + time);
        Some(socket)
    }

    /// Keeps an auxiliary socket open for `time` from now on; returns whether it is.
    pub(crate) fn keep_socket(&mut self, now: Instant, socket: SocketId, time: Duration) -> bool {
        self.sockets.keep(socket, now + time)
    }

    /// The peer `id` was heard by `link`, by the socket that the datagram in hand came by.
    ///
    /// If the peer has been found by another one before, that stays in use: it is its mapping that is kept open.
    pub(crate) fn bind_socket(&mut self, now: Instant, link: Link, id: PeerId) {
        let Link::Direct(address) = link else { return };
        let is_at = self.peers.get(&id).is_some_and(|peer| peer.paths.is_at(address));
        if self.arrival == SocketId::MAIN {
            // UDP passes after all. But another's source address proves nothing.
            if self.sockets.streams.contains(&address) && !self.is_anybodys(address, Some(id)) {
                self.sockets.streams.remove(&address);
            }
        } else if self.arrival == SocketId::STREAM {
            // An address that is proven by UDP stays with it, whoever has the port by TCP.
            if !is_at && !self.is_anybodys(address, Some(id)) {
                self.sockets.add_stream(address);
            }
        } else if (!is_at || !self.sockets.bound.contains_key(&address)) && !self.is_anybodys(address, Some(id)) {
            // Of several that the peer has found, both ends keep to the first.
            if self.peers.get_mut(&id).is_none_or(|peer| peer.is_found(now, self.arrival)) {
                self.sockets.bind(address, self.arrival, id);
            }
        }
    }

    pub(crate) fn on_sockets_timer(&mut self, now: Instant) {
        let peers = &self.peers;
        let in_use = |address, peer: PeerId| peers.get(&peer).is_some_and(|peer| peer.paths.is_at(address));
        if let Some(next) = self.sockets.expire(now, in_use) {
            self.timers.set(Timer::Sockets, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn a_socket_that_carries_a_session_outlives_its_time_and_others_do_not() {
        let (now, address, peer) = (epoch(), "1.2.3.4:5".parse().unwrap(), PeerId([1; 32]));
        let mut sockets = Sockets::default();
        let (a, b) = (sockets.open(now + IN_USE / 2).unwrap(), sockets.open(now + IN_USE / 2).unwrap());
        sockets.bind(address, a, peer);
        let next = sockets.expire(now + IN_USE / 2, |_, _| true);
        assert_eq!((next, sockets.of(address)), (Some(now + IN_USE / 2 + IN_USE), a));
        assert_eq!(sockets.closed.pop_front(), Some(b));
        assert_eq!(sockets.expire(next.unwrap(), |_, _| false), None);
        assert_eq!((sockets.closed.pop_front(), sockets.of(address)), (Some(a), SocketId::MAIN));
    }

    #[test]
    fn sockets_are_bounded_and_no_id_is_given_twice_before_it_is_closed() {
        let now = epoch();
        let mut sockets = Sockets::default();
        for _ in 0..70_000 {
            let id = sockets.open(now).unwrap();
            assert!(id != SocketId::MAIN && sockets.is_open(id));
            sockets.close(id);
            sockets.closed.pop_front();
        }
        assert_eq!((0..2 * MAX_AUXILIARY).filter(|_| sockets.open(now).is_some()).count(), MAX_AUXILIARY);
    }
}
