//! The state machine: what comes in, what goes out, and when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use peers_wire::{Link, Packet, PacketId, PeerId, Timestamp, TopicId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::carry::Traces;
use crate::config::{Config, Event, Stats};
use crate::differ::Talks;
use crate::gather::Gatherings;
use crate::message::{Key, Message, Summary, Tag};
use crate::neighbour::Neighbour;
use crate::pen::Pen;
use crate::publish::Published;
use crate::pull::{MAX_SEARCH_HOPS, Pulls};
use crate::query::{Queries, Query, QueryId};
use crate::receipt::{Proving, Receipts};
use crate::reconcile::Changes;
use crate::seek::{SEEK_COST, Seeks};
use crate::seen::Seen;
use crate::spread::Fresh;
use crate::store::{Inserted, Store};

/// Connected peers; one more is refused its messages. As many as `peers-nat` has sessions at most: who is met by all must not refuse some.
pub const MAX_NEIGHBOURS: usize = 4096;
/// Topics subscribed to at a time.
pub const MAX_SUBSCRIPTIONS: usize = 8192;
/// Packets whose successors the layer above asked for and did not yet get.
const MAX_AWAITED: usize = 256;
/// From a neighbour's connection to offering it what it should keep: who leaves at once is not offered anything.
const OFFERS_AFTER: core::time::Duration = core::time::Duration::from_secs(5);
/// What a request, a range and an offer cost of a neighbour's budget for work.
const WANT_COST: usize = 4;
const RANGE_COST: usize = 16;
/// What a question costs, which is passed on to a few.
const QUESTION_COST: usize = 64;

/// What happens at a time; a timer that has become void does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Announce,
    Pull(Key),
    Topics(u32),
    Compare,
    Published(u32),
    Talk(u32),
    Proof(u64),
    Question(QueryId),
    Check,
    Offer(u32),
    Seek,
    Tick,
}

/// The stream relay of one peer. See the crate's documentation for its loop.
#[derive(Debug)]
pub struct Cache {
    pub(crate) config: Config,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) id: PeerId,
    start: Instant,
    pub(crate) store: Store,
    pub(crate) subscriptions: BTreeMap<Tag, BTreeSet<TopicId>>,
    pub(crate) version: u16,
    pub(crate) neighbours: BTreeMap<u32, Neighbour>,
    pub(crate) serials: HashMap<PeerId, u32>,
    next_serial: u32,
    pub(crate) pulls: Pulls,
    pub(crate) fresh: Fresh,
    pub(crate) published: Published,
    pub(crate) receipts: Receipts,
    pub(crate) traces: Traces,
    pub(crate) queries: Queries,
    pub(crate) changes: Changes,
    pub(crate) talks: Talks,
    pub(crate) gatherings: Gatherings,
    /// What the clock said last.
    pub(crate) wall: Timestamp,
    pub(crate) seeks: Seeks,
    /// What was evicted or refused, not to be pulled again.
    pub(crate) gone: Seen,
    pub(crate) pen: Pen,
    pub(crate) awaited: VecDeque<Key>,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    ticking: bool,
    messages: VecDeque<(PeerId, Bytes)>,
    events: VecDeque<Event>,
    pub(crate) stats: Stats,
}

