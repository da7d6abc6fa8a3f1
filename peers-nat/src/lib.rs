//! Reach any peer: authenticated, encrypted datagrams to a key, not to an address.

mod address;
mod agent;
mod beacon;
mod config;
mod control;
mod dial;
mod exchange;
mod introduce;
mod limits;
mod liveness;
mod paths;
mod peer;
mod reflexive;
mod relay;
mod sessions;
mod timers;

pub use agent::{
    Agent, ConnectError, DisconnectReason, Event, MAX_ADDRESSES, MAX_DATA, MAX_EVENTS, MAX_TRANSMITS, MAX_WANTED, Path, PeerInfo,
    SendError, Transmit,
};
pub use beacon::{BEACON_GROUP_V4, BEACON_GROUP_V6, BEACON_PORT};
pub use config::{Config, MAX_SESSIONS, PUBLIC_SWARM, Stats};

#[cfg(test)]
mod tests {
    use std::time::Instant;

    #[expect(clippy::disallowed_methods, reason = "an Instant has to begin somewhere; the tests only add to it")]
    pub(crate) fn epoch() -> Instant {
        Instant::now()
    }
}
