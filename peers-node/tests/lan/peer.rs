//! A peer: a home, and the `peers` command on a host.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::host::Host;
use crate::until;

/// A device with a home of its own; its node, if one runs, ends with it.
pub(crate) struct Peer<'a> {
    host: &'a Host,
    folder: TempDir,
    node: Option<Child>,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    /// The JSON object in the last line of standard output; null if there is none.
    pub(crate) json: Value,
    pub(crate) stderr: String,
}

impl<'a> Peer<'a> {
    pub(crate) fn new(host: &'a Host) -> Self {
        Self { host, folder: TempDir::with_prefix("peers-lan-").unwrap(), node: None }
    }

    /// A folder of this device; its home is in it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_peers"));
        command.arg("--json").args(arguments).env("PEERS_HOME", self.home()).env_remove("PEERS_LOG").current_dir(self.folder());
        command
    }

    /// Starts `peers up`.
    pub(crate) fn up(&mut self, name: &str, more: &[&str]) {
        self.down();
        let mut command = self.command(&["up", "--name", name]);
        self.node = Some(command.args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Starts `peers up`, and waits until it takes commands.
    pub(crate) fn ready(&mut self, name: &str, more: &[&str]) {
        self.up(name, more);
        until(&format!("{name} takes commands"), || self.run(&["status"]).code == Some(0));
    }

    /// Ends the node as Ctrl-C does, and waits for it.
    pub(crate) fn interrupt(&mut self) {
        let mut node = self.node.take().unwrap();
        assert!(Command::new("kill").args(["-INT", &node.id().to_string()]).status().unwrap().success());
        assert!(node.wait().unwrap().success());
    }

    /// Kills the node, as a power cut would.
    pub(crate) fn down(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    /// Runs `peers --json ARGUMENTS` to its end, with `input` on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that fails early does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let json = output.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        Ran {
            code: output.status.code(),
            json: serde_json::from_slice(json).unwrap_or_default(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts `peers invite`; gives it, and the code or link that it shows.
    pub(crate) fn invite(&self, more: &[&str]) -> (Child, String) {
        let mut command = self.command(&["invite"]);
        let mut child = command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
        let ticket = lines.map(Result::unwrap).find(|line| line.trim().parse::<peers_crypto::Ticket>().is_ok()).unwrap();
        (child, ticket)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "")
    }

    /// Runs a command that must succeed, and gives its JSON.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Value {
        self.ok_with(arguments, "")
    }

    pub(crate) fn ok_with(&self, arguments: &[&str], input: &str) -> Value {
        let ran = self.run_with(arguments, input);
        assert_eq!(ran.code, Some(0), "peers {}: {}", arguments.join(" "), ran.stderr);
        ran.json
    }

    /// The id of the device; makes its key if it has none.
    pub(crate) fn id(&self) -> String {
        self.ok(&["id"])["id"].as_str().unwrap().to_owned()
    }

    /// The peers that there is a session with; none while the node starts.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let peers = self.run(&["status"]).json["peers"].take();
        peers.as_array().into_iter().flatten().map(|peer| peer["id"].as_str().unwrap().to_owned()).collect()
    }

    /// A counter of the node.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.run(&["status"]).json["counters"][name].as_u64().unwrap_or_default()
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        self.down();
    }
}
