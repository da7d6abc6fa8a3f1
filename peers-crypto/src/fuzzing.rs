//! Bodies of the fuzz targets: each takes any bytes and panics where a law is broken.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Instant;

use bytes::Bytes;
use peers_wire::{PeerId, Reader, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::cookie::{ANYONE, MACS, append_macs};
use crate::handshake::{IK, PROLOGUE, XX, agree, header, read_ephemeral, write_ephemeral};
use crate::noise::Symmetric;
use crate::{
    Admission, Cipher, DATA_HEADER, DatagramKind, DeviceKey, Finished, Gate, HandshakeError, IK_INITIATION, Initiator, MAX_EARLY,
    MAX_FREE_HANDSHAKES, MAX_PLAINTEXT, OpenError, REKEY_AFTER_DATAGRAMS, REPLAY_WINDOW, Response, Session, XX_FIRST, XxResponder,
    receiver_index, respond,
};

pub use crate::fuzzing_keyfile::crypto_keyfile;
pub use crate::fuzzing_link::crypto_link;
pub use crate::fuzzing_statement::{crypto_group, crypto_statement};

/// Bytes of the code that answers a cookie.
const MAC2: usize = MACS / 2;
const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// Alice initiates, Bob answers, Mallory is whoever she likes; none of them is of the test vectors.
static KEYS: LazyLock<[DeviceKey; 3]> = LazyLock::new(|| [4, 5, 6].map(|seed| DeviceKey::from_seed(&[seed; 32])));

/// A stranger, someone on the path, the other end itself: what is altered or made up establishes nothing, and what is true still does after it.
pub fn crypto_handshake(data: &[u8]) {
    let mut input = Reader::new(data);
    let (Ok(what), Ok(stage)) = (input.u8(), input.u8()) else { return };
    let (xx, coded) = (what & 1 == 1, what & 2 == 2);
    match what >> 2 & 3 {
        0 => from_a_stranger(xx, coded, input.rest()),
        1 => altered_on_the_path(xx, coded, stage, input),
        2 => payload_of_the_other_end(xx, stage, input.rest()),
        _ => under_load(xx, input),
    }
}

fn begin(xx: bool, rng: &mut ChaCha20Rng) -> (Initiator, Vec<u8>) {
    let [alice, bob, _] = &*KEYS;
    if xx { Initiator::xx(11, WALL, rng) } else { Initiator::ik(alice, bob.id(), 11, WALL, b"early", rng).expect("a valid key") }
}

/// Whom the codes of a first datagram are for.
fn addressee(xx: bool) -> PeerId {
    if xx { ANYONE } else { KEYS[1].id() }
}

/// Any bytes, if `coded` behind the first byte and before the codes that make a first datagram pass the gate.
fn from_a_stranger(xx: bool, coded: bool, bytes: &[u8]) {
    // A seed of its own: the fuzzer sees what is compared, and would repeat here what it saw elsewhere.
    let ([alice, bob, _], rng) = (&*KEYS, &mut ChaCha20Rng::seed_from_u64(2));
    let mut datagram = bytes.to_vec();
    if coded {
        datagram.insert(0, if xx { DatagramKind::XxFirst } else { DatagramKind::IkInitiation } as u8);
        append_macs(&addressee(xx), &mut datagram);
    }
    let (mut waiting, first) = begin(xx, rng);
    if same_first(&datagram, &first) {
        return;
    }
    match respond(bob, &datagram, 22, &[], rng) {
        Ok(Response::Ik { .. }) => panic!("a session with a stranger"),
        Ok(Response::Xx { .. }) => assert!(datagram.len() == XX_FIRST && datagram[0] == DatagramKind::XxFirst as u8),
        Err(_) => {}
    }
    assert!(waiting.finish(alice, &datagram).is_err() && waiting.cookie(&datagram).is_err());
    assert_eq!(waiting.datagram(), first);
    if let Response::Xx { mut pending, .. } = respond(bob, &first, receiver_index(&datagram).unwrap_or(0), &[], rng).expect("genuine") {
        assert!(pending.finish(&datagram).is_err());
    }
}

/// Applies changes: a place and what to add to the byte there, then what to cut off or append.
fn altered(datagram: &[u8], mut changes: Reader<'_>) -> Vec<u8> {
    let mut altered = datagram.to_vec();
    let cut = changes.u8().unwrap_or(0);
    while let (Ok(at), Ok(bits)) = (changes.u16(), changes.u8()) {
        let length = altered.len();
        altered[usize::from(at) % length] ^= bits;
    }
    match cut {
        0..=127 => altered.truncate(altered.len() - usize::from(cut).min(altered.len() - 1)),
        _ => altered.extend_from_slice(&vec![0; usize::from(cut - 127)]),
    }
    altered
}

/// Datagrams are equal as far as they are bound: not in the code that answers a cookie.
fn same_first(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a[..a.len() - MAC2] == b[..b.len() - MAC2]
}

/// One of the datagrams of a handshake is altered; then it comes as it was. If `coded`, the codes of a first one are made anew, which anybody can.
fn altered_on_the_path(xx: bool, coded: bool, stage: u8, changes: Reader<'_>) {
    let ([alice, bob, _], rng) = (&*KEYS, &mut ChaCha20Rng::seed_from_u64(1));
    let (mut waiting, first) = begin(xx, rng);
    if stage.is_multiple_of(3) {
        let mut altered = altered(&first, changes);
        if coded {
            altered.truncate(altered.len().saturating_sub(MACS).max(1));
            append_macs(&addressee(xx), &mut altered);
        }
        let same = same_first(&altered, &first);
        match respond(bob, &altered, 22, b"reply", rng) {
            Ok(Response::Ik { remote, early, reply, .. }) => {
                // The initiator's index is under mac1 alone: with another the answer goes astray.
                assert_eq!(
                    (remote, &early[..], &altered[5..first.len() - MACS]),
                    (alice.id(), &b"early"[..], &first[5..first.len() - MACS])
                );
                if !same {
                    assert!(waiting.finish(alice, &reply).is_err());
                }
            }
            Ok(Response::Xx { mut pending, reply }) => {
                if !same {
                    assert!(waiting.finish(alice, &reply).is_err());
                }
                assert!(pending.finish(&reply).is_err());
            }
            Err(_) => assert!(!same),
        }
        return complete(waiting, &first, rng);
    }
    let (mut pending, session, reply) = match respond(bob, &first, 22, b"reply", rng).expect("genuine") {
        Response::Ik { session, reply, .. } => (None, Some(session), reply),
        Response::Xx { pending, reply } => (Some(pending), None, reply),
    };
    if stage % 3 == 1 || pending.is_none() {
        let altered = altered(&reply, changes);
        // The responder's index is not bound: with another, what the initiator sends goes astray.
        let same = altered.len() == reply.len() && altered[..5] == reply[..5] && altered[9..] == reply[9..];
        match waiting.finish(alice, &altered) {
            Ok(_) => {
                assert!(same);
                assert_eq!(waiting.finish(alice, &reply).err(), Some(HandshakeError::Unexpected));
                return;
            }
            Err(_) => assert!(!same),
        }
        return finish(waiting, pending, session, &reply);
    }
    let finished = waiting.finish(alice, &reply).expect("genuine");
    let third = finished.third.expect("XX");
    let altered = altered(&third, changes);
    let pending = pending.as_mut().expect("XX");
    assert_eq!(pending.finish(&altered).is_ok(), altered == third);
    if altered != third {
        let (remote, session, timestamp) = pending.finish(&third).expect("genuine");
        assert_eq!((remote, timestamp), (alice.id(), WALL));
        talk(finished.session, session);
    }
    assert_eq!(pending.finish(&third).err(), Some(HandshakeError::Unexpected));
}

fn complete(waiting: Initiator, first: &[u8], rng: &mut ChaCha20Rng) {
    match respond(&KEYS[1], first, 22, b"reply", rng).expect("genuine") {
        Response::Ik { session, reply, .. } => finish(waiting, None, Some(session), &reply),
        Response::Xx { pending, reply } => finish(waiting, Some(pending), None, &reply),
    }
}

/// The rest of a handshake, unaltered: both ends have one session.
fn finish(mut waiting: Initiator, pending: Option<XxResponder>, session: Option<Session>, reply: &[u8]) {
    let [alice, bob, _] = &*KEYS;
    let Finished { remote, session: ours, third, payload } = waiting.finish(alice, reply).expect("genuine");
    assert_eq!((remote, &payload[..]), (bob.id(), &b"reply"[..]));
    let theirs = match (pending, session) {
        (Some(mut pending), _) => {
            let (remote, session, timestamp) = pending.finish(&third.expect("XX")).expect("genuine");
            assert_eq!((remote, timestamp), (alice.id(), WALL));
            session
        }
        (None, session) => session.expect("IK"),
    };
    talk(ours, theirs);
}

fn talk(mut a: Session, mut b: Session) {
    assert_eq!(a.cipher(), b.cipher());
    for _ in 0..2 {
        let mut datagram = Vec::new();
        a.seal(b"hello", &mut datagram);
        assert_eq!(receiver_index(&datagram), Some(b.local_index()));
        assert_eq!(b.open_in_place(&mut datagram).as_deref(), Ok(&b"hello"[..]));
        core::mem::swap(&mut a, &mut b);
    }
}

/// The other end does the handshake properly, and seals any payload.
fn payload_of_the_other_end(xx: bool, stage: u8, payload: &[u8]) {
    let ([alice, bob, mallory], rng) = (&*KEYS, &mut ChaCha20Rng::seed_from_u64(1));
    let named = payload.first_chunk().map(|id| PeerId(*id)).filter(|id| mallory.id() == *id || negative(mallory.id()) == *id);
    let theirs = *mallory.exchange_public();
    match (xx, stage.is_multiple_of(2)) {
        (false, true) => {
            let to = *bob.exchange_public();
            let mut state = Symmetric::new(IK, &[PROLOGUE, &bob.id().0]);
            state.mix_hash(&to);
            let mut first = header(DatagramKind::IkInitiation, &[11], IK_INITIATION);
            let ephemeral = write_ephemeral(&mut state, &mut first, rng);
            state.mix_key(&agree(&ephemeral, &to).expect("a valid key"));
            state.encrypt(&theirs, &mut first);
            state.mix_key(&mallory.exchange(&to).expect("a valid key"));
            state.encrypt(payload, &mut first);
            append_macs(&bob.id(), &mut first);
            let good = named.is_some() && (39..=39 + MAX_EARLY).contains(&payload.len()) && payload[38] & 3 != 0;
            let answer = respond(bob, &first, 22, &[], rng);
            assert_eq!(answer.is_ok(), good);
            if let Ok(Response::Ik { remote, timestamp, early, session, .. }) = answer {
                assert_eq!((remote, &early[..], session.confirmed()), (named.expect("hers"), &payload[39..], false));
                assert_eq!(timestamp.0.to_be_bytes()[2..], payload[32..38]);
            }
        }
        (false, false) => {
            let (mut waiting, first) = Initiator::ik(alice, mallory.id(), 11, WALL, &[], rng).expect("a valid key");
            let mut state = Symmetric::new(IK, &[PROLOGUE, &mallory.id().0]);
            state.mix_hash(&theirs);
            let mut reader = Reader::new(&first[5..first.len() - MACS]);
            let remote_ephemeral = read_ephemeral(&mut state, &mut reader).expect("genuine");
            state.mix_key(&mallory.exchange(&remote_ephemeral).expect("a valid key"));
            state.decrypt(reader.bytes(48).expect("genuine")).expect("genuine");
            state.mix_key(&mallory.exchange(alice.exchange_public()).expect("a valid key"));
            state.decrypt(reader.rest()).expect("genuine");
            let mut reply = header(DatagramKind::IkResponse, &[11, 22], 100);
            let ephemeral = write_ephemeral(&mut state, &mut reply, rng);
            state.mix_key(&agree(&ephemeral, &remote_ephemeral).expect("a valid key"));
            state.mix_key(&agree(&ephemeral, alice.exchange_public()).expect("a valid key"));
            state.encrypt(payload, &mut reply);
            let answer = waiting.finish(alice, &reply);
            assert_eq!(answer.is_ok(), payload.first().is_some_and(|choice| offered(*choice)));
            assert!(answer.is_err() || answer.is_ok_and(|finished| finished.payload == payload[1..]));
        }
        (true, true) => {
            let (mut waiting, first) = Initiator::xx(11, WALL, rng);
            let mut state = Symmetric::new(XX, &[PROLOGUE]);
            let mut reader = Reader::new(&first[5..first.len() - MACS]);
            let remote_ephemeral = read_ephemeral(&mut state, &mut reader).expect("genuine");
            state.decrypt(reader.rest()).expect("in clear");
            let mut reply = header(DatagramKind::XxSecond, &[11, 22], 200);
            let ephemeral = write_ephemeral(&mut state, &mut reply, rng);
            state.mix_key(&agree(&ephemeral, &remote_ephemeral).expect("a valid key"));
            state.encrypt(&theirs, &mut reply);
            state.mix_key(&mallory.exchange(&remote_ephemeral).expect("a valid key"));
            state.encrypt(payload, &mut reply);
            let answer = waiting.finish(alice, &reply);
            assert_eq!(answer.is_ok(), named.is_some() && payload.get(32).is_some_and(|choice| offered(*choice)));
            assert!(answer.is_err() || answer.is_ok_and(|finished| Some(finished.remote) == named));
        }
        (true, false) => {
            let mut state = Symmetric::new(XX, &[PROLOGUE]);
            let mut first = header(DatagramKind::XxFirst, &[11], XX_FIRST);
            let ephemeral = write_ephemeral(&mut state, &mut first, rng);
            state.encrypt(&[1], &mut first);
            append_macs(&ANYONE, &mut first);
            let Ok(Response::Xx { mut pending, reply }) = respond(bob, &first, 22, &[], rng) else { panic!("genuine") };
            let mut reader = Reader::new(&reply[9..]);
            let remote_ephemeral = read_ephemeral(&mut state, &mut reader).expect("genuine");
            state.mix_key(&agree(&ephemeral, &remote_ephemeral).expect("a valid key"));
            state.decrypt(reader.bytes(48).expect("genuine")).expect("genuine");
            state.mix_key(&agree(&ephemeral, bob.exchange_public()).expect("a valid key"));
            state.decrypt(reader.rest()).expect("genuine");
            let mut third = header(DatagramKind::XxThird, &[22], 107);
            state.encrypt(&theirs, &mut third);
            state.mix_key(&mallory.exchange(&remote_ephemeral).expect("a valid key"));
            state.encrypt(payload, &mut third);
            assert_eq!(pending.finish(&third).map(|(remote, ..)| remote).ok(), named.filter(|_| payload.len() == 38));
        }
    }
}

/// The id that shares its X25519 key with `id`: who owns one owns both.
fn negative(PeerId(mut id): PeerId) -> PeerId {
    id[31] ^= 0x80;
    PeerId(id)
}

/// Whether a choice is one that this processor offers.
fn offered(choice: u8) -> bool {
    matches!(choice, 1 | 2) && crate::handshake::offers() & choice != 0
}

/// A gate that has admitted its share of a second admits what answers its cookie from the same address, unaltered, and nothing else.
#[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor; only differences matter")]
fn under_load(xx: bool, mut input: Reader<'_>) {
    let (rng, now) = (&mut ChaCha20Rng::seed_from_u64(1), Instant::now());
    let (source, other) = (source(&mut input), source(&mut input));
    let mut gate = Gate::new(&KEYS[1]);
    let (mut waiting, first) = begin(xx, rng);
    for _ in 0..MAX_FREE_HANDSHAKES {
        assert_eq!(gate.admit(now, other, &first, rng), Admission::Admit);
    }
    let Admission::Challenge(reply) = gate.admit(now, source, &first, rng) else { panic!("a cookie") };
    assert!(reply.len() < first.len());
    let mut false_reply = altered(&reply, input);
    assert_eq!(waiting.cookie(&false_reply).is_ok(), false_reply == reply);
    if false_reply != reply {
        assert_eq!(waiting.datagram(), first);
    }
    waiting.cookie(&reply).expect("genuine");
    false_reply = altered(waiting.datagram(), input);
    assert_eq!(gate.admit(now, source, &false_reply, rng) == Admission::Admit, false_reply == waiting.datagram());
    let same = (v6(source), source.port()) == (v6(other), other.port());
    assert_eq!(gate.admit(now, other, waiting.datagram(), rng) == Admission::Admit, same);
    assert_eq!(gate.admit(now, source, waiting.datagram(), rng), Admission::Admit);
}

fn source(input: &mut Reader<'_>) -> SocketAddr {
    let (port, octets) = (input.u16().unwrap_or(1), input.array::<16>().unwrap_or([1; 16]));
    let ip = Ipv6Addr::from(octets);
    if port & 1 == 0 { SocketAddr::from((ip.to_canonical(), port)) } else { SocketAddr::from((ip, port)) }
}

fn v6(address: SocketAddr) -> Ipv6Addr {
    match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
        SocketAddr::V6(address) => *address.ip(),
    }
}

