//! Introductions, relays and direct paths behind NATs; peer exchange; the beacon.

mod net;

use std::time::Duration;

use net::{Nat, Net, seconds};
use peers_nat::{Config, DisconnectReason, Event, Path};
use proptest::prelude::*;

const NATS: [Nat; 5] = [Nat::Open, Nat::FullCone, Nat::AddressRestricted, Nat::PortRestricted, Nat::Symmetric];

/// Two peers behind NATs, and as many open ones that both are connected to.
fn introduced(a: Nat, b: Nat, relays: usize) -> (Net, usize, usize, Vec<usize>) {
    let mut net = Net::new(5);
    let relays: Vec<usize> = (0..relays).map(|_| net.add(Nat::Open)).collect();
    let (a, b) = (net.add(a), net.add(b));
    for relay in &relays {
        net.connect_open(a, *relay);
        net.connect_open(b, *relay);
    }
    net.run(seconds(2));
    (net, a, b, relays)
}

/// All but two NATs that both give each destination a random port.
fn can_be_direct(a: Nat, b: Nat) -> bool {
    (a, b) != (Nat::Symmetric, Nat::Symmetric)
}

#[test]
fn every_pair_of_nats_connects_through_a_common_peer_and_goes_direct_where_it_can() {
    for a_nat in NATS {
        for b_nat in NATS {
            let (mut net, a, b, _) = introduced(a_nat, b_nat, 3);
            net.connect(a, b, &[]);
            let connected = net.run_until(seconds(5), |net| net.is_connected(a, b)).unwrap();
            assert!(connected < Duration::from_millis(300), "{a_nat:?} {b_nat:?} {connected:?}");
            net.send(a, b, b"x");
            net.send(b, a, b"y");
            net.run(seconds(5));
            assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1), "{a_nat:?} {b_nat:?}");
            assert_eq!(net.is_direct(a, b), can_be_direct(a_nat, b_nat), "{a_nat:?} {b_nat:?} {:?} {:?}", net.path(a, b), net.path(b, a));
        }
    }
}

#[test]
fn a_cone_pair_is_direct_within_two_round_trips_and_nothing_sent_meanwhile_is_lost() {
    let (mut net, a, b, _) = introduced(Nat::PortRestricted, Nat::PortRestricted, 1);
    net.connect(a, b, &[]);
    net.run_until(seconds(1), |net| net.is_connected(a, b)).unwrap();
    let mut sent = 0u8;
    let direct = net.run_until(seconds(2), |net| net.is_direct(a, b)).unwrap();
    while sent < 100 {
        net.send(a, b, &[sent]);
        sent += 1;
        net.run(Duration::from_millis(5));
    }
    net.run(seconds(1));
    assert!(direct < Duration::from_millis(250), "{direct:?}");
    assert_eq!(net.data(a, b).iter().map(|data| data[0]).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
}

#[test]
fn data_flows_through_the_relay_before_there_is_a_direct_path() {
    let (mut net, a, b, relays) = introduced(Nat::Symmetric, Nat::Symmetric, 1);
    net.connect(a, b, &[]);
    net.run_until(seconds(1), |net| net.path(a, b).is_some()).unwrap();
    net.send(a, b, b"through");
    net.run(Duration::from_millis(100));
    assert_eq!(net.path(a, b), Some(Path::Relayed(net.id(relays[0]))));
    assert_eq!(net.data(a, b), [&b"through"[..]]);
    assert!(net.hosts[relays[0]].agent.stats().relayed > 0);
    net.send(a, b, &[7; peers_nat::MAX_DATA]);
    net.run(Duration::from_millis(100));
    assert_eq!(net.data(a, b).len(), 2, "the largest datagram fits a relay's header");
}

#[test]
fn a_relay_never_sees_plaintext() {
    let (mut net, a, b, relays) = introduced(Nat::Symmetric, Nat::Symmetric, 1);
    net.connect(a, b, &[]);
    net.run(seconds(1));
    net.send(a, b, b"a secret that nobody between may read");
    net.run(seconds(1));
    let relay = &net.hosts[relays[0]];
    assert!(relay.events.iter().all(|event| !matches!(event, Event::Data { .. })));
    let ids = format!("{:?} {:?}", net.id(a), net.id(b));
    assert_eq!(net.data(a, b).len(), 1, "{ids}");
}

#[test]
fn a_relayed_pair_finds_another_relay_when_its_own_dies() {
    let (mut net, a, b, relays) = introduced(Nat::Symmetric, Nat::Symmetric, 3);
    net.connect(a, b, &[]);
    net.run(seconds(1));
    let Some(Path::Relayed(via)) = net.path(a, b) else { panic!("relayed") };
    let relay = *relays.iter().find(|relay| net.id(**relay) == via).unwrap();
    net.hosts[relay].alive = false;
    for _ in 0..20 {
        net.send(a, b, b"x");
        net.send(b, a, b"x");
        net.run(Duration::from_millis(500));
    }
    let (before_a, before_b) = (net.data(b, a).len(), net.data(a, b).len());
    net.send(a, b, b"again");
    net.send(b, a, b"again");
    net.run(seconds(1));
    assert_eq!((net.data(b, a).len(), net.data(a, b).len()), (before_a + 1, before_b + 1));
    assert!(matches!(net.path(a, b), Some(Path::Relayed(other)) if other != via));
    let disconnected = |event: &Event| matches!(event, Event::Disconnected { peer, .. } if *peer == net.id(b));
    assert_eq!(net.count(a, disconnected), 0, "the session outlives its relay");
}

#[test]
fn a_pair_moves_at_once_when_its_relay_says_goodbye() {
    let (mut net, a, b, relays) = introduced(Nat::Symmetric, Nat::Symmetric, 2);
    net.connect(a, b, &[]);
    net.run(seconds(1));
    let Some(Path::Relayed(via)) = net.path(a, b) else { panic!("relayed") };
    let relay = *relays.iter().find(|relay| net.id(**relay) == via).unwrap();
    let (now, a_id, b_id) = (net.now, net.id(a), net.id(b));
    net.hosts[relay].agent.disconnect(now, a_id);
    net.hosts[relay].agent.disconnect(now, b_id);
    net.drain(relay);
    net.run(seconds(1));
    net.send(a, b, b"x");
    net.send(b, a, b"x");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1));
}

