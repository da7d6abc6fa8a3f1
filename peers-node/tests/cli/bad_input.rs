//! What goes wrong outside of the program: an error that names it and says what to do, an exit code, and nothing lost.

use std::fs;
use std::net::UdpSocket;

use crate::harness::{Disk, Home, database};

#[test]
fn a_command_without_a_node_says_to_start_one() {
    let home = Home::new();
    for arguments in [
        &["status"][..],
        &["accept"],
        &["invite"],
        &["topic", "publish", "news", "text"],
        &["send", "bob", "--text", "x"],
        &["inbox"],
        &["db", "track", "x.sqlite"],
        &["db", "sql", "x", "SELECT 1"],
    ] {
        home.run(arguments).fails(3, &["no node runs here", "peers up"]);
    }
}

#[test]
fn a_port_in_use_is_named_and_the_node_keeps_what_it_has() {
    let home = Home::new();
    let id = home.ok(&["id"])["id"].clone();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    home.run(&["up", "--no-lan", "--listen", &address.to_string()]).fails(1, &[&address.port().to_string(), "used by another program"]);
    drop(taken);
    let node = home.up_alone("laptop");
    assert_eq!(home.ok(&["status"])["id"], id);
    node.stop();
}

#[test]
fn a_second_node_on_one_home_is_refused_and_the_first_goes_on() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    home.run(&["up", "--no-lan", "--listen", "127.0.0.1:0"]).fails(1, &["already running", home.path().to_str().unwrap()]);
    home.ok(&["status"]);
    node.stop();
}

#[test]
fn a_corrupted_key_file_is_named_and_left_as_it_is() {
    let home = Home::new();
    home.ok(&["id"]);
    let key = home.path().join("key");
    let good = fs::read(&key).unwrap();
    for (what, bytes) in
        [("cut", good[..good.len() / 2].to_vec()), ("empty", Vec::new()), ("flipped", good.iter().map(|byte| byte ^ 0x55).collect())]
    {
        fs::write(&key, &bytes).unwrap();
        for arguments in [&["id"][..], &["up", "--no-lan", "--listen", "127.0.0.1:0"]] {
            let ran = home.run(arguments);
            ran.fails(1, &[key.to_str().unwrap()]);
            assert_eq!(fs::read(&key).unwrap(), bytes, "{what}");
        }
    }
    fs::write(&key, &good).unwrap();
    home.ok(&["id"]);
}

#[test]
fn a_wrong_passphrase_is_refused_and_the_right_one_opens() {
    let home = Home::new();
    let id = home.run_with(&["id", "--passphrase-fd", "0"], b"correct horse\n");
    assert_eq!(id.code, 0, "{}", id.stderr);
    home.run_with(&["id", "--passphrase-fd", "0"], b"wrong horse\n").fails(4, &["passphrase"]);
    home.run_with(&["up", "--no-lan", "--listen", "127.0.0.1:0", "--passphrase-fd", "0"], b"wrong horse\n").fails(4, &["passphrase"]);
    let again = home.run_with(&["id", "--passphrase-fd", "0"], b"correct horse\n");
    assert_eq!(again.json, id.json);
    home.run(&["id", "--passphrase-fd", "77"]).fails(2, &["77"]);
}

#[test]
fn a_table_without_a_primary_key_is_named_and_nothing_is_tracked() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let file = home.file("notes.sqlite");
    let program = database(&file, "CREATE TABLE loose(a, b); INSERT INTO loose VALUES (1, 2)");
    home.run(&["db", "track", file.to_str().unwrap(), "loose"]).fails(1, &["loose", "primary key"]);
    let rows: i64 = program.query_row("SELECT count(*) FROM loose", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
    home.run(&["db", "track", file.to_str().unwrap(), "absent"]).fails(1, &["absent"]);
    node.stop();
}

