//! Direct paths where ordinary probes do not get through: NATs that give each destination a port of its own.

mod net;

use std::time::Duration;

use net::{Nat, Net, seconds};

/// What came of many pairs, each with three public peers in common, 40 ms one way.
struct Runs {
    /// How long it took to a direct path, in order; those that never came to one are missing.
    direct: Vec<Duration>,
    /// Datagrams that both ends sent until then, or in 8 s, in order.
    packets: Vec<u64>,
    /// Of these, probes.
    probes: Vec<u64>,
    /// Most sockets that were open at once at either end.
    sockets: usize,
}

fn pair(seed: u64, a: Nat, b: Nat) -> (Net, usize, usize) {
    let mut net = Net::new(seed);
    let public = [net.add(Nat::Open), net.add(Nat::Open), net.add(Nat::Open)];
    let (a, b) = (net.add(a), net.add(b));
    for end in [a, b] {
        for public in public {
            net.connect_open(end, public);
        }
    }
    net.run(seconds(4));
    (net, a, b)
}

fn runs(count: u64, a: Nat, b: Nat) -> Runs {
    let mut runs = Runs { direct: Vec::new(), packets: Vec::new(), probes: Vec::new(), sockets: 0 };
    for seed in 0..count {
        let (mut net, a, b) = pair(seed, a, b);
        let sent = |net: &Net| [a, b].map(|n| net.hosts[n].agent.stats().sent).iter().sum::<u64>();
        let probes = |net: &Net| [a, b].map(|n| net.hosts[n].agent.stats().probes).iter().sum::<u64>();
        let before = (sent(&net), probes(&net));
        net.connect(a, b, &[]);
        runs.direct.extend(net.run_until(seconds(8), |net| net.is_direct(a, b)));
        runs.packets.push(sent(&net) - before.0);
        runs.probes.push(probes(&net) - before.1);
        runs.sockets = runs.sockets.max(net.hosts[a].most_sockets).max(net.hosts[b].most_sockets);
    }
    runs.direct.sort_unstable();
    runs.packets.sort_unstable();
    runs.probes.sort_unstable();
    eprintln!(
        "{a:?} / {b:?}: {} of {count} direct, median {:?}, 90 % {:?}, packets {:?} to {:?}, probes {:?} to {:?}, {} sockets",
        runs.direct.len(),
        runs.direct.get(runs.direct.len() / 2),
        runs.direct.get(runs.direct.len() * 9 / 10),
        runs.packets[runs.packets.len() / 2],
        runs.packets.last(),
        runs.probes[runs.probes.len() / 2],
        runs.probes.last(),
        runs.sockets
    );
    runs
}

const SYMMETRIC: Nat = Nat::Linux("symmetric");
const PORT_RESTRICTED: Nat = Nat::Linux("port-restricted");
const SEQUENTIAL: Nat = Nat::Linux("symmetric-sequential");

#[test]
fn a_symmetric_and_a_port_restricted_nat_meet_by_the_birthday_paradox() {
    for (a, b) in [(SYMMETRIC, PORT_RESTRICTED), (PORT_RESTRICTED, SYMMETRIC)] {
        let runs = runs(100, a, b);
        assert_eq!(runs.direct.len(), 100);
        assert!(runs.direct[50] <= Duration::from_millis(600) && runs.direct[90] <= Duration::from_millis(1300), "{:?}", runs.direct[90]);
        assert!(runs.packets[99] <= 2000, "{:?}", runs.packets[99]);
    }
}

#[test]
fn routers_that_remember_who_knocked_prevent_no_direct_path() {
    let stray = [Nat::Linux("symmetric stray=accept"), Nat::Linux("port-restricted stray=accept")];
    for (a, b) in [(stray[0], stray[1]), (stray[1], stray[0]), (stray[1], stray[1]), (stray[1], PORT_RESTRICTED)] {
        assert_eq!(runs(20, a, b).direct.len(), 20);
    }
}

#[test]
fn a_sequential_nat_is_predicted_with_few_probes() {
    for (a, b) in [(SEQUENTIAL, PORT_RESTRICTED), (PORT_RESTRICTED, SEQUENTIAL)] {
        let runs = runs(100, a, b);
        assert!(runs.direct.len() >= 99);
        assert!(runs.probes[98] <= 20, "{:?}", runs.probes[98]);
    }
}

#[test]
fn two_sequential_nats_meet_as_one_goes_in_steps_of_two() {
    let runs = runs(100, SEQUENTIAL, SEQUENTIAL);
    assert!(runs.direct.len() >= 99, "{}", runs.direct.len());
}

