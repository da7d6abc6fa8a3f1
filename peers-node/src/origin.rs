//! Where a peer comes from, as far as nobody can come from many places at will: what peers of one origin bring to the cache shares one account.

use std::net::IpAddr;

use peers_nat::Path;
use peers_wire::PeerId;

use crate::stack::Stack;

/// The /24 or /48 of a public address, a private address as it is, or the relay through which a peer is reached.
pub(crate) fn origin_of(path: &Path) -> u64 {
    match path {
        Path::Direct(address) => match address.ip().to_canonical() {
            IpAddr::V4(v4) => {
                let prefix = if v4.is_private() || v4.is_loopback() || v4.is_link_local() { u32::MAX } else { u32::MAX << 8 };
                4 << 56 | u64::from(v4.to_bits() & prefix)
            }
            // What is private differs in its last half only.
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local() => {
                5 << 56 | u64::try_from(v6.to_bits() & u128::from(u64::MAX >> 8)).unwrap_or_default()
            }
            IpAddr::V6(v6) => 6 << 56 | u64::try_from(v6.to_bits() >> 80).unwrap_or_default(),
        },
        Path::Relayed(relay) => relay.0.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

impl Stack {
    /// Tells the cache where a peer comes from.
    pub(crate) fn tell_origin(&mut self, peer: PeerId, path: &Path) {
        // Whoever has many keys may be a relay by each of them.
        let relay = match path {
            Path::Direct(_) => None,
            Path::Relayed(relay) => self.agent.peer(*relay).map(|relay| relay.path),
        };
        self.cache.set_origin(peer, origin_of(relay.as_ref().unwrap_or(path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(address: &str) -> u64 {
        origin_of(&Path::Direct(address.parse().unwrap()))
    }

    #[test]
    fn addresses_of_one_prefix_and_peers_behind_one_relay_are_of_one_origin() {
        assert_eq!(direct("192.0.2.1:1"), direct("192.0.2.200:9"));
        assert_eq!(direct("[::ffff:192.0.2.1]:1"), direct("192.0.2.9:1"));
        assert_ne!(direct("192.0.2.1:1"), direct("192.0.3.1:1"));
        assert_eq!(direct("[2001:db8:1:2::3]:1"), direct("[2001:db8:1:ffff::4]:1"));
        assert_ne!(direct("[2001:db8:1::3]:1"), direct("[2001:db8:2::3]:1"));
        assert_ne!(direct("10.0.0.1:1"), direct("10.0.0.2:1"), "neighbours on one local network are not one host");
        assert_eq!(direct("10.0.0.1:1"), direct("10.0.0.1:2"));
        assert_ne!(direct("[fe80::1]:1"), direct("[fe80::2]:1"));
        let relayed = |relay| origin_of(&Path::Relayed(PeerId([relay; 32])));
        assert!(relayed(1) == relayed(1) && relayed(1) != relayed(2));
    }
}
