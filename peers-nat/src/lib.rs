//! Reach any peer: authenticated, encrypted datagrams to a key, not to an address.
//!
//! An [`Agent`] knows where peers are. It begins sessions (Noise, by `peers-crypto`) with those that are asked for and with those that its peers know, finds peers on the local
//! network, learns from its peers how it is seen from outside, has common peers introduce it to peers behind NATs, moves each session to the best path that works, relays for
//! others and through others, and notices who is gone. The layer above names a [`PeerId`](peers_wire::PeerId) and hands over at most [`MAX_DATA`] bytes; they arrive once, or not at all.
//!
//! It leaves to others: sockets and clocks (it is a state machine without input or output of its own; `peers-node` drives one), reliability, order and congestion control
//! (`peers-node`), what the bytes mean, and who is a friend (it talks to anyone).
//!
//! The caller gives one input, takes out what is to be sent and what happened, and sleeps until the next deadline:
//!
//! ```
#![doc = include_str!("../examples/loopback.rs")]
//! ```
//!
//! Terms and sources: candidate, path, triggered check: RFC 8445 (ICE). Mapping and filtering: RFC 4787, RFC 5780. The 3-bytes rule: RFC 9000, section 8 (there for QUIC). Shape of
//! datagrams, cookies: Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel". The wire format is docs/PROTOCOL.md, chapter "Reaching peers"; why things are as they are,
//! docs/decisions/0005-agent-and-paths.md and 0014 to 0019; what attackers can do, docs/THREATS.md.

mod address;
mod agent;
#[cfg(test)]
mod aim_tests;
mod answer;
#[cfg(test)]
mod attack_tests;
mod beacon;
mod check;
mod classify;
mod config;
mod control;
mod dial;
mod discovery;
mod early;
#[cfg(test)]
mod eclipse_tests;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod hold;
mod introduce;
mod lifetime;
mod limits;
mod liveness;
mod output;
mod paths;
mod peer;
pub mod portmap;
mod ports;
mod probe;
mod punch;
mod reflect;
mod reflexive;
mod relay;
mod roam;
mod sessions;
mod sockets;
mod survey;
mod timers;
#[cfg(test)]
mod vector_tests;
mod vouch;

pub use agent::{Agent, MAX_ADDRESSES, MAX_DATA, MAX_EVENTS, MAX_TRANSMITS, MAX_WANTED};
pub use beacon::{BEACON_GROUP_V4, BEACON_GROUP_V6, BEACON_PORT};
pub use classify::{Allocation, Behaviour, Filtering, Kind, Lifetime, MAX_BLOCK, MAX_REPORTERS, MAX_STEP, Mapping, Reporter};
pub use config::{Config, MAX_SESSIONS, PUBLIC_SWARM, Stats};
pub use early::{Attempt, MAX_EARLY};
pub use output::{ConnectError, DisconnectReason, Event, Path, PeerInfo, SendError, SocketId, Transmit};

#[cfg(test)]
mod tests {
    use std::time::Instant;

    #[expect(clippy::disallowed_methods, reason = "an Instant has to begin somewhere; the tests only add to it")]
    pub(crate) fn epoch() -> Instant {
        Instant::now()
    }
}
