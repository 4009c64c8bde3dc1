//! Files to the box and back: code before a run, results after it. The only file that starts `rsync`.
//!
//! What is copied is decided here ([`list`]), not by rsync, whose `.gitignore` filter drops what `!pattern` keeps. Where the
//! box or this machine has no rsync, [`archive`] sends everything as a tar stream.

mod archive;
mod list;
mod progress;
mod record;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::sleep,
};
use tracing::debug;

pub use list::{ListError, list_files};
pub use progress::Progress;
use record::{begin, existing, joined, remove, write_record};

use crate::tunnel::{Lane, Remote, Tunnel, TunnelError, last_words, shell_word, unique_path};

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
    let method = if rsync_there && rsync_here().await {
        Method::Rsync
    } else {
        Method::Tar
    };
    match method {
        Method::Rsync => {
            let source = slash(from.as_os_str().as_bytes());
            rsync(
                tunnel,
                &files,
                &[],
                &source,
                &remote_side(&slash(to.as_bytes())),
                progress,
            )
            .await?;
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
///
/// # Errors
/// See [`SyncError`]. A repetition continues where a broken one stopped.
pub async fn fetch(
    tunnel: &Tunnel,
    from: &str,
    paths: &[String],
    to: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<SyncReport, SyncError> {
    let mut wanted = BTreeSet::new();
    for path in paths {
        let clean =
            list::inside(path.as_bytes()).ok_or_else(|| SyncError::Path { path: path.clone() })?;
        wanted.insert(clean);
    }
    fs::create_dir_all(to)
        .map_err(|err| SyncError::local(format!("{} cannot be made", to.display()), err))?;
    let there = existing(tunnel, from, &wanted).await?;
    let missing = wanted
        .difference(&there)
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect::<Vec<_>>();
    let rsync_there = tunnel.exec("command -v rsync >/dev/null", &[]).await?.ok();
    let method = if rsync_there && rsync_here().await {
        Method::Rsync
    } else {
        Method::Tar
    };
    if !there.is_empty() {
        match method {
            // Links that lead out of the tree would be followed by whoever reads the results.
            Method::Rsync => {
                let source = remote_side(&slash(from.as_bytes()));
                let extra = ["--recursive", "--safe-links"];
                rsync(
                    tunnel,
                    &there,
                    &extra,
                    &source,
                    &slash(to.as_os_str().as_bytes()),
                    progress,
                )
                .await?;
            }
            Method::Tar => archive::fetch(tunnel, from, &there, to, progress).await?,
        }
    }
    Ok(SyncReport {
        method,
        files: there.len(),
        removed: 0,
        missing,
    })
}

fn slash(path: &[u8]) -> Vec<u8> {
    let mut path = path.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path
}

/// How rsync names the other side; our remote shell ignores the host.
fn remote_side(path: &[u8]) -> Vec<u8> {
    [b"box:".as_slice(), path].concat()
}

async fn rsync_here() -> bool {
    let mut command = Command::new("rsync");
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// The remote shell that rsync starts: our ssh connection, with everything dropped that the box's login shell prints before
/// the nonce. `read` takes single bytes from a pipe, so what follows is left for `cat`.
fn remote_shell(ssh: &[String], nonce: &str) -> String {
    let ssh: Vec<String> = ssh.iter().map(|word| shell_word(word)).collect();
    format!(
        r#"#!/bin/sh
shift
{ssh} "umask 022; printf '\n%s\n' {nonce}; exec $*" | {{
while IFS= read -r line; do
[ "$line" = {nonce} ] && exec cat
done
echo "the box's login shell did not come to rsync" >&2
exit 12
}}
"#,
        ssh = ssh.join(" "),
    )
}

async fn rsync(
    tunnel: &Tunnel,
    files: &BTreeSet<Vec<u8>>,
    extra: &[&str],
    source: &[u8],
    target: &[u8],
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), SyncError> {
    let script = unique_path(tunnel.runtime_dir(), "r");
    let list = joined(files.iter());
    let mut words = String::new();
    let mut pause = Duration::from_millis(500);
    for _ in 0..TRIES {
        let outcome = rsync_once(tunnel, &script, &list, extra, source, target, progress).await;
        let _ = fs::remove_file(&script);
        match outcome {
            Ok(()) => return Ok(()),
            // 10, 12, 30, 35: socket, protocol stream, time-outs. 255 is ssh's own.
            Err(SyncError::Program {
                code: 10 | 12 | 30 | 35 | 255,
                words: said,
                ..
            }) => words = said,
            Err(SyncError::Tunnel(err)) if err.is_link() => words = err.to_string(),
            Err(err) => return Err(err),
        }
        debug!(words, "the copy was interrupted and goes on");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
    Err(SyncError::Interrupted { words })
}

async fn rsync_once(
    tunnel: &Tunnel,
    script: &Path,
    list: &[u8],
    extra: &[&str],
    source: &[u8],
    target: &[u8],
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), SyncError> {
    use std::ffi::OsStr;
    let ssh = tunnel.ssh_words(Lane::Bulk).await?;
    let nonce = format!(
        "SPOTTER-RSYNC/1-{}",
        hex::encode(rand::random::<[u8; 16]>())
    );
    write_script(script, &remote_shell(&ssh, &nonce))
        .map_err(|err| SyncError::local(format!("{} cannot be written", script.display()), err))?;
    let mut command = Command::new("rsync");
    // Owners stay behind: they are this machine's users. Half a file is kept aside and continued.
    command.args([
        "--links",
        "--perms",
        "--times",
        "--omit-dir-times",
        "--partial-dir=.spotter-partial",
    ]);
    command.args([
        "--from0",
        "--files-from=-",
        "--no-inc-recursive",
        "--info=progress2",
        "--outbuf=L",
        "--timeout=60",
    ]);
    command
        .args(extra)
        .arg("-e")
        .arg(script)
        .arg("--")
        .arg(OsStr::from_bytes(source))
        .arg(OsStr::from_bytes(target));
    command
        .env("LC_ALL", "C")
        .process_group(0)
        .kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|err| SyncError::local("rsync cannot be started", err))?;
    let mut stdin = child.stdin.take().expect("it was started with pipes");
    let mut stdout = child.stdout.take().expect("it was started with pipes");
    let mut stderr = child.stderr.take().expect("it was started with pipes");
    let send = async {
        // rsync that ends early says why by itself.
        let _ = stdin.write_all(list).await;
        drop(stdin);
    };
    let show = async {
        let mut lines = progress::Lines::default();
        let mut buffer = vec![0; 8192];
        while let Ok(read) = stdout.read(&mut buffer).await {
            if read == 0 {
                break;
            }
            lines.feed(&buffer[..read], progress);
        }
    };
    let listen = async {
        let mut said = Vec::new();
        let _ = (&mut stderr).take(64 << 10).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        said
    };
    let ((), (), said) = tokio::join!(send, show, listen);
    let status = child
        .wait()
        .await
        .map_err(|err| SyncError::local("rsync could not be waited for", err))?;
    match status.code() {
        Some(0) => Ok(()),
        code => Err(SyncError::Program {
            program: "rsync",
            code: code.unwrap_or(-1),
            words: last_words(&said),
        }),
    }
}

fn write_script(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(path)?;
    file.write_all(text.as_bytes())
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
