//! Linking devices, and finding each other.

use std::collections::BTreeSet;

use crate::harness::{Home, until};

#[test]
fn two_peers_on_one_machine_find_each_other_by_themselves() {
    let (a, b) = (Home::new(), Home::new());
    let (one, other) = (a.up("one", &[]), b.up("other", &[]));
    let (id, other_id) = (a.ok(&["id"])["id"].clone(), b.ok(&["id"])["id"].clone());
    until("they have a session", || a.knows(&other_id) && b.knows(&id));
    let status = a.ok(&["status"]);
    for address in status["listen"].as_array().unwrap() {
        assert!(address.as_str().unwrap().starts_with("127.0.0.1:"), "{address}");
    }
    one.stop();
    other.stop();
}

#[test]
fn a_device_is_linked_by_the_code_and_both_are_one_user() {
    let (laptop, phone) = (Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let second = phone.up_beside("phone", &laptop);
    let mut invite = laptop.spawn(&["invite"], b"");
    let code = code(&mut invite);
    let accepted = phone.run_with(&["accept"], format!("{code}\n").as_bytes());
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    assert_eq!(accepted.json["name"], "laptop");
    let (exit, rest) = invite.end();
    assert_eq!(exit, 0);
    assert!(rest.contains("Linked with phone") && rest.contains(accepted.json["words"].as_str().unwrap()), "{rest}");
    let devices = |home: &Home| {
        let status = home.ok(&["status"]);
        let names: BTreeSet<_> =
            status["user"]["devices"].as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect();
        (status["user"]["id"].clone(), names)
    };
    assert_eq!(devices(&laptop), devices(&phone));
    assert_eq!(devices(&phone).1, BTreeSet::from(["laptop".to_owned(), "phone".to_owned()]));
    first.stop();
    second.stop();
}

#[test]
fn a_wrong_code_is_refused_on_both_sides_and_links_nobody() {
    let (laptop, phone) = (Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let second = phone.up_beside("phone", &laptop);
    let mut invite = laptop.spawn(&["invite"], b"");
    let code = code(&mut invite);
    // The first word finds the other device; a wrong one of the others is a wrong guess.
    let mut words: Vec<_> = code.split(' ').collect();
    words[3] = if words[3] == "zoo" { "zone" } else { "zoo" };
    phone.run_with(&["accept"], words.join(" ").as_bytes()).fails(4, &["code"]);
    assert_eq!(invite.end().0, 4, "one guess only");
    for home in [&laptop, &phone] {
        assert_eq!(home.ok(&["status"])["user"]["devices"].as_array().unwrap().len(), 1);
    }
    first.stop();
    second.stop();
}

#[test]
fn a_typing_error_in_the_code_names_the_word_and_uses_up_no_guess() {
    let home = Home::new();
    let node = home.up_alone("phone");
    home.run_with(&["accept"], b"abandon zoo abandun zoo\n").fails(2, &["word 3", "abandon"]);
    home.run_with(&["accept"], b"abandon zoo\n").fails(2, &["4 words", "peers invite"]);
    home.run_with(&["accept"], b"").fails(2, &["standard input is empty"]);
    node.stop();
}

#[test]
fn an_invitation_that_is_interrupted_makes_room_for_another() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    for _ in 0..3 {
        let mut invite = home.spawn(&["invite"], b"");
        code(&mut invite);
        invite.signal(rustix::process::Signal::INT);
        invite.end();
    }
    node.stop();
}

/// The code that `peers invite` prints: the one line of four words.
pub(crate) fn code(invite: &mut crate::harness::Running) -> String {
    invite.line_with("peers accept");
    loop {
        let line = invite.line_with(" ");
        if line.split(' ').count() == 4 {
            return line;
        }
    }
}
