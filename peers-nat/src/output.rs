//! What an agent gives out: datagrams, events, errors.

use core::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_wire::PeerId;
use thiserror::Error;

use crate::agent::{MAX_DATA, MAX_TRANSMITS, MAX_WANTED};
use crate::paths::Link;

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to; for a beacon a multicast group, to be sent on every interface.
    pub destination: SocketAddr,
    /// The datagram: at most [`MAX_DATAGRAM`](peers_crypto::MAX_DATAGRAM) bytes.
    pub payload: Bytes,
    /// By which socket. One that is neither [`SocketId::MAIN`] nor known is to be opened, at any free port of the address that the main one has; where that fails, the datagram is lost.
    pub socket: SocketId,
    /// How many routers it may pass (IPv4: time to live, IPv6: hop limit); none: as many as usual.
    pub ttl: Option<u8>,
}

/// Names a UDP socket of an agent's caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

impl SocketId {
    /// The one whose addresses were told by [`Agent::set_local_addresses`](crate::Agent::set_local_addresses). All others but [`SocketId::STREAM`] are auxiliary: the agent has them opened and closed.
    pub const MAIN: Self = Self(0);
    /// No UDP socket but a stream (TCP) to the address and port of the datagram's destination, each datagram behind its length (`u16`, big-endian): for networks that let no UDP pass. The
    /// caller connects it where there is none, takes those of others at the ports of its main sockets, and says when one has ended ([`Agent::stream_closed`](crate::Agent::stream_closed)).
    pub const STREAM: Self = Self(u16::MAX);
}

/// How datagrams reach a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Sent to this address.
    Direct(SocketAddr),
    /// Passed on by this peer.
    Relayed(PeerId),
}

impl From<Link> for Path {
    fn from(link: Link) -> Self {
        match link {
            Link::Direct(address) => Self::Direct(address),
            Link::Relayed { via, .. } => Self::Relayed(via),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectReason {
    /// It has not answered for [`Config::dead_after`](crate::Config::dead_after), or no handshake for three times [`Config::rekey_after`](crate::Config::rekey_after).
    Timeout,
    /// It said goodbye.
    Closed,
    /// It has forgotten us, most likely because it was started again; the new connection follows.
    Restarted,
    /// [`Agent::disconnect`](crate::Agent::disconnect) was called.
    Requested,
}

/// What happened, for the layer above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session with `peer` is there. Comes once until `Disconnected`.
    Connected {
        /// Who.
        peer: PeerId,
        /// By which path.
        path: Path,
    },
    /// The session with `peer` goes by another path from now on; nothing else changes.
    PathChanged {
        /// Who.
        peer: PeerId,
        /// By which path.
        path: Path,
    },
    /// The path to `peer` may be dead, and there is another: what was sent lately and is not acknowledged is worth sending again now, as it goes by two paths.
    Doubt {
        /// Who.
        peer: PeerId,
    },
    /// `peer` has left pings unanswered: it is probably gone, and will be [`Event::Disconnected`] unless it is heard.
    Suspect {
        /// Who.
        peer: PeerId,
    },
    /// The session with `peer` is gone.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DisconnectReason,
    },
    /// `peer` sent `data`, in order of arrival.
    Data {
        /// Who; authenticated.
        peer: PeerId,
        /// At most [`MAX_DATA`] bytes.
        data: Bytes,
    },
    /// `peer` sent `data` with the handshake that it begins: no session with it need follow. Comes once for each of its handshakes; after a restart, one that was recorded
    /// before may bring it again.
    Early {
        /// Who; authenticated, unless our own key is stolen.
        peer: PeerId,
        /// At most [`MAX_EARLY`](crate::MAX_EARLY) bytes.
        data: Bytes,
    },
    /// The handshake that carried data of [`Agent::reach`](crate::Agent::reach) was answered: the other end's agent has given the data out. [`Event::Connected`] follows, unless
    /// there is a session already.
    EarlyTaken {
        /// Who.
        peer: PeerId,
    },
    /// The handshake that carried data of [`Agent::reach`](crate::Agent::reach) was not answered.
    EarlyLost {
        /// Who.
        peer: PeerId,
    },
    /// A peer sees us at this address, which is new to us.
    Reflexive(SocketAddr),
}

/// A connected peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who.
    pub id: PeerId,
    /// How it is reached.
    pub path: Path,
    /// Smoothed round trip time of the path, once measured.
    pub rtt: Option<Duration>,
    /// When it was last heard.
    pub heard: Instant,
}

/// Why a connection was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The id is our own.
    #[error("this is our own id")]
    Myself,
    /// The id is not a valid public key.
    #[error("{0} is not a valid key")]
    Identity(PeerId),
    /// [`MAX_WANTED`] others were asked for.
    #[error("{MAX_WANTED} other peers were asked for")]
    TooMany,
}

/// Why data was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// There is no session with the peer.
    #[error("no session with {0}")]
    NotConnected(PeerId),
    /// More than [`MAX_DATA`] bytes.
    #[error("{0} bytes are more than the {MAX_DATA} that fit a datagram")]
    TooLarge(usize),
    /// [`MAX_TRANSMITS`] datagrams wait to be taken.
    #[error("{MAX_TRANSMITS} datagrams wait to be taken")]
    Full,
    /// There is no path that may carry so much now: the address is not proven yet, or the relay is gone.
    #[error("no path to {0} may carry this now")]
    NoPath(PeerId),
}
