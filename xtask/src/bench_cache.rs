//! Figures of the cache: how fast it takes in packets when it is full, and what it costs two peers to find what each is missing.

use std::hint::black_box;
use std::time::Instant;

use peers_cache::{Cache, Config};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, MessageHeader, Packet, PeerId, Signature, Timestamp, TopicId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};

use crate::bench_crypto::median;
use crate::reconciling::median_cost;

const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// Measures the store and reconciliation.
///
/// - returns: `K2_per_s`, inserts of a checked packet of 512 bytes into a full cache of 16 MiB, copy and eviction included, and `K2_wanted_per_s`, the same where all
///   topics are wanted, so that each has a sketch that is kept up to date; `K1_*`, what it costs two peers with 6,604 packets of a topic each, of which 66 are missing
///   at the other, to find which, and `reconcile`, the same for other sizes. See [`reconciling::Cost`](crate::reconciling::Cost).
pub(crate) fn run() -> Value {
    let goal = median_cost(6604, 66);
    let others: Vec<Value> = [(6604, 1), (6604, 6), (6604, 200), (300, 3), (16_384, 80)].map(|(both, each)| {
        let cost = median_cost(both, each);
        json!({ "packets": both, "missing_at_each": each, "bytes_until_one_knows": cost.bytes_until_one_knows, "bytes": cost.bytes, "bytes_in_all": cost.bytes_in_all, "round_trips": cost.round_trips(), "cpu_ms": cost.cpu_ms() })
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
    let mut cache = Cache::new(now, Config { wanted_budget: 0, ..Config::default() }, PeerId([3; 32]), [1; 32]);
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

#[expect(clippy::disallowed_methods, reason = "measures")]
fn now() -> Instant {
    Instant::now()
}
