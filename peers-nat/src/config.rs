//! What an agent may be told, and what it counts.

use std::time::Duration;

use peers_crypto::REKEY_AFTER;

/// How an agent behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Send and answer LAN beacons. Default: true.
    pub lan: bool,
    /// Send to nobody beyond the LAN: to near addresses and those on a link of ours alone, by no relay, and relay for nobody. Default: false.
    pub lan_only: bool,
    /// The key by which peers of one swarm recognise each other's LAN beacons. Default: [`PUBLIC_SWARM`].
    pub swarm: [u8; 32],
    /// Sessions that the agent gets by itself, by asking its peers for theirs. Default: 10, source: docs/decisions/0005-agent-and-paths.md.
    pub target_sessions: usize,
    /// Sessions beyond which a stranger's handshake is dropped. Default: [`MAX_SESSIONS`].
    pub max_sessions: usize,
    /// Have auxiliary sockets opened ([`Transmit::socket`](crate::Transmit::socket)): to learn how the own NAT behaves, and to reach peers behind NATs that give each destination a port of its
    /// own. Default: true; for a caller that has one socket only, false.
    pub auxiliary: bool,
    /// Try a stream ([`SocketId::STREAM`](crate::SocketId::STREAM)) where an address that the user gave does not answer by UDP. Default: false, as the caller has to provide them.
    pub streams: bool,
    /// Introduce and relay for others. Default: true.
    pub relay: bool,
    /// Pairs of peers that are relayed for at once, at most 4096. Default: 4096.
    pub relay_routes: usize,
    /// Bytes per second relayed for all others together. Default: 4 MiB.
    pub relay_bytes_per_second: u32,
    /// Find out how our own NAT behaves: see [`Agent::behaviour`](crate::Agent::behaviour). Default: true.
    pub classify: bool,
    /// Silence on a direct path after which it is pinged, as long as nothing is known of our NAT; below the shortest lifetime of mappings that is common. Default: 25 s, source: RFC 8445, section 11 asks for at least 15 s,
    /// RFC 4787, REQ-5 lets a mapping live 2 minutes, many live 30 s.
    pub keep_alive: Duration,
    /// The longest such silence, however long our NAT is proven to remember flows; [`Config::keep_alive`] or less: nothing is learned, and that holds. Default: 110 s, source: RFC 4787, REQ-5: 2 minutes.
    pub keep_alive_max: Duration,
    /// How long pings go unanswered before a peer is given up. Default: 15 s.
    pub dead_after: Duration,
    /// Age at which the keys of a session that is in use are replaced by a new handshake. Default: [`peers_crypto::REKEY_AFTER`].
    pub rekey_after: Duration,
}

/// The swarm of whoever names no other.
pub const PUBLIC_SWARM: [u8; 32] = *b"the public swarm of peers, no. 1";
/// Most sessions of one agent.
pub const MAX_SESSIONS: usize = 4096;

impl Default for Config {
    fn default() -> Self {
        Self {
            lan: true,
            lan_only: false,
            swarm: PUBLIC_SWARM,
            target_sessions: 10,
            max_sessions: MAX_SESSIONS,
            auxiliary: true,
            streams: false,
            relay: true,
            relay_routes: crate::relay::MAX_ROUTES,
            relay_bytes_per_second: 4 << 20,
            classify: true,
            keep_alive: Duration::from_secs(25),
            keep_alive_max: Duration::from_secs(110),
            dead_after: Duration::from_secs(15),
            rekey_after: REKEY_AFTER,
        }
    }
}

/// What an agent has done since it was made. Each dropped datagram counts in exactly one `dropped_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams given to `handle_datagram`.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Datagrams given out by `poll_transmit`.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Too short, of no known kind, or with content that does not decode.
    pub dropped_malformed: u64,
    /// Longer than any datagram of ours.
    pub dropped_oversized: u64,
    /// For a session or handshake that is not there.
    pub dropped_unknown: u64,
    /// Not genuine: altered, or sealed by someone else.
    pub dropped_forged: u64,
    /// Received before, or too old to tell.
    pub dropped_replayed: u64,
    /// Copies of a handshake response that had come by another path already.
    pub duplicates: u64,
    /// Beyond a limit: handshakes, sessions, introductions or requests at too high a rate.
    pub dropped_limited: u64,
    /// Data on a session before it was known whether the other end remembers the connection.
    pub dropped_early: u64,
    /// Relayed datagrams on a route that is not there, or not from one of its ends, or beyond the rate.
    pub dropped_relayed: u64,
    /// Beacons that were not answered: our own, repeated, of others, or too many.
    pub dropped_beacons: u64,
    /// Own datagrams not sent: to an address not yet proven, beyond three times what it sent; through a relay that is gone; or beyond the LAN that
    /// it may not leave.
    pub unsent: u64,
    /// Datagrams passed on for others.
    pub relayed: u64,
    /// Bytes of them.
    pub relayed_bytes: u64,
    /// Handshakes begun.
    pub dials: u64,
    /// Sessions established.
    pub sessions: u64,
    /// Initiations answered.
    pub answered: u64,
    /// Cookies sent instead of an answer.
    pub challenged: u64,
    /// Introductions made between others.
    pub introduced: u64,
    /// Initiations answered that carried data for the layer above.
    pub early: u64,
    /// Introductions refused to others.
    pub refused: u64,
    /// Probes sent to introduced addresses.
    pub probes: u64,
    /// Looks at our own NAT that have ended in a verdict.
    pub checks: u64,
    /// Copies of datagrams sent by a second path, while the first was in doubt.
    pub copies: u64,
    /// Moves of a session to another path.
    pub moves: u64,
    /// Beacons sent, one for each group.
    pub beacons_sent: u64,
    /// Beacons answered.
    pub beacons_answered: u64,
}
