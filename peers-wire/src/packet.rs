//! The packet: a header of fixed layout and at most 1024 bytes of payload, named by a hash of both.

use core::fmt;

use blake2b_simd::Params;
use bytes::{Bytes, BytesMut};

use crate::fragment::{MAX_FRAGMENTS, MAX_LEAVES, TreeShape};
use crate::{DecodeError, Link, PacketId, Reader, Signature, Timestamp, TopicId};

/// Payload bytes a packet carries at most.
pub const MAX_PAYLOAD: usize = 1024;
/// Bytes of the largest packet: a message header and a full payload.
pub const MAX_PACKET: usize = MessageHeader::LEN + MAX_PAYLOAD;
/// Postage of a new packet; one that claims more is refused.
pub const MAX_POSTAGE: u8 = 16;
/// Minutes after its creation at which a packet ends unless its publisher says otherwise: 72 hours.
pub const DEFAULT_LIFETIME: u16 = 72 * 60;

const MESSAGE: u8 = 0x10;
const FRAGMENT: u8 = 0x20;
/// Where the postage is: the one byte that changes in flight, under no hash.
const POSTAGE: usize = 1;
const PAYLOAD_DIGEST: usize = 32;

/// A decoded packet: its bytes in their one encoding, and its id.
///
/// Cloning is cheap, and decoding shares the buffer that it is given: who keeps a packet takes [`Packet::to_owned_copy`], or
/// a packet of 1 kB pins the whole receive buffer.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    bytes: Bytes,
    digest: [u8; 32],
    id: PacketId,
}

impl Packet {
    /// Reads a packet and computes its id, which nobody is believed about.
    ///
    /// Signature and expiry are not checked here. Allocates nothing; hashes the payload and the header once.
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are anything else than the one encoding of a packet.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let (header, payload) = Header::decode(&bytes)?;
        let digest = payload_digest(payload);
        let id = header.id(&digest);
        Ok(Self { bytes, digest, id })
    }

    /// Puts a header in its encoding before a payload whose digest is known.
    pub(crate) fn assemble(header: &Header, payload: &[u8], digest: [u8; 32]) -> Result<Self, DecodeError> {
        let (created, number, what) = match header {
            Header::Message(header) => (header.created, header.fragments, "fragment count"),
            Header::Fragment(header) => (header.created, header.index, "fragment index"),
        };
        // Wider than the field on the wire: encoding would cut them to another value.
        if created > Timestamp::MAX {
            return Err(DecodeError::Range("creation time"));
        }
        if number > MAX_FRAGMENTS {
            return Err(DecodeError::Range(what));
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(DecodeError::Range("payload"));
        }
        let mut bytes = BytesMut::with_capacity(MessageHeader::LEN + payload.len());
        match header {
            Header::Message(header) => bytes.extend_from_slice(&header.encode()),
            Header::Fragment(header) => bytes.extend_from_slice(&header.encode()),
        }
        bytes.extend_from_slice(payload);
        Header::decode(&bytes)?;
        Ok(Self { bytes: bytes.freeze(), digest, id: header.id(&digest) })
    }

    /// The BLAKE2b-256 of everything but the postage.
    pub const fn id(&self) -> PacketId {
        self.id
    }

    /// All fields of the header.
    pub fn header(&self) -> Header {
        match Header::decode(&self.bytes) {
            Ok((header, _)) => header,
            Err(_) => unreachable!("no packet is made of bytes that do not decode"),
        }
    }

    /// The topic it belongs to.
    pub fn topic(&self) -> TopicId {
        let mut topic = [0; TopicId::LEN];
        topic.copy_from_slice(&self.bytes[13..45]);
        TopicId(topic)
    }

    /// When its publisher made it, by the publisher's clock.
    pub fn created(&self) -> Timestamp {
        let mut created = [0; 8];
        created[2..].copy_from_slice(&self.bytes[2..8]);
        Timestamp(u64::from_be_bytes(created))
    }

    /// Minutes from [`Packet::created`] to [`Packet::expires`], at least 1.
    pub fn lifetime(&self) -> u16 {
        u16::from_be_bytes([self.bytes[8], self.bytes[9]])
    }

    /// When it ends for everyone.
    pub fn expires(&self) -> Timestamp {
        self.created().plus(u64::from(self.lifetime()) * 60_000)
    }

    /// Times it may still be passed on, 0 to [`MAX_POSTAGE`]; covered by neither id nor signature.
    pub fn postage(&self) -> u8 {
        self.bytes[POSTAGE]
    }

    /// The same packet with other postage, more than [`MAX_POSTAGE`] being that; copies the bytes.
    #[must_use]
    pub fn with_postage(&self, postage: u8) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[POSTAGE] = postage.min(MAX_POSTAGE);
        Self { bytes: bytes.freeze(), ..*self }
    }

    /// The message before it in its list; `None` for the first of a list and for a fragment.
    pub fn previous(&self) -> Option<Link> {
        match self.header() {
            Header::Message(header) if header.previous != Link::NONE => Some(header.previous),
            _ => None,
        }
    }

    /// What it carries: at most [`MAX_PAYLOAD`] bytes.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload_start()..]
    }

    /// The payload, sharing the packet's buffer.
    pub fn payload_bytes(&self) -> Bytes {
        self.bytes.slice(self.payload_start()..)
    }

    /// The BLAKE2b-256 of the payload alone.
    pub const fn payload_digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What the signature of a message signs, which covers the payload; `None` for a fragment, which has no signature.
    pub fn signing_digest(&self) -> Option<[u8; 32]> {
        match self.header() {
            Header::Message(header) => Some(header.signing_digest_of(&self.digest)),
            Header::Fragment(_) => None,
        }
    }

    /// The encoding: what is stored and sent.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same packet in memory of its own, to keep.
    #[must_use]
    pub fn to_owned_copy(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..*self }
    }

    fn payload_start(&self) -> usize {
        if self.bytes[0] == MESSAGE { MessageHeader::LEN } else { FragmentHeader::LEN }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("id", &self.id).field("header", &self.header()).field("payload", &self.payload().len()).finish()
    }
}

