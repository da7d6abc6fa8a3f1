//! What a device says about its user or group: signed, and linked by hash to all that it knew when it said it.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeSet;

use peers_wire::{DecodeError, ParseIdError, PeerId, Reader, Signature, Timestamp, TopicId, Writer};

use crate::keys::{DeviceKey, Domain, Forged, hash, verify};

/// Statements that one statement names as known to its author.
pub const MAX_PARENTS: usize = 16;
/// Bytes of the name of a user, a group or a device, in UTF-8.
pub const MAX_NAME: usize = 64;
/// Contacts that a user may choose to recover with.
pub const MAX_GUARDIANS: usize = 16;
/// Keys that a guardian may have: those of its devices.
pub const MAX_GUARDIAN_KEYS: usize = 8;
/// Bytes of an encoded statement; the longest names sixteen guardians with eight keys each.
pub(crate) const MAX_STATEMENT: usize = 5 << 10;

const VERSION: u8 = 1;

/// A user or a group: the id of the statement that created it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 32]);

impl GroupId {
    /// Names no group.
    pub const NONE: Self = Self([0; 32]);
}

/// A statement: BLAKE2b-256 of all of it, the signature included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementId(pub [u8; 32]);

impl StatementId {
    /// Names no statement.
    pub const NONE: Self = Self([0; 32]);
}

/// The text forms are those of [`PeerId`].
macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&PeerId(self.0), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&PeerId(self.0), f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.parse().map(|id: PeerId| Self(id.0))
            }
        }
    };
}
text!(GroupId);
text!(StatementId);

/// What is created: both are one construction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// One person's devices, each of which is an owner.
    #[default]
    User = 1,
    /// Devices of several users, in their roles.
    Group = 2,
}

impl Kind {
    /// Reads the number of a kind.
    ///
    /// # Errors
    /// [`DecodeError::Kind`] if it is none.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            1 => Ok(Self::User),
            2 => Ok(Self::Group),
            other => Err(DecodeError::Kind(other)),
        }
    }
}

/// What a member may do; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Reader = 1,
    /// Writes, and begins epochs.
    Writer = 2,
    /// Admits and removes members.
    Owner = 3,
}

impl Role {
    /// Reads the number of a role.
    ///
    /// # Errors
    /// [`DecodeError::Kind`] if it is none.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            1 => Ok(Self::Reader),
            2 => Ok(Self::Writer),
            3 => Ok(Self::Owner),
            other => Err(DecodeError::Kind(other)),
        }
    }
}

/// What a statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begins a user or group, whose first member, an owner, is the author.
    Create {
        /// Which of the two.
        kind: Kind,
        /// Its name.
        name: String,
        /// The author's name.
        device_name: String,
        /// The user whose device the author is; [`GroupId::NONE`] in a user's own statements.
        holder: GroupId,
    },
    /// Makes a device a member, or gives a member another role.
    Admit {
        /// The device.
        device: PeerId,
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
        /// The user whose device it is; [`GroupId::NONE`] in a user's own statements.
        holder: GroupId,
        /// Its [`consent`].
        consent: Signature,
    },
    /// Ends the membership of a device.
    Remove {
        /// The device.
        device: PeerId,
        /// The last of its statements that still counts, or [`StatementId::NONE`].
        last: StatementId,
        /// The number of its last change to data that still counts; 0: none does.
        sequence: u64,
    },
    /// Gives another name.
    Rename {
        /// The name.
        name: String,
    },
    /// Adds a recovery key.
    AddRecovery {
        /// The key.
        key: PeerId,
        /// Its [`recovery_proof`].
        proof: Signature,
    },
    /// Removes a recovery key.
    RemoveRecovery {
        /// The key.
        key: PeerId,
        /// The last of its statements that still counts, or [`StatementId::NONE`].
        last: StatementId,
    },
    /// Chooses the contacts of which `threshold` together can recover the user; these replace the ones before.
    SetGuardians {
        /// How many it takes, at least 1.
        threshold: u8,
        /// The keys of each; none: there are no guardians any more.
        guardians: Vec<Vec<PeerId>>,
    },
    /// Makes the author an owner, by the word of guardians.
    Recover {
        /// The author's name.
        name: String,
        /// The statement that chose them.
        guardians: StatementId,
        /// What they signed, in the order of their indices.
        endorsements: Vec<Endorsement>,
    },
    /// Begins an epoch: what is written from now on is sealed under its key.
    Rotate {
        /// The id of its topic.
        topic: TopicId,
        /// [`ReadKey::commitment`](crate::ReadKey::commitment) of its read key.
        read: [u8; 32],
    },
}

