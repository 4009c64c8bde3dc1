//! `Bed`: a home directory under a short path, its daemons and its sessions; all gone when it is dropped.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spotter_proto::v1::{self, agent_client::AgentClient};
use tokio::{net::UnixStream, time};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

/// The program under test.
pub const AGENT: &str = env!("CARGO_BIN_EXE_spotter-agent");
/// Everything that is waited for comes within this, also on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub type Client = AgentClient<Channel>;

/// Whether a box has tmux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Tmux,
    None,
}

pub struct Bed {
    dir: tempfile::TempDir,
    window: Window,
    daemons: Vec<Child>,
}

impl Bed {
    /// A box whose daemon runs.
    pub async fn with_daemon(window: Window) -> Self {
        let mut bed = Self::new(window);
        bed.start_daemon();
        bed.client().await;
        bed
    }

    /// A box where nothing runs yet.
    pub fn new(window: Window) -> Self {
        // Short, because a socket's path is limited to 90 bytes.
        let dir = tempfile::Builder::new()
            .prefix("sp-")
            .tempdir_in("/tmp")
            .unwrap();
        let bed = Self {
            dir,
            window,
            daemons: Vec::new(),
        };
        fs::create_dir(bed.home()).unwrap();
        fs::create_dir(bed.work()).unwrap();
        bed.container_env(&[]);
        bed
    }

    /// Saves the container's environment as `onstart` does.
    pub fn container_env(&self, more: &[(&str, &str)]) {
        let mut text = String::from("PATH=/usr/local/bin:/usr/bin:/bin\0");
        for (name, value) in more {
            text.push_str(&format!("{name}={value}\0"));
        }
        fs::write(self.home().join("container.env"), text).unwrap();
    }

    pub fn user_home(&self) -> &Path {
        self.dir.path()
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join(".spotter")
    }

