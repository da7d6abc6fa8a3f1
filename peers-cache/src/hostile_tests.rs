//! What strangers, liars and noise cannot do, by name.

use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, FragmentHeader, Header, Link, MAX_POSTAGE, MessageHeader, Packet, PeerId, Signature, Timestamp};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::message::{Bound, Key, MAX_HOPS, MAX_KEYS, MAX_LIST, MAX_RANGES, Message, Summary, Tag};
use crate::testing::{WALL, packet, start};
use crate::{Cache, Config, Event};

const LIAR: PeerId = PeerId([66; 32]);
const FRIEND: PeerId = PeerId([1; 32]);

fn topic() -> TopicKey {
    TopicKey::from_seed([3; 32])
}

fn seal(number: u64, size: usize) -> Vec<Packet> {
    let mut rng = ChaCha20Rng::seed_from_u64(number);
    let draft = Draft { created: WALL.plus(number), lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
    topic().seal(&DeviceKey::from_seed(&[1; 32]), draft, &vec![0; size], &mut rng).unwrap()
}

/// A cache with two neighbours, subscribed to [`topic`].
struct Victim {
    now: Instant,
    cache: Cache,
}

impl Victim {
    fn new(config: Config) -> Self {
        let now = start();
        let mut cache = Cache::new(now, config, PeerId([2; 32]), [5; 32]);
        cache.subscribe(now, topic().id());
        cache.peer_connected(now, LIAR);
        cache.peer_connected(now, FRIEND);
        Self { now, cache }
    }

    fn hear_from(&mut self, from: PeerId, message: &Message) {
        self.cache.handle_message(self.now, WALL, from, message.encode());
    }

    fn hear(&mut self, message: &Message) {
        self.hear_from(LIAR, message);
    }

    fn pushed(&mut self, packet: &Packet) {
        self.hear(&Message::Packet { eager: 0, packet: packet.clone() });
    }

    /// Lets time pass, as the driver would.
    fn wait(&mut self, duration: Duration) -> Vec<(PeerId, Message)> {
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

    fn said(&mut self) -> Vec<(PeerId, Message)> {
        core::iter::from_fn(|| self.cache.poll_message()).map(|(to, message)| (to, Message::decode(&message).unwrap())).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.cache.poll_event()).collect()
    }
}

fn keys(count: usize, seed: u64) -> Vec<Key> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    (0..count).map(|_| Key(rng.random())).collect()
}

proptest! {
    #[test]
    fn random_and_truncated_messages_are_dropped_and_counted(kind in 0..26u8, noise in proptest::collection::vec(any::<u8>(), 0..1300), cut in 0..1160usize) {
        let mut victim = Victim::new(Config::default());
        let mut bytes = vec![kind];
        bytes.extend(noise);
        victim.cache.handle_message(victim.now, WALL, LIAR, bytes.into());
        let whole = Message::Packet { eager: 1, packet: seal(1, 900).remove(0) }.encode();
        victim.cache.handle_message(victim.now, WALL, LIAR, whole.slice(..cut % whole.len()));
        victim.wait(Duration::from_secs(60));
        prop_assert_eq!(victim.cache.stats().held, 0);
    }
}

#[test]
fn messages_of_who_is_not_connected_are_dropped_and_counted() {
    let mut victim = Victim::new(Config::default());
    victim.hear_from(PeerId([77; 32]), &Message::Packet { eager: 1, packet: seal(1, 100).remove(0) });
    assert_eq!((victim.cache.stats().strangers, victim.cache.stats().held), (1, 0));
}

#[test]
fn an_unknown_kind_and_an_oversized_message_are_dropped_and_counted() {
    let mut victim = Victim::new(Config::default());
    for message in [vec![99], vec![255; 40], vec![0; 1161], Vec::new()] {
        victim.cache.handle_message(victim.now, WALL, LIAR, message.into());
    }
    assert_eq!(victim.cache.stats().malformed, 4);
}

#[test]
fn a_packet_changed_in_flight_is_another_packet_and_fails_its_signature() {
    let mut victim = Victim::new(Config::default());
    let genuine = seal(1, 100).remove(0);
    let mut bytes = genuine.as_bytes().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let forged = Packet::decode(bytes.into()).unwrap();
    assert_ne!(forged.id(), genuine.id());
    victim.pushed(&forged);
    assert_eq!((victim.cache.stats().forged, victim.cache.stats().held), (1, 0));
    victim.pushed(&genuine);
    assert_eq!(victim.cache.stats().held, 1);
}

