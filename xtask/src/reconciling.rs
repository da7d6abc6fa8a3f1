//! What it costs two caches to find what each is missing. `tests/versus` measures others on the same sets.

use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_cache::{Cache, Config};
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, Packet, PeerId, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rustix::time::{ClockId, clock_gettime};

const WALL: Timestamp = Timestamp(1_700_000_000_000);
/// Pairs of sets that a figure is the median of.
const RUNS: u64 = 25;

/// What it takes two peers that meet to find what each is missing.
pub(crate) struct Cost {
    /// All that both say until one of them knows what both are missing, and until both do, packets not included.
    pub(crate) bytes_until_one_knows: usize,
    pub(crate) bytes: usize,
    /// All that both say until both have everything, packets not included.
    pub(crate) bytes_in_all: usize,
    /// Messages one after the other, from the one that asks to the one by which one of the peers knows what both are missing; the other knows with the next.
    pub(crate) crossings: usize,
    /// Time of the processor until both know, on both sides together.
    pub(crate) cpu: Duration,
}

impl Cost {
    pub(crate) fn round_trips(&self) -> f64 {
        self.crossings as f64 / 2.0
    }

    pub(crate) fn cpu_ms(&self) -> f64 {
        (self.cpu.as_secs_f64() * 1e6).round() / 1e3
    }
}

/// Of each figure the median over [`RUNS`] pairs of sets.
pub(crate) fn median_cost(both: u32, each: u32) -> Cost {
    let costs: Vec<Cost> = sets(both, each, |sides| reconcile(&sides)).collect();
    Cost {
        bytes_until_one_knows: middle(&costs, |cost| cost.bytes_until_one_knows),
        bytes: middle(&costs, |cost| cost.bytes),
        bytes_in_all: middle(&costs, |cost| cost.bytes_in_all),
        crossings: middle(&costs, |cost| cost.crossings),
        cpu: middle(&costs, |cost| cost.cpu),
    }
}

/// The median.
pub(crate) fn middle<T, N: Ord + Copy>(costs: &[T], of: impl Fn(&T) -> N) -> N {
    let mut all: Vec<N> = costs.iter().map(of).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// What `measure` says of each of [`RUNS`] pairs of sets of `both` packets of one topic, of which `each` are not in the other, created at any time of a day.
pub(crate) fn sets<T>(both: u32, each: u32, measure: impl Fn([Vec<Packet>; 2]) -> T) -> impl Iterator<Item = T> {
    let (mut packets, each) = (sealed(both + each), each as usize);
    (0..RUNS).map(move |seed| {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        for i in (1..packets.len()).rev() {
            packets.swap(i, rng.random_range(0..=i));
        }
        measure([[&packets[..each], &packets[2 * each..]].concat(), packets[each..].to_vec()])
    })
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

/// Two peers want the topic of the packets, hold some each, and meet.
fn reconcile(sides: &[Vec<Packet>; 2]) -> Cost {
    let (now, topic) = (now(), sides[0][0].topic());
    let ids = [PeerId([1; 32]), PeerId([2; 32])];
    let config = Config { budget: 64 << 20, ..Config::default() };
    let mut caches = ids.map(|id| Cache::new(now, config.clone(), id, id.0));
    for (cache, packets) in caches.iter_mut().zip(sides) {
        packets.iter().for_each(|packet| cache.load(now, WALL, packet.clone()));
    }
    for (side, cache) in caches.iter_mut().enumerate() {
        cache.subscribe(now, topic);
        cache.peer_connected(now, ids[1 - side]);
        while cache.poll_event().is_some() {}
    }
    let mut cost = Cost { bytes_until_one_knows: 0, bytes: 0, bytes_in_all: 0, crossings: 0, cpu: Duration::ZERO };
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
                    cost.bytes_until_one_knows += if named { 0 } else { said };
                    cost.cpu += processor_time().saturating_sub(start);
                }
            }
        }
        known |= named;
    }
    let counts = caches.map(|cache| cache.packets(topic).count());
    assert!(counts[0] == counts[1] && counts[0] > sides[0].len(), "both have everything");
    cost
}

/// First bytes of messages.
const PACKET: u8 = 0;
const NAMES: u8 = 13;

/// Time of this thread on the processor.
pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[expect(clippy::disallowed_methods, reason = "an Instant has to begin somewhere; only differences matter")]
fn now() -> Instant {
    Instant::now()
}