/// A guardian's word that a new device is the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endorsement {
    /// Which of the guardians, from 1, in the order of the statement that names them; not signed, as the key is compared with that statement.
    pub index: u8,
    /// Which of its keys signs.
    pub key: PeerId,
    /// Over user, guardians statement and device.
    pub signature: Signature,
}

impl Endorsement {
    /// Endorses `device` as guardian number `index` of `user`, chosen by statement `guardians`.
    pub fn sign(guardian: &DeviceKey, index: u8, user: GroupId, guardians: StatementId, device: PeerId) -> Self {
        let signature = guardian.sign(Domain::ENDORSE, &[&user.0, &guardians.0, &device.0]);
        Self { index, key: guardian.id(), signature }
    }

    /// Checks the signature; whether the key is that guardian's is left to [`Group::merge`](crate::Group::merge).
    ///
    /// # Errors
    /// [`Forged`]
    pub fn check(&self, user: GroupId, guardians: StatementId, device: PeerId) -> Result<(), Forged> {
        verify(&self.key, Domain::ENDORSE, &[&user.0, &guardians.0, &device.0], &self.signature)
    }
}

/// A signed statement about a user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    parents: Vec<StatementId>,
    author: PeerId,
    time: Timestamp,
    action: Action,
    signature: Signature,
    id: StatementId,
    length: usize,
}

impl Statement {
    /// Signs a statement. `parents`: at most [`MAX_PARENTS`], in any order.
    pub(crate) fn sign(key: &DeviceKey, mut parents: Vec<StatementId>, time: Timestamp, action: Action) -> Self {
        parents.sort_unstable();
        let unsigned = Self { parents, author: key.id(), time, action, signature: Signature([0; 64]), id: StatementId::NONE, length: 0 };
        let signature = key.sign(Domain::STATEMENT, &[&unsigned.body()]);
        let mut this = Self { signature, ..unsigned };
        let bytes = this.encode();
        (this.id, this.length) = (StatementId(hash(&[b"peers statement", &bytes])), bytes.len());
        this
    }

    /// Reads a statement; its signatures are left to [`Statement::check`].
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are anything else than the one encoding of a statement.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            VERSION => {}
            other => return Err(DecodeError::Kind(other)),
        }
        let count = reader.count(MAX_PARENTS, "number of parents")?;
        let mut parents = Vec::with_capacity(count);
        for _ in 0..count {
            let parent = StatementId(reader.array()?);
            if parents.last().is_some_and(|last| *last >= parent) {
                return Err(DecodeError::NotCanonical("parents"));
            }
            parents.push(parent);
        }
        let (author, time) = (PeerId(reader.array()?), reader.timestamp()?);
        let action = Action::decode(&mut reader)?;
        if matches!(action, Action::Create { .. }) != parents.is_empty() {
            return Err(DecodeError::Range("number of parents"));
        }
        let signature = Signature(reader.array()?);
        reader.finish()?;
        let id = StatementId(hash(&[b"peers statement", bytes]));
        Ok(Self { parents, author, time, action, signature, id, length: bytes.len() })
    }

    /// Its one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// What is signed: everything before the signature.
    fn body(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(64 + 32 * self.parents.len());
        writer.u8(VERSION).varint(self.parents.len() as u64);
        for parent in &self.parents {
            writer.bytes(&parent.0);
        }
        writer.bytes(&self.author.0).timestamp(self.time);
        self.action.encode(&mut writer);
        writer.finish()
    }

    /// Checks the author's signature, and those within: a device's consent, a recovery key's proof, endorsements. 35 us each.
    ///
    /// - `group`: what the statement is about; the first statement's own id
    ///
    /// # Errors
    /// [`Forged`]
    pub fn check(&self, group: GroupId) -> Result<(), Forged> {
        verify(&self.author, Domain::STATEMENT, &[&self.body()], &self.signature)?;
        match &self.action {
            Action::Admit { device, holder, consent, .. } => verify(device, Domain::CONSENT, &[&group.0, &holder.0], consent),
            Action::AddRecovery { key, proof } => verify(key, Domain::RECOVERY, &[&group.0], proof),
            Action::Recover { guardians, endorsements, .. } => {
                endorsements.iter().try_for_each(|endorsement| endorsement.check(group, *guardians, self.author))
            }
            _ => Ok(()),
        }
    }

    /// Its id.
    pub const fn id(&self) -> StatementId {
        self.id
    }

    /// The newest statements that its author knew; empty for the first.
    pub fn parents(&self) -> &[StatementId] {
        &self.parents
    }

    /// The key that made it.
    pub const fn author(&self) -> PeerId {
        self.author
    }

    /// When, by the author's clock.
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// What it does.
    pub const fn action(&self) -> &Action {
        &self.action
    }

    /// Bytes of its encoding.
    pub(crate) const fn length(&self) -> usize {
        self.length
    }
}

