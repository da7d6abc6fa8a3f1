//! What may be set, what happened, what was counted.

use core::time::Duration;

use bytes::Bytes;
use peers_wire::{Packet, PacketId, TopicId};

use crate::query::QueryId;

/// Sizes and times of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of memory lent to packets, all that is allocated for them included. Default 16 MiB.
    pub budget: usize,
    /// Bytes up to which packets of subscribed topics and our own may take more than 3/4 of [`Config::budget`]: room for a message of 16 MiB on its way. Default 32 MiB.
    pub wanted_budget: usize,
    /// Neighbours that a publisher pushes its packets to. Default 8.
    pub publish_to: usize,
    /// Neighbours that a first receiver pushes a packet on to. Default 3.
    pub relay_to: usize,
    /// Peers of a neighbourhood (a peer and its neighbours) that keep a packet of a topic which they do not want, once it is no longer new: those nearest to it by hash distance. Default 2.
    pub keepers: usize,
    /// Peers that must hold a packet before its publisher stops to offer it, and before its holders spare its postage. Default 3.
    pub copies: usize,
    /// From the first announcement of a packet to asking for it: time for a push under way, and for a nearer announcer. Default 25 ms.
    pub pull_delay: Duration,
    /// From taking in a packet to announcing it: what comes in between goes into one message. Default 5 ms.
    pub announce_delay: Duration,
    /// From a change in a topic to comparing it with neighbours. Default 1 s.
    pub compare_delay: Duration,
    /// Between two comparisons with a random neighbour when nothing changes. Default 30 s.
    pub quiet_interval: Duration,
    /// Between two offers of a packet held to a neighbour that should keep it. Default 10 min.
    pub offer_interval: Duration,
    /// The age at which a copy loses one postage, unless enough others hold it. Default 90 min.
    pub max_age: Duration,
    /// How far ahead of our clock a packet may be created. Default 10 min.
    pub max_skew: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            budget: 16 << 20,
            wanted_budget: 32 << 20,
            publish_to: 8,
            relay_to: 3,
            keepers: 2,
            copies: 3,
            pull_delay: Duration::from_millis(25),
            announce_delay: Duration::from_millis(5),
            compare_delay: Duration::from_secs(1),
            quiet_interval: Duration::from_secs(30),
            offer_interval: Duration::from_secs(600),
            max_age: Duration::from_secs(90 * 60),
            max_skew: Duration::from_secs(600),
        }
    }
}

/// What the layer above should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A checked packet of a topic subscribed to, or one that was asked for; once for each packet.
    Packet(Packet),
    /// Of the message published under this head, every packet is held by at least so many other peers.
    Stored {
        /// The head's id.
        id: PacketId,
        /// Distinct peers that said so, counted up to 32.
        holders: u32,
    },
    /// Of a message that is watched ([`Cache::watch`](crate::Cache::watch)), every packet is proven to be held by peers of so many origins; fewer than before, if one failed a check.
    Attested {
        /// The head's id.
        id: PacketId,
        /// Distinct origins of peers that signed a receipt and have failed no check since, counted up to 32.
        holders: u32,
    },
    /// A question on a topic subscribed to; once for each. To be answered by [`Cache::answer`](crate::Cache::answer), or not.
    Query {
        /// The question.
        id: QueryId,
        /// The topic.
        topic: TopicId,
        /// What is asked: in the asker's words, unchecked.
        payload: Bytes,
    },
    /// An answer to a question of our own; may come more than once.
    Answer {
        /// The question.
        id: QueryId,
        /// What was answered: unchecked.
        payload: Bytes,
    },
    /// The time of a question, of our own or raised before, is over, or who asked it has cancelled it.
    QueryEnded {
        /// The question.
        id: QueryId,
    },
    /// A packet was taken in: to be kept on disk if the cache is to survive a restart.
    Kept(Packet),
    /// A packet expired or was evicted: to be forgotten on disk.
    Dropped(PacketId),
}

/// Counters since the start, and three gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages received.
    pub messages: u64,
    /// Messages from peers that are not connected.
    pub strangers: u64,
    /// Messages that do not decode.
    pub malformed: u64,
    /// Packets received, copies included.
    pub packets: u64,
    /// Packets received that were held already.
    pub duplicates: u64,
    /// Packets received that are refused because they expired or are created too far in the future.
    pub untimely: u64,
    /// Packets received that were evicted or refused before.
    pub stale: u64,
    /// Packets received whose signature or place in a hash tree is wrong.
    pub forged: u64,
    /// Messages and packets not looked at because their sender is over its rate.
    pub throttled: u64,
    /// Announcements, topics and requests beyond the room there is for them.
    pub overflowed: u64,
    /// Fragments dropped before their head came.
    pub orphaned: u64,
    /// Packets sent unasked.
    pub pushed: u64,
    /// Packets asked for.
    pub pulled: u64,
    /// Packets sent because they were asked for.
    pub served: u64,
    /// Requests that were repeated because no answer came.
    pub repeated: u64,
    /// Requests that nobody answered.
    pub failed: u64,
    /// Differences from a neighbour that a sketch told.
    pub sketches: u64,
    /// Cells of sketches that nobody asked for.
    pub unasked: u64,
    /// Sketches that made no sense, and packets that a neighbour offered by name and did not give: their sender is compared with by ranges alone for ten minutes.
    pub poisoned: u64,
    /// Receipts for our packets that were genuine.
    pub receipts: u64,
    /// Answers that nobody asked for, or that are false.
    pub unfounded: u64,
    /// Packets dropped because they expired, or to make room.
    pub dropped: u64,
    /// Packets held now.
    pub held: u64,
    /// Bytes of the budget used now.
    pub used: u64,
    /// Neighbours now.
    pub neighbours: u64,
}
