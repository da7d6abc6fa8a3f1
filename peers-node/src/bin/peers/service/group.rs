//! You and your devices, and groups.

use peers_crypto::{GroupId, Role};
use peers_node::{AuditReport, GroupStatus, LinkOptions, MemberRole, MemberStatus, Node};
use peers_wire::PeerId;

use super::link::invite_with;
use crate::args::RoleName;
use crate::control::answer::{Linked, Removed};
use crate::control::request::Place;
use crate::control::server::Replies;
use crate::failure::{Code, Failure};

/// The group of that name or id; without one the user.
pub(super) async fn find(node: &Node, group: Option<&str>) -> Result<GroupStatus, Failure> {
    let Some(wanted) = group else { return Ok(node.user().await?) };
    let groups = node.groups().await?;
    if let Some(group) = groups.iter().find(|group| group.id == wanted) {
        return Ok(group.clone());
    }
    let mut named = groups.into_iter().filter(|group| group.name == wanted);
    match (named.next(), named.next()) {
        (Some(group), None) => Ok(group),
        (Some(_), Some(_)) => Err(Failure::failed(format!("several of your groups are named {wanted}"))
            .hint("give the id of the one that you mean: see `peers group list`")),
        (None, _) => Err(Failure::failed(format!("this device is in no group named {wanted}"))
            .hint("see `peers group list`; to join one, let a member run `peers group invite` and run `peers accept` here")),
    }
}

/// The id of the group of that name or id; without one the user's.
pub(super) async fn id(node: &Node, group: Option<&str>) -> Result<GroupId, Failure> {
    id_of(&find(node, group).await?)
}

fn id_of(group: &GroupStatus) -> Result<GroupId, Failure> {
    group.id.parse().map_err(|_| Failure::failed(format!("{} is no id of a group", group.id)))
}

pub(super) async fn create(node: &Node, name: &str) -> Result<GroupStatus, Failure> {
    if node.groups().await?.iter().any(|group| group.name == name) {
        return Err(Failure::failed(format!("you have a group named {name} already")).hint("give this one another name"));
    }
    let id = node.create_group(name).await?;
    find(node, Some(&id.to_string())).await
}

pub(super) async fn invite(node: &Node, to: &Place, by_link: bool, confirm: bool, replies: &mut Replies) -> Result<Linked, Failure> {
    let group = find(node, Some(&to.group)).await?;
    let (own, role) = (group.role(), Role::from(to.role));
    if own != Some(MemberRole::Owner) {
        return Err(not_owner(&group, "let others in"));
    }
    let invitation = node.invite_to(id_of(&group)?, role, LinkOptions { by_link, confirm }).await?;
    invite_with(invitation, replies).await
}

pub(super) async fn set_role(node: &Node, group: &str, member: &str, role: RoleName) -> Result<GroupStatus, Failure> {
    let found = find(node, Some(group)).await?;
    let member = one(&found, member)?;
    let given = Role::from(role);
    if found.role() != Some(MemberRole::Owner) {
        return Err(not_owner(&found, "give roles"));
    }
    if Role::from(member.role) == given {
        return Err(Failure::failed(format!("{} has that role already", member.name)));
    }
    if member.role == MemberRole::Owner && owners(&found) == 1 {
        return Err(last_owner(&found));
    }
    node.set_role(id_of(&found)?, member.id, given).await?;
    find(node, Some(&found.id)).await
}

