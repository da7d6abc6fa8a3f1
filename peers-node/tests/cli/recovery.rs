//! Coming back after all devices are lost, through the command.

use serde_json::Value;

use crate::groups::join;
use crate::harness::{Home, until};

/// Makes a recovery phrase and gives its words.
fn phrase(home: &Home) -> String {
    let words = home.ok(&["recovery", "phrase"])["words"].as_str().unwrap().to_owned();
    assert_eq!(words.split(' ').count(), 24);
    words
}

fn id(home: &Home) -> String {
    home.ok(&["id"])["id"].as_str().unwrap().to_owned()
}

/// The user's id, and the names of the devices.
fn user(home: &Home) -> (Value, Vec<String>) {
    let you = home.ok(&["id", "list"]);
    let names = you["members"].as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap().to_owned()).collect();
    (you["id"].clone(), names)
}

#[test]
fn words_bring_a_user_back_on_a_new_device_beside_an_old_one_and_revoke_that() {
    let (laptop, tablet) = (Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let words = phrase(&laptop);
    let you = user(&laptop).0;
    let second = tablet.up_beside("tablet", &laptop);
    // On several lines, as on paper.
    let typed = words.split(' ').collect::<Vec<_>>().chunks(4).map(|line| line.join(" ") + "\n").collect::<String>();
    let restored = tablet.run_with(&["recovery", "restore"], typed.as_bytes());
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(user(&tablet), (you.clone(), vec!["laptop".to_owned(), "tablet".to_owned()]));
    until("the laptop knows the tablet", || user(&laptop) == user(&tablet));
    tablet.ok(&["id", "revoke", "laptop", "--yes"]);
    assert_eq!(user(&tablet), (you, vec!["tablet".to_owned()]));
    assert_eq!(tablet.ok(&["recovery", "list"])["recovery"].as_array().unwrap().len(), 1, "the words still hold");
    first.stop();
    second.stop();
}

#[test]
fn words_bring_a_user_back_from_the_cache_of_a_stranger_when_every_device_is_gone() {
    let (laptop, stranger, tablet) = (Home::new(), Home::new(), Home::new());
    let first = laptop.up_alone("laptop");
    let other = stranger.up_beside("stranger", &laptop);
    let held = || stranger.ok(&["status"])["cache"]["packets"].as_u64().unwrap();
    let before = held();
    let words = phrase(&laptop);
    let you = user(&laptop).0;
    until("the stranger holds it", || held() > before && held() >= laptop.ok(&["status"])["cache"]["packets"].as_u64().unwrap());
    first.stop();
    let second = tablet.up_beside("tablet", &stranger);
    let restored = tablet.run_with(&["recovery", "restore"], words.as_bytes());
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(user(&tablet), (you, vec!["laptop".to_owned(), "tablet".to_owned()]));
    tablet.ok(&["id", "revoke", "laptop", "--yes"]);
    other.stop();
    second.stop();
}

#[test]
fn two_of_three_guardians_bring_a_user_back_and_one_does_not() {
    let (laptop, tablet) = (Home::new(), Home::new());
    let friends = [Home::new(), Home::new(), Home::new()];
    let first = laptop.up_alone("laptop");
    let nodes: Vec<_> = friends.iter().zip(["ann", "ben", "cyd"]).map(|(friend, name)| friend.up_beside(name, &laptop)).collect();
    let you = user(&laptop).0;
    let ids: Vec<_> = friends.iter().map(id).collect();
    laptop.run(&["recovery", "guardians", "set", "--need", "4", &ids[0], &ids[1], &ids[2]]).fails(2, &["4 of 3"]);
    laptop.run(&["recovery", "guardians", "set", "--need", "1", &ids[0]]).fails(2, &["1 contact", "choose 2"]);
    let set = laptop.ok(&["recovery", "guardians", "set", "--need", "2", &ids[0], &ids[1], &ids[2]]);
    assert_eq!((&set["guardians"]["need"], set["guardians"]["keys"].as_array().unwrap().len()), (&2.into(), 3));
    for friend in &friends {
        until("a friend is a guardian", || {
            friend.ok(&["recovery", "list"])["wards"].as_array().unwrap().iter().any(|ward| ward["user"] == you)
        });
    }
    first.stop();

    let status = friends[1].ok(&["status"]);
    let peer = format!("{}@{}", ids[1], status["listen"][0].as_str().unwrap());
    let status = friends[0].ok(&["status"]);
    let other = format!("{}@{}", ids[0], status["listen"][0].as_str().unwrap());
    let second = tablet.up("tablet", &["--no-lan", "--peer", &peer, "--peer", &other]);
    until("the tablet is connected", || tablet.knows(&ids[0].clone().into()) && tablet.knows(&ids[1].clone().into()));
    let mut asking = tablet.spawn(&["recovery", "ask", "--user", you.as_str().unwrap()], b"");
    asking.line_with("Waiting");
    let device = id(&tablet);
    friends[0].run(&["recovery", "endorse", &device, "--for", "nobody", "--yes"]).fails(1, &["nobody", "peers recovery list"]);
    friends[0].run(&["recovery", "endorse", &device, "--for", you.as_str().unwrap()]).fails(2, &["--yes"]);
    friends[0].ok(&["recovery", "endorse", &device, "--for", you.as_str().unwrap(), "--yes"]);
    assert!(asking.line_with("1 of 2").contains(you.as_str().unwrap()));
    assert_ne!(user(&tablet).0, you, "one is not enough");
    friends[1].ok(&["recovery", "endorse", &device, "--for", you.as_str().unwrap(), "--yes"]);
    let (code, rest) = asking.end();
    assert_eq!(code, 0, "{rest}");
    assert_eq!(user(&tablet), (you, vec!["laptop".to_owned(), "tablet".to_owned()]));
    tablet.ok(&["id", "revoke", "laptop", "--yes"]);
    second.stop();
    nodes.into_iter().for_each(crate::harness::Running::stop);
}

#[test]
fn a_phrase_is_replaced_by_its_own_word_alone_and_removed_by_one_that_holds() {
    let home = Home::new();
    home.run(&["recovery", "phrase"]).fails(3, &["peers up"]);
    let node = home.up_alone("laptop");
    home.run(&["recovery", "phrase", "--replace"]).fails(1, &["no recovery phrase"]);
    let first = phrase(&home);
    home.run(&["recovery", "phrase"]).fails(4, &["--replace"]);
    let other = Home::new();
    let elsewhere = other.up_alone("elsewhere");
    let foreign = phrase(&other);
    home.run_with(&["recovery", "phrase", "--replace"], foreign.as_bytes()).fails(4, &["not one of yours"]);
    let replaced = home.run_with(&["recovery", "phrase", "--replace"], first.as_bytes());
    assert_eq!(replaced.code, 0, "{}", replaced.stderr);
    let keys = home.ok(&["recovery", "list"])["recovery"].clone();
    assert_eq!((keys.as_array().unwrap().len(), &keys[0]["key"]), (1, &replaced.json["key"]));
    let key = replaced.json["key"].as_str().unwrap();
    home.run_with(&["recovery", "remove", key], first.as_bytes()).fails(4, &["not one of yours"]);
    home.run_with(&["recovery", "guardians", "set", "--need", "1", &id(&other), key], first.as_bytes()).fails(4, &["not one of yours"]);
    let words = replaced.json["words"].as_str().unwrap();
    assert_eq!(home.run_with(&["recovery", "remove", key], words.as_bytes()).code, 0);
    assert!(home.ok(&["recovery", "list"])["recovery"].as_array().unwrap().is_empty());
    node.stop();
    elsewhere.stop();
}

#[test]
fn words_that_are_wrong_missing_or_nobodys_are_told_apart() {
    let (home, phone) = (Home::new(), Home::new());
    let node = home.up_alone("laptop");
    let words = phrase(&home);
    let restore = |input: &str| phone.run_with(&["recovery", "restore"], input.as_bytes());
    restore(&words).fails(3, &["peers up"]);
    let second = phone.up_beside("phone", &home);
    restore("").fails(2, &["standard input is empty"]);
    restore(&words.replacen(words.split(' ').next().unwrap(), "", 1)).fails(2, &["this has 23"]);
    restore(&words.replacen(words.split(' ').next().unwrap(), "qqqq", 1)).fails(2, &["word 1"]);
    let words_of: Vec<_> = words.split(' ').collect();
    let turned = (1..24).map(|by| [&words_of[by..], &words_of[..by]].concat().join(" "));
    let turned = turned.into_iter().find(|words| words.parse::<peers_crypto::RecoveryPhrase>().is_err()).unwrap();
    restore(&turned).fails(2, &["right order"]);
    join(&home, &["invite"], &phone);
    restore(&words).fails(4, &["PEERS_HOME"]);
    home.run(&["recovery", "remove", "nonsense"]).fails(2, &["nonsense"]);
    home.run(&["recovery", "endorse", "nonsense", "--for", "bob"]).fails(2, &["nonsense"]);
    home.run(&["recovery", "guardians", "set", "--need", "1", "nobody"]).fails(2, &["standard input is empty"]);
    home.run_with(&["recovery", "guardians", "set", "--need", "1", "nobody"], words.as_bytes()).fails(1, &["nobody", "peers id"]);
    node.stop();
    second.stop();
}
