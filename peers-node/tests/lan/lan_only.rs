//! `peers up --lan-only`, and how long two take to meet who plug into one switch.

use std::time::Duration;

use crate::host::Host;
use crate::peer::Peer;
use crate::{note, until};

#[test]
fn a_node_that_keeps_to_the_lan_sends_nothing_beyond_it() {
    let Some([a, b, far, router]) = Host::several() else { return };
    let _near_lan = Host::lan(&[(&a, &["10.77.1.1/24"]), (&b, &["10.77.1.2/24"]), (&router, &["10.77.1.254/24"])]);
    let _far_lan = Host::lan(&[(&far, &["10.77.2.1/24"]), (&router, &["10.77.2.254/24"])]);
    router.shell("echo 1 > /proc/sys/net/ipv4/ip_forward");
    for (host, gateway) in [(&a, "10.77.1.254"), (&b, "10.77.1.254"), (&far, "10.77.2.254")] {
        host.ip(&format!("route add default via {gateway}"));
    }
    // Every datagram of the host counts that is not for its subnets, or for the groups of the beacon.
    let watch = "table inet watch {
        counter beyond {
        }
        counter near {
        }
        chain output {
        type filter hook output priority 0; meta l4proto != udp accept
        ip daddr { 127.0.0.0/8, 10.77.1.0/24, 239.255.80.80 } counter name near accept
        ip6 daddr { ::1, fe80::/10, ff12::7065:6572 } counter name near accept
        counter name beyond
        }
        }";
    if !a.command("nft").arg(watch).status().is_ok_and(|status| status.success()) {
        note("skipped: datagrams cannot be counted here (needs the command `nft`)");
        return;
    }
    let counted = |counter: &str| {
        let listed = a.shell(&format!("nft list counter inet watch {counter}"));
        listed.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse::<u64>().unwrap()
    };

    let (mut alice, mut bob, mut carol) = (Peer::new(&a), Peer::new(&b), Peer::new(&far));
    let (alice_id, bob_id, carol_id) = (alice.id(), bob.id(), carol.id());
    carol.ready("carol", &["--listen", "0.0.0.0:4100"]);
    bob.ready("bob", &["--peer", &format!("{carol_id}@10.77.2.1:4100")]);
    until("who may leave the LAN does", || bob.sessions().contains(&carol_id));
    let beyond = ["--peer", "10.77.2.1:4100", "--peer", "203.0.113.5:4100", "--peer", "[2001:db8::5]:4100"];
    let named = format!("{carol_id}@10.77.2.1:4100");
    alice.ready("alice", &[&["--lan-only", "--peer", &named], &beyond[..]].concat());
    let met = until("they have a session", || alice.sessions().contains(&bob_id));
    carol.ok(&["send", &alice_id, "--text", "come out"]);
    alice.ok(&["send", &bob_id, "--text", "I stay", "--wait", "delivered"]);
    // Long enough for all that is tried again, by relays too.
    std::thread::park_timeout(Duration::from_secs(5));
    assert_eq!(alice.sessions(), [bob_id]);
    assert_eq!(counted("beyond"), 0);
    assert!(counted("near") > 10);
    note(&format!("a node that keeps to the LAN met another after {met:.2?}"));

    alice.ready("alice", &beyond);
    until("without the switch it leaves the LAN", || counted("beyond") > 0);
}

#[test]
fn two_that_are_plugged_into_one_switch_while_they_run_talk_within_a_second() {
    let Some([a, b]) = Host::several() else { return };
    let (mut alice, mut bob) = (Peer::new(&a), Peer::new(&b));
    alice.ready("alice", &["--lan-only"]);
    bob.ready("bob", &["--lan-only"]);
    let bob_id = bob.id();
    let _switch = Host::lan(&[(&a, &["10.77.0.1/24"]), (&b, &["10.77.0.2/24"])]);
    let met = until("they have a session", || alice.sessions().contains(&bob_id));
    note(&format!("two that keep to the LAN, plugged in while they run: a session after {met:.2?}"));
    assert!(met < Duration::from_secs(WITHIN), "{met:.2?}");
}

#[test]
fn two_on_a_cable_without_addresses_meet_while_each_has_another_network() {
    let Some([a, b]) = Host::several() else { return };
    let _wifi_of_a = Host::lan(&[(&a, &["10.77.1.1/24"])]);
    let _wifi_of_b = Host::lan(&[(&b, &["10.77.2.1/24"])]);
    let (mut alice, mut bob) = (Peer::new(&a), Peer::new(&b));
    alice.ready("alice", &["--lan-only"]);
    bob.ready("bob", &["--lan-only"]);
    let bob_id = bob.id();
    let _cable = Host::lan(&[(&a, &[]), (&b, &[])]);
    let met = until("they have a session", || alice.sessions().contains(&bob_id));
    note(&format!("two that are joined by a cable, each on another network: a session after {met:.2?}"));
    assert!(met < Duration::from_secs(WITHIN), "{met:.2?}");
}

/// Seconds in which two meet.
const WITHIN: u64 = 1;
