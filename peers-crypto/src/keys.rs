//! The key of a device, signatures with a domain each, and the hash functions that everything else is built from.

use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use peers_wire::{PeerId, Signature};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::sodium::{self, Blake2b, Locked};

/// A signature is not that of the key it names over what it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the signature does not belong to this key and content")]
pub struct Forged;

/// What a signature is for: a signature made for one domain is void in every other.
///
/// A layer that signs something of its own defines a constant with a name that no other layer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Domain(&'static str);

impl Domain {
    /// A publisher's signature on a packet, under the topic's key.
    pub const TOPIC: Self = Self::new("peers topic 1");
    /// The author's signature inside a sealed message.
    pub const AUTHOR: Self = Self::new("peers author 1");
    /// A statement of a user about their devices.
    pub const STATEMENT: Self = Self::new("peers statement 1");
    /// The sender's signature inside something sealed for one recipient.
    pub const SEALED: Self = Self::new("peers sealed 1");
    /// A device's consent to be a member of a user or group.
    pub const CONSENT: Self = Self::new("peers consent 1");
    /// A recovery key's proof that who adds it has it.
    pub const RECOVERY: Self = Self::new("peers recovery 1");
    /// A guardian's word that a new device is a user's.
    pub const ENDORSE: Self = Self::new("peers endorse 1");

    /// Names a domain; at most 255 bytes.
    pub const fn new(name: &'static str) -> Self {
        assert!(name.len() <= 255);
        Self(name)
    }
}

/// The Ed25519 key pair of a device, and its X25519 form for key agreement.
///
/// The secret is in locked memory, which is zeroed when the last clone is dropped. A clone is a reference, and cheap.
#[derive(Clone)]
pub struct DeviceKey {
    id: PeerId,
    exchange_public: [u8; 32],
    secrets: Arc<Locked<SECRETS>>,
}

/// The Ed25519 secret key (seed 32, public key 32), then the X25519 secret key 32: one piece, as each piece of locked memory takes pages of its own.
const SECRETS: usize = 96;

impl DeviceKey {
    /// A new key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Locked::zeroed();
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key of a seed of 32 secret random bytes (RFC 8032, section 5.1.5); the seed is copied.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let mut secrets = Locked::<SECRETS>::zeroed();
        let (signing, exchange) = parts_mut(&mut secrets);
        let id = PeerId(sodium::ed25519_keypair(seed, signing));
        sodium::ed25519_secret_to_x25519(signing, exchange);
        let exchange_public = sodium::x25519_public(exchange);
        Self { id, exchange_public, secrets: Arc::new(secrets) }
    }

    /// The public key.
    pub const fn id(&self) -> PeerId {
        self.id
    }

    /// Signs `parts` for `domain`; about 12 us. Each part's length is signed with it, so that none can be moved into its neighbour.
    pub fn sign(&self, domain: Domain, parts: &[&[u8]]) -> Signature {
        Signature(sodium::ed25519_sign(parts_of(&self.secrets).0, &signed_message(domain, parts)))
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        let (signing, _) = parts_of(&self.secrets);
        signing.first_chunk().expect("64 bytes begin with 32")
    }

    /// X25519 with the public exchange key of another; `None` if that key is of small order.
    pub(crate) fn exchange(&self, public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        sodium::x25519(parts_of(&self.secrets).1, public).map(Zeroizing::new)
    }

    pub(crate) const fn exchange_public(&self) -> &[u8; 32] {
        &self.exchange_public
    }
}

fn parts_of(secrets: &[u8; SECRETS]) -> (&[u8; 64], &[u8; 32]) {
    let (signing, exchange) = secrets.split_first_chunk().expect("96 bytes begin with 64");
    (signing, exchange.first_chunk().expect("96 bytes are 64 and 32"))
}

fn parts_mut(secrets: &mut [u8; SECRETS]) -> (&mut [u8; 64], &mut [u8; 32]) {
    let (signing, exchange) = secrets.split_first_chunk_mut().expect("96 bytes begin with 64");
    (signing, exchange.first_chunk_mut().expect("96 bytes are 64 and 32"))
}

impl fmt::Debug for DeviceKey {
    /// The id alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({:?})", self.id)
    }
}

/// Checks a signature of [`DeviceKey::sign`]; about 35 us.
///
/// # Errors
/// [`Forged`] if it is not that of `key` over these parts in this domain, or if `key` is no valid Ed25519 key.
pub fn verify(key: &PeerId, domain: Domain, parts: &[&[u8]], signature: &Signature) -> Result<(), Forged> {
    sodium::ed25519_verify(&key.0, &signed_message(domain, parts), &signature.0).then_some(()).ok_or(Forged)
}

