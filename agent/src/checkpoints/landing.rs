//! Where a restored checkpoint comes down: names, files and proof. All of it blocks on the disk.
//!
//! Names come from a bucket: each must be one that our own scan would have given, and nothing is written outside the directory.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::statvfs::statvfs;
use spotter_bucket::download::{self, DownloadError, Job};
use spotter_bucket::layout::check_path;
use spotter_bucket::whole::beside;
use spotter_bucket::{Manifest, ManifestFile};

use super::candidate::{Candidate, FLAT_RULE};
use super::names::{self, PARTIAL_SUFFIX};
use super::pointer;
use super::scan;
use super::structure::{self, Structure};
use crate::{fault, files};

mod disk;

use disk::{finish_directory, remove, remove_other_partials, replace, time_of};

/// Files put on the disk for good at once: it answers several nearly as soon as one, and thousands of small ones wait for nothing else.
const FINISHERS: usize = 4;

/// Why a checkpoint did not come down.
#[derive(Debug)]
pub enum Damage {
    /// What the bucket gave is not what was committed.
    Content(String),
    /// The disk refused.
    Disk {
        /// File or directory in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl From<DownloadError> for Damage {
    fn from(err: DownloadError) -> Damage {
        match err {
            DownloadError::Disk { path, source } => Damage::Disk { path, source },
            other => Damage::Content(other.to_string()),
        }
    }
}

/// The place of one checkpoint in the checkpoint directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landing {
    dir: PathBuf,
    /// Name of the file or directory, one component.
    name: String,
    directory: bool,
    /// Its files belong side by side into the checkpoint directory.
    flat: bool,
}

