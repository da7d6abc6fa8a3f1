//! Neighbours find what their large sets differ in: one asks, the other sends cells, the first says what it lacks and what the other lacks.
//!
//! Who sends cells remembers nothing; who asked knows after one round trip. Whatever gets lost, the next comparison begins anew.

use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

use peers_wire::PeerId;
use rand::RngExt;

use crate::cache::{Cache, Timer};
use crate::message::{Bound, MAX_RANGES, Message, Summary, Tag};
use crate::order::MIN_SKETCHED;
use crate::sketch::{Cell, Difference, MAX_CELLS, Sketch, cells_for, decode, epoch, name};
use crate::sketch_message::{Cells, MAX_CELLS_PER_MESSAGE, More, Names, Probe, Set};

/// Comparisons under way.
const MAX_TALKS: usize = 32;
/// How long one may last.
const MAX_TALK: Duration = Duration::from_secs(10);
/// Times that further cells are asked for, and that lost ones are asked for again.
const MAX_GROWN: u32 = 3;
const MAX_REPEATED: u32 = 4;
/// Topics that are probed at once when two meet.
const MAX_PROBED: usize = 16;
/// How often a neighbour may offer what it does not give, how long one that did more is compared with by ranges alone, and how many such are remembered.
const MAX_STRIKES: u8 = 1;
const MISTRUST: Duration = Duration::from_secs(600);
const MAX_MISTRUSTED: usize = 256;
/// For one unit of a neighbour's budget for work, packets of which cells are made, packets whose names are looked at, cells that are sent.
const MADE: usize = 8;
const NAMED: usize = 32;
const SENT: usize = 8;
/// Salts that are no epoch.
const FRESH: core::ops::Range<u64> = 1 << 32..1 << 62;

/// Comparisons that we began.
#[derive(Debug, Default)]
pub(crate) struct Talks {
    open: BTreeMap<(u32, Set), Talk>,
    /// Strikes, and until when they count.
    mistrusted: BTreeMap<PeerId, (u8, Instant)>,
}

#[derive(Debug)]
struct Talk {
    opened: Instant,
    salt: u64,
    /// What the cells that came are of.
    state: u32,
    cells: Vec<Option<Cell>>,
    grown: u32,
    repeated: u32,
}

impl Talks {
    fn mistrusts(&self, now: Instant, peer: PeerId) -> bool {
        self.mistrusted.get(&peer).is_some_and(|(strikes, until)| *strikes > MAX_STRIKES && *until > now)
    }

