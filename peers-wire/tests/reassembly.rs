//! Reassembly against every order, loss, repetition and lie: what completes is what was sent, and the bounds hold.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use peers_wire::{
    Config, FragmentHeader, Header, Link, MAX_MESSAGE, MAX_PAYLOAD, MessageHeader, Packet, PacketId, Reassembly, Signature, Timestamp,
    TopicId, payload_digest, split,
};
use proptest::prelude::*;
use proptest::sample::Index;

/// Any instant serves as the start of virtual time.
#[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor; only differences matter")]
fn start() -> Instant {
    Instant::now()
}

fn body(length: usize, salt: u8) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0] ^ salt).collect()
}

fn header(topic: u8, fragments: u32) -> MessageHeader {
    MessageHeader {
        postage: 16,
        created: Timestamp(1_700_000_000_000),
        lifetime: 4320,
        fragments,
        topic: TopicId([topic; 32]),
        previous: Link::NONE,
        signature: Signature([topic; 64]),
    }
}

/// Head first, parents before children.
fn packets(topic: u8, sealed: &[u8]) -> Vec<Packet> {
    let split = split(sealed).unwrap();
    let head = header(topic, split.leaves).packet(&split.root).unwrap();
    split.packets(&head).unwrap()
}

fn fragment(packet: &Packet) -> FragmentHeader {
    let Header::Fragment(header) = packet.header() else { panic!("not a fragment") };
    header
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![889..1100usize, 1025..40_000usize, Just(32 * 1024), Just(32 * 1024 + 1), 1025..120_000usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_message_completes_once_in_any_order_with_duplicates(
        length in lengths(), order in prop::collection::vec(any::<Index>(), 0..300),
    ) {
        let sealed = body(length, 1);
        let mut left = packets(3, &sealed);
        let head = left[0].clone();
        let (mut reassembly, now) = (Reassembly::new(Config::default()), start());
        let mut complete = Vec::new();
        let mut order = order.into_iter();
        while !left.is_empty() {
            let packet = left.swap_remove(order.next().map_or(0, |index| index.index(left.len())));
            let whole_message = left.is_empty() && packet.id() == head.id() && length <= MAX_PAYLOAD;
            complete.extend(reassembly.insert(now, packet.clone()));
            if !whole_message && !left.is_empty() {
                complete.extend(reassembly.insert(now, packet));
            }
        }
        prop_assert_eq!(complete.len(), 1);
        prop_assert_eq!(&complete[0].head, &head);
        prop_assert_eq!(&complete[0].sealed[..], &sealed[..]);
        prop_assert_eq!((reassembly.bytes(), reassembly.orphans(), reassembly.progress().count()), (0, 0, 0));
    }

    #[test]
    fn what_was_lost_is_named_by_id_and_repairs_the_message(
        length in 1025..120_000usize, lost in prop::collection::vec(any::<bool>(), 130), ask in 1..40usize,
    ) {
        let sealed = body(length, 2);
        let all = packets(4, &sealed);
        let (mut reassembly, now) = (Reassembly::new(Config::default()), start());
        let mut complete = Vec::new();
        for (i, packet) in all.iter().enumerate() {
            if i == 0 || !lost[i] {
                complete.extend(reassembly.insert(now, packet.clone()));
            }
        }
        let head = all[0].id();
        for _ in 0..all.len() {
            let missing = reassembly.missing(&head, ask);
            prop_assert!(missing.len() <= ask);
            prop_assert_eq!(missing.is_empty(), !complete.is_empty());
            for id in missing {
                let packet = all.iter().find(|packet| packet.id() == id);
                complete.extend(reassembly.insert(now, packet.expect("an id of this message").clone()));
            }
        }
        prop_assert_eq!(complete.len(), 1);
        prop_assert_eq!(&complete[0].sealed[..], &sealed[..]);
    }

    #[test]
    fn lies_about_any_field_neither_complete_nor_stop_a_message(
        length in 1025..60_000usize, picks in prop::collection::vec((any::<Index>(), 0..7u8, any::<u8>()), 1..200), head_last: bool,
    ) {
        let sealed = body(length, 3);
        let mut all = packets(5, &sealed);
        if head_last {
            all.rotate_left(1);
        }
        let (mut reassembly, now) = (Reassembly::new(Config::default()), start());
        let mut complete = Vec::new();
        for (i, packet) in all.iter().enumerate() {
            for (pick, lie, salt) in picks.iter().skip(i * 4).take(4) {
                if let Header::Fragment(truth) = pick.get(&all).header() {
                    complete.extend(reassembly.insert(now, lying(truth, pick.get(&all).payload(), *lie, *salt)));
                }
            }
            complete.extend(reassembly.insert(now, packet.clone()));
        }
        prop_assert_eq!(complete.len(), 1);
        prop_assert_eq!(&complete[0].sealed[..], &sealed[..]);
        prop_assert_eq!(reassembly.bytes(), 0);
        reassembly.expire(now + Config::default().orphan_timeout);
        prop_assert_eq!(reassembly.orphans(), 0);
    }
}

/// The same fragment with one thing wrong.
fn lying(mut header: FragmentHeader, payload: &[u8], lie: u8, salt: u8) -> Packet {
    let mut payload = payload.to_vec();
    match lie {
        0 => {
            let at = usize::from(salt) % payload.len();
            payload[at] ^= 1 << (salt & 7);
        }
        1 => header.created = header.created.plus(1 + u64::from(salt)),
        2 => header.lifetime ^= 1 << (salt & 7),
        3 => header.topic.0[usize::from(salt) % 32] ^= 1,
        4 => header.root[usize::from(salt) % 32] ^= 1,
        5 => header.index ^= 1 << (salt & 7),
        _ => payload.truncate(usize::from(salt) % payload.len() + 1),
    }
    header.packet(&payload).unwrap()
}

#[test]
fn the_smallest_and_the_largest_message_survive() {
    for length in [0, 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 32 * 1024, 1024 * 1024, 1024 * 1024 + 1, MAX_MESSAGE - 1, MAX_MESSAGE] {
        let sealed = body(length, 4);
        let (mut reassembly, now) = (Reassembly::new(Config::default()), start());
        let mut complete = Vec::new();
        for packet in packets(6, &sealed) {
            complete.extend(reassembly.insert(now, packet));
            assert!(reassembly.bytes() < 18_600_000, "{}", reassembly.bytes());
        }
        assert_eq!(complete.len(), 1, "{length}");
        assert!(complete[0].sealed == sealed, "{length}");
        assert_eq!(reassembly.stats().orphaned, 0, "in the order of publishing nothing waits");
    }
}

#[test]
fn two_heads_over_the_same_fragments_both_complete() {
    let sealed = body(3000, 5);
    let split = split(&sealed).unwrap();
    let first = header(7, split.leaves).packet(&split.root).unwrap();
    let other = MessageHeader { previous: Link([1; 24]), ..header(7, split.leaves) }.packet(&split.root).unwrap();
    let fragments = split.packets(&first).unwrap().split_off(1);
    let (mut reassembly, now) = (Reassembly::new(Config::default()), start());
    assert_eq!(reassembly.insert(now, other.clone()), []);
    assert_eq!(reassembly.insert(now, fragments[0].clone()), []);
    assert_eq!(reassembly.insert(now, first.clone()), []);
    assert_eq!(reassembly.insert(now, fragments[1].clone()), []);
    let complete = reassembly.insert(now, fragments[2].clone());
    assert_eq!(complete.iter().map(|complete| &complete.head).collect::<Vec<_>>(), [&other]);
    // The head that came after the first fragment names what it lacks.
    assert_eq!(reassembly.missing(&first.id(), 10), [fragments[0].id()]);
    let complete = reassembly.insert(now, fragments[0].clone());
    assert_eq!(complete.iter().map(|complete| &complete.head).collect::<Vec<_>>(), [&first]);
}

#[test]
fn a_flood_of_orphans_on_one_topic_leaves_the_orphans_of_another_in_peace() {
    let config = Config { max_orphans: 100, ..Config::default() };
    let (mut reassembly, now) = (Reassembly::new(config), start());
    let honest = packets(8, &body(20_000, 6));
    for packet in &honest[1..] {
        assert_eq!(reassembly.insert(now, packet.clone()), []);
    }
    for i in 0..5000u32 {
        let header =
            FragmentHeader { index: i % 7, topic: TopicId([9; 32]), root: payload_digest(&i.to_be_bytes()), ..fragment(&honest[1]) };
        assert_eq!(reassembly.insert(now, header.packet(&[1; 1024]).unwrap()), []);
        assert!(reassembly.orphans() <= 100);
    }
    assert_eq!(reassembly.insert(now, honest[0].clone()).len(), 1);
    assert_eq!(reassembly.stats().evicted_orphans, 5000 + 20 - 100);
}

#[test]
fn a_flood_of_orphans_on_the_very_message_only_makes_it_ask_again() {
    let config = Config { max_orphans: 100, ..Config::default() };
    let (mut reassembly, now) = (Reassembly::new(config), start());
    let honest = packets(8, &body(20_000, 6));
    for packet in &honest[1..] {
        reassembly.insert(now, packet.clone());
    }
    for i in 0..5000u32 {
        let lie = fragment(&honest[1 + i as usize % 20]).packet(&i.to_be_bytes()).unwrap();
        assert_eq!(reassembly.insert(now, lie), []);
    }
    assert_eq!(reassembly.insert(now, honest[0].clone()), []);
    let missing = reassembly.missing(&honest[0].id(), 1000);
    assert_eq!(missing, honest[1..].iter().map(Packet::id).collect::<Vec<_>>());
    let complete: Vec<_> = honest[1..].iter().flat_map(|packet| reassembly.insert(now, packet.clone())).collect();
    assert_eq!(complete.len(), 1);
}

#[test]
fn a_topic_that_fills_the_bytes_displaces_its_own_messages() {
    let config = Config { max_bytes: 300_000, ..Config::default() };
    let (mut reassembly, now) = (Reassembly::new(config), start());
    let honest = packets(1, &body(60_000, 7));
    for packet in &honest[..honest.len() - 1] {
        assert_eq!(reassembly.insert(now, packet.clone()), []);
    }
    for salt in 0..40 {
        let flood = packets(2, &body(80_000, salt));
        for packet in &flood[..flood.len() - 1] {
            reassembly.insert(now + Duration::from_secs(u64::from(salt)), packet.clone());
            assert!(reassembly.bytes() <= 300_000);
        }
    }
    assert!(reassembly.stats().evicted_messages >= 37);
    assert_eq!(reassembly.insert(now + Duration::from_secs(40), honest[honest.len() - 1].clone()).len(), 1);
}

#[test]
fn a_topic_that_fills_the_places_displaces_its_own_messages_and_not_a_larger_one() {
    let config = Config { max_messages: 10, ..Config::default() };
    let (mut reassembly, now) = (Reassembly::new(config), start());
    let honest = packets(1, &body(1_000_000, 8));
    for packet in &honest[..honest.len() - 1] {
        assert_eq!(reassembly.insert(now, packet.clone()), []);
    }
    for salt in 0..40 {
        assert_eq!(reassembly.insert(now, packets(2, &body(1025, salt)).swap_remove(0)), []);
        assert!(reassembly.progress().count() <= 10);
    }
    assert_eq!(reassembly.insert(now, honest[honest.len() - 1].clone()).len(), 1);
    assert_eq!(reassembly.stats().evicted_messages, 31);
}

#[test]
fn everything_runs_out_at_its_deadline_and_not_before() {
    let config = Config::default();
    let (mut reassembly, now) = (Reassembly::new(config.clone()), start());
    assert_eq!(reassembly.poll_timeout(), None);
    let all = packets(1, &body(5000, 9));
    reassembly.insert(now, all[1].clone());
    assert_eq!(reassembly.poll_timeout(), Some(now + config.orphan_timeout));
    reassembly.expire(now + config.orphan_timeout - Duration::from_millis(1));
    assert_eq!(reassembly.orphans(), 1);
    reassembly.expire(now + config.orphan_timeout);
    assert_eq!((reassembly.orphans(), reassembly.poll_timeout()), (0, None));

    // One fragment every 59 s keeps a message, but not for ever.
    let begun = now + Duration::from_secs(100);
    let all = packets(1, &body(20_000, 9));
    reassembly.insert(begun, all[0].clone());
    for (i, packet) in all[1..=15].iter().enumerate() {
        let at = begun + Duration::from_secs(59 * (i as u64 + 1));
        reassembly.expire(at);
        assert_eq!(reassembly.insert(at, packet.clone()), []);
        assert_eq!(reassembly.progress().count(), 1);
    }
    reassembly.expire(begun + config.message_timeout);
    assert_eq!((reassembly.progress().count(), reassembly.bytes(), reassembly.poll_timeout()), (0, 0, None));
    assert_eq!((reassembly.stats().expired_messages, reassembly.stats().expired_orphans), (1, 1));
}

#[test]
fn a_publisher_that_cuts_against_the_rules_loses_the_message_and_nothing_else() {
    // Two leaves of which the first is short: its digest is right, its length is not.
    let leaves = [body(1000, 1), body(1024, 2)];
    let root: Vec<u8> = leaves.iter().flat_map(|leaf| payload_digest(leaf)).collect();
    let head = header(1, 2).packet(&root).unwrap();
    let mut part = FragmentHeader {
        postage: 16,
        created: head.created(),
        lifetime: head.lifetime(),
        index: 1,
        topic: head.topic(),
        root: *head.payload_digest(),
    };
    let (mut reassembly, now) = (Reassembly::new(Config::default()), start());
    reassembly.insert(now, head);
    assert_eq!(reassembly.insert(now, part.packet(&leaves[1]).unwrap()), []);
    part.index = 0;
    assert_eq!(reassembly.insert(now, part.packet(&leaves[0]).unwrap()), []);
    assert_eq!((reassembly.stats().malformed, reassembly.bytes()), (1, 0));
}

#[test]
fn an_unknown_head_misses_nothing() {
    assert_eq!(Reassembly::new(Config::default()).missing(&PacketId([1; 32]), 5), []);
}
