//! Fragments are checked against the head that vouches for them before they are kept.

use peers_wire::{Header, Packet};

use crate::store::Store;

/// Digests in a node.
const FANOUT: u32 = 32;
const DIGEST: usize = 32;

/// Who vouches for a packet that has no signature of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vouched {
    /// Its parent, which is held, names its digest.
    Yes,
    /// Its head or parent is held and says otherwise.
    No,
    /// Its head or parent is not held.
    Unknown,
}

/// Looks for the parent of a fragment among the packets held.
pub(crate) fn vouched(store: &Store, fragment: &Packet) -> Vouched {
    let Header::Fragment(header) = fragment.header() else { return Vouched::No };
    let Some(head) = store.node(&header.root, None, fragment) else { return Vouched::Unknown };
    let Header::Message(message) = head.header() else { return Vouched::No };
    let Some((parent, slot)) = parent(message.fragments, header.index) else { return Vouched::No };
    let parent = match parent {
        None => Some(head),
        index => store.node(&header.root, index, fragment),
    };
    match parent.map(|parent| parent.payload().as_chunks::<DIGEST>().0.get(slot) == Some(fragment.payload_digest())) {
        Some(true) => Vouched::Yes,
        Some(false) => Vouched::No,
        None => Vouched::Unknown,
    }
}

/// The index of the parent (`None` for the head) and the position in it of fragment `index` in the tree over `leaves` leaves: leaves
/// are numbered first, then each level above.
fn parent(leaves: u32, index: u32) -> Option<(Option<u32>, usize)> {
    let (mut start, mut count) = (0, leaves);
    while index - start >= count {
        if count <= FANOUT {
            return None;
        }
        start += count;
        count = count.div_ceil(FANOUT);
    }
    let position = index - start;
    if count <= FANOUT {
        return Some((None, position as usize));
    }
    Some((Some(start + count + position / FANOUT), (position % FANOUT) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parents_of_a_tree_of_three_levels_are_where_the_indices_say() {
        // 2000 leaves, 63 nodes over them, 2 over these, which the head holds.
        assert_eq!(parent(2000, 0), Some((Some(2000), 0)));
        assert_eq!(parent(2000, 1999), Some((Some(2062), 15)));
        assert_eq!(parent(2000, 2000), Some((Some(2063), 0)));
        assert_eq!(parent(2000, 2062), Some((Some(2064), 30)));
        assert_eq!(parent(2000, 2064), Some((None, 1)));
        assert_eq!(parent(2000, 2065), None);
        assert_eq!(parent(2, 1), Some((None, 1)));
        assert_eq!(parent(2, 2), None);
    }
}
