//! What a node tells about itself; everything here has a JSON form.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use peers_crypto::{Kind, Role};
use peers_wire::{Link, PacketId, PeerId, Timestamp, TopicId};
use serde::{Deserialize, Serialize};

use crate::account::DatabaseId;

/// The state of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// This device.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// The user it acts for.
    pub user: UserStatus,
    /// Addresses of its own sockets.
    pub listen: Vec<SocketAddr>,
    /// Its addresses as other peers see them.
    pub reflexive: Vec<SocketAddr>,
    /// What routers do to let others in.
    pub port_mapping: PortMappingStatus,
    /// Peers with a session.
    pub peers: Vec<PeerStatus>,
    /// The cache lent to everyone.
    pub cache: CacheStatus,
    /// Topics followed.
    pub topics: Vec<TopicStatus>,
    /// Groups that this device is in, as topics.
    pub groups: Vec<TopicStatus>,
    /// Databases of the user.
    pub databases: Vec<DatabaseStatus>,
    /// Everything counted since the start.
    pub counters: BTreeMap<String, u64>,
}

/// What routers do to let others in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PortMappingStatus {
    /// Addresses outside that lead here: at most one of each family.
    pub mapped: Vec<MappedAddress>,
    /// Why there is none of IPv4, as far as that is known.
    pub trouble: Option<String>,
}

/// An address outside that a router maps to this node. A private one leads here from the network between two routers, and from nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedAddress {
    /// The address.
    pub address: SocketAddr,
    /// How the router was asked: `pcp`, `nat-pmp` or `upnp`.
    pub by: String,
}

/// A user: a set of devices.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserStatus {
    /// The user's id in text form.
    pub id: String,
    /// Every device.
    pub devices: Vec<DeviceStatus>,
}

/// A device of the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its key.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// It is the one that answers.
    pub this: bool,
    /// There is a session with it.
    pub connected: bool,
}

/// A peer with a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its key.
    pub id: PeerId,
    /// Its name, where it is a device of the user.
    pub name: Option<String>,
    /// `direct ADDRESS` or `relayed by ID`.
    pub path: String,
    /// Round trip time in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// The cache lent to everyone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Packets held.
    pub packets: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Bytes they may take.
    pub budget: u64,
}

/// A topic followed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TopicStatus {
    /// The name it has on this device.
    pub label: String,
    /// The topic.
    pub id: TopicId,
    /// Messages in its history here.
    pub messages: u64,
}

/// A database of the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// The database.
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
    /// The file on this device; none if it is kept on other devices only.
    pub path: Option<PathBuf>,
    /// The file is encrypted.
    pub sealed: bool,
    /// Tracked tables.
    pub tables: Vec<TableStatus>,
    /// Changes of local programs not yet stamped.
    pub pending: u64,
    /// The user's other devices.
    pub devices: Vec<DeviceSync>,
    /// What is wrong with the file at present, if anything.
    pub trouble: Option<String>,
}

/// A tracked table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Rows that live and are not in it, as a constraint is in the way.
    pub parked: u64,
}

/// How far another device has the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceSync {
    /// The device.
    pub id: PeerId,
    /// It has all that this device has and the reverse, as of the last exchange.
    pub in_step: bool,
}

/// A message on a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The topic.
    pub topic: TopicId,
    /// The packet, the message's head where it has fragments.
    pub id: PacketId,
    /// The device that wrote it.
    pub author: PeerId,
    /// Its name, where it is a device of the user.
    pub author_name: Option<String>,
    /// When it was written, by its author's clock.
    pub created: Timestamp,
    /// The message that its author had seen last on this topic.
    pub previous: Option<Link>,
    /// The content.
    #[serde(with = "crate::json")]
    pub payload: Bytes,
}

/// A letter received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// Its id, in hexadecimal.
    pub id: String,
    /// The sender.
    pub from: PeerId,
    /// Its name, where it is a device of the user.
    pub from_name: Option<String>,
    /// When it was written, by its sender's clock.
    pub created: Timestamp,
    /// A file name, where it is a file.
    pub name: Option<String>,
    /// The content.
    #[serde(with = "crate::json")]
    pub body: Bytes,
}

/// A question that somebody asks everyone who follows a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The topic.
    pub topic: TopicId,
    /// The question.
    pub id: [u8; 16],
    /// Who asks.
    pub from: PeerId,
    /// Its name, where it is known.
    pub from_name: Option<String>,
    /// What is asked.
    #[serde(with = "crate::json")]
    pub body: Bytes,
}

/// An answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub from: PeerId,
    /// Its name, where it is a device of the user.
    pub from_name: Option<String>,
    /// What was answered.
    #[serde(with = "crate::json")]
    pub body: Bytes,
}

