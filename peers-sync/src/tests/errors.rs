//! What people meet: locks, full disks, wrong files and keys, tables that cannot be tracked. Each is a typed error, and nothing is lost.

use std::io::{Seek, SeekFrom, Write};

use rusqlite::Connection;

use super::*;
use crate::{ApplyError, OpenError, StoreError, TrackError};

fn try_open(path: &Path) -> Result<Replica, OpenError> {
    Replica::open(path, Config { author: id(0), incarnation: Some(1), busy_timeout: 20, ..Config::default() })
}

#[test]
fn a_file_locked_by_another_program_is_said_to_be_and_nothing_is_lost() {
    let mut world = World::new(1);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)");
    world.replicas[0].track("note").unwrap();
    world.write(0, "INSERT INTO note VALUES (1, 'a')");
    let path = world.path(0);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO note VALUES (2, 'b')").unwrap();
    world.replicas[0].connection().busy_timeout(Duration::ZERO).unwrap();
    let wall = world.tick();
    assert!(matches!(world.replicas[0].track("note"), Err(TrackError::Store(StoreError::Locked))));
    assert!(matches!(try_open(&path), Err(OpenError::Store(StoreError::Locked))));
    other.execute_batch("COMMIT").unwrap();
    assert!(world.replicas[0].refresh(wall).unwrap());
    assert_eq!(
        world.replicas[0].changes_since(&crate::VersionVector::default(), usize::MAX).unwrap().iter().map(Changes::rows).sum::<u64>(),
        3
    );
}

#[test]
fn a_full_disk_is_said_to_be_and_the_merge_can_be_tried_again() {
    let mut world = World::new(2);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)");
    world.replicas[0].track("note").unwrap();
    world.write(0, "WITH RECURSIVE s(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM s WHERE v < 2000) INSERT INTO note SELECT v, printf('%0200d', v) FROM s");
    let batches = batches(&mut world.replicas[0], usize::MAX);
    let before = state(&world.replicas[1]);
    let pages: i64 = world.replicas[1].db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    world.replicas[1].db.query_row(&format!("PRAGMA max_page_count = {}", pages + 3), [], |_| Ok(())).unwrap();
    assert!(matches!(world.replicas[1].apply(WALL, &batches[0]), Err(ApplyError::Store(StoreError::Full))));
    assert_eq!(state(&world.replicas[1]), before);
    assert_eq!(world.replicas[1].version(), crate::VersionVector::default());
    world.replicas[1].db.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
    world.meet(0, 1);
    world.assert_equal();
}

#[test]
fn a_file_that_cannot_be_written_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE note (id INTEGER PRIMARY KEY)").unwrap();
    // A write version that SQLite does not know makes a file read-only for everyone, root included.
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(18)).unwrap();
    file.write_all(&[3]).unwrap();
    let error = try_open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Store(StoreError::ReadOnly)), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_said_to_be_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("letter.txt");
    let text = "Dear Bob,\n".repeat(200);
    std::fs::write(&path, &text).unwrap();
    assert!(matches!(try_open(&path), Err(OpenError::Store(StoreError::NotADatabase))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_damaged_database_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.sqlite");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT); CREATE TABLE more (a)").unwrap();
    drop(db);
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    file.write_all(&[0xff; 300]).unwrap();
    let error = try_open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Store(StoreError::Corrupt)), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_said_to_be() {
    let error = try_open(Path::new("/nonexistent/notes.sqlite")).unwrap_err();
    assert!(matches!(error, OpenError::Store(StoreError::CannotOpen)), "{error}");
}

#[cfg(not(feature = "sqlcipher"))]
#[test]
fn a_key_without_the_feature_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { author: id(0), key: Some([7; 32]), ..Config::default() };
    assert!(matches!(Replica::open(dir.path().join("x.sqlite"), config), Err(OpenError::NoCipher)));
}

