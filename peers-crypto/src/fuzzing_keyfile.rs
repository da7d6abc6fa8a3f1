//! The body of the fuzz target of the key file.

use std::sync::LazyLock;

use peers_wire::Reader;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::{DeviceSecrets, KEY_FILE, KeyFormError, PassphraseCost, SealedKeys, hash};

const CHEAP: PassphraseCost = PassphraseCost { passes: 1, memory_kib: 8 };
/// Argon2id at a cost that a file asks for and the fuzzer affords.
const AFFORDABLE: PassphraseCost = PassphraseCost { passes: 2, memory_kib: 64 };
/// Not that of the test vectors, from which inputs are made.
const RIGHT: &[u8] = b"battery staple";
const ACCOUNT: &[u8] = b"account";
const CHECKSUM: usize = 32;

/// The secrets of a device and its key file, without and with an account.
static GENUINE: LazyLock<(DeviceSecrets, [SealedKeys; 2])> = LazyLock::new(|| {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let secrets = DeviceSecrets::generate(&mut rng);
    let files = [&b""[..], ACCOUNT].map(|account| SealedKeys::seal(&secrets, account, RIGHT, CHEAP, &mut rng).expect("memory"));
    (secrets, files)
});

/// Any bytes, any bytes with a fitting checksum, a genuine file altered, anything sealed: only what was sealed opens, and to what it was sealed from.
pub fn crypto_keyfile(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    match how % 5 {
        0 => any_file(rest.to_vec()),
        1 => any_file(with_checksum(rest)),
        2 => altered(rest, false),
        3 => altered(rest, true),
        _ => sealed(rest),
    }
}

/// Says nothing false of bytes that somebody made, and does not open them.
fn any_file(bytes: Vec<u8>) {
    let (_, genuine) = &*GENUINE;
    let made_by_us = genuine.iter().any(|file| file.as_bytes() == bytes);
    let length = bytes.len();
    match SealedKeys::parse(bytes.clone()) {
        Ok(file) => {
            assert_eq!(file.as_bytes(), bytes);
            assert!(matches!(file.version(), 1 | 2));
            assert_eq!(file.version() == 2 && length > KEY_FILE, file.has_account());
            assert_eq!(file.version() == 1, length == KEY_FILE - 4);
            assert!(matches!((file.cost().passes, file.cost().memory_kib), (1..=64, 8..=0x40_0000)));
            if affordable(&file) {
                let opened = file.open(if file.needs_passphrase() { RIGHT } else { b"" });
                // Without a passphrase anybody can make one that opens.
                assert!(opened.is_err() || made_by_us || !file.needs_passphrase(), "what nobody sealed opens");
            }
        }
        Err(KeyFormError::Truncated { length: found }) => assert_eq!(found, length),
        Err(KeyFormError::Newer { version }) => assert_eq!((bytes[8], version > 2), (version, true)),
        Err(KeyFormError::NotAKeyFile) => assert!(!bytes.starts_with(b"peerskey")),
        Err(error) => assert_eq!(error, KeyFormError::Corrupted),
    }
}

/// Changes a genuine file in some bytes, and its length.
fn altered(data: &[u8], checksum: bool) {
    let mut changes = Reader::new(data);
    let (secrets, files) = &*GENUINE;
    let file = &files[usize::from(changes.u8().unwrap_or(0) % 2)];
    let mut bytes = file.as_bytes().to_vec();
    let cut = usize::from(changes.u16().unwrap_or(0)) % (bytes.len() + 1);
    bytes.truncate(bytes.len() - cut);
    while let (Ok(at), Ok(bits)) = (changes.u8(), changes.u8()) {
        if let Some(byte) = bytes.get_mut(usize::from(at)) {
            *byte ^= bits;
        }
    }
    if checksum && bytes.len() >= CHECKSUM {
        bytes = with_checksum(&bytes[..bytes.len() - CHECKSUM]);
    }
    let same = bytes == file.as_bytes();
    match SealedKeys::parse(bytes) {
        Err(_) => assert!(!same),
        Ok(found) => {
            assert!(same || checksum, "the checksum misses a change");
            if !affordable(&found) {
                return;
            }
            // What is sealed behind the secrets may be altered alone.
            if let Ok(opened) = found.open(RIGHT) {
                assert_eq!(opened, *secrets);
                assert_eq!(found.account(&opened).is_ok(), same, "an altered account opens");
            } else {
                assert!(!same);
            }
        }
    }
}

/// Whatever is sealed opens with its passphrase.
fn sealed(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (passphrase, account) = rest.split_at(rest.len().min(usize::from(*length)));
    let mut rng = ChaCha20Rng::from_seed(hash(&[data]));
    let secrets = DeviceSecrets::generate(&mut rng);
    let file = SealedKeys::seal(&secrets, account, passphrase, CHEAP, &mut rng).expect("memory");
    let read = SealedKeys::parse(file.as_bytes().to_vec()).expect("a key file");
    assert_eq!((read.needs_passphrase(), read.has_account()), (!passphrase.is_empty(), !account.is_empty()));
    let opened = read.open(passphrase).expect("the passphrase");
    assert_eq!(opened, secrets);
    assert_eq!(read.account(&opened).expect("the account").unwrap_or_default().as_slice(), account);
    assert!(read.open(&[passphrase, b"x"].concat()).is_err());
}

fn affordable(file: &SealedKeys) -> bool {
    file.cost().max(AFFORDABLE) == AFFORDABLE
}

fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    [bytes, &hash(&[bytes])].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::tests::replay;

    #[test]
    fn corpus_of_crypto_keyfile() {
        replay("crypto_keyfile", crypto_keyfile);
    }
}
