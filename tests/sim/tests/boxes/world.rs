//! Boxes of one tier under a temporary directory, an ssh client for them, and a look at the machine's processes.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use spotter_sim::boxes::{BoxSpec, Boxes, Tier, detect};
use tempfile::TempDir;

/// Boxes of one tier, in a directory that goes when the test ends.
pub struct World {
    pub boxes: Arc<dyn Boxes>,
    pub dir: TempDir,
}

impl World {
    pub fn open(tier: Tier) -> Option<World> {
        let dir = tempfile::Builder::new().prefix("sim").tempdir().unwrap();
        match detect(Some(tier), &dir.path().join("boxes")) {
            Ok(boxes) => {
                assert_eq!(boxes.tier(), tier);
                run(
                    "ssh-keygen",
                    &[
                        "-q",
                        "-t",
                        "ed25519",
                        "-N",
                        "",
                        "-f",
                        &text(dir.path().join("key")),
                    ],
                );
                Some(World { boxes, dir })
            }
            Err(err) => {
                let why = format!("{err:#}");
                match why.contains("needs root") {
                    true => crate::skip::excuse(&why),
                    false => crate::skip::skip(&why),
                }
                None
            }
        }
    }

    pub fn spec(&self, id: u64, onstart: &str) -> BoxSpec {
        BoxSpec {
            id,
            env: vec![
                ("CONTAINER_ID".into(), id.to_string()),
                ("ODD".into(), "a 'b'\n\"c\" $d".into()),
            ],
            onstart: onstart.to_owned(),
            authorized_keys: vec![fs::read_to_string(self.dir.path().join("key.pub")).unwrap()],
            disk_mb: 64,
            memory_mb: 0,
            gpu_name: "RTX 4090".into(),
            num_gpus: 2,
            vram_mib: 24_564,
            compute_cap: 890,
        }
    }

    pub async fn start(&self, id: u64, onstart: &str) -> SocketAddr {
        self.boxes.create(self.spec(id, onstart)).await.unwrap();
        self.boxes.start(id).await.unwrap()
    }

    pub fn ssh_command(&self, at: SocketAddr, key: &str, remote: &str) -> Command {
        let mut command = Command::new("ssh");
        command.args([
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=30",
            "-o",
            "LogLevel=ERROR",
        ]);
        command.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        command.arg("-i").arg(self.dir.path().join(key));
        command.args([
            "-p",
            &at.port().to_string(),
            &format!("root@{}", at.ip()),
            remote,
        ]);
        command
    }

    /// What a command printed, without what the box's `.bashrc` prints before it.
    pub fn ssh(&self, at: SocketAddr, remote: &str) -> String {
        let output = self.try_ssh(at, "key", &format!("echo BEGIN; {remote}"));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{remote}: {printed} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        printed.split_once("BEGIN\n").unwrap().1.to_owned()
    }

    pub fn try_ssh(&self, at: SocketAddr, key: &str, remote: &str) -> Output {
        self.ssh_command(at, key, remote)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn box_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("boxes/b{id}"))
    }

    /// Network interfaces of this machine that belong to a box of ours.
    pub fn interfaces(&self) -> Vec<String> {
        let dir = self.dir.path().join("boxes").canonicalize().unwrap();
        interfaces_of(&text(dir))
    }

    pub async fn log(&self, id: u64) -> String {
        String::from_utf8(self.boxes.container_log(id).await.unwrap()).unwrap()
    }
}

/// An ssh session that sends back every line.
pub struct Echo {
    ssh: Child,
    pub input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Echo {
    pub fn open(world: &World, at: SocketAddr) -> Echo {
        let mut command = world.ssh_command(at, "key", "echo BEGIN; exec cat");
        let mut ssh = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut echo = Echo { ssh, input, lines };
        while echo.read(Duration::from_secs(30)).unwrap() != "BEGIN" {}
        echo.say("hello");
        assert_eq!(echo.read(Duration::from_secs(30)).unwrap(), "hello");
        echo
    }

    pub fn say(&mut self, line: &str) {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    pub fn read(&self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    pub fn ended_within(&mut self, limit: Duration) -> bool {
        eventually(limit, || self.ssh.try_wait().unwrap().is_some())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

/// What the names of all that a simulator in this directory makes outside of it hold.
pub fn tag(dir: &str) -> String {
    blake3::hash(dir.as_bytes()).to_hex()[..10].to_owned()
}

/// Network interfaces of this machine that belong to a box of the simulator in this directory.
pub fn interfaces_of(dir: &str) -> Vec<String> {
    let tag = tag(dir);
    fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(&tag))
        .collect()
}

/// Processes of this machine whose command line holds `token`.
pub fn processes_with(token: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(token) && entry.file_name().to_str() != Some(own.as_str()) {
            found.push(line);
        }
    }
    found
}

/// A number of seconds to sleep that no other test sleeps.
pub fn unique_sleep() -> String {
    format!(
        "{}.{}",
        100_000 + std::process::id() % 100_000,
        rand::random_range(100_000_000..999_999_999_u32)
    )
}
