//! Questions: whom they reach, how they end, and what floods, lies and loops cost.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use peers_wire::{PeerId, TopicId};

use crate::message::{Message, Tag};
use crate::query::{MAX_PATIENCE, Query};
use crate::testing::{WALL, start};
use crate::{AskError, Cache, Config, Event, MAX_ANSWER, MAX_QUESTION, QueryId};

const TOPIC: TopicId = TopicId([7; 32]);
const SECONDS: Duration = Duration::from_secs(5);

fn id(number: usize) -> PeerId {
    PeerId([u8::try_from(number + 1).unwrap(); 32])
}

fn query(number: u64) -> QueryId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    QueryId(id)
}

/// Caches with links between some of them; each message takes 20 ms.
struct Web {
    now: Instant,
    caches: Vec<Cache>,
    flying: BTreeMap<(Instant, u64), (usize, usize, Bytes)>,
    sent: u64,
    /// Bytes of questions, answers and cancellations sent by each.
    bytes: Vec<usize>,
    /// Who is asked answers with its number.
    answering: bool,
    asked: Vec<usize>,
    answers: Vec<(usize, Bytes)>,
    ended: Vec<(usize, QueryId)>,
    /// One in so many messages is lost.
    lost: u64,
}

impl Web {
    fn new(count: usize, links: &[(usize, usize)]) -> Self {
        let now = start();
        let mut caches: Vec<_> =
            (0..count).map(|number| Cache::new(now, Config::default(), id(number), [u8::try_from(number).unwrap(); 32])).collect();
        for (a, b) in links {
            caches[*a].peer_connected(now, id(*b));
            caches[*b].peer_connected(now, id(*a));
        }
        let bytes = vec![0; count];
        let (asked, answers, ended) = (Vec::new(), Vec::new(), Vec::new());
        Self { now, caches, flying: BTreeMap::new(), sent: 0, bytes, answering: true, asked, answers, ended, lost: u64::MAX }
    }

    fn subscribe(&mut self, peers: impl IntoIterator<Item = usize>) {
        for peer in peers {
            self.caches[peer].subscribe(self.now, TOPIC);
        }
        self.run(Duration::from_secs(2));
    }

    fn ask(&mut self, peer: usize, number: u64) {
        self.caches[peer].query(self.now, query(number), TOPIC, Bytes::from_static(b"who?"), SECONDS).unwrap();
    }

    /// Gives a message to a peer in the name of another.
    fn tell(&mut self, from: usize, to: usize, message: &Message) {
        self.caches[to].handle_message(self.now, WALL, id(from), message.encode());
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            (0..self.caches.len()).for_each(|peer| self.drain(peer));
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timer = self.caches.iter().filter_map(Cache::poll_timeout).min();
            let Some(next) = arrival.into_iter().chain(timer).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, (from, to, message)) = self.flying.pop_first().unwrap();
                self.caches[to].handle_message(self.now, WALL, id(from), message);
            } else {
                self.caches.iter_mut().for_each(|cache| cache.handle_timeout(self.now, WALL));
            }
        }
        self.now = end;
    }

    fn drain(&mut self, peer: usize) {
        while let Some(event) = self.caches[peer].poll_event() {
            match event {
                Event::Query { id, topic, payload } => {
                    assert_eq!((topic, &payload[..]), (TOPIC, &b"who?"[..]));
                    self.asked.push(peer);
                    if self.answering {
                        self.caches[peer].answer(id, Bytes::from(vec![u8::try_from(peer).unwrap()]));
                    }
                }
                Event::Answer { payload, .. } => self.answers.push((peer, payload)),
                Event::QueryEnded { id } => self.ended.push((peer, id)),
                _ => {}
            }
        }
        while let Some((to, message)) = self.caches[peer].poll_message() {
            let to = (0..self.caches.len()).find(|number| id(*number) == to).unwrap();
            if (16..=18).contains(&message[0]) {
                self.bytes[peer] += message.len();
            }
            self.sent += 1;
            if !self.sent.is_multiple_of(self.lost) {
                self.flying.insert((self.now + Duration::from_millis(20), self.sent), (peer, to, message));
            }
        }
    }

    fn answerers(&self) -> BTreeSet<u8> {
        self.answers.iter().map(|(_, payload)| payload[0]).collect()
    }
}

/// Each is linked to the next `reach`, around.
fn ring(count: usize, reach: usize) -> Vec<(usize, usize)> {
    (0..count).flat_map(|a| (1..=reach).map(move |step| (a, (a + step) % count))).collect()
}

