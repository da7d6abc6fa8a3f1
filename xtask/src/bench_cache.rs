//! Figures of the cache: how fast it takes in packets when it is full, and what it costs two peers to find what each is missing.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use peers_cache::{Cache, Config};
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, MessageHeader, Packet, PeerId, Signature, Timestamp, TopicId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};

use crate::bench_crypto::{median, processor_time};

const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// Pairs of sets that a figure of reconciliation is the median of.
const RUNS: u64 = 25;

/// Measures the store and reconciliation.
///
/// - returns: `K2_per_s`, inserts of a checked packet of 512 bytes into a full cache of 16 MiB, copy and eviction included, and `K2_wanted_per_s`, the same where all
///   topics are wanted, so that each has a sketch that is kept up to date; `K1_*`, what it costs two peers with 6,604 packets of a topic each, of which 66 are missing
///   at the other, to find which, and `reconcile`, the same for other sizes. See [`Cost`].
pub(crate) fn run() -> Value {
    let goal = median_cost(6604, 66);
    let others: Vec<Value> = [(6604, 1), (6604, 6), (6604, 200), (300, 3), (16_384, 80)].map(|(both, each)| {
        let cost = median_cost(both, each);
        json!({ "packets": both, "missing_at_each": each, "bytes": cost.bytes, "bytes_in_all": cost.bytes_in_all, "round_trips": cost.round_trips(), "cpu_ms": cost.cpu_ms() })
    }).to_vec();
    json!({
        "K1_bytes": goal.bytes,
        "K1_bytes_in_all": goal.bytes_in_all,
        "K1_round_trips": goal.round_trips(),
        "K1_cpu_ms": goal.cpu_ms(),
        "K2_per_s": inserts_per_second(false).round(),
        "K2_wanted_per_s": inserts_per_second(true).round(),
        "reconcile": others,
    })
}

/// Message packets on `topics` topics, created evenly over the last day.
fn packets(rng: &mut ChaCha20Rng, count: u32, topics: u32, size: usize) -> Vec<Packet> {
    let packet = |i: u32| {
        let mut topic = [0; 32];
        topic[..4].copy_from_slice(&(i % topics).to_be_bytes());
        let header = MessageHeader {
            postage: MAX_POSTAGE,
            created: Timestamp(WALL.0 - 86_400_000 + u64::from(i) * 86_400_000 / u64::from(count)),
            lifetime: DEFAULT_LIFETIME,
            fragments: 0,
            topic: TopicId(topic),
            previous: Link(rng.random()),
            signature: Signature([7; 64]),
        };
        header.packet(&vec![1; size]).expect("every field is in range")
    };
    (0..count).map(packet).collect()
}

fn inserts_per_second(wanted: bool) -> f64 {
    let mut packets = packets(&mut ChaCha20Rng::seed_from_u64(1), 60_000, 100, 512);
    let now = now();
    let mut cache = Cache::new(now, Config::default(), PeerId([3; 32]), [1; 32]);
    if wanted {
        packets[..100].iter().for_each(|packet| cache.subscribe(now, packet.topic()));
    }
    let mut rates: Vec<f64> = (0..15)
        .map(|_| {
            let batch = packets.clone();
            let start = self::now();
            for packet in batch {
                cache.load(now, WALL, packet);
                while let Some(event) = cache.poll_event() {
                    black_box(event);
                }
            }
            let rate = packets.len() as f64 / start.elapsed().as_secs_f64();
            // Those just taken in are still held: the others come first next time.
            packets.rotate_left(30_000);
            rate
        })
        .skip(2)
        .collect();
    assert!(cache.stats().dropped > 500_000);
    median(&mut rates)
}

/// What it takes two peers that meet to find what each is missing.
struct Cost {
    /// All that both say until both know, packets not included.
    bytes: usize,
    /// All that both say until both have everything, packets not included.
    bytes_in_all: usize,
    /// Messages one after the other, from the one that asks to the one by which one of the peers knows what both are missing; the other knows with the next.
    crossings: usize,
    /// Milliseconds of the processor until both know, on both sides together.
    cpu: f64,
}

