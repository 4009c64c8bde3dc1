//! Owns the terminal, the log and the end record of one command, and outlives tmux, ssh and the daemon.
//!
//! tmux is only a window onto it: the command runs on an inner terminal of ours, so that neither a frozen pane nor
//! `tmux kill-server` reaches it. Single-threaded, because it forks. While it runs it also starts the daemon again.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, IsTerminal, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{Winsize, openpty},
    sys::{
        prctl::set_child_subreaper,
        signal::{SigHandler, SigSet, Signal, kill, killpg, signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, umask},
        termios::{InputFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, setsid},
};

use super::{
    environment::{self, Environment},
    fifo, processes,
    program::Program,
    record::{self, End, EndReason, Spec, Start, Stop},
    shim_log::ShimLog,
};
use crate::{config::Home, now_us};

/// How long the daemon may take to send the environment.
const ENVIRONMENT_PATIENCE: Duration = Duration::from_secs(15);
/// How often the log's name and the daemon's lock are looked at; the daemon must be back within 10 s.
const TICK: Duration = Duration::from_secs(1);
const DAEMON_CHECK: Duration = Duration::from_secs(3);
/// How long output of processes that outlive the command is still logged.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a job that was asked to stop without a deadline may go on after its first process ended.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Grace of a command whose own time limit is over.
const TIMEOUT_GRACE: Duration = Duration::from_secs(30);
/// Typed bytes that wait for a command which does not read.
const TYPED_LIMIT_BYTES: usize = 64 << 10;
const BUFFER_BYTES: usize = 64 << 10;
/// Signals that come through the descriptor instead of interrupting.
const SIGNALS: [Signal; 4] = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGWINCH];
/// Signals of a terminal that goes away or is not ours to write to.
const IGNORED: [Signal; 4] = [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGTTOU, Signal::SIGTTIN];

/// Runs the command of the session in `dir` to its end and returns its exit code, or 128 + signal.
///
/// Where nothing could be started, the reason also lies in `dir` as `failed`, for the daemon to read.
pub fn run(home: &Home, dir: &Path, command: &[OsString]) -> anyhow::Result<i32> {
    let outcome = own(home, dir, command);
    if let Err(err) = &outcome {
        // The pane closes with us; this file is all that the daemon will see.
        fs::write(dir.join("failed"), format!("{err:#}")).context("the reason could not be written down")?;
    }
    outcome
}

fn own(home: &Home, dir: &Path, command: &[OsString]) -> anyhow::Result<i32> {
    umask(Mode::from_bits_truncate(0o077));
    // Leaves the session of whoever started us. In a tmux pane we lead one already: EPERM, and all is well.
    let _already_leading = setsid();
    for ignored in IGNORED {
        // SAFETY: `SigIgn` installs no handler, so no code of ours runs in signal context.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    let _lock = take_lock(dir)?;
    ensure!(!dir.join("end.json").exists(), "this session has already ended");
    let reserve = record::reserve_end(dir).context("no room for the end record")?;
    let spec: Option<Spec> = record::read(dir, "spec.json").context("spec.json cannot be read")?;
    let requested = receive_environment(dir)?;
    let program = Program::prepare(home, spec.as_ref(), command, requested)?;

    let mut mask = SigSet::empty();
    SIGNALS.iter().for_each(|caught| mask.add(*caught));
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    set_child_subreaper(true)?;
    let oom_kills_before = processes::oom_kills();
    let log = ShimLog::open(record::log_path(dir)).context("the log cannot be opened")?;
    let (child, master, gate) = spawn(&program, &mask)?;
    drop(program);

    let start = Start {
        v: 1,
        pid: child.as_raw(),
        pid_starttime: processes::start_time(child.as_raw()).unwrap_or(0),
        shim_pid: i32::try_from(std::process::id()).context("process id")?,
        boot: processes::boot(),
        started_us: now_us(),
    };
    // The child waits behind the gate: nothing runs that is not on record. On an error the gate closes and it leaves.
    record::write(dir, "start.json", &start).context("start.json cannot be written")?;
    fs::write(home.started(), b"").context("the dead-man's switch cannot be disarmed")?;
    nix::unistd::write(&gate, b"g").context("the command cannot be let go")?;
    drop(gate);

    let time_limit = spec.map(|spec| spec.timeout_s).filter(|seconds| *seconds > 0);
    let mut shim = Shim::new(home, dir, child, master, signals, log)?;
    shim.time_limit = time_limit.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let status = shim.watch();

    let oom_kills = match (oom_kills_before, processes::oom_kills()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        _ => 0,
    };
    let end = shim.end(status, oom_kills);
    record::write_end(dir, &reserve, &end).context("end.json cannot be written")?;
    Ok(end.exit_code.unwrap_or_else(|| 128 + end.signal.unwrap_or(0)))
}

/// Whoever can take this lock knows that no shim lives here.
fn take_lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = record::lock_path(dir);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut file = file;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // Somebody may hold it for an instant to see whether we live.
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            Err((_, Errno::EWOULDBLOCK)) => anyhow::bail!("this session already has a live shim"),
            Err((_, errno)) => return Err(io::Error::from(errno)).context("the session's lock cannot be taken"),
        };
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn receive_environment(dir: &Path) -> anyhow::Result<Environment> {
    let path = dir.join("env.fifo");
    if !path.exists() {
        return Ok(Environment::new());
    }
    let bytes = fifo::receive(&path, ENVIRONMENT_PATIENCE).context("the environment did not arrive")?;
    fifo::remove(&path)?;
    Ok(environment::parse(&bytes))
}

