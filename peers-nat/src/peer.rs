//! What an agent knows of one peer.

use core::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use peers_crypto::Initiator;
use peers_wire::PeerId;

use crate::control::{Association, Token};
use crate::limits::Bucket;
use crate::paths::{Link, Paths};
use crate::sessions::Sessions;

/// Introductions that one peer may ask for at once, and per second in the long run.
const INTRODUCTIONS: (u32, u32) = (64, 8);
/// Requests for a sample of our peers that one peer may make at once, and per second in the long run.
const SAMPLES: (u32, u32) = (4, 1);

/// A peer that we have a session with, or are about to.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Names our side of the connection.
    pub(crate) association: Association,
    pub(crate) sessions: Sessions,
    pub(crate) paths: Paths,
    /// The path that the layer above was told last; none before it was told of the connection.
    pub(crate) told: Option<Link>,
    /// When an authenticated datagram last came, and when one last went.
    pub(crate) heard: Instant,
    pub(crate) sent: Instant,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) dial: Option<Dial>,
    /// Who was asked to introduce us to this peer by the last dial.
    pub(crate) introducers: Vec<PeerId>,
    pub(crate) answered: Option<Answered>,
    pub(crate) introductions: Bucket,
    pub(crate) samples: Bucket,
    /// When we last asked this peer for a sample of its peers.
    pub(crate) asked: Option<Instant>,
}

/// Something was sent that should be answered, and was not yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) since: Instant,
    /// Pings sent for lack of an answer.
    pub(crate) pings: usize,
    /// When to send the next.
    pub(crate) next: Instant,
    /// Data of the layer above is among what was sent.
    pub(crate) data: bool,
}

/// Why a handshake was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The user asked for this peer.
    Wanted,
    /// To have enough sessions.
    Exchange,
    /// The paths to a connected peer do not answer.
    Repair,
    /// The session is old.
    Rekey,
}

/// A handshake that we have begun.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) initiator: Initiator,
    pub(crate) purpose: Purpose,
    /// Where it is sent to, as the user or the peer itself said.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Relays that were asked to pass it on, and have not refused.
    pub(crate) open: Vec<PeerId>,
    pub(crate) began: Instant,
    /// Times it was sent.
    pub(crate) sends: u32,
    /// It was sent to an address that someone else named.
    pub(crate) probed: bool,
}

/// The handshake that we answered last.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Of the initiation, without its last code, which a cookie changes.
    pub(crate) digest: [u8; 32],
    pub(crate) response: Bytes,
    pub(crate) token: Token,
    /// Where the response was sent to, while that is one place only: then its token proves that place.
    pub(crate) to: Option<Link>,
}

impl Peer {
    pub(crate) fn new(now: Instant, association: Association) -> Self {
        Self {
            association,
            sessions: Sessions::default(),
            paths: Paths::default(),
            told: None,
            heard: now,
            sent: now,
            waiting: None,
            dial: None,
            introducers: Vec::new(),
            answered: None,
            introductions: Bucket::new(INTRODUCTIONS.0, INTRODUCTIONS.1),
            samples: Bucket::new(SAMPLES.0, SAMPLES.1),
            asked: None,
        }
    }

    /// The layer above knows of the connection.
    pub(crate) const fn connected(&self) -> bool {
        self.told.is_some()
    }

    /// The path in use has left two pings unanswered.
    pub(crate) fn suspect(&self) -> bool {
        self.waiting.is_some_and(|waiting| waiting.pings >= 2)
    }
}