/// The two ends of a session's direction, and which counters the receiver has opened.
struct Direction {
    sender: Session,
    receiver: Session,
    sealed: Vec<(u64, Vec<u8>, Vec<u8>)>,
    seen: BTreeSet<u64>,
    counter: u64,
}

/// Datagrams sealed under any counters, delivered in any order, again, altered, cut and made up: each opens once, a forged one changes nothing.
pub fn crypto_session(data: &[u8]) {
    let mut ops = Reader::new(data);
    let cipher = if ops.u8().is_ok_and(|byte| byte & 1 == 1) { Cipher::Aegis128l } else { Cipher::ChaCha20Poly1305 };
    let mut direction = Direction {
        sender: Session::new(cipher, (1, 2), &[1; 32], &[2; 32], true),
        receiver: Session::new(cipher, (2, 1), &[2; 32], &[1; 32], false),
        sealed: Vec::new(),
        seen: BTreeSet::new(),
        counter: 0,
    };
    while let (Ok(op), Ok(number)) = (ops.u8(), ops.u16()) {
        match op % 6 {
            0 => direction.seal(usize::from(number) % (MAX_PLAINTEXT + 1)),
            1 => direction.skip(u64::from(number) << (op >> 4)),
            2 => direction.deliver(usize::from(number)),
            3 => direction.deliver_altered(usize::from(number), ops.u16().unwrap_or(0), ops.u8().unwrap_or(1)),
            4 => direction.deliver_cut(usize::from(number), usize::from(ops.u16().unwrap_or(0))),
            _ => {
                let mut made_up = ops.bytes(usize::from(number % 64)).unwrap_or(&[]).to_vec();
                assert!(direction.receiver.open_in_place(&mut made_up).is_err());
            }
        }
        direction.check();
    }
    (0..direction.sealed.len()).for_each(|i| direction.deliver(i));
    direction.check();
}