#[test]
fn a_direct_path_that_dies_is_replaced() {
    let (mut net, a, b, _) = introduced(Nat::PortRestricted, Nat::PortRestricted, 2);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    assert!(net.is_direct(a, b));
    net.reboot_nat(a);
    for _ in 0..20 {
        net.send(a, b, b"x");
        net.send(b, a, b"x");
        net.run(Duration::from_millis(500));
    }
    let before = (net.data(a, b).len(), net.data(b, a).len());
    net.send(a, b, b"x");
    net.send(b, a, b"x");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (before.0 + 1, before.1 + 1));
    let disconnected = |event: &Event| matches!(event, Event::Disconnected { .. });
    assert_eq!((net.count(a, disconnected), net.count(b, disconnected)), (0, 0));
}

#[test]
fn a_pair_that_can_no_longer_hear_each_other_directly_falls_back_to_a_relay() {
    let (mut net, a, b, _) = introduced(Nat::FullCone, Nat::FullCone, 2);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    assert!(net.is_direct(a, b));
    net.cut.insert((a, b));
    for _ in 0..16 {
        net.send(a, b, b"x");
        net.send(b, a, b"x");
        net.run(Duration::from_millis(500));
    }
    assert!(matches!(net.path(a, b), Some(Path::Relayed(_))), "{:?}", net.path(a, b));
    let before = (net.data(a, b).len(), net.data(b, a).len());
    net.send(a, b, b"x");
    net.send(b, a, b"x");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (before.0 + 1, before.1 + 1));
}

#[test]
fn idle_direct_paths_outlive_the_mappings_of_their_nats() {
    let (mut net, a, b, _) = introduced(Nat::PortRestricted, Nat::PortRestricted, 1);
    net.connect(a, b, &[]);
    net.run(seconds(600));
    assert!(net.is_direct(a, b));
    net.send(a, b, b"x");
    net.send(b, a, b"x");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1));
}

#[test]
fn an_idle_relayed_session_outlives_its_route() {
    let (mut net, a, b, _) = introduced(Nat::Symmetric, Nat::Symmetric, 1);
    net.connect(a, b, &[]);
    net.run(seconds(1200));
    net.send(a, b, b"x");
    net.send(b, a, b"x");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1));
    let disconnected = |event: &Event| matches!(event, Event::Disconnected { reason: DisconnectReason::Timeout, .. });
    assert_eq!((net.count(a, disconnected), net.count(b, disconnected)), (0, 0));
}

