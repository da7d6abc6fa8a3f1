//! Data in the first flight: what the layer above says with a handshake, before there is a session.
//!
//! It is sealed to the key of the receiver, who knows at once who sent it. It is weaker than data in a session (docs/THREATS.md): who steals the receiver's key later can read it, and a
//! recorded handshake may bring it again after the receiver was started again. It is therefore for what may come twice.

use std::time::Instant;

use peers_wire::{PeerId, Timestamp};

use crate::agent::Agent;
use crate::limits::Bucket;
use crate::output::ConnectError;
use crate::peer::Purpose;

/// Most bytes of data in a handshake: beside them, eight candidates fit.
pub const MAX_EARLY: usize = 512;
/// Attempts of [`Agent::reach`] at once, and per second in the long run.
const REACHES: (u32, u32) = (32, 4);

/// What [`Agent::reach`] has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// A handshake is under way and carries the data: [`Event::EarlyTaken`](crate::Event::EarlyTaken) or [`Event::EarlyLost`](crate::Event::EarlyLost) follows, unless the other
    /// end's own handshake is faster.
    Carries,
    /// There is a session, or a handshake under way, that does not carry the data.
    UnderWay,
    /// There is nobody to ask and no address to try, or too many were tried just now.
    Nowhere,
}

/// The limit of attempts.
pub(crate) fn limit() -> Bucket {
    Bucket::new(REACHES.0, REACHES.1)
}

impl Agent {
    /// Whether a session with `peer` is about to begin: a handshake, of either end, is under way.
    pub fn is_beginning(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| !peer.connected() && (peer.dial.is_some() || !peer.sessions.is_empty()))
    }

    /// Tries once to begin a session with `peer`, at the addresses known and through common peers, with `data` in its first datagram.
    ///
    /// The data arrives in half a round trip of the session to come, at most once while the other end runs, and maybe without a session. More than [`MAX_EARLY`] bytes do not fit,
    /// nor do any if there is much else to say: the handshake then goes without them.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing has changed then.
    pub fn reach(&mut self, now: Instant, wall: Timestamp, peer: PeerId, data: &[u8]) -> Result<Attempt, ConnectError> {
        if peer == self.id() {
            return Err(ConnectError::Myself);
        }
        if self.peers.get(&peer).is_some_and(|peer| peer.connected() || peer.dial.is_some()) {
            return Ok(Attempt::UnderWay);
        }
        if !self.reaches.take(now, 1) {
            return Ok(Attempt::Nowhere);
        }
        let addresses = self.wanted.get(&peer).map(|wanted| wanted.addresses.clone()).unwrap_or_default();
        self.dial_with(now, wall, peer, addresses, Purpose::Wanted, data).map_err(|_| ConnectError::Identity(peer))?;
        Ok(match self.peers.get(&peer).and_then(|peer| peer.dial.as_ref()) {
            Some(dial) if dial.early => Attempt::Carries,
            Some(_) => Attempt::UnderWay,
            None => Attempt::Nowhere,
        })
    }
}
