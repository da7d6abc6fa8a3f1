//! Peer exchange: getting to [`Config::target_sessions`](crate::Config::target_sessions) by asking peers for peers, and remembering whom they named.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use peers_wire::{PeerId, Timestamp};
use rand::RngExt;

use crate::agent::{Agent, Timer};
use crate::control::{Control, MAX_SAMPLE};
use crate::paths::Link;
use crate::peer::{Purpose, Sent};

/// Most peers remembered beside the connected ones, and how many of them one peer may have named.
const MAX_KNOWN: usize = 512;
const MAX_NAMED: usize = 48;
/// Most peers remembered because they were connected, and how many of them in one network (an IPv4 /24, an IPv6 /48).
const MAX_TRIED: usize = 256;
const MAX_TRIED_EACH: usize = 16;
/// Most peers remembered to have named another.
const MAX_TELLERS: usize = 4;
/// Handshakes under way at once for the sake of having enough sessions.
const MAX_DIALS: usize = 3;
/// A peer that could not be reached is not tried again for so long; it doubles each time.
const RETRY: Duration = Duration::from_secs(20);
/// After so many failures a peer is forgotten.
const MAX_FAILURES: u32 = 4;
/// A peer is asked for its peers at most this often, and has as long to answer.
const ASK_PAUSE: Duration = Duration::from_secs(10);
/// How long the first answers to a request for peers are gathered before one is chosen.
const GATHER: Duration = Duration::from_millis(200);
/// First and longest pause between two looks for the sessions that are missing.
const LOOK_PAUSES: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(120));

#[derive(Debug, Default)]
struct Known {
    tellers: Vec<PeerId>,
    /// Where it was connected last.
    address: Option<SocketAddr>,
    failures: u32,
    retry: Option<Instant>,
}

/// Peers that we are not connected to, and who named them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    known: BTreeMap<PeerId, Known>,
}

impl Book {
    /// `teller` is connected to `id`; returns whether that is of use.
    fn told(&mut self, teller: PeerId, id: PeerId) -> bool {
        if let Some(known) = self.known.get_mut(&id) {
            let new = !known.tellers.contains(&teller);
            if new {
                known.tellers.truncate(MAX_TELLERS - 1);
                known.tellers.insert(0, teller);
            }
            return new;
        }
        let named = self.named_by(teller);
        let room = named < MAX_NAMED && (self.has_room() || self.make_room_among_names(named));
        if room {
            self.known.insert(id, Known { tellers: vec![teller], ..Known::default() });
        }
        room
    }

    fn has_room(&self) -> bool {
        self.known.len() < MAX_KNOWN
    }

    /// How many are known because `teller` alone named them.
    fn named_by(&self, teller: PeerId) -> usize {
        self.known.values().filter(|known| known.address.is_none() && known.tellers == [teller]).count()
    }

    /// Forgets a name of whoever has named most, if that are more than `named`: nobody's names keep out those of one who named fewer.
    fn make_room_among_names(&mut self, named: usize) -> bool {
        let mut counts: BTreeMap<PeerId, (usize, PeerId)> = BTreeMap::new();
        for (id, known) in self.known.iter().filter(|(_, known)| known.address.is_none()) {
            if let [teller] = known.tellers[..] {
                let (count, last) = counts.entry(teller).or_insert((0, *id));
                (*count, *last) = (*count + 1, *id);
            }
        }
        let greediest = counts.into_values().max_by_key(|(count, _)| *count).filter(|(count, _)| *count > named + 1);
        greediest.is_some_and(|(_, name)| self.known.remove(&name).is_some())
    }

    /// Who said to be connected to `id`, the latest first.
    pub(crate) fn tellers(&self, id: PeerId) -> impl Iterator<Item = PeerId> {
        self.known.get(&id).into_iter().flat_map(|known| known.tellers.iter().copied())
    }

    /// Where `id` was connected last.
    pub(crate) fn address(&self, id: PeerId) -> Option<SocketAddr> {
        self.known.get(&id)?.address
    }

