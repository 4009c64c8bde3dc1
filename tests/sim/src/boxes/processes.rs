//! Finds and ends the processes of a box by the mark in their environment, for tiers that have no namespace to kill.
//!
//! A process that cleared its environment is still found when it runs a program from the box's own disk (the agent, its shim).

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Name of the variable that every process of a box carries.
pub(super) const MARKER: &str = "SPOTTER_SIM_BOX";

/// How long killed processes may take to disappear; more means one hangs in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Which processes: those whose mark begins with `mark`, or whose program lies under `root`.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    /// Whole mark of a box, or the beginning that all boxes of a simulator share.
    pub(super) mark: String,
    /// Directory of the box, or of all boxes.
    pub(super) root: PathBuf,
}

impl Selection {
    /// Living processes of the selection, without our own. Those of other users are not seen.
    pub(super) fn find(&self) -> Vec<Pid> {
        let own = std::process::id() as i32;
        pids()
            .filter(|pid| *pid != own && self.holds(*pid))
            .map(Pid::from_raw)
            .collect()
    }

    fn holds(&self, pid: i32) -> bool {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        if let Ok(exe) = fs::read_link(proc.join("exe"))
            && exe.starts_with(&self.root)
        {
            return true;
        }
        // An agent hides its memory, and with it its environment and program, from other processes of its user; what it
        // was started as can always be read.
        let started_as = fs::read(proc.join("cmdline")).unwrap_or_default();
        let program = started_as
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        if Path::new(OsStr::from_bytes(program)).starts_with(&self.root) {
            return true;
        }
        let wanted = format!("{MARKER}={}", self.mark);
        fs::read(proc.join("environ")).is_ok_and(|environ| {
            environ
                .split(|byte| *byte == 0)
                .any(|entry| matches_mark(entry, wanted.as_bytes()))
        })
    }

    /// Sends a signal to each; those that ended meanwhile do not matter.
    pub(super) fn signal(&self, signal: Signal) {
        for pid in self.find() {
            let _ = kill(pid, signal);
        }
    }

    /// Kills until none is left: a process may fork while we look.
    pub(super) fn kill_all(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut clean = 0;
        while clean < 2 {
            let found = self.find();
            if found.is_empty() {
                clean += 1;
                continue;
            }
            clean = 0;
            if start.elapsed() > KILL_LIMIT {
                bail!(
                    "{} processes did not end within {KILL_LIMIT:?} of being killed: {found:?}",
                    found.len()
                );
            }
            for pid in found {
                let _ = kill(pid, Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// `7.1` must not match the mark `7.12`, but the prefix `7.` must match both.
fn matches_mark(entry: &[u8], wanted: &[u8]) -> bool {
    entry
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || wanted.ends_with(b"."))
}

/// Children of a process, in no order.
pub(super) fn children(parent: u32) -> Vec<Pid> {
    pids()
        .filter(|pid| parent_of(*pid) == Some(parent as i32))
        .map(Pid::from_raw)
        .collect()
}

/// Whether a process exists, zombie or not.
pub(super) fn exists(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The command line of a process, arguments separated by spaces; empty when it is gone.
pub(super) fn command_line(pid: Pid) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
        })
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, brackets and spaces too.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_matches_itself_and_a_prefix_with_a_dot_matches_all_boxes() {
        let check = |entry: &str, wanted: &str, expected: bool| {
            assert_eq!(
                matches_mark(entry.as_bytes(), wanted.as_bytes()),
                expected,
                "{entry} against {wanted}"
            );
        };
        check("X=ab.1", "X=ab.1", true);
        check("X=ab.12", "X=ab.1", false);
        check("X=ab.12", "X=ab.", true);
        check("Y=ab.1", "X=ab.1", false);
        check("", "X=ab.1", false);
    }

    #[test]
    fn a_marked_process_is_found_and_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mark = format!("test{}.1", std::process::id());
        let selection = Selection {
            mark: mark.clone(),
            root: dir.path().to_path_buf(),
        };
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 600 & sleep 600"])
            .env(MARKER, &mark)
            .spawn()
            .unwrap();
        while selection.find().len() < 3 {
            thread::sleep(Duration::from_millis(5));
        }

        selection.kill_all().unwrap();
        child.wait().unwrap();
        assert!(selection.find().is_empty());
    }
}
