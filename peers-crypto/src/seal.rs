//! Sealing for one device, or for every device of a user: only these can open, and they know who sealed.
//!
//! A fresh key agreement with the recipient's key; inside, the sender's id and signature, which also covers the recipient: who opens it can show to others who wrote it,
//! but cannot pass it on as if it had been meant for someone else.

use peers_wire::{PeerId, Reader, Signature};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::group::Group;
use crate::keys::{DeviceKey, Domain, Forged, derive, exchange_key, verify};
use crate::sodium::{self, CHACHA, POLY_TAG};
use crate::statement::GroupId;

/// Bytes that [`seal_to`] adds: ephemeral key 32, sender 32, signature 64, tag 16.
pub const SEALED_OVERHEAD: usize = 32 + INNER + POLY_TAG;
/// Devices that [`seal_to_user`] seals for.
pub const MAX_USER_DEVICES: usize = 255;

const INNER: usize = PeerId::LEN + Signature::LEN;
/// A message key, sealed for one of several devices.
const WRAP: usize = 32 + POLY_TAG;

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
    /// Not sealed for this device, or for another use, or altered.
    #[error("not sealed for this device, or altered")]
    NotGenuine,
    /// The sender's signature is not genuine.
    #[error("the sender's signature is not genuine")]
    Sender(Forged),
}

/// Seals `plaintext` from `sender` for `recipient`; [`SEALED_OVERHEAD`] bytes longer; about 80 us.
///
/// - `context`: what it is for; it opens for nothing else
///
/// # Errors
/// [`InvalidKey`] if `recipient` is no valid key.
pub fn seal_to(
    sender: &DeviceKey,
    recipient: PeerId,
    context: &str,
    plaintext: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, InvalidKey> {
    let (secret, ephemeral) = ephemeral(rng);
    let key = key_for(&secret, &ephemeral, recipient, context)?;
    let inner = signed(sender, &recipient.0, &ephemeral, context, plaintext);
    let mut sealed = Vec::with_capacity(SEALED_OVERHEAD + plaintext.len());
    sealed.extend_from_slice(&ephemeral);
    // Used once, as the ephemeral key is: so the nonce is zero.
    CHACHA.seal(&key, &[0; 12], &[], &inner, &mut sealed);
    Ok(sealed)
}

/// Opens what [`seal_to`] made for `key`: the sender, proven, and the plaintext; about 70 us.
///
/// # Errors
/// [`UnsealError`]
pub fn open_from(key: &DeviceKey, context: &str, sealed: &[u8]) -> Result<(PeerId, Vec<u8>), UnsealError> {
    let (ephemeral, text) = sealed.split_first_chunk::<32>().ok_or(UnsealError::Truncated)?;
    let shared = key.exchange(ephemeral).ok_or(UnsealError::NotGenuine)?;
    open_inner(&message_key(&shared, ephemeral, key.id(), context), &key.id().0, ephemeral, context, text)
}

/// Seals `plaintext` from `sender` for every device of `user`, without saying which these are; about 60 us for each.
///
/// Layout: ephemeral key 32, number of devices 1, for each the message key sealed 48, the content sealed.
///
/// # Errors
/// [`InvalidKey`] if there are more than [`MAX_USER_DEVICES`].
pub fn seal_to_user(
    sender: &DeviceKey,
    user: &Group,
    context: &str,
    plaintext: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, InvalidKey> {
    let devices: Vec<_> = user.members().map(|member| member.id).collect();
    let count = u8::try_from(devices.len()).map_err(|_| InvalidKey)?;
    let (secret, ephemeral) = ephemeral(rng);
    let mut message = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *message);
    let mut sealed = ephemeral.to_vec();
    sealed.push(count);
    for device in devices {
        CHACHA.seal(&*key_for(&secret, &ephemeral, device, context)?, &[0; 12], &[], &*message, &mut sealed);
    }
    let inner = signed(sender, &user.id().0, &ephemeral, context, plaintext);
    CHACHA.seal(&message, &[0; 12], &[], &inner, &mut sealed);
    Ok(sealed)
}

/// Opens what [`seal_to_user`] made for `user`, a device of which is `key`: the sender, proven, and the plaintext.
///
/// # Errors
/// [`UnsealError`]
pub fn open_from_user(key: &DeviceKey, user: GroupId, context: &str, sealed: &[u8]) -> Result<(PeerId, Vec<u8>), UnsealError> {
    let (ephemeral, rest) = sealed.split_first_chunk::<32>().ok_or(UnsealError::Truncated)?;
    let (count, rest) = rest.split_first().ok_or(UnsealError::Truncated)?;
    let (wraps, text) = rest.split_at_checked(usize::from(*count) * WRAP).ok_or(UnsealError::Truncated)?;
    let shared = key.exchange(ephemeral).ok_or(UnsealError::NotGenuine)?;
    let mine = message_key(&shared, ephemeral, key.id(), context);
    let message = wraps.as_chunks::<WRAP>().0.iter().find_map(|wrap| {
        let mut wrap = Zeroizing::new(*wrap);
        let opened = CHACHA.open(&mine, &[0; 12], &[], &mut *wrap)?;
        opened.first_chunk().map(|key| Zeroizing::new(*key))
    });
    open_inner(&*message.ok_or(UnsealError::NotGenuine)?, &user.0, ephemeral, context, text)
}

fn ephemeral(rng: &mut impl CryptoRng) -> (Zeroizing<[u8; 32]>, [u8; 32]) {
    let mut secret = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *secret);
    let public = sodium::x25519_public(&secret);
    (secret, public)
}