#[cfg(feature = "sqlcipher")]
#[test]
fn a_wrong_key_is_said_to_be_and_the_right_one_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sealed.sqlite");
    let config = |key| Config { author: id(0), key, ..Config::default() };
    let replica = Replica::open(&path, config(Some([7; 32]))).unwrap();
    replica.connection().execute_batch("CREATE TABLE secret (id INTEGER PRIMARY KEY); INSERT INTO secret VALUES (42)").unwrap();
    drop(replica);
    assert!(!std::fs::read(&path).unwrap().starts_with(b"SQLite"));
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(Replica::open(&path, config(Some([8; 32]))), Err(OpenError::WrongKey)));
    assert!(matches!(Replica::open(&path, config(None)), Err(OpenError::Store(StoreError::NotADatabase))));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(rows(&Replica::open(&path, config(Some([7; 32]))).unwrap(), "SELECT id FROM secret"), ["[42]"]);
}

#[test]
fn a_table_without_a_primary_key_is_refused_with_the_remedy() {
    let mut world = World::new(1);
    world.write(
        0,
        "CREATE TABLE loose (a, b); CREATE VIEW look AS SELECT 1; CREATE TABLE holes (a TEXT PRIMARY KEY); INSERT INTO holes VALUES (NULL)",
    );
    let error = world.replicas[0].track("loose").unwrap_err();
    assert!(matches!(&error, TrackError::NoPrimaryKey(table) if table == "loose"));
    assert!(error.to_string().contains("PRIMARY KEY"), "{error}");
    assert!(matches!(world.replicas[0].track("none"), Err(TrackError::NoSuchTable(_))));
    assert!(matches!(world.replicas[0].track("look"), Err(TrackError::NotATable(_))));
    assert!(matches!(world.replicas[0].track("sqlite_schema"), Err(TrackError::NotATable(_))));
    assert!(matches!(world.replicas[0].track("_peers_meta"), Err(TrackError::NotATable(_))));
    assert!(matches!(world.replicas[0].track("holes"), Err(TrackError::NullKey { rows: 1, .. })));
    assert_eq!(world.replicas[0].track_all().unwrap().len(), 2);
    assert!(world.replicas[0].tables().is_empty());
}

#[test]
fn a_row_with_a_null_key_cannot_enter_a_tracked_table() {
    let mut world = World::new(1);
    world.write(0, "CREATE TABLE tag (name TEXT PRIMARY KEY, n)");
    world.replicas[0].track("tag").unwrap();
    let error = world.replicas[0].connection().execute_batch("INSERT INTO tag VALUES (NULL, 1)").unwrap_err();
    assert!(error.to_string().contains("needs a key"), "{error}");
}

#[test]
fn random_bytes_are_no_changes_and_no_message() {
    use proptest::prelude::*;
    let mut world = World::new(2);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO note VALUES (1, 'x')");
    world.replicas[0].track("note").unwrap();
    world.write(0, "");
    let whole = batches(&mut world.replicas[0], usize::MAX)[0].as_bytes().clone();
    proptest!(|(at in 0..whole.len(), flip in 1u8.., cut in 0..whole.len())| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= flip;
        if let Ok(changes) = Changes::decode(bytes.into()) {
            // What still has the form may say something else, but does not break the replica.
            let mut target = open(&tempfile::tempdir().unwrap().path().join("x"), 3);
            let _ = target.apply(WALL, &changes);
            prop_assert!(target.status().is_ok());
        }
        prop_assert!(Changes::decode(whole.slice(..cut)).is_err());
    });
    world.connect(0, 1);
    for message in [&b""[..], b"\x01", b"\x09abc", b"\x02\x00\x01\x01", &[0xff; 100]] {
        let (now, wall) = (world.now, world.wall);
        world.replicas[1].handle_message(now, wall, id(0), Bytes::copy_from_slice(message));
    }
    assert_eq!(world.replicas[1].stats().dropped, 5);
    world.deliver(usize::MAX);
    world.assert_equal();
}
