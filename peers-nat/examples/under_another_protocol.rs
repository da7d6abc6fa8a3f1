//! An agent under a protocol of your own: a counter that three peers share, each of which only knows the one before it.
//!
//! The protocol is two lines: a peer tells its count to all it is connected to whenever it changes, and takes the larger one. Everything else is the agent's: the first knows
//! the second's address, the third knows the second's, and through the second the first and the third find each other. The network is a queue in memory.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::DeviceKey;
use peers_nat::{Agent, Config, Event};
use peers_wire::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

struct Counter {
    address: SocketAddr,
    agent: Agent,
    count: u8,
}

impl Counter {
    fn tell(&mut self, now: Instant) {
        let peers: Vec<_> = self.agent.peers().map(|peer| peer.id).collect();
        for peer in peers {
            // Unreliable: who misses it is told of the next change.
            let _ = self.agent.send(now, peer, &[self.count]);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let config = || Config { lan: false, auxiliary: false, target_sessions: 2, ..Config::default() };
    let mut counters: Vec<Counter> = (1..=3u8)
        .map(|n| {
            let address = SocketAddr::from(([192, 0, 2, n], 4000));
            let mut agent = Agent::new(start, config(), DeviceKey::generate(&mut ChaCha20Rng::from_seed([n; 32])), [n; 32]);
            agent.set_local_addresses(start, &[address]);
            Counter { address, agent, count: 0 }
        })
        .collect();
    let (second, at) = (counters[1].agent.id(), counters[1].address);
    for n in [0, 2] {
        counters[n].agent.connect(start, Timestamp(1), second, &[at])?;
    }

    let mut network: VecDeque<(SocketAddr, SocketAddr, Bytes)> = VecDeque::new();
    for millisecond in 0..10_000 {
        let (now, wall) = (start + Duration::from_millis(millisecond), Timestamp(millisecond));
        while let Some((from, to, datagram)) = network.pop_front() {
            if let Some(counter) = counters.iter_mut().find(|counter| counter.address == to) {
                counter.agent.handle_datagram(now, wall, from, datagram);
            }
        }
        if millisecond == 9_000 {
            counters[0].count = 42;
            counters[0].tell(now);
        }
        for counter in &mut counters {
            counter.agent.handle_timeout(now, wall);
            while let Some(event) = counter.agent.poll_event() {
                if let Event::Data { data, .. } = event
                    && data.first().is_some_and(|count| *count > counter.count)
                {
                    counter.count = data[0];
                    counter.tell(now);
                }
            }
            while let Some(transmit) = counter.agent.poll_transmit() {
                network.push_back((counter.address, transmit.destination, transmit.payload));
            }
        }
    }
    assert!(counters.iter().all(|counter| counter.count == 42 && counter.agent.sessions() == 2));
    Ok(())
}
