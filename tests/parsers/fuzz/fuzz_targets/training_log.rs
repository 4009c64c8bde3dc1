//! Searches for bytes of which the check of `training_log` does not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parsers::check("training_log", input));
