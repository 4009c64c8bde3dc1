//! What fuzzing learned is asked again, every time.
#![allow(clippy::unwrap_used, reason = "a test may hope")]

use std::{fs, path::Path};

use parsers::CHECKS;

#[test]
fn every_input_of_the_corpus_is_still_read_or_refused() {
    for (name, check) in CHECKS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            // Named before it is tried: a panic then says of which.
            eprintln!("{}", path.display());
            check(&fs::read(&path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 5, "{inputs} inputs of {name}");
    }
}
