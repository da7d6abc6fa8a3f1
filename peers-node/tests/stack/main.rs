//! Whole stacks on virtual time, in memory: what the layers do together.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

mod asking;
mod early;
mod fate;
mod groups;
mod large;
mod linking;
mod net;
mod order;

use bytes::Bytes;
use net::Net;
use peers_crypto::TopicKey;
use peers_node::{Config, DatabaseInput, Event, Letter, LinkOptions, transport};
use peers_wire::Timestamp;

fn letter(id: u8, body: &'static [u8]) -> Letter {
    Letter { id: [id; 16], created: Timestamp(1), name: None, body: Bytes::from_static(body) }
}

#[test]
fn a_message_reaches_a_subscriber_and_a_long_one_too() {
    let mut net = Net::new(1, 3);
    net.connect_all();
    let topic = TopicKey::from_seed([9; 32]);
    for node in 0..3 {
        net.with(node, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    }
    net.run_secs(1);
    let long: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
    net.with(0, |stack, now, wall| {
        stack.publish(now, wall, &topic, b"short").unwrap();
        stack.publish(now, wall, &topic, &long).unwrap();
    });
    net.run_secs(10);
    for node in 1..3 {
        let payloads: Vec<Bytes> = net.messages(node).map(|message| message.payload.clone()).collect();
        assert_eq!(payloads.len(), 2, "node {node}");
        assert_eq!(payloads[0], "short");
        assert!(payloads[1] == long, "node {node} has other bytes");
        assert!(net.messages(node).all(|message| message.author == net.id(0)));
    }
    assert_eq!(net.messages(0).count(), 0, "a publisher is not told its own messages");
}

#[test]
fn fragments_that_are_lost_are_asked_for() {
    let mut net = Net::new(2, 2);
    net.connect_all();
    net.loss = 0.2;
    let topic = TopicKey::from_seed([9; 32]);
    net.with(1, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    net.run_secs(2);
    let long = vec![7; 300_000];
    net.with(0, |stack, now, wall| stack.publish(now, wall, &topic, &long).unwrap());
    net.run_secs(60);
    assert_eq!(net.messages(1).count(), 1);
    assert!(net.messages(1).all(|message| message.payload == long));
}

#[test]
fn a_letter_is_delivered_and_acknowledged_while_both_are_connected() {
    let mut net = Net::new(3, 2);
    net.connect_all();
    let (to, sent) = (net.id(1), letter(5, b"hello"));
    net.with(0, |stack, now, wall| stack.send(now, wall, to, sent.clone()));
    net.run_secs(1);
    assert!(net.events(1).any(|event| matches!(event, Event::Mail { from, letter } if *from == net.id(0) && *letter == sent)));
    assert!(!net.events(0).any(|event| matches!(event, Event::MailDelivered { .. })), "not before it is stored");
    let from = net.id(0);
    net.with(1, |stack, now, wall| stack.acknowledge(now, wall, from, [5; 16]));
    net.run_secs(1);
    assert!(net.events(0).any(|event| matches!(event, Event::MailDelivered { id } if *id == [5; 16])));
}

#[test]
fn a_letter_to_someone_offline_waits_with_a_stranger() {
    let mut net = Net::new(4, 3);
    net.connect(0, 2);
    net.run_secs(1);
    let to = net.id(1);
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(6, b"see you")));
    net.run_secs(3);
    assert!(net.events(0).any(|event| matches!(event, Event::MailStored { id, holders } if *id == [6; 16] && *holders >= 1)));
    net.pause(0);
    net.connect(1, 2);
    net.run_secs(5);
    let from = net.id(0);
    assert!(
        net.events(1).any(|event| matches!(event, Event::Mail { from: sender, letter } if *sender == from && letter.body == "see you"))
    );
    // The receipt waits likewise, for the sender.
    net.with(1, |stack, now, wall| stack.acknowledge(now, wall, from, [6; 16]));
    net.run_secs(3);
    net.pause(1);
    net.resume(0);
    net.run_secs(60);
    assert!(net.events(0).any(|event| matches!(event, Event::MailDelivered { id } if *id == [6; 16])));
}

#[test]
fn a_receipt_of_someone_else_delivers_nothing() {
    let mut net = Net::new(5, 3);
    net.connect_all();
    let (to, sender) = (net.id(1), net.id(0));
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(5, b"hello")));
    net.with(2, |stack, now, wall| stack.acknowledge(now, wall, sender, [5; 16]));
    net.run_secs(2);
    assert!(!net.events(0).any(|event| matches!(event, Event::MailDelivered { .. })));
    assert_eq!(net.with(0, |stack, _, _| stack.stats().refused_messages), 1);
}