pub(super) async fn remove(node: &Node, group: Option<&str>, member: &str) -> Result<Removed, Failure> {
    let found = find(node, group).await?;
    let removed: Vec<MemberStatus> = found.members.iter().filter(|known| group.is_some() && known.user == member).cloned().collect();
    let removed = if removed.is_empty() { vec![one(&found, member)?.clone()] } else { removed };
    if removed.iter().any(|member| member.this) {
        return Err(match group {
            Some(_) => {
                Failure::new(Code::Refused, format!("{} is this device", member)).hint(format!("`peers group leave {}` takes it out", found.name))
            }
            None => Failure::new(Code::Refused, format!("{member} is the device that you are on"))
                .hint("revoke it from another of your devices: link one with `peers invite`, or bring yourself back there with `peers recovery restore`"),
        });
    }
    // A device that is no owner may remove the other devices of its own user.
    if found.role() != Some(MemberRole::Owner) && !removed.iter().all(|member| member.own) {
        return Err(not_owner(&found, "remove others"));
    }
    let (id, users) = (id_of(&found)?, removed.iter().map(|member| &member.user).collect::<Vec<_>>());
    for member in &removed {
        node.remove_member(id, member.id).await?;
    }
    let remaining = found.members.iter().filter(|member| !removed.iter().any(|gone| gone.id == member.id));
    let remaining = remaining.filter(|member| group.is_some() && users.contains(&&member.user)).cloned().collect();
    let gone = |id| removed.iter().any(|member| member.id == id);
    let admitted = found.members.iter().filter(|member| gone(member.by) && !gone(member.id)).cloned().collect();
    Ok(Removed { id: found.id, name: found.name, removed, remaining, admitted })
}

pub(super) async fn leave(node: &Node, group: &str) -> Result<Removed, Failure> {
    let found = find(node, Some(group)).await?;
    let Some(this) = found.members.iter().find(|member| member.this).cloned() else {
        return Err(Failure::failed(format!("this device is no member of {} any more", found.name)));
    };
    if this.role == MemberRole::Owner && owners(&found) == 1 && found.members.len() > 1 {
        return Err(last_owner(&found));
    }
    node.remove_member(id_of(&found)?, this.id).await?;
    let remaining = found.members.iter().filter(|member| member.own && !member.this).cloned().collect();
    Ok(Removed { id: found.id, name: found.name, removed: vec![this], remaining, admitted: Vec::new() })
}

pub(super) async fn rename(node: &Node, group: Option<&str>, name: &str) -> Result<GroupStatus, Failure> {
    let found = find(node, group).await?;
    if found.role() != Some(MemberRole::Owner) {
        return Err(not_owner(&found, "rename it"));
    }
    node.rename(id_of(&found)?, name).await?;
    find(node, group.map(|_| found.id.as_str())).await
}

pub(super) async fn audit(node: &Node, group: Option<&str>) -> Result<AuditReport, Failure> {
    let found = find(node, group).await?;
    let report = node.audit(id_of(&found)?).await?;
    report.ok_or_else(|| Failure::failed(format!("{} is not known here any more", found.name)))
}

/// The member of that name or id.
fn one<'a>(group: &'a GroupStatus, wanted: &str) -> Result<&'a MemberStatus, Failure> {
    let (whose, list) = match group.kind {
        peers_node::GroupKind::User => ("of your devices".to_owned(), "`peers id list`".to_owned()),
        peers_node::GroupKind::Group => (format!("members of {}", group.name), format!("`peers group members {}`", group.name)),
    };
    if let Some(member) = wanted.parse().ok().and_then(|id: PeerId| group.members.iter().find(|member| member.id == id)) {
        return Ok(member);
    }
    let mut named = group.members.iter().filter(|member| member.name == wanted);
    match (named.next(), named.next()) {
        (Some(member), None) => Ok(member),
        (Some(_), Some(_)) => Err(Failure::failed(format!("several {whose} are named {wanted}"))
            .hint(format!("give the id of the one that you mean: see {list}"))),
        (None, _) => {
            Err(Failure::failed(format!("none {} is {wanted}", if whose.starts_with("of") { whose } else { format!("of the {whose}") }))
                .hint(format!("give a name or an id that {list} shows")))
        }
    }
}

fn owners(group: &GroupStatus) -> usize {
    group.members.iter().filter(|member| member.role == MemberRole::Owner).count()
}

fn not_owner(group: &GroupStatus, what: &str) -> Failure {
    let message = match group.role() {
        Some(_) => format!("only an owner of {} may {what}, and this device is none", group.name),
        None => format!("this device is no member of {} any more", group.name),
    };
    Failure::new(Code::Refused, message).hint(format!("ask an owner: see `peers group members {}`", group.name))
}

fn last_owner(group: &GroupStatus) -> Failure {
    Failure::new(Code::Refused, format!("{} would have no owner, and nobody could let members in or remove any", group.name))
        .hint(format!("make another member one first: `peers group role {} MEMBER owner`", group.name))
}