impl Cache {
    /// An empty cache; a few hundred bytes.
    ///
    /// - `id`: this peer, whose hash distance decides what it keeps of topics that it does not subscribe to
    /// - `seed`: random; all choices follow from it
    pub fn new(now: Instant, config: Config, id: PeerId, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let store = Store::new(config.budget, config.wanted_budget, &id, [rng.random(), rng.random()]);
        Self {
            config,
            rng,
            id,
            start: now,
            store,
            subscriptions: BTreeMap::new(),
            version: 0,
            neighbours: BTreeMap::new(),
            serials: HashMap::new(),
            next_serial: 0,
            pulls: Pulls::default(),
            fresh: Fresh::default(),
            published: Published::default(),
            receipts: Receipts::default(),
            traces: Traces::default(),
            queries: Queries::default(),
            changes: Changes::default(),
            talks: Talks::default(),
            gatherings: Gatherings::new(),
            wall: Timestamp(0),
            seeks: Seeks::default(),
            gone: Seen::default(),
            pen: Pen::default(),
            awaited: VecDeque::new(),
            timers: BTreeSet::new(),
            ticking: false,
            messages: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Wants all packets of a topic: those to come are raised as [`Event::Packet`], those held already are in [`Cache::packets`].
    /// Beyond [`MAX_SUBSCRIPTIONS`] it does nothing.
    pub fn subscribe(&mut self, now: Instant, topic: TopicId) {
        let count: usize = self.subscriptions.values().map(BTreeSet::len).sum();
        let tag = Tag::from(topic);
        if count >= MAX_SUBSCRIPTIONS || !self.subscriptions.entry(tag).or_default().insert(topic) {
            return;
        }
        self.store.prefer(tag, true);
        self.store.keep_sketch(tag, self.wall);
        self.seek_topic(now, tag);
        self.interests_changed(now);
        self.finish();
    }

    /// Wants no more packets of a topic; those held stay as long as there is room.
    pub fn unsubscribe(&mut self, now: Instant, topic: TopicId) {
        let tag = Tag::from(topic);
        let Some(topics) = self.subscriptions.get_mut(&tag) else { return };
        if !topics.remove(&topic) {
            return;
        }
        if topics.is_empty() {
            self.subscriptions.remove(&tag);
            self.store.prefer(tag, false);
        }
        self.interests_changed(now);
        self.finish();
    }

    /// A session with `peer` is up: tells it the topics wanted here, and offers it what too few hold. A peer that is connected
    /// already counts as started anew.
    pub fn peer_connected(&mut self, now: Instant, peer: PeerId) {
        self.peer_disconnected(now, peer);
        if self.neighbours.len() >= MAX_NEIGHBOURS {
            return;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.serials.insert(peer, serial);
        self.neighbours.insert(serial, Neighbour::new(now, peer));
        self.start_ticking(now);
        self.send_topics(now, serial);
        self.offer_published(now, serial);
        self.timers.insert((now + OFFERS_AFTER, Timer::Offer(serial)));
    }

    /// The session with `peer` is gone.
    pub fn peer_disconnected(&mut self, _now: Instant, peer: PeerId) {
        if let Some(serial) = self.serials.remove(&peer) {
            self.neighbours.remove(&serial);
            self.forget_talks(serial);
        }
    }

    /// A connected peer does not answer: nothing is pushed or announced to it until it is heard again.
    pub fn peer_silent(&mut self, peer: PeerId) {
        if let Some(neighbour) = self.serials.get(&peer).and_then(|serial| self.neighbours.get_mut(serial)) {
            neighbour.silent = true;
        }
    }

    /// A neighbour is heard: if it was silent, the topics are compared again, for what it was not told.
    fn heard(&mut self, now: Instant, from: u32) {
        if let Some(neighbour) = self.neighbours.get_mut(&from).filter(|neighbour| neighbour.silent) {
            neighbour.silent = false;
            neighbour.topics_tries = 0;
            self.send_topics(now, from);
        }
    }

    /// Takes in packets of our own and spreads them.
    ///
    /// - `packets`: signed; a head first, then its fragments, parents before children
    pub fn publish(&mut self, now: Instant, wall: Timestamp, packets: Vec<Packet>) {
        self.wall = wall;
        self.spread(now, wall, packets);
        self.finish();
    }

    /// Asks for a packet by id, wherever it is; it comes as [`Event::Packet`], at once if it is held.
    pub fn request(&mut self, now: Instant, wall: Timestamp, id: PacketId) {
        self.request_key(now, wall, Key::from(id));
    }

    /// Asks for the packet that a link names, as [`Cache::request`] does.
    pub fn request_link(&mut self, now: Instant, wall: Timestamp, link: Link) {
        self.request_key(now, wall, Key::from(link));
    }

    fn request_key(&mut self, now: Instant, wall: Timestamp, key: Key) {
        self.store.expire(wall);
        if let Some(packet) = self.store.get(key) {
            self.events.push_back(Event::Packet(packet.clone()));
            return;
        }
        self.gone.forget(key);
        self.seek(now, key, MAX_SEARCH_HOPS, None);
        self.finish();
    }

    /// Asks neighbours for the successors of a packet; those not held come as [`Event::Packet`].
    pub fn request_next(&mut self, _now: Instant, link: Link) {
        let key = Key::from(link);
        if self.awaited.len() >= MAX_AWAITED {
            self.awaited.pop_front();
        }
        self.awaited.push_back(key);
        for neighbour in self.sample(self.config.relay_to, |_| true) {
            self.send(neighbour, &Message::Next { keys: vec![key] });
        }
        self.finish();
    }

    /// The packets held whose predecessor is `link`.
    pub fn next(&self, link: Link) -> impl Iterator<Item = &Packet> {
        self.store.after(Key::from(link)).filter(move |packet| packet.previous() == Some(link))
    }

    /// A packet, if it is held.
    pub fn get(&self, id: &PacketId) -> Option<&Packet> {
        self.store.get(Key::from(*id)).filter(|packet| packet.id() == *id)
    }

    /// The packets held of a topic, in order of creation.
    pub fn packets(&self, topic: TopicId) -> impl Iterator<Item = &Packet> {
        self.store.packets(Tag::from(topic)).filter(move |packet| packet.topic() == topic)
    }

    /// Takes in a packet from our own disk, which was checked when it came: nothing is spread, [`Event::Kept`] is not raised.
    pub fn load(&mut self, now: Instant, wall: Timestamp, packet: Packet) {
        self.wall = wall;
        if packet.expires() <= wall {
            self.events.push_back(Event::Dropped(packet.id()));
            return;
        }
        let wanted = self.wants(Tag::from(packet.topic()));
        let second = self.second(now);
        if self.store.insert(packet.to_owned_copy(), None, wanted, wall, second) == Inserted::New && self.subscribed(&packet) {
            self.events.push_back(Event::Packet(packet));
        }
        self.start_ticking(now);
        self.finish();
    }

    /// A message came from a connected peer.
    pub fn handle_message(&mut self, now: Instant, wall: Timestamp, from: PeerId, message: Bytes) {
        self.stats.messages += 1;
        self.wall = wall;
        let Some(&from) = self.serials.get(&from) else {
            self.stats.strangers += 1;
            return;
        };
        let Ok(message) = Message::decode(&message) else {
            self.stats.malformed += 1;
            return;
        };
        self.heard(now, from);
        if !self.may_work(now, from, &message) {
            self.stats.throttled += 1;
            return;
        }
        match message {
            Message::Packet { eager, packet } => self.on_packet(now, wall, from, eager, packet),
            Message::Have { answer, heard, keys } => self.on_have(now, from, answer, heard, &keys),
            Message::Want { hops, keys } => self.on_want(now, from, hops, &keys),
            Message::Lack { keys } => keys.into_iter().for_each(|key| self.lacks(now, from, key)),
            Message::Topics { version, part, empty, topics } => self.on_topics(now, from, version, part, empty, &topics),
            Message::Heed { version, part } => self.on_heed(from, version, part),
            Message::Ranges { tag, start, ranges } => self.on_ranges(now, from, tag, start, &ranges),
            Message::List { tag, start, end, keys } => self.on_list(now, from, tag, start, end, &keys),
            Message::Seek { further, tags } => self.on_seek(now, from, further, &tags),
            Message::Next { keys } => self.on_next(from, &keys),
            Message::Follows { previous, keys } => self.on_follows(now, from, previous, &keys),
            Message::Probe(probe) => self.on_probe(now, from, &probe),
            Message::Cells(cells) => self.on_cells(now, from, &cells),
            Message::More(more) => self.on_more(now, from, &more),
            Message::Names(names) => self.on_names(now, from, &names),
            Message::Query(query) => self.on_query(now, from, query),
            Message::Proving(proving) => self.on_proving(now, wall, from, proving),
        }
        self.ask_receipts(now);
        self.finish();
    }

    /// Does what is due; early and repeated calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant, wall: Timestamp) {
        self.wall = wall;
        while let Some(&(due, timer)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Announce => self.announce(now),
                Timer::Pull(key) => self.advance(now, key),
                Timer::Topics(neighbour) => self.send_topics(now, neighbour),
                Timer::Compare => self.compare(now, wall),
                Timer::Published(message) => self.offer_again(now, message),
                Timer::Talk(neighbour) => self.talk_on(now, neighbour),
                Timer::Proof(reference) => self.ask_again(now, reference),
                Timer::Check => self.check_holder(now),
                Timer::Offer(neighbour) => self.offer_held(now, neighbour),
                Timer::Seek => self.seek_topics(now),
                Timer::Question(query) => self.question_due(now, query),
                Timer::Tick => self.tick(now, wall),
            }
        }
        self.finish();
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<(PeerId, Bytes)> {
        self.messages.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Cache::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let (held, used, neighbours) = (self.store.len() as u64, self.store.used() as u64, self.neighbours.len() as u64);
        Stats { held, used, neighbours, ..self.stats }
    }

    /// Bytes of the budget in use.
    pub fn used(&self) -> usize {
        self.store.used()
    }

    /// A round trip to a connected peer, measured below: announcers that are near are asked first.
    pub fn set_rtt(&mut self, peer: PeerId, rtt: core::time::Duration) {
        if let Some(neighbour) = self.serials.get(&peer).and_then(|serial| self.neighbours.get_mut(serial)) {
            neighbour.measured(rtt);
        }
    }

    /// Names where a connected peer comes from: the prefix of its address, or the relay that it is reached by. What peers of one origin bring shares one account, so that a host
    /// with many keys gets no more room than one with a single key. Receipts count once for each origin. Without a name, a peer is an origin of its own.
    pub fn set_origin(&mut self, peer: PeerId, origin: u64) {
        if let Some(neighbour) = self.serials.get(&peer).and_then(|serial| self.neighbours.get_mut(serial)) {
            neighbour.origin = origin;
        }
    }

    /// Charges a message to its sender's budget for work.
    fn may_work(&mut self, now: Instant, from: u32, message: &Message) -> bool {
        let cost = match message {
            Message::Packet { .. } | Message::Heed { .. } => 0,
            Message::Have { keys, .. } => keys.len(),
            Message::Want { keys, .. } => keys.len() * WANT_COST,
            Message::Lack { keys } | Message::Follows { keys, .. } => keys.len() + 1,
            Message::List { keys, .. } => keys.len() + RANGE_COST,
            Message::Topics { topics, .. } => 1 + topics.len() * RANGE_COST,
            Message::Ranges { ranges, .. } => ranges.len() * RANGE_COST,
            Message::Seek { tags, .. } => tags.len() * SEEK_COST,
            Message::Next { keys } => keys.len() * RANGE_COST,
            Message::Probe(_) | Message::Cells(_) | Message::More(_) => RANGE_COST,
            Message::Names(names) => names.wants.len() * WANT_COST + names.offers.len() + 1,
            Message::Proving(Proving::Prove { keys, .. }) => RANGE_COST + keys.len(),
            Message::Proving(Proving::Proof { .. }) | Message::Query(Query::Answer { .. } | Query::Cancel { .. }) => RANGE_COST,
            Message::Query(Query::Question { .. }) => QUESTION_COST,
        };
        self.neighbours.get_mut(&from).is_some_and(|neighbour| neighbour.work.take(now, cost))
    }

    /// A packet of this key is worth asking for: of a topic subscribed to, or for us to keep. What is new everyone keeps for a while, as far as there is room; what is
    /// offered because it was held for long, those who are near.
    pub(crate) fn is_wanted(&self, tag: Tag, key: Key, new: bool) -> bool {
        let radius = if new { self.radius() } else { self.radius().min(self.near()) };
        !self.is_gone(key) && (self.wants(tag) || self.store.distance(key) <= radius)
    }

    /// The hash distance within which [`Config::keepers`] peers of the neighbourhood are expected: all of it if it has no more.
    pub(crate) fn near(&self) -> u64 {
        let (keepers, neighbourhood) = (self.config.keepers as u64, self.neighbours.len() as u64 + 1);
        if keepers >= neighbourhood { u64::MAX } else { u64::MAX / neighbourhood * keepers }
    }

    /// The packet was evicted or refused: it is not taken again unless the layer above asks for it.
    pub(crate) fn is_gone(&self, key: Key) -> bool {
        self.gone.contains(key)
    }

    /// The hash distance up to which this peer keeps what it does not subscribe to: everything until half of the budget is used, then
    /// narrower by half for each further 32nd part.
    fn radius(&self) -> u64 {
        let over = self.store.used().saturating_sub(self.config.budget / 2);
        u64::MAX >> (over * 32 / self.config.budget.max(1)).min(63)
    }

    pub(crate) fn wants(&self, tag: Tag) -> bool {
        self.subscriptions.contains_key(&tag)
    }

    pub(crate) fn subscribed(&self, packet: &Packet) -> bool {
        let topic = packet.topic();
        self.subscriptions.get(&Tag::from(topic)).is_some_and(|topics| topics.contains(&topic))
    }

    pub(crate) fn send(&mut self, neighbour: u32, message: &Message) {
        if let Some(neighbour) = self.neighbours.get(&neighbour) {
            self.messages.push_back((neighbour.peer, message.encode()));
        }
    }

    pub(crate) fn raise(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Seconds since the start.
    pub(crate) fn second(&self, now: Instant) -> u32 {
        u32::try_from(now.duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    /// Periodic work begins with the first neighbour or packet.
    pub(crate) fn start_ticking(&mut self, now: Instant) {
        if !self.ticking {
            self.ticking = true;
            let first = self.config.quiet_interval.mul_f64(self.rng.random_range(0.5..1.0));
            self.timers.insert((now + first, Timer::Tick));
        }
    }

    fn tick(&mut self, now: Instant, wall: Timestamp) {
        self.store.expire(wall);
        self.pen.expire(now);
        self.fresh.expire(now);
        self.compare_quietly(now);
        self.take_turns(now);
        self.ticking = !self.neighbours.is_empty() || self.store.len() > 0;
        if self.ticking {
            self.timers.insert((now + self.config.quiet_interval, Timer::Tick));
        }
    }

    /// The end of every call: requests go out, what was dropped is told.
    pub(crate) fn finish(&mut self) {
        self.send_wants();
        for id in self.store.take_gone() {
            self.stats.dropped += 1;
            self.gone.insert(Key::from(id));
            self.published.forget(Key::from(id));
            self.receipts.forget(Key::from(id));
            self.events.push_back(Event::Dropped(id));
        }
    }

    /// What we have of a topic.
    pub(crate) fn summary(&self, tag: Tag) -> Summary {
        self.store.summary(tag)
    }
}
