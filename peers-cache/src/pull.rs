//! Packets that are missing: who announced them, who was asked, who waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use core::time::Duration;

use hashbrown::HashMap;
use rand::seq::SliceRandom;

use crate::cache::{Cache, Timer};
use crate::message::{Key, MAX_HOPS, MAX_KEYS, Message, Tag};

/// Packets missing at a time.
const MAX_PULLS: usize = 8192;
/// Of these, for what one neighbour announced.
const MAX_PULLS_PER_NEIGHBOUR: usize = 2048;
/// Announcers and waiters remembered for a packet.
const MAX_SOURCES: usize = 8;
/// Requests for a packet before it is given up.
const MAX_TRIES: u32 = 8;
/// Of these, when nobody is known to have it and a neighbour asks us.
const MAX_SEARCH_TRIES: u32 = 2;
/// Hops that the search for a packet that nobody is known to have may travel: 2 neighbours each time, so at most 30 for each that the seeker asks.
pub const MAX_SEARCH_HOPS: u8 = 3;
/// What a search costs of a neighbour's budget for work.
const SEARCH_COST: usize = 32;
/// Packets of which it is only known who heard of them.
const MAX_HEARD: usize = 4096;

#[derive(Debug)]
pub(crate) struct Pull {
    sources: Vec<Source>,
    /// Neighbours that asked us for it.
    pub(crate) waiting: Vec<u32>,
    /// Hops that a request of ours may travel on beyond a neighbour that does not hold it.
    hops: u8,
    state: State,
    due: Instant,
    tries: u32,
    max_tries: u32,
    /// The layer above asked for it.
    pub(crate) requested: bool,
    creator: Option<u32>,
    /// Whence its creator is.
    origin: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    neighbour: u32,
    origin: u64,
    holds: bool,
    asked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// For others to announce it too.
    Waiting,
    /// For room in the window of a source: it is in the backlog of each that was not asked.
    Blocked,
    Asked {
        neighbour: u32,
        at: Instant,
    },
}

/// What is asked for, and what is merely heard of.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    pulls: HashMap<Key, Pull>,
    /// Those that exist because of neighbours of each origin.
    by_origin: HashMap<u64, BTreeSet<Key>>,
    heard: HashMap<Key, Vec<u32>>,
    heard_order: std::collections::VecDeque<Key>,
    /// Requests of this call, by neighbour and hops: they go out together.
    wants: BTreeMap<(u32, u8), Vec<Key>>,
}

impl Pulls {
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Pull> {
        self.pulls.get_mut(&key)
    }

    pub(crate) fn len(&self) -> usize {
        self.pulls.len()
    }

    /// The packets that are asked for, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.pulls.keys().copied()
    }

    /// Notes that `neighbour` heard of a packet that we do not want; true if that is news.
    pub(crate) fn heard(&mut self, key: Key, neighbour: u32) -> bool {
        if let Some(sources) = self.heard.get_mut(&key) {
            if sources.len() < 3 && !sources.contains(&neighbour) {
                sources.push(neighbour);
            }
            return false;
        }
        if self.heard_order.len() >= MAX_HEARD
            && let Some(oldest) = self.heard_order.pop_front()
        {
            self.heard.remove(&oldest);
        }
        self.heard_order.push_back(key);
        self.heard.insert(key, vec![neighbour]);
        true
    }

    /// The neighbours that are known to have heard of a packet.
    pub(crate) fn hearers(&self, key: Key) -> &[u32] {
        self.heard.get(&key).map_or(&[], |sources| &sources[..])
    }
}

impl Cache {
    /// A neighbour holds (or heard of) a packet that is wanted here.
    pub(crate) fn announced(&mut self, now: Instant, neighbour: u32, key: Key, holds: bool) {
        let origin = self.origin(neighbour);
        if let Some(pull) = self.pulls.get_mut(key) {
            if pull.add_source(neighbour, origin, holds)
                && pull.state == State::Blocked
                && let Some(neighbour) = self.neighbours.get_mut(&neighbour)
            {
                neighbour.wait_for_room(key);
            }
            return;
        }
        let count = self.neighbours.get(&neighbour).map_or(usize::MAX, |neighbour| neighbour.pulls);
        if count >= MAX_PULLS_PER_NEIGHBOUR || !self.start_pull(now, self.config.pull_delay, key, MAX_HOPS, Some(neighbour)) {
            self.stats.overflowed += 1;
            return;
        }
        if let Some(pull) = self.pulls.get_mut(key) {
            pull.add_source(neighbour, origin, holds);
        }
    }

