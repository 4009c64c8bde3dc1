//! How fast a box sends to and receives from its bucket, which is where its checkpoints go: measured before anything is paid for twice.
//!
//! At most [`LIMIT`] and 16 MiB each way, in rounds that grow: a slow line is known after a few hundred kilobytes, and a connection that
//! has just begun is slower than it will be. Traffic is the user's money. A first round that is not through in half that time tells of a
//! server that keeps silent as well as of a line: once more then, with little; what is not seen to move has no rate.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::future;
use rand::Rng;
use spotter_bucket::{Bucket, BucketError};
use tokio::time::{self, Instant};
use ulid::Ulid;

/// Longest measurement each way, from the try on that brings something through.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest first round of a first try: what was kept waiting longer is tried once more.
const FIRST_LIMIT: Duration = Duration::from_millis(2500);
/// A line that has shown enough by then is not measured on.
const SOON: Duration = Duration::from_secs(1);
/// Requests at once, as checkpoints go: a single connection over a long way is slower than the line.
const LANES: usize = 4;
/// Bytes of one request in the first round; doubled with each.
const FIRST_BYTES: usize = 64 << 10;
/// Bytes of one request in the last round: 15.75 MiB have gone by then.
const LAST_BYTES: usize = 2 << 20;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Fastest round to the server, bytes per second; `None`: none came through in time.
    pub up_bytes_per_s: Option<f64>,
    /// Fastest round from it, bytes per second; `None`: none came through in time, or too little had arrived there to be read back.
    pub down_bytes_per_s: Option<f64>,
}

/// What one way has shown.
#[derive(Debug, Clone, Copy)]
struct Way {
    bytes_per_s: f64,
    /// Requests at once, and bytes of each, in the last round that came through.
    lanes: usize,
    piece_bytes: usize,
}

/// Measures the line to a bucket, below `prefix`, and leaves nothing there. `enough_bytes_per_s`: a line that carries this is not
/// measured longer than a second each way.
///
/// # Errors
/// The bucket's: an answer that is an error says nothing about a line.
pub async fn measure(
    bucket: &dyn Bucket,
    prefix: &str,
    enough_bytes_per_s: f64,
) -> Result<Line, BucketError> {
    let name = Ulid::generate();
    let keys: Vec<String> = (0..LANES)
        .map(|lane| format!("{prefix}.spotter-line-{name}-{lane}"))
        .collect();
    let measured = both_ways(bucket, &keys, enough_bytes_per_s).await;
    let deleted = future::join_all(keys.iter().map(|key| bucket.delete(key))).await;
    let measured = measured?;
    deleted.into_iter().collect::<Result<(), _>>()?;
    Ok(measured)
}

async fn both_ways(
    bucket: &dyn Bucket,
    keys: &[String],
    enough_bytes_per_s: f64,
) -> Result<Line, BucketError> {
    // What cannot be compressed on the way.
    let mut body = vec![0; LAST_BYTES];
    rand::rng().fill_bytes(&mut body);
    let body = Bytes::from(body);
    let up = rounds(LAST_BYTES, enough_bytes_per_s, |lanes, bytes| {
        let body = body.slice(..bytes);
        async move {
            let puts = keys[..lanes]
                .iter()
                .map(|key| bucket.put(key, body.clone()));
            future::try_join_all(puts).await.map(drop)
        }
    })
    .await?;
    let down = match up.filter(|up| up.lanes == LANES) {
        None => None,
        Some(up) => {
            rounds(
                up.piece_bytes,
                enough_bytes_per_s,
                |lanes, bytes| async move {
                    let range = 0..bytes as u64;
                    let gets = keys[..lanes]
                        .iter()
                        .map(|key| bucket.get(key, Some(range.clone())));
                    future::try_join_all(gets).await.map(drop)
                },
            )
            .await?
        }
    };
    Ok(Line {
        up_bytes_per_s: up.map(|up| up.bytes_per_s),
        down_bytes_per_s: down.map(|down| down.bytes_per_s),
    })
}

