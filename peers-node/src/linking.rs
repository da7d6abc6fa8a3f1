//! Linking a device: the conversation of [`peers_crypto`]'s inviter and acceptor, carried by the topic that the ticket names.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use peers_crypto::{
    Acceptor, AcceptorEvent, Group, GroupError, GroupId, Inviter, InviterEvent, Keyring, Kind, LinkCode, LinkRefusal, LinkStep, LinkUri,
    Role, Ticket, TopicKey, consent, is_name,
};
use peers_wire::{DecodeError, PeerId, Reader, Signature, Timestamp, TopicId, Writer};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::account::{Account, MAX_GROUPS, Membership};
use crate::message::MAX_ENCODED_GROUP;
use crate::stack::{Event, Stack};
use crate::topics::Purpose;

/// Why two devices were not linked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkFailure {
    /// The code was wrong or has expired, nobody answered, or somebody said no.
    #[error(transparent)]
    Refused(#[from] LinkRefusal),
    /// The device cannot be admitted.
    #[error("the device cannot be admitted: {0}")]
    Group(#[from] GroupError),
    /// The inviting device, which knows the code, sent what makes no sense.
    #[error("the other device sent what makes no sense ({0}): update both and try again")]
    Invalid(DecodeError),
    /// This device is linked to others already, and was invited to be a device of another user.
    #[error("this device is linked to others already: link the other one from here, or start with an empty PEERS_HOME")]
    Linked,
    /// This device is in as many groups as it can be.
    #[error("this device is in too many groups: leave one first")]
    TooManyGroups,
}

/// How to invite, or to accept an invitation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkOptions {
    /// Invite by a link that carries a full secret, not by a code of four words.
    pub by_link: bool,
    /// Wait for [`Stack::confirm_linking`] before anything secret is sent, once [`Event::LinkMatched`] has shown the words.
    pub confirm: bool,
}

/// The two devices have the same code: what each shows before it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkMatch {
    /// The other device.
    pub device: PeerId,
    /// Its name.
    pub name: String,
    /// The user or group that is joined.
    pub joins: GroupId,
    /// Which of the two.
    pub kind: Kind,
    /// Its name.
    pub group: String,
    /// What the device that joins may do in it.
    pub role: Role,
    /// The same words are shown on both devices, unless somebody is between them.
    pub words: String,
}

/// The linking under way, and the inviters that still answer.
#[derive(Debug, Default)]
pub(crate) struct Linkings {
    current: Option<Linking>,
    /// Invitations that are over: who comes late is told so, and counted.
    spent: Vec<Spent>,
}

#[derive(Debug)]
struct Linking {
    side: Side,
    topic: TopicKey,
    /// When the machine's time is over.
    until: Instant,
    found: Option<LinkMatch>,
    confirmed: bool,
    /// What the inviter invites to, and as what.
    to: (GroupId, Role),
}

#[derive(Debug)]
enum Side {
    /// With the consent that waits for a person's word.
    Inviter {
        inviter: Box<Inviter>,
        consent: Option<Vec<u8>>,
    },
    Acceptor {
        acceptor: Box<Acceptor>,
        inviter: Option<PeerId>,
    },
}

#[derive(Debug)]
struct Spent {
    inviter: Box<Inviter>,
    topic: TopicKey,
    until: Instant,
}