    /// `id` is connected at `address`.
    pub(crate) fn connected_at(&mut self, id: PeerId, address: SocketAddr) {
        // The usual case, at once: it is remembered already.
        if let Some(known) = self.known.get_mut(&id).filter(|known| known.address.is_some()) {
            (known.address, known.failures, known.retry) = (Some(address), 0, None);
            return;
        }
        let tried = |known: &&Known| known.address.is_some();
        let near = self.known.values().filter_map(|known| known.address).filter(|known| network(*known) == network(address)).count();
        let full = self.known.values().filter(tried).count() >= MAX_TRIED || near >= MAX_TRIED_EACH;
        // Who is remembered from earlier is not given up for who comes now; what others merely say, is.
        let room = |book: &mut Self| !full && (book.has_room() || book.make_room_among_names(0));
        let fits = if self.known.contains_key(&id) { !full } else { room(self) };
        if fits {
            let known = self.known.entry(id).or_default();
            (known.address, known.failures, known.retry) = (Some(address), 0, None);
        }
    }

    /// `id` could not be reached, or went away.
    pub(crate) fn failed(&mut self, now: Instant, id: PeerId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.retry = Some(now + RETRY * (1 << known.failures.min(6)));
            known.failures += 1;
            if known.failures >= MAX_FAILURES {
                self.known.remove(&id);
            }
        }
    }

    /// `teller` is not connected to `id` after all.
    pub(crate) fn denied(&mut self, id: PeerId, teller: PeerId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.tellers.retain(|known| *known != teller);
            if known.tellers.is_empty() && known.address.is_none() {
                self.known.remove(&id);
            }
        }
    }

    /// `teller` is gone: nobody can be reached through it.
    fn lost(&mut self, teller: PeerId) {
        self.known.retain(|_, known| {
            known.tellers.retain(|known| *known != teller);
            !known.tellers.is_empty() || known.address.is_some()
        });
    }

    /// All may be tried again: the network has changed.
    pub(crate) fn reset(&mut self) {
        for known in self.known.values_mut() {
            (known.failures, known.retry) = (0, None);
        }
    }

    /// Those that may be tried now.
    fn due(&self, now: Instant) -> impl Iterator<Item = PeerId> {
        self.known.iter().filter(move |(_, known)| known.retry.is_none_or(|retry| retry <= now)).map(|(id, _)| *id)
    }
}

/// The network that an address is in, as far as one holder can be expected to have all of it.
fn network(address: SocketAddr) -> Vec<u8> {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets()[..3].to_vec(),
        IpAddr::V6(ip) => ip.octets()[..6].to_vec(),
    }
}

impl Agent {
    /// Sessions are missing: looks for more soon.
    pub(crate) fn kick_exchange(&mut self, now: Instant) {
        if self.working() < self.config.target_sessions {
            self.looks = 0;
            self.timers.set_earlier(Timer::Exchange, now);
        }
    }

    /// So many sessions are looked for in haste. The rest may take its time: while others do the same, half of the sessions come by themselves.
    fn in_haste(&self) -> bool {
        self.working() < self.config.target_sessions / 2 + 1
    }

    /// Sessions, without those that do not answer; not counted exactly where there are more than enough.
    fn working(&self) -> usize {
        let sessions = self.connected.len();
        if sessions > 4 * self.config.target_sessions {
            return sessions;
        }
        self.connected.iter().filter(|id| self.peers.get(*id).is_some_and(|peer| !peer.suspect())).count()
    }

    /// A peer is connected: if sessions are missing, it may know others.
    pub(crate) fn on_gained(&mut self, now: Instant, id: PeerId) {
        if self.working() < self.config.target_sessions {
            if self.in_haste() {
                self.ask_for_peers(now, id);
            }
            self.looks = 0;
            self.look_later(now);
        }
        // While there are few others, each may be the one that knows those who were asked for.
        if self.connected.len() <= MAX_DIALS {
            for wanted in self.wanted.keys().filter(|wanted| !self.peers.contains_key(*wanted)) {
                self.timers.set(Timer::Redial(*wanted), now);
            }
        }
    }