/// Bytes free in the checkpoint directory, which is made where it is missing.
pub fn free_bytes(dir: &Path) -> Result<u64, Damage> {
    let failed = |source: io::Error| Damage::Disk {
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(failed)?;
    let stat = statvfs(dir).map_err(|err| failed(err.into()))?;
    // The types differ between targets, so the casts are needed on some of them.
    #[allow(clippy::unnecessary_cast)]
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

impl Landing {
    /// Checks every name of a manifest. The error says which one is refused, and why.
    pub fn plan(dir: &Path, manifest: &Manifest) -> Result<Landing, String> {
        let flat = manifest.directory && manifest.rule.split('+').next() == Some(FLAT_RULE);
        let name = manifest.path.clone();
        check_path(&name).map_err(|err| err.to_string())?;
        if name.contains('/') || names::is_ignored(&name) {
            return Err(format!("{name:?} is no name of a checkpoint"));
        }
        for file in &manifest.files {
            if manifest.directory {
                check_path(&file.path).map_err(|err| err.to_string())?;
            }
            let lies_flat =
                || names::is_candidate_file(&file.path) || beside::is_description(&file.path);
            if flat && (file.path.contains('/') || !lies_flat()) {
                return Err(format!("{:?} is no name of a checkpoint's file", file.path));
            }
        }
        if manifest.files.is_empty() {
            return Err("it holds no file".to_owned());
        }
        Ok(Landing {
            dir: dir.to_owned(),
            name,
            directory: manifest.directory,
            flat,
        })
    }

    /// Absolute path for the trainer.
    pub fn path(&self) -> PathBuf {
        if self.flat {
            self.dir.clone()
        } else {
            self.dir.join(&self.name)
        }
    }

    fn partial(&self) -> PathBuf {
        self.dir.join(format!("{}{PARTIAL_SUFFIX}", self.name))
    }

    fn partial_file(&self, file: &ManifestFile) -> PathBuf {
        if self.directory {
            self.partial().join(&file.path)
        } else {
            self.partial()
        }
    }

    fn final_file(&self, file: &ManifestFile) -> PathBuf {
        let path = self.path();
        if self.directory {
            path.join(&file.path)
        } else {
            path
        }
    }

    /// Whether every file lies there already with the very content: after an interruption on the same box nothing is fetched.
    pub fn is_there(&self, manifest: &Manifest) -> bool {
        let there = |file: &ManifestFile| {
            download::is_there(&Job {
                file: file.clone(),
                path: self.final_file(file),
            })
        };
        manifest.files.iter().all(there)
    }

    /// Where each file comes down before it gets its name. What an interrupted restore left there is gone on with.
    pub fn prepare(&self, manifest: &Manifest) -> Result<Vec<Job>, Damage> {
        let partial = self.partial();
        remove_other_partials(&self.dir, &partial);
        let job = |file: &ManifestFile| Job {
            file: file.clone(),
            path: self.partial_file(file),
        };
        let jobs: Vec<Job> = manifest.files.iter().map(job).collect();
        fault::point("landing.prepare", "before");
        download::make_room(&partial, &jobs)?;
        fault::point("landing.prepare", "after");
        Ok(jobs)
    }

    /// Judges each file by its own format, gives it its mode and time, and puts it on the disk for good.
    pub fn finish(&self, manifest: &Manifest) -> Result<(), Damage> {
        let share = manifest.files.len().div_ceil(FINISHERS).max(1);
        thread::scope(|scope| {
            let finish = move |files: &[ManifestFile]| {
                files
                    .iter()
                    .try_for_each(|file| self.finish_file(manifest, file))
            };
            let shares = manifest.files.chunks(share);
            let threads: Vec<_> = shares
                .map(|files| scope.spawn(move || finish(files)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("finishing files does not panic"))
        })?;
        if self.directory {
            let dir = self.partial();
            finish_directory(&dir, "", manifest)
                .map_err(|source| Damage::Disk { path: dir, source })?;
        }
        Ok(())
    }

    fn finish_file(&self, manifest: &Manifest, file: &ManifestFile) -> Result<(), Damage> {
        let path = self.partial_file(file);
        let disk = |source| Damage::Disk {
            path: path.clone(),
            source,
        };
        let shown = if file.path.is_empty() {
            &manifest.path
        } else {
            &file.path
        };
        let handle = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(disk)?;
        if let Structure::Broken(reason) = structure::check(shown, &handle).map_err(disk)? {
            return Err(Damage::Content(format!("{shown:?} is not whole: {reason}")));
        }
        // Whoever may have restored it must be able to read it; other people's special bits stay in the bucket.
        handle
            .set_permissions(fs::Permissions::from_mode(file.mode & 0o777 | 0o400))
            .map_err(disk)?;
        handle.set_modified(time_of(file.mtime_ns)).map_err(disk)?;
        fault::point("landing.finish", "before");
        handle.sync_all().map_err(disk)?;
        fault::point("landing.finish", "after");
        Ok(())
    }

    /// Removes what came down so far. A remainder takes space and does no other harm; the next restore removes it too.
    pub fn abandon(&self) {
        Landing::remove_remainder(&self.partial());
    }

    fn remove_remainder(path: &Path) {
        if let Err(err) = remove(path) {
            tracing::warn!(path = %path.display(), error = %err, "the remainder of a failed restore could not be removed");
        }
    }

    /// Bytes of the files that an interrupted restore brought to the disk already.
    pub fn landed_bytes(&self, manifest: &Manifest) -> u64 {
        let landed = |file: &ManifestFile| {
            fs::symlink_metadata(self.partial_file(file))
                .map_or(0, |found| (found.blocks() * 512).min(file.size_bytes))
        };
        manifest.files.iter().map(landed).sum()
    }

    /// Gives the files their names. What lies there under the same name is moved aside, never deleted: it may be newer and unsaved.
    pub fn install(&self, manifest: &Manifest) -> Result<(), Damage> {
        let failed = |source| Damage::Disk {
            path: self.path(),
            source,
        };
        if self.flat {
            for file in &manifest.files {
                replace(&self.partial_file(file), &self.final_file(file)).map_err(failed)?;
            }
            remove(&self.partial()).map_err(failed)?;
        } else {
            replace(&self.partial(), &self.path()).map_err(failed)?;
        }
        if let Some((name, content)) = pointer::of(&manifest.rule, &self.name) {
            let path = self.dir.join(name);
            files::write_durably(&path, content.as_bytes())
                .map_err(|source| Damage::Disk { path, source })?;
        }
        fault::point("landing.sync", "before");
        files::sync_dir(&self.dir).map_err(failed)
    }

    /// The candidate that a scan would find, so that it is known to be saved.
    pub fn candidate(&self, manifest: &Manifest) -> Result<Candidate, Damage> {
        let mut stats = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let path = self.final_file(file);
            let metadata = fs::metadata(&path).map_err(|source| Damage::Disk {
                path: path.clone(),
                source,
            })?;
            stats.push(scan::stat_of(&file.path, &metadata));
        }
        let name = &self.name;
        let key = match (self.directory && !self.flat, names::step_of(name)) {
            (true, _) => format!("dir:{name}"),
            (false, Some(step)) => format!("step:{step}"),
            (false, None) if self.flat => {
                format!("{}{}", beside::KEY, name.trim_end_matches(beside::SUFFIX))
            }
            (false, None) => format!("file:{name}"),
        };
        Ok(Candidate {
            key,
            path: if self.flat {
                ".".to_owned()
            } else {
                self.name.clone()
            },
            step: manifest.step,
            directory: self.directory,
            unfinished: None,
            unreadable: None,
            files: stats,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str, rule: &str, directory: bool, paths: &[&str]) -> Manifest {
        let file = |path: &&str| ManifestFile {
            path: (*path).into(),
            mode: 0o640,
            mtime_ns: 1_700_000_000_123_456_789,
            size_bytes: 4,
            blake3: blake3::hash(b"data").to_hex().to_string(),
            key: "run/data/x".into(),
            part_size_bytes: 0,
            parts: Vec::new(),
        };
        Manifest {
            v: 1,
            id: "000000000005-01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
            run: "run".into(),
            attempt: 1,
            step: Some(5),
            rule: rule.into(),
            path: path.into(),
            directory,
            committed_us: 0,
            server_us: 0,
            prev: None,
            metric: None,
            files: paths.iter().map(file).collect(),
            encoding: None,
            self_blake3: String::new(),
        }
    }

    #[test]
    fn names_that_lead_out_of_the_directory_or_hide_in_it_are_refused() {
        let dir = Path::new("/checkpoints");
        let check = |path: &str, rule: &str, directory: bool, paths: &[&str], fine: bool| {
            let planned = Landing::plan(dir, &manifest(path, rule, directory, paths));
            assert_eq!(planned.is_ok(), fine, "{path} {paths:?}: {planned:?}");
        };
        check("step_5.pt", "torch-zip", false, &[""], true);
        check(
            "checkpoint-5",
            "generic",
            true,
            &["model.pt", "deep/er/rng.pth", ".metadata"],
            true,
        );
        check(
            "step-5",
            "flat-step+json",
            true,
            &["model_5.pt", "meta_5.json"],
            true,
        );
        for path in [
            "../step_5.pt",
            "/etc/step_5.pt",
            "a/step_5.pt",
            ".bashrc",
            "..",
            "",
            ".",
            "x.spotter-partial",
        ] {
            check(path, "generic", false, &[""], false);
        }
        for file in ["../x.pt", "/etc/passwd", "a/../../x", "", "a//b", "."] {
            check("checkpoint-5", "generic", true, &["model.pt", file], false);
        }
        for file in ["deep/model_5.pt", ".bashrc", "authorized_keys", "run.sh"] {
            check("step-5", "flat-step", true, &[file], false);
        }
        check("checkpoint-5", "generic", true, &[], false);
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_what_it_points_at_is_left_alone() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        fs::write(&victim, b"mine").unwrap();
        for name in [
            "step_5.pt",
            "step_5.pt.spotter-partial",
            "step_5.pt.spotter-replaced",
        ] {
            std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
        }
        let manifest = manifest("step_5.pt", "generic", false, &[""]);
        let landing = Landing::plan(dir.path(), &manifest).unwrap();
        assert!(!landing.is_there(&manifest));
        for job in landing.prepare(&manifest).unwrap() {
            fs::write(job.path, b"data").unwrap();
        }
        landing.finish(&manifest).unwrap();
        landing.install(&manifest).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!(fs::read(dir.path().join("step_5.pt")).unwrap(), b"data");
    }

    #[test]
    fn a_restored_directory_has_its_modes_and_times_and_what_it_replaced_is_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest("checkpoint-5", "generic", true, &["deep/a.dat", "b.dat"]);
        fs::create_dir(dir.path().join("checkpoint-5")).unwrap();
        fs::write(dir.path().join("checkpoint-5/newer"), b"unsaved").unwrap();
        let landing = Landing::plan(dir.path(), &manifest).unwrap();
        fs::write(dir.path().join("checkpoint-4.spotter-partial"), b"old").unwrap();
        for job in landing.prepare(&manifest).unwrap() {
            fs::write(job.path, b"data").unwrap();
        }
        landing.finish(&manifest).unwrap();
        assert!(!dir.path().join("checkpoint-4.spotter-partial").exists());
        landing.install(&manifest).unwrap();
        assert!(landing.is_there(&manifest));
        let stat = scan::stat_of(
            "",
            &fs::metadata(dir.path().join("checkpoint-5/deep/a.dat")).unwrap(),
        );
        assert_eq!(
            (stat.mode, stat.mtime_ns),
            (0o640, 1_700_000_000_123_456_789)
        );
        for folder in ["checkpoint-5", "checkpoint-5/deep"] {
            let metadata = fs::metadata(dir.path().join(folder)).unwrap();
            assert_eq!(metadata.modified().unwrap(), time_of(stat.mtime_ns));
        }
        assert_eq!(
            fs::read(dir.path().join("checkpoint-5.spotter-replaced/newer")).unwrap(),
            b"unsaved"
        );
        let found = scan::scan(dir.path()).unwrap().remove(0);
        let ours = landing.candidate(&manifest).unwrap();
        assert_eq!((ours.key, ours.path), (found.key, found.path));
    }
}
