//! The real agent put on a box, replaced and talked to.

use std::{fs, time::Duration};

use futures::StreamExt;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use spotter::{
    agent_client::{LogPosition, LogStart, SessionRequest},
    bootstrap::{AgentBinary, BootstrapError, Seat, bootstrap},
    tunnel::Lane,
};

use crate::sshd::{NOISY_RC, TestBox, agent_path};

fn agent() -> AgentBinary {
    AgentBinary::find(Some(&agent_path()), "/nowhere".as_ref()).unwrap()
}

/// The same program under another hash: bytes behind the end of an ELF file mean nothing.
fn other_agent() -> AgentBinary {
    let mut bytes = fs::read(agent_path()).unwrap();
    bytes.extend_from_slice(b"another build");
    AgentBinary::from_bytes(bytes, "another agent").unwrap()
}

fn request(name: &str, command: &str) -> SessionRequest {
    SessionRequest {
        name: name.to_owned(),
        command: command.to_owned(),
        dir: Some("/".to_owned()),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_uploaded_once_and_answers() {
    let test_box = TestBox::new();
    test_box.rc(NOISY_RC);
    let tunnel = test_box.connect().await;
    let agent = agent();
    let first = bootstrap(&tunnel, &agent, Seat::Person, &|_, _| {})
        .await
        .unwrap();
    assert!(first.uploaded && !first.replaced);
    assert_eq!(first.status.build, agent.hash());
    let facts = first.facts.unwrap();
    assert_eq!(facts.home, test_box.home().display().to_string());
    assert!(facts.tmux && facts.rsync && facts.free_bytes > 0);
    let bin = test_box.home().join(".spotter/bin");
    let link = fs::read_link(bin.join("agent")).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("agent-{}", agent.hash()));
    let started = first.status.started_us;
    tunnel.close().await;

    let second = bootstrap(&test_box.connect().await, &agent, Seat::Person, &|_, _| {})
        .await
        .unwrap();
    assert!(!second.uploaded && !second.replaced);
    assert_eq!(
        second.status.started_us, started,
        "the daemon was started again"
    );
    assert_eq!(fs::read_dir(bin).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_upload_is_never_run() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    // Large enough to be on its way for a while; it does not compress.
    let mut bytes = fs::read(agent_path()).unwrap();
    bytes.extend((0..48_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8));
    let agent = AgentBinary::from_bytes(bytes, "a large agent").unwrap();
    let upload = tokio::spawn({
        let tunnel = tunnel.clone();
        async move {
            bootstrap(&tunnel, &agent, Seat::Person, &|_, _| {})
                .await
                .map(|_| ())
        }
    });
    let bin = test_box.home().join(".spotter/bin");
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&bin)
            .map(|entries| entries.flatten().collect())
            .unwrap_or_else(|_| Vec::new());
        entries
            .iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    test_box
        .until("an upload", || {
            names().iter().any(|name| name.ends_with(".part"))
        })
        .await;
    let group = tunnel.process(Lane::Control).await.unwrap();
    killpg(Pid::from_raw(group as i32), Signal::SIGKILL).unwrap();
    let err = upload.await.unwrap().unwrap_err();
    assert!(
        matches!(err, BootstrapError::Tunnel(ref err) if err.is_link()),
        "{err}"
    );
    assert!(
        names().iter().all(|name| name.ends_with(".part")),
        "{:?}",
        names()
    );

    let agent = self::agent();
    assert!(
        bootstrap(&tunnel, &agent, Seat::Person, &|_, _| {})
            .await
            .unwrap()
            .uploaded
    );
    test_box
        .until("the removal of the torn upload", || names().len() == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_there_is_not_installed() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    let mut bytes = fs::read(agent_path()).unwrap();
    bytes.truncate(4096);
    let broken = AgentBinary::from_bytes(bytes, "half an agent").unwrap();
    let err = bootstrap(&tunnel, &broken, Seat::Person, &|_, _| {})
        .await
        .unwrap_err();
    assert!(
        err.to_string()
            .starts_with("the agent could not be uploaded: "),
        "{err}"
    );
    assert!(err.to_string().contains("it does not run there"), "{err}");
    let left: Vec<_> = fs::read_dir(test_box.home().join(".spotter/bin"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_agent_takes_over_and_sessions_go_on() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    let old = bootstrap(&tunnel, &agent(), Seat::Person, &|_, _| {})
        .await
        .unwrap();
    let session = old
        .client
        .start_session(&request("train", "sleep 1000"))
        .await
        .unwrap();

    let other = other_agent();
    let new = bootstrap(&tunnel, &other, Seat::Person, &|_, _| {})
        .await
        .unwrap();
    assert!(new.uploaded && new.replaced);
    assert_eq!(new.status.build, other.hash());
    let after = new
        .status
        .session("train")
        .expect("the session is still known")
        .clone();
    assert!(after.is_running());
    assert_eq!(after.pid, session.pid);
    new.client
        .end_session("train", Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_exactly_after_its_connection_was_killed() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    let ready = bootstrap(&tunnel, &agent(), Seat::Person, &|_, _| {})
        .await
        .unwrap();
    let command = "i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo \"line $i\"; sleep 0.01; done";
    ready
        .client
        .start_session(&request("train", command))
        .await
        .unwrap();
    let start = LogStart::At(LogPosition::default());
    let mut pieces = ready.client.logs("train", start, true);
    let mut data = Vec::new();
    let mut kills = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        assert_eq!(piece.gap_bytes, 0);
        data.extend_from_slice(&piece.data);
        if data.len() > (kills + 1) * 300 && kills < 3 {
            kills += 1;
            if let Some(group) = tunnel.process(Lane::Control).await {
                let _ = killpg(Pid::from_raw(group as i32), Signal::SIGKILL);
            }
        }
    }
    assert_eq!(kills, 3);
    let file = fs::read(test_box.home().join(".spotter/sessions/train/log")).unwrap();
    assert_eq!(data.len(), file.len());
    assert!(data == file, "the stream and the file differ");
    let text = String::from_utf8(data).unwrap().replace('\r', "");
    let expected: String = (1..=150).map(|n| format!("line {n}\n")).collect();
    assert_eq!(text, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_is_reached_where_the_shell_is_broken() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    let ready = bootstrap(&tunnel, &agent(), Seat::Person, &|_, _| {})
        .await
        .unwrap();
    test_box.rc("exec tmux\n");
    let group = tunnel.process(Lane::Control).await.unwrap();
    killpg(Pid::from_raw(group as i32), Signal::SIGKILL).unwrap();
    let status = ready.client.status(Duration::from_secs(60)).await.unwrap();
    assert_eq!(status.build, ready.status.build);
}
