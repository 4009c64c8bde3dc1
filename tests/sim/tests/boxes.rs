//! What every kind of box promises: one suite, run against each tier that this machine can make.
//!
//! A tier that is missing is skipped with a line on stderr. With `SPOTTER_REQUIRE_ALL=1` that is a failure, except for tier 2
//! as an ordinary user.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use spotter_sim::boxes::{BoxSpec, LinkFault, Tier, detect, sweep};

#[path = "boxes/lines.rs"]
mod lines;
#[path = "../../skip.rs"]
mod skip;
#[path = "boxes/world.rs"]
mod world;
use lines::{
    a_dropped_line_stalls_and_a_healed_one_goes_on,
    a_late_line_is_late_both_ways_and_loses_nothing, a_late_line_stays_late_through_a_restart,
    a_narrow_line_carries_no_more_than_its_rate, a_refusing_box_breaks_connections_and_takes_none,
    a_reset_line_breaks_what_was_connected_and_takes_new_connections,
};
use world::{Echo, World, eventually, interfaces_of, processes_with, run, tag, text, unique_sleep};

async fn ssh_logs_in_as_root_with_a_home_of_its_own(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    let printed = world.ssh(
        at,
        "echo $USER $HOME; pwd; touch here; umask; command -v tmux rsync >/dev/null && echo tools",
    );
    let home = if tier == Tier::Two {
        "/root".to_owned()
    } else {
        text(world.boxes.home(7).await.unwrap())
    };
    assert_eq!(printed, format!("root {home}\n{home}\n0002\ntools\n"));
    assert!(world.boxes.home(7).await.unwrap().join("here").exists());
    assert!(
        !world
            .ssh_command(at, "key", "exit 3")
            .output()
            .unwrap()
            .status
            .success()
    );

    let noise = world.try_ssh(at, "key", "true").stdout;
    assert!(
        String::from_utf8(noise).unwrap().contains("provisioning"),
        "the box's .bashrc prints, as the market's images do"
    );

    let mut command = Command::new("ssh");
    command.arg("-tt");
    command.args(
        world
            .ssh_command(at, "key", "test -t 0 && echo TERMINAL")
            .get_args(),
    );
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("TERMINAL"),
        "no terminal: {said}"
    );
}

async fn the_container_environment_reaches_onstart_but_not_ssh(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world
        .start(
            7,
            "env -0 >\"$HOME/env\"; echo log line of onstart; ls $NVML_LIB $FAKE_NVML_SCENARIO >/dev/null || \
             touch \"$HOME/no-gpu\"; touch \"$HOME/done\"",
        )
        .await;
    let home = world.boxes.home(7).await.unwrap();
    assert!(eventually(Duration::from_secs(20), || home
        .join("done")
        .exists()));
    let seen = fs::read_to_string(home.join("env")).unwrap();
    let seen: Vec<&str> = seen.split('\0').collect();
    assert!(
        seen.contains(&"CONTAINER_ID=7") && seen.contains(&"ODD=a 'b'\n\"c\" $d"),
        "{seen:?}"
    );
    assert!(world.log(7).await.contains("log line of onstart"));
    assert!(
        !home.join("no-gpu").exists(),
        "the fake NVML, where there is one, can be read in the box"
    );

    let session = world.ssh(at, "env");
    assert!(
        !session.contains("CONTAINER_ID") && !session.contains("ODD"),
        "{session}"
    );
    if tier > Tier::One {
        let init = world.ssh(at, "tr '\\0' '\\n' </proc/1/environ; hostname");
        assert!(
            init.contains("CONTAINER_ID=7") && init.ends_with("C.7\n"),
            "{init}"
        );
    }
}

async fn stop_keeps_the_disk_and_start_runs_onstart_again(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let first = world.start(7, "echo start >>\"$HOME/starts\"").await;
    let starts = world.boxes.home(7).await.unwrap().join("starts");
    let count = || {
        fs::read_to_string(&starts)
            .unwrap_or_default()
            .lines()
            .count()
    };
    assert!(eventually(Duration::from_secs(20), || count() == 1));
    world.ssh(
        first,
        "echo kept >kept; if [ -w /workspace ]; then echo work >/workspace/work; fi",
    );

    world.boxes.stop(7, Duration::from_secs(10)).await.unwrap();
    assert!(TcpStream::connect_timeout(&first, Duration::from_millis(500)).is_err());
    world.boxes.stop(7, Duration::from_secs(10)).await.unwrap();
    let second = world.boxes.start(7).await.unwrap();
    assert_ne!(first, second, "a market gives another port at every start");
    assert!(eventually(Duration::from_secs(20), || count() == 2));
    assert_eq!(world.ssh(second, "cat kept"), "kept\n");
    if tier == Tier::Two {
        assert_eq!(world.ssh(second, "cat /workspace/work"), "work\n");
    }
    assert!(
        world
            .boxes
            .start(7)
            .await
            .unwrap_err()
            .to_string()
            .contains("runs already")
    );
}

