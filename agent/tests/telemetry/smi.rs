//! `nvidia-smi`, where the probe cannot do its work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::skip;
use crate::world::{EIGHT_GPUS, PATIENCE, World, home, parts};

/// Stands in for `nvidia-smi`: checks how it is asked, then prints these lines at every tick.
fn script_smi(home: &Path, lines: &str) {
    let path = home.join("nvidia-smi");
    let script = format!(
        "#!/bin/sh\ncase \"$1$2$3\" in --query-gpu=index,uuid,name,*--format=csv,noheader,nounits-lms) ;; *) exit 9;; esac\n\
         while :; do\ncat <<'END'\n{lines}END\nsleep 0.1\ndone\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
}

const SMI_LINES: &str = "\
0, GPU-a, NVIDIA A10, 00000000:1B:00.0, 535.161.08, 97, 41, 23028, 20000, 148.21, 150.00, 63, 1695, 6251, P0, [N/A]
1, GPU-b, NVIDIA A10, 00000000:1C:00.0, 535.161.08, [GPU is lost], [N/A], 23028, 20000, [N/A], 150.00, 63, 1695, 6251, P0, 30
";

#[tokio::test(flavor = "multi_thread")]
async fn where_no_library_is_found_nvidia_smi_is_read_instead() {
    let home = home("", Path::new("/nonexistent/libnvidia-ml.so.1"));
    if Path::new("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1").exists() {
        return skip::excuse("this machine has a real NVML");
    }
    script_smi(home.path(), SMI_LINES);
    let world = World::at(home, PATIENCE);
    let sample = world.sample(|sample| sample.gpus.len() == 2).await;
    let gpu = &sample.gpus[0];
    assert_eq!((&*gpu.name, &*gpu.uuid), ("NVIDIA A10", "GPU-a"));
    assert_eq!(
        (gpu.utilisation_percent, gpu.power_mw, gpu.memory_used_bytes),
        (Some(97), Some(148_210), Some(20_000 << 20))
    );
    assert_eq!(sample.gpus[1].error, 15);
    world
        .problem(|problem| problem.starts_with("GPU 1 cannot be read"))
        .await;
    let told = {
        let events = world.events.0.lock().unwrap();
        let fallback = events.iter().find(|(kind, _)| kind == "gpu.fallback");
        fallback.unwrap().1.clone()
    };
    let reason = told["reason"].as_str().unwrap();
    assert!(
        reason.contains("no libnvidia-ml.so.1 can be loaded"),
        "{reason}"
    );
    assert_eq!(world.telemetry.driver().unwrap().driver, "535.161.08");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_dies_again_and_again_is_replaced_by_nvidia_smi() {
    let home = home(EIGHT_GPUS, &parts().1);
    script_smi(
        home.path(),
        SMI_LINES
            .lines()
            .next()
            .map(|line| line.to_owned() + "\n")
            .unwrap()
            .as_str(),
    );
    let world = World::with(home, PATIENCE, |config| {
        config.probe.program = Some("/bin/false".into())
    });
    let sample = world.sample(|sample| sample.gpus.len() == 1).await;
    assert_eq!(&*sample.gpus[0].uuid, "GPU-a");
    world.problem(str::is_empty).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nvidia_smi_that_ends_soon_is_told_once_and_not_started_in_a_hurry() {
    let home = home(EIGHT_GPUS, &parts().1);
    let starts = home.path().join("starts");
    let line = SMI_LINES.lines().next().unwrap();
    let script = format!(
        "#!/bin/sh\necho x >> {}\necho '{line}'\necho '{line}'\n",
        starts.display()
    );
    let path = home.path().join("nvidia-smi");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let world = World::with(home, PATIENCE, |config| {
        config.probe.program = Some("/bin/false".into())
    });
    world
        .problem(|problem| problem.contains("nvidia-smi ends soon after it begins"))
        .await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while fs::read_to_string(&starts).unwrap().lines().count() < 3 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = {
        let events = world.events.0.lock().unwrap();
        events
            .iter()
            .filter(|(kind, _)| kind == "gpu.fallback")
            .count()
    };
    assert_eq!(told, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nvidia_smi_gives_nothing_the_problem_has_both_reasons() {
    for (script, words) in [
        (
            "#!/bin/sh\necho NVIDIA-SMI has failed: no driver\nexit 9\n",
            "; nvidia-smi: it says: NVIDIA-SMI has failed: no driver",
        ),
        ("#!/bin/sh\nexit 1\n", "; nvidia-smi: it ended"),
    ] {
        let home = home("sys init UNKNOWN\n", &parts().1);
        let path = home.path().join("nvidia-smi");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let world = World::at(home, PATIENCE);
        let problem = world.problem(|problem| !problem.is_empty()).await;
        assert!(
            problem.starts_with("NVML cannot be initialised") && problem.ends_with(words),
            "{problem}"
        );
        world.end().await;
    }
}
