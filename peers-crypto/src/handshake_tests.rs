//! Handshakes and sessions: between two of our own ends, against `snow` in both roles, and against hostile datagrams.

use bytes::Bytes;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::datagram::receiver_index;
use crate::responder::{Response, respond, respond_offering};
use crate::session::{DATA_HEADER, MAX_AEGIS_PLAINTEXT, MAX_DATAGRAM, MAX_PLAINTEXT, OpenError, RELAY_HEADER, REPLAY_WINDOW};

const WALL: Timestamp = Timestamp(1_700_000_000_000);
const BOTH: u8 = 3;

fn key(seed: u8) -> DeviceKey {
    DeviceKey::from_seed(&[seed; 32])
}

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(1)
}

/// The two ends of a session, and what the handshake carried.
struct Pair {
    initiator: Session,
    responder: Session,
}

fn ik(offered: u8, supported: u8) -> Pair {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (mut waiting, first) = Initiator::ik_offering(offered, &alice, bob.id(), 11, WALL, b"early", rng).unwrap();
    let Response::Ik { remote, timestamp, early, session, reply } = respond_offering(supported, &bob, &first, 22, b"reply", rng).unwrap()
    else {
        panic!("an IK initiation has an IK response")
    };
    assert_eq!((remote, timestamp, &early[..]), (alice.id(), WALL, &b"early"[..]));
    assert_eq!(receiver_index(&reply), Some(11));
    assert!(!session.confirmed(), "the initiation may have been a replay");
    let finished = waiting.finish(&alice, &reply).unwrap();
    assert_eq!((finished.remote, finished.third, &finished.payload[..]), (bob.id(), None, &b"reply"[..]));
    assert!(finished.session.confirmed());
    Pair { initiator: finished.session, responder: session }
}

fn xx() -> Pair {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (mut waiting, first) = Initiator::xx(11, WALL, rng);
    let Response::Xx { mut pending, reply } = respond(&bob, &first, 22, b"reply", rng).unwrap() else {
        panic!("an XX first has an XX second")
    };
    let finished = waiting.finish(&alice, &reply).unwrap();
    assert_eq!((finished.remote, &finished.payload[..]), (bob.id(), &b"reply"[..]));
    let third = finished.third.unwrap();
    assert_eq!((receiver_index(&reply), receiver_index(&third), pending.index()), (Some(11), Some(22), 22));
    let (remote, responder, timestamp) = pending.finish(&third).unwrap();
    assert_eq!((remote, timestamp), (alice.id(), WALL));
    assert!(responder.confirmed());
    Pair { initiator: finished.session, responder }
}

impl Pair {
    fn talk(&mut self) {
        for length in [0, 1, 1024, MAX_AEGIS_PLAINTEXT, MAX_AEGIS_PLAINTEXT + 1, MAX_PLAINTEXT] {
            let plaintext = vec![7; length];
            for _ in 0..2 {
                let mut datagram = Vec::new();
                self.initiator.seal(&plaintext, &mut datagram);
                assert!(datagram.len() <= MAX_DATAGRAM - RELAY_HEADER);
                assert_eq!(receiver_index(&datagram), Some(self.responder.local_index()));
                assert_eq!(self.responder.open(Bytes::from(datagram)).unwrap(), plaintext);
                assert!(self.responder.confirmed());
                let mut datagram = Vec::new();
                self.responder.seal(&plaintext, &mut datagram);
                assert_eq!(self.initiator.open(Bytes::from(datagram)).unwrap(), plaintext);
            }
        }
        assert_eq!((self.initiator.sent(), self.responder.received()), (12, 12));
    }
}

#[test]
fn ik_and_xx_establish_and_carry_data_both_ways() {
    ik(BOTH, BOTH).talk();
    ik(1, BOTH).talk();
    xx().talk();
}

#[test]
fn the_fast_cipher_is_agreed_only_where_both_ends_have_it() {
    for (offered, supported, agreed) in
        [(3, 3, Cipher::Aegis128l), (1, 3, Cipher::ChaCha20Poly1305), (3, 1, Cipher::ChaCha20Poly1305), (1, 1, Cipher::ChaCha20Poly1305)]
    {
        let pair = ik(offered, supported);
        assert_eq!((pair.initiator.cipher(), pair.responder.cipher()), (agreed, agreed));
    }
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (_, first) = Initiator::ik_offering(4, &alice, bob.id(), 1, WALL, &[], rng).unwrap();
    assert_eq!(respond(&bob, &first, 2, &[], rng).err(), Some(HandshakeError::Cipher));
}

