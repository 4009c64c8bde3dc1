//! A box that tells its user itself: only while nobody watches, each event once, and its URL is kept nowhere.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use spotter_proto::v1;
use tokio::time;

use crate::bed::{Bed, PATIENCE, Window};

/// What stands in the URL and nowhere else.
const SECRET: &str = "hush-T0B1C2D3";

/// Somebody's chat, which refuses the first message for a moment.
fn chat() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/{SECRET}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let message = take(stream.unwrap(), number == 0).unwrap();
            if number > 0 && tell.send(message).is_err() {
                return;
            }
        }
    });
    (url, told)
}

fn take(stream: TcpStream, refuse: bool) -> std::io::Result<Value> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while line.trim() != "" || length == 0 {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let status = if refuse { "503 Busy" } else { "204 No Content" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes())?;
    Ok(serde_json::from_slice(&body)?)
}

/// No file below holds the secret.
fn assert_nowhere(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            assert_nowhere(&path);
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            let found = bytes
                .windows(SECRET.len())
                .any(|at| at == SECRET.as_bytes());
            assert!(!found, "{} holds the URL", path.display());
        }
    }
}

#[tokio::test]
async fn a_box_tells_once_what_nobody_took_and_only_while_nobody_watches() {
    let (url, told) = chat();
    let bed = Bed::with_daemon(Window::None).await;
    let mut client = bed.client().await;
    let request = v1::ConfigureRequest {
        run: "r".into(),
        attempt: 1,
        workdir: bed.work().display().to_string(),
        max_runtime_s: 2,
        ..Default::default()
    };
    client.configure(request).await.unwrap();
    let webhook = |quiet_s| v1::SetWebhookRequest {
        url: url.clone(),
        quiet_s,
    };
    let wrong = v1::SetWebhookRequest {
        url: format!("ftp://example.com/{SECRET}"),
        quiet_s: 0,
    };
    let refused = client.set_webhook(wrong).await.unwrap_err();
    assert!(!refused.to_string().contains(SECRET), "{refused}");

    client.set_webhook(webhook(600)).await.unwrap();
    bed.start("train", "echo step 1; sleep 1000").await.unwrap();
    let ending = bed.event("training.ending").await;
    time::sleep(Duration::from_secs(3)).await;
    assert_eq!(told.try_iter().count(), 0, "whoever watches tells");

    // He does not say so any more, and has taken nothing.
    client.set_webhook(webhook(0)).await.unwrap();
    let message = tokio::task::spawn_blocking(move || (told.recv_timeout(PATIENCE).unwrap(), told));
    let (message, told) = message.await.unwrap();
    assert_eq!(message["event"], "training.ending", "{message}");
    assert_eq!(message["by"], "box", "{message}");
    let expected = format!(
        "`r`: its box ends the training: {}",
        ending["reason"].as_str().unwrap()
    );
    assert_eq!(message["text"], expected);
    let events = bed.events().await;
    let of = |kind: &str| events.iter().find(|event| event.kind == kind).unwrap();
    assert_eq!(message["id"], of("training.ending").seq);
    let noted: Value = serde_json::from_str(&of("notified").detail_json).unwrap();
    assert_eq!(noted["seq"], of("training.ending").seq);
    time::sleep(Duration::from_secs(2)).await;
    assert_eq!(told.try_iter().count(), 0, "once");
    assert_nowhere(&bed.home());
    assert!(!bed.daemon_log().contains(SECRET));
}