impl Action {
    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Create { kind, name, device_name, holder } => {
                writer.u8(1).u8(*kind as u8).string(name.as_bytes()).string(device_name.as_bytes()).bytes(&holder.0)
            }
            Self::Admit { device, name, role, holder, consent } => {
                writer.u8(2).bytes(&device.0).string(name.as_bytes()).u8(*role as u8).bytes(&holder.0).bytes(&consent.0)
            }
            Self::Remove { device, last, sequence } => writer.u8(3).bytes(&device.0).bytes(&last.0).varint(*sequence),
            Self::Rename { name } => writer.u8(4).string(name.as_bytes()),
            Self::AddRecovery { key, proof } => writer.u8(5).bytes(&key.0).bytes(&proof.0),
            Self::RemoveRecovery { key, last } => writer.u8(6).bytes(&key.0).bytes(&last.0),
            Self::SetGuardians { threshold, guardians } => {
                writer.u8(7).u8(*threshold).varint(guardians.len() as u64);
                for keys in guardians {
                    writer.varint(keys.len() as u64);
                    keys.iter().for_each(|key| _ = writer.bytes(&key.0));
                }
                writer
            }
            Self::Recover { name, guardians, endorsements } => {
                writer.u8(8).string(name.as_bytes()).bytes(&guardians.0).varint(endorsements.len() as u64);
                for Endorsement { index, key, signature } in endorsements {
                    writer.u8(*index).bytes(&key.0).bytes(&signature.0);
                }
                writer
            }
            Self::Rotate { topic, read } => writer.u8(9).bytes(&topic.0).bytes(read),
        };
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            1 => {
                let kind = Kind::read(reader)?;
                Self::Create { kind, name: name(reader)?, device_name: name(reader)?, holder: GroupId(reader.array()?) }
            }
            2 => Self::Admit {
                device: PeerId(reader.array()?),
                name: name(reader)?,
                role: Role::read(reader)?,
                holder: GroupId(reader.array()?),
                consent: Signature(reader.array()?),
            },
            3 => Self::Remove { device: PeerId(reader.array()?), last: StatementId(reader.array()?), sequence: reader.varint()? },
            4 => Self::Rename { name: name(reader)? },
            5 => Self::AddRecovery { key: PeerId(reader.array()?), proof: Signature(reader.array()?) },
            6 => Self::RemoveRecovery { key: PeerId(reader.array()?), last: StatementId(reader.array()?) },
            7 => Self::SetGuardians { threshold: reader.u8()?, guardians: guardians(reader)? }.sensible()?,
            8 => Self::Recover { name: name(reader)?, guardians: StatementId(reader.array()?), endorsements: endorsements(reader)? },
            9 => Self::Rotate { topic: TopicId(reader.array()?), read: reader.array()? },
            other => return Err(DecodeError::Kind(other)),
        })
    }

    /// Refuses guardians of which too few or none have to agree, or one of whose keys counts for two.
    pub(crate) fn sensible(self) -> Result<Self, DecodeError> {
        let Self::SetGuardians { threshold, guardians } = &self else { return Ok(self) };
        let keys = guardians.iter().flatten().collect::<BTreeSet<_>>();
        let reachable = (1..=guardians.len().max(1)).contains(&usize::from(*threshold)) && guardians.len() <= MAX_GUARDIANS;
        let sized = guardians.iter().all(|keys| (1..=MAX_GUARDIAN_KEYS).contains(&keys.len()));
        let distinct = keys.len() == guardians.iter().map(Vec::len).sum::<usize>();
        if reachable && sized && distinct { Ok(self) } else { Err(DecodeError::Range("guardians")) }
    }
}

