//! Packets that a comparison found missing are asked for by name, a few at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::cache::{Cache, Timer};
use crate::message::{Key, Message, Tag};
use crate::sketch::{MAX_CELLS, name};
use crate::sketch_message::{MAX_NAMES, Names, Set};

/// Names that wait to be asked of one neighbour.
const MAX_WAITING: usize = MAX_CELLS;
/// Times that nothing came of what was asked before the rest is left to the next comparison.
const MAX_FRUITLESS: u32 = 3;
/// Names asked for from which on it is no accident that none came.
const MIN_BLAMED: usize = 8;
/// For one unit of a neighbour's budget for work, packets whose names are compared with what it names.
const HASHED: usize = 128;

/// What is asked of each neighbour.
pub(crate) type Gatherings = BTreeMap<u32, Gathering>;

#[derive(Debug)]
pub(crate) struct Gathering {
    set: Set,
    salt: u64,
    waiting: BTreeSet<u32>,
    asked: BTreeSet<u32>,
    /// How many were asked for together.
    batch: usize,
    due: Instant,
    /// Times that nothing came of it.
    fruitless: u32,
    /// Packets that came.
    came: usize,
}

impl Cache {
    /// Notes packets to ask a neighbour for, but for those that were dropped here or are asked for elsewhere.
    ///
    /// - returns: those to ask for now
    pub(crate) fn gather(&mut self, now: Instant, from: u32, set: Set, salt: u64, mut names: Vec<u32>) -> Vec<u32> {
        if names.is_empty() {
            return names;
        }
        if !self.charge(now, from, self.gatherings.len() + (self.gone.len() + self.pulls.len()) / HASHED) {
            return Vec::new();
        }
        let naming = set.naming(salt);
        names.sort_unstable();
        let others = self.gatherings.iter().filter(|(other, gathering)| **other != from && (gathering.set, gathering.salt) == (set, salt));
        let mut busy: BTreeSet<u32> = others.flat_map(|(_, gathering)| gathering.asked.iter().copied()).collect();
        let known = self.gone.keys().chain(self.pulls.keys()).map(|key| name(naming.short(key)));
        busy.extend(known.filter(|name| names.binary_search(name).is_ok()));
        names.retain(|name| !busy.contains(name));
        let gathering = self.gatherings.entry(from).or_insert_with(|| Gathering {
            set,
            salt,
            waiting: BTreeSet::new(),
            asked: BTreeSet::new(),
            batch: 0,
            due: now,
            fruitless: 0,
            came: 0,
        });
        if (gathering.set, gathering.salt) != (set, salt) {
            // One set after the other; the next comparison finds these again.
            return Vec::new();
        }
        let room = MAX_WAITING.saturating_sub(gathering.waiting.len());
        gathering.waiting.extend(names.into_iter().filter(|name| !gathering.asked.contains(name)).take(room));
        self.ask_names(now, from)
    }

    /// Takes names that a neighbour's window has room for; ends the gathering if there is nothing left.
    fn ask_names(&mut self, now: Instant, from: u32) -> Vec<u32> {
        let (Some(gathering), Some(neighbour)) = (self.gatherings.get_mut(&from), self.neighbours.get_mut(&from)) else {
            return Vec::new();
        };
        let mut names = Vec::new();
        while names.len() < MAX_NAMES
            && neighbour.has_room()
            && let Some(name) = gathering.waiting.pop_first()
        {
            neighbour.asked();
            gathering.asked.insert(name);
            names.push(name);
        }
        if gathering.waiting.is_empty() && gathering.asked.is_empty() {
            self.gatherings.remove(&from);
        } else {
            gathering.batch = gathering.asked.len();
            self.timers.remove(&(gathering.due, Timer::Talk(from)));
            gathering.due = now + neighbour.patience() * (2 << gathering.fruitless);
            self.timers.insert((gathering.due, Timer::Talk(from)));
        }
        self.stats.pulled += names.len() as u64;
        names
    }

    /// A packet came from a neighbour: true if it was asked for by name.
    pub(crate) fn gathered(&mut self, now: Instant, from: u32, tag: Tag, key: Key) -> bool {
        let (mut asked, mut more) = (false, false);
        for (other, gathering) in &mut self.gatherings {
            let Set::Topic(set) = gathering.set;
            if set != tag {
                continue;
            }
            let name = name(gathering.set.naming(gathering.salt).short(key));
            gathering.waiting.remove(&name);
            if gathering.asked.remove(&name)
                && let Some(neighbour) = self.neighbours.get_mut(other)
            {
                if *other == from {
                    asked = true;
                    neighbour.answered();
                    gathering.fruitless = 0;
                    gathering.came += 1;
                    more = gathering.asked.len() <= gathering.batch / 2;
                } else {
                    neighbour.relieved();
                }
            }
        }
        if asked {
            self.use_room(now, from);
        }
        if more {
            self.gather_more(now, from);
        }
        asked
    }

    fn gather_more(&mut self, now: Instant, from: u32) {
        let Some((set, salt)) = self.gatherings.get(&from).map(|gathering| (gathering.set, gathering.salt)) else { return };
        let wants = self.ask_names(now, from);
        for names in Names::messages(set, salt, &wants, &[]) {
            self.send(from, &Message::Names(names));
        }
    }

    /// What was asked for and did not come is asked for again, twice; then the next comparison has to find it.
    pub(crate) fn gather_on(&mut self, now: Instant, from: u32) {
        let Some(gathering) = self.gatherings.get_mut(&from).filter(|gathering| gathering.due <= now) else { return };
        let lost = core::mem::take(&mut gathering.asked);
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            lost.iter().for_each(|_| neighbour.timed_out(now));
        }
        gathering.fruitless += u32::from(!lost.is_empty());
        if gathering.fruitless < MAX_FRUITLESS {
            gathering.waiting.extend(lost);
            self.gather_more(now, from);
            return;
        }
        let blamed = gathering.came == 0 && lost.len() + gathering.waiting.len() >= MIN_BLAMED;
        self.gatherings.remove(&from);
        if blamed {
            self.blame(now, from, 1);
        }
    }

    /// A neighbour is gone.
    pub(crate) fn forget_talks(&mut self, neighbour: u32) {
        self.talks.forget(neighbour);
        self.gatherings.remove(&neighbour);
    }
}
