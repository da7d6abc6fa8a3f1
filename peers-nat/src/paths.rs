//! The paths to one peer: which addresses and relays reach it, which are proven, and which one is in use.
//!
//! An address is proven when a token that was sent there, and nowhere else, has come back. Until then it is sent no more than three times what came from it.

use core::net::SocketAddr;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use peers_wire::PeerId;

use crate::address::{self, Scope};
use crate::control::{Route, Token};
use crate::relay::ROUTE_IDLE;

/// Most direct addresses, relays and unanswered pings that are kept for one peer.
const MAX_DIRECT: usize = 8;
const MAX_RELAYED: usize = 3;
const MAX_PINGS: usize = 16;
/// Most addresses of one peer that are probed at once.
const MAX_PROBED: usize = 9;
/// A relay that is busier than another by so much is left for it.
const CLEARLY: u8 = 16;
/// Bytes that an unproven address may be sent per byte received from it.
const AMPLIFICATION: usize = 3;
/// A relay forgets a route that is idle for [`ROUTE_IDLE`]; we stop counting on it before.
const ROUTE_USABLE: Duration = ROUTE_IDLE.saturating_sub(Duration::from_secs(30));
/// A relayed path beside a direct one is used at least so often, where it is kept warm.
pub(crate) const ROUTE_WARM: Duration = Duration::from_secs(100);
/// A path that was silent for so long may have been left by the other end.
const SILENT: Duration = Duration::from_secs(2);
/// A direct path that was silent for so long while the other end speaks through a relay seems not to work for it.
const LEFT: Duration = Duration::from_millis(100);
/// When an introduced address is probed, after the first time.
const PROBE_PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// One way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Direct(SocketAddr),
    Relayed { via: PeerId, route: Route },
}

impl Link {
    /// The relay's route, if it goes through one.
    const fn route(self) -> Option<Route> {
        match self {
            Self::Direct(_) => None,
            Self::Relayed { route, .. } => Some(route),
        }
    }

    /// The address that a datagram came from, if it did not come through a relay.
    pub(crate) const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Direct(address) => Some(address),
            Self::Relayed { .. } => None,
        }
    }
}

/// An address that the peer was heard from or may be at.
#[derive(Debug)]
struct Direct {
    address: SocketAddr,
    proven: bool,
    /// Bytes that it may still be sent while it is not proven.
    credit: usize,
    /// When it was first heard since it was last silent, and last.
    first_heard: Instant,
    heard: Instant,
    pinged: Option<Instant>,
}

#[derive(Debug)]
struct Relayed {
    via: PeerId,
    route: Route,
    used: Instant,
    /// When the peer was last heard by it.
    heard: Instant,
    /// How busy the relay was when it told, 0 to 255.
    load: u8,
}

#[derive(Debug)]
struct Probed {
    address: SocketAddr,
    sent: usize,
    since: Instant,
    last: Instant,
    due: Instant,
}

/// The paths to one peer.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    direct: Vec<Direct>,
    relayed: Vec<Relayed>,
    probed: Vec<Probed>,
    pings: VecDeque<(Token, Link, Instant)>,
    selected: Option<Link>,
    introduced_at: Option<SocketAddr>,
    rtt: Option<Duration>,
}

impl Paths {
    /// The path in use.
    pub(crate) const fn selected(&self) -> Option<Link> {
        self.selected
    }

    /// The smoothed round trip time of the path in use.
    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The proven address in use; what this peer, as a relay, is reached at.
    pub(crate) fn proven_address(&self) -> Option<SocketAddr> {
        let address = self.selected?.address()?;
        self.direct.iter().any(|direct| direct.address == address && direct.proven).then_some(address)
    }

