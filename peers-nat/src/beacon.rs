//! The LAN beacon: how peers on one link find each other without internet.
//!
//! A beacon names nobody. It carries a fresh nonce, the port of the sender's socket and tags; a tag is a keyed hash of both, so that only who holds the key recognises it, and no two
//! beacons look alike. Every peer of a swarm holds the swarm key; a user's devices, or two acquaintances, may hold keys of their own beside it.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use peers_crypto::keyed_hash;
use peers_wire::{DecodeError, Reader, Writer};
use rand::{Rng, RngExt};

use crate::address;
use crate::limits::Bucket;

/// First byte of a beacon.
pub(crate) const BEACON: u8 = 9;

/// UDP port that beacons are sent to; a driver shares it between the peers of one host (`SO_REUSEADDR`, `SO_REUSEPORT`).
pub const BEACON_PORT: u16 = 47474;
/// IPv4 group that beacons are sent to, with a TTL of 1. Source: RFC 2365, section 6.1 (local scope).
pub const BEACON_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 80, 80);
/// IPv6 group that beacons are sent to. Source: RFC 4291, section 2.7 (transient, link-local scope).
pub const BEACON_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x7065, 0x6572);

/// Most tags in a beacon.
pub(crate) const MAX_TAGS: usize = 16;
/// Beacons answered at once, and per second in the long run.
const ANSWERS: (u32, u32) = (16, 1);
/// Nonces that are remembered, so that a beacon is answered once.
const MAX_NONCES: usize = 256;
/// Pauses between the first beacons; from then on the last.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

type Tag = [u8; 8];

fn tag(key: &[u8; 32], nonce: &[u8; 16], port: u16) -> Tag {
    let hash = keyed_hash(key, &[b"peers beacon 1", nonce, &port.to_be_bytes()]);
    let mut tag = Tag::default();
    tag.copy_from_slice(&hash[..8]);
    tag
}

/// Encodes a beacon for a socket at `port`: 19 bytes and 8 for each of at most [`MAX_TAGS`] keys.
pub(crate) fn encode(nonce: &[u8; 16], port: u16, keys: &[[u8; 32]]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(19 + 8 * keys.len());
    writer.u8(BEACON).bytes(nonce).u16(port);
    for key in keys.iter().take(MAX_TAGS) {
        writer.bytes(&tag(key, nonce, port));
    }
    writer.finish()
}

/// Nonce, port and tags of a beacon.
fn decode(datagram: &[u8]) -> Result<([u8; 16], u16, &[Tag]), DecodeError> {
    let mut reader = Reader::new(datagram);
    let kind = reader.u8()?;
    if kind != BEACON {
        return Err(DecodeError::Kind(kind));
    }
    let (nonce, port) = (reader.array()?, reader.u16()?);
    match reader.rest().as_chunks() {
        (tags, []) if (1..=MAX_TAGS).contains(&tags.len()) && port != 0 => Ok((nonce, port, tags)),
        (_, []) => Err(DecodeError::Range("beacon")),
        _ => Err(DecodeError::Truncated),
    }
}

/// What to do about a beacon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A peer of ours is there: answer it.
    Answer(SocketAddr),
    /// It is ours, a repetition, of another swarm, from off the link, or one too many.
    Ignore,
    /// It is not a beacon.
    Malformed,
}

/// Sends beacons and decides which of the heard ones are answered.
#[derive(Debug)]
pub(crate) struct Beacons {
    /// The swarm's key first.
    keys: Vec<[u8; 32]>,
    sent: usize,
    nonces: VecDeque<[u8; 16]>,
    answers: Bucket,
}

impl Beacons {
    pub(crate) fn new(swarm: [u8; 32]) -> Self {
        Self { keys: vec![swarm], sent: 0, nonces: VecDeque::new(), answers: Bucket::new(ANSWERS.0, ANSWERS.1) }
    }

    /// Replaces the keys beside the swarm's; those that do not fit a beacon are left out.
    pub(crate) fn set_keys(&mut self, keys: &[[u8; 32]]) {
        self.keys.truncate(1);
        self.keys.extend(keys.iter().take(MAX_TAGS - 1));
    }

    /// Starts over with short pauses: the network has changed.
    pub(crate) const fn restart(&mut self) {
        self.sent = 0;
    }

    /// The next beacon and the pause after it. `first`: it is not another copy for another group.
    pub(crate) fn next(&mut self, port: u16, first: bool, rng: &mut impl Rng) -> (Vec<u8>, Duration) {
        let nonce = rng.random();
        self.remember(nonce);
        let pause = PAUSES[self.sent.min(PAUSES.len() - 1)];
        self.sent += usize::from(first);
        (encode(&nonce, port, &self.keys), pause.mul_f64(rng.random_range(0.8..1.2)))
    }