/// Forks the command onto a new terminal. It waits until a byte comes through the returned gate.
fn spawn(program: &Program, mask: &SigSet) -> anyhow::Result<(Pid, File, OwnedFd)> {
    let window = window_of(io::stdout().as_fd()).unwrap_or(Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 });
    let pty = openpty(&window, None).context("no terminal for the command")?;
    let mut modes = tcgetattr(&pty.slave)?;
    // C-s in the window must not stop a training run.
    modes.input_flags.remove(InputFlags::IXON | InputFlags::IXOFF);
    modes.input_flags.insert(InputFlags::IUTF8);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &modes)?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    set_nonblocking(pty.master.as_fd())?;
    let (gate_reader, gate) = pipe2(OFlag::O_CLOEXEC)?;

    // SAFETY: this process has one thread, so the child may use everything that the parent could.
    match unsafe { fork() }.context("the command cannot be forked")? {
        ForkResult::Parent { child } => Ok((child, pty.master.into(), gate)),
        ForkResult::Child => {
            drop(gate);
            let code = become_program(program, mask, &pty.slave, &gate_reader);
            // SAFETY: ends the child at once; nothing of the parent's state may be flushed or dropped twice.
            unsafe { libc::_exit(code) }
        }
    }
}

/// The child's way to `execve`; returns the exit code of a failure, as shells give it.
fn become_program(program: &Program, mask: &SigSet, terminal: &OwnedFd, gate: &OwnedFd) -> i32 {
    let entered = (|| -> nix::Result<()> {
        for restored in IGNORED {
            // SAFETY: `SigDfl` installs no handler.
            unsafe { signal(restored, SigHandler::SigDfl) }?;
        }
        mask.thread_unblock()?;
        setsid()?;
        // SAFETY: TIOCSCTTY takes an integer argument and touches no memory.
        Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
        dup2_stdin(terminal)?;
        dup2_stdout(terminal)?;
        dup2_stderr(terminal)
    })();
    if entered.is_err() {
        return 125;
    }
    // When memory runs out the kernel shall take the job and leave its shim to tell. Not every container allows it.
    let _best_effort = fs::write("/proc/self/oom_score_adj", "500");
    let mut byte = [0];
    if nix::unistd::read(gate, &mut byte) != Ok(1) {
        return 125;
    }
    umask(Mode::from_bits_truncate(0o022));
    let (what, errno) = match chdir(&program.dir) {
        Err(errno) => (program.dir.as_os_str(), errno),
        Ok(()) => {
            let Err(errno) = execve(&program.path, &program.args, &program.env);
            (OsStr::from_bytes(program.path.as_bytes()), errno)
        }
    };
    let text = format!("spotter: {} cannot be run: {}\n", what.to_string_lossy(), errno.desc());
    let _nobody_else_to_tell = nix::unistd::write(io::stderr(), text.as_bytes());
    if errno == Errno::ENOENT { 127 } else { 126 }
}

/// The running command and everything between it and the world.
struct Shim<'a> {
    home: &'a Home,
    dir: &'a Path,
    child: Pid,
    signals: SignalFd,
    log: ShimLog,
    master: Option<File>,
    keyboard: Option<File>,
    screen: Option<File>,
    typed: Vec<u8>,
    ended: Option<(WaitStatus, Instant)>,
    stop_asked: bool,
    timed_out: bool,
    time_limit: Option<Instant>,
    kill_at: Option<Instant>,
    next_tick: Instant,
    next_daemon_check: Instant,
    starter: Option<Pid>,
}

