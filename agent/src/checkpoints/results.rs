//! Files that were not checkpoints, kept next to them: final model, logs, metrics.
//!
//! `results/<id>/<path>` for each file and, last, the manifest `results/<id>.json`, of the same type as a checkpoint's. Nothing here
//! refers to a checkpoint's data, so retention never takes it away.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use spotter_bucket::{Manifest, manifest};
use tokio::task;
use tokio_util::sync::CancellationToken;

use super::candidate::{Candidate, FileStat};
use super::commit::now_us;
use super::journal::AttemptLog;
use super::places::Places;
use super::standing::chain;
use super::upload::{Area, UploadError, Uploader};
use super::{Backup, scan, source};
use crate::files::{self, HASHED_FILES_LIMIT, HashError, HashedFile};

/// Times that a file which changes under its upload is read anew.
const TRIES: usize = 3;

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Results {
    /// Every file with its hash, sorted by path.
    pub files: Vec<HashedFile>,
    /// Paths that do not exist.
    pub missing: Vec<String>,
    /// Key of the manifest; empty when there was nothing to keep.
    pub manifest_key: String,
}

/// Why results were not kept.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// A path that may not be read, or could not.
    #[error("results were not collected")]
    Files(#[from] HashError),
    /// The upload failed.
    #[error("results were not uploaded")]
    Upload(#[from] UploadError),
}

impl Backup {
    /// Uploads files and directories, relative to the working directory, with a manifest that is read back.
    pub async fn collect_results(
        &self,
        workdir: &Path,
        paths: &[String],
    ) -> Result<Results, ResultsError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.collect_once(workdir, paths).await {
                Err(ResultsError::Upload(UploadError::Changed)) if tries < TRIES => {
                    tracing::info!(tries, "a result changed during its upload, beginning anew");
                }
                outcome => return outcome,
            }
        }
    }

    async fn collect_once(
        &self,
        workdir: &Path,
        paths: &[String],
    ) -> Result<Results, ResultsError> {
        let (dir, wanted) = (workdir.to_owned(), paths.to_vec());
        let (stats, missing) = task::spawn_blocking(move || list(&dir, &wanted))
            .await
            .expect("listing files does not panic")?;
        if stats.is_empty() {
            return Ok(Results {
                missing,
                ..Results::default()
            });
        }
        let id = Places::new_id(None, now_us() / 1_000);
        let candidate = Candidate {
            key: id.clone(),
            path: ".".into(),
            step: None,
            directory: true,
            unfinished: None,
            unreadable: None,
            files: stats,
        };
        let stop = CancellationToken::new();
        let uploader = Uploader {
            bucket: &*self.bucket,
            standing: &self.standing,
            stop: &stop,
            tempo: &self.tempo,
            places: &self.places,
            area: Area::Results,
            dir: workdir,
            known: &[],
        };
        let sources = source::open_all(workdir, &candidate, false)
            .await
            .map_err(UploadError::from)?;
        let mut log = AttemptLog::in_memory(&id, "results", &candidate);
        uploader
            .store_all(&mut log, &sources)
            .await
            .inspect_err(|err| {
                tracing::warn!(error = %chain(err), "results were not uploaded");
            })?;
        uploader.review_objects(&mut log).await?;
        let committed_us = now_us();
        let mut manifest = Manifest {
            v: manifest::FORMAT,
            id: id.clone(),
            run: self.options.run.clone(),
            attempt: self.options.attempt,
            step: None,
            rule: "results".to_owned(),
            path: "results".to_owned(),
            directory: true,
            committed_us,
            server_us: committed_us
                .saturating_add_signed((self.bucket.clock_offset_s() * 1e6) as i64),
            prev: None,
            metric: None,
            files: log.attempt.stored.values().cloned().collect(),
            encoding: None,
            self_blake3: String::new(),
        };
        let bytes = manifest.seal();
        manifest.check().map_err(UploadError::Manifest)?;
        let manifest_key = uploader.publish(&id, bytes).await?;
        let hashed = |file: spotter_bucket::ManifestFile| HashedFile {
            path: file.path,
            size_bytes: file.size_bytes,
            blake3: file.blake3,
        };
        Ok(Results {
            files: manifest.files.into_iter().map(hashed).collect(),
            missing,
            manifest_key,
        })
    }
}

/// Regular files under the named paths and patterns, sorted; and those of which there is nothing. Links inside directories are not followed.
fn list(workdir: &Path, paths: &[String]) -> Result<(Vec<FileStat>, Vec<String>), HashError> {
    let mut found = BTreeMap::new();
    let (meant, missing) = files::expand(workdir, paths)?;
    for relative in &meant {
        let failed = |source| HashError::Read {
            path: relative.display().to_string(),
            source,
        };
        let metadata = fs::metadata(workdir.join(relative)).map_err(failed)?;
        if metadata.is_dir() {
            walk(workdir, relative, &mut found)?;
        } else {
            add(relative, &metadata, &mut found)?;
        }
    }
    Ok((found.into_values().collect(), missing))
}

fn walk(
    workdir: &Path,
    relative: &Path,
    found: &mut BTreeMap<PathBuf, FileStat>,
) -> Result<(), HashError> {
    let failed = |source| HashError::Read {
        path: relative.display().to_string(),
        source,
    };
    for entry in fs::read_dir(workdir.join(relative)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let child = relative.join(entry.file_name());
        if kind.is_dir() {
            walk(workdir, &child, found)?;
        } else if kind.is_file() {
            add(&child, &entry.metadata().map_err(failed)?, found)?;
        }
    }
    Ok(())
}

fn add(
    relative: &Path,
    metadata: &fs::Metadata,
    found: &mut BTreeMap<PathBuf, FileStat>,
) -> Result<(), HashError> {
    if found.len() >= HASHED_FILES_LIMIT {
        return Err(HashError::TooMany);
    }
    found.insert(
        relative.to_owned(),
        scan::stat_of(&relative.to_string_lossy(), metadata),
    );
    Ok(())
}
