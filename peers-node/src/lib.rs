//! Placeholder.
pub mod transport;