#[test]
fn a_flood_of_forged_packets_is_checked_at_a_bounded_rate_and_others_are_still_heard() {
    let mut victim = Victim::new(Config::default());
    for number in 0..10_000 {
        victim.pushed(&packet(4, number, 10));
    }
    let stats = victim.cache.stats();
    assert!(stats.forged <= 8 && stats.throttled >= 9_900, "{stats:?}");
    victim.hear_from(FRIEND, &Message::Packet { eager: 0, packet: seal(1, 100).remove(0) });
    assert_eq!(victim.cache.stats().held, 1);
}

#[test]
fn a_flood_of_genuine_packets_is_taken_at_our_own_pace() {
    let mut victim = Victim::new(Config::default());
    let flood: Vec<Packet> = (0..300).map(|number| seal(number, 10).remove(0)).collect();
    flood.iter().for_each(|packet| victim.pushed(packet));
    assert_eq!(victim.cache.stats().held, 64);
    // What was beyond the rate is asked for, a window at a time.
    let asked: usize = victim
        .wait(Duration::from_millis(30))
        .iter()
        .map(|(_, message)| if let Message::Want { keys, .. } = message { keys.len() } else { 0 })
        .sum();
    assert!(asked > 0 && asked <= 16, "{asked}");
}

#[test]
fn a_packet_that_expired_or_comes_from_the_future_is_refused() {
    let mut victim = Victim::new(Config::default());
    let sealed = |created: Timestamp, lifetime| {
        let draft = Draft { created, lifetime, previous: Link::NONE, postage: MAX_POSTAGE };
        topic().seal(&DeviceKey::from_seed(&[1; 32]), draft, b"late", &mut ChaCha20Rng::seed_from_u64(1)).unwrap().remove(0)
    };
    victim.pushed(&sealed(Timestamp(WALL.0 - 120_000), 2));
    victim.pushed(&sealed(WALL.plus(601_000), 60));
    assert_eq!((victim.cache.stats().untimely, victim.cache.stats().held), (2, 0));
    victim.pushed(&sealed(WALL.plus(599_000), 60));
    victim.pushed(&sealed(Timestamp(WALL.0 - 119_000), 2));
    assert_eq!(victim.cache.stats().held, 2);
}

#[test]
fn postage_above_sixteen_is_refused() {
    let mut victim = Victim::new(Config::default());
    let mut bytes = Message::Packet { eager: 0, packet: seal(1, 10).remove(0) }.encode().to_vec();
    bytes[3] = MAX_POSTAGE + 1;
    victim.cache.handle_message(victim.now, WALL, LIAR, bytes.into());
    assert_eq!((victim.cache.stats().malformed, victim.cache.stats().held), (1, 0));
}

#[test]
fn a_copy_with_low_postage_stops_no_packet_and_a_better_copy_replaces_it() {
    let mut victim = Victim::new(Config::default());
    let genuine = seal(1, 10).remove(0);
    victim.pushed(&genuine.with_postage(0));
    assert_eq!(victim.cache.get(&genuine.id()).map(Packet::postage), Some(MAX_POSTAGE - 1));
    let told =
        victim.wait(Duration::from_millis(10)).into_iter().any(|(to, message)| to == FRIEND && matches!(message, Message::Have { .. }));
    assert!(told, "it is announced all the same");
    victim.pushed(&genuine);
    victim.pushed(&genuine.with_postage(3));
    assert_eq!(victim.cache.get(&genuine.id()).map(Packet::postage), Some(MAX_POSTAGE));
}

