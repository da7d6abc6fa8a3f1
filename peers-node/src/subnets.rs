//! The networks that this host is on, which a node that keeps to the LAN does not leave.

use std::net::IpAddr;

use if_addrs::{IfAddr, Interface};

/// The subnets of interfaces: addresses, and how many of their bits all hosts there share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subnets(Vec<(IpAddr, u8)>);

impl Subnets {
    /// Those of `interfaces`. An interface without a prefix has none.
    pub(crate) fn of(interfaces: &[Interface]) -> Self {
        let subnet = |interface: &Interface| match &interface.addr {
            IfAddr::V4(address) => (IpAddr::V4(address.ip), address.prefixlen),
            IfAddr::V6(address) => (IpAddr::V6(address.ip), address.prefixlen),
        };
        Self(interfaces.iter().map(subnet).filter(|(_, prefix)| *prefix > 0).collect())
    }

    /// Whether `ip` is this host or on one of the subnets: a datagram to it passes no router.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.0.iter().any(|(own, prefix)| shares(*own, ip, (*prefix).into()))
    }
}

/// Whether two addresses share their first `prefix` bits.
fn shares(a: IpAddr, b: IpAddr, prefix: u32) -> bool {
    let differing = match (a, b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_the_hosts_that_share_its_prefix() {
        let subnets = Subnets(vec![
            ("192.168.4.7".parse().unwrap(), 22),
            ("fe80::1".parse().unwrap(), 64),
            ("2001:db8::7".parse().unwrap(), 64),
            ("10.8.0.1".parse().unwrap(), 32),
        ]);
        for near in ["192.168.4.7", "192.168.7.255", "::ffff:192.168.5.1", "fe80::dead:beef", "2001:db8::1", "127.0.0.1", "::1", "10.8.0.1"]
        {
            assert!(subnets.contains(near.parse().unwrap()), "{near}");
        }
        for far in ["192.168.8.1", "192.168.3.1", "10.8.0.2", "100.64.0.1", "8.8.8.8", "2001:db8:0:1::1", "fd00::1", "::"] {
            assert!(!subnets.contains(far.parse().unwrap()), "{far}");
        }
        assert!(!Subnets::default().contains("192.168.4.8".parse().unwrap()));
    }
}
