//! ssh to a box: master connections that we own, commands over them, and the bridge that carries gRPC.
//!
//! The only place that starts `ssh` (and `ssh-keygen`): the system's OpenSSH brings the user's keys, agents and jump hosts. [`home`]
//! holds our files, [`options`] what ssh is told, `programs` its programs, [`master`] the connections, [`remote`] a command behind its handshake.

mod error;
mod home;
mod master;
mod options;
mod programs;
mod remote;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::UnixStream,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

pub(crate) use error::last_words;
pub use error::{Failure, FailureKind, TunnelError};
pub use home::{CONTROL_PATH_LIMIT_BYTES, SshHome, SshTarget};
use master::Master;
pub(crate) use options::shell_word;
pub use programs::{become_ssh, person_words, prove_ssh};
use programs::{destination, generate_key, no_ssh, program};
pub use remote::{Bridge, Output, Remote, Told};

use crate::provider::SshAddress;

/// Longest wait for the login shell to come to our command: rc files of images download things.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(20);
/// Most that a login shell may print before our command.
pub const NOISE_LIMIT_BYTES: usize = 1 << 20;
/// Longest time for a command of ours that only looks around.
const EXEC_LIMIT: Duration = Duration::from_secs(60);
/// A last try that has less time than this is none: a login over a slow line takes as long.
const LEAST_LOGIN: Duration = Duration::from_secs(2);
/// Kex and login of one connection, after TCP answered (`ConnectTimeout` covers that).
const LOGIN_LIMIT: Duration = Duration::from_secs(30);

/// Which of the connections. Bulk data on the control connection would raise its answer time from under 1 to 590 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Calls of the agent and short commands; compressed.
    Control,
    /// Copies of code and results.
    Bulk,
    /// One of [`FURTHER_LANES`] more, counted from 0, for copies at once: a long line gives each connection only so much.
    Further(usize),
}

/// Connections beside the control and the bulk one, made when they are needed.
pub const FURTHER_LANES: usize = 3;

/// How long to keep trying to connect.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// In all, from now.
    pub limit: Duration,
    /// How long a refused key is worth another try: providers let new keys in some tens of seconds late.
    pub auth: Duration,
}

impl Patience {
    /// For a box that was reached before.
    pub fn known_box(limit: Duration) -> Patience {
        Patience {
            limit,
            auth: Duration::ZERO,
        }
    }

    /// For a box that was just made.
    pub fn new_box(limit: Duration) -> Patience {
        Patience {
            limit,
            auth: Duration::from_secs(120),
        }
    }
}

/// Connections to one box; cheap to clone. They end when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Tunnel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    target: SshTarget,
    control: Mutex<Option<Master>>,
    bulk: Mutex<Option<Master>>,
    further: [Mutex<Option<Master>>; FURTHER_LANES],
    /// The address that answered first, last time.
    best: std::sync::Mutex<Option<SshAddress>>,
}

