//! Where the embedded probe is put so that it can be started: a file of ours first, memory second, other directories last.
//!
//! A file in the agent's own directory comes first, because that directory is by construction writable and executable,
//! and because security scanners raise an alarm on programs that run from memory.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use miniz_oxide::inflate::decompress_to_vec_with_limit;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::ProbeConfig;

/// The probe for glibc 2.17 and later, deflated; of no bytes in a plain cargo build.
static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nvml-probe.deflate"));

/// Size of the probe, bytes, in decimal digits.
const EMBEDDED_BYTES: &str = env!("SPOTTER_PROBE_BYTES");

/// Tells one embedded probe from another.
const TAG: &str = env!("SPOTTER_PROBE_TAG");

/// Last resorts, for a home that is read-only or mounted noexec.
const OTHER_DIRECTORIES: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];

/// A way to get a program that can be started.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// A program that exists already.
    Program(PathBuf),
    /// The embedded one as a file that is kept, in a directory of ours.
    Kept(PathBuf),
    /// The embedded one in memory.
    Memory,
    /// The embedded one as a file in a directory that others use too; removed after the start.
    Passing(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(path) => write!(f, "{}", path.display()),
            Self::Kept(dir) | Self::Passing(dir) => write!(f, "in {}", dir.display()),
            Self::Memory => write!(f, "from memory"),
        }
    }
}

/// A program that can be started; what need not stay is removed when this is dropped.
#[derive(Debug)]
pub enum Image {
    /// A file that stays.
    File(PathBuf),
    /// A file in memory.
    Memory(OwnedFd),
    /// A file in a directory of its own; both go.
    Passing {
        /// The program.
        path: PathBuf,
        /// The directory around it.
        dir: PathBuf,
    },
}

impl Image {
    /// What to execute.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) | Self::Passing { path, .. } => path.clone(),
            Self::Memory(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into(),
        }
    }

    /// Whether there is such a file at all; an executable one may still lack its loader.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Self::Passing { path, dir } = self {
            // A leftover costs half a megabyte until the next boot; there is nothing better to do about it.
            let _ = fs::remove_file(path);
            let _ = fs::remove_dir(dir);
        }
    }
}

/// All places for this configuration, best first; empty when there is no program at all.
pub fn places(config: &ProbeConfig) -> Vec<Place> {
    if let Some(program) = &config.program {
        return vec![Place::Program(program.clone())];
    }
    if embedded_bytes() == 0 {
        let beside = std::env::current_exe()
            .ok()
            .and_then(|own| Some(own.parent()?.join("nvml-probe")));
        return beside
            .filter(|path| path.exists())
            .map(Place::Program)
            .into_iter()
            .collect();
    }
    for_embedded(&config.dir)
}

/// Where the embedded program may go, best first.
fn for_embedded(own: &Path) -> Vec<Place> {
    let others = OTHER_DIRECTORIES
        .iter()
        .map(|dir| Place::Passing(dir.into()));
    [Place::Kept(own.to_owned()), Place::Memory]
        .into_iter()
        .chain(others)
        .collect()
}

impl Place {
    /// Makes the program exist there.
    ///
    /// # Errors
    /// When it cannot be written; whether it may be executed shows only at the start.
    pub fn image(&self) -> io::Result<Image> {
        match self {
            Self::Program(path) => Ok(Image::File(path.clone())),
            Self::Kept(dir) => keep(dir, TAG, embedded_bytes(), unpack).map(Image::File),
            Self::Memory => in_memory(&unpack()?).map(Image::Memory),
            Self::Passing(dir) => pass(dir, &unpack()?),
        }
    }
}

fn embedded_bytes() -> usize {
    EMBEDDED_BYTES
        .parse()
        .expect("the build script writes a number")
}

fn unpack() -> io::Result<Vec<u8>> {
    let damaged = |err| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the embedded probe is damaged: {err}"),
        )
    };
    decompress_to_vec_with_limit(EMBEDDED, embedded_bytes()).map_err(damaged)
}

