//! What a node remembers: one sealed SQLite file, written by one thread.
//!
//! Jobs are closures over the connection. The thread runs all that are waiting in one transaction, and answers them only when it is committed: what is
//! acknowledged is on disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use thiserror::Error;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// Why the state file cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{path}: {source}; {remedy}")]
    Sqlite {
        /// The state file.
        path: String,
        /// What SQLite says.
        source: rusqlite::Error,
        /// What the user can do.
        remedy: &'static str,
    },
    /// The thread could not be started.
    #[error("the storage thread did not start: {0}")]
    Thread(#[from] std::io::Error),
    /// The file was written by a newer version.
    #[error("{path} is of format {found}, this version knows up to {known}: use a newer version of peers")]
    Newer {
        /// The state file.
        path: String,
        /// Format of the file.
        found: i64,
        /// Newest known format.
        known: i64,
    },
    /// The storage thread has ended.
    #[error("the node is closed")]
    Closed,
}

impl StoreError {
    fn new(path: &Path, source: rusqlite::Error) -> Self {
        Self::Sqlite { path: path.display().to_string(), remedy: remedy(&source), source }
    }
}

/// Gives how it went, and whom to tell once it is known whether that is on disk.
type Job = Box<dyn FnOnce(&Connection) -> (rusqlite::Result<()>, Done) + Send>;
type Done = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

/// Handle to the storage thread; closing it writes what is queued and joins the thread.
#[derive(Debug)]
pub(crate) struct Store {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    path: Arc<Path>,
    /// Nothing was stored since the last complaint of [`Store::write_behind`].
    failing: Arc<AtomicBool>,
}

impl Store {
    /// Opens or makes the state file at `path`, sealed under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn open(path: &Path, key: &[u8; 32]) -> Result<Self, StoreError> {
        let connection = connect(path, key)?;
        let (jobs, queue) = sync_channel(MAX_QUEUED_JOBS);
        let thread = std::thread::Builder::new().name("peers-store".into()).spawn(move || run(&connection, &queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), path: path.into(), failing: Arc::default() })
    }

    /// Runs `job` and gives its result once it is on disk.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Box::new(move |connection| {
            let value = job(connection);
            let outcome = value.as_ref().map(drop).map_err(same);
            let done = move |committed: Result<(), &rusqlite::Error>| drop(sender.send(committed.map_err(same).and(value)));
            (outcome, Box::new(done))
        }));
        receiver.await.map_err(|_| StoreError::Closed)?.map_err(|source| StoreError::new(&self.path, source))
    }

    /// Queues `job`, and afterwards tells `done` whether it is on disk.
    pub(crate) fn write(
        &self,
        job: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let path = Arc::clone(&self.path);
        self.submit(Box::new(move |connection| {
            let outcome = job(connection);
            let stored = outcome.as_ref().copied().map_err(same);
            let done = move |committed: Result<(), &rusqlite::Error>| {
                done(committed.map_err(same).and(stored).map_err(|source| StoreError::new(&path, source)));
            };
            (outcome, Box::new(done))
        }));
    }

    /// Queues `job`; a failure is logged, and those that follow it are not.
    pub(crate) fn write_behind(&self, what: &'static str, job: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        let failing = Arc::clone(&self.failing);
        self.write(job, move |result| {
            let failed = failing.swap(result.is_err(), Ordering::Relaxed);
            if let Err(error) = result
                && !failed
            {
                tracing::error!("{what} could not be stored: {error}");
            }
        });
    }

    fn submit(&self, job: Job) {
        let Some(jobs) = &self.jobs else { return };
        match jobs.try_send(job) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // The disk is behind by thousands of jobs: wait for it rather than forget.
            Err(TrySendError::Full(job)) => {
                let _ = wait(|| jobs.send(job));
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs what blocks; a runtime with other threads moves its tasks there.
pub(crate) fn wait<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn run(connection: &Connection, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut begun = connection.execute_batch("BEGIN IMMEDIATE");
        let mut done = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            // A job that fails reports its own error; the others of the batch still commit.
            let (outcome, answer) = job(connection);
            done.push(answer);
            if connection.is_autocommit() {
                // Unless SQLite gave up all of the transaction, as it may when the disk is full.
                begun = begun.and(outcome);
                break;
            }
            next = if done.len() < MAX_BATCH { queue.try_recv().ok() } else { None };
        }
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
        if committed.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        for answer in done {
            answer(committed.as_ref().copied());
        }
    }
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
}

