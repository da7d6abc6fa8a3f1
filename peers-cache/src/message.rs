//! What two caches say to each other: one message is one unreliable datagram payload of at most [`MAX_MESSAGE`] bytes.

use bytes::Bytes;
use peers_wire::{DecodeError, Link, Packet, PacketId, PeerId, Reader, Timestamp, TopicId, Writer};

use crate::query::Query;
use crate::receipt::Proving;
use crate::seek::MAX_TAGS;
use crate::sketch_message::{Cells, More, Names, Probe};

/// Bytes of a message at most.
pub const MAX_MESSAGE: usize = 1160;
/// Further hops that a packet may be pushed at most.
pub(crate) const MAX_EAGER: u8 = 3;
/// Hops that a request may travel at most.
pub(crate) const MAX_HOPS: u8 = 8;
/// Keys that fit one message under one tag.
pub(crate) const MAX_KEYS: usize = (MAX_MESSAGE - 2 - Tag::LEN - 2) / Key::LEN;
/// Keys that fit a [`Message::List`].
pub(crate) const MAX_LIST: usize = (MAX_MESSAGE - 1 - Tag::LEN - 2 * Bound::LEN) / Key::LEN;
/// Topics that fit one message.
pub(crate) const MAX_TOPICS_PER_MESSAGE: usize = (MAX_MESSAGE - 5) / (Tag::LEN + 4 + 16);
/// Ranges that one message may hold.
pub(crate) const MAX_RANGES: usize = 16;
const FLAG_ANSWER: u8 = 1;
const FLAG_HEARD: u8 = 2;

/// The first 16 bytes of a packet's id: its name between caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub(crate) [u64; 2]);

impl Key {
    pub(crate) const LEN: usize = 16;
    pub(crate) const MIN: Self = Self([0; 2]);

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self([reader.u64()?, reader.u64()?]))
    }

    pub(crate) fn write(self, writer: &mut Writer) {
        writer.u64(self.0[0]).u64(self.0[1]);
    }

    /// The key as a number, to be summed up.
    pub(crate) fn number(self) -> u128 {
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }
}

fn prefix(bytes: &[u8]) -> Key {
    let word = |at: usize| bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    Key([word(0), word(8)])
}

impl From<PacketId> for Key {
    fn from(id: PacketId) -> Self {
        prefix(&id.0)
    }
}

impl From<Link> for Key {
    fn from(link: Link) -> Self {
        prefix(&link.0)
    }
}

/// Where a peer is among hashes: what is near is for it to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl Place {
    pub(crate) fn of(peer: &PeerId) -> Self {
        Self(prefix(&peer.0).0[0])
    }

    /// The hash distance of a packet; less is nearer.
    pub(crate) const fn distance(self, key: Key) -> u64 {
        key.0[1] ^ self.0
    }
}

/// The first 8 bytes of a topic's id: its name between caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Tag(pub(crate) u64);

impl Tag {
    pub(crate) const LEN: usize = 8;
}

impl From<TopicId> for Tag {
    fn from(topic: TopicId) -> Self {
        Self(prefix(&topic.0).0[0])
    }
}

/// A place in the order of a topic's packets: by creation time, then by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bound {
    pub(crate) created: Timestamp,
    pub(crate) key: Key,
}

impl Bound {
    pub(crate) const LEN: usize = 6 + Key::LEN;
    /// Before every packet.
    pub(crate) const MIN: Self = Self { created: Timestamp(0), key: Key::MIN };
    /// After every packet.
    pub(crate) const MAX: Self = Self { created: Timestamp::MAX, key: Key([u64::MAX; 2]) };

    /// The place before every packet created at or after `created`.
    pub(crate) fn at(created: Timestamp) -> Self {
        Self { created: created.min(Timestamp::MAX), key: Key::MIN }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { created: reader.timestamp()?, key: Key::read(reader)? })
    }

    fn write(self, writer: &mut Writer) {
        self.key.write(writer.timestamp(self.created));
    }
}