#[test]
fn a_third_party_cannot_downgrade_the_cipher_of_xx() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (mut waiting, mut first) = Initiator::xx_offering(BOTH, 1, WALL, rng);
    first[5 + 32] = Cipher::ChaCha20Poly1305 as u8;
    first.truncate(XX_FIRST - MACS);
    cookie::append_macs(&ANYONE, &mut first);
    let Response::Xx { reply, .. } = respond(&bob, &first, 2, &[], rng).unwrap() else { panic!("XX") };
    assert_eq!(waiting.finish(&alice, &reply).err(), Some(HandshakeError::Forged));
}

#[test]
fn handshake_datagrams_have_the_sizes_of_the_protocol_and_never_amplify() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (_, first) = Initiator::ik(&alice, bob.id(), 1, WALL, &[0; MAX_EARLY], rng).unwrap();
    assert_eq!(first.len(), 172 + MAX_EARLY);
    assert_eq!(Initiator::ik(&alice, bob.id(), 1, WALL, &[0; MAX_EARLY + 1], rng).err(), Some(HandshakeError::TooLong(701)));
    let (_, first) = Initiator::ik(&alice, bob.id(), 1, WALL, &[], rng).unwrap();
    let Response::Ik { reply, .. } = respond(&bob, &first, 2, &[0; MAX_REPLY], rng).unwrap() else { panic!("IK") };
    assert_eq!((first.len(), reply.len()), (IK_INITIATION, 58 + MAX_REPLY));
    assert!(cookie::COOKIE_REPLY < first.len());
    let (mut waiting, first) = Initiator::xx(1, WALL, rng);
    let Response::Xx { reply, .. } = respond(&bob, &first, 2, &[0; MAX_REPLY], rng).unwrap() else { panic!("XX") };
    let third = waiting.finish(&alice, &reply).unwrap().third.unwrap();
    assert_eq!((first.len(), reply.len(), third.len()), (XX_FIRST, 138 + MAX_REPLY, 107));
    assert!(reply.len() <= 3 * first.len() && cookie::COOKIE_REPLY < first.len());
    assert_eq!(respond(&bob, &first, 2, &[0; MAX_REPLY + 1], rng).err(), Some(HandshakeError::TooLong(65)));
}

#[test]
fn the_initiators_identity_is_not_in_the_clear() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (_, first) = Initiator::ik(&alice, bob.id(), 1, WALL, &[], rng).unwrap();
    let (mut waiting, xx_first) = Initiator::xx(1, WALL, rng);
    let Response::Xx { reply, .. } = respond(&bob, &xx_first, 2, &[], rng).unwrap() else { panic!("XX") };
    let third = waiting.finish(&alice, &reply).unwrap().third.unwrap();
    for datagram in [first, xx_first, reply, third] {
        for secret in [&alice.id().0, alice.exchange_public(), &bob.id().0, bob.exchange_public()] {
            assert!(!datagram.windows(32).any(|window| window == secret));
        }
    }
}

#[test]
fn an_initiation_for_another_device_is_refused_before_any_key_agreement() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (_, first) = Initiator::ik(&alice, bob.id(), 1, WALL, &[], rng).unwrap();
    assert_eq!(respond(&key(3), &first, 2, &[], rng).err(), Some(HandshakeError::Forged));
}

#[test]
fn an_identity_that_is_not_the_static_key_is_refused() {
    // Mallory does the handshake properly under her own key, and names Alice.
    let (mallory, alice, bob, rng) = (key(6), key(1), key(2), &mut rng());
    let remote_static = *bob.exchange_public();
    let mut state = Symmetric::new(IK, &[PROLOGUE, &bob.id().0]);
    state.mix_hash(&remote_static);
    let mut datagram = header(DatagramKind::IkInitiation, &[1], 200);
    let ephemeral = write_ephemeral(&mut state, &mut datagram, rng);
    state.mix_key(&agree(&ephemeral, &remote_static).unwrap());
    state.encrypt(mallory.exchange_public(), &mut datagram);
    state.mix_key(&mallory.exchange(&remote_static).unwrap());
    let mut payload = alice.id().0.to_vec();
    payload.extend_from_slice(&[0, 0, 0, 0, 0, 0, 3]);
    state.encrypt(&payload, &mut datagram);
    cookie::append_macs(&bob.id(), &mut datagram);
    assert_eq!(respond(&bob, &datagram, 2, &[], rng).err(), Some(HandshakeError::Identity));
}

