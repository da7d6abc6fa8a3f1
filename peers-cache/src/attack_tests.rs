//! What attackers may try who have read all of this and have many keys on one host.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{Header, Link, MAX_POSTAGE, MessageHeader, Packet, PeerId, Signature, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::message::{Bound, Key, MAX_KEYS, Message, Summary, Tag};
use crate::query::Query;
use crate::sketch_message::{Names, Set};
use crate::testing::{WALL, packet, start};
use crate::{Cache, Config, Event, QueryId};

const FRIEND: PeerId = PeerId([1; 32]);

fn liar(number: u8) -> PeerId {
    PeerId([100 + number; 32])
}

fn seal(number: u64, size: usize) -> Vec<Packet> {
    let draft = Draft { created: WALL.plus(number), lifetime: 60, previous: Link::NONE, postage: MAX_POSTAGE };
    let mut rng = ChaCha20Rng::seed_from_u64(number);
    TopicKey::from_seed([3; 32]).seal(&DeviceKey::from_seed(&[1; 32]), draft, &vec![0; size], &mut rng).unwrap()
}

fn keys(count: usize, seed: u64) -> Vec<Key> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    (0..count).map(|_| Key(rng.random())).collect()
}

fn have(keys: &[Key]) -> Message {
    Message::Have { answer: false, heard: false, keys: keys.iter().map(|key| (Tag(1), *key)).collect() }
}

/// A cache whose neighbours are one friend and so many liars on one host.
struct Victim {
    now: Instant,
    cache: Cache,
}

impl Victim {
    fn new(liars: u8) -> Self {
        let now = start();
        let mut cache = Cache::new(now, Config::default(), PeerId([2; 32]), [5; 32]);
        for number in 0..liars {
            cache.peer_connected(now, liar(number));
            cache.set_origin(liar(number), 9);
        }
        cache.peer_connected(now, FRIEND);
        Self { now, cache }
    }

    fn hear(&mut self, from: PeerId, message: &Message) {
        self.cache.handle_message(self.now, WALL, from, message.encode());
    }

    fn push(&mut self, from: PeerId, packet: &Packet) {
        self.hear(from, &Message::Packet { eager: 0, packet: packet.clone() });
    }

    fn said(&mut self) -> Vec<(PeerId, Message)> {
        core::iter::from_fn(|| self.cache.poll_message()).map(|(to, message)| (to, Message::decode(&message).unwrap())).collect()
    }

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

    fn asks_friend_for(&mut self, key: Key, within: Duration) -> bool {
        let asked =
            |(to, message): &(PeerId, Message)| *to == FRIEND && matches!(message, Message::Want { keys, .. } if keys.contains(&key));
        self.wait(within).iter().any(asked)
    }
}

#[test]
fn announcements_of_many_keys_on_one_host_do_not_keep_others_from_being_asked() {
    let mut victim = Victim::new(16);
    for number in 0..16 {
        for keys in keys(3000, u64::from(number)).chunks(MAX_KEYS / 2) {
            victim.hear(liar(number), &have(keys));
        }
    }
    let wanted = keys(1, 99);
    victim.hear(FRIEND, &have(&wanted));
    assert!(victim.asks_friend_for(wanted[0], Duration::from_millis(100)));
}

#[test]
fn who_announces_first_by_many_keys_of_one_host_does_not_keep_others_from_being_asked() {
    let mut victim = Victim::new(8);
    let wanted = keys(1, 99);
    for number in 0..8 {
        victim.hear(liar(number), &have(&wanted));
    }
    victim.hear(FRIEND, &have(&wanted));
    assert!(victim.asks_friend_for(wanted[0], Duration::from_secs(1)));
}