/// The public half of the key by which a box proves itself to whoever logs in.
fn host_key(at: std::net::SocketAddr) -> String {
    let port = at.port().to_string();
    let said = run(
        "ssh-keyscan",
        &[
            "-T",
            "30",
            "-t",
            "ed25519",
            "-p",
            &port,
            &at.ip().to_string(),
        ],
    );
    let key = said
        .lines()
        .find(|line| !line.starts_with('#'))
        .unwrap_or_else(|| panic!("{at} has no key: {said}"));
    let words: Vec<&str> = key.split_whitespace().collect();
    assert_eq!(words[1], "ssh-ed25519", "{key}");
    words[2].to_owned()
}

async fn each_box_has_a_host_key_of_its_own_and_keeps_it_through_a_restart(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let (first, second) = (world.start(7, "").await, world.start(8, "").await);
    let (key, other) = (host_key(first), host_key(second));
    assert_ne!(key, other, "two boxes are two hosts");
    world.boxes.stop(7, Duration::from_secs(10)).await.unwrap();
    let again = world.boxes.start(7).await.unwrap();
    assert_eq!(host_key(again), key, "it is the host that it was");
    world.boxes.destroy(7).await.unwrap();
    let anew = world.start(7, "").await;
    assert_ne!(host_key(anew), key, "and this is another one");
}

async fn stop_asks_everything_to_end_and_kills_what_does_not(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let polite = "trap 'echo asked >>\"$HOME/asked\"; exit' TERM; touch \"$HOME/ready\"; while :; do sleep 0.1; done";
    world.start(7, polite).await;
    let home = world.boxes.home(7).await.unwrap();
    assert!(eventually(Duration::from_secs(20), || home
        .join("ready")
        .exists()));
    let start = Instant::now();
    world.boxes.stop(7, Duration::from_secs(60)).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "all was polite, so the grace need not pass"
    );
    assert_eq!(fs::read_to_string(home.join("asked")).unwrap(), "asked\n");

    let at = world.boxes.start(7).await.unwrap();
    let token = unique_sleep();
    world.ssh(at, &format!("setsid sh -c \"trap '' TERM HUP; while :; do sleep {token}; done\" </dev/null >/dev/null 2>&1 &"));
    assert!(eventually(Duration::from_secs(20), || processes_with(
        &token
    )
    .len()
        >= 2));
    let start = Instant::now();
    world.boxes.stop(7, Duration::from_secs(1)).await.unwrap();
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "the grace must pass first"
    );
    assert_eq!(processes_with(&token), Vec::<String>::new());
}

/// Hardware address of the bridge that has this address, by which it is known: the next simulator gets the same name and subnet.
fn bridge_of(address: std::net::IpAddr) -> Option<String> {
    let addresses = run("ip", &["-o", "-4", "address"]);
    let mark = format!(" {address}/");
    let line = addresses.lines().find(|line| line.contains(&mark))?;
    let name = line.split_whitespace().nth(1)?;
    let hardware = fs::read_to_string(format!("/sys/class/net/{name}/address")).unwrap();
    Some(hardware.trim().to_owned())
}

async fn a_destroyed_box_leaves_nothing(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let token = unique_sleep();
    let at = world
        .start(7, &format!("setsid sleep {token} & sleep {token}"))
        .await;
    world.ssh(
        at,
        &format!("nohup setsid sleep {token} </dev/null >/dev/null 2>&1 &"),
    );
    let mut session = Echo::open(&world, at);
    assert!(eventually(Duration::from_secs(20), || processes_with(
        &token
    )
    .len()
        >= 3));

    world.boxes.destroy(7).await.unwrap();
    assert_eq!(processes_with(&token), Vec::<String>::new());
    assert!(!world.box_dir(7).exists());
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&text(world.box_dir(7)))
    );
    // In tier 2 the address vanishes with the box: TCP finds out when it next sends.
    let _ = session.input.write_all(b"anyone\n");
    if tier < Tier::Two {
        assert!(session.ended_within(Duration::from_secs(20)));
    }
    assert!(
        world
            .boxes
            .home(7)
            .await
            .unwrap_err()
            .to_string()
            .contains("no box 7")
    );
    assert!(world.boxes.destroy(7).await.is_err());

    world.start(7, "").await;
    let bridge = bridge_of(world.boxes.host_address());
    let World { boxes, dir } = world;
    drop(boxes);
    assert!(
        !dir.path().join("boxes/b7").exists(),
        "a simulator that ends takes its boxes with it"
    );
    if tier == Tier::Two {
        let bridge = bridge.expect("the boxes of tier 2 hang on a bridge");
        assert!(!run("ip", &["link"]).contains(&bridge), "{bridge}");
    }
}

