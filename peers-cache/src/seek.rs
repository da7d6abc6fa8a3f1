//! What the network keeps of a topic for one who was away: asked of the neighbours' neighbours, as each of them keeps a part only.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rand::seq::IteratorRandom;

use crate::cache::{Cache, Timer};
use crate::message::{Key, Message, Tag};
use crate::neighbour::Bucket;

/// From the wish for a topic to seeking it, twice: by then there are neighbours, and some have changed.
const AFTER: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(30)];
/// Topics that one message seeks.
pub(crate) const MAX_TAGS: usize = 16;
/// Between two messages.
const PACE: Duration = Duration::from_secs(1);
/// Neighbours that are asked, and of theirs that each of them asks.
const ASKED: usize = 16;
const ASKED_FURTHER: usize = 8;
/// Packets that one answer names.
const MAX_NAMED: usize = 284;
/// What it costs of a neighbour's budget for work to let it seek a topic.
pub(crate) const SEEK_COST: usize = 128;
/// Topics sought by neighbours that are remembered, the seekers of each, and for how long.
const MAX_SOUGHT: usize = 1024;
const MAX_SEEKERS: usize = 4;
const REMEMBERED: Duration = Duration::from_secs(10);
/// Topics that are sought further, of all neighbours together: at once, and in a second. Each costs us of our neighbours' budgets as much as it cost who seeks it.
const FURTHER: (u32, u32) = (128, 8);

/// Topics that are sought.
#[derive(Debug, Default)]
pub(crate) struct Seeks {
    /// Our own that are still to be sought: when, and how often they were.
    due: BTreeSet<(Instant, Tag, usize)>,
    /// Those of neighbours: until when, and whose.
    sought: BTreeMap<Tag, (Instant, Vec<u32>)>,
    further: Option<Bucket>,
}

impl Seeks {
    /// The neighbours that seek a topic through us.
    pub(crate) fn seekers(&self, now: Instant, tag: Tag) -> &[u32] {
        self.sought.get(&tag).filter(|(until, _)| *until > now).map_or(&[], |(_, seekers)| &seekers[..])
    }

    /// Notes that a neighbour seeks a topic; true if it is to be sought further: nobody did lately.
    fn note(&mut self, now: Instant, tag: Tag, neighbour: u32) -> bool {
        if self.sought.len() >= MAX_SOUGHT {
            self.sought.retain(|_, (until, _)| *until > now);
        }
        if let Some((_, seekers)) = self.sought.get_mut(&tag).filter(|(until, _)| *until > now) {
            if seekers.len() < MAX_SEEKERS && !seekers.contains(&neighbour) {
                seekers.push(neighbour);
            }
            return false;
        }
        let further = self.further.get_or_insert_with(|| Bucket::new(now, FURTHER.0, FURTHER.1));
        let room = self.sought.len() < MAX_SOUGHT && further.take(now, 1);
        if room {
            self.sought.insert(tag, (now + REMEMBERED, vec![neighbour]));
        }
        room
    }
}

impl Cache {
    /// A topic is wanted anew: it is sought soon.
    pub(crate) fn seek_topic(&mut self, now: Instant, tag: Tag) {
        let due = now + AFTER[0];
        self.seeks.due.insert((due, tag, 0));
        self.timers.insert((due, Timer::Seek));
    }

    /// Seeks the topics whose time has come.
    pub(crate) fn seek_topics(&mut self, now: Instant) {
        let mut tags = Vec::new();
        while tags.len() < MAX_TAGS
            && let Some(&(due, tag, round)) = self.seeks.due.first()
            && due <= now
        {
            self.seeks.due.pop_first();
            if !self.wants(tag) {
                continue;
            }
            // Who has no neighbours asks when it has some.
            let next = if self.neighbours.is_empty() { Some(round) } else { Some(round + 1).filter(|round| *round < AFTER.len()) };
            if let Some(round) = next {
                self.seeks.due.insert((now + AFTER[round], tag, round));
            }
            tags.push(tag);
        }
        if let Some((due, ..)) = self.seeks.due.first() {
            self.timers.insert(((*due).max(now + PACE), Timer::Seek));
        }
        if !tags.is_empty() {
            let message = Message::Seek { further: true, tags };
            self.sample(ASKED, |_| true).into_iter().for_each(|neighbour| self.send(neighbour, &message));
        }
    }

    /// A neighbour seeks topics: `further`, for itself among our neighbours; else what we hold, for another.
    pub(crate) fn on_seek(&mut self, now: Instant, from: u32, further: bool, tags: &[Tag]) {
        if further {
            let seeks = &mut self.seeks;
            let tags: Vec<Tag> = tags.iter().copied().filter(|tag| seeks.note(now, *tag, from)).collect();
            if tags.is_empty() {
                return;
            }
            let others = self.neighbours.iter().filter(|(serial, neighbour)| **serial != from && !neighbour.silent);
            let others = others.map(|(serial, _)| *serial).sample(&mut self.rng, ASKED_FURTHER);
            let message = Message::Seek { further: false, tags };
            others.into_iter().for_each(|other| self.send(other, &message));
            return;
        }
        let mut named: Vec<(Tag, Key)> = Vec::new();
        for tag in tags {
            named.extend(self.store.newest(*tag).take(MAX_NAMED - named.len()).map(|key| (*tag, key)));
        }
        self.send_have(from, true, false, &named);
    }
}
