//! What strangers, liars and noise can and cannot do: each promise of docs/THREATS.md about this layer by name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod net;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use net::{Nat, Net, seconds};
use peers_nat::{Config, Event, MAX_DATA, Path, Stats};
use proptest::prelude::*;

const SPOOFED: &str = "198.51.100.77:7777";

fn spoofed() -> SocketAddr {
    SPOOFED.parse().unwrap()
}

/// Two connected agents; `b` is the one that is attacked.
fn pair() -> (Net, usize, usize) {
    let mut net = Net::new(21);
    let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
    net.connect_open(a, b);
    net.run(seconds(2));
    assert!(net.is_connected(a, b));
    (net, a, b)
}

fn stats(net: &Net, n: usize) -> Stats {
    net.hosts[n].agent.stats()
}

/// Datagrams and bytes that host `n` sent to `address`.
fn sent_to(net: &Net, n: usize, address: SocketAddr) -> (u64, u64) {
    net.hosts[n].sent.get(&address).copied().unwrap_or_default()
}

/// The last datagram of this kind that was sent to host `n`.
fn tapped(net: &Net, kind: u8, n: usize) -> Bytes {
    let address = net.address(n);
    net.tap.iter().rev().find(|(_, to, datagram)| *to == address && datagram[0] == kind).unwrap().2.clone()
}

/// The session still carries data both ways, and nothing came up that was not sent.
fn unharmed(net: &mut Net, a: usize, b: usize) {
    let before = (net.data(a, b).len(), net.data(b, a).len());
    net.send(a, b, b"still");
    net.send(b, a, b"here");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (before.0 + 1, before.1 + 1));
    assert_eq!(net.count(b, |event| matches!(event, Event::Disconnected { .. })), 0);
}

#[test]
fn a_truncated_datagram_is_dropped_and_counted() {
    let (mut net, a, b) = pair();
    for kind in [1, 2, 4] {
        let from = if kind == 2 { b } else { a };
        let to = if kind == 2 { a } else { b };
        let (source, datagram) = (net.address(from), tapped(&net, kind, to));
        let before = stats(&net, to);
        for length in 0..datagram.len() {
            net.inject(to, source, &datagram[..length]);
        }
        let after = stats(&net, to);
        let dropped = |stats: Stats| {
            stats.dropped_malformed + stats.dropped_forged + stats.dropped_unknown + stats.dropped_replayed + stats.duplicates
        };
        assert_eq!(dropped(after) - dropped(before), datagram.len() as u64, "kind {kind}");
        assert_eq!(after.sent, before.sent, "and not answered");
    }
    unharmed(&mut net, a, b);
}

#[test]
fn an_oversized_datagram_is_dropped_and_counted() {
    let (mut net, a, b) = pair();
    let source = net.address(a);
    let mut datagram = tapped(&net, 4, b).to_vec();
    datagram.resize(1201, 0);
    net.inject(b, source, &datagram);
    net.inject(b, source, &[4; 65_000]);
    assert_eq!(stats(&net, b).dropped_oversized, 2);
    unharmed(&mut net, a, b);
}

#[test]
fn random_datagrams_are_dropped_and_counted() {
    let (mut net, a, b) = pair();
    let before = stats(&net, b);
    for n in 0..20_000usize {
        let mut datagram = net.random_bytes(n % 1200);
        if let Some(first) = datagram.first_mut() {
            *first %= 12;
        }
        net.inject(b, spoofed(), &datagram);
    }
    let after = stats(&net, b);
    let dropped = |stats: Stats| {
        stats.dropped_malformed
            + stats.dropped_forged
            + stats.dropped_unknown
            + stats.dropped_replayed
            + stats.dropped_relayed
            + stats.dropped_beacons
    };
    assert_eq!(dropped(after) - dropped(before), 20_000);
    assert_eq!((after.sent, sent_to(&net, b, spoofed())), (before.sent, (0, 0)));
    unharmed(&mut net, a, b);
}

#[test]
fn data_for_an_unknown_session_is_dropped_and_counted() {
    let (mut net, a, b) = pair();
    let mut datagram = tapped(&net, 4, b).to_vec();
    datagram[1] ^= 1;
    net.inject(b, spoofed(), &datagram);
    assert_eq!(stats(&net, b).dropped_unknown, 1);
    unharmed(&mut net, a, b);
}

