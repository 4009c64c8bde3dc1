//! The text that boxes run at every start, run here by a real shell in a home of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use spotter::bootstrap::onstart;

const BASE: &str = "http://127.0.0.1:9";

struct Request {
    line: String,
    authorization: Option<String>,
    body: String,
}

/// Answers every request with 200 and tells of it.
fn provider() -> (String, mpsc::Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                continue;
            }
            let (mut authorization, mut length) = (None, 0);
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                let Some((name, value)) = header.trim_end().split_once(": ") else {
                    break;
                };
                match name.to_lowercase().as_str() {
                    "authorization" => authorization = Some(value.to_owned()),
                    "content-length" => length = value.parse().unwrap(),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 16\r\nConnection: close\r\n\r\n{\"success\":true}";
            let _ = stream.write_all(answer.as_bytes());
            let body = String::from_utf8(body).unwrap();
            if tell
                .send(Request {
                    line: line.trim_end().to_owned(),
                    authorization,
                    body,
                })
                .is_err()
            {
                return;
            }
        }
    });
    (url, told)
}

/// Only these programs exist for the text.
fn tools(dir: &Path, extra: &[&str]) {
    fs::create_dir(dir).unwrap();
    for tool in ["sh", "env", "mkdir", "mv", "rm", "touch", "sleep"]
        .iter()
        .chain(extra)
    {
        let found = ["/usr/bin", "/bin"]
            .map(|at| Path::new(at).join(tool))
            .into_iter()
            .find(|path| path.exists());
        let found = found.unwrap_or_else(|| panic!("{tool} is not installed here"));
        std::os::unix::fs::symlink(found, dir.join(tool)).unwrap();
    }
}

/// What a start of a box left running ends with it, as in a container.
struct Started(Pid);

impl Drop for Started {
    fn drop(&mut self) {
        // ESRCH: all of it has ended by itself.
        let _ended = killpg(self.0, Signal::SIGKILL);
    }
}

#[must_use]
fn run(home: &Path, text: &str, url: &str, path: &Path) -> Started {
    let mut shell = Command::new(path.join("sh"))
        .args(["-c", text])
        .env_clear()
        .env("HOME", home)
        .env("PATH", path)
        .env("CONTAINER_ID", "42")
        .env("CONTAINER_API_KEY", "instance-key")
        .env("VAST_URL", url)
        .env("MULTI", "two\nlines")
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let started = Started(Pid::from_raw(shell.id().try_into().unwrap()));
    assert!(shell.wait().unwrap().success());
    started
}

#[test]
fn every_shell_can_read_it() {
    let text = onstart(Duration::from_secs(2700), BASE, Some("echo done")).unwrap();
    for shell in ["sh", "bash", "dash"] {
        let mut child = Command::new(shell)
            .arg("-n")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "{shell}");
    }
}

#[test]
fn a_box_without_a_session_stops_itself_whatever_program_it_has() {
    for tool in ["curl", "wget", "python3"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bin");
        tools(&path, &[tool]);
        let (url, told) = provider();
        let _started = run(
            dir.path(),
            &onstart(Duration::from_secs(1), BASE, None).unwrap(),
            &url,
            &path,
        );
        let request = told
            .recv_timeout(Duration::from_secs(30))
            .unwrap_or_else(|_| {
                let log =
                    fs::read_to_string(dir.path().join(".spotter/switch.log")).unwrap_or_default();
                panic!("{tool} asked for nothing: {log}")
            });
        assert_eq!(request.line, "PUT /api/v0/instances/42/ HTTP/1.1", "{tool}");
        assert_eq!(
            request.authorization.as_deref(),
            Some("Bearer instance-key"),
            "{tool}"
        );
        assert_eq!(request.body, r#"{"state":"stopped"}"#, "{tool}");
    }
}

#[test]
fn a_box_whose_session_started_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bin");
    tools(&path, &["curl"]);
    let (url, told) = provider();
    let user = "touch $HOME/.spotter/started; umask > $HOME/mine";
    let _started = run(
        dir.path(),
        &onstart(Duration::from_secs(2), BASE, Some(user)).unwrap(),
        &url,
        &path,
    );
    assert!(told.recv_timeout(Duration::from_secs(5)).is_err());
    assert_eq!(
        fs::read_to_string(dir.path().join("mine")).unwrap().trim(),
        "0022"
    );
}

#[test]
fn it_keeps_the_environment_and_forgets_an_earlier_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bin");
    tools(&path, &[]);
    let state = dir.path().join(".spotter");
    fs::create_dir_all(state.join("bin")).unwrap();
    fs::write(state.join("started"), "").unwrap();
    crate::sshd::executable(
        &state.join("bin/agent"),
        "#!/bin/sh\necho \"$@\" >\"$HOME/called\"\n",
    );
    let user = "[ ! -e $HOME/.spotter/started ] && echo forgotten >$HOME/seen; touch $HOME/.spotter/started";
    let _started = run(
        dir.path(),
        &onstart(Duration::from_secs(60), BASE, Some(user)).unwrap(),
        BASE,
        &path,
    );

    let kept = fs::read(state.join("container.env")).unwrap();
    let kept: Vec<&[u8]> = kept.split(|byte| *byte == 0).collect();
    assert!(
        kept.contains(&b"MULTI=two\nlines".as_slice())
            && kept.contains(&b"CONTAINER_ID=42".as_slice())
    );
    let mode = fs::metadata(state.join("container.env"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(dir.path().join(".no_auto_tmux").exists());
    assert_eq!(
        fs::read_to_string(dir.path().join("seen")).unwrap(),
        "forgotten\n"
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("called")).unwrap(),
        "daemon --detach\n"
    );
}
