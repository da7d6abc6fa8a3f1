//! The keys of a user or group: an epoch each, begun by a statement; sealed for members by grants.
//!
//! Writers have the seed of an epoch's topic, readers its read key. Whoever gets a key checks it against the statement: from whom it comes does not matter.

use core::fmt;
use std::collections::BTreeMap;

use peers_wire::{DecodeError, PeerId, Reader, Timestamp, Writer};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::group::{Access, Group, GroupError, MAX_STATEMENTS};
use crate::keys::DeviceKey;
use crate::seal::{InvalidKey, SEALED_OVERHEAD, UnsealError, open_from, seal_to};
use crate::statement::{Action, GroupId, StatementId};
use crate::topic::{ReadKey, TopicKey};

/// Epochs whose keys a device keeps, the newest: what is older it can no longer read.
pub const MAX_EPOCHS: usize = 256;
/// Bytes of a grant.
pub const MAX_GRANT: usize = SEALED_OVERHEAD + 32 + 8 + MAX_EPOCHS * (1 + 32 + 32);

const VERSION: u8 = 1;
const GRANT: &str = "peers grant 1";

/// The secret of an epoch, as far as a member may have it.
#[derive(Clone)]
pub enum EpochKey {
    /// Writes and reads.
    Write(TopicKey),
    /// Reads.
    Read(ReadKey),
}

impl EpochKey {
    /// What readers need.
    pub fn read_key(&self) -> ReadKey {
        match self {
            Self::Write(topic) => topic.read_key(),
            Self::Read(key) => key.clone(),
        }
    }

    const fn access(&self) -> Access {
        match self {
            Self::Write(_) => Access::Write,
            Self::Read(_) => Access::Read,
        }
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        match self {
            Self::Write(topic) => topic.seed(),
            Self::Read(key) => key.key(),
        }
    }

    /// The key of that secret, if it is that of the epoch that `action` begins.
    fn of(action: &Action, access: Access, secret: [u8; 32]) -> Option<Self> {
        let Action::Rotate { topic, read } = action else { return None };
        let key = match access {
            Access::Write => Self::Write(TopicKey::from_seed(secret)),
            _ => Self::Read(ReadKey::new(*topic, secret)),
        };
        let read_key = key.read_key();
        (read_key.topic() == *topic && read_key.commitment() == *read).then_some(key)
    }
}

impl fmt::Debug for EpochKey {
    /// The topic alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(topic) => topic.fmt(f),
            Self::Read(key) => key.fmt(f),
        }
    }
}

/// The keys of a user's or group's epochs that a device has; bounded, zeroed when dropped.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: BTreeMap<StatementId, EpochKey>,
}

impl Keyring {
    /// Begins an epoch: `key` signs the statement; the secret is to be [granted](Keyring::grant) to every member.
    ///
    /// # Errors
    /// [`GroupError`] if the device may not write.
    pub fn rotate(
        &mut self,
        group: &mut Group,
        key: &DeviceKey,
        wall: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<StatementId, GroupError> {
        let topic = TopicKey::generate(rng);
        let read = topic.read_key();
        let id = group.append(key, Action::Rotate { topic: read.topic(), read: read.commitment() }, wall)?;
        self.keep(group, id, EpochKey::Write(topic));
        Ok(id)
    }

    /// The newest epoch under which a device may seal, knowing what `group` says: no removed device has its key. `None` if there is none, or its key is missing: then
    /// [rotate](Keyring::rotate), if the device is a writer.
    pub fn current(&self, group: &Group) -> Option<(StatementId, &TopicKey)> {
        group.epochs().into_iter().find_map(|id| match self.keys.get(&id) {
            Some(EpochKey::Write(topic)) if group.is_clean(id) => Some((id, topic)),
            _ => None,
        })
    }

    /// Every epoch of which there is a key, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (StatementId, &EpochKey)> {
        self.keys.iter().map(|(id, key)| (*id, key))
    }

