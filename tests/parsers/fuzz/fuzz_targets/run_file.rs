//! Searches for bytes of which the check of `run_file` does not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parsers::check("run_file", input));
