//! Port mapping by a real router: the NAT of Linux with the daemon miniupnpd, which speaks PCP, NAT-PMP and UPnP.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::Host;
use crate::peer::Peer;
use crate::{note, until};

/// The router's address outside.
const OUTSIDE: &str = "11.0.2.2:4100";
/// The node's own address where the laboratory has IPv6.
const INSIDE_V6: &str = "[2a00:11:1002::b]:4100";
const LISTEN: [&str; 2] = ["--listen", "0.0.0.0:4100"];

#[test]
fn pcp_maps_a_port_renews_it_finds_it_again_after_power_cuts_of_either_and_releases_it() {
    let Some(lab) = Lab::new(Speaks::Everything) else { return };
    let mut alice = Peer::new(&lab.inside);
    a_stranger_comes_in(&lab, &mut alice, "pcp");
    alice.down();
    assert!(lab.is_mapped(), "a power cut releases nothing");
    alice.ready("alice", &LISTEN);
    until("the mapping that was left behind is found again", || mapped(&alice) == json!([{ "address": OUTSIDE, "by": "pcp" }]));
    // A clock that has hardly begun cannot go back far enough to be noticed.
    std::thread::park_timeout(Duration::from_secs(5));
    lab.reboot();
    let again = until("a router that announces to have begun anew is asked again", || lab.is_mapped());
    assert!(again < Duration::from_secs(6), "by its announcement, not at the renewal: {again:.2?}");
    note(&format!("mapped again {again:.2?} after the router began anew"));
    // The router grants 32 s, and removes what is not renewed by then.
    std::thread::park_timeout(Duration::from_secs(40));
    assert!(lab.is_mapped(), "it was renewed");
    assert_eq!(mapped(&alice), json!([{ "address": OUTSIDE, "by": "pcp" }]));
    alice.interrupt();
    assert!(!lab.is_mapped(), "it was released");
}

#[test]
fn natpmp_maps_a_port_and_releases_it() {
    let Some(lab) = Lab::new(Speaks::NatPmpAndUpnp) else { return };
    let mut alice = Peer::new(&lab.inside);
    a_stranger_comes_in(&lab, &mut alice, "nat-pmp");
    alice.interrupt();
    assert!(!lab.is_mapped(), "it was released");
}

#[test]
fn upnp_maps_a_port_and_releases_it() {
    let Some(lab) = Lab::new(Speaks::UpnpAlone) else { return };
    let mut alice = Peer::new(&lab.inside);
    a_stranger_comes_in(&lab, &mut alice, "upnp");
    alice.interrupt();
    assert!(!lab.is_mapped(), "it was released");
}

#[test]
fn who_wants_no_port_mapped_asks_no_router_and_no_stranger_comes_in() {
    let Some(lab) = Lab::new(Speaks::Everything) else { return };
    let mut alice = Peer::new(&lab.inside);
    alice.ready("alice", &[LISTEN[0], LISTEN[1], "--no-port-mapping"]);
    let mut bob = Peer::new(&lab.outside);
    bob.ready("bob", &["--peer", &format!("{}@{OUTSIDE}", alice.id())]);
    std::thread::park_timeout(Duration::from_secs(4));
    assert_eq!(mapped(&alice), json!([]));
    assert!(!lab.is_mapped());
    assert_eq!(bob.sessions(), [""; 0]);
    assert_eq!(lab.requests(), 0, "the router was not asked");
}

#[test]
fn pcp_opens_the_routers_firewall_for_ipv6_and_closes_it_again() {
    let Some(lab) = Lab::new(Speaks::EverythingByIpv6) else { return };
    let (mut alice, mut bob) = (Peer::new(&lab.inside), Peer::new(&lab.outside));
    let listen = ["--listen", "[::]:4100"];
    alice.ready("alice", &[listen[0], listen[1], "--no-port-mapping"]);
    bob.ready("bob", &["--listen", "[::]:0", "--peer", &format!("{}@{INSIDE_V6}", alice.id())]);
    std::thread::park_timeout(Duration::from_secs(3));
    assert_eq!(bob.sessions(), [""; 0], "the firewall lets nobody in");
    alice.interrupt();
    alice.ready("alice", &listen);
    until("the firewall is open", || mapped(&alice) == json!([{ "address": INSIDE_V6, "by": "pcp" }]));
    assert!(lab.has_pinhole());
    let id = alice.id();
    until("a stranger comes in", || bob.sessions().contains(&id));
    assert_eq!(bob.ok(&["status"])["peers"][0]["path"], format!("direct {INSIDE_V6}"));
    alice.interrupt();
    assert!(!lab.has_pinhole(), "it was closed");
}

