//! Questions to everyone who wants a topic: they travel hop by hop, and the answers come back the way they went.
//!
//! A cache reads neither; what they say is sealed by the layer above. It passes a question on once, to a few neighbours, and for its time remembers where it came from.

use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use peers_wire::{DecodeError, Reader, TopicId, Writer};
use rand::seq::SliceRandom;
use thiserror::Error;

use crate::cache::{Cache, Timer};
use crate::config::Event;
use crate::message::{MAX_HOPS, MAX_MESSAGE, Message, Tag};

/// The name of a question: 16 bytes that nobody can guess before it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub [u8; 16]);

/// Bytes of a question at most.
pub const MAX_QUESTION: usize = MAX_MESSAGE - 1 - 16 - 1 - 1 - 2 - Tag::LEN;
/// Bytes of an answer at most.
pub const MAX_ANSWER: usize = MAX_MESSAGE - 1 - 16;
/// How long a question may be open.
pub const MAX_PATIENCE: Duration = Duration::from_secs(60);
/// Hops of a question of our own beyond the neighbours.
const HOPS: u8 = 5;
/// Neighbours that a question of our own goes to.
const MAX_ASKED: usize = 64;
/// Neighbours that want its topic to which a question is passed on, and others where it has to find such first, or beside them.
const PASSED_ON: usize = 5;
const SEARCHING: usize = 3;
const BESIDE: usize = 1;
/// Questions open at a time, those of one origin, and our own.
const MAX_OPEN: usize = 2048;
const MAX_OPEN_PER_ORIGIN: usize = 128;
const MAX_OWN: usize = 64;
/// Answers to a question that one neighbour may bring, and from how many in all on none may bring more than its part of these.
const MAX_ANSWERS_PER_NEIGHBOUR: u16 = 128;
const MAX_ANSWERS: u16 = 512;
/// A question is repeated so often, each time after this time, as datagrams get lost; it is answered again, and passed on as before.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
const REPEATS: u8 = 2;

/// Questions and their answers. Kinds 16 to 18.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Query {
    /// To be passed on `hops` hops; answers are waited for so many milliseconds.
    Question {
        id: QueryId,
        hops: u8,
        repeat: u8,
        patience: u16,
        tag: Tag,
        payload: Bytes,
    },
    Answer {
        id: QueryId,
        payload: Bytes,
    },
    /// Who asked no longer wants answers.
    Cancel {
        id: QueryId,
    },
}

impl Query {
    pub(crate) fn read(kind: u8, bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = QueryId(reader.array()?);
        Ok(match kind {
            16 => {
                let (hops, repeat, patience, tag) = (reader.u8()?, reader.u8()?, reader.u16()?, Tag(reader.u64()?));
                if hops > MAX_HOPS || repeat > REPEATS {
                    return Err(DecodeError::Range("hops"));
                }
                if Duration::from_millis(patience.into()) > MAX_PATIENCE {
                    return Err(DecodeError::Range("patience"));
                }
                Self::Question { id, hops, repeat, patience, tag, payload: bytes.slice_ref(reader.rest()) }
            }
            17 => Self::Answer { id, payload: bytes.slice_ref(reader.rest()) },
            _ => Self::Cancel { id },
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        match self {
            Self::Question { id, hops, repeat, patience, tag, payload } => {
                writer.u8(16).bytes(&id.0).u8(*hops).u8(*repeat).u16(*patience).u64(tag.0).bytes(payload);
            }
            Self::Answer { id, payload } => {
                writer.u8(17).bytes(&id.0).bytes(payload);
            }
            Self::Cancel { id } => {
                writer.u8(18).bytes(&id.0);
            }
        }
    }
}

/// Why a question was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AskError {
    /// It is too long.
    #[error("a question has at most {MAX_QUESTION} bytes")]
    TooLarge,
    /// Too many are open.
    #[error("too many questions are open: wait for the answers of others, or cancel them")]
    TooMany,
}

/// Questions that are open.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    routes: HashMap<QueryId, Route>,
    by_origin: BTreeMap<u64, usize>,
    own: usize,
}

#[derive(Debug)]
struct Route {
    /// The neighbour that brought it; `None` if it is our own.
    from: Option<u32>,
    /// Whence that neighbour is.
    origin: u64,
    /// The neighbours it went to, and the answers that each has brought.
    to: Vec<(u32, u16)>,
    question: Question,
    due: Instant,
    answers: u16,
    /// What was answered here.
    answer: Option<Bytes>,
}

