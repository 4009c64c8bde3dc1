//! The checkpoints of one run in its bucket, as seen from the laptop: whether a box lives makes no difference here.
//!
//! [`choose`] and [`diff`] decide (pure); [`pull`] (also of [`results`]), [`push`], [`verify`] and [`prune`] move and judge bytes; [`steady`] is the patience with
//! a server that is busy for a moment. Listing, pinning and deleting are the agent's own: [`spotter_bucket::vault`].

pub mod choose;
pub mod diff;
pub mod prune;
pub mod pull;
pub mod push;
pub mod results;
pub mod steady;
pub mod verify;

use std::sync::Arc;

use spotter_bucket::{Bucket, BucketError, Layout, Target, Vault, layout::NameError};

use crate::clock::Clock;
use steady::Steady;

/// The bucket of a run.
pub struct Shelf {
    /// What answers.
    pub bucket: Steady,
    /// Where that is.
    pub target: Target,
    /// Keys of the run.
    pub layout: Layout,
    /// The run.
    pub run: String,
    /// `s3://bucket/prefix/run`, for people.
    pub url: String,
    /// Where the keys came from that it is asked with, for people; `None`: nobody said.
    pub keys_from: Option<String>,
}

impl Shelf {
    /// The run of that name below a target.
    pub fn new(bucket: Arc<dyn Bucket>, target: &Target, run: &str) -> Result<Self, NameError> {
        Ok(Self {
            bucket: Steady::new(bucket),
            target: target.clone(),
            layout: Layout::new(&target.prefix, run)?,
            run: run.to_owned(),
            url: format!("{}/{run}", target.url()),
            keys_from: None,
        })
    }

    /// Lists, reads, pins and deletes.
    pub fn vault(&self) -> Vault<'_> {
        Vault {
            bucket: &self.bucket,
            layout: &self.layout,
            run: &self.run,
        }
    }

    /// Puts commits where they belong that a box without keys left where it could. Returns how many.
    pub async fn adopt(&self, clock: &Clock) -> Result<usize, BucketError> {
        let server_s = (self.server_us(clock) / 1_000_000) as i64;
        let adopted = self.vault().adopt(server_s).await?;
        for passed_over in &adopted.passed_over {
            tracing::warn!(
                passed_over,
                "a checkpoint that waits in the bucket was not put in place"
            );
        }
        Ok(adopted.new)
    }

    /// Microseconds since the epoch by the server's clock, as far as it has answered yet.
    pub fn server_us(&self, clock: &Clock) -> u64 {
        let offset_us = (self.bucket.clock_offset_s() * 1e6) as i64;
        u64::try_from(clock.now_us().saturating_add(offset_us)).unwrap_or(0)
    }
}
