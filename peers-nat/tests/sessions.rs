//! Sessions between two agents: beginning, settling, ending, and beginning again.

mod net;

use std::time::Duration;

use net::{Nat, Net, seconds};
use peers_nat::{ConnectError, DisconnectReason, Event, Path, SendError};
use proptest::prelude::*;

fn pair() -> (Net, usize, usize) {
    let mut net = Net::new(7);
    let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
    (net, a, b)
}

fn connected(event: &Event) -> bool {
    matches!(event, Event::Connected { .. })
}

fn disconnected(event: &Event) -> bool {
    matches!(event, Event::Disconnected { .. })
}

#[test]
fn a_known_address_and_key_connect_in_one_round_trip_and_carry_data_both_ways() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(Duration::from_millis(81));
    assert_eq!(net.path(a, b), Some(Path::Direct(net.address(b))));
    net.send(a, b, b"there");
    net.run(Duration::from_millis(41));
    assert_eq!(net.data(a, b), [&b"there"[..]]);
    net.send(b, a, b"and back");
    net.run(Duration::from_millis(41));
    assert_eq!(net.data(b, a), [&b"and back"[..]]);
    assert_eq!((net.count(a, connected), net.count(b, connected)), (1, 1));
}

#[test]
fn an_address_alone_is_enough_to_connect() {
    let (mut net, a, b) = pair();
    let (now, wall, address) = (net.now, net.wall(), net.address(b));
    net.hosts[a].agent.connect_address(now, wall, address);
    net.drain(a);
    net.run(seconds(1));
    assert!(net.is_connected(a, b));
    net.send(a, b, b"x");
    net.run(seconds(1));
    assert_eq!(net.data(a, b).len(), 1);
}

#[test]
fn an_address_that_nobody_answers_at_is_asked_again_until_somebody_does() {
    let (mut net, a, b) = pair();
    net.hosts[b].alive = false;
    let (now, wall, address) = (net.now, net.wall(), net.address(b));
    net.hosts[a].agent.connect_address(now, wall, address);
    net.drain(a);
    net.run(seconds(300));
    assert!(net.hosts[a].agent.stats().sent < 20);
    net.restart(b);
    net.run(seconds(70));
    assert!(net.is_connected(a, b));
}

#[test]
fn our_own_id_and_impossible_ids_are_refused() {
    let (mut net, a, _) = pair();
    let (now, wall, own) = (net.now, net.wall(), net.id(a));
    assert_eq!(net.hosts[a].agent.connect(now, wall, own, &[]), Err(ConnectError::Myself));
    let invalid = peers_wire::PeerId([0; 32]);
    assert_eq!(net.hosts[a].agent.connect(now, wall, invalid, &[]), Err(ConnectError::Identity(invalid)));
    assert!(net.hosts[a].agent.poll_transmit().is_none());
}

#[test]
fn our_own_address_does_not_connect_us_to_ourselves() {
    let (mut net, a, _) = pair();
    let (now, wall, address) = (net.now, net.wall(), net.address(a));
    net.hosts[a].agent.connect_address(now, wall, address);
    net.drain(a);
    net.run(seconds(60));
    assert_eq!(net.hosts[a].agent.sessions(), 0);
    assert!(net.hosts[a].agent.poll_timeout().is_none(), "and it is not tried again");
}

#[test]
fn data_is_refused_when_it_is_too_large_or_goes_nowhere() {
    let (mut net, a, b) = pair();
    let (now, id) = (net.now, net.id(b));
    assert_eq!(net.hosts[a].agent.send(now, id, b"x"), Err(SendError::NotConnected(id)));
    net.connect_open(a, b);
    net.run(seconds(1));
    let now = net.now;
    assert_eq!(net.hosts[a].agent.send(now, id, &[0; 1162]), Err(SendError::TooLarge(1162)));
    assert_eq!(net.hosts[a].agent.send(now, id, &[0; 1161]), Ok(()));
}

#[test]
fn waiting_datagrams_are_bounded() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(1));
    let (now, id) = (net.now, net.id(b));
    let sent = (0..10_000).take_while(|_| net.hosts[a].agent.send(now, id, b"x").is_ok()).count();
    assert_eq!(sent, peers_nat::MAX_TRANSMITS);
    assert_eq!(net.hosts[a].agent.send(now, id, b"x"), Err(SendError::Full));
}

#[test]
fn both_ends_that_begin_at_once_settle_on_one_session() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.connect_open(b, a);
    net.run(seconds(1));
    for round in 0..20u8 {
        net.send(a, b, &[round]);
        net.send(b, a, &[round]);
        net.run(Duration::from_millis(100));
    }
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (20, 20));
    assert_eq!((net.count(a, connected), net.count(b, connected)), (1, 1));
    assert_eq!((net.count(a, disconnected), net.count(b, disconnected)), (0, 0));
}

#[test]
fn a_restarted_peer_is_connected_again_at_once_and_the_other_end_is_told() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(10));
    net.restart(a);
    net.connect_open(a, b);
    net.run(Duration::from_millis(200));
    let restarted = |event: &Event| matches!(event, Event::Disconnected { reason: DisconnectReason::Restarted, .. });
    assert_eq!((net.count(b, restarted), net.count(b, connected), net.count(a, connected)), (1, 2, 1));
    net.send(b, a, b"x");
    net.send(a, b, b"y");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1));
}

#[test]
fn a_peer_that_restarts_silently_is_given_up_and_reached_again() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(10));
    net.restart(b);
    net.run(seconds(60));
    assert!(net.is_connected(a, b));
    assert!(net.hosts[b].agent.stats().dropped_unknown > 0);
}

