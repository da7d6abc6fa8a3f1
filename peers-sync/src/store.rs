//! The file: connections to it, its bookkeeping tables, and errors in words for people.

use std::path::Path;
use std::time::Duration;

use peers_wire::DecodeError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use thiserror::Error;

use crate::Config;

/// What SQLite could not do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another program kept the file locked for longer than [`Config::busy_timeout`].
    #[error("another program has the database locked; let it finish or close it, then try again (nothing was changed)")]
    Locked,
    /// The disk, or the file's own page limit, is full.
    #[error("the disk is full; free some space, then try again (nothing was changed)")]
    Full,
    /// The file, its folder or its file system cannot be written.
    #[error("the database cannot be written; check the permissions of the file and of its folder")]
    ReadOnly,
    /// The file is damaged.
    #[error(
        "the database is damaged; restore a backup or let another device send it again (`sqlite3 FILE .recover` may save what is in it)"
    )]
    Corrupt,
    /// The file is not an SQLite database, or it is sealed and no key was given.
    #[error("the file is not an SQLite database, or it is encrypted and no key was given")]
    NotADatabase,
    /// The file cannot be opened.
    #[error("the database cannot be opened; check that its folder exists and that you may read and write there")]
    CannotOpen,
    /// The operating system failed to read or write.
    #[error("the disk failed to read or write: {0}; see whether it is full, free space on it and try again")]
    Disk(String),
    /// A bookkeeping record does not decode.
    #[error("the bookkeeping in the database is damaged: {0}")]
    Bookkeeping(#[from] DecodeError),
    /// Anything else SQLite reports.
    #[error("SQLite: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let rusqlite::Error::SqliteFailure(code, message) = &error else { return Self::Sqlite(error) };
        match code.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => Self::Locked,
            ErrorCode::DiskFull => Self::Full,
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Self::ReadOnly,
            ErrorCode::DatabaseCorrupt => Self::Corrupt,
            ErrorCode::NotADatabase => Self::NotADatabase,
            ErrorCode::CannotOpen => Self::CannotOpen,
            ErrorCode::SystemIoFailure => Self::Disk(message.clone().unwrap_or_else(|| code.to_string())),
            _ => Self::Sqlite(error),
        }
    }
}

/// Why a database could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// SQLite could not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is not readable with the key given: sealed under another, plain, or not a database.
    #[error("the key does not open this database (the file was not touched)")]
    WrongKey,
    /// A key was given to a build without the feature `sqlcipher`.
    #[error("this build cannot open encrypted databases: build it with the feature sqlcipher")]
    NoCipher,
    /// The bookkeeping was written by a later version of this crate.
    #[error("the database is tracked in format {0}, this program knows format {FORMAT}: update it")]
    Newer(i64),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Opens a connection to the file.
pub(crate) fn connect(path: &Path, config: &Config) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_millis(u64::from(config.busy_timeout)))?;
    if let Some(key) = &config.key {
        if !cfg!(feature = "sqlcipher") {
            return Err(OpenError::NoCipher);
        }
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        db.execute_batch(&format!("PRAGMA key = \"x'{hex}'\";"))?;
    }
    match db.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(())).map_err(StoreError::from) {
        Err(StoreError::NotADatabase) if config.key.is_some() => return Err(OpenError::WrongKey),
        other => other?,
    }
    db.set_prepared_statement_cache_capacity(256);
    db.pragma_update(None, "cache_size", -i64::from(config.cache_kib))?;
    Ok(db)
}

/// Makes `db` the connection that reads and writes for the replica: it fires no trigger, cascades nothing and trusts no schema.
pub(crate) fn make_private(db: &Connection) -> Result<(), OpenError> {
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = OFF; PRAGMA trusted_schema = OFF;")?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    let format: Option<i64> = match db.query_row("SELECT value FROM _peers_meta WHERE name = 'format'", [], |row| row.get(0)) {
        Ok(format) => Some(format),
        Err(rusqlite::Error::SqliteFailure(..)) => None,
        Err(error) => return Err(error.into()),
    };
    match format {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(OpenError::Newer(other)),
        None => {
            let tx = begin(db)?;
            tx.execute_batch(BOOKKEEPING)?;
            tx.execute("INSERT OR IGNORE INTO _peers_meta VALUES ('format', ?1)", [FORMAT])?;
            Ok(tx.commit()?)
        }
    }
}

/// A number that a copy of the file does not have.
#[cfg(unix)]
pub(crate) fn file_identity(path: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(0, |file| (file.ino() ^ file.dev().rotate_left(40)).cast_signed())
}

/// A number that a copy of the file does not have: when it was made.
#[cfg(not(unix))]
pub(crate) fn file_identity(path: &Path) -> i64 {
    let made = std::fs::metadata(path).and_then(|file| file.created()).ok();
    let since = made.and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// A transaction that may write from its first statement on.
pub(crate) fn begin(db: &Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new_unchecked(db, TransactionBehavior::Immediate)
}

/// Version of the bookkeeping tables.
const FORMAT: i64 = 1;

/// Tables with the prefix `_peers_` are ours; `_peers_journal_N`, `_peers_clock_N` and triggers come with a tracked table.
const BOOKKEEPING: &str = "
CREATE TABLE IF NOT EXISTS _peers_meta (name TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _peers_origin (id INTEGER PRIMARY KEY, peer BLOB NOT NULL, incarnation INTEGER NOT NULL, seen INTEGER NOT NULL,
  UNIQUE (peer, incarnation));
CREATE TABLE IF NOT EXISTS _peers_txn (id INTEGER PRIMARY KEY, origin INTEGER NOT NULL, seq INTEGER NOT NULL, hlc INTEGER NOT NULL,
  beaten INTEGER NOT NULL, more INTEGER NOT NULL, UNIQUE (origin, seq));
CREATE TABLE IF NOT EXISTS _peers_record (id INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, clock BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS _peers_use (txn INTEGER NOT NULL, record INTEGER NOT NULL, PRIMARY KEY (txn, record)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _peers_range (origin INTEGER NOT NULL, first BLOB NOT NULL, last BLOB NOT NULL, needs BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS _peers_table (id INTEGER PRIMARY KEY, name TEXT NOT NULL, keys BLOB NOT NULL, attached INTEGER NOT NULL, UNIQUE (name, keys));
CREATE TABLE IF NOT EXISTS _peers_column (tbl INTEGER NOT NULL, num INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (tbl, num)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _peers_parked (tbl INTEGER NOT NULL, key BLOB NOT NULL, reason INTEGER NOT NULL, cells BLOB NOT NULL,
  PRIMARY KEY (tbl, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _peers_waiting (id INTEGER PRIMARY KEY, due INTEGER NOT NULL, changes BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS _peers_schema (name TEXT PRIMARY KEY NOT NULL, sql TEXT) WITHOUT ROWID;
";
