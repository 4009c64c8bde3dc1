//! Short logs and what ended them.

mod ends;
mod harmless;

use super::*;
use crate::Reader;

fn check(log: &str, expected: Class) {
    let mut reader = Reader::default();
    reader.feed(log.as_bytes(), &mut |_| {});
    reader.end(&mut |_| {});
    let got = reader.diagnosis();
    assert_eq!(
        got.as_ref().map_or(Class::None, |found| found.class),
        expected,
        "{log}\n{got:?}"
    );
}

#[test]
fn exceptions_are_told_from_code_and_prose() {
    for (line, expected) in [
        ("ValueError: bad", Some("ValueError")),
        (
            "torch.OutOfMemoryError: CUDA out of memory",
            Some("torch.OutOfMemoryError"),
        ),
        ("[rank0]: RuntimeError: x", Some("RuntimeError")),
        ("AssertionError", Some("AssertionError")),
        ("KeyboardInterrupt", Some("KeyboardInterrupt")),
        ("    raise ValueError(\"x\")", None),
        ("    except KeyError:", None),
        ("class_error: 100.0", None),
        ("ERROR: it went wrong", None),
        ("mean Error: 0.5", None),
        ("Failures:", None),
    ] {
        let got = exception(line.as_bytes()).map(|name| line[name].to_owned());
        assert_eq!(got.as_deref(), expected, "{line}");
    }
}

/// A traceback that ends in `exception`.
fn traceback(exception: &str) -> String {
    format!(
        "Traceback (most recent call last):\n  File \"train.py\", line 10, in <module>\n    main()\n{exception}\n"
    )
}

/// A training of `steps` steps from `first`.
fn training(first: u64, steps: u64) -> String {
    (first..first + steps)
        .map(|step| format!("step {step}: loss 2.5, lr 0.001\n"))
        .collect()
}

#[test]
fn each_class_has_its_signs() {
    for (exception, expected) in [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. If reserved memory is large try setting it to avoid fragmentation",
            Class::CudaOom,
        ),
        ("RuntimeError: CUDA error: out of memory", Class::CudaOom),
        (
            "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.",
            Class::CudaOom,
        ),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.",
            Class::HostOom,
        ),
        (
            "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 12.0 GiB for an array",
            Class::HostOom,
        ),
        (
            "RuntimeError: DataLoader worker (pid 77) is killed by signal: Killed.",
            Class::HostOom,
        ),
        (
            "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1, unhandled system error",
            Class::Nccl,
        ),
        (
            "OSError: [Errno 28] No space left on device: '/workspace/out/step_100.pt'",
            Class::DiskFull,
        ),
        (
            "RuntimeError: [enforce fail at inline_container.cc:595] . unexpected pos 64 vs 0",
            Class::DiskFull,
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
            Class::DriverMismatch,
        ),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            Class::UnsupportedGpu,
        ),
        (
            "RuntimeError: FlashAttention only supports Ampere GPUs or newer.",
            Class::UnsupportedGpu,
        ),
        (
            "RuntimeError: DataLoader worker (pid 5) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory.",
            Class::DataloaderShm,
        ),
        (
            "RuntimeError: unable to write to file </torch_12_34_5>: No space left on device (28)",
            Class::DataloaderShm,
        ),
        (
            "RuntimeError: CUDA error: uncorrectable ECC error encountered",
            Class::Xid,
        ),
        (
            "RuntimeError: CUDA error: device-side assert triggered",
            Class::DeviceAssert,
        ),
        (
            "FloatingPointError: Loss became infinite or NaN at iteration=7!",
            Class::NanLoss,
        ),
        (
            "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded",
            Class::Network,
        ),
        (
            "OSError: We couldn't connect to 'https://example.org' to load the files",
            Class::Network,
        ),
        (
            "ModuleNotFoundError: No module named 'einops'",
            Class::MissingModule,
        ),
        (
            "ImportError: libcudnn.so.9: cannot open shared object file: No such file or directory",
            Class::MissingModule,
        ),
        (
            "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
            Class::CorruptCheckpoint,
        ),
        (
            "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
            Class::CorruptCheckpoint,
        ),
        ("EOFError: Ran out of input", Class::CorruptCheckpoint),
        (
            "torch.distributed.elastic.multiprocessing.api.SignalException: Process 9 got signal: 15",
            Class::Preempted,
        ),
        (
            "RuntimeError: No CUDA GPUs are available",
            Class::DriverMismatch,
        ),
        (
            "AssertionError: Torch not compiled with CUDA enabled",
            Class::DriverMismatch,
        ),
        (
            "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            Class::DriverMismatch,
        ),
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
            Class::DriverMismatch,
        ),
        (
            "RuntimeError: CUDA error: device kernel image is invalid",
            Class::UnsupportedGpu,
        ),
        (
            "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
            Class::Nccl,
        ),
        (
            "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
            Class::NanLoss,
        ),
        (
            "RuntimeError: unable to open shared memory object </torch_9_8_7> in read-write mode: Too many open files (24)",
            Class::TracebackOther,
        ),
        ("KeyError: 'input_ids'", Class::TracebackOther),
        ("AssertionError", Class::TracebackOther),
        (
            "torch.AcceleratorError: CUDA error: invalid device ordinal",
            Class::TracebackOther,
        ),
    ] {
        check(&traceback(exception), expected);
        check(
            &format!("{}{}", training(1, 5), traceback(exception)),
            expected,
        );
        check(&traceback(&format!("[rank3]: {exception}")), expected);
    }
}

