//! A network address translator: mapping x filtering x expiry, in the terms of RFC 4787.

use core::net::{Ipv4Addr, SocketAddrV4};
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
    const fn key(self, remote: SocketAddrV4) -> SocketAddrV4 {
        match self {
            Self::EndpointIndependent => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            Self::AddressDependent => SocketAddrV4::new(*remote.ip(), 0),
            Self::AddressAndPortDependent => remote,
        }
    }
}

/// How a public port is chosen; the inner port is never preserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// Any free port.
    Random,
    /// The next free port after the one given out last.
    Sequential,
}

/// The behaviour of a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// What a mapping depends on.
    pub mapping: Dependence,
    /// From whom a mapping lets datagrams in.
    pub filtering: Dependence,
    /// How public ports are chosen.
    pub ports: Ports,
    /// Life of a mapping, and of a permission to reach it, without outbound traffic. Default 60 s.
    pub expiry: Duration,
    /// Whether inner hosts reach each other through the public address (RFC 4787, section 6).
    pub hairpin: bool,
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
    pub const SYMMETRIC_SEQUENTIAL: Self = Self { ports: Ports::Sequential, ..Self::SYMMETRIC };

    const fn cone(filtering: Dependence) -> Self {
        Self { mapping: Dependence::EndpointIndependent, filtering, ports: Ports::Random, expiry: Duration::from_secs(60), hairpin: false }
    }
}

/// A translator with one public address, for any number of inner hosts.
#[derive(Debug)]
pub struct Nat {
    kind: Kind,
    /// The public port given last to each; its mapping may since have expired and gone to another.
    ports: HashMap<Key, u16>,
    mappings: HashMap<u16, Mapping>,
    last_port: u16,
    /// Number of mappings at which the expired ones are removed.
    sweep_at: usize,
}

/// An inner endpoint, and what matters of the outer one.
type Key = (SocketAddrV4, SocketAddrV4);

#[derive(Debug)]
struct Mapping {
    key: Key,
    /// Last outbound datagram.
    used: Duration,
    /// Last outbound datagram to each of those who are let in.
    permitted: HashMap<SocketAddrV4, Duration>,
    /// Number of `permitted` at which the expired ones are removed.
    sweep_at: usize,
}

impl Nat {
    /// A translator without mappings.
    pub fn new(kind: Kind) -> Self {
        Self { kind, ports: HashMap::new(), mappings: HashMap::new(), last_port: FIRST_PORT, sweep_at: MIN_SWEEP }
    }

    /// How it behaves.
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Passes a datagram from `inner` out to `remote` and refreshes its mapping, or makes one.
    ///
    /// Returns the public port it leaves from, `None` if all are in use. O(1) amortised.
    pub fn outbound(&mut self, now: Duration, inner: SocketAddrV4, remote: SocketAddrV4, rng: &mut impl Rng) -> Option<u16> {
        let key = (inner, self.kind.mapping.key(remote));
        let owned = |port: &u16| self.mappings.get(port).is_some_and(|m| m.key == key && self.alive(now, m.used));
        let port = match self.ports.get(&key).copied().filter(owned) {
            Some(port) => port,
            None => self.map(now, key, rng)?,
        };
        let permit = self.kind.filtering.key(remote);
        let expiry = self.kind.expiry;
        let mapping = self.mappings.get_mut(&port)?;
        mapping.used = now;
        if mapping.permitted.insert(permit, now).is_none() && mapping.permitted.len() >= mapping.sweep_at {
            mapping.permitted.retain(|_, used| now < *used + expiry);
            mapping.sweep_at = (2 * mapping.permitted.len()).max(MIN_SWEEP);
        }
        Some(port)
    }

    /// Passes a datagram that `remote` sent to public port `port` in.
    ///
    /// Returns the inner endpoint, `None` if nothing is mapped or the filter refuses it. Inbound traffic refreshes nothing.
    pub fn inbound(&self, now: Duration, remote: SocketAddrV4, port: u16) -> Option<SocketAddrV4> {
        let mapping = self.mappings.get(&port).filter(|m| self.alive(now, m.used))?;
        let permitted = match self.kind.filtering {
            Dependence::EndpointIndependent => true,
            filtering => mapping.permitted.get(&filtering.key(remote)).is_some_and(|used| self.alive(now, *used)),
        };
        permitted.then_some(mapping.key.0)
    }

    /// Loses every mapping, as a reboot does.
    pub fn rebind(&mut self, rng: &mut impl Rng) {
        self.ports.clear();
        self.mappings.clear();
        self.last_port = rng.random_range(FIRST_PORT..=u16::MAX);
    }

