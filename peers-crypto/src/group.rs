//! A user or a group: who its members are by signed, hash-linked statements, made by its own members and in no agreed order.
//!
//! A user is a group of its devices, all owners. Who is a member is a function of the set of statements alone: replicas that hold the same agree, in whatever
//! order they came. PROTOCOL.md has the rules; [`Keyring`](crate::Keyring) the keys.

use std::collections::{BTreeMap, BTreeSet};

use peers_wire::{DecodeError, PeerId, Reader, Signature, Timestamp, Writer};
use thiserror::Error;

use crate::history::{History, Standing, admits, removes};
use crate::keys::{DeviceKey, Forged};
use crate::statement::{
    Action, Endorsement, GroupId, Kind, MAX_PARENTS, MAX_STATEMENT, Role, Statement, StatementId, consent, is_name, recovery_proof,
};

/// Statements that a user or group may have.
pub const MAX_STATEMENTS: usize = 1024;
/// Of these, statements by one key, or by all the devices of one user in a group that never were owners of it.
pub const MAX_STATEMENTS_BY_ONE: usize = 256;
/// Of these, room kept for recovery keys and the devices that they admit: whoever fills the log cannot keep them out.
pub const RESERVED_STATEMENTS: usize = 128;
/// Bytes that all statements together may have; those of others than recovery keys and the devices that they admit, an eighth less.
pub const MAX_GROUP: usize = 1 << 20;

const VERSION: u8 = 2;

/// Why statements are not those of a user or group, or cannot be added to it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupError {
    /// The bytes are no statements.
    #[error("not the statements of a user or group: {0}")]
    Malformed(#[from] DecodeError),
    /// A signature in the statement is not genuine.
    #[error("statement {0:.8} is forged")]
    Forged(StatementId),
    /// None of the statements, or more than one, creates a user or group, or another one.
    #[error("there must be exactly one statement that creates the user or group")]
    Create,
    /// The statement names another that is missing.
    #[error("statement {0:.8} is missing")]
    Missing(StatementId),
    /// The author is no member, or was not when it made the statement.
    #[error("{0:.8} is not a member")]
    NotAMember(PeerId),
    /// The author is a member, but may not do this.
    #[error("{0:.8} is not allowed to do this: ask an owner, or use the recovery phrase")]
    NotAllowed(PeerId),
    /// The device is a member already.
    #[error("{0:.8} is a member already")]
    Known(PeerId),
    /// The name is empty, too long, or has control characters.
    #[error("a name has 1 to 64 bytes and no control characters")]
    Name,
    /// There would be more than [`MAX_STATEMENTS`], or more than [`MAX_STATEMENTS_BY_ONE`] of one key, or more than [`MAX_GROUP`] bytes.
    #[error("there are too many statements")]
    TooMany,
}

/// A member: a device with a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The user whose device it is; [`GroupId::NONE`] in a user's own statements.
    pub holder: GroupId,
    /// When it was first admitted, by the clock of who admitted it.
    pub admitted: Timestamp,
    /// Who admitted it last.
    pub by: PeerId,
}

/// A device that was removed and not admitted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Its key.
    pub id: PeerId,
    /// The number of its last change to data that still counts.
    pub sequence: u64,
}

/// The contacts that can recover a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guardians {
    /// The statement that chose them.
    pub statement: StatementId,
    /// How many it takes.
    pub threshold: u8,
    /// The keys of each.
    pub keys: Vec<Vec<PeerId>>,
}

/// Two statements of one key, neither of which was made in knowledge of the other: the key is in two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The key.
    pub key: PeerId,
    /// The two statements.
    pub statements: [StatementId; 2],
}

/// A user or group, and all statements about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    id: GroupId,
    statements: BTreeMap<StatementId, Statement>,
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) kind: Option<Kind>,
    pub(crate) name: String,
    pub(crate) members: BTreeMap<PeerId, Member>,
    pub(crate) removed: BTreeMap<PeerId, u64>,
    pub(crate) recovery: BTreeMap<PeerId, Timestamp>,
    pub(crate) guardians: Option<Guardians>,
    pub(crate) forks: Vec<Fork>,
    /// Statements that count.
    pub(crate) counting: BTreeSet<StatementId>,
}

