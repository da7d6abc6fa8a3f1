//! A router with a network address translator or a firewall, in the terms of RFC 4787 and with the habits of Linux's connection tracking.
//!
//! It can be every router that `tests/netlab/netlab` builds, and those that Linux cannot be. The file stands alone, so that the tests of any crate can include it.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use hashbrown::HashMap;
use rand::{Rng, RngExt};

/// On what a public port, or the right to use it from outside, depends (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// On the inner endpoint alone.
    EndpointIndependent,
    /// Also on the address of the outer endpoint.
    AddressDependent,
    /// Also on the address and the port of the outer endpoint.
    AddressAndPortDependent,
}

impl Dependence {
    /// What of `remote` matters; two endpoints with equal keys are treated alike.
    const fn key(self, remote: SocketAddr) -> Option<(IpAddr, u16)> {
        match self {
            Self::EndpointIndependent => None,
            Self::AddressDependent => Some((remote.ip(), 0)),
            Self::AddressAndPortDependent => Some((remote.ip(), remote.port())),
        }
    }
}

/// How a public port is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inner port, or a fixed function of it (RFC 4787, section 4.2.1); another one only for a flow whose place is taken.
    Preserved,
    /// Any free port of the range.
    Random,
    /// The next free port of the range, so many after the one given out last.
    Sequential {
        /// 1 or more.
        step: u16,
    },
}

/// What becomes of a datagram to the router itself that belongs to no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stray {
    /// It is dropped and leaves nothing behind.
    Drop,
    /// The router takes it for its own: a flow is tracked, and what is sent to that peer from inside cannot use the same public port meanwhile.
    Accept,
}

/// Life of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// While datagrams went one way only, and of what stands open to others than those that were sent to.
    pub unreplied: Duration,
    /// Once they went both ways, after its first [`STREAM_AGE`].
    pub stream: Duration,
    /// Whether datagrams from outside prolong it, too.
    pub inbound: bool,
}

impl Lifetime {
    /// Of Linux: 30 s and 120 s, both ways.
    pub const LINUX: Self = Self { unreplied: Duration::from_secs(30), stream: Duration::from_secs(120), inbound: true };
    /// 60 s without outbound traffic.
    pub const MINUTE: Self = Self { unreplied: Duration::from_secs(60), stream: Duration::from_secs(60), inbound: false };
}

/// The behaviour of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Whether addresses are translated; if not, only `filtering` and `udp` matter. IPv6 is never translated.
    pub translates: bool,
    /// What a mapping depends on.
    pub mapping: Dependence,
    /// From whom a mapping lets datagrams in. For IPv6 it is address and port dependent wherever something is filtered or translated at all.
    pub filtering: Dependence,
    /// How public ports are chosen.
    pub ports: Ports,
    /// Least and greatest public port that is chosen, where it is not preserved. Default 1024 and 65535.
    pub range: (u16, u16),
    /// Life of a flow. Default [`Lifetime::MINUTE`]; of those that [`Kind::linux`] names, [`Lifetime::LINUX`].
    pub lifetime: Lifetime,
    /// Whether inner hosts reach each other through the public address (RFC 4787, section 6).
    pub hairpin: bool,
    /// Most flows of one inner host.
    pub max_flows: Option<usize>,
    /// What becomes of stray datagrams.
    pub stray: Stray,
    /// Where ports are preserved: whether by a function that changes them.
    pub remap: bool,
    /// Whether UDP passes at all.
    pub udp: bool,
    /// Whether inner hosts are kept from each other.
    pub isolate: bool,
}

impl Kind {
    /// One mapping for all, open to anyone.
    pub const FULL_CONE: Self = Self::cone(Dependence::EndpointIndependent);
    /// One mapping for all, open to addresses that were sent to.
    pub const ADDRESS_RESTRICTED: Self = Self::cone(Dependence::AddressDependent);
    /// One mapping for all, open to endpoints that were sent to: the usual home router.
    pub const PORT_RESTRICTED: Self = Self::cone(Dependence::AddressAndPortDependent);
    /// A mapping with a random port for every outer endpoint, open to that endpoint.
    pub const SYMMETRIC: Self = Self { mapping: Dependence::AddressAndPortDependent, ..Self::PORT_RESTRICTED };
    /// As [`Kind::SYMMETRIC`] with consecutive ports.
    pub const SYMMETRIC_SEQUENTIAL: Self = Self { ports: Ports::Sequential { step: 1 }, ..Self::SYMMETRIC };
    /// No translation and no filter.
    pub const OPEN: Self = Self { translates: false, ..Self::FULL_CONE };
    /// No translation; from outside only what answers.
    pub const FIREWALL: Self = Self { translates: false, ..Self::PORT_RESTRICTED };

