//! Messages as large as they may be.

use crate::net::Net;
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_node::Event;
use peers_wire::{Link, MAX_POSTAGE};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// A body of 16 MiB less what sealing adds.
fn body() -> Vec<u8> {
    (0..(16u32 << 20) - 256).map(|byte| (byte ^ byte >> 8 ^ byte >> 16).to_le_bytes()[0]).collect()
}

/// Runs until each of `nodes` has the message, and gives the seconds that it took.
fn until_all_have_it(net: &mut Net, nodes: &[usize], limit: u64) -> u64 {
    for second in 0..limit {
        if nodes.iter().all(|node| net.messages(*node).count() > 0) {
            return second;
        }
        net.run_secs(1);
    }
    panic!("{:?} have it after {limit} s", nodes.iter().map(|node| (*node, net.messages(*node).count())).collect::<Vec<_>>());
}

#[test]
fn a_message_of_16_mib_reaches_all_subscribers() {
    let mut net = Net::new(41, 5);
    net.connect_all();
    net.loss = 0.01;
    let topic = TopicKey::from_seed([9; 32]);
    for node in [1, 2, 3] {
        net.with(node, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    }
    net.run_secs(1);
    let body = body();
    let id = net.with(0, |stack, now, wall| stack.publish(now, wall, &topic, &body).unwrap());
    let seconds = until_all_have_it(&mut net, &[1, 2, 3], 600);
    eprintln!("16 MiB at 3 subscribers after {seconds} s");
    for node in [1, 2, 3] {
        assert!(net.messages(node).all(|message| message.payload == body), "node {node} has other bytes");
    }
    net.run_secs(120);
    assert!(
        net.events(0).any(|event| matches!(event, Event::Stored { id: head, holders } if *head == id && *holders >= 1)),
        "its holders are counted"
    );
    // Who comes later gets it from a subscriber: the publisher is gone, and each of the others could give it alone.
    net.pause(0);
    net.pause(1);
    net.pause(2);
    net.with(4, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    let seconds = until_all_have_it(&mut net, &[4], 600);
    eprintln!("16 MiB at one who comes later after {seconds} s");
    assert!(net.messages(4).all(|message| message.payload == body));
}

/// Anyone may write to a public inbox: heads whose fragments nobody has cost a few requests each, and do not delay what can be had.
#[test]
fn heads_without_fragments_are_asked_for_less_and_less() {
    let mut net = Net::new(42, 3);
    net.connect_all();
    let topic = TopicKey::from_seed([9; 32]);
    net.run_secs(1);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let author = DeviceKey::from_seed(&[3; 32]);
    net.with(1, |stack, now, wall| {
        for i in 0..200 {
            let draft = Draft { created: wall.plus(i), lifetime: 60, previous: Link::NONE, postage: MAX_POSTAGE };
            let head = topic.seal(&author, draft, &[1; 50_000], &mut rng).unwrap().remove(0);
            stack.load(now, wall, head);
        }
    });
    net.with(0, |stack, now, wall| stack.subscribe(now, wall, topic.read_key()));
    net.run_secs(10);
    let repairs = |net: &mut Net| net.with(0, |stack, _, _| stack.stats().repairs);
    let early = repairs(&mut net);
    let long = vec![5; 200_000];
    net.loss = 0.1;
    net.with(2, |stack, now, wall| stack.publish(now, wall, &topic, &long).unwrap());
    let seconds = until_all_have_it(&mut net, &[0], 60);
    eprintln!("200 KB in spite of 200 heads and 10 % loss after {seconds} s");
    assert!(net.messages(0).all(|message| message.payload == long));
    net.loss = 0.0;
    net.run_secs(60);
    let (before, late) = (repairs(&mut net), {
        net.run_secs(600);
        repairs(&mut net)
    });
    assert!(early > 0 && before < 200 * 2 * 8, "{early} requests at first, {before} in all");
    assert_eq!(late, before, "what nobody has is given up");
}
