//! Packets of our own: spread, and offered until enough peers hold them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use core::time::Duration;

use hashbrown::HashMap;
use peers_wire::{Packet, PacketId, PeerId, Timestamp};

use crate::cache::{Cache, Timer};
use crate::config::Event;
use crate::message::{Key, Message, Tag};
use crate::store::Inserted;

/// Packets of a message that are pushed; the others are announced, and pulled at the pace of the puller.
const MAX_PUSHED: usize = 8;
/// Packets of our own whose holders are counted.
const MAX_COUNTED: usize = 32_768;
/// Holders of a packet that are counted.
const MAX_HOLDERS: usize = 32;
/// Until a message that too few hold is offered again, doubling each time.
const FIRST_OFFER: Duration = Duration::from_millis(400);
const MAX_OFFERS: u32 = 6;
/// Packets that one offer names.
const MAX_OFFERED: usize = 1024;

/// Who holds our packets.
#[derive(Debug, Default)]
pub(crate) struct Published {
    messages: BTreeMap<u32, Counted>,
    packets: HashMap<Key, (u32, Vec<PeerId>)>,
    order: VecDeque<u32>,
    next: u32,
}

#[derive(Debug)]
struct Counted {
    head: PacketId,
    tag: Tag,
    keys: Vec<Key>,
    /// How many packets have 0, 1, 2.. holders.
    histogram: Vec<u32>,
    /// The least of any packet.
    least: u32,
    offers: u32,
    /// Holders of all packets together that were counted, and how many there were at the last offer.
    counted: u32,
    before: u32,
}

impl Published {
    fn insert(&mut self, head: PacketId, tag: Tag, keys: Vec<Key>) -> u32 {
        let message = self.next;
        self.next = self.next.wrapping_add(1);
        while self.packets.len() + keys.len() > MAX_COUNTED
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(oldest);
        }
        for key in &keys {
            self.packets.insert(*key, (message, Vec::new()));
        }
        let histogram = vec![u32::try_from(keys.len()).unwrap_or(u32::MAX)];
        self.messages.insert(message, Counted { head, tag, keys, histogram, least: 0, offers: 0, counted: 0, before: 0 });
        self.order.push_back(message);
        message
    }

    fn remove(&mut self, message: u32) {
        if let Some(message) = self.messages.remove(&message) {
            message.keys.iter().for_each(|key| drop(self.packets.remove(key)));
        }
    }

    /// A packet is gone: its message is no longer counted.
    pub(crate) fn forget(&mut self, key: Key) {
        if let Some((message, _)) = self.packets.get(&key) {
            let message = *message;
            self.remove(message);
            self.order.retain(|other| *other != message);
        }
    }

    /// The packets of the message that a packet belongs to, the head first.
    pub(crate) fn keys_of(&self, key: Key) -> &[Key] {
        self.packets.get(&key).and_then(|(message, _)| self.messages.get(message)).map_or(&[], |message| &message.keys)
    }

    /// The peers that said to hold a packet.
    pub(crate) fn holders_of(&self, key: Key) -> &[PeerId] {
        self.packets.get(&key).map_or(&[], |(_, holders)| holders)
    }

    /// Counts a holder; the head and the holders of every packet if these became more.
    fn holds(&mut self, key: Key, peer: PeerId) -> Option<(PacketId, u32)> {
        let (message, holders) = self.packets.get_mut(&key)?;
        if holders.len() >= MAX_HOLDERS || holders.contains(&peer) {
            return None;
        }
        holders.push(peer);
        let message = self.messages.get_mut(message)?;
        message.counted += 1;
        let count = holders.len();
        message.histogram.resize(message.histogram.len().max(count + 1), 0);
        message.histogram[count - 1] -= 1;
        message.histogram[count] += 1;
        if message.histogram[message.least as usize] > 0 {
            return None;
        }
        message.least += 1;
        Some((message.head, message.least))
    }

    /// The packets of a message that fewer than `copies` hold, at most [`MAX_OFFERED`].
    fn lacking(&self, message: u32, copies: usize) -> Vec<(Tag, Key)> {
        let Some(message) = self.messages.get(&message).filter(|message| (message.least as usize) < copies) else { return Vec::new() };
        let few = |key: &&Key| self.packets.get(*key).is_some_and(|(_, holders)| holders.len() < copies);
        message.keys.iter().filter(few).take(MAX_OFFERED).map(|key| (message.tag, *key)).collect()
    }
}