    /// Counts strikes; true if it is mistrusted from now on.
    fn strike(&mut self, now: Instant, peer: PeerId, strikes: u8) -> bool {
        self.mistrusted.retain(|_, (_, until)| *until > now);
        if self.mistrusted.len() >= MAX_MISTRUSTED && !self.mistrusted.contains_key(&peer) {
            return false;
        }
        let (count, until) = self.mistrusted.entry(peer).or_insert((0, now));
        (*count, *until) = (count.saturating_add(strikes), now + MISTRUST);
        *count > MAX_STRIKES
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Forgets a neighbour that is gone; not that it was mistrusted.
    pub(crate) fn forget(&mut self, neighbour: u32) {
        self.open.retain(|(other, _), _| *other != neighbour);
    }
}

/// Tells a set from what it was before a change, mostly.
const fn state(summary: Summary) -> u32 {
    let [.., a, b, c, d] = summary.sum.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl Cache {
    /// Whether what we have of a topic and a neighbour has, so many packets, is compared by sketches.
    pub(crate) fn may_probe(&self, now: Instant, neighbour: u32, tag: Tag, theirs: u32) -> bool {
        let trusted = self.neighbours.get(&neighbour).is_some_and(|neighbour| !self.talks.mistrusts(now, neighbour.peer));
        trusted && self.store.summary(tag).count >= MIN_SKETCHED && theirs >= MIN_SKETCHED
    }

    /// Probes the large topics wanted here, when two have just met and the other waits for it.
    pub(crate) fn probe_all(&mut self, now: Instant, neighbour: u32) {
        let large = self.subscriptions.keys().filter(|tag| self.store.summary(**tag).count >= MIN_SKETCHED);
        for tag in large.copied().take(MAX_PROBED).collect::<Vec<_>>() {
            self.probe(now, neighbour, Set::Topic(tag));
        }
    }

    /// Says what we have of a set, to be sent cells if that differs from what the neighbour has.
    pub(crate) fn probe(&mut self, now: Instant, neighbour: u32, set: Set) {
        self.probe_under(now, neighbour, set, epoch(self.wall));
    }

    fn probe_under(&mut self, now: Instant, neighbour: u32, set: Set, salt: u64) {
        let Set::Topic(tag) = set;
        self.talks.open.retain(|_, talk| now.duration_since(talk.opened) < MAX_TALK);
        self.talks.open.remove(&(neighbour, set));
        let full = self.talks.open.len() >= MAX_TALKS;
        let Some(order) = self.store.order_at(tag, self.wall) else { return };
        if full {
            // Others take all the room: ranges need none.
            let ranges = order.split(Bound::MIN, Bound::MAX, MAX_RANGES);
            self.send(neighbour, &Message::Ranges { tag, start: Bound::MIN, ranges });
            return;
        }
        let (summary, parity) = (order.total(), order.sketch(set.naming(salt), 0).parity);
        self.talks.open.insert((neighbour, set), Talk { opened: now, salt, state: 0, cells: Vec::new(), grown: 0, repeated: 0 });
        self.send(neighbour, &Message::Probe(Probe { set, salt, summary, parity }));
    }

    /// A neighbour says what it has: it is sent about as many cells as it needs if that differs, ranges if that would be too many.
    pub(crate) fn on_probe(&mut self, now: Instant, from: u32, probe: &Probe) {
        let Set::Topic(tag) = probe.set;
        let (ours, theirs) = (self.store.summary(tag), probe.summary);
        if ours == theirs {
            return;
        }
        let naming = probe.set.naming(probe.salt);
        let differ = if self.may_probe(now, from, tag, theirs.count)
            && self.may_make(now, from, probe.set, probe.salt, 0)
            && let Some(order) = self.store.order_at(tag, self.wall)
        {
            order.sketch(naming, 0).parity.differ(&probe.parity)
        } else {
            None
        };
        let differ = differ.map(|differ| differ.max(ours.count.abs_diff(theirs.count) as usize));
        match differ {
            Some(differ) if differ * 2 < ours.count.max(theirs.count) as usize => {
                self.send_cells(now, from, probe.set, probe.salt, 0, cells_for(differ).min(MAX_CELLS));
            }
            _ => self.narrow(now, from, tag, Bound::MIN, Bound::MAX, theirs),
        }
    }

    /// A neighbour asks for further cells.
    pub(crate) fn on_more(&mut self, now: Instant, from: u32, more: &More) {
        let Set::Topic(tag) = more.set;
        let same = state(self.store.summary(tag)) == more.state;
        self.send_cells(now, from, more.set, more.salt, if same { more.start } else { 0 }, more.until);
    }

    fn send_cells(&mut self, now: Instant, to: u32, set: Set, salt: u64, start: usize, until: usize) {
        let Set::Topic(tag) = set;
        if !self.may_make(now, to, set, salt, until) || !self.charge(now, to, (until - start) / SENT) {
            return;
        }
        let Some(order) = self.store.order_at(tag, self.wall) else { return };
        let (state, sketch) = (state(order.total()), order.sketch(set.naming(salt), until));
        let parts = sketch.cells()[start..until].chunks(MAX_CELLS_PER_MESSAGE).enumerate();
        let part = |(i, cells): (usize, &[Cell])| Cells {
            set,
            salt,
            state,
            start: start + i * MAX_CELLS_PER_MESSAGE,
            until,
            cells: cells.to_vec(),
        };
        let messages: Vec<Cells> = parts.map(part).collect();
        messages.into_iter().for_each(|cells| self.send(to, &Message::Cells(cells)));
    }

    /// Charges a neighbour for hashing a topic, unless its sketch is at hand.
    fn may_make(&mut self, now: Instant, from: u32, set: Set, salt: u64, cells: usize) -> bool {
        let Set::Topic(tag) = set;
        let Some(order) = self.store.order_at(tag, self.wall) else { return false };
        let cost = if order.has_sketch(set.naming(salt), cells) { 0 } else { order.total().count as usize / MADE };
        self.charge(now, from, cost)
    }

    /// Cells came that were asked for: when all of them are there, they tell the difference, or more are asked for.
    pub(crate) fn on_cells(&mut self, now: Instant, from: u32, cells: &Cells) {
        let Some(talk) = self.talks.open.get_mut(&(from, cells.set)).filter(|talk| talk.salt == cells.salt) else {
            self.stats.unasked += 1;
            return;
        };
        if talk.state != cells.state {
            talk.state = cells.state;
            talk.cells.clear();
        }
        let end = cells.start + cells.cells.len();
        talk.cells.resize(talk.cells.len().max(cells.until), None);
        talk.cells[cells.start..end].iter_mut().zip(&cells.cells).for_each(|(known, cell)| *known = Some(*cell));
        if talk.cells.iter().all(Option::is_some) {
            self.conclude(now, from, cells.set);
        } else if end == cells.until {
            let due = now + self.neighbours.get(&from).map_or(MAX_TALK, |neighbour| neighbour.patience());
            self.timers.insert((due, Timer::Talk(from)));
        }
    }

    /// Asks again for cells that did not come, and for packets.
    pub(crate) fn talk_on(&mut self, now: Instant, neighbour: u32) {
        let mut again = Vec::new();
        for ((_, set), talk) in self.talks.open.range_mut((neighbour, Set::FIRST)..=(neighbour, Set::LAST)) {
            let lost = |cell: &Option<Cell>| cell.is_none();
            if talk.repeated < MAX_REPEATED
                && let (Some(start), Some(last)) = (talk.cells.iter().position(lost), talk.cells.iter().rposition(lost))
            {
                talk.repeated += 1;
                again.push(More { set: *set, salt: talk.salt, state: talk.state, start, until: last + 1 });
            }
        }
        again.into_iter().for_each(|more| self.send(neighbour, &Message::More(more)));
        self.gather_on(now, neighbour);
    }

    /// Decodes the cells that came.
    fn conclude(&mut self, now: Instant, from: u32, set: Set) {
        let Set::Topic(tag) = set;
        let Some(talk) = self.talks.open.get(&(from, set)) else { return };
        let (salt, until) = (talk.salt, talk.cells.len());
        if !self.may_make(now, from, set, salt, until) || !self.charge(now, from, until / SENT) {
            return;
        }
        let Some(order) = self.store.order_at(tag, self.wall) else { return };
        let Some(talk) = self.talks.open.get_mut(&(from, set)) else { return };
        let (ours, sketch) = (state(order.total()), order.sketch(set.naming(salt), until));
        match decode(difference(&talk.cells, &sketch)) {
            // Two packets of one short id hide each other.
            Some(found) if found == Difference::default() && ours != talk.state => self.compare_anew(now, from, set),
            Some(found) => {
                self.talks.open.remove(&(from, set));
                self.stats.sketches += 1;
                self.learn(now, from, set, salt, &found);
            }
            None if until < MAX_CELLS && talk.grown < MAX_GROWN => {
                talk.grown += 1;
                let further = if talk.grown == 1 { until / 4 + 8 } else { until / 2 + 16 };
                let more = More { set, salt, state: talk.state, start: until, until: (until + further).min(MAX_CELLS) };
                self.send(from, &Message::More(more));
            }
            None => self.compare_anew(now, from, set),
        }
    }

    /// Cells told nothing: perhaps short ids collide, so again under a salt that nobody could know. If that tells nothing either, the neighbour
    /// is to blame, and ranges have to do.
    fn compare_anew(&mut self, now: Instant, neighbour: u32, set: Set) {
        let Set::Topic(tag) = set;
        let Some(talk) = self.talks.open.remove(&(neighbour, set)) else { return };
        if !FRESH.contains(&talk.salt) {
            let salt = self.rng.random_range(FRESH);
            if self.may_make(now, neighbour, set, salt, 0) {
                self.probe_under(now, neighbour, set, salt);
            }
            return;
        }
        self.blame(now, neighbour, MAX_STRIKES + 1);
        self.send_ranges(neighbour, tag, Bound::MIN);
    }

    /// Sketches of this neighbour make no sense: after two strikes it is compared with by ranges for a while.
    pub(crate) fn blame(&mut self, now: Instant, neighbour: u32, strikes: u8) {
        if let Some(neighbour) = self.neighbours.get(&neighbour) {
            self.stats.poisoned += u64::from(self.talks.strike(now, neighbour.peer, strikes));
        }
    }

    /// We know what differs: asks for what is wanted and lacking here, offers what is lacking there.
    fn learn(&mut self, now: Instant, from: u32, set: Set, salt: u64, found: &Difference) {
        let Set::Topic(tag) = set;
        let names = |shorts: &[u64]| shorts.iter().map(|short| name(*short)).collect::<Vec<u32>>();
        let wanting = self.neighbours.get(&from).is_some_and(|neighbour| neighbour.wants.contains(&tag));
        let offers = if wanting { names(&found.ours) } else { Vec::new() };
        let wants = if self.wants(tag) { self.gather(now, from, set, salt, names(&found.theirs)) } else { Vec::new() };
        for names in Names::messages(set, salt, &wants, &offers) {
            self.send(from, &Message::Names(names));
        }
    }

    /// A neighbour names packets: those that it asks for are sent, those that it offers are asked for if they are wanted and lacking.
    pub(crate) fn on_names(&mut self, now: Instant, from: u32, names: &Names) {
        let Set::Topic(tag) = names.set;
        let Some(order) = self.store.order(tag) else { return };
        let cost = order.total().count as usize / NAMED;
        if !self.charge(now, from, cost) {
            return;
        }
        let Some(order) = self.store.order(tag) else { return };
        let trusted = self.neighbours.get(&from).is_some_and(|neighbour| !self.talks.mistrusts(now, neighbour.peer));
        let naming = names.set.naming(names.salt);
        let mut wants = names.wants.clone();
        wants.sort_unstable();
        let mut offers: std::collections::BTreeSet<u32> =
            if self.wants(tag) && trusted { names.offers.iter().copied().collect() } else { Default::default() };
        let mut wanted = Vec::new();
        for key in order.keys() {
            let name = name(naming.short(key));
            offers.remove(&name);
            if wants.binary_search(&name).is_ok() && wanted.len() < 2 * wants.len() {
                wanted.push(key);
            }
        }
        for key in wanted {
            let Some(packet) = self.store.get(key) else { continue };
            let message = Message::Packet { eager: 0, packet: packet.clone() };
            self.stats.served += 1;
            self.send(from, &message);
        }
        let wants = self.gather(now, from, names.set, names.salt, offers.into_iter().collect());
        for names in Names::messages(names.set, names.salt, &wants, &[]) {
            self.send(from, &Message::Names(names));
        }
    }
}

/// Their cells less ours.
fn difference(theirs: &[Option<Cell>], ours: &Sketch) -> Vec<Option<Cell>> {
    let less = |(theirs, ours): (&Option<Cell>, &Cell)| {
        theirs.map(|mut cell| {
            cell.subtract(*ours);
            cell
        })
    };
    theirs.iter().zip(ours.cells()).map(less).collect()
}
