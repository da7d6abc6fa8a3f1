//! Sending to one person, and what was sent here.

use core::time::Duration;

use hashbrown::HashSet;
use peers_node::{Mail, Node, NodeEvent};
use peers_wire::PeerId;
use tokio::time::timeout;

use super::bytes;
use crate::body::Body;
use crate::control::answer;
use crate::control::request::Until;
use crate::control::server::Replies;
use crate::failure::{Code, Failure};

pub(crate) async fn send(
    node: &Node,
    to: &str,
    name: Option<&str>,
    body: &Body,
    until: Until,
    copies: u32,
    timeout_ms: u64,
) -> Result<answer::Progress, Failure> {
    let body = bytes(body)?;
    let recipient = find(node, to).await?;
    let mut sending = node.send(recipient, name, body.into()).await?;
    let limit = Duration::from_millis(timeout_ms);
    let (arrived, waited) = match until {
        Until::Queued => (true, false),
        Until::Stored => (timeout(limit, sending.stored(copies)).await.is_ok(), false),
        Until::Delivered => (timeout(limit, sending.delivered()).await.is_ok(), true),
    };
    let holders = sending.holders();
    if arrived {
        let delivered = waited || holders == u32::MAX;
        return Ok(answer::Progress {
            id: sending.id(),
            copies: if holders == u32::MAX { 0 } else { holders },
            delivered: Some(delivered),
        });
    }
    Err(if holders > 0 {
        Failure::new(Code::Stored, format!("{to} has not taken it within {timeout_ms} ms; {holders} other peers hold it"))
            .hint("it is delivered when the recipient comes online; nothing needs to be done")
    } else {
        Failure::new(
            Code::Unreachable,
            format!("{to} cannot be reached, and no other peer holds it after {timeout_ms} ms; it is kept here"),
        )
        .hint("it is sent when peers are met while `peers up` runs: see `peers status`")
    })
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
    if let Ok(id) = to.parse() {
        return Ok(id);
    }
    let devices = node.status().await?.user.devices;
    let mut named = devices.iter().filter(|device| device.name == to && !device.this);
    match (named.next(), named.next()) {
        (Some(device), None) => Ok(device.id),
        (Some(_), Some(_)) => Err(Failure::failed(format!("several of your devices are named {to}"))
            .hint("give the id of the one that you mean: see `peers status`")),
        (None, _) if devices.iter().any(|device| device.name == to) => {
            Err(Failure::failed(format!("{to} is this device")).hint("give the name of another of your devices, or the id of a peer"))
        }
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
