//! The stream relay: gossip, and a small cache lent to everyone.
//!
//! A [`Cache`] spreads packets among the peers that are connected, keeps some for those who are away, and finds what is missing. A publisher pushes a packet to a few neighbours,
//! these push it on to fewer; everyone announces what it holds by key (16 bytes), and who lacks it asks the nearest that has it. Neighbours that want the same topic compare
//! what they have, small topics by sums and lists, large ones by sketches, so that nothing stays lost. A budget of bytes ([`Config::budget`]) is lent to packets of anyone: those of subscribed topics first, then those that are near the
//! peer's own id by hash distance, so that all peers together hold far more than one.
//!
//! It checks what it takes in: the id is computed, a message's signature is checked against its topic, a fragment against its parent, once each, after deduplication and before it is stored.
//! It reads nothing: packets are sealed (`peers-crypto`). It leaves to others: sessions (it speaks to a [`PeerId`](peers_wire::PeerId) by messages of at most [`MAX_MESSAGE`] bytes, which
//! may be lost, doubled or overtaken), putting fragments together ([`peers_wire::Reassembly`]), and the disk ([`Event::Kept`], [`Event::Dropped`], [`Cache::load`]).
//!
//! The caller gives one input, takes out what is to be sent and what happened, and sleeps until the next deadline:
//!
//! ```
#![doc = include_str!("../examples/two_caches.rs")]
//! ```
//!
//! Sources: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (eager and lazy push); Demers et al., "Epidemic Algorithms for Replicated Database Maintenance" (anti-entropy, and why
//! rumours alone miss some); Yang, Gilad, Alizadeh, "Practical Rateless Set Reconciliation", SIGCOMM 2024; Meyer, "Range-Based Set Reconciliation", arXiv:2212.13567; RFC 6298 (round trips). The messages are docs/PROTOCOL.md, chapter "The relay cache"; why things
//! are as they are, docs/decisions/0006-cache-and-gossip.md and 0021 to 0024; what attackers can do, docs/THREATS.md.

#[cfg(test)]
mod attack_tests;
mod cache;
mod carry;
mod config;
mod differ;
#[cfg(test)]
mod differ_tests;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gather;
#[cfg(test)]
mod hostile_tests;
mod list;
mod message;
mod neighbour;
mod order;
mod pen;
mod publish;
mod pull;
mod query;
#[cfg(test)]
mod query_tests;
mod receipt;
#[cfg(test)]
mod receipt_tests;
mod receive;
mod reconcile;
mod seek;
mod seen;
mod sketch;
mod sketch_message;
mod spread;
mod store;
#[cfg(test)]
mod testing;
mod tree;

pub use cache::{Cache, MAX_NEIGHBOURS, MAX_SUBSCRIPTIONS};
pub use carry::{ImportError, Trace};
pub use config::{Config, Event, Stats};
pub use message::MAX_MESSAGE;
pub use pull::MAX_SEARCH_HOPS;
pub use query::{AskError, MAX_ANSWER, MAX_PATIENCE, MAX_QUESTION, QueryId};
