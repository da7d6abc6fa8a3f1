//! The network: sites on an internet with latency and loss, translators, LANs, and virtual time.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::internet::{Cause, Departure, Internet, Plan};
pub use crate::internet::{HostId, RouterId};
use crate::nat::Kind;
use crate::queue::Queue;

/// A place with one public address: a public host, or routers with the LAN behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub usize);

/// How datagrams fare between two sites. Probabilities are from 0 to 1 and per datagram and hop.
#[derive(Debug, Clone, PartialEq)]
pub struct Links {
    /// Least and greatest one-way latency; uniform, fixed per pair of sites. Default 20 to 120 ms.
    pub latency: (Duration, Duration),
    /// Greatest additional latency of a datagram; uniform. Default 10 ms.
    pub jitter: Duration,
    /// Probability that a datagram is lost. Default 0.
    pub loss: f64,
    /// Probability that a datagram arrives twice. Default 0.
    pub duplication: f64,
    /// Probability that a datagram is held back by up to [`HELD_BACK`], so that later ones overtake it. Default 0.
    pub reordering: f64,
    /// Probability that a datagram arrives damaged: with one byte changed, or cut short. Default 0.
    pub corruption: f64,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            latency: (Duration::from_millis(20), Duration::from_millis(120)),
            jitter: Duration::from_millis(10),
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            corruption: 0.0,
        }
    }
}

/// What happens next to a host.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A datagram reached its socket.
    Datagram {
        /// Whose socket.
        host: HostId,
        /// To which of its ports.
        port: u16,
        /// The sender as the host sees it, after translation.
        remote: SocketAddr,
        /// The datagram.
        payload: Bytes,
    },
    /// The time asked for with [`Network::wake_at`] has come.
    Wake {
        /// Who asked.
        host: HostId,
    },
}

/// Datagrams and bytes of a host; bytes include [`HEADERS`] for each datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams that left, whatever became of them.
    pub sent: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Bytes of those.
    pub received_bytes: u64,
}

/// Datagrams that did not arrive, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// Lost on the way by [`Links::loss`].
    pub lost: u64,
    /// Between two partitions.
    pub partitioned: u64,
    /// Nobody has the address.
    pub unroutable: u64,
    /// A translator had no mapping or its filter refused.
    pub filtered: u64,
    /// Hops ran out.
    pub expired: u64,
    /// The host slept.
    pub asleep: u64,
    /// The queue of a slow link was full.
    pub queue_full: u64,
}

/// A network of hosts on virtual time, a function of its seed and of what is asked of it.
///
/// Time is the duration since the start. Deliberately absent: ICMP, fragments (nothing here exceeds 1200 bytes), TCP.
#[derive(Debug)]
pub struct Network {
    /// How datagrams fare; may be changed at any time.
    pub links: Links,
    seed: u64,
    rng: ChaCha8Rng,
    now: Duration,
    queue: Queue<Event>,
    internet: Internet,
    sites: Vec<Site>,
    hosts: Vec<Host>,
    /// Sites by the router on the internet's side, which is not the one on the hosts' side where one is behind another.
    gates: HashMap<RouterId, SiteId>,
    drops: Drops,
}

#[derive(Debug)]
struct Site {
    plan: Plan,
    /// The router that its hosts stand behind.
    router: Option<RouterId>,
    hosts: Vec<HostId>,
    partition: u32,
    /// Probability that a datagram is lost on its uplink, beside [`Links::loss`].
    loss: f64,
}

#[derive(Debug)]
struct Host {
    site: SiteId,
    /// As the host itself sees them, IPv4 first.
    addresses: Vec<SocketAddr>,
    asleep: bool,
    wake_at: Option<Duration>,
    up: Option<Pipe>,
    down: Option<Pipe>,
    traffic: Traffic,
}

/// A link of limited rate with a queue in front of it.
#[derive(Debug, Clone, Copy)]
struct Pipe {
    bytes_per_second: u64,
    free_at: Duration,
}

