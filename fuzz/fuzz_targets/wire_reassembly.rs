#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peers_wire::fuzzing::wire_reassembly(data));