fn key_for(secret: &[u8; 32], ephemeral: &[u8; 32], recipient: PeerId, context: &str) -> Result<Zeroizing<[u8; 32]>, InvalidKey> {
    let public = exchange_key(&recipient).ok_or(InvalidKey)?;
    let shared = Zeroizing::new(sodium::x25519(secret, &public).ok_or(InvalidKey)?);
    Ok(message_key(&shared, ephemeral, recipient, context))
}

fn message_key(shared: &[u8; 32], ephemeral: &[u8; 32], recipient: PeerId, context: &str) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(derive(shared, "peers sealed", &[ephemeral, &recipient.0, context.as_bytes()]))
}

/// Sender, its signature, plaintext. The audience is signed: a device's id, or a user's.
fn signed(sender: &DeviceKey, audience: &[u8; 32], ephemeral: &[u8; 32], context: &str, plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut inner = Zeroizing::new(Vec::with_capacity(INNER + plaintext.len()));
    inner.extend_from_slice(&sender.id().0);
    inner.extend_from_slice(&sender.sign(Domain::SEALED, &[context.as_bytes(), audience, ephemeral, plaintext]).0);
    inner.extend_from_slice(plaintext);
    inner
}

fn open_inner(
    key: &[u8; 32],
    audience: &[u8; 32],
    ephemeral: &[u8; 32],
    context: &str,
    text: &[u8],
) -> Result<(PeerId, Vec<u8>), UnsealError> {
    if text.len() < INNER + POLY_TAG {
        return Err(UnsealError::Truncated);
    }
    let mut text = Zeroizing::new(text.to_vec());
    let inner = CHACHA.open(key, &[0; 12], &[], &mut text).ok_or(UnsealError::NotGenuine)?;
    let mut reader = Reader::new(inner);
    let (Ok(sender), Ok(signature)) = (reader.array(), reader.array()) else { return Err(UnsealError::Truncated) };
    let (sender, plaintext) = (PeerId(sender), reader.rest());
    let parts = [context.as_bytes(), audience, ephemeral, plaintext];
    verify(&sender, Domain::SEALED, &parts, &Signature(signature)).map_err(UnsealError::Sender)?;
    Ok((sender, plaintext.to_vec()))
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
        let sealed = seal_to(&alice, bob.id(), "test", b"hello", &mut rng()).unwrap();
        assert_eq!(sealed.len(), SEALED_OVERHEAD + 5);
        assert_eq!(open_from(&bob, "test", &sealed), Ok((alice.id(), b"hello".to_vec())));
        assert_eq!(open_from(&carol, "test", &sealed), Err(UnsealError::NotGenuine));
        assert!(!sealed.windows(32).any(|window| window == alice.id().0));
        assert_eq!(seal_to(&alice, PeerId([0; 32]), "test", b"", &mut rng()), Err(InvalidKey));
    }

    #[test]
    fn altered_or_truncated_it_does_not_open() {
        let [alice, bob, _] = keys();
        let sealed = seal_to(&alice, bob.id(), "test", b"hello", &mut rng()).unwrap();
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open_from(&bob, "test", &altered).is_err() && open_from(&bob, "test", &sealed[..at]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_recipient_cannot_pass_it_on_as_if_meant_for_another() {
        let [alice, bob, carol] = keys();
        let sealed = seal_to(&alice, bob.id(), "test", b"you are fired", &mut rng()).unwrap();
        let ephemeral: [u8; 32] = sealed[..32].try_into().unwrap();
        let shared = bob.exchange(&ephemeral).unwrap();
        let mut text = sealed[32..].to_vec();
        let inner = CHACHA.open(&message_key(&shared, &ephemeral, bob.id(), "test"), &[0; 12], &[], &mut text).unwrap().to_vec();
        // Bob seals the opened content, signature included, for Carol.
        let secret = [9; 32];
        let fresh = sodium::x25519_public(&secret);
        let shared = sodium::x25519(&secret, carol.exchange_public()).unwrap();
        let mut passed_on = fresh.to_vec();
        CHACHA.seal(&message_key(&shared, &fresh, carol.id(), "test"), &[0; 12], &[], &inner, &mut passed_on);
        assert_eq!(open_from(&carol, "test", &passed_on), Err(UnsealError::Sender(Forged)));
    }

    #[test]
    fn what_is_sealed_for_one_use_does_not_open_for_another() {
        let [alice, bob, _] = keys();
        let sealed = seal_to(&alice, bob.id(), "letter", b"hello", &mut rng()).unwrap();
        assert_eq!(open_from(&bob, "grant", &sealed), Err(UnsealError::NotGenuine));
    }

    /// Bob with a laptop and a phone.
    fn bob() -> Group {
        let [_, laptop, phone] = keys();
        let wall = peers_wire::Timestamp(1);
        let mut user = Group::create_user(&laptop, "Bob", "laptop", wall).unwrap();
        let consent = user.consent(&phone, GroupId::NONE);
        user.admit(&laptop, phone.id(), "phone", crate::Role::Owner, GroupId::NONE, consent, wall).unwrap();
        user
    }

    #[test]
    fn every_device_of_a_user_opens_and_nobody_else_and_none_can_pass_it_on_as_if_meant_for_another() {
        let ([alice, laptop, phone], user) = (keys(), bob());
        let stranger = DeviceKey::from_seed(&[9; 32]);
        let sealed = seal_to_user(&alice, &user, "test", b"hello", &mut rng()).unwrap();
        for device in [&laptop, &phone] {
            assert_eq!(open_from_user(device, user.id(), "test", &sealed), Ok((alice.id(), b"hello".to_vec())));
            assert_eq!(open_from_user(device, GroupId([1; 32]), "test", &sealed), Err(UnsealError::Sender(Forged)), "as if for another");
            assert_eq!(open_from_user(device, user.id(), "other", &sealed), Err(UnsealError::NotGenuine));
        }
        assert_eq!(open_from_user(&stranger, user.id(), "test", &sealed), Err(UnsealError::NotGenuine));
        for id in [alice.id(), laptop.id(), phone.id()] {
            assert!(!sealed.windows(32).any(|window| window == id.0));
        }
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            let opened = [&laptop, &phone].map(|device| open_from_user(device, user.id(), "test", &altered));
            assert!(opened.iter().any(Result::is_err), "byte {at}");
            assert!(open_from_user(&laptop, user.id(), "test", &sealed[..at]).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open_from(&keys()[0], "test", &bytes).is_err());
            prop_assert!(open_from_user(&keys()[0], GroupId([1; 32]), "test", &bytes).is_err());
        }

        #[test]
        fn what_is_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 0..300), seed: u64) {
            let [alice, bob, _] = keys();
            let sealed = seal_to(&alice, bob.id(), "test", &plaintext, &mut ChaCha20Rng::seed_from_u64(seed)).unwrap();
            prop_assert_eq!(open_from(&bob, "test", &sealed), Ok((alice.id(), plaintext)));
        }
    }
}
