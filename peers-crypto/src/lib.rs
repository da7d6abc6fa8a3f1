//! Keys and what is done with them: identities, Noise sessions, topics, sealing, users as sets of devices.

mod cookie;
mod handshake;
mod keys;
mod noise;
mod session;
mod sodium;

pub use cookie::{Admission, COOKIE_SECRET_AGE, Freshness, Gate, MAX_FREE_HANDSHAKES, MAX_INITIATORS};
pub use handshake::{
    DatagramKind, Finished, HandshakeError, IK_INITIATION, Initiator, MAX_EARLY, MAX_REPLY, Response, XX_FIRST, XxResponder,
    receiver_index, respond,
};
pub use keys::{DeviceKey, Domain, Forged, derive, hash, keyed_hash, verify};
pub use session::{
    Cipher, DATA_HEADER, MAX_AEGIS_PLAINTEXT, MAX_DATAGRAM, MAX_PLAINTEXT, OpenError, REKEY_AFTER, REKEY_AFTER_DATAGRAMS, RELAY_HEADER,
    REPLAY_WINDOW, Session,
};
