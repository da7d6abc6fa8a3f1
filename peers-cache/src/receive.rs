//! Packets that come in: what is checked, refused, kept, passed on.

use std::time::Instant;

use peers_crypto::check_publisher;
use peers_wire::{Header, MAX_POSTAGE, Packet, Timestamp};

use crate::cache::Cache;
use crate::carry::STRANGER;
use crate::config::Event;
use crate::message::{Key, Message, Tag};
use crate::store::Inserted;
use crate::tree::{self, Vouched};

/// Successors that one answer names.
const MAX_SUCCESSORS: usize = 8;

impl Cache {
    /// A packet came: checked once, when it is new, and before it is stored.
    pub(crate) fn on_packet(&mut self, now: Instant, wall: Timestamp, from: u32, eager: u8, packet: Packet) {
        self.stats.packets += 1;
        let (key, tag) = (Key::from(packet.id()), Tag::from(packet.topic()));
        let named = self.gathered(now, from, tag, key);
        if self.store.contains(key) {
            self.stats.duplicates += 1;
            if let Some(slot) = self.store.slot_mut(key)
                && slot.packet().postage() < packet.postage()
            {
                slot.set_postage(packet.postage());
            }
            self.holds(from, key);
            return;
        }
        let asked = named || self.pulls.get_mut(key).is_some();
        if !asked && self.gone.contains(key) {
            self.stats.stale += 1;
            return;
        }
        if packet.expires() <= wall || packet.created().since(wall) > self.config.max_skew.as_millis().try_into().unwrap_or(u64::MAX) {
            self.stats.untimely += 1;
            self.end_pull(now, key, Some(from));
            self.gone.insert(key);
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        if neighbour.forgeries.is_empty(now) {
            self.stats.throttled += 1;
            return;
        }
        if !asked && !neighbour.push.take(now, 1) {
            // It is over its rate: asked for at our own pace, like what it announces.
            self.stats.throttled += 1;
            self.on_have(now, from, false, false, &[(tag, key)]);
            return;
        }
        let vouched = match packet.header() {
            Header::Message(_) if check_publisher(&packet).is_ok() => Vouched::Yes,
            Header::Message(_) => Vouched::No,
            Header::Fragment(_) => tree::vouched(&self.store, &packet),
        };
        match vouched {
            Vouched::Yes => self.accept(now, wall, from, eager, &packet),
            Vouched::No => self.refuse(now, from, &packet),
            Vouched::Unknown => {
                self.end_pull(now, key, Some(from));
                self.stats.orphaned += self.pen.insert(now, from, packet.to_owned_copy());
            }
        }
    }

    fn refuse(&mut self, now: Instant, from: u32, packet: &Packet) {
        let key = Key::from(packet.id());
        self.stats.forged += 1;
        self.end_pull(now, key, Some(from));
        if matches!(packet.header(), Header::Fragment(_)) {
            // Another head over the same root, which is not here, may name it: no reason to remember it, nor to blame its sender.
            return;
        }
        self.gone.insert(key);
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.forgeries.take(now, 1);
        }
    }

    /// Takes in a checked packet from a neighbour, and the fragments that waited for it.
    pub(crate) fn accept(&mut self, now: Instant, wall: Timestamp, from: u32, eager: u8, packet: &Packet) {
        let mut accepted = vec![(from, eager, packet.clone())];
        while let Some((from, eager, packet)) = accepted.pop() {
            let waiting = self.take_in(now, wall, from, eager, &packet);
            for (from, fragment) in waiting {
                if tree::vouched(&self.store, &fragment) == Vouched::Yes {
                    accepted.push((from, 0, fragment));
                } else {
                    self.refuse(now, from, &fragment);
                }
            }
        }
    }

    fn take_in(&mut self, now: Instant, wall: Timestamp, from: u32, eager: u8, packet: &Packet) -> Vec<(u32, Packet)> {
        let (key, tag) = (Key::from(packet.id()), Tag::from(packet.topic()));
        let pull = self.end_pull(now, key, Some(from));
        let origin = Some(self.neighbours.get(&from).map_or(STRANGER, |neighbour| neighbour.origin));
        let second = self.second(now);
        let packet = packet.with_postage(packet.postage().max(self.least_postage(wall, packet)));
        if self.store.insert(packet.clone(), origin, self.wants(tag), wall, second) != Inserted::New {
            return Vec::new();
        }
        self.raise(Event::Kept(packet.clone()));
        let awaited = packet.previous().is_some_and(|link| self.awaited.contains(&Key::from(link)));
        if self.subscribed(&packet) || awaited || pull.as_ref().is_some_and(|pull| pull.requested) {
            self.raise(Event::Packet(packet.clone()));
        }
        self.fresh.note(now, key, from);
        if let Some(pull) = pull {
            for neighbour in pull.holders() {
                self.fresh.note(now, key, neighbour);
            }
            for neighbour in pull.waiting {
                self.stats.served += 1;
                self.send(neighbour, &Message::Packet { eager: 0, packet: packet.clone() });
                self.fresh.note(now, key, neighbour);
            }
        }
        if eager > 0 {
            self.push(now, &packet, eager - 1, self.config.relay_to);
        }
        let old = u128::from(wall.since(packet.created())) > self.config.offer_interval.as_millis();
        self.announce_held(now, (tag, key), old, Some(from));
        self.changed(now, tag, Some(from));
        self.pen.take(&packet, |fragment| tree::vouched(&self.store, fragment) != Vouched::Unknown)
    }

    /// Names the successors that are held.
    pub(crate) fn on_next(&mut self, from: u32, keys: &[Key]) {
        for previous in keys {
            let keys: Vec<Key> = self.store.after(*previous).take(MAX_SUCCESSORS).map(|packet| Key::from(packet.id())).collect();
            if !keys.is_empty() {
                self.send(from, &Message::Follows { previous: *previous, keys });
            }
        }
    }

    /// A neighbour names successors, of which those missing are asked for.
    pub(crate) fn on_follows(&mut self, now: Instant, from: u32, previous: Key, keys: &[Key]) {
        if !self.awaited.contains(&previous) {
            self.stats.throttled += 1;
            return;
        }
        for key in keys.iter().take(MAX_SUCCESSORS) {
            if !self.store.contains(*key) {
                self.announced(now, from, *key, true);
            }
        }
    }

    /// The postage that a copy has at least that lost one at each max age since its creation: what claims less does not stop others.
    fn least_postage(&self, wall: Timestamp, packet: &Packet) -> u8 {
        let ages = u128::from(wall.since(packet.created())) / self.config.max_age.as_millis().max(1);
        MAX_POSTAGE.saturating_sub(u8::try_from(ages).unwrap_or(u8::MAX)).saturating_sub(1)
    }
}
