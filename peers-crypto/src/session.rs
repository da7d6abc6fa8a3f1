//! An established session: seals and opens data datagrams, with a replay window.

use core::fmt;
use core::time::Duration;

use bytes::Bytes;
use peers_wire::{DecodeError, Reader};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::keys::keyed_hash;
use crate::noise::nonce;
use crate::sodium::{AEGIS, AEGIS_TAG, CHACHA, POLY_TAG};

/// Bytes before the ciphertext of a data datagram: kind 1, receiver's index 4, counter 8.
pub const DATA_HEADER: usize = 13;
/// Bytes that a datagram may have, so that it passes wherever IPv6 does, and through VPNs.
pub const MAX_DATAGRAM: usize = 1200;
/// Bytes of the header under which a relay passes a datagram on: kind 1, route 8.
pub const RELAY_HEADER: usize = 9;
/// Bytes of plaintext that fit a data datagram that may be relayed.
pub const MAX_PLAINTEXT: usize = MAX_DATAGRAM - RELAY_HEADER - DATA_HEADER - POLY_TAG;
/// Bytes of plaintext up to which a session that agreed on [`Cipher::Aegis128l`] uses it; longer ones are sealed with ChaCha20-Poly1305, whose tag is shorter.
pub const MAX_AEGIS_PLAINTEXT: usize = MAX_DATAGRAM - RELAY_HEADER - DATA_HEADER - AEGIS_TAG;
/// Age at which a session should be replaced by a new handshake, for forward secrecy.
pub const REKEY_AFTER: Duration = Duration::from_secs(600);
/// Datagrams in one direction after which a session should be replaced.
pub const REKEY_AFTER_DATAGRAMS: u64 = 1 << 32;
/// Reach of the replay window: a datagram that so many newer ones have overtaken is dropped.
pub const REPLAY_WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// Kind byte of a data datagram.
pub(crate) const DATA: u8 = 4;
/// Set in the counter field of a datagram that is sealed with ChaCha20-Poly1305 although the session agreed on AEGIS.
const LONG: u64 = 1 << 63;
/// Counters end here, far beyond what can be sent.
const MAX_COUNTER: u64 = 1 << 60;
const WORDS: usize = 64;

/// How the data datagrams of a session are sealed; agreed inside the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// ChaCha20-Poly1305 (RFC 8439): fast everywhere.
    ChaCha20Poly1305 = 1,
    /// AEGIS-128L (draft-irtf-cfrg-aegis-aead): several times faster where both processors do AES in hardware.
    Aegis128l = 2,
}

/// Why a data datagram was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// It is not a data datagram.
    #[error("not a data datagram: {0}")]
    Malformed(#[from] DecodeError),
    /// It was opened before.
    #[error("datagram {0} was received before")]
    Replayed(u64),
    /// [`REPLAY_WINDOW`] newer ones have overtaken it.
    #[error("datagram {0} is too old")]
    TooOld(u64),
    /// It was not sealed by the other end of this session.
    #[error("the datagram is not genuine")]
    Forged,
}

/// One end of an established session.
///
/// Seals each datagram under its own counter; opens each at most once, in any order within [`REPLAY_WINDOW`]. It knows no addresses: a datagram is as good from
/// anywhere, so that a peer may roam.
pub struct Session {
    local_index: u32,
    remote_index: u32,
    cipher: Cipher,
    sending: Keys,
    receiving: Keys,
    sent: u64,
    received: u64,
    confirmed: bool,
    window: Window,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Keys {
    chacha: [u8; 32],
    aegis: [u8; 16],
    aegis_nonce: [u8; 16],
}

impl Session {
    /// `sending` and `receiving` are the keys of the Noise handshake's split.
    pub(crate) fn new(cipher: Cipher, indices: (u32, u32), sending: &[u8; 32], receiving: &[u8; 32], confirmed: bool) -> Self {
        let (sending, receiving) = (Keys::new(sending), Keys::new(receiving));
        let (local_index, remote_index) = indices;
        Self { local_index, remote_index, cipher, sending, receiving, sent: 0, received: 0, confirmed, window: Window::default() }
    }

