//! What a neighbour cannot do by sketches, by name.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, Packet, PeerId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::message::{Key, Message, Summary, Tag};
use crate::order::MIN_SKETCHED;
use crate::sketch::{Cell, MAX_CELLS, Parity, Sketch, epoch, name};
use crate::sketch_message::{Cells, MAX_CELLS_PER_MESSAGE, MAX_NAMES, More, Names, Probe, Set};
use crate::testing::{WALL, packet, start};
use crate::{Cache, Config};

const LIAR: PeerId = PeerId([9; 32]);
const HELD: u64 = 300;

fn topic() -> TopicKey {
    TopicKey::from_seed([3; 32])
}

fn set() -> Set {
    Set::Topic(Tag::from(topic().id()))
}

/// A genuine packet by number.
fn seal(number: u64) -> Packet {
    let mut rng = ChaCha20Rng::seed_from_u64(number);
    let draft = Draft { created: WALL.plus(number), lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
    topic().seal(&DeviceKey::from_seed(&[1; 32]), draft, &[0; 10], &mut rng).unwrap().remove(0)
}

/// A cache that wants [`topic`] and holds 300 packets of it, and its only neighbour, who does not play by the rules.
struct Victim {
    now: Instant,
    cache: Cache,
    held: Vec<Key>,
    sent: usize,
}

impl Victim {
    fn new() -> Self {
        let now = start();
        let mut cache = Cache::new(now, Config::default(), PeerId([2; 32]), [5; 32]);
        cache.subscribe(now, topic().id());
        let packets: Vec<Packet> = (0..HELD).map(seal).collect();
        packets.iter().for_each(|packet| cache.load(now, WALL, packet.clone()));
        cache.peer_connected(now, LIAR);
        let held = packets.iter().map(|packet| Key::from(packet.id())).collect();
        let mut victim = Self { now, cache, held, sent: 0 };
        victim.meet();
        victim
    }

    /// The liar wants the topic too, and says to hold nothing.
    fn meet(&mut self) {
        let version = self.cache.version;
        self.hear(&Message::Heed { version, part: 0 });
        self.hear(&Message::Topics { version: 1, part: 0, empty: false, topics: vec![(Tag::from(topic().id()), Summary::default())] });
    }

    fn hear(&mut self, message: &Message) {
        self.cache.handle_message(self.now, WALL, LIAR, message.encode());
    }

    fn said(&mut self) -> Vec<Message> {
        let messages: Vec<_> = core::iter::from_fn(|| self.cache.poll_message()).collect();
        self.sent += messages.iter().map(|(_, message)| message.len()).sum::<usize>();
        messages.into_iter().map(|(_, message)| Message::decode(&message).unwrap()).collect()
    }

    /// Lets time pass, as the driver would.
    fn wait(&mut self, duration: Duration) -> Vec<Message> {
        let end = self.now + duration;
        let mut said = self.said();
        while let Some(due) = self.cache.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.cache.handle_timeout(self.now, WALL);
            said.extend(self.said());
        }
        self.now = end;
        said
    }

    /// The probe that it sends if a neighbour says to have another set of the same size.
    fn probed(&mut self) -> Probe {
        self.said();
        self.sent = 0;
        let summary = Summary { count: u32::try_from(HELD).unwrap(), sum: 99 };
        self.hear(&Message::Topics { version: 1, part: 0, empty: false, topics: vec![(Tag::from(topic().id()), summary)] });
        probe_in(self.said()).expect("it asks for cells")
    }

    /// The sketch of what it holds and of `others`, as an honest neighbour would have it.
    fn sketch(&self, salt: u64, others: &[Key]) -> Sketch {
        let mut sketch = Sketch::new(set().naming(salt), MAX_CELLS);
        self.held.iter().chain(others).for_each(|key| sketch.insert(*key));
        sketch
    }
}

fn probe_in(said: Vec<Message>) -> Option<Probe> {
    said.into_iter().find_map(|message| if let Message::Probe(probe) = message { Some(probe) } else { None })
}

