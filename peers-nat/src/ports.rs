//! How a NAT gives out ports: what is read from where others see our sockets, and how large it makes the search for one that fits.

use core::net::{IpAddr, SocketAddr};

use peers_wire::{DecodeError, Reader};

use crate::classify;

/// What the public port of a socket depends on, as far as it concerns who wants to reach it.
///
/// Source: RFC 4787, section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Nobody has said yet, or only one.
    Unknown = 0,
    /// On the socket alone: one port for all destinations, or no NAT at all.
    Independent = 1,
    /// Also on the destination.
    Dependent = 2,
    /// Also on the destination, and each new one gets a port near the last.
    Sequential = 3,
}

impl Mapping {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            0 => Self::Unknown,
            1 => Self::Independent,
            2 => Self::Dependent,
            3 => Self::Sequential,
            _ => return Err(DecodeError::Range("mapping")),
        })
    }
}

/// Where the next new mapping's port is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// A little after, or before, the one given out last.
    Sequential,
    /// Anywhere between the two, both included.
    Range(u16, u16),
}

/// Ports that NATs give out at random, if not more is known.
pub(crate) const ANY: Allocation = Allocation::Range(1024, u16::MAX);
/// Ports needed to judge by.
const MIN_PORTS: usize = 4;
/// Largest step between two ports given out one after the other, with others in between.
const MAX_STEP: u16 = 16;
/// Largest block of ports that one customer is known to get.
///
/// Source: RFC 6888, RFC 7422 (deterministic blocks); blocks of 256 to 4096 are common.
const MAX_BLOCK: u16 = 4096;

/// What the public `ports` of new sockets, in the order they first sent, tell. None if they are too few.
pub(crate) fn judge(ports: &[u16]) -> Option<Allocation> {
    if ports.len() < MIN_PORTS || ports.contains(&0) {
        return None;
    }
    let steps = |up: bool| {
        ports.windows(2).all(|pair| {
            let step = if up { pair[1].wrapping_sub(pair[0]) } else { pair[0].wrapping_sub(pair[1]) };
            (1..=MAX_STEP).contains(&step)
        })
    };
    if steps(true) || steps(false) {
        return Some(Allocation::Sequential);
    }
    let (low, high) = (*ports.iter().min()?, *ports.iter().max()?);
    let spread = high - low;
    if spread > MAX_BLOCK {
        return Some(ANY);
    }
    // Those that were seen lie inside: the ends are as far away again as the seen are from each other, with some to spare.
    let beyond = 3 * spread / u16::try_from(ports.len() - 1).unwrap_or(u16::MAX);
    Some(Allocation::Range(low.saturating_sub(beyond).max(1), high.saturating_add(beyond)))
}

impl From<classify::Allocation> for Allocation {
    fn from(seen: classify::Allocation) -> Self {
        match seen {
            classify::Allocation::Sequential { .. } => Self::Sequential,
            classify::Allocation::Block { low, high } => {
                let beyond = (high - low) / 4;
                Self::Range(low.saturating_sub(beyond).max(1), high.saturating_add(beyond))
            }
            classify::Allocation::Preserved | classify::Allocation::Random => ANY,
        }
    }
}

impl Allocation {
    /// How many sockets to open, so that the probes sent to ports in the range find one of them soon: as many as are probed where the range is large (the birthday paradox), all that make sense where it is not.
    pub(crate) fn sockets(self) -> u16 {
        match self {
            Self::Sequential => 4,
            Self::Range(low, high) => ((high - low) / 8).clamp(8, MAX_OPENED),
        }
    }

    /// The lowest and the highest port that may be given out.
    pub(crate) const fn limits(self) -> (u16, u16) {
        match self {
            Self::Sequential => (1, u16::MAX),
            Self::Range(low, high) => (low, high),
        }
    }
}

/// Most sockets that are opened to one peer: with as many probes, two in a hundred attempts fail to meet; with the 1,400 that are sent at most, one in 60,000.
const MAX_OPENED: u16 = 512;

/// What the addresses at which `reports`, each by another peer, see our main socket, which is at `local`, tell of the mapping. Two who agree are believed.
pub(crate) fn mapping(local: &[SocketAddr], reports: &[SocketAddr], allocation: Option<Allocation>) -> Mapping {
    let reports: Vec<SocketAddr> = reports.iter().copied().filter(|seen| matches!(seen.ip().to_canonical(), IpAddr::V4(_))).collect();
    let agreed = reports.iter().enumerate().any(|(i, seen)| reports[i + 1..].contains(seen));
    let disputed = reports.iter().any(|seen| *seen != reports[0]);
    match (reports.len(), allocation) {
        (0, _) => Mapping::Unknown,
        (1, _) => {
            if local.contains(&reports[0]) {
                Mapping::Independent
            } else {
                Mapping::Unknown
            }
        }
        // In a small block two destinations get the same port by chance now and then.
        (_, Some(Allocation::Range(low, high))) if disputed && high - low <= 2 * MAX_BLOCK => Mapping::Dependent,
        _ if agreed => Mapping::Independent,
        (_, Some(Allocation::Sequential)) => Mapping::Sequential,
        _ => Mapping::Dependent,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn consecutive_ports_are_sequential_even_with_gaps_and_around_the_end() {
        for ports in [[100, 101, 102, 103], [100, 102, 109, 112], [65_534, 65_535, 1, 2], [9, 8, 6, 5]] {
            assert_eq!(judge(&ports), Some(Allocation::Sequential), "{ports:?}");
        }
    }

    #[test]
    fn ports_of_one_block_give_a_range_around_them_and_others_any() {
        let ports = [20_100, 20_400, 20_020, 20_333, 20_250, 20_500, 20_200, 20_010];
        let Some(Allocation::Range(low, high)) = judge(&ports) else { panic!("a block") };
        assert!((19_700..=20_010).contains(&low) && (20_500..=20_800).contains(&high), "{low} {high}");
        assert_eq!(judge(&[1025, 60_000, 30_000, 40_000]), Some(ANY));
        assert_eq!(judge(&[1, 2, 3]), None);
    }

    #[test]
    fn two_who_agree_make_a_mapping_independent_and_one_alone_makes_none() {
        let (local, a, b, c) = (address("10.0.0.1:5"), address("50.0.0.1:5"), address("50.0.0.1:6"), address("50.0.0.1:7"));
        assert_eq!(mapping(&[local], &[a], None), Mapping::Unknown);
        assert_eq!(mapping(&[a], &[a], None), Mapping::Independent);
        assert_eq!(mapping(&[local], &[a, b, a], None), Mapping::Independent);
        assert_eq!(mapping(&[local], &[a, b, c], None), Mapping::Dependent);
        assert_eq!(mapping(&[local], &[a, b], Some(Allocation::Sequential)), Mapping::Sequential);
        assert_eq!(mapping(&[local], &[a, b, a], Some(Allocation::Range(1, 512))), Mapping::Dependent);
        assert_eq!(mapping(&[local], &[address("[2001:db8::1]:5"), address("[2001:db8::1]:5")], None), Mapping::Unknown);
    }

    proptest! {
        #[test]
        fn a_range_holds_all_that_was_seen(ports in proptest::collection::vec(1u16.., 0..20)) {
            if let Some(Allocation::Range(low, high)) = judge(&ports) {
                prop_assert!(ports.iter().all(|port| (low..=high).contains(port)) || (low, high) == (1024, u16::MAX));
                prop_assert!(low > 0);
            }
        }
    }
}