/// The bytes under a signature: length of the domain (1), domain, then for each part its length (8) and itself.
pub(crate) fn signed_message(domain: Domain, parts: &[&[u8]]) -> Vec<u8> {
    let size = 1 + domain.0.len() + parts.iter().map(|part| 8 + part.len()).sum::<usize>();
    let mut message = Vec::with_capacity(size);
    message.extend_from_slice(&domain.0.len().to_be_bytes()[size_of::<usize>() - 1..]);
    message.extend_from_slice(domain.0.as_bytes());
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

/// BLAKE2b-256 of the parts, one after the other; their boundaries are not part of it.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    absorb(Blake2b::new(&[]), parts)
}

/// BLAKE2b-256 of the parts, one after the other, under a secret key.
pub fn keyed_hash(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    absorb(Blake2b::new(key), parts)
}

/// A key of its own for each `label` and `parts`, from `secret`: BLAKE2b-256 under `secret` of label and parts, each behind its length (8).
pub fn derive(secret: &[u8; 32], label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2b::new(secret);
    for part in core::iter::once(&label.as_bytes()).chain(parts) {
        hash.update(&(part.len() as u64).to_be_bytes()).update(part);
    }
    hash.finish()
}

fn absorb(mut hash: Blake2b<32>, parts: &[&[u8]]) -> [u8; 32] {
    for part in parts {
        hash.update(part);
    }
    hash.finish()
}

/// The X25519 public key of a device; about 30 us, or 20 ns for one of the last [`MAX_REMEMBERED`] that were asked for.
///
/// `None` if the id is not a canonical point of the prime-order subgroup: nobody can prove to own such an id.
pub(crate) fn exchange_key(peer: &PeerId) -> Option<[u8; 32]> {
    let place = usize::from(u16::from_be_bytes([peer.0[0], peer.0[1]])) % MAX_REMEMBERED;
    let remembered = || REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Remembered { id, exchange }) = remembered()[place]
        && id == *peer
    {
        return Some(exchange);
    }
    let exchange = sodium::ed25519_to_x25519(&peer.0)?;
    remembered()[place] = Some(Remembered { id: *peer, exchange });
    Some(exchange)
}

/// Ids whose exchange key is remembered: 65 kB.
const MAX_REMEMBERED: usize = 1024;

/// Valid ids and their exchange keys, each in the place that its first bytes name: nothing is secret here, and who makes up ids to displace others gains 30 us a piece.
static REMEMBERED: Mutex<[Option<Remembered>; MAX_REMEMBERED]> = Mutex::new([None; MAX_REMEMBERED]);