    fn alive(&self, now: Duration, used: Duration) -> bool {
        now < used + self.kind.expiry
    }

    /// Gives `key` a new public port.
    fn map(&mut self, now: Duration, key: Key, rng: &mut impl Rng) -> Option<u16> {
        if self.mappings.len() >= self.sweep_at {
            let expiry = self.kind.expiry;
            self.mappings.retain(|_, mapping| now < mapping.used + expiry);
            self.ports.retain(|key, port| self.mappings.get(port).is_some_and(|mapping| mapping.key == *key));
            self.sweep_at = (2 * self.mappings.len()).max(MIN_SWEEP);
        }
        let mut port = match self.kind.ports {
            Ports::Random => rng.random_range(FIRST_PORT..=u16::MAX),
            Ports::Sequential => next_port(self.last_port),
        };
        let mut tried = 0;
        while port == key.0.port() || self.mappings.get(&port).is_some_and(|m| self.alive(now, m.used)) {
            tried += 1;
            if tried > u16::MAX - FIRST_PORT {
                return None;
            }
            port = next_port(port);
        }
        self.last_port = port;
        self.mappings.insert(port, Mapping { key, used: now, permitted: HashMap::new(), sweep_at: MIN_SWEEP });
        self.ports.insert(key, port);
        Some(port)
    }
}

const fn next_port(port: u16) -> u16 {
    if port == u16::MAX { FIRST_PORT } else { port + 1 }
}

