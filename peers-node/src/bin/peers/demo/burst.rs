//! Work that is acknowledged piece by piece, cut short by SIGKILL; afterwards every acknowledged piece must be there.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::compare::read_only;
use super::edits::{Insert, open};
use super::peer::Peer;
use super::story::{database, history, topic};
use crate::body::Body;
use crate::control::Request;
use crate::control::answer::Progress;
use crate::control::request::Until;
use crate::failure::Failure;

/// What was acknowledged before the kill.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    /// Messages, by id.
    messages: Vec<(String, String)>,
    /// Rows written through the node.
    by_node: Vec<(u32, String)>,
    /// Rows written by another program, into the same file.
    by_others: Vec<(u32, String)>,
    /// Pieces under way when the kill came.
    cut: usize,
}

/// Lets four clients work on `peer` at once until enough is acknowledged, kills it in the middle, and gives what was acknowledged.
///
/// New rows get numbers from `first` on.
pub(crate) async fn until_killed(peer: &mut Peer, file: &Path, insert: &Insert, mark: &str, first: u32) -> Result<Burst> {
    let done = AtomicUsize::new(0);
    let text = |kind: &str, number: u32| format!("{kind} {number} ~{mark}-burst");
    let enough = || done.load(Ordering::Relaxed) >= ENOUGH;
    let working: &Peer = peer;
    let publish = async |lane: u32| {
        let mut acknowledged = Vec::new();
        for number in (lane..MAX_PIECES).step_by(2) {
            let text = text("message", number);
            let body = Body::Text(text.clone());
            match working
                .ask::<Progress>(&Request::Publish { topic: topic(), body, until: Until::Queued, copies: 0, timeout_ms: 10_000 })
                .await
            {
                Ok(progress) => acknowledged.push((progress.id, text)),
                Err(failure) => return ended(failure, acknowledged),
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok((acknowledged, 0))
    };
    let write = async {
        let mut acknowledged = Vec::new();
        for number in first..first + MAX_PIECES {
            let text = text("row", number);
            match working.ask::<Value>(&Request::Sql { database: database(), sql: insert.sql(number, &text) }).await {
                Ok(_) => acknowledged.push((number, text)),
                Err(failure) => return ended(failure, acknowledged),
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok((acknowledged, 0))
    };
    let others = async {
        let connection = open(file)?;
        let mut acknowledged = Vec::new();
        for number in first + MAX_PIECES..first + 2 * MAX_PIECES {
            if enough() {
                break;
            }
            let text = text("plain", number);
            connection.execute_batch(&insert.sql(number, &text))?;
            acknowledged.push((number, text));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, anyhow::Error>(acknowledged)
    };
    let kill = async {
        while !enough() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        working.kill_now()
    };
    let (even, odd, rows, others, killed) = tokio::join!(publish(0), publish(1), write, others, kill);
    killed?;
    let ((even, a), (odd, b), (by_node, c)) = (even?, odd?, rows?);
    peer.buried().await?;
    let burst = Burst { messages: [even, odd].concat(), by_node, by_others: others?, cut: a + b + c };
    ensure!(burst.cut > 0, "nothing was under way when the kill came");
    Ok(burst)
}

/// What a client has when its node is gone: what was acknowledged, and one piece under way.
fn ended<T>(failure: Failure, acknowledged: Vec<T>) -> Result<(Vec<T>, usize)> {
    if failure.code == crate::failure::Code::Unreachable { Ok((acknowledged, 1)) } else { Err(failure.into()) }
}

impl Burst {
    /// Every acknowledged piece is at `peer`, whose database is `file`.
    pub(crate) async fn check(&self, peer: &Peer, file: &Path, insert: &Insert) -> Result<()> {
        let known = history(peer).await?;
        let lost = self
            .messages
            .iter()
            .filter(|(id, text)| !known.iter().any(|message| message.id == *id && message.body == Body::Text(text.clone())))
            .count();
        ensure!(lost == 0, "{lost} of {} acknowledged messages are not there", self.messages.len());
        let connection = read_only(file)?;
        for (rows, who) in [(&self.by_node, "by the node"), (&self.by_others, "by another program")] {
            let mut lost = 0;
            for (number, text) in rows {
                lost += usize::from(!insert.field(*number).holds(&connection, text)?);
            }
            ensure!(lost == 0, "{lost} of {} acknowledged rows written {who} are not there", rows.len());
        }
        Ok(())
    }

    /// Every text that was written.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        let rows = self.by_node.iter().chain(&self.by_others).map(|(_, text)| text);
        self.messages.iter().map(|(_, text)| text).chain(rows).cloned()
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, by_node, by_others, cut } = self;
        let (messages, by_node, by_others) = (messages.len(), by_node.len(), by_others.len());
        write!(
            f,
            "{messages} messages, {by_node} rows written by the node, {by_others} by another program; {cut} under way when it was killed"
        )
    }
}

/// Pieces acknowledged before the kill.
const ENOUGH: usize = 90;
/// Pieces a client would write if nobody killed the node.
const MAX_PIECES: u32 = 5_000;