fn ranges_in(said: &[Message]) -> usize {
    said.iter().filter(|message| matches!(message, Message::Ranges { .. } | Message::List { .. })).count()
}

fn cells(salt: u64, state: u32, start: usize, cells: &[Cell]) -> Message {
    Message::Cells(Cells { set: set(), salt, state, start, until: start + cells.len(), cells: cells.to_vec() })
}

fn noise(seed: u64, count: usize) -> Vec<Cell> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    (0..count).map(|_| Cell { sum: rng.random(), check: rng.random_range(0..1 << 24) }).collect()
}

fn keys(seed: u64, count: usize) -> Vec<Key> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    (0..count).map(|_| Key(rng.random())).collect()
}

/// Answers whatever it is asked with noise, until it is asked no more.
fn answer_with_noise(victim: &mut Victim, mut salt: u64) -> usize {
    let (mut start, mut count, mut rounds) = (0, 40, 0);
    loop {
        rounds += 1;
        let noise = noise(rounds as u64, count);
        for (i, part) in noise.chunks(MAX_CELLS_PER_MESSAGE).enumerate() {
            let start = start + i * MAX_CELLS_PER_MESSAGE;
            let until = start + count - i * MAX_CELLS_PER_MESSAGE;
            victim.hear(&Message::Cells(Cells { set: set(), salt, state: 7, start, until, cells: part.to_vec() }));
        }
        let mut asked = None;
        for message in victim.said() {
            match message {
                Message::More(more) => asked = Some((more.salt, more.start, more.until - more.start)),
                Message::Probe(probe) => asked = Some((probe.salt, 0, 40)),
                _ => {}
            }
        }
        match asked {
            Some(next) => (salt, start, count) = next,
            None => return rounds,
        }
    }
}

#[test]
fn cells_that_nobody_asked_for_are_dropped_and_counted() {
    let mut victim = Victim::new();
    victim.said();
    victim.hear(&cells(epoch(WALL), 7, 0, &noise(1, 50)));
    victim.hear(&cells(12_345, 7, 0, &noise(1, 50)));
    assert_eq!((victim.cache.stats().unasked, victim.said().len()), (2, 0));
}

#[test]
fn cells_that_never_decode_cost_a_bounded_amount_and_are_blamed_on_their_sender() {
    let mut victim = Victim::new();
    let probe = victim.probed();
    let rounds = answer_with_noise(&mut victim, probe.salt);
    assert!(rounds <= 10, "{rounds} rounds");
    assert_eq!((victim.cache.stats().poisoned, victim.cache.stats().sketches), (1, 0));
    assert!(victim.sent < 4000, "{} bytes", victim.sent);
    // For ten minutes, ranges have to do; then it is trusted again.
    let differing = Summary { count: 300, sum: 98 };
    let topics = Message::Topics { version: 1, part: 0, empty: false, topics: vec![(Tag::from(topic().id()), differing)] };
    victim.hear(&topics);
    let said = victim.said();
    assert!(ranges_in(&said) == 1 && probe_in(said).is_none());
    victim.wait(Duration::from_secs(601));
    victim.meet();
    victim.hear(&topics);
    assert!(probe_in(victim.said()).is_some());
}

#[test]
fn who_comes_back_under_another_session_is_still_to_blame() {
    let mut victim = Victim::new();
    let probe = victim.probed();
    answer_with_noise(&mut victim, probe.salt);
    victim.cache.peer_connected(victim.now, LIAR);
    victim.meet();
    victim.said();
    let differing = Summary { count: 300, sum: 98 };
    victim.hear(&Message::Topics { version: 2, part: 0, empty: false, topics: vec![(Tag::from(topic().id()), differing)] });
    let said = victim.said();
    assert!(ranges_in(&said) == 1 && probe_in(said).is_none());
}