#[test]
fn endless_announcements_of_what_does_not_exist_fill_a_bounded_table_and_end() {
    let mut victim = Victim::new(Config::default());
    let tag = Tag::from(topic().id());
    victim.said();
    let mut wanted = 0;
    for seed in 0..400 {
        victim.hear(&Message::Have { answer: false, heard: false, keys: keys(MAX_KEYS, seed).into_iter().map(|key| (tag, key)).collect() });
        wanted += victim.said().len();
    }
    assert!(victim.cache.stats().overflowed > 10_000);
    let before = victim.cache.stats().pulled;
    let said = victim.wait(Duration::from_secs(600));
    wanted += said.iter().filter(|(to, message)| *to == FRIEND && matches!(message, Message::Want { .. })).count();
    assert_eq!(wanted, 0, "the friend is not asked for what the liar says to hold");
    // It does not answer, so it is asked for two at a time.
    assert!(victim.cache.stats().pulled - before < 600 * 2 * 5, "{:?}", victim.cache.stats());
    // Meanwhile what others announce is pulled.
    let genuine = seal(1, 10).remove(0);
    victim.hear_from(FRIEND, &Message::Have { answer: false, heard: false, keys: vec![(tag, Key::from(genuine.id()))] });
    let said = victim.wait(Duration::from_millis(30));
    assert!(said.iter().any(|(to, message)| *to == FRIEND && matches!(message, Message::Want { .. })));
}

#[test]
fn requests_for_what_is_not_there_are_answered_with_less_than_they_cost() {
    let mut victim = Victim::new(Config::default());
    for seed in 0..200 {
        let request = Message::Want { hops: 0, keys: keys(MAX_KEYS, seed) };
        victim.hear(&request);
        let answer: usize = victim
            .said()
            .iter()
            .filter(|(_, message)| matches!(message, Message::Lack { .. }))
            .map(|(_, message)| message.encode().len())
            .sum();
        assert!(answer <= request.encode().len());
    }
    assert!(victim.cache.stats().throttled > 0, "and at a bounded rate");
}

#[test]
fn requests_that_travel_are_bounded_in_number() {
    let mut victim = Victim::new(Config::default());
    for seed in 0..200 {
        victim.hear(&Message::Want { hops: MAX_HOPS, keys: keys(MAX_KEYS, seed) });
    }
    let said = victim.wait(Duration::from_secs(60));
    let passed_on: usize = said
        .iter()
        .filter(|(to, _)| *to == FRIEND)
        .map(|(_, message)| {
            if let Message::Want { hops, keys } = message {
                assert!(*hops <= 3);
                keys.len()
            } else {
                0
            }
        })
        .sum();
    assert!(passed_on < 1200, "{passed_on} of {}", 200 * MAX_KEYS);
}

#[test]
fn topics_without_end_are_bounded() {
    let mut victim = Victim::new(Config::default());
    for part in 0..=255 {
        let topics = (0..41).map(|i| (Tag(u64::from(part) * 41 + i), Summary::default())).collect();
        victim.hear(&Message::Topics { version: 1, part, empty: false, topics });
        victim.now += Duration::from_secs(1);
    }
    assert!(victim.cache.neighbours.values().all(|neighbour| neighbour.wants.len() <= 1024));
    assert!(victim.cache.stats().overflowed > 0);
}

#[test]
fn poisoned_sums_cost_a_bounded_amount_of_work_and_answers() {
    let mut victim = Victim::new(Config::default());
    for number in 0..2000 {
        victim.cache.load(victim.now, WALL, packet(9, number, 10));
    }
    victim.said();
    let tag = Tag::from(packet(9, 0, 0).topic());
    let step = |i: usize| Bound::at(WALL.plus(i as u64 * 100));
    let (mut sent, mut answered) = (0, 0);
    for seed in 0..2000u32 {
        let ranges = (1..=MAX_RANGES).map(|i| (step(i), Summary { count: 1 + seed, sum: 7 })).collect();
        let poison = Message::Ranges { tag, start: Bound::MIN, ranges };
        sent += poison.encode().len();
        victim.hear(&poison);
        answered += victim.said().iter().map(|(_, message)| message.encode().len()).sum::<usize>();
    }
    assert!(answered < 600_000 && answered < sent, "{answered} bytes for {sent}");
    assert!(victim.cache.stats().throttled > 1000);
}

#[test]
fn fragments_without_a_head_wait_in_a_bounded_place_and_are_dropped() {
    let mut victim = Victim::new(Config::default());
    let orphan = |number: u64| {
        let header = FragmentHeader {
            postage: 16,
            created: WALL,
            lifetime: 60,
            index: 0,
            topic: topic().id(),
            root: [u8::try_from(number % 251).unwrap(); 32],
        };
        let mut payload = vec![0; 1024];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        header.packet(&payload).unwrap()
    };
    for number in 0..2000 {
        victim.pushed(&orphan(number));
        victim.now += Duration::from_millis(40);
    }
    assert_eq!(victim.cache.stats().held, 0);
    assert!(victim.cache.stats().orphaned > 1000);
    // A genuine message in fragments arrives in spite of it, in whatever order.
    let mut genuine = seal(1, 5000);
    genuine.reverse();
    for packet in &genuine {
        victim.hear_from(FRIEND, &Message::Packet { eager: 0, packet: packet.clone() });
    }
    assert_eq!(victim.cache.stats().held, genuine.len() as u64);
}

