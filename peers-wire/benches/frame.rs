//! The frame of a signed publish of 1024 bytes, with and without its hashes, and the hash tree of a large message.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use peers_wire::{
    Config, DEFAULT_LIFETIME, Header, Link, MAX_PAYLOAD, MAX_POSTAGE, MessageHeader, Packet, Reassembly, Signature, Timestamp, TopicId,
    split,
};

fn header(fragments: u32) -> MessageHeader {
    MessageHeader {
        postage: MAX_POSTAGE,
        created: Timestamp(1_700_000_000_000),
        lifetime: DEFAULT_LIFETIME,
        fragments,
        topic: TopicId([1; 32]),
        previous: Link([2; 24]),
        signature: Signature([3; 64]),
    }
}

fn frame(criterion: &mut Criterion) {
    let header_of_whole = header(0);
    let packet = header_of_whole.packet(&[7; MAX_PAYLOAD]).expect("in range");
    let bytes: Bytes = packet.as_bytes().clone();
    let mut header_only = |name: &str, body: &dyn Fn(&mut criterion::Bencher<'_>)| {
        criterion.benchmark_group(name).throughput(Throughput::Elements(1)).bench_function("1024", |bencher| body(bencher));
    };
    header_only("decode", &|bencher| bencher.iter(|| black_box(Header::decode(black_box(&bytes)))));
    header_only("encode", &|bencher| bencher.iter(|| black_box(black_box(&header_of_whole).encode())));
    let mut group = criterion.benchmark_group("id");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("1024", |bencher| bencher.iter(|| Packet::decode(black_box(bytes.clone())).map(|packet| packet.id())));
    group.finish();
}

fn large(criterion: &mut Criterion) {
    let sealed: Vec<u8> = (0..1 << 20).map(|i: u32| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Bytes(sealed.len() as u64));
    group.bench_function("1MiB", |bencher| bencher.iter(|| split(black_box(&sealed)).map(|split| split.leaves)));
    group.finish();

    let split = split(&sealed).expect("small enough");
    let packets = split.packets(&header(split.leaves).packet(&split.root).expect("in range")).expect("its head");
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
    let now = Instant::now();
    let mut group = criterion.benchmark_group("reassemble");
    group.throughput(Throughput::Bytes(sealed.len() as u64));
    group.bench_function("1MiB", |bencher| {
        bencher.iter_batched(
            || packets.clone(),
            |packets| {
                let mut reassembly = Reassembly::new(Config::default());
                packets.into_iter().map(|packet| reassembly.insert(now, packet).len()).sum::<usize>()
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, frame, large);
criterion_main!(benches);
