//! Any bytes may be a file that a training writes. What is whole says its own length: no piece of it is whole too.

use spotter_bucket::whole::structure::{self, Structure};

const NAMES: [&str; 7] = [
    "model.safetensors",
    "array.npy",
    "arrays.npz",
    "model.pt",
    "state.json",
    "model.bin",
    "notes.txt",
];

pub(crate) fn check(input: &[u8]) {
    // The first byte names the file, the second says where it is cut.
    let [name, cut, file @ ..] = input else {
        return;
    };
    let name = NAMES[usize::from(*name) % NAMES.len()];
    let whole = |bytes: &[u8]| matches!(structure::check(name, bytes), Ok(Structure::Whole(_)));
    let says_its_length = name.ends_with(".safetensors") || name.ends_with(".npy");
    if whole(file) && says_its_length {
        let piece = &file[..file.len() * usize::from(*cut) / 256];
        assert!(
            !whole(piece),
            "{} of {} bytes of {name}",
            piece.len(),
            file.len()
        );
    }
}