    const fn cone(filtering: Dependence) -> Self {
        Self {
            translates: true,
            mapping: Dependence::EndpointIndependent,
            filtering,
            ports: Ports::Random,
            range: (FIRST_PORT, u16::MAX),
            lifetime: Lifetime::MINUTE,
            hairpin: false,
            max_flows: None,
            stray: Stray::Drop,
            remap: false,
            udp: true,
            isolate: false,
        }
    }

    /// The Linux router that netlab builds under `name`: cones preserve ports, flows live as [`Lifetime::LINUX`] says; `None` if it has none of that name.
    pub fn linux(name: &str) -> Option<Self> {
        let cone = |kind| Self { ports: Ports::Preserved, ..kind };
        let kind = match name {
            "open" => Self::OPEN,
            "firewall" => Self::FIREWALL,
            "full-cone" => cone(Self::FULL_CONE),
            "addr-restricted" => cone(Self::ADDRESS_RESTRICTED),
            "port-restricted" => cone(Self::PORT_RESTRICTED),
            "symmetric" => Self::SYMMETRIC,
            "symmetric-sequential" => Self::SYMMETRIC_SEQUENTIAL,
            "blocked-udp" => Self { udp: false, ..cone(Self::PORT_RESTRICTED) },
            _ => return None,
        };
        Some(Self { lifetime: Lifetime::LINUX, ..kind })
    }

    /// Sets an option as netlab writes it: `hairpin remap udp stream ports maxflows isolate stray`, and `step` of a sequential one; returns whether there is such an option.
    fn set(&mut self, key: &str, value: &str) -> bool {
        let flag = match value {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        let seconds = value.parse().ok().map(Duration::from_secs);
        match (key, flag, seconds) {
            ("hairpin", Some(flag), _) => self.hairpin = flag,
            ("remap", Some(flag), _) => self.remap = flag,
            ("isolate", Some(flag), _) => self.isolate = flag,
            ("udp", _, Some(time)) => self.lifetime.unreplied = time,
            ("stream", _, Some(time)) => self.lifetime.stream = time,
            ("stray", ..) if matches!(value, "drop" | "reject") => self.stray = Stray::Drop,
            ("stray", ..) if value == "accept" => self.stray = Stray::Accept,
            ("maxflows", ..) => return value.parse().map(|most| self.max_flows = Some(most)).is_ok(),
            ("step", ..) => match value.parse() {
                Ok(step @ 1..) => self.ports = Ports::Sequential { step },
                _ => return false,
            },
            ("ports", ..) => {
                let range = value.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
                let Some(range) = range.filter(|(low, high)| low <= high) else { return false };
                self.range = range;
            }
            _ => return false,
        }
        true
    }

    /// The routers that `text` names in the language of netlab, the innermost first: `symmetric ports=20000-20511`, `double outer=port-restricted`.
    ///
    /// # Errors
    /// What of `text` is unknown.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let options: Vec<(&str, &str)> =
            words.map(|word| word.split_once('=').ok_or_else(|| word.to_owned())).collect::<Result<_, String>>()?;
        let option = |key, default| options.iter().find(|(known, _)| *known == key).map_or(default, |(_, value)| *value);
        let double = name == "double";
        let names = if double { vec![option("inner", "port-restricted"), option("outer", "symmetric")] } else { vec![name] };
        let mut kinds =
            names.into_iter().map(|name| Self::linux(name).ok_or_else(|| name.to_owned())).collect::<Result<Vec<Self>, String>>()?;
        for (key, value) in options.iter().filter(|(key, _)| !(double && matches!(*key, "inner" | "outer"))) {
            // A block of ports and a quota are the provider's.
            let outer = kinds.len() - 1;
            let of = if matches!(*key, "ports" | "maxflows") { outer } else { 0 };
            if !kinds[of].set(key, value) {
                return Err(format!("{key}={value}"));
            }
        }
        Ok(kinds)
    }
}

/// A router with one public address, for any number of inner hosts.
#[derive(Debug)]
pub struct Nat {
    kind: Kind,
    address: SocketAddr,
    /// What stands between inner and outer ports where they are preserved.
    scramble: u16,
    /// Inner hosts in the order they were first heard, as far as that matters.
    slots: HashMap<IpAddr, u16>,
    /// What is tracked, by the remote and the public endpoint.
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    /// The public endpoint of what an inner endpoint sends to a remote one, while that flow lives.
    outward: HashMap<(SocketAddr, SocketAddr), SocketAddr>,
    /// Mappings that serve several flows, and the port of each.
    mappings: HashMap<(SocketAddr, RemoteKey), (u16, Duration)>,
    /// Who has a port for more than one flow: the inner endpoint, and until when.
    owners: HashMap<u16, (SocketAddr, Duration)>,
    /// What is open to others than those that were sent to, by what matters of them and the port.
    doors: HashMap<(RemoteKey, u16), (SocketAddr, Duration)>,
    /// Ports that were mapped to an inner endpoint for everyone.
    forwarded: HashMap<u16, SocketAddr>,
    last_port: u16,
    /// Number of flows at which what has expired is removed.
    sweep_at: usize,
}