impl Group {
    /// A new user whose first device is `key`.
    ///
    /// # Errors
    /// [`GroupError::Name`]
    pub fn create_user(key: &DeviceKey, name: &str, device_name: &str, wall: Timestamp) -> Result<Self, GroupError> {
        Self::create(key, Kind::User, name, device_name, GroupId::NONE, wall)
    }

    /// A new group whose first member, an owner, is `key`, a device of `holder`.
    ///
    /// # Errors
    /// [`GroupError::Name`]
    pub fn create_group(key: &DeviceKey, holder: GroupId, name: &str, device_name: &str, wall: Timestamp) -> Result<Self, GroupError> {
        Self::create(key, Kind::Group, name, device_name, holder, wall)
    }

    fn create(key: &DeviceKey, kind: Kind, name: &str, device_name: &str, holder: GroupId, wall: Timestamp) -> Result<Self, GroupError> {
        if !is_name(name) || !is_name(device_name) {
            return Err(GroupError::Name);
        }
        let action = Action::Create { kind, name: name.to_owned(), device_name: device_name.to_owned(), holder };
        Self::from_statements([Statement::sign(key, Vec::new(), wall, action)])
    }

    /// The user or group that statements in any order are about.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn from_statements(statements: impl IntoIterator<Item = Statement>) -> Result<Self, GroupError> {
        let statements: Vec<_> = statements.into_iter().collect();
        let roots: BTreeSet<_> = statements.iter().filter(|statement| statement.parents().is_empty()).map(Statement::id).collect();
        let (Some(root), 1) = (roots.first(), roots.len()) else { return Err(GroupError::Create) };
        let mut this = Self { id: GroupId(root.0), statements: BTreeMap::new(), state: State::default() };
        this.merge(statements)?;
        Ok(this)
    }

    /// Takes further statements, in any order; all of them or, with an error, none. Returns how many were new; O(n^2) in the statements held.
    ///
    /// # Errors
    /// [`GroupError`]: among them what is not signed by who ever was a member.
    pub fn merge(&mut self, statements: impl IntoIterator<Item = Statement>) -> Result<usize, GroupError> {
        let mut all = self.statements.clone();
        for statement in statements {
            if all.len() == MAX_STATEMENTS && !all.contains_key(&statement.id()) {
                return Err(GroupError::TooMany);
            }
            if statement.parents().is_empty() && statement.id().0 != self.id.0 {
                return Err(GroupError::Create);
            }
            all.entry(statement.id()).or_insert(statement);
        }
        let new = all.len() - self.statements.len();
        if new == 0 {
            return Ok(0);
        }
        // Devices that were never owners, and so can admit each other without an owner, share what one key has.
        let mut holders: BTreeMap<PeerId, (bool, GroupId)> = BTreeMap::new();
        for (key, (standing, holder)) in all.values().filter_map(admits) {
            let known = holders.entry(key).or_insert((false, holder));
            *known = (known.0 || standing >= Standing::Owner, known.1.min(holder));
        }
        let mut by_one: BTreeMap<[u8; 32], usize> = BTreeMap::new();
        for author in all.values().map(Statement::author) {
            let shared = holders.get(&author).filter(|(owner, holder)| !owner && *holder != GroupId::NONE);
            *by_one.entry(shared.map_or(author.0, |(_, holder)| holder.0)).or_default() += 1;
        }
        let recovering = recovering(&all);
        let common = || all.values().filter(|statement| !recovering.contains(&statement.author()));
        let length = |statements: &mut dyn Iterator<Item = &Statement>| statements.map(Statement::length).sum::<usize>();
        if by_one.values().any(|count| *count > MAX_STATEMENTS_BY_ONE)
            || common().count() > MAX_STATEMENTS - RESERVED_STATEMENTS
            || length(&mut common()) > MAX_GROUP / 8 * 7
            || length(&mut all.values()) > MAX_GROUP
        {
            return Err(GroupError::TooMany);
        }
        for statement in all.values().filter(|statement| !self.statements.contains_key(&statement.id())) {
            if let Some(missing) = statement.parents().iter().find(|parent| !all.contains_key(*parent)) {
                return Err(GroupError::Missing(*missing));
            }
            statement.check(self.id).map_err(|Forged| GroupError::Forged(statement.id()))?;
        }
        let history = History::new(&all);
        history.check_authors()?;
        self.state = history.state();
        self.statements = all;
        Ok(new)
    }

    /// As [`Group::merge`], for what [`Group::encode`] wrote elsewhere. Signatures of statements held already are not checked again.
    ///
    /// # Errors
    /// [`GroupError`]: [`GroupError::Create`] unless the statement that created this group is among them, so that who has never heard from its members costs us no check.
    pub fn merge_encoded(&mut self, bytes: &[u8]) -> Result<usize, GroupError> {
        let statements = read(bytes)?;
        if !statements.iter().any(|statement| statement.id().0 == self.id.0) {
            return Err(GroupError::Create);
        }
        self.merge(statements)
    }

    /// Admits a device with its [`consent`], or gives a member another role.
    ///
    /// - `holder`: the user whose device it is; [`GroupId::NONE`] if this is that user
    ///
    /// # Errors
    /// [`GroupError`]
    #[expect(clippy::too_many_arguments, reason = "what the statement says, who says it and when")]
    pub fn admit(
        &mut self,
        key: &DeviceKey,
        device: PeerId,
        name: &str,
        role: Role,
        holder: GroupId,
        consent: Signature,
        wall: Timestamp,
    ) -> Result<StatementId, GroupError> {
        if self.state.members.get(&device).is_some_and(|member| member.role == role) {
            return Err(GroupError::Known(device));
        }
        self.append(key, Action::Admit { device, name: name.to_owned(), role, holder, consent }, wall)
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn set_role(&mut self, key: &DeviceKey, device: PeerId, role: Role, wall: Timestamp) -> Result<StatementId, GroupError> {
        let admissions = self.statements.values().filter(|statement| self.state.counting.contains(&statement.id()));
        let action = admissions.into_iter().find_map(|statement| match statement.action() {
            Action::Admit { device: admitted, name, holder, consent, .. } if *admitted == device => Some((name.clone(), *holder, *consent)),
            _ => None,
        });
        // The founder has consented by founding; nobody else can say it again.
        let (name, holder, consent) = action.ok_or(GroupError::NotAllowed(device))?;
        self.admit(key, device, &name, role, holder, consent, wall)
    }

    /// Removes a member. What it stated so far still counts; of its changes to data, those up to number `sequence`. Then see whether to [rotate](crate::Keyring::rotate).
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn remove(&mut self, key: &DeviceKey, device: PeerId, sequence: u64, wall: Timestamp) -> Result<StatementId, GroupError> {
        let last = self.last_of(device);
        self.remove_after(key, device, last, sequence, wall)
    }

    /// As [`Group::remove`], where also what the device stated after `last` does not count: for example since it was stolen.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn remove_after(
        &mut self,
        key: &DeviceKey,
        device: PeerId,
        last: StatementId,
        sequence: u64,
        wall: Timestamp,
    ) -> Result<StatementId, GroupError> {
        if !self.contains(device) {
            return Err(GroupError::NotAMember(device));
        }
        self.append(key, Action::Remove { device, last, sequence }, wall)
    }

    /// Gives another name.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn rename(&mut self, key: &DeviceKey, name: &str, wall: Timestamp) -> Result<StatementId, GroupError> {
        self.append(key, Action::Rename { name: name.to_owned() }, wall)
    }

    /// Adds a recovery key: by a device while there is neither one nor guardians, else with a recovery key as `key`.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn add_recovery(&mut self, key: &DeviceKey, recovery: &DeviceKey, wall: Timestamp) -> Result<StatementId, GroupError> {
        let proof = recovery_proof(recovery, self.id);
        self.append(key, Action::AddRecovery { key: recovery.id(), proof }, wall)
    }

    /// Removes a recovery key, with one as `key`.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn remove_recovery(&mut self, key: &DeviceKey, recovery: PeerId, wall: Timestamp) -> Result<StatementId, GroupError> {
        if !self.state.recovery.contains_key(&recovery) {
            return Err(GroupError::NotAMember(recovery));
        }
        self.append(key, Action::RemoveRecovery { key: recovery, last: self.last_of(recovery) }, wall)
    }

    /// Chooses guardians in the place of those before: by a device while there are neither these nor a recovery key, else with a recovery key as `key`.
    ///
    /// - `threshold`: how many it takes, 1 to their number
    /// - `guardians`: the keys of each, at most [`MAX_GUARDIANS`](crate::MAX_GUARDIANS) with [`MAX_GUARDIAN_KEYS`](crate::MAX_GUARDIAN_KEYS) each; empty: none
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn set_guardians(
        &mut self,
        key: &DeviceKey,
        threshold: u8,
        guardians: Vec<Vec<PeerId>>,
        wall: Timestamp,
    ) -> Result<StatementId, GroupError> {
        let action = Action::SetGuardians { threshold, guardians }.sensible()?;
        self.append(key, action, wall)
    }

    /// Makes `device`, which is new, an owner by the word of guardians.
    ///
    /// # Errors
    /// [`GroupError::NotAMember`] if too few of them have signed for this device.
    pub fn recover(
        &mut self,
        device: &DeviceKey,
        name: &str,
        mut endorsements: Vec<Endorsement>,
        wall: Timestamp,
    ) -> Result<StatementId, GroupError> {
        let guardians = self.guardians().map_or(StatementId::NONE, |guardians| guardians.statement);
        endorsements.sort_unstable_by_key(|endorsement| endorsement.index);
        endorsements.dedup_by_key(|endorsement| endorsement.index);
        self.append(device, Action::Recover { name: name.to_owned(), guardians, endorsements }, wall)
    }

    /// Signs a statement in knowledge of all others, and takes it if it counts.
    pub(crate) fn append(&mut self, key: &DeviceKey, action: Action, wall: Timestamp) -> Result<StatementId, GroupError> {
        let names_well = match &action {
            Action::Admit { name, .. } | Action::Rename { name } | Action::Recover { name, .. } => is_name(name),
            _ => true,
        };
        if !names_well {
            return Err(GroupError::Name);
        }
        let parents: BTreeSet<_> = self.statements.values().flat_map(Statement::parents).collect();
        let mut heads: Vec<_> = self.statements.values().filter(|statement| !parents.contains(&statement.id())).collect();
        let (history, own) = (History::new(&self.statements), self.last_of(key.id()));
        // What covers our own last statement comes first: without it this one would look like a fork.
        heads.sort_unstable_by_key(|head| {
            let covers = head.id() == own || history.knew(head.id(), own);
            core::cmp::Reverse((covers, head.time(), head.id()))
        });
        heads.truncate(MAX_PARENTS);
        let after = heads.iter().map(|head| head.time().plus(1)).max().map_or(wall, |after| after.max(wall)).min(Timestamp::MAX);
        let statement = Statement::sign(key, heads.iter().map(|head| head.id()).collect(), after, action);
        let id = statement.id();
        let mut next = self.clone();
        next.merge([statement])?;
        if !next.state.counting.contains(&id) {
            let known = self.contains(key.id()) || self.state.recovery.contains_key(&key.id());
            return Err(if known { GroupError::NotAllowed(key.id()) } else { GroupError::NotAMember(key.id()) });
        }
        *self = next;
        Ok(id)
    }

    /// The last statement of a key, in order; [`StatementId::NONE`] if there is none.
    fn last_of(&self, key: PeerId) -> StatementId {
        let history = History::new(&self.statements);
        history.order().iter().rev().find(|statement| statement.author() == key).map_or(StatementId::NONE, |last| last.id())
    }

    /// Its id.
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// Whether it is a user or a group.
    pub fn kind(&self) -> Kind {
        self.state.kind.unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.state.members.values()
    }

    /// The member of that key.
    pub fn member(&self, device: PeerId) -> Option<&Member> {
        self.state.members.get(&device)
    }

    /// Whether it is a member.
    pub fn contains(&self, device: PeerId) -> bool {
        self.state.members.contains_key(&device)
    }

    /// What a member may do.
    pub fn role_of(&self, device: PeerId) -> Option<Role> {
        self.member(device).map(|member| member.role)
    }

    /// The name of a member.
    pub fn name_of(&self, device: PeerId) -> Option<&str> {
        self.member(device).map(|member| &*member.name)
    }

    /// The devices that were removed and not admitted again, in the order of their ids.
    pub fn removed(&self) -> impl Iterator<Item = Removed> {
        self.state.removed.iter().map(|(id, sequence)| Removed { id: *id, sequence: *sequence })
    }

    /// The recovery keys, with the time when each was added.
    pub fn recovery_keys(&self) -> impl Iterator<Item = (PeerId, Timestamp)> {
        self.state.recovery.iter().map(|(key, added)| (*key, *added))
    }

    /// The contacts that can recover the user.
    pub const fn guardians(&self) -> Option<&Guardians> {
        self.state.guardians.as_ref()
    }

    /// Keys that were used in two places: restored from a copy, or stolen.
    pub fn forks(&self) -> &[Fork] {
        &self.state.forks
    }

    /// All statements, also those that do not count, in the order of their ids.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.statements.values()
    }

    /// A statement.
    pub fn statement(&self, id: StatementId) -> Option<&Statement> {
        self.statements.get(&id)
    }

    /// Whether a statement is there and counts.
    pub fn counts(&self, id: StatementId) -> bool {
        self.state.counting.contains(&id)
    }

    /// The epochs: the statements that begin them and count, newest first.
    pub fn epochs(&self) -> Vec<StatementId> {
        let history = History::new(&self.statements);
        let rotation = |statement: &&&Statement| matches!(statement.action(), Action::Rotate { .. }) && self.counts(statement.id());
        history.order().iter().rev().filter(rotation).map(|statement| statement.id()).collect()
    }

    /// Whether nobody can have the key of an epoch, by the grants of members, but those who may have it now.
    ///
    /// Every removal that counts must be in the view of the statement that began the epoch, and nobody may have been more, in that view or since, than it is now. Whoever
    /// holds the key has at least that view, and granted it in a view in which the same removals had the same effect.
    pub(crate) fn is_clean(&self, rotation: StatementId) -> bool {
        let view = History::new(&self.statements).view(rotation);
        let since = || self.statements.values().filter(|statement| self.counts(statement.id()) && !view.contains_key(&statement.id()));
        if since().any(|statement| removes(statement).is_some()) {
            return false;
        }
        let history = History::new(&view);
        let then = history.state();
        let keys = then.members.keys().chain(then.recovery.keys());
        // Guardians that were replaced keep a vault with the key.
        let chosen = since().filter(|statement| matches!(statement.action(), Action::SetGuardians { .. })).count();
        (chosen == 0 || chosen + usize::from(then.guardians.is_some()) == 1)
            && keys.into_iter().all(|key| then.access(*key) <= self.access(*key))
            && since().filter_map(admits).all(|(key, (standing, _))| standing.access() <= self.access(key))
    }

    /// Whether an epoch is clean and counts: the newest such, of which everybody who may have the key may still have it.
    pub fn cleanest_epoch(&self) -> Option<StatementId> {
        self.epochs().into_iter().find(|id| self.is_clean(*id))
    }

    /// Whether a device can have been given the key of an epoch: as a member then, since, or now.
    pub fn can_hold(&self, device: PeerId, epoch: StatementId) -> bool {
        let view = History::new(&self.statements).view(epoch);
        let then = History::new(&view).state();
        let since = self.statements.values().filter(|statement| self.counts(statement.id()) && !view.contains_key(&statement.id()));
        let later = since.filter_map(admits).any(|(key, _)| key == device);
        later || then.access(device).max(self.access(device)) > Access::None
    }

    /// The name that a device has or had.
    pub fn former_name(&self, device: PeerId) -> Option<&str> {
        let history = History::new(&self.statements);
        let named = |statement: &&&Statement| admits(statement).is_some_and(|(key, _)| key == device);
        let statement = history.order().iter().rev().find(named)?;
        self.statements.get(&statement.id()).map(crate::history::names)
    }

    /// When a device was removed last, by the clock of who did.
    pub fn removed_at(&self, device: PeerId) -> Option<Timestamp> {
        let removals = self.statements.values().filter(|statement| self.counts(statement.id()));
        removals.filter(|statement| removes(statement).is_some_and(|(_, key, _)| key == device)).map(Statement::time).max()
    }

    /// What shows a removed device that it is out, and nothing that was stated since: its removal and what that knew. `None` if it was not removed.
    pub fn encode_removal(&self, device: PeerId) -> Option<Vec<u8>> {
        let removals = self.statements.values().filter(|statement| self.counts(statement.id()) && !self.contains(device));
        let last = removals
            .filter(|statement| removes(statement).is_some_and(|(_, key, _)| key == device))
            .max_by_key(|last| (last.time(), last.id()))?;
        Some(encode(&History::new(&self.statements).view(last.id())))
    }

    /// Which user or group encoded statements are about, without checking them: the id of the first that has no parents.
    pub fn id_of(bytes: &[u8]) -> Option<GroupId> {
        read(bytes).ok()?.iter().find(|statement| statement.parents().is_empty()).map(|root| GroupId(root.id().0))
    }

    /// All statements as bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.statements)
    }

    /// Reads what [`Group::encode`] wrote and checks every statement.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, GroupError> {
        Self::from_statements(read(bytes)?)
    }

    /// This device's consent to be admitted here as one of `holder`'s.
    pub fn consent(&self, device: &DeviceKey, holder: GroupId) -> Signature {
        consent(device, self.id, holder)
    }
}

