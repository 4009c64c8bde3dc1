"""Uploads by spotter and by other tools: wall time, CPU and memory. Started by bench.sh, which built what is measured.

The CPU of the servers is not counted, but they share the machine: wall times are those of client and server on the same cores.
"""

import functools, os, shutil, statistics, sys

from bench_servers import examples, failed, once, rclones, scratch, sink, tools, verifying

LARGE_BYTES, SMALL_FILES, SMALL_BYTES = 2 << 30, 2000, 64 << 10
# What is promised, as ratios to s5cmd: wall and CPU at most this; a bucket that drops everything shows what the engine can do.
WALL_TARGET, SINK_WALL_TARGET, CPU_TARGET, RSS_TARGET_MIB = 1.0, 1 / 1.5, 0.6, 64
missed = []


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
        ours = medians.get("spotter") if title == "rclone serve s3" else medians.get("spotter, checksum")
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
    measure("spotter-sim, which verifies", functools.partial(verifying, 3 * LARGE_BYTES), 3)
    measure("rclone serve s3", functools.partial(rclones, 3 * LARGE_BYTES), 3)
finally:
    shutil.rmtree(scratch)
for text in failed + [f"missed: {text}" for text in missed]:
    print(text, file=sys.stderr)
sys.exit(1 if failed or missed else 0)