#[test]
fn who_stole_a_devices_key_cannot_pose_as_others_to_it() {
    // Key compromise impersonation: Mallory has Bob's key and speaks to Bob as Alice. She gets as far as a session that she cannot confirm.
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let shared = bob.exchange(alice.exchange_public()).unwrap();
    let remote_static = *bob.exchange_public();
    let mut state = Symmetric::new(IK, &[PROLOGUE, &bob.id().0]);
    state.mix_hash(&remote_static);
    let mut datagram = header(DatagramKind::IkInitiation, &[1], 200);
    let ephemeral = write_ephemeral(&mut state, &mut datagram, rng);
    state.mix_key(&agree(&ephemeral, &remote_static).unwrap());
    state.encrypt(alice.exchange_public(), &mut datagram);
    state.mix_key(&shared);
    let mut payload = alice.id().0.to_vec();
    payload.extend_from_slice(&[0, 0, 0, 0, 0, 0, 3]);
    state.encrypt(&payload, &mut datagram);
    cookie::append_macs(&bob.id(), &mut datagram);
    let Response::Ik { session, reply, .. } = respond(&bob, &datagram, 2, &[], rng).unwrap() else { panic!("IK") };
    assert!(!session.confirmed());
    // The response mixes in Alice's static key with Bob's ephemeral one: Mallory knows neither secret.
    let waiting = Initiator {
        state: Some(state),
        pattern: Pattern::Ik { remote: bob.id() },
        ephemeral,
        index: 1,
        wall: WALL,
        offers: BOTH,
        datagram,
    };
    let mut waiting = waiting;
    assert_eq!(waiting.finish(&bob, &reply).err(), Some(HandshakeError::Forged));
    assert_eq!(waiting.finish(&key(6), &reply).err(), Some(HandshakeError::Forged));
}

#[test]
fn a_handshake_with_the_negative_of_an_id_is_not_one_with_the_id() {
    // Both ids have one X25519 key: Noise alone would not tell whom the initiator meant.
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let mut negative = bob.id();
    negative.0[31] ^= 0x80;
    assert_eq!(exchange_key(&negative).as_ref(), Some(bob.exchange_public()));
    let (_, first) = Initiator::ik(&alice, negative, 1, WALL, &[], rng).unwrap();
    assert_eq!(respond(&bob, &first, 2, &[], rng).err(), Some(HandshakeError::Forged), "mac1");
    let mut addressed_anew = first[..first.len() - MACS].to_vec();
    cookie::append_macs(&bob.id(), &mut addressed_anew);
    assert_eq!(respond(&bob, &addressed_anew, 2, &[], rng).err(), Some(HandshakeError::Forged), "the prologue");
}

#[test]
fn a_session_with_oneself_and_with_an_invalid_key_is_refused() {
    let (alice, rng) = (key(1), &mut rng());
    assert_eq!(Initiator::ik(&alice, alice.id(), 1, WALL, &[], rng).err(), Some(HandshakeError::Myself));
    let mut small = [0; 32];
    small[0] = 1;
    assert_eq!(Initiator::ik(&alice, PeerId(small), 1, WALL, &[], rng).err(), Some(HandshakeError::Identity));
    let (mut waiting, first) = Initiator::xx(1, WALL, rng);
    let Response::Xx { reply, .. } = respond(&alice, &first, 2, &[], rng).unwrap() else { panic!("XX") };
    assert_eq!(waiting.finish(&alice, &reply).err(), Some(HandshakeError::Myself));
}

#[test]
fn ephemeral_keys_of_small_order_are_refused() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    for small in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        let (_, first) = Initiator::ik(&alice, bob.id(), 1, WALL, &[], rng).unwrap();
        let mut first = first[..first.len() - MACS].to_vec();
        first[5..37].copy_from_slice(&small);
        cookie::append_macs(&bob.id(), &mut first);
        assert_eq!(respond(&bob, &first, 2, &[], rng).err(), Some(HandshakeError::Forged));
        let (_, first) = Initiator::xx(1, WALL, rng);
        let mut first = first[..first.len() - MACS].to_vec();
        first[5..37].copy_from_slice(&small);
        cookie::append_macs(&ANYONE, &mut first);
        assert_eq!(respond(&bob, &first, 2, &[], rng).err(), Some(HandshakeError::Forged));
    }
}

