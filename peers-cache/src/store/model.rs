//! The store as a list that is searched from end to end: the policy once more, with nothing clever in it.

use std::collections::{BTreeMap, BTreeSet};

use peers_wire::{Packet, PacketId, PeerId, Timestamp};

use super::evict::{ORIGIN_SHARE, RECENT_SHARE, STRANGERS_SHARE, TOPIC_SHARE};
use super::{ORIGIN_COST, TOPIC_COST, cost};
use crate::message::{Key, Tag};

#[derive(Debug, Clone)]
struct Item {
    packet: Packet,
    /// `None`: ours.
    origin: Option<u64>,
    wanted: bool,
    /// When it became what it is: wanted, or a stranger's.
    since: u64,
    /// Of a stranger's packet that is no longer among the newest: how far it counts, and since when.
    settled: Option<(u32, u64)>,
    holders: u8,
    offered: u64,
}

#[derive(Debug)]
pub(super) struct Model {
    budget: usize,
    wanted_budget: usize,
    id: PeerId,
    clock: u64,
    items: Vec<Item>,
}

impl Item {
    fn cost(&self) -> usize {
        cost(&self.packet)
    }

    fn id(&self) -> PacketId {
        self.packet.id()
    }

    fn tag(&self) -> Tag {
        Tag::from(self.packet.topic())
    }

    /// Steps of a quarter of a power of two of the distance, and 4 if three hold it.
    fn rank(&self, id: &PeerId) -> u32 {
        let word = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
        let distance = (word(&self.packet.id().0[8..16]) ^ word(&id.0[..8])).max(4);
        let exponent = distance.ilog2();
        let quarter = (distance - (1 << exponent)) / (1 << (exponent - 2));
        exponent * 4 + u32::try_from(quarter).unwrap() + if self.holders >= 3 { 4 } else { 0 }
    }
}

fn sum<'a>(items: impl Iterator<Item = &'a Item>) -> usize {
    items.map(Item::cost).sum()
}

impl Model {
    pub(super) fn new(budget: usize, wanted_budget: usize, id: PeerId) -> Self {
        Self { budget, wanted_budget, id, clock: 0, items: Vec::new() }
    }

    pub(super) fn held(&self) -> BTreeSet<PacketId> {
        self.items.iter().map(Item::id).collect()
    }

    pub(super) fn used(&self) -> usize {
        let (topics, origins): (BTreeSet<_>, BTreeSet<_>) =
            (self.items.iter().map(Item::tag).collect(), self.origins().into_keys().collect());
        sum(self.items.iter()) + topics.len() * TOPIC_COST + origins.len() * ORIGIN_COST
    }

    fn wanted_used(&self) -> usize {
        let topics: BTreeSet<_> = self.wanted().map(Item::tag).collect();
        sum(self.wanted()) + topics.len() * TOPIC_COST
    }

