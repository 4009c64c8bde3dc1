//! A tree of processes under a PID 1 of its own: killing that one ends all of them, whatever they did to hide.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

use super::processes::{children, command_line, exists};

/// How long `unshare` may take to get as far as its child. Seconds on a loaded machine.
const FORK_LIMIT: Duration = Duration::from_secs(20);
/// How long the kernel may take to end what was killed.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// PID 1 of a box, and the `unshare` that waits for it.
pub(super) struct Namespace {
    unshare: Child,
    init: Pid,
}

impl Namespace {
    /// Starts `command`, which becomes an `unshare --fork`, and finds its PID 1.
    pub(super) async fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Namespace> {
        command.kill_on_drop(true);
        let mut unshare = command.spawn().context("cannot start unshare")?;
        let pid = unshare.id().context("unshare ended at once")?;
        let start = Instant::now();
        loop {
            // Before it execs, the child of a fork looks like its parent; a second look costs nothing.
            if let [init] = children(pid)[..] {
                return Ok(Namespace { unshare, init });
            }
            if let Some(status) = unshare.try_wait()? {
                bail!("unshare ended with {status}: {}", tail(log));
            }
            if start.elapsed() > FORK_LIMIT {
                bail!(
                    "unshare made no process within {FORK_LIMIT:?}: {}",
                    tail(log)
                );
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The way to tell it something, once.
    pub(super) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.unshare.stdin.take()
    }

    /// PID 1, as this machine counts.
    pub(super) fn init(&self) -> Pid {
        self.init
    }

    /// Waits until PID 1 has become `program`, which it does when all is mounted.
    pub(super) async fn wait_for(&mut self, program: &str, log: &Path) -> anyhow::Result<()> {
        let start = Instant::now();
        while !command_line(self.init).contains(program) {
            self.check(log)?;
            if start.elapsed() > FORK_LIMIT {
                bail!("the box was not ready within {FORK_LIMIT:?}: {}", tail(log));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// An error once it has ended by itself.
    pub(super) fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        match self.unshare.try_wait()? {
            Some(status) => bail!("PID 1 of the box ended with {status}: {}", tail(log)),
            None => Ok(()),
        }
    }

    /// TERM to PID 1, KILL to all when it has not ended within `grace`.
    pub(super) async fn stop(&mut self, grace: Duration) -> anyhow::Result<()> {
        let _ = kill(self.init, Signal::SIGTERM);
        let _ = timeout(grace, self.unshare.wait()).await;
        self.kill().await
    }

    /// Ends all at once.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.unshare.try_wait()?.is_none() || exists(self.init) {
            // Only while `unshare` was not reaped can nobody else have the number of its child.
            if self.unshare.id().is_some() {
                let _ = kill(self.init, Signal::SIGKILL);
            }
            if start.elapsed() > KILL_LIMIT {
                bail!(
                    "PID 1 of the box (process {}) did not end within {KILL_LIMIT:?} of being killed",
                    self.init
                );
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// The last lines of a box's log, for an error.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    if lines.is_empty() {
        return "it said nothing".to_owned();
    }
    lines[lines.len().saturating_sub(3)..].join(" / ")
}
