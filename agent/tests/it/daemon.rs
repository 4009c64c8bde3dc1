//! The daemon: alone, back after a kill, at its positions; its goodbye.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spotter_proto::v1::{self, SessionState};
use tokio::time;
use tonic::Code;

use crate::bed::{Bed, LogReader, PATIENCE, Window, kill_hard, until};

#[tokio::test]
async fn a_killed_daemon_is_back_within_ten_seconds_and_no_log_byte_is_lost_or_repeated() {
    for window in [Window::Tmux, Window::None] {
        let mut bed = Bed::new(window);
        let daemon = bed.start_daemon();
        bed.start("train", "exec 9<> <(:); for i in $(seq 4000); do echo \"step $i of 4000\"; read -t 0.002 -u 9; done; true").await.unwrap();
        bed.logged("train", "step 300 ").await;

        let (killed, back) = {
            let mut reader = LogReader::new(&bed, "train");
            // The link breaks with the daemon, in the middle of the log.
            reader.read_while(|reader| reader.bytes.len() < 2000).await;
            kill_hard(daemon);
            let killed = Instant::now();
            until("the shim to start a daemon", || {
                bed.daemon_pid().filter(|pid| *pid != daemon)
            })
            .await;
            bed.client().await;
            let back = killed.elapsed();
            reader.read_to_end().await;
            let file = fs::read(bed.log("train")).unwrap();
            assert_eq!(
                blake3::hash(&reader.bytes),
                blake3::hash(&file),
                "{window:?}"
            );
            assert_eq!(reader.gap_bytes, 0);
            let expected: String = (1..=4000)
                .map(|i| format!("step {i} of 4000\r\n"))
                .collect();
            assert_eq!(String::from_utf8_lossy(&reader.bytes), expected);
            (daemon, back)
        };
        assert!(
            back < Duration::from_secs(10),
            "{window:?}: it took {back:?}"
        );
        bed.wait_for_daemon(killed).await;
        assert_eq!(bed.ended("train").await.exit_code, Some(0));
    }
}

