//! Causal order of linked messages, whatever order they came in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::{Link, Packet};

/// Messages in causal order, and what is missing before them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ordered {
    /// Every message once, each after the one it links to; else by creation time, then id, so that all peers agree.
    pub packets: Vec<Packet>,
    /// The predecessors that are named and not among them, to be asked for; sorted.
    pub missing: Vec<Link>,
}

/// Puts messages in causal order by walking their links.
///
/// Writers that publish at the same time name the same predecessor: the list then has branches, which are interleaved by
/// creation time. A clock that runs behind cannot put a message before its predecessor.
///
/// - `packets`: n messages of any lists, with duplicates or not
/// - returns: O(n log n), whatever the links
pub fn causal_order(packets: Vec<Packet>) -> Ordered {
    let by_link: BTreeMap<Link, Packet> = packets.into_iter().map(|packet| (packet.id().link(), packet)).collect();
    let mut missing = BTreeSet::new();
    let mut successors: BTreeMap<Link, Vec<&Packet>> = BTreeMap::new();
    let mut ready = BinaryHeap::new();
    for packet in by_link.values() {
        match packet.previous() {
            Some(link) if by_link.contains_key(&link) => successors.entry(link).or_default().push(packet),
            previous => {
                missing.extend(previous);
                ready.push(Reverse((packet.created(), packet.id())));
            }
        }
    }
    // Every message is reached: a cycle of links would be a message that contains its own hash.
    let mut ordered = Vec::with_capacity(by_link.len());
    while let Some(Reverse((_, id))) = ready.pop() {
        let link = id.link();
        ordered.extend(by_link.get(&link).cloned());
        for packet in successors.remove(&link).unwrap_or_default() {
            ready.push(Reverse((packet.created(), packet.id())));
        }
    }
    Ordered { packets: ordered, missing: missing.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MessageHeader, Signature, Timestamp, TopicId};
    use proptest::prelude::*;

    /// Message i links to a message before it, or to one that nobody has.
    fn messages(choices: &[(usize, u64)]) -> Vec<Packet> {
        let mut made: Vec<Packet> = Vec::new();
        for (i, (choice, created)) in choices.iter().enumerate() {
            let previous = match choice % (i + 2) {
                0 => Link::NONE,
                1 => Link([0xee; 24]),
                earlier => made[earlier - 2].id().link(),
            };
            let header = MessageHeader {
                postage: 16,
                created: Timestamp(*created),
                lifetime: 1,
                fragments: 0,
                topic: TopicId([1; 32]),
                previous,
                signature: Signature([0; 64]),
            };
            made.push(header.packet(&i.to_be_bytes()).unwrap());
        }
        made
    }

    proptest! {
        #[test]
        fn every_message_comes_once_after_its_predecessor_whatever_the_order_of_arrival(
            choices in prop::collection::vec((any::<usize>(), 0..50u64), 0..60), arrival in any::<prop::sample::Index>(), take in 0..120usize,
        ) {
            let all = messages(&choices);
            let mut came: Vec<Packet> = all.iter().chain(&all).take(take).cloned().collect();
            let expected = causal_order(came.clone());
            if !came.is_empty() {
                let middle = arrival.index(came.len());
                came.rotate_left(middle);
                came[middle / 2..].reverse();
            }
            let ordered = causal_order(came.clone());
            prop_assert_eq!(&ordered, &expected);
            let position: BTreeMap<Link, usize> = ordered.packets.iter().enumerate().map(|(i, p)| (p.id().link(), i)).collect();
            prop_assert_eq!(position.len(), ordered.packets.len());
            prop_assert!(came.iter().all(|packet| position.contains_key(&packet.id().link())));
            for (i, packet) in ordered.packets.iter().enumerate() {
                if let Some(previous) = packet.previous() {
                    match position.get(&previous) {
                        Some(before) => prop_assert!(*before < i),
                        None => prop_assert!(ordered.missing.contains(&previous)),
                    }
                }
            }
        }
    }

    #[test]
    fn a_slow_clock_does_not_overtake_its_predecessor_and_branches_go_by_time() {
        // 1 and 2 both follow 0; 3 follows 2 with a clock that is far behind.
        let all = messages(&[(0, 1000), (2, 3000), (2, 2000), (4, 5)]);
        let ordered = causal_order(vec![all[3].clone(), all[1].clone(), all[2].clone(), all[0].clone()]);
        assert_eq!(ordered.packets, [all[0].clone(), all[2].clone(), all[3].clone(), all[1].clone()]);
        assert_eq!(ordered.missing, []);
    }
}