    /// Asks neighbours for a packet that is not held: those who heard of it, else random ones.
    ///
    /// - `waiting`: the neighbour that wants it; `None` if it is the layer above
    /// - returns: false if there is nobody to ask or no room
    pub(crate) fn seek(&mut self, now: Instant, key: Key, hops: u8, waiting: Option<u32>) -> bool {
        let (mut hops, mut tries) = (hops, MAX_TRIES);
        let mut sources = self.pulls.hearers(key).to_vec();
        sources.retain(|source| Some(*source) != waiting && self.neighbours.contains_key(source));
        if sources.is_empty() {
            // Nobody is known to have it.
            hops = hops.min(MAX_SEARCH_HOPS);
            tries = if waiting.is_some() { MAX_SEARCH_TRIES } else { MAX_TRIES };
            sources = self.neighbours.keys().copied().filter(|source| Some(*source) != waiting).collect();
            sources.shuffle(&mut self.rng);
            sources.truncate(MAX_SOURCES);
        }
        let exists = self.pulls.pulls.contains_key(&key);
        let many =
            waiting.and_then(|waiting| self.neighbours.get(&waiting)).is_some_and(|neighbour| neighbour.pulls >= MAX_PULLS_PER_NEIGHBOUR);
        if !exists && (many || (sources.is_empty() && waiting.is_some()) || !self.start_pull(now, Duration::ZERO, key, hops, waiting)) {
            return false;
        }
        let sources: Vec<(u32, u64)> = sources.into_iter().map(|source| (source, self.origin(source))).collect();
        let Some(pull) = self.pulls.get_mut(key) else { return false };
        match waiting {
            Some(waiting) if pull.waiting.len() < MAX_SOURCES && !pull.waiting.contains(&waiting) => pull.waiting.push(waiting),
            Some(_) => {}
            None => pull.requested = true,
        }
        if !exists {
            pull.max_tries = tries;
            for (source, origin) in sources {
                pull.add_source(source, origin, false);
            }
            self.advance(now, key);
        }
        true
    }

    /// Whence a neighbour is.
    pub(crate) fn origin(&self, neighbour: u32) -> u64 {
        self.neighbours.get(&neighbour).map_or(0, |neighbour| neighbour.origin)
    }

    fn start_pull(&mut self, now: Instant, delay: Duration, key: Key, hops: u8, creator: Option<u32>) -> bool {
        let (due, origin) = (now + delay, creator.map(|creator| self.origin(creator)));
        if self.pulls.pulls.len() >= MAX_PULLS && !self.displace_pull(now, origin) {
            return false;
        }
        if let Some(origin) = origin {
            self.pulls.by_origin.entry(origin).or_default().insert(key);
        }
        if let Some(neighbour) = creator.and_then(|creator| self.neighbours.get_mut(&creator)) {
            neighbour.pulls += 1;
        }
        let (sources, waiting) = (Vec::new(), Vec::new());
        let pull =
            Pull { sources, waiting, hops, state: State::Waiting, due, tries: 0, max_tries: MAX_TRIES, requested: false, creator, origin };
        self.pulls.pulls.insert(key, pull);
        self.timers.insert((due, Timer::Pull(key)));
        true
    }

    /// Gives up a pull of the origin that has most, unless `origin` has as many: who announces without end, by however many keys, does not keep others from it.
    fn displace_pull(&mut self, now: Instant, origin: Option<u64>) -> bool {
        let own = origin.and_then(|origin| self.pulls.by_origin.get(&origin)).map_or(0, BTreeSet::len);
        let Some((_, keys)) = self.pulls.by_origin.iter().max_by_key(|(origin, keys)| (keys.len(), **origin)) else { return false };
        let idle = |key: &&Key| self.pulls.pulls.get(*key).is_some_and(|pull| !pull.requested);
        let victim = keys.iter().find(idle).filter(|_| keys.len() > own + 1).copied();
        if let Some(key) = victim {
            self.give_up(now, key);
        }
        victim.is_some()
    }

