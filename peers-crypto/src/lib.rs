//! Keys and what is done with them: identities, Noise sessions, topics, sealing, users as sets of devices.

mod keys;
mod sodium;

pub use keys::{DeviceKey, Domain, Forged, derive, hash, keyed_hash, verify};
