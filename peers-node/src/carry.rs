//! Files of packets, to be carried between networks that never meet, and where a packet is.
//!
//! A file is the 8 bytes `PEERSPKT`, a version byte 1, then for each packet its length as a `u16` and its bytes, then a length of 0. Heads come before their parts, and parts that vouch for others before these.

use std::fs::{File, Metadata};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use peers_cache::{ImportError, Trace};
use peers_wire::{Header, MAX_PACKET, Packet, PacketId, PeerId, Timestamp, TopicId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::node::{Closed, Node};
use crate::stack::Stack;

const MAGIC: &[u8; 8] = b"PEERSPKT";
const VERSION: u8 = 1;
/// Bytes of a file that are read at most: what many full caches hold.
const MAX_FILE: u64 = 256 << 20;
/// Packets that are checked before others have their turn: some milliseconds.
const BATCH: usize = 64;
/// How often it is looked whether all neighbours have answered.
const LOOK: Duration = Duration::from_millis(20);

/// Why a file of packets was not written or read.
#[derive(Debug, Error)]
pub enum CarryError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no such file.
    #[error("{0} is no file of packets")]
    Alien(String),
    /// It was written by another version.
    #[error("{path} is of format {found}, this version knows format {VERSION}")]
    Version {
        /// The file.
        path: String,
        /// Its format.
        found: u8,
    },
    /// It ends early, or what follows is no packet.
    #[error("{path} is damaged at byte {at}; of what is before, {} packets were taken in", taken.taken)]
    Damaged {
        /// The file.
        path: String,
        /// The place.
        at: u64,
        /// What was read before.
        taken: PacketsImported,
    },
    /// It is larger than is read.
    #[error("{path} has more than {} MiB; of what is before, {} packets were taken in", MAX_FILE >> 20, taken.taken)]
    TooLarge {
        /// The file.
        path: String,
        /// What was read before.
        taken: PacketsImported,
    },
    /// The node is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// What was read of a file of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PacketsImported {
    /// Packets in it.
    pub packets: u64,
    /// Those that were new and are in the cache now.
    pub taken: u64,
    /// Those that were held already.
    pub held: u64,
    /// Those that have expired, or are dated in the future.
    pub untimely: u64,
    /// Those that are not genuine.
    pub forged: u64,
    /// Parts of messages without what vouches for them.
    pub orphaned: u64,
    /// Those for which there is no room.
    pub without_room: u64,
}

/// What was written to a file of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PacketsExported {
    /// Packets.
    pub packets: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Where a packet is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStatus {
    /// The packet.
    pub id: PacketId,
    /// What it is, if it is held here.
    pub held: Option<HeldStatus>,
    /// Hops that it was sought beyond the neighbours; 0 if it was held here from the start.
    pub hops: u8,
    /// Neighbours that were asked.
    pub asked: usize,
    /// Neighbours that answered.
    pub answered: usize,
    /// Neighbours that say to hold it.
    pub holders: Vec<HolderStatus>,
    /// Peers that signed for all packets of its message, if it was published here, and have failed no check since.
    pub receipts: Vec<ReceiptStatus>,
}

/// A packet that is held here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStatus {
    /// Its topic.
    pub topic: TopicId,
    /// When it was created, by its author's clock.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// How often it may be passed on.
    pub postage: u8,
    /// Its bytes.
    pub bytes: usize,
    /// Parts of the message that it is the head of.
    pub fragments: u32,
}

/// A neighbour that holds a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// The peer.
    pub id: PeerId,
    /// Its name, where it is a device of the user.
    pub name: Option<String>,
    /// It was shown by a keyed hash, and not merely said.
    pub proven: bool,
}

/// A peer that signed for a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptStatus {
    /// The peer.
    pub id: PeerId,
    /// Its name, where it is a device of the user.
    pub name: Option<String>,
    /// When it signed last, by its clock.
    pub signed: Timestamp,
}

impl Stack {
    /// Takes in a packet of a file; see [`peers_cache::Cache::import`].
    ///
    /// # Errors
    /// [`ImportError`]
    pub fn import(&mut self, now: std::time::Instant, wall: Timestamp, packet: &Packet) -> Result<(), ImportError> {
        let taken = self.cache.import(now, wall, packet);
        self.settle(now, wall);
        taken
    }

