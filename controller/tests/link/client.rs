//! The client against a small agent in memory: what it repeats, what it gives up, and what comes once however often the link breaks.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use futures::StreamExt;
use spotter::agent_client::{AgentError, Link, LogPosition, LogStart, SessionRequest, Verdict};

use crate::fake::{Fake, log_bytes};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_call_is_repeated_until_the_link_is_back() {
    let fake = Fake::default();
    let client = fake.client();
    let link = client.link();
    assert_eq!(*link.borrow(), Link::Unused);
    fake.0.refuse.store(3, SeqCst);
    assert_eq!(client.status(LIMIT).await.unwrap().build, "call-0");
    assert_eq!(fake.0.dials.load(SeqCst), 4);
    assert_eq!(*link.borrow(), Link::Connected);
    fake.0.cut();
    assert_eq!(client.status(LIMIT).await.unwrap().build, "call-1");
    assert_eq!(fake.0.dials.load(SeqCst), 5);
}

#[tokio::test]
async fn whoever_only_looks_says_with_each_status_that_nobody_is_there() {
    let fake = Fake::default();
    fake.client().status(LIMIT).await.unwrap();
    assert_eq!(fake.0.in_passing.load(SeqCst), 0);
    let client = fake.client().in_passing();
    client.status(LIMIT).await.unwrap();
    fake.0.cut();
    client.status(LIMIT).await.unwrap();
    assert_eq!(fake.0.in_passing.load(SeqCst), 2);
}

#[tokio::test]
async fn whoever_only_looks_is_nobody_by_a_link_that_comes_back_either() {
    let fake = Fake::default();
    let client = fake.client().in_passing();
    client.status(LIMIT).await.unwrap();
    let said = || fake.0.in_passing.load(SeqCst);
    assert_eq!((said(), fake.0.dials.load(SeqCst)), (1, 1));
    // What breaks between two calls, and within a stream.
    fake.0.cut();
    fake.0.cut_every.store(7, SeqCst);
    let seqs: Vec<u64> = client
        .events(1, true)
        .take(30)
        .map(|event| event.unwrap().seq)
        .collect()
        .await;
    assert_eq!(seqs, (1..=30).collect::<Vec<_>>());
    let dials = fake.0.dials.load(SeqCst);
    assert!(dials > 3, "{dials}");
    assert_eq!(said(), dials as u64, "each new link begins with a status");
    let first = fake.0.first.lock().unwrap().clone();
    assert_eq!(first, vec!["Status"; dials], "and with nothing before it");
    fake.0.cut();
    client.status(LIMIT).await.unwrap();
    assert_eq!(said(), dials as u64 + 1);
}

#[tokio::test]
async fn a_link_that_stays_away_ends_with_the_deadline_and_its_reason() {
    let fake = Fake::default();
    let client = fake.client();
    fake.0.refuse.store(usize::MAX, SeqCst);
    let err = client.status(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "the agent gave no answer to `status` in 1 s: nobody home"
    );
    let link = client.link().borrow().clone();
    assert!(
        matches!(link, Link::Lost { ref why, .. } if why == "nobody home"),
        "{link:?}"
    );
    assert_eq!(err.verdict(), None);
}

#[tokio::test]
async fn a_reason_that_time_does_not_cure_is_told_at_once() {
    let fake = Fake::default();
    fake.0.refuse.store(usize::MAX, SeqCst);
    fake.0.permanent.store(true, SeqCst);
    let err = fake
        .client()
        .status(Duration::from_secs(3600))
        .await
        .unwrap_err();
    assert!(matches!(err, AgentError::Unreachable { .. }), "{err}");
}

#[tokio::test]
async fn a_verdict_is_returned_at_once_and_cannot_steer_the_terminal() {
    let fake = Fake::default();
    let client = fake.client();
    let err = client
        .end_session("train", Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::NotFound));
    assert_eq!(
        err.to_string(),
        "the agent refused `end_session`: no session `train`[2J"
    );
    assert_eq!(fake.0.dials.load(SeqCst), 1);
    let err = client.checkpoints().await.unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::Unknown));
    assert_eq!(*client.link().borrow(), Link::Connected);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_answers_meets_the_deadline() {
    let err = Fake::default().client().prove_bucket().await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "the agent gave no answer to `prove_bucket` in 120 s"
    );
}

#[tokio::test]
async fn a_session_whose_start_was_not_confirmed_is_not_started_twice() {
    let fake = Fake::default();
    let client = fake.client();
    fake.0.lose.store(true, SeqCst);
    let request = SessionRequest {
        name: "train".to_owned(),
        command: "x".to_owned(),
        ..Default::default()
    };
    assert_eq!(client.start_session(&request).await.unwrap().pid, 4711);
    assert_eq!(fake.0.sessions.lock().unwrap().len(), 1);
    // A name that somebody else took is a verdict.
    let err = client.start_session(&request).await.unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::AlreadyExists));
}

#[tokio::test]
async fn a_line_is_never_typed_twice() {
    let fake = Fake::default();
    let client = fake.client();
    fake.0.lose.store(true, SeqCst);
    let err = client.send_line("train", "quit").await.unwrap_err();
    assert!(matches!(err, AgentError::Ambiguous { .. }), "{err}");
    // One look, one line.
    assert_eq!(fake.0.calls.load(SeqCst), 2);
}