async fn boxes_do_not_see_each_other(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let (one, two) = (world.start(1, "").await, world.start(2, "").await);
    world.ssh(one, "echo secret >mine; echo secret >/tmp/mine-$$");
    assert_eq!(world.ssh(two, "ls mine 2>/dev/null || echo none"), "none\n");
    if tier > Tier::One {
        let other = text(world.boxes.home(1).await.unwrap().join("mine"));
        assert_eq!(
            world.ssh(
                two,
                &format!("ls {other} /tmp/mine-* 2>/dev/null || echo none")
            ),
            "none\n"
        );
        let shown: usize = world
            .ssh(two, "ls -d /proc/[0-9]* | wc -l")
            .trim()
            .parse()
            .unwrap();
        assert!(shown < 20, "{shown} processes are seen from inside");
    }
    assert!(
        world
            .boxes
            .create(world.spec(1, ""))
            .await
            .unwrap_err()
            .to_string()
            .contains("already")
    );
}

async fn a_host_without_power_says_no_goodbye_and_keeps_its_disk(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let token = unique_sleep();
    let at = world.start(7, &format!("setsid sleep {token} &")).await;
    world.ssh(at, "echo kept >kept");
    let mut session = Echo::open(&world, at);
    assert!(eventually(Duration::from_secs(20), || !processes_with(
        &token
    )
    .is_empty()));

    world.boxes.lose_power(7).await.unwrap();
    session.say("anyone?");
    assert!(!session.ended_within(Duration::from_secs(1)));
    let silent = TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok_and(|mut stream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let read = stream.read(&mut [0]);
        read.is_ok() || read.unwrap_err().kind() != std::io::ErrorKind::WouldBlock
    });
    assert!(!silent, "nobody is there to greet or to close");
    assert!(
        processes_with(&token)
            .iter()
            .all(|line| !line.starts_with("sleep"))
    );

    let at = world.boxes.start(7).await.unwrap();
    assert_eq!(world.ssh(at, "cat kept"), "kept\n");
}

async fn only_the_keys_that_were_set_log_in(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    let at = world.start(7, "").await;
    run(
        "ssh-keygen",
        &[
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            &text(world.dir.path().join("other")),
        ],
    );
    assert_eq!(world.try_ssh(at, "other", "true").status.code(), Some(255));
    let other = fs::read_to_string(world.dir.path().join("other.pub")).unwrap();
    world.boxes.set_keys(7, vec![other]).await.unwrap();
    assert!(world.try_ssh(at, "other", "true").status.success());
    assert_eq!(world.try_ssh(at, "key", "true").status.code(), Some(255));
}

async fn the_gpus_are_busy_while_the_training_lives(tier: Tier) {
    let Some(world) = World::open(tier) else {
        return;
    };
    world.start(7, "").await;
    let scenario = || fs::read_to_string(world.box_dir(7).join("etc/gpu.scn")).unwrap();
    assert!(scenario().contains("sys count 2\n") && scenario().contains("0 util.gpu 0\n"));
    let train = world
        .boxes
        .home(7)
        .await
        .unwrap()
        .join(".spotter/sessions/train");
    fs::create_dir_all(&train).unwrap();
    let lock = Flock::lock(
        fs::File::create(train.join("lock")).unwrap(),
        FlockArg::LockExclusive,
    )
    .unwrap();
    fs::write(train.join("start.json"), "{}").unwrap();
    assert!(eventually(Duration::from_secs(20), || scenario()
        .contains("1 util.gpu 9")));
    drop(lock);
    assert!(eventually(Duration::from_secs(20), || scenario()
        .contains("1 util.gpu 0\n")));
}

async fn what_a_killed_simulator_leaves_is_swept(tier: Tier) {
    // The simulator is this test once more, in a process of its own that is told of a directory.
    if let Some(dir) = env::var_os("SIM_DIR") {
        return wait_to_be_killed(&PathBuf::from(dir)).await;
    }
    let Some(world) = World::open(tier) else {
        return;
    };
    let dir = world.dir.path().join("killed");
    let token = unique_sleep();
    let mut simulator = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "tier_1::what_a_killed_simulator_leaves_is_swept",
            "--nocapture",
        ])
        .env("SIM_DIR", &dir)
        .env("SIM_TIER", tier.to_string())
        .env("SIM_SLEEP", &token)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(
        eventually(Duration::from_secs(60), || dir.join("ready").exists()),
        "the simulator did not start"
    );
    assert!(eventually(Duration::from_secs(20), || processes_with(
        &token
    )
    .len()
        >= 2));
    assert!(format!("{:#}", sweep(&dir).unwrap_err()).contains("another simulator"));
    simulator.kill().unwrap();
    simulator.wait().unwrap();
    let address = fs::read_to_string(dir.join("ready")).unwrap();

    sweep(&dir).unwrap();
    assert_eq!(processes_with(&token), Vec::<String>::new());
    assert!(!dir.join("b7").exists());
    let dir = text(dir.canonicalize().unwrap());
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&dir)
    );
    if tier == Tier::Two {
        assert!(!run("ip", &["-4", "address"]).contains(&address));
        assert!(!run("nft", &["list", "tables"]).contains(&format!("spotter_sim_{}", tag(&dir))));
        assert_eq!(interfaces_of(&dir), Vec::<String>::new());
    }
}

