//! What a run's boxes left in the bucket besides checkpoints: final model, logs, metrics. It is there when the box is gone.

use glob::{MatchOptions, Pattern};
use spotter_bucket::{Bucket, BucketError, CommitId, Manifest, ManifestFile};

use super::Shelf;

/// The newest collection; `None`: there is none. The inner error says how it is damaged.
pub async fn newest(shelf: &Shelf) -> Result<Option<Result<Manifest, String>>, BucketError> {
    let prefix = shelf.layout.results_prefix();
    let listed = shelf.bucket.list(&prefix).await?;
    let id = |key: &str| -> Option<CommitId> {
        key.strip_prefix(&prefix)?
            .strip_suffix(".json")?
            .parse()
            .ok()
    };
    let found = listed
        .iter()
        .filter_map(|object| Some((id(&object.key)?, &object.key)));
    let Some((_, key)) = found.max_by_key(|(id, _)| (id.made_ms(), *id)) else {
        return Ok(None);
    };
    let bytes = shelf.bucket.get(key, None).await?;
    let opened = Manifest::open(&bytes).map_err(|err| crate::error::chain(&err));
    Ok(Some(opened.and_then(|manifest| {
        match manifest.run == shelf.run && manifest.directory {
            true => Ok(manifest),
            false => Err(format!("it says it is of run {}", manifest.run)),
        }
    })))
}

/// Files that paths and patterns mean, and those of which there is nothing (pure). The same words mean the same on a box.
pub fn choose(files: &[ManifestFile], paths: &[String]) -> (Vec<ManifestFile>, Vec<String>) {
    let mut missing = Vec::new();
    let mut wanted = vec![false; files.len()];
    for path in paths {
        let clean = path.trim_start_matches("./").trim_end_matches('/');
        let mut any = false;
        for (file, wanted) in files.iter().zip(&mut wanted) {
            if means(clean, &file.path) {
                (*wanted, any) = (true, true);
            }
        }
        if !any {
            missing.push(path.clone());
        }
    }
    let chosen = files.iter().zip(wanted).filter(|(_, wanted)| *wanted);
    (chosen.map(|(file, _)| file.clone()).collect(), missing)
}

/// Whether a path or pattern means a file, or a directory above it.
fn means(path: &str, file: &str) -> bool {
    let options = MatchOptions {
        require_literal_separator: true,
        ..MatchOptions::default()
    };
    let above = file.match_indices('/').map(|(at, _)| &file[..at]);
    let mut places = above.chain([file]);
    if path.is_empty() || path == "." {
        return true;
    }
    match Pattern::new(path) {
        Ok(pattern) => places.any(|place| place == path || pattern.matches_with(place, options)),
        Err(_) => places.any(|place| place == path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_patterns_mean_files_and_all_below_a_directory() {
        let check = |path: &str, file: &str, expected: bool| {
            assert_eq!(means(path, file), expected, "{path} {file}");
        };
        check("out/final.pt", "out/final.pt", true);
        check("out", "out/deep/final.pt", true);
        check("out", "outer/final.pt", false);
        check("*.pt", "a.pt", true);
        check("*.pt", "out/a.pt", false);
        check("**/*.pt", "out/a.pt", true);
        check("**/*.pt", "a.pt", true);
        check("out/**", "out/deep/a.pt", true);
        check("ckpt-*", "ckpt-1/model", true);
        check("[x].log", "[x].log", true);
        check("[", "[", true);
        check(".", "a", true);
    }
}
