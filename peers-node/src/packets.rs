//! What of the relay cache outlives the process: a sealed file of its own, which may be lost without harm.
//!
//! What is kept and forgotten is gathered and written by a thread, a batch a second at most, in one transaction. Nothing waits for it: while the disk is slow, changes gather, and a
//! packet that is forgotten meanwhile is never written. What gathers is held by the cache anyway. The file is no larger than the cache, whatever happens; damaged, it is made anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_wire::{Packet, PacketId};
use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::oneshot;

use crate::store::{private_file, unlock, wait};

/// What to do with each packet: keep it, or (`None`) forget it.
type Changes = BTreeMap<PacketId, Option<Packet>>;

#[derive(Debug)]
struct Batch {
    changes: Changes,
    /// Who is told when it is on disk, or failed to get there.
    done: Vec<oneshot::Sender<()>>,
}

/// The file and the thread that writes it; closing it writes what has gathered.
#[derive(Debug)]
pub(crate) struct PacketFile {
    batches: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<()>>,
    gathered: Batch,
    /// Packets to forget among the changes.
    forgotten: usize,
    flush_at: Option<Instant>,
}

impl PacketFile {
    /// Opens or makes the file at `path`, sealed under `key`, and gives the packets in it. If it is damaged or of another key it is made anew, and if the system
    /// lets it not be read or written the cache lives without it: both are logged.
    ///
    /// - `limit`: bytes of packets that it holds at most; beyond, the oldest go
    pub(crate) fn open(path: &Path, key: &[u8; 32], limit: usize) -> (Self, Vec<Packet>) {
        let opened = read(path, key, limit).or_else(|error| {
            // What the system or another process refuses now may be whole; a page that is damaged has no code of its own.
            use ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure};
            let refused = [CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure];
            if error.sqlite_error_code().is_some_and(|code| refused.contains(&code)) {
                return Err(error);
            }
            tracing::warn!("the cached packets of others in {} cannot be read ({error}): the cache starts empty; keys, messages and mail are elsewhere", path.display());
            remove(path);
            read(path, key, limit)
        });
        let started = opened.and_then(|(mut file, packets)| {
            // One batch is written while another waits.
            let (batches, queue) = sync_channel(1);
            let thread = std::thread::Builder::new().name("peers-cache".into()).spawn(move || file.run(&queue));
            let thread = thread.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            Ok((Some(batches), Some(thread), packets))
        });
        let (batches, thread, packets) = started.unwrap_or_else(|error| {
            tracing::warn!("the cache of packets will not outlive this process: {} cannot be written ({error})", path.display());
            (None, None, Vec::new())
        });
        let gathered = Batch { changes: Changes::new(), done: Vec::new() };
        (Self { batches, thread, gathered, forgotten: 0, flush_at: None }, packets)
    }

    /// Writes a packet, soon.
    pub(crate) fn keep(&mut self, now: Instant, packet: Packet) {
        let before = self.gathered.changes.insert(packet.id(), Some(packet));
        self.forgotten -= usize::from(matches!(before, Some(None)));
        self.flush_at.get_or_insert(now + FLUSH_INTERVAL);
    }

    /// Removes a packet, soon.
    pub(crate) fn forget(&mut self, now: Instant, id: PacketId) {
        if self.forgotten >= MAX_FORGOTTEN {
            // It stays in the file until that is full.
            self.gathered.changes.remove(&id);
            return;
        }
        let before = self.gathered.changes.insert(id, None);
        self.forgotten += usize::from(!matches!(before, Some(None)));
        self.flush_at.get_or_insert(now + FLUSH_INTERVAL);
    }

    /// Has everything written at once; `done` hears when it is.
    pub(crate) fn sync(&mut self, now: Instant, done: oneshot::Sender<()>) {
        self.gathered.done.push(done);
        self.flush_at = Some(now);
        self.handle_timeout(now);
    }

    /// Passes on what has gathered if it is time; call it again at [`PacketFile::poll_timeout`].
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush();
            self.flush_at = self.flush_at.map(|_| now + FLUSH_INTERVAL);
        }
    }

    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.flush_at
    }

    fn flush(&mut self) {
        let gathered = std::mem::replace(&mut self.gathered, Batch { changes: Changes::new(), done: Vec::new() });
        let Some(batches) = &self.batches else {
            self.forgotten = 0;
            self.flush_at = None;
            return;
        };
        match batches.try_send(gathered) {
            // The disk is behind.
            Err(TrySendError::Full(gathered)) => {
                self.gathered = gathered;
            }
            Ok(()) | Err(TrySendError::Disconnected(_)) => {
                self.forgotten = 0;
                self.flush_at = None;
            }
        }
    }
}