#[test]
fn what_is_only_heard_of_does_not_go_in_circles_for_ever() {
    let mut now = start();
    let ids: Vec<PeerId> = (0..4).map(|number| PeerId([number * 60 + 7; 32])).collect();
    let config = Config { budget: 64 << 10, wanted_budget: 0, ..Config::default() };
    let mut caches: Vec<Cache> = ids.iter().map(|id| Cache::new(now, config.clone(), *id, id.0)).collect();
    for (at, cache) in caches.iter_mut().enumerate() {
        // Full, so that they ask for nothing that they do not want.
        (0..400).for_each(|number| cache.load(now, WALL, packet(u8::try_from(number % 9).unwrap(), number * 4 + at as u64, 100)));
        ids.iter().enumerate().filter(|(other, _)| *other != at).for_each(|(_, id)| cache.peer_connected(now, *id));
        cache.peer_connected(now, liar(0));
    }
    let mut under_way: VecDeque<(Instant, usize, usize, bytes::Bytes)> = VecDeque::new();
    let mut last = 0;
    for tick in 0..2000u64 {
        now += Duration::from_millis(20);
        for (at, cache) in caches.iter_mut().enumerate() {
            if tick < 500 {
                for keys in keys(80, tick * 4 + at as u64).chunks(MAX_KEYS / 2) {
                    cache.handle_message(now, WALL, liar(0), have(keys).encode());
                }
            }
            cache.handle_timeout(now, WALL);
        }
        while under_way.front().is_some_and(|(due, ..)| *due <= now)
            && let Some((_, from, to, message)) = under_way.pop_front()
        {
            caches[to].handle_message(now, WALL, ids[from], message);
        }
        for (from, cache) in caches.iter_mut().enumerate() {
            while let Some((to, message)) = cache.poll_message() {
                if let Some(to) = ids.iter().position(|id| *id == to) {
                    last += usize::from(tick >= 1500);
                    under_way.push_back((now + Duration::from_millis(50), from, to, message));
                }
            }
        }
    }
    assert!(last < 100, "{last} messages in the ten seconds that begin 20 s after the last lie");
}

/// Another head over the root of a message: of as many digests, but of another shape.
fn twin(head: &Packet) -> Packet {
    let Header::Message(header) = head.header() else { unreachable!("a head") };
    let header = MessageHeader { fragments: header.fragments - 1, signature: Signature([1; 64]), ..header };
    header.packet(head.payload()).unwrap()
}

#[test]
fn a_second_head_of_another_shape_neither_hides_a_message_nor_makes_its_bearer_a_forger() {
    for first in [true, false] {
        let mut victim = Victim::new(0);
        let message = seal(1, 40_000);
        // Loaded, as its signature is not the point: whoever may write to the topic can make one.
        if first {
            victim.cache.load(victim.now, WALL, twin(&message[0]));
            // It is here alone at first.
            message[1..].iter().for_each(|part| victim.push(FRIEND, part));
            victim.wait(Duration::from_secs(60));
        }
        victim.push(FRIEND, &message[0]);
        victim.cache.load(victim.now, WALL, twin(&message[0]));
        message[1..].iter().for_each(|part| victim.push(FRIEND, part));
        assert!(message.iter().all(|part| victim.cache.get(&part.id()).is_some()), "{:?}", victim.cache.stats());
    }
}