    /// The key of an epoch.
    pub fn get(&self, epoch: StatementId) -> Option<&EpochKey> {
        self.keys.get(&epoch)
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Seals the keys of epochs for a member, as far as it may have them: all that are here but `known`. `None` if there is nothing to give.
    ///
    /// # Errors
    /// [`InvalidKey`] if `to` is no valid key: no member is.
    pub fn grant(
        &self,
        group: &Group,
        sender: &DeviceKey,
        to: PeerId,
        known: &[StatementId],
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Vec<u8>>, InvalidKey> {
        let access = group.access(to);
        let missing: Vec<_> = self.keys.iter().filter(|(id, _)| group.counts(**id) && !known.contains(id)).collect();
        if missing.is_empty() || access == Access::None {
            return Ok(None);
        }
        let mut writer = Writer::default();
        writer.bytes(&group.id().0).varint(missing.len() as u64);
        for (id, key) in missing {
            let given = if access == Access::Read { EpochKey::Read(key.read_key()) } else { key.clone() };
            write(&mut writer, *id, &given);
        }
        let plaintext = Zeroizing::new(writer.finish());
        seal_to(sender, to, GRANT, &plaintext, rng).map(Some)
    }

    /// Opens a grant for `key` and keeps what is new of it; returns how many keys that are.
    ///
    /// # Errors
    /// [`GrantError`]; nothing is then kept.
    pub fn accept(&mut self, group: &Group, key: &DeviceKey, grant: &[u8]) -> Result<usize, GrantError> {
        if grant.len() > MAX_GRANT {
            return Err(DecodeError::Range("length of a grant").into());
        }
        let (_, plaintext) = open_from(key, GRANT, grant)?;
        let plaintext = Zeroizing::new(plaintext);
        let mut reader = Reader::new(&plaintext);
        let about = GroupId(reader.array()?);
        if about != group.id() {
            return Err(GrantError::OtherGroup(about));
        }
        let keys = read(&mut reader, group)?;
        reader.finish()?;
        let before = self.weight();
        keys.into_iter().for_each(|(id, key)| self.keep(group, id, key));
        Ok(self.weight().saturating_sub(before))
    }

    /// Reads for which group a grant is, without keeping anything: grants for a recovery key come before the statements are known.
    ///
    /// # Errors
    /// [`GrantError`]
    pub fn group_of(key: &DeviceKey, grant: &[u8]) -> Result<GroupId, GrantError> {
        let (_, plaintext) = open_from(key, GRANT, grant)?;
        let plaintext = Zeroizing::new(plaintext);
        Ok(GroupId(Reader::new(&plaintext).array()?))
    }

    fn keep(&mut self, group: &Group, id: StatementId, key: EpochKey) {
        if self.keys.get(&id).is_none_or(|known| known.access() < key.access()) {
            self.keys.insert(id, key);
        }
        while self.keys.len() > MAX_EPOCHS {
            // What does not count goes first, then the oldest; never what has just come, which may be what is sealed under next.
            let worth = |other: &StatementId| (group.counts(*other), group.statement(*other).map(|statement| (statement.time(), *other)));
            let Some(least) = self.keys.keys().copied().filter(|other| *other != id).min_by_key(worth) else { return };
            self.keys.remove(&least);
        }
    }

    fn weight(&self) -> usize {
        self.keys.values().map(|key| key.access() as usize).sum()
    }

    /// The bytes to keep on disk, sealed: they are all secrets.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::default();
        writer.u8(VERSION).varint(self.keys.len() as u64);
        self.keys.iter().for_each(|(id, key)| write(&mut writer, *id, key));
        Zeroizing::new(writer.finish())
    }

    /// Reads what [`Keyring::encode`] wrote: keys of the epochs of `group`.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8], group: &Group) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            VERSION => {}
            other => return Err(DecodeError::Kind(other)),
        }
        let keys = read(&mut reader, group)?;
        reader.finish()?;
        Ok(Self { keys: keys.into_iter().collect() })
    }
}

/// Why a grant was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrantError {
    /// It does not open.
    #[error("the grant does not open: {0}")]
    Sealed(#[from] UnsealError),
    /// What it holds cannot be read, or is not the key of an epoch of the group.
    #[error("the grant holds no keys: {0}")]
    Malformed(#[from] DecodeError),
    /// It is for another user or group.
    #[error("the grant is for {0:.8}")]
    OtherGroup(GroupId),
}

fn write(writer: &mut Writer, id: StatementId, key: &EpochKey) {
    writer.bytes(&id.0).u8(key.access() as u8).bytes(key.secret());
}

/// Keys in the order of their ids; those of epochs that `group` does not know are left out, those that are wrong are an error.
fn read(reader: &mut Reader<'_>, group: &Group) -> Result<Vec<(StatementId, EpochKey)>, DecodeError> {
    const { assert!(MAX_EPOCHS <= MAX_STATEMENTS) };
    let (mut keys, mut last) = (Vec::new(), None);
    for _ in 0..reader.count(MAX_EPOCHS, "number of epochs")? {
        let id = StatementId(reader.array()?);
        if last.is_some_and(|last| last >= id) {
            return Err(DecodeError::NotCanonical("order of epochs"));
        }
        last = Some(id);
        let access = match reader.u8()? {
            1 => Access::Read,
            2 => Access::Write,
            other => return Err(DecodeError::Kind(other)),
        };
        let secret = Zeroizing::new(reader.array()?);
        if let Some(statement) = group.statement(id) {
            keys.push((id, EpochKey::of(statement.action(), access, *secret).ok_or(DecodeError::Range("epoch key"))?));
        }
    }
    Ok(keys)
}
