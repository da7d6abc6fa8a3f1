//! Relaying for others: a bounded table of routes, each between two peers that we are both directly connected to.
//!
//! A relayed datagram is [`RELAYED`], the route, and the datagram itself, which is sealed between the two: a relay reads the route and the sender's address and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use peers_wire::PeerId;
use rand::{Rng, RngExt};

use crate::control::Route;
use crate::limits::Bucket;

/// First byte of a relayed datagram.
pub(crate) const RELAYED: u8 = 5;
/// Bytes that relaying puts before a datagram: the type and the route.
pub(crate) const HEADER: usize = 9;

/// A route that carried nothing for this long is forgotten by the relay.
pub(crate) const ROUTE_IDLE: Duration = Duration::from_secs(180);
/// Most routes a relay keeps.
pub(crate) const MAX_ROUTES: usize = 4096;
/// Most of them that one peer is an end of.
pub(crate) const MAX_ROUTES_PER_PEER: usize = 64;

/// Puts the relay header before `datagram`.
pub(crate) fn wrap(route: Route, datagram: &[u8]) -> Vec<u8> {
    let mut bytes = header(route, datagram.len());
    bytes.extend_from_slice(datagram);
    bytes
}

/// A relay header with room for a datagram of `capacity` bytes behind it.
pub(crate) fn header(route: Route, capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + capacity);
    bytes.push(RELAYED);
    bytes.extend_from_slice(&route.to_be_bytes());
    bytes
}

/// The route that a datagram names, if it is a relayed one with something inside.
pub(crate) fn route_of(datagram: &[u8]) -> Option<Route> {
    match datagram {
        [RELAYED, rest @ ..] if rest.len() > HEADER - 1 => rest.first_chunk().map(|route| Route::from_be_bytes(*route)),
        _ => None,
    }
}

#[derive(Debug)]
struct Entry {
    ends: (PeerId, PeerId),
    used: Instant,
}

/// The table of a relay.
#[derive(Debug)]
pub(crate) struct Table {
    routes: HashMap<Route, Entry>,
    pairs: BTreeMap<(PeerId, PeerId), Route>,
    by_peer: BTreeSet<(PeerId, Route)>,
    bytes: Bucket,
    most: usize,
}

impl Table {
    /// A table that holds at most `routes`, and no more than [`MAX_ROUTES`], and passes on at most `bytes_per_second`.
    pub(crate) fn new(routes: usize, bytes_per_second: u32) -> Self {
        Self {
            routes: HashMap::new(),
            pairs: BTreeMap::new(),
            by_peer: BTreeSet::new(),
            bytes: Bucket::new(bytes_per_second, bytes_per_second),
            most: routes.min(MAX_ROUTES),
        }
    }

    /// How much of its routes or bytes is in use, whichever is more: 0 to 255.
    pub(crate) fn load(&self, now: Instant) -> u8 {
        let routes = u8::try_from(self.routes.len() * 255 / self.most.max(1)).unwrap_or(u8::MAX);
        routes.max(self.bytes.level(now))
    }

    /// Routes in the table.
    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    /// The route between two peers, made if there is none; `None` if the table, or the share of one of them, is full.
    pub(crate) fn open(&mut self, now: Instant, a: PeerId, b: PeerId, rng: &mut impl Rng) -> Option<Route> {
        let ends = (a.min(b), a.max(b));
        if let Some(route) = self.pairs.get(&ends) {
            if let Some(entry) = self.routes.get_mut(route) {
                entry.used = now;
            }
            return Some(*route);
        }
        if self.routes.len() >= self.most || [a, b].iter().any(|peer| self.of_peer(*peer).count() >= MAX_ROUTES_PER_PEER) {
            return None;
        }
        let route = loop {
            let route = rng.random::<Route>();
            if !self.routes.contains_key(&route) {
                break route;
            }
        };
        self.routes.insert(route, Entry { ends, used: now });
        self.pairs.insert(ends, route);
        self.by_peer.extend([(a, route), (b, route)]);
        Some(route)
    }

    /// The two ends of `route`.
    pub(crate) fn ends(&self, route: Route) -> Option<(PeerId, PeerId)> {
        self.routes.get(&route).map(|entry| entry.ends)
    }

    /// Whether `bytes` may pass on `route` now; if so, they are counted and the route is kept.
    pub(crate) fn pass(&mut self, now: Instant, route: Route, bytes: usize) -> bool {
        let granted = self.bytes.take(now, u32::try_from(bytes).unwrap_or(u32::MAX));
        if let (true, Some(entry)) = (granted, self.routes.get_mut(&route)) {
            entry.used = now;
        }
        granted
    }

