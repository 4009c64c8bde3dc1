//! Searches for bytes of which the check of `manifest` does not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parsers::check("manifest", input));
