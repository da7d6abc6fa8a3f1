//! Publishing to topics, and following them.

use core::time::Duration;

use hashbrown::HashSet;
use peers_crypto::TopicKey;
use peers_node::{Message, Node, Topic};
use tokio::time::timeout;

use super::bytes;
use crate::body::Body;
use crate::control::answer;
use crate::control::request::{TopicName, Until};
use crate::control::server::Replies;
use crate::failure::{Code, Failure};

pub(crate) async fn publish(
    node: &Node,
    topic: &TopicName,
    body: &Body,
    until: Until,
    copies: u32,
    timeout_ms: u64,
) -> Result<answer::Progress, Failure> {
    let body = bytes(body)?;
    let mut publication = join(node, topic).await?.publish(body).await?;
    if until >= Until::Stored && timeout(Duration::from_millis(timeout_ms), publication.stored(copies)).await.is_err() {
        let holders = publication.holders();
        return Err(Failure::new(
            Code::Unreachable,
            format!("{} of {copies} peers hold the message after {timeout_ms} ms; it is kept here", holders),
        )
        .hint("it is passed on when peers are met: see `peers status`"));
    }
    Ok(answer::Progress { id: publication.id().to_string(), copies: publication.holders(), delivered: None })
}

pub(crate) async fn follow(
    node: &Node,
    topic: &TopicName,
    last: usize,
    live: bool,
    count: Option<usize>,
    replies: &mut Replies,
) -> Result<answer::Count, Failure> {
    let topic = join(node, topic).await?;
    // First the live ones, then the history: none falls between, and what is in both is sent once.
    let mut messages = topic.subscribe();
    let history = if last > 0 { topic.history(last).await? } else { Vec::new() };
    let known: HashSet<_> = history.iter().map(|message| message.id).collect();
    let limit = count.unwrap_or(usize::MAX);
    let mut sent = 0;
    for message in history.into_iter().take(limit) {
        replies.event(&shown(message)).await?;
        sent += 1;
    }
    while live && sent < limit {
        let Some(message) = messages.next().await else { break };
        if !known.contains(&message.id) {
            replies.event(&shown(message)).await?;
            sent += 1;
        }
    }
    Ok(answer::Count { count: sent })
}

/// The topic: shared with those who know the passphrase, else the user's own.
pub(super) async fn join(node: &Node, topic: &TopicName) -> Result<Topic, Failure> {
    if topic.group {
        let group = node.group_topic(super::group::id(node, Some(&topic.label)).await?).await?;
        return group.ok_or_else(|| Failure::failed(format!("this device is not in {} any more", topic.label)));
    }
    let Some(passphrase) = &topic.passphrase else { return Ok(node.user_topic(&topic.label).await?) };
    // The label is part of what is hashed: one passphrase serves several topics.
    let secret = format!("{}\n{passphrase}", topic.label);
    let key = tokio::task::spawn_blocking(move || TopicKey::from_passphrase(&secret)).await;
    let key = key.map_err(|error| Failure::failed(format!("the key of the topic could not be made: {error}")))?;
    Ok(node.labelled_topic(&topic.label, &key).await?)
}

fn shown(message: Message) -> answer::Message {
    answer::Message {
        id: message.id.to_string(),
        author: message.author.to_string(),
        author_name: message.author_name,
        created: message.created.0,
        body: Body::new(&message.payload),
    }
}
