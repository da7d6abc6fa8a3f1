//! Questions on topics, and who is there: both go to whoever follows a topic, now, and wait for nobody.
//!
//! What is asked and answered is sealed on the *readers' topic*, whose key every reader of the topic derives: a packet of it travels as the payload of the cache's questions and answers.
//! Its author's signature covers the topic, the time and, in an answer, the question.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_cache::{AskError, MAX_ANSWER, MAX_QUESTION, QueryId};
use peers_crypto::{Draft, EpochKey, GroupId, ReadKey, SEAL_OVERHEAD, SealError, TopicKey};
use peers_wire::{Link, MAX_POSTAGE, MessageHeader, Packet, PacketId, PeerId, Timestamp, TopicId, Writer};
use rand::RngExt;
use thiserror::Error;

use crate::account::{label_id, labelled_topic};
use crate::stack::{Event, Stack, TopicMessage};
use crate::topics::Purpose;

/// Bytes of a question's body at most.
pub const MAX_QUERY: usize = MAX_QUESTION - MessageHeader::LEN - SEAL_OVERHEAD - 1;
/// Bytes of an answer that travels with its question's answers; a larger one is published for a while and fetched.
const MAX_SMALL_ANSWER: usize = MAX_ANSWER - MessageHeader::LEN - SEAL_OVERHEAD - 1;
/// How long a larger answer is kept by others, in minutes.
const ANSWER_LIFETIME: u16 = 5;
/// How far a clock may be off, for a question to be taken.
const MAX_SKEW: u64 = 10 * 60_000;
/// Questions of others that may be answered.
const MAX_OPEN: usize = 256;
/// Answers that one question takes.
const MAX_ANSWERS: usize = 512;
/// Peers that are known to be there, of a topic.
const MAX_PRESENT: usize = 256;
/// Topics on which this device is present or that it asks about.
const MAX_TOPICS: usize = 256;
/// How long an announcement travels: it is made again some time, and not repeated at once.
const ANNOUNCING: Duration = Duration::from_secs(1);
/// How long those who were there before may take to say so.
const GREETING: Duration = Duration::from_secs(3);
/// Between two announcements at least; longer for each peer that is there, so that all together cost the same.
const LEAST_INTERVAL: Duration = Duration::from_secs(120);
const INTERVAL_PER_PEER: Duration = Duration::from_secs(20);
/// Longest time that one announcement is good for, in minutes.
const MAX_LIFETIME: u16 = 240;

/// First byte of what is asked: a question of the application.
const APPLICATION: u8 = 0;
/// The asker is there, for so many minutes; 0: no longer.
const HERE: u8 = 1;
/// The asker wants to know who is there.
const WHO: u8 = 2;
/// First byte of an answer: that of the application, if it is small.
const SMALL: u8 = 0;
/// The message that the answer is in, on the readers' topic.
const LARGE: u8 = 1;
/// The answerer is there, for so many minutes.
const PRESENT: u8 = 2;

/// Why a question was not asked or answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QueryError {
    /// The topic is not followed here, or this device is no longer in its group.
    #[error("the topic is not followed here")]
    NotFollowed,
    /// It is too long to be asked at once.
    #[error("a question has at most {MAX_QUERY} bytes: publish what is larger, and ask about its id")]
    TooLarge,
    /// Too many questions are open.
    #[error(transparent)]
    TooMany(AskError),
    /// The question is no longer open, or was answered here.
    #[error("the question is no longer open")]
    Closed,
    /// The answer is larger than a message may be.
    #[error(transparent)]
    Answer(SealError),
}

/// Somebody who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// The device.
    pub peer: PeerId,
    /// Until when its last announcement is good, by our clock.
    pub until: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Asking {
    own: BTreeMap<QueryId, Own>,
    /// Questions of others that the application may answer.
    open: BTreeMap<QueryId, Open>,
    presence: BTreeMap<TopicId, Presence>,
    /// When somebody's announcement is over, or ours is to be repeated.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Own {
    /// The topic as the application knows it.
    topic: TopicId,
    readers: TopicKey,
    question: Link,
    /// Of the application, and not about who is there.
    application: bool,
    answered: BTreeSet<PeerId>,
    /// Messages that answers are in, and whose.
    fetching: BTreeMap<PacketId, PeerId>,
}

