//! Sealing for one device: only it can open, and it knows who sealed.
//!
//! A fresh key agreement with the recipient's key; inside, the sender's id and signature, which also covers the recipient: who opens it can show to others who wrote it,
//! but cannot pass it on as if it had been meant for someone else.

use peers_wire::{PeerId, Reader, Signature};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{DeviceKey, Domain, Forged, derive, exchange_key, verify};
use crate::sodium::{self, CHACHA, POLY_TAG};

/// Bytes that [`seal_to`] adds: ephemeral key 32, sender 32, signature 64, tag 16.
pub const SEALED_OVERHEAD: usize = 32 + INNER + POLY_TAG;

const INNER: usize = PeerId::LEN + Signature::LEN;

/// The id is no valid public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the id is not a valid public key")]
pub struct InvalidKey;

/// Why something sealed was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnsealError {
    /// Too short to be sealed.
    #[error("too short to be sealed")]
    Truncated,
    /// Not sealed for this device, or altered.
    #[error("not sealed for this device, or altered")]
    NotGenuine,
    /// The sender's signature is not genuine.
    #[error("the sender's signature is not genuine")]
    Sender(Forged),
}

/// Seals `plaintext` from `sender` for `recipient`; [`SEALED_OVERHEAD`] bytes longer; about 80 us.
///
/// # Errors
/// [`InvalidKey`] if `recipient` is no valid key.
pub fn seal_to(sender: &DeviceKey, recipient: PeerId, plaintext: &[u8], rng: &mut impl CryptoRng) -> Result<Vec<u8>, InvalidKey> {
    let recipient_public = exchange_key(&recipient).ok_or(InvalidKey)?;
    let mut secret = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *secret);
    let ephemeral = sodium::x25519_public(&secret);
    let shared = Zeroizing::new(sodium::x25519(&secret, &recipient_public).ok_or(InvalidKey)?);
    let mut inner = Zeroizing::new(Vec::with_capacity(INNER + plaintext.len()));
    inner.extend_from_slice(&sender.id().0);
    inner.extend_from_slice(&sender.sign(Domain::SEALED, &[&recipient.0, &ephemeral, plaintext]).0);
    inner.extend_from_slice(plaintext);
    let mut sealed = Vec::with_capacity(SEALED_OVERHEAD + plaintext.len());
    sealed.extend_from_slice(&ephemeral);
    CHACHA.seal(&message_key(&shared, &ephemeral, &recipient), &[0; 12], &[], &inner, &mut sealed);
    Ok(sealed)
}

/// Opens what [`seal_to`] made for `key`: the sender, proven, and the plaintext; about 70 us.
///
/// # Errors
/// [`UnsealError`]
pub fn open_from(key: &DeviceKey, sealed: &[u8]) -> Result<(PeerId, Vec<u8>), UnsealError> {
    let (ephemeral, text) = sealed.split_first_chunk::<32>().ok_or(UnsealError::Truncated)?;
    if text.len() < INNER + POLY_TAG {
        return Err(UnsealError::Truncated);
    }
    let shared = key.exchange(ephemeral).ok_or(UnsealError::NotGenuine)?;
    let mut text = Zeroizing::new(text.to_vec());
    let inner = CHACHA.open(&message_key(&shared, ephemeral, &key.id()), &[0; 12], &[], &mut text).ok_or(UnsealError::NotGenuine)?;
    let mut reader = Reader::new(inner);
    let (Ok(sender), Ok(signature)) = (reader.array(), reader.array()) else { return Err(UnsealError::Truncated) };
    let (sender, plaintext) = (PeerId(sender), reader.rest());
    verify(&sender, Domain::SEALED, &[&key.id().0, ephemeral, plaintext], &Signature(signature)).map_err(UnsealError::Sender)?;
    Ok((sender, plaintext.to_vec()))
}

/// Used once, as the ephemeral key is: so its nonce is zero.
fn message_key(shared: &[u8; 32], ephemeral: &[u8; 32], recipient: &PeerId) -> Zeroizing<[u8; 32]> {
    let mut key = derive(shared, "peers sealed", &[ephemeral, &recipient.0]);
    let out = Zeroizing::new(key);
    key.zeroize();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn keys() -> [DeviceKey; 3] {
        [1, 2, 3].map(|seed| DeviceKey::from_seed(&[seed; 32]))
    }

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(4)
    }

    #[test]
    fn only_the_recipient_opens_and_learns_the_sender() {
        let [alice, bob, carol] = keys();
        let sealed = seal_to(&alice, bob.id(), b"hello", &mut rng()).unwrap();
        assert_eq!(sealed.len(), SEALED_OVERHEAD + 5);
        assert_eq!(open_from(&bob, &sealed), Ok((alice.id(), b"hello".to_vec())));
        assert_eq!(open_from(&carol, &sealed), Err(UnsealError::NotGenuine));
        assert!(!sealed.windows(32).any(|window| window == alice.id().0));
        assert_eq!(seal_to(&alice, PeerId([0; 32]), b"", &mut rng()), Err(InvalidKey));
    }

    #[test]
    fn altered_or_truncated_it_does_not_open() {
        let [alice, bob, _] = keys();
        let sealed = seal_to(&alice, bob.id(), b"hello", &mut rng()).unwrap();
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open_from(&bob, &altered).is_err() && open_from(&bob, &sealed[..at]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_recipient_cannot_pass_it_on_as_if_meant_for_another() {
        let [alice, bob, carol] = keys();
        let sealed = seal_to(&alice, bob.id(), b"you are fired", &mut rng()).unwrap();
        let ephemeral: [u8; 32] = sealed[..32].try_into().unwrap();
        let shared = bob.exchange(&ephemeral).unwrap();
        let mut text = sealed[32..].to_vec();
        let inner = CHACHA.open(&message_key(&shared, &ephemeral, &bob.id()), &[0; 12], &[], &mut text).unwrap().to_vec();
        // Bob seals the opened content, signature included, for Carol.
        let secret = [9; 32];
        let fresh = sodium::x25519_public(&secret);
        let shared = sodium::x25519(&secret, carol.exchange_public()).unwrap();
        let mut passed_on = fresh.to_vec();
        CHACHA.seal(&message_key(&shared, &fresh, &carol.id()), &[0; 12], &[], &inner, &mut passed_on);
        assert_eq!(open_from(&carol, &passed_on), Err(UnsealError::Sender(Forged)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open_from(&keys()[0], &bytes).is_err());
        }

        #[test]
        fn what_is_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 0..300), seed: u64) {
            let [alice, bob, _] = keys();
            let sealed = seal_to(&alice, bob.id(), &plaintext, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
            prop_assert_eq!(open_from(&bob, &sealed), Ok((alice.id(), plaintext)));
        }
    }
}