    /// Whether a datagram from `address` may be this peer's: it is one of its proven addresses.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        self.direct.iter().any(|direct| direct.address == address && direct.proven)
    }

    /// Whether this peer was heard from `address`, proven or not: what comes from there may be passed on for it, as nothing is sent back.
    pub(crate) fn is_heard_from(&self, address: SocketAddr) -> bool {
        self.direct.iter().any(|direct| direct.address == address)
    }

    /// Whether the other end, heard by `link` just now, seems to have left the path in use.
    pub(crate) fn is_left(&self, now: Instant, link: Link) -> bool {
        match (link, self.selected) {
            (Link::Relayed { .. }, Some(Link::Direct(address))) => {
                self.direct.iter().any(|direct| direct.address == address && now.duration_since(direct.heard) >= LEFT)
            }
            (Link::Relayed { route: by, .. }, Some(Link::Relayed { route, .. })) if by != route => {
                self.relayed.iter().any(|relayed| relayed.route == route && now.duration_since(relayed.heard) >= LEFT)
            }
            _ => false,
        }
    }

    /// Both ends speak through relays: this one speaks through the one that the other is heard by. Returns whether that is a change.
    pub(crate) fn follow(&mut self, link: Link) -> bool {
        let change = matches!((self.selected, link), (Some(Link::Relayed { .. }), Link::Relayed { .. })) && self.selected != Some(link);
        if change {
            self.select(link);
        }
        change
    }

    /// A relayed path, not the one in use, that should still be there.
    pub(crate) fn spare(&self, now: Instant) -> Option<Link> {
        self.usable(now).find(|link| link.address().is_none() && Some(*link) != self.selected)
    }

    /// A spare path that the relay forgets if it is not used soon.
    pub(crate) fn cooling(&self, now: Instant) -> Option<Link> {
        let warm = |link: &Link| matches!(link, Link::Relayed { route, .. } if self.relayed.iter().any(|relayed| relayed.route == *route && now.duration_since(relayed.used) < ROUTE_WARM));
        self.spare(now).filter(|link| !warm(link))
    }

    /// The direct paths have left pings unanswered that a relayed one has answered: each has to prove itself anew.
    pub(crate) fn distrust(&mut self) {
        for direct in &mut self.direct {
            (direct.proven, direct.credit) = (false, 0);
        }
    }

    /// An authenticated datagram of `bytes` came by `link`; returns whether that is an address that is not proven.
    pub(crate) fn heard(&mut self, now: Instant, link: Link, bytes: usize) -> bool {
        let mut unproven = false;
        match link {
            Link::Direct(address) => {
                let moved = self.seems_moved(now, address);
                let direct = self.direct_mut(now, address);
                if moved && direct.proven {
                    // What was true once is to be shown again: the datagram may be a copy that someone else sends from there.
                    (direct.proven, direct.credit, direct.first_heard, direct.pinged) = (false, 0, now, None);
                }
                direct.heard = now;
                unproven = !direct.proven;
                if unproven {
                    direct.credit = direct.credit.saturating_add(AMPLIFICATION * bytes);
                }
            }
            Link::Relayed { route, .. } => {
                self.touch(now, link);
                self.relayed.iter_mut().filter(|relayed| relayed.route == route).for_each(|relayed| relayed.heard = now);
            }
        }
        if self.selected.is_none() {
            // An address that has proven nothing can carry little; a relay that is known carries all until then.
            let usable = self.usable(now).next();
            self.select(usable.unwrap_or(link));
        }
        unproven
    }

    /// Whether the peer speaks from `address`, proven once, and no more from the one in use, which is as good: it keeps open the way back to where it speaks from.
    fn seems_moved(&self, now: Instant, address: SocketAddr) -> bool {
        let Some(Link::Direct(current)) = self.selected else { return false };
        let silent = |direct: &Direct| direct.address == current && now.duration_since(direct.heard) >= SILENT;
        current != address && rank(current) == rank(address) && self.direct.iter().any(silent)
    }

    /// Whether `bytes` may be sent by `link` now; if so, they are counted.
    pub(crate) fn charge(&mut self, now: Instant, link: Link, bytes: usize) -> bool {
        match link {
            Link::Direct(address) => match self.direct.iter_mut().find(|direct| direct.address == address) {
                Some(direct) if direct.proven => true,
                Some(direct) => match direct.credit.checked_sub(bytes) {
                    Some(left) => {
                        direct.credit = left;
                        true
                    }
                    None => false,
                },
                None => false,
            },
            Link::Relayed { .. } => {
                self.touch(now, link);
                true
            }
        }
    }

    /// Whether `link` is an unproven address that was not pinged for `pause`, and should be.
    pub(crate) fn should_prove(&self, now: Instant, link: Link, pause: Duration) -> bool {
        link.address().is_some_and(|address| {
            self.direct.iter().any(|d| d.address == address && !d.proven && d.pinged.is_none_or(|at| now.duration_since(at) >= pause))
        })
    }

    /// A ping with `token` goes out by `link`.
    pub(crate) fn pinged(&mut self, now: Instant, link: Link, token: Token) {
        if self.pings.len() == MAX_PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((token, link, now));
        if let Link::Direct(address) = link {
            self.direct.iter_mut().filter(|direct| direct.address == address).for_each(|direct| direct.pinged = Some(now));
        }
    }

    /// A pong with `token` came by `link`; if it answers a ping on that path, the path is proven and may become the one in use. `suspect`: the one in use does not answer.
    ///
    /// Returns whether it does.
    pub(crate) fn answered(&mut self, now: Instant, link: Link, token: Token, suspect: bool) -> bool {
        let position = self.pings.iter().position(|(sent, by, _)| *sent == token && *by == link);
        let Some((_, _, at)) = position.and_then(|position| self.pings.remove(position)) else { return false };
        let rtt = now.duration_since(at);
        self.prove(now, link, suspect);
        self.measured(link, rtt);
        true
    }

    /// A probe of `address` was answered, which proves it.
    pub(crate) fn probe_answered(&mut self, now: Instant, address: SocketAddr, suspect: bool) {
        let sent = self.probed.iter().find(|probed| probed.address == address).map(|probed| probed.last);
        self.prove(now, Link::Direct(address), suspect);
        if let Some(sent) = sent {
            self.measured(Link::Direct(address), now.duration_since(sent));
        }
    }

    /// A round trip by `link` took `rtt`.
    pub(crate) fn measured(&mut self, link: Link, rtt: Duration) {
        if self.selected == Some(link) {
            self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        }
    }

    /// `link` reaches the peer and nobody else; it is used if it is better than the one in use, or that one is `suspect`.
    pub(crate) fn prove(&mut self, now: Instant, link: Link, suspect: bool) {
        let Link::Direct(address) = link else {
            if suspect || self.selected.is_none() {
                self.select(link);
            }
            return;
        };
        let direct = self.direct_mut(now, address);
        let (was_proven, first_heard) = (direct.proven, direct.first_heard);
        direct.proven = true;
        let better = match self.selected {
            None | Some(Link::Relayed { .. }) => true,
            Some(Link::Direct(current)) if current == address => false,
            Some(Link::Direct(current)) => match self.direct.iter().find(|direct| direct.address == current) {
                Some(old) if old.proven && !suspect => {
                    let (old_rank, rank) = (rank(current), rank(address));
                    rank < old_rank || (rank == old_rank && !was_proven && old.heard < first_heard)
                }
                _ => true,
            },
        };
        if better {
            self.select(link);
        }
        let reached = rank(address);
        self.probed.retain(|probed| rank(probed.address) < reached);
    }

    /// Learns a route through a relay; returns the one that it replaces.
    pub(crate) fn add_relay(&mut self, now: Instant, via: PeerId, route: Route) -> Option<Route> {
        let mut replaced = None;
        match self.relayed.iter_mut().find(|relayed| relayed.via == via) {
            Some(relayed) => {
                replaced = (relayed.route != route).then_some(relayed.route);
                (relayed.route, relayed.used) = (route, now);
            }
            None => {
                if self.relayed.len() == MAX_RELAYED {
                    let in_use = |i: &usize| matches!(self.selected, Some(Link::Relayed { via, .. }) if via == self.relayed[*i].via);
                    let oldest = (0..MAX_RELAYED).min_by_key(|i| (in_use(i), self.relayed[*i].used)).unwrap_or(0);
                    replaced = Some(self.relayed.swap_remove(oldest).route);
                }
                self.relayed.push(Relayed { via, route, used: now, heard: now, load: 0 });
            }
        }
        if let Some(Link::Relayed { via: in_use, route: old }) = &mut self.selected
            && *in_use == via
        {
            *old = route;
        }
        replaced
    }

    /// The relay of `route` is this busy. Another one is used if it is clearly less so; returns whether that is a change.
    pub(crate) fn loaded(&mut self, now: Instant, route: Route, load: u8) -> bool {
        self.relayed.iter_mut().filter(|relayed| relayed.route == route).for_each(|relayed| relayed.load = load);
        self.relayed.sort_by_key(|relayed| relayed.load);
        let used = self.selected.and_then(|link| self.load(link));
        let other = self.spare(now).and_then(|spare| Some((spare, self.load(spare)?)));
        match (used, other) {
            (Some(used), Some((spare, other))) if used >= other.saturating_add(CLEARLY) => {
                self.select(spare);
                true
            }
            _ => false,
        }
    }

    /// How busy the relay of `link` is.
    fn load(&self, link: Link) -> Option<u8> {
        self.relayed.iter().find(|relayed| link.route() == Some(relayed.route)).map(|relayed| relayed.load)
    }

    /// `link` was used.
    pub(crate) fn touch(&mut self, now: Instant, link: Link) {
        if let Link::Relayed { route, .. } = link {
            self.relayed.iter_mut().filter(|relayed| relayed.route == route).for_each(|relayed| relayed.used = now);
        }
    }

    /// The peer has moved to another session, which was heard by `link`. `restarted`: it has forgotten the paths it knew.
    pub(crate) fn adopt(&mut self, now: Instant, link: Link, restarted: bool) {
        let works = match self.selected {
            Some(Link::Direct(address)) => {
                self.direct.iter().any(|direct| direct.address == address && direct.proven && now.duration_since(direct.heard) < SILENT)
            }
            Some(used @ Link::Relayed { .. }) => match (self.load(used), self.load(link)) {
                (Some(used), Some(other)) => used.saturating_add(CLEARLY) <= other,
                _ => matches!(link, Link::Direct(_)),
            },
            None => false,
        };
        let usable = link.address().is_none_or(|address| self.is_at(address));
        if restarted || (!works && usable) {
            self.select(link);
        }
    }

    /// Where the relay that introduced the peer saw it.
    pub(crate) const fn introduced_at(&self) -> Option<SocketAddr> {
        self.introduced_at
    }

    /// A relay sees the peer at `seen`.
    pub(crate) const fn set_introduced_at(&mut self, seen: SocketAddr) {
        self.introduced_at = Some(seen);
    }

    /// A new handshake begins: nobody has introduced us yet.
    pub(crate) const fn forget_introduction(&mut self) {
        self.introduced_at = None;
    }

    /// Forgets the routes through `via`, or only `route`; returns whether the one in use was among them. Another path is then in use, if there is one.
    pub(crate) fn remove_relay(&mut self, now: Instant, via: PeerId, route: Option<Route>) -> bool {
        let gone = |relay: PeerId, on: Route| relay == via && route.is_none_or(|route| route == on);
        self.relayed.retain(|relayed| !gone(relayed.via, relayed.route));
        let Some(Link::Relayed { via: relay, route: on }) = self.selected else { return false };
        if !gone(relay, on) {
            return false;
        }
        self.selected = None;
        let other = self.usable(now).next();
        if let Some(other) = other {
            self.select(other);
        }
        true
    }

    /// The relayed paths that should still be there, and the proven direct ones.
    pub(crate) fn usable(&self, now: Instant) -> impl Iterator<Item = Link> {
        let relayed = self.relayed.iter().filter(move |relayed| now.duration_since(relayed.used) < ROUTE_USABLE);
        let relayed = relayed.map(|relayed| Link::Relayed { via: relayed.via, route: relayed.route });
        self.direct.iter().filter(|direct| direct.proven).map(|direct| Link::Direct(direct.address)).chain(relayed)
    }

    /// A peer may be at `address`, which is to be probed unless a better one is proven. `doubt`: those that are proven may be dead.
    pub(crate) fn probe(&mut self, now: Instant, address: SocketAddr, doubt: bool) {
        let reached = self.proven_address().filter(|_| !doubt).map(rank);
        let known = self.probed.iter().any(|probed| probed.address == address) || (self.is_at(address) && !doubt);
        if !known && self.probed.len() < MAX_PROBED && reached.is_none_or(|reached| rank(address) < reached) {
            self.probed.push(Probed { address, sent: 0, since: now, last: now, due: now });
        }
    }

    /// The addresses to probe now, and how often that was done before; each is due again after a growing pause, a bounded number of times.
    pub(crate) fn due_probes(&mut self, now: Instant) -> Vec<(SocketAddr, usize)> {
        let mut due = Vec::new();
        for probed in self.probed.iter_mut().filter(|probed| probed.due <= now) {
            due.push((probed.address, probed.sent));
            probed.last = now;
            probed.due = now + PROBE_PAUSES.get(probed.sent).copied().unwrap_or_default();
            probed.sent += 1;
        }
        self.probed.retain(|probed| probed.sent <= PROBE_PAUSES.len());
        due
    }

    /// Since when an address is probed.
    pub(crate) fn probed_since(&self) -> Option<Instant> {
        self.probed.iter().map(|probed| probed.since).min()
    }

    /// When an address is to be probed next.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        self.probed.iter().map(|probed| probed.due).min()
    }

    fn select(&mut self, link: Link) {
        if self.selected != Some(link) {
            self.selected = Some(link);
            self.rtt = None;
        }
    }

    fn direct_mut(&mut self, now: Instant, address: SocketAddr) -> &mut Direct {
        if let Some(position) = self.direct.iter().position(|direct| direct.address == address) {
            return &mut self.direct[position];
        }
        if self.direct.len() == MAX_DIRECT {
            let in_use = self.selected.and_then(Link::address);
            let oldest = (0..MAX_DIRECT)
                .filter(|i| Some(self.direct[*i].address) != in_use)
                .min_by_key(|i| (self.direct[*i].proven, self.direct[*i].heard));
            self.direct.swap_remove(oldest.unwrap_or(0));
        }
        self.direct.push(Direct { address, proven: false, credit: 0, first_heard: now, heard: now, pinged: None });
        let last = self.direct.len() - 1;
        &mut self.direct[last]
    }
}

/// Smaller is better: nearer first, then IPv6, which has no NAT to keep open.
///
/// Source: RFC 8445, section 5.1.2 (type and local preference).
fn rank(address: SocketAddr) -> (Option<Scope>, bool) {
    (address::scope(address), address.is_ipv4())
}