#[test]
fn forged_data_is_dropped_and_counted() {
    let (mut net, a, b) = pair();
    net.send(a, b, b"genuine");
    let mut datagram = tapped(&net, 4, b).to_vec();
    let last = datagram.len() - 1;
    datagram[last] ^= 1;
    net.inject(b, spoofed(), &datagram);
    assert_eq!((stats(&net, b).dropped_forged, sent_to(&net, b, spoofed()).0), (1, 0));
    net.run(seconds(1));
    assert_eq!(net.data(a, b), [&b"genuine"[..]]);
    unharmed(&mut net, a, b);
}

#[test]
fn replayed_data_is_dropped_and_counted() {
    let (mut net, a, b) = pair();
    net.send(a, b, b"once");
    net.run(seconds(1));
    let datagram = tapped(&net, 4, b);
    for _ in 0..10 {
        net.inject(b, spoofed(), &datagram);
    }
    assert_eq!((stats(&net, b).dropped_replayed, sent_to(&net, b, spoofed()).0), (10, 0));
    assert_eq!(net.data(a, b).len(), 1);
    unharmed(&mut net, a, b);
}

#[test]
fn a_replayed_initiation_begins_nothing_and_harms_nothing() {
    let (mut net, a, b) = pair();
    let first = tapped(&net, 1, b);
    // The latest one is answered as it was; older ones are refused.
    net.restart(a);
    net.connect_open(a, b);
    net.run(seconds(2));
    let before = net.hosts[b].events.len();
    for _ in 0..10 {
        net.inject(b, spoofed(), &first);
    }
    assert_eq!((stats(&net, b).dropped_replayed, sent_to(&net, b, spoofed()).0), (10, 0));
    let latest = tapped(&net, 1, b);
    net.inject(b, spoofed(), &latest);
    net.run(seconds(70));
    assert_eq!(net.hosts[b].events.len(), before, "no word of it to the layer above");
    net.send(b, a, b"x");
    net.run(seconds(1));
    assert_eq!(net.data(b, a).len(), 1);
}

#[test]
fn a_handshake_for_someone_else_is_dropped_and_counted() {
    let (mut net, a, b) = pair();
    let c = net.add(Nat::Open);
    let initiation = tapped(&net, 1, b);
    net.inject(c, spoofed(), &initiation);
    assert_eq!((stats(&net, c).dropped_forged, stats(&net, c).sent), (1, 0));
    unharmed(&mut net, a, b);
}

#[test]
fn an_unproven_address_is_never_sent_more_than_three_bytes_per_byte_it_sent() {
    let (mut net, a, b) = pair();
    // A datagram of every kind, replayed and fresh, each from an address of its own.
    let c = net.add(Nat::Open);
    let (now, wall, address) = (net.now, net.wall(), net.address(b));
    net.hosts[c].agent.connect_address(now, wall, address);
    net.connect_open(c, b);
    net.run(seconds(1));
    net.send(a, b, &[1; MAX_DATA]);
    let mut seen = 0u16;
    let datagrams: Vec<Bytes> = net.tap.iter().filter(|(_, to, _)| *to == address).map(|(_, _, datagram)| datagram.clone()).collect();
    for datagram in datagrams {
        for repeat in 1..4u64 {
            seen += 1;
            let source = SocketAddr::from(([198, 51, 100, 1], 1000 + seen));
            for _ in 0..repeat {
                net.inject(b, source, &datagram);
            }
            net.run(seconds(20));
            let (_, sent) = sent_to(&net, b, source);
            assert!(sent <= 3 * repeat * datagram.len() as u64, "{sent} bytes for {repeat} x {} of kind {}", datagram.len(), datagram[0]);
        }
    }
}

#[test]
fn a_redirected_datagram_does_not_move_a_session_nor_make_us_flood_its_source() {
    let (mut net, a, b) = pair();
    // Somebody between delivers what `a` sends from another address, before the real one.
    for n in 0..50u8 {
        net.send(a, b, &[n]);
        let datagram = tapped(&net, 4, b);
        net.inject(b, spoofed(), &datagram);
        for _ in 0..10 {
            net.send(b, a, &[0; 1000]);
        }
        net.run(Duration::from_millis(100));
    }
    let received = 50 * tapped(&net, 4, b).len() as u64;
    let (_, sent) = sent_to(&net, b, spoofed());
    assert!(sent > 0 && sent <= 3 * received, "{sent}");
    assert_eq!(net.path(b, a), Some(Path::Direct(net.address(a))));
    assert_eq!(net.count(b, |event| matches!(event, Event::PathChanged { .. })), 0);
    assert_eq!(net.data(a, b).len(), 50, "each arrived once");
}

