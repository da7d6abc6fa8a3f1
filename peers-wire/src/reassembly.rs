//! Puts messages in fragments together again, many at once, within bounds that a liar cannot use up for others.

use core::ops::Range;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::{FragmentHeader, Header, MAX_PAYLOAD, MessageHeader, Packet, PacketId, Timestamp, TopicId, TreeShape};

/// Bounds of a [`Reassembly`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that unfinished messages hold at most, bookkeeping included; the largest message takes 18 MiB. Default 64 MiB.
    pub max_bytes: usize,
    /// Unfinished messages at most. Default 256.
    pub max_messages: usize,
    /// Fragments at most that wait for what they are checked against, each up to [`crate::MAX_PACKET`] bytes. Default 1024.
    pub max_orphans: usize,
    /// An unfinished message is dropped when nothing of it came for this long. Default 60 s.
    pub idle_timeout: Duration,
    /// An unfinished message is dropped this long after its head came. Default 15 min.
    pub message_timeout: Duration,
    /// A fragment waits this long for what it is checked against. Default 10 s.
    pub orphan_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_messages: 256,
            max_orphans: 1024,
            idle_timeout: Duration::from_secs(60),
            message_timeout: Duration::from_secs(15 * 60),
            orphan_timeout: Duration::from_secs(10),
        }
    }
}

/// What a [`Reassembly`] has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages in fragments that became whole.
    pub completed: u64,
    /// Packets that were there already.
    pub duplicates: u64,
    /// Fragments whose place does not exist in their message, or whose digest is not the one that their parent names.
    pub rejected: u64,
    /// Messages that their own publisher cut against the rules, which nothing can complete.
    pub malformed: u64,
    /// Fragments that had to wait for their parent.
    pub orphaned: u64,
    /// Unfinished messages dropped to stay within bounds.
    pub evicted_messages: u64,
    /// Waiting fragments dropped to stay within bounds.
    pub evicted_orphans: u64,
    /// Unfinished messages whose time ran out.
    pub expired_messages: u64,
    /// Waiting fragments whose time ran out.
    pub expired_orphans: u64,
}

/// A message that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complete {
    /// Its only packet, or the head of its fragments.
    pub head: Packet,
    /// The sealed message, every byte covered by the head's signature.
    pub sealed: Bytes,
}

/// How far an unfinished message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The id of its head.
    pub head: PacketId,
    /// Its topic.
    pub topic: TopicId,
    /// Leaves that are there.
    pub received: u32,
    /// Leaves that it has.
    pub leaves: u32,
    /// When something of it last came.
    pub last: Instant,
}

/// Collects fragments until their messages are whole.
///
/// It takes heads on trust: who calls has checked their signature. Fragments it checks itself, against the digest that their
/// parent names; those whose parent is not there yet wait apart, where they compete only with their like. When a bound is
/// reached, the topic that holds the most loses what is stalest: whoever floods displaces their own. What a flood of one's own
/// topic displaces is asked for again, as what was lost is. Give it only topics that someone here follows.
#[derive(Debug)]
pub struct Reassembly {
    config: Config,
    /// Ordered by topic. Two heads can share a tree: whoever may write to the topic can sign another head over the same root.
    messages: BTreeMap<(Tree, PacketId), Message>,
    /// Ordered by topic. Two fragments can claim one place: which is right shows when their parent comes.
    orphans: BTreeMap<(Tree, u32, PacketId), Orphan>,
    /// The sum of all `Message::bytes`.
    bytes: usize,
    /// Nothing runs out before this.
    deadline: Option<Instant>,
    stats: Stats,
}

impl Reassembly {
    /// Starts empty.
    pub fn new(config: Config) -> Self {
        Self { config, messages: BTreeMap::new(), orphans: BTreeMap::new(), bytes: 0, deadline: None, stats: Stats::default() }
    }