    /// Removes all routes of `peer`; returns them with their other ends.
    pub(crate) fn remove_peer(&mut self, peer: PeerId) -> Vec<(Route, PeerId)> {
        let routes: Vec<Route> = self.of_peer(peer).collect();
        routes.into_iter().filter_map(|route| self.remove(route).map(|(a, b)| (route, if a == peer { b } else { a }))).collect()
    }

    /// Removes the routes that were idle for [`ROUTE_IDLE`]; returns when to look again.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let idle = |entry: &Entry| now.duration_since(entry.used) >= ROUTE_IDLE;
        let expired: Vec<Route> = self.pairs.values().copied().filter(|route| self.routes.get(route).is_some_and(idle)).collect();
        for route in expired {
            self.remove(route);
        }
        (!self.routes.is_empty()).then(|| now + ROUTE_IDLE / 4)
    }

    fn of_peer(&self, peer: PeerId) -> impl Iterator<Item = Route> {
        self.by_peer.range((peer, Route::MIN)..=(peer, Route::MAX)).map(|(_, route)| *route)
    }

    fn remove(&mut self, route: Route) -> Option<(PeerId, PeerId)> {
        let Entry { ends, .. } = self.routes.remove(&route)?;
        self.pairs.remove(&ends);
        self.by_peer.remove(&(ends.0, route));
        self.by_peer.remove(&(ends.1, route));
        Some(ends)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::tests::epoch;

    fn peer(n: u16) -> PeerId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        PeerId(id)
    }

    #[test]
    fn one_pair_has_one_route_whoever_asks() {
        let (now, mut rng, mut table) = (epoch(), ChaCha20Rng::seed_from_u64(1), Table::new(MAX_ROUTES, 1000));
        let route = table.open(now, peer(1), peer(2), &mut rng).unwrap();
        assert_eq!(table.open(now, peer(2), peer(1), &mut rng), Some(route));
        assert_eq!((table.len(), table.ends(route)), (1, Some((peer(1), peer(2)))));
    }

    #[test]
    fn one_peer_cannot_fill_the_table_and_the_table_is_bounded() {
        let (now, mut rng, mut table) = (epoch(), ChaCha20Rng::seed_from_u64(1), Table::new(MAX_ROUTES, 1000));
        let opened = (1..1000).filter(|n| table.open(now, peer(0), peer(*n), &mut rng).is_some()).count();
        assert_eq!(opened, MAX_ROUTES_PER_PEER);
        for a in 1000..1200 {
            for b in 1200..1264 {
                let _ = table.open(now, peer(a), peer(b), &mut rng);
            }
        }
        assert_eq!(table.len(), MAX_ROUTES);
    }

    #[test]
    fn a_route_that_is_used_stays_and_an_idle_one_expires() {
        let (start, mut rng, mut table) = (epoch(), ChaCha20Rng::seed_from_u64(1), Table::new(MAX_ROUTES, 1000));
        let used = table.open(start, peer(1), peer(2), &mut rng).unwrap();
        let idle = table.open(start, peer(1), peer(3), &mut rng).unwrap();
        assert!(table.pass(start + ROUTE_IDLE / 2, used, 100));
        assert!(table.expire(start + ROUTE_IDLE).is_some());
        assert_eq!((table.ends(used), table.ends(idle)), (Some((peer(1), peer(2))), None));
        assert_eq!(table.remove_peer(peer(2)), vec![(used, peer(1))]);
        assert_eq!(table.expire(start + ROUTE_IDLE), None);
    }

    #[test]
    fn a_relay_passes_no_more_bytes_than_it_grants() {
        let (now, mut rng, mut table) = (epoch(), ChaCha20Rng::seed_from_u64(1), Table::new(MAX_ROUTES, 1000));
        let route = table.open(now, peer(1), peer(2), &mut rng).unwrap();
        assert_eq!((0..100).filter(|_| table.pass(now, route, 100)).count(), 10);
    }

    #[test]
    fn a_header_reads_back_and_an_empty_inside_is_refused() {
        assert_eq!(route_of(&wrap(7, b"x")), Some(7));
        assert_eq!(route_of(&wrap(7, b"")), None);
        assert_eq!(route_of(&[4; 20]), None);
    }
}