#[derive(Debug)]
struct Open {
    readers: TopicKey,
    question: Link,
}

#[derive(Debug, Default)]
struct Presence {
    /// This device is there: when it says so next.
    announce_at: Option<Instant>,
    known: BTreeMap<PeerId, Heard>,
}

#[derive(Debug)]
struct Heard {
    /// When its last announcement was made, by its clock: older ones say nothing.
    created: Timestamp,
    until: Timestamp,
    expires: Instant,
    here: bool,
}

impl Asking {
    /// When somebody's announcement is over, or ours is to be repeated.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

impl Stack {
    /// Asks everyone who follows a topic; answers come as [`Event::Answer`], then [`Event::QueryEnded`] after `patience`, at most a minute.
    ///
    /// # Errors
    /// [`QueryError`]
    pub fn query(&mut self, now: Instant, wall: Timestamp, topic: TopicId, body: &[u8], patience: Duration) -> Result<QueryId, QueryError> {
        if body.len() > MAX_QUERY {
            return Err(QueryError::TooLarge);
        }
        let query = self.ask(now, wall, topic, &[&[APPLICATION], body].concat(), patience, true)?;
        self.settle(now, wall);
        Ok(query)
    }

    /// Ends a question asked here, and tells those who passed it on.
    pub fn cancel_query(&mut self, now: Instant, wall: Timestamp, query: QueryId) {
        self.cache.cancel(query);
        self.settle(now, wall);
    }

    /// Answers a question that came as [`Event::Query`], once; a large answer is published for a few minutes, for the asker to fetch.
    ///
    /// # Errors
    /// [`QueryError`]
    pub fn answer(&mut self, now: Instant, wall: Timestamp, query: QueryId, body: &[u8]) -> Result<(), QueryError> {
        let Open { readers, question } = self.asking.open.remove(&query).ok_or(QueryError::Closed)?;
        let answer = if body.len() <= MAX_SMALL_ANSWER {
            [&[SMALL], body].concat()
        } else {
            // The head of the message says nothing of the question: who fetches it knows its id.
            let id = self.say(now, wall, &readers, body, ANSWER_LIFETIME).map_err(QueryError::Answer)?;
            [&[LARGE], &id.0[..]].concat()
        };
        self.reply(wall, query, &readers, question, &answer)?;
        self.settle(now, wall);
        Ok(())
    }

    /// From now on this device is there, and says so, on a topic that it follows; or no longer. It asks who is there, too, who come as [`Event::Present`].
    ///
    /// # Errors
    /// [`QueryError`]
    pub fn set_present(&mut self, now: Instant, wall: Timestamp, topic: TopicId, present: bool) -> Result<(), QueryError> {
        self.readers_of(topic)?;
        if !self.asking.presence.contains_key(&topic) && self.asking.presence.len() >= MAX_TOPICS {
            return Err(QueryError::TooMany(AskError::TooMany));
        }
        let presence = self.asking.presence.entry(topic).or_default();
        match (presence.announce_at.is_some(), present) {
            (false, true) => {
                presence.announce_at = Some(now);
                self.asking.due = Some(now);
                self.ask(now, wall, topic, &[WHO], GREETING, false)?;
            }
            (true, true) => {}
            (true, false) => {
                presence.announce_at = None;
                let _ = self.ask(now, wall, topic, &here(0), ANNOUNCING, false);
            }
            (false, false) => {}
        }
        self.keep_present(now, wall);
        self.settle(now, wall);
        Ok(())
    }

    /// Asks who is there, on a topic that is followed; answers come as [`Event::Present`].
    ///
    /// # Errors
    /// [`QueryError`]
    pub fn ask_who(&mut self, now: Instant, wall: Timestamp, topic: TopicId, patience: Duration) -> Result<QueryId, QueryError> {
        let query = self.ask(now, wall, topic, &[WHO], patience, false)?;
        self.settle(now, wall);
        Ok(query)
    }

