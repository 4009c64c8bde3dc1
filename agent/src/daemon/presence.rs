//! Whether somebody is there: open connections to the socket, and logins on the box. A box with nobody there and nothing to
//! do may end itself.

use std::{
    fs,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

use crate::{aside, now_us};

/// Nobody is at a shell at which nobody typed for so long.
const IDLE: Duration = Duration::from_secs(15 * 60);

/// Counts connections and remembers when the last one left.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    connections: usize,
    left_us: u64,
    /// Of the connections those behind which no person is.
    unattended: usize,
    /// When the last one ended of which it was said that a person may be behind it.
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
            attended: Arc::new(AtomicBool::new(false)),
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
    /// It was said that a person may be behind it.
    attended: Arc<AtomicBool>,
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

    /// A person may be at it. While it is open a connection that said nothing counts like this one; but one that broke before it said
    /// anything may be that of a program whose link comes and goes.
    pub fn attend(&self) {
        self.attended.store(true, Ordering::Relaxed);
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
                false if !self.attended.load(Ordering::Relaxed) => {}
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

/// Whether a person is at a shell on the box: sshd names the terminal in its process title, and somebody typed there lately. A shell
/// that was left open for the night is nobody.
pub fn is_logged_in() -> bool {
    aside(|| {
        let now = SystemTime::now();
        let proc = fs::read_dir("/proc").into_iter().flatten().flatten();
        proc.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .any(|title| {
                terminals(&title).iter().any(|terminal| {
                    let typed = fs::metadata(Path::new("/dev").join(terminal))
                        .and_then(|terminal| terminal.accessed());
                    is_used(typed, now)
                })
            })
    })
}

/// The terminals of the logins that a process title of sshd names (pure): `sshd: root@pts/0`, of one connection with several
/// `sshd: root@pts/0,pts/3`.
fn terminals(title: &[u8]) -> Vec<String> {
    let title = String::from_utf8_lossy(title);
    let title = title.trim_end_matches('\0');
    let login = ["sshd: ", "sshd-session: "]
        .iter()
        .find_map(|name| title.strip_prefix(name))
        .and_then(|login| login.rsplit_once('@'));
    let terminals = login.map_or("", |(_, terminals)| terminals);
    let numbered = |terminal: &&str| {
        (terminal.strip_prefix("pts/")).is_some_and(|number| number.parse::<u32>().is_ok())
    };
    terminals
        .split([',', ' '])
        .filter(numbered)
        .map(str::to_owned)
        .collect()
}

/// Whether somebody is at a terminal (pure). `typed`: when it was read last, as `w` takes it; the time at which it was written would
/// say only that a program prints.
fn is_used(typed: io::Result<SystemTime>, now: SystemTime) -> bool {
    match typed {
        // A clock that went back says nothing.
        Ok(typed) => now.duration_since(typed).map_or(true, |idle| idle < IDLE),
        // One that is gone is nobody's; of one that cannot be looked at nobody knows.
        Err(err) => err.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_is_a_login() {
        for (title, expected) in [
            (&b"sshd: root@pts/0\0\0"[..], &["pts/0"][..]),
            (b"sshd-session: root@pts/12", &["pts/12"]),
            (b"sshd: me@example@pts/3", &["pts/3"]),
            (b"sshd: root@notty", &[]),
            (b"sshd: root@notty,pts/1,pts/4", &["pts/1", "pts/4"]),
            (b"sshd: root@pts/../../etc", &[]),
            (b"vim notes about sshd: root@pts/0", &[]),
            (b"", &[]),
        ] {
            assert_eq!(
                terminals(title),
                expected,
                "{}",
                String::from_utf8_lossy(title)
            );
        }
    }

    #[test]
    fn a_shell_at_which_nobody_typed_for_a_quarter_of_an_hour_is_nobody() {
        let now = SystemTime::now();
        let typed_s = |seconds| Ok(now - Duration::from_secs(seconds));
        let failed = |kind: io::ErrorKind| Err(kind.into());
        for (typed, expected) in [
            (typed_s(0), true),
            (typed_s(899), true),
            (typed_s(900), false),
            (typed_s(86_400), false),
            (Ok(now + Duration::from_secs(60)), true),
            (failed(io::ErrorKind::NotFound), false),
            (failed(io::ErrorKind::PermissionDenied), true),
        ] {
            let words = format!("{typed:?}");
            assert_eq!(is_used(typed, now), expected, "{words}");
        }
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
        person.seat().attend();
        drop(person);
        let left_us = presence.unattended_since_us().unwrap();
        assert!(left_us > 5);
        drop(acts);
        assert!(presence.alone_since_us().unwrap() > 5);
        assert_eq!(presence.unattended_since_us(), Some(left_us));
    }

    #[tokio::test]
    async fn a_link_that_comes_and_goes_is_no_person_who_left() {
        type Says = fn(&Seat);
        let says: [(&str, Says, bool); 4] = [
            ("nothing before it breaks", |_| {}, false),
            ("that nobody is at it", Seat::leave_unattended, false),
            ("that somebody may be at it", Seat::attend, true),
            (
                "both, one after the other",
                |seat| {
                    seat.attend();
                    seat.leave_unattended();
                },
                false,
            ),
        ];
        for (name, say, is_person) in says {
            let (near, _far) = UnixStream::pair().unwrap();
            let presence = Presence::new(5);
            let visitor = presence.admit(near);
            assert_eq!(presence.unattended_since_us(), None, "{name}");
            say(&visitor.seat());
            drop(visitor);
            let left_us = presence.unattended_since_us().unwrap();
            assert_eq!(left_us > 5, is_person, "{name}");
            assert!(presence.alone_since_us().unwrap() > 5, "{name}");
        }
    }
}
