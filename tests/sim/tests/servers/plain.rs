//! Anybody can read a checkpoint without spotter: the tools that people have for S3 see files, byte by byte those of the trainer.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tokio::task;

use crate::{
    fleet::{self, BUCKET, ID, SECRET, Server},
    sidecar::Box,
};

/// Steps that are saved; the second shares a file with the first.
const STEPS: [u64; 2] = [1, 2];

/// A tool that copies a whole prefix to a directory.
#[derive(Debug, Clone, Copy)]
enum Tool {
    Aws,
    Rclone,
}

pub(crate) async fn read_back_by_other_tools(server: &Server) {
    let home = Box::new();
    let backup = home.agent(std::sync::Arc::new(server.client()));
    for step in STEPS {
        home.train(step);
        crate::sidecar::save(&backup).await;
    }
    let written = home.tree();
    for tool in [Tool::Aws, Tool::Rclone] {
        let Some(program) = fleet::tool(tool.name()) else {
            continue;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut command = tool.copies_to(&program, &server.url, dir.path());
        let output = task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        assert!(
            output.status.success(),
            "{tool:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let copied = dir.path().join("run");
        assert_eq!(by_commits(&copied), written, "{tool:?}");
        first_is_a_plain_directory(&copied, &written);
    }
}

/// What the commits say that each checkpoint is, read from the copy: the keys that they name are paths in it.
fn by_commits(copied: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    for entry in fs::read_dir(copied.join("commits")).unwrap() {
        let text = fs::read(entry.unwrap().path()).unwrap();
        let commit: Value = serde_json::from_slice(&text).unwrap();
        for file in commit["files"].as_array().unwrap() {
            let key = file["key"].as_str().unwrap();
            let at = key.strip_prefix("p/run/").unwrap();
            let bytes = fs::read(copied.join(at)).unwrap();
            let name = format!(
                "{}/{}",
                commit["path"].as_str().unwrap(),
                file["path"].as_str().unwrap()
            );
            tree.insert(name, blake3::hash(&bytes).to_hex().to_string());
        }
    }
    tree
}

/// A checkpoint that shares nothing with an older one is one directory under its step, as the trainer wrote it.
fn first_is_a_plain_directory(copied: &Path, written: &BTreeMap<String, String>) {
    let data = fs::read_dir(copied.join("data")).unwrap();
    let first = data
        .map(|entry| entry.unwrap().path())
        .find(|path| name_of(path).starts_with("000000000001-"))
        .unwrap();
    let expected: BTreeMap<String, String> = written
        .iter()
        .filter_map(|(path, hash)| Some((path.strip_prefix("step_1/")?.to_owned(), hash.clone())))
        .collect();
    assert_eq!(crate::sidecar::hashes_below(&first), expected);
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Aws => "aws",
            Tool::Rclone => "rclone",
        }
    }

    /// The command that its users would type, with everything else of this machine kept away.
    fn copies_to(self, program: &PathBuf, url: &str, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        match self {
            Tool::Aws => command
                .envs([
                    ("AWS_ACCESS_KEY_ID", ID),
                    ("AWS_SECRET_ACCESS_KEY", SECRET),
                    ("AWS_DEFAULT_REGION", "us-east-1"),
                    ("AWS_EC2_METADATA_DISABLED", "true"),
                ])
                .args(["--endpoint-url", url, "s3", "cp", "--recursive"])
                .arg("--only-show-errors")
                .arg(format!("s3://{BUCKET}/p/run"))
                .arg(dir.join("run")),
            Tool::Rclone => command
                .envs([
                    ("RCLONE_S3_PROVIDER", "Other"),
                    ("RCLONE_S3_ENDPOINT", url),
                    ("RCLONE_S3_ACCESS_KEY_ID", ID),
                    ("RCLONE_S3_SECRET_ACCESS_KEY", SECRET),
                    ("RCLONE_S3_REGION", "us-east-1"),
                    // Of a server that it does not know it asks by the call of 2006, which ours never learned.
                    ("RCLONE_S3_LIST_VERSION", "2"),
                ])
                .args(["--config", "/dev/null", "copy"])
                .arg(format!(":s3:{BUCKET}/p/run"))
                .arg(dir.join("run")),
        };
        command
    }
}
