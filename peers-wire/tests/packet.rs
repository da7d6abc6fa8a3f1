//! The frame: one encoding per packet, an id over everything that does not change in flight, within its budget of bytes.

use bytes::Bytes;
use peers_wire::{
    DEFAULT_LIFETIME, DecodeError, FragmentHeader, Header, Link, MAX_FRAGMENTS, MAX_LEAVES, MAX_PACKET, MAX_PAYLOAD, MAX_POSTAGE,
    MessageHeader, Packet, Signature, Timestamp, TopicId,
};
use proptest::prelude::*;

fn message() -> MessageHeader {
    MessageHeader {
        postage: MAX_POSTAGE,
        created: Timestamp(1_700_000_000_000),
        lifetime: DEFAULT_LIFETIME,
        fragments: 0,
        topic: TopicId([1; 32]),
        previous: Link([2; 24]),
        signature: Signature([3; 64]),
    }
}

fn fragment() -> FragmentHeader {
    let MessageHeader { postage, created, lifetime, topic, .. } = message();
    FragmentHeader { postage, created, lifetime, index: 5, topic, root: [4; 32] }
}

fn decode(bytes: &[u8]) -> Result<Packet, DecodeError> {
    Packet::decode(Bytes::copy_from_slice(bytes))
}

prop_compose! {
    fn any_message()(
        postage in 0..=16u8, created in 0..1u64 << 48, lifetime in 1..=u16::MAX, topic: [u8; 32], previous: [u8; 24],
        signature: [[u8; 32]; 2],
    ) -> MessageHeader {
        let mut both = [0; 64];
        both.copy_from_slice(signature.as_flattened());
        MessageHeader {
            postage, created: Timestamp(created), lifetime, fragments: 0, topic: TopicId(topic), previous: Link(previous),
            signature: Signature(both),
        }
    }
}

proptest! {
    #[test]
    fn every_field_of_a_message_survives(header in any_message(), payload in prop::collection::vec(any::<u8>(), 0..=1024)) {
        let packet = header.packet(&payload).unwrap();
        let read = decode(packet.as_bytes()).unwrap();
        prop_assert_eq!(&read, &packet);
        prop_assert_eq!(read.header(), Header::Message(header));
        prop_assert_eq!(read.payload(), &payload[..]);
        prop_assert_eq!(&read.payload_bytes()[..], &payload[..]);
        prop_assert_eq!((read.topic(), read.created(), read.lifetime()), (header.topic, header.created, header.lifetime));
        prop_assert_eq!(read.expires().since(read.created()), u64::from(header.lifetime) * 60_000);
        prop_assert_eq!((read.postage(), read.previous()), (header.postage, Some(header.previous).filter(|link| *link != Link::NONE)));
        prop_assert_eq!(read.signing_digest(), Some(header.signing_digest(&payload)));
        prop_assert_eq!(&read.to_owned_copy(), &packet);
    }

    #[test]
    fn every_field_of_a_fragment_survives(
        base in any_message(), index in 0..MAX_FRAGMENTS, root: [u8; 32], payload in prop::collection::vec(any::<u8>(), 1..=1024),
    ) {
        let MessageHeader { postage, created, lifetime, topic, .. } = base;
        let header = FragmentHeader { postage, created, lifetime, index, topic, root };
        let packet = header.packet(&payload).unwrap();
        let read = decode(packet.as_bytes()).unwrap();
        prop_assert_eq!(&read, &packet);
        prop_assert_eq!(read.header(), Header::Fragment(header));
        prop_assert_eq!(read.payload(), &payload[..]);
        prop_assert_eq!((read.topic(), read.previous(), read.signing_digest()), (topic, None, None));
        prop_assert_eq!(header.id(read.payload_digest()), read.id());
    }

    #[test]
    fn whatever_decodes_is_the_encoding_of_what_it_says(
        mut bytes in prop::collection::vec(any::<u8>(), 0..1300), kind in 0..4u8, postage in 0..20u8, lifetime: bool,
    ) {
        for (at, byte) in [kind << 4, postage].into_iter().enumerate().take(bytes.len()) {
            bytes[at] = byte;
        }
        if let Some(number) = bytes.get_mut(8..12) {
            number.copy_from_slice(&[0, u8::from(lifetime), 0, 0]);
        }
        if let Ok(packet) = decode(&bytes) {
            let again = match packet.header() {
                Header::Message(header) => header.packet(packet.payload()),
                Header::Fragment(header) => header.packet(packet.payload()),
            };
            prop_assert_eq!(again.as_ref(), Ok(&packet));
            prop_assert_eq!(&packet.as_bytes()[..], &bytes[..]);
        }
    }

    #[test]
    fn any_changed_bit_but_postage_changes_the_id(header in any_message(), payload in prop::collection::vec(any::<u8>(), 0..64), bit: prop::sample::Index) {
        let packet = header.packet(&payload).unwrap();
        let mut bytes = packet.as_bytes().to_vec();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(changed) = decode(&bytes) {
            prop_assert_eq!(changed.id() == packet.id(), bit / 8 == 1);
            let signed = bit / 8 != 1 && !(69..133).contains(&(bit / 8));
            prop_assert_eq!(changed.signing_digest() != packet.signing_digest(), signed);
        }
    }
}

