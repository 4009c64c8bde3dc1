//! What a checkpoint is: the manifest, put last, whose existence is the checkpoint's existence.
//!
//! Its own type with a format version; nothing of the gRPC contract appears here. See [`Manifest::seal`] and
//! [`Manifest::open`], the only ways in and out of bytes.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::hashes;
use crate::layout::{self, CommitId, NameError};
use crate::sorted::sort_by;

/// Largest manifest that is read, bytes: 100,000 files with long names and their parts fit.
pub const MAX_MANIFEST_BYTES: usize = 64 << 20;
/// Most files of one checkpoint.
pub const MAX_FILES: usize = 100_000;

/// Version of the format of a manifest without a [`Metric`].
pub const FORMAT: u32 = 1;
/// Version of one with it: a reader that does not know it would take it for altered.
pub const FORMAT_WITH_METRIC: u32 = 2;
/// Version of one whose parts are subtrees of their file's hash, see [`hashes`]: a reader that does not know them would take what it
/// restores for damaged.
pub const FORMAT_WITH_SUBTREES: u32 = 3;
/// Longest name of a metric, and longest text of its value.
const MAX_METRIC_BYTES: usize = 64;

/// One committed checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version, see [`FORMAT`].
    pub v: u32,
    /// Name of the commit: `<step, 12 digits>-<ulid>`.
    pub id: String,
    /// Run it belongs to.
    pub run: String,
    /// Attempt that wrote it, from 1.
    pub attempt: u32,
    /// Step, when the name of the checkpoint has a number.
    pub step: Option<u64>,
    /// Rule by which it was found complete, such as `generic` or `torch-zip`.
    pub rule: String,
    /// Path of the file or directory, relative to the checkpoint directory.
    pub path: String,
    /// Whether `path` is a directory.
    pub directory: bool,
    /// When it was committed, by the writer's clock, microseconds since the epoch.
    pub committed_us: u64,
    /// The same by the bucket's clock.
    pub server_us: u64,
    /// Id of the commit before this one, as far as the writer knew.
    pub prev: Option<String>,
    /// What the training's log said of it, where somebody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Every file, sorted by path.
    pub files: Vec<ManifestFile>,
    /// Reserved: how data is encoded; `None` means as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// blake3 over the canonical JSON of everything above with this field empty, hex.
    pub self_blake3: String,
}

/// A value of the training at a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, as the user wrote it.
    pub name: String,
    /// A finite decimal number. As a text, because every reader must find the bytes again that it read.
    pub value: String,
}

impl Metric {
    /// A value that was read; `None` when it is no finite number.
    pub fn new(name: &str, value: f64) -> Option<Self> {
        value.is_finite().then(|| Self {
            name: name.to_owned(),
            value: format!("{value:?}"),
        })
    }

    /// The value; not a number when the text is none, which [`Manifest::check`] excludes.
    pub fn value(&self) -> f64 {
        self.value.parse().unwrap_or(f64::NAN)
    }

    fn is_fine(&self) -> bool {
        let fits = |text: &str| (1..=MAX_METRIC_BYTES).contains(&text.len());
        let plain = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        // The number is written as ours are: nothing else can hide in it.
        let value = self.value();
        fits(&self.name)
            && plain(&self.name)
            && value.is_finite()
            && format!("{value:?}") == self.value
    }
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Relative to the checkpoint's path (empty when that is the file itself); never absolute, never with `..`.
    pub path: String,
    /// Unix permission bits.
    pub mode: u32,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// blake3 of the content, hex.
    pub blake3: String,
    /// Full key of the object that holds it; an older commit's when the file did not change.
    pub key: String,
    /// Part size of the upload in bytes; 0 when it went in one request.
    pub part_size_bytes: u64,
    /// Hash of each part as [`hashes`] writes it; empty when it went in one request.
    pub parts: Vec<String>,
}

