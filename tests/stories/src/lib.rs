//! What several stories share: where the workspace is and where its programs are.

#[path = "../../skip.rs"]
pub mod skip;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The repository.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate lies two folders below the repository's root")
}

/// Where `cargo build` puts programs of this build.
pub fn program_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a running test knows its own file");
    let deps = test.parent().expect("a file lies in a folder");
    deps.parent()
        .expect("test programs lie in `deps`, one below the programs")
        .to_path_buf()
}

/// Builds every program that a story starts, once per test process. Nothing happens when all is fresh.
pub fn build_programs() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        if std::env::var_os("SPOTTER_PROGRAMS_BUILT").is_some() {
            return;
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let status = Command::new(cargo)
            .current_dir(workspace())
            .args(["build", "--quiet", "--features", "faults"])
            .args([
                "-p",
                "spotter",
                "-p",
                "nvml-probe",
                "-p",
                "fake-nvml",
                "-p",
                "spotter-sim",
            ])
            .env_remove("SPOTTER_DIE_AT")
            .status()
            .expect("cargo can be started");
        assert!(
            status.success(),
            "the programs that the stories start do not build"
        );
        // An agent that carries its probe, in a folder of its own: elsewhere it would be built anew at every change of mind.
        let status = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
            .current_dir(workspace())
            .args(["build", "--quiet", "-p", "spotter-agent", "--target-dir"])
            .arg(agent_target_dir())
            .env("SPOTTER_PROBE_BIN", program_dir().join("nvml-probe"))
            .status()
            .expect("cargo can be started");
        assert!(status.success(), "the agent does not build with its probe");
    });
}

fn agent_target_dir() -> PathBuf {
    let target = program_dir();
    target
        .parent()
        .expect("programs lie below the target directory")
        .join("agent-with-probe")
}

/// The agent as a box gets it: the static one that `SPOTTER_STATIC_AGENT` names, else one for this machine.
pub fn agent() -> PathBuf {
    if let Some(path) = std::env::var_os("SPOTTER_STATIC_AGENT") {
        return workspace().join(path);
    }
    build_programs();
    agent_target_dir().join("debug/spotter-agent")
}

/// A program of this workspace, built.
pub fn program(name: &str) -> PathBuf {
    build_programs();
    let path = program_dir().join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path
}
