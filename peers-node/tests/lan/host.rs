//! Hosts and the networks between them: network namespaces and virtual cables, gone when dropped.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::note;

/// A host of its own: a network namespace. Loopback is up, there is no other interface and no route.
pub(crate) struct Host {
    namespace: String,
    interfaces: AtomicU32,
    /// A laboratory removes its hosts itself.
    of_lab: bool,
}

impl Host {
    /// New hosts, or nothing where the system allows none.
    pub(crate) fn several<const N: usize>() -> Option<[Self; N]> {
        let hosts: Vec<_> = std::iter::repeat_with(Self::new).take(N).flatten().collect();
        hosts.try_into().map_err(|_| note("skipped: no network namespace can be made here (needs root, IPv6 and the command `ip`)")).ok()
    }

    /// A host of a laboratory that `netlab` has built.
    pub(crate) fn of_lab(lab: &str, name: &str) -> Self {
        Self { namespace: format!("nl-{lab}-{name}"), interfaces: AtomicU32::new(0), of_lab: true }
    }

    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("peers-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &namespace]).output().ok()?;
        let host = made.status.success().then_some(Self { namespace, interfaces: AtomicU32::new(0), of_lab: false })?;
        host.ip("link set lo up");
        // Addresses are unique here: no second of waiting before a link-local one is used.
        let configured = host.command("sh").args(["-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"]).output().ok()?;
        configured.status.success().then_some(host)
    }

    /// Puts hosts on one new LAN: a switch, which is returned, and a cable to each; `addresses` beside the link-local ones of IPv6.
    pub(crate) fn lan(hosts: &[(&Self, &[&str])]) -> Self {
        let switch = Self::new().expect("those before could be made");
        switch.ip("link add bridge type bridge");
        switch.ip("link set bridge up");
        for (port, (host, addresses)) in hosts.iter().enumerate() {
            let interface = format!("lan{}", host.interfaces.fetch_add(1, Ordering::Relaxed));
            switch.ip(&format!("link add port{port} type veth peer name {interface} netns {}", host.namespace));
            switch.ip(&format!("link set port{port} up master bridge"));
            for address in *addresses {
                host.ip(&format!("address add {address} dev {interface}"));
            }
            host.ip(&format!("link set {interface} up"));
        }
        switch
    }

    /// A command of this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Configures this host.
    pub(crate) fn ip(&self, arguments: &str) {
        let output = Command::new("ip").args(["-n", &self.namespace]).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a line of shell on this host, and gives what it printed.
    pub(crate) fn shell(&self, line: &str) -> String {
        let output = self.command("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.of_lab {
            let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
        }
    }
}