#[test]
fn a_false_answer_leaves_the_handshake_waiting_for_the_true_one() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (mut waiting, first) = Initiator::ik(&alice, bob.id(), 1, WALL, &[], rng).unwrap();
    let Response::Ik { reply, .. } = respond(&bob, &first, 2, &[], rng).unwrap() else { panic!("IK") };
    for at in 0..reply.len() {
        let mut altered = reply.clone();
        altered[at] ^= 0x40;
        // The responder's index is not part of the transcript: altered, the session is one whose data go nowhere.
        if !(5..9).contains(&at) {
            assert!(waiting.finish(&alice, &altered).is_err(), "byte {at}");
        }
        assert!(waiting.finish(&alice, &reply[..at]).is_err());
    }
    waiting.finish(&alice, &reply).unwrap();
}

#[test]
fn an_altered_or_truncated_xx_handshake_establishes_nothing() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (mut waiting, first) = Initiator::xx(1, WALL, rng);
    let Response::Xx { mut pending, reply } = respond(&bob, &first, 2, &[], rng).unwrap() else { panic!("XX") };
    for at in (0..5).chain(9..reply.len()) {
        let mut altered = reply.clone();
        altered[at] ^= 1;
        assert!(waiting.finish(&alice, &altered).is_err(), "byte {at}");
        assert!(waiting.finish(&alice, &reply[..at]).is_err());
    }
    let third = waiting.finish(&alice, &reply).unwrap().third.unwrap();
    for at in 0..third.len() {
        let mut altered = third.clone();
        altered[at] ^= 1;
        assert!(pending.finish(&altered).is_err(), "byte {at}");
        assert!(pending.finish(&third[..at]).is_err());
    }
    pending.finish(&third).unwrap();
}

#[test]
fn an_altered_or_truncated_initiation_is_refused() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let (_, ik) = Initiator::ik(&alice, bob.id(), 1, WALL, b"early", rng).unwrap();
    let (_, xx) = Initiator::xx(1, WALL, rng);
    for datagram in [ik, xx] {
        // The last 16 bytes answer a cookie; without load they mean nothing.
        for at in 0..datagram.len() - 16 {
            let mut altered = datagram.clone();
            altered[at] ^= 1;
            assert!(respond(&bob, &altered, 2, &[], rng).is_err(), "byte {at}");
            assert!(respond(&bob, &datagram[..at], 2, &[], rng).is_err());
        }
    }
}

#[test]
fn a_data_datagram_opens_once_in_any_order_and_only_unaltered() {
    for cipher in [1, 3] {
        let Pair { mut initiator, mut responder } = ik(cipher, cipher);
        let datagrams: Vec<Vec<u8>> = (0..3)
            .map(|i| {
                let mut datagram = Vec::new();
                initiator.seal(&vec![i; if i == 2 { MAX_PLAINTEXT } else { 20 }], &mut datagram);
                datagram
            })
            .collect();
        for i in [2, 0, 1] {
            for at in (0..1).chain(5..datagrams[i].len()) {
                let mut altered = datagrams[i].clone();
                altered[at] ^= 0x80;
                assert!(responder.open_in_place(&mut altered).is_err(), "byte {at}");
                assert!(responder.open_in_place(&mut datagrams[i][..at].to_vec()).is_err());
            }
            let plaintext = responder.open(Bytes::from(datagrams[i].clone())).unwrap();
            assert_eq!(plaintext[0], u8::try_from(i).unwrap());
            assert_eq!(responder.open(Bytes::from(datagrams[i].clone())), Err(OpenError::Replayed(i as u64)));
        }
        assert_eq!(responder.received(), 3);
    }
}

#[test]
fn a_datagram_of_another_session_or_reflected_is_forged() {
    let Pair { mut initiator, responder: _ } = ik(BOTH, BOTH);
    let mut other = xx();
    let mut datagram = Vec::new();
    initiator.seal(b"hello", &mut datagram);
    assert_eq!(other.responder.open(Bytes::from(datagram.clone())), Err(OpenError::Forged));
    assert_eq!(initiator.open(Bytes::from(datagram)), Err(OpenError::Forged));
}

