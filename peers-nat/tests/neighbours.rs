//! Pairs that are nearer to each other than the internet, or seem to be.

mod net;

use net::{Nat, Net, seconds};
use peers_nat::Path;

/// Three public peers that everybody is connected to.
fn publics(net: &mut Net) -> [usize; 3] {
    [net.add(Nat::Open), net.add(Nat::Open), net.add(Nat::Open)]
}

fn meet(net: &mut Net, publics: [usize; 3], a: usize, b: usize) {
    for end in [a, b] {
        for public in publics {
            net.connect_open(end, public);
        }
    }
    net.run(seconds(3));
    net.connect(a, b, &[]);
    net.run(seconds(3));
    net.send(a, b, b"x");
    net.send(b, a, b"y");
    net.run(seconds(1));
    assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1));
}

#[test]
fn two_behind_one_nat_speak_within_their_lan_whatever_the_nat_does() {
    for nat in [Nat::PortRestricted, Nat::Symmetric, Nat::Linux("double"), Nat::Linux("symmetric-sequential")] {
        let mut net = Net::new(1);
        let publics = publics(&mut net);
        let a = net.add(nat);
        let b = net.add_beside(a, Net::config());
        meet(&mut net, publics, a, b);
        let near = |path| matches!(path, Some(Path::Direct(address)) if address.to_string().starts_with("10."));
        assert!(near(net.path(a, b)) && near(net.path(b, a)), "{nat:?}: {:?}", net.path(a, b));
    }
}

#[test]
fn equal_addresses_behind_different_nats_mislead_nobody() {
    for (one, other) in [(Nat::PortRestricted, Nat::PortRestricted), (Nat::Symmetric, Nat::FullCone), (Nat::Symmetric, Nat::PortRestricted)]
    {
        let mut net = Net::new(2);
        let publics = publics(&mut net);
        let a = net.add(one);
        let b = net.add_like(a, other, Net::config());
        // Somebody else in the LAN of the one has the address that the other names.
        let bystander = net.add_beside(b, Net::config());
        let c = net.add_like(bystander, one, Net::config());
        meet(&mut net, publics, a, b);
        assert!(net.is_direct(a, b), "{one:?} {other:?}");
        meet(&mut net, publics, c, b);
        assert!(net.is_direct(c, b), "{one:?} {other:?}");
        assert_eq!(net.path(bystander, c), None);
    }
}

#[test]
fn two_whom_their_router_keeps_apart_meet_at_its_public_side_if_it_lets_them() {
    let mut net = Net::new(3);
    let publics = publics(&mut net);
    let a = net.add(Nat::Linux("full-cone hairpin=1 isolate=1"));
    let b = net.add_beside(a, Net::config());
    meet(&mut net, publics, a, b);
    assert!(matches!(net.path(a, b), Some(Path::Direct(address)) if address.to_string().starts_with("50.")), "{:?}", net.path(a, b));
}
