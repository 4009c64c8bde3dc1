//! Owns the terminal, the log and the end record of one command, and outlives tmux, ssh and the daemon.
//!
//! tmux is only a window onto it: the command runs on an inner terminal of ours, so that neither a frozen pane nor
//! `tmux kill-server` reaches it. Single-threaded, because it forks. While it runs it also starts the daemon again.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
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
    pty::{Winsize, openpty},
    sys::{
        prctl::set_child_subreaper,
        signal::{SigHandler, SigSet, Signal, kill, signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, umask},
        termios::{InputFlags, SetArg, tcgetattr, tcsetattr},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{
        ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, setpgid,
        setsid, tcsetpgrp,
    },
};

use super::{
    environment::{self, Environment},
    fifo, processes,
    program::Program,
    record::{self, Spec, Start},
    running::Running,
    shim_log::ShimLog,
    window,
};
use crate::{config::Home, now_us, open_files};

/// The sessions that come before a training; see the dead-man's switch.
const PREPARING_SESSIONS: [&str; 2] = ["setup", "smoke"];
/// How long the daemon may take to send the environment.
const ENVIRONMENT_PATIENCE: Duration = Duration::from_secs(15);
/// Signals that come through the descriptor instead of interrupting.
const SIGNALS: [Signal; 4] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGWINCH,
];
/// Signals of a terminal that goes away or is not ours to write to.
const IGNORED: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGPIPE,
    Signal::SIGTTOU,
    Signal::SIGTTIN,
];

/// Runs the command of the session in `dir` to its end and returns its exit code, or 128 + signal.
///
/// Where nothing could be started, the reason also lies in `dir` as `failed`, for the daemon to read.
pub fn run(home: &Home, dir: &Path, command: &[OsString]) -> anyhow::Result<i32> {
    let outcome = own(home, dir, command);
    if let Err(err) = &outcome {
        // The pane closes with us; this file is all that the daemon will see.
        fs::write(dir.join("failed"), format!("{err:#}"))
            .context("the reason could not be written down")?;
    }
    outcome
}

fn own(home: &Home, dir: &Path, command: &[OsString]) -> anyhow::Result<i32> {
    umask(Mode::from_bits_truncate(0o077));
    for ignored in IGNORED {
        // SAFETY: `SigIgn` installs no handler, so no code of ours runs in signal context.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    if let Some(code) = lead_a_session()? {
        return Ok(code);
    }
    let _lock = take_lock(dir)?;
    ensure!(
        !dir.join("end.json").exists(),
        "this session has already ended"
    );
    let reserve = record::reserve_end(dir).context("no room for the end record")?;
    let spec: Option<Spec> = record::read(dir, "spec.json").context("spec.json cannot be read")?;
    if let Some(limit) = spec.as_ref().and_then(|spec| spec.open_files) {
        open_files::give_back(limit);
    }
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
    // Preparing the box is not what it was rented for: a box that never comes to its training still ends itself.
    let prepares = |name: &&str| dir.file_name() == Some(OsStr::new(name));
    if !PREPARING_SESSIONS.iter().any(prepares) {
        fs::write(home.started(), b"").context("the dead-man's switch cannot be disarmed")?;
    }
    nix::unistd::write(&gate, b"g").context("the command cannot be let go")?;
    drop(gate);

    let time_limit = spec.map_or(0, |spec| spec.timeout_s);
    let mut running = Running::new(home, dir, child, master, signals, log)?;
    running.limit(Duration::from_secs(time_limit.into()));
    let status = running.watch();

    let oom_kills = match (oom_kills_before, processes::oom_kills()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        _ => 0,
    };
    let end = running.end(status, oom_kills);
    record::write_end(dir, &reserve, &end).context("end.json cannot be written")?;
    Ok(end
        .exit_code
        .unwrap_or_else(|| 128 + end.signal.unwrap_or(0)))
}

