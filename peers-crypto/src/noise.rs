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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sodium::{x25519, x25519_public};
    use serde_json::Value;

    fn hex(value: &Value) -> Vec<u8> {
        let text = value.as_str().unwrap().as_bytes();
        text.as_chunks::<2>().0.iter().map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn key(value: &Value) -> [u8; 32] {
        hex(value).try_into().unwrap()
    }

    /// What both sides do at a token: `write` is the side that writes the message.
    struct Side {
        state: Symmetric,
        initiator: bool,
        fixed: [u8; 32],
        ephemeral: [u8; 32],
        remote_fixed: [u8; 32],
        remote_ephemeral: [u8; 32],
    }

    impl Side {
        fn agree(&mut self, token: &str) {
            let (mine, theirs) = match (token, self.initiator) {
                ("ee", _) => (self.ephemeral, self.remote_ephemeral),
                ("ss", _) => (self.fixed, self.remote_fixed),
                ("es", true) | ("se", false) => (self.ephemeral, self.remote_fixed),
                ("se", true) | ("es", false) => (self.fixed, self.remote_ephemeral),
                other => panic!("{other:?} is no token"),
            };
            self.state.mix_key(&x25519(&mine, &theirs).unwrap());
        }

        fn write(&mut self, tokens: &[&str], payload: &[u8]) -> Vec<u8> {
            let mut out = Vec::new();
            for token in tokens {
                match *token {
                    "e" => {
                        let public = x25519_public(&self.ephemeral);
                        self.state.mix_hash(&public);
                        out.extend_from_slice(&public);
                    }
                    "s" => self.state.encrypt(&x25519_public(&self.fixed), &mut out),
                    token => self.agree(token),
                }
            }
            self.state.encrypt(payload, &mut out);
            out
        }

        fn read(&mut self, tokens: &[&str], mut message: &[u8]) -> Vec<u8> {
            for token in tokens {
                match *token {
                    "e" => {
                        let (public, rest) = message.split_first_chunk().unwrap();
                        (self.remote_ephemeral, message) = (*public, rest);
                        self.state.mix_hash(public);
                    }
                    "s" => {
                        let (sealed, rest) = message.split_at(48);
                        message = rest;
                        self.remote_fixed = self.state.decrypt(sealed).unwrap().try_into().unwrap();
                    }
                    token => self.agree(token),
                }
            }
            self.state.decrypt(message).unwrap()
        }
    }

    #[test]
    fn the_published_vectors_of_ik_and_xx_hold() {
        let file: Value = serde_json::from_str(include_str!("../vectors/noise.json")).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 4);
        for vector in vectors {
            let protocol = vector["protocol_name"].as_str().unwrap();
            let ik = protocol.contains("_IK_");
            let patterns: &[&[&str]] =
                if ik { &[&["e", "es", "s", "ss"], &["e", "ee", "se"]] } else { &[&["e"], &["e", "ee", "s", "es"], &["s", "se"]] };
            let responder_public = x25519_public(&key(&vector["resp_static"]));
            let side = |prefix: &str| {
                let mut state = Symmetric::new(protocol, &[&hex(&vector[format!("{prefix}_prologue")])]);
                if ik {
                    state.mix_hash(&responder_public);
                }
                let initiator = prefix == "init";
                Side {
                    state,
                    initiator,
                    fixed: key(&vector[format!("{prefix}_static")]),
                    ephemeral: key(&vector[format!("{prefix}_ephemeral")]),
                    remote_fixed: if ik && initiator { responder_public } else { [0; 32] },
                    remote_ephemeral: [0; 32],
                }
            };
            let mut sides = [side("init"), side("resp")];
            let messages = vector["messages"].as_array().unwrap();
            for (i, message) in messages.iter().enumerate() {
                let (payload, expected) = (hex(&message["payload"]), hex(&message["ciphertext"]));
                let Some(tokens) = patterns.get(i) else {
                    // Transport: the sides go on in turns, each direction with its own key and counter.
                    let (there, back) = sides[0].state.split();
                    let (keys, turn) = ([there, back], i % 2);
                    let count = (patterns.len()..i).filter(|earlier| earlier % 2 == turn).count() as u64;
                    let mut out = Vec::new();
                    CHACHA.seal(&keys[turn], &nonce(count), &[], &payload, &mut out);
                    assert_eq!(out, expected, "{protocol} message {i}");
                    continue;
                };
                assert_eq!(sides[i % 2].write(tokens, &payload), expected, "{protocol} message {i}");
                assert_eq!(sides[1 - i % 2].read(tokens, &expected), payload);
            }
            assert!(messages.len() > patterns.len() + 1);
            assert_eq!(sides[0].state.transcript, sides[1].state.transcript);
            // Those of snow do not say.
            if !vector["handshake_hash"].is_null() {
                assert_eq!(sides[0].state.transcript[..], hex(&vector["handshake_hash"])[..]);
            }
        }
    }
}
