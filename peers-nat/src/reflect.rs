//! Reflections: a peer says from which address a datagram came, whatever socket that was sent by.
//!
//! It is the Binding request of RFC 8489 (STUN), inside a session. It changes no path: neither end takes the address for one of the other's.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use peers_crypto::DATA_HEADER;
use peers_wire::PeerId;
use rand::RngExt;

use crate::agent::Agent;
use crate::control::{self, Control, Token};
use crate::output::SocketId;
use crate::peer::MAX_TAG;

/// Most reflections that are waited for at once.
const MAX_REFLECTIONS: usize = 128;
/// How long one is waited for.
const TIME: Duration = Duration::from_secs(5);

/// A reflection that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reflection {
    /// Who was asked.
    pub(crate) by: PeerId,
    /// By which socket.
    pub(crate) socket: SocketId,
    /// How many routers it might pass.
    pub(crate) ttl: Option<u8>,
    /// When.
    pub(crate) asked: Instant,
}

/// The reflections that are waited for.
#[derive(Debug, Default)]
pub(crate) struct Reflections {
    waiting: BTreeMap<Token, Reflection>,
}

impl Reflections {
    /// Whether the answer with this token is still waited for.
    pub(crate) fn is_waiting(&self, token: Token) -> bool {
        self.waiting.contains_key(&token)
    }
}

impl Agent {
    /// Asks `by`, a peer with a proven address, from which address it sees what we send it by `socket`; returns the token of the answer.
    pub(crate) fn ask_reflection(&mut self, now: Instant, by: PeerId, socket: SocketId, ttl: Option<u8>) -> Option<Token> {
        self.ask_reflection_at(now, by, socket, ttl, None)
    }

    /// As [`Agent::ask_reflection`], at a second address of `by`, which the caller has counted, or the usual one.
    pub(crate) fn ask_reflection_at(
        &mut self,
        now: Instant,
        by: PeerId,
        socket: SocketId,
        ttl: Option<u8>,
        at: Option<SocketAddr>,
    ) -> Option<Token> {
        let waiting = &mut self.reflections.waiting;
        if waiting.len() >= MAX_REFLECTIONS {
            waiting.retain(|_, reflection| now.duration_since(reflection.asked) < TIME);
        }
        if waiting.len() >= MAX_REFLECTIONS {
            return None;
        }
        let token = self.rng.random();
        let (datagram, address) = self.seal_aside(by, &[Control::Reflect { token }])?;
        self.push_by(socket, ttl, at.unwrap_or(address), datagram);
        self.reflections.waiting.insert(token, Reflection { by, socket, ttl, asked: now });
        Some(token)
    }

    /// Seals control messages for the proven address of a peer, as something that does not go by the path in use: it keeps no mapping open.
    pub(crate) fn seal_aside(&mut self, id: PeerId, messages: &[Control<'_>]) -> Option<(Vec<u8>, SocketAddr)> {
        let peer = self.peers.get_mut(&id)?;
        let address = peer.paths.proven_address()?;
        let plaintext = control::plaintext(messages);
        let mut datagram = Vec::with_capacity(DATA_HEADER + plaintext.len() + MAX_TAG);
        peer.sessions.current.as_mut()?.session.seal(&plaintext, &mut datagram);
        Some((datagram, address))
    }

    /// Takes a message that says nothing of paths, by whatever address it came; returns whether it was one.
    pub(crate) fn on_aside(&mut self, now: Instant, id: PeerId, remote: SocketAddr, messages: &[Control<'_>]) -> bool {
        match *messages {
            [Control::Reflect { token }] => self.on_reflect(now, id, remote, token),
            [Control::Reflected { token, observed }] => {
                let asked = self.reflections.waiting.get(&token).is_some_and(|asked| asked.by == id && asked.socket == self.arrival);
                match self.reflections.waiting.remove(&token).filter(|_| asked) {
                    Some(reflection) => self.on_reflection(now, reflection, token, observed),
                    None => self.stats.dropped_unknown += 1,
                }
            }
            [Control::Test { token, test }] => self.on_test(now, id, remote, token, test),
            [Control::Tested { token, second, other, .. }] => {
                if !self.on_lifetime_answer(now, id, token) && !self.on_tested(id, token, second, other) {
                    self.stats.dropped_unknown += 1;
                }
            }
            _ => return false,
        }
        true
    }

    /// Answers less than three bytes for each of the question, whose sender is a peer, and for all we know at `remote`.
    fn on_reflect(&mut self, now: Instant, id: PeerId, remote: SocketAddr, token: Token) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.connected()) else { return };
        if !peer.reflections.take(now, 1) {
            self.stats.dropped_limited += 1;
            return;
        }
        let Some(keyed) = peer.sessions.current.as_mut() else { return };
        let mut datagram = Vec::with_capacity(96);
        keyed.session.seal(&control::plaintext(&[Control::Reflected { token, observed: remote }]), &mut datagram);
        self.push_by(self.arrival, None, remote, datagram);
    }

    /// A peer has seen what we sent it by an auxiliary socket, or the main one, at `observed`.
    fn on_reflection(&mut self, now: Instant, reflection: Reflection, token: Token, observed: SocketAddr) {
        let _ = self.on_survey(now, &reflection, token, observed)
            || self.on_bracket(now, token, observed)
            || self.on_offer(now, token, observed)
            || self.on_check_reflection(now, token, observed);
    }
}
