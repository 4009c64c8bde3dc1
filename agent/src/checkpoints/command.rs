//! Runs the user's own command that says whether a checkpoint is complete.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Longest time that the command may take: everything else waits for it.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// Runs the command with the checkpoint's path and step in its environment; the error says why it does not agree.
pub fn agrees(command: &str, checkpoint: &Path, step: Option<u64>) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .env("SPOTTER_CHECKPOINT", checkpoint)
        .env(
            "SPOTTER_CHECKPOINT_STEP",
            step.map_or_else(String::new, |step| step.to_string()),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Its own group, so that nothing it started outlives the limit.
        .process_group(0);
    let ended = shell.spawn().and_then(|child| wait(child, LIMIT));
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(match (status.code(), status.signal()) {
            (Some(code), _) => format!("the command says no (exit code {code})"),
            (None, signal) => format!("the command was ended by signal {}", signal.unwrap_or(0)),
        }),
        Ok(None) => Err(format!("the command did not end in {} s", LIMIT.as_secs())),
        Err(err) => Err(format!("the command could not be run: {err}")),
    }
}

/// Waits for the end; `None`: it was killed at the limit.
fn wait(mut child: Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
            // It may have ended in this moment.
            let _ended = killpg(group, Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        let child = Command::new("sh")
            .args(["-c", "sleep 600 & wait"])
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(child.id() as i32);
        assert!(wait(child, Duration::from_millis(50)).unwrap().is_none());
        // The sleeper's new parent reaps it a moment later.
        let gone = (0..500).any(|_| {
            thread::sleep(POLL);
            killpg(group, None).is_err()
        });
        assert!(gone);
    }

    #[test]
    fn path_and_step_are_in_its_environment() {
        let check =
            r#"test "$SPOTTER_CHECKPOINT" = /c/save-7 && test "$SPOTTER_CHECKPOINT_STEP" = 7"#;
        assert_eq!(agrees(check, Path::new("/c/save-7"), Some(7)), Ok(()));
        assert!(
            agrees("exit 3", Path::new("/c"), None)
                .unwrap_err()
                .contains("exit code 3")
        );
        assert!(
            agrees("kill -9 $$", Path::new("/c"), None)
                .unwrap_err()
                .contains("signal 9")
        );
    }
}
