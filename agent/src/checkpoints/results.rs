//! Files that were not checkpoints, kept next to them: final model, logs, metrics.
//!
//! `results/<id>/<path>` for each file and, last, the manifest `results/<id>.json`, of the same type as a checkpoint's. Nothing here
//! refers to a checkpoint's data, so retention never takes it away.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use spotter_bucket::ManifestFile;

use super::candidate::{Candidate, FileStat};
use super::commit::About;
use super::index::{Index, read_manifest};
use super::journal::{self, AttemptLog};
use super::places::Places;
use super::round::remove;
use super::standing::chain;
use super::upload::{Area, UploadError, Uploader};
use super::watch::Progress;
use super::{Backup, scan, source};
use crate::files::{self, HASHED_FILES_LIMIT, HashError, HashedFile};
use crate::tasks::spawn_blocking;

/// Times that a file which changes under its upload is read anew.
const TRIES: usize = 3;
/// What collections are called in journals and manifests.
const RESULTS: &str = "results";

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Results {
    /// Every file with its hash, sorted by path.
    pub files: Vec<HashedFile>,
    /// Paths that do not exist.
    pub missing: Vec<String>,
    /// Links in directories that are not followed, and lead to what is not kept with them either: what they mean is here alone.
    pub passed_over: Vec<String>,
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
    ///
    /// It may be dropped at any point, and whoever asks again goes on there: what was sent is noted, and not sent again; nor is a file
    /// that the newest manifest has. One who asks meanwhile waits for its end.
    pub async fn collect_results(
        &self,
        workdir: &Path,
        paths: &[String],
    ) -> Result<Results, ResultsError> {
        let mut last = self.collected.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.collect_once(workdir, paths, &mut last).await {
                // What is wrong with it is in the journal by now.
                Err(ResultsError::Upload(
                    err @ (UploadError::Changed | UploadError::Review { .. }),
                )) if tries < TRIES => {
                    tracing::info!(tries, error = %chain(&err), "results are collected anew");
                }
                // Nobody is there any more who wants them.
                Err(ResultsError::Upload(UploadError::Stopped)) => {
                    return Err(UploadError::Stopped.into());
                }
                // Whoever asked may be gone by then: why is on record.
                outcome => {
                    self.standing
                        .set_results(outcome.as_ref().err().map(|err| chain(err)));
                    return outcome;
                }
            }
        }
    }

    async fn collect_once(
        &self,
        workdir: &Path,
        paths: &[String],
        last: &mut Option<(Vec<FileStat>, Results)>,
    ) -> Result<Results, ResultsError> {
        let (dir, wanted) = (workdir.to_owned(), paths.to_vec());
        let (stats, missing, passed_over) = spawn_blocking(move || list(&dir, &wanted))
            .await
            .expect("listing files does not panic")?;
        if stats.is_empty() {
            return Ok(Results {
                missing,
                passed_over,
                ..Results::default()
            });
        }
        if let Some((_, kept)) = last.as_ref().filter(|(files, _)| *files == stats)
            && matches!(self.bucket.head(&kept.manifest_key).await, Ok(Some(_)))
        {
            return Ok(Results {
                missing,
                passed_over,
                ..kept.clone()
            });
        }
        let stop = self.retired.child_token();
        let (bucket, standing, places) = (&*self.bucket, &self.standing, &self.places);
        let before = Index::names(bucket, standing, &stop, &places.results_prefix()).await;
        let newest = match before.map_err(UploadError::from)?.first() {
            Some(id) => {
                let key = places.results_manifest_key(id);
                let read = read_manifest(bucket, standing, &stop, places, id, &key).await;
                read.map_err(UploadError::from)?.and_then(Result::ok)
            }
            None => None,
        };
        let candidate = Candidate {
            key: RESULTS.to_owned(),
            path: ".".into(),
            step: None,
            directory: true,
            unfinished: None,
            unreadable: None,
            files: stats,
        };
        let (mut log, others) = crate::aside(|| self.note(&candidate));
        let known: Vec<&ManifestFile> = (newest.iter().flat_map(|manifest| &manifest.files))
            .chain(others.iter().flat_map(|log| log.attempt.stored.values()))
            .collect();
        let uploader = Uploader {
            bucket,
            standing,
            stop: &stop,
            tempo: &self.tempo,
            places,
            area: Area::Results,
            dir: workdir,
            known: &known,
        };
        let sources = source::open_all(workdir, &candidate, false)
            .await
            .map_err(UploadError::from)?;
        let progress = Progress::of(self, Area::Results, candidate.size_bytes());
        let about = About {
            run: self.options.run.clone(),
            attempt: self.options.attempt,
            prev: None,
            metric: None,
        };
        uploader.store_all(&mut log, &sources).await?;
        let manifest = uploader.seal(&mut log, &sources, &about).await?;
        let bytes = log.attempt.sealed.clone().expect("it was just sealed");
        let manifest_key = uploader.publish(&manifest.id, Bytes::from(bytes)).await?;
        drop(progress);
        for log in others.into_iter().chain([log]) {
            remove(log).await;
        }
        let hashed = |file: ManifestFile| HashedFile {
            path: file.path,
            size_bytes: file.size_bytes,
            blake3: file.blake3,
        };
        let results = Results {
            files: manifest.files.into_iter().map(hashed).collect(),
            missing,
            passed_over,
            manifest_key,
        };
        *last = Some((candidate.files, results.clone()));
        Ok(results)
    }

    /// Where journals of collections are.
    pub(super) fn collecting(&self) -> PathBuf {
        self.state_dir.join(RESULTS)
    }

    /// The journal to go on with, or a new one; and those of files that are others now.
    fn note(&self, candidate: &Candidate) -> (AttemptLog, Vec<AttemptLog>) {
        let dir = self.collecting();
        let noted = fs::create_dir_all(&dir).and_then(|()| journal::load(&dir));
        let mut logs = noted.unwrap_or_else(|err| {
            tracing::warn!(dir = %dir.display(), error = %err, "journals of results cannot be read; their upload begins anew");
            Vec::new()
        });
        let resumes = |log: &AttemptLog| log.attempt.candidate.files == candidate.files;
        if let Some(at) = logs.iter().position(resumes) {
            return (logs.remove(at), logs);
        }
        let id = Places::new_id(None, self.server_us() / 1_000);
        let (log, problem) = AttemptLog::create(&dir, &id, RESULTS, candidate);
        if let Some(err) = problem {
            tracing::warn!(error = %err, "the journal of results cannot be written; their upload goes on without it");
        }
        (log, logs)
    }
}

/// Regular files, paths of which there is nothing, and links that lead elsewhere.
type Listed = (Vec<FileStat>, Vec<String>, Vec<String>);

/// Regular files under the named paths and patterns, sorted; those of which there is nothing; and the links that lead to what is not
/// among them. A link to a file is that file, as it is for whoever opens it.
fn list(workdir: &Path, paths: &[String]) -> Result<Listed, HashError> {
    let mut found = BTreeMap::new();
    let each = &mut |path: &Path, metadata: &fs::Metadata| add(path, metadata, &mut found);
    let taken = files::every_file(workdir, paths, each)?;
    let names = taken.links.iter().map(|link| link.display().to_string());
    let passed_over = names.collect();
    Ok((found.into_values().collect(), taken.missing, passed_over))
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
