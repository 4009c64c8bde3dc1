//! What each class is explained by, with the numbers of the run.

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
        "there was no space left on /mnt/checkpoints (0.0 GiB were free)"
    );
    assert_eq!(
        told(None),
        "there was no space left to write to (0.0 GiB were free)"
    );
    let room = Facts {
        disk_free_gib: Some(18.84),
        ..Facts::default()
    };
    assert_eq!(
        explain(&found(Class::DiskFull, ""), &room).meaning,
        "there was no space left to write to (18.8 GiB are free by now)"
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
fn what_the_evidence_tells_is_told_on() {
    let facts = Facts {
        last_step: Some(4111),
        ..Facts::default()
    };
    for (class, evidence, expected) in [
        (
            Class::CudaOom,
            "CUDA out of memory. GPU 0 has a total capacty of 23.65 GiB",
            "23.6 GiB in all",
        ),
        (
            Class::HostOom,
            "MemoryError: Unable to allocate 31.1 GiB for an array",
            "31.1 GiB more were wanted",
        ),
        (
            Class::Nccl,
            "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL() ran for 600011 milliseconds",
            "rank 3 waited for 600 s",
        ),
        (
            Class::DiskFull,
            "OSError: [Errno 28] No space left on device: '/w/out/a.pt'",
            ", for /w/out/a.pt",
        ),
        (
            Class::DriverMismatch,
            "driver on your system is too old (found version 11040)",
            "CUDA up to 11.4",
        ),
        (
            Class::DriverMismatch,
            "unsatisfied condition: cuda>=12.6, please update",
            "`cuda_vers>=12.6`",
        ),
        (
            Class::UnsupportedGpu,
            "GPUs with compute capability of at least 8.0. Your Tesla T4",
            "`compute_cap>=800`",
        ),
        (
            Class::Xid,
            "NVRM: Xid (PCI:0000:41:00): 79, pid=1",
            "Xid 79, the loss of a GPU",
        ),
        (
            Class::Xid,
            "the driver reported Xid 74",
            "Xid 74, an error of NVLink of",
        ),
        (Class::NanLoss, "", "well before step 4111"),
        (Class::Preempted, "", "at step 4111"),
        (
            Class::MissingModule,
            "ImportError: libcupti.so.11.7: cannot open shared object file: No such file",
            "the library `libcupti.so.11.7`",
        ),
        (
            Class::MissingModule,
            "ImportError: cannot import name 'AdamW' from 'transformers' (x.py)",
            "pin `transformers`",
        ),
        (
            Class::MissingModule,
            "bash: line 1: accelerate: command not found",
            "install `accelerate`",
        ),
    ] {
        let got = explain(&found(class, evidence), &facts);
        let text = format!("{}; {}", got.meaning, got.advice);
        assert!(text.contains(expected), "{evidence}: {text}");
    }
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
        Class::Killed,
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
