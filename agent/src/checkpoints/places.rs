//! Where the objects of one run lie: the bucket's layout, asked by the names that manifests and journals use.

use spotter_bucket::layout::{self, CommitId, Layout, NameError};
use spotter_bucket::{Bucket, Vault};
use ulid::Ulid;

/// Keys of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    layout: Layout,
    /// Name of the run.
    pub run: String,
}

impl Places {
    /// Keys of `run` below `prefix`.
    pub fn new(prefix: &str, run: &str) -> Result<Places, NameError> {
        Ok(Places {
            layout: Layout::new(prefix, run)?,
            run: run.to_owned(),
        })
    }

    /// What lists, pins and deletes the run's checkpoints.
    pub fn vault<'a>(&'a self, bucket: &'a dyn Bucket) -> Vault<'a> {
        Vault {
            bucket,
            layout: &self.layout,
            run: &self.run,
        }
    }

    /// Name of a commit that was written at a time, unique by the rest of the ULID.
    pub fn new_id(step: Option<u64>, written_ms: u64) -> String {
        let ulid = Ulid::from_parts(written_ms, Ulid::generate().random());
        CommitId {
            step: step.unwrap_or(0).min(layout::MAX_STEP),
            ulid,
        }
        .to_string()
    }

    /// What all keys of the run begin with.
    pub fn run_prefix(&self) -> String {
        let data = self.layout.data_prefix();
        data.strip_suffix("data/").unwrap_or(&data).to_owned()
    }

    /// What all data keys begin with.
    pub fn data_prefix(&self) -> String {
        self.layout.data_prefix()
    }

    /// What the data keys of one attempt begin with.
    pub fn data_prefix_of(&self, id: &str) -> String {
        format!("{}{id}/", self.layout.data_prefix())
    }

    /// Where a file goes; names that no key can hold are refused.
    pub fn data_key(&self, id: &str, relative: &str) -> Result<String, NameError> {
        self.layout.data_key(&id.parse()?, relative)
    }

    /// What all commits begin with.
    pub fn commits_prefix(&self) -> String {
        self.layout.commits_prefix()
    }

    /// Where a commit goes.
    pub fn commit_key(&self, id: &str) -> String {
        format!("{}{id}.json", self.layout.commits_prefix())
    }

    /// Where a result goes; names that no key can hold are refused.
    pub fn results_key(&self, relative: &str) -> Result<String, NameError> {
        self.layout.results_key(relative)
    }

    /// What the keys of all results begin with.
    pub fn results_prefix(&self) -> String {
        self.layout.results_prefix()
    }

    /// What the keys of one collection of results begin with.
    pub fn results_prefix_of(&self, id: &str) -> String {
        format!("{}{id}/", self.layout.results_prefix())
    }

    /// Where the manifest of one collection of results goes.
    pub fn results_manifest_key(&self, id: &str) -> String {
        format!("{}{id}.json", self.layout.results_prefix())
    }
}
