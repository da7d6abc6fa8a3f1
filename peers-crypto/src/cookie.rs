//! Refusing floods of handshakes cheaply: two message authentication codes at the end of every first handshake datagram.
//!
//! `mac1` shows that the sender knows whom it addresses, and is checked before any key agreement. Under load the answer to a datagram is only a cookie, sealed, that
//! depends on the source address; `mac2` is made with it, and shows that the sender receives what is sent to that address.
//!
//! Source: Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", section 5.3.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use peers_wire::{DecodeError, PeerId, Reader, Timestamp};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::datagram::DatagramKind;
use crate::handshake::HandshakeError;
use crate::keys::{DeviceKey, hash};
use crate::sodium::{self, Blake2b, XCHACHA};

/// Bytes of both codes at the end of a first handshake datagram.
pub(crate) const MACS: usize = 32;
/// Bytes of a cookie reply: kind 1, receiver's index 4, nonce 24, sealed cookie 32.
pub(crate) const COOKIE_REPLY: usize = 61;
/// First handshake datagrams per second that are answered without a cookie: about 1.5 % of a processor's time.
pub const MAX_FREE_HANDSHAKES: u32 = 100;
/// First handshake datagrams per second that one network (an IPv4 address, an IPv6 /64) gets answered by cookies; networks share 256 places.
pub const MAX_PROVEN_HANDSHAKES: u8 = 16;
/// How long a cookie is good: the secret behind it changes as often, and the one before is still accepted.
pub const COOKIE_SECRET_AGE: Duration = Duration::from_secs(120);
/// Initiators whose latest timestamp a [`Freshness`] remembers.
pub const MAX_INITIATORS: usize = 4096;

/// Whether to answer a first handshake datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Give it to [`respond`](crate::respond).
    Admit,
    /// Send this cookie reply to its source and forget it; it is shorter than the datagram it answers.
    Challenge(Vec<u8>),
    /// Drop it: its source has shown that it is there, and asks too much.
    Limit,
    /// Drop it.
    Refuse,
}

/// Decides which first handshake datagrams are worth a key agreement; constant size.
pub struct Gate {
    id: PeerId,
    /// For IK, whose initiator knows whom it addresses, and for XX.
    keys: [CodeKeys; 2],
    secrets: [Zeroizing<[u8; 32]>; 2],
    secret_since: Option<Instant>,
    second: Option<Instant>,
    admitted: u32,
    /// Admitted by a cookie within the second, by a secret hash of the network.
    proven: [u8; 256],
}

impl core::fmt::Debug for Gate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Gate").field("id", &self.id).field("admitted", &self.admitted).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate before the handshakes of `key`.
    pub fn new(key: &DeviceKey) -> Self {
        Self {
            id: key.id(),
            keys: [key.id(), ANYONE].map(|responder| CodeKeys::of(&responder)),
            secrets: Default::default(),
            secret_since: None,
            second: None,
            admitted: 0,
            proven: [0; 256],
        }
    }

    /// Judges a first handshake datagram (IK initiation or XX first) from `source`; 0.6 us, 1.5 us if it answers with a cookie.
    ///
    /// Under load (more than [`MAX_FREE_HANDSHAKES`] admitted within a second) only a datagram with a valid `mac2` is admitted, and of one network at most
    /// [`MAX_PROVEN_HANDSHAKES`].
    pub fn admit(&mut self, now: Instant, source: SocketAddr, datagram: &[u8], rng: &mut impl CryptoRng) -> Admission {
        let Some(Coded { body, mac1, mac2, responder }) = Coded::of(&self.id, datagram) else { return Admission::Refuse };
        let keys = &self.keys[usize::from(responder == ANYONE)];
        if !sodium::equal(&mac1, &mac(&keys.mac1, &[body])) {
            return Admission::Refuse;
        }
        if self.second.is_none_or(|start| now.saturating_duration_since(start) >= Duration::from_secs(1)) {
            self.second = Some(now);
            (self.admitted, self.proven) = (0, [0; 256]);
        }
        if self.admitted >= MAX_FREE_HANDSHAKES {
            self.rotate(now, rng);
            // Zeros say that there is no cookie yet.
            let proven =
                mac2 != [0; 16] && self.secrets.iter().any(|secret| sodium::equal(&mac2, &mac(&cookie(secret, source), &[body, &mac1])));
            if !proven {
                return self.challenge(source, body, &mac1, &responder, rng);
            }
            let count = &mut self.proven[usize::from(mac(&*self.secrets[0], &[&network(source)])[0])];
            if *count >= MAX_PROVEN_HANDSHAKES {
                return Admission::Limit;
            }
            *count += 1;
        }
        self.admitted = self.admitted.saturating_add(1);
        Admission::Admit
    }

    fn rotate(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        let age = self.secret_since.map(|since| now.saturating_duration_since(since));
        if age.is_some_and(|age| age < COOKIE_SECRET_AGE) {
            return;
        }
        // After a long pause the older secret is out of date as well: both are drawn anew.
        if age.is_none_or(|age| age >= 2 * COOKIE_SECRET_AGE) {
            rng.fill_bytes(&mut *self.secrets[0]);
        }
        self.secrets.swap(0, 1);
        rng.fill_bytes(&mut *self.secrets[0]);
        self.secret_since = Some(now);
    }

    fn challenge(&self, source: SocketAddr, body: &[u8], mac1: &[u8; 16], responder: &PeerId, rng: &mut impl CryptoRng) -> Admission {
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let mut reply = Vec::with_capacity(COOKIE_REPLY);
        reply.push(DatagramKind::CookieReply as u8);
        reply.extend_from_slice(&body[1..5]);
        reply.extend_from_slice(&nonce);
        let key = &self.keys[usize::from(*responder == ANYONE)].cookie;
        XCHACHA.seal(key, &nonce, mac1, &cookie(&self.secrets[0], source), &mut reply);
        Admission::Challenge(reply)
    }
}

