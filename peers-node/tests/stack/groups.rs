//! Users and groups, removal, recovery: whole stacks of several people.

use peers_crypto::{GroupError, GroupId, GuardianPackage, RecoveryPhrase, Role};
use peers_node::{Event, GroupPublishError, LinkOptions, RestoreFailure};
use peers_wire::TopicId;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::net::Net;

/// `from` invites `to` to a group, or to its user.
fn link(net: &mut Net, from: usize, to: usize, group: Option<(GroupId, Role)>) {
    let code = net.with(from, |stack, now, wall| stack.invite(now, wall, group, LinkOptions::default())).unwrap();
    net.with(to, |stack, now, wall| stack.accept(now, wall, &code, "device", LinkOptions::default())).unwrap();
    net.run_secs(3);
    assert!(net.events(to).any(|event| matches!(event, Event::Linked { .. })), "{:?}", net.events(to).collect::<Vec<_>>());
}

/// Alice (0) has a group with Bob (1), a writer, and Carol (2), a reader; 3 is a stranger who carries packets.
fn choir() -> (Net, GroupId) {
    let mut net = Net::new(31, 4);
    net.connect_all();
    let group = net.with(0, |stack, now, wall| stack.create_group(now, wall, "Choir")).unwrap();
    link(&mut net, 0, 1, Some((group, Role::Writer)));
    link(&mut net, 0, 2, Some((group, Role::Reader)));
    net.run_secs(2);
    (net, group)
}

fn say(net: &mut Net, node: usize, group: GroupId, body: &str) -> Result<(), GroupPublishError> {
    let said = net.with(node, |stack, now, wall| stack.publish_to_group(now, wall, group, body.as_bytes())).map(drop);
    net.run_secs(3);
    said
}

fn heard(net: &Net, node: usize, group: GroupId, body: &str) -> bool {
    net.messages(node).any(|message| message.topic == TopicId(group.0) && message.payload == body.as_bytes())
}

fn revoke(net: &mut Net, by: usize, group: GroupId, whom: usize) {
    let device = net.id(whom);
    net.with(by, |stack, now, wall| stack.remove_member(now, wall, group, device)).unwrap();
    net.run_secs(3);
}

fn user(net: &mut Net, node: usize) -> GroupId {
    net.with(node, |stack, _, _| stack.account().id())
}

#[test]
fn writers_write_readers_read_and_strangers_do_neither() {
    let (mut net, group) = choir();
    say(&mut net, 1, group, "from Bob").unwrap();
    assert!(heard(&net, 0, group, "from Bob") && heard(&net, 2, group, "from Bob"));
    let refused = say(&mut net, 2, group, "from Carol");
    assert_eq!(refused, Err(GroupPublishError::Group(GroupError::NotAllowed(net.id(2)))));
    assert!(matches!(say(&mut net, 3, group, "x"), Err(GroupPublishError::Group(GroupError::NotAMember(_)))));
    assert!(!heard(&net, 3, group, "from Bob"));
}

#[test]
fn a_removed_member_hears_nothing_more_and_the_others_do() {
    let (mut net, group) = choir();
    revoke(&mut net, 0, group, 1);
    say(&mut net, 0, group, "without Bob").unwrap();
    assert!(heard(&net, 2, group, "without Bob") && !heard(&net, 1, group, "without Bob"));
    assert!(say(&mut net, 1, group, "Bob again").is_err());
    assert!(!heard(&net, 0, group, "Bob again"));
    let audit = net.with(0, |stack, _, _| stack.audit(group)).unwrap();
    assert_eq!((audit.members.len(), audit.removed.len(), audit.epochs, audit.rotation_due), (2, 1, 2, false));
    assert_eq!(audit.removed[0].epochs, 1, "what was written before it can still read");
    // It knows that it is out, and nothing that was stated since.
    link(&mut net, 0, 3, Some((group, Role::Reader)));
    let (bob, newer) = (net.id(1), net.id(3));
    let knows = net
        .with(1, |stack, _, _| stack.account().membership(group).map(|known| (known.group().contains(bob), known.group().contains(newer))));
    assert_eq!(knows, Some((false, false)));
}