    /// A peer is gone.
    pub(crate) fn on_lost(&mut self, now: Instant, id: PeerId) {
        self.book.lost(id);
        self.book.failed(now, id);
        self.kick_exchange(now);
    }

    pub(crate) fn ask_for_peers(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(link) = peer.paths.selected() else { return };
        if peer.asked.is_none_or(|asked| now.duration_since(asked) >= ASK_PAUSE) {
            peer.asked = Some(now);
            self.send_control(now, id, None, link, &[Control::PeersRequest]);
            self.expect_answer(now, id, Sent::Ping);
        }
    }

    pub(crate) fn on_peers_request(&mut self, now: Instant, from: PeerId, index: u32, link: Link) {
        let granted = self.peers.get_mut(&from).is_some_and(|peer| peer.samples.take(now, 1));
        if !granted {
            self.stats.dropped_limited += 1;
            return;
        }
        let ids = self.sample(from);
        self.send_control(now, from, Some(index), link, &[Control::Peers { ids }]);
    }

    /// Some of the peers that we can introduce `to` to, of four times as many chosen at random: half of them those heard last, who are most likely still there, half of them any, so that not
    /// only those who came together know each other.
    fn sample(&mut self, to: PeerId) -> Vec<PeerId> {
        const CHOSEN: usize = 4 * MAX_SAMPLE;
        let mut ids: Vec<PeerId> = if self.connected.len() <= CHOSEN {
            self.connected.iter().copied().collect()
        } else {
            // Ids are as good as random: the next one after a random place is a random one.
            let places: Vec<PeerId> = (0..CHOSEN).map(|_| PeerId(self.rng.random())).collect();
            let next = |place| self.connected.range(place..).next().or_else(|| self.connected.first()).copied();
            let chosen: BTreeSet<PeerId> = places.into_iter().filter_map(next).collect();
            chosen.into_iter().collect()
        };
        ids.retain(|id| *id != to && self.can_introduce(*id));
        ids.sort_by_cached_key(|id| self.peers.get(id).map(|peer| core::cmp::Reverse(peer.heard)));
        let count = ids.len().min(MAX_SAMPLE);
        for i in MAX_SAMPLE / 2..count {
            let j = self.rng.random_range(i..ids.len());
            ids.swap(i, j);
        }
        ids.truncate(count);
        ids
    }

    pub(crate) fn on_peers(&mut self, now: Instant, from: PeerId, ids: &[PeerId]) {
        let asked = self.peers.get(&from).and_then(|peer| peer.asked).is_some_and(|asked| now.duration_since(asked) <= ASK_PAUSE);
        if !asked {
            self.stats.dropped_limited += 1;
            return;
        }
        let mut news = false;
        for id in ids.iter().filter(|id| **id != self.key.id() && **id != from) {
            news |= self.book.told(from, *id) && !self.peers.contains_key(id);
        }
        if news && self.in_haste() {
            self.timers.set_earlier(Timer::Exchange, now + GATHER);
        }
    }

    /// Begins handshakes with peers that others named, as long as sessions are missing, and asks for more names when there are none.
    pub(crate) fn on_exchange_timer(&mut self, now: Instant, wall: Timestamp) {
        let missing = self.config.target_sessions.saturating_sub(self.working());
        if missing == 0 {
            return;
        }
        let reachable = |id: &PeerId| self.book.address(*id).is_some() || self.book.tellers(*id).any(|teller| self.can_introduce(teller));
        let mut due: Vec<PeerId> = self.book.due(now).filter(|id| !self.peers.contains_key(id) && reachable(id)).collect();
        let wanted =
            self.wanted.keys().filter(|id| self.peers.get(*id).is_some_and(|peer| !peer.connected() && peer.dial.is_some())).count();
        let missing = missing.saturating_sub(wanted).min(if self.in_haste() { MAX_DIALS } else { 1 });
        for _ in self.exchange_dials.len()..missing {
            if due.is_empty() {
                break;
            }
            let id = due.swap_remove(self.rng.random_range(0..due.len()));
            if self.dial(now, wall, id, Vec::new(), Purpose::Exchange).is_err() {
                self.book.failed(now, id);
            }
        }
        if due.is_empty() {
            let may: Vec<PeerId> = self.connected.iter().copied().filter(|id| self.can_introduce(*id)).collect();
            if !may.is_empty() {
                let id = may[self.rng.random_range(0..may.len())];
                self.ask_for_peers(now, id);
            }
        }
        self.look_later(now);
    }

