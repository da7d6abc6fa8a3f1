//! `peers cache`: what is held, where a packet is, and packets on a stick.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{Home, until};

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_stick_carries_a_message_and_a_letter_between_networks_that_never_meet() {
    let (alice, carrier, courier, bob) = (Home::new(), Home::new(), Home::new(), Home::new());
    let bob_id = text(&bob.ok(&["id"])["id"]);
    // One network: who writes, and who has the stick.
    let writer = alice.up_alone("alice");
    let first = carrier.up_beside("carrier", &alice);
    let long: String = "all quiet here ".repeat(4000);
    let published = alice.run_with(&["topic", "publish", "news", "--passphrase", "--wait", "stored"], format!("rowan\n{long}").as_bytes());
    assert_eq!(published.code, 0, "{}", published.stderr);
    alice.ok(&["send", &bob_id, "--text", "see you in May", "--wait", "stored"]);
    let stick = carrier.file("stick");
    until("the carrier holds all of it", || carrier.ok(&["cache", "status"])["packets"].as_u64().unwrap() > 60);
    let written = carrier.ok(&["cache", "export", stick.to_str().unwrap()]);
    assert_eq!(written["bytes"], std::fs::metadata(&stick).unwrap().len());
    assert_eq!(std::fs::metadata(&stick).unwrap().permissions().mode() & 0o777, 0o600);
    writer.stop();
    first.stop();
    // The other: who reads the stick, and a reader who hears of it from there.
    let second = courier.up_alone("courier");
    let reader = bob.up_beside("bob", &courier);
    let mut follower = bob.spawn(&["--json", "topic", "follow", "news", "--last", "1", "--count", "1", "--passphrase"], b"rowan\n");
    let taken = courier.ok(&["cache", "import", stick.to_str().unwrap()]);
    assert_eq!((&taken["packets"], &taken["taken"]), (&written["packets"], &written["packets"]));
    let again = courier.ok(&["cache", "import", stick.to_str().unwrap()]);
    assert_eq!((&again["taken"], &again["held"]), (&0.into(), &written["packets"]));
    let (code, printed) = follower.end();
    let printed: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!((code, &printed["messages"][0]["body"]), (0, &long.into()));
    until("the letter has come", || bob.ok(&["inbox"])["mail"].as_array().unwrap().iter().any(|mail| mail["body"] == "see you in May"));
    second.stop();
    reader.stop();
}

#[test]
fn one_topic_alone_is_exported() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    home.ok(&["topic", "publish", "news", "one"]);
    home.ok(&["topic", "publish", "plans", "two"]);
    let export = |arguments: &[&str]| home.ok(&[&["cache", "export", home.file("out").to_str().unwrap()], arguments].concat());
    assert_eq!(export(&["--topic", "news"])["packets"], 1);
    assert!(export(&[])["packets"].as_u64().unwrap() >= 2);
    home.run(&["cache", "export", "/absent/out"]).fails(1, &["/absent/out"]);
    node.stop();
}

#[test]
fn a_damaged_file_of_packets_is_named_and_harms_nothing() {
    let (home, other) = (Home::new(), Home::new());
    let node = home.up_alone("laptop");
    (0..3).for_each(|number| drop(home.ok(&["topic", "publish", "news", &format!("message {number}")])));
    let stick = home.file("stick");
    home.ok(&["cache", "export", stick.to_str().unwrap()]);
    node.stop();
    let node = other.up_alone("other");
    let whole = std::fs::read(&stick).unwrap();
    std::fs::write(&stick, &whole[..whole.len() - 10]).unwrap();
    other.run(&["cache", "import", stick.to_str().unwrap()]).fails(1, &["damaged at byte", "2 packets"]);
    // Signatures are looked at.
    let mut forged = whole.clone();
    let last = forged.len() - 3;
    forged[last] ^= 1;
    std::fs::write(&stick, &forged).unwrap();
    let taken = other.ok(&["cache", "import", stick.to_str().unwrap()]);
    assert_eq!((&taken["held"], &taken["forged"], &taken["taken"]), (&2.into(), &1.into(), &0.into()));
    for garbage in [&b""[..], b"PEERSPKT", b"not a stick at all", &[0xff; 5000]] {
        std::fs::write(&stick, garbage).unwrap();
        other.run(&["cache", "import", stick.to_str().unwrap()]).fails(1, &["no file of packets", "peers cache export"]);
    }
    other.run(&["cache", "import", "/absent/stick"]).fails(1, &["/absent/stick"]);
    // A pipe that nobody writes to holds up nobody.
    assert_eq!(other.shell("mkfifo pipe").code, 0);
    let pipe = other.file("pipe");
    for command in ["import", "export"] {
        other.run(&["cache", command, pipe.to_str().unwrap()]).fails(1, &["pipe", "no ordinary file"]);
    }
    assert_eq!(other.ok(&["cache", "status"])["packets"], 2);
    node.stop();
}

#[test]
fn a_trace_tells_who_holds_a_packet_and_who_signed_for_it() {
    let (alice, bob, carol) = (Home::new(), Home::new(), Home::new());
    let first = alice.up_alone("alice");
    let second = bob.up_beside("bob", &alice);
    let id = text(&alice.ok(&["topic", "publish", "news", "hello", "--wait", "stored"])["id"]);
    let trace = alice.ok(&["cache", "trace", &id]);
    let bob_id = &bob.ok(&["id"])["id"];
    assert_eq!((&trace["hops"], &trace["held"]["fragments"]), (&0.into(), &0.into()), "{trace}");
    assert_eq!((&trace["holders"][0]["id"], &trace["holders"][0]["proven"]), (bob_id, &true.into()), "{trace}");
    assert_eq!(trace["receipts"][0]["id"], *bob_id);
    // Two hops away it is found, and brought.
    first.stop();
    let third = carol.up_beside("carol", &bob);
    let trace = carol.ok(&["cache", "trace", &id]);
    assert!(trace["held"].is_object(), "{trace}");
    let letter = text(&carol.ok(&["send", &text(&alice.ok(&["id"])["id"]), "--text", "hi", "--wait", "stored"])["id"]);
    assert_eq!(carol.ok(&["cache", "trace", &letter])["receipts"][0]["id"], *bob_id);
    let nothing = carol.run(&["cache", "trace", &"a".repeat(id.len()), "--timeout", "1s"]);
    assert_eq!((nothing.code, &nothing.json["held"]), (3, &serde_json::Value::Null), "{}{}", nothing.stdout, nothing.stderr);
    carol.run(&["cache", "trace", "nonsense"]).fails(2, &["nonsense"]);
    second.stop();
    third.stop();
}
