//! Searches for bytes of which the check of `checkpoint_file` does not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parsers::check("checkpoint_file", input));
