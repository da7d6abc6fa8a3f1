//! Few caches and one situation each: who is away, who is between, what is missing.

mod network;

use std::time::Duration;

use network::Network;
use peers_cache::Config;
use peers_crypto::TopicKey;
use peers_wire::{Header, Link, Packet, Reassembly};

fn topic() -> TopicKey {
    TopicKey::from_seed([3; 32])
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A network of `count` peers in a row.
fn row(count: usize) -> Network {
    let mut network = Network::new(count as u64);
    for peer in 0..count {
        network.add(Config::default());
        if peer > 0 {
            network.connect(peer - 1, peer);
        }
    }
    network
}

#[test]
fn who_was_away_gets_everything_from_a_stranger_after_the_publisher_left() {
    let mut network = Network::new(1);
    let (laptop, phone, stranger) = (network.add(Config::default()), network.add(Config::default()), network.add(Config::default()));
    network.subscribe(laptop, topic().id());
    network.subscribe(phone, topic().id());
    network.connect(laptop, stranger);
    let ids: Vec<_> = (0..100).flat_map(|_| network.publish(laptop, &topic(), 300)).collect();
    network.run(seconds(10));
    assert_eq!(network.stored.len(), 100);
    network.disconnect(laptop);
    network.run(seconds(3600));
    network.connect(phone, stranger);
    network.run(seconds(10));
    assert!(ids.iter().all(|id| network.received.contains_key(&(phone, *id))));
}

#[test]
fn what_was_published_alone_spreads_when_a_peer_comes() {
    let mut network = Network::new(2);
    let (laptop, stranger) = (network.add(Config::default()), network.add(Config::default()));
    let id = network.publish(laptop, &topic(), 300)[0];
    network.run(seconds(600));
    network.connect(laptop, stranger);
    network.run(seconds(2));
    assert!(network.peers[stranger].get(&id).is_some());
    assert_eq!(network.stored[&id], 1);
}

#[test]
fn a_packet_reaches_a_subscriber_through_peers_that_do_not_subscribe() {
    let mut network = row(6);
    network.subscribe(0, topic().id());
    network.subscribe(5, topic().id());
    network.run(seconds(1));
    let id = network.publish(0, &topic(), 300)[0];
    network.run(seconds(5));
    assert!(network.received.contains_key(&(5, id)));
}

#[test]
fn a_packet_reaches_a_subscriber_through_peers_that_do_not_keep_it() {
    let mut network = Network::new(3);
    // Caches full of other topics: what they still keep is a tiny share.
    let small = Config { budget: 60_000, ..Config::default() };
    for peer in 0..6 {
        network.add(if peer == 0 || peer == 5 { Config::default() } else { small.clone() });
    }
    let mut filling = Vec::new();
    for i in 0..400usize {
        let other = TopicKey::from_seed([i.to_le_bytes()[0]; 32]);
        filling.extend(network.seal(&other, Link::NONE, 100 + i));
    }
    for peer in 1..5 {
        for packet in filling.clone() {
            network.with(peer, |cache, now, wall| cache.load(now, wall, packet));
        }
        assert!(network.peers[peer].used() > 50_000);
    }
    (1..6).for_each(|peer| network.connect(peer - 1, peer));
    network.subscribe(0, topic().id());
    network.subscribe(5, topic().id());
    network.run(seconds(1));
    let ids: Vec<_> = (0..20).map(|_| network.publish(0, &topic(), 300)[0]).collect();
    network.run(seconds(20));
    let missing = ids.iter().filter(|id| !network.received.contains_key(&(5, **id))).count();
    assert_eq!(missing, 0);
}

#[test]
fn a_large_message_arrives_whole_at_every_subscriber_in_spite_of_loss() {
    let mut network = Network::mesh(4, 12, 6);
    network.loss = 0.05;
    (0..12).step_by(2).for_each(|peer| network.subscribe(peer, topic().id()));
    network.run(seconds(2));
    let packets = network.seal(&topic(), Link::NONE, 700_000);
    let count = packets.len();
    network.publish_packets(0, packets.clone());
    network.run(seconds(60));
    for peer in (2..12).step_by(2) {
        let mut reassembly = Reassembly::new(peers_wire::Config::default());
        let mut whole = None;
        for packet in network.peers[peer].packets(topic().id()) {
            whole = whole.or_else(|| reassembly.insert(network.instant(), packet.clone()).pop());
        }
        assert_eq!(network.held(peer, &topic()).len(), count);
        let whole = whole.expect("all fragments are there");
        assert!(topic().read_key().open(&whole.head, &whole.sealed).is_ok());
    }
    let copies = network.packets as f64 / (11 * count) as f64;
    assert!(copies < 1.3, "{copies} copies of each fragment per peer");
}

#[test]
fn a_packet_is_found_by_id_and_by_link_and_its_successor_too() {
    let mut network = row(4);
    network.run(seconds(1));
    let first = network.seal(&topic(), Link::NONE, 100).remove(0);
    let second = network.seal(&topic(), first.id().link(), 100).remove(0);
    // Only the far end holds them: they came from its disk.
    network.with(3, |cache, now, wall| cache.load(now, wall, first.clone()));
    network.with(2, |cache, now, wall| cache.load(now, wall, second.clone()));
    network.with(0, |cache, now, wall| cache.request(now, wall, first.id()));
    // Before neighbours offer each other what they should keep.
    network.run(seconds(2));
    assert!(network.received.contains_key(&(0, first.id())));
    network.with(1, |cache, now, _| cache.request_next(now, first.id().link()));
    network.run(seconds(5));
    assert!(network.received.contains_key(&(1, second.id())));
    assert_eq!(network.peers[1].next(first.id().link()).map(Packet::id).collect::<Vec<_>>(), [second.id()]);
    network.with(0, |cache, now, wall| cache.request_link(now, wall, second.id().link()));
    network.run(seconds(5));
    assert!(network.received.contains_key(&(0, second.id())));
}

#[test]
fn a_request_for_what_nobody_has_ends() {
    let mut network = Network::mesh(5, 40, 8);
    let absent = network.seal(&topic(), Link::NONE, 100)[0].id();
    network.run(seconds(1));
    let before = network.datagrams;
    network.with(0, |cache, now, wall| cache.request(now, wall, absent));
    network.run(seconds(100));
    let spent = network.datagrams - before;
    assert_eq!(network.peers[0].stats().failed, 1);
    assert!(spent < 1200, "{spent} messages");
}

#[test]
fn two_subscribers_that_meet_have_the_same_afterwards() {
    let mut network = Network::new(6);
    let (a, b) = (network.add(Config::default()), network.add(Config::default()));
    network.subscribe(a, topic().id());
    network.subscribe(b, topic().id());
    for i in 0..1500 {
        let packet = network.seal(&topic(), Link::NONE, 10).remove(0);
        network.run(Duration::from_millis(100));
        for peer in [a, b] {
            let lacks = if peer == a { i % 30 == 0 } else { i % 30 == 7 };
            if !lacks {
                network.with(peer, |cache, now, wall| cache.load(now, wall, packet.clone()));
            }
        }
    }
    assert_eq!((network.held(a, &topic()).len(), network.held(b, &topic()).len()), (1450, 1450));
    network.connect(a, b);
    network.run(seconds(10));
    assert_eq!(network.held(a, &topic()).len(), 1500);
    assert_eq!(network.held(a, &topic()), network.held(b, &topic()));
    assert!(network.packets <= 110, "{} packets for 100 missing", network.packets);
}

#[test]
fn a_newcomer_gets_a_long_history_and_asks_for_no_more_afterwards() {
    let mut network = Network::new(7);
    let (old, new) = (network.add(Config::default()), network.add(Config::default()));
    network.subscribe(old, topic().id());
    for _ in 0..5000 {
        let packet = network.seal(&topic(), Link::NONE, 10).remove(0);
        network.with(old, |cache, now, wall| cache.load(now, wall, packet));
        network.now += Duration::from_millis(7);
    }
    network.subscribe(new, topic().id());
    network.connect(old, new);
    network.run(seconds(40));
    assert_eq!(network.held(new, &topic()).len(), 5000);
    let before = network.datagrams;
    network.run(seconds(300));
    assert!(network.datagrams - before < 60, "{} messages in 300 s", network.datagrams - before);
}

#[test]
fn a_publisher_hears_how_many_hold_its_message() {
    let mut network = Network::mesh(8, 30, 10);
    network.run(seconds(1));
    let id = network.publish(0, &topic(), 300)[0];
    let large = network.publish(0, &topic(), 30_000)[0];
    network.run(seconds(10));
    assert!(network.stored[&id] >= 3 && network.stored[&large] >= 3, "{:?}", network.stored);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut network = Network::mesh(seed, 30, 8);
        network.loss = 0.1;
        (0..15).for_each(|peer| network.subscribe(peer, topic().id()));
        for peer in 0..5 {
            network.publish(peer, &topic(), 700);
            network.run(seconds(1));
        }
        network.run(seconds(20));
        (network.datagrams, network.received)
    };
    assert_eq!(run(9), run(9));
}

#[test]
fn fragments_are_only_kept_under_a_head_that_vouches_for_them() {
    let mut network = row(2);
    network.run(seconds(1));
    let mut packets = network.seal(&topic(), Link::NONE, 5000);
    let head = packets.remove(0);
    network.publish_packets(0, packets.clone());
    network.run(seconds(5));
    assert!(packets.iter().all(|packet| matches!(packet.header(), Header::Fragment(_)) && network.peers[1].get(&packet.id()).is_none()));
    network.publish_packets(0, vec![head]);
    network.run(seconds(30));
    assert!(packets.iter().all(|packet| network.peers[1].get(&packet.id()).is_some()));
}