    /// The packets held that have not expired, of all topics or of one as an application names it, in the order of a file.
    pub fn export(&self, wall: Timestamp, topic: Option<TopicId>) -> Vec<Packet> {
        let topics = topic.map(|topic| self.topics_of(topic));
        let wanted = |packet: &&Packet| packet.expires() > wall && topics.as_ref().is_none_or(|topics| topics.contains(&packet.topic()));
        let mut packets: Vec<Packet> = self.cache.held().filter(wanted).cloned().collect();
        packets.sort_by_cached_key(|packet| match packet.header() {
            Header::Message(_) => (0, packet.created().0, packet.id().0),
            // What vouches for a part has a higher index.
            Header::Fragment(fragment) => (u32::MAX - fragment.index, packet.created().0, packet.id().0),
        });
        packets
    }

    /// Begins to look where a packet is; see [`peers_cache::Cache::trace`].
    pub fn trace(&mut self, now: std::time::Instant, wall: Timestamp, id: PacketId) {
        self.cache.trace(now, wall, id);
        self.settle(now, wall);
    }
}

impl Node {
    /// Writes the packets held, of all topics or of one, into a file for its owner only; a file that is there is replaced once the new one is whole.
    ///
    /// # Errors
    /// [`CarryError`]
    pub async fn export_packets(&self, path: &Path, topic: Option<TopicId>) -> Result<PacketsExported, CarryError> {
        let packets = self.call(move |driver, _, wall| driver.stack.export(wall, topic)).await?;
        let path = path.to_owned();
        let written = tokio::task::spawn_blocking(move || write(&path, &packets).map_err(|source| failed(&path, source))).await;
        written.map_err(|_| Closed)?
    }

    /// Takes in the packets of a file, each checked as if a stranger had sent it.
    ///
    /// # Errors
    /// [`CarryError`]; what comes before a damaged place is taken in.
    pub async fn import_packets(&self, path: &Path) -> Result<PacketsImported, CarryError> {
        let mut imported = PacketsImported::default();
        let opened = path.to_owned();
        let mut file = tokio::task::spawn_blocking(move || PacketFile::open(&opened)).await.map_err(|_| Closed)??;
        loop {
            let (next, batch, end) = tokio::task::spawn_blocking(move || {
                let (batch, end) = file.read_batch();
                (file, batch, end)
            })
            .await
            .map_err(|_| Closed)?;
            file = next;
            let results = self.call(move |driver, now, wall| {
                let taken: Vec<_> = batch.iter().map(|packet| driver.stack.import(now, wall, packet)).collect();
                driver.drain(now, wall);
                taken
            });
            results.await?.into_iter().for_each(|result| imported.count(result));
            match end {
                None => {}
                Some(End::Whole) => return Ok(imported),
                Some(End::Damaged(at)) => return Err(CarryError::Damaged { path: path.display().to_string(), at, taken: imported }),
                Some(End::TooLarge) => return Err(CarryError::TooLarge { path: path.display().to_string(), taken: imported }),
            }
        }
    }

