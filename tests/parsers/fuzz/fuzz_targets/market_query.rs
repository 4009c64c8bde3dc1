//! Searches for bytes of which the check of `market_query` does not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parsers::check("market_query", input));
