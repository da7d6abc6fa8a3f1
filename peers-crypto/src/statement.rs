//! What a device says about its user: signed, and linked by hash to all that it knew when it said it.

use core::fmt;
use core::str::FromStr;

use peers_wire::{DecodeError, ParseIdError, PeerId, Reader, Signature, Timestamp, Writer};

use crate::keys::{DeviceKey, Domain, Forged, hash, verify};

/// Statements that one statement names as known to its author.
pub const MAX_PARENTS: usize = 16;
/// Bytes of the name of a user or a device, in UTF-8.
pub const MAX_NAME: usize = 64;

const VERSION: u8 = 1;

/// A user: the id of the statement that created it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub [u8; 32]);

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
text!(UserId);
text!(StatementId);

/// What a statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begins a user, whose first device is the author.
    Create {
        /// The user's name.
        name: String,
        /// The author's name.
        device_name: String,
    },
    /// Adds a device.
    AddDevice {
        /// The new device.
        device: PeerId,
        /// Its name.
        name: String,
        /// Its [`consent`] to be added by the author.
        consent: Signature,
    },
    /// Removes a device for ever.
    RevokeDevice {
        /// The device.
        device: PeerId,
        /// The last of its statements that still counts, or [`StatementId::NONE`].
        last: StatementId,
        /// The number of its last change to data that still counts; 0: none does.
        sequence: u64,
    },
    /// Gives the user another name.
    Rename {
        /// The name.
        name: String,
    },
}

/// A signed statement of a device about its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    parents: Vec<StatementId>,
    author: PeerId,
    time: Timestamp,
    action: Action,
    signature: Signature,
    id: StatementId,
}

impl Statement {
    /// Signs a statement. `parents`: at most [`MAX_PARENTS`], in any order.
    pub(crate) fn sign(key: &DeviceKey, mut parents: Vec<StatementId>, time: Timestamp, action: Action) -> Self {
        parents.sort_unstable();
        let unsigned = Self { parents, author: key.id(), time, action, signature: Signature([0; 64]), id: StatementId::NONE };
        let signature = key.sign(Domain::STATEMENT, &[&unsigned.body()]);
        let mut this = Self { signature, ..unsigned };
        this.id = StatementId(hash(&[b"peers statement", &this.encode()]));
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
        let action = match reader.u8()? {
            1 => Action::Create { name: name(&mut reader)?, device_name: name(&mut reader)? },
            2 => Action::AddDevice { device: PeerId(reader.array()?), name: name(&mut reader)?, consent: Signature(reader.array()?) },
            3 => Action::RevokeDevice { device: PeerId(reader.array()?), last: StatementId(reader.array()?), sequence: reader.varint()? },
            4 => Action::Rename { name: name(&mut reader)? },
            other => return Err(DecodeError::Kind(other)),
        };
        if matches!(action, Action::Create { .. }) != parents.is_empty() {
            return Err(DecodeError::Range("number of parents"));
        }
        let signature = Signature(reader.array()?);
        reader.finish()?;
        let id = StatementId(hash(&[b"peers statement", bytes]));
        Ok(Self { parents, author, time, action, signature, id })
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
        match &self.action {
            Action::Create { name, device_name } => writer.u8(1).string(name.as_bytes()).string(device_name.as_bytes()),
            Action::AddDevice { device, name, consent } => writer.u8(2).bytes(&device.0).string(name.as_bytes()).bytes(&consent.0),
            Action::RevokeDevice { device, last, sequence } => writer.u8(3).bytes(&device.0).bytes(&last.0).varint(*sequence),
            Action::Rename { name } => writer.u8(4).string(name.as_bytes()),
        };
        writer.finish()
    }

    /// Checks the author's signature, and the consent of a device that it adds.
    ///
    /// # Errors
    /// [`Forged`]
    pub fn check(&self) -> Result<(), Forged> {
        verify(&self.author, Domain::STATEMENT, &[&self.body()], &self.signature)?;
        match &self.action {
            Action::AddDevice { device, consent, .. } => verify(device, Domain::LINK, &[&self.author.0], consent),
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

    /// The device that made it.
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
}

/// A device's agreement that `inviter` adds it to its user: without it anybody could claim the device, and what it writes, as theirs.
pub fn consent(device: &DeviceKey, inviter: PeerId) -> Signature {
    device.sign(Domain::LINK, &[&inviter.0])
}

/// Whether a text may name a user or device: 1 to [`MAX_NAME`] bytes, without control characters, which would reach a terminal.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

pub(crate) fn name(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let text = reader.text(MAX_NAME, "name")?;
    if is_name(text) { Ok(text.to_owned()) } else { Err(DecodeError::Range("name")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<Statement> {
        let [key, other] = [1, 2].map(|seed| DeviceKey::from_seed(&[seed; 32]));
        let create = Action::Create { name: "Alice".into(), device_name: "laptop".into() };
        let parents = vec![StatementId([9; 32]), StatementId([1; 32])];
        let actions = [
            Action::AddDevice { device: other.id(), name: "phone".into(), consent: consent(&other, key.id()) },
            Action::RevokeDevice { device: other.id(), last: StatementId([3; 32]), sequence: 1 << 40 },
            Action::Rename { name: "Älïce".into() },
        ];
        let mut all = vec![Statement::sign(&key, Vec::new(), Timestamp(5), create)];
        all.extend(actions.map(|action| Statement::sign(&key, parents.clone(), Timestamp(6), action)));
        all
    }

    #[test]
    fn every_statement_reads_back_and_is_genuine() {
        for statement in examples() {
            assert_eq!(Statement::decode(&statement.encode()), Ok(statement.clone()));
            assert_eq!(statement.check(), Ok(()));
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
                assert!(Statement::decode(&altered).is_err() || Statement::decode(&altered).unwrap().check() == Err(Forged), "byte {at}");
            }
        }
    }

    #[test]
    fn a_device_cannot_be_claimed_without_its_consent_or_with_consent_to_another() {
        let [mallory, victim, friend] = [1, 2, 3].map(|seed| DeviceKey::from_seed(&[seed; 32]));
        for consent in [Signature([0; 64]), consent(&victim, friend.id())] {
            let action = Action::AddDevice { device: victim.id(), name: "mine".into(), consent };
            assert_eq!(Statement::sign(&mallory, vec![StatementId([1; 32])], Timestamp(1), action).check(), Err(Forged));
        }
    }

    #[test]
    fn a_name_with_control_characters_or_too_long_is_refused() {
        for bad in ["", "a\x1b[31m", "tab\t", &"x".repeat(65)] {
            assert!(!is_name(bad));
        }
        assert!(is_name(&"x".repeat(64)) && is_name("Zoë's phone"));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(statement) = Statement::decode(&bytes) {
                prop_assert_eq!(statement.encode(), bytes);
            }
        }

        #[test]
        fn altered_statements_decode_to_what_encodes_to_them_or_are_refused(which in 0usize..4, at in 0usize..400, with: u8) {
            let mut bytes = examples()[which].encode();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(statement) = Statement::decode(&bytes) {
                prop_assert_eq!(statement.encode(), bytes);
            }
        }
    }
}
