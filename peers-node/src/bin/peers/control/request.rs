//! What a client asks of the node.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::body::Body;

/// A request: the field `request` names it, the others are its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// The node's status.
    Status {},
    /// Makes a code or link (an event), waits for the device that uses it (an event), and until it is linked.
    Invite {
        #[serde(default)]
        link: bool,
        #[serde(default)]
        confirm: bool,
    },
    /// Joins the user whose device made the code or link; an event once both have shown that they know it.
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
    /// Sends mail to the peer with that id, or the user's device with that name.
    Send { to: String, name: Option<String>, body: Body, until: Until, copies: u32, timeout_ms: u64 },
    /// An event per letter: the newest `last`, then those that come if `live`.
    Inbox { last: usize, live: bool },
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
        let topic = TopicName { label: "news".into(), passphrase: Some("open".into()) };
        let body = Body::new(b"\x00\x01");
        for request in [
            Request::Status {},
            Request::Invite { link: true, confirm: false },
            Request::Accept { code: "a b c d".into(), confirm: true },
            Request::Confirm { same: true },
            Request::Publish { topic: topic.clone(), body: body.clone(), until: Until::Stored, copies: 3, timeout_ms: 5 },
            Request::Follow { topic, last: 3, live: true, count: None },
            Request::Send { to: "bob".into(), name: None, body, until: Until::Delivered, copies: 1, timeout_ms: 1 },
            Request::Track { file: "/tmp/x".into(), tables: vec![], name: None, plain: true },
            Request::Sql { database, sql: "SELECT 1".into() },
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request, "{line}");
        }
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
