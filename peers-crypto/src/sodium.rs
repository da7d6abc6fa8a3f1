//! Safe wrappers of the libsodium functions that this crate uses; the only `unsafe` code of the workspace.
//!
//! Sizes are array types, so that no length can be wrong; failure is `None` or `false`.
#![expect(unsafe_code, reason = "libsodium is a C library: every call is unsafe, and made here alone")]

use core::ffi::{c_char, c_ulonglong};
use core::ops::{Deref, DerefMut};
use core::ptr::{NonNull, null, null_mut};
use std::sync::Once;

use libsodium_sys as c;

/// Bytes of the authentication tag of [`CHACHA`] and [`XCHACHA`].
pub(crate) const POLY_TAG: usize = 16;
/// Bytes of the authentication tag of [`AEGIS`]: libsodium has no shorter one.
pub(crate) const AEGIS_TAG: usize = 32;

/// Lets libsodium choose the fastest implementation for this processor; cheap after the first call.
fn ready() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: no arguments; may be called from any thread.
        let started = unsafe { c::sodium_init() };
        assert!(started >= 0, "libsodium does not start");
    });
}

/// `N` secret bytes in pages of their own: locked (not swapped) where the system allows, between guard pages, zeroed when dropped.
pub(crate) struct Locked<const N: usize>(NonNull<[u8; N]>);

// SAFETY: the memory belongs to this value alone and is reached only through its borrow.
unsafe impl<const N: usize> Send for Locked<N> {}
// SAFETY: as above; a shared borrow only reads.
unsafe impl<const N: usize> Sync for Locked<N> {}

impl<const N: usize> Locked<N> {
    /// All zero.
    pub(crate) fn zeroed() -> Self {
        ready();
        // SAFETY: the size is N; the result is null or N writable bytes.
        let memory = unsafe { c::sodium_malloc(N) }.cast::<[u8; N]>();
        let memory = NonNull::new(memory).unwrap_or_else(|| std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; N]>()));
        // SAFETY: N writable bytes, as above; bytes need no alignment.
        unsafe { memory.as_ptr().write([0; N]) };
        Self(memory)
    }
}

impl<const N: usize> Deref for Locked<N> {
    type Target = [u8; N];
    fn deref(&self) -> &[u8; N] {
        // SAFETY: initialised in `zeroed`, valid until dropped.
        unsafe { self.0.as_ref() }
    }
}

impl<const N: usize> DerefMut for Locked<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

impl<const N: usize> Drop for Locked<N> {
    fn drop(&mut self) {
        // SAFETY: came from `sodium_malloc`, and is freed once; this zeroes it.
        unsafe { c::sodium_free(self.0.as_ptr().cast()) };
    }
}

/// Whether the bytes are equal, in time that depends only on the lengths.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    // SAFETY: both are readable for the length.
    a.len() == b.len() && unsafe { c::sodium_memcmp(a.as_ptr().cast(), b.as_ptr().cast(), a.len()) } == 0
}

/// An incremental BLAKE2b.
pub(crate) struct Blake2b<const OUT: usize>(c::crypto_generichash_blake2b_state);

impl<const OUT: usize> Blake2b<OUT> {
    /// Starts a hash of `OUT` (16..=64) bytes under `key` (0..=64 bytes; empty: none).
    pub(crate) fn new(key: &[u8]) -> Self {
        const { assert!(OUT >= 16 && OUT <= 64) };
        assert!(key.len() <= 64);
        ready();
        let mut state = core::mem::MaybeUninit::uninit();
        // SAFETY: the state is writable, the key readable for its length, the sizes are in range: the call fills the state.
        let state = unsafe {
            c::crypto_generichash_blake2b_init(state.as_mut_ptr(), key.as_ptr(), key.len(), OUT);
            state.assume_init()
        };
        Self(state)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) -> &mut Self {
        // SAFETY: an initialised state and readable bytes.
        unsafe { c::crypto_generichash_blake2b_update(&mut self.0, bytes.as_ptr(), bytes.len() as c_ulonglong) };
        self
    }

