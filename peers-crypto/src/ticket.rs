//! What brings two devices together: a code of four words, or a link that carries a full secret.

use core::fmt;
use core::str::FromStr;
use std::net::SocketAddr;

use peers_wire::PeerId;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::code::{LinkCode, ParseCodeError};
use crate::link_uri::{LinkUri, ParseLinkError};
use crate::topic::TopicKey;

/// What an inviter shows and an acceptor is given. `Display` shows it: for the user's eyes alone.
#[derive(Clone, PartialEq, Eq)]
pub enum Ticket {
    /// Four words, to be read out or typed.
    Code(LinkCode),
    /// A link, to be sent over a channel that nobody else reads, or scanned.
    Link(LinkUri),
}

/// Why a text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseTicketError {
    /// It is no code, and does not begin as a link does.
    #[error(transparent)]
    Code(#[from] ParseCodeError),
    /// It begins as a link does, and is none.
    #[error(transparent)]
    Link(#[from] ParseLinkError),
}

impl Ticket {
    /// The topic where both sides meet. Of a code anybody may read and write it; of a link, who has the link.
    pub fn rendezvous(&self) -> TopicKey {
        match self {
            Self::Code(code) => code.rendezvous(),
            Self::Link(link) => link.rendezvous(),
        }
    }

    /// What the PAKE runs on.
    pub(crate) fn password(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Code(code) => Zeroizing::new(code.secret().as_bytes().to_vec()),
            Self::Link(link) => link.password(),
        }
    }

    /// The device that invites, where the ticket names it.
    pub fn inviter(&self) -> Option<PeerId> {
        match self {
            Self::Code(_) => None,
            Self::Link(link) => Some(link.inviter()),
        }
    }

    /// Where the device that invites was when it made the ticket.
    pub fn addresses(&self) -> &[SocketAddr] {
        match self {
            Self::Code(_) => &[],
            Self::Link(link) => link.addresses(),
        }
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        if LinkUri::is_meant(text) { Ok(Self::Link(text.parse()?)) } else { Ok(Self::Code(text.parse()?)) }
    }
}

impl From<LinkCode> for Ticket {
    fn from(code: LinkCode) -> Self {
        Self::Code(code)
    }
}

impl From<LinkUri> for Ticket {
    fn from(link: LinkUri) -> Self {
        Self::Link(link)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Link(link) => link.fmt(f),
        }
    }
}

impl fmt::Debug for Ticket {
    /// What is not secret of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Link(link) => link.fmt(f),
        }
    }
}
