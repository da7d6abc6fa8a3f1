//! Letters to one person: directly while they are connected, else with the handshake that seeks them, else through the relay cache; and receipts back.
//!
//! A letter to someone who never answered goes to their public inbox topic, sealed to them; everything after that to a topic that only the two can name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use peers_crypto::{TopicKey, open_from, seal_to};
use peers_nat::{Attempt, MAX_EARLY};
use peers_wire::{DEFAULT_LIFETIME, PacketId, PeerId, Timestamp, Writer};

use crate::message::{Letter, LetterId, MailBody, PeerMessage};
use crate::stack::{Event, Stack};
use crate::topics::Purpose;

#[derive(Debug, Default)]
pub(crate) struct Mailroom {
    /// Whom we exchange mail with.
    contacts: BTreeMap<PeerId, Contact>,
    sending: BTreeMap<LetterId, Outgoing>,
    /// Letters waiting in the relay cache, by the packet of their head.
    posted: BTreeMap<PacketId, LetterId>,
    /// When letters expire in the relay cache.
    expiring: BTreeSet<(Instant, LetterId, PacketId)>,
    /// Letters whose recipient is being sought.
    seeking: Vec<Seeking>,
    /// Receipts for those with whom a session is beginning, until when it is waited for.
    receipts: Vec<(Instant, PeerId, LetterId)>,
}

#[derive(Debug)]
struct Seeking {
    to: PeerId,
    letter: Letter,
    /// The handshake carries it.
    carried: bool,
    /// When it is posted.
    until: Instant,
}

#[derive(Debug)]
struct Contact {
    /// What only the two can name and read.
    topic: TopicKey,
    /// They have written a letter to us, and so follow that topic.
    established: bool,
}

#[derive(Debug)]
enum Outgoing {
    /// Handed to the session; posted if that ends before the receipt.
    Direct { to: PeerId, letter: Letter },
    /// In the relay cache.
    Posted { to: PeerId, packet: PacketId },
}

impl Mailroom {
    pub(crate) fn letter_of(&self, packet: &PacketId) -> Option<LetterId> {
        self.posted.get(packet).copied()
    }

    /// The packet of a letter that is in the relay cache.
    pub(crate) fn packet_of(&self, id: &LetterId) -> Option<PacketId> {
        match self.sending.get(id) {
            Some(Outgoing::Posted { packet, .. }) => Some(*packet),
            _ => None,
        }
    }

    /// When a session has been waited for long enough, or a letter expires.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.seeking.iter().map(|seeking| seeking.until).chain(self.receipts.iter().map(|(until, ..)| *until));
        waiting.chain(self.expiring.first().map(|(until, ..)| *until)).min()
    }

    /// Whom a letter that was sent here, and is not known to be there, is for.
    fn recipient(&self, id: &LetterId) -> Option<PeerId> {
        let sent = self.sending.get(id).map(|(Outgoing::Direct { to, .. } | Outgoing::Posted { to, .. })| *to);
        sent.or_else(|| self.seeking.iter().find(|seeking| seeking.letter.id == *id).map(|seeking| seeking.to))
    }

    fn has_room(&self) -> bool {
        self.sending.len() - self.posted.len() + self.seeking.len() < MAX_DIRECT
    }
}

impl Stack {
    /// Sends a letter to `to`; [`Event::MailStored`], [`Event::MailDelivered`] and [`Event::MailExpired`] tell what became of it.
    ///
    /// Without a session one is tried for, once. A letter that fits goes with the handshake; if no session comes within a second, it is left in the relay cache.
    pub fn send(&mut self, now: Instant, wall: Timestamp, to: PeerId, letter: Letter) {
        self.add_contact(now, to, false);
        if self.is_connected(to) {
            self.send_directly(now, wall, to, letter);
        } else {
            self.seek(now, wall, to, letter);
        }
        self.settle(now, wall);
    }

    fn send_directly(&mut self, now: Instant, wall: Timestamp, to: PeerId, letter: Letter) {
        if self.mail.has_room() && self.send_to(to, &PeerMessage::Mail(MailBody::Letter(letter.clone()))) {
            self.set_direct(to, letter);
        } else {
            self.post(now, wall, to, &letter);
        }
    }

