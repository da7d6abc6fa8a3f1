//! Any schema, any writer.

use std::process::Command;

use rusqlite::Connection;

use super::*;
use crate::Reason;

/// A schema with what schemas have, and rows in it.
const REALISTIC: &str = "
    CREATE TABLE artist (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL COLLATE NOCASE, born REAL, photo BLOB);
    CREATE TABLE album (id INTEGER PRIMARY KEY, artist INTEGER NOT NULL REFERENCES artist (id) ON DELETE CASCADE, title TEXT DEFAULT 'untitled',
      upper_title TEXT GENERATED ALWAYS AS (upper(title)) STORED);
    CREATE TABLE tag (name TEXT PRIMARY KEY NOT NULL, color) WITHOUT ROWID;
    CREATE TABLE album_tag (album INTEGER NOT NULL REFERENCES album, tag TEXT NOT NULL REFERENCES tag, PRIMARY KEY (album, tag));
    CREATE TABLE strict (id BLOB PRIMARY KEY NOT NULL, n INTEGER, t TEXT, any ANY) STRICT;
    CREATE TABLE \"odd \"\"name\" (\"a key\" REAL PRIMARY KEY NOT NULL, \"select\" NUMERIC CHECK (\"select\" <> 13.5));
    CREATE INDEX album_artist ON album (artist, title DESC);
    CREATE UNIQUE INDEX artist_name ON artist (lower(name));
    CREATE VIEW everything AS SELECT * FROM artist JOIN album ON album.artist = artist.id;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
      INSERT INTO artist (name, born, photo) SELECT 'artist ' || i, i * 1.5, CASE WHEN i % 3 THEN randomblob(i) END FROM n;
    INSERT INTO album (id, artist, title) SELECT id * 10, id, CASE WHEN id % 2 THEN NULL ELSE 'title ' || id END FROM artist;
    INSERT INTO tag SELECT 'tag ' || id, CASE id % 4 WHEN 0 THEN NULL WHEN 1 THEN id WHEN 2 THEN id * 0.5 ELSE x'00ff' END FROM artist WHERE id < 20;
    INSERT INTO album_tag SELECT album.id, tag.name FROM album, tag WHERE album.id < 100;
    INSERT INTO strict SELECT randomblob(16), id, CAST(id AS TEXT), CASE id % 2 WHEN 0 THEN id ELSE 'x' END FROM artist;
    INSERT INTO \"odd \"\"name\" SELECT id + 0.25, id FROM artist;
    INSERT INTO \"odd \"\"name\" VALUES (1e300, -9223372036854775808), (3, 9007199254740993);";

#[test]
fn a_realistic_database_arrives_whole_and_equal() {
    let mut world = World::new(3);
    world.write(0, REALISTIC);
    assert!(world.replicas[0].track_all().unwrap().is_empty());
    let wall = world.tick();
    world.replicas[0].refresh(wall).unwrap();
    world.meet(0, 1);
    // Through the second to the third, which never meets the first.
    world.meet(1, 2);
    world.assert_equal();
    assert_eq!(world.replicas[2].tables().len(), 6);
    let objects = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '\\_peers%' ESCAPE '\\' AND type <> 'view' AND name NOT LIKE 'sqlite%' ORDER BY name";
    assert_eq!(rows(&world.replicas[0], objects), rows(&world.replicas[2], objects));
    assert_eq!(rows(&world.replicas[2], "PRAGMA foreign_key_check"), [""; 0]);
    world.write(2, "UPDATE album SET title = title || '!' WHERE id % 20 = 0; DELETE FROM album_tag WHERE album = 10; UPDATE tag SET color = 'none' WHERE color IS NULL; UPDATE strict SET id = x'0102' WHERE n = 5");
    world.meet(2, 1);
    world.meet(1, 0);
    world.assert_equal();
}

#[test]
fn chinook_arrives_whole_and_equal() {
    let path = std::env::var_os("PEERS_CHINOOK")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/chinook.sqlite"), PathBuf::from);
    if !path.exists() {
        return;
    }
    let mut world = World::new(2);
    let copy = world.dir.path().join("copy.sqlite");
    std::fs::copy(&path, &copy).unwrap();
    world.replicas[0] = open(&copy, 0);
    assert!(world.replicas[0].track_all().unwrap().is_empty());
    assert_eq!(world.replicas[0].tables().len(), 11);
    let wall = world.tick();
    world.replicas[0].refresh(wall).unwrap();
    world.meet(0, 1);
    world.assert_equal();
    let count = world.replicas[1].status().unwrap().tables.iter().map(|table| table.rows).sum::<u64>();
    assert_eq!(count, 15_607);
}

