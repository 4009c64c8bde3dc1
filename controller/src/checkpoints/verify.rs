//! Reads whole checkpoints in the bucket and says what of them is damaged.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;
use spotter_bucket::{
    BucketError, CommitId, Manifest, ManifestFile,
    download::{self, Damage, DownloadError},
    vault,
};

use super::Shelf;

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedFile {
    /// Relative to the checkpoint; the checkpoint's own name when it is a single file.
    pub path: String,
    /// Where its data is.
    pub key: String,
    /// How it is damaged.
    #[serde(flatten)]
    pub damage: Damage,
}

/// What was found of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The checkpoint.
    pub id: String,
    /// Its step; `None`: its name has none.
    pub step: Option<u64>,
    /// Bytes of its files; 0 when its commit cannot be read.
    pub size_bytes: u64,
    /// Why its commit cannot be believed; then no file was looked at.
    pub commit: Option<String>,
    /// Files that are not what was committed.
    pub files: Vec<DamagedFile>,
}

impl Verdict {
    /// Whether it would restore.
    pub fn is_whole(&self) -> bool {
        self.commit.is_none() && self.files.is_empty()
    }

    /// `whole`, or what is wrong with which file.
    pub fn text(&self) -> String {
        if let Some(why) = &self.commit {
            return why.clone();
        }
        let file = |file: &DamagedFile| format!("{}: {}", file.path, file.damage);
        match self.files.as_slice() {
            [] => "whole".to_owned(),
            [one] => file(one),
            [first, rest @ ..] => format!("{} (and {} more files)", file(first), rest.len()),
        }
    }
}

/// Up to this size files are read several at a time; a larger one is read in several places at once.
const SMALL_BYTES: u64 = 8 << 20;
/// Small files read at once.
const SMALL_IN_FLIGHT: usize = 16;

/// A box looks for marks so often, and at its start.
pub const HEARD_WITHIN: Duration = Duration::from_secs(300);

/// What was found of data that checkpoints may share, by its key and hash.
type Known<'a> = HashMap<(&'a str, &'a str), Option<Damage>>;

/// Reads every file of the checkpoints, data that they share only once. `progress` gets bytes done and in all.
///
/// # Errors
/// When the bucket gives no answer that says whether something is damaged.
pub async fn verify(
    shelf: &Shelf,
    commits: &[vault::Read],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Vec<Verdict>, DownloadError> {
    let known = examine_all(shelf, commits, progress).await?;
    let verdict = |(id, commit): &vault::Read| {
        let mut verdict = Verdict {
            id: id.to_string(),
            step: (id.step > 0).then_some(id.step),
            size_bytes: 0,
            commit: None,
            files: Vec::new(),
        };
        match commit {
            Err(reason) => verdict.commit = Some(reason.to_string()),
            Ok(manifest) => {
                verdict.step = manifest.step;
                verdict.size_bytes = manifest.total_bytes();
                verdict.files = damaged_files(manifest, &known);
            }
        }
        verdict
    };
    Ok(commits.iter().map(verdict).collect())
}

async fn examine_all<'a>(
    shelf: &Shelf,
    commits: &'a [vault::Read],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Known<'a>, DownloadError> {
    let mut known = Known::new();
    let mut seen = HashSet::new();
    let (small, large): (Vec<&ManifestFile>, Vec<&ManifestFile>) = commits
        .iter()
        .filter_map(|(_, commit)| commit.as_ref().ok())
        .flat_map(|manifest| &manifest.files)
        .filter(|file| seen.insert((file.key.as_str(), file.blake3.as_str())))
        .partition(|file| file.size_bytes <= SMALL_BYTES);
    let total: u64 = small.iter().chain(&large).map(|file| file.size_bytes).sum();
    let mut done = 0;
    progress(done, total);
    let look = |file: &'a ManifestFile| async move {
        let found = download::examine(&shelf.bucket, &shelf.bucket, file, &mut |_| {}).await;
        (file, found)
    };
    let mut looks = stream::iter(small)
        .map(look)
        .buffer_unordered(SMALL_IN_FLIGHT);
    while let Some((file, found)) = looks.next().await {
        done += file.size_bytes;
        progress(done, total);
        known.insert((&file.key, &file.blake3), found?);
    }
    drop(looks);
    for file in large {
        let mut tell = |bytes| progress(done + bytes, total);
        let found = download::examine(&shelf.bucket, &shelf.bucket, file, &mut tell).await?;
        done += file.size_bytes;
        progress(done, total);
        known.insert((&file.key, &file.blake3), found);
    }
    Ok(known)
}

fn damaged_files(manifest: &Manifest, known: &Known<'_>) -> Vec<DamagedFile> {
    let damaged = |file: &ManifestFile| {
        let damage = known.get(&(file.key.as_str(), file.blake3.as_str()))?;
        Some(DamagedFile {
            path: manifest.name_of(file).to_owned(),
            key: file.key.clone(),
            damage: damage.clone()?,
        })
    };
    manifest.files.iter().filter_map(damaged).collect()
}

/// What boxes are told by marks in the bucket: what is damaged, so that they store it anew and refer to none of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Commits that hold damaged data, each with what was found, among them such as were not asked about and share it.
    pub damaged: Vec<(CommitId, String)>,
    /// Commits that were found whole.
    pub whole: Vec<CommitId>,
}

/// Which commits are to be marked by what was found of some of them (pure). A commit that cannot be believed needs no mark: it restores nothing,
/// and no box refers to it.
pub fn marks(verdicts: &[Verdict], commits: &[vault::Read]) -> Marks {
    let damaged: HashSet<&str> = (verdicts.iter())
        .flat_map(|verdict| &verdict.files)
        .map(|file| file.key.as_str())
        .collect();
    let mut marks = Marks::default();
    for (id, commit) in commits {
        let Ok(manifest) = commit else { continue };
        let name = id.to_string();
        let verdict = verdicts.iter().find(|verdict| verdict.id == name);
        let holds_damaged = || {
            manifest
                .files
                .iter()
                .any(|file| damaged.contains(file.key.as_str()))
        };
        match verdict {
            Some(verdict) if verdict.is_whole() => marks.whole.push(*id),
            Some(verdict) => marks.damaged.push((*id, verdict.text())),
            None if holds_damaged() => {
                let why = "it shares data that was found damaged".to_owned();
                marks.damaged.push((*id, why));
            }
            None => {}
        }
    }
    marks
}

/// Puts marks that are not there and takes away those that are not true any more. Returns whether any was put.
///
/// # Errors
/// When the bucket refuses: boxes then go on as before.
pub async fn leave(shelf: &Shelf, marks: &Marks, now_us: u64) -> Result<bool, BucketError> {
    let vault = shelf.vault();
    let there = vault.damaged().await?;
    for id in marks.whole.iter().filter(|id| there.contains(*id)) {
        vault.unmark_damaged(id).await?;
    }
    let new = marks.damaged.iter().filter(|(id, _)| !there.contains(id));
    let mut put = false;
    for (id, why) in new {
        vault.mark_damaged(id, "verify", why, now_us).await?;
        put = true;
    }
    Ok(put)
}