    /// The time of a pull came: asks its best source, or the next one if the last did not answer.
    pub(crate) fn advance(&mut self, now: Instant, key: Key) {
        let Some(pull) = self.pulls.pulls.get_mut(&key) else { return };
        self.timers.remove(&(pull.due, Timer::Pull(key)));
        if let State::Asked { neighbour, .. } = pull.state {
            pull.state = State::Waiting;
            self.stats.repeated += 1;
            let held = pull.sources.iter().any(|source| source.neighbour == neighbour && source.holds);
            match self.neighbours.get_mut(&neighbour) {
                Some(neighbour) if held => neighbour.timed_out(now),
                // It searches for what may not exist: no sign of a slow link.
                Some(neighbour) => neighbour.relieved(),
                None => {}
            }
        }
        pull.sources.retain(|source| self.neighbours.contains_key(&source.neighbour));
        if pull.sources.iter().all(|source| source.asked) {
            pull.sources.iter_mut().for_each(|source| source.asked = false);
        }
        if pull.sources.is_empty() && pull.requested {
            // Nobody said to have it: each try asks other neighbours.
            let mut anyone: Vec<u32> = self.neighbours.keys().copied().filter(|neighbour| !pull.waiting.contains(neighbour)).collect();
            anyone.shuffle(&mut self.rng);
            anyone.truncate(MAX_SOURCES);
            pull.sources.extend(anyone.into_iter().map(|neighbour| Source { neighbour, origin: 0, holds: false, asked: false }));
            pull.tries += 1;
        }
        if pull.sources.is_empty() && !pull.requested || pull.tries >= pull.max_tries {
            self.give_up(now, key);
            return;
        }
        let neighbours = &self.neighbours;
        let open = |source: &&Source| !source.asked && neighbours.get(&source.neighbour).is_some_and(|neighbour| neighbour.has_room());
        let rtt = |neighbour: u32| neighbours.get(&neighbour).map(|neighbour| neighbour.rtt());
        let tried = |origin: u64| pull.sources.iter().any(|source| source.asked && source.origin == origin);
        let order = |source: &&Source| (!source.holds, tried(source.origin), rtt(source.neighbour), source.neighbour);
        let best = pull.sources.iter().filter(open).min_by_key(order);
        if let Some(best) = best.map(|source| source.neighbour) {
            // What was lost twice is asked of two, as each further loss takes as long again.
            let holds = |source: &&Source| source.holds && source.neighbour != best;
            let second = pull.sources.iter().filter(open).filter(holds).min_by_key(order).filter(|_| pull.tries > 1);
            let second = second.map(|source| source.neighbour);
            self.ask(now, key, best);
            self.ask_as_well(key, second);
            return;
        }
        if pull.state == State::Waiting {
            pull.state = State::Blocked;
            for source in pull.sources.iter().filter(|source| !source.asked) {
                if let Some(neighbour) = self.neighbours.get_mut(&source.neighbour) {
                    neighbour.wait_for_room(key);
                }
            }
        }
        pull.due = now + self.config.compare_delay * (1 + pull.tries);
        self.timers.insert((pull.due, Timer::Pull(key)));
    }

    /// Asks a source that has room.
    fn ask(&mut self, now: Instant, key: Key, neighbour: u32) {
        let Some(pull) = self.pulls.pulls.get_mut(&key) else { return };
        let Some(source) = pull.sources.iter_mut().find(|source| source.neighbour == neighbour) else { return };
        let Some(asked) = self.neighbours.get_mut(&neighbour) else { return };
        source.asked = true;
        asked.asked();
        let hops = if source.holds { 0 } else { pull.hops };
        self.timers.remove(&(pull.due, Timer::Pull(key)));
        pull.state = State::Asked { neighbour, at: now };
        pull.tries += 1;
        // Who does not hold it asks others first.
        pull.due = now + asked.patience() * (1 + u32::from(hops.min(2)));
        self.timers.insert((pull.due, Timer::Pull(key)));
        self.stats.pulled += 1;
        self.pulls.wants.entry((neighbour, hops)).or_default().push(key);
    }

    /// Asks a second source, whose answer is not waited for.
    fn ask_as_well(&mut self, key: Key, second: Option<u32>) {
        let source = |pull: &mut Pull| {
            pull.sources
                .iter_mut()
                .find(|source| Some(source.neighbour) == second)
                .map(|source| core::mem::replace(&mut source.asked, true))
        };
        if let (Some(second), Some(Some(false))) = (second, self.pulls.get_mut(key).map(source)) {
            self.stats.pulled += 1;
            self.pulls.wants.entry((second, 0)).or_default().push(key);
        }
    }

    /// A neighbour cannot give a packet: the next is asked at once.
    pub(crate) fn lacks(&mut self, now: Instant, neighbour: u32, key: Key) {
        let Some(pull) = self.pulls.pulls.get_mut(&key) else { return };
        pull.sources.retain(|source| source.neighbour != neighbour);
        if matches!(pull.state, State::Asked { neighbour: asked, .. } if asked == neighbour) {
            pull.state = State::Waiting;
            if let Some(neighbour) = self.neighbours.get_mut(&neighbour) {
                neighbour.relieved();
            }
            self.advance(now, key);
        }
    }

