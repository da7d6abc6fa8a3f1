#![doc = include_str!("../README.md")]

mod code;
mod cookie;
mod cpace;
mod datagram;
mod epoch;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing_keyfile;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing_link;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing_statement;
mod group;
mod guardian;
mod handshake;
mod history;
mod keyfile;
mod keyform;
mod keys;
mod link;
mod link_acceptor;
mod link_inviter;
mod link_message;
mod link_uri;
mod noise;
mod passphrase;
mod recovery;
mod replace;
mod responder;
mod seal;
mod session;
#[cfg(test)]
mod session_vector_tests;
mod shamir;
mod sodium;
mod statement;
mod ticket;
mod topic;
#[cfg(test)]
mod vectors;
#[cfg(test)]
mod wycheproof_tests;

#[cfg(feature = "memo")]
pub mod memo;

#[cfg(feature = "bare")]
#[doc(hidden)]
pub use sodium::bare;

pub use code::{CODE_WORDS, LinkCode, ParseCodeError};
pub use cookie::{Admission, COOKIE_SECRET_AGE, Freshness, Gate, MAX_FREE_HANDSHAKES, MAX_INITIATORS, MAX_PROVEN_HANDSHAKES};
pub use datagram::{DatagramKind, receiver_index};
pub use epoch::{EpochKey, GrantError, Keyring, MAX_EPOCHS, MAX_GRANT};
pub use group::{
    Fork, Group, GroupError, Guardians, MAX_GROUP, MAX_STATEMENTS, MAX_STATEMENTS_BY_ONE, Member, RESERVED_STATEMENTS, Removed,
};
pub use guardian::{
    AnswerError, GarbledShare, GuardianAnswer, GuardianPackage, MAX_VAULT, MAX_VERSIONS, Progress, Recovered, Recovery, Vault, VaultError,
};
pub use handshake::{Finished, HandshakeError, IK_INITIATION, Initiator, MAX_EARLY, MAX_REPLY, XX_FIRST};
pub use keyfile::{KeyFile, KeyFileError};
pub use keyform::{DeviceSecrets, KEY_FILE, KeyFormError, MAX_ACCOUNT, MAX_KEY_FILE, PassphraseCost, SealedKeys};
pub use keys::{DeviceKey, Domain, Forged, derive, hash, keyed_hash, verify};
pub use link::{
    ACCEPTOR_PATIENCE, Acceptor, AcceptorEvent, CONFIRMATION_LIFETIME, HEARSAY_PATIENCE, INVITATION_LIFETIME, Inviter, InviterEvent,
    LinkRefusal, LinkStep, MAX_ANSWERED_HELLOS, MAX_REPEATS, MAX_TRIED_INVITERS,
};
pub use link_uri::{LINK_SCHEME, LinkUri, MAX_LINK_ADDRESSES, ParseLinkError};
pub use passphrase::{MAX_PASSPHRASE, Passphrase, TooLong};
pub use recovery::{PHRASE_WORDS, ParsePhraseError, RecoveryPhrase};
pub use responder::{Response, XxResponder, respond};
pub use seal::{InvalidKey, MAX_USER_DEVICES, SEALED_OVERHEAD, UnsealError, open_from, open_from_user, seal_to, seal_to_user};
pub use session::{
    Cipher, DATA_HEADER, MAX_AEGIS_PLAINTEXT, MAX_DATAGRAM, MAX_PLAINTEXT, OpenError, REKEY_AFTER, REKEY_AFTER_DATAGRAMS, RELAY_HEADER,
    REPLAY_WINDOW, Session,
};
pub use statement::{
    Action, Endorsement, GroupId, Kind, MAX_GUARDIAN_KEYS, MAX_GUARDIANS, MAX_NAME, MAX_PARENTS, Role, Statement, StatementId, consent,
    is_name, recovery_proof,
};
pub use ticket::{ParseTicketError, Ticket};
pub use topic::{
    Draft, Opened, PASSPHRASE_MEMORY, PASSPHRASE_PASSES, ReadError, ReadKey, SEAL_OVERHEAD, SealError, TopicKey, check_publisher,
};
