//! Who is behind which routers, and what becomes of a datagram at each of them. It knows no time but what it is told, no delay and no loss.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use hashbrown::HashMap;
use rand::Rng;

use super::nat::{Kind, Nat};

/// A machine; never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// A router with a LAN behind it; never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub usize);

/// Hosts and routers, and the core of the internet between them, which is a router, too.
#[derive(Debug, Default)]
pub struct Internet {
    routers: Vec<Router>,
    hosts: Vec<Host>,
    /// Who gets what the core sends to an address.
    routes: HashMap<IpAddr, Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Host(HostId),
    Router(RouterId),
}

#[derive(Debug)]
struct Router {
    nat: Nat,
    uplink: Option<RouterId>,
    lan: HashMap<IpAddr, Node>,
}

#[derive(Debug)]
struct Host {
    uplink: Option<RouterId>,
    addresses: Vec<IpAddr>,
}

/// Where a datagram is after it has left its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// On the internet: translated, with so many hops left.
    Core {
        /// Whom it seems to come from.
        from: SocketAddr,
        /// Where it goes.
        to: SocketAddr,
        /// Hops left.
        ttl: u8,
    },
    /// At its receiver, without having crossed the internet.
    Local(Delivery),
    /// Nowhere.
    Dropped(Cause),
}

/// A datagram at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Whose.
    pub host: HostId,
    /// To which of its endpoints.
    pub local: SocketAddr,
    /// From where, as the host sees it.
    pub remote: SocketAddr,
}

/// Why a datagram went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody has the address.
    Unroutable,
    /// A router had no mapping, no room for one, or its filter refused.
    Filtered,
    /// It had no hop left.
    Expired,
}

impl Internet {
    /// Adds a host with `addresses` (one of each family at most), directly on the internet or in the LAN of a router.
    pub fn add_host(&mut self, uplink: Option<RouterId>, addresses: &[IpAddr]) -> HostId {
        let host = HostId(self.hosts.len());
        self.hosts.push(Host { uplink, addresses: addresses.to_vec() });
        self.attach(Node::Host(host), uplink, addresses);
        host
    }

    /// Adds a router whose outer side has `address`, directly on the internet or in the LAN of another router.
    pub fn add_router(&mut self, kind: Kind, uplink: Option<RouterId>, address: IpAddr) -> RouterId {
        let router = RouterId(self.routers.len());
        self.routers.push(Router { nat: Nat::new(kind, address), uplink, lan: HashMap::new() });
        self.attach(Node::Router(router), uplink, &[address]);
        router
    }

    /// Takes a host off its LAN, or the internet. What is on its way to it is lost.
    pub fn detach(&mut self, host: HostId) {
        let Host { uplink, addresses } = &mut self.hosts[host.0];
        let (uplink, addresses) = (*uplink, core::mem::take(addresses));
        for address in addresses {
            if let Some(router) = uplink {
                self.routers[router.0].lan.remove(&address);
            }
            self.routes.remove(&address);
        }
    }

    /// Moves a host to the LAN of another router, or directly on the internet, with other addresses.
    pub fn move_host(&mut self, host: HostId, uplink: Option<RouterId>, addresses: &[IpAddr]) {
        self.detach(host);
        self.hosts[host.0] = Host { uplink, addresses: addresses.to_vec() };
        self.attach(Node::Host(host), uplink, addresses);
    }

    /// Stops routing to the outer address of a router.
    pub fn unroute(&mut self, router: RouterId) {
        self.routes.remove(&self.routers[router.0].nat.address());
    }

    /// The router that a host or none stands behind.
    pub fn uplink(&self, host: HostId) -> Option<RouterId> {
        self.hosts[host.0].uplink
    }

    /// A router's translator.
    pub fn nat(&self, router: RouterId) -> &Nat {
        &self.routers[router.0].nat
    }

    /// A router's translator, to reboot it.
    pub fn nat_mut(&mut self, router: RouterId) -> &mut Nat {
        &mut self.routers[router.0].nat
    }

