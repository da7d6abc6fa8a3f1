//! Sessions, signatures and sealing, as a node uses them.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use peers_crypto::{
    DeviceKey, Domain, Draft, Initiator, MAX_AEGIS_PLAINTEXT, MAX_PLAINTEXT, Response, Session, TopicKey, check_publisher, respond, verify,
};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

const WALL: Timestamp = Timestamp(1_700_000_000_000);

fn keys() -> (DeviceKey, DeviceKey, ChaCha20Rng) {
    (DeviceKey::from_seed(&[1; 32]), DeviceKey::from_seed(&[2; 32]), ChaCha20Rng::seed_from_u64(1))
}

/// A whole IK handshake: what both ends compute.
fn handshake(alice: &DeviceKey, bob: &DeviceKey, rng: &mut ChaCha20Rng) -> (Session, Session) {
    let (mut waiting, first) = Initiator::ik(alice, bob.id(), 1, WALL, &[], rng).expect("a valid key");
    let Ok(Response::Ik { session, reply, .. }) = respond(bob, &first, 2, &[], rng) else { panic!("a valid initiation") };
    (waiting.finish(alice, &reply).expect("a valid response").session, session)
}

fn session(criterion: &mut Criterion) {
    let (alice, bob, mut rng) = keys();
    criterion.bench_function("handshake_ik", |bencher| bencher.iter(|| handshake(&alice, &bob, &mut rng)));

    let (mut sending, mut receiving) = handshake(&alice, &bob, &mut rng);
    let plaintext = [7; 1024];
    let mut out = Vec::with_capacity(1200);
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(1024));
    group.bench_function("1024", |bencher| {
        bencher.iter(|| {
            out.clear();
            sending.seal(black_box(&plaintext), &mut out);
        });
    });
    group.finish();
    // A datagram opens once: each is sealed in the measured loop as well. The longest ones are sealed with ChaCha20-Poly1305.
    let mut group = criterion.benchmark_group("seal_and_open");
    for length in [1024, MAX_AEGIS_PLAINTEXT, MAX_PLAINTEXT] {
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(length.to_string(), |bencher| {
            bencher.iter(|| {
                out.clear();
                sending.seal(black_box(&[7; MAX_PLAINTEXT][..length]), &mut out);
                receiving.open_in_place(&mut out).map(|plaintext| plaintext.len())
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Bytes(1024));
    group.bench_function("1024", |bencher| {
        bencher.iter_batched(
            || {
                let mut out = Vec::with_capacity(1200);
                sending.seal(&plaintext, &mut out);
                out
            },
            |mut datagram| receiving.open_in_place(&mut datagram).map(|plaintext| plaintext.len()),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn signatures(criterion: &mut Criterion) {
    let (alice, _, mut rng) = keys();
    let signature = alice.sign(Domain::TOPIC, &[&[7; 32]]);
    criterion.bench_function("sign", |bencher| bencher.iter(|| alice.sign(Domain::TOPIC, &[black_box(&[7; 32])])));
    criterion.bench_function("verify", |bencher| {
        bencher.iter(|| verify(&alice.id(), Domain::TOPIC, &[black_box(&[7; 32])], &signature));
    });
    let topic = TopicKey::generate(&mut rng);
    let draft = Draft { created: WALL, lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
    let body = [7; 512];
    criterion.bench_function("topic_seal/512", |bencher| bencher.iter(|| topic.seal(&alice, draft, black_box(&body), &mut rng)));
    let head = topic.seal(&alice, draft, &body, &mut rng).expect("small enough").remove(0);
    let read = topic.read_key();
    criterion.bench_function("topic_open/512", |bencher| bencher.iter(|| read.open(&head, black_box(head.payload()))));
    criterion.bench_function("check_publisher/512", |bencher| bencher.iter(|| check_publisher(black_box(&head))));
}

criterion_group!(benches, session, signatures);
criterion_main!(benches);
