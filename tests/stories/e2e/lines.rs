//! The line of a box to a real server, which is throttled: as fast as it is, known in seconds, and nothing is left in the bucket.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use spotter_agent::line::{self, Line};
use spotter_bucket::{Bucket, Credentials, S3Bucket, S3Options, Target};

use crate::world::{Tier, World, on};

/// Requests at once of a measurement: the simulator throttles each.
const LANES: f64 = 4.0;

#[test]
fn a_throttled_line_is_told_by_its_rate_and_a_free_one_in_a_second() {
    on(Tier::One, |world| {
        let (free, took) = measured(world, None);
        for seen in [free.up_bytes_per_s, free.down_bytes_per_s] {
            assert!(seen.is_some_and(|seen| seen > 4e6), "{free:?}");
        }
        assert!(took < Duration::from_secs(5), "{took:?}");

        let (slow, took) = measured(world, Some(170e3));
        for seen in [slow.up_bytes_per_s, slow.down_bytes_per_s] {
            assert!(
                seen.is_some_and(|seen| (100e3..220e3).contains(&seen)),
                "{slow:?}"
            );
        }
        assert!(took < Duration::from_secs(12), "{took:?}");
    });
}

fn measured(world: &World, bytes_per_s: Option<f64>) -> (Line, Duration) {
    if let Some(rate) = bytes_per_s {
        let fault = json!({"bytes_per_s": (rate / LANES) as u64});
        let order = json!({"inject": {"operation": "*", "path": "spotter-line", "fault": fault}});
        world.ctl(&["s3", &order.to_string()]);
    }
    let bucket = bucket(world);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let began = Instant::now();
    let line = runtime.block_on(line::measure(&bucket, "runs/a/data/", 4e6));
    let took = began.elapsed();
    world.ctl(&["s3", r#"{"heal": true}"#]);
    assert_eq!(runtime.block_on(bucket.list("runs/")).unwrap(), []);
    (line.unwrap(), took)
}

fn bucket(world: &World) -> S3Bucket {
    let (id, secret) = world.bucket_keys();
    let keys = Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: secret.to_owned(),
        session_token: None,
        expires_us: None,
    };
    let to = format!("s3://{}/runs", world.bucket_name());
    let target = Target::parse(&to, Some(world.s3_url()), None).unwrap();
    S3Bucket::new(
        target,
        Arc::new(move || Some(keys.clone())),
        S3Options::default(),
    )
    .unwrap()
}
