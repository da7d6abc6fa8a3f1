//! Fragments are checked against the head that vouches for them before they are kept.

use peers_wire::{Header, Packet, TreeShape};

use crate::store::Store;

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

/// Heads over one root, and packets in one place of its tree, that are looked at: whoever may write to a topic can sign further heads over a root, of other shapes.
const MAX_TWINS: usize = 8;

/// Looks for the parent of a fragment among the packets held.
pub(crate) fn vouched(store: &Store, fragment: &Packet) -> Vouched {
    let Header::Fragment(header) = fragment.header() else { return Vouched::No };
    let mut verdict = None;
    for head in store.nodes(&header.root, None, fragment).take(MAX_TWINS) {
        let Header::Message(message) = head.header() else { continue };
        let parent = TreeShape::of(&message).and_then(|shape| shape.parent(header.index));
        let Some(parent) = parent else {
            verdict.get_or_insert(Vouched::No);
            continue;
        };
        let names = |above: &Packet| parent.digest(above.payload()) == Some(fragment.payload_digest());
        let mut known = false;
        for above in store.nodes(&header.root, parent.index, fragment).take(MAX_TWINS) {
            known = true;
            if names(if parent.index.is_none() { head } else { above }) {
                return Vouched::Yes;
            }
        }
        if known {
            verdict.get_or_insert(Vouched::No);
        } else {
            verdict = Some(Vouched::Unknown);
        }
    }
    verdict.unwrap_or(Vouched::Unknown)
}
