//! Word from the system that its network has changed, so that nobody has to ask it again and again.
//!
//! On Linux a netlink socket tells of addresses, links and default routes within a millisecond. Elsewhere, and where there is no such socket, nothing is told; the driver looks at the
//! addresses every few seconds in any case.

use std::time::{Duration, Instant};

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Perhaps the addresses: they are to be looked at.
    Addresses,
    /// The way to others: a link is up again, or there is another default route, maybe with the addresses as they were.
    Way,
}

/// Limits how often a change is acted on: each costs a few datagrams for every session.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    since: Option<Instant>,
    taken: u32,
}

impl Changes {
    /// Whether one more may be acted on now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.taken) = (Some(now), 0);
        }
        self.taken += 1;
        self.taken <= MAX_CHANGES
    }
}

/// Most changes acted on in [`WINDOW`]; those beyond wait for the driver's next look.
const MAX_CHANGES: u32 = 16;
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(target_os = "linux")]
pub(crate) use linux::Interfaces;

#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct Interfaces;

#[cfg(not(target_os = "linux"))]
impl Interfaces {
    pub(crate) fn new() -> Self {
        Self
    }

    /// Never comes.
    pub(crate) async fn changed(&mut self) -> Change {
        std::future::pending().await
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::io::{self, ErrorKind};

    use rustix::io::Errno;
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    use tokio::net::UdpSocket;

    use super::Change;

    /// A socket that hears what the kernel says of addresses, links and routes.
    #[derive(Debug)]
    pub(crate) struct Interfaces {
        /// None where the system does not allow it.
        socket: Option<UdpSocket>,
        links: Links,
    }

    impl Interfaces {
        /// Listens from now on. Call it within a tokio runtime.
        pub(crate) fn new() -> Self {
            let socket = open().inspect_err(|error| tracing::debug!("the system does not tell of changes of its network: {error}")).ok();
            Self { socket, links: Links::default() }
        }

        /// Waits for a change. May be cancelled at any time; what came is then told of later.
        pub(crate) async fn changed(&mut self) -> Change {
            let Some(socket) = &self.socket else { return std::future::pending().await };
            let mut buffer = [0; BUFFER];
            loop {
                if socket.readable().await.is_err() {
                    return std::future::pending().await;
                }
                let (mut change, mut broken) = (None, false);
                while !broken {
                    match socket.try_recv(&mut buffer) {
                        Ok(length) => change = change.max(self.links.read(&buffer[..length])),
                        // More was said than the socket holds: whatever it was, it is over.
                        Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => change = Some(Change::Way),
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => broken = true,
                    }
                }
                if broken {
                    self.socket = None;
                    return Change::Way;
                }
                if let Some(change) = change {
                    return change;
                }
            }
        }
    }

    fn open() -> io::Result<UdpSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol is the routing one, NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        // A socket is read alike whatever its family, and these types wait for any.
        UdpSocket::from_std(socket.into())
    }

    /// The links that are up, as far as was told.
    #[derive(Debug, Default)]
    struct Links {
        down: BTreeSet<u32>,
    }

    impl Links {
        /// What the messages of one datagram mean.
        ///
        /// Source: rtnetlink(7), linux/rtnetlink.h.
        fn read(&mut self, mut bytes: &[u8]) -> Option<Change> {
            let mut change = None;
            while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let Some(message) = bytes.get(HEADER..length) else { break };
                change = change.max(self.one(kind, message));
                bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
            change
        }

        fn one(&mut self, kind: u16, message: &[u8]) -> Option<Change> {
            match kind {
                RTM_NEWADDR | RTM_DELADDR => Some(Change::Addresses),
                RTM_NEWLINK | RTM_DELLINK => {
                    let (index, flags) = (u32_at(message, 4)?, u32_at(message, 8)?);
                    let up = kind == RTM_NEWLINK && flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING;
                    if up {
                        return self.down.remove(&index).then_some(Change::Way);
                    }
                    if kind == RTM_DELLINK {
                        self.down.remove(&index);
                    } else if self.down.len() < MAX_LINKS {
                        self.down.insert(index);
                    }
                    Some(Change::Addresses)
                }
                // The default route is the one to all: its prefix has no bits.
                RTM_NEWROUTE if message.get(1) == Some(&0) => Some(Change::Way),
                _ => None,
            }
        }
    }

    fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
        bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
    }

    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
    const HEADER: usize = 16;
    const RTM_NEWLINK: u16 = 16;
    const RTM_DELLINK: u16 = 17;
    const RTM_NEWADDR: u16 = 20;
    const RTM_DELADDR: u16 = 21;
    const RTM_NEWROUTE: u16 = 24;
    const IFF_UP: u32 = 0x1;
    const IFF_RUNNING: u32 = 0x40;
    /// Bytes read at a time: the kernel's messages are shorter.
    const BUFFER: usize = 16 << 10;
    /// Links that are down and may come up.
    const MAX_LINKS: usize = 1024;

    #[cfg(test)]
    mod tests {
        use super::*;

        fn message(kind: u16, content: &[u8]) -> Vec<u8> {
            let length = HEADER + content.len();
            let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(HEADER, 0);
            bytes.extend(content);
            bytes.resize(length.next_multiple_of(4), 0);
            bytes
        }

        fn link(kind: u16, index: u32, flags: u32) -> Vec<u8> {
            let mut content = vec![0; 16];
            content[4..8].copy_from_slice(&index.to_ne_bytes());
            content[8..12].copy_from_slice(&flags.to_ne_bytes());
            message(kind, &content)
        }

        #[test]
        fn a_link_that_comes_up_again_is_a_new_way_and_one_that_merely_says_something_is_not() {
            let mut links = Links::default();
            let up = IFF_UP | IFF_RUNNING;
            assert_eq!(links.read(&link(RTM_NEWLINK, 2, up)), None);
            assert_eq!(links.read(&link(RTM_NEWLINK, 2, IFF_UP)), Some(Change::Addresses));
            assert_eq!(links.read(&link(RTM_NEWLINK, 3, up)), None);
            assert_eq!(links.read(&link(RTM_NEWLINK, 2, up)), Some(Change::Way));
            assert_eq!(links.read(&link(RTM_NEWLINK, 2, up)), None);
        }

        #[test]
        fn of_routes_only_a_default_one_counts_and_the_most_important_message_of_a_datagram() {
            let mut links = Links::default();
            assert_eq!(links.read(&message(RTM_NEWROUTE, &[2, 24, 0, 0])), None);
            let both = [message(RTM_NEWROUTE, &[2, 0, 0, 0, 254]), message(RTM_NEWADDR, &[2, 24])].concat();
            assert_eq!(links.read(&both), Some(Change::Way));
            assert_eq!(links.read(&message(RTM_NEWADDR, &[2, 24])), Some(Change::Addresses));
        }

        #[test]
        fn messages_that_are_cut_off_or_claim_odd_lengths_end_the_reading() {
            let mut links = Links::default();
            let whole = link(RTM_NEWLINK, 2, 0);
            for end in 0..whole.len() {
                assert_eq!(links.read(&whole[..end]), None, "{end}");
            }
            for length in [0u32, 1, 15, u32::MAX] {
                let mut odd = whole.clone();
                odd[..4].copy_from_slice(&length.to_ne_bytes());
                assert_eq!(links.read(&odd), None);
            }
        }

        #[tokio::test]
        async fn the_kernel_lets_anyone_listen() {
            assert!(Interfaces::new().socket.is_some());
        }
    }
}
