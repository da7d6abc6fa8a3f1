//! `peers group`, and the devices of `peers id`.

use std::path::Path;

use peers_node::{GroupKind, GroupStatus, MemberRole};
use serde::Serialize;

use super::{audit, content, link, socket, sure, topic};
use crate::args::{Group, Identity};
use crate::body::Body;
use crate::control::Request;
use crate::control::answer::Removed;
use crate::control::client::ask;
use crate::control::request::{Place, TopicName};
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{columns, plural, safe, time};

pub(crate) async fn group(command: Group, output: Output) -> Result<(), Failure> {
    match command {
        Group::Create { name } => {
            let made: GroupStatus = ask(&socket()?, &Request::CreateGroup { name }).await?;
            output.say(format!("made {} ({})", safe(&made.name, false), made.id));
            output.say(format!("let others in with `peers group invite {}`", safe(&made.name, false)));
            output.finish(&made);
            Ok(())
        }
        Group::List => list(ask(&socket()?, &Request::Groups {}).await?, output),
        Group::Invite { group, role, invite } => link::invite(&invite, Some(Place { group, role }), output).await,
        Group::Members { group } => members(&ask(&socket()?, &Request::Group { group: Some(group) }).await?, output),
        Group::Role { group, member, role } => {
            let now: GroupStatus = ask(&socket()?, &Request::SetRole { group, member: member.clone(), role }).await?;
            let given = now.members.iter().find(|known| known.name == member || known.id.to_string() == member);
            let given = given.map(|known| role_name(known.role)).unwrap_or_default();
            output.say(format!("{} is {given} of {} now", safe(&member, false), safe(&now.name, false)));
            output.finish(&now);
            Ok(())
        }
        Group::Remove { group, member } => {
            removed(&ask(&socket()?, &Request::RemoveMember { group: Some(group), member }).await?, output);
            Ok(())
        }
        Group::Leave { group } => {
            let left: Removed = ask(&socket()?, &Request::LeaveGroup { group }).await?;
            output.say(format!("this device has left {}; what it has read stays here", safe(&left.name, false)));
            if !left.remaining.is_empty() {
                output.say(format!("still in it are your devices {}", names(&left.remaining)));
            }
            output.finish(&left);
            Ok(())
        }
        Group::Rename { group, name } => renamed(&ask(&socket()?, &Request::Rename { group: Some(group), name }).await?, output),
        Group::Publish { group, text, wait, stored } => {
            let body = match text {
                Some(text) if text != "-" => text.into_bytes(),
                _ => content(Path::new("-"))?,
            };
            topic::publish(of_group(group), Body::new(&body), wait, &stored, output).await
        }
        Group::Follow { group, last, count, no_wait } => {
            topic::follow(&Request::Follow { topic: of_group(group), last, live: !no_wait, count }, count, output).await
        }
        Group::Audit { group } => audit::show(&ask(&socket()?, &Request::Audit { group: Some(group) }).await?, output),
    }
}

/// `peers id COMMAND`.
pub(crate) async fn identity(command: Identity, output: Output) -> Result<(), Failure> {
    match command {
        Identity::List => members(&ask(&socket()?, &Request::Group { group: None }).await?, output),
        Identity::Rename { name } => renamed(&ask(&socket()?, &Request::Rename { group: None, name }).await?, output),
        Identity::Revoke { device, sure: given } => {
            let you: GroupStatus = ask(&socket()?, &Request::Group { group: None }).await?;
            let shown = you.members.iter().find(|member| member.name == device || member.id.to_string() == device);
            let shown = shown.map_or_else(|| safe(&device, false), |member| format!("{} ({})", safe(&member.name, false), member.id));
            let meaning = format!(
                "{shown} will no longer be one of your devices, and can be one again only if you invite it.\n\
                 Your keys change: it cannot read what you write from now on. What it has read already, it keeps.\n\
                 Groups that it is in by itself it stays in until it is removed there: see `peers group members`."
            );
            sure(&meaning, "Revoke it?", given, output)?;
            removed(&ask(&socket()?, &Request::RemoveMember { group: None, member: device }).await?, output);
            Ok(())
        }
        Identity::Audit => audit::show(&ask(&socket()?, &Request::Audit { group: None }).await?, output),
    }
}

fn of_group(label: String) -> TopicName {
    TopicName { label, passphrase: None, group: true }
}

#[derive(Serialize)]
struct Groups {
    groups: Vec<GroupStatus>,
}

fn list(groups: Vec<GroupStatus>, output: Output) -> Result<(), Failure> {
    if groups.is_empty() {
        output.say("this device is in no group; make one with `peers group create NAME`");
    }
    let rows: Vec<_> = groups
        .iter()
        .map(|group| {
            let role = group.role().map_or("removed", role_name);
            [safe(&group.name, false), role.to_owned(), plural(group.members.len(), "member", "members"), group.id.clone()]
        })
        .collect();
    output.say(columns(&rows));
    output.finish(&Groups { groups });
    Ok(())
}

fn members(group: &GroupStatus, output: Output) -> Result<(), Failure> {
    let title = match group.kind {
        GroupKind::User => "You, ",
        GroupKind::Group => "",
    };
    output.say(format!("{title}{} ({})", safe(&group.name, false), group.id));
    let rows: Vec<_> = group
        .members
        .iter()
        .map(|member| {
            let state = match member {
                member if member.this => "this device",
                member if member.connected => "connected",
                _ => "not connected",
            };
            let role = if group.kind == GroupKind::User { "" } else { role_name(member.role) };
            let whose = match group.kind {
                GroupKind::User => String::new(),
                GroupKind::Group if member.own => "yours".to_owned(),
                GroupKind::Group => format!("of user {}", member.user),
            };
            [
                format!("  {}", safe(&member.name, false)),
                role.to_owned(),
                state.to_owned(),
                time(member.since.0),
                member.id.to_string(),
                whose,
            ]
        })
        .collect();
    output.say(columns(&rows));
    output.finish(group);
    Ok(())
}

fn renamed(group: &GroupStatus, output: Output) -> Result<(), Failure> {
    match group.kind {
        GroupKind::User => output.say(format!("you are {} now", safe(&group.name, false))),
        GroupKind::Group => output.say(format!("the group is called {} now", safe(&group.name, false))),
    }
    output.finish(group);
    Ok(())
}

fn removed(removed: &Removed, output: Output) {
    output.say(format!("removed {} from {}", names(&removed.removed), safe(&removed.name, false)));
    output.say("what is written from now on cannot be read there; what was read before, is known there");
    if !removed.remaining.is_empty() {
        let user = removed.remaining.first().map(|member| member.user.as_str()).unwrap_or_default();
        output.say(format!(
            "still in it, of the same user: {}; all of them are removed with `peers group remove {} {user}`",
            names(&removed.remaining),
            safe(&removed.name, false)
        ));
    }
    if !removed.admitted.is_empty() {
        output.say(format!(
            "it had let in {}: if it was stolen, see that you know them, and remove those that you do not",
            names(&removed.admitted)
        ));
    }
    output.finish(removed);
}

fn names(members: &[peers_node::MemberStatus]) -> String {
    members.iter().map(|member| safe(&member.name, false)).collect::<Vec<_>>().join(", ")
}

/// A role as people read it.
pub(super) const fn role_name(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Reader => "reader",
        MemberRole::Writer => "writer",
        MemberRole::Owner => "owner",
    }
}