#[test]
fn news_and_keys_reach_a_member_that_was_away_through_the_caches_alone() {
    let (mut net, group) = choir();
    net.pause(2);
    revoke(&mut net, 0, group, 1);
    say(&mut net, 0, group, "while Carol is away").unwrap();
    net.pause(0);
    net.run_secs(60);
    net.resume(2);
    net.run_secs(60);
    assert!(heard(&net, 2, group, "while Carol is away"), "the stranger's cache has what she needs");
}

#[test]
fn a_users_other_device_joins_the_users_groups_by_itself_and_leaves_with_its_removal() {
    let (mut net, group) = choir();
    link(&mut net, 1, 3, None);
    net.run_secs(5);
    assert_eq!(net.with(3, |stack, _, _| stack.account().membership(group).map(|m| m.group().members().count())), Some(4));
    say(&mut net, 3, group, "from Bob's phone").unwrap();
    assert!(heard(&net, 0, group, "from Bob's phone"));
}

#[test]
fn a_revoked_device_of_a_user_learns_nothing_more_of_the_users_own_topics() {
    let mut net = Net::new(32, 4);
    net.connect_all();
    link(&mut net, 0, 1, None);
    link(&mut net, 0, 2, None);
    for node in 0..3 {
        net.with(node, |stack, now, wall| stack.subscribe_label(now, wall, "diary"));
    }
    let alice = user(&mut net, 0);
    revoke(&mut net, 0, alice, 2);
    net.with(1, |stack, now, wall| stack.publish_to_label(now, wall, "diary", b"secret")).unwrap();
    net.run_secs(5);
    assert_eq!((net.messages(0).count(), net.messages(2).count()), (1, 0));
    assert!(net.with(0, |stack, _, _| stack.account().has_device(stack.id())));
    assert!(net.with(2, |stack, now, wall| stack.publish_to_label(now, wall, "diary", b"still here")).is_err(), "it knows that it is out");
}

#[test]
fn a_phrase_brings_back_the_user_on_a_new_machine_though_every_device_is_offline() {
    let mut net = Net::new(33, 4);
    net.connect_all();
    link(&mut net, 0, 1, None);
    let phrase = RecoveryPhrase::generate(&mut ChaCha20Rng::seed_from_u64(1));
    net.with(0, |stack, now, wall| stack.add_recovery(now, wall, &phrase, None)).unwrap();
    net.with(0, |stack, now, wall| stack.publish_to_label(now, wall, "diary", b"before")).unwrap();
    net.run_secs(10);
    let alice = user(&mut net, 0);
    net.pause(0);
    net.pause(1);
    net.run_secs(30);
    // A new machine, which reaches the stranger alone.
    net.with(3, |stack, now, wall| stack.restore(now, wall, &phrase, "new laptop")).unwrap();
    net.run_secs(30);
    assert!(net.events(3).any(|event| matches!(event, Event::Restored { user, .. } if *user == alice)));
    net.with(3, |stack, now, wall| stack.subscribe_label(now, wall, "diary"));
    net.run_secs(5);
    assert!(net.messages(3).any(|message| message.payload == "before"), "what was written can be read");
    // The lost ones are removed, and learn it when they are back.
    revoke(&mut net, 3, alice, 0);
    net.resume(0);
    net.resume(1);
    net.run_secs(60);
    for node in [1, 3] {
        let devices: Vec<_> = net.with(node, |stack, _, _| stack.account().user().members().map(|member| member.name.clone()).collect());
        assert_eq!(devices.len(), 2, "node {node}: {devices:?}");
    }
}

