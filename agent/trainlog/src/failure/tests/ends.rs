//! More ends, and what only sounds like one.

use super::{check, traceback, training};
use crate::failure::Class;

#[test]
fn exceptions_of_many_libraries_are_known() {
    for (exception, expected) in [
        (
            "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.11G of 15.48G hbm. Exceeded hbm capacity by 4.63G.",
            Class::CudaOom,
        ),
        (
            "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Error loading program: Attempting to reserve 5.11G at the bottom of memory. That was not possible. There are 4.20G free.",
            Class::CudaOom,
        ),
        (
            "tensorflow.python.framework.errors_impl.ResourceExhaustedError: {{function_node __wrapped__AddV2_device_/job:localhost/replica:0/task:0/device:GPU:0}} failed to allocate memory [Op:AddV2]",
            Class::CudaOom,
        ),
        (
            "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,589,934,592 bytes (allocated so far: 12,884,901,888 bytes).",
            Class::CudaOom,
        ),
        (
            "RuntimeError: MPS backend out of memory (MPS allocated: 17.11 GB, other allocations: 411.11 MB, max allowed: 18.13 GB). Tried to allocate 256.00 MB on private pool.",
            Class::CudaOom,
        ),
        (
            "RuntimeError: CUDA driver error: out of memory",
            Class::CudaOom,
        ),
        (
            "torch.multiprocessing.spawn.ProcessExitedException: process 0 terminated with signal SIGKILL",
            Class::HostOom,
        ),
        (
            "RuntimeError: Rank 0 successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 1. Please check rank 1 logs for faulty rank.",
            Class::Nccl,
        ),
        (
            "RuntimeError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but store->get('0') got error: Socket Timeout",
            Class::Nccl,
        ),
        (
            "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while trying to connect to (10.0.0.1, 29500).",
            Class::Nccl,
        ),
        (
            "RuntimeError: Timed out initializing process group in store based barrier on rank: 1, for key: store_based_barrier_key:1 (world_size=4, worker_count=3, timeout=0:30:00)",
            Class::Nccl,
        ),
        (
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
            Class::TracebackOther,
        ),
        (
            "ValueError: The loss returned in `training_step` is nan.",
            Class::NanLoss,
        ),
        (
            "RuntimeError: Unexpected result nan (message='found NaN in local forward loss calculation')",
            Class::NanLoss,
        ),
        (
            "AssertionError: Rank 3: found NaN in local forward loss calculation. Device: 3, node: gpu1",
            Class::NanLoss,
        ),
        (
            "sqlite3.OperationalError: database or disk is full",
            Class::DiskFull,
        ),
        (
            "RuntimeError: CUDA driver initialization failed, you might not have a CUDA gpu.",
            Class::DriverMismatch,
        ),
        (
            "RuntimeError: cutlassF: no kernel found to launch!",
            Class::UnsupportedGpu,
        ),
        (
            "RuntimeError: CUDA error: invalid device function",
            Class::UnsupportedGpu,
        ),
        (
            "AssertionError: Device compute capability 8.9 or higher required for FP8 execution.",
            Class::UnsupportedGpu,
        ),
        (
            "tensorflow.python.framework.errors_impl.DataLossError: Unable to open table file ./ckpt-12: DATA_LOSS: not an sstable (bad magic number)",
            Class::CorruptCheckpoint,
        ),
        (
            "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: https://example.org/api/models/x",
            Class::Network,
        ),
        (
            "ImportError: cannot import name 'AdamW' from 'transformers' (/usr/lib/python3/dist-packages/transformers/__init__.py)",
            Class::MissingModule,
        ),
    ] {
        check(&traceback(exception), expected);
        check(
            &format!("{}{}", training(1, 5), traceback(exception)),
            expected,
        );
    }
}