impl Drop for PacketFile {
    fn drop(&mut self) {
        if let Some(batches) = self.batches.take() {
            let last = Batch { changes: std::mem::take(&mut self.gathered.changes), done: std::mem::take(&mut self.gathered.done) };
            let _ = wait(|| batches.send(last));
        }
        if let Some(thread) = self.thread.take() {
            let _ = wait(|| thread.join());
        }
    }
}

/// The thread's side.
struct File {
    connection: Connection,
    limit: usize,
    /// Bytes of packets in it.
    used: usize,
}

fn read(path: &Path, key: &[u8; 32], limit: usize) -> rusqlite::Result<(File, Vec<Packet>)> {
    let other = |error: Box<dyn std::error::Error + Send + Sync>| rusqlite::Error::ToSqlConversionFailure(error);
    private_file(path).map_err(|error| other(error.into()))?;
    let connection = unlock(path, key).map_err(|error| other(error.into()))?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = {MAX_JOURNAL};
         CREATE TABLE IF NOT EXISTS packet(number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL);"
    ))?;
    let mut packets = Vec::new();
    let mut used = 0;
    {
        let mut statement = connection.prepare("SELECT bytes FROM packet ORDER BY number")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(0)?.as_blob().map_err(|error| other(error.into()))?;
            used += bytes.len();
            packets.extend(Packet::decode(Bytes::copy_from_slice(bytes)));
        }
    }
    Ok((File { connection, limit, used }, packets))
}

/// Removes the file and those that SQLite keeps beside it.
fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
}

impl File {
    fn run(&mut self, batches: &Receiver<Batch>) {
        let mut failing = false;
        while let Ok(batch) = batches.recv() {
            // What somebody waits for survives a power cut, which may take the last batches of what nobody does.
            let level = if batch.done.is_empty() { "NORMAL" } else { "FULL" };
            let written = self.connection.pragma_update(None, "synchronous", level).and_then(|()| self.write(&batch.changes));
            if let Err(error) = &written
                && !failing
            {
                tracing::warn!("the cache of packets could not be stored: {error}");
            }
            failing = written.is_err();
            if written.is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::DiskFull)) {
                self.give_way();
            }
            for done in batch.done {
                // Who asked may be gone.
                let _ = done.send(());
            }
        }
        let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// The disk is full: the space is worth more to what is nowhere else. From now on nothing is written.
    fn give_way(&mut self) {
        if let Ok(nowhere) = Connection::open_in_memory() {
            let file = core::mem::replace(&mut self.connection, nowhere);
            let path = file.path().filter(|path| !path.is_empty()).map(PathBuf::from);
            drop(file);
            path.iter().for_each(|path| remove(path));
        }
    }

    fn write(&mut self, changes: &Changes) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let mut used = self.used;
        {
            let mut keep = transaction.prepare_cached("INSERT OR IGNORE INTO packet(id, bytes) VALUES (?1, ?2)")?;
            let mut forget = transaction.prepare_cached("DELETE FROM packet WHERE id = ?1 RETURNING length(bytes)")?;
            let mut oldest = transaction.prepare_cached(
                "DELETE FROM packet WHERE number IN (SELECT number FROM packet ORDER BY number LIMIT 256) RETURNING length(bytes)",
            )?;
            for (id, packet) in changes {
                match packet {
                    Some(packet) => used += keep.execute(params![id.0, packet.as_bytes().as_ref()])? * packet.as_bytes().len(),
                    None => {
                        for length in forget.query_map([id.0], |row| row.get::<_, u32>(0))? {
                            used = used.saturating_sub(length? as usize);
                        }
                    }
                }
            }
            while used > self.limit {
                for length in oldest.query_map([], |row| row.get::<_, u32>(0))? {
                    used = used.saturating_sub(length? as usize);
                }
            }
        }
        transaction.commit()?;
        self.used = used;
        Ok(())
    }
}

