//! Linking devices.

use peers_crypto::Ticket;
use peers_node::{Invitation, LinkOptions, Node};

use crate::control::answer::{LinkEvent, Linked};
use crate::control::server::Replies;
use crate::failure::Failure;

pub(crate) async fn invite(node: &Node, by_link: bool, confirm: bool, replies: &mut Replies) -> Result<Linked, Failure> {
    invite_with(node.invite(LinkOptions { by_link, confirm }).await?, replies).await
}

/// Shows the ticket of an invitation, who takes it, and how it ends.
pub(super) async fn invite_with(mut invitation: Invitation, replies: &mut Replies) -> Result<Linked, Failure> {
    let ticket = match invitation.ticket() {
        Ticket::Code(code) => LinkEvent::Code(code.to_string()),
        Ticket::Link(link) => LinkEvent::Link(link.to_string()),
    };
    replies.event(&ticket).await?;
    if let Some(matched) = invitation.matched().await {
        replies.event(&LinkEvent::Matched(matched)).await?;
    }
    Ok(shown(invitation.wait().await?))
}

pub(crate) async fn accept(node: &Node, code: &str, confirm: bool, replies: &mut Replies) -> Result<Linked, Failure> {
    let ticket: Ticket = code.parse().map_err(mistyped)?;
    let mut acceptance = node.accept(ticket, LinkOptions { confirm, ..LinkOptions::default() }).await?;
    if let Some(matched) = acceptance.matched().await {
        replies.event(&LinkEvent::Matched(matched)).await?;
    }
    Ok(shown(acceptance.wait().await?))
}

/// A text that is neither a code nor a link.
pub(crate) fn mistyped(error: peers_crypto::ParseTicketError) -> Failure {
    Failure::usage(format!("this is no code and no link: {error}"))
        .hint("type the four words that `peers invite` printed, or paste its whole link")
}

fn shown(linked: peers_node::Linked) -> Linked {
    Linked { device: linked.device.to_string(), name: linked.name, words: linked.words, others: linked.others }
}
