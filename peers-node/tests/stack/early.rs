//! Letters that go with the handshake.

use bytes::Bytes;
use peers_node::{Config, Event, Letter};

use super::letter;
use super::net::Net;

/// Three stacks of which the first and the last are connected to the one between them.
fn in_a_row(seed: u64) -> Net {
    let nat = peers_nat::Config { target_sessions: 0, lan: false, ..peers_nat::Config::default() };
    let mut net = Net::with_config(seed, 3, &Config { nat, ..Config::default() });
    net.connect(0, 1);
    net.connect(2, 1);
    net.run_secs(2);
    net
}

fn mail(net: &Net, node: usize) -> Vec<&Letter> {
    net.events(node).filter_map(|event| if let Event::Mail { letter, .. } = event { Some(letter) } else { None }).collect()
}

/// Packets that have come into the cache of `node`.
fn published(net: &Net, node: usize) -> usize {
    net.events(node).filter(|event| matches!(event, Event::Keep(_))).count()
}

fn delivered(net: &Net, node: usize) -> usize {
    net.events(node).filter(|event| matches!(event, Event::MailDelivered { .. })).count()
}

#[test]
fn a_small_letter_to_who_is_not_connected_arrives_with_the_handshake_and_is_acknowledged_in_the_session() {
    let mut net = in_a_row(1);
    let (from, to) = (net.id(0), net.id(2));
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(5, b"first flight")));
    net.run_millis(45);
    assert_eq!(mail(&net, 2), [&letter(5, b"first flight")], "two hops of 20 ms");
    assert!(!net.with(2, |stack, _, _| stack.is_connected(from)), "there is no session yet");
    net.with(2, |stack, now, wall| stack.acknowledge(now, wall, from, [5; 16]));
    net.run_secs(5);
    assert_eq!((delivered(&net, 0), mail(&net, 2).len()), (1, 1));
    assert!(net.with(0, |stack, _, _| stack.is_connected(to)));
    assert_eq!([0, 1, 2].map(|node| published(&net, node)), [0, 0, 0], "nothing went through the caches");
}

#[test]
fn letters_that_do_not_fit_or_come_second_wait_for_the_session_instead_of_the_caches() {
    let mut net = in_a_row(2);
    let to = net.id(2);
    let long = Letter { body: Bytes::from(vec![7; 100_000]), ..letter(1, b"") };
    net.with(0, |stack, now, wall| {
        stack.send(now, wall, to, long.clone());
        stack.send(now, wall, to, letter(2, b"second"));
    });
    net.run_secs(2);
    let mut bodies: Vec<usize> = mail(&net, 2).iter().map(|letter| letter.body.len()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, [6, 100_000]);
    assert_eq!([0, 1, 2].map(|node| published(&net, node)), [0, 0, 0]);
}

#[test]
fn a_letter_to_who_is_away_is_left_in_the_caches_after_a_second_or_as_soon_as_nobody_can_be_asked() {
    let mut net = in_a_row(3);
    let to = net.id(2);
    net.pause(2);
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(6, b"see you")));
    net.run_millis(900);
    assert_eq!(published(&net, 1), 0);
    net.run_secs(2);
    assert_eq!(published(&net, 1), 1);
    // Once its neighbour knows that it is gone, it says so.
    net.run_secs(60);
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(7, b"again")));
    net.run_millis(300);
    assert_eq!(published(&net, 1), 2);
    net.resume(2);
    net.run_secs(30);
    assert_eq!(mail(&net, 2).len(), 2);
}

#[test]
fn what_waits_for_a_session_is_left_in_the_caches_when_the_node_closes() {
    let mut net = in_a_row(4);
    let to = net.id(2);
    net.pause(2);
    net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(6, b"see you")));
    net.with(0, |stack, now, wall| stack.post_waiting(now, wall));
    net.run_millis(100);
    assert_eq!(published(&net, 1), 1);
}

#[test]
fn a_letter_survives_the_loss_of_the_handshake_that_carries_it_and_of_what_answers_it() {
    for seed in 0..20 {
        let mut net = in_a_row(100 + seed);
        net.loss = 0.3;
        let (from, to) = (net.id(0), net.id(2));
        net.with(0, |stack, now, wall| stack.send(now, wall, to, letter(5, b"keep trying")));
        for _ in 0..120 {
            net.run_millis(500);
            // As a node does: what comes again is acknowledged again.
            if !mail(&net, 2).is_empty() && delivered(&net, 0) == 0 {
                net.with(2, |stack, now, wall| stack.acknowledge(now, wall, from, [5; 16]));
            }
        }
        assert_eq!(delivered(&net, 0), 1, "seed {seed}");
    }
}