    /// Who is known to be there; without this device.
    pub fn who(&self, topic: TopicId) -> Vec<Present> {
        let known = self.asking.presence.get(&topic).into_iter().flat_map(|presence| &presence.known);
        known.filter(|(_, heard)| heard.here).map(|(peer, heard)| Present { peer: *peer, until: heard.until }).collect()
    }

    /// This device says that it is there.
    pub fn is_present(&self, topic: TopicId) -> bool {
        self.asking.presence.get(&topic).is_some_and(|presence| presence.announce_at.is_some())
    }

    fn ask(
        &mut self,
        now: Instant,
        wall: Timestamp,
        topic: TopicId,
        body: &[u8],
        patience: Duration,
        application: bool,
    ) -> Result<QueryId, QueryError> {
        let (real, readers) = self.readers_of(topic)?;
        let packet = self.seal_small(wall, &readers, Link::NONE, body).ok_or(QueryError::TooLarge)?;
        let (query, question) = (query_id(&packet), packet.id().link());
        self.cache.query(now, query, real, Bytes::copy_from_slice(packet.as_bytes()), patience).map_err(QueryError::TooMany)?;
        let own = Own { topic, readers, question, application, answered: BTreeSet::new(), fetching: BTreeMap::new() };
        self.asking.own.insert(query, own);
        Ok(query)
    }

    fn reply(&mut self, wall: Timestamp, query: QueryId, readers: &TopicKey, question: Link, body: &[u8]) -> Result<(), QueryError> {
        let packet = self.seal_small(wall, readers, question, body).ok_or(QueryError::TooLarge)?;
        let sent = self.cache.answer(query, Bytes::copy_from_slice(packet.as_bytes()));
        if sent { Ok(()) } else { Err(QueryError::Closed) }
    }

    /// A sealed message of one packet.
    fn seal_small(&mut self, wall: Timestamp, readers: &TopicKey, previous: Link, body: &[u8]) -> Option<Packet> {
        let draft = Draft { created: wall, lifetime: ANSWER_LIFETIME, previous, postage: MAX_POSTAGE };
        let mut packets = readers.seal(&self.key, draft, body, &mut self.rng).ok()?;
        (packets.len() == 1).then(|| packets.remove(0))
    }

    /// The topic that questions go by, and that of its readers, for what an application knows as `topic`: of the newest epoch, where there are several.
    fn readers_of(&self, topic: TopicId) -> Result<(TopicId, TopicKey), QueryError> {
        let newest = |keys: &mut dyn Iterator<Item = &EpochKey>| keys.next().map(EpochKey::read_key);
        let key = if let Some(label) = self.labels.iter().find(|label| label_id(label) == topic) {
            self.account.user.recent().find_map(|key| match key {
                EpochKey::Write(key) => Some(labelled_topic(key, label).read_key()),
                EpochKey::Read(_) => None,
            })
        } else if let Some(group) = self.account.membership(GroupId(topic.0)) {
            newest(&mut group.recent())
        } else {
            self.key_of(topic).filter(|(_, purpose)| *purpose == Purpose::Application).map(|(key, _)| key.clone())
        };
        let key = key.ok_or(QueryError::NotFollowed)?;
        Ok((key.topic(), key.readers()))
    }

    /// Whether what is followed for `purpose` has `author` as one who may speak, and its topic as the application knows it.
    fn speaks(&self, real: TopicId, purpose: Purpose, author: PeerId) -> Option<TopicId> {
        match purpose {
            Purpose::Application => Some(real),
            Purpose::Label(label) if self.account.has_device(author) => Some(label),
            Purpose::Group(group) if self.account.membership(group)?.group.contains(author) => Some(TopicId(group.0)),
            _ => None,
        }
    }

