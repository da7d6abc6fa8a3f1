//! What the running node does for its clients: each request by the public API of [`Node`].

mod database;
mod errors;
mod link;
mod mail;
mod sql;
mod topic;

pub(crate) use link::mistyped;
use peers_node::Node;
use serde::Serialize;
use serde_json::Value;

use crate::control::Request;
use crate::control::server::Replies;
use crate::failure::Failure;

/// Does what `request` asks and gives the answer; events go to `replies` meanwhile.
pub(crate) async fn run(request: Request, node: &Node, replies: &mut Replies) -> Result<Value, Failure> {
    match request {
        Request::Status {} => value(&node.status().await?),
        Request::Invite { link, confirm } => value(&link::invite(node, link, confirm, replies).await?),
        Request::Accept { code, confirm } => value(&link::accept(node, &code, confirm, replies).await?),
        Request::Confirm { same } => {
            node.confirm_linking(same).await?;
            value(&serde_json::json!({}))
        }
        Request::Publish { topic, body, until, copies, timeout_ms } => {
            value(&topic::publish(node, &topic, &body, until, copies, timeout_ms).await?)
        }
        Request::Follow { topic, last, live, count } => value(&topic::follow(node, &topic, last, live, count, replies).await?),
        Request::Send { to, name, body, until, copies, timeout_ms } => {
            value(&mail::send(node, &to, name.as_deref(), &body, until, copies, timeout_ms).await?)
        }
        Request::Inbox { last, live } => value(&mail::inbox(node, last, live, replies).await?),
        Request::Track { file, tables, name, plain } => value(&database::track(node, &file, &tables, name, plain).await?),
        Request::Untrack { database, tables } => value(&database::untrack(node, &database, &tables).await?),
        Request::Databases { database } => value(&database::status(node, database.as_ref()).await?),
        Request::Log { database, last } => value(&database::log(node, &database, last).await?),
        Request::Sql { database, sql } => value(&sql::run(node, &database, sql).await?),
    }
}

/// An answer as JSON.
pub(crate) fn value(answer: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(answer).map_err(|error| Failure::failed(format!("the answer cannot be written as JSON: {error}")))
}

/// The bytes of a message.
fn bytes(body: &crate::body::Body) -> Result<Vec<u8>, Failure> {
    body.bytes().ok_or_else(|| Failure::usage("the blob of the message is not hexadecimal"))
}