#[test]
fn many_heads_over_one_root_do_not_slow_down_each_other() {
    let mut victim = Victim::new(1);
    let message = seal(1, 40_000);
    let Header::Message(header) = message[0].header() else { unreachable!("a head") };
    let at = |created: Timestamp| MessageHeader { created, ..header }.packet(message[0].payload()).unwrap();
    (0..2000).for_each(|number| victim.cache.load(victim.now, WALL, at(WALL.plus(1000 + number))));
    message[1..].iter().for_each(|part| victim.push(liar(0), part));
    #[expect(clippy::disallowed_methods, reason = "it is about the time that it takes")]
    let begin = Instant::now();
    (0..200).for_each(|number| victim.cache.accept(victim.now, WALL, 0, 0, &at(WALL.plus(4000 + number))));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn names_offered_without_end_are_compared_with_what_was_dropped_at_a_bounded_rate() {
    let mut victim = Victim::new(1);
    let held = seal(1, 10).remove(0);
    victim.cache.subscribe(victim.now, held.topic());
    victim.cache.load(victim.now, WALL, held.clone());
    keys(16_384, 1).into_iter().for_each(|key| victim.cache.gone.insert(key));
    let set = Set::Topic(Tag::from(held.topic()));
    for number in 0..1000 {
        victim.hear(liar(0), &Message::Names(Names { set, salt: 19_675, wants: Vec::new(), offers: vec![number] }));
    }
    assert!(victim.cache.stats().throttled > 800, "{:?}", victim.cache.stats());
}

#[test]
fn who_is_compared_with_by_many_keys_does_not_keep_others_from_it() {
    let mut victim = Victim::new(32);
    let packets: Vec<Packet> = (0..200).map(|number| packet(4, number, 10)).collect();
    victim.cache.subscribe(victim.now, packets[0].topic());
    packets.iter().for_each(|packet| victim.cache.load(victim.now, WALL, packet.clone()));
    let other = Message::Ranges {
        tag: Tag::from(packets[0].topic()),
        start: Bound::MIN,
        ranges: vec![(Bound::MAX, Summary { count: 200, sum: 1 })],
    };
    (0..32).for_each(|number| victim.hear(liar(number), &other));
    victim.said();
    victim.hear(FRIEND, &other);
    let said = victim.said();
    assert!(matches!(&said[..], [(FRIEND, Message::Ranges { ranges, .. })] if ranges.len() == 16), "{said:?}");
}

#[test]
fn topics_are_sought_further_at_a_bounded_rate_whoever_seeks() {
    let mut victim = Victim::new(16);
    let mut sought = 0;
    for second in 0..10 {
        for number in 0..16u64 {
            for message in 0..2 {
                let from = liar(u8::try_from(number).unwrap());
                let first = ((second * 16 + number) * 2 + message) * 16;
                victim.hear(from, &Message::Seek { further: true, tags: (first..first + 16).map(Tag).collect() });
            }
        }
        let said = victim.wait(Duration::from_secs(1));
        let to_friend = said.iter().filter(|(to, _)| *to == FRIEND);
        sought += to_friend.map(|(_, message)| if let Message::Seek { tags, .. } = message { tags.len() } else { 0 }).sum::<usize>();
    }
    assert!(sought <= 128 + 80, "{sought} topics");
}

fn question(number: u64) -> Message {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let payload = bytes::Bytes::from_static(b"?");
    Message::Query(Query::Question { id: QueryId(id), hops: 3, repeat: 0, patience: 60_000, tag: Tag(1), payload })
}

#[test]
fn questions_of_many_keys_on_one_host_do_not_keep_those_of_others_from_being_passed_on() {
    let mut victim = Victim::new(100);
    for number in 0..10_000 {
        victim.hear(liar(u8::try_from(number % 100).unwrap()), &question(number));
    }
    victim.said();
    victim.hear(FRIEND, &question(1 << 32));
    assert!(!victim.said().is_empty());
}

#[test]
fn answers_of_liars_do_not_keep_those_of_others_from_coming() {
    let mut victim = Victim::new(20);
    let id = QueryId([7; 16]);
    victim.cache.query(victim.now, id, packet(1, 1, 1).topic(), bytes::Bytes::from_static(b"?"), Duration::from_secs(9)).unwrap();
    let answer = |payload: u32| Message::Query(Query::Answer { id, payload: payload.to_be_bytes().to_vec().into() });
    (0..4000).for_each(|number| victim.hear(liar(u8::try_from(number % 20).unwrap()), &answer(number)));
    victim.hear(FRIEND, &answer(1 << 30));
    let answers: Vec<Event> = core::iter::from_fn(|| victim.cache.poll_event()).collect();
    assert!(answers.iter().any(|event| matches!(event, Event::Answer { payload, .. } if payload[0] == 1 << 6)));
    assert!(answers.len() <= 1024, "{}", answers.len());
}
