//! Whether somebody is there: open connections to the socket, and logins on the box. A box with nobody there and nothing to
//! do may end itself.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

use crate::{aside, config::Home, now_us};

/// Counts connections and remembers when the last one left.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    connections: usize,
    left_us: u64,
}

impl Presence {
    /// Nobody has been there before `now_us`.
    pub fn new(now_us: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            connections: 0,
            left_us: now_us,
        })))
    }

    /// A connection that counts until it is dropped.
    pub fn admit(&self, stream: UnixStream) -> Visitor {
        self.with(|state| state.connections += 1);
        let seat = Seat {
            counts: Arc::new(AtomicBool::new(true)),
            presence: self.clone(),
        };
        Visitor { stream, seat }
    }

    /// When the last connection ended, microseconds since the epoch; `None` while one is open.
    pub fn alone_since_us(&self) -> Option<u64> {
        self.with(|state| (state.connections == 0).then_some(state.left_us))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a connection counts, for the calls that come by it.
#[derive(Debug, Clone)]
pub struct Seat {
    counts: Arc<AtomicBool>,
    presence: Presence,
}

impl Seat {
    /// A program only looks: nobody has been there by this connection.
    pub fn give_up(&self) {
        self.leave(None);
    }

    fn leave(&self, left_us: Option<u64>) {
        if self.counts.swap(false, Ordering::Relaxed) {
            self.presence.with(|state| {
                state.connections -= 1;
                state.left_us = left_us.unwrap_or(state.left_us);
            });
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Visitor {
    stream: UnixStream,
    seat: Seat,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.seat.leave(Some(now_us()));
    }
}

impl Visitor {
    /// Whether it counts, for the calls that come by it.
    pub fn seat(&self) -> Seat {
        self.seat.clone()
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether a person has a shell on the box: sshd names the terminal in its process title.
pub fn is_logged_in() -> bool {
    aside(look_for_login)
}

fn look_for_login() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| is_login(&line)))
}

fn is_login(command_line: &[u8]) -> bool {
    is_sshd_of(command_line, "@pts/")
}

/// Whether sshd names this in its process title.
fn is_sshd_of(command_line: &[u8], what: &str) -> bool {
    let title = String::from_utf8_lossy(command_line);
    (title.starts_with("sshd: ") || title.starts_with("sshd-session: ")) && title.contains(what)
}

/// Whether anything runs by ssh without a terminal: a copy, or an editor. The controller's own calls look like that, too, so that this
/// says nothing of how long a box has been alone; but what is being copied must not be deleted.
pub fn is_connected(home: &Home) -> bool {
    aside(|| look_for_callers(home.path()))
}

fn look_for_callers(home: &Path) -> bool {
    let mut sshds = HashSet::new();
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline"));
        if line.is_ok_and(|line| is_sshd_of(&line, "@notty")) {
            sshds.insert(pid);
        }
        let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
        parents.extend(parent_of(&stat).map(|parent| (entry.path(), parent)));
    }
    // A connection by which nothing runs has no part in what lies here.
    let mut called = parents.iter().filter(|(_, sshd)| sshds.contains(sshd));
    called.any(|(process, _)| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        // One that sshd serves itself has a title where its environment was, and is where its user lives.
        let lives = home_in(&environment).or_else(|| fs::read_link(process.join("cwd")).ok());
        lives.is_none_or(|lives| !is_of_another_box(&lives, home))
    })
}

/// Parent of a process, by its `stat`; its name, in parentheses, may hold anything.
fn parent_of(stat: &[u8]) -> Option<u32> {
    let stat = String::from_utf8_lossy(stat);
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Where the user of a process lives.
fn home_in(environment: &[u8]) -> Option<PathBuf> {
    let mut variables = environment.split(|byte| *byte == 0);
    let home = variables.find_map(|variable| variable.strip_prefix(b"HOME="))?;
    Some(PathBuf::from(OsStr::from_bytes(home)))
}

/// Where boxes share a machine, and see each other's processes: whether one that lives there is another box's. `home`: where ours is.
fn is_of_another_box(lives: &Path, home: &Path) -> bool {
    let theirs = lives.join(".spotter").canonicalize();
    theirs.is_ok_and(|theirs| home.canonicalize().is_ok_and(|ours| ours != theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_is_a_login() {
        assert!(is_login(b"sshd: root@pts/0\0\0"));
        assert!(is_login(b"sshd-session: root@pts/12"));
        assert!(!is_login(b"sshd: root@notty"), "the controller's own");
        assert!(!is_login(b"vim notes about sshd: root@pts/0"));
        assert!(!is_login(b""));
    }

    #[test]
    fn what_runs_by_ssh_is_somebody_unless_it_lives_in_another_box() {
        assert!(is_sshd_of(b"sshd: root@notty\0\0", "@notty"));
        assert!(!is_sshd_of(b"sshd: root@pts/0", "@notty"));
        assert_eq!(parent_of(b"7 (a) b) S 42 7 7 0"), Some(42));
        assert_eq!(parent_of(b""), None);
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = one.path().join(".spotter");
        fs::create_dir(&ours).unwrap();
        let lives_elsewhere = |home: &Path| {
            let environment = format!("TERM=dumb\0HOME={}\0", home.display());
            is_of_another_box(&home_in(environment.as_bytes()).unwrap(), &ours)
        };
        assert!(!lives_elsewhere(one.path()));
        assert!(!lives_elsewhere(other.path()), "no box lives there");
        fs::create_dir(other.path().join(".spotter")).unwrap();
        assert!(lives_elsewhere(other.path()));
        assert_eq!(home_in(b""), None);
    }

    #[tokio::test]
    async fn a_box_is_alone_from_the_moment_that_the_last_connection_is_dropped() {
        let presence = Presence::new(7);
        assert_eq!(presence.alone_since_us(), Some(7));
        let (one, other) = UnixStream::pair().unwrap();
        let (one, other) = (presence.admit(one), presence.admit(other));
        drop(one);
        assert_eq!(presence.alone_since_us(), None);
        drop(other);
        assert!(presence.alone_since_us().is_some_and(|left_us| left_us > 7));
    }

    #[tokio::test]
    async fn a_program_that_only_looks_is_nobody_and_was_nobody_when_it_leaves() {
        let presence = Presence::new(7);
        let (one, other) = UnixStream::pair().unwrap();
        let (person, program) = (presence.admit(one), presence.admit(other));
        program.seat().give_up();
        program.seat().give_up();
        assert_eq!(presence.alone_since_us(), None, "the person is there");
        drop(program);
        assert_eq!(presence.alone_since_us(), None);
        let left_us = {
            drop(person);
            presence.alone_since_us().unwrap()
        };
        let (one, _other) = UnixStream::pair().unwrap();
        let program = presence.admit(one);
        program.seat().give_up();
        assert_eq!(presence.alone_since_us(), Some(left_us));
        drop(program);
        assert_eq!(presence.alone_since_us(), Some(left_us));
    }
}