impl Direction {
    fn seal(&mut self, length: usize) {
        let plaintext = vec![self.counter.to_be_bytes()[7]; length];
        let mut datagram = Vec::new();
        self.sender.seal(&plaintext, &mut datagram);
        self.sealed.push((self.counter, plaintext, datagram));
        self.counter += 1;
    }

    fn skip(&mut self, count: u64) {
        // Far below where counters end.
        if self.counter + count < 1 << 50 {
            self.sender.skip(count);
            self.counter += count;
        }
    }

    /// What the receiver is to say to a counter, by the set of all that it has opened.
    fn expected(&self, counter: u64) -> Result<(), OpenError> {
        if self.seen.last().is_some_and(|last| last + 1 > counter + REPLAY_WINDOW) {
            Err(OpenError::TooOld(counter))
        } else if self.seen.contains(&counter) {
            Err(OpenError::Replayed(counter))
        } else {
            Ok(())
        }
    }

    fn deliver(&mut self, i: usize) {
        let Some((counter, plaintext, datagram)) = self.sealed.get(i % self.sealed.len().max(1)) else { return };
        let expected = self.expected(*counter).map(|()| &plaintext[..]);
        // In place, in a buffer of its own, or in one that others share.
        let (alone, shared) = (Bytes::from(datagram.clone()), Bytes::from(datagram.clone()));
        let keep = shared.clone();
        match i / self.sealed.len() % 3 {
            0 => assert_eq!(self.receiver.open_in_place(&mut datagram.clone()).as_deref(), expected.as_deref()),
            1 => assert_eq!(self.receiver.open(alone).as_deref(), expected.as_deref()),
            _ => assert_eq!(self.receiver.open(shared).as_deref(), expected.as_deref()),
        }
        assert_eq!(&keep[..], datagram);
        if expected.is_ok() {
            self.seen.insert(*counter);
        }
    }

