//! Places, starts, feeds on and restarts the NVML probe: the only file that knows it is a process.
//!
//! One thread of its own does all of it, and lives as long as the probe's telemetry: the kernel kills the probe when the
//! thread that started it ends, so a pool thread would not do. Where images can be put is `image`'s business; what a
//! frame means is [`super::gpu`]'s.

mod environment;
mod image;
mod smi;

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvml_probe::{Body, Failure, take_frame};
use prost::bytes::BytesMut;
use tracing::{info, warn};

use super::gpu::{GpuBoard, failure_text};
use image::Image;
use smi::Second;

/// What the kernel starts a program for glibc with; a root of musl alone has none.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// How to find, start and judge the probe.
#[derive(Debug, Clone)]
pub struct ProbeConfig {
    /// Program to run; `None`: the embedded one, or one named `nvml-probe` beside the agent.
    pub program: Option<PathBuf>,
    /// `nvidia-smi`, the second best; `None`: where drivers put it.
    pub smi: Option<PathBuf>,
    /// Where the image is kept.
    pub dir: PathBuf,
    /// The container's environment, NUL-separated; /proc/1/environ where the file is missing. ssh shells lack it, and with
    /// it the library path that container toolkits set.
    pub environment_file: PathBuf,
    /// Time between two readings of what is slow to read.
    pub slow: Duration,
    /// Longest wait for the first sample: nvmlInit takes seconds without persistence mode, more with many GPUs.
    pub first_frame: Duration,
    /// Longest wait for any other frame.
    pub next_frame: Duration,
    /// Wait before a probe that died is started again; doubles up to `longest_backoff` while it keeps dying.
    pub shortest_backoff: Duration,
    /// Wait between attempts where NVML refuses or nothing can be started.
    pub longest_backoff: Duration,
}

impl ProbeConfig {
    /// Whether there is any program to run: a plain build of the agent holds none.
    pub fn has_program(&self) -> bool {
        !image::places(self).is_empty()
    }

    /// What a box needs; `dir` is the agent's own directory, `~/.spotter`.
    pub fn new(dir: &Path) -> Self {
        Self {
            program: None,
            smi: None,
            environment_file: dir.join("container.env"),
            dir: dir.to_owned(),
            slow: Duration::from_secs(10),
            first_frame: Duration::from_secs(60),
            next_frame: Duration::from_secs(15),
            shortest_backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(60),
        }
    }
}

/// Owns the thread that owns the probe.
#[derive(Debug)]
pub struct ProbeSupervisor {
    wake: PipeWriter,
    thread: JoinHandle<()>,
}

impl ProbeSupervisor {
    /// Starts the thread, which starts the probe.
    ///
    /// # Errors
    /// When the system gives no pipe or no thread.
    pub fn start(
        config: ProbeConfig,
        interval: Duration,
        board: Arc<GpuBoard>,
    ) -> io::Result<Self> {
        let (asleep, wake) = io::pipe()?;
        let supervision = Supervision {
            config,
            interval,
            board,
            stop: asleep,
        };
        let thread = thread::Builder::new()
            .name("nvml-probe".to_owned())
            .stack_size(256 << 10)
            .spawn(move || supervision.run())?;
        Ok(Self { wake, thread })
    }

    /// Ends the probe and its thread; takes at most a few seconds, even when the probe cannot be killed.
    pub fn stop(self) {
        // Closing the pipe wakes the thread wherever it waits.
        drop(self.wake);
        if self.thread.join().is_err() {
            warn!("the thread that supervises the NVML probe panicked");
        }
    }
}

/// How one life of the probe ended.
#[derive(Debug)]
enum End {
    /// We were told to stop.
    Stopped,
    /// It said that it cannot work.
    Refused(Failure, String),
    /// It ended for another reason.
    Died(String),
    /// It was silent for too long, and killed.
    Hung(Duration),
    /// No program could be started at all.
    NotStarted(String),
}

struct Supervision {
    config: ProbeConfig,
    interval: Duration,
    board: Arc<GpuBoard>,
    /// Closed by the other side when it is time to stop.
    stop: PipeReader,
}

