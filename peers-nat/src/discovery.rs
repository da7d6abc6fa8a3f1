//! Learning who is at an address: for one that the user names, and for the sender of a beacon.

use core::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use peers_crypto::{HandshakeError, Initiator, receiver_index};
use peers_wire::Timestamp;

use crate::address;
use crate::agent::{Agent, MAX_WANTED, Slot, Timer};
use crate::beacon::Heard;
use crate::dial::{BACK_OFF, DIAL_TIME, MAX_CHALLENGED, REPEAT_DIRECT, UDP_SENDS};
use crate::output::SocketId;
use crate::peer::Purpose;

/// An address that was asked so often, for eight seconds, and has not answered does not answer.
const HOPELESS: u32 = 6;

/// An address whose owner's key is being asked for.
#[derive(Debug)]
pub(crate) struct Discovery {
    /// The XX handshake under way; none before the first attempt.
    pub(crate) initiator: Option<Initiator>,
    /// The user asked for it: it is repeated until answered.
    wanted: bool,
    pub(crate) sends: u32,
    /// Challenges that were answered.
    challenges: u32,
}

impl Agent {
    pub(crate) fn on_beacon_timer(&mut self, now: Instant) {
        let port = |v6| self.local.iter().find(|local| local.is_ipv6() == v6).map(SocketAddr::port);
        let ports = [(crate::BEACON_GROUP_V4.into(), port(false)), (crate::BEACON_GROUP_V6.into(), port(true))];
        let mut pause = None;
        for (group, port) in ports {
            let Some(port) = port else { continue };
            let (beacon, after) = self.beacons.next(port, pause.is_none(), &mut self.rng);
            pause = Some(after);
            self.stats.beacons_sent += 1;
            self.push(SocketAddr::new(group, crate::BEACON_PORT), beacon);
        }
        if let Some(pause) = pause {
            self.timers.set(Timer::Beacon, now + pause);
        }
    }

    pub(crate) fn on_beacon(&mut self, now: Instant, wall: Timestamp, remote: SocketAddr, datagram: &[u8]) {
        let heard = if self.config.lan { self.beacons.handle(now, remote, datagram, &self.local) } else { Heard::Ignore };
        match heard {
            Heard::Answer(address) if self.connected.iter().any(|id| self.peers.get(id).is_some_and(|peer| peer.paths.is_at(address))) => {}
            Heard::Answer(address) => {
                self.stats.beacons_answered += 1;
                self.discover(now, wall, address, false);
            }
            Heard::Ignore => self.stats.dropped_beacons += 1,
            Heard::Malformed => self.stats.dropped_malformed += 1,
        }
    }

    /// Asks who is at `address`: until it is answered if it is `wanted`, else once.
    pub(crate) fn discover(&mut self, now: Instant, wall: Timestamp, address: SocketAddr, wanted: bool) {
        if address::scope(address).is_none() {
            return;
        }
        if let Some(known) = self.discoveries.get_mut(&address) {
            known.wanted |= wanted;
            if known.wanted {
                return;
            }
        } else if self.discoveries.len() >= MAX_WANTED {
            return;
        }
        self.end_discovery(address);
        self.discoveries.insert(address, Discovery { initiator: None, wanted, sends: 0, challenges: 0 });
        self.on_discovery_timer(now, wall, address);
    }

