//! Figures of an agent that knows 10,000 paths: what a datagram, an idle moment, a relayed datagram and a change of network cost it, and what a peer costs in memory.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use peers_crypto::DeviceKey;
use peers_nat::{Agent, Config, Event, MAX_SESSIONS, SocketId};
use peers_wire::{PeerId, Timestamp};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};

use crate::bench_crypto::{median, processor_time, time};

/// Routes that the agent relays on: all that it keeps.
const ROUTES: usize = 4096;
/// Peers that are at a second address as well.
const MOVED: usize = 10_000 - MAX_SESSIONS - ROUTES;
/// Datagrams of one sample, each of another peer.
const BATCH: usize = 1000;
const SAMPLES: usize = 21;

/// Measures on one thread, in time of the processor; medians.
///
/// - returns: `NAT_paths` known; `NAT_send_us` and `NAT_receive_us` for a datagram of 1 KiB to or from any of the peers, and over the same with one peer alone (`..._ratio`);
///   `NAT_relay_us` for one that is passed on, on any route; `NAT_idle_tick_ns`, asking when something is due; `NAT_change_ms`, all that a change of network leads to at once;
///   `NAT_session_bytes`, memory of one end of a session
///
/// # Errors
/// The agents do not get to their sessions or routes, or the memory of this process cannot be read.
pub(crate) fn run() -> Result<Value> {
    let mut one = Star::new(1)?;
    let (send_one, receive_one) = (one.send()?, one.receive()?);
    drop(one);
    let mut star = Star::new(MAX_SESSIONS)?;
    let routes = star.open_routes()?;
    star.move_some()?;
    ensure!(star.hub.relayed_routes() == ROUTES, "{} routes instead of {ROUTES}", star.hub.relayed_routes());
    let (send, receive, relay) = (star.send()?, star.receive()?, star.relay(&routes)?);
    let idle = {
        let (hub, now) = (&mut star.hub, star.now);
        let mut samples: Vec<f64> = (0..SAMPLES)
            .map(|_| {
                time(100_000, || {
                    hub.handle_timeout(now, WALL);
                    black_box(hub.poll_timeout());
                })
            })
            .collect();
        median(&mut samples)
    };
    let bytes = star.bytes;
    let change = star.change();
    let round = |value: f64| json!((value * 1e3).round() / 1e3);
    Ok(json!({
        "NAT_paths": MAX_SESSIONS + ROUTES + MOVED,
        "NAT_send_us": round(send * 1e6),
        "NAT_send_ratio": round(send / send_one),
        "NAT_receive_us": round(receive * 1e6),
        "NAT_receive_ratio": round(receive / receive_one),
        "NAT_relay_us": round(relay * 1e6),
        "NAT_idle_tick_ns": round(idle * 1e9),
        "NAT_change_ms": round(change * 1e3),
        "NAT_session_bytes": bytes,
    }))
}

const WALL: Timestamp = Timestamp(1_800_000_000_000);

/// An agent and those that it is connected to, on a network without delay.
struct Star {
    now: Instant,
    hub: Agent,
    address: SocketAddr,
    peers: Vec<(SocketAddr, Agent)>,
    places: HashMap<SocketAddr, usize>,
    rng: ChaCha20Rng,
    /// Memory of one end of a session.
    bytes: u64,
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x3200_0000 + u32::try_from(n).unwrap_or_default()), 4000))
}

impl Star {
    /// An agent with so many sessions.
    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn new(sessions: usize) -> Result<Self> {
        let (now, mut rng) = (Instant::now(), ChaCha20Rng::seed_from_u64(1));
        let quiet = Duration::from_secs(3600);
        let config = || Config { lan: false, target_sessions: 0, relay_bytes_per_second: u32::MAX, keep_alive: quiet, ..Config::default() };
        let mut agent = |address| {
            let mut agent = Agent::new(now, config(), DeviceKey::generate(&mut rng), rng.random());
            agent.set_local_addresses(now, &[address]);
            (address, agent)
        };
        let (hub_address, hub) = agent(address(0));
        let peers: Vec<_> = (1..=sessions).map(|n| agent(address(n))).collect();
        let places = peers.iter().enumerate().map(|(n, (address, _))| (*address, n)).collect();
        let mut star = Self { now, hub, address: hub_address, peers, places, rng, bytes: 0 };
        let before = resident()?;
        for n in 0..sessions {
            // Few enough in a second for none to be asked to come again.
            star.now += Duration::from_millis(20);
            let id = star.hub.id();
            star.peers[n].1.connect(star.now, WALL, id, &[star.address])?;
            star.settle(n);
        }
        star.bytes = resident()?.saturating_sub(before) / (2 * sessions as u64);
        ensure!(star.hub.sessions() == sessions, "{} sessions instead of {sessions}", star.hub.sessions());
        Ok(star)
    }

    /// Delivers what the peer `from` and whom it leads to have to say until nothing is under way.
    fn settle(&mut self, from: usize) {
        let mut busy = vec![from];
        while let Some(n) = busy.pop() {
            let (source, agent) = &mut self.peers[n];
            while let Some(transmit) = agent.poll_transmit() {
                if transmit.destination == self.address {
                    self.hub.handle_datagram(self.now, WALL, *source, transmit.payload);
                }
            }
            while agent.poll_event().is_some() {}
            while let Some(transmit) = self.hub.poll_transmit() {
                if let Some(to) = self.places.get(&transmit.destination).filter(|_| transmit.socket == SocketId::MAIN) {
                    self.peers[*to].1.handle_datagram(self.now, WALL, self.address, transmit.payload);
                    busy.push(*to);
                }
            }
            while self.hub.poll_event().is_some() {}
        }
    }