impl Cost {
    fn round_trips(&self) -> f64 {
        self.crossings as f64 / 2.0
    }

    fn cpu_ms(&self) -> f64 {
        (self.cpu * 1e3).round() / 1e3
    }
}

/// Of each figure the median over [`RUNS`] pairs of sets.
fn median_cost(both: u32, each: u32) -> Cost {
    let mut packets = sealed(both + each);
    let costs: Vec<Cost> = (0..RUNS).map(|seed| reconcile(seed, &mut packets, each as usize)).collect();
    let middle = |of: fn(&Cost) -> usize| {
        let mut all: Vec<usize> = costs.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    Cost {
        bytes: middle(|cost| cost.bytes),
        bytes_in_all: middle(|cost| cost.bytes_in_all),
        crossings: middle(|cost| cost.crossings),
        cpu: median(&mut costs.iter().map(|cost| cost.cpu).collect::<Vec<_>>()),
    }
}

/// Genuine packets of one topic, created evenly over the last day.
fn sealed(count: u32) -> Vec<Packet> {
    let (topic, author, mut rng) = (TopicKey::from_seed([1; 32]), DeviceKey::from_seed(&[2; 32]), ChaCha20Rng::seed_from_u64(3));
    let seal = |i: u32| {
        let created = Timestamp(WALL.0 - 86_400_000 + u64::from(i) * 86_400_000 / u64::from(count));
        let draft = Draft { created, lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
        topic.seal(&author, draft, &[1; 32], &mut rng).expect("it is short")
    };
    (0..count).flat_map(seal).collect()
}

/// Two peers want the topic of the packets and meet; of any `each` of the packets, the first lacks them and the second lacks as many others.
fn reconcile(seed: u64, packets: &mut [Packet], each: usize) -> Cost {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let topic = packets[0].topic();
    // In random order, so that the last are anywhere in time.
    for i in (1..packets.len()).rev() {
        packets.swap(i, rng.random_range(0..=i));
    }
    let now = now();
    let ids = [PeerId([1; 32]), PeerId([2; 32])];
    let config = Config { budget: 64 << 20, ..Config::default() };
    let mut caches = ids.map(|id| Cache::new(now, config.clone(), id, rng.random()));
    for (i, packet) in packets.iter().enumerate() {
        for (side, cache) in caches.iter_mut().enumerate() {
            if !(side * each..side * each + each).contains(&i) {
                cache.load(now, WALL, packet.clone());
            }
        }
    }
    for (side, cache) in caches.iter_mut().enumerate() {
        cache.subscribe(now, topic);
        cache.peer_connected(now, ids[1 - side]);
        while cache.poll_event().is_some() {}
    }
    let mut cost = Cost { bytes: 0, bytes_in_all: 0, crossings: 0, cpu: 0.0 };
    let mut known = false;
    loop {
        let under_way: Vec<Vec<_>> = caches.iter_mut().map(|cache| core::iter::from_fn(|| cache.poll_message()).collect()).collect();
        if under_way.iter().all(Vec::is_empty) {
            break;
        }
        // Who names packets knows, and whom it tells knows then.
        let named = under_way.iter().flatten().any(|(_, message): &(PeerId, Bytes)| message[0] == NAMES);
        cost.crossings += usize::from(!known && !named);
        for (side, messages) in under_way.into_iter().enumerate() {
            for (_, message) in messages {
                let said = if message[0] == PACKET { 0 } else { message.len() };
                cost.bytes_in_all += said;
                let start = processor_time();
                caches[1 - side].handle_message(now, WALL, ids[side], message);
                if !known {
                    cost.bytes += said;
                    cost.cpu += (processor_time() - start) * 1e3;
                }
            }
        }
        known |= named;
    }
    assert!(caches.iter().all(|cache| cache.packets(topic).count() == packets.len()), "both have everything");
    cost
}

/// First bytes of messages.
const PACKET: u8 = 0;
const NAMES: u8 = 13;

#[expect(clippy::disallowed_methods, reason = "measures")]
fn now() -> Instant {
    Instant::now()
}