/// Alice gets her port mapped; Bob, who was told her address outside and is known to nobody, reaches her there.
fn a_stranger_comes_in(lab: &Lab, alice: &mut Peer, by: &str) {
    alice.ready("alice", &LISTEN);
    let took = until("the port is mapped", || mapped(alice) == json!([{ "address": OUTSIDE, "by": by }]));
    assert!(lab.is_mapped());
    let alice_id = alice.id();
    let mut bob = Peer::new(&lab.outside);
    bob.ready("bob", &["--peer", &format!("{alice_id}@{OUTSIDE}")]);
    let reached = until("a stranger reaches the mapped address", || bob.sessions().contains(&alice_id));
    let path = bob.ok(&["status"])["peers"][0]["path"].take();
    assert_eq!(path, format!("direct {OUTSIDE}"));
    assert_eq!(alice.counter("nat.probes"), 0, "nothing was punched");
    note(&format!("mapped by {by} after {took:.2?}, reached by a stranger {reached:.2?} after that one was started"));
}

fn mapped(peer: &Peer) -> Value {
    peer.run(&["status"]).json["port_mapping"]["mapped"].take()
}

/// What the router is allowed to speak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Everything,
    EverythingByIpv6,
    NatPmpAndUpnp,
    UpnpAlone,
}

/// A host behind a port-restricted NAT whose router runs miniupnpd, and a host outside.
struct Lab {
    name: String,
    inside: Host,
    outside: Host,
    router: Host,
    daemon: RefCell<Child>,
    folder: TempDir,
}

impl Lab {
    /// Nothing where the system does not allow it, or has no miniupnpd.
    fn new(speaks: Speaks) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !Path::new(MINIUPNPD).exists() {
            note(&format!("skipped: there is no {MINIUPNPD} (Debian: apt-get install miniupnpd)"));
            return None;
        }
        Host::several::<1>()?;
        let name = format!("m{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let v6 = speaks == Speaks::EverythingByIpv6;
        let built = netlab(&name, &["up", if v6 { "v6; host s; nat r port-restricted a" } else { "host s; nat r port-restricted a" }]);
        if !built.status.success() {
            note(&format!("skipped: no laboratory can be built here: {}", String::from_utf8_lossy(&built.stderr)));
            return None;
        }
        let [inside, outside, router] = ["a", "s", "r"].map(|host| Host::of_lab(&name, host));
        let folder = TempDir::with_prefix("peers-router-").unwrap();
        // The tables that the daemon fills, as its package makes them; and, beside them, a count of what it is asked.
        let tables = "table inet filter {
            chain miniupnpd {
            }
            chain prerouting_miniupnpd {
            }
            chain postrouting_miniupnpd {
            }
            chain forward { type filter hook forward priority 0; jump miniupnpd; }
            chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
            chain postrouting { type nat hook postrouting priority 99; jump postrouting_miniupnpd; }
            }
            table inet watch {
            counter requests {
            }
            chain input { type filter hook input priority 0; udp dport { 1900, 5351 } counter name requests; }
            }";
        router.shell(&format!("nft '{tables}'"));
        if v6 {
            // The laboratory's own firewall of IPv6 knows no pinholes: another that does, and is as strict.
            router.shell("nft delete table ip6 nl");
            let strict = "iifname wan meta nfproto ipv6 ct state new drop";
            router.shell(&format!("nft add rule inet filter forward {strict}"));
        }
        if speaks == Speaks::NatPmpAndUpnp {
            // A request of PCP begins with its version, 2.
            router.shell("nft add rule inet watch input udp dport 5351 @th,64,8 2 drop");
        }
        let natpmp = if speaks == Speaks::UpnpAlone { "no" } else { "yes" };
        let settings = format!(
            "ext_ifname=wan\nlistening_ip=lan\nenable_upnp=yes\nenable_natpmp={natpmp}\nmin_lifetime=10\nmax_lifetime=32\nhttp_port=0\n\
             ext_ifname6=wan\nuuid=00000000-0000-0000-0000-000000000001\nsystem_uptime=no\nallow 1024-65535 0.0.0.0/0 1024-65535\n"
        );
        fs::write(folder.path().join("config"), settings).unwrap();
        let daemon = daemon(&router, folder.path());
        Some(Self { name, inside, outside, router, daemon: daemon.into(), folder })
    }

    /// The router loses all mappings, and its daemon begins anew.
    fn reboot(&self) {
        let mut running = self.daemon.borrow_mut();
        let _ = running.kill();
        let _ = running.wait();
        for chain in ["miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"] {
            self.router.shell(&format!("nft flush chain inet filter {chain}"));
        }
        assert!(!self.is_mapped());
        *running = daemon(&self.router, self.folder.path());
    }

    /// The router has a rule that leads to the node.
    fn is_mapped(&self) -> bool {
        self.router.shell("nft list table inet filter").contains("dnat ip to 192.168.2.11:4100")
    }

    /// The router's firewall lets others in to the node by IPv6.
    fn has_pinhole(&self) -> bool {
        self.router.shell("nft list chain inet filter miniupnpd").contains("0x2a00001110020000000000000000000b")
    }

    /// Datagrams that asked the router for anything.
    fn requests(&self) -> u64 {
        let counter = self.router.shell("nft list counter inet watch requests");
        let packets = counter.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        packets.unwrap().parse().unwrap()
    }
}