#[derive(Debug)]
enum Event {
    /// On the internet, about to reach a public address.
    Arriving {
        to: SocketAddr,
        from: SocketAddr,
        ttl: u8,
        payload: Bytes,
    },
    /// Behind every translator and queue but the host's own.
    Delivered {
        to: HostId,
        port: u16,
        from: SocketAddr,
        payload: Bytes,
    },
    Wake(HostId),
}

impl Network {
    /// An empty network at time zero.
    pub fn new(links: Links, seed: u64) -> Self {
        Self {
            links,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: Duration::ZERO,
            queue: Queue::default(),
            internet: Internet::default(),
            sites: Vec::new(),
            hosts: Vec::new(),
            gates: HashMap::new(),
            drops: Drops::default(),
        }
    }

    /// Virtual time since the start.
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// Adds a place: behind a router of `kind`, or one public host.
    pub fn add_site(&mut self, kind: Option<Kind>) -> SiteId {
        self.add_site_behind(kind.as_slice(), false)
    }

    /// Adds a place whose hosts stand behind `kinds`, the innermost first, or one public host; `v6`: with IPv6, too.
    pub fn add_site_behind(&mut self, kinds: &[Kind], v6: bool) -> SiteId {
        let id = SiteId(self.sites.len());
        let plan = Plan::new(u32::try_from(id.0).expect("fewer than 2^26 sites"), public_address(id), kinds, v6);
        let router = plan.build(&mut self.internet);
        if let Some(Err(outermost)) = self.internet.gate(plan.address.into()) {
            self.gates.insert(outermost, id);
        }
        self.sites.push(Site { plan, router, hosts: Vec::new(), partition: 0, loss: 0.0 });
        id
    }

    /// Adds a host at `site`.
    ///
    /// # Panics
    /// If `site` is public and has its host already, or if more than 200 hosts were added to it.
    pub fn add_host(&mut self, site: SiteId) -> HostId {
        let place = &mut self.sites[site.0];
        assert!(place.router.is_some() || place.hosts.is_empty(), "a public site has one host");
        let addresses = place.plan.next_addresses();
        let id = self.internet.add_host(place.router, &addresses);
        place.hosts.push(id);
        self.hosts.push(Host {
            site,
            addresses: addresses.into_iter().map(|ip| SocketAddr::new(ip, HOST_PORT)).collect(),
            asleep: false,
            wake_at: None,
            up: None,
            down: None,
            traffic: Traffic::default(),
        });
        id
    }

    /// Takes a host away: what is on its way to it is dropped. Its counters stay.
    pub fn remove_host(&mut self, host: HostId) {
        self.set_asleep(host, true);
        self.internet.detach(host);
        let site = &mut self.sites[self.hosts[host.0].site.0];
        site.hosts.retain(|other| *other != host);
        if let (true, Some(router)) = (site.hosts.is_empty(), site.router) {
            self.internet.unroute(router);
            // Its flows need no room any more.
            self.internet.nat_mut(router).rebind(&mut self.rng);
        }
    }

    /// The address of the host's socket, as the host itself sees it.
    pub fn address(&self, host: HostId) -> SocketAddr {
        self.hosts[host.0].addresses[0]
    }

    /// The addresses of the host's sockets, as the host itself sees them: IPv4, then IPv6 if it has that.
    pub fn addresses(&self, host: HostId) -> &[SocketAddr] {
        &self.hosts[host.0].addresses
    }

    /// Loses so many of the datagrams that pass the uplink of `site`, each way, beside what [`Links::loss`] says.
    pub fn set_loss(&mut self, site: SiteId, probability: f64) {
        self.sites[site.0].loss = probability;
    }

    /// The place where a host is.
    pub fn site(&self, host: HostId) -> SiteId {
        self.hosts[host.0].site
    }

    /// Reboots the router of `site` that its hosts stand behind, if it has one: its mappings are lost.
    pub fn rebind(&mut self, site: SiteId) {
        if let Some(router) = self.sites[site.0].router {
            self.internet.nat_mut(router).rebind(&mut self.rng);
        }
    }