#[test]
fn a_dead_peer_is_given_up_within_the_promised_time_and_sooner_under_data() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(1));
    net.hosts[b].alive = false;
    net.send(a, b, b"x");
    let gone = net.run_until(seconds(60), |net| net.path(a, b).is_none()).unwrap();
    assert!(gone > seconds(9) && gone < seconds(13), "{gone:?}");
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(1));
    net.hosts[b].alive = false;
    let gone = net.run_until(seconds(100), |net| net.path(a, b).is_none()).unwrap();
    assert!(gone > seconds(35) && gone < seconds(25 + 18), "{gone:?}");
}

#[test]
fn a_wanted_peer_is_tried_again_until_it_is_back() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(1));
    net.hosts[b].alive = false;
    net.run(seconds(300));
    assert!(!net.is_connected(a, b));
    let tries = net.hosts[a].agent.stats().sent;
    net.run(seconds(60));
    assert!(net.hosts[a].agent.stats().sent - tries < 10, "back-off");
    net.restart(b);
    net.run(seconds(80));
    assert!(net.is_connected(a, b));
}

#[test]
fn a_goodbye_ends_the_session_on_both_sides_at_once() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(1));
    let (now, id) = (net.now, net.id(b));
    net.hosts[a].agent.disconnect(now, id);
    net.drain(a);
    net.run(seconds(1));
    assert!(net.path(a, b).is_none() && net.path(b, a).is_none());
    assert_eq!(net.count(b, |event| matches!(event, Event::Disconnected { reason: DisconnectReason::Closed, .. })), 1);
    net.run(seconds(200));
    assert!(!net.is_connected(a, b), "nobody wants it back");
}

#[test]
fn an_idle_session_costs_two_datagrams_per_keep_alive() {
    let (mut net, a, b) = pair();
    net.connect_open(a, b);
    net.run(seconds(5));
    let before = net.total_sent();
    net.run(seconds(250));
    let spent = net.total_sent() - before;
    assert!((18..=22).contains(&spent), "{spent} datagrams in ten keep-alives");
    assert!(net.is_connected(a, b));
}

#[test]
fn a_session_is_rekeyed_without_a_word_to_the_layer_above() {
    let mut net = Net::new(1);
    let config = peers_nat::Config { rekey_after: seconds(60), ..Net::config() };
    let (a, b) = (net.add_with(Nat::Open, config.clone()), net.add_with(Nat::Open, config));
    net.connect_open(a, b);
    let mut sent = 0;
    for _ in 0..400 {
        net.send(a, b, b"x");
        net.send(b, a, b"y");
        sent += 1;
        net.run(seconds(1));
    }
    assert_eq!((net.data(a, b).len() + 1, net.data(b, a).len() + 1), (sent, sent), "all but what was sent before there was a session");
    assert!(net.hosts[a].agent.stats().sessions > 4);
    assert_eq!((net.count(a, connected), net.count(b, connected)), (1, 1));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut net = Net::new(3);
        net.loss = 0.2;
        net.jitter = Duration::from_millis(50);
        let (a, b) = (net.add(Nat::Open), net.add(Nat::PortRestricted));
        net.connect_open(b, a);
        net.run(seconds(100));
        (net.hosts[a].agent.stats(), net.hosts[b].agent.stats(), net.hosts[b].sent.clone())
    };
    assert_eq!(run(), run());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn under_loss_duplication_and_reordering_both_ends_settle_and_data_flows(
        seed: u64,
        loss in 0.0..0.3f64,
        duplicates in 0.0..0.3f64,
        jitter in 0u64..300,
        apart in 0u64..600,
        both: bool,
    ) {
        let mut net = Net::new(seed);
        (net.loss, net.duplicates, net.jitter) = (loss, duplicates, Duration::from_millis(jitter));
        let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
        net.connect_open(a, b);
        net.run(Duration::from_millis(apart));
        if both {
            net.connect_open(b, a);
        }
        let done = net.run_until(seconds(60), |net| net.is_connected(a, b));
        prop_assert!(done.is_some());
        // Faults end; then nothing may be lost, and the connection was made once.
        (net.loss, net.duplicates) = (0.0, 0.0);
        net.run(seconds(20));
        let (at_a, at_b) = (net.data(b, a).len(), net.data(a, b).len());
        for round in 0..10u8 {
            net.send(a, b, &[round]);
            net.send(b, a, &[round]);
            net.run(seconds(1));
        }
        prop_assert_eq!((net.data(b, a).len() - at_a, net.data(a, b).len() - at_b), (10, 10));
        let told = |n| net.count(n, connected) - net.count(n, disconnected);
        prop_assert_eq!((told(a), told(b)), (1, 1));
    }
}

#[test]
fn data_for_an_address_that_is_being_proven_waits_for_the_proof() {
    let mut overtaken = 0;
    for seed in 0..20 {
        let mut net = Net::new(seed);
        net.jitter = Duration::from_millis(60);
        let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
        net.connect_open(a, b);
        let connected = net.run_until(seconds(2), |net| net.path(a, b).is_some());
        assert!(connected.is_some());
        // It may overtake what proves the address of `a` to `b`.
        net.send(a, b, b"send me much");
        net.run_until(seconds(2), |net| !net.data(a, b).is_empty()).unwrap();
        let address = net.address(a);
        let before = net.hosts[b].sent[&address].1;
        (0..20).for_each(|i| net.send(b, a, &[i; 1000]));
        overtaken += usize::from(net.hosts[b].sent[&address].1 - before < 1000);
        net.run(seconds(1));
        assert_eq!(net.data(b, a).len(), 20, "seed {seed}");
    }
    assert!(overtaken > 0, "no run shows anything");
}
