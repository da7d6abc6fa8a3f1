//! The lab: hosts and NATs in network namespaces, gone when dropped, and the nodes that run in them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::node::{Said, What};

/// Why there can be no lab.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsupported {
    #[error("the lab makes network namespaces, which only root may: run this as root")]
    NotRoot,
    #[error("the lab needs the command `{0}`: install the package {1}")]
    Missing(&'static str, &'static str),
    #[error("delay needs the device /dev/net/tun: run with `--delay 0`, or on a system that has it")]
    NoTun,
    #[error("this system does not let the lab be built: {0}")]
    Refused(String),
}

/// What the lab needs, with the Debian package that has it.
const NEEDED: [(&str, &str); 4] = [("python3", "python3"), ("ip", "iproute2"), ("nft", "nftables"), ("tc", "iproute2")];

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("tests").join("netlab/netlab")
}

fn check(delay: bool) -> Result<(), Unsupported> {
    if !fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        return Err(Unsupported::NotRoot);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |command: &str| std::env::split_paths(&path).any(|folder| folder.join(command).exists());
    if let Some((command, package)) = NEEDED.iter().find(|(command, _)| !installed(command)) {
        return Err(Unsupported::Missing(command, package));
    }
    if delay && !Path::new("/dev/net/tun").exists() {
        return Err(Unsupported::NoTun);
    }
    Ok(())
}

pub(crate) async fn selftest() -> anyhow::Result<ExitCode> {
    check(false)?;
    let status = Command::new(script()).arg("selftest").status().await?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A lab of its own name, so that several may run side by side.
#[derive(Debug)]
pub(crate) struct Lab {
    name: String,
}

impl Lab {
    /// Builds what `spec` says, in the language of netlab, and puts `delay` on the uplink of each of `delayed`.
    ///
    /// # Errors
    /// [`Unsupported`] where there can be no lab.
    pub(crate) async fn up(spec: &str, delay: Duration, delayed: &[String]) -> anyhow::Result<Self> {
        check(!delay.is_zero())?;
        let lab = Self { name: format!("m{}", std::process::id()) };
        lab.call(&["up", spec]).await.map_err(|error| Unsupported::Refused(error.to_string()))?;
        for node in delayed.iter().filter(|_| !delay.is_zero()) {
            lab.call(&["delay", node, &format!("{}ms", delay.as_millis())]).await?;
        }
        Ok(lab)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(script());
        command.args(arguments).env("NETLAB", &self.name).stdin(Stdio::null());
        command
    }

    /// Runs a command of netlab; gives what it printed.
    pub(crate) async fn call(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().await.context("cannot run netlab")?;
        if !output.status.success() {
            bail!("netlab {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = std::process::Command::new(script()).arg("down").env("NETLAB", &self.name).status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("the lab {0} is still there: NETLAB={0} {1} down", self.name, script().display());
        }
    }
}

/// Nodes that run in a lab, and what they say, in the order it is heard.
#[derive(Debug)]
pub(crate) struct Nodes {
    sender: mpsc::Sender<(usize, Said)>,
    heard: mpsc::Receiver<(usize, Said)>,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    commands: ChildStdin,
    process: Child,
    _home: TempDir,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let (sender, heard) = mpsc::channel(1024);
        Self { sender, heard, nodes: Vec::new() }
    }

    /// Starts a node on `host`; gives its number and its id.
    pub(crate) async fn start(&mut self, lab: &Lab, host: &str, arguments: &[&str]) -> anyhow::Result<(usize, String)> {
        // In memory where there is such a folder: the disk is not what is measured.
        let memory = Path::new("/dev/shm");
        let home = if memory.is_dir() { TempDir::new_in(memory)? } else { TempDir::new()? };
        let program = std::env::current_exe()?;
        let mut command = lab.command(&["exec", host]);
        command.arg(program).args(["netlab", "node", "--home"]).arg(home.path()).args(arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let commands = process.stdin.take().context("a node has a standard input")?;
        let output = process.stdout.take().context("a node has a standard output")?;
        let (number, sender) = (self.nodes.len(), self.sender.clone());
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(said) => {
                        if sender.send((number, said)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => eprintln!("a node said {line}: {error}"),
                }
            }
        });
        self.nodes.push(Node { commands, process, _home: home });
        let deadline = Instant::now() + START_TIME;
        loop {
            match self.next(deadline).await {
                Some((who, Said { what: What::Ready { id }, .. })) if who == number => return Ok((number, id)),
                Some(_) => {}
                None => bail!("the node on {host} does not start"),
            }
        }
    }

    /// Gives a node a command.
    pub(crate) async fn tell(&mut self, node: usize, command: &str) -> anyhow::Result<()> {
        let node = self.nodes.get_mut(node).context("there is such a node")?;
        node.commands.write_all(format!("{command}\n").as_bytes()).await.context("a node has ended")
    }

    /// Stops the process of a node, as a machine that is suspended does, or lets it go on.
    pub(crate) async fn suspend(&self, node: usize, suspend: bool) -> anyhow::Result<()> {
        let process = self.nodes.get(node).and_then(|node| node.process.id()).context("a node has ended")?;
        let signal = if suspend { "-STOP" } else { "-CONT" };
        let status = Command::new("kill").args([signal, &process.to_string()]).status().await?;
        if status.success() { Ok(()) } else { bail!("a node cannot be stopped") }
    }

    /// What is said next, if it is before `deadline`.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Option<(usize, Said)> {
        timeout_at(deadline, self.heard.recv()).await.ok().flatten()
    }

    /// Datagrams that a node has sent so far; what others say meanwhile is dropped.
    pub(crate) async fn datagrams(&mut self, node: usize) -> anyhow::Result<u64> {
        self.tell(node, "count").await?;
        let deadline = Instant::now() + START_TIME;
        loop {
            match self.next(deadline).await {
                Some((who, Said { what: What::Sent { datagrams }, .. })) if who == node => return Ok(datagrams),
                Some(_) => {}
                None => bail!("a node does not answer"),
            }
        }
    }

    /// Waits until `node` has a session with each of `peers`; returns whether it does in time.
    pub(crate) async fn knows(&mut self, node: usize, peers: &[String], time: Duration) -> bool {
        let (deadline, mut missing) = (Instant::now() + time, peers.to_vec());
        while !missing.is_empty() {
            match self.next(deadline).await {
                Some((who, Said { what: What::Connected { peer: with, .. }, .. })) if who == node => missing.retain(|peer| *peer != with),
                Some(_) => {}
                None => return false,
            }
        }
        true
    }
}

/// Time for a node to begin, or to answer.
const START_TIME: Duration = Duration::from_secs(20);