#[test]
fn two_devices_linked_by_a_code_are_one_user() {
    let mut net = Net::new(6, 3);
    net.connect_all();
    let code = net.with(0, |stack, now, wall| stack.invite(now, wall, None, LinkOptions::default())).unwrap();
    net.with(1, |stack, now, wall| stack.accept(now, wall, &code, "phone", LinkOptions::default())).unwrap();
    net.run_secs(10);
    let words = |net: &Net, node| {
        net.events(node).find_map(|event| match event {
            Event::Linked { words, .. } => Some(words.clone()),
            _ => None,
        })
    };
    assert!(words(&net, 0).is_some(), "{:?}", net.events(0).collect::<Vec<_>>());
    assert_eq!(words(&net, 0), words(&net, 1));
    let users: Vec<_> = (0..3).map(|node| net.with(node, |stack, _, _| stack.account().id())).collect();
    assert_eq!(users[0], users[1]);
    assert_ne!(users[0], users[2]);
    for node in 0..2 {
        assert_eq!(net.with(node, |stack, _, _| stack.account().user().members().count()), 2);
    }
    // What belongs to the user is theirs on both, and nobody else's.
    let topics: Vec<_> = (0..3).map(|node| net.with(node, |stack, now, wall| stack.subscribe_label(now, wall, "greetings"))).collect();
    net.with(0, |stack, now, wall| stack.publish_to_label(now, wall, "greetings", b"hello")).unwrap();
    net.run_secs(5);
    let heard = |node: usize| net.events(node).any(|event| matches!(event, Event::Message(message) if message.topic == topics[node]));
    assert!(heard(1) && !heard(2));
}

#[test]
fn a_wrong_code_links_nothing_and_ends_the_invitation() {
    let mut net = Net::new(7, 2);
    net.connect_all();
    let code = net.with(0, |stack, now, wall| stack.invite(now, wall, None, LinkOptions::default())).unwrap();
    let first = code.to_string().split_whitespace().next().unwrap().to_owned();
    let wrong = format!("{first} zoo zoo zoo").parse().unwrap();
    net.with(1, |stack, now, wall| stack.accept(now, wall, &wrong, "phone", LinkOptions::default())).unwrap();
    net.run_secs(10);
    for node in 0..2 {
        assert!(net.events(node).any(|event| matches!(event, Event::LinkFailed { .. })), "node {node}");
        assert!(!net.events(node).any(|event| matches!(event, Event::Linked { .. })), "node {node}");
    }
    // The right code comes too late.
    net.with(1, |stack, now, wall| stack.accept(now, wall, &code, "phone", LinkOptions::default())).unwrap();
    net.run_secs(120);
    assert!(!net.events(1).any(|event| matches!(event, Event::Linked { .. })));
}

#[test]
fn only_devices_of_the_user_are_heard_about_its_databases_and_account() {
    let mut net = Net::new(8, 2);
    net.connect_all();
    let database = peers_node::DatabaseId([3; 32]);
    for node in 0..2 {
        net.with(node, |stack, now, wall| stack.open_database(now, wall, database, "notes"));
    }
    let to = net.id(1);
    net.with(0, |stack, now, wall| stack.send_database(now, wall, database, to, Bytes::from_static(b"give me all")));
    net.run_secs(2);
    assert!(!net.events(1).any(|event| matches!(event, Event::Database { .. })));
    assert_eq!(net.with(1, |stack, _, _| stack.stats().refused_messages), 1);
}

