//! States of a run and which may follow which (pure). [`lifecycle`] carries a run along them, [`recovery`] decides what
//! follows an interruption.

use serde::{Deserialize, Serialize};

/// Where an attempt stands. Recorded before and after each step, so that any later command picks it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Written down; nothing was asked of the provider.
    Planned,
    /// The intent to rent, with its label, is stored; a request may be on its way.
    Renting,
    /// Rented; the provider prepares it.
    Loading,
    /// Reachable by ssh; the agent is put on it and the box is checked.
    Preparing,
    /// Code is copied, setup runs, a checkpoint is restored.
    Syncing,
    /// The training session runs.
    Running,
    /// The session ended well; last checkpoints and results are brought to safety.
    Finishing,
    /// Results are verified; the box may go.
    Collected,
    /// The provider confirmed that the instance does not exist. An end.
    Gone,
    /// The market took the box back. Its disk may still cost storage until it is destroyed.
    Interrupted,
    /// The session or a step failed; the box is kept, stopped or gone by policy.
    Failed,
    /// Ended on request; the box is kept, stopped or gone by policy.
    Stopped,
    /// Provider and heartbeat agree that the box is no more.
    Lost,
}
