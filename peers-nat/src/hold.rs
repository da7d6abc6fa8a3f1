//! Data for an address that may not yet be sent as much: what proves it is on its way, and may be overtaken by what asks for the data.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use peers_wire::PeerId;

use crate::agent::Agent;

/// Bytes that wait at most, for everyone and for one peer.
const MAX_HELD: usize = 1 << 20;
const MAX_HELD_EACH: usize = 64 << 10;
/// How long: the layer above repairs what is lost, and does not wait for ever.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Data that waits for the proof of an address.
#[derive(Debug, Default)]
pub(crate) struct Held {
    waiting: BTreeMap<PeerId, VecDeque<(Instant, Vec<u8>)>>,
    bytes: usize,
}

impl Held {
    /// Lets data wait; false if there is no room.
    fn push(&mut self, now: Instant, peer: PeerId, data: &[u8]) -> bool {
        if self.bytes + data.len() > MAX_HELD {
            self.expire(now);
        }
        let own: usize = self.waiting.get(&peer).map_or(0, |waiting| waiting.iter().map(|(_, data)| data.len()).sum());
        let room = self.bytes + data.len() <= MAX_HELD && own + data.len() <= MAX_HELD_EACH;
        if room {
            self.bytes += data.len();
            self.waiting.entry(peer).or_default().push_back((now, data.to_vec()));
        }
        room
    }

    /// Takes out what waited for a peer, in order.
    fn take(&mut self, now: Instant, peer: PeerId) -> impl Iterator<Item = Vec<u8>> + use<> {
        self.forget(peer).into_iter().filter(move |(since, _)| now.duration_since(*since) < MAX_WAIT).map(|(_, data)| data)
    }

    /// Drops what waits for a peer; returns it.
    pub(crate) fn forget(&mut self, peer: PeerId) -> VecDeque<(Instant, Vec<u8>)> {
        let waiting = self.waiting.remove(&peer).unwrap_or_default();
        self.bytes -= waiting.iter().map(|(_, data)| data.len()).sum::<usize>();
        waiting
    }

    fn expire(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.waiting.retain(|_, waiting| {
            while waiting.front().is_some_and(|(since, _)| now.duration_since(*since) >= MAX_WAIT)
                && let Some((_, old)) = waiting.pop_front()
            {
                *bytes -= old.len();
            }
            !waiting.is_empty()
        });
    }
}

impl Agent {
    /// Lets data wait that the address in use may not be sent now; false if it is lost.
    pub(crate) fn hold(&mut self, now: Instant, peer: PeerId, data: &[u8]) -> bool {
        let unproven = self.peers.get(&peer).is_some_and(|peer| peer.paths.proven_address().is_none());
        unproven && self.held.push(now, peer, data)
    }

    /// Sends what waited for the proof of a peer's address.
    pub(crate) fn release(&mut self, now: Instant, peer: PeerId) {
        for data in self.held.take(now, peer) {
            // Who sent it counts on nothing.
            let _ = self.send(now, peer, &data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_waits_is_bounded_for_each_and_for_all_and_does_not_wait_for_ever() {
        let now = Instant::now();
        let mut held = Held::default();
        let fits = (0..100).filter(|_| held.push(now, PeerId([1; 32]), &[0; 1000])).count();
        assert_eq!(fits, 65);
        let fits = (2..100).flat_map(|peer| [peer; 65]).filter(|peer| held.push(now, PeerId([*peer; 32]), &[0; 1000])).count();
        assert_eq!(fits + 65, 1048);
        assert_eq!(held.take(now, PeerId([2; 32])).count(), 65);
        assert!(held.push(now, PeerId([2; 32]), &[0; 1000]));
        let later = now + MAX_WAIT;
        assert_eq!(held.take(later, PeerId([3; 32])).count(), 0);
        let fits = (100..200).flat_map(|peer| [peer; 65]).filter(|peer| held.push(later, PeerId([*peer; 32]), &[0; 1000])).count();
        assert_eq!(fits, 1048);
        assert!(held.bytes <= MAX_HELD);
    }
}
