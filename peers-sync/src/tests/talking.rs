//! Conversations: cut, late, through others, from the future, from a restored file.

use super::*;
use crate::{Reason, VersionVector};

fn pair(rows: u32) -> World {
    let mut world = World::new(2);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT, n INT)");
    world.replicas[0].track("note").unwrap();
    world.write(0, &format!("WITH RECURSIVE s(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM s WHERE v < {rows}) INSERT INTO note SELECT v, printf('%0100d', v), v FROM s"));
    world
}

#[test]
fn a_large_transaction_travels_in_bounded_batches() {
    let mut world = pair(12_000);
    let batches = batches(&mut world.replicas[0], crate::BATCH);
    assert!(batches.len() >= 5);
    assert!(batches.iter().all(|batch| batch.as_bytes().len() <= 256 * 1024));
    world.meet(0, 1);
    world.assert_equal();
}

#[test]
fn a_conversation_cut_anywhere_goes_on_where_it_was() {
    let mut world = pair(12_000);
    let mut messages = 0;
    for cut in 1.. {
        world.connect(0, 1);
        let delivered = world.deliver(cut);
        messages += delivered;
        if delivered < cut {
            break;
        }
        world.disconnect(0, 1);
    }
    world.assert_equal();
    assert!(messages < 100, "{messages}");
    assert!(world.replicas[1].stats().batches < 20, "what was received is not sent again: {:?}", world.replicas[1].stats());
}

#[test]
fn a_row_larger_than_a_message_arrives() {
    let mut world = pair(1);
    world.write(0, "INSERT INTO note VALUES (2, printf('%03000000d', 7), 1)");
    world.meet(0, 1);
    world.assert_equal();
}

#[test]
fn a_change_is_pushed_at_once_and_passed_on_to_a_third() {
    let mut world = World::new(3);
    world.write(0, "CREATE TABLE note (id INTEGER PRIMARY KEY, body)");
    world.replicas[0].track("note").unwrap();
    world.connect(0, 1);
    world.connect(1, 2);
    world.write(0, "INSERT INTO note VALUES (1, 'x')");
    world.deliver(usize::MAX);
    world.assert_equal();
    let before = world.now;
    world.write(2, "UPDATE note SET body = 'y'");
    let (to, message) = world.replicas[2].poll_message().unwrap();
    assert_eq!(to, id(1));
    assert!(message.len() < 300, "{}", message.len());
    let (now, wall) = (world.now, world.wall);
    world.replicas[1].handle_message(now, wall, id(2), message);
    world.deliver(usize::MAX);
    world.assert_equal();
    assert!(world.now.duration_since(before) < Duration::from_secs(1));
}

#[test]
fn local_changes_are_given_out_for_the_cache_and_merge_the_same() {
    let mut world = pair(5000);
    world.drain();
    let published: Vec<_> =
        world.events[0].iter().filter_map(|event| if let Event::Local(changes) = event { Some(changes.clone()) } else { None }).collect();
    assert!(published.iter().all(|changes| changes.as_bytes().len() <= crate::MAX_LOCAL));
    for changes in published.iter().rev().chain(&published) {
        let changes = Changes::decode(changes.as_bytes().clone()).unwrap();
        world.replicas[1].apply(WALL, &changes).unwrap();
    }
    world.assert_equal();
    assert!(world.replicas[0].poll_event().is_none());
    world.write(0, "UPDATE note SET n = 0 WHERE id = 7");
    assert!(
        std::iter::from_fn(|| world.replicas[0].poll_event()).any(|event| matches!(event, Event::Local(changes) if changes.rows() == 1))
    );
}

#[test]
fn a_change_from_far_in_the_future_waits_for_its_time() {
    let mut world = pair(1);
    world.meet(0, 1);
    let year = 365 * 86_400_000;
    world.wall = WALL.plus(year);
    world.write(1, "UPDATE note SET body = 'from the future'");
    world.wall = WALL.plus(1000);
    world.write(0, "UPDATE note SET body = 'now'");
    world.connect(0, 1);
    world.deliver(usize::MAX);
    assert!(world.events[0].iter().any(|event| matches!(event, Event::ClockAhead { author, .. } if *author == id(1))));
    assert_eq!(rows(&world.replicas[0], "SELECT body FROM note"), ["['now']"]);
    assert_eq!(world.replicas[0].status().unwrap().waiting, 1);
    world.replicas[0].refresh(WALL.plus(year)).unwrap();
    assert_eq!(rows(&world.replicas[0], "SELECT body FROM note"), ["['from the future']"]);
    world.wall = WALL.plus(year);
    world.meet(0, 1);
    world.assert_equal();
}

