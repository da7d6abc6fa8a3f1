//! `insert_full`: a checked packet into a full cache of 16 MiB. `get`: one of its packets by id. `gossip/128`: one publish through 128 caches.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use peers_cache::{Cache, Config};
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{Link, MAX_POSTAGE, MessageHeader, Packet, PeerId, Signature, Timestamp, TopicId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// Message packets of 512 bytes on 100 topics, created one millisecond apart.
fn packets(count: usize) -> Vec<Packet> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let packet = |i: usize| {
        let header = MessageHeader {
            postage: MAX_POSTAGE,
            created: WALL.plus(i as u64),
            lifetime: 72 * 60,
            fragments: 0,
            topic: TopicId([u8::try_from(i % 100).unwrap_or(0); 32]),
            previous: Link(rng.random()),
            signature: Signature([7; 64]),
        };
        header.packet(&rng.random::<[u8; 512]>()).expect("all fields are in range")
    };
    (0..count).map(packet).collect()
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn insert(c: &mut Criterion) {
    let (now, packets) = (now(), packets(60_000));
    let mut cache = Cache::new(now, Config::default(), PeerId([3; 32]), [1; 32]);
    let load = |cache: &mut Cache, packet: &Packet| {
        cache.load(now, WALL, packet.clone());
        while let Some(event) = cache.poll_event() {
            black_box(event);
        }
    };
    packets.iter().for_each(|packet| load(&mut cache, packet));
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(1));
    // Twice as many packets as fit: each was evicted before its turn comes again.
    let mut turn = packets.iter().cycle();
    group.bench_function("insert_full", |b| b.iter(|| turn.next().map(|packet| load(&mut cache, packet))));
    let held: Vec<_> = packets.iter().map(Packet::id).filter(|id| cache.get(id).is_some()).collect();
    let mut turn = held.iter().cycle();
    group.bench_function("get", |b| b.iter(|| black_box(turn.next().and_then(|id| cache.get(id)))));
    group.finish();
}

/// Caches in a mesh without latency: messages arrive in the order in which they are sent.
struct Mesh {
    now: Instant,
    caches: Vec<Cache>,
    queue: VecDeque<(usize, PeerId, Bytes)>,
}

fn id(peer: usize) -> PeerId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&peer.to_le_bytes());
    PeerId(id)
}

impl Mesh {
    fn new(count: usize, topic: TopicId) -> Self {
        let now = now();
        let caches = (0..count).map(|i| Cache::new(now, Config::default(), id(i), [u8::try_from(i).unwrap_or(0); 32])).collect();
        let mut mesh = Self { now, caches, queue: VecDeque::new() };
        for i in 0..count {
            if i % 2 == 0 {
                mesh.caches[i].subscribe(now, topic);
            }
            for step in [1, 3, 7, 17, 39] {
                let other = (i + step) % count;
                mesh.caches[i].peer_connected(now, id(other));
                mesh.caches[other].peer_connected(now, id(i));
            }
        }
        mesh.settle();
        mesh
    }

    fn drain(&mut self, peer: usize) {
        while let Some((to, message)) = self.caches[peer].poll_message() {
            let to = usize::from_le_bytes(to.0[..8].try_into().expect("8 bytes"));
            self.queue.push_back((to, id(peer), message));
        }
        while let Some(event) = self.caches[peer].poll_event() {
            black_box(event);
        }
    }

    /// Runs until nothing happens for three seconds but what is periodic.
    fn settle(&mut self) {
        (0..self.caches.len()).for_each(|peer| self.drain(peer));
        let end = self.now + std::time::Duration::from_secs(3);
        loop {
            while let Some((to, from, message)) = self.queue.pop_front() {
                self.caches[to].handle_message(self.now, WALL, from, message);
                self.drain(to);
            }
            let next = self.caches.iter().enumerate().filter_map(|(peer, cache)| Some((cache.poll_timeout()?, peer))).min();
            let Some((at, peer)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.caches[peer].handle_timeout(self.now, WALL);
            self.drain(peer);
        }
        self.now = end;
    }
}

fn gossip(c: &mut Criterion) {
    let topic = TopicKey::from_seed([3; 32]);
    let (author, mut rng) = (DeviceKey::from_seed(&[1; 32]), ChaCha20Rng::seed_from_u64(2));
    let mut mesh = Mesh::new(128, topic.id());
    let mut group = c.benchmark_group("gossip");
    group.throughput(Throughput::Elements(127));
    let mut draft = Draft { created: WALL, lifetime: 72 * 60, previous: Link::NONE, postage: MAX_POSTAGE };
    let mut seal = || {
        draft.created = draft.created.plus(1);
        topic.seal(&author, draft, &[5; 512], &mut rng).expect("it is not too large")
    };
    group.sample_size(20).bench_function("128", |b| {
        b.iter_batched(
            &mut seal,
            |packets| {
                let now = mesh.now;
                mesh.caches[0].publish(now, WALL, packets);
                mesh.settle();
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, insert, gossip);
criterion_main!(benches);
