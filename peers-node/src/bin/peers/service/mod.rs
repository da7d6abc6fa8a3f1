//! What the running node does for its clients: each request by the public API of [`Node`].

mod asking;
mod cache;
mod database;
mod errors;
mod group;
mod link;
mod mail;
mod recovery;
mod sql;
mod topic;

use core::time::Duration;

pub(crate) use link::mistyped;
use peers_node::Node;
pub(crate) use recovery::mistyped as mistyped_phrase;
use serde::Serialize;
use serde_json::Value;

use crate::control::Request;
use crate::control::server::Replies;
use crate::failure::Failure;

/// Longest wait for the network to be looked at, in ms.
const MAX_WAIT: u64 = 3_600_000;

/// Does what `request` asks and gives the answer; events go to `replies` meanwhile.
pub(crate) async fn run(request: Request, node: &Node, replies: &mut Replies) -> Result<Value, Failure> {
    match request {
        Request::Status {} => value(&node.status().await?),
        Request::Netcheck { wait_ms } => value(&node.netcheck(Duration::from_millis(wait_ms.min(MAX_WAIT))).await?),
        Request::Invite { link, confirm, to: None } => value(&link::invite(node, link, confirm, replies).await?),
        Request::Invite { link, confirm, to: Some(to) } => value(&group::invite(node, &to, link, confirm, replies).await?),
        Request::Accept { code, confirm } => value(&link::accept(node, &code, confirm, replies).await?),
        Request::Confirm { same } => {
            node.confirm_linking(same).await?;
            value(&serde_json::json!({}))
        }
        Request::Publish { topic, body, until, copies, timeout_ms } => {
            value(&topic::publish(node, &topic, &body, until, copies, timeout_ms).await?)
        }
        Request::Follow { topic, last, live, count } => value(&topic::follow(node, &topic, last, live, count, replies).await?),
        Request::Query { topic, body, timeout_ms, count } => value(&asking::query(node, &topic, &body, timeout_ms, count, replies).await?),
        Request::Answer { topic, body, count } => value(&asking::answer(node, &topic, &body, count, replies).await?),
        Request::Who { topic, timeout_ms } => value(&asking::who(node, &topic, timeout_ms).await?),
        Request::Announce { topic } => value(&asking::announce(node, &topic, replies).await?),
        Request::Send { to, name, body, until, copies, timeout_ms } => {
            let how = mail::How { until, copies, timeout_ms };
            value(&mail::send(node, &to, name.as_deref(), &body, how, replies).await?)
        }
        Request::Inbox { last, live } => value(&mail::inbox(node, last, live, replies).await?),
        Request::Trace { id, timeout_ms } => value(&cache::trace(node, &id, timeout_ms).await?),
        Request::Export { file, topic } => value(&cache::export(node, &file, topic.as_ref()).await?),
        Request::Import { file } => value(&cache::import(node, &file).await?),
        Request::Track { file, tables, name, plain } => value(&database::track(node, &file, &tables, name, plain).await?),
        Request::Untrack { database, tables } => value(&database::untrack(node, &database, &tables).await?),
        Request::Databases { database } => value(&database::status(node, database.as_ref()).await?),
        Request::Log { database, last } => value(&database::log(node, &database, last).await?),
        Request::Sql { database, sql } => value(&sql::run(node, &database, sql).await?),
        Request::Groups {} => value(&node.groups().await?),
        Request::CreateGroup { name } => value(&group::create(node, &name).await?),
        Request::Group { group } => value(&group::find(node, group.as_deref()).await?),
        Request::SetRole { group, member, role } => value(&group::set_role(node, &group, &member, role).await?),
        Request::RemoveMember { group, member } => value(&group::remove(node, group.as_deref(), &member).await?),
        Request::LeaveGroup { group } => value(&group::leave(node, &group).await?),
        Request::Rename { group, name } => value(&group::rename(node, group.as_deref(), &name).await?),
        Request::Audit { group } => value(&group::audit(node, group.as_deref()).await?),
        Request::AddRecovery { words, by, replace } => value(&recovery::add(node, &words, by.as_ref(), replace).await?),
        Request::RemoveRecovery { id, by } => value(&recovery::remove(node, id, &by).await?),
        Request::Restore { words } => value(&recovery::restore(node, &words).await?),
        Request::SetGuardians { need, contacts, by } => value(&recovery::set_guardians(node, need, &contacts, by.as_ref()).await?),
        Request::Wards {} => value(&node.wards().await?),
        Request::AskGuardians { user } => value(&recovery::ask(node, &user, replies).await?),
        Request::Endorse { device, user } => value(&recovery::endorse(node, device, &user).await?),
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
