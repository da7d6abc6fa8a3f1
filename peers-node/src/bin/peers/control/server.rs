//! The side of the control socket that the node is on.

use core::time::Duration;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peers_node::Node;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{MAX_LINE, Reply, Request, read_line};
use crate::failure::{Code, Failure};
use crate::service;

/// The socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds the socket at `path`, for its owner only. The caller holds the lock of the home: a socket that is there is a dead one.
    ///
    /// # Errors
    /// [`Code::Failed`] with what to do.
    pub(crate) fn bind(path: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::InvalidInput => "set PEERS_HOME to a folder with a path of less than 90 bytes",
                _ => "make the folder writable for you, or set PEERS_HOME to another one",
            };
            Failure::failed(format!("the control socket {} cannot be made: {error}", path.display())).hint(hint)
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Before this the folder alone, which is 0700, keeps others out.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers clients for ever; dropping the future ends all of them.
    pub(crate) async fn serve(&self, node: &Node) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while clients.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let node = node.clone();
                    clients.spawn(async move {
                        answer(stream, &node).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("a client could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where the answer to one request goes.
#[derive(Debug)]
pub(crate) struct Replies {
    writer: OwnedWriteHalf,
}

impl Replies {
    /// Sends an event; waits while the client is slow.
    ///
    /// # Errors
    /// [`Code::Failed`] if the client is gone: the request has no reader any more.
    pub(crate) async fn event(&mut self, event: &impl Serialize) -> Result<(), Failure> {
        let value = service::value(event)?;
        self.send(&Reply::Event(value)).await.map_err(|error| Failure::failed(format!("the client is gone: {error}")))
    }

    async fn send(&mut self, reply: &Reply) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        if line.len() >= MAX_LINE {
            line = serde_json::to_vec(&Reply::Error(
                Failure::failed("the answer is larger than the control socket carries").hint("ask for less at once"),
            ))?;
        }
        line.push(b'\n');
        self.writer.write_all(&line).await
    }
}

async fn answer(stream: UnixStream, node: &Node) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut replies = Replies { writer };
    let request = match timeout(MAX_ASKING, read_line(&mut reader, MAX_LINE)).await {
        Ok(Ok(Some(line))) => serde_json::from_slice::<Request>(&line).map_err(|error| format!("the request is not understood: {error}")),
        Ok(Ok(None)) => return,
        Ok(Err(error)) => Err(format!("the request cannot be read: {error}")),
        Err(_) => Err(format!("no request came within {} s", MAX_ASKING.as_secs())),
    };
    let reply = match request {
        Ok(request) => {
            let result = tokio::select! {
                result = service::run(request, node, &mut replies) => result,
                () = gone(&mut reader) => return,
            };
            result.map_or_else(Reply::Error, Reply::Ok)
        }
        Err(message) => {
            Reply::Error(Failure::new(Code::Usage, message).hint("send one line: an object with the field `request`; see docs/CLI.md"))
        }
    };
    if let Err(error) = replies.send(&reply).await {
        tracing::debug!("a client went away before its answer: {error}");
    }
}

/// Returns when the client has closed its end.
async fn gone(reader: &mut BufReader<OwnedReadHalf>) {
    let mut ignored = [0; 256];
    while reader.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

/// Clients at the same time; more wait.
const MAX_CLIENTS: usize = 64;
/// How long a client may take to send its request.
const MAX_ASKING: Duration = Duration::from_secs(30);
