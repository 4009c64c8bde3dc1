//! `notify.command`: a command of the user's, on his laptop, that is told what happens. The only file that starts it.

use std::{io, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{io::AsyncWriteExt, process::Command, time};

use super::Message;

/// Longest time for it.
const LIMIT: Duration = Duration::from_secs(30);
/// Most of its complaint that is repeated, characters.
const MAX_COMPLAINT_CHARS: usize = 300;

/// Runs it by the user's shell, with the message on its standard input. What it prints is no data of ours.
pub(super) async fn run(
    shell: &str,
    text: &str,
    dir: Option<&Path>,
    message: &Message<'_>,
    body: &[u8],
) -> Result<(), String> {
    // A file, not a pipe: what the command leaves in the background may hold it open for as long as it likes.
    let said = tempfile::tempfile().map_err(|err| format!("cannot be started: {err}"))?;
    let stderr = said
        .try_clone()
        .map_err(|err| format!("cannot be started: {err}"))?;
    let mut command = Command::new(shell);
    command
        .args(["-c", text])
        .env("SPOTTER_EVENT", message.event)
        .env("SPOTTER_RUN", message.run)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(stderr)
        // Ctrl-C is for us; and all of it ends when it takes too long.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(dir) = dir.filter(|dir| dir.is_dir()) {
        command.current_dir(dir);
    }
    let mut child = command
        .spawn()
        .map_err(|err| format!("cannot be started by {shell}: {err}"))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let stdin = child.stdin.take();
    let ended = time::timeout(LIMIT, async {
        if let Some(mut stdin) = stdin {
            // It need not read it.
            let written = stdin.write_all(&[body, b"\n"].concat()).await;
            written.or_else(|err| match err.kind() {
                io::ErrorKind::BrokenPipe => Ok(()),
                _ => Err(err),
            })?;
        }
        child.wait().await
    })
    .await;
    if ended.is_ok() {
        // What it left in the background on purpose may stay.
        group.0 = None;
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("ended with {status}{}", complaint(said))),
        Ok(Err(err)) => Err(format!("cannot be waited for: {err}")),
        Err(_) => Err(format!("had not ended in {} s", LIMIT.as_secs())),
    }
}

/// A command and what it started: all of it ends with whoever does not wait for it any more.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// What it said last, as one bounded line.
fn complaint(mut said: std::fs::File) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    let read = said
        .seek(SeekFrom::Start(0))
        .and_then(|_| said.take(64 << 10).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let plain: String = line
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_COMPLAINT_CHARS)
        .collect();
    match plain.is_empty() {
        true => String::new(),
        false => format!(": {plain}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run_here(text: &str) -> (Result<(), String>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let message = Message {
            run: "llama",
            attempt: 1,
            id: 7,
            event: "interrupted",
            text: "gone".to_owned(),
            time_us: 1,
        };
        let body = serde_json::to_vec(&message).unwrap();
        let told = run("/bin/sh", text, Some(dir.path()), &message, &body).await;
        (told, dir)
    }

    #[tokio::test]
    async fn a_command_gets_the_event_and_its_failure_is_one_line() {
        let (told, dir) = run_here("cat > in; echo \"$SPOTTER_EVENT $SPOTTER_RUN\" > env").await;
        assert_eq!(told, Ok(()));
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let line: serde_json::Value = serde_json::from_str(&read("in")).unwrap();
        assert_eq!(
            (&line["id"], &line["text"]),
            (&7.into(), &"gone".into()),
            "{line}"
        );
        assert_eq!(read("env"), "interrupted llama\n");

        let (told, _dir) = run_here("printf 'no\\n\\033way\\n' >&2; exit 3").await;
        assert_eq!(told.unwrap_err(), "ended with exit status: 3: no way");
        // It does not read what it is given, and leaves something behind.
        let (told, _dir) = run_here("sleep 20 & exit 0").await;
        assert_eq!(told, Ok(()));
    }
}
