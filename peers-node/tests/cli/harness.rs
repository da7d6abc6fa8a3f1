//! Homes, commands and nodes for these tests. Everything a test starts ends with it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A folder for one node.
pub(crate) struct Home {
    temp: TempDir,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    /// The JSON object in the last line of standard output; null if there is none.
    pub(crate) json: Value,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { temp: TempDir::with_prefix("peers-cli-").unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.temp.path().join("home")
    }

    /// A path beside the home, for databases and files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peers"));
        command.args(arguments).env("PEERS_HOME", self.path()).env_remove("PEERS_LOG").current_dir(self.temp.path());
        command
    }

    /// Runs `peers --json ARGUMENTS` to its end, with `input` on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(&["--json"]);
        command.args(arguments);
        Self::finish(command, input)
    }

    /// As [`Home::run`], with another folder as the home.
    pub(crate) fn run_at(&self, path: &Path, arguments: &[&str]) -> Ran {
        self.run_at_with(path, arguments, b"")
    }

    /// As [`Home::run_at`], with `input` on standard input.
    pub(crate) fn run_at_with(&self, path: &Path, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(&["--json"]);
        command.args(arguments).env("PEERS_HOME", path);
        Self::finish(command, input)
    }

    /// Runs a line of the shell beside the home.
    pub(crate) fn shell(&self, line: &str) -> Ran {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).env("PEERS_HOME", self.path()).current_dir(self.temp.path());
        Self::finish(command, b"")
    }

    /// Starts a command whose standard input is still open.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn finish(mut command: Command, input: &[u8]) -> Ran {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that fails early does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let json = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null);
        Ran { code: output.status.code().unwrap_or(-1), json, stdout, stderr: String::from_utf8(output.stderr).unwrap() }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"")
    }

    /// Runs a command that must succeed, and gives its JSON.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Value {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "peers {}: {}", arguments.join(" "), ran.stderr);
        assert!(ran.json.is_object(), "peers {}: {}", arguments.join(" "), ran.stdout);
        ran.json
    }

    /// Starts a command for people (no JSON) and leaves it running.
    pub(crate) fn spawn(&self, arguments: &[&str], input: &[u8]) -> Running {
        let mut child = self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }

    /// Starts `peers up` on 127.0.0.1 and waits until it takes commands.
    pub(crate) fn up(&self, name: &str, more: &[&str]) -> Running {
        let arguments = [&["up", "--listen", "127.0.0.1:0", "--name", name], more].concat();
        let mut running = self.spawn(&arguments, b"");
        until("the node takes commands", || {
            assert!(running.child.try_wait().unwrap().is_none(), "{name} ended at once");
            self.run(&["status"]).code == 0
        });
        running
    }

    /// As [`Home::up_alone`], as another user of the system; `None` where that cannot be, or that user may not run the command.
    pub(crate) fn up_alone_as(&self, user: u32) -> Option<Running> {
        std::os::unix::fs::chown(self.temp.path(), Some(user), Some(user)).ok()?;
        let mut command = self.command(&["up", "--listen", "127.0.0.1:0", "--no-lan", "--name", "other"]);
        std::os::unix::process::CommandExt::uid(std::os::unix::process::CommandExt::gid(&mut command, user), user);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().ok()?;
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut running = Running { child, lines };
        until("the node takes commands", || {
            assert!(running.child.try_wait().unwrap().is_none(), "it ended at once");
            self.run(&["status"]).code == 0
        });
        Some(running)
    }

    /// As [`Home::up`], alone: no discovery.
    pub(crate) fn up_alone(&self, name: &str) -> Running {
        self.up(name, &["--no-lan"])
    }

    /// As [`Home::up`], connected to `other` and nobody else, as soon as it is.
    pub(crate) fn up_beside(&self, name: &str, other: &Self) -> Running {
        let status = other.ok(&["status"]);
        let peer = format!("{}@{}", status["id"].as_str().unwrap(), status["listen"][0].as_str().unwrap());
        let running = self.up(name, &["--no-lan", "--peer", &peer]);
        until("both are connected", || self.knows(&status["id"]) && other.knows(&self.ok(&["status"])["id"]));
        running
    }

    /// There is a session with that peer.
    pub(crate) fn knows(&self, id: &Value) -> bool {
        self.ok(&["status"])["peers"].as_array().unwrap().iter().any(|peer| peer["id"] == *id)
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path().join("control.sock")).unwrap()
    }
}

impl Ran {
    /// The command failed with this exit code, named `what`, said what to do, and printed the same as JSON.
    pub(crate) fn fails(&self, code: i32, what: &[&str]) {
        let message = self.json["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        let kind = ["", "failed", "usage", "unreachable", "refused", "stored"][usize::try_from(code).unwrap()];
        assert_eq!(self.json["error"]["code"], kind, "{}", self.stdout);
        for part in what {
            assert!(self.stderr.contains(part), "{part:?} is not in {:?}", self.stderr);
        }
        assert!(self.stderr.contains(message.lines().next().unwrap_or_default()), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

impl Running {
    /// Reads what it prints up to a line that holds `part`, and gives that line.
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "{part:?} was never printed");
            if line.contains(part) {
                return line.trim().to_owned();
            }
        }
    }

    /// Waits for its end: the exit code and the rest of what it printed.
    pub(crate) fn end(&mut self) -> (i32, String) {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.lines, &mut rest).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), rest)
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Ends it cleanly.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.end().0, 0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file system of a few MiB in memory; gone when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// `None` where none can be mounted.
    pub(crate) fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]).arg(folder).output().ok()?;
        mounted.status.success().then(|| Self(folder.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Nothing on it can be written any more.
    pub(crate) fn read_only(&self) {
        assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Tries until it holds, for half a minute.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("it never came true that {what}");
}

/// A database made by an ordinary SQLite program.
pub(crate) fn database(path: &Path, sql: &str) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch(sql).unwrap();
    connection
}
