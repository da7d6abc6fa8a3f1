//! Messages in causal order.

use crate::net::Net;
use peers_crypto::TopicKey;
use peers_node::Event;
use peers_wire::Link;
use std::collections::BTreeSet;

#[test]
fn in_spite_of_loss_each_message_comes_after_the_one_its_author_had_seen() {
    let mut net = Net::new(51, 4);
    net.connect_all();
    let topic = TopicKey::from_seed([9; 32]);
    for node in 0..3 {
        net.with(node, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    }
    net.with(2, |stack, _, _| stack.order(topic.id()));
    net.run_secs(1);
    net.loss = 0.3;
    for number in 0..60u8 {
        // Several in a row, then a pause in which they answer each other.
        net.with(usize::from(number % 2), |stack, now, wall| stack.publish(now, wall, &topic, &[number]).unwrap());
        if number % 6 == 5 {
            net.run_secs(1);
        }
    }
    net.run_secs(60);
    let mut known = BTreeSet::from([Link::NONE]);
    for message in net.messages(2) {
        assert!(known.contains(&message.previous), "{:?} came before what it links to", message.payload);
        known.insert(message.id.link());
    }
    assert_eq!(known.len(), 61);
    assert!(!net.events(2).any(|event| matches!(event, Event::Missing { .. })));
}

#[test]
fn a_message_whose_predecessor_nobody_has_comes_after_a_while_and_the_gap_is_told() {
    let mut net = Net::new(52, 2);
    net.connect_all();
    let topic = TopicKey::from_seed([9; 32]);
    // The first message is on a link that is down, and its publisher forgets it.
    net.with(0, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    let other = TopicKey::from_seed([9; 32]);
    let draft = |previous| peers_crypto::Draft { created: net_wall(), lifetime: 600, previous, postage: peers_wire::MAX_POSTAGE };
    let mut rng = <rand_chacha::ChaCha20Rng as rand::SeedableRng>::seed_from_u64(1);
    let author = peers_crypto::DeviceKey::from_seed(&[3; 32]);
    let lost = other.seal(&author, draft(Link::NONE), b"lost", &mut rng).unwrap().remove(0).id().link();
    let found = other.seal(&author, draft(lost), b"found", &mut rng).unwrap().remove(0);
    net.with(1, |stack, now, wall| {
        stack.subscribe(now, wall, topic.read_key());
        stack.order(topic.id());
    });
    net.with(0, |stack, now, wall| stack.load(now, wall, found));
    net.run_secs(8);
    assert_eq!(net.messages(1).count(), 0, "it waits");
    net.run_secs(60);
    let told: Vec<_> = net.events(1).filter(|event| matches!(event, Event::Missing { .. } | Event::Message(_))).collect();
    assert!(
        matches!(told[..], [Event::Missing { link, .. }, Event::Message(message)] if *link == lost && message.payload == "found"),
        "{told:?}"
    );
}

fn net_wall() -> peers_wire::Timestamp {
    peers_wire::Timestamp(1_800_000_000_000)
}