/// Somebody who is there, on a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentStatus {
    /// The device.
    pub id: PeerId,
    /// Its name, where it is known.
    pub name: Option<String>,
    /// It is the one that answers.
    pub this: bool,
    /// How long its last announcement is good; not for this device.
    pub until: Option<Timestamp>,
}

/// Two devices became one user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// The other device.
    pub device: PeerId,
    /// Its name.
    pub name: String,
    /// The same words are shown on both devices.
    pub words: String,
    /// Other devices that came to the invitation; 0 on the side that accepts.
    pub others: usize,
}

/// The two devices have the same code; nothing secret has been sent yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matched {
    /// The other device.
    pub device: PeerId,
    /// Its name.
    pub name: String,
    /// The user or group that is joined.
    pub joins: String,
    /// Which of the two.
    pub kind: GroupKind,
    /// Its name.
    pub group: String,
    /// What the device that joins may do in it.
    pub role: MemberRole,
    /// The same words are shown on both devices, unless somebody is between them.
    pub words: String,
}

/// A user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// One person's devices.
    User,
    /// Devices of several users.
    Group,
}

impl From<Kind> for GroupKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::User => Self::User,
            Kind::Group => Self::Group,
        }
    }
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Reads.
    Reader,
    /// Writes too.
    Writer,
    /// Admits and removes members too.
    Owner,
}

impl From<Role> for MemberRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Reader => Self::Reader,
            Role::Writer => Self::Writer,
            Role::Owner => Self::Owner,
        }
    }
}

impl From<MemberRole> for Role {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Reader => Self::Reader,
            MemberRole::Writer => Self::Writer,
            MemberRole::Owner => Self::Owner,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum NodeEvent {
    /// A session with a peer began.
    Connected {
        /// The peer.
        peer: PeerId,
        /// `direct ADDRESS` or `relayed by ID`.
        path: String,
    },
    /// A peer is reached another way now.
    PathChanged {
        /// The peer.
        peer: PeerId,
        /// `direct ADDRESS` or `relayed by ID`.
        path: String,
    },
    /// A session with a peer ended.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A message on a followed topic, stored here.
    Message(Message),
    /// A letter, stored here.
    Mail(Mail),
    /// A question on a followed topic.
    Query(Query),
    /// Somebody is there, on a followed topic, or says so again.
    Present {
        /// The topic.
        topic: TopicId,
        /// Who.
        peer: PeerId,
    },
    /// Somebody is there no longer.
    Absent {
        /// The topic.
        topic: TopicId,
        /// Who.
        peer: PeerId,
    },
    /// The account changed: devices or databases.
    AccountChanged,
    /// The user was brought back: this device is one of theirs now.
    Restored {
        /// The user.
        user: String,
        /// Its name.
        name: String,
    },
    /// The user was not brought back.
    RestoreFailed {
        /// Why, and what to do.
        reason: String,
    },
    /// So many guardians have answered, of those needed.
    RecoveryProgress {
        /// Whose guardians they say they are.
        user: String,
        /// Answers that fit together.
        have: usize,
        /// Answers that it takes.
        need: usize,
    },
    /// Linking ended well.
    Linked(Linked),
    /// The device at the other end of a linking has the same code.
    LinkMatched(Matched),
    /// Someone tried to link a device and failed, or an invitation ended.
    LinkFailed {
        /// Why, in words.
        reason: String,
        /// Devices that came to the invitation.
        attempts: usize,
    },
    /// A device came to an invitation that is over.
    LinkAttempt {
        /// The device.
        device: PeerId,
        /// Devices that came to that invitation in all.
        attempts: usize,
    },
    /// Someone left with this device what it needs to be their guardian; stored here.
    GuardianPackage {
        /// The device that it came from.
        from: PeerId,
        /// The user, in text form.
        user: String,
    },
    /// A key was used in two places: it was restored from a copy, or stolen.
    KeyForked {
        /// The user or group, in text form, in which it was used.
        group: String,
        /// Its name.
        group_name: String,
        /// The key.
        key: PeerId,
        /// The name of its device, if it is a member.
        name: Option<String>,
    },
    /// A database changed, here or elsewhere.
    DatabaseChanged {
        /// The database.
        database: DatabaseId,
        /// The table.
        table: String,
        /// The device that wrote.
        author: PeerId,
    },
    /// Another device has all of a database that this one has, and the reverse.
    DatabaseInStep {
        /// The database.
        database: DatabaseId,
        /// The device.
        peer: PeerId,
    },
    /// The reader was too slow: that many events are lost to it.
    Lagged {
        /// Events lost.
        count: u64,
    },
}