    /// A datagram of type [`BEACON`] came from `remote`, while we have the addresses `local`.
    pub(crate) fn handle(&mut self, now: Instant, remote: SocketAddr, datagram: &[u8], local: &[SocketAddr]) -> Heard {
        let Ok((nonce, port, tags)) = decode(datagram) else {
            return Heard::Malformed;
        };
        let known = |key: &[u8; 32]| tags.contains(&tag(key, &nonce, port));
        if !address::on_link(remote, local) || self.nonces.contains(&nonce) || !self.keys.iter().any(known) || !self.answers.take(now, 1) {
            return Heard::Ignore;
        }
        self.remember(nonce);
        let mut sender = remote;
        sender.set_port(port);
        if local.contains(&sender) { Heard::Ignore } else { Heard::Answer(sender) }
    }

    fn remember(&mut self, nonce: [u8; 16]) {
        if self.nonces.len() == MAX_NONCES {
            self.nonces.pop_front();
        }
        self.nonces.push_back(nonce);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::tests::epoch;

    const SWARM: [u8; 32] = [1; 32];

    fn remote() -> SocketAddr {
        "192.168.1.5:47474".parse().unwrap()
    }

    fn beacon(key: [u8; 32], seed: u64) -> Vec<u8> {
        Beacons::new(key).next(4000, true, &mut ChaCha20Rng::seed_from_u64(seed)).0
    }

    #[test]
    fn a_beacon_is_answered_once_at_the_port_it_names() {
        let mut beacons = Beacons::new(SWARM);
        assert_eq!(beacons.handle(epoch(), remote(), &beacon(SWARM, 1), &[]), Heard::Answer("192.168.1.5:4000".parse().unwrap()));
        assert_eq!(beacons.handle(epoch(), remote(), &beacon(SWARM, 1), &[]), Heard::Ignore);
    }

    #[test]
    fn only_holders_of_a_key_recognise_a_beacon() {
        let mut beacons = Beacons::new(SWARM);
        assert_eq!(beacons.handle(epoch(), remote(), &beacon([2; 32], 1), &[]), Heard::Ignore);
        beacons.set_keys(&[[3; 32], [2; 32]]);
        assert_ne!(beacons.handle(epoch(), remote(), &beacon([2; 32], 1), &[]), Heard::Ignore);
    }

    #[test]
    fn no_two_beacons_look_alike() {
        let (mut beacons, mut rng) = (Beacons::new(SWARM), ChaCha20Rng::seed_from_u64(1));
        let (first, second) = (beacons.next(4000, true, &mut rng).0, beacons.next(4000, true, &mut rng).0);
        assert_ne!(first[1..17], second[1..17]);
        assert_ne!(first[19..27], second[19..27]);
    }

    #[test]
    fn our_own_beacon_is_ignored() {
        let (mut beacons, mut rng) = (Beacons::new(SWARM), ChaCha20Rng::seed_from_u64(1));
        let own = beacons.next(4000, true, &mut rng).0;
        assert_eq!(beacons.handle(epoch(), remote(), &own, &[]), Heard::Ignore);
    }

    #[test]
    fn a_beacon_from_off_the_link_is_ignored() {
        let mut beacons = Beacons::new(SWARM);
        let far = "198.51.100.7:47474".parse().unwrap();
        assert_eq!(beacons.handle(epoch(), far, &beacon(SWARM, 1), &["203.0.113.1:1".parse().unwrap()]), Heard::Ignore);
        assert_ne!(beacons.handle(epoch(), far, &beacon(SWARM, 1), &["198.51.100.9:1".parse().unwrap()]), Heard::Ignore);
    }

    #[test]
    fn beacons_are_answered_at_a_bounded_rate() {
        let mut beacons = Beacons::new(SWARM);
        let answered = (0..1000).filter(|seed| beacons.handle(epoch(), remote(), &beacon(SWARM, *seed), &[]) != Heard::Ignore).count();
        assert_eq!(answered, ANSWERS.0 as usize);
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let (mut beacons, mut rng) = (Beacons::new(SWARM), ChaCha20Rng::seed_from_u64(1));
        let first_second = beacons.next(4000, true, &mut rng).1;
        assert!(first_second < Duration::from_millis(500));
        assert!((0..10).map(|_| beacons.next(4000, true, &mut rng).1).last() > Some(Duration::from_secs(45)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled_and_what_decodes_has_one_form(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut datagram = vec![BEACON];
            datagram.extend(bytes);
            if let Ok((nonce, port, tags)) = decode(&datagram) {
                let mut writer = Writer::default();
                writer.u8(BEACON).bytes(&nonce).u16(port).bytes(tags.as_flattened());
                prop_assert_eq!(writer.finish(), &datagram[..]);
            }
            Beacons::new(SWARM).handle(epoch(), remote(), &datagram, &[]);
        }
    }
}
