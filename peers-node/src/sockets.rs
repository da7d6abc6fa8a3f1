//! The UDP sockets of a node: one for each address it listens on, and one for each family that hears the LAN beacon.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::Poll;

use crate::subnets::Subnets;
use bytes::{Bytes, BytesMut};
use hashbrown::HashSet;
use peers_nat::{BEACON_GROUP_V4, BEACON_GROUP_V6, BEACON_PORT, SocketId, Transmit};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::UdpSocket;

/// Why a node has no socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another program has the port.
    #[error("UDP port {} of {} is used by another program: stop it, or listen on another port (0 takes a free one)", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// No interface has the address.
    #[error("no interface of this machine has the address {}: listen on one that it has, or on 0.0.0.0 for all", .0.ip())]
    NotHere(SocketAddr),
    /// The system does not allow it.
    #[error("the system does not let this user listen on UDP port {} of {}: take a port above 1023", .0.port(), .0.ip())]
    Forbidden(SocketAddr),
    /// No address was given, or none of the given families exists here.
    #[error("there is no address to listen on: give one, for instance 0.0.0.0:0")]
    None,
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Sockets that never block and never fail once they are bound: what cannot be sent is dropped and counted.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Those that send, in the order of the addresses given.
    bound: Vec<UdpSocket>,
    /// Those that the agent asked for beside, in the order they were opened.
    auxiliary: Vec<(SocketId, UdpSocket)>,
    /// Those that hear beacons, for the families of `bound`.
    beacons: Vec<UdpSocket>,
    /// The subnets of this host's interfaces, if nothing may be sent beyond them.
    within: Option<Subnets>,
    /// Interfaces on which a group is joined.
    joined: HashSet<Interface>,
    /// The socket read next, so that a busy one does not silence the others.
    turn: usize,
    buffer: BytesMut,
    dropped: u64,
}

/// What a group is joined on: IPv4 names an interface by an address, IPv6 by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Interface {
    V4(Ipv4Addr),
    V6(u32),
}

impl Sockets {
    /// Binds a socket to each address of `listen`; where the first takes a free port, the others take the same if they can. An IPv6 wildcard is left out where there is no IPv6.
    ///
    /// With `lan`, beacons are heard and sent on every interface of the addresses bound: a wildcard has all but loopback, or loopback if there is no other. Without the beacon port, or where
    /// no interface takes part in multicast (`::1` of Linux does not), a node works but is not found on its LAN. Call it within a tokio runtime.
    ///
    /// With `only`, nothing is sent beyond the subnets of this host's interfaces, as [`Sockets::look`] found them last; tunnels are no part of the LAN. Datagrams have a time to live of 1 beside.
    ///
    /// # Errors
    /// [`BindError`] for the first address that cannot be bound.
    pub(crate) fn bind(listen: &[SocketAddr], lan: bool, only: bool) -> Result<Self, BindError> {
        let mut bound: Vec<UdpSocket> = Vec::new();
        for address in listen {
            let shared = bound.first().and_then(|first| first.local_addr().ok()).filter(|_| address.port() == 0);
            let shared = shared.and_then(|first| open(SocketAddr::new(address.ip(), first.port()), false).ok());
            match shared.map_or_else(|| open(*address, false), Ok) {
                Ok(socket) => bound.push(socket),
                Err(source) if is_missing_family(address, &source) => {}
                Err(source) => return Err(BindError::new(*address, source)),
            }
        }
        if bound.is_empty() {
            return Err(BindError::None);
        }
        for socket in bound.iter().filter(|_| only) {
            let (v4, socket) = (socket.local_addr().is_ok_and(|address| address.is_ipv4()), SockRef::from(socket));
            let set = if v4 { socket.set_ttl_v4(1) } else { socket.set_unicast_hops_v6(1) };
            set.map_err(|source| BindError::Other { address: listen[0], source })?;
        }
        let mut sockets = Self {
            bound,
            within: only.then(Subnets::default),
            auxiliary: Vec::new(),
            beacons: Vec::new(),
            joined: HashSet::new(),
            turn: 0,
            buffer: BytesMut::new(),
            dropped: 0,
        };
        if lan {
            sockets.open_beacons();
        }
        sockets.look();
        Ok(sockets)
    }

