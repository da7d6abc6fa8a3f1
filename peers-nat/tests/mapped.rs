//! Addresses that routers map, as candidates.

mod net;

use net::{Nat, Net, seconds};
use std::net::SocketAddr;

/// Two peers that nothing but a mapping can bring together, and the relay that both are connected to.
fn behind_random_symmetric_nats() -> (Net, usize, usize) {
    let mut net = Net::new(9);
    let relay = net.add(Nat::Open);
    let (a, b) = (net.add(Nat::Symmetric), net.add(Nat::Symmetric));
    net.connect_open(a, relay);
    net.connect_open(b, relay);
    net.run(seconds(2));
    (net, a, b)
}

fn tell(net: &mut Net, n: usize, mapped: &[SocketAddr]) {
    let now = net.now;
    net.hosts[n].agent.set_mapped_addresses(now, mapped);
    net.drain(n);
}

#[test]
fn a_mapping_on_either_side_makes_two_random_symmetric_nats_direct() {
    for mapped_side in 0..2 {
        let (mut net, a, b) = behind_random_symmetric_nats();
        let mapped = net.forward([a, b][mapped_side], 4000);
        tell(&mut net, [a, b][mapped_side], &[mapped]);
        net.connect(a, b, &[]);
        let direct = net.run_until(seconds(2), |net| net.is_connected(a, b) && net.is_direct(a, b));
        assert!(direct.is_some(), "side {mapped_side}: {:?}", net.path(a, b));
    }
    let (mut net, a, b) = behind_random_symmetric_nats();
    net.connect(a, b, &[]);
    net.run(seconds(5));
    assert!(net.is_connected(a, b) && !net.is_direct(a, b), "without one they are relayed");
}

#[test]
fn a_stranger_reaches_a_mapped_address_without_an_introduction() {
    for stranger in [Nat::Open, Nat::PortRestricted, Nat::Symmetric] {
        let mut net = Net::new(9);
        let (a, b) = (net.add(stranger), net.add(Nat::PortRestricted));
        let mapped = net.forward(b, 4000);
        net.connect(a, b, &[mapped]);
        let direct = net.run_until(seconds(1), |net| net.is_connected(a, b) && net.is_direct(a, b)).unwrap();
        assert!(direct <= 4 * net.delay, "{stranger:?} {direct:?}");
    }
}

#[test]
fn a_private_address_that_a_router_behind_another_maps_is_probed_by_nobody_elsewhere() {
    let (mut net, a, b) = behind_random_symmetric_nats();
    let behind_another = "192.168.0.7:4000".parse().unwrap();
    tell(&mut net, b, &[behind_another]);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    assert!(net.is_connected(a, b));
    assert!(net.tap.iter().all(|(_, destination, _)| *destination != behind_another));
}

#[test]
fn what_no_router_can_map_is_no_candidate() {
    let (mut net, a, b) = behind_random_symmetric_nats();
    let nobody: Vec<SocketAddr> = ["0.0.0.0:1", "224.0.0.1:1", "127.0.0.1:1"].map(|text| text.parse().unwrap()).into();
    tell(&mut net, b, &nobody);
    net.connect(a, b, &[]);
    net.run(seconds(5));
    assert!(net.tap.iter().all(|(_, destination, _)| !nobody.contains(destination)));
}