impl Stack {
    /// Begins an invitation to a group in a role, or as a device of the user, and gives its ticket, good for ten minutes and one guess. [`Event::LinkMatched`] shows who took it, [`Event::Linked`] or
    /// [`Event::LinkFailed`] ends it.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn invite(
        &mut self,
        now: Instant,
        wall: Timestamp,
        to: Option<(GroupId, Role)>,
        options: LinkOptions,
    ) -> Result<Ticket, &'static str> {
        if self.linking.current.is_some() {
            return Err(BUSY);
        }
        let to = to.unwrap_or_else(|| (self.account.id(), Role::Owner));
        match self.account.membership(to.0).map(|membership| membership.group.role_of(self.id())) {
            Some(Some(Role::Owner)) => {}
            Some(Some(_)) => return Err("only an owner invites to a group: ask one"),
            _ => return Err("this device is not in it: see `peers group list` and `peers id list`"),
        }
        let ticket = loop {
            let ticket = if options.by_link {
                let addresses = self.own_addresses();
                LinkUri::generate(self.id(), &addresses, &mut self.rng).into()
            } else {
                Ticket::from(LinkCode::generate(&mut self.rng))
            };
            // Where an invitation was shortly before, guesses at that one would be taken for guesses at this.
            let topic = ticket.rendezvous().id();
            if self.linking.spent.iter().all(|spent| spent.topic.id() != topic) {
                break ticket;
            }
        };
        let inviter = Box::new(Inviter::new(&ticket, &self.key, wall, &mut self.rng));
        self.begin_linking(now, wall, &ticket, Side::Inviter { inviter, consent: None }, !options.confirm, to);
        self.settle(now, wall);
        Ok(ticket)
    }

    /// Makes this device, called `name`, one of the user whose device shows `ticket`. [`Event::LinkMatched`] shows who invites to what, [`Event::Linked`] or
    /// [`Event::LinkFailed`] ends it.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn accept(&mut self, now: Instant, wall: Timestamp, ticket: &Ticket, name: &str, options: LinkOptions) -> Result<(), &'static str> {
        if self.linking.current.is_some() {
            return Err(BUSY);
        }
        if ticket.inviter() == Some(self.id()) {
            return Err("this link was made by this device itself: open it on the other one");
        }
        let (acceptor, hello) =
            Acceptor::new(ticket, &self.key, name, wall, &mut self.rng).map_err(|_| "the name of this device is empty or too long")?;
        if let Some(inviter) = ticket.inviter() {
            // Where too many are sought already, common peers and the caches carry the conversation.
            let _ = self.agent.connect(now, wall, inviter, ticket.addresses());
        }
        let side = Side::Acceptor { acceptor: Box::new(acceptor), inviter: ticket.inviter() };
        self.begin_linking(now, wall, ticket, side, !options.confirm, (GroupId::NONE, Role::Reader));
        if let Some(linking) = self.linking.current.take() {
            self.say_link(now, wall, &linking, &hello);
            self.linking.current = Some(linking);
        }
        self.settle(now, wall);
        Ok(())
    }

    /// A person has compared the words that [`Event::LinkMatched`] showed: go on, or end it.
    ///
    /// # Errors
    /// Says that there is nothing to be confirmed.
    pub fn confirm_linking(&mut self, now: Instant, wall: Timestamp, same: bool) -> Result<(), &'static str> {
        let Some(mut linking) = self.linking.current.take_if(|linking| linking.found.is_some() && !linking.confirmed) else {
            return Err("nothing waits to be confirmed: the linking has ended, or has not come to that");
        };
        if same {
            linking.confirmed = true;
            self.go_on(now, wall, linking);
        } else {
            self.decline_linking(now, wall, linking, LinkRefusal::Declined.into());
        }
        self.settle(now, wall);
        Ok(())
    }

    /// Ends a linking that nobody waits for any more: its ticket is void.
    pub fn cancel_linking(&mut self, now: Instant, wall: Timestamp) {
        if let Some(mut linking) = self.linking.current.take() {
            self.say_no(now, wall, &mut linking);
            self.leave_linking(now, linking);
        }
        self.settle(now, wall);
    }

    fn begin_linking(&mut self, now: Instant, wall: Timestamp, ticket: &Ticket, side: Side, confirmed: bool, to: (GroupId, Role)) {
        let topic = ticket.rendezvous();
        let read = topic.read_key();
        self.linking.spent.retain(|spent| spent.topic.id() != topic.id());
        self.keep_linking(now, wall, Linking { side, topic, until: now, found: None, confirmed, to });
        self.follow(now, read, Purpose::Link);
    }

    /// Goes on with `linking` until something comes, or its time is over.
    fn keep_linking(&mut self, now: Instant, wall: Timestamp, mut linking: Linking) {
        let expires = match &linking.side {
            Side::Inviter { inviter, .. } => inviter.expires(),
            Side::Acceptor { acceptor, .. } => acceptor.expires(),
        };
        linking.until = now + Duration::from_millis(expires.0.saturating_sub(wall.0));
        self.linking.current = Some(linking);
    }

    pub(crate) fn link_deadline(&self) -> Option<Instant> {
        let current = self.linking.current.as_ref().map(|linking| linking.until);
        current.into_iter().chain(self.linking.spent.iter().map(|spent| spent.until)).min()
    }

    /// Ends what has taken too long.
    pub(crate) fn expire_linking(&mut self, now: Instant, wall: Timestamp) {
        while let Some(at) = self.linking.spent.iter().position(|spent| spent.until <= now) {
            let spent = self.linking.spent.swap_remove(at);
            self.unfollow(now, spent.topic.id());
        }
        let Some(mut linking) = self.linking.current.take_if(|linking| linking.until <= now) else { return };
        match &mut linking.side {
            Side::Inviter { inviter, .. } => {
                let step = inviter.expire();
                self.on_step(now, wall, linking, step, Self::on_inviter_event);
            }
            Side::Acceptor { acceptor, .. } => {
                let step = acceptor.expire();
                self.on_step(now, wall, linking, step, Self::on_acceptor_event);
            }
        }
    }

    pub(crate) fn on_link_message(&mut self, now: Instant, wall: Timestamp, topic: TopicId, from: PeerId, message: &[u8]) {
        let Some(mut linking) = self.linking.current.take_if(|linking| linking.topic.id() == topic) else {
            return self.on_late_message(now, wall, topic, from, message);
        };
        match &mut linking.side {
            Side::Inviter { inviter, .. } => {
                let step = inviter.handle(wall, from, message);
                self.on_step(now, wall, linking, step, Self::on_inviter_event);
            }
            Side::Acceptor { acceptor, .. } => {
                let step = acceptor.handle(wall, from, message);
                self.on_step(now, wall, linking, step, Self::on_acceptor_event);
            }
        }
    }

    /// Someone comes to an invitation that is over.
    fn on_late_message(&mut self, now: Instant, wall: Timestamp, topic: TopicId, from: PeerId, message: &[u8]) {
        let Some(spent) = self.linking.spent.iter_mut().find(|spent| spent.topic.id() == topic) else { return };
        let before = spent.inviter.attempts();
        let step = spent.inviter.handle(wall, from, message);
        let (attempts, key) = (spent.inviter.attempts(), spent.topic.clone());
        if let LinkStep::Reply(reply) = step {
            // No message of linking comes near the largest possible.
            let _ = self.say(now, wall, &key, &reply, LINK_LIFETIME);
        }
        if attempts > before {
            self.stats.late_links += 1;
            self.events.push_back(Event::LinkAttempt { device: from, attempts });
        }
    }

    fn on_step<E>(
        &mut self,
        now: Instant,
        wall: Timestamp,
        linking: Linking,
        step: LinkStep<E>,
        on_event: fn(&mut Self, Instant, Timestamp, Linking, E),
    ) {
        match step {
            LinkStep::Reply(reply) => {
                self.say_link(now, wall, &linking, &reply);
                self.keep_linking(now, wall, linking);
            }
            LinkStep::Event(event) => on_event(self, now, wall, linking, event),
            LinkStep::Refused { reason, reply } => {
                if let Some(reply) = reply {
                    self.say_link(now, wall, &linking, &reply);
                }
                self.fail_linking(now, linking, reason.into());
            }
            LinkStep::Ignore => self.keep_linking(now, wall, linking),
        }
    }

    fn on_inviter_event(&mut self, now: Instant, wall: Timestamp, mut linking: Linking, event: InviterEvent) {
        let Side::Inviter { inviter, consent } = &mut linking.side else { return };
        match event {
            InviterEvent::Proven { device, name, words } => {
                let Some(membership) = self.account.membership(linking.to.0) else {
                    // It was left while the invitation was open.
                    return self.decline_linking(now, wall, linking, GroupError::NotAMember(self.id()).into());
                };
                let (joins, role) = linking.to;
                let (kind, group) = (membership.group.kind(), membership.group.name().to_owned());
                let invited_by = self.account.user().name_of(self.key.id()).unwrap_or_default().to_owned();
                let offer = inviter.offer(&Offer { joins, kind, role, group: group.clone(), inviter: invited_by }.encode());
                self.on_match(&mut linking, LinkMatch { device, name, joins, kind, group, role, words });
                if let Some(offer) = offer {
                    self.say_link(now, wall, &linking, &offer);
                }
                self.keep_linking(now, wall, linking);
            }
            InviterEvent::Answered(content) => {
                *consent = Some(content);
                self.go_on(now, wall, linking);
            }
        }
    }

    fn on_acceptor_event(&mut self, now: Instant, wall: Timestamp, mut linking: Linking, event: AcceptorEvent) {
        match event {
            AcceptorEvent::Offered { inviter, offer, words } => match Offer::decode(&offer) {
                Ok(Offer { joins, kind, role, group, inviter: name }) => {
                    if kind == Kind::User && self.account.user().members().count() > 1 {
                        return self.decline_linking(now, wall, linking, LinkFailure::Linked);
                    }
                    if kind == Kind::Group && self.account.groups.len() >= MAX_GROUPS {
                        return self.decline_linking(now, wall, linking, LinkFailure::TooManyGroups);
                    }
                    self.on_match(&mut linking, LinkMatch { device: inviter, name, joins, kind, group, role, words });
                    self.go_on(now, wall, linking);
                }
                Err(error) => self.decline_linking(now, wall, linking, LinkFailure::Invalid(error)),
            },
            AcceptorEvent::Done(content) => self.on_welcome(now, wall, linking, &content),
        }
    }

    fn on_match(&mut self, linking: &mut Linking, found: LinkMatch) {
        linking.found = Some(found.clone());
        self.events.push_back(Event::LinkMatched(found));
    }

    /// Sends what is next, if the other side has said what it takes and a person, if asked, has said yes.
    fn go_on(&mut self, now: Instant, wall: Timestamp, mut linking: Linking) {
        let (true, Some(found)) = (linking.confirmed, linking.found.clone()) else { return self.keep_linking(now, wall, linking) };
        match &mut linking.side {
            Side::Inviter { inviter, consent } => {
                let Some(consent) = consent.take() else { return self.keep_linking(now, wall, linking) };
                let welcome = match self.admit_newcomer(now, wall, &found, &consent) {
                    Ok(welcome) => welcome,
                    Err(failure) => return self.decline_linking(now, wall, linking, failure),
                };
                if let Some(welcome) = inviter.welcome(&welcome) {
                    self.say_link(now, wall, &linking, &welcome);
                }
                self.meet_members(now, wall, found.joins);
                self.end_linking(now, linking, found);
            }
            Side::Acceptor { acceptor, .. } => {
                let holder = self.holder_in(&found);
                let mut content = consent(&self.key, found.joins, holder).0.to_vec();
                content.extend_from_slice(&holder.0);
                if let Some(consent) = acceptor.answer(wall, &content) {
                    self.say_link(now, wall, &linking, &consent);
                }
                self.keep_linking(now, wall, linking);
            }
        }
    }

    /// Whose device this one is in what it joins.
    fn holder_in(&self, found: &LinkMatch) -> GroupId {
        if found.kind == Kind::User { GroupId::NONE } else { self.account.id() }
    }

    /// The other device knew the code and consents: it is a member now. Gives what it needs for that.
    fn admit_newcomer(
        &mut self,
        now: Instant,
        wall: Timestamp,
        found: &LinkMatch,
        content: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, LinkFailure> {
        let mut reader = Reader::new(content);
        let (Ok(consent), Ok(holder), true) = (reader.array(), reader.array(), reader.remaining() == 0) else {
            return Err(LinkFailure::Invalid(DecodeError::Range("consent")));
        };
        let (consent, holder) = (Signature(consent), GroupId(holder));
        let member = self.account.membership(found.joins).is_some_and(|membership| membership.group.contains(found.device));
        if !member {
            self.change_group(now, wall, found.joins, |group, key| {
                group.admit(key, found.device, &found.name, found.role, holder, consent, wall).map(drop)
            })?;
        }
        let membership = self.account.membership(found.joins).ok_or(GroupError::NotAMember(found.device))?;
        let grant = membership.keys.grant(&membership.group, &self.key, found.device, &[], &mut self.rng);
        let mut welcome = Writer::default();
        welcome.string(&membership.group.encode()).bytes(&grant.ok().flatten().unwrap_or_default());
        Ok(Zeroizing::new(welcome.finish()))
    }

    /// The inviting device took us in: into its user, which is ours from now on, or into a group.
    fn on_welcome(&mut self, now: Instant, wall: Timestamp, linking: Linking, content: &[u8]) {
        let Some(found) = linking.found.clone() else { return };
        match self.read_welcome(&found, content) {
            Ok(joined) => {
                match found.kind {
                    Kind::User => {
                        let account = Account { user: joined, groups: BTreeMap::new(), catalogue: self.account.catalogue.clone() };
                        self.replace_account(now, wall, account);
                    }
                    Kind::Group => {
                        self.account.groups.insert(found.joins, joined);
                        self.on_group_changed(now, wall, found.joins);
                        self.meet_members(now, wall, found.joins);
                    }
                }
                self.end_linking(now, linking, found);
            }
            Err(failure) => self.fail_linking(now, linking, failure),
        }
    }

    fn read_welcome(&self, found: &LinkMatch, content: &[u8]) -> Result<Membership, LinkFailure> {
        let mut reader = Reader::new(content);
        let statements = reader.string(MAX_ENCODED_GROUP, "group").map_err(LinkFailure::Invalid)?;
        let group = Group::decode(statements)?;
        if group.id() != found.joins || group.kind() != found.kind {
            return Err(LinkFailure::Invalid(DecodeError::Range("group")));
        }
        if let Some(missing) = [found.device, self.id()].into_iter().find(|device| !group.contains(*device)) {
            return Err(GroupError::NotAMember(missing).into());
        }
        let mut keys = Keyring::default();
        if keys.accept(&group, &self.key, reader.rest()).is_err() {
            return Err(LinkFailure::Invalid(DecodeError::Range("keys")));
        }
        Ok(Membership::new(group, keys))
    }

    /// Ends it from this side, and tells the other.
    fn decline_linking(&mut self, now: Instant, wall: Timestamp, mut linking: Linking, failure: LinkFailure) {
        self.say_no(now, wall, &mut linking);
        self.fail_linking(now, linking, failure);
    }

    fn say_no(&mut self, now: Instant, wall: Timestamp, linking: &mut Linking) {
        let said = match &mut linking.side {
            Side::Inviter { inviter, .. } => inviter.decline(),
            Side::Acceptor { acceptor, .. } => acceptor.decline(),
        };
        if let Some(said) = said {
            self.say_link(now, wall, linking, &said);
        }
    }

    fn fail_linking(&mut self, now: Instant, linking: Linking, failure: LinkFailure) {
        let attempts = linking.attempts();
        self.leave_linking(now, linking);
        self.events.push_back(Event::LinkFailed { failure, attempts });
    }

    fn end_linking(&mut self, now: Instant, linking: Linking, found: LinkMatch) {
        let LinkMatch { device, name, words, .. } = found;
        let others = linking.attempts().saturating_sub(1);
        self.leave_linking(now, linking);
        self.events.push_back(Event::Linked { device, name, words, others });
    }

    /// An invitation that is over still tells late comers so.
    fn leave_linking(&mut self, now: Instant, linking: Linking) {
        match linking.side {
            Side::Inviter { inviter, .. } => {
                if self.linking.spent.len() == MAX_SPENT {
                    let oldest = self.linking.spent.remove(0);
                    self.unfollow(now, oldest.topic.id());
                }
                self.linking.spent.push(Spent { inviter, topic: linking.topic, until: now + LATE });
            }
            Side::Acceptor { inviter, .. } => {
                if let Some(inviter) = inviter.filter(|inviter| !self.is_connected(*inviter) && !self.is_contact(*inviter)) {
                    self.agent.disconnect(now, inviter);
                }
                self.unfollow(now, linking.topic.id());
            }
        }
    }

    fn say_link(&mut self, now: Instant, wall: Timestamp, linking: &Linking, message: &[u8]) {
        // No message of linking comes near the largest possible. One that is lost, the caches bring back.
        let _ = self.say(now, wall, &linking.topic, message, LINK_LIFETIME);
    }
}

