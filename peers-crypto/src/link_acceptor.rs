//! The side of linking that was given the code or link.

use core::fmt;

use peers_wire::{PeerId, Timestamp};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::cpace::{self, Said};
use crate::group::GroupError;
use crate::keys::DeviceKey;
use crate::link::{ACCEPTOR_PATIENCE, CONFIRMATION_LIFETIME, HEARSAY_PATIENCE, LinkRefusal, LinkStep, MAX_REPEATS, MAX_TRIED_INVITERS};
use crate::link_message::{CHANNEL, CONSENT, Keys, LinkSession, Message, NAME, OFFER, PROOF, Partner, Reason, WELCOME, commitment};
use crate::sodium;
use crate::statement::is_name;
use crate::ticket::Ticket;

/// The side that was given the code or link.
pub struct Acceptor {
    me: PeerId,
    name: String,
    /// The only inviter, if the ticket names one.
    expected: Option<PeerId>,
    expires: Timestamp,
    session: LinkSession,
    /// One for each inviter to try: a proof shows the share to everybody, and who knows it before it answers can search for an answer that gives the words it wants.
    shares: [Share; MAX_TRIED_INVITERS],
    phase: Phase,
}

/// What the acceptor says to one inviter, and the secret behind it.
struct Share {
    scalar: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Share {
    fn new(password: &[u8], session: &LinkSession, rng: &mut impl CryptoRng) -> Self {
        loop {
            let scalar = cpace::scalar(rng);
            if let Some(public) = cpace::share(&scalar, password, CHANNEL, session) {
                return Self { scalar, public };
            }
        }
    }
}

enum Phase {
    Seeking {
        tried: Vec<Tried>,
        /// What somebody, who may be anybody, says of the invitation.
        hearsay: Option<Reason>,
    },
    /// The caller is to answer.
    Offered(Partner),
    /// The inviter is to welcome us.
    Answered {
        partner: Partner,
        consent: Vec<u8>,
        repeats: u8,
    },
    Over,
}

/// An inviter that the acceptor sent its proof to.
struct Tried {
    partner: Partner,
    share: [u8; 32],
    proof: Vec<u8>,
    repeats: u8,
    refused: Option<Reason>,
}

/// The caller's turn.
#[derive(PartialEq, Eq)]
pub enum AcceptorEvent {
    /// An inviter knows the code: show the words and what is offered, then give [`Acceptor::answer`], or [`Acceptor::decline`].
    Offered {
        /// The device that invited.
        inviter: PeerId,
        /// What its caller gave.
        offer: Vec<u8>,
        /// Three words that both devices show: equal, if nobody is between them.
        words: String,
    },
    /// It is done, with what the inviter's caller gave.
    Done(Zeroizing<Vec<u8>>),
}

impl Acceptor {
    /// Begins to accept an invitation at `wall`: the hello, to be published on the ticket's rendezvous topic.
    ///
    /// # Errors
    /// [`GroupError::Name`] if `name` is no name for a device.
    pub fn new(
        ticket: &Ticket,
        me: &DeviceKey,
        name: &str,
        wall: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), GroupError> {
        if !is_name(name) {
            return Err(GroupError::Name);
        }
        let password = ticket.password();
        let mut session = [0; size_of::<LinkSession>()];
        rng.fill_bytes(&mut session);
        let shares = core::array::from_fn(|_| Share::new(&password, &session, rng));
        let (name, expected, expires) = (name.to_owned(), ticket.inviter(), wall.plus(ACCEPTOR_PATIENCE));
        let hello = Message::Hello { session, commitments: shares.each_ref().map(|share| commitment(&session, &share.public)) }.encode();
        let phase = Phase::Seeking { tried: Vec::new(), hearsay: None };
        Ok((Self { me: me.id(), name, expected, expires, session, shares, phase }, hello))
    }

    /// Takes a message that `from` wrote (proven) on the rendezvous topic; some 50 us for an answer.
    pub fn handle(&mut self, wall: Timestamp, from: PeerId, message: &[u8]) -> LinkStep<AcceptorEvent> {
        if !self.is_pending() || from == self.me || self.expected.is_some_and(|inviter| inviter != from) {
            return LinkStep::Ignore;
        }
        if wall >= self.expires {
            return self.expire();
        }
        match Message::decode(message) {
            Ok(Message::Answer { session, share }) if session == self.session => self.on_answer(wall, from, share),
            Ok(Message::Offer { session, tag, sealed }) if session == self.session => self.on_offer(wall, from, &tag, sealed),
            Ok(Message::Welcome { session, sealed }) if session == self.session => self.on_welcome(from, sealed),
            Ok(Message::Refusal { session, reason }) if session == self.session => self.on_refusal(wall, from, reason),
            _ => LinkStep::Ignore,
        }
    }

    fn on_answer(&mut self, wall: Timestamp, from: PeerId, theirs: [u8; 32]) -> LinkStep<AcceptorEvent> {
        let Phase::Seeking { tried, .. } = &mut self.phase else { return LinkStep::Ignore };
        if let Some(known) = tried.iter_mut().find(|tried| tried.partner.peer == from) {
            let again = known.share == theirs && known.refused.is_none() && known.repeats < MAX_REPEATS;
            known.repeats += u8::from(again);
            return if again { LinkStep::Reply(known.proof.clone()) } else { LinkStep::Ignore };
        }
        let Some(Share { scalar, public }) = self.shares.get(tried.len()) else { return LinkStep::Ignore };
        let (session, initiator, responder) =
            (self.session, Said { share: public, data: &self.me.0 }, Said { share: &theirs, data: &from.0 });
        let Some(key) = cpace::shared_key(scalar, &theirs, &session, initiator, responder) else { return LinkStep::Ignore };
        let keys = Keys::new(&key);
        let sealed = keys.seal(NAME, self.name.as_bytes());
        let proof = Message::Proof { session, share: *public, inviter: from, tag: keys.tag(PROOF), sealed: &sealed }.encode();
        let partner = Partner { peer: from, session, keys };
        tried.push(Tried { partner, share: theirs, proof: proof.clone(), repeats: 0, refused: None });
        self.expires = self.expires.max(wall.plus(ACCEPTOR_PATIENCE));
        LinkStep::Reply(proof)
    }