#[test]
fn a_wrong_phrase_finds_nothing_and_one_removed_neither() {
    let mut net = Net::new(34, 3);
    net.connect_all();
    let [phrase, newer, wrong] = [1, 2, 3].map(|seed| RecoveryPhrase::generate(&mut ChaCha20Rng::seed_from_u64(seed)));
    net.with(0, |stack, now, wall| stack.add_recovery(now, wall, &phrase, None)).unwrap();
    assert!(net.with(0, |stack, now, wall| stack.add_recovery(now, wall, &newer, None)).is_err(), "the older phrase is needed");
    net.with(0, |stack, now, wall| stack.add_recovery(now, wall, &newer, Some(&phrase))).unwrap();
    net.with(0, |stack, now, wall| stack.remove_recovery(now, wall, phrase.key().id(), &newer)).unwrap();
    net.with(1, |stack, now, wall| stack.restore(now, wall, &wrong, "new")).unwrap();
    net.run_secs(90);
    assert!(net.events(1).any(|event| matches!(event, Event::RestoreFailed(RestoreFailure::Nothing))));
    // The removed phrase finds what was published while it was good; its admission is concurrent to, or knows of, its removal.
    net.with(2, |stack, now, wall| stack.restore(now, wall, &phrase, "thief")).unwrap();
    net.run_secs(90);
    let devices = net.with(0, |stack, _, _| stack.account().user().members().count());
    assert_eq!(devices, 1);
}

#[test]
fn two_of_three_guardians_bring_back_a_user_and_one_does_not() {
    let mut net = Net::new(35, 5);
    net.connect_all();
    let guardians: Vec<_> = (1..4).map(|node| vec![net.id(node)]).collect();
    // They know each other: a guardian keeps nothing for strangers.
    let alice_device = net.id(0);
    for node in 1..4 {
        net.with(node, |stack, now, _| stack.add_contact(now, alice_device, true));
    }
    net.with(0, |stack, now, wall| stack.set_guardians(now, wall, 2, guardians, None)).unwrap();
    net.run_secs(5);
    let alice = user(&mut net, 0);
    net.pause(0);
    let new = net.id(4);
    let packages: Vec<_> = (1..4)
        .map(|node| {
            let package = net
                .events(node)
                .filter_map(|event| if let Event::GuardianPackage { package, .. } = event { Some(package) } else { None })
                .last();
            GuardianPackage::decode(package.expect("each has one")).unwrap()
        })
        .collect();
    net.with(4, |stack, _, _| stack.ask_guardians(alice, "new")).unwrap();
    net.with(1, |stack, now, wall| stack.endorse(now, wall, packages[0].clone(), new));
    net.run_secs(5);
    assert!(net.events(4).any(|event| matches!(event, Event::RecoveryProgress { have: 1, need: 2, .. })));
    assert!(!net.events(4).any(|event| matches!(event, Event::Restored { .. })));
    // Who endorses another device helps nobody.
    let other = net.id(3);
    net.with(2, |stack, now, wall| stack.endorse(now, wall, packages[1].clone(), other));
    net.run_secs(5);
    assert!(!net.events(4).any(|event| matches!(event, Event::Restored { .. })));
    net.with(3, |stack, now, wall| stack.endorse(now, wall, packages[2].clone(), new));
    net.run_secs(5);
    assert!(net.events(4).any(|event| matches!(event, Event::Restored { user, .. } if *user == alice)));
    revoke(&mut net, 4, alice, 0);
    net.resume(0);
    net.run_secs(30);
    assert!(net.with(0, |stack, _, _| !stack.account().has_device(alice_device)), "the lost device learns that it is out");
}

#[test]
fn two_devices_that_revoke_each_other_apart_agree_when_they_meet() {
    let mut net = Net::new(36, 2);
    net.connect_all();
    link(&mut net, 0, 1, None);
    let (alice, ids) = (user(&mut net, 0), [net.id(0), net.id(1)]);
    net.loss = 1.0;
    for (by, whom) in [(0, 1), (1, 0)] {
        net.with(by, |stack, now, wall| stack.remove_member(now, wall, alice, ids[whom])).unwrap();
    }
    net.run_secs(120);
    net.loss = 0.0;
    net.connect(0, 1);
    net.run_secs(60);
    for node in 0..2 {
        let devices: Vec<_> = net.with(node, |stack, _, _| stack.account().user().members().map(|member| member.id).collect());
        assert_eq!(devices, [ids[0]], "node {node}: the senior stays");
    }
}
