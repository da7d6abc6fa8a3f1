//! The cache lent to everyone.

use core::time::Duration;
use std::path::Path;

use peers_node::{CarryError, Node, PacketsExported, PacketsImported, TraceStatus};
use peers_wire::PacketId;

use super::topic;
use crate::body::unhex;
use crate::control::request::TopicName;
use crate::failure::Failure;

/// Longest wait for neighbours, in ms.
const MAX_PATIENCE: u64 = 60_000;

pub(crate) async fn trace(node: &Node, id: &str, timeout_ms: u64) -> Result<TraceStatus, Failure> {
    let packet = match (id.parse::<PacketId>(), unhex(id).and_then(|id| <[u8; 16]>::try_from(id).ok())) {
        (Ok(packet), _) => packet,
        (_, Some(letter)) => node.packet_of_letter(letter).await?.ok_or_else(|| {
            Failure::failed(format!("no packet of letter {id} is in the caches of others"))
                .hint("it was delivered directly or is on its way, has expired, or was not sent from here since the node started")
        })?,
        _ => {
            return Err(Failure::usage(format!("{id} is no id of a packet or letter"))
                .hint("give the whole id that `peers topic publish` or `peers --json send` printed"));
        }
    };
    Ok(node.trace_packet(packet, Duration::from_millis(timeout_ms.min(MAX_PATIENCE))).await?)
}

pub(crate) async fn export(node: &Node, file: &Path, topic: Option<&TopicName>) -> Result<PacketsExported, Failure> {
    let topic = match topic {
        Some(name) => Some(topic::join(node, name).await?.id()),
        None => None,
    };
    Ok(node.export_packets(file, topic).await?)
}

pub(crate) async fn import(node: &Node, file: &Path) -> Result<PacketsImported, Failure> {
    Ok(node.import_packets(file).await?)
}

impl From<CarryError> for Failure {
    fn from(error: CarryError) -> Self {
        let hint = match &error {
            CarryError::Closed(closed) => return (*closed).into(),
            CarryError::Io { .. } => "check the file, its folder and the space on the disk",
            CarryError::Alien(_) => "give a file that `peers cache export` wrote",
            CarryError::Version { .. } => "use the version of peers that wrote it, or a newer one",
            CarryError::Damaged { .. } => "write it again where it comes from; what is whole can be imported twice",
            CarryError::TooLarge { .. } => "export one topic at a time",
        };
        Self::failed(error.to_string()).hint(hint)
    }
}