type RemoteKey = Option<(IpAddr, u16)>;

#[derive(Debug)]
struct Flow {
    /// The inner endpoint; none for one of the router's own.
    inner: Option<SocketAddr>,
    since: Duration,
    until: Duration,
    /// Datagrams went out, and came in.
    seen: (bool, bool),
}

impl Nat {
    /// A router without flows, whose outer side has `address` (the port does not matter).
    pub fn new(kind: Kind, address: IpAddr) -> Self {
        Self {
            kind,
            address: SocketAddr::new(address, 0),
            scramble: if kind.remap { REMAP } else { 0 },
            slots: HashMap::new(),
            flows: HashMap::new(),
            outward: HashMap::new(),
            mappings: HashMap::new(),
            owners: HashMap::new(),
            doors: HashMap::new(),
            forwarded: HashMap::new(),
            last_port: first_port(address, kind.range),
            sweep_at: MIN_SWEEP,
        }
    }

    /// How it behaves.
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The address of its outer side.
    pub const fn address(&self) -> IpAddr {
        self.address.ip()
    }

    /// Passes a datagram from `inner` out to `remote`.
    ///
    /// Returns the endpoint it leaves from, `None` if it is refused or no port is free. O(1) amortised; with a quota, O(flows).
    pub fn outbound(&mut self, now: Duration, inner: SocketAddr, remote: SocketAddr, rng: &mut impl Rng) -> Option<SocketAddr> {
        if !self.kind.udp {
            return None;
        }
        if self.is_open(inner) {
            return Some(inner);
        }
        let known = self.outward.get(&(inner, remote)).copied();
        let known = known.filter(|public| self.flow(now, remote, *public).is_some_and(|flow| flow.inner == Some(inner)));
        let public = match known {
            Some(public) => public,
            None => {
                if self.kind.max_flows.is_some_and(|most| self.flows_of(now, inner.ip()) >= most) {
                    return None;
                }
                self.sweep(now);
                self.choose(now, inner, remote, rng)?
            }
        };
        self.outward.insert((inner, remote), public);
        self.track(now, remote, public, Some(inner), false);
        if self.translates(inner) {
            self.open_doors(now, inner, remote, public.port());
        }
        Some(public)
    }

    /// Passes a datagram with `ttl` hops left that `remote` sent to `public` in.
    ///
    /// Returns the inner endpoint, `None` if nothing lets it in or it has no hop left to go there.
    pub fn inbound(&mut self, now: Duration, remote: SocketAddr, public: SocketAddr, ttl: u8) -> Option<SocketAddr> {
        if !self.kind.udp {
            return None;
        }
        let forwards = ttl > 1;
        if self.is_open(public) {
            return forwards.then_some(public);
        }
        if let Some(inner) = self.flow(now, remote, public).map(|flow| flow.inner) {
            self.track(now, remote, public, inner, true);
            return inner.filter(|_| forwards);
        }
        if !self.translates(public) {
            return None;
        }
        if let Some(inner) = self.forwarded.get(&public.port()).copied().filter(|_| forwards) {
            self.outward.insert((inner, remote), public);
            self.track(now, remote, public, Some(inner), true);
            return Some(inner);
        }
        let door = self.doors.get(&(self.kind.filtering.key(remote), public.port())).filter(|(_, until)| now < *until);
        if let Some((inner, _)) = door.copied() {
            if !forwards {
                return None;
            }
            if self.kind.lifetime.inbound {
                self.outward.insert((inner, remote), public);
                self.track(now, remote, public, Some(inner), true);
            }
            return Some(inner);
        }
        if self.kind.stray == Stray::Accept {
            self.sweep(now);
            self.track(now, remote, public, None, true);
        }
        None
    }

    /// Turns a datagram that `inner` sends to the router's own public endpoint `public` back to the inner host that is mapped there.
    ///
    /// Returns the source that it then has, and the inner endpoint it goes to.
    pub fn hairpin(
        &mut self,
        now: Duration,
        inner: SocketAddr,
        public: SocketAddr,
        rng: &mut impl Rng,
    ) -> Option<(SocketAddr, SocketAddr)> {
        if !self.kind.hairpin {
            return None;
        }
        let (target, _) = self.owners.get(&public.port()).copied().filter(|(_, until)| now < *until)?;
        Some((self.outbound(now, inner, public, rng)?, target))
    }

    /// Maps `port` to `inner` for everyone, as a person or PCP (RFC 6887) may ask a router to.
    pub fn forward(&mut self, port: u16, inner: SocketAddr) {
        self.forwarded.insert(port, inner);
    }

