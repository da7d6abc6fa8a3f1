//! Networks that let no UDP pass.

mod net;

use net::{Nat, Net, seconds};

const BLOCKED: Nat = Nat::Linux("blocked-udp");

#[test]
fn who_has_no_udp_reaches_everybody_by_streams_to_public_peers() {
    for other in [Nat::Open, Nat::PortRestricted, Nat::Symmetric, BLOCKED] {
        let mut net = Net::new(1);
        let public = [net.add(Nat::Open), net.add(Nat::Open), net.add(Nat::Open)];
        let (a, b) = (net.add(BLOCKED), net.add(other));
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
    let (a, b) = (net.add(Nat::PortRestricted), net.add(Nat::Open));
    net.cut.insert((a, b));
    net.connect_open(a, b);
    net.run(seconds(2));
    assert!(net.is_connected(a, b), "a stream is not cut");
    net.cut.clear();
    let (now, id) = (net.now, net.id(b));
    net.hosts[a].agent.disconnect(now, id);
    net.drain(a);
    net.run(seconds(1));
    net.connect_open(a, b);
    net.run(seconds(3));
    assert!(net.is_direct(a, b));
}

#[test]
fn a_stream_that_ends_is_connected_again() {
    let mut net = Net::new(3);
    let (a, b) = (net.add(BLOCKED), net.add(Nat::Open));
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
