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
        "manifest has format {0}, this spotter reads {FORMAT_WITH_SUBTREES}: a newer one is needed"
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "000000000012-01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn file(path: &str) -> ManifestFile {
        ManifestFile {
            path: path.to_owned(),
            mode: 0o644,
            mtime_ns: 1_700_000_000_123_456_789,
            size_bytes: 5,
            blake3: blake3::hash(b"hello").to_hex().to_string(),
            key: format!(
                "pre/run/data/{ID}/{}",
                if path.is_empty() { "ckpt.pt" } else { path }
            ),
            part_size_bytes: 0,
            parts: Vec::new(),
        }
    }

    fn manifest(files: Vec<ManifestFile>) -> Manifest {
        Manifest {
            v: FORMAT,
            id: ID.to_owned(),
            run: "run".to_owned(),
            attempt: 1,
            step: Some(12),
            rule: "generic".to_owned(),
            path: "checkpoint-12".to_owned(),
            directory: true,
            committed_us: 1,
            server_us: 2,
            prev: None,
            metric: None,
            files,
            encoding: None,
            self_blake3: String::new(),
        }
    }

    /// Seals a manifest after `spoil` and says whether it opens.
    fn opens(spoil: impl FnOnce(&mut Manifest)) -> Result<Manifest, ManifestError> {
        let mut manifest = manifest(vec![file("b/c"), file("a")]);
        spoil(&mut manifest);
        Manifest::open(&manifest.seal())
    }

    #[test]
    fn what_was_sealed_opens_again_with_its_files_sorted() {
        let opened = opens(|_| {}).unwrap();
        assert_eq!(
            opened
                .files
                .iter()
                .map(|file| file.path.as_str())
                .collect::<Vec<_>>(),
            ["a", "b/c"]
        );
        assert_eq!(opened.total_bytes(), 10);
    }

    #[test]
    fn the_canonical_bytes_never_change() {
        // A changed hash here means that every manifest in every bucket has become unreadable.
        let bytes = manifest(vec![file("a")]).seal();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with(r#"{"v":1,"id":"000000000012-01ARZ3NDEKTSV4RRFFQ69G5FAV","run":"run","attempt":1,"step":12,"#), "{text}");
        assert!(!text.contains("encoding"), "{text}");
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "903fcc05cd80ffa1623b14d74a43b2ae5ddfaedadece843ae4921d6a9d164669"
        );
    }

    #[test]
    fn a_metric_is_a_finite_number_of_the_newer_format() {
        let with = |v: u32, name: &str, value: &str| {
            opens(|m| {
                m.v = v;
                m.metric = Some(Metric {
                    name: name.to_owned(),
                    value: value.to_owned(),
                });
            })
        };
        for value in [2.5, -1e-300, 1e300, 0.1 + 0.2, 3.0] {
            let metric = Metric::new("val_loss", value).unwrap();
            let opened = with(FORMAT_WITH_METRIC, &metric.name, &metric.value).unwrap();
            assert_eq!(opened.metric.unwrap().value(), value);
        }
        assert_eq!(Metric::new("val_loss", f64::NAN), None);
        for (v, name, value) in [
            (FORMAT, "val_loss", "2.5"),
            (FORMAT_WITH_METRIC, "", "2.5"),
            (FORMAT_WITH_METRIC, "val_loss", "2.50"),
            (FORMAT_WITH_METRIC, "val_loss", "NaN"),
            (FORMAT_WITH_METRIC, "val_loss", "inf"),
            (FORMAT_WITH_METRIC, "val_loss", ""),
            (FORMAT_WITH_METRIC, "\u{1b}[2J", "2.5"),
        ] {
            assert!(with(v, name, value).is_err(), "{v} {name} {value}");
        }
        assert!(opens(|m| m.v = FORMAT_WITH_METRIC).is_ok());
        let newer = with(4, "val_loss", "2.5").unwrap_err();
        assert!(matches!(newer, ManifestError::Version(4)), "{newer}");
    }

    #[test]
    fn a_single_file_has_an_empty_path() {
        assert!(opens(|m| (m.directory, m.files) = (false, vec![file("")])).is_ok());
        assert!(opens(|m| m.directory = false).is_err());
        assert!(opens(|m| m.files = vec![file("")]).is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused_even_with_a_right_hash() {
        for path in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "a\0",
            "./a",
            "a/",
        ] {
            let err = opens(|m| m.files[0].path = path.to_owned()).unwrap_err();
            assert!(matches!(err, ManifestError::Name(_)), "{path}: {err:?}");
        }
        for key in [
            "",
            "/x",
            "other/data/x",
            "pre/run/commits/x",
            "pre/run/data/../x",
            "run",
        ] {
            assert!(opens(|m| m.files[0].key = key.to_owned()).is_err(), "{key}");
        }
        assert!(opens(|m| m.path = "../..".to_owned()).is_err());
        assert!(opens(|m| m.run = "a/b".to_owned()).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(opens(|m| m.files[1].path = m.files[0].path.clone()).is_err());
        assert!(
            opens(|m| m.files[1].path = "b".to_owned()).is_err(),
            "file and directory"
        );
        assert!(opens(|m| m.id = "12".to_owned()).is_err());
        assert!(opens(|m| m.step = Some(13)).is_err());
        assert!(opens(|m| m.prev = Some("x".to_owned())).is_err());
        assert!(opens(|m| m.encoding = Some("zstd".to_owned())).is_err());
        assert!(opens(|m| m.files[0].mode = 0o100_644).is_err());
        assert!(opens(|m| m.files[0].blake3.push('0')).is_err());
        assert!(
            opens(|m| m.files[0].part_size_bytes = 3).is_err(),
            "two parts, no hashes"
        );
        assert!(
            opens(|m| {
                m.files[0].part_size_bytes = 3;
                m.files[0].parts = vec![m.files[0].blake3.clone(); 2];
            })
            .is_ok()
        );
    }

    #[test]
    fn parts_that_are_subtrees_make_the_files_hash_in_the_newest_format() {
        let bytes = [7_u8; 2500];
        let part = |at: usize, size: usize| {
            let mut hasher = hashes::RangeHasher::part(at as u64);
            hasher.update(&bytes[at..(at + size).min(bytes.len())]);
            hasher.finish()
        };
        let parts: Vec<String> = (0..3).map(|number| part(number * 1024, 1024)).collect();
        let with = |v: u32, part_size_bytes: u64, parts: &[String]| {
            opens(|m| {
                m.v = v;
                let file = &mut m.files[0];
                file.size_bytes = 2500;
                file.blake3 = blake3::hash(&bytes).to_hex().to_string();
                (file.part_size_bytes, file.parts) = (part_size_bytes, parts.to_vec());
            })
        };
        let opened = with(FORMAT_WITH_SUBTREES, 1024, &parts).unwrap();
        assert_eq!(Manifest::format(None, &opened.files), FORMAT_WITH_SUBTREES);
        assert!(with(FORMAT_WITH_METRIC, 1024, &parts).is_err());
        assert!(
            with(FORMAT_WITH_SUBTREES, 1000, &parts).is_err(),
            "no subtrees"
        );
        let mut mixed = parts.clone();
        mixed[1] = blake3::hash(&bytes[1024..2048]).to_hex().to_string();
        assert!(with(FORMAT_WITH_SUBTREES, 1024, &mixed).is_err());
        let mut swapped = parts;
        swapped.swap(0, 1);
        assert!(with(FORMAT_WITH_SUBTREES, 1024, &swapped).is_err());
        assert!(opens(|m| m.files[0].blake3.insert_str(0, "tree-")).is_err());
    }

    #[test]
    fn a_newer_format_is_named_as_such() {
        assert!(matches!(opens(|m| m.v = 4), Err(ManifestError::Version(4))));
        assert!(matches!(
            Manifest::open(br#"{"v":7,"all":"else differs"}"#),
            Err(ManifestError::Version(7))
        ));
        assert!(matches!(Manifest::open(b""), Err(ManifestError::Json(_))));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in 0_usize..10_000, value in any::<u8>()) {
            let mut bytes = manifest(vec![file("b/c"), file("a")]).seal().to_vec();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != value);
            bytes[at] = value;
            prop_assert!(Manifest::open(&bytes).is_err());
        }

        #[test]
        fn any_cut_or_addition_is_noticed(cut in 0_usize..10_000, tail in proptest::collection::vec(any::<u8>(), 1..20)) {
            let bytes = manifest(vec![file("a")]).seal().to_vec();
            prop_assert!(Manifest::open(&bytes[..cut % bytes.len()]).is_err());
            prop_assert!(Manifest::open(&[bytes.as_slice(), tail.as_slice()].concat()).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(Manifest::open(&bytes).is_err());
        }

        #[test]
        fn whatever_opens_stays_inside(path in "[a-c./\\x00]{0,12}") {
            if let Ok(opened) = opens(|m| m.files[0].path = path.clone()) {
                for file in &opened.files {
                    let inside = std::path::Path::new(&file.path)
                        .components()
                        .all(|component| matches!(component, std::path::Component::Normal(_)));
                    prop_assert!(inside && !file.path.contains('\0'), "{:?}", file.path);
                }
            }
        }
    }
}
