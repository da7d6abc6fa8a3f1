//! Bodies of the fuzz targets: each takes any bytes and panics where a law is broken.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    Complete, Config, Header, Link, MAX_PACKET, MAX_POSTAGE, MessageHeader, Packet, Reader, Reassembly, Signature, Timestamp, TopicId,
    payload_digest, split,
};

/// What decodes is the one encoding of what it says, and its id is computed.
pub fn wire_packet(data: &[u8]) {
    let Ok(packet) = Packet::decode(Bytes::copy_from_slice(data)) else {
        assert!(Header::decode(data).is_err());
        return;
    };
    assert!(data.len() <= MAX_PACKET);
    assert_eq!(&packet.as_bytes()[..], data);
    let (header, payload) = Header::decode(data).expect("a packet has a header");
    assert_eq!((packet.header(), packet.payload()), (header, payload));
    assert_eq!(packet.payload_digest(), &payload_digest(payload));
    let (again, topic, created, lifetime, postage) = match header {
        Header::Message(header) => {
            assert_eq!(packet.signing_digest(), Some(header.signing_digest(payload)));
            assert_eq!(packet.previous().unwrap_or(Link::NONE), header.previous);
            (header.packet(payload), header.topic, header.created, header.lifetime, header.postage)
        }
        Header::Fragment(header) => {
            assert_eq!((packet.signing_digest(), packet.previous()), (None, None));
            assert_eq!(header.id(packet.payload_digest()), packet.id());
            (header.packet(payload), header.topic, header.created, header.lifetime, header.postage)
        }
    };
    assert_eq!(again.as_ref(), Ok(&packet));
    assert_eq!((packet.topic(), packet.created(), packet.lifetime(), packet.postage()), (topic, created, lifetime, postage));
    assert!(postage <= MAX_POSTAGE && created <= Timestamp::MAX && packet.expires() > created);
    let spent = packet.with_postage(postage / 2);
    assert_eq!((spent.id(), spent.signing_digest()), (packet.id(), packet.signing_digest()));
    assert_eq!(Packet::decode(spent.as_bytes().clone()).as_ref(), Ok(&spent));
}

/// A message that the operations deliver in pieces.
struct Sample {
    /// Head first, parents before children.
    packets: Vec<Packet>,
    sealed: Vec<u8>,
}

/// Five messages of one, two and three levels on two topics; the last two are heads over the same fragments.
static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let kinds = [(1, 1025, 0), (1, 40_000, 0), (2, 1_049_000, 0), (2, 5000, 0), (2, 5000, 1)];
    let sample = |&(topic, length, previous): &(u8, usize, u8)| {
        let sealed: Vec<u8> = (0..length).map(|i: usize| (i ^ i >> 8 ^ i >> 16).to_le_bytes()[0]).collect();
        let split = split(&sealed).expect("small");
        let head = MessageHeader {
            postage: MAX_POSTAGE,
            created: Timestamp(1_700_000_000_000),
            lifetime: 60,
            fragments: split.leaves,
            topic: TopicId([topic; 32]),
            previous: Link([previous; 24]),
            signature: Signature([topic; 64]),
        };
        let head = head.packet(&split.root).expect("in range");
        let packets = split.packets(&head).expect("its head");
        Sample { packets, sealed }
    };
    kinds.iter().map(sample).collect()
});

/// Samples whose fragments no other head shares: what is delivered of them stays until they complete.
const APART: usize = 3;
/// Bounds that the larger samples exceed.
const TIGHT: Config = Config {
    max_bytes: 60_000,
    max_messages: 2,
    max_orphans: 8,
    idle_timeout: Duration::from_secs(60),
    message_timeout: Duration::from_secs(300),
    orphan_timeout: Duration::from_secs(10),
};
/// Bounds that no input reaches: what completes is known exactly.
const ROOMY: Config = Config {
    max_bytes: 64 << 20,
    max_messages: 256,
    max_orphans: 1 << 20,
    idle_timeout: Duration::from_secs(1 << 30),
    message_timeout: Duration::from_secs(1 << 30),
    orphan_timeout: Duration::from_secs(1 << 30),
};

/// A reassembly, and the model of it: of each message, which packets were delivered since it last completed.
struct World {
    config: Config,
    exact: bool,
    reassembly: Reassembly,
    now: Instant,
    delivered: [BTreeSet<usize>; APART],
}

impl World {
    fn deliver(&mut self, sample: usize, index: usize) {
        let packet = &SAMPLES[sample].packets[index];
        let complete = self.insert(packet.clone());
        if let Some(delivered) = self.delivered.get_mut(sample) {
            delivered.insert(index);
            let whole = delivered.len() == SAMPLES[sample].packets.len();
            if whole {
                delivered.clear();
            }
            assert!(!self.exact || complete.len() == usize::from(whole));
        }
    }

