//! The side of linking that shows the code or link.

use core::fmt;
use std::collections::BTreeMap;

use peers_wire::{PeerId, Timestamp};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::cpace::{self, Said};
use crate::keys::{DeviceKey, derive};
use crate::link::{CONFIRMATION_LIFETIME, INVITATION_LIFETIME, LinkRefusal, LinkStep, MAX_ANSWERED_HELLOS, MAX_REPEATS};
use crate::link_message::{
    CHANNEL, CONSENT, Commitments, Keys, LinkSession, Message, NAME, OFFER, PROOF, Partner, Reason, WELCOME, commitment,
};
use crate::sodium;
use crate::statement::is_name;
use crate::ticket::Ticket;

/// The side that shows the code or link.
///
/// Once it is over, well or not, whoever still comes with the code is refused and counted, as long as the caller passes messages on.
pub struct Inviter {
    password: Zeroizing<Vec<u8>>,
    me: PeerId,
    expires: Timestamp,
    seed: Zeroizing<[u8; 32]>,
    heard: BTreeMap<(PeerId, LinkSession), Heard>,
    phase: Phase,
}

/// A hello: all that is kept of it, as our scalar is derived again for the proof.
struct Heard {
    commitments: Commitments,
    repeats: u8,
}

enum Phase {
    /// Hellos are answered; the first proof is the one guess.
    Open,
    /// A device knew the code.
    Proven { partner: Partner, stage: Stage },
    /// Ended without success; with the attempt `whom`, if with any.
    Over { reason: Reason, whom: Option<(PeerId, LinkSession)> },
}

enum Stage {
    /// The caller is to give the offer.
    Offer,
    /// The device is to consent.
    Consent {
        offer: Vec<u8>,
    },
    /// The caller is to give the welcome.
    Welcome,
    Done {
        welcome: Vec<u8>,
    },
}

/// The caller's turn.
#[derive(Debug, PartialEq, Eq)]
pub enum InviterEvent {
    /// A device knew the code: show the words, and give [`Inviter::offer`].
    Proven {
        /// Its key.
        device: PeerId,
        /// Its name.
        name: String,
        /// Three words that both devices show: equal, if nobody is between them.
        words: String,
    },
    /// The device consents, with these bytes of its caller: give [`Inviter::welcome`], or [`Inviter::decline`].
    Answered(Vec<u8>),
}

impl Inviter {
    /// Begins an invitation by `me`, at `wall`; subscribe to the ticket's rendezvous topic.
    pub fn new(ticket: &Ticket, me: &DeviceKey, wall: Timestamp, rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let (password, expires) = (ticket.password(), wall.plus(INVITATION_LIFETIME));
        Self { password, me: me.id(), expires, seed, heard: BTreeMap::new(), phase: Phase::Open }
    }

    /// Takes a message that `from` wrote (proven) on the rendezvous topic; some 200 us for a hello or a proof.
    ///
    /// `Refused` with [`LinkRefusal::WrongCode`] means that someone tried: show it.
    pub fn handle(&mut self, wall: Timestamp, from: PeerId, message: &[u8]) -> LinkStep<InviterEvent> {
        if from == self.me {
            return LinkStep::Ignore;
        }
        if wall >= self.expires && self.is_pending() {
            return self.expire();
        }
        match Message::decode(message) {
            Ok(Message::Hello { session, commitments }) => self.on_hello(from, session, commitments),
            Ok(Message::Proof { session, share, inviter, tag, sealed }) if inviter == self.me => {
                self.on_proof(wall, from, session, &share, &tag, sealed)
            }
            Ok(Message::Consent { session, sealed }) => self.on_consent(wall, from, &session, sealed),
            Ok(Message::Refusal { session, reason }) => self.on_refusal(from, &session, reason),
            _ => LinkStep::Ignore,
        }
    }

