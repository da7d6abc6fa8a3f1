use super::evict::{ORIGIN_SHARE, TOPIC_SHARE};
use super::model::Model;
use super::*;
use crate::testing::{WALL, allocated, packet};
use proptest::prelude::*;
use std::collections::BTreeSet;

const ID: PeerId = PeerId([9; 32]);

/// A store for about so many packets of 160 bytes.
fn store(packets: usize) -> Store {
    Store::new(packets * (300 + PACKET_COST) + TOPIC_COST, 0, &ID, [1, 2])
}

fn key(packet: &Packet) -> Key {
    Key::from(packet.id())
}

fn insert(store: &mut Store, packet: &Packet, origin: Option<u64>, wanted: bool) -> Inserted {
    store.insert(packet.to_owned_copy(), origin, wanted, WALL, 0)
}

fn tag(topic: u8) -> Tag {
    Tag::from(packet(topic, 0, 0).topic())
}

#[derive(Debug, Clone)]
enum Op {
    Insert { topic: u8, number: u64, size: usize, origin: Option<u64>, wanted: bool },
    Remove(usize),
    Holds(usize),
    Prefer { topic: u8, wanted: bool },
    Expire { minutes: u64 },
    Turn,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        16 => (0..6u8, 0..200u64, 0..600usize, proptest::option::of(1..6u64), proptest::bool::weighted(0.3))
            .prop_map(|(topic, number, size, origin, wanted)| Op::Insert { topic, number, size, origin, wanted }),
        // A flooder.
        8 => (6..60u8, 0..200u64, 0..600usize).prop_map(|(topic, number, size)| Op::Insert { topic, number, size, origin: Some(9), wanted: false }),
        1 => any::<usize>().prop_map(Op::Remove),
        4 => any::<usize>().prop_map(Op::Holds),
        1 => (0..6u8, any::<bool>()).prop_map(|(topic, wanted)| Op::Prefer { topic, wanted }),
        1 => (0..62u64).prop_map(|minutes| Op::Expire { minutes }),
        4 => Just(Op::Turn),
    ]
}

/// The books are the sum over what is held, and every index finds it.
fn check_books(store: &Store, model: &Model) -> Result<(), TestCaseError> {
    let packets = || store.slots.iter().filter_map(|slot| slot.packet.as_ref());
    prop_assert_eq!(packets().map(Packet::id).collect::<BTreeSet<_>>(), model.held());
    prop_assert_eq!(store.len(), model.held().len());
    prop_assert_eq!(store.used(), model.used());
    prop_assert!(store.used() <= store.budget.max(store.wanted_budget + store.budget / 4));
    prop_assert_eq!(store.bytes, packets().map(cost).sum::<usize>());
    let by_topic: BTreeSet<_> = (0..60).flat_map(|topic| store.packets(tag(topic)).map(Packet::id).collect::<Vec<_>>()).collect();
    prop_assert_eq!(by_topic, model.held());
    for packet in packets() {
        prop_assert_eq!(store.get(key(packet)), Some(packet));
        let follows = packet.previous().is_none_or(|link| store.after(Key::from(link)).any(|after| after.id() == packet.id()));
        prop_assert!(follows, "it is found by its predecessor");
    }
    prop_assert!(store.slots.len() <= store.len() + store.len() / 4 + 64, "{} slots for {} packets", store.slots.len(), store.len());
    Ok(())
}

proptest! {
    #[test]
    fn the_store_holds_what_the_written_policy_keeps(ops in proptest::collection::vec(op(), 0..500), packets in 10..120usize, wanted in 0..200usize) {
        let mut store = store(packets);
        store.wanted_budget = wanted * 500;
        let mut model = Model::new(store.budget, store.wanted_budget, ID);
        let mut wall = WALL;
        for op in ops {
            let some = |at: usize| model.held().into_iter().nth(at % model.held().len().max(1));
            match op {
                Op::Insert { topic, number, size, origin, wanted } => {
                    let packet = packet(topic, number, size);
                    let held = model.held().contains(&packet.id());
                    let inserted = store.insert(packet.to_owned_copy(), origin, wanted, wall, 0);
                    if inserted == Inserted::TooLarge {
                        prop_assert!(cost(&packet) + TOPIC_COST + ORIGIN_COST > store.budget / 4);
                        continue;
                    }
                    prop_assert_eq!(inserted, if held { Inserted::Held } else { Inserted::New });
                    model.insert(&packet, origin, wanted, wall);
                    prop_assert!(store.contains(key(&packet)) || packet.expires().plus(60_000) >= wall, "the newest is never the victim");
                }
                Op::Remove(at) => if let Some(id) = some(at) {
                    store.remove(Key::from(id));
                    model.remove(id);
                },
                Op::Holds(at) => if let Some(id) = some(at) {
                    if let Some(slot) = store.slot_mut(Key::from(id)) {
                        slot.holders += 1;
                    }
                    model.holds(id);
                },
                Op::Prefer { topic, wanted } => {
                    store.prefer(tag(topic), wanted);
                    model.prefer(tag(topic), wanted);
                }
                Op::Expire { minutes } => {
                    wall = wall.max(WALL.plus(minutes * 60_000));
                    store.expire(wall);
                    model.expire(wall);
                }
                Op::Turn => prop_assert_eq!(store.next_in_turn(7, 100), model.turn().map(Key::from)),
            }
            check_books(&store, &model)?;
        }
        store.expire(Timestamp::MAX);
        prop_assert_eq!((store.len(), store.used()), (0, 0));
    }
}

