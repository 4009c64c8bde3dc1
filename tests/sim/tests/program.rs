//! The program itself: its ready line, `ctl`, a rented box that ssh reaches, and an end that leaves nothing.
//!
//! Needs what the weakest kind of box needs (sshd and friends). Without it the test says that it was skipped; with
//! `SPOTTER_REQUIRE_ALL=1` it fails.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use spotter_sim::random_market::RandomMarket;

#[path = "../../skip.rs"]
mod skip;

const PROGRAM: &str = env!("CARGO_BIN_EXE_spotter-sim");
/// Nothing here takes a tenth of this on a machine that works at all.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running simulator; ends with the test whatever happens.
struct Program {
    child: Child,
    ready: Value,
}

impl Program {
    /// `None` where no kind of box works.
    fn start(dir: &Path) -> Option<Self> {
        Self::start_with(dir, &["--time-scale", "100"])
    }

    fn start_with(dir: &Path, args: &[&str]) -> Option<Self> {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--with-stdin", "--account", "one,two"])
            .args(args)
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if let Ok(ready) = serde_json::from_str(&line) {
            return Some(Self { child, ready });
        }
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        child.wait().unwrap();
        assert!(
            stderr.contains("no simulated boxes on this machine"),
            "{line}{stderr}"
        );
        skip::skip(&stderr);
        None
    }

    fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    fn ctl(&self, args: &[&str]) -> (bool, Value) {
        let output = Command::new(PROGRAM)
            .args(["ctl", "--url", self.url()])
            .args(args)
            .output()
            .unwrap();
        let text = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        let text = String::from_utf8(text).unwrap();
        (
            output.status.success(),
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http
            .request(method.parse().unwrap(), format!("{}{path}", self.url()))
            .bearer_auth(self.ready["api_key"].as_str().unwrap());
        let request = if body.is_null() {
            request
        } else {
            request.json(body)
        };
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Rents the cheapest offer and waits until it runs. Answers its row.
    async fn rent(&self) -> Value {
        let offers = self
            .call(
                "POST",
                "/api/v0/bundles/",
                &json!({"order": [["dph_total", "asc"]]}),
            )
            .await;
        let path = format!("/api/v0/asks/{}/", offers["offers"][0]["id"]);
        let made = self
            .call(
                "PUT",
                &path,
                &json!({"image": "i", "disk": 10, "price": 0.5}),
            )
            .await;
        let path = format!("/api/v0/instances/{}/", made["new_contract"]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = self.call("GET", &path, &Value::Null).await["instances"].clone();
            if row["actual_status"] == "running" {
                return row;
            }
            assert!(Instant::now() < deadline, "{row}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for the end, and answers whether it was a good one.
    fn ended(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // TERM, so that boxes are taken away even when the test failed.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn answers_ssh(row: &Value) -> bool {
    let port: u16 = row["ports"]["22/tcp"][0]["HostPort"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let ip: IpAddr = row["public_ipaddr"].as_str().unwrap().parse().unwrap();
    let mut banner = [0; 4];
    // A box that is gone may also just say nothing.
    TcpStream::connect_timeout(&SocketAddr::new(ip, port), Duration::from_secs(2))
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.read_exact(&mut banner)
        })
        .is_ok()
        && &banner == b"SSH-"
}

#[tokio::test]
async fn a_simulator_rents_a_box_that_ssh_reaches_and_ends_with_its_stdin_leaving_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = Program::start(dir.path()) else {
        return;
    };
    assert_eq!(program.ready["api_keys"], json!([["one", "two"]]));
    assert_eq!(program.ready["pid"], program.child.id());
    let row = program.rent().await;
    assert!(answers_ssh(&row), "{row}");
    let id = row["id"].to_string();
    let (_, home) = program.ctl(&["home", &id]);
    let home = home["home"].as_str().unwrap().to_owned();
    assert!(Path::new(&home).is_dir(), "{home}");

    let (done, outbid) = program.ctl(&["outbid", &id, "--for-s", "3600"]);
    assert!(
        done && outbid["rival"]["bid_usd_per_hour"] == 0.625,
        "{outbid}"
    );
    let (_, state) = program.ctl(&["state"]);
    assert_eq!(state["instances"][0]["intended_status"], "stopped");
    let (done, why) = program.ctl(&["host-back", &id]);
    assert!(
        !done && why.as_str().unwrap().contains("is not lost"),
        "{why}"
    );

    let s3 = reqwest::get(program.ready["s3_url"].as_str().unwrap())
        .await
        .unwrap();
    assert_eq!(s3.status(), 403, "the bucket wants a signature");
    let (done, board) = program.ctl(&["s3", r#"{"date_offset_s": 5}"#]);
    assert!(done && board["date_offset_s"] == 5, "{board}");

    drop(program.child.stdin.take());
    assert!(program.ended());
    assert!(!Path::new(&home).exists(), "{home} is still there");
}

#[tokio::test]
async fn quit_ends_a_simulator_with_its_running_boxes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = Program::start(dir.path()) else {
        return;
    };
    let row = program.rent().await;
    assert!(answers_ssh(&row), "{row}");
    assert_eq!(program.ctl(&["quit"]), (true, json!({"quitting": true})));
    assert!(program.ended());
    assert!(!answers_ssh(&row));
}

/// What the gate looks for after its tests finds the two that say least of themselves: an agent by its path alone, and the sshd of a
/// box, which writes its title over all that would tell.
#[test]
fn a_process_of_a_box_that_was_left_behind_is_found() {
    let Some(wrapper) = find_wrapper() else {
        return skip::skip("libnss_wrapper is not installed");
    };
    let left = |title: &str, preload: &str| {
        Command::new("/bin/sleep")
            .arg0(title)
            .arg("60")
            .env_clear()
            .env("LD_PRELOAD", preload)
            .current_dir("/")
            .spawn()
            .unwrap()
    };
    let mut agent = left("/tmp/sp-0/home/.spotter/bin/agent", "");
    let mut sshd = left("sshd: root@notty", &wrapper);
    let mut stranger = left("sshd: somebody@pts/0", "");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/leftovers");
    let found = loop {
        let output = Command::new(&script).output().unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        // Until it runs the loader has mapped nothing.
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", sshd.id())).unwrap();
        if maps.contains("libnss_wrapper") {
            break found;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let is_found = |child: &Child| found.contains(&format!("process {} ", child.id()));
    let verdicts = [is_found(&agent), is_found(&sshd), is_found(&stranger)];
    for child in [&mut agent, &mut sshd, &mut stranger] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(verdicts, [true, true, false], "{found}");
}

fn find_wrapper() -> Option<String> {
    let roots = ["/usr/lib", "/usr/lib64"];
    let folders = roots.iter().flat_map(|root| {
        let below = std::fs::read_dir(root).into_iter().flatten().flatten();
        below
            .map(|entry| entry.path())
            .chain([Path::new(root).to_owned()])
    });
    let mut paths = folders.map(|folder| folder.join("libnss_wrapper.so"));
    let found = paths.find(|path| path.exists())?;
    Some(found.to_str()?.to_owned())
}

/// Whoever is not root gets one line to paste for all that the demo lacks, and it ends before it builds anything.
#[test]
fn a_demo_that_lacks_programs_says_in_one_line_how_to_get_them() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bin");
    std::fs::create_dir(&path).unwrap();
    for program in ["basename", "dirname"] {
        symlink(Path::new("/usr/bin").join(program), path.join(program)).unwrap();
    }
    for (program, text) in [("cargo", "exit 1"), ("id", "echo 1000")] {
        let file = path.join(program);
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/demo");
    let output = Command::new("/bin/bash")
        .arg(demo)
        .env_clear()
        .env("PATH", &path)
        .env("HOME", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("apt-get"))
        .collect();
    let [line] = lines[..] else {
        panic!("not one line to paste: {said}");
    };
    for package in [
        "openssh-client",
        "rsync",
        "tmux",
        "python3-venv",
        "gcc",
        "curl",
    ] {
        assert!(line.contains(package), "{package} is not in {line}");
    }
}

/// The machines and first prices of the program's market are those of the seed that it was given.
#[tokio::test]
async fn the_market_of_a_seed_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--market", "7"];
    let Some(program) = Program::start_with(dir.path(), &args) else {
        return;
    };
    let query = json!({"type": "bid", "allocated_storage": 0, "order": [["dph_total", "asc"]]});
    let found = program.call("POST", "/api/v0/bundles/", &query).await;
    let listed: Vec<f64> = found["offers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["min_bid"].as_f64().unwrap())
        .collect();
    let random = RandomMarket::new(7, 60);
    let prices = |at_ms| -> Vec<f64> {
        let offers = random.offers(at_ms);
        offers.iter().map(|row| row.min_bid_usd_per_hour).collect()
    };
    // Whatever happened in the first minutes has happened to both.
    let same = (0..5 * 60).any(|second| prices(second * 1000) == listed);
    assert!(same && !listed.is_empty(), "{listed:?}");
    let (_, state) = program.ctl(&["state"]);
    let machines = state["machines"].as_array().unwrap();
    assert_eq!(machines.len(), random.machines.len());
}
