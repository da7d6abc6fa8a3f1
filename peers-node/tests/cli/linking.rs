//! Invitations by link and QR code, and what people say to the words they see.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::{Home, Running};

/// The link that `peers invite` prints.
fn link(invite: &mut Running) -> String {
    invite.line_with("peers accept");
    invite.line_with("peers:")
}

fn devices(home: &Home) -> usize {
    home.ok(&["status"])["user"]["devices"].as_array().unwrap().len()
}

#[test]
fn a_link_pasted_in_pieces_links_two_nodes_that_know_nobody() {
    let (laptop, phone) = (Home::new(), Home::new());
    let (first, second) = (laptop.up_alone("laptop"), phone.up_alone("phone"));
    let mut invite = laptop.spawn(&["invite", "--link"], b"");
    let link = link(&mut invite);
    let pieces: Vec<&str> = link.as_bytes().chunks(50).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
    let accepted = phone.run_with(&["accept"], format!("{}\n", pieces.join("\n")).as_bytes());
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    assert_eq!((&accepted.json["name"], &accepted.json["others"]), (&Value::from("laptop"), &Value::from(0)));
    let (exit, rest) = invite.end();
    assert_eq!(exit, 0);
    assert!(rest.contains(accepted.json["words"].as_str().unwrap()), "{rest}");
    assert_eq!((devices(&laptop), devices(&phone)), (2, 2));
    first.stop();
    second.stop();
}

#[test]
fn a_damaged_link_is_refused_before_anybody_is_sought() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let mut invite = home.spawn(&["invite", "--link"], b"");
    let link = link(&mut invite);
    let at = link.len() / 2;
    let other = if link.as_bytes()[at] == b'a' { "b" } else { "a" };
    let damaged = format!("{}{other}{}", &link[..at], &link[at + 1..]);
    home.run_with(&["accept"], damaged.as_bytes()).fails(2, &["damaged", "copy"]);
    home.run_with(&["accept"], &link.as_bytes()[..at]).fails(2, &["cut off"]);
    home.run_with(&["accept"], format!("{link}x\n").as_bytes()).fails(2, &["nothing but the link"]);
    home.run_with(&["accept"], link.replace(':', ":0").as_bytes()).fails(2, &["character 7", "'0'"]);
    home.run_with(&["accept"], link.as_bytes()).fails(4, &["another linking is under way"]);
    invite.signal(rustix::process::Signal::INT);
    invite.end();
    home.run_with(&["accept"], link.as_bytes()).fails(4, &["made by this device itself"]);
    node.stop();
}

#[test]
fn a_link_becomes_a_qr_code_on_the_terminal_and_a_file_for_its_owner_only() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let mut invite = home.spawn(&["invite", "--qr"], b"");
    link(&mut invite);
    assert!(invite.line_with("\u{2588}").chars().count() > 30);
    invite.signal(rustix::process::Signal::INT);
    invite.end();
    let file = home.file("link.svg");
    let mut invite = home.spawn(&["invite", "--qr", file.to_str().unwrap()], b"");
    invite.line_with("link.svg");
    assert!(std::fs::read_to_string(&file).unwrap().contains("<svg"));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    invite.signal(rustix::process::Signal::INT);
    invite.end();
    home.run(&["invite", "--qr", file.to_str().unwrap()]).fails(1, &["link.svg", "exists"]);
    node.stop();
}

#[test]
fn with_confirm_both_people_are_asked_and_no_is_no_on_both_sides() {
    let (laptop, phone) = (Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let second = phone.up_beside("phone", &laptop);
    // The end of standard input is a no as well.
    for (inviting, accepting, linked) in [("n", "y", false), ("y", "n", false), ("y", "", false), ("y", "yes", true)] {
        let mut invite = laptop.spawn(&["invite", "--link", "--confirm"], format!("{inviting}\n").as_bytes());
        let link = link(&mut invite);
        let accepted = phone.run_with(&["accept", "--confirm"], format!("{link}\n{accepting}").as_bytes());
        let (exit, rest) = invite.end();
        assert!(rest.contains("phone") && rest.contains("Both devices show:"), "{rest}");
        assert!(accepted.stderr.contains("laptop") && accepted.stderr.contains("Both devices show:"), "{}", accepted.stderr);
        if linked {
            assert_eq!((exit, accepted.code), (0, 0), "{}", accepted.stderr);
            assert!(rest.contains(accepted.json["words"].as_str().unwrap()));
        } else {
            assert_eq!(exit, 4);
            accepted.fails(4, &["told not to go on"]);
        }
        assert_eq!((devices(&laptop), devices(&phone)), if linked { (2, 2) } else { (1, 1) });
    }
    laptop.run(&["accept"]).fails(2, &["standard input is empty"]);
    first.stop();
    second.stop();
}

#[test]
fn programs_follow_a_linking_on_the_control_socket_and_confirm_it_there() {
    let (laptop, phone) = (Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let second = phone.up_alone("phone");
    let begin = |home: &Home, request: Value| {
        let mut socket = home.connect();
        socket.write_all(format!("{request}\n").as_bytes()).unwrap();
        BufReader::new(socket).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
    };
    let confirm = |home: &Home| begin(home, serde_json::json!({"request": "confirm", "same": true})).next().unwrap();
    assert_eq!(confirm(&laptop)["error"]["code"], "refused", "nothing is under way");
    let mut invite = begin(&laptop, serde_json::json!({"request": "invite", "link": true, "confirm": true}));
    let link = invite.next().unwrap()["event"]["link"].clone();
    let mut accept = begin(&phone, serde_json::json!({"request": "accept", "code": link}));
    let [shown, seen] = [invite.next().unwrap(), accept.next().unwrap()].map(|reply| reply["event"]["matched"].clone());
    assert_eq!(shown["words"], seen["words"]);
    assert_eq!((&shown["name"], &seen["name"]), (&Value::from("phone"), &Value::from("laptop")));
    assert_eq!((&shown["joins"], &shown["group"], &shown["kind"]), (&seen["joins"], &seen["group"], &Value::from("user")));
    assert_eq!(shown["joins"], laptop.ok(&["status"])["user"]["id"]);
    assert_eq!(devices(&phone), 1, "not before it is confirmed");
    assert_eq!(confirm(&laptop)["ok"], serde_json::json!({}));
    for reply in [invite.next().unwrap(), accept.next().unwrap()] {
        assert_eq!(reply["ok"]["words"], shown["words"]);
    }
    assert_eq!(devices(&phone), 2);
    first.stop();
    second.stop();
}