#[test]
fn another_program_with_nothing_of_ours_is_captured() {
    let mut world = World::new(2);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, a, b, u UNIQUE)");
    world.replicas[0].track("note").unwrap();
    let path = world.path(0);
    Connection::open(&path).unwrap().execute_batch("INSERT INTO note VALUES (1, 'x', 'y', 1), (2, 'x', 'y', 2), (3, 'x', 'y', 3)").unwrap();
    world.write(0, "");
    world.meet(0, 1);
    let script =
        "UPDATE note SET a = 'shell' WHERE id = 1; INSERT OR REPLACE INTO note VALUES (9, 'nine', NULL, 2); DELETE FROM note WHERE id = 3;
        BEGIN; INSERT INTO note VALUES (10, 1, 2, 3); ROLLBACK;";
    // The shell where there is one, else a connection that is as foreign.
    if !Command::new("sqlite3").arg(&path).arg(script).status().is_ok_and(|status| status.success()) {
        Connection::open(&path).unwrap().execute_batch(script).unwrap();
    }
    world.write(1, "UPDATE note SET b = 'other' WHERE id = 1");
    world.write(0, "");
    world.meet(0, 1);
    world.assert_equal();
    assert_eq!(rows(&world.replicas[1], "SELECT * FROM note ORDER BY id"), ["[1, 'shell', 'other', 1]", "[9, 'nine', NULL, 2]"]);
}

#[test]
fn what_was_written_while_no_replica_ran_is_taken_in() {
    let mut world = World::new(2);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, a)");
    world.replicas[0].track("note").unwrap();
    world.write(0, "INSERT INTO note VALUES (1, 1)");
    let path = world.path(0);
    world.replicas[0] = open(&world.dir.path().join("elsewhere.sqlite"), 9);
    Connection::open(&path).unwrap().execute_batch("UPDATE note SET a = 2; INSERT INTO note VALUES (2, 2)").unwrap();
    world.replicas[0] = open(&path, 0);
    world.write(0, "");
    world.meet(0, 1);
    world.assert_equal();
    assert_eq!(rows(&world.replicas[1], "SELECT * FROM note"), ["[1, 2]", "[2, 2]"]);
}

#[test]
fn untrack_leaves_the_table_as_it_was_found() {
    let mut world = World::new(1);
    world.write(0, REALISTIC);
    let user = |world: &World| {
        rows(&world.replicas[0], "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '\\_peers%' ESCAPE '\\' ORDER BY name")
    };
    let before = (user(&world), rows(&world.replicas[0], "SELECT * FROM album"));
    world.replicas[0].track("album").unwrap();
    world.write(0, "");
    let origin = world.replicas[0].origin();
    let wall = world.tick();
    world.replicas[0].untrack(wall, "album").unwrap();
    assert_eq!((user(&world), rows(&world.replicas[0], "SELECT * FROM album")), before);
    assert_eq!(rows(&world.replicas[0], "SELECT name FROM sqlite_master WHERE type = 'trigger'"), [""; 0]);
    // What was given up cannot be given on, so nobody may count it as seen from here.
    assert_ne!(world.replicas[0].origin(), origin);
    assert!(batches(&mut world.replicas[0], usize::MAX).iter().all(|batch| batch.origin() != origin));
}

#[test]
fn a_column_added_later_is_captured_kept_and_passed_on() {
    let mut world = World::new(3);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, a); INSERT INTO note VALUES (1, 1)");
    world.replicas[0].track("note").unwrap();
    world.write(0, "");
    world.meet(0, 1);
    // Another program adds the column and writes to it at once, under the triggers of before.
    let path = world.path(0);
    Connection::open(&path)
        .unwrap()
        .execute_batch("ALTER TABLE note ADD COLUMN b; UPDATE note SET b = 'new' WHERE id = 1; INSERT INTO note VALUES (2, 2, 'two')")
        .unwrap();
    world.write(0, "");
    world.meet(0, 1);
    assert_eq!(rows(&world.replicas[1], "SELECT * FROM note"), ["[1, 1]", "[2, 2]"]);
    // A new replica gets the later schema, and through the one that does not know the column its values.
    world.meet(1, 2);
    assert_eq!(rows(&world.replicas[2], "SELECT * FROM note"), ["[1, 1, 'new']", "[2, 2, 'two']"]);
    world.write(1, "ALTER TABLE note ADD COLUMN b");
    assert_eq!(rows(&world.replicas[1], "SELECT * FROM note"), ["[1, 1, 'new']", "[2, 2, 'two']"]);
    world.meet_all();
    world.assert_equal();
}