#[tokio::test]
async fn there_are_never_two_daemons() {
    let mut bed = Bed::new(Window::None);
    let first = bed.start_daemon();
    bed.client().await;
    let second = bed
        .agent()
        .arg("daemon")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        said.contains("another daemon serves this home directory"),
        "{said}"
    );
    assert_eq!(bed.daemon_pid(), Some(first));
    bed.client().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_files_are_for_their_owner_only() {
    let mut bed = Bed::new(Window::None);
    drop(std::os::unix::net::UnixListener::bind(bed.socket()).unwrap());
    assert!(bed.socket().exists());
    bed.start_daemon();
    bed.client().await;
    for path in [
        bed.socket(),
        bed.home().join("daemon.lock"),
        bed.home().join("daemon.log"),
    ] {
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_home_too_deep_for_a_socket_is_refused_with_the_limit() {
    let bed = Bed::new(Window::None);
    let deep = bed.user_home().join("x".repeat(80));
    let output = bed
        .agent()
        .arg("--home")
        .arg(&deep)
        .arg("daemon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("too long for a socket's path, the limit is 90"),
        "{said}"
    );
}

#[tokio::test]
async fn events_go_on_at_their_number_after_a_kill() {
    let mut bed = Bed::new(Window::None);
    let daemon = bed.start_daemon();
    bed.start("one", "true").await.unwrap();
    bed.ended("one").await;
    bed.event("session.ended").await;
    let request = |from| v1::EventsRequest { from, follow: true };
    let mut stream = bed
        .client()
        .await
        .events(request(0))
        .await
        .unwrap()
        .into_inner();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(stream.message().await.unwrap().unwrap());
    }
    bed.start("two", "sleep 600").await.unwrap();
    kill_hard(daemon);
    while let Ok(Some(event)) = stream.message().await {
        seen.push(event);
    }
    bed.wait_for_daemon(daemon).await;
    until("the shim to start a daemon", || {
        bed.daemon_pid().filter(|pid| *pid != daemon)
    })
    .await;

    let next = seen.last().unwrap().seq + 1;
    let mut stream = bed
        .client()
        .await
        .events(request(next))
        .await
        .unwrap()
        .into_inner();
    bed.end("two", 0).await;
    let ended = |seen: &[v1::Event]| {
        seen.iter()
            .filter(|event| event.kind == "session.ended")
            .count()
    };
    while ended(&seen) < 2 {
        seen.push(
            time::timeout(PATIENCE, stream.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap(),
        );
    }
    let numbers: Vec<u64> = seen.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let kinds: Vec<&str> = seen
        .iter()
        .map(|event| event.kind.as_str())
        .filter(|kind| *kind != "gpu.problem")
        .collect();
    assert_eq!(
        kinds,
        [
            "agent.started",
            "session.started",
            "session.ended",
            "session.started",
            "agent.started",
            "session.ended"
        ]
    );

    let last = *numbers.last().unwrap();
    let mut client = bed.client().await;
    client
        .acknowledge_events(v1::AcknowledgeEventsRequest { up_to: last })
        .await
        .unwrap();
    let status = client
        .status(v1::StatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(status.oldest_unacknowledged_event == 0 || status.oldest_unacknowledged_event > last);
}

#[tokio::test]
async fn status_tells_what_the_box_is_doing_and_configure_survives_a_restart() {
    let mut bed = Bed::new(Window::None);
    let daemon = bed.start_daemon();
    let mut client = bed.client().await;
    let request = v1::ConfigureRequest {
        run: "flight".into(),
        attempt: 2,
        workdir: "runs/flight".into(),
        ..Default::default()
    };
    for _ in 0..2 {
        let answer = client
            .configure(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            answer.workdir,
            bed.user_home().join("runs/flight").display().to_string()
        );
    }
    assert!(bed.user_home().join("runs/flight").is_dir());
    let refused = client
        .configure(v1::ConfigureRequest {
            run: "a/b".into(),
            ..request.clone()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    fs::write(bed.user_home().join("runs/flight/out"), "result").unwrap();

    let train = v1::StartSessionRequest {
        dir: String::new(),
        ..bed.request("train", "echo 'step 12/100 | loss 2.5'; sleep 600")
    };
    bed.start_with(train).await.unwrap();
    // Another run would take its backup and its limits away; another attempt of its own is that run's matter.
    let other = v1::ConfigureRequest {
        run: "other".into(),
        ..request.clone()
    };
    let refused = client.configure(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("`flight`"), "{refused}");
    for attempt in [3, 2] {
        let same = v1::ConfigureRequest {
            attempt,
            ..request.clone()
        };
        client.configure(same).await.unwrap();
    }
    kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
    assert!(bed.wait_for_daemon(daemon).await.success());
    until("the shim to start a daemon", || bed.daemon_pid()).await;

    let mut client = bed.client().await;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        let status = client
            .status(v1::StatusRequest::default())
            .await
            .unwrap()
            .into_inner();
        if status.training.is_some() && status.sample.is_some() {
            break status;
        }
        assert!(
            Instant::now() < deadline,
            "no training record or sample: {status:?}"
        );
        time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((status.run.as_str(), status.attempt), ("flight", 2));
    assert_eq!(status.training.unwrap().step, Some(12));
    assert_eq!(status.build.len(), 16);
    assert_eq!(status.sessions[0].state(), SessionState::Running);
    assert!(status.sample.unwrap().host.is_some());

    let hashed = client
        .hash_files(v1::HashFilesRequest {
            paths: vec!["out".into(), "none".into()],
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        hashed.files[0].blake3,
        blake3::hash(b"result").to_hex().to_string()
    );
    assert_eq!(hashed.missing, ["none"]);
    let escape = client
        .hash_files(v1::HashFilesRequest {
            paths: vec!["../../etc/passwd".into()],
        })
        .await
        .unwrap_err();
    assert_eq!(escape.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn samples_follow_and_continue_at_their_time() {
    let bed = Bed::with_daemon(Window::None).await;
    let request = |after_us| v1::SamplesRequest {
        after_us,
        follow: true,
        until_us: 0,
    };
    let mut client = bed.client().await;
    let mut times = Vec::new();
    for _ in 0..2 {
        let mut stream = client
            .samples(request(times.last().copied().unwrap_or(0)))
            .await
            .unwrap()
            .into_inner();
        for _ in 0..2 {
            times.push(
                time::timeout(PATIENCE, stream.message())
                    .await
                    .unwrap()
                    .unwrap()
                    .unwrap()
                    .time_us,
            );
        }
    }
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

#[tokio::test]
async fn health_is_told_to_any_tool() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let bed = Bed::with_daemon(Window::None).await;
    let socket = bed.socket();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                tokio::net::UnixStream::connect(socket).await?,
            ))
        }
    });
    let channel = tonic::transport::Endpoint::from_static("http://agent.invalid")
        .connect_with_connector(connect)
        .await
        .unwrap();
    let request = HealthCheckRequest {
        service: "spotter.v1.Agent".into(),
    };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_shutdown_ends_the_daemon_and_wiping_leaves_nothing() {
    let mut bed = Bed::new(Window::None);
    let daemon = bed.start_daemon();
    bed.start("train", "sleep 600").await.unwrap();
    let mut client = bed.client().await;
    let busy = client
        .shutdown(v1::ShutdownRequest { wipe: true })
        .await
        .unwrap_err();
    assert_eq!(busy.code(), Code::FailedPrecondition);
    bed.end("train", 0).await;
    // A stream that is open must not keep the daemon.
    let _open = client
        .events(v1::EventsRequest {
            from: 0,
            follow: true,
        })
        .await
        .unwrap();
    client
        .shutdown(v1::ShutdownRequest { wipe: true })
        .await
        .unwrap();
    let told = Instant::now();
    assert!(bed.wait_for_daemon(daemon).await.success());
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
    assert!(!bed.home().exists());
}
