//! One master connection, started and ended by us: `ssh -M -N`, never `ControlMaster auto`.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Child,
    time::{Instant, sleep, timeout},
};

use super::{
    Failure, FailureKind, Lane, SshTarget, TunnelError, destination, last_words, no_ssh, program,
    unique_path,
};
use crate::provider::SshAddress;

/// Ends ssh when we are no more: we hold the other end of its stdin, which closes even after a SIGKILL of this program.
/// Without it a killed controller would leave connections behind for ever.
const KEEPER: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
pid=$!
{ read -r _ <&3; kill "$pid"; } >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$pid"
code=$?
kill "$watch" 2>/dev/null
exit "$code"
"#;

/// Time that a connection gets to say goodbye.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A connection and its control socket.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) socket: PathBuf,
    pub(super) address: SshAddress,
    keeper: Child,
    group: Option<Pid>,
}

impl Master {
    /// Connects and logs in; answers when the control socket is there.
    pub(super) async fn start(
        target: &SshTarget,
        address: &SshAddress,
        lane: Lane,
        limit: Duration,
    ) -> Result<Master, TunnelError> {
        let socket = unique_path(&target.runtime, "c");
        let _ = fs::remove_file(&socket);
        let mut command = program("sh");
        command
            .args(["-c", KEEPER, "sh", "ssh", "-F"])
            .arg(&target.config)
            .args(["-M", "-N", "-T", "-S"])
            .arg(&socket);
        // A log compresses well; code and checkpoints do not.
        let compression = if lane == Lane::Control { "yes" } else { "no" };
        command.args([
            "-o",
            &format!("Compression={compression}"),
            "-p",
            &address.port.to_string(),
        ]);
        command.arg(destination(address));
        // The pipe stays in `keeper.stdin` until the master is dropped.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut keeper = command.spawn().map_err(no_ssh)?;
        let words = collect(keeper.stderr.take());
        let group = keeper
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        let mut master = Master {
            socket,
            address: address.clone(),
            keeper,
            group,
        };

        let began = Instant::now();
        let failure = loop {
            // ssh makes it only after the login.
            if master.socket.exists() {
                return Ok(master);
            }
            if !master.is_alive() {
                // The words come through a pipe that closes with the process.
                let said = words.finished().await;
                let kind = FailureKind::classify(&String::from_utf8_lossy(&said));
                break Failure {
                    address: address.clone(),
                    kind,
                    words: last_words(&said),
                };
            }
            if began.elapsed() >= limit {
                let words = format!("no login within {:.0} s", limit.as_secs_f64());
                break Failure {
                    address: address.clone(),
                    kind: FailureKind::Timeout,
                    words,
                };
            }
            sleep(Duration::from_millis(5)).await;
        };
        Err(TunnelError::Unreachable {
            failures: vec![failure],
        })
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.keeper.try_wait(), Ok(None))
    }

    pub(super) fn process(&self) -> Option<u32> {
        self.keeper.id()
    }

    /// Ends the connection and waits for it.
    pub(super) async fn end(mut self) {
        drop(self.keeper.stdin.take());
        if timeout(END_LIMIT, self.keeper.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.keeper.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group
            && self.keeper.id().is_some()
        {
            let _ = killpg(group, signal);
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // ssh itself is a child of the keeper: the group reaches both.
        self.signal(Signal::SIGTERM);
        let _ = fs::remove_file(&self.socket);
    }
}

/// The end of what a program prints on stderr, read as it comes so that the program never blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    tail: Arc<Mutex<Vec<u8>>>,
    done: Arc<tokio::sync::Notify>,
    open: Arc<std::sync::atomic::AtomicBool>,
}

impl Words {
    pub(super) fn so_far(&self) -> Vec<u8> {
        self.tail
            .lock()
            .expect("nothing panics while it holds this lock")
            .clone()
    }

    /// Everything, once the pipe is closed; at most half a second is spent on waiting for that.
    pub(super) async fn finished(&self) -> Vec<u8> {
        let closed = self.done.notified();
        if self.open.load(std::sync::atomic::Ordering::SeqCst) {
            let _ = timeout(Duration::from_millis(500), closed).await;
        }
        self.so_far()
    }
}

/// Reads a pipe to its end in the background, keeping the last 16 KiB. The task ends with the pipe.
pub(super) fn collect(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> Words {
    const KEEP_BYTES: usize = 16 << 10;
    let words = Words::default();
    let Some(mut pipe) = pipe else { return words };
    words.open.store(true, std::sync::atomic::Ordering::SeqCst);
    let into = words.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(read) = pipe.read(&mut buffer).await {
            if read == 0 {
                break;
            }
            let mut tail = into
                .tail
                .lock()
                .expect("nothing panics while it holds this lock");
            tail.extend_from_slice(&buffer[..read]);
            let excess = tail.len().saturating_sub(KEEP_BYTES);
            tail.drain(..excess);
        }
        into.open.store(false, std::sync::atomic::Ordering::SeqCst);
        into.done.notify_waiters();
    });
    words
}