    fn set_direct(&mut self, to: PeerId, letter: Letter) {
        if let Some(Outgoing::Posted { packet, .. }) = self.mail.sending.insert(letter.id, Outgoing::Direct { to, letter }) {
            self.mail.posted.remove(&packet);
        }
    }

    /// Tries for a session with the recipient of a letter, with the letter in the handshake if it fits.
    fn seek(&mut self, now: Instant, wall: Timestamp, to: PeerId, letter: Letter) {
        let early = early_letter(&letter);
        let attempt = if self.mail.has_room() { self.agent.reach(now, wall, to, &early) } else { Ok(Attempt::Nowhere) };
        match attempt {
            Ok(Attempt::Carries | Attempt::UnderWay) => {
                self.mail.seeking.push(Seeking { to, letter, carried: attempt == Ok(Attempt::Carries), until: now + SEEK_TIME });
            }
            Ok(Attempt::Nowhere) | Err(_) => self.post(now, wall, to, &letter),
        }
    }

    /// A handshake was answered: the letter that it carried is as good as sent.
    pub(crate) fn on_early_taken(&mut self, peer: PeerId) {
        for taken in self.stop_seeking(|seeking| seeking.to == peer && seeking.carried) {
            self.set_direct(taken.to, taken.letter);
        }
    }

    /// A handshake that carried a letter was not answered.
    pub(crate) fn on_early_lost(&mut self, now: Instant, wall: Timestamp, peer: PeerId) {
        for lost in self.stop_seeking(|seeking| seeking.to == peer) {
            self.post(now, wall, lost.to, &lost.letter);
        }
    }

    /// What waited for a session with `peer` goes by it.
    pub(crate) fn send_waiting_mail(&mut self, now: Instant, wall: Timestamp, peer: PeerId) {
        for found in self.stop_seeking(|seeking| seeking.to == peer) {
            self.send_directly(now, wall, found.to, found.letter);
        }
        for (_, to, id) in self.mail.receipts.extract_if(.., |(_, to, _)| *to == peer).collect::<Vec<_>>() {
            self.send_receipt(now, wall, to, id);
        }
    }

    /// What has waited for a session until `now` goes through the relay cache.
    pub(crate) fn expire_seeking(&mut self, now: Instant, wall: Timestamp) {
        for late in self.stop_seeking(|seeking| seeking.until <= now) {
            self.post(now, wall, late.to, &late.letter);
        }
        for (_, to, id) in self.mail.receipts.extract_if(.., |(until, ..)| *until <= now).collect::<Vec<_>>() {
            self.send_receipt(now, wall, to, id);
        }
    }

    /// Leaves what waits for a session in the relay cache now: nobody will wait.
    pub fn post_waiting(&mut self, now: Instant, wall: Timestamp) {
        self.expire_seeking(now + SEEK_TIME, wall);
        self.settle(now, wall);
    }

    fn stop_seeking(&mut self, which: impl Fn(&Seeking) -> bool) -> Vec<Seeking> {
        self.mail.seeking.extract_if(.., |seeking| which(seeking)).collect()
    }

    /// What came with a handshake.
    pub(crate) fn on_early(&mut self, now: Instant, wall: Timestamp, from: PeerId, data: &[u8]) {
        match data.split_first().map(|(kind, body)| (kind, MailBody::decode(body))) {
            // Only what may come twice: letters are known by their ids.
            Some((&EARLY_MAIL, Ok(letter @ MailBody::Letter(_)))) => self.on_mail(now, wall, from, letter),
            _ => self.stats.refused_messages += 1,
        }
    }

    /// Sends a letter again to a peer that is connected: it may have been away for longer than caches keep it.
    pub fn send_again(&mut self, now: Instant, wall: Timestamp, to: PeerId, letter: Letter) {
        if self.is_connected(to) && !matches!(self.mail.sending.get(&letter.id), Some(Outgoing::Direct { .. })) {
            self.send(now, wall, to, letter);
        }
    }

    /// Whether it is someone to exchange mail with.
    pub fn is_contact(&self, peer: PeerId) -> bool {
        self.mail.contacts.contains_key(&peer)
    }