    /// Puts `site` in a partition; datagrams pass only within one. All sites start in partition 0.
    pub fn set_partition(&mut self, site: SiteId, partition: u32) {
        self.sites[site.0].partition = partition;
    }

    /// Puts a host to sleep or awakes it. Asleep it receives nothing, and the wake it asked for is forgotten.
    pub fn set_asleep(&mut self, host: HostId, asleep: bool) {
        let host = &mut self.hosts[host.0];
        host.asleep = asleep;
        host.wake_at = None;
    }

    /// Whether a host sleeps.
    pub fn is_asleep(&self, host: HostId) -> bool {
        self.hosts[host.0].asleep
    }

    /// Limits what a host sends and what it receives, each to `bytes_per_second`.
    pub fn set_rate(&mut self, host: HostId, bytes_per_second: Option<u64>) {
        let pipe = bytes_per_second.map(|bytes_per_second| Pipe { bytes_per_second, free_at: self.now });
        let host = &mut self.hosts[host.0];
        (host.up, host.down) = (pipe, pipe);
    }

    /// What a host sent and received since the start.
    pub fn traffic(&self, host: HostId) -> Traffic {
        self.hosts[host.0].traffic
    }

    /// What all hosts together sent and received since the start, those that left included.
    pub fn total(&self) -> Traffic {
        self.hosts.iter().fold(Traffic::default(), |sum, host| Traffic {
            sent: sum.sent + host.traffic.sent,
            sent_bytes: sum.sent_bytes + host.traffic.sent_bytes,
            received: sum.received + host.traffic.received,
            received_bytes: sum.received_bytes + host.traffic.received_bytes,
        })
    }

    /// Datagrams that did not arrive.
    pub const fn drops(&self) -> Drops {
        self.drops
    }

    /// Asks for an [`Arrival::Wake`] at `at` (now, if that has passed), unless one is due sooner.
    pub fn wake_at(&mut self, host: HostId, at: Duration) {
        let at = at.max(self.now);
        let slot = &mut self.hosts[host.0].wake_at;
        if slot.is_none_or(|sooner| at < sooner) {
            *slot = Some(at);
            self.queue.push(at, Event::Wake(host));
        }
    }

    /// Sends a datagram from the socket of `host`. O(log n).
    pub fn send(&mut self, host: HostId, destination: SocketAddr, payload: Bytes) {
        self.send_from(host, HOST_PORT, destination, TTL, payload);
    }

    /// As [`Network::send`], from any port of the host and with `ttl` hops.
    pub fn send_from(&mut self, host: HostId, port: u16, destination: SocketAddr, ttl: u8, payload: Bytes) {
        let size = payload.len() as u64 + HEADERS;
        let now = self.now;
        let sender = &mut self.hosts[host.0];
        sender.traffic.sent += 1;
        sender.traffic.sent_bytes += size;
        let site = sender.site;
        let Some(queued) = sender.up.as_mut().map_or(Some(Duration::ZERO), |pipe| pipe.queue(now, size)) else {
            self.drops.queue_full += 1;
            return;
        };
        let Some(mut from) = sender.addresses.iter().copied().find(|own| own.is_ipv4() == destination.is_ipv4()) else {
            self.drops.unroutable += 1;
            return;
        };
        from.set_port(port);
        if destination.ip().is_multicast() {
            let isolated = self.internet.uplink(host).is_none_or(|router| self.internet.is_isolated(router));
            for i in 0..self.sites[site.0].hosts.len() {
                let neighbour = self.sites[site.0].hosts[i];
                if neighbour != host && !isolated {
                    let delivered = Event::Delivered { to: neighbour, port: HOST_PORT, from, payload: payload.clone() };
                    self.queue.push(now + queued + LAN_LATENCY, delivered);
                }
            }
            return;
        }
        match self.internet.depart(now, host, from, destination, ttl, &mut self.rng) {
            Departure::Core { from, to, ttl } => self.cross(site, (from, to, ttl), queued, payload),
            Departure::Local(delivery) => {
                let delivered = Event::Delivered { to: delivery.host, port: delivery.local.port(), from: delivery.remote, payload };
                self.queue.push(now + queued + LAN_LATENCY, delivered);
            }
            Departure::Dropped(cause) => self.count(cause),
        }
    }