/// The account in the state file at `path`, also while a node runs on it; `None` if there is no file, or no account in it.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn saved_account(path: &Path, key: &[u8; 32]) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    if !path.try_exists()? {
        return Ok(None);
    }
    let read = |connection: &Connection| {
        if connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(None);
        }
        connection.query_row("SELECT bytes FROM account", [], |row| row.get(0)).optional()
    };
    let bytes: Option<Vec<u8>> = read(&unlock(path, key)?).map_err(|source| StoreError::new(path, source))?;
    Ok(bytes.map(Zeroizing::new))
}

/// Puts an account into the state file at `path`, which is made if there is none, unless it holds one.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn add_account(path: &Path, key: &[u8; 32], account: &[u8]) -> Result<(), StoreError> {
    let added = connect(path, key)?.execute("INSERT OR IGNORE INTO account VALUES (1, ?1)", [account]);
    added.map(drop).map_err(|source| StoreError::new(path, source))
}

/// Opens a file that is there.
pub(crate) fn unlock(path: &Path, key: &[u8; 32]) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::new(path, source);
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    let hex: Zeroizing<String> = Zeroizing::new(key.iter().map(|byte| format!("{byte:02x}")).collect());
    let pragma = Zeroizing::new(format!("PRAGMA key = \"x'{}'\"", *hex));
    connection.execute_batch(&pragma).map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if version > FORMAT {
        return Err(StoreError::Newer { path: path.display().to_string(), found: version, known: FORMAT });
    }
    Ok(connection)
}

fn connect(path: &Path, key: &[u8; 32]) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::new(path, source);
    // Made here, so that SQLite does not make one for everyone.
    private_file(path)?;
    let connection = unlock(path, key)?;
    // FULL: what is acknowledged survives a power cut, not only the death of the process.
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"
        ))
        .map_err(failed)?;
    Ok(connection)
}

/// Opens a file, made for its owner only if it is not there.
pub(crate) fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn remedy(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            "the file is damaged or belongs to another key file: put back the right one, or move it away to start with an empty state"
        }
        Some(rusqlite::ErrorCode::DiskFull) => "free space on the disk and try again; nothing acknowledged is lost",
        // What SQLite says where a full disk leaves it no memory shared between programs.
        Some(rusqlite::ErrorCode::SystemIoFailure) => "see whether the disk is full or failing, free space on it and try again",
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            "another program has it open: close that and try again"
        }
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::PermissionDenied | rusqlite::ErrorCode::CannotOpen) => {
            "make the file and its folder writable for you"
        }
        _ => "check the file and the disk",
    }
}

/// The same failure for each job of a batch: [`rusqlite::Error`] cannot be cloned.
fn same(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR), Some(other.to_string())),
    }
}