    /// Ends a pull whose packet came, or will not come.
    ///
    /// - `from`: the neighbour whose packet ended it
    pub(crate) fn end_pull(&mut self, now: Instant, key: Key, from: Option<u32>) -> Option<Pull> {
        let pull = self.pulls.pulls.remove(&key)?;
        self.timers.remove(&(pull.due, Timer::Pull(key)));
        if let Some(creator) = pull.creator.and_then(|creator| self.neighbours.get_mut(&creator)) {
            creator.pulls -= 1;
        }
        if let Some(origin) = pull.origin
            && let Some(keys) = self.pulls.by_origin.get_mut(&origin)
        {
            keys.remove(&key);
            if keys.is_empty() {
                self.pulls.by_origin.remove(&origin);
            }
        }
        if let State::Asked { neighbour: asked, at } = pull.state
            && let Some(neighbour) = self.neighbours.get_mut(&asked)
        {
            if from == Some(asked) {
                if pull.tries == 1 {
                    neighbour.measured(now.duration_since(at));
                }
                neighbour.answered();
            } else {
                neighbour.relieved();
            }
            self.use_room(now, asked);
        }
        Some(pull)
    }

    /// Asks a neighbour that has room again for what waited for it.
    pub(crate) fn use_room(&mut self, now: Instant, neighbour: u32) {
        while let Some(waiting) = self.neighbours.get_mut(&neighbour).filter(|neighbour| neighbour.has_room())
            && let Some(key) = waiting.backlog.pop_front()
        {
            let blocked = |pull: &&Pull| pull.state == State::Blocked;
            let unasked = |source: &Source| source.neighbour == neighbour && !source.asked;
            if self.pulls.pulls.get(&key).filter(blocked).is_some_and(|pull| pull.sources.iter().any(unasked)) {
                self.ask(now, key, neighbour);
            }
        }
    }

    fn give_up(&mut self, now: Instant, key: Key) {
        self.stats.failed += 1;
        if let Some(pull) = self.end_pull(now, key, None) {
            for waiting in pull.waiting {
                self.send(waiting, &Message::Lack { keys: vec![key] });
            }
        }
    }

    /// Sends the requests that this call made.
    pub(crate) fn send_wants(&mut self) {
        for ((neighbour, hops), keys) in core::mem::take(&mut self.pulls.wants) {
            for keys in keys.chunks(MAX_KEYS) {
                self.send(neighbour, &Message::Want { hops, keys: keys.to_vec() });
            }
        }
    }

    /// Answers a request: with the packets held; the others are sought if they may travel on.
    pub(crate) fn on_want(&mut self, now: Instant, from: u32, hops: u8, keys: &[Key]) {
        let mut lacking = Vec::new();
        for key in keys {
            if let Some(packet) = self.store.get(*key) {
                let message = Message::Packet { eager: 0, packet: packet.clone() };
                self.stats.served += 1;
                self.send(from, &message);
            } else if hops == 0 || !self.may_search(now, from) || !self.seek(now, *key, hops - 1, Some(from)) {
                lacking.push(*key);
            }
        }
        if !lacking.is_empty() {
            self.send(from, &Message::Lack { keys: lacking });
        }
    }

    fn may_search(&mut self, now: Instant, from: u32) -> bool {
        self.neighbours.get_mut(&from).is_some_and(|neighbour| neighbour.work.take(now, SEARCH_COST))
    }

    /// Announces to others that a packet which is not wanted here can be had through us.
    pub(crate) fn on_heard(&mut self, now: Instant, from: u32, tag: Tag, key: Key) {
        if !self.fresh.may_relay() {
            // What is not passed on is not noted either, so that what was noted is remembered for longer than its echoes take.
            self.stats.overflowed += 1;
        } else if self.pulls.heard(key, from) {
            self.announce_heard(now, tag, key);
        }
    }
}

impl Pull {
    /// The neighbours that said to hold it.
    pub(crate) fn holders(&self) -> impl Iterator<Item = u32> {
        self.sources.iter().filter(|source| source.holds).map(|source| source.neighbour)
    }

    /// True if it is a new source; it may replace one of an origin that has several.
    fn add_source(&mut self, neighbour: u32, origin: u64, holds: bool) -> bool {
        if let Some(source) = self.sources.iter_mut().find(|source| source.neighbour == neighbour) {
            source.holds |= holds;
            return false;
        }
        if self.waiting.contains(&neighbour) {
            return false;
        }
        let source = Source { neighbour, origin, holds, asked: false };
        if self.sources.len() < MAX_SOURCES {
            self.sources.push(source);
            return true;
        }
        let count = |origin: u64| self.sources.iter().filter(|source| source.origin == origin).count();
        let own = count(origin);
        let displaced = self.sources.iter().rposition(|source| count(source.origin) > own + 1);
        displaced.map(|at| self.sources[at] = source).is_some()
    }
}
