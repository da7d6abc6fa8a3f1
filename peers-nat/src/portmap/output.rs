//! What a mapper is told, and what it gives out.

use core::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// What is to be mapped, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// The router and its port, usually [`GATEWAY_PORT`](super::GATEWAY_PORT).
    pub gateway: SocketAddr,
    /// Our address on the router's link, of the router's family: requests are sent from there.
    pub client: IpAddr,
    /// The UDP port of that address that others are to reach.
    pub port: u16,
}

/// How a router was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
}

/// Why there is no mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    /// Nobody answers.
    #[error("the router speaks neither PCP nor NAT-PMP")]
    Silent,
    /// It answers that it does not want to.
    #[error("the router maps no port ({reason}): allow port mapping (PCP, NAT-PMP) in its settings, or forward the port by hand")]
    Refused {
        /// Its words, as the RFC names them.
        reason: &'static str,
    },
    /// It promises what cannot be.
    #[error(
        "the router offers {external} for {lifetime} seconds, where nobody can be reached: its settings for port mapping, or it itself, are broken"
    )]
    Unusable {
        /// The address offered.
        external: SocketAddr,
        /// For how many seconds.
        lifetime: u32,
    },
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Who sends to `external` reaches the port; in place of the mapping before, if there was one. Private behind a second NAT: then it serves that network alone.
    Mapped {
        /// The address outside.
        external: SocketAddr,
        /// How it came about.
        protocol: Protocol,
    },
    /// The mapping is gone.
    Lost,
    /// There is none; it is tried again after a pause.
    Unavailable(Failure),
    /// All that [`Mapper::release`](super::Mapper::release) can do is done.
    Released,
}

/// What a mapper has done. Each dropped datagram counts in exactly one `dropped_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests sent.
    pub sent: u64,
    /// Answers taken.
    pub received: u64,
    /// Not from the router.
    pub dropped_foreign: u64,
    /// From the router, and not of its protocols.
    pub dropped_malformed: u64,
    /// From the router, and not what was asked for: of another mapping, late, or repeated.
    pub dropped_unexpected: u64,
    /// Refusals.
    pub refused: u64,
    /// Mappings that are new, or have another address than before.
    pub mapped: u64,
    /// Mappings renewed as they were.
    pub renewed: u64,
    /// Times that the router had lost its mappings.
    pub resets: u64,
}
