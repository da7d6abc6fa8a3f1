//! Messages larger than a packet: cut into leaves under a hash tree whose root the head carries and signs.
//!
//! The leaf count alone determines the shape of the tree, and the head signs it, so a leaf cannot pass for a node.

use core::ops::Range;

use blake2b_simd::many::{HashManyJob, hash_many};
use thiserror::Error;

use crate::packet::{digest_params, finish};
use crate::{DecodeError, Header, MAX_PAYLOAD, MessageHeader, Packet};

/// Leaves of the largest message.
pub const MAX_LEAVES: u32 = 16_384;
/// Bytes of the largest message, as it is after sealing: 16 MiB.
pub const MAX_MESSAGE: usize = MAX_LEAVES as usize * MAX_PAYLOAD;
/// Leaves and nodes of the largest message, its root apart.
pub const MAX_FRAGMENTS: u32 = MAX_LEAVES + MAX_LEAVES / FANOUT + MAX_LEAVES / FANOUT / FANOUT;

/// Digests that fit a node.
const FANOUT: u32 = 32;
const DIGEST: usize = MAX_PAYLOAD / FANOUT as usize;
/// Levels below the root of the largest message.
const MAX_LEVELS: usize = 3;

/// The message is larger than [`MAX_MESSAGE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message of {0} bytes is larger than {MAX_MESSAGE}")]
pub struct TooLarge(pub usize);

/// A sealed message, cut to fit packets.
#[derive(Debug, Clone)]
pub struct Split<'a> {
    /// The payload of the head: the message itself if it fits, else the root node.
    pub root: Vec<u8>,
    /// What the head's `fragments` field says: 0 if the message fits the head, else its number of leaves.
    pub leaves: u32,
    sealed: &'a [u8],
    /// The nodes of each level from the lowest, without the root.
    nodes: Vec<Vec<u8>>,
}

/// Cuts a sealed message into leaves and builds the hash tree over them; O(n), hashing every byte once.
///
/// # Errors
/// [`TooLarge`] for more than [`MAX_MESSAGE`] bytes.
pub fn split(sealed: &[u8]) -> Result<Split<'_>, TooLarge> {
    if sealed.len() > MAX_MESSAGE {
        return Err(TooLarge(sealed.len()));
    }
    if sealed.len() <= MAX_PAYLOAD {
        return Ok(Split { root: sealed.to_vec(), leaves: 0, sealed: &[], nodes: Vec::new() });
    }
    let mut nodes = Vec::with_capacity(MAX_LEVELS);
    let mut level = digests(sealed);
    while level.len() > MAX_PAYLOAD {
        let above = digests(&level);
        nodes.push(core::mem::replace(&mut level, above));
    }
    let leaves = sealed.len().div_ceil(MAX_PAYLOAD).try_into().unwrap_or(MAX_LEAVES);
    Ok(Split { root: level, leaves, sealed, nodes })
}

impl Split<'_> {
    /// The packets to publish under `head`, itself first and each parent before its children, so that who receives them in
    /// this order can check each at once.
    ///
    /// - `head`: the signed message whose payload is `root` and whose `fragments` is `leaves`
    /// - returns: 1 packet, or 1 + the leaves + the nodes
    ///
    /// # Errors
    /// [`DecodeError::Range`] if `head` is not the head of this message.
    pub fn packets(&self, head: &Packet) -> Result<Vec<Packet>, DecodeError> {
        let header = match head.header() {
            Header::Message(header) if header.fragments == self.leaves && head.payload() == self.root => header,
            _ => return Err(DecodeError::Range("head")),
        };
        let mut packets = vec![head.clone()];
        if self.leaves == 0 {
            return Ok(packets);
        }
        let shape = TreeShape::new(self.leaves);
        packets.reserve(shape.total() as usize);
        let mut parents = &self.root[..];
        for (level, indices) in shape.top_down() {
            let content = if level == 0 { self.sealed } else { &self.nodes[level - 1] };
            for ((index, payload), digest) in indices.zip(content.chunks(MAX_PAYLOAD)).zip(parents.as_chunks::<DIGEST>().0) {
                let fragment = header.fragment(head.payload_digest(), index);
                packets.push(Packet::assemble(&Header::Fragment(fragment), payload, *digest)?);
            }
            parents = content;
        }
        Ok(packets)
    }
}

