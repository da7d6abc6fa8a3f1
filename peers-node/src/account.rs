//! The account of a user on this device: who its devices are, which groups it is in, the keys of both, and which databases it keeps.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use peers_crypto::{DeviceKey, EpochKey, Group, GroupError, GroupId, Keyring, MAX_GROUP, StatementId, TopicKey, hash};
use peers_wire::{DecodeError, PeerId, Reader, Timestamp, TopicId, Writer};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::message::{MAX_ENCODED_GROUP, MAX_NAME};

/// A database: 32 random bytes, the same on every device that keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(pub [u8; 32]);

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId(self.0).fmt(f)
    }
}

impl fmt::Debug for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&TopicId(self.0), f)
    }
}

impl FromStr for DatabaseId {
    type Err = peers_wire::ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<TopicId>().map(|id| Self(id.0))
    }
}

impl serde::Serialize for DatabaseId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DatabaseId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TopicId::deserialize(deserializer).map(|id| Self(id.0))
    }
}

/// The databases of a user by id, with the name each was given first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue(BTreeMap<DatabaseId, String>);

impl Catalogue {
    /// Adds a database; of two names for one id the lesser stays, on every device. `false` if nothing changed or the catalogue is full.
    pub fn add(&mut self, id: DatabaseId, name: &str) -> bool {
        if name.len() > MAX_NAME || (self.0.len() >= MAX_DATABASES && !self.0.contains_key(&id)) {
            return false;
        }
        match self.0.get_mut(&id) {
            Some(present) if present.as_str() <= name => false,
            Some(present) => {
                *present = name.to_owned();
                true
            }
            None => self.0.insert(id, name.to_owned()).is_none(),
        }
    }

    /// Takes over what `other` has more. `true` if something changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        other.0.iter().fold(false, |changed, (id, name)| self.add(*id, name) | changed)
    }

    /// The database of that name; of several the one with the least id, on every device.
    pub fn find(&self, name: &str) -> Option<DatabaseId> {
        self.0.iter().find(|(_, present)| *present == name).map(|(id, _)| *id)
    }

    /// The name of a database.
    pub fn name_of(&self, id: DatabaseId) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }

    /// Every database with its name, by id.
    pub fn iter(&self) -> impl Iterator<Item = (DatabaseId, &str)> {
        self.0.iter().map(|(id, name)| (*id, name.as_str()))
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.varint(self.0.len() as u64);
        for (id, name) in &self.0 {
            writer.bytes(&id.0).string(name.as_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut databases = BTreeMap::new();
        for _ in 0..reader.count(MAX_DATABASES, "catalogue")? {
            let id = DatabaseId(reader.array()?);
            if databases.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(DecodeError::NotCanonical("catalogue"));
            }
            databases.insert(id, reader.text(MAX_NAME, "database name")?.to_owned());
        }
        Ok(Self(databases))
    }
}

/// A user or group that this device is a member of, or was, with the keys of its epochs.
#[derive(Debug, Clone)]
pub struct Membership {
    pub(crate) group: Group,
    pub(crate) keys: Keyring,
    /// The epoch to seal under; `None`: begin one first.
    current: Option<StatementId>,
}

impl Membership {
    pub(crate) fn new(group: Group, keys: Keyring) -> Self {
        let current = keys.current(&group).map(|(id, _)| id);
        Self { group, keys, current }
    }

    /// Who is a member, and what is known of it.
    pub const fn group(&self) -> &Group {
        &self.group
    }

    /// The keys of its epochs, as far as this device has them.
    pub const fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// The epoch under which this device seals what it writes, unless it has to begin one first.
    pub fn current(&self) -> Option<(StatementId, &TopicKey)> {
        match self.current.and_then(|id| self.keys.get(id).map(|key| (id, key))) {
            Some((id, EpochKey::Write(key))) => Some((id, key)),
            _ => None,
        }
    }

    /// To be called when the group or the keys have changed.
    pub(crate) fn changed(&mut self) {
        self.current = self.keys.current(&self.group).map(|(id, _)| id);
    }

    /// The keys of the newest epochs, the newest first: what is still written or on its way.
    pub(crate) fn recent(&self) -> impl Iterator<Item = &EpochKey> {
        self.group.epochs().into_iter().filter_map(|id| self.keys.get(id)).take(MAX_RECENT_EPOCHS)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.string(&self.group.encode()).string(&self.keys.encode());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let group = Group::decode(reader.string(MAX_ENCODED_GROUP, "group")?).map_err(|_| DecodeError::Range("group"))?;
        let keys = Keyring::decode(reader.string(MAX_GROUP, "keys")?, &group)?;
        Ok(Self::new(group, keys))
    }
}

/// A user as this device knows them.
#[derive(Clone)]
pub struct Account {
    pub(crate) user: Membership,
    pub(crate) groups: BTreeMap<GroupId, Membership>,
    pub(crate) catalogue: Catalogue,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.user.group).field("catalogue", &self.catalogue).finish_non_exhaustive()
    }
}