#[derive(Debug, Clone)]
struct Question {
    hops: u8,
    repeat: u8,
    patience: u16,
    tag: Tag,
    payload: Bytes,
}

impl Question {
    fn message(&self, id: QueryId) -> Message {
        let Self { hops, repeat, patience, tag, payload } = self.clone();
        Message::Query(Query::Question { id, hops, repeat, patience, tag, payload })
    }
}

impl Cache {
    /// Asks everyone who wants a topic, through all neighbours and up to 5 hops beyond them; answers come as [`Event::Answer`], [`Event::QueryEnded`] after `patience` (at most [`MAX_PATIENCE`]).
    ///
    /// - `id`: new for each question; `payload`: at most [`MAX_QUESTION`] bytes
    ///
    /// # Errors
    /// [`AskError`]
    pub fn query(&mut self, now: Instant, id: QueryId, topic: TopicId, payload: Bytes, patience: Duration) -> Result<(), AskError> {
        if payload.len() > MAX_QUESTION {
            return Err(AskError::TooLarge);
        }
        if self.queries.own >= MAX_OWN || self.queries.routes.len() >= MAX_OPEN || self.queries.routes.contains_key(&id) {
            return Err(AskError::TooMany);
        }
        let patience = patience.min(MAX_PATIENCE);
        let millis = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        let question = Question { hops: HOPS, repeat: 0, patience: millis, tag: Tag::from(topic), payload };
        let to = self.choose_asked(question.tag, None, MAX_ASKED, MAX_ASKED);
        self.queries.own += 1;
        self.open(id, Route { from: None, origin: 0, to, question, due: now + patience, answers: 0, answer: None });
        if patience > REPEAT_AFTER {
            self.timers.insert((now + REPEAT_AFTER, Timer::Question(id)));
        }
        Ok(())
    }

    /// Ends a question of our own, and tells those who pass it on.
    pub fn cancel(&mut self, id: QueryId) {
        if self.queries.routes.get(&id).is_some_and(|route| route.from.is_none()) {
            self.end_query(id, true);
        }
    }

    /// Answers a question that was raised as [`Event::Query`]: once, with at most [`MAX_ANSWER`] bytes; false if it is no longer open, or is answered.
    pub fn answer(&mut self, id: QueryId, payload: Bytes) -> bool {
        let Some(route) = self.queries.routes.get_mut(&id) else { return false };
        let Some(from) = route.from.filter(|_| route.answer.is_none() && payload.len() <= MAX_ANSWER) else { return false };
        route.answer = Some(payload.clone());
        self.send(from, &Message::Query(Query::Answer { id, payload }));
        true
    }

    fn open(&mut self, id: QueryId, route: Route) {
        self.timers.insert((route.due, Timer::Question(id)));
        self.pass_on(&route, id);
        self.queries.routes.insert(id, route);
    }

    fn pass_on(&mut self, route: &Route, id: QueryId) {
        let message = route.question.message(id);
        for (neighbour, _) in &route.to {
            self.send(*neighbour, &message);
        }
    }

    /// Random neighbours to ask: those that want the topic first, then others.
    fn choose_asked(&mut self, tag: Tag, from: Option<u32>, most: usize, others: usize) -> Vec<(u32, u16)> {
        let all = self.neighbours.iter().filter(|(serial, _)| Some(**serial) != from);
        let (mut asked, mut beside): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        all.for_each(|(serial, neighbour)| if neighbour.wants.contains(&tag) { &mut asked } else { &mut beside }.push(*serial));
        asked.shuffle(&mut self.rng);
        beside.shuffle(&mut self.rng);
        asked.truncate(most);
        beside.truncate(others.min(most.saturating_sub(asked.len()).max(BESIDE)));
        asked.append(&mut beside);
        asked.into_iter().map(|neighbour| (neighbour, 0)).collect()
    }

    pub(crate) fn on_query(&mut self, now: Instant, from: u32, query: Query) {
        match query {
            Query::Question { id, hops, repeat, patience, tag, payload } => {
                self.on_question(now, from, id, Question { hops, repeat, patience, tag, payload });
            }
            Query::Answer { id, payload } => self.on_answer(now, from, id, payload),
            Query::Cancel { id } => {
                if self.queries.routes.get(&id).is_some_and(|route| route.from == Some(from)) {
                    self.end_query(id, true);
                }
            }
        }
    }

