//! Linking devices.

use peers_crypto::LinkCode;
use peers_node::Node;

use crate::control::answer::{Code, Linked};
use crate::control::server::Replies;
use crate::failure::Failure;

pub(crate) async fn invite(node: &Node, replies: &mut Replies) -> Result<Linked, Failure> {
    let invitation = node.invite().await?;
    replies.event(&Code { code: invitation.code().to_string() }).await?;
    Ok(shown(invitation.wait().await?))
}

pub(crate) async fn accept(node: &Node, code: &str) -> Result<Linked, Failure> {
    let code: LinkCode = code
        .parse()
        .map_err(|error| Failure::usage(format!("this is no code: {error}")).hint("type the four words that `peers invite` printed"))?;
    Ok(shown(node.accept(code).await?))
}

fn shown(linked: peers_node::Linked) -> Linked {
    Linked { device: linked.device.to_string(), name: linked.name, words: linked.words }
}
