//! Topics a node follows: packets become messages, each goes where its topic's purpose says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use peers_crypto::{DeviceKey, Draft, GroupId, ReadKey, SealError, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Header, Link, MAX_POSTAGE, Packet, PacketId, PeerId, Reassembly, Timestamp, TopicId};

use crate::account::DatabaseId;
use crate::causal::{Causal, Next};
use crate::repair::{REPAIR_AFTER, Repairs};
use crate::stack::{DatabaseInput, Event, Stack, TopicMessage};

/// Why a topic is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An application subscribed to it.
    Application,
    /// News of the user's account.
    Account,
    /// Changes of a database.
    Database(DatabaseId),
    /// Mail with someone known.
    Mail,
    /// First letters of anyone, sealed to this device.
    Inbox,
    /// Linking a device.
    Link,
    /// A topic of the user's own; its name for good.
    Label(TopicId),
    /// Messages to a group, and news of it.
    Group(GroupId),
    /// Where a machine that restores from one of the user's recovery keys calls, and is answered.
    RecoveryCalls(PeerId),
    /// Where this machine, which restores from a recovery key, is answered.
    Restore,
    /// Where the answer to a question is fetched.
    Readers,
}

#[derive(Debug)]
struct Followed {
    key: ReadKey,
    purpose: Purpose,
    /// The last message seen or written here.
    last: Link,
}

#[derive(Debug)]
pub(crate) struct Topics {
    followed: BTreeMap<TopicId, Followed>,
    reassembly: Reassembly,
    /// Packets that were in the cache when their topic was followed; taken when the layers settle.
    pub(crate) held: VecDeque<Packet>,
    repair_at: Option<Instant>,
    repairs: Repairs,
    /// Topics whose messages come in causal order.
    ordered: BTreeMap<TopicId, Causal>,
    /// Roots of messages whose fragments nobody sent in time.
    given_up: BTreeSet<[u8; 32]>,
}

impl Topics {
    pub(crate) fn new() -> Self {
        let reassembly = Reassembly::new(peers_wire::Config::default());
        Self {
            followed: BTreeMap::new(),
            reassembly,
            held: VecDeque::new(),
            repair_at: None,
            repairs: Repairs::default(),
            ordered: BTreeMap::new(),
            given_up: BTreeSet::new(),
        }
    }

    /// The topics followed for such a purpose.
    pub(crate) fn followed_for(&self, wanted: impl Fn(Purpose) -> bool) -> Vec<TopicId> {
        self.followed.iter().filter(|(_, followed)| wanted(followed.purpose)).map(|(id, _)| *id).collect()
    }

    /// When a message that is missing in the order of its topic is passed over.
    pub(crate) fn next_passed_over(&self) -> Option<Instant> {
        self.ordered.values().filter_map(Causal::deadline).min()
    }

    /// When fragments that are missing are asked for.
    pub(crate) const fn next_repair(&self) -> Option<Instant> {
        self.repair_at
    }
}

impl Stack {
    /// The key of a topic that is followed, and why it is.
    pub(crate) fn key_of(&self, topic: TopicId) -> Option<(&ReadKey, Purpose)> {
        self.topics.followed.get(&topic).map(|followed| (&followed.key, followed.purpose))
    }

    /// The topics that are behind what an application knows as one: those of the newest epochs, where it is the user's or a group's.
    pub(crate) fn topics_of(&self, id: TopicId) -> Vec<TopicId> {
        let is = |(topic, followed): &(&TopicId, &Followed)| match followed.purpose {
            Purpose::Application => **topic == id,
            Purpose::Label(label) => label == id,
            Purpose::Group(group) => group.0 == id.0,
            _ => false,
        };
        self.topics.followed.iter().filter(is).map(|(topic, _)| *topic).collect()
    }

    /// Follows a topic: its messages, those held here already first, come as [`Event::Message`].
    pub fn subscribe(&mut self, now: Instant, wall: Timestamp, key: ReadKey) {
        self.follow(now, key, Purpose::Application);
        self.settle(now, wall);
    }

    /// Has the messages of a topic that is followed come each after the one it links to, from now on: what is missing is asked for by its link. After ten seconds, or when
    /// 1024 messages or 32 MiB wait, it is passed over, which [`Event::Missing`] tells.
    pub fn order(&mut self, topic: TopicId) {
        if self.topics.followed.contains_key(&topic) {
            self.topics.ordered.entry(topic).or_default();
        }
    }

