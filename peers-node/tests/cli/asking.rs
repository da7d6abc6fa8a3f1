//! `peers topic query`, `answer`, `who` and `announce`.

use rustix::process::Signal;

use crate::harness::{Home, until};

#[test]
fn a_question_is_answered_by_who_follows_the_topic_and_by_nobody_else() {
    let (alice, bob, carol) = (Home::new(), Home::new(), Home::new());
    let first = alice.up_alone("alice");
    let second = bob.up_beside("bob", &alice);
    let third = carol.up_beside("carol", &alice);
    // Carol has another passphrase, and so another topic.
    let mut other = carol.spawn(&["--json", "topic", "answer", "plans", "me", "--passphrase"], b"under the elm\n");
    let mut answering = bob.spawn(&["--json", "topic", "answer", "plans", "at noon", "--count", "1", "--passphrase"], b"under the oak\n");
    let ask =
        || alice.run_with(&["topic", "query", "plans", "when?", "--timeout", "2s", "--count", "1", "--passphrase"], b"under the oak\n");
    until("it is answered", || ask().json["answers"][0]["body"] == "at noon");
    let (code, printed) = answering.end();
    let printed: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!((code, &printed["questions"][0]["body"]), (0, &"when?".into()));
    assert_eq!(printed["questions"][0]["from"], alice.ok(&["id"])["id"]);
    let alone = ask();
    assert_eq!((alone.code, alone.json.to_string()), (3, r#"{"answers":[]}"#.into()), "{}", alone.stderr);
    assert!(alone.stderr.contains("nobody has answered"));
    let long = "x".repeat(2000);
    alice.run(&["topic", "query", "plans", &long]).fails(2, &["a question has at most"]);
    other.signal(Signal::TERM);
    assert_eq!(other.end().1.trim(), r#"{"questions":[]}"#);
    [first, second, third].into_iter().for_each(crate::harness::Running::stop);
}

#[test]
fn who_announces_is_there_until_it_ends() {
    let (alice, bob) = (Home::new(), Home::new());
    let first = alice.up_alone("alice");
    let second = bob.up_beside("bob", &alice);
    let who =
        || alice.run_with(&["topic", "who", "plans", "--timeout", "500ms", "--passphrase"], b"under the oak\n").json["present"].clone();
    assert_eq!(who(), serde_json::json!([]));
    let mut announcing = bob.spawn(&["topic", "announce", "plans", "--passphrase"], b"under the oak\n");
    announcing.line_with("until you interrupt");
    let bob_id = bob.ok(&["id"])["id"].clone();
    until("bob is there", || who()[0]["id"] == bob_id);
    assert_eq!(who()[0]["this"], false);
    // Whoever comes is seen by who is there.
    let mut coming = alice.spawn(&["topic", "announce", "plans", "--passphrase"], b"under the oak\n");
    announcing.line_with("is there");
    until("this device is there, too", || who().as_array().unwrap().iter().any(|present| present["this"] == true));
    coming.signal(Signal::TERM);
    announcing.line_with("has left");
    assert_eq!(coming.end().0, 0);
    announcing.signal(Signal::INT);
    assert_eq!(announcing.end().0, 0);
    until("bob has left", || who() == serde_json::json!([]));
    first.stop();
    second.stop();
}