/// Makes this process lead a session of its own, whose terminal will be the command's: when a leader dies, the kernel hangs up
/// on everything in the foreground, so it must not be the command's shell. Were that to die of the SIGTERM that asks to stop,
/// the training below it would be killed while it saves its last checkpoint.
///
/// In a tmux pane we lead the pane's session already; there a child goes on, and the parent waits in the pane for its exit code.
fn lead_a_session() -> anyhow::Result<Option<i32>> {
    if setsid().is_ok() {
        return Ok(None);
    }
    let mut mask = SigSet::empty();
    SIGNALS.iter().for_each(|caught| mask.add(*caught));
    mask.thread_block()?;
    // SAFETY: this process has one thread, so the child may use everything that the parent could.
    match unsafe { fork() }.context("no process for the session")? {
        ForkResult::Child => {
            setsid().context("no session for the command")?;
            Ok(None)
        }
        ForkResult::Parent { child } => loop {
            match mask.wait()? {
                Signal::SIGCHLD => match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
                    WaitStatus::Exited(_, code) => return Ok(Some(code)),
                    WaitStatus::Signaled(_, signal, _) => return Ok(Some(128 + signal as i32)),
                    _ => {}
                },
                // A new size of the pane is told to us, and a person who ends the pane's process means the command.
                other => kill(child, other)?,
            }
        },
    }
}

/// Whoever can take this lock knows that no shim lives here.
fn take_lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = record::lock_path(dir);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut file = file;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // Somebody may hold it for an instant to see whether we live.
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            Err((_, Errno::EWOULDBLOCK)) => anyhow::bail!("this session already has a live shim"),
            Err((_, errno)) => {
                return Err(io::Error::from(errno)).context("the session's lock cannot be taken");
            }
        };
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn receive_environment(dir: &Path) -> anyhow::Result<Environment> {
    let path = dir.join("env.fifo");
    if !path.exists() {
        return Ok(Environment::new());
    }
    let bytes =
        fifo::receive(&path, ENVIRONMENT_PATIENCE).context("the environment did not arrive")?;
    fifo::remove(&path)?;
    Ok(environment::parse(&bytes))
}

/// Forks the command onto a new terminal. It waits until a byte comes through the returned gate.
fn spawn(program: &Program, mask: &SigSet) -> anyhow::Result<(Pid, File, OwnedFd)> {
    let window = window_of(io::stdout().as_fd()).unwrap_or(Winsize {
        ws_row: 50,
        ws_col: 200,
        ws_xpixel: 0,
        ws_ypixel: 0,
    });
    let pty = openpty(&window, None).context("no terminal for the command")?;
    let mut modes = tcgetattr(&pty.slave)?;
    // C-s in the window must not stop a training run.
    modes
        .input_flags
        .remove(InputFlags::IXON | InputFlags::IXOFF);
    modes.input_flags.insert(InputFlags::IUTF8);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &modes)?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    window::set_nonblocking(pty.master.as_fd())?;
    // SAFETY: TIOCSCTTY takes an integer argument and touches no memory.
    Errno::result(unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
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
        // The terminal's foreground, so that Ctrl-C reaches the command and not its shim. Done while SIGTTOU is still ignored.
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        tcsetpgrp(terminal, Pid::this())?;
        for restored in IGNORED {
            // SAFETY: `SigDfl` installs no handler.
            unsafe { signal(restored, SigHandler::SigDfl) }?;
        }
        mask.thread_unblock()?;
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
    let text = format!(
        "spotter: {} cannot be run: {}\n",
        what.to_string_lossy(),
        errno.desc()
    );
    let _nobody_else_to_tell = nix::unistd::write(io::stderr(), text.as_bytes());
    if errno == Errno::ENOENT { 127 } else { 126 }
}

/// Size of the window behind a descriptor; `None` when it has none.
fn window_of(fd: BorrowedFd<'_>) -> Option<Winsize> {
    let mut window = Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    let answered = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut window) } == 0;
    (answered && window.ws_col > 0).then_some(window)
}

/// Makes the inner terminal as large as the window that shows it.
pub fn fit_to_window(master: &File) {
    if let Some(window) = window_of(io::stdout().as_fd()) {
        // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const window) };
    }
}

/// Starts the daemon through a process that leaves at once, and returns that process.
pub fn start_daemon(home: &Home) -> io::Result<Pid> {
    let starter = Command::new(home.program()?)
        .args(["daemon", "--detach", "--home"])
        .arg(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    i32::try_from(starter.id())
        .map(Pid::from_raw)
        .map_err(io::Error::other)
}
