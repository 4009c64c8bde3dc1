//! The table of signs, each a text that programs print when they fail. A new sign is one line; the first that fits a line
//! counts.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use memchr::memmem;

use super::{Class, Proof};
use Class::{
    CorruptCheckpoint, CudaOom, DataloaderShm, DeviceAssert, DiskFull, DriverMismatch, HostOom,
    MissingModule, NanLoss, Nccl, Network, Preempted, TracebackOther, UnsupportedGpu, Xid,
};
use Proof::{Fatal, Hint, Launcher, Said};

/// A text, in lower case, what it means, what must stand in the line as well, and what must not.
type Rule = (
    &'static str,
    Class,
    Proof,
    &'static [&'static str],
    &'static [&'static str],
);

const NO: &[&str] = &[];
/// Memory of the GPU, not of the host.
const GPU: &[&str] = &["cuda", "gpu", "device:", "hbm"];

const RULES: &[Rule] = &[
    // Shared memory, before the disk: its messages speak of space too.
    (
        "out of shared memory",
        DataloaderShm,
        Said,
        NO,
        &["triton", "hardware limit"],
    ),
    ("insufficient shared memory", DataloaderShm, Said, NO, NO),
    ("bus error", DataloaderShm, Said, NO, NO),
    ("shared memory object </torch", DataloaderShm, Said, NO, NO),
    ("file </torch_", DataloaderShm, Said, NO, NO),
    (
        "/dev/shm/nccl-",
        DataloaderShm,
        Said,
        &["error", "fail", "no space"],
        NO,
    ),
    (
        "no space left on device",
        DataloaderShm,
        Said,
        &["/dev/shm", "shm_open"],
        NO,
    ),
    ("signal 7 (sigbus)", DataloaderShm, Launcher, NO, NO),
    // The GPU and its driver.
    ("nvrm: xid", Xid, Fatal, NO, NO),
    ("xid (pci", Xid, Fatal, NO, NO),
    ("fallen off the bus", Xid, Fatal, NO, NO),
    (
        "uncorrectable ecc error",
        Xid,
        Fatal,
        NO,
        &[": 0", "error counts"],
    ),
    ("gpu is lost", Xid, Said, NO, NO),
    ("xid error", Xid, Said, NO, NO),
    ("device-side assert triggered", DeviceAssert, Fatal, NO, NO),
    ("thread: [", DeviceAssert, Said, &["assertion `"], NO),
    (
        "driver on your system is too old",
        DriverMismatch,
        Hint,
        NO,
        NO,
    ),
    (
        "driver version is insufficient",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    ("found no nvidia driver", DriverMismatch, Said, NO, NO),
    (
        "forward compatibility was attempted",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    (
        "driver/library version mismatch",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    ("unsupported display driver", DriverMismatch, Said, NO, NO),
    (
        "compiled with an unsupported toolchain",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    ("cudaerrorinsufficientdriver", DriverMismatch, Said, NO, NO),
    (
        "cuda_error_compat_not_supported",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    (
        "cuda_error_system_driver_mismatch",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    (
        "couldn't communicate with the nvidia driver",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    (
        "no cuda-capable device is detected",
        DriverMismatch,
        Said,
        NO,
        NO,
    ),
    ("no kernel image is available", UnsupportedGpu, Said, NO, NO),
    (
        "cudaerrornokernelimagefordevice",
        UnsupportedGpu,
        Said,
        NO,
        NO,
    ),
    ("only supports ampere", UnsupportedGpu, Said, NO, NO),
    ("only supports hopper", UnsupportedGpu, Said, NO, NO),
    ("flashattention only supports", UnsupportedGpu, Said, NO, NO),
    (
        "not compatible with the current pytorch installation",
        UnsupportedGpu,
        Hint,
        NO,
        NO,
    ),
    ("gpus with compute capability", UnsupportedGpu, Said, NO, NO),
    ("requires compute capability", UnsupportedGpu, Said, NO, NO),
    ("require compute capability", UnsupportedGpu, Said, NO, NO),
    ("requires device capability", UnsupportedGpu, Said, NO, NO),
    ("setup doesn't support bf16", UnsupportedGpu, Said, NO, NO),
    ("does not support bf16", UnsupportedGpu, Said, NO, NO),
    ("does not support bfloat16", UnsupportedGpu, Said, NO, NO),
    ("unsupported gpu architecture", UnsupportedGpu, Said, NO, NO),
    (
        "is not defined for option 'gpu-name'",
        UnsupportedGpu,
        Said,
        NO,
        NO,
    ),
    ("requires .target sm_", UnsupportedGpu, Said, NO, NO),
    ("only support cuda capability", UnsupportedGpu, Said, NO, NO),
    ("_arch_mismatch", UnsupportedGpu, Said, NO, NO),
    // Memory of the GPU.
    ("cuda out of memory", CudaOom, Said, NO, NO),
    ("hip out of memory", CudaOom, Said, NO, NO),
    ("cuda error: out of memory", CudaOom, Said, NO, NO),
    ("cuda runtime error (2)", CudaOom, Said, NO, NO),
    ("cudaerrormemoryallocation", CudaOom, Said, NO, NO),
    ("cuda_error_out_of_memory", CudaOom, Hint, NO, NO),
    ("cublas_status_alloc_failed", CudaOom, Said, NO, NO),
    ("oom when allocating tensor", CudaOom, Said, NO, NO),
    ("resource_exhausted: out of memory", CudaOom, Said, NO, NO),
    ("resource exhausted: out of memory", CudaOom, Said, NO, NO),
    (
        "out of memory",
        CudaOom,
        Said,
        &[
            "cuda failure",
            "[cuda error]",
            "cuda_check",
            "on gpu",
            "gpu out of memory",
            "of device memory",
        ],
        NO,
    ),
    ("torch.outofmemoryerror", CudaOom, Said, NO, NO),
    ("torch.cuda.outofmemoryerror", CudaOom, Said, NO, NO),
    // Memory of the host.
    (
        "oom-kill",
        HostOom,
        Fatal,
        NO,
        &["oom-kill: 0", "oom-kill=0"],
    ),
    (
        "oom_kill",
        HostOom,
        Fatal,
        NO,
        &[
            "oom_kill 0",
            "oom_kill: 0",
            "oom_kill=0",
            "oom_kill_disable",
        ],
    ),
    ("out of memory: kill", HostOom, Fatal, NO, NO),
    ("cgroup out of memory", HostOom, Fatal, NO, NO),
    ("out of memory", HostOom, Fatal, &["srun: error"], NO),
    ("killed by signal: killed", HostOom, Said, NO, NO),
    ("killed", HostOom, Fatal, NO, NO),
    ("defaultcpuallocator", HostOom, Said, NO, NO),
    ("cannot allocate memory", HostOom, Said, NO, GPU),
    ("[errno 12]", HostOom, Said, NO, NO),
    ("std::bad_alloc", HostOom, Said, NO, GPU),
    ("arraymemoryerror", HostOom, Said, NO, NO),
    ("memoryerror", HostOom, Said, NO, GPU),
    ("running low on memory", HostOom, Said, NO, NO),
    ("out_of_memory", HostOom, Said, &["state", "slurm"], GPU),
    ("signal 9 (sigkill)", HostOom, Launcher, NO, NO),
    ("exitcode: -9", HostOom, Launcher, NO, NO),
    ("exitcode  : -9", HostOom, Launcher, NO, NO),
    ("return code = -9", HostOom, Launcher, NO, NO),
    ("died with <signals.sigkill", HostOom, Launcher, NO, NO),
    ("exit code 137", HostOom, Launcher, NO, NO),
    // The disk.
    ("no space left on device", DiskFull, Said, NO, NO),
    ("[errno 28]", DiskFull, Said, NO, NO),
    ("disk quota exceeded", DiskFull, Said, NO, NO),
    ("[errno 122]", DiskFull, Said, NO, NO),
    ("enospc", DiskFull, Said, NO, NO),
    (
        "failed writing file",
        DiskFull,
        Said,
        &["pytorchstreamwriter"],
        NO,
    ),
    (
        "unexpected pos",
        DiskFull,
        Said,
        &["inline_container", "enforce", "runtimeerror"],
        NO,
    ),
    ("basic_ios::clear: iostream error", DiskFull, Said, NO, NO),
    ("not enough disk space", DiskFull, Said, NO, NO),
    ("not enough free disk space", DiskFull, Hint, NO, NO),
    // Checkpoints and weights.
    ("ran out of input", CorruptCheckpoint, Said, NO, NO),
    (
        "failed finding central directory",
        CorruptCheckpoint,
        Said,
        NO,
        NO,
    ),
    (
        "pytorchstreamreader failed",
        CorruptCheckpoint,
        Said,
        NO,
        NO,
    ),
    ("invalid load key", CorruptCheckpoint, Said, NO, NO),
    ("pickle data was truncated", CorruptCheckpoint, Said, NO, NO),
    (
        "error while deserializing header",
        CorruptCheckpoint,
        Said,
        NO,
        NO,
    ),
    ("metadataincompletebuffer", CorruptCheckpoint, Said, NO, NO),
    (
        "incomplete metadata, file not fully covered",
        CorruptCheckpoint,
        Said,
        NO,
        NO,
    ),
    ("file is not a zip file", CorruptCheckpoint, Said, NO, NO),
    ("badzipfile", CorruptCheckpoint, Said, NO, NO),
    ("file might be corrupted", CorruptCheckpoint, Said, NO, NO),
    ("unexpected eof, expected", CorruptCheckpoint, Said, NO, NO),
    ("has wrong byte size", CorruptCheckpoint, Said, NO, NO),
    ("truncated file: eof", CorruptCheckpoint, Said, NO, NO),
    (
        "unpicklingerror",
        CorruptCheckpoint,
        Said,
        NO,
        &["weights_only", "weights only"],
    ),
    (
        "corrupt",
        CorruptCheckpoint,
        Said,
        &[
            "checkpoint",
            "safetensors",
            ".pt ",
            ".pth",
            ".ckpt",
            "weights",
        ],
        &["skip", "jpeg", "exif", "image", "not corrupt"],
    ),
    // The loss.
    ("loss is nan", NanLoss, Said, NO, NO),
    ("loss is inf", NanLoss, Said, NO, NO),
    ("loss is not finite", NanLoss, Said, NO, NO),
    ("loss became infinite or nan", NanLoss, Fatal, NO, NO),
    ("non-finite loss", NanLoss, Said, NO, NO),
    (
        "nan loss",
        NanLoss,
        Said,
        &[
            "stop",
            "abort",
            "terminat",
            "exit",
            "detected",
            "encountered",
        ],
        &["counter", "count:"],
    ),
    ("minimum loss scale reached", NanLoss, Fatal, NO, NO),
    ("loss scale already at minimum", NanLoss, Fatal, NO, NO),
    ("returned nan values in its", NanLoss, Fatal, NO, NO),
    ("nan in local grad norm", NanLoss, Said, NO, NO),
    // The end of the time, or of the machine.
    ("due to time limit", Preempted, Fatal, NO, NO),
    ("due to preemption", Preempted, Fatal, NO, NO),
    ("due to node failure", Preempted, Fatal, NO, NO),
    ("cancelled at", Preempted, Fatal, &["***", "slurmstepd"], NO),
    ("got signal: 15", Preempted, Said, NO, NO),
    (
        "death signal, shutting down workers",
        Preempted,
        Said,
        NO,
        NO,
    ),
    (
        "sigterm",
        Preempted,
        Said,
        &["received", "caught", "got "],
        &[
            "closing",
            "sending",
            "sent ",
            "received by pid",
            "exitcode",
            "will be",
            "handler",
            "if ",
        ],
    ),
    (
        "signal 15",
        Preempted,
        Said,
        &["received", "caught", "got "],
        &["sending", "received by pid", "exitcode", "handler"],
    ),
    (
        "preempted",
        Preempted,
        Said,
        NO,
        &[
            "not preempted",
            "request",
            "if ",
            "sequence",
            "requeue=",
            "=0",
            ": 0",
        ],
    ),
    ("preemption notice", Preempted, Said, NO, NO),
    ("spot interruption", Preempted, Said, NO, NO),
    (
        "spot instance",
        Preempted,
        Said,
        &["terminat", "interrupt", "reclaim"],
        &["if "],
    ),
    ("terminated", Preempted, Fatal, NO, NO),
    // Communication between GPUs.
    ("ncclsystemerror", Nccl, Said, NO, NO),
    ("ncclunhandledcudaerror", Nccl, Said, NO, NO),
    ("ncclinternalerror", Nccl, Said, NO, NO),
    ("ncclremoteerror", Nccl, Said, NO, NO),
    ("ncclinvalidusage", Nccl, Said, NO, NO),
    ("ncclinvalidargument", Nccl, Said, NO, NO),
    ("nccl error", Nccl, Said, NO, NO),
    ("nccl communicator was aborted", Nccl, Said, NO, NO),
    ("nccl operations have failed", Nccl, Said, NO, NO),
    ("timeout at nccl work", Nccl, Said, NO, NO),
    ("collective operation timeout", Nccl, Said, NO, NO),
    (
        "nccl timeout",
        Nccl,
        Said,
        NO,
        &["nccl timeout:", "nccl timeout =", "nccl timeout="],
    ),
    ("distbackenderror", Nccl, Said, NO, NO),
    (
        "nccl watchdog",
        Nccl,
        Said,
        &["terminat", "exception", "timeout", "abort", "hang"],
        NO,
    ),
    ("heartbeat monitor timed out", Nccl, Said, NO, NO),
    ("connection closed by peer", Nccl, Said, &["gloo"], NO),
    ("nccl warn", Nccl, Hint, NO, NO),
    // Modules and libraries.
    ("modulenotfounderror", MissingModule, Hint, NO, &["triton"]),
    ("no module named", MissingModule, Said, NO, &["triton"]),
    ("importerror", MissingModule, Hint, NO, NO),
    (
        "cannot open shared object file",
        MissingModule,
        Said,
        NO,
        NO,
    ),
    (
        "error while loading shared libraries",
        MissingModule,
        Fatal,
        NO,
        NO,
    ),
    ("undefined symbol", MissingModule, Said, NO, NO),
    ("command not found", MissingModule, Said, NO, NO),
    // The internet.
    ("maxretryerror", Network, Hint, NO, NO),
    ("max retries exceeded", Network, Hint, NO, NO),
    ("httpsconnectionpool", Network, Hint, NO, NO),
    ("httpconnectionpool", Network, Hint, NO, NO),
    ("connectionerror", Network, Hint, NO, NO),
    ("connectionreseterror", Network, Hint, NO, NO),
    ("connectionrefusederror", Network, Hint, NO, NO),
    ("connection reset by peer", Network, Hint, NO, NO),
    ("connection refused", Network, Hint, NO, NO),
    ("connection timed out", Network, Hint, NO, NO),
    ("name resolution", Network, Hint, NO, NO),
    ("name or service not known", Network, Hint, NO, NO),
    ("network is unreachable", Network, Hint, NO, NO),
    ("no route to host", Network, Hint, NO, NO),
    ("readtimeout", Network, Hint, NO, NO),
    ("connecttimeout", Network, Hint, NO, NO),
    ("connectionpool", Network, Hint, NO, NO),
    ("read timed out", Network, Hint, NO, NO),
    ("client socket has timed out", Network, Hint, NO, NO),
    ("sslerror", Network, Hint, NO, NO),
    ("ssl.ssl", Network, Hint, NO, NO),
    ("remotedisconnected", Network, Hint, NO, NO),
    ("incompleteread", Network, Hint, NO, NO),
    ("chunkedencodingerror", Network, Hint, NO, NO),
    ("protocolerror", Network, Hint, NO, NO),
    ("couldn't connect to", Network, Hint, NO, NO),
    ("couldn't reach", Network, Hint, NO, NO),
    ("localentrynotfounderror", Network, Hint, NO, NO),
    ("offlinemodeisenabled", Network, Hint, NO, NO),
    ("endpointconnectionerror", Network, Hint, NO, NO),
    ("clientconnectorerror", Network, Hint, NO, NO),
    ("urlopen error", Network, Hint, NO, NO),
    ("urlerror", Network, Hint, NO, NO),
    ("gaierror", Network, Hint, NO, NO),
    (
        "server error",
        Network,
        Hint,
        &["500", "502", "503", "504"],
        NO,
    ),
    ("too many requests", Network, Hint, NO, NO),
    ("commerror", Network, Hint, NO, NO),
    ("temporary failure in name", Network, Hint, NO, NO),
    // Other ends.
    ("segmentation fault", TracebackOther, Fatal, NO, NO),
    ("illegal memory access", TracebackOther, Fatal, NO, NO),
    ("core dumped", TracebackOther, Said, NO, NO),
    (
        "terminate called after throwing",
        TracebackOther,
        Said,
        NO,
        NO,
    ),
    ("childfailederror", TracebackOther, Launcher, NO, NO),
    ("calledprocesserror", TracebackOther, Launcher, NO, NO),
    (
        "exited with exit code",
        TracebackOther,
        Launcher,
        NO,
        &["exit code 0"],
    ),
    ("exitcode: 1", TracebackOther, Launcher, NO, NO),
    (
        "exits with return code = ",
        TracebackOther,
        Launcher,
        NO,
        &["return code = 0"],
    ),
];

/// Texts that are no evidence themselves.
const TRACEBACK: &str = "traceback (most recent call last)";
const CHAINED: &str = "another exception occurred";
const SIBLING: &str = "multiprocessing/";
const DONE: [&str; 3] = [
    "'train_runtime'",
    "\"train_runtime\"",
    "training completed successfully",
];
const EXCEPTIONS: [&str; 6] = [
    "error",
    "exception",
    "interrupt",
    "exit",
    "failure",
    "timeout",
];

/// Every line that may be evidence has one of these, in any case: parts of the texts above, so that few states find all.
pub const STEMS: &[&str] = &[
    "error",
    "memory",
    "out_of_mem",
    "xid",
    "no space left",
    "</torch",
    "nccl",
    "sigbus",
    "fallen off",
    "gpu is lost",
    "assert",
    "thread: [",
    "driver",
    "toolchain",
    "compat",
    "no cuda",
    "kernel image",
    "supports",
    "capability",
    "bf16",
    "gpu arch",
    "gpu-name",
    ".target sm_",
    "arch_mismatch",
    "alloc",
    "oom-kill",
    "oom_kill",
    "killed",
    "exhaust",
    "sigkill",
    "exit",
    "return code",
    "disk",
    "enospc",
    "failed writ",
    "unexpected pos",
    "iostream",
    "ran out of input",
    "[errno",
    "central dir",
    "streamreader",
    "load key",
    "truncated",
    "metadata",
    "zip file",
    "badzip",
    "corrupt",
    "unexpected eof",
    "byte size",
    "loss is",
    "infinite or nan",
    "non-finite",
    "nan loss",
    "loss scale",
    "nan values",
    "in local grad",
    "due to",
    "cancelled at",
    "signal",
    "sigterm",
    "preempt",
    "spot in",
    "terminat",
    "timeout",
    "timed out",
    "watchdog",
    "closed by peer",
    "no module",
    "shared object",
    "shared lib",
    "undefined sym",
    "command not found",
    "max retries",
    "connectionpool",
    "connection re",
    "name reso",
    "name or serv",
    "network is",
    "no route",
    "ssl.ssl",
    "disconnected",
    "incompleteread",
    "couldn't",
    "offlinemode",
    "too many requests",
    "core dumped",
    "segmentation",
    "temporary failure",
    "traceback (most",
    "exception",
    "multiprocessing/",
    "train_runtime",
    "completed successfully",
    "interrupt",
    "failure",
    "bfloat16",
];

/// What [`signs`] looks for, in the order of the rules.
const SIGNS: &[&str] = &{
    // Rules first, so that an anchor's number is its rule's.
    let mut all = [""; RULES.len() + 3 + DONE.len() + EXCEPTIONS.len()];
    let mut at = 0;
    while at < RULES.len() {
        all[at] = RULES[at].0;
        at += 1;
    }
    all[at] = TRACEBACK;
    all[at + 1] = CHAINED;
    all[at + 2] = SIBLING;
    at += 3;
    let mut index = 0;
    while index < DONE.len() {
        all[at] = DONE[index];
        at += 1;
        index += 1;
    }
    index = 0;
    while index < EXCEPTIONS.len() {
        all[at] = EXCEPTIONS[index];
        at += 1;
        index += 1;
    }
    all
};

static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(SIGNS)
        .expect("the signs are few and short")
});

/// What was found in a line.
#[derive(Debug, Default)]
pub struct Signs {
    /// A bit for each rule whose text is there.
    rules: [u64; RULES.len().div_ceil(64)],
    any: bool,
    /// The head of a traceback.
    pub traceback: bool,
    /// The exception before goes on in the next.
    pub chained: bool,
    /// A frame of the multiprocessing module.
    pub sibling: bool,
    /// The training ended well.
    pub done: bool,
    /// It may be an exception.
    pub exception: bool,
}

impl Signs {
    /// Whether a rule may fit.
    pub fn has_rules(&self) -> bool {
        self.rules.iter().any(|bits| *bits != 0)
    }

    /// Whether the line is of no interest.
    pub fn is_empty(&self) -> bool {
        !self.any
    }
}

/// Finds all signs of a line in one pass.
pub fn signs(line: &[u8]) -> Signs {
    let mut signs = Signs::default();
    // Most lines have none, and to know that is quicker than to find all.
    if !FINDER.is_match(line) {
        return signs;
    }
    for found in FINDER.find_overlapping_iter(line) {
        let index = found.pattern().as_usize();
        signs.any = true;
        match index.checked_sub(RULES.len()) {
            None => signs.rules[index / 64] |= 1 << (index % 64),
            Some(0) => signs.traceback = true,
            Some(1) => signs.chained = true,
            Some(2) => signs.sibling = true,
            Some(other) if other < 3 + DONE.len() => signs.done = true,
            Some(_) => signs.exception = true,
        }
    }
    signs
}

/// The first rule that fits a line, which is in lower case.
pub(super) fn judge(line: &[u8], signs: &Signs) -> Option<(Class, Proof)> {
    let has = |text: &&str| memmem::find(line, text.as_bytes()).is_some();
    for (index, (text, class, proof, with, without)) in RULES.iter().enumerate() {
        if signs.rules[index / 64] & (1 << (index % 64)) == 0 {
            continue;
        }
        let fits = match *text {
            "killed" => is_shell_report(line, b"killed"),
            "terminated" => is_shell_report(line, b"terminated"),
            _ => (with.is_empty() || with.iter().any(has)) && !without.iter().any(has),
        };
        if fits {
            return Some((*class, *proof));
        }
    }
    None
}

/// What a shell says of a child: `Killed` alone, or `run.sh: line 25: 1200261 Killed   python train.py`.
fn is_shell_report(line: &[u8], word: &[u8]) -> bool {
    let line = line.trim_ascii();
    if line == word {
        return true;
    }
    let Some(at) = memmem::find(line, word) else {
        return false;
    };
    let before = line[..at].trim_ascii_end();
    let pid = before
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    pid > 0 && memmem::find(before, b": line ").is_some()
}

/// What is said in passing: a retry, a warning, advice.
pub(super) fn weaken(line: &[u8], proof: Proof) -> Proof {
    const MILD: [&str; 21] = [
        "retry",
        "retries left",
        "trying",
        "skip",
        "recover",
        "warning",
        "warn:",
        "will be reduced",
        "reducing",
        "halving",
        "not a failure",
        "if you",
        "to avoid",
        "may cause",
        "might",
        "could be",
        "in case",
        "ignor",
        "fallback",
        "falling back",
        "attempt ",
    ];
    let mild = MILD
        .iter()
        .any(|text| memmem::find(line, text.as_bytes()).is_some());
    // The kernel's own report is no advice; a whole exception text may hold some.
    let certain = [
        &b"tried to allocate"[..],
        b"killed",
        b"nvrm",
        b"core dumped",
        b"bus error",
    ]
    .iter()
    .any(|text| memmem::find(line, text).is_some());
    if mild && !certain { Hint } else { proof }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_has_a_stem() {
        for sign in SIGNS {
            assert!(STEMS.iter().any(|stem| sign.contains(stem)), "{sign}");
        }
    }
}