    fn on_hello(&mut self, from: PeerId, session: LinkSession, commitments: Commitments) -> LinkStep<InviterEvent> {
        let (open, full) = (matches!(self.phase, Phase::Open), self.heard.len() == MAX_ANSWERED_HELLOS);
        match self.heard.get(&(from, session)) {
            Some(heard) if heard.commitments != commitments => return LinkStep::Ignore,
            Some(_) => {}
            None if full && open => {
                self.phase = Phase::Over { reason: Reason::Spent, whom: None };
                return LinkStep::Refused { reason: LinkRefusal::Flooded, reply: None };
            }
            None if full => return LinkStep::Ignore,
            None => drop(self.heard.insert((from, session), Heard { commitments, repeats: 0 })),
        }
        if !open {
            return self.refuse(from, session);
        }
        let Some((_, share)) = self.own_share(from, &session, &commitments) else { return LinkStep::Ignore };
        self.reply(from, session, Message::Answer { session, share }.encode())
    }

    fn on_proof(
        &mut self,
        wall: Timestamp,
        from: PeerId,
        session: LinkSession,
        share: &[u8; 32],
        tag: &[u8; 32],
        sealed: &[u8],
    ) -> LinkStep<InviterEvent> {
        let Some(heard) = self.heard.get(&(from, session)).filter(|heard| heard.commitments.contains(&commitment(&session, share))) else {
            return LinkStep::Ignore;
        };
        let commitments = heard.commitments;
        match &self.phase {
            Phase::Open => {}
            Phase::Proven { partner, stage: Stage::Consent { offer } } if partner.is(from, &session) => {
                let offer = offer.clone();
                return self.reply(from, session, offer);
            }
            _ => return self.refuse(from, session),
        }
        let Some(keys) = self.keys(from, &session, &commitments, share) else { return LinkStep::Ignore };
        let name = sodium::equal(tag, &keys.tag(PROOF)).then(|| keys.open(NAME, sealed)).flatten();
        let name = name.and_then(|name| String::from_utf8(name.to_vec()).ok()).filter(|name| is_name(name));
        let Some(name) = name else {
            let reply = self.over(Reason::Wrong, Some((from, session)));
            return LinkStep::Refused { reason: LinkRefusal::WrongCode, reply };
        };
        self.expires = wall.plus(CONFIRMATION_LIFETIME);
        let words = keys.words();
        self.phase = Phase::Proven { partner: Partner { peer: from, session, keys }, stage: Stage::Offer };
        LinkStep::Event(InviterEvent::Proven { device: from, name, words })
    }

    fn on_consent(&mut self, wall: Timestamp, from: PeerId, session: &LinkSession, sealed: &[u8]) -> LinkStep<InviterEvent> {
        let Phase::Proven { partner, stage } = &mut self.phase else { return LinkStep::Ignore };
        if !partner.is(from, session) {
            return LinkStep::Ignore;
        }
        match stage {
            Stage::Consent { .. } => {
                let Some(content) = partner.keys.open(CONSENT, sealed) else { return LinkStep::Ignore };
                *stage = Stage::Welcome;
                self.expires = wall.plus(CONFIRMATION_LIFETIME);
                LinkStep::Event(InviterEvent::Answered(content.to_vec()))
            }
            Stage::Done { welcome } => {
                let welcome = welcome.clone();
                self.reply(from, *session, welcome)
            }
            Stage::Offer | Stage::Welcome => LinkStep::Ignore,
        }
    }

    fn on_refusal(&mut self, from: PeerId, session: &LinkSession, reason: Reason) -> LinkStep<InviterEvent> {
        match &self.phase {
            Phase::Proven { partner, stage } if partner.is(from, session) && !matches!(stage, Stage::Done { .. }) => {
                self.over(reason, Some((from, *session)));
                LinkStep::Refused { reason: reason.into(), reply: None }
            }
            _ => LinkStep::Ignore,
        }
    }

    /// Offers the device that proved itself what it is to join: publish what this returns. `None` if it is not the time for it.
    pub fn offer(&mut self, content: &[u8]) -> Option<Vec<u8>> {
        let Phase::Proven { partner, stage: stage @ Stage::Offer } = &mut self.phase else { return None };
        let (session, sealed) = (partner.session, partner.keys.seal(OFFER, content));
        let offer = Message::Offer { session, tag: partner.keys.tag(OFFER), sealed: &sealed }.encode();
        *stage = Stage::Consent { offer: offer.clone() };
        Some(offer)
    }

    /// Ends it well, with what the device needs: publish what this returns. `None` if it is not the time for it.
    pub fn welcome(&mut self, content: &[u8]) -> Option<Vec<u8>> {
        let Phase::Proven { partner, stage: stage @ Stage::Welcome } = &mut self.phase else { return None };
        let welcome = Message::Welcome { session: partner.session, sealed: &partner.keys.seal(WELCOME, content) }.encode();
        *stage = Stage::Done { welcome: welcome.clone() };
        Some(welcome)
    }