    /// Looks where a packet is: here, at the neighbours, and if it is not here, up to three hops beyond them; takes until all have answered, at most `patience`.
    ///
    /// # Errors
    /// [`Closed`]
    pub async fn trace_packet(&self, id: PacketId, patience: Duration) -> Result<TraceStatus, Closed> {
        let was_held = self.call(move |driver, now, wall| {
            let held = driver.stack.cache().get(&id).is_some();
            driver.stack.trace(now, wall, id);
            held
        });
        let was_held = was_held.await?;
        let look = move || self.call(move |driver, _, _| driver.trace_status(id, was_held));
        let until = tokio::time::Instant::now() + patience;
        loop {
            let status = look().await?;
            let done = status.answered >= status.asked && (status.held.is_some() || status.asked == 0);
            if done || tokio::time::Instant::now() >= until {
                return Ok(status);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The packet of a letter sent from here that is in the caches of others: the head, where it has fragments.
    ///
    /// # Errors
    /// [`Closed`]
    pub async fn packet_of_letter(&self, id: crate::message::LetterId) -> Result<Option<PacketId>, Closed> {
        self.call(move |driver, _, _| driver.stack.mail.packet_of(&id)).await
    }
}

impl crate::driver::Driver {
    fn trace_status(&self, id: PacketId, was_held: bool) -> TraceStatus {
        let cache = self.stack.cache();
        let none = Trace::default();
        let trace = cache.traced(&id).unwrap_or(&none);
        let held = cache.get(&id).map(|packet| HeldStatus {
            topic: packet.topic(),
            created: packet.created(),
            expires: packet.expires(),
            postage: packet.postage(),
            bytes: packet.as_bytes().len(),
            fragments: if let Header::Message(head) = packet.header() { head.fragments } else { 0 },
        });
        TraceStatus {
            id,
            held,
            hops: if was_held { 0 } else { peers_cache::MAX_SEARCH_HOPS },
            asked: trace.asked,
            answered: trace.answered,
            holders: trace.holders.iter().map(|(id, proven)| HolderStatus { id: *id, name: self.name_of(*id), proven: *proven }).collect(),
            receipts: cache.receipts(&id).into_iter().map(|(id, signed)| ReceiptStatus { id, name: self.name_of(id), signed }).collect(),
        }
    }
}

impl PacketsImported {
    fn count(&mut self, result: Result<(), ImportError>) {
        self.packets += 1;
        *match result {
            Ok(()) => &mut self.taken,
            Err(ImportError::Held) => &mut self.held,
            Err(ImportError::Expired | ImportError::Future) => &mut self.untimely,
            Err(ImportError::Forged) => &mut self.forged,
            Err(ImportError::Orphan) => &mut self.orphaned,
            Err(ImportError::NoRoom) => &mut self.without_room,
        } += 1;
    }
}

fn failed(path: &Path, source: std::io::Error) -> CarryError {
    CarryError::Io { path: path.display().to_string(), source }
}

/// Refuses pipes, devices and the like: reading them may never end, and a file in their place is not what is wanted.
fn ordinary(metadata: &Metadata) -> std::io::Result<()> {
    match metadata.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => Err(std::io::Error::new(ErrorKind::InvalidInput, "it is no ordinary file")),
    }
}

fn write(path: &Path, packets: &[Packet]) -> std::io::Result<PacketsExported> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => ordinary(&metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Made for its owner only, and gone if this fails.
    let file = tempfile::Builder::new().prefix(".peers-packets-").tempfile_in(folder)?;
    let mut out = BufWriter::new(file);
    out.write_all(MAGIC)?;
    out.write_all(&[VERSION])?;
    let mut bytes = MAGIC.len() as u64 + 3;
    for packet in packets {
        let packet = packet.as_bytes();
        out.write_all(&u16::try_from(packet.len()).unwrap_or(0).to_be_bytes())?;
        out.write_all(packet)?;
        bytes += 2 + packet.len() as u64;
    }
    out.write_all(&[0, 0])?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(PacketsExported { packets: packets.len() as u64, bytes })
}

/// A file of packets that is being read.
#[derive(Debug)]
struct PacketFile {
    input: BufReader<File>,
    at: u64,
}

/// Why there is no more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Damaged(u64),
    TooLarge,
}

impl PacketFile {
    fn open(path: &Path) -> Result<Self, CarryError> {
        let open = || {
            ordinary(&std::fs::metadata(path)?)?;
            File::open(path)
        };
        let mut input = BufReader::new(open().map_err(|source| failed(path, source))?);
        let mut head = [0; 9];
        match input.read_exact(&mut head) {
            Ok(()) if head.starts_with(MAGIC) && head[8] == VERSION => Ok(Self { input, at: head.len() as u64 }),
            Ok(()) if head.starts_with(MAGIC) => Err(CarryError::Version { path: path.display().to_string(), found: head[8] }),
            Err(source) if source.kind() != ErrorKind::UnexpectedEof => Err(failed(path, source)),
            _ => Err(CarryError::Alien(path.display().to_string())),
        }
    }

    /// The next packets, and whether they are the last.
    fn read_batch(&mut self) -> (Vec<Packet>, Option<End>) {
        let mut packets = Vec::with_capacity(BATCH);
        while packets.len() < BATCH {
            if self.at > MAX_FILE {
                return (packets, Some(End::TooLarge));
            }
            match self.read() {
                Some(Some(packet)) => packets.push(packet),
                Some(None) => return (packets, Some(End::Whole)),
                None => return (packets, Some(End::Damaged(self.at))),
            }
        }
        (packets, None)
    }

