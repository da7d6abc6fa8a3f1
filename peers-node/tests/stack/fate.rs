//! What a sender is told of its message.

use peers_crypto::TopicKey;
use peers_node::Event;

use crate::letter;
use crate::net::Net;

fn stored(net: &Net, node: usize) -> Vec<u32> {
    let holders = |event: &Event| match event {
        Event::Stored { holders, .. } | Event::MailStored { holders, .. } => Some(*holders),
        _ => None,
    };
    net.events(node).filter_map(holders).collect()
}

#[test]
fn peers_at_one_address_that_hold_a_message_count_once() {
    let mut net = Net::new(41, 4);
    net.connect_all();
    let topic = TopicKey::from_seed([9; 32]);
    net.with(0, |stack, now, wall| stack.publish(now, wall, &topic, b"news").unwrap());
    net.run_secs(5);
    assert_eq!(stored(&net, 0), [1]);
    let id = net.with(0, |stack, _, _| stack.cache().packets(topic.id()).next().unwrap().id());
    let proven = net.with(0, |stack, _, _| stack.cache().receipts(&id).len());
    assert_eq!(proven, 3, "each has signed for it");
}

#[test]
fn a_holder_that_is_gone_is_counted_until_it_fails_a_check() {
    let mut net = Net::new(42, 2);
    net.connect_all();
    let topic = TopicKey::from_seed([9; 32]);
    net.with(0, |stack, now, wall| stack.publish(now, wall, &topic, b"news").unwrap());
    net.run_secs(600);
    assert_eq!(stored(&net, 0), [1], "whoever holds it passes all checks");
}

#[test]
fn a_letter_that_nobody_came_for_is_reported_as_expired() {
    let mut net = Net::new(43, 3);
    net.connect(0, 2);
    net.run_secs(1);
    let to = net.id(1);
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(6, b"see you")));
    net.run_secs(5);
    assert_eq!(stored(&net, 0), [1]);
    net.pause(2);
    net.run_secs(72 * 3600 - 10);
    assert!(!net.events(0).any(|event| matches!(event, Event::MailExpired { .. })));
    net.run_secs(30);
    assert!(net.events(0).any(|event| matches!(event, Event::MailExpired { id } if *id == [6; 16])));
}

#[test]
fn a_letter_that_was_delivered_does_not_expire() {
    let mut net = Net::new(44, 3);
    net.connect(0, 2);
    net.run_secs(1);
    let (from, to) = (net.id(0), net.id(1));
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(6, b"see you")));
    net.run_secs(5);
    net.connect(1, 2);
    net.run_secs(5);
    net.with(1, |stack, now, wall| stack.acknowledge(now, wall, from, [6; 16]));
    net.run_secs(5);
    assert!(net.events(0).any(|event| matches!(event, Event::MailDelivered { .. })));
    (1..3).for_each(|node| net.pause(node));
    net.run_secs(73 * 3600);
    assert!(!net.events(0).any(|event| matches!(event, Event::MailExpired { .. })));
}
