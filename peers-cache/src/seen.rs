//! A bounded memory of keys.

use hashbrown::HashSet;

use crate::message::Key;

/// Keys of a generation; at least so many of the newest, and at most twice as many, are remembered.
const GENERATION: usize = 8192;

/// Two generations of keys: when the younger is full, it replaces the elder.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    younger: HashSet<Key>,
    elder: HashSet<Key>,
}

impl Seen {
    pub(crate) fn insert(&mut self, key: Key) {
        if self.younger.len() >= GENERATION {
            core::mem::swap(&mut self.younger, &mut self.elder);
            self.younger.clear();
        }
        self.younger.insert(key);
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.younger.contains(&key) || self.elder.contains(&key)
    }

    pub(crate) fn len(&self) -> usize {
        self.younger.len() + self.elder.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.younger.iter().chain(&self.elder).copied()
    }

    pub(crate) fn forget(&mut self, key: Key) {
        self.younger.remove(&key);
        self.elder.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_the_newest_and_stays_bounded() {
        let mut seen = Seen::default();
        let key = |n: usize| Key([n as u64, 0]);
        (0..100_000).for_each(|n| seen.insert(key(n)));
        assert!((100_000 - GENERATION..100_000).all(|n| seen.contains(key(n))));
        assert!(seen.younger.len() + seen.elder.len() <= 2 * GENERATION);
        seen.forget(key(99_999));
        assert!(!seen.contains(key(99_999)));
    }
}
