//! What programs say: to their end, or beside the story.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Output},
    time::{Duration, Instant},
};

use super::PATIENCE;

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
    /// Both, for messages.
    pub out: String,
}

impl Said {
    /// Everything that a program said until its end.
    pub fn of(output: Output) -> Said {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().unwrap_or(-1);
        let out = format!("{stdout}{stderr}-> {code}");
        Said {
            code,
            stdout,
            stderr,
            out,
        }
    }
}

/// A `spotter` that runs beside the story.
pub struct Background {
    pub(super) child: Child,
    pub(super) log: PathBuf,
}

impl Background {
    pub(super) fn number() -> usize {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for its end and returns its exit code.
    pub fn wait(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it did not end:\n{}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The process.
    pub fn id(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it said so far.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("--- {}\n{}", self.log.display(), self.text());
        }
    }
}