#[test]
fn ends_without_a_traceback_are_known_too() {
    for (log, expected) in [
        (
            "run.sh: line 25: 12345 Killed                  python train.py\n",
            Class::HostOom,
        ),
        ("Killed\n", Class::HostOom),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0\n",
            Class::HostOom,
        ),
        (
            "[ 1234.5] Out of memory: Killed process 77 (python) total-vm:1kB\n",
            Class::HostOom,
        ),
        (
            "srun: error: node7: task 0: Out Of Memory\n",
            Class::HostOom,
        ),
        (
            "slurmstepd: error: *** JOB 77 ON node7 CANCELLED AT 2025-01-01T10:00:00 DUE TO TIME LIMIT ***\n",
            Class::Preempted,
        ),
        (
            "2025-01-01 10:00:00 INFO received SIGTERM, saving a checkpoint\n",
            Class::Preempted,
        ),
        (
            "run.sh: line 3: 99 Terminated              python train.py\n",
            Class::Preempted,
        ),
        (
            "[ 99.1] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n",
            Class::Xid,
        ),
        (
            "[rank1]:[E1 ProcessGroupNCCL.cpp:607] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)\n",
            Class::Nccl,
        ),
        (
            "../aten/src/ATen/native/cuda/Loss.cu:250: nll_loss: block: [0,0,0], thread: [5,0,0] Assertion `t >= 0 && t < n_classes` failed.\n",
            Class::DeviceAssert,
        ),
        ("Bus error (core dumped)\n", Class::DataloaderShm),
        ("Segmentation fault (core dumped)\n", Class::TracebackOther),
        (
            "bash: line 1: accelerate: command not found\n",
            Class::MissingModule,
        ),
        (
            "[CUDA ERROR] at file train_gpt2.cu:10: out of memory\n",
            Class::CudaOom,
        ),
        ("Loss is nan, stopping training\n", Class::NanLoss),
        (
            "F0201 10:00:00.000000  12 syncedmem.cpp:71] Check failed: error == cudaSuccess (2 vs. 0)  out of memory\n",
            Class::CudaOom,
        ),
        (
            "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1288490188 bytes.\n",
            Class::CudaOom,
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.\n",
            Class::CudaOom,
        ),
        (
            "docker: Error response from daemon: could not select device driver \"\" with capabilities: [[gpu]].\n",
            Class::DriverMismatch,
        ),
        (
            "docker: Error response from daemon: manifest for image:9 not found.\n",
            Class::TracebackOther,
        ),
        (
            "train.py: error: argument --port: invalid int value: ''\n",
            Class::TracebackOther,
        ),
    ] {
        check(log, expected);
        check(&format!("{}{log}", training(1, 5)), expected);
    }
}