#[test]
fn a_fragment_that_its_head_does_not_name_is_refused() {
    let mut victim = Victim::new(Config::default());
    let genuine = seal(1, 5000);
    victim.pushed(&genuine[0]);
    let Header::Fragment(header) = genuine[1].header() else { unreachable!("a leaf") };
    let wrong = header.packet(&[1; 1024]).unwrap();
    let displaced = FragmentHeader { index: 1, ..header }.packet(genuine[1].payload()).unwrap();
    victim.pushed(&wrong);
    victim.pushed(&displaced);
    assert_eq!((victim.cache.stats().forged, victim.cache.stats().held), (2, 1));
    victim.pushed(&genuine[1]);
    assert_eq!(victim.cache.stats().held, 2);
}

#[test]
fn a_head_of_another_topic_with_the_same_root_does_not_speak_for_the_fragments() {
    let mut victim = Victim::new(Config::default());
    let genuine = seal(1, 5000);
    // A writer of another topic publishes the same root there. (Loaded, as its signature is not the point.)
    let Header::Message(header) = genuine[0].header() else { unreachable!("a head") };
    let copy = MessageHeader { topic: TopicKey::from_seed([4; 32]).id(), signature: Signature([1; 64]), ..header };
    victim.cache.load(victim.now, WALL, copy.packet(genuine[0].payload()).unwrap());
    genuine.iter().for_each(|packet| victim.pushed(packet));
    assert_eq!((victim.cache.stats().forged, victim.cache.stats().held), (0, 1 + genuine.len() as u64));
}

#[test]
fn lists_successors_and_refusals_unasked_change_nothing() {
    let mut victim = Victim::new(Config::default());
    victim.hear(&Message::Follows { previous: Key([1, 2]), keys: keys(60, 1) });
    victim.hear(&Message::Lack { keys: keys(MAX_LIST, 2) });
    victim.hear(&Message::Heed { version: 9, part: 200 });
    victim.hear(&Message::Next { keys: keys(MAX_LIST, 3) });
    let said = victim.wait(Duration::from_millis(100));
    assert!(said.iter().all(|(_, message)| !matches!(message, Message::Want { .. })), "{said:?}");
}

#[test]
fn a_packet_is_raised_once_however_often_it_comes() {
    let mut victim = Victim::new(Config::default());
    let genuine = seal(1, 10).remove(0);
    for _ in 0..5 {
        victim.pushed(&genuine);
        victim.hear_from(FRIEND, &Message::Packet { eager: 3, packet: genuine.clone() });
    }
    let raised = victim.events().into_iter().filter(|event| matches!(event, Event::Packet(_))).count();
    assert_eq!((raised, victim.cache.stats().duplicates), (1, 9));
}

#[test]
fn what_was_evicted_is_not_pulled_again() {
    let mut victim = Victim::new(Config { budget: 20_000, wanted_budget: 0, ..Config::default() });
    let all: Vec<Packet> = (0..60).map(|number| seal(number, 100).remove(0)).collect();
    for packet in &all {
        victim.hear_from(FRIEND, &Message::Packet { eager: 0, packet: packet.clone() });
        victim.now += Duration::from_millis(100);
    }
    let evicted: Vec<Key> =
        all.iter().filter(|packet| victim.cache.get(&packet.id()).is_none()).map(|packet| Key::from(packet.id())).collect();
    assert!(!evicted.is_empty() && victim.cache.used() <= 20_000);
    let tag = Tag::from(topic().id());
    victim.wait(Duration::from_secs(1));
    victim.hear_from(FRIEND, &Message::Have { answer: false, heard: false, keys: evicted.into_iter().map(|key| (tag, key)).collect() });
    let said = victim.wait(Duration::from_secs(1));
    assert!(said.iter().all(|(_, message)| !matches!(message, Message::Want { .. } | Message::Have { heard: true, .. })), "{said:?}");
}