#[test]
fn a_database_locked_by_another_program_is_named_and_works_when_it_is_free() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let file = home.file("notes.sqlite");
    let program = database(&file, "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT); INSERT INTO note VALUES (1, 'one')");
    program.execute_batch("BEGIN EXCLUSIVE").unwrap();
    home.run(&["db", "track", file.to_str().unwrap()]).fails(1, &["notes.sqlite", "another program"]);
    program.execute_batch("COMMIT").unwrap();
    home.ok(&["db", "track", file.to_str().unwrap()]);
    program.execute_batch("BEGIN EXCLUSIVE; INSERT INTO note VALUES (2, 'two')").unwrap();
    home.run(&["db", "sql", "notes", "INSERT INTO note VALUES (3, 'three')"]).fails(1, &["notes.sqlite", "another program"]);
    program.execute_batch("COMMIT").unwrap();
    home.ok(&["db", "sql", "notes", "INSERT INTO note VALUES (3, 'three')"]);
    let rows = home.ok(&["db", "sql", "notes", "SELECT text FROM note ORDER BY id"]);
    assert_eq!(rows["rows"].to_string(), r#"[["one"],["two"],["three"]]"#);
    node.stop();
}

#[test]
fn a_file_that_is_no_database_is_named_and_left_as_it_is() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let file = home.file("photo.jpg");
    let content = vec![0xab; 20_000];
    fs::write(&file, &content).unwrap();
    home.run(&["db", "track", file.to_str().unwrap()]).fails(1, &["photo.jpg"]);
    assert_eq!(fs::read(&file).unwrap(), content);
    home.run(&["demo", "--db", file.to_str().unwrap()]).fails(1, &["photo.jpg"]);
    home.run(&["demo", "--db", "absent.sqlite"]).fails(1, &["absent.sqlite"]);
    home.run(&["db", "status", "unheard"]).fails(1, &["unheard", "peers db"]);
    home.run(&["db", "sql", "unheard", "SELECT 1"]).fails(1, &["unheard", "peers db"]);
    node.stop();
}

#[test]
fn a_full_disk_is_named_and_what_was_acknowledged_stays() {
    let home = Home::new();
    let Some(disk) = Disk::mount(&home.path()) else {
        eprintln!("SKIPPED: no file system can be mounted here (needs root), so none can be filled");
        return;
    };
    let node = home.up_alone("laptop");
    home.ok(&["topic", "publish", "news", "before"]);
    fs::write(disk.path().join("filler"), vec![7; 64 << 20]).unwrap_err();
    let text = "x".repeat(100_000);
    let ran = home.run_with(&["topic", "publish", "news"], text.as_bytes());
    ran.fails(1, &["space"]);
    fs::remove_file(disk.path().join("filler")).unwrap();
    let again = home.run_with(&["topic", "publish", "news"], text.as_bytes());
    assert_eq!(again.code, 0, "{}", again.stderr);
    node.stop();
    let node = home.up_alone("laptop");
    let messages = home.ok(&["topic", "follow", "news", "--last", "10", "--no-wait"]);
    let bodies: Vec<_> =
        messages["messages"].as_array().unwrap().iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect();
    assert!(bodies.contains(&"before".to_owned()) && bodies.contains(&text));
    node.stop();
}

#[test]
fn a_home_with_too_long_a_path_for_a_socket_says_so() {
    let home = Home::new();
    let long = home.file(&"x".repeat(120));
    let ran = home.run_at(&long, &["up", "--no-lan", "--listen", "127.0.0.1:0"]);
    ran.fails(1, &["control.sock", "PEERS_HOME"]);
    home.run_at(&long, &["status"]).fails(1, &["control.sock", "PEERS_HOME"]);
}

#[test]
fn a_command_line_without_meaning_is_code_2_with_and_without_json() {
    let home = Home::new();
    for arguments in [
        &["frobnicate"][..],
        &["send"],
        &["send", "bob"],
        &["up", "--listen", "nowhere"],
        &["up", "--peer", "abc@127.0.0.1:1"],
        &["topic", "follow"],
    ] {
        home.run(arguments).fails(2, &["error"]);
    }
    let help = home.run(&["--help"]);
    assert_eq!(help.code, 0);
    for line in ["0  done", "1  failed", "3  unreachable", "4  refused", "5  stored"] {
        assert!(help.stdout.contains(line), "{}", help.stdout);
    }
}
