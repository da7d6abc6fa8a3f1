//! Relays are ordinary peers, within the limits that each sets.

mod net;

use net::{Nat, Net, seconds};
use peers_nat::{Config, Path};

/// A relay that grants `routes`, of which `used` are in use.
fn relay(net: &mut Net, routes: usize, used: usize) -> usize {
    let relay = net.add_with(Nat::Open, Config { relay_routes: routes, ..Net::config() });
    for _ in 0..used {
        let (a, b) = (net.add(Nat::Symmetric), net.add(Nat::Symmetric));
        net.connect_open(a, relay);
        net.connect_open(b, relay);
        net.run(seconds(1));
        net.connect(a, b, &[]);
        net.run(seconds(1));
        assert!(net.is_connected(a, b));
    }
    assert_eq!(net.hosts[relay].agent.relayed_routes(), used);
    relay
}

#[test]
fn of_two_relays_both_ends_choose_the_less_loaded() {
    for idle in 0..2 {
        let mut net = Net::new(7 + idle);
        let relays: Vec<usize> = (0..2).map(|n| relay(&mut net, 8, if n == idle { 1 } else { 5 })).collect();
        let (a, b) = (net.add(Nat::Symmetric), net.add(Nat::Symmetric));
        for relay in &relays {
            net.connect_open(a, *relay);
            net.connect_open(b, *relay);
        }
        net.run(seconds(3));
        net.connect(a, b, &[]);
        net.run(seconds(3));
        for _ in 0..3 {
            net.send(a, b, b"x");
            net.send(b, a, b"y");
            net.run(seconds(1));
        }
        let by = Some(Path::Relayed(net.id(relays[usize::try_from(idle).unwrap()])));
        assert_eq!((net.path(a, b), net.path(b, a)), (by, by));
        assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (3, 3));
    }
}

#[test]
fn a_relay_at_its_limit_refuses_and_another_is_used() {
    let mut net = Net::new(9);
    let relays = [relay(&mut net, 2, 2), relay(&mut net, 2, 0)];
    let (a, b) = (net.add(Nat::Symmetric), net.add(Nat::Symmetric));
    for relay in relays {
        net.connect_open(a, relay);
        net.connect_open(b, relay);
    }
    net.run(seconds(3));
    net.connect(a, b, &[]);
    net.run(seconds(3));
    assert_eq!(net.path(a, b), Some(Path::Relayed(net.id(relays[1]))));
    assert_eq!(net.hosts[relays[0]].agent.relayed_routes(), 2);
    assert!(net.hosts[relays[0]].agent.stats().refused > 0);
}