    fn look_later(&mut self, now: Instant) {
        let pause = (LOOK_PAUSES.0 * (1 << self.looks.min(10))).min(LOOK_PAUSES.1);
        self.looks += 1;
        let pause = if self.in_haste() { pause / 2 } else { pause.mul_f64(self.rng.random_range(1.0..2.0)) };
        self.timers.set_earlier(Timer::Exchange, now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    fn id(n: u16) -> PeerId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        PeerId(id)
    }

    #[test]
    fn one_peer_cannot_fill_the_book() {
        let mut book = Book::default();
        let told = (0..1000).filter(|n| book.told(id(2000), id(*n))).count();
        assert_eq!(told, MAX_NAMED);
        for teller in 3000..3100 {
            for n in 0..48 {
                book.told(id(teller), id((teller - 3000) * 48 + n));
            }
        }
        assert_eq!(book.known.len(), MAX_KNOWN);
        let honest = (5000..5010).filter(|n| book.told(id(4999), id(*n))).count();
        assert_eq!((honest, book.known.len()), (4, MAX_KNOWN), "about as many as those have who have named most");
    }

    #[test]
    fn who_was_connected_finds_room_in_a_book_full_of_names_and_few_of_one_network_do() {
        let mut book = Book::default();
        for n in 0..1000 {
            book.told(id(2000 + n / 40), id(n));
        }
        assert_eq!(book.known.len(), MAX_KNOWN);
        for n in 0..600 {
            let [high, low] = (n / 4u16).to_be_bytes();
            book.connected_at(id(3000 + n), SocketAddr::from(([50, high, low, 1], 1)));
        }
        assert_eq!(book.known.values().filter(|known| known.address.is_some()).count(), MAX_TRIED);
        let mut book = Book::default();
        (0..100).for_each(|n| book.connected_at(id(n), SocketAddr::from(([50, 0, 0, 1], 1 + n))));
        assert_eq!(book.known.len(), MAX_TRIED_EACH);
    }

    #[test]
    fn who_was_connected_is_remembered_before_who_was_only_named() {
        let mut book = Book::default();
        let address = "192.0.2.1:1".parse().unwrap();
        book.told(id(1), id(2));
        book.connected_at(id(3), address);
        book.lost(id(1));
        assert_eq!((book.known.len(), book.address(id(3))), (1, Some(address)));
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_tried_later_and_later_and_then_forgotten() {
        let (start, mut book) = (epoch(), Book::default());
        book.told(id(1), id(2));
        let mut now = start;
        for _ in 1..MAX_FAILURES {
            assert_eq!(book.due(now).count(), 1);
            book.failed(now, id(2));
            assert_eq!(book.due(now + RETRY / 2).count(), 0);
            now += RETRY * 8;
        }
        book.failed(now, id(2));
        assert!(book.known.is_empty());
    }

    #[test]
    fn a_name_that_everybody_denies_is_forgotten() {
        let mut book = Book::default();
        book.told(id(1), id(9));
        book.told(id(2), id(9));
        book.denied(id(9), id(1));
        assert_eq!(book.tellers(id(9)).collect::<Vec<_>>(), [id(2)]);
        book.denied(id(9), id(2));
        assert!(book.known.is_empty());
    }
}