    /// A letter is stored here: its sender is told.
    pub fn acknowledge(&mut self, now: Instant, wall: Timestamp, to: PeerId, id: LetterId) {
        // A letter that came with a handshake is here before there is a session.
        if self.agent.is_beginning(to) && self.mail.receipts.len() < MAX_RECEIPTS {
            self.mail.receipts.push((now + SEEK_TIME, to, id));
        } else {
            self.send_receipt(now, wall, to, id);
        }
        self.settle(now, wall);
    }

    fn send_receipt(&mut self, now: Instant, wall: Timestamp, to: PeerId, id: LetterId) {
        let receipt = MailBody::Receipt(id);
        // Who wrote to us follows the topic of the two.
        if !self.send_to(to, &PeerMessage::Mail(receipt.clone()))
            && let Ok(topic) = TopicKey::between(&self.key, to)
        {
            // Short enough for any message.
            let _ = self.say(now, wall, &topic, &receipt.encode(), DEFAULT_LIFETIME);
        }
    }

    /// Knows `peer` as someone to exchange mail with, and follows the topic of the two (`established`: they have written to us, so that they follow it too).
    pub fn add_contact(&mut self, now: Instant, peer: PeerId, established: bool) {
        if let Some(contact) = self.mail.contacts.get_mut(&peer) {
            if established && !contact.established {
                contact.established = true;
                self.events.push_back(Event::Contact { peer, established });
            }
            return;
        }
        if peer == self.id() || self.mail.contacts.len() >= MAX_CONTACTS {
            return;
        }
        // Nobody owns a key that does not convert: there is no one to write to.
        let Ok(topic) = TopicKey::between(&self.key, peer) else { return };
        self.follow(now, topic.read_key(), Purpose::Mail);
        self.mail.contacts.insert(peer, Contact { topic, established });
        self.events.push_back(Event::Contact { peer, established });
    }

    pub(crate) fn follow_inbox(&mut self, now: Instant) {
        let topic = TopicKey::inbox(self.id()).read_key();
        self.follow(now, topic, Purpose::Inbox);
    }

    /// The session with `peer` ended: what it has not acknowledged goes through the relay cache.
    pub(crate) fn repost_mail(&mut self, now: Instant, wall: Timestamp, peer: PeerId) {
        let waiting: Vec<Letter> = (self.mail.sending.values())
            .filter_map(|outgoing| match outgoing {
                Outgoing::Direct { to, letter } if *to == peer => Some(letter.clone()),
                _ => None,
            })
            .collect();
        for letter in waiting {
            self.post(now, wall, peer, &letter);
        }
    }

    /// Sends what needs no receipt, as it is sent again some time or asked for again.
    pub(crate) fn mail(&mut self, now: Instant, wall: Timestamp, to: PeerId, body: &MailBody) {
        self.add_contact(now, to, false);
        if !self.send_to(to, &PeerMessage::Mail(body.clone())) {
            self.publish_mail(now, wall, to, &body.encode());
        }
    }

    fn post(&mut self, now: Instant, wall: Timestamp, to: PeerId, letter: &Letter) {
        if let Some(packet) = self.publish_mail(now, wall, to, &MailBody::Letter(letter.clone()).encode()) {
            self.cache.watch(now, packet, 0);
            self.mail.posted.insert(packet, letter.id);
            self.mail.expiring.insert((now + LIFETIME, letter.id, packet));
            if self.mail.expiring.len() > MAX_POSTED {
                self.mail.expiring.pop_first();
            }
            if let Some(Outgoing::Posted { packet, .. }) = self.mail.sending.insert(letter.id, Outgoing::Posted { to, packet }) {
                self.mail.posted.remove(&packet);
            }
            self.forget_some_posted();
        }
    }

    /// Leaves mail in the relay cache: on the topic of the two, if the other follows it, else sealed on their public inbox topic.
    fn publish_mail(&mut self, now: Instant, wall: Timestamp, to: PeerId, body: &[u8]) -> Option<PacketId> {
        let known = self.mail.contacts.get(&to).filter(|contact| contact.established).map(|contact| contact.topic.clone());
        match known {
            Some(topic) => self.say(now, wall, &topic, body, DEFAULT_LIFETIME).ok(),
            None => {
                let sealed = seal_to(&self.key, to, MAIL_CONTEXT, body, &mut self.rng).ok()?;
                self.say(now, wall, &TopicKey::inbox(to), &sealed, DEFAULT_LIFETIME).ok()
            }
        }
    }

