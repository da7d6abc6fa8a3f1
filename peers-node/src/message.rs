//! What two connected nodes say to each other over [`Transport`](crate::transport::Transport), and the bodies of mail.

use bytes::Bytes;
use peers_wire::{DecodeError, Reader, Timestamp, Writer};

use crate::account::{Catalogue, DatabaseId};

/// A letter's id, chosen at random by its sender.
pub type LetterId = [u8; 16];

/// One reliable message between two connected peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerMessage {
    /// The sender's account: encoded statements, and the databases it knows. Only between devices of one user.
    Account { user: Bytes, catalogue: Catalogue },
    /// Mail for the receiver.
    Mail(MailBody),
    /// A message of the conversation about one database.
    Database { database: DatabaseId, message: Bytes },
    /// The sender keeps the database open from now on, or no longer.
    Open { database: DatabaseId, open: bool },
}

/// What a mail topic carries, and what goes directly to a peer that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MailBody {
    Letter(Letter),
    /// The recipient has stored the letter.
    Receipt(LetterId),
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
            Self::Account { user, catalogue } => {
                writer.u8(0).string(user);
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
        }
        writer.finish().into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => {
                let user = Bytes::copy_from_slice(reader.string(MAX_USER, "user")?);
                Self::Account { user, catalogue: Catalogue::decode(&mut reader)? }
            }
            1 => Self::Mail(MailBody::read(&mut reader)?),
            2 => Self::Database { database: DatabaseId(reader.array()?), message: bytes.slice_ref(reader.rest()) },
            kind @ (3 | 4) => Self::Open { database: DatabaseId(reader.array()?), open: kind == 3 },
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
            kind => return Err(DecodeError::Kind(kind)),
        })
    }
}

/// Largest encoded statement chain of a user, in bytes: as many statements as a user may have, each as long as it may be.
pub(crate) const MAX_USER: usize = 1 << 20;
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
            PeerMessage::Account { user: Bytes::from_static(b"statements"), catalogue },
            PeerMessage::Mail(MailBody::Letter(letter)),
            PeerMessage::Mail(MailBody::Receipt([4; 16])),
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
