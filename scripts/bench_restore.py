"""Restores by spotter and downloads by other tools: wall time, CPU and memory. Started by bench.sh, which built what is measured.

`TARGET EXAMPLES LARGE_MIB SMALL_FILES TIMES`. spotter proves every byte by its hash and puts it on the disk for good before it
answers; the others do neither. What the disk alone takes is shown by copies of the same bytes, with and without that.
"""

import filecmp, functools, os, pathlib, shutil, subprocess, sys

from bench_servers import (SMALL_BYTES, examples, failed, finish, judge, once, rclones, scratch, table, tools, verifying,
                           write_workloads)

LARGE_BYTES, SMALL_FILES, TIMES = int(sys.argv[3]) << 20, int(sys.argv[4]), int(sys.argv[5])
# "Restore speed bounded by network or disk": nobody waits longer for a restore, whose files are on the disk for good, than for s5cmd
# until its files are, on the same line and disk in the same minute.
WALL_TARGET = 1.0
WORKLOADS = (("large", f"{LARGE_BYTES >> 20} MiB in one file"), ("small", f"{SMALL_FILES:,} x 64 KiB"))


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
        medians = table(f"{what} from {title}", runs, f"medians of {TIMES}; ratios to s5cmd")
        if {"s5cmd, synced", "spotter"} <= medians.keys():
            judge(f"{what} from {title}", [("wall, both synced,", medians["spotter"][0] / medians["s5cmd, synced"][0], WALL_TARGET)])


try:
    write_workloads(LARGE_BYTES, SMALL_FILES)
    kept = 3 * max(LARGE_BYTES, SMALL_FILES * SMALL_BYTES)
    measure("spotter-sim", functools.partial(verifying, kept))
    measure("rclone serve s3", functools.partial(rclones, kept))
finally:
    shutil.rmtree(scratch)
finish()
