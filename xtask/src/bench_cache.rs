//! Figures of the cache: how fast it takes in packets when it is full, and what it costs two peers to find what each is missing.

use std::hint::black_box;
use std::time::{Duration, Instant};

use peers_cache::{Cache, Config};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, MessageHeader, Packet, PeerId, Signature, Timestamp, TopicId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};

const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// Measures the store and reconciliation.
///
/// - returns: `K2_per_s`, inserts of a checked packet of 512 bytes into a full cache of 16 MiB, copy and eviction included; `K1_bytes`, `K1_round_trips` and
///   `K1_cpu_ms`, what two peers with 6,604 packets of a topic each, of which 66 are missing at the other, say until both know which, on both sides together
pub(crate) fn run() -> Value {
    let (bytes, round_trips, cpu) = reconcile();
    json!({
        "K1_bytes": bytes,
        "K1_round_trips": round_trips,
        "K1_cpu_ms": (cpu.as_secs_f64() * 1e6).round() / 1e3,
        "K2_per_s": inserts_per_second().round(),
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

fn inserts_per_second() -> f64 {
    let mut packets = packets(&mut ChaCha20Rng::seed_from_u64(1), 60_000, 100, 512);
    let now = now();
    let mut cache = Cache::new(now, Config::default(), PeerId([3; 32]), [1; 32]);
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
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn reconcile() -> (usize, u32, Duration) {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let mut packets = packets(&mut rng, 6604 + 66, 1, 32);
    let topic = packets[0].topic();
    // In random order, so that the last are anywhere in time.
    for i in (1..packets.len()).rev() {
        packets.swap(i, rng.random_range(0..=i));
    }
    let now = now();
    let ids = [PeerId([1; 32]), PeerId([2; 32])];
    let mut caches = ids.map(|id| Cache::new(now, Config::default(), id, id.0));
    for (i, packet) in packets.iter().enumerate() {
        for (side, cache) in caches.iter_mut().enumerate() {
            if !(side * 66..side * 66 + 66).contains(&i) {
                cache.load(now, WALL, packet.clone());
            }
        }
    }
    for (side, cache) in caches.iter_mut().enumerate() {
        cache.subscribe(now, topic);
        cache.peer_connected(now, ids[1 - side]);
        while cache.poll_event().is_some() {}
    }
    let (mut bytes, mut crossings, mut cpu) = (0, 0u32, Duration::ZERO);
    loop {
        let under_way: Vec<Vec<_>> = caches.iter_mut().map(|cache| core::iter::from_fn(|| cache.poll_message()).collect()).collect();
        if under_way.iter().all(Vec::is_empty) {
            break;
        }
        crossings += 1;
        for (side, messages) in under_way.into_iter().enumerate() {
            for (_, message) in messages {
                bytes += message.len();
                let start = self::now();
                caches[1 - side].handle_message(now, WALL, ids[side], message);
                cpu += start.elapsed();
            }
        }
    }
    // Pulls wait for their delay, so nothing but reconciliation was said. That it found all shows when time goes on.
    let wanted = caches.each_mut().map(|cache| {
        cache.handle_timeout(now + Duration::from_millis(25), WALL);
        cache.stats().pulled
    });
    assert!(wanted.iter().all(|wanted| *wanted > 0), "both found what they miss: {wanted:?}");
    (bytes, crossings.div_ceil(2), cpu)
}

#[expect(clippy::disallowed_methods, reason = "measures")]
fn now() -> Instant {
    Instant::now()
}
