//! What can be computed without a simulation, to stand beside it.

use super::survive::Survive;

/// The share of messages that can survive until the end of [`Survive`], however well the caches of all are used.
///
/// With n caches of B bytes, messages of s bytes in memory, l of them an hour, of which each has k copies, t hours after the first ones are n B bytes of room for k s l t bytes of packets, all of which still want to
/// live. If room goes to all alike, min(1, n B / (k s l t)) of them have their k copies. k is what holders restore a packet to.
pub fn survival(scenario: &Survive) -> f64 {
    let copies = peers_cache::Config::default().copies as f64;
    let size = (scenario.bytes + peers_crypto::SEAL_OVERHEAD + PACKET) as f64;
    let own = f64::from(scenario.messages);
    let all = own + scenario.load * f64::from(scenario.hours);
    let room = scenario.peers as f64 * scenario.cache as f64;
    (room / (copies * size * all)).min(1.0)
}

/// Bytes of a packet's header, and of what a cache allocates for a packet beside its bytes, about.
const PACKET: usize = 133 + 510;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survival_is_certain_while_there_is_room_and_then_falls_as_the_load_grows() {
        let at = |load| survival(&Survive { peers: 10, cache: 1 << 16, load, ..Survive::default() });
        assert_eq!(at(0.0), 1.0);
        assert!(at(1000.0) < 0.1 && (at(1000.0) / at(2000.0) - 2.0).abs() < 0.01);
    }
}
