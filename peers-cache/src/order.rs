//! The packets of a topic in order of creation, with the sum of any range of them at hand.

use std::borrow::Cow;

use crate::message::{Bound, Key, Summary};
use crate::sketch::{KEPT, Naming, Sketch};

/// Entries of a chunk at most.
const CHUNK: usize = 64;
/// A chunk with fewer is joined with the next if both fit one.
const SPARSE: usize = 16;
/// Packets from which on a topic has a sketch; with fewer than half of them it loses it again.
pub(crate) const MIN_SKETCHED: u32 = 128;

/// A sorted list cut in chunks of at most 64, each with its sum: insert, remove and sum cost O(log n + 64) moves, and a sum over a
/// range n / 64 additions more. Most inserts are at the end and most removals at the front.
#[derive(Debug, Default)]
pub(crate) struct Order {
    chunks: Vec<Chunk>,
    total: Summary,
    /// Kept up to date with every change.
    sketch: Option<Box<Sketch>>,
}

#[derive(Debug)]
struct Chunk {
    summary: Summary,
    entries: Vec<Entry>,
}

/// A packet in the order, and its slot in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) bound: Bound,
    pub(crate) slot: u32,
}

impl Chunk {
    fn of(entries: Vec<Entry>) -> Self {
        let mut summary = Summary::default();
        entries.iter().for_each(|entry| summary.insert(entry.bound.key));
        Self { summary, entries }
    }
}

impl Order {
    /// All of it.
    pub(crate) const fn total(&self) -> Summary {
        self.total
    }