    fn on_question(&mut self, now: Instant, from: u32, id: QueryId, question: Question) {
        if let Some(route) = self.queries.routes.get_mut(&id) {
            // Came another way round, or is repeated by who brought it: as it was, or it is another question.
            let same = (question.tag, &question.payload) == (route.question.tag, &route.question.payload);
            if route.from != Some(from) || question.repeat <= route.question.repeat || !same {
                return;
            }
            route.question.repeat = question.repeat;
            let (answer, asked) = (route.answer.clone(), route.to.clone());
            let message = route.question.message(id);
            if let Some(payload) = answer {
                self.send(from, &Message::Query(Query::Answer { id, payload }));
            }
            for (neighbour, _) in asked {
                self.send(neighbour, &message);
            }
            return;
        }
        let origin = self.origin(from);
        let open = self.queries.by_origin.get(&origin).copied().unwrap_or(0);
        let may = self.neighbours.get_mut(&from).is_some_and(|neighbour| neighbour.queries.take(now, 1));
        if self.queries.routes.len() >= MAX_OPEN || open >= MAX_OPEN_PER_ORIGIN || !may {
            self.stats.throttled += 1;
            return;
        }
        let topics: Vec<TopicId> = self.subscriptions.get(&question.tag).into_iter().flatten().copied().collect();
        let to = match question.hops {
            0 => Vec::new(),
            _ => self.choose_asked(question.tag, Some(from), PASSED_ON, if topics.is_empty() { SEARCHING } else { BESIDE }),
        };
        let due = now + Duration::from_millis(question.patience.into());
        // In memory of its own: it stays longer than the datagram that brought it.
        let payload = Bytes::copy_from_slice(&question.payload);
        let question = Question { hops: question.hops.saturating_sub(1), payload: payload.clone(), ..question };
        *self.queries.by_origin.entry(origin).or_default() += 1;
        self.open(id, Route { from: Some(from), origin, to, question, due, answers: 0, answer: None });
        for topic in topics {
            self.raise(Event::Query { id, topic, payload: payload.clone() });
        }
    }

    fn on_answer(&mut self, now: Instant, from: u32, id: QueryId, payload: Bytes) {
        let route = self.queries.routes.get_mut(&id).filter(|route| route.due > now);
        let Some((route, place)) = route.and_then(|route| {
            let place = route.to.iter().position(|(neighbour, _)| *neighbour == from)?;
            Some((route, place))
        }) else {
            self.stats.unfounded += 1;
            return;
        };
        let part = MAX_ANSWERS / u16::try_from(route.to.len()).unwrap_or(u16::MAX);
        let most = if route.answers >= MAX_ANSWERS { part } else { MAX_ANSWERS_PER_NEIGHBOUR };
        if route.to[place].1 >= most {
            self.stats.throttled += 1;
            return;
        }
        route.answers += 1;
        route.to[place].1 += 1;
        match route.from {
            Some(asker) => self.send(asker, &Message::Query(Query::Answer { id, payload })),
            None => self.raise(Event::Answer { id, payload }),
        }
    }

    /// A question is to be repeated, or its time is over.
    pub(crate) fn question_due(&mut self, now: Instant, id: QueryId) {
        let Some(route) = self.queries.routes.get_mut(&id) else { return };
        if route.due <= now {
            self.end_query(id, false);
        } else if route.from.is_none() && route.question.repeat < REPEATS {
            route.question.repeat += 1;
            let (again, due) = (now + REPEAT_AFTER, route.due);
            let (message, asked) = (route.question.message(id), route.to.clone());
            for (neighbour, _) in asked {
                self.send(neighbour, &message);
            }
            if again < due {
                self.timers.insert((again, Timer::Question(id)));
            }
        }
    }

    fn end_query(&mut self, id: QueryId, cancelled: bool) {
        let Some(route) = self.queries.routes.remove(&id) else { return };
        self.timers.remove(&(route.due, Timer::Question(id)));
        match route.from {
            None => self.queries.own -= 1,
            Some(_) => {
                if let Some(open) = self.queries.by_origin.get_mut(&route.origin) {
                    *open -= 1;
                    if *open == 0 {
                        self.queries.by_origin.remove(&route.origin);
                    }
                }
            }
        }
        if cancelled {
            for (neighbour, _) in &route.to {
                self.send(*neighbour, &Message::Query(Query::Cancel { id }));
            }
        }
        self.raise(Event::QueryEnded { id });
    }
}
