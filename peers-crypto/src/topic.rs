//! Topics: who may write, who may read, and messages sealed so that those who carry them learn neither.
//!
//! A topic's secret gives two keys: the write key, an Ed25519 pair whose public half is the topic's id, and the read key. A writer signs each packet, which
//! anyone can check; what is inside is sealed under the read key, and carries the author's own signature over every byte and over the place of the message.

use core::fmt;

use peers_wire::{DecodeError, Link, MessageHeader, Packet, PeerId, Signature, Timestamp, TooLarge, TopicId, split};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{DeviceKey, Domain, Forged, derive, exchange_key, hash, signed_message, verify};
use crate::seal::InvalidKey;
use crate::sodium::{self, POLY_TAG, XCHACHA};

/// Bytes that sealing adds to a body: nonce 24, author 32, author's signature 64, tag 16.
pub const SEAL_OVERHEAD: usize = NONCE + INNER + POLY_TAG;
/// Memory of Argon2id for [`TopicKey::from_passphrase`], in bytes.
pub const PASSPHRASE_MEMORY: u64 = 64 << 20;
/// Passes of Argon2id for [`TopicKey::from_passphrase`].
pub const PASSPHRASE_PASSES: u32 = 3;

const PASSPHRASE_SALT: &[u8; 16] = b"peers passphrase";
const NONCE: usize = 24;
const INNER: usize = PeerId::LEN + Signature::LEN;

/// The secret of a topic: who holds it may write and read.
#[derive(Clone)]
pub struct TopicKey {
    seed: Zeroizing<[u8; 32]>,
    signing: Zeroizing<[u8; 64]>,
    read: ReadKey,
}

impl TopicKey {
    /// A new topic.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(*seed)
    }

    /// The topic of a secret of 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let mut signing = Zeroizing::new([0; 64]);
        let write = Zeroizing::new(derive(&seed, "peers topic write", &[]));
        let topic = TopicId(sodium::ed25519_keypair(&write, &mut signing));
        let read = ReadKey { topic, key: Zeroizing::new(derive(&seed, "peers topic read", &[])) };
        Self { seed, signing, read }
    }

    /// The topic of a passphrase, by Argon2id over [`PASSPHRASE_MEMORY`] with [`PASSPHRASE_PASSES`]; some 100 ms.
    ///
    /// It is as weak as the passphrase: whoever guesses it, at this price a guess, reads and writes. The bytes count: "Tea" is not "tea".
    pub fn from_passphrase(passphrase: &str) -> Self {
        let seed = sodium::argon2id::<32>(passphrase.as_bytes(), PASSPHRASE_SALT, PASSPHRASE_PASSES, PASSPHRASE_MEMORY);
        // Memory is the one thing that can be missing.
        let seed = seed.unwrap_or_else(|| std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; 64 << 20]>()));
        Self::from_seed(*seed)
    }

    /// A topic of its own for each `label`, from a secret that those who share it have in common.
    pub fn derive(secret: &[u8; 32], label: &str) -> Self {
        Self::from_seed(derive(secret, "peers topic", &[label.as_bytes()]))
    }

    /// The topic of two devices: both compute the same from their own secret and the other's id, nobody else can.
    ///
    /// # Errors
    /// [`InvalidKey`] if `peer` is no valid key, or is that of `key` itself.
    pub fn between(key: &DeviceKey, peer: PeerId) -> Result<Self, InvalidKey> {
        if peer == key.id() {
            return Err(InvalidKey);
        }
        let shared = exchange_key(&peer).and_then(|public| key.exchange(&public)).ok_or(InvalidKey)?;
        let (low, high) = if key.id() < peer { (key.id(), peer) } else { (peer, key.id()) };
        Ok(Self::from_seed(derive(&shared, "peers topic between", &[&low.0, &high.0])))
    }

    /// The topic for first contact with a device: public, so that anyone may write to it, and anyone can read it.
    ///
    /// What goes there is sealed for the device alone ([`seal_to`](crate::seal_to)).
    pub fn inbox(peer: PeerId) -> Self {
        Self::from_seed(hash(&[b"peers inbox", &peer.0]))
    }

    /// The public name of the topic; tells nothing about how the key was made.
    pub const fn id(&self) -> TopicId {
        self.read.topic
    }

    /// What readers need: they cannot write with it.
    pub fn read_key(&self) -> ReadKey {
        self.read.clone()
    }

    /// The secret that [`TopicKey::from_seed`] takes, to be kept as such.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Seals and signs a message: its packets, the head first. About 25 us and 5 us per KiB.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] if `body` and [`SEAL_OVERHEAD`] exceed [`peers_wire::MAX_MESSAGE`], [`SealError::Draft`] if a field has no encoding.
    pub fn seal(&self, author: &DeviceKey, draft: Draft, body: &[u8], rng: &mut impl CryptoRng) -> Result<Vec<Packet>, SealError> {
        let mut header = MessageHeader {
            postage: draft.postage,
            created: draft.created,
            lifetime: draft.lifetime,
            fragments: 0,
            topic: self.id(),
            previous: draft.previous,
            signature: Signature([0; 64]),
        };
        let place = place(&header);
        let signature = author.sign(Domain::AUTHOR, &[&place, body]);
        let mut inner = Zeroizing::new(Vec::with_capacity(INNER + body.len()));
        inner.extend_from_slice(&author.id().0);
        inner.extend_from_slice(&signature.0);
        inner.extend_from_slice(body);
        let mut nonce = [0; NONCE];
        rng.fill_bytes(&mut nonce);
        let mut sealed = Vec::with_capacity(SEAL_OVERHEAD + body.len());
        sealed.extend_from_slice(&nonce);
        XCHACHA.seal(&self.read.key, &nonce, &place, &inner, &mut sealed);

        let split = split(&sealed)?;
        header.fragments = split.leaves;
        let digest = header.signing_digest(&split.root);
        header.signature = Signature(sodium::ed25519_sign(&self.signing, &signed_message(Domain::TOPIC, &[&digest])));
        Ok(split.packets(&header.packet(&split.root)?)?)
    }
}

