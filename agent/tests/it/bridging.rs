//! The bridge as ssh runs it: handshake, bytes both ways, a proper end.

use std::{
    io,
    pin::Pin,
    process::Stdio,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use spotter_proto::v1::{self, agent_client::AgentClient};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    process::{Child, ChildStdin, ChildStdout, Command},
    time,
};
use tonic::transport::Endpoint;

use crate::bed::{Bed, PATIENCE, Window, kill_hard, until};

const HANDSHAKE: &[u8] = b"\nSPOTTER-BRIDGE/1 n0nce\n";

fn bridge(bed: &Bed) -> Child {
    let mut command = Command::from(bed.agent());
    command.arg("bridge").arg(bed.socket()).arg("n0nce");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().unwrap()
}

async fn handshake(stdout: &mut ChildStdout) {
    let mut said = vec![0; HANDSHAKE.len()];
    time::timeout(PATIENCE, stdout.read_exact(&mut said))
        .await
        .expect("no handshake")
        .unwrap();
    assert_eq!(said, HANDSHAKE, "nothing comes before the handshake");
}

/// Both pipes of a bridge as one stream.
struct Pipes(ChildStdin, ChildStdout);

impl AsyncRead for Pipes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_bridge_starts_the_daemon_and_carries_calls() {
    let bed = Bed::new(Window::Tmux);
    assert_eq!(bed.daemon_pid(), None);
    let mut child = bridge(&bed);
    let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    handshake(&mut stdout).await;
    let daemon = bed
        .daemon_pid()
        .expect("the daemon was started before the handshake");

    let mut pipes = Some(Pipes(stdin, stdout));
    let connect = tower::service_fn(move |_| {
        let pipes = pipes
            .take()
            .map(TokioIo::new)
            .ok_or_else(|| io::Error::other("connected once only"));
        async move { pipes }
    });
    let channel = Endpoint::from_static("http://agent.invalid")
        .connect_with_connector(connect)
        .await
        .unwrap();
    let mut client = AgentClient::new(channel);
    let started = client
        .start_session(bed.request("train", "seq 1000; sleep 600"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(started.session.unwrap().name, "train");
    let status = client
        .status(v1::StatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.sessions.len(), 1);

    // The end of ssh: both pipes close, the bridge leaves, daemon and session stay.
    drop(client);
    let status = time::timeout(PATIENCE, child.wait())
        .await
        .expect("the bridge stays")
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(bed.daemon_pid(), Some(daemon));
    bed.client().await;
}

#[tokio::test]
async fn a_bridge_ends_with_its_daemon_and_the_next_one_starts_another() {
    let bed = Bed::new(Window::None);
    let mut child = bridge(&bed);
    handshake(child.stdout.as_mut().unwrap()).await;
    let daemon = bed.daemon_pid().unwrap();
    kill_hard(daemon);
    let status = time::timeout(PATIENCE, child.wait())
        .await
        .expect("the bridge stays")
        .unwrap();
    assert!(status.code().is_some());
    until("the lock", || bed.daemon_pid().is_none().then_some(())).await;

    let mut children: Vec<Child> = (0..4).map(|_| bridge(&bed)).collect();
    for child in &mut children {
        handshake(child.stdout.as_mut().unwrap()).await;
    }
    let daemon = bed.daemon_pid().unwrap();
    time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        bed.daemon_pid(),
        Some(daemon),
        "four at once started one daemon that stays"
    );
}

#[tokio::test]
async fn a_bridge_that_cannot_connect_says_why_on_stderr_only() {
    let bed = Bed::new(Window::None);
    for (socket, nonce, expected) in [
        (
            bed.home().join("x".repeat(90)),
            "n",
            "too long for a socket's path, the limit is 90",
        ),
        (
            bed.home().join("other.sock"),
            "n",
            "its socket is agent.sock",
        ),
        (bed.socket(), "two words", "the nonce must be"),
    ] {
        let output = bed
            .agent()
            .arg("bridge")
            .arg(socket)
            .arg(nonce)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
        assert_eq!(output.stdout, b"");
    }
    assert_eq!(bed.daemon_pid(), None);
}
