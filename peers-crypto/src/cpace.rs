//! CPace: two parties that share a few words agree on a strong key; who does not know the words gets one guess for each time it takes part, and can try none offline.
//!
//! Suite CPACE-RISTR255-SHA512 in the setting of initiator and responder. The caller confirms the key.
//!
//! Source: draft-irtf-cfrg-cpace-21, sections 7 and 8.3; its test vectors of appendix B.3.

use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::sodium;

/// Domain of the group.
const DSI: &[u8] = b"CPaceRistretto255";
/// Domain of the resulting key.
const DSI_ISK: &[u8] = b"CPaceRistretto255_ISK";
/// Block size of SHA-512: the password and what goes before it fill a block.
const BLOCK: usize = 128;

/// What one party says: its share and its associated data.
#[derive(Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) share: &'a [u8; 32],
    pub(crate) data: &'a [u8],
}

/// A uniform secret scalar.
pub(crate) fn scalar(rng: &mut impl CryptoRng) -> Zeroizing<[u8; 32]> {
    let mut uniform = Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut *uniform);
    scalar_of(&uniform)
}

/// The scalar of 64 uniform secret bytes.
pub(crate) fn scalar_of(uniform: &[u8; 64]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(sodium::ristretto_scalar(uniform))
}

/// The public share of a secret scalar: that multiple of the generator which password, channel and session determine.
///
/// `None` with the negligible probability that the generator or the scalar is neutral.
pub(crate) fn share(scalar: &[u8; 32], password: &[u8], channel: &[u8], session: &[u8]) -> Option<[u8; 32]> {
    sodium::ristretto_multiply(scalar, &generator(password, channel, session))
}

/// The shared key, the same for both; `theirs` is one of the two shares.
///
/// `None` if `theirs` is no valid group element, or the neutral one: abort.
pub(crate) fn shared_key(
    scalar: &[u8; 32],
    theirs: &[u8; 32],
    session: &[u8],
    initiator: Said<'_>,
    responder: Said<'_>,
) -> Option<Zeroizing<[u8; 64]>> {
    let point = Zeroizing::new(sodium::ristretto_multiply(scalar, theirs)?);
    let mut input = Zeroizing::new(lv_cat(&[DSI_ISK, session, &*point]));
    for said in [initiator, responder] {
        input.extend_from_slice(&lv_cat(&[said.share, said.data]));
    }
    Some(Zeroizing::new(sodium::sha512(&[&input])))
}

/// `calculate_generator`
fn generator(password: &[u8], channel: &[u8], session: &[u8]) -> [u8; 32] {
    sodium::ristretto_from_hash(&sodium::sha512(&[&generator_string(password, channel, session)]))
}

/// `generator_string`: zeros complete the first block, so that no other input shares it with the password.
fn generator_string(password: &[u8], channel: &[u8], session: &[u8]) -> Zeroizing<Vec<u8>> {
    let before = lv_cat(&[DSI, password]).len();
    let padding = [0; BLOCK];
    let padding = &padding[..(BLOCK - 1).saturating_sub(before)];
    Zeroizing::new(lv_cat(&[DSI, password, padding, channel, session]))
}

