//! What the static agent owes (scripts/build-agent.sh): it starts anywhere, it is small, and the probe inside loads
//! NVIDIA's library on old images.
//!
//! Looks at `SPOTTER_STATIC_AGENT`, else at where the script leaves a copy. Without a static agent these tests are skipped
//! loudly, and fail where `SPOTTER_REQUIRE_ALL=1` says that nothing may be skipped.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// One upload of at most a few seconds on any link.
const SIZE_LIMIT_BYTES: u64 = 5_000_000;

/// CentOS 7 and everything since.
const OLDEST_GLIBC: (u32, u32) = (2, 17);

/// How long a condition may take on a busy machine before a test gives up.
const PATIENCE: Duration = Duration::from_secs(40);

#[path = "../../tests/skip.rs"]
mod skip;
use skip::skip;

fn static_agent() -> Option<PathBuf> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/x86_64-unknown-linux-musl/release/spotter-agent");
    let agent = env::var_os("SPOTTER_STATIC_AGENT").map_or(kept, PathBuf::from);
    if !agent.exists() {
        skip(&format!(
            "there is no static agent at {}: run scripts/build-agent.sh",
            agent.display()
        ));
        return None;
    }
    Some(agent)
}

/// What a tool prints of a file; `None`, told, where the tool is missing.
fn told_by(tool: &str, args: &[&str], file: &Path) -> Option<String> {
    match Command::new(tool).args(args).arg(file).output() {
        Ok(output) => {
            assert!(output.status.success(), "{tool}: {output:?}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(err) => {
            skip(&format!("{tool} cannot be started: {err}"));
            None
        }
    }
}

/// The newest glibc whose symbols a program asks for, by what `objdump -T` says.
fn newest_glibc(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let text = rest
            .split(|c: char| c != '.' && !c.is_ascii_digit())
            .next()?;
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    });
    versions.max()
}

#[test]
fn the_agent_is_static_and_small() {
    let Some(path) = static_agent() else { return };
    let bytes = fs::metadata(&path).unwrap().len();
    assert!(
        bytes <= SIZE_LIMIT_BYTES,
        "{bytes} bytes are over the limit of {SIZE_LIMIT_BYTES}"
    );
    let Some(kind) = told_by("file", &["-b"], &path) else {
        return;
    };
    assert!(
        kind.starts_with("ELF 64-bit") && kind.contains("statically linked"),
        "{kind}"
    );
    if let Some(needed) = told_by("objdump", &["-p"], &path) {
        assert!(!needed.contains("NEEDED"), "{needed}");
    }
}

#[test]
fn the_agent_starts_in_an_empty_root() {
    let Some(path) = static_agent() else { return };
    let root = tempfile::tempdir().unwrap();
    fs::copy(&path, root.path().join("spotter-agent")).unwrap();

    let root_only = Command::new("chroot")
        .arg(root.path())
        .args(["/spotter-agent", "--version"])
        .output();
    let started = |output: &std::io::Result<Output>| {
        output.as_ref().is_ok_and(|output| output.status.success())
    };
    let output = if started(&root_only) {
        root_only
    } else {
        // An ordinary user becomes root of a user namespace first, where the system allows that.
        let allowed = Command::new("unshare")
            .args(["--user", "--map-root-user", "true"])
            .output();
        if !started(&allowed) {
            return skip("this machine allows neither chroot nor user namespaces");
        }
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "chroot"])
            .arg(root.path());
        unshare.args(["/spotter-agent", "--version"]).output()
    }
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said.trim(),
        format!("spotter-agent {}", env!("CARGO_PKG_VERSION")),
        "{output:?}"
    );
}

/// Kills what it holds, so that a failed test leaves nothing behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Processes whose program is this file.
fn running(program: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| fs::read_link(entry.path().join("exe")).is_ok_and(|found| found == program))
        .count()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_daemon_unpacks_a_probe_for_old_images_and_runs_it_and_it_dies_with_the_daemon() {
    let Some(path) = static_agent() else { return };
    let library = env::current_exe()
        .unwrap()
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("libfake_nvml.so");
    if !library.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "fake-nvml"])
            .status();
        assert!(built.unwrap().success(), "the fake NVML does not build");
    }
    let home = tempfile::tempdir().unwrap();
    let environment = format!(
        "NVML_LIB={}\0FAKE_NVML_SCENARIO=/dev/null\0",
        library.display()
    );
    fs::write(home.path().join("container.env"), environment).unwrap();

    let mut agent = Command::new(&path);
    agent
        .arg("--home")
        .arg(home.path())
        .arg("daemon")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let agent = Killed(agent.spawn().unwrap());
    let probe = || {
        let files = fs::read_dir(home.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        files.into_iter().find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("nvml-probe-")
        })
    };
    until("the probe's unpacking", || probe().is_some());
    let probe = probe().unwrap();
    if let Some(symbols) = told_by("objdump", &["-T"], &probe) {
        let glibc = newest_glibc(&symbols).expect("the probe is linked against glibc");
        assert!(
            glibc <= OLDEST_GLIBC,
            "the probe needs glibc {}.{}",
            glibc.0,
            glibc.1
        );
    }
    until("the probe's start", || running(&probe) == 1);

    drop(agent);
    until("the probe's death", || running(&probe) == 0);
}
