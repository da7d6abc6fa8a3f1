//! Reconciliation by Peers, by `negentropy` and by `riblt`: the same sets of packets, until one of the two knows what both are missing.

use std::time::Duration;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use peers_wire::Packet;
use riblt::{RatelessIBLT, Symbol, UnmanagedRatelessIBLT};
use serde_json::{Value, json};

use crate::reconciling::{median_cost, middle, processor_time, sets};
use crate::rounded;

/// Packets in both sets or one of them, and how many of these each lacks.
const SIZES: [(u32, u32); 4] = [(6604, 66), (6604, 6), (6604, 1), (16_384, 80)];

struct Cost {
    bytes: usize,
    round_trips: usize,
    /// On both sides together; what can be prepared without knowing the other is not counted.
    cpu: Duration,
}

pub fn run() -> Value {
    let sizes = SIZES.map(|(both, each)| {
        let peers = median_cost(both, each);
        json!({
            "packets": both,
            "missing_at_each": each,
            "peers": { "bytes": peers.bytes_until_one_knows, "round_trips": peers.round_trips(), "cpu_ms": peers.cpu_ms() },
            "negentropy_by_time": figures(both, each, |sides| negentropy(sides, each, true)),
            "negentropy_by_id": figures(both, each, |sides| negentropy(sides, each, false)),
            "riblt": figures(both, each, |sides| riblt(sides, each)),
        })
    });
    json!(sizes)
}

fn figures(both: u32, each: u32, measure: impl Fn([Vec<Packet>; 2]) -> Cost) -> Value {
    let costs: Vec<Cost> = sets(both, each, measure).collect();
    let cpu = middle(&costs, |cost| cost.cpu).as_secs_f64() * 1e3;
    json!({ "bytes": middle(&costs, |cost| cost.bytes), "round_trips": middle(&costs, |cost| cost.round_trips), "cpu_ms": rounded(cpu) })
}

/// Both sides in order of time and id, as its users keep them, or of id alone.
fn negentropy(sides: [Vec<Packet>; 2], each: u32, by_time: bool) -> Cost {
    let [ours, theirs] = sides.map(|packets| {
        let mut storage = NegentropyStorageVector::with_capacity(packets.len());
        for packet in packets {
            let time = if by_time { packet.created().0 } else { 0 };
            storage.insert(time, Id::from_byte_array(packet.id().0)).expect("not sealed");
        }
        storage.seal().expect("not sealed");
        storage
    });
    let (mut client, mut server) = (Negentropy::borrowed(&ours, 0).expect("no limit"), Negentropy::borrowed(&theirs, 0).expect("no limit"));
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut cost = Cost { bytes: 0, round_trips: 0, cpu: Duration::ZERO };
    let start = processor_time();
    let mut question = Some(client.initiate().expect("the first"));
    while let Some(asked) = question {
        let answer = server.reconcile(&asked).expect("genuine");
        cost.bytes += asked.len() + answer.len();
        cost.round_trips += 1;
        question = client.reconcile_with_ids(&answer, &mut have, &mut need).expect("genuine");
    }
    cost.cpu = processor_time() - start;
    assert_eq!((have.len(), need.len()), (each as usize, each as usize));
    cost
}

/// The first 8 bytes of an id.
#[derive(Debug, Clone, Copy)]
struct Short([u8; 8]);

impl Symbol for Short {
    const BYTE_ARRAY_LENGTH: usize = 8;

    fn encode_to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn decode_from_bytes(bytes: &Vec<u8>) -> Self {
        Self(bytes[..].try_into().expect("8 bytes"))
    }
}

/// As many symbols as it takes and not one more, of 24 bytes as the crate holds them: sum, hash and count, 8 bytes each. Symbols of both sets are at hand.
fn riblt(sides: [Vec<Packet>; 2], each: u32) -> Cost {
    let shorts =
        |packets: &Vec<Packet>| packets.iter().map(|packet| Short(*packet.id().0.first_chunk().expect("32 bytes"))).collect::<Vec<_>>();
    let (mut ours, mut theirs) = (RatelessIBLT::new(shorts(&sides[0])), RatelessIBLT::new(shorts(&sides[1])));
    let mut decode = |count: usize| {
        let mut came = UnmanagedRatelessIBLT::new();
        (0..count).for_each(|index| came.add_coded_symbol(&theirs.get_coded_symbol(index)));
        let mut difference = ours.collapse(&came);
        let found = difference.peel_all_symbols().len();
        (found == 2 * each as usize && difference.is_empty()).then_some(found)
    };
    let needed = (2 * each as usize..).find(|count| decode(*count).is_some()).expect("it ends");
    let start = processor_time();
    decode(needed);
    Cost { bytes: needed * 24, round_trips: 1, cpu: processor_time() - start }
}