    /// Ends it without success, as a person wants: publish what this returns, if anything. Nothing if it is over.
    pub fn decline(&mut self) -> Option<Vec<u8>> {
        if self.is_pending() { self.over(Reason::Declined, self.partner()) } else { None }
    }

    /// Ends it, as [`Inviter::expires`] has come; nothing if it is over.
    pub fn expire(&mut self) -> LinkStep<InviterEvent> {
        if !self.is_pending() {
            return LinkStep::Ignore;
        }
        LinkStep::Refused { reason: LinkRefusal::Expired, reply: self.over(Reason::Expired, self.partner()) }
    }

    /// When to call [`Inviter::expire`]; moves as the conversation goes on.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }

    /// It is neither done nor over.
    pub const fn is_pending(&self) -> bool {
        !matches!(self.phase, Phase::Over { .. } | Phase::Proven { stage: Stage::Done { .. }, .. })
    }

    /// How many attempts to use the code were seen, the successful one included; at most [`MAX_ANSWERED_HELLOS`].
    pub fn attempts(&self) -> usize {
        self.heard.len()
    }

    fn partner(&self) -> Option<(PeerId, LinkSession)> {
        match &self.phase {
            Phase::Proven { partner, .. } => Some((partner.peer, partner.session)),
            Phase::Open | Phase::Over { .. } => None,
        }
    }

    /// Ends it; gives the refusal for the attempt `whom`.
    fn over(&mut self, reason: Reason, whom: Option<(PeerId, LinkSession)>) -> Option<Vec<u8>> {
        self.phase = Phase::Over { reason, whom };
        whom.map(|(_, session)| Message::Refusal { session, reason }.encode())
    }

    /// Tells whoever comes with the code when it is taken or over, unless it is the one who took it.
    fn refuse(&mut self, from: PeerId, session: LinkSession) -> LinkStep<InviterEvent> {
        let reason = match &self.phase {
            Phase::Over { reason, whom } if *whom == Some((from, session)) => *reason,
            Phase::Over { reason: Reason::Expired, .. } => Reason::Expired,
            Phase::Proven { partner, .. } if partner.is(from, &session) => return LinkStep::Ignore,
            _ => Reason::Spent,
        };
        self.reply(from, session, Message::Refusal { session, reason }.encode())
    }

    /// Says something to an attempt, unless it asks for too much.
    fn reply(&mut self, from: PeerId, session: LinkSession, message: Vec<u8>) -> LinkStep<InviterEvent> {
        match self.heard.get_mut(&(from, session)) {
            Some(heard) if heard.repeats < MAX_REPEATS => {
                heard.repeats += 1;
                LinkStep::Reply(message)
            }
            _ => LinkStep::Ignore,
        }
    }

    /// Our scalar and share for an attempt, derived anew each time.
    fn own_share(&self, from: PeerId, session: &LinkSession, commitments: &Commitments) -> Option<(Zeroizing<[u8; 32]>, [u8; 32])> {
        let mut uniform = Zeroizing::new([0; 64]);
        for (half, label) in uniform.chunks_mut(32).zip(["peers link scalar 1", "peers link scalar 2"]) {
            half.copy_from_slice(&derive(&self.seed, label, &[session, commitments.as_flattened(), &from.0]));
        }
        let scalar = cpace::scalar_of(&uniform);
        let share = cpace::share(&scalar, &self.password, CHANNEL, session)?;
        Some((scalar, share))
    }

    /// The keys of an attempt; `None` if `theirs` is no share.
    fn keys(&self, from: PeerId, session: &LinkSession, commitments: &Commitments, theirs: &[u8; 32]) -> Option<Keys> {
        let (scalar, mine) = self.own_share(from, session, commitments)?;
        let initiator = Said { share: theirs, data: &from.0 };
        let key = cpace::shared_key(&scalar, theirs, session, initiator, Said { share: &mine, data: &self.me.0 })?;
        Some(Keys::new(&key))
    }
}

impl fmt::Debug for Inviter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inviter").field("expires", &self.expires).field("pending", &self.is_pending()).finish_non_exhaustive()
    }
}