impl Cache {
    pub(crate) fn spread(&mut self, now: Instant, wall: Timestamp, packets: Vec<Packet>) {
        let Some(head) = packets.first() else { return };
        let (head, tag, second) = (head.id(), Tag::from(head.topic()), self.second(now));
        let mut keys = Vec::with_capacity(packets.len());
        for (i, packet) in packets.iter().enumerate() {
            let packet = packet.to_owned_copy();
            if self.store.insert(packet.clone(), None, true, wall, second) == Inserted::New {
                let key = Key::from(packet.id());
                keys.push(key);
                self.raise(Event::Kept(packet.clone()));
                if i < MAX_PUSHED {
                    self.push(now, &packet, 1, self.config.publish_to);
                }
                self.announce_held(now, (tag, key), false, None);
            }
        }
        if !keys.is_empty() {
            let message = self.published.insert(head, tag, keys);
            self.timers.insert((now + FIRST_OFFER, Timer::Published(message)));
            self.changed(now, tag, None);
        }
        self.start_ticking(now);
    }

    /// A neighbour holds one of our packets.
    pub(crate) fn published_holds(&mut self, from: u32, key: Key) {
        self.claimed(from, key);
        let Some(peer) = self.neighbours.get(&from).map(|neighbour| neighbour.peer) else { return };
        if let Some((id, holders)) = self.published.holds(key, peer) {
            self.raise(Event::Stored { id, holders });
        }
    }

    /// Offers a message of our own again while too few hold it.
    pub(crate) fn offer_again(&mut self, now: Instant, message: u32) {
        let lacking = self.published.lacking(message, self.config.copies);
        let Some(counted) = self.published.messages.get_mut(&message) else { return };
        // One that is large may take long: it is offered as long as it finds holders.
        if counted.offers >= MAX_OFFERS && counted.counted == counted.before {
            return;
        }
        counted.before = counted.counted;
        let next = FIRST_OFFER * (2 << counted.offers.min(MAX_OFFERS));
        counted.offers += 1;
        if lacking.is_empty() {
            return;
        }
        for neighbour in self.sample(self.config.publish_to, |_| true) {
            self.offer(now, neighbour, &lacking);
        }
        self.timers.insert((now + next, Timer::Published(message)));
    }

    /// Offers a new neighbour those of our packets that too few hold.
    pub(crate) fn offer_published(&mut self, now: Instant, neighbour: u32) {
        let mut offers = Vec::new();
        for message in self.published.order.iter().rev() {
            offers.extend(self.published.lacking(*message, self.config.copies));
            if offers.len() >= MAX_OFFERED {
                break;
            }
        }
        self.offer(now, neighbour, &offers);
    }

    /// Offers our own packets to a neighbour: a few are pushed again if it is not known to have them, many are announced.
    fn offer(&mut self, now: Instant, neighbour: u32, offers: &[(Tag, Key)]) {
        let (mut again, few) = (Vec::new(), offers.len() <= MAX_PUSHED);
        for (tag, key) in offers {
            match self.store.get(*key) {
                Some(packet) if few && self.fresh.note(now, *key, neighbour) => {
                    let message = Message::Packet { eager: 1, packet: packet.clone() };
                    self.stats.pushed += 1;
                    self.send(neighbour, &message);
                }
                Some(_) => again.push((*tag, *key)),
                None => {}
            }
        }
        self.send_have(neighbour, true, false, &again);
    }
}
