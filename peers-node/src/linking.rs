//! Linking a device: the conversation of [`peers_crypto`]'s inviter and acceptor, carried by the topic that the ticket names.

use std::time::{Duration, Instant};

use peers_crypto::{
    Acceptor, AcceptorEvent, Inviter, InviterEvent, LinkCode, LinkRefusal, LinkStep, LinkUri, Ticket, TopicKey, User, UserError, UserId,
    consent, is_name,
};
use peers_wire::{DecodeError, PeerId, Reader, Signature, Timestamp, TopicId, Writer};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::account::Account;
use crate::stack::{Event, Stack};
use crate::topics::Purpose;

/// Why two devices were not linked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkFailure {
    /// The code was wrong or has expired, nobody answered, or somebody said no.
    #[error(transparent)]
    Refused(#[from] LinkRefusal),
    /// The device cannot be added to the user.
    #[error("the device cannot be added: {0}")]
    User(#[from] UserError),
    /// The inviting device, which knows the code, sent what makes no sense.
    #[error("the other device sent what makes no sense ({0}): update both and try again")]
    Invalid(DecodeError),
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
    /// The user that is joined: its id and name.
    pub user: (UserId, String),
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
    /// Begins an invitation and gives its ticket, good for ten minutes and one guess. [`Event::LinkMatched`] shows who took it, [`Event::Linked`] or
    /// [`Event::LinkFailed`] ends it.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn invite(&mut self, now: Instant, wall: Timestamp, options: LinkOptions) -> Result<Ticket, &'static str> {
        if self.linking.current.is_some() {
            return Err(BUSY);
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
        self.begin_linking(now, wall, &ticket, Side::Inviter { inviter, consent: None }, !options.confirm);
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
        if self.account.user().devices().count() > 1 {
            return Err("this device is linked to others already: link the other one from here, or start with an empty PEERS_HOME");
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
        self.begin_linking(now, wall, ticket, side, !options.confirm);
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

    fn begin_linking(&mut self, now: Instant, wall: Timestamp, ticket: &Ticket, side: Side, confirmed: bool) {
        let topic = ticket.rendezvous();
        let read = topic.read_key();
        self.linking.spent.retain(|spent| spent.topic.id() != topic.id());
        self.keep_linking(now, wall, Linking { side, topic, until: now, found: None, confirmed });
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
                let user = (self.account.id(), self.account.user().name().to_owned());
                let offer =
                    Offer { user: user.clone(), inviter: self.account.user().name_of(self.key.id()).unwrap_or_default().to_owned() };
                let offer = inviter.offer(&offer.encode());
                self.on_match(&mut linking, LinkMatch { device, name, user, words });
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
                Ok(offer) => {
                    self.on_match(&mut linking, LinkMatch { device: inviter, name: offer.inviter, user: offer.user, words });
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
                let before = self.device_ids();
                if let Err(failure) = self.add_device(wall, &found, &consent) {
                    return self.decline_linking(now, wall, linking, failure);
                }
                let mut content = Zeroizing::new(self.account.secret.to_vec());
                content.extend_from_slice(&self.account.user.encode());
                if let Some(welcome) = inviter.welcome(&content) {
                    self.say_link(now, wall, &linking, &welcome);
                }
                self.on_account_changed(now, wall);
                self.meet_devices(now, wall, &before);
                self.end_linking(now, linking, found);
            }
            Side::Acceptor { acceptor, .. } => {
                if let Some(consent) = acceptor.answer(wall, &consent(&self.key, found.device).0) {
                    self.say_link(now, wall, &linking, &consent);
                }
                self.keep_linking(now, wall, linking);
            }
        }
    }

    /// The other device knew the code and consents: it becomes the user's.
    fn add_device(&mut self, wall: Timestamp, found: &LinkMatch, consent: &[u8]) -> Result<(), LinkFailure> {
        let consent = Signature(consent.try_into().map_err(|_| LinkFailure::Invalid(DecodeError::Range("consent")))?);
        if !self.account.user.contains(found.device) {
            self.account.user.add_device(&self.key, found.device, &found.name, consent, wall)?;
        }
        Ok(())
    }

    /// The inviting device took us in: its user is ours from now on.
    fn on_welcome(&mut self, now: Instant, wall: Timestamp, linking: Linking, content: &[u8]) {
        let Some(found) = linking.found.clone() else { return };
        match self.read_welcome(&found, content) {
            Ok(account) => {
                self.replace_account(now, wall, account);
                self.end_linking(now, linking, found);
            }
            Err(failure) => self.fail_linking(now, linking, failure),
        }
    }

    fn read_welcome(&self, found: &LinkMatch, content: &[u8]) -> Result<Account, LinkFailure> {
        let (secret, statements) = content.split_first_chunk::<32>().ok_or(LinkFailure::Invalid(DecodeError::Truncated))?;
        let user = User::decode(statements)?;
        if user.id() != found.user.0 {
            return Err(LinkFailure::Invalid(DecodeError::Range("user")));
        }
        match [found.device, self.id()].into_iter().find(|device| !user.contains(*device)) {
            Some(missing) => Err(UserError::NotADevice(missing).into()),
            None => Ok(Account { user, secret: Zeroizing::new(*secret), catalogue: self.account.catalogue.clone() }),
        }
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

/// What the inviter offers: the user to join.
struct Offer {
    user: (UserId, String),
    /// The name of the device that invites.
    inviter: String,
}

impl Offer {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.bytes(&self.user.0.0).string(self.user.1.as_bytes()).string(self.inviter.as_bytes());
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let id = UserId(reader.array()?);
        let mut name = || reader.text(peers_crypto::MAX_NAME, "name").map(str::to_owned);
        let (user, inviter) = (name()?, name()?);
        reader.finish()?;
        if !is_name(&user) || !is_name(&inviter) {
            return Err(DecodeError::Range("name"));
        }
        Ok(Self { user: (id, user), inviter })
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

    use super::*;
    use crate::stack::Config;

    const WALL: Timestamp = Timestamp(1_700_000_000_000);

    fn keys() -> [DeviceKey; 2] {
        [1, 2].map(|seed| DeviceKey::from_seed(&[seed; 32]))
    }

    fn stack(key: &DeviceKey, name: &str) -> Stack {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let now = Instant::now();
        let account = Account::create(WALL, key, name, [3; 32]).unwrap();
        Stack::new(now, WALL, Config::default(), key.clone(), account, [4; 32])
    }

    fn found(device: PeerId, user: &User) -> LinkMatch {
        LinkMatch { device, name: "other".into(), user: (user.id(), user.name().into()), words: String::new() }
    }

    #[test]
    fn a_welcome_to_another_user_or_without_us_is_refused() {
        let [laptop, phone] = keys();
        let (mut inviter, acceptor) = (stack(&laptop, "laptop"), stack(&phone, "phone"));
        let offered = found(laptop.id(), inviter.account.user());
        let welcome = |user: &User| [&[9; 32][..], &user.encode()].concat();
        let without_us = acceptor.read_welcome(&offered, &welcome(inviter.account.user())).map(|account| account.id());
        assert_eq!(without_us, Err(UserError::NotADevice(phone.id()).into()));
        let another = acceptor.read_welcome(&offered, &welcome(acceptor.account.user())).map(|account| account.id());
        assert_eq!(another, Err(LinkFailure::Invalid(DecodeError::Range("user"))));
        assert!(acceptor.read_welcome(&offered, &[9; 31]).is_err() && acceptor.read_welcome(&offered, &[9; 40]).is_err());
        let newcomer = found(phone.id(), inviter.account.user());
        assert!(inviter.add_device(WALL, &newcomer, b"no signature").is_err());
        assert!(inviter.add_device(WALL, &newcomer, &consent(&phone, phone.id()).0).is_err(), "it consents to another inviter");
        inviter.add_device(WALL, &newcomer, &consent(&phone, laptop.id()).0).unwrap();
        let account = acceptor.read_welcome(&offered, &welcome(inviter.account.user())).unwrap();
        assert_eq!((account.user(), *account.secret), (inviter.account.user(), [9; 32]));
    }

    #[test]
    fn a_revoked_device_is_not_added_again_and_a_present_one_stays() {
        let [laptop, phone] = keys();
        let mut inviter = stack(&laptop, "laptop");
        let newcomer = found(phone.id(), inviter.account.user());
        let consent = consent(&phone, laptop.id()).0;
        inviter.add_device(WALL, &newcomer, &consent).unwrap();
        let before = inviter.account.user().clone();
        inviter.add_device(WALL, &newcomer, &consent).unwrap();
        assert_eq!(*inviter.account.user(), before, "linked twice is linked once");
        inviter.account.user.revoke_device(&laptop, phone.id(), 0, WALL).unwrap();
        assert_eq!(inviter.add_device(WALL, &newcomer, &consent), Err(UserError::Known(phone.id()).into()));
    }

    #[test]
    fn an_offer_reads_back_and_shows_no_control_characters() {
        let offer = Offer { user: (UserId([7; 32]), "Alice".into()), inviter: "laptop".into() };
        let read = Offer::decode(&offer.encode()).unwrap();
        assert_eq!((read.user, read.inviter), (offer.user, offer.inviter));
        let evil = Offer { user: (UserId([7; 32]), "\u{1b}[2J".into()), inviter: "laptop".into() };
        assert_eq!(Offer::decode(&evil.encode()).err(), Some(DecodeError::Range("name")));
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