#[test]
fn a_nat_that_gives_a_block_of_ports_takes_few_sockets() {
    let block = Nat::Linux("symmetric ports=20000-20511");
    for (a, b) in [(block, PORT_RESTRICTED), (PORT_RESTRICTED, block)] {
        let runs = runs(50, a, b);
        assert_eq!(runs.direct.len(), 50);
        assert!(runs.packets[49] < 500 && runs.sockets < 200, "{} {}", runs.packets[49], runs.sockets);
    }
}

#[test]
fn a_symmetric_nat_behind_another_and_a_firewall_meet_their_kind() {
    for (a, b) in
        [(Nat::Linux("double"), PORT_RESTRICTED), (Nat::Linux("firewall"), SYMMETRIC), (Nat::Linux("double"), Nat::Linux("firewall"))]
    {
        assert_eq!(runs(20, a, b).direct.len(), 20);
    }
}

#[test]
fn what_cannot_meet_is_not_tried() {
    let runs = runs(10, SYMMETRIC, SYMMETRIC);
    assert_eq!(runs.direct.len(), 0);
    assert!(runs.packets[9] < 60 && runs.sockets <= 10, "{} {}", runs.packets[9], runs.sockets);
}

#[test]
fn the_path_that_was_found_stays_and_all_other_sockets_are_closed() {
    for seed in 0..20 {
        let (mut net, a, b) = pair(seed, SYMMETRIC, PORT_RESTRICTED);
        net.connect(a, b, &[]);
        net.run_until(seconds(8), |net| net.is_direct(a, b)).unwrap();
        let path = net.path(b, a);
        for _ in 0..20 {
            net.run(seconds(30));
            net.send(a, b, b"x");
            net.send(b, a, b"y");
        }
        net.run(seconds(1));
        assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (20, 20));
        assert!(net.is_direct(a, b) && net.path(b, a) == path);
        assert!(net.hosts[a].sockets.len() <= 2, "the main one and the one that was found");
    }
}

#[test]
fn a_nat_with_a_quota_of_flows_is_asked_for_fewer_after_it_has_refused() {
    let mut met = 0;
    for seed in 0..20 {
        let (mut net, a, b) = pair(seed, Nat::Linux("symmetric maxflows=100"), PORT_RESTRICTED);
        net.connect(a, b, &[]);
        met += usize::from(net.run_until(seconds(120), |net| net.is_direct(a, b)).is_some());
    }
    assert!(met >= 14, "{met} of 20");
}

#[test]
fn what_is_sent_by_a_path_that_was_just_found_arrives() {
    // In the last two a probe finds the main socket as well as one that was opened.
    for seed in (0..60).chain([50, 17_145_451_798_763_527_043, 6_764_645_422_168_248_653]) {
        let mut net = Net::new(seed);
        let relay = net.add_with(Nat::Open, peers_nat::Config { lan: true, ..Net::config() });
        let (a, b) = (net.add(Nat::PortRestricted), net.add(Nat::Symmetric));
        net.connect_open(a, relay);
        net.connect_open(b, relay);
        net.run(seconds(1));
        net.connect(a, b, &[]);
        net.run(seconds(3));
        net.send(a, b, b"x");
        net.send(b, a, b"y");
        net.run(seconds(1));
        assert_eq!((net.data(a, b).len(), net.data(b, a).len()), (1, 1), "{seed}");
    }
}

#[test]
fn a_pair_that_was_relayed_goes_direct_when_one_moves_to_a_network_that_allows_it() {
    let (mut net, a, b) = pair(5, SYMMETRIC, SYMMETRIC);
    net.connect(a, b, &[]);
    net.run(seconds(60));
    assert!(net.is_connected(a, b) && !net.is_direct(a, b));
    net.move_host(b, Nat::Linux("full-cone"));
    assert!(net.run_until(seconds(20), |net| net.is_direct(a, b)).is_some(), "{:?}", net.path(a, b));
}

#[test]
fn a_network_that_changes_while_ports_are_opened_leaves_no_socket_open() {
    let (mut net, a, b) = pair(6, SYMMETRIC, PORT_RESTRICTED);
    net.connect(a, b, &[]);
    net.run_until(seconds(2), |net| net.hosts[a].sockets.len() > 100).unwrap();
    net.move_host(a, Nat::Linux("symmetric"));
    net.run(seconds(40));
    assert!(net.is_connected(a, b));
    assert!(net.hosts[a].sockets.len() < 12, "{}", net.hosts[a].sockets.len());
}

#[test]
fn loss_delays_a_punched_path_and_seldom_prevents_it() {
    let mut direct = 0;
    for seed in 0..40 {
        let (mut net, a, b) = pair(seed, SYMMETRIC, PORT_RESTRICTED);
        net.loss = 0.05;
        net.connect(a, b, &[]);
        direct += usize::from(net.run_until(seconds(6), |net| net.is_direct(a, b)).is_some());
    }
    assert!(direct >= 34, "{direct} of 40");
}
