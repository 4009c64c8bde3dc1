//! What a box that is gone left in its bucket: the end of a log, how its training ended, and what happened on it. All of it is
//! bounded, and what cannot be read says nothing.

use serde::Deserialize;
use serde_json::Value;
use spotter_bucket::{Bucket, BucketError, Ending, ending::MAX_ENDING_BYTES};

use super::Machines;
use crate::{
    agent_client::{AgentEvent, LogPiece, LogPosition, SampleInfo, left_samples},
    error::chain,
    run::site::{LeftLog, SiteError},
    spec::RunSpec,
};

/// More than an agent leaves of a log when its box is taken back: anything larger is not from one.
const LEFT_LOG_BYTES: u64 = 64 << 20;
/// Likewise of its events.
const LEFT_EVENTS_BYTES: u64 = 4 << 20;
/// Likewise of what it measured.
const LEFT_SAMPLES_BYTES: u64 = 16 << 20;

/// One event as a box leaves it.
#[derive(Deserialize)]
struct LeftEvent {
    v: u32,
    seq: u64,
    time_us: u64,
    kind: String,
    run: String,
    attempt: u32,
    detail: Value,
}

fn failed(err: BucketError) -> SiteError {
    SiteError::Unreachable(chain(&err))
}

impl Machines {
    pub(super) async fn read_left_log(
        &self,
        spec: &RunSpec,
        attempt: u32,
        session: &str,
    ) -> Result<LeftLog, SiteError> {
        let Some((bucket, layout)) = self.bucket_of(spec).await? else {
            return Ok(LeftLog::default());
        };
        let mut left = LeftLog::default();
        for object in bucket
            .list(&layout.logs_prefix(attempt))
            .await
            .map_err(failed)?
        {
            let Some((of, generation, offset)) = layout.log_of_key(attempt, &object.key) else {
                continue;
            };
            if of != session {
                continue;
            }
            if object.size_bytes > LEFT_LOG_BYTES {
                let text = format!("{} of {} bytes", object.key, object.size_bytes);
                left.too_large.push(text);
                continue;
            }
            let data = bucket
                .get(&object.key, None)
                .await
                .map_err(failed)?
                .to_vec();
            let position = LogPosition { generation, offset };
            left.pieces.push(LogPiece {
                position,
                data,
                gap_bytes: 0,
                end: false,
            });
        }
        left.pieces.sort_by_key(|piece| piece.position);
        Ok(left)
    }

    pub(super) async fn read_left_ending(
        &self,
        spec: &RunSpec,
        attempt: u32,
    ) -> Result<Option<Ending>, SiteError> {
        let Some((bucket, layout)) = self.bucket_of(spec).await? else {
            return Ok(None);
        };
        let key = layout.ending_key(attempt);
        match bucket.head(&key).await.map_err(failed)? {
            Some(found) if found.size_bytes <= MAX_ENDING_BYTES => {}
            _ => return Ok(None),
        }
        let bytes = bucket.get(&key, None).await.map_err(failed)?;
        // Whatever cannot be read says nothing, and the run is carried on.
        Ok(Ending::parse(&bytes)
            .inspect_err(|err| tracing::warn!(key, err = %chain(err), "passed over"))
            .ok())
    }

    pub(super) async fn read_left_events(
        &self,
        spec: &RunSpec,
        attempt: u32,
    ) -> Result<Vec<AgentEvent>, SiteError> {
        let Some((bucket, layout)) = self.bucket_of(spec).await? else {
            return Ok(Vec::new());
        };
        let key = layout.events_key(attempt);
        match bucket.head(&key).await.map_err(failed)? {
            Some(found) if found.size_bytes <= LEFT_EVENTS_BYTES => {}
            _ => return Ok(Vec::new()),
        }
        let bytes = bucket.get(&key, None).await.map_err(failed)?;
        Ok(events(&bytes, attempt))
    }
}

impl Machines {
    pub(super) async fn read_left_samples(
        &self,
        spec: &RunSpec,
        attempt: u32,
    ) -> Result<Vec<SampleInfo>, SiteError> {
        let Some((bucket, layout)) = self.bucket_of(spec).await? else {
            return Ok(Vec::new());
        };
        let key = layout.samples_key(attempt);
        match bucket.head(&key).await.map_err(failed)? {
            Some(found) if found.size_bytes <= LEFT_SAMPLES_BYTES => {}
            _ => return Ok(Vec::new()),
        }
        let bytes = bucket.get(&key, None).await.map_err(failed)?;
        Ok(left_samples(&bytes))
    }
}

/// The events of an attempt among some lines, in order (pure); lines that are none are passed over.
fn events(lines: &[u8], attempt: u32) -> Vec<AgentEvent> {
    let mut events: Vec<AgentEvent> = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<LeftEvent>(line).ok())
        .filter(|event| event.v == 1 && event.attempt == attempt && event.detail.is_object())
        .map(|event| AgentEvent {
            seq: event.seq,
            time_us: event.time_us,
            kind: event.kind,
            run: event.run,
            attempt: event.attempt,
            detail: event.detail,
        })
        .collect();
    events.sort_by_key(|event| event.seq);
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_line_by_line_and_what_is_none_is_passed_over() {
        let line = |v: u32, seq: u64, attempt: u32| {
            format!(
                r#"{{"v":{v},"seq":{seq},"time_us":7,"kind":"self_stop","run":"r","attempt":{attempt},"detail":{{"reason":"x"}}}}"#
            )
        };
        let text = [
            line(1, 9, 2),
            line(1, 8, 2),
            "{broken".to_owned(),
            line(2, 10, 2),
            line(1, 11, 3),
            line(1, 12, 2).replace(r#"{"reason":"x"}"#, "7"),
            String::new(),
        ]
        .join("\n");
        let found = events(text.as_bytes(), 2);
        let seqs: Vec<u64> = found.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, [8, 9]);
        assert_eq!(found[0].kind, "self_stop");
        assert_eq!(found[0].detail["reason"], "x");
    }
}
