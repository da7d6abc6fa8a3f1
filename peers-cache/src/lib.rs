//! The stream relay: gossip, and a small cache lent to everyone.

mod cache;
mod config;
#[cfg(test)]
mod hostile_tests;
mod list;
mod message;
mod neighbour;
mod order;
mod pen;
mod publish;
mod pull;
mod receive;
mod reconcile;
mod seen;
mod spread;
mod store;
#[cfg(test)]
mod testing;
mod tree;

pub use cache::{Cache, MAX_NEIGHBOURS, MAX_SUBSCRIPTIONS};
pub use config::{Config, Event, Stats};
pub use message::MAX_MESSAGE;
