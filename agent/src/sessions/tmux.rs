//! The window of a session: the only file that starts `tmux`, and what replaces it where a box has none.
//!
//! Our own server on our own socket, no configuration. tmux only shows what the shim runs; nothing depends on it.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{process::Command, time};

use crate::config::{self, Home};

/// A tmux server answers within milliseconds; one that does not for this long is stuck.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// How long a typed line may take to appear in the window.
const ECHO_LIMIT: Duration = Duration::from_secs(5);
/// How long we watch for an effect of Enter. Some programs show none.
const ENTER_LIMIT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);
/// Enough of a line to recognise it, little enough that the window does not cut it.
const RECOGNISED_CHARS: usize = 20;

/// Why tmux did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum TmuxError {
    /// It could not be started, or did not answer.
    #[error("tmux could not be run")]
    Run(#[source] io::Error),
    /// It refused.
    #[error("tmux {verb}: {message}")]
    Refused {
        /// First word of what was asked.
        verb: String,
        /// Its own words.
        message: String,
    },
    /// The typed line never appeared, so Enter was not pressed.
    #[error("the line was typed, but the window did not show it within {} s; Enter was not pressed", ECHO_LIMIT.as_secs())]
    NotShown,
}

/// Our tmux server.
#[derive(Debug, Clone)]
pub struct Tmux {
    program: PathBuf,
    socket: PathBuf,
}

impl Tmux {
    /// tmux along `PATH`, or `None` where the box has none.
    pub fn find(home: &Home) -> Option<Self> {
        let program = config::find_program("tmux", &config::search_path())?;
        Some(Self {
            program,
            socket: home.tmux_socket(),
        })
    }

    /// Opens a detached window that runs `program` with `args`. A window that an ended session left behind is closed.
    pub async fn new_session(
        &self,
        name: &str,
        program: &Path,
        args: &[&OsStr],
    ) -> Result<(), TmuxError> {
        match self.open_window(name, program, args).await {
            Err(TmuxError::Refused { message, .. }) if message.contains("duplicate session") => {
                self.ask(&["kill-session", "-t", &exactly(name)].map(OsStr::new))
                    .await?;
                self.open_window(name, program, args).await
            }
            outcome => outcome,
        }
    }

    async fn open_window(
        &self,
        name: &str,
        program: &Path,
        args: &[&OsStr],
    ) -> Result<(), TmuxError> {
        // A server that leaves with its last window takes a new one with it that comes in the same instant.
        let stay = [
            "start-server",
            ";",
            "set-option",
            "-s",
            "-q",
            "exit-empty",
            "off",
            ";",
        ];
        let window = [
            "new-session",
            "-d",
            "-s",
            name,
            "-x",
            "200",
            "-y",
            "50",
            "--",
        ];
        let mut words = stay.map(OsStr::new).to_vec();
        words.extend(window.map(OsStr::new));
        words.push(program.as_os_str());
        words.extend(args);
        self.ask(&words).await.map(drop)
    }