/// Recovery keys, whether or not their additions count, and the devices that they admit.
fn recovering(statements: &BTreeMap<StatementId, Statement>) -> BTreeSet<PeerId> {
    let added = statements.values().filter_map(|statement| match statement.action() {
        Action::AddRecovery { key, .. } => Some(*key),
        _ => None,
    });
    let keys: BTreeSet<_> = added.collect();
    let admitted = statements.values().filter_map(|statement| match statement.action() {
        Action::Admit { device, .. } if keys.contains(&statement.author()) => Some(*device),
        _ => None,
    });
    let admitted: Vec<_> = admitted.collect();
    keys.into_iter().chain(admitted).collect()
}

/// Which secrets of an epoch a key may have; each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    None,
    Read,
    Write,
}

impl State {
    pub(crate) fn access(&self, key: PeerId) -> Access {
        let member = self.members.get(&key).map_or(Access::None, |member| Standing::from(member.role).access());
        if self.recovery.contains_key(&key) { Access::Write } else { member }
    }
}

impl Standing {
    pub(crate) const fn access(self) -> Access {
        match self {
            Self::Reader => Access::Read,
            _ => Access::Write,
        }
    }
}

impl Group {
    /// Which secrets of the epochs a key may have.
    pub(crate) fn access(&self, key: PeerId) -> Access {
        self.state.access(key)
    }
}

fn encode(statements: &BTreeMap<StatementId, Statement>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u8(VERSION).varint(statements.len() as u64);
    for statement in statements.values() {
        writer.string(&statement.encode());
    }
    writer.finish()
}

/// Statements as [`Group::encode`] wrote them, unchecked.
fn read(bytes: &[u8]) -> Result<Vec<Statement>, DecodeError> {
    if bytes.len() > MAX_GROUP + 8 * MAX_STATEMENTS {
        return Err(DecodeError::Range("length of statements"));
    }
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        VERSION => {}
        other => return Err(DecodeError::Kind(other)),
    }
    let mut statements: Vec<Statement> = Vec::new();
    for _ in 0..reader.count(MAX_STATEMENTS, "number of statements")? {
        let statement = Statement::decode(reader.string(MAX_STATEMENT, "statement")?)?;
        if statements.last().is_some_and(|last| last.id() >= statement.id()) {
            return Err(DecodeError::NotCanonical("order of statements"));
        }
        statements.push(statement);
    }
    reader.finish()?;
    Ok(statements)
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "group_attacks.rs"]
mod attacks;
