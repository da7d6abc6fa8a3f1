//! Sending to one person, and what was sent here.

use core::time::Duration;

use hashbrown::HashSet;
use peers_node::{LetterState, Mail, Node, NodeEvent, Sending};
use peers_wire::PeerId;
use tokio::time::timeout;

use super::bytes;
use crate::body::Body;
use crate::control::answer;
use crate::control::request::Until;
use crate::control::server::Replies;
use crate::failure::{Code, Failure};
use crate::text::plural;

/// What to wait for, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) until: Until,
    pub(crate) copies: u32,
    pub(crate) timeout_ms: u64,
}

pub(crate) async fn send(
    node: &Node,
    to: &str,
    name: Option<&str>,
    body: &Body,
    how: How,
    replies: &mut Replies,
) -> Result<answer::Progress, Failure> {
    let How { until, copies, timeout_ms } = how;
    let body = bytes(body)?;
    let recipient = find(node, to).await?;
    let mut sending = node.send(recipient, name, body.into()).await?;
    let state = match until {
        Until::Queued => LetterState::Queued,
        _ => {
            let waited = timeout(Duration::from_millis(timeout_ms), wait(&mut sending, until, copies, replies)).await;
            waited.unwrap_or_else(|_| Ok(sending.state()))?
        }
    };
    match state {
        state if until == Until::Queued || reached(state, until, copies) => Ok(progress(&sending, state)),
        LetterState::Stored(holders) if holders > 0 => {
            let held = plural(holders as usize, "other peer holds", "other peers hold");
            Err(Failure::new(Code::Stored, format!("{to} has not taken it within {timeout_ms} ms; {held} it"))
                .hint("it is delivered when the recipient comes online; nothing needs to be done"))
        }
        LetterState::Expired => {
            Err(Failure::new(Code::Unreachable, format!("{to} has not come for it: it has expired in the caches of others"))
                .hint("it is kept here, and goes when both are online at the same time"))
        }
        _ => Err(Failure::new(
            Code::Unreachable,
            format!("{to} cannot be reached, and no other peer holds it after {timeout_ms} ms; it is kept here"),
        )
        .hint("it is sent when peers are met while `peers up` runs: see `peers status`")),
    }
}

/// Waits for a letter to get so far, and tells each step.
async fn wait(sending: &mut Sending, until: Until, copies: u32, replies: &mut Replies) -> Result<LetterState, Failure> {
    let mut told = None;
    loop {
        let state = sending.state();
        if told.replace(state) != Some(state) {
            replies.event(&progress(sending, state)).await?;
        }
        if reached(state, until, copies) || state == LetterState::Expired {
            return Ok(state);
        }
        // Asks for as many receipts as are wanted.
        if until == Until::Stored {
            sending.want(copies).await?;
        }
        sending.changed().await?;
    }
}

const fn reached(state: LetterState, until: Until, copies: u32) -> bool {
    match state {
        LetterState::Delivered => true,
        LetterState::Stored(holders) => matches!(until, Until::Stored) && holders >= copies,
        LetterState::Queued | LetterState::Expired => false,
    }
}

fn progress(sending: &Sending, state: LetterState) -> answer::Progress {
    let copies = if let LetterState::Stored(holders) = state { holders } else { 0 };
    answer::Progress { id: sending.id(), copies, delivered: Some(state == LetterState::Delivered) }
}

pub(crate) async fn inbox(node: &Node, last: usize, live: bool, replies: &mut Replies) -> Result<answer::Count, Failure> {
    let mut events = node.events();
    let kept = node.inbox(last).await?;
    let known: HashSet<_> = kept.iter().map(|mail| mail.id.clone()).collect();
    let mut sent = kept.len();
    for mail in kept {
        replies.event(&shown(mail)).await?;
    }
    if !live {
        return Ok(answer::Count { count: sent });
    }
    while let Some(event) = events.next().await {
        if let NodeEvent::Mail(mail) = event
            && !known.contains(&mail.id)
        {
            replies.event(&shown(mail)).await?;
            sent += 1;
        }
    }
    Ok(answer::Count { count: sent })
}

/// The peer with that id, or the user's other device with that name.
async fn find(node: &Node, to: &str) -> Result<PeerId, Failure> {
    let this = || Failure::failed(format!("{to} is this device")).hint("give the name of another of your devices, or the id of a peer");
    if let Ok(id) = to.parse() {
        return if id == node.id() { Err(this()) } else { Ok(id) };
    }
    let devices = node.status().await?.user.devices;
    let mut named = devices.iter().filter(|device| device.name == to && !device.this);
    match (named.next(), named.next()) {
        (Some(device), None) => Ok(device.id),
        (Some(_), Some(_)) => Err(Failure::failed(format!("several of your devices are named {to}"))
            .hint("give the id of the one that you mean: see `peers status`")),
        (None, _) if devices.iter().any(|device| device.name == to) => Err(this()),
        (None, _) => Err(Failure::failed(format!("no peer is known as {to}: none of your devices has that name, and it is no id"))
            .hint("see `peers status` for the names of your devices; other people are sent to by the id that `peers id` prints there")),
    }
}

fn shown(mail: Mail) -> answer::Mail {
    answer::Mail {
        id: mail.id,
        from: mail.from.to_string(),
        from_name: mail.from_name,
        created: mail.created.0,
        name: mail.name,
        body: Body::new(&mail.body),
    }
}
