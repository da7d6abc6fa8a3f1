//! Linking: a device shows a code or a link, another takes it, and the two agree on a key over which one is taken into whatever the other is part of.
//!
//! Both publish on [`Ticket::rendezvous`]. They agree on a key with CPace over the ticket's secret, confirm it (the acceptor first), and say the rest under it: a
//! recording of the conversation is of no use to anybody, whatever code they try on it. What is joined, and what that takes, is the callers' matter: the offer, the
//! consent and the welcome are bytes to this module.
//!
//! 1. hello, acceptor to all: commitments to its shares, one for each inviter that it may try.
//! 2. answer, inviter to acceptor: its share. It tells nothing about the code, so that every hello may be answered, and none ends the invitation.
//! 3. proof, acceptor to inviter: its share for that one, and a tag that shows that it has the same key; with it, sealed, the name of the device. This is the guess: a wrong one ends the invitation.
//! 4. offer, inviter to acceptor: a tag that shows the same; with it, sealed, what is to be joined. Both devices now show the same words.
//! 5. consent, acceptor to inviter, sealed.
//! 6. welcome, inviter to acceptor, sealed.
//! 7. refusal, by either, instead of any of these.
//!
//! Messages may come twice, late, or in another order, and who fears that one was lost may say it again: a step that is repeated gets the same reply, or none.

use thiserror::Error;

pub use crate::link_acceptor::{Acceptor, AcceptorEvent};
pub use crate::link_inviter::{Inviter, InviterEvent};
use crate::link_message::Reason;
#[cfg(doc)]
use crate::ticket::Ticket;

/// Milliseconds in which an invitation takes a guess: ten minutes.
pub const INVITATION_LIFETIME: u64 = 600_000;
/// Milliseconds that each side waits for the other once the code has proved right, as people compare words: five minutes.
pub const CONFIRMATION_LIFETIME: u64 = 300_000;
/// Milliseconds that an acceptor waits for an inviter: one minute.
pub const ACCEPTOR_PATIENCE: u64 = 60_000;
/// Milliseconds that an acceptor still waits for an inviter once somebody has said that the invitation is over. Anybody can say so.
pub const HEARSAY_PATIENCE: u64 = 5_000;
/// Hellos that an inviter answers; one more ends the invitation.
pub const MAX_ANSWERED_HELLOS: usize = 256;
/// Inviters that an acceptor tries its code on: whoever has the same first word, or pretends to.
pub const MAX_TRIED_INVITERS: usize = 3;
/// How often the reply to one message that comes again is given again.
pub const MAX_REPEATS: u8 = 32;

/// What a message led to.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkStep<E> {
    /// Publish this on the rendezvous topic.
    Reply(Vec<u8>),
    /// It is the caller's turn.
    Event(E),
    /// It is over without success.
    Refused {
        /// Why.
        reason: LinkRefusal,
        /// To be published, so that the other side learns of it.
        reply: Option<Vec<u8>>,
    },
    /// Nothing: the message is someone else's, or comes late.
    Ignore,
}

/// Why linking ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkRefusal {
    /// To the inviter: someone tried, with other words. To the acceptor: the words are not those of the invitation.
    #[error("the code was wrong, and one guess is all there is: make a new one")]
    WrongCode,
    /// [`INVITATION_LIFETIME`] has passed, or [`CONFIRMATION_LIFETIME`].
    #[error("the invitation has expired: make a new one")]
    Expired,
    /// To the acceptor: the invitation has taken its one guess already, or was withdrawn.
    #[error("the invitation has been used already, or was withdrawn: make a new one")]
    Spent,
    /// A person said no on one of the two devices.
    #[error("one of the two devices was told not to go on: if the words on both differ, somebody is between them")]
    Declined,
    /// To the inviter: [`MAX_ANSWERED_HELLOS`] devices came, who knows whose.
    #[error("{MAX_ANSWERED_HELLOS} devices came to try the code: somebody floods it; invite by a link, which nobody else can find")]
    Flooded,
    /// To the acceptor: nobody answered.
    #[error(
        "no device answers to this code: check that the other device still shows it, and that both have a peer in common or are on one network"
    )]
    Nobody,
    /// To the acceptor: devices answered and none of them went on.
    #[error(
        "what answered to this code did not show that it knows it: somebody watches for codes; invite by a link, which nobody else can find"
    )]
    Unproven,
}

impl From<Reason> for LinkRefusal {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Wrong => Self::WrongCode,
            Reason::Spent => Self::Spent,
            Reason::Declined => Self::Declined,
            Reason::Expired => Self::Expired,
        }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
pub(crate) mod tests;
