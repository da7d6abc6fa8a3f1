//! Data in the first flight.

mod net;

use std::time::Duration;

use net::{Nat, Net, seconds};
use peers_nat::{Attempt, ConnectError, Event, MAX_EARLY};

/// Two peers behind NATs that have `relays` open ones in common.
fn introduced(relays: usize) -> (Net, usize, usize, Vec<usize>) {
    let mut net = Net::new(9);
    let relays: Vec<usize> = (0..relays).map(|_| net.add(Nat::Open)).collect();
    let (a, b) = (net.add(Nat::PortRestricted), net.add(Nat::PortRestricted));
    for relay in &relays {
        net.connect_open(a, *relay);
        net.connect_open(b, *relay);
    }
    net.run(seconds(2));
    (net, a, b, relays)
}

fn position(net: &Net, n: usize, matches: impl Fn(&Event) -> bool) -> Option<usize> {
    net.hosts[n].events.iter().position(matches)
}

#[test]
fn early_data_arrives_through_a_relay_in_the_time_of_one_way() {
    let (mut net, a, b, _) = introduced(1);
    let data = [7; MAX_EARLY];
    assert_eq!(net.reach(a, b, &data), Attempt::Carries);
    let arrived = net.run_until(seconds(1), |net| !net.early(a, b).is_empty()).unwrap();
    assert!(arrived <= Duration::from_millis(85), "{arrived:?}");
    assert_eq!(net.early(a, b), [&data[..]]);
    net.run(seconds(2));
    let peer = net.id(b);
    let taken = position(&net, a, |event| *event == Event::EarlyTaken { peer }).unwrap();
    let connected = position(&net, a, |event| matches!(event, Event::Connected { peer: id, .. } if *id == peer)).unwrap();
    assert!(taken < connected, "what the handshake carried is known before the session is used");
    assert!(net.is_connected(a, b));
}

#[test]
fn early_data_that_comes_by_several_relays_and_is_repeated_is_given_out_once() {
    let (mut net, a, b, _) = introduced(3);
    net.duplicates = 1.0;
    assert_eq!(net.reach(a, b, b"once"), Attempt::Carries);
    net.run(seconds(3));
    assert_eq!(net.early(a, b), [&b"once"[..]]);
    assert_eq!(net.hosts[b].agent.stats().early, 1);
    assert!(net.hosts[a].agent.stats().dials >= 1 && net.is_connected(a, b));
}

#[test]
fn a_recorded_handshake_brings_its_early_data_only_to_who_was_started_again() {
    let mut net = Net::new(3);
    let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
    net.connect_open(a, b);
    net.run(seconds(1));
    let (id, now) = (net.id(b), net.now);
    net.hosts[a].agent.disconnect(now, id);
    net.drain(a);
    net.run(seconds(1));
    net.tap.clear();
    // It is known where the other was a moment ago.
    assert_eq!(net.reach(a, b, b"letter"), Attempt::Carries);
    net.run(seconds(1));
    assert_eq!(net.early(a, b).len(), 1);
    let (source, _, recorded) = net.tap.iter().find(|(_, _, datagram)| datagram[0] == 1).cloned().unwrap();
    net.run(seconds(60));
    net.inject(b, source, &recorded);
    net.run(seconds(1));
    assert_eq!(net.early(a, b).len(), 1, "a session still remembers the handshake");
    net.hosts[a].alive = false;
    net.run(seconds(60));
    net.inject(b, source, &recorded);
    net.run(seconds(1));
    assert_eq!(net.early(a, b).len(), 1, "its time is not later than the last");
    net.restart(b);
    net.inject(b, source, &recorded);
    net.run(seconds(1));
    assert_eq!(net.early(a, b).len(), 1, "a new process does not remember it, and whoever keeps what came knows it by its own id");
}

#[test]
fn an_unproven_source_of_early_data_is_answered_with_less_than_its_bytes() {
    let mut net = Net::new(3);
    let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
    net.connect_open(a, b);
    net.run(seconds(1));
    let (id, now) = (net.id(b), net.now);
    net.hosts[a].agent.disconnect(now, id);
    net.drain(a);
    net.run(seconds(1));
    // Whoever sends its genuine datagrams from elsewhere does not get more than they have bytes.
    net.hosts[b].alive = false;
    net.tap.clear();
    assert_eq!(net.reach(a, b, &[1; MAX_EARLY]), Attempt::Carries);
    let (_, _, recorded) = net.tap.iter().find(|(_, _, datagram)| datagram[0] == 1).cloned().unwrap();
    net.hosts[a].alive = false;
    net.hosts[b].alive = true;
    let elsewhere = "198.51.100.9:9".parse().unwrap();
    net.inject(b, elsewhere, &recorded);
    net.run(seconds(60));
    assert_eq!(net.early(a, b).len(), 1);
    let (_, bytes) = net.hosts[b].sent.get(&elsewhere).copied().unwrap();
    assert!(bytes > 0 && bytes < recorded.len() as u64, "{bytes} for {}", recorded.len());
}

#[test]
fn who_cannot_be_reached_is_told_of_once_and_not_looked_for_again() {
    let (mut net, a, b, relays) = introduced(1);
    net.hosts[b].alive = false;
    let peer = net.id(b);
    assert_eq!(net.reach(a, b, b"lost"), Attempt::Carries);
    assert_eq!(net.reach(a, b, b"second"), Attempt::UnderWay, "one handshake at a time");
    net.run(seconds(20));
    assert_eq!(net.count(a, |event| *event == Event::EarlyLost { peer }), 1);
    let dials = net.hosts[a].agent.stats().dials;
    net.run(seconds(120));
    assert_eq!(net.hosts[a].agent.stats().dials, dials, "an attempt is no wish");
    net.hosts[relays[0]].alive = false;
    net.run(seconds(60));
    assert_eq!(net.reach(a, b, b"nobody to ask"), Attempt::Nowhere);
    assert_eq!(net.count(a, |event| *event == Event::EarlyLost { peer }), 1);
}

#[test]
fn attempts_are_limited_in_number() {
    let (mut net, a, _, relays) = introduced(1);
    let strangers: Vec<usize> = (0..64).map(|_| net.add(Nat::Open)).collect();
    let carried = strangers.iter().filter(|n| net.reach(a, **n, b"x") == Attempt::Carries).count();
    assert_eq!(carried, 32);
    net.run(seconds(1));
    assert!(net.hosts[relays[0]].agent.stats().refused >= 32);
    let (now, wall, own) = (net.now, net.wall(), net.id(a));
    assert_eq!(net.hosts[a].agent.reach(now, wall, own, b"x"), Err(ConnectError::Myself));
}

#[test]
fn what_is_too_long_does_not_go_with_the_handshake() {
    let (mut net, a, b, _) = introduced(1);
    assert_eq!(net.reach(a, b, &[0; MAX_EARLY + 1]), Attempt::UnderWay);
    net.run(seconds(1));
    assert!(net.is_connected(a, b) && net.early(a, b).is_empty());
    assert_eq!(net.reach(a, b, b"x"), Attempt::UnderWay, "there is a session");
}
