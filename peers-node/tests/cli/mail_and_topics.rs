//! Topics and mail.

use crate::harness::{Home, until};

#[test]
fn an_unknown_peer_is_named() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    home.run(&["send", "nobody", "--text", "x"]).fails(1, &["nobody", "peers status"]);
    home.run(&["send", "laptop", "--text", "x"]).fails(1, &["this device"]);
    let own = home.ok(&["id"])["id"].as_str().unwrap().to_owned();
    home.run(&["send", &own, "--text", "x"]).fails(1, &["this device"]);
    home.run(&["send", "nobody", "absent.jpg"]).fails(1, &["absent.jpg"]);
    node.stop();
}

#[test]
fn mail_to_someone_who_is_away_is_code_3_alone_and_code_5_once_a_stranger_holds_it() {
    let (alice, bob, stranger) = (Home::new(), Home::new(), Home::new());
    let bob_id = bob.ok(&["id"])["id"].as_str().unwrap().to_owned();
    let first = alice.up_alone("alice");
    let arguments = ["send", &bob_id, "--text", "hello", "--wait", "delivered", "--timeout", "1500ms"];
    alice.run(&arguments).fails(3, &["kept here"]);
    let second = stranger.up_beside("stranger", &alice);
    alice.run(&arguments).fails(5, &["other peer"]);
    let stored = alice.ok(&["send", &bob_id, "--text", "signed for", "--wait", "stored"]);
    assert_eq!((&stored["copies"], &stored["delivered"]), (&1.into(), &false.into()));
    // One machine is one holder, whatever runs on it.
    alice.run(&["send", &bob_id, "--text", "x", "--wait", "stored", "--copies", "2", "--timeout", "1s"]).fails(5, &["1 other peer"]);
    assert_eq!(alice.ok(&["send", &bob_id, "--text", "queued"])["delivered"], false);
    first.stop();
    let third = bob.up_beside("bob", &stranger);
    until("the mail has come", || bob.ok(&["inbox"])["mail"].as_array().unwrap().iter().any(|mail| mail["body"] == "hello"));
    second.stop();
    third.stop();
}

#[test]
fn a_file_arrives_is_acknowledged_and_saved_under_a_safe_name() {
    let (alice, bob) = (Home::new(), Home::new());
    let first = alice.up_alone("alice");
    let second = bob.up_beside("bob", &alice);
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(alice.file(".photo.jpg"), &content).unwrap();
    let bob_id = bob.ok(&["id"])["id"].as_str().unwrap().to_owned();
    let sent = alice.ok(&["send", &bob_id, ".photo.jpg", "--wait", "delivered"]);
    assert_eq!(sent["delivered"], true);
    let saved = bob.ok(&["inbox", "--save", "in"]);
    assert_eq!(saved["mail"][0]["name"], ".photo.jpg");
    assert_eq!(saved["mail"][0]["from"], alice.ok(&["id"])["id"]);
    assert_eq!(std::fs::read(bob.file("in/photo.jpg")).unwrap(), content);
    first.stop();
    second.stop();
}

#[test]
fn a_topic_with_a_passphrase_is_shared_by_those_who_know_it() {
    let (alice, bob) = (Home::new(), Home::new());
    let first = alice.up_alone("alice");
    let second = bob.up_beside("bob", &alice);
    let mut follower =
        bob.spawn(&["--json", "topic", "follow", "plans", "--last", "1", "--count", "1", "--passphrase"], b"under the oak\n");
    let mut other = bob.spawn(&["--json", "topic", "follow", "plans", "--last", "1", "--count", "1", "--passphrase"], b"under the elm\n");
    let published =
        alice.run_with(&["topic", "publish", "plans", "--passphrase", "--wait", "stored"], "under the oak\nat noon, bräutigam".as_bytes());
    assert_eq!(published.code, 0, "{}", published.stderr);
    let (code, printed) = follower.end();
    let printed: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!((code, &printed["messages"][0]["body"]), (0, &"at noon, bräutigam".into()));
    assert_eq!(printed["messages"][0]["author"], alice.ok(&["id"])["id"]);
    other.signal(rustix::process::Signal::TERM);
    let (code, printed) = other.end();
    assert_eq!((code, printed.trim()), (1, r#"{"messages":[]}"#));
    first.stop();
    second.stop();
}

#[test]
fn a_message_nobody_else_holds_is_code_3_after_the_timeout_and_is_kept() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    home.run(&["topic", "publish", "news", "alone", "--wait", "stored", "--timeout", "300ms"]).fails(3, &["kept here"]);
    let known = home.ok(&["topic", "follow", "news", "--last", "5", "--no-wait"]);
    assert_eq!(known["messages"][0]["body"], "alone");
    node.stop();
}
