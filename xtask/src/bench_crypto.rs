//! Figures of keys and sessions: what a datagram costs beside the cipher alone, what a handshake costs, and how often the rest can be done in a second.

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use peers_crypto::{
    Admission, DeviceKey, Domain, Draft, Gate, Initiator, Response, Session, TopicKey, bare, check_publisher, open_from, respond, seal_to,
    verify,
};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};

/// Measures on one thread, in time of the processor; medians.
///
/// - returns: `C1`, sealing and opening 1 KiB over the two libsodium calls alone, with the cipher that this processor agrees on; `C2_ms`, both ends of an IK handshake between peers
///   that know each other, and `C2_first_ms` between two whose keys are used for the first time; how often a second each operation can be done, on 1 KiB
///   (a message: 512 bytes, one packet)
pub(crate) fn run() -> Value {
    let (alice, bob) = (DeviceKey::from_seed(&[1; 32]), DeviceKey::from_seed(&[2; 32]));
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut figures = Map::new();
    session(&alice, &bob, &mut rng, &mut figures);
    let mut handshakes: Vec<f64> = (0..501).map(|_| time(4, || drop(black_box(handshake(&alice, &bob, &mut rng))))).collect();
    let both_ends = median(&mut handshakes);
    let strangers: Vec<_> = (0..101).map(|_| (DeviceKey::generate(&mut rng), DeviceKey::generate(&mut rng))).collect();
    let mut first: Vec<f64> = strangers.iter().map(|(a, b)| time(1, || drop(black_box(handshake(a, b, &mut rng))))).collect();
    figures.insert("C2_ms".into(), rounded(both_ends * 1e3));
    figures.insert("C2_first_ms".into(), rounded(median(&mut first) * 1e3));
    rates(&alice, &bob, &mut rng, &mut figures);
    Value::Object(figures)
}

/// `C1`, and the rates of sealing and opening apart.
fn session(alice: &DeviceKey, bob: &DeviceKey, rng: &mut ChaCha20Rng, figures: &mut Map<String, Value>) {
    let (mut sending, mut receiving) = handshake(alice, bob, rng);
    let cipher = sending.cipher();
    let plaintext = [7; bare::LENGTH];
    let mut datagram = Vec::with_capacity(1200);
    let mut buffer = [0; size_of::<bare::Buffer>()];
    const BATCH: u32 = 500;
    let [mut ours, mut alone, mut seal, mut open] = [const { Vec::new() }; 4];
    // Taken in turns, so that what else the machine does falls on all alike.
    for _ in 0..1001 {
        ours.push(time(BATCH, || {
            datagram.clear();
            sending.seal(black_box(&plaintext), &mut datagram);
            assert!(receiving.open_in_place(&mut datagram).is_ok());
        }));
        alone.push(time(BATCH, || assert!(bare::seal_and_open(cipher, black_box(&plaintext), black_box(&mut buffer)))));
        let mut datagrams: Vec<_> = (0..BATCH).map(|_| Vec::with_capacity(1200)).collect();
        let mut next = datagrams.iter_mut();
        seal.push(time(BATCH, || sending.seal(black_box(&plaintext), next.next().expect("as many"))));
        let mut next = datagrams.iter_mut();
        open.push(time(BATCH, || assert!(receiving.open_in_place(next.next().expect("as many")).is_ok())));
    }
    figures.insert("C1".into(), rounded(median(&mut ours) / median(&mut alone)));
    figures.insert("session_seal_per_s".into(), per_second(&mut seal));
    figures.insert("session_open_per_s".into(), per_second(&mut open));
}

