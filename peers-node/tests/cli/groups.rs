//! Groups, and the devices of a user, through the command.

use serde_json::Value;

use crate::devices::code;
use crate::harness::{Home, Running, until};

/// Lets `joiner` into what `invite` invites to.
pub(crate) fn join(inviter: &Home, invite: &[&str], joiner: &Home) {
    let mut inviting = inviter.spawn(invite, b"");
    let code = code(&mut inviting);
    let accepted = joiner.run_with(&["accept"], format!("{code}\n").as_bytes());
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    assert_eq!(inviting.end().0, 0);
}

/// Two users, connected.
fn two() -> (Home, Home, [Running; 2]) {
    let (alice, bob) = (Home::new(), Home::new());
    let first = alice.up_alone("alice");
    let second = bob.up_beside("bob", &alice);
    (alice, bob, [first, second])
}

fn bodies(home: &Home, follow: &[&str]) -> Vec<String> {
    let messages = home.ok(&[follow, &["--last", "50", "--no-wait"]].concat());
    messages["messages"].as_array().unwrap().iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect()
}

fn has(home: &Home, follow: &[&str], body: &str) -> bool {
    bodies(home, follow).contains(&body.to_owned())
}

fn role(home: &Home, group: &str, member: &str) -> Option<String> {
    let members = home.ok(&["group", "members", group])["members"].as_array().unwrap().clone();
    members.iter().find(|known| known["name"] == member).map(|known| known["role"].as_str().unwrap().to_owned())
}

fn names(members: &Value) -> Vec<&str> {
    members.as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap()).collect()
}

#[test]
fn users_talk_in_a_group_and_a_reader_publishes_nothing_until_made_a_writer() {
    let (alice, bob, nodes) = two();
    let made = alice.ok(&["group", "create", "choir"]);
    assert_eq!(
        (made["name"].as_str(), made["kind"].as_str(), &made["members"][0]["role"]),
        (Some("choir"), Some("group"), &"owner".into())
    );
    join(&alice, &["group", "invite", "choir", "--role", "reader"], &bob);
    until("bob is in the group", || role(&bob, "choir", "bob").as_deref() == Some("reader"));
    assert_eq!(bob.ok(&["group", "list"])["groups"][0]["id"], made["id"]);
    assert_ne!(bob.ok(&["id", "list"])["id"], alice.ok(&["id", "list"])["id"], "they stay two users");

    let mut following = bob.spawn(&["--json", "group", "follow", "choir", "--last", "9", "--count", "1"], b"");
    alice.ok(&["group", "publish", "choir", "tenors at eight"]);
    let (code, printed) = following.end();
    let printed: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(
        (code, &printed["messages"][0]["body"], &printed["messages"][0]["author_name"]),
        (0, &"tenors at eight".into(), &"alice".into())
    );

    bob.run(&["group", "publish", "choir", "not me"]).fails(4, &["not allowed"]);
    bob.run(&["group", "role", "choir", "alice", "reader"]).fails(4, &["only an owner"]);
    bob.run(&["group", "remove", "choir", "alice"]).fails(4, &["only an owner"]);
    bob.run(&["group", "invite", "choir"]).fails(4, &["only an owner"]);
    alice.run(&["group", "role", "choir", "alice", "reader"]).fails(4, &["no owner", "peers group role"]);
    alice.ok(&["group", "role", "choir", "bob", "writer"]);
    until("bob may write", || role(&bob, "choir", "bob").as_deref() == Some("writer"));
    until("bob writes", || bob.run(&["group", "publish", "choir", "basses too"]).code == 0);
    until("alice reads it", || has(&alice, &["group", "follow", "choir"], "basses too"));
    assert!(!has(&alice, &["group", "follow", "choir"], "not me"));

    alice.ok(&["group", "rename", "choir", "band"]);
    until("bob sees the name", || bob.run(&["group", "members", "band"]).code == 0);
    bob.ok(&["group", "leave", "band"]);
    until("bob is out", || role(&alice, "band", "bob").is_none());
    assert!(bob.ok(&["group", "list"])["groups"].as_array().unwrap().is_empty());
    nodes.into_iter().for_each(Running::stop);
}

