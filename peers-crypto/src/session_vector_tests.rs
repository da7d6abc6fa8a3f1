//! The vectors of sessions computed by another implementation of Noise, `snow`, from what docs/PROTOCOL.md says and nothing else of ours but the hash.

use serde_json::Value;
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::sodium::Blake2b;
use crate::{DeviceKey, hash};

struct Device {
    id: [u8; 32],
    secret: [u8; 32],
    public: [u8; 32],
}

/// The X25519 secret of an Ed25519 seed (RFC 8032, section 5.1.5): the first half of its SHA-512.
fn device(seed: &Value) -> Device {
    let key = DeviceKey::from_seed(&hex(seed).try_into().unwrap());
    let secret = crate::sodium::sha512(&[&hex(seed)]).first_chunk().copied().unwrap();
    Device { id: key.id().0, secret, public: *key.exchange_public() }
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    text.as_chunks::<2>().0.iter().map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// One end of a handshake, with the ephemeral key of the vectors.
fn end(pattern: &str, prologue: &[u8], device: &Device, remote: Option<&Device>, ephemeral: &[u8], initiator: bool) -> HandshakeState {
    let builder = Builder::new(format!("Noise_{pattern}_25519_ChaChaPoly_BLAKE2b").parse().unwrap());
    let builder =
        builder.local_private_key(&device.secret).unwrap().prologue(prologue).unwrap().fixed_ephemeral_key_for_testing_only(ephemeral);
    let builder = match remote {
        Some(remote) => builder.remote_public_key(&remote.public).unwrap(),
        None => builder,
    };
    if initiator { builder.build_initiator().unwrap() } else { builder.build_responder().unwrap() }
}

/// The next message of `from`, which `to` takes.
fn pass(from: &mut HandshakeState, to: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let (mut message, mut read) = (vec![0; 2000], vec![0; 2000]);
    let length = from.write_message(payload, &mut message).unwrap();
    message.truncate(length);
    let length = to.read_message(&message, &mut read).unwrap();
    assert_eq!(&read[..length], payload);
    message
}

fn mac16(key: &[u8], data: &[u8]) -> [u8; 16] {
    let mut mac = Blake2b::new(key);
    mac.update(data);
    mac.finish()
}

/// A first datagram: with mac1, and zeros for mac2.
fn first(kind: u8, index: u32, message: &[u8], responder: &[u8; 32]) -> Vec<u8> {
    let body = [&[kind][..], &index.to_be_bytes(), message].concat();
    let mac1 = mac16(&hash(&[b"peers mac1", responder]), &body);
    [&body[..], &mac1, &[0; 16]].concat()
}

fn data(transport: &StatelessTransportState, index: u32, vectors: &Value) {
    for (counter, vector) in (0u64..).zip(vectors.as_array().unwrap()) {
        let mut sealed = vec![0; 2000];
        let length = transport.write_message(counter, &hex(&vector["plaintext"]), &mut sealed).unwrap();
        let datagram = [&[4][..], &index.to_be_bytes(), &counter.to_be_bytes(), &sealed[..length]].concat();
        assert_eq!(datagram, hex(&vector["datagram"]), "datagram {counter}");
    }
}

#[test]
fn snow_computes_the_vectors_of_ik_and_xx() {
    let file: Value = serde_json::from_str(include_str!("../vectors/sessions.json")).unwrap();
    let (alice, bob) = (device(&file["initiator_seed"]), device(&file["responder_seed"]));
    let ephemerals = [hex(&file["initiator_ephemeral"]), hex(&file["responder_ephemeral"])];
    let index = |name: &str| u32::try_from(file[name].as_u64().unwrap()).unwrap();
    let (alices, bobs) = (index("initiator_index"), index("responder_index"));
    let time = &file["time"].as_u64().unwrap().to_be_bytes()[2..];
    let (early, payload) = (hex(&file["early"]), hex(&file["reply_payload"]));
    for case in file["cases"].as_array().unwrap() {
        let choice = if case["cipher"] == "Aegis128l" { 2 } else { 1 };
        let answer = |index_after: u8, message: &[u8]| [&[index_after][..], &alices.to_be_bytes(), &bobs.to_be_bytes(), message].concat();

        let prologue = [&b"peers 1"[..], &bob.id].concat();
        let mut ends =
            [end("IK", &prologue, &alice, Some(&bob), &ephemerals[0], true), end("IK", &prologue, &bob, None, &ephemerals[1], false)];
        let [initiator, responder] = &mut ends;
        let message = pass(initiator, responder, &[&alice.id[..], time, &[3], &early].concat());
        assert_eq!(first(1, alices, &message, &bob.id), hex(&case["ik"]["initiation"]));
        let message = pass(responder, initiator, &[&[choice][..], &payload].concat());
        assert_eq!(answer(2, &message), hex(&case["ik"]["response"]));
        let ik = ends.map(|end| end.into_stateless_transport_mode().unwrap());

        let mut ends =
            [end("XX", b"peers 1", &alice, None, &ephemerals[0], true), end("XX", b"peers 1", &bob, None, &ephemerals[1], false)];
        let [initiator, responder] = &mut ends;
        let message = pass(initiator, responder, &[3]);
        assert_eq!(first(6, alices, &message, &[0; 32]), hex(&case["xx"]["first"]));
        let message = pass(responder, initiator, &[&bob.id[..], &[choice], &payload].concat());
        assert_eq!(answer(7, &message), hex(&case["xx"]["second"]));
        let message = pass(initiator, responder, &[&alice.id[..], time].concat());
        assert_eq!([&[8][..], &bobs.to_be_bytes(), &message].concat(), hex(&case["xx"]["third"]));
        let xx = ends.map(|end| end.into_stateless_transport_mode().unwrap());

        // What snow knows; AEGIS is checked against its own vectors.
        if choice == 1 {
            for (ends, vectors) in [(ik, &case["ik"]["data"]), (xx, &case["xx"]["data"])] {
                data(&ends[0], bobs, &vectors["from_initiator"]);
                data(&ends[1], alices, &vectors["from_responder"]);
            }
        }
    }
}