    /// A question came, on a topic that is followed.
    pub(crate) fn on_question(&mut self, now: Instant, wall: Timestamp, query: QueryId, real: TopicId, payload: &Bytes) {
        let Some((key, purpose)) = self.key_of(real).map(|(key, purpose)| (key.clone(), purpose)) else { return };
        let opened = open(&key, wall, payload).filter(|(packet, _)| query_id(packet) == query);
        let Some((packet, opened)) = opened else {
            self.stats.refused_topic_messages += 1;
            return;
        };
        let Some(topic) = self.speaks(real, purpose, opened.author).filter(|_| opened.author != self.id()) else { return };
        let (readers, question) = (key.readers(), packet.id().link());
        match opened.body.split_first() {
            Some((&APPLICATION, body)) if self.asking.open.len() < MAX_OPEN => {
                self.asking.open.insert(query, Open { readers, question });
                self.events.push_back(Event::Query { topic, query, from: opened.author, body: Bytes::copy_from_slice(body) });
            }
            Some((&APPLICATION, _)) => self.stats.overflowed += 1,
            Some((&HERE, minutes)) => {
                if let Ok(minutes) = <[u8; 2]>::try_from(minutes) {
                    self.hear_of(now, wall, topic, opened.author, packet.created(), u16::from_be_bytes(minutes));
                }
            }
            Some((&WHO, [])) => self.say_present(wall, topic, query, &readers, question),
            _ => self.stats.refused_topic_messages += 1,
        }
    }

    fn say_present(&mut self, wall: Timestamp, topic: TopicId, query: QueryId, readers: &TopicKey, question: Link) {
        if self.is_present(topic) {
            let answer = [&[PRESENT], &self.lifetime(topic).to_be_bytes()[..]].concat();
            // The question may have ended just now.
            let _ = self.reply(wall, query, readers, question, &answer);
        }
    }

    /// An answer came, to a question asked here.
    pub(crate) fn on_query_answer(&mut self, now: Instant, wall: Timestamp, query: QueryId, payload: &Bytes) {
        let Some(own) = self.asking.own.get_mut(&query) else { return };
        let opened = open_on(&own.readers.read_key(), wall, payload).filter(|(packet, _)| packet.previous() == Some(own.question));
        let Some((packet, opened)) = opened else {
            self.stats.refused_topic_messages += 1;
            return;
        };
        let (topic, application) = (own.topic, own.application);
        // Each answers once; a repeated question is answered again.
        if own.answered.len() >= MAX_ANSWERS || !own.answered.insert(opened.author) {
            return;
        }
        match opened.body.split_first() {
            Some((&SMALL, body)) if application && self.may_answer(topic, opened.author) => {
                self.events.push_back(Event::Answer { query, from: opened.author, body: Bytes::copy_from_slice(body) });
            }
            Some((&LARGE, id)) if application && self.may_answer(topic, opened.author) => {
                if let Ok(id) = <[u8; 32]>::try_from(id) {
                    self.fetch_answer(now, wall, query, PacketId(id), opened.author);
                }
            }
            Some((&PRESENT, minutes)) if !application && self.may_answer(topic, opened.author) => {
                if let Ok(minutes) = <[u8; 2]>::try_from(minutes) {
                    self.hear_of(now, wall, topic, opened.author, packet.created(), u16::from_be_bytes(minutes));
                }
            }
            _ => self.stats.refused_topic_messages += 1,
        }
    }

    fn may_answer(&self, topic: TopicId, author: PeerId) -> bool {
        match self.account.membership(GroupId(topic.0)) {
            Some(group) => group.group.contains(author),
            None => !self.labels.iter().any(|label| label_id(label) == topic) || self.account.has_device(author),
        }
    }

    /// Follows the readers' topic while a large answer is fetched.
    fn fetch_answer(&mut self, now: Instant, wall: Timestamp, query: QueryId, id: PacketId, author: PeerId) {
        let Some(own) = self.asking.own.get_mut(&query) else { return };
        own.fetching.insert(id, author);
        let readers = own.readers.read_key();
        if self.key_of(readers.topic()).is_none() {
            self.follow(now, readers, Purpose::Readers);
        }
        self.cache.request(now, wall, id);
    }

    /// A message on a readers' topic: an answer that is being fetched, or none.
    pub(crate) fn on_readers_message(&mut self, message: TopicMessage) {
        let fetched = self.asking.own.iter_mut().find(|(_, own)| own.fetching.get(&message.id) == Some(&message.author));
        if let Some((query, own)) = fetched {
            own.fetching.remove(&message.id);
            self.events.push_back(Event::Answer { query: *query, from: message.author, body: message.payload });
        }
    }