    /// Looks at the interfaces of this host, as they are now. Returns whether there is one that beacons were not sent on.
    pub(crate) fn look(&mut self) -> bool {
        if self.within.is_some() {
            self.within = Some(Subnets::of(&self.system()));
        }
        let known = self.joined.clone();
        !self.beacons.is_empty() && {
            self.join();
            !self.joined.is_subset(&known)
        }
    }

    /// The interfaces of this host: all, or those of its LAN.
    fn system(&self) -> Vec<if_addrs::Interface> {
        let mut interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        interfaces.retain(|interface| self.within.is_none() || !interface.is_p2p());
        interfaces
    }

    /// The addresses that streams may be taken at: those that datagrams are, none if they are to stay in the LAN.
    pub(crate) fn for_streams(&self) -> Vec<SocketAddr> {
        let bound = self.bound.iter().filter(|_| self.within.is_none());
        bound.filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// The addresses under which others on the same link reach these sockets: a wildcard stands for those of all interfaces but loopback. Link-local ones serve on interfaces that have no
    /// others: two hosts on a cable have no more.
    pub(crate) fn local_addresses(&self) -> Vec<SocketAddr> {
        let interfaces = self.system();
        let mut addresses = Vec::new();
        for address in self.bound.iter().filter_map(|socket| socket.local_addr().ok()) {
            if !address.ip().is_unspecified() {
                addresses.push(address);
                continue;
            }
            for interface in usable(&interfaces).filter(|interface| interface.ip().is_ipv4() == address.is_ipv4()) {
                let has_others = interfaces.iter().any(|other| other.name == interface.name && !other.is_link_local());
                if interface.is_link_local() && has_others {
                    continue;
                }
                addresses.push(match (interface.ip(), interface.index) {
                    // The same link-local address may be on every interface: its scope says which one is meant.
                    (IpAddr::V6(ip), Some(index)) if interface.is_link_local() => SocketAddrV6::new(ip, address.port(), 0, index).into(),
                    (ip, _) => SocketAddr::new(ip, address.port()),
                });
            }
        }
        addresses
    }

    /// Sends a datagram by the first socket of its family: a multicast one on every interface. What cannot leave now is dropped and counted, as the network would.
    pub(crate) fn send(&mut self, transmit: &Transmit) {
        let destination = transmit.destination;
        if destination.ip().is_multicast() {
            return self.send_multicast(transmit);
        }
        if self.within.as_ref().is_some_and(|subnets| !subnets.contains(destination.ip())) {
            return self.count(destination, Err(ErrorKind::NetworkUnreachable.into()));
        }
        let sent = self.by(transmit.socket, destination).and_then(|socket| {
            let socket = SockRef::from(socket);
            match transmit.ttl {
                Some(ttl) => send_within(&socket, transmit, ttl),
                None => socket.send_to(&transmit.payload, &SockAddr::from(destination)),
            }
        });
        self.count(destination, sent);
    }

    /// The socket that `id` names, which is opened if it is not there yet.
    fn by(&mut self, id: SocketId, destination: SocketAddr) -> io::Result<&UdpSocket> {
        let main = socket_for(&self.bound, destination.is_ipv4()).ok_or(ErrorKind::NetworkUnreachable)?;
        if id == SocketId::MAIN {
            return Ok(main);
        }
        let known = self.auxiliary.iter().position(|(known, _)| *known == id);
        let position = match known {
            Some(position) => position,
            None => {
                let address = SocketAddr::new(main.local_addr()?.ip(), 0);
                self.auxiliary.push((id, open(address, false)?));
                self.auxiliary.len() - 1
            }
        };
        Ok(&self.auxiliary[position].1)
    }

    /// Closes an auxiliary socket.
    pub(crate) fn close(&mut self, id: SocketId) {
        self.auxiliary.retain(|(known, _)| *known != id);
    }

    /// Waits until [`Sockets::try_recv`] may have something. May be cancelled at any time.
    pub(crate) async fn readable(&self) {
        poll_fn(|context| {
            let mut ready = false;
            for socket in self.bound.iter().chain(&self.beacons).chain(self.auxiliary.iter().map(|(_, socket)| socket)) {
                ready |= socket.poll_recv_ready(context).is_ready();
            }
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The next datagram, the socket it came by, and where it came from. Datagrams share a buffer: who keeps one copies it.
    pub(crate) fn try_recv(&mut self) -> Option<(SocketId, SocketAddr, Bytes)> {
        let (bound, beacons) = (self.bound.len(), self.bound.len() + self.beacons.len());
        let count = beacons + self.auxiliary.len();
        for _ in 0..count {
            let index = self.turn % count;
            let (id, socket) = match index {
                _ if index < bound => (SocketId::MAIN, &self.bound[index]),
                _ if index < beacons => (SocketId::MAIN, &self.beacons[index - bound]),
                _ => {
                    let (id, socket) = &self.auxiliary[index - beacons];
                    (*id, socket)
                }
            };
            self.turn = index + 1;
            if self.buffer.capacity() < MAX_DATAGRAM {
                self.buffer.reserve(BUFFER);
            }
            match socket.try_recv_buf_from(&mut self.buffer) {
                Ok((_, remote)) => return Some((id, remote, self.buffer.split().freeze())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // What the network says of an earlier datagram: nobody is there.
                Err(error) => tracing::debug!("receiving: {error}"),
            }
        }
        None
    }

    fn open_beacons(&mut self) {
        for group in [IpAddr::V4(BEACON_GROUP_V4), IpAddr::V6(BEACON_GROUP_V6)] {
            if socket_for(&self.bound, group.is_ipv4()).is_none() {
                continue;
            }
            let any = if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            match open(SocketAddr::new(any, BEACON_PORT), true) {
                Ok(socket) => self.beacons.push(socket),
                Err(error) => tracing::warn!("peers on this LAN are not found: UDP port {BEACON_PORT} cannot be shared: {error}"),
            }
        }
        self.join();
    }

    /// Joins the groups on interfaces that are new, and returns all there are.
    fn join(&mut self) -> Vec<Interface> {
        let interfaces = self.interfaces();
        self.joined.retain(|interface| interfaces.contains(interface));
        for interface in &interfaces {
            let v4 = matches!(interface, Interface::V4(_));
            let Some(socket) = socket_for(&self.beacons, v4).filter(|_| self.joined.insert(*interface)) else { continue };
            let joined = match interface {
                Interface::V4(address) => SockRef::from(socket).join_multicast_v4(&BEACON_GROUP_V4, address),
                Interface::V6(index) => SockRef::from(socket).join_multicast_v6(&BEACON_GROUP_V6, *index),
            };
            if let Err(error) = joined {
                tracing::debug!("no beacons on {interface:?}: {error}");
                self.joined.remove(interface);
            }
        }
        interfaces
    }

    /// The interfaces of the addresses bound.
    fn interfaces(&self) -> Vec<Interface> {
        let all = self.system();
        let mut found = Vec::new();
        for address in self.bound.iter().filter_map(|socket| socket.local_addr().ok()) {
            let wanted: Vec<_> = if address.ip().is_unspecified() {
                usable(&all).filter(|interface| interface.ip().is_ipv4() == address.is_ipv4()).collect()
            } else {
                all.iter().filter(|interface| interface.ip() == address.ip()).collect()
            };
            for interface in wanted {
                let interface = match (interface.ip(), interface.index) {
                    (IpAddr::V4(address), _) => Interface::V4(address),
                    (IpAddr::V6(_), Some(index)) => Interface::V6(index),
                    (IpAddr::V6(_), None) => continue,
                };
                if !found.contains(&interface) {
                    found.push(interface);
                }
            }
        }
        found
    }

    fn send_multicast(&mut self, transmit: &Transmit) {
        for interface in self.join() {
            let v4 = matches!(interface, Interface::V4(_));
            let Some(socket) = socket_for(&self.bound, v4).filter(|_| v4 == transmit.destination.is_ipv4()) else { continue };
            let socket = SockRef::from(socket);
            let chosen = match interface {
                Interface::V4(address) => socket.set_multicast_if_v4(&address),
                Interface::V6(index) => socket.set_multicast_if_v6(index),
            };
            let sent = chosen.and_then(|()| socket.send_to(&transmit.payload, &SockAddr::from(transmit.destination)));
            self.count(transmit.destination, sent);
        }
    }

    fn count(&mut self, destination: SocketAddr, sent: io::Result<usize>) {
        if let Err(error) = sent {
            self.dropped += 1;
            tracing::debug!(dropped = self.dropped, "to {destination}: {error}");
        }
    }
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrInUse => Self::InUse(address),
            ErrorKind::AddrNotAvailable => Self::NotHere(address),
            ErrorKind::PermissionDenied => Self::Forbidden(address),
            _ => Self::Other { address, source },
        }
    }
}

/// Opens a socket of one family; `shared` lets other programs bind the same port, and keeps groups out that others joined.
pub(crate) fn open(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        #[cfg(target_os = "linux")]
        if address.is_ipv4() { socket.set_multicast_all_v4(false) } else { socket.set_multicast_all_v6(false) }?;
    } else {
        // More than the system allows is cut down to that.
        let _ = socket.set_recv_buffer_size(SYSTEM_BUFFER).and_then(|()| socket.set_send_buffer_size(SYSTEM_BUFFER));
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Sends a datagram that passes at most `ttl` routers.
fn send_within(socket: &SockRef<'_>, transmit: &Transmit, ttl: u8) -> io::Result<usize> {
    let set = |ttl: u32| if transmit.destination.is_ipv4() { socket.set_ttl_v4(ttl) } else { socket.set_unicast_hops_v6(ttl) };
    let usual = if transmit.destination.is_ipv4() { socket.ttl_v4() } else { socket.unicast_hops_v6() }?;
    set(ttl.into())?;
    let sent = socket.send_to(&transmit.payload, &SockAddr::from(transmit.destination));
    set(usual)?;
    sent
}

/// Whether the machine has no IPv6 at all, and was asked for all its addresses.
fn is_missing_family(address: &SocketAddr, error: &io::Error) -> bool {
    let missing =
        matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported) || error.raw_os_error() == Some(EAFNOSUPPORT);
    address.is_ipv6() && address.ip().is_unspecified() && missing
}

fn socket_for(sockets: &[UdpSocket], v4: bool) -> Option<&UdpSocket> {
    sockets.iter().find(|socket| socket.local_addr().is_ok_and(|address| address.is_ipv4() == v4))
}

/// Interfaces that are up, without loopback unless there is nothing else.
fn usable(interfaces: &[if_addrs::Interface]) -> impl Iterator<Item = &if_addrs::Interface> {
    let loopback = !interfaces.iter().any(|interface| !interface.is_loopback());
    interfaces.iter().filter(move |interface| interface.is_loopback() == loopback)
}

/// Bytes of a datagram that anyone reads; longer ones are cut and fail to decode.
const MAX_DATAGRAM: usize = 2048;
/// Bytes allocated at once for datagrams.
const BUFFER: usize = 64 << 10;
/// Bytes that the system may keep for a socket: a burst of 2,000 datagrams.
const SYSTEM_BUFFER: usize = 4 << 20;
/// "Address family not supported", for which [`ErrorKind`] has no name.
const EAFNOSUPPORT: i32 = if cfg!(target_os = "linux") { 97 } else { 47 };

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const LOOPBACK_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

    /// Waits for a datagram with these bytes: other tests share the beacon port.
    async fn receive(sockets: &mut Sockets, payload: &[u8]) -> SocketAddr {
        loop {
            while let Some((_, remote, datagram)) = sockets.try_recv() {
                if datagram == payload {
                    return remote;
                }
            }
            timeout(Duration::from_secs(5), sockets.readable()).await.expect("a datagram comes");
        }
    }

    fn transmit(destination: SocketAddr, payload: &[u8]) -> Transmit {
        Transmit { destination, payload: Bytes::copy_from_slice(payload), socket: SocketId::MAIN, ttl: None }
    }

    #[tokio::test]
    async fn datagrams_pass_in_both_families_from_one_port() {
        for listen in [[LOOPBACK, LOOPBACK_V6], [LOOPBACK_V6, LOOPBACK]] {
            let mut alice = Sockets::bind(&listen, false, false).unwrap();
            let mut bob = Sockets::bind(&listen, false, false).unwrap();
            let (from, to) = (alice.local_addresses(), bob.local_addresses());
            assert_eq!(to.iter().map(SocketAddr::ip).collect::<Vec<_>>(), listen.map(|address| address.ip()));
            assert_eq!(to[0].port(), to[1].port());
            for (from, to) in from.into_iter().zip(to) {
                alice.send(&transmit(to, b"over UDP"));
                assert_eq!(receive(&mut bob, b"over UDP").await, from);
            }
        }
    }

    #[tokio::test]
    async fn a_burst_is_read_without_waiting_and_in_order() {
        let mut alice = Sockets::bind(&[LOOPBACK], false, false).unwrap();
        let mut bob = Sockets::bind(&[LOOPBACK], false, false).unwrap();
        for number in 0..50u8 {
            alice.send(&transmit(bob.local_addresses()[0], &[number; 1200]));
        }
        for number in 0..50u8 {
            receive(&mut bob, &[number; 1200]).await;
        }
        assert_eq!(bob.try_recv(), None);
    }

    #[tokio::test]
    async fn peers_on_one_machine_hear_each_others_beacons_on_loopback() {
        let mut peers: Vec<_> = (0..3).map(|_| Sockets::bind(&[LOOPBACK], true, false).unwrap()).collect();
        let from = peers[0].local_addresses()[0];
        let payload = format!("beacon of {from}").into_bytes();
        peers[0].send(&transmit((BEACON_GROUP_V4, BEACON_PORT).into(), &payload));
        for peer in &mut peers {
            assert_eq!(receive(peer, &payload).await, from);
        }
        assert_eq!(
            peers[0].joined.iter().copied().collect::<Vec<_>>(),
            [Interface::V4(Ipv4Addr::LOCALHOST)],
            "nothing is joined beyond loopback"
        );
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let first = Sockets::bind(&[LOOPBACK], false, false).unwrap();
        let address = first.local_addresses()[0];
        let error = Sockets::bind(&[address], false, false).unwrap_err();
        assert!(matches!(error, BindError::InUse(taken) if taken == address));
        assert!(error.to_string().contains(&address.port().to_string()) && error.to_string().contains("another port"));
    }

    #[tokio::test]
    async fn an_address_of_another_machine_and_no_address_are_refused() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 77], 0));
        assert!(matches!(Sockets::bind(&[elsewhere], false, false), Err(BindError::NotHere(address)) if address == elsewhere));
        assert!(matches!(Sockets::bind(&[], false, false), Err(BindError::None)));
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_counted_and_dropped() {
        let mut sockets = Sockets::bind(&[LOOPBACK], false, false).unwrap();
        sockets.send(&transmit(LOOPBACK_V6, b"no socket of this family"));
        sockets.send(&transmit(LOOPBACK, b"port 0"));
        assert_eq!(sockets.dropped, 2);
    }
}
