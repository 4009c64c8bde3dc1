"""Uploads by spotter and by other tools: wall time, CPU and memory. Started by bench.sh, which built what is measured.

The CPU of the servers is not counted, but they share the machine: wall times are those of client and server on the same cores.
"""

import functools, shutil

from bench_servers import examples, finish, judge, once, rclones, scratch, sink, table, tools, verifying, write_workloads

LARGE_BYTES, SMALL_FILES = 2 << 30, 2000
# What is promised, as ratios to s5cmd: wall and CPU at most this; a bucket that drops everything shows what the engine can do.
WALL_TARGET, SINK_WALL_TARGET, CPU_TARGET, RSS_TARGET_MIB = 1.0, 1 / 1.5, 0.6, 64


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
        about = f"medians of {times}; ratios to s5cmd; a program that does nothing has {floor[2]:.0f} MiB here"
        medians = table(f"{what} into {title}", runs, about)
        # The payload mode that the server's own answers allow: a sink takes anything, rclone's checks no checksum.
        is_sink = start is sink
        ours = medians.get("spotter") if title == "rclone serve s3" else medians.get("spotter, checksum")
        base = medians.get("s5cmd")
        if base and ours:
            # Small files are bound by the round trips of whoever is asked.
            wall = SINK_WALL_TARGET if is_sink and number == 1 else WALL_TARGET
            judge(f"{what} into {title}",
                  [("wall", ours[0] / base[0], wall), ("CPU", ours[1] / base[1], CPU_TARGET), ("RSS", ours[2], RSS_TARGET_MIB)])


try:
    write_workloads(LARGE_BYTES, SMALL_FILES)
    measure("a bucket that drops everything", sink, 3)
    measure("spotter-sim, which verifies", functools.partial(verifying, 3 * LARGE_BYTES), 3)
    measure("rclone serve s3", functools.partial(rclones, 3 * LARGE_BYTES), 3)
finally:
    shutil.rmtree(scratch)
finish()
