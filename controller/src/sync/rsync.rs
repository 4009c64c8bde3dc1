//! Runs of `rsync` over our ssh connections, gone on with when the link breaks.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::sleep,
};
use tracing::debug;

use super::{Progress, SyncError, TRIES, lane, progress, record::joined, streams::PARTIAL};
use crate::tunnel::{Tunnel, last_words, shell_word, unique_path};

/// Added to the name of our remote shell: where that notes how the other side ended.
const ENDED: &str = ".end";

/// One copy by rsync.
pub(super) struct Copy<'a> {
    pub(super) tunnel: &'a Tunnel,
    /// Which of several at once; see [`lane`].
    pub(super) stream: usize,
    /// What is copied, relative to both sides.
    pub(super) files: &'a BTreeSet<Vec<u8>>,
    /// Options beside those of every copy.
    pub(super) extra: &'a [&'a OsStr],
    /// As rsync names it.
    pub(super) source: Vec<u8>,
    /// As rsync names it.
    pub(super) target: Vec<u8>,
}

/// A directory here, as rsync names it.
pub(super) fn here(path: &Path) -> Vec<u8> {
    slash(path.as_os_str().as_bytes())
}

/// A directory on the box, as rsync names it; our remote shell ignores the host.
pub(super) fn there(path: &str) -> Vec<u8> {
    [b"box:".as_slice(), &slash(path.as_bytes())].concat()
}

fn slash(path: &[u8]) -> Vec<u8> {
    let mut path = path.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path
}

/// Whether this machine has it.
pub(super) async fn is_here() -> bool {
    let mut command = Command::new("rsync");
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// The remote shell that rsync starts: our ssh connection, with everything dropped that the box's login shell prints before
/// the nonce. `read` takes single bytes from a pipe, so what follows is left for `cat`. How rsync there ended is handed on: with nothing to
/// copy, nobody else tells.
fn remote_shell(ssh: &[String], nonce: &str) -> String {
    let ssh: Vec<String> = ssh.iter().map(|word| shell_word(word)).collect();
    format!(
        r#"#!/bin/sh
shift
{{ {ssh} "umask 022; printf '\n%s\n' {nonce}; exec $*"; echo $? >"$0{ENDED}"; }} | {{
while IFS= read -r line; do
[ "$line" = {nonce} ] && exec cat
done
echo "the box's login shell did not come to rsync" >&2
exit 12
}} || exit
read -r code <"$0{ENDED}" && exit "$code"
"#,
        ssh = ssh.join(" "),
    )
}

impl Copy<'_> {
    /// Copies; goes on from where it was when the link broke.
    pub(super) async fn run(
        &self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), SyncError> {
        let script = unique_path(self.tunnel.runtime_dir(), "r");
        let mut words = String::new();
        let mut pause = Duration::from_millis(500);
        for _ in 0..TRIES {
            let outcome = self.once(&script, progress).await;
            let _ = fs::remove_file(&script);
            let _ = fs::remove_file(format!("{}{ENDED}", script.display()));
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

    async fn once(
        &self,
        script: &Path,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), SyncError> {
        let list = joined(self.files.iter());
        let lane = lane(self.tunnel, self.stream).await;
        let ssh = self.tunnel.ssh_words(lane).await?;
        let nonce = format!(
            "SPOTTER-RSYNC/1-{}",
            hex::encode(rand::random::<[u8; 16]>())
        );
        write_script(script, &remote_shell(&ssh, &nonce)).map_err(|err| {
            SyncError::local(format!("{} cannot be written", script.display()), err)
        })?;
        let mut command = Command::new("rsync");
        // Owners stay behind: they are this machine's users. Half a file is kept aside and continued.
        command.args([
            "--links",
            "--perms",
            "--times",
            "--omit-dir-times",
            &format!("--partial-dir={PARTIAL}"),
        ]);
        command.args([
            "--from0",
            "--files-from=-",
            "--no-inc-recursive",
            "--info=progress2",
            "--outbuf=L",
            "--timeout=60",
            // Our remote shell ends in a program that writes as programs do: into a pipe that makes it wait when it is full.
            "--blocking-io",
        ]);
        command
            .args(self.extra)
            .arg("-e")
            .arg(script)
            .arg("--")
            .arg(OsStr::from_bytes(&self.source))
            .arg(OsStr::from_bytes(&self.target));
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
            let _ = stdin.write_all(&list).await;
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
}

fn write_script(path: &Path, text: &str) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(path)?;
    file.write_all(text.as_bytes())
}