    const fn count(&mut self, cause: Cause) {
        match cause {
            Cause::Unroutable => self.drops.unroutable += 1,
            Cause::Filtered => self.drops.filtered += 1,
            Cause::Expired => self.drops.expired += 1,
        }
    }

    /// Advances to the next thing that happens to a host, at most to `until`; `None` when nothing more happens by then.
    pub fn next(&mut self, until: Duration) -> Option<Arrival> {
        while let Some((at, event)) = self.queue.pop(until) {
            self.now = at;
            let arrival = match event {
                Event::Arriving { to, from, ttl, payload } => self.on_arriving(to, from, ttl, payload),
                Event::Delivered { to, port, from, payload } => self.on_delivered(to, port, from, payload),
                Event::Wake(host) => self.on_wake(host),
            };
            if arrival.is_some() {
                return arrival;
            }
        }
        self.now = self.now.max(until);
        None
    }

    /// Carries a datagram over the internet, from behind the sender's translator to the receiver's public address.
    fn cross(&mut self, site: SiteId, (from, to, ttl): (SocketAddr, SocketAddr, u8), queued: Duration, payload: Bytes) {
        let Some(destination) = self.site_at(to.ip()) else {
            self.drops.unroutable += 1;
            return;
        };
        if self.sites[site.0].partition != self.sites[destination.0].partition {
            self.drops.partitioned += 1;
            return;
        }
        if [self.links.loss, self.sites[site.0].loss, self.sites[destination.0].loss].iter().any(|loss| self.happens(*loss)) {
            self.drops.lost += 1;
            return;
        }
        let payload = if self.happens(self.links.corruption) { self.damage(&payload) } else { payload };
        let base = self.now + queued + self.latency(site, destination);
        if self.happens(self.links.duplication) {
            let at = base + self.up_to(self.links.jitter);
            self.queue.push(at, Event::Arriving { to, from, ttl, payload: payload.clone() });
        }
        let held_back = if self.happens(self.links.reordering) { self.up_to(HELD_BACK) } else { Duration::ZERO };
        let at = base + self.up_to(self.links.jitter) + held_back;
        self.queue.push(at, Event::Arriving { to, from, ttl, payload });
    }

    /// The site that the internet routes `address` to.
    fn site_at(&self, address: IpAddr) -> Option<SiteId> {
        match self.internet.gate(address)? {
            Ok(host) => Some(self.hosts[host.0].site),
            Err(router) => self.gates.get(&router).copied(),
        }
    }

    fn on_arriving(&mut self, to: SocketAddr, from: SocketAddr, ttl: u8, payload: Bytes) -> Option<Arrival> {
        let delivery = match self.internet.arrive(self.now, from, to, ttl) {
            Ok(delivery) => delivery,
            Err(cause) => {
                self.count(cause);
                return None;
            }
        };
        let (host, port) = (delivery.host, delivery.local.port());
        let size = payload.len() as u64 + HEADERS;
        match self.hosts[host.0].down.as_mut().map_or(Some(Duration::ZERO), |pipe| pipe.queue(self.now, size)) {
            None => self.drops.queue_full += 1,
            Some(Duration::ZERO) => return self.on_delivered(host, port, delivery.remote, payload),
            Some(queued) => self.queue.push(self.now + queued, Event::Delivered { to: host, port, from: delivery.remote, payload }),
        }
        None
    }

    fn on_delivered(&mut self, to: HostId, port: u16, from: SocketAddr, payload: Bytes) -> Option<Arrival> {
        let host = &mut self.hosts[to.0];
        if host.asleep {
            self.drops.asleep += 1;
            return None;
        }
        host.traffic.received += 1;
        host.traffic.received_bytes += payload.len() as u64 + HEADERS;
        Some(Arrival::Datagram { host: to, port, remote: from, payload })
    }