    /// The time of a question is over, or it was cancelled.
    pub(crate) fn on_query_ended(&mut self, now: Instant, query: QueryId) {
        self.asking.open.remove(&query);
        let Some(own) = self.asking.own.remove(&query) else { return };
        let readers = own.readers.id();
        if !self.asking.own.values().any(|other| other.readers.id() == readers && !other.fetching.is_empty())
            && self.key_of(readers).is_some_and(|(_, purpose)| purpose == Purpose::Readers)
        {
            self.unfollow(now, readers);
        }
        if own.application {
            self.events.push_back(Event::QueryEnded { query });
        }
    }

    /// Somebody said that it is there for so many minutes from when it said so, or no longer.
    fn hear_of(&mut self, now: Instant, wall: Timestamp, topic: TopicId, peer: PeerId, created: Timestamp, minutes: u16) {
        let lifetime = u64::from(minutes.min(MAX_LIFETIME)) * 60_000;
        // From the earlier of both clocks: no announcement is good for longer than it says.
        let until = Timestamp(created.0.min(wall.0) + lifetime);
        if !self.asking.presence.contains_key(&topic) && self.asking.presence.len() >= MAX_TOPICS {
            self.stats.overflowed += 1;
            return;
        }
        let known = &mut self.asking.presence.entry(topic).or_default().known;
        let before = known.get(&peer);
        if before.is_some_and(|heard| heard.created >= created) || (known.len() >= MAX_PRESENT && before.is_none()) {
            return;
        }
        let (was_here, here) = (before.is_some_and(|heard| heard.here), minutes > 0 && until > wall);
        // Who has left is remembered for as long as an announcement made before that may come again.
        let rest = if here { until.since(wall) } else { u64::from(MAX_LIFETIME) * 60_000 };
        if here || was_here {
            let expires = now + Duration::from_millis(rest);
            self.asking.due = Some(self.asking.due.map_or(expires, |due| due.min(expires)));
            known.insert(peer, Heard { created, until, expires, here });
        }
        match here {
            true => self.events.push_back(Event::Present { topic, peer, until }),
            false if was_here => self.events.push_back(Event::Absent { topic, peer }),
            false => {}
        }
    }

    /// Says again that this device is there, and forgets who has not.
    pub(crate) fn keep_present(&mut self, now: Instant, wall: Timestamp) {
        if self.asking.due.is_none_or(|due| due > now) {
            return;
        }
        let topics: Vec<TopicId> = self.asking.presence.keys().copied().collect();
        for topic in topics {
            let Some(presence) = self.asking.presence.get_mut(&topic) else { continue };
            presence.known.retain(|peer, heard| {
                let over = heard.expires <= now;
                if over && heard.here {
                    self.events.push_back(Event::Absent { topic, peer: *peer });
                }
                !over
            });
            if presence.announce_at.is_some_and(|at| at <= now) {
                let (lifetime, interval) = (self.lifetime(topic), self.interval(topic).mul_f64(self.rng.random_range(0.8..1.0)));
                if let Some(presence) = self.asking.presence.get_mut(&topic) {
                    presence.announce_at = Some(now + interval);
                }
                // A topic that is followed no more is announced on no more.
                if self.ask(now, wall, topic, &here(lifetime), ANNOUNCING, false) == Err(QueryError::NotFollowed) {
                    self.asking.presence.remove(&topic);
                }
            } else if self.asking.presence.get(&topic).is_some_and(|presence| presence.announce_at.is_none() && presence.known.is_empty()) {
                self.asking.presence.remove(&topic);
            }
        }
        let next = |presence: &Presence| presence.known.values().map(|heard| heard.expires).chain(presence.announce_at).min();
        self.asking.due = self.asking.presence.values().filter_map(next).min();
    }