    pub(crate) fn finish(mut self) -> [u8; OUT] {
        let mut out = [0; OUT];
        // SAFETY: an initialised state and OUT writable bytes.
        unsafe { c::crypto_generichash_blake2b_final(&mut self.0, out.as_mut_ptr(), OUT) };
        out
    }
}

impl<const OUT: usize> Drop for Blake2b<OUT> {
    fn drop(&mut self) {
        // SAFETY: the state is plain writable memory of this size.
        unsafe { c::sodium_memzero((&raw mut self.0).cast(), size_of_val(&self.0)) };
    }
}

/// SHA-512 of the parts, one after the other.
pub(crate) fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    let mut state = core::mem::MaybeUninit::uninit();
    let mut out = [0; 64];
    // SAFETY: `init` fills the state before it is used; the parts are readable, the output has 64 bytes.
    unsafe {
        c::crypto_hash_sha512_init(state.as_mut_ptr());
        for part in parts {
            c::crypto_hash_sha512_update(state.as_mut_ptr(), part.as_ptr(), part.len() as c_ulonglong);
        }
        c::crypto_hash_sha512_final(state.as_mut_ptr(), out.as_mut_ptr());
        c::sodium_memzero(state.as_mut_ptr().cast(), size_of::<c::crypto_hash_sha512_state>());
    }
    out
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    // SAFETY: readable bytes, 32 writable ones.
    unsafe { c::crypto_hash_sha256(out.as_mut_ptr(), bytes.as_ptr(), bytes.len() as c_ulonglong) };
    out
}

/// Writes the Ed25519 secret key (seed, then public key) of a seed; returns the public key.
pub(crate) fn ed25519_keypair(seed: &[u8; 32], secret: &mut [u8; 64]) -> [u8; 32] {
    ready();
    let mut public = [0; 32];
    // SAFETY: the arrays have the sizes that the function names.
    unsafe { c::crypto_sign_ed25519_seed_keypair(public.as_mut_ptr(), secret.as_mut_ptr(), seed.as_ptr()) };
    public
}

pub(crate) fn ed25519_sign(secret: &[u8; 64], message: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    // SAFETY: a secret key of 64 bytes, a readable message, 64 writable bytes.
    unsafe {
        c::crypto_sign_ed25519_detached(
            signature.as_mut_ptr(),
            null_mut(),
            message.as_ptr(),
            message.len() as c_ulonglong,
            secret.as_ptr(),
        );
    }
    signature
}

/// Refuses small-order and non-canonical keys, and a scalar that is not reduced.
pub(crate) fn ed25519_verify(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    ready();
    let length = message.len() as c_ulonglong;
    let check = || {
        // SAFETY: arrays of the sizes that the function names, a readable message.
        unsafe { c::crypto_sign_ed25519_verify_detached(signature.as_ptr(), message.as_ptr(), length, public.as_ptr()) == 0 }
    };
    #[cfg(feature = "memo")]
    return crate::memo::genuine(public, message, signature, check);
    #[cfg(not(feature = "memo"))]
    check()
}

/// The X25519 form of an Ed25519 public key: `None` if it is not on the curve, of small or mixed order, or not canonical.
pub(crate) fn ed25519_to_x25519(public: &[u8; 32]) -> Option<[u8; 32]> {
    ready();
    // 2^255 - 19, little-endian: libsodium reduces a larger y without a word.
    let canonical = {
        let mut y = *public;
        y[31] &= 0x7f;
        !(y[31] == 0x7f && y[1..31].iter().all(|b| *b == 0xff) && y[0] >= 0xed)
    };
    let convert = || {
        let mut out = [0; 32];
        // SAFETY: two arrays of 32 bytes.
        let valid = canonical && unsafe { c::crypto_sign_ed25519_pk_to_curve25519(out.as_mut_ptr(), public.as_ptr()) } == 0;
        valid.then_some(out)
    };
    #[cfg(feature = "memo")]
    return crate::memo::exchange(public, convert);
    #[cfg(not(feature = "memo"))]
    convert()
}

