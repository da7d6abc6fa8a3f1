//! Packets outlive those who wrote and kept them, and are found by who was away.

mod network;

use std::time::Duration;

use network::Network;
use peers_cache::Config;
use peers_crypto::TopicKey;
use rand::RngExt;

const PEERS: usize = 120;
const DEGREE: usize = 12;
const HOURS: u64 = 8;

/// Peers that stay for an hour on average and are replaced by empty ones: what was published in the first minutes is held by some after half a day, by no more than keep it
/// for a reason, and reaches one who subscribes then.
#[test]
fn a_packet_outlives_its_holders_and_is_found_by_who_returns() {
    let mut network = Network::mesh(7, PEERS, DEGREE);
    let mut alive: Vec<usize> = (0..PEERS).collect();
    let topic = TopicKey::from_seed([5; 32]);
    let mut published = Vec::new();
    for _ in 0..20 {
        let publisher = alive[network.rng.random_range(0..alive.len())];
        published.extend(network.publish(publisher, &topic, 300));
        network.run(Duration::from_secs(10));
    }
    let every = Duration::from_secs(3600) / u32::try_from(PEERS).expect("few");
    let others = TopicKey::from_seed([6; 32]);
    while network.now < Duration::from_secs(HOURS * 3600) {
        let leaver = network.rng.random_range(0..alive.len());
        network.leave(alive[leaver]);
        let fresh = network.add(Config::default());
        alive[leaver] = fresh;
        for _ in 0..DEGREE.div_ceil(2) {
            let other = alive[network.rng.random_range(0..alive.len())];
            network.connect(fresh, other);
        }
        // Who lost neighbours looks for others.
        let poor = alive[network.rng.random_range(0..alive.len())];
        let other = alive[network.rng.random_range(0..alive.len())];
        network.connect(poor, other);
        if network.rng.random_bool(0.2) {
            network.publish(fresh, &others, 300);
        }
        network.run(every);
    }
    let copies: Vec<usize> =
        published.iter().map(|id| alive.iter().filter(|peer| network.peers[**peer].get(id).is_some()).count()).collect();
    let returned = network.add(Config::default());
    network.subscribe(returned, topic.id());
    for _ in 0..10 {
        let other = alive[network.rng.random_range(0..alive.len())];
        network.connect(returned, other);
    }
    let at = network.now;
    network.run(Duration::from_secs(60));
    let delivered = published.iter().filter(|id| network.received.contains_key(&(returned, **id))).count();
    let slowest = published.iter().filter_map(|id| network.received.get(&(returned, *id))).map(|when| *when - at).max();
    eprintln!(
        "{PEERS} peers, {HOURS} h: copies {copies:?}, delivered {delivered} of {}, the last after {slowest:?}; {} datagrams per peer and second",
        published.len(),
        network.datagrams as f64 / PEERS as f64 / (HOURS * 3600) as f64
    );
    assert!(copies.iter().all(|copies| *copies > 0), "{copies:?}");
    assert!(copies.iter().sum::<usize>() < published.len() * PEERS * 2 / 3, "{copies:?}");
    assert_eq!(delivered, published.len());
}