    /// Appends the datagram that carries `plaintext` to `out`: [`DATA_HEADER`] and tag (16 or 32 bytes) longer. Allocates only if `out` has no room.
    ///
    /// At most [`MAX_PLAINTEXT`] bytes leave room for a relay's header within [`MAX_DATAGRAM`].
    #[inline]
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let counter = self.sent;
        assert!(counter < MAX_COUNTER, "a session that is never replaced");
        self.sent += 1;
        let aegis = self.cipher == Cipher::Aegis128l && plaintext.len() <= MAX_AEGIS_PLAINTEXT;
        let long = self.cipher == Cipher::Aegis128l && !aegis;
        out.reserve(DATA_HEADER + plaintext.len() + if aegis { AEGIS_TAG } else { POLY_TAG });
        let mut header = [DATA; DATA_HEADER];
        header[1..5].copy_from_slice(&self.remote_index.to_be_bytes());
        header[5..].copy_from_slice(&(if long { counter | LONG } else { counter }).to_be_bytes());
        out.extend_from_slice(&header);
        if aegis {
            AEGIS.seal(&self.sending.aegis, &self.sending.nonce(counter), &[], plaintext, out);
        } else {
            CHACHA.seal(&self.sending.chacha, &nonce(counter), &[], plaintext, out);
        }
    }

    /// Leaves out `count` counters, as if as many datagrams had been sealed and lost.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn skip(&mut self, count: u64) {
        self.sent += count;
    }

    /// Decrypts a data datagram where it lies and returns the plaintext within it; allocates nothing. A forged one is left zeroed.
    ///
    /// # Errors
    /// [`OpenError`]; the session is unchanged.
    ///
    /// Source: RFC 6479 for the window.
    #[inline]
    pub fn open_in_place<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let (counter, aegis) = self.admit(datagram)?;
        let sealed = &mut datagram[DATA_HEADER..];
        let opened = if aegis {
            AEGIS.open(&self.receiving.aegis, &self.receiving.nonce(counter), &[], sealed)
        } else {
            CHACHA.open(&self.receiving.chacha, &nonce(counter), &[], sealed)
        };
        let plaintext = opened.ok_or(OpenError::Forged)?;
        self.opened(counter);
        Ok(plaintext)
    }

    /// As [`Session::open_in_place`] where the buffer of the datagram belongs to it alone; where it is shared, decrypts into a new one. Either way each byte is touched once.
    ///
    /// # Errors
    /// [`OpenError`]; the session is unchanged.
    pub fn open(&mut self, datagram: Bytes) -> Result<Bytes, OpenError> {
        match datagram.try_into_mut() {
            Ok(mut buffer) => {
                let length = self.open_in_place(&mut buffer)?.len();
                Ok(buffer.freeze().slice(DATA_HEADER..DATA_HEADER + length))
            }
            Err(shared) => {
                let (counter, aegis) = self.admit(&shared)?;
                let sealed = &shared[DATA_HEADER..];
                let opened = if aegis {
                    AEGIS.open_apart(&self.receiving.aegis, &self.receiving.nonce(counter), &[], sealed)
                } else {
                    CHACHA.open_apart(&self.receiving.chacha, &nonce(counter), &[], sealed)
                };
                let plaintext = opened.ok_or(OpenError::Forged)?;
                self.opened(counter);
                Ok(plaintext.into())
            }
        }
    }

    /// The counter of a datagram that may be opened, and whether it is sealed with AEGIS.
    #[inline]
    fn admit(&self, datagram: &[u8]) -> Result<(u64, bool), OpenError> {
        let mut reader = Reader::new(datagram);
        let (kind, _index, field) = (reader.u8()?, reader.u32()?, reader.u64()?);
        let counter = field & !LONG;
        let long = field != counter;
        if kind != DATA || (long && self.cipher == Cipher::ChaCha20Poly1305) || counter >= MAX_COUNTER {
            return Err(DecodeError::Kind(kind).into());
        }
        self.window.check(counter)?;
        Ok((counter, self.cipher == Cipher::Aegis128l && !long))
    }

    /// The datagram of this counter was genuine.
    #[inline]
    fn opened(&mut self, counter: u64) {
        self.window.mark(counter);
        self.received += 1;
        self.confirmed = true;
    }

    /// The index by which the other end addresses this session.
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Datagrams sealed.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Datagrams opened.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Whether the other end has shown that it holds the session's keys.
    ///
    /// The responder of an IK handshake must not send before: the initiation may have been a replay. Its first opened datagram confirms it.
    pub const fn confirmed(&self) -> bool {
        self.confirmed
    }

    /// The agreed cipher.
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Whether a session of this age should be replaced by a new handshake: after [`REKEY_AFTER`] or [`REKEY_AFTER_DATAGRAMS`].
    pub fn should_rekey(&self, age: Duration) -> bool {
        age >= REKEY_AFTER || self.sent.max(self.window.next) >= REKEY_AFTER_DATAGRAMS
    }
}

