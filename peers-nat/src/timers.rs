//! Deadlines by key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// One deadline per key, in order of time; every operation is O(log n).
#[derive(Debug)]
pub(crate) struct Timers<K> {
    queue: BTreeSet<(Instant, K)>,
    due: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) const fn new() -> Self {
        Self { queue: BTreeSet::new(), due: BTreeMap::new() }
    }

    /// Sets the deadline of `key`, in place of the one it has.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        match self.due.insert(key, at) {
            Some(old) if old == at => return,
            Some(old) => drop(self.queue.remove(&(old, key))),
            None => {}
        }
        self.queue.insert((at, key));
    }

    /// Sets the deadline of `key` unless it has an earlier one.
    pub(crate) fn set_earlier(&mut self, key: K, at: Instant) {
        if self.due.get(&key).is_none_or(|due| at < *due) {
            self.set(key, at);
        }
    }

    /// Removes the deadline of `key`.
    pub(crate) fn clear(&mut self, key: K) {
        if let Some(at) = self.due.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    /// Whether the deadline of `key` has come.
    pub(crate) fn is_due(&self, now: Instant, key: K) -> bool {
        self.due.get(&key).is_some_and(|due| *due <= now)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the earliest deadline that is not after `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        self.due.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tests::epoch;

    #[test]
    fn a_deadline_can_be_moved_and_cleared() {
        let start = epoch();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::new();
        timers.set('a', at(5));
        timers.set_earlier('a', at(7));
        assert_eq!(timers.next(), Some(at(5)));
        timers.set_earlier('a', at(3));
        timers.set('b', at(4));
        timers.set('c', at(1));
        timers.clear('c');
        assert_eq!(timers.pop(at(2)), None);
        assert_eq!(timers.pop(at(9)), Some('a'));
        assert_eq!(timers.pop(at(9)), Some('b'));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.next(), None);
    }
}