#[test]
fn the_relayed_path_beside_a_direct_one_is_kept_warm_for_a_wanted_peer_and_then_forgotten() {
    let (mut net, a, b, relays) = introduced(Nat::FullCone, Nat::FullCone, 1);
    net.connect(a, b, &[]);
    net.run(seconds(1));
    net.run(seconds(1000));
    assert!(net.is_direct(a, b));
    assert_eq!(net.hosts[relays[0]].agent.relayed_routes(), 1);
    let passed = net.hosts[relays[0]].agent.stats().relayed;
    assert!(passed < 50, "{passed} datagrams through the relay");
    let (now, b_id) = (net.now, net.id(b));
    net.hosts[a].agent.disconnect(now, b_id);
    net.drain(a);
    net.run(seconds(400));
    assert_eq!(net.hosts[relays[0]].agent.relayed_routes(), 0);
}

/// Two that send each other data every 20 ms: the longest silence in either direction after `fault`.
fn longest_silence(net: &mut Net, a: usize, b: usize, fault: impl FnOnce(&mut Net)) -> Duration {
    let ends = [(a, b), (b, a)];
    let step = |net: &mut Net| {
        for (from, to) in ends {
            net.send_asking(from, to, b"x");
        }
        net.run(Duration::from_millis(20));
    };
    (0..100).for_each(|_| step(net));
    fault(net);
    let mut heard = ends.map(|(from, to)| (net.data(from, to).len(), net.now));
    let mut longest = Duration::ZERO;
    for _ in 0..500 {
        step(net);
        for (heard, (from, to)) in heard.iter_mut().zip(ends) {
            let count = net.data(from, to).len();
            longest = longest.max(net.now - heard.1);
            if count > heard.0 {
                *heard = (count, net.now);
            }
        }
    }
    longest
}

#[test]
fn a_nat_that_reboots_silences_a_busy_session_for_less_than_a_second_and_it_becomes_direct_again() {
    for (a_nat, b_nat) in
        [(Nat::PortRestricted, Nat::PortRestricted), (Nat::FullCone, Nat::AddressRestricted), (Nat::FullCone, Nat::FullCone)]
    {
        let (mut net, a, b, _) = introduced(a_nat, b_nat, 1);
        net.connect(a, b, &[]);
        net.run(seconds(5));
        let silence = longest_silence(&mut net, a, b, |net| net.reboot_nat(a));
        assert!(silence < seconds(1), "{silence:?}");
        assert!(net.is_direct(a, b), "{:?} {:?}", net.path(a, b), net.path(b, a));
    }
}

#[test]
fn a_direct_path_that_dies_under_data_is_left_within_a_second_and_found_again_once_it_heals() {
    let (mut net, a, b, _) = introduced(Nat::PortRestricted, Nat::PortRestricted, 1);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    let silence = longest_silence(&mut net, a, b, |net| {
        net.cut.insert((a, b));
    });
    assert!(silence < seconds(1), "{silence:?}");
    assert!(matches!((net.path(a, b), net.path(b, a)), (Some(Path::Relayed(_)), Some(Path::Relayed(_)))));
    net.cut.clear();
    net.run(seconds(200));
    assert!(net.is_direct(a, b), "{:?} {:?}", net.path(a, b), net.path(b, a));
}

#[test]
fn a_relayed_session_under_data_survives_its_relay_within_two_seconds() {
    let (mut net, a, b, relays) = introduced(Nat::Symmetric, Nat::Symmetric, 3);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    let Some(Path::Relayed(via)) = net.path(a, b) else { panic!("relayed") };
    let relay = *relays.iter().find(|relay| net.id(**relay) == via).unwrap();
    let silence = longest_silence(&mut net, a, b, |net| net.hosts[relay].alive = false);
    assert!(silence < seconds(2), "{silence:?}");
}

