//! How long the provider takes for things.

use serde::{Deserialize, Serialize};

use crate::market::Millis;

/// How long the provider takes for things, before anything real happens.
#[derive(Debug, Clone, Copy)]
pub struct Delays {
    /// From the order to `created`.
    pub created_ms: Millis,
    /// From `created` to `loading`.
    pub loading_ms: Millis,
    /// The image pull: from `loading` to the start of the container.
    pub pull_ms: Millis,
    /// From a granted start to the start of the container, image at hand.
    pub restart_ms: Millis,
    /// From a container's end until the API says so (10 to 30 s were measured, of which its stop takes a part).
    pub exited_ms: Millis,
    /// From GPUs being free again to a waiting contract taking them (40 to 60 s were measured).
    pub resume_ms: Millis,
    /// From a lost host to `unknown`.
    pub unknown_ms: Millis,
    /// From `unknown` to `offline`.
    pub offline_ms: Millis,
    /// From the end of a contract to the deletion of its instance (about 48 h, as documented).
    pub deletion_ms: Millis,
}

impl Delays {
    /// The provider's usual pace, divided by `time_scale`.
    pub fn scaled(time_scale: f64) -> Self {
        let scale = |seconds: f64| (seconds * 1000.0 / time_scale).round() as Millis;
        Self {
            created_ms: scale(2.0),
            loading_ms: scale(3.0),
            pull_ms: scale(25.0),
            restart_ms: scale(8.0),
            exited_ms: scale(10.0),
            resume_ms: scale(45.0),
            unknown_ms: scale(20.0),
            offline_ms: scale(40.0),
            deletion_ms: scale(172_800.0),
        }
    }
}

/// How long image pulls take; a fault switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loading {
    /// As [`Delays`] say.
    #[default]
    Normal,
    /// This many seconds, not scaled.
    Seconds(f64),
    /// Never done.
    Forever,
}
