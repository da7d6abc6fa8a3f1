//! CPU time of a pair of transports in memory: no sealing, no socket, both ends.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use peers_node::transport::{Config, Event, Lane, MAX_FRAMES, Transport};
use peers_wire::Writer;

/// Two ends, and a clock that stands still but for timers.
struct Pair {
    now: Instant,
    ends: [Transport; 2],
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn new() -> Self {
        let now = Instant::now();
        Self { now, ends: [[1; 32], [2; 32]].map(|seed| Transport::new(now, Config::default(), seed)) }
    }

    /// Sends `message` to the other end and passes packets, in batches as a driver does, until all of it is acknowledged.
    fn deliver(&mut self, lane: Lane, message: Bytes) {
        self.ends[0].send(lane, message).expect("the queue is empty");
        let mut acked = false;
        while !acked {
            let mut passed = false;
            for side in 0..2 {
                for _ in 0..BATCH {
                    let mut packet = Writer::with_capacity(MAX_FRAMES);
                    if !self.ends[side].poll_transmit(self.now, &mut packet) {
                        break;
                    }
                    self.ends[1 - side].handle_frames(self.now, packet.as_ref());
                    passed = true;
                }
                while let Some(event) = self.ends[1 - side].poll_event() {
                    match event {
                        Event::Message { lane, message } => self.ends[1 - side].consume(lane, black_box(message).len()),
                        Event::Acked(_) => acked = true,
                        Event::Broken(_) => unreachable!("both ends are honest"),
                    }
                }
            }
            self.now += Duration::from_micros(20);
            if !passed {
                let wake = self.ends.iter().filter_map(Transport::poll_timeout).min();
                self.now = wake.map_or(self.now, |wake| wake.max(self.now));
            }
            self.ends.iter_mut().for_each(|end| end.handle_timeout(self.now));
        }
    }
}

/// Datagrams that a driver reads at once.
const BATCH: usize = 32;

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    group.throughput(Throughput::Bytes(1024));
    let message = Bytes::from(vec![7; 1024]);
    let mut pair = Pair::new();
    group.bench_function("1024", |bencher| bencher.iter(|| pair.deliver(Lane::Interactive, message.clone())));
    group.finish();

    let mut group = criterion.benchmark_group("bulk");
    group.sample_size(20).throughput(Throughput::Bytes(16 << 20));
    let message = Bytes::from(vec![7; 16 << 20]);
    let mut pair = Pair::new();
    group.bench_function("16MiB", |bencher| bencher.iter(|| pair.deliver(Lane::Bulk, message.clone())));
    group.finish();
}

criterion_group!(transport, benches);
criterion_main!(transport);