#[test]
fn a_datagram_that_the_window_has_passed_is_too_old() {
    let Pair { mut initiator, mut responder } = ik(BOTH, BOTH);
    let mut sealed = |_| {
        let mut datagram = Vec::new();
        initiator.seal(b"x", &mut datagram);
        datagram
    };
    let first = sealed(0);
    let second = sealed(0);
    let last = (0..REPLAY_WINDOW - 1).map(sealed).last().unwrap();
    responder.open(Bytes::from(last)).unwrap();
    assert_eq!(responder.open(Bytes::from(first)), Err(OpenError::TooOld(0)));
    assert_eq!(responder.open(Bytes::from(second)), Ok(Bytes::from_static(b"x")));
}

#[test]
fn open_in_place_and_seal_into_a_roomy_buffer_do_not_move_it() {
    let Pair { mut initiator, mut responder } = ik(BOTH, BOTH);
    let mut buffer = Vec::with_capacity(MAX_DATAGRAM);
    let start = buffer.as_ptr();
    for _ in 0..3 {
        buffer.clear();
        initiator.seal(&[1; MAX_PLAINTEXT], &mut buffer);
        let plaintext = responder.open_in_place(&mut buffer).unwrap();
        assert_eq!(plaintext.as_ptr(), start.wrapping_add(DATA_HEADER));
    }
    assert_eq!((buffer.as_ptr(), buffer.capacity()), (start, MAX_DATAGRAM));
}

#[test]
fn a_session_is_due_for_replacement_by_age() {
    let Pair { initiator, .. } = ik(BOTH, BOTH);
    assert!(!initiator.should_rekey(core::time::Duration::from_secs(599)));
    assert!(initiator.should_rekey(core::time::Duration::from_secs(600)));
}

#[test]
fn debug_shows_no_key() {
    let rng = &mut rng();
    let (waiting, _) = Initiator::xx(1, WALL, rng);
    assert_eq!(format!("{waiting:?}"), "Initiator { index: 1, .. }");
    let session = format!("{:?}", ik(BOTH, BOTH).initiator);
    assert!(session.starts_with("Session { local_index: 11, remote_index: 22, cipher: Aegis128l"), "{session}");
}

/// The other end, by an independent implementation.
fn snow(protocol: &str, prologue: &[&[u8]], key: &DeviceKey, remote: Option<&DeviceKey>, initiator: bool) -> snow::HandshakeState {
    let hash = sodium::sha512(&[key.seed()]);
    let prologue = prologue.concat();
    let mut builder = snow::Builder::new(protocol.parse().unwrap()).local_private_key(&hash[..32]).unwrap().prologue(&prologue).unwrap();
    if let Some(remote) = remote {
        builder = builder.remote_public_key(remote.exchange_public()).unwrap();
    }
    if initiator { builder.build_initiator().unwrap() } else { builder.build_responder().unwrap() }
}

fn identity(key: &DeviceKey, rest: &[u8]) -> Vec<u8> {
    [&key.id().0[..], rest].concat()
}

/// Our end exchanges data with snow's, both under ChaCha20-Poly1305.
fn talk_with_snow(mut ours: Session, theirs: snow::StatelessTransportState) {
    let mut buffer = [0; 2000];
    for counter in 0..5 {
        let mut datagram = Vec::new();
        ours.seal(b"from us", &mut datagram);
        let length = theirs.read_message(counter, &datagram[DATA_HEADER..], &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"from us");
        let length = theirs.write_message(counter, b"from snow", &mut buffer).unwrap();
        let mut datagram = header(DatagramKind::Data, &[ours.local_index()], 100);
        datagram.extend_from_slice(&counter.to_be_bytes());
        datagram.extend_from_slice(&buffer[..length]);
        assert_eq!(ours.open(Bytes::from(datagram)).unwrap(), &b"from snow"[..]);
    }
}

