//! What a bucket gives as a manifest is refused, or is exactly what we would write, with names that stay inside.

use spotter_bucket::{layout::check_path, manifest::Manifest};

pub(crate) fn check(bytes: &[u8]) {
    // Nobody guesses a hash: the bytes as they came, and once more as one who can compute it would forge them.
    let opened = Manifest::open(bytes).ok();
    let forged = || {
        let mut manifest: Manifest = serde_json::from_slice(bytes).ok()?;
        Manifest::open(&manifest.seal()).ok()
    };
    if let Some(manifest) = opened.or_else(forged) {
        // A checkpoint that is one file has no name of its own.
        for file in &manifest.files {
            assert!(
                file.path.is_empty() || check_path(&file.path).is_ok(),
                "{:?}",
                file.path
            );
        }
        manifest.total_bytes();
    }
}
