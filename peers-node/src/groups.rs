//! Users and groups on a node: their statements and keys are told to members, connected or not, and what is written is sealed under an epoch that no removed member has.
//!
//! News of a group goes to connected members directly. For the others it is published on the topics of the newest epochs, sealed for the present members, each of whom
//! finds the key of the current epoch in it; a removed member still finds these topics, and can open nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use peers_crypto::{
    EpochKey, Fork, Group, GroupError, GroupId, Keyring, Kind, Member, Role, SealError, TopicKey, consent, open_from_user, seal_to_user,
};
use peers_wire::{PacketId, PeerId, Reader, Signature, Timestamp, TopicId, Writer};
use thiserror::Error;

use crate::account::{MAX_GROUPS, Membership, account_topic, database_topic, label_id, labelled_topic};
use crate::message::{MAX_ENCODED_GROUP, PeerMessage};
use crate::stack::{DatabaseInput, Event, Stack};
use crate::topics::Purpose;

/// Why nothing was published to a group.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupPublishError {
    /// This device may not write to it, or is not in it.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The message is too large.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Who can read and do what in a user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The user or group.
    pub id: GroupId,
    /// Which of the two.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Epochs so far, of which this device knows.
    pub epochs: usize,
    /// Nothing was written since the last removal: whoever writes next begins an epoch.
    pub rotation_due: bool,
    /// Every device in it.
    pub members: Vec<AuditMember>,
    /// Every device that was removed.
    pub removed: Vec<AuditRemoved>,
    /// Recovery keys, and when each was added.
    pub recovery: Vec<(PeerId, Timestamp)>,
    /// How many of how many guardians can recover the user.
    pub guardians: Option<(u8, usize)>,
    /// Keys that were used in two places.
    pub forks: Vec<Fork>,
}

/// What one device in a user or group has, and what its thief would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditMember {
    /// The device.
    pub member: Member,
    /// Since when it can have read: the beginning of the oldest epoch that it can have the key of.
    pub reads_since: Option<Timestamp>,
    /// Epochs that it can have the keys of.
    pub epochs: usize,
    /// Groups of which it, or a thief, also has the keys.
    pub groups: Vec<String>,
    /// Databases of the user that are on it, or can be.
    pub databases: Vec<String>,
}

/// A device that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRemoved {
    /// The device.
    pub id: PeerId,
    /// Its name, when it was in.
    pub name: String,
    /// When it was removed.
    pub at: Timestamp,
    /// Epochs that it can have the keys of: what was written in them it can read if it finds it.
    pub epochs: usize,
}

impl Stack {
    /// Creates a group, whose only member is this device.
    ///
    /// # Errors
    /// [`GroupError::Name`], [`GroupError::TooMany`] groups.
    pub fn create_group(&mut self, now: Instant, wall: Timestamp, name: &str) -> Result<GroupId, GroupError> {
        if self.account.groups.len() >= MAX_GROUPS {
            return Err(GroupError::TooMany);
        }
        let mut group = Group::create_group(&self.key, self.account.id(), name, &self.own_name(), wall)?;
        let mut keys = Keyring::default();
        keys.rotate(&mut group, &self.key, wall, &mut self.rng)?;
        let id = group.id();
        self.account.groups.insert(id, Membership::new(group, keys));
        self.on_group_changed(now, wall, id);
        self.settle(now, wall);
        Ok(id)
    }

    /// Removes a device from a user or group, or has this one leave a group; begins an epoch that the removed device does not get.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn remove_member(&mut self, now: Instant, wall: Timestamp, group: GroupId, device: PeerId) -> Result<(), GroupError> {
        // All that it wrote to databases stays: which of it came after it was lost is not known here.
        self.change_group(now, wall, group, |group, key| group.remove(key, device, LAST_SEQUENCE, wall).map(drop))?;
        if device == self.id() && group != self.account.id() {
            self.account.groups.remove(&group);
            self.refollow(now);
        } else {
            let _ = self.epoch_key(now, wall, group);
        }
        self.settle(now, wall);
        Ok(())
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn set_role(&mut self, now: Instant, wall: Timestamp, group: GroupId, device: PeerId, role: Role) -> Result<(), GroupError> {
        self.change_group(now, wall, group, |group, key| group.set_role(key, device, role, wall).map(drop))?;
        let _ = self.epoch_key(now, wall, group);
        self.settle(now, wall);
        Ok(())
    }