    fn deliver_altered(&mut self, i: usize, at: u16, bits: u8) {
        let Some((_, _, datagram)) = self.sealed.get(i % self.sealed.len().max(1)) else { return };
        let mut altered = datagram.clone();
        let at = usize::from(at) % altered.len();
        // The index selects the session; within one it means nothing.
        if !(1..5).contains(&at) && bits != 0 {
            altered[at] ^= bits;
            let shared = Bytes::from(altered.clone());
            assert!(self.receiver.open(shared.clone()).is_err());
            assert!(self.receiver.open_in_place(&mut altered).is_err());
        }
    }

    fn deliver_cut(&mut self, i: usize, length: usize) {
        let Some((_, _, datagram)) = self.sealed.get(i % self.sealed.len().max(1)) else { return };
        let mut cut = datagram[..length % datagram.len()].to_vec();
        assert!(self.receiver.open_in_place(&mut cut).is_err());
        let mut longer = [&datagram[..], &datagram[DATA_HEADER..]].concat();
        assert!(self.receiver.open_in_place(&mut longer).is_err());
    }

    fn check(&self) {
        assert_eq!((self.sender.sent(), self.receiver.received()), (self.counter, self.seen.len() as u64));
        assert_eq!(self.receiver.confirmed(), !self.seen.is_empty());
        let due = self.seen.last().is_some_and(|last| *last + 1 >= REKEY_AFTER_DATAGRAMS);
        assert_eq!(self.receiver.should_rekey(core::time::Duration::ZERO), due);
        assert_eq!(self.sender.should_rekey(core::time::Duration::ZERO), self.counter >= REKEY_AFTER_DATAGRAMS);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a target on every input of its corpus.
    pub(crate) fn replay(target: &str, body: fn(&[u8])) {
        let corpus = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let inputs: Vec<_> = std::fs::read_dir(&corpus).expect(&corpus).map(|entry| entry.expect("an entry").path()).collect();
        assert!(!inputs.is_empty(), "{corpus} is empty");
        for input in inputs {
            eprintln!("{}", input.display());
            body(&std::fs::read(input).expect("readable"));
        }
    }

    #[test]
    fn corpus_of_crypto_handshake() {
        replay("crypto_handshake", crypto_handshake);
    }

    #[test]
    fn corpus_of_crypto_group() {
        replay("crypto_group", crypto_group);
    }

    #[test]
    fn corpus_of_crypto_link() {
        replay("crypto_link", crypto_link);
    }

    #[test]
    fn corpus_of_crypto_session() {
        replay("crypto_session", crypto_session);
    }

    #[test]
    fn corpus_of_crypto_statement() {
        replay("crypto_statement", crypto_statement);
    }
}
