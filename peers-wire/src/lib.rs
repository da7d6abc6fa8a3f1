//! Placeholder.
mod codec;
mod ids;

pub use codec::{DecodeError, Reader, Writer};
pub use ids::{Link, PacketId, ParseIdError, PeerId, Signature, Timestamp, TopicId};
