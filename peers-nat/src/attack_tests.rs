//! What liars who hold sessions, and strangers who forge addresses, tried in vain after it had once worked.

use core::net::SocketAddr;
use std::time::Duration;

use crate::Config;
use crate::control::{Control, Route};
use crate::fuzzing::Rig;
use crate::limits::{Ledger, PROBE_WINDOW};
use crate::output::SocketId;
use crate::ports::Mapping;

const SECOND: Duration = Duration::from_secs(1);

fn rig() -> Rig {
    Rig::new(Config { lan: false, target_sessions: 0, ..Config::default() })
}

/// The hostile peer `relay` introduces the hostile peer `who` as if it were seen at `seen`.
fn introduce(rig: &mut Rig, relay: usize, who: usize, route: Route, seen: SocketAddr, candidates: Vec<SocketAddr>) {
    let initiation = rig.initiation(who, candidates);
    let introduction = rig.sealed(relay, &[Control::Introduction { route, address: seen, initiation: &initiation }]).expect("a session");
    let source = rig.hostile[relay].addresses[0];
    rig.inject(source, introduction);
}

/// The hostile peer `by` says that it sees the agent at `seen`.
fn observe(rig: &mut Rig, by: usize, seen: SocketAddr) {
    let ping = rig.sealed(by, &[Control::Ping { token: 4, association: 9, observed: Some(seen) }]).expect("a session");
    let source = rig.hostile[by].addresses[0];
    rig.inject(source, ping);
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn a_relay_and_a_peer_that_begin_anew_again_and_again_do_not_have_ports_opened_to_a_third_without_end() {
    let mut rig = rig();
    rig.establish(1);
    rig.mapping = Mapping::Independent;
    let victim = address("192.0.2.1:53");
    for _ in 0..50 {
        introduce(&mut rig, 1, 0, 77, victim, Vec::new());
        rig.run(SECOND);
    }
    let sent = rig.bystanders[&victim].sent / 32;
    assert!(sent <= 2 * 512 + 8 * 32, "{sent} datagrams to an address that was only named");
}

#[test]
fn a_relay_out_there_that_says_it_shares_our_address_does_not_aim_us_at_our_own_network() {
    let mut rig = rig();
    rig.establish(1);
    let (near, lie) = (address("192.168.1.1:80"), SocketAddr::new(rig.hostile[1].addresses[0].ip(), 9));
    observe(&mut rig, 1, lie);
    rig.mapping = Mapping::Dependent;
    introduce(&mut rig, 1, 0, 77, near, vec![near]);
    let opened =
        rig.sealed(0, &[Control::Ping { token: 1, association: 9, observed: None }, Control::Opened { low: 1, high: 60_000, opened: 512 }]);
    let source = rig.hostile[1].addresses[0];
    rig.inject(source, crate::relay::wrap(77, &opened.expect("the handshake was answered")).into());
    let vouch = rig.sealed(1, &[Control::Vouch { token: 8, address: near }]).expect("a session");
    rig.inject(source, vouch);
    rig.run(SECOND * 10);
    assert_eq!((rig.bystanders[&near].sent, rig.sprayed.get(&near.ip())), (0, None));
}

#[test]
fn one_liar_among_reporters_does_not_aim_us_at_our_own_network_by_candidates() {
    let mut rig = rig();
    for n in 1..4 {
        rig.establish(n);
    }
    let (near, seen) = (address("192.168.1.1:80"), address("192.0.2.2:443"));
    observe(&mut rig, 1, SocketAddr::new(seen.ip(), 9));
    observe(&mut rig, 2, address("203.0.113.1:4000"));
    observe(&mut rig, 3, address("203.0.113.1:4000"));
    introduce(&mut rig, 1, 0, 77, seen, vec![near]);
    rig.run(SECOND * 10);
    assert_eq!(rig.bystanders[&near].sent, 0);
}

#[test]
fn a_relay_that_sees_a_peer_elsewhere_meanwhile_does_not_turn_a_spray_to_another_network() {
    let mut rig = rig();
    rig.establish(1);
    rig.mapping = Mapping::Dependent;
    let (now, wall, peer, source) = (rig.now, rig.wall(), rig.hostile[0].key.id(), rig.hostile[1].addresses[0]);
    let (first, second) = (address("192.0.2.1:53"), address("203.0.113.9:7"));
    rig.agent.connect(now, wall, peer, &[]).expect("room for one");
    rig.drain();
    let introduced = rig.sealed(1, &[Control::Introduced { target: peer, route: 77, address: first }]).expect("a session");
    rig.inject(source, introduced);
    introduce(&mut rig, 1, 0, 77, first, Vec::new());
    let opened =
        rig.sealed(0, &[Control::Ping { token: 1, association: 9, observed: None }, Control::Opened { low: 1, high: 60_000, opened: 512 }]);
    rig.inject(source, crate::relay::wrap(77, &opened.expect("the handshake was answered")).into());
    rig.run(SECOND / 4);
    assert!(rig.sprayed.contains_key(&first.ip()), "{:?}", rig.sprayed);
    let introduced = rig.sealed(1, &[Control::Introduced { target: peer, route: 77, address: second }]).expect("a session");
    rig.inject(source, introduced);
    rig.run(SECOND * 10);
    assert_eq!(rig.sprayed.get(&second.ip()), None);
}

#[test]
fn who_forges_the_address_of_another_peer_does_not_have_it_spoken_to_by_another_socket() {
    let mut rig = rig();
    rig.establish(0);
    rig.establish(3);
    let (now, wall, other) = (rig.now, rig.wall(), rig.hostile[3].addresses[0]);
    assert!(rig.agent.peers[&rig.hostile[3].key.id()].paths.is_at(other));
    let socket = rig.agent.open_socket(now, SECOND * 60).expect("there is room");
    let ping = |rig: &mut Rig| rig.sealed(0, &[Control::Ping { token: 1, association: 9, observed: None }]).expect("a session");
    let forged = ping(&mut rig);
    rig.agent.handle_auxiliary(now, wall, socket, other, forged);
    assert_eq!(rig.agent.sockets.of(other), SocketId::MAIN);
    let mut bound = 0;
    for port in 1..2000 {
        let (forged, from) = (ping(&mut rig), SocketAddr::from(([50, 0, 0, 1], port)));
        rig.agent.handle_auxiliary(now, wall, socket, from, forged);
        bound += usize::from(rig.agent.sockets.of(from) == socket);
    }
    assert!(bound <= 8, "{bound} addresses are bound");
}

#[test]
fn a_tcp_client_at_the_address_of_a_peer_does_not_take_over_what_is_sent_there_by_udp() {
    let mut rig = rig();
    rig.establish(3);
    let (now, wall, other) = (rig.now, rig.wall(), rig.hostile[3].addresses[0]);
    rig.agent.handle_auxiliary(now, wall, SocketId::STREAM, other, vec![0; 20].into());
    assert_eq!(rig.agent.sockets.of(other), SocketId::MAIN);
    // And the other way round: a peer that forges the address of one that is there by a stream.
    rig.establish(0);
    let stream = rig.hostile[1].addresses[0];
    rig.hostile[1].answers = false;
    let initiation = rig.initiation(1, Vec::new());
    rig.agent.handle_auxiliary(now, wall, SocketId::STREAM, stream, initiation);
    rig.drain();
    let ping = rig.sealed(1, &[Control::Ping { token: 1, association: 9, observed: None }]).expect("a session");
    rig.agent.handle_auxiliary(now, wall, SocketId::STREAM, stream, ping);
    rig.drain();
    let token = *rig.hostile[1].tokens.last().expect("it was asked, too");
    let pong = rig.sealed(1, &[Control::Pong { token, association: 9, observed: None }]).expect("a session");
    rig.agent.handle_auxiliary(now, wall, SocketId::STREAM, stream, pong);
    rig.drain();
    assert!(rig.agent.peers[&rig.hostile[1].key.id()].paths.is_at(stream));
    assert_eq!(rig.agent.sockets.of(stream), SocketId::STREAM);
    let forged = rig.sealed(0, &[Control::Ping { token: 1, association: 9, observed: None }]).expect("a session");
    rig.inject(stream, forged);
    assert_eq!(rig.agent.sockets.of(stream), SocketId::STREAM);
}

#[test]
fn who_names_the_tag_or_the_route_of_another_does_not_get_what_is_the_others() {
    let mut rig = rig();
    rig.establish(3);
    rig.establish(0);
    let other = rig.hostile[3].key.id();
    assert_eq!(rig.agent.tags.get(&11), Some(&other), "both offered the same one");
    let close = rig.sealed(0, &[Control::Close]).expect("a session");
    let source = rig.hostile[0].addresses[0];
    rig.inject(source, close);
    assert_eq!(rig.agent.tags.get(&11), Some(&other));
    rig.establish(1);
    introduce(&mut rig, 3, 2, 77, address("192.0.2.1:53"), Vec::new());
    let before = rig.agent.routes[&77];
    introduce(&mut rig, 1, 0, 77, address("192.0.2.1:53"), Vec::new());
    assert_eq!(rig.agent.routes[&77], before);
}

#[test]
fn a_flood_of_strangers_does_not_have_a_recorded_handshake_of_a_connected_peer_taken_again() {
    let mut rig = rig();
    let source = rig.hostile[0].addresses[0];
    let recorded = rig.initiation(0, Vec::new());
    rig.inject(source, recorded.clone());
    rig.establish(0);
    assert!(rig.agent.peer(rig.hostile[0].key.id()).is_some());
    // As after 4096 initiators more.
    rig.agent.freshness = peers_crypto::Freshness::default();
    let answered = rig.agent.stats().answered;
    rig.inject(address("192.0.2.1:53"), recorded);
    assert_eq!(rig.agent.stats().answered, answered);
}

#[test]
fn a_probe_that_is_too_short_for_its_answer_to_an_ipv6_address_is_dropped() {
    let mut rig = rig();
    rig.establish(0);
    let (far, key) = (address("[2001:db8:5::1]:53"), rig.hostile[0].key.id());
    assert!(rig.agent.peers.contains_key(&key));
    let mut probe = vec![0; 32];
    probe[0] = 10;
    probe[8] = 11;
    rig.inject(far, probe.into());
    let account = rig.bystanders[&far];
    assert!(account.sent <= 3 * account.received, "{account:?}");
}

#[test]
fn strangers_cannot_use_up_the_probes_of_those_who_were_asked_for() {
    let mut rig = rig();
    let now = rig.now;
    let mut ledger = Ledger::default();
    let address = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
    let strangers = (1..2000).filter(|n| ledger.take(now, address(*n), false)).count();
    let wanted = (2000..4000).filter(|n| ledger.take(now, address(*n), true)).count();
    assert_eq!((strangers, wanted), (256, 256));
    assert!(ledger.take(now + PROBE_WINDOW, address(1), false));
    rig.run(SECOND);
}

#[test]
fn a_reporter_that_sees_port_zero_everywhere_does_not_make_us_panic() {
    assert_eq!(crate::ports::judge(&[0; 8]), None);
}
