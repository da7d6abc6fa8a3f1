//! What a client asks of the node.

use std::path::PathBuf;

use core::fmt;

use peers_wire::PeerId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::args::RoleName;
use crate::body::Body;

/// A request: the field `request` names it, the others are its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// The node's status.
    Status {},
    /// Looks at the network, for at most `wait_ms`.
    Netcheck { wait_ms: u64 },
    /// Makes a code or link (an event), waits for the device that uses it (an event), and until it is linked.
    Invite {
        #[serde(default)]
        link: bool,
        #[serde(default)]
        confirm: bool,
        /// To which group, and as what; else to the user.
        #[serde(default)]
        to: Option<Place>,
    },
    /// Joins the user or group to which the code or link invites; an event once both have shown that they know it.
    Accept {
        code: String,
        #[serde(default)]
        confirm: bool,
    },
    /// Whether both devices show the same words, where `confirm` asks for it.
    Confirm { same: bool },
    /// Publishes a message.
    Publish { topic: TopicName, body: Body, until: Until, copies: u32, timeout_ms: u64 },
    /// An event per message: the last `last` known, then those that come if `live`; ends after `count`.
    Follow { topic: TopicName, last: usize, live: bool, count: Option<usize> },
    /// Asks everyone who follows a topic: an event per answer; ends after `count`, or the timeout.
    Query { topic: TopicName, body: Body, timeout_ms: u64, count: Option<usize> },
    /// Answers every question on a topic with `body`: an event per question; ends after `count`.
    Answer { topic: TopicName, body: Body, count: Option<usize> },
    /// Who is there, on a topic; those who answer within the timeout, too.
    Who { topic: TopicName, timeout_ms: u64 },
    /// Announces this device on a topic until the request is cancelled; an event for each who comes or goes.
    Announce { topic: TopicName },
    /// Sends mail to the peer with that id, or the user's device with that name.
    Send { to: String, name: Option<String>, body: Body, until: Until, copies: u32, timeout_ms: u64 },
    /// An event per letter: the newest `last`, then those that come if `live`.
    Inbox { last: usize, live: bool },
    /// Where a packet is, by its id or that of a letter.
    Trace { id: String, timeout_ms: u64 },
    /// Writes packets into a file, of all topics or of one. `file` is absolute.
    Export { file: PathBuf, topic: Option<TopicName> },
    /// Takes in the packets of a file. `file` is absolute.
    Import { file: PathBuf },
    /// Tracks tables of a database, all if none is named. `file` is absolute.
    Track { file: PathBuf, tables: Vec<String>, name: Option<String>, plain: bool },
    /// Stops tracking tables, all if none is named.
    Untrack { database: DatabaseRef, tables: Vec<String> },
    /// The status of every database, or of one.
    Databases { database: Option<DatabaseRef> },
    /// The last changes of a database, newest last.
    Log { database: DatabaseRef, last: usize },
    /// Runs SQL on a database.
    Sql { database: DatabaseRef, sql: String },
    /// Every group of this device.
    Groups {},
    /// Makes a group.
    CreateGroup { name: String },
    /// The group of that name or id; without one the user.
    Group { group: Option<String> },
    /// Gives a member of a group another role.
    SetRole { group: String, member: String, role: RoleName },
    /// Removes a member of a group, all devices of a user from it, or, without a group, a device of the user.
    RemoveMember { group: Option<String>, member: String },
    /// Leaves a group.
    LeaveGroup { group: String },
    /// Renames a group, or the user.
    Rename { group: Option<String>, name: String },
    /// Who can read what, of a group or of the user.
    Audit { group: Option<String> },
    /// Adds a recovery phrase by the word of another, which `replace` makes void.
    AddRecovery {
        words: Secret,
        #[serde(default)]
        by: Option<Secret>,
        #[serde(default)]
        replace: bool,
    },
    /// Makes a recovery phrase void by its own word or that of another.
    RemoveRecovery { id: PeerId, by: Secret },
    /// Makes this device the user's of that recovery phrase.
    Restore { words: Secret },
    /// Chooses guardians; by the word of a recovery phrase, where there is one.
    SetGuardians {
        need: u8,
        contacts: Vec<String>,
        #[serde(default)]
        by: Option<Secret>,
    },
    /// For whom this device is a guardian.
    Wards {},
    /// Waits for the word of the guardians of a user; an event for each that has come.
    AskGuardians { user: String },
    /// Vouches, as a guardian, that a device belongs to a user.
    Endorse { device: PeerId, user: String },
}

/// Where an invitation leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    pub(crate) group: String,
    pub(crate) role: RoleName,
}

/// Words that nobody is to see: in no log, and gone from memory when they are dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Which topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopicName {
    /// What the user calls it.
    pub(crate) label: String,
    /// Shared with everyone who knows this; else the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) passphrase: Option<String>,
    /// It is a group's, of that name or id.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) group: bool,
}

/// Which database: the one of that name, else the one at that path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DatabaseRef {
    pub(crate) name: String,
    /// `name` as an absolute path.
    pub(crate) path: PathBuf,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Until {
    /// It is durable here.
    Queued,
    /// Other peers hold it.
    Stored,
    /// The recipient has it.
    Delivered,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back_and_unknown_ones_do_not() {
        let database = DatabaseRef { name: "notes".into(), path: "/tmp/notes".into() };
        let topic = TopicName { label: "news".into(), passphrase: Some("open".into()), group: false };
        let friends = TopicName { label: "friends".into(), passphrase: None, group: true };
        let body = Body::new(b"\x00\x01");
        for request in [
            Request::Status {},
            Request::Invite { link: true, confirm: false, to: Some(Place { group: "friends".into(), role: RoleName::Writer }) },
            Request::Accept { code: "a b c d".into(), confirm: true },
            Request::Confirm { same: true },
            Request::Publish { topic: topic.clone(), body: body.clone(), until: Until::Stored, copies: 3, timeout_ms: 5 },
            Request::Follow { topic, last: 3, live: true, count: None },
            Request::Send { to: "bob".into(), name: None, body, until: Until::Delivered, copies: 1, timeout_ms: 1 },
            Request::Track { file: "/tmp/x".into(), tables: vec![], name: None, plain: true },
            Request::Sql { database, sql: "SELECT 1".into() },
            Request::Follow { topic: friends, last: 3, live: true, count: None },
            Request::RemoveMember { group: None, member: "phone".into() },
            Request::AddRecovery { words: Secret("one two".into()), by: Some(Secret("three".into())), replace: true },
            Request::Endorse { device: PeerId([7; 32]), user: "bob".into() },
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request, "{line}");
        }
        assert!(!format!("{:?}", Request::Restore { words: Secret("abandon".into()) }).contains("abandon"));
        for line in [
            "",
            "{}",
            "[]",
            r#"{"request":"format_disk"}"#,
            r#"{"request":"status","and":1}"#,
            r#"{"request":"accept"}"#,
            "{\"request\":\"status\"",
            "\u{0}",
        ] {
            assert!(serde_json::from_str::<Request>(line).is_err(), "{line}");
        }
    }
}