impl fmt::Debug for TopicKey {
    /// The id alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicKey({:?})", self.id())
    }
}

/// What a message says beside its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    /// When it is made, by the author's clock.
    pub created: Timestamp,
    /// Minutes until it ends, at least 1; usually [`peers_wire::DEFAULT_LIFETIME`].
    pub lifetime: u16,
    /// The message before it in its list, or [`Link::NONE`].
    pub previous: Link,
    /// How often it may be passed on; usually [`peers_wire::MAX_POSTAGE`].
    pub postage: u8,
}

/// Why a message was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// The body is too long.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A field of the draft is outside of its range.
    #[error("the message cannot be written: {0}")]
    Draft(#[from] DecodeError),
}

/// A topic's id and the key to read it; who holds no more cannot write.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadKey {
    topic: TopicId,
    key: Zeroizing<[u8; 32]>,
}

/// A message that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who wrote it: proven by a signature over the body, the topic, the time, the lifetime and the predecessor.
    pub author: PeerId,
    /// What was sealed.
    pub body: Vec<u8>,
}

/// Why a message was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The packet belongs to another topic.
    #[error("the message belongs to topic {0:.8}")]
    OtherTopic(TopicId),
    /// The packet is not a message or the head of one, or what it seals is too short.
    #[error("not a sealed message")]
    Malformed,
    /// It is not sealed under this topic's key, for this place.
    #[error("the message is not genuine")]
    NotGenuine,
    /// A holder of the read key sealed it in another author's name, or moved it here.
    #[error("the author's signature is not genuine")]
    Author(Forged),
}

impl ReadKey {
    /// The key of a topic, as [`ReadKey::topic`] and [`ReadKey::key`] gave it.
    pub fn new(topic: TopicId, key: [u8; 32]) -> Self {
        Self { topic, key: Zeroizing::new(key) }
    }

    /// The topic that it reads.
    pub const fn topic(&self) -> TopicId {
        self.topic
    }

