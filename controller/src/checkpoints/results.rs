//! What a run's boxes left in the bucket besides checkpoints: final model, logs, metrics. It is there when the box is gone.

use glob::{MatchOptions, Pattern};
use spotter_bucket::{Bucket, BucketError, CommitId, ErrorKind, Layout, Manifest, ManifestFile};

use super::Shelf;

/// The newest collection; `None`: there is none. The inner error says how it is damaged.
pub async fn newest(shelf: &Shelf) -> Result<Option<Result<Manifest, String>>, BucketError> {
    let listed = shelf.bucket.list(&shelf.layout.results_prefix()).await?;
    let found = listed
        .iter()
        .filter_map(|object| Some((manifest_of_key(&shelf.layout, &object.key)?, &object.key)));
    let Some((_, key)) = found.max_by_key(|(id, _)| (id.made_ms(), *id)) else {
        return Ok(None);
    };
    read(shelf, key).await.map(Some)
}

/// The collection with its manifest at a key. The inner error says how it is damaged, or that it is not there.
pub async fn read(shelf: &Shelf, key: &str) -> Result<Result<Manifest, String>, BucketError> {
    if manifest_of_key(&shelf.layout, key).is_none() {
        return Ok(Err(format!("{key} is no key of results")));
    }
    let bytes = match shelf.bucket.get(key, None).await {
        Ok(bytes) => bytes,
        Err(err) if err.kind == ErrorKind::NotFound => return Ok(Err("it is gone".to_owned())),
        Err(err) => return Err(err),
    };
    let opened = Manifest::open(&bytes).map_err(|err| crate::error::chain(&err));
    Ok(opened.and_then(
        |manifest| match manifest.run == shelf.run && manifest.directory {
            true => Ok(manifest),
            false => Err(format!("it says it is of run {}", manifest.run)),
        },
    ))
}

/// The collection that a key is the manifest of.
pub fn manifest_of_key(layout: &Layout, key: &str) -> Option<CommitId> {
    let name = key.strip_prefix(&layout.results_prefix())?;
    name.strip_suffix(".json")?.parse().ok()
}

/// The collection that the object at a key is part of.
pub fn file_of_key(layout: &Layout, key: &str) -> Option<CommitId> {
    let (id, _) = key
        .strip_prefix(&layout.results_prefix())?
        .split_once('/')?;
    id.parse().ok()
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
