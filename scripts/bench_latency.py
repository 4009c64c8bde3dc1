"""How long a line that a training prints takes to the laptop's screen: `spotter logs --follow` beside `ssh BOX tail -F` of the same
file, in the same run, over loopback. Called by bench.sh.

    bench_latency.py PROGRAMS [SECONDS]

Every line carries the time at which it was printed; both readers get every line, and each line's age is taken when its last byte
has come out of the reader's pipe."""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

RATES = (10, 10_000)
# Ours does more (a record on the box, a copy on the laptop); what a person feels is promised, and to be near what tail does.
P99_MS = 250

PRINTER = """
import sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
out = sys.stdout
time.sleep(8)  # the readers come
# As trainings print at a high rate: several lines at once, never more than a hundredth of a second late.
batch = max(1, rate // 500)
start = time.monotonic()
number = 0
while number < rate * seconds:
    for _ in range(batch):
        out.write(f"line {number} at {time.time_ns()} step {number}: loss 2.5\\n")
        number += 1
    out.flush()
    time.sleep(max(0.0, start + number / rate - time.monotonic()))
out.write("the end\\n")
out.flush()
"""


class Reader(threading.Thread):
    """Reads a follower's output and keeps the age of each line, in milliseconds."""

    def __init__(self, argv, **how):
        super().__init__()
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, **how)
        self.ages_ms = []
        self.numbers = set()

    def run(self):
        rest = b""
        while chunk := os.read(self.process.stdout.fileno(), 1 << 16):
            now = time.time_ns()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                words = line.split()
                if len(words) > 4 and words[0] == b"line":
                    self.numbers.add(int(words[1]))
                    self.ages_ms.append((now - int(words[3])) / 1e6)
                if line.startswith(b"the end"):
                    return


def row(name, rate, ages_ms):
    ages_ms.sort()
    at = lambda share: ages_ms[min(len(ages_ms) - 1, int(len(ages_ms) * share))]
    print(f"{name}\t{rate}\t{len(ages_ms)}\t{at(0.5):.1f}\t{at(0.95):.1f}\t{at(0.99):.1f}\t{ages_ms[-1]:.1f}", flush=True)
    return statistics.median(ages_ms), at(0.99)


def main():
    programs = pathlib.Path(sys.argv[1]).resolve()
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20
    home = pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir="/tmp"))
    sim = subprocess.Popen(
        [programs / "spotter-sim", "serve", "--with-stdin", "--dir", home / "sim", "--tier", "1", "--time-scale", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    missed = []
    try:
        ready = json.loads(sim.stdout.readline())
        env = dict(os.environ, HOME=str(home), SPOTTER_HOME=str(home / "spotter"), VAST_URL=ready["url"], VAST_API_KEY=ready["api_key"])
        work = home / "work"
        work.mkdir()
        (work / "printer.py").write_text(PRINTER)
        spotter = lambda *arguments: [programs / "spotter", *arguments]
        how = dict(cwd=work, env=env, stdin=subprocess.DEVNULL)
        print("reader\tlines_per_s\tlines\tp50_ms\tp95_ms\tp99_ms\tmax_ms")
        for rate in RATES:
            name = f"lines-{rate}"
            (work / f"{name}.yaml").write_text(
                f'name: {name}\nworkdir: .\nresources: {{accelerators: "RTX 4090:1", disk: 20GB}}\nimage: vastai/pytorch\n'
                f"run: {sys.executable} printer.py {rate} {seconds}\nlimits: {{max_runtime: 1h}}\n"
            )
            started = subprocess.run(spotter("run", f"{name}.yaml", "--detach"), capture_output=True, text=True, **how)
            assert started.returncode == 0, started.stderr
            readers = {
                "spotter logs -f": Reader(spotter("logs", name, "--follow"), **how),
                "ssh tail -F": Reader(spotter("ssh", name, "--", "tail -n +1 -F ~/.spotter/sessions/train*/log"), **how),
            }
            for reader in readers.values():
                reader.start()
            medians = {}
            for who, reader in readers.items():
                reader.join(seconds + 60)
                assert not reader.is_alive(), f"{who} did not see the end"
                assert len(reader.numbers) == rate * seconds, f"{who} saw {len(reader.numbers)} of {rate * seconds:.0f} lines"
                medians[who] = row(who, rate, reader.ages_ms)
                reader.process.terminate()
                reader.process.wait()
            (ours, ours_p99), (theirs, _) = medians["spotter logs -f"], medians["ssh tail -F"]
            print(f"at {rate} lines/s spotter is {ours - theirs:+.1f} ms (median) of ssh tail -F")
            if ours_p99 > P99_MS:
                missed.append(f"p99 of {ours_p99:.0f} ms at {rate} lines/s is over {P99_MS} ms")
            subprocess.run(spotter("destroy", name, "--lose-data"), capture_output=True, **how)
    finally:
        sim.stdin.close()
        sim.wait()
        shutil.rmtree(home)
    for text in missed:
        print(f"MISSED: {text}")
    sys.exit(1 if missed else 0)


main()
