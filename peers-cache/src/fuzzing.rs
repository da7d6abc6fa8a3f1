//! Bodies of the fuzz targets: each takes any bytes and panics where a law is broken.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, Packet, PacketId, PeerId, Timestamp, TopicId};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::message::{Bound, Key, MAX_MESSAGE, Message, Summary, Tag};
use crate::sketch::{Cell, MAX_CELLS, Parity, Sketch, decode, epoch, name};
use crate::sketch_message::{Cells, MAX_CELLS_PER_MESSAGE, MAX_NAMES, More, Names, Probe, Set};
use crate::{Cache, Config, Event};

const WALL: Timestamp = Timestamp(1_700_000_000_000);
const OURS: PeerId = PeerId([5; 32]);
const LIAR: PeerId = PeerId([9; 32]);
const FRIEND: PeerId = PeerId([1; 32]);
/// Genuine packets of a topic, how many of them the cache begins with, and how many a friend does, from the other end.
const POOL: usize = 180;
const HELD: usize = 150;
const BUDGET: usize = 1 << 20;
/// Bytes that a neighbour can make a cache say at once and per second, at the very most: its budget for work, each unit spent on the worst.
const MAX_SAID: usize = 16_384 * 1100;
const MAX_SAID_PER_SECOND: usize = 4096 * 1100;

fn topic(number: u8) -> TopicKey {
    TopicKey::from_seed([number; 32])
}

/// Messages of one packet and one of four, of two topics.
static GENUINE: LazyLock<Vec<Packet>> = LazyLock::new(|| {
    let (author, mut rng) = (DeviceKey::from_seed(&[1; 32]), ChaCha20Rng::seed_from_u64(1));
    let mut seal = |number: u8, created: u64, size: usize| {
        let draft = Draft { created: Timestamp(WALL.0 - created), lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
        topic(number).seal(&author, draft, &vec![0; size], &mut rng).expect("it is not too large")
    };
    let mut packets: Vec<Packet> = (0..POOL).flat_map(|i| seal(3, i as u64 * 450_000, 10)).collect();
    packets.extend(seal(3, 5, 3000));
    packets.extend((0..10).flat_map(|i| seal(4, i * 1000, 10)));
    packets
});

/// Bytes that say what happens.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn long(&mut self) -> Option<u64> {
        (0..4).try_fold(0, |word, _| Some(word << 16 | u64::from(self.word()?)))
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes.to_vec()
    }
}

/// A cache that wants a topic of 150 packets, and what it said.
struct Rig {
    start: Instant,
    now: Instant,
    cache: Cache,
    /// What it last said, to each of its two neighbours.
    said: Vec<(PeerId, Bytes)>,
    bytes: usize,
    raised: BTreeSet<PacketId>,
}

impl Rig {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant has to begin somewhere; only differences matter")]
        let now = Instant::now();
        let mut cache = Cache::new(now, Config { budget: BUDGET, ..Config::default() }, OURS, [5; 32]);
        cache.subscribe(now, topic(3).id());
        GENUINE[..HELD].iter().for_each(|packet| cache.load(now, WALL, packet.clone()));
        while cache.poll_event().is_some() {}
        cache.peer_connected(now, LIAR);
        cache.peer_connected(now, FRIEND);
        Self { start: now, now, cache, said: Vec::new(), bytes: 0, raised: BTreeSet::new() }
    }

    fn wall(&self) -> Timestamp {
        WALL.plus(u64::try_from(self.now.duration_since(self.start).as_millis()).unwrap_or(u64::MAX))
    }

    fn hear(&mut self, from: PeerId, message: Bytes) {
        self.cache.handle_message(self.now, self.wall(), from, message);
        self.drain();
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut turns = 0;
        while let Some(due) = self.cache.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.cache.handle_timeout(self.now, self.wall());
            self.drain();
            turns += 1;
            assert!(turns < 200_000, "timers end");
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some((to, message)) = self.cache.poll_message() {
            assert!(message.len() <= MAX_MESSAGE && [LIAR, FRIEND].contains(&to));
            Message::decode(&message).expect("it says what can be read");
            self.bytes += message.len();
            self.said.push((to, message));
        }
        if self.said.len() > 64 {
            self.said.drain(..self.said.len() - 64);
        }
        while let Some(event) = self.cache.poll_event() {
            if let Event::Packet(packet) = event {
                assert!(GENUINE.contains(&packet) || GENUINE.iter().any(|genuine| genuine.id() == packet.id()), "nobody forges");
                assert!(self.raised.insert(packet.id()), "once");
            }
        }
    }

    /// What always holds.
    fn check(&self) {
        let stats = self.cache.stats();
        assert!(self.cache.used() <= BUDGET && stats.held <= GENUINE.len() as u64, "{stats:?}");
        let seconds = usize::try_from(self.now.duration_since(self.start).as_secs()).unwrap_or(usize::MAX) + 1;
        assert!(self.bytes <= 2 * (MAX_SAID + seconds * MAX_SAID_PER_SECOND), "{} bytes in {seconds} s", self.bytes);
        let held: BTreeSet<PacketId> = self.cache.packets(topic(3).id()).map(Packet::id).collect();
        assert!(GENUINE[..HELD].iter().all(|packet| held.contains(&packet.id())), "what it began with is not displaced");
        let ids: BTreeSet<PacketId> = GENUINE.iter().map(Packet::id).collect();
        assert!(held.is_subset(&ids));
    }
}