#[test]
fn what_goes_by_two_paths_arrives_once() {
    let (mut net, a, b, _) = introduced(Nat::PortRestricted, Nat::PortRestricted, 1);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    // Nobody answers for a while: both ends send copies through the relay, where both arrive when the direct path is only slow.
    net.delay = Duration::from_millis(900);
    for n in 0..100u8 {
        net.send_asking(a, b, &[n]);
        net.run(Duration::from_millis(20));
    }
    net.delay = Duration::from_millis(40);
    net.run(seconds(10));
    assert!(net.hosts[a].agent.stats().copies > 0);
    let mut arrived: Vec<u8> = net.data(a, b).iter().map(|data| data[0]).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_host_that_moves_under_data_is_heard_again_within_half_a_second() {
    let (mut net, a, b, _) = introduced(Nat::PortRestricted, Nat::PortRestricted, 1);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    let silence = longest_silence(&mut net, a, b, |net| {
        net.reboot_nat(a);
        let now = net.now;
        net.hosts[a].agent.set_local_addresses(now, &["10.9.9.9:4000".parse().unwrap()]);
        net.drain(a);
    });
    assert!(silence <= Duration::from_millis(500), "{silence:?}");
}

#[test]
fn a_peer_that_does_not_relay_refuses() {
    let mut net = Net::new(5);
    let relay = net.add_with(Nat::Open, Config { relay: false, ..Net::config() });
    let (a, b) = (net.add(Nat::FullCone), net.add(Nat::FullCone));
    net.connect_open(a, relay);
    net.connect_open(b, relay);
    net.run(seconds(1));
    net.connect(a, b, &[]);
    net.run(seconds(5));
    assert!(!net.is_connected(a, b));
    assert!(net.hosts[relay].agent.stats().refused > 0);
}

#[test]
fn two_that_ask_for_each_other_at_once_settle_and_go_direct() {
    let (mut net, a, b, _) = introduced(Nat::PortRestricted, Nat::AddressRestricted, 2);
    net.connect(a, b, &[]);
    net.connect(b, a, &[]);
    net.run(seconds(5));
    assert!(net.is_direct(a, b));
    for _ in 0..10 {
        net.send(a, b, b"x");
        net.send(b, a, b"x");
        net.run(Duration::from_millis(200));
    }
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (10, 10));
}

#[test]
fn peers_see_for_each_other_where_they_are() {
    let (mut net, a, _, _) = introduced(Nat::PortRestricted, Nat::Open, 2);
    net.run(seconds(60));
    let seen: Vec<_> = net.hosts[a].agent.reflexive_addresses().collect();
    let router = net.nat(a).unwrap();
    assert_eq!(
        (seen.len(), seen[0].ip(), router.flows_from(seen[0])),
        (1, router.address(), 2),
        "the port by which it keeps in touch with both relays"
    );
    assert_eq!(net.count(a, |event| matches!(event, Event::Reflexive(address) if *address == seen[0])), 1, "told once");
    let (net, a, _, _) = introduced(Nat::Symmetric, Nat::Open, 2);
    assert_eq!(net.hosts[a].agent.reflexive_addresses().count(), 2, "a symmetric NAT shows each peer another port");
}

#[test]
fn a_moved_host_goes_on_with_its_sessions() {
    let mut net = Net::new(5);
    let (a, b) = (net.add(Nat::FullCone), net.add(Nat::Open));
    net.connect_open(a, b);
    net.run(seconds(5));
    net.reboot_nat(a);
    let now = net.now;
    net.hosts[a].agent.set_local_addresses(now, &["10.9.9.9:4000".parse().unwrap()]);
    net.drain(a);
    net.run(Duration::from_millis(250));
    net.send(b, a, b"x");
    net.run(seconds(1));
    assert_eq!(net.data(b, a).len(), 1);
    assert_eq!(net.count(b, |event| matches!(event, Event::PathChanged { .. })), 1);
}

#[test]
fn loss_delays_a_session_and_its_direct_path_and_prevents_neither() {
    let (mut connected, mut direct) = (Vec::new(), Vec::new());
    for seed in 0..200 {
        let mut net = Net::new(seed);
        let relay = net.add(Nat::Open);
        let (a, b) = (net.add(Nat::PortRestricted), net.add(Nat::PortRestricted));
        net.connect_open(a, relay);
        net.connect_open(b, relay);
        net.run(seconds(2));
        net.loss = 0.05;
        net.connect(a, b, &[]);
        connected.push(net.run_until(seconds(60), |net| net.is_connected(a, b)).unwrap());
        direct.push(net.run_until(seconds(60), |net| net.is_direct(a, b)).unwrap());
    }
    connected.sort_unstable();
    direct.sort_unstable();
    assert!(connected[180] < Duration::from_millis(500) && connected[199] < seconds(3), "{:?} {:?}", connected[180], connected[199]);
    assert!(direct[180] < Duration::from_millis(500) && direct[199] < seconds(8), "{:?} {:?}", direct[180], direct[199]);
}