#[test]
fn offers_of_what_does_not_exist_are_asked_for_a_few_times_and_blamed_on_their_sender() {
    let mut victim = Victim::new();
    let (made_up, mut said) = (keys(1, 60), Vec::new());
    let salt = epoch(WALL);
    for _ in 0..2 {
        assert_eq!(victim.cache.stats().poisoned, 0, "one may be an accident");
        assert_eq!(victim.probed().salt, salt);
        let theirs = victim.sketch(salt, &made_up);
        victim.hear(&cells(salt, 7, 0, &theirs.cells()[..MAX_CELLS_PER_MESSAGE]));
        said.extend(victim.wait(Duration::from_secs(20)));
        victim.meet();
    }
    let asked: Vec<u32> = said
        .iter()
        .filter_map(|message| if let Message::Names(names) = message { Some(names.wants.clone()) } else { None })
        .flatten()
        .collect();
    let expected: BTreeSet<u32> = made_up.iter().map(|key| name(set().naming(salt).short(*key))).collect();
    assert!(!asked.is_empty() && asked.len() <= 2 * 3 * 60 && asked.iter().all(|name| expected.contains(name)), "{}", asked.len());
    assert_eq!((victim.cache.stats().sketches, victim.cache.stats().poisoned), (2, 1));
    assert!(victim.cache.gatherings.is_empty());
}

#[test]
fn when_the_cells_of_the_day_tell_nothing_a_fresh_salt_does_and_nobody_is_blamed() {
    let mut victim = Victim::new();
    let probe = victim.probed();
    // As if two packets had been made to collide today.
    let genuine = seal(HELD + 1);
    let mut salt = probe.salt;
    let (mut start, mut until) = (0, 30);
    loop {
        victim.hear(&cells(salt, 7, start, &noise(1, until - start)));
        let said = victim.said();
        if let Some(probe) = probe_in(said.clone()) {
            salt = probe.salt;
            break;
        }
        let Some(Message::More(more)) = said.first() else { panic!("it asks for more: {said:?}") };
        (start, until) = (more.start, more.until);
    }
    assert_ne!(salt, probe.salt);
    let theirs = victim.sketch(salt, &[Key::from(genuine.id())]);
    victim.hear(&cells(salt, 7, 0, &theirs.cells()[..10]));
    assert_eq!((victim.cache.stats().sketches, victim.cache.stats().poisoned), (1, 0));
    let wanted = name(set().naming(salt).short(Key::from(genuine.id())));
    assert_eq!(victim.said(), [Message::Names(Names { set: set(), salt, wants: vec![wanted], offers: Vec::new() })]);
    victim.hear(&Message::Packet { eager: 0, packet: genuine.clone() });
    assert!(victim.cache.get(&genuine.id()).is_some() && victim.cache.gatherings.is_empty());
}

#[test]
fn a_collision_that_hides_a_packet_is_noticed_by_the_sum_and_a_fresh_salt_agreed_on() {
    let mut victim = Victim::new();
    let probe = victim.probed();
    // Their cells are ours although their set is another.
    let theirs = victim.sketch(probe.salt, &[]);
    victim.hear(&cells(probe.salt, 7, 0, &theirs.cells()[..20]));
    let again = probe_in(victim.said()).expect("it asks again");
    assert_ne!(again.salt, probe.salt);
    assert_eq!(victim.cache.stats().poisoned, 0);
}

#[test]
fn cells_of_a_set_that_changed_meanwhile_are_not_mixed() {
    let mut victim = Victim::new();
    let probe = victim.probed();
    let (before, after) = (victim.sketch(probe.salt, &keys(1, 8)), victim.sketch(probe.salt, &keys(1, 9)));
    let part = |state, start: usize, sketch: &Sketch| {
        Message::Cells(Cells { set: set(), salt: probe.salt, state, start, until: 40, cells: sketch.cells()[start..start + 20].to_vec() })
    };
    victim.hear(&part(7, 0, &before));
    victim.hear(&part(8, 20, &after));
    assert_eq!(victim.cache.stats().sketches, 0);
    // What is missing is asked for, of the set as it is now.
    let said = victim.wait(Duration::from_secs(1));
    assert!(said.contains(&Message::More(More { set: set(), salt: probe.salt, state: 8, start: 0, until: 20 })), "{said:?}");
    victim.hear(&part(8, 0, &after));
    assert_eq!((victim.cache.stats().sketches, victim.cache.stats().poisoned), (1, 0));
}