#[test]
fn a_lonely_copy_loses_postage_with_age_and_ends_at_none() {
    let now = start();
    let mut cache = Cache::new(now, Config::default(), PeerId([2; 32]), [5; 32]);
    cache.peer_connected(now, LIAR);
    let genuine = seal(1, 10).remove(0);
    cache.handle_message(now, WALL, LIAR, Message::Packet { eager: 0, packet: genuine.clone() }.encode());
    let (mut postage, mut hours) = (Vec::new(), 0);
    while let Some(due) = cache.poll_timeout().filter(|due| *due < now + Duration::from_secs(48 * 3600)) {
        cache.handle_timeout(due, WALL.plus(due.duration_since(now).as_millis().try_into().unwrap()));
        while cache.poll_message().is_some() {}
        match cache.get(&genuine.id()).map(Packet::postage) {
            Some(left) if postage.last() != Some(&left) => postage.push(left),
            None if hours == 0 => hours = due.duration_since(now).as_secs() / 3600,
            _ => {}
        }
    }
    assert_eq!(postage, (0..=16).rev().collect::<Vec<_>>());
    assert!((25..=28).contains(&hours), "{hours} hours");
}

#[test]
fn a_quiet_cache_says_almost_nothing() {
    let mut victim = Victim::new(Config::default());
    victim.hear(&Message::Heed { version: victim.cache.version, part: 0 });
    victim.hear_from(FRIEND, &Message::Heed { version: victim.cache.version, part: 0 });
    victim.wait(Duration::from_secs(60));
    let said = victim.wait(Duration::from_secs(3600));
    // One neighbour each 30 s; as nobody heeds it here, six times.
    assert!(said.len() <= 120 * 6, "{} messages in an hour", said.len());
}

#[test]
fn an_empty_cache_needs_no_timer_and_little_memory() {
    let cache = Cache::new(start(), Config::default(), PeerId([2; 32]), [5; 32]);
    assert_eq!(cache.poll_timeout(), None);
    assert!(size_of::<Cache>() < 2600, "{}", size_of::<Cache>());
    assert!(size_of::<crate::neighbour::Neighbour>() < 400, "{}", size_of::<crate::neighbour::Neighbour>());
}

#[test]
fn no_message_at_all_is_malformed() {
    let mut victim = Victim::new(Config::default());
    victim.cache.handle_message(victim.now, WALL, LIAR, Bytes::new());
    assert_eq!(victim.cache.stats().malformed, 1);
}

#[test]
fn seeking_topics_without_end_costs_a_bounded_amount() {
    let mut victim = Victim::new(Config::default());
    let mut asked = 0;
    for i in 0..10_000u64 {
        victim.hear(&Message::Seek { further: true, tags: (0..16).map(|n| Tag(i * 16 + n)).collect() });
        asked += victim.said().iter().filter(|(_, message)| matches!(message, Message::Seek { further: false, .. })).count();
    }
    // The burst of its budget for work, to the one other neighbour.
    assert_eq!(asked, 8);
    assert!(victim.cache.stats().throttled > 9000);
    // One topic is sought once in ten seconds.
    victim.wait(Duration::from_secs(20));
    let again = (0..5).map(|_| {
        victim.hear(&Message::Seek { further: true, tags: vec![Tag(7)] });
        victim.said().len()
    });
    assert_eq!(again.sum::<usize>(), 1);
}

#[test]
fn who_claims_to_be_empty_again_and_again_is_sent_a_bounded_amount() {
    let mut victim = Victim::new(Config::default());
    let packets: Vec<Packet> = (0..40).flat_map(|n| seal(n, 10)).collect();
    let tag = Tag::from(packets[0].topic());
    for packet in &packets {
        victim.cache.load(victim.now, WALL, packet.clone());
    }
    let mut sent = Vec::new();
    for version in 1..1000 {
        victim.hear(&Message::Topics { version, part: 0, empty: true, topics: vec![(tag, Summary::default())] });
        sent.push(victim.said().iter().filter(|(_, message)| matches!(message, Message::Packet { .. })).count());
    }
    assert_eq!(sent[0], 32);
    assert!(sent.iter().sum::<usize>() <= 4096, "{}", sent.iter().sum::<usize>());
}