impl Supervision {
    fn run(self) {
        /// A probe that ended by itself this often in a row will not do.
        const MOST_FAILURES: u32 = 3;
        let mut backoff = self.config.shortest_backoff;
        let mut failures = 0;
        // Why `nvidia-smi` was read last: the same again is no news.
        let mut fell_back = None;
        loop {
            let started = Instant::now();
            let (end, left) = self.one_life();
            // A probe that worked for a while earns a quick restart.
            if started.elapsed() > self.config.longest_backoff {
                backoff = self.config.shortest_backoff;
                failures = 0;
            }
            failures += 1;
            let (mut problem, mut wait, hopeless) = match end {
                End::Stopped => return,
                End::Refused(failure, said) => (
                    failure_text(failure, &said),
                    self.config.longest_backoff,
                    // The others are the driver's own word, and `nvidia-smi` asks the same driver.
                    matches!(failure, Failure::NoLibrary | Failure::Init),
                ),
                End::NotStarted(why) => (why, self.config.longest_backoff, true),
                End::Died(how) => (
                    format!("the NVML probe {how}; it is started again"),
                    backoff,
                    failures >= MOST_FAILURES,
                ),
                End::Hung(silence) => {
                    let limit_s = silence.as_secs_f64();
                    let how = format!(
                        "the NVML probe was silent for {limit_s} s and was killed: the driver hangs"
                    );
                    (how, backoff, failures >= MOST_FAILURES)
                }
            };
            if let Some(child) = left
                && self.outwait("the NVML probe", child)
            {
                return;
            }
            if hopeless {
                let began = Instant::now();
                let variables = environment::read(&self.config.environment_file);
                let (second, left) = self.second_best(&problem, &variables, &mut fell_back);
                if let Some(child) = left
                    && self.outwait("nvidia-smi", child)
                {
                    return;
                }
                match second {
                    Second::Stopped => return,
                    // The probe may do by now, and tells more. What was read is as good as it was until it has had its chance.
                    Second::Worked if began.elapsed() > self.config.longest_backoff => {
                        if self.stopped_within(self.config.shortest_backoff) {
                            return;
                        }
                        continue;
                    }
                    Second::Worked => {
                        problem = format!("{problem}; nvidia-smi ends soon after it begins");
                        wait = backoff;
                    }
                    Second::Missing => {}
                    Second::Failed(how) => problem = format!("{problem}; nvidia-smi: {how}"),
                }
            }
            self.board.fail(&problem);
            warn!(
                problem = self.board.problem(),
                retry_in_s = wait.as_secs_f64(),
                "no GPU telemetry"
            );
            backoff = (backoff * 2).min(self.config.longest_backoff);
            if self.stopped_within(wait) {
                return;
            }
        }
    }

    /// Starts a probe and feeds on it until it ends. A process that could not be killed is handed back.
    fn one_life(&self) -> (End, Option<Child>) {
        let mut child = match self.start() {
            Ok(child) => child,
            Err(why) => return (End::NotStarted(why), None),
        };
        let stdout = child
            .stdout
            .take()
            .expect("the probe was started with a pipe as its stdout");
        let end = self.feed(stdout);
        // A stream ends a moment before its process does, and the process's own exit code is worth that moment.
        let grace = if matches!(end, End::Died(_)) {
            Duration::from_millis(500)
        } else {
            Duration::ZERO
        };
        match reap(&mut child, grace) {
            None => (end, Some(child)),
            Some(status) => match end {
                // The stream ended: how the process ended says why.
                End::Died(_) if !status.success() => (end_of(status), None),
                end => (end, None),
            },
        }
    }