impl Linking {
    /// Devices that came to an invitation.
    fn attempts(&self) -> usize {
        match &self.side {
            Side::Inviter { inviter, .. } => inviter.attempts(),
            Side::Acceptor { .. } => 0,
        }
    }
}

/// What the inviter offers to join.
struct Offer {
    joins: GroupId,
    kind: Kind,
    role: Role,
    group: String,
    /// The name of the device that invites.
    inviter: String,
}

impl Offer {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.bytes(&self.joins.0).u8(self.kind as u8).u8(self.role as u8);
        writer.string(self.group.as_bytes()).string(self.inviter.as_bytes());
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let joins = GroupId(reader.array()?);
        let (kind, role) = (Kind::read(&mut reader)?, Role::read(&mut reader)?);
        let mut name = || reader.text(peers_crypto::MAX_NAME, "name").map(str::to_owned);
        let (group, inviter) = (name()?, name()?);
        reader.finish()?;
        if !is_name(&group) || !is_name(&inviter) {
            return Err(DecodeError::Range("name"));
        }
        Ok(Self { joins, kind, role, group, inviter })
    }
}

const BUSY: &str = "another linking is under way: finish it, or wait until it ends";
/// How long an invitation that is over still tells late comers so: as long as its messages live.
const LATE: Duration = Duration::from_secs(60 * LINK_LIFETIME as u64);
/// Invitations that are over and still answer.
const MAX_SPENT: usize = 16;
/// Minutes that messages of linking live.
const LINK_LIFETIME: u16 = 10;

