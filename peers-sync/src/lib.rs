//! SQLite that merges: ordinary tables in an ordinary file, kept equal on every device.
//!
//! - Tracking is done by plain-SQL triggers inside the file, so that **any SQLite client may write to it**, with nothing of ours loaded.
//! - Last write wins per field, by hybrid logical clock, ties broken by origin; a delete ends the row.
//! - Replicas that saw the same changes, in any order, any grouping, any number of times, are equal.
//! - Changes travel in a conversation of two replicas ([`Replica::handle_message`]), through anything that carries bytes ([`Event::Local`],
//!   [`Replica::changes_since`], [`Replica::apply`]), and on through third replicas.
//!
//! It leaves to others: sockets, sealing and signing what travels, and which device may take part. It starts no thread and reads no clock.
//!
//! # Sources
//! Kulkarni et al., "Logical Physical Clocks" (2014); Shapiro et al., "Conflict-free Replicated Data Types" (2011); SQLite, "Database File Format".

#![doc = include_str!("../README.md")]

mod changes;
mod clock;
mod clocks;
mod columns;
mod engine;
mod extract;
mod merge;
mod parked;
mod place;
mod progress;
mod record;
mod replica;
mod schema;
mod status;
mod store;
mod talk;
mod track;
mod value;
mod vet;

#[cfg(test)]
mod tests;

pub use changes::{Changes, MAX_CHANGES};
pub use clock::{Hlc, MAX_ORIGINS, Origin, VersionVector};
pub use engine::Change;
pub use merge::ApplyError;
pub use parked::Reason;
pub use replica::{Applied, BATCH, Config, Event, MAX_LOCAL, Replica, Stats};
pub use rusqlite;
pub use schema::TrackError;
pub use status::{Parked, Status, TableStatus};
pub use store::{OpenError, StoreError};
pub use value::Value;