/// Starts the daemon of a router, and waits until it listens.
fn daemon(router: &Host, folder: &Path) -> Child {
    let log = folder.join("log");
    let mut command = router.command(MINIUPNPD);
    command.args(["-d", "-f"]).arg(folder.join("config")).arg("-P").arg(folder.join("pid"));
    let file = File::create(&log).unwrap();
    let daemon = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
    until("the router's daemon listens", || fs::read_to_string(&log).unwrap().contains("HTTP listening"));
    daemon
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            note(&fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
        let running = self.daemon.get_mut();
        let _ = running.kill();
        let _ = running.wait();
        netlab(&self.name, &["down"]);
    }
}

fn netlab(lab: &str, arguments: &[&str]) -> std::process::Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/netlab/netlab");
    Command::new(script).args(arguments).env("NETLAB", lab).output().unwrap()
}

const MINIUPNPD: &str = "/usr/sbin/miniupnpd";

/// A host that speaks UPnP as it likes: `honest` describes a router, `endless` never stops, `nested` nests without end, `elsewhere` redirects. It says how much was read of it, and for what it was asked.
const IMPOSTOR: &str = r#"
import socket, struct, sys, threading
mode, me = sys.argv[1], sys.argv[2]
def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
ssdp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ssdp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
ssdp.bind(("", 1900))
ssdp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", socket.inet_aton("239.255.255.250"), socket.inet_aton(me)))
service = "urn:schemas-upnp-org:service:WANIPConnection:1"
device = lambda kind, inner: f"<device><deviceType>urn:schemas-upnp-org:device:{kind}:1</deviceType>{inner}</device>"
services = f"<serviceList><service><serviceType>{service}</serviceType><SCPDURL>/scpd.xml</SCPDURL><controlURL>/control</controlURL></service></serviceList>"
root = "<?xml version='1.0'?><root>" + device("InternetGatewayDevice", "<deviceList>" + device("WANDevice", "<deviceList>" + device("WANConnectionDevice", services) + "</deviceList>") + "</deviceList>") + "</root>"
scpd = "<?xml version='1.0'?><scpd><actionList>" + "".join(f"<action><name>{name}</name><argumentList/></action>" for name in ("AddPortMapping", "DeletePortMapping")) + "</actionList></scpd>"
head = lambda more: f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\n{more}\r\n".encode()
def answer(connection):
    sent = 0
    try:
        request = connection.recv(65536)
        say(f"asked {request.split(b' ')[1].decode()}")
        body = (scpd if b"scpd" in request else root).encode()
        if mode == "honest":
            connection.sendall(head(f"Content-Length: {len(body)}\r\n") + body)
        elif mode == "elsewhere":
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://10.77.0.66:8080/stolen\r\nContent-Length: 0\r\n\r\n")
        else:
            connection.sendall(head("") + b"<root>")
            while True:
                sent += connection.send((b"<a>" if mode == "nested" else b"<a></a>") * 1000)
    except OSError:
        pass
    say(f"sent {sent}")
    connection.close()