#[test]
fn everyone_who_wants_the_topic_is_asked_once_and_answers_come_back() {
    let mut web = Web::new(40, &ring(40, 5));
    web.subscribe((0..40).step_by(2));
    web.ask(0, 1);
    web.run(SECONDS * 2);
    let asked: BTreeSet<usize> = web.asked.iter().copied().collect();
    assert_eq!((asked.len(), web.asked.len()), (19, 19), "each once, and who asks not at all");
    assert_eq!(web.answerers().len(), 19);
    assert!(web.answers.iter().all(|(peer, _)| *peer == 0));
    assert!(web.ended.contains(&(0, query(1))));
}

#[test]
fn subscribers_are_reached_through_peers_that_are_none() {
    // A line: only the last wants the topic.
    let mut web = Web::new(6, &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]);
    web.subscribe([5]);
    web.ask(0, 1);
    web.run(SECONDS);
    assert_eq!(web.answerers(), BTreeSet::from([5]));
    // And no further than the hops go.
    let mut web = Web::new(9, &(0..8).map(|a| (a, a + 1)).collect::<Vec<_>>());
    web.subscribe([8]);
    web.ask(0, 1);
    web.run(SECONDS);
    assert_eq!((web.asked.len(), web.answers.len()), (0, 0));
}

#[test]
fn one_lost_message_in_ten_costs_few_answers() {
    let mut web = Web::new(40, &ring(40, 5));
    web.subscribe(0..40);
    web.lost = 10;
    web.ask(0, 1);
    web.run(SECONDS * 2);
    assert!(web.answerers().len() >= 36, "{}", web.answerers().len());
}

#[test]
fn a_question_in_a_loop_is_passed_on_once() {
    let mut web = Web::new(3, &[(0, 1), (1, 2), (2, 0)]);
    web.subscribe(0..3);
    web.bytes.fill(0);
    web.answering = false;
    web.ask(0, 1);
    web.run(Duration::from_millis(500));
    let one = Message::Query(Query::Question {
        id: query(1),
        hops: 5,
        repeat: 0,
        patience: 5000,
        tag: Tag::from(TOPIC),
        payload: Bytes::from_static(b"who?"),
    });
    assert_eq!(web.bytes, [2, 1, 1].map(|times| times * one.encode().len()));
    assert_eq!(web.asked.len(), 2);
}

#[test]
fn a_cancelled_question_is_forgotten_by_everyone() {
    let mut web = Web::new(12, &ring(12, 2));
    web.subscribe(0..12);
    web.answering = false;
    web.ask(0, 1);
    web.run(Duration::from_millis(500));
    assert_eq!(web.asked.len(), 11);
    web.caches[0].cancel(query(1));
    web.run(Duration::from_millis(500));
    let ended: BTreeSet<usize> = web.ended.iter().map(|(peer, _)| *peer).collect();
    assert_eq!(ended.len(), 12);
    assert!((1..12).all(|peer| !web.caches[peer].answer(query(1), Bytes::from_static(b"late"))));
    // Nobody but who brought it can cancel it.
    web.ask(0, 2);
    web.run(Duration::from_millis(500));
    web.tell(11, 1, &Message::Query(Query::Cancel { id: query(2) }));
    web.tell(1, 0, &Message::Query(Query::Cancel { id: query(2) }));
    web.run(Duration::from_millis(500));
    assert!(!web.ended.contains(&(0, query(2))));
}

#[test]
fn answers_to_questions_never_asked_and_after_the_time_are_dropped_and_counted() {
    let mut web = Web::new(4, &[(0, 1), (0, 2), (1, 3)]);
    web.subscribe([0, 1, 3]);
    web.answering = false;
    let answer = |number| Message::Query(Query::Answer { id: query(number), payload: Bytes::from_static(b"\x01") });
    web.tell(1, 0, &answer(9));
    web.ask(0, 1);
    web.run(Duration::from_millis(500));
    // Who was not asked by 1 cannot answer through it.
    web.tell(0, 1, &answer(1));
    web.run(SECONDS);
    web.tell(1, 0, &answer(1));
    web.tell(3, 1, &answer(1));
    web.run(SECONDS);
    assert_eq!(web.answers, []);
    assert_eq!((web.caches[0].stats().unfounded, web.caches[1].stats().unfounded), (2, 2));
}

