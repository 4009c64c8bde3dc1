//! The client that everybody has must get along with the server: `aws`, where it is installed.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use bytes::Bytes;
use spotter_bucket::Bucket;

use crate::{BUCKET, ID, SECRET, Server};

/// The program, or `None` after saying loudly that it is missing. Where everything is required, that is a failure.
fn aws() -> Option<PathBuf> {
    let in_workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/aws");
    let path = std::env::var_os("SPOTTER_AWS").map_or(in_workspace, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    crate::skip::skip(&format!("the aws client is not at {}", path.display()));
    None
}

struct Aws<'a> {
    program: PathBuf,
    server: &'a Server,
}

impl Aws<'_> {
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        let home = self.server.dir.path();
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("AWS_ACCESS_KEY_ID", ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", self.server.handle.url())
            .env("AWS_MAX_ATTEMPTS", "1")
            .args(args)
            .current_dir(home);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        assert!(
            output.status.success(),
            "aws {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_puts_gets_lists_and_copies_in_parts() {
    let Some(program) = aws() else { return };
    let server = Server::start().await;
    let bucket = server.client();
    let aws = Aws {
        program,
        server: &server,
    };
    let file = |name: &str| server.dir.path().join(name);
    // 8 MiB is where aws begins to cut into parts.
    let large: Vec<u8> = (0..20_000_000_u32).map(|at| (at / 7) as u8).collect();
    std::fs::write(file("small"), b"from aws").unwrap();
    std::fs::write(file("large"), &large).unwrap();
    let url = |key: &str| format!("s3://{BUCKET}/{key}");

    aws.run(&["s3", "cp", "small", &url("a b/small+ä")]).await;
    aws.run(&["s3", "cp", "large", &url("a b/large")]).await;
    assert!(server.board().count("UploadPart") >= 3);
    assert_eq!(
        bucket.get("a b/small+ä", None).await.unwrap(),
        Bytes::from_static(b"from aws")
    );
    assert_eq!(bucket.get("a b/large", None).await.unwrap(), large);

    bucket
        .put("a b/ours", Bytes::from_static(b"from us"))
        .await
        .unwrap();
    let listed = aws.run(&["s3", "ls", "--recursive", &url("a b/")]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    for (size, key) in [
        ("20000000", "a b/large"),
        ("7", "a b/ours"),
        ("8", "a b/small+ä"),
    ] {
        assert!(
            listed
                .lines()
                .any(|line| line.contains(size) && line.ends_with(key)),
            "{key}: {listed}"
        );
    }
    let folders = aws.run(&["s3", "ls", &url("")]).await;
    assert!(
        String::from_utf8(folders.stdout)
            .unwrap()
            .contains("PRE a b/")
    );

    aws.run(&["s3", "cp", &url("a b/large"), &url("copies/large")])
        .await;
    assert!(server.board().count("UploadPartCopy") >= 3);
    aws.run(&["s3", "cp", &url("a b/ours"), &url("copies/ours")])
        .await;
    aws.run(&["s3", "cp", "--recursive", &url("copies/"), "back"])
        .await;
    assert_eq!(std::fs::read(file("back/large")).unwrap(), large);
    assert_eq!(std::fs::read(file("back/ours")).unwrap(), b"from us");

    let head = aws
        .run(&[
            "s3api",
            "head-object",
            "--bucket",
            BUCKET,
            "--key",
            "a b/large",
        ])
        .await;
    let head: serde_json::Value = serde_json::from_slice(&head.stdout).unwrap();
    assert_eq!(head["ContentLength"], 20_000_000);
    assert_eq!(
        head["ETag"].as_str().unwrap().trim_matches('"'),
        bucket.head("a b/large").await.unwrap().unwrap().etag
    );

    aws.run(&["s3", "rm", "--recursive", &url("")]).await;
    assert!(bucket.list("").await.unwrap().is_empty());
}