/// The digests of all chunks of [`MAX_PAYLOAD`] bytes, one behind the other; several are hashed at once where the CPU can.
fn digests(content: &[u8]) -> Vec<u8> {
    let params = digest_params();
    let mut out = Vec::with_capacity(content.len().div_ceil(MAX_PAYLOAD) * DIGEST);
    for group in content.chunks(MAX_PAYLOAD * FANOUT as usize) {
        let mut jobs: Vec<_> = group.chunks(MAX_PAYLOAD).map(|chunk| HashManyJob::new(&params, chunk)).collect();
        hash_many(&mut jobs);
        for job in &jobs {
            out.extend_from_slice(&finish(&job.to_hash()));
        }
    }
    out
}

/// Where everything is in the tree of a message in fragments: its number of leaves determines it.
///
/// Indices count the leaves first, then each level of nodes above; the root, which the head carries, has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeShape {
    /// Fragments of each level, the leaves first.
    counts: [u32; MAX_LEVELS],
    levels: usize,
}

/// Where the digest of a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The fragment that holds it; `None` for the head.
    pub index: Option<u32>,
    /// Which of the 32-byte digests in the parent's payload it is.
    pub slot: usize,
}

impl Parent {
    /// The digest, in the parent's payload; `None` if that is too short.
    pub fn digest<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8; DIGEST]> {
        payload.as_chunks::<DIGEST>().0.get(self.slot)
    }
}

impl TreeShape {
    /// The tree under a head; `None` if the message is whole.
    pub fn of(head: &MessageHeader) -> Option<Self> {
        (2..=MAX_LEAVES).contains(&head.fragments).then(|| Self::new(head.fragments))
    }

    /// The tree over 2 to [`MAX_LEAVES`] leaves.
    pub(crate) const fn new(leaves: u32) -> Self {
        let mut counts = [leaves, 0, 0];
        let mut levels = 1;
        while counts[levels - 1] > FANOUT && levels < MAX_LEVELS {
            counts[levels] = counts[levels - 1].div_ceil(FANOUT);
            levels += 1;
        }
        Self { counts, levels }
    }

    /// Its leaves, which have the first indices.
    pub const fn leaves(&self) -> u32 {
        self.counts[0]
    }

    /// Leaves and nodes: all indices are below it.
    pub const fn total(&self) -> u32 {
        self.counts[0] + self.counts[1] + self.counts[2]
    }

    /// Where the digest of a fragment is; `None` if the message has no such fragment.
    pub fn parent(&self, index: u32) -> Option<Parent> {
        let (level, position) = self.place(index)?;
        if level + 1 == self.levels {
            return Some(Parent { index: None, slot: position as usize });
        }
        let above = self.level(level + 1).start + position / FANOUT;
        Some(Parent { index: Some(above), slot: (position % FANOUT) as usize })
    }

    /// The indices of the fragments whose digests the head holds.
    pub fn under_head(&self) -> Range<u32> {
        self.level(self.levels - 1)
    }

    /// The indices of the fragments whose digests a fragment holds; empty for a leaf.
    pub fn children(&self, index: u32) -> Range<u32> {
        match self.place(index) {
            None | Some((0, _)) => 0..0,
            Some((level, position)) => {
                let below = self.level(level - 1);
                let start = below.start + position * FANOUT;
                start..below.end.min(start + FANOUT)
            }
        }
    }

    /// The lengths that the payload of a fragment may have: one, but for the last leaf; empty if there is no such fragment.
    pub fn lengths(&self, index: u32) -> Range<usize> {
        let exactly = |length| length..length + 1;
        if index >= self.total() {
            0..0
        } else if index >= self.leaves() {
            exactly(self.children(index).len() * DIGEST)
        } else if index + 1 == self.leaves() {
            1..MAX_PAYLOAD + 1
        } else {
            exactly(MAX_PAYLOAD)
        }
    }

    /// Bytes of the root node.
    pub(crate) const fn root_len(&self) -> usize {
        self.counts[self.levels - 1] as usize * DIGEST
    }

    /// The indices of each level, from that under the head to the leaves.
    pub(crate) fn top_down(self) -> impl Iterator<Item = (usize, Range<u32>)> {
        (0..self.levels).rev().map(move |level| (level, self.level(level)))
    }

    fn level(&self, level: usize) -> Range<u32> {
        let start = self.counts[..level].iter().sum();
        start..start + self.counts[level]
    }