/// How many packets are in a set, and the sum of their keys modulo 2^128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Summary {
    pub(crate) count: u32,
    pub(crate) sum: u128,
}

impl Summary {
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    pub(crate) fn insert(&mut self, key: Key) {
        self.add(Self { count: 1, sum: key.number() });
    }

    pub(crate) fn remove(&mut self, key: Key) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(key.number());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.count((1 << 30) - 1, "packets")?;
        let summary = Self { count: u32::try_from(count).unwrap_or(u32::MAX), sum: u128::from_be_bytes(reader.array()?) };
        if summary.count == 0 && summary.sum != 0 {
            return Err(DecodeError::NotCanonical("empty set"));
        }
        Ok(summary)
    }

    pub(crate) fn write(self, writer: &mut Writer) {
        writer.varint(u64::from(self.count)).bytes(&self.sum.to_be_bytes());
    }
}

/// All messages. Byte by byte in `docs/PROTOCOL.md`, chapter 6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// A packet, to be pushed on `eager` hops further.
    Packet { eager: u8, packet: Packet },
    /// What the sender holds; or, if `heard`, what it can get from others. With `answer`, it wants to hear which of it the receiver holds.
    Have { answer: bool, heard: bool, keys: Vec<(Tag, Key)> },
    /// Packets that the sender asks for; the receiver may ask `hops` hops further.
    Want { hops: u8, keys: Vec<Key> },
    /// Packets asked for that the sender cannot get.
    Lack { keys: Vec<Key> },
    /// A part of the topics that the sender wants, with what it has of each. If `empty`, it holds nothing and has no other neighbour: what it lacks is best sent at once.
    Topics { version: u16, part: u8, empty: bool, topics: Vec<(Tag, Summary)> },
    /// A part of the topics arrived.
    Heed { version: u16, part: u8 },
    /// What the sender has of a topic between `start`, the first end, the second end and so on.
    Ranges { tag: Tag, start: Bound, ranges: Vec<(Bound, Summary)> },
    /// All that the sender has of a topic between two bounds.
    List { tag: Tag, start: Bound, end: Bound, keys: Vec<Key> },
    /// Packets whose successors the sender asks for.
    Next { keys: Vec<Key> },
    /// Asks for the keys of what is held of topics: by the neighbours of the receiver, if `further`, else by the receiver.
    Seek { further: bool, tags: Vec<Tag> },
    /// The successors of a packet that the sender holds.
    Follows { previous: Key, keys: Vec<Key> },
    /// What the sender has of a set.
    Probe(Probe),
    /// A part of the sender's sketch of a set.
    Cells(Cells),
    /// Asks for a part of the receiver's sketch.
    More(More),
    /// What the two differ in.
    Names(Names),
    /// What everyone who wants a topic is asked.
    Query(Query),
    /// Who holds what, shown.
    Proving(Proving),
}