#[test]
fn a_removed_member_reads_nothing_that_is_written_after() {
    let (alice, bob, nodes) = two();
    let carol = Home::new();
    let third = carol.up_beside("carol", &alice);
    alice.ok(&["group", "create", "choir"]);
    for member in [&bob, &carol] {
        join(&alice, &["group", "invite", "choir", "--role", "writer"], member);
    }
    alice.ok(&["group", "publish", "choir", "before"]);
    let follow = ["group", "follow", "choir"];
    until("all have it", || has(&bob, &follow, "before") && has(&carol, &follow, "before"));

    let removed = alice.ok(&["group", "remove", "choir", "bob"]);
    assert_eq!((names(&removed["removed"]), names(&removed["remaining"])), (vec!["bob"], vec![]));
    alice.ok(&["group", "publish", "choir", "after"]);
    until("carol reads it", || has(&carol, &follow, "after"));
    until("bob knows", || bob.run(&["group", "publish", "choir", "still here"]).code == 4);
    // A topic that both follow is as fast: what bob could read, he has by then.
    alice.ok(&["group", "create", "duo"]);
    join(&alice, &["group", "invite", "duo"], &bob);
    alice.ok(&["group", "publish", "duo", "later"]);
    until("bob hears alice", || has(&bob, &["group", "follow", "duo"], "later"));
    assert_eq!(bodies(&bob, &follow), ["before"]);
    assert!(!has(&carol, &follow, "still here"));

    let audit = alice.ok(&["group", "audit", "choir"]);
    assert_eq!((names(&audit["members"]), names(&audit["removed"])), (vec!["alice", "carol"], vec!["bob"]));
    let (epochs, held) = (audit["epochs"].as_u64().unwrap(), audit["removed"][0]["epochs"].as_u64().unwrap());
    assert!(held < epochs, "{held} of {epochs}");
    assert!(audit["members"].as_array().unwrap().iter().all(|member| member["epochs"] == audit["epochs"]));
    nodes.into_iter().for_each(Running::stop);
    third.stop();
}

