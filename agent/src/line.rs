//! How fast a box sends to and receives from its bucket, which is where its checkpoints go: measured before anything is paid for twice.
//!
//! At most [`LIMIT`] and 16 MiB each way, in rounds that grow: a slow line is known after a few hundred kilobytes, and a connection that
//! has just begun is slower than it will be. Traffic is the user's money.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::future;
use rand::Rng;
use spotter_bucket::{Bucket, BucketError};
use tokio::time::{self, Instant};
use ulid::Ulid;

/// Longest measurement each way.
const LIMIT: Duration = Duration::from_secs(5);
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
    /// Fastest round to the server, bytes per second.
    pub up_bytes_per_s: f64,
    /// Fastest round from it, bytes per second; `None`: nothing had arrived there to be read back.
    pub down_bytes_per_s: Option<f64>,
}

/// What one way has shown.
struct Way {
    bytes_per_s: f64,
    /// Bytes of one request in the last round that came through; 0: none did.
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
    let up = rounds(LAST_BYTES, enough_bytes_per_s, |bytes| {
        let body = body.slice(..bytes);
        async move {
            let puts = keys.iter().map(|key| bucket.put(key, body.clone()));
            future::try_join_all(puts).await.map(drop)
        }
    })
    .await?;
    let down = match up.piece_bytes {
        0 => None,
        most => Some(
            rounds(most, enough_bytes_per_s, |bytes| async move {
                let range = 0..bytes as u64;
                let gets = keys.iter().map(|key| bucket.get(key, Some(range.clone())));
                future::try_join_all(gets).await.map(drop)
            })
            .await?,
        ),
    };
    Ok(Line {
        up_bytes_per_s: up.bytes_per_s,
        down_bytes_per_s: down.map(|down| down.bytes_per_s),
    })
}

/// Rounds of growing requests until the time is over, the largest has come through, or enough was shown.
async fn rounds<Round: Future<Output = Result<(), BucketError>>>(
    most_bytes: usize,
    enough_bytes_per_s: f64,
    mut round: impl FnMut(usize) -> Round,
) -> Result<Way, BucketError> {
    let began = Instant::now();
    let mut way = Way {
        bytes_per_s: 0.0,
        piece_bytes: 0,
    };
    let mut bytes = FIRST_BYTES.min(most_bytes);
    loop {
        let at = Instant::now();
        match time::timeout_at(began + LIMIT, round(bytes)).await {
            Ok(done) => done?,
            // Not even the first came through: it is slower than that, whatever it is.
            Err(_) if way.piece_bytes == 0 => {
                way.bytes_per_s = (LANES * bytes) as f64 / LIMIT.as_secs_f64();
                return Ok(way);
            }
            Err(_) => return Ok(way),
        }
        let seen = (LANES * bytes) as f64 / at.elapsed().as_secs_f64().max(1e-6);
        way.bytes_per_s = way.bytes_per_s.max(seen);
        way.piece_bytes = bytes;
        let is_enough = enough_bytes_per_s > 0.0 && way.bytes_per_s >= enough_bytes_per_s;
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

    /// Rounds over a line of so many bytes per second, and how long they took, seconds.
    async fn over(bytes_per_s: f64, enough: f64) -> (Way, f64) {
        let began = Instant::now();
        let way = rounds(LAST_BYTES, enough, |bytes| async move {
            let seconds = (LANES * bytes) as f64 / bytes_per_s;
            time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(())
        });
        let way = way.await.ok().unwrap();
        (way, began.elapsed().as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_known_within_five_seconds_however_slow_it_is() {
        for line in [170.0 * KB, 1_000.0 * KB, 20_000.0 * KB] {
            let (way, took) = over(line, 4e6).await;
            let off = (way.bytes_per_s - line).abs() / line;
            assert!(off < 0.02, "{line}: {}", way.bytes_per_s);
            assert!(took <= 5.0, "{line}: {took} s");
        }
        // Below what can be told it is at most this.
        let (way, took) = over(20.0 * KB, 4e6).await;
        assert!(way.bytes_per_s < 60.0 * KB, "{}", way.bytes_per_s);
        assert_eq!((way.piece_bytes, took.round()), (0, 5.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_line_is_not_kept_waiting() {
        let (way, took) = over(100e6, 4e6).await;
        assert_eq!(way.piece_bytes, LAST_BYTES);
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
        assert!(line.up_bytes_per_s > 0.0);
        assert!(line.down_bytes_per_s.is_some_and(|down| down > 0.0));
        assert_eq!(bucket.list("").await.unwrap(), []);
    }
}
