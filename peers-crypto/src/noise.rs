//! The symmetric half of the Noise protocol framework with ChaChaPoly and BLAKE2b.
//!
//! Source: Perrin, "The Noise Protocol Framework", revision 34, section 5.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::sodium::{Blake2b, CHACHA};

const HASH: usize = 64;
const BLOCK: usize = 128;

/// Chaining key, transcript hash and present cipher key: `SymmetricState` and its `CipherState`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Symmetric {
    chaining: [u8; HASH],
    transcript: [u8; HASH],
    key: Option<[u8; 32]>,
    nonce: u64,
}

impl Symmetric {
    /// `Initialize`, and `MixHash` of the prologue; a protocol name has at most 64 bytes.
    pub(crate) fn new(protocol: &str, prologue: &[&[u8]]) -> Self {
        let mut name = [0; HASH];
        name[..protocol.len()].copy_from_slice(protocol.as_bytes());
        let mut this = Self { chaining: name, transcript: name, key: None, nonce: 0 };
        this.mix(prologue);
        this
    }

    /// `MixHash`.
    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.mix(&[data]);
    }

    fn mix(&mut self, parts: &[&[u8]]) {
        let mut hash = Blake2b::new(&[]);
        hash.update(&self.transcript);
        for part in parts {
            hash.update(part);
        }
        self.transcript = hash.finish();
    }

    /// `MixKey`.
    pub(crate) fn mix_key(&mut self, input: &[u8; 32]) {
        let (chaining, key) = hkdf(&self.chaining, input);
        self.chaining = *chaining;
        self.key = Some(first_half(&key));
        self.nonce = 0;
    }

    /// `EncryptAndHash`: appends to `out`. Before the first `MixKey` the plaintext goes as it is.
    pub(crate) fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        match &self.key {
            None => out.extend_from_slice(plaintext),
            Some(key) => {
                CHACHA.seal(key, &nonce(self.nonce), &self.transcript, plaintext, out);
                self.nonce += 1;
            }
        }
        self.mix(&[&out[start..]]);
    }

    /// `DecryptAndHash`; `None` if it is not genuine: this state is then of no further use.
    pub(crate) fn decrypt(&mut self, ciphertext: &[u8]) -> Option<Vec<u8>> {
        let mut text = ciphertext.to_vec();
        if let Some(key) = &self.key {
            let length = CHACHA.open(key, &nonce(self.nonce), &self.transcript, &mut text)?.len();
            text.truncate(length);
            self.nonce += 1;
        }
        self.mix(&[ciphertext]);
        Some(text)
    }

    /// `Split`: the keys from initiator to responder and back.
    pub(crate) fn split(&self) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
        let (there, back) = hkdf(&self.chaining, &[]);
        (Zeroizing::new(first_half(&there)), Zeroizing::new(first_half(&back)))
    }
}

/// The nonce of ChaChaPoly: four zero bytes, then the counter, little-endian.
pub(crate) fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

fn first_half(bytes: &[u8; HASH]) -> [u8; 32] {
    let mut half = [0; 32];
    half.copy_from_slice(&bytes[..32]);
    half
}

/// `HKDF` with two outputs.
fn hkdf(chaining: &[u8; HASH], input: &[u8]) -> (Zeroizing<[u8; HASH]>, Zeroizing<[u8; HASH]>) {
    let temporary = hmac(chaining, &[input]);
    let first = hmac(&temporary, &[&[1]]);
    let second = hmac(&temporary, &[&*first, &[2]]);
    (first, second)
}

/// HMAC (RFC 2104) with BLAKE2b-512.
fn hmac(key: &[u8; HASH], parts: &[&[u8]]) -> Zeroizing<[u8; HASH]> {
    let pad = |byte: u8| {
        let mut block = Zeroizing::new([byte; BLOCK]);
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let mut inner = Blake2b::<HASH>::new(&[]);
    inner.update(&*pad(0x36));
    for part in parts {
        inner.update(part);
    }
    let mut outer = Blake2b::<HASH>::new(&[]);
    outer.update(&*pad(0x5c)).update(&inner.finish());
    Zeroizing::new(outer.finish())
}