#[test]
fn a_flood_of_questions_is_passed_on_at_a_bounded_rate_and_others_are_still_heard() {
    let mut web = Web::new(12, &(1..12).map(|peer| (0, peer)).collect::<Vec<_>>());
    web.subscribe(0..12);
    web.answering = false;
    web.bytes.fill(0);
    let payload = Bytes::from(vec![1; 200]);
    let (mut heard, seconds) = (0, 20);
    for number in 0..seconds * 500 {
        let message =
            Query::Question { id: query(number), hops: 8, repeat: 0, patience: 60_000, tag: Tag::from(TOPIC), payload: payload.clone() };
        let message = Message::Query(message);
        heard += message.encode().len();
        web.tell(1, 0, &message);
        while let Some(event) = web.caches[0].poll_event() {
            drop(event);
        }
        while let Some((_, message)) = web.caches[0].poll_message() {
            web.bytes[0] += message.len();
        }
        web.now += Duration::from_millis(2);
    }
    let question = heard / usize::try_from(seconds * 500).unwrap();
    // 128 are open, each was passed on to six; at the burst's rate no more were taken.
    assert!(web.bytes[0] <= 128 * 6 * question, "{} bytes", web.bytes[0]);
    assert!(web.caches[0].stats().throttled > 9000);
    let other = Message::Query(Query::Question { id: query(1 << 40), hops: 1, repeat: 0, patience: 1000, tag: Tag::from(TOPIC), payload });
    web.tell(2, 0, &other);
    assert!(matches!(web.caches[0].poll_event(), Some(Event::Query { .. })));
}

#[test]
fn a_question_is_amplified_six_times_at_most_and_its_repetition_no_more() {
    let mut web = Web::new(20, &(1..20).map(|peer| (0, peer)).collect::<Vec<_>>());
    web.subscribe(1..15);
    web.bytes.fill(0);
    for repeat in [0, 1, 1, 2, 2] {
        let question =
            Query::Question { id: query(1), hops: 8, repeat, patience: 60_000, tag: Tag::from(TOPIC), payload: Bytes::from(vec![1; 100]) };
        web.tell(1, 0, &Message::Query(question));
    }
    web.drain(0);
    let size = 1 + 16 + 2 + 2 + 8 + 100;
    assert_eq!(web.bytes[0], 3 * 6 * size);
}

#[test]
fn answers_without_end_are_passed_back_up_to_a_bound() {
    let mut web = Web::new(3, &[(0, 1), (1, 2)]);
    web.subscribe([0, 2]);
    web.answering = false;
    web.ask(0, 1);
    web.run(Duration::from_millis(500));
    web.bytes.fill(0);
    for _ in 0..10_000 {
        web.tell(2, 1, &Message::Query(Query::Answer { id: query(1), payload: Bytes::from(vec![7; MAX_ANSWER]) }));
    }
    web.run(Duration::from_millis(500));
    assert_eq!(web.answers.len(), 128);
    assert!(web.bytes[1] <= 128 * crate::MAX_MESSAGE);
}

#[test]
fn what_is_open_is_bounded_for_all_neighbours_together() {
    let mut web = Web::new(200, &(1..200).map(|peer| (0, peer)).collect::<Vec<_>>());
    for number in 0..200u64 * 60 {
        let from = usize::try_from(number / 60).unwrap();
        if from > 0 {
            let question = Query::Question { id: query(number), hops: 0, repeat: 0, patience: 60_000, tag: Tag(1), payload: Bytes::new() };
            web.tell(from, 0, &Message::Query(question));
        }
    }
    web.run(MAX_PATIENCE);
    assert_eq!(web.ended.iter().filter(|(peer, _)| *peer == 0).count(), 2048);
}

#[test]
fn questions_of_our_own_are_bounded_and_fit_a_message() {
    let mut web = Web::new(2, &[(0, 1)]);
    let (now, large) = (web.now, Bytes::from(vec![1; MAX_QUESTION + 1]));
    assert_eq!(web.caches[0].query(now, query(0), TOPIC, large, SECONDS), Err(AskError::TooLarge));
    for number in 0..64 {
        assert_eq!(web.caches[0].query(now, query(number), TOPIC, Bytes::from(vec![1; MAX_QUESTION]), SECONDS), Ok(()));
    }
    assert_eq!(web.caches[0].query(now, query(64), TOPIC, Bytes::new(), SECONDS), Err(AskError::TooMany));
    web.run(SECONDS);
    assert_eq!(web.caches[0].query(web.now, query(64), TOPIC, Bytes::new(), SECONDS), Ok(()));
    let (_, message) = web.caches[0].poll_message().unwrap();
    assert!(message.len() <= crate::MAX_MESSAGE);
    assert!(!web.caches[0].answer(query(64), Bytes::new()), "nobody answers itself");
}
