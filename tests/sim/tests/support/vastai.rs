//! The official client as a program, in a home of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use spotter_sim::world::SeenRequest;

use super::{Sim, skip};

/// What a run of the client did.
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
    /// API requests that it made: method, path, body.
    pub sent: Vec<(String, String, Value)>,
    /// The same with their queries, and what the client calls itself.
    pub seen: Vec<SeenRequest>,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|err| panic!("{err}: {}{}", self.stdout, self.stderr))
    }

    /// Asserts one printed text and the only (last) request.
    pub fn check(&self, prints: &str, method: &str, path: &str, body: &Value) {
        assert!(
            self.stdout.contains(prints),
            "{prints} is not in {}{}",
            self.stdout,
            self.stderr
        );
        let (got_method, got_path, got_body) = self.sent.last().expect("it made a request");
        assert_eq!(
            (got_method.as_str(), got_path.as_str(), got_body),
            (method, path, body)
        );
        assert_eq!(self.code, 0);
    }
}

/// The client against a simulator.
pub struct Client<'a> {
    program: PathBuf,
    pub home: tempfile::TempDir,
    pub sim: &'a Sim,
}

impl<'a> Client<'a> {
    /// The client where it is installed: `SPOTTER_VASTAI` names it, or it lies in `target/venv` of the workspace.
    pub fn find(sim: &'a Sim) -> Option<Self> {
        let named = std::env::var_os("SPOTTER_VASTAI").map(PathBuf::from);
        let in_workspace =
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/vastai");
        let program = Some(named.unwrap_or_else(in_workspace)).filter(|program| program.exists());
        let Some(program) = program else {
            let text = "the official client vastai==1.9.1 is not installed (SPOTTER_VASTAI or target/venv)";
            skip::skip(text);
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        Some(Self { program, home, sim })
    }

    /// Runs it to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.run_with_key("a", args).await
    }

    pub async fn run_with_key(&self, key: &str, args: &[&str]) -> Ran {
        self.run_at(&self.sim.url, Some(key), args).await
    }

    /// The same against some address, with a key in the environment or none there.
    pub async fn run_at(&self, url: &str, key: Option<&str>, args: &[&str]) -> Ran {
        let before = self.sim.world.seen().len();
        let home = self.home.path();
        let output = tokio::process::Command::new(&self.program)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_DATA_HOME", home.join("data"))
            .env("VAST_URL", url)
            .envs(key.map(|key| ("VAST_API_KEY", key)))
            .env("VASTAI_NO_UPDATE_CHECK", "1")
            .env("NO_PROXY", "*")
            .env("COLUMNS", "240")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let sent = self.sim.world.seen().split_off(before);
        Ran {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
            sent: sent
                .iter()
                .cloned()
                .map(|seen| (seen.method, seen.path, seen.body))
                .collect(),
            seen: sent,
        }
    }
}
