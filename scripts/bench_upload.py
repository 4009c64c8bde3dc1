"""Uploads by spotter and by other tools: wall time, CPU and memory. Started by bench.sh, which built what is measured.

The CPU of the servers is not counted, but they share the machine: wall times are those of client and server on the same cores.
"""

import json, os, pathlib, shutil, socket, statistics, subprocess, sys, tempfile, time

target = pathlib.Path(sys.argv[1]).resolve()
tools = target / "venv/bin"
scratch = pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir=os.environ.get("TMPDIR", "/tmp")))
LARGE_BYTES, SMALL_FILES, SMALL_BYTES = 2 << 30, 2000, 64 << 10
KEY, SECRET = "benchkey", "benchsecret"


def once(argv, env):
    """Wall seconds, CPU seconds and MiB of one run."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        log = os.open(scratch / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(argv[0], [str(word) for word in argv], env)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, f"{argv} ended with {status}: {(scratch / 'said').read_text()[-2000:]}"
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def environment(url):
    return {
        "PATH": os.environ["PATH"], "HOME": str(scratch), "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8",
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": url, "AWS_EC2_METADATA_DISABLED": "true", "S3_ENDPOINT_URL": url,
        "RCLONE_CONFIG": str(scratch / "none"), "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": url, "RCLONE_S3_ENV_AUTH": "true",
        "RCLONE_S3_REGION": "us-east-1", "RCLONE_S3_NO_CHECK_BUCKET": "true",
    }


def rows(url):
    """Name, command for the large file, command for the small ones; every command takes the place it writes to."""
    large, small = scratch / "large/step_1.bin", scratch / "small/step-1"
    rclone = [tools / "rclone", "copy", "-q"]
    tuned = ["--s3-disable-checksum", "--s3-upload-concurrency", "8", "--s3-chunk-size", "16M", "--transfers", "32", "--s3-no-head"]
    save = target / "agent/examples/save"
    for name, more in (("spotter", []), ("spotter, checksum", ["checksum"])):
        yield name, lambda to, more=more: [save, large.parent, url, "runs", *more], lambda to, more=more: [save, small.parent, url, "runs", *more]
    yield ("s5cmd", lambda to: [tools / "s5cmd", "--log", "error", "cp", large, f"s3://runs/{to}"],
           lambda to: [tools / "s5cmd", "--log", "error", "cp", f"{small}/", f"s3://runs/{to}/"])
    yield "rclone", lambda to: [*rclone, large, f":s3:runs/{to}"], lambda to: [*rclone, small, f":s3:runs/{to}"]
    yield "rclone, tuned", lambda to: [*rclone, *tuned, large, f":s3:runs/{to}"], lambda to: [*rclone, *tuned, small, f":s3:runs/{to}"]
    yield ("aws", lambda to: [tools / "aws", "s3", "cp", "--only-show-errors", large, f"s3://runs/{to}"],
           lambda to: [tools / "aws", "s3", "sync", "--only-show-errors", small, f"s3://runs/{to}/"])


def measure(server, url, times, forget):
    env = environment(url)
    for number, what in ((1, "2 GiB"), (2, "2,000 x 64 KiB")):
        print(f"\n{what} into {server}\n{'':<20}{'wall_s':>8}{'cpu_s':>8}{'rss_mib':>9}{'wall':>8}{'cpu':>8}  (medians of {times}; ratios to spotter)")
        runs = {}
        for turn in range(times):
            for row in rows(url):
                runs.setdefault(row[0], []).append(once(row[number](f"{number}-{turn}-{row[0].replace(' ', '')}"), env))
                forget()
        first = None
        for name, all_of_it in runs.items():
            wall, cpu, rss = (statistics.median(run[i] for run in all_of_it) for i in range(3))
            first = first or (wall, cpu)
            print(f"{name:<20}{wall:>8.2f}{cpu:>8.2f}{rss:>9.0f}{wall / first[0]:>8.2f}{cpu / first[1]:>8.2f}", flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


try:
    (scratch / "large").mkdir()
    (scratch / "small/step-1").mkdir(parents=True)
    block = os.urandom(64 << 20)
    with open(scratch / "large/step_1.bin", "wb") as file:
        for _ in range(LARGE_BYTES // len(block)):
            file.write(block)
    for number in range(SMALL_FILES):
        (scratch / f"small/step-1/{number:04}.bin").write_bytes(os.urandom(SMALL_BYTES))
    os.sync()

    sink = subprocess.Popen([target / "release/spotter-sim", "sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        measure("a bucket that drops everything", json.loads(sink.stdout.readline())["url"], 3, lambda: None)
    finally:
        sink.stdin.close()
        sink.wait()

    store = scratch / "store"
    (store / "runs").mkdir(parents=True)
    port = free_port()
    server = subprocess.Popen([tools / "rclone", "serve", "s3", str(store), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "-q"],
                              env=dict(os.environ, RCLONE_CONFIG=str(scratch / "none")))

    def forget():
        # The bucket itself stays: the server remembers its folders.
        for each in (store / "runs").iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()

    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        measure("rclone serve s3", f"http://127.0.0.1:{port}", 1, forget)
    finally:
        server.terminate()
        server.wait()
finally:
    shutil.rmtree(scratch)