/// The keys that depend on whom a first datagram addresses; public.
struct CodeKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl CodeKeys {
    fn of(responder: &PeerId) -> Self {
        Self { mac1: mac1_key(responder), cookie: cookie_key(responder) }
    }
}

/// Appends `mac1`, and a `mac2` of zeros.
pub(crate) fn append_macs(responder: &PeerId, datagram: &mut Vec<u8>) {
    let mac1 = mac(&mac1_key(responder), &[datagram]);
    datagram.extend_from_slice(&mac1);
    datagram.extend_from_slice(&[0; 16]);
}

/// Checks `mac1` and returns what is before the codes.
pub(crate) fn checked_body<'a>(me: &PeerId, datagram: &'a [u8]) -> Result<&'a [u8], HandshakeError> {
    let Coded { body, mac1, responder, .. } = Coded::of(me, datagram).ok_or(HandshakeError::Malformed(DecodeError::Truncated))?;
    if sodium::equal(&mac1, &mac(&mac1_key(&responder), &[body])) { Ok(body) } else { Err(HandshakeError::Forged) }
}

/// Opens a cookie reply to `datagram` and replaces its `mac2` by one made with the cookie.
pub(crate) fn answer(responder: &PeerId, datagram: &mut [u8], reply: &[u8]) -> Result<(), HandshakeError> {
    let mut reader = Reader::new(reply);
    let (kind, index) = (reader.u8()?, reader.array::<4>()?);
    let nonce = reader.array::<24>()?;
    let mut sealed = reader.array::<32>()?;
    reader.finish()?;
    if kind != DatagramKind::CookieReply as u8 || index[..] != datagram[1..5] {
        return Err(HandshakeError::Unexpected);
    }
    let end = datagram.len() - 16;
    let cookie = XCHACHA.open(&cookie_key(responder), &nonce, &datagram[end - 16..end], &mut sealed).ok_or(HandshakeError::Forged)?;
    let mac2 = mac(cookie, &[&datagram[..end]]);
    datagram[end..].copy_from_slice(&mac2);
    Ok(())
}

/// A first handshake datagram, taken apart.
struct Coded<'a> {
    body: &'a [u8],
    mac1: [u8; 16],
    mac2: [u8; 16],
    /// Whose knowledge `mac1` shows: [`ANYONE`]'s for XX, whose sender does not know whom it addresses.
    responder: PeerId,
}

impl<'a> Coded<'a> {
    fn of(me: &PeerId, datagram: &'a [u8]) -> Option<Self> {
        let responder = match DatagramKind::of(datagram)? {
            DatagramKind::IkInitiation => *me,
            DatagramKind::XxFirst => ANYONE,
            _ => return None,
        };
        let (rest, mac2) = datagram.split_last_chunk()?;
        let (body, mac1) = rest.split_last_chunk()?;
        (body.len() >= 5).then_some(Self { body, mac1: *mac1, mac2: *mac2, responder })
    }
}

/// Stands for the responder where the initiator does not know it.
pub(crate) const ANYONE: PeerId = PeerId([0; 32]);

fn mac1_key(responder: &PeerId) -> [u8; 32] {
    hash(&[b"peers mac1", &responder.0])
}