impl Message {
    /// Reads a message; hashes the packet if it has one.
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are anything else than the one encoding of a message.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(DecodeError::Range("message"));
        }
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => {
                let eager = reader.u8()?;
                if eager > MAX_EAGER {
                    return Err(DecodeError::Range("eager"));
                }
                reader.rest();
                Self::Packet { eager, packet: Packet::decode(bytes.slice(2..))? }
            }
            1 => Self::read_have(&mut reader)?,
            2 => {
                let hops = reader.u8()?;
                if hops > MAX_HOPS {
                    return Err(DecodeError::Range("hops"));
                }
                Self::Want { hops, keys: read_keys(&mut reader, 1)? }
            }
            3 => Self::Lack { keys: read_keys(&mut reader, 1)? },
            4 => {
                let (version, part, empty) = (reader.u16()?, reader.u8()?, read_flag(&mut reader)?);
                let mut topics = Vec::with_capacity(reader.remaining() / 26);
                while reader.remaining() > 0 {
                    topics.push((Tag(reader.u64()?), Summary::read(&mut reader)?));
                }
                Self::Topics { version, part, empty, topics }
            }
            5 => Self::Heed { version: reader.u16()?, part: reader.u8()? },
            6 => Self::read_ranges(&mut reader)?,
            7 => {
                let (tag, start, end) = (Tag(reader.u64()?), Bound::read(&mut reader)?, Bound::read(&mut reader)?);
                if start >= end {
                    return Err(DecodeError::Range("bound"));
                }
                let keys = read_keys(&mut reader, 0)?;
                Self::List { tag, start, end, keys }
            }
            8 => Self::Next { keys: read_keys(&mut reader, 1)? },
            9 => Self::Follows { previous: Key::read(&mut reader)?, keys: read_keys(&mut reader, 1)? },
            10 => Self::Probe(Probe::read(&mut reader)?),
            11 => Self::Cells(Cells::read(&mut reader)?),
            12 => Self::More(More::read(&mut reader)?),
            13 => Self::Names(Names::read(&mut reader)?),
            kind @ 16..=18 => Self::Query(Query::read(kind, bytes, &mut reader)?),
            kind @ 20..=23 => Self::Proving(Proving::read(kind, &mut reader)?),
            14 => {
                let further = read_flag(&mut reader)?;
                let count = reader.remaining() / Tag::LEN;
                if count == 0 || count > MAX_TAGS {
                    return Err(DecodeError::Range("topics"));
                }
                Self::Seek { further, tags: (0..count).map(|_| Ok(Tag(reader.u64()?))).collect::<Result<_, DecodeError>>()? }
            }
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }

    fn read_have(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        if flags > (FLAG_ANSWER | FLAG_HEARD) {
            return Err(DecodeError::Range("flags"));
        }
        let mut keys = Vec::with_capacity(reader.remaining() / Key::LEN);
        while reader.remaining() > 0 {
            let tag = Tag(reader.u64()?);
            let count = reader.count(MAX_KEYS, "keys")?;
            if count == 0 || keys.last().is_some_and(|(last, _)| *last == tag) {
                return Err(DecodeError::NotCanonical("group"));
            }
            for _ in 0..count {
                keys.push((tag, Key::read(reader)?));
            }
        }
        if keys.is_empty() {
            return Err(DecodeError::Truncated);
        }
        Ok(Self::Have { answer: flags & FLAG_ANSWER != 0, heard: flags & FLAG_HEARD != 0, keys })
    }

    fn read_ranges(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (tag, start) = (Tag(reader.u64()?), Bound::read(reader)?);
        let mut ranges = Vec::with_capacity(MAX_RANGES);
        let mut last = start;
        while ranges.is_empty() || reader.remaining() > 0 {
            let end = Bound::read(reader)?;
            if end <= last || ranges.len() == MAX_RANGES {
                return Err(DecodeError::Range("bound"));
            }
            ranges.push((end, Summary::read(reader)?));
            last = end;
        }
        Ok(Self::Ranges { tag, start, ranges })
    }

    /// The one encoding. Whoever builds a message keeps within the `MAX_*` of its lists.
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(128);
        match self {
            Self::Packet { eager, packet } => {
                writer = Writer::with_capacity(2 + packet.as_bytes().len());
                writer.u8(0).u8(*eager).bytes(packet.as_bytes());
            }
            Self::Have { answer, heard, keys } => {
                writer.u8(1).u8(if *answer { FLAG_ANSWER } else { 0 } | if *heard { FLAG_HEARD } else { 0 });
                for group in keys.chunk_by(|a, b| a.0 == b.0) {
                    writer.u64(group[0].0.0).varint(group.len() as u64);
                    group.iter().for_each(|(_, key)| key.write(&mut writer));
                }
            }
            Self::Want { hops, keys } => write_keys(writer.u8(2).u8(*hops), keys),
            Self::Lack { keys } => write_keys(writer.u8(3), keys),
            Self::Topics { version, part, empty, topics } => {
                writer.u8(4).u16(*version).u8(*part).u8(u8::from(*empty));
                for (tag, summary) in topics {
                    summary.write(writer.u64(tag.0));
                }
            }
            Self::Seek { further, tags } => {
                writer.u8(14).u8(u8::from(*further));
                for tag in tags {
                    writer.u64(tag.0);
                }
            }
            Self::Heed { version, part } => {
                writer.u8(5).u16(*version).u8(*part);
            }
            Self::Ranges { tag, start, ranges } => {
                start.write(writer.u8(6).u64(tag.0));
                for (end, summary) in ranges {
                    end.write(&mut writer);
                    summary.write(&mut writer);
                }
            }
            Self::List { tag, start, end, keys } => {
                start.write(writer.u8(7).u64(tag.0));
                end.write(&mut writer);
                write_keys(&mut writer, keys);
            }
            Self::Next { keys } => write_keys(writer.u8(8), keys),
            Self::Follows { previous, keys } => {
                previous.write(writer.u8(9));
                write_keys(&mut writer, keys);
            }
            Self::Probe(probe) => probe.write(&mut writer),
            Self::Cells(cells) => cells.write(&mut writer),
            Self::More(more) => more.write(&mut writer),
            Self::Names(names) => names.write(&mut writer),
            Self::Query(query) => query.write(&mut writer),
            Self::Proving(proving) => proving.write(&mut writer),
        }
        debug_assert!(writer.len() <= MAX_MESSAGE);
        writer.finish().into()
    }
}

