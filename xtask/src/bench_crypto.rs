//! Figures of sessions: what one costs beside the cipher alone, and what a handshake costs.

use std::hint::black_box;
use std::time::Instant;

use peers_crypto::{DeviceKey, Initiator, Response, Session, bare, respond};
use peers_wire::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};

/// Measures a session between two devices that know each other.
///
/// - returns: `C1`, sealing and opening 1 KiB over the two libsodium calls alone, with the cipher that this processor agrees on; `C2_ms`, both ends of an IK handshake
pub(crate) fn run() -> Value {
    let (alice, bob) = (DeviceKey::from_seed(&[1; 32]), DeviceKey::from_seed(&[2; 32]));
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (mut sending, mut receiving) = handshake(&alice, &bob, &mut rng);
    let cipher = sending.cipher();
    let plaintext = [7; bare::LENGTH];
    let mut datagram = Vec::with_capacity(1200);
    let mut buffer = [0; size_of::<bare::Buffer>()];
    // Taken in turns, so that what else the machine does falls on both alike.
    const BATCHES: usize = 1001;
    let (mut ours, mut alone): (Vec<f64>, Vec<f64>) = (0..BATCHES)
        .map(|_| {
            let ours = time(500, || {
                datagram.clear();
                sending.seal(black_box(&plaintext), &mut datagram);
                assert!(receiving.open_in_place(&mut datagram).is_ok());
            });
            (ours, time(500, || assert!(bare::seal_and_open(cipher, black_box(&plaintext), black_box(&mut buffer)))))
        })
        .unzip();
    let mut handshakes: Vec<f64> = (0..501).map(|_| time(4, || drop(black_box(handshake(&alice, &bob, &mut rng))))).collect();
    json!({
        "C1": rounded(median(&mut ours) / median(&mut alone)),
        "C2_ms": rounded(median(&mut handshakes) * 1e3),
    })
}

fn handshake(alice: &DeviceKey, bob: &DeviceKey, rng: &mut ChaCha20Rng) -> (Session, Session) {
    let (mut waiting, first) = Initiator::ik(alice, bob.id(), 1, Timestamp(1), &[], rng).expect("a valid key");
    let Ok(Response::Ik { session, reply, .. }) = respond(bob, &first, 2, &[], rng) else { panic!("a valid initiation") };
    (waiting.finish(alice, &reply).expect("a valid response").session, session)
}

/// Seconds that one of `calls` calls takes.
fn time(calls: u32, mut operation: impl FnMut()) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "measures")]
    let start = Instant::now();
    for _ in 0..calls {
        operation();
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
