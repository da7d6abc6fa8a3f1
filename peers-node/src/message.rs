//! What two connected nodes say to each other over [`Transport`](crate::transport::Transport), and the bodies of mail.

use bytes::Bytes;
use peers_crypto::{GroupId, MAX_EPOCHS, MAX_GROUP, MAX_STATEMENTS, StatementId};
use peers_wire::{DecodeError, Reader, Signature, Timestamp, Writer};

use crate::account::{Catalogue, DatabaseId};

/// A letter's id, chosen at random by its sender.
pub type LetterId = [u8; 16];

/// One reliable message between two connected peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerMessage {
    /// The databases of the user, as the sender knows them. Only between devices of one user.
    Catalogue(Catalogue),
    /// Mail for the receiver.
    Mail(MailBody),
    /// A message of the conversation about one database.
    Database { database: DatabaseId, message: Bytes },
    /// The sender keeps the database open from now on, or no longer.
    Open { database: DatabaseId, open: bool },
    /// What the sender knows of a user or group that both are in, and the epochs whose keys it has. To other devices of one's user also of groups that these are not in.
    Group { group: Bytes, known: Vec<StatementId> },
    /// Keys of epochs, sealed for the receiver.
    Grant { group: GroupId, grant: Bytes },
    /// The sender consents to be admitted to a group by another device of its user.
    Consent { group: GroupId, consent: Signature },
}

/// What a mail topic carries, and what goes directly to a peer that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MailBody {
    Letter(Letter),
    /// The recipient has stored the letter.
    Receipt(LetterId),
    /// The recipient is a guardian of the sender: what it is to keep.
    Package(Bytes),
    /// A guardian's endorsement and share, for the new device that it goes to.
    Answer(Bytes),
}

/// A message to one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Chosen at random by the sender; names the letter in its receipt.
    pub id: LetterId,
    /// When the sender wrote it.
    pub created: Timestamp,
    /// A file name, where the letter is a file.
    pub name: Option<String>,
    /// The content, at most [`MAX_LETTER`] bytes.
    pub body: Bytes,
}

impl PeerMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        match self {
            Self::Catalogue(catalogue) => {
                writer.u8(0);
                catalogue.encode(&mut writer);
            }
            Self::Mail(mail) => {
                writer.u8(1);
                mail.encode_to(&mut writer);
            }
            Self::Database { database, message } => {
                writer.u8(2).bytes(&database.0).bytes(message);
            }
            Self::Open { database, open } => {
                writer.u8(if *open { 3 } else { 4 }).bytes(&database.0);
            }
            Self::Group { group, known } => {
                writer.u8(5).string(group).varint(known.len() as u64);
                known.iter().for_each(|id| _ = writer.bytes(&id.0));
            }
            Self::Grant { group, grant } => {
                writer.u8(6).bytes(&group.0).bytes(grant);
            }
            Self::Consent { group, consent } => {
                writer.u8(7).bytes(&group.0).bytes(&consent.0);
            }
        }
        writer.finish().into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => Self::Catalogue(Catalogue::decode(&mut reader)?),
            1 => Self::Mail(MailBody::read(&mut reader)?),
            2 => Self::Database { database: DatabaseId(reader.array()?), message: bytes.slice_ref(reader.rest()) },
            kind @ (3 | 4) => Self::Open { database: DatabaseId(reader.array()?), open: kind == 3 },
            5 => {
                let group = Bytes::copy_from_slice(reader.string(MAX_ENCODED_GROUP, "group")?);
                let count = reader.count(MAX_EPOCHS, "number of epochs")?;
                let known = (0..count).map(|_| reader.array().map(StatementId)).collect::<Result<_, _>>()?;
                Self::Group { group, known }
            }
            6 => Self::Grant { group: GroupId(reader.array()?), grant: bytes.slice_ref(reader.rest()) },
            7 => Self::Consent { group: GroupId(reader.array()?), consent: Signature(reader.array()?) },
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl MailBody {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.encode_to(&mut writer);
        writer.finish()
    }

    fn encode_to(&self, writer: &mut Writer) {
        match self {
            Self::Letter(letter) => {
                writer.u8(0).bytes(&letter.id).timestamp(letter.created);
                writer.string(letter.name.as_deref().unwrap_or_default().as_bytes()).bytes(&letter.body);
            }
            Self::Receipt(id) => {
                writer.u8(1).bytes(id);
            }
            Self::Package(bytes) => {
                writer.u8(2).bytes(bytes);
            }
            Self::Answer(bytes) => {
                writer.u8(3).bytes(bytes);
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let body = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(body)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            0 => Self::Letter(Letter {
                id: reader.array()?,
                created: reader.timestamp()?,
                name: Some(reader.text(MAX_NAME, "file name")?).filter(|name| !name.is_empty()).map(str::to_owned),
                body: Bytes::copy_from_slice(reader.rest()),
            }),
            1 => Self::Receipt(reader.array()?),
            2 => Self::Package(Bytes::copy_from_slice(reader.rest())),
            3 => Self::Answer(Bytes::copy_from_slice(reader.rest())),
            kind => return Err(DecodeError::Kind(kind)),
        })
    }
}

/// Bytes of the encoded statements of a user or group: their own and a length each.
pub(crate) const MAX_ENCODED_GROUP: usize = MAX_GROUP + 8 * MAX_STATEMENTS;
/// Longest file name or database name, in bytes of UTF-8.
pub const MAX_NAME: usize = 255;
/// Largest letter, in bytes: what fits a fragmented message with its name and seals.
pub const MAX_LETTER: usize = peers_wire::MAX_MESSAGE - 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_reads_back() {
        let letter = Letter { id: [3; 16], created: Timestamp(77), name: Some("photo.jpg".into()), body: Bytes::from_static(b"body") };
        let mut catalogue = Catalogue::default();
        catalogue.add(DatabaseId([9; 32]), "notes");
        for message in [
            PeerMessage::Catalogue(catalogue),
            PeerMessage::Group { group: Bytes::from_static(b"statements"), known: vec![StatementId([1; 32]), StatementId([2; 32])] },
            PeerMessage::Grant { group: GroupId([1; 32]), grant: Bytes::from_static(b"sealed") },
            PeerMessage::Consent { group: GroupId([1; 32]), consent: Signature([2; 64]) },
            PeerMessage::Mail(MailBody::Letter(letter)),
            PeerMessage::Mail(MailBody::Receipt([4; 16])),
            PeerMessage::Mail(MailBody::Package(Bytes::from_static(b"package"))),
            PeerMessage::Mail(MailBody::Answer(Bytes::from_static(b"answer"))),
            PeerMessage::Database { database: DatabaseId([5; 32]), message: Bytes::from_static(b"hello") },
            PeerMessage::Open { database: DatabaseId([5; 32]), open: true },
            PeerMessage::Open { database: DatabaseId([6; 32]), open: false },
        ] {
            assert_eq!(PeerMessage::decode(&message.encode()), Ok(message));
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_an_error_and_never_a_panic(bytes: Vec<u8>) {
            if let Ok(message) = PeerMessage::decode(&Bytes::from(bytes.clone())) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