def serve():
    server = socket.create_server(("", 8080))
    while True:
        connection = server.accept()[0]
        threading.Thread(target=answer, args=(connection,), daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
say("ready")
while True:
    asked, remote = ssdp.recvfrom(4096)
    ssdp.sendto(f"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://{me}:8080/root.xml\r\n\r\n".encode(), remote)
"#;

/// Alice's router is `10.77.0.1`, and `10.77.0.66` is another host of her LAN; `mode` and `at` say who speaks UPnP, and how. Gives what Alice says of it, and what was asked.
fn upnp_of_an_impostor(mode: &str, at: &str) -> Option<(Value, String)> {
    let [alice, router, other] = Host::several()?;
    let _switch = Host::lan(&[(&alice, &["10.77.0.2/24"]), (&router, &["10.77.0.1/24"]), (&other, &["10.77.0.66/24"])]);
    alice.ip("route add default via 10.77.0.1");
    for host in [&router, &other] {
        host.ip("route add default via 10.77.0.2");
    }
    let folder = TempDir::with_prefix("peers-impostor-").unwrap();
    let log = folder.path().join("log");
    let speaker = if at == "10.77.0.1" { &router } else { &other };
    let mut python = speaker.command("python3");
    python.args(["-c", IMPOSTOR, mode, at]).stdin(Stdio::null()).stdout(File::create(&log).unwrap());
    let Ok(mut impostor) = python.spawn() else {
        note("skipped: there is no python3");
        return None;
    };
    until("the impostor speaks", || fs::read_to_string(&log).unwrap().contains("ready"));
    let mut peer = Peer::new(&alice);
    peer.ready("alice", &LISTEN);
    let trouble = |peer: &Peer| peer.run(&["status"]).json["port_mapping"]["trouble"].take();
    until("UPnP was given up", || trouble(&peer).as_str().is_some_and(|text| text.contains("UPnP")));
    assert_eq!(mapped(&peer), json!([]));
    let said = trouble(&peer);
    let _ = impostor.kill();
    let _ = impostor.wait();
    Some((said, fs::read_to_string(&log).unwrap()))
}

#[test]
fn only_the_router_itself_is_believed_by_upnp() {
    let Some((said, asked)) = upnp_of_an_impostor("honest", "10.77.0.66") else { return };
    assert!(said.as_str().unwrap().contains("is not the router"), "{said}");
    assert!(!asked.contains("/control"), "nothing was mapped there: {asked}");
}

#[test]
fn a_router_whose_xml_is_endless_or_hostile_costs_time_alone() {
    for mode in ["endless", "nested", "elsewhere"] {
        let Some((said, asked)) = upnp_of_an_impostor(mode, "10.77.0.1") else { return };
        assert!(said.as_str().unwrap().contains("speaks neither"), "{mode}: {said}");
        assert!(asked.contains("asked /root.xml"), "{mode}: {asked}");
        assert!(!asked.contains("stolen"), "{mode}: {asked}");
        for sent in asked.lines().filter_map(|line| line.strip_prefix("sent ")) {
            // What the system buffers on both ends is beside what is read.
            assert!(sent.parse::<u64>().unwrap() < 16 << 20, "{mode}: {asked}");
        }
    }
}