/// Writes the X25519 form of an Ed25519 secret key.
pub(crate) fn ed25519_secret_to_x25519(secret: &[u8; 64], out: &mut [u8; 32]) {
    // SAFETY: arrays of 64 and 32 bytes.
    unsafe { c::crypto_sign_ed25519_sk_to_curve25519(out.as_mut_ptr(), secret.as_ptr()) };
}

/// The X25519 public key of a secret one.
pub(crate) fn x25519_public(secret: &[u8; 32]) -> [u8; 32] {
    ready();
    let multiply = || {
        let mut out = [0; 32];
        // SAFETY: two arrays of 32 bytes.
        unsafe { c::crypto_scalarmult_curve25519_base(out.as_mut_ptr(), secret.as_ptr()) };
        out
    };
    #[cfg(feature = "memo")]
    return crate::memo::public(secret, multiply);
    #[cfg(not(feature = "memo"))]
    multiply()
}

/// X25519: `None` if the result is all zero (a public key of small order).
pub(crate) fn x25519(secret: &[u8; 32], public: &[u8; 32]) -> Option<[u8; 32]> {
    ready();
    let multiply = || {
        let mut out = [0; 32];
        // SAFETY: three arrays of 32 bytes.
        let valid = unsafe { c::crypto_scalarmult_curve25519(out.as_mut_ptr(), secret.as_ptr(), public.as_ptr()) } == 0;
        valid.then_some(out)
    };
    #[cfg(feature = "memo")]
    return crate::memo::shared(secret, public, multiply);
    #[cfg(not(feature = "memo"))]
    multiply()
}

/// The ristretto255 group (RFC 9496): a hash of 64 bytes to an element.
pub(crate) fn ristretto_from_hash(hash: &[u8; 64]) -> [u8; 32] {
    ready();
    let mut out = [0; 32];
    // SAFETY: arrays of 32 and 64 bytes.
    unsafe { c::crypto_core_ristretto255_from_hash(out.as_mut_ptr(), hash.as_ptr()) };
    out
}

/// `scalar * element`: `None` if the element is not a canonical encoding, or the result is the identity.
pub(crate) fn ristretto_multiply(scalar: &[u8; 32], element: &[u8; 32]) -> Option<[u8; 32]> {
    ready();
    let mut out = [0; 32];
    // SAFETY: three arrays of 32 bytes.
    let valid = unsafe { c::crypto_scalarmult_ristretto255(out.as_mut_ptr(), scalar.as_ptr(), element.as_ptr()) } == 0;
    valid.then_some(out)
}

/// 64 uniform bytes to a scalar below the order of the group.
pub(crate) fn ristretto_scalar(uniform: &[u8; 64]) -> [u8; 32] {
    let mut out = [0; 32];
    // SAFETY: arrays of 32 and 64 bytes.
    unsafe { c::crypto_core_ristretto255_scalar_reduce(out.as_mut_ptr(), uniform.as_ptr()) };
    out
}

/// Argon2id 1.3 with `passes` over `memory` bytes: `None` if the memory cannot be had or a parameter is out of range.
pub(crate) fn argon2id<const N: usize>(passphrase: &[u8], salt: &[u8; 16], passes: u32, memory: u64) -> Option<Locked<N>> {
    let mut out = Locked::zeroed();
    // SAFETY: the output has N bytes, the salt 16, the passphrase is readable for its length.
    let done = unsafe {
        c::crypto_pwhash(
            out.as_mut_ptr(),
            N as c_ulonglong,
            passphrase.as_ptr().cast::<c_char>(),
            passphrase.len() as c_ulonglong,
            salt.as_ptr(),
            c_ulonglong::from(passes),
            usize::try_from(memory).ok()?,
            c::crypto_pwhash_ALG_ARGON2ID13.cast_signed(),
        )
    };
    (done == 0).then_some(out)
}

