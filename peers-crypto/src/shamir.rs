//! Shamir's secret sharing of a key over GF(256): any `threshold` of the shares give the key back, fewer tell nothing of it.
//!
//! The field is that of AES (FIPS-197, section 4): polynomials over GF(2) modulo x^8 + x^4 + x^3 + x + 1. Byte by byte, a share is the value at its
//! index (1, 2, ..) of a polynomial of degree `threshold` - 1, whose value at 0 is the secret, and whose other coefficients are random.
//! No table and no branch depends on a secret: time tells nothing.
//!
//! Source: Shamir, "How to Share a Secret", CACM 22(11), 1979; draft-mcgrew-tss-03, section 3, with which the shares agree.

use core::hint::black_box;
use core::iter::once;

use rand::CryptoRng;
use zeroize::Zeroizing;

/// Secret or share.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// The shares of `secret` with the indexes 1 to `count`, of which `threshold` (1 or more) give it back.
pub(crate) fn split(secret: &Key, threshold: u8, count: u8, rng: &mut impl CryptoRng) -> Vec<Key> {
    let mut random = Zeroizing::new(vec![0; 32 * usize::from(threshold - 1)]);
    rng.fill_bytes(&mut random);
    let share = |index| {
        let mut share = Key::default();
        for (at, byte) in share.iter_mut().enumerate() {
            *byte = evaluate(index, random.chunks_exact(32).map(|coefficient| coefficient[at]).chain(once(secret[at])));
        }
        share
    };
    (1..=count).map(share).collect()
}

/// The secret of which these are shares: as many as its threshold, of different indexes, none of them 0.
pub(crate) fn combine(shares: &[(u8, &Key)]) -> Key {
    let mut secret = Key::default();
    for (index, share) in shares {
        let (mut above, mut below) = (1, 1);
        for (other, _) in shares.iter().filter(|(other, _)| other != index) {
            above = multiply(above, *other);
            below = multiply(below, other ^ index);
        }
        let weight = multiply(above, inverse(below));
        for (byte, part) in secret.iter_mut().zip(share.iter()) {
            *byte ^= multiply(*part, weight);
        }
    }
    secret
}

/// The value at `x` of the polynomial with these coefficients, that of the highest power first (Horner).
fn evaluate(x: u8, coefficients: impl Iterator<Item = u8>) -> u8 {
    coefficients.fold(0, |sum, coefficient| multiply(sum, x) ^ coefficient)
}

/// Shift and add, with masks in place of branches; `black_box` hides from the compiler that a mask is all or nothing, of which it would make branches.
fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= a & black_box((b & 1).wrapping_neg());
        a = a << 1 ^ 0x1b & black_box((a >> 7).wrapping_neg());
        b >>= 1;
    }
    product
}