    fn on_offer(&mut self, wall: Timestamp, from: PeerId, tag: &[u8; 32], sealed: &[u8]) -> LinkStep<AcceptorEvent> {
        match &mut self.phase {
            Phase::Seeking { tried, .. } => {
                let Some(at) = tried.iter().position(|tried| tried.partner.peer == from) else { return LinkStep::Ignore };
                let keys = &tried[at].partner.keys;
                if !sodium::equal(tag, &keys.tag(OFFER)) {
                    return LinkStep::Ignore;
                }
                let Some(offer) = keys.open(OFFER, sealed) else { return LinkStep::Ignore };
                let words = keys.words();
                self.phase = Phase::Offered(tried.swap_remove(at).partner);
                self.expires = wall.plus(CONFIRMATION_LIFETIME);
                LinkStep::Event(AcceptorEvent::Offered { inviter: from, offer: offer.to_vec(), words })
            }
            Phase::Answered { partner, consent, repeats } if partner.peer == from && *repeats < MAX_REPEATS => {
                *repeats += 1;
                LinkStep::Reply(consent.clone())
            }
            _ => LinkStep::Ignore,
        }
    }

    fn on_welcome(&mut self, from: PeerId, sealed: &[u8]) -> LinkStep<AcceptorEvent> {
        let Phase::Answered { partner, .. } = &self.phase else { return LinkStep::Ignore };
        let content = partner.keys.open(WELCOME, sealed).filter(|_| partner.peer == from);
        let Some(content) = content else { return LinkStep::Ignore };
        self.phase = Phase::Over;
        LinkStep::Event(AcceptorEvent::Done(content))
    }

    /// Before an inviter has shown that it knows the code, its word counts for itself alone, or as hearsay.
    fn on_refusal(&mut self, wall: Timestamp, from: PeerId, reason: Reason) -> LinkStep<AcceptorEvent> {
        let over = match &mut self.phase {
            Phase::Seeking { tried, hearsay } => match tried.iter_mut().find(|tried| tried.partner.peer == from) {
                Some(known) => {
                    known.refused = Some(reason);
                    tried.iter().all(|tried| tried.refused.is_some())
                }
                None => {
                    if tried.is_empty() && hearsay.replace(reason).is_none() {
                        self.expires = self.expires.min(wall.plus(HEARSAY_PATIENCE));
                    }
                    false
                }
            },
            Phase::Offered(partner) | Phase::Answered { partner, .. } => partner.peer == from,
            Phase::Over => false,
        };
        if !over {
            return LinkStep::Ignore;
        }
        self.phase = Phase::Over;
        LinkStep::Refused { reason: reason.into(), reply: None }
    }

    /// Consents to what was offered: publish what this returns. `None` if it is not the time for it.
    pub fn answer(&mut self, wall: Timestamp, content: &[u8]) -> Option<Vec<u8>> {
        let Phase::Offered(partner) = &self.phase else { return None };
        let consent = Message::Consent { session: self.session, sealed: &partner.keys.seal(CONSENT, content) }.encode();
        if let Phase::Offered(partner) = core::mem::replace(&mut self.phase, Phase::Over) {
            self.phase = Phase::Answered { partner, consent: consent.clone(), repeats: 0 };
        }
        self.expires = wall.plus(CONFIRMATION_LIFETIME);
        Some(consent)
    }

    /// Ends it without success, as a person wants: publish what this returns, if anything.
    pub fn decline(&mut self) -> Option<Vec<u8>> {
        let reached = matches!(self.phase, Phase::Offered(_) | Phase::Answered { .. });
        self.phase = Phase::Over;
        reached.then(|| Message::Refusal { session: self.session, reason: Reason::Declined }.encode())
    }

    /// Ends it, as [`Acceptor::expires`] has come; nothing if it is over.
    pub fn expire(&mut self) -> LinkStep<AcceptorEvent> {
        let refusal = Message::Refusal { session: self.session, reason: Reason::Expired }.encode();
        let (reason, reply) = match core::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Seeking { tried, .. } if !tried.is_empty() => (LinkRefusal::Unproven, None),
            Phase::Seeking { hearsay, .. } => (hearsay.map_or(LinkRefusal::Nobody, LinkRefusal::from), None),
            Phase::Offered(_) | Phase::Answered { .. } => (LinkRefusal::Expired, Some(refusal)),
            Phase::Over => return LinkStep::Ignore,
        };
        LinkStep::Refused { reason, reply }
    }

    /// When to call [`Acceptor::expire`]; moves as the conversation goes on.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }

    /// It is neither done nor over.
    pub const fn is_pending(&self) -> bool {
        !matches!(self.phase, Phase::Over)
    }
}

#[cfg(test)]
impl Acceptor {
    pub(crate) fn scalars(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.shares.iter().map(|share| &*share.scalar)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("name", &self.name).field("pending", &self.is_pending()).finish_non_exhaustive()
    }
}

impl fmt::Debug for AcceptorEvent {
    /// Without what was sealed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offered { inviter, words, .. } => {
                f.debug_struct("Offered").field("inviter", inviter).field("words", words).finish_non_exhaustive()
            }
            Self::Done(content) => write!(f, "Done({} bytes)", content.len()),
        }
    }
}
