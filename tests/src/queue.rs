//! A queue of events in virtual time.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

/// Events ordered by time, and by insertion where times are equal.
///
/// The heap holds small keys only and the events stay in place: O(log n) to push and to pop, no allocation once it has grown.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: Vec<Option<T>>,
    free: Vec<usize>,
    pushed: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), pushed: 0 }
    }
}

impl<T> Queue<T> {
    /// Adds `event` at virtual time `at`, behind those already due then.
    pub fn push(&mut self, at: Duration, event: T) {
        let slot = self.free.pop().unwrap_or(self.events.len());
        match self.events.get_mut(slot) {
            Some(place) => *place = Some(event),
            None => self.events.push(Some(event)),
        }
        self.heap.push(Reverse((at, self.pushed, slot)));
        self.pushed += 1;
    }

    /// Takes the first event due at `until` or earlier, with its time.
    pub fn pop(&mut self, until: Duration) -> Option<(Duration, T)> {
        if self.next_at()? > until {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.events[slot].take().expect("a key in the heap has its event")))
    }

    /// When the first event is due.
    pub fn next_at(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Number of events waiting.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_leave_as_a_stable_sort_by_time_orders_them(times in proptest::collection::vec(0u64..20, 0..200)) {
            let mut queue = Queue::default();
            for (i, time) in times.iter().enumerate() {
                queue.push(Duration::from_secs(*time), i);
            }
            let mut expected: Vec<_> = times.iter().copied().enumerate().map(|(i, t)| (Duration::from_secs(t), i)).collect();
            expected.sort_by_key(|(time, _)| *time);
            let left: Vec<_> = core::iter::from_fn(|| queue.pop(Duration::MAX)).collect();
            prop_assert_eq!(left, expected);
        }
    }

    #[test]
    fn nothing_leaves_before_its_time() {
        let mut queue = Queue::default();
        queue.push(Duration::from_secs(2), ());
        assert_eq!(queue.pop(Duration::from_secs(1)), None);
        assert_eq!(queue.pop(Duration::from_secs(2)), Some((Duration::from_secs(2), ())));
        assert!(queue.is_empty());
    }
}
