//! A box that ends itself: the dead-man's switch, and an idle box, against a scripted provider.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use spotter_proto::v1;
use tokio::time;

use crate::bed::{Bed, PATIENCE, Window};

/// Requests that a provider got.
type Asked = Arc<Mutex<mpsc::Receiver<String>>>;

/// A provider that refuses so often, then agrees; tells the requests that it got.
fn provider(refusals: usize) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(request) = stream.and_then(|stream| answer(stream, number < refusals)) else {
                continue;
            };
            if tell.send(request).is_err() {
                return;
            }
        }
    });
    (url, told)
}

fn answer(mut stream: TcpStream, refuse: bool) -> std::io::Result<String> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        request.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.push_str(std::str::from_utf8(&body).unwrap());
    let (status, body) = if refuse {
        ("503 Busy", "busy")
    } else {
        ("200 OK", "{\"success\": true}")
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(request)
}

/// A box that knows itself and such a provider; its agent is not started yet.
fn rented(refusals: usize) -> (Bed, Asked) {
    let bed = Bed::new(Window::None);
    let (url, told) = provider(refusals);
    bed.container_env(&[
        ("CONTAINER_ID", "4711"),
        ("CONTAINER_API_KEY", "instance-key"),
        ("VAST_URL", &url),
    ]);
    (bed, Arc::new(Mutex::new(told)))
}

/// The next request that the provider gets.
async fn asked(told: &Asked) -> String {
    let told = Arc::clone(told);
    let next = move || told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
    tokio::task::spawn_blocking(next).await.unwrap()
}

/// A run whose box stops itself after a second without a session, and is told of a provider that is none.
fn impatient() -> v1::ConfigureRequest {
    v1::ConfigureRequest {
        run: "r".into(),
        attempt: 1,
        workdir: "w".into(),
        bring_up_s: 1,
        provider_url: "http://127.0.0.1:9".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_box_without_a_session_stops_itself_and_insists() {
    let (mut bed, told) = rented(1);
    bed.start_daemon();
    let configured = bed.client().await.configure(impatient()).await;
    configured.unwrap();

    for request in [asked(&told).await, asked(&told).await] {
        assert!(
            request.starts_with("PUT /api/v0/instances/4711/ HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request
                .to_ascii_lowercase()
                .contains("authorization: bearer instance-key\r\n"),
            "{request}"
        );
        assert!(request.ends_with("{\"state\":\"stopped\"}"), "{request}");
    }
    let detail = bed.event("self_stop").await;
    assert_eq!(
        detail["reason"],
        "no session started within 1 s of the container's start"
    );
    assert!(!bed.daemon_log().contains("instance-key"));
}

/// The controller died between the wiping and the destroying: no file is left from which a later start could know that.
#[tokio::test]
async fn a_box_that_was_wiped_and_is_not_destroyed_stops_itself() {
    let (mut bed, told) = rented(1);
    bed.start_daemon_with(&[("SPOTTER_WAITS_DIVIDED_BY", "300")]);
    let mut client = bed.client().await;
    let wipe = v1::ShutdownRequest { wipe: true };
    client.shutdown(wipe).await.unwrap();

    for request in [asked(&told).await, asked(&told).await] {
        assert!(
            request.starts_with("PUT /api/v0/instances/4711/ HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.ends_with("{\"state\":\"stopped\"}"), "{request}");
    }
    assert!(!bed.home().exists());
}

#[tokio::test]
async fn a_started_session_keeps_the_box_and_preflight_only_reads() {
    let (mut bed, told) = rented(0);
    bed.start_daemon();
    bed.start("train", "true").await.unwrap();
    let mut client = bed.client().await;
    client.configure(impatient()).await.unwrap();

    let report = client
        .preflight(v1::PreflightRequest {
            gpus: 0,
            disk_bytes: 0,
        })
        .await
        .unwrap()
        .into_inner();
    assert!(report.can_self_stop);
    let names: Vec<_> = report
        .checks
        .iter()
        .map(|check| check.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["disk", "memory", "tmux", "rsync", "clock", "self_stop"]
    );
    let tmux = report
        .checks
        .iter()
        .find(|check| check.name == "tmux")
        .unwrap();
    assert!(
        !tmux.ok && !tmux.required && tmux.detail.contains("not installed"),
        "{tmux:?}"
    );

    // Longer than the switch would take.
    time::sleep(Duration::from_millis(3500)).await;
    let requests: Vec<String> = told.lock().unwrap().try_iter().collect();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(
        requests[0].starts_with("GET /api/v0/instances/4711/ "),
        "{requests:?}"
    );
    assert!(
        !bed.events()
            .await
            .iter()
            .any(|event| event.kind == "self_stop")
    );
}

#[tokio::test]
async fn a_box_whose_training_is_over_waits_for_whoever_is_there_and_then_stops_itself() {
    let (mut bed, told) = rented(0);
    bed.start_daemon();
    bed.start("train", "true").await.unwrap();
    let mut client = bed.client().await;
    let request = v1::ConfigureRequest {
        idle_stop_s: 1,
        ..impatient()
    };
    client.configure(request).await.unwrap();

    // Longer than the switch would take: this connection is open.
    time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(
        told.lock().unwrap().try_iter().count(),
        0,
        "somebody is there"
    );
    drop(client);

    let request = asked(&told).await;
    assert!(
        request.starts_with("PUT /api/v0/instances/4711/ "),
        "{request}"
    );
    let detail = bed.event("self_stop").await;
    assert_eq!(
        detail["reason"],
        "the training is over and nobody came for it within 1 s"
    );
}