/// The fields before the payload; plain data, read and written without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A whole message, or the head of one in fragments.
    Message(MessageHeader),
    /// A part of a message larger than a packet.
    Fragment(FragmentHeader),
}

impl Header {
    /// Reads the header of a packet and gives the payload behind it; hashes nothing.
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are anything else than the one encoding of a packet.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let postage = reader.u8()?;
        let created = reader.timestamp()?;
        let lifetime = reader.u16()?;
        let number = reader.u24()?;
        let topic = TopicId(reader.array()?);
        let (header, payload) = match kind {
            MESSAGE => {
                let (previous, signature) = (Link(reader.array()?), Signature(reader.array()?));
                let payload = reader.rest();
                match number {
                    0 => {}
                    2..=MAX_LEAVES if payload.len() == TreeShape::new(number).root_len() => {}
                    2..=MAX_LEAVES => return Err(DecodeError::Range("root node")),
                    _ => return Err(DecodeError::Range("fragment count")),
                }
                (Self::Message(MessageHeader { postage, created, lifetime, fragments: number, topic, previous, signature }), payload)
            }
            FRAGMENT => {
                let root = reader.array()?;
                let payload = reader.rest();
                match (number, payload) {
                    (MAX_FRAGMENTS.., _) => return Err(DecodeError::Range("fragment index")),
                    (_, []) => return Err(DecodeError::Range("payload")),
                    _ => (Self::Fragment(FragmentHeader { postage, created, lifetime, index: number, topic, root }), payload),
                }
            }
            other => return Err(DecodeError::Kind(other)),
        };
        if postage > MAX_POSTAGE {
            return Err(DecodeError::Range("postage"));
        }
        if lifetime == 0 {
            return Err(DecodeError::Range("lifetime"));
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(DecodeError::Range("payload"));
        }
        Ok((header, payload))
    }

    fn id(&self, payload_digest: &[u8; 32]) -> PacketId {
        match self {
            Self::Message(header) => header.id(payload_digest),
            Self::Fragment(header) => header.id(payload_digest),
        }
    }
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHeader {
    /// Times the packet may still be passed on, 0 to [`MAX_POSTAGE`].
    pub postage: u8,
    /// When the publisher made it; at most [`Timestamp::MAX`].
    pub created: Timestamp,
    /// Minutes it lives, at least 1.
    pub lifetime: u16,
    /// 0 if the payload is the message; else in how many leaves it is cut, 2 to [`MAX_LEAVES`], the payload being the root node.
    pub fragments: u32,
    /// The topic, under whose key the message is signed.
    pub topic: TopicId,
    /// The message before it in its list, or [`Link::NONE`].
    pub previous: Link,
    /// The topic's signature over [`MessageHeader::signing_digest`].
    pub signature: Signature,
}

impl MessageHeader {
    /// Bytes of its encoding.
    pub const LEN: usize = 133;