    /// The level of an index, and its position there.
    fn place(&self, index: u32) -> Option<(usize, u32)> {
        let mut position = index;
        for (level, count) in self.counts.into_iter().enumerate() {
            if position < count {
                return Some((level, position));
            }
            position -= count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Link, Signature, Timestamp, TopicId, payload_digest};
    use proptest::prelude::*;

    fn head_of(split: &Split<'_>) -> Packet {
        MessageHeader {
            postage: 16,
            created: Timestamp(1_700_000_000_000),
            lifetime: 4320,
            fragments: split.leaves,
            topic: TopicId([7; 32]),
            previous: Link::NONE,
            signature: Signature([9; 64]),
        }
        .packet(&split.root)
        .unwrap()
    }

    fn leaf_counts() -> impl Strategy<Value = u32> {
        prop_oneof![2..40u32, 1000..1100u32, 2..=MAX_LEAVES, Just(MAX_LEAVES)]
    }

    proptest! {
        #[test]
        fn every_fragment_has_one_place_and_its_parent_knows_it(leaves in leaf_counts(), pick: u32) {
            let shape = TreeShape::new(leaves);
            prop_assert!(shape.root_len() <= MAX_PAYLOAD && shape.total() <= MAX_FRAGMENTS);
            for beyond in [shape.total(), u32::MAX] {
                prop_assert_eq!((shape.parent(beyond), shape.children(beyond), shape.lengths(beyond)), (None, 0..0, 0..0));
            }
            let index = pick % shape.total();
            let parent = shape.parent(index).unwrap();
            let siblings = parent.index.map_or_else(|| shape.under_head(), |above| shape.children(above));
            prop_assert_eq!(siblings.start as usize + parent.slot, index as usize);
            prop_assert!(siblings.contains(&index) && siblings.len() <= 32);
            prop_assert_eq!(shape.children(index).is_empty(), index < leaves);
            prop_assert_eq!(shape.top_down().map(|(_, indices)| indices.len()).sum::<usize>(), shape.total() as usize);
        }

        #[test]
        fn a_split_comes_parents_first_and_every_digest_is_where_the_shape_says(length in 1025..200_000usize) {
            let sealed: Vec<u8> = (0..length).map(|i| (i * 31 + i / 1024).to_le_bytes()[0]).collect();
            let split = split(&sealed).unwrap();
            let packets = split.packets(&head_of(&split)).unwrap();
            let shape = TreeShape::of(&match packets[0].header() { Header::Message(head) => head, Header::Fragment(_) => unreachable!() }).unwrap();
            prop_assert_eq!(packets.len(), shape.total() as usize + 1);
            let mut known = std::collections::BTreeMap::new();
            for packet in &packets[1..] {
                prop_assert_eq!(&Packet::decode(packet.as_bytes().clone()).unwrap(), packet);
                let Header::Fragment(header) = packet.header() else { unreachable!() };
                prop_assert_eq!(&header.root, packets[0].payload_digest());
                prop_assert!(shape.lengths(header.index).contains(&packet.payload().len()));
                let parent = shape.parent(header.index).unwrap();
                let node = parent.index.map_or(&split.root[..], |above| known[&above]);
                prop_assert_eq!(parent.digest(node), Some(&payload_digest(packet.payload())));
                known.insert(header.index, packet.payload());
            }
            let leaves: Vec<u8> = (0..split.leaves).flat_map(|index| known[&index].to_vec()).collect();
            prop_assert_eq!(leaves, sealed);
        }
    }

    #[test]
    fn a_message_that_fits_is_its_own_head_and_one_byte_more_makes_two_leaves() {
        let sealed = [5; MAX_PAYLOAD + 1];
        let whole = split(&sealed[..MAX_PAYLOAD]).unwrap();
        assert_eq!((whole.leaves, &whole.root[..]), (0, &sealed[..MAX_PAYLOAD]));
        assert_eq!(whole.packets(&head_of(&whole)).unwrap().len(), 1);
        let two = split(&sealed).unwrap();
        assert_eq!((two.leaves, two.root.len()), (2, 64));
        assert_eq!(two.packets(&head_of(&whole)).unwrap_err(), DecodeError::Range("head"));
    }

    #[test]
    fn a_message_over_sixteen_mebibytes_is_refused() {
        assert_eq!(split(&vec![0; MAX_MESSAGE + 1]).unwrap_err(), TooLarge(MAX_MESSAGE + 1));
        assert_eq!(split(&vec![0; MAX_MESSAGE]).unwrap().leaves, MAX_LEAVES);
    }
}
