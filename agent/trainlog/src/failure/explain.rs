//! What a failure means and what to do, in the run's own numbers where they are known (pure).

use serde::Serialize;

use super::{Class, Diagnosis, refused_path};

/// Less than this is no room for a checkpoint, GiB.
const ROOM_GIB: f64 = 1.0;

/// Numbers of the run that make advice concrete. Absent: not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Highest use of a GPU's memory, GiB.
    pub gpu_peak_gib: Option<f64>,
    /// Memory of one GPU, GiB.
    pub gpu_total_gib: Option<f64>,
    /// Samples that one GPU takes at once.
    pub micro_batch: Option<u64>,
    /// Highest use of the container's memory, GiB.
    pub host_peak_gib: Option<f64>,
    /// Memory limit of the container, GiB.
    pub host_limit_gib: Option<f64>,
    /// Where the disk is mounted that took no more.
    pub disk: Option<String>,
    /// Free space on it, or where the training writes, GiB.
    pub disk_free_gib: Option<f64>,
    /// Size of `/dev/shm`, GiB.
    pub shm_gib: Option<f64>,
    /// Name of the GPU.
    pub gpu: Option<String>,
    /// Version of the driver.
    pub driver: Option<String>,
    /// Last step that was seen.
    pub last_step: Option<u64>,
}

/// A failure for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What happened.
    pub meaning: String,
    /// What to do next.
    pub advice: String,
}

/// Explains a failure.
pub fn explain(found: &Diagnosis, facts: &Facts) -> Explanation {
    let (meaning, advice) = match found.class {
        Class::None => ("nothing ended the training".to_owned(), String::new()),
        Class::CudaOom => cuda_oom(&found.evidence, facts),
        Class::HostOom => host_oom(&found.evidence, facts),
        Class::Nccl => (
            format!(
                "the GPUs could not talk to each other: one of them stopped, or the link between them failed{}",
                waited(&found.evidence)
            ),
            "look for the first rank that failed; if none did, set NCCL_NVLS_ENABLE=0, and NCCL_DEBUG=INFO to see more"
                .to_owned(),
        ),
        Class::DiskFull => {
            // A file that is too large for what is free is gone again before anybody measures.
            let free = known(facts.disk_free_gib, |free| match free < ROOM_GIB {
                true => format!(" ({free:.1} GiB were free)"),
                false => format!(" ({free:.1} GiB are free by now)"),
            });
            let disk = facts.disk.as_deref();
            let disk = disk.map_or_else(|| "to write to".to_owned(), |disk| format!("on {disk}"));
            let file = refused_path(&found.evidence);
            let file = file.map_or_else(String::new, |file| format!(", for {file}"));
            (
                format!("there was no space left {disk}{free}{file}"),
                "rent more disk, keep fewer checkpoints on the box, or move caches off it".to_owned(),
            )
        }
        Class::DriverMismatch => {
            let driver = facts
                .driver
                .as_ref()
                .map_or_else(String::new, |driver| format!(" {driver}"));
            let knows = after(&found.evidence, "found version ").and_then(cuda_version);
            let knows = knows.map_or_else(String::new, |version| {
                format!(" (it knows CUDA up to {version})")
            });
            // The NVIDIA container runtime names the version that the image asks for.
            let wanted = after(&found.evidence, "condition: cuda>=").and_then(decimal);
            let wanted = wanted.unwrap_or("12.4");
            (
                format!("the machine's driver{driver} is missing or too old for the CUDA version of the program{knows}"),
                format!("ask for a newer driver in `offers` (`cuda_vers>={wanted}`), or use an image with an older CUDA version"),
            )
        }
        Class::UnsupportedGpu => {
            let gpu = facts.gpu.as_deref().unwrap_or("this GPU");
            let built = after(&found.evidence, "CUDA capability sm_").and_then(decimal);
            let built = built.map_or_else(String::new, |sm| format!(" (sm_{sm})"));
            let wanted = after(&found.evidence, "compute capability of at least ")
                .or_else(|| after(&found.evidence, "compute capability "))
                .and_then(decimal);
            let wanted = wanted.map_or_else(
                || "the compute capability that it asks for".to_owned(),
                |least| format!("compute capability {least} or more (`compute_cap>={}`)", compute_cap(least)),
            );
            (
                format!("the program was not built for {gpu}{built}, or needs a newer one"),
                format!("rent a GPU with {wanted}, or install a build that supports this one"),
            )
        }
        Class::DataloaderShm => {
            let size = known(facts.shm_gib, |size| format!(" ({size:.1} GiB)"));
            (
                format!("shared memory{size} was too small for the workers of the data loader"),
                "set num_workers lower, or start the container with a larger /dev/shm (`--shm-size=16g`)".to_owned(),
            )
        }
        Class::Xid => (
            format!(
                "the driver reported {} of a GPU: the hardware or its link is at fault, not the program",
                xid(&found.evidence)
            ),
            "go on from the last checkpoint on another machine, and report this one to the provider".to_owned(),
        ),
        Class::DeviceAssert => (
            "a check inside a GPU kernel failed, most often an index out of range: a label, or a token beyond the vocabulary"
                .to_owned(),
            "run one batch with CUDA_LAUNCH_BLOCKING=1, or on the CPU, to see the line".to_owned(),
        ),
        Class::NanLoss => {
            let seen = facts
                .last_step
                .map_or_else(String::new, |step| format!(" (seen up to step {step})"));
            let before = facts
                .last_step
                .map_or_else(String::new, |step| format!(", well before step {step}"));
            (
                format!("the loss is not a number any more: the model is broken from there on{seen}"),
                format!(
                    "go back to a checkpoint from before that{before}, with a lower learning rate, clipped gradients, or bf16 for fp16"
                ),
            )
        }
        Class::Network => (
            "a download or an upload got no answer".to_owned(),
            "try again; fetch models and data in `setup`, and set HF_HUB_OFFLINE=1 or WANDB_MODE=offline for the training"
                .to_owned(),
        ),
        Class::MissingModule => missing(&found.evidence),
        Class::CorruptCheckpoint => (
            "a checkpoint or weights file is damaged or half written".to_owned(),
            "go on from the one before it, and delete the damaged file".to_owned(),
        ),
        Class::Preempted => {
            let step = facts
                .last_step
                .map_or_else(String::new, |step| format!(", at step {step}"));
            (
                format!("the machine was taken away, or its time was up{step}"),
                "go on from the last checkpoint".to_owned(),
            )
        }
        Class::Killed => (
            "somebody or something on the box killed it (SIGKILL): not spotter, and nothing shows that memory ran out"
                .to_owned(),
            "start it again; if it is killed again, look for who does it, or take another machine".to_owned(),
        ),
        Class::ExitCode => (
            "the program ended itself as failed, and its log names no error".to_owned(),
            "read the last lines of its log, and look where the program ends with this code".to_owned(),
        ),
        Class::TracebackOther => (
            "the program ended by an error of its own".to_owned(),
            "read the lines before its end; it will fail again until that is mended".to_owned(),
        ),
    };
    Explanation { meaning, advice }
}