    /// Tells who knows the key that it is the right one, and nobody else anything.
    pub fn commitment(&self) -> [u8; 32] {
        derive(&self.key, "peers topic read commitment", &[&self.topic.0])
    }

    /// The topic of those who can read this one: each of them can write to it, and nobody else can name it.
    pub fn readers(&self) -> TopicKey {
        TopicKey::from_seed(derive(&self.key, "peers topic readers", &[&self.topic.0]))
    }

    /// The secret bytes, to be given to a reader or kept.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Opens a message and checks its author's signature; about 40 us and 5 us per KiB.
    ///
    /// - `head`: its packet, or the head of its packets; the publisher's signature is left to [`check_publisher`]
    /// - `sealed`: the payload of `head` if it has no fragments, else what they were put together to
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn open(&self, head: &Packet, sealed: &[u8]) -> Result<Opened, ReadError> {
        let peers_wire::Header::Message(header) = head.header() else { return Err(ReadError::Malformed) };
        if header.topic != self.topic {
            return Err(ReadError::OtherTopic(header.topic));
        }
        let (nonce, text) = sealed.split_first_chunk::<NONCE>().ok_or(ReadError::Malformed)?;
        if text.len() < INNER + POLY_TAG {
            return Err(ReadError::Malformed);
        }
        let place = place(&header);
        let mut text = text.to_vec();
        let inner = XCHACHA.open(&self.key, nonce, &place, &mut text).ok_or(ReadError::NotGenuine)?.len();
        text.truncate(inner);
        let mut reader = peers_wire::Reader::new(&text);
        let (Ok(author), Ok(signature)) = (reader.array(), reader.array()) else { return Err(ReadError::Malformed) };
        let (author, signature) = (PeerId(author), Signature(signature));
        verify(&author, Domain::AUTHOR, &[&place, reader.rest()], &signature).map_err(ReadError::Author)?;
        text.copy_within(INNER.., 0);
        text[inner - INNER..].zeroize();
        text.truncate(inner - INNER);
        Ok(Opened { author, body: text })
    }
}

impl fmt::Debug for ReadKey {
    /// The topic alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadKey({:?})", self.topic)
    }
}

/// Checks that the holder of the topic's key published a message; about 35 us: once per packet, after deduplication and before storing.
///
/// # Errors
/// [`Forged`] if not, and for a fragment, which has no signature: the head of its message vouches for it.
pub fn check_publisher(packet: &Packet) -> Result<(), Forged> {
    let (peers_wire::Header::Message(header), Some(digest)) = (packet.header(), packet.signing_digest()) else { return Err(Forged) };
    verify(&PeerId(header.topic.0), Domain::TOPIC, &[&digest], &header.signature)
}

