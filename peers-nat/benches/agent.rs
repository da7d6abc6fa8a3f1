//! What an agent costs: a datagram through two of them, an idle one, a relayed datagram, a handshake.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use peers_crypto::DeviceKey;
use peers_nat::{Agent, Config, Event};
use peers_wire::{PeerId, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

const WALL: Timestamp = Timestamp(1_800_000_000_000);

/// Agents at 192.0.2.1, 192.0.2.2, ... on a network without delay.
struct Net {
    now: Instant,
    agents: Vec<(SocketAddr, Agent)>,
}

impl Net {
    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn new(size: u8) -> Self {
        let now = Instant::now();
        let config = || Config { lan: false, target_sessions: 0, relay_bytes_per_second: u32::MAX, ..Config::default() };
        let agent = |n| {
            let mut agent = Agent::new(now, config(), DeviceKey::generate(&mut ChaCha20Rng::from_seed([n; 32])), [n; 32]);
            let address = SocketAddr::from(([192, 0, 2, n], 4000));
            agent.set_local_addresses(now, &[address]);
            (address, agent)
        };
        Self { now, agents: (1..=size).map(agent).collect() }
    }

    fn id(&self, n: usize) -> PeerId {
        self.agents[n].1.id()
    }

    fn connect(&mut self, a: usize, b: usize) {
        let (id, address) = (self.id(b), self.agents[b].0);
        self.agents[a].1.connect(self.now, WALL, id, &[address]).unwrap();
        self.settle();
    }

    /// Delivers until nothing is under way; returns how many events came up.
    fn settle(&mut self) -> usize {
        let mut flying = VecDeque::new();
        let mut events = 0;
        loop {
            for (address, agent) in &mut self.agents {
                while let Some(transmit) = agent.poll_transmit() {
                    flying.push_back((*address, transmit));
                }
                while let Some(event) = agent.poll_event() {
                    events += usize::from(matches!(event, Event::Data { .. }));
                }
            }
            let Some((source, transmit)) = flying.pop_front() else { return events };
            if let Some((_, agent)) = self.agents.iter_mut().find(|(address, _)| *address == transmit.destination) {
                agent.handle_datagram(self.now, WALL, source, transmit.payload);
            }
        }
    }
}

fn data(c: &mut Criterion) {
    let mut group = c.benchmark_group("data");
    for size in [64, 1024] {
        let mut net = Net::new(2);
        net.connect(0, 1);
        let (id, message) = (net.id(1), vec![7; size]);
        let (source, destination) = (net.agents[0].0, net.agents[1].0);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(size.to_string(), |b| {
            b.iter(|| {
                net.agents[0].1.send(net.now, id, &message).unwrap();
                let transmit = net.agents[0].1.poll_transmit().unwrap();
                assert_eq!(transmit.destination, destination);
                net.agents[1].1.handle_datagram(net.now, WALL, source, transmit.payload);
                black_box(net.agents[1].1.poll_event().unwrap())
            });
        });
    }
    group.finish();
}

fn relay(c: &mut Criterion) {
    let mut group = c.benchmark_group("relay");
    let mut net = Net::new(3);
    net.connect(0, 2);
    net.connect(1, 2);
    // The two know each other only through the third, and drop what comes directly.
    let id = net.id(1);
    net.agents[0].1.connect(net.now, WALL, id, &[]).unwrap();
    let mut route = None;
    let mut flying = VecDeque::new();
    while route.is_none() {
        for (address, agent) in &mut net.agents {
            while let Some(transmit) = agent.poll_transmit() {
                flying.push_back((*address, transmit));
            }
        }
        let (source, transmit) = flying.pop_front().unwrap();
        if transmit.payload[0] == 5 && source == net.agents[1].0 {
            let mut datagram = transmit.payload.to_vec();
            datagram.resize(1100, 0);
            route = Some((source, Bytes::from(datagram)));
        } else if source == net.agents[2].0 || transmit.destination == net.agents[2].0 {
            let (_, agent) = net.agents.iter_mut().find(|(address, _)| *address == transmit.destination).unwrap();
            agent.handle_datagram(net.now, WALL, source, transmit.payload);
        }
    }
    let (source, datagram) = route.unwrap();
    group.throughput(Throughput::Bytes(1100));
    group.bench_function("1100", |b| {
        b.iter(|| {
            net.agents[2].1.handle_datagram(net.now, WALL, source, datagram.clone());
            black_box(net.agents[2].1.poll_transmit())
        });
    });
    group.finish();
}

fn idle(c: &mut Criterion) {
    let mut group = c.benchmark_group("idle_tick");
    for sessions in [12u8, 200] {
        let mut net = Net::new(sessions + 1);
        for n in 1..=usize::from(sessions) {
            net.connect(n, 0);
        }
        // A deadline that is not there yet: what a driver pays for asking.
        group.bench_function(sessions.to_string(), |b| {
            b.iter(|| {
                net.agents[0].1.handle_timeout(net.now, WALL);
                black_box(net.agents[0].1.poll_timeout())
            });
        });
    }
    group.finish();
}

fn handshake(c: &mut Criterion) {
    c.bench_function("connect/1", |b| {
        b.iter_batched(
            || Net::new(2),
            |mut net| {
                net.connect(0, 1);
                assert_eq!(net.agents[1].1.sessions(), 1);
                net
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = data, relay, idle, handshake
}
criterion_main!(benches);
