//! One peer of the demo: a process of this same program, with its own state directory.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail, ensure};
use core::time::Duration;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::control::client::ask;
use crate::control::{Request, client::Call};
use crate::failure::{Code, Failure};
use peers_node::Home;

/// A peer that may run or not. Dropping it kills its process.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What people call it; also the name of the device.
    pub(crate) name: &'static str,
    folder: PathBuf,
    process: Option<Child>,
}

impl Peer {
    /// A peer that keeps everything below `folder`, which is made.
    pub(crate) fn new(name: &'static str, folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Self { name, folder, process: None })
    }

    /// The folder with the peer's home and files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The id of its process, while it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        self.process.as_ref()?.id()
    }

    fn home(&self) -> Home {
        Home::at(self.folder.join("home"))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Starts `peers up` and waits until it takes commands.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command(&["up", "--listen", "127.0.0.1:0", "--name", self.name])?;
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("this program cannot be started again")?;
        let socket = self.home().control_socket();
        let child = self.process.insert(child);
        let ready = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    bail!("it ended at once: {status}");
                }
                match ask::<Value>(&socket, &Request::Status {}).await {
                    Ok(_) => return Ok(()),
                    Err(failure) if failure.code == Code::Unreachable => sleep(POLL).await,
                    Err(failure) => return Err(failure.into()),
                }
            }
        };
        let result = timeout(PATIENCE, ready).await.unwrap_or_else(|_| Err(anyhow!("it took no commands for {PATIENCE:?}")));
        result.with_context(|| format!("{} did not start", self.name))
    }

    /// Ends the process cleanly (SIGTERM); it must say that it closed well.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.process.take() else { return Ok(()) };
        kill_process(pid(&child)?, Signal::TERM)?;
        let status = timeout(PATIENCE, child.wait()).await.with_context(|| format!("{} did not stop", self.name))??;
        if status.success() { Ok(()) } else { bail!("{} ended with {status}", self.name) }
    }

    /// Sends SIGKILL: the process has no chance to write anything more.
    pub(crate) fn kill_now(&self) -> Result<()> {
        let child = self.process.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(kill_process(pid(child)?, Signal::KILL)?)
    }

    /// Waits for the end of a process that was killed; it must not have ended otherwise.
    pub(crate) async fn buried(&mut self) -> Result<()> {
        let Some(mut child) = self.process.take() else { bail!("{} does not run", self.name) };
        let status = child.wait().await?;
        ensure!(status.signal() == Some(Signal::KILL.as_raw()), "{} ended by itself: {status}", self.name);
        Ok(())
    }

    /// A command of this peer; killed if it is dropped.
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
        command.args(arguments).env("PEERS_HOME", self.folder.join("home")).current_dir(&self.folder).kill_on_drop(true);
        Ok(command)
    }

    /// Runs `peers --json ARGUMENTS`, with `input` on its standard input, and gives what it prints.
    ///
    /// # Errors
    /// The failure that it prints, if its exit code is not 0.
    pub(crate) async fn run<T: DeserializeOwned>(&self, arguments: &[&str], input: Option<&str>) -> Result<T> {
        self.spawn(arguments, input).await?.finish().await
    }

    /// Starts `peers --json ARGUMENTS` with `input` on its standard input.
    pub(crate) async fn spawn(&self, arguments: &[&str], input: Option<&str>) -> Result<Running> {
        let mut command = self.command(&["--json"])?;
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        if let Some(input) = input {
            stdin.write_all(input.as_bytes()).await?;
        }
        drop(stdin);
        Ok(Running { what: format!("`peers {}` of {}", arguments.join(" "), self.name), child })
    }

    /// Asks the node through its control socket.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        ask(&self.home().control_socket(), request).await
    }

    /// Begins a request with events.
    pub(crate) async fn call(&self, request: &Request) -> Result<Call, Failure> {
        Call::new(&self.home().control_socket(), request).await
    }

    /// The last lines that the process wrote.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().map(|line| format!("{}: {}\n", self.name, crate::text::safe(line, false))).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let Some(child) = &self.process else { return };
        if let Ok(pid) = pid(child) {
            let _ = kill_process(pid, Signal::KILL);
            // Its folder can only be removed when it writes no more. The runtime collects the process afterwards.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Running {
    what: String,
    child: Child,
}

impl Running {
    /// Waits for its end and gives the JSON object it printed last.
    ///
    /// # Errors
    /// As [`Peer::run`].
    pub(crate) async fn finish<T: DeserializeOwned>(self) -> Result<T> {
        let Self { what, child } = self;
        let output = timeout(PATIENCE, child.wait_with_output()).await.with_context(|| format!("{what} did not end in {PATIENCE:?}"))??;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().last().unwrap_or_default();
        if output.status.success() {
            return serde_json::from_str(line).with_context(|| format!("{what} printed {line:?}"));
        }
        #[derive(serde::Deserialize)]
        struct Failed {
            error: Failure,
        }
        match serde_json::from_str::<Failed>(line) {
            Ok(failed) => Err(anyhow::Error::new(failed.error).context(what)),
            Err(_) => bail!("{what} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        }
    }
}

/// Tries until it holds, and gives what it gave; the last reason why it did not, after [`PATIENCE`].
pub(crate) async fn until<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = tokio::time::Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.context(format!("even after {} s", PATIENCE.as_secs()))),
            Err(_) => sleep(POLL).await,
        }
    }
}

fn pid(child: &Child) -> Result<Pid> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    id.and_then(Pid::from_raw).context("the process has ended by itself")
}

/// How long the demo waits for anything before it says that it does not hold.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