fn guardians(reader: &mut Reader<'_>) -> Result<Vec<Vec<PeerId>>, DecodeError> {
    let mut guardians = Vec::new();
    for _ in 0..reader.count(MAX_GUARDIANS, "number of guardians")? {
        let mut keys = Vec::new();
        for _ in 0..reader.count(MAX_GUARDIAN_KEYS, "number of a guardian's keys")? {
            keys.push(PeerId(reader.array()?));
        }
        guardians.push(keys);
    }
    Ok(guardians)
}

fn endorsements(reader: &mut Reader<'_>) -> Result<Vec<Endorsement>, DecodeError> {
    let mut endorsements: Vec<Endorsement> = Vec::new();
    for _ in 0..reader.count(MAX_GUARDIANS, "number of endorsements")? {
        let endorsement = Endorsement { index: reader.u8()?, key: PeerId(reader.array()?), signature: Signature(reader.array()?) };
        if endorsements.last().is_some_and(|last| last.index >= endorsement.index) {
            return Err(DecodeError::NotCanonical("endorsements"));
        }
        endorsements.push(endorsement);
    }
    Ok(endorsements)
}

/// A device's agreement to be a member of `group` as a device of `holder`: without it anybody could claim the device, and what it writes.
///
/// - `holder`: the user whose device it is; [`GroupId::NONE`] if `group` is that user
pub fn consent(device: &DeviceKey, group: GroupId, holder: GroupId) -> Signature {
    device.sign(Domain::CONSENT, &[&group.0, &holder.0])
}

/// Shows that who adds a recovery key to `group` has it.
pub fn recovery_proof(key: &DeviceKey, group: GroupId) -> Signature {
    key.sign(Domain::RECOVERY, &[&group.0])
}

/// Whether a text may name a user, group or device: 1 to [`MAX_NAME`] bytes, without control characters, which would reach a terminal.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