    fn on_wake(&mut self, id: HostId) -> Option<Arrival> {
        let host = &mut self.hosts[id.0];
        let due = host.wake_at == Some(self.now);
        due.then(|| {
            host.wake_at = None;
            Arrival::Wake { host: id }
        })
    }

    /// One-way latency between two sites: the same in both directions and at all times.
    fn latency(&self, a: SiteId, b: SiteId) -> Duration {
        let (least, greatest) = self.links.latency;
        let pair = mix(mix(self.seed ^ a.0.min(b.0) as u64) ^ a.0.max(b.0) as u64);
        least + (greatest - least).mul_f64(pair as f64 / u64::MAX as f64)
    }

    fn damage(&mut self, payload: &[u8]) -> Bytes {
        let mut damaged = payload.to_vec();
        let at = self.rng.random_range(0..payload.len().max(1));
        match damaged.get_mut(at) {
            Some(byte) if self.rng.random() => *byte ^= self.rng.random_range(1..=u8::MAX),
            _ => damaged.truncate(at),
        }
        damaged.into()
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.random::<f64>())
    }
}

impl Pipe {
    /// Puts a datagram in the queue; returns how long until it is through, `None` if the queue is full.
    fn queue(&mut self, now: Duration, size: u64) -> Option<Duration> {
        let start = self.free_at.max(now);
        if start - now > MAX_QUEUE {
            return None;
        }
        self.free_at = start + Duration::from_secs_f64(size as f64 / self.bytes_per_second as f64);
        Some(self.free_at - now)
    }
}

/// The public address of a site: all distinct, spread over 64.0.0.0/6.
fn public_address(site: SiteId) -> Ipv4Addr {
    let n = u32::try_from(site.0).expect("fewer than 2^26 sites");
    // Multiplication by an odd number is a bijection of the low 26 bits.
    Ipv4Addr::from_bits((64 << 24) | (n.wrapping_mul(0x009e_3779).wrapping_add(0x0155_5555) & 0x03ff_ffff))
}

