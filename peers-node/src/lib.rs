#![doc = include_str!("../README.md")]

mod account;
mod asking;
mod backup;
mod carry;
mod causal;
mod clock;
mod counters;
mod database;
mod driver;
mod fate;
mod groups;
mod handles;
mod handles_query;
mod home;
mod interfaces;
mod json;
mod linking;
mod mail;
mod mailbox;
mod membership;
mod message;
mod netcheck;
mod node;
mod node_groups;
mod node_recovery;
mod origin;
mod packages;
mod packets;
mod portmap;
mod recovery;
mod repair;
mod sockets;
mod stack;
mod store;
mod streams;
mod subnets;
mod topics;
pub mod transport;
mod types;

pub use account::{Account, Catalogue, DatabaseId, Membership};
pub use asking::{MAX_QUERY, Present, QueryError};
pub use backup::{ImportError, Imported, export, import};
pub use carry::{CarryError, HeldStatus, HolderStatus, PacketsExported, PacketsImported, ReceiptStatus, TraceStatus};
pub use driver::LetterState;
pub use groups::{Audit, AuditMember, AuditRemoved, GroupPublishError};
pub use handles::{Acceptance, Changes, Database, DatabaseError, DatabaseOptions, Invitation, Messages, Publication, Sending, Topic};
pub use handles_query::{Answers, AskingError, Presence, Queries};
pub use home::Home;
pub use linking::{LinkFailure, LinkMatch, LinkOptions};
pub use membership::{
    AuditReport, ForkStatus, GroupStatus, GuardiansStatus, MemberAudit, MemberStatus, RecoveryKeyStatus, RemovedAudit, Stolen, Ward,
};
pub use message::{Letter, LetterId, MAX_LETTER, MAX_NAME};
pub use netcheck::{Netcheck, NetcheckReporter, Remembered};
pub use node::{Bootstrap, Closed, Events, LinkError, Node, OpenError, Options, PublishError};
pub use node_groups::MembershipError;
pub use node_recovery::{Progress, RecoverError, Recovered, Recovering};
pub use peers_cache::QueryId;
pub use recovery::RestoreFailure;
pub use sockets::BindError;
pub use stack::{Config, DatabaseInput, Event, Stack, Stats, TopicMessage};
pub use store::StoreError;
pub use types::{
    Answer, CacheStatus, DatabaseStatus, DeviceStatus, DeviceSync, GroupKind, Linked, Mail, MappedAddress, Matched, MemberRole, Message,
    NodeEvent, PeerStatus, PortMappingStatus, PresentStatus, Query, Status, TableStatus, TopicStatus, UserStatus,
};