    pub(crate) fn on_discovery_timer(&mut self, now: Instant, wall: Timestamp, address: SocketAddr) {
        let Some(discovery) = self.discoveries.get_mut(&address) else { return };
        if !discovery.wanted && discovery.sends > 0 {
            self.end_discovery(address);
            return;
        }
        let pause = (REPEAT_DIRECT * (1 << discovery.sends.min(10))).min(BACK_OFF.1);
        (discovery.sends, discovery.challenges) = (discovery.sends + 1, 0);
        if discovery.sends == HOPELESS {
            self.on_unanswered(address);
        }
        let Some(discovery) = self.discoveries.get_mut(&address) else { return };
        // A beacon's sender has DIAL_TIME to answer the one datagram it is owed.
        let (pause, sends) = (if discovery.wanted { pause } else { DIAL_TIME }, discovery.sends);
        if discovery.initiator.is_none() {
            let index = self.random_index();
            let (initiator, _) = Initiator::xx(index, wall, &mut self.rng);
            self.indices.insert(index, Slot::Discovery(address));
            if let Some(discovery) = self.discoveries.get_mut(&address) {
                discovery.initiator = Some(initiator);
            }
        }
        let datagram = self
            .discoveries
            .get(&address)
            .and_then(|discovery| discovery.initiator.as_ref())
            .map(|xx| Bytes::copy_from_slice(xx.datagram()));
        self.timers.set(Timer::Discovery(address), now + pause);
        if let Some(datagram) = datagram {
            if self.config.streams && sends.is_multiple_of(UDP_SENDS + 1) && self.sockets.of(address) == SocketId::MAIN {
                self.push_by(SocketId::STREAM, None, address, datagram.clone());
            }
            self.push(address, datagram);
        }
    }

    /// Under load, the one at `address` wants to see that we receive at ours: is asked again at once, a bounded number of times, as anyone who saw the question could challenge it.
    pub(crate) fn on_discovery_cookie(&mut self, now: Instant, address: SocketAddr, datagram: &[u8]) {
        let Some(discovery) = self.discoveries.get_mut(&address) else { return };
        let Some(initiator) = &mut discovery.initiator else { return };
        match initiator.cookie(datagram) {
            Ok(()) if discovery.challenges < MAX_CHALLENGED => {
                discovery.challenges += 1;
                let again = Bytes::copy_from_slice(initiator.datagram());
                if !discovery.wanted {
                    self.timers.set(Timer::Discovery(address), now + DIAL_TIME);
                }
                self.push(address, again);
            }
            Ok(()) => self.stats.dropped_limited += 1,
            Err(error) => self.count_handshake_error(error),
        }
    }

    fn end_discovery(&mut self, address: SocketAddr) -> Option<Discovery> {
        let discovery = self.discoveries.remove(&address)?;
        if let Some(initiator) = &discovery.initiator {
            self.indices.remove(&initiator.index());
        }
        self.timers.clear(Timer::Discovery(address));
        Some(discovery)
    }

    /// Someone says who they are: they receive at the address that was asked, so a session can be begun there.
    pub(crate) fn on_xx_second(&mut self, now: Instant, wall: Timestamp, datagram: &[u8]) {
        let Some(Slot::Discovery(address)) = receiver_index(datagram).and_then(|index| self.indices.get(&index).copied()) else {
            self.stats.dropped_unknown += 1;
            return;
        };
        let Some(initiator) = self.discoveries.get_mut(&address).and_then(|discovery| discovery.initiator.as_mut()) else { return };
        match initiator.finish(&self.key, datagram) {
            Ok(finished) => {
                if self.arrival == SocketId::STREAM {
                    self.on_unanswered(address);
                    self.sockets.add_stream(address);
                }
                let wanted = self.end_discovery(address).is_some_and(|discovery| discovery.wanted);
                if wanted {
                    let mut addresses = self.wanted.get(&finished.remote).map(|wanted| wanted.addresses.clone()).unwrap_or_default();
                    addresses.retain(|known| *known != address);
                    addresses.insert(0, address);
                    // An id that is no valid key cannot have come out of a handshake.
                    let _ = self.want(now, wall, finished.remote, &addresses, true);
                } else if !self.connected.contains(&finished.remote) && self.has_room() {
                    let _ = self.dial(now, wall, finished.remote, vec![address], Purpose::Exchange);
                }
            }
            Err(HandshakeError::Myself) => {
                self.end_discovery(address);
            }
            Err(error) => self.count_handshake_error(error),
        }
    }
}
