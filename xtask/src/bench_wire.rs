//! Figures of the frame: bytes of framing, and the time to read and write a header.

use std::hint::black_box;
use std::time::Instant;

use peers_wire::{DEFAULT_LIFETIME, Header, Link, MAX_PAYLOAD, MAX_POSTAGE, MessageHeader, Signature, Timestamp, TopicId};
use serde_json::{Value, json};

/// Measures the frame of a signed publish of 1024 bytes.
///
/// - returns: `W1_bytes`, bytes beyond the payload; `W2_decode_ns` and `W2_encode_ns`, the header's time without any hash
pub(crate) fn run() -> Value {
    let header = MessageHeader {
        postage: MAX_POSTAGE,
        created: Timestamp(1_700_000_000_000),
        lifetime: DEFAULT_LIFETIME,
        fragments: 0,
        topic: TopicId([1; 32]),
        previous: Link([2; 24]),
        signature: Signature([3; 64]),
    };
    let packet = header.packet(&[7; MAX_PAYLOAD]).expect("every field is in range");
    let bytes = packet.as_bytes();
    json!({
        "W1_bytes": bytes.len() - MAX_PAYLOAD,
        "W2_decode_ns": median_ns(|| Header::decode(black_box(bytes)).is_ok()),
        "W2_encode_ns": median_ns(|| black_box(&header).encode()),
    })
}

/// The median over many batches of the time that one call takes, in nanoseconds with one decimal.
fn median_ns<T>(mut operation: impl FnMut() -> T) -> f64 {
    const BATCHES: usize = 501;
    const CALLS: u32 = 10_000;
    let mut times: Vec<f64> = (0..BATCHES)
        .map(|_| {
            #[expect(clippy::disallowed_methods, reason = "measures")]
            let start = Instant::now();
            for _ in 0..CALLS {
                black_box(operation());
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[BATCHES / 2] * 10.0).round() / 10.0
}