#[test]
fn probes_without_end_are_answered_at_a_bounded_rate() {
    let mut victim = Victim::new();
    victim.said();
    victim.sent = 0;
    for seed in 0..3000u64 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let (salt, parity) = (rng.random_range(0..1 << 62), Parity([rng.random(), 0, 0, 0, 0, 0, 0, 0]));
        let summary = Summary { count: 300, sum: u128::from(seed) };
        victim.hear(&Message::Probe(Probe { set: set(), salt, summary, parity }));
        victim.hear(&Message::More(More { set: set(), salt, state: 0, start: 0, until: MAX_CELLS }));
        victim.said();
    }
    assert!(victim.cache.stats().throttled > 5000, "{:?}", victim.cache.stats());
    assert!(victim.sent < 1_500_000, "{} bytes", victim.sent);
    // A quarter of the budget for work per second, and so much less of everything.
    victim.sent = 0;
    victim.now += Duration::from_secs(1);
    for salt in 0..3000 {
        victim.hear(&Message::More(More { set: set(), salt, state: 0, start: 0, until: MAX_CELLS }));
        victim.said();
    }
    assert!(victim.sent < 400_000, "{} bytes", victim.sent);
}

#[test]
fn names_without_end_are_answered_at_a_bounded_rate_and_with_what_there_is() {
    let mut victim = Victim::new();
    victim.said();
    victim.sent = 0;
    let naming = set().naming(1);
    let wants: Vec<u32> = victim.held.iter().map(|key| name(naming.short(*key))).take(MAX_NAMES).collect();
    for _ in 0..1000 {
        victim.hear(&Message::Names(Names { set: set(), salt: 1, wants: wants.clone(), offers: Vec::new() }));
        victim.said();
    }
    let served = victim.cache.stats().served;
    assert!(served <= 16_384 / 4 + 100 && served >= MAX_NAMES as u64, "{served}");
    for seed in 0..1000 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let offers = (0..MAX_NAMES - 5).map(|_| rng.random()).collect();
        victim.hear(&Message::Names(Names { set: set(), salt: 1, wants: Vec::new(), offers }));
        victim.now += Duration::from_millis(100);
        victim.cache.handle_timeout(victim.now, WALL);
        victim.said();
        assert!(victim.cache.gatherings.len() <= 1);
    }
    assert!(victim.cache.stats().pulled < 2000, "{:?}", victim.cache.stats());
}

#[test]
fn a_neighbour_that_leaves_takes_what_was_under_way_with_it() {
    let mut victim = Victim::new();
    let probe = victim.probed();
    let theirs = victim.sketch(probe.salt, &keys(1, 40));
    victim.hear(&cells(probe.salt, 7, 0, &theirs.cells()[..90]));
    assert_eq!(victim.cache.gatherings.len(), 1);
    victim.probed();
    victim.cache.peer_disconnected(victim.now, LIAR);
    assert!(victim.cache.gatherings.is_empty() && victim.cache.talks.is_empty());
    victim.wait(Duration::from_secs(100));
}

#[test]
fn sketches_of_wanted_topics_are_charged_to_the_budget_and_go_with_their_topic() {
    let now = start();
    let mut cache = Cache::new(now, Config::default(), PeerId([2; 32]), [5; 32]);
    let wanted = packet(9, 0, 10).topic();
    let load = |cache: &mut Cache, numbers: core::ops::Range<u64>| numbers.for_each(|number| cache.load(now, WALL, packet(9, number, 10)));
    load(&mut cache, 0..u64::from(MIN_SKETCHED) - 1);
    let before = cache.used();
    cache.subscribe(now, wanted);
    assert_eq!(cache.used(), before, "too small");
    let one = before / (MIN_SKETCHED as usize - 1);
    load(&mut cache, 0..u64::from(MIN_SKETCHED));
    assert!(cache.used() > before + one + 4000, "{} after {before}", cache.used());
    cache.handle_timeout(now + Duration::from_secs(40), WALL.plus(3_600_000 * 100));
    assert_eq!((cache.stats().held, cache.used()), (0, 0));
}