    /// How many routers stand between a host and the core.
    pub fn depth(&self, host: HostId) -> u8 {
        let mut at = self.hosts[host.0].uplink;
        let mut depth = 0;
        while let Some(router) = at {
            (at, depth) = (self.routers[router.0].uplink, depth + 1);
        }
        depth
    }

    /// The first node behind the core that has `address`: the host itself, or the router that serves it.
    pub fn gate(&self, address: IpAddr) -> Option<Result<HostId, RouterId>> {
        match self.routes.get(&address)? {
            Node::Host(host) => Some(Ok(*host)),
            Node::Router(router) => Some(Err(*router)),
        }
    }

    /// Whether a router keeps its hosts from each other.
    pub fn is_isolated(&self, router: RouterId) -> bool {
        self.routers[router.0].nat.kind().isolate
    }

    /// A datagram leaves the endpoint `from` of a host towards `to` with `ttl` hops: as far as the middle of the internet.
    pub fn depart(&mut self, now: Duration, host: HostId, from: SocketAddr, to: SocketAddr, mut ttl: u8, rng: &mut impl Rng) -> Departure {
        let (mut from, mut at) = (from, self.hosts[host.0].uplink);
        let mut below = Node::Host(host);
        while let Some(id) = at {
            let router = &mut self.routers[id.0];
            if let Some(node) = router.lan.get(&to.ip()).copied() {
                let apart = router.nat.kind().isolate && node != below;
                return if apart { Departure::Dropped(Cause::Filtered) } else { self.local(now, node, from, to, ttl) };
            }
            if to.ip() == router.nat.address() {
                let turned = if ttl > 1 { router.nat.hairpin(now, from, to, rng) } else { None };
                let node = turned.and_then(|(_, inner)| Some((turned?, *router.lan.get(&inner.ip())?)));
                return match node {
                    Some(((source, inner), node)) => self.local(now, node, source, inner, ttl - 1),
                    None => Departure::Dropped(Cause::Filtered),
                };
            }
            if ttl <= 1 {
                return Departure::Dropped(Cause::Expired);
            }
            let Some(public) = router.nat.outbound(now, from, to, rng) else { return Departure::Dropped(Cause::Filtered) };
            (from, at, below) = (public, router.uplink, Node::Router(id));
            ttl -= 1;
        }
        if ttl <= 1 {
            return Departure::Dropped(Cause::Expired);
        }
        if self.routes.contains_key(&to.ip()) { Departure::Core { from, to, ttl: ttl - 1 } } else { Departure::Dropped(Cause::Unroutable) }
    }

    /// A datagram that left the core reaches the edge: passes the routers before its receiver, if they let it.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub fn arrive(&mut self, now: Duration, from: SocketAddr, to: SocketAddr, ttl: u8) -> Result<Delivery, Cause> {
        let node = self.routes.get(&to.ip()).copied().ok_or(Cause::Unroutable)?;
        self.descend(now, node, from, to, ttl)
    }

    fn local(&mut self, now: Duration, node: Node, from: SocketAddr, to: SocketAddr, ttl: u8) -> Departure {
        match self.descend(now, node, from, to, ttl) {
            Ok(delivery) => Departure::Local(delivery),
            Err(cause) => Departure::Dropped(cause),
        }
    }

    fn descend(&mut self, now: Duration, mut node: Node, from: SocketAddr, mut to: SocketAddr, mut ttl: u8) -> Result<Delivery, Cause> {
        loop {
            match node {
                Node::Host(host) => return Ok(Delivery { host, local: to, remote: from }),
                Node::Router(id) => {
                    let router = &mut self.routers[id.0];
                    to = router.nat.inbound(now, from, to, ttl).ok_or(Cause::Filtered)?;
                    ttl -= 1;
                    node = *router.lan.get(&to.ip()).ok_or(Cause::Unroutable)?;
                }
            }
        }
    }

    fn attach(&mut self, node: Node, uplink: Option<RouterId>, addresses: &[IpAddr]) {
        for address in addresses {
            let Some(router) = uplink else {
                self.routes.insert(*address, node);
                continue;
            };
            self.routers[router.0].lan.insert(*address, node);
            if self.routers[router.0].uplink.is_none() && is_public(*address) {
                self.routes.insert(*address, Node::Router(router));
            }
        }
    }
}

