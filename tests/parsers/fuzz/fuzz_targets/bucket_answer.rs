//! Searches for bytes of which the check of `bucket_answer` does not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parsers::check("bucket_answer", input));