impl fmt::Debug for Session {
    /// Everything but the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("cipher", &self.cipher)
            .field("sent", &self.sent)
            .field("received", &self.received)
            .field("confirmed", &self.confirmed)
            .finish_non_exhaustive()
    }
}

impl Keys {
    fn new(key: &[u8; 32]) -> Self {
        let mut material = keyed_hash(key, &[b"peers aegis-128l"]);
        let mut this = Self { chacha: *key, aegis: [0; 16], aegis_nonce: [0; 16] };
        this.aegis.copy_from_slice(&material[..16]);
        this.aegis_nonce.copy_from_slice(&material[16..]);
        material.zeroize();
        this
    }

    /// The nonce of AEGIS: the counter, big-endian, exclusive-ored into both halves of the secret start.
    ///
    /// Both, so that it is stored at once: the cipher loads all 16 bytes, and would wait for two stores a tenth of the time that it takes for a datagram.
    #[inline]
    fn nonce(&self, counter: u64) -> [u8; 16] {
        let counter = counter.to_be_bytes();
        core::array::from_fn(|i| self.aegis_nonce[i] ^ counter[i % 8])
    }
}

/// Which counters were seen: a ring of bits, whole words of which are cleared as the window moves (RFC 6479).
struct Window {
    /// One more than the largest counter seen.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }
}

impl Window {
    fn place(counter: u64) -> (usize, u64) {
        let word = (counter / 64) % WORDS as u64;
        (usize::try_from(word).unwrap_or(0), 1 << (counter % 64))
    }

    fn check(&self, counter: u64) -> Result<(), OpenError> {
        if counter >= self.next {
            return Ok(());
        }
        if self.next - counter > REPLAY_WINDOW {
            return Err(OpenError::TooOld(counter));
        }
        let (word, bit) = Self::place(counter);
        if self.seen[word] & bit == 0 { Ok(()) } else { Err(OpenError::Replayed(counter)) }
    }

    /// Marks a counter that passed `check`.
    fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            let old = self.next.saturating_sub(1) / 64;
            let fresh = (counter / 64).saturating_sub(old).min(WORDS as u64);
            for word in 1..=fresh {
                self.seen[Self::place((old + word) * 64).0] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = Self::place(counter);
        self.seen[word] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_window_accepts_what_a_set_of_all_counters_would(steps in prop::collection::vec((any::<bool>(), 0u64..6000), 1..400)) {
            let (mut window, mut seen, mut top) = (Window::default(), BTreeSet::new(), 0u64);
            for (forward, step) in steps {
                let counter = if forward { top + step % 200 * (step % 7) } else { top.saturating_sub(step) };
                let expected = if seen.last().is_some_and(|last| last + 1 - counter.min(last + 1) > REPLAY_WINDOW) {
                    Err(OpenError::TooOld(counter))
                } else if seen.contains(&counter) {
                    Err(OpenError::Replayed(counter))
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.check(counter), expected);
                if expected.is_ok() {
                    window.mark(counter);
                    seen.insert(counter);
                    top = top.max(counter);
                }
            }
        }
    }
}