    /// The encoding. Fields outside of their range have none: [`MessageHeader::packet`] refuses them.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        encode_common(&mut out, MESSAGE, self.postage, self.created, self.lifetime, self.fragments, &self.topic);
        out[45..69].copy_from_slice(&self.previous.0);
        out[69..].copy_from_slice(&self.signature.0);
        out
    }

    /// What the topic's key signs: BLAKE2b-256 of the header without postage and signature, and of the payload's digest.
    pub fn signing_digest(&self, payload: &[u8]) -> [u8; 32] {
        self.signing_digest_of(&payload_digest(payload))
    }

    /// The packet of this header and `payload`.
    ///
    /// # Errors
    /// [`DecodeError::Range`] with the field that is out of range.
    pub fn packet(&self, payload: &[u8]) -> Result<Packet, DecodeError> {
        Packet::assemble(&Header::Message(*self), payload, payload_digest(payload))
    }

    /// The header of one of its fragments.
    ///
    /// - `root`: the payload digest of the head
    pub const fn fragment(&self, root: &[u8; 32], index: u32) -> FragmentHeader {
        let Self { postage, created, lifetime, topic, .. } = *self;
        FragmentHeader { postage, created, lifetime, index, topic, root: *root }
    }

    fn signing_digest_of(&self, payload_digest: &[u8; 32]) -> [u8; 32] {
        hash_header::<{ Self::LEN - Signature::LEN - 1 + PAYLOAD_DIGEST }>(b"peers sign", &self.encode()[..69], payload_digest)
    }

    fn id(&self, payload_digest: &[u8; 32]) -> PacketId {
        PacketId(hash_header::<{ Self::LEN - 1 + PAYLOAD_DIGEST }>(b"peers pkt", &self.encode(), payload_digest))
    }
}

/// The header of a fragment, which the head of its message vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Times the packet may still be passed on, 0 to [`MAX_POSTAGE`].
    pub postage: u8,
    /// As in the head.
    pub created: Timestamp,
    /// As in the head.
    pub lifetime: u16,
    /// Its place: leaves first, then each level of nodes above; below [`MAX_FRAGMENTS`].
    pub index: u32,
    /// As in the head.
    pub topic: TopicId,
    /// The payload digest of the head.
    pub root: [u8; 32],
}

impl FragmentHeader {
    /// Bytes of its encoding.
    pub const LEN: usize = 77;

    /// The encoding. Fields outside of their range have none: [`FragmentHeader::packet`] refuses them.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        encode_common(&mut out, FRAGMENT, self.postage, self.created, self.lifetime, self.index, &self.topic);
        out[45..].copy_from_slice(&self.root);
        out
    }

    /// The packet of this header and `payload`.
    ///
    /// # Errors
    /// [`DecodeError::Range`] with the field that is out of range.
    pub fn packet(&self, payload: &[u8]) -> Result<Packet, DecodeError> {
        Packet::assemble(&Header::Fragment(*self), payload, payload_digest(payload))
    }

    /// The id of the packet that carries a payload of this digest: whoever knows the parent can ask for the child.
    pub fn id(&self, payload_digest: &[u8; 32]) -> PacketId {
        PacketId(hash_header::<{ Self::LEN - 1 + PAYLOAD_DIGEST }>(b"peers pkt", &self.encode(), payload_digest))
    }
}

/// The BLAKE2b-256 of a payload; of a leaf or node, what its parent holds.
pub fn payload_digest(payload: &[u8]) -> [u8; 32] {
    finish(&digest_params().hash(payload))
}

pub(crate) fn digest_params() -> Params {
    let mut params = Params::new();
    params.hash_length(32);
    params
}

pub(crate) fn finish(hash: &blake2b_simd::Hash) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hash.as_bytes());
    out
}

/// Hashes a header without its postage, and a payload digest; `N` is the length of both.
fn hash_header<const N: usize>(personal: &[u8], header: &[u8], payload_digest: &[u8; 32]) -> [u8; 32] {
    let mut input = [0; N];
    input[0] = header[0];
    input[1..N - PAYLOAD_DIGEST].copy_from_slice(&header[POSTAGE + 1..]);
    input[N - PAYLOAD_DIGEST..].copy_from_slice(payload_digest);
    finish(&digest_params().personal(personal).hash(&input))
}

/// Writes the 45 bytes that both kinds begin with.
fn encode_common(out: &mut [u8], kind: u8, postage: u8, created: Timestamp, lifetime: u16, number: u32, topic: &TopicId) {
    out[0] = kind;
    out[POSTAGE] = postage;
    out[2..8].copy_from_slice(&created.0.to_be_bytes()[2..]);
    out[8..10].copy_from_slice(&lifetime.to_be_bytes());
    out[10..13].copy_from_slice(&number.to_be_bytes()[1..]);
    out[13..45].copy_from_slice(&topic.0);
}
