//! A command that runs, and everything between it and the world: output to log and window, keys and signals to it, deadlines,
//! and a daemon that is kept alive meanwhile. One thread, one loop.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill, killpg},
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    processes,
    record::{self, End, EndReason, Stop},
    shim,
    shim_log::ShimLog,
    window,
};
use crate::{config::Home, now_us};

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

/// The running command and everything between it and the world.
pub struct Running<'a> {
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

impl<'a> Running<'a> {
    /// Takes over a command that has just been let go.
    pub fn new(
        home: &'a Home,
        dir: &'a Path,
        child: Pid,
        master: File,
        signals: SignalFd,
        log: ShimLog,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            home,
            dir,
            child,
            signals,
            log,
            master: Some(master),
            keyboard: window::keyboard()?,
            screen: window::screen()?,
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

    /// Ends the command after this time; zero: never.
    pub fn limit(&mut self, time: Duration) {
        self.time_limit = (!time.is_zero()).then(|| Instant::now() + time);
    }

    /// Carries bytes and signals until the command is over.
    pub fn watch(&mut self) -> WaitStatus {
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
        let saving = self.stop_asked
            && (self.kill_at.is_some() || waited < STOP_PATIENCE)
            && self.has_descendants();
        let drained = self.master.is_none() || waited >= DRAIN;
        (!saving && drained).then_some(status)
    }

    fn has_descendants(&self) -> bool {
        !processes::descendants(Pid::this().as_raw()).is_empty()
    }

    fn sleep_until_something_happens(&self) {
        let mut waiting = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(master) = &self.master {
            let typing = if self.typed.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::POLLOUT
            };
            waiting.push(PollFd::new(master.as_fd(), PollFlags::POLLIN | typing));
        }
        if let Some(keyboard) = self
            .keyboard
            .as_ref()
            .filter(|_| self.typed.len() < TYPED_LIMIT_BYTES)
        {
            waiting.push(PollFd::new(keyboard.as_fd(), PollFlags::POLLIN));
        }
        let soon = if self.ended.is_some() || self.kill_at.is_some() {
            100u16
        } else {
            1000
        };
        // An error here is EINTR or a lack of memory: the loop looks at everything anyhow.
        let _ready = poll(&mut waiting, PollTimeout::from(soon));
    }

    fn copy_output(&mut self, buffer: &mut [u8]) {
        // Bounded, so that a command which prints without end cannot keep signals waiting.
        for _ in 0..64 {
            let Some(master) = &mut self.master else {
                return;
            };
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
        let Some(screen) = &mut self.screen else {
            return;
        };
        match screen.write(bytes) {
            Ok(_) => {}
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.screen = None,
        }
    }

    fn copy_input(&mut self, buffer: &mut [u8]) {
        if let Some(keyboard) = self
            .keyboard
            .as_mut()
            .filter(|_| self.typed.len() < TYPED_LIMIT_BYTES)
        {
            match keyboard.read(&mut buffer[..4096]) {
                Ok(0) => self.keyboard = None,
                Ok(read) => self.typed.extend_from_slice(&buffer[..read]),
                Err(err)
                    if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
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
            match i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())
            {
                Some(Signal::SIGWINCH) => self.master.iter().for_each(shim::fit_to_window),
                Some(asked @ (Signal::SIGTERM | Signal::SIGINT)) => {
                    let grace = record::read::<Stop>(self.dir, "stop.json")
                        .ok()
                        .flatten()
                        .map(|stop| stop.grace_s);
                    self.stop(
                        asked,
                        grace.map(|seconds| Duration::from_secs(seconds.into())),
                    );
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
        if self.ended.is_some() || self.starter.is_some() || Instant::now() < self.next_daemon_check
        {
            return;
        }
        self.next_daemon_check = Instant::now() + DAEMON_CHECK;
        // Where the lock cannot be read, two daemons would be worse than none.
        if record::is_locked(&self.home.daemon_lock()).unwrap_or(true) {
            return;
        }
        // As reaper we would inherit the daemon and all tmux servers that it starts, and kill them with the job.
        let _until_the_starter_has_left = set_child_subreaper(false);
        match shim::start_daemon(self.home) {
            Ok(starter) => self.starter = Some(starter),
            // Tried again at the next check; there is nobody to tell.
            Err(_) => _ = set_child_subreaper(true),
        }
    }

    /// The record of the end.
    pub fn end(&mut self, status: WaitStatus, oom_kills: u64) -> End {
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
fn reason(
    exit_code: Option<i32>,
    signal: Option<i32>,
    stop_asked: bool,
    oom_kills: u64,
) -> EndReason {
    let killed = signal == Some(libc::SIGKILL) || exit_code == Some(128 + libc::SIGKILL);
    match signal {
        _ if stop_asked => EndReason::Stopped,
        _ if killed && oom_kills > 0 => EndReason::Oom,
        Some(_) => EndReason::Signal,
        None => EndReason::Exited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_signal_oom_and_stop_are_told_apart() {
        let check = |exit, signal, asked, oom, expected| {
            assert_eq!(
                reason(exit, signal, asked, oom),
                expected,
                "{exit:?} {signal:?} {asked} {oom}"
            );
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