impl Account {
    /// A new user whose only device is this one; the user takes the device's name.
    ///
    /// # Errors
    /// [`GroupError`] if `device_name` is none.
    pub fn create(wall: Timestamp, key: &DeviceKey, device_name: &str, rng: &mut impl CryptoRng) -> Result<Self, GroupError> {
        let mut group = Group::create_user(key, device_name, device_name, wall)?;
        let mut keys = Keyring::default();
        keys.rotate(&mut group, key, wall, rng)?;
        Ok(Self { user: Membership::new(group, keys), groups: BTreeMap::new(), catalogue: Catalogue::default() })
    }

    /// The user.
    pub fn id(&self) -> GroupId {
        self.user.group.id()
    }

    /// The user's devices and what is known of them.
    pub const fn user(&self) -> &Group {
        &self.user.group
    }

    /// The groups that this device is in.
    pub fn groups(&self) -> impl Iterator<Item = &Membership> {
        self.groups.values()
    }

    /// A group that this device is in, or the user.
    pub fn membership(&self, id: GroupId) -> Option<&Membership> {
        if id == self.id() { Some(&self.user) } else { self.groups.get(&id) }
    }

    pub(crate) fn membership_mut(&mut self, id: GroupId) -> Option<&mut Membership> {
        if id == self.id() { Some(&mut self.user) } else { self.groups.get_mut(&id) }
    }

    /// The user's databases.
    pub const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Whether `peer` is one of the user's devices.
    pub fn has_device(&self, peer: PeerId) -> bool {
        self.user.group.contains(peer)
    }

    /// The bytes to keep on disk (sealed): they hold secrets.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
        self.user.encode(&mut writer);
        self.catalogue.encode(&mut writer);
        writer.varint(self.groups.len() as u64);
        self.groups.values().for_each(|group| group.encode(&mut writer));
        Zeroizing::new(writer.finish())
    }

    /// Reads what [`Account::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] if these are not such bytes, or a statement does not verify.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Kind(other)),
        }
        let user = Membership::decode(&mut reader)?;
        let catalogue = Catalogue::decode(&mut reader)?;
        let mut groups = BTreeMap::new();
        for _ in 0..reader.count(MAX_GROUPS, "groups")? {
            let group = Membership::decode(&mut reader)?;
            groups.insert(group.group.id(), group);
        }
        reader.finish()?;
        Ok(Self { user, groups, catalogue })
    }
}

/// Names a topic of the user's own on this device, for good: its keys change with the epochs, and with the user.
pub(crate) fn label_id(label: &str) -> TopicId {
    TopicId(hash(&[b"peers label", label.as_bytes()]))
}

/// What an epoch's key of the user gives: the topic on which the user's devices tell each other of changes to the account.
pub(crate) fn account_topic(epoch: &TopicKey) -> TopicKey {
    TopicKey::derive(epoch.seed(), "account")
}

/// The topic of the user's own with that label.
pub(crate) fn labelled_topic(epoch: &TopicKey, label: &str) -> TopicKey {
    TopicKey::derive(epoch.seed(), &format!("topic {label}"))
}

/// The topic on which changes of a database wait for the devices that are offline.
pub(crate) fn database_topic(epoch: &TopicKey, database: DatabaseId) -> TopicKey {
    TopicKey::derive(epoch.seed(), &format!("database {database}"))
}

/// Groups that a device may be in.
pub(crate) const MAX_GROUPS: usize = 256;
/// Epochs whose topics are followed: what was written in them may still be on its way.
const MAX_RECENT_EPOCHS: usize = 4;
/// Databases a user can have.
pub(crate) const MAX_DATABASES: usize = 1024;
const FORMAT: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn an_account_with_groups_and_many_statements_reads_back() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let key = DeviceKey::from_seed(&[1; 32]);
        let mut account = Account::create(Timestamp(1), &key, "laptop", &mut rng).unwrap();
        for i in 0..100 {
            account.user.group.rename(&key, &format!("name {i}"), Timestamp(1)).unwrap();
        }
        let mut group = Group::create_group(&key, account.id(), "Choir", "laptop", Timestamp(1)).unwrap();
        let mut keys = Keyring::default();
        keys.rotate(&mut group, &key, Timestamp(1), &mut rng).unwrap();
        account.groups.insert(group.id(), Membership::new(group, keys));
        let again = Account::decode(&account.encode()).unwrap();
        assert_eq!(again.user(), account.user());
        let [before, after] = [&account, &again].map(|account| account.groups().next().unwrap().current().unwrap().1.id());
        assert_eq!(before, after);
    }

    #[test]
    fn catalogues_merge_to_the_same_in_any_order() {
        let (a, b) = (DatabaseId([1; 32]), DatabaseId([2; 32]));
        let mut left = Catalogue::default();
        left.add(a, "notes");
        left.add(b, "music");
        let mut right = Catalogue::default();
        right.add(a, "memos");
        let (mut one, mut two) = (left.clone(), right.clone());
        assert!(one.merge(&right) && two.merge(&left));
        assert_eq!(one, two);
        assert!(!one.merge(&left), "nothing new");
        assert_eq!(one.find("memos"), Some(a));
        assert_eq!(one.name_of(b), Some("music"));
    }
}