/// Any bytes from neighbours, in any order with time, reconnection, subscriptions and genuine packets: nothing that is not genuine is taken in, what is said and kept stays
/// bounded, timers end.
pub fn cache_message(data: &[u8]) {
    let (mut input, mut rig) = (Input(data), Rig::new());
    let mut steps = 0;
    while let Some(op) = input.byte()
        && steps < 120
    {
        steps += 1;
        let from = if op & 0x80 == 0 { LIAR } else { FRIEND };
        match op & 0x0f {
            0..=3 => {
                let length = input.word().unwrap_or(0) % 1200;
                let message = input.bytes(length.into());
                rig.hear(from, message.into());
            }
            4 | 5 => {
                // Bytes behind what makes them mean something.
                let kind = input.byte().unwrap_or(0) % 24;
                let mut message = vec![kind];
                if (10..14).contains(&kind) {
                    message.push(0);
                }
                message.extend(Tag::from(topic(3).id()).0.to_be_bytes());
                let length = input.word().unwrap_or(0) % 1200;
                message.extend(input.bytes(length.into()));
                rig.hear(from, message.into());
            }
            6 => {
                let packet = &GENUINE[usize::from(input.byte().unwrap_or(0)) % GENUINE.len()];
                rig.hear(from, Message::Packet { eager: op >> 4 & 3, packet: packet.with_postage(op >> 4 & 3) }.encode());
            }
            7 => {
                let mut bytes = Message::Packet { eager: 1, packet: GENUINE[usize::from(op) % GENUINE.len()].clone() }.encode().to_vec();
                let at = usize::from(input.word().unwrap_or(0)) % bytes.len();
                bytes[at] ^= input.byte().unwrap_or(1);
                rig.hear(from, bytes.into());
            }
            8 | 9 => {
                // What it said is said back, changed in a place or not.
                let which = usize::from(input.byte().unwrap_or(0));
                let Some((_, message)) = rig.said.get(which % rig.said.len().max(1)).cloned() else { continue };
                let mut bytes = message.to_vec();
                let at = usize::from(input.word().unwrap_or(0)) % bytes.len();
                bytes[at] ^= input.byte().unwrap_or(0);
                rig.hear(from, bytes.into());
            }
            10 => rig.wait(Duration::from_millis(u64::from(input.word().unwrap_or(0)))),
            11 => rig.wait(Duration::from_secs(u64::from(input.byte().unwrap_or(0)))),
            12 => {
                rig.cache.peer_disconnected(rig.now, from);
                rig.cache.peer_connected(rig.now, from);
                rig.drain();
            }
            13 => {
                let number = input.byte().unwrap_or(0);
                rig.cache.subscribe(rig.now, TopicId([number; 32]));
                rig.cache.unsubscribe(rig.now, TopicId([number ^ 1; 32]));
                rig.drain();
            }
            14 => {
                let id = GENUINE[usize::from(input.byte().unwrap_or(0)) % GENUINE.len()].id();
                // What is asked for again is raised again.
                rig.raised.remove(&id);
                let held = rig.cache.get(&id).is_some();
                rig.cache.request(rig.now, rig.wall(), id);
                rig.drain();
                if held {
                    rig.raised.remove(&id);
                }
            }
            _ => {
                rig.cache.request_next(rig.now, GENUINE[usize::from(op >> 4) % GENUINE.len()].id().link());
                rig.drain();
            }
        }
    }
    rig.check();
}