/// Fills a store, changes what it is filled with, and empties it, and sees each time that what is allocated is what is accounted.
#[test]
fn the_budget_covers_what_is_allocated() {
    for budget in [64 << 10, 1 << 20, 8 << 20] {
        let before = allocated();
        let mut store = Store::new(budget, budget * 2, &ID, [1, 2]);
        let mut number = 0;
        let mut fill = |store: &mut Store, topics: u64, size: usize, wanted: u64| {
            let count = 3 * budget / (size + 132 + PACKET_COST);
            for i in 0..count as u64 {
                number += 1;
                // Creation times in no order, as packets come late; a minute of expiry of their own for some.
                let packet = packet(u8::try_from(i % topics).unwrap(), number * 7919 % 4_000_000, size);
                store.insert(packet, Some(i % 97 + 1), i % 10 < wanted, WALL, 0);
                store.gone.clear();
                if i % (count as u64 / 7 + 1) == 0 {
                    let (real, used) = (allocated() - before, store.used() + 8192);
                    assert!(real <= used, "{real} allocated, {used} accounted, {} packets of {size} on {topics} topics", store.len());
                }
            }
            let (real, used) = (allocated() - before, store.used());
            assert!(real >= used / 100 * 45, "{real} allocated of {used} accounted, {} packets of {size} on {topics} topics", store.len());
        };
        // Many small ones, then few large ones, on few topics and many; wanted ones that take more than the budget.
        for (topics, size, wanted) in [(1, 0, 3), (250, 0, 0), (1, 1024, 0), (250, 1024, 3), (40, 0, 0), (3, 1024, 10), (250, 300, 1)] {
            fill(&mut store, topics, size, wanted);
        }
        let half: Vec<Key> = store.slots.iter().filter_map(|slot| slot.packet.as_ref()).map(key).step_by(2).collect();
        for (i, key) in half.into_iter().enumerate() {
            store.remove(key);
            store.gone.clear();
            if i % 1000 == 0 {
                let real = allocated() - before;
                assert!(real <= store.used() + 8192, "{real} allocated, {} accounted while it empties", store.used());
            }
        }
        store.expire(Timestamp::MAX);
        store.gone = Vec::new();
        let left = allocated() - before;
        assert!(left <= 64 << 10, "{left} bytes are left in an empty store");
    }
}

#[test]
fn expired_packets_go_before_any_other() {
    let mut store = store(20);
    // Near ones and wanted ones, which would stay, and one from an hour later.
    for number in 0..40 {
        insert(&mut store, &packet(1, number, 160), None, number % 2 == 0);
    }
    let (young, new) = (packet(2, 3_600_000, 160), packet(3, 3_600_001, 160));
    insert(&mut store, &young, None, false);
    assert!(store.len() > 5 && of_topic(&store, 1) > 0);
    store.insert(new.clone(), None, false, WALL.plus(3_660_000), 0);
    assert!(store.contains(key(&young)) && store.contains(key(&new)));
    assert_eq!(store.len(), 2);
}

fn of_topic(store: &Store, topic: u8) -> usize {
    store.packets(tag(topic)).map(cost).sum()
}

#[test]
fn a_topic_over_its_share_gives_up_its_own_oldest() {
    let mut store = store(80);
    for number in 0..400 {
        insert(&mut store, &packet(u8::try_from(number % 40).unwrap() + 10, number, 160), Some(number % 7), false);
    }
    for number in 0..400 {
        insert(&mut store, &packet(1, number, 160), Some(number % 7), false);
    }
    let flood = of_topic(&store, 1);
    assert!(flood <= store.budget / TOPIC_SHARE, "{flood} bytes");
    assert!(store.contains(key(&packet(1, 399, 160))) && !store.contains(key(&packet(1, 300, 160))));
}

/// 1200 honest packets of 12 origins, then many more of one that floods, on many topics, through as many keys as it likes: its share is that of one.
#[test]
fn an_origin_over_its_share_gives_up_what_it_brought() {
    let mut store = store(1000);
    for number in 0..1200 {
        insert(&mut store, &packet(u8::try_from(number % 200).unwrap(), number, 160), Some(number % 12), false);
    }
    for number in 0..20_000 {
        insert(&mut store, &packet(u8::try_from(number % 211).unwrap(), 10_000 + number, 160), Some(99), false);
    }
    let flood: usize =
        store.slots.iter().filter(|slot| slot.origin.map(u64::from) == Some(99)).filter_map(|slot| slot.packet.as_ref()).map(cost).sum();
    assert!(flood <= store.budget / ORIGIN_SHARE, "{flood} of {}", store.budget);
}

