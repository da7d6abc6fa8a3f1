#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peers_nat::fuzzing::nat_agent(data));
