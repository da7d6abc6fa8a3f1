#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peers_crypto::fuzzing::crypto_group(data));
