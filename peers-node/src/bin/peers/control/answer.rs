//! What the node answers; the same objects that `--json` prints.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::Body;

/// How far a message or a letter got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) id: String,
    /// Other peers known to hold it.
    pub(crate) copies: u32,
    /// Its recipient has it; only of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivered: Option<bool>,
}

/// How far a linking has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LinkEvent {
    /// The code of an invitation, which waits for it to be used.
    Code(String),
    /// The link of an invitation.
    Link(String),
    /// The other device has the same code or link; nothing secret has been sent yet.
    Matched(peers_node::Matched),
}

/// The other device of a link that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Linked {
    pub(crate) device: String,
    pub(crate) name: String,
    /// The same on both devices, for people to compare.
    pub(crate) words: String,
    /// Other devices that came to the invitation.
    pub(crate) others: usize,
}

/// Members that were removed from a group, or devices from the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// The group, or the user.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) removed: Vec<peers_node::MemberStatus>,
    /// Devices of the same users that are still in it.
    pub(crate) remaining: Vec<peers_node::MemberStatus>,
    /// Members that those removed had admitted, and that are still in it: a thief's, perhaps.
    pub(crate) admitted: Vec<peers_node::MemberStatus>,
}

/// A recovery phrase that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoveryKey {
    /// The key that the phrase stands for.
    pub(crate) key: peers_wire::PeerId,
    /// The words; only in the output of the command that made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) words: Option<String>,
    /// The key that it takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaced: Option<peers_wire::PeerId>,
}

/// A message of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) author: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) author_name: Option<String>,
    /// ms since the Unix epoch, by the author's clock.
    pub(crate) created: u64,
    pub(crate) body: Body,
}

/// A question, or an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from_name: Option<String>,
    pub(crate) body: Body,
}

/// Somebody comes, or goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Coming {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// It is there; else it has left.
    pub(crate) here: bool,
}

/// The end of a stream of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Events that were sent.
    pub(crate) count: usize,
}

/// A letter in the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mail {
    pub(crate) id: String,
    pub(crate) from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from_name: Option<String>,
    /// ms since the Unix epoch, by the sender's clock.
    pub(crate) created: u64,
    /// A file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) body: Body,
}

/// A database of which tables are now tracked, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tracked {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The file is encrypted.
    pub(crate) sealed: bool,
    /// The file did not exist.
    pub(crate) made: bool,
    /// Every table that is tracked now.
    pub(crate) tables: Vec<String>,
    /// Tables that were to be tracked and cannot be.
    #[serde(default)]
    pub(crate) left_out: Vec<LeftOut>,
}

/// A table that cannot be tracked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) table: String,
    pub(crate) reason: String,
}

/// One change of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// ms since the Unix epoch, by the writer's clock.
    pub(crate) time: u64,
    pub(crate) author: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) author_name: Option<String>,
    pub(crate) table: String,
    /// The row's primary key; cells as in [`Rows`].
    pub(crate) key: Vec<Value>,
    /// Columns written; none of a row that was deleted, or has nothing but its key.
    pub(crate) columns: Vec<String>,
    pub(crate) deleted: bool,
}

/// What SQL gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    /// A cell is null, a number, a text, or an object: `{"blob": "<hex>"}`, `{"real": "inf"}`.
    pub(crate) rows: Vec<Vec<Value>>,
    /// Rows inserted, updated and deleted.
    pub(crate) changed: u64,
    /// There were more rows than are given.
    pub(crate) truncated: bool,
}
