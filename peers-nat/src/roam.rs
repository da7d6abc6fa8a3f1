//! What is done when the network changes under us: another interface, another address, another router, or time that passed while we were suspended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_wire::PeerId;

use crate::agent::{Agent, Timer};
use crate::introduce::MAX_INTRODUCERS;
use crate::liveness::{KEY_LIFETIME, PUNCHES};
use crate::output::DisconnectReason;
use crate::paths::Link;
use crate::peer::{PATIENCE, Purpose, Waiting};
use crate::reflexive::Reflexive;
use crate::survey::Survey;

/// Pauses before those who did not answer after a change of the network are asked again.
const AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(70), Duration::from_millis(120)];
/// Others have to see us in the new network before a relayed session is worth another attempt.
const SETTLE: Duration = Duration::from_secs(1);
/// Most relays that are asked for one peer.
const MAX_ASKED: usize = 3;

impl Agent {
    /// Tells the agent that the network under it is not what it was: a route or a link came back, or the process was suspended; a change of addresses says so by itself.
    ///
    /// Every peer is asked at once whether it is still there, by every path that is known, and until one answers, what is sent goes by two of them. A peer that was not heard for so long that it
    /// may have given us up gets a new handshake. Back-off begins anew, and what others saw of us is forgotten. Cost: a few datagrams per session.
    pub fn network_changed(&mut self, now: Instant) {
        self.restart_beacons(now);
        self.reflexive = Reflexive::default();
        self.forget_check(now);
        self.survey = Survey::default();
        self.timers.clear(Timer::Survey);
        for id in self.connected.clone() {
            self.punch_again(now, id);
            self.question(now, id);
        }
        self.reset_back_off(now);
        self.repeat_dials(now);
        self.changed = Some((now, 0));
        self.timers.set(Timer::Network, now + AGAIN[0]);
    }

    /// A network that has just come up loses what is sent first: those who have not answered since are asked again, by every path.
    pub(crate) fn ask_silent(&mut self, now: Instant) {
        let Some((at, asked)) = self.changed else { return };
        for id in self.connected.clone() {
            let Some(peer) = self.peers.get(&id).filter(|peer| peer.heard <= at) else { continue };
            let selected = peer.paths.selected();
            let links: Vec<Link> = selected.into_iter().chain(peer.paths.usable(now).filter(|link| Some(*link) != selected)).collect();
            for link in links {
                self.ping_with(now, id, None, link, None);
            }
        }
        self.changed = AGAIN.get(asked + 1).map(|pause| {
            self.timers.set(Timer::Network, now + *pause);
            (at, asked + 1)
        });
    }

    /// Handshakes with those who were asked for, which went nowhere so far, go out again at once.
    fn repeat_dials(&mut self, now: Instant) {
        for id in self.wanted.keys() {
            if let Some(dial) = self.peers.get_mut(id).and_then(|peer| peer.dial.as_mut()) {
                (dial.sends, dial.began) = (0, now);
                self.timers.set(Timer::Dial(*id), now);
            }
        }
    }

    /// What was tried to get to a direct path was tried in another network.
    fn punch_again(&mut self, now: Instant, id: PeerId) {
        self.end_punch(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.punches = PUNCHES.0;
        if matches!(peer.paths.selected(), Some(Link::Relayed { .. })) {
            self.timers.set(Timer::Repair(id), now + SETTLE);
        }
    }

    /// Those on this link are looked for from the beginning.
    pub(crate) fn restart_beacons(&mut self, now: Instant) {
        if self.config.lan {
            self.beacons.restart();
            self.timers.set(Timer::Beacon, now);
        }
    }

    /// Asks a connected peer whether it is still there.
    fn question(&mut self, now: Instant, id: PeerId) {
        // It may have learned to ask less often; a handshake too many costs little.
        let forgotten_after = self.config.keep_alive + self.config.dead_after;
        let key_lifetime = self.config.rekey_after * KEY_LIFETIME;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.sessions.current.as_ref().is_some_and(|keyed| now.duration_since(keyed.since) >= key_lifetime) {
            self.drop_peer(now, id, DisconnectReason::Timeout);
            return;
        }
        let patience = PATIENCE.max(peer.paths.rtt().unwrap_or_default() * 3);
        let alone = peer.paths.spare(now).is_none();
        // A peer that was waited for before may have to wait for us: its time begins anew.
        peer.waiting = Some(Waiting { since: now, pings: 0, next: now + patience, data: false, asked: true });
        if now.duration_since(peer.heard) >= forgotten_after {
            self.timers.set(Timer::Repair(id), now);
        }
        if alone {
            self.ping_selected(now, id);
        } else {
            self.ping_on_all(now, id);
        }
        self.arm(id);
    }

    /// A session with `relay` has begun: handshakes under way that need one are passed on by it at once, also those that it was asked for when it had forgotten us.
    pub(crate) fn ask_gained(&mut self, now: Instant, relay: PeerId) {
        if !self.can_introduce(relay) {
            return;
        }
        let sought: Vec<PeerId> = self.wanted.keys().chain(&self.connected).copied().collect();
        for id in sought.into_iter().filter(|id| *id != relay) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let Some(dial) = &mut peer.dial else { continue };
            let asked = dial.open.contains(&relay);
            let full = dial.open.len() >= MAX_ASKED || peer.introducers.len() >= MAX_INTRODUCERS;
            // A known address is tried alone first.
            let early = dial.purpose == Purpose::Wanted && !dial.addresses.is_empty() && dial.sends <= 1;
            if !matches!(dial.purpose, Purpose::Wanted | Purpose::Repair) || (!asked && (full || early)) {
                continue;
            }
            if !asked {
                dial.open.push(relay);
                peer.introducers.push(relay);
            }
            let initiation = Bytes::copy_from_slice(dial.initiator.datagram());
            self.ask_introduction(now, relay, id, &initiation);
        }
    }
}