    /// Loses every flow and forwarded port, and chooses other ports from now on, as a reboot does.
    pub fn rebind(&mut self, rng: &mut impl Rng) {
        self.flows.clear();
        self.outward.clear();
        self.mappings.clear();
        self.owners.clear();
        self.doors.clear();
        self.forwarded.clear();
        self.scramble ^= rng.random_range(1..128) << 1;
        self.last_port = rng.random_range(self.kind.range.0..=self.kind.range.1);
    }

    /// How many flows of the inner host `host` are tracked.
    pub fn flows_of(&self, now: Duration, host: IpAddr) -> usize {
        self.flows.values().filter(|flow| now < flow.until && flow.inner.is_some_and(|inner| inner.ip() == host)).count()
    }

    /// How many flows of inner hosts, expired ones that were not removed included, leave from `public`.
    pub fn flows_from(&self, public: SocketAddr) -> usize {
        self.flows.iter().filter(|((_, known), flow)| *known == public && flow.inner.is_some()).count()
    }

    const fn translates(&self, endpoint: SocketAddr) -> bool {
        self.kind.translates && endpoint.is_ipv4()
    }

    /// Whether nothing is done to traffic of `endpoint`.
    fn is_open(&self, endpoint: SocketAddr) -> bool {
        !self.translates(endpoint) && !self.kind.translates && self.kind.filtering == Dependence::EndpointIndependent
    }

    fn flow(&self, now: Duration, remote: SocketAddr, public: SocketAddr) -> Option<&Flow> {
        self.flows.get(&(remote, public)).filter(|flow| now < flow.until)
    }

    /// A datagram of a flow passes.
    fn track(&mut self, now: Duration, remote: SocketAddr, public: SocketAddr, inner: Option<SocketAddr>, inbound: bool) {
        let lifetime = self.kind.lifetime;
        let fresh = Flow { inner, since: now, until: now + lifetime.unreplied, seen: (!inbound, inbound) };
        let flow = self.flows.entry((remote, public)).or_insert(fresh);
        if now >= flow.until || flow.inner != inner {
            *flow = Flow { inner, since: now, until: now + lifetime.unreplied, seen: (!inbound, inbound) };
            return;
        }
        flow.seen = (flow.seen.0 || !inbound, flow.seen.1 || inbound);
        if !inbound || lifetime.inbound {
            let stream = flow.seen == (true, true) && now > flow.since + STREAM_AGE;
            flow.until = flow.until.max(now + if stream { lifetime.stream } else { lifetime.unreplied });
        }
    }

    /// What `inner` sent to `remote` by `port` lets in beyond that flow, and keeps the mapping.
    fn open_doors(&mut self, now: Duration, inner: SocketAddr, remote: SocketAddr, port: u16) {
        let until = now + self.kind.lifetime.unreplied;
        if self.kind.mapping != Dependence::AddressAndPortDependent {
            let mapping = (inner, self.kind.mapping.key(remote));
            // A flow that had to take another port has no mapping.
            let preserved = self.kind.ports == Ports::Preserved && port == self.preserved(inner);
            if preserved || self.mappings.get(&mapping).is_some_and(|(mapped, _)| *mapped == port) {
                self.owners.insert(port, (inner, until));
                if !preserved {
                    self.mappings.insert(mapping, (port, until));
                }
            }
        }
        if self.kind.filtering != Dependence::AddressAndPortDependent {
            self.doors.insert((self.kind.filtering.key(remote), port), (inner, until));
        }
    }

    /// The public endpoint of a new flow.
    fn choose(&mut self, now: Duration, inner: SocketAddr, remote: SocketAddr, rng: &mut impl Rng) -> Option<SocketAddr> {
        if !self.translates(inner) {
            return Some(inner);
        }
        let address = self.address.ip();
        let at = |port| SocketAddr::new(address, port);
        let shared = self.kind.mapping != Dependence::AddressAndPortDependent;
        let mapping = (inner, self.kind.mapping.key(remote));
        let known = match self.kind.ports {
            Ports::Preserved if shared => Some(self.slot_of(inner)),
            _ if shared => self.mappings.get(&mapping).filter(|(_, until)| now < *until).map(|(port, _)| *port),
            _ => None,
        };
        if let Some(public) = known.map(at)
            && self.flow(now, remote, public).is_none()
        {
            return Some(public);
        }
        let (low, high) = self.kind.range;
        let step = match self.kind.ports {
            Ports::Sequential { step } => step,
            Ports::Preserved | Ports::Random => 1,
        };
        let mut port = match self.kind.ports {
            Ports::Sequential { step } => next_port(self.last_port, step, self.kind.range),
            Ports::Preserved | Ports::Random => rng.random_range(low..=high),
        };
        let mut tried = 0;
        while port == inner.port() || !self.is_free(now, remote, at(port), shared) {
            tried += 1;
            if tried > u32::from(high - low) {
                return None;
            }
            // A step that has a divisor in common with the range does not come by every port.
            port = next_port(port, if tried.is_multiple_of(64) { 1 } else { step }, self.kind.range);
        }
        self.last_port = port;
        if shared && known.is_none() {
            self.mappings.insert(mapping, (port, now + self.kind.lifetime.unreplied));
        }
        Some(at(port))
    }