#[test]
fn snow_answers_our_ik() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let mut theirs = snow(IK, &[PROLOGUE, &bob.id().0], &bob, None, false);
    let mut buffer = [0; 2000];
    let (mut waiting, first) = Initiator::ik(&alice, bob.id(), 7, WALL, b"early", rng).unwrap();
    let length = theirs.read_message(&first[5..first.len() - MACS], &mut buffer).unwrap();
    assert_eq!(&buffer[..32], &alice.id().0);
    assert_eq!(&buffer[39..length], b"early");
    assert_eq!(theirs.get_remote_static(), Some(&alice.exchange_public()[..]));
    let length = theirs.write_message(&[1, 42], &mut buffer).unwrap();
    let mut reply = header(DatagramKind::IkResponse, &[7, 9], 100);
    reply.extend_from_slice(&buffer[..length]);
    let finished = waiting.finish(&alice, &reply).unwrap();
    assert_eq!(finished.payload, [42]);
    talk_with_snow(finished.session, theirs.into_stateless_transport_mode().unwrap());
}

#[test]
fn we_answer_snows_ik() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let mut theirs = snow(IK, &[PROLOGUE, &bob.id().0], &alice, Some(&bob), true);
    let mut buffer = [0; 2000];
    let length = theirs.write_message(&identity(&alice, &[0, 0, 0, 0, 0, 5, 1]), &mut buffer).unwrap();
    let mut first = header(DatagramKind::IkInitiation, &[7], 200);
    first.extend_from_slice(&buffer[..length]);
    cookie::append_macs(&bob.id(), &mut first);
    let Response::Ik { remote, timestamp, session, reply, .. } = respond(&bob, &first, 9, b"hi", rng).unwrap() else { panic!("IK") };
    assert_eq!((remote, timestamp), (alice.id(), Timestamp(5)));
    let length = theirs.read_message(&reply[9..], &mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\x01hi");
    talk_with_snow(session, theirs.into_stateless_transport_mode().unwrap());
}

#[test]
fn snow_answers_our_xx() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let mut theirs = snow(XX, &[PROLOGUE], &bob, None, false);
    let mut buffer = [0; 2000];
    let (mut waiting, first) = Initiator::xx(7, WALL, rng);
    assert_eq!(theirs.read_message(&first[5..first.len() - MACS], &mut buffer).unwrap(), 1);
    let length = theirs.write_message(&identity(&bob, &[1]), &mut buffer).unwrap();
    let mut reply = header(DatagramKind::XxSecond, &[7, 9], 200);
    reply.extend_from_slice(&buffer[..length]);
    let finished = waiting.finish(&alice, &reply).unwrap();
    assert_eq!(finished.remote, bob.id());
    let length = theirs.read_message(&finished.third.unwrap()[5..], &mut buffer).unwrap();
    assert_eq!(&buffer[..length], &identity(&alice, &WALL.0.to_be_bytes()[2..])[..]);
    talk_with_snow(finished.session, theirs.into_stateless_transport_mode().unwrap());
}