/// Whether the core of the internet routes to `address`.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !(ip.is_private() || ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => !ip.is_unique_local() && !ip.is_unicast_link_local(),
    }
}

/// A place with one way to the internet: a public host, or a LAN behind routers. Gives out addresses.
#[derive(Debug)]
pub struct Plan {
    /// Number of the place; places of equal number modulo three have equal private networks, as many homes do.
    pub number: u32,
    /// Its public address.
    pub address: Ipv4Addr,
    /// Whether its hosts have IPv6, too.
    pub v6: bool,
    kinds: Vec<Kind>,
    added: u8,
}

impl Plan {
    /// A place whose hosts are behind `kinds`, the innermost first; a public host without.
    pub fn new(number: u32, address: Ipv4Addr, kinds: &[Kind], v6: bool) -> Self {
        Self { number, address, v6, kinds: kinds.to_vec(), added: 0 }
    }

    /// Puts its routers in place; returns the one that its hosts stand behind.
    pub fn build(&self, internet: &mut Internet) -> Option<RouterId> {
        let mut uplink = None;
        for (inner, kind) in self.kinds.iter().rev().enumerate() {
            let address = if inner == 0 { self.address } else { Ipv4Addr::new(100, 64, u8::try_from(inner).unwrap_or(u8::MAX), 11) };
            uplink = Some(internet.add_router(*kind, uplink, address.into()));
        }
        uplink
    }