#[cfg(test)]
mod tests {
    use peers_crypto::DeviceKey;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::stack::Config;

    const WALL: Timestamp = Timestamp(1_700_000_000_000);

    fn keys() -> [DeviceKey; 2] {
        [1, 2].map(|seed| DeviceKey::from_seed(&[seed; 32]))
    }

    fn stack(key: &DeviceKey, name: &str) -> Stack {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let now = Instant::now();
        let account = Account::create(WALL, key, name, &mut ChaCha20Rng::from_seed([3; 32])).unwrap();
        Stack::new(now, WALL, Config::default(), key.clone(), account, [4; 32])
    }

    fn found(device: PeerId, group: &Group) -> LinkMatch {
        let (joins, kind, group) = (group.id(), group.kind(), group.name().to_owned());
        LinkMatch { device, name: "other".into(), joins, kind, group, role: Role::Owner, words: String::new() }
    }

    /// The consent to join `group` as a device of it.
    fn consents(device: &DeviceKey, group: GroupId) -> Vec<u8> {
        [&consent(device, group, GroupId::NONE).0[..], &GroupId::NONE.0].concat()
    }

    #[test]
    fn a_welcome_to_another_user_or_without_us_is_refused() {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let now = Instant::now();
        let [laptop, phone] = keys();
        let (mut inviter, acceptor) = (stack(&laptop, "laptop"), stack(&phone, "phone"));
        let (alice, bob) = (inviter.account.id(), acceptor.account.id());
        let offered = found(laptop.id(), inviter.account.user());
        let welcome = |group: &Group| {
            let mut writer = Writer::default();
            writer.string(&group.encode());
            writer.finish()
        };
        let read = |welcome: &[u8]| acceptor.read_welcome(&offered, welcome).map(|joined| joined.group.id());
        assert_eq!(read(&welcome(inviter.account.user())), Err(GroupError::NotAMember(phone.id()).into()));
        assert_eq!(read(&welcome(acceptor.account.user())), Err(LinkFailure::Invalid(DecodeError::Range("group"))));
        assert!(read(&[9; 31]).is_err() && read(&[]).is_err());
        let newcomer = found(phone.id(), inviter.account.user());
        let mut admit = |consent: &[u8]| inviter.admit_newcomer(now, WALL, &newcomer, consent);
        assert!(admit(b"no signature").is_err());
        assert!(admit(&consents(&phone, bob)).is_err(), "it consents to be in another");
        assert!(admit(&consents(&laptop, alice)).is_err(), "another consents");
        let genuine = admit(&consents(&phone, alice)).unwrap();
        let joined = acceptor.read_welcome(&offered, &genuine).unwrap();
        assert_eq!(&joined.group, inviter.account.user());
        assert!(joined.current().is_some(), "with the key of the epoch");
        assert!(acceptor.read_welcome(&offered, &genuine[..genuine.len() - 1]).is_err());
    }