/// Whether this processor does AES in hardware and libsodium uses it, so that AEGIS is the faster cipher.
pub(crate) fn has_hardware_aes() -> bool {
    ready();
    // SAFETY: no arguments.
    unsafe { (c::sodium_runtime_has_aesni() != 0 && c::sodium_runtime_has_avx() != 0) || c::sodium_runtime_has_armcrypto() != 0 }
}

type Encrypt = unsafe extern "C" fn(
    *mut u8,
    *mut u8,
    *mut c_ulonglong,
    *const u8,
    c_ulonglong,
    *const u8,
    c_ulonglong,
    *const u8,
    *const u8,
    *const u8,
) -> i32;
type Decrypt =
    unsafe extern "C" fn(*mut u8, *mut u8, *const u8, c_ulonglong, *const u8, *const u8, c_ulonglong, *const u8, *const u8) -> i32;

/// An authenticated cipher: its sizes as `KEY`, `NONCE` and `TAG`.
pub(crate) struct Aead<const KEY: usize, const NONCE: usize, const TAG: usize> {
    encrypt: Encrypt,
    decrypt: Decrypt,
}

/// ChaCha20-Poly1305 (RFC 8439).
pub(crate) const CHACHA: Aead<32, 12, POLY_TAG> =
    Aead { encrypt: c::crypto_aead_chacha20poly1305_ietf_encrypt_detached, decrypt: c::crypto_aead_chacha20poly1305_ietf_decrypt_detached };
/// XChaCha20-Poly1305: its nonce is long enough to be random.
pub(crate) const XCHACHA: Aead<32, 24, POLY_TAG> = Aead {
    encrypt: c::crypto_aead_xchacha20poly1305_ietf_encrypt_detached,
    decrypt: c::crypto_aead_xchacha20poly1305_ietf_decrypt_detached,
};
/// AEGIS-128L (draft-irtf-cfrg-aegis-aead).
pub(crate) const AEGIS: Aead<16, 16, AEGIS_TAG> =
    Aead { encrypt: c::crypto_aead_aegis128l_encrypt_detached, decrypt: c::crypto_aead_aegis128l_decrypt_detached };

impl<const KEY: usize, const NONCE: usize, const TAG: usize> Aead<KEY, NONCE, TAG> {
    /// Appends the ciphertext of `plaintext`, then the tag, to `out`; allocates only if `out` has no room.
    #[inline]
    pub(crate) fn seal(&self, key: &[u8; KEY], nonce: &[u8; NONCE], data: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
        let length = plaintext.len();
        out.reserve(length + TAG);
        let start = out.len();
        let spare = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `spare` has room for `length + TAG` bytes (reserved above), which the call writes all: ciphertext, then tag; `plaintext`
        // is borrowed beside `out` and cannot overlap it; key and nonce have the sizes of this cipher.
        unsafe {
            (self.encrypt)(
                spare,
                spare.add(length),
                null_mut(),
                plaintext.as_ptr(),
                length as c_ulonglong,
                data.as_ptr(),
                data.len() as c_ulonglong,
                null(),
                nonce.as_ptr(),
                key.as_ptr(),
            );
            out.set_len(start + length + TAG);
        }
    }

