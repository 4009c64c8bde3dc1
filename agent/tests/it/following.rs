//! Logs over the contract: exact through truncation and rotation, from any position, to a proper end.

use std::{fs, time::Duration};

use spotter_proto::v1;
use tokio::time;
use tonic::Code;

use crate::bed::{Bed, LogReader, Window, until};

#[tokio::test]
async fn a_log_is_followed_exactly_through_rotation_and_truncation() {
    let bed = Bed::with_daemon(Window::Tmux).await;
    // Waits for files, so that each upheaval happens between two known lines.
    let command = "exec 9<> <(:); for i in $(seq 500); do echo line $i; done; until [ -e go-1 ]; do sleep 0.02; done; \
                   for i in $(seq 501 3000); do echo line $i; read -t 0.001 -u 9; done; touch truncate-me; \
                   until [ -e go-2 ]; do sleep 0.02; done; for i in $(seq 3001 3500); do echo line $i; done";
    bed.start("train", command).await.unwrap();
    let mut reader = LogReader::new(&bed, "train");
    let has = |text: &'static str| {
        move |reader: &LogReader<'_>| !String::from_utf8_lossy(&reader.bytes).contains(text)
    };
    reader.read_while(has("line 500\r\n")).await;

    // Rotated by rename, while it is being written.
    fs::write(bed.work().join("go-1"), "").unwrap();
    reader.read_while(has("line 700\r\n")).await;
    fs::rename(bed.log("train"), bed.session_dir("train").join("log.1")).unwrap();
    reader.read_while(has("line 3000\r\n")).await;

    // Truncated in place.
    until("the pause", || {
        bed.work().join("truncate-me").exists().then_some(())
    })
    .await;
    let log = bed.log("train");
    until("a rotated log", || log.exists().then_some(())).await;
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&log)
        .unwrap();
    // A writer this quick after a truncation would look like a growing file; the daemon looks twice a second.
    time::sleep(Duration::from_millis(700)).await;
    fs::write(bed.work().join("go-2"), "").unwrap();
    reader.read_to_end().await;

    let expected: String = (1..=3500).map(|i| format!("line {i}\r\n")).collect();
    assert!(
        reader.bytes == expected.as_bytes(),
        "{}",
        String::from_utf8_lossy(&reader.bytes)
    );
    assert_eq!(reader.gap_bytes, 0);
    assert_eq!(reader.position.unwrap().generation, 2);
}

#[tokio::test]
async fn a_tail_begins_at_a_line_and_a_log_that_is_not_followed_ends_where_it_is() {
    let bed = Bed::with_daemon(Window::None).await;
    bed.start(
        "train",
        "for i in $(seq 100); do echo line $i; done; sleep 600",
    )
    .await
    .unwrap();
    bed.logged("train", "line 100\r\n").await;
    let request = |tail_bytes, follow| v1::LogsRequest {
        session: "train".into(),
        position: None,
        tail_bytes,
        follow,
    };
    let mut stream = bed
        .client()
        .await
        .logs(request(25, false))
        .await
        .unwrap()
        .into_inner();
    let chunk = stream.message().await.unwrap().unwrap();
    assert_eq!(chunk.data, b"line 99\r\nline 100\r\n");
    assert!(!chunk.end);
    assert!(stream.message().await.unwrap().is_none());

    let unknown = v1::LogsRequest {
        session: "other".into(),
        ..request(0, false)
    };
    assert_eq!(
        bed.client().await.logs(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
    let beyond = v1::LogsRequest {
        position: Some(v1::LogPosition {
            generation: 0,
            offset: 1 << 40,
        }),
        ..request(0, false)
    };
    let mut stream = bed.client().await.logs(beyond).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_flood_arrives_whole_and_in_order() {
    let bed = Bed::with_daemon(Window::Tmux).await;
    bed.start("train", "seq 400000").await.unwrap();
    let mut reader = LogReader::new(&bed, "train");
    reader.read_to_end().await;
    let expected: String = (1..=400_000).map(|i| format!("{i}\r\n")).collect();
    assert!(
        reader.bytes == expected.as_bytes(),
        "{} of {} bytes",
        reader.bytes.len(),
        expected.len()
    );
}

#[tokio::test]
async fn a_line_is_there_soon_after_it_was_written() {
    let bed = Bed::with_daemon(Window::None).await;
    bed.start(
        "train",
        "read -r -t 2 < <(sleep 2); for i in $(seq 20); do date +%s%N; sleep 0.1; done",
    )
    .await
    .unwrap();
    let request = v1::LogsRequest {
        session: "train".into(),
        position: None,
        tail_bytes: 0,
        follow: true,
    };
    let mut stream = bed.client().await.logs(request).await.unwrap().into_inner();
    let mut delays = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let text = String::from_utf8(chunk.data).unwrap();
        delays.extend(
            text.lines()
                .filter_map(|line| line.parse::<u128>().ok())
                .map(|written| now.saturating_sub(written)),
        );
        if chunk.end {
            break;
        }
    }
    delays.sort_unstable();
    // The safety net alone would give a median of 250 ms. Half of them quick is proof of inotify on a loaded machine, too.
    let median = Duration::from_nanos(u64::try_from(delays[delays.len() / 2]).unwrap());
    assert!(
        median < Duration::from_millis(200),
        "{median:?} of {} lines",
        delays.len()
    );
}