    fn pass_on(&mut self, topic: TopicId, next: Vec<Next>) {
        for next in next {
            self.events.push_back(match next {
                Next::Message(message) => Event::Message(message),
                Next::Missing(link) => Event::Missing { topic, link },
            });
        }
    }

    /// Passes over messages that did not come in time.
    pub(crate) fn pass_over(&mut self, now: Instant) {
        let next: Vec<_> = self.topics.ordered.iter_mut().map(|(topic, causal)| (*topic, causal.expire(now))).collect();
        next.into_iter().for_each(|(topic, next)| self.pass_on(topic, next));
    }

    /// Ends following a topic.
    pub fn unsubscribe(&mut self, now: Instant, wall: Timestamp, topic: TopicId) {
        if self.topics.followed.get(&topic).is_some_and(|followed| followed.purpose == Purpose::Application) {
            self.unfollow(now, topic);
        }
        self.settle(now, wall);
    }

    /// Publishes a message on a topic and gives the id of its packet (of its head, where it has fragments).
    ///
    /// # Errors
    /// [`SealError`] if `body` is larger than a message may be.
    pub fn publish(&mut self, now: Instant, wall: Timestamp, topic: &TopicKey, body: &[u8]) -> Result<PacketId, SealError> {
        self.publish_for(now, wall, topic, body, DEFAULT_LIFETIME)
    }

    /// As [`Stack::publish`], for `lifetime` minutes.
    ///
    /// # Errors
    /// [`SealError`] if `body` is larger than a message may be.
    pub fn publish_for(
        &mut self,
        now: Instant,
        wall: Timestamp,
        topic: &TopicKey,
        body: &[u8],
        lifetime: u16,
    ) -> Result<PacketId, SealError> {
        let id = self.say(now, wall, topic, body, lifetime)?;
        self.cache.watch(now, id, 0);
        self.settle(now, wall);
        Ok(id)
    }

    /// As [`Stack::publish_for`], for what is said while the layers settle.
    pub(crate) fn say(
        &mut self,
        now: Instant,
        wall: Timestamp,
        topic: &TopicKey,
        body: &[u8],
        lifetime: u16,
    ) -> Result<PacketId, SealError> {
        let key = Arc::clone(&self.key);
        self.say_as(now, wall, &key, topic, body, lifetime)
    }

    /// As [`Stack::say`], in the name of another key: a recovery key.
    pub(crate) fn say_as(
        &mut self,
        now: Instant,
        wall: Timestamp,
        author: &DeviceKey,
        topic: &TopicKey,
        body: &[u8],
        lifetime: u16,
    ) -> Result<PacketId, SealError> {
        let followed = self.topics.followed.get_mut(&topic.id());
        let previous = followed.as_ref().map_or(Link::NONE, |followed| followed.last);
        let draft = Draft { created: wall, lifetime, previous, postage: MAX_POSTAGE };
        let packets = topic.seal(author, draft, body, &mut self.rng)?;
        let id = packets[0].id();
        if let Some(followed) = followed {
            followed.last = id.link();
        }
        self.cache.publish(now, wall, packets);
        let next = self.topics.ordered.get_mut(&topic.id()).map(|causal| causal.wrote(id.link()));
        next.into_iter().for_each(|next| self.pass_on(topic.id(), next));
        Ok(id)
    }

    pub(crate) fn follow(&mut self, now: Instant, key: ReadKey, purpose: Purpose) {
        let topic = key.topic();
        self.topics.followed.insert(topic, Followed { key, purpose, last: Link::NONE });
        self.cache.subscribe(now, topic);
        self.topics.held.extend(self.cache.packets(topic).cloned());
    }

    pub(crate) fn unfollow(&mut self, now: Instant, topic: TopicId) {
        self.topics.ordered.remove(&topic);
        if self.topics.followed.remove(&topic).is_some() {
            self.cache.unsubscribe(now, topic);
        }
    }

