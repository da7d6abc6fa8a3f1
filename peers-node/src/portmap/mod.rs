//! Has the router of the network let others in: by PCP and NAT-PMP, and by UPnP where it speaks neither.
//!
//! Tasks of their own, one for each family of addresses, as a router may be slow: the driver is told the outcome, and never waits.

mod routes;
mod upnp;

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use peers_nat::portmap::{ANNOUNCE_PORT, Event, Failure, Mapper, Network, Protocol};
use rand::RngExt;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::driver::Command;
use crate::sockets::open;
use crate::types::MappedAddress;

/// A mapping that is there, or why there is none.
pub(crate) type Outcome = Result<MappedAddress, String>;

/// What the tasks are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    /// The addresses of the node's sockets.
    addresses: Vec<SocketAddr>,
    /// How often the way to others has changed, so that the router may be another one or have begun anew.
    ways: u64,
}

/// The tasks that see to mappings.
#[derive(Debug)]
pub(crate) struct PortMapping {
    told: watch::Sender<Told>,
    tasks: [JoinHandle<()>; 2],
}

impl PortMapping {
    /// Begins; mappings are asked for once [`PortMapping::tell`] has said what there is to map. `key` is secret, and the same each time this device runs.
    pub(crate) fn start(key: [u8; 32], clock: &Arc<Clock>, commands: &mpsc::WeakSender<Command>) -> Self {
        let (told, receiver) = watch::channel(Told::default());
        let tasks = [false, true].map(|v6| {
            let keeper = Keeper { v6, key, clock: Arc::clone(clock), commands: commands.clone(), told: receiver.clone(), ways: 0 };
            tokio::spawn(keeper.run())
        });
        Self { told, tasks }
    }

    /// Tells of the addresses of the node's sockets, and whether the way to others has changed: then the router is asked again.
    pub(crate) fn tell(&self, addresses: &[SocketAddr], new_way: bool) {
        self.told.send_if_modified(|told| {
            let changed = new_way || told.addresses != addresses;
            if changed {
                addresses.clone_into(&mut told.addresses);
                told.ways += u64::from(new_way);
            }
            changed
        });
    }

    /// Gives the ports back; waits for the router no longer than [`CLOSE_TIME`].
    pub(crate) async fn close(self) {
        drop(self.told);
        let end = tokio::time::Instant::now() + CLOSE_TIME;
        for mut task in self.tasks {
            if tokio::time::timeout_at(end, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Sees to the mapping of one family.
struct Keeper {
    v6: bool,
    key: [u8; 32],
    clock: Arc<Clock>,
    commands: mpsc::WeakSender<Command>,
    told: watch::Receiver<Told>,
    /// Of the network that is looked after.
    ways: u64,
}

/// Why a network is left.
enum Left {
    /// It is another one now.
    Changed,
    /// The node is closing.
    Closing,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let told = self.told.borrow_and_update().clone();
            self.ways = told.ways;
            let network = routes::network(self.v6, &told.addresses);
            let opened = network.and_then(|network| match Sockets::open(network) {
                Ok(sockets) => Some((network, sockets)),
                Err(error) => {
                    tracing::debug!("no port mapping at {}: {error}", network.gateway);
                    None
                }
            });
            let left = match opened {
                Some((network, sockets)) => self.keep(network, sockets).await,
                None => self.left(network).await,
            };
            if matches!(left, Left::Closing) {
                return;
            }
            self.tell(None).await;
        }
    }

    /// Waits until the network is another than `network`. Addresses come before routes, so that the routes are looked at again: soon, and then seldom.
    async fn left(&mut self, network: Option<Network>) -> Left {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::select! {
                changed = self.told.changed() => match changed {
                    Ok(()) => pause = FIRST_LOOK,
                    Err(_) => return Left::Closing,
                },
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_LOOK),
            }
            let told = self.told.borrow_and_update().clone();
            if told.ways != self.ways || routes::network(self.v6, &told.addresses) != network {
                return Left::Changed;
            }
        }
    }