const MAX_QUEUED_JOBS: usize = 4096;
const MAX_BATCH: usize = 512;
const FORMAT: i64 = 1;
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY CHECK(id = 1), bytes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS peer(id BLOB PRIMARY KEY, address TEXT NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contact(id BLOB PRIMARY KEY, established INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topic(id BLOB PRIMARY KEY, label TEXT NOT NULL, seed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS message(
  id BLOB NOT NULL UNIQUE, topic BLOB NOT NULL, position INTEGER PRIMARY KEY AUTOINCREMENT,
  author BLOB NOT NULL, created INTEGER NOT NULL, previous BLOB NOT NULL, payload BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS message_topic ON message(topic, position);
CREATE INDEX IF NOT EXISTS message_author ON message(topic, author, created);
CREATE TABLE IF NOT EXISTS mail(
  id BLOB NOT NULL UNIQUE, position INTEGER PRIMARY KEY AUTOINCREMENT, sender BLOB NOT NULL, created INTEGER NOT NULL, name TEXT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outbox(id BLOB PRIMARY KEY, recipient BLOB NOT NULL, created INTEGER NOT NULL, letter BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS package(
  position INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL, sender BLOB NOT NULL, made INTEGER NOT NULL, bytes BLOB NOT NULL, UNIQUE(user, sender));
CREATE TABLE IF NOT EXISTS setting(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS database(id BLOB PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL, sealed INTEGER NOT NULL) WITHOUT ROWID;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_acknowledged_is_there_after_reopening_and_only_with_the_key() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.sqlite");
        let store = Store::open(&path, &[7; 32]).unwrap();
        store.run(|c| c.execute("INSERT INTO setting VALUES ('one', 1)", [])).await.unwrap();
        let failed = store.run(|c| c.execute("INSERT INTO setting VALUES ('one', 1)", [])).await;
        assert!(failed.is_err(), "a job that fails says so");
        drop(store);
        let again = Store::open(&path, &[7; 32]).unwrap();
        let count: i64 = again.run(|c| c.query_row("SELECT count(*) FROM setting", [], |row| row.get(0))).await.unwrap();
        assert_eq!(count, 1);
        drop(again);
        let wrong = Store::open(&path, &[8; 32]).unwrap_err().to_string();
        assert!(wrong.contains("belongs to another key file"), "{wrong}");
        assert!(!std::fs::read(&path).unwrap().starts_with(b"SQLite format 3"));
    }

    #[tokio::test]
    async fn a_queue_that_is_full_is_waited_for_in_a_runtime_of_one_thread_too() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("state.sqlite"), &[7; 32]).unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        store.write_behind("nothing", move |_| held.recv().map_err(|_| rusqlite::Error::InvalidQuery));
        for _ in 0..MAX_QUEUED_JOBS {
            store.write_behind("nothing", |_| Ok(()));
        }
        let releasing = std::thread::spawn(move || release.send(()));
        for _ in 0..MAX_QUEUED_JOBS {
            store.write_behind("nothing", |_| Ok(()));
        }
        assert_eq!(store.run(|_| Ok(7)).await.unwrap(), 7);
        releasing.join().unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_sqlite_gives_up_a_transaction_nothing_of_it_is_acknowledged() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("state.sqlite"), &[7; 32]).unwrap();
        let insert = "INSERT OR ROLLBACK INTO setting VALUES ('one', 1)";
        let (begin, waiting) = std::sync::mpsc::channel();
        let held = store.run(move |c| waiting.recv().map_err(|_| rusqlite::Error::InvalidQuery).and_then(|()| c.execute(insert, [])));
        let gives_up = store.run(move |c| c.execute(insert, []));
        let next = store.run(|c| c.execute("INSERT INTO setting VALUES ('two', 2)", []));
        let release = async { begin.send(()).unwrap() };
        let (held, gives_up, next, ()) = tokio::join!(held, gives_up, next, release);
        assert!(held.unwrap_err().to_string().contains("UNIQUE"), "the reason is told, and not that nothing is left to commit");
        assert!(gives_up.is_err() && next.is_ok());
        let count: i64 = store.run(|c| c.query_row("SELECT count(*) FROM setting", [], |row| row.get(0))).await.unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn a_state_file_of_a_newer_version_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.sqlite");
        drop(Store::open(&path, &[7; 32]).unwrap());
        let connection = connect(&path, &[7; 32]).unwrap();
        connection.execute_batch("PRAGMA user_version = 9").unwrap();
        drop(connection);
        assert!(matches!(Store::open(&path, &[7; 32]), Err(StoreError::Newer { found: 9, known: 1, .. })));
    }
}
