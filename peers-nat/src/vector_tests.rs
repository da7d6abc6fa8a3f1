//! The test vectors in `vectors/`, by which another implementation can check itself against the chapter "Reaching peers".
//!
//! `PEERS_WRITE_VECTORS=1 cargo test -p peers-nat vectors` writes them anew.

use core::net::SocketAddr;

use bytes::Bytes;
use peers_wire::PeerId;
use serde_json::{Value, json};

use crate::control::{Answer, Control, Offer, Test, decode, plaintext};
use crate::ports::Mapping;
use crate::{PUBLIC_SWARM, beacon, relay};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn made() -> Value {
    let (v4, v6) = (address("192.0.2.1:4660"), address("[2001:db8::1]:4660"));
    let (target, token, route) = (PeerId([7; 32]), 0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
    let ping = Control::Ping { token, association: 9, observed: Some(v4) };
    let pong = Control::Pong { token, association: 9, observed: None };
    let messages = [
        ("ping at 192.0.2.1:4660", vec![ping.clone()]),
        ("pong through a relay", vec![pong.clone()]),
        ("pong and ping", vec![pong, ping]),
        ("close", vec![Control::Close]),
        ("peers request", vec![Control::PeersRequest]),
        ("peers", vec![Control::Peers { ids: vec![target, PeerId([8; 32])] }]),
        ("introduce", vec![Control::Introduce { target, initiation: &[1, 2, 3] }]),
        ("introduction from [2001:db8::1]:4660", vec![Control::Introduction { route, address: v6, initiation: &[1, 2, 3] }]),
        ("introduced", vec![Control::Introduced { target, route, address: v4 }]),
        ("refused", vec![Control::Refused { target }]),
        ("route closed", vec![Control::RouteClosed { route }]),
        ("reflect", vec![Control::Reflect { token }]),
        ("reflected, seen at 192.0.2.1:4660", vec![Control::Reflected { token, observed: v4 }]),
        ("load of a relay", vec![Control::Load { route, load: 128 }]),
        ("opened", vec![Control::Opened { low: 1024, high: 65535, opened: 512 }]),
        ("test: probe", vec![Control::Test { token, test: Test::Probe }]),
        (
            "tested, seen at 192.0.2.1:4660, second port and another peer",
            vec![Control::Tested { token, observed: v4, second: true, other: true }],
        ),
        ("tested, seen at [2001:db8::1]:4660", vec![Control::Tested { token, observed: v6, second: false, other: false }]),
        ("vouch for 192.0.2.1:4660", vec![Control::Vouch { token, address: v4 }]),
        ("second port 4660", vec![Control::SecondPort { token, port: 4660 }]),
        ("again", vec![Control::Again { token }]),
        ("candidates", vec![Control::Candidates { addresses: vec![v4, v6] }]),
    ];
    let control: Vec<Value> = messages
        .iter()
        .map(|(what, messages)| {
            let bytes = plaintext(messages);
            assert_eq!(decode(&bytes[1..]).as_ref(), Ok(messages));
            json!({ "what": what, "plaintext": hex(&bytes) })
        })
        .collect();
    let nonce = *b"0123456789abcdef";
    json!({
        "control": control,
        "offer": [
            { "association": 9, "tag": "0102030405060708", "mapping": 1, "wanted": true, "candidates": [], "bytes": hex(&Offer { association: 9, tag: token, mapping: Mapping::Independent, wanted: true, candidates: vec![], early: Bytes::new() }.encode()) },
            { "association": 9, "tag": "0102030405060708", "mapping": 1, "wanted": true, "candidates": [v4, v6], "bytes": hex(&Offer { association: 9, tag: token, mapping: Mapping::Independent, wanted: true, candidates: vec![v4, v6], early: Bytes::new() }.encode()) },
            { "association": 9, "tag": "0102030405060708", "mapping": 3, "wanted": false, "candidates": [v4], "early": "early", "bytes": hex(&Offer { association: 9, tag: token, mapping: Mapping::Sequential, wanted: false, candidates: vec![v4], early: "early".into() }.encode()) },
        ],
        "answer": [
            { "token": "0102030405060708", "observed": v4, "mapping": 0, "bytes": hex(&Answer { token, observed: Some(v4), mapping: Mapping::Unknown }.encode()) },
            { "token": "0102030405060708", "observed": null, "mapping": 3, "bytes": hex(&Answer { token, observed: None, mapping: Mapping::Sequential }.encode()) },
        ],
        "relayed": [{ "route": "1112131415161718", "datagram": "04aabb", "bytes": hex(&relay::wrap(route, &[4, 0xaa, 0xbb])) }],
        "beacon": [
            { "nonce": hex(&nonce), "port": 4660, "keys": [hex(&PUBLIC_SWARM)], "bytes": hex(&beacon::encode(&nonce, 4660, &[PUBLIC_SWARM])) },
            { "nonce": hex(&nonce), "port": 4660, "keys": [hex(&PUBLIC_SWARM), hex(&[5; 32])], "bytes": hex(&beacon::encode(&nonce, 4660, &[PUBLIC_SWARM, [5; 32]])) },
        ],
    })
}

#[test]
fn messages_are_as_the_vectors_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/reaching.json");
    let made = made();
    if std::env::var_os("PEERS_WRITE_VECTORS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors")).unwrap();
        std::fs::write(path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(kept, made);
}