    /// Names of the sessions that have a window; empty when no server runs.
    pub async fn windows(&self) -> Vec<String> {
        let listed = self
            .ask(&["list-sessions", "-F", "#{session_name}"].map(OsStr::new))
            .await;
        listed
            .map(|text| text.lines().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// Types one line, waits until the window shows it, presses Enter.
    ///
    /// Text and Enter go separately: programs take what comes in one piece for a paste, and swallow its line end.
    pub async fn send_line(&self, name: &str, line: &str) -> Result<(), TmuxError> {
        let target = exactly(name);
        if self.show(&target, "#{pane_in_mode}").await?.trim() != "0" {
            self.send(&target, &["-X", "cancel"]).await?;
        }
        if !line.is_empty() {
            let before = occurrences(&self.capture(&target).await?, line);
            self.send(&target, &["-l", "--", &escaped(line)]).await?;
            self.wait_for_echo(&target, line, before).await?;
        }
        let shown = self.capture(&target).await?;
        self.send(&target, &["Enter"]).await?;
        let deadline = Instant::now() + ENTER_LIMIT;
        while Instant::now() < deadline && self.capture(&target).await? == shown {
            time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn wait_for_echo(
        &self,
        target: &str,
        line: &str,
        before: usize,
    ) -> Result<(), TmuxError> {
        let begun = Instant::now();
        loop {
            let now = occurrences(&self.capture(target).await?, line);
            // When the screen scrolls, an older copy of the same line may leave it while ours arrives.
            if now > before || (now > 0 && begun.elapsed() > ECHO_LIMIT / 4) {
                return Ok(());
            }
            if begun.elapsed() > ECHO_LIMIT {
                return Err(TmuxError::NotShown);
            }
            time::sleep(POLL).await;
        }
    }

    /// Ends the server and every window; sessions go on. Nothing to do where none runs.
    pub async fn end(&self) {
        // Refused: no server.
        let _none = self.ask(&["kill-server"].map(OsStr::new)).await;
    }

    async fn send(&self, target: &str, keys: &[&str]) -> Result<(), TmuxError> {
        let mut words = ["send-keys", "-t", target].map(OsStr::new).to_vec();
        words.extend(keys.iter().map(OsStr::new));
        self.ask(&words).await.map(drop)
    }

    async fn capture(&self, target: &str) -> Result<String, TmuxError> {
        self.ask(&["capture-pane", "-p", "-J", "-t", target].map(OsStr::new))
            .await
    }

    async fn show(&self, target: &str, format: &str) -> Result<String, TmuxError> {
        self.ask(&["display-message", "-p", "-t", target, format].map(OsStr::new))
            .await
    }

    async fn ask(&self, words: &[&OsStr]) -> Result<String, TmuxError> {
        let mut command = Command::new(&self.program);
        command
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            // The server keeps its first client's environment and shows it to every window that a person opens.
            .env_remove("CONTAINER_API_KEY")
            .env_remove("TMUX")
            .env_remove("TMUX_PANE")
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8");
        let output = time::timeout(COMMAND_LIMIT, command.output())
            .await
            .map_err(|_| {
                TmuxError::Run(io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s"))
            })?
            .map_err(TmuxError::Run)?;
        if !output.status.success() {
            let verb = words
                .first()
                .map(|verb| verb.to_string_lossy().into_owned())
                .unwrap_or_default();
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(TmuxError::Refused { verb, message });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Runs the shim without a window. It leaves our session by itself.
pub fn start_without_window(program: &Path, args: &[&OsStr]) -> io::Result<()> {
    // The child is not waited for here: the runtime reaps it, and its own files tell how it went.
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
}

/// tmux matches names by their beginning unless told otherwise.
fn exactly(name: &str) -> String {
    format!("={name}:")
}

/// tmux takes a `;` at the end of an argument for its own, unless a backslash stands before it.
fn escaped(line: &str) -> String {
    match line.strip_suffix(';') {
        Some(rest) => format!("{rest}\\;"),
        None => line.to_owned(),
    }
}

/// How often the end of the line stands in the window. Blanks at line ends are not told apart there.
fn occurrences(screen: &str, line: &str) -> usize {
    let line = line.trim_end();
    let skip = line.chars().count().saturating_sub(RECOGNISED_CHARS);
    let end: String = line.chars().skip(skip).collect();
    if end.is_empty() {
        1
    } else {
        screen.matches(&end).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_semicolon_is_kept_from_tmux() {
        assert_eq!(escaped("echo a; echo b;"), "echo a; echo b\\;");
        assert_eq!(escaped("echo a\\;"), "echo a\\\\;");
        assert_eq!(escaped("plain"), "plain");
    }

    #[test]
    fn a_line_is_recognised_by_its_end() {
        let line = "a rather long line that a narrow window would wrap  ";
        assert_eq!(occurrences("$ window would wrap\n", line), 0);
        assert_eq!(occurrences("$ a narrow window would wrap\n", line), 1);
        assert_eq!(occurrences("ü§ ü§", "ü§"), 2);
    }
}