    /// Letters that nobody came for in time are reported; those that were posted again since, or delivered, are not.
    pub(crate) fn expire_mail(&mut self, now: Instant) {
        while let Some(&(until, id, packet)) = self.mail.expiring.first()
            && until <= now
        {
            self.mail.expiring.pop_first();
            if self.mail.packet_of(&id) == Some(packet) {
                self.mail.sending.remove(&id);
                self.mail.posted.remove(&packet);
                self.events.push_back(Event::MailExpired { id });
            }
        }
    }

    /// Posted letters are remembered only to report on them: of too many, some are not.
    fn forget_some_posted(&mut self) {
        while self.mail.posted.len() > MAX_POSTED {
            if let Some((_, id)) = self.mail.posted.pop_first() {
                self.mail.sending.remove(&id);
            }
        }
    }

    pub(crate) fn on_mail_topic(&mut self, now: Instant, wall: Timestamp, author: PeerId, body: &[u8]) {
        match MailBody::decode(body) {
            Ok(mail) => self.on_mail(now, wall, author, mail),
            Err(_) => self.stats.refused_topic_messages += 1,
        }
    }

    pub(crate) fn on_inbox(&mut self, now: Instant, wall: Timestamp, author: PeerId, sealed: &[u8]) {
        match open_from(&self.key, MAIL_CONTEXT, sealed) {
            Ok((sender, body)) if sender == author => self.on_mail_topic(now, wall, author, &body),
            _ => self.stats.refused_topic_messages += 1,
        }
    }

    pub(crate) fn on_mail(&mut self, now: Instant, wall: Timestamp, from: PeerId, mail: MailBody) {
        match mail {
            MailBody::Package(package) => self.on_package(from, package),
            MailBody::Answer(answer) => self.on_answer(now, wall, from, &answer),
            MailBody::Letter(letter) => {
                // A letter of anybody else makes us follow nothing: strangers are without number.
                if self.mail.contacts.contains_key(&from) {
                    self.add_contact(now, from, true);
                }
                self.events.push_back(Event::Mail { from, letter });
            }
            MailBody::Receipt(id) => {
                let Some(to) = self.mail.recipient(&id) else { return };
                // Only the recipient can say that it has the letter.
                if to != from {
                    self.stats.refused_messages += 1;
                    return;
                }
                self.mail.seeking.retain(|seeking| seeking.letter.id != id);
                if let Some(Outgoing::Posted { packet, .. }) = self.mail.sending.remove(&id) {
                    self.mail.posted.remove(&packet);
                }
                self.events.push_back(Event::MailDelivered { id });
            }
        }
    }
}

/// A letter as early data; empty if it is too long for that.
fn early_letter(letter: &Letter) -> Vec<u8> {
    if letter.body.len() > MAX_EARLY {
        return Vec::new();
    }
    let mut writer = Writer::default();
    writer.u8(EARLY_MAIL).bytes(&MailBody::Letter(letter.clone()).encode());
    if writer.len() > MAX_EARLY { Vec::new() } else { writer.finish() }
}

/// First byte of early data: a letter.
const EARLY_MAIL: u8 = 0;
/// How long a letter waits for a session with its recipient, and a receipt for one that is beginning, before the relay cache has it: two round trips of 300 ms and a repetition.
const SEEK_TIME: Duration = Duration::from_secs(1);
/// How long caches keep a letter.
const LIFETIME: Duration = Duration::from_secs(DEFAULT_LIFETIME as u64 * 60);
/// Receipts that wait for a session.
const MAX_RECEIPTS: usize = 256;
const MAIL_CONTEXT: &str = "peers mail 1";
/// Letters handed to sessions and not yet acknowledged.
const MAX_DIRECT: usize = 256;
/// Letters in the relay cache that are reported on.
const MAX_POSTED: usize = 4096;
/// Peers we exchange mail with.
const MAX_CONTACTS: usize = 4096;
