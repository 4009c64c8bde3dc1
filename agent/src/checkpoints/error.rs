//! Why a round did not do all its work, or a question found no answer.

use std::path::PathBuf;

use spotter_bucket::BucketError;

use super::{ANSWER_WITHIN, upload};

/// Why a round did not do all its work, or a question found no answer.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The checkpoint directory, or the backup's own, could not be read.
    #[error("{} could not be read", path.display())]
    Disk {
        /// Directory in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The checkpoint directory could not be looked at in time, so that nobody can say what is unsaved.
    #[error("what is unsaved in {} is not known: {problem}", path.display())]
    Unseen {
        /// Directory in question.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The bucket refused to say which checkpoints it has.
    #[error("the checkpoints in the bucket could not be listed")]
    List(#[source] BucketError),
    /// The bucket did not answer in time.
    #[error("the bucket gave no answer in {} s{}", ANSWER_WITHIN.as_secs(), if problem.is_empty() { String::new() } else { format!(": {problem}") })]
    NoAnswer {
        /// What it said instead, if anything.
        problem: String,
    },
    /// A checkpoint could not be uploaded now; it will be tried again.
    #[error("checkpoint {path} was not saved")]
    Upload {
        /// Its path in the checkpoint directory.
        path: String,
        /// Why.
        source: upload::UploadError,
    },
}
