//! Several copies at once from the box, each over a connection of its own and with files of its own.
//!
//! What lies here and hashes right is not asked for. What an earlier fetch left half is gone on with by rsync, also where nobody could
//! put it aside any more: half files lie in a directory of their own, which the next fetch looks through.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::UNIX_EPOCH,
};

use futures::future::join_all;
use tracing::debug;

use super::{
    Method, Progress, SyncError, archive, lane, path_of,
    progress::Sum,
    rsync,
    split::{Left, split},
};
use crate::{
    agent_client::FileHash,
    tunnel::{FURTHER_LANES, Tunnel},
};

/// Copies at once.
const STREAMS: usize = 1 + FURTHER_LANES;
/// Bytes for which one more connection pays: its login takes most of a second.
const FLOOR_BYTES: u64 = 8 << 20;
/// Where rsync writes a file before it has its name.
const INCOMING: &str = ".spotter-incoming";
/// Where rsync puts what it was interrupted at, beside the file.
pub(super) const PARTIAL: &str = ".spotter-partial";

/// From where to where.
pub(super) struct Streams<'a> {
    pub(super) tunnel: &'a Tunnel,
    pub(super) method: Method,
    /// Directory on the box.
    pub(super) from: &'a str,
    /// Directory here; it exists.
    pub(super) to: &'a Path,
}

impl Streams<'_> {
    /// Brings the files of the list, and what else lies under the paths that are `there`: links, and directories without a file.
    pub(super) async fn bring(
        &self,
        listed: Vec<(Vec<u8>, FileHash)>,
        there: &BTreeSet<Vec<u8>>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), SyncError> {
        let rest = self.rest(&listed, there);
        let all = (
            listed.len() as u64,
            listed.iter().map(|(_, file)| file.size_bytes).sum(),
        );
        let (to, method) = (self.to.to_owned(), self.method);
        let prepared = move || {
            let incoming = Incoming::take(&to, method);
            let left = prepare(&to, listed, method, incoming.as_ref())?;
            Ok::<_, io::Error>((left, incoming))
        };
        let (left, incoming) = tokio::task::spawn_blocking(prepared)
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|err| {
                SyncError::local(
                    format!("{} cannot be looked through", self.to.display()),
                    err,
                )
            })?;
        let here = (
            all.0 - left.len() as u64,
            all.1 - left.iter().map(|file| file.size_bytes).sum::<u64>(),
        );
        let lists = split(left, STREAMS, FLOOR_BYTES);
        let outcomes = {
            let sum = Mutex::new(Sum::new(lists.len(), here, all, progress));
            let copies = lists
                .iter()
                .enumerate()
                .map(|(number, files)| self.copy(number, files, incoming.as_ref(), &sum));
            // One that failed does not end the others: what they bring is kept.
            join_all(copies).await
        };
        if lists.len() > 1 {
            self.tunnel.end_further().await;
        }
        let mut outcome = outcomes.into_iter().collect::<Result<(), SyncError>>();
        if outcome.is_ok() && !rest.is_empty() {
            let mut untold = |_| {};
            let also = self.one(0, &rest, Links::Left, incoming.as_ref(), &mut untold);
            outcome = also.await;
        }
        if let Some(incoming) = incoming {
            // With something in it, it stays for the next fetch.
            let _ = fs::remove_dir(incoming.path);
        }
        outcome
    }

    /// What was asked for and is not just a file of the list.
    fn rest(&self, listed: &[(Vec<u8>, FileHash)], there: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
        let names: BTreeSet<&[u8]> = listed.iter().map(|(path, _)| path.as_slice()).collect();
        let is_listed = |path: &[u8]| match self.method {
            Method::Rsync => names.contains(path),
            // It unpacks neither links nor what it is not told to: there is nothing more to bring of a directory.
            Method::Tar => holds_one(&names, path),
        };
        there
            .iter()
            .filter(|path| !is_listed(path.as_slice()))
            .cloned()
            .collect()
    }

    async fn copy(
        &self,
        number: usize,
        files: &[Left],
        incoming: Option<&Incoming>,
        sum: &Mutex<Sum<'_>>,
    ) -> Result<(), SyncError> {
        let mut tell = |at| {
            sum.lock()
                .expect("nothing panics while it holds this lock")
                .set(number, at);
        };
        let paths = files.iter().map(|file| file.path.clone()).collect();
        let copied = self.one(number, &paths, Links::Followed, incoming, &mut tell);
        let copied = copied.await;
        copied.map_err(|source| self.named(files, source))
    }

    async fn one(
        &self,
        number: usize,
        paths: &BTreeSet<Vec<u8>>,
        links: Links,
        incoming: Option<&Incoming>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), SyncError> {
        match self.method {
            Method::Rsync => {
                let temporary = incoming.map(Incoming::option);
                let mut extra = vec![OsStr::new("--recursive"), OsStr::new(links.option())];
                extra.extend(temporary.as_deref());
                let copy = rsync::Copy {
                    tunnel: self.tunnel,
                    stream: number,
                    files: paths,
                    extra: &extra,
                    source: rsync::there(self.from),
                    target: rsync::here(self.to),
                };
                copy.run(progress).await
            }
            Method::Tar => {
                let lane = lane(self.tunnel, number).await;
                let follow = links == Links::Followed;
                archive::fetch(
                    self.tunnel,
                    lane,
                    self.from,
                    paths,
                    follow,
                    self.to,
                    progress,
                )
                .await
            }
        }
    }

    /// The error with the files that did not come.
    fn named(&self, files: &[Left], source: SyncError) -> SyncError {
        let whole = |file: &&Left| {
            fs::symlink_metadata(self.to.join(path_of(&file.path)))
                .is_ok_and(|found| found.is_file() && found.len() == file.size_bytes)
        };
        let mut absent: Vec<&Left> = files.iter().filter(|file| !whole(file)).collect();
        if absent.is_empty() {
            absent.extend(files.first());
        }
        let Some(first) = absent.iter().map(|file| &file.path).min() else {
            return source;
        };
        SyncError::Files {
            first: String::from_utf8_lossy(first).into_owned(),
            others: absent.len() - 1,
            source: Box::new(source),
        }
    }
}