impl<'a> Shim<'a> {
    fn new(home: &'a Home, dir: &'a Path, child: Pid, master: File, signals: SignalFd, log: ShimLog) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            home,
            dir,
            child,
            signals,
            log,
            master: Some(master),
            keyboard: keyboard()?,
            screen: screen()?,
            typed: Vec::new(),
            ended: None,
            stop_asked: false,
            timed_out: false,
            time_limit: None,
            kill_at: None,
            next_tick: now,
            next_daemon_check: now + DAEMON_CHECK,
            starter: None,
        })
    }

    /// Carries bytes and signals until the command is over.
    fn watch(&mut self) -> WaitStatus {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if let Some(status) = self.is_over() {
                return status;
            }
            self.sleep_until_something_happens();
            self.copy_output(&mut buffer);
            self.copy_input(&mut buffer);
            self.handle_signals();
            self.reap();
            self.watch_deadlines();
            if Instant::now() >= self.next_tick {
                self.next_tick = Instant::now() + TICK;
                self.log.follow_name();
                self.keep_daemon_alive();
            }
        }
    }

    fn is_over(&self) -> Option<WaitStatus> {
        let (status, at) = self.ended?;
        let waited = at.elapsed();
        // A shell dies of SIGTERM at once, while the training that it started may still be saving its last checkpoint.
        let saving = self.stop_asked && (self.kill_at.is_some() || waited < STOP_PATIENCE) && self.has_descendants();
        let drained = self.master.is_none() || waited >= DRAIN;
        (!saving && drained).then_some(status)
    }

    fn has_descendants(&self) -> bool {
        !processes::descendants(Pid::this().as_raw()).is_empty()
    }

    fn sleep_until_something_happens(&self) {
        let mut waiting = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(master) = &self.master {
            let typing = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            waiting.push(PollFd::new(master.as_fd(), PollFlags::POLLIN | typing));
        }
        if let Some(keyboard) = self.keyboard.as_ref().filter(|_| self.typed.len() < TYPED_LIMIT_BYTES) {
            waiting.push(PollFd::new(keyboard.as_fd(), PollFlags::POLLIN));
        }
        let soon = if self.ended.is_some() || self.kill_at.is_some() { 100u16 } else { 1000 };
        // An error here is EINTR or a lack of memory: the loop looks at everything anyhow.
        let _ready = poll(&mut waiting, PollTimeout::from(soon));
    }

    fn copy_output(&mut self, buffer: &mut [u8]) {
        // Bounded, so that a command which prints without end cannot keep signals waiting.
        for _ in 0..64 {
            let Some(master) = &mut self.master else { return };
            match master.read(buffer) {
                Ok(0) => self.master = None,
                Ok(read) => {
                    self.log.write(&buffer[..read]);
                    self.show(&buffer[..read]);
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => return,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                // EIO: nobody has the other side open any more.
                Err(_) => self.master = None,
            }
        }
    }

    /// Shows bytes in the window; what a frozen or absent window does not take is dropped there, never in the log.
    fn show(&mut self, bytes: &[u8]) {
        let Some(screen) = &mut self.screen else { return };
        match screen.write(bytes) {
            Ok(_) => {}
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.screen = None,
        }
    }

    fn copy_input(&mut self, buffer: &mut [u8]) {
        if let Some(keyboard) = self.keyboard.as_mut().filter(|_| self.typed.len() < TYPED_LIMIT_BYTES) {
            match keyboard.read(&mut buffer[..4096]) {
                Ok(0) => self.keyboard = None,
                Ok(read) => self.typed.extend_from_slice(&buffer[..read]),
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => self.keyboard = None,
            }
        }
        if let Some(master) = self.master.as_mut().filter(|_| !self.typed.is_empty())
            && let Ok(written) = master.write(&self.typed)
        {
            self.typed.drain(..written);
        }
    }

    fn handle_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGWINCH) => self.resize(),
                Some(asked @ (Signal::SIGTERM | Signal::SIGINT)) => {
                    let grace = record::read::<Stop>(self.dir, "stop.json").ok().flatten().map(|stop| stop.grace_s);
                    self.stop(asked, grace.map(|seconds| Duration::from_secs(seconds.into())));
                }
                _ => {}
            }
        }
    }

    /// Passes the wish to end on; with a grace, the whole tree is killed after it.
    fn stop(&mut self, asked: Signal, grace: Option<Duration>) {
        self.stop_asked |= self.ended.is_none();
        if let Some(at) = grace.map(|grace| Instant::now() + grace) {
            self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        }
        // ESRCH: the group is gone already. SIGCONT, because a stopped process would not hear of it.
        let _gone = killpg(self.child, asked).and_then(|()| killpg(self.child, Signal::SIGCONT));
    }

    fn resize(&self) {
        if let (Some(window), Some(master)) = (window_of(io::stdout().as_fd()), &self.master) {
            // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
            unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const window) };
        }
    }

    /// Collects every dead child: we are the reaper of the whole tree.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { return };
            if pid == self.child {
                self.ended = Some((status, Instant::now()));
            } else if self.starter == Some(pid) {
                self.starter = None;
                let _as_before = set_child_subreaper(true);
            }
        }
    }

    fn watch_deadlines(&mut self) {
        let now = Instant::now();
        if self.ended.is_none() && self.time_limit.is_some_and(|limit| now >= limit) {
            self.time_limit = None;
            self.timed_out = true;
            self.stop(Signal::SIGTERM, Some(TIMEOUT_GRACE));
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            for pid in processes::descendants(Pid::this().as_raw()) {
                // ESRCH: it was quicker.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Starts the daemon when its lock is free.
    fn keep_daemon_alive(&mut self) {
        if self.ended.is_some() || self.starter.is_some() || Instant::now() < self.next_daemon_check {
            return;
        }
        self.next_daemon_check = Instant::now() + DAEMON_CHECK;
        // Where the lock cannot be read, two daemons would be worse than none.
        if record::is_locked(&self.home.daemon_lock()).unwrap_or(true) {
            return;
        }
        let Ok(program) = self.home.program() else { return };
        // As reaper we would inherit the daemon and all tmux servers that it starts, and kill them with the job.
        let _until_the_starter_has_left = set_child_subreaper(false);
        let started = Command::new(program)
            .args(["daemon", "--detach", "--home"])
            .arg(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(starter) => self.starter = i32::try_from(starter.id()).ok().map(Pid::from_raw),
            // Tried again at the next check; there is nobody to tell.
            Err(_) => _ = set_child_subreaper(true),
        }
    }

    fn end(&mut self, status: WaitStatus, oom_kills: u64) -> End {
        let (exit_code, signal) = match status {
            WaitStatus::Signaled(_, signal, _) => (None, Some(signal as i32)),
            WaitStatus::Exited(_, code) => (Some(code), None),
            other => unreachable!("waitpid without WUNTRACED reports only ends, not {other:?}"),
        };
        self.log.finish();
        End {
            v: 1,
            reason: reason(exit_code, signal, self.stop_asked, oom_kills),
            exit_code,
            signal,
            oom_kills,
            timed_out: self.timed_out,
            ended_us: now_us(),
            log_bytes: self.log.written_bytes,
            log_dropped_bytes: self.log.dropped_bytes,
        }
    }
}

/// Why a command ended. A shell reports its OOM-killed child as exit code 137.
fn reason(exit_code: Option<i32>, signal: Option<i32>, stop_asked: bool, oom_kills: u64) -> EndReason {
    let killed = signal == Some(libc::SIGKILL) || exit_code == Some(128 + libc::SIGKILL);
    match signal {
        _ if stop_asked => EndReason::Stopped,
        _ if killed && oom_kills > 0 => EndReason::Oom,
        Some(_) => EndReason::Signal,
        None => EndReason::Exited,
    }
}

/// The window's keys, taken raw: Ctrl-C belongs to the command, not to us. `None` without a window.
fn keyboard() -> anyhow::Result<Option<File>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let mut modes = tcgetattr(&stdin)?;
    cfmakeraw(&mut modes);
    tcsetattr(&stdin, SetArg::TCSANOW, &modes)?;
    set_nonblocking(stdin.as_fd())?;
    Ok(Some(stdin.as_fd().try_clone_to_owned()?.into()))
}

fn screen() -> anyhow::Result<Option<File>> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return Ok(None);
    }
    set_nonblocking(stdout.as_fd())?;
    Ok(Some(stdout.as_fd().try_clone_to_owned()?.into()))
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// Size of the window behind a descriptor; `None` when it has none.
fn window_of(fd: BorrowedFd<'_>) -> Option<Winsize> {
    let mut window = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    let answered = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut window) } == 0;
    (answered && window.ws_col > 0).then_some(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_signal_oom_and_stop_are_told_apart() {
        let check = |exit, signal, asked, oom, expected| {
            assert_eq!(reason(exit, signal, asked, oom), expected, "{exit:?} {signal:?} {asked} {oom}");
        };
        check(Some(7), None, false, 0, EndReason::Exited);
        // A data loader was killed, the trainer noticed and left by itself.
        check(Some(1), None, false, 1, EndReason::Exited);
        check(Some(137), None, false, 0, EndReason::Exited);
        check(Some(137), None, false, 1, EndReason::Oom);
        check(None, Some(9), false, 1, EndReason::Oom);
        check(None, Some(9), false, 0, EndReason::Signal);
        check(None, Some(11), false, 1, EndReason::Signal);
        check(None, Some(9), true, 0, EndReason::Stopped);
        check(Some(0), None, true, 0, EndReason::Stopped);
    }
}