    /// Takes a packet and gives the messages that it made whole: none, one, or several if heads share the same fragments.
    ///
    /// What is kept is copied, so that no receive buffer is pinned. O(log n), but for what waited for this packet and, at a
    /// bound, one pass over what competes.
    ///
    /// - `packet`: a message whose signature was checked, or any fragment
    pub fn insert(&mut self, now: Instant, packet: Packet) -> Vec<Complete> {
        let complete = match packet.header() {
            Header::Message(header) if header.fragments == 0 => return vec![Complete { sealed: packet.payload_bytes(), head: packet }],
            Header::Message(header) => self.on_head(now, &header, &packet),
            Header::Fragment(header) => {
                self.place(now, Tree::of_fragment(&header), vec![Orphan { arrived: now, index: header.index, packet }])
            }
        };
        self.enforce_bounds();
        complete
    }

    /// The ids to ask for, of the packets that the unfinished message lacks and whose parents it has; nodes before leaves.
    ///
    /// - `max`: ids to return at most
    /// - returns: nothing if the head is not known; O(fragments of the message)
    pub fn missing(&self, head: &PacketId, max: usize) -> Vec<PacketId> {
        let Some(((tree, _), message)) = self.messages.iter().find(|((_, id), _)| id == head) else {
            return Vec::new();
        };
        let indices = message.shape.top_down().flat_map(|(_, indices)| indices);
        let known = indices.filter(|index| !message.parts.contains_key(index)).filter_map(|index| Some((index, message.digest_of(index)?)));
        known.take(max).map(|(index, digest)| tree.fragment(index).id(digest)).collect()
    }

    /// Every unfinished message whose head is known.
    pub fn progress(&self) -> impl Iterator<Item = Progress> {
        self.messages.iter().map(|((tree, head), message)| Progress {
            head: *head,
            topic: tree.topic,
            received: message.received,
            leaves: message.shape.leaves(),
            last: message.progress,
        })
    }