    /// Where jobs run.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("w")
    }

    pub fn socket(&self) -> PathBuf {
        self.home().join("agent.sock")
    }

    pub fn session_dir(&self, name: &str) -> PathBuf {
        self.home().join("sessions").join(name)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.session_dir(name).join("log")
    }

    /// The agent in this box's environment.
    pub fn agent(&self) -> Command {
        let mut command = Command::new(AGENT);
        command
            .env_clear()
            .env("HOME", self.user_home())
            .stdin(Stdio::null());
        match self.window {
            Window::Tmux => command.env("PATH", "/usr/local/bin:/usr/bin:/bin"),
            // Without tmux means a search path without it; jobs have the container's.
            Window::None => command.env("PATH", "/nonexistent"),
        };
        command
    }

    pub fn tmux(&self, args: &[&str]) -> std::process::Output {
        Command::new("tmux")
            .arg("-u")
            .arg("-S")
            .arg(self.home().join("tmux.sock"))
            .args(args)
            .output()
            .unwrap()
    }

    /// Starts a daemon and returns its process id.
    pub fn start_daemon(&mut self) -> i32 {
        self.start_daemon_with(&[])
    }

    /// The same, in an environment with these besides.
    pub fn start_daemon_with(&mut self, environment: &[(&str, &str)]) -> i32 {
        let child = self
            .agent()
            .arg("daemon")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.daemons.push(child);
        pid
    }

    /// Waits for a daemon of this test to end by itself.
    pub async fn wait_for_daemon(&mut self, pid: i32) -> std::process::ExitStatus {
        let at = self
            .daemons
            .iter()
            .position(|child| child.id() as i32 == pid)
            .unwrap();
        let mut child = self.daemons.remove(at);
        until("the daemon to end", || child.try_wait().unwrap()).await
    }

    /// Process id of the daemon that holds the lock; `None` when it is free.
    pub fn daemon_pid(&self) -> Option<i32> {
        use nix::fcntl::{Flock, FlockArg};
        let path = self.home().join("daemon.lock");
        let file = fs::File::open(&path).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_free) => None,
            Err(_) => fs::read_to_string(&path).ok()?.trim().parse().ok(),
        }
    }

    /// A client, as soon as the daemon answers.
    pub async fn client(&self) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = self.try_client().await
                && client
                    .list_sessions(v1::ListSessionsRequest {})
                    .await
                    .is_ok()
            {
                return client;
            }
            assert!(
                Instant::now() < deadline,
                "no daemon answered; its log:\n{}",
                self.daemon_log()
            );
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn try_client(&self) -> Result<Client, tonic::transport::Error> {
        let socket = self.socket();
        let connect = service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        Endpoint::from_static("http://agent.invalid")
            .connect_with_connector(connect)
            .await
            .map(AgentClient::new)
    }

    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.home().join("daemon.log")).unwrap_or_default()
    }

    /// Starts a session in the work directory.
    pub async fn start(&self, name: &str, command: &str) -> Result<v1::Session, Status> {
        self.start_with(self.request(name, command)).await
    }

    pub fn request(&self, name: &str, command: &str) -> v1::StartSessionRequest {
        v1::StartSessionRequest {
            name: name.to_owned(),
            command: command.to_owned(),
            dir: self.work().display().to_string(),
            env: HashMap::new(),
            timeout_s: 0,
            again: None,
        }
    }

    pub async fn start_with(
        &self,
        request: v1::StartSessionRequest,
    ) -> Result<v1::Session, Status> {
        let answer = self.client().await.start_session(request).await?;
        Ok(answer.into_inner().session.unwrap())
    }

    pub async fn session(&self, name: &str) -> v1::Session {
        let sessions = self
            .client()
            .await
            .list_sessions(v1::ListSessionsRequest {})
            .await
            .unwrap()
            .into_inner()
            .sessions;
        sessions
            .into_iter()
            .find(|session| session.name == name)
            .unwrap_or_else(|| panic!("no session {name}"))
    }

    /// Waits for a session to end and returns how.
    pub async fn ended(&self, name: &str) -> v1::Session {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let session = self.session(name).await;
            if session.state() != v1::SessionState::Running {
                return session;
            }
            assert!(Instant::now() < deadline, "session {name} does not end");
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn end(&self, name: &str, grace_s: u32) -> v1::Session {
        let request = v1::EndSessionRequest {
            name: name.to_owned(),
            grace_s,
        };
        self.client()
            .await
            .end_session(request)
            .await
            .unwrap()
            .into_inner()
            .session
            .unwrap()
    }

    /// All events that the journal holds.
    pub async fn events(&self) -> Vec<v1::Event> {
        let request = v1::EventsRequest {
            from: 0,
            follow: false,
        };
        let mut stream = self
            .client()
            .await
            .events(request)
            .await
            .unwrap()
            .into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.unwrap() {
            events.push(event);
        }
        events
    }

    /// Waits for an event of this kind and returns its details.
    pub async fn event(&self, kind: &str) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self
                .events()
                .await
                .into_iter()
                .find(|event| event.kind == kind)
            {
                return serde_json::from_str(&event.detail_json).unwrap();
            }
            assert!(
                Instant::now() < deadline,
                "no event {kind}; the daemon's log:\n{}",
                self.daemon_log()
            );
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for this many ends of sessions and returns the sessions' names, in order.
    pub async fn ends(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events().await;
            let ends: Vec<_> = events
                .iter()
                .filter(|event| event.kind == "session.ended")
                .collect();
            if ends.len() >= count || Instant::now() > deadline {
                assert_eq!(ends.len(), count, "{events:?}");
                let detail = |event: &&v1::Event| {
                    serde_json::from_str::<serde_json::Value>(&event.detail_json).unwrap()
                };
                return ends
                    .iter()
                    .map(|end| detail(end)["session"].as_str().unwrap().to_owned())
                    .collect();
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a session's log holds a text.
    pub async fn logged(&self, name: &str, text: &str) -> String {
        let path = self.log(name);
        until(&format!("`{text}` in the log of {name}"), || {
            let log = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            log.contains(text).then_some(log)
        })
        .await
    }

    pub fn record(&self, name: &str, file: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.session_dir(name).join(file)).unwrap()).unwrap()
    }

    pub fn shim_pid(&self, name: &str) -> i32 {
        i32::try_from(
            self.record(name, "start.json")["shim_pid"]
                .as_i64()
                .unwrap(),
        )
        .unwrap()
    }

    /// Every process whose command line or environment names this bed.
    fn own_processes(&self) -> Vec<i32> {
        let mark = self.dir.path().as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let names_us = |file: &str| {
                let text = fs::read(entry.path().join(file)).unwrap_or_default();
                text.windows(mark.len()).any(|window| window == mark)
            };
            if pid != std::process::id() as i32 && (names_us("cmdline") || names_us("environ")) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Shims start daemons again: twice over all, until nobody is left.
        for _ in 0..50 {
            let own = self.own_processes();
            for child in &mut self.daemons {
                let _reaped = child.try_wait();
            }
            if own.is_empty() {
                return;
            }
            for pid in own {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(
            std::thread::panicking(),
            "left behind: {:?}",
            self.own_processes()
        );
    }
}

/// Polls until there is an answer.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')')
        .is_some_and(|at| !stat[at..].starts_with(") Z"))
}

/// Follows a session's log as the controller does: on and on over broken links, at its position.
pub struct LogReader<'a> {
    pub bed: &'a Bed,
    pub session: &'a str,
    pub position: Option<v1::LogPosition>,
    pub bytes: Vec<u8>,
    pub gap_bytes: u64,
    pub breaks: usize,
}

impl<'a> LogReader<'a> {
    pub fn new(bed: &'a Bed, session: &'a str) -> Self {
        Self {
            bed,
            session,
            position: None,
            bytes: Vec::new(),
            gap_bytes: 0,
            breaks: 0,
        }
    }

    /// Reads until the session has ended and everything came.
    pub async fn read_to_end(&mut self) {
        while !self.read_while(|_| true).await {
            self.breaks += 1;
        }
    }

    /// Reads while `go_on` says so; true at the end of the session, false where the link broke or `go_on` said no.
    pub async fn read_while(&mut self, go_on: impl Fn(&Self) -> bool) -> bool {
        let request = v1::LogsRequest {
            session: self.session.to_owned(),
            position: self.position,
            tail_bytes: 0,
            follow: true,
        };
        let Ok(answer) = self.bed.client().await.logs(request).await else {
            return false;
        };
        let mut stream = answer.into_inner();
        while go_on(self) {
            let next = time::timeout(PATIENCE, stream.message())
                .await
                .expect("the log stream is stuck");
            let Ok(Some(chunk)) = next else { return false };
            let at = chunk.position.unwrap();
            self.position = Some(v1::LogPosition {
                offset: at.offset + chunk.data.len() as u64,
                ..at
            });
            self.bytes.extend_from_slice(&chunk.data);
            self.gap_bytes += chunk.gap_bytes;
            if chunk.end {
                return true;
            }
        }
        false
    }
}