    /// Keeps the port mapped in `network` until it is left.
    async fn keep(&mut self, network: Network, mut sockets: Sockets) -> Left {
        let clock = Arc::clone(&self.clock);
        let mut mapper = Mapper::new(clock.now().0, network, self.key, rand::rng().random());
        let (mut upnp, mut closing): (Option<upnp::Task>, bool) = (None, false);
        loop {
            while let Some(datagram) = mapper.poll_transmit() {
                if let Err(error) = SockRef::from(&sockets.socket).send(&datagram) {
                    on_error(&mut mapper, &clock, &error);
                }
            }
            while let Some(event) = mapper.poll_event() {
                tracing::debug!("port mapping at {}: {event:?}", network.gateway);
                match event {
                    Event::Mapped { external, protocol } => {
                        end(&mut upnp).await;
                        let by = if protocol == Protocol::Pcp { "pcp" } else { "nat-pmp" };
                        self.tell(Some(Ok(MappedAddress { address: external, by: by.to_owned() }))).await;
                    }
                    Event::Lost if !closing => self.tell(None).await,
                    Event::Unavailable(Failure::Silent) if upnp.is_some() || closing => {}
                    Event::Unavailable(failure) => {
                        if !self.v6 && failure == Failure::Silent {
                            upnp = Some(upnp::Task::start(network));
                        }
                        self.tell(Some(Err(failure.to_string()))).await;
                    }
                    Event::Lost => {}
                    Event::Released => {
                        end(&mut upnp).await;
                        return Left::Closing;
                    }
                }
            }
            let wake = clock.system_time(mapper.poll_timeout().unwrap_or_else(|| clock.now().0 + LAST_LOOK));
            tokio::select! {
                biased;
                left = self.left(Some(network)), if !closing => match left {
                    Left::Closing => {
                        closing = true;
                        mapper.release(clock.now().0);
                    }
                    Left::Changed => {
                        end(&mut upnp).await;
                        return Left::Changed;
                    }
                },
                received = sockets.recv() => match received {
                    Ok((remote, length)) => mapper.handle_datagram(clock.now().0, remote, &sockets.buffer[..length]),
                    Err(error) => on_error(&mut mapper, &clock, &error),
                },
                outcome = upnp::Task::outcome(&mut upnp) => self.tell(Some(outcome)).await,
                () = tokio::time::sleep_until(wake.into()) => mapper.handle_timeout(clock.now().0),
            }
        }
    }

    /// Tells the driver; `None`: it is not known yet.
    async fn tell(&self, outcome: Option<Outcome>) {
        let v6 = self.v6;
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Box::new(move |driver, now, wall| driver.set_port_mapping(now, wall, v6, outcome))).await;
        }
    }
}

async fn end(upnp: &mut Option<upnp::Task>) {
    if let Some(task) = upnp.take() {
        task.end().await;
    }
}

fn on_error(mapper: &mut Mapper, clock: &Clock, error: &io::Error) {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        mapper.handle_unreachable(clock.now().0);
    } else {
        tracing::debug!("port mapping: {error}");
    }
}

/// Where a router answers, and where it announces.
struct Sockets {
    /// Connected to the router: the system takes nobody else's datagrams, and says if nobody listens there.
    socket: UdpSocket,
    gateway: SocketAddr,
    announcements: Option<UdpSocket>,
    /// For a datagram of the socket, and one of the announcements.
    buffer: Vec<u8>,
    announced: Vec<u8>,
}

impl Sockets {
    fn open(network: Network) -> io::Result<Self> {
        let socket = open(SocketAddr::new(network.client, 0), false)?;
        SockRef::from(&socket).connect(&network.gateway.into())?;
        // Other programs of this host may listen for announcements as well. Without them, a router's restart is noticed at the next renewal.
        let announcements = Self::listen(network).inspect_err(|error| tracing::debug!("no announcements of routers: {error}")).ok();
        Ok(Self { socket, gateway: network.gateway, announcements, buffer: vec![0; MAX_DATAGRAM], announced: vec![0; MAX_DATAGRAM] })
    }

    fn listen(network: Network) -> io::Result<UdpSocket> {
        match (network.client, network.gateway) {
            (IpAddr::V6(_), SocketAddr::V6(gateway)) => {
                let socket = open((Ipv6Addr::UNSPECIFIED, ANNOUNCE_PORT).into(), true)?;
                SockRef::from(&socket).join_multicast_v6(&ALL_NODES_V6, gateway.scope_id())?;
                Ok(socket)
            }
            (IpAddr::V4(client), _) => {
                let socket = open((Ipv4Addr::UNSPECIFIED, ANNOUNCE_PORT).into(), true)?;
                SockRef::from(&socket).join_multicast_v4(&ALL_NODES_V4, &client)?;
                Ok(socket)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The next datagram, in `buffer`, and who sent it.
    async fn recv(&mut self) -> io::Result<(SocketAddr, usize)> {
        let Self { socket, gateway, announcements, buffer, announced } = self;
        let announcement = async {
            match announcements {
                Some(socket) => socket.recv_from(announced).await,
                None => pending().await,
            }
        };
        let (length, remote) = tokio::select! {
            received = socket.recv(buffer) => return received.map(|length| (*gateway, length)),
            received = announcement => received?,
        };
        buffer[..length].copy_from_slice(&announced[..length]);
        Ok((remote, length))
    }
}

const ALL_NODES_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_NODES_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Longer than any message of the protocols; what is cut off is refused.
const MAX_DATAGRAM: usize = 1200;
/// First and longest pause after which the routes are looked at again.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_secs(60);
/// How long a closing node waits for its router.
const CLOSE_TIME: Duration = Duration::from_secs(2);