impl Tunnel {
    /// Connects to whichever address answers first, trying again while that can help and `patience` lasts.
    ///
    /// # Errors
    /// What the last try said of each address; at once when a host key changed.
    pub async fn connect(target: SshTarget, patience: Patience) -> Result<Tunnel, TunnelError> {
        let tunnel = Tunnel {
            inner: Arc::new(Inner {
                target,
                control: Mutex::new(None),
                bulk: Mutex::new(None),
                further: Default::default(),
                best: std::sync::Mutex::new(None),
            }),
        };
        let began = Instant::now();
        let mut pause = Duration::from_millis(250);
        loop {
            let left = patience.limit.saturating_sub(began.elapsed());
            let Err(err) = tunnel.master(Lane::Control, left).await else {
                return Ok(tunnel);
            };
            let worth_it = err.is_link()
                || (err.kind() == FailureKind::Auth && began.elapsed() < patience.auth);
            // What has no time for a login would only tell that there was none.
            let left = patience.limit.saturating_sub(began.elapsed() + pause);
            if !worth_it || left < LEAST_LOGIN.min(patience.limit / 2) {
                return Err(err);
            }
            debug!(error = %err, "ssh does not answer yet");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(3));
        }
    }

    /// The address that works.
    pub fn address(&self) -> Option<SshAddress> {
        self.inner
            .best
            .lock()
            .expect("nothing panics while it holds this lock")
            .clone()
    }

    /// How the box is reached.
    pub fn target(&self) -> &SshTarget {
        &self.inner.target
    }

    /// Runs a POSIX shell script on the box, over the control connection, and waits for its end (at most 60 s).
    /// What rc files print is not part of the output. `stdin` is sent once the script runs.
    ///
    /// # Errors
    /// When the script did not run to its end; its own exit code is in the output.
    pub async fn exec(&self, script: &str, stdin: &[u8]) -> Result<Output, TunnelError> {
        self.exec_within(Lane::Control, script, stdin, EXEC_LIMIT)
            .await
    }

    /// [`Tunnel::exec`] on either connection and with another limit.
    ///
    /// # Errors
    /// As [`Tunnel::exec`].
    pub async fn exec_within(
        &self,
        lane: Lane,
        script: &str,
        stdin: &[u8],
        limit: Duration,
    ) -> Result<Output, TunnelError> {
        self.send_within(lane, script, stdin, limit, &|_, _| {})
            .await
    }

    /// [`Tunnel::exec_within`] for an input that takes a while; `told` hears how far it is.
    ///
    /// # Errors
    /// As [`Tunnel::exec`].
    pub async fn send_within(
        &self,
        lane: Lane,
        script: &str,
        stdin: &[u8],
        limit: Duration,
        told: Told<'_>,
    ) -> Result<Output, TunnelError> {
        let work = async {
            let remote = self.start(lane, script).await?;
            remote.finish_telling(stdin, told).await
        };
        match timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => Err(TunnelError::Slow {
                address: self.some_address(),
                limit,
            }),
        }
    }

    /// Starts a POSIX shell script on the box and returns once it runs, its output and input in hand.
    ///
    /// # Errors
    /// When ssh cannot connect, or the login shell never comes to the script.
    pub async fn start(&self, lane: Lane, script: &str) -> Result<Remote, TunnelError> {
        let marker = format!("SPOTTER-EXEC/1 {}", nonce());
        // `sh -c`, because the login shell may be fish or zsh.
        let line = format!(
            "umask 077; printf '\\n%s\\n' '{marker}'; exec sh -c {}",
            shell_word(script)
        );
        self.remote(lane, &line, &marker).await
    }

    /// Opens a byte stream to the agent's socket on the box: by `<agent> bridge`, which also starts the daemon if need be, or,
    /// where the login shell does not come to our command, by forwarding to the socket (absolute path) of a daemon that runs.
    ///
    /// # Errors
    /// What the bridge said, when neither works.
    pub async fn bridge(&self, agent: &str, socket: &str) -> Result<Bridge, TunnelError> {
        let nonce = nonce();
        let line = format!(
            "umask 077; exec {} bridge {} {nonce}",
            shell_word(agent),
            shell_word(socket)
        );
        let silent = match self
            .remote(Lane::Control, &line, &format!("SPOTTER-BRIDGE/1 {nonce}"))
            .await
        {
            Ok(remote) => return Ok(Bridge::stdio(remote)),
            Err(err @ TunnelError::Silent { .. }) => err,
            Err(err) => return Err(err),
        };
        match self.forward(socket).await {
            Ok(stream) => {
                debug!(error = %silent, "the shell is in the way: reached the agent's socket by forwarding");
                Ok(Bridge::forwarded(stream))
            }
            // What is wrong with the shell is what a person can repair.
            Err(_) => Err(silent),
        }
    }

    /// Makes sure that a connection is up and returns the words with which ssh uses it: for rsync, which starts ssh itself.
    pub(crate) async fn ssh_words(&self, lane: Lane) -> Result<Vec<String>, TunnelError> {
        let (socket, address) = self.master(lane, LOGIN_LIMIT).await?;
        let mut words = vec!["ssh".to_owned()];
        words.extend(client_args(&self.inner.target, &socket, &address));
        words.push(destination(&address));
        Ok(words)
    }

    /// Where scripts and sockets of ours may lie: ours alone, with a short path without spaces.
    pub(crate) fn runtime_dir(&self) -> &Path {
        &self.inner.target.runtime
    }

    /// Ends the connections that only copies at once need.
    pub(crate) async fn end_further(&self) {
        for slot in &self.inner.further {
            if let Some(master) = slot.lock().await.take() {
                master.end().await;
            }
        }
    }

    /// Ends all connections and waits until they are gone.
    pub async fn close(self) {
        self.end_further().await;
        for slot in [&self.inner.bulk, &self.inner.control] {
            if let Some(master) = slot.lock().await.take() {
                master.end().await;
            }
        }
    }

    /// Process id of the keeper of a connection, if one is up: its process group is the connection.
    pub async fn process(&self, lane: Lane) -> Option<u32> {
        self.slot(lane)
            .lock()
            .await
            .as_ref()
            .and_then(Master::process)
    }

    fn slot(&self, lane: Lane) -> &Mutex<Option<Master>> {
        match lane {
            Lane::Control => &self.inner.control,
            Lane::Bulk => &self.inner.bulk,
            Lane::Further(at) => &self.inner.further[at],
        }
    }

    fn some_address(&self) -> SshAddress {
        let first = || self.inner.target.addresses.first().cloned();
        self.address().or_else(first).unwrap_or(SshAddress {
            host: String::new(),
            port: 0,
            proxy: false,
        })
    }

    /// The control socket of a live connection; a dead one is replaced.
    async fn master(
        &self,
        lane: Lane,
        limit: Duration,
    ) -> Result<(PathBuf, SshAddress), TunnelError> {
        let mut slot = self.slot(lane).lock().await;
        if let Some(master) = slot.as_mut()
            && master.is_alive()
        {
            return Ok((master.socket.clone(), master.address.clone()));
        }
        *slot = None;
        let target = &self.inner.target;
        let mut racing: FuturesUnordered<_> = target
            .addresses
            .iter()
            .map(|address| Master::start(target, address, lane, limit.min(LOGIN_LIMIT)))
            .collect();
        let mut failures = Vec::new();
        while let Some(outcome) = racing.next().await {
            match outcome {
                Ok(master) => {
                    *self
                        .inner
                        .best
                        .lock()
                        .expect("nothing panics while it holds this lock") =
                        Some(master.address.clone());
                    let found = (master.socket.clone(), master.address.clone());
                    *slot = Some(master);
                    return Ok(found);
                }
                Err(TunnelError::Unreachable { failures: these }) => failures.extend(these),
                Err(err) => return Err(err),
            }
        }
        if failures.is_empty() {
            let nothing = std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "the provider gave no address",
            );
            return Err(TunnelError::local(
                format!("{} cannot be reached by ssh", target.alias),
                nothing,
            ));
        }
        Err(TunnelError::Unreachable { failures })
    }

    async fn remote(&self, lane: Lane, line: &str, marker: &str) -> Result<Remote, TunnelError> {
        let (socket, address) = self.master(lane, LOGIN_LIMIT).await?;
        let mut command = program("ssh");
        command.args(client_args(&self.inner.target, &socket, &address));
        command.arg(destination(&address)).arg(line);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(no_ssh)?;
        Remote::behind_marker(child, marker, address, HANDSHAKE_LIMIT).await
    }

    /// A connection to a Unix socket on the box that no shell has a part in.
    async fn forward(&self, remote_socket: &str) -> Result<UnixStream, TunnelError> {
        if !remote_socket.starts_with('/') {
            let why = std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "its absolute path is not known",
            );
            return Err(TunnelError::local(
                format!("socket {remote_socket} cannot be forwarded"),
                why,
            ));
        }
        let (control, address) = self.master(Lane::Control, LOGIN_LIMIT).await?;
        let local = unique_path(self.runtime_dir(), "f");
        let pair = format!("{}:{remote_socket}", local.display());
        self.control_command(&control, &address, "forward", &pair)
            .await?;
        let mut stream = UnixStream::connect(&local).await;
        if stream.is_err() {
            // Once in some 45 times the first use failed for no visible reason; never twice.
            stream = UnixStream::connect(&local).await;
        }
        // A connection that is open stays; nobody else can open one.
        let _ = self
            .control_command(&control, &address, "cancel", &pair)
            .await;
        let _ = fs::remove_file(&local);
        stream.map_err(|err| {
            TunnelError::local(
                format!("forwarded socket {} does not answer", local.display()),
                err,
            )
        })
    }

    async fn control_command(
        &self,
        control: &Path,
        address: &SshAddress,
        verb: &str,
        pair: &str,
    ) -> Result<(), TunnelError> {
        let mut command = program("ssh");
        command.args(client_args(&self.inner.target, control, address));
        command
            .args(["-O", verb, "-L", pair])
            .arg(destination(address));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(no_ssh)?;
        let done = timeout(HANDSHAKE_LIMIT, child.wait_with_output())
            .await
            .map_err(|_| TunnelError::Slow {
                address: address.clone(),
                limit: HANDSHAKE_LIMIT,
            })?
            .map_err(|err| TunnelError::local("ssh could not be waited for", err))?;
        if done.status.success() {
            Ok(())
        } else {
            Err(TunnelError::Lost {
                address: address.clone(),
                words: last_words(&done.stderr),
            })
        }
    }
}

/// A random word that no rc file can guess or print by chance.
fn nonce() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// A path for a socket or script of this process; swept when the process is no more.
pub(crate) fn unique_path(dir: &Path, kind: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    dir.join(format!(
        "{kind}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ))
}

fn client_args(target: &SshTarget, socket: &Path, address: &SshAddress) -> Vec<String> {
    [
        "-F".to_owned(),
        target.config.display().to_string(),
        "-S".to_owned(),
        socket.display().to_string(),
        "-T".to_owned(),
        "-p".to_owned(),
        address.port.to_string(),
    ]
    .into()
}