/// Rounds of growing requests (so many at once, each of so many bytes) until the time is over, the largest has come through, or enough was
/// shown; `None`: what is slow here is not known to be the line.
async fn rounds<Round: Future<Output = Result<(), BucketError>>>(
    most_bytes: usize,
    enough_bytes_per_s: f64,
    mut round: impl FnMut(usize, usize) -> Round,
) -> Result<Option<Way>, BucketError> {
    let mut began = Instant::now();
    let mut way: Option<Way> = None;
    let mut again = false;
    let mut bytes = FIRST_BYTES.min(most_bytes);
    loop {
        let (lanes, limit) = match (way, again) {
            (None, false) => (LANES, FIRST_LIMIT),
            (None, true) => (1, LIMIT),
            (Some(_), _) => (LANES, LIMIT),
        };
        let at = Instant::now();
        match time::timeout_at(began + limit, round(lanes, bytes)).await {
            Ok(done) => done?,
            Err(_) if way.is_none() && !again => {
                (again, began) = (true, Instant::now());
                continue;
            }
            // A single request tells of the way there and back. It was the line only where so slow a one needs longer for this round.
            Err(_) => {
                let took = at.elapsed().as_secs_f64();
                let is_line = |way: &Way| (lanes * bytes) as f64 / way.bytes_per_s >= took;
                return Ok(way.filter(|way| way.lanes == LANES || is_line(way)));
            }
        }
        let seen = (lanes * bytes) as f64 / at.elapsed().as_secs_f64().max(1e-6);
        // What one showed alone is slower than the line: it counts no more once all have come through.
        let before = way.filter(|way| way.lanes == LANES);
        let fastest = before.map_or(seen, |before| before.bytes_per_s.max(seen));
        way = Some(Way {
            bytes_per_s: fastest,
            lanes,
            piece_bytes: bytes,
        });
        if lanes < LANES {
            continue;
        }
        let is_enough = enough_bytes_per_s > 0.0 && fastest >= enough_bytes_per_s;
        if bytes >= most_bytes || (is_enough && began.elapsed() >= SOON) {
            return Ok(way);
        }
        bytes = (bytes * 2).min(most_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KB: f64 = 1e3;

    /// Rounds over a line of so many bytes per second, whose server says nothing in these spans (seconds since the beginning), and how long
    /// they took, seconds. What is asked in such a span is never answered.
    async fn over_stalls(
        bytes_per_s: f64,
        enough: f64,
        stalls: &'static [(f64, f64)],
    ) -> (Option<Way>, f64) {
        let began = Instant::now();
        let way = rounds(LAST_BYTES, enough, |lanes, bytes| async move {
            let asked = began.elapsed().as_secs_f64();
            if { stalls.iter() }.any(|(from, to)| (*from..*to).contains(&asked)) {
                future::pending::<()>().await;
            }
            let seconds = (lanes * bytes) as f64 / bytes_per_s;
            time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(())
        });
        let way = way.await.ok().unwrap();
        (way, began.elapsed().as_secs_f64())
    }

    async fn over(bytes_per_s: f64, enough: f64) -> (Option<Way>, f64) {
        over_stalls(bytes_per_s, enough, &[]).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_known_within_seconds_however_slow_it_is() {
        for line in [170.0 * KB, 1_000.0 * KB, 20_000.0 * KB] {
            let (way, took) = over(line, 4e6).await;
            let way = way.unwrap();
            let off = (way.bytes_per_s - line).abs() / line;
            assert!(off < 0.02, "{line}: {way:?}");
            assert!(took <= 5.0, "{line}: {took} s");
        }
        // One for which half of them are too short is tried once more.
        let (way, took) = over(20.0 * KB, 4e6).await;
        let way = way.unwrap();
        assert!((way.bytes_per_s - 20.0 * KB).abs() < KB, "{way:?}");
        assert!(way.lanes == 1 && (7.4..7.6).contains(&took), "{took} s");
        // Below that nothing is told.
        let (way, took) = over(10.0 * KB, 4e6).await;
        assert!(way.is_none(), "{way:?}");
        assert!((7.4..7.6).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_keeps_silent_at_first_is_no_slow_line() {
        let (way, took) = over_stalls(20_000.0 * KB, 4e6, &[(0.0, 2.4)]).await;
        let way = way.unwrap();
        assert!((way.bytes_per_s / KB - 20_000.0).abs() < 400.0, "{way:?}");
        assert!(took < 4.0, "{took} s");
        let (way, took) = over_stalls(20_000.0 * KB, 4e6, &[(0.0, 60.0)]).await;
        assert!(way.is_none(), "{way:?}");
        assert!((7.4..7.6).contains(&took), "{took} s");
        // Nor is one that falls silent again, after a single answer.
        let (way, _) = over_stalls(200.0 * KB, 4e6, &[(0.0, 2.4), (2.6, 60.0)]).await;
        assert!(way.is_none(), "{way:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_line_is_not_kept_waiting() {
        let (way, took) = over(100e6, 4e6).await;
        assert_eq!(way.unwrap().piece_bytes, LAST_BYTES);
        assert!(took < 0.2, "{took} s");
        let (_, took) = over(5e6, 4e6).await;
        assert!((1.0..2.0).contains(&took), "{took} s");
        // One that has not shown enough is looked at on.
        let (_, took) = over(3.5e6, 4e6).await;
        assert!((2.0..=5.0).contains(&took), "{took} s");
    }

    #[tokio::test]
    async fn nothing_is_left_in_the_bucket() {
        let bucket = spotter_bucket::memory::MemoryBucket::new();
        let line = measure(&bucket, "runs/a/data/", 4e6).await.unwrap();
        assert!(line.up_bytes_per_s.is_some_and(|up| up > 0.0));
        assert!(line.down_bytes_per_s.is_some_and(|down| down > 0.0));
        assert_eq!(bucket.list("").await.unwrap(), []);
    }
}