#[test]
fn what_shells_and_schedulers_report_is_known() {
    for (log, expected) in [
        (
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8192.00 MiB on device 0: cudaMalloc failed: out of memory\n",
            Class::CudaOom,
        ),
        (
            "[1]+  Killed                  python train.py\n",
            Class::HostOom,
        ),
        ("zsh: killed     python train.py\n", Class::HostOom),
        ("make: *** [Makefile:3: train] Killed\n", Class::HostOom),
        ("Command terminated by signal 9\n", Class::HostOom),
        (
            "State:          Terminated\n  Reason:       OOMKilled\n  Exit Code:    137\n",
            Class::HostOom,
        ),
        (
            "Unable to determine the device handle for GPU0000:41:00.0: Unknown Error\n",
            Class::Xid,
        ),
        (
            "Batch 411: Invalid loss, terminating training\n",
            Class::NanLoss,
        ),
        ("/bin/sh: 1: torchrun: not found\n", Class::MissingModule),
        (
            "python: can't open file '/app/trian.py': [Errno 2] No such file or directory\n",
            Class::TracebackOther,
        ),
        (
            "usage: train.py [-h] [--lr LR]\ntrain.py: error: unrecognized arguments: --learning-rate\n",
            Class::TracebackOther,
        ),
        (
            "[W socket.cpp:401] [c10d] The server socket has failed to bind to 0.0.0.0:29511 (errno: 98 - Address already in use).\n[E socket.cpp:435] [c10d] The server socket has failed to listen on any local network address.\n",
            Class::TracebackOther,
        ),
        (
            "(TaskRunner pid=71) ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n",
            Class::TracebackOther,
        ),
        (
            "Key 'batchsize' is not in struct\n    full_key: batchsize\n\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n",
            Class::TracebackOther,
        ),
        (
            "docker: Error response from daemon: failed to create task: nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.6, please update your driver to a newer version\n",
            Class::DriverMismatch,
        ),
        (
            "Traceback (most recent call last):\nValueError: bad batch\nsrun: error: gpu1: task 3: Exited with exit code 1\nslurmstepd: error: *** STEP 81211.0 ON gpu1 CANCELLED AT 2026-01-02T10:00:00 DUE TO TASK FAILURE ***\n",
            Class::TracebackOther,
        ),
        (
            "srun: error: gpu1: task 3: Exited with exit code 1\nsrun: Terminating StepId=81211.0\nslurmstepd: error: *** STEP 81211.0 ON gpu1 CANCELLED AT 2026-01-02T10:00:00 DUE TO TASK FAILURE ***\n",
            Class::TracebackOther,
        ),
        (
            "Traceback (most recent call last):\nhuggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-ab)\nCannot access gated repo for url https://example.org/x. Access to model x is restricted.\n",
            Class::TracebackOther,
        ),
    ] {
        check(log, expected);
        check(&format!("{}{log}", training(1, 5)), expected);
    }
}

#[test]
fn launchers_tell_how_their_children_ended() {
    for (log, expected) in [
        ("trainer-1 exited with code 137\n", Class::HostOom),
        ("trainer-1 exited with code 1\n", Class::TracebackOther),
        ("trainer-1 exited with code 0\n", Class::None),
        ("make: *** [Makefile:12: train] Error 137\n", Class::HostOom),
        (
            "api.py:869] failed (exitcode: -7) local_rank: 0 (pid: 813) of binary: /usr/bin/python\n",
            Class::DataloaderShm,
        ),
        (
            "subprocess.CalledProcessError: Command '['python', 'train.py']' died with <Signals.SIGBUS: 7>.\n",
            Class::DataloaderShm,
        ),
        (
            "Traceback (most recent call last):\nray.exceptions.RayTaskError(OutOfMemoryError): ray::Trainer.fit()\n  torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
            Class::CudaOom,
        ),
        (
            "ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: -9) local_rank: 0 (pid: 17) of binary: /usr/bin/python\n\
             Traceback (most recent call last):\n  File \"api.py\", line 246, in launch_agent\n    raise ChildFailedError(\n\
             torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n=====\nmain.py FAILED\n-----\nFailures:\n  <NO_OTHER_FAILURES>\n\
             Root Cause (first observed failure):\n  exitcode  : -9 (pid: 17)\n  traceback : Signal 9 (SIGKILL) received by PID 17\n",
            Class::HostOom,
        ),
        (
            "F tensorflow/stream_executor/lib/statusor.cc:34] Attempting to fetch value instead of handling error Internal: failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered\n",
            Class::Xid,
        ),
    ] {
        check(log, expected);
        check(&format!("{}{log}", training(1, 5)), expected);
    }
}

