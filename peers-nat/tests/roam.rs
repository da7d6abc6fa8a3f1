//! The network changes under a session: addresses, routes, links, and time spent suspended.

mod net;

use std::time::{Duration, Instant};

use net::{Nat, Net, seconds};
use peers_nat::Event;

/// Two peers behind port-restricted NATs that want each other, are direct, and have an open one in common.
fn direct_pair(seed: u64) -> (Net, usize, usize, usize) {
    let mut net = Net::new(seed);
    let relay = net.add(Nat::Open);
    let (a, b) = (net.add(Nat::PortRestricted), net.add(Nat::PortRestricted));
    net.connect_open(a, relay);
    net.connect_open(b, relay);
    net.run(seconds(2));
    net.connect(a, b, &[]);
    net.connect(b, a, &[]);
    net.run(seconds(5));
    assert!(net.is_direct(a, b));
    (net, a, b, relay)
}

/// Both send data every 20 ms for `time`; returns when each heard the other first after `from`.
fn heard_after(net: &mut Net, a: usize, b: usize, time: Duration) -> [Option<Duration>; 2] {
    let (begin, mut heard): (Instant, [Option<Duration>; 2]) = (net.now, [None; 2]);
    let count = |net: &Net| [net.data(b, a).len(), net.data(a, b).len()];
    let before = count(net);
    while net.now - begin < time {
        net.send_asking(a, b, b"a");
        net.send_asking(b, a, b"b");
        for _ in 0..4 {
            net.run(Duration::from_millis(5));
            for (heard, (now, before)) in heard.iter_mut().zip(count(net).into_iter().zip(before)) {
                if heard.is_none() && now > before {
                    *heard = Some(net.now - begin);
                }
            }
        }
    }
    heard
}

fn move_host(net: &mut Net, n: usize) {
    net.reboot_nat(n);
    let now = net.now;
    net.hosts[n].agent.set_local_addresses(now, &[([10, 9, 9, 9], 4000).into()]);
    net.drain(n);
}

#[test]
fn a_host_that_moved_is_heard_through_the_relay_in_the_time_of_one_way_and_hears_a_round_trip_later() {
    for seed in 0..10 {
        let (mut net, a, b, _) = direct_pair(seed);
        heard_after(&mut net, a, b, seconds(2));
        // It was without a network for as long as a move takes.
        net.hosts[a].alive = false;
        heard_after(&mut net, a, b, Duration::from_millis(150));
        net.hosts[a].alive = true;
        move_host(&mut net, a);
        let [a_heard, b_heard] = heard_after(&mut net, a, b, seconds(5)).map(Option::unwrap);
        assert!(b_heard <= Duration::from_millis(110), "{seed}: {b_heard:?}");
        assert!(a_heard <= Duration::from_millis(250), "{seed}: {a_heard:?}");
        net.run(seconds(10));
        assert!(net.is_direct(a, b), "and becomes direct again");
        assert_eq!(net.count(b, |event| matches!(event, Event::Disconnected { .. })), 0);
    }
}

#[test]
fn a_network_that_loses_what_is_sent_first_costs_no_more_than_that() {
    let (mut net, a, b, relay) = direct_pair(7);
    heard_after(&mut net, a, b, seconds(2));
    move_host(&mut net, a);
    // What was sent at once, and for 60 ms more, is lost.
    net.cut.extend([(a.min(b), a.max(b)), (a.min(relay), a.max(relay))]);
    heard_after(&mut net, a, b, Duration::from_millis(100));
    net.cut.clear();
    let heard = heard_after(&mut net, a, b, seconds(5)).map(Option::unwrap);
    assert!(heard.iter().all(|heard| *heard <= Duration::from_millis(330)), "{heard:?}");
}

#[test]
fn after_a_sleep_of_minutes_a_session_goes_on_within_a_second() {
    for (minutes, seed) in [(1, 1), (5, 2), (20, 3), (45, 4), (600, 5)] {
        let (mut net, a, b, _) = direct_pair(seed);
        heard_after(&mut net, a, b, seconds(2));
        net.hosts[a].alive = false;
        net.run(seconds(60 * minutes));
        net.hosts[a].alive = true;
        let (now, wall) = (net.now, net.wall());
        net.hosts[a].agent.network_changed(now);
        net.hosts[a].agent.handle_timeout(now, wall);
        net.drain(a);
        let heard = heard_after(&mut net, a, b, seconds(5));
        assert!(heard.iter().all(|heard| heard.is_some_and(|heard| heard <= seconds(1))), "{minutes} minutes: {heard:?}");
        net.run(seconds(10));
        assert!(net.is_direct(a, b), "{minutes} minutes");
    }
}

#[test]
fn a_link_that_comes_back_costs_its_peers_one_question_each() {
    let (mut net, a, b, relay) = direct_pair(3);
    net.run(seconds(5));
    let before = net.total_sent();
    let now = net.now;
    net.hosts[a].agent.network_changed(now);
    net.drain(a);
    net.run(seconds(3));
    // Pings and pongs on the direct path, through the relay, and with the relay itself; and a new look at the NAT.
    let spent = net.total_sent() - before;
    assert!(spent <= 60, "{spent} datagrams");
    assert!(net.is_direct(a, b) && net.is_connected(a, relay));
    assert_eq!(net.count(a, |event| matches!(event, Event::Disconnected { .. })), 0);
}

#[test]
fn back_off_begins_anew_when_the_network_changes() {
    let mut net = Net::new(3);
    let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
    net.hosts[b].alive = false;
    net.connect_open(a, b);
    net.run(seconds(600));
    net.hosts[b].alive = true;
    let now = net.now;
    net.hosts[a].agent.network_changed(now);
    net.drain(a);
    let connected = net.run_until(seconds(5), |net| net.is_connected(a, b)).unwrap();
    assert!(connected <= Duration::from_millis(250), "{connected:?}");
}