#[test]
fn who_was_let_in_by_a_device_that_is_revoked_is_named() {
    let (laptop, phone, watch) = (Home::new(), Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let second = phone.up_beside("phone", &laptop);
    let third = watch.up_beside("watch", &laptop);
    join(&laptop, &["invite"], &phone);
    join(&phone, &["invite"], &watch);
    until("the laptop knows the watch", || names(&laptop.ok(&["id", "list"])["members"]).contains(&"watch"));
    let revoked = laptop.ok(&["id", "revoke", "phone", "--yes"]);
    assert_eq!((names(&revoked["removed"]), names(&revoked["admitted"])), (vec!["phone"], vec!["watch"]));
    assert_eq!(names(&laptop.ok(&["id", "revoke", "watch", "--yes"])["admitted"]), Vec::<&str>::new());
    assert_eq!(names(&laptop.ok(&["id", "list"])["members"]), ["laptop"]);
    first.stop();
    second.stop();
    third.stop();
}

#[test]
fn a_revoked_device_is_out_of_the_user_and_of_its_groups() {
    let (laptop, phone) = (Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let second = phone.up_beside("phone", &laptop);
    laptop.ok(&["group", "create", "choir"]);
    join(&laptop, &["invite"], &phone);
    until("the phone is in the group too", || role(&phone, "choir", "phone").is_some());
    let follow = ["topic", "follow", "diary"];
    assert!(bodies(&phone, &follow).is_empty());
    laptop.ok(&["topic", "publish", "diary", "before"]);
    until("the phone reads the diary", || has(&phone, &follow, "before"));

    laptop.run(&["id", "revoke", "phone"]).fails(2, &["--yes"]);
    laptop.run(&["id", "revoke", "tablet", "--yes"]).fails(1, &["tablet", "peers id list"]);
    laptop.run(&["id", "revoke", "laptop", "--yes"]).fails(4, &["the device that you are on"]);
    assert_eq!(names(&laptop.ok(&["id", "list"])["members"]), ["laptop", "phone"], "nothing was changed");
    laptop.ok(&["id", "revoke", "phone", "--yes"]);
    assert_eq!(names(&laptop.ok(&["id", "list"])["members"]), ["laptop"]);
    assert!(role(&laptop, "choir", "phone").is_none());
    laptop.ok(&["topic", "publish", "diary", "after"]);
    until("the phone knows", || phone.run(&["topic", "publish", "diary", "from a thief"]).code == 4);
    assert_eq!(bodies(&phone, &follow), ["before"]);
    assert!(!has(&laptop, &follow, "from a thief"));

    let audit = laptop.ok(&["id", "audit"]);
    assert_eq!((names(&audit["members"]), names(&audit["removed"])), (vec!["laptop"], vec!["phone"]));
    assert!(audit["removed"][0]["epochs"].as_u64() < audit["epochs"].as_u64());
    let (code, shown) = laptop.spawn(&["id", "audit"], b"").end();
    assert_eq!(code, 0);
    for part in ["Who can read what", "laptop (this one)", "Removed", "phone", "peers recovery phrase", "stolen"] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    laptop.ok(&["id", "rename", "Alice"]);
    assert_eq!(laptop.ok(&["id", "audit"])["name"], "Alice");
    first.stop();
    second.stop();
}

#[test]
fn groups_and_members_that_are_not_there_are_named_and_names_must_be_ones() {
    let home = Home::new();
    home.run(&["group", "list"]).fails(3, &["peers up"]);
    let node = home.up_alone("laptop");
    home.ok(&["group", "create", "choir"]);
    for arguments in [
        &["group", "members", "band"][..],
        &["group", "publish", "band", "x"],
        &["group", "follow", "band", "--no-wait"],
        &["group", "audit", "band"],
        &["group", "leave", "band"],
    ] {
        home.run(arguments).fails(1, &["band", "peers group list"]);
    }
    home.run(&["group", "create", "choir"]).fails(1, &["choir", "another name"]);
    home.run(&["group", "create", ""]).fails(2, &["name"]);
    home.run(&["group", "create", &"x".repeat(65)]).fails(2, &["64 bytes"]);
    home.run(&["group", "remove", "choir", "bob"]).fails(1, &["bob", "peers group members"]);
    home.run(&["group", "remove", "choir", "laptop"]).fails(4, &["this device", "peers group leave"]);
    home.run(&["group", "role", "choir", "laptop", "king"]).fails(2, &["king"]);
    home.run(&["id", "rename", "a\u{1b}b"]).fails(2, &["control characters"]);
    node.stop();
}

#[test]
fn a_group_and_what_was_said_in_it_survive_a_restart() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let made = home.ok(&["group", "create", "choir"]);
    home.ok(&["group", "publish", "choir", "tenors at eight"]);
    home.ok(&["topic", "publish", "diary", "monday"]);
    node.stop();
    let node = home.up_alone("laptop");
    assert_eq!(home.ok(&["group", "list"])["groups"][0]["id"], made["id"]);
    assert_eq!(bodies(&home, &["group", "follow", "choir"]), ["tenors at eight"]);
    assert_eq!(bodies(&home, &["topic", "follow", "diary"]), ["monday"]);
    home.ok(&["group", "publish", "choir", "basses too"]);
    node.stop();
}

#[test]
fn a_key_in_two_places_is_shown_in_the_audit_with_what_to_do() {
    let (laptop, phone) = (Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let second = phone.up_beside("phone", &laptop);
    join(&laptop, &["invite"], &phone);
    assert!(phone.ok(&["id", "audit"])["forks"].as_array().unwrap().is_empty());
    let key = laptop.ok(&["id"])["id"].clone();
    // Known peers are met again wherever a node comes up: this one is away.
    second.stop();
    first.stop();
    // A thief's copy, or a backup: both go on without knowing of each other.
    let copy = Home::new();
    std::fs::create_dir(copy.path()).unwrap();
    for name in ["key", "state.sqlite"] {
        std::fs::copy(laptop.path().join(name), copy.path().join(name)).unwrap();
    }
    for (home, name) in [(&laptop, "Alice"), (&copy, "Mallory")] {
        let alone = home.up_alone("laptop");
        home.ok(&["id", "rename", name]);
        alone.stop();
    }
    let second = phone.up_alone("phone");
    let first = laptop.up_beside("laptop", &phone);
    until("the phone has the one", || phone.ok(&["id", "list"])["name"] == "Alice");
    first.stop();
    let first = copy.up_beside("laptop", &phone);
    until("the phone sees both", || !phone.ok(&["id", "audit"])["forks"].as_array().unwrap().is_empty());
    let audit = phone.ok(&["id", "audit"]);
    assert_eq!((&audit["forks"][0]["key"], &audit["forks"][0]["name"]), (&key, &"laptop".into()));
    let (_, shown) = phone.spawn(&["id", "audit"], b"").end();
    for part in ["WARNING", "the key of laptop was used in two places", &format!("peers id revoke {}", key.as_str().unwrap())] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    first.stop();
    second.stop();
}
