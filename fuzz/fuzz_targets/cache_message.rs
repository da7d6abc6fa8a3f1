#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peers_cache::fuzzing::cache_message(data));
