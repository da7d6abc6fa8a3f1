//! The test vectors in `vectors/`: that they are what this crate does.
//!
//! `PEERS_WRITE_VECTORS=1 cargo test -p peers-crypto vectors` writes them anew.

use core::convert::Infallible;

use peers_wire::{Link, Timestamp};
use rand::{TryCryptoRng, TryRng};
use serde_json::{Value, json};

use crate::handshake::tests as handshakes;
use crate::{
    Cipher, DeviceKey, DeviceSecrets, Domain, Draft, Endorsement, Group, GroupId, GuardianAnswer, Keyring, LinkCode, LinkUri,
    PassphraseCost, Recovery, RecoveryPhrase, Role, SealedKeys, Statement, StatementId, TopicKey, Vault, derive, hash, keyed_hash, link,
    open_from, seal_to, seal_to_user, statement,
};

const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// A source of randomness that gives what the vector says: 32 times 0x01, then 32 times 0x02, and so on.
pub(crate) struct Steps(u32);

impl Steps {
    pub(crate) const fn new() -> Self {
        Self(0)
    }
}

impl TryRng for Steps {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = (self.0 / 32 + 1).to_le_bytes()[0];
            self.0 += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Steps {}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(seed: u8) -> DeviceKey {
    DeviceKey::from_seed(&[seed; 32])
}

fn check(name: &str, made: &Value) {
    let path = format!("{}/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = format!("{made:#}\n");
    if std::env::var_os("PEERS_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}");
}

#[test]
fn keys_are_as_the_vectors_say() {
    let alice = key(1);
    check(
        "keys",
        &json!({
            "device": {
                "seed": hex(&[1; 32]),
                "id": hex(&alice.id().0),
                "text": alice.id().to_string(),
                "x25519": hex(alice.exchange_public()),
            },
            "signature": {
                "domain": "peers consent 1",
                "parts": ["6162", "", "63"],
                "signed": hex(&crate::keys::signed_message(Domain::CONSENT, &[b"ab", b"", b"c"])),
                "signature": hex(&alice.sign(Domain::CONSENT, &[b"ab", b"", b"c"]).0),
            },
            "hash": { "parts": ["6162", "63"], "hash": hex(&hash(&[b"ab", b"c"])) },
            "keyed_hash": { "key": hex(&[7; 32]), "parts": ["6162", "63"], "hash": hex(&keyed_hash(&[7; 32], &[b"ab", b"c"])) },
            "derive": { "secret": hex(&[7; 32]), "label": "label", "parts": ["6162", "63"], "key": hex(&derive(&[7; 32], "label", &[b"ab", b"c"])) },
        }),
    );
}

#[test]
fn sessions_are_as_the_vectors_say() {
    let cases = [Cipher::ChaCha20Poly1305, Cipher::Aegis128l].map(|cipher| {
        let name = format!("{cipher:?}");
        json!({ "cipher": name, "ik": handshakes::ik_vector(cipher), "xx": handshakes::xx_vector(cipher) })
    });
    check(
        "sessions",
        &json!({
            "initiator_seed": hex(&[1; 32]), "responder_seed": hex(&[2; 32]),
            "initiator_ephemeral": hex(&[1; 32]), "responder_ephemeral": hex(&[2; 32]),
            "initiator_index": 11, "responder_index": 22, "time": WALL.0,
            "early": hex(b"early"), "reply_payload": hex(b"reply"),
            "cases": cases,
        }),
    );
}

#[test]
fn topics_and_sealing_are_as_the_vectors_say() {
    let (alice, bob) = (key(1), key(2));
    let topic = |topic: &TopicKey| json!({ "seed": hex(topic.seed()), "id": hex(&topic.id().0), "read_key": hex(topic.read_key().key()) });
    let written = TopicKey::from_seed([3; 32]);
    let draft = Draft { created: WALL, lifetime: 60, previous: Link([4; 24]), postage: 16 };
    let packet = written.seal(&alice, draft, b"hello, world", &mut Steps::new()).unwrap().remove(0);
    let sealed = seal_to(&alice, bob.id(), "vector", b"hello, bob", &mut Steps::new()).unwrap();
    assert_eq!(open_from(&bob, "vector", &sealed).unwrap().0, alice.id());
    let code: LinkCode = "zoo acid actor zebra".parse().unwrap();
    check(
        "topics",
        &json!({
            "from_seed": topic(&written),
            "from_passphrase": { "passphrase": "greetings", "topic": topic(&TopicKey::from_passphrase("greetings")) },
            "derive": { "secret": hex(&[5; 32]), "label": "notes", "topic": topic(&TopicKey::derive(&[5; 32], "notes")) },
            "between": { "seeds": [hex(&[1; 32]), hex(&[2; 32])], "topic": topic(&TopicKey::between(&alice, bob.id()).unwrap()) },
            "inbox": { "peer": hex(&alice.id().0), "topic": topic(&TopicKey::inbox(alice.id())) },
            "rendezvous": { "code": code.to_string(), "topic": topic(&code.rendezvous()) },
            "message": {
                "topic_seed": hex(&[3; 32]), "author_seed": hex(&[1; 32]), "created": WALL.0, "lifetime": 60, "previous": hex(&[4; 24]), "postage": 16,
                "nonce": hex(&[1; 24]), "body": hex(b"hello, world"), "packet": hex(packet.as_bytes()), "id": hex(&packet.id().0),
            },
            "sealed": {
                "sender_seed": hex(&[1; 32]), "recipient_seed": hex(&[2; 32]), "ephemeral": hex(&[1; 32]), "context": "vector", "plaintext": hex(b"hello, bob"), "sealed": hex(&sealed),
            },
        }),
    );
}

#[test]
fn groups_and_their_keys_are_as_the_vectors_say() {
    let mut rng = Steps::new();
    let [laptop, phone, phrase, guardian, new] = [1, 2, 3, 4, 5].map(key);
    let mut user = Group::create_user(&laptop, "Alice", "laptop", WALL).unwrap();
    let mut ring = Keyring::default();
    let epoch = ring.rotate(&mut user, &laptop, WALL, &mut rng).unwrap();
    let consent = user.consent(&phone, GroupId::NONE);
    user.admit(&laptop, phone.id(), "phone", Role::Owner, GroupId::NONE, consent, WALL).unwrap();
    user.add_recovery(&laptop, &phrase, WALL).unwrap();
    let chosen = user.set_guardians(&phrase, 1, vec![vec![guardian.id()]], WALL).unwrap();
    let endorsement = Endorsement::sign(&guardian, 1, user.id(), chosen, new.id());
    user.recover(&new, "new laptop", vec![endorsement], WALL).unwrap();
    user.remove(&new, phone.id(), 300, WALL).unwrap();
    user.rename(&new, "Alicia", WALL).unwrap();
    let grant = ring.grant(&user, &laptop, new.id(), &[], &mut rng).unwrap().unwrap();
    let letter = seal_to_user(&guardian, &user, "vector", b"hello, Alicia", &mut rng).unwrap();
    let mut statements: Vec<_> = user.statements().collect();
    statements.sort_unstable_by_key(|statement| (statement.time(), statement.id()));
    let member = |member: &crate::Member| json!({ "id": hex(&member.id.0), "name": member.name });
    check(
        "groups",
        &json!({
            "seeds": { "laptop": hex(&[1; 32]), "phone": hex(&[2; 32]), "recovery": hex(&[3; 32]), "guardian": hex(&[4; 32]), "new": hex(&[5; 32]) },
            "examples": statement::tests::examples().iter().map(said).collect::<Vec<_>>(),
            "user": {
                "id": hex(&user.id().0), "name": user.name(), "bytes": hex(&user.encode()), "statements": statements.into_iter().map(said).collect::<Vec<_>>(),
                "members": user.members().map(member).collect::<Vec<_>>(),
                "removed": user.removed().map(|removed| json!({ "id": hex(&removed.id.0), "sequence": removed.sequence })).collect::<Vec<_>>(),
            },
            "epoch": { "id": hex(&epoch.0), "seed": hex(ring.get(epoch).unwrap().secret()), "keyring": hex(&ring.encode()) },
            "grant": { "to": "new", "bytes": hex(&grant) },
            "sealed_to_user": { "from": "guardian", "context": "vector", "plaintext": hex(b"hello, Alicia"), "sealed": hex(&letter) },
        }),
    );
}

#[test]
fn linking_is_as_the_vectors_say() {
    let [laptop, phone] = [1, 2].map(key);
    let addresses = ["192.0.2.7:4000".parse().unwrap(), "[2001:db8::7]:4001".parse().unwrap()];
    let link = LinkUri::generate(laptop.id(), &addresses, &mut Steps::new());
    check(
        "linking",
        &json!({
            "inviter_seed": hex(&[1; 32]), "acceptor_seed": hex(&[2; 32]),
            "link": { "secret": hex(&[1; 16]), "inviter": hex(&laptop.id().0), "addresses": addresses, "text": link.to_string() },
            "conversations": [
                link::tests::vector(&"zoo acid actor zebra".parse().unwrap(), &laptop, &phone),
                link::tests::vector(&link.into(), &laptop, &phone),
            ],
        }),
    );
}

fn said(statement: &Statement) -> Value {
    json!({ "bytes": hex(&statement.encode()), "id": hex(&statement.id().0) })
}

#[test]
fn a_key_file_is_as_the_vectors_say() {
    let cheap = PassphraseCost { passes: 1, memory_kib: 8 };
    let secrets = DeviceSecrets::generate(&mut Steps::new());
    let seal = |account: &[u8], passphrase: &[u8]| SealedKeys::seal(&secrets, account, passphrase, cheap, &mut Steps(64)).unwrap();
    let version_1 = concat!(
        "70656572736b6579010100000001000000080303030303030303030303030303030303030303030303030303030303030303040404040404040471",
        "9bd8c91b7bfec506c8686edcda934dc454d0daa14d0c9630a440e3ae5db7e79d301a81bd1860b99c8f7e7790e3cdcbc9224a346461b9211a640137",
        "1671125bf57f32abd636898511b9c526aee15650a0af44e0ee2da582a900807236fdedb1dfe81148934daa2a7fc057c381b0926c",
    );
    let old = (0..version_1.len()).step_by(2).map(|at| u8::from_str_radix(&version_1[at..at + 2], 16).unwrap()).collect();
    assert_eq!(SealedKeys::parse(old).unwrap().open(b"correct horse").unwrap(), secrets);
    check(
        "keyfile",
        &json!({
            "device_seed": hex(secrets.device_key().seed()), "id": hex(&secrets.device_key().id().0), "storage_key": hex(secrets.storage_key()),
            "version_1": { "passphrase": "correct horse", "file": version_1 },
            "key_file": { "passphrase": "correct horse", "file": hex(seal(b"", b"correct horse").as_bytes()) },
            "without_passphrase": { "passphrase": "", "file": hex(seal(b"", b"").as_bytes()) },
            "export": { "passphrase": "correct horse", "account": hex(b"account"), "file": hex(seal(b"account", b"correct horse").as_bytes()) },
        }),
    );
}

#[test]
fn recovery_is_as_the_vectors_say() {
    let phrase = RecoveryPhrase::generate(&mut Steps::new());
    let (user, guardians, device) = (GroupId([0x55; 32]), StatementId([0x66; 32]), key(9).id());
    let packages = Vault::seal(b"log and keys", user, guardians, WALL, 2, 3, &mut Steps::new()).unwrap();
    let answers = [0, 2].map(|at| {
        let guardian = key(packages[at].index());
        (guardian.id(), GuardianAnswer::new(&guardian, packages[at].clone(), device))
    });
    let mut recovery = Recovery::new(device, user);
    for (from, answer) in answers.clone() {
        recovery.insert(from, answer).unwrap();
    }
    assert_eq!(&recovery.open().next().unwrap().contents[..], b"log and keys");
    check(
        "recovery",
        &json!({
            "phrase": { "entropy": hex(&[1; 32]), "words": phrase.to_string(), "seed": hex(phrase.key().seed()), "id": hex(&phrase.key().id().0) },
            "guardians": {
                "user": hex(&user.0), "statement": hex(&guardians.0), "time": WALL.0, "threshold": 2, "contents": hex(b"log and keys"),
                "key": hex(&[1; 32]), "coefficient": hex(&[2; 32]),
                "packages": packages.iter().map(|package| hex(&package.encode())).collect::<Vec<_>>(),
                "device": hex(&device.0), "guardian_seeds": [hex(&[1; 32]), hex(&[3; 32])],
                "answers": answers.map(|(_, answer)| hex(&answer.encode())),
            },
        }),
    );
}
