//! Peers find each other by themselves where there is no internet, and nothing of that leaves their LAN.

use crate::host::Host;
use crate::peer::Peer;
use crate::{note, until};

#[test]
fn two_peers_on_one_lan_find_each_other_and_messages_and_mail_pass() {
    let Some([a, b]) = Host::several() else { return };
    let _switch = Host::lan(&[(&a, &["10.77.0.1/24"]), (&b, &["10.77.0.2/24"])]);
    they_meet_and_talk("two peers on one LAN", &a, &b);
}

#[test]
fn two_peers_on_a_cable_with_ipv4_link_local_addresses_find_each_other() {
    let Some([a, b]) = Host::several() else { return };
    let _switch = Host::lan(&[(&a, &["169.254.77.1/16"]), (&b, &["169.254.77.2/16"])]);
    they_meet_and_talk("two peers with link-local addresses of IPv4", &a, &b);
}

#[test]
fn two_peers_on_a_cable_with_ipv6_link_local_addresses_find_each_other() {
    let Some([a, b]) = Host::several() else { return };
    let _switch = Host::lan(&[(&a, &[]), (&b, &[])]);
    they_meet_and_talk("two peers with link-local addresses of IPv6", &a, &b);
}

#[test]
fn two_peers_on_one_machine_without_a_network_find_each_other() {
    let Some([machine]) = Host::several() else { return };
    they_meet_and_talk("two peers on loopback", &machine, &machine);
}

#[test]
fn two_peers_on_one_machine_with_a_network_find_each_other() {
    let Some([machine, other]) = Host::several() else { return };
    let _switch = Host::lan(&[(&machine, &["10.77.0.1/24"]), (&other, &["10.77.0.2/24"])]);
    they_meet_and_talk("two peers on one machine on a LAN", &machine, &machine);
}

#[test]
fn two_peers_on_one_machine_with_a_network_that_leads_nowhere_find_each_other() {
    let Some([machine]) = Host::several() else { return };
    machine.ip("link add containers type bridge");
    machine.ip("address add 172.31.77.1/16 dev containers");
    machine.ip("link set containers up");
    they_meet_and_talk("two peers on one machine with a bridge that has no carrier", &machine, &machine);
}

#[test]
fn peers_that_are_plugged_in_while_they_run_find_each_other() {
    let Some([a, b]) = Host::several() else { return };
    let (mut alice, mut bob) = (Peer::new(&a), Peer::new(&b));
    alice.ready("alice", &[]);
    bob.ready("bob", &[]);
    let _switch = Host::lan(&[(&a, &["10.77.0.1/24"]), (&b, &["10.77.0.2/24"])]);
    let bob_id = bob.id();
    let met = until("they have a session", || alice.sessions().contains(&bob_id));
    note(&format!("two peers plugged in while they run: a session after {met:.2?}"));
}

#[test]
fn beacons_stay_on_their_lan_where_a_router_would_forward() {
    let Some([a, b, far, router]) = Host::several() else { return };
    let _near_lan = Host::lan(&[(&a, &["10.77.1.1/24"]), (&b, &["10.77.1.2/24"]), (&router, &["10.77.1.254/24"])]);
    let _far_lan = Host::lan(&[(&far, &["10.77.2.1/24"]), (&router, &["10.77.2.254/24"])]);
    router.shell("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    for near in [&a, &b] {
        near.ip("route add 10.77.2.0/24 via 10.77.1.254");
    }
    far.ip("route add 10.77.1.0/24 via 10.77.2.254");

    let (mut alice, mut bob, mut carol) = (Peer::new(&a), Peer::new(&b), Peer::new(&far));
    let (alice_id, bob_id) = (alice.id(), bob.id());
    alice.ready("alice", &[]);
    bob.up("bob", &[]);
    carol.up("carol", &[]);
    until("the two on one LAN have a session", || alice.sessions().contains(&bob_id));
    for peer in [&alice, &bob, &carol] {
        until("beacons were sent", || peer.counter("nat.beacons_sent") >= 4);
    }
    assert_eq!(carol.sessions(), [""; 0]);
    assert_eq!(carol.counter("nat.beacons_answered"), 0);
    assert_eq!(forwarded(&router), 0);

    let address = alice.ok(&["status"])["listen"][0].as_str().unwrap().to_owned();
    carol.up("carol", &["--peer", &address]);
    until("the router forwards what is addressed", || carol.sessions().contains(&alice_id));
    assert!(forwarded(&router) > 0);
}

/// Two peers that were told of nobody get a session, and a message and a letter pass.
fn they_meet_and_talk(what: &str, a: &Host, b: &Host) {
    let (mut alice, mut bob) = (Peer::new(a), Peer::new(b));
    let (alice_id, bob_id) = (alice.id(), bob.id());
    alice.up("alice", &[]);
    bob.up("bob", &[]);
    let met = until("they have a session", || alice.sessions().contains(&bob_id) && bob.sessions().contains(&alice_id));

    let follow = ["topic", "follow", "plans", "--last", "9", "--no-wait", "--passphrase"];
    bob.ok_with(&follow, "under the oak\n");
    alice.ok_with(&["topic", "publish", "plans", "at noon", "--passphrase"], "under the oak\n");
    let has_message = || bob.ok_with(&follow, "under the oak\n")["messages"][0]["body"] == "at noon";
    let message = until("the message came", has_message);

    bob.ok(&["send", &alice_id, "--text", "I come", "--wait", "delivered"]);
    assert_eq!(alice.ok(&["inbox"])["mail"][0]["body"], "I come");
    note(&format!("{what}: a session {met:.2?} after both were started, a message {message:.2?} later"));
}

/// Datagrams that a router has forwarded, of both families.
fn forwarded(router: &Host) -> u64 {
    let v4 = router.shell("cat /proc/net/snmp");
    let mut rows = v4.lines().filter(|line| line.starts_with("Ip:")).map(str::split_ascii_whitespace);
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let v4 = names.zip(values).find(|(name, _)| *name == "ForwDatagrams").unwrap().1.parse::<u64>().unwrap();
    let v6 = router.shell("grep Ip6OutForwDatagrams /proc/net/snmp6");
    v4 + v6.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}
