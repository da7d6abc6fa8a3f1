//! `peers netcheck` behind real Linux NATs, in network namespaces of this test's own, with three public peers of which one says what is not so.
//!
//! Where no lab can be built (it needs root, python3, `ip` and `nft`), the test says so and passes.
#![expect(clippy::unwrap_used, reason = "a failed step of the harness fails its test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Behind each router: what it is for netlab, and what `peers netcheck` is to say of it: kind, ports, hairpin.
const KINDS: [(&str, &str, Option<&str>, Option<bool>); 12] = [
    ("open", "open", None, None),
    ("firewall", "firewall", None, None),
    ("full-cone", "full-cone", Some("preserved"), Some(false)),
    ("addr-restricted", "addr-restricted", Some("preserved"), Some(false)),
    ("port-restricted", "port-restricted", Some("preserved"), Some(false)),
    ("symmetric", "symmetric", Some("random"), None),
    ("symmetric-sequential", "symmetric", Some("sequential"), None),
    ("symmetric ports=20000-20511", "symmetric", Some("block"), None),
    ("double", "symmetric", Some("random"), None),
    ("full-cone hairpin=1", "full-cone", Some("preserved"), Some(true)),
    ("port-restricted stray=accept", "port-restricted", Some("preserved"), Some(false)),
    ("addr-restricted hairpin=1 remap=1", "addr-restricted", Some("random"), Some(true)),
];

/// What makes an honest node a liar: it sees whatever comes to it come from elsewhere, and none of its probes leaves. The length of a UDP datagram includes its header of 8 bytes.
const LIE: &str = "table ip lie {
    chain in { type nat hook input priority 100; udp dport 4000 snat to 203.0.113.77:10000-60000 fully-random
    }
    chain out { type filter hook output priority 0; udp length 40 drop
    }
}";