    fn insert(&mut self, packet: Packet) -> Vec<Complete> {
        let complete = self.reassembly.insert(self.now, packet);
        for Complete { head, sealed } in &complete {
            let sample = SAMPLES.iter().find(|sample| sample.packets[0] == *head).expect("a head that was delivered");
            assert!(sealed == &sample.sealed);
        }
        self.check();
        complete
    }

    fn check(&self) {
        let messages = self.reassembly.progress().count();
        assert!(self.reassembly.bytes() <= self.config.max_bytes);
        assert!(self.reassembly.orphans() <= self.config.max_orphans && messages <= self.config.max_messages);
        assert_eq!(messages == 0, self.reassembly.bytes() == 0);
        assert!(self.reassembly.poll_timeout().is_some() || messages + self.reassembly.orphans() == 0);
    }

    fn lie(&mut self, sample: usize, index: usize, lie: u8, salt: u8) {
        let Header::Fragment(mut header) = SAMPLES[sample].packets[index].header() else { return };
        let mut payload = SAMPLES[sample].packets[index].payload().to_vec();
        let length = payload.len();
        match lie % 7 {
            0 => payload[usize::from(salt) % length] ^= 1 << (salt & 7),
            1 => header.created = header.created.plus(1 + u64::from(salt)),
            2 => header.lifetime ^= 0x100 << (salt & 7),
            3 => header.topic.0[usize::from(salt) % 32] ^= 1,
            4 => header.root[usize::from(salt) % 32] ^= 1,
            5 => header.index ^= 1 << (salt & 7),
            _ => payload.insert(0, salt),
        }
        payload.truncate(crate::MAX_PAYLOAD);
        let Ok(packet) = header.packet(&payload) else { return };
        // Shifted bytes of a payload that is all alike are the truth after all.
        if SAMPLES.iter().all(|sample| !sample.packets.contains(&packet)) {
            assert_eq!(self.insert(packet), []);
        }
    }

    /// Asks for what is missing of a message until it is whole.
    fn repair(&mut self, sample: usize) {
        let head = SAMPLES[sample].packets[0].id();
        self.insert(SAMPLES[sample].packets[0].clone());
        for _ in 0..SAMPLES[sample].packets.len() {
            let missing = self.reassembly.missing(&head, 64);
            if missing.is_empty() {
                break;
            }
            for id in missing {
                let packet = SAMPLES[sample].packets.iter().find(|packet| packet.id() == id).expect("an id of this message");
                self.insert(packet.clone());
            }
        }
        assert!(self.reassembly.progress().all(|progress| progress.head != head));
    }
}

/// Deliveries, lies and time in any order: bounds hold, only what was sent completes, and what is missing can be had.
#[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor; only differences matter")]
pub fn wire_reassembly(data: &[u8]) {
    let mut ops = Reader::new(data);
    let exact = ops.u8().is_ok_and(|byte| byte & 1 == 0);
    let config = if exact { ROOMY } else { TIGHT };
    let mut world = World {
        reassembly: Reassembly::new(config.clone()),
        config,
        exact,
        now: Instant::now(),
        delivered: [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()],
    };
    while let (Ok(op), Ok(number)) = (ops.u8(), ops.u16()) {
        let sample = usize::from(op >> 4) % SAMPLES.len();
        let packets = SAMPLES[sample].packets.len();
        let index = usize::from(number) % packets;
        match op % 5 {
            0 => world.deliver(sample, index),
            1 => {
                let count = usize::from(ops.u8().unwrap_or(0));
                (index..packets.min(index + count)).for_each(|index| world.deliver(sample, index));
            }
            2 => {
                let count = usize::from(ops.u8().unwrap_or(0));
                (index.saturating_sub(count)..=index).rev().for_each(|index| world.deliver(sample, index));
            }
            3 => {
                let (lie, salt) = (ops.u8().unwrap_or(0), ops.u8().unwrap_or(0));
                world.lie(sample, index, lie, salt);
            }
            _ if exact => {}
            _ => {
                world.now += Duration::from_millis(u64::from(number) * 4);
                world.reassembly.expire(world.now);
                assert!(world.reassembly.poll_timeout().is_none_or(|at| at > world.now));
                world.check();
            }
        }
    }
    world.now += Duration::from_secs(1 << 31);
    world.reassembly.expire(world.now);
    world.check();
    assert_eq!((world.reassembly.bytes(), world.reassembly.orphans(), world.reassembly.poll_timeout()), (0, 0, None));
    [0, 1, 3, 4].into_iter().for_each(|sample| world.repair(sample));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a target on every input of its corpus.
    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let inputs: Vec<_> = std::fs::read_dir(&corpus).expect(&corpus).map(|entry| entry.expect("an entry").path()).collect();
        assert!(!inputs.is_empty(), "{corpus} is empty");
        for input in inputs {
            eprintln!("{}", input.display());
            body(&std::fs::read(input).expect("readable"));
        }
    }

    #[test]
    fn corpus_of_wire_packet() {
        replay("wire_packet", wire_packet);
    }

    #[test]
    fn corpus_of_wire_reassembly() {
        replay("wire_reassembly", wire_reassembly);
    }
}