fn known(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(String::new, show)
}

fn cuda_oom(evidence: &str, facts: &Facts) -> (String, String) {
    let total = facts.gpu_total_gib.or_else(|| {
        // Two wordings of PyTorch, one of them misspelt for a year: `total capacity of 23.99 GiB`, `23.99 GiB total capacity`.
        let after = after(evidence, "total capacity of ")
            .or_else(|| after(evidence, "total capacty of "))
            .map(first_word);
        let before = || {
            evidence
                .split_once(" GiB total capacity")
                .and_then(|(before, _)| before.split(' ').next_back())
        };
        after.or_else(before)?.trim_start_matches('(').parse().ok()
    });
    let tried = after(evidence, "ried to allocate ").and_then(|rest| {
        first_word(rest).parse::<f64>().ok()?;
        let end = rest.find("iB")? + 2;
        (end < 16).then(|| &rest[..end])
    });
    let mut details = Vec::new();
    match (facts.gpu_peak_gib, total) {
        (Some(peak), Some(total)) => details.push(format!("peak {peak:.1} of {total:.1} GiB")),
        (None, Some(total)) => details.push(format!("{total:.1} GiB in all")),
        _ => {}
    }
    if let Some(tried) = tried {
        details.push(format!("{tried} more were wanted"));
    }
    let details = if details.is_empty() {
        String::new()
    } else {
        format!(": {}", details.join(", "))
    };
    let batch = match facts.micro_batch {
        Some(batch) if batch > 1 => format!("lower micro_batch from {batch} to {}", batch / 2),
        Some(_) => "shorten seq_len".to_owned(),
        None => "halve micro_batch".to_owned(),
    };
    (
        format!("the GPU's memory was full{details}"),
        format!("{batch}, turn on gradient checkpointing, or rent a GPU with more memory"),
    )
}

