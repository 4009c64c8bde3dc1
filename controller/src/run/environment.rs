//! The environment of a job (pure): ours, the names that SkyPilot's and dstack's scripts know, and the user's on top.

use crate::spec::RunSpec;

/// Where a job stands, as its environment tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job<'a> {
    /// Attempt, from 1.
    pub attempt: u32,
    /// GPUs of the box.
    pub num_gpus: u32,
    /// Absolute path of the restored checkpoint; empty when there is none.
    pub checkpoint: &'a str,
    /// Absolute working directory.
    pub workdir: &'a str,
}

/// Variables of a session, later ones winning. `shell` answers for variables that the run file leaves to the caller's
/// shell; the names of those that it lacks are the error.
pub fn job_env(
    spec: &RunSpec,
    job: &Job<'_>,
    shell: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, Vec<String>> {
    let gpus = job.num_gpus.to_string();
    let dir = spec
        .checkpoints
        .as_ref()
        .map_or("", |checkpoints| checkpoints.dir.as_str());
    let checkpoint_dir = match dir {
        "" => String::new(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("{}/{relative}", job.workdir),
    };
    let mut env: Vec<(String, String)> = [
        ("SPOTTER_RUN", spec.name.as_str()),
        ("SPOTTER_ATTEMPT", &job.attempt.to_string()),
        ("SPOTTER_NUM_GPUS", &gpus),
        ("SPOTTER_CHECKPOINT", job.checkpoint),
        ("SPOTTER_CHECKPOINT_DIR", &checkpoint_dir),
        ("SPOTTER_WORKDIR", job.workdir),
        // What scripts written for SkyPilot read.
        ("SKYPILOT_NUM_GPUS_PER_NODE", &gpus),
        ("SKYPILOT_NUM_NODES", "1"),
        ("SKYPILOT_NODE_RANK", "0"),
        ("SKYPILOT_NODE_IPS", "127.0.0.1"),
        ("SKYPILOT_TASK_ID", spec.name.as_str()),
        // What scripts written for dstack read.
        ("DSTACK_RUN_NAME", spec.name.as_str()),
        ("DSTACK_GPUS_NUM", &gpus),
        ("DSTACK_GPUS_PER_NODE", &gpus),
        ("DSTACK_NODES_NUM", "1"),
        ("DSTACK_NODE_RANK", "0"),
        ("DSTACK_MASTER_NODE_IP", "127.0.0.1"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    if job.num_gpus > 1 {
        // NVLink SHARP hangs in containers without fabric manager access; a user who wants it says so.
        env.push(("NCCL_NVLS_ENABLE".to_owned(), "0".to_owned()));
    }
    let mut missing = Vec::new();
    for (key, value) in &spec.envs {
        match value.clone().or_else(|| shell(key)) {
            Some(value) => {
                env.retain(|(name, _)| name != key);
                env.push((key.clone(), value));
            }
            None => missing.push(key.clone()),
        }
    }
    if missing.is_empty() {
        Ok(env)
    } else {
        Err(missing)
    }
}
