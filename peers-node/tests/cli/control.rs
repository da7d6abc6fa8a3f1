//! The daemon and its control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::Home;

#[test]
fn signals_end_the_node_cleanly_and_its_socket_goes_with_it() {
    for signal in [Signal::INT, Signal::TERM] {
        let home = Home::new();
        let mut node = home.up_alone("laptop");
        let socket = home.path().join("control.sock");
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(home.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(home.path().join("key")).unwrap().permissions().mode() & 0o777, 0o600);
        node.signal(signal);
        assert_eq!(node.end().0, 0);
        assert!(!socket.exists());
    }
}

#[test]
fn a_node_that_was_killed_starts_again_over_its_dead_socket() {
    let home = Home::new();
    let mut node = home.up_alone("laptop");
    let id = home.ok(&["status"])["id"].clone();
    home.ok(&["topic", "publish", "news", "acknowledged"]);
    node.signal(Signal::KILL);
    node.end();
    assert!(home.path().join("control.sock").exists());
    home.run(&["status"]).fails(3, &["peers up"]);
    let node = home.up_alone("laptop");
    assert_eq!(home.ok(&["status"])["id"], id);
    let known = home.ok(&["topic", "follow", "news", "--last", "1", "--no-wait"]);
    assert_eq!(known["messages"][0]["body"], "acknowledged");
    node.stop();
}

#[test]
fn the_id_is_the_same_whether_the_node_runs_or_not() {
    let home = Home::new();
    let before = home.ok(&["id"]);
    let node = home.up_alone("laptop");
    assert_eq!(home.ok(&["id"]), before);
    assert_eq!(home.ok(&["status"])["id"], before["id"]);
    node.stop();
}

#[test]
fn netcheck_says_when_there_is_nobody_outside_to_ask() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let ran = home.run(&["netcheck", "--wait", "0"]);
    assert_eq!((ran.code, &ran.json["kind"], &ran.json["agreed"]), (3, &"unknown".into(), &0.into()), "{}", ran.stdout);
    assert!(ran.json["means"][0].as_str().is_some_and(|means| means.contains("two peers outside")), "{}", ran.stdout);
    node.stop();
}

#[test]
fn malformed_requests_get_an_error_and_the_node_goes_on() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let lines: [&[u8]; 7] = [
        b"\n",
        b"hello\n",
        b"{}\n",
        b"{\"request\":\"no_such\"}\n",
        b"{\"request\":\"status\",\"extra\":1}\n",
        b"\xff\xfe\x00\n",
        b"[[[[[[[[[[[[[[[[[[[[\n",
    ];
    for line in lines {
        let mut stream = home.connect();
        stream.write_all(line).unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!(reply["error"]["code"], "usage", "{reply}");
    }
    home.ok(&["status"]);
    node.stop();
}

#[test]
fn a_line_without_end_is_cut_off_at_its_bound() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let mut stream = home.connect();
    let chunk = vec![b'['; 1 << 20];
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "the node read {sent} bytes of one line");
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply);
    home.ok(&["status"]);
    node.stop();
}

#[test]
fn clients_that_go_away_leave_room_for_others() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    for _ in 0..200 {
        let mut stream = home.connect();
        stream.write_all(b"{\"request\":\"follow\",\"topic\":{\"label\":\"x\"},\"last\":0,\"live\":true}\n").unwrap();
    }
    home.ok(&["status"]);
    node.stop();
}