#[test]
fn a_rebuilt_table_is_noticed_and_compared() {
    let mut world = World::new(2);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, a); INSERT INTO note VALUES (1, 1), (2, 2)");
    world.replicas[0].track("note").unwrap();
    world.write(0, "");
    world.meet(0, 1);
    world.write(
        0,
        "CREATE TABLE new (id INTEGER PRIMARY KEY, a); INSERT INTO new SELECT * FROM note WHERE id = 2; INSERT INTO new VALUES (3, 3);
         DROP TABLE note; ALTER TABLE new RENAME TO note",
    );
    world.write(0, "INSERT INTO note VALUES (4, 4)");
    world.meet(0, 1);
    world.assert_equal();
    assert_eq!(rows(&world.replicas[1], "SELECT * FROM note"), ["[2, 2]", "[3, 3]", "[4, 4]"]);
}

#[test]
fn deletes_do_not_cascade_by_merging_and_user_triggers_do_not_fire() {
    let mut world = World::new(2);
    world.write(
        0,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, n DEFAULT 0); CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE);
         INSERT INTO parent (id) VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2)",
    );
    world.replicas[0].track_all().unwrap();
    world.write(0, "");
    world.meet(0, 1);
    for replica in [0, 1] {
        world.write(replica, "CREATE TRIGGER count AFTER INSERT ON child BEGIN UPDATE parent SET n = n + 1 WHERE id = NEW.parent; END");
    }
    world.write(0, "PRAGMA foreign_keys = ON; INSERT INTO child VALUES (3, 1); DELETE FROM parent WHERE id = 2");
    world.write(1, "INSERT INTO child VALUES (4, 1)");
    world.meet(0, 1);
    world.assert_equal();
    // Both counted to one, and the later write of the same value stands: nothing was counted twice.
    assert_eq!(rows(&world.replicas[0], "SELECT * FROM parent"), ["[1, 1]"]);
    assert_eq!(rows(&world.replicas[0], "SELECT * FROM child"), ["[1, 1]", "[3, 1]", "[4, 1]"]);
}

#[test]
fn rows_that_break_a_constraint_are_parked_alike_and_come_back() {
    let mut world = World::new(3);
    world.write(0, "CREATE TABLE tag (id BLOB PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, size INT CHECK (size < 10))");
    world.replicas[0].track("tag").unwrap();
    world.write(0, "");
    world.meet(0, 1);
    world.meet(0, 2);
    world.write(0, "INSERT INTO tag VALUES (x'00', 'red', 1)");
    world.write(1, "INSERT INTO tag VALUES (x'01', 'red', 2)");
    world.write(2, "INSERT INTO tag VALUES (x'02', 'red', 3)");
    world.meet_all();
    world.assert_equal();
    let parked = world.replicas[2].parked().unwrap();
    assert_eq!(
        parked.iter().map(|p| (p.key[0].clone(), p.reason)).collect::<Vec<_>>(),
        [(Value::Blob(vec![1]), Reason::Unique), (Value::Blob(vec![2]), Reason::Unique)]
    );
    world.write(1, "UPDATE tag SET name = 'pink' WHERE id = x'00'");
    assert_eq!(rows(&world.replicas[1], "SELECT size FROM tag ORDER BY id"), ["[1]", "[2]"]);
    world.meet_all();
    world.assert_equal();
    world.write(2, "DELETE FROM tag");
    assert_eq!(rows(&world.replicas[2], "SELECT size FROM tag"), ["[3]"]);
    world.meet_all();
    world.assert_equal();
}

#[test]
fn a_unique_index_made_later_parks_the_later_rows() {
    let mut world = World::new(2);
    world.write(0, "CREATE TABLE tag (id INTEGER PRIMARY KEY, name TEXT)");
    world.replicas[0].track("tag").unwrap();
    world.write(0, "INSERT INTO tag VALUES (1, 'a')");
    world.meet(0, 1);
    world.write(1, "INSERT INTO tag VALUES (2, 'a')");
    world.write(0, "CREATE UNIQUE INDEX tag_name ON tag (name)");
    world.meet(0, 1);
    world.assert_equal();
    assert_eq!(rows(&world.replicas[1], "SELECT id FROM tag"), ["[1]"]);
}
