//! Who can read what: `peers id audit` and `peers group audit`.

use core::fmt::Write as _;

use peers_node::{AuditReport, GroupKind, MemberAudit};

use super::group::role_name;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{columns, plural, safe, time};

pub(super) fn show(audit: &AuditReport, output: Output) -> Result<(), Failure> {
    output.say(shown(audit));
    output.finish(audit);
    Ok(())
}

fn shown(audit: &AuditReport) -> String {
    let (user, name) = (audit.kind == GroupKind::User, safe(&audit.name, false));
    let mut out = String::new();
    let _ = match user {
        true => writeln!(out, "You, {name} ({})", audit.id),
        false => writeln!(out, "Group {name} ({})", audit.id),
    };
    forks(audit, &mut out);

    out.push_str("\nWho can read what is written\n");
    let head = ["  device", "role", "reads since", "keys", "device id"].map(str::to_owned);
    let rows = audit.members.iter().map(|audited| {
        let since = audited.reads_since.map_or_else(|| "nothing yet".to_owned(), |since| time(since.0));
        let this = if audited.member.this { " (this one)" } else { "" };
        [
            format!("  {}{this}", safe(&audited.member.name, false)),
            role_name(audited.member.role).to_owned(),
            since,
            format!("{} of {}", audited.epochs, audit.epochs),
            audited.member.id.to_string(),
        ]
    });
    out.push_str(&columns(&core::iter::once(head).chain(rows).collect::<Vec<_>>()));
    if audit.rotation_due {
        out.push_str("  a member was removed, and nothing was written since: the next one to write begins a new key first\n");
    }

    if !audit.removed.is_empty() {
        out.push_str("\nRemoved: can read what was written before, nothing that is written by who knows of it\n");
        let rows = audit.removed.iter().map(|gone| {
            let name = if gone.name.is_empty() { "unnamed".to_owned() } else { safe(&gone.name, false) };
            [format!("  {name}"), time(gone.at.0), format!("{} of {} keys", gone.epochs, audit.epochs), gone.id.to_string()]
        });
        out.push_str(&columns(&rows.collect::<Vec<_>>()));
    }

    if user {
        out.push_str("\nWho can bring you back\n");
        for key in &audit.recovery {
            let _ = writeln!(out, "  a recovery phrase, since {}: {}", time(key.since.0), key.key);
        }
        if let Some(guardians) = &audit.guardians {
            let _ = writeln!(out, "  {} of {}", guardians.need, plural(guardians.keys.len(), "guardian", "guardians"));
        }
        if audit.recovery.is_empty() && audit.guardians.is_none() {
            out.push_str("  nobody: with your last device you are lost; make a phrase with `peers recovery phrase`\n");
        }
    }

    out.push_str("\nIf one of these devices is stolen and its key file opened, then until it is removed the thief\n");
    out.push_str(&columns(
        &audit
            .members
            .iter()
            .map(|audited| [format!("  of {}", safe(&audited.member.name, false)), stolen(audited, user)])
            .collect::<Vec<_>>(),
    ));
    out
}

/// What a thief has, in one line.
fn stolen(audited: &MemberAudit, user: bool) -> String {
    let thief = &audited.if_stolen;
    let mut has = Vec::new();
    match (thief.reads, audited.reads_since, thief.writes) {
        (true, Some(since), writes) => {
            has.push(format!(
                "reads what was written since {}{}",
                time(since.0),
                if writes { " and writes in its name" } else { ", writes nothing" }
            ));
        }
        (_, _, true) => has.push("reads nothing yet, writes in its name".to_owned()),
        _ => has.push("reads and writes nothing".to_owned()),
    }
    if !thief.databases.is_empty() {
        has.push(format!("reads and writes the databases {}", listed(&thief.databases)));
    }
    if !thief.groups.is_empty() {
        has.push(format!("is in {}", listed(&thief.groups)));
    }
    if thief.admits {
        has.push(if user { "adds and revokes devices" } else { "lets others in and removes them" }.to_owned());
    }
    if thief.sets_recovery {
        has.push("can set a recovery phrase, and with it keep you out: make yours first".to_owned());
    }
    has.join("; ")
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| safe(name, false)).collect::<Vec<_>>().join(", ")
}

/// A key in two places, in plain words and with what to do.
fn forks(audit: &AuditReport, out: &mut String) {
    for fork in &audit.forks {
        let times: Vec<_> = fork.at.iter().map(|at| time(at.0)).collect();
        let _ = match &fork.name {
            Some(name) => {
                let (name, command) = (
                    safe(name, false),
                    match audit.kind {
                        GroupKind::User => format!("peers id revoke {}", fork.key),
                        GroupKind::Group => format!("peers group remove {} {}", audit.id, fork.key),
                    },
                );
                writeln!(
                    out,
                    "\nWARNING: the key of {name} was used in two places that did not know of each other ({}).\n\
                     \x20 Either {name} runs from a copy or an old backup as well: then stop one of the two.\n\
                     \x20 Or someone has stolen its key: then take it out with `{command}`, and link it again.",
                    times.join(" and ")
                )
            }
            None => writeln!(
                out,
                "\nNote: the key {:.8}, which is no member any more, was used in two places that did not know of each other ({}).",
                fork.key,
                times.join(" and ")
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peers_node::{ForkStatus, MemberRole, MemberStatus, RemovedAudit, Stolen};
    use peers_wire::{PeerId, Timestamp};

    fn report() -> AuditReport {
        let (id, day) = (PeerId([7; 32]), Timestamp(1_700_000_000_000));
        let member = MemberStatus {
            id,
            name: "lap\u{1b}top".into(),
            role: MemberRole::Owner,
            user: id.to_string(),
            this: true,
            own: true,
            connected: false,
            since: day,
            by: id,
        };
        let if_stolen = Stolen {
            reads: true,
            writes: true,
            admits: true,
            sets_recovery: true,
            groups: vec!["Choir".into()],
            databases: vec!["notes".into()],
        };
        AuditReport {
            id: id.to_string(),
            name: "alice".into(),
            kind: GroupKind::User,
            epochs: 2,
            rotation_due: false,
            members: vec![MemberAudit { member, reads_since: Some(day), epochs: 2, if_stolen }],
            removed: vec![RemovedAudit { id: PeerId([8; 32]), name: "phone".into(), at: day, epochs: 1 }],
            recovery: Vec::new(),
            guardians: None,
            forks: vec![ForkStatus { key: id, name: Some("laptop".into()), at: vec![day, day] }],
        }
    }

    #[test]
    fn an_audit_says_who_reads_what_and_what_a_thief_has_in_words() {
        let text = shown(&report());
        for part in [
            "2 of 2",
            "2023-11-14 22:13:20Z",
            "1 of 2 keys",
            "phone",
            "reads and writes the databases notes",
            "is in Choir",
            "adds and revokes devices",
            "make yours first",
            "peers recovery phrase",
            "used in two places",
            "peers id revoke",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!text.contains('\u{1b}'), "a name steers no terminal");
    }

    #[test]
    fn an_audit_reads_back_from_json() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!((json["kind"].as_str(), json["members"][0]["role"].as_str()), (Some("user"), Some("owner")));
        let again: AuditReport = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(again).unwrap(), json);
    }
}