#[test]
fn an_introduced_address_gets_at_most_eight_probes() {
    let mut net = Net::new(4);
    let relay = net.add(Nat::Open);
    let victim: SocketAddr = "203.0.113.5:53".parse().unwrap();
    let b = net.add(Nat::PortRestricted);
    net.connect_open(b, relay);
    // Twenty liars name the victim among their own addresses, again and again.
    let liars: Vec<usize> = (0..20).map(|_| net.add(Nat::Symmetric)).collect();
    for liar in &liars {
        let now = net.now;
        net.hosts[*liar].agent.set_local_addresses(now, &[victim]);
        net.connect_open(*liar, relay);
    }
    net.run(seconds(2));
    for liar in liars {
        net.connect(liar, b, &[]);
        net.run(seconds(2));
    }
    let (probes, bytes) = sent_to(&net, b, victim);
    assert!((1..=8).contains(&probes) && bytes <= 8 * 400, "{probes} probes, {bytes} bytes");
}

#[test]
fn strangers_cannot_make_us_probe_our_own_network() {
    let mut net = Net::new(4);
    let relay = net.add(Nat::Open);
    let (a, b) = (net.add(Nat::Symmetric), net.add(Nat::PortRestricted));
    let printer: SocketAddr = "192.168.1.9:631".parse().unwrap();
    let now = net.now;
    net.hosts[a].agent.set_local_addresses(now, &[printer, "127.0.0.1:22".parse().unwrap()]);
    net.connect_open(a, relay);
    net.connect_open(b, relay);
    net.run(seconds(2));
    net.connect(a, b, &[]);
    net.run(seconds(20));
    assert!(net.is_connected(a, b));
    assert!(net.hosts[b].sent.keys().all(|address| address.ip().to_string().starts_with("50.0.0.")), "{:?}", net.hosts[b].sent.keys());
}

#[test]
fn pings_are_answered_inside_sessions_only() {
    let (mut net, a, b) = pair();
    let before = stats(&net, b).sent;
    for plaintext in [&[0, 1][..], &[0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0]] {
        net.inject(b, spoofed(), plaintext);
        let mut datagram = tapped(&net, 4, b)[..13].to_vec();
        datagram.extend_from_slice(plaintext);
        datagram.extend_from_slice(&[0; 32]);
        net.inject(b, spoofed(), &datagram);
    }
    assert_eq!(stats(&net, b).sent, before);
    unharmed(&mut net, a, b);
}

#[test]
fn a_flood_of_handshakes_is_challenged_and_others_still_get_in() {
    let mut net = Net::new(2);
    let b = net.add_with(Nat::Open, Config { max_sessions: 50, ..Net::config() });
    let flood: Vec<usize> = (0..150).map(|_| net.add(Nat::Open)).collect();
    for n in &flood {
        net.connect_open(*n, b);
    }
    net.run(Duration::from_millis(50));
    assert!(stats(&net, b).challenged > 0);
    let (_, sent) = net.hosts[b].sent.values().fold((0, 0), |sum, sent| (sum.0 + sent.0, sum.1 + sent.1));
    assert!(sent < net.hosts[b].received.values().map(|received| received.1).sum::<u64>());
    net.run(seconds(5));
    assert!(net.hosts[b].agent.sessions() <= 50, "sessions are bounded");
    assert!(stats(&net, b).dropped_limited > 0);
    // Who was challenged gets in with the cookie.
    let mut net = Net::new(2);
    let b = net.add(Nat::Open);
    let many: Vec<usize> = (0..150).map(|_| net.add(Nat::Open)).collect();
    for n in &many {
        net.connect_open(*n, b);
    }
    net.run(seconds(3));
    assert!(stats(&net, b).challenged > 0);
    assert_eq!(net.hosts[b].agent.sessions(), 150);
}

#[test]
fn a_spoofed_beacon_is_answered_once_with_less_than_three_times_its_bytes() {
    let mut net = Net::new(2);
    let config = || Config { lan: true, ..Net::config() };
    let (a, b) = (net.add_with(Nat::Open, config()), net.add_with(Nat::Open, config()));
    net.cut.insert((a, b));
    net.run(seconds(1));
    let beacon = net.tap.iter().find(|(_, to, _)| to.ip().is_multicast()).unwrap().2.clone();
    let fresh = net.add_with(Nat::Open, config());
    for n in 0..100 {
        net.inject(fresh, SocketAddr::from(([192, 168, 1, n], 47474)), &beacon);
    }
    net.run(Duration::from_millis(100));
    let victims: Vec<_> = net.hosts[fresh].sent.iter().filter(|(to, _)| to.ip().to_string().starts_with("192.168.1.")).collect();
    assert_eq!(victims.len(), 1);
    assert!(victims[0].1.0 == 1 && victims[0].1.1 <= 3 * beacon.len() as u64, "{victims:?}");
}

