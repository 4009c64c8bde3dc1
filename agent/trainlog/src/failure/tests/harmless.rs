//! What looks like a failure and ended nothing.

use super::*;

#[test]
fn a_harmless_line_before_an_exception_is_not_its_cause() {
    for line in [
        "flash_attn is not there: No module named 'flash_attn'. Using the slow path.",
        "prepare.sh: line 3: nvcc: command not found",
        "W dso_loader.cc:64] Could not load dynamic library 'libcudart.so.9'; dlerror: libcudart.so.9: cannot open shared object file",
        "Could not load bitsandbytes native library: libcusparse.so.9: cannot open shared object file",
        "E cuda_driver.cc:266] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
        "W gemm_fusion_autotuner.cc:9] RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes., falling back to the default",
        "W bfc_allocator.cc:219] Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.29GiB. The caller indicates that this is not a failure, but more memory could be quicker",
        "batch 64: CUDA out of memory. Tried to allocate 2.00 GiB. Retrying with batch 32",
        "Tip: set PYTORCH_CUDA_ALLOC_CONF to avoid CUDA out of memory",
        "Tip: CUDA out of memory errors can be fixed with smaller batches",
        "# usage: lower the batch size on CUDA out of memory",
        "HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded; using cached files",
        "GeForce RTX 9 with CUDA capability sm_200 is not compatible with the current PyTorch installation.",
        "WARNING: /dev/shm is small, loaders may run out of shared memory",
        "Warning: nan loss detected, skipping batch",
        "no checkpoint found or checkpoint corrupt, starting from scratch",
        "cache: [Errno 28] No space left on device, continuing without it",
        "caught SIGTERM will checkpoint: handlers are installed",
        "kernel: NVRM: Xid (PCI:0000:3b:00): 63, pid=7, Row Remapper: new row",
    ] {
        let line = format!("{line}\n");
        // With nothing after it, a missing command is what ended the script.
        if !line.contains("command not found") {
            check(&line, Class::None);
        }
        check(&format!("{line}{}", training(1, 1)), Class::None);
        for exception in ["KeyError: 'a'", "[rank2]: TypeError: 'x' has no len()"] {
            check(
                &format!("{line}{}", traceback(exception)),
                Class::TracebackOther,
            );
        }
        // An exception that says less, long after it.
        check(
            &format!(
                "{line}{}{}",
                training(1, 2),
                traceback("RuntimeError: bad shape")
            ),
            Class::TracebackOther,
        );
    }
    // What a program says and ends by, though it ends by another mistake.
    for (line, expected) in [
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB.",
            Class::CudaOom,
        ),
        ("[rank0] loss is nan", Class::NanLoss),
    ] {
        check(
            &format!(
                "{}{line}\n{}",
                training(1, 5),
                traceback("UnboundLocalError: out")
            ),
            expected,
        );
    }
    // A tool that was missing is why its extension was not built.
    check(
        &format!(
            "sh: line 1: nvcc: command not found\n{}",
            traceback("RuntimeError: the extension was not built")
        ),
        Class::MissingModule,
    );
    // It counts only while nothing was trained after it.
    check(
        &format!(
            "start.sh: line 9: wandb: command not found\n{}",
            training(1, 1)
        ),
        Class::None,
    );
}

#[test]
fn exceptions_that_nobody_raised_are_no_failure() {
    for log in [
        format!(
            "Exception ignored in: <function Pool.__del__ at 0x7f>\n{}",
            traceback("AttributeError: 'NoneType' object has no attribute 'dumps'")
        ),
        "Exception ignored in: <_io.TextIOWrapper name='<stdout>'>\nBrokenPipeError: [Errno 32] Broken pipe\n".to_owned(),
        format!(
            "2025-01-01 10:00:00 WARNING data: skipping a bad sample\n{}",
            traceback("ValueError: truncated row")
        ),
        "connections.py:8: RuntimeWarning: Failed to read commit hash:\nNo module named 'vllm._version'\n".to_owned(),
        "[  3.1] pcieport 0000:00:03.0: PCIe Bus Error: severity=Corrected, type=Data Link Layer\n".to_owned(),
        "bus error@trans, scale, orient | AP@0.5, 1.0\n0.51, 0.42\n".to_owned(),
        traceback("SystemExit: 0"),
        traceback("SystemExit"),
    ] {
        check(&log, Class::None);
        check(&format!("{}{log}", training(1, 5)), Class::None);
        // Nor do they hide the one that was.
        check(
            &format!("{log}{}", traceback("KeyError: 'a'")),
            Class::TracebackOther,
        );
    }
    check(&traceback("SystemExit: 3"), Class::TracebackOther);
    check(
        &format!(
            "2025-01-01 10:00:00 WARNING data: 3 workers\n{}",
            traceback("ValueError: bad")
        ),
        Class::TracebackOther,
    );
}

#[test]
fn what_the_training_survived_is_no_failure() {
    for log in [
        "",
        "UserWarning: the checkpoint format may be corrupt in the future\n",
        "WARNING: CUDA out of memory, skipping batch\n",
        "Retrying (Retry(total=4)) after connection broken by 'ConnectTimeoutError': /api\n",
        "WARNING urllib3: Connection reset by peer, will retry\n",
        "number of nan iterations:   0 | number of skipped iterations:   0\n",
        "| step | loss | nan_count |\n| 5 | 2.0 | 0 |\n",
        "Sending process 77 closing signal SIGTERM\n",
        "NCCL WARN Call to ibv_create_qp failed\n",
        "class_error: 100.00  loss: 2.0 (2.1)  lr: 0.1\n",
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n",
        "NCCL_TIMEOUT=1800 NCCL timeout: 1800000 ms\n",
        "ImportError is raised when a module is missing\n",
        "If you see CUDA out of memory, lower the batch size\n",
        "oom_kill 0\n",
        "[sigkill_handler] Killing subprocess 12\n",
        "INFO: ModuleNotFoundError: No module named 'triton', some optimizations are off\n",
    ] {
        check(log, Class::None);
        check(
            &format!("{}{log}{}", training(1, 5), training(6, 5)),
            Class::None,
        );
    }
    for exception in [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "requests.exceptions.ReadTimeout: HTTPSConnectionPool: Read timed out.",
        "KeyError: 'x'",
    ] {
        // The training goes on after it, or starts again and goes on.
        check(
            &format!(
                "{}{}{}",
                training(1, 5),
                traceback(exception),
                training(4, 9)
            ),
            Class::None,
        );
    }
    check(
        &format!(
            "{}{{'train_runtime': 12.0, 'train_loss': 2.0}}\n",
            traceback("KeyError: 'x'")
        ),
        Class::None,
    );
}
