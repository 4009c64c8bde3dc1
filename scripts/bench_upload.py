"""Uploads by spotter and by other tools: wall time, CPU and memory. Started by bench.sh, which built what is measured.

The CPU of the servers is not counted, but they share the machine: wall times are those of client and server on the same cores.
"""

import contextlib, json, os, pathlib, shutil, socket, statistics, subprocess, sys, tempfile, time

target, examples = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
tools = target / "venv/bin"
scratch = pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir=os.environ.get("TMPDIR", "/tmp")))
LARGE_BYTES, SMALL_FILES, SMALL_BYTES = 2 << 30, 2000, 64 << 10
KEY, SECRET = "benchkey", "benchsecret"
# What is promised, as ratios to s5cmd: wall and CPU at most this; a bucket that drops everything shows what the engine can do.
WALL_TARGET, SINK_WALL_TARGET, CPU_TARGET, RSS_TARGET_MIB = 1.0, 1 / 1.5, 0.6, 64
failed, missed = [], []


def store():
    """Where a server keeps what it gets: in memory where that has room, so that a disk that writes back is not what is measured."""
    memory = "/dev/shm"
    free = os.statvfs(memory) if os.path.isdir(memory) else None
    roomy = free is not None and free.f_bavail * free.f_frsize > 3 * LARGE_BYTES
    return pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir=memory if roomy else scratch))


def once(argv, env):
    """Wall seconds, CPU seconds and MiB of one run; nothing when it failed, which is told."""
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
def verifying():
    """Our own server, which verifies signatures, hashes and checksums, and writes to disk."""
    home = store()
    with running([target / "release/spotter-sim", "serve", "--with-stdin", "--dir", home, "--tier", "1"]) as ready:
        yield Server(ready["s3_url"], ready["s3_bucket"], ready["s3_access_key"], ready["s3_secret_key"])
    shutil.rmtree(home)


@contextlib.contextmanager
def rclones():
    home = store()
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


def rows(server):
    """Name, command for the large file, command for the small ones; every command takes the place it writes to."""
    large, small = scratch / "large/step_1.bin", scratch / "small/step-1"
    rclone, bucket = [tools / "rclone", "copy", "-q"], server.bucket
    tuned = ["--s3-disable-checksum", "--s3-upload-concurrency", "8", "--s3-chunk-size", "16M", "--transfers", "32", "--s3-no-head"]
    save = examples / "save"
    for name, more in (("spotter", []), ("spotter, checksum", ["checksum"])):
        yield (name, lambda to, more=more: [save, large.parent, server.url, bucket, *more],
               lambda to, more=more: [save, small.parent, server.url, bucket, *more])
    yield ("s5cmd", lambda to: [tools / "s5cmd", "--log", "error", "cp", large, f"s3://{bucket}/{to}"],
           lambda to: [tools / "s5cmd", "--log", "error", "cp", f"{small}/", f"s3://{bucket}/{to}/"])
    yield "rclone", lambda to: [*rclone, large, f":s3:{bucket}/{to}"], lambda to: [*rclone, small, f":s3:{bucket}/{to}"]
    yield "rclone, tuned", lambda to: [*rclone, *tuned, large, f":s3:{bucket}/{to}"], lambda to: [*rclone, *tuned, small, f":s3:{bucket}/{to}"]
    yield ("aws", lambda to: [tools / "aws", "s3", "cp", "--only-show-errors", large, f"s3://{bucket}/{to}"],
           lambda to: [tools / "aws", "s3", "sync", "--only-show-errors", small, f"s3://{bucket}/{to}/"])


def measure(title, start, times):
    for number, what in ((1, "2 GiB"), (2, "2,000 x 64 KiB")):
        runs = {}
        for turn in range(times):
            with start() as any_server:
                names = [row[0] for row in rows(any_server)]
            for index, name in enumerate(names):
                # A server of its own for each: what one tool left is not in the way of the next.
                with start() as server:
                    command = list(rows(server))[index][number]
                    to = f"{number}-{turn}-{name.replace(' ', '').replace(',', '-')}"
                    runs.setdefault(name, []).append(once(command(to), server.environment()))
        floor = once(["/bin/true"], {})
        medians = {name: [statistics.median(run[i] for run in all_of_it) for i in range(3)]
                   for name, all_of_it in runs.items() if None not in all_of_it}
        base = medians.get("s5cmd")
        print(f"\n{what} into {title}\n{'':<20}{'wall_s':>8}{'cpu_s':>8}{'rss_mib':>9}{'wall':>8}{'cpu':>8}"
              f"  (medians of {times}; ratios to s5cmd; a program that does nothing has {floor[2]:.0f} MiB here)")
        for name in runs:
            if name not in medians:
                print(f"{name:<20}  failed, see the end")
                continue
            wall, cpu, rss = medians[name]
            ratios = f"{wall / base[0]:>8.2f}{cpu / base[1]:>8.2f}" if base else ""
            print(f"{name:<20}{wall:>8.2f}{cpu:>8.2f}{rss:>9.0f}{ratios}", flush=True)
        # The payload mode that the server's own answers allow: a sink takes anything, rclone's checks no checksum.
        is_sink = start is sink
        ours = medians.get("spotter") if start is rclones else medians.get("spotter, checksum")
        if base and ours:
            # Small files are bound by the round trips of whoever is asked.
            wall = SINK_WALL_TARGET if is_sink and number == 1 else WALL_TARGET
            verdicts = [("wall", ours[0] / base[0], wall), ("CPU", ours[1] / base[1], CPU_TARGET), ("RSS", ours[2], RSS_TARGET_MIB)]
            print("promised: " + ", ".join(f"{name} {value:.2f} of at most {limit:.2f} ({'kept' if value <= limit else 'missed'})" for name, value, limit in verdicts))
            missed.extend(f"{what} into {title}: {name} {value:.2f}, promised {limit:.2f}" for name, value, limit in verdicts if value > limit)


try:
    (scratch / "large").mkdir()
    (scratch / "small/step-1").mkdir(parents=True)
    block = os.urandom(64 << 20)
    with open(scratch / "large/step_1.bin", "wb") as file:
        for _ in range(LARGE_BYTES // len(block)):
            file.write(block)
    # A child begins with what its parent has, and would be said to have used it.
    del block
    for number in range(SMALL_FILES):
        (scratch / f"small/step-1/{number:04}.bin").write_bytes(os.urandom(SMALL_BYTES))
    os.sync()
    measure("a bucket that drops everything", sink, 3)
    measure("spotter-sim, which verifies", verifying, 3)
    measure("rclone serve s3", rclones, 3)
finally:
    shutil.rmtree(scratch)
for text in failed + [f"missed: {text}" for text in missed]:
    print(text, file=sys.stderr)
sys.exit(1 if failed or missed else 0)