pub(crate) fn name(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let text = reader.text(MAX_NAME, "name")?;
    if is_name(text) { Ok(text.to_owned()) } else { Err(DecodeError::Range("name")) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId([7; 32]);

    fn keys() -> [DeviceKey; 2] {
        [1, 2].map(|seed| DeviceKey::from_seed(&[seed; 32]))
    }

    /// One of each action.
    pub(crate) fn examples() -> Vec<Statement> {
        let [key, other] = keys();
        let holder = GroupId([8; 32]);
        let create = Action::Create { kind: Kind::Group, name: "Choir".into(), device_name: "laptop".into(), holder };
        let parents = vec![StatementId([9; 32]), StatementId([1; 32])];
        let chosen = StatementId([4; 32]);
        let actions = [
            Action::Admit { device: other.id(), name: "phone".into(), role: Role::Reader, holder, consent: consent(&other, GROUP, holder) },
            Action::Remove { device: other.id(), last: StatementId([3; 32]), sequence: 1 << 40 },
            Action::Rename { name: "Älïce".into() },
            Action::AddRecovery { key: other.id(), proof: recovery_proof(&other, GROUP) },
            Action::RemoveRecovery { key: other.id(), last: StatementId::NONE },
            Action::SetGuardians { threshold: 2, guardians: vec![vec![key.id(), other.id()], vec![PeerId([9; 32])]] },
            Action::Recover {
                name: "new".into(),
                guardians: chosen,
                endorsements: vec![
                    Endorsement::sign(&other, 1, GROUP, chosen, key.id()),
                    Endorsement::sign(&other, 2, GROUP, chosen, key.id()),
                ],
            },
            Action::Rotate { topic: TopicId([5; 32]), read: [6; 32] },
        ];
        let mut all = vec![Statement::sign(&key, Vec::new(), Timestamp(5), create)];
        all.extend(actions.map(|action| Statement::sign(&key, parents.clone(), Timestamp(6), action)));
        all
    }

    #[test]
    fn every_statement_reads_back_and_is_genuine() {
        for statement in examples() {
            assert_eq!(Statement::decode(&statement.encode()), Ok(statement.clone()));
            assert_eq!(statement.check(GROUP), Ok(()));
        }
    }

    #[test]
    fn an_altered_or_truncated_statement_is_refused() {
        for statement in examples() {
            let bytes = statement.encode();
            for at in 0..bytes.len() {
                assert!(Statement::decode(&bytes[..at]).is_err());
                let mut altered = bytes.clone();
                altered[at] ^= 1;
                assert!(Statement::decode(&altered).map_or(true, |altered| altered.check(GROUP) == Err(Forged)), "byte {at}");
            }
        }
    }

    #[test]
    fn a_device_cannot_be_claimed_without_its_consent_or_with_consent_to_another_group_or_holder() {
        let [mallory, victim] = keys();
        let holder = GroupId([8; 32]);
        for consent in [Signature([0; 64]), consent(&victim, GroupId([1; 32]), holder), consent(&victim, GROUP, GroupId::NONE)] {
            let action = Action::Admit { device: victim.id(), name: "mine".into(), role: Role::Owner, holder, consent };
            assert_eq!(Statement::sign(&mallory, vec![StatementId([1; 32])], Timestamp(1), action).check(GROUP), Err(Forged));
        }
    }

    #[test]
    fn a_recovery_key_without_proof_and_endorsements_for_another_are_forged() {
        let [key, other] = keys();
        let sign = |action| Statement::sign(&key, vec![StatementId([1; 32])], Timestamp(1), action).check(GROUP);
        assert_eq!(sign(Action::AddRecovery { key: other.id(), proof: recovery_proof(&other, GroupId([1; 32])) }), Err(Forged));
        let chosen = StatementId([4; 32]);
        for endorsement in [
            Endorsement::sign(&other, 1, GROUP, chosen, other.id()),
            Endorsement::sign(&other, 1, GroupId([1; 32]), chosen, key.id()),
            Endorsement::sign(&other, 1, GROUP, StatementId([5; 32]), key.id()),
        ] {
            assert_eq!(sign(Action::Recover { name: "x".into(), guardians: chosen, endorsements: vec![endorsement] }), Err(Forged));
        }
    }

    #[test]
    fn guardians_that_cannot_agree_or_count_twice_are_refused() {
        let [a, b] = [1, 2].map(|id| PeerId([id; 32]));
        for (threshold, guardians) in [(0, vec![vec![a]]), (2, vec![vec![a]]), (1, vec![vec![]]), (2, vec![vec![a, b], vec![b]])] {
            assert!(Action::SetGuardians { threshold, guardians }.sensible().is_err());
        }
        assert!(Action::SetGuardians { threshold: 1, guardians: vec![] }.sensible().is_ok(), "none at all");
    }

    #[test]
    fn a_name_with_control_characters_or_too_long_is_refused() {
        for bad in ["", "a\x1b[31m", "tab\t", &"x".repeat(65)] {
            assert!(!is_name(bad));
        }
        assert!(is_name(&"x".repeat(64)) && is_name("Zoë's phone"));
    }

    #[test]
    fn the_longest_statement_fits_the_bound() {
        let [key, _] = keys();
        let parents = (0..16).map(|i| StatementId([i; 32])).collect();
        let guardians = (0..16u8).map(|i| (0..8u8).map(|j| PeerId([16 * j + i; 32])).collect()).collect();
        let action = Action::SetGuardians { threshold: 16, guardians }.sensible().unwrap();
        assert!(Statement::sign(&key, parents, Timestamp(1), action).encode().len() <= MAX_STATEMENT);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(statement) = Statement::decode(&bytes) {
                prop_assert_eq!(statement.encode(), bytes);
            }
        }

        #[test]
        fn altered_statements_decode_to_what_encodes_to_them_or_are_refused(which in 0usize..9, at in 0usize..600, with: u8) {
            let mut bytes = examples()[which].encode();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(statement) = Statement::decode(&bytes) {
                prop_assert_eq!(statement.encode(), bytes);
            }
        }
    }
}