/// Between two batches.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Packets to forget that gather; what is not forgotten goes when the file is full.
const MAX_FORGOTTEN: usize = 65_536;
/// Bytes of the write-ahead log that stay between two uses.
const MAX_JOURNAL: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use peers_wire::{Link, MAX_POSTAGE, MessageHeader, Signature, Timestamp, TopicId};
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    const KEY: [u8; 32] = [7; 32];

    fn packet(number: u64, size: usize) -> Packet {
        let header = MessageHeader {
            postage: MAX_POSTAGE,
            created: Timestamp(1_700_000_000_000 + number),
            lifetime: 60,
            fragments: 0,
            topic: TopicId([3; 32]),
            previous: Link::NONE,
            signature: Signature([7; 64]),
        };
        header.packet(&vec![1; size]).unwrap()
    }

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a real file is written in real time")]
        Instant::now()
    }

    fn sync(file: &mut PacketFile) {
        let (sender, done) = oneshot::channel();
        file.sync(now(), sender);
        // While a batch is being written the next gathers.
        while !file.gathered.done.is_empty() {
            std::thread::yield_now();
            file.handle_timeout(now() + FLUSH_INTERVAL);
        }
        done.blocking_recv().unwrap();
    }

    fn in_file(path: &Path) -> Vec<Packet> {
        PacketFile::open(path, &KEY, 1 << 30).1
    }

    #[test]
    fn what_was_kept_and_not_forgotten_is_there_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cache.sqlite");
        let (mut file, empty) = PacketFile::open(&path, &KEY, 1 << 30);
        assert!(empty.is_empty());
        (0..100).for_each(|number| file.keep(now(), packet(number, 10)));
        sync(&mut file);
        (0..50).for_each(|number| file.forget(now(), packet(number, 10).id()));
        file.forget(now(), packet(999, 10).id());
        (100..110).for_each(|number| file.keep(now(), packet(number, 10)));
        (105..110).for_each(|number| file.forget(now(), packet(number, 10).id()));
        drop(file);
        let mut held = in_file(&path);
        held.sort_by_key(Packet::created);
        assert_eq!(held, (50..105).map(|number| packet(number, 10)).collect::<Vec<_>>());
        assert!(!std::fs::read(&path).unwrap().starts_with(b"SQLite format 3"), "it is sealed");
    }

    #[test]
    fn a_damaged_file_or_one_of_another_key_is_an_empty_cache_that_works() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cache.sqlite");
        let damage: [fn(&Path); 4] = [
            |path| std::fs::write(path, [9; 5000]).unwrap(),
            |path| {
                let mut bytes = std::fs::read(path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle..middle + 100].fill(0xee);
                std::fs::write(path, bytes).unwrap();
            },
            |path| std::fs::write(path, &std::fs::read(path).unwrap()[..9000]).unwrap(),
            |path| std::fs::remove_file(path).unwrap(),
        ];
        for damage in damage {
            let (mut file, _) = PacketFile::open(&path, &KEY, 1 << 30);
            (0..500).for_each(|number| file.keep(now(), packet(number, 500)));
            drop(file);
            damage(&path);
            let (mut file, packets) = PacketFile::open(&path, &KEY, 1 << 30);
            assert!(packets.is_empty());
            file.keep(now(), packet(7, 10));
            drop(file);
            assert_eq!(in_file(&path), [packet(7, 10)]);
        }
        assert!(PacketFile::open(&path, &[8; 32], 1 << 30).1.is_empty());
    }

    #[test]
    fn where_no_file_can_be_the_cache_lives_without() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("nowhere").join("cache.sqlite");
        let (mut file, packets) = PacketFile::open(&path, &KEY, 1 << 30);
        assert!(packets.is_empty());
        let (sender, done) = oneshot::channel();
        file.keep(now(), packet(1, 10));
        file.sync(now(), sender);
        assert!(done.blocking_recv().is_err(), "nobody is kept waiting");
    }

    #[test]
    fn the_file_is_no_larger_than_the_cache_even_if_nothing_is_ever_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cache.sqlite");
        let limit = 1 << 20;
        let (mut file, _) = PacketFile::open(&path, &KEY, limit);
        for number in 0..10_000 {
            file.keep(now(), packet(number, 900));
            if number % 500 == 0 {
                sync(&mut file);
            }
        }
        sync(&mut file);
        let size = |name: &str| std::fs::metadata(temp.path().join(name)).map_or(0, |data| data.len());
        let (database, journal) = (size("cache.sqlite"), size("cache.sqlite-wal"));
        assert!(database < 3 * limit as u64 && journal <= 3 * MAX_JOURNAL as u64, "{database} and {journal} bytes");
        drop(file);
        let held = in_file(&path);
        assert!(held.iter().map(|packet| packet.as_bytes().len()).sum::<usize>() <= limit);
        assert!(held.contains(&packet(9_999, 900)), "the newest stay");
    }

    /// Another program holds the file: as far as we can tell, the disk hangs.
    #[test]
    fn a_disk_that_hangs_delays_nobody_and_what_gathers_is_written_later() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cache.sqlite");
        let (mut file, _) = PacketFile::open(&path, &KEY, 1 << 30);
        let other = unlock(&path, &KEY).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let begin = now();
        for number in 0..20_000 {
            file.keep(now(), packet(number, 100));
            if number >= 1000 {
                file.forget(now(), packet(number - 1000, 100).id());
            }
            file.handle_timeout(now() + FLUSH_INTERVAL);
        }
        let elapsed = begin.elapsed();
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
        other.execute_batch("COMMIT").unwrap();
        sync(&mut file);
        drop(file);
        assert_eq!(in_file(&path).len(), 1000);
    }

    #[test]
    fn a_full_cache_is_read_in_less_than_two_seconds() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cache.sqlite");
        let (mut file, _) = PacketFile::open(&path, &KEY, 1 << 30);
        let packets = (16 << 20) / packet(0, 1024).as_bytes().len() as u64;
        (0..packets).for_each(|number| file.keep(now(), packet(number, 1024)));
        let begin = now();
        drop(file);
        let (written, begin) = (begin.elapsed(), now());
        let (file, held) = PacketFile::open(&path, &KEY, 1 << 30);
        let read = begin.elapsed();
        drop(file);
        eprintln!("16 MiB: written in {written:?}, read in {read:?}");
        assert_eq!(held.len() as u64, packets);
        assert!(read < Duration::from_secs(2), "{read:?}");
    }

    const CHILD: &str = "PEERS_TEST_KILLED_AT";

    /// Runs in a process of its own, until that is killed.
    #[test]
    fn a_process_that_is_killed_at_any_time_leaves_what_was_written() {
        if let Some(path) = std::env::var_os(CHILD) {
            let (mut file, _) = PacketFile::open(Path::new(&path), &KEY, 1 << 30);
            for number in 0.. {
                file.keep(now(), packet(number, 700));
                if number % 20 == 19 {
                    sync(&mut file);
                    eprintln!("written {number}");
                }
            }
        }
        let temp = tempfile::tempdir().unwrap();
        for run in 0..5 {
            let path = temp.path().join(format!("cache-{run}.sqlite"));
            let test = "packets::tests::a_process_that_is_killed_at_any_time_leaves_what_was_written";
            let mut command = Command::new(std::env::current_exe().unwrap());
            let mut child = command
                .args(["--exact", test, "--nocapture"])
                .env(CHILD, &path)
                .stderr(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
            let written = lines.filter_map(|line| line.strip_prefix("written ")?.parse::<u64>().ok());
            let last = written.take(5 + run * 13).last().unwrap();
            // SIGKILL.
            child.kill().unwrap();
            child.wait().unwrap();
            let held = in_file(&path);
            assert!(held.len() as u64 > last, "{} held, {last} was the last to be written for certain", held.len());
            assert!((0..=last).all(|number| held.contains(&packet(number, 700))));
        }
    }
}
