//! The test harness: a deterministic network on virtual time for real node stacks, and the scenarios that run on it.
//!
//! A simulation is a function of a seed and a scenario: the same pair gives the same result, to the last datagram.

pub mod internet;
pub mod nat;
pub mod net;
pub mod queue;
pub mod scenario;
pub mod world;