#[tokio::test]
async fn events_come_once_each_however_often_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(4, SeqCst);
    let events = fake.client().events(3, true).take(28);
    let seen: Vec<u64> = events.map(|event| event.unwrap().seq).collect().await;
    assert_eq!(seen, (3..=30).collect::<Vec<u64>>());
    assert!(
        fake.0.asked.lock().unwrap().len() > 5,
        "the link never broke"
    );
}

#[tokio::test]
async fn waiting_for_an_event_can_be_cancelled_without_losing_one() {
    let fake = Fake::default();
    fake.0.cut_every.store(2, SeqCst);
    let mut events = fake.client().events(1, true);
    let mut seen = Vec::new();
    while seen.len() < 30 {
        tokio::select! {
            event = events.next() => seen.push(event.unwrap().unwrap().seq),
            () = tokio::time::sleep(Duration::from_millis(3)) => {}
        }
    }
    assert_eq!(seen, (1..=30).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_log_is_whole_however_often_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(3, SeqCst);
    let mut pieces = fake.client().logs(
        "train",
        LogStart::At(LogPosition {
            generation: 1,
            offset: 0,
        }),
        true,
    );
    let mut data = Vec::new();
    let mut end = false;
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        data.extend_from_slice(&piece.data);
        end = piece.end;
    }
    assert!(end);
    assert_eq!(data, log_bytes());
    assert!(
        fake.0.asked.lock().unwrap().len() > 5,
        "the link never broke"
    );
}

#[tokio::test]
async fn a_tail_goes_on_where_it_stood() {
    let fake = Fake::default();
    fake.0.cut_every.store(1, SeqCst);
    let pieces = fake.client().logs("train", LogStart::Tail(20), true);
    let data: Vec<Vec<u8>> = pieces.map(|piece| piece.unwrap().data).collect().await;
    assert_eq!(data.concat(), &log_bytes()[180..]);
    assert_eq!(
        *fake.0.asked.lock().unwrap(),
        ["logs 180", "logs 187", "logs 194"]
    );
}

#[tokio::test]
async fn a_refused_stream_ends_with_the_verdict() {
    let mut pieces = Fake::default()
        .client()
        .logs("nobody", LogStart::Tail(1), true);
    let err = pieces.next().await.unwrap().unwrap_err();
    assert_eq!(err.verdict(), Some(Verdict::NotFound));
    assert!(pieces.next().await.is_none());
}

#[tokio::test]
async fn samples_without_following_end() {
    let fake = Fake::default();
    fake.0.cut_every.store(6, SeqCst);
    let samples = fake.client().samples(4, false);
    let seen: Vec<u64> = samples
        .map(|sample| sample.unwrap().time_us)
        .collect()
        .await;
    assert_eq!(seen, (5..=20).collect::<Vec<u64>>());
}

#[tokio::test]
async fn readings_that_are_followed_come_once_each_however_often_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(4, SeqCst);
    let samples = fake.client().samples(4, true).take(16);
    let seen: Vec<u64> = samples
        .map(|sample| sample.unwrap().time_us)
        .collect()
        .await;
    assert_eq!(seen, (5..=20).collect::<Vec<u64>>());
    // Over each cable come four readings at most, of which the first was known.
    let asked = fake.0.asked.lock().unwrap().clone();
    assert!(asked.len() >= 6, "the link never broke: {asked:?}");
    assert_eq!(asked[0], "samples 4");
    assert!(
        asked[1..].iter().all(|later| *later != "samples 4"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_restore_is_begun_again_when_the_link_breaks() {
    let fake = Fake::default();
    fake.0.cut_every.store(2, SeqCst);
    let mut seen = Vec::new();
    let report = fake
        .client()
        .restore(None, |done, all| seen.push((done, all)))
        .await
        .unwrap();
    assert_eq!(report.restored.unwrap().step, Some(5));
    assert_eq!(report.path.as_deref(), Some("/w/checkpoints/5.pt"));
    assert_eq!(
        seen,
        [(100, 300), (200, 300), (100, 300), (200, 300), (300, 300)]
    );
}

#[tokio::test(start_paused = true)]
async fn results_may_take_as_long_as_they_move_and_no_longer() {
    let paths = ["out".to_owned()];
    let limit = Duration::from_secs(120);
    let fake = Fake::default();
    // A byte each ten seconds.
    fake.0.of_bytes.store(100, SeqCst);
    let began = tokio::time::Instant::now();
    let collected = fake.client().collect_results(&paths, limit).await.unwrap();
    assert!(collected.manifest_key.is_some());
    assert!(began.elapsed() > limit * 5, "{:?}", began.elapsed());

    let fake = Fake::default();
    let began = tokio::time::Instant::now();
    let stuck = fake.client().collect_results(&paths, limit).await;
    assert!(
        matches!(stuck, Err(AgentError::Deadline { .. })),
        "{stuck:?}"
    );
    assert!(began.elapsed() >= limit && began.elapsed() < limit * 2);
}
