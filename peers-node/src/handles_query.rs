//! What [`Topic`] offers beside messages: questions, and who is there.

use std::time::Duration;

use bytes::Bytes;
use peers_cache::QueryId;
use peers_wire::{PeerId, TopicId};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc};

use crate::asking::QueryError;
use crate::driver::Driver;
use crate::handles::Topic;
use crate::node::{Closed, Node};
use crate::types::{Answer, NodeEvent, PresentStatus, Query};

/// Answers that wait for who asked.
const MAX_WAITING: usize = 512;

/// Why a question was not asked or answered.
#[derive(Debug, Error)]
pub enum AskingError {
    /// It cannot be.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The node is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Where answers go.
pub(crate) type Waiting = mpsc::Sender<Answer>;

impl Topic {
    /// Asks everyone who follows the topic now, and waits `patience` for answers, at most a minute; dropping what this gives ends the question everywhere.
    ///
    /// # Errors
    /// [`AskingError`]
    pub async fn query(&self, body: impl Into<Bytes>, patience: Duration) -> Result<Answers, AskingError> {
        let (topic, body) = (self.id, body.into());
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let asked = self.node.call(move |driver, now, wall| {
            let query = driver.stack.query(now, wall, topic, &body, patience)?;
            driver.queries.insert(query, sender);
            Ok::<_, QueryError>(query)
        });
        let query = asked.await??;
        Ok(Answers { node: self.node.clone(), query, receiver })
    }

    /// The questions of others from now on.
    pub fn queries(&self) -> Queries {
        Queries { topic: self.id, node: self.node.clone(), receiver: self.node.shared.events.subscribe() }
    }

    /// Is there from now on, and says so, until what this gives is dropped: others who are there, or ask who is, hear of this device.
    ///
    /// # Errors
    /// [`AskingError`]
    pub async fn announce(&self) -> Result<Presence, AskingError> {
        let topic = self.id;
        self.node
            .call(move |driver, now, wall| {
                driver.stack.set_present(now, wall, topic, true)?;
                *driver.present.entry(topic).or_default() += 1;
                Ok::<_, QueryError>(())
            })
            .await??;
        Ok(Presence { node: self.node.clone(), topic, receiver: self.node.shared.events.subscribe() })
    }

    /// The name of a device, where it is known.
    ///
    /// # Errors
    /// [`Closed`]
    pub async fn who_is(&self, peer: PeerId) -> Result<Option<String>, Closed> {
        let topic = self.id;
        self.node.call(move |driver, _, _| driver.name_in(topic, peer)).await
    }

    /// Who is there: those known already, and those who answer within `patience`. This device is among them if it is there.
    ///
    /// # Errors
    /// [`AskingError`]
    pub async fn who(&self, patience: Duration) -> Result<Vec<PresentStatus>, AskingError> {
        let topic = self.id;
        self.node.call(move |driver, now, wall| driver.stack.ask_who(now, wall, topic, patience)).await??;
        tokio::time::sleep(patience).await;
        Ok(self.node.call(move |driver, _, _| driver.present_on(topic)).await?)
    }
}

/// Answers to one question.
#[derive(Debug)]
pub struct Answers {
    node: Node,
    query: QueryId,
    receiver: mpsc::Receiver<Answer>,
}

impl Answers {
    /// The next answer, the first of each device; none when the time of the question is over.
    pub async fn next(&mut self) -> Option<Answer> {
        self.receiver.recv().await
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let query = self.query;
        self.node.post(move |driver, now, wall| {
            if driver.queries.remove(&query).is_some() {
                driver.stack.cancel_query(now, wall, query);
            }
        });
    }
}

/// Questions of others on a topic.
#[derive(Debug)]
pub struct Queries {
    topic: TopicId,
    node: Node,
    receiver: broadcast::Receiver<NodeEvent>,
}

impl Queries {
    /// The next question; none when the node is closed. A reader that is too slow misses some.
    pub async fn next(&mut self) -> Option<Query> {
        loop {
            match self.receiver.recv().await {
                Ok(NodeEvent::Query(query)) if query.topic == self.topic => return Some(query),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Answers a question, once.
    ///
    /// # Errors
    /// [`AskingError`]
    pub async fn answer(&self, query: &Query, body: impl Into<Bytes>) -> Result<(), AskingError> {
        let (id, body) = (QueryId(query.id), body.into());
        Ok(self.node.call(move |driver, now, wall| driver.stack.answer(now, wall, id, &body)).await??)
    }
}

/// This device is there, on a topic, as long as this is not dropped.
#[derive(Debug)]
pub struct Presence {
    node: Node,
    topic: TopicId,
    receiver: broadcast::Receiver<NodeEvent>,
}

impl Presence {
    /// The next who comes (true) or goes; none when the node is closed. Who says again to be there comes again.
    pub async fn next(&mut self) -> Option<(PeerId, bool)> {
        loop {
            match self.receiver.recv().await {
                Ok(NodeEvent::Present { topic, peer }) if topic == self.topic => return Some((peer, true)),
                Ok(NodeEvent::Absent { topic, peer }) if topic == self.topic => return Some((peer, false)),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let topic = self.topic;
        self.node.post(move |driver, now, wall| {
            let left = driver.present.get_mut(&topic).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                driver.present.remove(&topic);
                let _ = driver.stack.set_present(now, wall, topic, false);
            }
        });
    }
}

impl Driver {
    fn present_on(&self, topic: TopicId) -> Vec<PresentStatus> {
        let own = self.stack.is_present(topic).then(|| PresentStatus {
            id: self.stack.id(),
            name: self.name_in(topic, self.stack.id()),
            this: true,
            until: None,
        });
        let others = self.stack.who(topic).into_iter().map(|present| PresentStatus {
            id: present.peer,
            name: self.name_in(topic, present.peer),
            this: false,
            until: Some(present.until),
        });
        own.into_iter().chain(others).collect()
    }

    /// An answer, for who asked here.
    pub(crate) fn on_answer(&mut self, query: QueryId, from: PeerId, body: Bytes) {
        if let Some(waiting) = self.queries.get(&query) {
            // Who does not take what it asked for misses some.
            let _ = waiting.try_send(Answer { from, from_name: self.name_of(from), body });
        }
    }
}
