//! Whether somebody is there: open connections to the socket, and logins on the box. A box with nobody there and nothing to
//! do may end itself.

use std::{
    fs,
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

use crate::{aside, now_us};

/// Counts connections and remembers when the last one left.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    connections: usize,
    left_us: u64,
    /// Of the connections those behind which no person is.
    unattended: usize,
    /// When the last one ended behind which a person may have been.
    person_left_us: u64,
}

impl Presence {
    /// Nobody has been there before `now_us`.
    pub fn new(now_us: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            connections: 0,
            left_us: now_us,
            unattended: 0,
            person_left_us: now_us,
        })))
    }

    /// A connection that counts until it is dropped.
    pub fn admit(&self, stream: UnixStream) -> Visitor {
        self.with(|state| state.connections += 1);
        let seat = Seat {
            counts: Arc::new(AtomicBool::new(true)),
            unattended: Arc::new(AtomicBool::new(false)),
            presence: self.clone(),
        };
        Visitor { stream, seat }
    }

    /// When the last connection ended, microseconds since the epoch; `None` while one is open.
    pub fn alone_since_us(&self) -> Option<u64> {
        self.with(|state| (state.connections == 0).then_some(state.left_us))
    }

    /// The same of connections behind which a person may be, who could answer.
    pub fn unattended_since_us(&self) -> Option<u64> {
        self.with(|state| (state.connections <= state.unattended).then_some(state.person_left_us))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a connection counts, for the calls that come by it.
#[derive(Debug, Clone)]
pub struct Seat {
    counts: Arc<AtomicBool>,
    unattended: Arc<AtomicBool>,
    presence: Presence,
}

impl Seat {
    /// A program only looks: nobody has been there by this connection.
    pub fn give_up(&self) {
        self.leave(None);
    }

    /// A program acts, and no person is at it. What it did before is nobody's word either.
    pub fn leave_unattended(&self) {
        self.presence.with(|state| {
            if self.counts.load(Ordering::Relaxed) && !self.unattended.swap(true, Ordering::Relaxed)
            {
                state.unattended += 1;
            }
        });
    }

    fn leave(&self, left_us: Option<u64>) {
        self.presence.with(|state| {
            if !self.counts.swap(false, Ordering::Relaxed) {
                return;
            }
            state.connections -= 1;
            state.left_us = left_us.unwrap_or(state.left_us);
            match self.unattended.load(Ordering::Relaxed) {
                true => state.unattended -= 1,
                false => state.person_left_us = left_us.unwrap_or(state.person_left_us),
            }
        });
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
    let title = String::from_utf8_lossy(command_line);
    (title.starts_with("sshd: ") || title.starts_with("sshd-session: ")) && title.contains("@pts/")
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

    #[tokio::test]
    async fn a_program_that_acts_is_there_and_answers_for_nobody() {
        let (near, _far) = UnixStream::pair().unwrap();
        let presence = Presence::new(5);
        let acts = presence.admit(near);
        assert_eq!(presence.unattended_since_us(), None, "it may be a person");
        acts.seat().leave_unattended();
        acts.seat().leave_unattended();
        assert_eq!(presence.alone_since_us(), None);
        assert_eq!(presence.unattended_since_us(), Some(5));
        let (near, _other) = UnixStream::pair().unwrap();
        let person = presence.admit(near);
        assert_eq!(presence.unattended_since_us(), None);
        drop(person);
        let left_us = presence.unattended_since_us().unwrap();
        assert!(left_us > 5);
        drop(acts);
        assert!(presence.alone_since_us().unwrap() > 5);
        assert_eq!(presence.unattended_since_us(), Some(left_us));
    }
}