    /// Whether a new flow may leave from `public`; `shared`: as the first of several.
    fn is_free(&self, now: Duration, remote: SocketAddr, public: SocketAddr, shared: bool) -> bool {
        let port = public.port();
        let alive = |(_, until): &(SocketAddr, Duration)| now < *until;
        let shut = shared && self.owners.get(&port).is_some_and(alive);
        let open = self.doors.get(&(self.kind.filtering.key(remote), port)).is_some_and(alive);
        let taken = self.flow(now, remote, public).is_some() || self.forwarded.contains_key(&port);
        !(taken || shut || open)
    }

    /// As [`Nat::preserved`]; a host that is new gets a place of its own.
    fn slot_of(&mut self, inner: SocketAddr) -> u16 {
        let next = u16::try_from(self.slots.len() % 64).unwrap_or_default();
        self.slots.entry(inner.ip()).or_insert(next);
        self.preserved(inner)
    }

    /// The public port of `inner` where ports are preserved: with the bits flipped that keep apart equal ports of several hosts.
    fn preserved(&self, inner: SocketAddr) -> u16 {
        inner.port() ^ self.scramble ^ (self.slots.get(&inner.ip()).copied().unwrap_or_default() << 9)
    }

    /// Removes what has expired, now and then.
    fn sweep(&mut self, now: Duration) {
        if self.flows.len() < self.sweep_at {
            return;
        }
        self.flows.retain(|_, flow| now < flow.until);
        let flows = &self.flows;
        self.outward.retain(|(_, remote), public| flows.contains_key(&(*remote, *public)));
        self.mappings.retain(|_, (_, until)| now < *until);
        self.owners.retain(|_, (_, until)| now < *until);
        self.doors.retain(|_, (_, until)| now < *until);
        self.sweep_at = (2 * self.flows.len()).max(MIN_SWEEP);
    }
}

/// The port after which a router begins, which differs from one to the next.
fn first_port(address: IpAddr, (low, high): (u16, u16)) -> u16 {
    let bits = match address {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(_) => 0,
    };
    let spread = u16::try_from(bits.wrapping_mul(0x9e37_79b1) >> 16).unwrap_or_default();
    low + u16::try_from(u32::from(spread) % (u32::from(high - low) + 1)).unwrap_or_default()
}

const fn next_port(port: u16, step: u16, (low, high): (u16, u16)) -> u16 {
    let size = (high - low) as u32 + 1;
    #[expect(clippy::cast_possible_truncation, reason = "less than the size of the range, which is of ports")]
    let offset = (((port - low) as u32 + step as u32) % size) as u16;
    low + offset
}