    /// Drops what ran out of time; early or repeated calls do nothing.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let Self { config, messages, orphans, bytes, stats, .. } = self;
        messages.retain(|_, message| {
            let live = now < message.deadline(config);
            stats.expired_messages += u64::from(!live);
            *bytes -= if live { 0 } else { message.bytes };
            live
        });
        orphans.retain(|_, orphan| {
            let live = now < orphan.arrived + config.orphan_timeout;
            stats.expired_orphans += u64::from(!live);
            live
        });
        let next_message = messages.values().map(|message| message.deadline(config)).min();
        let next_orphan = orphans.values().map(|orphan| orphan.arrived + config.orphan_timeout).min();
        self.deadline = next_message.into_iter().chain(next_orphan).min();
    }

    /// When to call [`Reassembly::expire`].
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Bytes that unfinished messages hold, bookkeeping included, waiting fragments apart.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fragments that wait for what they are checked against.
    pub fn orphans(&self) -> usize {
        self.orphans.len()
    }

    /// Counters.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    fn on_head(&mut self, now: Instant, header: &MessageHeader, head: &Packet) -> Vec<Complete> {
        let tree = Tree::of_head(header, head);
        let key = (tree, head.id());
        if self.messages.contains_key(&key) {
            self.stats.duplicates += 1;
            return Vec::new();
        }
        let message = Message::new(now, header.fragments, head);
        self.bytes += message.bytes;
        self.wake_at(message.deadline(&self.config));
        let under_head = message.shape.under_head();
        self.messages.insert(key, message);
        let waited = take_orphans(&mut self.orphans, &tree, under_head);
        self.place(now, tree, waited)
    }

    /// Places fragments of one tree, and what waited for them, in every message that has this tree.
    ///
    /// - `work`: when each came, and itself
    fn place(&mut self, now: Instant, tree: Tree, mut work: Vec<Orphan>) -> Vec<Complete> {
        let mut complete = Vec::new();
        let mut ended = Vec::new();
        while let Some(orphan) = work.pop() {
            let Orphan { index, packet, .. } = &orphan;
            let mut verdict = None;
            for ((_, head), message) in self.messages.range_mut((tree, FIRST)..=(tree, LAST)) {
                let before = message.bytes;
                let this = message.accept(now, *index, packet);
                self.bytes += message.bytes - before;
                if this == Verdict::Accepted {
                    work.append(&mut take_orphans(&mut self.orphans, &tree, message.shape.children(*index)));
                }
                if this == Verdict::Malformed || message.received == message.shape.leaves() {
                    ended.push(*head);
                }
                verdict = verdict.max(Some(this));
            }
            match verdict {
                None | Some(Verdict::Waits) => self.wait(tree, orphan),
                Some(Verdict::Rejected) => self.stats.rejected += 1,
                Some(Verdict::Duplicate) => self.stats.duplicates += 1,
                Some(Verdict::Malformed | Verdict::Accepted) => {}
            }
            for message in ended.drain(..).filter_map(|head| self.messages.remove(&(tree, head))) {
                self.bytes -= message.bytes;
                if message.received == message.shape.leaves() {
                    self.stats.completed += 1;
                    complete.push(message.join());
                } else {
                    self.stats.malformed += 1;
                }
            }
        }
        complete
    }

    fn wait(&mut self, tree: Tree, orphan: Orphan) {
        let key = (tree, orphan.index, orphan.packet.id());
        if self.orphans.contains_key(&key) {
            self.stats.duplicates += 1;
            return;
        }
        self.stats.orphaned += 1;
        self.wake_at(orphan.arrived + self.config.orphan_timeout);
        self.orphans.insert(key, Orphan { packet: orphan.packet.to_owned_copy(), ..orphan });
    }

    fn wake_at(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    fn enforce_bounds(&mut self) {
        while self.orphans.len() > self.config.max_orphans {
            let entries = self.orphans.iter().map(|(key, orphan)| (&key.0.topic, 1, orphan.arrived, key));
            let Some(key) = stalest_of_heaviest(entries).copied() else { break };
            self.orphans.remove(&key);
            self.stats.evicted_orphans += 1;
        }
        while self.messages.len() > self.config.max_messages || self.bytes > self.config.max_bytes {
            // Where the number is the matter, a large message weighs no more than an empty one.
            let crowded = self.messages.len() > self.config.max_messages;
            let entries = self.messages.iter().map(|(key, message)| {
                let weight = if crowded { 1 } else { message.bytes };
                (&key.0.topic, weight, message.progress, key)
            });
            let victim = stalest_of_heaviest(entries).copied();
            let Some(message) = victim.and_then(|key| self.messages.remove(&key)) else { break };
            self.bytes -= message.bytes;
            self.stats.evicted_messages += 1;
        }
    }
}

/// What a fragment says of the message it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tree {
    topic: TopicId,
    created: Timestamp,
    lifetime: u16,
    root: [u8; 32],
}

impl Tree {
    const fn of_head(header: &MessageHeader, head: &Packet) -> Self {
        Self { topic: header.topic, created: header.created, lifetime: header.lifetime, root: *head.payload_digest() }
    }

    const fn of_fragment(header: &FragmentHeader) -> Self {
        Self { topic: header.topic, created: header.created, lifetime: header.lifetime, root: header.root }
    }

    const fn fragment(&self, index: u32) -> FragmentHeader {
        let Self { topic, created, lifetime, root } = *self;
        FragmentHeader { postage: 0, created, lifetime, index, topic, root }
    }
}

/// The least and the greatest id, to name all packets of a tree.
const FIRST: PacketId = PacketId([0; PacketId::LEN]);
const LAST: PacketId = PacketId([0xff; PacketId::LEN]);

/// A fragment that is, or may have to be, waiting.
#[derive(Debug)]
struct Orphan {
    arrived: Instant,
    index: u32,
    packet: Packet,
}

