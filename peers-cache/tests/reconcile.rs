//! Whole reconciliation against a naive model: of any sets, whatever gets lost, doubled or overtaken, everyone has in the end all that anyone had of what it wants.

mod network;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use network::Network;
use peers_cache::Config;
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, Packet, PacketId, Timestamp};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

const TOPICS: usize = 2;

fn topic(number: usize) -> TopicKey {
    TopicKey::from_seed([u8::try_from(number).expect("few") + 3; 32])
}

/// Packets of each topic, created at any time of a day.
static POOL: LazyLock<Vec<Vec<Packet>>> = LazyLock::new(|| {
    let (author, mut rng) = (DeviceKey::from_seed(&[1; 32]), ChaCha20Rng::seed_from_u64(1));
    let mut seal = |number: usize| {
        let created = Timestamp(network::EPOCH - rng.random_range(0..86_400_000));
        let draft = Draft { created, lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
        topic(number).seal(&author, draft, &[0; 10], &mut rng).expect("it is short").remove(0)
    };
    (0..TOPICS).map(|number| (0..700).map(|_| seal(number)).collect()).collect()
});

/// Who holds what in the beginning, and who wants what.
#[derive(Debug, Clone)]
struct Setting {
    seed: u64,
    /// Of each topic, how many packets everyone holds, and how many of the others each holds at most.
    both: [usize; TOPICS],
    each: [usize; TOPICS],
    /// By peer and topic.
    wants: Vec<[bool; TOPICS]>,
    loss: f64,
    doubled: f64,
    jitter: Duration,
}

fn setting(peers: core::ops::Range<usize>) -> impl Strategy<Value = Setting> {
    let counts = || (0..500usize, 0..200usize);
    let wants = proptest::collection::vec(proptest::array::uniform2(proptest::bool::weighted(0.7)), peers);
    let faults = (0..30u32, 0..30u32, 0..200u64);
    (any::<u64>(), counts(), counts(), wants, faults).prop_map(|(seed, a, b, wants, (loss, doubled, jitter))| Setting {
        seed,
        both: [a.0, b.0],
        each: [a.1, b.1],
        wants,
        loss: f64::from(loss) / 100.0,
        doubled: f64::from(doubled) / 100.0,
        jitter: Duration::from_millis(jitter + 1),
    })
}

/// The peers with their packets, not yet connected, and what each is to have in the end.
fn build(setting: &Setting) -> (Network, Vec<BTreeSet<PacketId>>) {
    let mut network = Network::new(setting.seed);
    (network.loss, network.doubled, network.jitter) = (setting.loss, setting.doubled, setting.jitter);
    let mut rng = ChaCha20Rng::seed_from_u64(setting.seed);
    let mut goal = vec![BTreeSet::new(); setting.wants.len()];
    let mut all = [const { BTreeSet::new() }; TOPICS];
    for (peer, wants) in setting.wants.iter().enumerate() {
        network.add(Config::default());
        (0..TOPICS).filter(|number| wants[*number]).for_each(|number| network.subscribe(peer, topic(number).id()));
        for number in 0..TOPICS {
            let (both, others) = POOL[number].split_at(setting.both[number]);
            let mut others: Vec<&Packet> = others[..setting.each[number]].iter().collect();
            others.shuffle(&mut rng);
            others.truncate(rng.random_range(0..=others.len()));
            for packet in both.iter().chain(others) {
                network.with(peer, |cache, now, wall| cache.load(now, wall, packet.clone()));
                all[number].insert(packet.id());
            }
        }
    }
    for (peer, wants) in setting.wants.iter().enumerate() {
        for number in 0..TOPICS {
            // What is not wanted is kept all the same, and nothing has to be added to it.
            if wants[number] {
                goal[peer].extend(&all[number]);
            } else {
                goal[peer].extend(network.held(peer, &topic(number)));
            }
        }
    }
    (network, goal)
}

/// Runs until all goals are reached, for an hour at most.
fn settle(network: &mut Network, setting: &Setting, goal: &[BTreeSet<PacketId>]) -> Result<(), TestCaseError> {
    let held = |network: &Network, peer: usize| (0..TOPICS).flat_map(|number| network.held(peer, &topic(number))).collect::<BTreeSet<_>>();
    for _ in 0..360 {
        network.run(Duration::from_secs(10));
        if goal.iter().enumerate().all(|(peer, goal)| held(network, peer).is_superset(goal)) {
            break;
        }
    }
    for (peer, goal) in goal.iter().enumerate() {
        let held = held(network, peer);
        prop_assert!(held.is_superset(goal), "peer {} lacks {} of {}", peer, goal.difference(&held).count(), goal.len());
        let pool: BTreeSet<PacketId> = POOL.iter().flatten().map(Packet::id).collect();
        prop_assert!(held.is_subset(&pool));
        // Where much is lost, silence can look like a lie, and costs ten minutes of sketches.
        prop_assert!(setting.loss > 0.1 || network.peers[peer].stats().poisoned == 0, "nobody lied: {:?}", setting);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn two_peers_have_the_union_of_what_they_want(setting in setting(2..3)) {
        let (mut network, goal) = build(&setting);
        network.connect(0, 1);
        settle(&mut network, &setting, &goal)?;
    }

    #[test]
    fn several_peers_have_the_union_of_what_they_want(setting in setting(3..5)) {
        let (mut network, goal) = build(&setting);
        for peer in 0..setting.wants.len() {
            (0..peer).for_each(|other| network.connect(other, peer));
        }
        settle(&mut network, &setting, &goal)?;
    }

    #[test]
    fn a_comparison_cut_at_any_message_goes_on_where_the_two_meet_again(setting in setting(2..3), cuts in proptest::collection::vec(0..60u64, 1..5)) {
        let (mut network, goal) = build(&setting);
        for cut in cuts {
            network.connect(0, 1);
            let end = network.datagrams + cut;
            for _ in 0..2000 {
                if network.datagrams >= end {
                    break;
                }
                network.run(Duration::from_millis(5));
            }
            network.disconnect(0);
            network.run(Duration::from_secs(1));
        }
        network.connect(0, 1);
        settle(&mut network, &setting, &goal)?;
    }
}

#[test]
fn few_differences_of_large_sets_cost_few_bytes_and_no_packet_twice() {
    let mut network = Network::new(1);
    for peer in 0..2 {
        network.add(Config::default());
        network.subscribe(peer, topic(0).id());
        for (i, packet) in POOL[0].iter().enumerate() {
            if i % 100 != 7 + peer {
                network.with(peer, |cache, now, wall| cache.load(now, wall, packet.clone()));
            }
        }
    }
    network.connect(0, 1);
    network.run(Duration::from_secs(20));
    assert_eq!(network.held(0, &topic(0)).len(), 700);
    assert_eq!(network.held(0, &topic(0)), network.held(1, &topic(0)));
    assert_eq!(network.packets, 14);
    assert!(network.peers.iter().map(|peer| peer.stats().sketches).sum::<u64>() > 0);
    assert!(network.peers.iter().all(|peer| peer.stats().duplicates == 0));
}
