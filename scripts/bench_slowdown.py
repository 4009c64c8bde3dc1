"""What a training feels of an upload: the time of a numpy loop, alone and beside an upload without end, in turns. Started by bench.sh.

Twice: with one loop, which leaves a core to the upload, and with a loop on every core, which leaves it nothing. The server, which belongs to another machine, has the lowest
priority too; what the kernel does for its end of the connection is on us.
"""

import json, multiprocessing, os, pathlib, shutil, statistics, subprocess, sys, tempfile, time, urllib.request

# One loop is one core.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy

target, examples = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
scratch = pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir=os.environ.get("TMPDIR", "/tmp")))
TURNS, SECONDS = 8, 2.0


def train(seconds):
    """Steps per second of a loop that multiplies matrices: what a data loader or a step on the CPU does."""
    a = numpy.random.default_rng(1).standard_normal((256, 256), dtype=numpy.float32)
    b, steps, began = a.copy(), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        b = numpy.tanh(a @ b / 16)
        steps += 1
    return steps / (time.perf_counter() - began)


def upload(url, stop):
    """Uploads the same file again and again until it is told to stop; how much went."""
    env = dict(os.environ, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", TMPDIR=str(scratch))
    while not stop.is_set():
        saving = subprocess.Popen([examples / "save", scratch / "large", url, "runs"], env=env)
        while saving.poll() is None and not stop.is_set():
            time.sleep(0.02)
        if saving.poll() is None:
            saving.kill()
        saving.wait()


def bytes_in(url):
    with urllib.request.urlopen(f"{url}/?bytes") as answer:
        return int(answer.read())


def lease():
    return subprocess.run([examples / "lease"], check=True, capture_output=True, text=True).stdout.strip()


try:
    (scratch / "large").mkdir()
    with open(scratch / "large/step_1.bin", "wb") as file:
        for _ in range(64):
            file.write(os.urandom(32 << 20))
    sink = subprocess.Popen(["nice", "-n", "19", target / "release/spotter-sim", "sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = json.loads(sink.stdout.readline())["url"]
        print(f"alone: {lease()}", flush=True)
        for loops in dict.fromkeys((1, os.cpu_count())):
            with multiprocessing.Pool(loops) as pool:
                pool.map(train, [0.5] * loops, 1)
                alone, beside, sent = [], [], 0
                for turn in range(TURNS):
                    alone.append(sum(pool.map(train, [SECONDS] * loops, 1)))
                    stop = multiprocessing.Event()
                    uploading = multiprocessing.Process(target=upload, args=(url, stop))
                    uploading.start()
                    time.sleep(0.3)
                    sent -= bytes_in(url)
                    beside.append(sum(pool.map(train, [SECONDS] * loops, 1)))
                    sent += bytes_in(url)
                    stop.set()
                    uploading.join()
                slower = [100 * (1 - with_it / without) for without, with_it in zip(alone, beside)]
                print(f"{loops} loop(s) on {os.cpu_count()} cores: {statistics.median(alone):.0f} steps/s alone, {statistics.median(beside):.0f} beside an "
                      f"upload: slower by {statistics.median(slower):.1f} % (median of {TURNS} pairs, {min(slower):.1f} to {max(slower):.1f} %), which went at {sent / TURNS / SECONDS / 1e6:.0f} MB/s", flush=True)
                stop = multiprocessing.Event()
                uploading = multiprocessing.Process(target=upload, args=(url, stop))
                uploading.start()
                training = pool.map_async(train, [4.0] * loops, 1)
                time.sleep(0.5)
                print(f"beside both: {lease()}", flush=True)
                training.wait()
                stop.set()
                uploading.join()
    finally:
        sink.stdin.close()
        sink.wait()
finally:
    shutil.rmtree(scratch)