const FIRST_PORT: u16 = 1024;
const MIN_SWEEP: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const KINDS: [Kind; 5] =
        [Kind::FULL_CONE, Kind::ADDRESS_RESTRICTED, Kind::PORT_RESTRICTED, Kind::SYMMETRIC, Kind::SYMMETRIC_SEQUENTIAL];

    fn inner(host: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, host), 4242)
    }

    fn outer(host: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(64, 0, 0, host), port)
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_port_given_to_another_host_is_not_shared_with_its_last_owner() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut nat = Nat::new(Kind { ports: Ports::Sequential, ..Kind::FULL_CONE });
        let first = nat.outbound(secs(0), inner(1), outer(1, 1), &mut rng);
        nat.last_port = first.expect("a port") - 1;
        assert_eq!(nat.outbound(secs(60), inner(2), outer(1, 1), &mut rng), first);
        let other = nat.outbound(secs(61), inner(1), outer(1, 1), &mut rng);
        assert_ne!(other, first);
        assert_eq!(nat.inbound(secs(61), outer(9, 9), first.expect("a port")), Some(inner(2)));
    }

    #[test]
    fn mapping_depends_on_what_rfc_4787_section_4_1_says() {
        for mapping in [Dependence::EndpointIndependent, Dependence::AddressDependent, Dependence::AddressAndPortDependent] {
            let mut rng = ChaCha8Rng::seed_from_u64(2);
            let mut nat = Nat::new(Kind { mapping, ..Kind::FULL_CONE });
            let mut port = |remote| nat.outbound(secs(0), inner(1), remote, &mut rng).expect("ports are free");
            let first = port(outer(1, 1));
            assert_eq!(port(outer(1, 1)), first, "{mapping:?}: the same endpoint keeps its mapping");
            assert_eq!(port(outer(1, 2)) == first, mapping != Dependence::AddressAndPortDependent, "{mapping:?}: another port");
            assert_eq!(port(outer(2, 1)) == first, mapping == Dependence::EndpointIndependent, "{mapping:?}: another address");
        }
    }

    #[test]
    fn filtering_depends_on_what_rfc_4787_section_5_says() {
        for filtering in [Dependence::EndpointIndependent, Dependence::AddressDependent, Dependence::AddressAndPortDependent] {
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let mut nat = Nat::new(Kind { filtering, ..Kind::FULL_CONE });
            let port = nat.outbound(secs(0), inner(1), outer(1, 1), &mut rng).expect("ports are free");
            let passes = |remote| nat.inbound(secs(1), remote, port).is_some();
            assert!(passes(outer(1, 1)));
            assert_eq!(passes(outer(1, 2)), filtering != Dependence::AddressAndPortDependent, "{filtering:?}: another port");
            assert_eq!(passes(outer(2, 1)), filtering == Dependence::EndpointIndependent, "{filtering:?}: another address");
        }
    }

    #[test]
    fn the_inner_port_is_not_preserved_and_inner_hosts_do_not_share_a_port() {
        for kind in KINDS {
            let mut rng = ChaCha8Rng::seed_from_u64(4);
            let mut nat = Nat::new(kind);
            let a = nat.outbound(secs(0), inner(1), outer(1, 1), &mut rng).expect("ports are free");
            let b = nat.outbound(secs(0), inner(2), outer(1, 1), &mut rng).expect("ports are free");
            assert!(a != b && a != 4242 && b != 4242);
            assert_eq!((nat.inbound(secs(0), outer(1, 1), a), nat.inbound(secs(0), outer(1, 1), b)), (Some(inner(1)), Some(inner(2))));
        }
    }

    #[test]
    fn sequential_ports_follow_each_other() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut nat = Nat::new(Kind::SYMMETRIC_SEQUENTIAL);
        nat.rebind(&mut rng);
        let ports: Vec<_> = (0..9).map(|i| nat.outbound(secs(0), inner(1), outer(i, 1), &mut rng).expect("free")).collect();
        assert!(ports.windows(2).all(|pair| pair[1] == next_port(pair[0])));
    }

    #[test]
    fn only_outbound_traffic_keeps_a_mapping_alive() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let mut nat = Nat::new(Kind::PORT_RESTRICTED);
        let port = nat.outbound(secs(0), inner(1), outer(1, 1), &mut rng).expect("free");
        assert_eq!(nat.outbound(secs(50), inner(1), outer(1, 1), &mut rng), Some(port));
        assert!(nat.inbound(secs(109), outer(1, 1), port).is_some());
        assert!(nat.inbound(secs(110), outer(1, 1), port).is_none());
        assert_ne!(nat.outbound(secs(110), inner(1), outer(1, 1), &mut rng), Some(port));
    }

    #[test]
    fn a_reboot_loses_every_mapping() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut nat = Nat::new(Kind::FULL_CONE);
        let port = nat.outbound(secs(0), inner(1), outer(1, 1), &mut rng).expect("free");
        nat.rebind(&mut rng);
        assert_eq!(nat.inbound(secs(0), outer(1, 1), port), None);
        assert_ne!(nat.outbound(secs(0), inner(1), outer(1, 1), &mut rng), Some(port));
    }

    #[test]
    fn when_every_port_is_taken_a_new_mapping_is_refused_until_one_expires() {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let mut nat = Nat::new(Kind::SYMMETRIC_SEQUENTIAL);
        let remote = |i: u32| SocketAddrV4::new(Ipv4Addr::from_bits(0x4000_0000 + i), 1);
        let given = (0..64_520).filter(|i| nat.outbound(secs(0), inner(1), remote(*i), &mut rng).is_some()).count();
        assert_eq!(given, usize::from(u16::MAX - FIRST_PORT)); // every port but 4242, which is never preserved
        assert!(nat.outbound(secs(60), inner(1), remote(64_519), &mut rng).is_some());
    }

    /// The whole history of a translator, judged by the definitions alone.
    #[derive(Default)]
    struct History(Vec<(Duration, SocketAddrV4, SocketAddrV4, u16)>);

    impl History {
        /// The inner endpoint that owns `port` and may be reached by `remote` at `now`.
        fn inbound(&self, kind: Kind, now: Duration, remote: SocketAddrV4, port: u16) -> Option<SocketAddrV4> {
            let recent = |at: &Duration| now < *at + kind.expiry;
            let (_, owner, ..) = self.0.iter().rev().find(|(at, .., p)| *p == port && recent(at))?;
            let sent_to = self.0.iter().filter(|(at, inner, _, p)| recent(at) && inner == owner && *p == port).map(|(_, _, to, _)| to);
            let permitted = match kind.filtering {
                Dependence::EndpointIndependent => true,
                Dependence::AddressDependent => sent_to.into_iter().any(|to| to.ip() == remote.ip()),
                Dependence::AddressAndPortDependent => sent_to.into_iter().any(|to| *to == remote),
            };
            permitted.then_some(*owner)
        }
    }

    proptest! {
        #[test]
        fn any_traffic_is_treated_as_its_whole_history_demands(
            kind in 0usize..5,
            traffic in proptest::collection::vec((0u64..40, 0u8..3, 0u8..3, 1u16..4), 1..120),
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(9);
            let (kind, mut nat, mut history, mut now) = (KINDS[kind], Nat::new(KINDS[kind]), History::default(), Duration::ZERO);
            for (pause, host, remote, remote_port) in traffic {
                now += secs(pause);
                let remote = outer(remote, remote_port);
                let port = nat.outbound(now, inner(host), remote, &mut rng).expect("ports are free");
                history.0.push((now, inner(host), remote, port));
                for (_, _, to, port) in &history.0 {
                    for asker in [*to, SocketAddrV4::new(*to.ip(), 9), outer(9, 9)] {
                        prop_assert_eq!(nat.inbound(now, asker, *port), history.inbound(kind, now, asker, *port));
                    }
                }
            }
        }
    }
}