/// a^254, which is 1/a, as a^255 = 1; 0 for 0.
fn inverse(a: u8) -> u8 {
    (0..6).fold(multiply(a, a), |power, _| multiply(multiply(power, a), multiply(power, a)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    /// Of up to 32 bytes, the rest zero: each byte is shared by itself.
    fn unhex(text: &str) -> Key {
        let mut key = Key::default();
        for (at, byte) in key.iter_mut().enumerate().take(text.len() / 2) {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        }
        key
    }

    fn together(shares: &[(u8, Key)]) -> Key {
        combine(&shares.iter().map(|(index, share)| (*index, share)).collect::<Vec<_>>())
    }

    #[test]
    fn products_are_those_of_fips_197() {
        assert_eq!(multiply(0x57, 0x83), 0xc1); // section 4.2
        for (factor, product) in [(0x02, 0xae), (0x04, 0x47), (0x08, 0x8e), (0x10, 0x07), (0x13, 0xfe)] {
            assert_eq!(multiply(0x57, factor), product); // section 4.2.1
        }
        assert_eq!(multiply(0x53, 0xca), 1);
        // MixColumns, section 5.1.3: {03}x^3 + {01}x^2 + {01}x + {02} times its inverse of section 5.3.3 is 1.
        let (mix, unmix) = ([2, 1, 1, 3], [0x0e, 0x09, 0x0d, 0x0b]);
        let product = |at: usize| (0..4).fold(0, |sum, i| sum ^ multiply(mix[i], unmix[(at + 4 - i) % 4]));
        assert_eq!([0, 1, 2, 3].map(product), [1, 0, 0, 0]);
    }

    #[test]
    fn the_field_has_its_laws() {
        // A generator's powers are all 255 elements but 0: a naive model of the product by discrete logarithms.
        let mut powers = vec![1u8];
        while powers.len() < 255 {
            let last = *powers.last().unwrap();
            powers.push(last ^ last << 1 ^ if last & 0x80 == 0 { 0 } else { 0x1b }); // times {03}
        }
        for (i, a) in powers.iter().enumerate() {
            assert_eq!((multiply(*a, 0), multiply(0, *a), multiply(*a, inverse(*a))), (0, 0, 1));
            for (j, b) in powers.iter().enumerate() {
                assert_eq!(multiply(*a, *b), powers[(i + j) % 255]);
            }
        }
        assert_eq!(inverse(0), 0);
    }

    #[test]
    fn the_test_case_of_draft_mcgrew_tss_combines() {
        let shares = [(1, unhex("b9fa07e185")), (2, unhex("f5409b4511"))];
        assert_eq!(together(&shares), unhex("7465737400"));
    }

    #[test]
    fn shares_that_botan_made_combine() {
        // Its tests, data/tss/recovery.vec: 3 of 5, without a hash.
        let shares = [
            (1, unhex("0773d64642dc18a85158f91d69546202854bc9ed910e9173")),
            (2, unhex("74ac6503a0a6f54dfe9bd135cc759a06b214625d8da2f5ec")),
            (3, unhex("34b5d5731bca274635b37b85707afc86198f16f57fa57ce4")),
            (4, unhex("db009b259b8982a9db67552714c770db64cac422e0e66464")),
            (5, unhex("9b192b5520e550a2104fff97a8c8165bcf51b08a12e1ed6c")),
        ];
        for three in [[0, 1, 2], [4, 2, 0], [3, 4, 1]] {
            assert_eq!(together(&three.map(|at| shares[at].clone())), unhex("476a6636f9b0caa39a7053add55b04822ed0bd456309187b"));
        }
    }

    #[test]
    fn shares_in_the_manner_of_slip_39_combine_when_shifted_to_its_place_of_the_secret() {
        // Tests of bc-shamir, 2 of 7: indexes from 0, the secret at 255. To add 255 to every index moves the secret to 0.
        let shares = [
            (255, unhex("2dcd14c2252dc8489af3985030e74d5a48e8eff1478ab86e65b43869bf39d556")),
            (255 ^ 3, unhex("a2fb5414d4d96ee58a109b3ca9a84be0259d2c0f9ac92bdd3199e0eed3f1dd3e")),
            (255 ^ 6, unhex("28a19475dcde9f09ba2e9e881979413592027216e60c8513cdee937c67b2c586")),
        ];
        let secret = unhex("204188bfa6b440a1bdfd6753ff55a8241e07af5c5be943db917e3efabc184b1a");
        for two in [[0, 1], [2, 0], [1, 2]] {
            assert_eq!(together(&two.map(|at| shares[at].clone())), secret);
        }
    }

    #[test]
    fn with_fewer_shares_than_the_threshold_every_secret_is_equally_likely() {
        // Whoever has all shares but one of the threshold knows their values. For each secret, exactly one choice of the random coefficients gives
        // these values: shown by going through all choices, which hit each combination of values exactly once.
        for index in 1..=16 {
            for secret in 0..=255 {
                let mut seen = [false; 256];
                for random in 0..=255 {
                    let value = evaluate(index, [random, secret].into_iter());
                    assert!(!core::mem::replace(&mut seen[usize::from(value)], true));
                }
            }
        }
        for (one, other) in [(1, 2), (3, 16), (7, 12)] {
            for secret in [0, 1, 0x53, 0xff] {
                let mut seen = vec![false; 1 << 16];
                for (high, low) in (0..=255).flat_map(|high| (0..=255).map(move |low| (high, low))) {
                    let [a, b] = [one, other].map(|index| usize::from(evaluate(index, [high, low, secret].into_iter())));
                    assert!(!core::mem::replace(&mut seen[a << 8 | b], true));
                }
            }
        }
    }

    #[test]
    fn with_fewer_shares_than_the_threshold_something_else_comes_out() {
        let secret = Key::new([7; 32]);
        let shares = split(&secret, 3, 5, &mut ChaCha20Rng::seed_from_u64(1));
        assert_ne!(combine(&[(1, &shares[0]), (4, &shares[3])]), secret);
    }

    proptest! {
        #[test]
        fn any_threshold_of_the_shares_gives_the_secret_in_any_order(
            secret: [u8; 32], seed: u64, (count, threshold) in (2u8..=16).prop_flat_map(|count| (Just(count), 1..=count)),
            order in Just((0..16).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            let secret = Key::new(secret);
            let shares = split(&secret, threshold, count, &mut ChaCha20Rng::seed_from_u64(seed));
            prop_assert_eq!(shares.len(), usize::from(count));
            let some = order.into_iter().filter(|at| *at < shares.len()).take(threshold.into());
            let some: Vec<_> = some.map(|at| (u8::try_from(at + 1).unwrap(), &shares[at])).collect();
            prop_assert_eq!(combine(&some), secret);
        }
    }
}
