//! The test vectors in `vectors/`: that they are what this crate does, and what `docs/PROTOCOL.md` says, which is read here
//! a second time with a BLAKE2b of its own.
//!
//! `PEERS_WRITE_VECTORS=1 cargo test -p peers-wire --test vectors` writes them anew.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use peers_wire::{
    DEFAULT_LIFETIME, FragmentHeader, Header, Link, MessageHeader, Packet, PeerId, Reader, Signature, Timestamp, TopicId, Writer, split,
};
use serde_json::{Value, json};

/// Compares what the crate makes with the file, after writing it if that is asked for; gives the file's content.
fn vectors(name: &str, made: &Value) -> Value {
    let path = format!("{}/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("PEERS_WRITE_VECTORS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(made).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert!(kept == *made, "{path} is not what the crate makes");
    kept
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// `length` bytes of which byte i is i mod 251.
fn sealed(length: usize) -> Vec<u8> {
    (0..251u8).cycle().take(length).collect()
}

fn numbered<const N: usize>(start: u8) -> [u8; N] {
    core::array::from_fn(|i| start.wrapping_add(i.to_le_bytes()[0]))
}

fn message() -> MessageHeader {
    MessageHeader {
        postage: 16,
        created: Timestamp(1_700_000_000_123),
        lifetime: DEFAULT_LIFETIME,
        fragments: 0,
        topic: TopicId(numbered(0x01)),
        previous: Link::NONE,
        signature: Signature(numbered(0x80)),
    }
}

fn describe(name: &str, packet: &Packet) -> Value {
    let mut value = json!({
        "name": name,
        "bytes": hex(packet.as_bytes()),
        "postage": packet.postage(),
        "created": packet.created().0,
        "lifetime": packet.lifetime(),
        "expires": packet.expires().0,
        "topic": hex(&packet.topic().0),
        "payload": hex(packet.payload()),
        "payload_digest": hex(packet.payload_digest()),
        "id": hex(&packet.id().0),
        "id_text": packet.id().to_string(),
        "link": hex(&packet.id().link().0),
    });
    let more = match packet.header() {
        Header::Message(header) => json!({
            "kind": 1, "fragments": header.fragments, "previous": hex(&header.previous.0), "signature": hex(&header.signature.0),
            "signing_digest": hex(&packet.signing_digest().unwrap()),
        }),
        Header::Fragment(header) => json!({ "kind": 2, "index": header.index, "root": hex(&header.root) }),
    };
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}

#[test]
fn packets_are_as_the_vectors_say() {
    let first = message().packet(b"hello, world").unwrap();
    let next = MessageHeader { created: Timestamp(1_700_000_060_000), previous: first.id().link(), ..message() };
    let content = sealed(2500);
    let cut = split(&content).unwrap();
    let head = MessageHeader { fragments: cut.leaves, ..message() }.packet(&cut.root).unwrap();
    let parts = cut.packets(&head).unwrap();
    let extreme = MessageHeader { postage: 0, created: Timestamp::MAX, lifetime: u16::MAX, topic: TopicId([0xff; 32]), ..message() };
    let made = [
        describe("the first message of a list", &first),
        describe("the same with postage 3: the same id", &first.with_postage(3)),
        describe("a message that follows it", &next.packet(b"and again").unwrap()),
        describe("an empty payload", &message().packet(b"").unwrap()),
        describe("a full payload", &message().packet(&sealed(1024)).unwrap()),
        describe("the greatest time and lifetime", &extreme.packet(&[0xff]).unwrap()),
        describe("the head of a message of 2500 bytes", &parts[0]),
        describe("its first leaf", &parts[1]),
        describe("its last leaf", &parts[3]),
    ];
    for vector in vectors("packets", &json!(made)).as_array().unwrap() {
        let bytes = unhex(&vector["bytes"]);
        let packet = Packet::decode(Bytes::from(bytes.clone())).unwrap();
        assert_eq!(hex(&packet.id().0), vector["id"]);
        // Offsets as PROTOCOL.md gives them.
        let header = if bytes[0] == 0x10 { 133 } else { 77 };
        let digest = blake2b_256(b"", &bytes[header..]);
        let without_postage = |end: usize| [&bytes[..1], &bytes[2..end], &digest].concat();
        assert_eq!(hex(&digest), vector["payload_digest"]);
        assert_eq!(hex(&blake2b_256(b"peers pkt", &without_postage(header))), vector["id"]);
        if bytes[0] == 0x10 {
            assert_eq!(hex(&blake2b_256(b"peers sign", &without_postage(69))), vector["signing_digest"]);
        }
    }
}

#[test]
fn what_is_invalid_is_refused_as_the_vectors_say() {
    let good = message().packet(b"hello, world").unwrap().as_bytes().to_vec();
    let part =
        FragmentHeader { postage: 1, created: message().created, lifetime: 1, index: 0, topic: message().topic, root: numbered(0x40) };
    let part = part.packet(b"part").unwrap().as_bytes().to_vec();
    let with = |bytes: &[u8], at: usize, new: &[u8]| [&bytes[..at], new, &bytes[at + new.len()..]].concat();
    let cases = [
        ("no bytes", vec![]),
        ("a message header cut by one byte", good[..132].to_vec()),
        ("a fragment header cut by one byte", part[..76].to_vec()),
        ("kind 0", with(&good, 0, &[0x00])),
        ("kind 3", with(&good, 0, &[0x30])),
        ("a flag set", with(&good, 0, &[0x11])),
        ("a flag set in a fragment", with(&part, 0, &[0x28])),
        ("postage 17", with(&good, 1, &[17])),
        ("lifetime 0", with(&good, 8, &[0, 0])),
        ("one leaf", with(&[&good[..133], &[0; 32][..]].concat(), 10, &[0, 0, 1])),
        ("16385 leaves", with(&[&good[..133], &[0; 512][..]].concat(), 10, &[0, 0x40, 1])),
        ("three leaves, two digests", with(&[&good[..133], &[0; 64][..]].concat(), 10, &[0, 0, 3])),
        ("33 leaves, 33 digests", with(&[&good[..133], &[0; 1056][..]].concat(), 10, &[0, 0, 33])),
        ("a payload of 1025 bytes", [&good[..133], &[0; 1025][..]].concat()),
        ("a fragment without payload", part[..77].to_vec()),
        ("a fragment of 1025 bytes", [&part[..77], &[0; 1025][..]].concat()),
        ("fragment index 16912", with(&part, 10, &[0, 0x42, 0x10])),
    ];
    let describe = |(name, bytes): &(&str, Vec<u8>)| {
        let error = Packet::decode(Bytes::from(bytes.clone())).unwrap_err();
        json!({ "name": name, "bytes": hex(bytes), "error": error.to_string() })
    };
    let made: Vec<_> = cases.iter().map(describe).collect();
    assert_eq!(vectors("invalid", &json!(made)).as_array().unwrap().len(), cases.len());
}

/// A message in fragments: its tree in full where it is small, else a hash over all ids in the order of their indices.
fn describe_tree(length: usize) -> Value {
    let content = sealed(length);
    let cut = split(&content).unwrap();
    let head = MessageHeader { fragments: cut.leaves, ..message() }.packet(&cut.root).unwrap();
    let mut fragments: Vec<_> = cut.packets(&head).unwrap()[1..]
        .iter()
        .map(|packet| match packet.header() {
            Header::Fragment(header) => (header.index, packet.clone()),
            Header::Message(_) => panic!("only the first is a message"),
        })
        .collect();
    fragments.sort_by_key(|(index, _)| *index);
    let ids: Vec<u8> = fragments.iter().flat_map(|(_, packet)| packet.id().0).collect();
    let mut value = json!({
        "length": length,
        "leaves": cut.leaves,
        "fragments": fragments.len(),
        "head_payload": hex(&cut.root),
        "root": hex(head.payload_digest()),
        "head_id": hex(&head.id().0),
        "ids_digest": hex(&peers_wire::payload_digest(&ids)),
    });
    if fragments.len() <= 40 {
        let describe = |(index, packet): &(u32, Packet)| json!({ "index": index, "payload_digest": hex(packet.payload_digest()), "id": hex(&packet.id().0) });
        value["tree"] = fragments.iter().map(describe).collect();
    }
    value
}

#[test]
fn hash_trees_are_as_the_vectors_say() {
    let made: Vec<_> = [1025, 2048, 32_768, 32_769, 1_048_576, 1_048_577, 16_777_216].into_iter().map(describe_tree).collect();
    for vector in vectors("fragments", &json!(made)).as_array().unwrap() {
        let length = usize::try_from(vector["length"].as_u64().unwrap()).unwrap();
        // The tree, level by level, as PROTOCOL.md builds it.
        let mut digests = Vec::new();
        let mut level = sealed(length);
        loop {
            let above: Vec<[u8; 32]> = level.chunks(1024).map(|chunk| blake2b_256(b"", chunk)).collect();
            level = above.concat();
            digests.extend(above);
            if level.len() <= 1024 {
                break;
            }
        }
        let root = blake2b_256(b"", &level);
        assert_eq!((hex(&level), hex(&root)), (vector["head_payload"].as_str().unwrap().into(), vector["root"].as_str().unwrap().into()));
        let mut ids = Vec::new();
        for (index, digest) in (0u32..).zip(&digests) {
            let header = [&[0x20], &1_700_000_000_123u64.to_be_bytes()[2..], &4320u16.to_be_bytes(), &index.to_be_bytes()[1..]].concat();
            ids.extend(blake2b_256(b"peers pkt", &[&header[..], &numbered::<32>(0x01), &root, digest].concat()));
        }
        assert_eq!(vector["fragments"], digests.len());
        assert_eq!(vector["ids_digest"], hex(&blake2b_256(b"", &ids)));
    }
}

#[test]
fn integers_and_ids_are_as_the_vectors_say() {
    let integers: Vec<_> = [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1]
        .into_iter()
        .map(|value: u64| {
            let mut writer = Writer::default();
            writer.varint(value);
            json!({ "value": value, "bytes": hex(writer.as_ref()) })
        })
        .collect();
    let longer = ["4000", "403f", "80000040", "80003fff", "c000000000004000", "c00000003fffffff"];
    let ids: Vec<_> = [[0; 32], [0xff; 32], numbered(0x01)]
        .into_iter()
        .map(|bytes| json!({ "bytes": hex(&bytes), "text": PeerId(bytes).to_string() }))
        .collect();
    let made = json!({ "integers": integers, "not_the_shortest": longer, "ids": ids });
    let kept = vectors("codec", &made);
    for vector in kept["integers"].as_array().unwrap() {
        assert_eq!(Reader::new(&unhex(&vector["bytes"])).varint().unwrap(), vector["value"].as_u64().unwrap());
    }
    for vector in kept["not_the_shortest"].as_array().unwrap() {
        assert!(Reader::new(&unhex(vector)).varint().is_err());
    }
    for vector in kept["ids"].as_array().unwrap() {
        assert_eq!(vector["text"].as_str().unwrap().parse::<PeerId>().unwrap().0[..], unhex(&vector["bytes"]));
    }
}

/// BLAKE2b with a digest of 32 bytes and a personalization, written from RFC 7693 alone.
fn blake2b_256(personal: &[u8], input: &[u8]) -> [u8; 32] {
    const IV: [u64; 8] = [
        0x6a09_e667_f3bc_c908,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1,
        0x9b05_688c_2b3e_6c1f,
        0x1f83_d9ab_fb41_bd6b,
        0x5be0_cd19_137e_2179,
    ];
    const SIGMA: [[usize; 16]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ];
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let mut padded = [0; 16];
    padded[..personal.len()].copy_from_slice(personal);
    let mut h = IV;
    h[0] ^= 0x0101_0020;
    h[6] ^= word(&padded[..8]);
    h[7] ^= word(&padded[8..]);
    let blocks = input.len().div_ceil(128).max(1);
    for number in 0..blocks {
        let taken = &input[number * 128..input.len().min(number * 128 + 128)];
        let mut block = [0; 128];
        block[..taken.len()].copy_from_slice(taken);
        let m: [u64; 16] = core::array::from_fn(|i| word(&block[i * 8..i * 8 + 8]));
        let mut v: [u64; 16] = core::array::from_fn(|i| if i < 8 { h[i] } else { IV[i - 8] });
        v[12] ^= (number * 128 + taken.len()) as u64;
        if number + 1 == blocks {
            v[14] = !v[14];
        }
        for round in 0..12 {
            let s = SIGMA[round % 10];
            for (i, [a, b, c, d]) in
                [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]]
                    .into_iter()
                    .enumerate()
            {
                for (x, turn) in [(m[s[2 * i]], [32, 24]), (m[s[2 * i + 1]], [16, 63])] {
                    v[a] = v[a].wrapping_add(v[b]).wrapping_add(x);
                    v[d] = (v[d] ^ v[a]).rotate_right(turn[0]);
                    v[c] = v[c].wrapping_add(v[d]);
                    v[b] = (v[b] ^ v[c]).rotate_right(turn[1]);
                }
            }
        }
        for i in 0..8 {
            h[i] ^= v[i] ^ v[i + 8];
        }
    }
    core::array::from_fn(|i| h[i / 8].to_le_bytes()[i % 8])
}
