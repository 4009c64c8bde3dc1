//! What a failure means and what to do, in the run's own numbers where they are known (pure).

use serde::Serialize;

use super::{Class, Diagnosis};

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
        Class::HostOom => host_oom(facts),
        Class::Nccl => (
            "the GPUs could not talk to each other: one of them stopped, or the link between them failed".to_owned(),
            "look for the first rank that failed; if none did, set NCCL_NVLS_ENABLE=0, and NCCL_DEBUG=INFO to see more"
                .to_owned(),
        ),
        Class::DiskFull => {
            let free = known(facts.disk_free_gib, |free| format!(" ({free:.1} GiB are free)"));
            let disk = facts.disk.as_deref();
            let disk = disk.map_or_else(|| "to write to".to_owned(), |disk| format!("on {disk}"));
            (
                format!("there was no space left {disk}{free}"),
                "rent more disk, keep fewer checkpoints on the box, or move caches off it".to_owned(),
            )
        }
        Class::DriverMismatch => {
            let driver = facts
                .driver
                .as_ref()
                .map_or_else(String::new, |driver| format!(" {driver}"));
            (
                format!("the machine's driver{driver} is missing or too old for the CUDA version of the program"),
                "ask for a newer driver in `offers` (`cuda_vers>=12.4`), or use an image with an older CUDA version"
                    .to_owned(),
            )
        }
        Class::UnsupportedGpu => {
            let gpu = facts.gpu.as_deref().unwrap_or("this GPU");
            (
                format!("the program was not built for {gpu}, or needs a newer one"),
                "rent a GPU with the compute capability that it asks for, or install a build that supports this one"
                    .to_owned(),
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
            "the driver reported an error of a GPU: the hardware or its link is at fault, not the program".to_owned(),
            "go on from the last checkpoint on another machine, and report this one to the provider".to_owned(),
        ),
        Class::DeviceAssert => (
            "a check inside a GPU kernel failed, most often an index out of range: a label, or a token beyond the vocabulary"
                .to_owned(),
            "run one batch with CUDA_LAUNCH_BLOCKING=1, or on the CPU, to see the line".to_owned(),
        ),
        Class::NanLoss => {
            let step = facts
                .last_step
                .map_or_else(String::new, |step| format!(" (seen up to step {step})"));
            (
                format!("the loss is not a number any more: the model is broken from there on{step}"),
                "go back to a checkpoint from before, with a lower learning rate, clipped gradients, or bf16 for fp16"
                    .to_owned(),
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
        Class::Preempted => (
            "the machine was taken away, or its time was up".to_owned(),
            "go on from the last checkpoint".to_owned(),
        ),
        Class::TracebackOther if found.evidence.contains("SIGKILL") => (
            "somebody or something killed it, and the container's memory was not the reason".to_owned(),
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
        // Two wordings of PyTorch: `total capacity of 23.99 GiB`, `23.99 GiB total capacity`.
        let after = after(evidence, "total capacity of ").map(first_word);
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

fn host_oom(facts: &Facts) -> (String, String) {
    let details = match (facts.host_peak_gib, facts.host_limit_gib) {
        (Some(peak), Some(limit)) => format!(": peak {peak:.1} of {limit:.1} GiB"),
        (None, Some(limit)) => format!(": the limit is {limit:.1} GiB"),
        _ => String::new(),
    };
    (
        format!(
            "the machine's memory (not the GPU's) was full, and the kernel ended a process{details}"
        ),
        "use fewer data loader workers, load data in parts, or rent a machine with more memory"
            .to_owned(),
    )
}

fn missing(evidence: &str) -> (String, String) {
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
mod tests {
    use super::*;

    fn found(class: Class, evidence: &str) -> Diagnosis {
        Diagnosis {
            class,
            evidence: evidence.to_owned(),
            line: 1,
        }
    }

    #[test]
    fn memory_of_the_gpu_is_explained_with_the_runs_numbers() {
        let evidence = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.99 GiB";
        let facts = Facts {
            gpu_peak_gib: Some(23.6),
            micro_batch: Some(8),
            ..Facts::default()
        };
        let got = explain(&found(Class::CudaOom, evidence), &facts);
        assert_eq!(
            got.meaning,
            "the GPU's memory was full: peak 23.6 of 24.0 GiB, 2.50 GiB more were wanted"
        );
        assert_eq!(
            got.advice,
            "lower micro_batch from 8 to 4, turn on gradient checkpointing, or rent a GPU with more memory"
        );
    }

    #[test]
    fn a_full_disk_is_named_by_its_mount() {
        let facts = |disk: Option<&str>| Facts {
            disk: disk.map(str::to_owned),
            disk_free_gib: Some(0.04),
            ..Facts::default()
        };
        let told = |disk| explain(&found(Class::DiskFull, ""), &facts(disk)).meaning;
        assert_eq!(
            told(Some("/mnt/checkpoints")),
            "there was no space left on /mnt/checkpoints (0.0 GiB are free)"
        );
        assert_eq!(
            told(None),
            "there was no space left to write to (0.0 GiB are free)"
        );
    }

    #[test]
    fn a_missing_module_is_named() {
        let evidence = "ModuleNotFoundError: No module named 'flash_attn.ops'";
        let got = explain(&found(Class::MissingModule, evidence), &Facts::default());
        assert_eq!(
            got.meaning,
            "the Python module `flash_attn` is not installed where the training runs"
        );
    }

    #[test]
    fn every_class_says_what_it_means_and_what_to_do() {
        for class in [
            Class::CudaOom,
            Class::HostOom,
            Class::Nccl,
            Class::DiskFull,
            Class::DriverMismatch,
            Class::UnsupportedGpu,
            Class::DataloaderShm,
            Class::Xid,
            Class::DeviceAssert,
            Class::NanLoss,
            Class::Network,
            Class::MissingModule,
            Class::CorruptCheckpoint,
            Class::Preempted,
            Class::TracebackOther,
            Class::ExitCode,
        ] {
            let got = explain(&found(class, ""), &Facts::default());
            assert!(!got.meaning.is_empty() && !got.advice.is_empty(), "{class}");
            assert!(
                !got.meaning.ends_with('.') && !got.advice.ends_with('.'),
                "{class}"
            );
        }
    }
}