/// Cells that hold anything are decoded in bounded work, and what they are said to hold is what they hold.
fn decode_any(input: &mut Input<'_>) {
    let count = usize::from(input.byte().unwrap_or(0));
    let naming = Set::Topic(Tag(1)).naming(2);
    let mut sketch = Sketch::new(naming, count);
    let mut cells = Vec::with_capacity(count);
    let mut model: BTreeSet<Key> = BTreeSet::new();
    while let Some(op) = input.byte().filter(|op| *op < 0x80) {
        let key = Key([u64::from(op % 64), 1]);
        if model.remove(&key) {
            sketch.remove(key);
        } else {
            model.insert(key);
            sketch.insert(key);
        }
    }
    for (at, cell) in sketch.cells().iter().enumerate() {
        let op = if at % 4 == 0 { input.byte().unwrap_or(0) } else { 0 };
        cells.push(match op {
            0..=0x7f => Some(*cell),
            0x80..=0x9f => None,
            _ => Some(Cell { sum: input.long().unwrap_or(0), check: u32::from(input.word().unwrap_or(0)) }),
        });
    }
    let Some(found) = decode(cells.clone()) else { return };
    let mut whole: Vec<Cell> = vec![Cell::default(); count];
    for (shorts, ours) in [(&found.theirs, false), (&found.ours, true)] {
        for short in shorts {
            crate::sketch::toss(&mut whole, *short, ours);
        }
    }
    for (cell, whole) in cells.iter().zip(&whole) {
        assert!(cell.is_none_or(|cell| cell == *whole), "the cells are those of what was found");
    }
}

/// A comparison with someone who answers anything, before and while a friend compares as well: decoding and asking stay bounded, only what was offered is asked for,
/// and in the end all that the friend has is here.
pub fn cache_reconcile(data: &[u8]) {
    let mut input = Input(data);
    if input.byte().unwrap_or(0) % 4 == 0 {
        decode_any(&mut input);
        return;
    }
    let mut rig = Rig::new();
    let tag = Tag::from(topic(3).id());
    let set = Set::Topic(tag);
    rig.drain();
    // The liar wants the topic too; what both said when they met is heeded.
    rig.hear(LIAR, Message::Heed { version: 1, part: 0 }.encode());
    rig.hear(LIAR, Message::Topics { version: 1, part: 0, empty: false, topics: vec![(tag, Summary::default())] }.encode());
    let mut salt = epoch(WALL);
    let mut steps = 0;
    while let Some(op) = input.byte()
        && steps < 60
    {
        steps += 1;
        let probed = rig.said.iter().rev().filter(|(to, _)| *to == LIAR).find_map(|(_, message)| match Message::decode(message) {
            Ok(Message::Probe(probe)) => Some(probe.salt),
            _ => None,
        });
        if op & 0x80 == 0 {
            salt = probed.unwrap_or(salt);
        }
        let message = match op & 0x0f {
            0 => Message::Topics {
                version: 1,
                part: 0,
                empty: op & 0x40 != 0,
                topics: vec![(tag, Summary { count: 150 + u32::from(op), sum: u128::from(op) + 1 })],
            },
            1..=4 => {
                // The sketch of what it holds and of what does not exist, in part, changed here and there.
                let mut sketch = Sketch::new(set.naming(salt), MAX_CELLS);
                GENUINE[..HELD - usize::from(op >> 4 & 7)].iter().for_each(|packet| sketch.insert(Key::from(packet.id())));
                (0..input.byte().unwrap_or(0)).for_each(|i| sketch.insert(Key([i.into(), op.into()])));
                let start = usize::from(input.word().unwrap_or(0)) % 200;
                let count = usize::from(input.byte().unwrap_or(0)) % MAX_CELLS_PER_MESSAGE + 1;
                let mut cells = sketch.cells()[start..start + count].to_vec();
                if op & 0x40 != 0 {
                    let at = usize::from(input.byte().unwrap_or(0)) % count;
                    cells[at] = Cell { sum: input.long().unwrap_or(1), check: op.into() };
                }
                let until = (start + count + usize::from(input.byte().unwrap_or(0) >> 6) * 40).min(MAX_CELLS);
                Message::Cells(Cells { set, salt, state: (op & 1).into(), start, until, cells })
            }
            5 => {
                let summary = Summary { count: 140 + u32::from(op), sum: u128::from(input.byte().unwrap_or(0)) };
                let parity = Parity(core::array::from_fn(|i| if i == 0 { input.long().unwrap_or(0) } else { 0 }));
                Message::Probe(Probe { set, salt: input.long().unwrap_or(1) >> 2, summary, parity })
            }
            6 => {
                let start = usize::from(input.byte().unwrap_or(0));
                let until = (start + 1 + usize::from(input.word().unwrap_or(0)) % MAX_CELLS).min(MAX_CELLS);
                Message::More(More { set, salt, state: op.into(), start, until })
            }
            7 | 8 => {
                let naming = set.naming(salt);
                let of = |packets: &[Packet]| packets.iter().map(|packet| name(naming.short(Key::from(packet.id())))).collect::<Vec<u32>>();
                let wants = of(&GENUINE[..usize::from(input.byte().unwrap_or(0)) % POOL]);
                let mut offers = of(&GENUINE[HELD..HELD + usize::from(op >> 4)]);
                offers.extend((0..input.byte().unwrap_or(0)).map(u32::from));
                offers.truncate(MAX_NAMES - wants.len());
                offers.push(7);
                offers.truncate((MAX_NAMES - wants.len()).max(1));
                Message::Names(Names { set, salt, wants, offers })
            }
            9 => Message::Packet { eager: 0, packet: GENUINE[usize::from(input.byte().unwrap_or(0)) % GENUINE.len()].clone() },
            10 => Message::Ranges { tag, start: Bound::MIN, ranges: vec![(Bound::MAX, Summary { count: 150, sum: op.into() })] },
            11 => {
                rig.wait(Duration::from_millis(u64::from(input.word().unwrap_or(0))));
                continue;
            }
            12 => {
                rig.cache.peer_disconnected(rig.now, LIAR);
                rig.cache.peer_connected(rig.now, LIAR);
                rig.drain();
                continue;
            }
            _ => {
                rig.wait(Duration::from_secs(u64::from(op >> 4)));
                continue;
            }
        };
        rig.hear(LIAR, message.encode());
    }
    rig.check();
    converge(rig);
}

