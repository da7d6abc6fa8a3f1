//! Linking a device by a short code: the conversation of [`peers_crypto`]'s inviter and acceptor, carried by the topic that the code's first word names.

use std::time::{Duration, Instant};

use peers_crypto::{Acceptor, INVITATION_LIFETIME, Inviter, LinkCode, LinkRefusal, LinkStep, Newcomer, TopicKey, UserError, Welcome};
use peers_wire::{PeerId, Timestamp};
use thiserror::Error;

use crate::account::Account;
use crate::stack::{Event, Stack};
use crate::topics::Purpose;

/// Why two devices were not linked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkFailure {
    /// The code was wrong or has expired, or what came with it is not valid.
    #[error(transparent)]
    Refused(#[from] LinkRefusal),
    /// Nobody answered.
    #[error(
        "no device answers to this code: check that the other device still shows it, and that both have a peer in common or are on one network"
    )]
    Nobody,
    /// The device cannot be added to the user.
    #[error("the device cannot be added: {0}")]
    User(#[from] UserError),
}

#[derive(Debug)]
pub(crate) struct Linking {
    side: Side,
    topic: TopicKey,
    until: Instant,
}

#[derive(Debug)]
enum Side {
    Inviter(Inviter),
    Acceptor { acceptor: Box<Acceptor>, answered: bool },
}

impl Stack {
    /// Begins an invitation and gives its code, good for ten minutes and one guess; [`Event::Linked`] or [`Event::LinkFailed`] ends it.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn invite(&mut self, now: Instant, wall: Timestamp) -> Result<LinkCode, &'static str> {
        if self.linking.is_some() {
            return Err(BUSY);
        }
        let code = LinkCode::generate(&mut self.rng);
        let inviter = Inviter::new(&code, &self.key, wall, &mut self.rng);
        self.begin_linking(now, wall, &code, Side::Inviter(inviter), Duration::from_millis(INVITATION_LIFETIME));
        Ok(code)
    }

    /// Makes this device, called `name`, one of the user whose device shows `code`; [`Event::Linked`] or [`Event::LinkFailed`] ends it.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn accept(&mut self, now: Instant, wall: Timestamp, code: &LinkCode, name: &str) -> Result<(), &'static str> {
        if self.linking.is_some() {
            return Err(BUSY);
        }
        if self.account.user().devices().count() > 1 {
            return Err("this device is linked to others already: link the other one from here, or start with an empty PEERS_HOME");
        }
        let (acceptor, hello) =
            Acceptor::new(code, &self.key, name, wall, &mut self.rng).map_err(|_| "the name of this device is empty or too long")?;
        let topic = code.rendezvous();
        self.begin_linking(now, wall, code, Side::Acceptor { acceptor: Box::new(acceptor), answered: false }, PATIENCE);
        self.say_link(now, wall, &topic, &hello);
        self.settle(now, wall);
        Ok(())
    }

    /// Ends a linking that nobody waits for any more: its code is void.
    pub fn cancel_linking(&mut self, now: Instant, wall: Timestamp) {
        if let Some(linking) = self.linking.take() {
            self.unfollow(now, linking.topic.id());
        }
        self.settle(now, wall);
    }

    fn begin_linking(&mut self, now: Instant, wall: Timestamp, code: &LinkCode, side: Side, patience: Duration) {
        let topic = code.rendezvous();
        self.linking = Some(Linking { side, topic: topic.clone(), until: now + patience });
        self.follow(now, topic.read_key(), Purpose::Link);
        self.settle(now, wall);
    }

    pub(crate) fn link_deadline(&self) -> Option<Instant> {
        self.linking.as_ref().map(|linking| linking.until)
    }

    /// Ends a linking that has taken too long.
    pub(crate) fn expire_linking(&mut self, now: Instant, _wall: Timestamp) {
        let failure = match &self.linking {
            Some(Linking { until, .. }) if *until > now => return,
            Some(Linking { side: Side::Acceptor { answered: false, .. }, .. }) => LinkFailure::Nobody,
            Some(_) => LinkFailure::Refused(LinkRefusal::Expired),
            None => return,
        };
        self.end_linking(now, Event::LinkFailed(failure));
    }

    pub(crate) fn on_link_message(&mut self, now: Instant, wall: Timestamp, from: PeerId, message: &[u8]) {
        let Some(linking) = &mut self.linking else { return };
        let topic = linking.topic.clone();
        match &mut linking.side {
            Side::Inviter(inviter) => {
                let step = inviter.handle(wall, from, message);
                self.on_step(now, wall, &topic, step, Self::on_newcomer);
            }
            Side::Acceptor { acceptor, answered } => {
                let step = acceptor.handle(wall, from, message);
                *answered |= matches!(step, LinkStep::Reply(_));
                self.on_step(now, wall, &topic, step, Self::on_welcome);
            }
        }
    }

    fn on_step<T>(
        &mut self,
        now: Instant,
        wall: Timestamp,
        topic: &TopicKey,
        step: LinkStep<T>,
        done: fn(&mut Self, Instant, Timestamp, &TopicKey, T),
    ) {
        match step {
            LinkStep::Reply(reply) => self.say_link(now, wall, topic, &reply),
            LinkStep::Done(outcome) => done(self, now, wall, topic, outcome),
            LinkStep::Refused { reason, reply } => {
                if let Some(reply) = reply {
                    self.say_link(now, wall, topic, &reply);
                }
                self.end_linking(now, Event::LinkFailed(reason.into()));
            }
            LinkStep::Ignore => {}
        }
    }

    /// The other device knew the code: it becomes the user's.
    fn on_newcomer(&mut self, now: Instant, wall: Timestamp, topic: &TopicKey, newcomer: Newcomer) {
        let before = self.device_ids();
        let secret = self.account.secret.clone();
        let welcome = match newcomer.welcome(&self.key, &mut self.account.user, &secret, wall) {
            Ok(welcome) => welcome,
            Err(error) => return self.end_linking(now, Event::LinkFailed(error.into())),
        };
        self.say_link(now, wall, topic, &welcome);
        self.on_account_changed(now, wall);
        self.meet_devices(now, wall, &before);
        self.end_linking(now, Event::Linked { device: newcomer.device, name: newcomer.name, words: newcomer.words });
    }

    /// The inviting device took us in: its user is ours from now on.
    fn on_welcome(&mut self, now: Instant, wall: Timestamp, _topic: &TopicKey, welcome: Welcome) {
        let name = welcome.user.name_of(welcome.inviter).unwrap_or_default().to_owned();
        let account = Account { user: welcome.user, secret: welcome.secret, catalogue: self.account.catalogue.clone() };
        self.replace_account(now, wall, account);
        self.end_linking(now, Event::Linked { device: welcome.inviter, name, words: welcome.words });
    }

    fn end_linking(&mut self, now: Instant, outcome: Event) {
        if let Some(linking) = self.linking.take() {
            self.unfollow(now, linking.topic.id());
        }
        self.events.push_back(outcome);
    }

    fn say_link(&mut self, now: Instant, wall: Timestamp, topic: &TopicKey, message: &[u8]) {
        // No message of linking comes near the largest possible.
        let _ = self.say(now, wall, topic, message, LINK_LIFETIME);
    }
}

const BUSY: &str = "another linking is under way: finish it, or wait until it ends";
/// How long an acceptor waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// Minutes that messages of linking live.
const LINK_LIFETIME: u16 = 10;