#[test]
fn a_relay_passes_on_only_what_an_end_of_the_route_sends() {
    let mut net = Net::new(5);
    let relay = net.add(Nat::Open);
    let (a, b) = (net.add(Nat::Symmetric), net.add(Nat::Symmetric));
    net.connect_open(a, relay);
    net.connect_open(b, relay);
    net.run(seconds(1));
    net.connect(a, b, &[]);
    net.run(seconds(10));
    net.send(a, b, b"x");
    let relayed = tapped(&net, 5, relay);
    let before = stats(&net, relay);
    net.inject(relay, spoofed(), &relayed);
    let mut unknown = relayed.to_vec();
    unknown[3] ^= 1;
    net.inject(relay, spoofed(), &unknown);
    net.inject(relay, spoofed(), &[5; 9]);
    let after = stats(&net, relay);
    assert_eq!((after.dropped_relayed - before.dropped_relayed, after.dropped_malformed - before.dropped_malformed), (2, 1));
    assert_eq!((after.relayed, after.sent), (before.relayed, before.sent));
}

#[test]
fn a_relay_that_alters_drops_or_repeats_cannot_do_more_than_lose_datagrams() {
    let mut net = Net::new(5);
    let relay = net.add(Nat::Open);
    let (a, b) = (net.add(Nat::Symmetric), net.add(Nat::Symmetric));
    net.connect_open(a, relay);
    net.connect_open(b, relay);
    net.run(seconds(1));
    net.connect(b, a, &[]);
    net.run(seconds(1));
    net.send(b, a, b"once");
    net.run(seconds(1));
    let source = net.address(relay);
    let relayed = net.tap.iter().rev().find(|(from, _, datagram)| *from == source && datagram[0] == 5).unwrap().2.clone();
    for position in 0..relayed.len() {
        let mut altered = relayed.to_vec();
        altered[position] ^= 0x40;
        net.inject(a, source, &altered);
        net.inject(a, source, &relayed);
    }
    net.run(seconds(5));
    assert_eq!(net.data(b, a), [&b"once"[..]]);
    unharmed(&mut net, b, a);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn altered_copies_of_real_traffic_change_nothing_and_amplify_nothing(
        seed: u64,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..4u8, any::<bool>()), 1..200),
    ) {
        let mut net = Net::new(seed);
        let relay = net.add_with(Nat::Open, Config { lan: true, ..Net::config() });
        let (a, b) = (net.add(Nat::PortRestricted), net.add(Nat::Symmetric));
        net.connect_open(a, relay);
        net.connect_open(b, relay);
        net.run(seconds(1));
        net.connect(a, b, &[]);
        net.run(seconds(3));
        net.send(a, b, b"data");
        net.run(seconds(1));
        let real = net.tap.clone();
        let mut received = 0;
        for (which, place, byte, how, elsewhere) in edits {
            let (source, _, datagram) = &real[which.index(real.len())];
            let mut datagram = datagram.to_vec();
            let place = place.index(datagram.len());
            match how {
                0 => datagram[place] = byte,
                1 => datagram.truncate(place),
                2 => datagram.push(byte),
                _ => {}
            }
            let source = if elsewhere { spoofed() } else { *source };
            for host in [relay, a, b] {
                net.inject(host, source, &datagram);
                received += if elsewhere { datagram.len() as u64 } else { 0 };
            }
            net.run(Duration::from_millis(10));
        }
        net.run(seconds(20));
        let sent: u64 = [relay, a, b].iter().map(|n| sent_to(&net, *n, spoofed()).1).sum();
        prop_assert!(sent <= 3 * received, "{} > 3 * {}", sent, received);
        prop_assert!(net.is_connected(a, b) && net.is_connected(a, relay) && net.is_connected(b, relay));
        let before = net.data(b, a).len();
        net.send(b, a, b"x");
        net.run(seconds(1));
        prop_assert_eq!(net.data(b, a).len(), before + 1);
        prop_assert_eq!(net.data(a, b).len(), 1, "nothing is delivered twice");
    }
}