#[test]
fn we_answer_snows_xx() {
    let (alice, bob, rng) = (key(1), key(2), &mut rng());
    let mut theirs = snow(XX, &[PROLOGUE], &alice, None, true);
    let mut buffer = [0; 2000];
    let length = theirs.write_message(&[1], &mut buffer).unwrap();
    let mut first = header(DatagramKind::XxFirst, &[7], 200);
    first.extend_from_slice(&buffer[..length]);
    cookie::append_macs(&ANYONE, &mut first);
    let Response::Xx { mut pending, reply } = respond(&bob, &first, 9, &[], rng).unwrap() else { panic!("XX") };
    theirs.read_message(&reply[9..], &mut buffer).unwrap();
    let length = theirs.write_message(&identity(&alice, &[0, 0, 0, 0, 0, 5]), &mut buffer).unwrap();
    let mut third = header(DatagramKind::XxThird, &[9], 200);
    third.extend_from_slice(&buffer[..length]);
    let (remote, session, timestamp) = pending.finish(&third).unwrap();
    assert_eq!((remote, timestamp), (alice.id(), Timestamp(5)));
    talk_with_snow(session, theirs.into_stateless_transport_mode().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_datagrams_never_panic_and_never_establish(kind in 0u8..12, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let (alice, bob, rng) = (key(1), key(2), &mut rng());
        let datagram = [&[kind][..], &tail].concat();
        let _ = receiver_index(&datagram);
        prop_assert!(respond(&bob, &datagram, 2, &[], rng).is_err());
        let index = receiver_index(&datagram).unwrap_or(0);
        let (mut ik, _) = Initiator::ik(&alice, bob.id(), index, WALL, &[], rng).unwrap();
        let (mut xx, first) = Initiator::xx(index, WALL, rng);
        prop_assert!(ik.finish(&alice, &datagram).is_err() && xx.finish(&alice, &datagram).is_err());
        prop_assert!(ik.cookie(&datagram).is_err() && xx.cookie(&datagram).is_err());
        let Response::Xx { mut pending, .. } = respond(&bob, &first, index, &[], rng).unwrap() else { panic!("XX") };
        prop_assert!(pending.finish(&datagram).is_err());
    }

    #[test]
    fn random_data_datagrams_never_open(tail in prop::collection::vec(any::<u8>(), 0..1300)) {
        let mut pair = ik(BOTH, BOTH);
        let datagram = [&[4][..], &tail].concat();
        prop_assert!(pair.responder.open(Bytes::from(datagram)).is_err());
        prop_assert!(!pair.responder.confirmed());
    }

    #[test]
    fn a_properly_coded_initiation_of_garbage_is_refused(body in prop::collection::vec(any::<u8>(), 4..300), xx: bool) {
        let (bob, rng) = (key(2), &mut rng());
        let (kind, responder) = if xx { (DatagramKind::XxFirst, ANYONE) } else { (DatagramKind::IkInitiation, bob.id()) };
        let mut datagram = [&[kind as u8][..], &body].concat();
        cookie::append_macs(&responder, &mut datagram);
        // 33 bytes behind the index are a valid first XX datagram, whatever they are.
        prop_assert!(respond(&bob, &datagram, 2, &[], rng).is_err() || (xx && body.len() == 37));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first datagrams of both sides: a short one, an empty one, and the longest.
fn data_vector(mut pair: Pair) -> serde_json::Value {
    let plaintexts = [b"hello".to_vec(), Vec::new(), vec![7; MAX_PLAINTEXT]];
    let mut sealed = |from_initiator: bool| {
        plaintexts
            .iter()
            .map(|plaintext| {
                let (sender, receiver) =
                    if from_initiator { (&mut pair.initiator, &mut pair.responder) } else { (&mut pair.responder, &mut pair.initiator) };
                let mut datagram = Vec::new();
                sender.seal(plaintext, &mut datagram);
                assert_eq!(receiver.open(Bytes::from(datagram.clone())).unwrap(), plaintext);
                serde_json::json!({ "plaintext": hex(plaintext), "datagram": hex(&datagram) })
            })
            .collect::<Vec<_>>()
    };
    serde_json::json!({ "from_initiator": sealed(true), "from_responder": sealed(false) })
}

pub(crate) fn ik_vector(cipher: Cipher) -> serde_json::Value {
    let (alice, bob, rng) = (key(1), key(2), &mut crate::vectors::Steps::new());
    let (mut waiting, first) = Initiator::ik_offering(BOTH, &alice, bob.id(), 11, WALL, b"early", rng).unwrap();
    let supported = if cipher == Cipher::Aegis128l { BOTH } else { 1 };
    let Response::Ik { session, reply, .. } = respond_offering(supported, &bob, &first, 22, b"reply", rng).unwrap() else { panic!("IK") };
    let finished = waiting.finish(&alice, &reply).unwrap();
    let data = data_vector(Pair { initiator: finished.session, responder: session });
    serde_json::json!({ "initiation": hex(&first), "response": hex(&reply), "data": data })
}

pub(crate) fn xx_vector(cipher: Cipher) -> serde_json::Value {
    let (alice, bob, rng) = (key(1), key(2), &mut crate::vectors::Steps::new());
    let (mut waiting, first) = Initiator::xx_offering(BOTH, 11, WALL, rng);
    let supported = if cipher == Cipher::Aegis128l { BOTH } else { 1 };
    let Response::Xx { mut pending, reply } = respond_offering(supported, &bob, &first, 22, b"reply", rng).unwrap() else { panic!("XX") };
    let finished = waiting.finish(&alice, &reply).unwrap();
    let third = finished.third.unwrap();
    let (_, responder, _) = pending.finish(&third).unwrap();
    let data = data_vector(Pair { initiator: finished.session, responder });
    serde_json::json!({ "first": hex(&first), "second": hex(&reply), "third": hex(&third), "data": data })
}
