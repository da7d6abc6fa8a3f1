//! A full disk is named with what to do about it, and what was acknowledged before is there after it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::host::Host;
use crate::note;
use crate::peer::{Peer, Ran};

const ALONE: [&str; 3] = ["--no-lan", "--listen", "127.0.0.1:0"];
const UP_ALONE: [&str; 4] = ["up", ALONE[0], ALONE[1], ALONE[2]];

#[test]
fn a_node_does_not_begin_on_a_full_disk_and_does_once_there_is_space() {
    let Some([machine]) = Host::several() else { return };
    let mut alice = Peer::new(&machine);
    let Some(disk) = Disk::mount(alice.home()) else { return };
    disk.fill_up_to(0);
    names_the_disk(&alice.run(&["id"]), &alice.home().join("key"));
    names_the_disk(&alice.run(&UP_ALONE), &alice.home().join("key"));
    disk.empty();
    let id = alice.id();
    for free in [0, 1, 4, 16, 32] {
        disk.fill_up_to(free << 10);
        names_the_disk(&alice.run(&UP_ALONE), &alice.home().join("state.sqlite"));
    }
    disk.empty();
    alice.ready("alice", &ALONE);
    assert_eq!(alice.id(), id);
}

#[test]
fn what_was_acknowledged_before_the_home_was_full_is_there_after_a_kill() {
    let Some([machine]) = Host::several() else { return };
    let mut alice = Peer::new(&machine);
    let Some(disk) = Disk::mount(alice.home()) else { return };
    let state = alice.home().join("state.sqlite");
    let notes = notes(alice.folder());
    alice.ready("alice", &ALONE);
    let user = alice.ok(&["status"])["user"].clone();
    alice.ok(&["topic", "publish", "news", "before"]);
    alice.ok(&["db", "track", &notes]);
    alice.ok(&["db", "sql", "notes", "INSERT INTO note(text) VALUES ('before')"]);

    // The packets that are cached for others give way first, which may be enough for this message.
    disk.fill_up_to(0);
    let enough = alice.run(&["topic", "publish", "news", "perhaps"]).code == Some(0);
    disk.fill_up_to(0);
    names_the_disk(&alice.run(&["topic", "publish", "news", "refused"]), &state);
    names_the_disk(&alice.run(&["send", &Peer::new(&machine).id(), "--text", "refused"]), &state);
    let other = alice.folder().join("other.sqlite");
    names_the_disk(&alice.run(&["db", "track", other.to_str().unwrap()]), &state);
    assert_eq!(alice.ok(&["db", "status"])["databases"].as_array().unwrap().len(), 1, "what could not be remembered is not begun");
    alice.down();
    names_the_disk(&alice.run(&UP_ALONE), &state);
    // As after a restart of the machine, where nothing is left of the memory that SQLite shares.
    let _ = fs::remove_file(alice.home().join("state.sqlite-shm"));
    disk.fill_up_to(0);
    names_the_disk(&alice.run(&UP_ALONE), &state);

    disk.empty();
    alice.ready("alice", &ALONE);
    assert_eq!(alice.ok(&["status"])["user"], user);
    let messages = alice.ok(&["topic", "follow", "news", "--last", "9", "--no-wait"])["messages"].take();
    let bodies: Vec<_> = messages.as_array().unwrap().iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, if enough { &["before", "perhaps"][..] } else { &["before"] });
    assert_eq!(alice.ok(&["db", "status", "notes"])["databases"][0]["tables"][0]["rows"], 1001);
    alice.ok(&["db", "track", other.to_str().unwrap()]);
}

#[test]
fn a_message_too_large_for_what_is_left_is_refused_and_smaller_ones_are_not() {
    let Some([machine]) = Host::several() else { return };
    let mut alice = Peer::new(&machine);
    let Some(disk) = Disk::mount(alice.home()) else { return };
    alice.ready("alice", &ALONE);
    let large = "x".repeat(4 << 20);
    disk.fill_up_to(1 << 20);
    names_the_disk(&alice.run_with(&["topic", "publish", "news"], &large), &alice.home().join("state.sqlite"));
    alice.ok(&["topic", "publish", "news", "small"]);
    disk.empty();
    alice.ok_with(&["topic", "publish", "news"], &large);
    alice.down();
    alice.ready("alice", &ALONE);
    let messages = alice.ok(&["topic", "follow", "news", "--last", "9", "--no-wait"])["messages"].take();
    let sizes: Vec<_> = messages.as_array().unwrap().iter().map(|message| message["body"].as_str().unwrap().len()).collect();
    assert_eq!(sizes, [5, 4 << 20]);
}

#[test]
fn a_database_on_a_full_disk_is_named_and_keeps_its_rows() {
    let Some([machine]) = Host::several() else { return };
    let mut alice = Peer::new(&machine);
    let folder = alice.folder().join("disk");
    let Some(disk) = Disk::mount(folder.clone()) else { return };
    let notes = notes(&folder);
    let rows = || Connection::open(&notes).unwrap().query_row("SELECT count(*) FROM note", [], |row| row.get::<_, i64>(0)).unwrap();
    alice.ready("alice", &ALONE);
    for free in [0, 4, 16, 64] {
        disk.fill_up_to(free << 10);
        names_the_disk(&alice.run(&["db", "track", &notes]), Path::new(&notes));
        disk.empty();
        assert_eq!(rows(), 1000);
    }
    disk.fill_up_to(0);
    alice.ok(&["topic", "publish", "news", "on another disk"]);
    disk.empty();
    alice.ok(&["db", "track", &notes]);
    alice.ok(&["db", "sql", "notes", "INSERT INTO note(text) VALUES ('before')"]);
    disk.fill_up_to(0);
    names_the_disk(&alice.run(&["db", "sql", "notes", "INSERT INTO note(text) SELECT text FROM note"]), Path::new(&notes));
    alice.down();
    disk.empty();
    alice.ready("alice", &ALONE);
    assert_eq!(rows(), 1001);
    alice.ok(&["db", "sql", "notes", "INSERT INTO note(text) SELECT text FROM note"]);
    assert_eq!(alice.ok(&["db", "status", "notes"])["databases"][0]["tables"][0]["rows"], 2002);
}

/// The command failed, said which file found no space and what to do, and did not panic.
#[track_caller]
fn names_the_disk(ran: &Ran, file: &Path) {
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for part in [file.to_str().unwrap(), "space"] {
        assert!(ran.stderr.contains(part), "{part:?} is not in {:?}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert_eq!(ran.json["error"]["code"], "failed");
}

/// A database of 1,000 rows, as another program made it.
fn notes(folder: &Path) -> String {
    let path = folder.join("notes.sqlite");
    let sql = "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO note SELECT i, hex(randomblob(50)) FROM n";
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A file system of 32 MiB in memory; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: PathBuf) -> Option<Self> {
        fs::create_dir_all(&folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs"]).arg(&folder).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            note("skipped: no file system can be mounted here (needs root)");
            return None;
        }
        Some(Self(folder))
    }

    /// Takes all of the space but `free` bytes.
    fn fill_up_to(&self, free: u64) {
        self.empty();
        let filler = self.0.join("filler");
        fs::write(&filler, vec![7; 33 << 20]).unwrap_err();
        let file = File::options().write(true).open(&filler).unwrap();
        file.set_len(file.metadata().unwrap().len().saturating_sub(free)).unwrap();
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.0.join("filler"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
