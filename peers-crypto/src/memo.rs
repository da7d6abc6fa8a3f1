//! Results of pure functions, remembered by a thread that asked for it: for simulations alone.
//!
//! A simulation runs thousands of peers on one thread, which check one packet's signature a thousand times and compute both ends of every key agreement. A check is a function of
//! key, message and signature, and X25519 gives both ends the same (`a * bG = b * aG`): what was computed once is what would be computed again, to the last bit, so no result of a
//! simulation depends on this module. It is compiled under the feature `memo` alone, which no product enables, and does nothing on a thread that did not call [`remember`]: what is
//! remembered are secrets, in ordinary memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;

use crate::sodium::Blake2b;

/// What one thread remembers.
struct Memo {
    /// Whether a signature is genuine, by the hash of key, signature and message.
    genuine: Generations<[u8; 32], bool>,
    /// The public keys of secret ones.
    publics: Generations<[u8; 32], [u8; 32]>,
    /// What two public keys, the lesser first, agree on.
    shared: Generations<[[u8; 32]; 2], Option<[u8; 32]>>,
    /// The X25519 forms of Ed25519 keys.
    exchange: Generations<[u8; 32], Option<[u8; 32]>>,
}

thread_local! {
    static MEMO: RefCell<Option<Box<Memo>>> = const { RefCell::new(None) };
}

/// From now on this thread remembers up to twice `results` of each function, about 100 bytes each; what it remembered before is forgotten.
pub fn remember(results: usize) {
    let memo = Memo {
        genuine: Generations::new(results),
        publics: Generations::new(results),
        shared: Generations::new(results),
        exchange: Generations::new(results),
    };
    MEMO.with_borrow_mut(|slot| *slot = Some(Box::new(memo)));
}

/// Ends what [`remember`] began.
pub fn forget() {
    MEMO.with_borrow_mut(|slot| *slot = None);
}

pub(crate) fn genuine(public: &[u8; 32], message: &[u8], signature: &[u8; 64], check: impl FnOnce() -> bool) -> bool {
    MEMO.with_borrow_mut(|memo| match memo {
        Some(memo) => {
            let mut hash = Blake2b::new(&[]);
            hash.update(public).update(signature).update(message);
            memo.genuine.get_or_insert(hash.finish(), check)
        }
        None => check(),
    })
}

pub(crate) fn public(secret: &[u8; 32], compute: impl FnOnce() -> [u8; 32]) -> [u8; 32] {
    MEMO.with_borrow_mut(|memo| match memo {
        Some(memo) => memo.publics.get_or_insert(*secret, compute),
        None => compute(),
    })
}

pub(crate) fn shared(secret: &[u8; 32], public: &[u8; 32], compute: impl FnOnce() -> Option<[u8; 32]>) -> Option<[u8; 32]> {
    MEMO.with_borrow_mut(|memo| match memo {
        Some(memo) => match memo.publics.get(secret) {
            Some(own) => memo.shared.get_or_insert([own.min(*public), own.max(*public)], compute),
            None => compute(),
        },
        None => compute(),
    })
}

pub(crate) fn exchange(public: &[u8; 32], compute: impl FnOnce() -> Option<[u8; 32]>) -> Option<[u8; 32]> {
    MEMO.with_borrow_mut(|memo| match memo {
        Some(memo) => memo.exchange.get_or_insert(*public, compute),
        None => compute(),
    })
}

/// A bounded map: when as many are new as it may hold, those that were not asked for since the last time are forgotten.
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    most: usize,
}

impl<K: Hash + Eq, V: Copy> Generations<K, V> {
    fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), most }
    }

    fn get(&mut self, key: &K) -> Option<V>
    where
        K: Copy,
    {
        if let Some(value) = self.young.get(key) {
            return Some(*value);
        }
        let value = self.old.remove(key)?;
        self.insert(*key, value);
        Some(value)
    }

    fn get_or_insert(&mut self, key: K, compute: impl FnOnce() -> V) -> V
    where
        K: Copy,
    {
        self.get(&key).unwrap_or_else(|| {
            let value = compute();
            self.insert(key, value);
            value
        })
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.most {
            self.old = core::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sodium::{ed25519_keypair, ed25519_sign, ed25519_to_x25519, ed25519_verify, x25519, x25519_public};

    /// Everything that is remembered, of a few keys that are used again and again, some of them invalid.
    fn results() -> impl PartialEq + core::fmt::Debug {
        let mut results = Vec::new();
        for round in 0..40u8 {
            let (a, b) = ([round % 7; 32], [round % 5 + 10; 32]);
            let (public_a, public_b) = (x25519_public(&a), x25519_public(&b));
            let mut signing = [0; 64];
            let id = ed25519_keypair(&a, &mut signing);
            let mut signature = ed25519_sign(&signing, &[round % 3]);
            signature[0] ^= round % 2;
            results.push((
                [x25519(&a, &public_b), x25519(&b, &public_a), x25519(&a, &[0; 32]), x25519(&[round; 32], &public_a)],
                [ed25519_to_x25519(&id), ed25519_to_x25519(&[round % 4; 32])],
                [ed25519_verify(&id, &[round % 3], &signature), ed25519_verify(&id, &[9], &signature)],
            ));
        }
        results
    }

    #[test]
    fn what_is_remembered_is_what_would_be_computed() {
        let computed = results();
        for most in [1, 4, 1000] {
            remember(most);
            assert_eq!(results(), computed, "{most} remembered");
            forget();
        }
    }

    #[test]
    fn no_more_is_remembered_than_said_and_what_is_asked_for_stays() {
        let mut map = Generations::new(10);
        for n in 0..1000 {
            assert_eq!(map.get_or_insert(n, || n), n);
            assert_eq!(map.get_or_insert(0, || panic!("it was asked for a moment ago")), 0);
            assert!(map.young.len() + map.old.len() <= 20);
        }
        assert_eq!(map.get(&1), None);
    }
}