#[derive(Clone, Copy)]
struct Remembered {
    id: PeerId,
    exchange: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn rfc_8032_test_1_key_pair() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b,
            0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let public = [
            0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda,
            0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
        ];
        assert_eq!(DeviceKey::from_seed(&seed).id(), PeerId(public));
    }

    #[test]
    fn a_signature_is_void_in_another_domain_under_another_key_and_with_moved_boundaries() {
        let key = DeviceKey::from_seed(&KEY);
        let signature = key.sign(Domain::TOPIC, &[b"ab", b"c"]);
        assert_eq!(verify(&key.id(), Domain::TOPIC, &[b"ab", b"c"], &signature), Ok(()));
        assert_eq!(verify(&key.id(), Domain::AUTHOR, &[b"ab", b"c"], &signature), Err(Forged));
        assert_eq!(verify(&key.id(), Domain::TOPIC, &[b"a", b"bc"], &signature), Err(Forged));
        assert_eq!(verify(&key.id(), Domain::TOPIC, &[b"abc"], &signature), Err(Forged));
        assert_eq!(verify(&DeviceKey::from_seed(&[8; 32]).id(), Domain::TOPIC, &[b"ab", b"c"], &signature), Err(Forged));
    }

    #[test]
    fn both_forms_of_a_key_belong_together() {
        let key = DeviceKey::from_seed(&KEY);
        assert_eq!(exchange_key(&key.id()), Some(*key.exchange_public()));
    }

    #[test]
    fn small_order_and_non_canonical_ids_have_no_exchange_key_and_verify_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let zero = [0; 32]; // y = 0: order 4
        let mut minus_one = [0xff; 32]; // y = -1: order 2
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let mut non_canonical_one = [0xff; 32]; // y = p + 1
        (non_canonical_one[0], non_canonical_one[31]) = (0xee, 0x7f);
        let mut non_canonical = [0xff; 32]; // y = p + 3, which is on the curve
        (non_canonical[0], non_canonical[31]) = (0xf0, 0x7f);
        for bytes in [identity, zero, minus_one, non_canonical_one, non_canonical] {
            assert_eq!(exchange_key(&PeerId(bytes)), None, "{bytes:x?}");
            assert_eq!(verify(&PeerId(bytes), Domain::TOPIC, &[], &Signature([0; 64])), Err(Forged));
        }
    }

    #[test]
    fn an_id_of_mixed_order_has_no_exchange_key() {
        // The sum of an id's point (x, y) and the point of order 2, (0, -1), is (-x, -y).
        let mut mixed = DeviceKey::from_seed(&KEY).id().0;
        let sign = mixed[31] & 0x80;
        mixed[31] &= 0x7f;
        let mut borrow = 0;
        for (byte, p) in mixed.iter_mut().zip([0xed_u8].into_iter().chain([0xff; 30]).chain([0x7f])) {
            let difference = i16::from(p) - i16::from(*byte) - borrow;
            borrow = i16::from(difference < 0);
            *byte = difference.rem_euclid(256).to_le_bytes()[0];
        }
        mixed[31] |= sign ^ 0x80;
        assert_eq!(exchange_key(&PeerId(mixed)), None);
        mixed[31] ^= 0x80;
        assert_eq!(exchange_key(&PeerId(mixed)), None);
    }

    #[test]
    fn a_remembered_exchange_key_is_that_of_its_id_alone() {
        // More ids than are remembered: many share a place, and every answer is the same the second time.
        let id = |i: u64| PeerId(sodium::ed25519_keypair(&derive(&KEY, "id", &[&i.to_be_bytes()]), &mut [0; 64]));
        let ids: Vec<_> = (0..2 * MAX_REMEMBERED as u64).map(id).collect();
        for id in ids.iter().chain(&ids) {
            assert_eq!(exchange_key(id), sodium::ed25519_to_x25519(&id.0));
            let mut negative = *id;
            negative.0[31] ^= 0x80;
            assert_eq!(exchange_key(&negative), exchange_key(id), "a point and its negative share the key");
            let mut other = *id;
            other.0[30] ^= 1;
            assert_eq!(exchange_key(&other), sodium::ed25519_to_x25519(&other.0));
        }
    }

    #[test]
    fn debug_shows_the_id_and_nothing_else() {
        let key = DeviceKey::from_seed(&KEY);
        assert_eq!(format!("{key:?}"), format!("DeviceKey({:.8})", key.id()));
    }

    #[test]
    fn derived_keys_differ_by_secret_label_and_parts() {
        let keys = [
            derive(&KEY, "a", &[b"b"]),
            derive(&KEY, "ab", &[]),
            derive(&KEY, "a", &[b"b", b""]),
            derive(&KEY, "", &[b"a", b"b"]),
            derive(&[8; 32], "a", &[b"b"]),
            keyed_hash(&KEY, &[b"a", b"b"]),
            hash(&[b"a", b"b"]),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key));
        }
    }

    #[test]
    fn hash_is_blake2b_256() {
        // RFC 7693 has no vector of this size: "abc" as computed by b2sum -l 256.
        let expected = [
            0xbd, 0xdd, 0x81, 0x3c, 0x63, 0x42, 0x39, 0x72, 0x31, 0x71, 0xef, 0x3f, 0xee, 0x98, 0x57, 0x9b, 0x94, 0x96, 0x4e, 0x3b, 0xb1,
            0xcb, 0x3e, 0x42, 0x72, 0x62, 0xc8, 0xc0, 0x68, 0xd5, 0x23, 0x19,
        ];
        assert_eq!(hash(&[b"a", b"bc"]), expected);
    }

    proptest! {
        #[test]
        fn no_flipped_bit_passes(seed: [u8; 32], message in prop::collection::vec(any::<u8>(), 1..64), bit in 0usize..512) {
            let key = DeviceKey::from_seed(&seed);
            let mut signature = key.sign(Domain::AUTHOR, &[&message]);
            prop_assert_eq!(verify(&key.id(), Domain::AUTHOR, &[&message], &signature), Ok(()));
            signature.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify(&key.id(), Domain::AUTHOR, &[&message], &signature), Err(Forged));
        }

        #[test]
        fn any_bytes_as_key_and_signature_are_refused_without_panic(id: [u8; 32], signature: [u8; 64]) {
            let _ = exchange_key(&PeerId(id));
            prop_assert_eq!(verify(&PeerId(id), Domain::TOPIC, &[b"x"], &Signature(signature)), Err(Forged));
        }
    }
}
