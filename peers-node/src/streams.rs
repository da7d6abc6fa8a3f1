//! Datagrams by TCP, for peers whose network lets no UDP pass: each behind its length, to and from the address and port that UDP would use.
//!
//! What the agent says of streams holds: they are as unreliable as datagrams (a queue that is full drops), and nobody is believed for having one.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What comes from streams.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Somebody has connected.
    Accepted(SocketAddr, mpsc::Sender<Bytes>),
    /// A datagram.
    Datagram(SocketAddr, Bytes),
    /// A stream has ended, or could not be connected.
    Ended(SocketAddr),
}

/// The streams of a node. Its tasks end with it.
#[derive(Debug)]
pub(crate) struct Streams {
    open: HashMap<SocketAddr, mpsc::Sender<Bytes>>,
    /// Those of them that others have made.
    accepted: HashSet<SocketAddr>,
    arrivals: mpsc::Receiver<Arrival>,
    sender: mpsc::Sender<Arrival>,
    tasks: JoinSet<()>,
}

impl Streams {
    /// Takes streams at each of `addresses` that the system lets it: one that is in use is left out, as UDP needs none. Call it within a tokio runtime.
    pub(crate) fn listen(addresses: &[SocketAddr]) -> Self {
        let (sender, arrivals) = mpsc::channel(MAX_ARRIVALS);
        let mut tasks = JoinSet::new();
        for address in addresses {
            match bind(*address) {
                Ok(listener) => drop(tasks.spawn(accept(listener, sender.clone()))),
                Err(error) => tracing::warn!("peers without UDP do not reach {address}: TCP cannot be listened on there: {error}"),
            }
        }
        Self { open: HashMap::new(), accepted: HashSet::new(), arrivals, sender, tasks }
    }

    /// Sends a datagram to `destination`, by a stream that is connected if there is none. Without room it is lost.
    pub(crate) fn send(&mut self, destination: SocketAddr, datagram: Bytes) {
        while self.tasks.try_join_next().is_some() {}
        if let Some(stream) = self.open.get(&destination) {
            // Who reads too slowly loses datagrams.
            let _ = stream.try_send(datagram);
        } else if self.open.len() < MAX_STREAMS {
            let (stream, outgoing) = mpsc::channel(MAX_OUTGOING);
            let _ = stream.try_send(datagram);
            self.open.insert(destination, stream);
            self.tasks.spawn(connect(destination, outgoing, self.sender.clone()));
        }
    }

    /// Ends all: the network has changed, and what is sent by them may go nowhere for minutes.
    pub(crate) fn end_all(&mut self) {
        // Without its queue, a stream ends.
        self.open.clear();
    }

    /// What comes next. May be cancelled at any time.
    pub(crate) async fn next(&mut self) -> Arrival {
        loop {
            // The streams themselves hold a sender: this channel is never closed.
            let Some(arrival) = self.arrivals.recv().await else { return std::future::pending().await };
            if let Some(arrival) = self.take(arrival) {
                return arrival;
            }
        }
    }

    /// What has come already.
    pub(crate) fn try_next(&mut self) -> Option<Arrival> {
        loop {
            let arrival = self.arrivals.try_recv().ok()?;
            if let Some(arrival) = self.take(arrival) {
                return Some(arrival);
            }
        }
    }

    /// Notes who comes and goes.
    fn take(&mut self, arrival: Arrival) -> Option<Arrival> {
        match arrival {
            Arrival::Accepted(remote, stream) => {
                let same = self.open.keys().filter(|address| host(address.ip()) == host(remote.ip())).count();
                // Half of the room is for those that this node makes.
                self.accepted.retain(|remote| self.open.contains_key(remote));
                if self.accepted.len() < MAX_STREAMS / 2 && same < MAX_STREAMS_PER_HOST && !self.open.contains_key(&remote) {
                    self.accepted.insert(remote);
                    self.open.insert(remote, stream);
                }
                None
            }
            Arrival::Ended(remote) => {
                self.open.remove(&remote);
                Some(arrival)
            }
            // Of a stream that was not taken: its queue is gone, and so is its task soon.
            Arrival::Datagram(remote, _) => self.open.contains_key(&remote).then_some(arrival),
        }
    }
}

