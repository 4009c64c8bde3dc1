//! Files to the box and back: code before a run, results after it. Only this folder starts `rsync` ([`rsync`]).
//!
//! What is copied is decided here ([`list`]), not by rsync, whose `.gitignore` filter drops what `!pattern` keeps. Where the
//! box or this machine has no rsync, [`archive`] sends everything as a tar stream. What is fetched comes over several connections at
//! once ([`streams`]).

mod archive;
mod list;
mod progress;
mod record;
mod rsync;
mod split;
mod streams;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use tracing::debug;

pub use list::{ListError, list_files};
pub use progress::Progress;
use record::{begin, existing, remove, write_record};

use crate::{
    agent_client::FileHash,
    tunnel::{FURTHER_LANES, Lane, Remote, Tunnel, TunnelError},
};

/// How often a copy goes on after the link broke.
const TRIES: u32 = 6;

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Only what differs.
    Rsync,
    /// Everything.
    Tar,
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReport {
    /// How.
    pub method: Method,
    /// Files and links in the copy.
    pub files: usize,
    /// Files removed on the box because they vanished here.
    pub removed: usize,
    /// Paths that were asked for and do not exist on the box.
    pub missing: Vec<String>,
}

/// Why files were not copied.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The connection.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The directory here cannot be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// rsync or tar said no.
    #[error("{program} ended with code {code}: {words}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its exit code.
        code: i32,
        /// Its last words.
        words: String,
    },
    /// A path that must not be written or read.
    #[error("`{path}` is no path inside the directory")]
    Path {
        /// The path.
        path: String,
    },
    /// Something on this machine.
    #[error("{what}")]
    Local {
        /// What could not be done.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Some of several files that were fetched at once.
    #[error("`{first}`{} did not come", more(*.others))]
    Files {
        /// The first of them, by name.
        first: String,
        /// How many more.
        others: usize,
        /// Why.
        source: Box<SyncError>,
    },
    /// The link broke too often.
    #[error("the copy was interrupted {TRIES} times; the last time: {words}")]
    Interrupted {
        /// The last words.
        words: String,
    },
}

impl SyncError {
    fn local(what: impl Into<String>, source: io::Error) -> SyncError {
        SyncError::Local {
            what: what.into(),
            source,
        }
    }
}

/// Copies the files of `from` that neither `.gitignore` nor `.spotterignore` excludes into the directory `to` on the box
/// (absolute); `without`: a file that stays here. Files that an earlier copy brought and that are gone here are removed there; nothing else is.
///
/// # Errors
/// See [`SyncError`]. A repetition continues where a broken one stopped.
pub async fn push(
    tunnel: &Tunnel,
    from: &Path,
    to: &str,
    without: Option<&Path>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<SyncReport, SyncError> {
    if !to.starts_with('/') || to.chars().any(char::is_control) {
        return Err(SyncError::Path {
            path: to.to_owned(),
        });
    }
    let root = from.to_owned();
    let mut files = tokio::task::spawn_blocking(move || list_files(&root))
        .await
        .map_err(|err| {
            SyncError::local("the list of files could not be made", io::Error::other(err))
        })??;
    if let Some(private) = without.and_then(|path| path.strip_prefix(from).ok()) {
        files.remove(private.as_os_str().as_bytes());
    }
    let record = format!(
        ".spotter/sync/{}",
        &blake3::hash(to.as_bytes()).to_hex()[..16]
    );
    let (known, rsync_there) = begin(tunnel, to, &record).await?;
    let vanished: Vec<&Vec<u8>> = known.iter().filter(|path| !files.contains(*path)).collect();

    // Before the copy: after a crash in the middle of it we still know what is ours.
    let union: BTreeSet<Vec<u8>> = known.iter().chain(&files).cloned().collect();
    write_record(tunnel, &record, &union).await?;
    let method = method(rsync_there).await;
    match method {
        Method::Rsync => {
            let copy = rsync::Copy {
                tunnel,
                stream: 0,
                files: &files,
                extra: &[],
                source: rsync::here(from),
                target: rsync::there(to),
            };
            copy.run(progress).await?;
        }
        Method::Tar => archive::push(tunnel, from, to, &files, progress).await?,
    }
    if !vanished.is_empty() {
        remove(tunnel, to, &vanished).await?;
    }
    write_record(tunnel, &record, &files).await?;
    Ok(SyncReport {
        method,
        files: files.len(),
        removed: vanished.len(),
        missing: Vec::new(),
    })
}

/// Copies files and directories, relative to the directory `from` on the box, into the directory `to` here, under the same names.
/// `files`: what the box said lies under them. Those that lie here already and hash right are left as they are; the others come over
/// several connections at once. Their hashes are for the caller to compare when this is done.
///
/// # Errors
/// See [`SyncError`]. A repetition continues where a broken one stopped.
pub async fn fetch(
    tunnel: &Tunnel,
    from: &str,
    paths: &[String],
    files: &[FileHash],
    to: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<SyncReport, SyncError> {
    let clean = |path: &str| {
        list::inside(path.as_bytes()).ok_or_else(|| SyncError::Path {
            path: path.to_owned(),
        })
    };
    let mut wanted = BTreeSet::new();
    for path in paths {
        wanted.insert(match path.as_str() {
            "." | "./" => b".".to_vec(),
            path => clean(path)?,
        });
    }
    let mut listed = Vec::new();
    for file in files {
        listed.push((clean(&file.path)?, file.clone()));
    }
    fs::create_dir_all(to)
        .map_err(|err| SyncError::local(format!("{} cannot be made", to.display()), err))?;
    let there = existing(tunnel, from, &wanted).await?;
    let missing = wanted
        .difference(&there)
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect::<Vec<_>>();
    let rsync_there = tunnel.exec("command -v rsync >/dev/null", &[]).await?.ok();
    let method = method(rsync_there).await;
    if !there.is_empty() {
        let streams = streams::Streams {
            tunnel,
            method,
            from,
            to,
        };
        streams.bring(listed, &there, progress).await?;
    }
    Ok(SyncReport {
        method,
        files: there.len(),
        removed: 0,
        missing,
    })
}

async fn method(rsync_there: bool) -> Method {
    if rsync_there && rsync::is_here().await {
        Method::Rsync
    } else {
        Method::Tar
    }
}

/// The connection of one of several copies at once. One that the box does not grant is done without: its copy shares the first.
async fn lane(tunnel: &Tunnel, stream: usize) -> Lane {
    let Some(further) = stream.checked_sub(1).filter(|at| *at < FURTHER_LANES) else {
        return Lane::Bulk;
    };
    match tunnel.ssh_words(Lane::Further(further)).await {
        Ok(_) => Lane::Further(further),
        Err(err) => {
            debug!(error = %err, "the box takes no further connection");
            Lane::Bulk
        }
    }
}

/// That there are others, for people.
fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " and one more file".to_owned(),
        others => format!(" and {others} more files"),
    }
}

/// What a program on the box that was fed or read by hand left.
async fn finish(remote: Remote, program: &'static str) -> Result<(), SyncError> {
    let output = remote.done().await?;
    if output.ok() {
        Ok(())
    } else {
        Err(SyncError::Program {
            program,
            code: output.code,
            words: output.words,
        })
    }
}

/// A path of ours as the file system has it.
fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