fn cookie_key(responder: &PeerId) -> [u8; 32] {
    hash(&[b"peers cookie", &responder.0])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Blake2b::new(key);
    for part in parts {
        hash.update(part);
    }
    hash.finish()
}

/// An IPv4 address, the first half of an IPv6 address.
fn network(source: SocketAddr) -> [u8; 8] {
    match source.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()).to_be_bytes(),
        IpAddr::V6(ip) => core::array::from_fn(|i| ip.octets()[i]),
    }
}

fn cookie(secret: &[u8; 32], source: SocketAddr) -> [u8; 16] {
    let ip = match source.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    mac(secret, &[&ip.octets(), &source.port().to_be_bytes()])
}

/// Refuses IK initiations that were seen before: remembers the latest timestamp of the last [`MAX_INITIATORS`] initiators.
///
/// Past that bound the longest known is forgotten. A replay that slips through (then, or after a restart) begins a session that its sender cannot confirm, and
/// repeats early data, which is idempotent for this reason.
#[derive(Debug, Default)]
pub struct Freshness {
    latest: BTreeMap<PeerId, Timestamp>,
    order: VecDeque<PeerId>,
}

impl Freshness {
    /// Whether this is a later `timestamp` than any seen from `initiator`; remembers it if so.
    pub fn accept(&mut self, initiator: PeerId, timestamp: Timestamp) -> bool {
        match self.latest.insert(initiator, timestamp) {
            None => {
                if self.order.len() == MAX_INITIATORS
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.latest.remove(&oldest);
                }
                self.order.push_back(initiator);
                true
            }
            Some(known) if known < timestamp => true,
            Some(known) => {
                self.latest.insert(initiator, known);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Initiator;
    use crate::responder::{Response, respond};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    const WALL: Timestamp = Timestamp(1_700_000_000_000);

    struct Flooded {
        bob: DeviceKey,
        gate: Gate,
        now: Instant,
        rng: ChaCha20Rng,
    }

    /// A gate that has just admitted as much as it does without cookies.
    fn flooded() -> Flooded {
        let (bob, mut rng) = (DeviceKey::from_seed(&[2; 32]), ChaCha20Rng::seed_from_u64(1));
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
        let now = Instant::now();
        let mut gate = Gate::new(&bob);
        let (_, datagram) = Initiator::xx(1, WALL, &mut rng);
        for _ in 0..MAX_FREE_HANDSHAKES {
            assert_eq!(gate.admit(now, source(9), &datagram, &mut rng), Admission::Admit);
        }
        Flooded { bob, gate, now, rng }
    }

    fn source(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn under_load_only_who_answers_a_cookie_from_its_own_address_is_admitted() {
        let Flooded { bob, mut gate, now, mut rng } = flooded();
        let alice = DeviceKey::from_seed(&[1; 32]);
        let handshakes = [Initiator::ik(&alice, bob.id(), 5, WALL, &[], &mut rng).unwrap().0, Initiator::xx(6, WALL, &mut rng).0];
        for mut waiting in handshakes {
            let Admission::Challenge(reply) = gate.admit(now, source(1), waiting.datagram(), &mut rng) else { panic!("challenged") };
            assert_eq!(reply.len(), COOKIE_REPLY);
            assert_eq!(crate::receiver_index(&reply), Some(waiting.index()));
            waiting.cookie(&reply).unwrap();
            assert!(matches!(gate.admit(now, source(2), waiting.datagram(), &mut rng), Admission::Challenge(_)), "another port");
            assert_eq!(gate.admit(now, source(1), waiting.datagram(), &mut rng), Admission::Admit);
            let later = now + COOKIE_SECRET_AGE - Duration::from_millis(1);
            for _ in 0..MAX_FREE_HANDSHAKES {
                gate.admit(later, source(1), waiting.datagram(), &mut rng);
            }
            match respond(&bob, waiting.datagram(), 7, &[], &mut rng).unwrap() {
                Response::Ik { reply, .. } | Response::Xx { reply, .. } => waiting.finish(&alice, &reply).unwrap(),
            };
        }
    }

    #[test]
    fn who_answers_a_cookie_gets_no_more_than_its_networks_share_and_others_still_get_in() {
        let Flooded { bob: _, mut gate, now, mut rng } = flooded();
        let (mut waiting, _) = Initiator::xx(6, WALL, &mut rng);
        let at = |host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, host, 1, 2, 3, 4], 5));
        let mut prove = |gate: &mut Gate, waiting: &mut Initiator, source| {
            let Admission::Challenge(reply) = gate.admit(now, source, waiting.datagram(), &mut rng) else { panic!("challenged") };
            waiting.cookie(&reply).unwrap();
            (0..100).filter(|_| gate.admit(now, source, waiting.datagram(), &mut rng) == Admission::Admit).count()
        };
        assert_eq!(prove(&mut gate, &mut waiting, at(1)), usize::from(MAX_PROVEN_HANDSHAKES));
        let others =
            (2..6).map(|host| prove(&mut gate, &mut Initiator::xx(7, WALL, &mut ChaCha20Rng::seed_from_u64(host.into())).0, at(host)));
        assert!(others.filter(|admitted| *admitted == usize::from(MAX_PROVEN_HANDSHAKES)).count() >= 3, "places are rarely shared");
    }