/// How often a second the rest can be done.
fn rates(alice: &DeviceKey, bob: &DeviceKey, rng: &mut ChaCha20Rng, figures: &mut Map<String, Value>) {
    let mut rate = |name: &str, operation: &mut dyn FnMut()| {
        let mut times: Vec<f64> = (0..201).map(|_| time(10, &mut *operation)).collect();
        figures.insert(format!("{name}_per_s"), per_second(&mut times));
    };
    let content = [7; 1024];
    rate("handshake_ik", &mut || drop(black_box(handshake(alice, bob, rng))));
    rate("initiation", &mut || drop(black_box(Initiator::ik(alice, bob.id(), 1, Timestamp(1), &[], rng).expect("a valid key"))));
    rate("handshake_xx", &mut || {
        let (mut waiting, first) = Initiator::xx(1, Timestamp(1), rng);
        let Ok(Response::Xx { mut pending, reply }) = respond(bob, &first, 2, &[], rng) else { panic!("a valid first datagram") };
        let third = waiting.finish(alice, &reply).expect("a valid answer").third.expect("XX has three");
        pending.finish(&third).expect("valid");
    });
    gate(alice, bob, rng, &mut rate);
    let signature = alice.sign(Domain::AUTHOR, &[&content]);
    rate("sign", &mut || {
        black_box(alice.sign(Domain::AUTHOR, &[black_box(&content)]));
    });
    rate("verify", &mut || verify(&alice.id(), Domain::AUTHOR, &[black_box(&content)], &signature).expect("genuine"));
    let topic = TopicKey::generate(rng);
    let draft = Draft { created: Timestamp(1), lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
    let packets = topic.seal(alice, draft, &content[..512], rng).expect("small enough");
    let (head, read) = (&packets[0], topic.read_key());
    rate("message_seal", &mut || drop(black_box(topic.seal(alice, draft, black_box(&content[..512]), rng).expect("small enough"))));
    rate("message_open", &mut || drop(black_box(read.open(head, head.payload()).expect("genuine"))));
    rate("check_publisher", &mut || check_publisher(black_box(head)).expect("genuine"));
    let sealed = seal_to(alice, bob.id(), "bench", &content, rng).expect("a valid key");
    rate("seal_to", &mut || drop(black_box(seal_to(alice, bob.id(), "bench", black_box(&content), rng).expect("a valid key"))));
    rate("open_from", &mut || drop(black_box(open_from(bob, "bench", black_box(&sealed)).expect("genuine"))));
}

/// What a flood of made-up first datagrams costs: to make one that addresses `bob`, to be told to come back with a cookie, to be let in with one, to be refused.
fn gate(alice: &DeviceKey, bob: &DeviceKey, rng: &mut ChaCha20Rng, rate: &mut impl FnMut(&str, &mut dyn FnMut())) {
    let (source, now) = (SocketAddr::from(([127, 0, 0, 1], 1)), start());
    let (mut waiting, first) = Initiator::ik(alice, bob.id(), 1, Timestamp(1), &[], rng).expect("a valid key");
    let mut gate = Gate::new(bob);
    while gate.admit(now, source, &first, rng) == Admission::Admit {}
    rate("initiation_forged", &mut || {
        black_box(bare::coded(&bob.id(), black_box(&first)));
    });
    let mut reply = Vec::new();
    rate("initiation_challenged", &mut || {
        let Admission::Challenge(cookie) = gate.admit(now, source, black_box(&first), rng) else { panic!("under load") };
        reply = cookie;
    });
    waiting.cookie(&reply).expect("genuine");
    // Of one network only so many in a second: counted with those that are refused for it, which cost as much.
    rate("initiation_proven", &mut || {
        assert!(matches!(gate.admit(now, source, black_box(waiting.datagram()), rng), Admission::Admit | Admission::Limit))
    });
    let mut refused = first;
    refused[0x20] ^= 1;
    rate("initiation_refused", &mut || assert_eq!(gate.admit(now, source, black_box(&refused), rng), Admission::Refuse));
}

#[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor; the gate only counts from it")]
fn start() -> Instant {
    Instant::now()
}

/// The same beside others, all built and measured in the workspace `tests/versus`.
///
/// - returns: of `crypto`, for `peers` and `snow`: `C1`, here over the same two libsodium calls for both; `seal_and_open_us` of 1 KiB; `C2_ms`;
///   of `cache`, for `peers`, `negentropy` and `riblt` by their size: what it takes until one of two knows what both are missing
///
/// # Errors
/// It does not build, or does not run.
pub(crate) fn versus(layer: &str) -> Result<Value> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("tests").join("versus").join("Cargo.toml");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--quiet", "--release", "--locked", "--manifest-path"])
        .arg(&manifest)
        .args(["--", layer])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "{} does not build or run", manifest.display());
    serde_json::from_slice(&output.stdout).context("the other implementation printed something else than figures")
}

fn handshake(alice: &DeviceKey, bob: &DeviceKey, rng: &mut ChaCha20Rng) -> (Session, Session) {
    let (mut waiting, first) = Initiator::ik(alice, bob.id(), 1, Timestamp(1), &[], rng).expect("a valid key");
    let Ok(Response::Ik { session, reply, .. }) = respond(bob, &first, 2, &[], rng) else { panic!("a valid initiation") };
    (waiting.finish(alice, &reply).expect("a valid response").session, session)
}

/// Seconds of this thread on the processor that one of `calls` calls takes.
pub(crate) fn time(calls: u32, mut operation: impl FnMut()) -> f64 {
    let start = processor_time();
    for _ in 0..calls {
        operation();
    }
    (processor_time() - start) / f64::from(calls)
}

pub(crate) fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn per_second(times: &mut [f64]) -> Value {
    json!((1.0 / median(times)).round())
}

fn rounded(value: f64) -> Value {
    json!((value * 1e3).round() / 1e3)
}
