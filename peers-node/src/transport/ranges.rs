//! A set of integers kept as ranges: packet numbers received, stream bytes acknowledged or lost.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-adjacent half-open ranges in order; every operation is O(log n) in the ranges kept, plus the ranges it removes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The lowest range.
    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.0.first_key_value().map(|(start, end)| *start..*end)
    }

    /// The ranges, highest first.
    pub(super) fn descending(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().rev().map(|(start, end)| *start..*end)
    }

    /// The range that `value` is in.
    pub(super) fn around(&self, value: u64) -> Option<Range<u64>> {
        let (start, end) = self.0.range(..=value).next_back()?;
        (*end > value).then_some(*start..*end)
    }

    /// The start of the first range that starts at `value` or after it.
    pub(super) fn next_start(&self, value: u64) -> Option<u64> {
        self.0.range(value..).next().map(|(start, _)| *start)
    }

    /// Adds a range, joining it with those it touches.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // The common case: what follows the highest range.
        if let Some(mut last) = self.0.last_entry()
            && *last.get() == range.start
        {
            *last.get_mut() = range.end;
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, before_end)) = self.0.range(..=start).next_back()
            && *before_end >= start
        {
            (start, end) = (*before, end.max(*before_end));
        }
        while let Some((next, next_end)) = self.0.range(start..=end).next().map(|(next, next_end)| (*next, *next_end)) {
            self.0.remove(&next);
            end = end.max(next_end);
        }
        self.0.insert(start, end);
    }

    /// Takes a range out, splitting what it only partly covers.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((start, end)) = self.0.range(..range.end).next_back().map(|(start, end)| (*start, *end)) {
            if end <= range.start {
                return;
            }
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            if start < range.start {
                self.0.insert(start, range.start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_members(steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (insert, start, length) in steps {
                if insert {
                    ranges.insert(start..start + length);
                    model.extend(start..start + length);
                } else {
                    ranges.remove(start..start + length);
                    model.retain(|member| !(start..start + length).contains(member));
                }
                let mut members: Vec<u64> = ranges.descending().flat_map(|range| range.rev()).collect();
                members.reverse();
                prop_assert_eq!(&members, &model.iter().copied().collect::<Vec<_>>());
                let kept: Vec<_> = ranges.descending().collect();
                prop_assert!(kept.windows(2).all(|pair| pair[1].end < pair[0].start), "adjacent ranges are one");
                for value in 0..72 {
                    prop_assert_eq!(ranges.around(value).is_some(), model.contains(&value));
                }
            }
        }
    }
}
