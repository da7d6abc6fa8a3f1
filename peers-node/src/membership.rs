//! Users, groups and guardians as a node tells of them; everything here has a JSON form.

use peers_crypto::{Group, Kind, Member, Statement};
use peers_wire::{PeerId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::groups::Audit;
use crate::types::{GroupKind, MemberRole};

/// A user or group that this device knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its id in text form.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is a user or a group.
    pub kind: GroupKind,
    /// Every member, by name.
    pub members: Vec<MemberStatus>,
}

/// A member: a device with a role.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its key.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: MemberRole,
    /// The user whose device it is, in text form.
    pub user: String,
    /// It is the one that answers.
    pub this: bool,
    /// It is of the same user as the one that answers.
    pub own: bool,
    /// There is a session with it.
    pub connected: bool,
    /// When it was first admitted, by the clock of who admitted it.
    pub since: Timestamp,
    /// Who admitted it last; a founder itself.
    pub by: PeerId,
}

impl GroupStatus {
    /// What `group` looks like to `this` device, one of `user`.
    pub(crate) fn new(group: &Group, this: PeerId, user: &Group, connected: impl Fn(PeerId) -> bool) -> Self {
        let mut members: Vec<_> = group
            .members()
            .map(|member| MemberStatus {
                id: member.id,
                name: member.name.clone(),
                role: member.role.into(),
                user: holder(group, member),
                this: member.id == this,
                own: group.id() == user.id() || member.holder == user.id(),
                connected: connected(member.id),
                since: member.admitted,
                by: member.by,
            })
            .collect();
        members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Self { id: group.id().to_string(), name: group.name().to_owned(), kind: group.kind().into(), members }
    }

    /// This device's role; `None` if it is no member any more.
    pub fn role(&self) -> Option<MemberRole> {
        self.members.iter().find(|member| member.this).map(|member| member.role)
    }
}

/// The user whose device a member is.
pub(crate) fn holder(group: &Group, member: &Member) -> String {
    match group.kind() {
        Kind::User => group.id().to_string(),
        Kind::Group => member.holder.to_string(),
    }
}

/// A user for whom this device is a guardian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ward {
    /// The user's id in text form.
    pub user: String,
    /// The device that sent the package.
    pub from: PeerId,
    /// Its name, where it is known.
    pub from_name: Option<String>,
    /// When the package was made, by the clock of who made it.
    pub made: Timestamp,
    /// How many guardians it takes.
    pub need: u8,
    /// How many there are.
    pub of: usize,
}

/// Who can read and do what in a user or group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditReport {
    /// Its id in text form.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is a user or a group.
    pub kind: GroupKind,
    /// Keys so far, of which this device knows: each removal begins a new one.
    pub epochs: usize,
    /// Nothing was written since the last removal: whoever writes next begins a new key.
    pub rotation_due: bool,
    /// Every device in it, by name.
    pub members: Vec<MemberAudit>,
    /// Every device that was removed, the last first.
    pub removed: Vec<RemovedAudit>,
    /// Recovery phrases, the first first.
    pub recovery: Vec<RecoveryKeyStatus>,
    /// Who can recover the user.
    pub guardians: Option<GuardiansStatus>,
    /// Keys that were used in two places.
    pub forks: Vec<ForkStatus>,
}

/// A device in a user or group, and what its thief would have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberAudit {
    /// The device.
    #[serde(flatten)]
    pub member: MemberStatus,
    /// Since when it can have read: what was written before, no key that it can have opens. None: it has no key yet.
    pub reads_since: Option<Timestamp>,
    /// Of the epochs, those that it can have the key of.
    pub epochs: usize,
    /// What one who takes it and opens its key file has.
    pub if_stolen: Stolen,
}

/// What a thief of one device has, until the device is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stolen {
    /// Reads what is written in this user or group.
    pub reads: bool,
    /// Writes, in its name.
    pub writes: bool,
    /// Lets others in and removes them.
    pub admits: bool,
    /// Sets what can recover the user: there is neither a phrase nor a guardian yet.
    pub sets_recovery: bool,
    /// Other groups that it reads, as far as this device knows.
    pub groups: Vec<String>,
    /// Databases of the user that it reads and writes.
    pub databases: Vec<String>,
}

/// A device that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedAudit {
    /// Its key.
    pub id: PeerId,
    /// Its name, when it was in.
    pub name: String,
    /// When, by the clock of who removed it.
    pub at: Timestamp,
    /// Of the epochs, those that it can have the key of: it reads what was written in them, if it finds it.
    pub epochs: usize,
}

/// A recovery phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryKeyStatus {
    /// The key that it stands for.
    pub key: PeerId,
    /// When it was added, by the clock of who added it.
    pub since: Timestamp,
}

/// Contacts who can recover the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardiansStatus {
    /// How many of them it takes.
    pub need: u8,
    /// The keys of each.
    pub keys: Vec<Vec<PeerId>>,
}

/// A key that was used in two places: restored from a copy, or stolen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkStatus {
    /// The key.
    pub key: PeerId,
    /// The name of its device, if it is a member.
    pub name: Option<String>,
    /// When each of the two statements was made, by the clock of who made it.
    pub at: Vec<Timestamp>,
}

impl AuditReport {
    /// - `group`: what `audit` is about; `status`: the same, as this device sees it
    pub(crate) fn new(audit: Audit, group: &Group, status: GroupStatus) -> Self {
        let unguarded = audit.kind == Kind::User && audit.recovery.is_empty() && audit.guardians.is_none();
        let members = status.members.into_iter().filter_map(|member| {
            let audited = audit.members.iter().find(|audited| audited.member.id == member.id)?;
            let if_stolen = Stolen {
                reads: audited.epochs > 0,
                writes: member.role >= MemberRole::Writer,
                admits: member.role == MemberRole::Owner,
                sets_recovery: unguarded,
                groups: audited.groups.clone(),
                databases: audited.databases.clone(),
            };
            Some(MemberAudit { member, reads_since: audited.reads_since, epochs: audited.epochs, if_stolen })
        });
        let removed =
            audit.removed.iter().map(|gone| RemovedAudit { id: gone.id, name: gone.name.clone(), at: gone.at, epochs: gone.epochs });
        let mut removed: Vec<_> = removed.collect();
        removed.sort_by_key(|gone| (core::cmp::Reverse(gone.at), gone.id));
        let mut recovery: Vec<_> = audit.recovery.iter().map(|(key, since)| RecoveryKeyStatus { key: *key, since: *since }).collect();
        recovery.sort_by_key(|known| (known.since, known.key));
        let forks = audit.forks.iter().map(|fork| ForkStatus {
            key: fork.key,
            name: group.name_of(fork.key).map(str::to_owned),
            at: fork.statements.iter().filter_map(|id| group.statement(*id)).map(Statement::time).collect(),
        });
        Self {
            id: status.id,
            name: status.name,
            kind: audit.kind.into(),
            epochs: audit.epochs,
            rotation_due: audit.rotation_due,
            members: members.collect(),
            removed,
            recovery,
            guardians: group.guardians().map(|chosen| GuardiansStatus { need: chosen.threshold, keys: chosen.keys.clone() }),
            forks: forks.collect(),
        }
    }
}