/// Why bytes are no manifest that may be believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than any that we write.
    #[error("manifest of {0} bytes is larger than the {MAX_MANIFEST_BYTES} that are read")]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("manifest is damaged or not one")]
    Json(#[from] serde_json::Error),
    /// Written by a newer spotter.
    #[error(
        "manifest has format {0}, this spotter reads {FORMAT_WITH_SUBTREES}: it was written by a newer spotter, and a newer one is needed"
    )]
    Version(u32),
    /// Its hash of itself does not match, or its bytes are not the ones that were written.
    #[error("manifest does not match its own hash: it was damaged or altered")]
    Altered,
    /// A name in it would lead elsewhere.
    #[error("manifest names what it must not")]
    Name(#[from] NameError),
    /// What it says contradicts itself.
    #[error("manifest of commit {id:?} contradicts itself: {what}")]
    Content {
        /// Commit, as far as it says.
        id: String,
        /// The contradiction.
        what: String,
    },
}

/// Why a manifest that is there was not read, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// It restores nothing.
    Damaged(String),
    /// It is of a newer spotter: it is not damaged, and may refer to anything.
    Newer(String),
    /// It is larger than this spotter reads, and so is the same.
    TooLarge(String),
    /// The bucket does not give it out: it may refer to anything.
    Refused(String),
}

impl Unread {
    /// Whether it is whole for all that is known, so that nothing may be deleted to which it could refer.
    pub fn may_be_whole(&self) -> bool {
        !matches!(self, Self::Damaged(_))
    }
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Damaged(why) | Self::Newer(why) | Self::TooLarge(why) | Self::Refused(why)) =
            self;
        f.write_str(why)
    }
}

impl From<&ManifestError> for Unread {
    fn from(err: &ManifestError) -> Self {
        let mut text = err.to_string();
        let mut cause = std::error::Error::source(err);
        while let Some(err) = cause {
            text = format!("{text}: {err}");
            cause = err.source();
        }
        match err {
            ManifestError::Version(_) => Self::Newer(text),
            ManifestError::TooLarge(_) => Self::TooLarge(text),
            _ => Self::Damaged(text),
        }
    }
}

impl Manifest {
    /// What a file of it is called for people: one that is the whole checkpoint has the checkpoint's own name.
    pub fn name_of<'a>(&'a self, file: &'a ManifestFile) -> &'a str {
        match file.path.as_str() {
            "" => &self.path,
            path => path,
        }
    }

    /// The oldest version of the format that a manifest with these can have.
    pub fn format(metric: Option<&Metric>, files: &[ManifestFile]) -> u32 {
        if files.iter().any(ManifestFile::has_subtrees) {
            FORMAT_WITH_SUBTREES
        } else if metric.is_some() {
            FORMAT_WITH_METRIC
        } else {
            FORMAT
        }
    }

    /// Sorts the files, computes the hash and returns the canonical bytes: compact JSON, keys in the order of the type.
    pub fn seal(&mut self) -> Bytes {
        sort_by(&mut self.files, |a, b| a.path.cmp(&b.path));
        self.self_blake3.clear();
        self.self_blake3 = blake3::hash(&self.canonical()).to_hex().to_string();
        self.canonical().into()
    }

    /// Reads bytes that came from a bucket: version, hash and every name are verified before anything else may use them.
    pub fn open(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        // The version first: a newer format may not fit our type, and deserves a better message than that.
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let Version { v } = serde_json::from_slice(bytes)?;
        if !(FORMAT..=FORMAT_WITH_SUBTREES).contains(&v) {
            return Err(ManifestError::Version(v));
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        // Sealing again must give these very bytes: unknown fields, other spacing or order are alterations too.
        if manifest.clone().seal() != bytes {
            return Err(ManifestError::Altered);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Bytes that the files have together.
    pub fn total_bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size_bytes))
    }