/// `lv_cat`: each part behind its length in LEB128.
fn lv_cat(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let mut length = part.len();
        while length >= 0x80 {
            out.push(length.to_le_bytes()[0] | 0x80);
            length >>= 7;
        }
        out.push(length.to_le_bytes()[0]);
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let mut out = [0; N];
        for (byte, digits) in out.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            *byte = u8::from_str_radix(core::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
        assert_eq!(text.len(), 2 * N);
        out
    }

    const PASSWORD: &[u8] = b"Password";
    const CHANNEL: &[u8] = b"\x0bA_initiator\x0bB_responder";
    const SESSION: &str = "7e4b4791d6a8ef019b936c79fb7f2c57";
    const YA: &str = "da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08";
    const YB: &str = "d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d";
    const SHARE_A: &str = "d6bac480f2c386c394efc7c47adb9925dcd2630b64f240c50f8d0eec482b9157";
    const SHARE_B: &str = "3ea7e0b19560d7c0b0f5734f63b955286dfa8232b5ebe63324e2d9e7433f7258";

    #[test]
    fn the_drafts_generator_b_3_1() {
        let string = generator_string(PASSWORD, CHANNEL, &hex::<16>(SESSION));
        let expected = "11435061636552697374726574746f3235350850617373776f726464".to_owned()
            + &"0".repeat(200)
            + "180b415f696e69746961746f720b425f726573706f6e646572107e4b4791d6a8ef019b936c79fb7f2c57";
        assert_eq!(string[..], hex::<170>(&expected));
        let expected = hex::<32>("222b6b195fe84b1652badb6f6a3ae3d24341e7306967f0b8115b40d5698c7e56");
        assert_eq!(generator(PASSWORD, CHANNEL, &hex::<16>(SESSION)), expected);
    }

    #[test]
    fn the_drafts_shares_and_key_b_3_2_to_b_3_5() {
        let (session, ya, yb) = (hex::<16>(SESSION), hex(YA), hex(YB));
        let (a, b) = (share(&ya, PASSWORD, CHANNEL, &session).unwrap(), share(&yb, PASSWORD, CHANNEL, &session).unwrap());
        assert_eq!((a, b), (hex(SHARE_A), hex(SHARE_B)));
        let (said_a, said_b) = (Said { share: &a, data: b"ADa" }, Said { share: &b, data: b"ADb" });
        let expected = hex::<64>(
            "b69effbf61b51d56401c0f65601abe428de8206feaaf0e32198896dcae7b35cd2b38950a39dfd5d4a79164614c2984f7daa460b588c1e80c3fa2068af7900447",
        );
        assert_eq!(*shared_key(&ya, &b, &session, said_a, said_b).unwrap(), expected);
        assert_eq!(*shared_key(&yb, &a, &session, said_a, said_b).unwrap(), expected);
    }

    #[test]
    fn the_drafts_valid_and_invalid_shares_b_3_10_and_b_3_11() {
        let scalar = hex("7cd0e075fa7955ba52c02759a6c90dbbfc10e6d40aea8d283e407d88cf538a05");
        let valid = hex("2c3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d654b4a51c");
        let expected = hex("7c13645fe790a468f62c39beb7388e541d8405d1ade69d1778c5fe3e7f6b600e");
        assert_eq!(sodium::ristretto_multiply(&scalar, &valid), Some(expected));
        let invalid = hex("2b3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d654b4a51c");
        for share in [invalid, [0; 32]] {
            let said = Said { share: &share, data: b"" };
            assert!(shared_key(&scalar, &share, b"", said, said).is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn keys_agree_if_and_only_if_all_inputs_do(uniform_a: [u8; 32], uniform_b: [u8; 32], change in 0u8..5) {
            let widen = |half: [u8; 32]| { let mut out = [7; 64]; out[..32].copy_from_slice(&half); out };
            let (ya, yb) = (scalar_of(&widen(uniform_a)), scalar_of(&widen(uniform_b)));
            let changed = |at: u8, text: &'static [u8]| if at == change { b"other".as_slice() } else { text };
            let a = share(&ya, b"words", b"channel", b"session").unwrap();
            let b = share(&yb, changed(0, b"words"), changed(1, b"channel"), changed(2, b"session")).unwrap();
            let key_a = shared_key(&ya, &b, b"session", Said { share: &a, data: b"A" }, Said { share: &b, data: b"B" });
            let session = changed(2, b"session");
            let key_b = shared_key(&yb, &a, session, Said { share: &a, data: changed(3, b"A") }, Said { share: &b, data: b"B" });
            prop_assert_eq!(key_a == key_b, change == 4);
        }
    }
}