    fn wanted(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.wanted)
    }

    fn strangers(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| !item.wanted)
    }

    /// Bytes of each origin, ours apart.
    fn origins(&self) -> BTreeMap<u64, usize> {
        let mut origins = BTreeMap::new();
        for item in self.strangers() {
            if let Some(origin) = item.origin {
                *origins.entry(origin).or_insert(0) += item.cost();
            }
        }
        origins
    }

    pub(super) fn insert(&mut self, packet: &Packet, origin: Option<u64>, wanted: bool, wall: Timestamp) {
        if self.held().contains(&packet.id()) {
            return;
        }
        self.clock += 1;
        let new = packet.id();
        self.items.push(Item { packet: packet.clone(), origin, wanted, since: self.clock, settled: None, holders: 0, offered: self.clock });
        if self.over_wanted() || self.over_strangers() {
            self.expire(wall);
        }
        self.make_room(Some(new));
    }

    fn make_room(&mut self, new: Option<PacketId>) {
        loop {
            let victim = if self.over_wanted() {
                self.of_the_heaviest_topic(new)
            } else if self.over_strangers() {
                self.over_its_share(new).or_else(|| self.farthest(new))
            } else {
                return;
            };
            let Some(victim) = victim else { return };
            self.remove(victim);
        }
    }

    fn over_wanted(&self) -> bool {
        self.wanted_used() > self.wanted_budget.max(self.budget - self.budget / STRANGERS_SHARE)
    }

    fn over_strangers(&self) -> bool {
        let left = self.budget.saturating_sub(self.wanted_used()).max(self.budget / STRANGERS_SHARE);
        self.used() - self.wanted_used() > left
    }

    fn of_the_heaviest_topic(&self, new: Option<PacketId>) -> Option<PacketId> {
        let mut topics: Vec<(usize, Tag)> = Vec::new();
        for tag in self.wanted().map(Item::tag).collect::<BTreeSet<_>>() {
            topics.push((sum(self.wanted().filter(|item| item.tag() == tag)), tag));
        }
        topics.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = |tag| self.wanted().filter(|item| item.tag() == tag).min_by_key(|item| item.since).map(Item::id);
        topics.into_iter().filter_map(|(_, tag)| oldest(tag)).find(|id| Some(*id) != new)
    }

    fn over_its_share(&self, new: Option<PacketId>) -> Option<PacketId> {
        let tag = self.items.iter().find(|item| Some(item.id()) == new).map(Item::tag);
        let of_topic = || self.strangers().filter(|item| Some(item.tag()) == tag);
        if sum(of_topic()) > self.budget / TOPIC_SHARE {
            let others = of_topic().filter(|item| Some(item.id()) != new);
            return others.min_by_key(|item| (item.packet.created(), Key::from(item.id()))).map(Item::id);
        }
        let origins = self.origins();
        let (bytes, origin) = origins.iter().map(|(origin, bytes)| (*bytes, *origin)).max()?;
        let oldest = self.strangers().filter(|item| item.origin == Some(origin)).min_by_key(|item| item.since)?;
        (bytes > self.budget / ORIGIN_SHARE && Some(oldest.id()) != new).then(|| oldest.id())
    }

    fn farthest(&mut self, new: Option<PacketId>) -> Option<PacketId> {
        loop {
            let recent = || self.strangers().filter(|item| item.settled.is_none());
            let Some(oldest) = recent().min_by_key(|item| item.since).map(Item::id) else { break };
            if sum(recent()) <= self.budget / RECENT_SHARE || Some(oldest) == new {
                break;
            }
            self.clock += 1;
            let (clock, id) = (self.clock, self.id);
            let item = self.items.iter_mut().find(|item| item.id() == oldest)?;
            item.settled = Some((item.rank(&id), clock));
        }
        let settled = self.strangers().filter_map(|item| Some((item.settled?, item.id())));
        let farthest = settled.filter(|(_, id)| Some(*id) != new).max_by_key(|((rank, since), _)| (*rank, core::cmp::Reverse(*since)));
        let recent = self.strangers().filter(|item| item.settled.is_none() && Some(item.id()) != new).min_by_key(|item| item.since);
        farthest.map(|(_, id)| id).or_else(|| recent.map(Item::id))
    }

    pub(super) fn remove(&mut self, id: PacketId) {
        self.items.retain(|item| item.id() != id);
    }

    pub(super) fn expire(&mut self, wall: Timestamp) {
        self.items.retain(|item| item.packet.expires().0.div_ceil(60_000) * 60_000 > wall.0);
    }

    pub(super) fn prefer(&mut self, tag: Tag, wanted: bool) {
        let mut changed: Vec<&mut Item> = self.items.iter_mut().filter(|item| item.tag() == tag && item.wanted != wanted).collect();
        changed.sort_by_key(|item| (item.packet.created(), Key::from(item.id())));
        for item in changed {
            self.clock += 1;
            (item.wanted, item.settled, item.since) = (wanted, None, self.clock);
        }
        self.make_room(None);
    }

    pub(super) fn holds(&mut self, id: PacketId) {
        self.items.iter_mut().filter(|item| item.id() == id).for_each(|item| item.holders += 1);
    }

    /// The packet that was not offered for longest is.
    pub(super) fn turn(&mut self) -> Option<PacketId> {
        self.clock += 1;
        let (clock, id) = (self.clock, self.id);
        let item = self.items.iter_mut().min_by_key(|item| item.offered)?;
        item.offered = clock;
        if let Some((rank, _)) = item.settled
            && rank != item.rank(&id)
        {
            item.settled = Some((item.rank(&id), clock));
        }
        Some(item.id())
    }
}