    /// Between two announcements: so that those of all who are there cost as much, however many there are.
    fn interval(&self, topic: TopicId) -> Duration {
        let known = self.asking.presence.get(&topic).map_or(0, |presence| presence.known.values().filter(|heard| heard.here).count());
        LEAST_INTERVAL.max(INTERVAL_PER_PEER * u32::try_from(known).unwrap_or(u32::MAX))
    }

    /// Minutes that an announcement is good for: two may get lost.
    fn lifetime(&self, topic: TopicId) -> u16 {
        let minutes = self.interval(topic).as_secs() * 5 / 2 / 60;
        u16::try_from(minutes).unwrap_or(MAX_LIFETIME).clamp(1, MAX_LIFETIME)
    }
}

fn here(minutes: u16) -> Vec<u8> {
    let mut body = Writer::default();
    body.u8(HERE).u16(minutes);
    body.finish()
}

/// The name of a question: the first half of its packet's id, so that it cannot be asked again under another.
fn query_id(packet: &Packet) -> QueryId {
    let mut id = [0; 16];
    id.copy_from_slice(&packet.id().0[..16]);
    QueryId(id)
}

/// Opens what a question or an answer on a topic carries.
fn open(key: &ReadKey, wall: Timestamp, payload: &Bytes) -> Option<(Packet, peers_crypto::Opened)> {
    open_on(&key.readers().read_key(), wall, payload)
}

fn open_on(readers: &ReadKey, wall: Timestamp, payload: &Bytes) -> Option<(Packet, peers_crypto::Opened)> {
    let packet = Packet::decode(payload.clone()).ok()?;
    let old = packet.expires().0 + MAX_SKEW <= wall.0;
    if old || packet.created().since(wall) > MAX_SKEW {
        return None;
    }
    let opened = readers.open(&packet, packet.payload()).ok()?;
    Some((packet, opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Account;
    use crate::stack::Config;
    use peers_crypto::DeviceKey;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    const WALL: Timestamp = Timestamp(1_800_000_000_000);

    fn device(number: u8) -> DeviceKey {
        DeviceKey::from_seed(&[number; 32])
    }

    fn topic() -> TopicKey {
        TopicKey::from_seed([3; 32])
    }

    /// A stack that follows the topic.
    fn stack() -> (Instant, Stack) {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let now = Instant::now();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let account = Account::create(WALL, &device(1), "device", &mut rng).unwrap();
        let mut stack = Stack::new(now, WALL, Config::default(), device(1), account, [1; 32]);
        stack.subscribe(now, WALL, topic().read_key());
        (now, stack)
    }

    /// What `author` says on the readers' topic of `topic`.
    fn said(topic: &TopicKey, author: u8, created: Timestamp, previous: Link, body: &[u8]) -> Packet {
        let draft = Draft { created, lifetime: ANSWER_LIFETIME, previous, postage: MAX_POSTAGE };
        let mut rng = ChaCha20Rng::seed_from_u64(created.0 ^ u64::from(author));
        topic.read_key().readers().seal(&device(author), draft, body, &mut rng).unwrap().remove(0)
    }

    fn payload(packet: &Packet) -> Bytes {
        Bytes::copy_from_slice(packet.as_bytes())
    }

    fn events(stack: &mut Stack) -> Vec<Event> {
        core::iter::from_fn(|| stack.poll_event()).collect()
    }

    #[test]
    fn answers_to_another_question_of_strangers_and_in_anothers_name_are_refused() {
        let (now, mut stack) = stack();
        let ask = |stack: &mut Stack| {
            let query = stack.query(now, WALL, topic().id(), b"well?", Duration::from_secs(5)).unwrap();
            (query, stack.asking.own[&query].question)
        };
        let ((first, question), (second, _)) = (ask(&mut stack), ask(&mut stack));
        events(&mut stack);
        let genuine = said(&topic(), 2, WALL, question, b"\0yes");
        // The answer to one question does not answer another.
        stack.on_query_answer(now, WALL, second, &payload(&genuine));
        // Who cannot read the topic cannot answer on it.
        stack.on_query_answer(now, WALL, first, &payload(&said(&TopicKey::from_seed([4; 32]), 2, WALL, question, b"\0no")));
        // Nor is one that was recorded good for long.
        stack.on_query_answer(now, WALL.plus(3_600_000), first, &payload(&genuine));
        assert_eq!(events(&mut stack).len(), 0);
        // The name is under the author's signature, and this under the seal: what passes with a changed byte says the same in the same name.
        let bytes = genuine.as_bytes();
        for at in 2..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            stack.on_query_answer(now, WALL, first, &changed.into());
        }
        stack.on_query_answer(now, WALL, first, &payload(&genuine));
        stack.on_query_answer(now, WALL, first, &payload(&genuine));
        let found = events(&mut stack);
        assert!(
            matches!(&found[..], [Event::Answer { query, from, body }] if (*query, *from, &body[..]) == (first, device(2).id(), b"yes"))
        );
    }

    #[test]
    fn a_question_under_another_name_or_recorded_long_ago_is_not_heard() {
        let (now, mut stack) = stack();
        let question = said(&topic(), 2, WALL, Link::NONE, b"\0well?");
        let id = query_id(&question);
        stack.on_question(now, WALL, QueryId([7; 16]), topic().id(), &payload(&question));
        stack.on_question(now, WALL.plus(3_600_000), id, topic().id(), &payload(&question));
        stack.on_question(now, Timestamp(WALL.0 - 3_600_000), id, topic().id(), &payload(&question));
        stack.on_question(now, WALL, id, topic().id(), &Bytes::from_static(b"noise"));
        assert!(!events(&mut stack).iter().any(|event| matches!(event, Event::Query { .. })));
        assert_eq!(stack.stats.refused_topic_messages, 4);
        stack.on_question(now, WALL, id, topic().id(), &payload(&question));
        assert!(events(&mut stack).iter().any(|event| matches!(event, Event::Query { .. })));
    }

    #[test]
    fn a_recorded_announcement_makes_nobody_there_for_longer_than_it_says() {
        let (now, mut stack) = stack();
        let mut hear = |packet: &Packet, minutes: u64| {
            let (at, wall) = (now + Duration::from_secs(60 * minutes), WALL.plus(60_000 * minutes));
            stack.on_question(at, wall, query_id(packet), topic().id(), &payload(packet));
            stack.keep_present(at, wall);
            stack.who(topic().id()).len()
        };
        let first = said(&topic(), 2, WALL, Link::NONE, &here(5));
        assert_eq!(hear(&first, 0), 1);
        assert_eq!(hear(&first, 4), 1);
        assert_eq!(hear(&first, 5), 0, "it is over");
        assert_eq!(hear(&first, 6), 0);
        // Who left does not come back by what it said before.
        let second = said(&topic(), 2, WALL.plus(420_000), Link::NONE, &here(200));
        let gone = said(&topic(), 2, WALL.plus(430_000), Link::NONE, &here(0));
        assert_eq!(hear(&second, 8), 1);
        assert_eq!(hear(&gone, 8), 0);
        assert_eq!((hear(&second, 9), hear(&second, 15)), (0, 0));
        // A clock that is ahead gains nothing.
        let early = said(&topic(), 3, WALL.plus(1_500_000), Link::NONE, &here(5));
        assert_eq!(hear(&early, 17), 1);
        assert_eq!(hear(&early, 22), 0);
    }

    #[test]
    fn announcements_of_readers_without_number_are_bounded() {
        let (now, mut stack) = stack();
        for number in 0..1000u64 {
            let peer = PeerId(peers_crypto::hash(&[&number.to_be_bytes()]));
            stack.hear_of(now, WALL, topic().id(), peer, WALL, 5);
            stack.hear_of(now, WALL, TopicId(peer.0), peer, WALL, 5);
        }
        assert_eq!(stack.who(topic().id()).len(), MAX_PRESENT);
        assert_eq!(stack.asking.presence.len(), MAX_TOPICS);
        for number in 0..1000 {
            let question = said(&topic(), 2, WALL.plus(number), Link::NONE, b"\0well?");
            stack.on_question(now, WALL, query_id(&question), topic().id(), &payload(&question));
        }
        assert_eq!(stack.asking.open.len(), MAX_OPEN);
    }
}