/// SplitMix64's output function: spreads close numbers over the whole range.
const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The UDP port of every host.
pub const HOST_PORT: u16 = 4242;
/// Hops of a datagram that asks for no other number.
pub const TTL: u8 = 64;
/// Bytes of the IPv4 and UDP headers of a datagram.
pub const HEADERS: u64 = 28;
/// Longest that a reordered datagram is held back.
pub const HELD_BACK: Duration = Duration::from_millis(200);
const LAN_LATENCY: Duration = Duration::from_millis(1);
/// What a slow link queues at most, in time to pass it on.
const MAX_QUEUE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn public(network: &mut Network) -> HostId {
        let site = network.add_site(None);
        network.add_host(site)
    }

    fn behind(network: &mut Network, kind: Kind) -> HostId {
        let site = network.add_site(Some(kind));
        network.add_host(site)
    }

    /// The next datagram within a second: when, to whom, from where.
    fn next(network: &mut Network) -> Option<(Duration, HostId, SocketAddr)> {
        match network.next(network.now() + ms(1000))? {
            Arrival::Datagram { host, remote, .. } => Some((network.now(), host, remote)),
            Arrival::Wake { .. } => next(network),
        }
    }

    fn send(network: &mut Network, host: HostId, to: SocketAddr) {
        network.send(host, to, Bytes::from_static(b"hello"));
    }

    #[test]
    fn latency_is_fixed_per_pair_symmetric_and_within_its_bounds() {
        let mut network = Network::new(Links { jitter: Duration::ZERO, ..Links::default() }, 1);
        let hosts: Vec<_> = (0..20).map(|_| public(&mut network)).collect();
        let mut seen = Vec::new();
        for a in &hosts {
            for b in hosts.iter().filter(|b| *b > a) {
                let mut took = [a, b, a].map(|from| {
                    let (to, start) = (if from == a { b } else { a }, network.now());
                    let destination = network.address(*to);
                    send(&mut network, *from, destination);
                    let (at, host, remote) = next(&mut network).expect("nothing is lost");
                    assert_eq!((host, remote), (*to, network.address(*from)));
                    at - start
                });
                assert!(took[0] >= ms(20) && took[0] <= ms(120));
                seen.push(took[0]);
                took.sort();
                assert_eq!(took[0], took[2]);
            }
        }
        let mean = seen.iter().sum::<Duration>() / 190;
        assert!(mean > ms(62) && mean < ms(78), "{mean:?}");
    }

    #[test]
    fn loss_and_duplication_happen_as_often_as_said() {
        let mut network = Network::new(Links { loss: 0.1, duplication: 0.05, ..Links::default() }, 2);
        let (a, b) = (public(&mut network), public(&mut network));
        let to = network.address(b);
        (0..10_000).for_each(|_| send(&mut network, a, to));
        while next(&mut network).is_some() {}
        assert_eq!(network.traffic(a).sent, 10_000);
        let (lost, received) = (network.drops().lost, network.traffic(b).received);
        assert!((900..1100).contains(&lost), "{lost}");
        assert!((400..500).contains(&(received + lost - 10_000)), "{received}");
        assert_eq!(network.traffic(b).received_bytes, received * (5 + HEADERS));
    }

    #[test]
    fn a_damaged_datagram_differs_in_one_byte_or_is_cut_short() {
        let mut network = Network::new(Links { corruption: 1.0, ..Links::default() }, 10);
        let (a, b) = (public(&mut network), public(&mut network));
        let to = network.address(b);
        let (mut changed, mut cut) = (0, 0);
        (0..100).for_each(|_| network.send(a, to, Bytes::from(vec![7; 50])));
        while let Some(Arrival::Datagram { payload, .. }) = network.next(ms(1000)) {
            let different = payload.iter().filter(|byte| **byte != 7).count();
            (changed, cut) = (changed + different, cut + usize::from(payload.len() < 50));
        }
        assert_eq!(changed + cut, 100);
        assert!(changed > 30 && cut > 30, "{changed} {cut}");
        network.send(a, to, Bytes::new());
        assert!(next(&mut network).is_some());
    }

    #[test]
    fn a_held_back_datagram_is_overtaken() {
        let mut network = Network::new(Links { reordering: 0.5, ..Links::default() }, 3);
        let (a, b) = (public(&mut network), public(&mut network));
        let to = network.address(b);
        (0..20u8).for_each(|i| network.send(a, to, Bytes::from(vec![i])));
        let mut order = Vec::new();
        while let Some(Arrival::Datagram { payload, .. }) = network.next(ms(1000)) {
            order.push(payload[0]);
        }
        assert_eq!(order.len(), 20);
        assert!(!order.is_sorted());
    }

    #[test]
    fn a_port_restricted_and_a_symmetric_host_hear_only_whom_they_address() {
        let mut network = Network::new(Links::default(), 4);
        let server = public(&mut network);
        let stranger = public(&mut network);
        let to = network.address(server);
        for kind in [Kind::PORT_RESTRICTED, Kind::SYMMETRIC] {
            let inner = behind(&mut network, kind);
            send(&mut network, inner, to);
            let (_, _, mapped) = next(&mut network).expect("outbound passes");
            assert_ne!(mapped, network.address(inner));
            send(&mut network, stranger, mapped);
            assert_eq!(next(&mut network), None);
            send(&mut network, server, mapped);
            assert_eq!(next(&mut network).map(|(_, host, remote)| (host, remote)), Some((inner, to)));
        }
        assert_eq!(network.drops(), Drops { filtered: 2, ..Drops::default() });
    }

    #[test]
    fn hosts_of_one_lan_meet_by_private_address_and_multicast_and_others_do_not() {
        let mut network = Network::new(Links::default(), 5);
        let lan = network.add_site(Some(Kind::PORT_RESTRICTED));
        let [a, b, c] = [(); 3].map(|()| network.add_host(lan));
        let elsewhere = behind(&mut network, Kind::PORT_RESTRICTED);
        let (to_b, to_elsewhere) = (network.address(b), network.address(elsewhere));
        send(&mut network, a, to_b);
        assert_eq!(next(&mut network).map(|(_, host, remote)| (host, remote)), Some((b, network.address(a))));
        send(&mut network, a, to_elsewhere);
        assert_eq!(next(&mut network), None);
        send(&mut network, a, SocketAddr::from(([239, 1, 2, 3], 9999)));
        assert_eq!(
            [next(&mut network), next(&mut network), next(&mut network)].map(|n| n.map(|(_, host, _)| host)),
            [Some(b), Some(c), None]
        );
    }

    #[test]
    fn a_public_address_leads_back_into_its_own_lan_only_with_hairpinning() {
        for hairpin in [false, true] {
            let mut network = Network::new(Links::default(), 6);
            let server = public(&mut network);
            let lan = network.add_site(Some(Kind { hairpin, ..Kind::FULL_CONE }));
            let [a, b] = [(); 2].map(|()| network.add_host(lan));
            let to = network.address(server);
            send(&mut network, b, to);
            let (_, _, mapped) = next(&mut network).expect("outbound passes");
            send(&mut network, a, mapped);
            let arrival = next(&mut network);
            assert_eq!(arrival.map(|(_, host, _)| host), hairpin.then_some(b));
            assert!(arrival.is_none_or(|(_, _, remote)| remote.ip() == mapped.ip()), "the sender appears with its public address");
        }
    }

    #[test]
    fn partitions_separate_until_healed_and_sleepers_and_leavers_receive_nothing() {
        let mut network = Network::new(Links::default(), 7);
        let (a, b) = (public(&mut network), public(&mut network));
        let (to, site) = (network.address(b), network.site(b));
        network.set_partition(site, 1);
        send(&mut network, a, to);
        assert_eq!(next(&mut network), None);
        network.set_partition(site, 0);
        send(&mut network, a, to);
        assert!(next(&mut network).is_some());
        network.set_asleep(b, true);
        send(&mut network, a, to);
        assert_eq!(next(&mut network), None);
        network.set_asleep(b, false);
        send(&mut network, a, to);
        network.remove_host(b);
        assert_eq!(next(&mut network), None);
        assert_eq!(network.drops(), Drops { partitioned: 1, asleep: 1, unroutable: 1, ..Drops::default() });
    }

    #[test]
    fn a_slow_link_takes_its_time_and_drops_what_it_cannot_queue() {
        let mut network = Network::new(Links::default(), 8);
        let (a, b) = (public(&mut network), public(&mut network));
        let to = network.address(b);
        network.set_rate(a, Some(10_000));
        (0..100).for_each(|_| network.send(a, to, Bytes::from(vec![0; 972])));
        let mut last = Duration::ZERO;
        while let Some((at, ..)) = next(&mut network) {
            last = at;
        }
        assert_eq!(network.traffic(b).received, 6, "half a second of datagrams of a tenth each, and the one under way");
        assert!(last > ms(600) && last < ms(760), "{last:?}");
        assert_eq!(network.drops().queue_full, 94);
    }

    #[test]
    fn only_the_earliest_wake_counts_and_a_sleeper_is_not_woken() {
        let mut network = Network::new(Links::default(), 9);
        let a = public(&mut network);
        network.wake_at(a, ms(30));
        network.wake_at(a, ms(10));
        network.wake_at(a, ms(20));
        assert_eq!((network.next(ms(1000)), network.now()), (Some(Arrival::Wake { host: a }), ms(10)));
        assert_eq!(network.next(ms(40)), None);
        network.wake_at(a, ms(50));
        network.set_asleep(a, true);
        assert_eq!(network.next(ms(60)), None);
        assert_eq!(network.now(), ms(60));
    }
}
