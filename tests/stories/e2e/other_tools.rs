//! Other tools read the agent: a Python client that knows nothing of our files, by reflection alone, through `ssh -L`.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    a_python_client_reads_a_sample_by_reflection_through_ssh: python_client;
}

fn python_client(world: &World) {
    let python = stories::workspace().join("target/venv/bin/python");
    let has_grpc = Command::new(&python)
        .args(["-c", "import grpc_reflection"])
        .stderr(Stdio::null())
        .status();
    if !has_grpc.is_ok_and(|status| status.success()) {
        let why = format!("{} has no grpcio-reflection", python.display());
        return stories::skip::skip(&why);
    }
    read_by_reflection(world, &python);
}

fn read_by_reflection(world: &World, python: &Path) {
    world.training(&Training::interruptible("tools", 600));
    world.ok(&["run", "tools.yaml", "--detach"]);
    world.until_step("tools", 1, 0);
    // The shells of boxes are talkative: ours is the last word.
    let said = world.ok(&["ssh", "tools", "--", "echo $HOME"]).stdout;
    let home = said.lines().next_back().unwrap();
    let remote = Path::new(home).join(".spotter/agent.sock");
    let local = world.work().join("agent.sock");

    let mut tunnel = world
        .program(
            "ssh",
            &[
                "-F",
                world.spotter_home().join("ssh/config").to_str().unwrap(),
                "-N",
                "-L",
            ],
        )
        .arg(format!("{}:{}", local.display(), remote.display()))
        .arg("tools")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    world.until("the forwarded socket", || local.exists().then_some(()));
    let script = stories::workspace().join("controller/examples/python-client/watch.py");
    let output = Command::new(python)
        .arg(script)
        .arg(&local)
        .arg("12")
        .output()
        .unwrap();
    let _ = tunnel.kill();
    let _ = tunnel.wait();

    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let services = lines.next().unwrap();
    for service in ["spotter.v1.Agent", "grpc.health.v1.Health"] {
        assert!(
            services["services"]
                .as_array()
                .unwrap()
                .iter()
                .any(|name| name == service),
            "{services}"
        );
    }
    // The first ones may be older than the probe.
    let sample = lines.next_back().unwrap();
    assert_eq!(sample["gpus"].as_array().unwrap().len(), 1, "{sample}");
    assert!(
        sample["host"]["memory_limit_bytes"].as_str().is_some(),
        "{sample}"
    );
    world.ok(&["stop", "tools"]);
}
