//! Sessions of Peers and of `snow`: the same handshake, IK with ChaChaPoly and BLAKE2b, between peers that know each other, and datagrams of 1 KiB.

use std::hint::black_box;

use peers_crypto::{DeviceKey, Initiator, Response, Session, bare, respond};
use peers_wire::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};
use snow::{Builder, Keypair, StatelessTransportState};

use crate::{median, rounded, time};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2b";

pub fn run() -> Value {
    let (alice, bob, rng) = (DeviceKey::from_seed(&[1; 32]), DeviceKey::from_seed(&[2; 32]), &mut ChaCha20Rng::seed_from_u64(1));
    let keys = [(); 2].map(|()| Builder::new(PATTERN.parse().expect("known")).generate_keypair().expect("random"));
    let ((mut sending, mut receiving), theirs) = (peers(&alice, &bob, rng), snow(&keys));
    let (plaintext, cipher) = ([7; bare::LENGTH], sending.cipher());
    let (mut datagram, mut buffer, mut sealed, mut opened) = (Vec::with_capacity(1200), [0; bare::LENGTH + 32], [0; 1200], [0; 1200]);
    let mut counter = 0;
    let (mut ours, mut snows, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..501 {
        ours.push(time(100, || {
            datagram.clear();
            sending.seal(black_box(&plaintext), &mut datagram);
            assert!(receiving.open_in_place(&mut datagram).is_ok());
        }));
        snows.push(time(100, || {
            let length = theirs.0.write_message(counter, black_box(&plaintext), &mut sealed).expect("room");
            assert_eq!(theirs.1.read_message(counter, &sealed[..length], &mut opened), Ok(bare::LENGTH));
            counter += 1;
        }));
        alone.push(time(100, || assert!(bare::seal_and_open(cipher, black_box(&plaintext), black_box(&mut buffer)))));
    }
    let (mut our_handshakes, mut snows_handshakes) = (Vec::new(), Vec::new());
    for _ in 0..501 {
        our_handshakes.push(time(2, || drop(black_box(peers(&alice, &bob, rng)))));
        snows_handshakes.push(time(2, || drop(black_box(snow(&keys)))));
    }
    let alone = median(alone);
    let figures = |datagrams, handshakes| {
        let datagram = median(datagrams);
        json!({ "C1": rounded(datagram / alone), "seal_and_open_us": rounded(datagram * 1e6), "C2_ms": rounded(median(handshakes) * 1e3) })
    };
    json!({ "peers": figures(ours, our_handshakes), "snow": figures(snows, snows_handshakes) })
}

fn peers(alice: &DeviceKey, bob: &DeviceKey, rng: &mut ChaCha20Rng) -> (Session, Session) {
    let (mut waiting, first) = Initiator::ik(alice, bob.id(), 1, Timestamp(1), &[], rng).expect("a valid key");
    let Ok(Response::Ik { session, reply, .. }) = respond(bob, &first, 2, &[], rng) else { panic!("a valid initiation") };
    (waiting.finish(alice, &reply).expect("a valid response").session, session)
}

fn snow([alice, bob]: &[Keypair; 2]) -> (StatelessTransportState, StatelessTransportState) {
    let builder = |key| Builder::new(PATTERN.parse().expect("known")).local_private_key(key).expect("a key");
    let mut initiator = builder(&alice.private).remote_public_key(&bob.public).expect("a key").build_initiator().expect("complete");
    let mut responder = builder(&bob.private).build_responder().expect("complete");
    // A payload as long as ours.
    let (mut message, mut payload) = ([0; 300], [0; 300]);
    let length = initiator.write_message(&[0; 39], &mut message).expect("room");
    responder.read_message(&message[..length], &mut payload).expect("genuine");
    let length = responder.write_message(&[0], &mut message).expect("room");
    initiator.read_message(&message[..length], &mut payload).expect("genuine");
    (initiator.into_stateless_transport_mode().expect("finished"), responder.into_stateless_transport_mode().expect("finished"))
}