#[test]
fn a_message_held_when_its_topic_is_followed_comes_once() {
    let mut net = Net::new(9, 2);
    net.connect_all();
    let topic = TopicKey::from_seed([9; 32]);
    net.with(0, |stack, now, wall| stack.publish(now, wall, &topic, b"early").unwrap());
    net.run_secs(2);
    net.with(1, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    net.run_secs(2);
    assert_eq!(net.messages(1).count(), 1);
}

#[test]
fn letters_of_strangers_do_not_make_us_follow_topics_and_are_acknowledged_all_the_same() {
    let mut net = Net::new(10, 3);
    net.connect(0, 2);
    net.run_secs(1);
    let (from, to) = (net.id(0), net.id(1));
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(6, b"buy this")));
    net.run_secs(3);
    net.pause(0);
    net.connect(1, 2);
    net.run_secs(5);
    assert!(net.events(1).any(|event| matches!(event, Event::Mail { from: sender, .. } if *sender == from)));
    assert!(!net.events(1).any(|event| matches!(event, Event::Contact { .. })));
    net.with(1, |stack, now, wall| stack.acknowledge(now, wall, from, [6; 16]));
    net.run_secs(3);
    net.pause(1);
    net.resume(0);
    net.run_secs(60);
    assert!(net.events(0).any(|event| matches!(event, Event::MailDelivered { id } if *id == [6; 16])));
    // Whoever answers becomes someone to share a topic with, on both sides, and what follows arrives.
    net.resume(1);
    net.with(1, |stack, now, wall| stack.send(now, wall, from, letter(7, b"no")));
    net.run_secs(60);
    net.pause(1);
    net.run_secs(60);
    let established = |event: &Event| matches!(event, Event::Contact { peer, established: true } if *peer == to);
    assert!(net.events(0).any(established));
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(8, b"please")));
    net.run_secs(3);
    net.pause(0);
    net.resume(1);
    net.run_secs(60);
    assert!(net.events(1).any(|event| matches!(event, Event::Mail { letter, .. } if letter.body == "please")));
}

#[test]
fn a_device_that_was_welcomed_before_a_crash_lost_the_news_is_known_again_when_they_meet() {
    let mut net = Net::new(11, 2);
    net.connect_all();
    let before = net.with(0, |stack, _, _| stack.account().clone());
    let code = net.with(0, |stack, now, wall| stack.invite(now, wall, None, LinkOptions::default())).unwrap();
    net.with(1, |stack, now, wall| stack.accept(now, wall, &code, "phone", LinkOptions::default())).unwrap();
    net.run_secs(10);
    assert!(net.events(1).any(|event| matches!(event, Event::Linked { .. })));
    // The inviter said welcome, and was killed before its own disk had it.
    net.restart(0, before);
    net.connect(0, 1);
    net.run_secs(60);
    let phone = net.id(1);
    assert!(net.with(0, |stack, _, _| stack.account().has_device(phone)));
    let database = peers_node::DatabaseId([3; 32]);
    for node in 0..2 {
        net.with(node, |stack, now, wall| stack.open_database(now, wall, database, "notes"));
    }
    net.run_secs(5);
    for node in 0..2 {
        let connected = |event: &Event| matches!(event, Event::Database { input: DatabaseInput::PeerConnected(_), .. });
        assert!(net.events(node).any(connected), "node {node}");
    }
}

#[test]
fn what_replicas_say_waits_for_room_and_arrives_whole_and_in_order() {
    let transport = transport::Config { send_buffer: 32 << 10, ..transport::Config::default() };
    let mut net = Net::with_config(12, 2, &Config { transport, ..Config::default() });
    net.connect_all();
    let code = net.with(0, |stack, now, wall| stack.invite(now, wall, None, LinkOptions::default())).unwrap();
    net.with(1, |stack, now, wall| stack.accept(now, wall, &code, "phone", LinkOptions::default())).unwrap();
    net.run_secs(10);
    let database = peers_node::DatabaseId([3; 32]);
    for node in 0..2 {
        net.with(node, |stack, now, wall| stack.open_database(now, wall, database, "notes"));
    }
    net.run_secs(2);
    let to = net.id(1);
    let said: Vec<Bytes> = (0..40u8).map(|i| vec![i; 20_000].into()).collect();
    for message in said.clone() {
        net.with(0, |stack, now, wall| stack.send_database(now, wall, database, to, message));
    }
    net.run_secs(60);
    let heard: Vec<Bytes> = net
        .events(1)
        .filter_map(|event| match event {
            Event::Database { input: DatabaseInput::Message { message, .. }, .. } => Some(message.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(heard.len(), said.len());
    assert!(heard == said);
}

#[test]
fn a_letter_that_outlived_the_caches_is_sent_again_when_the_two_meet() {
    let mut net = Net::new(13, 2);
    let to = net.id(1);
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(6, b"long ago")));
    net.run_secs(73 * 3600);
    net.connect(0, 1);
    net.run_secs(10);
    let arrived = |event: &Event| matches!(event, Event::Mail { .. });
    assert!(!net.events(1).any(arrived));
    net.with(0, |stack, now, wall| stack.send_again(now, wall, to, letter(6, b"long ago")));
    net.run_secs(2);
    assert_eq!(net.events(1).filter(|event| arrived(event)).count(), 1);
    // One that is on its way in the session is not sent twice.
    net.with(0, |stack, now, wall| stack.send_again(now, wall, to, letter(6, b"long ago")));
    net.run_secs(2);
    assert_eq!(net.events(1).filter(|event| arrived(event)).count(), 1);
}