    /// Adds a packet that is not in it.
    pub(crate) fn insert(&mut self, bound: Bound, slot: u32) {
        self.total.insert(bound.key);
        if let Some(sketch) = &mut self.sketch {
            sketch.insert(bound.key);
        }
        let entry = Entry { bound, slot };
        let at = self.chunk_of(&bound);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Chunk::of(vec![entry]));
            return;
        };
        let place = chunk.entries.partition_point(|other| other.bound < bound);
        if chunk.entries.len() < CHUNK {
            chunk.entries.insert(place, entry);
            chunk.summary.insert(bound.key);
        } else if place == CHUNK {
            // At the end, where most come: the full chunk stays full.
            let mut entries = Vec::with_capacity(CHUNK);
            entries.push(entry);
            self.chunks.insert(at + 1, Chunk::of(entries));
        } else {
            let mut upper = chunk.entries.split_off(CHUNK / 2);
            let (half, place) = if place <= CHUNK / 2 { (&mut chunk.entries, place) } else { (&mut upper, place - CHUNK / 2) };
            half.insert(place, entry);
            *chunk = Chunk::of(core::mem::take(&mut chunk.entries));
            self.chunks.insert(at + 1, Chunk::of(upper));
        }
    }

    /// Takes a packet out, if it is in it.
    pub(crate) fn remove(&mut self, bound: &Bound) {
        let at = self.chunk_of(bound);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let Ok(place) = chunk.entries.binary_search_by(|entry| entry.bound.cmp(bound)) else { return };
        chunk.entries.remove(place);
        chunk.summary.remove(bound.key);
        self.total.remove(bound.key);
        if self.total.count < MIN_SKETCHED / 2 {
            self.sketch = None;
        } else if let Some(sketch) = &mut self.sketch {
            sketch.remove(bound.key);
        }
        let left = chunk.entries.len();
        if left == 0 {
            self.chunks.remove(at);
        } else if left < SPARSE && self.chunks.get(at + 1).is_some_and(|next| next.entries.len() + left <= CHUNK) {
            let next = self.chunks.remove(at + 1);
            self.chunks[at].entries.extend(next.entries);
            self.chunks[at].summary.add(next.summary);
        }
    }

    /// A packet is in another slot from now on.
    pub(crate) fn relocate(&mut self, bound: &Bound, slot: u32) {
        let at = self.chunk_of(bound);
        if let Some(chunk) = self.chunks.get_mut(at)
            && let Ok(place) = chunk.entries.binary_search_by(|entry| entry.bound.cmp(bound))
        {
            chunk.entries[place].slot = slot;
        }
    }

    /// The sum over `start..end`.
    pub(crate) fn sum(&self, start: &Bound, end: &Bound) -> Summary {
        let mut summary = Summary::default();
        for chunk in &self.chunks[self.chunk_of(start).min(self.chunks.len())..] {
            let (first, last) = (&chunk.entries[0].bound, &chunk.entries[chunk.entries.len() - 1].bound);
            if first >= end {
                break;
            }
            if first >= start && last < end {
                summary.add(chunk.summary);
            } else {
                let inside = chunk.entries.iter().filter(|entry| entry.bound >= *start && entry.bound < *end);
                inside.for_each(|entry| summary.insert(entry.bound.key));
            }
        }
        summary
    }

    /// The packets in `start..end`, in order.
    pub(crate) fn range(&self, start: Bound, end: Bound) -> impl Iterator<Item = Entry> + '_ {
        let chunks = &self.chunks[self.chunk_of(&start).min(self.chunks.len())..];
        let entries = chunks.iter().flat_map(|chunk| chunk.entries.iter().copied());
        entries.skip_while(move |entry| entry.bound < start).take_while(move |entry| entry.bound < end)
    }

    /// All packets, the newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = Entry> + '_ {
        self.chunks.iter().rev().flat_map(|chunk| chunk.entries.iter().rev().copied())
    }

    /// Cuts `start..end` in at most `parts` ranges of about equal population that tile it, each with its sum.
    pub(crate) fn split(&self, start: Bound, end: Bound, parts: usize) -> Vec<(Bound, Summary)> {
        let count = self.sum(&start, &end).count as usize;
        let size = count.div_ceil(parts).max(1);
        let (mut ranges, mut summary) = (Vec::with_capacity(parts), Summary::default());
        for entry in self.range(start, end) {
            if summary.count as usize == size {
                ranges.push((entry.bound, core::mem::take(&mut summary)));
            }
            summary.insert(entry.bound.key);
        }
        ranges.push((end, summary));
        ranges
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.chunks.iter().flat_map(|chunk| chunk.entries.iter().map(|entry| entry.bound.key))
    }

    /// Keeps a sketch from now on if there are enough packets for it.
    ///
    /// - returns: true if that is new; O(n) then
    pub(crate) fn keep_sketch(&mut self, naming: Naming) -> bool {
        let new = self.sketch.is_none() && self.total.count >= MIN_SKETCHED;
        if new {
            self.sketch = Some(Box::new(self.make_sketch(naming, KEPT)));
        }
        new
    }

    /// Makes the sketch that is kept anew if it is under another naming.
    pub(crate) fn renew_sketch(&mut self, naming: Naming) {
        if self.sketch.as_ref().is_some_and(|sketch| sketch.naming != naming) {
            self.sketch = Some(Box::new(self.make_sketch(naming, KEPT)));
        }
    }

    /// Keeps no sketch any more.
    ///
    /// - returns: true if there was one
    pub(crate) fn drop_sketch(&mut self) -> bool {
        self.sketch.take().is_some()
    }

    /// Whether a sketch is kept.
    pub(crate) const fn is_sketched(&self) -> bool {
        self.sketch.is_some()
    }

    /// Whether so many cells under this naming need not be made.
    pub(crate) fn has_sketch(&self, naming: Naming, cells: usize) -> bool {
        cells <= KEPT && self.sketch.as_ref().is_some_and(|sketch| sketch.naming == naming)
    }

    /// At least so many cells: those that are kept, or made for the purpose in O(n).
    pub(crate) fn sketch(&self, naming: Naming, cells: usize) -> Cow<'_, Sketch> {
        match &self.sketch {
            Some(sketch) if self.has_sketch(naming, cells) => Cow::Borrowed(sketch),
            _ => Cow::Owned(self.make_sketch(naming, cells)),
        }
    }

    fn make_sketch(&self, naming: Naming, cells: usize) -> Sketch {
        let mut sketch = Sketch::new(naming, cells);
        self.keys().for_each(|key| sketch.insert(key));
        sketch
    }

    /// The chunk in which `bound` is or belongs.
    fn chunk_of(&self, bound: &Bound) -> usize {
        match self.chunks.last() {
            Some(last) if last.entries[0].bound <= *bound => self.chunks.len() - 1,
            _ => self.chunks.partition_point(|chunk| chunk.entries[0].bound <= *bound).saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peers_wire::Timestamp;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn bound(n: u16) -> Bound {
        Bound { created: Timestamp(u64::from(n / 8)), key: Key([u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15), 1]) }
    }

    fn naive(set: &BTreeSet<(Bound, u32)>, start: Bound, end: Bound) -> Summary {
        let mut summary = Summary::default();
        set.iter().filter(|(b, _)| *b >= start && *b < end).for_each(|(b, _)| summary.insert(b.key));
        summary
    }

    proptest! {
        #[test]
        fn it_is_the_sorted_set_of_what_was_put_in(ops in proptest::collection::vec((any::<bool>(), 0..700u16), 0..1500), a in 0..700u16, b in 0..700u16) {
            let (mut order, mut model) = (Order::default(), BTreeSet::new());
            for (insert, n) in ops {
                let entry = (bound(n), u32::from(n));
                if insert {
                    if model.insert(entry) {
                        order.insert(entry.0, entry.1);
                    }
                } else {
                    model.remove(&entry);
                    order.remove(&entry.0);
                }
            }
            let (start, end) = (bound(a).min(bound(b)), bound(a).max(bound(b)));
            prop_assert_eq!(order.total(), naive(&model, Bound::MIN, Bound::MAX));
            prop_assert_eq!(order.sum(&start, &end), naive(&model, start, end));
            let range: Vec<_> = order.range(start, end).map(|e| (e.bound, e.slot)).collect();
            prop_assert_eq!(range, model.iter().copied().filter(|(b, _)| *b >= start && *b < end).collect::<Vec<_>>());
        }

        #[test]
        fn a_split_tiles_the_range_in_about_equal_parts(numbers in proptest::collection::btree_set(0..3000u16, 0..800), parts in 1..17usize) {
            let mut order = Order::default();
            numbers.iter().for_each(|n| order.insert(bound(*n), 0));
            let ranges = order.split(Bound::MIN, Bound::MAX, parts);
            prop_assert!(ranges.len() <= parts);
            prop_assert_eq!(ranges.last().map(|r| r.0), Some(Bound::MAX));
            let mut start = Bound::MIN;
            let mut total = Summary::default();
            for (end, summary) in ranges {
                prop_assert_eq!(order.sum(&start, &end), summary);
                prop_assert!(summary.count as usize <= numbers.len().div_ceil(parts).max(1));
                total.add(summary);
                start = end;
            }
            prop_assert_eq!(total, order.total());
        }
    }
}
