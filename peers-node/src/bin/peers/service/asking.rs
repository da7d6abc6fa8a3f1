//! Questions on topics, and who is there.

use core::time::Duration;

use peers_node::{AskingError, Node, PresentStatus, QueryError};

use super::bytes;
use super::topic::join;
use crate::body::Body;
use crate::control::answer::{Coming, Count, Said};
use crate::control::request::TopicName;
use crate::control::server::Replies;
use crate::failure::Failure;

/// Longest wait for answers, in ms.
const MAX_PATIENCE: u64 = 60_000;

pub(crate) async fn query(
    node: &Node,
    topic: &TopicName,
    body: &Body,
    timeout_ms: u64,
    count: Option<usize>,
    replies: &mut Replies,
) -> Result<Count, Failure> {
    let topic = join(node, topic).await?;
    let mut answers = topic.query(bytes(body)?, Duration::from_millis(timeout_ms.min(MAX_PATIENCE))).await?;
    let mut sent = 0;
    while sent < count.unwrap_or(usize::MAX)
        && let Some(answer) = answers.next().await
    {
        let said = Said { from: answer.from.to_string(), from_name: answer.from_name, body: Body::new(&answer.body) };
        replies.event(&said).await?;
        sent += 1;
    }
    Ok(Count { count: sent })
}

pub(crate) async fn answer(
    node: &Node,
    topic: &TopicName,
    body: &Body,
    count: Option<usize>,
    replies: &mut Replies,
) -> Result<Count, Failure> {
    let body = bytes(body)?;
    let mut queries = join(node, topic).await?.queries();
    let mut sent = 0;
    while sent < count.unwrap_or(usize::MAX)
        && let Some(query) = queries.next().await
    {
        match queries.answer(&query, body.clone()).await {
            // Another program has answered, or nobody waits any more.
            Ok(()) | Err(AskingError::Query(QueryError::Closed)) => {}
            Err(error) => return Err(error.into()),
        }
        replies.event(&Said { from: query.from.to_string(), from_name: query.from_name, body: Body::new(&query.body) }).await?;
        sent += 1;
    }
    Ok(Count { count: sent })
}

pub(crate) async fn who(node: &Node, topic: &TopicName, timeout_ms: u64) -> Result<Vec<PresentStatus>, Failure> {
    Ok(join(node, topic).await?.who(Duration::from_millis(timeout_ms.min(MAX_PATIENCE))).await?)
}

pub(crate) async fn announce(node: &Node, topic: &TopicName, replies: &mut Replies) -> Result<Count, Failure> {
    let topic = join(node, topic).await?;
    let mut presence = topic.announce().await?;
    let (mut there, mut sent) = (hashbrown::HashSet::new(), 0);
    while let Some((id, here)) = presence.next().await {
        // Who says again to be there has not come again.
        if if here { there.insert(id) } else { there.remove(&id) } {
            let name = topic.who_is(id).await?;
            replies.event(&Coming { id: id.to_string(), name, here }).await?;
            sent += 1;
        }
    }
    Ok(Count { count: sent })
}

impl From<AskingError> for Failure {
    fn from(error: AskingError) -> Self {
        match error {
            AskingError::Closed(closed) => closed.into(),
            AskingError::Query(QueryError::TooLarge | QueryError::Answer(_)) => Self::usage(error.to_string()),
            AskingError::Query(_) => Self::failed(error.to_string()),
        }
    }
}
