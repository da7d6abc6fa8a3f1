//! Addresses: their bytes on the wire, how far they reach, and which ones we agree to send a probe to.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use peers_wire::{DecodeError, Reader, Writer};

/// How far an address reaches; nearer is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// This host.
    Loopback,
    /// This link or site: private, unique local or link-local.
    Private,
    /// The internet.
    Global,
}

/// How far `address` reaches, or `None` if no single host can be there: unspecified, multicast, broadcast, port 0, and the reserved ranges of IPv4 (0/8, 240/4).
///
/// Source: RFC 1918, RFC 4193, RFC 6598, RFC 6890.
pub(crate) fn scope(address: SocketAddr) -> Option<Scope> {
    if address.port() == 0 {
        return None;
    }
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            if a == 0 || ip.is_multicast() || a >= 240 {
                None
            } else if ip.is_loopback() {
                Some(Scope::Loopback)
            } else if ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64) {
                Some(Scope::Private)
            } else {
                Some(Scope::Global)
            }
        }
        IpAddr::V6(ip) => {
            if ip.is_unspecified() || ip.is_multicast() {
                None
            } else if ip.is_loopback() {
                Some(Scope::Loopback)
            } else if ip.is_unique_local() || ip.is_unicast_link_local() {
                Some(Scope::Private)
            } else {
                Some(Scope::Global)
            }
        }
    }
}

/// Whether a peer that is seen at `seen` may make us probe its candidate `candidate`, when others see us at the addresses `reflexive`.
///
/// A candidate that reaches the internet may be probed. A nearer one only by its neighbours: the peer itself is seen at a near address, or we leave by the same
/// public address as it does, which is what two hosts behind one NAT look like. So nobody out there can aim us at the printer in our LAN.
pub(crate) fn may_probe(candidate: SocketAddr, seen: SocketAddr, mut reflexive: impl Iterator<Item = SocketAddr>) -> bool {
    let unscoped_link_local = matches!(candidate.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    match scope(candidate) {
        None => false,
        _ if unscoped_link_local => false,
        Some(Scope::Global) => true,
        Some(near) => scope(seen).is_some_and(|seen| seen <= near.max(Scope::Private)) || reflexive.any(|ours| ours.ip() == seen.ip()),
    }
}

/// Whether `remote` can be on one link with a host that has the addresses `local`: it is near, or shares a /24 (IPv4) or /64 (IPv6) with one of them.
pub(crate) fn on_link(remote: SocketAddr, local: &[SocketAddr]) -> bool {
    match scope(remote) {
        None => false,
        Some(Scope::Loopback | Scope::Private) => true,
        Some(Scope::Global) => local.iter().any(|local| match (local.ip(), remote.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
            (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..8] == b.octets()[..8],
            _ => false,
        }),
    }
}

/// Whether what is sent to `destination` stays on the networks of a host that has the addresses `local`: it is a multicast group of the link or site, or as [`on_link`] says.
pub(crate) fn stays_on_lan(destination: SocketAddr, local: &[SocketAddr]) -> bool {
    destination.ip().is_multicast() || on_link(destination, local)
}

/// Appends family (4 or 6), address and port: 7 or 19 bytes. The family 0 alone is no address.
pub(crate) fn write(writer: &mut Writer, address: Option<SocketAddr>) {
    match address.map(|address| (address.ip().to_canonical(), address.port())) {
        None => writer.u8(0),
        Some((IpAddr::V4(ip), port)) => writer.u8(4).bytes(&ip.octets()).u16(port),
        Some((IpAddr::V6(ip), port)) => writer.u8(6).bytes(&ip.octets()).u16(port),
    };
}

/// Reads what [`write`] wrote.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, DecodeError> {
    let ip = match reader.u8()? {
        0 => return Ok(None),
        4 => IpAddr::from(reader.array::<4>()?),
        6 => {
            let ip = Ipv6Addr::from(reader.array::<16>()?);
            if ip.to_ipv4_mapped().is_some() {
                return Err(DecodeError::NotCanonical("address"));
            }
            IpAddr::V6(ip)
        }
        family => return Err(DecodeError::Kind(family)),
    };
    Ok(Some(SocketAddr::new(ip, reader.u16()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn an_address_reads_back(ip: IpAddr, port: u16) {
            let expected = SocketAddr::new(ip.to_canonical(), port);
            let mut writer = Writer::default();
            write(&mut writer, Some(SocketAddr::new(ip, port)));
            prop_assert!(writer.len() == 7 || writer.len() == 19);
            prop_assert_eq!(read(&mut Reader::new(writer.as_ref())), Ok(Some(expected)));
        }
    }

    #[test]
    fn a_stranger_cannot_make_us_probe_private_or_impossible_addresses() {
        let (stranger, nobody) = (address("203.0.113.9:1000"), core::iter::empty);
        for candidate in ["192.168.1.1:80", "10.0.0.1:53", "127.0.0.1:22", "169.254.1.1:1", "[fe80::1]:1", "[fd00::1]:1", "100.64.0.1:1"] {
            assert!(!may_probe(address(candidate), stranger, nobody()), "{candidate}");
        }
        for candidate in ["0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "1.2.3.4:0", "[ff02::1]:1", "[::]:1"] {
            assert!(!may_probe(address(candidate), address("192.168.1.7:1"), nobody()), "{candidate}");
        }
        assert!(may_probe(address("198.51.100.1:9"), stranger, nobody()));
    }

    #[test]
    fn two_hosts_behind_one_nat_may_probe_each_others_private_addresses() {
        let (seen, ours) = (address("203.0.113.9:1000"), address("203.0.113.9:2000"));
        assert!(may_probe(address("192.168.1.7:500"), seen, [ours].into_iter()));
        assert!(!may_probe(address("192.168.1.7:500"), seen, [address("203.0.113.10:2000")].into_iter()));
    }

    #[test]
    fn a_peer_seen_on_the_lan_may_name_lan_addresses() {
        assert!(may_probe(address("192.168.1.7:500"), address("192.168.1.2:9"), core::iter::empty()));
        assert!(may_probe(address("127.0.0.1:500"), address("127.0.0.1:9"), core::iter::empty()));
        assert!(
            !may_probe(address("[fe80::1]:500"), address("192.168.1.2:9"), core::iter::empty()),
            "a link-local address without its link"
        );
    }
}