    #[test]
    fn a_present_device_that_is_linked_again_stays_as_it_is() {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let now = Instant::now();
        let [laptop, phone] = keys();
        let mut inviter = stack(&laptop, "laptop");
        let newcomer = found(phone.id(), inviter.account.user());
        let consent = consents(&phone, inviter.account.id());
        inviter.admit_newcomer(now, WALL, &newcomer, &consent).unwrap();
        let before = inviter.account.user().clone();
        inviter.admit_newcomer(now, WALL, &newcomer, &consent).unwrap();
        assert_eq!(*inviter.account.user(), before, "linked twice is linked once");
    }

    #[test]
    fn an_invitation_to_a_group_that_was_left_meanwhile_ends_and_says_so() {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let now = Instant::now();
        let [laptop, phone] = keys();
        let mut inviter = stack(&laptop, "laptop");
        let group = inviter.create_group(now, WALL, "Choir").unwrap();
        inviter.invite(now, WALL, Some((group, Role::Writer)), LinkOptions::default()).unwrap();
        inviter.account.groups.remove(&group);
        let linking = inviter.linking.current.take().unwrap();
        let proven = InviterEvent::Proven { device: phone.id(), name: "phone".into(), words: "a b c".into() };
        inviter.on_inviter_event(now, WALL, linking, proven);
        let left = LinkFailure::Group(GroupError::NotAMember(laptop.id()));
        let ended = |event| matches!(event, Event::LinkFailed { failure, .. } if failure == left);
        assert!(core::iter::from_fn(|| inviter.poll_event()).any(ended));
    }

    #[test]
    fn an_offer_reads_back_and_shows_no_control_characters() {
        let offer = |group: &str| {
            Offer { joins: GroupId([7; 32]), kind: Kind::Group, role: Role::Reader, group: group.into(), inviter: "laptop".into() }.encode()
        };
        let read = Offer::decode(&offer("Choir")).unwrap();
        assert_eq!(
            (read.joins, read.role, read.group.as_str(), read.inviter.as_str()),
            (GroupId([7; 32]), Role::Reader, "Choir", "laptop")
        );
        assert_eq!(Offer::decode(&offer("\u{1b}[2J")).err(), Some(DecodeError::Range("name")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_offer_that_encodes_to_them_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(offer) = Offer::decode(&bytes) {
                prop_assert_eq!(offer.encode(), bytes);
            }
        }
    }
}
