//! Connections and commands.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use spotter::tunnel::{FailureKind, Lane, Patience, SshHome, Tunnel, TunnelError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};

use crate::sshd::{HOST, NOISY_RC, TestBox, address};

fn soon() -> Patience {
    Patience::known_box(Duration::from_secs(5))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_heard_through_a_noisy_shell() {
    let test_box = TestBox::new();
    test_box.rc(NOISY_RC);
    let tunnel = test_box.connect().await;
    let output = tunnel
        .exec(
            "tr a-z A-Z; echo \"it's $HOME\"; echo oops >&2; exit 3",
            b"input\n",
        )
        .await
        .unwrap();
    assert_eq!(output.code, 3);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("INPUT\nit's {}\n", test_box.home().display())
    );
    assert!(output.words.ends_with("oops"), "{}", output.words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_goes_both_ways_whole() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    let data: Vec<u8> = (0..1_500_000u32).flat_map(|n| n.to_le_bytes()).collect();
    for lane in [Lane::Control, Lane::Bulk] {
        let output = tunnel
            .exec_within(lane, "cat", &data, Duration::from_secs(60))
            .await
            .unwrap();
        assert_eq!(output.code, 0);
        assert!(output.stdout == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_never_comes_to_the_command_is_reported_with_its_words() {
    let test_box = TestBox::new();
    test_box.rc("echo 'go away'; exit 9\n");
    let tunnel = test_box.connect().await;
    let err = tunnel.exec("true", &[]).await.unwrap_err();
    let TunnelError::Silent {
        code,
        ref noise,
        noise_bytes,
        ..
    } = err
    else {
        panic!("{err}")
    };
    assert_eq!((code, noise.as_str(), noise_bytes), (Some(9), "go away", 8));
    assert!(
        err.to_string().contains(
            "did not come to our command: it ended with code 9 (8 bytes of other output: go away)"
        ),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_reached_without_the_shell_where_the_shell_is_broken() {
    let test_box = TestBox::new();
    for rc in [
        "exec tmux\n",
        "exit 0\n",
        "tmux new-session -A -s x; exit\n",
    ] {
        test_box.rc(rc);
        let socket = test_box.home().join("echo.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        let tunnel = test_box.connect().await;
        let mut bridge = tunnel
            .bridge("/nowhere/agent", socket.to_str().unwrap())
            .await
            .unwrap();
        assert!(bridge.is_forwarded());
        bridge.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        bridge.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello", "{rc}");
        serve.await.unwrap();
        tunnel.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_the_users_configuration_breaks_a_command() {
    let test_box = TestBox::new();
    let mut config = fs::read_to_string(test_box.path("user_config")).unwrap();
    config.push_str(
        "  RemoteCommand echo theirs\n  RequestTTY force\n  StdinNull yes\n  SessionType none\n  LogLevel DEBUG3\n  \
         ControlMaster auto\n  ControlPath /tmp/%C\n  ControlPersist 10m\n  ForkAfterAuthentication yes\n  \
         PermitLocalCommand yes\n  LocalCommand echo theirs\n  UserKnownHostsFile /dev/null\n  User nobody\n  \
         IdentityFile /nonexistent\n",
    );
    fs::write(test_box.path("user_config"), config).unwrap();
    let tunnel = test_box.connect().await;
    let output = tunnel.exec("cat; id -un", b"ours ").await.unwrap();
    assert_eq!(
        (output.code, output.stdout.as_slice()),
        (0, b"ours root\n".as_slice())
    );
    assert!(output.words.len() < 100, "{}", output.words);
    tunnel.close().await;
    test_box
        .until("the end of all processes", || {
            test_box.processes().is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_host_key_is_refused_and_never_stored() {
    let test_box = TestBox::new();
    let target = test_box.target().await;
    let tunnel = Tunnel::connect(target.clone(), soon()).await.unwrap();
    tunnel.close().await;
    let pinned = fs::read_to_string(&target.known_hosts).unwrap();
    assert!(
        pinned.starts_with("spotter-test-7 ssh-ed25519 "),
        "{pinned}"
    );

    test_box.new_host_key();
    let began = Instant::now();
    let err = Tunnel::connect(target.clone(), Patience::new_box(Duration::from_secs(60)))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), FailureKind::HostKey, "{err}");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "it is not worth another try"
    );
    assert_eq!(fs::read_to_string(&target.known_hosts).unwrap(), pinned);

    // Only after the instance is known to be another one.
    test_box.ssh_home().forget("run", "test", 7);
    Tunnel::connect(test_box.target().await, soon())
        .await
        .unwrap()
        .close()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_fail_has_its_name_and_address() {
    let test_box = TestBox::new();
    let target = test_box.target().await;
    fs::write(test_box.path("authorized_keys"), "").unwrap();
    let err = Tunnel::connect(target, Patience::known_box(Duration::from_secs(60)))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), FailureKind::Auth, "{err}");
    assert!(
        err.to_string()
            .starts_with("ssh box.test:22: key not accepted ("),
        "{err}"
    );

    // A listener that is bound but never listens is not possible; one that was closed is.
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let home = test_box.ssh_home();
    let target = home
        .target("test", 8, vec![address("127.0.0.1", closed)])
        .await
        .unwrap();
    let err = Tunnel::connect(target, Patience::known_box(Duration::from_millis(600)))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), FailureKind::Refused, "{err}");

    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let target = home
        .target("test", 9, vec![address("127.0.0.1", port)])
        .await
        .unwrap();
    let err = Tunnel::connect(target, Patience::known_box(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert_eq!(err.kind(), FailureKind::Timeout, "{err}");

    let target = home
        .target(
            "test",
            10,
            vec![address("-oProxyCommand=touch /tmp/owned", 22)],
        )
        .await
        .unwrap();
    let err = Tunnel::connect(target, Patience::known_box(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert!(matches!(err, TunnelError::Unreachable { .. }), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_answers_first_wins() {
    let test_box = TestBox::new();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let mut target = test_box.target().await;
    target.addresses = vec![address("127.0.0.1", port), address(HOST, 22)];
    let began = Instant::now();
    let tunnel = Tunnel::connect(target, Patience::known_box(Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(tunnel.address(), Some(address(HOST, 22)));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the mute address was waited for"
    );
    assert!(tunnel.exec("true", &[]).await.unwrap().ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_replaced() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    let first = tunnel.process(Lane::Control).await.unwrap();
    killpg(Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    let began = Instant::now();
    while tunnel.process(Lane::Control).await == Some(first) {
        // A command that met the broken connection may say so, or ssh went around it; soon there is a new one.
        if let Err(err) = tunnel.exec("true", &[]).await {
            assert!(err.is_link(), "{err}");
        }
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the dead connection was not replaced in 10 s"
        );
    }
    assert_eq!(
        tunnel.exec("echo again", &[]).await.unwrap().stdout,
        b"again\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_or_dropping_leaves_nothing() {
    let test_box = TestBox::new();
    let tunnel = test_box.connect().await;
    tunnel
        .exec_within(Lane::Bulk, "true", &[], Duration::from_secs(30))
        .await
        .unwrap();
    assert!(!test_box.processes().is_empty());
    tunnel.close().await;
    test_box
        .until("the end of all processes", || {
            test_box.processes().is_empty()
        })
        .await;

    let tunnel = test_box.connect().await;
    assert!(!test_box.processes().is_empty());
    drop(tunnel);
    test_box
        .until("the end of all processes", || {
            test_box.processes().is_empty()
        })
        .await;
}

/// What a controller does that is killed in the middle of it: it holds both connections to the box in this directory.
async fn hold_a_tunnel(dir: &Path) {
    let path = |name: &str| dir.join(name);
    let home = SshHome::open(&path("laptop"), None, None, path("user_config")).unwrap();
    let target = home
        .target("test", 7, vec![address(HOST, 22)])
        .await
        .unwrap();
    let tunnel = Tunnel::connect(target, soon()).await.unwrap();
    tunnel
        .exec_within(Lane::Bulk, "touch ~/held", &[], Duration::from_secs(30))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_leaves_no_connection_behind() {
    // The controller is this test once more, in a process of its own that is told of a box.
    const TOLD: &str = "LINK_TEST_BOX";
    if let Some(dir) = std::env::var_os(TOLD) {
        return hold_a_tunnel(Path::new(&dir)).await;
    }
    let test_box = TestBox::new();
    test_box.target().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tunnel::a_killed_controller_leaves_no_connection_behind",
        ])
        .env(TOLD, test_box.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    test_box
        .until("a tunnel", || test_box.home().join("held").exists())
        .await;
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    test_box
        .until("the end of all processes", || {
            test_box.processes().is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_known_to_the_users_own_ssh() {
    let test_box = TestBox::new();
    let target = test_box.target().await;
    test_box.ssh_home().publish("my-run", &target).unwrap();
    let config = test_box.path("laptop/ssh/config");
    let shown = Command::new("ssh")
        .arg("-F")
        .arg(&config)
        .args(["-G", "my-run"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in [
        "user root",
        "hostname box.test",
        "hostkeyalias spotter-test-7",
        "identitiesonly yes",
    ] {
        assert!(
            shown.lines().any(|found| found == line),
            "{line} is missing in {shown}"
        );
    }
}
