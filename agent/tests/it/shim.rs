//! The shim by itself, where a full disk or a missing shell is easier to arrange.

use std::{
    fs,
    io::Write,
    os::fd::AsFd,
    process::{Command, Stdio},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Uid,
};

use crate::{
    bed::{AGENT, Bed, Window},
    skip::skip,
};

/// Keeps shims from starting a daemon: the test holds the daemon's lock.
fn hold_daemon_lock(bed: &Bed) -> Flock<fs::File> {
    let file = fs::File::create(bed.home().join("daemon.lock")).unwrap();
    Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap()
}

#[test]
fn a_command_that_is_missing_is_127_and_one_that_may_not_run_is_126() {
    let bed = Bed::new(Window::None);
    let _lock = hold_daemon_lock(&bed);
    for (name, command, code) in [
        ("a", "/nonexistent/program", 127),
        ("b", "/etc/passwd", 126),
    ] {
        let dir = bed.session_dir(name);
        fs::create_dir_all(&dir).unwrap();
        let status = bed
            .agent()
            .arg("shim")
            .arg(&dir)
            .args(["--", command])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code));
        assert_eq!(bed.record(name, "end.json")["exit_code"], code);
        let log = fs::read_to_string(dir.join("log")).unwrap();
        assert!(
            log.contains(&format!("spotter: {command} cannot be run")),
            "{log}"
        );
    }
}

#[test]
fn a_directory_takes_one_command_only() {
    let bed = Bed::new(Window::None);
    let _lock = hold_daemon_lock(&bed);
    let dir = bed.session_dir("a");
    fs::create_dir_all(&dir).unwrap();
    let run = || {
        bed.agent()
            .arg("shim")
            .arg(&dir)
            .args(["--", "true"])
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    };
    assert_eq!(run().status.code(), Some(0));
    let second = run();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("this session has already ended"));
    assert_eq!(
        fs::read_to_string(dir.join("failed")).unwrap(),
        "this session has already ended"
    );
}

#[test]
fn an_end_is_recorded_on_a_full_disk() {
    let mounts = Uid::effective().is_root()
        && Command::new("unshare")
            .args(["-m", "true"])
            .status()
            .is_ok_and(|status| status.success());
    if !mounts {
        return skip("there is no right to mount a small file system here");
    }
    let bed = Bed::new(Window::None);
    let _lock = hold_daemon_lock(&bed);
    let dir = bed.session_dir("a");
    fs::create_dir_all(&dir).unwrap();
    // In a mount namespace of its own: nothing to unmount afterwards.
    let script = r#"mount -t tmpfs -o size=1m tmpfs "$1" &&
        "$2" --home "$3" shim "$1" -- bash -c 'head -c 3000000 /dev/zero | tr "\0" x; exit 9'
        echo "code $?"; df --output=avail "$1" | tail -1; cat "$1/end.json""#;
    let output = Command::new("unshare")
        .args(["-m", "bash", "-c", script, "bash"])
        .arg(&dir)
        .arg(AGENT)
        .arg(bed.home())
        .env("HOME", bed.user_home())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("code 9"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        lines.next().map(str::trim),
        Some("0"),
        "the disk must have been full"
    );
    let end: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(end["exit_code"], 9);
    let (written, dropped) = (
        end["log_bytes"].as_u64().unwrap(),
        end["log_dropped_bytes"].as_u64().unwrap(),
    );
    assert!(dropped > 1_000_000 && written > 500_000, "{end}");
}

/// A memory cgroup of its own, version 1 or 2; gone when dropped. `None` where this user or kernel gives none.
struct MemoryCgroup(std::path::PathBuf);

impl MemoryCgroup {
    fn new(limit: &str) -> Option<Self> {
        let name = format!("spotter-test-{}", std::process::id());
        for (root, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = std::path::Path::new(root).join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Self(group);
            if fs::write(group.0.join(file), limit).is_ok() {
                // Where there is swap, it must not save the victim.
                let _no_swap = fs::write(group.0.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        None
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn a_command_that_the_kernel_killed_for_its_memory_is_called_oom() {
    let Some(cgroup) = MemoryCgroup::new("64M") else {
        return skip("no memory cgroup can be made here");
    };
    let bed = Bed::new(Window::None);
    let _lock = hold_daemon_lock(&bed);
    // `tail` keeps a line without an end in memory. Alone, and below a shell that reports 137.
    for (name, command) in [
        ("alone", "exec tail -n 1 /dev/zero"),
        ("below", "tail -n 1 /dev/zero; exit $?"),
    ] {
        let dir = bed.session_dir(name);
        fs::create_dir_all(&dir).unwrap();
        let script =
            r#"echo $$ > "$1/cgroup.procs" && exec "$2" --home "$3" shim "$4" -- bash -c "$5""#;
        let output = Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(&cgroup.0)
            .arg(AGENT)
            .arg(bed.home())
            .arg(&dir)
            .arg(command)
            .env("HOME", bed.user_home())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(137), "{output:?}");
        let end = bed.record(name, "end.json");
        assert_eq!(end["reason"], "oom", "{end}");
        assert!(end["oom_kills"].as_u64().unwrap() > 0, "{end}");
    }
}

#[test]
fn what_is_typed_into_the_window_reaches_the_command() {
    let bed = Bed::new(Window::None);
    let _lock = hold_daemon_lock(&bed);
    let dir = bed.session_dir("a");
    fs::create_dir_all(&dir).unwrap();
    let pty = nix::pty::openpty(None, None).unwrap();
    let slave = |fd: &std::os::fd::OwnedFd| Stdio::from(fd.as_fd().try_clone_to_owned().unwrap());
    let mut child = bed
        .agent()
        .arg("shim")
        .arg(&dir)
        .args([
            "--",
            "bash",
            "-c",
            "echo ready; read -r line; echo \"got $line\"; sleep 5 & wait; echo over",
        ])
        .stdin(slave(&pty.slave))
        .stdout(slave(&pty.slave))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = dir.join("log");
    let wait_for = |text: &str| {
        for _ in 0..2000 {
            if fs::read_to_string(&log).unwrap_or_default().contains(text) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("no `{text}` in {:?}", fs::read_to_string(&log));
    };
    wait_for("ready");
    let mut keyboard = fs::File::from(pty.master);
    keyboard.write_all(b"hello\r").unwrap();
    wait_for("got hello");
    // Ctrl-C belongs to the command, not to the shim.
    keyboard.write_all(b"\x03").unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let end = bed.record("a", "end.json");
    assert_eq!(
        (&end["reason"], &end["signal"]),
        (&"signal".into(), &2.into())
    );
}