#[test]
fn a_time_so_far_beside_a_loss_is_no_end() {
    let record =
        "{'loss': '2.5', 'learning_rate': '0.0002', 'epoch': '0.1', 'train_runtime': '110.7'}\n";
    let crash = traceback("KeyError: 'labels'");
    check(&format!("{crash}{record}"), Class::TracebackOther);
    check(
        &format!("{crash}{{'train_runtime': 113.1, 'train_loss': 2.4, 'epoch': 0.2}}\n"),
        Class::None,
    );
}

#[test]
fn noise_of_healthy_trainings_is_no_failure() {
    for line in [
        "'(ReadTimeoutError(\"HTTPSConnectionPool(host='example.org', port=443): Read timed out. (read timeout=10)\"), '(Request ID: ab)')' thrown while requesting HEAD https://example.org/x\nRetrying in 1s [Retry 1/5].",
        "E0000 00:00:17.1 812 cuda_dnn.cc:8310] Unable to register cuDNN factory: Attempting to register factory for plugin cuDNN when one has already been registered",
        "[W socket.cpp:601] [c10d] The client socket has failed to connect to [::ffff:10.0.0.1]:29500 (errno: 110 - Connection timed out).",
        "Corrupt JPEG data: 2 extraneous bytes before marker 0xd9",
        "Gradient overflow.  Skipping step, loss scaler 0 reducing loss scale to 32768.0",
        "[rank0]:[W102 10:00:00 ProcessGroupNCCL.cpp:1250] Warning: WARNING: process group has NOT been destroyed before we destruct ProcessGroupNCCL. On normal program exit, the application should call destroy_process_group",
        "Detected kernel version 4.18.0, which is below the recommended minimum of 5.5.0; this can cause the process to hang. It is recommended to upgrade the kernel to the minimum version or higher.",
        "NCCL INFO comm 0x7f rank 0 nranks 8 cudaDev 0 busId 41000 - Init COMPLETE",
        "wandb: WARNING A graphql request initiated by the public wandb API timed out (timeout=19 sec). Create a new API with an integer timeout larger than 19",
        "UserWarning: Detected call of `lr_scheduler.step()` before `optimizer.step()`. Failure to do this will result in PyTorch skipping the first value",
        "huggingface/tokenizers: The current process just got forked, after parallelism has already been used. Disabling parallelism to avoid deadlocks...",
        "[2026-01-02 10:00:00,000] [INFO] [loss_scaler.py:181:update_scale] [deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 65536, reducing to 32768",
        "2026-01-02 10:00:00 INFO evicting cache: 12 entries killed, 0 errors",
        "nan_count: 0, inf_count: 0, error_rate: 0.01",
        "Registered signal handlers for SIGTERM and SIGUSR1",
        "torch.cuda.OutOfMemoryError was caught in the batch size finder, trying batch size 8",
        "columns: ['loss', 'nan_mask', 'error', 'exit_code']",
        "The following values were not passed to `accelerate launch` and had defaults used instead: `--num_machines` was set to a value of `1`",
        "wandb: Network error (ReadTimeout), entering retry loop.",
        "Error in sys.excepthook was not raised",
        "skipping corrupt checkpoint ./ckpt-3.pt, loading ./ckpt-2.pt",
        "RuntimeWarning: invalid value encountered in scalar divide",
        "MESA-LOADER: failed to open swrast: /usr/lib/dri/swrast_dri.so: cannot open shared object file: No such file or directory",
        "(env) me@box:~$ -bash: nvidia-smii: command not found",
        "[812.1] NVRM: Xid (PCI:0000:41:00): 31, pid=812, name=python, MMU Fault",
    ] {
        check(&format!("{line}\n"), Class::None);
        check(&format!("{}{line}\n", training(1, 5)), Class::None);
    }
}