    /// Reads frames until the stream or the patience ends.
    fn feed(&self, mut stdout: ChildStdout) -> End {
        let mut buffer = BytesMut::new();
        let mut piece = [0; 8 << 10];
        let mut patience = self.config.first_frame;
        let mut deadline = Instant::now() + patience;
        loop {
            match self.wait_for(&stdout, deadline) {
                Waited::Readable => {}
                Waited::Stop => return End::Stopped,
                Waited::TimedOut => return End::Hung(patience),
            }
            match stdout.read(&mut piece) {
                Ok(0) => return End::Died("ended".to_owned()),
                Ok(length) => buffer.extend_from_slice(&piece[..length]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return End::Died(format!("cannot be read: {err}")),
            }
            loop {
                let body = match take_frame(&mut buffer) {
                    Ok(None) => break,
                    Ok(Some(frame)) => frame.body,
                    Err(err) => return End::Died(format!("sent nonsense: {err}")),
                };
                match body {
                    Some(Body::Hello(hello)) => {
                        info!(
                            driver = hello.driver,
                            library = hello.library,
                            gpus = hello.gpus.len(),
                            "NVML probe works"
                        );
                        self.board.greet(&hello);
                    }
                    Some(Body::Sample(sample)) => {
                        self.board.update(sample.gpus);
                        patience = self.config.next_frame;
                    }
                    Some(Body::Xid(xid)) => {
                        warn!(
                            gpu = xid.index,
                            xid = xid.code,
                            "the driver reported an Xid error"
                        );
                        self.board.note_xid(&xid, crate::now_us());
                        // Not a sign of life of the thread that reads.
                        continue;
                    }
                    Some(Body::State(state)) => return refusal(state),
                    None => {}
                }
                deadline = Instant::now() + patience;
            }
        }
    }

    /// Waits for bytes, the stop signal or a deadline.
    fn wait_for(&self, stdout: &ChildStdout, deadline: Instant) -> Waited {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout(left)) {
                Ok(0) if left.is_zero() => return Waited::TimedOut,
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) if fds[0].any() != Some(false) => return Waited::Stop,
                Ok(_) => return Waited::Readable,
                // poll fails only for want of memory: as good as a timeout.
                Err(_) => return Waited::TimedOut,
            }
        }
    }

    /// Sleeps; true when the stop signal came first.
    fn stopped_within(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout(left)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(Errno::EINTR) => {}
                _ => return true,
            }
        }
    }

    /// Waits until a probe that is stuck in the driver is really gone: a second one would only be stuck beside it. True
    /// when the stop signal came first; the kernel reaps the process later.
    fn outwait(&self, who: &str, mut child: Child) -> bool {
        let pid = child.id();
        self.board.fail(&format!(
            "{who} (pid {pid}) is stuck in the driver and cannot be killed"
        ));
        while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            if self.stopped_within(self.config.longest_backoff.min(Duration::from_secs(5))) {
                return true;
            }
        }
        false
    }

    /// Starts the program from the first place that allows it.
    fn start(&self) -> Result<Child, String> {
        let places = image::places(&self.config).into_iter();
        let images = places.map(|place| (place.to_string(), place.image()));
        self.start_first(images, Path::new(LOADER))
    }

    /// `images`: each place with the program there, made when it is its turn. `loader`: what every program for glibc needs.
    fn start_first(
        &self,
        images: impl Iterator<Item = (String, io::Result<Image>)>,
        loader: &Path,
    ) -> Result<Child, String> {
        let environment = environment::read(&self.config.environment_file);
        let mut problems = Vec::new();
        for (place, image) in images {
            let image = match image {
                Ok(image) => image,
                Err(err) => {
                    problems.push(format!("{place}: {err}"));
                    continue;
                }
            };
            match self.spawn(&image, &environment) {
                Ok(child) => return Ok(child),
                Err(err) if no_loader(&image, &err, loader) => {
                    return Err(format!(
                        "this box has no glibc loader ({}), which NVIDIA's library needs",
                        loader.display()
                    ));
                }
                Err(err) => problems.push(format!("{place}: {err}")),
            }
        }
        if problems.is_empty() {
            problems.push(
                "this agent was built without one and there is no `nvml-probe` beside it"
                    .to_owned(),
            );
        }
        Err(format!(
            "the NVML probe cannot be started: {}",
            problems.join("; ")
        ))
    }

    fn spawn(&self, image: &Image, environment: &[(OsString, OsString)]) -> io::Result<Child> {
        /// Another thread that forks in the moment of writing holds the file open for writing in its child.
        const BUSY_RETRIES: u32 = 10;
        let mut command = Command::new(image.path());
        command
            .arg0("nvml-probe")
            .args(["--interval-ms", &self.interval.as_millis().to_string()])
            .args(["--slow-ms", &self.config.slow.as_millis().to_string()])
            .args(["--parent", &process::id().to_string()])
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            // Not null: a bare root without /dev/null would look like a missing program.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for _ in 0..BUSY_RETRIES {
            match command.spawn() {
                Err(err) if err.kind() == io::ErrorKind::ExecutableFileBusy => {
                    thread::sleep(Duration::from_millis(20))
                }
                Err(err) => return Err(err),
                Ok(mut child) => {
                    // The probe reads nothing and prints nothing but frames; NVML itself has nothing to say to us.
                    drop(child.stdin.take());
                    drop(child.stderr.take());
                    return Ok(child);
                }
            }
        }
        Err(io::ErrorKind::ExecutableFileBusy.into())
    }
}

enum Waited {
    Readable,
    Stop,
    TimedOut,
}

/// Lets the probe end by itself for as long as `grace`, then kills it; `None` when it is stuck where not even SIGKILL
/// reaches it.
fn reap(child: &mut Child, grace: Duration) -> Option<ExitStatus> {
    /// A process that the scheduler neglects is dead well within this.
    const PATIENCE: Duration = Duration::from_secs(2);
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if started.elapsed() > grace + PATIENCE => return None,
            Ok(None) if started.elapsed() < grace => {}
            Ok(None) => {
                // An error means that it is gone, which the next look will show.
                let _ = child.kill();
            }
            // Somebody else reaped it: there is nothing left to wait for.
            Err(_) => return Some(ExitStatus::from_raw(0)),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn refusal(state: nvml_probe::State) -> End {
    match i32::try_from(state.code).ok().and_then(Failure::from_code) {
        Some(failure) => End::Refused(failure, state.text),
        None => End::Died(format!("refused: {}", state.text)),
    }
}

fn end_of(status: ExitStatus) -> End {
    match (
        status.code().and_then(Failure::from_code),
        status.code(),
        status.signal(),
    ) {
        (Some(failure), _, _) => End::Refused(failure, String::new()),
        (_, Some(code), _) => End::Died(format!("ended with exit code {code}")),
        (_, _, Some(signal)) => End::Died(format!("was ended by signal {signal}")),
        _ => End::Died("ended".to_owned()),
    }
}

/// `exec` says ENOENT for a program that is there when its loader is not.
fn no_loader(image: &Image, err: &io::Error, loader: &Path) -> bool {
    err.kind() == io::ErrorKind::NotFound && image.exists() && !loader.exists()
}

fn timeout(left: Duration) -> PollTimeout {
    // Rounded up, so that the last wait does not become a busy loop.
    let milliseconds = left.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests;
