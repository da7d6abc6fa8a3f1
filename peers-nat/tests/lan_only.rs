//! An agent that keeps to its LAN. In this network all hosts without NAT share a link, and those behind one have private addresses.

mod net;

use std::net::SocketAddr;
use std::time::Duration;

use net::{Nat, Net, seconds};
use peers_nat::Config;

fn lan_only() -> Config {
    Config { lan_only: true, lan: true, ..Net::config() }
}

/// Everything that was sent from `source`.
fn sent(net: &Net, n: usize) -> Vec<SocketAddr> {
    net.hosts[n].sent.keys().copied().collect()
}

fn is_private_or_group(address: &SocketAddr) -> bool {
    match address.ip() {
        std::net::IpAddr::V4(ip) => ip.is_private() || ip.is_multicast(),
        std::net::IpAddr::V6(ip) => ip.is_multicast(),
    }
}

#[test]
fn nothing_leaves_the_lan_whatever_is_asked_for_and_whoever_asks() {
    let mut net = Net::new(3);
    let (a, far) = (net.add_with(Nat::FullCone, lan_only()), net.add(Nat::Open));
    let (address, far_id) = (net.address(far), net.id(far));
    let (now, wall) = (net.now, net.wall());
    let agent = &mut net.hosts[a].agent;
    agent.connect(now, wall, far_id, &[address, "[2001:db8::1]:7".parse().unwrap()]).unwrap();
    agent.connect_address(now, wall, address);
    agent.connect_address(now, wall, "203.0.113.9:99".parse().unwrap());
    net.drain(a);
    // Handshakes of all kinds from beyond, as they come in by a forwarded port.
    let mapped = net.forward(a, 4000);
    let (now, wall, a_id) = (net.now, net.wall(), net.id(a));
    let far_agent = &mut net.hosts[far].agent;
    far_agent.connect(now, wall, a_id, &[mapped]).unwrap();
    far_agent.connect_address(now, wall, mapped);
    net.drain(far);
    net.run(seconds(300));
    assert!(net.hosts[a].received.len() == 1, "the other end knocked");
    assert!(!net.is_connected(a, far));
    let sent = sent(&net, a);
    assert!(!sent.is_empty() && sent.iter().all(is_private_or_group), "{sent:?}");
    assert!(net.hosts[a].agent.stats().unsent > 10, "it was tried");
}

#[test]
fn two_on_one_link_talk_and_a_relay_is_neither_asked_nor_followed() {
    let mut net = Net::new(4);
    let relay = net.add(Nat::Open);
    let (a, b, c) = (net.add_with(Nat::Open, lan_only()), net.add_with(Nat::Open, lan_only()), net.add(Nat::Symmetric));
    // Only a relay could join these two.
    net.cut.insert((a, c));
    net.connect_open(a, b);
    net.connect_open(a, relay);
    net.connect_open(c, relay);
    net.run(seconds(2));
    assert!(net.is_connected(a, b) && net.is_connected(a, relay) && net.is_connected(c, relay));
    net.connect(a, c, &[]);
    net.run(seconds(20));
    assert_eq!(net.hosts[relay].agent.stats().introduced, 0, "nobody was asked");
    net.connect(c, a, &[]);
    net.run(seconds(20));
    assert!(net.hosts[relay].agent.stats().introduced > 0);
    assert!(net.hosts[a].agent.stats().dropped_relayed > 0);
    assert_eq!(net.hosts[relay].agent.stats().relayed, 0, "nothing was answered");
    assert!(!net.is_connected(a, c));
}

#[test]
fn who_keeps_to_the_lan_relays_for_nobody() {
    let mut net = Net::new(5);
    let a = net.add_with(Nat::Open, lan_only());
    let (b, c) = (net.add(Nat::Open), net.add(Nat::Open));
    net.connect_open(b, a);
    net.connect_open(c, a);
    net.run(seconds(2));
    net.connect(b, c, &[]);
    net.run(seconds(10));
    assert_eq!(net.hosts[a].agent.stats().introduced, 0);
    assert!(!net.is_connected(b, c));
}

#[test]
fn a_new_link_is_announced_at_once_and_as_often_as_at_the_start() {
    let mut net = Net::new(6);
    let a = net.add_with(Nat::Open, lan_only());
    net.run(seconds(300));
    let (before, now) = (net.hosts[a].agent.stats().beacons_sent, net.now);
    net.hosts[a].agent.announce(now);
    net.run(Duration::from_millis(1500));
    assert_eq!(net.hosts[a].agent.stats().beacons_sent - before, 3, "at 0, 0.4 and 1.2 s");
}