fn host_oom(evidence: &str, facts: &Facts) -> (String, String) {
    let wanted = after(evidence, "nable to allocate ").map(|rest| {
        let end = rest.match_indices(' ').nth(1).map(|(at, _)| at);
        format!(": {} more were wanted", &rest[..end.unwrap_or(rest.len())])
    });
    let details = match (facts.host_peak_gib, facts.host_limit_gib) {
        (Some(peak), Some(limit)) => format!(": peak {peak:.1} of {limit:.1} GiB"),
        (None, Some(limit)) => format!(": the limit is {limit:.1} GiB"),
        _ => wanted.unwrap_or_default(),
    };
    (
        format!(
            "the machine's memory (not the GPU's) was full, and the kernel ended a process{details}"
        ),
        "use fewer data loader workers, load data in parts, or rent a machine with more memory"
            .to_owned(),
    )
}

/// How long a rank waited, as NCCL's watchdog tells it.
fn waited(evidence: &str) -> String {
    let waited_ms = after(evidence, "ran for ")
        .and_then(decimal)
        .and_then(|waited| waited.parse::<u64>().ok());
    let rank = after(evidence, "[Rank ").and_then(decimal);
    match (rank, waited_ms) {
        (Some(rank), Some(waited_ms)) => {
            format!(" (rank {rank} waited for {} s)", waited_ms / 1000)
        }
        _ => String::new(),
    }
}

/// An Xid in words. Source: NVIDIA, XID Errors.
fn xid(evidence: &str) -> String {
    let code = after(evidence, "Xid ").and_then(|rest| match rest.strip_prefix('(') {
        Some(place) => decimal(after(place, "): ")?),
        None => decimal(rest),
    });
    let Some(code) = code else {
        return "an error".to_owned();
    };
    let words = match code {
        "48" | "94" | "95" => ", an error in the memory",
        "74" => ", an error of NVLink",
        "79" => ", the loss",
        "119" | "120" => ", a stuck system processor",
        _ => ", an error",
    };
    format!("Xid {code}{words}")
}

/// `11040` is CUDA 11.4.
fn cuda_version(text: &str) -> Option<String> {
    let version: u32 = decimal(text)?.parse().ok()?;
    (version >= 1000).then(|| format!("{}.{}", version / 1000, version % 1000 / 10))
}

/// Compute capability as the market's field holds it: `8.6` is 860.
fn compute_cap(text: &str) -> u64 {
    text.parse::<f64>()
        .map_or(0, |capability| (capability * 100.0).round() as u64)
}

/// The number that a text starts with.
fn decimal(text: &str) -> Option<&str> {
    let end = text
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(text.len());
    Some(text[..end].trim_end_matches('.')).filter(|number| !number.is_empty())
}

/// A library, a name or a command that is missing.
fn missing_part(evidence: &str) -> Option<(String, String)> {
    let last_word = |text: &str| {
        let word = text.rsplit([' ', ':']).find(|word| !word.is_empty())?;
        Some(word.to_owned())
    };
    if let Some((before, _)) = evidence.split_once(": cannot open shared object file") {
        let library = last_word(before)?;
        return Some((
            format!("the library `{library}` is not there"),
            format!(
                "choose an image that has `{library}`, or install the version that the program was built for"
            ),
        ));
    }
    if let Some(rest) = after(evidence, "cannot import name '") {
        let (name, rest) = rest.split_once('\'')?;
        let module = after(rest, "from '")?.split_once('\'')?.0;
        return Some((
            format!(
                "`{module}` has no `{name}`: the program was written for another version of it"
            ),
            format!("pin `{module}` in `setup` to the version that the program asks for"),
        ));
    }
    let (before, _) = evidence
        .split_once(": command not found")
        .or_else(|| evidence.split_once(": not found"))?;
    let command = last_word(before)?;
    Some((
        format!("the command `{command}` is not installed"),
        format!("install `{command}` in `setup`, or choose an image with it"),
    ))
}

fn missing(evidence: &str) -> (String, String) {
    if let Some(part) = missing_part(evidence) {
        return part;
    }
    let module = after(evidence, "No module named ").map(|rest| {
        let rest = rest.trim_start_matches('\'');
        let end = rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    match module.filter(|module| !module.is_empty()) {
        Some(module) => (
            format!("the Python module `{module}` is not installed where the training runs"),
            format!("install it in `setup` (`pip install` the package that has `{module}`), or choose an image with it"),
        ),
        None => (
            "a module, library or command that the training needs is missing, or built for another version".to_owned(),
            "install it in `setup`, in the version that fits the image's PyTorch and CUDA".to_owned(),
        ),
    }
}

fn after<'a>(text: &'a str, sign: &str) -> Option<&'a str> {
    text.split_once(sign).map(|(_, rest)| rest)
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
