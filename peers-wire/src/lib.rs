#![doc = include_str!("../README.md")]

mod codec;
mod fragment;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod order;
mod packet;
mod reassembly;

pub use codec::{DecodeError, Reader, Writer};
pub use fragment::{MAX_FRAGMENTS, MAX_LEAVES, MAX_MESSAGE, Parent, Split, TooLarge, TreeShape, split};
pub use ids::{Link, PacketId, ParseIdError, PeerId, Signature, Timestamp, TopicId};
pub use order::{Ordered, causal_order};
pub use packet::{DEFAULT_LIFETIME, FragmentHeader, Header, MAX_PACKET, MAX_PAYLOAD, MAX_POSTAGE, MessageHeader, Packet, payload_digest};
pub use reassembly::{Complete, Config, Progress, Reassembly, Stats};
