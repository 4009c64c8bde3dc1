//! What of a bucket key is left in the daemon's memory when it was replaced, and when it was wiped.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::FileExt,
    sync::mpsc,
};

use spotter_proto::v1;

use crate::{
    bed::{Bed, Client, Window, until},
    skip::excuse,
};

/// Refuses everything, as a bucket does that knows no such key; tells that a request was signed.
fn refusing_bucket() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
                if line.to_lowercase().starts_with("authorization: aws4") {
                    let _nobody_waits = tell.send(line);
                }
            }
            let body = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
            let head = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length";
            let _gone = write!(stream, "{head}: {}\r\n\r\n{body}", body.len());
        }
    });
    (url, told)
}

/// How often these bytes are in what a process may write to.
fn copies(pid: i32, needle: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = 0;
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // A region may go while it is read, and hold nothing then.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            let hits = bytes.windows(needle.len()).filter(|part| *part == needle);
            found += hits.count();
        }
    }
    found
}

async fn give(client: &mut Client, id: &str, secret: &str) {
    let keys = v1::SetCredentialsRequest {
        access_key_id: id.to_owned(),
        secret_access_key: secret.to_owned(),
        ..Default::default()
    };
    client.set_credentials(keys).await.unwrap();
}

/// Another user's memory, and that of a program that may not be dumped, only root reads.
#[tokio::test]
async fn a_secret_that_was_replaced_or_wiped_is_in_no_memory_of_the_daemon() {
    if !nix::unistd::geteuid().is_root() {
        return excuse("only root reads the memory of a daemon that may not be dumped");
    }
    let (endpoint, told) = refusing_bucket();
    let mut bed = Bed::new(Window::None);
    // After the wipe it waits for its end, as a box does that is about to be destroyed.
    bed.container_env(&[
        ("CONTAINER_ID", "4711"),
        ("CONTAINER_API_KEY", "instance-key"),
        ("VAST_URL", "http://127.0.0.1:1"),
    ]);
    let pid = bed.start_daemon();
    let mut client = bed.client().await;
    let configured = v1::ConfigureRequest {
        run: "flight".into(),
        attempt: 1,
        workdir: "flight".into(),
        provider_url: "http://127.0.0.1:1".into(),
        backup: Some(v1::BackupConfig {
            dir: "checkpoints".into(),
            target: "s3://runs/runs".into(),
            endpoint,
            region: "us-east-1".into(),
            every_s: 600,
            keep_last: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    client.configure(configured).await.unwrap();
    // Made here, so that no copy of theirs comes with the program.
    let secret = |what: &str| format!("{what}-{}-{:?}", pid, std::time::Instant::now());
    let (first, second) = (secret("first"), secret("second"));
    for secret in [&first, &second] {
        assert_eq!(copies(pid, secret.as_bytes()), 0);
        give(&mut client, "KEY", secret).await;
        let proved = client
            .prove_bucket(v1::ProveBucketRequest {})
            .await
            .unwrap();
        assert!(!proved.into_inner().ok, "it is refused");
        assert!(told.try_recv().is_ok(), "a request was signed");
        let held = copies(pid, secret.as_bytes());
        assert!(held > 0, "it works with it");
        println!("{held} copies while it is used");
    }
    println!("{} after another came", copies(pid, first.as_bytes()));
    // The URL by which the user is told is one, too.
    let hush = secret("hush");
    let webhook = |url: String| v1::SetWebhookRequest { url, quiet_s: 0 };
    let url = format!("https://127.0.0.1:1/{hush}");
    client.set_webhook(webhook(url)).await.unwrap();
    assert!(copies(pid, hush.as_bytes()) > 0, "it has it");
    client.set_webhook(webhook(String::new())).await.unwrap();
    client
        .shutdown(v1::ShutdownRequest { wipe: true })
        .await
        .unwrap();
    let home = bed.home();
    until("the wipe", || (!home.exists()).then_some(())).await;
    // Its connections end a moment later, and their buffers with them.
    let left = || [&first, &second, &hush].map(|secret| copies(pid, secret.as_bytes()));
    until("no copy to be left", || (left() == [0; 3]).then_some(())).await;
}
