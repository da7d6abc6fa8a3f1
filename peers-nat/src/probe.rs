//! Probes: small datagrams to addresses that a peer may be at, which only that peer understands.
//!
//! A probe needs no session yet: its tag was agreed in the handshake, its token is answered inside the session. It is long enough for the answer to be less than three times as long.

#![allow(dead_code, reason = "used by what follows")]

use core::net::SocketAddr;

use peers_crypto::DatagramKind;
use rand::Rng;

use crate::control::Token;

/// Length of a probe to an IPv4 address, and to an IPv6 address, whose answer is longer as it names addresses.
const LENGTHS: (usize, usize) = (32, 48);

/// Names what probes are about, in clear; known to those who agreed on it in a session, and to who can see them pass.
pub(crate) type Tag = u64;

/// A probe, as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) tag: Tag,
    /// To be returned in a pong, by the way the probe came.
    pub(crate) token: Token,
}

impl Probe {
    /// The datagram for `address`.
    pub(crate) fn encode(&self, address: SocketAddr, rng: &mut impl Rng) -> Vec<u8> {
        let mut datagram = vec![0; if address.is_ipv4() { LENGTHS.0 } else { LENGTHS.1 }];
        rng.fill_bytes(&mut datagram);
        datagram[0] = DatagramKind::Probe as u8;
        datagram[1..9].copy_from_slice(&self.tag.to_be_bytes());
        datagram[9..17].copy_from_slice(&self.token.to_be_bytes());
        datagram
    }

    /// Reads one; `None` if it has no length of a probe.
    pub(crate) fn decode(datagram: &[u8]) -> Option<Self> {
        if datagram.len() != LENGTHS.0 && datagram.len() != LENGTHS.1 {
            return None;
        }
        Some(Self {
            tag: u64::from_be_bytes(*datagram.get(1..)?.first_chunk()?),
            token: u64::from_be_bytes(*datagram.get(9..)?.first_chunk()?),
        })
    }
}