    /// A packet, or the end; `None` if it is neither.
    fn read(&mut self) -> Option<Option<Packet>> {
        let mut length = [0; 2];
        self.input.read_exact(&mut length).ok()?;
        let length = usize::from(u16::from_be_bytes(length));
        if length == 0 {
            return Some(None);
        }
        if length > MAX_PACKET {
            return None;
        }
        let mut packet = vec![0; length];
        self.input.read_exact(&mut packet).ok()?;
        let packet = Packet::decode(Bytes::from(packet)).ok()?;
        self.at += 2 + length as u64;
        Some(Some(packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peers_crypto::{DeviceKey, Draft, TopicKey};
    use peers_wire::{Link, MAX_POSTAGE};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn packets() -> Vec<Packet> {
        let draft = Draft { created: Timestamp(1), lifetime: 60, previous: Link::NONE, postage: MAX_POSTAGE };
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        TopicKey::from_seed([1; 32]).seal(&DeviceKey::from_seed(&[1; 32]), draft, &[7; 100_000], &mut rng).unwrap()
    }

    fn read(path: &Path) -> (Vec<Packet>, End) {
        let mut file = PacketFile::open(path).unwrap();
        let mut all = Vec::new();
        loop {
            let (batch, end) = file.read_batch();
            all.extend(batch);
            if let Some(end) = end {
                return (all, end);
            }
        }
    }

    fn path(folder: &tempfile::TempDir) -> std::path::PathBuf {
        folder.path().join("packets")
    }

    #[test]
    fn what_is_written_reads_back_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, packets) = (path(&folder), packets());
        std::fs::write(&path, "what was there before").unwrap();
        let written = write(&path, &packets).unwrap();
        assert_eq!(written.bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
        assert_eq!(read(&path), (packets, End::Whole));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(&folder.path().join("absent/packets"), &packets()).is_err());
        std::fs::create_dir(path(&folder)).unwrap();
        assert!(write(&path(&folder), &packets()).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_of_packets_or_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (content, what) in [(&b"PEERS"[..], "no file of packets"), (b"hello, world", "no file"), (b"PEERSPKT\x02\0\0", "format 2")] {
            std::fs::write(path(&folder), content).unwrap();
            let error = PacketFile::open(&path(&folder)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert!(matches!(PacketFile::open(&folder.path().join("absent")), Err(CarryError::Io { .. })));
    }

    #[test]
    fn what_is_no_ordinary_file_is_neither_read_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, link) = (folder.path().join("socket"), folder.path().join("link"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(path(&folder), &link).unwrap();
        for special in [&socket, &link] {
            assert_eq!(write(special, &packets()).unwrap_err().to_string(), "it is no ordinary file");
        }
        let error = |path: &Path| PacketFile::open(path).unwrap_err().to_string();
        assert!(error(&socket).ends_with("it is no ordinary file"));
        assert!(error(Path::new("/dev/zero")).ends_with("it is no ordinary file"));
        assert!(!path(&folder).exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_file_cut_or_altered_anywhere_gives_what_is_before_and_the_place(cut in any::<prop::sample::Index>(), flip in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let (path, packets) = (path(&folder), packets());
            write(&path, &packets).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = 9 + cut.index(bytes.len() - 9);
            if flip { bytes[at] ^= 0x80 } else { bytes.truncate(at) }
            std::fs::write(&path, &bytes).unwrap();
            let (found, end) = read(&path);
            // An altered packet may be another packet: that is for the signature to say.
            let before = found.iter().zip(&packets).take_while(|(a, b)| a == b).count();
            prop_assert!(found.len() <= before + 1 || flip);
            prop_assert!(flip || matches!(end, End::Damaged(place) if place <= at as u64));
        }

        #[test]
        fn garbage_behind_the_head_is_an_error_and_never_a_panic(noise in prop::collection::vec(any::<u8>(), 1..3000)) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(path(&folder), [&b"PEERSPKT\x01"[..], &noise].concat()).unwrap();
            let (found, end) = read(&path(&folder));
            prop_assert!(found.is_empty() && (end != End::Whole || noise.starts_with(&[0, 0])));
        }
    }
}
