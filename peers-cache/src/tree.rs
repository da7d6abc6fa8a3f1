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

/// Looks for the parent of a fragment among the packets held.
pub(crate) fn vouched(store: &Store, fragment: &Packet) -> Vouched {
    let Header::Fragment(header) = fragment.header() else { return Vouched::No };
    let Some(head) = store.node(&header.root, None, fragment) else { return Vouched::Unknown };
    let Header::Message(message) = head.header() else { return Vouched::No };
    let Some(parent) = TreeShape::of(&message).and_then(|shape| shape.parent(header.index)) else { return Vouched::No };
    let above = match parent.index {
        None => Some(head),
        index => store.node(&header.root, index, fragment),
    };
    match above.map(|above| parent.digest(above.payload()) == Some(fragment.payload_digest())) {
        Some(true) => Vouched::Yes,
        Some(false) => Vouched::No,
        None => Vouched::Unknown,
    }
}