    #[test]
    fn a_cookie_ends_with_the_secrets_behind_it() {
        let Flooded { bob: _, mut gate, now, mut rng } = flooded();
        let (mut waiting, _) = Initiator::xx(6, WALL, &mut rng);
        let Admission::Challenge(reply) = gate.admit(now, source(1), waiting.datagram(), &mut rng) else { panic!("challenged") };
        waiting.cookie(&reply).unwrap();
        let mut admitted_at = |after: Duration| {
            let (_, other) = Initiator::xx(1, WALL, &mut rng);
            for _ in 0..MAX_FREE_HANDSHAKES {
                gate.admit(now + after, source(3), &other, &mut rng);
            }
            gate.admit(now + after, source(1), waiting.datagram(), &mut rng) == Admission::Admit
        };
        assert!(admitted_at(COOKIE_SECRET_AGE), "the secret before the present one is still accepted");
        assert!(!admitted_at(2 * COOKIE_SECRET_AGE));
    }

    #[test]
    fn a_second_later_the_gate_is_open_again() {
        let Flooded { bob: _, mut gate, now, mut rng } = flooded();
        let (waiting, _) = Initiator::xx(6, WALL, &mut rng);
        assert!(matches!(gate.admit(now, source(1), waiting.datagram(), &mut rng), Admission::Challenge(_)));
        assert_eq!(gate.admit(now + Duration::from_secs(1), source(1), waiting.datagram(), &mut rng), Admission::Admit);
    }

    #[test]
    fn a_wrong_code_gets_no_answer_and_a_false_cookie_changes_nothing() {
        let Flooded { bob, mut gate, now, mut rng } = flooded();
        let alice = DeviceKey::from_seed(&[1; 32]);
        let (mut waiting, datagram) = Initiator::ik(&alice, bob.id(), 5, WALL, &[], &mut rng).unwrap();
        let (_, for_carol) = Initiator::ik(&alice, DeviceKey::from_seed(&[3; 32]).id(), 5, WALL, &[], &mut rng).unwrap();
        assert_eq!(gate.admit(now, source(1), &for_carol, &mut rng), Admission::Refuse);
        let Admission::Challenge(reply) = gate.admit(now, source(1), &datagram, &mut rng) else { panic!("challenged") };
        for at in 0..reply.len() {
            let mut altered = reply.clone();
            altered[at] ^= 1;
            assert!(waiting.cookie(&altered).is_err() && waiting.cookie(&reply[..at]).is_err());
        }
        assert_eq!(waiting.datagram(), datagram);
    }

    #[test]
    fn a_replayed_or_older_initiation_is_not_fresh_and_memory_is_bounded() {
        let (mut freshness, peer) = (Freshness::default(), PeerId([1; 32]));
        assert!(freshness.accept(peer, Timestamp(5)));
        assert!(!freshness.accept(peer, Timestamp(5)));
        assert!(!freshness.accept(peer, Timestamp(4)));
        assert!(freshness.accept(peer, Timestamp(6)));
        assert!(!freshness.accept(peer, Timestamp(6)));
        for i in 0..2 * MAX_INITIATORS as u64 {
            let mut id = [2; 32];
            id[..8].copy_from_slice(&i.to_be_bytes());
            assert!(freshness.accept(PeerId(id), Timestamp(1)));
        }
        assert_eq!((freshness.latest.len(), freshness.order.len()), (MAX_INITIATORS, MAX_INITIATORS));
    }

    proptest! {
        #[test]
        fn any_bytes_at_the_gate_are_refused_without_panic(kind in 0u8..12, tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut flooded = flooded();
            let datagram = [&[kind][..], &tail].concat();
            prop_assert_eq!(flooded.gate.admit(flooded.now, source(1), &datagram, &mut flooded.rng), Admission::Refuse);
        }
    }
}