/// What binds a sealed message to where it stands: topic 32, created 6, lifetime 2, previous 24.
fn place(header: &MessageHeader) -> [u8; 64] {
    let mut place = [0; 64];
    place[..32].copy_from_slice(&header.topic.0);
    place[32..38].copy_from_slice(&header.created.0.to_be_bytes()[2..]);
    place[38..40].copy_from_slice(&header.lifetime.to_be_bytes());
    place[40..].copy_from_slice(&header.previous.0);
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use peers_wire::{MAX_PACKET, MAX_POSTAGE, Reassembly};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    const DRAFT: Draft = Draft { created: Timestamp(1_700_000_000_000), lifetime: 60, previous: Link::NONE, postage: MAX_POSTAGE };

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(3)
    }

    fn author() -> DeviceKey {
        DeviceKey::from_seed(&[5; 32])
    }

    /// The message of `header` with another payload, signed by the topic's key.
    fn resigned(topic: &TopicKey, head: &Packet, change: impl FnOnce(&mut MessageHeader), payload: &[u8]) -> Packet {
        let peers_wire::Header::Message(mut header) = head.header() else { panic!("a message") };
        change(&mut header);
        header.topic = topic.id();
        let digest = header.signing_digest(payload);
        header.signature = Signature(sodium::ed25519_sign(&topic.signing, &signed_message(Domain::TOPIC, &[&digest])));
        header.packet(payload).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_sealed_opens_with_the_read_key(seed: [u8; 32], body in prop::collection::vec(any::<u8>(), 0..888)) {
            let topic = TopicKey::from_seed(seed);
            let packets = topic.seal(&author(), DRAFT, &body, &mut rng()).unwrap();
            prop_assert_eq!(packets.len(), 1);
            prop_assert!(packets[0].as_bytes().len() <= MAX_PACKET);
            prop_assert_eq!(check_publisher(&packets[0]), Ok(()));
            let opened = topic.read_key().open(&packets[0], packets[0].payload()).unwrap();
            prop_assert_eq!(opened, Opened { author: author().id(), body });
        }

        #[test]
        fn any_payload_is_refused_without_panic(payload in prop::collection::vec(any::<u8>(), 0..400)) {
            let topic = TopicKey::from_seed([1; 32]);
            let head = topic.seal(&author(), DRAFT, b"x", &mut rng()).unwrap().remove(0);
            let head = resigned(&topic, &head, |_| {}, &payload);
            prop_assert!(topic.read_key().open(&head, &payload).is_err());
        }
    }

    #[test]
    fn a_large_message_goes_in_fragments_and_comes_back_whole() {
        let topic = TopicKey::from_seed([1; 32]);
        let body: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0]).collect();
        let packets = topic.seal(&author(), DRAFT, &body, &mut rng()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
        let now = std::time::Instant::now();
        let mut reassembly = Reassembly::new(peers_wire::Config::default());
        let complete: Vec<_> = packets.iter().flat_map(|packet| reassembly.insert(now, packet.clone())).collect();
        assert_eq!(complete.len(), 1);
        assert_eq!(check_publisher(&complete[0].head), Ok(()));
        assert_eq!(check_publisher(&packets[1]), Err(Forged), "a fragment");
        assert_eq!(topic.read_key().open(&complete[0].head, &complete[0].sealed).unwrap().body, body);
    }

    #[test]
    fn a_message_is_not_readable_in_what_carries_it() {
        let topic = TopicKey::from_seed([1; 32]);
        let packet = topic.seal(&author(), DRAFT, b"the plaintext of a secret", &mut rng()).unwrap().remove(0);
        for secret in [&b"plaintext"[..], &author().id().0[..], &topic.read.key[..]] {
            assert!(!packet.as_bytes().windows(secret.len()).any(|window| window == secret));
        }
    }

    #[test]
    fn an_altered_packet_is_not_the_publishers() {
        let topic = TopicKey::from_seed([1; 32]);
        let packet = topic.seal(&author(), DRAFT, b"body", &mut rng()).unwrap().remove(0);
        for at in (2..packet.as_bytes().len()).step_by(7) {
            let mut bytes = packet.as_bytes().to_vec();
            bytes[at] ^= 1;
            if let Ok(altered) = Packet::decode(bytes.into()) {
                assert_eq!(check_publisher(&altered), Err(Forged), "byte {at}");
            }
        }
        assert_eq!(check_publisher(&packet.with_postage(0)), Ok(()), "postage changes in flight");
    }

    #[test]
    fn a_reader_cannot_write_and_a_stranger_cannot_read() {
        let (topic, stranger) = (TopicKey::from_seed([1; 32]), TopicKey::from_seed([2; 32]));
        let packet = topic.seal(&author(), DRAFT, b"body", &mut rng()).unwrap().remove(0);
        // A reader seals properly, but can sign only with a key that is not the topic's.
        let mut reader = stranger.clone();
        reader.read = topic.read_key();
        let forged = reader.seal(&author(), DRAFT, b"body", &mut rng()).unwrap().remove(0);
        assert_eq!(check_publisher(&forged), Err(Forged));
        let blind = ReadKey::new(topic.id(), *stranger.read_key().key());
        assert_eq!(blind.open(&packet, packet.payload()), Err(ReadError::NotGenuine));
        assert_eq!(stranger.read_key().open(&packet, packet.payload()), Err(ReadError::OtherTopic(topic.id())));
    }

    #[test]
    fn a_message_cannot_be_moved_to_another_topic_time_or_place() {
        let (topic, other) = (TopicKey::from_seed([1; 32]), TopicKey::from_seed([2; 32]));
        let packet = topic.seal(&author(), DRAFT, b"pay 5", &mut rng()).unwrap().remove(0);
        let moves: [fn(&mut MessageHeader); 3] =
            [|header| header.created.0 += 1, |header| header.lifetime += 1, |header| header.previous = Link([1; 24])];
        for change in moves {
            let moved = resigned(&topic, &packet, change, packet.payload());
            assert_eq!(check_publisher(&moved), Ok(()));
            assert_eq!(topic.read_key().open(&moved, moved.payload()), Err(ReadError::NotGenuine));
        }
        // A member of both topics opens the message and seals its content again, elsewhere: the author's signature does not follow.
        let place_there = place(&MessageHeader {
            topic: other.id(),
            ..match packet.header() {
                peers_wire::Header::Message(h) => h,
                _ => panic!(),
            }
        });
        let mut text = packet.payload().to_vec();
        let nonce: [u8; 24] = text[..24].try_into().unwrap();
        let place_here = place(&match packet.header() {
            peers_wire::Header::Message(h) => h,
            _ => panic!(),
        });
        let inner = XCHACHA.open(&topic.read.key, &nonce, &place_here, &mut text[24..]).unwrap().to_vec();
        let mut sealed = nonce.to_vec();
        XCHACHA.seal(&other.read.key, &nonce, &place_there, &inner, &mut sealed);
        let moved = resigned(&other, &packet, |_| {}, &sealed);
        assert_eq!(other.read_key().open(&moved, moved.payload()), Err(ReadError::Author(Forged)));
    }

    #[test]
    fn two_devices_derive_the_same_topic_and_a_third_does_not() {
        let [alice, bob, carol] = [1, 2, 3].map(|seed| DeviceKey::from_seed(&[seed; 32]));
        let here = TopicKey::between(&alice, bob.id()).unwrap();
        assert_eq!(here.id(), TopicKey::between(&bob, alice.id()).unwrap().id());
        assert_eq!(here.seed(), TopicKey::between(&bob, alice.id()).unwrap().seed());
        assert_ne!(here.id(), TopicKey::between(&carol, alice.id()).unwrap().id());
        assert_eq!(TopicKey::between(&alice, PeerId([0; 32])).err(), Some(InvalidKey));
        assert_eq!(TopicKey::between(&alice, alice.id()).err(), Some(InvalidKey));
    }

    #[test]
    fn an_inbox_is_found_by_anyone_and_a_passphrase_by_who_knows_it() {
        assert_eq!(TopicKey::inbox(PeerId([1; 32])).id(), TopicKey::inbox(PeerId([1; 32])).id());
        assert_ne!(TopicKey::inbox(PeerId([1; 32])).id(), TopicKey::inbox(PeerId([2; 32])).id());
        assert_eq!(TopicKey::from_passphrase("greetings").id(), TopicKey::from_passphrase("greetings").id());
        assert_ne!(TopicKey::from_passphrase("greetings").id(), TopicKey::from_passphrase("greeting").id());
        assert_ne!(TopicKey::derive(&[1; 32], "a").id(), TopicKey::derive(&[1; 32], "b").id());
    }

    #[test]
    fn a_message_too_large_or_without_lifetime_is_refused() {
        let topic = TopicKey::from_seed([1; 32]);
        let body = vec![0; peers_wire::MAX_MESSAGE - SEAL_OVERHEAD + 1];
        assert!(matches!(topic.seal(&author(), DRAFT, &body, &mut rng()), Err(SealError::TooLarge(_))));
        assert!(matches!(topic.seal(&author(), Draft { lifetime: 0, ..DRAFT }, b"", &mut rng()), Err(SealError::Draft(_))));
    }

    #[test]
    fn debug_shows_the_topic_alone() {
        let topic = TopicKey::from_seed([1; 32]);
        assert_eq!(format!("{topic:?} {:?}", topic.read_key()), format!("TopicKey({0:.8}) ReadKey({0:.8})", topic.id()));
    }
}