/// What one host has: an IPv4 address, or an IPv6 /64.
fn host(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(_) => ip.to_canonical(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, arrivals: mpsc::Sender<Arrival>) {
    loop {
        let Ok((stream, remote)) = listener.accept().await else {
            // No descriptor is left: others may end.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (sender, outgoing) = mpsc::channel(MAX_OUTGOING);
        if arrivals.send(Arrival::Accepted(remote, sender)).await.is_err() {
            return;
        }
        tokio::spawn(carry(stream, remote, outgoing, arrivals.clone()));
    }
}

async fn connect(destination: SocketAddr, outgoing: mpsc::Receiver<Bytes>, arrivals: mpsc::Sender<Arrival>) {
    match timeout(CONNECT_TIME, TcpStream::connect(destination)).await {
        Ok(Ok(stream)) => carry(stream, destination, outgoing, arrivals).await,
        _ => drop(arrivals.send(Arrival::Ended(destination)).await),
    }
}

/// Carries datagrams both ways until either end has had enough.
async fn carry(stream: TcpStream, remote: SocketAddr, outgoing: mpsc::Receiver<Bytes>, arrivals: mpsc::Sender<Arrival>) {
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let ended = tokio::select! {
        ended = read(reader, remote, &arrivals) => ended,
        ended = write(writer, outgoing) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!("the stream with {remote} has ended: {error}");
    }
    let _ = arrivals.send(Arrival::Ended(remote)).await;
}

async fn read(mut reader: OwnedReadHalf, remote: SocketAddr, arrivals: &mpsc::Sender<Arrival>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let length = usize::from(timeout(IDLE, reader.read_u16()).await??);
        if length == 0 || length > peers_crypto::MAX_DATAGRAM {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a datagram of {length} bytes")));
        }
        buffer.resize(length, 0);
        timeout(WHOLE, reader.read_exact(&mut buffer)).await??;
        // Where the node is busy, the sender waits.
        if arrivals.send(Arrival::Datagram(remote, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    while let Some(datagram) = outgoing.recv().await {
        let Ok(length) = u16::try_from(datagram.len()) else { continue };
        bytes.clear();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&datagram);
        timeout(WHOLE, writer.write_all(&bytes)).await??;
    }
    Ok(())
}

/// Most streams at once, those of one host, and datagrams that wait for each and from all.
const MAX_STREAMS: usize = 256;
const MAX_STREAMS_PER_HOST: usize = 8;
const MAX_OUTGOING: usize = 128;
const MAX_ARRIVALS: usize = 256;
const BACKLOG: i32 = 64;
/// How long a stream may be silent, a datagram under way, and a connection being made.
const IDLE: Duration = Duration::from_secs(300);
const WHOLE: Duration = Duration::from_secs(20);
const CONNECT_TIME: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    async fn datagram(streams: &mut Streams) -> (SocketAddr, Bytes) {
        loop {
            if let Arrival::Datagram(remote, datagram) = timeout(Duration::from_secs(5), streams.next()).await.expect("something comes") {
                return (remote, datagram);
            }
        }
    }

    /// A node that listens, and where.
    fn listening() -> (Streams, SocketAddr) {
        let free = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
        (Streams::listen(&[free]), free)
    }

    #[tokio::test]
    async fn datagrams_pass_both_ways_whole_and_in_order() {
        let (mut bob, address) = listening();
        let mut alice = Streams::listen(&[]);
        for number in 1..=100u8 {
            alice.send(address, vec![number; usize::from(number) * 12].into());
        }
        let mut from = address;
        for number in 1..=100u8 {
            let (remote, got) = datagram(&mut bob).await;
            assert_eq!(got, vec![number; usize::from(number) * 12]);
            from = remote;
        }
        bob.send(from, Bytes::from_static(b"back"));
        assert_eq!(datagram(&mut alice).await, (address, Bytes::from_static(b"back")));
    }

    #[tokio::test]
    async fn nobody_there_and_a_length_that_no_datagram_has_end_a_stream() {
        let mut alice = Streams::listen(&[]);
        let nobody = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
        alice.send(nobody, Bytes::from_static(b"x"));
        assert!(matches!(alice.next().await, Arrival::Ended(remote) if remote == nobody));
        let (mut bob, address) = listening();
        for length in [0u16, 1201, u16::MAX] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[&length.to_be_bytes()[..], &[1; 100]].concat()).await.unwrap();
            let local = stream.local_addr().unwrap();
            assert!(matches!(bob.next().await, Arrival::Ended(remote) if remote == local));
        }
    }

    #[tokio::test]
    async fn one_host_gets_a_share_of_the_streams() {
        let (mut bob, address) = listening();
        let mut clients = Vec::new();
        for _ in 0..3 * MAX_STREAMS_PER_HOST {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(&[0, 1, 7]).await;
            clients.push(stream);
        }
        let mut taken = 0;
        while let Ok(arrival) = timeout(Duration::from_millis(500), bob.next()).await {
            taken += usize::from(matches!(arrival, Arrival::Datagram(..)));
        }
        assert_eq!(taken, MAX_STREAMS_PER_HOST);
    }
}