#[test]
fn every_kind_of_nat_that_netlab_builds_is_told_while_one_of_three_peers_lies() {
    let spec: String = KINDS.iter().enumerate().map(|(n, (label, ..))| nat(n, label)).collect::<Vec<_>>().join("; ");
    let Some(lab) = Lab::up("ncall", &format!("host p0 p1 p2; {spec}")) else { return };
    let public = lab.public_peers();
    lab.lie("p2");
    let mut hosts: Vec<Node> = (0..KINDS.len()).map(|n| lab.node(&format!("h{n}"))).collect();
    hosts.iter_mut().for_each(|host| host.up(&public));
    let mut wrong = Vec::new();
    for (host, (label, kind, ports, hairpin)) in hosts.iter().zip(KINDS) {
        let (code, found) = host.run(&["netcheck", "--wait", "20"]);
        let as_it_is = code == Some(0)
            && found["kind"] == kind
            && found["ports"].as_str() == ports
            && found["hairpin"].as_bool() == hairpin
            && (ports != Some("sequential") || found["step"] == 1)
            && found["agreed"].as_u64() >= Some(2)
            && !found["means"].as_array().unwrap().is_empty();
        if !as_it_is {
            wrong.push(format!("{label}: exit code {code:?}, {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn netcheck_works_where_no_node_runs_and_says_when_nobody_can_be_asked() {
    let Some(lab) = Lab::up("ncone", "host p0 p1 p2; nat r port-restricted h; nat b blocked-udp x") else { return };
    let public = lab.public_peers();
    let (alone, blocked) = (lab.node("h"), lab.node("x"));
    let (code, found) = alone.run(&["netcheck", "--wait", "1"]);
    assert_eq!((code, &found["kind"]), (Some(3), &Value::from("unknown")), "{found}");
    let peers: Vec<&str> = public.iter().flat_map(|address| ["--peer", address]).collect();
    let (code, found) = alone.run(&[&["netcheck", "--wait", "20"], &peers[..]].concat());
    assert_eq!((code, &found["kind"]), (Some(0), &Value::from("port-restricted")), "{found}");
    let (code, found) = blocked.run(&[&["netcheck", "--wait", "30"], &peers[..]].concat());
    assert_eq!((code, &found["kind"]), (Some(0), &Value::from("blocked-udp")), "{found}");
}

#[test]
fn who_moves_to_another_network_is_told_of_that_one() {
    let Some(lab) = Lab::up("ncmove", "host p0 p1 p2; nat a port-restricted h lan=192.168.7; nat b symmetric x lan=192.168.9") else {
        return;
    };
    let public = lab.public_peers();
    let mut host = lab.node("h");
    host.up(&public);
    let (_, found) = host.run(&["netcheck", "--wait", "20"]);
    assert_eq!(found["kind"], "port-restricted", "{found}");
    assert!(lab.call(&["move", "h", "b"]).status.success());
    let begin = now();
    while host.run(&["netcheck", "--wait", "3"]).1["kind"] != "symmetric" {
        assert!(begin.elapsed() < Duration::from_secs(60), "it is not told: {}", host.run(&["netcheck", "--wait", "3"]).1);
    }
}

fn nat(n: usize, label: &str) -> String {
    let (kind, options) = label.split_once(' ').unwrap_or((label, ""));
    format!("nat r{n} {kind} h{n} {options}")
}

/// A lab of netlab, gone when dropped.
struct Lab {
    name: String,
    folder: TempDir,
    public: std::cell::RefCell<Vec<Node>>,
}

impl Lab {
    fn up(name: &str, spec: &str) -> Option<Self> {
        let lab = Self {
            name: format!("{name}{}", std::process::id() % 10_000),
            folder: TempDir::with_prefix("peers-netcheck-").unwrap(),
            public: std::cell::RefCell::default(),
        };
        let made = lab.try_call(&["up", spec]);
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            let why = made.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
            let _ = writeln!(std::io::stderr(), "skipped: no lab can be built here: {why}");
            return None;
        }
        Some(lab)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("tests").join("netlab/netlab"));
        command.env("NETLAB", &self.name);
        command
    }

    fn try_call(&self, arguments: &[&str]) -> std::io::Result<Output> {
        self.command().args(arguments).output()
    }

    fn call(&self, arguments: &[&str]) -> Output {
        self.try_call(arguments).unwrap()
    }

    fn node(&self, host: &str) -> Node {
        let mut command = self.command();
        command.args(["exec", host, env!("CARGO_BIN_EXE_peers"), "--json"]);
        Node { command, home: self.folder.path().join(host), node: None }
    }

    /// Three peers with public addresses that know each other; gives where they are.
    fn public_peers(&self) -> Vec<String> {
        let hosts = ["p0", "p1", "p2"];
        let addresses: Vec<String> =
            hosts.iter().map(|host| format!("{}:4000", String::from_utf8(self.call(&["addr", host]).stdout).unwrap().trim())).collect();
        for host in hosts {
            let mut node = self.node(host);
            node.up(&addresses);
            self.public.borrow_mut().push(node);
        }
        addresses
    }

    fn lie(&self, host: &str) {
        let output = self.call(&["exec", host, "nft", LIE]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.public.borrow_mut().clear();
        let _ = self.try_call(&["down"]);
    }
}

/// A device in the lab; its node, if one runs, ends with it.
struct Node {
    command: Command,
    home: PathBuf,
    node: Option<Child>,
}

impl Node {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args()).args(arguments).env("PEERS_HOME", &self.home).env_remove("PEERS_LOG");
        for (key, value) in self.command.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts `peers up`, connected to `peers`, and waits until it takes commands.
    fn up(&mut self, peers: &[String]) {
        let peers = peers.iter().flat_map(|peer| ["--peer", peer]);
        let arguments: Vec<&str> = ["up", "--no-lan", "--listen", "0.0.0.0:4000"].into_iter().chain(peers).collect();
        self.node = Some(self.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let begin = now();
        while self.run(&["status"]).0 != Some(0) {
            assert!(begin.elapsed() < Duration::from_secs(30), "the node does not take commands");
        }
    }

    /// Runs a command to its end: its exit code, and the JSON object in the last line of its output.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.command(arguments).output().unwrap();
        let line = output.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        (output.status.code(), serde_json::from_slice(line).unwrap_or_default())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn now() -> Instant {
    Instant::now()
}