/// A swarm with two public peers; everyone knows only those.
fn swarm(seed: u64, size: usize, churn: bool) -> Net {
    let mut net = Net::new(seed);
    let config = || Config { target_sessions: 10, ..Net::config() };
    let public = [net.add_with(Nat::Open, config()), net.add_with(Nat::Open, config())];
    for n in 0..size {
        let nat = NATS[[4, 3, 2, 3, 4, 3, 2, 3, 4, 1][n % 10]];
        let host = net.add_with(nat, config());
        for public in public {
            net.connect_open(host, public);
        }
        net.run(Duration::from_millis(300));
        if churn && n % 5 == 4 {
            net.hosts[n - 1].alive = false;
        }
    }
    net
}

#[test]
fn a_swarm_that_knows_two_public_peers_gets_its_sessions_by_peer_exchange() {
    let mut net = swarm(11, 40, false);
    net.run(seconds(60));
    for host in &net.hosts {
        let sessions = host.agent.sessions();
        assert!(sessions >= 10, "{sessions}");
    }
    let private: usize = net.hosts[2..].iter().map(|host| host.agent.sessions()).sum();
    assert!(private / 40 <= 20, "not more than twice what is asked for: {}", private / 40);
}

#[test]
fn an_idle_swarm_keeps_to_its_budget() {
    let mut net = swarm(11, 40, false);
    net.run(seconds(60));
    let before = net.total_sent();
    net.run(seconds(100));
    let rate = (net.total_sent() - before) as f64 / 100.0 / net.hosts.len() as f64;
    let sessions: usize = net.hosts.iter().map(|host| host.agent.sessions()).sum();
    let mean = sessions as f64 / net.hosts.len() as f64;
    assert!(rate < 0.11 * mean && rate < 1.2, "{rate} datagrams per peer and second, {mean} sessions each");
}

#[test]
fn lost_sessions_are_replaced() {
    let mut net = swarm(12, 40, true);
    net.run(seconds(120));
    for host in net.hosts.iter().filter(|host| host.alive) {
        assert!(host.agent.sessions() >= 10, "{}", host.agent.sessions());
    }
}

#[test]
fn two_peers_on_one_link_find_each_other_by_beacon_within_a_second() {
    let mut net = Net::new(9);
    let config = || Config { lan: true, ..Net::config() };
    let (a, b) = (net.add_with(Nat::Open, config()), net.add_with(Nat::Open, config()));
    let stranger = net.add_with(Nat::Open, Config { swarm: [9; 32], ..config() });
    net.run(seconds(1));
    assert!(net.is_connected(a, b));
    assert!(!net.is_connected(a, stranger), "of another swarm");
    net.send(a, b, b"x");
    net.run(seconds(1));
    assert_eq!(net.data(a, b).len(), 1);
}

#[test]
fn beacons_grow_rare_and_a_disabled_one_is_never_sent() {
    let mut net = Net::new(9);
    let a = net.add_with(Nat::Open, Config { lan: true, ..Net::config() });
    net.run(seconds(3600));
    assert!(net.hosts[a].agent.stats().beacons_sent < 85);
    let b = net.add(Nat::Open);
    net.run(seconds(100));
    assert_eq!(net.hosts[b].agent.stats().sent, 0);
    assert!(net.hosts[b].agent.stats().dropped_beacons > 0, "nor answered");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn introductions_under_loss_settle_and_data_flows(seed: u64, a in 0..5usize, b in 0..5usize, loss in 0.0..0.2f64, jitter in 0u64..100, both: bool) {
        let mut net = Net::new(seed);
        (net.loss, net.jitter) = (loss, Duration::from_millis(jitter));
        let relays = [net.add(Nat::Open), net.add(Nat::Open)];
        let (a_nat, b_nat) = (NATS[a], NATS[b]);
        let (a, b) = (net.add(a_nat), net.add(b_nat));
        for relay in relays {
            net.connect_open(a, relay);
            net.connect_open(b, relay);
        }
        net.run(seconds(5));
        net.connect(a, b, &[]);
        if both {
            net.connect(b, a, &[]);
        }
        prop_assert!(net.run_until(seconds(60), |net| net.is_connected(a, b)).is_some());
        net.loss = 0.0;
        net.run(seconds(30));
        let before = (net.data(a, b).len(), net.data(b, a).len());
        for _ in 0..10 {
            net.send(a, b, b"x");
            net.send(b, a, b"x");
            net.run(seconds(1));
        }
        prop_assert_eq!((net.data(a, b).len() - before.0, net.data(b, a).len() - before.1), (10, 10));
    }
}