    fn id(&self, n: usize) -> PeerId {
        self.peers[n].1.id()
    }

    /// Each peer has itself introduced to the next: as many routes as there are. Gives the ends by which datagrams come in, and the routes.
    fn open_routes(&mut self) -> Result<Vec<(usize, Bytes)>> {
        let mut routes = Vec::with_capacity(ROUTES);
        for n in 0..ROUTES {
            self.now += Duration::from_millis(20);
            let target = self.id((n + 1) % ROUTES);
            self.peers[n].1.connect(self.now, WALL, target, &[])?;
            let (now, hub_address) = (self.now, self.address);
            let (source, agent) = &mut self.peers[n];
            while let Some(transmit) = agent.poll_transmit() {
                self.hub.handle_datagram(now, WALL, *source, transmit.payload);
            }
            // The target's answer is the first datagram on the route; it is resized to that of a whole message.
            let mut answer = None;
            while let Some(transmit) = self.hub.poll_transmit() {
                let Some(to) = self.places.get(&transmit.destination) else { continue };
                self.peers[*to].1.handle_datagram(now, WALL, hub_address, transmit.payload);
                while let Some(transmit) = self.peers[*to].1.poll_transmit() {
                    if transmit.payload[0] == RELAYED && transmit.destination == hub_address {
                        answer = Some((*to, transmit.payload));
                    }
                }
            }
            let (end, payload) = answer.context("who is introduced answers through the relay")?;
            let mut datagram = payload.to_vec();
            datagram.resize(1100, 0);
            routes.push((end, datagram.into()));
        }
        Ok(routes)
    }

    /// Some peers are heard from another address as well.
    fn move_some(&mut self) -> Result<()> {
        let id = self.hub.id();
        for n in 0..MOVED {
            let agent = &mut self.peers[n].1;
            agent.send(self.now, id, b"moved")?;
            while let Some(transmit) = agent.poll_transmit() {
                self.hub.handle_datagram(self.now, WALL, address(1 << 16 | n), transmit.payload);
            }
            while self.hub.poll_transmit().is_some() || self.hub.poll_event().is_some() {}
        }
        Ok(())
    }

    /// Seconds to seal a datagram for any peer.
    fn send(&mut self) -> Result<f64> {
        let data = [7; 1024];
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            let chosen: Vec<usize> = (0..BATCH).map(|_| self.rng.random_range(0..self.peers.len())).collect();
            let ids: Vec<PeerId> = chosen.into_iter().map(|n| self.id(n)).collect();
            let start = processor_time();
            for id in ids {
                self.hub.send(self.now, id, &data)?;
                black_box(self.hub.poll_transmit());
            }
            samples.push((processor_time() - start) / BATCH as f64);
        }
        Ok(median(&mut samples))
    }

    /// Seconds to take a datagram of any peer.
    fn receive(&mut self) -> Result<f64> {
        let (id, data) = (self.hub.id(), [7; 1024]);
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            let mut datagrams = Vec::with_capacity(BATCH);
            for _ in 0..BATCH {
                let n = self.rng.random_range(0..self.peers.len());
                let (source, agent) = &mut self.peers[n];
                agent.send(self.now, id, &data)?;
                while let Some(transmit) = agent.poll_transmit() {
                    datagrams.push((*source, transmit.payload));
                }
            }
            let (count, mut taken) = (datagrams.len(), 0);
            let start = processor_time();
            for (source, datagram) in datagrams {
                self.hub.handle_datagram(self.now, WALL, source, datagram);
                while let Some(event) = self.hub.poll_event() {
                    taken += usize::from(matches!(event, Event::Data { .. }));
                }
            }
            samples.push((processor_time() - start) / count as f64);
            ensure!(taken >= BATCH, "{taken} of {BATCH} datagrams were taken");
            while self.hub.poll_transmit().is_some() {}
        }
        Ok(median(&mut samples))
    }

    /// Seconds to pass a datagram on, on any route.
    fn relay(&mut self, routes: &[(usize, Bytes)]) -> Result<f64> {
        let mut order: Vec<usize> = (0..routes.len()).collect();
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            order.shuffle(&mut self.rng);
            self.now += Duration::from_secs(1);
            let mut passed = 0;
            let start = processor_time();
            for n in order.iter().take(BATCH) {
                let (end, datagram) = &routes[*n];
                self.hub.handle_datagram(self.now, WALL, self.peers[*end].0, datagram.clone());
                passed += usize::from(self.hub.poll_transmit().is_some());
            }
            samples.push((processor_time() - start) / BATCH as f64);
            ensure!(passed == BATCH, "{passed} of {BATCH} datagrams were passed on");
        }
        Ok(median(&mut samples))
    }

    /// Seconds for all that follows at once when the network changes.
    fn change(&mut self) -> f64 {
        let mut samples: Vec<f64> = (0..5)
            .map(|n| {
                self.now += Duration::from_secs(1);
                let start = processor_time();
                self.hub.set_local_addresses(self.now, &[address((1 << 20) + n)]);
                self.hub.handle_timeout(self.now, WALL);
                while black_box(self.hub.poll_transmit()).is_some() {}
                processor_time() - start
            })
            .collect();
        median(&mut samples)
    }
}

/// First byte of a relayed datagram.
const RELAYED: u8 = 5;

/// Bytes of memory that this process has in use.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("memory is told by /proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).context("it has a second number")?.parse()?;
    Ok(pages * 4096)
}
