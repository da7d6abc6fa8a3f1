//! Networks that let no UDP pass.

mod net;

use net::{Nat, Net, seconds};
use peers_nat::Config;

const BLOCKED: Nat = Nat::Linux("blocked-udp");

fn add(net: &mut Net, nat: Nat) -> usize {
    net.add_with(nat, Config { streams: true, ..Net::config() })
}

#[test]
fn who_has_no_udp_reaches_everybody_by_streams_to_public_peers() {
    for other in [Nat::Open, Nat::PortRestricted, Nat::Symmetric, BLOCKED] {
        let mut net = Net::new(1);
        let public = [add(&mut net, Nat::Open), add(&mut net, Nat::Open), add(&mut net, Nat::Open)];
        let (a, b) = (add(&mut net, BLOCKED), add(&mut net, other));
        for end in [a, b] {
            let address = net.address(public[0]);
            let (now, wall) = (net.now, net.wall());
            net.hosts[end].agent.connect_address(now, wall, address);
            net.drain(end);
            net.connect_open(end, public[1]);
        }
        net.run(seconds(4));
        assert!(net.is_connected(a, public[0]) && net.is_connected(a, public[1]), "{other:?}");
        net.connect(a, b, &[]);
        net.run(seconds(2));
        for from_to in [(a, b), (b, a)] {
            net.send(from_to.0, from_to.1, b"x");
        }
        net.run(seconds(1));
        assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1), "{other:?}");
        assert_eq!(net.is_direct(a, b), other == Nat::Open, "{other:?}");
    }
}

#[test]
fn udp_is_used_where_it_passes_though_a_stream_was_tried() {
    let mut net = Net::new(2);
    let (a, b) = (add(&mut net, Nat::PortRestricted), add(&mut net, Nat::Open));
    net.cut.insert((a, b));
    net.connect_open(a, b);
    net.run(seconds(2));
    assert!(net.is_connected(a, b), "a stream is not cut");
    net.cut.clear();
    net.run(seconds(60));
    assert!(net.is_direct(a, b));
    let before = net.streamed;
    net.send(a, b, b"x");
    net.send(b, a, b"y");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1));
    assert!(net.streamed - before <= 1, "what the other end sends may still go by the stream");
}

#[test]
fn a_stream_that_ends_is_connected_again() {
    let mut net = Net::new(3);
    let (a, b) = (add(&mut net, BLOCKED), add(&mut net, Nat::Open));
    net.connect_open(a, b);
    net.run(seconds(3));
    assert!(net.is_connected(a, b));
    net.end_streams();
    net.run(seconds(60));
    assert!(net.is_connected(a, b));
    net.send(a, b, b"x");
    net.run(seconds(1));
    assert_eq!(net.data(a, b).len(), 1);
}