fn read_flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        flag @ 0..=1 => Ok(flag == 1),
        _ => Err(DecodeError::Range("flag")),
    }
}

fn read_keys(reader: &mut Reader<'_>, least: usize) -> Result<Vec<Key>, DecodeError> {
    let mut keys = Vec::with_capacity(reader.remaining() / Key::LEN);
    while keys.len() < least || reader.remaining() > 0 {
        keys.push(Key::read(reader)?);
    }
    Ok(keys)
}

fn write_keys(writer: &mut Writer, keys: &[Key]) {
    keys.iter().for_each(|key| key.write(writer));
}

/// Cuts announcements into messages that fit; keys of one tag should be adjacent.
pub(crate) fn have_messages(answer: bool, heard: bool, keys: &[(Tag, Key)]) -> Vec<Message> {
    let (mut messages, mut start, mut size) = (Vec::new(), 0, 2);
    for (i, (tag, _)) in keys.iter().enumerate() {
        // A new group costs its tag and at most two bytes of count.
        let group = if i == start || keys[i - 1].0 != *tag { Tag::LEN + 2 } else { 0 };
        if size + group + Key::LEN > MAX_MESSAGE {
            messages.push(Message::Have { answer, heard, keys: keys[start..i].to_vec() });
            (start, size) = (i, 2 + Tag::LEN + 2);
        } else {
            size += group;
        }
        size += Key::LEN;
    }
    if start < keys.len() {
        messages.push(Message::Have { answer, heard, keys: keys[start..].to_vec() });
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::packet;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn keys(least: usize) -> impl Strategy<Value = Vec<Key>> {
        vec(any::<[u64; 2]>().prop_map(Key), least..=MAX_LIST)
    }

    fn bound() -> impl Strategy<Value = Bound> {
        (0..1u64 << 48, any::<[u64; 2]>()).prop_map(|(created, key)| Bound { created: Timestamp(created), key: Key(key) })
    }

    fn summary() -> impl Strategy<Value = Summary> {
        (1..1u32 << 30, any::<u128>()).prop_map(|(count, sum)| Summary { count, sum })
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            (0..=MAX_EAGER, 0..1024usize).prop_map(|(eager, size)| Message::Packet { eager, packet: packet(1, 1, size) }),
            (any::<bool>(), any::<bool>(), vec((0..3u64, any::<[u64; 2]>()), 1..30)).prop_map(|(answer, heard, keys)| Message::Have {
                answer,
                heard,
                keys: keys.into_iter().map(|(tag, key)| (Tag(tag), Key(key))).collect(),
            }),
            (0..=MAX_HOPS, keys(1)).prop_map(|(hops, keys)| Message::Want { hops, keys }),
            keys(1).prop_map(|keys| Message::Lack { keys }),
            (any::<u16>(), any::<u8>(), any::<bool>(), vec((any::<u64>().prop_map(Tag), summary()), 0..=MAX_TOPICS_PER_MESSAGE))
                .prop_map(|(version, part, empty, topics)| Message::Topics { version, part, empty, topics }),
            (any::<bool>(), vec(any::<u64>().prop_map(Tag), 1..=MAX_TAGS)).prop_map(|(further, tags)| Message::Seek { further, tags }),
            (any::<u16>(), any::<u8>()).prop_map(|(version, part)| Message::Heed { version, part }),
            (any::<u64>(), proptest::collection::btree_map(bound().prop_map(|b| (b.created, b.key)), summary(), 2..=MAX_RANGES)).prop_map(
                |(tag, ranges)| {
                    let mut ranges = ranges.into_iter().map(|((created, key), summary)| (Bound { created, key }, summary));
                    let start = ranges.next().expect("two or more").0;
                    Message::Ranges { tag: Tag(tag), start, ranges: ranges.collect() }
                }
            ),
            (any::<u64>(), keys(0)).prop_map(|(tag, keys)| Message::List { tag: Tag(tag), start: Bound::MIN, end: Bound::MAX, keys }),
            keys(1).prop_map(|keys| Message::Next { keys }),
            (any::<[u64; 2]>(), keys(1)).prop_map(|(previous, keys)| Message::Follows { previous: Key(previous), keys }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_back_and_fits_a_datagram(message in message()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX_MESSAGE);
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(kind in 0..16u8, mut bytes in vec(any::<u8>(), 0..200)) {
            bytes.insert(0, kind);
            let bytes = Bytes::from(bytes);
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn a_truncated_message_is_an_error_or_a_shorter_list(message in message(), cut in 0..1160usize) {
            let bytes = message.encode();
            prop_assume!(cut < bytes.len());
            if let Ok(shorter) = Message::decode(&bytes.slice(..cut)) {
                prop_assert_ne!(shorter, message);
            }
        }

        #[test]
        fn announcements_are_cut_into_messages_that_fit_and_lose_no_key(keys in vec((0..4u64, any::<[u64; 2]>()), 0..400)) {
            let keys: Vec<_> = keys.into_iter().map(|(tag, key)| (Tag(tag), Key(key))).collect();
            let mut read = Vec::new();
            for message in have_messages(true, false, &keys) {
                let bytes = message.encode();
                prop_assert!(bytes.len() <= MAX_MESSAGE);
                let Ok(Message::Have { keys, .. }) = Message::decode(&bytes) else { return Err(TestCaseError::fail("no have")) };
                read.extend(keys);
            }
            prop_assert_eq!(read, keys);
        }
    }

    #[test]
    fn an_unknown_kind_flag_or_hop_count_is_refused() {
        assert_eq!(Message::decode(&Bytes::new()), Err(DecodeError::Truncated));
        assert_eq!(Message::decode(&Bytes::from_static(&[99])), Err(DecodeError::Kind(99)));
        assert_eq!(Message::decode(&Bytes::from_static(&[0, MAX_EAGER + 1])), Err(DecodeError::Range("eager")));
        assert_eq!(Message::decode(&Bytes::from_static(&[1, 4])), Err(DecodeError::Range("flags")));
        assert_eq!(Message::decode(&Bytes::from_static(&[2, MAX_HOPS + 1])), Err(DecodeError::Range("hops")));
        assert_eq!(Message::decode(&Bytes::from(vec![3; MAX_MESSAGE + 1])), Err(DecodeError::Range("message")));
    }

    #[test]
    fn an_inverted_range_is_refused() {
        let list = Message::List { tag: Tag(1), start: Bound::MAX, end: Bound::MIN, keys: Vec::new() };
        assert_eq!(Message::decode(&list.encode()), Err(DecodeError::Range("bound")));
        let ranges = Message::Ranges { tag: Tag(1), start: Bound::MIN, ranges: vec![(Bound::MIN, Summary::default())] };
        assert_eq!(Message::decode(&ranges.encode()), Err(DecodeError::Range("bound")));
    }
}