    /// Everything but the hash: names stay inside, ids parse, sizes and parts agree.
    pub fn check(&self) -> Result<(), ManifestError> {
        let contradiction = |what: String| {
            Err(ManifestError::Content {
                id: self.id.chars().take(100).collect(),
                what,
            })
        };
        let id: CommitId = self.id.parse()?;
        layout::check_run(&self.run)?;
        layout::check_path(&self.path)?;
        if id.step != self.step.unwrap_or(0).min(layout::MAX_STEP) {
            return contradiction(format!("it says step {:?}", self.step));
        }
        if let Some(metric) = &self.metric
            && !metric.is_fine()
        {
            return contradiction(format!("its metric {metric:?} is none"));
        }
        if self.v < Self::format(self.metric.as_ref(), &self.files) {
            return contradiction(format!("it holds more than format {}", self.v));
        }
        if let Some(prev) = &self.prev {
            prev.parse::<CommitId>()?;
        }
        if let Some(encoding) = &self.encoding {
            return contradiction(format!("its encoding {encoding:?} is not known"));
        }
        if self.files.len() > MAX_FILES {
            return contradiction(format!(
                "{} files are more than the {MAX_FILES} that are read",
                self.files.len()
            ));
        }
        if !self.directory && !matches!(self.files.as_slice(), [file] if file.path.is_empty()) {
            return contradiction("it is a file, but does not hold exactly that one".to_owned());
        }
        let mut paths: HashSet<&str> = HashSet::new();
        let mut directories: HashSet<&str> = HashSet::new();
        for file in &self.files {
            file.check(&self.run, self.directory)
                .or_else(contradiction_or_name(&self.id))?;
            if !paths.insert(&file.path) {
                return contradiction(format!("{:?} is in it twice", file.path));
            }
            directories.extend(file.path.match_indices('/').map(|(at, _)| &file.path[..at]));
        }
        if let Some(both) = self
            .files
            .iter()
            .find(|file| directories.contains(file.path.as_str()))
        {
            return contradiction(format!("{:?} is both a file and a directory", both.path));
        }
        Ok(())
    }

    fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and lists always serialise")
    }
}

/// What is wrong with one file: a name, or a contradiction without the commit's id.
enum FileFault {
    Name(NameError),
    Content(String),
}

impl From<NameError> for FileFault {
    fn from(err: NameError) -> Self {
        Self::Name(err)
    }
}

fn contradiction_or_name(id: &str) -> impl FnOnce(FileFault) -> Result<(), ManifestError> {
    let id = id.chars().take(100).collect();
    move |fault| match fault {
        FileFault::Name(err) => Err(ManifestError::Name(err)),
        FileFault::Content(what) => Err(ManifestError::Content { id, what }),
    }
}

impl ManifestFile {
    fn check(&self, run: &str, directory: bool) -> Result<(), FileFault> {
        let path = &self.path;
        if directory {
            layout::check_path(path)?;
        }
        layout::check_path(&self.key)?;
        if !belongs_to(&self.key, run) {
            return Err(FileFault::Content(format!(
                "{path:?} lies at {:?}, which is not the run's",
                self.key
            )));
        }
        if self.mode & !0o7777 != 0 {
            return Err(FileFault::Content(format!(
                "{path:?} has mode {:o}",
                self.mode
            )));
        }
        let is_hash = |written: &String| hashes::is_hash(written);
        if !is_hash(&self.blake3)
            || hashes::is_subtree(&self.blake3)
            || !self.parts.iter().all(is_hash)
        {
            return Err(FileFault::Content(format!(
                "a hash of {path:?} is not 64 hexadecimal digits"
            )));
        }
        let parts = match self.part_size_bytes {
            0 => 0,
            part => self.size_bytes.div_ceil(part),
        };
        if parts != self.parts.len() as u64 {
            return Err(FileFault::Content(format!(
                "{path:?} has {} parts where {} bytes in parts of {} make {parts}",
                self.parts.len(),
                self.size_bytes,
                self.part_size_bytes
            )));
        }
        if self.has_subtrees() {
            let made = hashes::are_subtrees(self.part_size_bytes)
                .then(|| hashes::whole(self.parts.iter().map(String::as_str)))
                .flatten();
            if made.as_ref() != Some(&self.blake3) {
                return Err(FileFault::Content(format!(
                    "the parts of {path:?} do not make its hash"
                )));
            }
        }
        Ok(())
    }

    fn has_subtrees(&self) -> bool {
        self.parts.iter().any(|part| hashes::is_subtree(part))
    }
}

/// Whether a key lies under the data or the results of `run`, whatever the prefix before it.
fn belongs_to(key: &str, run: &str) -> bool {
    let mut components = key.split('/').peekable();
    while let Some(component) = components.next() {
        if component == run && matches!(components.peek(), Some(&("data" | "results"))) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