    /// A packet that the cache has checked, on a followed topic.
    pub(crate) fn on_packet(&mut self, now: Instant, wall: Timestamp, packet: Packet) {
        if !self.topics.followed.contains_key(&packet.topic()) {
            return;
        }
        let Topics { reassembly, given_up, .. } = &mut self.topics;
        let (topic, header) = (packet.topic(), packet.header());
        let mut complete = reassembly.insert(now, packet);
        if let Header::Fragment(fragment) = header
            && given_up.remove(&fragment.root)
        {
            // Someone has it after all: what the cache kept of the message is taken up again.
            let held = self.cache.packets(topic).filter(|held| root_of(held) == Some(fragment.root)).cloned().collect::<Vec<_>>();
            complete.extend(held.into_iter().flat_map(|held| reassembly.insert(now, held)));
        }
        for complete in complete {
            self.on_sealed(now, wall, &complete.head, &complete.sealed);
        }
        if self.topics.reassembly.progress().next().is_some() {
            self.topics.repair_at.get_or_insert(now + REPAIR_AFTER);
        }
    }

    fn on_sealed(&mut self, now: Instant, wall: Timestamp, head: &Packet, sealed: &[u8]) {
        let Some(followed) = self.topics.followed.get_mut(&head.topic()) else { return };
        let Ok(opened) = followed.key.open(head, sealed) else {
            self.stats.refused_topic_messages += 1;
            return;
        };
        followed.last = head.id().link();
        let purpose = followed.purpose;
        let message = TopicMessage {
            topic: head.topic(),
            id: head.id(),
            author: opened.author,
            created: head.created(),
            previous: head.previous().unwrap_or(Link::NONE),
            payload: opened.body.into(),
        };
        // What this device wrote itself is known here; it comes back when a topic is followed anew.
        let own = message.author == self.id();
        match purpose {
            Purpose::Application => match self.topics.ordered.get_mut(&message.topic) {
                Some(causal) => {
                    let topic = message.topic;
                    let (next, missing) = causal.insert(now, message);
                    self.pass_on(topic, next);
                    if let Some(missing) = missing {
                        self.cache.request_link(now, wall, missing);
                    }
                }
                None => self.events.push_back(Event::Message(message)),
            },
            Purpose::Label(id) if self.account.has_device(message.author) => {
                self.events.push_back(Event::Message(TopicMessage { topic: id, ..message }))
            }
            Purpose::Group(id) => self.on_group_topic(now, wall, id, message),
            _ if own => {}
            Purpose::Label(_) => self.stats.refused_topic_messages += 1,
            Purpose::Account => self.on_news(now, wall, self.account.id(), message.author, &message.payload),
            Purpose::RecoveryCalls(key) => self.on_recovery_call(now, wall, key, message.author),
            Purpose::Restore => self.on_recovery_letter(now, message.author, &message.payload),
            Purpose::Database(database) if self.account.has_device(message.author) => {
                let input = DatabaseInput::Changes { from: message.author, changes: message.payload };
                self.events.push_back(Event::Database { database, input });
            }
            Purpose::Database(_) => self.stats.refused_topic_messages += 1,
            Purpose::Mail => self.on_mail_topic(now, wall, message.author, &message.payload),
            Purpose::Inbox => self.on_inbox(now, wall, message.author, &message.payload),
            Purpose::Readers => self.on_readers_message(message),
            Purpose::Link => self.on_link_message(now, wall, message.topic, message.author, &message.payload),
        }
    }

    /// Asks for fragments that are missing, and gives up those that nobody sends.
    pub(crate) fn repair_messages(&mut self, now: Instant, wall: Timestamp) {
        if self.topics.repair_at.is_none_or(|at| at > now) {
            return;
        }
        let Topics { reassembly, given_up, repair_at, repairs, .. } = &mut self.topics;
        let before: Vec<_> = reassembly.progress().map(|progress| progress.head).collect();
        reassembly.expire(now);
        let after: BTreeSet<_> = reassembly.progress().map(|progress| progress.head).collect();
        given_up.extend(before.iter().filter(|head| !after.contains(head)).filter_map(|head| root_of(self.cache.get(head)?)));
        while given_up.len() > MAX_GIVEN_UP {
            given_up.pop_first();
        }
        let missing = repairs.due(now, reassembly);
        *repair_at = reassembly.progress().next().is_some().then(|| now + REPAIR_AFTER);
        self.stats.repairs += missing.len() as u64;
        for id in missing {
            self.cache.request(now, wall, id);
        }
    }
}

/// The root of the tree that a packet belongs to; a message of one packet has none.
fn root_of(packet: &Packet) -> Option<[u8; 32]> {
    match packet.header() {
        Header::Message(head) => (head.fragments > 0).then(|| *packet.payload_digest()),
        Header::Fragment(fragment) => Some(fragment.root),
    }
}

/// Messages given up that are remembered.
const MAX_GIVEN_UP: usize = 1024;