    /// The addresses of the next host of the place.
    ///
    /// # Panics
    /// If there are 200 already.
    pub fn next_addresses(&mut self) -> Vec<IpAddr> {
        assert!(self.added < 200, "at most 200 hosts in a LAN");
        self.added += 1;
        let [a, b, c, d] = self.address.octets();
        let v4 = match self.kinds.first() {
            None => self.address,
            // A public LAN beside the address of its router.
            Some(kind) if !kind.translates && self.kinds.len() == 1 => Ipv4Addr::new(a ^ 0x20, b ^ self.added, c, d),
            Some(_) => Ipv4Addr::new(192, 168, [0, 1, 178][self.number as usize % 3], self.added + 1),
        };
        let words = self.number.to_be_bytes();
        let network = |i: usize| u16::from_be_bytes([words[i], words[i + 1]]);
        // No provider delegates a prefix through a second translator.
        let v6 = (self.v6 && self.kinds.len() < 2).then(|| Ipv6Addr::new(0x2a00, 0x11, network(0), network(2), 0, 0, 0, self.added.into()));
        core::iter::once(IpAddr::V4(v4)).chain(v6.map(IpAddr::V6)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// An internet with two public servers of two ports each, after RFC 5780, section 3, and a place to be examined.
    struct Laboratory {
        internet: Internet,
        rng: ChaCha8Rng,
        servers: [SocketAddr; 2],
        hosts: Vec<(HostId, IpAddr)>,
    }

    fn number(n: u32) -> Ipv4Addr {
        Ipv4Addr::new(11, 0, u8::try_from(n).expect("few places"), 2)
    }

    impl Laboratory {
        /// With as many hosts as `hosts` behind what `label` says.
        fn new(label: &str, hosts: usize) -> Self {
            let mut internet = Internet::default();
            let servers = [0, 1].map(|n| {
                internet.add_host(None, &[number(n).into()]);
                SocketAddr::new(number(n).into(), 3478)
            });
            let mut plan = Plan::new(2, number(2), &Kind::parse(label).expect("a kind of netlab"), label.contains("v6"));
            let router = plan.build(&mut internet);
            let hosts = (0..hosts).map(|_| {
                let addresses = plan.next_addresses();
                (internet.add_host(router, &addresses), addresses[0])
            });
            let hosts = hosts.collect();
            Self { internet, rng: ChaCha8Rng::seed_from_u64(1), servers, hosts }
        }

        /// As what `to` sees a datagram from port `port` of the first host come; none if it does not.
        fn seen(&mut self, port: u16, to: SocketAddr) -> Option<SocketAddr> {
            let (host, ip) = self.hosts[0];
            match self.internet.depart(Duration::ZERO, host, SocketAddr::new(ip, port), to, 64, &mut self.rng) {
                Departure::Core { from, .. } => Some(from),
                _ => None,
            }
        }

        /// Whether what `from` sends to `to` comes to port `port` of the first host.
        fn comes(&mut self, from: SocketAddr, to: SocketAddr, port: u16) -> bool {
            let expected = Delivery { host: self.hosts[0].0, local: SocketAddr::new(self.hosts[0].1, port), remote: from };
            self.internet.arrive(Duration::ZERO, from, to, 63) == Ok(expected)
        }

        /// The kind that the tests of RFC 5780, sections 4.3 and 4.4, find, and how ports are used; named as `netlab classify` names it.
        fn classify(&mut self) -> (&'static str, &'static str) {
            let [first, second] = self.servers;
            let other = |server: SocketAddr| SocketAddr::new(server.ip(), server.port() + 1);
            let probes = [first, other(first), second, other(second)];
            let seen: Vec<_> = probes.iter().filter_map(|server| self.seen(5000, *server)).collect();
            if seen.len() < 4 {
                return ("blocked-udp", "blocked");
            }
            let own = SocketAddr::new(self.hosts[0].1, 5000);
            let ports: Vec<u16> = seen.iter().map(SocketAddr::port).collect();
            let used = match () {
                () if ports == [5000; 4] => "preserved",
                () if ports == [ports[0]; 4] => "remapped",
                () if ports.windows(2).all(|pair| (1..=4).contains(&pair[1].wrapping_sub(pair[0]))) => "sequential",
                () => "random",
            };
            // A fresh socket that has only ever talked to the first server.
            let mapped = self.seen(6000, first).expect("it was heard before");
            assert!(self.comes(first, mapped, 6000), "an answer passes");
            let (any, address) = (self.comes(other(second), mapped, 6000), self.comes(other(first), mapped, 6000));
            let kind = match (seen[0] == own, seen.iter().all(|endpoint| *endpoint == seen[0]), any, address) {
                (true, _, true, _) => "open",
                (true, _, false, false) => "firewall",
                (false, true, true, _) => "full-cone",
                (false, true, false, true) => "addr-restricted",
                (false, true, false, false) => "port-restricted",
                (false, false, false, false) if used == "sequential" => "symmetric-sequential",
                (false, false, false, false) => "symmetric",
                _ => "other",
            };
            (kind, used)
        }
    }

    /// The same kinds, and what is found, as in `netlab selftest`.
    #[test]
    fn every_kind_of_netlab_is_classified_as_what_it_claims_to_be() {
        let table = [
            ("open", "open", "preserved"),
            ("firewall", "firewall", "preserved"),
            ("full-cone", "full-cone", "preserved"),
            ("addr-restricted", "addr-restricted", "preserved"),
            ("port-restricted", "port-restricted", "preserved"),
            ("symmetric", "symmetric", "random"),
            ("symmetric ports=20000-20511", "symmetric", "random"),
            ("symmetric maxflows=256", "symmetric", "random"),
            ("symmetric-sequential", "symmetric-sequential", "sequential"),
            ("blocked-udp", "blocked-udp", "blocked"),
            ("port-restricted remap=1", "port-restricted", "remapped"),
            ("port-restricted stray=accept", "port-restricted", "preserved"),
            ("full-cone hairpin=1", "full-cone", "preserved"),
            ("addr-restricted hairpin=1 remap=1", "addr-restricted", "remapped"),
            ("double", "symmetric", "random"),
            ("double outer=full-cone inner=addr-restricted", "addr-restricted", "preserved"),
            ("double outer=port-restricted", "port-restricted", "preserved"),
        ];
        for (label, kind, ports) in table {
            assert_eq!(Laboratory::new(label, 1).classify(), (kind, ports), "{label}");
        }
    }

    #[test]
    fn a_short_lived_datagram_opens_its_own_routers_and_reaches_no_other() {
        for (label, depth) in [("port-restricted", 1), ("double outer=port-restricted", 2)] {
            let mut lab = Laboratory::new(label, 1);
            let ((host, ip), server) = (lab.hosts[0], lab.servers[0]);
            assert_eq!(lab.internet.depth(host), depth);
            let own = SocketAddr::new(ip, 5000);
            let sent = |lab: &mut Laboratory, ttl| lab.internet.depart(Duration::ZERO, host, own, server, ttl, &mut lab.rng);
            assert_eq!(sent(&mut lab, depth), Departure::Dropped(Cause::Expired), "{label}: one hop short of the last router");
            assert!(!lab.comes(server, SocketAddr::new(number(2).into(), 5000), 5000));
            assert_eq!(sent(&mut lab, depth + 1), Departure::Dropped(Cause::Expired), "{label}: in the core");
            assert!(lab.comes(server, SocketAddr::new(number(2).into(), 5000), 5000), "{label}: the way in is open");
            assert!(matches!(sent(&mut lab, depth + 2), Departure::Core { ttl: 1, .. }), "{label}: as far as the next router");
        }
    }

    #[test]
    fn neighbours_meet_in_their_lan_unless_isolated_and_by_hairpin_where_there_is_one() {
        for (label, lan, hairpin) in
            [("full-cone", true, false), ("full-cone hairpin=1", true, true), ("full-cone isolate=1", false, false), ("open", true, true)]
        {
            let mut lab = Laboratory::new(label, 2);
            let [(a, a_ip), (b, b_ip)] = lab.hosts[..] else { panic!("two hosts") };
            let (from, to) = (SocketAddr::new(a_ip, 1), SocketAddr::new(b_ip, 2));
            let server = lab.servers[0];
            let met = |lab: &mut Laboratory, to| match lab.internet.depart(Duration::ZERO, a, from, to, 64, &mut lab.rng) {
                Departure::Local(delivery) => Some((delivery.host, delivery.local)),
                _ => None,
            };
            let Departure::Core { from: mapped, .. } = lab.internet.depart(Duration::ZERO, b, to, server, 64, &mut lab.rng) else {
                panic!("{label}: outbound passes")
            };
            assert_eq!(met(&mut lab, to), lan.then_some((b, to)), "{label}");
            assert_eq!(met(&mut lab, mapped), hairpin.then_some((b, to)), "{label}");
        }
    }

    #[test]
    fn ipv6_reaches_hosts_behind_one_router_and_not_behind_two() {
        assert_eq!([1, 2].map(|n| Plan::new(1, number(1), &[Kind::SYMMETRIC; 2][..n], true).next_addresses().len()), [2, 1]);
        let mut plan = Plan::new(3, number(3), &[], true);
        assert_eq!(plan.next_addresses()[0], IpAddr::from(number(3)));
    }

    #[test]
    fn who_moves_is_found_at_the_new_place_only() {
        let mut lab = Laboratory::new("open", 1);
        let ((host, ip), server) = (lab.hosts[0], lab.servers[0]);
        assert!(lab.comes(server, SocketAddr::new(ip, 5000), 5000));
        lab.internet.move_host(host, None, &[number(9).into()]);
        assert_eq!(lab.internet.arrive(Duration::ZERO, server, SocketAddr::new(ip, 5000), 63), Err(Cause::Unroutable));
        lab.hosts[0].1 = number(9).into();
        assert!(lab.comes(server, SocketAddr::new(number(9).into(), 5000), 5000));
    }
}