    /// Gives a user or group another name.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn rename(&mut self, now: Instant, wall: Timestamp, group: GroupId, name: &str) -> Result<(), GroupError> {
        self.change_group(now, wall, group, |group, key| group.rename(key, name, wall).map(drop))?;
        self.settle(now, wall);
        Ok(())
    }

    /// Publishes to a group: its members get it as [`Event::Message`] with the group's id as topic.
    ///
    /// # Errors
    /// [`GroupPublishError`]
    pub fn publish_to_group(&mut self, now: Instant, wall: Timestamp, group: GroupId, body: &[u8]) -> Result<PacketId, GroupPublishError> {
        let topic = self.epoch_key(now, wall, group)?;
        let body = [&[APPLICATION][..], body].concat();
        Ok(self.publish(now, wall, &topic, &body)?)
    }

    /// Follows a topic of the user's own, the same on all their devices: its messages come as [`Event::Message`] with the id that this returns.
    pub fn subscribe_label(&mut self, now: Instant, wall: Timestamp, label: &str) -> TopicId {
        self.labels.insert(label.to_owned());
        self.refollow(now);
        self.settle(now, wall);
        label_id(label)
    }

    /// Ends following a topic of the user's own.
    pub fn unsubscribe_label(&mut self, now: Instant, wall: Timestamp, label: &str) {
        self.labels.remove(label);
        self.refollow(now);
        self.settle(now, wall);
    }

    /// Publishes to a topic of the user's own.
    ///
    /// # Errors
    /// [`GroupPublishError`]
    pub fn publish_to_label(&mut self, now: Instant, wall: Timestamp, label: &str, body: &[u8]) -> Result<PacketId, GroupPublishError> {
        let epoch = self.epoch_key(now, wall, self.account.id())?;
        Ok(self.publish(now, wall, &labelled_topic(&epoch, label), body)?)
    }

    /// The key to seal under in a user or group, knowing what is known here; begins an epoch if need be.
    pub(crate) fn epoch_key(&mut self, now: Instant, wall: Timestamp, group: GroupId) -> Result<TopicKey, GroupError> {
        let own = self.id();
        let membership = self.account.membership_mut(group).ok_or(GroupError::NotAMember(own))?;
        // Whoever is out must not write: nobody would take it.
        if membership.group.role_of(own).is_none_or(|role| role < Role::Writer) {
            let known = membership.group.contains(own);
            return Err(if known { GroupError::NotAllowed(own) } else { GroupError::NotAMember(own) });
        }
        if let Some((_, key)) = membership.current() {
            return Ok(key.clone());
        }
        let id = membership.keys.rotate(&mut membership.group, &self.key, wall, &mut self.rng)?;
        membership.changed();
        let key = match membership.keys.get(id) {
            Some(EpochKey::Write(key)) => key.clone(),
            _ => return Err(GroupError::NotAllowed(own)),
        };
        self.on_group_changed(now, wall, group);
        Ok(key)
    }

    /// This device states something about a group.
    pub(crate) fn change_group(
        &mut self,
        now: Instant,
        wall: Timestamp,
        group: GroupId,
        change: impl FnOnce(&mut Group, &peers_crypto::DeviceKey) -> Result<(), GroupError>,
    ) -> Result<(), GroupError> {
        let own = self.id();
        let before = self.device_ids();
        let membership = self.account.membership_mut(group).ok_or(GroupError::NotAMember(own))?;
        change(&mut membership.group, &self.key)?;
        membership.changed();
        self.on_devices_changed(now, wall, &before);
        self.on_group_changed(now, wall, group);
        Ok(())
    }

    /// This device has changed a group: keep it, and tell every member.
    pub(crate) fn on_group_changed(&mut self, now: Instant, wall: Timestamp, id: GroupId) {
        self.events.push_back(Event::AccountChanged);
        self.refollow(now);
        let Some(membership) = self.account.membership(id) else { return };
        let user = self.account.user();
        let told: Vec<_> = self.peers.keys().filter(|peer| membership.group.contains(**peer) || user.contains(**peer)).copied().collect();
        let removed: Vec<_> = membership.group.removed().map(|removed| removed.id).collect();
        for peer in told {
            self.send_group(peer, id);
        }
        for device in removed {
            self.send_removal(device, id);
        }
        self.publish_news(now, wall, id);
        if id == self.account.id() {
            self.refresh_recovery(now, wall);
        }
    }

    /// Publishes what is known of a group for the members that are not connected.
    fn publish_news(&mut self, now: Instant, wall: Timestamp, id: GroupId) {
        let Some(membership) = self.account.membership(id).filter(|membership| membership.group.members().count() > 1) else { return };
        let mut writer = Writer::default();
        writer.string(&membership.group.encode());
        let newest = membership.current().map(|(id, _)| id);
        let older: Vec<_> = membership.keys.iter().map(|(id, _)| id).filter(|id| Some(*id) != newest).collect();
        let others: Vec<_> = membership.group.members().map(|member| member.id).filter(|member| *member != self.key.id()).collect();
        let grants =
            others.iter().filter_map(|member| membership.keys.grant(&membership.group, &self.key, *member, &older, &mut self.rng).ok()?);
        let grants: Vec<_> = grants.collect();
        writer.varint(grants.len() as u64);
        grants.iter().for_each(|grant| _ = writer.string(grant));
        let Ok(sealed) = seal_to_user(&self.key, &membership.group, NEWS_CONTEXT, &writer.finish(), &mut self.rng) else { return };
        let topics: Vec<_> =
            membership.recent().filter_map(|key| if let EpochKey::Write(key) = key { Some(key.clone()) } else { None }).collect();
        for epoch in topics.iter().take(MAX_NEWS_TOPICS) {
            // Larger than a message only with thousands of devices; these learn it when they meet.
            let _ = match id == self.account.id() {
                true => self.say(now, wall, &account_topic(epoch), &sealed, peers_wire::DEFAULT_LIFETIME),
                false => self.say(now, wall, epoch, &[&[NEWS][..], &sealed].concat(), peers_wire::DEFAULT_LIFETIME),
            };
        }
    }

    /// News that `from` published on a topic of the group.
    pub(crate) fn on_news(&mut self, now: Instant, wall: Timestamp, id: GroupId, from: PeerId, sealed: &[u8]) {
        let Ok((sender, news)) = open_from_user(&self.key, id, NEWS_CONTEXT, sealed) else {
            // Sealed for the members there are: this device may be none of them.
            return;
        };
        let mut reader = Reader::new(&news);
        let (true, Ok(group)) = (sender == from, reader.string(MAX_ENCODED_GROUP, "group")) else {
            self.stats.refused_topic_messages += 1;
            return;
        };
        if !self.take_group(now, wall, id, from, group) {
            return;
        }
        let Ok(count) = reader.count(MAX_NEWS_GRANTS, "grants") else { return };
        for _ in 0..count {
            let Ok(grant) = reader.string(peers_crypto::MAX_GRANT, "grant") else { return };
            // All but one are for others.
            self.take_grant(now, id, grant);
        }
    }

    /// What a message on a group's own topic is.
    pub(crate) fn on_group_topic(&mut self, now: Instant, wall: Timestamp, id: GroupId, mut message: crate::stack::TopicMessage) {
        let own = message.author == self.id();
        match message.payload.first() {
            Some(&NEWS) if !own => self.on_news(now, wall, id, message.author, &message.payload.slice(1..)),
            // Signed under the topic by a writer of that epoch; written by who may write now.
            Some(&APPLICATION)
                if self.account.membership(id).is_some_and(|known| known.group.role_of(message.author) >= Some(Role::Writer)) =>
            {
                message.topic = TopicId(id.0);
                message.payload = message.payload.slice(1..);
                self.events.push_back(Event::Message(message));
            }
            Some(&NEWS) => {}
            _ => self.stats.refused_topic_messages += 1,
        }
    }

    /// Follows the topics of the newest epochs, and no others.
    pub(crate) fn refollow(&mut self, now: Instant) {
        let mut wanted = BTreeMap::new();
        for key in self.account.user.recent() {
            let EpochKey::Write(key) = key else { continue };
            wanted.insert(account_topic(key).id(), (account_topic(key).read_key(), Purpose::Account));
            for database in &self.databases {
                let topic = database_topic(key, *database).read_key();
                wanted.insert(topic.topic(), (topic, Purpose::Database(*database)));
            }
            for label in &self.labels {
                let topic = labelled_topic(key, label).read_key();
                wanted.insert(topic.topic(), (topic, Purpose::Label(label_id(label))));
            }
        }
        for membership in self.account.groups() {
            for key in membership.recent().map(EpochKey::read_key) {
                wanted.insert(key.topic(), (key, Purpose::Group(membership.group.id())));
            }
        }
        for (key, _) in self.account.user().recovery_keys() {
            let inbox = TopicKey::inbox(key).read_key();
            wanted.insert(inbox.topic(), (inbox, Purpose::RecoveryCalls(key)));
        }
        let ours = |purpose: Purpose| {
            matches!(purpose, Purpose::Account | Purpose::Database(_) | Purpose::Label(_) | Purpose::Group(_) | Purpose::RecoveryCalls(_))
        };
        for topic in self.topics.followed_for(ours) {
            if wanted.remove(&topic).is_none() {
                self.unfollow(now, topic);
            }
        }
        for (key, purpose) in wanted.into_values() {
            self.follow(now, key, purpose);
        }
    }

    /// Tells a peer what is known of a group, and which epochs' keys are here.
    fn send_group(&mut self, to: PeerId, id: GroupId) {
        let Some(membership) = self.account.membership(id) else { return };
        // Who does not take what it is sent is not sent more: it hears the rest when it meets us again.
        if !self.listens(to) {
            return;
        }
        let known = membership.keys.iter().map(|(id, _)| id).collect();
        let message = PeerMessage::Group { group: membership.group.encode().into(), known };
        self.send_to(to, &message);
    }

    /// Whether a peer is connected and takes what it is sent.
    fn listens(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.waiting_bytes <= MAX_WAITING_NEWS)
    }

    /// Tells a device that it is in a user or group no more, and nothing that happened since.
    fn send_removal(&mut self, to: PeerId, id: GroupId) {
        let removal = self.account.membership(id).filter(|_| self.listens(to)).and_then(|membership| membership.group.encode_removal(to));
        if let Some(group) = removal {
            self.send_to(to, &PeerMessage::Group { group: group.into(), known: Vec::new() });
        }
    }

    /// Tells a peer of every group that both are in; another device of the user of all.
    pub(crate) fn greet_groups(&mut self, peer: PeerId) {
        let own_device = self.account.has_device(peer);
        let shared = self
            .account
            .groups()
            .filter(|membership| own_device || membership.group.contains(peer))
            .map(|membership| membership.group.id());
        for id in shared.collect::<Vec<_>>() {
            self.send_group(peer, id);
        }
        if own_device {
            self.send_group(peer, self.account.id());
        }
        let memberships = self.account.groups().chain([&self.account.user]);
        let without = memberships.filter(|membership| membership.group.removed().any(|removed| removed.id == peer));
        for id in without.map(|membership| membership.group.id()).collect::<Vec<_>>() {
            self.send_removal(peer, id);
        }
    }

    /// A connected peer tells what it knows of a group. `true` if that is this device's user, of which the peer is a device.
    pub(crate) fn on_group(
        &mut self,
        now: Instant,
        wall: Timestamp,
        from: PeerId,
        bytes: &Bytes,
        known: &[peers_crypto::StatementId],
    ) -> bool {
        let Some(id) = Group::id_of(bytes) else {
            self.stats.refused_messages += 1;
            return false;
        };
        if self.account.membership(id).is_none() {
            self.on_group_of_another_device(now, wall, from, bytes);
        } else if !self.take_group(now, wall, id, from, bytes) {
            return false;
        }
        let Some(membership) = self.account.membership(id) else { return false };
        // It believes that it is in, as who tells of a removal names no keys.
        if !membership.group.contains(from) && !known.is_empty() {
            self.send_removal(from, id);
            return false;
        }
        if let Ok(Some(grant)) = membership.keys.grant(&membership.group, &self.key, from, known, &mut self.rng) {
            self.send_to(from, &PeerMessage::Grant { group: id, grant: grant.into() });
        }
        // Who has keys that are missing here gives them once it hears which are here.
        if let Some(membership) = self.account.membership(id)
            && known.iter().any(|epoch| membership.group.counts(*epoch) && membership.keys.get(*epoch).is_none())
            && membership.group.contains(self.id())
        {
            self.send_group(from, id);
        }
        id == self.account.id()
    }

    /// Takes statements of a group that `from` is in. `false` if they are refused.
    ///
    /// They prove themselves: one that this device has not heard of (or forgot in a crash) before it is admitted may bring those that admit it.
    fn take_group(&mut self, now: Instant, wall: Timestamp, id: GroupId, from: PeerId, bytes: &[u8]) -> bool {
        let before = self.device_ids();
        let Some(membership) = self.account.membership_mut(id) else { return false };
        let heads = membership.group.clone();
        let grown = membership.group.merge_encoded(bytes);
        // One that was removed may be the one that tells of it, or have removed others at the same time.
        let was_member = heads.contains(from) || heads.removed().any(|removed| removed.id == from);
        let genuine = grown.is_ok() && (was_member || membership.group.contains(from));
        if !genuine {
            self.stats.refused_messages += 1;
            membership.group = heads;
            return false;
        }
        if grown.is_ok_and(|grown| grown > 0) {
            membership.changed();
            self.events.push_back(Event::AccountChanged);
            self.on_devices_changed(now, wall, &before);
            self.refollow(now);
            self.meet_members(now, wall, id);
        }
        true
    }

    /// Another device of the user is in a group that this one is not in: it is to admit this one too.
    fn on_group_of_another_device(&mut self, now: Instant, wall: Timestamp, from: PeerId, bytes: &[u8]) {
        // Of others nothing is even checked.
        let heard = self.account.has_device(from) && self.account.groups.len() < MAX_GROUPS;
        let Some(group) = heard.then(|| Group::decode(bytes).ok()).flatten() else {
            self.stats.refused_messages += 1;
            return;
        };
        let id = group.id();
        if group.kind() != Kind::Group || !group.contains(from) {
            return;
        }
        if group.contains(self.id()) {
            self.account.groups.insert(id, Membership::new(group, Keyring::default()));
            self.events.push_back(Event::AccountChanged);
            self.refollow(now);
            self.meet_members(now, wall, id);
        } else if !group.removed().any(|removed| removed.id == self.id()) {
            let consent = consent(&self.key, id, self.account.id());
            self.send_to(from, &PeerMessage::Consent { group: id, consent });
        }
    }

    /// Another device of the user consents to be in a group that this one is in.
    pub(crate) fn on_consent(&mut self, now: Instant, wall: Timestamp, from: PeerId, id: GroupId, consent: Signature) {
        let (holder, own) = (self.account.id(), self.id());
        let Some(name) = self.account.user().name_of(from).map(str::to_owned) else { return };
        let Some(role) = self.account.groups.get(&id).and_then(|membership| membership.group.role_of(own)) else { return };
        let wanted =
            self.account.groups.get(&id).is_some_and(|membership| {
                !membership.group.contains(from) && !membership.group.removed().any(|removed| removed.id == from)
            });
        let admitted = wanted
            && self.change_group(now, wall, id, |group, key| group.admit(key, from, &name, role, holder, consent, wall).map(drop)).is_ok();
        if !admitted {
            self.stats.refused_messages += 1;
        }
    }

    /// A member gives keys.
    pub(crate) fn take_grant(&mut self, now: Instant, id: GroupId, grant: &[u8]) {
        let Some(membership) = self.account.membership_mut(id) else { return };
        if membership.keys.accept(&membership.group, &self.key, grant).is_ok_and(|new| new > 0) {
            membership.changed();
            self.events.push_back(Event::AccountChanged);
            self.refollow(now);
        }
    }

    /// Members of a group are sought like one's own devices.
    pub(crate) fn meet_members(&mut self, now: Instant, wall: Timestamp, id: GroupId) {
        let Some(membership) = self.account.groups.get(&id) else { return };
        let members: Vec<_> = membership.group.members().map(|member| member.id).filter(|member| *member != self.key.id()).collect();
        for member in members.into_iter().take(MAX_SOUGHT_MEMBERS) {
            let _ = self.agent.connect(now, wall, member, &[]);
        }
    }

    /// After the user's devices changed: new ones are greeted, removed ones are devices no more.
    pub(crate) fn on_devices_changed(&mut self, now: Instant, wall: Timestamp, before: &BTreeSet<PeerId>) {
        self.meet_devices(now, wall, before);
        for device in before.difference(&self.device_ids()) {
            let Some(peer) = self.peers.get_mut(device) else { continue };
            peer.greeted = false;
            for database in core::mem::take(&mut peer.databases).intersection(&self.databases) {
                self.events.push_back(Event::Database { database: *database, input: DatabaseInput::PeerDisconnected(*device) });
            }
        }
    }

    fn own_name(&self) -> String {
        self.account.user().name_of(self.id()).unwrap_or("device").to_owned()
    }

    /// Who can read and do what in a user or group; `None` if this device is not in it.
    pub fn audit(&self, id: GroupId) -> Option<Audit> {
        let membership = self.account.membership(id)?;
        let group = &membership.group;
        let epochs = group.epochs();
        let holders = |device: PeerId| epochs.iter().filter(|epoch| group.can_hold(device, **epoch)).copied().collect::<Vec<_>>();
        let since =
            |held: &[peers_crypto::StatementId]| held.iter().filter_map(|id| group.statement(*id)).map(peers_crypto::Statement::time).min();
        let members = group.members().map(|member| {
            let held = holders(member.id);
            let others = self.account.groups().filter(|other| other.group.id() != id && other.group.contains(member.id));
            let own = self.account.has_device(member.id);
            AuditMember {
                member: member.clone(),
                reads_since: since(&held),
                epochs: held.len(),
                groups: others.map(|other| other.group.name().to_owned()).collect(),
                databases: if own { self.account.catalogue().iter().map(|(_, name)| name.to_owned()).collect() } else { Vec::new() },
            }
        });
        let removed = group.removed().map(|removed| AuditRemoved {
            id: removed.id,
            name: group.former_name(removed.id).unwrap_or_default().to_owned(),
            at: group.removed_at(removed.id).unwrap_or(Timestamp(0)),
            epochs: holders(removed.id).len(),
        });
        Some(Audit {
            id,
            kind: group.kind(),
            name: group.name().to_owned(),
            epochs: epochs.len(),
            rotation_due: group.cleanest_epoch().is_none(),
            members: members.collect(),
            removed: removed.collect(),
            recovery: group.recovery_keys().collect(),
            guardians: group.guardians().map(|guardians| (guardians.threshold, guardians.keys.len())),
            forks: group.forks().to_vec(),
        })
    }
}

/// First byte of a message on a group's topic: the application's.
const APPLICATION: u8 = 0;
/// First byte of a message on a group's topic: news of the group.
const NEWS: u8 = 1;
const NEWS_CONTEXT: &str = "peers news 1";
/// Epochs on whose topics news is published: who has missed more learns it when it meets a member.
const MAX_NEWS_TOPICS: usize = 2;
const MAX_NEWS_GRANTS: usize = 256;
/// Bytes that may wait for a peer before it is sent no more about groups.
const MAX_WAITING_NEWS: usize = 4 << 20;
/// The largest number that a change can have.
const LAST_SEQUENCE: u64 = (1 << 62) - 1;
/// Members of one group that are sought.
const MAX_SOUGHT_MEMBERS: usize = 32;
