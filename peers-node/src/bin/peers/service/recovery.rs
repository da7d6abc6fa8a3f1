//! Coming back after all devices are lost: phrases and guardians.

use peers_crypto::{MAX_GUARDIANS, RecoveryPhrase};
use peers_node::{GroupKind, GroupStatus, Node, Ward};
use peers_wire::PeerId;

use crate::control::answer::RecoveryKey;
use crate::control::request::Secret;
use crate::control::server::Replies;
use crate::failure::{Code, Failure};

pub(super) async fn add(node: &Node, words: &Secret, by: Option<&Secret>, replace: bool) -> Result<RecoveryKey, Failure> {
    let (phrase, by) = (read(words)?, by.map(read).transpose()?);
    known(node, by.as_ref()).await?;
    node.add_recovery(phrase.clone(), by.clone()).await?;
    let key = phrase.key().id();
    let replaced = match by.filter(|_| replace) {
        Some(old) => {
            let old = old.key().id();
            node.remove_recovery(old, phrase).await?;
            Some(old)
        }
        None => None,
    };
    Ok(RecoveryKey { key, words: None, replaced })
}

pub(super) async fn remove(node: &Node, key: PeerId, by: &Secret) -> Result<RecoveryKey, Failure> {
    let by = read(by)?;
    let keys = keys(node).await?;
    if !keys.contains(&key) {
        return Err(Failure::failed(format!("{key} is no recovery key of yours")).hint("see `peers recovery list`"));
    }
    known(node, Some(&by)).await?;
    node.remove_recovery(key, by).await?;
    Ok(RecoveryKey { key, words: None, replaced: None })
}

pub(super) async fn restore(node: &Node, words: &Secret) -> Result<GroupStatus, Failure> {
    node.restore(read(words)?).await?.wait().await?;
    Ok(node.user().await?)
}

pub(super) async fn ask(node: &Node, user: &str, replies: &mut Replies) -> Result<GroupStatus, Failure> {
    let named = user.parse().map_err(|error| {
        Failure::usage(format!("{user} is no id of a user: {error}"))
            .hint("your friends see your id in `peers recovery list`: ask one of them")
    });
    let mut recovering = node.ask_guardians(named?).await?;
    while let Some(progress) = recovering.progress().await {
        replies.event(&progress).await?;
    }
    recovering.wait().await?;
    Ok(node.user().await?)
}

pub(super) async fn set_guardians(
    node: &Node,
    need: u8,
    contacts: &[String],
    by: Option<&Secret>,
) -> Result<peers_node::AuditReport, Failure> {
    let by = by.map(read).transpose()?;
    known(node, by.as_ref()).await?;
    let groups = node.groups().await?;
    let mut guardians = Vec::new();
    for contact in contacts {
        guardians.push(find(&groups, contact)?);
    }
    if !(2..=MAX_GUARDIANS).contains(&guardians.len()) {
        return Err(Failure::usage(format!("{} cannot be your guardians", crate::text::plural(guardians.len(), "contact", "contacts")))
            .hint(format!("choose 2 to {MAX_GUARDIANS}")));
    }
    if need == 0 || usize::from(need) > guardians.len() {
        return Err(Failure::usage(format!("{need} of {} guardians is not possible", guardians.len()))
            .hint("--need says how many of those that you name are needed: at least 1, at most all"));
    }
    node.set_guardians(need, guardians, by).await?;
    super::group::audit(node, None).await
}

pub(super) async fn endorse(node: &Node, device: PeerId, user: &str) -> Result<Ward, Failure> {
    let wards = node.wards().await?;
    let ward = ward(&wards, user)?;
    let id = ward.user.parse().map_err(|_| Failure::failed(format!("{} is no id of a user", ward.user)))?;
    // By a name: what the devices of that name left here. Another's device can send a package in the name of any user.
    let meant = |other: &&Ward| other.user == ward.user && (user == ward.user || other.from_name.as_deref() == Some(user));
    let senders: Vec<_> = wards.iter().filter(meant).map(|other| other.from).collect();
    node.endorse(id, &senders, device).await?;
    Ok(ward)
}

/// For whom this device is a guardian, by the user's id or the name of the device that the package came from.
fn ward(wards: &[Ward], wanted: &str) -> Result<Ward, Failure> {
    let mut found = wards.iter().filter(|ward| ward.user == wanted || ward.from_name.as_deref() == Some(wanted)).collect::<Vec<_>>();
    found.dedup_by_key(|ward| &ward.user);
    match &found[..] {
        [ward] => Ok((*ward).clone()),
        [] => Err(Failure::failed(format!("this device is no guardian of {wanted}"))
            .hint("see `peers recovery list` for whom it is: only what they left here can bring them back")),
        _ => Err(Failure::failed(format!("several whom this device is a guardian of go by {wanted}"))
            .hint("give the id of the user that you mean: see `peers recovery list`")),
    }
}

/// The keys of a friend: ids with commas between them, or the name of a member of one of the groups here.
fn find(groups: &[GroupStatus], contact: &str) -> Result<Vec<PeerId>, Failure> {
    let ids: Result<Vec<PeerId>, _> = contact.split(',').map(|id| id.trim().parse()).collect();
    if let Ok(ids) = ids {
        return Ok(ids);
    }
    let members = groups.iter().filter(|group| group.kind == GroupKind::Group).flat_map(|group| &group.members);
    let others: Vec<_> = members.filter(|member| !member.own).collect();
    let mut users: Vec<_> =
        others.iter().filter(|member| member.name == contact || member.user == contact).map(|member| &member.user).collect();
    users.sort_unstable();
    users.dedup();
    match users[..] {
        [user] => {
            let mut ids: Vec<_> = others.iter().filter(|member| member.user == *user).map(|member| member.id).collect();
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        }
        [] => Err(Failure::failed(format!("{contact} is no id, and nobody in your groups has that name"))
            .hint("ask your friend for what `peers id` prints on their device")),
        _ => Err(Failure::failed(format!("several people in your groups have a device named {contact}"))
            .hint("give the id of your friend's device: see `peers group members`")),
    }
}

async fn keys(node: &Node) -> Result<Vec<PeerId>, Failure> {
    Ok(super::group::audit(node, None).await?.recovery.iter().map(|key| key.key).collect())
}

/// A phrase that speaks for this user, if the user has any.
async fn known(node: &Node, by: Option<&RecoveryPhrase>) -> Result<(), Failure> {
    let keys = keys(node).await?;
    match by {
        Some(phrase) if !keys.contains(&phrase.key().id()) => {
            Err(Failure::new(Code::Refused, "this is a recovery phrase, but not one of yours; nothing was changed")
                .hint("look for the paper with the right one: `peers recovery list` shows when each was made"))
        }
        None if !keys.is_empty() => {
            Err(Failure::new(Code::Refused, "you have a recovery phrase, and what can recover you is changed by its word alone")
                .hint("give its words; `peers recovery phrase --replace` puts a new one in its place"))
        }
        _ => Ok(()),
    }
}

fn read(words: &Secret) -> Result<RecoveryPhrase, Failure> {
    words.0.parse().map_err(mistyped)
}

/// Words that are no recovery phrase.
pub(crate) fn mistyped(error: peers_crypto::ParsePhraseError) -> Failure {
    Failure::usage(error.to_string()).hint("type all 24 words in their order, as they were shown")
}