/// What becomes of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Each name is that of a file which the box hashed, and comes as a file.
    Followed,
    /// Nobody asked for what they lead to, and whoever reads what was fetched would follow them.
    Left,
}

impl Links {
    fn option(self) -> &'static str {
        match self {
            Self::Followed => "--copy-links",
            Self::Left => "--no-links",
        }
    }
}

/// The folder in which rsync writes files, held by one fetch. Another one into the same place does without, as rsync does by itself.
struct Incoming {
    path: PathBuf,
    _held: fs::File,
}

impl Incoming {
    fn take(to: &Path, method: Method) -> Option<Incoming> {
        if method == Method::Tar {
            return None;
        }
        let path = std::path::absolute(to.join(INCOMING)).ok()?;
        fs::create_dir_all(&path).ok()?;
        let held = fs::File::open(&path).ok()?;
        held.try_lock().ok()?;
        Some(Incoming { path, _held: held })
    }

    fn option(&self) -> OsString {
        let mut option = OsString::from("--temp-dir=");
        option.push(&self.path);
        option
    }
}

/// Whether a path is one of the files, or a directory that holds one.
fn holds_one(files: &BTreeSet<&[u8]>, path: &[u8]) -> bool {
    if path == b"." {
        return !files.is_empty();
    }
    let below = [path, b"/"].concat();
    let next = files.range(below.as_slice()..).next();
    files.contains(path) || next.is_some_and(|file| file.starts_with(&below))
}

/// Files that have to come.
fn prepare(
    to: &Path,
    listed: Vec<(Vec<u8>, FileHash)>,
    method: Method,
    incoming: Option<&Incoming>,
) -> io::Result<Vec<Left>> {
    let mut left = Vec::new();
    for (path, file) in listed {
        let at = to.join(path_of(&path));
        let same_size = fs::symlink_metadata(&at)
            .is_ok_and(|found| found.is_file() && found.len() == file.size_bytes);
        if same_size {
            let mut hasher = blake3::Hasher::new();
            io::copy(&mut fs::File::open(&at)?, &mut hasher)?;
            if hasher.finalize().to_hex().as_str() == file.blake3 {
                continue;
            }
            if method == Method::Rsync {
                // rsync takes a file of the same size and time for the same. Where it cannot be written, rsync will say so.
                let opened = fs::OpenOptions::new().append(true).open(&at);
                let _ = opened.and_then(|file| file.set_modified(UNIX_EPOCH));
            }
        }
        left.push(Left {
            path,
            size_bytes: file.size_bytes,
            left_bytes: file.size_bytes,
        });
    }
    if let Some(incoming) = incoming {
        adopt(&incoming.path, to, &left)?;
    }
    if method == Method::Rsync {
        for file in &mut left {
            let half = fs::symlink_metadata(partial(&to.join(path_of(&file.path))));
            let half_bytes = half.map_or(0, |found| found.len());
            file.left_bytes = file.size_bytes.saturating_sub(half_bytes);
        }
    }
    Ok(left)
}