    /// Decrypts `sealed` (ciphertext, then tag) into memory of its own; `None` if it is not genuine.
    #[inline]
    pub(crate) fn open_apart(&self, key: &[u8; KEY], nonce: &[u8; NONCE], data: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (text, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut out = Vec::with_capacity(text.len());
        // SAFETY: `out` has room for as many bytes as `text` has, which a successful call writes all; the tag has TAG bytes, key and nonce the sizes
        // of this cipher.
        unsafe {
            let genuine = (self.decrypt)(
                out.as_mut_ptr(),
                null_mut(),
                text.as_ptr(),
                text.len() as c_ulonglong,
                tag.as_ptr(),
                data.as_ptr(),
                data.len() as c_ulonglong,
                nonce.as_ptr(),
                key.as_ptr(),
            ) == 0;
            genuine.then(|| {
                out.set_len(text.len());
                out
            })
        }
    }

    /// Decrypts `sealed` (ciphertext, then tag) in place; returns the plaintext, or `None` (the bytes are then zeroed) if it is not genuine.
    #[inline]
    pub(crate) fn open<'a>(&self, key: &[u8; KEY], nonce: &[u8; NONCE], data: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (text, tag) = sealed.split_last_chunk_mut::<TAG>()?;
        // SAFETY: libsodium decrypts in place when input and output are the same; the tag has TAG bytes, key and nonce the sizes of this cipher.
        let genuine = unsafe {
            (self.decrypt)(
                text.as_mut_ptr(),
                null_mut(),
                text.as_ptr(),
                text.len() as c_ulonglong,
                tag.as_ptr(),
                data.as_ptr(),
                data.len() as c_ulonglong,
                nonce.as_ptr(),
                key.as_ptr(),
            )
        } == 0;
        genuine.then_some(text)
    }
}

/// The bare cipher calls beside which a session is measured.
#[cfg(feature = "bare")]
pub mod bare {
    use super::{AEGIS, AEGIS_TAG, Aead, CHACHA, POLY_TAG, c_ulonglong, null, null_mut};
    use crate::session::Cipher;

    /// Bytes of plaintext.
    pub const LENGTH: usize = 1024;
    /// Room for the plaintext and the longest tag.
    pub type Buffer = [u8; LENGTH + AEGIS_TAG];

    /// What the cheapest forger of a first datagram computes: the code of any body, under a key that it has at hand.
    pub fn coded(responder: &peers_wire::PeerId, datagram: &[u8]) -> [u8; 16] {
        let mut hash = super::Blake2b::new(&responder.0);
        hash.update(&datagram[..datagram.len() - 32]);
        hash.finish()
    }

    /// Seals `plaintext` into `buffer` and opens it there, with two calls of libsodium and nothing else.
    pub fn seal_and_open(cipher: Cipher, plaintext: &[u8; LENGTH], buffer: &mut Buffer) -> bool {
        match cipher {
            Cipher::Aegis128l => calls::<16, 16, AEGIS_TAG>(&AEGIS, plaintext, buffer),
            Cipher::ChaCha20Poly1305 => calls::<32, 12, POLY_TAG>(&CHACHA, plaintext, buffer),
        }
    }

    #[inline]
    fn calls<const KEY: usize, const NONCE: usize, const TAG: usize>(
        cipher: &Aead<KEY, NONCE, TAG>,
        plaintext: &[u8; LENGTH],
        buffer: &mut Buffer,
    ) -> bool {
        const { assert!(TAG <= AEGIS_TAG) };
        let (key, nonce) = ([7; KEY], [9; NONCE]);
        let (text, tag) = buffer.split_at_mut(LENGTH);
        // SAFETY: LENGTH readable and writable bytes, room for the tag, key and nonce of this cipher's sizes.
        unsafe {
            (cipher.encrypt)(
                text.as_mut_ptr(),
                tag.as_mut_ptr(),
                null_mut(),
                plaintext.as_ptr(),
                LENGTH as c_ulonglong,
                null(),
                0,
                null(),
                nonce.as_ptr(),
                key.as_ptr(),
            );
            (cipher.decrypt)(
                text.as_mut_ptr(),
                null_mut(),
                text.as_ptr(),
                LENGTH as c_ulonglong,
                tag.as_ptr(),
                null(),
                0,
                nonce.as_ptr(),
                key.as_ptr(),
            ) == 0
        }
    }
}
