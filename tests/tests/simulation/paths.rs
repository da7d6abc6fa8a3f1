//! Who reaches whom, behind what.

use core::time::Duration;

use bytes::Bytes;
use peers_crypto::TopicKey;
use peers_node::{Config, Event};
use peers_tests::nat::Kind;
use peers_tests::net::{HostId, Links};
use peers_tests::world::World;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const KINDS: [Option<Kind>; 6] = [
    None,
    Some(Kind::FULL_CONE),
    Some(Kind::ADDRESS_RESTRICTED),
    Some(Kind::PORT_RESTRICTED),
    Some(Kind::SYMMETRIC),
    Some(Kind::SYMMETRIC_SEQUENTIAL),
];

fn add(world: &mut World, kind: Option<Kind>) -> HostId {
    let site = world.network.add_site(kind);
    world.add_peer(site, Config::default(), 0)
}

/// Seeks a session with `other` by its key alone.
fn seek(world: &mut World, host: HostId, other: HostId) {
    let id = world.id(other);
    world.with(host, |stack, now, wall| stack.connect(now, wall, id, &[])).expect("few are sought");
}

/// Runs until the two have a session, and returns how long that took.
fn meet(world: &mut World, a: HostId, b: HostId, within: Duration) -> Option<Duration> {
    let (start, id_a, id_b) = (world.now(), world.id(a), world.id(b));
    loop {
        if world.stack(a).is_connected(id_b) && world.stack(b).is_connected(id_a) {
            return Some(world.now() - start);
        }
        world.next(start + within)?;
    }
}

/// Runs until `host` receives a message on the topic that says `text`.
fn hear(world: &mut World, host: HostId, text: &[u8], within: Duration) -> bool {
    let until = world.now() + within;
    while let Some((who, event)) = world.next(until) {
        if who == host && matches!(event, Event::Message(message) if message.payload == text) {
            return true;
        }
    }
    false
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn two_peers_behind_any_two_translators_meet_through_a_common_peer() {
    for (i, a) in KINDS.into_iter().enumerate() {
        for b in &KINDS[i..] {
            let mut world = World::new(Links::default(), 1);
            let [common, a_host, b_host] = [None, a, *b].map(|kind| add(&mut world, kind));
            world.introduce(a_host, common);
            world.introduce(b_host, common);
            assert!(meet(&mut world, a_host, common, secs(5)).is_some() && meet(&mut world, b_host, common, secs(5)).is_some());
            seek(&mut world, a_host, b_host);
            assert!(meet(&mut world, a_host, b_host, secs(5)).is_some(), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn two_peers_on_a_lan_without_internet_find_each_other_and_talk() {
    let mut world = World::new(Links { loss: 1.0, ..Links::default() }, 2);
    let lan = world.network.add_site(Some(Kind::PORT_RESTRICTED));
    let [a, b] = [(); 2].map(|()| world.add_peer(lan, Config::default(), 0));
    let topic = TopicKey::from_seed([5; 32]);
    world.with(b, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    assert!(meet(&mut world, a, b, secs(10)).is_some());
    world.with(a, |stack, now, wall| stack.publish(now, wall, &topic, b"hello").expect("it is short"));
    assert!(hear(&mut world, b, b"hello", secs(5)));
}

#[test]
fn a_session_outlives_the_reboot_of_a_translator() {
    let mut world = World::new(Links::default(), 3);
    let [common, a, b] = [None, Some(Kind::PORT_RESTRICTED), Some(Kind::FULL_CONE)].map(|kind| add(&mut world, kind));
    world.introduce(a, common);
    world.introduce(b, common);
    let topic = TopicKey::from_seed([6; 32]);
    world.with(b, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    world.run(secs(20));
    let site = world.network.site(a);
    world.network.rebind(site);
    world.run(secs(80));
    assert!(meet(&mut world, a, common, secs(1)).is_some(), "a session with the common peer again");
    world.with(a, |stack, now, wall| stack.publish(now, wall, &topic, b"hello").expect("it is short"));
    assert!(hear(&mut world, b, b"hello", secs(5)));
}

#[test]
fn a_laptop_that_slept_an_hour_is_back_within_seconds() {
    let mut world = World::new(Links::default(), 4);
    let [common, laptop, other] = [None, Some(Kind::SYMMETRIC), Some(Kind::PORT_RESTRICTED)].map(|kind| add(&mut world, kind));
    world.introduce(laptop, common);
    world.introduce(other, common);
    let topic = TopicKey::from_seed([7; 32]);
    world.with(laptop, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    world.run(secs(20));
    world.sleep(laptop);
    world.run(secs(100));
    world.with(other, |stack, now, wall| stack.publish(now, wall, &topic, b"while you slept").expect("it is short"));
    world.run(secs(3620));
    world.awake(laptop);
    assert!(hear(&mut world, laptop, b"while you slept", secs(30)));
}

#[test]
fn random_truncated_and_replayed_datagrams_are_dropped_and_counted_and_hurt_nobody() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut world = World::new(Links { corruption: 0.2, duplication: 0.3, ..Links::default() }, 5);
    let [a, b] = [None, Some(Kind::FULL_CONE)].map(|kind| add(&mut world, kind));
    let site = world.network.add_site(None);
    let stranger = world.add_stranger(site);
    world.introduce(b, a);
    let topic = TopicKey::from_seed([8; 32]);
    world.with(b, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    let target = world.network.address(a);
    for i in 0..2000 {
        let mut junk = vec![0; rng.random_range(0..1500)];
        rng.fill(&mut junk[..]);
        // Mostly of a known kind, so that it is not refused at its first byte.
        if let Some(kind) = junk.first_mut() {
            *kind = if i % 10 == 0 { *kind } else { rng.random_range(1..=9) };
        }
        world.network.send(stranger, target, Bytes::from(junk));
        world.run(Duration::from_millis(10 * i));
    }
    world.with(a, |stack, now, wall| stack.publish(now, wall, &topic, b"still here").expect("it is short"));
    assert!(hear(&mut world, b, b"still here", secs(10)));
    let stats = world.stack(a).stats().nat;
    let dropped = stats.dropped_malformed
        + stats.dropped_oversized
        + stats.dropped_unknown
        + stats.dropped_forged
        + stats.dropped_replayed
        + stats.dropped_limited
        + stats.dropped_early
        + stats.dropped_relayed
        + stats.dropped_beacons;
    assert!(dropped >= 1900, "{stats:?}");
    assert!(
        stats.dropped_malformed > 0 && stats.dropped_oversized > 0 && stats.dropped_unknown > 0 && stats.dropped_forged > 0,
        "{stats:?}"
    );
}