#[test]
fn w1_a_full_signed_publish_takes_133_bytes_of_framing_and_one_datagram_of_1200() {
    let packet = message().packet(&[7; MAX_PAYLOAD]).unwrap();
    let framing = packet.as_bytes().len() - MAX_PAYLOAD;
    assert_eq!((framing, packet.as_bytes().len()), (MessageHeader::LEN, MAX_PACKET));
    assert!(framing <= 134);
    let (relay, session, tag, path, frame, cache) = (9, 13, 16, 1, 1, 1);
    assert!(relay + session + tag + path + frame + cache + MAX_PACKET <= 1200);
}

#[test]
fn postage_is_the_one_thing_that_may_change_in_flight() {
    let packet = message().packet(b"letter").unwrap();
    let spent = packet.with_postage(3);
    assert_eq!((spent.postage(), spent.id(), spent.signing_digest()), (3, packet.id(), packet.signing_digest()));
    assert_eq!(decode(spent.as_bytes()).unwrap(), spent);
    assert_eq!(packet.with_postage(200).postage(), MAX_POSTAGE);
    assert_eq!(MessageHeader { postage: 17, ..message() }.packet(b"").unwrap_err(), DecodeError::Range("postage"));
    let mut bytes = packet.as_bytes().to_vec();
    bytes[1] = 17;
    assert_eq!(decode(&bytes), Err(DecodeError::Range("postage")));
}

#[test]
fn every_truncation_is_refused_or_is_another_packet() {
    let packet = message().packet(b"letter").unwrap();
    for length in 0..MessageHeader::LEN {
        assert_eq!(decode(&packet.as_bytes()[..length]), Err(DecodeError::Truncated), "{length}");
    }
    for length in MessageHeader::LEN..packet.as_bytes().len() {
        assert_ne!(decode(&packet.as_bytes()[..length]).unwrap().id(), packet.id());
    }
    let packet = fragment().packet(b"part").unwrap();
    for length in 0..FragmentHeader::LEN {
        assert_eq!(decode(&packet.as_bytes()[..length]), Err(DecodeError::Truncated), "{length}");
    }
    assert_eq!(decode(&packet.as_bytes()[..FragmentHeader::LEN]), Err(DecodeError::Range("payload")));
}

#[test]
fn every_kind_and_flag_without_meaning_is_refused() {
    let packet = message().packet(b"letter").unwrap();
    let mut bytes = packet.as_bytes().to_vec();
    for kind in (0..=u8::MAX).filter(|kind| ![0x10, 0x20].contains(kind)) {
        bytes[0] = kind;
        assert_eq!(decode(&bytes), Err(DecodeError::Kind(kind)));
    }
}

#[test]
fn every_field_out_of_its_range_is_refused_in_making_as_in_reading() {
    let full = [0; MAX_PAYLOAD + 1];
    let refused = |what: &'static str| Err(DecodeError::Range(what));
    assert_eq!(MessageHeader { lifetime: 0, ..message() }.packet(b""), refused("lifetime"));
    assert_eq!(MessageHeader { created: Timestamp(1 << 48), ..message() }.packet(b""), refused("creation time"));
    assert_eq!(MessageHeader { fragments: 1, ..message() }.packet(&[0; 32]), refused("fragment count"));
    assert_eq!(MessageHeader { fragments: MAX_LEAVES + 1, ..message() }.packet(&[0; 512]), refused("fragment count"));
    assert_eq!(MessageHeader { fragments: 1 << 24, ..message() }.packet(b""), refused("fragment count"));
    assert_eq!(message().packet(&full), refused("payload"));
    assert_eq!(FragmentHeader { index: MAX_FRAGMENTS, ..fragment() }.packet(b"part"), refused("fragment index"));
    assert_eq!(FragmentHeader { index: (1 << 24) + 5, ..fragment() }.packet(b"part"), refused("fragment index"));
    assert_eq!(fragment().packet(b""), refused("payload"));
    assert_eq!(fragment().packet(&full), refused("payload"));
    let mut bytes = message().packet(&full[..MAX_PAYLOAD]).unwrap().as_bytes().to_vec();
    bytes.push(0);
    assert_eq!(decode(&bytes), refused("payload"));
    bytes[8..10].fill(0);
    bytes.pop();
    assert_eq!(decode(&bytes), refused("lifetime"));
}

#[test]
fn a_root_node_has_exactly_the_digests_of_its_leaf_count() {
    for (leaves, digests) in [(2, 2), (32, 32), (33, 2), (1024, 32), (1025, 2), (2048, 2), (2049, 3), (16_384, 16)] {
        for length in 0..=MAX_PAYLOAD {
            let made = MessageHeader { fragments: leaves, ..message() }.packet(&vec![0; length]);
            assert_eq!(made.is_ok(), length == digests * 32, "{leaves} leaves, {length} bytes");
        }
    }
}

#[test]
fn the_same_payload_elsewhere_has_another_id() {
    let id = |header: MessageHeader| header.packet(b"letter").unwrap().id();
    let here = id(message());
    assert_ne!(here, id(MessageHeader { topic: TopicId([9; 32]), ..message() }));
    assert_ne!(here, id(MessageHeader { created: message().created.plus(1), ..message() }));
    assert_ne!(here, id(MessageHeader { previous: Link::NONE, ..message() }));
    assert_eq!(here.link().0[..], here.0[..24]);
    assert!(format!("{:?}", message().packet(b"letter").unwrap()).len() < 400);
}
