//! The account of a user on this device: who its devices are, the secret they share, and which databases they keep.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use peers_crypto::{DeviceKey, TopicKey, User, UserError, UserId};
use peers_wire::{DecodeError, PeerId, Reader, Timestamp, TopicId, Writer};
use zeroize::Zeroizing;

use crate::message::{MAX_NAME, MAX_USER};

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

/// A user as this device knows them.
#[derive(Clone)]
pub struct Account {
    pub(crate) user: User,
    pub(crate) secret: Zeroizing<[u8; 32]>,
    pub(crate) catalogue: Catalogue,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.user).field("catalogue", &self.catalogue).finish_non_exhaustive()
    }
}

impl Account {
    /// A new user whose only device is this one; the user takes the device's name.
    ///
    /// # Errors
    /// [`UserError::Name`] if `device_name` is none.
    pub fn create(wall: Timestamp, key: &DeviceKey, device_name: &str, secret: [u8; 32]) -> Result<Self, UserError> {
        let user = User::create(key, device_name, device_name, wall)?;
        Ok(Self { user, secret: Zeroizing::new(secret), catalogue: Catalogue::default() })
    }

    /// The user.
    pub fn id(&self) -> UserId {
        self.user.id()
    }

    /// The user's devices and what is known of them.
    pub const fn user(&self) -> &User {
        &self.user
    }

    /// The user's databases.
    pub const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Whether `peer` is one of the user's devices.
    pub fn has_device(&self, peer: PeerId) -> bool {
        self.user.contains(peer)
    }

    /// The topic on which the user's devices tell each other of changes to the account.
    pub(crate) fn topic(&self) -> TopicKey {
        TopicKey::derive(&self.secret, "account")
    }

    /// The topic of the user's own with that label, the same on all their devices.
    pub fn labelled_topic(&self, label: &str) -> TopicKey {
        TopicKey::derive(&self.secret, &format!("topic {label}"))
    }

    /// The topic on which changes of a database wait for the devices that are offline.
    pub(crate) fn database_topic(&self, database: DatabaseId) -> TopicKey {
        TopicKey::derive(&self.secret, &format!("database {database}"))
    }

    /// The bytes to keep on disk (sealed): they hold the user's secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::default();
        writer.u8(FORMAT).bytes(&*self.secret).string(&self.user.encode());
        self.catalogue.encode(&mut writer);
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
        let secret = Zeroizing::new(reader.array()?);
        let user = User::decode(reader.string(MAX_USER, "user")?).map_err(|_| DecodeError::Range("user"))?;
        let catalogue = Catalogue::decode(&mut reader)?;
        reader.finish()?;
        Ok(Self { user, secret, catalogue })
    }
}

/// Databases a user can have.
pub(crate) const MAX_DATABASES: usize = 1024;
const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_with_long_statements_reads_back() {
        let key = DeviceKey::from_seed(&[1; 32]);
        let mut account = Account::create(Timestamp(1), &key, "laptop", [2; 32]).unwrap();
        // Sixteen at a time that do not know of each other: each names sixteen before it.
        for round in 0..28 {
            let known = account.user.clone();
            for name in 0..16 {
                let mut user = known.clone();
                let statement = user.rename(&key, &format!("{name} of {round}"), Timestamp(1)).unwrap();
                account.user.merge([statement]).unwrap();
            }
        }
        let bytes = account.encode();
        assert!(bytes.len() > 256 << 10);
        assert_eq!(Account::decode(&bytes).unwrap().user(), account.user());
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