/// A flow that went both ways counts as a stream when it is older than that. Source: Linux, nf_conntrack_proto_udp.c.
pub const STREAM_AGE: Duration = Duration::from_secs(2);
const FIRST_PORT: u16 = 1024;
const MIN_SWEEP: usize = 64;
/// What netlab's `remap=1` flips of a port.
const REMAP: u16 = 0x1a5c;

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(64, 9, 9, 9));
    const KINDS: [Kind; 5] =
        [Kind::FULL_CONE, Kind::ADDRESS_RESTRICTED, Kind::PORT_RESTRICTED, Kind::SYMMETRIC, Kind::SYMMETRIC_SEQUENTIAL];
    const DEPENDENCES: [Dependence; 3] =
        [Dependence::EndpointIndependent, Dependence::AddressDependent, Dependence::AddressAndPortDependent];

    fn inner(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 168, 0, host], 4242))
    }

    fn outer(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([64, 0, 0, host], port))
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::new(PUBLIC, port)
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// A router and what it needs beside.
    struct Bench(Nat, ChaCha8Rng);

    impl Bench {
        fn new(kind: Kind) -> Self {
            Self(Nat::new(kind, PUBLIC), ChaCha8Rng::seed_from_u64(1))
        }

        fn linux(label: &str) -> Self {
            let kinds = Kind::parse(label).expect("a kind of netlab");
            assert_eq!(kinds.len(), 1);
            Self::new(kinds[0])
        }

        fn out(&mut self, now: Duration, inner: SocketAddr, remote: SocketAddr) -> Option<u16> {
            self.0.outbound(now, inner, remote, &mut self.1).map(|public| public.port())
        }

        fn within(&mut self, now: Duration, remote: SocketAddr, port: u16) -> Option<SocketAddr> {
            self.0.inbound(now, remote, at(port), 9)
        }
    }

    #[test]
    fn a_port_given_to_another_host_is_not_shared_with_its_last_owner() {
        let mut nat = Bench::new(Kind { ports: Ports::Sequential { step: 1 }, ..Kind::FULL_CONE });
        let first = nat.out(secs(0), inner(1), outer(1, 1)).expect("a port");
        nat.0.last_port = first - 1;
        assert_eq!(nat.out(secs(60), inner(2), outer(1, 1)), Some(first));
        assert_ne!(nat.out(secs(61), inner(1), outer(1, 1)), Some(first));
        assert_eq!(nat.within(secs(61), outer(9, 9), first), Some(inner(2)));
    }

    #[test]
    fn mapping_depends_on_what_rfc_4787_section_4_1_says() {
        for mapping in DEPENDENCES {
            let mut nat = Bench::new(Kind { mapping, ..Kind::FULL_CONE });
            let mut port = |remote| nat.out(secs(0), inner(1), remote).expect("ports are free");
            let first = port(outer(1, 1));
            assert_eq!(port(outer(1, 1)), first, "{mapping:?}: the same endpoint keeps its mapping");
            assert_eq!(port(outer(1, 2)) == first, mapping != Dependence::AddressAndPortDependent, "{mapping:?}: another port");
            assert_eq!(port(outer(2, 1)) == first, mapping == Dependence::EndpointIndependent, "{mapping:?}: another address");
        }
    }

    #[test]
    fn filtering_depends_on_what_rfc_4787_section_5_says() {
        for (filtering, lifetime) in
            DEPENDENCES.into_iter().flat_map(|filtering| [(filtering, Lifetime::MINUTE), (filtering, Lifetime::LINUX)])
        {
            let mut nat = Bench::new(Kind { filtering, lifetime, ..Kind::FULL_CONE });
            let port = nat.out(secs(0), inner(1), outer(1, 1)).expect("ports are free");
            let mut passes = |remote| nat.within(secs(1), remote, port).is_some();
            assert!(passes(outer(1, 1)));
            assert_eq!(passes(outer(1, 2)), filtering != Dependence::AddressAndPortDependent, "{filtering:?}: another port");
            assert_eq!(passes(outer(2, 1)), filtering == Dependence::EndpointIndependent, "{filtering:?}: another address");
        }
    }

    #[test]
    fn without_preservation_the_inner_port_is_not_used_and_inner_hosts_do_not_share_a_port() {
        for kind in KINDS {
            let mut nat = Bench::new(kind);
            let a = nat.out(secs(0), inner(1), outer(1, 1)).expect("ports are free");
            let b = nat.out(secs(0), inner(2), outer(1, 1)).expect("ports are free");
            assert!(a != b && a != 4242 && b != 4242);
            assert_eq!((nat.within(secs(0), outer(1, 1), a), nat.within(secs(0), outer(1, 1), b)), (Some(inner(1)), Some(inner(2))));
        }
    }

    #[test]
    fn a_cone_of_netlab_preserves_the_port_of_its_first_host_and_remaps_that_of_others() {
        let mut nat = Bench::linux("port-restricted");
        assert_eq!(nat.out(secs(0), inner(1), outer(1, 1)), Some(4242));
        assert_eq!(nat.out(secs(0), inner(2), outer(1, 1)), Some(4242 ^ 512));
        assert_eq!(nat.out(secs(999), inner(2), outer(2, 1)), Some(4242 ^ 512), "whatever the time and the destination");
        let mut nat = Bench::linux("full-cone remap=1");
        assert_eq!(nat.out(secs(0), inner(1), outer(1, 1)), Some(4242 ^ REMAP));
    }

    #[test]
    fn sequential_ports_follow_each_other_at_their_step_within_their_range() {
        for (label, step) in [("symmetric-sequential", 1), ("symmetric-sequential step=2 ports=2000-2511", 2)] {
            let mut nat = Bench::linux(label);
            let range = nat.0.kind().range;
            let ports: Vec<_> = (0..=255).map(|i| nat.out(secs(0), inner(1), outer(i, 1)).expect("free")).collect();
            assert!(ports.windows(2).all(|pair| pair[1] == next_port(pair[0], step, range)), "{label}");
            assert!(ports.iter().all(|port| (range.0..=range.1).contains(port)));
        }
    }

    #[test]
    fn a_port_block_bounds_what_is_chosen_at_random() {
        let mut nat = Bench::linux("symmetric ports=20000-20511");
        let ports: Vec<_> = (0..=255).map(|i| nat.out(secs(0), inner(1), outer(i, 1)).expect("free")).collect();
        assert!(ports.iter().all(|port| (20_000..=20_511).contains(port)));
        assert!(!ports.is_sorted());
    }

    #[test]
    fn a_quota_bounds_the_flows_of_each_host_until_they_expire() {
        let mut nat = Bench::linux("symmetric maxflows=4");
        let given = |nat: &mut Bench, now, host| (0..9).filter(|i| nat.out(now, inner(host), outer(*i, 1)).is_some()).count();
        assert_eq!((given(&mut nat, secs(0), 1), given(&mut nat, secs(0), 2)), (4, 4));
        assert!(nat.out(secs(29), inner(1), outer(99, 1)).is_none());
        assert!(nat.out(secs(31), inner(1), outer(99, 1)).is_some());
    }

    #[test]
    fn only_outbound_traffic_keeps_a_mapping_of_a_minute_alive() {
        let mut nat = Bench::new(Kind::PORT_RESTRICTED);
        let port = nat.out(secs(0), inner(1), outer(1, 1)).expect("free");
        assert_eq!(nat.out(secs(50), inner(1), outer(1, 1)), Some(port));
        assert!(nat.within(secs(109), outer(1, 1), port).is_some());
        assert!(nat.within(secs(110), outer(1, 1), port).is_none());
        assert_ne!(nat.out(secs(110), inner(1), outer(1, 1)), Some(port));
    }

    #[test]
    fn on_linux_an_unreplied_flow_lives_30_s_and_a_stream_120_s() {
        let mut nat = Bench::linux("symmetric");
        let unreplied = nat.out(secs(0), inner(1), outer(1, 1)).expect("free");
        assert!(nat.within(secs(30), outer(1, 1), unreplied).is_none());
        let replied = nat.out(secs(0), inner(1), outer(2, 1)).expect("free");
        assert!(nat.within(secs(1), outer(2, 1), replied).is_some());
        assert!(nat.within(secs(30), outer(2, 1), replied).is_some(), "a reply prolongs it");
        assert_eq!(nat.out(secs(40), inner(1), outer(2, 1)), Some(replied));
        assert!(nat.within(secs(159), outer(2, 1), replied).is_some(), "it is a stream by now");
        assert!(nat.within(secs(279), outer(2, 1), replied).is_none());
    }

    #[test]
    fn a_stray_datagram_that_the_router_accepts_takes_the_place_of_a_later_punch() {
        for (label, taken) in [("port-restricted", false), ("port-restricted stray=accept", true)] {
            let mut nat = Bench::linux(label);
            assert_eq!(nat.out(secs(0), inner(1), outer(1, 1)), Some(4242));
            assert_eq!(nat.within(secs(0), outer(2, 2), 4242), None);
            let punch = nat.out(secs(1), inner(1), outer(2, 2)).expect("free");
            assert_eq!(punch != 4242, taken, "{label}");
            assert_eq!(nat.within(secs(2), outer(2, 2), 4242).is_some(), !taken, "{label}: the peer probes where it was told to");
            assert_eq!(nat.within(secs(2), outer(2, 2), punch), Some(inner(1)), "{label}");
            assert_eq!(nat.out(secs(2), inner(1), outer(3, 3)), Some(4242), "{label}: others are not concerned");
            assert_eq!(nat.out(secs(60), inner(1), outer(2, 2)), Some(4242), "{label}: both flows have expired");
        }
    }

    #[test]
    fn a_datagram_without_a_hop_left_is_not_let_in_and_opens_nothing() {
        let mut nat = Bench::linux("full-cone");
        let port = nat.out(secs(0), inner(1), outer(1, 1)).expect("free");
        assert_eq!(nat.0.inbound(secs(0), outer(2, 2), at(port), 1), None);
        assert_eq!(nat.0.flows_of(secs(0), inner(1).ip()), 1);
        assert_eq!(nat.0.inbound(secs(0), outer(2, 2), at(port), 2), Some(inner(1)));
    }

    #[test]
    fn a_firewall_lets_in_what_answers_and_leaves_addresses_alone() {
        for (label, endpoint) in [("firewall", inner(1)), ("symmetric", "[2a00:11::2]:4242".parse().expect("an address"))] {
            let mut nat = Bench::linux(label);
            let remote = if endpoint.is_ipv6() { "[2a00:11::9]:1".parse().expect("an address") } else { outer(1, 1) };
            assert_eq!(nat.0.inbound(secs(0), remote, endpoint, 9), None, "{label}");
            assert_eq!(nat.0.outbound(secs(0), endpoint, remote, &mut nat.1), Some(endpoint), "{label}");
            assert_eq!(nat.0.inbound(secs(0), remote, endpoint, 9), Some(endpoint), "{label}");
            assert_eq!(nat.0.inbound(secs(31), remote, endpoint, 9), None, "{label}");
        }
        let mut open = Bench::linux("open");
        assert_eq!(open.0.inbound(secs(0), outer(1, 1), inner(1), 9), Some(inner(1)));
        let mut blocked = Bench::linux("blocked-udp");
        assert_eq!(blocked.out(secs(0), inner(1), outer(1, 1)), None);
    }

    #[test]
    fn a_hairpin_leads_to_the_neighbour_from_the_public_address_whatever_the_filter() {
        for label in ["full-cone", "port-restricted remap=1"] {
            for hairpin in [false, true] {
                let mut nat = Bench::linux(&format!("{label} hairpin={}", u8::from(hairpin)));
                let a = nat.out(secs(0), inner(1), outer(1, 1)).expect("free");
                let b = nat.out(secs(0), inner(2), outer(1, 1)).expect("free");
                let turned = nat.0.hairpin(secs(0), inner(1), at(b), &mut nat.1);
                assert_eq!(turned, hairpin.then_some((at(a), inner(2))), "{label}");
            }
        }
    }

    #[test]
    fn a_forwarded_port_is_open_to_everyone_and_answers_leave_from_it() {
        for kind in [Kind::SYMMETRIC, Kind::PORT_RESTRICTED, Kind::linux("symmetric").expect("a kind")] {
            let mut nat = Bench::new(kind);
            nat.0.forward(4000, inner(1));
            assert_ne!(nat.out(secs(0), inner(1), outer(1, 1)), Some(4000));
            assert_eq!(nat.within(secs(0), outer(2, 2), 4000), Some(inner(1)));
            assert_eq!(nat.out(secs(0), inner(1), outer(2, 2)), Some(4000));
            assert_eq!(nat.within(secs(999), outer(2, 2), 4000), Some(inner(1)), "for ever");
        }
    }

    #[test]
    fn a_reboot_loses_every_mapping_and_chooses_other_ports() {
        for kind in [Kind::FULL_CONE, Kind::linux("full-cone").expect("a kind")] {
            let mut nat = Bench::new(kind);
            let port = nat.out(secs(0), inner(1), outer(1, 1)).expect("free");
            nat.0.rebind(&mut nat.1);
            assert_eq!(nat.within(secs(0), outer(1, 1), port), None);
            assert_ne!(nat.out(secs(0), inner(1), outer(1, 1)), Some(port));
        }
    }

    #[test]
    fn when_every_port_is_taken_a_new_flow_is_refused_until_one_expires() {
        let mut nat = Bench::linux("symmetric-sequential ports=2000-2099");
        let from = |port: u16| SocketAddr::new(inner(1).ip(), port);
        let given = (1..200).filter(|port| nat.out(secs(0), from(*port), outer(1, 1)).is_some()).count();
        assert_eq!(given, 100);
        assert!(nat.out(secs(0), from(1), outer(2, 1)).is_some(), "to another endpoint every port is free");
        assert!(nat.out(secs(30), from(999), outer(1, 1)).is_some());
    }

    #[test]
    fn netlabs_language_is_understood_and_its_errors_are_named() {
        let kinds = Kind::parse("double outer=port-restricted ports=7-9 hairpin=1").expect("a double");
        assert!(kinds[0].hairpin && kinds[0].ports == Ports::Preserved && kinds[1].range == (7, 9) && kinds[1].ports == Ports::Preserved);
        assert_eq!(Kind::parse("double").expect("a double")[1].mapping, Dependence::AddressAndPortDependent);
        assert_eq!(Kind::parse("cone"), Err("cone".to_owned()));
        assert_eq!(Kind::parse("symmetric ports=9-7"), Err("ports=9-7".to_owned()));
        assert_eq!(Kind::parse("symmetric hairpin"), Err("hairpin".to_owned()));
    }

    /// The whole history of a translator, judged by the definitions alone.
    #[derive(Default)]
    struct History(Vec<(Duration, SocketAddr, SocketAddr, u16)>);

    impl History {
        /// The inner endpoint that owns `port` and may be reached by `remote` at `now`.
        fn inbound(&self, kind: Kind, now: Duration, remote: SocketAddr, port: u16) -> Option<SocketAddr> {
            let recent = |at: &Duration| now < *at + kind.lifetime.unreplied;
            let mut sent = self.0.iter().rev().filter(|(at, _, _, p)| *p == port && recent(at));
            sent.find(|(_, _, to, _)| kind.filtering.key(*to) == kind.filtering.key(remote)).map(|(_, owner, ..)| *owner)
        }
    }

    proptest! {
        #[test]
        fn any_traffic_is_treated_as_its_whole_history_demands(
            kind in 0usize..5,
            traffic in proptest::collection::vec((0u64..40, 0u8..3, 0u8..3, 1u16..4), 1..120),
        ) {
            let (kind, mut nat, mut history, mut now) = (KINDS[kind], Bench::new(KINDS[kind]), History::default(), Duration::ZERO);
            for (pause, host, remote, remote_port) in traffic {
                now += secs(pause);
                let remote = outer(remote, remote_port);
                let port = nat.out(now, inner(host), remote).expect("ports are free");
                history.0.push((now, inner(host), remote, port));
                for (_, _, to, port) in &history.0 {
                    for asker in [*to, SocketAddr::new(to.ip(), 9), outer(9, 9)] {
                        prop_assert_eq!(nat.within(now, asker, *port), history.inbound(kind, now, asker, *port));
                    }
                }
            }
        }
    }
}