#[test]
fn a_restored_file_goes_on_under_a_new_history() {
    let mut world = pair(3);
    let backup = world.dir.path().join("backup.sqlite");
    world.replicas[0].connection().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    world.write(0, "UPDATE note SET n = 100 WHERE id = 1");
    world.meet(0, 1);
    let origin = world.replicas[0].origin();
    world.replicas[0] = open(&backup, 0);
    assert_ne!(world.replicas[0].origin(), origin);
    world.write(0, "UPDATE note SET n = 200 WHERE id = 2");
    world.meet(0, 1);
    world.assert_equal();
}

#[test]
fn a_backup_written_over_the_file_is_noticed_when_others_have_more() {
    let mut world = pair(3);
    let (path, backup) = (world.path(0), world.dir.path().join("backup.sqlite"));
    world.replicas[0].connection().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    world.write(0, "UPDATE note SET n = 100 WHERE id = 1");
    world.write(0, "UPDATE note SET n = 200 WHERE id = 1");
    world.meet(0, 1);
    world.replicas[0] = open(&world.dir.path().join("elsewhere.sqlite"), 9);
    std::fs::copy(&backup, &path).unwrap();
    world.replicas[0] = open(&path, 0);
    let origin = world.replicas[0].origin();
    world.connect(0, 1);
    world.deliver(usize::MAX);
    assert!(world.events[0].iter().any(|event| matches!(event, Event::Restored)));
    assert_ne!(world.replicas[0].origin(), origin);
    world.write(0, "UPDATE note SET n = 300 WHERE id = 3");
    world.deliver(usize::MAX);
    world.assert_equal();
    assert_eq!(rows(&world.replicas[1], "SELECT n FROM note"), ["[200]", "[2]", "[300]"]);
}

#[test]
fn a_copied_file_on_another_device_writes_under_its_own_name() {
    let mut world = pair(3);
    let copy = world.dir.path().join("copy.sqlite");
    world.replicas[0].connection().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    world.replicas[1] = open(&copy, 1);
    world.write(1, "UPDATE note SET n = 5 WHERE id = 1");
    assert_eq!(world.replicas[1].origin().peer, id(1));
    world.meet(0, 1);
    world.assert_equal();
}

#[test]
fn two_copies_of_one_file_tracked_on_two_devices_are_the_same_rows() {
    let mut world = World::new(2);
    for replica in [0, 1] {
        world.write(replica, "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO note VALUES (1, 'a'), (2, 'b')");
        world.replicas[replica].track("note").unwrap();
    }
    world.write(0, "UPDATE note SET body = 'edited' WHERE id = 1");
    world.write(1, "DELETE FROM note WHERE id = 2");
    world.meet(0, 1);
    world.assert_equal();
    assert_eq!(rows(&world.replicas[0], "SELECT * FROM note"), ["[1, 'edited']"]);
}

#[test]
fn the_rows_of_a_table_that_is_not_here_are_kept_and_passed_on() {
    let mut world = pair(3);
    // Here the table has another key, so the rows cannot be those.
    world.write(1, "CREATE TABLE note (body TEXT PRIMARY KEY NOT NULL)");
    world.meet(0, 1);
    let parked = world.replicas[1].parked().unwrap();
    assert_eq!((parked.len(), parked[0].reason), (3, Reason::NoTable));
    let mut third = open(&world.dir.path().join("third.sqlite"), 2);
    for batch in world.replicas[1].changes_since(&VersionVector::default(), usize::MAX).unwrap() {
        third.apply(WALL, &batch).unwrap();
    }
    assert_eq!(rows(&third, "SELECT * FROM note"), rows(&world.replicas[0], "SELECT * FROM note"));
    assert_eq!(third.version(), world.replicas[0].version());
}

#[test]
fn a_delete_ends_the_row_whatever_is_edited_meanwhile() {
    let mut world = pair(2);
    world.meet(0, 1);
    world.write(0, "DELETE FROM note WHERE id = 1");
    world.write(1, "UPDATE note SET n = 77 WHERE id = 1");
    world.write(1, "UPDATE note SET n = 78 WHERE id = 2");
    world.write(0, "UPDATE note SET body = 'other field' WHERE id = 2");
    world.meet(0, 1);
    world.assert_equal();
    assert_eq!(rows(&world.replicas[0], "SELECT * FROM note"), ["[2, 'other field', 78]"]);
    world.write(1, "INSERT INTO note VALUES (1, 'again', 1)");
    world.meet(0, 1);
    assert_eq!(rows(&world.replicas[0], "SELECT body FROM note WHERE id = 1"), ["['again']"]);
    world.assert_equal();
}

#[test]
fn the_log_says_who_wrote_what_when() {
    let mut world = pair(2);
    world.meet(0, 1);
    world.write(1, "UPDATE note SET n = 9 WHERE id = 2");
    let wall = world.wall;
    world.meet(0, 1);
    let log = world.replicas[0].log(2).unwrap();
    assert_eq!(
        (log[0].author, log[0].time, &log[0].key[..], &log[0].columns[..]),
        (id(1), wall, &[Value::Integer(2)][..], &["n".to_owned()][..])
    );
    assert_eq!(log.len(), 2);
}
