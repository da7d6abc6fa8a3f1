//! What an agent knows of one peer.

use core::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{DATA_HEADER, Initiator};
use peers_wire::{PeerId, Timestamp};

use crate::control::{Association, Token};
use crate::limits::Bucket;
use crate::liveness::SUSPECT_PINGS;
use crate::output::SocketId;
use crate::paths::{Link, Paths};
use crate::probe::Tag;
use crate::punch::Punch;
use crate::sessions::Sessions;
use crate::vouch::TESTS;

/// How long data that is always answered may go unanswered, at least, before the path is in doubt: three round trips if that is longer.
pub(crate) const PATIENCE: Duration = Duration::from_millis(300);
/// How long any data, and how long a ping, may go unanswered before a ping follows.
const LONG_PATIENCE: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_millis(500));
/// Data alone does not lead to a ping before the peer was silent for so long.
const SILENCE: Duration = Duration::from_secs(3);
/// What follows so soon after something heard may be a mere acknowledgement of it, which nobody answers.
const REPLY: Duration = Duration::from_millis(50);
/// Longest tag of a datagram.
pub(crate) const MAX_TAG: usize = 32;
/// Introductions that one peer may ask for at once, and per second in the long run.
const INTRODUCTIONS: (u32, u32) = (64, 8);
/// Requests for a sample of our peers that one peer may make at once, and per second in the long run.
const SAMPLES: (u32, u32) = (4, 1);
/// Reflections that one peer may ask for at once, and per second in the long run.
const REFLECTIONS: (u32, u32) = (64, 4);
/// Probes of one peer that are answered at once, and per second in the long run.
const PROBES: (u32, u32) = (16, 4);

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
    /// The time of its latest initiation.
    pub(crate) latest: Option<Timestamp>,
    pub(crate) introductions: Bucket,
    pub(crate) samples: Bucket,
    pub(crate) reflections: Bucket,
    pub(crate) tests: Bucket,
    pub(crate) probes: Bucket,
    /// Of the probes that we and the peer send each other: of the last handshake, and of the one before.
    pub(crate) tags: [Option<Tag>; 2],
    /// A probe that came before there was a session: by which socket, from where, and its token.
    pub(crate) early_probe: Option<(SocketId, SocketAddr, Token)>,
    /// What is under way to get to a direct path, beside ordinary probes.
    pub(crate) punch: Option<Box<Punch>>,
    /// When we last asked this peer for a sample of its peers.
    pub(crate) asked: Option<Instant>,
    /// How far attempts to get to a direct path have come: the pause before the next doubles with each step.
    pub(crate) punches: u32,
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
    /// It is of the kind that is always answered, and at once.
    pub(crate) asked: bool,
}

/// What was sent that should be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Ping,
    /// Of the layer above, which may or may not be answered.
    Data,
    /// Of the layer above, which is answered within a round trip and little more.
    Asking,
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
    /// A connected peer is reached through a relay only, since its direct path died.
    Punch,
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
    /// The last sealed datagram that came before the response, by which socket and link.
    pub(crate) held: Option<(SocketId, Link, Bytes)>,
    /// It was sent to an address that someone else named.
    pub(crate) probed: bool,
    /// It carries data for the layer above.
    pub(crate) early: bool,
}

/// The handshake that we answered last.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Of the initiation, without its last code, which a cookie changes.
    pub(crate) digest: [u8; 32],
    pub(crate) response: Bytes,
    pub(crate) token: Token,
    pub(crate) at: Instant,
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
            latest: None,
            introductions: Bucket::new(INTRODUCTIONS.0, INTRODUCTIONS.1),
            samples: Bucket::new(SAMPLES.0, SAMPLES.1),
            reflections: Bucket::new(REFLECTIONS.0, REFLECTIONS.1),
            tests: Bucket::new(TESTS.0, TESTS.1),
            probes: Bucket::new(PROBES.0, PROBES.1),
            tags: [None; 2],
            early_probe: None,
            punch: None,
            asked: None,
            punches: 0,
        }
    }

    /// The layer above knows of the connection.
    pub(crate) const fn connected(&self) -> bool {
        self.told.is_some()
    }

    /// Seals on the session `index`, or the one in use, for `link`, and appends the datagram to `out`; returns whether that may be sent now. `probe`: to an address whatever it has
    /// proven.
    pub(crate) fn seal(&mut self, now: Instant, index: Option<u32>, link: Link, plaintext: &[u8], probe: bool, out: &mut Vec<u8>) -> bool {
        if !probe && !self.paths.charge(now, link, DATA_HEADER + plaintext.len() + MAX_TAG) {
            return false;
        }
        let keyed = match index {
            Some(index) => self.sessions.get(index),
            None => self.sessions.current.as_mut(),
        };
        let Some(keyed) = keyed else { return false };
        keyed.session.seal(plaintext, out);
        if Some(link) == self.paths.selected() {
            self.sent = now;
        }
        true
    }

    /// Something was sent that should be answered. Returns when to look whether it was, if that is sooner than for what was sent before.
    pub(crate) fn expect(&mut self, now: Instant, what: Sent) -> Option<Instant> {
        let rtt = self.paths.rtt();
        let asked = what == Sent::Asking && rtt.is_some() && now.duration_since(self.heard) > REPLY;
        let data = what != Sent::Ping;
        let patience = if data { LONG_PATIENCE.0 } else { LONG_PATIENCE.1 };
        let patience = patience.max(rtt.unwrap_or_default() * 2);
        let next = match rtt {
            Some(rtt) if asked => now + PATIENCE.max(rtt * 3),
            // Not everything is answered: who spoke just now is not asked whether it is there.
            _ if data => (now + patience).max(self.heard + SILENCE),
            _ => now + patience,
        };
        let Some(waiting) = &mut self.waiting else {
            self.waiting = Some(Waiting { since: now, pings: 0, next, data, asked });
            return Some(next);
        };
        waiting.data |= data;
        let sooner = asked && waiting.pings == 0 && next < waiting.next;
        if sooner {
            (waiting.asked, waiting.next) = (true, next);
        }
        sooner.then_some(next)
    }

    /// The session `index` was heard by `link`. If both are in use, nothing is waited for any more; returns whether they are, and the layer above knows.
    pub(crate) fn works(&mut self, now: Instant, index: u32, link: Link) -> bool {
        let works = self.paths.selected() == Some(link) && self.sessions.heard_current(now, index);
        if works {
            self.waiting = None;
        }
        works && self.connected()
    }

    /// The path in use has left [`SUSPECT_PINGS`] unanswered; one more where the first comes sooner.
    pub(crate) fn suspect(&self) -> bool {
        self.waiting.is_some_and(|waiting| waiting.pings >= SUSPECT_PINGS + usize::from(waiting.asked))
    }

    /// The path in use may be dead: data that is always answered, or more than one ping, was not. Until it is known, other paths are used as well.
    pub(crate) fn in_doubt(&self) -> bool {
        self.waiting.is_some_and(|waiting| waiting.pings >= if waiting.asked { 1 } else { SUSPECT_PINGS })
    }
}
