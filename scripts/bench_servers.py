"""What bench_upload.py and bench_restore.py share: servers to send to and read from, what is sent, one measured run of a program,
and the table of many.

Whoever imports this was started by bench.sh as `SCRIPT TARGET EXAMPLES ...`.
"""

import contextlib, json, os, pathlib, shutil, socket, statistics, subprocess, sys, tempfile, time

target, examples = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
tools = target / "venv/bin"
scratch = pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir=os.environ.get("TMPDIR", "/tmp")))
KEY, SECRET = "benchkey", "benchsecret"
SMALL_BYTES = 64 << 10
# What a tool writes and what a server keeps of 2 GiB.
WARM_BYTES = 4 << 30
failed, missed = [], []


def write_workloads(large_bytes, small_files):
    """One large file, and a directory of small ones, both of noise: `large/step_1.bin` and `small/step-1`."""
    (scratch / "large").mkdir()
    (scratch / "small/step-1").mkdir(parents=True)
    # A child begins with what its parent has, and would be said to have used it: small blocks, none of which repeats.
    with open(scratch / "large/step_1.bin", "wb") as file:
        for _ in range(large_bytes >> 20):
            file.write(os.urandom(1 << 20))
    for number in range(small_files):
        (scratch / f"small/step-1/{number:05}.bin").write_bytes(os.urandom(SMALL_BYTES))
    os.sync()


def store(bytes_kept):
    """Where a server keeps what it gets: in memory where that has room, so that a disk that writes back is not what is measured."""
    memory = "/dev/shm"
    free = os.statvfs(memory) if os.path.isdir(memory) else None
    roomy = free is not None and free.f_bavail * free.f_frsize > bytes_kept
    return pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir=memory if roomy else scratch))


def warm():
    """Touches memory that is free, which goes to whoever asks next. A virtual machine may have got none of it from its host yet, and
    whoever comes first would pay for that: up to three times the time of a copy was seen."""
    home, block = store(WARM_BYTES), bytes(1 << 20)
    # On a disk it would leave more to be written back than it warms.
    if home.parent != scratch:
        with open(home / "warm", "wb") as file:
            for _ in range(WARM_BYTES >> 20):
                file.write(block)
    shutil.rmtree(home)


def once(argv, env):
    """Wall seconds, CPU seconds and MiB of one run; nothing when it failed, which is told."""
    warm()
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        log = os.open(scratch / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(argv[0], [str(word) for word in argv], env)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        failed.append(f"{argv} ended with {status}: {(scratch / 'said').read_text()[-600:]}")
        return None
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def table(title, runs, about):
    """Prints medians of the runs by name, and their ratios to s5cmd. Answers the medians of those that never failed: wall, CPU, MiB."""
    medians = {name: [statistics.median(run[i] for run in all_of_it) for i in range(3)]
               for name, all_of_it in runs.items() if None not in all_of_it}
    base = medians.get("s5cmd")
    print(f"\n{title}\n{'':<20}{'wall_s':>8}{'cpu_s':>8}{'rss_mib':>9}{'wall':>8}{'cpu':>8}  ({about})")
    for name in runs:
        if name not in medians:
            print(f"{name:<20}  failed, see the end")
            continue
        wall, cpu, rss = medians[name]
        ratios = f"{wall / base[0]:>8.2f}{cpu / base[1]:>8.2f}" if base else ""
        print(f"{name:<20}{wall:>8.2f}{cpu:>8.2f}{rss:>9.0f}{ratios}", flush=True)
    return medians


def judge(what, verdicts):
    """Holds figures against what is promised: name, value, and the most that it may be."""
    print("promised: " + ", ".join(f"{name} {value:.2f} of at most {limit:.2f} ({'kept' if value <= limit else 'missed'})"
                                   for name, value, limit in verdicts))
    missed.extend(f"{what}: {name} {value:.2f}, promised {limit:.2f}" for name, value, limit in verdicts if value > limit)


def finish():
    """Says what failed and what was missed, and ends by it."""
    for text in failed + [f"missed: {text}" for text in missed]:
        print(text, file=sys.stderr)
    sys.exit(1 if failed or missed else 0)


class Server:
    """Where to upload: url, keys, and a bucket that exists."""

    def __init__(self, url, bucket="runs", key=KEY, secret=SECRET):
        self.url, self.bucket, self.key, self.secret = url, bucket, key, secret

    def environment(self):
        return {
            "PATH": os.environ["PATH"], "HOME": str(scratch), "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.url, "AWS_EC2_METADATA_DISABLED": "true", "S3_ENDPOINT_URL": self.url,
            "RCLONE_CONFIG": str(scratch / "none"), "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": self.url,
            "RCLONE_S3_ACCESS_KEY_ID": self.key, "RCLONE_S3_SECRET_ACCESS_KEY": self.secret,
            "RCLONE_S3_REGION": "us-east-1", "RCLONE_S3_NO_CHECK_BUCKET": "true", "RCLONE_S3_LIST_VERSION": "2",
        }


@contextlib.contextmanager
def running(argv, **more):
    """A server that ends when its input does."""
    server = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **more)
    try:
        yield json.loads(server.stdout.readline())
    finally:
        server.stdin.close()
        server.wait()


@contextlib.contextmanager
def sink():
    with running([target / "release/spotter-sim", "sink"]) as ready:
        yield Server(ready["url"])


@contextlib.contextmanager
def verifying(bytes_kept):
    """Our own server, which verifies signatures, hashes and checksums, and writes to disk."""
    home = store(bytes_kept)
    with running([target / "release/spotter-sim", "serve", "--with-stdin", "--dir", home, "--tier", "1"]) as ready:
        yield Server(ready["s3_url"], ready["s3_bucket"], ready["s3_access_key"], ready["s3_secret_key"])
    shutil.rmtree(home)


@contextlib.contextmanager
def rclones(bytes_kept):
    home = store(bytes_kept)
    (home / "runs").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([tools / "rclone", "serve", "s3", str(home), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "-q"],
                              env=dict(os.environ, RCLONE_CONFIG=str(scratch / "none")), stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(home)