/// What a simulator does that is killed in the middle of it: it runs a box of the tier that it was told.
async fn wait_to_be_killed(dir: &Path) {
    let tier = env::var("SIM_TIER").unwrap();
    let boxes = detect(Some(tier.parse().unwrap()), dir).unwrap();
    let token = env::var("SIM_SLEEP").unwrap();
    let spec = BoxSpec {
        id: 7,
        env: Vec::new(),
        onstart: format!("setsid sleep {token} & sleep {token}"),
        authorized_keys: Vec::new(),
        disk_mb: 16,
        memory_mb: 256,
        gpu_name: "T4".into(),
        num_gpus: 1,
        vram_mib: 16_000,
        compute_cap: 750,
    };
    boxes.create(spec).await.unwrap();
    boxes.start(7).await.unwrap();
    // A slow line has parts of its own to sweep; where it cannot be had, the tests of lines say so.
    let _ = boxes.link(7, LinkFault::Delay(20)).await;
    fs::write(dir.join("ready.new"), boxes.host_address().to_string()).unwrap();
    fs::rename(dir.join("ready.new"), dir.join("ready")).unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_of_tier_2_ends_at_its_disk_and_at_its_memory() {
    let Some(world) = World::open(Tier::Two) else {
        return;
    };
    let mut spec = world.spec(7, "");
    (spec.disk_mb, spec.memory_mb) = (24, 96);
    world.boxes.create(spec).await.unwrap();
    let at = world.boxes.start(7).await.unwrap();
    let full = world.ssh(
        at,
        "head -c 40000000 /dev/zero 2>&1 >big || true; rm big; echo fits >small && cat small",
    );
    assert!(
        full.contains("No space left on device") && full.ends_with("fits\n"),
        "{full}"
    );
    // A shell keeps in memory what it reads into a variable; the kernel kills it.
    let killed = world.try_ssh(
        at,
        "key",
        "bash -c 'x=$(head -c 200000000 /dev/zero | tr \"\\\\0\" x)'; echo status $?",
    );
    let killed = String::from_utf8_lossy(&killed.stdout).into_owned();
    assert!(killed.contains("status 137"), "{killed}");
    let limit = world.ssh(at, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true");
    assert_eq!(limit.trim(), (96 << 20).to_string());
    let changed = world.ssh(at, "rm -f /usr/bin/tmux; command -v tmux || echo gone");
    assert_eq!(changed, "gone\n");
    assert!(
        eventually(Duration::ZERO, || run("sh", &["-c", "command -v tmux"])
            .contains("tmux")),
        "the machine keeps its own"
    );
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        contract!(tier_1: Tier::One, $($name),*);
        contract!(tier_1_5: Tier::OneAndHalf, $($name),*);
        contract!(tier_2: Tier::Two, $($name),*);
    };
    ($module:ident: $tier:expr, $($name:ident),*) => {
        mod $module {
            use super::Tier;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($tier).await;
                }
            )*
        }
    };
}

contract!(
    ssh_logs_in_as_root_with_a_home_of_its_own,
    the_container_environment_reaches_onstart_but_not_ssh,
    stop_keeps_the_disk_and_start_runs_onstart_again,
    each_box_has_a_host_key_of_its_own_and_keeps_it_through_a_restart,
    stop_asks_everything_to_end_and_kills_what_does_not,
    a_destroyed_box_leaves_nothing,
    a_dropped_line_stalls_and_a_healed_one_goes_on,
    a_reset_line_breaks_what_was_connected_and_takes_new_connections,
    a_refusing_box_breaks_connections_and_takes_none,
    a_late_line_is_late_both_ways_and_loses_nothing,
    a_late_line_stays_late_through_a_restart,
    a_narrow_line_carries_no_more_than_its_rate,
    boxes_do_not_see_each_other,
    a_host_without_power_says_no_goodbye_and_keeps_its_disk,
    only_the_keys_that_were_set_log_in,
    the_gpus_are_busy_while_the_training_lives,
    what_a_killed_simulator_leaves_is_swept,
);
