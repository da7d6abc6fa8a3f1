//! The side of the control socket that commands are on.

use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{MAX_LINE, Reply, Request, read_line};
use crate::failure::{Code, Failure};

/// One request under way.
#[derive(Debug)]
pub(crate) struct Call {
    reader: BufReader<OwnedReadHalf>,
    /// Closing it would cancel the request.
    _writer: OwnedWriteHalf,
}

/// What a request gives next.
#[derive(Debug)]
pub(crate) enum Next<E, A> {
    Event(E),
    Done(A),
}

impl Call {
    /// Sends `request` to the node at `socket`.
    ///
    /// # Errors
    /// [`Code::Unreachable`] if no node runs there.
    pub(crate) async fn new(socket: &Path, request: &Request) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).await.map_err(|error| not_running(socket, &error))?;
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_vec(request).map_err(|error| Failure::usage(format!("this cannot be asked: {error}")))?;
        if line.len() > MAX_LINE {
            return Err(Failure::failed(format!("{} bytes are more than a message can hold", line.len()))
                .hint("send it in parts of at most 16 MiB"));
        }
        line.push(b'\n');
        writer.write_all(&line).await.map_err(lost)?;
        Ok(Self { reader: BufReader::new(reader), _writer: writer })
    }

    /// The next event, or the answer.
    ///
    /// # Errors
    /// The failure that the node reports; [`Code::Unreachable`] if it went away.
    pub(crate) async fn next<E: DeserializeOwned, A: DeserializeOwned>(&mut self) -> Result<Next<E, A>, Failure> {
        let Some(line) = read_line(&mut self.reader, MAX_LINE).await.map_err(lost)? else {
            return Err(lost(ErrorKind::UnexpectedEof.into()));
        };
        match serde_json::from_slice(&line).map_err(alien)? {
            Reply::Event(value) => typed(value).map(Next::Event),
            Reply::Ok(value) => typed(value).map(Next::Done),
            Reply::Error(failure) => Err(failure),
        }
    }

    /// The answer, past all events.
    ///
    /// # Errors
    /// As [`Call::next`].
    pub(crate) async fn answer<A: DeserializeOwned>(&mut self) -> Result<A, Failure> {
        loop {
            if let Next::Done(answer) = self.next::<Value, A>().await? {
                return Ok(answer);
            }
        }
    }
}

/// One request, and its answer.
///
/// # Errors
/// As [`Call::new`] and [`Call::next`].
pub(crate) async fn ask<A: DeserializeOwned>(socket: &Path, request: &Request) -> Result<A, Failure> {
    Call::new(socket, request).await?.answer().await
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(alien)
}

fn not_running(socket: &Path, error: &std::io::Error) -> Failure {
    let place = socket.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::new(Code::Unreachable, format!("no node runs here ({place})"))
            .hint("start it with `peers up`, or set PEERS_HOME to the folder of one that runs"),
        ErrorKind::PermissionDenied => {
            Failure::new(Code::Refused, format!("{place} belongs to another user")).hint("run this as the user who runs `peers up`")
        }
        ErrorKind::InvalidInput => Failure::failed(format!("{place} is too long a path for a socket"))
            .hint("set PEERS_HOME to a folder with a path of less than 90 bytes"),
        _ => Failure::new(Code::Unreachable, format!("the node cannot be reached through {place}: {error}"))
            .hint("restart it: stop `peers up` and start it again"),
    }
}

fn lost(error: std::io::Error) -> Failure {
    Failure::new(Code::Unreachable, format!("the node went away while it was asked: {error}"))
        .hint("start it again with `peers up`; what it had acknowledged is kept")
}

fn alien(error: serde_json::Error) -> Failure {
    Failure::failed(format!("the node's answer is not understood: {error}"))
        .hint("the node is of another version than this command: restart `peers up`")
}