#[test]
fn more_origins_than_are_told_apart_share_an_account_and_what_they_leave_is_used_again() {
    let mut store = Store::new(8 << 20, 0, &ID, [1, 2]);
    let mut packets = Vec::new();
    for number in 0..3 * accounts::MAX_ORIGINS as u64 {
        let packet = packet(u8::try_from(number % 200).unwrap(), number, 0);
        insert(&mut store, &packet, Some(number + 10), false);
        packets.push(packet);
    }
    let accounts: BTreeSet<u16> = store.slots.iter().map(|slot| slot.account).collect();
    assert_eq!(accounts.len(), accounts::MAX_ORIGINS - 1, "each its own but the last ones, and none in ours");
    packets.iter().for_each(|packet| store.remove(key(packet)));
    let again = packet(1, 0, 0);
    insert(&mut store, &again, Some(7), false);
    let account = store.slot_mut(key(&again)).unwrap().account;
    assert!(account > 1, "an account of its own again");
}

#[test]
fn strangers_packets_give_way_to_wanted_ones_and_of_them_the_farthest() {
    let mut store = store(80);
    let foreign: Vec<_> = (0..80).map(|number| packet(u8::try_from(number % 40).unwrap() + 10, number, 160)).collect();
    for (packet, origin) in foreign.iter().zip((0..9).cycle()) {
        assert_eq!(insert(&mut store, packet, Some(origin), false), Inserted::New);
    }
    let own: Vec<_> = (0..20).map(|number| packet(u8::try_from(number % 5).unwrap(), number, 160)).collect();
    own.iter().for_each(|packet| assert_eq!(insert(&mut store, packet, None, true), Inserted::New));
    assert!(own.iter().all(|packet| store.contains(key(packet))));
    // Of those that settled, before the newest eighth, the nearer half fares better than the farther.
    let mut ranked: Vec<_> = foreign[..60].iter().map(|packet| (store.distance(key(packet)), store.contains(key(packet)))).collect();
    ranked.sort_unstable();
    let held = |half: &[(u64, bool)]| half.iter().filter(|(_, held)| *held).count();
    assert!(held(&ranked[..30]) > held(&ranked[30..]), "{ranked:?}");
}

#[test]
fn what_many_hold_goes_before_what_is_twice_as_far_and_not_before_what_is_much_farther() {
    let distance = |packet: &Packet| u64::MAX - (u64::MAX - (key(packet).0[1] ^ 0x0909_0909_0909_0909));
    let mut packets: Vec<_> = (0..400).map(|number| packet(u8::try_from(number % 100).unwrap(), number, 160)).collect();
    packets.sort_unstable_by_key(distance);
    let near_the = |share: u64| packets.iter().min_by_key(|packet| distance(packet).abs_diff(u64::MAX / share)).unwrap().clone();
    for (plenty, other, goes) in [(near_the(5), near_the(3), true), (near_the(90), near_the(3), false)] {
        let mut store = store(20);
        insert(&mut store, &plenty, None, false);
        store.slot_mut(key(&plenty)).unwrap().holders = 3;
        insert(&mut store, &other, None, false);
        let mut nearest = packets.iter().filter(|packet| **packet != plenty && **packet != other);
        while store.contains(key(&plenty)) && store.contains(key(&other)) {
            insert(&mut store, nearest.next().unwrap(), None, false);
        }
        assert_eq!(!store.contains(key(&plenty)), goes);
    }
}

/// Who writes to one topic that is wanted here, as anyone may to an inbox, displaces that topic's packets and no others.
#[test]
fn a_flood_on_one_wanted_topic_leaves_the_others_alone() {
    let mut store = store(200);
    let own: Vec<_> = (0..60).map(|number| packet(u8::try_from(number % 6).unwrap(), number, 160)).collect();
    own.iter().for_each(|packet| assert_eq!(insert(&mut store, packet, Some(1), true), Inserted::New));
    for number in 0..2000 {
        insert(&mut store, &packet(9, number, 160), Some(2), true);
    }
    assert!(own.iter().all(|packet| store.contains(key(packet))));
    assert!(store.contains(key(&packet(9, 1999, 160))));
}

#[test]
fn wanted_packets_may_take_more_than_the_budget_and_leave_strangers_a_quarter() {
    let mut store = Store::new(1 << 20, 2 << 20, &ID, [1, 2]);
    for number in 0..2000 {
        insert(&mut store, &packet(u8::try_from(number % 200).unwrap() + 1, number, 1000), Some(number % 9), false);
    }
    for number in 0..2000 {
        insert(&mut store, &packet(0, number, 1000), Some(1), true);
    }
    let wanted = of_topic(&store, 0);
    assert!(wanted > (2 << 20) / 100 * 99 && wanted <= 2 << 20, "{wanted}");
    let strangers = store.used() - wanted;
    assert!(strangers > (1 << 18) / 10 * 9 && strangers <= (1 << 18) + TOPIC_COST + SKETCH_COST, "{strangers}");
}