fn take_orphans(orphans: &mut BTreeMap<(Tree, u32, PacketId), Orphan>, tree: &Tree, indices: Range<u32>) -> Vec<Orphan> {
    let waiting = orphans.range((*tree, indices.start, FIRST)..(*tree, indices.end, FIRST));
    let keys: Vec<_> = waiting.map(|(key, _)| *key).collect();
    keys.iter().filter_map(|key| orphans.remove(key)).collect()
}

/// What became of a fragment in a message, in the order in which the best of several counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Rejected,
    Waits,
    Duplicate,
    Malformed,
    Accepted,
}

/// An unfinished message.
#[derive(Debug)]
struct Message {
    head: Packet,
    shape: TreeShape,
    /// Checked payloads by index.
    parts: BTreeMap<u32, Box<[u8]>>,
    /// Leaves among the parts.
    received: u32,
    bytes: usize,
    begun: Instant,
    progress: Instant,
}

impl Message {
    /// What it takes beside its head's and parts' bytes: itself, and an entry of `parts` with its share of the map.
    const COST: usize = 512;
    const PART_COST: usize = 64;

    fn new(now: Instant, leaves: u32, head: &Packet) -> Self {
        Self {
            head: head.to_owned_copy(),
            shape: TreeShape::new(leaves),
            parts: BTreeMap::new(),
            received: 0,
            bytes: Self::COST + head.as_bytes().len(),
            begun: now,
            progress: now,
        }
    }

    fn deadline(&self, config: &Config) -> Instant {
        (self.progress + config.idle_timeout).min(self.begun + config.message_timeout)
    }

    fn accept(&mut self, now: Instant, index: u32, fragment: &Packet) -> Verdict {
        if index >= self.shape.total() {
            return Verdict::Rejected;
        }
        match self.digest_of(index) {
            None => return Verdict::Waits,
            Some(digest) if digest != fragment.payload_digest() => return Verdict::Rejected,
            Some(_) => {}
        }
        if self.parts.contains_key(&index) {
            return Verdict::Duplicate;
        }
        let payload = fragment.payload();
        if !self.shape.lengths(index).contains(&payload.len()) {
            return Verdict::Malformed;
        }
        self.parts.insert(index, payload.into());
        self.received += u32::from(index < self.shape.leaves());
        self.bytes += payload.len() + Self::PART_COST;
        self.progress = now;
        Verdict::Accepted
    }

    /// The digest that the fragment must have; `None` as long as its parent is not here.
    fn digest_of(&self, index: u32) -> Option<&[u8; 32]> {
        let parent = self.shape.parent(index)?;
        match parent.index {
            None => parent.digest(self.head.payload()),
            Some(above) => parent.digest(self.parts.get(&above)?),
        }
    }

    fn join(self) -> Complete {
        let leaves = self.shape.leaves() as usize;
        let mut sealed = BytesMut::with_capacity(leaves * MAX_PAYLOAD);
        for (_, leaf) in self.parts.into_iter().take(leaves) {
            sealed.extend_from_slice(&leaf);
        }
        Complete { head: self.head, sealed: sealed.freeze() }
    }
}

/// The least recent entry of the topic whose entries weigh most together.
///
/// - `entries`: topic, weight, time and key, all of a topic one after the other
fn stalest_of_heaviest<'a, K>(entries: impl Iterator<Item = (&'a TopicId, usize, Instant, &'a K)>) -> Option<&'a K> {
    let mut heaviest: Option<(usize, &K)> = None;
    let mut entries = entries.peekable();
    while let Some((topic, mut total, mut stalest, mut key)) = entries.next() {
        while let Some((_, weight, time, other)) = entries.next_if(|(next, ..)| *next == topic) {
            total += weight;
            if time < stalest {
                (stalest, key) = (time, other);
            }
        }
        if heaviest.is_none_or(|(most, _)| total > most) {
            heaviest = Some((total, key));
        }
    }
    heaviest.map(|(_, key)| key)
}
