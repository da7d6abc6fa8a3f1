//! Receipts: who is counted as a holder, who is not, and what it costs.

use core::time::Duration;
use std::collections::BTreeSet;
use std::time::Instant;

use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, Packet, PacketId, PeerId};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::message::{Key, Message, Tag};
use crate::receipt::{MAX_PROVED, Proving};
use crate::testing::{WALL, start};
use crate::{Cache, Config, Event};

fn key(number: u8) -> DeviceKey {
    DeviceKey::from_seed(&[number; 32])
}

fn seal(number: u64, size: usize) -> Vec<Packet> {
    let draft = Draft { created: WALL.plus(number), lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
    let mut rng = ChaCha20Rng::seed_from_u64(number);
    TopicKey::from_seed([3; 32]).seal(&key(1), draft, &vec![0; size], &mut rng).unwrap()
}

/// A publisher, number 0, and caches that are its neighbours and no one else's, numbers from 1.
struct Star {
    now: Instant,
    caches: Vec<Cache>,
    /// Who says nothing any more.
    silent: BTreeSet<usize>,
    /// What went between: from, to, message.
    said: Vec<(usize, usize, Message)>,
    counts: Vec<(PacketId, u32)>,
}

impl Star {
    fn new(neighbours: u8) -> Self {
        let now = start();
        let mut caches: Vec<Cache> = (0..=neighbours)
            .map(|number| {
                let mut cache = Cache::new(now, Config::default(), key(number).id(), [number; 32]);
                cache.sign_with(key(number));
                cache
            })
            .collect();
        for number in 1..=neighbours {
            caches[0].peer_connected(now, key(number).id());
            caches[usize::from(number)].peer_connected(now, key(0).id());
        }
        Self { now, caches, silent: BTreeSet::new(), said: Vec::new(), counts: Vec::new() }
    }

    fn publish(&mut self, packets: &[Packet], copies: u32) -> PacketId {
        self.caches[0].publish(self.now, WALL, packets.to_vec());
        self.caches[0].watch(self.now, packets[0].id(), copies);
        packets[0].id()
    }

    /// Says something to the publisher in the name of a neighbour.
    fn tell(&mut self, from: u8, message: &Message) {
        self.caches[0].handle_message(self.now, WALL, key(from).id(), message.encode());
    }

    fn number(&self, id: PeerId) -> usize {
        (0..).find(|number| key(*number).id() == id).map(usize::from).unwrap()
    }

    /// Lets messages pass, at once, and time.
    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.exchange();
            let Some(due) = self.caches.iter().filter_map(Cache::poll_timeout).min().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.caches.iter_mut().for_each(|cache| cache.handle_timeout(self.now, WALL));
        }
        self.now = end;
    }

    fn exchange(&mut self) {
        loop {
            let mut moved = false;
            for from in 0..self.caches.len() {
                while let Some((to, message)) = self.caches[from].poll_message() {
                    moved = true;
                    let to = self.number(to);
                    self.said.push((from, to, Message::decode(&message).unwrap()));
                    if !self.silent.contains(&from) && to < self.caches.len() {
                        self.caches[to].handle_message(self.now, WALL, key(u8::try_from(from).unwrap()).id(), message);
                    }
                }
            }
            while let Some(event) = self.caches[0].poll_event() {
                if let Event::Attested { id, holders } = event {
                    self.counts.push((id, holders));
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn count(&self, id: PacketId) -> u32 {
        self.counts.iter().rev().find(|(head, _)| *head == id).map_or(0, |(_, count)| *count)
    }

    /// Questions of the publisher, with whom they were put to.
    fn questions(&self) -> Vec<(usize, [u8; 32], Vec<Key>)> {
        let question = |(from, to, message): &(usize, usize, Message)| match message {
            Message::Proving(Proving::Prove { challenge, keys, .. }) if *from == 0 => Some((*to, *challenge, keys.clone())),
            _ => None,
        };
        self.said.iter().filter_map(question).collect()
    }
}

fn claim(packets: &[Packet]) -> Message {
    let keys = packets.iter().map(|packet| (Tag::from(packet.topic()), Key::from(packet.id()))).collect();
    Message::Have { answer: false, heard: false, keys }
}

#[test]
fn holders_that_sign_are_counted_for_every_packet_of_a_message() {
    let mut star = Star::new(4);
    let (short, long) = (seal(1, 100), seal(2, 90_000));
    assert!(long.len() > MAX_PROVED * 2);
    let (short, long) = (star.publish(&short, 1), star.publish(&long, 1));
    star.run(Duration::from_secs(10));
    assert!(star.count(short) >= 3 && star.count(long) >= 3, "{:?}", star.counts);
    let receipts = star.caches[0].receipts(&short);
    assert_eq!(receipts.len(), usize::try_from(star.count(short)).unwrap());
    assert!(receipts.iter().all(|(_, signed)| *signed == WALL));
    assert!(star.counts.is_sorted_by_key(|(id, count)| (*id != short, *count)) || star.counts.windows(2).all(|w| w[0] != w[1]));
}

#[test]
fn who_only_claims_to_hold_a_packet_is_not_counted() {
    let mut star = Star::new(3);
    star.silent.extend([1, 2, 3]);
    let packets = seal(1, 100);
    let id = star.publish(&packets, 3);
    star.run(Duration::from_secs(1));
    (1..=3).for_each(|liar| star.tell(liar, &claim(&packets)));
    star.run(Duration::from_secs(60));
    assert_eq!((star.questions().len(), star.count(id)), (9, 0), "three questions, each three times");
    // Whoever never shows anything is asked no more.
    for _ in 0..20 {
        (1..=3).for_each(|liar| star.tell(liar, &claim(&packets)));
        star.run(Duration::from_secs(60));
    }
    assert_eq!(star.questions().len(), 27);
}

#[test]
fn holders_of_one_origin_count_once() {
    let mut star = Star::new(5);
    for number in 1..=4 {
        star.caches[0].set_origin(key(number).id(), u64::from(number / 4));
    }
    let id = star.publish(&seal(1, 100), 5);
    star.run(Duration::from_secs(10));
    // 1 to 3 are one origin, 4 another, 5 one of its own.
    assert_eq!(star.count(id), 3);
    assert_eq!(star.caches[0].receipts(&id).len(), 5);
}

#[test]
fn a_false_claim_first_makes_nobody_an_origin_of_its_own() {
    let mut star = Star::new(2);
    (1..=2).for_each(|number| star.caches[0].set_origin(key(number).id(), 9));
    star.silent.extend([1, 2]);
    let packets = seal(1, 100);
    let id = star.publish(&packets, 3);
    (1..=2).for_each(|liar| star.tell(liar, &claim(&packets)));
    star.run(Duration::from_secs(30));
    star.silent.clear();
    (1..=2).for_each(|liar| star.tell(liar, &claim(&packets)));
    star.run(Duration::from_secs(5));
    assert_eq!(star.count(id), 1);
}

#[test]
fn a_holder_that_fails_a_later_check_is_not_counted_any_more() {
    let mut star = Star::new(3);
    let id = star.publish(&seal(1, 100), 3);
    star.run(Duration::from_secs(10));
    assert_eq!(star.count(id), 3);
    let before = star.questions().len();
    star.run(Duration::from_secs(900));
    assert_eq!(star.count(id), 3, "who holds it passes");
    assert!((10..=60).contains(&(star.questions().len() - before)), "a check in a minute or so");
    // One forgets all, one is gone without a word.
    star.caches[1] = Cache::new(star.now, Config { budget: 2000, ..Config::default() }, key(1).id(), [9; 32]);
    star.caches[1].sign_with(key(1));
    star.caches[1].peer_connected(star.now, key(0).id());
    star.silent.insert(2);
    let before = star.said.len();
    star.run(Duration::from_secs(1800));
    let shown = |number| star.caches[0].receipts(&id).iter().any(|(peer, _)| *peer == key(number).id());
    assert!(!shown(2) && shown(3));
    let asked_first =
        star.said[before..].iter().any(|(from, to, message)| (*from, *to) == (0, 1) && matches!(message, Message::Proving(_)));
    assert!(asked_first && star.counts.iter().any(|(head, count)| *head == id && *count < 3));
}

#[test]
fn every_question_has_a_key_of_its_own() {
    let mut star = Star::new(4);
    for number in 1..20 {
        star.publish(&seal(number, 100), 4);
    }
    star.run(Duration::from_secs(600));
    let questions = star.questions();
    let keys: BTreeSet<[u8; 32]> = questions.iter().map(|(_, challenge, _)| *challenge).collect();
    assert!(questions.len() >= 10);
    assert_eq!(keys.len(), questions.len(), "nothing was lost, so nothing was asked twice");
}

#[test]
fn a_false_proof_a_borrowed_one_and_one_for_another_question_count_for_nothing() {
    for lie in 0..=3 {
        let mut star = Star::new(2);
        star.silent.insert(2);
        let packets = seal(1, 100);
        let id = star.publish(&packets, 3);
        star.run(Duration::from_secs(5));
        assert_eq!(star.count(id), 1);
        star.tell(2, &claim(&packets));
        star.exchange();
        let (_, challenge, keys) = star.questions().into_iter().rfind(|(to, ..)| *to == 2).unwrap();
        // What an honest holder says to the question, asked by the liar as its own.
        let mut honest = Cache::new(star.now, Config::default(), key(if lie == 3 { 2 } else { 1 }).id(), [8; 32]);
        honest.sign_with(key(1));
        honest.peer_connected(star.now, key(2).id());
        honest.load(star.now, WALL, packets[0].clone());
        let question = Message::Proving(Proving::Prove { signed: true, challenge, keys });
        honest.handle_message(star.now, WALL, key(2).id(), question.encode());
        let borrowed = core::iter::from_fn(|| honest.poll_message()).map(|(_, message)| Message::decode(&message).unwrap());
        let Some(Message::Proving(Proving::Proof { reference, held, proof, receipt })) =
            borrowed.into_iter().find(|message| matches!(message, Message::Proving(_)))
        else {
            panic!("an honest holder answers")
        };
        let answer = match lie {
            0 => Proving::Proof { reference, held, proof: [7; 32], receipt },
            1 => Proving::Proof { reference, held: 2, proof, receipt },
            // Another's hash, and the right hash under another's signature.
            _ => Proving::Proof { reference, held, proof, receipt },
        };
        star.tell(2, &Message::Proving(answer));
        star.exchange();
        assert_eq!((star.count(id), star.caches[0].stats().unfounded), (1, 1), "lie {lie}");
        // A liar is asked no more.
        let asked = star.questions().len();
        star.tell(2, &claim(&packets));
        star.exchange();
        assert_eq!(star.questions().len(), asked);
    }
}

#[test]
fn proofs_that_nobody_asked_for_are_dropped_and_counted() {
    let mut star = Star::new(2);
    let id = star.publish(&seal(1, 100), 2);
    star.silent.extend([1, 2]);
    star.exchange();
    let reference = star.questions().first().map_or(0, |(_, challenge, _)| u64::from_be_bytes(challenge[..8].try_into().unwrap()));
    for reference in [reference, 0, 1] {
        star.tell(2, &Message::Proving(Proving::Proof { reference, held: 1, proof: [0; 32], receipt: None }));
    }
    star.exchange();
    assert_eq!(star.count(id), 0);
    assert!(star.caches[0].stats().unfounded >= 2);
}

#[test]
fn questions_without_end_are_answered_at_a_bounded_rate_and_with_at_most_three_times_their_bytes() {
    let mut star = Star::new(1);
    let packets = seal(1, 60_000);
    star.publish(&packets, 1);
    star.run(Duration::from_secs(5));
    star.said.clear();
    let (mut asked, mut answered) = (0, 0);
    for number in 0..10_000usize {
        let keys: Vec<Key> = packets.iter().take(1 + number % MAX_PROVED).map(|packet| Key::from(packet.id())).collect();
        let question =
            Message::Proving(Proving::Prove { signed: true, challenge: [u8::try_from(number % 251).unwrap(); 32], keys }).encode();
        asked += question.len();
        star.caches[0].handle_message(star.now, WALL, key(1).id(), question);
        while let Some((_, message)) = star.caches[0].poll_message() {
            answered += message.len();
        }
    }
    assert!(answered > 0 && answered <= asked / 3, "{answered} of {asked}: most are over the rate");
    let one = Message::Proving(Proving::Prove { signed: true, challenge: [1; 32], keys: vec![Key([1, 2])] }).encode();
    let answer = Proving::Proof { reference: 1, held: 1, proof: [1; 32], receipt: Some((WALL, peers_wire::Signature([1; 64]))) };
    assert!(Message::Proving(answer).encode().len() <= 3 * one.len());
}

#[test]
fn claims_without_end_cost_a_bounded_number_of_questions() {
    let mut star = Star::new(1);
    star.silent.insert(1);
    let messages: Vec<Vec<Packet>> = (0..1500).map(|number| seal(number, 10)).collect();
    for packets in &messages {
        star.publish(packets, 1);
    }
    star.exchange();
    star.said.clear();
    for _ in 0..3 {
        for packets in &messages {
            star.tell(1, &claim(packets));
        }
    }
    star.exchange();
    // The oldest are watched no more; the others were asked for once.
    let questions = star.questions();
    assert!(questions.len() <= 1024, "{}", questions.len());
    let keys: BTreeSet<Key> = questions.iter().flat_map(|(_, _, keys)| keys.iter().copied()).collect();
    assert_eq!(keys.len(), questions.iter().map(|(_, _, keys)| keys.len()).sum::<usize>());
}

#[test]
fn a_peer_without_a_key_of_its_own_proves_and_is_not_counted() {
    let mut star = Star::new(1);
    star.caches[1] = Cache::new(star.now, Config::default(), key(1).id(), [1; 32]);
    star.caches[1].peer_connected(star.now, key(0).id());
    let id = star.publish(&seal(1, 100), 1);
    star.run(Duration::from_secs(5));
    assert_eq!((star.count(id), star.caches[0].stats().unfounded), (0, 0));
}
