"""Restores by spotter and downloads by other tools: wall time, CPU and memory. Started by bench.sh, which built what is measured.

`TARGET EXAMPLES LARGE_MIB SMALL_FILES TIMES`. spotter proves every byte by its hash and puts it on the disk for good before it
answers; the others do neither. What the disk alone takes is shown by copies of the same bytes, with and without that.
"""

import filecmp, functools, os, pathlib, shutil, statistics, subprocess, sys

from bench_servers import examples, failed, once, rclones, scratch, tools, verifying

LARGE_BYTES, SMALL_FILES, TIMES = int(sys.argv[3]) << 20, int(sys.argv[4]), int(sys.argv[5])
SMALL_BYTES = 64 << 10
# "Restore speed bounded by network or disk": nobody waits longer for a restore than for the quickest of the usual tools, on the same
# line and disk in the same minute.
WALL_TARGET = 1.0
WORKLOADS = (("large", f"{LARGE_BYTES >> 20} MiB in one file"), ("small", f"{SMALL_FILES:,} x 64 KiB"))
missed = []


def sources(workload):
    """What is saved, as a directory of checkpoints with one in it, and the checkpoint itself."""
    name = {"large": "step_1.bin", "small": "step-1"}[workload]
    return scratch / workload, scratch / workload / name


def fill(server, workload):
    """Puts the workload into a bucket: as a checkpoint of ours, and as plain objects. Answers the run's name."""
    directory, checkpoint = sources(workload)
    saving = subprocess.Popen([examples / "save", directory, server.url, server.bucket], env=server.environment(),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, _ = saving.communicate()
    assert saving.returncode == 0, said
    plain = f"s3://{server.bucket}/plain/{workload}"
    source, to = (checkpoint, plain) if checkpoint.is_file() else (f"{checkpoint}/", f"{plain}/")
    subprocess.run([tools / "s5cmd", "--log", "error", "cp", source, to], env=server.environment(), check=True)
    return f"run-{saving.pid}"


def rows(server, workload, run):
    """Name, and command that brings the workload to a directory that is empty."""
    _, checkpoint = sources(workload)
    plain, whole = f"{server.bucket}/plain/{workload}", workload == "small"
    rclone = [tools / "rclone", "copy", "-q"]
    tuned = ["--multi-thread-streams", "8", "--multi-thread-cutoff", "16M", "--transfers", "32", "--checkers", "32"]
    from_s5 = f"s3://{plain}/*" if whole else f"s3://{plain}"
    synced = ["/bin/sh", "-c", 'to=$1; shift; "$@" && sync -f "$to"', "sh"]
    yield "spotter", lambda to: [examples / "restore", to, server.url, server.bucket, run]
    yield "s5cmd", lambda to: [tools / "s5cmd", "--log", "error", "cp", from_s5, f"{to}/"]
    yield "s5cmd, synced", lambda to: [*synced, to, tools / "s5cmd", "--log", "error", "cp", from_s5, f"{to}/"]
    yield "rclone", lambda to: [*rclone, f":s3:{plain}", to]
    yield "rclone, tuned", lambda to: [*rclone, *tuned, f":s3:{plain}", to]
    yield "cp", lambda to: ["/bin/cp", "-r", checkpoint, to]
    yield "cp, synced", lambda to: [*synced, to, "/bin/cp", "-r", checkpoint, to]


def prove(workload, to, name):
    """The very bytes came: a tool that is quick because it brings nothing would win."""
    _, checkpoint = sources(workload)
    wanted = [checkpoint] if checkpoint.is_file() else sorted(checkpoint.iterdir())
    came = sorted(path for path in to.rglob("*") if path.is_file())
    same = len(came) == len(wanted) and all(filecmp.cmp(*pair, shallow=False) for pair in zip(wanted, came))
    if not same:
        failed.append(f"{name} brought {len(came)} files of {len(wanted)}, or other bytes")


def measure(title, start):
    for workload, what in WORKLOADS:
        runs = {}
        with start() as server:
            run = fill(server, workload)
            for turn in range(TIMES):
                for name, command in rows(server, workload, run):
                    to = pathlib.Path(scratch / "down")
                    to.mkdir()
                    # What was left to write back is not paid for by whoever comes next.
                    os.sync()
                    runs.setdefault(name, []).append(once(command(to), server.environment()))
                    if turn == 0:
                        prove(workload, to, name)
                    shutil.rmtree(to)
        medians = {name: [statistics.median(run[i] for run in all_of_it) for i in range(3)]
                   for name, all_of_it in runs.items() if None not in all_of_it}
        base = medians.get("s5cmd")
        print(f"\n{what} from {title}\n{'':<20}{'wall_s':>8}{'cpu_s':>8}{'rss_mib':>9}{'wall':>8}{'cpu':>8}"
              f"  (medians of {TIMES}; ratios to s5cmd)")
        for name in runs:
            if name not in medians:
                print(f"{name:<20}  failed, see the end")
                continue
            wall, cpu, rss = medians[name]
            ratios = f"{wall / base[0]:>8.2f}{cpu / base[1]:>8.2f}" if base else ""
            print(f"{name:<20}{wall:>8.2f}{cpu:>8.2f}{rss:>9.0f}{ratios}", flush=True)
        if base and "spotter" in medians:
            ratio = medians["spotter"][0] / base[0]
            print(f"promised: wall {ratio:.2f} of at most {WALL_TARGET:.2f} ({'kept' if ratio <= WALL_TARGET else 'missed'})")
            if ratio > WALL_TARGET:
                missed.append(f"{what} from {title}: wall {ratio:.2f}, promised {WALL_TARGET:.2f}")


try:
    (scratch / "large").mkdir()
    (scratch / "small/step-1").mkdir(parents=True)
    # A child begins with what its parent has, and would be said to have used it: small blocks, none of which repeats.
    with open(scratch / "large/step_1.bin", "wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    for number in range(SMALL_FILES):
        (scratch / f"small/step-1/{number:05}.bin").write_bytes(os.urandom(SMALL_BYTES))
    kept = 3 * max(LARGE_BYTES, SMALL_FILES * SMALL_BYTES)
    measure("spotter-sim", functools.partial(verifying, kept))
    measure("rclone serve s3", functools.partial(rclones, kept))
finally:
    shutil.rmtree(scratch)
for text in failed + [f"missed: {text}" for text in missed]:
    print(text, file=sys.stderr)
sys.exit(1 if failed or missed else 0)