/// Where rsync looks for the beginning of a file.
fn partial(path: &Path) -> PathBuf {
    let dir = path.parent().unwrap_or(Path::new("")).join(PARTIAL);
    dir.join(path.file_name().unwrap_or_default())
}

/// Files that a killed rsync could not put aside become beginnings of those that they were to be. Which of several files of one name
/// it was does not matter: rsync compares every block.
fn adopt(incoming: &Path, to: &Path, left: &[Left]) -> io::Result<()> {
    /// What rsync adds to a name: a dot and six letters.
    const ADDED: usize = 7;
    for entry in fs::read_dir(incoming)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = &name.as_bytes()[..name.len().saturating_sub(ADDED)];
        let wanted = left
            .iter()
            .map(|file| path_of(&file.path))
            .find(|path| path.file_name().is_some_and(|of| of.as_bytes() == name));
        let bytes = entry.metadata().map_or(0, |found| found.len());
        let place = wanted.map(|path| partial(&to.join(path)));
        let longer =
            |place: &PathBuf| fs::symlink_metadata(place).map_or(true, |found| found.len() < bytes);
        match place.filter(longer) {
            Some(place) => {
                debug!(place = %place.display(), bytes, "a killed copy is gone on with");
                fs::create_dir_all(place.parent().unwrap_or(to))?;
                fs::rename(entry.path(), place)?;
            }
            None => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(path: &str, bytes: &[u8]) -> (Vec<u8>, FileHash) {
        let file = FileHash {
            path: path.to_owned(),
            size_bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        (path.as_bytes().to_vec(), file)
    }

    #[test]
    fn what_lies_here_and_hashes_right_is_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("right"), b"12345").unwrap();
        fs::write(dir.path().join("other"), b"12345").unwrap();
        fs::write(dir.path().join("short"), b"1").unwrap();
        let list = vec![
            listed("right", b"12345"),
            listed("other", b"54321"),
            listed("short", b"12345"),
            listed("absent", b""),
        ];
        for method in [Method::Tar, Method::Rsync] {
            let left = prepare(dir.path(), list.clone(), method, None).unwrap();
            let names: Vec<&[u8]> = left.iter().map(|file| file.path.as_slice()).collect();
            assert_eq!(names, [b"other".as_slice(), b"short", b"absent"]);
        }
        let touched = fs::metadata(dir.path().join("other")).unwrap();
        assert_eq!(touched.modified().unwrap(), UNIX_EPOCH);
    }

    #[test]
    fn a_directory_of_listed_files_is_told_from_others() {
        let files = BTreeSet::from([b"a/b/c".as_slice(), b"d"]);
        let check = |path: &str, expected: bool| {
            assert_eq!(holds_one(&files, path.as_bytes()), expected, "{path}");
        };
        check("a", true);
        check("a/b", true);
        check("a/b/c", true);
        check("d", true);
        check(".", true);
        check("a/bb", false);
        check("a/b/c/d", false);
        check("e", false);
    }

    #[test]
    fn the_longest_beginning_that_a_killed_copy_left_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let (to, incoming) = (dir.path(), dir.path().join(INCOMING));
        fs::create_dir_all(&incoming).unwrap();
        fs::write(incoming.join("big.pt.aB3xYz"), b"123").unwrap();
        fs::write(incoming.join("big.pt.Zz0000"), b"1234567").unwrap();
        fs::write(incoming.join("stranger.Zz0000"), b"1").unwrap();
        fs::write(incoming.join("x"), b"1").unwrap();
        let held = Incoming::take(to, Method::Rsync).unwrap();
        assert!(Incoming::take(to, Method::Rsync).is_none(), "it is held");
        let list = vec![listed("out/big.pt", &[0; 10])];
        let left = prepare(to, list, Method::Rsync, Some(&held)).unwrap();
        assert_eq!((left[0].size_bytes, left[0].left_bytes), (10, 3));
        let half = fs::read(to.join("out").join(PARTIAL).join("big.pt")).unwrap();
        assert_eq!(half, b"1234567");
        assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0);
    }
}