/// A friend that lacks some and has others comes: in the end both have all.
fn converge(mut rig: Rig) {
    let mut friend = Cache::new(rig.now, Config::default(), FRIEND, [6; 32]);
    friend.subscribe(rig.now, topic(3).id());
    GENUINE[10..POOL].iter().for_each(|packet| friend.load(rig.now, WALL, packet.clone()));
    rig.cache.peer_connected(rig.now, FRIEND);
    friend.peer_connected(rig.now, OURS);
    rig.said.clear();
    for _ in 0..400 {
        let wall = rig.wall();
        rig.cache.handle_timeout(rig.now, wall);
        friend.handle_timeout(rig.now, wall);
        loop {
            rig.drain();
            let to_friend: Vec<Bytes> = rig.said.drain(..).filter(|(to, _)| *to == FRIEND).map(|(_, message)| message).collect();
            let from_friend: Vec<Bytes> = core::iter::from_fn(|| friend.poll_message()).map(|(_, message)| message).collect();
            if to_friend.is_empty() && from_friend.is_empty() {
                break;
            }
            to_friend.into_iter().for_each(|message| friend.handle_message(rig.now, wall, OURS, message));
            from_friend.into_iter().for_each(|message| rig.cache.handle_message(rig.now, wall, FRIEND, message));
        }
        while friend.poll_event().is_some() {}
        let all = |cache: &Cache| GENUINE[..POOL].iter().all(|packet| cache.get(&packet.id()).is_some());
        if all(&rig.cache) && all(&friend) {
            return;
        }
        let next = rig.cache.poll_timeout().into_iter().chain(friend.poll_timeout()).min();
        rig.now = next.map_or(rig.now, |next| next.max(rig.now));
    }
    panic!("they have not the same after {:?}", rig.now.duration_since(rig.start));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let inputs: Vec<_> = std::fs::read_dir(&corpus).expect(&corpus).map(|entry| entry.expect("an entry").path()).collect();
        assert!(!inputs.is_empty(), "{corpus} is empty");
        inputs.iter().for_each(|input| body(&std::fs::read(input).expect("readable")));
    }

    #[test]
    fn corpus_of_cache_message() {
        replay("cache_message", cache_message);
    }

    #[test]
    fn corpus_of_cache_reconcile() {
        replay("cache_reconcile", cache_reconcile);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 48, ..Default::default() })]

        #[test]
        fn whatever_neighbours_say_what_is_kept_is_genuine_and_what_is_said_bounded(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
            cache_message(&data);
        }

        #[test]
        fn whatever_a_neighbour_answers_a_friend_brings_what_is_missing(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            cache_reconcile(&data);
        }
    }
}