/// Writes the program aside, syncs and renames it, so that what has the name is whole; a file that is there stays.
fn keep(
    dir: &Path,
    tag: &str,
    length: usize,
    program: impl FnOnce() -> io::Result<Vec<u8>>,
) -> io::Result<PathBuf> {
    let path = dir.join(format!("nvml-probe-{tag}"));
    if fs::symlink_metadata(&path)
        .is_ok_and(|found| found.is_file() && found.len() == length as u64)
    {
        return Ok(path);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    remove_older(dir);
    let aside = dir.join(format!(".nvml-probe-{tag}.{}", process::id()));
    let program = program()?;
    let written = write_program(&aside, &program).and_then(|()| fs::rename(&aside, &path));
    if let Err(err) = written {
        // Half a program is worth nothing; the first error is the one to tell.
        let _ = fs::remove_file(&aside);
        return Err(err);
    }
    Ok(path)
}

/// Programs of earlier agents; a running one keeps its file open.
fn remove_older(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("nvml-probe-") || name.starts_with(".nvml-probe-") {
            // One that cannot be removed costs half a megabyte.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A fresh directory that only we can enter, so that nobody can exchange the program before it starts.
fn pass(dir: &Path, program: &[u8]) -> io::Result<Image> {
    let dir = dir.join(format!(".spotter-probe-{}-{:08x}", process::id(), nonce()));
    DirBuilder::new().mode(0o700).create(&dir)?;
    let path = dir.join("nvml-probe");
    let image = Image::Passing {
        path: path.clone(),
        dir,
    };
    write_program(&path, program)?;
    Ok(image)
}

/// Not secret: it only keeps two names apart, `create` refuses a name that exists.
fn nonce() -> u32 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos())
}

fn write_program(path: &Path, program: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o500)
        .open(path)?;
    file.write_all(program)?;
    file.sync_all()
}

fn in_memory(program: &[u8]) -> io::Result<OwnedFd> {
    /// Asks for a file that may be executed where the system's default forbids it; unknown to kernels before 6.3, and to
    /// the crate that wraps the call.
    const MFD_EXEC: MFdFlags = MFdFlags::from_bits_retain(0x10);
    let fd = match memfd_create(c"nvml-probe", MFdFlags::MFD_CLOEXEC | MFD_EXEC) {
        Err(Errno::EINVAL) => memfd_create(c"nvml-probe", MFdFlags::MFD_CLOEXEC),
        made => made,
    }?;
    let mut file = File::from(fd);
    file.write_all(program)?;
    Ok(file.into())
}

#[cfg(test)]
#[path = "../../../../tests/skip.rs"]
mod skip;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    /// Stands in for the probe.
    const SCRIPT: &[u8] = b"#!/bin/sh\nexit 7\n";

    fn exit_code(path: &Path) -> Option<i32> {
        Command::new(path).status().unwrap().code()
    }

    #[test]
    fn a_kept_program_is_whole_private_and_replaces_older_ones() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(".spotter");
        let old = keep(&dir, "old", 5, || Ok(b"older".to_vec())).unwrap();
        let path = keep(&dir, "new", SCRIPT.len(), || Ok(SCRIPT.to_vec())).unwrap();
        assert!(!old.exists());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o500
        );
        assert_eq!(exit_code(&path), Some(7));
        let made = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(
            keep(&dir, "new", SCRIPT.len(), || Ok(SCRIPT.to_vec())).unwrap(),
            path
        );
        assert_eq!(
            fs::metadata(&path).unwrap().modified().unwrap(),
            made,
            "it is not written again"
        );
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            1,
            "nothing is left aside"
        );
    }

    #[test]
    fn a_damaged_program_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("nvml-probe-x"), b"half").unwrap();
        assert_eq!(
            exit_code(&keep(root.path(), "x", SCRIPT.len(), || Ok(SCRIPT.to_vec())).unwrap()),
            Some(7)
        );
    }

    #[test]
    fn a_passing_program_runs_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let image = pass(root.path(), SCRIPT).unwrap();
        assert_eq!(exit_code(&image.path()), Some(7));
        drop(image);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_program_in_memory_runs() {
        // A script would need its file to stay open past the start, so a real program stands in here.
        let fd = match in_memory(&fs::read("/bin/true").unwrap()) {
            Ok(fd) => fd,
            Err(err) => return skip::skip(&format!("this system denies memfd_create ({err})")),
        };
        assert_eq!(exit_code(&Image::Memory(fd).path()), Some(0));
    }

    #[test]
    fn our_own_directory_comes_first_then_memory_then_what_others_use_too() {
        let names: Vec<String> = for_embedded(Path::new("/root/.spotter"))
            .iter()
            .map(Place::to_string)
            .collect();
        assert_eq!(
            names,
            [
                "in /root/.spotter",
                "from memory",
                "in /tmp",
                "in /var/tmp",
                "in /dev/shm",
                "in /run"
            ]
        );
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        // Below a file nobody writes, not even root.
        let kept = keep(&file.join("dir"), "x", 1, || Ok(SCRIPT.to_vec()));
        assert_eq!(kept.unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert!(pass(&file, SCRIPT).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_plain_build_uses_the_program_it_is_given() {
        let mut config = ProbeConfig::new(Path::new("/home/user"));
        config.program = Some("/opt/probe".into());
        assert_eq!(places(&config), [Place::Program("/opt/probe".into())]);
    }
}