#[test]
fn the_cause_counts_more_than_what_follows_from_it() {
    let cause = |log: String, expected| check(&log, expected);
    let oom = traceback(
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    );
    let watchdog = "[rank0]:[E1] Watchdog caught collective operation timeout: WorkNCCL\n";
    let nccl = traceback("[rank0]: torch.distributed.DistBackendError: NCCL error in: x.cpp:1");
    let elastic = "W0101 torch/distributed/elastic/api.py:858] Sending process 12 closing signal SIGTERM\n\
                   torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n  exitcode  : 1 (pid: 12)\n";
    cause(format!("{oom}{watchdog}{nccl}{elastic}"), Class::CudaOom);
    cause(format!("{watchdog}{oom}{elastic}"), Class::CudaOom);
    cause(
        format!(
            "{}{watchdog}{nccl}{elastic}",
            traceback("ValueError: bad shape")
        ),
        Class::TracebackOther,
    );
    cause(
        format!("{watchdog}{}{elastic}", traceback("RuntimeError: aborted")),
        Class::Nccl,
    );
    // The launcher ends the others; the first died by a signal.
    cause(
        "Signal 15 (SIGTERM) received by PID 13\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n  exitcode  : -9 (pid: 12)\n  traceback : Signal 9 (SIGKILL) received by PID 12\n".to_owned(),
        Class::HostOom,
    );
    // A warning explains the end that follows it, and nothing else.
    let warning = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old\n";
    cause(warning.to_owned(), Class::None);
    cause(
        format!(
            "{warning}{}",
            traceback("AssertionError: Torch not compiled")
        ),
        Class::DriverMismatch,
    );
    // Chained exceptions: what was tried first is not the cause.
    cause(
        format!(
            "{}\nDuring handling of the above exception, another exception occurred:\n\n{}",
            traceback("KeyError: 'cache'"),
            traceback("requests.exceptions.ConnectionError: no answer")
        ),
        Class::Network,
    );
    // Pipes of a data loader break when its parent dies.
    cause(
        format!(
            "{}Traceback (most recent call last):\n  File \"/usr/lib/python3.11/multiprocessing/connection.py\", line 1, in recv\nConnectionResetError: [Errno 104] Connection reset by peer\n",
            traceback("ValueError: bad")
        ),
        Class::TracebackOther,
    );
}

#[test]
fn a_loss_that_is_no_number_counts_when_it_stays_so() {
    let nan = |steps: std::ops::Range<u64>| -> String {
        steps
            .map(|step| format!("step {step}: loss nan, lr 0.001\n"))
            .collect()
    };
    check(&format!("{}{}", training(1, 5), nan(6..10)), Class::NanLoss);
    check(
        &format!("{}{}{}", training(1, 5), nan(6..7), training(7, 5)),
        Class::None,
    );
    check(&format!("{}{}", training(1, 5), nan(6..7)), Class::None);
    check(
        "{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 1e-05, 'epoch': 0.1}\n{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 2e-05, 'epoch': 0.2}\n{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 3e-05, 'epoch': 0.3}\n",
        Class::NanLoss,
    );
    // Stopped by hand, because of it.
    check(
        &format!("{}{}", nan(1..9), traceback("KeyboardInterrupt")),
        Class::NanLoss,
    );
}

#[test]
fn the_evidence_is_the_first_line_that_shows_it() {
    let log = format!(
        "{}{}",
        training(1, 2),
        traceback("\u{1b}[31mKeyError: 'x'\u{1b}[0m")
    );
    let mut reader = Reader::default();
    reader.feed(log.as_bytes(), &mut |_| {});
    let found = reader.diagnosis().unwrap();
    assert_eq!((found.evidence.as_str(), found.line), ("KeyError: 'x'", 6));
}
